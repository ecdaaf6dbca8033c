//! The receiving end: proves each record before it leaves, and bounds each length before it reads. That units hold
//! the right chunks is proven only by the version that the edits arrive at.

use std::io::{self, Read};
use std::ops::Range;

use bincode::{Decode, Encode};

use super::format::{
    DELTA, DELTA_LEN_MAX, DeltaRecord, EDITS_WINDOW_LOG_MAX, END, EndRecord, HEADER, Reference,
    SMALL_LEN_MAX, STREAM, STRETCHES_MAX, UNIT, UNIT_LEN_MAX, UnitRecord, UpdateHeader, malformed,
};
use crate::codec::{self, FILED_HEADER_LEN, Kind};
use crate::content::{Chunk, Frame};
use crate::delta;
#[cfg(feature = "testing")]
use crate::delta::Profile;
use crate::error::{Error, Result};
use crate::limits::{
    CHUNK_LEN_MAX, DELTA_UNIT_BYTES_MAX, EDITS_LEN_MAX, FRAME_LEN_MAX, UNIT_BYTES_MAX, UNIT_CHUNKS_MAX,
    UPDATE_CHUNKS_MAX,
};
use crate::store::UpdateAsk;

// What is read at once.
const PIECE_LEN: usize = 64 << 10;

/// Reads an update stream, or the log of one that was received so far.
pub struct UpdateReader<R> {
    from: R,
    place: String,
    header: UpdateHeader,
    // Header and compressed edits as received.
    head: Vec<u8>,
    edits: Option<Vec<u8>>,
    // Of the next unit, what came before this stream.
    kept: Vec<u8>,
    next: u64,
    ended: bool,
    bytes_read: u64,
}

impl<R: Read> UpdateReader<R> {
    /// Reads the header and, where the stream begins with them, the edits. A stream that answers another question
    /// than `ask` is an error. One that begins within a unit goes on [`UpdateReader::with`] what is here of it.
    ///
    /// A stream that ends early is [`Error::Network`] here and in [`UpdateReader::next_unit`], as is any failure to
    /// read; whatever breaks the format is of the class of damaged things.
    pub fn open(mut from: R, ask: &UpdateAsk, place: &str) -> Result<Self> {
        let mut head = Vec::new();
        read_record(&mut from, HEADER, SMALL_LEN_MAX, &mut head, place, &mut |_| Ok(()))?;
        let header: UpdateHeader = decode(HEADER, &head, SMALL_LEN_MAX, place)?;
        let UpdateHeader { have, want, from_unit, from_byte, plan, .. } = header;
        let answered = UpdateAsk { have, want, from_unit, from_byte, profile: ask.profile };
        if answered != *ask || (plan.is_some() && ask.profile.is_none()) {
            return Err(malformed(place, "it answers another question"));
        }
        check(&header, place)?;
        let mut edits = None;
        if header.brings_edits() {
            let start = head.len();
            append(&mut from, header.edits_zlen, &mut head, place, &mut |_| Ok(()))?;
            edits = Some(unpack(&header, head.get(start..).unwrap_or_default(), place)?);
        }
        let (next, bytes_read) = (header.from_unit, head.len() as u64);
        let place = place.to_owned();
        Ok(Self { from, place, header, head, edits, kept: Vec::new(), next, ended: false, bytes_read })
    }

    /// Puts `kept` before what comes next: the bytes of the first unit that the stream was asked to leave out.
    pub fn with(mut self, kept: Vec<u8>) -> Self {
        self.kept = kept;
        self
    }

    /// What the stream begins with.
    pub fn header(&self) -> &UpdateHeader {
        &self.header
    }

    /// The bytes before the first unit, as received: what a log of the stream begins with.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The edits, proven to be those of the header; `None` if the stream begins at a later unit.
    pub fn edits(&self) -> Option<&[u8]> {
        self.edits.as_deref()
    }

    /// The next unit, proven to be whole, or `None` once there was an end.
    pub fn next_unit(&mut self) -> Result<Option<Unit>> {
        self.next_unit_kept(&mut |_| Ok(()))
    }

    /// The same; `keep` is given the unit's bytes piece by piece as they come, before they are proven.
    pub fn next_unit_kept(&mut self, keep: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Option<Unit>> {
        if self.ended {
            return Ok(None);
        }
        let mut bytes = std::mem::take(&mut self.kept);
        let here = bytes.len();
        let at_end = self.next == self.header.units;
        if at_end {
            read_record(&mut self.from, END, SMALL_LEN_MAX, &mut bytes, &self.place, &mut |_| Ok(()))?;
        } else {
            let (due, max) =
                if self.header.plan.is_some() { (DELTA, DELTA_LEN_MAX) } else { (UNIT, UNIT_LEN_MAX) };
            read_record(&mut self.from, due, max, &mut bytes, &self.place, keep)?;
        }
        self.bytes_read += (bytes.len() - here) as u64;
        if at_end {
            let end: EndRecord = decode(END, &bytes, SMALL_LEN_MAX, &self.place)?;
            if (end.want, end.units) != (self.header.want, self.header.units) {
                return Err(malformed(&self.place, "its end is that of another"));
            }
            self.ended = true;
            return Ok(None);
        }
        let unit = match self.header.plan {
            None => Unit::open(bytes, &self.place)?,
            Some(_) => Unit::open_delta(bytes, &self.place)?,
        };
        if unit.index != self.next {
            return Err(malformed(&self.place, format!("unit {} where {} belongs", unit.index, self.next)));
        }
        self.next += 1;
        Ok(Some(unit))
    }

    /// Number of the unit that comes next: how many of the whole update are here.
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// Bytes taken from the reader.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}

/// A piece of an update: some new chunks. Its record is proven; what its frames or its delta hold is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    bytes: Vec<u8>,
    index: u64,
    // In order of their first use in the target.
    frames: Vec<UnitFrame>,
    delta: Option<DeltaUnit>,
}

/// Chunks told by others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaUnit {
    /// The number of each chunk among the new ones and its bytes, in the order in which they are coded.
    pub chunks: Vec<(u64, u32)>,
    /// What the reference is put together from.
    pub reference: Vec<Reference>,
    /// BLAKE3 of the content of all its chunks.
    pub hash: [u8; 32],
    delta: Range<usize>,
}

/// Where the frame of a chunk lies in its unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFrame {
    /// Bytes of content.
    pub plain_len: u32,
    /// Where the frame is in [`Unit::bytes`].
    pub at: Range<usize>,
}

impl Unit {
    /// Takes a unit's whole record, as received.
    pub fn open(bytes: Vec<u8>, place: &str) -> Result<Unit> {
        let record: UnitRecord = decode(UNIT, &bytes, UNIT_LEN_MAX, place)?;
        let bad = |reason: &str| Err(malformed(place, format!("unit {}: {reason}", record.index)));
        if record.chunks.is_empty() || record.chunks.len() > UNIT_CHUNKS_MAX {
            return bad("a count of chunks out of bounds");
        }
        if record.chunks.iter().map(|(plain, _)| u64::from(*plain)).sum::<u64>() > UNIT_BYTES_MAX {
            return bad("more content than fits a unit");
        }
        let mut at = bytes.len() - record.frames.len();
        let mut frames = Vec::with_capacity(record.chunks.len());
        for &(plain_len, frame_len) in &record.chunks {
            let len = frame_len as usize;
            if plain_len == 0 || plain_len > CHUNK_LEN_MAX || !(2..=FRAME_LEN_MAX).contains(&len) {
                return bad("a length out of bounds");
            }
            frames.push(UnitFrame { plain_len, at: at..at + len });
            at += len;
        }
        if at != bytes.len() {
            return bad("its frames are not as long as it says");
        }
        Ok(Unit { index: record.index, bytes, frames, delta: None })
    }

    /// The same for a unit that is a delta.
    pub fn open_delta(bytes: Vec<u8>, place: &str) -> Result<Unit> {
        let record: DeltaRecord = decode(DELTA, &bytes, DELTA_LEN_MAX, place)?;
        let DeltaRecord { index, chunks: runs, lens, reference, hash, delta } = record;
        let bad = |reason: &str| Err(malformed(place, format!("unit {index}: {reason}")));
        let count = runs.iter().fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
        if lens.is_empty() || lens.len() > UNIT_CHUNKS_MAX || count != lens.len() as u64 {
            return bad("a count of chunks out of bounds");
        }
        if runs.iter().any(|(first, count)| first.saturating_add(*count) > UPDATE_CHUNKS_MAX) {
            return bad("a number out of bounds");
        }
        if reference.len() > STRETCHES_MAX {
            return bad("too many stretches");
        }
        if lens.iter().any(|len| *len == 0 || *len > CHUNK_LEN_MAX) {
            return bad("a length out of bounds");
        }
        if lens.iter().map(|len| u64::from(*len)).sum::<u64>() > DELTA_UNIT_BYTES_MAX {
            return bad("more content than fits a unit");
        }
        let numbers = runs.iter().flat_map(|(first, count)| *first..first + count);
        let chunks = numbers.zip(lens).collect();
        let delta = bytes.len() - delta.len()..bytes.len();
        let delta = Some(DeltaUnit { chunks, reference, hash, delta });
        Ok(Unit { index, bytes, frames: Vec::new(), delta })
    }

    /// What it is told by, if it is a delta.
    pub fn delta(&self) -> Option<&DeltaUnit> {
        self.delta.as_ref()
    }

    /// Decodes the delta; proven to be what the unit says.
    pub fn decode(&self, delta: &DeltaUnit, reference: &[u8], place: &str) -> Result<Vec<u8>> {
        let len = delta.chunks.iter().map(|(_, len)| *len as usize).sum();
        let bytes = self.bytes.get(delta.delta.clone()).unwrap_or_default();
        let place = format!("unit {} of {place}", self.index);
        let plain = delta::decode(bytes, reference, len, &place)?;
        match *blake3::hash(&plain).as_bytes() == delta.hash {
            true => Ok(plain),
            false => Err(Error::Damaged {
                what: "a delta".to_owned(),
                place,
                reason: "it does not decode to what it says".to_owned(),
            }),
        }
    }

    /// How many chunks it has.
    pub fn chunk_count(&self) -> usize {
        self.delta.as_ref().map_or(self.frames.len(), |delta| delta.chunks.len())
    }

    /// Its number.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The record, as received.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where its frames are.
    pub fn frames(&self) -> &[UnitFrame] {
        &self.frames
    }

    /// Opens its frames in order. Each chunk is named by what was in its frame.
    pub fn chunks(&self, place: &str) -> impl Iterator<Item = Result<Chunk>> + use<'_> {
        let place = format!("unit {} of {place}", self.index);
        self.frames.iter().map(move |frame| {
            let bytes = self.bytes.get(frame.at.clone()).unwrap_or_default();
            Chunk::open_unnamed(Frame::from_bytes(bytes.to_vec(), &place)?, Some(frame.plain_len), &place)
        })
    }
}

/// What a stream says that it answers.
#[cfg(feature = "testing")]
pub(crate) fn asked(mut bytes: &[u8]) -> Result<UpdateAsk> {
    let (mut record, place) = (Vec::new(), "bytes");
    read_record(&mut bytes, HEADER, SMALL_LEN_MAX, &mut record, place, &mut |_| Ok(()))?;
    let UpdateHeader { have, want, from_unit, from_byte, plan, .. } =
        decode(HEADER, &record, SMALL_LEN_MAX, place)?;
    let profile = plan.map(|_| Profile::Fast);
    Ok(UpdateAsk { have, want, from_unit, from_byte, profile })
}

fn check(header: &UpdateHeader, place: &str) -> Result<()> {
    // zstd makes what it cannot shrink longer by less than this.
    let zlen_max = header.edits_len.saturating_add(header.edits_len / 128 + 1024);
    for (what, actual, max) in [
        ("length of the edits", header.edits_len, EDITS_LEN_MAX as u64),
        ("length of the compressed edits", header.edits_zlen, zlen_max),
        ("count of units", header.units, UPDATE_CHUNKS_MAX),
        ("number of the first unit", header.from_unit, header.units),
    ] {
        if actual > max {
            return Err(Error::Limit { what: format!("{what} of the {STREAM} from {place}"), actual, max });
        }
    }
    Ok(())
}

fn unpack(header: &UpdateHeader, packed: &[u8], place: &str) -> Result<Vec<u8>> {
    let bad = |_| malformed(place, "its edits do not decode");
    let mut edits = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(bad)?.single_frame();
    decoder.window_log_max(EDITS_WINDOW_LOG_MAX).map_err(bad)?;
    decoder.by_ref().take(header.edits_len.saturating_add(1)).read_to_end(&mut edits).map_err(bad)?;
    let whole = decoder.finish().is_empty() && edits.len() as u64 == header.edits_len;
    if !whole || *blake3::hash(&edits).as_bytes() != header.edits_hash {
        return Err(malformed(place, "its edits are not those of its header"));
    }
    Ok(edits)
}

fn decode<T: Encode + Decode<()>>(kind: Kind, bytes: &[u8], max: usize, place: &str) -> Result<T> {
    codec::decode_filed(kind, bytes, FILED_HEADER_LEN + max, place)
}

// A filed record with its header, of which `bytes` may hold the beginning already.
fn read_record(
    from: &mut impl Read,
    kind: Kind,
    max: usize,
    bytes: &mut Vec<u8>,
    place: &str,
    keep: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    append(from, FILED_HEADER_LEN.saturating_sub(bytes.len()) as u64, bytes, place, keep)?;
    let header = bytes.first_chunk().ok_or_else(|| malformed(place, "a record without a header"))?;
    let len = FILED_HEADER_LEN + codec::body_len(kind, header, max, place)?;
    let rest = len.checked_sub(bytes.len());
    let rest = rest.ok_or_else(|| malformed(place, "a record that is longer than it says"))?;
    append(from, rest as u64, bytes, place, keep)
}

// Memory grows with what comes, not with what was claimed.
fn append(
    from: &mut impl Read,
    len: u64,
    bytes: &mut Vec<u8>,
    place: &str,
    keep: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut piece = vec![0; PIECE_LEN.min(usize::try_from(len).unwrap_or(PIECE_LEN))];
    let mut left = len;
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(PIECE_LEN));
        let got = match from.read(piece.get_mut(..most).unwrap_or_default()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        };
        let came = piece.get(..got.map_err(|source| broken(source, place))?).unwrap_or_default();
        bytes.extend_from_slice(came);
        keep(came)?;
        left -= came.len() as u64;
    }
    Ok(())
}

fn broken(source: io::Error, place: &str) -> Error {
    let source = match source.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(source.kind(), "the update breaks off before its end"),
        _ => source,
    };
    Error::Network { action: "read the update from", place: place.to_owned(), source: source.into() }
}
