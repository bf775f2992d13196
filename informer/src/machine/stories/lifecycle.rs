//! What becomes of a task while nothing is lost: placement, retries, cancel, services, time limits.

use super::*;

#[test]
fn a_delay_counts_from_when_it_was_taken_by_our_own_clock() {
    let mut world = World::new();
    world.link(1, 1, 1, vec![]);
    let submit = Submit { start_after_ms: BEAT, ..world.submission(facts(), None, 1) };
    let (task, taken_ms) = (submit.task, world.now.wall_ms);
    world.tell(Event::Submitted(Box::new(submit)));
    assert_eq!(world.state(task), v1::TaskState::Waiting);
    let row = world.machine.tasks.get(&task).expect("it waits").to_row(task);
    assert_eq!(row.not_before_unix_ms, taken_ms + BEAT);
    world.effects.clear();
    world.pass(BEAT - 1);
    assert_eq!(world.assigned(), []);
    world.pass(1);
    assert_eq!(world.one_assigned().0.task, task);
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
    assert!(why.summary.contains("no linked sidecar can ever take it"), "{}", why.summary);
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
fn who_fetches_inputs_does_not_hold_the_window_of_a_fresh_sidecar() {
    let mut world = World::new();
    let slow = world.submit(facts());
    world.submit(facts());
    let session = world.link(1, 1, 8, vec![]);
    let attempt = world.one_assigned();
    assert_eq!(attempt.0.task, slow);
    let note = "fetching inputs: 12 of 40 MiB".to_owned();
    let progress = vec![(attempt.0, v1::Progress { note: note.clone(), ..Default::default() })];
    let load = v1::Load::default();
    world.tell(Event::BeatReceived {
        session,
        seq: 2,
        load,
        credit: 7,
        held: 1,
        apart: v1::Resources::default(),
        aside: Some(vec![]),
        closed: false,
        progress,
    });
    let next = world.one_assigned();
    assert_ne!(next.0.task, slow, "the other one need not wait for a slow server");
    assert_eq!(world.machine.progress(slow).map(|progress| progress.note.as_str()), Some(note.as_str()));
    assert_eq!(world.machine.why(world.now, slow).expect("held").details, [note]);
    // The window itself has not grown: nothing has started yet.
    world.submit(facts());
    assert_eq!(world.assigned(), []);
    world.started(session, attempt);
    assert_eq!(world.machine.progress(slow), None, "what was told of the inputs goes with them");
    assert_eq!(world.assigned(), [], "two are in a window of two");
}

#[test]
fn what_runs_on_over_a_new_agent_leaves_room_for_one_more_try() {
    let mut world = World::new();
    let first = world.link(1, 1, 8, vec![]);
    let mut here = Vec::new();
    for _ in 0..3 {
        world.submit(facts());
        let attempt = world.one_assigned();
        world.started(first, attempt);
        here.push(held(attempt, running(0)));
    }
    world.tell(Event::LinkClosed { session: first });
    for _ in 0..5 {
        world.submit(facts());
    }
    let agent = Hello { incarnation: 2, ..World::hello(1, 8) };
    let second = world.link_as(agent, 2, here);
    let next = world.one_assigned();
    world.started(second, next);
    assert_eq!(world.assigned().len(), 4, "it has shown that it can start something, and has eight slots");
}

#[test]
fn three_spawn_failures_of_different_tasks_quarantine() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let spawn = v1::Ending { reason: v1::Reason::Spawn.into(), machine_fault: true, ..Default::default() };
    let tasks: Vec<_> = (0..3).map(|_| world.submit(facts())).collect();
    let attempt = world.one_assigned();
    world.report(session, attempt, Report::Ended(Box::new(spawn.clone())));
    for task in &tasks[1..] {
        assert_eq!(world.assigned(), [], "until the next beat nothing more goes there");
        world.pass(BEAT);
        world.beat(session, 1);
        // What failed is put back behind the others, so that three different ones fail, and none of them for the second time.
        let attempt = world.one_assigned();
        assert_eq!(attempt.0.task, *task);
        world.report(session, attempt, Report::Ended(Box::new(spawn.clone())));
    }
    let why = world.machine.why(world.now, tasks[0]).expect("held");
    let told = std::iter::once(&why.summary).chain(&why.details);
    assert!(told.into_iter().any(|line| line.contains("quarantined after spawn failures")), "{why:?}");
    let rest = |world: &mut World| {
        for _ in 0..super::sidecar::QUARANTINE_BEATS {
            assert_eq!(world.assigned(), []);
            world.pass(BEAT);
            world.beat(session, 1);
        }
    };
    rest(&mut world);
    let tried = world.one_assigned();
    world.report(session, tried, Report::Ended(Box::new(spawn)));
    rest(&mut world);
    let tried = world.one_assigned();
    world.started(session, tried);
    world.report(session, tried, Report::Ended(Box::new(exit(0))));
    // One try showed each time whether it was mended.
    let charged =
        tasks.iter().map(|task| &world.machine.tasks[task]).map(|task| (task.own_failures, task.infra_failures));
    assert_eq!(charged.fold((0, 0), |sum, task| (sum.0 + task.0, sum.1 + task.1)), (0, 4), "charged to nobody");
    assert_eq!(world.assigned().len(), 1, "and goes on");
}

#[test]
fn what_a_machine_lacks_is_not_the_tasks_to_pay_for() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let retry = v1::Retry { max_attempts: 1, max_infrastructure: 2, backoff_cap_ms: 1, ..Default::default() };
    let task = world.submit(store::Facts { retry: Some(retry.clone()), ..facts() });
    let spawn = v1::Ending { reason: v1::Reason::Spawn.into(), machine_fault: true, ..Default::default() };
    for number in 1..=3 {
        let attempt = world.one_assigned();
        assert_eq!((attempt.0.task, attempt.0.number), (task, number), "one task alone quarantines nobody");
        world.report(session, attempt, Report::Ended(Box::new(spawn.clone())));
        world.pass(BEAT);
        world.beat(session, 1);
    }
    let row = world.row(task);
    assert_eq!((row.state(), row.own_failures, row.infra_failures), (v1::TaskState::Failed, 0, 3));
    let named = v1::Ending { machine_fault: false, ..spawn };
    let task = world.submit(store::Facts { retry: Some(retry), ..facts() });
    let attempt = world.one_assigned();
    world.report(session, attempt, Report::Ended(Box::new(named)));
    let row = world.row(task);
    assert_eq!((row.state(), row.own_failures, row.infra_failures), (v1::TaskState::Failed, 1, 0));
}

#[test]
fn a_machine_that_can_spawn_nothing_is_passed_over_at_once() {
    let mut world = World::new();
    let broken = world.link(1, 1, 2, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.link(2, 2, 1, vec![]);
    let spawn = v1::Ending { reason: v1::Reason::Spawn.into(), machine_fault: true, ..Default::default() };
    world.report(broken, attempt, Report::Ended(Box::new(spawn)));
    let [(session, again, _)] = world.assigned()[..] else { panic!("it is tried once more, and at once") };
    assert_eq!((session, again.task), (SessionId(2), task));
}

#[test]
fn a_failed_spawn_does_not_shut_a_sidecar_whose_other_task_runs_on() {
    let mut world = World::new();
    let session = world.link(1, 1, 4, vec![]);
    world.submit(facts());
    let runs = world.one_assigned();
    world.started(session, runs);
    world.submit(facts());
    let fails = world.one_assigned();
    let spawn = v1::Ending { reason: v1::Reason::Spawn.into(), machine_fault: true, ..Default::default() };
    world.report(session, fails, Report::Ended(Box::new(spawn)));
    world.submit(facts());
    world.pass(BEAT);
    world.beat(session, 4);
    assert_eq!(world.assigned().len(), 1, "beside the one that runs, one more may be tried");
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
    world.tell(Event::CancelRequested { ticket: Ticket(2), task, stored: Vec::new(), reason: String::new() });
    let [Effect::Reply { reply: Reply::Rejected(Rejection::State { .. }), .. }] = world.effects.as_slice() else {
        panic!("too late: {:?}", world.effects)
    };
    world.report(session, attempt, Report::Published(None));
    assert_eq!(world.row(task).state(), v1::TaskState::Succeeded);
}

#[test]
fn cancel_stops_the_process_and_then_the_task_is_cancelled() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.effects.clear();
    world.tell(Event::CancelRequested { ticket: Ticket(2), task, stored: Vec::new(), reason: "enough".into() });
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
        world.tell(Event::CancelRequested { ticket: Ticket(2), task, stored: Vec::new(), reason: String::new() });
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
    let stored = vec![row];
    world.tell(Event::RetryRequested { ticket: Ticket(3), task, stored, key: "r".into() });
    let attempt = world.one_assigned();
    assert_eq!(attempt.0.number, 2);
    world.report(session, attempt, Report::Ended(Box::new(exit(0))));
    let stored = vec![world.row(task)];
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
        let why = world.machine.why(world.now, task).expect("it waits");
        assert!(why.details.iter().any(|line| line.contains("exit code 1")), "{why:?}");
        world.beat(session, 1);
        world.pass(1);
    }
    let attempt = world.one_assigned();
    world.started(session, attempt);
    // It is up again; what happened before is told all the same.
    let why = world.machine.why(world.now, task).expect("it runs");
    let told = ["attempt 2 ended: exit_code (exit code 1)", "restarted 2 times in a row, lost 0 times"];
    assert_eq!(why.details, told);
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
fn more_tasks_than_the_bound_are_refused() {
    let rejection = Rejection::Full { limit: bounds::TASKS_LIVE };
    assert!(rejection.to_string().contains("retry when some have ended"));
}

#[test]
fn programs_that_are_not_there_quarantine_nobody() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let misspelt = v1::Ending { reason: v1::Reason::Spawn.into(), ..Default::default() };
    for _ in 0..9 {
        world.submit(store::Facts { retry: Some(v1::Retry { max_attempts: 1, ..Default::default() }), ..facts() });
        let attempt = world.one_assigned();
        world.report(session, attempt, Report::Ended(Box::new(misspelt.clone())));
        world.effects.clear();
    }
    world.submit(facts());
    assert_eq!(world.assigned().len(), 1);
}

#[test]
fn a_cancel_that_crosses_a_staged_success_wins_and_charges_nobody() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    world.tell(Event::CancelRequested { ticket: Ticket(2), task, stored: Vec::new(), reason: String::new() });
    world.effects.clear();
    world.report(session, attempt, Report::Ended(Box::new(staged())));
    assert_eq!(world.stops(), 1, "its sidecar hears that nobody wants what it staged");
    let row = world.row(task);
    assert_eq!((row.state(), row.own_failures), (v1::TaskState::Cancelled, 0));
}

#[test]
fn an_end_that_is_the_first_news_tells_the_start_too() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let attempt = world.one_assigned();
    world.tell(Event::LinkClosed { session });
    let ending = v1::Ending { started_unix_ms: 5, ..exit(0) };
    world.link(1, 2, 1, vec![held(attempt, HeldState::Ended(Box::new(ending)))]);
    assert_eq!(world.row(task).attempts[0].started_unix_ms, 5);
}
