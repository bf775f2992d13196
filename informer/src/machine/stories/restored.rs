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

/// By the backup attempt 1 runs on box 1.
fn first_copy_runs(facts: store::Facts) -> (World, TaskId) {
    let mut world = World::new();
    let first = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts);
    let attempt = world.one_assigned();
    world.started(first, attempt);
    let (row, id) = (world.row(task), SidecarId::from_u128(1));
    let sidecars = [world.machine.sidecars[&id].to_row(id)];
    world.machine = Machine::new(next(&world, 90), world.now, [row], sidecars, []);
    world.reports.clear();
    world.effects.clear();
    (world, task)
}

/// Box 2, which was given attempt 2 after the backup, has told so: it is set aside.
fn second_copy_told(facts: store::Facts) -> (World, TaskId, (AttemptId, Fence)) {
    let (mut world, task) = first_copy_runs(facts);
    let copy = (AttemptId { task, number: 2 }, BEFORE);
    world.link(2, 2, 1, vec![held(copy, running(0))]);
    assert_eq!(world.verdicts(), [Decision::SetAside]);
    (world, task, copy)
}

#[test]
fn a_copy_that_was_set_aside_is_taken_up_when_its_task_comes_to_wait() {
    for facts in [exclusive(), facts()] {
        let (mut world, task, copy) = second_copy_told(facts);
        world.link(1, 3, 1, vec![]);
        assert_eq!(world.verdicts(), [Decision::Keep], "its own sidecar came back without the first");
        assert_eq!(world.assigned(), []);
        world.report(SessionId(2), copy, Report::Started { unix_ms: 5 });
        assert_eq!(world.state(task), v1::TaskState::Running);
        let aside = world.machine.take_set_aside();
        assert!(aside[&task].is_empty() && world.machine.tasks[&task].aside.is_empty(), "{aside:?}");
        world.report(SessionId(2), copy, Report::Ended(Box::new(exit(0))));
        assert_eq!(world.state(task), v1::TaskState::Succeeded);
    }
}

#[test]
fn the_other_order_comes_to_the_same() {
    for facts in [exclusive(), facts()] {
        let (mut world, task) = first_copy_runs(facts);
        // Its own sidecar comes back without the first, and has no room before its first beat.
        let hello = Box::new(World::hello(1, 1));
        world.tell(Event::LinkOpened { session: SessionId(3), hello, held: vec![], stored: BTreeMap::new() });
        assert!(world.machine.tasks[&task].waits());
        world.effects.clear();
        world.link(2, 2, 1, vec![held((AttemptId { task, number: 2 }, BEFORE), running(0))]);
        assert_eq!(world.verdicts(), [Decision::Keep]);
        assert_eq!(world.state(task), v1::TaskState::Running);
    }
}

#[test]
fn a_copy_that_ended_meanwhile_is_taken_up_with_its_end() {
    let (mut world, task, copy) = second_copy_told(facts());
    full_beat(&mut world, SessionId(2), &[]);
    world.effects.clear();
    world.link(1, 3, 1, vec![]);
    assert_eq!((world.verdicts(), world.assigned()), (vec![Decision::Keep], vec![]));
    world.report(SessionId(2), copy, Report::Ended(Box::new(exit(0))));
    assert_eq!(world.state(task), v1::TaskState::Succeeded);
}

#[test]
fn what_its_own_attempts_are_ahead_of_stays_aside() {
    let (mut world, task, copy) = second_copy_told(facts());
    let other = world.link(3, 3, 1, vec![]);
    // Its first is lost, with box 2 out of reach: a third is given, under a later fence.
    world.tell(Event::LinkClosed { session: SessionId(2) });
    world.link(1, 4, 1, vec![]);
    let third = world.assigned();
    let [(_, third, fence)] = third[..] else { panic!("{third:?}") };
    assert_eq!(third.number, 3);
    world.link(2, 5, 1, vec![held(copy, HeldState::SetAside)]);
    world.effects.clear();
    let on = if world.machine.tasks[&task].attempt(3).expect("given").sidecar == SidecarId::from_u128(3) {
        other
    } else {
        SessionId(4)
    };
    world.report(on, (third, fence), Report::Ended(Box::new(exit(1))));
    assert_eq!(world.verdicts(), []);
    assert!(world.machine.tasks[&task].attempt(2).is_none());
}

#[test]
fn what_a_user_tries_again_does_not_end_by_what_was_set_aside_before() {
    let (mut world, task, copy) = second_copy_told(facts());
    let first = (AttemptId { task, number: 1 }, Fence { epoch: 1, n: 1 });
    let session = world.link(1, 3, 1, vec![held(first, running(0))]);
    world.report(session, first, Report::Ended(Box::new(exit(0))));
    assert_eq!(world.state(task), v1::TaskState::Succeeded);
    world.effects.clear();
    world.tell(Event::RetryRequested { ticket: Ticket(1), task, stored: Vec::new(), key: String::new() });
    assert!(world.machine.tasks[&task].attempt(2).is_none(), "{copy:?}");
    assert_eq!(world.one_assigned().0.number, 3);
}

#[test]
fn why_tells_of_copies_whatever_their_task_does_and_each_once() {
    let (mut world, task, copy) = second_copy_told(facts());
    let lines = |world: &World| {
        let why = world.machine.why(world.now, task).expect("held");
        let all = std::iter::once(why.summary).chain(why.details);
        all.filter(|line| line.contains("attempt 2 ")).collect::<Vec<_>>()
    };
    let told = lines(&world);
    assert!(told.len() == 1 && told[0].starts_with("attempt 2 runs on sidecar box2 ("), "{told:?}");
    full_beat(&mut world, SessionId(2), &[]);
    let told = lines(&world);
    assert!(told.len() == 1 && told[0].contains("has ended") && !told[0].contains("drain"), "{told:?}");
    assert_eq!(
        world.machine.take_set_aside()[&task],
        [v1::SetAside { number: 2, sidecar: SidecarId::from_u128(2).to_string(), over: true }]
    );
    world.link(2, 4, 1, vec![]);
    assert_eq!(
        (lines(&world), world.machine.take_set_aside()[&task].len()),
        (vec![], 0),
        "its sidecar has forgotten {copy:?}"
    );

    let (mut world, task, copy) = second_copy_failed();
    pass(&mut world, 30, &[copy.0]);
    let why = world.machine.why(world.now, task).expect("held");
    let all: Vec<String> = std::iter::once(why.summary).chain(why.details).collect();
    assert_eq!(all.iter().filter(|line| line.contains("attempt 1 runs on")).count(), 1, "{all:?}");
}

#[test]
fn what_a_sidecar_of_before_staged_for_nobody_is_not_kept_for_ever() {
    let (mut world, task) = restored(exclusive());
    world.link(2, 2, 1, vec![]);
    let copy = (AttemptId { task, number: 1 }, BEFORE);
    let first = world.link(1, 1, 1, vec![Held { asked: None, ..held(copy, running(0)) }]);
    assert_eq!(world.verdicts(), [Decision::Keep]);
    world.report(first, copy, Report::Ended(Box::new(staged())));
    assert_eq!(world.verdicts(), [Decision::Acknowledged]);
}

/// The sidecar has had attempts of these numbers, up to `taken`, and refuses the one that it is given.
fn refuse(world: &mut World, session: SessionId, attempt: (AttemptId, Fence), taken: u32) {
    let why = "held here under another fence".to_owned();
    world.report(session, attempt, Report::Refused { why, taken });
}

#[test]
fn what_has_had_many_attempts_since_the_backup_counts_on_above_them_and_runs() {
    for facts in [exclusive(), facts()] {
        let (mut world, task) = restored(facts);
        let first = world.link(1, 1, 1, vec![]);
        let given = world.one_assigned();
        assert_eq!(given.0.number, 1);
        refuse(&mut world, first, given, 5);
        let given = world.one_assigned();
        assert_eq!(given.0.number, 6, "at once, and above all that is held there");
        let charged = &world.machine.tasks[&task];
        assert_eq!((charged.infra_failures, charged.own_failures), (0, 0));
        world.started(first, given);
        world.report(first, given, Report::Ended(Box::new(exit(0))));
        assert_eq!(world.state(task), v1::TaskState::Succeeded);
    }
}

#[test]
fn each_sidecar_may_say_so_once_and_is_charged_from_then_on() {
    let (mut world, task) = restored(facts());
    let mut charged = Vec::new();
    let sessions: Vec<_> = (1..=2).map(|n| world.link(n, u64::try_from(n).expect("small"), 1, vec![])).collect();
    for round in 0..20 {
        world.now.wall_ms += 1;
        let Some(&(session, id, fence)) = world.assigned().first() else {
            if world.machine.tasks[&task].is_ended() {
                break;
            }
            for _ in 0..60 {
                world.pass(BEAT);
                sessions.iter().for_each(|session| world.beat(*session, 1));
                if world.effects.iter().any(|effect| matches!(effect, Effect::SendAssign { .. })) {
                    break;
                }
            }
            continue;
        };
        refuse(&mut world, session, (id, fence), id.number + round);
        charged.push(world.machine.tasks[&task].infra_failures);
    }
    assert_eq!(world.state(task), v1::TaskState::Failed, "{charged:?}");
    let free = charged.iter().scan(0, |last, now| Some(std::mem::replace(last, *now) == *now)).filter(|free| *free);
    assert!(free.count() <= 2, "once for each sidecar: {charged:?}");
}

#[test]
fn a_number_that_was_not_taken_is_a_refusal_like_any_other() {
    let (mut world, task) = restored(facts());
    let first = world.link(1, 1, 1, vec![]);
    let given = world.one_assigned();
    refuse(&mut world, first, given, 0);
    assert_eq!(world.machine.tasks[&task].infra_failures, 1);
    assert_eq!(world.assigned(), [], "it takes no more before its next beat");
    world.beat(first, 1);
    assert_eq!(world.one_assigned().0.number, 2);
}

/// All that `why` says.
fn said(world: &World, task: TaskId) -> Vec<String> {
    let why = world.machine.why(world.now, task).expect("held");
    std::iter::once(why.summary).chain(why.details).collect()
}

#[test]
fn why_tells_what_may_become_of_a_copy_and_when_it_is_being_stopped() {
    let (mut world, task, _) = second_copy_told(exclusive());
    let told = said(&world, task);
    let taken_up = "unless attempt 1 comes to nothing and it is taken up";
    assert!(told.iter().any(|line| line.contains("attempt 2 runs") && line.contains(taken_up)), "{told:?}");
    world.tell(Event::CancelRequested { ticket: Ticket(1), task, stored: Vec::new(), reason: String::new() });
    let told = said(&world, task);
    assert!(told.iter().any(|line| line.contains("attempt 2 runs") && line.contains("being stopped")), "{told:?}");
    assert!(!told.iter().any(|line| line.contains("ends by itself") || line.contains("taken up")), "{told:?}");
}

#[test]
fn a_process_that_is_told_under_another_id_is_one_process() {
    let mut world = World::new();
    let first = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(first, attempt);
    world.tell(Event::LinkClosed { session: first });
    world.pass(3 * BEAT);
    assert_eq!(world.machine.tasks[&task].attempts[0].phase, v1::AttemptState::PresumedLost);
    world.effects.clear();
    world.link(2, 2, 1, vec![held(attempt, running(0))]);
    let told = said(&world, task);
    let of_it: Vec<_> = told.iter().filter(|line| line.contains("attempt 1 ") && line.contains("sidecar")).collect();
    assert!(
        matches!(of_it[..], [line] if line.contains("runs on sidecar box2") && line.contains("was given to")),
        "{told:?}"
    );
}
