//! A store on disk that is read beside other readers until somebody writes. Over ssh each connection is a process of
//! its own, and most of them only read.
//!
//! Invariant: once it was opened for writing it stays so.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use floe::content::Frame;
use floe::store::{
    AppName, Name, NameRecord, NewChunk, Proof, RocksOptions, RocksStore, Source, Store, SweepOptions, Swept,
};
use floe::version::NodeSource;
use floe::{ChunkId, ChunkRef, Error, NodeId, Result, VersionId};

/// How long another process is waited for. The one before it on a broken connection takes a moment to notice.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The store, and how it is open.
pub struct LazyStore {
    dir: PathBuf,
    state: RwLock<State>,
}

enum State {
    Reading(RocksStore),
    Writing(RocksStore),
    // Between the two, and after it could not be opened for writing.
    Closed,
}

impl LazyStore {
    /// Opens the store at `dir` for reading. `create` makes it if it is not there.
    pub fn open(dir: &Path, create: bool) -> Result<LazyStore> {
        let state = match patiently(|| RocksStore::open_read_only(dir)) {
            Err(Error::NotFound { .. }) if create => State::Writing(patiently(|| {
                RocksStore::open(dir, &RocksOptions { create, ..RocksOptions::default() })
            })?),
            opened => State::Reading(opened?),
        };
        Ok(LazyStore { dir: dir.to_owned(), state: RwLock::new(state) })
    }

    fn read<T>(&self, ask: impl FnOnce(&RocksStore) -> Result<T>) -> Result<T> {
        if let State::Reading(store) | State::Writing(store) = &*self.state() {
            return ask(store);
        }
        self.write(ask)
    }

    fn write<T>(&self, ask: impl FnOnce(&RocksStore) -> Result<T>) -> Result<T> {
        loop {
            if let State::Writing(store) = &*self.state() {
                return ask(store);
            }
            self.upgrade()?;
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn upgrade(&self) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, State::Writing(_)) {
            // A reader of the same store, this one too, keeps writers out.
            *state = State::Closed;
            *state = State::Writing(patiently(|| RocksStore::open(&self.dir, &RocksOptions::default()))?);
        }
        Ok(())
    }
}

fn patiently(open: impl Fn() -> Result<RocksStore>) -> Result<RocksStore> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match open() {
            Err(Error::Locked { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50))
            }
            other => return other,
        }
    }
}

impl NodeSource for LazyStore {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        self.read(|store| store.read_nodes(ids, each))
    }

    fn place(&self) -> String {
        format!("store `{}`", self.dir.display())
    }
}

impl Source for LazyStore {
    fn read_chunks(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<()> {
        self.read(|store| store.read_chunks(want, each))
    }

    fn frame_lens(&self, ids: &[ChunkId]) -> Result<Vec<Option<u32>>> {
        self.read(|store| store.frame_lens(ids))
    }

    fn local_dir(&self) -> Option<PathBuf> {
        Some(self.dir.clone())
    }

    fn resolve(&self, name: &Name) -> Result<Option<NameRecord>> {
        self.read(|store| store.resolve(name))
    }

    fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>> {
        self.read(|store| store.names(app))
    }
}

impl Store for LazyStore {
    // Asked by those who are about to write, and reprieves what is condemned.
    fn lacks_chunks(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.write(|store| store.lacks_chunks(ids))
    }

    fn lacks_nodes(&self, ids: &[NodeId]) -> Result<Vec<bool>> {
        self.write(|store| store.lacks_nodes(ids))
    }

    fn prove_chunks(&self, ids: &[ChunkId]) -> Result<Vec<Proof>> {
        self.write(|store| store.prove_chunks(ids))
    }

    fn prove_nodes(&self, ids: &[NodeId]) -> Result<Vec<Proof>> {
        self.write(|store| store.prove_nodes(ids))
    }

    fn put_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        self.write(|store| store.put_chunks(chunks))
    }

    fn put_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        self.write(|store| store.put_nodes(nodes))
    }

    fn flush(&self) -> Result<()> {
        self.write(RocksStore::flush)
    }

    fn bind(&self, name: &Name, version: VersionId, now_unix_s: u64) -> Result<NameRecord> {
        self.write(|store| store.bind(name, version, now_unix_s))
    }

    fn unbind(&self, names: &[Name]) -> Result<()> {
        self.write(|store| store.unbind(names))
    }

    fn sweep(&self, options: &SweepOptions<'_>) -> Result<Swept> {
        if options.dry_run {
            self.read(|store| store.sweep(options))
        } else {
            self.write(|store| store.sweep(options))
        }
    }

    fn each_chunk(&self, each: &mut dyn FnMut(ChunkRef) -> Result<()>) -> Result<()> {
        self.read(|store| store.each_chunk(each))
    }

    fn each_node(&self, each: &mut dyn FnMut(NodeId) -> Result<()>) -> Result<()> {
        self.read(|store| store.each_node(each))
    }

    fn damaged_records(&self) -> Result<Option<String>> {
        self.read(RocksStore::damaged_records)
    }

    fn replace_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        self.write(|store| store.replace_chunks(chunks))
    }

    fn replace_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        self.write(|store| store.replace_nodes(nodes))
    }

    fn stored_bytes(&self) -> Result<u64> {
        self.read(RocksStore::stored_bytes)
    }
}
