//! The view over a version's nodes: build, look up, walk in path order.

use crate::codec;
use crate::content::CutParams;
use crate::error::{Error, Result};
use crate::id::{ChunkRef, NodeId, VersionId};

use super::build::TreeBuilder;
use super::chunks::ChunkRanges;
use super::cursor::{Cursor, lie, read_pages, read_top};
use super::entry::{Content, Entry, Nesting};
use super::node::{Body, Node, NodeSink, NodeSource, ROOT, Root, SPLIT_RULE, Top, malformed};
use super::page::{Chunks, Entries, Page, PageOf, Shape, chunks_of, entries_of};
use super::path::RelPath;

/// Sums over a version, kept in its root node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Totals {
    /// Entries of every kind.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Chunks, counted once per use.
    pub chunks: u64,
}

impl Totals {
    // `None` on overflow.
    fn add(&mut self, entry: &Entry) -> Option<()> {
        self.entries = self.entries.checked_add(1)?;
        if let Some((len, content)) = entry.file() {
            self.files = self.files.checked_add(1)?;
            self.bytes = self.bytes.checked_add(len)?;
            self.chunks = self.chunks.checked_add(content.chunk_count())?;
        }
        Some(())
    }
}

/// Builds a version from entries in path order. Independent of how the entries were found.
/// Holds a page a level, whatever the number of entries.
pub struct ManifestBuilder<S> {
    sink: S,
    params: CutParams,
    tree: TreeBuilder<Entries>,
    nesting: Nesting,
    totals: Totals,
}

impl<S: NodeSink> ManifestBuilder<S> {
    /// Starts an empty version cut with `params`.
    pub fn new(params: CutParams, sink: S) -> Self {
        let (tree, nesting, totals) = (TreeBuilder::new(), Nesting::default(), Totals::default());
        Self { sink, params, tree, nesting, totals }
    }

    /// Adds the next entry. Out of order, twice, or below a file or symlink is an error; so is an entry that is
    /// not canonical, such as one for a directory of mode 0o755 that is not empty.
    pub fn push(&mut self, entry: Entry) -> Result<()> {
        let fits = entry.check().and_then(|()| self.nesting.enter(&entry));
        fits.and_then(|()| self.totals.add(&entry).ok_or("totals out of bounds")).map_err(|reason| {
            Error::Malformed {
                kind: "entry",
                place: format!("`{}`", entry.path.as_str().escape_debug()),
                reason: reason.to_owned(),
            }
        })?;
        self.tree.push(entry, &mut self.sink)
    }

    /// Writes the root node.
    pub fn finish(self) -> Result<(VersionId, Totals)> {
        let Self { mut sink, params, tree, totals, .. } = self;
        let top = tree.finish(&mut sink)?.map(|(node, level)| Top { node, level });
        let root = Root { split_rule: SPLIT_RULE, params, top, totals };
        root.check().map_err(|reason| malformed(ROOT.name, "the version to build", reason))?;
        let bytes = codec::encode_named(ROOT, &root);
        let id = NodeId::of(&bytes);
        sink.put_node(id, bytes)?;
        Ok((VersionId::from_bytes(*id.as_bytes()), totals))
    }
}

/// Builds the content of one file from its chunks in order. Holds a page a level.
pub struct ChunkListBuilder<S> {
    sink: S,
    // The first chunks; empty again once there is a tree.
    inline: Vec<ChunkRef>,
    tree: Option<TreeBuilder<Chunks>>,
    bytes: u64,
    chunks: u64,
}

impl<S: NodeSink> ChunkListBuilder<S> {
    /// Starts an empty list.
    pub fn new(sink: S) -> Self {
        Self { sink, inline: Vec::new(), tree: None, bytes: 0, chunks: 0 }
    }

    /// Adds the next chunk.
    pub fn push(&mut self, chunk: ChunkRef) -> Result<()> {
        super::entry::check_chunk(&chunk)
            .map_err(|reason| malformed("chunk", &format!("chunk {}", chunk.id), reason))?;
        self.bytes += u64::from(chunk.len);
        self.chunks += 1;
        if self.inline.len() < Content::INLINE_MAX && self.tree.is_none() {
            self.inline.push(chunk);
            return Ok(());
        }
        let tree = self.tree.get_or_insert_with(TreeBuilder::new);
        for chunk in self.inline.drain(..) {
            tree.push(chunk, &mut self.sink)?;
        }
        tree.push(chunk, &mut self.sink)
    }

    /// Returns the content and its length in bytes.
    pub fn finish(mut self) -> Result<(Content, u64)> {
        let top = self.tree.map(|tree| tree.finish(&mut self.sink)).transpose()?.flatten();
        let content = match top {
            None => Content::Inline(self.inline),
            Some((root, _)) => Content::Tree { root, chunks: self.chunks },
        };
        Ok((content, self.bytes))
    }
}

/// A version, read through its nodes.
#[derive(Clone, Copy)]
pub struct Manifest<'a> {
    source: &'a dyn NodeSource,
    id: VersionId,
    root: Root,
}

impl<'a> Manifest<'a> {
    /// Reads and checks the root. A missing root is [`crate::Error::NotFound`].
    pub fn open(source: &'a dyn NodeSource, id: VersionId) -> Result<Manifest<'a>> {
        let place = source.place();
        let mut root = None;
        source.read_nodes(&[id.root()], &mut |_, bytes| {
            root = bytes.map(|bytes| open_root(id, &bytes, &place)).transpose()?;
            Ok(())
        })?;
        match root {
            Some(root) => Ok(Manifest { source, id, root }),
            None => Err(Error::NotFound { what: format!("version {id}"), place }),
        }
    }

    /// Checks that `bytes`, from `place`, are the root node of version `id`; returns its sums.
    pub fn check_root(id: VersionId, bytes: &[u8], place: &str) -> Result<Totals> {
        open_root(id, bytes, place).map(|root| root.totals)
    }

    /// Its name.
    pub fn id(&self) -> VersionId {
        self.id
    }

    /// Its sums.
    pub fn totals(&self) -> Totals {
        self.root.totals
    }

    /// How its files are cut.
    pub fn params(&self) -> CutParams {
        self.root.params
    }

    /// Where its nodes come from.
    pub fn source(&self) -> &'a dyn NodeSource {
        self.source
    }

    /// All entries in path order. Ends with an error if the whole is not what the root says.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry>> + use<'a> {
        let (walk, failed) = split(self.cursor());
        let mut state = EntryWalk { manifest: *self, nesting: Nesting::default(), totals: Totals::default() };
        until_error(walk, failed, move |cursor| state.next(cursor))
    }

    /// The entry at `path`. Reads one node a level.
    pub fn get(&self, path: &RelPath) -> Result<Option<Entry>> {
        Ok(self.seek(path.as_str())?.filter(|entry| entry.path == *path))
    }

    /// Calls `each` with the offsets and the chunks of a stretch of the file at `path`: `count` of them from the `first`
    /// on. False if there is no such file, or if it has fewer; then some may have been called for.
    pub fn stretch(
        &self,
        path: &RelPath,
        first: u64,
        count: u64,
        each: &mut impl FnMut(u64, ChunkRef) -> Result<()>,
    ) -> Result<bool> {
        let Some(entry) = self.get(path)? else { return Ok(false) };
        let Some((len, content)) = entry.file() else { return Ok(false) };
        let mut ranges = ChunkRanges::new(self.source, len, content.clone());
        ranges.read(first, count, each).map(|read| read.is_some())
    }

    /// The first entry that lies below `path`. Reads one node a level.
    pub fn first_below(&self, path: &RelPath) -> Result<Option<Entry>> {
        Ok(self.seek(&format!("{path}/"))?.filter(|entry| entry.path.is_below(path)))
    }

    // The first entry whose path is `key` or greater.
    fn seek(&self, key: &str) -> Result<Option<Entry>> {
        let mut entries = self.page_at(key)?;
        let at = entries.partition_point(|entry| entry.path.as_str() < key);
        Ok((at < entries.len()).then(|| entries.swap_remove(at)))
    }

    /// The page of entries that `key` lies in, or between it and the one before; none if it lies behind the last.
    pub(super) fn page_at(&self, key: &str) -> Result<Vec<Entry>> {
        let Some(top) = self.root.top else { return Ok(Vec::new()) };
        let mut page = read_top::<Entries>(self.source, top.node, |page| self.has_top(page))?;
        let mut before = None;
        loop {
            let (level, mut links) = match page {
                Page::Inner(level, links) => (level, links),
                Page::Leaf(entries) => return Ok(entries),
            };
            let at = links.partition_point(|link| link.last.as_str() < key);
            links.truncate(at + 1);
            let (Some(link), true) = (links.pop(), links.len() == at) else { return Ok(Vec::new()) };
            before = links.pop().or(before);
            let child = read_pages::<Entries>(self.source, std::slice::from_ref(&link), level - 1)?.pop();
            page = child
                .filter(|page| Entries::describes(&link, before.as_ref(), page))
                .ok_or_else(|| lie::<Entries>(self.source, link.child, "is not what the page above says"))?;
        }
    }

    /// The chunks of a file of this version, in order.
    pub fn chunks(&self, content: &Content) -> impl Iterator<Item = Result<ChunkRef>> + use<'a> {
        Self::chunks_in(self.source, content)
    }

    /// The chunks of a file whose nodes are in `source`, in order.
    pub fn chunks_in(
        source: &'a dyn NodeSource,
        content: &Content,
    ) -> impl Iterator<Item = Result<ChunkRef>> + use<'a> {
        let (inline, opened) = match content {
            Content::Inline(chunks) => (chunks.clone(), Ok(Cursor::<Chunks>::empty(source))),
            Content::Tree { root, chunks } => {
                let counted = |page: &PageOf<Chunks>| chunks_of(page).is_some_and(|(_, n)| n == *chunks);
                (Vec::new(), Cursor::open(source, *root, counted))
            }
        };
        let (walk, failed) = split(opened);
        inline.into_iter().map(Ok).chain(until_error(walk, failed, Cursor::next_item))
    }

    pub(super) fn top(&self) -> Option<Top> {
        self.root.top
    }

    pub(super) fn cursor(&self) -> Result<Cursor<'a, Entries>> {
        match self.root.top {
            None => Ok(Cursor::empty(self.source)),
            Some(top) => Cursor::open(self.source, top.node, |page| self.has_top(page)),
        }
    }

    fn has_top(&self, page: &PageOf<Entries>) -> bool {
        let level = self.root.top.map(|top| top.level);
        level == Some(page.level()) && entries_of(page) == Some(self.root.totals.entries)
    }
}

impl std::fmt::Debug for Manifest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manifest").field("id", &self.id).field("root", &self.root).finish_non_exhaustive()
    }
}

fn open_root(id: VersionId, bytes: &[u8], place: &str) -> Result<Root> {
    match Node::open(id.root(), bytes, place)?.body {
        Body::Root(root) => Ok(root),
        Body::Entries(_) | Body::Chunks(_) => {
            Err(malformed(ROOT.name, place, &format!("node {id} is not the root of a version")))
        }
    }
}

struct EntryWalk<'a> {
    manifest: Manifest<'a>,
    nesting: Nesting,
    totals: Totals,
}

impl<'a> EntryWalk<'a> {
    fn next(&mut self, cursor: &mut Cursor<'a, Entries>) -> Result<Option<Entry>> {
        let entry = cursor.next_item()?;
        let fits = match &entry {
            Some(entry) => {
                let counted = self.totals.add(entry).ok_or("totals out of bounds");
                counted.and_then(|()| self.nesting.enter(entry))
            }
            None if self.totals != self.manifest.root.totals => {
                Err("its entries do not add up to its totals")
            }
            None => Ok(()),
        };
        let id = self.manifest.id;
        fits.map_err(|reason| {
            malformed("version", &self.manifest.source.place(), &format!("version {id}: {reason}"))
        })?;
        Ok(entry)
    }
}

fn split<T>(result: Result<T>) -> (Option<T>, Option<Error>) {
    match result {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error)),
    }
}

// Yields `failed`, or what `next` gives up to the first error.
fn until_error<C, T>(
    mut cursor: Option<C>,
    mut failed: Option<Error>,
    mut next: impl FnMut(&mut C) -> Result<Option<T>>,
) -> impl Iterator<Item = Result<T>> {
    std::iter::from_fn(move || {
        if let Some(error) = failed.take() {
            return Some(Err(error));
        }
        let result = next(cursor.as_mut()?).transpose();
        if !matches!(result, Some(Ok(_))) {
            cursor = None;
        }
        result
    })
}
