//! The one owner of a data directory.

use super::Error;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

/// Name of the lock inside the data directory.
pub(super) const FILE: &str = "sidecar.lock";

/// Held while the agent lives; the kernel lets go of it however the agent ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, making the data directory if it is absent.
    ///
    /// # Errors
    /// [`Error::Taken`] names the owner; [`Error::Directory`] if the directory cannot be made or written.
    pub fn take(data_dir: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::Directory { dir: data_dir.to_owned(), source };
        std::fs::create_dir_all(data_dir).map_err(unusable)?;
        let path = data_dir.join(FILE);
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // For people only: an unreadable one is shown as such.
                let _length = file.read_to_string(&mut owner);
                let owner = owner.trim().parse().unwrap_or(0);
                return Err(Error::Taken { dir: data_dir.to_owned(), owner });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(unusable(source)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(unusable)?;
        writeln!(file, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self { _file: file })
    }

    /// Whether an agent lives there.
    #[must_use]
    pub fn is_held(data_dir: &Path) -> bool {
        let file = File::options().read(true).write(true).open(data_dir.join(FILE));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)))
    }
}
