//! The connection to the keeper: made, kept and made again. What it says goes on to the work thread, in order.

use super::{Dirs, failpoint};
use keeper::codec::{self, FrameReader};
use keeper::wire::{Fencing, Listed, Notice, Request, VERSION};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Requests on their way to the keeper. Twice the slots a sidecar may have: every attempt started and stopped at once.
const REQUESTS: usize = 2 * proto::bounds::SLOTS as usize;
/// Between two tries to reach a keeper: `launch::ensure` itself waits for one that is just starting, so a failure lasts.
const RETRY: Duration = Duration::from_millis(500);

/// What the keeper said, in order.
#[derive(Debug)]
pub(super) enum FromKeeper {
    /// Connected; this is every attempt that has a record.
    Connected { listing: Vec<Listed>, requests: mpsc::Sender<Request>, fencing: Fencing },
    /// One fact.
    Notice(Notice),
    /// One fact about an attempt that runs within this process.
    Inside(proto::id::AttemptId, super::embedded::Inside),
    /// The connection is gone.
    Gone,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Launch(#[from] keeper::launch::Error),
    #[error("the connection to the keeper failed")]
    Connection(#[from] io::Error),
    #[error("the keeper sent what cannot be read: {0}")]
    Codec(#[from] codec::Error),
    #[error("the keeper speaks version {0} and this sidecar speaks {VERSION}")]
    Version(u32),
    #[error("the agent is ending")]
    Ending,
}

/// Keeps a connection until the receiver is gone.
pub(super) async fn keep(dirs: Dirs, warm: u32, said: mpsc::Sender<FromKeeper>) {
    let mut failures = 0_u32;
    loop {
        let mut met = false;
        let error = converse(&dirs, warm, &said, &mut met).await;
        failures = if met { 0 } else { failures.saturating_add(1) };
        if said.send(FromKeeper::Gone).await.is_err() {
            return;
        }
        match error {
            Ok(()) => tracing::info!("the keeper closed its connection; looking for it again"),
            Err(Error::Ending) => return,
            // A long lack of one is one line, and one more each time it has lasted twice as long.
            Err(error) if failures <= 1 || failures.is_power_of_two() => {
                tracing::warn!(%error, failures, "no keeper; trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn converse(dirs: &Dirs, warm: u32, said: &mpsc::Sender<FromKeeper>, met: &mut bool) -> Result<(), Error> {
    let (data, exe) = (dirs.data.clone(), dirs.keeper_exe.clone());
    let launched = tokio::task::spawn_blocking(move || keeper::launch::ensure(&data, &exe)).await;
    let stream = launched.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
    for request in [Request::Hello { version: VERSION }, Request::Warm { monitors: warm }] {
        writer.write_all(&codec::frame(&codec::encode_request(&request))).await?;
    }
    let (requests, queue) = mpsc::channel(REQUESTS);
    tokio::select! {
        result = read(reader, requests, said, met) => result,
        result = write(writer, queue) => result,
    }
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Request>) -> Result<(), Error> {
    while let Some(request) = queue.recv().await {
        writer.write_all(&codec::frame(&codec::encode_request(&request))).await?;
        if let Request::Start { .. } = request {
            failpoint::reach("after-start-sent");
        }
    }
    // The shell has no further request; the reading half goes on.
    std::future::pending().await
}

async fn read(
    mut reader: OwnedReadHalf,
    requests: mpsc::Sender<Request>,
    said: &mpsc::Sender<FromKeeper>,
    met: &mut bool,
) -> Result<(), Error> {
    let mut frames = FrameReader::default();
    let mut buffer = vec![0; 64 << 10];
    let mut greeting = Greeting { requests: Some(requests), fencing: Fencing::Weak, listing: Vec::new() };
    loop {
        let length = reader.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        frames.feed(&buffer[..length]);
        while let Some(body) = frames.take()? {
            let notice = codec::decode_notice(body)?;
            if let Some(news) = greeting.hear(notice)? {
                *met = true;
                said.send(news).await.map_err(|_| Error::Ending)?;
            }
        }
    }
}

/// What is gathered until the listing is whole.
struct Greeting {
    requests: Option<mpsc::Sender<Request>>,
    fencing: Fencing,
    listing: Vec<Listed>,
}

impl Greeting {
    fn hear(&mut self, notice: Notice) -> Result<Option<FromKeeper>, Error> {
        match notice {
            Notice::Welcome { version, .. } if version != VERSION => Err(Error::Version(version)),
            Notice::Welcome { fencing, .. } => {
                self.fencing = fencing;
                Ok(None)
            }
            Notice::Listing { attempts, last } => {
                self.listing.extend(attempts);
                let Some(requests) = self.requests.take_if(|_| last) else { return Ok(None) };
                let listing = std::mem::take(&mut self.listing);
                Ok(Some(FromKeeper::Connected { listing, requests, fencing: self.fencing }))
            }
            // A fact from before the listing's end is in the listing too, or follows from a later notice.
            notice => Ok(Some(FromKeeper::Notice(notice))),
        }
    }
}
