//! What a verb receives from a source, counted: every frame and node, in bytes as received, and every request.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::content::{Chunk, Frame};
use crate::error::{Error, Result};
use crate::id::{ChunkRef, NodeId};
use crate::progress::{Progress, check};
use crate::store::{AppName, Name, NameRecord, Source};
use crate::tree::Fetch;
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
}

/// The trust door between a source and a tree.
pub(super) struct Door<'s> {
    pub source: &'s Counted<'s>,
    pub progress: &'s dyn Progress,
}

impl Fetch for Door<'_> {
    fn fetch(&self, want: &[ChunkRef], each: &mut dyn FnMut(usize, Chunk) -> Result<()>) -> Result<()> {
        check(self.progress)?;
        let place = self.source.place();
        self.source.read_chunks(want, &mut |index, frame| {
            let Some(chunk) = want.get(index) else { return Ok(()) };
            let frame = frame.ok_or_else(|| Error::Damaged {
                what: format!("chunk {}", chunk.id),
                place: place.clone(),
                reason: "missing".into(),
            })?;
            each(index, Chunk::open(frame, chunk, &place)?)
        })
    }
}
