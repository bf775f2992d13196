//! Random walks: any event at any time leaves every invariant standing.

use super::stories::{TERMS, World, attempt, exit, fence, started};
use super::*;
use proptest::prelude::*;
use v1::verdict::Decision;

fn ids() -> impl Strategy<Value = AttemptId> {
    (1..5_u128, 1..3_u32).prop_map(|(task, number)| attempt(task, number))
}

fn endings() -> impl Strategy<Value = Box<v1::Ending>> {
    (0..3, 0..2_usize).prop_map(|(code, outputs)| {
        Box::new(v1::Ending { outputs: vec![v1::StagedOutput::default(); outputs], out_bytes: 10, ..*exit(code) })
    })
}

fn reasons() -> impl Strategy<Value = v1::Reason> {
    prop::sample::select(vec![v1::Reason::Cancelled, v1::Reason::Revoked, v1::Reason::Drained, v1::Reason::Timeout])
}

fn policies() -> impl Strategy<Value = v1::LogPolicy> {
    use v1::LogPolicy::{Always, Never, OnFailure, Unspecified};
    prop::sample::select(vec![Always, Always, OnFailure, Never, Unspecified])
}

fn keys() -> impl Strategy<Value = String> {
    prop::sample::select(vec![String::new(), "a".to_owned(), "b".to_owned()])
}

fn answers() -> impl Strategy<Value = EmitAnswer> {
    prop::sample::select(vec![EmitAnswer::Taken, EmitAnswer::Refused("no".into()), EmitAnswer::Later("full".into())])
}

fn words() -> impl Strategy<Value = Heard> {
    let decisions = prop::sample::select(vec![
        Decision::Keep,
        Decision::Stop,
        Decision::Acknowledged,
        Decision::SetAside,
        Decision::Publish,
    ]);
    prop_oneof![
        1 => (policies(), any::<bool>(), any::<bool>()).prop_map(|(logs, stranger, children)| {
            Heard::Welcome { terms: TERMS, logs, stranger, children }
        }),
        3 => (ids(), decisions, reasons())
            .prop_map(|(attempt, decision, why)| Heard::Verdict { attempt, decision, why }),
        3 => (1..40_u64).prop_map(|seq| Heard::BeatAck { seq, terms: TERMS }),
        6 => (ids(), 1..9_u64, any::<bool>()).prop_map(|(attempt, n, stop_on_disconnect)| {
            Heard::Assign { attempt, fence: fence(n), facts: Facts { stop_on_disconnect } }
        }),
        1 => (ids(), reasons()).prop_map(|(attempt, why)| Heard::Stop { attempt, why }),
        2 => (ids(), 1..9_u64).prop_map(|(attempt, n)| Heard::Publish { attempt, fence: fence(n) }),
        6 => (0..30_u64).prop_map(|seq| Heard::Ack { seq }),
        4 => (ids(), keys(), answers()).prop_map(|(attempt, key, answer)| Heard::EmitAnswered { attempt, key, answer }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(on, stop_running)| Heard::Drain { on, stop_running }),
    ]
}

fn notices() -> impl Strategy<Value = Notice> {
    use Refusal::{Exists, Failed, Input, NoLease, NotHere, Task, Terminating};
    let refusals = prop::sample::select(vec![Exists, NoLease, Terminating, NotHere, Failed, Input, Task]);
    prop_oneof![
        3 => Just(Notice::Spawned(started())),
        1 => refusals.prop_map(|refusal| Notice::Refused { refusal, message: "no".into() }),
        3 => endings().prop_map(Notice::Ended),
        1 => Just(Notice::Lost),
        1 => Just(Notice::Prepared),
    ]
}

fn listings() -> impl Strategy<Value = Vec<Found>> {
    let states = prop_oneof![
        Just(FoundState::Starting),
        Just(FoundState::Running(started())),
        endings().prop_map(FoundState::Ended),
        Just(FoundState::Lost),
    ];
    let note = Note { fence: fence(2), facts: Facts::default() };
    let found =
        (ids(), prop::option::of(Just(note)), states).prop_map(|(attempt, note, state)| Found { attempt, note, state });
    prop::collection::vec(found, 0..4)
}

#[derive(Debug, Clone)]
enum Move {
    Tell(Event),
    Hear(Heard),
    Relink,
    Pass(u64),
    Restart(Vec<Found>),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        20 => words().prop_map(Move::Hear),
        10 => (ids(), notices()).prop_map(|(attempt, notice)| Move::Tell(Event::Noticed { attempt, notice })),
        2 => listings().prop_map(|listing| Move::Tell(Event::KeeperConnected { listing })),
        1 => Just(Move::Tell(Event::KeeperGone)),
        2 => (ids(), prop::option::of(Just("disk full".to_owned())))
            .prop_map(|(attempt, failure)| Move::Tell(Event::OutputsPublished { attempt, failure })),
        2 => ids().prop_map(|attempt| Move::Tell(Event::Purged { attempt })),
        2 => (ids(), prop::option::of(Just("disk full".to_owned())))
            .prop_map(|(attempt, failure)| Move::Tell(Event::LogSent { attempt, failure })),
        1 => any::<bool>().prop_map(|room| Move::Tell(Event::DiskSeen { room })),
        1 => any::<bool>().prop_map(|written| Move::Tell(Event::LeasePageSeen { written })),
        1 => ids().prop_map(|attempt| Move::Tell(Event::Condemned { attempt, why: v1::Reason::Unhealthy })),
        1 => ids().prop_map(|attempt| {
            Move::Tell(Event::Progressed { attempt, progress: v1::Progress::default() })
        }),
        8 => (ids(), 1..9_u64, keys(), 0..2_u8).prop_map(|(attempt, n, key, payload)| {
            let emit = Emit { key, digest: [payload; 32], payload: vec![payload] };
            Move::Tell(Event::EmitAsked { ticket: Ticket(n), attempt, fence: fence(n), emit })
        }),
        2 => Just(Move::Relink),
        4 => (0..2_000_u64).prop_map(Move::Pass),
        1 => listings().prop_map(Move::Restart),
    ]
}

/// Held attempts never vanish without the informer's word: what a step may remove is only what was purged.
fn step(world: &mut World, step: Move) -> Vec<Effect> {
    match step {
        Move::Tell(event) => world.tell(event),
        Move::Hear(heard) => world.hear(heard),
        Move::Relink => {
            world.relink();
            Vec::new()
        }
        Move::Pass(ms) => world.pass(ms),
        Move::Restart(listing) => {
            world.restart_agent(listing);
            Vec::new()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// `World` checks every invariant after each event and each commit. Here: no start without a lease and a durable row, none while a
    /// start is out, and the machine rebuilt from the ledger holds what it held.
    #[test]
    fn any_event_at_any_time_keeps_the_invariants(slots in 1..4_u32, moves in prop::collection::vec(moves(), 1..120)) {
        let mut world = World::linked(slots);
        for one in moves {
            for effect in step(&mut world, one) {
                let Effect::StartAttempt { attempt, .. } = effect else { continue };
                prop_assert!(world.machine.lease_deadline_ms() > world.now.boot_ms, "{attempt} starts without a lease");
                prop_assert!(world.ledger.contains_key(&attempt), "{attempt} starts without a row");
            }
            for (id, row) in &world.ledger {
                let rebuilt = Attempt::from_row(row.clone()).1.to_row(*id);
                prop_assert_eq!(&rebuilt, row);
                prop_assert!(world.machine.holds(*id), "{} is in the ledger alone", id);
            }
        }
    }
}
