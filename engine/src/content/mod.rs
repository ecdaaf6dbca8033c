//! Bytes -> chunks. Where a file is cut, how a chunk is stored, and the one door through which
//! stored bytes become trusted.

mod chunk;
mod chunker;
mod cut;

pub use chunk::{Chunk, Codec, Compression, Frame};
pub use chunker::Chunker;
pub use cut::{CutParams, cut, cut_all};
