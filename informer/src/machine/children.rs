//! Children of running tasks, as their sidecars send them up: each is answered once it is durable, and a repetition is answered again.
//!
//! What a run's task emits is a step of the run. What any other emits is a task by itself, which knows its parent: its end is nobody's
//! affair, and its parent's is none of its, unless a user cancels the parent.

use super::event::{Alone, EmittedChild, SessionId};
use super::task::{Child, Task, WaitsFor};
use super::{Cx, Machine};
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{bounds, v1};
use std::collections::{BTreeMap, BTreeSet};
use v1::informer_message::Message;

/// Why a child is not taken.
pub(super) struct Declined {
    why: String,
    /// It may be emitted again: there is no room for it now.
    later: bool,
}

impl Declined {
    pub(super) fn for_good(why: impl Into<String>) -> Self {
        Self { why: why.into(), later: false }
    }
}

impl Machine {
    /// A running task emits a child, or its seal.
    pub(super) fn on_emitted(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        id: AttemptId,
        fence: Fence,
        child: EmittedChild,
    ) {
        let Some(sidecar) = self.sessions.get(&session).copied() else { return };
        let key = child.key.clone();
        let taken = self.may_emit(sidecar, id, fence).and_then(|()| self.take_child(cx, id.task, child));
        let Declined { why, later } = taken.err().unwrap_or(Declined { why: String::new(), later: false });
        let answer = v1::EmitAnswer { attempt: Some(id.to_wire()), key, refusal: why, later };
        self.send(cx, session, Message::EmitAnswer(answer));
    }

    /// Only the attempt whose result could be accepted speaks for its task.
    fn may_emit(&self, sidecar: SidecarId, id: AttemptId, fence: Fence) -> Result<(), Declined> {
        let attempt = self.tasks.get(&id.task).and_then(|task| task.attempt(id.number));
        let wanted = attempt.is_some_and(|it| it.sidecar == sidecar && it.fence == fence && it.may_win());
        let stopping = self.tasks.get(&id.task).is_some_and(|task| task.is_ended() || task.is_stopping());
        match wanted && !stopping {
            true => Ok(()),
            false => Err(Declined::for_good("this attempt is no longer the one that counts")),
        }
    }

    fn take_child(&mut self, cx: &mut Cx<'_>, parent: TaskId, child: EmittedChild) -> Result<(), Declined> {
        if self.tasks.len() >= bounds::TASKS_LIVE && !child.key.is_empty() {
            let why = format!("{} tasks are not terminal, which is the bound", bounds::TASKS_LIVE);
            return Err(Declined { why, later: true });
        }
        if self.emits_alone(parent) { self.emit_alone(cx, parent, child) } else { self.emit_in_run(cx, parent, child) }
    }

    /// Whether what the task emits are tasks by themselves; a run's task emits steps.
    #[must_use]
    pub fn emits_alone(&self, parent: TaskId) -> bool {
        self.tasks.get(&parent).is_some_and(|task| task.of_run.is_none())
    }

    /// A seal is nobody's affair here: nothing waits for the children.
    fn emit_alone(&mut self, cx: &mut Cx<'_>, parent: TaskId, child: EmittedChild) -> Result<(), Declined> {
        let EmittedChild { key, digest, what, alone } = child;
        what.map_err(Declined::for_good)?;
        let Some(Alone { stored, made }) = alone.map(|alone| *alone).filter(|_| !key.is_empty()) else { return Ok(()) };
        let id = child_id(parent, &key);
        self.hydrate_all(stored);
        if let Some(known) = self.tasks.get(&id) {
            let same = known.child.as_ref().is_some_and(|child| child.digest == digest);
            let why = || format!("child {key:?} was emitted with another payload; use another key, or emit the same");
            return if same { Ok(()) } else { Err(Declined::for_good(why())) };
        }
        let (template, body) = made.map_err(Declined::for_good)?;
        let Some(task) = self.tasks.get_mut(&parent) else { return Ok(()) };
        if task.children >= bounds::CHILDREN {
            let why = format!(
                "the task has {} children, which is the bound; let a child stand for several pieces",
                bounds::CHILDREN
            );
            return Err(Declined::for_good(why));
        }
        task.children += 1;
        let (owner, priority) = (task.alike.facts.owner.clone(), task.alike.facts.priority);
        self.touch_task(parent);
        let mut facts = template.facts;
        facts.owner = owner;
        if facts.priority == 0 {
            facts.priority = priority;
        }
        facts.labels.insert(bounds::PARENT_LABEL.to_owned(), parent.to_string());
        let total_ms = facts.timeouts.map_or(0, |timeouts| timeouts.total_ms);
        let (alike, own) = self.shared.acquire(facts);
        let mut made = Task::new(template.payload, alike, own, cx.now.wall_ms);
        made.child = Some(Box::new(Child { parent, key: key.into(), digest }));
        self.note_child(id, &made);
        self.tasks.insert(id, Box::new(made));
        self.flows.keep_body(template.payload, body);
        self.note_task(cx, id, "submitted", format!("by task {parent}"));
        self.arm_total(cx, id, total_ms);
        self.make_waiting(cx, id, cx.now.mono_ms, WaitsFor::StartTime);
        Ok(())
    }

    /// A user who cancels a task means what it has emitted, too.
    pub(super) fn cancel_children(&mut self, cx: &mut Cx<'_>, parent: TaskId, reason: &str) {
        let children: Vec<TaskId> = self.children.get(&parent).into_iter().flatten().copied().collect();
        for child in children {
            // One that has ended meanwhile, or whose outputs are being published, is past it.
            let _ = self.cancel(cx, child, reason);
        }
    }

    pub(super) fn note_child(&mut self, id: TaskId, task: &Task) {
        if let Some(child) = &task.child {
            self.children.entry(child.parent).or_default().insert(id);
        }
    }

    pub(super) fn forget_child(&mut self, id: TaskId, task: &Task) {
        let Some(child) = &task.child else { return };
        if let Some(children) = self.children.get_mut(&child.parent) {
            children.remove(&id);
            if children.is_empty() {
                self.children.remove(&child.parent);
            }
        }
    }

    /// The children that are held are those by their parents.
    pub(super) fn check_children(&self) -> Result<(), String> {
        let held = self.tasks.iter().filter_map(|(id, task)| Some((task.child.as_ref()?.parent, *id)));
        let mut children: BTreeMap<TaskId, BTreeSet<TaskId>> = BTreeMap::new();
        for (parent, id) in held {
            children.entry(parent).or_default().insert(id);
        }
        match children == self.children {
            true => Ok(()),
            false => Err("the children that are held are not those that are told by their parents".to_owned()),
        }
    }
}

/// The id of a task's child: of its parent's time, and else of parent and key, so that the same child is the same task whenever, and by
/// whichever attempt, it is emitted.
#[must_use]
pub fn child_id(parent: TaskId, key: &str) -> TaskId {
    let mut time = [0; 8];
    time[2..].copy_from_slice(&parent.to_bytes()[..6]);
    super::workflow::task_id(&format!("{parent}/{key}"), u64::from_be_bytes(time))
}
