//! Which stretches of a file are those of another, and where: both chunk trees are walked down at once, past the
//! subtrees that they share.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use crate::error::Result;
use crate::id::ChunkRef;
use crate::version::chunks::{BATCH, proven, top};
use crate::version::entry::Content;
use crate::version::node::NodeSource;
use crate::version::page::{ChunksLink, Page};

/// A stretch of a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// Chunks of the old file from `first` on.
    Old { first: u64, count: u64 },
    /// A chunk that is not among those compared.
    Loose(ChunkRef),
}

type File<'a> = (&'a dyn NodeSource, u64, &'a Content);

/// The pieces of `new` in order; `None` if there would be more than `most`. Reads O(changes x log n) nodes.
pub(super) fn align(old: File<'_>, new: File<'_>, most: usize) -> Result<Option<Vec<Piece>>> {
    let (mut old, mut new) = (Side::open(old)?, Side::open(new)?);
    let mut found = Vec::new();
    while old.height.max(new.height) > 0 && !(new.links.is_empty() && new.chunks.is_empty()) {
        if old.height == new.height {
            settle(&mut old.links, &mut new.links, |link| link.chunks, &mut found);
        }
        let height = old.height.max(new.height);
        if new.height == height && !new.expand(most)? {
            return Ok(None);
        }
        if old.height == height {
            let mut seen = HashSet::new();
            old.links.retain(|link| seen.insert(link.item));
            if !old.expand(most)? {
                // Too much to compare; its chunks are looked up one by one.
                old = Side { links: Vec::new(), chunks: Vec::new(), ..old };
            }
        }
    }
    settle(&mut old.chunks, &mut new.chunks, |_| 1, &mut found);
    let loose = new.chunks.into_iter().map(|chunk| (chunk.at, Piece::Loose(chunk.item)));
    let mut pieces: Vec<(u64, Piece)> = found.into_iter().chain(loose).collect();
    pieces.sort_unstable_by_key(|(at, _)| *at);
    Ok((pieces.len() <= most).then(|| pieces.into_iter().map(|(_, piece)| piece).collect()))
}

/// What differs so far of one file: links of one level, or, at height 0, chunks.
struct Side<'a> {
    source: &'a dyn NodeSource,
    height: u8,
    links: Vec<At<ChunksLink>>,
    chunks: Vec<At<ChunkRef>>,
}

/// Something and its place, in chunks from the file's start.
struct At<T> {
    at: u64,
    item: T,
}

impl<'a> Side<'a> {
    fn open((source, len, content): File<'a>) -> Result<Self> {
        let page = match content {
            Content::Inline(chunks) => Page::Leaf(chunks.clone()),
            Content::Tree { root, .. } => top(source, len, content, *root)?,
        };
        let mut side = Self { source, height: page.level(), links: Vec::new(), chunks: Vec::new() };
        side.links = side.enter(0, &page);
        Ok(side)
    }

    // Keeps the chunks of a leaf, returns the links of any other page.
    fn enter(&mut self, mut at: u64, page: &Page<ChunkRef, ChunksLink>) -> Vec<At<ChunksLink>> {
        match page {
            Page::Leaf(chunks) => {
                self.chunks.extend((at..).zip(chunks).map(|(at, chunk)| At { at, item: *chunk }));
                Vec::new()
            }
            Page::Inner(_, links) => {
                let place = |link: &ChunksLink| {
                    let here = At { at, item: *link };
                    at += link.chunks;
                    here
                };
                links.iter().map(place).collect()
            }
        }
    }

    // Replaces the links by what is one level below them. False if that is more than `most`.
    fn expand(&mut self, most: usize) -> Result<bool> {
        self.height -= 1;
        let mut below = Vec::new();
        for batch in std::mem::take(&mut self.links).chunks(BATCH) {
            let (mut places, mut distinct) = (HashMap::new(), Vec::new());
            for link in batch {
                places.entry(link.item).or_insert_with(|| {
                    distinct.push(link.item);
                    distinct.len() - 1
                });
            }
            let pages = proven(self.source, &distinct, self.height)?;
            for link in batch {
                if let Some(page) = places.get(&link.item).and_then(|at| pages.get(*at)) {
                    below.extend(self.enter(link.at, page));
                }
                if self.chunks.len() + below.len() > most {
                    return Ok(false);
                }
            }
        }
        self.links = below;
        Ok(true)
    }
}

// Takes out of `new` what `old` has too, to `found`, and out of `old` what was taken. Of equal old ones the one that goes
// on where the last stretch ended is preferred, then the first.
fn settle<T: Hash + Eq + Copy>(
    old: &mut Vec<At<T>>,
    new: &mut Vec<At<T>>,
    chunks: impl Fn(&T) -> u64,
    found: &mut Vec<(u64, Piece)>,
) {
    let mut firsts: HashMap<T, u64> = HashMap::with_capacity(old.len());
    for item in old.iter() {
        firsts.entry(item.item).or_insert(item.at);
    }
    let mut taken = HashSet::new();
    // Ends of the last stretch, in the new file and in the old.
    let mut ends = None;
    new.retain(|item| {
        let on = |at: &u64| {
            let next = old.binary_search_by_key(at, |item| item.at).ok().and_then(|at| old.get(at));
            next.is_some_and(|next| next.item == item.item)
        };
        let goes_on = ends.filter(|(end, _)| *end == item.at).map(|(_, end)| end).filter(on);
        let Some(first) = goes_on.or_else(|| firsts.get(&item.item).copied()) else { return true };
        let count = chunks(&item.item);
        found.push((item.at, Piece::Old { first, count }));
        ends = Some((item.at + count, first + count));
        taken.insert(item.item);
        false
    });
    old.retain(|item| !taken.contains(&item.item));
}
