//! Children that a run's task emits through its sidecar: taken once, answered after the commit, and refused from whoever does not count.

use super::*;
use v1::informer_message::Message;

/// `a`, which emits `b`, and its join.
fn streaming() -> Value {
    let mut a = ours("a");
    a["emits"] = json!([ours("b")]);
    json!([a, {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["a"]}])
}

fn child(key: &str, input: Value) -> EmittedChild {
    let body = bytes::Bytes::from(input.to_string());
    let digest = Sha256::digest(&body).into();
    let input = Some((digest, body));
    EmittedChild { key: key.to_owned(), digest, what: Ok(Emission { name: None, input }), alone: None }
}

fn seal() -> EmittedChild {
    EmittedChild { key: String::new(), digest: Sha256::digest([]).into(), what: Ok(Emission::default()), alone: None }
}

impl Flow {
    /// Emits, and what is answered once that is committed.
    fn emit(
        &mut self,
        session: SessionId,
        (attempt, fence): (AttemptId, Fence),
        child: EmittedChild,
    ) -> (String, bool) {
        self.world.tell(Event::Emitted { session, attempt, fence, child: Box::new(child) });
        self.settle();
        let answer = self.world.effects.drain(..).find_map(|effect| match effect {
            Effect::Send { message, .. } => match message.message {
                Some(Message::EmitAnswer(answer)) => Some(answer),
                _ => None,
            },
            _ => None,
        });
        let answer = answer.expect("it is answered");
        (answer.refusal, answer.later)
    }
}

fn taken() -> (String, bool) {
    (String::new(), false)
}

#[test]
fn children_are_taken_once_and_joined_also_over_a_restart() {
    let mut flow = Flow::new();
    flow.define("w", streaming());
    flow.world.link(1, 1, 4, vec![]);
    flow.start("r", "w", json!({}));
    let (session, attempt, fence, _) = flow.assigned.remove(0);
    let parent = (attempt, fence);
    flow.world.started(session, parent);
    assert_eq!(flow.emit(session, parent, child("k", json!({"n": 1}))), taken());
    assert_eq!(flow.shows("r"), "a:IN_PROGRESS b__1:SCHEDULED");
    let input = flow.assigned[0].3.expect("it has an input");
    assert_eq!(*flow.stock.get(&Handle(input)).expect("stored"), json!({"n": 1}));
    flow.assigned.clear();
    flow.restart();
    let session = flow.world.link(1, 2, 4, vec![held(parent, running(1))]);
    flow.settle();
    // What was emitted before the restart is known after it, and another payload is not the same child.
    assert_eq!(flow.emit(session, parent, child("k", json!({"n": 1}))), taken());
    let (why, later) = flow.emit(session, parent, child("k", json!({"n": 2})));
    assert!(why.contains("another payload") && !later, "{why}");
    assert_eq!(flow.emit(session, parent, seal()), taken());
    assert_eq!(flow.emit(session, parent, seal()), taken());
    let (why, _) = flow.emit(session, parent, child("l", json!({})));
    assert!(why.contains("sealed"), "{why}");
    assert_eq!(flow.tasks.len(), 2);
    assert!(flow.shows("r").contains("j:IN_PROGRESS"), "{}", flow.shows("r"));
}

#[test]
fn nobody_emits_but_the_attempt_that_counts() {
    let mut flow = Flow::new();
    flow.define("w", streaming());
    flow.world.link(1, 1, 4, vec![]);
    flow.start("r", "w", json!({}));
    let (session, attempt, fence, _) = flow.assigned.remove(0);
    let wrong = Fence { n: fence.n + 1, ..fence };
    let (why, later) = flow.emit(session, (attempt, wrong), child("k", json!({})));
    assert!(why.contains("no longer the one that counts") && !later, "{why}");
    let strange = AttemptId { number: 7, ..attempt };
    assert!(!flow.emit(session, (strange, fence), child("k", json!({}))).0.is_empty());
    let broken = EmittedChild { what: Err("it cannot be read".to_owned()), ..child("k", json!({})) };
    assert_eq!(flow.emit(session, (attempt, fence), broken), ("it cannot be read".to_owned(), false));
    assert_eq!(flow.operate("r", Operation::Terminate { reason: None, tell: false }), Ok(None));
    assert!(!flow.emit(session, (attempt, fence), child("k", json!({}))).0.is_empty(), "its run is over");
    assert_eq!(flow.tasks.len(), 1);
}
