//! The sending end: an update from a store that has both versions.

use super::deltas::Deltas;
use super::format::{END, EndRecord, HEADER, UNIT, UnitRecord, UpdateHeader, units};
use crate::codec::encode_filed;
use crate::content::Frame;
use crate::delta::Profile;
use crate::error::{Error, Result};
use crate::id::ChunkRef;
use crate::store::{Source, UpdateAsk};
use crate::version::{Edits, Manifest, make_edits};

/// zstd level of the edits, and that of long ones: over this many bytes they are worth less time.
const LEVEL: i32 = 19;
const LEVEL_LONG: i32 = 6;
const LONG: usize = 256 << 10;

/// Makes the stream that `ask` asks for and gives it to `out` piece by piece, none much longer than a unit. False, with
/// nothing given out, if there is none: `source` lacks a version, or the update is beyond the limits of a stream.
/// A first unit beyond the last, or a first byte beyond that unit's, is [`Error::Usage`].
///
/// Besides the edits and the list of new chunks it holds about one unit. Frames are sent as the store holds them.
pub fn make(
    source: &dyn Source,
    ask: &UpdateAsk,
    out: &mut dyn FnMut(Vec<u8>) -> Result<()>,
) -> Result<bool> {
    let Some(want) = there(Manifest::open(source, ask.want))? else { return Ok(false) };
    let have = match ask.have {
        None => None,
        Some(have) => match there(Manifest::open(source, have))? {
            None => return Ok(false),
            have => have,
        },
    };
    let Some(mut edits) = make_edits(have.as_ref(), &want)? else { return Ok(false) };
    let bytes = std::mem::take(&mut edits.bytes);
    let units = Units::plan(source, &edits, ask.profile.filter(|_| have.is_some()))?;
    let count = units.count();
    let beyond = |what: String, reason: String| Err(Error::Usage { what, reason });
    if ask.from_unit > count {
        return beyond(format!("unit {} of an update", ask.from_unit), format!("it has {count}"));
    }
    let mut all = ask.from_unit..count;
    let mut rest = None;
    if ask.from_byte > 0 {
        let mut first = match all.next() {
            Some(index) => units.unit(source, index)?,
            None => Vec::new(),
        };
        if ask.from_byte >= first.len() as u64 {
            let what = format!("byte {} of unit {} of an update", ask.from_byte, ask.from_unit);
            return beyond(what, format!("it has {}", first.len()));
        }
        first.drain(..ask.from_byte as usize);
        rest = Some(first);
    }
    let level = if bytes.len() > LONG { LEVEL_LONG } else { LEVEL };
    let packed = zstd::bulk::compress(&bytes, level).map_err(|cause| Error::Io {
        action: "compress edits for",
        path: source.place().into(),
        source: cause,
    })?;
    let header = UpdateHeader {
        have: ask.have,
        want: ask.want,
        edits_len: bytes.len() as u64,
        edits_zlen: packed.len() as u64,
        edits_hash: *blake3::hash(&bytes).as_bytes(),
        units: count,
        from_unit: ask.from_unit,
        from_byte: ask.from_byte,
        plan: units.plan_hash(),
    };
    drop(bytes);
    out(encode_filed(HEADER, &header))?;
    if header.brings_edits() {
        out(packed)?;
    }
    rest.map_or(Ok(()), &mut *out)?;
    for index in all {
        out(units.unit(source, index)?)?;
    }
    out(encode_filed(END, &EndRecord { want: ask.want, units: count }))?;
    Ok(true)
}

/// How the new chunks are told.
enum Units<'e> {
    Frames(Vec<&'e [ChunkRef]>),
    Deltas(Deltas<'e>),
}

impl<'e> Units<'e> {
    fn plan(source: &dyn Source, edits: &'e Edits, profile: Option<Profile>) -> Result<Units<'e>> {
        if let Some(profile) = profile
            && let Some(deltas) = Deltas::plan(source, edits, profile)?
        {
            return Ok(Units::Deltas(deltas));
        }
        Ok(Units::Frames(units(&edits.new).collect()))
    }

    fn count(&self) -> u64 {
        match self {
            Units::Frames(units) => units.len() as u64,
            Units::Deltas(deltas) => deltas.count(),
        }
    }

    fn plan_hash(&self) -> Option<[u8; 32]> {
        match self {
            Units::Frames(_) => None,
            Units::Deltas(deltas) => Some(deltas.hash),
        }
    }

    fn unit(&self, source: &dyn Source, index: u64) -> Result<Vec<u8>> {
        match self {
            Units::Frames(units) => {
                unit(source, index, units.get(index as usize).copied().unwrap_or_default())
            }
            Units::Deltas(deltas) => deltas.unit(source, index),
        }
    }
}

fn there<T>(opened: Result<T>) -> Result<Option<T>> {
    match opened {
        Ok(version) => Ok(Some(version)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unit(source: &dyn Source, index: u64, chunks: &[ChunkRef]) -> Result<Vec<u8>> {
    let mut found: Vec<Option<Frame>> = chunks.iter().map(|_| None).collect();
    source.read_chunks(chunks, &mut |at, frame| {
        if let Some(slot) = found.get_mut(at) {
            *slot = frame;
        }
        Ok(())
    })?;
    let mut record = UnitRecord { index, chunks: Vec::with_capacity(chunks.len()), frames: Vec::new() };
    for (chunk, frame) in chunks.iter().zip(found) {
        let frame = frame.ok_or_else(|| Error::Damaged {
            what: format!("chunk {}", chunk.id),
            place: source.place(),
            reason: "it is missing".to_owned(),
        })?;
        record.chunks.push((chunk.len, frame.as_bytes().len() as u32));
        record.frames.extend_from_slice(frame.as_bytes());
    }
    Ok(encode_filed(UNIT, &record))
}
