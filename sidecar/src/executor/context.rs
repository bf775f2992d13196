//! What an attempt knows, and what it may tell while it runs.

use super::{Fault, Progress};
use crate::exec::result;
use proto::id::{AttemptId, Fence};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};

/// What an attempt is.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub attempt: AttemptId,
    pub fence: Fence,
    pub kind: String,
    pub name: String,
    pub input: String,
    pub item: Option<String>,
    pub env: BTreeMap<String, String>,
    pub dir: PathBuf,
    /// Where a service may report about it.
    pub callback_url: String,
}

/// What an execution tells by its context: read by the one who looks after it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub nudge: Notify,
    pub progress: Mutex<Option<Progress>>,
    pub stopping: watch::Sender<bool>,
}

/// Both logs of an attempt, files like those of a process, cut off at their cap.
#[derive(Debug)]
pub(crate) struct Logs {
    out: Log,
    err: Log,
    cap_bytes: u64,
    truncated: AtomicBool,
}

#[derive(Debug)]
struct Log {
    file: File,
    bytes: AtomicU64,
}

impl Log {
    fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        Ok(Self { bytes: AtomicU64::new(file.metadata()?.len()), file })
    }
}

impl Logs {
    pub(crate) fn create(attempt_dir: &Path, cap_bytes: u64) -> io::Result<Self> {
        let (out, err) = (Log::create(&attempt_dir.join("out"))?, Log::create(&attempt_dir.join("err"))?);
        Ok(Self { out, err, cap_bytes, truncated: AtomicBool::new(false) })
    }

    fn append(&self, log: &Log, bytes: &[u8]) {
        let length = bytes.len() as u64;
        let before = log.bytes.fetch_add(length, Ordering::Relaxed);
        let room = usize::try_from(self.cap_bytes.saturating_sub(before)).unwrap_or(usize::MAX).min(bytes.len());
        // A full disk loses log bytes, as it does for a process whose log is written by its monitor; the end is marked.
        if room < bytes.len() || (&log.file).write_all(&bytes[..room]).is_err() {
            self.truncated.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn out(&self, bytes: &[u8]) {
        self.append(&self.out, bytes);
    }

    pub(crate) fn err(&self, bytes: &[u8]) {
        self.append(&self.err, bytes);
    }

    /// Bytes of both that are kept, and whether something was not.
    pub(crate) fn sizes(&self) -> (u64, u64, bool) {
        let kept = |log: &Log| log.bytes.load(Ordering::Relaxed).min(self.cap_bytes);
        (kept(&self.out), kept(&self.err), self.truncated.load(Ordering::Relaxed))
    }
}

/// What an attempt knows of itself, and what it may tell. Clones are of the same attempt.
#[derive(Debug, Clone)]
pub struct Context {
    facts: Arc<Facts>,
    told: Arc<Told>,
    logs: Arc<Logs>,
}

impl Context {
    pub(crate) fn new(facts: Arc<Facts>, told: Arc<Told>, logs: Arc<Logs>) -> Self {
        Self { facts, told, logs }
    }

    /// The task's id.
    #[must_use]
    pub fn task(&self) -> String {
        self.facts.attempt.task.to_string()
    }

    /// Which try of the task this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.facts.attempt.number
    }

    /// The attempt's id, `TASK.NUMBER`: an idempotency key of this try.
    #[must_use]
    pub fn id(&self) -> String {
        self.facts.attempt.to_string()
    }

    /// (epoch, number): greater for each later attempt of the task. Hand it to what must refuse an older copy.
    #[must_use]
    pub fn fence(&self) -> (u64, u64) {
        (self.facts.fence.epoch, self.facts.fence.n)
    }

    /// The type of the task.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.facts.kind
    }

    /// The task's name, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// The task's input.
    #[must_use]
    pub fn input(&self) -> &str {
        &self.facts.input
    }

    /// The item of this member, if the task is one of an array that has items.
    #[must_use]
    pub fn item(&self) -> Option<&str> {
        self.facts.item.as_deref()
    }

    /// The task's environment: nothing of this process's own.
    #[must_use]
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.facts.env
    }

    /// A directory of the attempt's own, removed after its end.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.facts.dir
    }

    /// Where a service may report about the attempt, with the right to do so in it: keep it from others.
    #[must_use]
    pub fn callback_url(&self) -> &str {
        &self.facts.callback_url
    }

    /// Writes to the attempt's stdout log, up to its cap.
    pub fn out(&self, bytes: impl AsRef<[u8]>) {
        self.logs.out(bytes.as_ref());
    }

    /// Writes to the attempt's stderr log, up to its cap.
    pub fn err(&self, bytes: impl AsRef<[u8]>) {
        self.logs.err(bytes.as_ref());
    }

    /// Tells how far it is; the latest wins. It leaves with the next beat.
    pub fn progress(&self, permille: u32, note: impl Into<String>) {
        let progress = Progress { permille: permille.min(1000), note: note.into() };
        *self.told.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
        self.told.nudge.notify_one();
    }

    /// Leaves the attempt's result, as a process does in `TASK_RESULT`; the last one left before the end counts. It must be written as a
    /// JSON object of at most 256 KiB.
    ///
    /// # Errors
    /// [`Fault::Failed`]: it cannot be written as JSON, or not into the attempt's directory. What is no object, or too large, makes a success
    /// a failure at its end.
    pub fn result<T: Serialize>(&self, result: &T) -> Result<(), Fault> {
        let text = serde_json::to_vec(result)?;
        std::fs::write(self.facts.dir.join(result::FILE), text)
            .map_err(|error| Fault::Failed(format!("cannot keep the result: {error}")))
    }

    /// Asks for a look at the execution's status now.
    pub fn nudge(&self) {
        self.told.nudge.notify_one();
    }

    /// Whether the attempt shall end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        *self.told.stopping.borrow()
    }

    /// Completes when the attempt shall end.
    pub async fn stopping(&self) {
        // The sender lives in this context.
        let mut stopping = self.told.stopping.subscribe();
        let _never_dropped = stopping.wait_for(|stopping| *stopping).await;
    }
}
