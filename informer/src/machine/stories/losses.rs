//! Sidecars that fall silent, come back, or are superseded; informers that start again.

use super::*;

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
fn a_gap_in_report_numbers_ends_the_link() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    world.submit(facts());
    let (attempt, fence) = world.one_assigned();
    world.tell(Event::Reported { session, seq: 5, attempt, fence, report: Report::Accepted, stored: Vec::new() });
    assert!(world.effects.iter().any(|effect| matches!(effect, Effect::CloseLink { .. })));
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
    let row = world.commit().tasks.pop().expect("the late result is stored").row;
    assert_eq!(row.attempts[0].state(), v1::AttemptState::Late);
    assert_eq!(row.attempts[1].state(), v1::AttemptState::Succeeded);
}

#[test]
fn a_service_whose_silent_copy_ended_goes_on_with_its_replacement() {
    let restart = v1::RestartPolicy::default();
    let (mut world, task, original, second) = lost(store::Facts { restart: Some(restart), ..facts() });
    let replacement = world.one_assigned();
    world.link(1, 3, 1, vec![held(original, HeldState::Ended(Box::new(exit(0))))]);
    assert_eq!(world.verdicts(), [Decision::Acknowledged]);
    assert_eq!(world.state(task), v1::TaskState::Assigned, "what runs in its place is the restart");
    world.started(second, replacement);
    assert_eq!(world.state(task), v1::TaskState::Running);
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
        world.tell(Event::BeatReceived {
            session: second,
            seq: 2,
            load,
            credit: 0,
            held: 1,
            apart: v1::Resources::default(),
            aside: Some(vec![]),
            closed: false,
            progress,
        });
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
    assert_eq!(world.assigned(), [], "the old copy's clock may run slower by one in a hundred");
    world.pass((config().lease_ms + config().fence_grace_ms) / 100 + 1);
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
    let row =
        reply.tasks.iter().map(|change| &change.row).find(|row| row.id == *task.to_bytes()).expect("it has changed");
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
fn an_assignment_that_never_arrived_is_sent_again_although_another_of_its_number_is_there() {
    let mut world = World::new();
    let first = world.link(1, 1, 1, vec![]);
    world.submit(facts());
    let (attempt, fence) = world.one_assigned();
    world.tell(Event::LinkClosed { session: first });
    world.effects.clear();
    world.link(1, 2, 1, vec![held((attempt, Fence { epoch: 0, n: 9 }), running(0))]);
    assert_eq!(world.one_assigned(), (attempt, fence));
}

#[test]
fn what_an_older_backup_set_aside_goes_on_where_it_is_known_again() {
    let mut world = World::new();
    let first = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let original = world.one_assigned();
    world.started(first, original);
    world.tell(Event::LinkClosed { session: first });
    world.effects.clear();
    world.link(1, 2, 1, vec![held(original, HeldState::SetAside)]);
    assert_eq!(world.verdicts(), [Decision::Keep]);
    assert_eq!(world.state(task), v1::TaskState::Running);
}

#[test]
fn what_a_restored_store_does_not_list_is_set_aside_each_time_it_is_told() {
    let mut world = World::new();
    let first = world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    let (attempt, fence) = world.one_assigned();
    world.started(first, (attempt, fence));
    let younger = (AttemptId { task, number: attempt.number + 3 }, Fence { epoch: 7, n: 1 });
    for session in 2..5 {
        world.effects.clear();
        world.link(2, session, 1, vec![held(younger, running(0))]);
        assert_eq!(world.verdicts(), [Decision::SetAside], "link {session}");
    }
    world.effects.clear();
    world.link(2, 5, 1, vec![held(younger, HeldState::Ended(Box::new(exit(0))))]);
    assert_eq!(world.verdicts(), [Decision::SetAside], "its end is kept, too");
}

#[test]
fn what_is_set_aside_takes_room() {
    let mut world = World::new();
    let session = world.link(1, 1, 4, vec![]);
    let beat = |limit, cpu_millis| Event::BeatReceived {
        session,
        seq: 2,
        load: v1::Load::default(),
        credit: limit,
        held: 0,
        apart: v1::Resources { cpu_millis, memory_bytes: 0 },
        aside: Some(vec![]),
        closed: false,
        progress: vec![],
    };
    // Two run there that this informer has set aside: of four slots and 4000 millicpu it has two, and 1000.
    world.tell(beat(2, 3000));
    let first = world.submit(facts());
    let second = world.submit(facts());
    let attempt = world.one_assigned();
    assert_eq!(attempt.0.task, first);
    world.started(session, attempt);
    assert_eq!(world.state(second), v1::TaskState::Ready);
    world.tell(beat(3, 1000));
    assert_eq!(world.one_assigned().0.task, second);
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
fn a_restart_finds_everything_again() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let running_task = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    let ready_task = world.submit(facts());
    let batch = world.commit();
    let now = Now { mono_ms: 500, wall_ms: world.now.wall_ms + 60_000, entropy: 3 };
    world.machine = Machine::new(
        Config { epoch: 2, commit_seq: world.seq, ..config() },
        now,
        batch.tasks.iter().map(TaskChange::whole),
        batch.sidecars,
        [],
    );
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
fn after_a_restart_a_sidecar_whose_task_runs_on_gets_more() {
    let mut world = World::new();
    let session = world.link(1, 1, 2, vec![]);
    world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    let batch = world.commit();
    world.machine = Machine::new(
        Config { epoch: 2, commit_seq: world.seq, ..config() },
        world.now,
        batch.tasks.iter().map(TaskChange::whole),
        batch.sidecars,
        [],
    );
    world.reports.clear();
    world.effects.clear();
    let again = world.link(1, 9, 2, vec![held(attempt, running(0))]);
    world.submit(facts());
    let second = world.one_assigned();
    world.started(again, second);
    // The same when the agent restarts: its incarnation is another, and so is its window.
    let next = Hello { incarnation: 2, ..World::hello(1, 3) };
    world.link_as(next, 10, vec![held(attempt, running(0)), held(second, running(0))]);
    world.submit(facts());
    assert_eq!(world.assigned().len(), 1);
}

#[test]
fn a_restored_informer_holds_exclusive_starts_and_raises_its_epoch() {
    let mut world = World::new();
    let seen = v1::Identity { lineage: "l".into(), epoch: 4, commit_seq: 77 };
    world.submit(store::Facts { exclusive: true, stop_on_disconnect: true, ..facts() });
    world.link_as(Hello { seen: Some(seen), ..World::hello(1, 1) }, 1, vec![]);
    assert!(world.machine.restored());
    assert_eq!(world.assigned(), []);
    let raised = world.commit().epoch.expect("the epoch is raised");
    assert!(raised > 4, "{raised}");
    world.tell(Event::RestoreAccepted);
    let (_, fence) = world.one_assigned();
    assert_eq!(fence.epoch, raised);
}

/// What the informer says of itself in a welcome.
fn identity(epoch: u64, commit_seq: u64) -> v1::Identity {
    v1::Identity { lineage: "l".into(), epoch, commit_seq }
}

#[test]
fn a_leadership_that_this_store_never_had_shows_that_it_was_restored_though_its_epoch_is_lower() {
    let mut world = World::new();
    world.link(1, 1, 1, vec![]);
    world.link(2, 2, 1, vec![]);
    let rows: Vec<_> = world.commit().sidecars;
    assert!(rows.iter().all(|row| row.told_epoch == 1));
    let later = |commit_seq| Config { epoch: 90, commit_seq, ..config() };
    // Both come back from the leadership that was there before, as far as it went.
    world.machine = Machine::new(later(7), world.now, [], rows.clone(), []);
    world.link_as(Hello { seen: Some(identity(1, 7)), ..World::hello(1, 1) }, 3, vec![]);
    assert!(!world.machine.restored());
    // One has seen a leadership in between: it began after the backup.
    world.link_as(Hello { seen: Some(identity(40, 3)), ..World::hello(2, 1) }, 4, vec![]);
    assert!(world.machine.restored());
    assert_eq!(world.machine.config().epoch, 90, "it is above all that was reported");
    // Or more of the one before than there was when this one began, however much has been committed since.
    world.machine = Machine::new(later(7), world.now, [], rows, []);
    world.seq = 20;
    world.link_as(Hello { seen: Some(identity(1, 7)), ..World::hello(1, 1) }, 5, vec![]);
    world.commit();
    assert!(!world.machine.restored());
    world.link_as(Hello { seen: Some(identity(1, 8)), ..World::hello(2, 1) }, 6, vec![]);
    assert!(world.machine.restored());
}

#[test]
fn an_attempt_that_is_younger_than_the_store_shows_that_it_was_restored() {
    let mut world = World::new();
    world.link(1, 1, 1, vec![]);
    let sidecars = world.commit().sidecars;
    let task = world.submit(store::Facts { exclusive: true, stop_on_disconnect: true, ..facts() });
    let given = world.one_assigned();
    let mut row = world.row(task);
    (row.attempts, row.next_attempt) = (Vec::new(), 1);
    row.set_state(v1::TaskState::Ready);
    let next = Config { epoch: 90, commit_seq: world.seq, ..config() };
    world.machine = Machine::new(next, world.now, [row], sidecars, []);
    // It was cut off before it heard of the commit that gave it the attempt.
    world.link_as(
        Hello { seen: Some(identity(1, 1)), ..World::hello(1, 2) },
        2,
        vec![held(given, HeldState::Accepted)],
    );
    assert!(world.machine.restored());
    assert_eq!(world.assigned(), [], "the copy there may start yet");
}

#[test]
fn an_old_copy_that_a_linked_sidecar_has_not_named_takes_no_room_there() {
    let mut world = World::new();
    world.link(1, 1, 1, vec![]);
    let task = world.submit(facts());
    world.one_assigned();
    let mut row = world.row(task);
    row.set_state(v1::TaskState::Cancelled);
    world.machine = Machine::new(Config { epoch: 2, ..config() }, world.now, [], [], []);
    world.link(1, 2, 1, vec![]);
    let again =
        |key: &str| Event::RetryRequested { ticket: Ticket(2), task, stored: vec![row.clone()], key: key.into() };
    world.tell(again("once"));
    assert_eq!(world.assigned().len(), 1);
    // Nor if it has left again, with others in its slots.
    world.machine = Machine::new(Config { epoch: 3, ..config() }, world.now, [], [], []);
    let session = world.link(1, 3, 1, vec![]);
    world.submit(facts());
    assert_eq!(world.assigned().len(), 1);
    world.tell(Event::LinkClosed { session });
    world.tell(again("twice"));
}

#[test]
fn an_old_copy_whose_room_was_given_away_takes_none_after_a_restart() {
    let mut world = World::new();
    world.link(1, 1, 1, vec![]);
    let old = world.submit(facts());
    world.one_assigned();
    let mut row = world.row(old);
    row.set_state(v1::TaskState::Cancelled);
    // The next informer does not load it, and the sidecar does not name it: its room goes to another task.
    world.machine = Machine::new(Config { epoch: 2, ..config() }, world.now, [], [], []);
    world.link(1, 2, 1, vec![]);
    world.submit(facts());
    let other = world.one_assigned();
    let batch = world.commit();
    let next = Config { epoch: 3, commit_seq: world.seq, ..config() };
    world.machine = Machine::new(next, world.now, batch.tasks.iter().map(TaskChange::whole), batch.sidecars, []);
    world.tell(Event::RetryRequested { ticket: Ticket(2), task: old, stored: vec![row], key: "again".into() });
    world.link(1, 3, 1, vec![held(other, running(0))]);
    assert_eq!(world.assigned(), []);
    assert_eq!(world.state(old), v1::TaskState::Ready);
}

#[test]
fn an_old_copy_that_did_not_fit_and_runs_is_waited_for() {
    let mut world = World::new();
    world.link(1, 1, 2, vec![]);
    let stops = store::Facts { stop_on_disconnect: true, ..facts() };
    let (stale, stopping) = (world.submit(facts()), world.submit(stops));
    let session = SessionId(1);
    let assigned = world.assigned();
    world.started(session, (assigned[0].1, assigned[0].2));
    let copy = world.one_assigned();
    world.started(session, copy);
    let batch = world.commit();
    let mut rows: Vec<_> = batch.tasks.iter().map(TaskChange::whole).collect();
    rows.iter_mut().for_each(|row| row.set_state(v1::TaskState::Cancelled));
    let mut sidecars = batch.sidecars;
    // Since then it has come down to one slot, which by the books the wrong one of the two has.
    sidecars.iter_mut().for_each(|row| (row.slots, row.cpu_millis) = (1, 1000));
    let next = Config { epoch: 2, commit_seq: world.seq, ..config() };
    world.machine = Machine::new(next, world.now, [], sidecars, []);
    for task in [stale, stopping] {
        let stored = rows.iter().filter(|row| row.id == *task.to_bytes()).cloned().collect();
        world.tell(Event::RetryRequested { ticket: Ticket(2), task, stored, key: "again".into() });
    }
    world.pass(config().lease_ms / 2);
    world.link(1, 2, 1, vec![held(copy, running(0))]);
    assert_eq!(world.stops(), 0);
    let elsewhere = world.link(2, 3, 2, vec![]);
    assert_eq!(world.one_assigned().0.task, stale);
    world.beat(elsewhere, 2);
    world.pass(config().lease_ms / 2 + 2 * config().fence_grace_ms);
    assert_eq!(world.assigned(), [], "its old copy is still stopping");
    assert_eq!(world.state(stopping), v1::TaskState::Waiting);
    world.report(SessionId(2), copy, Report::Ended(Box::new(exit(1))));
    assert_eq!(world.state(stopping), v1::TaskState::Ready);
}

#[test]
fn what_was_told_under_a_raised_epoch_is_known_at_the_next_start() {
    let mut world = World::new();
    world.link(1, 1, 1, vec![]);
    world.commit();
    let seen = identity(40, 9);
    world.link_as(Hello { seen: Some(seen), ..World::hello(2, 1) }, 2, vec![]);
    let batch = world.commit();
    let raised = batch.epoch.expect("the epoch is raised");
    // The first one was welcomed under the old epoch, and may be assigned something under the new one.
    let told: Vec<_> = batch.sidecars.iter().map(|row| row.told_epoch).collect();
    assert_eq!(told, [raised, raised]);
    let next = Config { epoch: raised + 9, commit_seq: world.seq, ..config() };
    world.machine = Machine::new(next, world.now, [], batch.sidecars, []);
    let highest_fence = Fence { epoch: raised, n: 4 };
    world.link_as(Hello { seen: Some(identity(1, 1)), highest_fence, ..World::hello(1, 1) }, 3, vec![]);
    assert!(!world.machine.restored());
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
fn an_operator_may_vouch_for_a_restored_store() {
    let mut world = World::new();
    world.machine = Machine::new(Config { accept_restored: true, ..config() }, world.now, [], [], []);
    let seen = v1::Identity { lineage: "l".into(), epoch: 4, commit_seq: 77 };
    world.submit(store::Facts { exclusive: true, stop_on_disconnect: true, ..facts() });
    world.link_as(Hello { seen: Some(seen), ..World::hello(1, 1) }, 1, vec![]);
    assert!(world.machine.restored());
    assert!(world.one_assigned().1.epoch > 4);
}

#[test]
fn a_sidecar_that_is_closed_gets_nothing_whatever_ends_there() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    let (load, progress) = (v1::Load::default(), Vec::new());
    world.tell(Event::BeatReceived {
        session,
        seq: 2,
        load,
        credit: 0,
        held: 1,
        apart: v1::Resources::default(),
        aside: Some(vec![]),
        closed: true,
        progress,
    });
    world.submit(facts());
    world.report(session, attempt, Report::Ended(Box::new(exit(0))));
    assert_eq!(world.assigned(), []);
    world.beat(session, 1);
    assert_eq!(world.assigned().len(), 1);
}

#[test]
fn a_clock_that_was_set_back_prolongs_no_wait_of_ours() {
    let mut world = World::new();
    let timeouts = Some(v1::Timeouts { queue_ms: 5 * BEAT, ..Default::default() });
    let queued = world.submit(store::Facts { timeouts, ..facts() });
    let retry = v1::Retry { backoff_ms: BEAT, backoff_cap_ms: BEAT, ..Default::default() };
    let session = world.link(1, 1, 1, vec![]);
    let backing_off = world.submit(store::Facts { retry: Some(retry), priority: 1, ..facts() });
    let rows = [queued, backing_off].map(|task| world.row(task));
    world.tell(Event::LinkClosed { session });
    let set_back = Now { mono_ms: 500, wall_ms: world.now.wall_ms - 100 * BEAT, entropy: 3 };
    let waiting = store::TaskRow {
        state: v1::TaskState::Waiting.into(),
        not_before_unix_ms: world.now.wall_ms + BEAT,
        attempts: vec![store::AttemptRow { number: 1, state: v1::AttemptState::Failed.into(), ..row_of(1) }],
        ..rows[1].clone()
    };
    let ready = store::TaskRow { state: v1::TaskState::Ready.into(), attempts: vec![], ..rows[0].clone() };
    world.machine = Machine::new(Config { epoch: 2, ..config() }, set_back, [ready, waiting], [], []);
    world.now = set_back;
    world.pass(BEAT);
    assert_eq!(world.state(backing_off), v1::TaskState::Ready, "a back-off has its longest time");
    world.pass(4 * BEAT);
    assert_eq!(world.state(queued), v1::TaskState::Failed, "a wait for room counts from the start at the latest");
}

fn row_of(sidecar: u128) -> store::AttemptRow {
    store::AttemptRow { sidecar: SidecarId::from_u128(sidecar).to_string(), ..Default::default() }
}

#[test]
fn a_ready_task_waits_again_for_a_fenced_copy_that_comes_back() {
    let mut world = World::new();
    let first = world.link(1, 1, 1, vec![]);
    let task = world.submit(store::Facts { stop_on_disconnect: true, ..facts() });
    let old = world.one_assigned();
    world.started(first, old);
    world.pass(8 * BEAT);
    world.link(2, 2, 1, vec![]);
    let next = world.one_assigned();
    world.started(SessionId(2), next);
    world.pass(8 * BEAT);
    assert_eq!(world.state(task), v1::TaskState::Ready);
    let hello = Box::new(World::hello(1, 1));
    let held = vec![held(old, running(0))];
    world.tell(Event::LinkOpened { session: SessionId(3), hello, held, stored: BTreeMap::new() });
    assert_eq!(world.verdicts(), [Decision::Stop]);
    world.link(3, 4, 1, vec![]);
    assert_eq!((world.state(task), world.assigned()), (v1::TaskState::Waiting, vec![]));
    let fenced = v1::Ending { reason: v1::Reason::Fenced.into(), ..Default::default() };
    world.report(SessionId(3), old, Report::Ended(Box::new(fenced)));
    assert_eq!(world.one_assigned().0.task, task);
}
