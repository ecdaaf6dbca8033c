//! Store -> store. Names in the order they were bound; for each version chunks, then nodes with children before
//! parents, then the name. So whatever stops it leaves the other store as sound as it was, and the next run finds what
//! is there already.
//!
//! What lies below a node is there for sure only if a name of the other store needs it: a sweep may be under way, and
//! takes nodes in any order. So the walk stops where it meets a bound version of the same app. Below other nodes it goes on,
//! and asks after each node and chunk, which also keeps them from being swept; those that are there are not copied.

use std::collections::HashSet;

use crate::content::{Chunk, Frame};
use crate::error::{Error, Result};
use crate::flow::{Flow, Push, pushed};
use crate::id::{ChunkRef, NodeId, VersionId};
use crate::limits::{NODE_LEN_MAX, TREE_HEIGHT_MAX};
use crate::progress::{Phase, Progress, check};
use crate::store::{Name, NameRecord, NewChunk, Source, Store};
use crate::version::{Manifest, Node, NodeSource};

use super::wire::read_again;
use super::{MirrorOptions, Mirrored};

const DEPTH_MAX: usize = 2 * TREE_HEIGHT_MAX as usize + 4;
const NODES_PER_READ: usize = 2048;
const NODES_PER_READ_MIN: usize = 16;
// Nodes that wait for what is below them fill at most this: the fuller it is, the smaller are the batches below.
const WAITING_BYTES_MAX: usize = NODES_PER_READ * NODE_LEN_MAX;
// Nodes that are put together.
const READY_BYTES_MAX: usize = 4 << 20;
const READY_MAX: usize = 2048;
const CHUNKS_PER_READ: usize = 64 << 10;
const PUT_CHUNKS_MAX: usize = 256;
const PUT_BYTES_MAX: u64 = 2 << 20;
// Threads more than processors where most of them wait.
const FAR_THREADS: usize = 3;
// So much is lost at most when the process is killed.
const FLUSH_BYTES: u64 = 256 << 20;

/// Copies `names` of `source`, or all of them, with what they need into `dest`. Names that `dest` has are skipped; one
/// that is bound to another version there is [`Error::Conflict`], and so ends the mirror after those before it are
/// done. Stopped at any moment it continues when run again.
///
/// Memory: 32 bytes for each node of a version that is not shared with what is there, the chunks in flight, and at most
/// 128 MiB of nodes.
pub fn mirror(
    source: &dyn Source,
    dest: &dyn Store,
    names: &[Name],
    options: &MirrorOptions,
    progress: &dyn Progress,
) -> Result<Mirrored> {
    let mut mirrored = Mirrored::default();
    let records = wanted(source, names)?;
    progress.phase(Phase::Mirror, None);
    for record in records {
        check(progress)?;
        match dest.resolve(&record.name)? {
            Some(there) => {
                there.refuse_other(record.version, &dest.place())?;
                mirrored.names_unchanged += 1;
                continue;
            }
            None => copy(source, dest, &record, options, progress, &mut mirrored)?,
        }
        dest.bind(&record.name, record.version, record.bound_unix_s)?;
        mirrored.names += 1;
    }
    Ok(mirrored)
}

// In the order they were bound.
fn wanted(source: &dyn Source, names: &[Name]) -> Result<Vec<NameRecord>> {
    if names.is_empty() {
        return source.names(None);
    }
    let mut records = Vec::with_capacity(names.len());
    for name in names {
        let record = source.resolve(name)?;
        let (what, place) = (format!("name `{name}`"), source.place());
        records.push(record.ok_or(Error::NotFound { what, place })?);
    }
    records.sort_by_key(|record| record.sequence);
    records.dedup_by_key(|record| record.sequence);
    Ok(records)
}

fn copy(
    source: &dyn Source,
    dest: &dyn Store,
    record: &NameRecord,
    options: &MirrorOptions,
    progress: &dyn Progress,
    mirrored: &mut Mirrored,
) -> Result<()> {
    let bound = dest.names(Some(record.name.app()))?;
    if bound.iter().any(|there| there.version == record.version) {
        return Ok(());
    }
    let more = if dest.is_far() { FAR_THREADS } else { 0 };
    let threads = options.threads.saturating_add(more);
    let flow = Flow { threads, weight_max: options.in_flight_bytes_max.max(1) };
    let near = Near::new(bound.last().map(|there| there.version));
    let seen = HashSet::new();
    let mut copy = Copy {
        source,
        dest,
        flow,
        progress,
        near,
        seen,
        waiting: 0,
        chunks: Vec::new(),
        ready: Vec::new(),
        ready_bytes: 0,
        unflushed: 0,
        mirrored,
    };
    let copied = copy.run(record);
    if copied.is_err() {
        // What came is there for the next run; what went wrong has been told already.
        let _ = dest.flush();
    }
    copied
}

/// A version that a name of the other store needs, read as far down as it differs from the one that is copied.
struct Near {
    // Nodes of it met so far: below each of them everything is there.
    known: HashSet<NodeId>,
    // Those of the level that was met last.
    level: Vec<NodeId>,
}

impl Near {
    fn new(version: Option<VersionId>) -> Near {
        let level: Vec<_> = version.iter().map(VersionId::root).collect();
        Near { known: level.iter().copied().collect(), level }
    }

    // Goes one level down below all that is not in `shared`.
    fn descend(&mut self, dest: &dyn NodeSource, shared: &HashSet<NodeId>) -> Result<()> {
        let level = std::mem::take(&mut self.level);
        let ids: Vec<_> = level.into_iter().filter(|id| !shared.contains(id)).collect();
        let (place, known, next) = (dest.place(), &mut self.known, &mut self.level);
        for ids in ids.chunks(NODES_PER_READ) {
            dest.read_nodes(ids, &mut |index, bytes| {
                let (Some(&id), Some(bytes)) = (ids.get(index), bytes) else { return Ok(()) };
                // A damaged node only makes more to be asked.
                if let Ok(node) = Node::open(id, &bytes, &place) {
                    next.extend(node.children().into_iter().filter(|child| known.insert(*child)));
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

struct Copy<'a> {
    source: &'a dyn Source,
    dest: &'a dyn Store,
    flow: Flow,
    progress: &'a dyn Progress,
    near: Near,
    // Put already, or found to be there with all that is below.
    seen: HashSet<NodeId>,
    // Bytes of nodes read and not put yet.
    waiting: usize,
    // Not asked after yet. Copied before any node is put.
    chunks: Vec<ChunkRef>,
    // What is below them is put, or is before them here.
    ready: Vec<(NodeId, Vec<u8>)>,
    ready_bytes: usize,
    unflushed: u64,
    mirrored: &'a mut Mirrored,
}

#[derive(Default)]
struct Batch {
    nodes: Vec<(NodeId, Vec<u8>)>,
    children: Vec<NodeId>,
    chunks: Vec<ChunkRef>,
}

impl Copy<'_> {
    fn run(&mut self, record: &NameRecord) -> Result<()> {
        let root = record.version.root();
        self.below(&[root], 0)?;
        self.put_ready()?;
        // A node with a valid hash is not yet a version.
        Manifest::open(self.dest, record.version)?;
        self.mirrored.versions += 1;
        Ok(())
    }

    fn below(&mut self, ids: &[NodeId], depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            let what = format!("depth of the tree in {}", self.source.place());
            return Err(Error::Limit { what, actual: depth as u64, max: DEPTH_MAX as u64 });
        }
        if !self.near.level.is_empty() && !ids.is_empty() {
            self.near.descend(self.dest, &ids.iter().copied().collect())?;
        }
        let mut rest = ids;
        while !rest.is_empty() {
            check(self.progress)?;
            let room = WAITING_BYTES_MAX.saturating_sub(self.waiting) / NODE_LEN_MAX;
            let count = room.clamp(NODES_PER_READ_MIN, NODES_PER_READ).min(rest.len());
            let (ids, later) = rest.split_at(count);
            rest = later;
            let mut met = HashSet::new();
            let new =
                |id: &&NodeId| !self.seen.contains(*id) && !self.near.known.contains(*id) && met.insert(**id);
            let ids: Vec<NodeId> = ids.iter().filter(new).copied().collect();
            if !ids.is_empty() {
                self.settle(&ids, depth)?;
            }
        }
        Ok(())
    }

    fn settle(&mut self, ids: &[NodeId], depth: usize) -> Result<()> {
        let lacks = self.dest.lacks_nodes(ids)?;
        let (mut lacking, mut there) = (Vec::new(), Vec::new());
        for (id, lacks) in ids.iter().zip(lacks) {
            if lacks { lacking.push(*id) } else { there.push(*id) }
        }
        let mut batch = Batch::default();
        let found = read(self.dest, &there, &mut batch)?;
        // What is there needs no copy, only what is below it; what is damaged there is for a repair.
        let kept: HashSet<NodeId> = batch.nodes.drain(..).map(|(id, _)| id).collect();
        if let Some(id) = found.into_iter().next() {
            return Err(damaged(id, &self.dest.place()));
        }
        let missing = read(self.source, &lacking, &mut batch)?;
        if let Some(id) = missing.into_iter().next() {
            return Err(damaged(id, &self.source.place()));
        }
        let bytes: usize = batch.nodes.iter().map(|(_, bytes)| bytes.len()).sum();
        self.waiting += bytes;
        self.chunks.append(&mut batch.chunks);
        if self.chunks.len() >= CHUNKS_PER_READ {
            self.copy_chunks()?;
        }
        self.below(&std::mem::take(&mut batch.children), depth + 1)?;
        self.waiting -= bytes;
        self.seen.extend(kept);
        self.put(batch.nodes)
    }

    fn put(&mut self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        for (id, bytes) in nodes {
            // One that something below has as well is here already.
            if !self.seen.insert(id) {
                continue;
            }
            self.ready_bytes += bytes.len();
            self.ready.push((id, bytes));
            if self.ready_bytes >= READY_BYTES_MAX || self.ready.len() >= READY_MAX {
                self.put_ready()?;
            }
        }
        Ok(())
    }

    fn put_ready(&mut self) -> Result<()> {
        self.copy_chunks()?;
        let nodes = std::mem::take(&mut self.ready);
        if nodes.is_empty() {
            return Ok(());
        }
        self.mirrored.nodes += nodes.len() as u64;
        self.mirrored.bytes += std::mem::take(&mut self.ready_bytes) as u64;
        self.dest.put_nodes(nodes)
    }

    fn copy_chunks(&mut self) -> Result<()> {
        let chunks = std::mem::take(&mut self.chunks);
        for chunks in chunks.chunks(CHUNKS_PER_READ) {
            let mut met = HashSet::with_capacity(chunks.len());
            let chunks: Vec<_> = chunks.iter().filter(|chunk| met.insert(chunk.id)).copied().collect();
            let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
            let lacks = self.dest.lacks_chunks(&ids)?;
            let lacking: Vec<_> =
                chunks.into_iter().zip(lacks).filter_map(|(chunk, lacks)| lacks.then_some(chunk)).collect();
            if !lacking.is_empty() {
                self.copy_lacking(&lacking)?;
            }
        }
        Ok(())
    }

    // Frames go as they are, once they were opened for proof.
    fn copy_lacking(&mut self, lacking: &[ChunkRef]) -> Result<()> {
        let (source, dest, progress, place) = (self.source, self.dest, self.progress, self.source.place());
        let (mirrored, unflushed) = (&mut *self.mirrored, &mut self.unflushed);
        let far = dest.is_far();
        // Into a store that is far each worker puts what it proved, and so several packs are on their way at once.
        let prove = |frames: Vec<(ChunkRef, Frame)>| {
            let prove = |(chunk, frame): (ChunkRef, Frame)| {
                let frame = match Chunk::open(frame.clone(), &chunk, &place) {
                    Err(Error::Damaged { .. }) => read_again(source, &chunk)?.1,
                    opened => opened.map(|_| frame)?,
                };
                Ok(NewChunk { chunk, frame })
            };
            let new = frames.into_iter().map(prove).collect::<Result<Vec<_>>>()?;
            let proven = Proven::of(&new);
            if far {
                dest.put_chunks(&new)?;
            }
            Ok((proven, if far { Vec::new() } else { new }))
        };
        let put = |(proven, new): (Proven, Vec<NewChunk>)| {
            check(progress)?;
            if !far {
                dest.put_chunks(&new)?;
            }
            mirrored.chunks += proven.chunks;
            mirrored.bytes += proven.bytes;
            progress.advance(proven.plain);
            *unflushed += proven.bytes;
            if *unflushed >= FLUSH_BYTES {
                *unflushed = 0;
                dest.flush()?;
            }
            Ok(())
        };
        pushed(self.flow, |push| read_frames(source, lacking, progress, push), prove, put)
    }
}

// Chunks that were proven: how many, their plain and their stored bytes.
struct Proven {
    chunks: u64,
    plain: u64,
    bytes: u64,
}

impl Proven {
    fn of(new: &[NewChunk]) -> Proven {
        let plain = new.iter().map(|new| u64::from(new.chunk.len)).sum();
        let bytes = new.iter().map(|new| new.frame.as_bytes().len() as u64).sum();
        Proven { chunks: new.len() as u64, plain, bytes }
    }
}

fn read_frames(
    source: &dyn Source,
    lacking: &[ChunkRef],
    progress: &dyn Progress,
    push: &mut Push<'_, Vec<(ChunkRef, Frame)>>,
) -> Result<()> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let mut got = vec![false; lacking.len()];
    let place = source.place();
    let missing = |chunk: &ChunkRef| {
        let (what, reason) = (format!("chunk {}", chunk.id), "missing".into());
        Error::Damaged { what, place: place.clone(), reason }
    };
    let read = source.read_chunks(lacking, &mut |index, frame| {
        check(progress)?;
        let (Some(chunk), Some(got)) = (lacking.get(index), got.get_mut(index)) else { return Ok(()) };
        if std::mem::replace(got, true) {
            return Ok(());
        }
        batch.push((*chunk, frame.ok_or_else(|| missing(chunk))?));
        bytes += 2 * u64::from(chunk.len);
        if bytes >= 2 * PUT_BYTES_MAX || batch.len() >= PUT_CHUNKS_MAX {
            push(std::mem::take(&mut batch), std::mem::take(&mut bytes))?;
        }
        Ok(())
    });
    // What came before it broke off need not come again.
    if !batch.is_empty() {
        push(batch, bytes)?;
    }
    read?;
    let lacking = lacking.iter().zip(&got).find(|(_, got)| !**got);
    lacking.map_or(Ok(()), |(chunk, _)| Err(missing(chunk)))
}

// Reads nodes into `batch`, in the order of `ids`, and returns those that are missing or damaged.
fn read(from: &dyn NodeSource, ids: &[NodeId], batch: &mut Batch) -> Result<Vec<NodeId>> {
    let place = from.place();
    let mut found: Vec<Option<(Vec<u8>, Node)>> = ids.iter().map(|_| None).collect();
    if !ids.is_empty() {
        from.read_nodes(ids, &mut |index, bytes| {
            if let (Some(&id), Some(slot), Some(bytes)) = (ids.get(index), found.get_mut(index), bytes) {
                let node = Node::open(id, &bytes, &place)?;
                *slot = Some((bytes, node));
            }
            Ok(())
        })?;
    }
    let mut missing = Vec::new();
    for (&id, found) in ids.iter().zip(found) {
        let Some((bytes, node)) = found else {
            missing.push(id);
            continue;
        };
        batch.children.extend(node.children());
        batch.chunks.extend(node.chunks());
        batch.nodes.push((id, bytes));
    }
    Ok(missing)
}

fn damaged(id: NodeId, place: &str) -> Error {
    Error::Damaged { what: format!("node {id}"), place: place.to_owned(), reason: "missing".into() }
}
