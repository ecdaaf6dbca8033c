//! What a verb receives from a source, counted: every frame and node, in bytes as received, and every request.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::content::{Chunk, Frame};
use crate::error::{Error, Result};
use crate::id::{ChunkRef, NodeId};
use crate::progress::{Progress, check};
use crate::store::{AppName, Name, NameRecord, Source, UpdateAsk};
use crate::tree::{Arrivals, Fetch};
use crate::version::NodeSource;

/// A source that counts what it hands out.
pub(super) struct Counted<'s> {
    source: &'s dyn Source,
    bytes: AtomicU64,
    chunks: AtomicU64,
    requests: AtomicU64,
}

impl<'s> Counted<'s> {
    pub fn new(source: &'s dyn Source) -> Self {
        Self { source, bytes: AtomicU64::new(0), chunks: AtomicU64::new(0), requests: AtomicU64::new(0) }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    pub fn chunks(&self) -> u64 {
        self.chunks.load(Relaxed)
    }

    /// Counts chunks that came in an update.
    pub fn count_chunks(&self, count: u64) {
        self.chunks.fetch_add(count, Relaxed);
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }
}

impl NodeSource for Counted<'_> {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        self.requests.fetch_add(1, Relaxed);
        self.source.read_nodes(ids, &mut |index, bytes| {
            self.bytes.fetch_add(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64), Relaxed);
            each(index, bytes)
        })
    }

    fn place(&self) -> String {
        self.source.place()
    }
}

impl Source for Counted<'_> {
    fn read_chunks(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<()> {
        self.requests.fetch_add(1, Relaxed);
        self.source.read_chunks(want, &mut |index, frame| {
            if let Some(frame) = &frame {
                self.bytes.fetch_add(frame.as_bytes().len() as u64, Relaxed);
                self.chunks.fetch_add(1, Relaxed);
            }
            each(index, frame)
        })
    }

    fn frame_lens(&self, ids: &[crate::id::ChunkId]) -> Result<Vec<Option<u32>>> {
        self.source.frame_lens(ids)
    }

    fn resolve(&self, name: &Name) -> Result<Option<NameRecord>> {
        self.source.resolve(name)
    }

    fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>> {
        self.source.names(app)
    }

    fn update(&self, ask: &UpdateAsk) -> Result<Option<Box<dyn Read + Send + '_>>> {
        let Some(stream) = self.source.update(ask)? else { return Ok(None) };
        self.requests.fetch_add(1, Relaxed);
        Ok(Some(Box::new(CountedRead { stream, bytes: &self.bytes })))
    }
}

struct CountedRead<'s> {
    stream: Box<dyn Read + Send + 's>,
    bytes: &'s AtomicU64,
}

impl Read for CountedRead<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.stream.read(into)?;
        self.bytes.fetch_add(got as u64, Relaxed);
        Ok(got)
    }
}

/// The trust door between a source and a tree. What arrived with an update is taken from there.
pub(super) struct Door<'s> {
    pub source: &'s Counted<'s>,
    pub arrivals: Option<&'s Arrivals>,
    pub progress: &'s dyn Progress,
}

impl Door<'_> {
    fn arrived(&self, chunk: &ChunkRef) -> Option<Frame> {
        self.arrivals.and_then(|arrivals| arrivals.frame(&chunk.id))
    }
}

impl Fetch for Door<'_> {
    fn fetch(&self, want: &[ChunkRef], each: &mut dyn FnMut(usize, Frame) -> Result<()>) -> Result<()> {
        let (mut rest, mut indexes) = (Vec::new(), Vec::new());
        for (index, chunk) in want.iter().enumerate() {
            check(self.progress)?;
            match self.arrived(chunk) {
                Some(frame) => each(index, frame)?,
                None => {
                    rest.push(*chunk);
                    indexes.push(index);
                }
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        let place = self.source.place();
        self.source.read_chunks(&rest, &mut |at, frame| {
            check(self.progress)?;
            let (Some(chunk), Some(&index)) = (rest.get(at), indexes.get(at)) else { return Ok(()) };
            each(index, frame.ok_or_else(|| missing(chunk, &place))?)
        })
    }

    // What arrived with an update was whole when it came, too.
    fn open(&self, want: &ChunkRef, frame: Frame) -> Result<Chunk> {
        match Chunk::open(frame, want, &self.source.place()) {
            Err(Error::Damaged { .. }) => read_again(self.source, want).map(|(chunk, _)| chunk),
            opened => opened,
        }
    }
}

/// How often a chunk is read that comes damaged.
const READS_MAX: u32 = 3;

/// Reads a chunk that came damaged again, with its frame: it may have been damaged on the way.
pub(super) fn read_again(source: &dyn Source, want: &ChunkRef) -> Result<(Chunk, Frame)> {
    let place = source.place();
    let mut reads = 1;
    loop {
        let mut again = None;
        source.read_chunks(&[*want], &mut |_, frame| {
            again = frame;
            Ok(())
        })?;
        let frame = again.ok_or_else(|| missing(want, &place))?;
        reads += 1;
        match Chunk::open(frame.clone(), want, &place) {
            Ok(chunk) => return Ok((chunk, frame)),
            Err(Error::Damaged { what, place, reason }) if reads == READS_MAX => {
                let reason = format!("{reason} ({READS_MAX} times, there or on the way)");
                return Err(Error::Damaged { what, place, reason });
            }
            Err(Error::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

fn missing(chunk: &ChunkRef, place: &str) -> Error {
    let what = format!("chunk {}", chunk.id);
    Error::Damaged { what, place: place.to_owned(), reason: "missing".into() }
}
