use super::*;
use tonic::Code;
use v1::LogStream::{Err as Stderr, Out as Stdout};

/// A sidecar's stream of logs to be kept.
struct Storing {
    out: mpsc::Sender<v1::LogPart>,
    answers: Streaming<v1::LogStored>,
}

impl Storing {
    async fn begin(sidecar: &Sidecar) -> Self {
        let (out, parts) = mpsc::channel(8);
        let answers = sidecar.client.clone().store_logs(ReceiverStream::new(parts)).await.expect("it is taken");
        Self { out, answers: answers.into_inner() }
    }

    async fn part(&self, assign: &v1::Assign, part: v1::LogPart) {
        let part = v1::LogPart { attempt: assign.attempt.clone(), fence: assign.fence, ..part };
        self.out.send(part).await.expect("the stream is open");
    }

    async fn data(&self, assign: &v1::Assign, stream: v1::LogStream, data: &[u8]) {
        let data = data.to_vec().into();
        self.part(assign, v1::LogPart { stream: stream.into(), data, ..Default::default() }).await;
    }

    async fn end(&self, assign: &v1::Assign) {
        self.part(assign, v1::LogPart { end: true, ..Default::default() }).await;
    }

    /// The failure of the next answer, which is about this attempt.
    async fn answer(&mut self, assign: &v1::Assign) -> String {
        let stored = timeout(PATIENCE, self.answers.message()).await.expect("in time").expect("no error");
        let stored = stored.expect("the stream goes on");
        assert_eq!(stored.attempt, assign.attempt);
        stored.failure
    }
}

/// A task that ran to its end, told by a sidecar that then leaves.
async fn ended(world: &mut World, sidecar: &mut Sidecar, name: &str) -> (String, v1::Assign) {
    let id = world.submit(name).await;
    let assign = sidecar.take().await;
    let mut watch = world.watch(&id).await;
    let ending = v1::Ending { exit_code: Some(0), started_unix_ms: 1, out_bytes: 9, ..Default::default() };
    sidecar.report(&assign, v1::report::What::Ended(ending)).await;
    until(&mut watch, v1::TaskState::Succeeded).await;
    (id, assign)
}

async fn leave(world: &World, sidecar: Sidecar) {
    drop(sidecar);
    loop {
        let all = v1::SidecarsRequest { all: true };
        let known = world.client.clone().sidecars(all).await.unwrap().into_inner().sidecars;
        if known.iter().all(|sidecar| sidecar.state() != v1::SidecarState::Live) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Everything a reader gets: chunks, then the status that ended it.
async fn read(world: &mut World, request: v1::LogsRequest) -> (Vec<v1::LogsChunk>, Option<Status>) {
    let mut logs = world.client.logs(request).await.unwrap().into_inner();
    let mut chunks = Vec::new();
    loop {
        match timeout(PATIENCE, logs.message()).await.expect("in time") {
            Ok(Some(chunk)) => chunks.push(chunk),
            Ok(None) => return (chunks, None),
            Err(status) => return (chunks, Some(status)),
        }
    }
}

fn bytes(chunks: &[v1::LogsChunk], stream: v1::LogStream) -> Vec<u8> {
    chunks.iter().filter(|chunk| chunk.stream() == stream).flat_map(|chunk| chunk.data.to_vec()).collect()
}

#[tokio::test]
async fn a_stored_log_is_read_when_its_sidecar_is_gone() {
    let mut world = World::new().await;
    let mut sidecar = world.sidecar().await;
    let (id, assign) = ended(&mut world, &mut sidecar, "talks").await;
    let mut storing = Storing::begin(&sidecar).await;
    let out: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 253) as u8).collect();
    for piece in out.chunks(proto::bounds::LOG_PART_BYTES) {
        storing.data(&assign, Stdout, piece).await;
    }
    storing.data(&assign, Stderr, b"oh").await;
    storing.part(&assign, v1::LogPart { end: true, err_dropped: 7, out_truncated: true, ..Default::default() }).await;
    assert_eq!(storing.answer(&assign).await, "");
    leave(&world, sidecar).await;

    let whole = v1::LogsRequest { id: id.clone(), ..Default::default() };
    let (chunks, status) = read(&mut world, whole.clone()).await;
    assert!(status.is_none(), "{status:?}");
    assert!(bytes(&chunks, Stdout) == out && bytes(&chunks, Stderr) == b"oh");
    assert!(chunks.iter().all(|chunk| chunk.data.len() <= proto::bounds::LOG_CHUNK_BYTES));
    let first_err = chunks.iter().find(|chunk| chunk.stream() == Stderr).unwrap();
    assert_eq!(first_err.offset, 7);
    let [.., cut, end] = &chunks[..] else { panic!("{} chunks", chunks.len()) };
    assert_eq!((cut.stream(), cut.offset, cut.truncated), (Stdout, 2_000_000, true));
    assert!(end.end && end.attempt == 1);

    let later = v1::LogsRequest { out_offset: 1_500_000, only: Stdout.into(), follow: true, ..whole };
    let (chunks, status) = read(&mut world, later).await;
    assert!(status.is_none(), "{status:?}");
    assert!(bytes(&chunks, Stdout) == out[1_500_000..] && bytes(&chunks, Stderr).is_empty());
    assert_eq!(chunks[0].offset, 1_500_000);
}

#[tokio::test]
async fn what_the_sidecar_removed_is_read_from_the_copy() {
    let mut world = World::new().await;
    let mut sidecar = world.sidecar().await;
    let (id, assign) = ended(&mut world, &mut sidecar, "talks").await;
    let mut storing = Storing::begin(&sidecar).await;
    storing.data(&assign, Stdout, b"kept").await;
    storing.end(&assign).await;
    assert_eq!(storing.answer(&assign).await, "");
    let mut logs = world.client.logs(v1::LogsRequest { id, ..Default::default() }).await.unwrap().into_inner();
    let asked = sidecar.log_request().await;
    let failure = v1::LogUpload { request: asked.request, failure: "purged".to_owned(), ..Default::default() };
    sidecar.client.send_log(tokio_stream::once(failure)).await.expect("it is taken");
    let chunk = timeout(PATIENCE, logs.message()).await.expect("in time").unwrap().expect("a chunk");
    assert_eq!((chunk.offset, &chunk.data[..]), (0, &b"kept"[..]));
}

#[tokio::test]
async fn an_empty_log_needs_no_copy_and_one_that_was_not_stored_is_missed() {
    let mut world = World::new().await;
    let mut sidecar = world.sidecar().await;
    let (loud, _) = ended(&mut world, &mut sidecar, "loud").await;
    let quiet = world.submit("quiet").await;
    let assign = sidecar.take().await;
    let mut watch = world.watch(&quiet).await;
    sidecar.finish(&assign, 0).await;
    until(&mut watch, v1::TaskState::Succeeded).await;
    leave(&world, sidecar).await;
    let (chunks, status) = read(&mut world, v1::LogsRequest { id: quiet, ..Default::default() }).await;
    assert!(status.is_none() && chunks.len() == 1 && chunks[0].end, "{chunks:?} {status:?}");
    let (_, status) = read(&mut world, v1::LogsRequest { id: loud, ..Default::default() }).await;
    let status = status.expect("it cannot be read");
    assert_eq!((status.code(), code(&status).as_str()), (Code::Unavailable, "unlinked"));
}

#[tokio::test]
async fn what_nobody_can_ask_for_is_taken_and_forgotten_and_a_wrong_fence_refused() {
    let mut world = World::new().await;
    let mut sidecar = world.sidecar().await;
    let (id, assign) = ended(&mut world, &mut sidecar, "talks").await;
    let mut storing = Storing::begin(&sidecar).await;
    let pruned = v1::AttemptId { task: "0192f3c4-5b6d-7e8f-9a0b-000000000000".to_owned(), number: 1 };
    let strange = v1::Assign { attempt: Some(pruned), ..assign.clone() };
    storing.data(&strange, Stdout, b"x").await;
    storing.end(&strange).await;
    assert_eq!(storing.answer(&strange).await, "");
    let older = v1::Assign { fence: Some(v1::Fence { epoch: 0, n: 0 }), ..assign.clone() };
    storing.data(&older, Stdout, b"wrong").await;
    storing.end(&older).await;
    assert!(storing.answer(&older).await.contains("fence"));
    storing.data(&assign, Stdout, b"right").await;
    storing.end(&assign).await;
    assert_eq!(storing.answer(&assign).await, "");
    leave(&world, sidecar).await;
    let (chunks, _) = read(&mut world, v1::LogsRequest { id, ..Default::default() }).await;
    assert_eq!(bytes(&chunks, Stdout), b"right");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_answered_and_the_log_may_come_again() {
    let mut world = World::new().await;
    let mut sidecar = world.sidecar().await;
    let (_, assign) = ended(&mut world, &mut sidecar, "talks").await;
    let parts = world.data.0.join("logs/parts");
    std::fs::remove_dir(&parts).unwrap();
    std::fs::write(&parts, b"in the way").unwrap();
    let mut storing = Storing::begin(&sidecar).await;
    storing.data(&assign, Stdout, b"x").await;
    assert!(storing.answer(&assign).await.contains("logs/parts"), "it says what failed, before the end");
    storing.data(&assign, Stdout, b"more").await;
    storing.end(&assign).await;
    std::fs::remove_file(&parts).unwrap();
    std::fs::create_dir(&parts).unwrap();
    storing.data(&assign, Stdout, b"x").await;
    storing.end(&assign).await;
    assert_eq!(storing.answer(&assign).await, "");
}

#[tokio::test]
async fn streams_of_logs_are_bounded() {
    let world = World::new().await;
    let mut sidecar = world.sidecar().await;
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(Storing::begin(&sidecar).await);
    }
    let refused = sidecar.client.store_logs(tokio_stream::pending()).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused).as_str()), (Code::ResourceExhausted, "busy"));
}
