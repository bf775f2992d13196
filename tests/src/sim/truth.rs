//! What clients were told and what processes did, and the invariants judged from outside. The judge knows nothing of how the
//! machines work, nor which deliberate mistake is in them.

use super::center::Store;
use super::{BEAT_MS, Reached, Rng, World};
use informer::machine::{Batch, NewArray, Rejection};
use proto::id::{AttemptId, SidecarId, TaskId};
use proto::{store, v1};
use std::collections::{BTreeMap, BTreeSet};

/// Tasks of one history. Few, so that their copies and losses meet each other.
const MOST_TASKS: usize = 14;

/// A submit as a client made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub key: String,
    pub payload: u8,
}

/// What a process will do.
pub(super) struct Plan {
    pub runs_ms: u64,
    pub ending: v1::Ending,
    pub stop_on_disconnect: bool,
}

/// Everything that was observed.
#[derive(Default)]
pub(super) struct Truth {
    /// Facts by payload.
    facts: Vec<store::Facts>,
    /// Those that are arrays, by payload.
    arrays: BTreeMap<u8, NewArray>,
    /// What clients were told: key → task.
    acknowledged: BTreeMap<String, (u8, TaskId)>,
    /// Submits that a client still waits for, to be repeated.
    unanswered: BTreeMap<String, (u8, u64)>,
    cancelled: BTreeSet<TaskId>,
    payloads: BTreeMap<TaskId, u8>,
    spawned: BTreeMap<AttemptId, u32>,
    alive: BTreeSet<AttemptId>,
    ended: BTreeMap<AttemptId, v1::Ending>,
    published: BTreeMap<TaskId, BTreeSet<AttemptId>>,
    /// When the informer last heard each sidecar's beat.
    heard: BTreeMap<SidecarId, u64>,
    terminal: BTreeMap<TaskId, (i32, Option<v1::Ending>)>,
}

/// Whether a row's state is final.
pub(super) fn is_terminal(row: &store::TaskRow) -> bool {
    matches!(row.state(), v1::TaskState::Succeeded | v1::TaskState::Failed | v1::TaskState::Cancelled)
}

impl Truth {
    /// A new task, or the repetition of a submit that was not answered in time, or of one that was.
    pub(super) fn draw_submit(&mut self, rng: &mut Rng, now_ms: u64) -> Option<(Asked, store::Facts)> {
        let overdue = self
            .unanswered
            .iter()
            .find(|(_, (_, at_ms))| *at_ms <= now_ms)
            .map(|(key, (payload, _))| Asked { key: key.clone(), payload: *payload });
        let again = self.acknowledged.iter().next_back().filter(|_| rng.chance(100));
        let again = again.map(|(key, (payload, _))| Asked { key: key.clone(), payload: *payload });
        let asked = match overdue.or(again) {
            Some(asked) => asked,
            None if self.facts.len() < MOST_TASKS => {
                let payload = u8::try_from(self.facts.len()).expect("there are fewer than 256 tasks");
                self.facts.push(draw_facts(rng));
                if rng.chance(200) {
                    let max_failures = rng.chance(400).then(|| rng.range(0, 2) as u32);
                    let (first, count) = (rng.range(0, 3) as u32, rng.range(1, 5) as u32);
                    self.arrays.insert(payload, NewArray { first, count, items: false, max_failures });
                }
                Asked { key: format!("key-{payload}"), payload }
            }
            None => return None,
        };
        let facts = self.facts[usize::from(asked.payload)].clone();
        Some((asked, facts))
    }

    pub(super) fn array_of_payload(&self, payload: u8) -> Option<NewArray> {
        self.arrays.get(&payload).copied()
    }

    fn array_of(&self, task: TaskId) -> Option<NewArray> {
        self.payloads.get(&task).and_then(|payload| self.array_of_payload(*payload))
    }

    pub(super) fn expect_answer(&mut self, asked: Asked, at_ms: u64) {
        if !self.acknowledged.contains_key(&asked.key) {
            self.unanswered.insert(asked.key, (asked.payload, at_ms));
        }
    }

    pub(super) fn has_unanswered(&self) -> bool {
        !self.unanswered.is_empty()
    }

    pub(super) fn draw_acknowledged(&self, rng: &mut Rng) -> Option<TaskId> {
        let count = self.acknowledged.len() as u64;
        let nth = rng.range(0, count.max(1) - 1) as usize;
        let task = self.acknowledged.values().nth(nth).map(|(_, task)| *task)?;
        // Of an array, the whole or a member.
        let member = self
            .array_of(task)
            .filter(|_| rng.chance(600))
            .and_then(|array| task.at(array.first + rng.range(0, u64::from(array.count) - 1) as u32));
        Some(member.unwrap_or(task))
    }

    pub(super) fn on_cancel_asked(&mut self, task: TaskId) {
        self.cancelled.insert(task);
    }

    /// An acknowledgement: the task must be durable, and one key must mean one task.
    pub(super) fn on_acknowledged(&mut self, store: &Store, asked: Asked, task: TaskId) -> Result<(), String> {
        self.unanswered.remove(&asked.key);
        if !store.tasks.contains_key(&task) {
            return Err(format!("{task} was acknowledged and is not durable"));
        }
        match self.acknowledged.get(&asked.key) {
            Some((_, known)) if *known != task => Err(format!("key {} means {known} and {task}", asked.key)),
            Some(_) => Ok(()),
            None => {
                self.payloads.insert(task, asked.payload);
                self.acknowledged.insert(asked.key, (asked.payload, task));
                Ok(())
            }
        }
    }

    pub(super) fn on_rejected(&mut self, asked: Asked, rejection: &Rejection) -> Result<(), String> {
        Err(format!("the submit of {} was rejected: {rejection}", asked.key))
    }

    pub(super) fn facts_of_payload(&self, payload: u8) -> store::Facts {
        self.facts.get(usize::from(payload)).cloned().unwrap_or_default()
    }

    fn facts_of(&self, store_task: TaskId) -> store::Facts {
        let task = store_task.array().unwrap_or(store_task);
        self.payloads.get(&task).map(|payload| self.facts_of_payload(*payload)).unwrap_or_default()
    }

    pub(super) fn draw_process(&self, rng: &mut Rng, attempt: AttemptId) -> Plan {
        let facts = self.facts_of(attempt.task);
        let runs_ms = if rng.chance(300) { rng.range(4000, 20_000) } else { rng.range(1, 3000) };
        let mut ending = v1::Ending { ran_ms: runs_ms, ..Default::default() };
        if rng.chance(700) {
            ending.exit_code = Some(0);
            if facts.name == "publishes" {
                let output = v1::StagedOutput { path: "/out".to_owned(), size_bytes: 1, sha256: "0".repeat(64) };
                ending.outputs.push(output);
            }
        } else {
            ending.exit_code = Some(rng.range(1, 3) as i32);
            ending.reason = v1::Reason::ExitCode.into();
        }
        Plan { runs_ms, ending, stop_on_disconnect: facts.stop_on_disconnect }
    }

    pub(super) fn on_start_ordered(&self, attempt: AttemptId) -> Result<(), String> {
        if self.ended.contains_key(&attempt) {
            return Err(format!("{attempt} is started again after it has ended"));
        }
        Ok(())
    }

    /// A process exists: each attempt has one at most, and an exclusive task has one at a time.
    pub(super) fn on_spawned(&mut self, attempt: AttemptId) -> Result<(), String> {
        let times = self.spawned.entry(attempt).or_default();
        *times += 1;
        if *times > 1 {
            return Err(format!("{attempt} was started {times} times"));
        }
        let other = self.alive.iter().find(|other| other.task == attempt.task).copied();
        if let Some(other) = other.filter(|_| self.facts_of(attempt.task).exclusive) {
            return Err(format!("exclusive {attempt} runs beside {other}"));
        }
        self.alive.insert(attempt);
        Ok(())
    }

    pub(super) fn on_process_gone(&mut self, attempt: AttemptId) {
        self.alive.remove(&attempt);
    }

    pub(super) fn on_ended(&mut self, attempt: AttemptId, ending: &v1::Ending) {
        self.ended.insert(attempt, ending.clone());
    }

    pub(super) fn on_published(&mut self, attempt: AttemptId) {
        self.published.entry(attempt.task).or_default().insert(attempt);
    }

    /// A sidecar forgets an attempt: its end must be in the store.
    pub(super) fn on_retired(&self, store: &Store, attempt: AttemptId) -> Result<(), String> {
        let Some(row) = store.tasks.get(&attempt.task) else {
            return Err(format!("{attempt} was forgotten and its task is not in the store"));
        };
        let known = row.attempts.iter().find(|known| known.number == attempt.number);
        match known {
            Some(known) if known.ending.is_none() && self.ended.contains_key(&attempt) => {
                Err(format!("{attempt} was forgotten before its end was stored"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn on_beat_heard(&mut self, sidecar: SidecarId, now_ms: u64) {
        self.heard.insert(sidecar, now_ms);
    }

    pub(super) fn lease_ends_ms(&self, sidecar: SidecarId) -> u64 {
        self.heard.get(&sidecar).map_or(0, |heard_ms| heard_ms + 3 * BEAT_MS)
    }

    /// What becomes durable must be possible.
    pub(super) fn on_commit(&mut self, before: &Store, batch: &Batch) -> Result<(), String> {
        for change in &batch.tasks {
            let row = &change.row;
            let id = TaskId::from_bytes(&row.id).ok_or("a row without an id")?;
            if let Some(old) = before.tasks.get(&id)
                && old.version >= row.version
            {
                return Err(format!("{id}: version {} is written over {}", row.version, old.version));
            }
            self.check_winner(id, row)?;
            self.check_charges(id, row)?;
            if let Some(known) = self.terminal.get(&id)
                && *known != (row.state, row.ending.clone())
            {
                return Err(format!("{id} had ended as {known:?} and now is {:?}", row.state()));
            }
            if is_terminal(row) {
                self.terminal.insert(id, (row.state, row.ending.clone()));
            }
        }
        Ok(())
    }

    /// An array ends when all of its members have, as they have.
    fn check_array(&self, id: TaskId, array: &store::ArrayRow, row: &store::TaskRow) -> Result<(), String> {
        if is_terminal(row) && (array.live > 0 || !array.pending.is_empty()) {
            return Err(format!("{id} has ended and its members have not: {array:?}"));
        }
        let all = array.succeeded == array.count;
        if (row.state() == v1::TaskState::Succeeded) != all {
            return Err(format!("{id} is {:?} with {array:?}", row.state()));
        }
        Ok(())
    }

    fn may_be_cancelled(&self, id: TaskId) -> bool {
        let by_array = |array: TaskId| {
            self.cancelled.contains(&array) || self.array_of(array).is_some_and(|array| array.max_failures.is_some())
        };
        // An array is called cancelled too if its members were, one by one.
        let one_by_one = self.array_of(id).is_some() && self.cancelled.iter().any(|task| task.array() == Some(id));
        self.cancelled.contains(&id) || one_by_one || id.array().is_some_and(by_array)
    }

    fn check_winner(&self, id: TaskId, row: &store::TaskRow) -> Result<(), String> {
        if let Some(array) = &row.array {
            self.check_array(id, array, row)?;
        }
        let won = |state| matches!(state, v1::AttemptState::Succeeded | v1::AttemptState::Committing);
        let winners: Vec<_> = row.attempts.iter().filter(|attempt| won(attempt.state())).collect();
        if winners.len() > 1 {
            return Err(format!("{id}: two results are accepted"));
        }
        if row.state() == v1::TaskState::Succeeded && row.array.is_none() {
            let winner = winners.first().ok_or_else(|| format!("{id} succeeded without a winner"))?;
            let attempt = AttemptId { task: id, number: winner.number };
            if self.ended.get(&attempt).and_then(|ending| ending.exit_code) != Some(0) {
                return Err(format!("{attempt} is said to have succeeded, and did not"));
            }
        }
        if row.state() == v1::TaskState::Cancelled && !self.may_be_cancelled(id) {
            return Err(format!("{id} is cancelled, and nobody asked for it"));
        }
        Ok(())
    }

    fn check_charges(&self, id: TaskId, row: &store::TaskRow) -> Result<(), String> {
        let own = |(attempt, ending): &(&AttemptId, &v1::Ending)| {
            attempt.task == id && ending.reason() == v1::Reason::ExitCode
        };
        let failures = self.ended.iter().filter(own).count();
        if row.own_failures as usize > failures {
            return Err(format!("{id} is charged {} failures and had {failures}", row.own_failures));
        }
        Ok(())
    }
}

fn draw_facts(rng: &mut Rng) -> store::Facts {
    let exclusive = rng.chance(200);
    let retry = v1::Retry {
        max_attempts: rng.range(1, 4) as u32,
        max_infrastructure: rng.range(1, 8) as u32,
        no_infrastructure_retry: rng.chance(80),
        backoff_ms: rng.range(1, 2000),
        backoff_cap_ms: 5000,
        ..Default::default()
    };
    store::Facts {
        name: if rng.chance(250) { "publishes" } else { "job" }.to_owned(),
        kind: "command".to_owned(),
        cpu_millis: rng.range(1, 4) * 250,
        owner: if rng.chance(500) { "heavy" } else { "light" }.to_owned(),
        priority: rng.range(0, 2) as i32,
        retry: Some(retry),
        exclusive,
        stop_on_disconnect: exclusive || rng.chance(200),
        replace_after_ms: if rng.chance(100) { rng.range(1000, 9000) } else { 0 },
        ..Default::default()
    }
}

impl World {
    /// After every step.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        for (key, (_, task)) in &self.truth.acknowledged {
            if !self.center.store.tasks.contains_key(task) {
                return Err(format!("{task} was acknowledged under {key} and is lost"));
            }
        }
        for (id, row) in &self.center.store.tasks {
            if let Some(array) = &row.array {
                self.judge_members(*id, array)?;
            }
        }
        Ok(())
    }

    /// What an array counts is what is stored.
    fn judge_members(&self, id: TaskId, array: &store::ArrayRow) -> Result<(), String> {
        use v1::TaskState as S;
        let rows = (array.first..array.first + array.count)
            .filter_map(|index| id.at(index))
            .filter_map(|member| self.center.store.tasks.get(&member));
        let (mut live, mut ended) = (0, [0; 3]);
        for row in rows {
            match row.state() {
                S::Succeeded => ended[0] += 1,
                S::Failed => ended[1] += 1,
                S::Cancelled => ended[2] += 1,
                _ => live += 1,
            }
        }
        if (live, ended) == (array.live, [array.succeeded, array.failed, array.cancelled_rows]) {
            return Ok(());
        }
        Err(format!("{id} counts {array:?}, and there are {live} live and {ended:?} ended members"))
    }

    /// Whether nothing is left to happen that a user waits for.
    pub(super) fn is_over(&self) -> bool {
        !self.truth.has_unanswered()
            && self.truth.acknowledged.values().all(|(_, task)| self.truth.terminal.contains_key(task))
            && self.boxes.iter().all(|it| it.alive().count() == 0 && it.is_settled())
            && self.booked().is_none()
    }

    /// A sidecar in whose books at the informer something still stands.
    fn booked(&self) -> Option<String> {
        let now = informer::machine::Now { mono_ms: self.agenda.now_ms + 777, ..Default::default() };
        let sidecars = self.center.machine.iter().flat_map(|machine| machine.sidecars(now, true));
        sidecars.filter(|sidecar| sidecar.running > 0).map(|sidecar| sidecar.id).next()
    }

    /// Once faults have stopped: everything has ended, nothing runs, nothing is booked.
    pub(super) fn judge_end(&mut self) -> Result<(), String> {
        self.count();
        if let Some(key) = self.truth.unanswered.keys().next() {
            return Err(format!("the submit of {key} was never answered"));
        }
        for (_, task) in self.truth.acknowledged.values() {
            if !self.truth.terminal.contains_key(task) {
                let state = self.center.store.tasks.get(task).map(store::TaskRow::state);
                return Err(format!("{task} never ended; it is {state:?}"));
            }
        }
        for it in &self.boxes {
            if let Some(attempt) = it.alive().next() {
                return Err(format!("a process of {attempt} runs on"));
            }
            if !it.is_settled() {
                return Err(format!("sidecar {} still holds what it should have been told about", it.id));
            }
        }
        if let Some(sidecar) = self.booked() {
            return Err(format!("sidecar {sidecar} still has slots booked"));
        }
        Ok(())
    }

    fn count(&mut self) {
        let attempts = || self.center.store.tasks.values().flat_map(|row| &row.attempts);
        let late = attempts().filter(|attempt| attempt.state() == v1::AttemptState::Late).count();
        let losses: u64 = self.center.store.tasks.values().map(|row| u64::from(row.infra_failures)).sum();
        self.reached = Reached { ended: self.truth.terminal.len() as u64, late: late as u64, losses, ..self.reached };
    }
}
