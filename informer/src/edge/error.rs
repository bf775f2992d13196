//! Every refusal of the edge, with the gRPC status and the code that `docs/errors.md` explains.

use crate::{machine::Rejection, shell};
use proto::check::{Fault, Faults};
use proto::id::TaskId;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Every code, in the order of docs/errors.md.
const CODES: [&str; 26] = [
    "invalid",
    "unauthenticated",
    "unknown_task",
    "key_conflict",
    "state",
    "scattered",
    "full",
    "busy",
    "lagged",
    "not_started",
    "log_gone",
    "unlinked",
    "log_readers",
    "watchers",
    "unknown_sidecar",
    "unknown_type",
    "executor_conflict",
    "definition",
    "unknown_definition",
    "definition_conflict",
    "unknown_run",
    "run_family",
    "stopping",
    "internal",
    "silent",
    "no_reader",
];
/// Refusals by code since the process began, over all informers in it: a refusal becomes a status in many places, not all of which
/// know whose it is.
static REFUSED: [AtomicU64; CODES.len()] = [const { AtomicU64::new(0) }; CODES.len()];

/// How often each code was told.
pub(super) fn refused() -> impl Iterator<Item = (&'static str, u64)> {
    CODES.into_iter().zip(REFUSED.iter().map(|count| count.load(Relaxed)))
}

/// Domain of the codes in an `ErrorInfo`.
pub(crate) const DOMAIN: &str = "informer.v1";
/// When to try again after "busy": the inbox holds some ten milliseconds of work, so that a second attempt finds room.
const RETRY_BUSY: Duration = Duration::from_millis(100);
/// When to try again after "full": some task must end first.
const RETRY_FULL: Duration = Duration::from_secs(5);

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The message breaks a bound or contradicts itself.
    #[error("{0}")]
    Invalid(#[from] Faults),
    /// One field is wrong.
    #[error("{0}")]
    Field(Fault),
    /// A string that is no id.
    #[error("{0}")]
    Id(#[from] proto::id::Error),
    /// No such task.
    #[error("no task {0}; `informer list` shows what there is")]
    UnknownTask(TaskId),
    /// A definition that cannot run, or a start by none.
    #[error("{0}")]
    Definition(String),
    /// No such definition.
    #[error("{}; `informer workflow list` shows all", missing(name, *version))]
    UnknownDefinition {
        /// Its name.
        name: String,
        /// Its version; 0: any.
        version: u32,
    },
    /// No such run.
    #[error("no workflow run {0}; `informer workflow search` shows what there is")]
    UnknownRun(String),
    /// A start that wanted its key for itself.
    #[error("the key stands for workflow run {0} already; use a new key, or let a known one return its run")]
    KnownKey(String),
    /// The shell or its machine refused.
    #[error("{0}")]
    Shell(#[from] shell::Error),
    /// The call does not carry this informer's token.
    #[error("{0}")]
    Unauthenticated(#[from] super::tls::Refusal),
    /// A watcher fell too far behind to be told every change.
    #[error("{missed} changes were missed; list the tasks and watch again")]
    Lagged { missed: u64 },
    /// The log cannot be read (now); the words say why and what helps.
    #[error("{0}")]
    NotStarted(String),
    #[error("{0}")]
    LogGone(String),
    #[error("{0}")]
    Unlinked(String),
    #[error("{limit} logs are being read, which is the bound; retry when a reader has left")]
    LogReaders { limit: usize },
    #[error("{limit} tasks are being watched, which is the bound; retry when a watcher has left")]
    Watchers { limit: usize },
    #[error("{limit} streams of logs are being stored, which is the bound; try again later")]
    LogUploads { limit: usize },
    /// A sidecar's upload that nobody waits for.
    #[error("nobody reads log request {0}; drop it")]
    NoReader(u64),
    /// The peer did not say in time what it had to say first.
    #[error("nothing was heard within {within_ms} ms: {what}")]
    Silent { what: &'static str, within_ms: u128 },
    #[error("the informer is stopping; connect again when it is back")]
    Stopping,
    /// Ours: a stored payload is not there or cannot be read.
    #[error("the payload of task {0} cannot be read; keep the data directory and report this")]
    Payload(TaskId),
    /// Ours: a call's task ended without an answer.
    #[error("the call failed inside the informer; its log says where")]
    Panicked,
}

fn missing(name: &str, version: u32) -> String {
    match version {
        0 => format!("nothing is registered as {name:?}"),
        version => format!("{name:?} has no version {version}"),
    }
}

impl Error {
    /// The word that stands in `ErrorInfo.reason` and in a batch's failures.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) | Self::Field(_) | Self::Id(_) => "invalid",
            Self::UnknownTask(_) => "unknown_task",
            Self::Definition(_) => "definition",
            Self::UnknownDefinition { .. } => "unknown_definition",
            Self::UnknownRun(_) => "unknown_run",
            Self::KnownKey(_) => "key_conflict",
            Self::Shell(shell::Error::Rejected(rejection)) => rejected(rejection),
            Self::Shell(shell::Error::Busy) | Self::LogUploads { .. } => "busy",
            Self::Shell(shell::Error::Stopped(_)) | Self::Stopping => "stopping",
            Self::Shell(shell::Error::Store(_) | shell::Error::Thread { .. }) | Self::Payload(_) | Self::Panicked => {
                "internal"
            }
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Lagged { .. } => "lagged",
            Self::NotStarted(_) => "not_started",
            Self::LogGone(_) => "log_gone",
            Self::Unlinked(_) | Self::Shell(shell::Error::NoLink) => "unlinked",
            Self::LogReaders { .. } => "log_readers",
            Self::Watchers { .. } => "watchers",
            Self::NoReader(_) => "no_reader",
            Self::Silent { .. } => "silent",
        }
    }

    fn grpc(&self) -> Code {
        match self.code() {
            "invalid" | "definition" => Code::InvalidArgument,
            "unknown_task" | "unknown_run" | "unknown_definition" | "unknown_sidecar" | "log_gone" | "no_reader" => {
                Code::NotFound
            }
            "key_conflict" | "executor_conflict" | "definition_conflict" => Code::AlreadyExists,
            "state" | "not_started" | "unknown_type" | "scattered" | "run_family" => Code::FailedPrecondition,
            "full" | "busy" | "log_readers" | "watchers" => Code::ResourceExhausted,
            "stopping" | "unlinked" => Code::Unavailable,
            "unauthenticated" => Code::Unauthenticated,
            "lagged" => Code::Aborted,
            "silent" => Code::DeadlineExceeded,
            _ => Code::Internal,
        }
    }

    /// Writes a fault of ours to the log. A client's mistakes are the client's to know.
    pub(super) fn log_ours(&self) {
        if self.code() == "internal" {
            tracing::error!(error = %self, "a call failed inside the informer");
        }
    }

    /// Counts a refusal that is told to a peer.
    pub(super) fn count(&self) {
        if let Some(at) = CODES.iter().position(|code| *code == self.code()) {
            REFUSED[at].fetch_add(1, Relaxed);
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self.code() {
            "busy" => Some(RETRY_BUSY),
            "full" | "log_readers" | "watchers" => Some(RETRY_FULL),
            _ => None,
        }
    }
}

fn rejected(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::Unknown { .. } => "unknown_task",
        Rejection::UnknownRun { .. } => "unknown_run",
        Rejection::KeyConflict { .. } | Rejection::RunKeyConflict { .. } => "key_conflict",
        Rejection::State { .. } | Rejection::RunRefused { .. } => "state",
        Rejection::Full { .. }
        | Rejection::ExecutorsFull { .. }
        | Rejection::RunsFull { .. }
        | Rejection::DefinitionsFull { .. }
        | Rejection::Pollers { .. } => "full",
        Rejection::UnknownSidecar { .. } => "unknown_sidecar",
        Rejection::UnknownType { .. } => "unknown_type",
        Rejection::ExecutorConflict { .. } => "executor_conflict",
        Rejection::DefinitionConflict { .. } => "definition_conflict",
        Rejection::RunFamily { .. } => "run_family",
        Rejection::Scattered { .. } => "scattered",
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Field(fault)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.log_ours();
        error.count();
        let mut details = ErrorDetails::new();
        details.set_error_info(error.code(), DOMAIN, [("docs".to_owned(), "docs/errors.md".to_owned())]);
        if let Some(delay) = error.retry_after() {
            details.set_retry_info(Some(delay));
        }
        let faults = match &error {
            Error::Invalid(faults) => faults.list(),
            Error::Field(fault) => std::slice::from_ref(fault),
            _ => &[],
        };
        for fault in faults {
            details.add_bad_request_violation(&fault.field, format!("{}; {}", fault.problem, fault.remedy));
        }
        Self::with_error_details(error.grpc(), error.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Error> {
        let task = TaskId::from_u128(1);
        let state = Rejection::State { task, state: "running", why: "it must have ended" };
        let r#type = "thumb".to_owned();
        let rejected = [
            Rejection::KeyConflict { task },
            Rejection::Unknown { task },
            state,
            Rejection::Full { limit: 1 },
            Rejection::UnknownSidecar { sidecar: proto::id::SidecarId::from_u128(1) },
            Rejection::UnknownType { r#type: r#type.clone() },
            Rejection::ExecutorConflict { r#type },
            Rejection::ExecutorsFull { limit: 1 },
            Rejection::Scattered { task, limit: 1 },
            Rejection::DefinitionConflict { name: "w".to_owned(), version: 1 },
            Rejection::RunFamily { run: "r".into(), limit: 1 },
            Rejection::RunsFull { limit: 1 },
        ];
        let mut all: Vec<Error> = rejected.map(|rejection| Error::Shell(shell::Error::Rejected(rejection))).into();
        all.extend([
            Error::Shell(shell::Error::Busy),
            Error::Shell(shell::Error::Stopped("the disk is full".to_owned())),
            Error::Shell(shell::Error::Store("torn page".to_owned())),
            Error::Shell(shell::Error::NoLink),
            Error::Invalid(Faults::default()),
            Error::UnknownTask(task),
            Error::UnknownRun("r".to_owned()),
            Error::KnownKey("r".to_owned()),
            Error::Definition("nothing is registered".to_owned()),
            Error::UnknownDefinition { name: "w".to_owned(), version: 2 },
            Error::Unauthenticated(crate::edge::tls::Refusal::Missing),
            Error::Lagged { missed: 3 },
            Error::NotStarted("not yet".to_owned()),
            Error::LogGone("purged".to_owned()),
            Error::LogReaders { limit: 1 },
            Error::Watchers { limit: 1 },
            Error::NoReader(1),
            Error::Silent { what: "a hello", within_ms: 1 },
            Error::Stopping,
            Error::Payload(task),
            Error::Panicked,
        ]);
        all
    }

    #[test]
    fn each_code_is_documented_and_carried() {
        let docs = include_str!("../../../docs/errors.md");
        for error in all() {
            let code = error.code();
            assert!(CODES.contains(&code), "{code} is not counted");
            assert!(docs.contains(&format!("| `{code}` |")), "docs/errors.md does not explain {code}");
            let hint = error.retry_after();
            let status = Status::from(error);
            assert_eq!(status.get_details_error_info().map(|info| info.reason).as_deref(), Some(code));
            assert_eq!(status.get_details_retry_info().and_then(|info| info.retry_delay), hint);
            assert_eq!(hint.is_some(), status.code() == Code::ResourceExhausted, "{code}");
        }
    }
}
