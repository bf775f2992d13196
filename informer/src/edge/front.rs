//! Who may call, and the choice between gRPC and HTTP. Merging tonic's routes into axum would answer unknown paths with 200 and a
//! gRPC status; so the content type decides before any routing. Every request of either kind passes the one check here.

use super::tls::{Caller, Guard};
use super::{Edge, client, error, http as plain, link, rest, workflow};
use axum::body::Body;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use proto::bounds::MESSAGE_BYTES;
use proto::v1::informer_server::InformerServer;
use proto::v1::sidecar_link_server::SidecarLinkServer;
use proto::v1::workflow_service_server::WorkflowServiceServer;
use std::convert::Infallible;
use std::sync::Arc;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;
use tower::ServiceExt as _;

/// What only a sidecar calls.
const LINK: &str = "/informer.v1.SidecarLink/";

/// The routes of one informer. Cheap to clone: one clone a connection.
#[derive(Clone)]
pub(crate) struct Front {
    grpc: Routes,
    http: axum::Router,
    guard: Arc<Guard>,
}

/// The reflection service could not be made of our own descriptors: a broken build.
#[derive(Debug, thiserror::Error)]
#[error("the schema's descriptors cannot be served: {0}")]
pub(crate) struct Error(#[from] tonic_reflection::server::Error);

impl Front {
    /// All services over `edge`. The reporter announces the end.
    pub(crate) async fn new(edge: Edge, guard: Arc<Guard>) -> Result<(Self, HealthReporter), Error> {
        let client = InformerServer::new(client::Client::new(edge.clone(), Arc::clone(&guard)))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let workflows = WorkflowServiceServer::new(workflow::Workflows::new(edge.clone()))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let http = plain::router(edge.clone(), Arc::clone(&guard));
        let link = SidecarLinkServer::new(link::Links::new(edge))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_serving::<InformerServer<client::Client>>().await;
        reporter.set_serving::<WorkflowServiceServer<workflow::Workflows>>().await;
        reporter.set_serving::<SidecarLinkServer<link::Links>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let grpc = Routes::new(client)
            .add_service(workflows)
            .add_service(link)
            .add_service(health)
            .add_service(reflection)
            .prepare();
        Ok((Self { grpc, http, guard }, reporter))
    }

    /// Answers one request, if its caller may have an answer. Services find the [`Caller`] in the request's extensions.
    pub(super) async fn serve(self, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let grpc = is_grpc(&request);
        let caller = match self.guard.admit(request.headers()) {
            Ok(caller) => caller,
            Err(_) if is_open(request.uri().path(), grpc) => Caller::Anyone,
            Err(refusal) if grpc => {
                if request.uri().path().starts_with(LINK) {
                    self.guard.turn_away();
                }
                return Ok(tonic::Status::from(error::Error::from(refusal)).into_http());
            }
            Err(_) => return Ok(unauthorized()),
        };
        request.extensions_mut().insert(caller);
        if !grpc {
            return self.http.oneshot(request.map(Body::new)).await;
        }
        if request.version() != Version::HTTP_2 {
            return Ok(plain::line(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2\n"));
        }
        Ok(self.grpc.oneshot(request).await?.map(Body::new))
    }
}

/// What those ask who have no token: a balancer, which learns nothing but "alive", and a remote service that was given an attempt's own
/// URL to report at. And whoever shows the token itself to have it confirmed.
fn is_open(path: &str, grpc: bool) -> bool {
    if grpc {
        path.starts_with("/grpc.health.v1.Health/")
    } else {
        path == "/healthz" || path == rest::TOKEN || path.starts_with(plain::CALLBACK)
    }
}

fn unauthorized() -> Response<Body> {
    let text = "this informer wants its token: send `authorization: Bearer TOKEN` [unauthenticated]\n";
    let mut response = plain::line(StatusCode::UNAUTHORIZED, text);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// Tells the health service's watchers that we are stopping.
pub(crate) async fn announce_stop(reporter: &HealthReporter) {
    reporter.set_not_serving::<InformerServer<client::Client>>().await;
    reporter.set_not_serving::<WorkflowServiceServer<workflow::Workflows>>().await;
    reporter.set_not_serving::<SidecarLinkServer<link::Links>>().await;
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
}

fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
