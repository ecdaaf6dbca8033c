//! What turns the tree of one version into that of another, as bytes: edits of entries in path order, and for a file
//! with other content where its chunks come from. A format; FORMAT.md has every byte.
//!
//! Chunks are named by where they are in the base, or by their place among the new ones, never by their hash: the
//! edits of a small change are a few dozen bytes. Whoever applies them must arrive at the version that they
//! are for; nothing else proves them.

use crate::error::Result;
use crate::id::{ChunkRef, VersionId};

use super::manifest::Manifest;
use super::node::NodeSink;

/// The way from a base to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edits {
    /// The edits.
    pub bytes: Vec<u8>,
    /// Chunks of the target that are nowhere in the base; each once, in order of first use.
    pub new: Vec<ChunkRef>,
}

/// Makes the edits that lead from `have`, or from nothing, to `want`; `None` if they would be beyond the limits
/// ([`crate::limits::EDITS_LEN_MAX`], [`crate::limits::EDITS_COUNT_MAX`], [`crate::limits::UPDATE_CHUNKS_MAX`]).
///
/// Reads O(changes x log n) nodes; only if a chunk may be new, one pass over all nodes of the base as well.
pub fn make_edits(have: Option<&Manifest<'_>>, want: &Manifest<'_>) -> Result<Option<Edits>> {
    let _ = (have, want);
    Ok(None)
}

/// Carries out edits and gives the nodes of what they arrive at to `sink`, children first; returns its id, which the
/// caller compares with the one it wants. `new` are the chunks that the edits count on, all of them. Nodes that
/// `have` has already are handed over too.
///
/// Reads all entries of `have`, and of its chunk trees only those of files that are edited. Bytes are hostile until
/// the id is right: work and memory are bounded by the limits and by the sizes of `have`.
pub fn apply_edits(
    bytes: &[u8],
    have: Option<&Manifest<'_>>,
    new: &[ChunkRef],
    sink: &mut dyn NodeSink,
    place: &str,
) -> Result<VersionId> {
    let _ = (bytes, have, new, sink, place);
    Err(crate::error::Error::Cancelled)
}
