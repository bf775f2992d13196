//! One owner per data directory.

use super::fault::refused;
use crate::store::Error;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Its name inside the data directory.
const FILE: &str = "informer.lock";

/// Held while the store is open; the kernel releases it with the process, however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// The lock of a directory that no informer has open; `None` if one has. Nothing is made or written: this may be another user than the
    /// informer's, whose lock file would shut it out.
    pub(super) fn of_nobody(data: &Path) -> Result<Option<Self>, Error> {
        let path = data.join(FILE);
        let failed = |source| refused("lock", &path, source);
        let file = match File::open(&path) {
            // Made by the first start, before the database.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::open(data).map_err(failed)?,
            file => file.map_err(failed)?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(failed(errno.into())),
        }
    }

    pub(super) fn take(data: &Path) -> Result<Self, Error> {
        let path = data.join(FILE);
        let failed = |source| refused("lock", &path, source);
        // Not truncated: until the lock is ours, the file holds the pid of its owner.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // Only a courtesy to the reader of the message.
                let owner = file.read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
                return Err(Error::Locked { path: data.to_owned(), owner });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}
