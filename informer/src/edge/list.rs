//! List: a client's filter, checked, and pages that fit a message.

use super::error::Error;
use super::{Edge, convert};
use crate::store::Filter;
use prost::Message as _;
use proto::check::{self, Fault};
use proto::id::TaskId;
use proto::{bounds, v1};

/// Encoded tasks of one page, bytes: half a message, since attempts with long messages could make a full page exceed it. The page
/// then ends early and its token goes on from there.
const PAGE_BYTES: usize = bounds::MESSAGE_BYTES / 2;
/// Registered types that a refusal tells: what a person looks through for the one that was meant.
const TYPES_TOLD: usize = 20;

/// One page.
///
/// # Errors
/// What [`filter`] finds, or the store's.
pub(super) async fn page(edge: &Edge, request: v1::ListRequest) -> Result<v1::ListResponse, Error> {
    let page = edge.handle.list(filter(edge, request).await?).await?;
    let next_page_token = page.next.map(|id| id.to_string()).unwrap_or_default();
    let mut answer = v1::ListResponse { tasks: Vec::with_capacity(page.rows.len()), next_page_token };
    let mut bytes = 0;
    for row in &page.rows {
        let task = convert::task(&edge.handle, row);
        bytes += task.encoded_len();
        if bytes > PAGE_BYTES
            && let Some(last) = answer.tasks.last()
        {
            answer.next_page_token.clone_from(&last.id);
            break;
        }
        answer.tasks.push(task);
    }
    Ok(answer)
}

/// The filter that a client means.
///
/// # Errors
/// The first fault of it; an array that is not there.
pub(super) async fn filter(edge: &Edge, request: v1::ListRequest) -> Result<Filter, Error> {
    check::label_filter(&request.labels)?;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let time = |unix_ms: u64| Some(unix_ms).filter(|unix_ms| *unix_ms > 0);
    let array = given(request.array).map(|id| id.parse::<TaskId>()).transpose()?;
    let before = given(request.page_token).map(|token| token.parse::<TaskId>()).transpose()?;
    if let Some(array) = array {
        is_array(edge, array).await?;
        if before.is_some_and(|before| before.array() != Some(array)) {
            return Err(token_fault());
        }
    }
    let kind = given(request.kind);
    if let Some(kind) = &kind {
        is_kind(edge, kind).await?;
    }
    Ok(Filter {
        states: states(&request.states)?,
        owner: given(request.owner),
        name: given(request.name),
        labels: request.labels,
        name_prefix: given(request.name_prefix),
        array,
        kind,
        sidecar: given(request.sidecar),
        created_after_unix_ms: time(request.created_after_unix_ms),
        created_before_unix_ms: time(request.created_before_unix_ms),
        reason: reason(request.reason)?,
        priority: request.priority,
        page_size: check::page_size(request.page_size)?,
        before,
    })
}

/// Refuses a word that names no kind: a list by it would be empty, which reads like an answer. A type counts as long as it is registered,
/// or some task is of it.
async fn is_kind(edge: &Edge, kind: &str) -> Result<(), Error> {
    if check::Kind::PLAIN.iter().any(|known| known.as_str() == kind) {
        return Ok(());
    }
    let types: Vec<String> = edge.handle.executors().await?.into_iter().map(|executor| executor.r#type).collect();
    if let Some(name) = kind.strip_prefix(check::TYPE) {
        let of_it = || Filter { kind: Some(kind.to_owned()), page_size: 1, ..Filter::default() };
        if types.iter().any(|known| known == name) || !edge.handle.list(of_it()).await?.rows.is_empty() {
            return Ok(());
        }
        let known = if types.is_empty() { "none is".to_owned() } else { listed(types) };
        let problem = format!("no executor is registered for type {name:?}, and no task is of it");
        return Err(fault("kind", problem, &format!("registered now: {known}")));
    }
    let plain = check::Kind::PLAIN.iter().map(|known| known.as_str()).collect::<Vec<_>>().join(", ");
    Err(fault("kind", format!("{kind:?} is no kind"), &format!("use one of {plain}, or {}NAME", check::TYPE)))
}

/// Names on one line, so many that it stays one.
fn listed(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(TYPES_TOLD);
    names.truncate(TYPES_TOLD);
    let names = names.join(", ");
    if more > 0 { format!("{names} and {more} more") } else { names }
}

async fn is_array(edge: &Edge, id: TaskId) -> Result<(), Error> {
    let row = edge.handle.get(id).await?.ok_or(Error::UnknownTask(id))?;
    if row.array.is_none() {
        return Err(fault("array", format!("task {id} is no array"), "name an array, or none"));
    }
    Ok(())
}

fn states(wire: &[i32]) -> Result<Vec<v1::TaskState>, Error> {
    let state = |number: &i32| match v1::TaskState::try_from(*number) {
        Ok(v1::TaskState::Unspecified) | Err(_) => {
            Err(fault("states", format!("{number} is no state"), "use the numbers of informer.v1.TaskState, or none"))
        }
        Ok(state) => Ok(state),
    };
    let mut states = wire.iter().map(state).collect::<Result<Vec<_>, _>>()?;
    states.sort_unstable();
    states.dedup();
    Ok(states)
}

fn reason(number: i32) -> Result<Option<v1::Reason>, Error> {
    match v1::Reason::try_from(number) {
        Ok(v1::Reason::Unspecified) => Ok(None),
        Ok(reason) => Ok(Some(reason)),
        Err(_) => {
            Err(fault("reason", format!("{number} is no reason"), "use the numbers of informer.v1.Reason, or none"))
        }
    }
}

/// A page token that was made up, or belongs to another list.
pub(super) fn token_fault() -> Error {
    fault("page_token", "it is none of ours".to_owned(), "use the token of the page before, or none")
}

fn fault(field: &str, problem: String, remedy: &str) -> Error {
    Error::Field(Fault { field: field.to_owned(), problem, remedy: remedy.to_owned() })
}
