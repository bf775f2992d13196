//! Short stories about the machine: arrange a world in a few lines, tell it one event, take the effects, check all invariants.

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
        let machine = Machine::new(config(), now, [], []);
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
        batch.tasks.into_iter().find(|row| row.id == id.to_bytes()).expect("the task is held")
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
        self.next_id += 1;
        let task = TaskId::from_u128(self.next_id);
        self.tell(Event::Submitted(Box::new(Submit {
            ticket: Ticket(1),
            task,
            key: key.map(str::to_owned),
            payload: [payload; 32],
            facts: Box::new(facts),
            start_after_unix_ms: 0,
            known: None,
        })));
        task
    }

    fn hello(n: u128, slots: u32) -> Hello {
        Hello {
            sidecar: SidecarId::from_u128(n),
            incarnation: 1,
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
        self.tell(Event::BeatReceived { session, seq: 1, load, credit: limit, held: 0, progress: Vec::new() });
    }

    fn report(&mut self, session: SessionId, (attempt, fence): (AttemptId, Fence), report: Report) {
        let seq = self.reports.entry(session).or_default();
        *seq += 1;
        let seq = *seq;
        self.tell(Event::Reported { session, seq, attempt, fence, report, stored: None });
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
    Held { attempt: attempt.0, fence: attempt.1, state }
}

fn running(step: u64) -> HeldState {
    HeldState::Running { started_unix_ms: 5, progress: v1::Progress { step, ..Default::default() } }
}

#[test]
fn a_task_goes_from_submit_to_success() {
    let mut world = World::new();
    let session = world.link(1, 1, 2, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    assert_eq!(world.state(task), v1::TaskState::Running);
    world.report(session, attempt, Report::Ended(Box::new(exit(0))));
    let row = world.row(task);
    assert_eq!(row.state(), v1::TaskState::Succeeded);
    assert!(!world.machine.holds(task), "a committed end is forgotten");
}

#[test]
fn without_a_sidecar_it_waits_and_says_why() {
    let mut world = World::new();
    let task = world.submit(facts());
    assert_eq!(world.state(task), v1::TaskState::Ready);
    let why = world.machine.why(world.now, task).expect("held");
    assert!(why.summary.contains("no sidecar is linked"), "{}", why.summary);
    world.link(1, 1, 1, vec![]);
    assert_eq!(world.assigned().len(), 1);
}

#[test]
fn one_key_is_one_task_also_before_its_commit() {
    let mut world = World::new();
    let first = world.submit_with(facts(), Some("k"), 1);
    world.effects.clear();
    world.submit_with(facts(), Some("k"), 1);
    let reply = Reply::Submitted { task: first, existed: true };
    assert_eq!(world.effects, [Effect::Reply { ticket: Ticket(1), reply }]);
    world.effects.clear();
    world.submit_with(facts(), Some("k"), 2);
    let reply = Reply::Rejected(Rejection::KeyConflict { task: first });
    assert_eq!(world.effects, [Effect::Reply { ticket: Ticket(1), reply }]);
}

#[test]
fn high_priorities_go_first_and_equals_in_order() {
    let mut world = World::new();
    let low = world.submit(store::Facts { priority: -1, ..facts() });
    let first = world.submit(facts());
    let second = world.submit(facts());
    let high = world.submit(store::Facts { priority: 5, ..facts() });
    let session = world.link(1, 1, 1, vec![]);
    let mut order = Vec::new();
    for _ in 0..4 {
        let attempt = world.one_assigned();
        order.push(attempt.0.task);
        world.started(session, attempt);
        world.effects.clear();
        world.report(session, attempt, Report::Ended(Box::new(exit(0))));
    }
    assert_eq!(order, [high, first, second, low]);
}

#[test]
fn required_labels_route_and_books_are_kept() {
    let mut world = World::new();
    let require: BTreeMap<String, String> = [("service".to_owned(), "live".to_owned())].into();
    let routed = world.submit(store::Facts { require: require.clone(), ..facts() });
    world.link(1, 1, 4, vec![]);
    assert_eq!(world.assigned(), []);
    let why = world.machine.why(world.now, routed).expect("held");
    assert!(why.details[0].contains("lacks the required label service=live"), "{:?}", why.details);
    let labelled = Hello { labels: require, ..World::hello(2, 1) };
    let session = world.link_as(labelled, 2, vec![]);
    assert_eq!(world.assigned(), [(session, AttemptId { task: routed, number: 1 }, Fence { epoch: 1, n: 1 })]);
    let large = world.submit(store::Facts { cpu_millis: 64_000, ..facts() });
    assert_eq!(world.state(large), v1::TaskState::Ready);
}

#[test]
fn a_fresh_sidecar_starts_slowly() {
    let mut world = World::new();
    for _ in 0..8 {
        world.submit(facts());
    }
    let session = world.link(1, 1, 8, vec![]);
    let attempt = world.one_assigned();
    world.started(session, attempt);
    let next = world.one_assigned();
    world.started(session, next);
    assert_eq!(world.assigned().len(), 2, "the window has doubled to four");
}

#[test]
fn three_spawn_failures_of_different_tasks_quarantine() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let spawn = v1::Ending { reason: v1::Reason::Spawn.into(), ..Default::default() };
    for _ in 0..3 {
        world.submit(store::Facts { retry: Some(v1::Retry { max_attempts: 1, ..Default::default() }), ..facts() });
        let attempt = world.one_assigned();
        world.report(session, attempt, Report::Ended(Box::new(spawn.clone())));
        world.effects.clear();
    }
    let kept = world.submit(facts());
    assert_eq!(world.assigned(), []);
    let why = world.machine.why(world.now, kept).expect("held");
    assert!(why.details[0].contains("quarantined"), "{:?}", why.details);
    for _ in 0..(super::sidecar::QUARANTINE_MS / BEAT) {
        world.pass(BEAT);
        world.beat(session, 1);
    }
    assert_eq!(world.assigned().len(), 1, "after its rest it is tried again");
}

#[test]
fn own_failures_back_off_and_end() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let retry = v1::Retry { max_attempts: 2, backoff_ms: 100, ..Default::default() };
    let task = world.submit(store::Facts { retry: Some(retry), ..facts() });
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.report(session, attempt, Report::Ended(Box::new(exit(3))));
    assert_eq!(world.state(task), v1::TaskState::Waiting);
    world.pass(100);
    let attempt = world.one_assigned();
    assert_eq!(attempt.0.number, 2);
    world.started(session, attempt);
    world.report(session, attempt, Report::Ended(Box::new(exit(4))));
    let row = world.row(task);
    assert_eq!((row.state(), row.own_failures), (v1::TaskState::Failed, 2));
    assert_eq!(row.ending.and_then(|ending| ending.exit_code), Some(4));
}

#[test]
fn started_after_ended_moves_nothing_back() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.report(session, attempt, Report::Ended(Box::new(exit(0))));
    world.report(session, attempt, Report::Started { unix_ms: 1 });
    world.report(session, attempt, Report::Ended(Box::new(exit(9))));
    assert_eq!(world.row(task).state(), v1::TaskState::Succeeded);
}

#[test]
fn a_gap_in_report_numbers_ends_the_link() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    world.submit(facts());
    let (attempt, fence) = world.one_assigned();
    world.tell(Event::Reported { session, seq: 5, attempt, fence, report: Report::Accepted, stored: None });
    assert!(world.effects.iter().any(|effect| matches!(effect, Effect::CloseLink { .. })));
}

/// A running task whose sidecar 1 is lost; sidecar 2 stands by.
fn lost(facts: store::Facts) -> (World, TaskId, (AttemptId, Fence), SessionId) {
    let mut world = World::new();
    let first = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts);
    let original = world.one_assigned();
    world.started(first, original);
    let second = world.link(2, 2, 1, vec![]);
    world.effects.clear();
    world.tell(Event::LinkClosed { session: first });
    for _ in 0..2 {
        world.pass(BEAT);
        world.beat(second, 1);
    }
    assert_eq!(world.assigned(), [], "nothing moves before the third missed beat");
    world.pass(BEAT);
    world.beat(second, 1);
    (world, task, original, second)
}

#[test]
fn after_three_missed_beats_another_sidecar_gets_it() {
    let (mut world, task, original, second) = lost(facts());
    let replacement = world.one_assigned();
    assert!(replacement.1 > original.1, "a replacement has a higher fence");
    world.started(second, replacement);
    world.report(second, replacement, Report::Ended(Box::new(exit(0))));
    let row = world.row(task);
    assert_eq!((row.state(), row.own_failures, row.infra_failures), (v1::TaskState::Succeeded, 0, 1));
    world.tell(Event::LinkOpened {
        session: SessionId(3),
        hello: Box::new(World::hello(1, 1)),
        held: vec![held(original, HeldState::Ended(Box::new(exit(0))))],
        stored: [(task, row)].into(),
    });
    assert_eq!(world.verdicts(), [Decision::Acknowledged]);
    let row = world.commit().tasks.pop().expect("the late result is stored");
    assert_eq!(row.attempts[0].state(), v1::AttemptState::Late);
    assert_eq!(row.attempts[1].state(), v1::AttemptState::Succeeded);
}

#[test]
fn an_original_that_finished_first_wins_and_its_replacement_is_stopped() {
    let (mut world, task, original, second) = lost(facts());
    let replacement = world.one_assigned();
    world.started(second, replacement);
    world.effects.clear();
    world.link(1, 3, 1, vec![held(original, HeldState::Ended(Box::new(exit(0))))]);
    assert_eq!(world.state(task), v1::TaskState::Succeeded);
    assert_eq!(world.stops(), 1);
    world.report(second, replacement, Report::Ended(Box::new(exit(0))));
    let row = world.row(task);
    assert_eq!(row.attempts[1].state(), v1::AttemptState::Late);
}

#[test]
fn a_replacement_not_yet_started_is_revoked() {
    let (mut world, task, original, _) = lost(facts());
    world.one_assigned();
    world.link(1, 3, 1, vec![held(original, running(0))]);
    assert_eq!(world.stops(), 1);
    let row = world.row(task);
    assert_eq!((row.state(), row.infra_failures), (v1::TaskState::Running, 0));
    assert!(row.attempts[1].fenced && !row.attempts[0].fenced);
}

#[test]
fn of_two_running_copies_the_one_further_on_is_kept() {
    for (original_step, decision) in [(9, Decision::Keep), (3, Decision::Stop)] {
        let (mut world, task, original, second) = lost(facts());
        let replacement = world.one_assigned();
        world.started(second, replacement);
        let progress = vec![(replacement.0, v1::Progress { step: 5, ..Default::default() })];
        let load = v1::Load::default();
        world.tell(Event::BeatReceived { session: second, seq: 2, load, credit: 0, held: 1, progress });
        world.effects.clear();
        world.link(1, 3, 1, vec![held(original, running(original_step))]);
        assert_eq!(world.verdicts(), [decision]);
        assert_eq!(world.state(task), v1::TaskState::Running);
    }
}

#[test]
fn a_stop_task_is_replaced_only_after_lease_and_grace() {
    let (mut world, task, original, second) =
        lost(store::Facts { stop_on_disconnect: true, exclusive: true, ..facts() });
    assert_eq!(world.assigned(), [], "its old copy may still be dying");
    assert_eq!(world.state(task), v1::TaskState::Waiting);
    world.pass(config().fence_grace_ms);
    let replacement = world.one_assigned();
    world.started(second, replacement);
    world.link(1, 3, 1, vec![held(original, HeldState::Ended(Box::new(exit(0))))]);
    assert_eq!(world.state(task), v1::TaskState::Running, "a fenced result changes nothing");
    assert_eq!(world.row(task).attempts[0].state(), v1::AttemptState::Late);
}

#[test]
fn a_stop_copy_that_comes_back_is_stopped_before_its_replacement_starts() {
    let (mut world, task, original, _) = lost(store::Facts { stop_on_disconnect: true, exclusive: true, ..facts() });
    let back = world.link(1, 3, 1, vec![held(original, running(1))]);
    assert_eq!(world.verdicts(), [Decision::Stop]);
    world.pass(BEAT);
    assert_eq!(world.assigned(), [], "the old copy has not told its end");
    assert_eq!(world.state(task), v1::TaskState::Waiting);
    let fenced = v1::Ending { reason: v1::Reason::Fenced.into(), ..Default::default() };
    world.report(back, original, Report::Ended(Box::new(fenced)));
    assert_eq!(world.assigned().len(), 1);
}

#[test]
fn a_policy_may_fail_the_task_at_the_first_loss() {
    let retry = v1::Retry { no_infrastructure_retry: true, ..Default::default() };
    let (mut world, task, ..) = lost(store::Facts { retry: Some(retry), ..facts() });
    let _ = &mut world;
    let reply = world.commit();
    let row = reply.tasks.iter().find(|row| row.id == task.to_bytes()).expect("it has changed");
    assert_eq!(row.state(), v1::TaskState::Failed);
    assert_eq!(row.ending.as_ref().map(v1::Ending::reason), Some(v1::Reason::Lost));
}

#[test]
fn a_blip_shorter_than_the_lease_disturbs_nothing() {
    let mut world = World::new();
    let first = world.link(1, 1, 1, vec![]);
    world.link(2, 2, 1, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(first, attempt);
    world.tell(Event::LinkClosed { session: first });
    world.pass(2 * BEAT);
    world.effects.clear();
    world.link(1, 3, 1, vec![held(attempt, running(1))]);
    assert_eq!(world.verdicts(), [Decision::Keep]);
    let row = world.row(task);
    assert_eq!((row.state(), row.attempts.len()), (v1::TaskState::Running, 1));
}

#[test]
fn an_assignment_that_never_arrived_is_sent_again() {
    let mut world = World::new();
    let first = world.link(1, 1, 1, vec![]);
    world.submit(facts());
    let attempt = world.one_assigned();
    world.tell(Event::LinkClosed { session: first });
    world.link(1, 2, 1, vec![]);
    assert_eq!(world.one_assigned(), attempt);
}

#[test]
fn unknown_attempts_are_set_aside() {
    let mut world = World::new();
    let stranger = (AttemptId { task: TaskId::from_u128(99), number: 1 }, Fence { epoch: 1, n: 9 });
    world.link(1, 1, 1, vec![held(stranger, running(0))]);
    assert_eq!(world.verdicts(), [Decision::SetAside]);
}

#[test]
fn the_newer_incarnation_wins() {
    let mut world = World::new();
    let newer = Hello { incarnation: 2, ..World::hello(1, 1) };
    let session = world.link_as(newer, 1, vec![]);
    world.effects.clear();
    world.link(1, 2, 1, vec![]);
    let [Effect::CloseLink { session: SessionId(2), refuse }] = world.effects.as_slice() else {
        panic!("the older incarnation is refused: {:?}", world.effects)
    };
    assert!(refuse.r#final);
    assert_eq!(world.machine.session_of(&SidecarId::from_u128(1).to_string()), Some(session));
}

#[test]
fn a_winner_publishes_before_the_task_succeeds_and_cancel_is_too_late() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.effects.clear();
    world.report(session, attempt, Report::Ended(Box::new(staged())));
    assert_eq!(world.state(task), v1::TaskState::Committing);
    assert!(world.messages().iter().any(|message| matches!(message, Message::Publish(_))));
    world.tell(Event::CancelRequested { ticket: Ticket(2), task, stored: None, reason: String::new() });
    let [Effect::Reply { reply: Reply::Rejected(Rejection::State { .. }), .. }] = world.effects.as_slice() else {
        panic!("too late: {:?}", world.effects)
    };
    world.report(session, attempt, Report::Published(None));
    assert_eq!(world.row(task).state(), v1::TaskState::Succeeded);
}

#[test]
fn a_winner_lost_before_it_published_yields() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.report(session, attempt, Report::Ended(Box::new(staged())));
    world.tell(Event::LinkClosed { session });
    world.pass(3 * BEAT);
    assert_eq!(world.state(task), v1::TaskState::Committing);
    world.pass(config().fence_grace_ms);
    assert_eq!(world.state(task), v1::TaskState::Ready);
    assert_eq!(world.row(task).infra_failures, 1);
}

#[test]
fn cancel_stops_the_process_and_then_the_task_is_cancelled() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.effects.clear();
    world.tell(Event::CancelRequested { ticket: Ticket(2), task, stored: None, reason: "enough".into() });
    assert_eq!(world.stops(), 1);
    assert_eq!(world.state(task), v1::TaskState::Running);
    let cancelled = v1::Ending { reason: v1::Reason::Cancelled.into(), signal: Some(15), ..Default::default() };
    world.report(session, attempt, Report::Ended(Box::new(cancelled)));
    let row = world.row(task);
    assert_eq!((row.state(), row.cancelling), (v1::TaskState::Cancelled, false));
    assert_eq!(row.attempts[0].state(), v1::AttemptState::Cancelled);
}

#[test]
fn cancel_of_a_waiting_task_is_immediate_and_repeats_harmlessly() {
    let mut world = World::new();
    let task = world.submit(facts());
    for _ in 0..2 {
        world.effects.clear();
        world.tell(Event::CancelRequested { ticket: Ticket(2), task, stored: None, reason: String::new() });
        let [Effect::Reply { reply: Reply::Task(row), .. }] = world.effects.as_slice() else {
            panic!("{:?}", world.effects)
        };
        assert_eq!(row.state(), v1::TaskState::Cancelled);
    }
}

#[test]
fn a_retry_runs_an_ended_task_again_and_one_key_is_one_retry() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let retry = v1::Retry { max_attempts: 1, ..Default::default() };
    let task = world.submit(store::Facts { retry: Some(retry), ..facts() });
    let attempt = world.one_assigned();
    world.report(session, attempt, Report::Ended(Box::new(exit(1))));
    let row = world.row(task);
    assert_eq!(row.state(), v1::TaskState::Failed);
    world.effects.clear();
    let stored = Some(Box::new(row));
    world.tell(Event::RetryRequested { ticket: Ticket(3), task, stored, key: "r".into() });
    let attempt = world.one_assigned();
    assert_eq!(attempt.0.number, 2);
    world.report(session, attempt, Report::Ended(Box::new(exit(0))));
    let stored = Some(Box::new(world.row(task)));
    world.tell(Event::RetryRequested { ticket: Ticket(3), task, stored, key: "r".into() });
    assert_eq!(world.assigned(), []);
    assert!(!world.machine.holds(task), "what was only looked at is forgotten again");
}

#[test]
fn a_service_restarts_by_its_policy_and_is_not_charged() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let restart = v1::RestartPolicy { backoff_ms: 100, max_restarts: 2, ..Default::default() };
    let task = world.submit(store::Facts { kind: "service".into(), restart: Some(restart), ..facts() });
    for delay_ms in [100, 200] {
        let attempt = world.one_assigned();
        world.started(session, attempt);
        world.effects.clear();
        world.report(session, attempt, Report::Ended(Box::new(exit(1))));
        world.pass(delay_ms - 1);
        assert_eq!(world.assigned(), []);
        world.beat(session, 1);
        world.pass(1);
    }
    let attempt = world.one_assigned();
    world.report(session, attempt, Report::Ended(Box::new(exit(1))));
    let row = world.row(task);
    assert_eq!((row.state(), row.own_failures), (v1::TaskState::Failed, 0));
}

#[test]
fn the_queue_and_the_whole_task_have_time_limits() {
    let mut world = World::new();
    let timeouts = v1::Timeouts { queue_ms: 300, total_ms: 1000, ..Default::default() };
    let queued = world.submit(store::Facts { timeouts: Some(timeouts), ..facts() });
    world.pass(300);
    assert_eq!(world.row(queued).ending.map(|ending| ending.reason()), Some(v1::Reason::QueueTimeout));
    let session = world.link(1, 1, 1, vec![]);
    let overlong = world.submit(store::Facts { timeouts: Some(timeouts), ..facts() });
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.effects.clear();
    world.pass(1000);
    assert_eq!(world.stops(), 1);
    let stopped = v1::Ending { reason: v1::Reason::TotalTimeout.into(), signal: Some(15), ..Default::default() };
    world.report(session, attempt, Report::Ended(Box::new(stopped)));
    assert_eq!(world.row(overlong).ending.map(|ending| ending.reason()), Some(v1::Reason::TotalTimeout));
}

#[test]
fn a_restart_finds_everything_again() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let running_task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    let ready_task = world.submit(facts());
    let batch = world.commit();
    let now = Now { mono_ms: 500, wall_ms: world.now.wall_ms + 60_000, entropy: 3 };
    world.machine =
        Machine::new(Config { epoch: 2, commit_seq: world.seq, ..config() }, now, batch.tasks, batch.sidecars);
    world.now = now;
    world.machine.check().expect("invariants hold");
    assert_eq!((world.state(running_task), world.state(ready_task)), (v1::TaskState::Running, v1::TaskState::Ready));
    world.reports.clear();
    world.effects.clear();
    let again = world.link(1, 9, 1, vec![held(attempt, HeldState::Ended(Box::new(exit(0))))]);
    let (next, fence) = world.one_assigned();
    assert_eq!((next.task, fence.epoch), (ready_task, 2));
    world.started(again, (next, fence));
    assert_eq!(world.row(running_task).state(), v1::TaskState::Succeeded);
}

#[test]
fn a_restored_informer_holds_exclusive_starts_and_raises_its_epoch() {
    let mut world = World::new();
    let seen = v1::Identity { lineage: "l".into(), epoch: 4, commit_seq: 77 };
    world.submit(store::Facts { exclusive: true, stop_on_disconnect: true, ..facts() });
    world.link_as(Hello { seen: Some(seen), ..World::hello(1, 1) }, 1, vec![]);
    assert!(world.machine.restored());
    assert_eq!(world.assigned(), []);
    assert_eq!(world.commit().epoch, Some(5));
    world.tell(Event::RestoreAccepted);
    let (_, fence) = world.one_assigned();
    assert_eq!(fence.epoch, 5);
}

#[test]
fn one_missed_beat_makes_suspect_and_a_beat_mends_it() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    world.messages();
    world.pass(2 * BEAT);
    assert!(world.messages().iter().any(|message| matches!(message, Message::Ping(_))));
    world.submit(facts());
    assert_eq!(world.assigned(), [], "a suspect gets no new work");
    world.beat(session, 1);
    assert_eq!(world.assigned().len(), 1);
}

#[test]
fn a_beat_writes_nothing() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    world.commit();
    let before = world.machine.write_count();
    world.beat(session, 1);
    assert_eq!(world.machine.write_count(), before);
    assert!(!world.machine.dirty());
    assert!(world.messages().iter().any(|message| matches!(message, Message::BeatAck(_))));
}

#[test]
fn more_tasks_than_the_bound_are_refused() {
    let rejection = Rejection::Full { limit: bounds::TASKS_LIVE };
    assert!(rejection.to_string().contains("retry when some have ended"));
}
