//! What can go wrong in a verb, each as one line for the person at the terminal, and the exit status it means.

use std::{error::Error as _, io, path::PathBuf};

use proto::dial;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A verb's failure. Its text says what was attempted, on what, why it failed and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What was asked for cannot be meant.
    #[error("{0}")]
    Misuse(String),
    /// What was written is no quantity, or not once.
    #[error(transparent)]
    Units(#[from] super::units::Error),
    /// The address is no address of an informer.
    #[error(
        "{url:?} is no address of an informer: {problem}; write one like http://127.0.0.1:7070 or https://HOST:7070 in --informer or \
         INFORMER_URL"
    )]
    Address { url: String, problem: &'static str },
    /// What was given to reach it cannot be used.
    #[error("cannot reach the informer at {url}: {cause}")]
    Access { url: String, cause: String },
    /// A configuration file is wrong; one line for each fault.
    #[error(transparent)]
    Settings(#[from] proto::settings::Faults),
    /// Nobody answers there.
    #[error("cannot reach the informer at {url}: {cause}; {remedy}")]
    Unreachable { url: String, cause: String, remedy: &'static str },
    /// It was there and did not come back in time.
    #[error(
        "lost the informer at {url} and gave up after {waited_s} s: {cause}; the task, if it was accepted, runs on without us"
    )]
    Gone { url: String, waited_s: u64, cause: String },
    /// The informer said no.
    #[error("cannot {attempted}: {message}")]
    Refused { attempted: String, code: Code, message: String },
    /// A file of the user's could not be read.
    #[error("cannot read {}: {}", path.display(), innermost(source))]
    Read { path: PathBuf, source: io::Error },
    /// A file of the user's says nothing we understand.
    #[error("{}:{line}: {problem}", path.display())]
    Content { path: PathBuf, line: usize, problem: String },
    /// Our own output went nowhere.
    #[error("cannot write the output: {}", innermost(.0))]
    Output(#[from] io::Error),
    /// Something of this machine refused.
    #[error("cannot {attempted}: {}{remedy}", innermost(source))]
    Local { attempted: String, source: io::Error, remedy: &'static str },
    /// The informer in this process failed.
    #[error("{0}")]
    Server(String),
    /// Interrupted before the informer answered.
    #[error(
        "interrupted while submitting; if the informer has the task, submitting it again with --key {key} gives its id"
    )]
    Interrupted { key: String },
    /// Interrupted for the second time: the task was told to stop and we did not wait.
    #[error(
        "left {what} {id} while it was being cancelled: nothing of it starts any more, and what runs is being stopped; \
         `informer show {id}` tells how it ends"
    )]
    Left { what: &'static str, id: String },
    /// The reader of our output went away while the task runs.
    #[error(
        "nobody reads the output any more; task {id} goes on: `informer logs -f {id}` shows it, `informer cancel {id}` ends it"
    )]
    Unread { id: String },
}

/// What helps when nobody answers.
const START: &str = "start one with `informer dev`, or name another with --informer";
/// What may help when somebody answers who cannot be understood.
const START_OR_TLS: &str =
    "start one with `informer dev`, name another with --informer, or write https:// if this one speaks TLS";

impl Error {
    /// A connection that could not be opened, or that broke.
    pub(crate) fn unreachable(url: &str, source: &(dyn std::error::Error + 'static)) -> Self {
        let cause = innermost(source);
        match dial::Error::behind(source) {
            Some(dial::Error::Connect(_)) => Self::Unreachable { url: url.to_owned(), cause, remedy: START },
            Some(_) => Self::Access { url: url.to_owned(), cause },
            // A connection that breaks in the middle, or somebody who speaks TLS and was not understood: they look alike.
            None if url.starts_with("http://") => {
                Self::Unreachable { url: url.to_owned(), cause, remedy: START_OR_TLS }
            }
            None => Self::Unreachable { url: url.to_owned(), cause, remedy: START },
        }
    }

    /// The informer's answer as an error of the attempt; a broken connection as [`Error::Unreachable`].
    pub(crate) fn from_status(attempted: &str, url: &str, status: &Status) -> Self {
        if let Some(source) = status.source() {
            return Self::unreachable(url, source);
        }
        let message = match status.code() {
            Code::Unimplemented => format!("what answers at {url} is not an informer of this version"),
            code if status.message().is_empty() => format!("the informer at {url} answered {code}"),
            _ => one_line(status.message()),
        };
        Self::Refused { attempted: attempted.to_owned(), code: status.code(), message: with_code(message, status) }
    }

    /// Exit status of verbs other than `run` and `wait`: 2 for misuse, 1 for failure.
    pub(crate) fn exit(&self) -> u8 {
        match self {
            Self::Misuse(_)
            | Self::Units(_)
            | Self::Address { .. }
            | Self::Access { .. }
            | Self::Content { .. }
            | Self::Settings(_) => super::exit::MISUSE,
            Self::Refused { code: Code::InvalidArgument, .. } => super::exit::MISUSE,
            _ => super::exit::FAILURE,
        }
    }

    /// What is told: one line, except of a file with several faults, which stand as editors and terminals find them.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Settings(faults) => faults.lines().to_vec(),
            error => vec![format!("error: {error}")],
        }
    }

    /// The reader of our output went away (`informer list | head`): nothing to tell anybody.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The documented code after the message, so that a person can look it up in docs/errors.md.
fn with_code(message: String, status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) if !info.reason.is_empty() => format!("{message} [{}]", info.reason),
        _ => message,
    }
}

/// The connection failed, as opposed to the informer having answered: only then has a status a source.
pub(crate) fn is_transport(status: &Status) -> bool {
    status.source().is_some()
}

/// The informer says that there is no such log.
pub(crate) fn is_log_gone(status: &Status) -> bool {
    !is_transport(status) && status.get_details_error_info().is_some_and(|info| info.reason == "log_gone")
}

/// Worth another try: the connection failed, or the informer says that it cannot right now.
pub(crate) fn is_passing(status: &Status) -> bool {
    is_transport(status) && !speaks_otherwise(status)
        || !is_transport(status) && matches!(status.code(), Code::Unavailable | Code::ResourceExhausted)
}

/// Whoever answered does not speak HTTP/2: TLS, or another protocol altogether. No patience mends that.
fn speaks_otherwise(status: &Status) -> bool {
    use h2::Reason;
    let mut next = status.source();
    while let Some(error) = next {
        let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
        if matches!(reason, Some(Reason::FRAME_SIZE_ERROR | Reason::PROTOCOL_ERROR)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The innermost cause of a status, without the layers of wrapping that say nothing to a person.
pub(crate) fn cause(status: &Status) -> String {
    let Some(source) = status.source() else { return one_line(status.message()) };
    innermost(source)
}

/// The innermost error of a chain, in lower case and without the errno.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    let text = one_line(&last.to_string());
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// A peer's text on one line, without control characters that would move the terminal's cursor.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_one_line_and_has_its_status() {
        let status = Status::invalid_argument("command.argv: is empty;\ngive a program");
        let error = Error::from_status("submit the task", "http://h:1", &status);
        assert_eq!(error.to_string(), "cannot submit the task: command.argv: is empty; give a program");
        assert_eq!(error.exit(), 2);
        assert_eq!(Error::from_status("show", "u", &Status::not_found("no such task")).exit(), 1);
    }

    #[test]
    fn a_code_is_shown_for_looking_it_up() {
        let details =
            tonic_types::ErrorDetails::with_error_info("KEY_REUSED", "informer", [("a".to_owned(), "b".to_owned())]);
        let status =
            <Status as tonic_types::StatusExt>::with_error_details(Code::AlreadyExists, "the key is taken", details);
        let error = Error::from_status("submit the task", "u", &status);
        assert_eq!(error.to_string(), "cannot submit the task: the key is taken [KEY_REUSED]");
        assert_eq!(error.exit(), 1);
    }

    #[test]
    fn a_broken_connection_names_its_innermost_cause_and_the_remedy() {
        let refused = io::Error::from_raw_os_error(111);
        let status = Status::from_error(Box::new(io::Error::other(refused)));
        let error = Error::from_status("list tasks", "http://127.0.0.1:7070", &status);
        let text = error.to_string();
        assert!(
            text.starts_with("cannot reach the informer at http://127.0.0.1:7070: connection refused; start one"),
            "{text}"
        );
    }
}
