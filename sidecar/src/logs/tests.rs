//! Byte-exact, against a fake informer that keeps what it is sent.

use super::*;
use bytes::Bytes;
use keeper::wire;
use proto::v1::sidecar_link_server::{SidecarLink, SidecarLinkServer};
use rustix::fs::{FallocateFlags, fallocate};
use std::{fs, io::Write as _, pin::Pin};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

fn channel(url: &str) -> Channel {
    let dial = proto::dial::Dial::new(url.parse().expect("a URL"), proto::dial::Access::default()).expect("no files");
    dial.connect_lazy(&dial.endpoint())
}

/// Hands every upload to the test; a closed receiver is a reader that went away.
struct Informer(mpsc::Sender<v1::LogUpload>);

#[tonic::async_trait]
impl SidecarLink for Informer {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::InformerMessage, Status>> + Send>>;

    type StoreLogsStream = tokio_stream::Empty<Result<proto::v1::LogStored, Status>>;

    async fn store_logs(
        &self,
        _: Request<Streaming<proto::v1::LogPart>>,
    ) -> Result<Response<Self::StoreLogsStream>, Status> {
        Err(Status::unimplemented("no part of this story"))
    }

    async fn link(&self, _: Request<Streaming<v1::SidecarMessage>>) -> Result<Response<Self::LinkStream>, Status> {
        Err(Status::unimplemented("only logs here"))
    }

    async fn send_log(
        &self,
        request: Request<Streaming<v1::LogUpload>>,
    ) -> Result<Response<v1::LogUploadDone>, Status> {
        let mut uploads = request.into_inner();
        while let Some(upload) = uploads.message().await? {
            if self.0.send(upload).await.is_err() {
                break;
            }
        }
        Ok(Response::new(v1::LogUploadDone {}))
    }
}

/// An attempt's directory, an informer, and the sending in between.
struct World {
    dir: PathBuf,
    channel: Channel,
    uploads: mpsc::Receiver<v1::LogUpload>,
    ended: watch::Sender<Option<Final>>,
    serving: JoinHandle<()>,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.serving.abort();
        let _gone = fs::remove_dir_all(&self.dir);
    }
}

impl World {
    async fn new(label: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("logs-{}-{label}", std::process::id()));
        let _stale = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a temporary directory");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (sender, uploads) = mpsc::channel(1);
        let server = Server::builder().add_service(SidecarLinkServer::new(Informer(sender)));
        let serving = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serves");
        });
        let channel = channel(&format!("http://{address}"));
        Self { dir, channel, uploads, ended: watch::channel(None).0, serving, out: Vec::new(), err: Vec::new() }
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        let path = self.dir.join(file);
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("a log");
        file.write_all(bytes).expect("written");
    }

    fn source(&self) -> Source {
        Source { attempt_dir: self.dir.clone(), head_cap_bytes: u64::MAX }
    }

    fn serve(&self, request: v1::LogRequest) -> JoinHandle<Result<(), Error>> {
        self.serve_from(request, self.source())
    }

    fn serve_from(&self, request: v1::LogRequest, source: Source) -> JoinHandle<Result<(), Error>> {
        let request = v1::LogRequest { request: 42, ..request };
        tokio::spawn(serve(self.channel.clone(), request, source, self.ended.subscribe()))
    }

    /// The next upload; bytes are checked for order and collected.
    async fn next(&mut self) -> v1::LogUpload {
        let mut upload = self.uploads.recv().await.expect("an upload");
        proto::check::upload(&mut upload).expect("the informer takes it");
        assert_eq!(upload.request, 42);
        assert!(upload.data.len() <= proto::bounds::LOG_CHUNK_BYTES);
        match upload.stream() {
            LogStream::Out => self.out.extend_from_slice(&upload.data),
            LogStream::Err => self.err.extend_from_slice(&upload.data),
            LogStream::Unspecified => assert!(upload.data.is_empty()),
        }
        upload
    }

    async fn until_end(&mut self) -> v1::LogUpload {
        loop {
            let upload = self.next().await;
            if upload.end || !upload.failure.is_empty() {
                return upload;
            }
        }
    }
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

#[tokio::test]
async fn both_streams_arrive_byte_for_byte() {
    let mut world = World::new("exact").await;
    let (out, err) = (pattern(1_000_003, 1), pattern(200_001, 2));
    world.write("out", &out);
    world.write("err", &err);
    let sending = world.serve(v1::LogRequest::default());
    let end = world.until_end().await;
    sending.await.expect("no panic").expect("sent");
    assert_eq!((world.out == out, world.err == err, end.truncated), (true, true, false));
}

#[tokio::test]
async fn offsets_and_one_stream_are_respected() {
    let mut world = World::new("offsets").await;
    world.write("out", b"0123456789");
    world.write("err", b"never asked for");
    let request = v1::LogRequest { out_offset: 4, only: LogStream::Out.into(), ..Default::default() };
    let sending = world.serve(request);
    assert_eq!(world.next().await.offset, 4);
    assert!(world.until_end().await.end);
    sending.await.expect("no panic").expect("sent");
    assert_eq!((world.out.as_slice(), world.err.as_slice()), (b"456789".as_slice(), b"".as_slice()));
}

#[tokio::test]
async fn following_ends_with_the_attempt_and_its_last_byte() {
    let mut world = World::new("follow").await;
    let sending = world.serve(v1::LogRequest { follow: true, ..Default::default() });
    world.write("out", b"one ");
    assert_eq!(world.next().await.data, Bytes::from_static(b"one "));
    world.write("err", b"oops");
    assert_eq!(world.next().await.stream(), LogStream::Err);
    world.write("out", b"two ");
    assert_eq!(world.next().await.offset, 4);
    // Written and final at once, as at a real end.
    world.write("out", b"three");
    world.ended.send_replace(Some(Final::default()));
    assert!(world.until_end().await.end);
    sending.await.expect("no panic").expect("sent");
    assert_eq!((world.out.as_slice(), world.err.as_slice()), (b"one two three".as_slice(), b"oops".as_slice()));
}

#[tokio::test]
async fn a_hole_at_the_head_is_a_jump_and_zeros_are_bytes() {
    let mut world = World::new("hole").await;
    let mut out = pattern(100 * 1024, 3);
    out[80 * 1024..90 * 1024].fill(0);
    world.write("out", &out);
    let file = fs::OpenOptions::new().write(true).open(world.dir.join("out")).expect("the log");
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let punched = fallocate(&file, flags, 0, 64 * 1024).is_ok();
    // Where the file system makes no holes, the record's base says the same.
    let base = if punched { 64 * 1024 } else { 65 * 1024 };
    world.ended.send_replace(Some(Final { out_base: base, ..Default::default() }));
    let sending = world.serve(v1::LogRequest { out_offset: 10, ..Default::default() });
    assert_eq!(world.next().await.offset, base);
    world.until_end().await;
    sending.await.expect("no panic").expect("sent");
    assert!(world.out == out[base as usize..]);
}

#[tokio::test]
async fn bytes_past_the_cap_of_a_head_are_not_sent() {
    let mut world = World::new("cap").await;
    world.write("out", b"0123456789");
    world.write("err", b"short");
    world.ended.send_replace(Some(Final { truncated: true, ..Default::default() }));
    let spec = wire::Spec { log_cap_bytes: 6, ..Default::default() };
    let sending = world.serve_from(v1::LogRequest::default(), Source::of(world.dir.clone(), &spec));
    let mut marks = Vec::new();
    loop {
        let upload = world.next().await;
        if upload.truncated {
            marks.push((upload.stream(), upload.offset));
        }
        if upload.end {
            break;
        }
    }
    sending.await.expect("no panic").expect("sent");
    assert_eq!((world.out.as_slice(), marks), (b"012345".as_slice(), vec![(LogStream::Out, 6)]));
    let service = wire::Spec { log_policy: LogPolicy::KeepTail, ..spec };
    assert_eq!(Source::of(PathBuf::new(), &service).head_cap_bytes, u64::MAX);
}

#[tokio::test]
async fn a_reader_who_leaves_ends_the_sending() {
    let mut world = World::new("leave").await;
    world.write("out", &pattern(1_000_000, 4));
    let sending = world.serve(v1::LogRequest { follow: true, ..Default::default() });
    world.next().await;
    world.uploads.close();
    while world.uploads.recv().await.is_some() {}
    sending.await.expect("no panic").expect("nobody reads, nothing failed");
}

#[tokio::test]
async fn a_slow_reader_holds_the_file_back() {
    let mut world = World::new("slow").await;
    // More than HTTP/2 windows and queues hold together.
    let out = pattern(8 << 20, 5);
    world.write("out", &out);
    let sending = world.serve(v1::LogRequest::default());
    world.next().await;
    assert!(!sending.is_finished(), "it waits for its reader");
    world.until_end().await;
    sending.await.expect("no panic").expect("sent");
    assert!(world.out == out);
}

#[tokio::test]
async fn no_log_at_all_is_an_empty_one() {
    let mut world = World::new("none").await;
    let sending = world.serve(v1::LogRequest::default());
    assert!(world.next().await.end);
    sending.await.expect("no panic").expect("sent");
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_said_so() {
    let mut world = World::new("broken").await;
    fs::create_dir(world.dir.join("out")).expect("a directory where a file should be");
    let sending = world.serve(v1::LogRequest::default());
    let end = world.until_end().await;
    assert!(end.failure.starts_with("cannot read the log"), "{end:?}");
    assert!(matches!(sending.await.expect("no panic"), Err(Error::Read { .. })));
}

#[tokio::test]
async fn an_informer_that_is_gone_is_an_error() {
    let world = World::new("gone").await;
    world.serving.abort();
    world.write("out", b"x");
    let channel = channel("http://127.0.0.1:9");
    let outcome = serve(channel, v1::LogRequest::default(), world.source(), world.ended.subscribe()).await;
    assert!(matches!(outcome, Err(Error::Call(_))), "{outcome:?}");
}
