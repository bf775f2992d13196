//! The result of an attempt: a JSON object that its process leaves in the file that `TASK_RESULT` names.
//!
//! The file lies in the attempt's own directory, so it outlives agent and keeper; it is read when the process has ended, and again by the
//! next agent for as long as the end is not in the ledger.

use proto::bounds::RESULT_BYTES;
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The file in `work/`: hidden, so that no task meets it by accident.
pub(crate) const FILE: &str = ".task-result.json";

/// The variable that names it.
pub(super) const VARIABLE: &str = "TASK_RESULT";

/// Why there is no result although there is a file. A success with one of these is none: what comes after the task would go on with an
/// output that its author never saw.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More than the wire carries.
    #[error("it has more than {RESULT_BYTES} bytes, which is the bound of a result; leave a file's path in it instead")]
    TooLarge,
    /// A link, a pipe, a directory.
    #[error("it is no regular file")]
    NotAFile,
    /// Not JSON, or JSON of another type.
    #[error("it is no JSON object: {0}")]
    NotAnObject(serde_json::Error),
    /// The system cannot read it.
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
}

/// Reads the result of an attempt; empty if its process has left none. No link is followed and no pipe waited for: the file is the task's,
/// and the eyes are the sidecar's.
///
/// # Errors
/// There is one, and it cannot be taken.
pub fn read(attempt_dir: &Path) -> Result<Vec<u8>, Error> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match open(attempt_dir.join("work"), flags | OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(Error::NotAFile),
        Err(errno) => return Err(Error::Read(errno.into())),
    };
    let file = match openat(&dir, FILE, flags | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(Vec::new()),
        Err(Errno::LOOP | Errno::NXIO) => return Err(Error::NotAFile),
        Err(errno) => return Err(Error::Read(errno.into())),
    };
    if !file.metadata()?.is_file() {
        return Err(Error::NotAFile);
    }
    let mut bytes = Vec::new();
    file.take(RESULT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > RESULT_BYTES {
        return Err(Error::TooLarge);
    }
    // As the informer will read it, its limit on nesting included.
    let _object: Map<String, Value> = serde_json::from_slice(&bytes).map_err(Error::NotAnObject)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn dir(label: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("result-{}-{label}", std::process::id()));
        fs::create_dir_all(path.join("work")).expect("a directory");
        path
    }

    #[test]
    fn an_object_is_taken_and_nothing_else() {
        let dir = dir("kinds");
        let file = dir.join("work").join(FILE);
        assert!(read(&dir).expect("no file").is_empty());
        for object in ["{}", " {\"a\": [1, 2.5, null]}\n"] {
            fs::write(&file, object).expect("written");
            assert_eq!(read(&dir).expect("a result"), object.as_bytes());
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for wrong in ["", "[]", "3", "{\"a\":", "{} {}", "\u{fffd}", &deep] {
            fs::write(&file, wrong).expect("written");
            assert!(matches!(read(&dir), Err(Error::NotAnObject(_))), "{wrong:?} was taken");
        }
        fs::write(&file, [b'"', 0xff, b'"']).expect("written");
        assert!(matches!(read(&dir), Err(Error::NotAnObject(_))));
        fs::remove_dir_all(&dir).expect("removed");
        assert!(read(&dir).expect("no directory").is_empty());
    }

    #[test]
    fn the_bound_is_exact() {
        let dir = dir("bound");
        let longest = format!("{{\"a\":\"{}\"}}", "x".repeat(RESULT_BYTES - 8));
        assert_eq!(longest.len(), RESULT_BYTES);
        fs::write(dir.join("work").join(FILE), &longest).expect("written");
        assert_eq!(read(&dir).expect("a result").len(), RESULT_BYTES);
        fs::write(dir.join("work").join(FILE), longest + " ").expect("written");
        assert!(matches!(read(&dir), Err(Error::TooLarge)));
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn what_is_no_file_is_neither_followed_nor_waited_for() {
        let dir = dir("links");
        let (work, file) = (dir.join("work"), dir.join("work").join(FILE));
        fs::write(dir.join("secret"), "{}").expect("written");
        std::os::unix::fs::symlink("../secret", &file).expect("a link");
        assert!(matches!(read(&dir), Err(Error::NotAFile)));
        fs::remove_file(&file).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .expect("a pipe");
        assert!(matches!(read(&dir), Err(Error::NotAFile)));
        fs::remove_dir_all(&work).expect("removed");
        std::os::unix::fs::symlink(".", &work).expect("a link");
        assert!(matches!(read(&dir), Err(Error::NotAFile)));
        fs::remove_dir_all(&dir).expect("removed");
    }
}
