//! Who this sidecar is, in a file of its own: `<data>/sidecar.id`, one line.
//!
//! ```text
//! sidecar 3f2a…-… incarnation 12 check 8c1d52f0
//! ```
//!
//! The informer knows each attempt by the id of the sidecar that it gave it to. Under another one whatever runs here would be unknown to
//! it, so the id must outlive the ledger, which may be damaged, moved away or put back in time; and so must the count of starts, by which
//! the informer tells the newest agent.

use super::{Error, Meta};
use crate::agent::failpoint;
use keeper::record::crc32;
use proto::id::SidecarId;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Name of the file inside the data directory.
pub(super) const FILE: &str = "sidecar.id";
/// Where it is written before it takes its place.
const FRESH: &str = "sidecar.id.new";
/// Longest file that is read: its one line has at most a hundred bytes.
const BYTES: u64 = 4096;

/// A sidecar, and how often its agent was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Made once.
    pub sidecar: SidecarId,
    /// Grows with each start.
    pub incarnation: u64,
}

impl Identity {
    /// The identity for the next start, of what the file and the ledger tell of the last one. This is the one place that decides:
    ///
    /// - without a ledger the file has the id, so that the sidecar stays who it is;
    /// - without a file the ledger has it: an earlier build made the directory, or the file is lost;
    /// - if both have one and they differ, the ledger's: what it holds was given under it. Such a directory is a mixture, or an earlier
    ///   build that does not know the file has made a new ledger in it;
    /// - with neither it is a new one;
    /// - the count of starts is above both: either may be an older copy.
    pub(super) fn next(file: Option<Self>, ledger: Option<&Meta>, fresh: SidecarId) -> Self {
        let counted = file.map_or(0, |it| it.incarnation).max(ledger.map_or(0, |meta| meta.incarnation));
        if let (Some(file), Some(meta)) = (file, ledger)
            && file.sidecar != meta.sidecar
        {
            tracing::warn!(
                id = %meta.sidecar, file = %file.sidecar,
                "{FILE} names another sidecar than the ledger; going on as the ledger's"
            );
        }
        let sidecar = ledger.map(|meta| meta.sidecar).or(file.map(|file| file.sidecar)).unwrap_or(fresh);
        Self { sidecar, incarnation: counted.saturating_add(1) }
    }

    /// What the file tells; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Identity`]: it cannot be read, or is damaged. It is left as it is.
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>, Error> {
        let path = data_dir.join(FILE);
        let bytes = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| unreadable(&path, source.to_string()))?,
        };
        match String::from_utf8(bytes).ok().as_deref().and_then(parse) {
            Some(identity) => Ok(Some(identity)),
            None => Err(unreadable(&path, "it is damaged".to_owned())),
        }
    }

    /// Puts it into the file: when this returns, it is on the disk, and until then the file is what it was.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn write(&self, data_dir: &Path) -> io::Result<()> {
        let fresh = data_dir.join(FRESH);
        let mut file = File::create(&fresh)?;
        file.write_all(self.line().as_bytes())?;
        file.sync_all()?;
        failpoint::reach("before-identity");
        std::fs::rename(&fresh, data_dir.join(FILE))?;
        File::open(data_dir)?.sync_all()?;
        failpoint::reach("after-identity");
        Ok(())
    }

    fn line(&self) -> String {
        let words = format!("sidecar {} incarnation {}", self.sidecar, self.incarnation);
        format!("{words} check {:08x}\n", crc32(words.as_bytes()))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, BYTES), &mut bytes)?;
    Ok(bytes)
}

fn unreadable(path: &Path, what: String) -> Error {
    Error::Identity { path: PathBuf::from(path), what }
}

/// Only the line that would be written is one: a blank or a zero too many shows that somebody else was here.
fn parse(text: &str) -> Option<Identity> {
    let mut words = text.split_ascii_whitespace();
    let mut after = |name: &str| if words.next()? == name { words.next() } else { None };
    let (sidecar, incarnation) = (after("sidecar")?.parse().ok()?, after("incarnation")?.parse().ok()?);
    Some(Identity { sidecar, incarnation }).filter(|identity| identity.line() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Identity = Identity { sidecar: SidecarId::from_u128(7), incarnation: 12 };

    fn meta(sidecar: u128, incarnation: u64) -> Meta {
        Meta {
            sidecar: SidecarId::from_u128(sidecar),
            incarnation,
            informer: String::new(),
            seen: proto::v1::Identity::default(),
            highest_fence: proto::id::Fence::default(),
        }
    }

    #[test]
    fn only_a_whole_line_is_believed() {
        let line = ONE.line();
        assert_eq!(parse(&line), Some(ONE));
        for at in 0..line.len() {
            assert_eq!(parse(&line[..at]), None, "cut at {at}");
            for other in [b'0', b'1', b'f', b' ', b'\n'] {
                let mut bytes = line.clone().into_bytes();
                bytes[at] = other;
                let turned = String::from_utf8(bytes).expect("it is ASCII");
                assert_eq!(parse(&turned), (turned == line).then_some(ONE), "{turned:?}");
            }
        }
        assert_eq!(parse(&format!("{line}{line}")), None);
    }

    #[test]
    fn the_ledger_has_the_id_and_nobody_counts_back() {
        let next = |file, ledger: Option<Meta>| {
            let next = Identity::next(file, ledger.as_ref(), SidecarId::from_u128(1));
            (next.sidecar.as_u128(), next.incarnation)
        };
        assert_eq!(next(None, None), (1, 1), "a new one");
        assert_eq!(next(Some(ONE), None), (7, 13), "the ledger is lost");
        assert_eq!(next(None, Some(meta(7, 4))), (7, 5), "an earlier build's directory");
        assert_eq!(next(Some(ONE), Some(meta(7, 4))), (7, 13), "an older ledger");
        assert_eq!(next(Some(ONE), Some(meta(7, 40))), (7, 41), "an older file");
        assert_eq!(next(Some(ONE), Some(meta(9, 40))), (9, 41), "a mixture");
        assert_eq!(next(None, Some(meta(7, u64::MAX))), (7, u64::MAX));
    }
}
