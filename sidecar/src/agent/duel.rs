//! Two sidecars on copies of one data directory: only one of them may have the id.
//!
//! The one that the informer sends away ends with a status of its own, at which a supervisor had better not start it again. Many do
//! (`restartPolicy: Always` of a pod), and each start counts one up: it would come back as the newer one, take the id, be started again
//! over there, and so on for ever. So a loss is written down beside the ledger. For as long as it is fresh, the next start waits before
//! it links, longer after each loss, and its hello says that it yields: it is sent away again as long as another one is linked.

use super::{Error, clock};
use proto::id::SidecarId;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

/// Where the losses stand, in the data directory.
const FILE: &str = "superseded";
/// Pause after the first loss, doubled with each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause: whoever has removed the other one should not wait longer than that.
const PAUSE_CAP: Duration = Duration::from_secs(300);
/// A loss that is older than this counts no more: much longer than the longest pause, or the pauses would never grow to it.
const FRESH_MS: u64 = 3_600_000;

/// How often, and when at last, the id was lost to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Losses {
    count: u32,
    last_unix_ms: u64,
}

/// What this data directory has lost.
#[derive(Debug)]
pub(super) struct Duel {
    path: PathBuf,
    id: SidecarId,
    losses: Option<Losses>,
}

impl Duel {
    /// As the directory tells. What cannot be read, is of another id, or is long ago, is no loss.
    pub(super) fn open(data: &Path, id: SidecarId) -> Self {
        let path = data.join(FILE);
        let losses = std::fs::read_to_string(&path).ok().and_then(|text| parse(&text, id));
        let is_fresh = |losses: &Losses| clock::now().wall_ms.abs_diff(losses.last_unix_ms) < FRESH_MS;
        Self { path, id, losses: losses.filter(is_fresh) }
    }

    /// Waits as long as its losses demand, and says why; false if it was `told` to end meanwhile. Dropping it loses nothing.
    pub(super) async fn waited(&self, told: Pin<&mut impl Future<Output = ()>>) -> bool {
        let Some(Losses { count, .. }) = self.losses else { return true };
        let pause = pause(count);
        tracing::warn!(
            losses = count,
            "another process, which runs on a copy of this data directory, took the id of this sidecar; only one of them may run. Give \
             one of them a data directory of its own; trying again in {} s",
            pause.as_secs()
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = told => false,
        }
    }

    /// Whether another one that is linked is not to be disturbed.
    pub(super) const fn yields(&self) -> bool {
        self.losses.is_some()
    }

    /// How this agent ended: if another one has taken its id, that is written down.
    pub(super) fn settle(self, result: Result<(), Error>) -> Result<(), Error> {
        if matches!(result, Err(Error::Superseded(_))) {
            self.lose();
        }
        result
    }

    fn lose(self) {
        let count = self.losses.map_or(0, |losses| losses.count).saturating_add(1);
        // Not flushed: a power cut that takes it costs one more turn.
        if let Err(error) = write(&self.path, self.id, Losses { count, last_unix_ms: clock::now().wall_ms }) {
            tracing::warn!(%error, file = %self.path.display(), "cannot note that another sidecar has this id");
        }
    }
}

fn pause(count: u32) -> Duration {
    PAUSE.saturating_mul(1_u32.checked_shl(count.saturating_sub(1)).unwrap_or(u32::MAX)).min(PAUSE_CAP)
}

fn write(path: &Path, id: SidecarId, losses: Losses) -> io::Result<()> {
    std::fs::write(path, format!("{id} {} {}\n", losses.count, losses.last_unix_ms))
}

fn parse(text: &str, id: SidecarId) -> Option<Losses> {
    let mut words = text.split_whitespace();
    let of: SidecarId = words.next()?.parse().ok()?;
    let losses = Losses { count: words.next()?.parse().ok()?, last_unix_ms: words.next()?.parse().ok()? };
    (of == id && words.next().is_none()).then_some(losses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_and_pauses_grow_to_a_cap() {
        let data = std::env::temp_dir().join(format!("sidecar-duel-{}", std::process::id()));
        std::fs::create_dir_all(&data).expect("a directory");
        let id = SidecarId::from_u128(7);
        assert!(!Duel::open(&data, id).yields());
        for (count, seconds) in [(1, 1), (2, 2), (3, 4)] {
            Duel::open(&data, id).lose();
            let losses = Duel::open(&data, id).losses.map(|losses| losses.count);
            assert_eq!((losses, pause(count)), (Some(count), Duration::from_secs(seconds)));
        }
        assert!(!Duel::open(&data, SidecarId::from_u128(8)).yields(), "a new ledger has a new id");
        write(&data.join(FILE), id, Losses { count: 3, last_unix_ms: 1 }).expect("written");
        assert!(!Duel::open(&data, id).yields(), "that was long ago");
        assert_eq!(
            [pause(9), pause(10), pause(40), pause(u32::MAX)].map(|pause| pause.as_secs()),
            [256, 300, 300, 300]
        );
        std::fs::remove_dir_all(&data).expect("removed");
    }

    #[test]
    fn garbage_is_no_loss() {
        let id = SidecarId::from_u128(7);
        for text in ["", "x", "1 2 3", &format!("{id} 1"), &format!("{id} -1 2"), &format!("{id} 1 2 3")] {
            assert_eq!(parse(text, id), None, "{text:?}");
        }
        assert_eq!(parse(&format!("{id} 1 2\n"), id), Some(Losses { count: 1, last_unix_ms: 2 }));
    }
}
