//! The submit of an array: its head, then its items, which are stored chunk by chunk while they arrive.
//!
//! ```text
//!  head ─ items* ─▶ check, digest ─▶ keep_items (some chunks under way) ─▶ all durable ─▶ submit ─▶ the array shows, whole
//! ```
//! Nothing shows until the end; what breaks off before it leaves nothing behind.

use super::error::Error;
use super::submit::{self, Template};
use crate::machine::{NewArray, PayloadHandle};
use crate::shell::{Handle, NewTask};
use crate::store::ItemChunk;
use proto::check::{self, Fault};
use proto::id::TaskId;
use proto::v1::submit_array_request::Part;
use proto::{bounds, v1};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tonic::{Status, Streaming};

/// Chunks of one upload under way: enough that they share commits, at most 1 MiB. Then the stream is not read on, and flow control
/// holds the client back.
const UNDER_WAY: usize = 16;
/// What an item costs in a chunk besides its bytes, so that a chunk of empty items is bounded too.
const ITEM_OVERHEAD_BYTES: usize = 4;

/// Checks and stores the array that the stream brings.
///
/// # Errors
/// All that is wrong with its head, the first item that is, the stream's own, or what the shell answers.
pub(super) async fn submit(
    handle: &Handle,
    mut requests: Streaming<v1::SubmitArrayRequest>,
) -> Result<v1::SubmitResponse, Status> {
    let head = match requests.message().await?.and_then(|first| first.part) {
        Some(Part::Head(head)) => head,
        Some(Part::Items(_)) | None => {
            return Err(fault("head", "the first message is no head", "send it first").into());
        }
    };
    check::array(&head).map_err(Error::from)?;
    let key = check::key(head.key.clone()).map_err(Error::from)?;
    let template = submit::template(head.spec.clone().unwrap_or_default())?;
    let mut upload = Upload::new(handle.clone(), head.count);
    while let Some(request) = requests.message().await? {
        match request.part {
            Some(Part::Items(part)) => upload.take(part.items).await?,
            Some(Part::Head(_)) => return Err(fault("head", "it comes a second time", "send it once, first").into()),
            None => {}
        }
    }
    let array = upload.complete(&head).await?;
    let new = NewTask { digest: upload.digest(&template, &array), array: Some(array), ..template.task(upload.id, key) };
    Ok(upload.submit(new).await?)
}

/// An array on its way in. Dropped before it is submitted, it takes its items back.
struct Upload {
    handle: Handle,
    id: TaskId,
    /// Members that the head announced; 0: as many as there are items.
    announced: u32,
    /// Running digest of the items, each with its length.
    items: Sha256,
    count: u32,
    bytes: u64,
    chunk: Chunk,
    under_way: JoinSet<Result<(), crate::shell::Error>>,
    /// Something of it was handed to the store that its end must take back.
    kept: bool,
}

/// Items that are not handed over yet.
#[derive(Default)]
struct Chunk {
    /// Position of the first.
    first: u32,
    items: Vec<String>,
    bytes: usize,
}

impl Upload {
    fn new(handle: Handle, announced: u32) -> Self {
        Self {
            handle,
            id: submit::fresh_id(),
            announced,
            items: Sha256::new(),
            count: 0,
            bytes: 0,
            chunk: Chunk::default(),
            under_way: JoinSet::new(),
            kept: false,
        }
    }

    async fn take(&mut self, items: Vec<String>) -> Result<(), Error> {
        let most = if self.announced == 0 { bounds::ARRAY_MEMBERS } else { self.announced };
        for item in items {
            check::item(self.count as usize, &item)?;
            if self.count == most {
                let problem = format!("there are more than {most}");
                return Err(fault("items", &problem, "give one to each member, or split the array"));
            }
            self.bytes += item.len() as u64;
            if self.bytes > bounds::ITEMS_BYTES {
                let problem = format!("all together they are over {} bytes", bounds::ITEMS_BYTES);
                return Err(fault("items", &problem, "put larger ones into files, or split the array"));
            }
            // With its length: `ab`, `c` must not be `a`, `bc`.
            self.items.update((item.len() as u64).to_be_bytes());
            self.items.update(item.as_bytes());
            let bytes = item.len() + ITEM_OVERHEAD_BYTES;
            if self.chunk.bytes + bytes > bounds::ITEM_CHUNK_BYTES {
                self.flush().await?;
            }
            self.chunk.bytes += bytes;
            self.chunk.items.push(item);
            self.count += 1;
        }
        Ok(())
    }

    /// Hands the chunk to the store; waits for an earlier one if many are under way.
    async fn flush(&mut self) -> Result<(), Error> {
        if self.under_way.len() == UNDER_WAY {
            self.settle().await?;
        }
        let next = Chunk { first: self.count, ..Chunk::default() };
        let Chunk { first, items, .. } = std::mem::replace(&mut self.chunk, next);
        let (handle, array) = (self.handle.clone(), self.id);
        self.kept = true;
        self.under_way.spawn(async move { handle.keep_items(ItemChunk { array, first, items }).await });
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), Error> {
        match self.under_way.join_next().await {
            Some(Ok(kept)) => Ok(kept?),
            Some(Err(join)) => {
                tracing::error!(error = %join, "a chunk of items ended without a result");
                Err(Error::Panicked)
            }
            None => Ok(()),
        }
    }

    /// The stream has ended: the rest is stored, and the head is compared with what came.
    async fn complete(&mut self, head: &v1::ArrayHead) -> Result<NewArray, Error> {
        let items = self.count > 0;
        let count = if head.count == 0 { self.count } else { head.count };
        if count == 0 {
            return Err(fault("array.count", "it has no members", "say how many, or send items"));
        }
        if items && self.count != count {
            let problem = format!("{} items came for {count} members", self.count);
            return Err(fault("items", &problem, "give one to each member, or none at all"));
        }
        // Only now is the last index known.
        check::array(&v1::ArrayHead { count, ..head.clone() })?;
        if !self.chunk.items.is_empty() {
            self.flush().await?;
        }
        while !self.under_way.is_empty() {
            self.settle().await?;
        }
        let max_failures = head.limited.then_some(head.max_failures);
        Ok(NewArray { first: head.first, count, items, max_failures })
    }

    /// What stands for the whole under its key.
    fn digest(&self, template: &Template, array: &NewArray) -> PayloadHandle {
        let mut digest = Sha256::new();
        digest.update(template.payload);
        digest.update(array.first.to_be_bytes());
        digest.update(array.count.to_be_bytes());
        digest.update([u8::from(array.items), u8::from(array.max_failures.is_some())]);
        digest.update(array.max_failures.unwrap_or_default().to_be_bytes());
        digest.update(self.items.clone().finalize());
        digest.finalize().into()
    }

    async fn submit(mut self, new: NewTask) -> Result<v1::SubmitResponse, Error> {
        // From here on the array may be there although nobody hears of it (this call is given up); then its items are needed.
        let kept = std::mem::take(&mut self.kept);
        let answer = self.handle.submit(new).await;
        // Refused, or another one was there under the key: then it is certain that they are not. After a stop the next start looks.
        let unused = match &answer {
            Ok(submitted) => submitted.task != self.id,
            Err(error) => !matches!(error, crate::shell::Error::Stopped(_)),
        };
        self.kept = kept && unused;
        let submitted = answer?;
        Ok(v1::SubmitResponse { id: submitted.task.to_string(), existed: submitted.existed })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.kept {
            // What is under way goes with the set, and what is in the queue is taken in before this is heard. A chunk that is just
            // being put there may come later; the next start finds it.
            self.under_way.abort_all();
            self.handle.drop_items(self.id);
        }
    }
}

fn fault(field: &str, problem: &str, remedy: &str) -> Error {
    Error::Field(Fault { field: field.to_owned(), problem: problem.to_owned(), remedy: remedy.to_owned() })
}
