//! Files -> pieces of work: many small files together, a large one in parts. Reads, cuts, hashes and encodes;
//! knows nothing of manifests.
//!
//! Pieces are worked on by windows: the store is asked once what it lacks of a window. For a store at hand a window is
//! one piece, and its new chunks are put when it is drained, so they lie in the store in file order. For one that is far
//! windows are large, more threads work on them than there are processors, because most of them wait for an answer, and
//! each puts what it made: so questions and puts go on while others read and encode.

use std::collections::hash_map::Entry as Claim;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::content::{Compression, Frame, cut_all};
use crate::error::{At, Error, Result};
use crate::flow::Flow;
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
const WHOLE_LEN_MAX: u64 = 1 << 20;
/// Of a piece: a byte more shows that a file grew.
const PIECE_CAPACITY: usize = WHOLE_LEN_MAX as usize + 1;
/// Capacities of buffers are multiples of it.
const BUFFER_STEP: usize = 16 << 10;
/// Most pieces in a window; most of those that need no reading weigh nothing.
const WINDOW_COUNT_MAX: usize = 64;
/// The first window for a store that is far, in plain bytes. Each is twice as large as the one before it, so that the
/// first answer comes early.
const FAR_WINDOW_MIN: u64 = 2 << 20;
const FAR_WINDOW_MAX: u64 = 16 << 20;
const FAR_WINDOW_COUNT_MAX: usize = 4096;
/// Threads more than processors where most of them wait.
const FAR_THREADS: usize = 3;
/// New chunks that are put together into a store that is far, in plain bytes.
const FAR_PUT_BYTES: u64 = 1 << 20;

/// What the feeding side hands to a worker.
pub(super) enum Piece<'s> {
    /// Nothing to read: a symlink, a directory, a file known to be unchanged.
    Known(Box<Entry>),
    /// Files to read whole, at most [`WHOLE_LEN_MAX`] bytes or one file of them.
    Files(Vec<&'s Found>),
    /// A part of a file, already read and cut.
    Part { found: &'s Found, plain: Vec<u8>, lens: Vec<usize>, last: bool },
}

/// Pieces that follow each other.
pub(super) struct Window<'s> {
    number: u64,
    pieces: Vec<Piece<'s>>,
}

/// What a worker hands to the draining side.
pub(super) struct Batch<'s> {
    /// Of its window, from 0 in order.
    pub number: u64,
    /// The last window that puts a chunk which this one has too. Its own number, if there is no later one.
    pub relies_on: u64,
    /// One for each piece.
    pub gathered: Vec<Gathered<'s>>,
    /// Chunks still to be put.
    pub new: Vec<NewChunk>,
}

/// What became of a piece.
pub(super) enum Gathered<'s> {
    /// As it came.
    Known(Box<Entry>),
    /// The chunks of each file or part, in order.
    Read(Vec<FileChunks<'s>>),
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

/// How pieces become windows.
#[derive(Clone, Copy)]
pub(super) struct Windows {
    far: bool,
    bytes_max: u64,
}

impl Windows {
    /// As is best for `store`. `in_flight_bytes_max` bounds the plain bytes of all windows together.
    pub fn of(store: &dyn Store, in_flight_bytes_max: u64) -> Windows {
        let bytes_max = (in_flight_bytes_max / 4).clamp(1, FAR_WINDOW_MAX);
        Windows { far: store.is_far(), bytes_max }
    }

    /// How they flow.
    pub fn flow(self, threads: NonZeroUsize, in_flight_bytes_max: u64) -> Flow {
        if self.far {
            let threads = threads.saturating_add(FAR_THREADS);
            return Flow { threads, weight_max: in_flight_bytes_max };
        }
        // More in flight than keeps every thread busy only falls out of the caches.
        let busy = (threads.get() as u64 + 2) * 2 * WHOLE_LEN_MAX;
        Flow { threads, weight_max: in_flight_bytes_max.min(busy) }
    }

    /// Windows and their weights.
    pub fn over<'s>(
        self,
        mut pieces: impl Iterator<Item = Result<(Piece<'s>, u64)>>,
    ) -> impl Iterator<Item = Result<(Window<'s>, u64)>> {
        let mut number = 0;
        let mut bytes_max = if self.far { FAR_WINDOW_MIN.min(self.bytes_max) } else { 1 };
        let count_max = if self.far { FAR_WINDOW_COUNT_MAX } else { WINDOW_COUNT_MAX };
        std::iter::from_fn(move || {
            let (mut window, mut weight) = (Vec::new(), 0);
            while weight < bytes_max && window.len() < count_max {
                match pieces.next() {
                    Some(Ok((piece, more))) => {
                        window.push(piece);
                        weight += more;
                    }
                    Some(Err(error)) => return Some(Err(error)),
                    None => break,
                }
            }
            if self.far {
                bytes_max = (2 * bytes_max).min(self.bytes_max);
            }
            number += 1;
            (!window.is_empty()).then_some(Ok((Window { number: number - 1, pieces: window }, weight)))
        })
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
    /// Chunks that the store has not been handed yet, with the window at them.
    in_flight: Mutex<HashMap<ChunkId, u64>>,
    far: bool,
    /// What was put, but for what was put again.
    pub counts: Counts,
    // Chunks that the store has damaged.
    damaged: Mutex<HashSet<ChunkId>>,
    buffers: &'s Buffers,
    frames: Buffers,
}

/// New chunks.
#[derive(Default)]
pub(super) struct Counts {
    pub chunks: AtomicU64,
    pub bytes: AtomicU64,
    pub stored: AtomicU64,
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
            far: store.is_far(),
            counts: Counts::default(),
            damaged: Mutex::default(),
            buffers,
            frames: Buffers::default(),
        }
    }

    pub fn work(&self, window: Window<'s>) -> Result<Batch<'s>> {
        let Window { number, pieces } = window;
        let (mut gathered, mut plains) = (Vec::with_capacity(pieces.len()), Vec::new());
        for piece in pieces {
            check(self.progress)?;
            let (plain, files) = match piece {
                Piece::Known(entry) => {
                    gathered.push(Gathered::Known(entry));
                    continue;
                }
                Piece::Files(found) => self.read(found)?,
                Piece::Part { found, plain, lens, last } => (plain, vec![(found, lens, last)]),
            };
            gathered.push(Gathered::Read(hashed(&plain, files)));
            plains.push(plain);
        }
        let slices = slices(&gathered, &plains);
        let (relies_on, new) = self.encode_lacking(number, &slices)?;
        for plain in plains {
            self.progress.advance(plain.len() as u64);
            self.buffers.give(plain);
        }
        Ok(Batch { number, relies_on, gathered, new })
    }

    /// Hands new chunks to the store.
    pub fn put(&self, new: Vec<NewChunk>) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        self.store.put_chunks(&new)?;
        self.release(new.iter().map(|new| new.chunk.id).collect());
        let damaged = self.damaged();
        for new in new {
            if !damaged.contains(&new.chunk.id) {
                self.counts.chunks.fetch_add(1, Relaxed);
                self.counts.bytes.fetch_add(u64::from(new.chunk.len), Relaxed);
                self.counts.stored.fetch_add(new.frame.as_bytes().len() as u64, Relaxed);
            }
            self.frames.give(new.frame.into_bytes());
        }
        Ok(())
    }

    /// Chunks that the store had damaged and that were put again.
    pub fn mended(self) -> Vec<ChunkId> {
        self.damaged.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
    }

    fn damaged(&self) -> MutexGuard<'_, HashSet<ChunkId>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
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
    // claimed here, or in the store by now. Returns the last window that is at one of the chunks, and those to put.
    fn encode_lacking(&self, number: u64, slices: &[(ChunkRef, &[u8])]) -> Result<(u64, Vec<NewChunk>)> {
        let mut relies_on = number;
        let claimed: Vec<_> = {
            let mut in_flight = self.in_flight();
            let mut claim = |id| match in_flight.entry(id) {
                Claim::Vacant(free) => {
                    free.insert(number);
                    true
                }
                Claim::Occupied(other) => {
                    relies_on = relies_on.max(*other.get());
                    false
                }
            };
            slices.iter().filter(|(chunk, _)| claim(chunk.id)).collect()
        };
        if claimed.is_empty() {
            return Ok((relies_on, Vec::new()));
        }
        let ids: Vec<_> = claimed.iter().map(|(chunk, _)| chunk.id).collect();
        let proofs = match self.prove {
            true => self.store.prove_chunks(&ids)?,
            false => self.store.lacks_chunks(&ids)?.into_iter().map(Proof::trusted).collect(),
        };
        let judged = || ids.iter().zip(&proofs);
        self.release(judged().filter(|(_, proof)| **proof == Proof::Sound).map(|(id, _)| *id).collect());
        self.damaged().extend(judged().filter(|(_, proof)| **proof == Proof::Damaged).map(|(id, _)| *id));
        let (mut new, mut bytes) = (Vec::new(), 0);
        for ((chunk, plain), _) in
            claimed.into_iter().zip(&proofs).filter(|(_, proof)| **proof != Proof::Sound)
        {
            let frame = Frame::encode_in(self.frames.take(plain.len() + 1), plain, self.compression);
            new.push(NewChunk { chunk: *chunk, frame });
            bytes += u64::from(chunk.len);
            if self.far && bytes >= FAR_PUT_BYTES {
                check(self.progress)?;
                self.put(std::mem::take(&mut new))?;
                bytes = 0;
            }
        }
        if self.far {
            self.put(std::mem::take(&mut new))?;
        }
        Ok((relies_on, new))
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<ChunkId, u64>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, ids: Vec<ChunkId>) {
        let mut in_flight = self.in_flight();
        for id in ids {
            in_flight.remove(&id);
        }
    }
}

// Names the chunks of files that lie after each other in `plain`.
fn hashed<'s>(mut plain: &[u8], files: Vec<(&'s Found, Vec<usize>, bool)>) -> Vec<FileChunks<'s>> {
    let mut name = |len: usize| {
        let (slice, rest) = plain.split_at(len);
        plain = rest;
        ChunkRef { id: ChunkId::of(slice), len: len as u32 }
    };
    let files = files.into_iter();
    files
        .map(|(found, lens, last)| FileChunks {
            found,
            chunks: lens.into_iter().map(&mut name).collect(),
            last,
        })
        .collect()
}

// Every chunk with its bytes, in order.
fn slices<'p>(gathered: &[Gathered<'_>], plains: &'p [Vec<u8>]) -> Vec<(ChunkRef, &'p [u8])> {
    let read = gathered.iter().filter_map(|gathered| match gathered {
        Gathered::Read(files) => Some(files),
        Gathered::Known(_) => None,
    });
    let mut slices = Vec::new();
    for (files, plain) in read.zip(plains) {
        let mut rest = plain.as_slice();
        for chunk in files.iter().flat_map(|file| &file.chunks) {
            let (slice, tail) = rest.split_at(chunk.len as usize);
            slices.push((*chunk, slice));
            rest = tail;
        }
    }
    slices
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::store::MemStore;

    #[test]
    fn a_window_knows_which_later_one_it_relies_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let (tree, store) = (SourceTree::open(dir.path()).expect("opened"), MemStore::default());
        let (buffers, options) = (Buffers::default(), PublishOptions::default());
        let gather = Gather::new(&tree, &store, &options, &Silent, &buffers);
        let slices: Vec<_> = [&b"one"[..], b"two", b"three"]
            .into_iter()
            .map(|plain| (ChunkRef { id: ChunkId::of(plain), len: plain.len() as u32 }, plain))
            .collect();
        // What is put later, what of it is new, and the window that is relied on.
        let (at_7, new_7) = gather.encode_lacking(7, &slices[..2]).expect("encoded");
        assert_eq!((at_7, new_7.len()), (7, 2));
        let (at_5, new_5) = gather.encode_lacking(5, &slices).expect("encoded");
        assert_eq!((at_5, new_5.len()), (7, 1));
        let (at_9, new_9) = gather.encode_lacking(9, &slices).expect("encoded");
        assert_eq!((at_9, new_9.len()), (9, 0));
        gather.put(new_7).expect("put");
        gather.put(new_5).expect("put");
        let (at_6, new_6) = gather.encode_lacking(6, &slices).expect("encoded");
        assert_eq!((at_6, new_6.len()), (6, 0));
        assert_eq!(gather.in_flight().len(), 0);
        assert_eq!(gather.counts.bytes.load(Relaxed), 11);
    }
}
