//! What Conductor does not have: flow charts, histories, and why a run stands where it stands.

use super::Rest;
use super::answer::{self, Answer, Refusal};
use super::query::Query;
use crate::edge::error::Error;
use axum::extract::{Path, State};
use proto::v1;
use serde_json::{Value, json};

/// Lines of a history unless it is said otherwise.
const LINES: u32 = 100;

fn of_run(id: String) -> v1::ChartRequest {
    v1::ChartRequest { id, ..v1::ChartRequest::default() }
}

fn of_definition(name: String, query: &Query) -> Result<v1::ChartRequest, Refusal> {
    Ok(v1::ChartRequest { name, version: query.get("version")?.unwrap_or(0), ..v1::ChartRequest::default() })
}

async fn drawn(rest: &Rest, request: v1::ChartRequest) -> Answer {
    let chart = rest.flows.chart(request).await?;
    let drawn = tokio::task::spawn_blocking(move || chart.svg()).await;
    Ok(answer::of("image/svg+xml", drawn.map_err(|_| Error::Panicked)?))
}

pub(super) async fn chart(State(rest): State<Rest>, Path(id): Path<String>) -> Answer {
    Ok(answer::json(&json!(rest.flows.chart(of_run(id)).await?)))
}

pub(super) async fn picture(State(rest): State<Rest>, Path(id): Path<String>) -> Answer {
    drawn(&rest, of_run(id)).await
}

pub(super) async fn chart_of(State(rest): State<Rest>, Path(name): Path<String>, query: Query) -> Answer {
    Ok(answer::json(&json!(rest.flows.chart(of_definition(name, &query)?).await?)))
}

pub(super) async fn picture_of(State(rest): State<Rest>, Path(name): Path<String>, query: Query) -> Answer {
    drawn(&rest, of_definition(name, &query)?).await
}

pub(super) async fn why(State(rest): State<Rest>, Path(id): Path<String>) -> Answer {
    let why = rest.flows.on_why_run(v1::WhyRunRequest { id }).await?;
    let task = |task: &v1::WhyTask| json!({"taskId": task.id, "referenceTaskName": task.reference, "status": task.status, "why": task.why});
    let tasks: Value = why.tasks.iter().map(task).collect();
    Ok(answer::json(&json!({"summary": why.summary, "tasks": tasks, "more": why.more})))
}

/// What was done to a run, oldest first; `start` is the last line that is known.
pub(super) async fn history(State(rest): State<Rest>, Path(id): Path<String>, query: Query) -> Answer {
    let page_token = query.get::<u32>("start")?.unwrap_or(0).to_string();
    let page_size = query.get("count")?.unwrap_or(LINES);
    let page = rest.flows.on_run_history(v1::RunHistoryRequest { id, page_size, page_token }).await?;
    let line = |event: &v1::RunEvent| {
        json!({
            "seq": event.seq,
            "time": event.unix_ms,
            "kind": event.kind,
            "detail": event.detail,
            "payload": super::show::parsed(&event.payload),
        })
    };
    let next = page.next_page_token.parse::<u32>().ok();
    Ok(answer::json(&json!({"events": page.events.iter().map(line).collect::<Value>(), "next": next})))
}
