//! Children of tasks of no workflow: tasks by themselves, known by parent and key.

use super::*;

fn emitted(key: &str, digest: u8, stored: Vec<store::TaskRow>) -> EmittedChild {
    let body = bytes::Bytes::from_static(b"spec");
    let template = Template { payload: [digest; 32], facts: facts() };
    let alone = Some(Box::new(Alone { stored, made: Ok((template, body)) }));
    let what = Ok(Emission { name: Some("piece".to_owned()), input: None });
    EmittedChild { key: key.to_owned(), digest: [digest; 32], what, alone }
}

impl World {
    fn emit(&mut self, session: SessionId, (attempt, fence): (AttemptId, Fence), child: EmittedChild) -> String {
        self.tell(Event::Emitted { session, attempt, fence, child: Box::new(child) });
        let mut answers = self.messages().into_iter().filter_map(|message| match message {
            Message::EmitAnswer(answer) => Some(answer.refusal),
            _ => None,
        });
        answers.next_back().expect("it is answered")
    }
}

#[test]
fn a_child_is_a_task_of_its_parent_and_is_known_when_it_is_over_and_forgotten() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let parent = world.submit(store::Facts { owner: "ops".into(), priority: 3, ..facts() });
    let attempt = world.one_assigned();
    world.started(session, attempt);
    assert_eq!(world.emit(session, attempt, emitted("k", 1, Vec::new())), "");
    let child = child_id(parent, "k");
    let row = world.row(child);
    let known = row.facts.clone().expect("facts");
    assert_eq!((known.owner.as_str(), known.priority), ("ops", 3));
    assert_eq!(known.labels[proto::bounds::PARENT_LABEL], parent.to_string());
    assert_eq!(row.child.as_ref().map(|child| child.parent.clone()), Some(parent.to_bytes().to_vec()));
    assert_eq!(world.emit(session, attempt, emitted("k", 1, Vec::new())), "", "the same again");
    assert!(world.emit(session, attempt, emitted("k", 2, Vec::new())).contains("another payload"));
    assert_eq!(world.row(parent).children, 1);
    // It is over and out of memory; the store tells that it was there.
    let cancel = Event::CancelRequested { ticket: Ticket(2), task: child, stored: Vec::new(), reason: String::new() };
    world.tell(cancel);
    let over = world.row(child);
    world.commit();
    assert_eq!(world.emit(session, attempt, emitted("k", 1, vec![over.clone()])), "");
    assert!(world.emit(session, attempt, emitted("k", 2, vec![over])).contains("another payload"));
    assert_eq!(world.row(parent).children, 1);
}

#[test]
fn who_cancels_a_task_means_its_children_and_its_end_is_none_of_theirs() {
    let mut world = World::new();
    let session = world.link(1, 1, 1, vec![]);
    let parent = world.submit(facts());
    let attempt = world.one_assigned();
    world.started(session, attempt);
    assert_eq!(world.emit(session, attempt, emitted("k", 1, Vec::new())), "");
    world.report(session, attempt, Report::Ended(Box::new(exit(0))));
    world.commit();
    let child = child_id(parent, "k");
    assert_eq!(world.state(child), v1::TaskState::Assigned, "its parent has ended, and it goes on");
    let second = world.submit(facts());
    let assigned = world.one_assigned();
    world.report(session, assigned, Report::Ended(Box::new(exit(0))));
    let attempt = world.one_assigned();
    assert_eq!(attempt.0.task, second);
    assert_eq!(world.emit(session, attempt, emitted("l", 1, Vec::new())), "");
    let cancel =
        Event::CancelRequested { ticket: Ticket(2), task: second, stored: Vec::new(), reason: "enough".into() };
    world.tell(cancel);
    assert_eq!(world.state(child_id(second, "l")), v1::TaskState::Cancelled);
    assert!(!world.emit(session, attempt, emitted("m", 1, Vec::new())).is_empty(), "it is being stopped");
}
