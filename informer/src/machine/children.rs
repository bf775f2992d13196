//! Children of running tasks, as their sidecars send them up: each is answered once it is durable, and a repetition is answered again.

use super::event::{EmittedChild, SessionId};
use super::{Cx, Machine};
use proto::id::{AttemptId, Fence, SidecarId, TaskId};
use proto::{bounds, v1};
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
        match self.emit_in_run(cx, parent, child) {
            Some(taken) => taken,
            None => Err(Declined::for_good("the task is not part of a workflow that takes children")),
        }
    }
}
