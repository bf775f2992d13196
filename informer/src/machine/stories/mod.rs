//! Short stories about the machine, one file a subject. Each arranges a world in a few lines, tells it one event, takes the effects, and
//! checks all invariants.

mod arrays;
mod children;
mod copies;
mod lacks;
mod lifecycle;
mod losses;
mod operations;
mod places;
mod queue;
mod restored;
mod shown;
mod workflows;

use super::*;
use proto::{bounds, store, v1};
use v1::informer_message::Message;
use v1::verdict::Decision;

/// A machine, its clock, and what it wanted done since somebody looked.
struct World {
    machine: Machine,
    now: Now,
    effects: Vec<Effect>,
    seq: u64,
    next_id: u128,
    reports: BTreeMap<SessionId, u64>,
}

const BEAT: u64 = 1000;

fn config() -> Config {
    Config {
        beat_ms: BEAT,
        lease_ms: 3 * BEAT,
        fence_grace_ms: 500,
        lineage: "l".to_owned(),
        epoch: 1,
        commit_seq: 0,
        accept_restored: false,
        shares: BTreeMap::new(),
        log_policy: v1::LogPolicy::Always,
        #[cfg(feature = "seeded-bugs")]
        bug: None,
    }
}

fn facts() -> store::Facts {
    store::Facts { name: "job".into(), kind: "command".into(), cpu_millis: 1000, ..Default::default() }
}

fn exit(code: i32) -> v1::Ending {
    let reason = if code == 0 { v1::Reason::Unspecified } else { v1::Reason::ExitCode };
    v1::Ending { reason: reason.into(), exit_code: Some(code), ran_ms: 10, ..Default::default() }
}

fn staged() -> v1::Ending {
    let output = v1::StagedOutput { path: "/out".into(), size_bytes: 1, sha256: "aa".into() };
    v1::Ending { outputs: vec![output], ..exit(0) }
}

impl World {
    fn new() -> Self {
        let now = Now { mono_ms: 10_000, wall_ms: 1_000_000, entropy: 7 };
        let machine = Machine::new(config(), now, [], [], []);
        Self { machine, now, effects: Vec::new(), seq: 0, next_id: 0, reports: BTreeMap::new() }
    }

    fn tell(&mut self, event: Event) {
        self.machine.apply(self.now, event, &mut self.effects);
        self.machine.check().expect("invariants hold");
    }

    /// Commits everything, as the shell would.
    fn commit(&mut self) -> Batch {
        self.seq += 1;
        let batch = self.machine.take_batch(self.seq);
        self.machine.committed(self.seq);
        self.machine.check().expect("invariants hold");
        batch
    }

    fn row(&mut self, id: TaskId) -> store::TaskRow {
        self.machine.touch_task(id);
        let batch = self.commit();
        batch.tasks.iter().map(TaskChange::whole).find(|row| row.id == *id.to_bytes()).expect("the task is held")
    }

    fn state(&self, id: TaskId) -> v1::TaskState {
        self.machine.tasks.get(&id).expect("the task is held").wire_state()
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while let Some(at) = self.machine.next_wakeup().filter(|at| *at <= end) {
            let step = at.saturating_sub(self.now.mono_ms);
            self.now.mono_ms += step;
            self.now.wall_ms += step;
            self.tell(Event::TimePassed);
        }
        self.now.wall_ms += end - self.now.mono_ms;
        self.now.mono_ms = end;
    }

    fn submit(&mut self, facts: store::Facts) -> TaskId {
        self.submit_with(facts, None, 1)
    }

    fn submit_with(&mut self, facts: store::Facts, key: Option<&str>, payload: u8) -> TaskId {
        let submit = self.submission(facts, key, payload);
        let task = submit.task;
        self.tell(Event::Submitted(Box::new(submit)));
        task
    }

    fn submission(&mut self, facts: store::Facts, key: Option<&str>, payload: u8) -> Submit {
        self.next_id += 1;
        Submit {
            ticket: Ticket(1),
            task: TaskId::from_u128(self.next_id),
            key: key.map(str::to_owned),
            payload: [payload; 32],
            digest: [payload; 32],
            array: None,
            facts: Box::new(facts),
            start_after_unix_ms: 0,
            start_after_ms: 0,
            known: None,
        }
    }

    fn hello(n: u128, slots: u32) -> Hello {
        Hello {
            sidecar: SidecarId::from_u128(n),
            incarnation: 1,
            start: 0,
            yields: false,
            place: "here".into(),
            host: format!("box{n}"),
            version: "1".into(),
            labels: BTreeMap::new(),
            cpu_millis: 1000 * u64::from(slots),
            memory_bytes: 1 << 30,
            slots,
            weak_fencing: false,
            kinds: vec!["command".into(), "service".into(), "transcode".into()],
            seen: None,
            highest_fence: Fence::default(),
        }
    }

    fn link(&mut self, n: u128, session: u64, slots: u32, held: Vec<Held>) -> SessionId {
        self.link_as(Self::hello(n, slots), session, held)
    }

    fn link_as(&mut self, hello: Hello, session: u64, held: Vec<Held>) -> SessionId {
        let session = SessionId(session);
        let slots = hello.slots;
        self.tell(Event::LinkOpened { session, hello: Box::new(hello), held, stored: BTreeMap::new() });
        if self.machine.sessions.contains_key(&session) {
            self.beat(session, slots);
        }
        session
    }

    fn beat(&mut self, session: SessionId, limit: u32) {
        let load = v1::Load::default();
        self.tell(Event::BeatReceived {
            session,
            seq: 1,
            load,
            credit: limit,
            held: 0,
            apart: v1::Resources::default(),
            aside: None,
            closed: false,
            progress: Vec::new(),
        });
    }

    fn report(&mut self, session: SessionId, (attempt, fence): (AttemptId, Fence), report: Report) {
        let seq = self.reports.entry(session).or_default();
        *seq += 1;
        let seq = *seq;
        self.tell(Event::Reported { session, seq, attempt, fence, report, stored: Vec::new() });
    }

    fn started(&mut self, session: SessionId, attempt: (AttemptId, Fence)) {
        self.report(session, attempt, Report::Accepted);
        self.report(session, attempt, Report::Started { unix_ms: 5 });
    }

    /// Takes the assignments and forgets every other effect.
    fn assigned(&mut self) -> Vec<(SessionId, AttemptId, Fence)> {
        let assigned = self.effects.iter().filter_map(|effect| match effect {
            Effect::SendAssign { session, attempt, fence, .. } => Some((*session, *attempt, *fence)),
            _ => None,
        });
        let assigned = assigned.collect();
        self.effects.clear();
        assigned
    }

    fn one_assigned(&mut self) -> (AttemptId, Fence) {
        let assigned = self.assigned();
        assert_eq!(assigned.len(), 1, "one assignment was expected: {assigned:?}");
        (assigned[0].1, assigned[0].2)
    }

    fn messages(&mut self) -> Vec<Message> {
        let messages = std::mem::take(&mut self.effects).into_iter().filter_map(|effect| match effect {
            Effect::Send { message, .. } => message.message,
            _ => None,
        });
        messages.collect()
    }

    fn verdicts(&mut self) -> Vec<Decision> {
        let verdicts = self.messages().into_iter().filter_map(|message| match message {
            Message::Verdict(verdict) => Some(verdict.decision()),
            _ => None,
        });
        verdicts.collect()
    }

    fn stops(&mut self) -> usize {
        self.messages().iter().filter(|message| matches!(message, Message::Stop(_))).count()
    }
}

fn held(attempt: (AttemptId, Fence), state: HeldState) -> Held {
    Held { attempt: attempt.0, fence: attempt.1, state, asked: Some(v1::Resources::default()), over: false }
}

fn running(step: u64) -> HeldState {
    HeldState::Running { started_unix_ms: 5, progress: v1::Progress { step, ..Default::default() } }
}
