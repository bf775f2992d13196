//! What keeps a sidecar from its work: what it cannot name, and a lease page that cannot be written.

use super::*;

#[test]
fn a_sidecar_that_cannot_write_its_lease_page_takes_nothing_and_hands_back_what_crossed_that() {
    let (mut world, one, two) = (World::linked(2), attempt(1, 1), attempt(2, 1));
    world.hear(Heard::Assign { attempt: one, fence: fence(1), facts: Facts { stop_on_disconnect: true } });
    world.tell(Event::LeasePageSeen { written: false });
    world.pass(50);
    assert_eq!(world.machine.told_room, Some((false, 0)), "told before the next beat is due");
    let handed_back = |effects: &[Effect]| {
        effects.iter().any(|effect| match effect {
            Effect::SendReport { report, .. } => {
                matches!(&report.what, Some(v1::report::What::Refused(refused)) if refused.handed_back)
            }
            _ => false,
        })
    };
    // The keeper found no lease there: the first one comes back; so does one that was on its way.
    let refused = Notice::Refused { refusal: Refusal::NoLease, message: "no".into() };
    assert!(handed_back(&world.tell(Event::Noticed { attempt: one, notice: refused })));
    let effects = world.hear(Heard::Assign { attempt: two, fence: fence(2), facts: Facts::default() });
    assert!(handed_back(&effects), "{effects:?}");
    world.tell(Event::LeasePageSeen { written: true });
    world.pass(50);
    assert_eq!(world.machine.told_room, Some((true, 0)));
}

#[test]
fn what_runs_and_nobody_can_name_is_ended_before_the_hello() {
    let hello = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::SendHello { .. }));
    let (one, two) = (attempt(1, 1), attempt(2, 1));
    let found = |state| vec![Found { attempt: one, note: None, state }];
    for over in [Notice::Ended(exit(0)), Notice::Lost] {
        let mut world = World::linked(2);
        world.machine = Machine::new(Config::new(2), []);
        let effects = world.tell(Event::KeeperConnected { listing: found(FoundState::Running(started())) });
        let ended = |effect: &Effect| matches!(effect, Effect::EndUnnamed { attempt, .. } if *attempt == one);
        assert!(effects.iter().any(ended) && !hello(&effects), "{effects:?}");
        assert!(!hello(&world.tell(Event::LinkOpened { link: LinkId(9) })));
        assert_eq!(world.tell(Event::Noticed { attempt: one, notice: Notice::Spawned(started()) }), []);
        assert_eq!(world.tell(Event::Noticed { attempt: two, notice: Notice::Lost }), []);
        assert!(hello(&world.tell(Event::Noticed { attempt: one, notice: over })));
    }
    // Over already, or too slow to end.
    for (state, waits) in [(FoundState::Lost, false), (FoundState::Starting, true)] {
        let mut world = World::linked(2);
        world.machine = Machine::new(Config::new(2), []);
        world.tell(Event::KeeperConnected { listing: found(state) });
        assert_eq!(hello(&world.tell(Event::LinkOpened { link: LinkId(9) })), !waits);
        let at_ms = world.machine.next_wakeup();
        assert_eq!(at_ms.is_some(), waits);
        if let Some(at_ms) = at_ms {
            world.now.boot_ms = at_ms;
            assert!(hello(&world.tell(Event::TimePassed)));
            assert_eq!(world.machine.next_wakeup(), None);
        }
    }
}
