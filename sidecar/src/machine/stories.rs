//! One world, one event, the effects that follow, and nothing else.

mod aside;
mod hindered;

use super::*;
use proto::id::TaskId;
use v1::report::What;
use v1::verdict::Decision;

pub(super) const TERMS: Terms = Terms { beat_ms: 1_000, lease_ms: 3_000, fence_grace_ms: 500 };

pub(super) fn attempt(task: u128, number: u32) -> AttemptId {
    AttemptId { task: TaskId::from_u128(task), number }
}

pub(super) fn fence(n: u64) -> Fence {
    Fence { epoch: 1, n }
}

/// A machine, its clock, and the part of the shell that batches.
pub(super) struct World {
    pub machine: Machine,
    pub now: Now,
    pub link: LinkId,
    pub ledger: std::collections::BTreeMap<AttemptId, Row>,
    pub emits: std::collections::BTreeMap<(AttemptId, String), EmitRow>,
    batch: u64,
    /// Number of the last one that left.
    pub beat: u64,
    /// Held and credit of the last beat.
    room: (u32, u32),
}

impl World {
    pub(super) fn new(config: Config) -> Self {
        Self {
            machine: Machine::new(config, []),
            now: Now { boot_ms: 10_000, wall_ms: 1_000_000 },
            link: LinkId(0),
            ledger: std::collections::BTreeMap::new(),
            emits: std::collections::BTreeMap::new(),
            batch: 0,
            beat: 0,
            room: (0, 0),
        }
    }

    /// Linked, with a keeper and a live lease.
    pub(super) fn linked(slots: u32) -> Self {
        let mut world = Self::new(Config { keep_attempts: 0, ..Config::new(slots) });
        world.tell(Event::KeeperConnected { listing: vec![] });
        world.relink();
        world
    }

    pub(super) fn relink(&mut self) {
        self.link = LinkId(self.link.0 + 1);
        self.beat = 0;
        self.tell(Event::LinkOpened { link: self.link });
        self.hear(Heard::Welcome { terms: TERMS, logs: v1::LogPolicy::Never, stranger: false, children: true });
        self.beat_acked();
    }

    /// The last beat is acknowledged.
    pub(super) fn beat_acked(&mut self) {
        self.hear(Heard::BeatAck { seq: self.beat, terms: TERMS });
        // The credit changed with the first lease: the next beat tells it.
        self.pass(50);
    }

    /// Applies, commits, and returns what left before and after the commit, checked.
    pub(super) fn tell(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.machine.apply(self.now, event, &mut effects);
        self.machine.check().expect("after the event");
        self.commit(&mut effects);
        for effect in &effects {
            if let Effect::SendBeat { beat, .. } = effect {
                self.beat = beat.seq;
                self.room = (beat.held, beat.credit);
            }
        }
        effects.retain(|effect| !matches!(effect, Effect::SendBeat { .. }));
        effects
    }

    pub(super) fn commit(&mut self, effects: &mut Vec<Effect>) {
        self.batch += 1;
        let batch = self.machine.take_batch(self.batch);
        for row in batch.rows {
            self.ledger.insert(row.attempt, row);
        }
        for attempt in batch.deletes {
            self.ledger.remove(&attempt);
        }
        for name in batch.emits_gone {
            self.emits.remove(&name);
        }
        for row in batch.emits {
            self.emits.insert((row.attempt, row.emit.key.clone()), row);
        }
        self.machine.committed(self.now, self.batch, effects);
        self.machine.check().expect("after the commit");
    }

    pub(super) fn hear(&mut self, heard: Heard) -> Vec<Effect> {
        self.tell(Event::Heard { link: self.link, heard })
    }

    pub(super) fn notice(&mut self, attempt: AttemptId, notice: Notice) -> Vec<Effect> {
        self.tell(Event::Noticed { attempt, notice })
    }

    pub(super) fn pass(&mut self, ms: u64) -> Vec<Effect> {
        self.now.boot_ms += ms;
        self.now.wall_ms += ms;
        self.tell(Event::TimePassed)
    }

    pub(super) fn assign(&mut self, id: AttemptId, n: u64) -> Vec<Effect> {
        self.hear(Heard::Assign { attempt: id, fence: fence(n), facts: Facts::default() })
    }

    pub(super) fn assign_stop(&mut self, id: AttemptId, n: u64) -> Vec<Effect> {
        self.hear(Heard::Assign { attempt: id, fence: fence(n), facts: Facts { stop_on_disconnect: true } })
    }

    /// The agent dies and comes back with its ledger.
    pub(super) fn restart_agent(&mut self, listing: Vec<Found>) {
        let config = Config { keep_attempts: 0, ..Config::new(self.machine.config.slots) };
        self.machine = Machine::new(config, self.ledger.values().cloned()).with_emits(self.emits.values().cloned());
        self.batch = 0;
        self.tell(Event::KeeperConnected { listing });
        self.relink();
    }

    pub(super) fn verdict(&mut self, attempt: AttemptId, decision: Decision) -> Vec<Effect> {
        self.hear(Heard::Verdict { attempt, decision, why: v1::Reason::Revoked })
    }
}

pub(super) fn started() -> v1::Started {
    v1::Started { boot_id: "boot".into(), pid_ns: 1, pid: 42, start_ticks: 7, unix_ms: 5 }
}

pub(super) fn exit(code: i32) -> Box<v1::Ending> {
    let reason = if code == 0 { v1::Reason::Unspecified } else { v1::Reason::ExitCode };
    Box::new(v1::Ending { reason: reason.into(), exit_code: Some(code), ..Default::default() })
}

fn staged() -> Box<v1::Ending> {
    Box::new(v1::Ending { outputs: vec![v1::StagedOutput::default()], ..*exit(0) })
}

/// Reports among the effects, in order, as (sequence, kind).
pub(super) fn reports(effects: &[Effect]) -> Vec<(u64, &'static str)> {
    let named = |effect: &Effect| match effect {
        Effect::SendReport { report, .. } => {
            let kind = match report.what.as_ref().expect("a report says something") {
                What::Accepted(_) => "accepted",
                What::Started(_) => "started",
                What::Ended(_) => "ended",
                What::Published(_) => "published",
                What::Refused(_) => "refused",
            };
            Some((report.seq, kind))
        }
        _ => None,
    };
    effects.iter().filter_map(named).collect()
}

fn starts(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::StartAttempt { .. })).count()
}

fn stops(effects: &[Effect]) -> Vec<v1::Reason> {
    let why = |effect: &Effect| match effect {
        Effect::StopAttempt { why, .. } => Some(*why),
        _ => None,
    };
    effects.iter().filter_map(why).collect()
}

#[test]
fn a_task_is_accepted_started_ended_and_purged() {
    let (mut world, one) = (World::linked(2), attempt(1, 1));
    let effects = world.assign(one, 1);
    assert_eq!((reports(&effects), starts(&effects), effects.len()), (vec![(1, "accepted")], 1, 2));
    assert_eq!(reports(&world.notice(one, Notice::Spawned(started()))), [(2, "started")]);
    assert_eq!(reports(&world.notice(one, Notice::Ended(exit(0)))), [(3, "ended")]);
    assert!(world.ledger.contains_key(&one), "not acknowledged, so still held");
    let effects = world.hear(Heard::Ack { seq: 3 });
    assert_eq!(effects[1..], [Effect::Purge { attempt: one }]);
    world.tell(Event::Purged { attempt: one });
    assert!(world.ledger.is_empty() && !world.machine.holds(one));
}

#[test]
fn a_full_disk_closes_the_sidecar_and_costs_the_oldest_acknowledged_logs() {
    let (mut world, one, two) = (World::linked(2), attempt(1, 1), attempt(2, 1));
    let config = Config { keep_attempts: 9, ..Config::new(2) };
    let rows = [(one, 1), (two, 2)].map(|(attempt, order)| Row {
        attempt,
        fence: fence(1),
        facts: Facts::default(),
        order,
        started: None,
        set_aside: false,
        log_bytes: 5,
        state: RowState::Retired(LogCopy::Unwanted),
    });
    world.machine = Machine::new(config, rows);
    world.tell(Event::KeeperConnected { listing: vec![] });
    world.relink();
    assert_eq!(world.machine.told_room, Some((true, 0)));
    let effects = world.tell(Event::DiskSeen { room: false });
    assert_eq!(effects, [Effect::Purge { attempt: one }]);
    world.pass(50);
    assert_eq!(world.machine.told_room, Some((false, 0)), "told before the next beat is due");
    assert_eq!(world.tell(Event::DiskSeen { room: false }), [Effect::Purge { attempt: two }]);
    assert_eq!(world.tell(Event::DiskSeen { room: false }), []);
    world.tell(Event::DiskSeen { room: true });
    world.pass(50);
    assert_eq!(world.machine.told_room, Some((true, 0)));
}

#[test]
fn nothing_is_said_before_the_row_is_durable_but_it_may_start() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    let mut effects = Vec::new();
    let heard = Heard::Assign { attempt: one, fence: fence(1), facts: Facts::default() };
    world.machine.apply(world.now, Event::Heard { link: world.link, heard }, &mut effects);
    assert_eq!(starts(&effects), 1);
    let mut said: Vec<Effect> = effects.into_iter().filter(|effect| !effect.is_urgent()).collect();
    assert_eq!(reports(&said), [(1, "accepted")], "it leaves with the batch that holds the row");
    said.clear();
    let batch = world.machine.take_batch(1_000);
    assert_eq!(batch.rows.len(), 1);
    world.machine.committed(world.now, 1_000, &mut said);
    assert_eq!(said, []);
}

#[test]
fn an_attempt_may_end_while_its_row_is_being_written() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    let mut effects = Vec::new();
    let heard = Heard::Assign { attempt: one, fence: fence(1), facts: Facts::default() };
    world.machine.apply(world.now, Event::Heard { link: world.link, heard }, &mut effects);
    let first = world.machine.take_batch(1_000);
    for notice in [Notice::Spawned(started()), Notice::Ended(exit(0))] {
        world.machine.apply(world.now, Event::Noticed { attempt: one, notice }, &mut effects);
    }
    assert_eq!(reports(&effects), [(1, "accepted"), (2, "started"), (3, "ended")]);
    world.machine.committed(world.now, 1_000, &mut effects);
    let second = world.machine.take_batch(1_001);
    let states = [first, second].map(|batch| batch.rows[0].state.clone());
    assert!(matches!(states, [RowState::Accepted, RowState::Ended(_)]), "{states:?}");
}

#[test]
fn a_repeated_assignment_is_harmless_at_every_stage() {
    let (mut world, one) = (World::linked(2), attempt(1, 1));
    world.assign(one, 1);
    assert_eq!(world.assign(one, 1), []);
    world.notice(one, Notice::Spawned(started()));
    assert_eq!(world.assign(one, 1), []);
    world.notice(one, Notice::Ended(exit(0)));
    assert_eq!(world.assign(one, 1), []);
    world.hear(Heard::Ack { seq: 3 });
    // From here on only an informer that was restored from a backup assigns it, and it waits for an answer.
    for seq in [4, 5] {
        let effects = world.assign(one, 1);
        assert_eq!((reports(&effects), starts(&effects)), (vec![(seq, "refused")], 0));
        world.tell(Event::Purged { attempt: one });
    }
}

#[test]
fn an_older_attempt_of_a_task_is_refused_when_a_newer_one_is_held() {
    let mut world = World::linked(2);
    world.assign(attempt(1, 2), 9);
    let effects = world.assign(attempt(1, 1), 3);
    assert_eq!((reports(&effects), starts(&effects)), (vec![(2, "refused")], 0));
}

#[test]
fn what_exceeds_the_slots_waits_and_starts_in_order() {
    let mut world = World::linked(1);
    assert_eq!(starts(&world.assign(attempt(1, 1), 1)), 1);
    assert_eq!(starts(&world.assign(attempt(2, 1), 2)), 0);
    assert_eq!(reports(&world.assign(attempt(3, 1), 3)), [(3, "refused")], "twice the slots are held");
    let effects = world.notice(attempt(1, 1), Notice::Ended(exit(0)));
    assert_eq!(starts(&effects), 1);
}

#[test]
fn the_lease_counts_from_the_sending_of_the_acknowledged_beat() {
    let mut world = World::new(Config::new(1));
    world.tell(Event::KeeperConnected { listing: vec![] });
    world.link = LinkId(1);
    world.tell(Event::LinkOpened { link: world.link });
    world.hear(Heard::Welcome { terms: TERMS, logs: v1::LogPolicy::Never, stranger: false, children: true });
    let sent = world.now.boot_ms;
    world.now.boot_ms += 900;
    let effects = world.hear(Heard::BeatAck { seq: 1, terms: TERMS });
    assert_eq!(effects, [Effect::PublishLease { deadline_ms: sent + 3_000 }]);
    assert_eq!(world.hear(Heard::BeatAck { seq: 1, terms: TERMS }), [], "repeated");
}

#[test]
fn without_a_lease_nothing_is_taken() {
    let mut world = World::linked(1);
    world.pass(3_500);
    let effects = world.assign(attempt(1, 1), 1);
    assert_eq!((reports(&effects), starts(&effects)), (vec![(1, "refused")], 0));
}

#[test]
fn what_is_repeated_right_after_the_inventory_waits_for_the_first_lease() {
    let mut world = World::new(Config::new(1));
    world.tell(Event::KeeperConnected { listing: vec![] });
    world.link = LinkId(1);
    world.tell(Event::LinkOpened { link: world.link });
    world.hear(Heard::Welcome { terms: TERMS, logs: v1::LogPolicy::Never, stranger: false, children: true });
    let effects = world.assign(attempt(1, 1), 1);
    assert_eq!((reports(&effects), starts(&effects)), (vec![(1, "accepted")], 0));
    assert_eq!(starts(&world.hear(Heard::BeatAck { seq: 1, terms: TERMS })), 1);
}

#[test]
fn at_the_end_of_the_lease_a_waiting_stop_attempt_is_refused_and_a_continue_attempt_waits() {
    let mut world = World::linked(1);
    world.assign(attempt(1, 1), 1);
    world.assign_stop(attempt(2, 1), 2);
    let effects = world.pass(3_500);
    assert_eq!(reports(&effects), [(3, "refused")]);
    let mut world = World::linked(1);
    world.assign(attempt(1, 1), 1);
    world.assign(attempt(2, 1), 2);
    assert_eq!(world.pass(3_500), []);
    assert_eq!(world.machine.stage(attempt(2, 1)), Some(&Stage::Accepted));
}

#[test]
fn what_is_told_of_inputs_ends_with_the_start() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    let fetching = v1::Progress { note: "fetching inputs".into(), ..Default::default() };
    world.tell(Event::Progressed { attempt: one, progress: fetching.clone() });
    let told = v1::AttemptProgress { attempt: Some(one.to_wire()), progress: Some(fetching.clone()) };
    let beat = |world: &mut World| {
        world.now.boot_ms += 1_000;
        let mut effects = Vec::new();
        world.machine.apply(world.now, Event::TimePassed, &mut effects);
        match &effects[..] {
            [Effect::SendBeat { beat, .. }] => beat.progress.clone(),
            other => panic!("one beat was expected: {other:?}"),
        }
    };
    assert_eq!(beat(&mut world), [told]);
    world.tell(Event::Progressed { attempt: one, progress: fetching });
    world.notice(one, Notice::Spawned(started()));
    assert_eq!(beat(&mut world), []);
}

#[test]
fn progress_before_the_verdict_is_told_after_it() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    world.notice(one, Notice::Spawned(started()));
    world.tell(Event::LinkClosed { link: world.link });
    world.relink();
    let progress = v1::Progress { health: v1::Health::Healthy.into(), ..Default::default() };
    world.tell(Event::Progressed { attempt: one, progress: progress.clone() });
    world.pass(1_000);
    world.verdict(one, Decision::Keep);
    world.now.boot_ms += 1_000;
    let mut effects = Vec::new();
    world.machine.apply(world.now, Event::TimePassed, &mut effects);
    let told = v1::AttemptProgress { attempt: Some(one.to_wire()), progress: Some(progress) };
    assert!(matches!(&effects[..], [Effect::SendBeat { beat, .. }] if beat.progress == [told]), "{effects:?}");
}

#[test]
fn a_result_survives_the_link_and_is_sent_again_after_the_verdict() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    world.notice(one, Notice::Spawned(started()));
    world.tell(Event::LinkClosed { link: world.link });
    assert_eq!(world.notice(one, Notice::Ended(exit(3))), []);
    world.relink();
    let effects = world.verdict(one, Decision::Keep);
    assert_eq!(reports(&effects), [(1, "accepted"), (2, "started"), (3, "ended")]);
    let effects = world.hear(Heard::Ack { seq: 3 });
    assert_eq!(effects.last(), Some(&Effect::Purge { attempt: one }));
}

#[test]
fn an_acknowledged_verdict_purges_without_a_report() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    world.notice(one, Notice::Ended(exit(0)));
    world.relink();
    let effects = world.verdict(one, Decision::Acknowledged);
    assert_eq!((reports(&effects), effects.last()), (vec![], Some(&Effect::Purge { attempt: one })));
}

#[test]
fn a_repeated_verdict_on_what_is_over_leaves_the_count_of_its_log() {
    let (mut world, one) = (World::new(Config::new(1)), attempt(1, 1));
    let ending = Box::new(v1::Ending { out_bytes: 7, ..*exit(0) });
    let note = Some(Note { fence: fence(1), facts: Facts::default() });
    let listing = vec![Found { attempt: one, note, state: FoundState::Ended(ending) }];
    world.tell(Event::KeeperConnected { listing });
    world.relink();
    for _ in 0..2 {
        world.verdict(one, Decision::Acknowledged);
    }
    assert_eq!(world.ledger[&one].log_bytes, 7);
}

#[test]
fn an_order_to_stop_does_not_wait_for_the_ledger() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    world.notice(one, Notice::Spawned(started()));
    let mut effects = Vec::new();
    let heard = Heard::Stop { attempt: one, why: v1::Reason::Cancelled };
    world.machine.apply(world.now, Event::Heard { link: world.link, heard }, &mut effects);
    assert_eq!(effects, [Effect::StopAttempt { attempt: one, why: v1::Reason::Cancelled }]);
    assert!(effects[0].is_urgent());
}

#[test]
fn a_stop_verdict_stops_and_then_reports_the_end() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    world.notice(one, Notice::Spawned(started()));
    world.relink();
    let effects = world.verdict(one, Decision::Stop);
    assert_eq!(
        (stops(&effects), reports(&effects)),
        (vec![v1::Reason::Revoked], vec![(1, "accepted"), (2, "started")])
    );
    assert_eq!(reports(&world.notice(one, Notice::Ended(exit(0)))), [(3, "ended")]);
}

#[test]
fn a_restarted_agent_starts_an_accepted_attempt_only_with_a_verdict() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.tell(Event::KeeperGone);
    world.assign(one, 1);
    world.restart_agent(vec![]);
    assert_eq!(world.machine.stage(one), Some(&Stage::Accepted), "lease live, and yet no verdict");
    let effects = world.verdict(one, Decision::Keep);
    assert_eq!(starts(&effects), 1);
}

#[test]
fn a_restarted_agent_reports_what_happened_meanwhile() {
    let (mut world, ran, gone) = (World::linked(2), attempt(1, 1), attempt(2, 1));
    for (n, id) in [(1, ran), (2, gone)] {
        world.assign(id, n);
        world.notice(id, Notice::Spawned(started()));
    }
    world.restart_agent(vec![
        Found { attempt: ran, note: None, state: FoundState::Ended(exit(7)) },
        Found { attempt: gone, note: None, state: FoundState::Lost },
    ]);
    assert_eq!(reports(&world.verdict(ran, Decision::Keep)).last(), Some(&(3, "ended")));
    let Some(Stage::Ended(ending)) = world.machine.stage(gone) else { panic!("it is not over") };
    assert_eq!((ending.reason(), ending.exit_code), (v1::Reason::Lost, None));
}

#[test]
fn a_process_that_the_ledger_does_not_know_is_adopted_into_the_inventory() {
    let (mut world, one) = (World::new(Config::new(1)), attempt(1, 1));
    world.link = LinkId(1);
    assert_eq!(world.tell(Event::LinkOpened { link: world.link }), [], "the inventory waits for the keeper");
    let note = Some(Note { fence: fence(4), facts: Facts::default() });
    let listing = vec![Found { attempt: one, note, state: FoundState::Running(started()) }];
    let effects = world.tell(Event::KeeperConnected { listing });
    let [Effect::SendHello { held, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((held[0].state(), held[0].fence), (v1::HeldState::Running, Some(fence(4).into())));
    assert!(world.ledger.contains_key(&one));
}

#[test]
fn a_lost_keeper_leaves_attempts_running_and_a_lost_start_is_repeated() {
    let mut world = World::linked(2);
    world.assign(attempt(1, 1), 1);
    world.notice(attempt(1, 1), Notice::Spawned(started()));
    world.assign(attempt(2, 1), 2);
    world.tell(Event::KeeperGone);
    assert_eq!(world.machine.stage(attempt(1, 1)), Some(&Stage::Running));
    let found = Found { attempt: attempt(1, 1), note: None, state: FoundState::Running(started()) };
    let effects = world.tell(Event::KeeperConnected { listing: vec![found] });
    assert_eq!((starts(&effects), effects.len()), (1, 1));
}

#[test]
fn a_winner_publishes_and_is_purged_after_that_is_acknowledged() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    world.notice(one, Notice::Ended(staged()));
    assert_eq!(world.hear(Heard::Ack { seq: 2 }), [], "it waits to be told whether it won");
    let order = Heard::Publish { attempt: one, fence: fence(1) };
    assert_eq!(world.hear(order.clone()), [Effect::PublishOutputs { attempt: one, fence: fence(1) }]);
    assert_eq!(world.hear(order), [], "repeated");
    let effects = world.tell(Event::OutputsPublished { attempt: one, failure: None });
    assert_eq!(reports(&effects), [(3, "published")]);
    let effects = world.hear(Heard::Ack { seq: 3 });
    assert_eq!(effects[0], Effect::Retire { attempt: one, discard_outputs: false });
}

#[test]
fn a_loser_discards_its_outputs() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    world.notice(one, Notice::Ended(staged()));
    world.hear(Heard::Ack { seq: 2 });
    let effects = world.hear(Heard::Stop { attempt: one, why: v1::Reason::Revoked });
    assert_eq!(effects[0], Effect::Retire { attempt: one, discard_outputs: true });
}

#[test]
fn a_superseded_agent_takes_no_work_and_leaves_its_tasks_alone() {
    let (mut world, one) = (World::linked(2), attempt(1, 1));
    world.assign(one, 1);
    world.notice(one, Notice::Spawned(started()));
    let effects = world.hear(Heard::Refuse {
        code: "superseded".into(),
        message: "a newer incarnation is linked".into(),
        is_final: true,
    });
    assert!(matches!(effects[..], [Effect::CloseLink { .. }, Effect::GiveUp { .. }]));
    assert_eq!(world.machine.next_wakeup(), Some(world.machine.lease_deadline_ms()), "no beat is due");
}

#[test]
fn shutdown_leaves_tasks_or_stops_them_all() {
    let mut world = World::linked(2);
    world.assign(attempt(1, 1), 1);
    world.notice(attempt(1, 1), Notice::Spawned(started()));
    assert_eq!(stops(&world.tell(Event::ShutdownRequested { stop_tasks: false })), []);
    assert!(world.machine.may_exit());
    let effects = world.tell(Event::ShutdownRequested { stop_tasks: true });
    assert_eq!(stops(&effects), [v1::Reason::Drained]);
    assert!(!world.machine.may_exit());
    world.notice(attempt(1, 1), Notice::Ended(exit(0)));
    assert!(world.machine.may_exit());
}

#[test]
fn an_acknowledgement_of_the_unsent_ends_the_link() {
    let mut world = World::linked(1);
    assert!(matches!(world.hear(Heard::Ack { seq: 1 })[..], [Effect::CloseLink { .. }]));
}

#[test]
fn a_process_that_appears_after_its_attempt_was_given_up_is_stopped() {
    let (mut world, one) = (World::linked(1), attempt(1, 1));
    world.assign(one, 1);
    world.hear(Heard::Stop { attempt: one, why: v1::Reason::Cancelled });
    world.tell(Event::KeeperConnected { listing: vec![] });
    assert!(matches!(world.machine.stage(one), Some(Stage::Ended(_))));
    assert_eq!(stops(&world.notice(one, Notice::Spawned(started()))), [v1::Reason::Revoked]);
}
