//! Finds out where everything in the target comes from, and writes it down.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Edits;
use super::align::{Piece, align};
use super::format::{Edit, Head, LastPath, PathCode, Run, What, uses_max};
use super::orphans::{Region, between, orphans};
use crate::codec;
use crate::error::{Error, Result};
use crate::id::{ChunkRef, NodeId};
use crate::limits::{EDITS_COUNT_MAX, EDITS_LEN_MAX, UPDATE_CHUNKS_MAX};
use crate::version::chunks::each_distinct;
use crate::version::delta::{Change, diff};
use crate::version::entry::{Content, Entry, EntryKind};
use crate::version::manifest::Manifest;
use crate::version::path::RelPath;

/// Makes the edits that lead from `have`, or from nothing, to `want`; `None` if they would be beyond the limits
/// ([`EDITS_LEN_MAX`], [`EDITS_COUNT_MAX`], [`UPDATE_CHUNKS_MAX`]).
///
/// Reads O(changes x log n) nodes; only if a chunk may be new, one pass over all nodes of the base as well.
pub fn make_edits(have: Option<&Manifest<'_>>, want: &Manifest<'_>) -> Result<Option<Edits>> {
    let Some(changes) = changes(have, want)? else { return Ok(None) };
    let mut origins = Origins::default();
    let Some(mut drafts) = drafts(&changes, have, want, &mut origins)? else { return Ok(None) };
    if let Some(have) = have
        && !origins.chunks.is_empty()
    {
        origins.find(have, &changes)?;
    }
    let (mut new, mut regions) = (Vec::new(), Vec::new());
    for (draft, change) in drafts.iter_mut().zip(&changes) {
        let Draft::File(pieces) = draft else { continue };
        let content = change.want.as_ref().and_then(Entry::file);
        if let Some(from) = content.and_then(|file| origins.whole(file)) {
            *draft = Draft::Whole(from);
            continue;
        }
        let old_count = change.have.as_ref().and_then(Entry::file).map_or(0, |(_, old)| old.chunk_count());
        for run in origins.number(pieces, &mut new) {
            let between = between(pieces, run.pieces, old_count);
            regions.push(Region { path: change.path.clone(), new: run.new, between });
        }
    }
    if new.len() as u64 > UPDATE_CHUNKS_MAX {
        return Ok(None);
    }
    let orphans = match have {
        Some(have) if !new.is_empty() => orphans(&changes, &drafts, have)?,
        _ => Vec::new(),
    };
    let mut writer = Writer::new(&origins, uses_max(have.map(Manifest::totals), new.len()));
    codec::append(&mut writer.bytes, &Head { params: want.params(), edits: changes.len() as u64 });
    for (change, draft) in changes.iter().zip(drafts) {
        if !writer.edit(change, draft) {
            return Ok(None);
        }
    }
    let bytes = std::mem::take(&mut writer.bytes);
    Ok(Some(Edits { bytes, new, regions, orphans }))
}

// Every path that differs, in order.
fn changes(have: Option<&Manifest<'_>>, want: &Manifest<'_>) -> Result<Option<Vec<Change>>> {
    let mut changes = Vec::new();
    let Some(have) = have else {
        if want.totals().entries > EDITS_COUNT_MAX {
            return Ok(None);
        }
        for entry in want.entries() {
            let entry = entry?;
            changes.push(Change { path: entry.path.clone(), have: None, want: Some(entry) });
        }
        return Ok(Some(changes));
    };
    let mut full = false;
    let compared = diff(have, want, &mut |change| {
        full = changes.len() as u64 == EDITS_COUNT_MAX;
        if full {
            return Err(Error::Cancelled);
        }
        changes.push(change);
        Ok(())
    });
    if full {
        return Ok(None);
    }
    compared.map(|()| Some(changes))
}

/// What an edit will say, but for where loose chunks come from.
pub(super) enum Draft {
    /// All is said by the entry itself.
    Plain,
    /// The content stays.
    Mode,
    /// The content of an old file, by its number in [`Origins`].
    Whole(u32),
    File(Vec<Piece>),
}

// `None` if there would be too many pieces.
fn drafts<'c>(
    changes: &'c [Change],
    have: Option<&Manifest<'_>>,
    want: &Manifest<'_>,
    origins: &mut Origins<'c>,
) -> Result<Option<Vec<Draft>>> {
    let mut old: HashMap<FileOf<'_>, &RelPath> = HashMap::new();
    for change in changes {
        if let Some(file) = change.have.as_ref().and_then(Entry::file) {
            old.entry(file).or_insert(&change.path);
        }
    }
    let nothing = Content::Inline(Vec::new());
    let base = have.map_or(want.source(), Manifest::source);
    let mut room = UPDATE_CHUNKS_MAX as usize;
    let mut drafts = Vec::with_capacity(changes.len());
    for change in changes {
        let own = change.have.as_ref().and_then(Entry::file);
        drafts.push(match change.want.as_ref().and_then(Entry::file) {
            None => Draft::Plain,
            Some(file) if own == Some(file) => Draft::Mode,
            Some((0, _)) => Draft::File(Vec::new()),
            Some(file) => match old.get(&file) {
                Some(path) => Draft::Whole(origins.name(path)),
                None => {
                    let own = own.unwrap_or((0, &nothing));
                    let pieces = align((base, own.0, own.1), (want.source(), file.0, file.1), room)?;
                    let Some(pieces) = pieces else { return Ok(None) };
                    room -= pieces.len();
                    origins.ask(file, &pieces);
                    Draft::File(pieces)
                }
            },
        });
    }
    Ok(Some(drafts))
}

pub(super) type FileOf<'c> = (u64, &'c Content);

/// Where loose chunks and whole contents are.
#[derive(Default)]
struct Origins<'c> {
    chunks: HashMap<ChunkRef, Option<Place>>,
    // How many of them have no place.
    lacking: usize,
    // Contents with loose chunks, by their number in `wholes`.
    contents: HashMap<FileOf<'c>, usize>,
    wholes: Vec<Option<u32>>,
    // Old files that something comes from.
    files: Vec<RelPath>,
}

#[derive(Clone, Copy)]
enum Place {
    Old { file: u32, at: u64 },
    New(u64),
}

impl<'c> Origins<'c> {
    fn name(&mut self, path: &RelPath) -> u32 {
        if self.files.last() != Some(path) {
            self.files.push(path.clone());
        }
        (self.files.len() - 1) as u32
    }

    fn ask(&mut self, file: FileOf<'c>, pieces: &[Piece]) {
        let mut any = false;
        for piece in pieces {
            if let Piece::Loose(chunk) = piece {
                any = true;
                self.chunks.entry(*chunk).or_insert(None);
            }
        }
        self.lacking = self.chunks.len();
        if any && !self.contents.contains_key(&file) {
            self.contents.insert(file, self.wholes.len());
            self.wholes.push(None);
        }
    }

    // First in the files that changed, then anywhere.
    fn find(&mut self, have: &Manifest<'_>, changes: &[Change]) -> Result<()> {
        let mut seen = HashSet::new();
        for old in changes.iter().filter_map(|change| change.have.as_ref()) {
            self.visit(have, old, &mut seen)?;
        }
        let mut entries = have.entries();
        while self.lacking > 0
            && let Some(entry) = entries.next()
        {
            self.visit(have, &entry?, &mut seen)?;
        }
        Ok(())
    }

    fn visit(&mut self, have: &Manifest<'_>, entry: &Entry, seen: &mut HashSet<NodeId>) -> Result<()> {
        let Some((len, content)) = entry.file().filter(|_| self.lacking > 0) else { return Ok(()) };
        if let Some(&whole) = self.contents.get(&(len, content))
            && self.wholes[whole].is_none()
        {
            self.wholes[whole] = Some(self.name(&entry.path));
        }
        let mut file = None;
        each_distinct((have.source(), len, content), seen, &mut |at, chunk| {
            if let Some(place @ None) = self.chunks.get_mut(chunk) {
                let next = self.files.len() as u32;
                let file = *file.get_or_insert_with(|| match self.files.last() {
                    Some(last) if *last == entry.path => next - 1,
                    _ => {
                        self.files.push(entry.path.clone());
                        next
                    }
                });
                *place = Some(Place::Old { file, at });
                self.lacking -= 1;
            }
        })
    }

    fn whole(&self, file: FileOf<'_>) -> Option<u32> {
        self.contents.get(&file).and_then(|at| self.wholes[*at])
    }

    // Gives numbers to the chunks that were found nowhere; returns the runs of them.
    fn number(&mut self, pieces: &[Piece], new: &mut Vec<ChunkRef>) -> Vec<NewRun> {
        let mut runs: Vec<NewRun> = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            if let Piece::Loose(chunk) = piece
                && let Some(place @ None) = self.chunks.get_mut(chunk)
            {
                let number = new.len();
                *place = Some(Place::New(number as u64));
                new.push(*chunk);
                match runs.last_mut().filter(|run| run.pieces.end == at) {
                    Some(run) => (run.pieces.end, run.new.end) = (at + 1, number + 1),
                    None => runs.push(NewRun { pieces: at..at + 1, new: number..number + 1 }),
                }
            }
        }
        runs
    }
}

/// New chunks that follow each other in a file: among its pieces, and by their numbers.
struct NewRun {
    pieces: Range<usize>,
    new: Range<usize>,
}

/// Writes edits; its methods return false where a limit is met.
struct Writer<'o> {
    bytes: Vec<u8>,
    origins: &'o Origins<'o>,
    path: LastPath,
    from: LastPath,
    // New chunks used so far.
    used: u64,
    // Edits and runs.
    count: u64,
    // Chunks that runs stand for.
    uses: u64,
    uses_max: u64,
}

impl<'o> Writer<'o> {
    fn new(origins: &'o Origins<'o>, uses_max: u64) -> Self {
        let (path, from) = (LastPath::default(), LastPath::default());
        Self { bytes: Vec::new(), origins, path, from, used: 0, count: 0, uses: 0, uses_max }
    }

    fn edit(&mut self, change: &Change, draft: Draft) -> bool {
        let path = self.path.encode(&change.path);
        let mut runs = Vec::new();
        let what = match (change.want.as_ref().map(|entry| &entry.kind), draft) {
            (None, _) => What::Remove,
            (Some(EntryKind::Dir { mode }), _) => What::Dir { mode: *mode },
            (Some(EntryKind::Symlink { target }), _) => What::Symlink { target: target.clone() },
            (Some(EntryKind::File { mode, .. }), draft) => match draft {
                Draft::Plain | Draft::Mode => What::Mode { mode: *mode },
                Draft::Whole(file) => What::Whole { mode: *mode, from: self.name(file) },
                Draft::File(pieces) => {
                    runs = self.runs(&change.path, &pieces);
                    What::File { mode: *mode, runs: runs.len() as u64 }
                }
            },
        };
        codec::append(&mut self.bytes, &Edit { path, what });
        runs.iter().for_each(|run| codec::append(&mut self.bytes, run));
        self.count += 1 + runs.len() as u64;
        self.count <= EDITS_COUNT_MAX && self.uses <= self.uses_max && self.bytes.len() <= EDITS_LEN_MAX
    }

    fn name(&mut self, file: u32) -> PathCode {
        self.from.encode(&self.origins.files[file as usize])
    }

    fn runs(&mut self, path: &RelPath, pieces: &[Piece]) -> Vec<Run> {
        let mut runs = Vec::new();
        // The old file that copies come from; `None` is the one at `path`.
        let mut current = None;
        for piece in pieces {
            let (file, first, count) = match piece {
                Piece::Old { first, count } => (None, *first, *count),
                Piece::Loose(chunk) => match self.origins.chunks.get(chunk).copied().flatten() {
                    Some(Place::Old { file, at }) => {
                        let foreign = self.origins.files[file as usize] != *path;
                        (foreign.then_some(file), at, 1)
                    }
                    Some(Place::New(number)) => {
                        self.brought(number, &mut runs);
                        continue;
                    }
                    None => continue,
                },
            };
            self.uses = self.uses.saturating_add(count);
            if file != current {
                current = file;
                let path = match file {
                    Some(file) => self.name(file),
                    None => self.from.encode(path),
                };
                runs.push(Run::From { path });
            }
            match runs.last_mut() {
                Some(Run::Copy { first: start, count: so_far }) if *start + *so_far == first => {
                    *so_far += count;
                }
                _ => runs.push(Run::Copy { first, count }),
            }
        }
        runs
    }

    // A new chunk.
    fn brought(&mut self, number: u64, runs: &mut Vec<Run>) {
        self.uses = self.uses.saturating_add(1);
        let fresh = number == self.used;
        self.used += u64::from(fresh);
        match runs.last_mut() {
            Some(Run::New { count }) if fresh => *count += 1,
            _ if fresh => runs.push(Run::New { count: 1 }),
            Some(Run::Again { first, count }) if *first + *count == number => *count += 1,
            _ => runs.push(Run::Again { first: number, count: 1 }),
        }
    }
}
