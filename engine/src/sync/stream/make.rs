//! The sending end: an update from a store that has both versions.

use super::format::{END, EndRecord, HEADER, UNIT, UnitRecord, UpdateHeader, units};
use crate::codec::encode_filed;
use crate::content::Frame;
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
    let Some(Edits { bytes, new }) = make_edits(have.as_ref(), &want)? else { return Ok(false) };
    let count = units(&new).count() as u64;
    let beyond = |what: String, reason: String| Err(Error::Usage { what, reason });
    if ask.from_unit > count {
        return beyond(format!("unit {} of an update", ask.from_unit), format!("it has {count}"));
    }
    let mut all = (0..).zip(units(&new)).skip_while(|(index, _)| *index < ask.from_unit);
    let mut rest = None;
    if ask.from_byte > 0 {
        let mut first = match all.next() {
            Some((index, chunks)) => unit(source, index, chunks)?,
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
    };
    drop(bytes);
    out(encode_filed(HEADER, &header))?;
    if header.brings_edits() {
        out(packed)?;
    }
    rest.map_or(Ok(()), &mut *out)?;
    for (index, chunks) in all {
        out(unit(source, index, chunks)?)?;
    }
    out(encode_filed(END, &EndRecord { want: ask.want, units: count }))?;
    Ok(true)
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
