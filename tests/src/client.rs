//! The API as benchmarks and floods use it.

use anyhow::{Result, bail, ensure};
use proto::v1::informer_client::InformerClient;
use proto::{bounds, v1};
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};

/// A client of the API.
pub type Api = InformerClient<Channel>;

/// States that are not terminal.
fn live() -> Vec<i32> {
    use v1::TaskState as S;
    [S::Waiting, S::Ready, S::Assigned, S::Running, S::Committing].map(i32::from).to_vec()
}

/// A runtime with one thread: a client that took both processors would measure itself. Not the caller's own thread, because somebody has
/// to answer the informer's pings while other contenders have their turn.
///
/// # Errors
/// No thread can be had.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

/// One connection.
///
/// # Errors
/// Nobody listens there.
pub async fn connect(url: &str) -> Result<Api> {
    let channel = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect().await?;
    Ok(InformerClient::new(channel).max_decoding_message_size(bounds::MESSAGE_BYTES))
}

/// A task that runs a command.
#[must_use]
pub fn spec(name: &str, argv: &[&str]) -> v1::TaskSpec {
    let command = v1::Command { argv: argv.iter().map(|argument| (*argument).to_owned()).collect() };
    let kind = Some(v1::task_spec::Kind::Command(command));
    v1::TaskSpec { name: name.to_owned(), kind, ..Default::default() }
}

/// A task that is never run, because no sidecar is there or a logical one ends it.
#[must_use]
pub fn idle_spec(name: &str) -> v1::TaskSpec {
    spec(name, &["/bin/true"])
}

/// A submit without a key.
#[must_use]
pub fn request(spec: v1::TaskSpec) -> v1::SubmitRequest {
    v1::SubmitRequest { spec: Some(spec), key: String::new() }
}

/// Submits many by client stream, as few batches as the bound allows; all are stored when it returns.
///
/// # Errors
/// A submit is refused, or the connection ends.
pub async fn submit_all(
    api: &mut Api,
    count: usize,
    spec: impl Fn(usize) -> v1::TaskSpec + Send + Clone + 'static,
) -> Result<()> {
    let mut from = 0;
    while from < count {
        let until = count.min(from + bounds::BATCH);
        let spec = spec.clone();
        let requests = tokio_stream::iter((from..until).map(move |n| request(spec(n))));
        let results = api.submit_batch(requests).await?.into_inner().results;
        ensure!(results.len() == until - from, "{} of {} submits were answered", results.len(), until - from);
        for result in results {
            if let Some(v1::submit_result::Result::Failure(failure)) = result.result {
                bail!("a submit failed: {}: {}", failure.code, failure.message);
            }
        }
        from = until;
    }
    Ok(())
}

/// Submits an array, with items if there are any; stored, whole, when it returns.
///
/// # Errors
/// As [`submit_all`].
pub async fn submit_array(api: &mut Api, name: &str, count: u32, items: Vec<String>) -> Result<String> {
    /// Items of one message: with short ones far below its bound.
    const ITEMS: usize = 10_000;
    let named = if items.is_empty() { count } else { 0 };
    let head = v1::ArrayHead { spec: Some(idle_spec(name)), count: named, ..Default::default() };
    let chunks = items.chunks(ITEMS).map(|items| v1::ArrayItems { items: items.to_vec() });
    let parts: Vec<v1::SubmitArrayRequest> = std::iter::once(v1::submit_array_request::Part::Head(head))
        .chain(chunks.map(v1::submit_array_request::Part::Items))
        .map(|part| v1::SubmitArrayRequest { part: Some(part) })
        .collect();
    Ok(api.submit_array(tokio_stream::iter(parts)).await?.into_inner().id)
}

/// Waits until no task of this name is live.
///
/// # Errors
/// The connection ends.
pub async fn wait_ended(api: &mut Api, name: &str) -> Result<()> {
    // The newest ones end last, or nearly so: waiting for a few hundred is waiting for all, and costs the informer next to nothing.
    let request = v1::ListRequest { states: live(), name: name.to_owned(), page_size: 200, ..Default::default() };
    loop {
        let page = api.list(request.clone()).await?.into_inner();
        if page.tasks.is_empty() {
            return Ok(());
        }
        let ids = page.tasks.into_iter().map(|task| task.id).collect();
        let mut changes = api.watch(v1::WatchRequest { ids }).await?.into_inner();
        while let Some(change) = changes.next().await {
            change?;
        }
    }
}

/// Every task of this name succeeded; the CPU time of all of them, µs.
///
/// # Errors
/// One of them did not succeed; there are not so many.
pub async fn spent_us(api: &mut Api, name: &str, count: usize) -> Result<f64> {
    let mut request = v1::ListRequest { name: name.to_owned(), page_size: bounds::PAGE, ..Default::default() };
    let (mut seen, mut spent) = (0, 0);
    loop {
        let page = api.list(request.clone()).await?.into_inner();
        for task in page.tasks {
            ensure!(task.state() == v1::TaskState::Succeeded, "task {} ended as {:?}", task.id, task.state());
            let ending = task.ending.unwrap_or_default();
            spent += ending.user_us + ending.system_us;
            seen += 1;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    ensure!(seen == count, "{seen} tasks are there, not {count}");
    Ok(spent as f64)
}
