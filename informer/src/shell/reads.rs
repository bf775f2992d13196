//! A few read handles that calls share, used on threads where blocking is allowed.

use super::error::Error;
use crate::store::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Read handles for edges. Two keep a slow list from holding up every `get`; more would only compete for two cores' worth of
/// page cache, and each holds 2 MB of its own.
pub(super) const READERS: usize = 2;

/// The pool. A query that is dropped half-way still gives its handle back.
pub(super) struct Reads {
    free: Arc<Mutex<Vec<Box<dyn Read>>>>,
    permits: Arc<Semaphore>,
}

impl std::fmt::Debug for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reads").field("free", &self.permits.available_permits()).finish_non_exhaustive()
    }
}

impl Reads {
    pub(super) fn new(readers: Vec<Box<dyn Read>>) -> Self {
        let permits = Arc::new(Semaphore::new(readers.len()));
        Self { free: Arc::new(Mutex::new(readers)), permits }
    }

    /// Runs a query on a blocking thread; `None` once the pool is closed.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut dyn Read) -> Result<T, store::Error> + Send + 'static,
    ) -> Option<Result<T, Error>> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        let mut reader = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let free = Arc::clone(&self.free);
        let permits = Arc::clone(&self.permits);
        let answer = tokio::task::spawn_blocking(move || {
            let answer = query(&mut *reader);
            // Closed meanwhile: the handle goes with the pool.
            if !permits.is_closed() {
                free.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            }
            drop(permit);
            answer
        });
        match answer.await {
            Ok(answer) => Some(answer.map_err(Error::from)),
            // The caller's runtime is shutting down.
            Err(_) => None,
        }
    }

    /// Ends the pool: queries under way finish, no other starts.
    pub(super) fn close(&self) {
        self.permits.close();
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
