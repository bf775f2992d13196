//! Whether the data directory is still ours: one that was removed or moved away under a running agent holds nothing durable any more.

use super::shell::Input;
use super::{Error, lease};
use crate::ledger;
use keeper::record::Home;
use std::fs::{DirBuilder, File, metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two looks: a fraction of a beat, so that few tasks are taken in vain; each look is six `stat`s.
const LOOK: Duration = Duration::from_secs(1);

/// A directory is removed file by file; so long after the first, the whole of it is gone, if it goes.
const SETTLE: Duration = Duration::from_millis(200);

/// The paths that must go on naming what they named at the start.
#[derive(Debug)]
pub(super) struct Place {
    pins: Vec<(PathBuf, (u64, u64))>,
    directory: Home,
    /// Keep their numbers from being given to directories made in their place; the files are held open by lock and ledger.
    _dirs: [File; 2],
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Place {
    /// The directory as it is now, with that of the attempts, lock and ledger open. The ledger's files are not opened here: closing them would drop the locks
    /// that SQLite has on them.
    pub(super) fn pin(data: &Path) -> io::Result<Self> {
        let dir = File::open(data)?;
        let attempts = data.join(keeper::record::ATTEMPTS);
        // Its keeper may not have come to it yet, or be in another container.
        DirBuilder::new().recursive(true).mode(0o700).create(&attempts)?;
        let held = File::open(&attempts)?;
        let paths = [data.to_owned(), attempts].into_iter().chain(ledger::FILES.map(|file| data.join(file)));
        let pins = paths.map(|path| identity(&path).map(|id| (path, id))).collect::<io::Result<_>>()?;
        let directory = Home::of(&held.metadata()?);
        Ok(Self { pins, directory, _dirs: [dir, held] })
    }

    /// Which directory the attempts are in.
    pub(super) fn directory(&self) -> Home {
        self.directory
    }

    /// The first path that names nothing or something else. An answer that says neither (a sick disk) is no finding.
    pub(super) fn lost(&self) -> Option<&Path> {
        let lost = |path: &Path, id: &(u64, u64)| match identity(path) {
            Ok(found) => found != *id,
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        self.pins.iter().find(|(path, id)| lost(path, id)).map(|(path, _)| path.as_path())
    }
}

/// What it means: a keeper ends what runs when its directories are gone, and knows nothing of the agent's own files.
fn told(path: PathBuf) -> Error {
    let is_file = ledger::FILES.iter().any(|file| path.ends_with(file));
    if is_file { Error::Lost { path } } else { Error::Vanished { path } }
}

/// Looks until something is gone, and tells. Not in the first thread: a `stat` may wait for a disk. The lease page may go: it is made again.
pub(super) fn watch(place: Arc<Place>, mut lease: lease::Watch, inbox: mpsc::Sender<Input>) -> io::Result<()> {
    let look = move || {
        loop {
            std::thread::sleep(LOOK);
            if inbox.is_closed() {
                return;
            }
            lease.look();
            if place.lost().is_some() {
                std::thread::sleep(SETTLE);
            }
            if let Some(path) = place.lost() {
                let _ended = inbox.blocking_send(Input::Lost(told(path.to_owned())));
                return;
            }
        }
    };
    std::thread::Builder::new().name("place".into()).spawn(look).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_moved_or_replaced_is_found() {
        let data = std::env::temp_dir().join(format!("sidecar-place-{}", std::process::id()));
        let make = || {
            std::fs::create_dir_all(&data).expect("a directory");
            ledger::FILES.map(|file| File::create(data.join(file)).expect("a file"))
        };
        let held = make();
        let place = Place::pin(&data).expect("all there");
        assert_eq!(place.lost(), None);
        let first = data.join(ledger::FILES[0]);
        std::fs::hard_link(&first, data.join("kept")).expect("a second name");
        std::fs::remove_file(&first).expect("removed");
        assert_eq!(place.lost(), Some(&*first));
        assert!(matches!(told(first.clone()), Error::Lost { .. }), "its keeper goes on");
        File::create(&first).expect("made again");
        assert_eq!(place.lost(), Some(&*first), "another file of the same name");
        std::fs::remove_file(&first).expect("removed");
        std::fs::hard_link(data.join("kept"), &first).expect("put back");
        assert_eq!(place.lost(), None);
        let attempts = data.join(keeper::record::ATTEMPTS);
        std::fs::remove_dir(&attempts).expect("removed");
        assert_eq!(place.lost(), Some(&*attempts));
        assert!(matches!(told(attempts.clone()), Error::Vanished { .. }), "its keeper ends what runs");
        std::fs::create_dir(&attempts).expect("made again");
        assert_eq!(place.lost(), Some(&*attempts), "another directory of the same name");
        let moved = data.with_extension("moved");
        std::fs::rename(&data, &moved).expect("moved");
        assert_eq!(place.lost(), Some(&*data));
        let again = make();
        assert_eq!(place.lost(), Some(&*data), "another directory of the same name");
        drop((held, again));
        std::fs::remove_dir_all(&data).expect("removed");
        std::fs::remove_dir_all(&moved).expect("removed");
    }
}
