//! Runs that runs start: sub-workflows, and workflows that are told of a failure.

use super::*;

fn sub(name: &str) -> Value {
    json!({"name": "sub", "taskReferenceName": "sub", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": name}})
}

#[test]
fn a_child_starts_and_ends_in_the_batch_of_its_parents_step() {
    let mut flow = Flow::new();
    flow.define("child", json!([simple("a")]));
    flow.define("w", json!([sub("child")]));
    flow.start("r", "w", json!({}));
    assert_eq!(flow.rows["r.0"].row.parent, "r");
    assert_eq!(flow.rows["r.0"].row.labels, flow.rows["r"].row.labels);
    assert_eq!(flow.shows("r"), "sub:IN_PROGRESS");
    let work = flow.poll("a", 0).remove(0);
    let output = flow.put(json!({"y": 1}));
    let (run, step) = (work.run.clone(), work.step);
    flow.world.tell(
        FlowEvent::WorkUpdated { ticket: Ticket(6), run, step, stored: Vec::new(), update: completed(output) }.into(),
    );
    let batch = flow.commit();
    assert_eq!(batch.runs.len(), 2, "parent and child move together");
    flow.settle();
    assert_eq!((flow.status("r.0"), flow.status("r")), (RunStatus::Completed, RunStatus::Completed));
    assert_eq!(flow.output("r"), json!({"y": 1}));
}

#[test]
fn a_child_of_a_workflow_that_nobody_registered_is_refused_clearly() {
    let mut flow = Flow::new();
    flow.define("w", json!([sub("nobody")]));
    flow.start("r", "w", json!({}));
    assert_eq!(flow.shows("r"), "sub:FAILED");
    assert_eq!(flow.status("r"), RunStatus::Failed);
}

#[test]
fn a_child_is_terminated_with_its_parent() {
    let mut flow = Flow::new();
    flow.define("child", json!([simple("a")]));
    flow.define("w", json!([sub("child")]));
    flow.start("r", "w", json!({}));
    assert_eq!(flow.operate("r", Operation::Terminate { reason: None, tell: true }), Ok(None));
    assert_eq!(flow.status("r.0"), RunStatus::Terminated);
    assert_eq!(flow.poll("a", 0), []);
}

#[test]
fn a_retry_brings_back_a_child_that_left_memory_and_its_parent_with_it() {
    let mut flow = Flow::new();
    flow.define("child", json!([simple("a")]));
    flow.define("w", json!([sub("child")]));
    flow.start("r", "w", json!({}));
    let fail = WorkUpdate::End { status: TaskStatus::FailedWithTerminalError, output: None, reason: None };
    let work = flow.poll("a", 0).remove(0);
    flow.update(&work, fail.clone());
    assert_eq!((flow.status("r.0"), flow.status("r")), (RunStatus::Failed, RunStatus::Failed));
    assert_eq!(flow.world.machine.runs_held(), 0);
    assert_eq!(flow.operate_as("r", Operation::Retry, "k"), Ok(None));
    assert_eq!((flow.status("r.0"), flow.status("r")), (RunStatus::Running, RunStatus::Running));
    assert_eq!(flow.operate_as("r", Operation::Retry, "k"), Ok(None), "the same retry");
    // The child itself is retried: its parent goes on with it.
    let work = flow.poll("a", 0).remove(0);
    flow.update(&work, fail);
    assert_eq!(flow.operate("r.0", Operation::Retry), Ok(None));
    assert_eq!((flow.status("r.0"), flow.status("r")), (RunStatus::Running, RunStatus::Running));
    let work = flow.poll("a", 0).remove(0);
    flow.update(&work, completed(None));
    assert_eq!((flow.status("r.0"), flow.status("r")), (RunStatus::Completed, RunStatus::Completed));
}

#[test]
fn a_failure_workflow_starts_even_if_the_informer_dies_in_between() {
    let mut flow = Flow::new();
    flow.define("told", json!([simple("b")]));
    flow.definitions.insert("w".into(), json!({"name": "w", "tasks": [simple("a")], "failureWorkflow": "told"}));
    flow.start("r", "w", json!({}));
    let work = flow.poll("a", 0).remove(0);
    let fail = WorkUpdate::End { status: TaskStatus::FailedWithTerminalError, output: None, reason: None };
    let (run, step) = (work.run.clone(), work.step);
    flow.world.tell(FlowEvent::WorkUpdated { ticket: Ticket(6), run, step, stored: Vec::new(), update: fail }.into());
    flow.commit();
    // Its output is computed, committed, and then the informer dies before the other has started.
    let question = flow.world.effects.iter().find_map(|effect| match effect {
        Effect::Evaluate { run, question, plan } => Some((run.clone(), question.clone(), plan.clone())),
        _ => None,
    });
    let (run, question, plan) = question.expect("the end is computed");
    let tools = Tools { bodies: &flow.stock, scripts: &flow.stock, registry: &flow.stock };
    let answer = Box::new(evaluate::answer(&question, &plan, tools));
    let (step, ticket) = (question.step, question.ticket);
    flow.world.tell(FlowEvent::Evaluated { run, step, ticket, answer, templates: Arc::default() }.into());
    flow.commit();
    assert_eq!(flow.status("r"), RunStatus::Failed);
    flow.restart();
    assert_eq!(flow.status("r.failure0"), RunStatus::Running);
    assert_eq!(flow.world.machine.runs_held(), 1, "the failed one has nothing left to do");
    flow.restart();
    assert_eq!(flow.poll("b", 0).len(), 1);
}
