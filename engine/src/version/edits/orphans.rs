//! What a coder of new chunks may start from: where in the edited files they are, and the chunks of the base that the
//! same edits leave behind. Both are O(changes).

use std::collections::HashSet;
use std::ops::Range;

use super::align::Piece;
use super::make::{Draft, FileOf};
use crate::error::Result;
use crate::id::ChunkRef;
use crate::limits::UPDATE_CHUNKS_MAX;
use crate::version::chunks::ChunkRanges;
use crate::version::delta::Change;
use crate::version::entry::Entry;
use crate::version::manifest::Manifest;
use crate::version::path::RelPath;

/// A run of new chunks that follow each other in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The file.
    pub path: RelPath,
    /// Their numbers in [`super::Edits::new`].
    pub new: Range<usize>,
    /// Chunks of the old file at the same path between those that stay on both sides; empty where there is no such.
    pub between: Range<u64>,
}

/// Chunks of an old file that follow each other and that the file's edit does not keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphans {
    /// Number of the edit, from 0.
    pub edit: u64,
    /// The file.
    pub path: RelPath,
    /// The place of the first in it, in chunks.
    pub first: u64,
    /// The chunks.
    pub chunks: Vec<ChunkRef>,
}

/// All that `drafts` leave behind, up to [`UPDATE_CHUNKS_MAX`] chunks. What was moved whole is not left behind.
pub(super) fn orphans(changes: &[Change], drafts: &[Draft], have: &Manifest<'_>) -> Result<Vec<Orphans>> {
    let moved: HashSet<FileOf<'_>> = (changes.iter().zip(drafts))
        .filter(|(_, draft)| matches!(draft, Draft::Whole(_)))
        .filter_map(|(change, _)| change.want.as_ref().and_then(Entry::file))
        .collect();
    let mut room = UPDATE_CHUNKS_MAX;
    let mut found = Vec::new();
    for (edit, (change, draft)) in (0..).zip(changes.iter().zip(drafts)) {
        let Some(file) = change.have.as_ref().and_then(Entry::file).filter(|file| !moved.contains(file))
        else {
            continue;
        };
        let kept: &[Piece] = match draft {
            Draft::Mode => continue,
            Draft::File(pieces) => pieces,
            Draft::Plain | Draft::Whole(_) => &[],
        };
        let (len, content) = file;
        let mut ranges = ChunkRanges::new(have.source(), len, content.clone());
        for gap in gaps(kept, content.chunk_count()) {
            let count = (gap.end - gap.start).min(room);
            room -= count;
            let mut chunks = Vec::with_capacity(count as usize);
            ranges.read(gap.start, count, &mut |_, chunk| {
                chunks.push(chunk);
                Ok(())
            })?;
            if !chunks.is_empty() {
                found.push(Orphans { edit, path: change.path.clone(), first: gap.start, chunks });
            }
        }
    }
    Ok(found)
}

// What lies between the old stretches that are kept, of `count` chunks.
fn gaps(kept: &[Piece], count: u64) -> Vec<Range<u64>> {
    let mut stretches: Vec<Range<u64>> = kept.iter().filter_map(old).collect();
    stretches.sort_unstable_by_key(|stretch| stretch.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for stretch in stretches {
        if stretch.start > at {
            gaps.push(at..stretch.start);
        }
        at = at.max(stretch.end);
    }
    if count > at {
        gaps.push(at..count);
    }
    gaps
}

fn old(piece: &Piece) -> Option<Range<u64>> {
    match *piece {
        Piece::Old { first, count } => Some(first..first.saturating_add(count)),
        Piece::Loose(_) => None,
    }
}

/// Where a region that follows `pieces[..at]` lies between old chunks: from the end of the old stretch before it to the
/// start of the one after it, or to the end of the file.
pub(super) fn between(pieces: &[Piece], region: Range<usize>, old_count: u64) -> Range<u64> {
    let before = pieces.get(..region.start).unwrap_or_default().iter().rev().find_map(old);
    let after = pieces.get(region.end..).unwrap_or_default().iter().find_map(old);
    let start = before.map_or(0, |stretch| stretch.end);
    let end = after.map_or(old_count, |stretch| stretch.start);
    if end > start { start..end } else { 0..0 }
}
