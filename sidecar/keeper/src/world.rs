//! What the keeper finds out once, and every monitor inherits by the fork.

use std::io;
use std::path::PathBuf;

use keeper::identity::Place;
use keeper::lease::LeasePage;
use keeper::record;
use keeper::wire::Fencing;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cgroup::Groups;
use crate::spawn::init;

/// Facts that do not change while the keeper lives.
pub(crate) struct World {
    pub(crate) data_dir: PathBuf,
    pub(crate) attempts_dir: PathBuf,
    pub(crate) place: Place,
    /// The keeper's own: a monitor has closed its descriptors, and opens the page anew.
    pub(crate) lease: LeasePage,
    pub(crate) groups: Groups,
    pub(crate) fencing: Fencing,
    /// Limit on open files before the keeper raised its own.
    pub(crate) open_files: (u64, u64),
}

impl World {
    pub(crate) fn new(data_dir: PathBuf) -> io::Result<Self> {
        let fencing = if init::is_possible() { Fencing::Strong } else { Fencing::Weak };
        Ok(Self {
            attempts_dir: data_dir.join(record::ATTEMPTS),
            place: Place::here()?,
            lease: LeasePage::open(&data_dir)?,
            groups: Groups::discover(&data_dir),
            fencing,
            open_files: raise_open_files(),
            data_dir,
        })
    }
}

/// A keeper needs a descriptor per monitor; its children get back what it was started with.
fn raise_open_files() -> (u64, u64) {
    let limit = getrlimit(Resource::Nofile);
    // Raising the soft limit to the hard one needs no right; if it fails, fewer monitors fit.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    (limit.current.unwrap_or(libc::RLIM_INFINITY), limit.maximum.unwrap_or(libc::RLIM_INFINITY))
}
