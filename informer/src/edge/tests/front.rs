use super::*;
use crate::server::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

/// Says something and hears the answer until the server closes the connection.
pub(super) async fn dialogue(world: &World, said: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.server.addr()).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut heard = Vec::new();
    // A reset is an end as good as another.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.expect("the server closes");
    String::from_utf8_lossy(&heard).into_owned()
}

pub(super) async fn get(world: &World, path: &str) -> String {
    dialogue(world, format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await
}

#[tokio::test]
async fn http_has_two_pages_and_a_real_404() {
    let world = World::new().await;
    let index = get(&world, "/").await;
    assert!(index.starts_with("HTTP/1.1 200") && index.contains("informer"), "{index}");
    assert!(get(&world, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&world, "/nope").await.starts_with("HTTP/1.1 404"));
    assert!(
        get(&world, "/informer.v1.Informer/Get").await.starts_with("HTTP/1.1 404"),
        "no gRPC without its content type"
    );
    let old = "POST /informer.v1.Informer/Get HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(dialogue(&world, old.as_bytes()).await.starts_with("HTTP/1.1 505"));
}

#[tokio::test]
async fn garbage_costs_only_its_connection() {
    let mut world = World::new().await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand then nonsense that is no frame at all ...........",
    ] {
        dialogue(&world, garbage).await;
        world.client.identity(v1::IdentityRequest {}).await.expect("others do not notice");
    }
}

#[tokio::test]
async fn an_oversize_message_is_refused() {
    let mut world = World::new().await;
    let mut spec = command("big");
    spec.cwd = "x".repeat(proto::bounds::MESSAGE_BYTES + 1);
    let refused = world.client.submit(v1::SubmitRequest { spec: Some(spec), key: String::new() }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    world.client.identity(v1::IdentityRequest {}).await.expect("the connection goes on");
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let world = World::new().await;
    for service in ["", "informer.v1.Informer", "informer.v1.SidecarLink"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let health = HealthClient::new(world.channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(health.status(), tonic_health::pb::health_check_response::ServingStatus::Serving, "{service:?}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = tokio_stream::iter([request]);
    let mut reflection = ServerReflectionClient::new(world.channel.clone());
    let mut answers = reflection.server_reflection_info(asked).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("no list: {answer:?}") };
    assert!(list.service.iter().any(|service| service.name == "informer.v1.Informer"), "{list:?}");
}

#[tokio::test]
async fn a_stop_ends_streams_and_frees_port_and_directory() {
    let mut world = World::new().await;
    let id = world.submit("waits").await;
    let mut watch = world.watch(&id).await;
    let mut sidecar = world.sidecar().await;
    sidecar.beat(1).await;
    until(&mut watch, v1::TaskState::Assigned).await;
    let addr = world.server.addr();
    world.server.stop().await;
    let end = watch.message().await.unwrap_err();
    assert_eq!((end.code(), code(&end).as_str()), (tonic::Code::Unavailable, "stopping"));
    assert_eq!(sidecar.end().await.map(|status| status.code()), Some(tonic::Code::Unavailable));
    let again = Options { listen: addr, ..options(&world.data) };
    Server::start(again).await.expect("port and directory are free").stop().await;
}

#[tokio::test]
async fn a_start_that_cannot_be_says_why() {
    let world = World::new().await;
    let data = Data::new();
    let taken = Server::start(Options { listen: world.server.addr(), ..options(&data) }).await;
    let port = world.server.addr().port().to_string();
    match taken {
        Err(error @ Error::InUse { .. }) => assert!(error.to_string().contains(&port), "{error}"),
        other => panic!("{:?}", other.err()),
    }
    let open = Server::start(Options { listen: "0.0.0.0:0".parse().unwrap(), ..options(&data) }).await;
    assert!(matches!(&open, Err(error @ Error::Open { .. }) if error.to_string().contains("TLS")));
    let hasty = Server::start(Options { beat_ms: 1, ..options(&data) }).await;
    assert!(matches!(hasty, Err(Error::Option { option: "beat_ms", .. })));
    let second = Server::start(options(&world.data)).await;
    assert!(matches!(second, Err(Error::Store(_))), "a data directory has one owner");
}
