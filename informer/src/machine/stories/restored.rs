//! A store restored from a backup, and what sidecars were given after that backup.

use super::*;

const BEFORE: Fence = Fence { epoch: 1, n: 50 };

fn exclusive() -> store::Facts {
    store::Facts { exclusive: true, stop_on_disconnect: true, ..facts() }
}

/// A backup in which this task is ready, loaded by a new leadership; box 1 and box 2 have linked since.
fn restored(facts: store::Facts) -> (World, TaskId) {
    let mut world = World::new();
    let task = world.submit(facts);
    let row = world.row(task);
    world.effects.clear();
    world.machine = Machine::new(next(&world, 90), world.now, [row], [], []);
    (world, task)
}

fn next(world: &World, epoch: u64) -> Config {
    Config { epoch, commit_seq: world.seq, ..config() }
}

/// A beat of a sidecar that is full and tells what is set aside there.
fn full_beat(world: &mut World, session: SessionId, aside: &[AttemptId]) {
    world.tell(Event::BeatReceived {
        session,
        seq: 2,
        load: v1::Load::default(),
        credit: 0,
        held: 0,
        apart: v1::Resources::default(),
        aside: Some(aside.to_vec()),
        closed: false,
        progress: Vec::new(),
    });
}

#[test]
fn a_copy_of_a_waiting_task_becomes_its_attempt_and_its_end_counts() {
    for (facts, unfinished) in [(exclusive(), running(0)), (facts(), running(0)), (exclusive(), HeldState::SetAside)] {
        let (mut world, task) = restored(facts);
        let copy = (AttemptId { task, number: 2 }, BEFORE);
        let seen = Some(v1::Identity { lineage: "l".into(), epoch: 1, commit_seq: 1 });
        let hello = Hello { seen, ..World::hello(1, 2) };
        let session = world.link_as(hello, 1, vec![held(copy, unfinished.clone())]);
        assert_eq!(world.verdicts(), [Decision::Keep]);
        assert!(world.machine.restored());
        world.link(2, 2, 2, vec![]);
        world.started(session, copy);
        assert_eq!(world.state(task), v1::TaskState::Running, "{unfinished:?}");
        world.report(session, copy, Report::Ended(Box::new(exit(0))));
        assert_eq!(world.state(task), v1::TaskState::Succeeded);
        assert_eq!(world.assigned(), []);
    }
}

#[test]
fn an_end_from_after_the_backup_counts() {
    let (mut world, task) = restored(exclusive());
    let copy = (AttemptId { task, number: 1 }, BEFORE);
    world.link(1, 1, 1, vec![held(copy, HeldState::Ended(Box::new(exit(0))))]);
    assert_eq!(world.verdicts(), [Decision::Acknowledged]);
    assert_eq!(world.state(task), v1::TaskState::Succeeded);
}

/// Box 2 was given the task again before box 1 told of its copy, and has failed it.
fn second_copy_failed() -> (World, TaskId, (AttemptId, Fence)) {
    let (mut world, task) = restored(exclusive());
    let second = world.link(2, 2, 1, vec![]);
    let again = world.one_assigned();
    let copy = (AttemptId { task, number: 1 }, BEFORE);
    world.link(1, 1, 1, vec![held(copy, running(0))]);
    assert_eq!(world.verdicts(), [Decision::SetAside]);
    world.started(second, again);
    world.report(second, again, Report::Ended(Box::new(exit(1))));
    (world, task, copy)
}

/// Lets time pass while both boxes beat.
fn pass(world: &mut World, beats: u32, aside: &[AttemptId]) {
    for _ in 0..beats {
        world.pass(BEAT);
        full_beat(world, SessionId(1), aside);
        world.beat(SessionId(2), 1);
    }
}

#[test]
fn nothing_starts_beside_a_copy_that_is_set_aside() {
    let (mut world, task, copy) = second_copy_failed();
    pass(&mut world, 300, &[copy.0]);
    assert_eq!(world.assigned(), [], "the first copy runs");
    let why = world.machine.why(world.now, task).expect("it is held").summary;
    assert!(why.contains("attempt 1 runs on sidecar box1") && why.contains("restored"), "{why}");
    pass(&mut world, 1, &[]);
    assert_eq!(world.one_assigned().0.task, task);
}

#[test]
fn an_assignment_is_not_repeated_beside_a_copy_that_is_set_aside() {
    let (mut world, task) = restored(exclusive());
    world.link(2, 2, 1, vec![]);
    world.one_assigned();
    let copy = (AttemptId { task, number: 1 }, BEFORE);
    world.link(1, 1, 1, vec![held(copy, running(0))]);
    assert_eq!(world.verdicts(), [Decision::SetAside]);
    world.link(2, 2, 2, vec![]);
    pass(&mut world, 30, &[copy.0]);
    assert_eq!(world.assigned(), [], "box 2 never had it, and box 1 has");
    pass(&mut world, 1, &[]);
    assert_eq!(world.one_assigned().0.task, task);
}

#[test]
fn a_restart_still_holds_for_what_is_set_aside() {
    let (mut world, task, copy) = second_copy_failed();
    let row = world.row(task);
    let sidecars: Vec<_> =
        [1, 2].map(|n| world.machine.sidecars[&SidecarId::from_u128(n)].to_row(SidecarId::from_u128(n))).into();
    world.machine = Machine::new(next(&world, 91), world.now, [row], sidecars, []);
    world.link(2, 2, 1, vec![]);
    pass(&mut world, 2, &[]);
    assert_eq!(world.assigned(), [], "box 1 has not told yet");
    world.link(1, 1, 1, vec![held(copy, HeldState::SetAside)]);
    pass(&mut world, 30, &[copy.0]);
    assert_eq!(world.assigned(), []);
    world.link(1, 1, 1, vec![Held { over: true, ..held(copy, HeldState::SetAside) }]);
    pass(&mut world, 30, &[]);
    assert_eq!(world.one_assigned().0.task, task);
}

#[test]
fn a_lost_sidecar_holds_for_its_lease_and_grace() {
    let (mut world, task, _) = second_copy_failed();
    for _ in 0..8 {
        world.pass(BEAT / 2);
        world.beat(SessionId(2), 1);
    }
    world.pass(BEAT);
    world.beat(SessionId(2), 1);
    assert_eq!(world.one_assigned().0.task, task);
}

#[test]
fn a_cancel_ends_the_waiting_and_the_copy() {
    let (mut world, task, copy) = second_copy_failed();
    pass(&mut world, 30, &[copy.0]);
    world.effects.clear();
    world.tell(Event::CancelRequested { ticket: Ticket(1), task, stored: Vec::new(), reason: String::new() });
    assert_eq!(world.state(task), v1::TaskState::Cancelled);
    assert_eq!(world.stops(), 1, "its copy is not wanted either");
}

#[test]
fn what_may_run_only_once_waits_for_sidecars_that_were_linked() {
    let mut world = World::new();
    world.link(1, 1, 1, vec![]);
    let sidecars = world.commit().sidecars;
    let task = world.submit_with(exclusive(), None, 1);
    world.effects.clear();
    let mut row = world.row(task);
    (row.attempts, row.next_attempt) = (Vec::new(), 1);
    row.set_state(v1::TaskState::Ready);
    world.machine = Machine::new(next(&world, 90), world.now, [row], sidecars, []);
    world.link(2, 2, 1, vec![]);
    assert_eq!(world.assigned(), []);
    let why = world.machine.why(world.now, task).expect("it is held").summary;
    assert!(why.contains("have not told since the informer's start"), "{why}");
    world.link(1, 1, 1, vec![]);
    assert_eq!(world.one_assigned().0.task, task);
}

#[test]
fn what_is_set_aside_has_its_room_before_an_assignment_is_repeated() {
    let mut world = World::new();
    world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    world.one_assigned();
    let unknown = (AttemptId { task: TaskId::from_u128(999), number: 1 }, BEFORE);
    let asked = Some(v1::Resources { cpu_millis: 1000, memory_bytes: 0 });
    world.link(1, 2, 1, vec![Held { asked, ..held(unknown, running(0)) }]);
    assert_eq!(world.assigned().len(), 1, "the beat of the story tells of room again");
    assert_eq!(world.machine.tasks[&task].attempts[0].phase, v1::AttemptState::Lost);
}

#[test]
fn a_sidecar_of_before_reports_the_end_that_is_waited_for() {
    for (state, told) in [(running(0), Decision::Keep), (HeldState::Accepted, Decision::Stop)] {
        let (mut world, task) = restored(exclusive());
        let second = world.link(2, 2, 1, vec![]);
        let again = world.one_assigned();
        let copy = (AttemptId { task, number: 1 }, BEFORE);
        let first = world.link(1, 1, 1, vec![Held { asked: None, ..held(copy, state) }]);
        assert_eq!(world.verdicts(), [told]);
        world.report(second, again, Report::Ended(Box::new(exit(1))));
        for _ in 0..60 {
            world.pass(BEAT);
            world.beat(first, 0);
            world.beat(second, 1);
        }
        assert_eq!(world.assigned(), []);
        world.report(first, copy, Report::Ended(Box::new(exit(0))));
        assert_eq!(world.one_assigned().0.task, task);
    }
}
