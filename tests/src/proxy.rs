//! A TCP proxy that stands for the network between a sidecar and its informer: it can be cut, both ways or one, reset and healed.
//!
//! A cut holds bytes back, as a network does whose packets are dropped and sent again: what was said arrives after the healing, if
//! both ends are still there. A reset is what a router or a killed peer causes: each connection ends at once with RST.

use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// Connections at once; further ones wait in the listener's queue. A sidecar has two, and its attempts to reconnect while the network
/// is cut hang as long as it lets them.
const CONNECTIONS: usize = 64;
/// Bytes on their way in each direction of a connection: enough for a full HTTP/2 window's pieces to flow.
const BUFFER_BYTES: usize = 16 << 10;
/// How long dropping the proxy waits for its tasks, all of which end at their next await.
const STOP: Duration = Duration::from_secs(5);

/// Directions of connections so far; each is held back in a way of its own.
static DIRECTIONS: AtomicU64 = AtomicU64::new(0);

/// What the network lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weather {
    /// From the sidecar to the informer.
    up: bool,
    /// From the informer to the sidecar.
    down: bool,
    /// Connections of an older generation are reset.
    generation: u64,
    /// The longest that bytes are held back; each piece and each connection differ.
    delay: Duration,
}

/// A proxy in front of one address. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    weather: watch::Sender<Weather>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Proxy {
    /// Listens on a free port of the loopback and forwards to the address of this URL.
    ///
    /// # Errors
    /// The port or a thread cannot be had.
    pub fn to(url: &str) -> Result<Self> {
        Self::between("127.0.0.1:0", url)
    }

    /// Listens on this address and forwards to the address of the URL.
    ///
    /// # Errors
    /// The address or a thread cannot be had.
    pub fn between(listen: &str, url: &str) -> Result<Self> {
        let target: SocketAddr =
            url.trim_start_matches("http://").parse().context("the informer's URL has an address")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(listen))?;
        let (weather, seen) = watch::channel(Weather { up: true, down: true, generation: 0, delay: Duration::ZERO });
        let url = format!("http://{}", listener.local_addr()?);
        runtime.spawn(accept(listener, target, seen));
        Ok(Self { url, weather, runtime: Some(runtime) })
    }

    /// Where it listens, as sidecars are told it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Nothing passes any more, in either direction.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| (weather.up, weather.down) = (false, false));
    }

    /// Nothing passes from the sidecar to the informer.
    pub fn cut_up(&self) {
        self.weather.send_modify(|weather| weather.up = false);
    }

    /// Nothing passes from the informer to the sidecar.
    pub fn cut_down(&self) {
        self.weather.send_modify(|weather| weather.down = false);
    }

    /// Resets each connection; new ones are taken.
    pub fn reset(&self) {
        self.weather.send_modify(|weather| weather.generation += 1);
    }

    /// Each piece of bytes is held back for up to so long, and each connection differs: what is said on one may overtake what was said
    /// before on another. Within a connection TCP keeps the order.
    pub fn delay(&self, longest: Duration) {
        self.weather.send_modify(|weather| weather.delay = longest);
    }

    /// All passes again, at once.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| (weather.up, weather.down, weather.delay) = (true, true, Duration::ZERO));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(STOP);
        }
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, weather: watch::Receiver<Weather>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Ok((client, _)) = listener.accept().await else { continue };
        let weather = weather.clone();
        tokio::spawn(async move {
            connection(client, target, weather).await;
            drop(permit);
        });
    }
}

/// Ends when both directions have, or by a reset.
async fn connection(mut client: TcpStream, target: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let generation = weather.borrow_and_update().generation;
    // An informer that is down refuses; so does the proxy, by closing.
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::join!(
                pump(from_client, to_server, weather.clone(), |weather| weather.up),
                pump(from_server, to_client, weather.clone(), |weather| weather.down),
            )
        };
        let mut reset = weather.clone();
        tokio::select! {
            _ = both => true,
            _ = reset.wait_for(|weather| weather.generation != generation) => false,
        }
    };
    if !ended {
        // A socket that is closed without lingering says RST. That it is gone already is as good.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Carries bytes one way while that way is open.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
    open: fn(&Weather) -> bool,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let direction = DIRECTIONS.fetch_add(1, Ordering::Relaxed);
    let mut piece = 0;
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        let longest = u64::try_from(weather.borrow().delay.as_millis()).unwrap_or(u64::MAX);
        if longest > 0 {
            piece += 1;
            // Scattered as well as any chance, by two primes.
            let millis = (piece * 7919 + direction * 104_729) % (longest + 1);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        // Also the end of a stream is news that a cut holds back.
        if weather.wait_for(open).await.is_err() {
            return;
        }
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
