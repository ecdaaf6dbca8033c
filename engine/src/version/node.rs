//! Nodes: the five kinds of record that a version is made of, named by the BLAKE3 of their bytes, and the
//! one door through which they come in. How pages are cut is in `page.rs`.
//!
//! [`Node::open`] proves what a node can prove alone: its bounds, hash, canonical encoding, order and sums.
//! What lies between nodes (levels, ranges, totals) is proven where they are walked, by `cursor.rs`.

use bincode::{Decode, Encode};

use crate::codec::{self, Kind};
use crate::content::CutParams;
use crate::error::{Error, Result};
use crate::id::{ChunkRef, NodeId};
use crate::limits::{CHUNK_LEN_MAX, NODE_LEN_MAX, TREE_HEIGHT_MAX};

use super::entry::{Content, Entry, EntryKind, Refusal};
use super::manifest::Totals;
use super::page::{Chunks, Entries, InnerRecord, Page, PageOf, Shape, check_page};

/// Where nodes are read from.
pub trait NodeSource: Sync {
    /// Calls `each(index, bytes)` once for every id, in any order; `None` is a node that is not there.
    /// Bytes are unproven.
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()>;
    /// What errors call it.
    fn place(&self) -> String;
}

/// Where new nodes go. A node may be handed over more than once.
pub trait NodeSink {
    /// Takes a node; its children were handed over before it.
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()>;
}

impl<S: NodeSink + ?Sized> NodeSink for &mut S {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        (**self).put_node(id, bytes)
    }
}

pub(super) const ROOT: Kind = Kind { number: 1, name: "root node", format: 1 };
/// First byte of a version's root node.
pub(crate) const ROOT_NODE_KIND: u8 = ROOT.number;
/// The split rule that `page.rs` describes.
pub(super) const SPLIT_RULE: u8 = 1;

/// The node that names a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Root {
    /// How pages are cut.
    pub split_rule: u8,
    /// How files are cut.
    pub params: CutParams,
    /// `None` if there are no entries.
    pub top: Option<Top>,
    pub totals: Totals,
}

/// The top of the entries tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Top {
    pub node: NodeId,
    /// Its level: 0 if it is a leaf.
    pub level: u8,
}

impl Root {
    pub fn check(&self) -> Result<(), Refusal> {
        let CutParams { min, avg, max, .. } = self.params;
        if min == 0 || min > avg || avg > max || max > CHUNK_LEN_MAX {
            return Err("chunk lengths out of bounds");
        }
        if self.top.is_some_and(|top| top.level > TREE_HEIGHT_MAX) {
            return Err("a level beyond the limit");
        }
        let Totals { entries, files, bytes, chunks } = self.totals;
        let counts = files <= entries && chunks <= bytes && (files > 0 || bytes == 0);
        let lens = u128::from(bytes) <= u128::from(chunks) * u128::from(CHUNK_LEN_MAX);
        if self.top.is_some() != (entries > 0) || !counts || !lens {
            return Err("totals that no tree has");
        }
        Ok(())
    }
}

/// A decoded, checked node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub(super) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Root(Root),
    Entries(PageOf<Entries>),
    Chunks(PageOf<Chunks>),
}

impl Node {
    /// The door for nodes: bounds, hashes, decodes, checks order and canonical form.
    pub fn open(id: NodeId, bytes: &[u8], place: &str) -> Result<Node> {
        if bytes.len() > NODE_LEN_MAX {
            let what = format!("length of node {id} in {place}");
            return Err(Error::Limit { what, actual: bytes.len() as u64, max: NODE_LEN_MAX as u64 });
        }
        if NodeId::of(bytes) != id {
            return Err(damaged(id, place, "its bytes have another hash"));
        }
        decode(bytes, place).map(|body| Node { body }).map_err(|error| match error {
            Error::Malformed { kind, place, reason } => {
                Error::Malformed { kind, place: format!("{place} ({id})"), reason }
            }
            other => other,
        })
    }

    /// Its bytes, made anew.
    #[cfg(feature = "testing")]
    pub(crate) fn encode(&self) -> Vec<u8> {
        fn page<S: Shape>(page: &PageOf<S>) -> Vec<u8> {
            match page {
                Page::Leaf(items) => codec::encode_named(S::LEAF, items),
                Page::Inner(level, links) => codec::encode_named(S::INNER, &(level, links)),
            }
        }
        match &self.body {
            Body::Root(root) => codec::encode_named(ROOT, root),
            Body::Entries(entries) => page::<Entries>(entries),
            Body::Chunks(chunks) => page::<Chunks>(chunks),
        }
    }

    /// The nodes directly below, for marking and mirroring: pages, and the chunk trees of files.
    pub fn children(&self) -> Vec<NodeId> {
        match &self.body {
            Body::Root(root) => root.top.iter().map(|top| top.node).collect(),
            Body::Entries(Page::Leaf(entries)) => {
                contents(entries).filter_map(|content| content.tree().copied()).collect()
            }
            Body::Entries(Page::Inner(_, links)) => links.iter().map(Entries::child).collect(),
            Body::Chunks(Page::Leaf(_)) => Vec::new(),
            Body::Chunks(Page::Inner(_, links)) => links.iter().map(Chunks::child).collect(),
        }
    }

    /// The chunks named by this node itself, for marking and mirroring.
    pub fn chunks(&self) -> Vec<ChunkRef> {
        match &self.body {
            Body::Entries(Page::Leaf(entries)) => {
                contents(entries).flat_map(Content::inline).copied().collect()
            }
            Body::Chunks(Page::Leaf(chunks)) => chunks.clone(),
            Body::Root(_) | Body::Entries(Page::Inner(..)) | Body::Chunks(Page::Inner(..)) => Vec::new(),
        }
    }
}

impl Content {
    fn tree(&self) -> Option<&NodeId> {
        match self {
            Content::Tree { root, .. } => Some(root),
            Content::Inline(_) => None,
        }
    }

    fn inline(&self) -> &[ChunkRef] {
        match self {
            Content::Inline(chunks) => chunks,
            Content::Tree { .. } => &[],
        }
    }
}

fn contents(entries: &[Entry]) -> impl Iterator<Item = &Content> {
    entries.iter().filter_map(|entry| match &entry.kind {
        EntryKind::File { content, .. } => Some(content),
        EntryKind::Symlink { .. } | EntryKind::Dir { .. } => None,
    })
}

fn decode(bytes: &[u8], place: &str) -> Result<Body> {
    const ENTRIES_LEAF: u8 = Entries::LEAF.number;
    const ENTRIES_INNER: u8 = Entries::INNER.number;
    const CHUNKS_LEAF: u8 = Chunks::LEAF.number;
    const CHUNKS_INNER: u8 = Chunks::INNER.number;
    match bytes.first() {
        Some(&ENTRIES_LEAF) => leaf::<Entries>(bytes, place).map(Body::Entries),
        Some(&ENTRIES_INNER) => inner::<Entries>(bytes, place).map(Body::Entries),
        Some(&CHUNKS_LEAF) => leaf::<Chunks>(bytes, place).map(Body::Chunks),
        Some(&CHUNKS_INNER) => inner::<Chunks>(bytes, place).map(Body::Chunks),
        // An unknown kind is told apart by the codec.
        _ => root(bytes, place).map(Body::Root),
    }
}

fn root(bytes: &[u8], place: &str) -> Result<Root> {
    let root: Root = codec::decode_named(ROOT, bytes, NODE_LEN_MAX, place)?;
    for (kind, found, supported) in [
        ("split rule of a version", root.split_rule, SPLIT_RULE),
        ("chunker of a version", root.params.algorithm, CutParams::V1.algorithm),
    ] {
        if found > supported {
            let (found, supported) = (u32::from(found), u32::from(supported));
            return Err(Error::TooNew { kind, place: place.to_owned(), found, supported });
        }
        if found == 0 {
            return Err(malformed(kind, place, "number 0"));
        }
    }
    root.check().map_err(|reason| malformed(ROOT.name, place, reason))?;
    Ok(root)
}

fn leaf<S: Shape>(bytes: &[u8], place: &str) -> Result<PageOf<S>> {
    let page = Page::Leaf(codec::decode_named(S::LEAF, bytes, NODE_LEN_MAX, place)?);
    check_page::<S>(&page).map_err(|reason| malformed(S::LEAF.name, place, reason))?;
    Ok(page)
}

fn inner<S: Shape>(bytes: &[u8], place: &str) -> Result<PageOf<S>> {
    let record: InnerRecord<S::Link> = codec::decode_named(S::INNER, bytes, NODE_LEN_MAX, place)?;
    let page = Page::Inner(record.level, record.links);
    check_page::<S>(&page).map_err(|reason| malformed(S::INNER.name, place, reason))?;
    Ok(page)
}

/// Reads and opens nodes. One that is missing is damage: something names it.
pub(super) fn read_nodes(source: &dyn NodeSource, ids: &[NodeId]) -> Result<Vec<Node>> {
    let place = source.place();
    let mut nodes: Vec<Option<Node>> = ids.iter().map(|_| None).collect();
    source.read_nodes(ids, &mut |index, bytes| {
        let (Some(&id), Some(bytes)) = (ids.get(index), bytes) else { return Ok(()) };
        nodes[index] = Some(Node::open(id, &bytes, &place)?);
        Ok(())
    })?;
    let whole = nodes.into_iter().zip(ids);
    whole.map(|(node, id)| node.ok_or_else(|| damaged(*id, &place, "it is missing"))).collect()
}

fn damaged(id: NodeId, place: &str, reason: &str) -> Error {
    Error::Damaged { what: format!("node {id}"), place: place.to_owned(), reason: reason.to_owned() }
}

pub(super) fn malformed(kind: &'static str, place: &str, reason: &str) -> Error {
    Error::Malformed { kind, place: place.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(bytes: &[u8]) -> Result<Node> {
        Node::open(NodeId::of(bytes), bytes, "here")
    }

    #[test]
    fn roots_are_judged() {
        let good = Root { split_rule: 1, params: CutParams::V1, top: None, totals: Totals::default() };
        let check = |edit: &dyn Fn(&mut Root)| {
            let mut root = good;
            edit(&mut root);
            open(&codec::encode_named(ROOT, &root))
        };
        assert!(check(&|_| {}).is_ok_and(|node| node.children().is_empty() && node.chunks().is_empty()));
        assert!(matches!(check(&|root| root.split_rule = 2), Err(Error::TooNew { found: 2, .. })));
        assert!(matches!(check(&|root| root.params.algorithm = 9), Err(Error::TooNew { found: 9, .. })));
        let top = Top { node: NodeId::of(b"x"), level: 0 };
        let edits: [&dyn Fn(&mut Root); 8] = [
            &|root| root.split_rule = 0,
            &|root| root.params.min = 0,
            &|root| root.params.max = CHUNK_LEN_MAX + 1,
            &|root| root.params.avg = 1,
            &|root| root.totals.entries = 1,
            &|root| root.top = Some(top),
            &|root| (root.top, root.totals.entries, root.totals.bytes) = (Some(top), 1, 1),
            &|root| (root.top, root.totals.entries) = (Some(Top { level: 49, ..top }), 1),
        ];
        for (at, edit) in edits.iter().enumerate() {
            assert!(matches!(check(edit), Err(Error::Malformed { .. })), "edit {at}");
        }
    }

    #[test]
    fn bytes_that_are_no_node_are_refused() {
        let page = |level: u8, count: u8| {
            let mut bytes = vec![Chunks::INNER.number, 1, level, count];
            bytes.extend((0..count).flat_map(|n| [&[n; 32][..], &[9, 3]].concat()));
            bytes
        };
        assert!(open(&page(1, 2)).is_ok_and(|node| node.children().len() == 2));
        let rows: [&[u8]; 9] = [
            &[],
            &[0, 1],
            &[6, 1, 0],
            &[4, 0, 0],
            &[4, 1, 0],
            &[2, 1, 253, 255, 255, 255, 255, 255, 255, 255, 255],
            &page(0, 2),
            &page(49, 2),
            &page(1, 0),
        ];
        for bytes in rows {
            assert!(matches!(open(bytes), Err(Error::Malformed { .. })), "{bytes:?}");
        }
        assert!(matches!(open(&[4, 2, 0]), Err(Error::TooNew { .. })));
        assert!(matches!(open(&vec![4; NODE_LEN_MAX + 1]), Err(Error::Limit { .. })));
        let error = open(&[4, 1, 0]).expect_err("an empty page").to_string();
        assert!(error.contains(&NodeId::of(&[4, 1, 0]).to_string()), "{error}");
    }
}
