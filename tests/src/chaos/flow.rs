//! A world in which tasks flow: clients submit, cancel, watch and read, each in a thread of its own, while a case does its harm.
//!
//! ```text
//! begin ─▶ clients flow … harm … heal … ─▶ settle: all end, books close, processes are gone ─▶ evidence ─▶ verdict
//! ```

use super::checker::{self, Evidence, Verdict};
use super::client::{self, Client, is_terminal};
use super::job::{Ends, Job};
use super::probe::{self, Act, What};
use super::recorder::{Recorder, Told};
use super::{Outcome, Round, now};
use crate::files::names;
use crate::world::{DEADLINE, World, parent, processes_with, wait_for, wait_within};
use anyhow::{Context as _, Result, anyhow, ensure};
use proto::dial::Dial;
use proto::v1;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that submit.
const SUBMITTERS: usize = 3;
/// Jobs whose logs are read while they are written.
const FOLLOWED: usize = 3;
/// Slots of each sidecar.
const SLOTS: &str = "4";
/// The longest hesitation before a harm that comes at a random moment.
const HESITATE_MS: u64 = 80;
/// How long what comes about in milliseconds is waited for where a deliberate mistake may keep it from coming about at all: the mistake
/// has shown by then, and nothing else is judged.
const MISTAKEN: Duration = Duration::from_millis(1500);
/// Between two looks at what has no event of its own.
const LOOK_AGAIN: Duration = Duration::from_millis(15);
/// The beat of a round, as `serve` takes it and as a duration. A lease is three of them.
pub const BEAT: (&str, Duration) = ("500ms", Duration::from_millis(500));
/// Between the end of a lease and SIGKILL.
pub const FENCE_GRACE: (&str, Duration) = ("500ms", Duration::from_millis(500));

/// What a client does until the round is over.
type Work = Box<dyn FnOnce(&Dial, &Recorder, &AtomicBool) -> Result<()> + Send>;

/// A world with its clients.
pub struct Flow {
    /// The processes.
    pub world: World,
    /// What clients are told.
    pub recorder: Arc<Recorder>,
    /// A client for the case's own questions.
    pub client: Client,
    /// What flows.
    pub jobs: Arc<Vec<Job>>,
    /// A monitor is, or will be, killed or stopped.
    pub monitors_harmed: bool,
    /// Where probes write.
    pub probes: PathBuf,
    boxes: usize,
    timed: bool,
    patience: Duration,
    submitters: Vec<JoinHandle<Result<()>>>,
    others: Vec<JoinHandle<Result<()>>>,
    over: Arc<AtomicBool>,
}

/// A world for rounds: short beats, nothing started.
///
/// # Errors
/// There is no directory to be had.
pub fn world(round: &Round) -> Result<World> {
    let mut world = World::empty()?;
    settings(&mut world, round);
    std::fs::create_dir(probes(&world))?;
    std::fs::create_dir(world.dir().join("out"))?;
    Ok(world)
}

/// Short beats and graces for an informer that is started from now on.
pub fn settings(world: &mut World, round: &Round) {
    world.beat = BEAT.0;
    if let Some((variable, bug)) = round.bug {
        world.set(variable, bug.into());
    }
    world.set("INFORMER_FENCE_GRACE", FENCE_GRACE.0.into());
}

/// The directory that probes of this world write to; it stands in the command line of each.
#[must_use]
pub fn probes(world: &World) -> PathBuf {
    world.dir().join("probes")
}

/// The arguments of each sidecar of a round.
#[must_use]
pub const fn sidecar_args() -> &'static [&'static str] {
    &["--slots", SLOTS, "--cpu", "4000"]
}

impl Flow {
    /// An informer, so many sidecars, and clients with `count` jobs of every kind.
    ///
    /// # Errors
    /// Something does not start.
    pub fn begin(round: &mut Round, boxes: usize, count: usize) -> Result<Self> {
        let mut world = world(round)?;
        world.start_informer(&[])?;
        for n in 0..boxes {
            world.start_sidecar(n, sidecar_args(), &[])?;
        }
        world.wait_linked(boxes)?;
        let jobs = super::job::mix(count, &probes(&world), &mut round.rng);
        Self::over(round, world, jobs)
    }

    /// Clients with these jobs over a world that runs.
    ///
    /// # Errors
    /// A client does not start.
    pub fn over(round: &Round, world: World, jobs: Vec<Job>) -> Result<Self> {
        let dial = client::dial(&world)?;
        let recorder = Arc::new(Recorder::new(&round.scratch.join("history.jsonl"))?);
        let mut flow = Self {
            recorder,
            client: Client::new(&dial)?,
            probes: probes(&world),
            boxes: world.sidecars.len(),
            world,
            jobs: Arc::new(jobs),
            monitors_harmed: false,
            timed: round.timed,
            patience: if round.bug.is_some() { MISTAKEN } else { DEADLINE },
            submitters: Vec::new(),
            others: Vec::new(),
            over: Arc::default(),
        };
        flow.start_clients(&dial);
        Ok(flow)
    }

    fn start_clients(&mut self, dial: &Dial) {
        for n in 0..SUBMITTERS {
            let (dial, recorder) = (dial.clone(), Arc::clone(&self.recorder));
            let share: Vec<Job> = self.jobs.iter().skip(n).step_by(SUBMITTERS).cloned().collect();
            self.submitters.push(std::thread::spawn(move || client::submit_all(&dial, &share, &recorder)));
        }
        let mut other = |work: Work| {
            let (dial, recorder, over) = (dial.clone(), Arc::clone(&self.recorder), Arc::clone(&self.over));
            self.others.push(std::thread::spawn(move || work(&dial, &recorder, &over)));
        };
        let (jobs, dir) = (Arc::clone(&self.jobs), self.probes.clone());
        other(Box::new(move |dial, recorder, over| client::cancel_running(dial, &jobs, &dir, recorder, over)));
        other(Box::new(client::watch));
        let keys: Vec<String> = self.jobs.iter().take(FOLLOWED).map(|job| job.key.clone()).collect();
        other(Box::new(move |dial, recorder, over| client::follow(dial, &keys, recorder, over)));
    }

    /// What processes did so far.
    #[must_use]
    pub fn acts(&self) -> Vec<Act> {
        probe::acts(&self.probes)
    }

    /// How many attempts have started.
    #[must_use]
    pub fn starts(&self) -> usize {
        self.acts().iter().filter(|act| matches!(act.what, What::Start(..))).count()
    }

    /// Waits for a moment of chance while tasks flow: so many starts, and then some hesitation. It is the subject's time, not a wait for
    /// anything.
    ///
    /// # Errors
    /// The tasks do not flow.
    pub fn wait_moment(&mut self, round: &mut Round, starts: usize) -> Result<()> {
        wait_for(&format!("{starts} attempts have started"), || (self.starts() >= starts).then_some(()))?;
        std::thread::sleep(Duration::from_millis(round.rng.range(0, HESITATE_MS)));
        Ok(())
    }

    /// Records that a fault begins; the time of it.
    pub fn harm(&self, what: &str) -> Duration {
        self.recorder.tell(Told::Harm { what: what.to_owned() });
        now()
    }

    /// Records that it is over; the time of it.
    pub fn heal(&self, what: &str) -> Duration {
        self.recorder.tell(Told::Healed { what: what.to_owned() });
        now()
    }

    /// The id that a key was acknowledged with.
    #[must_use]
    pub fn id(&self, key: &str) -> Option<String> {
        self.recorder.acknowledged().into_iter().find(|(known, _)| known == key).map(|(_, id)| id)
    }

    /// The id of sidecar `n`, as its own data say it.
    ///
    /// # Errors
    /// It has none.
    pub fn sidecar_id(&self, n: usize) -> Result<String> {
        let live = self.client.sidecars();
        let found = live.iter().find(|sidecar| self.world.sidecar_named(&sidecar.id).is_ok_and(|named| named == n));
        Ok(found.with_context(|| format!("sidecar {n} is not known: {live:?}"))?.id.clone())
    }

    /// Waits until this sidecar is not, or is again, live.
    ///
    /// # Errors
    /// It stays as it is.
    pub fn wait_live(&self, id: &str, live: bool) -> Result<Duration> {
        client::wait_sidecars(&self.client, &format!("live: {live} of {id}"), |sidecars| {
            let state = sidecars.iter().find(|sidecar| sidecar.id == id).map(v1::Sidecar::state);
            // No answer at all tells nothing.
            !sidecars.is_empty() && (state == Some(v1::SidecarState::Live)) == live
        })?;
        Ok(now())
    }

    /// Waits until all sidecars are live.
    ///
    /// # Errors
    /// They are not.
    pub fn wait_all_live(&self) -> Result<Duration> {
        client::wait_sidecars(&self.client, "all sidecars are live", |sidecars| {
            let live = sidecars.iter().filter(|sidecar| sidecar.state() == v1::SidecarState::Live).count();
            live == self.boxes
        })?;
        Ok(now())
    }

    /// Whether every task that ends by itself has ended, as its processes say: nothing is left that a fault could meet.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let acts = self.acts();
        let ended = |job: &Job| acts.iter().any(|act| act.name == job.key && matches!(act.what, What::End(_)));
        self.jobs.iter().filter(|job| matches!(job.ends, Ends::Well | Ends::Badly { .. })).all(ended)
    }

    /// The monitors of sidecar `n` whose task runs, with the task's name and attempt.
    #[must_use]
    pub fn busy_monitors(&self, n: usize) -> Vec<(i32, (String, u32))> {
        let keeper = self.world.keeper(n);
        let mut monitors = self.world.keepers_and_monitors(n);
        monitors.retain(|pid| Some(*pid) != keeper);
        // The init of a namespace is a monitor's copy: the monitor is the one on top.
        let above = |pid| std::iter::successors(parent(pid), |pid| parent(*pid)).take_while(|pid| *pid > 1);
        let top = |pid| above(pid).filter(|pid| monitors.contains(pid)).last();
        probe::running(&self.probes).into_iter().filter_map(|(who, pid)| Some((top(pid)?, who))).collect()
    }

    /// Whether the main process of this attempt runs.
    #[must_use]
    pub fn runs(&self, act: &Act) -> bool {
        probe::running(&self.probes).contains_key(&(act.name.clone(), act.attempt))
    }

    /// Lets everything come to its end, and judges.
    ///
    /// # Errors
    /// A client cannot go on, or evidence cannot be read.
    pub fn settle(&mut self) -> Result<Verdict> {
        let mut hung = Vec::new();
        for thread in std::mem::take(&mut self.submitters) {
            let submitted = thread.join().map_err(|_| anyhow!("a submitter panicked"))?;
            hung.extend(submitted.err().map(|error| format!("{error:#}")));
        }
        self.cancel_rest()?;
        hung.extend(self.wait_terminal().err().map(|error| format!("{error:#}")));
        for job in self.jobs.iter().take(2) {
            self.client.submit_other(job, &self.recorder)?;
        }
        self.over.store(true, Ordering::SeqCst);
        for thread in std::mem::take(&mut self.others) {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        let mark = self.probes.as_os_str().as_encoded_bytes().to_vec();
        // What is late shows in the evidence.
        let _late = wait_within(self.patience, "no probe is left", || processes_with(&mark).is_empty().then_some(()));
        let _late = wait_within(self.patience, "books are closed", || self.books_are_closed().then_some(()));
        let _late =
            wait_within(self.patience, "nothing is beside the outputs", || self.outputs_are_clean().then_some(()));
        let evidence = self.evidence(hung)?;
        let verdict = checker::judge(&evidence);
        if !verdict.violations.is_empty() {
            self.keep(&evidence, &verdict);
        }
        Ok(verdict)
    }

    /// Settles, and makes an outcome of it.
    ///
    /// # Errors
    /// As [`Flow::settle`].
    pub fn outcome(
        &mut self,
        happened: &str,
        detected: Option<Duration>,
        recovered: Option<Duration>,
    ) -> Result<Outcome> {
        let Verdict { violations, lost, doubled } = self.settle()?;
        Ok(Outcome { happened: happened.to_owned(), detected, recovered, lost, doubled, violations })
    }

    /// Cancels what does not end by itself.
    fn cancel_rest(&self) -> Result<()> {
        for job in self.jobs.iter().filter(|job| matches!(job.ends, Ends::Cancelled | Ends::Stays)) {
            let Some(id) = self.id(&job.key) else { continue };
            // A service should have been seen running, or nothing was tried on it.
            let begun = || self.acts().iter().any(|act| act.name == job.key).then_some(());
            wait_for(&format!("{} has started", job.key), begun)?;
            self.client.cancel(&id, &self.recorder)?;
        }
        Ok(())
    }

    fn wait_terminal(&self) -> Result<()> {
        for (key, id) in self.recorder.acknowledged() {
            let mut last = None;
            wait_within(self.patience, &format!("{key} has ended"), || {
                last = self.client.task(&id);
                last.as_ref().is_some_and(|task| is_terminal(task.state())).then_some(())
            })
            .with_context(|| format!("{last:?}"))?;
        }
        Ok(())
    }

    fn books_are_closed(&self) -> bool {
        let sidecars = self.client.sidecars();
        let closed = |sidecar: &v1::Sidecar| {
            let allocated = sidecar.allocated.unwrap_or_default();
            (allocated.cpu_millis, allocated.memory_bytes, sidecar.running) == (0, 0, 0)
        };
        sidecars.len() == self.boxes && sidecars.iter().all(closed)
    }

    fn outputs_are_clean(&self) -> bool {
        let wanted = self.jobs.iter().flat_map(|job| &job.outputs).count();
        names(&self.out()).is_ok_and(|names| names.len() <= wanted && !names.iter().any(|name| name.contains(".part")))
    }

    fn out(&self) -> PathBuf {
        self.probes.with_file_name("out")
    }

    fn evidence(&self, hung: Vec<String>) -> Result<Evidence> {
        let tasks = self.client.tasks()?;
        let (mut histories, mut logs, mut files) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for task in &tasks {
            histories.insert(task.id.clone(), self.client.history(&task.id)?);
            for attempt in &task.attempts {
                if let Some(log) = self.log(task, attempt) {
                    logs.insert((task.id.clone(), attempt.number), log);
                }
            }
        }
        for name in names(&self.out())? {
            let path = self.out().join(name);
            let bytes = std::fs::read(&path)?;
            files.insert(path, bytes);
        }
        Ok(Evidence {
            jobs: self.jobs.to_vec(),
            events: self.recorder.events(),
            acts: self.acts(),
            histories,
            logs,
            files,
            sidecars: self.client.sidecars(),
            boxes: self.boxes,
            left: processes_with(self.probes.as_os_str().as_encoded_bytes()).into_iter().map(describe).collect(),
            hung,
            monitors_harmed: self.monitors_harmed,
            timed: self.timed.then_some(BEAT.1),
            tasks,
        })
    }

    /// A winner's log is there, though perhaps not at once: its sidecar may be linking.
    fn log(&self, task: &v1::Task, attempt: &v1::Attempt) -> Option<Vec<client::Chunk>> {
        let read = || self.client.log(&task.id, attempt.number);
        let whole = matches!(attempt.state(), v1::AttemptState::Succeeded | v1::AttemptState::Failed);
        if whole { wait_within(self.patience, "a log is read", read).ok() } else { read() }
    }

    /// Writes down what was found, for a person.
    fn keep(&self, evidence: &Evidence, verdict: &Verdict) {
        let dir = self.world.dir();
        let _kept = std::fs::write(
            dir.join("evidence"),
            format!("{verdict:#?}\n{:#?}\n{:#?}", evidence.tasks, evidence.histories),
        );
        let _kept = std::fs::write(dir.join("events"), format!("{:#?}", evidence.events));
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // A case that failed leaves its clients to themselves: they end with the next look.
        self.over.store(true, Ordering::SeqCst);
    }
}

fn describe(pid: i32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("process {pid} ({})", String::from_utf8_lossy(&line).replace('\0', " ").trim())
}

/// The time between two moments.
#[must_use]
pub fn between(from: Duration, to: Duration) -> Option<Duration> {
    Some(to.saturating_sub(from))
}

/// Repeats a look and a deed until the look sees something.
///
/// # Errors
/// It does not within [`DEADLINE`], or the deed fails.
pub fn until<T>(what: &str, flow: &mut Flow, mut look: impl FnMut(&mut Flow) -> Result<Option<T>>) -> Result<T> {
    let begin = now();
    loop {
        if let Some(seen) = look(flow)? {
            return Ok(seen);
        }
        ensure!(now() - begin < DEADLINE, "waited {DEADLINE:?} in vain until {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Where a world's file is that only the first dying process can make.
#[must_use]
pub fn once(world: &World) -> PathBuf {
    Path::new(world.dir()).join("died")
}
