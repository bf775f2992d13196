//! Arrays as users ask for them: which members, from where, and their way up.
//!
//! ```text
//!  --each-line, --from-json ──▶ items (own thread) ──chunks, bounded──▶ SubmitArray ──▶ id
//!                                     │ a line that is no item
//!                                     └──▶ the call is dropped before its end: nothing is stored
//! ```
//!
//! The end of the stream seals the array, so it must never be reached by a mistake in the items: it ends at a mark of its own, and
//! a channel that closes without it leaves the stream open until the call is dropped.

use std::path::{Path, PathBuf};

use clap::Args;
use proto::{
    bounds, check,
    v1::{ArrayHead, ArrayItems, SubmitArrayRequest, SubmitRequest, SubmitResponse, submit_array_request::Part},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

use super::{client::Client, error, error::Error, items, units};

/// Chunks read ahead of the connection: enough that disk and network overlap, a quarter of a megabyte at most.
const AHEAD: usize = 4;
/// Index of the first item's member, so that an item's index is the number of its line.
const FIRST: u32 = 1;
/// What an item adds to a message besides its bytes, at most: its tag and its length.
const ITEM_OVERHEAD: usize = 4;

/// The options that make an array of a task.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Array options")]
pub(crate) struct ArrayOptions {
    /// One member for each index; INFORMER_ARRAY_INDEX tells a member its own
    #[arg(long, value_name = "A-B", value_parser = units::members, conflicts_with_all = ["each_line", "from_json"])]
    array: Option<(u32, u32)>,
    /// One member for each line of a file ("-": standard input); INFORMER_ARRAY_ITEM is the line
    #[arg(long, value_name = "FILE", conflicts_with = "from_json")]
    each_line: Option<PathBuf>,
    /// One member for each element of a JSON array ("-": standard input); a string is an item as it is, all else its compact JSON
    #[arg(long, value_name = "FILE")]
    from_json: Option<PathBuf>,
    /// Cancel what is left of the array once more members than this have failed
    #[arg(long, value_name = "N")]
    max_failures: Option<u32>,
}

/// An array without its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Array {
    pub(crate) members: Members,
    pub(crate) max_failures: Option<u32>,
}

/// Which members it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Members {
    /// Indices alone.
    Range { first: u32, count: u32 },
    /// A line each.
    Lines(PathBuf),
    /// An element of a JSON array each.
    Json(PathBuf),
    /// Told in the task file.
    Listed(Vec<String>),
}

impl ArrayOptions {
    /// The array that flags and task file ask for together; flags override. `None`: a single task.
    ///
    /// # Errors
    /// A bound on failures without members.
    pub(crate) fn over(&self, file: Option<Array>) -> Result<Option<Array>, Error> {
        let members = match (self.array, &self.each_line, &self.from_json) {
            (Some((first, count)), ..) => Some(Members::Range { first, count }),
            (None, Some(path), _) => Some(Members::Lines(path.clone())),
            (None, None, Some(path)) => Some(Members::Json(path.clone())),
            (None, None, None) => None,
        };
        let (told, most) = file.map_or((None, None), |array| (Some(array.members), array.max_failures));
        match (members.or(told), self.max_failures) {
            (Some(members), given) => Ok(Some(Array { members, max_failures: given.or(most) })),
            (None, None) => Ok(None),
            (None, Some(_)) => {
                Err(Error::Misuse("--max-failures is for arrays; add --array, --each-line or --from-json".into()))
            }
        }
    }
}

impl Members {
    /// They are read from standard input, which nobody can read twice.
    pub(crate) fn is_stdin(&self) -> bool {
        matches!(self, Self::Lines(path) | Self::Json(path) if path == Path::new("-"))
    }
}

/// Stores an array. The request carries a key, so asking again after a lost answer makes no second one.
///
/// # Errors
/// An item that is none, or the informer's refusal: then nothing is stored.
pub(crate) async fn submit(client: &Client, request: SubmitRequest, array: &Array) -> Result<SubmitResponse, Error> {
    let SubmitRequest { spec, key } = request;
    let (first, count) = match array.members {
        Members::Range { first, count } => (first, count),
        Members::Lines(_) | Members::Json(_) | Members::Listed(_) => (FIRST, 0),
    };
    let (limited, max_failures) = (array.max_failures.is_some(), array.max_failures.unwrap_or_default());
    let head = ArrayHead { spec, key, first, count, limited, max_failures };
    // What no informer takes is refused before the items are read, of which standard input gives no second copy.
    let known = match &array.members {
        Members::Range { .. } => count,
        Members::Listed(items) => u32::try_from(items.len()).unwrap_or(u32::MAX),
        // Some number of them; two stand for any that is not one.
        Members::Lines(_) | Members::Json(_) => 2,
    };
    check::array(&ArrayHead { count: known, ..head.clone() }).map_err(|faults| Error::Misuse(faults.to_string()))?;
    let mut patience = client.patience();
    loop {
        let status = match send(client, head.clone(), &array.members).await? {
            Ok(stored) => return Ok(stored),
            Err(status) => status,
        };
        if !error::is_passing(&status) {
            return Err(client.failed("submit the array", &status));
        }
        if array.members.is_stdin() {
            let message = format!(
                "{}; standard input cannot be read again: repeat it with --key {}, which gives the same array if it is stored",
                error::cause(&status),
                head.key
            );
            return Err(Error::Refused { attempted: "submit the array".into(), code: status.code(), message });
        }
        patience.pause(&status).await?;
    }
}

/// One call. The outer error is about the items, the inner one the informer's.
async fn send(client: &Client, head: ArrayHead, members: &Members) -> Result<Result<SubmitResponse, Status>, Error> {
    let (chunks, stream) = mpsc::channel(AHEAD);
    // The channel is empty and open: this cannot fail.
    drop(chunks.try_send(Some(SubmitArrayRequest { part: Some(Part::Head(head)) })));
    let members = members.clone();
    let mut reading = tokio::task::spawn_blocking(move || feed(&members, chunks));
    let stream = ReceiverStream::new(stream).chain(tokio_stream::pending()).map_while(|part| part);
    let mut grpc = client.grpc();
    let mut call = std::pin::pin!(grpc.submit_array(stream));
    let answer = tokio::select! {
        biased;
        answer = &mut call => answer,
        read = &mut reading => {
            read.map_err(|_| Error::Server("the reader of the items failed".into()))??;
            call.await
        }
    };
    Ok(answer.map(tonic::Response::into_inner))
}

/// What goes up: parts, and `None` as the seal.
type Parts = mpsc::Sender<Option<SubmitArrayRequest>>;

/// Sends all items, then the seal. Ends early, and well, when nobody takes them any more: then the call has its answer.
fn feed(members: &Members, parts: Parts) -> Result<(), Error> {
    let mut chunk = Chunk { parts, items: Vec::new(), bytes: 0, sent: 0 };
    let mut add = |item: String| chunk.add(item);
    match members {
        Members::Range { .. } => {}
        Members::Lines(path) => items::lines(path, &mut add)?,
        Members::Json(path) => items::json(path, &mut add)?,
        Members::Listed(listed) => {
            // Ends at the first that nobody takes.
            let _all = listed.iter().all(|item| add(item.clone()));
        }
    }
    if chunk.sent > 0 || matches!(members, Members::Range { .. }) {
        chunk.seal();
        return Ok(());
    }
    Err(Error::Misuse("there are no items, and an array without members would never have anything to do".into()))
}

/// Items on their way into one message.
struct Chunk {
    parts: Parts,
    items: Vec<String>,
    bytes: usize,
    sent: u64,
}

impl Chunk {
    /// False when nobody takes them any more.
    fn add(&mut self, item: String) -> bool {
        self.bytes += item.len() + ITEM_OVERHEAD;
        self.items.push(item);
        self.sent += 1;
        self.bytes < bounds::ITEM_CHUNK_BYTES || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.bytes = 0;
        let items = ArrayItems { items: std::mem::take(&mut self.items) };
        self.parts.blocking_send(Some(SubmitArrayRequest { part: Some(Part::Items(items)) })).is_ok()
    }

    /// Ends the array.
    fn seal(mut self) {
        if !self.items.is_empty() {
            self.flush();
        }
        // An answer that came before the end makes this one fail.
        drop(self.parts.blocking_send(None));
    }
}

#[cfg(test)]
#[path = "array_tests.rs"]
mod tests;
