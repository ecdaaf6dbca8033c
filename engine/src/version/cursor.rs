//! A place in a tree, moving forward. Proves what lies between nodes on the way: every child is one
//! level below its parent, inside its parent's range, and has the sums that its parent says. So a hostile source
//! can neither send a walk in circles nor deeper than the limit.
//!
//! Children are read in batches; a batch never holds more than a bounded number of pages of each level.

use std::collections::VecDeque;

use crate::error::Result;
use crate::id::NodeId;

use super::node::{NodeSource, malformed, read_nodes};
use super::page::{Page, PageOf, Shape};

/// Most leaves read at once.
const LEAF_BATCH: usize = 64;
/// Most inner pages read at once: each may hold the links to hundreds more.
const INNER_BATCH: usize = 8;

/// What a cursor stands before.
pub(super) enum Head<'c, S: Shape> {
    Item(&'c S::Item),
    /// A subtree not entered yet, and the level of its top page.
    Link(u8, &'c S::Link),
    End,
}

pub(super) struct Cursor<'a, S: Shape> {
    source: &'a dyn NodeSource,
    // Outermost first. An exhausted frame stays until what it led to is exhausted too.
    frames: Vec<Frame<S>>,
    leaf: std::vec::IntoIter<S::Item>,
}

struct Frame<S: Shape> {
    level: u8,
    links: Vec<S::Link>,
    at: usize,
    // Pages of `links[at..]`, already read and proven.
    ready: VecDeque<PageOf<S>>,
}

impl<'a, S: Shape> Cursor<'a, S> {
    /// A cursor over nothing.
    pub fn empty(source: &'a dyn NodeSource) -> Self {
        Self { source, frames: Vec::new(), leaf: Vec::new().into_iter() }
    }

    /// Reads the top page, which must satisfy `expected`.
    pub fn open(
        source: &'a dyn NodeSource,
        top: NodeId,
        expected: impl FnOnce(&PageOf<S>) -> bool,
    ) -> Result<Self> {
        let page = read_top::<S>(source, top, expected)?;
        let mut cursor = Self::empty(source);
        cursor.descend(page);
        Ok(cursor)
    }

    pub fn head(&self) -> Head<'_, S> {
        if let Some(item) = self.leaf.as_slice().first() {
            return Head::Item(item);
        }
        let link = self.frames.last().and_then(|frame| Some((frame.level - 1, frame.links.get(frame.at)?)));
        link.map_or(Head::End, |(level, link)| Head::Link(level, link))
    }

    /// Takes the item that the cursor stands before.
    pub fn take(&mut self) -> Option<S::Item> {
        let item = self.leaf.next();
        self.settle();
        item
    }

    /// Passes over the subtree that the cursor stands before.
    pub fn skip(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.ready.pop_front();
            frame.at += 1;
        }
        self.settle();
    }

    /// Enters the subtree that the cursor stands before; reads with it the ones after it, as long as `ahead` says
    /// that they will be entered too.
    pub fn enter(&mut self, ahead: impl Fn(&S::Link) -> bool) -> Result<()> {
        if self.frames.last().is_some_and(|frame| frame.ready.is_empty()) {
            self.fetch(ahead)?;
        }
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        if let Some(page) = frame.ready.pop_front() {
            frame.at += 1;
            self.descend(page);
        }
        Ok(())
    }

    /// The next item, entering whatever comes.
    pub fn next_item(&mut self) -> Result<Option<S::Item>> {
        loop {
            match self.head() {
                Head::Item(_) => return Ok(self.take()),
                Head::Link(..) => self.enter(|_| true)?,
                Head::End => return Ok(None),
            }
        }
    }

    /// The links of the page at `level` that the cursor is in. `Err(true)` if it is in none of that level, and
    /// has no links left at all.
    pub fn links_at(&self, level: u8) -> Result<&[S::Link], bool> {
        let frame = self.frames.iter().find(|frame| frame.level == level);
        frame.map(|frame| &*frame.links).ok_or(self.frames.is_empty())
    }

    fn fetch(&mut self, ahead: impl Fn(&S::Link) -> bool) -> Result<()> {
        let (frame, outer) = self.frames.split_last_mut().expect("there is a frame to fetch for");
        let batch = if frame.level == 1 { LEAF_BATCH } else { INNER_BATCH };
        let rest = frame.links.get(frame.at..).unwrap_or(&[]);
        let more = rest.iter().skip(1).take(batch - 1).take_while(|link| ahead(link)).count();
        let links = &rest[..rest.len().min(1 + more)];
        let mut before = match frame.at {
            // Outside, the cursor already stands behind the link that led here.
            0 => outer.iter().rev().find_map(|frame| frame.links.get(frame.at.checked_sub(2)?)),
            at => frame.links.get(at - 1),
        };
        for (link, page) in links.iter().zip(read_pages::<S>(self.source, links, frame.level - 1)?) {
            if !S::describes(link, before, &page) {
                return Err(lie::<S>(self.source, S::child(link), "is not what the page above it says"));
            }
            frame.ready.push_back(page);
            before = Some(link);
        }
        Ok(())
    }

    fn descend(&mut self, page: PageOf<S>) {
        match page {
            Page::Leaf(items) => self.leaf = items.into_iter(),
            Page::Inner(level, links) => {
                self.frames.push(Frame { level, links, at: 0, ready: VecDeque::new() });
            }
        }
    }

    fn settle(&mut self) {
        let spent = |frame: &mut Frame<S>| frame.at >= frame.links.len();
        while self.leaf.as_slice().is_empty() && self.frames.pop_if(spent).is_some() {}
    }
}

/// Reads the page at the top of a tree.
pub(super) fn read_top<S: Shape>(
    source: &dyn NodeSource,
    top: NodeId,
    expected: impl FnOnce(&PageOf<S>) -> bool,
) -> Result<PageOf<S>> {
    let page = read::<S>(source, &[top], None)?.pop();
    let page = page.ok_or_else(|| lie::<S>(source, top, "was not given"))?;
    match &page {
        Page::Inner(_, links) if links.len() < 2 => {
            Err(lie::<S>(source, top, "is the top and has one child"))
        }
        page if !expected(page) => Err(lie::<S>(source, top, "is not what its owner says")),
        _ => Ok(page),
    }
}

/// Reads the pages of `links`, which must be of `level`. Their sums and ranges are the caller's to compare.
pub(super) fn read_pages<S: Shape>(
    source: &dyn NodeSource,
    links: &[S::Link],
    level: u8,
) -> Result<Vec<PageOf<S>>> {
    let ids: Vec<NodeId> = links.iter().map(S::child).collect();
    read::<S>(source, &ids, Some(level))
}

fn read<S: Shape>(source: &dyn NodeSource, ids: &[NodeId], level: Option<u8>) -> Result<Vec<PageOf<S>>> {
    let nodes = read_nodes(source, ids)?.into_iter().zip(ids);
    let pages = nodes.map(|(node, &id)| match S::page(node) {
        Some(page) if level.is_none_or(|level| page.level() == level) => Ok(page),
        Some(_) => Err(lie::<S>(source, id, "is at the wrong level")),
        None => Err(lie::<S>(source, id, "is of another kind")),
    });
    pages.collect()
}

/// The error for a node that does not fit where it is named.
pub(super) fn lie<S: Shape>(source: &dyn NodeSource, id: NodeId, reason: &str) -> crate::error::Error {
    malformed(S::LEAF.name, &source.place(), &format!("node {id} {reason}"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::delta::{Delta, diff};
    use super::super::entry::{Content, Entry, EntryKind};
    use super::super::manifest::{Manifest, Totals};
    use super::super::node::{ROOT, Root, SPLIT_RULE, Top};
    use super::super::page::{Chunks, ChunksLink, Entries, EntriesLink, InnerRecord};
    use super::super::path::RelPath;
    use super::*;
    use crate::codec::encode_named;
    use crate::content::CutParams;
    use crate::error::Error;
    use crate::id::{ChunkId, ChunkRef, VersionId};

    #[derive(Default)]
    struct Shelf(HashMap<NodeId, Vec<u8>>);

    impl NodeSource for Shelf {
        fn read_nodes(
            &self,
            ids: &[NodeId],
            each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
        ) -> Result<()> {
            ids.iter().enumerate().try_for_each(|(at, id)| each(at, self.0.get(id).cloned()))
        }
        fn place(&self) -> String {
            "the shelf".into()
        }
    }

    impl Shelf {
        fn put(&mut self, bytes: Vec<u8>) -> NodeId {
            let id = NodeId::of(&bytes);
            self.0.insert(id, bytes);
            id
        }
        fn leaf(&mut self, entries: &[Entry]) -> NodeId {
            self.put(encode_named(Entries::LEAF, &entries.to_vec()))
        }
        fn inner(&mut self, level: u8, links: &[(&str, NodeId, u64)]) -> NodeId {
            let link = |&(last, child, entries): &(&str, NodeId, u64)| EntriesLink {
                last: path(last),
                child,
                entries,
            };
            self.put(encode_named(
                Entries::INNER,
                &InnerRecord { level, links: links.iter().map(link).collect() },
            ))
        }
        fn version(&mut self, node: NodeId, level: u8, files: u64) -> VersionId {
            let totals = Totals { entries: 4, files, bytes: 0, chunks: 0 };
            let top = Some(Top { node, level });
            let root = Root { split_rule: SPLIT_RULE, params: CutParams::V1, top, totals };
            VersionId::from_bytes(*self.put(encode_named(ROOT, &root)).as_bytes())
        }
    }

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).expect("a valid path")
    }

    fn empty(text: &str) -> Entry {
        let kind = EntryKind::File { mode: 0o644, len: 0, content: Content::Inline(vec![]) };
        Entry { path: path(text), kind }
    }

    #[test]
    fn lies_between_nodes_of_the_entries_tree_are_found() {
        let mut shelf = Shelf::default();
        let ab = shelf.leaf(&[empty("a"), empty("b")]);
        let cd = shelf.leaf(&[empty("c"), empty("d")]);
        let below = shelf.leaf(&[empty("b/x"), empty("d")]);
        let good = shelf.inner(1, &[("b", ab, 2), ("d", cd, 2)]);
        let one = shelf.inner(1, &[("d", cd, 2)]);
        let chunks = shelf.put(encode_named(Chunks::LEAF, &vec![ChunkRef { id: ChunkId::of(b""), len: 1 }]));
        let rows = [
            ("nothing", good, 1, 4),
            ("totals", good, 1, 3),
            ("level of the top", good, 2, 4),
            ("top of another kind", chunks, 0, 4),
            ("a last path too low", shelf.inner(1, &[("a", ab, 2), ("d", cd, 2)]), 1, 4),
            ("a last path too high", shelf.inner(1, &[("bb", ab, 2), ("d", cd, 2)]), 1, 4),
            ("sums", shelf.inner(1, &[("b", ab, 3), ("d", cd, 1)]), 1, 4),
            ("sum at the top", shelf.inner(1, &[("b", ab, 2), ("d", cd, 3)]), 1, 4),
            ("a range", shelf.inner(1, &[("b", ab, 2), ("bb", ab, 2)]), 1, 4),
            ("overlap", shelf.inner(1, &[("d", cd, 2), ("e", cd, 2)]), 1, 4),
            ("order", shelf.inner(1, &[("d", cd, 2), ("b", ab, 2)]), 1, 4),
            ("a child of another kind", shelf.inner(1, &[("b", ab, 2), ("d", chunks, 2)]), 1, 4),
            ("a child two levels down", shelf.inner(2, &[("b", ab, 2), ("d", cd, 2)]), 2, 4),
            ("one child", one, 1, 4),
            ("levels that do not end", shelf.inner(1, &[("b", ab, 2), ("d", good, 2)]), 1, 4),
            ("an inner leaf", shelf.inner(0, &[("b", ab, 2), ("d", cd, 2)]), 0, 4),
            ("a path below a file", shelf.inner(1, &[("b", ab, 2), ("d", below, 2)]), 1, 4),
        ];
        let honest = shelf.version(rows[0].1, 1, 4);
        for (lie, top, level, files) in rows {
            let id = shelf.version(top, level, files);
            let honest = Manifest::open(&shelf, honest).expect("a good root");
            let Ok(manifest) = Manifest::open(&shelf, id) else { panic!("{lie}: the root is good") };
            let walk: Result<Vec<Entry>> = manifest.entries().collect();
            assert!(walk.is_ok() == (lie == "nothing"), "{lie}: {walk:?}");
            assert!(
                !matches!(walk, Err(ref error) if !matches!(error, Error::Malformed { .. })),
                "{lie}: {walk:?}"
            );
            for text in ["a", "b", "b/x", "bb", "d", "e"] {
                // Either the truth or an error, but for what only a whole walk can see.
                let got = manifest.get(&path(text));
                let known = ["a", "b", "d"].contains(&text) || lie == "a path below a file";
                assert!(got.map_or(true, |entry| entry.is_none() || known), "{lie}: {text}");
            }
            for (a, b) in [(honest, manifest), (manifest, honest)] {
                let mut paths = Vec::new();
                let _ = diff(&a, &b, &mut |change| {
                    paths.push(change.path);
                    Ok(())
                });
                assert!(paths.is_sorted(), "{lie}: {paths:?}");
                let _ = Delta::between(Some(&a), &b);
            }
        }
    }

    #[test]
    fn lies_between_nodes_of_a_chunk_tree_are_found() {
        let mut shelf = Shelf::default();
        let chunks: Vec<_> = (0..5u8).map(|n| ChunkRef { id: ChunkId::of(&[n]), len: 20_000 }).collect();
        let leaf = shelf.put(encode_named(Chunks::LEAF, &chunks));
        let entries = shelf.leaf(&[empty("a")]);
        let mut inner = |level, links: &[(NodeId, u64, u64)]| {
            let link = |&(child, bytes, chunks): &(NodeId, u64, u64)| ChunksLink { child, bytes, chunks };
            let links = links.iter().map(link).collect();
            shelf.put(encode_named(Chunks::INNER, &InnerRecord::<ChunksLink> { level, links }))
        };
        let good = inner(1, &[(leaf, 100_000, 5), (leaf, 100_000, 5)]);
        let rows = [
            ("nothing", good),
            ("bytes", inner(1, &[(leaf, 100_001, 5), (leaf, 99_999, 5)])),
            ("chunks", inner(1, &[(leaf, 100_000, 4), (leaf, 100_000, 6)])),
            ("all of it", inner(1, &[(leaf, 100_000, 5), (leaf, 100_000, 6)])),
            ("a level", inner(2, &[(leaf, 100_000, 5), (leaf, 100_000, 5)])),
            ("a child of another kind", inner(1, &[(leaf, 100_000, 5), (entries, 100_000, 5)])),
            ("one child", inner(1, &[(leaf, 200_000, 10)])),
            ("overflow", inner(1, &[(leaf, u64::MAX, u64::MAX), (leaf, 100_000, 10)])),
            ("no node", NodeId::of(b"no node")),
        ];
        for (lie, root) in rows {
            let kind =
                EntryKind::File { mode: 0o644, len: 200_000, content: Content::Tree { root, chunks: 10 } };
            let leaf = shelf.leaf(&[Entry { path: path("a"), kind: kind.clone() }]);
            let totals = Totals { entries: 1, files: 1, bytes: 200_000, chunks: 10 };
            let top = Some(Top { node: leaf, level: 0 });
            let node =
                encode_named(ROOT, &Root { split_rule: SPLIT_RULE, params: CutParams::V1, top, totals });
            let id = VersionId::from_bytes(*shelf.put(node).as_bytes());
            let manifest = Manifest::open(&shelf, id).expect("a good root");
            let EntryKind::File { content, .. } = &kind else { panic!("a file") };
            let walk: Result<Vec<ChunkRef>> = manifest.chunks(content).collect();
            assert_eq!(walk.is_ok(), lie == "nothing", "{lie}: {walk:?}");
            let delta = Delta::between(None, &manifest);
            assert_eq!(delta.is_ok(), lie == "nothing", "{lie}: {delta:?}");
        }
    }
}
