//! The one way from async code to the blocking store.
//!
//! A job never waits for a client, so a few threads serve any number of slow ones. What does wait for a client (a
//! stream that the store pushes) has a thread of its own, and those are counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::store::Store;

use super::Served;
use super::answer::Refused;
use super::limits::Client;
use super::options::ServeOptions;
use super::shares::{Share, Shares};

/// The way to the store.
pub(super) struct Bridge {
    store: Served,
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    pushes: Shares,
}

impl Bridge {
    /// Writes get half the threads, so that readers go on while a sweep holds the writers up.
    pub fn new(store: Served, options: &ServeOptions) -> Self {
        let threads = options.threads.get();
        let writes = (threads / 2).max(1);
        let reads = (threads - writes).max(1);
        let places = |count| Arc::new(Semaphore::new(count));
        let pushes = Shares::new(options.limits.listings as u64);
        Self { store, reads: places(reads), writes: places(writes), pushes }
    }

    /// Most threads that it uses.
    pub fn threads(options: &ServeOptions) -> usize {
        let aside = options.limits.updates.saturating_add(options.limits.listings);
        options.threads.get().saturating_add(aside).saturating_add(1)
    }

    /// Runs a short job that reads.
    pub async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(&self.reads, job).await
    }

    /// Runs a job that may have to wait for other writers.
    pub async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(&self.writes, job).await
    }

    async fn run<T: Send + 'static>(
        &self,
        places: &Arc<Semaphore>,
        job: impl FnOnce(&dyn Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = Arc::clone(places).acquire_owned().await.map_err(|_| Error::Cancelled)?;
        let store = Arc::clone(&self.store);
        // A request that is dropped meanwhile gives its place back when the job has ended, not earlier.
        let job = move || {
            let result = job(&*store);
            drop(place);
            result
        };
        tokio::task::spawn_blocking(job).await.unwrap_or_else(|error| Err(died(error)))
    }

    /// Runs a job that may take long, on a thread beside those of short ones. The caller counts these.
    pub async fn aside<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || job(&*store)).await.unwrap_or_else(|error| Err(died(error)))
    }

    /// A thread for a job that waits for its client. Whoever finds all taken waits in line for `patience`.
    pub async fn pusher(&self, client: Client, patience: Duration) -> Result<Pusher, Refused> {
        let place = timeout(patience, self.pushes.take(client, 1)).await;
        let place = place.map_err(|_| Refused::busy("listings", "too many listings at once"))?;
        Ok(Pusher { store: Arc::clone(&self.store), place })
    }
}

/// A thread that may wait.
pub(super) struct Pusher {
    store: Served,
    place: Share,
}

impl Pusher {
    pub fn start(self, job: impl FnOnce(&dyn Store) + Send + 'static) {
        let Pusher { store, place } = self;
        drop(tokio::task::spawn_blocking(move || {
            job(&*store);
            drop(place);
        }));
    }
}

fn died(error: tokio::task::JoinError) -> Error {
    let source = std::io::Error::other(error);
    Error::Io { action: "finish a job of", path: "this server".into(), source }
}
