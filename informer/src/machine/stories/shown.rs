//! What an operator is shown: attempts that nobody here knows, why something moved, and what may still run elsewhere.

use super::*;

fn spawn_failed() -> Report {
    let ending = v1::Ending { reason: v1::Reason::Spawn.into(), machine_fault: true, ..Default::default() };
    Report::Ended(Box::new(ending))
}

fn stranger(number: u128) -> (AttemptId, Fence) {
    (AttemptId { task: TaskId::from_u128(900 + number), number: 1 }, Fence { epoch: 1, n: 9 })
}

fn drains(messages: &[Message]) -> Vec<(bool, bool)> {
    let drains = messages.iter().filter_map(|message| match message {
        Message::Drain(drain) => Some((drain.on, drain.stop_running)),
        _ => None,
    });
    drains.collect()
}

#[test]
fn what_is_set_aside_is_counted_and_named_from_the_first_word_on() {
    let mut world = World::new();
    let known = [held(stranger(1), running(0)), held(stranger(2), HeldState::SetAside)];
    let ended = held(stranger(3), HeldState::Ended(Box::new(exit(0))));
    let hello = Box::new(World::hello(1, 4));
    let session = SessionId(1);
    let held = known.into_iter().chain([ended]).collect();
    world.tell(Event::LinkOpened { session, hello, held, stored: BTreeMap::new() });
    let id = SidecarId::from_u128(1);
    let shown = world.machine.sidecar(world.now, id).expect("known");
    assert_eq!(shown.set_aside_count, 2, "before its first beat, and without what has ended");
    assert_eq!(shown.set_aside_attempts, [stranger(1), stranger(2)].map(|(attempt, _)| attempt.to_string()));
    let taken = v1::Resources { cpu_millis: 1500, memory_bytes: 7 };
    world.tell(Event::BeatReceived {
        session,
        seq: 1,
        load: v1::Load::default(),
        credit: 3,
        held: 0,
        apart: taken,
        aside: Some(vec![stranger(1).0]),
        closed: false,
        progress: vec![],
    });
    let shown = world.machine.sidecar(world.now, id).expect("known");
    assert_eq!((shown.set_aside_count, shown.set_aside, shown.running), (1, Some(taken), 0));
}

#[test]
fn a_drain_that_stops_ends_what_is_set_aside_when_it_is_ordered_and_never_by_itself() {
    let mut world = World::new();
    let first = world.link(1, 1, 4, vec![held(stranger(1), running(0))]);
    world.effects.clear();
    let order = |mode| Event::DrainRequested { ticket: Ticket(1), sidecar: SidecarId::from_u128(1), mode };
    world.tell(order(v1::DrainMode::HandBack));
    assert_eq!(drains(&world.messages()), [(true, false)]);
    world.tell(order(v1::DrainMode::Stop));
    assert_eq!(drains(&world.messages()), [(true, true)]);
    world.tell(Event::LinkClosed { session: first });
    world.link(1, 2, 4, vec![held(stranger(1), running(0))]);
    assert_eq!(drains(&world.messages()), [(true, false)], "a restored informer would remember a drain of long ago");
}

#[test]
fn a_machine_that_lacked_something_pauses_for_a_beat_though_it_says_it_has_room() {
    let mut world = World::new();
    let broken = world.link(1, 1, 2, vec![]);
    let busy = world.link(2, 2, 1, vec![]);
    let other = world.submit(store::Facts { cpu_millis: 1, ..facts() });
    let task = world.submit(store::Facts { cpu_millis: 1, ..facts() });
    let assigned = world.assigned();
    let on = |session| assigned.iter().find(|(on, ..)| *on == session).map(|(_, attempt, fence)| (*attempt, *fence));
    let (failing, runs) = (on(broken).expect("one each"), on(busy).expect("one each"));
    world.started(busy, runs);
    world.commit();
    world.report(broken, failing, spawn_failed());
    let told: Vec<_> = world.commit().history.into_iter().map(|event| (event.kind, event.detail)).collect();
    let kinds: Vec<_> = told.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["spawn_failed", "paused", "retry"], "{told:?}");
    assert!(told[1].1.starts_with("sidecar box1 (") && told[1].1.contains("is given nothing for 1s"), "{told:?}");
    assert!(told[2].1.contains("infrastructure failure 1 of 3 (spawn)"), "{told:?}");
    world.beat(broken, 2);
    assert_eq!(world.assigned(), [], "it is not tried there again within the beat");
    let why = world.machine.why(world.now, failing.0.task).expect("held");
    assert!(why.details.iter().any(|line| line.contains("pauses for a beat")), "{why:?}");
    world.report(busy, runs, Report::Ended(Box::new(exit(0))));
    world.beat(busy, 1);
    let [(session, again, _)] = world.assigned()[..] else { panic!("another one has room meanwhile") };
    assert_eq!((session, again.task), (busy, failing.0.task));
    assert!([other, task].contains(&again.task));
    world.pass(BEAT);
    world.submit(facts());
    assert_eq!(world.assigned().len(), 1, "and then it is tried again");
}

#[test]
fn a_history_tells_that_a_sidecar_rests() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    for _ in 0..3 {
        world.submit(facts());
    }
    let mut last = None;
    for _ in 0..3 {
        let attempt = world.one_assigned();
        world.report(session, attempt, spawn_failed());
        last = Some(attempt.0);
        world.pass(BEAT);
        world.beat(session, 1);
    }
    let history = world.commit().history;
    let rests: Vec<_> = history.iter().filter(|event| event.kind == "quarantined").collect();
    let [rest] = rests[..] else { panic!("one of them was one too many: {history:?}") };
    assert_eq!(Some((rest.task, rest.attempt)), last.map(|attempt| (attempt.task, attempt.number)));
    assert!(rest.detail.contains("sidecar box1 (") && rest.detail.contains("rests for 12s"), "{rest:?}");
}

#[test]
fn a_task_that_waits_anew_tells_what_may_still_run() {
    for exclusive in [false, true] {
        let mut world = World::new();
        let session = world.link(1, 1, 1, vec![]);
        let task = world.submit(store::Facts { stop_on_disconnect: exclusive, ..facts() });
        let attempt = world.one_assigned();
        world.started(session, attempt);
        world.tell(Event::LinkClosed { session });
        world.pass(3 * BEAT);
        for expected in [v1::TaskState::Waiting, v1::TaskState::Ready] {
            if !exclusive && expected == v1::TaskState::Waiting {
                continue;
            }
            assert_eq!(world.state(task), expected);
            let why = world.machine.why(world.now, task).expect("held");
            let told: Vec<_> = why.details.iter().filter(|line| line.contains("may still run on lost")).collect();
            let [told] = told[..] else { panic!("{why:?}") };
            assert_eq!(told.contains("until its replacement starts"), exclusive, "{told}");
            world.pass(BEAT);
        }
    }
}
