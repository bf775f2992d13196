//! Files fetched by URL, by what they are: `cache/sha256/<hash>`.
//!
//! ```text
//! obtain(hash) ─ there? ──────────────────────────────────────────────▶ pinned while it is copied
//!      │ no ─ somebody fetches it? wait ─▶ there? | the same source failed? take its word | it gave up? my turn
//!      └ no ─ fetch to .<hash>.part ─ hash is right ─ fsync ─ rename ─ evict the longest unused over the bound
//! ```
//!
//! A cached file is compared with its name each time it is copied: a task of the same user could have written to it.

use super::fetch::{self, Stop};
use crate::exec::digest::Seen;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

/// Bytes that stay cached: some model or tool chain of everyday size, on a disk that also holds the work of every slot. What is in
/// use stays beyond it.
const CACHE_BYTES: u64 = 10 << 30;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// Somebody else fetched the same for us in vain.
    #[error("{0}")]
    Shared(String),
    #[error("its SHA-256 is {found}, not {expected} as declared")]
    Hash { found: String, expected: String },
    #[error("cannot {what} {}: {error}", path.display())]
    Io { what: &'static str, path: PathBuf, error: io::Error },
}

/// One fetch, and those who wait for it.
#[derive(Debug)]
struct Flight {
    source: String,
    failure: OnceLock<String>,
}

#[derive(Debug, Default)]
struct State {
    flights: BTreeMap<String, Arc<Flight>>,
    pins: BTreeMap<String, u32>,
}

/// The cache of one data directory.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

/// A cached file that is not evicted while this lives.
#[derive(Debug)]
pub(super) struct Pinned<'a> {
    cache: &'a Cache,
    sha256: String,
}

impl Pinned<'_> {
    pub(super) fn path(&self) -> PathBuf {
        self.cache.path(&self.sha256)
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        if let Some(pins) = state.pins.get_mut(&self.sha256) {
            *pins -= 1;
            if *pins == 0 {
                state.pins.remove(&self.sha256);
            }
        }
    }
}

impl Cache {
    pub(super) fn new(data: &std::path::Path) -> Self {
        Self { dir: data.join("cache/sha256"), bytes: CACHE_BYTES, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Removes what a dead agent was fetching.
    pub(super) fn clean(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                let _gone = fs::remove_file(entry.path());
            }
        }
    }

    /// Lets those who wait look whether they were stopped.
    pub(super) fn wake(&self) {
        let _state = self.lock();
        self.changed.notify_all();
    }

    /// The file with this hash, fetched from `source` unless it is there. Blocking.
    pub(super) fn obtain(&self, sha256: &str, source: &str, stop: &Stop, seen: Seen<'_>) -> Result<Pinned<'_>, Error> {
        let flight = Arc::new(Flight { source: source.to_owned(), failure: OnceLock::new() });
        let mut state = self.lock();
        loop {
            if stop.is_stopped() {
                return Err(fetch::Error::Stopped.into());
            }
            let Some(other) = state.flights.get(sha256).cloned() else { break };
            seen(0, None);
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            let is_over = state.flights.get(sha256).is_none_or(|now| !Arc::ptr_eq(now, &other));
            if let (true, Some(failure)) = (is_over && other.source == source, other.failure.get()) {
                return Err(Error::Shared(failure.clone()));
            }
        }
        if self.path(sha256).exists() {
            return Ok(self.pin(&mut state, sha256));
        }
        state.flights.insert(sha256.to_owned(), flight.clone());
        drop(state);
        let fetched = self.fetch(sha256, source, stop, seen);
        if let Err(error) = &fetched
            && !matches!(error, Error::Fetch(fetch::Error::Stopped))
        {
            // Set once, here: the flight is ours.
            let _set = flight.failure.set(error.to_string());
        }
        let mut state = self.lock();
        state.flights.remove(sha256);
        self.changed.notify_all();
        fetched?;
        let pinned = self.pin(&mut state, sha256);
        self.evict(&state);
        Ok(pinned)
    }

    /// Throws a file away that is not what its name says.
    pub(super) fn reject(&self, pinned: Pinned<'_>) {
        let state = self.lock();
        let _gone = fs::remove_file(pinned.path());
        // Before the pin, which takes the lock to let go.
        drop(state);
        drop(pinned);
    }

    fn fetch(&self, sha256: &str, source: &str, stop: &Stop, seen: Seen<'_>) -> Result<(), Error> {
        let io = |what, path: &PathBuf| {
            let path = path.clone();
            move |error| Error::Io { what, path, error }
        };
        fs::create_dir_all(&self.dir).map_err(io("make", &self.dir))?;
        let part = self.dir.join(format!(".{sha256}.part"));
        let mut file = File::create(&part).map_err(io("create", &part))?;
        let done = fetch::fetch(source, &mut file, &self.dir, stop, seen).map_err(Error::from).and_then(|passed| {
            if passed.sha256 != sha256 {
                return Err(Error::Hash { found: passed.sha256, expected: sha256.to_owned() });
            }
            file.sync_all().map_err(io("sync", &part))?;
            fs::rename(&part, self.path(sha256)).map_err(io("rename", &part))?;
            File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io("sync", &self.dir))
        });
        if done.is_err() {
            let _gone = fs::remove_file(&part);
        }
        done
    }

    fn pin<'a>(&'a self, state: &mut State, sha256: &str) -> Pinned<'a> {
        *state.pins.entry(sha256.to_owned()).or_default() += 1;
        // When it was last used; a file system may not note reads.
        #[expect(
            clippy::disallowed_methods,
            reason = "the age of a file is wall time, and no decision of the machine's"
        )]
        let now = SystemTime::now();
        let _stale = File::open(self.path(sha256)).and_then(|file| file.set_modified(now));
        Pinned { cache: self, sha256: sha256.to_owned() }
    }

    /// The longest unused go, down to the bound.
    fn evict(&self, state: &State) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut files: Vec<(SystemTime, u64, String)> = entries
            .filter_map(|entry| {
                let found = entry.metadata().ok()?;
                let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
                Some((found.modified().ok()?, found.len(), name))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, name) in files {
            if total <= self.bytes {
                return;
            }
            if !state.pins.contains_key(&name) && fs::remove_file(self.path(&name)).is_ok() {
                total -= bytes;
            }
        }
    }

    #[cfg(test)]
    fn bounded(data: &std::path::Path, bytes: u64) -> Self {
        Self { bytes, ..Self::new(data) }
    }

    fn path(&self, sha256: &str) -> PathBuf {
        self.dir.join(sha256)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, and counts and names are whole anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_longest_unused_go_and_what_is_in_use_stays() {
        let data = std::env::temp_dir().join(format!("sidecar-cache-{}", std::process::id()));
        let cache = Cache::bounded(&data, 20);
        fs::create_dir_all(&cache.dir).expect("a directory");
        for (age, name) in ["newest", "older", "oldest"].into_iter().enumerate() {
            fs::write(cache.path(name), [0; 10]).expect("a file");
            let used = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age as u64);
            File::options().write(true).open(cache.path(name)).and_then(|f| f.set_modified(used)).expect("a time");
        }
        fs::write(cache.dir.join(".begun.part"), [0; 100]).expect("a file");
        let stop = Stop::new();
        let pinned = cache.obtain("oldest", "http://127.0.0.1:1/", &stop, &|_, _| ()).expect("it is there");
        File::options()
            .write(true)
            .open(pinned.path())
            .and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH))
            .expect("a time");
        cache.evict(&cache.lock());
        let left = |name: &str| cache.path(name).exists();
        assert_eq!((left("oldest"), left("older"), left("newest")), (true, false, true), "the pinned one stays");
        drop(pinned);
        fs::write(cache.path("another"), [0; 10]).expect("a file");
        cache.evict(&cache.lock());
        assert_eq!((left("oldest"), left("newest"), left("another")), (false, true, true));
        cache.clean();
        assert!(!cache.dir.join(".begun.part").exists());
        fs::remove_dir_all(&data).expect("removed");
    }

    #[test]
    fn a_stopped_wait_ends_and_a_fetch_that_fails_leaves_nothing() {
        let data = std::env::temp_dir().join(format!("sidecar-cache-stop-{}", std::process::id()));
        let cache = Cache::new(&data);
        let stop = Stop::new();
        // Port 1 of the loopback has no listener.
        let error = cache.obtain("ab", "http://127.0.0.1:1/", &stop, &|_, _| ()).expect_err("nobody listens");
        assert!(error.to_string().starts_with("no connection to 127.0.0.1:1"), "{error}");
        assert_eq!(fs::read_dir(&cache.dir).expect("a directory").count(), 0);
        stop.stop();
        let error = cache.obtain("ab", "http://127.0.0.1:1/", &stop, &|_, _| ()).expect_err("stopped");
        assert!(matches!(error, Error::Fetch(fetch::Error::Stopped)));
        fs::remove_dir_all(&data).expect("removed");
    }
}
