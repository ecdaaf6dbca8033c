//! Making the database anew from what is readable, beside the old one: `db-new/`, which takes the place of `db/` when it
//! is complete. The old one is only read, and stays as `db-damaged/` until a repair has ended well.
//!
//! * Tables never change, so they are linked, not copied. RocksDB's own repair lists the sound ones and puts every
//!   other one aside, also the tables of frames that were written outside the database: those are ingested again.
//! * Of the tables put aside, the readable records are read through the old database, if that opens at all, and
//!   written again. So they come as the newest of what can be read, and names as they are in the log.
//! * Nodes that names need and that lie between damaged pieces are asked for by their ids.
//! * A frame whose index entry was lost is hashed and gets a new one.
//!
//! What cannot be read may also have been a removal: chunks and nodes that come back are removed by the next sweep.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{Cache, DB, IngestExternalFileOptions, LiveFile, WriteBatch};

use super::base::{Base, Database, is_damage, says_no_space, store_error};
use super::home::{self, Home};
use super::layout::{
    CACHE_BYTES, CONDEMNED, DATA, FAMILIES, INDEX, Location, META, NAMES_BOUND_KEY, NAMES_LOST_KEY,
    NEXT_SEQ_KEY, NODE, database_options, families, name_prefix, name_record, number,
};
use super::manifest;
use super::reclaim::SeqSet;
use super::walk::walk_past;
use crate::content::{Chunk, Frame};
use crate::error::{At, Error, Result};
use crate::fault::Faults;
use crate::id::NodeId;
use crate::version::Node;

/// Bytes written at once.
const BATCH_BYTES: usize = 4 << 20;
/// Sequence numbers looked for in one table: far more than one holds.
const TABLE_SEQS_MAX: u64 = 1 << 24;
/// Where RocksDB's repair puts what it does not take.
const ASIDE: &str = "lost";

/// Makes the database anew if it does not open, or if some of its own records cannot be read.
pub(super) fn mend(dir: &Path, home: &Arc<Home>, faults: &Faults) -> Result<()> {
    let damage = match Base::open(dir, home.clone(), true, Faults::default()) {
        Ok(base) => match base.damaged_tables()? {
            None => base.damaged_frames()?,
            damage => damage,
        },
        Err(Error::Damaged { reason, .. }) => Some(reason),
        Err(error) => return Err(error),
    };
    let Some(damage) = damage else { return Ok(()) };
    tracing::warn!("{}: made anew from what is readable: {damage}", home::place(dir));
    let salvage = Salvage { dir, home, faults, new: home.begin_new(faults)? };
    salvage.run()?;
    home.take_new(faults)
}

struct Salvage<'a> {
    dir: &'a Path,
    home: &'a Home,
    faults: &'a Faults,
    new: PathBuf,
}

// The old database, as far as it opens.
struct Old {
    db: Database,
    files: Vec<LiveFile>,
}

impl Salvage<'_> {
    fn run(&self) -> Result<()> {
        let old = self.open_old();
        self.link(old.as_ref())?;
        self.faults.check("repair", &self.new)?;
        if fs::read_dir(&self.new).at("read", &self.new)?.next().is_some() {
            let options = database_options(true).map_err(|error| self.error(error))?;
            DB::repair(&options, &self.new).map_err(|error| self.error(error))?;
        }
        let cache = Cache::new_lru_cache(CACHE_BYTES);
        let new = database_options(true)
            .and_then(|options| DB::open_cf_descriptors(&options, &self.new, families(&cache)));
        let new = Database(new.map_err(|error| self.error(error))?);
        let left = self.take_back(old.as_ref(), &new)?;
        let mut names_lost = !left.is_empty() || old.is_none();
        if let Some(old) = &old {
            names_lost = !self.copy(old, &new, &left)?;
            self.copy_needed(old, &new)?;
        }
        self.index_frames(&new)?;
        self.count(old.as_ref(), &new, names_lost)?;
        self.faults.check("flush", &self.new)?;
        for family in FAMILIES {
            new.flush_cf(new.family(family)).map_err(|error| self.error(error))?;
        }
        new.cancel_all_background_work(true);
        drop(new);
        let aside = self.new.join(ASIDE);
        if aside.exists() {
            fs::remove_dir_all(&aside).at("remove", &aside)?;
        }
        for entry in fs::read_dir(&self.new).at("read", &self.new)? {
            let path = entry.at("read", &self.new)?.path();
            fs::File::open(&path).and_then(|file| file.sync_all()).at("sync", &path)?;
        }
        Ok(())
    }

    // Tables that cannot be opened are no reason here not to open the others.
    fn open_old(&self) -> Option<Old> {
        let db = self.home.db();
        manifest::check(&db, "").ok()?;
        let mut options = database_options(false).ok()?;
        options.set_paranoid_checks(false);
        let cache = Cache::new_lru_cache(CACHE_BYTES);
        let db = DB::open_cf_descriptors_read_only(&options, &db, families(&cache), false).ok()?;
        let files = db.live_files().ok()?;
        Some(Old { db: Database(db), files })
    }

    // Links the tables that the old database knows, or all there are, and copies logs.
    fn link(&self, old: Option<&Old>) -> Result<()> {
        let live: Option<BTreeSet<&str>> =
            old.map(|old| old.files.iter().map(|file| file.name.trim_start_matches('/')).collect());
        let db = self.home.db();
        let entries = match fs::read_dir(&db) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.at("read", &db)?,
        };
        for entry in entries {
            let from = entry.at("read", &db)?.path();
            let Some(name) = from.file_name().and_then(|name| name.to_str()) else { continue };
            let to = self.new.join(name);
            let kind = from.extension().and_then(|kind| kind.to_str());
            if kind == Some("sst") && live.as_ref().is_none_or(|live| live.contains(name)) {
                self.faults.check("link", &to)?;
                fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).at("copy", &to)?;
            } else if kind == Some("log") {
                self.faults.check("copy", &to)?;
                fs::copy(&from, &to).at("copy", &to)?;
            }
        }
        Ok(())
    }

    // Ingests tables of frames that were put aside; returns the names of the rest. One with a damaged block is taken
    // only if its records could not be copied: a compaction would stop there, and with it all writing.
    fn take_back(&self, old: Option<&Old>, new: &Database) -> Result<BTreeSet<String>> {
        let aside = self.new.join(ASIDE);
        let mut left = BTreeSet::new();
        let entries = match fs::read_dir(&aside) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(left),
            entries => entries.at("read", &aside)?,
        };
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        for entry in entries {
            let path = entry.at("read", &aside)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if path.extension().and_then(|kind| kind.to_str()) != Some("sst") {
                continue;
            }
            if !self.is_whole(old, name)? {
                left.insert(name.to_owned());
                continue;
            }
            self.faults.check("ingest table", &path)?;
            // Only tables written outside can be ingested, and those hold frames.
            let taken = new.ingest_external_file_cf_opts(new.family(DATA), &options, vec![path.clone()]);
            if let Err(error) = taken {
                if says_no_space(&error) {
                    return Err(self.error(error));
                }
                left.insert(name.to_owned());
            }
        }
        Ok(left)
    }

    fn is_whole(&self, old: Option<&Old>, name: &str) -> Result<bool> {
        let Some(old) = old else { return Ok(true) };
        let Some(file) = old.files.iter().find(|file| file.name.trim_start_matches('/') == name) else {
            return Ok(true);
        };
        self.frames_of(old, file, &mut |_, _| Ok(()))
    }

    // Hands over the readable frames of a table; returns whether all were. Asked for one by one, because a damaged
    // block of another table is in an iterator's way, even before it.
    fn frames_of(
        &self,
        old: &Old,
        file: &LiveFile,
        each: &mut dyn FnMut([u8; 8], &[u8]) -> Result<()>,
    ) -> Result<bool> {
        let bound = |key: &Option<Vec<u8>>| key.as_deref().and_then(number);
        let (Some(start), Some(end)) = (bound(&file.start_key), bound(&file.end_key)) else {
            return Ok(false);
        };
        let mut whole = true;
        for seq in start..=end.min(start.saturating_add(TABLE_SEQS_MAX)) {
            match old.db.get_pinned_cf(old.db.family(DATA), seq.to_be_bytes()) {
                Ok(Some(frame)) => each(seq.to_be_bytes(), &frame)?,
                Ok(None) => {}
                Err(error) if is_damage(&error) => whole = false,
                Err(error) => return Err(self.error(error)),
            }
        }
        Ok(whole)
    }

    // Copies the readable records of the tables in `left`, and names and marks as the old database has them; returns
    // whether all names could be read.
    fn copy(&self, old: &Old, new: &Database, left: &BTreeSet<String>) -> Result<bool> {
        let missing = |name: &str| left.contains(name) || !self.home.db().join(name).exists();
        for file in old.files.iter().filter(|file| missing(file.name.trim_start_matches('/'))) {
            let range = (file.start_key.as_deref().unwrap_or_default(), file.end_key.as_deref());
            match file.column_family_name.as_str() {
                DATA => self.copy_frames(old, new, file)?,
                INDEX => drop(self.copy_range(old, new, INDEX, range)?),
                NODE => drop(self.copy_range(old, new, NODE, range)?),
                _ => {}
            }
        }
        self.copy_range(old, new, CONDEMNED, (&[], None))?;
        self.copy_range(old, new, META, (&[], None))
    }

    // Damage hides what lies between two pieces of it from a walk, but not from who knows its id: the nodes that names
    // need are asked for one by one.
    fn copy_needed(&self, old: &Old, new: &Database) -> Result<()> {
        let mut todo = Vec::new();
        let prefix = name_prefix(None);
        let each = &mut |key: &[u8], value: &[u8]| {
            if key.starts_with(&prefix)
                && let Ok(record) = name_record(key, value, "")
            {
                todo.push(record.version.root());
            }
            Ok(())
        };
        walk_past(new, META, (&[], None), each, &|error| self.error(error))?;
        let mut seen: HashSet<NodeId> = todo.iter().copied().collect();
        let mut batch = WriteBatch::default();
        while let Some(id) = todo.pop() {
            let mut found = self.node_of(new, id)?;
            if found.is_none() {
                found = self.node_of(&old.db, id)?;
                if let Some((_, bytes)) = &found {
                    batch.put_cf(new.family(NODE), id.as_bytes(), bytes);
                    self.write(new, &mut batch, BATCH_BYTES)?;
                }
            }
            let children = found.map(|(node, _)| node.children()).unwrap_or_default();
            todo.extend(children.into_iter().filter(|child| seen.insert(*child)));
        }
        self.write(new, &mut batch, 0)
    }

    fn node_of(&self, db: &Database, id: NodeId) -> Result<Option<(Node, Vec<u8>)>> {
        match db.get_cf(db.family(NODE), id.as_bytes()) {
            Ok(bytes) => Ok(bytes.and_then(|bytes| Some((Node::open(id, &bytes, "").ok()?, bytes)))),
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    fn copy_frames(&self, old: &Old, new: &Database, file: &LiveFile) -> Result<()> {
        let mut batch = WriteBatch::default();
        self.frames_of(old, file, &mut |key, frame| {
            batch.put_cf(new.family(DATA), key, frame);
            self.write(new, &mut batch, BATCH_BYTES)
        })?;
        self.write(new, &mut batch, 0)
    }

    fn copy_range(
        &self,
        old: &Old,
        new: &Database,
        family: &str,
        range: (&[u8], Option<&[u8]>),
    ) -> Result<bool> {
        let mut batch = WriteBatch::default();
        let each = &mut |key: &[u8], value: &[u8]| {
            batch.put_cf(new.family(family), key, value);
            self.write(new, &mut batch, BATCH_BYTES)
        };
        let whole = walk_past(&old.db, family, range, each, &|error| self.error(error))?;
        self.write(new, &mut batch, 0)?;
        Ok(whole)
    }

    // Writes the batch if it is longer than `min`.
    fn write(&self, new: &Database, batch: &mut WriteBatch, min: usize) -> Result<()> {
        if batch.is_empty() || batch.size_in_bytes() < min {
            return Ok(());
        }
        self.faults.check("write batch", &self.new)?;
        new.write_without_wal(std::mem::take(batch)).map_err(|error| self.error(error))
    }

    // Gives an entry to each readable frame that has none and whose chunk has none.
    fn index_frames(&self, new: &Database) -> Result<()> {
        let mut known = SeqSet::default();
        let each = &mut |_: &[u8], value: &[u8]| {
            Location::from_bytes(value).into_iter().for_each(|location| known.insert(location.seq));
            Ok(())
        };
        walk_past(new, INDEX, (&[], None), each, &|error| self.error(error))?;
        let mut batch = WriteBatch::default();
        let each = &mut |key: &[u8], value: &[u8]| {
            let Some(seq) = number(key).filter(|seq| *seq < u64::MAX && known.count(*seq..=*seq) == 0) else {
                return Ok(());
            };
            let frame = Frame::from_bytes(value.to_vec(), "");
            let Ok(chunk) = frame.and_then(|frame| Chunk::open_unnamed(frame, None, "")) else {
                return Ok(());
            };
            let (id, plain_len) = (chunk.id(), chunk.to_ref().len);
            let here = new.get_pinned_cf(new.family(INDEX), id.as_bytes());
            if here.map_err(|error| self.error(error))?.is_none() {
                let location = Location { seq, plain_len, stored_len: value.len() as u32 };
                batch.put_cf(new.family(INDEX), id.as_bytes(), location.to_bytes());
            }
            self.write(new, &mut batch, BATCH_BYTES)
        };
        walk_past(new, DATA, (&[], None), each, &|error| self.error(error))?;
        self.write(new, &mut batch, 0)
    }

    // Sets the counters past everything that is known to have been given.
    fn count(&self, old: Option<&Old>, new: &Database, names_lost: bool) -> Result<()> {
        let read = |key: &[u8]| {
            let value = new.get_pinned_cf(new.family(META), key).map_err(|error| self.error(error))?;
            Ok(value.and_then(|value| number(&value)).unwrap_or_default())
        };
        let mut next_seq = read(NEXT_SEQ_KEY)?;
        let files = new.live_files().map_err(|error| self.error(error))?;
        for file in old.iter().flat_map(|old| &old.files).chain(&files) {
            if file.column_family_name == DATA {
                let last = file.end_key.as_deref().and_then(number);
                next_seq = next_seq.max(last.map_or(0, |last| last.saturating_add(1)));
            }
        }
        let each = &mut |_: &[u8], value: &[u8]| {
            let seq = Location::from_bytes(value).map(|location| location.seq);
            next_seq = next_seq.max(seq.map_or(0, |seq| seq.saturating_add(1)));
            Ok(())
        };
        walk_past(new, INDEX, (&[], None), each, &|error| self.error(error))?;
        let mut names = read(NAMES_BOUND_KEY)?;
        let prefix = name_prefix(None);
        let each = &mut |key: &[u8], value: &[u8]| {
            if key.starts_with(&prefix)
                && let Ok(record) = name_record(key, value, "")
            {
                names = names.max(record.sequence.saturating_add(1));
            }
            Ok(())
        };
        walk_past(new, META, (&[], None), each, &|error| self.error(error))?;
        let names_lost = names_lost || read(NAMES_LOST_KEY)? > 0;
        let mut batch = WriteBatch::default();
        let rows = [(NEXT_SEQ_KEY, next_seq), (NAMES_BOUND_KEY, names), (NAMES_LOST_KEY, names_lost.into())];
        for (key, value) in rows {
            batch.put_cf(new.family(META), key, value.to_be_bytes());
        }
        self.write(new, &mut batch, 0)
    }

    fn error(&self, error: rocksdb::Error) -> Error {
        store_error(self.dir, "make the database anew", error)
    }
}
