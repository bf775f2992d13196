//! What was acknowledged, kept beside the database, so that a log that lost its tail is not taken for a shorter one.
//!
//! ```text
//!   commit ─▶ database and log, flushed ─▶ witness: its number, not flushed ─▶ told to anybody
//! ```
//!
//! SQLite believes its log up to the first frame that is not whole, for a commit that was cut off by a crash looks no other. Only what lies
//! outside can tell whether somebody was told of it. The witness is written after the flush has returned and never flushed itself:
//! after a power cut it may be older than the database, never newer. So a database below its witness has lost what was acknowledged,
//! and a witness that is missing, torn or another store's says nothing and stops no start.

use super::meta::Meta;
use crate::store::{Error, Identity, Reached};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What it begins with.
const MAGIC: &[u8; 8] = b"INFRSEEN";
/// Magic, lineage, epoch, commit, and the first bytes of their SHA-256. Within one sector, which a disk writes whole or not at all.
const BYTES: usize = 8 + 16 + 8 + 8 + 8;
/// Where the checksum begins.
const SUMMED: usize = BYTES - 8;

/// What a witness says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement {
    lineage: Uuid,
    reached: Reached,
}

/// The file beside a database; it never fails a commit.
#[derive(Debug)]
pub(super) struct Witness {
    /// `None`: it could not be written. What is in it is older then, which is harmless.
    file: Option<File>,
    path: PathBuf,
    lineage: Uuid,
}

/// The witness of a database.
pub(super) fn beside(database: &Path) -> PathBuf {
    super::open::beside(database, "-witness")
}

/// What the witness of a database says; `None` if it says nothing.
pub(super) fn read(database: &Path) -> Option<Statement> {
    let bytes = std::fs::read(beside(database)).ok()?;
    Statement::decode(&bytes)
}

impl Statement {
    fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(self.lineage.as_bytes());
        bytes[24..32].copy_from_slice(&self.reached.epoch.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.reached.commit_seq.to_le_bytes());
        let sum = Sha256::digest(&bytes[..SUMMED]);
        bytes[SUMMED..].copy_from_slice(&sum[..BYTES - SUMMED]);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
        let whole = bytes[..8] == *MAGIC && Sha256::digest(&bytes[..SUMMED])[..BYTES - SUMMED] == bytes[SUMMED..];
        let reached = Reached { epoch: number(24)?, commit_seq: number(32)? };
        whole.then_some(Self { lineage: Uuid::from_slice(&bytes[8..24]).ok()?, reached })
    }

    /// Whether a database has all that this says.
    ///
    /// # Errors
    /// [`Error::Behind`].
    pub(super) fn judge(&self, found: Option<Meta>, path: &Path) -> Result<(), Error> {
        match found {
            Some(meta) if self.is_of(meta.lineage) && meta.reached.lacks(self.reached) => {
                Err(self.behind(path, Some(meta.reached)))
            }
            // Another store's, or unreadable: the opening itself says what of.
            _ => Ok(()),
        }
    }

    /// Whether it is about this store.
    pub(super) fn is_of(&self, lineage: Uuid) -> bool {
        self.lineage == lineage
    }

    /// The error of a database that is not there; none if nothing was ever stored in it.
    pub(super) fn missing(&self, path: &Path) -> Option<Error> {
        (self.reached.commit_seq > 0).then(|| self.behind(path, None))
    }

    fn behind(&self, path: &Path, found: Option<Reached>) -> Error {
        Error::Behind { path: path.to_owned(), witness: beside(path), found, acknowledged: self.reached }
    }
}

impl Witness {
    /// Begins to witness a store that was opened. From here on what an earlier life has said no longer counts, also after a power
    /// cut: hence the one flush.
    pub(super) fn begin(database: &Path, identity: &Identity) -> Self {
        let (path, lineage) = (beside(database), identity.lineage.parse().unwrap_or_default());
        let mut witness = Self { file: None, path, lineage };
        let statement = witness.statement(Reached { epoch: identity.epoch, commit_seq: identity.commit_seq });
        match create(&witness.path, &statement.encode()) {
            Ok(file) => witness.file = Some(file),
            Err(error) => witness.tell(&error),
        }
        witness
    }

    fn statement(&self, reached: Reached) -> Statement {
        Statement { lineage: self.lineage, reached }
    }

    /// A commit is durable, and nobody knows of it yet.
    pub(super) fn note(&mut self, reached: Reached) {
        let statement = self.statement(reached);
        let Some(file) = &self.file else { return };
        if let Err(error) = file.write_all_at(&statement.encode(), 0) {
            self.tell(&error);
            self.file = None;
        }
    }

    fn tell(&self, error: &io::Error) {
        tracing::warn!(path = %self.path.display(), %error, "cannot write down what is acknowledged: until the next start a database whose log is cut is not told from an older one");
    }
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_whole_or_says_nothing() {
        let statement = Statement { lineage: Uuid::from_u128(7), reached: Reached { epoch: 3, commit_seq: u64::MAX } };
        let bytes = statement.encode();
        assert_eq!(Statement::decode(&bytes), Some(statement));
        for cut in 0..BYTES {
            assert_eq!(Statement::decode(&bytes[..cut]), None, "{cut} bytes");
            let mut damaged = bytes;
            damaged[cut] ^= 1;
            assert_eq!(Statement::decode(&damaged), None, "byte {cut}");
        }
        assert_eq!(Statement::decode(&[&bytes[..], &[0]].concat()), None);
    }
}
