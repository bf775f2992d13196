//! The order of the queue: priority and its aging, shares of owners, room that is kept for what has waited too long.

use super::*;
use crate::machine::placement::KEEP_AFTER_MS;
use crate::machine::ready::AGING_MS;

impl World {
    fn owned(&mut self, owner: &str, priority: i32) -> TaskId {
        self.submit(store::Facts { owner: owner.into(), priority, ..facts() })
    }

    /// Runs everything on one slot and tells the order in which tasks ran.
    fn order(&mut self, session: SessionId) -> Vec<TaskId> {
        let mut order = Vec::new();
        loop {
            let assigned = self.assigned();
            if assigned.is_empty() {
                return order;
            }
            for (_, attempt, fence) in assigned {
                order.push(attempt.task);
                self.report(session, (attempt, fence), Report::Started { unix_ms: 1 });
                self.report(session, (attempt, fence), Report::Ended(Box::new(exit(0))));
            }
        }
    }
}

#[test]
fn a_higher_priority_goes_first_until_a_lower_one_has_waited_a_minute_a_point_longer() {
    let mut world = World::new();
    let low = world.owned("a", 0);
    let minutes = u64::try_from(AGING_MS).expect("positive");
    world.pass(3 * minutes - 1);
    let high = world.owned("a", 3);
    world.pass(2);
    let late = world.owned("a", 3);
    let session = world.link(1, 1, 1, vec![]);
    assert_eq!(world.order(session), [high, low, late]);
}

#[test]
fn a_low_task_that_fits_nowhere_lifts_nobody_else() {
    let mut world = World::new();
    let require = [("gpu".to_owned(), "yes".to_owned())].into();
    world.submit(store::Facts { require, ..facts() });
    world.pass(1_000_000_000);
    let low = world.owned("a", 0);
    let high = world.owned("a", 1);
    let session = world.link(1, 1, 1, vec![]);
    assert_eq!(world.order(session), [high, low]);
}

#[test]
fn owners_share_by_weight_however_many_tasks_each_has() {
    let mut world = World::new();
    let shares = [("heavy".to_owned(), 3)].into();
    world.machine = Machine::new(Config { shares, ..config() }, world.now, [], [], []);
    let light: Vec<_> = (0..40).map(|_| world.owned("light", 0)).collect();
    let heavy: Vec<_> = (0..12).map(|_| world.owned("heavy", 0)).collect();
    let session = world.link(1, 1, 1, vec![]);
    let order = world.order(session);
    assert_eq!(order.len(), 52);
    let of_heavy = order[..16].iter().filter(|task| heavy.contains(task)).count();
    assert!((11..=13).contains(&of_heavy), "three of four are heavy's: {of_heavy} of 16");
    assert_eq!(order[20..].iter().filter(|task| light.contains(task)).count(), 32, "then all is light's");
}

#[test]
fn who_was_idle_saves_nothing_up() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    for _ in 0..20 {
        world.owned("busy", 0);
    }
    world.order(session);
    let all: Vec<_> = (0..4).flat_map(|_| [world.owned("busy", 0), world.owned("idle", 0)]).collect();
    let order = world.order(session);
    assert_eq!(order.len(), all.len());
    let idle_first = order[..4].iter().filter(|task| all.iter().skip(1).step_by(2).any(|idle| idle == *task)).count();
    assert!((1..=3).contains(&idle_first), "they take turns from now on: {idle_first} of the first four");
}

#[test]
fn a_large_task_that_waited_a_minute_gets_the_next_machine_that_empties() {
    let mut world = World::new();
    let session = world.link(1, 1, 2, vec![]);
    let small = |world: &mut World| world.submit(facts());
    small(&mut world);
    let first = world.one_assigned();
    world.started(session, first);
    let second = small(&mut world);
    let second = (world.assigned().into_iter().map(|(_, attempt, fence)| (attempt, fence)).next(), second).0;
    let second = second.expect("there were two slots");
    world.started(session, second);
    let large = world.submit(store::Facts { cpu_millis: 2000, ..facts() });
    for _ in 0..KEEP_AFTER_MS / BEAT + 1 {
        world.pass(BEAT);
        world.beat(session, 2);
    }
    let waiting = small(&mut world);
    world.effects.clear();
    world.report(session, first, Report::Ended(Box::new(exit(0))));
    assert_eq!(world.assigned(), [], "the free half is kept");
    let why = world.machine.why(world.now, waiting).expect("it waits");
    assert!(why.details.iter().any(|line| line.contains("kept free")), "{why:?}");
    world.report(session, second, Report::Ended(Box::new(exit(0))));
    let (attempt, fence) = world.one_assigned();
    assert_eq!(attempt.task, large);
    world.report(session, (attempt, fence), Report::Ended(Box::new(exit(0))));
    assert_eq!(world.one_assigned().0.task, waiting);
}

#[test]
fn nothing_is_kept_for_a_task_that_was_cancelled() {
    let mut world = World::new();
    let session = world.link(1, 1, 2, vec![]);
    world.submit(facts());
    let first = world.one_assigned();
    world.started(session, first);
    let large = world.submit(store::Facts { cpu_millis: 2000, ..facts() });
    for _ in 0..KEEP_AFTER_MS / BEAT + 1 {
        world.pass(BEAT);
        world.beat(session, 2);
    }
    world.submit(facts());
    assert_eq!(world.assigned(), [], "the other half is kept for the large one");
    world.tell(Event::CancelRequested { ticket: Ticket(2), task: large, stored: Vec::new(), reason: String::new() });
    assert_eq!(world.assigned().len(), 1);
}
