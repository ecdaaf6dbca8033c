//! Chunks lifted from the files of the tree as it is now. Where a chunk lies is told by the recorded version and by
//! the survey; what is read is hashed, so a file that changed since costs a fetch and nothing else.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::Result;
use crate::id::{ChunkId, ChunkRef, VersionId};
use crate::version::{Entry, EntryKind, Manifest, RelPath};

use super::disk::Disk;
use super::replica::Replica;
use super::survey::Survey;

// More places for one chunk are not worth remembering.
const PLACES_MAX: usize = 2;
// Files kept open by one batch of work.
const OPEN_MAX: usize = 32;

/// Where chunks lie in the tree.
#[derive(Debug, Default)]
pub(super) struct Seeds {
    files: Vec<RelPath>,
    places: HashMap<ChunkId, [Option<(u32, u64)>; PLACES_MAX]>,
}

impl Seeds {
    /// Looks for `wanted` in the recorded version, file by file as far as the survey found it unchanged, and in
    /// what the survey found instead. Seeds only save work: a node that cannot be read ends the search, not the sync.
    /// `target` is a version whose root is in the replica's log.
    pub(super) fn find(
        replica: &Replica,
        survey: &Survey,
        target: VersionId,
        wanted: &HashMap<ChunkId, u32>,
    ) -> Seeds {
        let mut seeds = Seeds::default();
        let nodes = survey.over(replica.nodes());
        if let Some(version) = replica.version() {
            let _ = Manifest::open(&nodes, version).and_then(|manifest| {
                let drifted: HashSet<&RelPath> = survey.drift.iter().map(|change| &change.path).collect();
                let entries = manifest
                    .entries()
                    .filter(|entry| entry.as_ref().map_or(true, |entry| !drifted.contains(&entry.path)));
                seeds.add_all(&manifest, entries, wanted)
            });
        }
        // Chunk lists are read by the nodes alone; any version that can be opened over them will do.
        if !survey.drift.is_empty() {
            let _ = Manifest::open(&nodes, target).and_then(|manifest| {
                let entries = survey.drift.iter().filter_map(|change| change.want.clone()).map(Ok);
                seeds.add_all(&manifest, entries, wanted)
            });
        }
        seeds
    }

    fn add_all(
        &mut self,
        manifest: &Manifest<'_>,
        entries: impl Iterator<Item = Result<Entry>>,
        wanted: &HashMap<ChunkId, u32>,
    ) -> Result<()> {
        for entry in entries {
            if self.places.len() == wanted.len() {
                break;
            }
            let entry = entry?;
            if let EntryKind::File { content, .. } = &entry.kind {
                self.add_chunks(&entry.path, manifest.chunks(content), wanted)?;
            }
        }
        Ok(())
    }

    fn add_chunks(
        &mut self,
        path: &RelPath,
        chunks: impl Iterator<Item = Result<ChunkRef>>,
        wanted: &HashMap<ChunkId, u32>,
    ) -> Result<()> {
        let mut file = None;
        let mut offset = 0u64;
        for chunk in chunks {
            let chunk = chunk?;
            if wanted.contains_key(&chunk.id) {
                let file = *file.get_or_insert_with(|| {
                    self.files.push(path.clone());
                    (self.files.len() - 1) as u32
                });
                let places = self.places.entry(chunk.id).or_default();
                if let Some(free) = places.iter_mut().find(|place| place.is_none()) {
                    *free = Some((file, offset));
                }
            }
            offset = offset.saturating_add(chunk.len.into());
        }
        Ok(())
    }

    /// True if a place is known.
    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.places.contains_key(id)
    }

    /// Reads `chunk` into `buffer` from the first place that really holds it.
    pub(super) fn lift(
        &self,
        disk: &Disk,
        open: &mut OpenSeeds,
        chunk: &ChunkRef,
        buffer: &mut Vec<u8>,
    ) -> bool {
        let places = self.places.get(&chunk.id).into_iter().flatten().flatten();
        places.into_iter().any(|&(file, offset)| {
            open.get(disk, &self.files, file).is_some_and(|file| read_proven(file, offset, chunk, buffer))
        })
    }
}

/// Seed files kept open by one batch of work.
#[derive(Debug, Default)]
pub(super) struct OpenSeeds(HashMap<u32, Option<File>>);

impl OpenSeeds {
    fn get(&mut self, disk: &Disk, files: &[RelPath], file: u32) -> Option<&File> {
        if self.0.len() >= OPEN_MAX && !self.0.contains_key(&file) {
            self.0.clear();
        }
        let open = || files.get(file as usize).and_then(|path| disk.open_file(path.as_str()).ok());
        self.0.entry(file).or_insert_with(open).as_ref()
    }
}

/// Files of the tree read as a version has them. The last one stays open.
#[derive(Debug)]
pub struct OldFiles<'a> {
    disk: &'a Disk,
    last: Option<(RelPath, Option<File>)>,
}

impl<'a> OldFiles<'a> {
    /// Those of `replica`.
    pub fn new(replica: &'a Replica) -> Result<Self> {
        Ok(Self { disk: replica.writer()?, last: None })
    }

    /// Reads `chunk` of the file at `path`, where it begins at `offset`, into `buffer`. False if it cannot be read or is
    /// something else now.
    pub fn read(&mut self, path: &RelPath, offset: u64, chunk: &ChunkRef, buffer: &mut Vec<u8>) -> bool {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            self.last = Some((path.clone(), self.disk.open_file(path.as_str()).ok()));
        }
        let file = self.last.as_ref().and_then(|(_, file)| file.as_ref());
        file.is_some_and(|file| read_proven(file, offset, chunk, buffer))
    }
}

/// Reads `chunk` at `offset`; false unless the bytes there are what its id says.
pub(super) fn read_proven(file: &File, offset: u64, chunk: &ChunkRef, buffer: &mut Vec<u8>) -> bool {
    buffer.resize(chunk.len as usize, 0);
    file.read_exact_at(buffer, offset).is_ok() && ChunkId::of(buffer) == chunk.id
}
