//! What becomes durable must be possible.

use super::disk::Store;
use super::judge::{Check, Wrong, wrong};
use super::truth::{Truth, is_infrastructure, is_terminal};
use super::workbox::Workbox;
use informer::machine::Batch;
use proto::id::{AttemptId, TaskId};
use proto::{store, v1};

impl Truth {
    pub(super) fn on_commit(&mut self, boxes: &[Workbox], before: &Store, batch: &Batch) -> Result<(), Wrong> {
        for change in &batch.tasks {
            let row = change.whole();
            let Some(id) = TaskId::from_bytes(&row.id) else {
                return wrong(Check::InformerConsistent, "a row without an id");
            };
            if let Some(old) = before.tasks.get(&id)
                && old.version >= row.version
            {
                let what = format!("{id}: version {} is written over {}", row.version, old.version);
                return wrong(Check::InformerConsistent, what);
            }
            self.name_winners(id, &row, batch);
            self.check_winner(id, &row)?;
            self.check_budgets(id, &row)?;
            self.check_ends(boxes, id, &row, before)?;
            self.check_terminal(id, &row)?;
        }
        Ok(())
    }

    /// By its row; or by its history, if it was named and given up between two commits.
    fn name_winners(&mut self, id: TaskId, row: &store::TaskRow, batch: &Batch) {
        let won = |state| matches!(state, v1::AttemptState::Succeeded | v1::AttemptState::Committing);
        let winners = row.attempts.iter().filter(|attempt| won(attempt.state())).map(|attempt| attempt.number);
        let named = batch.history.iter().filter(|line| line.task == id && line.kind == "committing");
        let numbers = winners.chain(named.map(|line| line.attempt));
        self.winners.extend(numbers.map(|number| AttemptId { task: id, number }));
    }

    /// What has ended stays as it was, unless somebody retries it.
    fn check_terminal(&mut self, id: TaskId, row: &store::TaskRow) -> Result<(), Wrong> {
        let now = (row.state, row.ending.clone());
        if let Some(known) = self.terminal.get(&id)
            && *known != now
            && !self.was_retried(id)
        {
            return wrong(Check::EndsStay, format!("{id} had ended as {known:?} and now is {:?}", row.state()));
        }
        if is_terminal(row) {
            self.terminal.insert(id, now);
        } else {
            self.terminal.remove(&id);
        }
        Ok(())
    }

    /// An array ends when all of its members have, as they have.
    fn check_array(&self, id: TaskId, array: &store::ArrayRow, row: &store::TaskRow) -> Result<(), Wrong> {
        if is_terminal(row) && (array.live > 0 || !array.pending.is_empty()) {
            return wrong(Check::EndsStay, format!("{id} has ended and its members have not: {array:?}"));
        }
        let all = array.succeeded == array.count;
        if (row.state() == v1::TaskState::Succeeded) != all {
            return wrong(Check::EndsStay, format!("{id} is {:?} with {array:?}", row.state()));
        }
        Ok(())
    }

    fn may_be_cancelled(&self, id: TaskId) -> bool {
        let expires = |task| {
            self.plan_of(task).is_some_and(|plan| plan.facts.timeouts.is_some_and(|timeouts| timeouts.queue_ms > 0))
        };
        let by_array = |array: TaskId| {
            self.cancelled.contains(&array) || self.array_of(array).is_some_and(|array| array.max_failures.is_some())
        };
        // An array is called cancelled too if its members were, one by one.
        let one_by_one = self.cancelled.iter().any(|task| task.array() == Some(id));
        // So is one that was failing for too many failures and had those retried.
        let failing = self.array_of(id).is_some_and(|array| array.max_failures.is_some());
        let array = self.array_of(id).is_some() && (one_by_one || expires(id) || failing);
        self.cancelled.contains(&id) || array || id.array().is_some_and(by_array)
    }

    fn check_winner(&self, id: TaskId, row: &store::TaskRow) -> Result<(), Wrong> {
        if let Some(array) = &row.array {
            self.check_array(id, array, row)?;
        }
        let service = row.facts.as_ref().is_some_and(|facts| facts.restart.is_some());
        let won = |state| matches!(state, v1::AttemptState::Succeeded | v1::AttemptState::Committing);
        let winners: Vec<_> = row.attempts.iter().filter(|attempt| won(attempt.state())).collect();
        if winners.len() > 1 && !service && row.runs <= 1 {
            return wrong(Check::OneResult, format!("{id}: two results are accepted"));
        }
        if row.state() == v1::TaskState::Succeeded && row.array.is_none() {
            let Some(winner) = winners.last() else {
                return wrong(Check::OneResult, format!("{id} succeeded without a winner"));
            };
            let attempt = AttemptId { task: id, number: winner.number };
            let ended = self.ended.get(&attempt);
            if !ended.is_some_and(|endings| endings.iter().any(|ending| ending.exit_code == Some(0))) {
                return wrong(Check::OneResult, format!("{attempt} is said to have succeeded, and did not"));
            }
            self.check_outputs(attempt, winner, service)?;
        }
        // A run takes back what it does not want any more.
        let unasked = row.of_run.is_none() && !self.may_be_cancelled(id);
        if row.state() == v1::TaskState::Cancelled && unasked {
            return wrong(Check::OneResult, format!("{id} is cancelled, and nobody asked for it"));
        }
        Ok(())
    }

    /// All files are the winner's when it is called that.
    fn check_outputs(&self, winner: AttemptId, row: &store::AttemptRow, service: bool) -> Result<(), Wrong> {
        let declared = row.ending.as_ref().is_some_and(|ending| !ending.outputs.is_empty());
        let files = self.destinations.get(&winner.task).map(|destination| destination.files);
        let whole = |of: AttemptId| files.is_some_and(|files| files.iter().all(|file| *file == Some(of)));
        // After a backup they may be those of a winner that the store has forgotten.
        let earlier = self.restores > 0 && self.winners.iter().any(|other| other.task == winner.task && whole(*other));
        if declared && !service && !whole(winner) && !earlier {
            let what = format!("{winner} has won, and the files there are {files:?}");
            return wrong(Check::OutputsAreTheWinners, what);
        }
        Ok(())
    }

    /// Own failures were had; losses are counted apart; each has its bound, and is the reason only beyond it.
    fn check_budgets(&self, id: TaskId, row: &store::TaskRow) -> Result<(), Wrong> {
        let faults = self.faults.get(&id).copied().unwrap_or(0);
        if row.own_failures > faults {
            let what = format!("{id} is charged {} failures and had {faults}", row.own_failures);
            return wrong(Check::LossesApart, what);
        }
        let retry = row.facts.as_ref().and_then(|facts| facts.retry.clone()).unwrap_or_default();
        let losses = if retry.no_infrastructure_retry { 0 } else { retry.max_infrastructure };
        if row.infra_failures > losses + 1 {
            let what = format!("{id} was lost {} times and may be {losses} times", row.infra_failures);
            return wrong(Check::LossesApart, what);
        }
        let service = row.facts.as_ref().is_some_and(|facts| facts.restart.is_some());
        let Some(ending) = row.ending.as_ref().filter(|_| row.state() == v1::TaskState::Failed) else { return Ok(()) };
        // What could not be spawned of a service is its restart policy's affair, like any end of it.
        let by_policy = service && ending.reason() == v1::Reason::Spawn;
        if is_infrastructure(ending) && !by_policy && row.infra_failures <= losses {
            return wrong(Check::LossesApart, format!("{id} failed for a loss within its budget of {losses}"));
        }
        let is_final = ending.exit_code.is_some_and(|code| retry.final_codes.contains(&code.unsigned_abs()));
        let own = ending.reason() == v1::Reason::ExitCode && !is_final && !service;
        if own && row.own_failures < retry.max_attempts {
            return wrong(Check::LossesApart, format!("{id} failed after {} tries", row.own_failures));
        }
        Ok(())
    }

    /// Ends are those that processes had, and nothing that was recorded is called lost.
    fn check_ends(&self, boxes: &[Workbox], id: TaskId, row: &store::TaskRow, before: &Store) -> Result<(), Wrong> {
        for known in &row.attempts {
            let attempt = AttemptId { task: id, number: known.number };
            let Some(ending) = &known.ending else { continue };
            let ended = self.ended.get(&attempt);
            if let Some(code) = ending.exit_code
                && !ended.is_some_and(|endings| endings.iter().any(|had| had.exit_code == Some(code)))
            {
                return wrong(Check::AdoptedWithItsEnd, format!("{attempt} is said to have exited with {code}"));
            }
            let old = before.tasks.get(&id).and_then(|old| old.attempts.iter().find(|old| old.number == known.number));
            let fresh = old.is_none_or(|old| old.ending.is_none());
            let excused = self.restores > 0 || self.unrecorded.contains(&attempt);
            let holder = boxes.iter().find(|it| it.sidecar.to_string() == known.sidecar);
            let here = holder.is_some_and(|it| it.has_end_or_process(attempt));
            if fresh && !excused && here && ending.reason() == v1::Reason::Lost {
                return wrong(Check::AdoptedWithItsEnd, format!("{attempt} is called lost, and its record is whole"));
            }
        }
        Ok(())
    }
}
