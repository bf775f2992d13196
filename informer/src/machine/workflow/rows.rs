//! What of runs is committed, what is loaded, and what is forgotten.

use super::super::effect::{Batch, Effect, RunChange};
use super::super::event::{Now, PayloadHandle, RunKeyHit, StoredRun};
use super::super::{Cx, Machine};
use super::{Forget, Held, Nr, ToTell, Touched, moment};
use proto::store;
use proto::v1;
use std::collections::BTreeSet;
use std::sync::Arc;
use workflow::evaluate::{ChildStart, Handle};
use workflow::run::{Effects, RunStatus};

impl Machine {
    /// Adds what changed about workflows to a batch.
    pub(in super::super) fn take_flows(&mut self, seq: u64, batch: &mut Batch) {
        (batch.definitions, batch.task_definitions) = self.flows.definitions.take();
        batch.run_events = std::mem::take(&mut self.flows.pending.events);
        batch.bodies = std::mem::take(&mut self.flows.pending.bodies);
        let mut ended = Vec::new();
        for nr in std::mem::take(&mut self.flows.pending.runs) {
            let Some(held) = self.flows.runs.get_mut(&nr) else { continue };
            batch.runs.push(held.change());
            if held.is_settled() {
                ended.push(nr);
            }
        }
        let pending = &mut self.flows.pending;
        let keys = std::mem::take(&mut pending.new_keys);
        if !ended.is_empty() || !keys.is_empty() {
            pending.forget.push_back(Forget { seq, runs: ended, keys });
        }
    }

    /// Everything up to batch `seq` is durable.
    pub(in super::super) fn flows_committed(&mut self, seq: u64) {
        while self.flows.pending.forget.front().is_some_and(|forget| forget.seq <= seq) {
            let Some(forget) = self.flows.pending.forget.pop_front() else { return };
            for key in forget.keys {
                self.flows.pending.keys.remove(&key);
            }
            for nr in forget.runs {
                self.forget_run(nr);
            }
        }
    }

    /// Whether something about workflows was decided that no batch has taken yet.
    pub(in super::super) fn flows_dirty(&self) -> bool {
        let pending = &self.flows.pending;
        !pending.runs.is_empty()
            || !pending.events.is_empty()
            || !pending.bodies.is_empty()
            || self.flows.definitions.is_dirty()
    }

    /// Lets a run go unless something about it is still to come or to be committed.
    pub(super) fn forget_run(&mut self, nr: Nr) {
        let settled = self.flows.runs.get(&nr).is_some_and(Held::is_settled);
        if !settled || self.flows.pending.runs.contains(&nr) {
            return;
        }
        if let Some(held) = self.flows.runs.remove(&nr) {
            self.flows.by_id.remove(&held.id);
            self.give_places_back(nr);
            for step in held.due.into_keys() {
                self.timers.cancel(super::super::timer::Timer::Run(nr, step));
            }
        }
    }

    /// Takes a run as the store has it into memory.
    pub(super) fn hold_stored(&mut self, stored: StoredRun) -> Nr {
        let StoredRun { row, run, templates } = stored;
        let digest = PayloadHandle::try_from(row.key_digest.as_slice()).unwrap_or_default();
        self.flows.insert(Held {
            id: row.id.as_str().into(),
            run: *run,
            templates,
            owner: row.owner.into(),
            labels: row.labels,
            priority: row.priority,
            definition: row.definition.as_slice().try_into().unwrap_or_default(),
            key: (!row.key.is_empty()).then(|| (row.key.into(), digest)),
            operation_key: row.operation_key.into(),
            history: row.history,
            to_tell: serde_json::from_str(&row.pending_start).ok(),
            due: std::collections::BTreeMap::new(),
            touched: Touched::default(),
            fresh: false,
        })
    }

    /// Knows what the store held of workflows: every definition that is registered, and every run that is not over. What is under way is
    /// asked for once more; all of it may be repeated.
    pub fn load_flows(
        &mut self,
        now: Now,
        (definitions, task_definitions): (Vec<store::DefinitionRow>, Vec<store::TaskDefinitionRow>),
        runs: impl IntoIterator<Item = StoredRun>,
        effects: &mut Vec<Effect>,
    ) {
        self.flows.definitions.load(definitions, task_definitions);
        let held: Vec<Nr> = runs.into_iter().map(|stored| self.hold_stored(stored)).collect();
        let cx = &mut Cx { now, effects };
        for nr in held {
            let Some(held) = self.flows.runs.get_mut(&nr) else { continue };
            let tell = held.to_tell.clone();
            let mut out = Effects::default();
            held.run.reissue(moment(now), &mut out);
            #[cfg(feature = "seeded-bugs")]
            if self.bug(super::super::Bug::ForgetRunTimers) {
                out.commands.retain(|command| !matches!(command, workflow::run::Command::Arm { .. }));
            }
            self.absorb(cx, nr, out);
            if let Some(tell) = tell {
                let run = tell.run.clone();
                self.want_child(cx, nr, None, &run, super::start::Want { waits: false, start: tell.into() });
            }
        }
        self.drive(cx);
        self.place(cx);
    }

    /// What a fresh key stands for, while its batch is not committed.
    #[must_use]
    pub fn fresh_run_key(&self, key: &str) -> Option<&RunKeyHit> {
        self.flows.pending.keys.get(key)
    }

    /// How many runs are held.
    #[must_use]
    pub fn runs_held(&self) -> usize {
        self.flows.runs.len()
    }
}

impl From<ToTell> for ChildStart {
    fn from(tell: ToTell) -> Self {
        let ToTell { run: _, name, input, correlation } = tell;
        Self { name, version: None, definition: None, input, correlation, priority: None }
    }
}

impl Held {
    /// What is to be written of it.
    fn change(&mut self) -> RunChange {
        let touched = std::mem::take(&mut self.touched);
        let mut holds = touched.holds;
        let fresh = std::mem::take(&mut self.fresh);
        let row = (touched.row || fresh).then(|| self.row());
        if row.is_some() {
            let row = self.run.row();
            hold(&mut holds, [row.input, row.variables, row.first_variables, row.output]);
            hold(&mut holds, [self.to_tell.as_ref().and_then(|tell| tell.input)]);
            holds.insert(self.definition);
        }
        let steps: Vec<_> = touched.steps.iter().filter_map(|step| self.run.step(*step)).cloned().collect();
        for step in &steps {
            hold(&mut holds, [step.given, step.input, step.output]);
        }
        let parts: Vec<_> =
            self.run.parts().iter().filter(|part| touched.parts.contains(&part.part)).cloned().collect();
        hold(&mut holds, parts.iter().map(|part| Some(part.tasks)));
        RunChange {
            id: Arc::clone(&self.id),
            row,
            fresh,
            steps,
            removed: touched.removed.into_iter().collect(),
            parts_removed: touched.parts_removed,
            parts,
            holds: holds.into_iter().collect(),
        }
    }

    /// Its durable form.
    pub(super) fn row(&self) -> store::RunRow {
        let row = self.run.row();
        store::RunRow {
            id: self.id.to_string(),
            name: row.name.clone(),
            version: row.version,
            status: wire_status(row.status).into(),
            owner: self.owner.to_string(),
            correlation: row.correlation.clone().unwrap_or_default(),
            labels: self.labels.clone(),
            parent: row.parent.as_ref().map(|parent| parent.run.clone()).unwrap_or_default(),
            started_unix_ms: row.started_ms,
            ended_unix_ms: row.ended_ms.unwrap_or(0),
            key: self.key.as_ref().map(|(key, _)| key.to_string()).unwrap_or_default(),
            key_digest: self.key.as_ref().map_or_else(Vec::new, |(_, digest)| digest.to_vec()),
            definition: self.definition.to_vec(),
            priority: self.priority,
            body: serde_json::to_vec(row).expect("rows are plain data with text for keys"),
            history: self.history,
            operation_key: self.operation_key.to_string(),
            pending_start: self.to_tell.as_ref().and_then(|tell| serde_json::to_string(tell).ok()).unwrap_or_default(),
        }
    }
}

fn hold(holds: &mut BTreeSet<PayloadHandle>, handles: impl IntoIterator<Item = Option<Handle>>) {
    holds.extend(handles.into_iter().flatten().map(|handle| handle.0));
}

/// The wire's word for a run's status.
#[must_use]
pub fn wire_status(status: RunStatus) -> v1::RunStatus {
    match status {
        RunStatus::Running => v1::RunStatus::Running,
        RunStatus::Paused => v1::RunStatus::Paused,
        RunStatus::Completed => v1::RunStatus::Completed,
        RunStatus::Failed => v1::RunStatus::Failed,
        RunStatus::TimedOut => v1::RunStatus::TimedOut,
        RunStatus::Terminated => v1::RunStatus::Terminated,
    }
}
