//! The two trees of a version have one shape: pages of items at level 0, pages of links to the level
//! below above them. What differs (keys, sums, checks) is behind [`Shape`].
//!
//! # The split rule (a format)
//!
//! Pages are filled in order. Where a page ends depends only on its items:
//!
//! * Before an item is added: if the page has at least 2 items and their encoded bytes together with the item's
//!   would be more than [`PAGE_MAX`], the page closes first.
//! * After an item of `s` encoded bytes is added: if the page has at least 2 items and the item's 32-bit hash is
//!   less than `s * 2^20`, the page closes. That is a chance of `s / 4096`, so pages close near 4 KiB whatever
//!   the sizes of the items.
//! * At the end of a level its open page closes, however few items it has.
//!
//! Every closed page becomes one item (a link) of the level above. A level of exactly one page ends the tree;
//! that page is the top. As every other page has at least 2 items, each level at least halves the count,
//! even if all items are equal.
//!
//! An item's hash is the first 4 bytes, little-endian, of: for entries and links of the entries tree, the BLAKE3 of
//! the level's number as a byte (0 for entries) and the (last) path; for chunks, the chunk id; for links of a chunk
//! tree, the child's node id.

use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bincode::{Decode, Encode};

use crate::codec::Kind;
use crate::id::{ChunkRef, NodeId};
use crate::limits::TREE_HEIGHT_MAX;

use super::entry::{Entry, Refusal, check_bytes, check_chunk};
use super::node::{Body, Node};
use super::path::RelPath;

/// Most encoded bytes of a page's items, unless it has but two.
pub(super) const PAGE_MAX: usize = 16 << 10;
/// Items that a page must have before it may close.
pub(super) const PAGE_ITEMS_MIN: u64 = 2;

/// Whether a page closes after an item of `size` bytes. 2^32 / 4096 is 2^20: the target is 4 KiB.
pub(super) fn closes(hash: u32, size: usize) -> bool {
    u64::from(hash) < (size as u64) << 20
}

/// A page: its own items, or links to pages one level below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page<I, L> {
    Leaf(Vec<I>),
    Inner(u8, Vec<L>),
}

impl<I, L> Page<I, L> {
    pub fn level(&self) -> u8 {
        match self {
            Page::Leaf(_) => 0,
            Page::Inner(level, _) => *level,
        }
    }
}

pub(super) type PageOf<S> = Page<<S as Shape>::Item, <S as Shape>::Link>;

/// What a tree is made of.
pub(super) trait Shape: Sized {
    const LEAF: Kind;
    const INNER: Kind;
    type Item: Encode + Decode<()>;
    type Link: Encode + Decode<()>;
    /// What a link says of everything below it. `None` on overflow.
    type Sum: Default + PartialEq;

    fn item_hash(item: &Self::Item) -> u32;
    fn link_hash(link: &Self::Link, level: u8) -> u32;
    fn add_item(sum: &mut Self::Sum, item: Self::Item) -> Option<()>;
    fn add_link(sum: &mut Self::Sum, link: Self::Link) -> Option<()>;
    fn link(sum: Self::Sum, child: NodeId) -> Self::Link;
    fn child(link: &Self::Link) -> NodeId;

    /// The page in `node`, if it is of this tree.
    fn page(node: Node) -> Option<PageOf<Self>>;
    /// Everything that can be said of a page alone, but that its inner level is in range and it is not empty.
    fn check(page: &PageOf<Self>) -> Result<(), Refusal>;
    /// `link` tells the truth about `page`, which comes after everything under `before`.
    fn describes(link: &Self::Link, before: Option<&Self::Link>, page: &PageOf<Self>) -> bool;
}

/// Everything that can be said of a page alone.
pub(super) fn check_page<S: Shape>(page: &PageOf<S>) -> Result<(), Refusal> {
    match page {
        Page::Leaf(items) if items.is_empty() => return Err("an empty page"),
        Page::Inner(_, links) if links.is_empty() => return Err("an empty page"),
        Page::Inner(0, _) => return Err("an inner page at level 0"),
        Page::Inner(level, _) if *level > TREE_HEIGHT_MAX => return Err("a level beyond the limit"),
        Page::Leaf(_) | Page::Inner(..) => {}
    }
    S::check(page)
}

/// The record of an inner page; of a leaf it is only the items.
#[derive(Debug, Encode, Decode)]
pub(super) struct InnerRecord<L> {
    pub level: u8,
    pub links: Vec<L>,
}

/// Encodes as the record of a page whose `count` items are already encoded in `body`.
pub(super) struct RawPage<'a> {
    pub level: u8,
    pub count: u64,
    pub body: &'a [u8],
}

impl Encode for RawPage<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        if self.level > 0 {
            self.level.encode(encoder)?;
        }
        self.count.encode(encoder)?;
        encoder.writer().write(self.body)
    }
}

/// The tree of paths.
#[derive(Debug)]
pub(super) enum Entries {}

/// A page of entries or links of [`Entries`], seen from above.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct EntriesLink {
    /// The last path below.
    pub last: RelPath,
    pub child: NodeId,
    /// Entries below.
    pub entries: u64,
}

impl Shape for Entries {
    const LEAF: Kind = Kind { number: 2, name: "entries node", format: 1 };
    const INNER: Kind = Kind { number: 3, name: "inner entries node", format: 1 };
    type Item = Entry;
    type Link = EntriesLink;
    type Sum = (Option<RelPath>, u64);

    fn item_hash(item: &Entry) -> u32 {
        path_hash(0, &item.path)
    }
    fn link_hash(link: &EntriesLink, level: u8) -> u32 {
        path_hash(level, &link.last)
    }
    fn add_item((last, entries): &mut Self::Sum, item: Entry) -> Option<()> {
        *last = Some(item.path);
        *entries = entries.checked_add(1)?;
        Some(())
    }
    fn add_link((last, entries): &mut Self::Sum, link: EntriesLink) -> Option<()> {
        *last = Some(link.last);
        *entries = entries.checked_add(link.entries)?;
        Some(())
    }
    fn link((last, entries): Self::Sum, child: NodeId) -> EntriesLink {
        EntriesLink { last: last.expect("a page that closes has an item"), child, entries }
    }
    fn child(link: &EntriesLink) -> NodeId {
        link.child
    }

    fn page(node: Node) -> Option<PageOf<Self>> {
        match node.body {
            Body::Entries(page) => Some(page),
            Body::Root(_) | Body::Chunks(_) => None,
        }
    }
    fn check(page: &PageOf<Self>) -> Result<(), Refusal> {
        match page {
            Page::Leaf(entries) => {
                entries.iter().try_for_each(Entry::check)?;
                increasing(entries, |entry| &entry.path)
            }
            Page::Inner(_, links) => {
                if links.iter().any(|link| link.entries == 0) || entries_of(page).is_none() {
                    return Err("a sum of entries out of bounds");
                }
                increasing(links, |link| &link.last)
            }
        }
    }
    fn describes(link: &EntriesLink, before: Option<&EntriesLink>, page: &PageOf<Self>) -> bool {
        let (first, last) = match page {
            Page::Leaf(entries) => (entries.first().map(|e| &e.path), entries.last().map(|e| &e.path)),
            Page::Inner(_, links) => (links.first().map(|l| &l.last), links.last().map(|l| &l.last)),
        };
        last == Some(&link.last)
            && before.is_none_or(|before| first > Some(&before.last))
            && entries_of(page) == Some(link.entries)
    }
}

/// Entries below a page; `None` on overflow.
pub(super) fn entries_of(page: &PageOf<Entries>) -> Option<u64> {
    match page {
        Page::Leaf(entries) => Some(entries.len() as u64),
        Page::Inner(_, links) => links.iter().try_fold(0u64, |sum, link| sum.checked_add(link.entries)),
    }
}

fn increasing<T>(items: &[T], path: impl Fn(&T) -> &RelPath) -> Result<(), Refusal> {
    let ordered = items.is_sorted_by(|a, b| path(a) < path(b));
    if ordered { Ok(()) } else { Err("paths out of order") }
}

fn path_hash(level: u8, path: &RelPath) -> u32 {
    let path = path.as_str().as_bytes();
    let mut key = [level; 256];
    let hash = match key.get_mut(1..=path.len()) {
        Some(rest) => {
            rest.copy_from_slice(path);
            blake3::hash(&key[..=path.len()])
        }
        None => blake3::Hasher::new().update(&[level]).update(path).finalize(),
    };
    hash32(hash.as_bytes())
}

fn hash32(bytes: &[u8; 32]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The chunks of one large file.
#[derive(Debug)]
pub(super) enum Chunks {}

/// A page of chunks or links of [`Chunks`], seen from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) struct ChunksLink {
    pub child: NodeId,
    /// Bytes of content below.
    pub bytes: u64,
    /// Chunks below.
    pub chunks: u64,
}

impl Shape for Chunks {
    const LEAF: Kind = Kind { number: 4, name: "chunks node", format: 1 };
    const INNER: Kind = Kind { number: 5, name: "inner chunks node", format: 1 };
    type Item = ChunkRef;
    type Link = ChunksLink;
    /// Bytes, chunks.
    type Sum = (u64, u64);

    fn item_hash(item: &ChunkRef) -> u32 {
        hash32(item.id.as_bytes())
    }
    fn link_hash(link: &ChunksLink, _level: u8) -> u32 {
        hash32(link.child.as_bytes())
    }
    fn add_item((bytes, chunks): &mut Self::Sum, item: ChunkRef) -> Option<()> {
        *bytes = bytes.checked_add(u64::from(item.len))?;
        *chunks = chunks.checked_add(1)?;
        Some(())
    }
    fn add_link((bytes, chunks): &mut Self::Sum, link: ChunksLink) -> Option<()> {
        *bytes = bytes.checked_add(link.bytes)?;
        *chunks = chunks.checked_add(link.chunks)?;
        Some(())
    }
    fn link((bytes, chunks): Self::Sum, child: NodeId) -> ChunksLink {
        ChunksLink { child, bytes, chunks }
    }
    fn child(link: &ChunksLink) -> NodeId {
        link.child
    }

    fn page(node: Node) -> Option<PageOf<Self>> {
        match node.body {
            Body::Chunks(page) => Some(page),
            Body::Root(_) | Body::Entries(_) => None,
        }
    }
    fn check(page: &PageOf<Self>) -> Result<(), Refusal> {
        match page {
            Page::Leaf(chunks) => chunks.iter().try_for_each(check_chunk),
            Page::Inner(_, links) => {
                links.iter().try_for_each(|link| check_bytes(link.bytes, link.chunks))?;
                chunks_of(page).map(|_| ()).ok_or("a sum of chunks out of bounds")
            }
        }
    }
    fn describes(link: &ChunksLink, _before: Option<&ChunksLink>, page: &PageOf<Self>) -> bool {
        chunks_of(page) == Some((link.bytes, link.chunks))
    }
}

/// Bytes and chunks below a page; `None` on overflow.
pub(super) fn chunks_of(page: &PageOf<Chunks>) -> Option<(u64, u64)> {
    let mut sum = (0, 0);
    match page {
        Page::Leaf(chunks) => chunks.iter().try_for_each(|chunk| Chunks::add_item(&mut sum, *chunk))?,
        Page::Inner(_, links) => links.iter().try_for_each(|link| Chunks::add_link(&mut sum, *link))?,
    }
    Some(sum)
}
