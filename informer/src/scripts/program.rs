//! Which program a host is: the informer itself, and within another program the `informer` beside it, or the one that was named.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Error;

/// Of this process, whatever became of the file since it started: a host is of the same build even after an upgrade in place.
const OWN: &str = "/proc/self/exe";

/// This process is an informer, and knows the verb.
static IS_INFORMER: AtomicBool = AtomicBool::new(false);

/// For the command line: this process's own program can be a host.
pub(crate) fn is_informer() {
    IS_INFORMER.store(true, Ordering::Relaxed);
}

/// A program that can be a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program(PathBuf);

impl Program {
    /// The one that was named, or else found.
    pub(super) fn find(named: Option<&Path>) -> Result<Self, Error> {
        if let Some(named) = named {
            return Ok(Self(named.to_owned()));
        }
        if IS_INFORMER.load(Ordering::Relaxed) {
            return Ok(Self(OWN.into()));
        }
        let own = std::env::current_exe().map_err(|source| Error::Start { program: OWN.into(), source })?;
        let beside = own.with_file_name("informer");
        if beside.is_file() { Ok(Self(beside)) } else { Err(Error::NoProgram { looked_at: beside }) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_program_is_taken_as_it_is() {
        let named = Path::new("/opt/informer");
        assert_eq!(Program::find(Some(named)).expect("it is named").path(), named);
    }

    #[test]
    fn where_there_is_none_the_error_says_where_it_was_looked_for() {
        // Tests lie in a directory of their own, without the informer.
        match Program::find(None) {
            Err(Error::NoProgram { looked_at }) => assert!(looked_at.ends_with("informer")),
            other => panic!("{other:?}"),
        }
    }
}
