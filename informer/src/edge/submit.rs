//! Submits: one, or a stream of them with a bounded number under way.

use super::error::Error;
use crate::machine::PayloadHandle;
use crate::shell::{self, Handle, NewTask, Submitted};
use bytes::Bytes;
use prost::Message as _;
use proto::id::TaskId;
use proto::store::Facts;
use proto::{bounds, check, member, v1};
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::task::Poll;
use tonic::{Status, Streaming};

/// Submits of one batch under way at once: enough that the flush they share costs each of them next to nothing, and a quarter of the
/// loop's inbox, so that a few batches at once do not crowd each other out of it.
const UNDER_WAY: usize = 1024;
/// Bytes of their payloads.
const UNDER_WAY_BYTES: usize = 64 << 20;
/// Bytes of failure messages in one batch's answer; beyond it only codes are told, so that the answer fits a message whatever was
/// submitted.
const FAILURE_BYTES: usize = 1 << 20;

/// Checks and stores one task.
pub(super) async fn one(handle: &Handle, request: v1::SubmitRequest) -> Result<v1::SubmitResponse, Error> {
    let submitted = handle.submit(new_task(request)?).await?;
    Ok(v1::SubmitResponse { id: submitted.task.to_string(), existed: submitted.existed })
}

/// Checks and stores what the stream brings; answers in its order.
///
/// # Errors
/// The stream breaks or is longer than [`bounds::BATCH`]; what was submitted until then may be stored, which its keys tell.
pub(super) async fn batch(
    handle: &Handle,
    mut requests: Streaming<v1::SubmitRequest>,
) -> Result<v1::SubmitBatchResponse, Status> {
    let mut under_way = VecDeque::new();
    let mut bytes = 0;
    let mut results = Vec::new();
    let mut room = FAILURE_BYTES;
    while let Some(request) = requests.message().await? {
        if results.len() == bounds::BATCH {
            return Err(too_long().into());
        }
        let index = results.len();
        results.push(v1::SubmitResult::default());
        // The id is made here, so that the order of ids is the order of the stream.
        match new_task(request) {
            Ok(task) => {
                let size = task.body.len();
                let mut submit = Box::pin(handle.submit(task));
                // The first poll puts it into the inbox: here, so that the order of the queue is the order of the stream. The rest
                // is waiting for the answer.
                match poll_fn(|cx| Poll::Ready(submit.as_mut().poll(cx))).await {
                    Poll::Ready(answer) => results[index] = result(answer, &mut room),
                    Poll::Pending => {
                        bytes += size;
                        under_way.push_back((index, size, submit));
                    }
                }
            }
            Err(error) => results[index] = failure(&error, &mut room),
        }
        // Answers come in the order of the submits, since commits do.
        while under_way.len() >= UNDER_WAY || bytes > UNDER_WAY_BYTES {
            let Some((index, size, submit)) = under_way.pop_front() else { break };
            bytes -= size;
            results[index] = result(submit.await, &mut room);
        }
    }
    for (index, _, submit) in under_way {
        results[index] = result(submit.await, &mut room);
    }
    Ok(v1::SubmitBatchResponse { results })
}

fn result(answer: Result<Submitted, shell::Error>, room: &mut usize) -> v1::SubmitResult {
    match answer {
        Ok(submitted) => {
            let ok = v1::SubmitResponse { id: submitted.task.to_string(), existed: submitted.existed };
            v1::SubmitResult { result: Some(v1::submit_result::Result::Ok(ok)) }
        }
        Err(error) => failure(&error.into(), room),
    }
}

fn failure(error: &Error, room: &mut usize) -> v1::SubmitResult {
    error.log_ours();
    error.count();
    let mut message = error.to_string();
    match room.checked_sub(message.len()) {
        Some(left) => *room = left,
        None => message.clear(),
    }
    let failure = v1::Failure { code: error.code().to_owned(), message };
    v1::SubmitResult { result: Some(v1::submit_result::Result::Failure(failure)) }
}

/// A checked task under a fresh id.
fn new_task(request: v1::SubmitRequest) -> Result<NewTask, Error> {
    let key = check::key(request.key)?;
    let spec = request.spec.unwrap_or_default();
    if let Some(path) = member::unfilled(&spec) {
        return Err(unfilled(path));
    }
    Ok(template(spec)?.task(fresh_id(), key))
}

/// A checked spec, encoded: what a task, or each member of an array, is made of.
pub(super) struct Template {
    pub(super) payload: PayloadHandle,
    body: Bytes,
    facts: Facts,
    start_after_unix_ms: u64,
    start_after_ms: u64,
}

impl Template {
    /// The task that is submitted alone.
    pub(super) fn task(self, task: TaskId, key: Option<String>) -> NewTask {
        NewTask {
            task,
            key,
            payload: self.payload,
            body: self.body,
            digest: self.payload,
            array: None,
            start_after_unix_ms: self.start_after_unix_ms,
            start_after_ms: self.start_after_ms,
            facts: self.facts,
        }
    }
}

/// Checks a spec and fills in its defaults.
pub(super) fn template(spec: v1::TaskSpec) -> Result<Template, Error> {
    let checked = check::spec(spec)?;
    let body = checked.spec.encode_to_vec();
    Ok(Template {
        payload: PayloadHandle::from(Sha256::digest(&body)),
        body: body.into(),
        facts: checked.facts,
        start_after_unix_ms: checked.spec.start_after_unix_ms,
        start_after_ms: checked.spec.start_after_ms,
    })
}

/// A version 7 UUID: later submits have greater ids, within one process strictly.
pub(super) fn fresh_id() -> TaskId {
    TaskId::from_u128(uuid::Uuid::now_v7().as_u128())
}

fn unfilled(path: &str) -> Error {
    // As much of it as any path has.
    let path: String = path.chars().take(bounds::PATH_BYTES).collect();
    Error::Field(check::Fault {
        field: "spec".to_owned(),
        problem: format!("{path:?} has {} in it, which stands for the index of an array's member", member::PLACE),
        remedy: "submit an array, as with --array 1-N; a single task needs a name without it".to_owned(),
    })
}

fn too_long() -> Error {
    Error::Field(check::Fault {
        field: "requests".to_owned(),
        problem: format!("the batch is longer than {}", bounds::BATCH),
        remedy: "split it, and give each task a key so that repeating one is harmless".to_owned(),
    })
}
