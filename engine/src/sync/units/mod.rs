//! Which new chunks are coded together, and against what. Units of files that are alike, each with a reference: chunks
//! that the base leaves behind, and new chunks of units before it.
//!
//! What a chunk is like is found by its content: windows of it, sampled by their hash, are looked up among those of all
//! chunks that could be a reference. So it does not matter whether a file was renamed, or moved about in a larger one. All
//! cost is O(change): nothing is read but new and orphaned chunks.

mod choice;
mod likeness;

use std::cmp::Ordering;
use std::ops::Range;

use crate::content::Chunk;
use crate::error::{Error, Result};
use crate::id::ChunkRef;
use crate::limits::UNIT_CHUNKS_MAX;
use crate::store::Source;
use crate::version::{Edits, Orphans, Region};

use choice::Choice;
use likeness::Likeness;

/// Bounds of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitSizes {
    /// Plain bytes of its chunks.
    pub target: u64,
    /// Bytes of its reference.
    pub reference: u64,
}

/// What one unit holds and what it is coded against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPlan {
    /// Numbers of its chunks in [`Edits::new`], in the order in which they are coded.
    pub chunks: Vec<usize>,
    /// The bytes of its reference, one stretch after the other.
    pub reference: Vec<Stretch>,
}

/// Chunks that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stretch {
    /// Of an old file.
    Old {
        /// Index in [`Edits::orphans`].
        orphans: usize,
        /// The first of them, counted from the first of the orphans.
        first: usize,
        /// How many.
        count: usize,
    },
    /// New chunks of earlier units.
    New {
        /// Number of the first in [`Edits::new`].
        first: usize,
        /// How many.
        count: usize,
    },
}

/// Chunks read at once.
const BATCH: usize = 128;

/// Plans the units of `edits`, whose chunks `source` has. Every new chunk is in exactly one unit.
pub fn plan_units(source: &dyn Source, edits: &Edits, sizes: UnitSizes) -> Result<Vec<UnitPlan>> {
    let blocks = Blocks::new(edits);
    let groups = group(edits, sizes.target);
    let mut likeness = Likeness::new(blocks.bytes());
    for (chunks, at) in
        (edits.orphans.iter()).zip(&blocks.orphans_at).map(|(orphans, at)| (&orphans.chunks, *at))
    {
        each_plain(source, chunks, &mut |index, plain| {
            likeness.add(at + index, plain);
            Ok(())
        })?;
    }
    likeness.settle();
    let mut units: Vec<UnitPlan> = Vec::with_capacity(groups.len());
    for group in groups {
        let new: Vec<usize> = group.iter().flat_map(|part| part.new.clone()).collect();
        let chunks: Vec<ChunkRef> = new.iter().filter_map(|number| edits.new.get(*number).copied()).collect();
        let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let mut choice =
            Choice::new(&blocks, sizes.reference.min(bytes.saturating_mul(2).max(REFERENCE_LEAST)));
        for part in &group {
            choice.take(blocks.between(edits, part));
        }
        let mut windows = Vec::new();
        each_plain(source, &chunks, &mut |index, plain| {
            let from = windows.len();
            likeness.windows(plain, &mut |window| windows.push(window));
            let own = windows.get(from..).unwrap_or_default().iter().copied();
            if let Some(number) = new.get(index) {
                likeness.add_later(blocks.new_at + number, own);
            }
            Ok(())
        })?;
        choice.cover(&likeness, &windows);
        units.push(UnitPlan { chunks: new, reference: choice.stretches() });
        likeness.settle();
    }
    Ok(units)
}

/// However small a unit, it may look at this much.
const REFERENCE_LEAST: u64 = 1 << 20;

/// A region or a part of it.
struct Part<'e> {
    region: &'e Region,
    new: Range<usize>,
}

// Regions of files that are alike side by side, cut into units.
fn group(edits: &Edits, target: u64) -> Vec<Vec<Part<'_>>> {
    let mut regions: Vec<&Region> = edits.regions.iter().collect();
    regions.sort_by(|a, b| by_kind(a, b));
    let mut groups: Vec<Vec<Part<'_>>> = Vec::new();
    let (mut bytes, mut count) = (0, 0);
    let mut last: Option<Vec<Part<'_>>> = None;
    for region in regions {
        for number in region.new.clone() {
            let len = edits.new.get(number).map_or(0, |chunk| u64::from(chunk.len));
            if bytes + len > target || count == UNIT_CHUNKS_MAX {
                groups.extend(last.take());
                (bytes, count) = (0, 0);
            }
            (bytes, count) = (bytes + len, count + 1);
            let parts = last.get_or_insert_default();
            match parts.last_mut().filter(|part| std::ptr::eq(part.region, region) && part.new.end == number)
            {
                Some(part) => part.new.end = number + 1,
                None => parts.push(Part { region, new: number..number + 1 }),
            }
        }
    }
    groups.extend(last);
    groups
}

// By extension, then by name, then by directory: what a package has several times comes together.
fn by_kind(a: &Region, b: &Region) -> Ordering {
    fn key(region: &Region) -> (&str, &str, &str, usize) {
        let path = region.path.as_str();
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        (extension, name, dir, region.new.start)
    }
    key(a).cmp(&key(b))
}

/// Everything that could be a reference, numbered: the orphans, then the new chunks.
struct Blocks {
    lens: Vec<u32>,
    // Number of the first block of each of the orphans.
    orphans_at: Vec<usize>,
    new_at: usize,
}

impl Blocks {
    fn new(edits: &Edits) -> Blocks {
        let (mut lens, mut orphans_at) = (Vec::new(), Vec::new());
        for orphans in &edits.orphans {
            orphans_at.push(lens.len());
            lens.extend(orphans.chunks.iter().map(|chunk| chunk.len));
        }
        let new_at = lens.len();
        lens.extend(edits.new.iter().map(|chunk| chunk.len));
        Blocks { lens, orphans_at, new_at }
    }

    fn bytes(&self) -> u64 {
        self.lens.iter().map(|len| u64::from(*len)).sum()
    }

    fn len(&self, block: usize) -> u64 {
        self.lens.get(block).map_or(0, |len| u64::from(*len))
    }

    // The blocks that lie where `part` was, as far as they are orphans.
    fn between(&self, edits: &Edits, part: &Part<'_>) -> Vec<usize> {
        let Region { path, new, between } = part.region;
        // The share of a part of a region.
        let (wide, count) = (between.end - between.start, new.len().max(1) as u64);
        let share = |number: usize| between.start + (number - new.start) as u64 * wide / count;
        let range = share(part.new.start)..share(part.new.end);
        let mut found = Vec::new();
        let from = edits.orphans.partition_point(|orphans| orphans.path < *path);
        let own = edits.orphans.iter().zip(&self.orphans_at).skip(from);
        for (Orphans { first, chunks, .. }, at) in own.take_while(|(orphans, _)| orphans.path == *path) {
            let overlap = range.start.max(*first)..range.end.min(first + chunks.len() as u64);
            found.extend(overlap.map(|place| at + (place - first) as usize));
        }
        found
    }

    fn stretch(&self, block: usize) -> Stretch {
        if block >= self.new_at {
            return Stretch::New { first: block - self.new_at, count: 1 };
        }
        let orphans = self.orphans_at.partition_point(|at| *at <= block) - 1;
        let first = block - self.orphans_at.get(orphans).copied().unwrap_or_default();
        Stretch::Old { orphans, first, count: 1 }
    }
}

// Reads chunks and calls `each` with the index and the bytes of each, in order.
pub(super) fn each_plain(
    source: &dyn Source,
    chunks: &[ChunkRef],
    each: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    for (batch, first) in chunks.chunks(BATCH).zip((0..).step_by(BATCH)) {
        let mut found: Vec<Option<Chunk>> = batch.iter().map(|_| None).collect();
        source.read_chunks(batch, &mut |at, frame| {
            if let (Some(slot), Some(want), Some(frame)) = (found.get_mut(at), batch.get(at), frame) {
                *slot = Some(Chunk::open(frame, want, &source.place())?);
            }
            Ok(())
        })?;
        for (at, chunk) in found.iter().enumerate() {
            let chunk = chunk.as_ref().ok_or_else(|| Error::Damaged {
                what: batch.get(at).map(|chunk| format!("chunk {}", chunk.id)).unwrap_or_default(),
                place: source.place(),
                reason: "it is missing".to_owned(),
            })?;
            each(first + at, chunk.bytes())?;
        }
    }
    Ok(())
}
