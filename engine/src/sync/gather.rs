//! Files -> pieces of work: many small files together, a large one in parts. Reads, cuts, hashes and encodes;
//! knows nothing of manifests.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::content::{Compression, Frame, cut_all};
use crate::error::{At, Error, Result};
use crate::id::{ChunkId, ChunkRef};
use crate::progress::{Progress, check};
use crate::store::{NewChunk, Proof, Store};
use crate::tree::{FileReader, Found, FoundKind, SourceTree};
use crate::version::Entry;

use super::PublishOptions;

/// Bytes of small files that are worked on together.
const GROUP_LEN: u64 = 512 << 10;
/// Most files worked on together.
const GROUP_COUNT: usize = 256;
/// Longest file that one worker reads whole; a longer one comes in parts of about this length.
pub(super) const WHOLE_LEN_MAX: u64 = 1 << 20;
/// Of a piece: a byte more shows that a file grew.
const PIECE_CAPACITY: usize = WHOLE_LEN_MAX as usize + 1;
/// Capacities of buffers are multiples of it.
const BUFFER_STEP: usize = 16 << 10;

/// What the feeding side hands to a worker.
pub(super) enum Piece<'s> {
    /// Nothing to read: a symlink, a directory, a file known to be unchanged.
    Known(Box<Entry>),
    /// Files to read whole, at most [`WHOLE_LEN_MAX`] bytes or one file of them.
    Files(Vec<&'s Found>),
    /// A part of a file, already read and cut.
    Part { found: &'s Found, plain: Vec<u8>, lens: Vec<usize>, last: bool },
}

/// What a worker hands to the draining side.
pub(super) enum Gathered<'s> {
    /// As it came.
    Known(Box<Entry>),
    /// The chunks of each file or part, in order, those to put, and which of these the store has damaged.
    Read { files: Vec<FileChunks<'s>>, new: Vec<NewChunk>, damaged: Vec<ChunkId> },
}

/// Chunks of a file, or of a part of it.
pub(super) struct FileChunks<'s> {
    pub found: &'s Found,
    pub chunks: Vec<ChunkRef>,
    /// False while more parts of the same file follow.
    pub last: bool,
}

/// The feeding side: found paths and known entries in, pieces and their weights out, in path order.
pub(super) struct Pieces<'s, I> {
    tree: &'s SourceTree,
    found: I,
    ahead: Option<(&'s Found, Option<Entry>)>,
    large: Option<Large<'s>>,
    failed: bool,
    buffers: &'s Buffers,
}

// A file that comes in parts, and what was read of it and not cut yet.
struct Large<'s> {
    found: &'s Found,
    reader: FileReader,
    uncut: Vec<u8>,
}

/// Buffers used again: fresh memory costs a page fault for every 4 KiB, and so does memory that grows. The smallest that
/// is large enough is taken: chunks differ much in length, and any buffer would in time be as large as the longest.
#[derive(Default)]
pub(super) struct Buffers {
    // By capacity.
    free: Mutex<BTreeMap<usize, Vec<Vec<u8>>>>,
}

impl Buffers {
    fn take(&self, len: usize) -> Vec<u8> {
        let mut free = self.free();
        let fitting = free.range_mut(len..).find_map(|(_, buffers)| buffers.pop());
        fitting.unwrap_or_else(|| Vec::with_capacity(len.next_multiple_of(BUFFER_STEP)))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.free().entry(buffer.capacity()).or_default().push(buffer);
    }

    fn free(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<Vec<u8>>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'s, I: Iterator<Item = Result<(&'s Found, Option<Entry>)>>> Pieces<'s, I> {
    /// `found` yields each path with its entry, if that is known without reading.
    pub fn new(tree: &'s SourceTree, found: I, buffers: &'s Buffers) -> Self {
        Self { tree, found, ahead: None, large: None, failed: false, buffers }
    }

    fn next_found(&mut self) -> Result<Option<(&'s Found, Option<Entry>)>> {
        match self.ahead.take() {
            Some(found) => Ok(Some(found)),
            None => self.found.next().transpose(),
        }
    }

    fn next_piece(&mut self) -> Result<Option<(Piece<'s>, u64)>> {
        if let Some(large) = self.large.take() {
            return self.next_part(large).map(Some);
        }
        let Some((found, known)) = self.next_found()? else { return Ok(None) };
        if let Some(entry) = known {
            return Ok(Some((Piece::Known(Box::new(entry)), 0)));
        }
        let len = file_len(found);
        if len > WHOLE_LEN_MAX {
            let large = Large { found, reader: self.tree.read(found)?, uncut: Vec::new() };
            return self.next_part(large).map(Some);
        }
        let (mut files, mut bytes) = (vec![found], len);
        while bytes < GROUP_LEN && files.len() < GROUP_COUNT {
            match self.next_found()? {
                Some((next, None)) if bytes + file_len(next) <= GROUP_LEN => {
                    bytes += file_len(next);
                    files.push(next);
                }
                other => {
                    self.ahead = other;
                    break;
                }
            }
        }
        Ok(Some((Piece::Files(files), bytes)))
    }

    // Cut where it was read; only what is too short to be cut moves on to the next part.
    fn next_part(&mut self, mut large: Large<'s>) -> Result<(Piece<'s>, u64)> {
        let mut plain = self.buffers.take(PIECE_CAPACITY);
        plain.append(&mut large.uncut);
        let mut last = false;
        while !last && (plain.len() as u64) < WHOLE_LEN_MAX {
            last = large.reader.read_spare(&mut plain).at("read", large.found.path.as_str())? == 0;
        }
        let lens = cut_all(&plain, last);
        let found = large.found;
        if last {
            large.reader.finish()?;
        } else {
            let cut = lens.iter().sum();
            large.uncut.extend_from_slice(plain.get(cut..).unwrap_or_default());
            plain.truncate(cut);
            self.large = Some(large);
        }
        let weight = plain.len() as u64;
        Ok((Piece::Part { found, plain, lens, last }, weight))
    }
}

impl<'s, I: Iterator<Item = Result<(&'s Found, Option<Entry>)>>> Iterator for Pieces<'s, I> {
    type Item = Result<(Piece<'s>, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let piece = self.next_piece().transpose();
        self.failed = matches!(piece, Some(Err(_)));
        piece
    }
}

/// The working side; shared by all workers.
pub(super) struct Gather<'s> {
    pub tree: &'s SourceTree,
    pub store: &'s dyn Store,
    pub compression: Compression,
    // What the store says it has is read and hashed.
    prove: bool,
    pub progress: &'s dyn Progress,
    /// Chunks some worker is at and the store has not been handed yet.
    in_flight: Mutex<HashSet<ChunkId>>,
    buffers: &'s Buffers,
    frames: Buffers,
}

impl<'s> Gather<'s> {
    pub fn new(
        tree: &'s SourceTree,
        store: &'s dyn Store,
        options: &PublishOptions,
        progress: &'s dyn Progress,
        buffers: &'s Buffers,
    ) -> Self {
        Self {
            tree,
            store,
            compression: options.compression,
            prove: options.rehash,
            progress,
            in_flight: Mutex::default(),
            buffers,
            frames: Buffers::default(),
        }
    }

    pub fn work(&self, piece: Piece<'s>) -> Result<Gathered<'s>> {
        check(self.progress)?;
        let (plain, files) = match piece {
            Piece::Known(entry) => return Ok(Gathered::Known(entry)),
            Piece::Files(found) => self.read(found)?,
            Piece::Part { found, plain, lens, last } => (plain, vec![(found, lens, last)]),
        };
        let mut rest = plain.as_slice();
        let mut slices = Vec::new();
        let files = files
            .into_iter()
            .map(|(found, lens, last)| {
                let chunks = lens.into_iter().map(|len| {
                    let (slice, tail) = rest.split_at(len);
                    rest = tail;
                    let chunk = ChunkRef { id: ChunkId::of(slice), len: len as u32 };
                    slices.push((chunk, slice));
                    chunk
                });
                FileChunks { found, chunks: chunks.collect(), last }
            })
            .collect();
        let (new, damaged) = self.encode_lacking(&slices)?;
        self.progress.advance(plain.len() as u64);
        self.buffers.give(plain);
        Ok(Gathered::Read { files, new, damaged })
    }

    /// Hands new chunks to the store.
    pub fn put(&self, new: Vec<NewChunk>) -> Result<()> {
        self.store.put_chunks(&new)?;
        self.release(new.iter().map(|new| new.chunk.id).collect());
        new.into_iter().for_each(|new| self.frames.give(new.frame.into_bytes()));
        Ok(())
    }

    // All files after each other in one buffer, with the lengths of their chunks.
    #[allow(clippy::type_complexity)]
    fn read(&self, found: Vec<&'s Found>) -> Result<(Vec<u8>, Vec<(&'s Found, Vec<usize>, bool)>)> {
        let mut plain = self.buffers.take(PIECE_CAPACITY);
        let mut files = Vec::with_capacity(found.len());
        for found in found {
            let start = plain.len();
            let mut reader = self.tree.read(found)?;
            // A byte more shows that the file grew.
            plain.reserve(file_len(found) as usize + 1);
            while reader.read_spare(&mut plain).at("read", found.path.as_str())? > 0 {}
            reader.finish()?;
            let lens = cut_all(plain.get(start..).unwrap_or_default(), true);
            files.push((found, lens, true));
        }
        Ok((plain, files))
    }

    // Claimed before the store is asked: so whatever another worker claimed earlier is either in flight, and not
    // claimed here, or in the store by now.
    fn encode_lacking(&self, slices: &[(ChunkRef, &[u8])]) -> Result<(Vec<NewChunk>, Vec<ChunkId>)> {
        let claimed: Vec<_> = {
            let mut in_flight = self.in_flight();
            slices.iter().filter(|(chunk, _)| in_flight.insert(chunk.id)).collect()
        };
        let ids: Vec<_> = claimed.iter().map(|(chunk, _)| chunk.id).collect();
        let proofs = match self.prove {
            true => self.store.prove_chunks(&ids)?,
            false => self.store.lacks_chunks(&ids)?.into_iter().map(Proof::trusted).collect(),
        };
        let (mut new, mut damaged, mut known) = (Vec::new(), Vec::new(), Vec::new());
        for ((chunk, plain), proof) in claimed.into_iter().zip(proofs) {
            if proof == Proof::Damaged {
                damaged.push(chunk.id);
            }
            if proof != Proof::Sound {
                new.push(NewChunk {
                    chunk: *chunk,
                    frame: Frame::encode_in(self.frames.take(plain.len() + 1), plain, self.compression),
                });
            } else {
                known.push(chunk.id);
            }
        }
        self.release(known);
        Ok((new, damaged))
    }

    fn in_flight(&self) -> MutexGuard<'_, HashSet<ChunkId>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, ids: Vec<ChunkId>) {
        let mut in_flight = self.in_flight();
        for id in ids {
            in_flight.remove(&id);
        }
    }
}

fn file_len(found: &Found) -> u64 {
    match found.kind {
        FoundKind::File { len, .. } => len,
        FoundKind::Symlink { .. } | FoundKind::Dir { .. } => 0,
    }
}

/// What a path becomes when there is nothing to read.
pub(super) fn without_content(found: &Found) -> Option<Entry> {
    use crate::version::EntryKind;
    let kind = match &found.kind {
        FoundKind::File { .. } => return None,
        FoundKind::Symlink { target } => EntryKind::Symlink { target: target.clone() },
        FoundKind::Dir { mode } => EntryKind::Dir { mode: *mode },
    };
    Some(Entry { path: found.path.clone(), kind })
}

/// The mode of a found file.
pub(super) fn file_mode(found: &Found) -> Result<u16> {
    match found.kind {
        FoundKind::File { mode, .. } => Ok(mode),
        _ => Err(Error::Changed { path: found.path.as_str().into() }),
    }
}
