//! What clients were told and what processes did. The judge knows nothing of how the machines work, nor which deliberate mistake is
//! in them. What becomes durable is judged in `commits`, the world as a whole in `ends`.

use super::disk::Store;
use super::flow::{self, OURS, Table, Try};
use super::judge::{Check, Wrong, wrong};
use super::script::{Script, TaskPlan};
use super::workbox::Workbox;
use super::{BEAT_MS, Rng};
use informer::machine::{NewArray, Rejection};
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{store, v1};
use sidecar::machine::Refusal;
use std::collections::{BTreeMap, BTreeSet};

/// Files that a task with outputs declares.
pub(super) const FILES: usize = 2;

/// A submit as a client made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub task: usize,
    /// With another payload than the first.
    pub other: bool,
}

/// What a process will do.
pub(super) struct Plan {
    pub runs_ms: u64,
    pub ending: v1::Ending,
    pub stops: bool,
    /// Why nothing starts.
    pub refusal: Option<Refusal>,
    /// When it makes progress, and how far it is then.
    pub progress: Vec<(u64, u64)>,
    /// When the agent's watch loses its patience.
    pub condemned: Option<(u64, v1::Reason)>,
    /// Its outputs cannot be put in place.
    pub unpublishable: bool,
    /// Longest time that putting one file in place takes, ms. Some are slow: a lease may end meanwhile.
    pub rename_ms: u64,
}

/// Where the outputs of a task go.
#[derive(Debug, Default, Clone)]
pub(super) struct Destination {
    pub fence: Fence,
    pub files: [Option<AttemptId>; FILES],
}

/// Everything that was observed.
#[derive(Default)]
pub(super) struct Truth {
    seed: u64,
    plans: Vec<TaskPlan>,
    features: BTreeSet<super::Feature>,
    /// What clients were told: which task their submit is.
    pub acknowledged: BTreeMap<usize, TaskId>,
    /// Submits that a client still waits for.
    unanswered: BTreeSet<usize>,
    pub tasks: BTreeMap<TaskId, usize>,
    pub cancelled: BTreeSet<TaskId>,
    pub retried: BTreeSet<TaskId>,
    pruned: BTreeSet<TaskId>,
    spawned: BTreeMap<(SidecarId, AttemptId), Fence>,
    /// Whose each fence is: the box's and the attempt's.
    fences: BTreeMap<Fence, (Option<usize>, AttemptId)>,
    /// The latest attempt of each task since the last backup was restored, with its fence.
    latest: BTreeMap<TaskId, (u32, Fence)>,
    pub alive: BTreeSet<(SidecarId, AttemptId)>,
    pub ended: BTreeMap<AttemptId, Vec<v1::Ending>>,
    /// Its monitor was killed, or its record is gone: its end may be unknown.
    pub unrecorded: BTreeSet<AttemptId>,
    /// Ends, by task, that are the task's own fault.
    pub faults: BTreeMap<TaskId, u32>,
    /// Attempts that the store has named winners.
    pub winners: BTreeSet<AttemptId>,
    pub destinations: BTreeMap<TaskId, Destination>,
    /// By box, as all of logs.
    pub logs_stored: BTreeSet<(usize, AttemptId)>,
    pub logs_wanted: BTreeSet<(usize, AttemptId)>,
    /// Logs that a sidecar said it would not keep any longer.
    pub logs_given_up: BTreeSet<(usize, AttemptId)>,
    /// When the informer last heard each sidecar's beat.
    heard: BTreeMap<SidecarId, u64>,
    pub terminal: BTreeMap<TaskId, (i32, Option<v1::Ending>)>,
    /// Backups that were restored, and what ran then.
    pub restores: u32,
    /// Sidecars that were told to stop their tasks in the batch whose effects leave.
    pub drained: BTreeSet<SidecarId>,
    copies_before: BTreeSet<(SidecarId, AttemptId)>,
    /// What the last of them does not know to be assigned, on boxes that it does not know to be linked: nobody can wait for those.
    assigned_before: BTreeSet<(SidecarId, AttemptId, Fence)>,
    /// Boxes whose inventory the informer that was restored last has answered.
    told: BTreeSet<SidecarId>,
    /// Tasks that do the work of runs' steps: which try of what, and which of the tasks of ours.
    pub of_runs: BTreeMap<TaskId, (Try, usize)>,
    run_plans: Vec<TaskPlan>,
    table: Table,
}

/// Whether a row's state is final.
pub(super) fn is_terminal(row: &store::TaskRow) -> bool {
    matches!(row.state(), v1::TaskState::Succeeded | v1::TaskState::Failed | v1::TaskState::Cancelled)
}

impl Plan {
    /// A process that does its work and ends, and nothing else.
    pub(super) fn plain(runs_ms: u64, ending: v1::Ending, stops: bool) -> Self {
        Self {
            runs_ms,
            ending,
            stops,
            refusal: None,
            progress: Vec::new(),
            condemned: None,
            unpublishable: false,
            rename_ms: 0,
        }
    }
}

impl Truth {
    pub(super) fn new(seed: u64, script: &Script) -> Self {
        let table = Table { seed, failing: script.flow.as_ref().map_or(0, |flow| flow.failing) };
        Self {
            seed,
            plans: script.tasks.clone(),
            features: script.features.clone(),
            run_plans: (0..OURS.len()).map(flow::plan).collect(),
            table,
            ..Self::default()
        }
    }

    pub(super) fn is_acknowledged(&self, task: usize) -> bool {
        self.acknowledged.contains_key(&task)
    }

    pub(super) fn acknowledged_task(&self, task: usize) -> Option<TaskId> {
        self.acknowledged.get(&task).copied()
    }

    /// It was acknowledged once, and forgotten by retention or with a backup: its client asks no more. One that was never answered does:
    /// what was forgotten meanwhile may have ended before anybody heard that it was there.
    pub(super) fn is_given_up(&self, task: usize) -> bool {
        let forgotten = self.tasks.iter().any(|(id, nth)| *nth == task && self.pruned.contains(id));
        forgotten && !self.unanswered.contains(&task)
    }

    pub(super) fn array_of(&self, task: TaskId) -> Option<NewArray> {
        self.tasks.get(&task).and_then(|nth| self.plans[*nth].array)
    }

    /// Which of the script's tasks has this id.
    pub(super) fn submitted_as(&self, task: TaskId) -> Option<usize> {
        self.tasks.get(&task).copied()
    }

    pub(super) fn expect_answer(&mut self, task: usize) {
        self.unanswered.insert(task);
    }

    pub(super) fn unanswered(&self) -> Option<usize> {
        self.unanswered.first().copied()
    }

    pub(super) fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    pub(super) fn on_submitted(&mut self, id: TaskId, task: usize) {
        self.tasks.insert(id, task);
    }

    pub(super) fn on_cancel_asked(&mut self, task: TaskId) {
        self.cancelled.insert(task);
    }

    /// A retried member brings its array back, and a retried array its members.
    pub(super) fn on_retry_asked(&mut self, task: TaskId) {
        self.retried.insert(task);
        self.retried.extend(task.array());
    }

    pub(super) fn was_retried(&self, task: TaskId) -> bool {
        self.retried.contains(&task) || task.array().is_some_and(|array| self.retried.contains(&array))
    }

    /// An acknowledgement: the task must be durable, and one key must mean one task.
    pub(super) fn on_acknowledged(&mut self, store: &Store, asked: Asked, task: TaskId) -> Result<(), Wrong> {
        if asked.other {
            let known = self.acknowledged.get(&asked.task);
            return wrong(
                Check::OneKeyOneTask,
                format!("another payload was taken for {task}; its key is of {known:?}"),
            );
        }
        self.unanswered.remove(&asked.task);
        if !store.tasks.contains_key(&task) {
            return wrong(Check::AcknowledgedIsKept, format!("{task} was acknowledged and is not durable"));
        }
        match self.acknowledged.insert(asked.task, task) {
            Some(known) if known != task => {
                wrong(Check::OneKeyOneTask, format!("the key of task {} means {known} and {task}", asked.task))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn on_rejected(&mut self, asked: Asked, rejection: &Rejection) -> Result<(), Wrong> {
        let typed = self.plans[asked.task].facts.kind.starts_with(proto::check::TYPE);
        match rejection {
            Rejection::KeyConflict { .. } if asked.other => Ok(()),
            // Its client asks again until somebody registers the type.
            Rejection::UnknownType { .. } if typed => Ok(()),
            other => wrong(Check::OneKeyOneTask, format!("the submit of task {} was rejected: {other}", asked.task)),
        }
    }

    /// Retention has forgotten an ended task.
    pub(super) fn on_pruned(&mut self, task: TaskId) {
        self.acknowledged.retain(|_, known| *known != task);
        self.pruned.insert(task);
        self.terminal.retain(|id, _| *id != task && id.array() != Some(task));
    }

    /// The informer begins again with what a backup holds; what it does not hold is lost, and that is the operator's doing.
    pub(super) fn on_restored(&mut self, backup: &Store) {
        self.restores += 1;
        let lost: Vec<TaskId> =
            self.acknowledged.values().filter(|task| !backup.tasks.contains_key(task)).copied().collect();
        self.acknowledged.retain(|_, task| backup.tasks.contains_key(task));
        self.pruned.extend(lost);
        for (nth, task) in self.tasks.iter().filter(|(task, _)| backup.tasks.contains_key(task)).map(|(t, n)| (*n, *t))
        {
            if backup.keys.values().any(|hit| hit.task == task) {
                self.acknowledged.insert(nth, task);
                self.unanswered.remove(&nth);
                self.pruned.remove(&task);
            }
        }
        let terminal = backup.tasks.iter().filter(|(_, row)| is_terminal(row));
        self.terminal = terminal.map(|(id, row)| (*id, (row.state, row.ending.clone()))).collect();
        // What was assigned after the backup runs, and the store cannot know of it before its box has told.
        self.copies_before.extend(self.alive.iter().copied());
        self.told.clear();
        let known = |attempt: &AttemptId| {
            let row = backup.tasks.get(&attempt.task);
            row.is_some_and(|row| row.attempts.iter().any(|known| known.number == attempt.number))
        };
        let unknown = self.fences.iter().filter(|(_, (_, attempt))| !known(attempt));
        let unknown =
            unknown.filter_map(|(fence, (workbox, attempt))| Some((super::sidecar_id((*workbox)?), *attempt, *fence)));
        let linked = |sidecar: &SidecarId| backup.sidecars.get(&sidecar.to_string()).is_some_and(|row| !row.lost);
        self.assigned_before = unknown.filter(|(sidecar, ..)| !linked(sidecar)).collect();
        // Numbers that this store has not given yet may be given again. A clock that was set back meanwhile may put what follows below
        // what nobody has told it of yet.
        self.spawned.clear();
        self.latest.clear();
    }

    pub(super) fn is_forgotten(&self, task: TaskId) -> bool {
        self.restores > 0
            || self.pruned.contains(&task)
            || task.array().is_some_and(|array| self.pruned.contains(&array))
    }

    pub(super) fn stops(&self, payload: u8) -> bool {
        let of_run = payload.checked_sub(flow::PAYLOADS).and_then(|nth| self.run_plans.get(usize::from(nth)));
        of_run.or(self.plans.get(usize::from(payload))).is_some_and(|plan| plan.facts.stop_on_disconnect)
    }

    pub(super) fn plan_of(&self, task: TaskId) -> Option<&TaskPlan> {
        let of_run = self.of_runs.get(&task).map(|(_, nth)| &self.run_plans[*nth]);
        of_run.or(self.tasks.get(&task.array().unwrap_or(task)).map(|nth| &self.plans[*nth]))
    }

    /// What these attempts ask for together.
    pub(super) fn asked_by(&self, attempts: impl IntoIterator<Item = AttemptId>) -> v1::Resources {
        let mut sum = v1::Resources::default();
        for facts in attempts.into_iter().filter_map(|attempt| self.plan_of(attempt.task)).map(|plan| &plan.facts) {
            sum.cpu_millis += facts.cpu_millis;
            sum.memory_bytes += facts.memory_bytes;
        }
        sum
    }

    pub(super) fn needs_inputs(&self, task: TaskId) -> bool {
        self.plan_of(task).is_some_and(|plan| plan.inputs)
    }

    /// The same for each try of a seed, whatever else is played in the history.
    pub(super) fn plan_process(&self, attempt: AttemptId) -> Plan {
        if let Some((of, nth)) = self.of_runs.get(&attempt.task) {
            return flow::process(self.table, of, *nth);
        }
        let nth = self.tasks.get(&attempt.task.array().unwrap_or(attempt.task)).copied().unwrap_or(0);
        let member = u64::from(attempt.task.index().unwrap_or(0));
        let rng = &mut Rng::of(self.seed, &[3, nth as u64, member, u64::from(attempt.number)]);
        let plan = &self.plans[nth];
        let has = |feature| self.features.contains(&feature);
        let runs_ms = if rng.chance(300) { rng.range(4000, 20_000) } else { rng.range(1, 3000) };
        let ending = draw_ending(rng, plan, runs_ms);
        let refusals = [Refusal::Failed, Refusal::Task, Refusal::Input, Refusal::NotHere, Refusal::Terminating];
        let watched = has(super::Feature::Watches);
        let steps = if watched { rng.range(0, 4) } else { 0 };
        Plan {
            runs_ms,
            ending,
            stops: plan.facts.stop_on_disconnect,
            refusal: (has(super::Feature::BadStarts) && rng.chance(250)).then(|| rng.pick(&refusals)),
            progress: (1..=steps).map(|step| (runs_ms * step / (steps + 1), step)).collect(),
            condemned: (watched && rng.chance(200))
                .then(|| (rng.range(1, runs_ms), rng.pick(&[v1::Reason::Stalled, v1::Reason::Unhealthy]))),
            unpublishable: rng.chance(100),
            rename_ms: if rng.chance(200) { 6000 } else { 100 },
        }
    }

    /// An assignment leaves the informer.
    pub(super) fn on_assigned(
        &mut self,
        workbox: Option<usize>,
        attempt: AttemptId,
        fence: Fence,
    ) -> Result<(), Wrong> {
        // What runs from before a restored backup is no secret any more once its box has told it.
        let stops = self.plan_of(attempt.task).is_some_and(|plan| plan.facts.stop_on_disconnect);
        let other = |(sidecar, copy): &&(SidecarId, AttemptId)| {
            let same = workbox.is_some_and(|n| super::sidecar_id(n) == *sidecar) && *copy == attempt;
            copy.task == attempt.task && !same && self.told.contains(sidecar)
        };
        if let Some((sidecar, copy)) = self.copies_before.iter().find(other).filter(|_| stops) {
            let what = format!("{attempt} is assigned while {copy} runs on {sidecar}, which has told so");
            return wrong(Check::SecondCopyWaits, what);
        }
        let known = *self.fences.entry(fence).or_insert((workbox, attempt));
        if known != (workbox, attempt) {
            let what = format!("{fence:?} is given to {attempt} at {workbox:?}, and was to {known:?}");
            return wrong(Check::FencesRise, what);
        }
        let latest = self.latest.entry(attempt.task).or_insert((attempt.number, fence));
        if attempt.number > latest.0 && fence <= latest.1 {
            return wrong(Check::FencesRise, format!("{attempt} has {fence:?}, and one before it had {latest:?}"));
        }
        if attempt.number > latest.0 {
            *latest = (attempt.number, fence);
        }
        Ok(())
    }

    /// The informer has taken this box's inventory.
    pub(super) fn on_welcomed(&mut self, workbox: Option<usize>) {
        self.told.extend(workbox.map(super::sidecar_id));
    }

    pub(super) fn on_start_ordered(&self, sidecar: SidecarId, attempt: AttemptId) -> Result<(), Wrong> {
        let ran = self.spawned.contains_key(&(sidecar, attempt)) && self.ended.contains_key(&attempt);
        if ran && !self.unrecorded.contains(&attempt) {
            return wrong(Check::LedgerFirst, format!("{attempt} is started again after it has ended"));
        }
        Ok(())
    }

    /// A process exists: each attempt has one at most, and a `stop` task has one at a time.
    pub(super) fn on_spawned(&mut self, sidecar: SidecarId, attempt: AttemptId, fence: Fence) -> Result<(), Wrong> {
        let fresh = self.spawned.insert((sidecar, attempt), fence).is_none();
        // Under another fence it is another one: a restored informer gives numbers again.
        let same = |known: &Fence| *known == fence || self.restores == 0;
        let elsewhere =
            self.spawned.iter().any(|((other, known), under)| *known == attempt && *other != sidecar && same(under));
        if !fresh && !self.unrecorded.contains(&attempt) || elsewhere {
            return wrong(Check::LedgerFirst, format!("{attempt} was started twice"));
        }
        let stops = self.plan_of(attempt.task).is_some_and(|plan| plan.facts.stop_on_disconnect);
        if self.assigned_before.contains(&(sidecar, attempt, fence)) {
            self.copies_before.insert((sidecar, attempt));
            self.alive.insert((sidecar, attempt));
            return Ok(());
        }
        let known = |copy: &&(SidecarId, AttemptId)| copy.1.task == attempt.task && !self.copies_before.contains(copy);
        if let Some((_, other)) = self.alive.iter().find(known).filter(|_| stops) {
            return wrong(Check::SecondCopyWaits, format!("{attempt} runs beside {other}"));
        }
        self.alive.insert((sidecar, attempt));
        Ok(())
    }

    pub(super) fn on_process_gone(&mut self, sidecar: SidecarId, attempt: AttemptId) {
        self.alive.remove(&(sidecar, attempt));
        self.copies_before.remove(&(sidecar, attempt));
    }

    pub(super) fn on_unrecorded(&mut self, attempt: AttemptId) {
        self.unrecorded.insert(attempt);
    }

    pub(super) fn on_ended(&mut self, attempt: AttemptId, ending: &v1::Ending) {
        if !is_infrastructure(ending) && ending.exit_code != Some(0) {
            self.on_fault(attempt.task);
        }
        self.ended.entry(attempt).or_default().push(ending.clone());
    }

    /// Something went wrong that is the task's own affair.
    pub(super) fn on_fault(&mut self, task: TaskId) {
        *self.faults.entry(task).or_default() += 1;
    }

    /// A sidecar forgets an attempt: its end must be in the store, if the store calls the attempt that sidecar's. What it was given
    /// under an id that was lost since counts for nothing.
    pub(super) fn on_retired(&self, store: &Store, sidecar: SidecarId, attempt: AttemptId) -> Result<(), Wrong> {
        if self.is_forgotten(attempt.task) {
            return Ok(());
        }
        let Some(row) = store.tasks.get(&attempt.task) else {
            let what = format!("{attempt} was forgotten and its task is not in the store");
            return wrong(Check::EndBeforeForgetting, what);
        };
        let its = sidecar.to_string();
        let known = row.attempts.iter().find(|known| known.number == attempt.number && known.sidecar == its);
        match known {
            Some(known) if known.ending.is_none() && self.ended.contains_key(&attempt) => {
                wrong(Check::EndBeforeForgetting, format!("{attempt} was forgotten before its end was stored"))
            }
            _ => Ok(()),
        }
    }

    /// A copy that runs on a box, ends with its lease, and is not this sidecar's as far as the store knows.
    pub(super) fn given_to_another(&self, store: &Store, on: &Workbox) -> Option<AttemptId> {
        let its = on.sidecar.to_string();
        let is_its = |attempt: &AttemptId| {
            let row = store.tasks.get(&attempt.task);
            row.is_some_and(|row| row.attempts.iter().any(|it| it.number == attempt.number && it.sidecar == its))
        };
        let stops = |task| self.plan_of(task).is_some_and(|plan| plan.facts.stop_on_disconnect);
        let here = self.alive.iter().filter(|(id, _)| *id == on.id).map(|(_, attempt)| *attempt);
        here.filter(|attempt| stops(attempt.task)).find(|attempt| !is_its(attempt))
    }

    /// A log goes: if it was wanted, it must be stored.
    pub(super) fn on_purge(&self, n: usize, attempt: AttemptId) -> Result<(), Wrong> {
        let log = (n, attempt);
        let excused = self.logs_stored.contains(&log) || self.logs_given_up.contains(&log);
        if self.logs_wanted.contains(&log) && !excused {
            return wrong(Check::LogBeforePurge, format!("the log of {attempt} is purged and was not stored"));
        }
        Ok(())
    }

    /// An order to stop leaves the informer: what it rests on must be in the store.
    pub(super) fn on_order(&self, store: &Store, message: &v1::InformerMessage) -> Result<(), Wrong> {
        let Some((attempt, why)) = super::wire::stop_in(message) else { return Ok(()) };
        let fail = |what: &str| {
            wrong(Check::NothingStoppedUnasked, format!("{attempt} is ordered to stop ({why:?}), and {what}"))
        };
        let Some(row) = store.tasks.get(&attempt.task) else { return fail("its task is unknown") };
        let Some(known) = row.attempts.iter().find(|known| known.number == attempt.number) else {
            if row.aside.iter().any(|aside| aside.number == attempt.number) {
                // It was assigned after the backup, beside which another copy runs, and must not start any more.
                return Ok(());
            }
            // It is so old that it was dropped from the list.
            return if row.attempts_dropped > 0 { Ok(()) } else { fail("the store does not know it") };
        };
        let over = |state| !matches!(state, v1::AttemptState::Assigned | v1::AttemptState::Running);
        let facts = row.facts.clone().unwrap_or_default();
        let drained = self.drained.iter().any(|sidecar| sidecar.to_string() == known.sidecar);
        let draining =
            drained || store.sidecars.get(&known.sidecar).is_some_and(|row| row.drain() == v1::DrainMode::Stop);
        let reasoned = known.fenced
            || is_terminal(row)
            || row.cancelling
            || over(known.state())
            || why == v1::Reason::TotalTimeout && facts.timeouts.is_some_and(|timeouts| timeouts.total_ms > 0)
            || why == v1::Reason::Drained && draining;
        if reasoned { Ok(()) } else { fail("nothing in the store says why") }
    }

    /// An agent puts outputs in place: the store must have named the winner.
    pub(super) fn on_publish_ordered(&self, attempt: AttemptId) -> Result<(), Wrong> {
        if self.winners.contains(&attempt) {
            return Ok(());
        }
        wrong(Check::OutputsAreTheWinners, format!("{attempt} publishes, and the store does not call it the winner"))
    }

    /// Renames one file under the fence beside it; false: a newer attempt has been there.
    pub(super) fn rename(&mut self, attempt: AttemptId, fence: Fence, nth: usize) -> bool {
        let destination = self.destinations.entry(attempt.task).or_default();
        if fence < destination.fence {
            return false;
        }
        destination.fence = fence;
        destination.files[nth] = Some(attempt);
        true
    }

    pub(super) fn on_beat_heard(&mut self, sidecar: SidecarId, now_ms: u64) {
        self.heard.insert(sidecar, now_ms);
    }

    pub(super) fn lease_ends_ms(&self, sidecar: SidecarId) -> u64 {
        self.heard.get(&sidecar).map_or(0, |heard_ms| heard_ms + 3 * BEAT_MS)
    }

    /// Whatever runs is in the store too.
    pub(super) fn no_copy_is_unknown(&self, store: &Store) -> bool {
        self.alive.iter().all(|(_, attempt)| {
            let row = store.tasks.get(&attempt.task);
            row.is_some_and(|row| row.attempts.iter().any(|known| known.number == attempt.number))
        })
    }

    /// Services without end that have not ended.
    pub(super) fn endless_left(&self, script: &Script, store: &Store) -> Vec<TaskId> {
        let left = |task: &&TaskId| store.tasks.get(task).is_some_and(|row| !is_terminal(row) && !row.cancelling);
        let endless = self.acknowledged.iter().filter(|(nth, _)| script.tasks[**nth].endless).map(|(_, task)| task);
        endless.filter(left).copied().collect()
    }
}

/// It is not the task's own fault.
pub(super) fn is_infrastructure(ending: &v1::Ending) -> bool {
    use v1::Reason as R;
    let of_machine = ending.reason() == R::Spawn && ending.machine_fault;
    of_machine || matches!(ending.reason(), R::Lost | R::Drained | R::Fenced | R::Refused | R::Cancelled | R::Revoked)
}

fn draw_ending(rng: &mut Rng, plan: &TaskPlan, runs_ms: u64) -> v1::Ending {
    let mut ending = v1::Ending { ran_ms: runs_ms, out_bytes: rng.range(0, 3) * 100, ..Default::default() };
    match rng.range(0, 9) {
        0..=6 => {
            ending.exit_code = Some(0);
            if plan.outputs {
                let file =
                    |nth| v1::StagedOutput { path: format!("/out/{nth}"), size_bytes: 1, sha256: "0".repeat(64) };
                ending.outputs = (0..FILES).map(file).collect();
            }
        }
        7 => {
            ending.signal = Some(11);
            ending.reason = rng.pick(&[v1::Reason::Signal, v1::Reason::Timeout, v1::Reason::Oom]).into();
        }
        _ => {
            ending.exit_code = Some(rng.range(1, 3) as i32);
            ending.reason = v1::Reason::ExitCode.into();
        }
    }
    ending
}
