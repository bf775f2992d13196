//! Stored logs of tasks that retention has removed.

use super::{Error, blobs, shell};
use crate::blobs::Blobs as _;
use crate::shell::Handle;
use crate::store::{self, Filter};
use proto::id::TaskId;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Tasks looked up at once: a reader of the store is not kept from others for more than some milliseconds.
const LOOKED_UP: usize = 500;

/// Removes the logs of tasks that retention has removed. What is left after a crash in between, [`sweep`] finds at the next start.
pub(super) async fn forget(mut pruned: broadcast::Receiver<Arc<[TaskId]>>, kept: blobs::Dir) {
    loop {
        let tasks = match pruned.recv().await {
            Ok(tasks) => tasks,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(
                    missed,
                    "stored logs of removed tasks stay on the disk until the next start: they went faster than their logs"
                );
                continue;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        remove(&kept, tasks).await;
    }
}

/// Once, after the start: removes the logs of tasks that are gone.
pub(super) async fn sweep(handle: Handle, kept: blobs::Dir) {
    match find_and_remove(&handle, &kept).await {
        Ok(0) => {}
        Ok(tasks) => tracing::info!(tasks, "removed stored logs that an earlier informer had not got round to"),
        // The next start tries again; until then they only take room.
        Err(error) => tracing::warn!(%error, "stored logs of removed tasks may stay on the disk"),
    }
}

/// How many tasks' logs were removed. Only tasks older than the newest one in the store are looked at: a store that was restored from
/// a backup does not know the tasks after it, and whoever puts the newer one back wants their logs.
async fn find_and_remove(handle: &Handle, kept: &blobs::Dir) -> Result<usize, Error> {
    let newest = handle.list(Filter { page_size: 1, ..Filter::default() }).await.map_err(stopped)?;
    let Some(newest) = newest.rows.first().and_then(store::id_of) else { return Ok(0) };
    let dir = kept.clone();
    let mut removed = 0;
    for minute in blocking(move || dir.minutes()).await? {
        let mut tasks = blocking(move || blobs::Dir::tasks_of(&minute)).await?;
        tasks.retain(|task| *task < newest);
        for some in tasks.chunks(LOOKED_UP) {
            let absent = handle.absent(some.to_vec()).await.map_err(stopped)?;
            removed += absent.len();
            if !absent.is_empty() {
                remove(kept, absent.into()).await;
            }
        }
    }
    Ok(removed)
}

async fn remove(kept: &blobs::Dir, tasks: Arc<[TaskId]>) {
    let kept = kept.clone();
    if let Err(error) = blocking(move || kept.remove(&tasks)).await {
        tracing::warn!(%error, "stored logs of removed tasks stay on the disk");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, blobs::Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| Error::Failed(format!("looking after stored logs ended early: {error}")))??)
}

fn stopped(error: shell::Error) -> Error {
    Error::Failed(error.to_string())
}
