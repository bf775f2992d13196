//! The socket on which tasks talk to their sidecar: one JSON document a line, one line of answer to each.
//!
//! ```text
//! {"op":"progress","task":"…","attempt":1,"fence":"1.2","permille":250,"note":"page 3","step":3}   ▶
//!                                                                                  ◀   {"ok":true}
//!                                                          ◀   {"ok":false,"error":"attempt … does not run on this sidecar"}
//! ```
//!
//! Who may connect is decided by the file's mode: the sidecar's user. Who speaks for an attempt is decided by its fence, so that a copy
//! that is not wanted any more changes nothing.

use super::reports::{self, Reports};
use proto::id::{AttemptId, Fence};
use proto::v1;
use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use serde::{Deserialize, Serialize};
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

/// Longest line: a note is cut at 160 bytes anyhow, and ids and numbers need 200.
const LINE_BYTES: u64 = 8 << 10;
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
#[derive(Debug, Serialize, Deserialize)]
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
}

/// What it hears.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// The listening socket. Its file stays when the agent ends, and is replaced by the next one.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    reports: Reports,
}

impl Socket {
    /// Listens, in place of what an earlier agent left; the caller owns the data directory.
    pub(super) fn bind(data: &Path, reports: Reports) -> io::Result<Self> {
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
        Ok(Self { listener: UnixListener::from(socket), reports })
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
                        open.spawn(converse(stream, self.reports.clone()));
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
async fn converse(stream: UnixStream, reports: Reports) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let length = (&mut reader).take(LINE_BYTES + 1).read_until(b'\n', &mut line).await?;
        if length == 0 {
            return Ok(());
        }
        let whole = length as u64 <= LINE_BYTES;
        let done = if whole { hear(&line, &reports) } else { Err(format!("a line has at most {LINE_BYTES} bytes")) };
        let answer = Answer { ok: done.is_ok(), error: done.err().unwrap_or_default() };
        let mut answer = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        answer.push(b'\n');
        writer.write_all(&answer).await?;
        if !whole {
            // Where the next line begins is not known.
            return Ok(());
        }
        tokio::time::sleep(PACE).await;
    }
}

pub(super) fn hear(line: &[u8], reports: &Reports) -> Result<(), String> {
    let request = serde_json::from_slice(line).map_err(|error| format!("this is no request: {error}"))?;
    match request {
        Request::Progress { task, attempt, fence, permille, note, step } => {
            let task = task.parse().map_err(|_| format!("{task:?} is no task's id"))?;
            let fence = parse_fence(&fence).ok_or_else(|| format!("{fence:?} is no fence; send INFORMER_FENCE"))?;
            let progress = v1::Progress {
                permille: permille.min(1000),
                note: reports::note(&note),
                step: step.unwrap_or(permille.into()),
                ..Default::default()
            };
            let attempt = AttemptId { task, number: attempt };
            reports.put(attempt, fence, progress).map_err(|error| error.to_string())
        }
    }
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
    use super::*;
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
        drop(Socket::bind(&data, reports.clone()).expect("the socket of an earlier agent"));
        let socket = Socket::bind(&data, reports.clone()).expect("a socket");
        let mode = std::fs::metadata(data.join(FILE)).expect("its file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let serving = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! { () = socket.serve() => {}, _ = stopped => {} }
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
        assert!(!ask(&mut stream, &"x".repeat(LINE_BYTES as usize)).ok);
        assert_eq!(stream.read_line(&mut String::new()).expect("the end"), 0, "nothing follows a line without end");
        drop(stop);
        serving.join().expect("served");
        std::fs::remove_dir_all(&data).expect("removed");
    }
}
