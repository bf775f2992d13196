//! What the tests of inputs, outputs and containers share: tasks as messages, a directory to look at, a server to fetch from.

use crate::world::World;
use anyhow::{Context as _, Result};
use proto::v1::{self, task_spec::Kind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::{ServerConfig, ServerConnection};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A command as a task that is tried once.
#[must_use]
pub fn command(argv: &[&str]) -> v1::TaskSpec {
    let argv = argv.iter().map(|&argument| argument.to_owned()).collect();
    v1::TaskSpec {
        kind: Some(Kind::Command(v1::Command { argv })),
        retry: Some(v1::Retry { max_attempts: 1, ..Default::default() }),
        ..Default::default()
    }
}

/// A shell line as a task that is tried once.
#[must_use]
pub fn sh(line: &str) -> v1::TaskSpec {
    command(&["sh", "-c", line])
}

/// A declared output.
#[must_use]
pub fn output(path: &str, destination: &Path) -> v1::Output {
    v1::Output { path: path.to_owned(), destination: destination.to_string_lossy().into_owned(), optional: false }
}

/// A declared input.
#[must_use]
pub fn input(source: &str, sha256: &str, path: &str) -> v1::Input {
    v1::Input { source: source.to_owned(), sha256: sha256.to_owned(), path: path.to_owned(), executable: false }
}

/// Submits a message.
///
/// # Errors
/// The informer does not take it.
pub fn submit(world: &World, spec: v1::TaskSpec) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(world.url().to_owned())?;
        let mut client = v1::informer_client::InformerClient::new(endpoint.connect().await?);
        let request = v1::SubmitRequest { spec: Some(spec), key: String::new() };
        Ok(client.submit(request).await?.into_inner().id)
    })
}

/// Names in a directory that are not locks, sorted. Locks stay beside outputs: they remember the highest fence that published.
///
/// # Errors
/// It cannot be read.
pub fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?.flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".fence")).collect();
    names.sort();
    Ok(names)
}

/// The SHA-256 of some bytes, by the tool that everybody has.
///
/// # Errors
/// There is none.
pub fn sha256(bytes: &[u8]) -> Result<String> {
    use std::process::{Command, Stdio};
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin was piped")?.write_all(bytes)?;
    let text = String::from_utf8(child.wait_with_output()?.stdout)?;
    Ok(text.split_whitespace().next().context("sha256sum said nothing")?.to_owned())
}

/// What a path is answered with.
#[derive(Clone)]
pub enum Answer {
    /// 200 and these bytes.
    Bytes(Vec<u8>),
    /// 302 to there.
    Redirect(String),
    /// The head of an answer and then nothing, until the server is opened.
    Held(Vec<u8>),
}

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

/// An HTTP server of the test's own, on a free port of the loopback.
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<String>>>,
    gate: Arc<Gate>,
    ending: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves these paths; everything else is 404.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn new(files: BTreeMap<String, Answer>) -> Result<Self> {
        Self::speaking(files, None)
    }

    /// The same over TLS, with the certificate that `informer certificate` has made in this directory.
    ///
    /// # Errors
    /// It cannot listen, or the certificate is none.
    pub fn with_tls(files: BTreeMap<String, Answer>, dir: &Path) -> Result<Self> {
        let chain = CertificateDer::pem_file_iter(dir.join("informer.pem"))?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(dir.join("informer-key.pem"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_no_client_auth().with_single_cert(chain, key)?;
        Self::speaking(files, Some(Arc::new(config)))
    }

    fn speaking(files: BTreeMap<String, Answer>, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (requests, gate, ending) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Gate>::default(), Arc::default());
        let files = Arc::new(files);
        let (seen, held, end) = (Arc::clone(&requests), Arc::clone(&gate), Arc::<AtomicBool>::clone(&ending));
        let serving = std::thread::spawn(move || {
            let mut answering = Vec::new();
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let (files, seen, held) = (Arc::clone(&files), Arc::clone(&seen), Arc::clone(&held));
                let tls = tls.clone();
                // A client that goes away, or does not trust us, is its own affair.
                answering.push(std::thread::spawn(move || drop(converse(stream, tls, &files, &seen, &held))));
            }
            for thread in answering {
                let _ended = thread.join();
            }
        });
        Ok(Self { address, scheme, requests, gate, ending, serving: Some(serving) })
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// Paths asked for so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets held answers go on.
    pub fn open(&self) {
        *self.gate.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.gate.changed.notify_all();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        self.open();
        // Wakes the thread that accepts.
        let _woken = TcpStream::connect(self.address);
        if let Some(serving) = self.serving.take() {
            let _ended = serving.join();
        }
    }
}

fn converse(
    mut stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    files: &BTreeMap<String, Answer>,
    requests: &Mutex<Vec<String>>,
    gate: &Gate,
) -> Result<()> {
    let Some(config) = tls else { return answer(&mut stream, files, requests, gate) };
    let mut secured = rustls::StreamOwned::new(ServerConnection::new(config)?, stream);
    answer(&mut secured, files, requests, gate)?;
    secured.conn.send_close_notify();
    Ok(secured.flush()?)
}

fn answer(
    stream: &mut (impl Read + Write),
    files: &BTreeMap<String, Answer>,
    requests: &Mutex<Vec<String>>,
    gate: &Gate,
) -> Result<()> {
    let mut reader = BufReader::new(&mut *stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
    }
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
    match files.get(&path) {
        None => stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?,
        Some(Answer::Redirect(to)) => {
            stream
                .write_all(format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
        }
        Some(Answer::Bytes(bytes)) => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len()).as_bytes())?;
            stream.write_all(bytes)?;
        }
        Some(Answer::Held(bytes)) => {
            stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len()).as_bytes())?;
            let open = gate.open.lock().unwrap_or_else(PoisonError::into_inner);
            let _open = gate.changed.wait_while(open, |open| !*open).unwrap_or_else(PoisonError::into_inner);
            stream.write_all(bytes)?;
        }
    }
    Ok(())
}
