//! Executors: how tasks of one type are run. Registered by clients, or announced by sidecars that embed one.

use super::effect::{Effect, Rejection, Reply};
use super::event::{SessionId, Ticket};
use super::{Cx, Machine};
use prost::Message as _;
use proto::id::TaskId;
use proto::{bounds, check, store, v1};
use v1::executor::Mode;
use v1::informer_message::Message;

/// Encoded executors in one message: a quarter of the largest.
const PART_BYTES: usize = bounds::MESSAGE_BYTES / 4;

/// The kind that a sidecar announces if it can run executors by command line and remote services.
pub(super) const TYPED: &str = "typed";

impl Machine {
    /// Whether there is an executor of this type.
    #[must_use]
    pub fn has_executor(&self, r#type: &str) -> bool {
        self.executors.contains_key(r#type)
    }

    pub(super) fn on_executor_put(&mut self, cx: &mut Cx<'_>, ticket: Ticket, new: v1::Executor, replace: bool) {
        let reply = match self.put(cx, new, replace) {
            Ok((executor, existed)) => Reply::Executor { executor: Box::new(executor), existed },
            Err(rejection) => Reply::Rejected(rejection),
        };
        cx.effects.push(Effect::Reply { ticket, reply });
    }

    fn put(&mut self, cx: &mut Cx<'_>, new: v1::Executor, replace: bool) -> Result<(v1::Executor, bool), Rejection> {
        match self.executors.get(&new.r#type) {
            Some(old) if (&old.mode, &old.description) == (&new.mode, &new.description) => {
                return Ok((old.clone(), true));
            }
            Some(_) if !replace => return Err(Rejection::ExecutorConflict { r#type: new.r#type }),
            None if self.executors.len() >= bounds::EXECUTORS => {
                return Err(Rejection::ExecutorsFull { limit: bounds::EXECUTORS });
            }
            Some(_) | None => {}
        }
        self.register(new.clone());
        self.tell_executors(cx);
        Ok((new, false))
    }

    fn register(&mut self, executor: v1::Executor) {
        self.touch_executor(&executor.r#type);
        self.executors.insert(executor.r#type.clone(), executor);
    }

    pub(super) fn on_executor_deleted(&mut self, cx: &mut Cx<'_>, ticket: Ticket, name: &str) {
        let existed = self.executors.remove(name).is_some();
        if existed {
            self.touch_executor(name);
            self.tell_executors(cx);
        }
        cx.effects.push(Effect::Reply { ticket, reply: Reply::ExecutorGone { existed } });
    }

    fn touch_executor(&mut self, name: &str) {
        self.pending.executors.insert(name.to_owned());
        self.pending.writes += 1;
    }

    /// Every linked sidecar learns the whole set again, before any assignment that needs it. What waits for a type may fit now.
    fn tell_executors(&mut self, cx: &mut Cx<'_>) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.send_executors(cx, session);
        }
        let open: Vec<_> = self.open.iter().copied().collect();
        open.into_iter().for_each(|id| self.refresh(id));
    }

    pub(super) fn send_executors(&self, cx: &mut Cx<'_>, session: SessionId) {
        let mut parts = vec![Vec::new()];
        let mut bytes = 0;
        for executor in self.executors.values() {
            bytes += executor.encoded_len();
            if bytes > PART_BYTES {
                parts.push(Vec::new());
                bytes = executor.encoded_len();
            }
            parts.last_mut().expect("there is one from the start").push(executor.clone());
        }
        let last = parts.len() - 1;
        for (n, executors) in parts.into_iter().enumerate() {
            self.send(cx, session, Message::Executors(v1::Executors { executors, more: n < last }));
        }
    }

    /// A sidecar that embeds an executor of a type that nobody registered registers it.
    pub(super) fn learn_embedded(&mut self, cx: &mut Cx<'_>, kinds: &[String]) {
        let mut learned = false;
        for name in kinds.iter().filter_map(|kind| kind.strip_prefix(check::TYPE)) {
            if self.executors.contains_key(name) || self.executors.len() >= bounds::EXECUTORS {
                continue;
            }
            let nth = self.executors.len() as u128;
            self.register(v1::Executor {
                r#type: name.to_owned(),
                id: TaskId::from_u128(u128::from(cx.now.entropy) << 64 | nth).to_string(),
                description: "announced by a sidecar".to_owned(),
                registered_unix_ms: cx.now.wall_ms,
                mode: Some(Mode::Embedded(v1::Embedded {})),
            });
            learned = true;
        }
        if learned {
            self.tell_executors(cx);
        }
    }

    /// A task of a type that nobody has registered would wait for ever.
    pub(super) fn check_type(&self, facts: &store::Facts) -> Result<(), Rejection> {
        match facts.kind.strip_prefix(check::TYPE) {
            Some(name) if !self.executors.contains_key(name) => Err(Rejection::UnknownType { r#type: name.to_owned() }),
            Some(_) | None => Ok(()),
        }
    }

    /// What a sidecar must announce to run tasks of this kind.
    pub(super) fn announced_as<'a>(&self, kind: &'a str) -> &'a str {
        let executor = kind.strip_prefix(check::TYPE).and_then(|name| self.executors.get(name));
        match executor.and_then(|executor| executor.mode.as_ref()) {
            Some(Mode::Command(_) | Mode::Service(_)) => TYPED,
            Some(Mode::Embedded(_)) | None => kind,
        }
    }
}
