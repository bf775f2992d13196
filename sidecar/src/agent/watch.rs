//! Running attempts under watch: progress, stalls, health, and the end that log readers wait for.

use super::files::{Job, Jobs};
use super::reports::Reports;
use super::shell::Input;
use super::{Dirs, clock};
use crate::health::{self, Change, Settings, Tracker};
use crate::machine::Event;
use crate::{exec, logs};
use keeper::wire::{self, Listed, ListedState, Notice, Request};
use proto::id::AttemptId;
use proto::v1;
use proto::v1::task_spec::Kind;
use std::collections::BTreeMap;
use std::path::Path;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

/// What begins the name of a probe's attempt.
const PROBE: &str = "probe.";

/// One running attempt.
pub(super) struct Watch {
    attempt: AttemptId,
    /// How a service is probed.
    check: Option<v1::HealthCheck>,
    /// How long it may go without an advance; 0: for ever.
    stall_ms: u64,
    progress: exec::Progress,
    /// What shows an advance: (step, log bytes).
    advance: (u64, u64),
    advanced_ms: u64,
    /// The prober, and what its last failed probe said.
    prober: Option<(AbortHandle, watch::Receiver<String>)>,
}

impl Watch {
    pub(super) fn new(attempt: AttemptId, spec: &v1::TaskSpec, now_ms: u64) -> Self {
        let progress = exec::Progress::new(spec.kind.as_ref());
        let check = match &spec.kind {
            Some(Kind::Service(service)) => service.health.clone().filter(|check| check.probe.is_some()),
            _ => None,
        };
        let stall_ms = spec.timeouts.as_ref().map_or(0, |timeouts| timeouts.progress_ms);
        Self { attempt, check, stall_ms, progress, advance: (0, 0), advanced_ms: now_ms, prober: None }
    }

    /// Progress if there is some, and a stall if the task's limit without any is over.
    fn sample(&mut self, dir: &Path, told: Option<v1::Progress>, now_ms: u64) -> [Option<Event>; 2] {
        let attempt = self.attempt;
        if told.is_some() {
            // Whatever it told, it is at work.
            self.advanced_ms = now_ms;
        }
        let progress = self.progress.read(dir).or(told);
        let step = progress.as_ref().map_or(self.advance.0, |progress| progress.step);
        let mut stalled = None;
        if self.stall_ms > 0 {
            let length = |file: &str| std::fs::metadata(dir.join(file)).map_or(0, |metadata| metadata.len());
            let advance = (step, length("out") + length("err"));
            if advance != self.advance {
                (self.advance, self.advanced_ms) = (advance, now_ms);
            } else if now_ms.saturating_sub(self.advanced_ms) >= self.stall_ms {
                stalled = Some(Event::Condemned { attempt, why: v1::Reason::Stalled });
            }
        }
        [progress.map(|progress| Event::Progressed { attempt, progress }), stalled]
    }
}

/// All of them.
pub(super) struct Watches {
    dirs: Dirs,
    inbox: mpsc::Sender<Input>,
    jobs: Jobs,
    reports: Reports,
    running: BTreeMap<AttemptId, Watch>,
    ends: BTreeMap<AttemptId, watch::Sender<Option<logs::Final>>>,
    keeper: watch::Sender<Option<mpsc::Sender<Request>>>,
    /// Probes under way, by name.
    probes: BTreeMap<String, oneshot::Sender<Probed>>,
    begun: (mpsc::Sender<Begun>, mpsc::Receiver<Begun>),
}

/// What a probe found; the error is one line for people.
type Probed = Result<(), String>;

/// A probe that a prober has ordered of the keeper.
struct Begun {
    name: String,
    found: oneshot::Sender<Probed>,
}

impl Watches {
    pub(super) fn new(dirs: Dirs, inbox: mpsc::Sender<Input>, jobs: Jobs, reports: Reports) -> Self {
        Self {
            dirs,
            inbox,
            jobs,
            reports,
            running: BTreeMap::new(),
            ends: BTreeMap::new(),
            keeper: watch::channel(None).0,
            probes: BTreeMap::new(),
            // One probe a service is under way.
            begun: mpsc::channel(proto::bounds::SLOTS as usize),
        }
    }

    pub(super) fn on_keeper(&mut self, requests: Option<mpsc::Sender<Request>>) {
        // A probe whose answer went with the connection counts as failed: its prober sees the sender dropped.
        self.gather();
        self.probes.clear();
        self.keeper.send_replace(requests);
    }

    /// The process exists. A repeated notice changes nothing.
    pub(super) fn begin(&mut self, attempt: AttemptId, mut watch: Watch, tasks: &mut JoinSet<Option<u64>>) {
        if self.running.contains_key(&attempt) {
            return;
        }
        if let Some(check) = &watch.check {
            let (failure, failures) = watch::channel(String::new());
            let prober = Prober {
                attempt,
                check: check.clone(),
                dirs: self.dirs.clone(),
                inbox: self.inbox.clone(),
                keeper: self.keeper.subscribe(),
                begun: self.begun.0.clone(),
                failure,
                count: 0,
            };
            watch.prober = Some((tasks.spawn(prober.run()), failures));
        }
        self.running.insert(attempt, watch);
    }

    /// It ended; its log is final.
    pub(super) fn end(&mut self, attempt: AttemptId, facts: logs::Final) {
        self.reports.close(attempt);
        if let Some((prober, _)) = self.running.remove(&attempt).and_then(|watch| watch.prober) {
            prober.abort();
        }
        if let Some(end) = self.ends.remove(&attempt) {
            end.send_replace(Some(facts));
        }
    }

    /// What the last failed probe of a running service said; empty if none failed, or none under this agent.
    pub(super) fn last_failure(&self, attempt: AttemptId) -> String {
        let prober = self.running.get(&attempt).and_then(|watch| watch.prober.as_ref());
        prober.map_or(String::new(), |(_, failures)| failures.borrow().clone())
    }

    /// Over without a process, perhaps: whoever waits for its log waits no longer.
    pub(super) fn over(&mut self, attempt: AttemptId) {
        self.end(attempt, logs::Final::default());
    }

    /// What a log reader waits for; `None` if nothing of it runs and its record says all.
    pub(super) fn ended(&mut self, attempt: AttemptId) -> Option<watch::Receiver<Option<logs::Final>>> {
        let is_over = keeper::record::read(&self.dirs.attempt(attempt)).is_ok_and(|record| record.is_final());
        if is_over {
            return None;
        }
        Some(self.ends.entry(attempt).or_insert_with(|| watch::channel(None).0).subscribe())
    }

    pub(super) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    pub(super) fn sample(&mut self, now_ms: u64) -> Vec<Event> {
        let (dirs, reports) = (&self.dirs, &self.reports);
        let sample = |(attempt, watch): (&AttemptId, &mut Watch)| {
            watch.sample(&dirs.attempt(*attempt), reports.take(*attempt), now_ms)
        };
        self.running.iter_mut().flat_map(sample).flatten().collect()
    }

    /// A listed name that is no attempt: the probe of an earlier agent. Nobody waits for it.
    pub(super) fn on_strange(&mut self, listed: Listed) {
        if listed.name.starts_with(PROBE) && matches!(listed.state, ListedState::Ended(_) | ListedState::Lost) {
            self.purge_probe(listed.name);
        }
    }

    pub(super) fn on_probe_notice(&mut self, name: &str, notice: &Notice) {
        self.gather();
        let found = match notice {
            Notice::Ended { end, .. } => self.probed(name, end),
            Notice::Refused { message, .. } => Err(format!("the probe was not started: {message}")),
            Notice::Lost { .. } => Err("the probe was lost".to_owned()),
            _ => return,
        };
        if let Some(waiting) = self.probes.remove(name) {
            // A prober that was ended meanwhile does not want to know.
            let _gone = waiting.send(found);
        }
        if name.starts_with(PROBE) {
            self.purge_probe(name.to_owned());
        }
    }

    fn probed(&self, name: &str, end: &wire::End) -> Probed {
        match (end.reason, end.code) {
            (wire::EndReason::Exited, Some(0)) => Ok(()),
            (wire::EndReason::TimedOut, _) => Err("the probe did not end in time".to_owned()),
            _ => {
                let dir = self.dirs.data.join(keeper::record::ATTEMPTS).join(name);
                Err(exec::ending(&dir, &v1::TaskSpec::default(), end).message)
            }
        }
    }

    fn purge_probe(&self, name: String) {
        // The thread lives as long as this sender.
        let _alive = self.jobs.send(Job::PurgeProbe(name));
    }

    fn gather(&mut self) {
        while let Ok(begun) = self.begun.1.try_recv() {
            self.probes.insert(begun.name, begun.found);
        }
    }
}

/// Probes one service until it is ended.
struct Prober {
    attempt: AttemptId,
    check: v1::HealthCheck,
    dirs: Dirs,
    inbox: mpsc::Sender<Input>,
    keeper: watch::Receiver<Option<mpsc::Sender<Request>>>,
    begun: mpsc::Sender<Begun>,
    failure: watch::Sender<String>,
    count: u64,
}

impl Prober {
    async fn run(mut self) -> Option<u64> {
        let mut tracker = Tracker::new(Settings::of(&self.check), clock::boot_ms());
        self.tell(tracker.health()).await?;
        loop {
            clock::sleep_until(tracker.next_due_ms()?).await;
            if !tracker.on_due(clock::boot_ms()) {
                continue;
            }
            let found = self.probe().await;
            let healthy = found.is_ok();
            if let Err(failure) = found {
                tracing::debug!(attempt = %self.attempt, failure, "a health probe failed");
                self.failure.send_replace(failure);
            }
            let Some(change) = tracker.on_result(clock::boot_ms(), healthy) else { continue };
            self.tell(tracker.health()).await?;
            if change == Change::Unhealthy {
                let condemned = Event::Condemned { attempt: self.attempt, why: v1::Reason::Unhealthy };
                self.inbox.send(Input::Event(condemned)).await.ok()?;
            }
        }
    }

    async fn tell(&self, health: v1::Health) -> Option<()> {
        let progress = v1::Progress { health: health.into(), ..Default::default() };
        self.inbox.send(Input::Event(Event::Progressed { attempt: self.attempt, progress })).await.ok()
    }

    async fn probe(&mut self) -> Probed {
        match &self.check.probe {
            Some(v1::health_check::Probe::Command(_)) => {
                self.run_command().await.unwrap_or_else(|| Err("no keeper ran the probe".to_owned()))
            }
            _ => health::check(&self.check).await.map_err(|failure| failure.to_string()),
        }
    }

    /// Through the keeper, which bounds it and cleans up after it like any attempt.
    async fn run_command(&mut self) -> Option<Probed> {
        let record = keeper::record::read(&self.dirs.attempt(self.attempt)).ok()?;
        let mut spec = health::probe_spec(&self.check, &record.spec?)?;
        if spec.cwd.is_empty() {
            spec.cwd = self.dirs.attempt(self.attempt).join("work").to_str()?.to_owned();
        }
        self.count += 1;
        // The moment makes it a name that no earlier agent has used.
        let name = health::probe_name(&self.attempt.dir_name(), clock::boot_ms() + self.count);
        let requests = self.keeper.borrow().clone()?;
        let (found, answer) = oneshot::channel();
        self.begun.send(Begun { name: name.clone(), found }).await.ok()?;
        requests.send(Request::Start { name, spec: Box::new(spec) }).await.ok()?;
        answer.await.ok()
    }
}
