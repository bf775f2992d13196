//! In the keeper's place where there is none: a sidecar that only has executors of its own starts no process. It lists what records
//! tell, and refuses what would need one.

use super::Dirs;
use super::keeping::FromKeeper;
use keeper::record;
use keeper::wire::{Fencing, Listed, Notice, Refusal, Request};
use std::path::Path;
use tokio::sync::mpsc;

/// Requests that may wait: they are answered at once.
const REQUESTS: usize = 64;

/// Answers until the receiver is gone, or a last request asks it to end.
pub(super) async fn keep(dirs: Dirs, said: mpsc::Sender<FromKeeper>) {
    let attempts = dirs.data.join(record::ATTEMPTS);
    let listing = tokio::task::spawn_blocking(move || list(&attempts)).await.unwrap_or_default();
    let (requests, mut queue) = mpsc::channel(REQUESTS);
    if said.send(FromKeeper::Connected { listing, requests, fencing: Fencing::Weak }).await.is_err() {
        return;
    }
    while let Some(request) = queue.recv().await {
        match request {
            Request::Start { name, .. } => {
                let message = "this sidecar runs no processes: it was started without a keeper".to_owned();
                let refused = Notice::Refused { name, why: Refusal::Terminating, message };
                if said.send(FromKeeper::Notice(refused)).await.is_err() {
                    return;
                }
            }
            Request::Shutdown { .. } => break,
            // What it would be about does not run here.
            Request::Hello { .. } | Request::Stop { .. } | Request::Warm { .. } | Request::Upgrade { .. } => {}
        }
    }
    let _ended = said.send(FromKeeper::Gone).await;
}

/// Every attempt whose record is final.
fn list(attempts: &Path) -> Vec<Listed> {
    let entries = std::fs::read_dir(attempts).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| record::is_name(name));
    let listed = |name: String| {
        let record = record::read(&attempts.join(&name)).ok().filter(record::Record::is_final)?;
        Some(Listed { name, state: record.state() })
    };
    names.filter_map(listed).collect()
}
