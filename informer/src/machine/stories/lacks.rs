//! A sidecar that says for want of what it takes nothing.

use super::*;

#[test]
fn what_a_sidecar_hands_back_is_charged_to_nobody_and_waits_for_one_that_takes_it() {
    let once = v1::Retry { no_infrastructure_retry: true, ..Default::default() };
    for retry in [None, Some(once)] {
        let mut world = World::new();
        let session = world.link(1, 1, 1, vec![]);
        let task = world.submit(store::Facts { retry, stop_on_disconnect: true, ..facts() });
        for _ in 0..5 {
            let attempt = world.one_assigned();
            world.report(session, attempt, Report::HandedBack("its sidecar cannot write its lease page".into()));
            assert_eq!(world.assigned(), [], "it takes nothing");
            let why = world.machine.why(world.now, task).expect("it waits");
            let told = format!("{} {:?}", why.summary, why.details);
            assert!(told.contains("takes nothing, for it cannot write its lease page"), "{told}");
            let row = world.row(task);
            assert_eq!((row.infra_failures, row.own_failures), (0, 0));
            world.beat(session, 1);
        }
        let attempt = world.one_assigned();
        world.started(session, attempt);
        assert_eq!(world.state(task), v1::TaskState::Running);
    }
}
