//! The connection to the keeper: made, kept and made again. What it says goes on to the work thread, in order.
//!
//! ```text
//! connect ─▶ Hello ─▶ Welcome ─▶ [upgrade] ─▶ serve: Warm, then requests ⇄ notices
//!    ▲                              └▶ ask: it becomes another program, and is met again at once
//!    └────────── gone ◀──────────────────────────┘
//! ```

use super::place::Place;
use super::upgrade::{Upgrade, Verdict};
use super::{Dirs, failpoint};
use keeper::codec::{self, FrameReader};
use keeper::wire::{Fencing, Listed, Notice, Request, VERSION};
use std::io;
use std::sync::Arc;
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
    #[error("the keeper did not begin with its welcome")]
    Rude,
    #[error(
        "the keeper speaks version {found} and this sidecar speaks {VERSION}; put the keeper of this sidecar's build at {}",
        exe.display()
    )]
    Version { found: u32, exe: std::path::PathBuf },
    #[error("its directory is gone")]
    Gone,
    #[error("the agent is ending")]
    Ending,
}

/// How a connection ended that did not fail.
enum Parted {
    /// The keeper closed it.
    Closed,
    /// The keeper becomes another program; nobody was told of this connection, and it listens all the while.
    Upgrading,
}

/// Keeps a connection until the receiver is gone.
pub(super) async fn keep(dirs: Dirs, place: Arc<Place>, warm: u32, said: mpsc::Sender<FromKeeper>) {
    let mut failures = 0_u32;
    let mut upgrade = Upgrade::new(dirs.keeper_exe.clone());
    loop {
        let mut met = false;
        let error = converse(&dirs, &place, warm, &said, &mut upgrade, &mut met).await;
        failures = if met { 0 } else { failures.saturating_add(1) };
        // It is asked once for each file, so this does not go round for ever.
        if matches!(error, Ok(Parted::Upgrading)) {
            continue;
        }
        if said.send(FromKeeper::Gone).await.is_err() {
            return;
        }
        match error {
            Ok(_) => tracing::info!("the keeper closed its connection; looking for it again"),
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

async fn converse(
    dirs: &Dirs,
    place: &Arc<Place>,
    warm: u32,
    said: &mpsc::Sender<FromKeeper>,
    upgrade: &mut Upgrade,
    met: &mut bool,
) -> Result<Parted, Error> {
    let (data, exe, place) = (dirs.data.clone(), dirs.keeper_exe.clone(), place.clone());
    let launch = move || match place.lost() {
        // A keeper ends when its directory goes. Another one would make what is missing, and run there what this agent is about to give up.
        Some(_) => Err(Error::Gone),
        None => Ok(keeper::launch::ensure(&data, &exe)?),
    };
    let stream = tokio::task::spawn_blocking(launch).await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    let (reader, mut writer) = UnixStream::from_std(stream)?.into_split();
    let mut incoming = Incoming::new(reader);
    say(&mut writer, &Request::Hello { version: VERSION }).await?;
    let Some(body) = incoming.next().await? else { return Ok(Parted::Closed) };
    let (version, pid) = codec::decode_welcome(&body).ok_or(Error::Rude)?;
    match upgrade.look(version, pid).await {
        Verdict::Serve => {}
        Verdict::Ask(request) => {
            say(&mut writer, &request).await?;
            // It says nothing more that counts; the next connection brings a listing.
            while let Ok(Some(_)) = incoming.next().await {}
            return Ok(Parted::Upgrading);
        }
        Verdict::Stuck => return Err(Error::Version { found: version, exe: dirs.keeper_exe.clone() }),
    }
    let Notice::Welcome { fencing, .. } = codec::decode_notice(&body)? else { return Err(Error::Rude) };
    say(&mut writer, &Request::Warm { monitors: warm }).await?;
    let (requests, queue) = mpsc::channel(REQUESTS);
    let greeting = Greeting { requests: Some(requests), fencing, listing: Vec::new() };
    tokio::select! {
        result = read(incoming, greeting, said, met) => result.map(|()| Parted::Closed),
        result = write(writer, queue) => result.map(|()| Parted::Closed),
    }
}

async fn say(writer: &mut OwnedWriteHalf, request: &Request) -> Result<(), Error> {
    Ok(writer.write_all(&codec::frame(&codec::encode_request(request))).await?)
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Request>) -> Result<(), Error> {
    while let Some(request) = queue.recv().await {
        say(&mut writer, &request).await?;
        if let Request::Start { .. } = request {
            failpoint::reach("after-start-sent");
        }
    }
    // The shell has no further request; the reading half goes on.
    std::future::pending().await
}

async fn read(
    mut incoming: Incoming,
    mut greeting: Greeting,
    said: &mpsc::Sender<FromKeeper>,
    met: &mut bool,
) -> Result<(), Error> {
    while let Some(body) = incoming.next().await? {
        if let Some(news) = greeting.hear(codec::decode_notice(&body)?) {
            *met = true;
            said.send(news).await.map_err(|_| Error::Ending)?;
        }
    }
    Ok(())
}

/// What the keeper sends, body by body.
struct Incoming {
    reader: OwnedReadHalf,
    frames: FrameReader,
    buffer: Vec<u8>,
}

impl Incoming {
    fn new(reader: OwnedReadHalf) -> Self {
        Self { reader, frames: FrameReader::default(), buffer: vec![0; 64 << 10] }
    }

    /// The next body; `None` once the keeper has closed the connection.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            if let Some(body) = self.frames.take()? {
                return Ok(Some(body.to_vec()));
            }
            let length = self.reader.read(&mut self.buffer).await?;
            if length == 0 {
                return Ok(None);
            }
            self.frames.feed(&self.buffer[..length]);
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
    fn hear(&mut self, notice: Notice) -> Option<FromKeeper> {
        match notice {
            Notice::Welcome { fencing, .. } => {
                self.fencing = fencing;
                None
            }
            Notice::Listing { attempts, last } => {
                self.listing.extend(attempts);
                let requests = self.requests.take_if(|_| last)?;
                let listing = std::mem::take(&mut self.listing);
                Some(FromKeeper::Connected { listing, requests, fencing: self.fencing })
            }
            // A fact from before the listing's end is in the listing too, or follows from a later notice.
            notice => Some(FromKeeper::Notice(notice)),
        }
    }
}

#[cfg(test)]
mod tests;
