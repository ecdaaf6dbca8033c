//! The open database and everything that only reads it: looking things up by id, and handing out frames in the
//! order they lie on disk. Also the one place where RocksDB's errors become ours.
//!
//! Looking up never stops at a damaged place: what cannot be read is handed over as not there, so that `verify`
//! reaches the end and `repair` knows what to replace. Only names stop: what they miss would be lost.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rocksdb::{Cache, ColumnFamily, DB, DBPinnableSlice, ErrorKind, ReadOptions, WriteBatch, WriteOptions};

use super::home::{self, Home};
use super::layout::{
    CACHE_BYTES, DATA, Key, Location, META, NODE, database_options, families, name_key, name_prefix,
    name_record,
};
use super::manifest;
use crate::content::Frame;
use crate::error::{Error, Result};
use crate::fault::Faults;
use crate::id::{ChunkId, NodeId};
use crate::store::{AppName, Name, NameRecord};

/// Ids looked up at once.
const LOOKUP_BATCH: usize = 512;
/// Nodes read at once: with the longest nodes 8 MiB, usually half of one.
const NODE_BATCH: usize = 128;
/// Frames that lie this close are read in one sweep.
const RUN_GAP_MAX: u64 = 8;
/// A sweep shorter than this costs more to set up than it saves.
const RUN_BYTES_MIN: u64 = 512 << 10;
pub(super) const READAHEAD_BYTES_MAX: u64 = 2 << 20;
/// Most bytes of frames held at once while reading scattered ones.
const SCATTER_BYTES_MAX: u64 = 2 << 20;
const SCATTER_MAX: usize = 256;

/// One chunk to read: where it is, and the caller's number for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub location: Location,
    pub index: usize,
}

/// Receives frames by the caller's number.
pub(super) type EachFrame<'a> = dyn FnMut(usize, Option<Frame>) -> Result<()> + 'a;

/// A database, open for reading or for writing.
pub(super) struct Database(pub DB);

impl Database {
    pub fn family(&self, name: &str) -> &ColumnFamily {
        self.0.cf_handle(name).expect("the database was opened with every family")
    }
}

impl Deref for Database {
    type Target = DB;
    fn deref(&self) -> &DB {
        &self.0
    }
}

/// The store's database. It is opened for reading, and again for writing with the first write: opening for writing
/// makes RocksDB write and sync a MANIFEST and an OPTIONS file, ten times the cost of what a publish without
/// changes does. Nobody else can have written in between, since the store is locked.
pub(super) struct Base {
    current: RwLock<Current>,
    /// The store's directory.
    pub dir: PathBuf,
    home: Arc<Home>,
    cache: Cache,
    read_only: bool,
    // Whether what a stopped writer left is gone.
    cleared: Mutex<bool>,
    /// Crash points.
    pub faults: Faults,
}

struct Current {
    db: Arc<Database>,
    writable: bool,
}

impl Base {
    /// Opens the database of the store, or makes it if there never was one.
    pub fn open(dir: &Path, home: Arc<Home>, read_only: bool, faults: Faults) -> Result<Base> {
        let cache = Cache::new_lru_cache(CACHE_BYTES);
        let fresh = home.is_fresh();
        let opened = if fresh {
            faults.check("create", &home.db())?;
            open_for_writing(&home, &cache, true)
        } else {
            manifest::check(&home.db(), &home::place(dir))?;
            database_options(false).and_then(|options| {
                DB::open_cf_descriptors_read_only(&options, home.db(), families(&cache), false)
            })
        };
        let db = Arc::new(Database(opened.map_err(|error| open_error(dir, error))?));
        if fresh {
            home.complete(&faults)?;
        }
        let current = RwLock::new(Current { db, writable: fresh });
        Ok(Base { current, dir: dir.to_owned(), home, cache, read_only, cleared: Mutex::default(), faults })
    }

    /// The database, for reading.
    pub fn db(&self) -> Arc<Database> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).db)
    }

    /// The database, for writing.
    pub fn writable(&self) -> Result<Arc<Database>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if current.writable {
            return Ok(Arc::clone(&current.db));
        }
        drop(current);
        if self.read_only {
            return Err(Error::Conflict {
                what: "store".into(),
                place: self.place(),
                reason: "it was opened for reading only".into(),
            });
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if !current.writable {
            self.clear_leftovers()?;
            self.check("open the database")?;
            let opened = open_for_writing(&self.home, &self.cache, false);
            current.db = Arc::new(Database(opened.map_err(|error| open_error(&self.dir, error))?));
            current.writable = true;
        }
        Ok(Arc::clone(&current.db))
    }

    /// Forgets what a salvage put aside.
    pub fn settle(&self) -> Result<()> {
        if self.number(super::layout::NAMES_LOST_KEY)? > 0 {
            let db = self.writable()?;
            let mut batch = WriteBatch::default();
            batch.delete_cf(db.family(META), super::layout::NAMES_LOST_KEY);
            self.write_logged(batch, true)?;
        }
        self.home.remove_damaged(&self.faults)
    }

    /// Where tables are written before they are ingested.
    pub fn ingest_dir(&self) -> Result<PathBuf> {
        self.clear_leftovers()?;
        self.home.ingest_dir(&self.faults)
    }

    // Once, before the first table and before the database is opened for writing, which takes space itself.
    fn clear_leftovers(&self) -> Result<()> {
        let mut cleared = self.cleared.lock().unwrap_or_else(PoisonError::into_inner);
        if !*cleared {
            self.home.clear_ingest(&self.faults)?;
            *cleared = true;
        }
        Ok(())
    }

    pub fn place(&self) -> String {
        home::place(&self.dir)
    }

    pub fn error(&self, action: &'static str, error: rocksdb::Error) -> Error {
        store_error(&self.dir, action, error)
    }

    pub fn check(&self, action: &'static str) -> Result<()> {
        self.faults.check(action, &self.dir)
    }

    /// Writes a batch of a family that has no log: durable after [`Base::flush`] only.
    pub fn write_unlogged(&self, batch: WriteBatch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.check("write batch")?;
        self.writable()?.write_without_wal(batch).map_err(|error| self.error("write", error))
    }

    /// Writes a batch of a family with a log: durable with the next synced write, or at once with `sync`.
    pub fn write_logged(&self, batch: WriteBatch, sync: bool) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.check(if sync { "write batch and sync" } else { "write batch" })?;
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.writable()?.write_opt(batch, &options).map_err(|error| self.error("write", error))
    }

    /// Makes a family's memtable a table. RocksDB syncs the table, its directory and the MANIFEST before this
    /// returns (flush_job.cc, builder.cc, version_set.cc: SyncManifest).
    pub fn flush(&self, family: &str) -> Result<()> {
        self.check("flush")?;
        let db = self.writable()?;
        db.flush_cf(db.family(family)).map_err(|error| self.error("flush", error))
    }

    pub fn number(&self, key: &[u8]) -> Result<u64> {
        let db = self.db();
        let value = db.get_pinned_cf(db.family(META), key).map_err(|error| self.error("read", error))?;
        match value {
            None => Ok(0),
            Some(value) => super::layout::number(&value)
                .ok_or_else(|| self.damaged(format!("counter `{}`", key.escape_ascii()))),
        }
    }

    pub fn damaged(&self, what: String) -> Error {
        let reason = "its database value cannot be read".into();
        Error::Damaged { what, place: self.place(), reason }
    }

    /// For each id, whether the family has it.
    pub fn has<K: Key>(&self, ids: &[K]) -> Result<Vec<bool>> {
        let mut has = Vec::with_capacity(ids.len());
        let db = self.db();
        for batch in ids.chunks(LOOKUP_BATCH) {
            for value in values(&db, batch) {
                has.push(value.map_err(|error| self.error("look up", error))?.is_some());
            }
        }
        Ok(has)
    }

    /// For each id, whether the family has a record of it, or one that cannot be read.
    pub fn claims<K: Key>(&self, ids: &[K]) -> Result<Vec<bool>> {
        let mut claims = Vec::with_capacity(ids.len());
        let db = self.db();
        for batch in ids.chunks(LOOKUP_BATCH) {
            for value in values(&db, batch) {
                match value {
                    Err(error) if !is_damage(&error) => return Err(self.error("look up", error)),
                    value => claims.push(value.map_or(true, |value| value.is_some())),
                }
            }
        }
        Ok(claims)
    }

    /// Where chunks are. A damaged index entry counts as a chunk that is not there.
    pub fn locate(
        &self,
        ids: impl Iterator<Item = ChunkId>,
        each: &mut dyn FnMut(Option<Location>),
    ) -> Result<()> {
        let mut ids = ids.peekable();
        let mut batch: Vec<ChunkId> = Vec::with_capacity(LOOKUP_BATCH);
        let db = self.db();
        while ids.peek().is_some() {
            batch.clear();
            batch.extend(ids.by_ref().take(LOOKUP_BATCH));
            for value in values(&db, &batch) {
                let value = self.undamaged(value)?;
                each(value.and_then(|value| Location::from_bytes(&value)));
            }
        }
        Ok(())
    }

    /// Hands over nodes; returns the places in `ids` of those that are not here.
    pub fn nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<Vec<usize>> {
        let mut missing = Vec::new();
        let db = self.db();
        for (batch, first) in ids.chunks(NODE_BATCH).zip((0..).step_by(NODE_BATCH)) {
            for (value, index) in values(&db, batch).into_iter().zip(first..) {
                match self.undamaged(value)? {
                    Some(value) => each(index, Some(value.to_vec()))?,
                    None => missing.push(index),
                }
            }
        }
        Ok(missing)
    }

    pub fn node(&self, id: &NodeId) -> Result<Option<Vec<u8>>> {
        let db = self.db();
        self.undamaged(db.get_cf(db.family(NODE), id.as_bytes()))
    }

    /// Hands over frames. Sorts `wanted` by where they lie; reads neighbours in one sweep and the rest by groups.
    pub fn frames(&self, wanted: &mut [Wanted], each: &mut EachFrame<'_>) -> Result<()> {
        wanted.sort_unstable_by_key(|wanted| wanted.location.seq);
        let mut scattered = Vec::new();
        let mut bytes = 0;
        for run in wanted.chunk_by(|a, b| b.location.seq - a.location.seq <= RUN_GAP_MAX) {
            let run_bytes = run.iter().map(|wanted| u64::from(wanted.location.stored_len)).sum();
            if run_bytes >= RUN_BYTES_MIN {
                self.run(run, run_bytes, each)?;
                continue;
            }
            bytes += run_bytes;
            scattered.extend_from_slice(run);
            if bytes >= SCATTER_BYTES_MAX || scattered.len() >= SCATTER_MAX {
                self.scattered(&scattered, each)?;
                scattered.clear();
                bytes = 0;
            }
        }
        self.scattered(&scattered, each)
    }

    fn run(&self, run: &[Wanted], bytes: u64, each: &mut EachFrame<'_>) -> Result<()> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(bytes.min(READAHEAD_BYTES_MAX) as usize);
        options.set_iterate_upper_bound((last.location.seq + 1).to_be_bytes());
        let db = self.db();
        let mut rows = db.raw_iterator_cf_opt(db.family(DATA), options);
        rows.seek(first.location.seq.to_be_bytes());
        for (done, wanted) in run.iter().enumerate() {
            let key = wanted.location.seq.to_be_bytes();
            while rows.key().is_some_and(|at| at < key.as_slice()) {
                rows.next();
            }
            let value = match rows.item() {
                Some((at, value)) => (at == key).then_some(value),
                None if rows.status().is_ok() => None,
                // One bad block ends an iterator: the rest of the run goes one by one.
                None => return self.singly(&run[done..], each),
            };
            each(wanted.index, value.and_then(|value| self.frame(wanted, value)))?;
        }
        Ok(())
    }

    // A multi-get may report one bad block for its neighbours too; those are asked for again.
    fn scattered(&self, wanted: &[Wanted], each: &mut EachFrame<'_>) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = wanted.iter().map(|wanted| wanted.location.seq.to_be_bytes()).collect();
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let db = self.db();
        let values = db.batched_multi_get_cf_opt(db.family(DATA), &keys, true, &options);
        for (wanted, value) in wanted.iter().zip(values) {
            match value {
                Ok(value) => each(wanted.index, value.and_then(|value| self.frame(wanted, &value)))?,
                Err(_) => self.singly(std::slice::from_ref(wanted), each)?,
            }
        }
        Ok(())
    }

    fn singly(&self, wanted: &[Wanted], each: &mut EachFrame<'_>) -> Result<()> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let db = self.db();
        for wanted in wanted {
            let key = wanted.location.seq.to_be_bytes();
            let value = self.undamaged(db.get_pinned_cf_opt(db.family(DATA), key, &options))?;
            each(wanted.index, value.and_then(|value| self.frame(wanted, &value)))?;
        }
        Ok(())
    }

    fn frame(&self, wanted: &Wanted, value: &[u8]) -> Option<Frame> {
        if value.len() != wanted.location.stored_len as usize {
            return None;
        }
        Frame::from_bytes(value.to_vec(), "").ok()
    }

    // Damage reads as absence; anything else that goes wrong is an error.
    pub fn undamaged<T>(&self, value: Result<Option<T>, rocksdb::Error>) -> Result<Option<T>> {
        match value {
            Ok(value) => Ok(value),
            Err(error) if is_damage(&error) => {
                tracing::warn!("{}: {error}", self.place());
                Ok(None)
            }
            Err(error) => Err(self.error("read", error)),
        }
    }

    pub fn resolve(&self, name: &Name) -> Result<Option<NameRecord>> {
        let key = name_key(name);
        let db = self.db();
        let value = db.get_pinned_cf(db.family(META), &key).map_err(|error| self.names_error(error))?;
        value.map(|value| name_record(&key, &value, &self.place())).transpose()
    }

    pub fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>> {
        let prefix = name_prefix(app);
        let mut records = Vec::new();
        let db = self.db();
        let mut rows = db.raw_iterator_cf(db.family(META));
        rows.seek(&prefix);
        while let Some((key, value)) = rows.item() {
            if !key.starts_with(&prefix) {
                break;
            }
            records.push(name_record(key, value, &self.place())?);
            rows.next();
        }
        rows.status().map_err(|error| self.names_error(error))?;
        records.sort_by_key(|record: &NameRecord| record.sequence);
        Ok(records)
    }

    // A name that is left out would let a prune remove what it needs.
    fn names_error(&self, error: rocksdb::Error) -> Error {
        match self.error("read", error) {
            Error::Damaged { place, reason, .. } => {
                Error::Damaged { what: "list of names".into(), place, reason }
            }
            error => error,
        }
    }

    /// The first sequence number that no frame has had. Frames that are in no table yet do not count: ask before the
    /// first of them is written. Reads no table, so that a damaged one is not in the way.
    pub fn next_seq(&self) -> Result<u64> {
        let mut next = self.number(super::layout::NEXT_SEQ_KEY)?;
        for file in self.db().live_files().map_err(|error| self.error("list tables", error))? {
            if file.column_family_name == DATA {
                let last = file.end_key.as_deref().and_then(super::layout::number);
                let after = last.and_then(|last| last.checked_add(1));
                next =
                    next.max(after.ok_or_else(|| self.damaged(format!("key range of table {}", file.name)))?);
            }
        }
        Ok(next)
    }

    /// Tables and logs, as they lie on disk: also what a write that was stopped left behind.
    pub fn stored_bytes(&self) -> Result<u64> {
        super::home::bytes_on_disk(&self.dir)
    }

    pub fn is_empty(&self, family: &str) -> Result<bool> {
        let db = self.db();
        let mut rows = db.raw_iterator_cf(db.family(family));
        rows.seek_to_first();
        rows.status().map_err(|error| self.error("read", error))?;
        Ok(!rows.valid())
    }
}

// Looks ids up in their family; for each the raw value.
fn values<'a, K: Key>(
    db: &'a Database,
    ids: &[K],
) -> Vec<Result<Option<DBPinnableSlice<'a>>, rocksdb::Error>> {
    db.batched_multi_get_cf(db.family(K::FAMILY), ids.iter().map(Key::bytes), false)
}

fn open_for_writing(home: &Home, cache: &Cache, create: bool) -> Result<DB, rocksdb::Error> {
    let options = database_options(create)?;
    DB::open_cf_descriptors(&options, home.db(), families(cache))
}

// A block that fails its checksum, a table that is gone or cut short, a sector the disk cannot read.
pub(super) fn is_damage(error: &rocksdb::Error) -> bool {
    let text: &str = error.as_ref();
    error.kind() == ErrorKind::Corruption
        || text.contains("No such file or directory")
        || text.contains("Input/output error")
}

/// The database reports a full disk only in words.
pub(super) fn says_no_space(error: &rocksdb::Error) -> bool {
    let text: &str = error.as_ref();
    text.contains("No space left on device") || text.contains("NoSpace")
}

pub(super) fn store_error(dir: &Path, action: &'static str, error: rocksdb::Error) -> Error {
    let place = home::place(dir);
    if is_damage(&error) {
        return Error::Damaged { what: "database".into(), place, reason: error.into_string() };
    }
    Error::Store { action, place, source: Box::new(error) }
}

// On opening, RocksDB reports missing files as invalid arguments.
fn open_error(dir: &Path, error: rocksdb::Error) -> Error {
    let place = home::place(dir);
    let text: &str = error.as_ref();
    if text.contains("lock hold by current process") || text.contains("While lock file") {
        return Error::Locked { place, pid: None };
    }
    if error.kind() == ErrorKind::InvalidArgument {
        return Error::Damaged { what: "database".into(), place, reason: error.into_string() };
    }
    store_error(dir, "open the database", error)
}
