//! What operators do: drain and undrain sidecars, register executors.

use super::*;
use v1::DrainMode;

impl World {
    fn drain(&mut self, n: u128, mode: DrainMode) {
        self.tell(Event::DrainRequested { ticket: Ticket(9), sidecar: SidecarId::from_u128(n), mode });
    }

    fn put(&mut self, executor: v1::Executor, replace: bool) -> Reply {
        self.tell(Event::ExecutorPut { ticket: Ticket(8), executor: Box::new(executor), replace });
        let reply = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Reply { reply, .. } => Some(reply.clone()),
            _ => None,
        });
        let reply = reply.expect("there is an answer");
        self.effects.clear();
        reply
    }
}

fn executor(program: &str) -> v1::Executor {
    let mode = v1::executor::Mode::Command(v1::Command { argv: vec![program.into()] });
    v1::Executor { r#type: "sum".into(), id: "x".into(), mode: Some(mode), ..Default::default() }
}

#[test]
fn a_draining_sidecar_finishes_what_it_has_and_takes_no_more() {
    let mut world = World::new();
    let session = world.link(1, 1, 2, vec![]);
    world.submit(facts());
    let running = world.one_assigned();
    world.started(session, running);
    world.drain(1, DrainMode::Finish);
    let drains = |messages: Vec<Message>| -> Vec<bool> {
        messages.into_iter().filter_map(|m| if let Message::Drain(drain) = m { Some(drain.on) } else { None }).collect()
    };
    assert_eq!(drains(world.messages()), [true]);
    world.submit(facts());
    assert_eq!(world.assigned(), []);
    world.report(session, running, Report::Ended(Box::new(exit(0))));
    assert_eq!(world.assigned(), []);
    world.drain(1, DrainMode::Unspecified);
    assert_eq!(world.assigned().len(), 1);
}

#[test]
fn a_drain_outlives_links_and_restarts() {
    let mut world = World::new();
    world.link(1, 1, 2, vec![]);
    world.drain(1, DrainMode::HandBack);
    let batch = world.commit();
    assert_eq!(batch.sidecars[0].drain(), DrainMode::HandBack);
    world.machine = Machine::new(config(), world.now, [], batch.sidecars, []);
    world.link(1, 2, 2, vec![]);
    world.submit(facts());
    assert_eq!(world.assigned(), []);
    let shown = world.machine.sidecars(world.now, true);
    assert_eq!((shown[0].state(), shown[0].drain()), (v1::SidecarState::Draining, DrainMode::HandBack));
}

#[test]
fn handed_back_work_goes_elsewhere_at_once_and_is_charged_to_nobody() {
    let mut world = World::new();
    let first = world.link(1, 1, 2, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.report(first, attempt, Report::Accepted);
    world.link(2, 2, 2, vec![]);
    world.effects.clear();
    world.drain(1, DrainMode::HandBack);
    let moved: Vec<_> = world.effects.iter().filter(|effect| matches!(effect, Effect::SendAssign { .. })).collect();
    assert_eq!(moved.len(), 1);
    let row = world.row(task);
    assert_eq!((row.own_failures, row.infra_failures, row.attempts[0].fenced), (0, 0, true));
}

#[test]
fn a_handed_back_exclusive_task_waits_for_the_end_of_its_first_copy() {
    let mut world = World::new();
    let first = world.link(1, 1, 2, vec![]);
    let task = world.submit(store::Facts { stop_on_disconnect: true, exclusive: true, ..facts() });
    let attempt = world.one_assigned();
    world.report(first, attempt, Report::Accepted);
    world.link(2, 2, 2, vec![]);
    world.effects.clear();
    world.drain(1, DrainMode::Stop);
    assert_eq!(world.state(task), v1::TaskState::Waiting);
    let ending = v1::Ending { reason: v1::Reason::Revoked.into(), ..Default::default() };
    world.effects.clear();
    world.report(first, attempt, Report::Ended(Box::new(ending)));
    assert_eq!(world.assigned().len(), 1);
}

fn drained() -> Report {
    Report::Ended(Box::new(v1::Ending { reason: v1::Reason::Drained.into(), ..exit(143) }))
}

/// A task that runs on sidecar 1, which is told to drain and to stop it.
fn stopped_by_a_drain(facts: store::Facts) -> (World, SessionId, TaskId, (AttemptId, Fence)) {
    let mut world = World::new();
    let session = world.link(1, 1, 2, vec![]);
    let task = world.submit(facts);
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.effects.clear();
    world.drain(1, DrainMode::Stop);
    assert_eq!(world.stops(), 1);
    (world, session, task, attempt)
}

#[test]
fn what_a_drain_stops_is_charged_to_nobody() {
    let (mut world, session, task, attempt) = stopped_by_a_drain(facts());
    world.drain(1, DrainMode::Stop);
    world.report(session, attempt, drained());
    let row = world.row(task);
    assert_eq!((row.state(), row.own_failures, row.infra_failures), (v1::TaskState::Ready, 0, 0));
}

#[test]
fn a_machine_that_is_switched_off_after_its_drain_costs_nothing_either() {
    let (mut world, _, task, _) = stopped_by_a_drain(facts());
    // Nobody tells how it ended; and the informer was restarted in between.
    let batch = world.commit();
    let rows: Vec<store::TaskRow> = batch.tasks.iter().map(TaskChange::whole).collect();
    assert!(rows[0].attempts[0].moved);
    world.machine = Machine::new(config(), world.now, rows, batch.sidecars, []);
    world.pass(3 * BEAT + 1);
    let row = world.row(task);
    assert_eq!((row.attempts[0].state(), row.infra_failures), (v1::AttemptState::PresumedLost, 0));
    assert_eq!(row.state(), v1::TaskState::Ready);
}

#[test]
fn a_sidecar_that_leaves_by_itself_is_still_a_loss() {
    let mut world = World::new();
    let session = world.link(1, 1, 2, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.report(session, attempt, drained());
    assert_eq!(world.row(task).infra_failures, 1);
}

#[test]
fn what_is_never_tried_after_a_loss_fails_by_a_drain_that_stops_it() {
    let retry = Some(v1::Retry { no_infrastructure_retry: true, ..Default::default() });
    let (mut world, session, task, attempt) = stopped_by_a_drain(store::Facts { retry, ..facts() });
    world.report(session, attempt, drained());
    assert_eq!(world.state(task), v1::TaskState::Failed);
}

#[test]
fn an_executor_is_kept_or_replaced_and_sidecars_learn_it_before_its_tasks() {
    let mut world = World::new();
    let hello = Hello { kinds: vec!["typed".into()], ..World::hello(1, 2) };
    world.link_as(hello, 1, vec![]);
    world.effects.clear();
    let typed = store::Facts { kind: "type:sum".into(), ..facts() };
    world.submit(typed.clone());
    let [Effect::Reply { reply: Reply::Rejected(Rejection::UnknownType { .. }), .. }] = world.effects.as_slice() else {
        panic!("{:?}", world.effects)
    };
    assert!(matches!(world.put(executor("/bin/a"), false), Reply::Executor { existed: false, .. }));
    assert!(matches!(world.put(executor("/bin/a"), false), Reply::Executor { existed: true, .. }));
    assert!(matches!(world.put(executor("/bin/b"), false), Reply::Rejected(Rejection::ExecutorConflict { .. })));
    world.tell(Event::ExecutorPut { ticket: Ticket(8), executor: Box::new(executor("/bin/b")), replace: true });
    world.submit(typed);
    let order: Vec<&str> = world
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send { message, .. } if matches!(message.message, Some(Message::Executors(_))) => Some("executors"),
            Effect::SendAssign { .. } => Some("assign"),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["executors", "assign"]);
    let batch = world.commit();
    assert_eq!(batch.executors.len(), 1);
    world.tell(Event::ExecutorDeleted { ticket: Ticket(8), r#type: "sum".into() });
    assert!(world.commit().executors[0].deleted);
}

#[test]
fn an_embedded_executor_registers_itself_and_gets_its_tasks_only() {
    let mut world = World::new();
    world.link(1, 1, 2, vec![]);
    let hello = Hello { kinds: vec!["type:sum".into()], ..World::hello(2, 2) };
    let session = world.link_as(hello, 2, vec![]);
    world.effects.clear();
    world.submit(store::Facts { kind: "type:sum".into(), ..facts() });
    let assigned = world.assigned();
    assert_eq!(assigned.iter().map(|(session, ..)| *session).collect::<Vec<_>>(), [session]);
    let batch = world.commit();
    let mode = batch.executors[0].executor.as_ref().and_then(|executor| executor.mode.clone());
    assert!(matches!(mode, Some(v1::executor::Mode::Embedded(_))));
}

#[test]
fn a_sidecar_that_drains_gets_nothing_back_before_its_next_beat() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    world.submit(facts());
    let first = world.one_assigned();
    world.started(session, first);
    let drained = v1::Ending { reason: v1::Reason::Drained.into(), ..exit(143) };
    world.report(session, first, Report::Ended(Box::new(drained)));
    assert_eq!(world.assigned(), [], "it went right back");
    world.beat(session, 1);
    world.one_assigned();
}
