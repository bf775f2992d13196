//! Definitions, of workflows and of tasks.

use super::Rest;
use super::answer::{self, Answer, Refusal};
use super::query::Query;
use crate::edge::error::Error;
use crate::edge::workflow::show;
use axum::body::Body;
use axum::extract::{Path, State};
use http::{Request, StatusCode};
use proto::store::{DefinitionRow, TaskDefinitionRow};
use proto::{bounds, v1};
use serde_json::{Map, Value, json};

/// Bytes of a list of definitions. A client that asks for all gets all or is told that they are too many; more would be held for each
/// caller who asks.
const LIST_BYTES: usize = 16 << 20;
/// Definitions in one request.
const DEFINITIONS: usize = 1_000;
/// Rows read at once.
const PAGE: usize = 100;

pub(super) async fn create(State(rest): State<Rest>, query: Query, request: Request<Body>) -> Answer {
    let json = rest.read(request, bounds::DEFINITION_BYTES).await?;
    let replace = query.flag("overwrite", false)?;
    rest.flows.on_put_definition(v1::PutDefinitionRequest { json, replace }).await?;
    Ok(answer::done())
}

/// All that can be registered are; if one is refused, so is the call, and it says which.
pub(super) async fn update(State(rest): State<Rest>, request: Request<Body>) -> Answer {
    let list: Vec<Value> = rest.json(request, bounds::MESSAGE_BYTES).await?;
    few(list.len())?;
    let (mut done, mut refused) = (Vec::new(), Map::new());
    for definition in list {
        let name = definition["name"].as_str().unwrap_or_default().to_owned();
        let request = v1::PutDefinitionRequest { json: definition.to_string(), replace: true };
        match rest.flows.on_put_definition(request).await {
            Ok(put) => done.push(put.name),
            Err(error) => {
                refused.insert(name, Value::String(error.to_string()));
            }
        }
    }
    let all = json!({"bulkSuccessfulResults": done, "bulkErrorResults": refused, "message": "Bulk Request has been processed."});
    if refused.is_empty() {
        return Ok(answer::json(&all));
    }
    let told: Vec<_> =
        refused.iter().map(|(name, why)| format!("{name}: {}", why.as_str().unwrap_or_default())).collect();
    Err(Error::Definition(told.join("; ")).into())
}

fn few(count: usize) -> Result<(), Refusal> {
    if count <= DEFINITIONS {
        return Ok(());
    }
    Err(Refusal::invalid(format!("{count} definitions are over the bound; send at most {DEFINITIONS} at once")))
}

pub(super) async fn get(State(rest): State<Rest>, Path(name): Path<String>, query: Query) -> Answer {
    let version = query.get("version")?;
    let row = rest.edge.handle.definition(name.clone(), version).await?;
    let row = row.ok_or(Error::UnknownDefinition { name, version: version.unwrap_or(0) })?;
    Ok(answer::json(&shown(&row)))
}

/// A definition as it was registered, with what the registry knows of it.
fn shown(row: &DefinitionRow) -> Value {
    let mut json = object(&row.json);
    json.insert("name".to_owned(), json!(row.name));
    json.insert("version".to_owned(), json!(row.version));
    timed(json, row.created_unix_ms, row.updated_unix_ms)
}

fn shown_task(row: &TaskDefinitionRow) -> Value {
    timed(object(&row.json), row.created_unix_ms, row.updated_unix_ms)
}

fn object(json: &[u8]) -> Map<String, Value> {
    serde_json::from_str(&show::text(json)).unwrap_or_default()
}

fn timed(mut json: Map<String, Value>, created: u64, updated: u64) -> Value {
    json.insert("createTime".to_owned(), json!(created));
    json.insert("updateTime".to_owned(), json!(updated));
    Value::Object(json)
}

fn too_many() -> Refusal {
    let told = format!(
        "the definitions are over {LIST_BYTES} bytes; read them by name, or list them by `informer workflow list`"
    );
    Refusal::status(StatusCode::PAYLOAD_TOO_LARGE, told)
}

/// Every version of every definition.
async fn all(rest: &Rest, mut see: impl FnMut(DefinitionRow) -> Result<(), Refusal>) -> Result<(), Refusal> {
    let mut after = None;
    loop {
        let rows = rest.edge.handle.definitions(None, after, PAGE).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some((last.name.clone(), last.version));
        rows.into_iter().try_for_each(&mut see)?;
    }
}

pub(super) async fn list(State(rest): State<Rest>) -> Answer {
    let (mut list, mut bytes) = (Vec::new(), 0);
    all(&rest, |row| {
        bytes += row.json.len();
        list.push(shown(&row));
        if bytes > LIST_BYTES { Err(too_many()) } else { Ok(()) }
    })
    .await?;
    Ok(answer::json(&Value::Array(list)))
}

pub(super) async fn names(State(rest): State<Rest>) -> Answer {
    let mut names: Map<String, Value> = Map::new();
    all(&rest, |row| {
        let summary = json!({"name": row.name, "version": row.version, "createTime": row.created_unix_ms});
        if let Value::Array(versions) = names.entry(row.name).or_insert_with(|| json!([])) {
            versions.push(summary);
        }
        Ok(())
    })
    .await?;
    Ok(answer::json(&Value::Object(names)))
}

pub(super) async fn remove(State(rest): State<Rest>, Path((name, version)): Path<(String, String)>) -> Answer {
    let number = version.parse().ok().filter(|version| *version > 0);
    let version = number.ok_or_else(|| Refusal::invalid(format!("{version:?} is no version")))?;
    match rest.edge.handle.delete_definition(name.clone(), version).await? {
        true => Ok(answer::done()),
        false => Err(Error::UnknownDefinition { name, version }.into()),
    }
}

pub(super) async fn create_tasks(State(rest): State<Rest>, request: Request<Body>) -> Answer {
    let list: Vec<Value> = rest.json(request, bounds::MESSAGE_BYTES).await?;
    few(list.len())?;
    for definition in list {
        rest.flows.on_put_task_definition(v1::PutTaskDefinitionRequest { json: definition.to_string() }).await?;
    }
    Ok(answer::done())
}

pub(super) async fn update_task(State(rest): State<Rest>, request: Request<Body>) -> Answer {
    let json = rest.read(request, bounds::DEFINITION_BYTES).await?;
    rest.flows.on_put_task_definition(v1::PutTaskDefinitionRequest { json }).await?;
    Ok(answer::done())
}

pub(super) async fn get_task(State(rest): State<Rest>, Path(name): Path<String>) -> Answer {
    let row = rest.edge.handle.task_definition(name.clone()).await?;
    let row = row.ok_or(Error::UnknownDefinition { name, version: 0 })?;
    Ok(answer::json(&shown_task(&row)))
}

pub(super) async fn list_tasks(State(rest): State<Rest>) -> Answer {
    let (mut list, mut bytes, mut after) = (Vec::new(), 0, None);
    loop {
        let rows = rest.edge.handle.task_definitions(after, PAGE).await?;
        let Some(last) = rows.last() else { return Ok(answer::json(&Value::Array(list))) };
        after = Some(last.name.clone());
        bytes += rows.iter().map(|row| row.json.len()).sum::<usize>();
        if bytes > LIST_BYTES {
            return Err(too_many());
        }
        list.extend(rows.iter().map(shown_task));
    }
}

pub(super) async fn remove_task(State(rest): State<Rest>, Path(name): Path<String>) -> Answer {
    match rest.edge.handle.delete_task_definition(name.clone()).await? {
        true => Ok(answer::done()),
        false => Err(Error::UnknownDefinition { name, version: 0 }.into()),
    }
}
