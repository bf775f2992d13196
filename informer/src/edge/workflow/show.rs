//! Rows as clients see them.

use super::super::error::Error;
use crate::machine::{PayloadHandle, RunId};
use crate::shell::{Handle, Steps};
use bytes::Bytes;
use proto::store::RunRow;
use proto::{bounds, v1};
use std::collections::BTreeMap;
use workflow::definition::Kind;
use workflow::plan::{Node, NodeId};
use workflow::run::{StepRow, TaskStatus};

/// Bytes of one body that is shown with its run.
const BODY_BYTES: usize = bounds::MESSAGE_BYTES / 4;

/// Bytes that are UTF-8, as everything is that we store as JSON.
pub(in super::super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a run's own row tells; `None`: it is none of ours.
pub(in super::super) fn own(row: &RunRow) -> Option<workflow::run::RunRow> {
    serde_json::from_slice(&row.body).ok()
}

/// A run without its bodies.
pub(in super::super) fn run(row: &RunRow) -> v1::Run {
    let own = own(row);
    let parent = own.as_ref().and_then(|own| own.parent.as_ref());
    v1::Run {
        id: row.id.clone(),
        name: row.name.clone(),
        version: row.version,
        status: row.status,
        owner: row.owner.clone(),
        correlation: row.correlation.clone(),
        labels: row.labels.clone(),
        parent: row.parent.clone(),
        parent_task: parent.map(|parent| format!("{}.{}", parent.run, parent.step)).unwrap_or_default(),
        started_unix_ms: row.started_unix_ms,
        ended_unix_ms: row.ended_unix_ms,
        reason: own.as_ref().and_then(|own| own.reason.clone()).unwrap_or_default(),
        failed_task: own.and_then(|own| own.failed_step).map(|step| format!("{}.{step}", row.id)).unwrap_or_default(),
        priority: row.priority,
        key: row.key.clone(),
        ..v1::Run::default()
    }
}

/// A run with its bodies, as far as they fit.
pub(in super::super) async fn whole(handle: &Handle, row: &RunRow) -> Result<v1::Run, Error> {
    let mut shown = run(row);
    let Some(own) = own(row) else { return Ok(shown) };
    let handles = [own.input, own.output, own.variables];
    let wanted: Vec<PayloadHandle> = handles.iter().flatten().map(|handle| handle.0).collect();
    let found = handle.bodies(wanted).await?;
    let mut show = |handle: Option<workflow::evaluate::Handle>| match handle.map(|handle| found.get(&handle.0)) {
        None => "{}".to_owned(),
        Some(Some(body)) if body.len() <= BODY_BYTES => text(body),
        Some(_) => {
            shown.omitted = true;
            String::new()
        }
    };
    let [input, output, variables] = handles.map(&mut show);
    (shown.input, shown.variables) = (input, variables);
    shown.output = if row.ended_unix_ms > 0 { output } else { String::new() };
    if let Some(step) = own.failed_step
        && let Some(steps) = handle.run_steps(&RunId::from(row.id.as_str()), step, 1).await?
        && let Some(task) = tasks(row, &steps).next()
    {
        shown.failed_task = task.reference;
    }
    Ok(shown)
}

/// The steps that show, without their bodies.
pub(in super::super) fn tasks<'s>(row: &'s RunRow, steps: &'s Steps) -> impl Iterator<Item = v1::RunTask> + 's {
    let shown = steps.steps.iter().filter(|step| step.mapped || step.is_live());
    shown.filter_map(move |step| task(&row.id, step, steps))
}

fn task(run: &str, step: &StepRow, steps: &Steps) -> Option<v1::RunTask> {
    let node = |id: NodeId| -> Option<&Node> { steps.plans.get(id.part as usize)?.node(id.node) };
    let own = node(step.node)?;
    let spec = match (&own.kind, step.resolved) {
        (Kind::Dynamic { .. }, Some(named)) => node(named)?,
        _ => own,
    };
    let mut reference = own.reference.clone();
    for round in &step.scope {
        reference.push_str(&format!("__{round}"));
    }
    let works = matches!(spec.kind, Kind::Simple | Kind::Http);
    Some(v1::RunTask {
        id: format!("{run}.{}", step.step),
        reference,
        name: spec.name.clone(),
        r#type: spec.kind.type_name().to_owned(),
        status: step.status.as_str().to_owned(),
        reason: step.reason.clone().unwrap_or_default(),
        retry_count: step.retry_count,
        retried_from: step.retried_from.map(|from| format!("{run}.{from}")).unwrap_or_default(),
        scheduled_unix_ms: step.scheduled_ms,
        started_unix_ms: step.started_ms.unwrap_or(0),
        ended_unix_ms: step.ended_ms.unwrap_or(0),
        child: step.child.clone().unwrap_or_default(),
        task: if works { crate::machine::work_id(run, step).to_string() } else { String::new() },
        worker: step.worker.clone().unwrap_or_default(),
        iteration: if step.iteration > 0 { step.iteration } else { step.scope.last().copied().unwrap_or(0) },
        due_unix_ms: step.due_ms.filter(|_| step.is_live()).unwrap_or(0),
        ..v1::RunTask::default()
    })
}

/// Fills bodies in, until a page is full.
pub(in super::super) fn fill(
    tasks: &mut [v1::RunTask],
    steps: &BTreeMap<String, &StepRow>,
    found: &BTreeMap<PayloadHandle, Bytes>,
) {
    let mut left = bounds::RUN_PAGE_BYTES;
    for task in tasks {
        let Some(step) = steps.get(&task.id) else { continue };
        let mut omitted = false;
        let mut show = |handle: Option<workflow::evaluate::Handle>| match handle {
            None => "{}".to_owned(),
            Some(handle) => match found.get(&handle.0).filter(|body| body.len() <= left) {
                Some(body) => {
                    left -= body.len();
                    text(body)
                }
                None => {
                    omitted = true;
                    String::new()
                }
            },
        };
        task.input = show(step.input);
        task.output = show(step.output);
        task.omitted = omitted;
    }
}

/// Conductor's spelling of a status.
pub(in super::super) fn status(word: &str) -> Option<TaskStatus> {
    use TaskStatus as S;
    let all = [S::InProgress, S::Completed, S::Failed, S::FailedWithTerminalError];
    all.into_iter().find(|status| status.as_str() == word)
}
