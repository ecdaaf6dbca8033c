//! Where content lives. `Source` is read only, `Store` adds writing; both ask for many things at
//! once and receive through a callback. `MemStore` is the reference: every other store must be
//! indistinguishable from it (`testing::conformance`).

mod mem;
mod name;
#[cfg(feature = "client")]
mod remote;
#[cfg(feature = "rocks")]
mod rocks;
// Each end uses its own part.
#[cfg(feature = "client")]
#[cfg_attr(not(feature = "server"), allow(dead_code))]
pub(crate) mod wire;

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use crate::content::{Chunk, Frame};
use crate::delta::Profile;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkRef, NodeId, VersionId};
use crate::version::{Node, NodeSource};

pub use mem::MemStore;
pub use name::{AppName, Name, NameRecord};
#[cfg(feature = "client")]
pub use remote::{
    ClientPem, Counters, Now, RemoteAddress, RemoteOptions, RemoteScheme, RemoteStore, Retries, Token, Wait,
};
#[cfg(feature = "rocks")]
pub use rocks::{RocksOptions, RocksStore};
#[cfg(all(feature = "rocks", feature = "testing"))]
pub(crate) use rocks::{format_number, location_again, name_again, name_value};

/// Where versions can be read from.
pub trait Source: NodeSource + Send {
    /// Calls `each(index, frame)` once for every chunk, in any order; `None` is a chunk that is not there.
    /// Frames are unproven: [`crate::content::Chunk::open`] them.
    fn read_chunks(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<()>;
    /// Length of each chunk's frame as stored; `None` for a chunk that is not there.
    fn frame_lens(&self, ids: &[ChunkId]) -> Result<Vec<Option<u32>>>;
    /// The directory it lies in, if that is on this machine.
    fn local_dir(&self) -> Option<PathBuf> {
        None
    }
    /// What `name` is bound to.
    fn resolve(&self, name: &Name) -> Result<Option<NameRecord>>;
    /// All names, or those of one app, in the order they were bound.
    fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>>;
    /// The update stream of `ask`, or `None` if this source makes none, or none from that base: then the nodes and
    /// chunks are asked for one by one.
    fn update(&self, ask: &UpdateAsk) -> Result<Option<Box<dyn Read + Send + '_>>> {
        let _ = ask;
        Ok(None)
    }
}

/// Which update is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateAsk {
    /// The base; `None` is nothing at all.
    pub have: Option<VersionId>,
    /// The target.
    pub want: VersionId,
    /// The first unit to send. The edits are sent only with the first byte of unit 0.
    pub from_unit: u64,
    /// Bytes of the first unit that are here already: it is sent without them.
    pub from_byte: u64,
    /// How new chunks may be told: as deltas in this profile, or as the frames that the store holds.
    pub profile: Option<Profile>,
}

/// A chunk on its way into a store.
#[derive(Debug, Clone)]
pub struct NewChunk {
    /// Its name and plain length.
    pub chunk: ChunkRef,
    /// Its bytes; the caller proved them.
    pub frame: Frame,
}

/// What a store has of a chunk or node, by reading and hashing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// It is what its id says.
    Sound,
    /// It is not here.
    Absent,
    /// It is here, or a record says so, and it cannot be read or is something else.
    Damaged,
}

impl Proof {
    /// What a store says, taken for true.
    pub(crate) fn trusted(lacks: bool) -> Proof {
        if lacks { Proof::Absent } else { Proof::Sound }
    }

    pub(crate) fn of_chunk(chunk: &ChunkRef, frame: Frame) -> Proof {
        Chunk::open(frame, chunk, "").map_or(Proof::Damaged, |_| Proof::Sound)
    }

    pub(crate) fn of_node(id: NodeId, bytes: &[u8]) -> Proof {
        Node::open(id, bytes, "").map_or(Proof::Damaged, |_| Proof::Sound)
    }
}

/// What a sweep found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Chunks still needed.
    pub chunks_live: u64,
    /// Chunks marked for removal by this sweep or an earlier one, still within the grace period.
    pub chunks_condemned: u64,
    /// Chunks removed.
    pub chunks_removed: u64,
    /// Nodes removed.
    pub nodes_removed: u64,
    /// Stored bytes of the chunks removed.
    pub bytes_removed: u64,
    /// Stored bytes of the chunks condemned.
    pub bytes_condemned: u64,
}

impl Swept {
    pub(crate) fn count_chunk(&mut self, verdict: Verdict, bytes: u64) {
        match verdict {
            Verdict::Keep => self.chunks_live += 1,
            Verdict::Condemn | Verdict::Wait => {
                self.chunks_condemned += 1;
                self.bytes_condemned += bytes;
            }
            Verdict::Remove => {
                self.chunks_removed += 1;
                self.bytes_removed += bytes;
            }
        }
    }
}

impl NameRecord {
    // A name is for good: binding it again to anything else is refused.
    pub(crate) fn refuse_other(&self, version: VersionId, place: &str) -> Result<()> {
        if self.version == version {
            return Ok(());
        }
        Err(Error::Conflict {
            what: format!("name `{}`", self.name),
            place: place.to_owned(),
            reason: format!("it is bound to version {}, not {version}", self.version),
        })
    }
}

/// What a sweep keeps, and since when the rest must have been condemned.
pub struct SweepOptions<'a> {
    /// True for chunks that a kept version uses.
    pub chunk_live: &'a dyn Fn(&ChunkId) -> bool,
    /// True for nodes that a kept version uses.
    pub node_live: &'a dyn Fn(&NodeId) -> bool,
    /// Now, in seconds since 1970.
    pub now_unix_s: u64,
    /// How long something stays condemned before it is removed. Zero removes at once and is safe only while
    /// no publisher uses the store.
    pub grace: Duration,
    /// Count only; change nothing.
    pub dry_run: bool,
}

/// What a sweep does with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Needed. Its mark, if it has one, goes.
    Keep,
    /// Not needed, and marked from now on.
    Condemn,
    /// Not needed, marked earlier, still within the grace period.
    Wait,
    /// Not needed for longer than the grace period.
    Remove,
}

impl SweepOptions<'_> {
    /// Decides about a thing that was condemned at `mark`, in seconds since 1970.
    pub(crate) fn verdict(&self, live: bool, mark: Option<u64>) -> Verdict {
        let grace = self.grace.as_secs();
        match mark {
            _ if live => Verdict::Keep,
            _ if self.grace.is_zero() => Verdict::Remove,
            None => Verdict::Condemn,
            Some(mark) if self.now_unix_s.saturating_sub(mark) >= grace => Verdict::Remove,
            Some(_) => Verdict::Wait,
        }
    }
}

// Roots are removed before the nodes below them, so that a sweep that stops half-way leaves no root whose nodes
// are gone.
pub(crate) use crate::version::ROOT_NODE_KIND;

/// A source that can be written. Writers keep the order chunks, nodes, name: a durable name refers only to
/// durable nodes, a durable node only to durable chunks.
pub trait Store: Source {
    /// True where every question costs a round trip: then many things are best asked about at once, and from several
    /// threads, which wait more than they work.
    fn is_far(&self) -> bool {
        false
    }
    /// For each id, true if it must be put. What is here but condemned is reprieved, so that a publisher may
    /// rely on it.
    fn lacks_chunks(&self, ids: &[ChunkId]) -> Result<Vec<bool>>;
    /// The same for nodes.
    fn lacks_nodes(&self, ids: &[NodeId]) -> Result<Vec<bool>>;
    /// The same, but no record is trusted: what is here is read and opened, one thing at a time. What is damaged must be
    /// put as well as what is absent; the store counts it as lacking from then on, and putting it overwrites it.
    fn prove_chunks(&self, ids: &[ChunkId]) -> Result<Vec<Proof>>;
    /// The same for nodes.
    fn prove_nodes(&self, ids: &[NodeId]) -> Result<Vec<Proof>>;
    /// Keeps chunks, in the order given. Keeping one again changes nothing. Not durable before [`Store::bind`] or
    /// [`Store::flush`].
    fn put_chunks(&self, chunks: &[NewChunk]) -> Result<()>;
    /// Keeps nodes; the same rules.
    fn put_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()>;
    /// Makes everything put so far durable.
    fn flush(&self) -> Result<()>;
    /// Binds a name, after making everything put before durable. To the same version again: fine, returns the
    /// first record. To another: [`crate::Error::Conflict`]. The version's root must be here.
    fn bind(&self, name: &Name, version: VersionId, now_unix_s: u64) -> Result<NameRecord>;
    /// Forgets names, durably. Names that are not there are skipped.
    fn unbind(&self, names: &[Name]) -> Result<()>;
    /// Removes what is not live; see [`SweepOptions`]. Roots first, then other nodes, then chunks.
    fn sweep(&self, options: &SweepOptions<'_>) -> Result<Swept>;
    /// Calls `each` with every chunk kept, in stored order, and leaves out those whose record is damaged: what must be
    /// there follows from the nodes. For verify.
    fn each_chunk(&self, each: &mut dyn FnMut(ChunkRef) -> Result<()>) -> Result<()>;
    /// Calls `each` with every node kept, in any order.
    fn each_node(&self, each: &mut dyn FnMut(NodeId) -> Result<()>) -> Result<()>;
    /// Says what of the store's own records cannot be read, if anything: putting chunks and nodes again does not mend
    /// it, and a sweep stops there. For verify.
    fn damaged_records(&self) -> Result<Option<String>>;
    /// True if names may have been lost with records that could not be read, and [`Store::settle`] was not called since.
    /// For repair.
    fn names_lost(&self) -> Result<bool> {
        Ok(false)
    }
    /// Ends a repair that found everything: names are not looked for any more, and what was put aside is removed.
    fn settle(&self) -> Result<()> {
        Ok(())
    }
    /// Overwrites damaged chunks with proven ones, durably. For repair.
    fn replace_chunks(&self, chunks: &[NewChunk]) -> Result<()>;
    /// Overwrites damaged nodes with proven ones, durably. For repair.
    fn replace_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()>;
    /// Bytes on disk, as the store counts them; also what a write that was stopped left there.
    fn stored_bytes(&self) -> Result<u64>;
}

#[cfg(test)]
mod tests {
    use super::ROOT_NODE_KIND;
    use crate::content::CutParams;
    use crate::error::Result;
    use crate::id::NodeId;
    use crate::version::{Entry, EntryKind, ManifestBuilder, NodeSink, RelPath};

    struct Seen(Vec<(NodeId, u8)>);

    impl NodeSink for Seen {
        fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
            self.0.extend(bytes.first().map(|first| (id, *first)));
            Ok(())
        }
    }

    #[test]
    fn a_root_is_told_by_its_first_byte() {
        let mut seen = Seen(Vec::new());
        let mut builder = ManifestBuilder::new(CutParams::V1, &mut seen);
        let path = RelPath::parse("a").expect("a path");
        builder.push(Entry { path, kind: EntryKind::Dir { mode: 0o755 } }).expect("in order");
        let (version, _) = builder.finish().expect("built");
        assert!(seen.0.len() > 1, "a root and a page");
        for (id, first) in seen.0 {
            assert_eq!(first == ROOT_NODE_KIND, id == version.root());
        }
    }
}
