//! Giving disk space back. What is dead follows from `index` alone: a frame whose sequence number no entry names,
//! whether a sweep removed the entry, a repair replaced it, or a crash came before it was written. So an
//! interrupted pass is simply made again.
//!
//! A table without live frames is dropped whole. One with few live bytes is rewritten without its dead frames. One
//! with many is left alone until a later pass: rewriting it costs more than it gives.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use rocksdb::{BottommostLevelCompaction, CompactOptions, WriteBatch};

use super::base::Base;
use super::ingest::Writer;
use super::layout::{CONDEMNED, DATA, INDEX, META, NEXT_SEQ_KEY, NODE, number};
use super::sweep::lock;
use crate::error::Result;
use crate::store::Swept;

/// A table is rewritten when less than this share of its bytes is live.
const LIVE_PERCENT_MIN: u64 = 60;
/// Bytes of a table beside its frames: of each frame at least so many, and at most so many of the table itself.
const FRAME_OVERHEAD: u64 = 16;
const TABLE_OVERHEAD: u64 = 4096;
/// `index` and `node` are rewritten when at least one in this many entries went.
const REMOVED_SHARE_MIN: u64 = 8;

/// Frees what [`super::sweep`] and earlier mishaps left behind.
pub(super) fn reclaim(base: &Base, writer: &Mutex<Writer>, swept: &Swept) -> Result<()> {
    // Below this number every frame that is wanted has its entry; above it a publisher may be at work.
    let end = {
        let mut writer = lock(writer);
        writer.flush(base)?;
        writer.next_seq(base)?
    };
    let mut live = SeqSet::default();
    let mut tables = tables(base, end)?;
    base.walk_index(&mut |_, location| {
        live.insert(location.seq);
        let after = tables.partition_point(|table| *table.range.start() <= location.seq);
        let table = after.checked_sub(1).and_then(|at| tables.get_mut(at));
        if let Some(table) = table.filter(|table| *table.range.end() >= location.seq) {
            table.live += u64::from(location.stored_len) + FRAME_OVERHEAD;
        }
        Ok(())
    })?;
    let (dead, sparse) = judge(tables, &live);
    if !dead.is_empty() || !sparse.is_empty() {
        let db = base.writable()?;
        let mut batch = WriteBatch::default();
        batch.put_cf(db.family(META), NEXT_SEQ_KEY, end.to_be_bytes());
        base.write_logged(batch, true)?;
    }
    for range in dead {
        base.check("drop tables")?;
        let db = base.writable()?;
        db.delete_file_in_range_cf(db.family(DATA), range.start().to_be_bytes(), range.end().to_be_bytes())
            .map_err(|error| base.error("drop tables", error))?;
    }
    for range in sparse {
        rewrite(base, range, &live)?;
    }
    let removed = swept.chunks_removed;
    if removed * REMOVED_SHARE_MIN > swept.chunks_live + swept.chunks_condemned + removed {
        compact(base, INDEX, None)?;
    }
    if swept.nodes_removed > 0 {
        compact(base, NODE, None)?;
    }
    if (removed > 0 || swept.nodes_removed > 0) && base.is_empty(CONDEMNED)? {
        compact(base, CONDEMNED, None)?;
    }
    Ok(())
}

type Range = RangeInclusive<u64>;

struct Table {
    range: Range,
    level: i32,
    size: u64,
    // Bytes of it that live frames take, at least.
    live: u64,
}

// All tables of frames below `end`, in order. What they say of their own number of entries is not known for one that
// came from outside and was not opened since.
fn tables(base: &Base, end: u64) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for file in base.db().live_files().map_err(|error| base.error("list tables", error))? {
        if file.column_family_name != DATA {
            continue;
        }
        let (start, last) =
            (file.start_key.as_deref().and_then(number), file.end_key.as_deref().and_then(number));
        let (Some(start), Some(last)) = (start, last) else {
            return Err(base.damaged(format!("key range of table {}", file.name)));
        };
        if last < end {
            tables.push(Table { range: start..=last, level: file.level, size: file.size as u64, live: 0 });
        }
    }
    tables.sort_unstable_by_key(|table| *table.range.start());
    Ok(tables)
}

// The ranges of tables to drop and of tables to rewrite; neighbours are joined.
fn judge(tables: Vec<Table>, live: &SeqSet) -> (Vec<Range>, Vec<Range>) {
    let (mut dead, mut sparse) = (Vec::new(), Vec::new());
    for table in tables {
        // Tables on level 0 are never dropped whole: RocksDB orders them by age, not by key.
        if table.level > 0 && live.count(table.range.clone()) == 0 {
            join(&mut dead, table.range);
        } else if table.live * 100 < table.size.saturating_sub(TABLE_OVERHEAD) * LIVE_PERCENT_MIN {
            join(&mut sparse, table.range);
        }
    }
    (dead, sparse)
}

fn join(ranges: &mut Vec<Range>, next: Range) {
    match ranges.last_mut() {
        Some(last) if *next.start() <= last.end().saturating_add(1) => {
            *last = *last.start()..=*last.end().max(next.end());
        }
        _ => ranges.push(next),
    }
}

fn rewrite(base: &Base, range: Range, live: &SeqSet) -> Result<()> {
    let db = base.writable()?;
    let mut batch = WriteBatch::default();
    let mut from = *range.start();
    for seq in live.iter(range.clone()) {
        if from < seq {
            batch.delete_range_cf(db.family(DATA), from.to_be_bytes(), seq.to_be_bytes());
        }
        from = seq + 1;
    }
    if from <= *range.end() {
        batch.delete_range_cf(db.family(DATA), from.to_be_bytes(), (range.end() + 1).to_be_bytes());
    }
    base.write_unlogged(batch)?;
    base.flush(DATA)?;
    compact(base, DATA, Some(range))
}

fn compact(base: &Base, family: &str, range: Option<Range>) -> Result<()> {
    base.check("compact")?;
    let mut options = CompactOptions::default();
    options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
    let (start, end) = match range {
        Some(range) => (Some(range.start().to_be_bytes()), Some(range.end().to_be_bytes())),
        None => (None, None),
    };
    // It reports no error. One that failed, for want of space, loses nothing and is made again by the next sweep.
    let db = base.writable()?;
    db.compact_range_cf_opt(db.family(family), start, end, &options);
    Ok(())
}

/// A set of sequence numbers: a bit each, in pages that exist only where there are any.
#[derive(Default)]
pub(super) struct SeqSet(BTreeMap<u64, Box<[u64; PAGE_WORDS]>>);

const PAGE_WORDS: usize = 1024;
const PAGE_BITS: u64 = 64 * PAGE_WORDS as u64;

impl SeqSet {
    pub fn insert(&mut self, seq: u64) {
        let page = self.0.entry(seq / PAGE_BITS).or_insert_with(|| Box::new([0; PAGE_WORDS]));
        let bit = seq % PAGE_BITS;
        page[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    pub fn count(&self, range: Range) -> u64 {
        self.words(range).map(|(_, word)| u64::from(word.count_ones())).sum()
    }

    fn iter(&self, range: Range) -> impl Iterator<Item = u64> {
        self.words(range).flat_map(|(first, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
        })
    }

    // Words that have bits of the range, with the number of their first bit; other bits are cleared.
    fn words(&self, range: Range) -> impl Iterator<Item = (u64, u64)> {
        let (start, end) = (*range.start(), *range.end());
        self.0.range(start / PAGE_BITS..=end / PAGE_BITS).flat_map(move |(page, words)| {
            (page * PAGE_BITS..).step_by(64).zip(words.iter()).filter_map(move |(first, word)| {
                let last = first + 63;
                if last < start || first > end {
                    return None;
                }
                let low = u64::MAX << start.saturating_sub(first);
                let high = u64::MAX >> last.saturating_sub(end);
                Some((first, word & low & high))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_counts_and_lists_within_a_range() {
        let seqs = [0, 1, 63, 64, 65, PAGE_BITS - 1, PAGE_BITS, 10 * PAGE_BITS + 7];
        let mut set = SeqSet::default();
        seqs.iter().for_each(|seq| set.insert(*seq));
        for start in [0, 1, 2, 63, 64, 66, PAGE_BITS, 11 * PAGE_BITS] {
            for end in [0, 1, 62, 63, 64, 100, PAGE_BITS - 1, PAGE_BITS, u64::MAX - 1] {
                if start > end {
                    continue;
                }
                let expected: Vec<_> =
                    seqs.iter().copied().filter(|seq| (start..=end).contains(seq)).collect();
                assert_eq!(set.iter(start..=end).collect::<Vec<_>>(), expected, "{start}..={end}");
                assert_eq!(set.count(start..=end), expected.len() as u64);
            }
        }
    }

    #[test]
    fn neighbours_are_joined() {
        let mut ranges = Vec::new();
        for range in [0..=3, 4..=9, 11..=12, 12..=20] {
            join(&mut ranges, range);
        }
        assert_eq!(ranges, [0..=9, 11..=20]);
    }
}
