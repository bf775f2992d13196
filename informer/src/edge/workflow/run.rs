//! Runs: started, read, waited for, searched.

use super::super::error::Error;
use super::{Workflows, fault, json, object, run_id, show, text};
use crate::machine::RunId;
use crate::shell::{NewStart, StartError};
use crate::store::RunFilter;
use proto::store::RunRow;
use proto::{bounds, check, v1};
use std::collections::BTreeMap;
use tokio::sync::broadcast::error::RecvError;

/// Labels of a run: those of a task's own definition come on top, and both fit a task.
const LABELS: usize = bounds::LABELS / 2;

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Definition(why) => Self::Definition(why),
            StartError::Shell(error) => Self::Shell(error),
        }
    }
}

impl Workflows {
    pub(in super::super) async fn on_start(&self, request: v1::StartRunRequest) -> Result<v1::StartRunResponse, Error> {
        check::label_filter(&request.labels)?;
        if request.labels.len() > LABELS {
            let problem = format!("{} entries are over the bound", request.labels.len());
            return Err(fault("labels", problem, &format!("use at most {LABELS}")));
        }
        if !(-bounds::PRIORITY..=bounds::PRIORITY).contains(&request.priority) {
            let remedy = format!("use {} to {}", -bounds::PRIORITY, bounds::PRIORITY);
            return Err(fault("priority", format!("{} is out of range", request.priority), &remedy));
        }
        let definition = json("definition", &request.definition, bounds::DEFINITION_BYTES)?;
        if request.name.is_empty() && definition.is_none() {
            return Err(fault("name", "it is empty", "name a registered workflow"));
        }
        let new = NewStart {
            id: super::super::submit::fresh_id().to_string(),
            name: text("name", request.name)?.unwrap_or_default(),
            version: (request.version > 0).then_some(request.version),
            definition,
            input: object("input", &request.input)?,
            correlation: text("correlation", request.correlation)?,
            owner: text("owner", request.owner)?.unwrap_or_else(|| "anonymous".to_owned()),
            labels: request.labels,
            priority: request.priority,
            key: check::key(request.key)?,
        };
        let known_fails = match v1::KnownKey::try_from(request.on_known_key) {
            Ok(v1::KnownKey::Unspecified | v1::KnownKey::Return) => false,
            Ok(v1::KnownKey::Fail) => true,
            Err(_) => {
                let problem = format!("{} is none", request.on_known_key);
                return Err(fault("on_known_key", problem, "use the numbers of informer.v1.KnownKey"));
            }
        };
        let (run, existed) = self.edge.handle.start_run(new).await?;
        if existed && known_fails {
            return Err(Error::KnownKey(run.to_string()));
        }
        Ok(v1::StartRunResponse { id: run.to_string(), existed })
    }

    pub(in super::super) async fn row(&self, id: &RunId) -> Result<RunRow, Error> {
        let row = self.edge.handle.run(id).await?;
        row.ok_or_else(|| Error::UnknownRun(id.to_string()))
    }

    pub(in super::super) async fn on_get(&self, request: v1::GetRunRequest) -> Result<v1::Run, Error> {
        show::whole(&self.edge.handle, &self.row(&run_id(&request.id)?).await?).await
    }

    /// The run once it is over: read again after each of its changes.
    pub(in super::super) async fn on_wait(&self, request: v1::GetRunRequest) -> Result<v1::Run, Error> {
        show::whole(&self.edge.handle, &self.over(run_id(&request.id)?).await?).await
    }

    /// The row of a run once it is over.
    pub(super) async fn over(&self, id: RunId) -> Result<RunRow, Error> {
        // Before the first look: what changes after it is told.
        let mut changes = self.edge.handle.run_changes();
        loop {
            let row = self.row(&id).await?;
            if row.ended_unix_ms > 0 {
                return Ok(row);
            }
            loop {
                let changed = tokio::select! {
                    changed = changes.recv() => changed,
                    stopped = self.edge.stopped() => return Err(stopped),
                };
                match changed {
                    Ok(changed) if changed.run != id => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return Err(Error::Stopping),
                }
            }
        }
    }

    pub(in super::super) async fn on_tasks(&self, request: v1::RunTasksRequest) -> Result<v1::RunTasksResponse, Error> {
        let id = run_id(&request.id)?;
        let limit = check::page_size(request.page_size)? as usize;
        let from = token(&request.page_token)?;
        let row = self.row(&id).await?;
        let steps = self.edge.handle.run_steps(&id, from, limit).await?;
        let steps = steps.ok_or_else(|| Error::UnknownRun(id.to_string()))?;
        let mut tasks: Vec<_> = show::tasks(&row, &steps).collect();
        if !request.bare {
            let by_id: BTreeMap<_, _> = steps.steps.iter().map(|step| (format!("{id}.{}", step.step), step)).collect();
            let handles = steps.steps.iter().flat_map(|step| [step.input, step.output]).flatten();
            let found = self.edge.handle.bodies(handles.map(|handle| handle.0).collect()).await?;
            show::fill(&mut tasks, &by_id, &found);
        }
        let full = steps.steps.len() == limit;
        let next = steps.steps.last().filter(|_| full).map(|step| (step.step + 1).to_string());
        Ok(v1::RunTasksResponse { tasks, next_page_token: next.unwrap_or_default() })
    }

    pub(in super::super) async fn on_run_history(
        &self,
        request: v1::RunHistoryRequest,
    ) -> Result<v1::RunHistoryResponse, Error> {
        let id = run_id(&request.id)?;
        let limit = check::page_size(request.page_size)?;
        self.row(&id).await?;
        let rows = self.edge.handle.run_events(&id, token(&request.page_token)?, limit).await?;
        let payload = |row: &proto::store::RunEventRow| <[u8; 32]>::try_from(row.payload.as_slice()).ok();
        let found = self.edge.handle.bodies(rows.iter().filter_map(payload).collect()).await?;
        let full = rows.len() == limit as usize;
        let next = rows.last().filter(|_| full).map(|row| row.seq.to_string());
        let mut left = bounds::RUN_PAGE_BYTES;
        let events = rows.into_iter().map(|row| {
            let body = payload(&row).and_then(|handle| found.get(&handle)).filter(|body| body.len() <= left);
            left -= body.map_or(0, |body| body.len());
            let payload = body.map(|body| show::text(body)).unwrap_or_default();
            v1::RunEvent { seq: row.seq, unix_ms: row.unix_ms, kind: row.kind, detail: row.detail, payload }
        });
        Ok(v1::RunHistoryResponse { events: events.collect(), next_page_token: next.unwrap_or_default() })
    }

    pub(in super::super) async fn on_search(
        &self,
        request: v1::SearchRunsRequest,
    ) -> Result<v1::SearchRunsResponse, Error> {
        let page = self.edge.handle.runs(filter(request)?).await?;
        Ok(v1::SearchRunsResponse {
            runs: page.rows.iter().map(show::run).collect(),
            next_page_token: page.next.unwrap_or_default(),
        })
    }
}

/// A page token that is a number; empty: from the start.
fn token(token: &str) -> Result<u32, Error> {
    if token.is_empty() {
        return Ok(0);
    }
    token.parse().map_err(|_| fault("page_token", "it is none of ours", "use the one that the page before told"))
}

fn filter(request: v1::SearchRunsRequest) -> Result<RunFilter, Error> {
    check::label_filter(&request.labels)?;
    if request.input.len() > bounds::LABELS {
        let problem = format!("{} fields are over the bound", request.input.len());
        return Err(fault("input", problem, &format!("use at most {}", bounds::LABELS)));
    }
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let time = |unix_ms: u64| Some(unix_ms).filter(|unix_ms| *unix_ms > 0);
    let statuses = request.statuses.iter().map(|status| match v1::RunStatus::try_from(*status) {
        Ok(status) if status != v1::RunStatus::Unspecified => Ok(status),
        _ => Err(fault("statuses", format!("{status} is no status"), "use the numbers of informer.v1.RunStatus")),
    });
    Ok(RunFilter {
        statuses: statuses.collect::<Result<_, _>>()?,
        name: given(request.name),
        version: (request.version > 0).then_some(request.version),
        owner: given(request.owner),
        correlation: given(request.correlation),
        labels: request.labels,
        parent: given(request.parent),
        started_after_unix_ms: time(request.started_after_unix_ms),
        started_before_unix_ms: time(request.started_before_unix_ms),
        reason: given(request.reason),
        text: given(request.text),
        input: request.input,
        page_size: check::page_size(request.page_size)?,
        before: given(request.page_token),
    })
}
