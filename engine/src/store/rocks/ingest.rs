//! The writing side. There is one writer per open store, behind a mutex.
//!
//! Chunks go into the order they were put, under growing sequence numbers, and become visible in three steps
//! that never overtake each other: frames durable in `data`, then entries in `index`, then nodes. What is on its
//! way is held here and answers look-ups.
//!
//! * `index` never reaches disk before its data: entries are written to its memtable only after the frames were
//!   ingested or flushed.
//! * `node` never reaches disk before the index: nodes wait here, and are written to their memtable only after
//!   `index` was flushed.
//! * Neither has a log. A name is written to the log of `meta` with a sync, last.
//!
//! A few frames are written through the memtable of `data` and flushed: those tables are merged by compaction,
//! where ingested ones would stay for good, one for each little publish. From [`SMALL_BYTES_MAX`] on they go into
//! a table file of their own, which is ingested by a move: no log, no memtable, no rewriting.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rocksdb::{IngestExternalFileOptions, SstFileWriter, WriteBatch};

use super::base::Base;
use super::layout::{
    CONDEMNED, DATA, INDEX, Key, Location, META, MarkKey, NAMES_BOUND_KEY, NODE, TABLE_OPTIONS, mark_key,
    name_key, name_value,
};
use crate::error::{Error, Result};
use crate::fault::Faults;
use crate::id::{ChunkId, NodeId, VersionId};
use crate::store::{Name, NameRecord, NewChunk};

/// Frames up to this many bytes in all go through the memtable.
const SMALL_BYTES_MAX: usize = 1 << 20;
/// A table is closed when it has this many bytes of frames. Each costs a sync; a crash loses at most one.
const TABLE_BYTES: usize = 64 << 20;
/// Or this many frames, which bounds the memory for their entries.
const PENDING_MAX: usize = 64 << 10;
/// Nodes that wait for the chunks below them.
const NODE_BYTES_MAX: usize = 4 << 20;

/// What is on its way into the database.
pub(super) struct Writer {
    // Found when the first chunk comes: readers need none, and it must not keep them out.
    next_seq: Option<u64>,
    // Where tables are written before they are ingested; known from the first write on.
    dir: Option<PathBuf>,
    ahead: Arc<Ahead>,
    small: Vec<(u64, Vec<u8>)>,
    bytes: usize,
    table: Option<Table>,
    nodes: HashMap<NodeId, Vec<u8>>,
    node_bytes: usize,
    index_dirty: bool,
    node_dirty: bool,
    log_dirty: bool,
    names_dirty: bool,
    // Why nothing can be written any more.
    broken: Option<String>,
}

/// What a look-up needs to know of the writer, without waiting until it has written what it is writing.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    // Of frames in `small` or `table`.
    pending: RwLock<HashMap<ChunkId, Location>>,
    /// Whether there may be marks at all; spares looking for them.
    pub marked: AtomicBool,
    // What is recorded and did not prove, until it is put again.
    doubted: RwLock<HashSet<MarkKey>>,
}

impl Ahead {
    /// For each id, true if its frame is on its way into the database.
    pub fn holds(&self, ids: &[ChunkId]) -> Vec<bool> {
        let pending = self.pending();
        ids.iter().map(|id| pending.contains_key(id)).collect()
    }

    /// For each id, whether the database has it and nothing is known against it.
    pub fn finds<K: Key>(&self, base: &Base, ids: &[K]) -> Result<Vec<bool>> {
        let sound: Vec<bool> = {
            let doubted = self.doubted.read().unwrap_or_else(PoisonError::into_inner);
            let known = |id: &K| !doubted.is_empty() && doubted.contains(&mark_key(K::MARK, id.bytes()));
            ids.iter().map(|id| !known(id)).collect()
        };
        // What is doubted is not looked up: its record may be what is damaged.
        let asked: Vec<K> = ids.iter().zip(&sound).filter(|(_, sound)| **sound).map(|(id, _)| *id).collect();
        let mut has = base.has(&asked)?.into_iter();
        Ok(sound.into_iter().map(|sound| sound && has.next().unwrap_or(false)).collect())
    }

    /// Counts things as lacking until they are put.
    pub fn doubt<K: Key>(&self, ids: &[K]) {
        if !ids.is_empty() {
            let keys = ids.iter().map(|id| mark_key(K::MARK, id.bytes()));
            self.doubted.write().unwrap_or_else(PoisonError::into_inner).extend(keys);
        }
    }

    /// Takes that back.
    pub fn trust<K: Key>(&self, ids: &[K]) {
        if self.doubted.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return;
        }
        let mut doubted = self.doubted.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            doubted.remove(&mark_key(K::MARK, id.bytes()));
        }
    }

    fn pending(&self) -> RwLockReadGuard<'_, HashMap<ChunkId, Location>> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending_mut(&self) -> RwLockWriteGuard<'_, HashMap<ChunkId, Location>> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Table {
    file: SstFileWriter<'static>,
    path: PathBuf,
    faults: Faults,
}

// What is not ingested by now never will be, and nothing can use it. Ingesting moves the file away.
impl Drop for Table {
    fn drop(&mut self) {
        if self.faults.check("remove", &self.path).is_ok() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Writer {
    pub fn new(base: &Base) -> Writer {
        // Marks that cannot be read are looked for again where they matter.
        let marked = !base.is_empty(CONDEMNED).unwrap_or(false);
        Writer {
            next_seq: None,
            dir: None,
            ahead: Arc::new(Ahead { marked: AtomicBool::new(marked), ..Ahead::default() }),
            small: Vec::new(),
            bytes: 0,
            table: None,
            nodes: HashMap::new(),
            node_bytes: 0,
            index_dirty: false,
            node_dirty: false,
            log_dirty: false,
            names_dirty: false,
            broken: None,
        }
    }

    /// The first sequence number not given yet.
    pub fn next_seq(&mut self, base: &Base) -> Result<u64> {
        match self.next_seq {
            Some(next) => Ok(next),
            None => Ok(*self.next_seq.insert(base.next_seq()?)),
        }
    }

    /// What look-ups may know without the writer.
    pub fn ahead(&self) -> &Arc<Ahead> {
        &self.ahead
    }

    pub fn holds_chunk(&self, id: &ChunkId) -> bool {
        self.ahead.pending().contains_key(id)
    }

    pub fn node(&self, id: &NodeId) -> Option<&Vec<u8>> {
        self.nodes.get(id)
    }

    // Runs a change. One that fails half-way may have lost what others put and rely on, so nothing is written
    // after it until the store is opened again. Looking up first is no change.
    fn change<T>(&mut self, base: &Base, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if let Some(reason) = &self.broken {
            let source = format!("an earlier write failed, open the store again ({reason})").into();
            return Err(Error::Store { action: "write", place: base.place(), source });
        }
        let result = change(self);
        if let Err(error) = &result {
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
            self.broken = Some(format!("{error}{}", cause.unwrap_or_default()));
            self.table = None;
        }
        result
    }

    /// For each id, true if it must be put. What is here loses its mark.
    pub fn lacks<K: Key>(
        &mut self,
        base: &Base,
        ids: &[K],
        held: impl Fn(&Self, &K) -> bool,
    ) -> Result<Vec<bool>> {
        // What is held is not looked up: it may be here because its record is damaged.
        let mut has: Vec<bool> = ids.iter().map(|id| held(self, id)).collect();
        let asked: Vec<K> = has.iter().zip(ids).filter(|(has, _)| !**has).map(|(_, id)| *id).collect();
        let found = self.ahead.finds(base, &asked)?;
        has.iter_mut().filter(|has| !**has).zip(found).for_each(|(has, found)| *has = found);
        let here: Vec<K> = has.iter().zip(ids).filter(|(has, _)| **has).map(|(_, id)| *id).collect();
        self.reprieve(base, &here)?;
        Ok(has.into_iter().map(|has| !has).collect())
    }

    /// Removes marks. Written to the log unsynced: the synced name that relies on it comes later in the same log.
    fn reprieve<K: Key>(&mut self, base: &Base, ids: &[K]) -> Result<()> {
        if !self.ahead.marked.load(Relaxed) || ids.is_empty() {
            return Ok(());
        }
        let db = base.db();
        let family = db.family(CONDEMNED);
        let keys: Vec<_> = ids.iter().map(|id| mark_key(K::MARK, id.bytes())).collect();
        let mut batch = WriteBatch::default();
        for (key, mark) in keys.iter().zip(db.batched_multi_get_cf(family, &keys, false)) {
            if mark.map_err(|error| base.error("look up", error))?.is_some() {
                batch.delete_cf(family, key);
            }
        }
        self.log_dirty |= !batch.is_empty();
        base.write_logged(batch, false)
    }

    /// Keeps chunks; those that are here already only with `replace`.
    pub fn put_chunks(&mut self, base: &Base, chunks: &[NewChunk], replace: bool) -> Result<()> {
        let ids: Vec<_> = chunks.iter().map(|new| new.chunk.id).collect();
        let has = if replace { vec![false; ids.len()] } else { self.ahead.finds(base, &ids)? };
        self.reprieve(base, &ids)?;
        self.change(base, |writer| {
            for (new, has) in chunks.iter().zip(has) {
                if !has && (replace || !writer.holds_chunk(&new.chunk.id)) {
                    writer.take_chunk(base, new)?;
                }
            }
            Ok(())
        })
    }

    fn take_chunk(&mut self, base: &Base, new: &NewChunk) -> Result<()> {
        let frame = new.frame.as_bytes();
        let seq = self.next_seq(base)?;
        let location = Location { seq, plain_len: new.chunk.len, stored_len: frame.len() as u32 };
        self.next_seq = Some(seq + 1);
        self.append(base, location.seq, frame)?;
        let pending = {
            let mut pending = self.ahead.pending_mut();
            pending.insert(new.chunk.id, location);
            pending.len()
        };
        self.ahead.trust(&[new.chunk.id]);
        if self.bytes >= TABLE_BYTES || pending >= PENDING_MAX {
            self.seal_chunks(base)?;
        }
        Ok(())
    }

    fn append(&mut self, base: &Base, seq: u64, frame: &[u8]) -> Result<()> {
        // What a stopped writer left there is in the way of the first write, however small: the disk may be full of it.
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => self.dir.insert(base.ingest_dir()?).clone(),
        };
        self.bytes += frame.len();
        if self.table.is_none() {
            if self.bytes <= SMALL_BYTES_MAX {
                self.small.push((seq, frame.to_vec()));
                return Ok(());
            }
            let mut table = Table::create(base, &dir, self.small.first().map_or(seq, |(seq, _)| *seq))?;
            for (seq, frame) in self.small.drain(..) {
                table.put(base, seq, &frame)?;
            }
            self.table = Some(table);
        }
        match &mut self.table {
            Some(table) => table.put(base, seq, frame),
            None => Ok(()),
        }
    }

    /// Makes the frames taken so far durable, then visible in `index` (not durable there yet).
    pub fn seal(&mut self, base: &Base) -> Result<()> {
        self.change(base, |writer| writer.seal_chunks(base))
    }

    fn seal_chunks(&mut self, base: &Base) -> Result<()> {
        if self.ahead.pending().is_empty() {
            return Ok(());
        }
        if let Some(table) = self.table.take() {
            table.ingest(base)?;
        }
        if !self.small.is_empty() {
            let db = base.writable()?;
            let mut batch = WriteBatch::with_capacity_bytes(self.bytes + 32 * self.small.len());
            for (seq, frame) in self.small.drain(..) {
                batch.put_cf(db.family(DATA), seq.to_be_bytes(), frame);
            }
            base.write_unlogged(batch)?;
            base.flush(DATA)?;
        }
        let db = base.writable()?;
        let mut batch = WriteBatch::default();
        for (id, location) in self.ahead.pending().iter() {
            batch.put_cf(db.family(INDEX), id.as_bytes(), location.to_bytes());
        }
        self.bytes = 0;
        self.index_dirty = true;
        base.write_unlogged(batch)?;
        // Only now: a look-up always finds them in one place or the other.
        self.ahead.pending_mut().clear();
        Ok(())
    }

    /// Keeps nodes; those that are here already only with `replace`.
    pub fn put_nodes(&mut self, base: &Base, nodes: Vec<(NodeId, Vec<u8>)>, replace: bool) -> Result<()> {
        let ids: Vec<_> = nodes.iter().map(|(id, _)| *id).collect();
        let has = if replace { vec![false; ids.len()] } else { self.ahead.finds(base, &ids)? };
        self.reprieve(base, &ids)?;
        self.change(base, |writer| {
            for ((id, bytes), has) in nodes.into_iter().zip(has) {
                if has || (!replace && writer.nodes.contains_key(&id)) {
                    continue;
                }
                writer.node_bytes += bytes.len();
                writer.nodes.insert(id, bytes);
                writer.ahead.trust(&[id]);
                if writer.node_bytes >= NODE_BYTES_MAX {
                    writer.seal_nodes(base)?;
                }
            }
            Ok(())
        })
    }

    // One batch lands in one memtable, so the order inside it does not matter: children came in this batch or an
    // earlier one.
    fn seal_nodes(&mut self, base: &Base) -> Result<()> {
        self.seal_chunks(base)?;
        if self.index_dirty {
            base.flush(INDEX)?;
            self.index_dirty = false;
        }
        if self.nodes.is_empty() {
            return Ok(());
        }
        let db = base.writable()?;
        let mut batch = WriteBatch::with_capacity_bytes(self.node_bytes + 64 * self.nodes.len());
        for (id, bytes) in self.nodes.drain() {
            batch.put_cf(db.family(NODE), id.as_bytes(), bytes);
        }
        self.node_bytes = 0;
        self.node_dirty = true;
        base.write_unlogged(batch)
    }

    /// Makes everything put so far durable, in order.
    pub fn flush(&mut self, base: &Base) -> Result<()> {
        self.change(base, |writer| writer.flush_all(base))
    }

    fn flush_all(&mut self, base: &Base) -> Result<()> {
        self.seal_nodes(base)?;
        if self.node_dirty {
            base.flush(NODE)?;
            self.node_dirty = false;
        }
        if self.log_dirty {
            base.check("sync log")?;
            base.writable()?.flush_wal(true).map_err(|error| base.error("sync", error))?;
            self.log_dirty = false;
        }
        Ok(())
    }

    /// Binds a name that is not bound yet to a version whose root is here.
    pub fn bind(&mut self, base: &Base, name: &Name, version: VersionId, now: u64) -> Result<NameRecord> {
        let sequence = base.number(NAMES_BOUND_KEY)?;
        let record = NameRecord { name: name.clone(), version, bound_unix_s: now, sequence };
        let db = base.writable()?;
        let mut batch = WriteBatch::default();
        batch.put_cf(db.family(META), name_key(name), name_value(&record));
        batch.put_cf(db.family(META), NAMES_BOUND_KEY, (sequence + 1).to_be_bytes());
        self.change(base, |writer| {
            base.write_logged(batch, true)?;
            writer.log_dirty = false;
            writer.names_dirty = true;
            Ok(record)
        })
    }

    pub fn unbind(&mut self, base: &Base, names: &[Name]) -> Result<()> {
        let db = base.writable()?;
        let mut batch = WriteBatch::default();
        for name in names {
            batch.delete_cf(db.family(META), name_key(name));
        }
        self.change(base, |writer| {
            writer.names_dirty = true;
            base.write_logged(batch, true)
        })
    }

    /// Moves names from the log into a table, and makes the frames taken so far durable with their entries: a publish
    /// that was stopped finds its chunks again.
    pub fn close(&mut self, base: &Base) -> Result<()> {
        if self.broken.is_none() {
            self.seal(base)?;
        }
        if self.names_dirty && self.broken.is_none() {
            base.flush(META)?;
        }
        // Also after a failed write: an entry is only in the memtable when its frame is durable.
        if self.index_dirty {
            base.flush(INDEX)?;
        }
        Ok(())
    }
}

impl Table {
    fn create(base: &Base, dir: &Path, first_seq: u64) -> Result<Table> {
        let path = dir.join(format!("{first_seq}.sst"));
        base.faults.check("create table", &path)?;
        let file = SstFileWriter::create(&TABLE_OPTIONS);
        let table = Table { file, path, faults: base.faults.clone() };
        table.file.open(&table.path).map_err(|error| base.error("create a table", error))?;
        Ok(table)
    }

    fn put(&mut self, base: &Base, seq: u64, frame: &[u8]) -> Result<()> {
        self.file.put(seq.to_be_bytes(), frame).map_err(|error| base.error("write a table", error))
    }

    // Finishing syncs the file (sst_file_writer.cc); ingesting links it into the database, syncs it and the
    // directory, then appends to the MANIFEST and syncs that (external_sst_file_ingestion_job.cc,
    // version_set.cc): durable on return.
    fn ingest(mut self, base: &Base) -> Result<()> {
        base.faults.check("finish table", &self.path)?;
        self.file.finish().map_err(|error| base.error("finish a table", error))?;
        base.faults.check("ingest table", &self.path)?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let db = base.writable()?;
        db.ingest_external_file_cf_opts(db.family(DATA), &options, vec![&self.path])
            .map_err(|error| base.error("ingest a table", error))
    }
}
