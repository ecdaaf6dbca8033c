//! The store on disk: RocksDB, set up so that content is written once, in order, and read back in order.
//!
//! Invariants: a durable name refers only to durable nodes, a durable node only to durable chunks, an index entry
//! only to a durable frame. One process writes a store.

mod base;
mod format;
mod home;
mod ingest;
mod layout;
mod manifest;
mod proof;
mod reclaim;
mod salvage;
mod sweep;
mod walk;

#[cfg(feature = "testing")]
pub(crate) use format::format_number;
#[cfg(feature = "testing")]
pub(crate) use layout::{location_again, name_again, name_value};

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::base::{Base, Wanted};
use self::home::Home;
use self::ingest::{Ahead, Writer};
use super::{AppName, Name, NameRecord, NewChunk, Proof, Source, Store, SweepOptions, Swept};
use crate::content::Frame;
use crate::error::{Error, Result};
use crate::fault::Faults;
use crate::id::{ChunkId, ChunkRef, NodeId, VersionId};
use crate::version::NodeSource;

/// How a store is opened.
#[derive(Debug, Clone, Default)]
pub struct RocksOptions {
    /// Make the store if there is none.
    pub create: bool,
    /// If the database does not open, or records of its own cannot be read, make it anew from what is readable. The
    /// damaged one stays beside it, as `db-damaged`, until [`Store::settle`]. A `FORMAT` file that is lost or damaged is
    /// written anew if the database says itself that it is a store's.
    pub salvage: bool,
    /// Crash points.
    pub faults: Faults,
}

/// A directory with a RocksDB database and a `FORMAT` file, held by this process until dropped.
pub struct RocksStore {
    base: Base,
    writer: Mutex<Writer>,
    ahead: Arc<Ahead>,
}

impl RocksStore {
    /// Opens the store at `dir`. [`Error::NotFound`] if there is none, [`Error::Conflict`] if one would have to be
    /// made among other files, [`Error::Locked`] if another process has it.
    pub fn open(dir: impl AsRef<Path>, options: &RocksOptions) -> Result<RocksStore> {
        let dir = dir.as_ref();
        if options.salvage {
            Home::restore_format(dir, &options.faults)?;
        }
        let home = Arc::new(Home::open(dir, options.create, &options.faults)?);
        if options.salvage && !home.is_fresh() {
            salvage::mend(dir, &home, &options.faults)?;
        }
        Ok(Self::with(Base::open(dir, home, false, options.faults.clone())?))
    }

    /// Opens the store at `dir` for reading, beside other readers; it may be on a read-only mount or belong to
    /// another user. No writer can have it meanwhile: RocksDB gives a reader no protection from tables that a writer
    /// removes. Writing gives [`Error::Conflict`].
    pub fn open_read_only(dir: impl AsRef<Path>) -> Result<RocksStore> {
        let dir = dir.as_ref();
        Ok(Self::with(Base::open(dir, Arc::new(Home::open_shared(dir)?), true, Faults::default())?))
    }

    fn with(base: Base) -> RocksStore {
        let writer = Writer::new(&base);
        let ahead = writer.ahead().clone();
        RocksStore { base, writer: Mutex::new(writer), ahead }
    }

    /// Where the store is.
    pub fn dir(&self) -> &Path {
        &self.base.dir
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Finds chunks for reading. Those still on their way into a table are finished first.
    fn locate(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<Vec<Wanted>> {
        let mut wanted = Vec::with_capacity(want.len());
        let mut missing = Vec::new();
        let mut indexes = 0..;
        self.base.locate(want.iter().map(|chunk| chunk.id), &mut |location| {
            let index = indexes.next().unwrap_or_default();
            match location {
                Some(location) => wanted.push(Wanted { location, index }),
                None => missing.push(index),
            }
        })?;
        if missing.is_empty() {
            return Ok(wanted);
        }
        {
            let mut writer = self.writer();
            if missing.iter().any(|index| writer.holds_chunk(&want[*index].id)) {
                writer.seal(&self.base)?;
            }
        }
        let mut absent = Vec::new();
        let mut indexes = missing.iter().copied();
        self.base.locate(missing.iter().map(|index| want[*index].id), &mut |location| {
            let index = indexes.next().unwrap_or_default();
            match location {
                Some(location) => wanted.push(Wanted { location, index }),
                None => absent.push(index),
            }
        })?;
        absent.into_iter().try_for_each(|index| each(index, None))?;
        Ok(wanted)
    }
}

// Names are durable in the log. After an orderly end they are in a table too, whose damage is noticed, where a
// damaged log reads as a shorter one.
impl Drop for RocksStore {
    fn drop(&mut self) {
        let base = &self.base;
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.close(base) {
            tracing::warn!("{}: {error}", base.place());
        }
    }
}

impl fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RocksStore").field("dir", &self.base.dir).finish_non_exhaustive()
    }
}

impl NodeSource for RocksStore {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        for index in self.base.nodes(ids, each)? {
            let Some(id) = ids.get(index) else { continue };
            // Held here, or moved into the database since it was asked.
            let held = {
                let writer = self.writer();
                match writer.node(id) {
                    Some(bytes) => Some(bytes.clone()),
                    None => self.base.node(id)?,
                }
            };
            each(index, held)?;
        }
        Ok(())
    }

    fn place(&self) -> String {
        self.base.place()
    }
}

impl Source for RocksStore {
    fn read_chunks(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<()> {
        let mut wanted = self.locate(want, each)?;
        self.base.frames(&mut wanted, each)
    }

    fn frame_lens(&self, ids: &[ChunkId]) -> Result<Vec<Option<u32>>> {
        let want: Vec<_> = ids.iter().map(|id| ChunkRef { id: *id, len: 0 }).collect();
        let mut lens = vec![None; ids.len()];
        for wanted in self.locate(&want, &mut |_, _| Ok(()))? {
            if let Some(len) = lens.get_mut(wanted.index) {
                *len = Some(wanted.location.stored_len);
            }
        }
        Ok(lens)
    }

    fn local_dir(&self) -> Option<PathBuf> {
        Some(self.dir().to_owned())
    }

    fn resolve(&self, name: &Name) -> Result<Option<NameRecord>> {
        self.base.resolve(name)
    }

    fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>> {
        self.base.names(app)
    }
}

impl Store for RocksStore {
    fn lacks_chunks(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let base = &self.base;
        if self.ahead.marked.load(Relaxed) {
            return self.writer().lacks(base, ids, Writer::holds_chunk);
        }
        // Without the writer, which may be busy writing a table. First what it holds, then the database, because that
        // is the way chunks go.
        let held = self.ahead.holds(ids);
        let has = self.ahead.finds(base, ids)?;
        Ok(held.into_iter().zip(has).map(|(held, has)| !held && !has).collect())
    }

    fn lacks_nodes(&self, ids: &[NodeId]) -> Result<Vec<bool>> {
        let base = &self.base;
        self.writer().lacks(base, ids, |writer, id| writer.node(id).is_some())
    }

    fn prove_chunks(&self, ids: &[ChunkId]) -> Result<Vec<Proof>> {
        self.proofs_of_chunks(ids)
    }

    fn prove_nodes(&self, ids: &[NodeId]) -> Result<Vec<Proof>> {
        self.proofs_of_nodes(ids)
    }

    fn put_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        self.writer().put_chunks(&self.base, chunks, false)
    }

    fn put_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        self.writer().put_nodes(&self.base, nodes, false)
    }

    fn flush(&self) -> Result<()> {
        self.writer().flush(&self.base)
    }

    fn bind(&self, name: &Name, version: VersionId, now_unix_s: u64) -> Result<NameRecord> {
        let base = &self.base;
        let mut writer = self.writer();
        let bound = base.resolve(name)?;
        if let Some(record) = &bound {
            record.refuse_other(version, &base.place())?;
        }
        writer.flush(base)?;
        if let Some(record) = bound {
            return Ok(record);
        }
        let root = version.root();
        let lacks = writer.lacks(base, &[root], |_, _| false)?;
        if lacks != [false] {
            return Err(Error::NotFound { what: format!("version {version}"), place: base.place() });
        }
        writer.bind(base, name, version, now_unix_s)
    }

    fn unbind(&self, names: &[Name]) -> Result<()> {
        self.writer().unbind(&self.base, names)
    }

    fn sweep(&self, options: &SweepOptions<'_>) -> Result<Swept> {
        self.flush()?;
        let swept = sweep::sweep(&self.base, &self.writer, options)?;
        if !options.dry_run {
            reclaim::reclaim(&self.base, &self.writer, &swept)?;
        }
        Ok(swept)
    }

    fn each_node(&self, each: &mut dyn FnMut(NodeId) -> Result<()>) -> Result<()> {
        self.flush()?;
        self.base.each_node(each)
    }

    fn each_chunk(&self, each: &mut dyn FnMut(ChunkRef) -> Result<()>) -> Result<()> {
        self.writer().seal(&self.base)?;
        self.base.each_chunk(each)
    }

    fn damaged_records(&self) -> Result<Option<String>> {
        self.base.damaged_records()
    }

    fn names_lost(&self) -> Result<bool> {
        self.base.names_lost()
    }

    fn settle(&self) -> Result<()> {
        self.flush()?;
        self.base.settle()
    }

    fn replace_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        let base = &self.base;
        let mut writer = self.writer();
        writer.put_chunks(base, chunks, true)?;
        writer.flush(base)
    }

    fn replace_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        let base = &self.base;
        let mut writer = self.writer();
        writer.put_nodes(base, nodes, true)?;
        writer.flush(base)
    }

    fn stored_bytes(&self) -> Result<u64> {
        self.base.stored_bytes()
    }
}
