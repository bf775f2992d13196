//! The connection to the informer: its address, and the patience to outlive its restart.

use std::{str::FromStr, time::Duration};

use proto::{
    bounds,
    dial::{self, Access, Dial},
    v1::{informer_client::InformerClient, workflow_service_client::WorkflowServiceClient},
};
use tokio::time::Instant;
use tonic::{Response, Status};
use tonic_types::StatusExt as _;

use super::error::{self, Error};

/// Where an informer listens unless told otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:7070";

/// How long `run`, `wait` and `logs -f` look for an informer that went away. A restart takes seconds, a machine's reboot about
/// a minute; a script that hangs for longer helps nobody.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// First pause before another try, doubled each time.
const BACKOFF: Duration = Duration::from_millis(100);
/// Longest pause before another try: a person should not wait longer than this after the informer is back.
const BACKOFF_CAP: Duration = Duration::from_secs(2);
/// Longest pause that an informer's hint can make us take; beyond it we ask again anyhow.
const HINT_CAP: Duration = Duration::from_secs(10);
/// Pings on an otherwise silent connection, so that a follower notices a machine that vanished without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// An informer's address, with our error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(dial::Address);

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.parse()
            .map(Self)
            .map_err(|dial::Malformed(problem)| Error::Address { url: error::one_line(text), problem })
    }
}

/// The generated client, over a connection that carries the token.
pub(crate) type Grpc = InformerClient<dial::Channel>;

/// The same for workflows.
pub(crate) type Flows = WorkflowServiceClient<dial::Channel>;

/// A connected client. It reconnects by itself; whoever calls decides whether to ask again.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    url: String,
    grpc: Grpc,
    flows: Flows,
}

impl Client {
    /// Connects at once, so that an absent informer is told in the first second and not after [`PATIENCE`].
    pub(crate) async fn connect(address: Address, access: Access) -> Result<Self, Error> {
        let url = address.0.to_string();
        let dial = Dial::new(address.0, access)
            .map_err(|cause| Error::Access { url: url.clone(), cause: cause.to_string() })?;
        let endpoint = dial
            .endpoint()
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let channel = dial.connect(&endpoint).await.map_err(|source| Error::unreachable(&url, &source))?;
        let flows = WorkflowServiceClient::new(channel.clone()).max_decoding_message_size(bounds::MESSAGE_BYTES);
        let grpc = InformerClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES);
        Ok(Self { url, grpc, flows })
    }

    /// The generated client; clones share the connection.
    pub(crate) fn grpc(&self) -> Grpc {
        self.grpc.clone()
    }

    /// The client for workflows.
    pub(crate) fn workflows(&self) -> Flows {
        self.flows.clone()
    }

    /// A call's failure as our error.
    pub(crate) fn failed(&self, attempted: &str, status: &Status) -> Error {
        Error::from_status(attempted, &self.url, status)
    }

    /// Patience for this informer, fresh.
    pub(crate) fn patience(&self) -> Patience {
        Patience { url: self.url.clone(), since: None, pause: BACKOFF }
    }

    /// Calls until there is an answer, asking again while the informer is away or busy. Only for calls that may be repeated:
    /// with an idempotency key, or without effect.
    ///
    /// # Errors
    /// The informer's refusal, or [`Error::Gone`] after [`PATIENCE`].
    pub(crate) async fn persist<T, F>(&self, attempted: &str, call: F) -> Result<T, Error>
    where
        F: AsyncFnMut(Grpc) -> Result<Response<T>, Status>,
    {
        self.again(attempted, self.grpc(), call).await
    }

    /// The same by this generated client.
    ///
    /// # Errors
    /// See [`Client::persist`].
    pub(crate) async fn again<C, T, F>(&self, attempted: &str, grpc: C, mut call: F) -> Result<T, Error>
    where
        C: Clone,
        F: AsyncFnMut(C) -> Result<Response<T>, Status>,
    {
        let mut patience = self.patience();
        loop {
            match call(grpc.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if error::is_passing(&status) => patience.pause(&status).await?,
                Err(status) => return Err(self.failed(attempted, &status)),
            }
        }
    }
}

/// How long a silent informer was waited for, and how long the next pause is.
#[derive(Debug)]
pub(crate) struct Patience {
    url: String,
    since: Option<Instant>,
    pause: Duration,
}

impl Patience {
    /// The informer answered: the next failure starts a new count.
    pub(crate) fn restore(&mut self) {
        self.since = None;
        self.pause = BACKOFF;
    }

    /// [`PATIENCE`] is over: the next pause is refused.
    pub(crate) fn is_over(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    /// Waits before another try: the informer's own hint if it gave one, else a back-off with full jitter, since after a restart
    /// every follower comes back at once.
    ///
    /// # Errors
    /// [`Error::Gone`] once [`PATIENCE`] is over.
    pub(crate) async fn pause(&mut self, status: &Status) -> Result<(), Error> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= PATIENCE {
            let cause = error::cause(status);
            return Err(Error::Gone { url: self.url.clone(), waited_s: PATIENCE.as_secs(), cause });
        }
        let hint = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let pause = hint.map_or_else(|| jittered(self.pause), |hint| hint.min(HINT_CAP));
        self.pause = (self.pause * 2).min(BACKOFF_CAP);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Between a tenth of `whole` and all of it.
fn jittered(whole: Duration) -> Duration {
    // The low half of a version 7 UUID is random.
    let random = (uuid::Uuid::now_v7().as_u128() & 0xFFFF) as u32;
    whole / 10 + (whole - whole / 10) * random / 0xFFFF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds() {
        for _ in 0..100 {
            let pause = jittered(BACKOFF_CAP);
            assert!(pause >= BACKOFF_CAP / 10 && pause <= BACKOFF_CAP, "{pause:?}");
        }
    }

    #[tokio::test]
    async fn patience_ends_after_a_minute_and_begins_anew_with_an_answer() {
        let long_ago = Instant::now().checked_sub(PATIENCE);
        let mut patience = Patience { url: "u".into(), since: long_ago, pause: BACKOFF };
        let away = Status::unavailable("restarting");
        let error = patience.pause(&away).await.expect_err("a minute is over");
        assert!(error.to_string().contains("gave up after 60 s: restarting"), "{error}");
        patience.restore();
        assert!(patience.pause(&away).await.is_ok());
    }
}
