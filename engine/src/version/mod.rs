//! Trees as values. A version is the root of a canonical search tree over paths; a large file
//! carries its own subtree of chunks. Pure: nodes come and go through two tiny traits.

mod build;
mod chunks;
mod cursor;
mod delta;
mod edits;
mod entry;
mod manifest;
mod node;
mod page;
mod path;
mod plan;

pub use chunks::{ChunkDiff, diff_chunks};
pub use delta::{Change, Delta, diff};
pub use edits::{Edits, Orphans, Region, apply_edits, edit_paths, make_edits};
pub(crate) use entry::DIR_MODE;
pub use entry::{Content, Entry, EntryKind};
pub use manifest::{ChunkListBuilder, Manifest, ManifestBuilder, Totals};
pub(crate) use node::ROOT_NODE_KIND;
pub use node::{Node, NodeSink, NodeSource};
pub use path::RelPath;
pub(crate) use path::STATE_DIR;
pub use plan::{Plan, PlanTotals, Step};
