//! The records of the stream.

use bincode::{Decode, Encode};

use crate::codec::{FILED_HEADER_LEN, Kind, encode_filed};
use crate::error::Error;
use crate::id::{ChunkRef, VersionId};
use crate::limits::{DELTA_UNIT_BYTES_MAX, UNIT_BYTES_MAX, UNIT_CHUNKS_MAX};

pub(super) const HEADER: Kind = Kind { number: 0x14, name: "update header", format: 1 };
pub(super) const UNIT: Kind = Kind { number: 0x15, name: "update unit", format: 1 };
pub(super) const END: Kind = Kind { number: 0x16, name: "update end", format: 1 };
pub(super) const DELTA: Kind = Kind { number: 0x17, name: "update delta", format: 1 };
/// What errors call the whole.
pub(super) const STREAM: &str = "update stream";

/// Most bytes of the bodies of a header and of an end; both are shorter.
pub(super) const SMALL_LEN_MAX: usize = 1 << 10;
/// Most bytes of a unit's body: its frames, and for each two lengths.
pub(super) const UNIT_LEN_MAX: usize = UNIT_BYTES_MAX as usize + UNIT_CHUNKS_MAX * (1 + 5 + 5) + 64;
/// Most stretches of one reference.
pub(super) const STRETCHES_MAX: usize = 16 << 10;
/// Most bytes of a delta's body.
pub(super) const DELTA_LEN_MAX: usize =
    DELTA_UNIT_BYTES_MAX as usize + UNIT_CHUNKS_MAX * (2 * 9 + 5) + STRETCHES_MAX * (1 + 3 * 9) + 128;
/// Most bytes of a unit as sent.
pub const UNIT_RECORD_LEN_MAX: usize = FILED_HEADER_LEN + DELTA_LEN_MAX;
const _: () = assert!(DELTA_LEN_MAX > UNIT_LEN_MAX);

/// zstd's window in the frame of the edits, as a power of two: what a reader sets aside before it knows more.
pub(super) const EDITS_WINDOW_LOG_MAX: u32 = 23;

/// What a stream begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct UpdateHeader {
    /// The base; `None` is nothing at all.
    pub have: Option<VersionId>,
    /// The target.
    pub want: VersionId,
    /// Bytes of the edits.
    pub edits_len: u64,
    /// Bytes of the edits as they are sent.
    pub edits_zlen: u64,
    /// BLAKE3 of the edits, as they are before they are compressed.
    pub edits_hash: [u8; 32],
    /// Units of the whole update.
    pub units: u64,
    /// The first unit in this stream. The edits are in it only if this and `from_byte` are 0.
    pub from_unit: u64,
    /// Bytes that the first unit lacks at its beginning.
    pub from_byte: u64,
    /// Says that the units are deltas, and is the hash of how they were planned; otherwise they hold frames.
    pub plan: Option<[u8; 32]>,
}

impl UpdateHeader {
    /// The edits follow it.
    pub(super) fn brings_edits(&self) -> bool {
        (self.from_unit, self.from_byte) == (0, 0)
    }

    /// Both are of one update: what was received of one can be continued with the other.
    pub fn continues(&self, other: &UpdateHeader) -> bool {
        let key = |header: &Self| (header.have, header.want, header.edits_hash, header.units, header.plan);
        key(self) == key(other)
    }
}

/// Some chunks, in order of their first use in the target.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct UnitRecord {
    pub index: u64,
    /// Of each chunk the bytes of its content, and of its frame.
    pub chunks: Vec<(u32, u32)>,
    /// The frames, one after the other.
    pub frames: Vec<u8>,
}

/// Some chunks, told by others.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct DeltaRecord {
    pub index: u64,
    /// Runs of the numbers of its chunks among the new ones, in the order in which they are coded.
    pub chunks: Vec<(u64, u64)>,
    /// Bytes of each chunk.
    pub lens: Vec<u32>,
    /// What the reference is put together from.
    pub reference: Vec<Reference>,
    /// BLAKE3 of the content of all its chunks.
    pub hash: [u8; 32],
    pub delta: Vec<u8>,
}

/// A stretch of a unit's reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Reference {
    /// Chunks of the old file at the path of an edit.
    Old {
        /// The edit's number.
        edit: u64,
        /// The place of the first chunk in the file.
        first: u64,
        /// How many.
        count: u64,
    },
    /// New chunks of earlier units.
    New {
        /// The number of the first.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// What a whole stream ends with.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct EndRecord {
    pub want: VersionId,
    pub units: u64,
}

/// Cuts chunks into units: each takes chunks while it has at most [`UNIT_CHUNKS_MAX`] of them and
/// [`UNIT_BYTES_MAX`] plain bytes.
pub(in crate::sync) fn units(chunks: &[ChunkRef]) -> impl Iterator<Item = &[ChunkRef]> {
    let mut rest = chunks;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |chunk: &&ChunkRef| {
            bytes += u64::from(chunk.len);
            bytes <= UNIT_BYTES_MAX
        };
        let count = rest.iter().take(UNIT_CHUNKS_MAX).take_while(fits).count();
        // One chunk alone is never over the bound.
        let (unit, later) = rest.split_at(count.max(usize::from(!rest.is_empty())));
        rest = later;
        (!unit.is_empty()).then_some(unit)
    })
}

/// Bytes of a whole stream with this header, whose new chunks are `new`. `frame_len` says how long their frames are.
pub(in crate::sync) fn stream_len(
    header: &UpdateHeader,
    new: &[ChunkRef],
    frame_len: impl Fn(&ChunkRef) -> u32,
) -> u64 {
    let head = encode_filed(HEADER, &UpdateHeader { from_unit: 0, from_byte: 0, ..*header }).len() as u64;
    let end = encode_filed(END, &EndRecord { want: header.want, units: header.units }).len() as u64;
    let unit = |(index, chunks): (u64, &[ChunkRef])| {
        let chunks: Vec<_> = chunks.iter().map(|chunk| (chunk.len, frame_len(chunk))).collect();
        let frames: u64 = chunks.iter().map(|(_, frame)| u64::from(*frame)).sum();
        // Their count takes more than the one byte of nothing.
        let more = encode_filed(UNIT, &EndRecord { want: header.want, units: frames }).len() as u64;
        let least = encode_filed(UNIT, &EndRecord { want: header.want, units: 0 }).len() as u64;
        let record = UnitRecord { index, chunks, frames: Vec::new() };
        encode_filed(UNIT, &record).len() as u64 + (more - least) + frames
    };
    head + header.edits_zlen + (0..).zip(units(new)).map(unit).sum::<u64>() + end
}

pub(super) fn malformed(place: &str, reason: impl Into<String>) -> Error {
    Error::Malformed { kind: STREAM, place: place.to_owned(), reason: reason.into() }
}
