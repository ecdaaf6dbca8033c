//! The update stream: what turns one version into another, for a receiver that has the first. A header, the edits of
//! the tree, then the chunks that it lacks in numbered units, then an end. A format; FORMAT.md has every byte.
//!
//! No chunk hashes travel: the receiver names the chunks by their content, carries out the edits with them, and must
//! arrive at the version it asked for. Where units end follows from the chunks alone, not from how they are stored, so
//! unit 7 of an update is the same chunks from every store that has both versions.

mod deltas;
mod format;
mod make;
mod read;

pub use format::{Reference, UNIT_RECORD_LEN_MAX, UpdateHeader};
pub(super) use format::{stream_len, units};
pub use make::{Update, make};
#[cfg(feature = "testing")]
pub(crate) use read::asked;
pub use read::{DeltaUnit, Unit, UnitFrame, UpdateReader};
