//! Whose the files are that an interrupted switch meets again. In a copy of the replica, or one that was restored, no
//! file has the inode and time that the journal knows; then its content decides, against the version that was left and
//! the one that comes. What cannot be read proves nothing.

use std::collections::{HashMap, HashSet};

use rustix::fs::Stat;

use crate::content::Chunker;
use crate::error::Result;
use crate::id::{ChunkId, ChunkRef, VersionId};
use crate::version::{ChunkListBuilder, Content, Entry, EntryKind, Manifest, RelPath};

use super::disk::Disk;
use super::judge::Nodes;
use super::known::Known;
use super::nodelog::NodeLog;
use super::spot::{Kind, kind_of};
use super::state::{Journal, Op, StageKey};
use super::swap;

/// Makes the steps of `journal` know the files that they are for, as they are now. What is foreign where the version has
/// something else is an error that counts it, before any step is done; with `overwrite` it is replaced.
pub(super) fn recognise(
    disk: &Disk,
    journal: &mut Journal,
    left: Option<VersionId>,
    nodes: &NodeLog,
    overwrite: bool,
) -> Result<()> {
    let proof = Proof {
        disk,
        left: left.and_then(|left| Manifest::open(nodes, left).ok()),
        comes: Manifest::open(nodes, journal.version).ok(),
    };
    let comes_at: HashMap<StageKey, RelPath> = journal.place.iter().filter_map(placed).collect();
    // Once all that moves is in the stage, what is at these paths is no more what was to move.
    let mut to_move = HashSet::new();
    let mut vacated = HashSet::new();
    if !swap::all_moved(disk)? {
        for op in &mut journal.stash {
            let Op::Stash { from, key, known } = op else { continue };
            if let (Some(stat), Some(path)) = (unknown(disk, from, Some(known))?, comes_at.get(key))
                && proof.comes(&stat, from, path)
            {
                *known = Known::of(&stat);
            }
            to_move.insert(*key);
            vacated.insert(from.clone());
        }
    }
    let mut foreign = Vec::new();
    for op in &mut journal.place {
        match op {
            Op::Unlink { path, known } => {
                if let Some(stat) = unknown(disk, path, Some(known))?
                    && proof.left(&stat, path)
                {
                    *known = Known::of(&stat);
                }
            }
            Op::Place { key, path, over } if !vacated.contains(path) => {
                let Some(stat) = unknown(disk, path, over.as_ref())? else { continue };
                let floes = over.is_some() && proof.left(&stat, path) || proof.comes(&stat, path, path);
                if floes || overwrite && kind_of(&stat) != Kind::Other {
                    *over = Some(Known::of(&stat));
                } else if to_move.contains(key) || disk.stat(&key.path())?.is_some() {
                    foreign.push((path.clone(), kind_of(&stat)));
                }
            }
            _ => {}
        }
    }
    match foreign.first() {
        Some((path, kind)) => Err(swap::blocked(disk, path, *kind, foreign.len() - 1)),
        None => Ok(()),
    }
}

fn placed(op: &Op) -> Option<(StageKey, RelPath)> {
    match op {
        Op::Place { key, path, .. } => Some((*key, path.clone())),
        _ => None,
    }
}

// What is at `path`, if it is something else than what is known of it. Of directories nothing is known.
fn unknown(disk: &Disk, path: &RelPath, known: Option<&Known>) -> Result<Option<Stat>> {
    let spot = disk.spot(path.as_str())?.filter(|spot| spot.kind() != Kind::Dir);
    Ok(spot.map(|spot| spot.stat).filter(|stat| known.is_none_or(|known| *known != Known::of(stat))))
}

struct Proof<'a> {
    disk: &'a Disk,
    left: Option<Manifest<'a>>,
    comes: Option<Manifest<'a>>,
}

impl Proof<'_> {
    // True if `path` is as the version has it that was left.
    fn left(&self, stat: &Stat, path: &RelPath) -> bool {
        self.left.as_ref().is_some_and(|left| self.is(stat, path, left.get(path).ok().flatten()))
    }

    // True if `path` is what the version that comes has at `wanted`.
    fn comes(&self, stat: &Stat, path: &RelPath, wanted: &RelPath) -> bool {
        self.comes.as_ref().is_some_and(|comes| self.is(stat, path, comes.get(wanted).ok().flatten()))
    }

    fn is(&self, stat: &Stat, path: &RelPath, entry: Option<Entry>) -> bool {
        match (kind_of(stat), entry.map(|entry| entry.kind)) {
            (Kind::File, Some(EntryKind::File { len, content, .. })) => {
                Known::of(stat).len == len && self.content(path) == Some(content)
            }
            (Kind::Symlink, Some(EntryKind::Symlink { target })) => {
                self.disk.read_link(path.as_str()).is_ok_and(|found| found == target.as_bytes())
            }
            _ => false,
        }
    }

    fn content(&self, path: &RelPath) -> Option<Content> {
        let mut nodes = Nodes::default();
        let mut chunks = ChunkListBuilder::new(&mut nodes);
        let mut chunker = Chunker::new(self.disk.open_file(path.as_str()).ok()?);
        while let Some(bytes) = chunker.next_chunk().ok()? {
            chunks.push(ChunkRef { id: ChunkId::of(bytes), len: bytes.len() as u32 }).ok()?;
        }
        chunks.finish().ok().map(|(content, _)| content)
    }
}
