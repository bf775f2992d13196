//! Arrays: members start in order, are counted, singled out, cancelled and retried, one by one or together.

use super::*;
use proto::v1::TaskState as S;

impl World {
    fn submit_array(&mut self, facts: store::Facts, count: u32, max_failures: Option<u32>) -> TaskId {
        self.next_id += 1;
        let task = TaskId::from_u128(self.next_id);
        self.tell(Event::Submitted(Box::new(Submit {
            ticket: Ticket(1),
            task,
            key: Some("array".into()),
            payload: [1; 32],
            digest: [2; 32],
            array: Some(NewArray { first: 1, count, items: true, max_failures }),
            facts: Box::new(facts),
            start_after_unix_ms: 0,
            start_after_ms: 0,
            known: None,
        })));
        task
    }

    fn end_all(&mut self, session: SessionId, code: i32) -> usize {
        let assigned = self.assigned();
        for (_, attempt, fence) in &assigned {
            self.report(session, (*attempt, *fence), Report::Ended(Box::new(exit(code))));
        }
        assigned.len()
    }

    fn cancel(&mut self, task: TaskId, stored: Vec<store::TaskRow>) {
        self.tell(Event::CancelRequested { ticket: Ticket(2), task, stored, reason: "enough".into() });
    }

    fn retry(&mut self, task: TaskId, stored: Vec<store::TaskRow>) {
        self.tell(Event::RetryRequested { ticket: Ticket(3), task, stored, key: String::new() });
    }

    /// A sidecar that is past its slow start.
    fn warm(&mut self, n: u128, session: u64, slots: u32) -> SessionId {
        let session = self.link(n, session, slots, vec![]);
        let sidecar = self.machine.sidecars.get_mut(&SidecarId::from_u128(n)).expect("it is linked");
        sidecar.window = slots;
        self.beat(session, slots);
        session
    }

    /// Rows of several tasks out of one commit.
    fn rows<const N: usize>(&mut self, ids: [TaskId; N]) -> [store::TaskRow; N] {
        ids.iter().for_each(|id| self.machine.touch_task(*id));
        let batch = self.commit();
        let whole = |id: TaskId| batch.tasks.iter().map(TaskChange::whole).find(|row| row.id == *id.to_bytes());
        ids.map(|id| whole(id).expect("the task is held"))
    }

    fn members(&self, array: TaskId) -> &crate::machine::array::Members {
        self.machine.tasks.get(&array).expect("it is held").members().expect("it is an array")
    }
}

fn once() -> store::Facts {
    store::Facts { retry: Some(v1::Retry { max_attempts: 1, ..Default::default() }), ..facts() }
}

#[test]
fn members_start_in_order_as_there_is_room_and_the_array_ends_with_the_last() {
    let mut world = World::new();
    let array = world.submit_array(facts(), 5, None);
    assert_eq!(world.state(array), S::Ready);
    assert_eq!(world.machine.counts(), (1, 5), "five wait and cost one");
    let session = world.warm(1, 1, 2);
    let mut started = Vec::new();
    loop {
        let assigned = world.effects.iter().filter_map(|effect| match effect {
            Effect::SendAssign { attempt, position, .. } => {
                Some((attempt.task.index().expect("a member"), position.expect("it has an item")))
            }
            _ => None,
        });
        started.extend(assigned);
        if world.end_all(session, 0) == 0 {
            break;
        }
    }
    assert_eq!(started, [1, 2, 3, 4, 5].map(|index| (index, index - 1)));
    let row = world.row(array);
    assert_eq!((row.state(), row.array.as_ref().map(|array| array.succeeded)), (S::Succeeded, Some(5)));
    world.commit();
    assert!(!world.machine.holds(array), "an ended array is forgotten");
}

#[test]
fn a_key_stands_for_template_range_and_items_together() {
    let mut world = World::new();
    let array = world.submit_array(facts(), 5, None);
    world.effects.clear();
    world.submit_array(facts(), 5, None);
    let [Effect::Reply { reply: Reply::Submitted { task, existed: true }, .. }] = world.effects.as_slice() else {
        panic!("{:?}", world.effects)
    };
    assert_eq!(*task, array);
    world.effects.clear();
    world.submit_with(facts(), Some("array"), 1);
    let [Effect::Reply { reply: Reply::Rejected(Rejection::KeyConflict { .. }), .. }] = world.effects.as_slice() else {
        panic!("{:?}", world.effects)
    };
}

#[test]
fn an_array_survives_a_restart_half_way() {
    let mut world = World::new();
    let array = world.submit_array(facts(), 4, None);
    let session = world.warm(1, 1, 2);
    let first = world.assigned();
    world.report(session, (first[0].1, first[0].2), Report::Ended(Box::new(exit(0))));
    world.assigned();
    let batch = world.commit();
    let rows: Vec<_> = batch.tasks.iter().map(TaskChange::whole).filter(|row| row.ended_unix_ms == 0).collect();
    assert_eq!(rows.len(), 3, "the array and two members");
    let sidecars = batch.sidecars.clone();
    world.machine = Machine::new(Config { epoch: 2, ..config() }, world.now, rows, sidecars, []);
    world.machine.check().expect("invariants hold");
    let members = world.members(array);
    assert_eq!((members.pending.len(), members.live, members.succeeded), (1, 2, 1));
    assert_eq!(world.state(array), S::Running);
}

#[test]
fn the_total_time_of_an_array_is_its_members_also_after_a_restart() {
    let mut world = World::new();
    let timeouts = Some(v1::Timeouts { total_ms: 10 * BEAT, ..Default::default() });
    let array = world.submit_array(store::Facts { timeouts, ..once() }, 2, None);
    let batch = world.commit();
    let now = Now { mono_ms: 500, wall_ms: world.now.wall_ms + 60_000, entropy: 3 };
    let config = Config { epoch: 2, commit_seq: world.seq, ..config() };
    world.machine = Machine::new(config, now, batch.tasks.iter().map(TaskChange::whole), batch.sidecars, []);
    world.now = now;
    world.pass(BEAT);
    assert_eq!(world.state(array), v1::TaskState::Ready, "no member has begun, so no time has run out");
}

#[test]
fn a_failed_member_is_tried_again_by_itself_and_then_counted() {
    let mut world = World::new();
    let array = world.submit_array(facts(), 2, None);
    let session = world.warm(1, 1, 4);
    let mut tries = 0;
    for _ in 0..3 {
        tries += world.end_all(session, 1);
        for _ in 0..2 * bounds::BACKOFF_MS / BEAT + 1 {
            world.pass(BEAT);
            world.effects.retain(|effect| matches!(effect, Effect::SendAssign { .. }));
            world.machine.apply(world.now, Event::PongReceived { session }, &mut world.effects);
            let load = v1::Load::default();
            let beat = Event::BeatReceived {
                session,
                seq: 2,
                load,
                credit: 4,
                held: 0,
                apart: v1::Resources::default(),
                aside: Some(vec![]),
                closed: false,
                progress: vec![],
            };
            world.tell(beat);
        }
    }
    assert_eq!(tries, 6);
    let row = world.row(array);
    assert_eq!(row.state(), S::Failed, "{:?}", row.array);
    let ending = row.ending.expect("it has ended");
    assert_eq!(ending.reason(), v1::Reason::Members);
    assert!(ending.message.contains("of 2 members 0 succeeded, 2 failed"), "{}", ending.message);
}

#[test]
fn one_failure_too_many_cancels_the_rest() {
    let mut world = World::new();
    let array = world.submit_array(once(), 100, Some(1));
    let session = world.warm(1, 1, 2);
    assert_eq!(world.end_all(session, 1), 2);
    // After the first failure there was room for the third, which then is told to stop.
    let third = world.effects.iter().find_map(|effect| match effect {
        Effect::SendAssign { attempt, fence, .. } => Some((*attempt, *fence)),
        _ => None,
    });
    assert_eq!(world.stops(), 1);
    let members = world.members(array);
    assert_eq!((members.failed, members.live, members.pending.len(), members.failing), (2, 1, 0, true));
    let ending = v1::Ending { reason: v1::Reason::Cancelled.into(), ..Default::default() };
    world.report(session, third.expect("it was assigned"), Report::Ended(Box::new(ending)));
    let row = world.row(array);
    assert_eq!((row.state(), row.ending.map(|ending| ending.reason())), (S::Failed, Some(v1::Reason::MaxFailures)));
}

#[test]
fn a_cancelled_array_stops_what_runs_and_starts_nothing_more() {
    let mut world = World::new();
    let array = world.submit_array(facts(), 1_000_000, None);
    let session = world.warm(1, 1, 2);
    let running = world.assigned();
    world.cancel(array, vec![]);
    assert_eq!(world.stops(), 2);
    assert_eq!(world.state(array), S::Running);
    for (_, attempt, fence) in running {
        let ending = v1::Ending { reason: v1::Reason::Cancelled.into(), ..Default::default() };
        world.report(session, (attempt, fence), Report::Ended(Box::new(ending)));
    }
    let row = world.row(array);
    assert_eq!(row.state(), S::Cancelled);
    let array_row = row.array.expect("it is an array");
    assert_eq!((array_row.cancelled_rows, array_row.cancelled.len()), (2, 1), "the rest is one run");
    assert_eq!(world.assigned(), []);
}

#[test]
fn a_waiting_member_can_be_cancelled_and_retried_by_itself() {
    let mut world = World::new();
    let array = world.submit_array(facts(), 5, None);
    let third = array.at(3).expect("an index");
    let why = world.machine.why(world.now, third).expect("it waits");
    assert!(why.summary.contains("has not started"), "{why:?}");
    world.cancel(third, vec![]);
    let stored = world.rows([third]).to_vec();
    assert_eq!(stored[0].state(), S::Cancelled);
    assert_eq!(world.members(array).pending.pieces(), 2);
    assert!(!world.machine.holds(third));
    world.retry(third, stored);
    assert_eq!(world.state(third), S::Ready);
    let session = world.warm(1, 1, 8);
    assert_eq!(world.end_all(session, 0), 5);
    assert_eq!(world.row(array).state(), S::Succeeded);
    world.effects.clear();
    world.cancel(array.at(9).expect("an index"), vec![]);
    let [Effect::Reply { reply: Reply::Rejected(Rejection::Unknown { .. }), .. }] = world.effects.as_slice() else {
        panic!("there is no ninth: {:?}", world.effects)
    };
}

#[test]
fn an_ended_array_runs_again_for_the_members_that_are_retried() {
    let mut world = World::new();
    let array = world.submit_array(once(), 2, None);
    let session = world.warm(1, 1, 1);
    assert_eq!(world.end_all(session, 0), 1);
    assert_eq!(world.end_all(session, 1), 1);
    let second = array.at(2).expect("an index");
    let stored = world.rows([second, array]).to_vec();
    assert_eq!(stored[1].state(), S::Failed);
    world.commit();
    assert!(!world.machine.holds(array));
    world.retry(second, stored);
    assert_eq!(world.state(array), S::Running);
    assert_eq!(world.end_all(session, 0), 1);
    assert_eq!(world.row(array).state(), S::Succeeded);
}

#[test]
fn what_never_started_waits_again_when_the_array_is_retried() {
    let mut world = World::new();
    let array = world.submit_array(facts(), 3, None);
    world.cancel(array, vec![]);
    let row = world.row(array);
    assert_eq!(row.state(), S::Cancelled);
    world.commit();
    world.retry(array, vec![row.clone()]);
    assert_eq!((world.state(array), world.machine.counts()), (S::Ready, (1, 3)));
    world.cancel(array, vec![]);
    let row = world.row(array);
    world.commit();
    let first = array.at(1).expect("an index");
    world.retry(first, vec![row]);
    assert_eq!((world.state(first), world.state(array)), (S::Ready, S::Running));
}

#[test]
fn a_lost_member_is_replaced_like_any_task() {
    let mut world = World::new();
    let array = world.submit_array(facts(), 2, None);
    world.warm(1, 1, 2);
    assert_eq!(world.assigned().len(), 2);
    world.pass(3 * BEAT);
    let other = world.link(2, 2, 2, vec![]);
    let replacements = world.assigned();
    assert_eq!(replacements.iter().map(|(_, attempt, _)| attempt.number).collect::<Vec<_>>(), [2]);
    world.report(other, (replacements[0].1, replacements[0].2), Report::Started { unix_ms: 1 });
    assert_eq!(world.assigned().len(), 1, "slow start: the second follows when the first has started");
    assert_eq!(world.members(array).live, 2);
}
