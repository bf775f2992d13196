//! Two processes with one id: one of them has it.

use super::*;

#[test]
fn the_newer_incarnation_wins() {
    let mut world = World::new();
    let newer = Hello { incarnation: 2, ..World::hello(1, 1) };
    let session = world.link_as(newer, 1, vec![]);
    world.effects.clear();
    world.link(1, 2, 1, vec![]);
    let [Effect::CloseLink { session: SessionId(2), refuse }] = world.effects.as_slice() else {
        panic!("the older incarnation is refused: {:?}", world.effects)
    };
    assert!(refuse.r#final);
    assert_eq!(world.machine.session_of(&SidecarId::from_u128(1).to_string()), Some(session));
}

#[test]
fn of_two_copies_of_a_sidecar_the_first_has_the_id() {
    let mut world = World::new();
    let copy = |start| Hello { start, ..World::hello(1, 1) };
    world.link_as(copy(7), 1, vec![]);
    world.effects.clear();
    world.link_as(copy(8), 2, vec![]);
    let [Effect::CloseLink { session: SessionId(2), refuse }] = world.effects.as_slice() else {
        panic!("the second is refused: {:?}", world.effects)
    };
    assert_eq!((&refuse.code[..], refuse.r#final), ("copy", true));
    // The same process again, one that is too old to tell, and one that was started since.
    for (session, hello) in [(3, copy(7)), (4, copy(0)), (5, Hello { incarnation: 2, ..copy(9) })] {
        let session = world.link_as(hello, session, vec![]);
        assert_eq!(world.machine.session_of(&SidecarId::from_u128(1).to_string()), Some(session));
    }
}

#[test]
fn a_copy_is_told_apart_after_a_restart_of_the_informer_too() {
    let mut world = World::new();
    let copy = |start| Hello { start, ..World::hello(1, 1) };
    world.link_as(copy(7), 1, vec![]);
    let batch = world.commit();
    world.machine = Machine::new(Config { epoch: 2, ..config() }, world.now, [], batch.sidecars, []);
    world.effects.clear();
    world.link_as(copy(8), 2, vec![]);
    assert!(
        matches!(&world.effects[..], [Effect::CloseLink { refuse, .. }] if refuse.code == "copy"),
        "{:?}",
        world.effects
    );
}

#[test]
fn who_lost_its_id_to_another_does_not_take_it_from_one_that_is_linked() {
    let mut world = World::new();
    let session = world.link_as(Hello { start: 1, ..World::hello(1, 1) }, 1, vec![]);
    world.effects.clear();
    let loser = || Hello { incarnation: 9, start: 2, yields: true, ..World::hello(1, 1) };
    world.link_as(loser(), 2, vec![]);
    let [Effect::CloseLink { session: SessionId(2), refuse }] = world.effects.as_slice() else {
        panic!("{:?}", world.effects)
    };
    assert_eq!((&refuse.code[..], refuse.r#final), ("copy", true));
    assert!(refuse.message.contains("only one of them may run"), "{}", refuse.message);
    world.tell(Event::LinkClosed { session });
    let third = world.link_as(loser(), 3, vec![]);
    let fourth = world.link_as(loser(), 4, vec![]);
    assert!(!world.machine.sessions.contains_key(&third), "its own older link is replaced");
    assert!(world.machine.sessions.contains_key(&fourth));
}
