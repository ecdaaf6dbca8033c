//! Chunks of two files that differ, and the distinct chunks of one. Both read a node once however often it
//! is repeated, so that a small file of nodes that stands for very many chunks costs what is read, not what it claims.

use std::cell::Cell;
use std::collections::HashSet;
use std::hash::Hash;

use crate::error::Result;
use crate::id::{ChunkRef, NodeId};

use super::cursor::{Cursor, Head, lie, read_pages, read_top};
use super::entry::Content;
use super::node::NodeSource;
use super::page::{Chunks, ChunksLink, Page, PageOf, Shape, chunks_of};

/// Nodes read at once.
pub(super) const BATCH: usize = 64;

/// Chunks of two contents outside their equal subtrees; each once, in order of first use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkDiff {
    /// Chunks of the old content that are not among the new content's differing ones.
    pub have: Vec<ChunkRef>,
    /// Chunks of the new content that are not among the old content's differing ones. A chunk may still be used
    /// elsewhere in the old content.
    pub want: Vec<ChunkRef>,
}

/// Compares the chunks of two files, each given as where its nodes are, its length and its content. Reads
/// O(changes x log n) nodes.
pub fn diff_chunks(
    have: (&dyn NodeSource, u64, &Content),
    want: (&dyn NodeSource, u64, &Content),
) -> Result<ChunkDiff> {
    if have.2 == want.2 {
        return Ok(ChunkDiff::default());
    }
    let (mut old, mut new) = (Frontier::open(have)?, Frontier::open(want)?);
    while old.height.max(new.height) > 0 {
        if old.height == new.height {
            drop_common(&mut old.links, &mut new.links);
        }
        let height = old.height.max(new.height);
        for side in [&mut old, &mut new] {
            if side.height == height {
                side.expand()?;
            }
        }
    }
    drop_common(&mut old.chunks, &mut new.chunks);
    Ok(ChunkDiff { have: old.chunks, want: new.chunks })
}

/// Calls `each` with the chunks of a file and their places in it, once for every node that is not in `seen`. In no
/// order.
pub(super) fn each_distinct(
    (source, len, content): (&dyn NodeSource, u64, &Content),
    seen: &mut HashSet<NodeId>,
    each: &mut impl FnMut(u64, &ChunkRef),
) -> Result<()> {
    let root = match content {
        Content::Inline(chunks) => {
            (0..).zip(chunks).for_each(|(at, chunk)| each(at, chunk));
            return Ok(());
        }
        Content::Tree { root, .. } => root,
    };
    if !seen.insert(*root) {
        return Ok(());
    }
    let mut pages = vec![(0, top(source, len, content, *root)?)];
    let mut todo: Vec<(u8, u64, ChunksLink)> = Vec::new();
    loop {
        for (mut at, page) in pages {
            match page {
                Page::Leaf(chunks) => (at..).zip(&chunks).for_each(|(at, chunk)| each(at, chunk)),
                Page::Inner(level, links) => {
                    for link in links {
                        if seen.insert(link.child) {
                            todo.push((level - 1, at, link));
                        }
                        at += link.chunks;
                    }
                }
            }
        }
        // The deepest first, one level at a time: `todo` stays as short as the tree is high.
        let Some(&(level, ..)) = todo.last() else { return Ok(()) };
        let run = todo.iter().rev().take(BATCH).take_while(|(other, ..)| *other == level).count();
        let (places, links): (Vec<u64>, Vec<ChunksLink>) =
            todo.drain(todo.len() - run..).map(|(_, at, link)| (at, link)).unzip();
        pages = places.into_iter().zip(proven(source, &links, level)?).collect();
    }
}

/// The nodes of one level that differ so far, or, at height 0, the chunks.
struct Frontier<'a> {
    source: &'a dyn NodeSource,
    height: u8,
    links: Vec<ChunksLink>,
    chunks: Vec<ChunkRef>,
}

impl<'a> Frontier<'a> {
    fn open((source, len, content): (&'a dyn NodeSource, u64, &Content)) -> Result<Self> {
        let (height, links, chunks) = match content {
            Content::Inline(chunks) => (0, Vec::new(), chunks.clone()),
            Content::Tree { root, .. } => match top(source, len, content, *root)? {
                Page::Leaf(chunks) => (0, Vec::new(), chunks),
                Page::Inner(level, links) => (level, links, Vec::new()),
            },
        };
        Ok(Self { source, height, links, chunks })
    }

    // Replaces the links by what is one level below them.
    fn expand(&mut self) -> Result<()> {
        self.height -= 1;
        let mut below = Vec::new();
        let mut seen = HashSet::new();
        self.links.retain(|link| seen.insert(*link));
        for links in self.links.chunks(BATCH) {
            for page in proven(self.source, links, self.height)? {
                match page {
                    Page::Leaf(chunks) => self.chunks.extend(chunks),
                    Page::Inner(_, links) => below.extend(links),
                }
            }
        }
        self.links = below;
        Ok(())
    }
}

/// Reads the top page of a file's chunk tree.
pub(super) fn top(
    source: &dyn NodeSource,
    len: u64,
    content: &Content,
    root: NodeId,
) -> Result<PageOf<Chunks>> {
    read_top::<Chunks>(source, root, |page| chunks_of(page) == Some((len, content.chunk_count())))
}

/// Reads the pages of `links`, which must be of `level` and what their links say.
pub(super) fn proven(
    source: &dyn NodeSource,
    links: &[ChunksLink],
    level: u8,
) -> Result<Vec<PageOf<Chunks>>> {
    let pages = read_pages::<Chunks>(source, links, level)?;
    match links.iter().zip(&pages).find(|(link, page)| !Chunks::describes(link, None, page)) {
        Some((link, _)) => Err(lie::<Chunks>(source, link.child, "is not what the page above it says")),
        None => Ok(pages),
    }
}

/// Reads stretches of a file's chunks; forward ones without opening the tree again.
pub(super) struct ChunkRanges<'a> {
    source: &'a dyn NodeSource,
    len: u64,
    content: Content,
    // Where the next read begins, in chunks and in bytes, if nothing lies between.
    cursor: Option<(u64, u64, Cursor<'a, Chunks>)>,
}

impl<'a> ChunkRanges<'a> {
    pub fn new(source: &'a dyn NodeSource, len: u64, content: Content) -> Self {
        Self { source, len, content, cursor: None }
    }

    /// Calls `each` with the offsets of `count` chunks from the `first` on, and the chunks; `None` if the file has fewer.
    pub fn read(
        &mut self,
        first: u64,
        count: u64,
        each: &mut impl FnMut(u64, ChunkRef) -> Result<()>,
    ) -> Result<Option<()>> {
        let Some(end) = first.checked_add(count).filter(|end| *end <= self.content.chunk_count()) else {
            return Ok(None);
        };
        let root = match &self.content {
            Content::Inline(chunks) => {
                let mut offset = 0;
                for (at, chunk) in (0..end).zip(chunks) {
                    if at >= first {
                        each(offset, *chunk)?;
                    }
                    offset = offset.saturating_add(chunk.len.into());
                }
                return Ok(Some(()));
            }
            Content::Tree { root, .. } => *root,
        };
        let (mut at, mut offset, mut cursor) = match self.cursor.take().filter(|(at, ..)| *at <= first) {
            Some(open) => open,
            None => {
                let whole = Some((self.len, self.content.chunk_count()));
                (0, 0, Cursor::open(self.source, root, |page| chunks_of(page) == whole)?)
            }
        };
        while at < end {
            match cursor.head() {
                Head::Link(_, link) if at + link.chunks <= first => {
                    (at, offset) = (at + link.chunks, offset.saturating_add(link.bytes));
                    cursor.skip();
                }
                Head::Link(_, link) => {
                    let reach = Cell::new((end - at).saturating_sub(link.chunks));
                    cursor.enter(|link| reach.replace(reach.get().saturating_sub(link.chunks)) > 0)?;
                }
                Head::Item(chunk) => {
                    if at >= first {
                        each(offset, *chunk)?;
                    }
                    (at, offset) = (at + 1, offset.saturating_add(chunk.len.into()));
                    cursor.take();
                }
                Head::End => return Err(lie::<Chunks>(self.source, root, "ends before its last chunk")),
            }
        }
        self.cursor = Some((at, offset, cursor));
        Ok(Some(()))
    }
}

// Leaves on each side what the other does not have, once, in order.
fn drop_common<T: Hash + Eq + Copy>(a: &mut Vec<T>, b: &mut Vec<T>) {
    let in_a: HashSet<T> = a.iter().copied().collect();
    let in_b: HashSet<T> = b.iter().copied().collect();
    let keep = |list: &mut Vec<T>, other: &HashSet<T>| {
        let mut seen = HashSet::new();
        list.retain(|item| !other.contains(item) && seen.insert(*item));
    };
    keep(a, &in_b);
    keep(b, &in_a);
}
