//! Carries out edits. Bytes are hostile: work is bounded by the limits and by the sizes of the base, memory by a page
//! of each level and what the edits themselves take.

use std::cell::RefCell;

use super::format::{EDITS, Edit, Head, LastPath, PathCode, Run, What, malformed, uses_max};
use crate::codec;
use crate::content::CutParams;
use crate::error::{Error, Result};
use crate::id::{ChunkRef, NodeId, VersionId};
use crate::limits::{EDITS_COUNT_MAX, EDITS_LEN_MAX};
use crate::version::chunks::ChunkRanges;
use crate::version::entry::{Content, Entry, EntryKind};
use crate::version::manifest::{ChunkListBuilder, Manifest, ManifestBuilder};
use crate::version::node::NodeSink;
use crate::version::path::RelPath;

/// Carries out edits and gives the nodes of what they arrive at to `sink`, children first; returns its id, which the
/// caller compares with the one it wants: only that proves it. `new` are the chunks that the edits count on, all of
/// them. Nodes that `have` has already are handed over too, but for the chunk trees of files that stay.
///
/// Reads all entries of `have`, and of its chunk trees only what is copied into edited files. Whatever is wrong is an
/// error that names `place`; what was given to `sink` until then is of no use.
pub fn apply_edits(
    bytes: &[u8],
    have: Option<&Manifest<'_>>,
    new: &[ChunkRef],
    sink: &mut dyn NodeSink,
    place: &str,
) -> Result<VersionId> {
    if bytes.len() > EDITS_LEN_MAX {
        return Err(over("length of the edits", bytes.len() as u64, EDITS_LEN_MAX as u64, place));
    }
    let mut rest = bytes;
    let head: Head = codec::take(EDITS, &mut rest, place)?;
    let algorithm = (head.params.algorithm, CutParams::V1.algorithm);
    if algorithm.0 > algorithm.1 {
        let (found, supported) = (algorithm.0.into(), algorithm.1.into());
        return Err(Error::TooNew {
            kind: "chunker of a version",
            place: place.to_owned(),
            found,
            supported,
        });
    }
    let sink = RefCell::new(sink);
    let mut builder = ManifestBuilder::new(head.params, Shared(&sink));
    let mut base = have.map(|have| have.entries()).into_iter().flatten();
    let mut next = base.next().transpose()?;
    let mut path = LastPath::default();
    let mut last: Option<RelPath> = None;
    let mut files = Files::new(have, new, &sink, place);
    for _ in 0..head.edits {
        files.count(1)?;
        let edit: Edit = codec::take(EDITS, &mut rest, place)?;
        let path = path.decode(&edit.path, place)?;
        if last.as_ref().is_some_and(|last| *last >= path) {
            return Err(malformed(place, "paths out of order"));
        }
        while let Some(entry) = next.take_if(|entry| entry.path < path) {
            builder.push(entry).map_err(|error| at(error, place))?;
            next = base.next().transpose()?;
        }
        let old = next.take_if(|entry| entry.path == path);
        if old.is_some() {
            next = base.next().transpose()?;
        }
        if let Some(kind) = files.kind(edit.what, old, &mut rest)? {
            builder.push(Entry { path: path.clone(), kind }).map_err(|error| at(error, place))?;
        }
        last = Some(path);
    }
    while let Some(entry) = next {
        builder.push(entry).map_err(|error| at(error, place))?;
        next = base.next().transpose()?;
    }
    if !rest.is_empty() {
        return Err(malformed(place, "bytes after their end"));
    }
    if files.used != new.len() {
        return Err(malformed(place, "new chunks that nothing uses"));
    }
    Ok(builder.finish()?.0)
}

/// The one sink, for the builder of the tree and for that of a file.
#[derive(Clone, Copy)]
struct Shared<'s, 'n>(&'s RefCell<&'n mut dyn NodeSink>);

impl NodeSink for Shared<'_, '_> {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.0.borrow_mut().put_node(id, bytes)
    }
}

/// What edits say of files.
struct Files<'e, 'a, 'n> {
    have: Option<&'e Manifest<'a>>,
    new: &'e [ChunkRef],
    sink: &'e RefCell<&'n mut dyn NodeSink>,
    place: &'e str,
    // New chunks used so far.
    used: usize,
    // Edits and runs so far.
    counted: u64,
    // Chunks that runs may still stand for.
    uses_left: u64,
    from: LastPath,
    // The page of old entries that was looked up last.
    page: Vec<Entry>,
}

impl<'e, 'a, 'n> Files<'e, 'a, 'n> {
    fn new(
        have: Option<&'e Manifest<'a>>,
        new: &'e [ChunkRef],
        sink: &'e RefCell<&'n mut dyn NodeSink>,
        place: &'e str,
    ) -> Self {
        let uses_left = uses_max(have.map(Manifest::totals), new.len());
        let (from, page) = (LastPath::default(), Vec::new());
        Self { have, new, sink, place, used: 0, counted: 0, uses_left, from, page }
    }

    fn count(&mut self, more: u64) -> Result<()> {
        self.counted = self.counted.saturating_add(more);
        match self.counted <= EDITS_COUNT_MAX {
            true => Ok(()),
            false => Err(over("count of edits", self.counted, EDITS_COUNT_MAX, self.place)),
        }
    }

    // What is at the edit's path from now on.
    fn kind(&mut self, what: What, old: Option<Entry>, rest: &mut &[u8]) -> Result<Option<EntryKind>> {
        Ok(Some(match what {
            What::Remove if old.is_none() => {
                return Err(malformed(self.place, "a path to remove that is not there"));
            }
            What::Remove => return Ok(None),
            What::Dir { mode } => EntryKind::Dir { mode },
            What::Symlink { target } => EntryKind::Symlink { target },
            What::Mode { mode } => match old.map(|old| old.kind) {
                Some(EntryKind::File { len, content, .. }) => EntryKind::File { mode, len, content },
                _ => return Err(malformed(self.place, "another mode for what is no file")),
            },
            What::Whole { mode, from } => {
                let (len, content) = self.old(&from)?;
                EntryKind::File { mode, len, content }
            }
            What::File { mode, runs } => {
                let old = old.as_ref().and_then(Entry::file).map(|(len, content)| (len, content.clone()));
                let (content, len) = self.build(old, runs, rest)?;
                EntryKind::File { mode, len, content }
            }
        }))
    }

    fn build(&mut self, own: Option<(u64, Content)>, runs: u64, rest: &mut &[u8]) -> Result<(Content, u64)> {
        self.count(runs)?;
        let place = self.place;
        let mut list = ChunkListBuilder::new(Shared(self.sink));
        let mut source = own.and_then(|file| self.ranges(file));
        for _ in 0..runs {
            match codec::take(EDITS, rest, place)? {
                Run::From { path } => {
                    let file = self.old(&path)?;
                    source = self.ranges(file);
                }
                Run::Copy { first, count } => {
                    self.spend(count)?;
                    let source = source.as_mut().ok_or_else(|| malformed(place, "a copy from no file"))?;
                    source
                        .read(first, count, &mut |_, chunk| list.push(chunk))?
                        .ok_or_else(|| malformed(place, "a copy of more chunks than there are"))?;
                }
                Run::New { count } => {
                    let first = self.used as u64;
                    let chunks = self.fresh(first, count, self.new.len())?;
                    chunks.iter().try_for_each(|chunk| list.push(*chunk))?;
                    self.used += chunks.len();
                }
                Run::Again { first, count } => {
                    let chunks = self.fresh(first, count, self.used)?;
                    chunks.iter().try_for_each(|chunk| list.push(*chunk))?;
                }
            }
        }
        list.finish()
    }

    fn ranges(&self, (len, content): (u64, Content)) -> Option<ChunkRanges<'a>> {
        self.have.map(|have| ChunkRanges::new(have.source(), len, content))
    }

    // Some of the first `end` new chunks.
    fn fresh(&mut self, first: u64, count: u64, end: usize) -> Result<&'e [ChunkRef]> {
        self.spend(count)?;
        let place = self.place;
        let bounds = first.checked_add(count).filter(|last| *last <= end as u64);
        let chunks = bounds.and_then(|last| self.new.get(first as usize..last as usize));
        chunks.ok_or_else(|| malformed(place, "more new chunks than there are"))
    }

    fn spend(&mut self, uses: u64) -> Result<()> {
        if uses == 0 {
            return Err(malformed(self.place, "an empty run"));
        }
        match self.uses_left.checked_sub(uses) {
            Some(left) => self.uses_left = left,
            None => return Err(over("chunks that runs stand for", uses, self.uses_left, self.place)),
        }
        Ok(())
    }

    // The old file that a path names.
    fn old(&mut self, code: &PathCode) -> Result<(u64, Content)> {
        let path = self.from.decode(code, self.place)?;
        let here = |page: &[Entry]| {
            page.first().is_some_and(|first| first.path <= path)
                && page.last().is_some_and(|last| path <= last.path)
        };
        if let Some(have) = self.have
            && !here(&self.page)
        {
            self.page = have.page_at(path.as_str())?;
        }
        let found = self.page.binary_search_by(|entry| entry.path.cmp(&path)).ok();
        let file = found.and_then(|at| self.page.get(at)).and_then(Entry::file);
        let (len, content) =
            file.ok_or_else(|| malformed(self.place, "content of an old file that is not there"))?;
        Ok((len, content.clone()))
    }
}

fn over(what: &str, actual: u64, max: u64, place: &str) -> Error {
    Error::Limit { what: format!("{what} from {place}"), actual, max }
}

// Names where the edits came from, too.
fn at(error: Error, from: &str) -> Error {
    match error {
        Error::Malformed { kind, place, reason } => {
            Error::Malformed { kind, place: format!("{place} of the {EDITS} from {from}"), reason }
        }
        other => other,
    }
}
