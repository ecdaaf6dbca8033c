//! What turns the tree of one version into that of another, as bytes: edits of entries in path order, and for a file
//! with other content where its chunks come from. A format; FORMAT.md has every byte.
//!
//! Chunks are named by where they are in the base, or by their place among the new ones, never by their hash: the
//! edits of a small change are a few dozen bytes. Whoever applies them must arrive at the version that they
//! are for; nothing else proves them.

mod align;
mod apply;
mod format;
mod make;
mod orphans;
mod paths;

use crate::id::ChunkRef;

pub use apply::apply_edits;
pub use make::make_edits;
pub use orphans::{Orphans, Region};
pub use paths::edit_paths;

/// The way from a base to a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// The edits.
    pub bytes: Vec<u8>,
    /// Chunks of the target that are nowhere in the base; each once, in order of first use.
    pub new: Vec<ChunkRef>,
    /// Where the new chunks are, in the order of their numbers.
    pub regions: Vec<Region>,
    /// Chunks of the base that the edits leave behind, in path order. Empty if nothing is new.
    pub orphans: Vec<Orphans>,
}
