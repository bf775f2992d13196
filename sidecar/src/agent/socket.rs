//! The socket on which tasks talk to their sidecar: one JSON document a line, one line of answer to each.
//!
//! ```text
//! {"op":"progress","task":"…","attempt":1,"fence":"1.2","permille":250,"note":"page 3","step":3}   ▶
//!                                                                                  ◀   {"ok":true}
//!                                                          ◀   {"ok":false,"error":"attempt … does not run on this sidecar"}
//! ```
//!
//! `{"op":"emit",…,"key":"…","name":"…","input":{…}}` and `{"op":"seal",…}` are answered once the informer has the child, or the seal, durably;
//! `"again":true` in an answer that is not ok means that the same request may be made again.
//!
//! Who may connect is decided by the file's mode: the sidecar's user. Who speaks for an attempt is decided by its fence, so that a copy
//! that is not wanted any more changes nothing.

use super::emitters::{Asked, Emitters};
use super::reports::{self, Reports};
use crate::machine::{Emit, EmitAnswer};
use proto::id::{AttemptId, Fence};
use proto::{bounds, v1};
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// Name of the socket inside the data directory; `SIDECAR_SOCKET` holds its path.
const FILE: &str = "sidecar.sock";

/// Longest line: a child's payload, with room for its key, ids and what a note has.
const LINE_BYTES: u64 = (bounds::EMIT_BYTES + (8 << 10)) as u64;
/// How long an emitter waits for the informer unless it says otherwise, and at most: one that needs longer asks again.
const EMIT_WAIT: Duration = Duration::from_secs(60);
const EMIT_WAIT_LONGEST: Duration = Duration::from_secs(600);
/// Connections at once; one more waits in the kernel's queue until another is closed. Twice the slots of a large machine, at some
/// kilobytes each.
const CONNECTIONS: usize = 256;
/// Connections that may wait there.
const BACKLOG: i32 = 128;
/// Between two requests of one connection: a task that tells its progress in a loop must cost the sidecar nothing worth mentioning.
const PACE: Duration = Duration::from_millis(10);
/// After a failed accept (out of descriptors) before the next one.
const PAUSE: Duration = Duration::from_millis(250);

/// What a task says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Request {
    /// How far it is.
    Progress {
        task: String,
        attempt: u32,
        fence: String,
        #[serde(default)]
        permille: u32,
        #[serde(default)]
        note: String,
        /// Grows with every advance; the same as `permille` if it is not told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<u64>,
    },
    /// A child of the task.
    Emit {
        task: String,
        attempt: u32,
        fence: String,
        key: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Map<String, Value>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_ms: Option<u64>,
    },
    /// No more children will come.
    Seal {
        task: String,
        attempt: u32,
        fence: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_ms: Option<u64>,
    },
}

/// What it hears.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// The same request may be taken yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

impl Answer {
    fn of(done: Result<(), String>) -> Self {
        Self { ok: done.is_ok(), error: done.err().unwrap_or_default(), again: false }
    }

    fn of_emit(answer: Option<EmitAnswer>) -> Self {
        let later = |error| Self { ok: false, error, again: true };
        match answer {
            Some(EmitAnswer::Taken) => Self::of(Ok(())),
            Some(EmitAnswer::Refused(why)) => Self::of(Err(why)),
            Some(EmitAnswer::Later(why)) => later(why),
            None => later(
                "the informer has not acknowledged it in time; it is kept here, and sent until it does".to_owned(),
            ),
        }
    }
}

/// The listening socket. Its file stays when the agent ends, and is replaced by the next one.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    reports: Reports,
    emitters: Emitters,
}

impl Socket {
    /// Listens, in place of what an earlier agent left; the caller owns the data directory.
    pub(super) fn bind(data: &Path, reports: Reports, emitters: Emitters) -> io::Result<Self> {
        match std::fs::remove_file(data.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Before it has a name: the file gets the mode of the socket.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        // Through the directory's descriptor, because a socket address holds 108 bytes.
        let dir = File::open(data)?;
        bind(&socket, &SocketAddrUnix::new(format!("/proc/self/fd/{}/{FILE}", dir.as_raw_fd()))?)?;
        listen(&socket, BACKLOG)?;
        Ok(Self { listener: UnixListener::from(socket), reports, emitters })
    }

    /// Serves for as long as the future lives; dropping it closes every connection.
    pub(super) async fn serve(self) {
        let listener = match tokio::net::UnixListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "tasks cannot talk to this sidecar");
                return std::future::pending().await;
            }
        };
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept(), if open.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        open.spawn(converse(stream, self.reports.clone(), self.emitters.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a task's connection cannot be taken");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = open.join_next() => {}
            }
        }
    }
}

/// Until the task closes its end, or says what ends the conversation. A broken connection costs nobody else anything.
async fn converse(stream: UnixStream, reports: Reports, emitters: Emitters) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let length = (&mut reader).take(LINE_BYTES + 1).read_until(b'\n', &mut line).await?;
        if length == 0 {
            return Ok(());
        }
        let whole = length as u64 <= LINE_BYTES;
        let heard = if whole { hear(&line, &reports) } else { Err(format!("a line has at most {LINE_BYTES} bytes")) };
        let (answer, pause) = match heard {
            Ok(Some(asked)) => (Answer::of_emit(emitters.ask(asked).await), Duration::ZERO),
            Ok(None) => (Answer::of(Ok(())), PACE),
            Err(why) => (Answer::of(Err(why)), PACE),
        };
        let mut answer = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        answer.push(b'\n');
        writer.write_all(&answer).await?;
        if !whole {
            // Where the next line begins is not known.
            return Ok(());
        }
        // Who emits waits for the informer's commit anyway.
        tokio::time::sleep(pause).await;
    }
}

/// One line; answers with what the machine must be asked.
pub(super) fn hear(line: &[u8], reports: &Reports) -> Result<Option<Asked>, String> {
    let request = serde_json::from_slice(line).map_err(|error| format!("this is no request: {error}"))?;
    match request {
        Request::Emit { task, attempt, fence, key, name, input, wait_ms } => {
            let (attempt, fence) = speaker(&task, attempt, &fence)?;
            let emit = child(key, name.as_deref(), &input.unwrap_or_default())?;
            asked(attempt, fence, emit, wait_ms).map(Some)
        }
        Request::Seal { task, attempt, fence, wait_ms } => {
            let (attempt, fence) = speaker(&task, attempt, &fence)?;
            let emit = Emit { key: String::new(), digest: Sha256::digest(b"").into(), payload: Vec::new() };
            asked(attempt, fence, emit, wait_ms).map(Some)
        }
        Request::Progress { task, attempt, fence, permille, note, step } => {
            let (attempt, fence) = speaker(&task, attempt, &fence)?;
            let progress = v1::Progress {
                permille: permille.min(1000),
                note: reports::note(&note),
                step: step.unwrap_or(permille.into()),
                ..Default::default()
            };
            reports.put(attempt, fence, progress).map_err(|error| error.to_string()).map(|()| None)
        }
    }
}

/// For which attempt somebody speaks, as it says.
fn speaker(task: &str, number: u32, fence: &str) -> Result<(AttemptId, Fence), String> {
    let task = task.parse().map_err(|_| format!("{task:?} is no task's id"))?;
    let fence = parse_fence(fence).ok_or_else(|| format!("{fence:?} is no fence; send INFORMER_FENCE"))?;
    Ok((AttemptId { task, number }, fence))
}

/// An emit that the informer's edge will take: one that it would not would cost the link, again and again.
fn asked(attempt: AttemptId, fence: Fence, emit: Emit, wait_ms: Option<u64>) -> Result<Asked, String> {
    let patience = wait_ms.map_or(EMIT_WAIT, Duration::from_millis).min(EMIT_WAIT_LONGEST);
    let asked = Asked { attempt, fence, emit, patience };
    proto::check::emitted(&asked.to_wire()).map_err(|faults| faults.to_string())?;
    Ok(asked)
}

/// A child as it goes up: written in one way only, so that what says the same has the same digest.
fn child(key: String, name: Option<&str>, input: &Map<String, Value>) -> Result<Emit, String> {
    if key.is_empty() {
        return Err("a child's key is empty; give it a name of its own within its task".to_owned());
    }
    if name.is_some_and(|name| name.is_empty() || name.len() > bounds::NAME_BYTES) {
        return Err(format!("a child's name has 1 to {} bytes", bounds::NAME_BYTES));
    }
    let payload = json!({ "name": name, "input": input }).to_string().into_bytes();
    if payload.len() > bounds::EMIT_BYTES {
        let most = bounds::EMIT_BYTES;
        return Err(format!("the child is {} bytes, and may be {most}; put its input into a file", payload.len()));
    }
    Ok(Emit { key, digest: Sha256::digest(&payload).into(), payload })
}

/// `EPOCH.N` as in `INFORMER_FENCE`, or `EPOCH-N` as in a callback's URL.
fn parse_fence(text: &str) -> Option<Fence> {
    let (epoch, n) = text.split_once(['.', '-'])?;
    Some(Fence { epoch: epoch.parse().ok()?, n: n.parse().ok()? })
}

/// Connects as a task does, through the directory's descriptor for the sake of long paths.
pub(crate) fn connect(path: &Path) -> io::Result<StdStream> {
    let name = path.file_name().ok_or(io::ErrorKind::NotFound)?;
    let dir = File::open(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    StdStream::connect(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::super::shell::Input;
    use super::*;
    use crate::machine::Event;
    use proto::id::TaskId;
    use std::io::{BufRead as _, BufReader as StdReader, Write as _};
    use std::os::unix::fs::PermissionsExt as _;

    fn ask(stream: &mut StdReader<StdStream>, line: &str) -> Answer {
        stream.get_mut().write_all(format!("{line}\n").as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_line(&mut answer).expect("an answer");
        serde_json::from_str(&answer).expect("a document")
    }

    #[test]
    fn a_task_tells_its_progress_and_nobody_elses() {
        let data = std::env::temp_dir().join(format!("sidecar-socket-{}-{}", std::process::id(), "x".repeat(100)));
        std::fs::create_dir_all(&data).expect("a directory");
        let reports = Reports::default();
        let (inbox, mut arrivals) = tokio::sync::mpsc::channel(1);
        let emitters = Emitters::new(inbox);
        let bound = || Socket::bind(&data, reports.clone(), emitters.clone());
        drop(bound().expect("the socket of an earlier agent"));
        let socket = bound().expect("a socket");
        let loopy = emitters.clone();
        let mode = std::fs::metadata(data.join(FILE)).expect("its file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let serving = std::thread::spawn(move || {
            runtime.block_on(async {
                let answering = async {
                    while let Some(Input::Event(Event::EmitAsked { ticket, emit, .. })) = arrivals.recv().await {
                        loopy.answer(
                            ticket,
                            match emit.key.as_str() {
                                "full" => EmitAnswer::Later("no room".into()),
                                "wrong" => EmitAnswer::Refused("another payload".into()),
                                _ => EmitAnswer::Taken,
                            },
                        );
                    }
                };
                tokio::select! { () = socket.serve() => {}, () = answering => {}, _ = stopped => {} }
            });
        });
        let attempt = AttemptId { task: TaskId::from_u128(7), number: 2 };
        reports.open(attempt, Fence { epoch: 1, n: 5 });
        let progress = |fence: &str| {
            let task = attempt.task;
            format!(r#"{{"op":"progress","task":"{task}","attempt":2,"fence":"{fence}","permille":250,"note":"a\nb"}}"#)
        };
        let mut stream = StdReader::new(connect(&data.join(FILE)).expect("a connection"));
        assert!(ask(&mut stream, &progress("1.5")).ok);
        let told = reports.take(attempt).expect("progress");
        assert_eq!((told.permille, told.step, told.note.as_str()), (250, 250, "a b"));
        for line in [progress("1.4"), progress("1"), "{}".into(), r#"{"op":"dance"}"#.into(), "\u{fffd}".into()] {
            let answer = ask(&mut stream, &line);
            assert!(!answer.ok && !answer.error.is_empty(), "{line} was taken");
        }
        assert!(ask(&mut stream, &progress("1-5")).ok, "the connection outlives what it does not understand");
        let emit =
            |rest: &str| progress("1.5").replace(r#""progress""#, r#""emit""#).replace('}', &format!(",{rest}}}"));
        assert!(ask(&mut stream, &emit(r#""key":"a","name":"cut","input":{"n":1}"#)).ok);
        assert!(ask(&mut stream, &progress("1.5").replace("progress", "seal")).ok);
        let later = ask(&mut stream, &emit(r#""key":"full""#));
        assert!(!later.ok && later.again && later.error == "no room", "{later:?}");
        for wrong in [r#""key":"wrong""#, r#""key":"""#, r#""key":"a","input":[1]"#, r#""key":"a","name":"""#] {
            let answer = ask(&mut stream, &emit(wrong));
            assert!(!answer.ok && !answer.again, "{wrong} was taken");
        }
        let large = format!(r#""key":"a","input":{{"n":"{}"}}"#, "x".repeat(bounds::EMIT_BYTES));
        assert!(ask(&mut stream, &emit(&large)).error.contains("put its input into a file"));
        assert!(!ask(&mut stream, &"x".repeat(LINE_BYTES as usize)).ok);
        assert_eq!(stream.read_line(&mut String::new()).expect("the end"), 0, "nothing follows a line without end");
        drop(stop);
        serving.join().expect("served");
        std::fs::remove_dir_all(&data).expect("removed");
    }
}
