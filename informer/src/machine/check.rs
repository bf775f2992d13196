//! Every invariant of the machine, recomputed from scratch. Tests and the simulation call it after each step.

use super::Machine;
use super::array::Members;
use super::placement::taken;
use super::sidecar::{Link, Sidecar};
use super::task::{Phase, State, Task};
use super::timer::Timer;
use proto::id::{AttemptId, SidecarId, TaskId};
use std::collections::BTreeSet;

impl Machine {
    /// The first violated invariant, in words.
    ///
    /// # Errors
    /// Names the object and what is wrong with it. A violation is always a bug of the machine.
    pub fn check(&self) -> Result<(), String> {
        for (id, task) in &self.tasks {
            self.check_task(*id, task).map_err(|wrong| format!("task {id}: {wrong}; {}", story(task)))?;
        }
        for (id, sidecar) in &self.sidecars {
            self.check_sidecar(*id, sidecar).map_err(|wrong| format!("sidecar {id}: {wrong}"))?;
        }
        if !self.shared.is_held_by(self.tasks.len()) {
            return Err("facts are kept that no task needs".to_owned());
        }
        self.check_strangers()?;
        self.check_queue()?;
        self.check_children()?;
        self.check_flows()
    }

    fn check_task(&self, id: TaskId, task: &Task) -> Result<(), String> {
        if let Some(members) = task.members() {
            return self.check_array(id, task, members);
        }
        let occupying: Vec<_> = task.attempts.iter().filter(|a| a.occupies() && !a.fenced).collect();
        let winners = task.attempts.iter().filter(|a| matches!(a.phase, Phase::Committing | Phase::Succeeded)).count();
        if winners > 1 && !task.is_service() && task.runs <= 1 {
            return Err(format!("{winners} results are accepted"));
        }
        if occupying.len() > 1 {
            return Err("two attempts are wanted at once".to_owned());
        }
        let may_win = task.attempts.iter().any(super::task::Attempt::may_win);
        match &task.state {
            State::Ended { .. } if may_win => Err("it has ended and an attempt may still win".to_owned()),
            State::Ended { .. } => Ok(()),
            State::Waiting { until_ms: u64::MAX, .. } if !self.old_copy_runs(task) => {
                Err("it waits for nobody".to_owned())
            }
            State::Waiting { until_ms: u64::MAX, .. } => Ok(()),
            State::Waiting { .. } if !self.timers.is_armed(Timer::Due(id)) => {
                Err("it waits without a timer".to_owned())
            }
            State::Ready { .. } if self.old_copy_runs(task) => Err("it may start beside a copy".to_owned()),
            State::Waiting { .. } | State::Ready { .. } if !occupying.is_empty() => {
                Err("it waits although an attempt is wanted".to_owned())
            }
            State::Waiting { .. } | State::Ready { .. } => Ok(()),
            State::Assigned if !occupying.iter().any(|a| a.phase == Phase::Assigned) => self.check_silent(id, task),
            State::Running if !occupying.iter().any(|a| a.phase == Phase::Running) => self.check_silent(id, task),
            State::Committing { winner } if task.attempt(*winner).is_none_or(|a| a.phase != Phase::Committing) => {
                Err("its winner does not commit".to_owned())
            }
            State::Assigned | State::Running | State::Committing { .. } => Ok(()),
        }
    }

    /// A task without the attempt its state speaks of is right only while a silent one is given time (`replace_after`).
    fn check_silent(&self, id: TaskId, task: &Task) -> Result<(), String> {
        let held = task.attempts.iter().filter(|a| a.may_win()).any(|a| self.timers.is_armed(Timer::Replace(a.id(id))));
        if held { Ok(()) } else { Err("nobody has it".to_owned()) }
    }

    fn check_sidecar(&self, id: SidecarId, sidecar: &Sidecar) -> Result<(), String> {
        let mut occupying = BTreeSet::new();
        let (mut cpu_millis, mut memory_bytes) = (0, 0);
        for (task_id, task) in &self.tasks {
            for attempt in task.attempts.iter().filter(|a| a.sidecar == id && a.occupies()) {
                occupying.insert(attempt.id(*task_id));
                cpu_millis += taken(task).cpu_millis;
                memory_bytes += taken(task).memory_bytes;
            }
        }
        let booked: BTreeSet<AttemptId> = sidecar.taken.keys().copied().collect();
        if booked != occupying {
            return Err(format!("its books say {booked:?}, its attempts are {occupying:?}"));
        }
        if (sidecar.taken_cpu_millis, sidecar.taken_memory_bytes) != (cpu_millis, memory_bytes) {
            return Err("its sums differ from its attempts".to_owned());
        }
        if sidecar.taken_cpu_millis > sidecar.cpu_millis || sidecar.taken_memory_bytes > sidecar.memory_bytes {
            return Err("more is taken than it has".to_owned());
        }
        if sidecar.link == Link::Lost && sidecar.taken.keys().any(|a| !self.timers.is_armed(Timer::Replace(*a))) {
            return Err("it is lost and still occupied".to_owned());
        }
        let listed = self.tasks.iter().flat_map(|(task, it)| it.aside.iter().map(|aside| (*task, *aside)));
        let aside = listed.filter(|(_, aside)| aside.sidecar == id);
        let aside: BTreeSet<_> = aside.map(|(task, aside)| AttemptId { task, number: aside.number }).collect();
        if sidecar.aside != aside {
            return Err("what is set aside there is not what its tasks wait for".to_owned());
        }
        if !sidecar.preparing.iter().all(|attempt| booked.contains(attempt)) {
            return Err("it prepares what it does not hold".to_owned());
        }
        if self.open.contains(&id) != sidecar.closed_because().is_none() {
            return Err("it is open and listed as closed, or the other way round".to_owned());
        }
        match sidecar.session() {
            Some(session) if self.sessions.get(&session) != Some(&id) => Err("its session is not listed".to_owned()),
            _ if sidecar.link != Link::Lost && !self.timers.is_armed(Timer::Silence(id)) => {
                Err("nobody listens for its silence".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn check_queue(&self) -> Result<(), String> {
        let mut queued = 0;
        for (id, spot, members) in self.ready.iter() {
            queued += 1;
            let task = self.tasks.get(&id).ok_or_else(|| format!("unknown task {id} is queued"))?;
            if task.spot() != Some(spot) {
                return Err(format!("task {id} is queued and {}", task.state_word()));
            }
            if members != task.members().map_or(1, |members| members.pending.len()) {
                return Err(format!("task {id} is queued for {members} members"));
            }
            let idle = self.open.iter().find(|open| {
                let fits = |sidecar: &Sidecar| self.unfit_because(sidecar, task.alike.lane.class).is_none();
                let free = |sidecar: &&Sidecar| sidecar.kept_for.is_none_or(|kept| kept == id);
                self.sidecars.get(open).filter(free).is_some_and(fits)
            });
            if let Some(idle) = idle {
                return Err(format!("task {id} waits although sidecar {idle} has room"));
            }
        }
        if !self.ready.is_consistent() {
            return Err("the queue's order is not that of its queues".to_owned());
        }
        self.check_kept()?;
        let ready = self.tasks.values().filter(|task| matches!(task.state, State::Ready { .. })).count();
        if ready != queued { Err(format!("{ready} tasks are ready and {queued} are queued")) } else { Ok(()) }
    }

    /// What is kept free is kept for a task that waits, and both sides know.
    fn check_kept(&self) -> Result<(), String> {
        for (task, id) in &self.reserved {
            if self.sidecars.get(id).is_none_or(|sidecar| sidecar.kept_for != Some(*task)) {
                return Err(format!("task {task} thinks that sidecar {id} is kept free for it"));
            }
            if self.tasks.get(task).and_then(|task| task.spot()).is_none() {
                return Err(format!("sidecar {id} is kept free for task {task}, which does not wait"));
            }
        }
        let kept = self.sidecars.values().filter(|sidecar| sidecar.kept_for.is_some()).count();
        if kept == self.reserved.len() { Ok(()) } else { Err("a sidecar is kept free for nobody".to_owned()) }
    }

    fn check_array(&self, id: TaskId, task: &Task, members: &Members) -> Result<(), String> {
        let known = members.live + members.succeeded + members.failed + members.cancelled_rows;
        if known + members.pending.len() + members.cancelled.len() != members.count {
            return Err(format!("its members do not add up: {members:?}"));
        }
        let live = self.live_members(id).len();
        if live != members.live as usize {
            return Err(format!("{live} members are held and {} are counted", members.live));
        }
        let (waits, over) = (!members.pending.is_empty(), members.pending.is_empty() && members.live == 0);
        if waits != task.waits() || over != task.is_ended() {
            return Err(format!("it is {} with {members:?}", task.state_word()));
        }
        Ok(())
    }
}

/// State and attempts in one line, for whoever reads a failed check.
fn story(task: &Task) -> String {
    let attempts = task.attempts.iter().map(|attempt| {
        let fenced = if attempt.fenced { " fenced" } else { "" };
        format!("{} {:?}{fenced} on {}", attempt.number, attempt.phase, attempt.sidecar)
    });
    format!("{:?}, attempts: {}", task.state, attempts.collect::<Vec<_>>().join(", "))
}
