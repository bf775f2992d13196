//! A sidecar's directory comes into use in another place: another boot, another machine, another pid namespace.

use super::*;

/// How long a copy may run where the directory was: a lease, the grace, and what clocks may differ by.
const GONE: u64 = 3 * BEAT + 500 + 50;

fn stops() -> store::Facts {
    store::Facts { stop_on_disconnect: true, ..facts() }
}

/// The sidecar of box 1, started again in this place.
fn started_in(place: &str, incarnation: u64) -> Hello {
    Hello { incarnation, place: place.into(), ..World::hello(1, 1) }
}

/// A task that runs on box 1, while box 2 has room.
fn runs(facts: store::Facts) -> (World, (AttemptId, Fence)) {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    world.submit(facts);
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.link(2, 2, 1, vec![]);
    world.effects.clear();
    (world, attempt)
}

fn lost() -> HeldState {
    let ending = v1::Ending { reason: v1::Reason::Lost.into(), ..Default::default() };
    HeldState::Ended(Box::new(ending))
}

/// Lets time pass while both boxes beat.
fn pass(world: &mut World, ms: u64) {
    let mut left = ms;
    while left > 0 {
        let step = left.min(BEAT);
        world.pass(step);
        [2, 3].into_iter().for_each(|session| world.beat(SessionId(session), 1));
        left -= step;
    }
}

#[test]
fn what_another_place_calls_lost_may_run_until_its_lease_is_over() {
    for told in [true, false] {
        let (mut world, attempt) = runs(stops());
        let inventory = if told { vec![held(attempt, lost())] } else { vec![] };
        world.link_as(started_in("there", 2), 3, inventory);
        assert_eq!(world.assigned(), [], "nobody there can know");
        let why = world.machine.why(world.now, attempt.0.task).expect("it waits").summary;
        assert!(why.contains("its old copy may run for another"), "{why}");
        pass(&mut world, 3 * BEAT + 500);
        assert_eq!(world.assigned(), []);
        pass(&mut world, GONE - 3 * BEAT - 500);
        assert_eq!(world.one_assigned().0.task, attempt.0.task);
    }
}

#[test]
fn what_the_same_place_calls_lost_is_gone_and_copies_that_may_overlap_wait_for_nothing() {
    for (facts, place) in [(stops(), "here"), (facts(), "there")] {
        let (mut world, attempt) = runs(facts);
        world.link_as(started_in(place, 2), 3, vec![held(attempt, lost())]);
        assert_eq!(world.one_assigned().0.task, attempt.0.task, "{place}");
    }
}

#[test]
fn a_copy_of_the_directory_beside_the_first_is_another_place() {
    for (former, now, waits) in [
        ("boot 1 a", "boot 1 a", false),
        ("boot 1 a", "boot 1 b", true),
        ("boot 1", "boot 1 b", false),
        ("boot 1 a", "boot 1", false),
        ("boot 1", "boot 2 a", true),
        ("", "boot 1 a", true),
    ] {
        let mut world = World::new();
        world.link_as(started_in(former, 1), 1, vec![]);
        world.submit(stops());
        let attempt = world.one_assigned();
        world.started(SessionId(1), attempt);
        world.link(2, 2, 1, vec![]);
        world.effects.clear();
        world.link_as(started_in(now, 2), 3, vec![held(attempt, lost())]);
        assert_eq!(world.assigned().is_empty(), waits, "{former:?}, {now:?}");
    }
}

#[test]
fn an_end_that_somebody_saw_is_believed_wherever_it_is_told() {
    let (mut world, attempt) = runs(stops());
    let ending = v1::Ending { started_unix_ms: 5, ..exit(0) };
    world.link_as(started_in("there", 2), 3, vec![held(attempt, HeldState::Ended(Box::new(ending)))]);
    assert_eq!(world.state(attempt.0.task), v1::TaskState::Succeeded);
    let (mut world, attempt) = runs(stops());
    let stopped = v1::Ending { started_unix_ms: 5, reason: v1::Reason::Drained.into(), ..Default::default() };
    world.link_as(started_in("there", 2), 3, vec![held(attempt, HeldState::Ended(Box::new(stopped)))]);
    assert_eq!(world.one_assigned().0.task, attempt.0.task);
}

#[test]
fn what_another_place_has_not_started_is_not_started_there() {
    for told in [true, false] {
        let mut world = World::new();
        world.link(1, 1, 1, vec![]);
        let task = world.submit(stops());
        let attempt = world.one_assigned();
        world.link(2, 2, 1, vec![]);
        world.effects.clear();
        let inventory = if told { vec![held(attempt, HeldState::Accepted)] } else { vec![] };
        world.link_as(started_in("there", 2), 3, inventory);
        assert!(!world.effects.iter().any(|effect| matches!(effect, Effect::SendAssign { .. })));
        assert_eq!(world.verdicts(), if told { vec![Decision::Stop] } else { vec![] });
        pass(&mut world, GONE);
        assert_eq!(world.one_assigned().0.task, task);
    }
}

#[test]
fn a_boot_that_took_longer_than_a_lease_costs_nothing() {
    let (mut world, attempt) = runs(stops());
    world.pass(GONE + BEAT);
    world.link(2, 4, 1, vec![]);
    assert_eq!(world.one_assigned().0.task, attempt.0.task, "it was waited for already");
    let (mut world, attempt) = runs(store::Facts { replace_after_ms: 60_000, ..stops() });
    world.pass(GONE + BEAT);
    world.link(2, 4, 1, vec![]);
    world.link_as(started_in("there", 2), 3, vec![held(attempt, lost())]);
    assert_eq!(world.one_assigned().0.task, attempt.0.task);
}

#[test]
fn a_restart_still_waits_for_what_may_run_elsewhere() {
    let (mut world, attempt) = runs(stops());
    world.link_as(started_in("there", 2), 3, vec![held(attempt, lost())]);
    let row = world.row(attempt.0.task);
    let ids = [1, 2].map(SidecarId::from_u128);
    let sidecars = ids.map(|id| world.machine.sidecars[&id].to_row(id));
    world.machine = Machine::new(Config { epoch: 2, ..config() }, world.now, [row], sidecars, []);
    world.link_as(started_in("there", 2), 3, vec![]);
    world.link(2, 2, 1, vec![]);
    pass(&mut world, 3 * BEAT);
    assert_eq!(world.assigned(), []);
    pass(&mut world, GONE);
    assert_eq!(world.one_assigned().0.task, attempt.0.task);
}

#[test]
fn a_user_who_tries_it_again_waits_too() {
    let once = v1::Retry { no_infrastructure_retry: true, ..Default::default() };
    let (mut world, attempt) = runs(store::Facts { retry: Some(once), ..stops() });
    let task = attempt.0.task;
    world.link_as(started_in("there", 2), 3, vec![held(attempt, lost())]);
    assert_eq!(world.state(task), v1::TaskState::Failed);
    let row = world.row(task);
    world.effects.clear();
    world.tell(Event::RetryRequested { ticket: Ticket(1), task, stored: vec![row], key: String::new() });
    assert_eq!(world.assigned(), []);
    pass(&mut world, GONE);
    assert_eq!(world.one_assigned().0.task, task);
}
