//! Clients as users write them: they ask again with the same key after an error, and record every answer.

use super::job::{Ends, Job};
use super::probe;
use super::recorder::{Recorder, Told};
use crate::world::{DEADLINE, World};
use anyhow::{Context as _, Result, bail};
use proto::dial::{Access, Channel, Dial};
use proto::v1::{self, informer_client::InformerClient};
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tonic::{Code, Response, Status, Streaming};

/// How long one call may take before it counts as failed. Its answer may be lost, or the informer stopped.
const CALL: Duration = Duration::from_secs(3);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(30);
/// How often a stream is looked up from, to see whether the round is over.
const LOOK_UP: Duration = Duration::from_millis(100);
/// The largest page of a list.
const PAGE: u32 = 1000;

type Grpc = InformerClient<Channel>;

/// One client with a connection of its own.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    grpc: Grpc,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Of this attempt.
    pub attempt: u32,
    /// stderr, not stdout.
    pub err: bool,
    /// Of its first byte.
    pub offset: u64,
    /// Its bytes.
    pub data: Vec<u8>,
    /// Later bytes of the stream were dropped at the cap.
    pub truncated: bool,
}

impl From<v1::LogsChunk> for Chunk {
    fn from(chunk: v1::LogsChunk) -> Self {
        let err = chunk.stream() == v1::LogStream::Err;
        Self {
            attempt: chunk.attempt,
            err,
            offset: chunk.offset,
            data: chunk.data.to_vec(),
            truncated: chunk.truncated,
        }
    }
}

/// How the clients of a world reach its informer.
///
/// # Errors
/// The world's certificates cannot be used.
pub fn dial(world: &World) -> Result<Dial> {
    let address = world.url().parse().map_err(|error| anyhow::anyhow!("{}: {error:?}", world.url()))?;
    let mut access = Access::default();
    if world.url().starts_with("https://") {
        access.tls_ca = Some(world.tls().join("ca.pem"));
        access.token_file = Some(world.tls().join("token"));
    }
    Ok(Dial::new(address, access)?)
}

impl Client {
    /// A client that connects with its first call.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn new(dial: &Dial) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let endpoint =
            dial.endpoint().http2_keep_alive_interval(CALL).keep_alive_timeout(CALL).keep_alive_while_idle(true);
        let grpc = InformerClient::new(dial.connect_lazy(&endpoint));
        drop(inside);
        Ok(Self { runtime, grpc })
    }

    fn call<T, F>(&self, ask: impl FnOnce(Grpc) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(CALL, ask(self.grpc.clone())).await;
            answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(Response::into_inner)
        })
    }

    /// Asks until there is an answer.
    fn persist<T, F>(&self, what: &str, mut ask: impl FnMut(Grpc) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let begin = Instant::now();
        loop {
            match self.call(&mut ask) {
                Ok(answer) => return Ok(answer),
                Err(status) if is_passing(&status) && begin.elapsed() < DEADLINE => std::thread::sleep(AGAIN),
                Err(status) => bail!("{what}: {status}"),
            }
        }
    }

    /// Submits a job until it is acknowledged; each failure and the answer are recorded.
    ///
    /// # Errors
    /// It is refused, or there is no answer within [`DEADLINE`].
    pub fn submit(&self, job: &Job, recorder: &Recorder) -> Result<()> {
        let begin = Instant::now();
        loop {
            let request = v1::SubmitRequest { spec: Some(job.spec.clone()), key: job.key.clone() };
            match self.call(|mut grpc| async move { grpc.submit(request).await }) {
                Ok(answer) => {
                    recorder.tell(Told::Submitted { key: job.key.clone(), id: answer.id });
                    return Ok(());
                }
                Err(status) => {
                    recorder.tell(Told::SubmitFailed { key: job.key.clone(), code: status.code().to_string() });
                    if !is_passing(&status) || begin.elapsed() >= DEADLINE {
                        bail!("submit {}: {status}", job.key);
                    }
                    std::thread::sleep(AGAIN);
                }
            }
        }
    }

    /// Submits another payload under the job's key, and records whether that is refused.
    ///
    /// # Errors
    /// There is no answer.
    pub fn submit_other(&self, job: &Job, recorder: &Recorder) -> Result<()> {
        let begin = Instant::now();
        loop {
            let request = v1::SubmitRequest { spec: Some(job.other_payload()), key: job.key.clone() };
            let answer = self.call(|mut grpc| async move { grpc.submit(request).await });
            match answer {
                Err(status) if is_passing(&status) && begin.elapsed() < DEADLINE => std::thread::sleep(AGAIN),
                other => {
                    let refused = other.is_err_and(|status| status.code() == Code::AlreadyExists);
                    recorder.tell(Told::OtherPayload { key: job.key.clone(), refused });
                    return Ok(());
                }
            }
        }
    }

    /// Cancels until it is acknowledged.
    ///
    /// # Errors
    /// It is refused for good.
    pub fn cancel(&self, id: &str, recorder: &Recorder) -> Result<()> {
        let request = v1::CancelRequest { id: id.to_owned(), reason: "chaos".to_owned() };
        self.persist("cancel", |mut grpc| {
            let request = request.clone();
            async move { grpc.cancel(request).await }
        })?;
        recorder.tell(Told::Cancelled { id: id.to_owned() });
        Ok(())
    }

    /// Every task there is.
    ///
    /// # Errors
    /// No answer.
    pub fn tasks(&self) -> Result<Vec<v1::Task>> {
        let request = v1::ListRequest { page_size: PAGE, ..v1::ListRequest::default() };
        let list = self.persist("list", |mut grpc| {
            let request = request.clone();
            async move { grpc.list(request).await }
        })?;
        anyhow::ensure!(list.next_page_token.is_empty(), "more tasks than a page has");
        let ids = list.tasks.into_iter().map(|task| task.id);
        ids.map(|id| {
            self.persist("get", |mut grpc| {
                let request = v1::GetRequest { id: id.clone() };
                async move { grpc.get(request).await }
            })
        })
        .collect()
    }

    /// Every sidecar that is not lost; nothing if there is no answer.
    #[must_use]
    pub fn sidecars(&self) -> Vec<v1::Sidecar> {
        let answer = self.call(|mut grpc| async move { grpc.sidecars(v1::SidecarsRequest { all: false }).await });
        answer.map(|answer| answer.sidecars).unwrap_or_default()
    }

    /// A task now; nothing if there is no answer.
    #[must_use]
    pub fn task(&self, id: &str) -> Option<v1::Task> {
        let request = v1::GetRequest { id: id.to_owned() };
        self.call(|mut grpc| async move { grpc.get(request).await }).ok()
    }

    /// What happened to a task.
    ///
    /// # Errors
    /// No answer.
    pub fn history(&self, id: &str) -> Result<Vec<v1::HistoryEvent>> {
        let request = v1::HistoryRequest { id: id.to_owned(), page_size: PAGE, page_token: String::new() };
        let history = self.persist("history", |mut grpc| {
            let request = request.clone();
            async move { grpc.history(request).await }
        })?;
        Ok(history.events)
    }

    /// The log of an attempt; nothing if there is none to be had.
    #[must_use]
    pub fn log(&self, id: &str, attempt: u32) -> Option<Vec<Chunk>> {
        let request = v1::LogsRequest { id: id.to_owned(), attempt, ..v1::LogsRequest::default() };
        self.runtime.block_on(async {
            let read = async {
                let mut stream = self.grpc.clone().logs(request).await.ok()?.into_inner();
                let mut chunks = Vec::new();
                while let Some(chunk) = stream.message().await.ok()? {
                    let chunk = Chunk::from(chunk);
                    // The last one only says that it is.
                    if !chunk.data.is_empty() || chunk.truncated {
                        chunks.push(chunk);
                    }
                }
                Some(chunks)
            };
            tokio::time::timeout(CALL, read).await.ok().flatten()
        })
    }
}

/// Whether asking again may help. What a connection breaks with has several codes.
fn is_passing(status: &Status) -> bool {
    let code = status.code();
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::Internal
            | Code::Aborted
    )
}

/// Submits all of these, and some of them twice.
///
/// # Errors
/// One is refused.
pub fn submit_all(dial: &Dial, jobs: &[Job], recorder: &Recorder) -> Result<()> {
    let client = Client::new(dial)?;
    for (n, job) in jobs.iter().enumerate() {
        client.submit(job, recorder)?;
        if n % 4 == 0 {
            client.submit(job, recorder)?;
        }
    }
    Ok(())
}

/// Cancels each job that is meant to be, once it runs, until `over`.
///
/// # Errors
/// A cancel is refused.
pub fn cancel_running(dial: &Dial, jobs: &[Job], dir: &Path, recorder: &Recorder, over: &AtomicBool) -> Result<()> {
    let client = Client::new(dial)?;
    let mut wanted: Vec<&Job> = jobs.iter().filter(|job| job.ends == Ends::Cancelled).collect();
    while !over.load(Ordering::SeqCst) && !wanted.is_empty() {
        let acts = std::fs::read_to_string(dir.join(probe::ACTS)).unwrap_or_default();
        let known = recorder.acknowledged();
        for job in std::mem::take(&mut wanted) {
            let id = known.iter().find(|(key, _)| *key == job.key).map(|(_, id)| id);
            match id.filter(|_| acts.contains(&format!("start {} ", job.key))) {
                Some(id) => client.cancel(id, recorder)?,
                None => wanted.push(job),
            }
        }
        std::thread::sleep(AGAIN);
    }
    Ok(())
}

/// Watches every task and records each end that it is told, until `over`.
///
/// # Errors
/// It has no thread.
pub fn watch(dial: &Dial, recorder: &Recorder, over: &AtomicBool) -> Result<()> {
    let client = Client::new(dial)?;
    while !over.load(Ordering::SeqCst) {
        let Ok(mut stream) = client.call(|mut grpc| async move { grpc.watch(v1::WatchRequest::default()).await })
        else {
            std::thread::sleep(AGAIN);
            continue;
        };
        client.runtime.block_on(async {
            while let Some(task) = next(&mut stream, over).await {
                if is_terminal(task.state()) {
                    let exit = task.ending.as_ref().and_then(|ending| ending.exit_code);
                    recorder.tell(Told::Ended { id: task.id, state: task.state, exit });
                }
            }
        });
    }
    Ok(())
}

/// Follows the logs of these jobs, one after the other, from where a broken stream left off, and records what comes, until `over`.
///
/// # Errors
/// It has no thread.
pub fn follow(dial: &Dial, keys: &[String], recorder: &Recorder, over: &AtomicBool) -> Result<()> {
    let client = Client::new(dial)?;
    for key in keys {
        let mut done = false;
        // Of the last attempt that was heard of, per stream.
        let mut at = (0, [0, 0]);
        while !done && !over.load(Ordering::SeqCst) {
            let Some((_, id)) = recorder.acknowledged().into_iter().find(|(known, _)| known == key) else {
                std::thread::sleep(AGAIN);
                continue;
            };
            let (attempt, [out_offset, err_offset]) = at;
            let request =
                v1::LogsRequest { id: id.clone(), attempt, follow: true, out_offset, err_offset, ..Default::default() };
            let Ok(mut stream) = client.call(|mut grpc| async move { grpc.logs(request).await }) else {
                // Of an attempt that has no log any more there is nothing to wait for.
                done = client.task(&id).is_some_and(|task| is_terminal(task.state()));
                std::thread::sleep(AGAIN);
                continue;
            };
            done = client.runtime.block_on(async {
                while let Some(chunk) = next(&mut stream, over).await {
                    if chunk.attempt != at.0 {
                        at = (chunk.attempt, [0, 0]);
                    }
                    let (end, chunk) = (chunk.end, Chunk::from(chunk));
                    at.1[usize::from(chunk.err)] = chunk.offset + chunk.data.len() as u64;
                    let Chunk { attempt, err, offset, data, .. } = chunk;
                    if !data.is_empty() {
                        recorder.tell(Told::Log { id: id.clone(), attempt, err, offset, data });
                    }
                    if end {
                        return true;
                    }
                }
                false
            });
        }
    }
    Ok(())
}

/// The next message, or nothing if the stream breaks or the round is over.
async fn next<T>(stream: &mut Streaming<T>, over: &AtomicBool) -> Option<T> {
    loop {
        match tokio::time::timeout(LOOK_UP, stream.message()).await {
            Ok(message) => return message.ok().flatten(),
            Err(_) if over.load(Ordering::SeqCst) => return None,
            Err(_) => {}
        }
    }
}

/// Whether nothing happens to a task any more.
#[must_use]
pub fn is_terminal(state: v1::TaskState) -> bool {
    matches!(state, v1::TaskState::Succeeded | v1::TaskState::Failed | v1::TaskState::Cancelled)
}

/// Waits for one thing over several looks of a client, as [`crate::world::wait_for`].
///
/// # Errors
/// It is not seen.
pub fn wait_sidecars(client: &Client, what: &str, mut are: impl FnMut(&[v1::Sidecar]) -> bool) -> Result<()> {
    let seen = crate::world::wait_for(what, || are(&client.sidecars()).then_some(()));
    seen.with_context(|| format!("{:#?}", client.sidecars()))
}
