//! Stories of children that running tasks emit.

use super::stories::{TERMS, World, attempt, exit, fence, started};
use super::*;
use v1::report::What;
use v1::verdict::Decision;

const PARENT: (u128, u32) = (1, 1);

fn parent() -> AttemptId {
    attempt(PARENT.0, PARENT.1)
}

/// A world in which one attempt runs, and the informer knows that it does.
fn running() -> World {
    let mut world = World::linked(2);
    world.assign(parent(), 1);
    world.notice(parent(), Notice::Spawned(started()));
    world.hear(Heard::Ack { seq: 2 });
    world
}

fn child(key: &str, payload: u8) -> Emit {
    Emit { key: key.into(), digest: [payload; 32], payload: vec![payload] }
}

fn asked(ticket: u64, emit: Emit) -> Event {
    Event::EmitAsked { ticket: Ticket(ticket), attempt: parent(), fence: fence(1), emit }
}

fn answered(key: &str, answer: EmitAnswer) -> Heard {
    Heard::EmitAnswered { attempt: parent(), key: key.into(), answer }
}

/// The keys that were sent, in order.
fn sent(effects: &[Effect]) -> Vec<&str> {
    let keys = effects.iter().filter_map(|effect| match effect {
        Effect::SendEmit { emitted, .. } => Some(emitted.key.as_str()),
        _ => None,
    });
    keys.collect()
}

fn told(effects: &[Effect]) -> Vec<(u64, EmitAnswer)> {
    let answer = |effect: &Effect| match effect {
        Effect::AnswerEmit { ticket, answer } => Some((ticket.0, answer.clone())),
        _ => None,
    };
    effects.iter().filter_map(answer).collect()
}

fn ends(effects: &[Effect]) -> usize {
    let is_end = |effect: &&Effect| matches!(effect, Effect::SendReport { report, .. } if matches!(report.what, Some(What::Ended(_))));
    effects.iter().filter(is_end).count()
}

#[test]
fn a_child_is_stored_then_sent_then_answered_and_the_end_comes_after_it() {
    let mut world = running();
    let mut effects = Vec::new();
    world.machine.apply(world.now, asked(7, child("a", 1)), &mut effects);
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::SendEmit { .. }) || !effect.is_urgent()));
    world.commit(&mut effects);
    assert_eq!((sent(&effects), told(&effects)), (vec!["a"], vec![]));
    assert_eq!(world.emits.len(), 1);
    let effects = world.notice(parent(), Notice::Ended(exit(0)));
    assert_eq!(ends(&effects), 0, "its child is not answered");
    let effects = world.hear(answered("a", EmitAnswer::Taken));
    assert_eq!((told(&effects), ends(&effects)), (vec![(7, EmitAnswer::Taken)], 1));
    assert!(world.emits.is_empty());
    assert_eq!(told(&world.hear(answered("a", EmitAnswer::Taken))), [], "a repeated answer is nobody's");
}

#[test]
fn children_survive_the_agent_and_go_up_again_in_their_order() {
    let mut world = running();
    for (ticket, key) in ["b", "a", ""].into_iter().enumerate() {
        world.tell(asked(ticket as u64, child(key, 1)));
    }
    let ended = Found { attempt: parent(), note: None, state: FoundState::Ended(exit(0)) };
    let config = Config { keep_attempts: 0, ..Config::new(2) };
    world.machine = Machine::new(config, world.ledger.values().cloned()).with_emits(world.emits.values().cloned());
    world.tell(Event::KeeperConnected { listing: vec![ended] });
    world.link = LinkId(9);
    let effects = world.tell(Event::LinkOpened { link: world.link });
    let [Effect::SendHello { held, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(held[0].state(), v1::HeldState::Running, "its end is not told before its children");
    let effects =
        world.hear(Heard::Welcome { terms: TERMS, logs: v1::LogPolicy::Never, stranger: false, children: true });
    assert_eq!(sent(&effects), [""; 0], "nothing is said before the verdict");
    let effects = world.verdict(parent(), Decision::Keep);
    assert_eq!((sent(&effects), ends(&effects)), (vec!["b", "a", ""], 0));
    for key in ["b", ""] {
        assert_eq!(told(&world.hear(answered(key, EmitAnswer::Taken))), []);
    }
    let effects = world.hear(answered("a", EmitAnswer::Taken));
    assert_eq!((told(&effects), ends(&effects)), (vec![], 1));
}

#[test]
fn a_task_that_asks_again_after_its_agent_died_joins_its_own_child() {
    let mut world = running();
    world.tell(asked(1, child("a", 1)));
    let runs = Found { attempt: parent(), note: None, state: FoundState::Running(started()) };
    world.restart_agent(vec![runs]);
    let effects = world.tell(asked(2, child("a", 1)));
    assert_eq!((sent(&effects), told(&effects), world.emits.len()), (vec![], vec![], 1));
    assert_eq!(sent(&world.verdict(parent(), Decision::Keep)), ["a"]);
    assert_eq!(told(&world.hear(answered("a", EmitAnswer::Taken))), [(2, EmitAnswer::Taken)]);
}

#[test]
fn the_same_child_waits_once_and_another_payload_is_refused() {
    let mut world = running();
    world.tell(asked(1, child("a", 1)));
    let effects = world.tell(asked(2, child("a", 1)));
    assert_eq!((sent(&effects), told(&effects)), (vec![], vec![]));
    let effects = world.tell(asked(3, child("a", 2)));
    assert!(matches!(&told(&effects)[..], [(3, EmitAnswer::Refused(why))] if why.contains("another payload")));
    let effects = world.hear(answered("a", EmitAnswer::Refused("no".into())));
    let refused = || EmitAnswer::Refused("no".into());
    assert_eq!(told(&effects), [(1, refused()), (2, refused())]);
}

#[test]
fn a_copy_that_does_not_count_emits_nothing() {
    let mut world = running();
    let wrong = Event::EmitAsked { ticket: Ticket(1), attempt: parent(), fence: fence(2), emit: child("a", 1) };
    let unknown = Event::EmitAsked { ticket: Ticket(1), attempt: attempt(9, 1), fence: fence(1), emit: child("a", 1) };
    for event in [wrong, unknown] {
        assert!(matches!(&told(&world.tell(event))[..], [(1, EmitAnswer::Refused(_))]));
    }
    world.hear(Heard::Stop { attempt: parent(), why: v1::Reason::Revoked });
    assert!(matches!(&told(&world.tell(asked(2, child("a", 1))))[..], [(2, EmitAnswer::Refused(_))]));
    assert!(world.emits.is_empty());
}

#[test]
fn children_of_what_is_over_for_the_informer_are_refused_and_forgotten() {
    let mut world = running();
    world.tell(Event::LinkClosed { link: world.link });
    assert_eq!(sent(&world.tell(asked(1, child("a", 1)))), [""; 0]);
    world.notice(parent(), Notice::Ended(exit(0)));
    world.relink();
    let effects = world.verdict(parent(), Decision::Acknowledged);
    assert!(matches!(&told(&effects)[..], [(1, EmitAnswer::Refused(_))]));
    assert!(world.emits.is_empty());
}

#[test]
fn an_informer_that_knows_no_children_holds_up_nothing() {
    let mut world = running();
    world.tell(Event::LinkClosed { link: world.link });
    world.tell(asked(1, child("a", 1)));
    world.link = LinkId(9);
    world.tell(Event::LinkOpened { link: world.link });
    let effects =
        world.hear(Heard::Welcome { terms: TERMS, logs: v1::LogPolicy::Never, stranger: false, children: false });
    assert!(matches!(&told(&effects)[..], [(1, EmitAnswer::Refused(why))] if why.contains("upgrade")));
    assert!(matches!(&told(&world.tell(asked(2, child("a", 1))))[..], [(2, EmitAnswer::Refused(_))]));
    world.verdict(parent(), Decision::Keep);
    assert_eq!(ends(&world.notice(parent(), Notice::Ended(exit(0)))), 1);
}

#[test]
fn who_emits_faster_than_the_informer_takes_is_told_to_come_later() {
    let mut world = running();
    let mut on_the_wire = 0;
    for n in 0..bounds::EMITS_HELD {
        on_the_wire += sent(&world.tell(asked(n as u64, child(&n.to_string(), 1)))).len();
    }
    assert_eq!(on_the_wire, bounds::EMITS_IN_FLIGHT);
    let effects = world.tell(asked(9999, child("one more", 1)));
    assert!(matches!(&told(&effects)[..], [(9999, EmitAnswer::Later(_))]));
    let effects = world.hear(answered("0", EmitAnswer::Taken));
    let next = bounds::EMITS_IN_FLIGHT.to_string();
    assert_eq!((sent(&effects), told(&effects)), (vec![next.as_str()], vec![(0, EmitAnswer::Taken)]));
    world.tell(Event::LinkClosed { link: world.link });
    let large = Emit { payload: vec![0; bounds::EMIT_BYTES], ..child("large", 1) };
    let mut refused = 0;
    for n in 0..=bounds::EMITS_HELD_BYTES / bounds::EMIT_BYTES {
        let emit = Emit { key: format!("large {n}"), ..large.clone() };
        refused += told(&world.tell(asked(1, emit))).len();
    }
    assert!(refused > 0, "their bytes are bounded, too");
}

#[test]
fn an_end_with_a_large_result_is_told_by_its_report() {
    let mut world = World::linked(64);
    let result = vec![b' '; bounds::RESULT_BYTES];
    let fit = bounds::INVENTORY_RESULT_BYTES / bounds::RESULT_BYTES;
    for n in 1..=fit as u64 + 1 {
        let id = attempt(u128::from(n), 1);
        world.assign(id, n);
        world.notice(id, Notice::Spawned(started()));
        world.notice(id, Notice::Ended(Box::new(v1::Ending { result: result.clone(), ..*exit(0) })));
    }
    world.link = LinkId(9);
    let effects = world.tell(Event::LinkOpened { link: world.link });
    let [Effect::SendHello { held, .. }] = &effects[..] else { panic!("no hello") };
    let bytes: usize = held.iter().filter_map(|held| Some(held.ending.as_ref()?.result.len())).sum();
    assert_eq!(bytes, bounds::INVENTORY_RESULT_BYTES);
    let last = held.last().expect("it is listed");
    assert_eq!(
        (last.state(), last.progress.as_ref().map(|progress| progress.step)),
        (v1::HeldState::Running, Some(u64::MAX))
    );
    world.hear(Heard::Welcome { terms: TERMS, logs: v1::LogPolicy::Never, stranger: false, children: true });
    assert_eq!(ends(&world.verdict(attempt(fit as u128 + 1, 1), Decision::Keep)), 1);
}
