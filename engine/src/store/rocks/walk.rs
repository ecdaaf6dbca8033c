//! Walks through whole families: past what is damaged, for verify and salvage, or up to it, where what is missed would
//! be removed.

use rocksdb::{DBRawIterator, ReadOptions};

use super::base::{Base, Database, READAHEAD_BYTES_MAX, is_damage};
use super::layout::{CONDEMNED, DATA, INDEX, Key, Location, META, NAMES_LOST_KEY, NODE};
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkRef, NodeId};

/// Sequence numbers put in order at once by [`Base::each_chunk`]; 24 MiB.
const WINDOW: u64 = 512 << 10;

/// Walks `family` from key `start` to key `end`, both included, past what cannot be read; returns whether all could.
/// A damaged block ends an iterator and does not say where it ends itself, so the place where reading works again is
/// looked for, by the first eight bytes of a key. A key may come twice.
pub(super) fn walk_past(
    db: &Database,
    family: &str,
    (start, end): (&[u8], Option<&[u8]>),
    each: &mut dyn FnMut(&[u8], &[u8]) -> Result<()>,
    error: &dyn Fn(rocksdb::Error) -> Error,
) -> Result<bool> {
    // A fresh iterator each time: one that met damage takes sound blocks behind it for damaged, too.
    let open = |readahead: usize| {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(readahead);
        db.raw_iterator_cf_opt(db.family(family), options)
    };
    let seek = |key: &[u8], readahead| {
        let mut rows = open(readahead);
        rows.seek(key);
        rows
    };
    let within = |key: &[u8]| key >= start && end.is_none_or(|end| key <= end);
    let ended = |rows: &DBRawIterator<'_>| match rows.status() {
        Ok(()) => Ok(true),
        Err(cause) if is_damage(&cause) => Ok(false),
        Err(cause) => Err(error(cause)),
    };
    let mut whole = true;
    let mut from = Some(start.to_vec());
    while let Some(first) = from {
        let mut last = prefix(&first);
        let mut rows = seek(&first, READAHEAD_BYTES_MAX as usize);
        while let Some((key, value)) = rows.item().filter(|(key, _)| within(key)) {
            last = prefix(key);
            each(key, value)?;
            rows.next();
        }
        from = None;
        if !ended(&rows)? {
            whole = false;
            let works = |prefix: u64| seek(&prefix.to_be_bytes(), 0).status().is_ok();
            from = skip(last, works).map(|prefix| prefix.to_be_bytes().to_vec());
            from = from.filter(|from| end.is_none_or(|end| from.as_slice() <= end));
        }
    }
    if !whole {
        // Keys that begin alike, as names do, are passed over together; those behind the damage are met from behind.
        let mut rows = open(0);
        match end {
            Some(end) => rows.seek_for_prev(end),
            None => rows.seek_to_last(),
        }
        while let Some((key, value)) = rows.item().filter(|(key, _)| within(key)) {
            each(key, value)?;
            rows.prev();
        }
        ended(&rows)?;
    }
    Ok(whole)
}

// The first eight bytes of a key as a number.
fn prefix(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(key).for_each(|(byte, key)| *byte = *key);
    u64::from_be_bytes(bytes)
}

impl Base {
    /// Walks a family keyed by ids, in key order. Stops at damage.
    pub fn walk<K: Key>(&self, each: &mut dyn FnMut(K, &[u8]) -> Result<()>) -> Result<()> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READAHEAD_BYTES_MAX as usize);
        let db = self.db();
        let mut rows = db.raw_iterator_cf_opt(db.family(K::FAMILY), options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            let key = key.try_into().map_err(|_| self.damaged(format!("key in `{}`", K::FAMILY)))?;
            each(K::from_key(key), value)?;
            rows.next();
        }
        rows.status().map_err(|error| self.error("read", error))
    }

    /// Walks the index, in key order. Stops at damage.
    pub fn walk_index(&self, each: &mut dyn FnMut(ChunkId, Location) -> Result<()>) -> Result<()> {
        self.walk(&mut |id: ChunkId, value| match Location::from_bytes(value) {
            Some(location) => each(id, location),
            None => Err(self.damaged(format!("index entry of chunk {id}"))),
        })
    }

    /// What of the records cannot be read, in the database's words: what would stop a sweep, what would hide names, and
    /// tables of frames that cannot be opened.
    pub fn damaged_records(&self) -> Result<Option<String>> {
        let damaged = self.damaged_tables()?;
        if damaged.is_some() || !self.names_lost()? {
            return Ok(damaged);
        }
        Ok(Some("names may have been lost with records that could not be read".to_owned()))
    }

    /// The same without names that may have been lost earlier.
    pub fn damaged_tables(&self) -> Result<Option<String>> {
        let walked = self
            .walk_index(&mut |_, _| Ok(()))
            .and_then(|()| [NODE, META, CONDEMNED].iter().try_for_each(|family| self.walk_rows(family)))
            .and_then(|()| self.open_tables());
        match walked {
            Err(Error::Damaged { what, reason, .. }) => Ok(Some(format!("{what}: {reason}"))),
            walked => walked.map(|()| None),
        }
    }

    /// A salvage may have lost names, and nothing has looked for them since.
    pub fn names_lost(&self) -> Result<bool> {
        Ok(self.number(NAMES_LOST_KEY)? > 0)
    }

    /// The first damage among the frames, in the database's words.
    pub fn damaged_frames(&self) -> Result<Option<String>> {
        match self.walk_rows(DATA) {
            Err(Error::Damaged { what, reason, .. }) => Ok(Some(format!("{what}: {reason}"))),
            walked => walked.map(|()| None),
        }
    }

    fn walk_rows(&self, family: &str) -> Result<()> {
        let db = self.db();
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(READAHEAD_BYTES_MAX as usize);
        let mut rows = db.raw_iterator_cf_opt(db.family(family), options);
        rows.seek_to_first();
        while rows.valid() {
            rows.next();
        }
        rows.status().map_err(|error| self.error("read", error))
    }

    // A damaged block of frames is a matter of its chunks; a table that answers at neither end keeps the database from
    // opening, sooner or later.
    fn open_tables(&self) -> Result<()> {
        let db = self.db();
        for file in db.live_files().map_err(|error| self.error("list tables", error))? {
            let (DATA, Some(start), Some(end)) =
                (file.column_family_name.as_str(), &file.start_key, &file.end_key)
            else {
                continue;
            };
            let look = |key: &[u8]| {
                let mut options = ReadOptions::default();
                options.fill_cache(false);
                let mut rows = db.raw_iterator_cf_opt(db.family(DATA), options);
                rows.seek(key);
                rows.status().map_err(|error| self.error("read", error))
            };
            if look(start).is_err() {
                look(end)?;
            }
        }
        Ok(())
    }

    /// Hands over the id of every node.
    pub fn each_node(&self, each: &mut dyn FnMut(NodeId) -> Result<()>) -> Result<()> {
        self.walk(&mut |id: NodeId, _| each(id))
    }

    /// Hands over every chunk by sequence number. The index is in hash order, so it is read once for every
    /// [`WINDOW`] of numbers in use, rather than sorted in memory that grows with the store. Entries that cannot be
    /// read are left out.
    pub fn each_chunk(&self, each: &mut dyn FnMut(ChunkRef) -> Result<()>) -> Result<()> {
        let mut next = Some(0);
        while let Some(start) = next {
            let end = u64::saturating_add(start, WINDOW);
            let mut window = Vec::new();
            next = None;
            let note = &mut |key: &[u8], value: &[u8]| {
                let (Ok(id), Some(location)) = (key.try_into(), Location::from_bytes(value)) else {
                    return Ok(());
                };
                let id = ChunkId::from_bytes(id);
                if (start..end).contains(&location.seq) {
                    window.push((location.seq, id, location.plain_len));
                } else if location.seq >= end {
                    next = Some(next.map_or(location.seq, |next: u64| next.min(location.seq)));
                }
                Ok(())
            };
            walk_past(&self.db(), INDEX, (&[], None), note, &|error| self.error("read", error))?;
            window.sort_unstable();
            window.dedup();
            for (_, id, len) in window {
                each(ChunkRef { id, len })?;
            }
        }
        Ok(())
    }
}

// The first prefix after `last` from which reading works, as long as damage lies in one piece; `None` if there is
// none. Pieces that lie close together may be taken for one, with what is between them.
fn skip(last: u64, mut works: impl FnMut(u64) -> bool) -> Option<u64> {
    let (mut bad, mut step) = (last, 1_u64);
    let mut good = loop {
        let next = last.saturating_add(step);
        if works(next) {
            break next;
        }
        if next == u64::MAX {
            return None;
        }
        (bad, step) = (next, step.saturating_mul(2));
    };
    while good - bad > 1 {
        let middle = bad + (good - bad) / 2;
        if works(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

#[cfg(test)]
mod tests {
    use super::skip;

    #[test]
    fn reading_goes_on_where_it_works_again() {
        for (last, end) in [(0, 1), (0, 2), (7, 1000), (1 << 40, (1 << 41) + 12_345), (5, u64::MAX)] {
            assert_eq!(skip(last, |prefix| prefix >= end), Some(end), "{last} {end}");
        }
        assert_eq!(skip(3, |_| false), None);
        assert_eq!(skip(u64::MAX, |_| false), None);
    }
}
