//! Files -> pieces of work: many small files together, a large one in parts. Reads, cuts, hashes and encodes;
//! knows nothing of manifests.
//!
//! Pieces are worked on by windows: the store is asked once what it lacks of a window. For a store at hand a window is
//! one piece, and its new chunks are put when it is drained, so they lie in the store in file order. For one that is far
//! windows are large, more threads work on them than there are processors, because most of them wait for an answer, and
//! each puts what it made: so questions and puts go on while others read and encode.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Claim;
use std::io::Read;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::content::{Chunker, Compression, Frame, cut};
use crate::error::{At, Error, Result};
use crate::flow::Flow;
use crate::id::{ChunkId, ChunkRef};
use crate::limits::FRAME_LEN_MAX;
use crate::progress::{Progress, check};
use crate::store::{NewChunk, Store};
use crate::tree::{FileReader, Found, FoundKind, SourceTree};
use crate::version::Entry;

/// Bytes of small files that are worked on together.
const GROUP_LEN: u64 = 512 << 10;
/// Most files worked on together.
const GROUP_COUNT: usize = 256;
/// Longest file that one worker reads whole; a longer one comes in parts of about this length.
const WHOLE_LEN_MAX: u64 = 1 << 20;
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
    large: Option<(&'s Found, Chunker<FileReader>)>,
    failed: bool,
    buffers: &'s Buffers,
}

/// Buffers used again: fresh memory costs a page fault for every 4 KiB, and so does memory that grows.
pub(super) struct Buffers {
    capacity: usize,
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// For pieces.
    pub fn new() -> Self {
        Self::of(WHOLE_LEN_MAX as usize + 1)
    }

    fn of(capacity: usize) -> Self {
        Self { capacity, free: Mutex::default() }
    }

    fn take(&self) -> Vec<u8> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Vec::with_capacity(self.capacity))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
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
        if let Some((found, chunker)) = self.large.take() {
            return self.next_part(found, chunker).map(Some);
        }
        let Some((found, known)) = self.next_found()? else { return Ok(None) };
        if let Some(entry) = known {
            return Ok(Some((Piece::Known(Box::new(entry)), 0)));
        }
        let len = file_len(found);
        if len > WHOLE_LEN_MAX {
            let chunker = Chunker::with_buffer(self.tree.read(found)?, self.buffers.take());
            return self.next_part(found, chunker).map(Some);
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

    fn next_part(&mut self, found: &'s Found, mut chunker: Chunker<FileReader>) -> Result<(Piece<'s>, u64)> {
        let (mut plain, mut lens) = (self.buffers.take(), Vec::new());
        plain.reserve(WHOLE_LEN_MAX as usize);
        let last = loop {
            let Some(chunk) = chunker.next_chunk().at("read", found.path.as_str())? else { break true };
            plain.extend_from_slice(chunk);
            lens.push(chunk.len());
            if plain.len() as u64 >= WHOLE_LEN_MAX - u64::from(crate::limits::CHUNK_LEN_MAX) {
                break false;
            }
        };
        if last {
            let (reader, buffer) = chunker.into_parts();
            self.buffers.give(buffer);
            reader.finish()?;
        } else {
            self.large = Some((found, chunker));
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
    pub progress: &'s dyn Progress,
    /// Chunks that the store has not been handed yet, with the window at them.
    in_flight: Mutex<HashMap<ChunkId, u64>>,
    far: bool,
    /// What was put.
    pub counts: Counts,
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
        compression: Compression,
        progress: &'s dyn Progress,
        buffers: &'s Buffers,
    ) -> Self {
        Self {
            tree,
            store,
            compression,
            progress,
            in_flight: Mutex::default(),
            far: store.is_far(),
            counts: Counts::default(),
            buffers,
            frames: Buffers::of(FRAME_LEN_MAX),
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
        self.counts.chunks.fetch_add(new.len() as u64, Relaxed);
        for new in new {
            self.counts.bytes.fetch_add(u64::from(new.chunk.len), Relaxed);
            self.counts.stored.fetch_add(new.frame.as_bytes().len() as u64, Relaxed);
            self.frames.give(new.frame.into_bytes());
        }
        Ok(())
    }

    // All files after each other in one buffer, with the lengths of their chunks.
    #[allow(clippy::type_complexity)]
    fn read(&self, found: Vec<&'s Found>) -> Result<(Vec<u8>, Vec<(&'s Found, Vec<usize>, bool)>)> {
        let mut plain = self.buffers.take();
        let mut files = Vec::with_capacity(found.len());
        for found in found {
            let start = plain.len();
            let len = file_len(found);
            let mut reader = self.tree.read(found)?;
            plain.reserve(len as usize + 1);
            (&mut reader).take(len + 1).read_to_end(&mut plain).at("read", found.path.as_str())?;
            reader.finish()?;
            let mut rest = plain.get(start..).unwrap_or_default();
            let mut lens = Vec::new();
            while !rest.is_empty() {
                let len = cut(rest);
                lens.push(len);
                rest = rest.get(len..).unwrap_or_default();
            }
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
        let lacks = self.store.lacks_chunks(&ids)?;
        let known = ids.iter().zip(&lacks).filter(|(_, lacks)| !**lacks).map(|(id, _)| *id);
        self.release(known.collect());
        let (mut new, mut bytes) = (Vec::new(), 0);
        for ((chunk, plain), _) in claimed.into_iter().zip(lacks).filter(|(_, lacks)| *lacks) {
            let frame = Frame::encode_in(self.frames.take(), plain, self.compression);
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
        let buffers = Buffers::new();
        let gather = Gather::new(&tree, &store, Compression::None, &Silent, &buffers);
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
