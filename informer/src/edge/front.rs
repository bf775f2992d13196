//! The choice between gRPC and HTTP. Merging tonic's routes into axum would answer unknown paths with 200 and a gRPC status; so
//! the content type decides before any routing.

use super::{Edge, client, http as plain, link};
use axum::body::Body;
use http::{Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use hyper::body::Incoming;
use proto::bounds::MESSAGE_BYTES;
use proto::v1::informer_server::InformerServer;
use proto::v1::sidecar_link_server::SidecarLinkServer;
use std::convert::Infallible;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tower::ServiceExt as _;

/// The routes of one informer. Cheap to clone: one clone a connection.
#[derive(Clone)]
pub(crate) struct Front {
    grpc: Routes,
    http: axum::Router,
}

/// The reflection service could not be made of our own descriptors: a broken build.
#[derive(Debug, thiserror::Error)]
#[error("the schema's descriptors cannot be served: {0}")]
pub(crate) struct Error(#[from] tonic_reflection::server::Error);

impl Front {
    /// All services over `edge`. The reporter announces the end.
    pub(crate) async fn new(edge: Edge) -> Result<(Self, HealthReporter), Error> {
        let client = InformerServer::new(client::Client::new(edge.clone()))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let http = plain::router(edge.clone());
        let link = SidecarLinkServer::new(link::Links::new(edge))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<InformerServer<client::Client>>().await;
        reporter.set_serving::<SidecarLinkServer<link::Links>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let grpc = Routes::new(client).add_service(link).add_service(health).add_service(reflection).prepare();
        Ok((Self { grpc, http }, reporter))
    }

    /// Answers one request.
    pub(super) async fn serve(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        if !is_grpc(&request) {
            return self.http.oneshot(request.map(Body::new)).await;
        }
        if request.version() != Version::HTTP_2 {
            return Ok(plain::line(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2\n"));
        }
        Ok(self.grpc.oneshot(request).await?.map(Body::new))
    }
}

/// Tells the health service's watchers that we are stopping.
pub(crate) async fn announce_stop(reporter: &HealthReporter) {
    reporter.set_not_serving::<InformerServer<client::Client>>().await;
    reporter.set_not_serving::<SidecarLinkServer<link::Links>>().await;
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
