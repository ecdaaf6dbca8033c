//! The sending end: an update from a store that has both versions.

use super::deltas::Deltas;
use super::format::{END, EndRecord, HEADER, UNIT, UnitRecord, UpdateHeader, units};
use crate::codec::{self, encode_filed};
use crate::content::Frame;
use crate::delta::Profile;
use crate::error::{Error, Result};
use crate::id::{ChunkRef, VersionId};
use crate::limits::{DELTA_REFERENCE_BYTES_MAX, DELTA_UNIT_BYTES_MAX};
use crate::store::{Source, UpdateAsk};
use crate::version::{Manifest, make_edits};

/// zstd level of the edits, and that of long ones: over this many bytes they are worth less time.
const LEVEL: i32 = 19;
const LEVEL_LONG: i32 = 6;
const LONG: usize = 256 << 10;

/// Makes the stream that `ask` asks for and gives it to `out` piece by piece, none much longer than a unit. False, with
/// nothing given out, if there is none: `source` lacks a version, or the update is beyond the limits of a stream.
/// A first unit beyond the last, or a first byte beyond that unit's, is [`Error::Usage`].
///
/// Besides the edits and the list of new chunks it holds about one unit. Frames are sent as the store holds them; a delta
/// is made when its turn comes.
pub fn make(
    source: &dyn Source,
    ask: &UpdateAsk,
    out: &mut dyn FnMut(Vec<u8>) -> Result<()>,
) -> Result<bool> {
    let Some(update) = Update::prepare(source, ask.have, ask.want, ask.profile)? else { return Ok(false) };
    let head = update.head(ask.from_unit, ask.from_byte)?;
    let first = match ask.from_unit < update.units() {
        true => Some(update.unit(source, ask.from_unit, ask.from_byte)?.concat()),
        false => None,
    };
    out(head)?;
    if (ask.from_unit, ask.from_byte) == (0, 0) {
        out(update.edits().to_vec())?;
    }
    first.map_or(Ok(()), &mut *out)?;
    for index in ask.from_unit + 1..update.units() {
        out(update.unit(source, index, 0)?.concat())?;
    }
    out(update.end())?;
    Ok(true)
}

/// An update that was worked out: all of its stream but the content. Depends on nothing but the two versions and the
/// profile, so that it is good for whoever asks for them, from whatever unit.
pub struct Update {
    header: UpdateHeader,
    packed: Vec<u8>,
    new: Vec<ChunkRef>,
    // Where each unit ends in `new`, if units hold frames.
    ends: Vec<u32>,
    deltas: Option<Deltas>,
}

impl Update {
    /// Works out what leads from `have`, or from nothing, to `want`; `None` if `source` lacks a version, or the update
    /// is beyond the limits of a stream. With a `profile` the new chunks are told as deltas against what the base leaves
    /// behind, where there is a base and the change is not too large.
    pub fn prepare(
        source: &dyn Source,
        have: Option<VersionId>,
        want: VersionId,
        profile: Option<Profile>,
    ) -> Result<Option<Update>> {
        let Some(target) = there(Manifest::open(source, want))? else { return Ok(None) };
        let base = match have {
            None => None,
            Some(have) => match there(Manifest::open(source, have))? {
                None => return Ok(None),
                base => base,
            },
        };
        let Some(mut edits) = make_edits(base.as_ref(), &target)? else { return Ok(None) };
        let bytes = std::mem::take(&mut edits.bytes);
        let deltas = match profile.filter(|_| base.is_some()) {
            Some(profile) => Deltas::plan(source, &mut edits, profile)?,
            None => None,
        };
        let mut new = edits.new;
        let level = if bytes.len() > LONG { LEVEL_LONG } else { LEVEL };
        let mut packed = zstd::bulk::compress(&bytes, level).map_err(|cause| Error::Io {
            action: "compress edits for",
            path: source.place().into(),
            source: cause,
        })?;
        let ends = units(&new).scan(0u32, |end, unit| {
            *end += unit.len() as u32;
            Some(*end)
        });
        let mut ends: Vec<u32> = ends.collect();
        packed.shrink_to_fit();
        new.shrink_to_fit();
        ends.shrink_to_fit();
        let header = UpdateHeader {
            have,
            want,
            edits_len: bytes.len() as u64,
            edits_zlen: packed.len() as u64,
            edits_hash: *blake3::hash(&bytes).as_bytes(),
            units: deltas.as_ref().map_or(ends.len() as u64, Deltas::count),
            from_unit: 0,
            from_byte: 0,
            plan: deltas.as_ref().map(|deltas| deltas.hash),
        };
        Ok(Some(Update { header, packed, new, ends, deltas }))
    }

    /// Whether `source` still has both versions.
    pub fn is_in(&self, source: &dyn Source) -> Result<bool> {
        let versions = [Some(self.header.want), self.header.have];
        for version in versions.into_iter().flatten() {
            if there(Manifest::open(source, version))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes of memory that it takes.
    pub fn held_bytes(&self) -> usize {
        let lists = size_of_val(&*self.new) + size_of_val(&*self.ends);
        size_of::<Self>() + self.packed.len() + lists + self.deltas.as_ref().map_or(0, Deltas::held_bytes)
    }

    /// How many units it has.
    pub fn units(&self) -> u64 {
        self.header.units
    }

    /// What a stream from a byte of a unit on begins with; a unit beyond the last is [`Error::Usage`], and so is a byte of
    /// what comes behind the last.
    pub fn head(&self, from_unit: u64, from_byte: u64) -> Result<Vec<u8>> {
        if from_unit == self.units() && from_byte > 0 {
            return Err(beyond(from_unit, from_byte, 0));
        }
        if from_unit > self.units() {
            return Err(Error::Usage {
                what: format!("unit {from_unit} of an update"),
                reason: format!("it has {}", self.units()),
            });
        }
        Ok(encode_filed(HEADER, &UpdateHeader { from_unit, from_byte, ..self.header }))
    }

    /// What follows the head of a stream from the first byte of unit 0 on.
    pub fn edits(&self) -> &[u8] {
        &self.packed
    }

    /// Most bytes of a unit, with all that is around its frames; of a delta what making it takes beside the coder.
    pub fn unit_len_max(&self, index: u64) -> usize {
        if self.deltas.is_some() {
            return (DELTA_REFERENCE_BYTES_MAX + 2 * DELTA_UNIT_BYTES_MAX) as usize;
        }
        let chunks = self.chunks(index);
        let plain: usize = chunks.iter().map(|chunk| chunk.len as usize).sum();
        // A frame is at most a byte longer than its chunk; it has two lengths of up to five bytes.
        plain + chunks.len() * 11 + 128
    }

    fn chunks(&self, index: u64) -> &[ChunkRef] {
        let end = |index: Option<u64>| {
            let end = index.and_then(|index| self.ends.get(usize::try_from(index).ok()?));
            end.map_or(0, |end| *end as usize)
        };
        self.new.get(end(index.checked_sub(1))..end(Some(index))).unwrap_or_default()
    }

    /// Reads a unit's chunks from `source`: the pieces of its record, in order, without its first `from_byte` bytes. If it
    /// has no more than that, it is [`Error::Usage`].
    pub fn unit(&self, source: &dyn Source, index: u64, from_byte: u64) -> Result<Vec<Vec<u8>>> {
        if let Some(deltas) = &self.deltas {
            return without(vec![deltas.unit(source, &self.new, index)?], index, from_byte);
        }
        let chunks = self.chunks(index);
        let mut found: Vec<Option<Frame>> = chunks.iter().map(|_| None).collect();
        source.read_chunks(chunks, &mut |at, frame| {
            if let Some(slot) = found.get_mut(at) {
                *slot = frame;
            }
            Ok(())
        })?;
        let mut frames = Vec::with_capacity(chunks.len());
        let mut record = UnitRecord { index, chunks: Vec::with_capacity(chunks.len()), frames: Vec::new() };
        for (chunk, frame) in chunks.iter().zip(found) {
            let damaged = |reason: &str| Error::Damaged {
                what: format!("chunk {}", chunk.id),
                place: source.place(),
                reason: reason.to_owned(),
            };
            let frame = frame.ok_or_else(|| damaged("it is missing"))?;
            let len = frame.as_bytes().len();
            if len > chunk.len as usize + 1 {
                return Err(damaged("its frame is longer than it"));
            }
            record.chunks.push((chunk.len, len as u32));
            frames.push(frame);
        }
        let bytes: Vec<_> = frames.iter().map(Frame::as_bytes).collect();
        let mut pieces = vec![record.head(&bytes)];
        pieces.extend(frames.into_iter().map(Frame::into_bytes));
        without(pieces, index, from_byte)
    }

    /// What a stream ends with.
    pub fn end(&self) -> Vec<u8> {
        encode_filed(END, &EndRecord { want: self.header.want, units: self.units() })
    }
}

impl UnitRecord {
    // Everything before the frames, with the header over all, so that frames need not be copied behind one another.
    fn head(&self, frames: &[&[u8]]) -> Vec<u8> {
        let mut body = Vec::new();
        codec::append(&mut body, &self.index);
        codec::append(&mut body, &self.chunks);
        codec::append(&mut body, &frames.iter().map(|frame| frame.len() as u64).sum::<u64>());
        let parts: Vec<&[u8]> = std::iter::once(&*body).chain(frames.iter().copied()).collect();
        [&codec::header_of(UNIT, parts)[..], &body].concat()
    }
}

// The pieces of a unit without its first bytes.
fn without(mut pieces: Vec<Vec<u8>>, unit: u64, from_byte: u64) -> Result<Vec<Vec<u8>>> {
    let len = pieces.iter().map(|piece| piece.len() as u64).sum();
    if from_byte > 0 && from_byte >= len {
        return Err(beyond(unit, from_byte, len));
    }
    let mut left = from_byte as usize;
    for piece in &mut pieces {
        left -= piece.drain(..left.min(piece.len())).len();
    }
    Ok(pieces)
}

fn beyond(unit: u64, byte: u64, len: u64) -> Error {
    Error::Usage { what: format!("byte {byte} of unit {unit} of an update"), reason: format!("it has {len}") }
}

fn there<T>(opened: Result<T>) -> Result<Option<T>> {
    match opened {
        Ok(version) => Ok(Some(version)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_in_parts_is_the_record() {
        let row = |frames: &[&[u8]]| {
            let chunks = frames.iter().map(|frame| (300, frame.len() as u32)).collect();
            let record = UnitRecord { index: 70_000, chunks, frames: frames.concat() };
            let head = record.head(frames);
            assert_eq!([head, frames.concat()].concat(), encode_filed(UNIT, &record));
        };
        row(&[]);
        row(&[b"abc"]);
        row(&[&[1; 250], &[2; 70_000], b"x"]);
    }
}
