//! Deciding what goes and taking it out of `node` and `index`. Frames follow in `reclaim.rs`.
//!
//! Roots, then other nodes, then index entries, each durable before the next: whatever a crash leaves is whole
//! from its root down. The writer's lock is held for one batch at a time; before something is removed its mark is
//! looked at again under that lock, so a publisher's reprieve always wins.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rocksdb::{DBRawIterator, WriteBatch};

use super::base::{Base, Database};
use super::ingest::Writer;
use super::layout::{CONDEMNED, INDEX, Key, MarkKey, NODE, mark_key, number};
use crate::error::Result;
use crate::id::{ChunkId, NodeId};
use crate::store::{ROOT_NODE_KIND, SweepOptions, Swept, Verdict};

/// Changes written at once.
const STEP_MAX: usize = 4096;

pub(super) fn sweep(base: &Base, writer: &Mutex<Writer>, options: &SweepOptions<'_>) -> Result<Swept> {
    let db = if options.dry_run { base.db() } else { base.writable()? };
    let mut swept = Swept::default();
    for roots in [true, false] {
        let mut steps = Steps::<NodeId>::new(base, &db, writer, options);
        base.walk(&mut |id: NodeId, value| {
            let mark = steps.marks.of(&id)?;
            if (value.first() == Some(&ROOT_NODE_KIND)) != roots {
                return Ok(());
            }
            steps.judge(id, (options.node_live)(&id), mark, 0)
        })?;
        swept.nodes_removed += steps.finish(!roots)?.chunks_removed;
        if !options.dry_run {
            base.flush(NODE)?;
        }
    }
    let mut steps = Steps::<ChunkId>::new(base, &db, writer, options);
    base.walk_index(&mut |id, location| {
        let mark = steps.marks.of(&id)?;
        steps.judge(id, (options.chunk_live)(&id), mark, u64::from(location.stored_len))
    })?;
    let chunks = steps.finish(true)?;
    if !options.dry_run {
        base.flush(INDEX)?;
        base.check("sync log")?;
        db.flush_wal(true).map_err(|error| base.error("sync", error))?;
        let writer = lock(writer);
        writer.ahead().marked.store(!base.is_empty(CONDEMNED)?, Relaxed);
    }
    Ok(Swept { nodes_removed: swept.nodes_removed, ..chunks })
}

pub(super) fn lock(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The marks of one kind, read along with the things they are about: both are in id order.
struct Marks<'a> {
    base: &'a Base,
    rows: DBRawIterator<'a>,
    kind: u8,
    /// Marks of things that are not there: a crash between the two left them.
    stale: Vec<MarkKey>,
}

impl<'a> Marks<'a> {
    fn new<K: Key>(base: &'a Base, db: &'a Database) -> Self {
        let mut rows = db.raw_iterator_cf(db.family(CONDEMNED));
        rows.seek([K::MARK as u8]);
        Marks { base, rows, kind: K::MARK as u8, stale: Vec::new() }
    }

    /// When `id` was condemned. Ids must come in order.
    fn of<K: Key>(&mut self, id: &K) -> Result<Option<u64>> {
        let wanted = mark_key(K::MARK, id.bytes());
        while let Some((key, value)) = self.rows.item() {
            if key.first() != Some(&self.kind) || key > wanted.as_slice() {
                return Ok(None);
            }
            if key == wanted {
                // A mark that cannot be read is as good as a new one.
                let mark = number(value);
                self.rows.next();
                return Ok(mark);
            }
            self.stale.extend(MarkKey::try_from(key));
            self.rows.next();
        }
        self.rows.status().map_err(|error| self.base.error("read", error))?;
        Ok(None)
    }

    fn rest(&mut self) -> Result<()> {
        while let Some(key) = self.rows.key().filter(|key| key.first() == Some(&self.kind)) {
            self.stale.extend(MarkKey::try_from(key));
            self.rows.next();
        }
        self.rows.status().map_err(|error| self.base.error("read", error))
    }
}

/// Verdicts on things of one kind, carried out in batches.
struct Steps<'a, K> {
    base: &'a Base,
    db: &'a Database,
    writer: &'a Mutex<Writer>,
    options: &'a SweepOptions<'a>,
    marks: Marks<'a>,
    unmark: Vec<MarkKey>,
    mark: Vec<MarkKey>,
    // With their bytes, and whether they have a mark.
    remove: Vec<(K, u64, bool)>,
    // Counts things of this kind as chunks.
    swept: Swept,
}

impl<'a, K: Key> Steps<'a, K> {
    fn new(
        base: &'a Base,
        db: &'a Database,
        writer: &'a Mutex<Writer>,
        options: &'a SweepOptions<'a>,
    ) -> Self {
        let marks = Marks::new::<K>(base, db);
        let swept = Swept::default();
        Steps {
            base,
            db,
            writer,
            options,
            marks,
            unmark: Vec::new(),
            mark: Vec::new(),
            remove: Vec::new(),
            swept,
        }
    }

    fn judge(&mut self, id: K, live: bool, mark: Option<u64>, bytes: u64) -> Result<()> {
        let verdict = self.options.verdict(live, mark);
        if verdict != Verdict::Remove || self.options.dry_run {
            self.swept.count_chunk(verdict, bytes);
        }
        if self.options.dry_run {
            return Ok(());
        }
        match verdict {
            Verdict::Keep if mark.is_some() => self.unmark.push(mark_key(K::MARK, id.bytes())),
            Verdict::Keep | Verdict::Wait => {}
            Verdict::Condemn => self.mark.push(mark_key(K::MARK, id.bytes())),
            Verdict::Remove => self.remove.push((id, bytes, mark.is_some())),
        }
        if self.unmark.len() + self.mark.len() + self.remove.len() >= STEP_MAX {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let (base, db) = (self.base, self.db);
        let (condemned, family) = (db.family(CONDEMNED), db.family(K::FAMILY));
        let writer = lock(self.writer);
        let mut marks = WriteBatch::default();
        for key in self.unmark.drain(..) {
            marks.delete_cf(condemned, key);
        }
        writer.ahead().marked.fetch_or(!self.mark.is_empty(), Relaxed);
        for key in self.mark.drain(..) {
            marks.put_cf(condemned, key, self.options.now_unix_s.to_be_bytes());
        }
        let reprieved = self.reprieved()?;
        let mut removed = WriteBatch::default();
        for (id, bytes, marked) in self.remove.drain(..) {
            let key = mark_key(K::MARK, id.bytes());
            if reprieved.contains(&key) {
                self.swept.count_chunk(Verdict::Keep, bytes);
                continue;
            }
            self.swept.count_chunk(Verdict::Remove, bytes);
            removed.delete_cf(family, id.bytes());
            if marked {
                marks.delete_cf(condemned, key);
            }
        }
        // Should only one of the two outlast a crash: a thing without its mark is condemned again, a mark without
        // its thing is stale.
        base.write_unlogged(removed)?;
        base.write_logged(marks, false)
    }

    // What lost its mark since the walk began. Without a grace period there are no marks to lose.
    fn reprieved(&self) -> Result<HashSet<MarkKey>> {
        if self.options.grace.is_zero() {
            return Ok(HashSet::new());
        }
        let base = self.base;
        let keys: Vec<_> = self.remove.iter().map(|(id, ..)| mark_key(K::MARK, id.bytes())).collect();
        let found = self.db.batched_multi_get_cf(self.db.family(CONDEMNED), &keys, true);
        let mut reprieved = HashSet::new();
        for (key, mark) in keys.into_iter().zip(found) {
            if mark.map_err(|error| base.error("look up", error))?.is_none() {
                reprieved.insert(key);
            }
        }
        Ok(reprieved)
    }

    // `stale` also removes the marks that belong to nothing.
    fn finish(mut self, stale: bool) -> Result<Swept> {
        self.step()?;
        if stale && !self.options.dry_run {
            self.marks.rest()?;
            // Something put while the walk was on may have the id of a stale mark; it is wanted, so the mark goes
            // in any case.
            let mut batch = WriteBatch::default();
            for key in &self.marks.stale {
                batch.delete_cf(self.db.family(CONDEMNED), key);
            }
            self.base.write_logged(batch, false)?;
        }
        Ok(self.swept)
    }
}
