//! The process dies at each boundary between decision and effect; what was told to anybody is on disk.

#![allow(clippy::unwrap_used, reason = "a test: a failure is a panic that names the line")]

use super::tests::{OPTIONS, beat, hello, task};
use super::*;
use crate::store::Store as _;
use crate::store::sqlite::Sqlite;
use proto::bounds;
use proto::id::TaskId;
use proto::v1::informer_message::Message;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio::sync::mpsc;

const DATA: &str = "INFORMER_CRASH_DATA";

/// Removed with everything in it, however the test ends.
struct Data(PathBuf);

impl Drop for Data {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_was_told_survives_a_kill_at_every_boundary() {
    if let Some(data) = std::env::var_os(DATA) {
        return live(Path::new(&data));
    }
    for (point, stored) in [
        ("before-apply", false),
        ("after-apply", false),
        ("before-commit", false),
        ("after-commit", true),
        ("after-reply", true),
        // The first is passed between a welcome and what follows it.
        ("mid-effects:2", true),
        ("after-assign", true),
    ] {
        let data = Data(std::env::temp_dir().join(format!("informer-crash-{}", uuid::Uuid::now_v7())));
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shell::crash::what_was_told_survives_a_kill_at_every_boundary"])
            .env(DATA, &data.0)
            .env("INFORMER_FAILPOINT", point)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(9), "{point}: {status}");
        let store = Sqlite::open(&data.0).unwrap();
        let row = store.reader().unwrap().get(TaskId::from_u128(1)).unwrap();
        assert_eq!(row.is_some(), stored, "{point}");
        assert!(stored || !acknowledged(&data.0).exists(), "{point}: told and lost");
        let assigned = row.is_some_and(|row| !row.attempts.is_empty());
        assert_eq!(assigned, matches!(point, "mid-effects:2" | "after-assign"), "{point}");
    }
}

fn acknowledged(data: &Path) -> PathBuf {
    data.join("acknowledged")
}

/// The life that a failpoint ends: a submit, then a sidecar that takes it.
fn live(data: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (handle, _shell) = Shell::start(Box::new(Sqlite::open(data).unwrap()), OPTIONS).unwrap();
        handle.submit(task(1)).await.unwrap();
        std::fs::write(acknowledged(data), "").unwrap();
        let (out, mut messages) = mpsc::channel(bounds::LINK_QUEUE);
        let session = handle.open_link(hello(4), Vec::new(), out).await.unwrap();
        handle.link_event(beat(session, 1, 4)).await.unwrap();
        while let Some(message) = messages.recv().await {
            assert!(!matches!(message.message, Some(Message::Assign(_))), "the failpoint was not passed");
        }
    });
}
