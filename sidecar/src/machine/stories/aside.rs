//! Attempts that the informer does not know: they run on, in silence.

use super::*;

#[test]
fn what_is_set_aside_runs_on_in_silence() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    world.notice(one, Notice::Spawned(started()));
    world.relink();
    let effects = world.verdict(one, Decision::SetAside);
    assert_eq!(effects, [Effect::Complain(Complaint::SetAside { attempt: one })]);
    assert_eq!(world.notice(one, Notice::Ended(exit(0))), []);
    assert!(world.ledger[&one].set_aside);
    world.restart_agent(vec![Found { attempt: one, note: None, state: FoundState::Ended(exit(0)) }]);
    assert!(world.machine.holds(one), "its record is kept");
    assert_eq!(reports(&world.verdict(one, Decision::Keep)), [(1, "accepted"), (2, "started"), (3, "ended")]);
}

#[test]
fn what_is_set_aside_keeps_its_slot() {
    let (mut world, one, two) = (World::linked(3), attempt(1, 1), attempt(2, 1));
    for (n, id) in [(1, one), (2, two)] {
        world.assign(id, n);
        world.notice(id, Notice::Spawned(started()));
    }
    world.relink();
    assert_eq!(world.room, (0, 1), "until they are judged, only the third slot is free");
    world.verdict(one, Decision::Keep);
    world.verdict(two, Decision::SetAside);
    world.pass(50);
    assert_eq!(world.room, (1, 1), "told at once: two slots are the informer's");
    assert_eq!(world.machine.apart().collect::<Vec<_>>(), [two]);
    world.notice(two, Notice::Ended(exit(0)));
    world.pass(50);
    assert_eq!((world.room, world.machine.apart().count()), ((1, 2), 0), "and that the third is, too");
}

#[test]
fn what_is_set_aside_before_it_started_gives_its_slot_back() {
    let (mut world, one, two) = (World::linked(2), attempt(1, 1), attempt(2, 1));
    world.assign(two, 2);
    world.tell(Event::KeeperGone);
    world.assign(one, 1);
    world.relink();
    for id in [one, two] {
        world.verdict(id, Decision::SetAside);
    }
    assert!(matches!(world.machine.stage(one), Some(Stage::Refused(_))), "no start was ordered, and none will be");
    assert_eq!(world.machine.stage(two), Some(&Stage::Starting), "it may run already");
    world.tell(Event::KeeperConnected { listing: vec![] });
    assert!(matches!(world.machine.stage(two), Some(Stage::Refused(_))), "it does not, and will not");
    world.pass(50);
    assert_eq!((world.room, world.machine.apart().count()), ((0, 2), 0));
    let effects = world.notice(two, Notice::Spawned(started()));
    assert_eq!(stops(&effects), [v1::Reason::Revoked], "an older order came through after all");
    let told = world.verdict(one, Decision::Keep);
    assert_eq!(
        reports(&told).last().map(|(_, what)| *what),
        Some("refused"),
        "who knows it again may have it run elsewhere"
    );
}

#[test]
fn an_order_to_end_all_ends_what_is_set_aside_and_leaves_orders_that_name_one() {
    let (mut world, one, two) = (World::linked(3), attempt(1, 1), attempt(2, 1));
    for (n, id) in [(1, one), (2, two)] {
        world.assign(id, n);
        world.notice(id, Notice::Spawned(started()));
    }
    world.relink();
    world.verdict(one, Decision::SetAside);
    world.verdict(two, Decision::Keep);
    world.hear(Heard::Stop { attempt: two, why: v1::Reason::Revoked });
    let effects = world.hear(Heard::Drain { on: true, stop_running: true });
    assert_eq!(effects, [Effect::StopAttempt { attempt: one, why: v1::Reason::Drained }]);
    assert_eq!(world.machine.apart().collect::<Vec<_>>(), [one], "until it has ended");
    world.notice(one, Notice::Ended(exit(0)));
    assert_eq!(world.machine.apart().count(), 0);
    world.restart_agent(vec![Found { attempt: one, note: None, state: FoundState::Ended(exit(0)) }]);
    assert!(world.machine.holds(one), "its record is kept for whoever knows it");
}

/// The numbers that the refusals among the effects name as taken.
fn taken(effects: &[Effect]) -> Vec<u32> {
    let refused = effects.iter().filter_map(|effect| match effect {
        Effect::SendReport { report, .. } => match &report.what {
            Some(What::Refused(refused)) => Some(refused.taken),
            _ => None,
        },
        _ => None,
    });
    refused.collect()
}

#[test]
fn who_is_given_a_number_again_tells_the_highest_that_it_has_had() {
    let mut world = World::linked(2);
    world.machine.config.keep_attempts = 10;
    for number in 1..=3 {
        let id = attempt(1, number);
        world.assign(id, u64::from(number));
        world.notice(id, Notice::Spawned(started()));
        world.notice(id, Notice::Ended(exit(1)));
        world.hear(Heard::Ack { seq: u64::from(number) * 3 });
    }
    assert!(matches!(world.machine.stage(attempt(1, 2)), Some(Stage::Retired(_))));
    let asked = world.assign(attempt(1, 1), 50);
    assert_eq!(taken(&asked), [3]);
    let asked = world.assign(attempt(1, 4), 51);
    assert_eq!(taken(&asked), [0_u32; 0], "that one is free");
}
