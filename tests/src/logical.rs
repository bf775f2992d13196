//! Logical sidecars: the link's protocol without processes. Each accepts an assignment, reports its start and its end at once, beats,
//! and comes back with the agent's own back-off when its link breaks.

use anyhow::{Context as _, Result, bail};
use proto::v1::informer_message::Message;
use proto::v1::report::What;
use proto::v1::sidecar_link_client::SidecarLinkClient;
use proto::v1::sidecar_message::Message as Said;
use proto::{bounds, id::SidecarId, v1};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// Reports of one assignment: accepted, started, ended.
const REPORTS: u64 = 3;
/// First links that are opened at once; the listen queue is no longer than this.
const OPENING: usize = 128;
/// No number of tasks that is waited for takes longer to end.
const LONGEST: Duration = Duration::from_secs(300);
/// As the agent's: first back-off, doubled with each failure, and the longest.
const BACKOFF_MS: u64 = 100;
const BACKOFF_CAP_MS: u64 = 2_500;

/// Sidecars of one informer. Dropping it ends their links.
pub struct Fleet {
    open: watch::Sender<bool>,
    /// Tasks whose end is durable at the informer.
    pub ended: watch::Receiver<u64>,
    /// Links whose beat was acknowledged.
    pub beating: watch::Receiver<usize>,
    moments: Moments,
    _links: JoinSet<()>,
}

/// One assignment that came down a link, and when its end was reported.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Moment {
    pub task: String,
    pub came: Instant,
    pub reported: Instant,
}

/// What is noted of assignments, once somebody wants it.
#[derive(Debug, Default)]
struct Notes {
    moments: Vec<Moment>,
    /// Of so many assignments the last but one is reported when all before it are over; none: all at once.
    period: Option<usize>,
    /// Tasks whose end was acknowledged before the first of them.
    ended: u64,
}

#[derive(Debug, Clone, Default)]
struct Moments(Arc<Mutex<Option<Notes>>>);

impl Moments {
    fn lock(&self) -> MutexGuard<'_, Option<Notes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its place among the notes, and how many ends have to be acknowledged before its own is reported.
    fn came(&self, assign: &v1::Assign) -> Option<(usize, u64)> {
        let mut lock = self.lock();
        let notes = lock.as_mut()?;
        let task = assign.attempt.as_ref().map(|attempt| attempt.task.clone()).unwrap_or_default();
        let (index, now) = (notes.moments.len(), Instant::now());
        notes.moments.push(Moment { task, came: now, reported: now });
        let waits = notes.period.is_some_and(|period| (index + 2) % period == 0);
        Some((index, if waits { notes.ended + index as u64 } else { 0 }))
    }

    fn reported(&self, index: usize) {
        if let Some(moment) = self.lock().as_mut().and_then(|notes| notes.moments.get_mut(index)) {
            moment.reported = Instant::now();
        }
    }
}

struct Link {
    number: u64,
    slots: u32,
    endpoint: Endpoint,
    open: watch::Receiver<bool>,
    ended: watch::Sender<u64>,
    beating: watch::Sender<usize>,
    moments: Moments,
}

impl Fleet {
    /// So many links of so many slots, each over a connection of its own; they take nothing until opened. Waits until all beat.
    ///
    /// # Errors
    /// The URL is none.
    pub async fn link(url: &str, links: usize, slots: u32) -> Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect_timeout(Duration::from_secs(5));
        let (open, _) = watch::channel(false);
        let (ended, ended_seen) = watch::channel(0);
        let (beating, mut beating_seen) = watch::channel(0);
        let opening = Arc::new(Semaphore::new(OPENING));
        let moments = Moments::default();
        let mut tasks = JoinSet::new();
        for number in 1..=links as u64 {
            let (ended, beating) = (ended.clone(), beating.clone());
            let (endpoint, moments) = (endpoint.clone(), moments.clone());
            let link = Link { number, slots, endpoint, open: open.subscribe(), ended, beating, moments };
            let opening = Arc::clone(&opening);
            tasks.spawn(async move {
                let turn = opening.acquire_owned().await;
                link.keep(turn.ok()).await;
            });
        }
        beating_seen.wait_for(|beating| *beating == links).await?;
        Ok(Self { open, ended: ended_seen, beating: beating_seen, moments, _links: tasks })
    }

    /// Lets all of them take work, or no more.
    pub fn open(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// Notes assignments from now on. Of each `period` of them, which are those of one fork with what follows it, the last but one ends when
    /// all before it have.
    pub fn note(&self, period: Option<usize>) {
        *self.moments.lock() = Some(Notes { period, ended: *self.ended.borrow(), moments: Vec::new() });
    }

    /// What was noted, in the order of coming; no more is.
    #[must_use]
    pub fn noted(&self) -> Vec<Moment> {
        self.moments.lock().take().map(|notes| notes.moments).unwrap_or_default()
    }

    /// Waits until so many have ended.
    ///
    /// # Errors
    /// They have not within [`LONGEST`].
    pub async fn wait_ended(&mut self, count: u64) -> Result<()> {
        let done = tokio::time::timeout(LONGEST, self.ended.wait_for(|ended| *ended >= count)).await;
        let ended = done.map(|seen| seen.map(|ended| *ended));
        match ended {
            Ok(seen) => drop(seen?),
            Err(_) => bail!("after {LONGEST:?} {} ends are acknowledged, not {count}", *self.ended.borrow()),
        }
        Ok(())
    }
}

/// Counts a link as beating until it is dropped.
struct Beating<'a>(&'a watch::Sender<usize>);

impl<'a> Beating<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Beating<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Link {
    /// Opens the link again and again. `turn` is held until the first one beats.
    async fn keep(mut self, mut turn: Option<tokio::sync::OwnedSemaphorePermit>) {
        let mut failures = 0_u32;
        let mut dice = self.number;
        loop {
            let mut heard = false;
            let ended = self.converse(&mut heard, &mut turn).await;
            failures = if heard { 0 } else { failures.saturating_add(1) };
            if let (Err(error), true) = (ended, failures.is_power_of_two() && failures > 8) {
                println!("logical sidecar {}: {failures} failures: {error:#}", self.number);
            }
            // Full jitter, from a generator of its own so that runs are alike: Knuth's MMIX constants.
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let cap_ms = BACKOFF_MS.saturating_mul(1 << failures.min(10)).min(BACKOFF_CAP_MS);
            tokio::time::sleep(Duration::from_millis((dice >> 33) % (cap_ms + 1))).await;
        }
    }

    async fn converse(&mut self, heard: &mut bool, turn: &mut Option<tokio::sync::OwnedSemaphorePermit>) -> Result<()> {
        let channel = self.endpoint.connect().await?;
        let mut client = SidecarLinkClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES);
        // All reports of a full sidecar, what it emits, and beats beside them.
        let (out, queue) = mpsc::channel(REPORTS as usize * self.slots as usize + bounds::EMITS_IN_FLIGHT + 64);
        out.send(said(Said::Hello(self.hello()))).await?;
        let mut stream = client.link(ReceiverStream::new(queue)).await?.into_inner();
        let first = stream.message().await?.and_then(|message| message.message);
        let Some(Message::Welcome(welcome)) = first else { bail!("no welcome but {first:?}") };
        *heard = true;
        let mut beat = tokio::time::interval(Duration::from_millis(welcome.beat_ms.max(1)));
        let (mut beats, mut reports, mut acked) = (0, 0, 0);
        let (mut beating, mut held) = (None, None);
        let mut emitting: Option<Emitting> = None;
        let mut all_ended = self.ended.subscribe();
        loop {
            tokio::select! {
                message = stream.message() => match message?.context("the informer closed the link")?.message {
                    Some(Message::BeatAck(_)) if beating.is_none() => {
                        beating = Some(Beating::new(&self.beating));
                        *turn = None;
                    }
                    Some(Message::Assign(assign)) => match (self.moments.came(&assign), children_of(&assign)) {
                        (Some((index, ended)), _) if ended > 0 => held = Some((index, ended, assign)),
                        (_, Some(children)) => {
                            begin(&out, &assign, &mut reports)?;
                            emitting.insert(Emitting { assign, children, sent: 0, answered: 0 }).emit(&out)?;
                        }
                        _ => {
                            begin(&out, &assign, &mut reports)?;
                            end(&out, &assign, &mut reports)?;
                        }
                    },
                    Some(Message::EmitAnswer(answer)) => {
                        if !answer.refusal.is_empty() {
                            bail!("child {:?} was refused: {}", answer.key, answer.refusal);
                        }
                        if let Some(mut emitter) = emitting.take() {
                            if emitter.is_over_with_one_more() {
                                end(&out, &emitter.assign, &mut reports)?;
                            } else {
                                emitter.emit(&out)?;
                                emitting = Some(emitter);
                            }
                        }
                    }
                    Some(Message::Ack(ack)) => {
                        let more = ack.seq / REPORTS - acked;
                        acked += more;
                        self.ended.send_modify(|ended| *ended += more);
                    }
                    Some(Message::Ping(ping)) => out.try_send(said(Said::Pong(v1::Pong { nonce: ping.nonce })))?,
                    Some(Message::Refuse(refuse)) => bail!("refused: {}: {}", refuse.code, refuse.message),
                    _ => {}
                },
                seen = all_ended.wait_for(|all| held.as_ref().is_some_and(|(_, ended, _)| all >= ended)) => {
                    drop(seen?);
                    if let Some((index, _, assign)) = held.take() {
                        self.moments.reported(index);
                        begin(&out, &assign, &mut reports)?;
                        end(&out, &assign, &mut reports)?;
                    }
                }
                _ = beat.tick() => self.beat(&out, &mut beats)?,
                changed = self.open.changed() => {
                    changed?;
                    self.beat(&out, &mut beats)?;
                }
            }
        }
    }

    fn hello(&self) -> v1::Hello {
        let total =
            v1::Resources { cpu_millis: u64::from(self.slots) * bounds::CPU_DEFAULT_MILLIS, memory_bytes: 1 << 30 };
        v1::Hello {
            protocol_min: proto::PROTOCOL_MIN,
            protocol_max: proto::PROTOCOL_MAX,
            sidecar: SidecarId::from_u128(u128::from(self.number)).to_string(),
            incarnation: 1,
            host: format!("logical-{}", self.number),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            total: Some(total),
            slots: self.slots,
            kinds: vec!["command".to_owned()],
            ..Default::default()
        }
    }

    /// An assignment ends at once, so that nothing is ever held.
    fn beat(&self, out: &mpsc::Sender<v1::SidecarMessage>, beats: &mut u64) -> Result<()> {
        *beats += 1;
        let credit = if *self.open.borrow() { self.slots } else { 0 };
        out.try_send(said(Said::Beat(v1::Beat { seq: *beats, credit, ..Default::default() })))?;
        Ok(())
    }
}

/// How many children an assignment is to emit: what its task's input says.
fn children_of(assign: &v1::Assign) -> Option<usize> {
    let input: serde_json::Value = serde_json::from_str(&assign.input).ok()?;
    usize::try_from(input.get("children")?.as_u64()?).ok()
}

/// A task that emits children, and the seal after them.
struct Emitting {
    assign: v1::Assign,
    children: usize,
    sent: usize,
    answered: usize,
}

impl Emitting {
    /// As many as may be under way.
    fn emit(&mut self, out: &mpsc::Sender<v1::SidecarMessage>) -> Result<()> {
        while self.sent <= self.children && self.sent - self.answered < bounds::EMITS_IN_FLIGHT {
            let (attempt, fence) = (self.assign.attempt.clone(), self.assign.fence);
            let mut emitted = v1::Emitted { attempt, fence, ..Default::default() };
            if self.sent < self.children {
                emitted.key = format!("child-{}", self.sent);
                emitted.payload = format!(r#"{{"name":null,"input":{{"n":{}}}}}"#, self.sent).into_bytes();
            }
            emitted.digest = Sha256::digest(&emitted.payload).to_vec();
            out.try_send(said(Said::Emitted(emitted)))?;
            self.sent += 1;
        }
        Ok(())
    }

    /// One more is answered; whether all are, the seal with them.
    fn is_over_with_one_more(&mut self) -> bool {
        self.answered += 1;
        self.answered > self.children
    }
}

fn begin(out: &mpsc::Sender<v1::SidecarMessage>, assign: &v1::Assign, reports: &mut u64) -> Result<()> {
    report(out, assign, reports, What::Accepted(v1::Accepted {}))?;
    report(out, assign, reports, What::Started(v1::Started { pid: 1, unix_ms: unix_ms(), ..Default::default() }))
}

fn end(out: &mpsc::Sender<v1::SidecarMessage>, assign: &v1::Assign, reports: &mut u64) -> Result<()> {
    let now = unix_ms();
    let ended = v1::Ending { exit_code: Some(0), started_unix_ms: now, ended_unix_ms: now, ..Default::default() };
    report(out, assign, reports, What::Ended(ended))
}

fn report(out: &mpsc::Sender<v1::SidecarMessage>, assign: &v1::Assign, reports: &mut u64, what: What) -> Result<()> {
    *reports += 1;
    let report = v1::Report { seq: *reports, attempt: assign.attempt.clone(), fence: assign.fence, what: Some(what) };
    Ok(out.try_send(said(Said::Report(report)))?)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn said(message: Said) -> v1::SidecarMessage {
    v1::SidecarMessage { message: Some(message) }
}
