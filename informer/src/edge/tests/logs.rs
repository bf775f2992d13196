use super::*;
use tonic::Code;
use v1::LogStream::{Err as Stderr, Out as Stdout};

/// An upload to one request.
struct Upload {
    out: mpsc::Sender<v1::LogUpload>,
    answer: tokio::task::JoinHandle<Result<(), Status>>,
    request: u64,
}

impl Upload {
    fn begin(sidecar: &Sidecar, request: u64) -> Self {
        let (out, pieces) = mpsc::channel(1);
        let mut client = sidecar.client.clone();
        let answer = tokio::spawn(async move { client.send_log(ReceiverStream::new(pieces)).await.map(|_| ()) });
        Self { out, answer, request }
    }

    async fn send(&self, stream: v1::LogStream, offset: u64, data: &str) {
        let data = data.as_bytes().to_vec().into();
        let piece = v1::LogUpload { request: self.request, stream: stream.into(), offset, data, ..Default::default() };
        self.out.send(piece).await.expect("the upload is open");
    }

    async fn end(self) {
        let last = v1::LogUpload { request: self.request, end: true, ..Default::default() };
        self.out.send(last).await.expect("the upload is open");
        self.answer.await.unwrap().expect("it is taken");
    }
}

async fn follow(world: &mut World, id: &str) -> Streaming<v1::LogsChunk> {
    let request = v1::LogsRequest { id: id.to_owned(), follow: true, ..Default::default() };
    world.client.logs(request).await.unwrap().into_inner()
}

async fn chunk(logs: &mut Streaming<v1::LogsChunk>) -> (u32, v1::LogStream, u64, String, bool) {
    let chunk = timeout(PATIENCE, logs.message()).await.expect("in time").expect("no error").expect("it goes on");
    let text = String::from_utf8(chunk.data.to_vec()).unwrap();
    (chunk.attempt, chunk.stream(), chunk.offset, text, chunk.end)
}

#[tokio::test]
async fn bytes_arrive_once_across_a_broken_upload() {
    let mut world = World::new().await;
    let id = world.submit("talks").await;
    let mut logs = follow(&mut world, &id).await;
    let mut sidecar = world.sidecar().await;
    let assign = sidecar.take().await;

    let asked = sidecar.log_request().await;
    assert_eq!((asked.out_offset, asked.err_offset, asked.follow, asked.cancel), (0, 0, true, false));
    let upload = Upload::begin(&sidecar, asked.request);
    upload.send(Stdout, 0, "hello ").await;
    upload.send(Stderr, 0, "oops").await;
    assert_eq!(chunk(&mut logs).await, (1, Stdout, 0, "hello ".to_owned(), false));
    assert_eq!(chunk(&mut logs).await, (1, Stderr, 0, "oops".to_owned(), false));
    drop(upload);

    let asked = sidecar.log_request().await;
    assert_eq!((asked.out_offset, asked.err_offset), (6, 4), "from where the reader is");
    let upload = Upload::begin(&sidecar, asked.request);
    upload.send(Stdout, 3, "lo world").await;
    assert_eq!(chunk(&mut logs).await, (1, Stdout, 6, "world".to_owned(), false), "what is known is cut off");
    upload.send(Stdout, 100, "later").await;
    assert_eq!(chunk(&mut logs).await, (1, Stdout, 100, "later".to_owned(), false), "a gap is told");
    sidecar.finish(&assign, 0).await;
    upload.end().await;
    let (attempt, .., end) = chunk(&mut logs).await;
    assert_eq!((attempt, end), (1, true));
    assert!(timeout(PATIENCE, logs.message()).await.expect("in time").unwrap().is_none());
}

#[tokio::test]
async fn a_follower_goes_on_with_the_retry() {
    let mut world = World::new().await;
    let retry = v1::Retry { max_attempts: 2, backoff_ms: 1, ..Default::default() };
    let spec = v1::TaskSpec { retry: Some(retry), ..command("twice") };
    let request = v1::SubmitRequest { spec: Some(spec), key: String::new() };
    let id = world.client.submit(request).await.unwrap().into_inner().id;
    let mut logs = follow(&mut world, &id).await;
    let mut sidecar = world.sidecar().await;
    for attempt in 1..=2 {
        let assign = sidecar.take().await;
        let asked = sidecar.log_request().await;
        assert_eq!((asked.attempt.map(|id| id.number), asked.out_offset), (Some(attempt), 0));
        let upload = Upload::begin(&sidecar, asked.request);
        upload.send(Stdout, 0, "again").await;
        sidecar.finish(&assign, 1).await;
        upload.end().await;
        assert_eq!(chunk(&mut logs).await, (attempt, Stdout, 0, "again".to_owned(), false));
        assert!(chunk(&mut logs).await.4, "the end of attempt {attempt}");
    }
    assert!(timeout(PATIENCE, logs.message()).await.expect("in time").unwrap().is_none());
}

#[tokio::test]
async fn a_follower_survives_a_reconnect() {
    let mut world = World::new().await;
    let id = world.submit("talks").await;
    let mut logs = follow(&mut world, &id).await;
    let mut sidecar = world.sidecar().await;
    let assign = sidecar.take().await;
    let asked = sidecar.log_request().await;
    let upload = Upload::begin(&sidecar, asked.request);
    upload.send(Stdout, 0, "one").await;
    assert_eq!(chunk(&mut logs).await.3, "one");
    drop((upload, sidecar));

    let mut sidecar = Sidecar::connect(&world.channel).await;
    let held = v1::HeldAttempt {
        attempt: assign.attempt,
        fence: assign.fence,
        state: v1::HeldState::Running.into(),
        started_unix_ms: 1,
        ..Default::default()
    };
    sidecar.say(Said::Hello(v1::Hello { incarnation: 2, inventory_parts: 1, ..hello() })).await;
    sidecar.say(Said::Inventory(v1::Inventory { attempts: vec![held] })).await;
    let asked = sidecar.log_request().await;
    assert_eq!(asked.out_offset, 3);
    let upload = Upload::begin(&sidecar, asked.request);
    upload.send(Stdout, 3, "two").await;
    assert_eq!(chunk(&mut logs).await, (1, Stdout, 3, "two".to_owned(), false));
}

#[tokio::test]
async fn a_reader_that_leaves_is_taken_back() {
    let mut world = World::new().await;
    let id = world.submit("talks").await;
    let mut sidecar = world.sidecar().await;
    sidecar.take().await;
    let mut watch = world.watch(&id).await;
    until(&mut watch, v1::TaskState::Running).await;
    let logs = follow(&mut world, &id).await;
    let asked = sidecar.log_request().await;
    let upload = Upload::begin(&sidecar, asked.request);
    upload.send(Stdout, 0, "x").await;
    drop(logs);
    let cancel = sidecar.log_request().await;
    assert_eq!((cancel.request, cancel.cancel), (asked.request, true));
    let refused = timeout(PATIENCE, upload.answer).await.expect("in time").unwrap().unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::NotFound, "no_reader"));
}

#[tokio::test]
async fn what_cannot_be_read_says_why() {
    let mut world = World::new().await;
    let id = world.submit("talks").await;
    let once = v1::LogsRequest { id: id.clone(), ..Default::default() };
    let mut logs = world.client.logs(once.clone()).await.unwrap().into_inner();
    let early = logs.message().await.unwrap_err();
    assert_eq!((early.code(), code(&early).as_str()), (Code::FailedPrecondition, "not_started"));

    let mut sidecar = world.sidecar().await;
    sidecar.take().await;
    let mut watch = world.watch(&id).await;
    until(&mut watch, v1::TaskState::Running).await;
    let mut logs = world.client.logs(once.clone()).await.unwrap().into_inner();
    let asked = sidecar.log_request().await;
    let failure = v1::LogUpload { request: asked.request, failure: "purged".to_owned(), ..Default::default() };
    Upload::begin(&sidecar, asked.request).out.send(failure).await.unwrap();
    let gone = timeout(PATIENCE, logs.message()).await.expect("in time").unwrap_err();
    assert_eq!((gone.code(), code(&gone).as_str()), (Code::NotFound, "log_gone"));
    assert!(gone.message().contains("purged"));

    // A second hello has no place on the link: it ends.
    sidecar.say(Said::Hello(hello())).await;
    sidecar.end().await;
    let mut logs = world.client.logs(once).await.unwrap().into_inner();
    let unlinked = timeout(PATIENCE, logs.message()).await.expect("in time").unwrap_err();
    assert_eq!((unlinked.code(), code(&unlinked).as_str()), (Code::Unavailable, "unlinked"));
}

#[tokio::test]
async fn an_upload_that_nobody_asked_for_is_refused() {
    let world = World::new().await;
    let sidecar = world.sidecar().await;
    let upload = Upload::begin(&sidecar, 7);
    upload.send(Stdout, 0, "x").await;
    let refused = timeout(PATIENCE, upload.answer).await.expect("in time").unwrap().unwrap_err();
    assert_eq!(code(&refused), "no_reader");
}

#[tokio::test]
async fn readers_are_bounded() {
    let mut world = World::new().await;
    let id = world.submit("waits").await;
    let mut readers = Vec::new();
    for _ in 0..proto::bounds::LOG_READERS {
        readers.push(follow(&mut world, &id).await);
    }
    let request = v1::LogsRequest { id, follow: true, ..Default::default() };
    let refused = world.client.logs(request).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::ResourceExhausted, "log_readers"));
    assert!(refused.get_details_retry_info().is_some());
}
