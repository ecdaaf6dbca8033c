//! Bytes in terms of other bytes: how a unit of new content is told to someone who has the old.
//!
//! A delta is a codec byte and a body. Encoding and decoding are pure functions of reference and target; nothing is
//! proven by decoding, so whoever decodes compares the hash of what comes out with the one that belongs.

mod cover;
mod plain;

use crate::error::{Error, Result};
use crate::limits::DELTA_BYTES_MAX;
use cover::Weight;

/// How a delta's body tells the target. The number is the delta's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The target's bytes.
    Stored = 0,
    /// One zstd frame; the reference is not used.
    Zstd = 1,
    /// One zstd frame with the reference as prefix.
    Prefix = 2,
    /// `cover` with the light model, format 1.
    CoverLight = 3,
    /// `cover` with the mixed model, format 1.
    CoverMixed = 4,
}

const CODECS: [Codec; 5] = [Codec::Stored, Codec::Zstd, Codec::Prefix, Codec::CoverLight, Codec::CoverMixed];

/// How much time a delta may cost for its size, on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profile {
    /// At once: zstd with the reference.
    Fast,
    /// 5 to 11 MB/s to encode and 20 to 80 MB/s to decode on one core, where most of the target has its like in the
    /// reference.
    Small,
    /// 3 to 9 and 9 to 20 MB/s.
    Smallest,
}

const PROFILES: [(&str, Profile); 3] =
    [("fast", Profile::Fast), ("small", Profile::Small), ("smallest", Profile::Smallest)];

impl Profile {
    /// What it is called: `fast`, `small` or `smallest`.
    pub fn name(self) -> &'static str {
        PROFILES.iter().find(|(_, profile)| *profile == self).map_or("", |(name, _)| name)
    }

    /// The one that is called so.
    pub fn named(name: &str) -> Option<Profile> {
        PROFILES.iter().find(|(other, _)| *other == name).map(|(_, profile)| *profile)
    }
}

/// Levels of zstd: at once, and where time is given.
const FAST_LEVEL: i32 = 12;
const SLOW_LEVEL: i32 = 19;

impl Codec {
    /// The codec of a delta, by its first byte.
    pub fn of(delta: &[u8]) -> Option<Codec> {
        CODECS.get(usize::from(*delta.first()?)).copied()
    }
}

/// Encodes `target` by `reference`, together at most `DELTA_BYTES_MAX`, with the codec that comes out smallest among those
/// that `profile` can pay for.
///
/// The same bytes always give the same delta, within one release. Memory beside the arguments: for `Fast` some
/// megabytes; otherwise five bytes for each of reference and target, and up to 100 MiB.
pub fn encode(profile: Profile, reference: &[u8], target: &[u8]) -> Result<Vec<u8>> {
    bounded(reference.len(), target.len(), "an encoder")?;
    if target.is_empty() {
        return encode_with(Codec::Stored, reference, target);
    }
    let codecs: &[(Codec, i32)] = match profile {
        Profile::Fast => &[(Codec::Prefix, FAST_LEVEL)],
        Profile::Small => &[(Codec::CoverLight, 0)],
        Profile::Smallest => &[(Codec::CoverMixed, 0)],
    };
    let mut best: Option<Vec<u8>> = None;
    for (codec, level) in codecs {
        let Some(delta) = try_codec(*codec, *level, reference, target) else { continue };
        if best.as_ref().is_none_or(|best| delta.len() < best.len()) {
            best = Some(delta);
        }
    }
    // Mostly new content costs a model more time than it is worth.
    if profile != Profile::Fast && best.as_ref().is_none_or(|best| best.len() > target.len() / NEW_SHARE) {
        for codec in [Codec::Zstd, Codec::Prefix] {
            let zstd = try_codec(codec, SLOW_LEVEL, reference, target);
            best = match (zstd, best) {
                (Some(zstd), Some(best)) if zstd.len() - zstd.len() / WORTH < best.len() => Some(zstd),
                (zstd, None) => zstd,
                (_, best) => best,
            };
        }
    }
    match best.filter(|best| best.len() <= target.len()) {
        Some(best) => Ok(best),
        None => encode_with(Codec::Stored, reference, target),
    }
}

/// A delta of more than one byte for so many of the target is mostly new content.
const NEW_SHARE: usize = 5;
/// A model of new content is kept when it saves one byte in so many.
const WORTH: usize = 8;

fn try_codec(codec: Codec, level: i32, reference: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let body = match codec {
        Codec::Stored => target.to_vec(),
        Codec::Zstd => plain::compress(&[], target, level)?,
        Codec::Prefix => plain::compress(reference, target, level)?,
        Codec::CoverLight if !target.is_empty() => cover::encode(Weight::Light, reference, target),
        Codec::CoverMixed if !target.is_empty() => cover::encode(Weight::Mixed, reference, target),
        Codec::CoverLight | Codec::CoverMixed => return None,
    };
    let mut delta = Vec::with_capacity(1 + body.len());
    delta.push(codec as u8);
    delta.extend_from_slice(&body);
    Some(delta)
}

/// Encodes with one codec, whatever comes of it. An empty target can only be stored or a zstd frame.
pub fn encode_with(codec: Codec, reference: &[u8], target: &[u8]) -> Result<Vec<u8>> {
    bounded(reference.len(), target.len(), "an encoder")?;
    try_codec(codec, SLOW_LEVEL, reference, target).ok_or_else(|| Error::Usage {
        what: format!("codec {codec:?}"),
        reason: format!("it cannot encode {} bytes", target.len()),
    })
}

/// Decodes the delta of a target of `target_len` bytes, from `place`.
///
/// Bytes that no encoder wrote, or another reference, give an error or other bytes of that length; never more memory than
/// reference, target and 100 MiB, nor more time than the target's length allows. Who calls compares hashes.
pub fn decode(delta: &[u8], reference: &[u8], target_len: usize, place: &str) -> Result<Vec<u8>> {
    bounded(reference.len(), target_len, place)?;
    let malformed =
        |reason: &str| Error::Malformed { kind: "delta", place: place.to_owned(), reason: reason.to_owned() };
    let (number, body) = delta.split_first().ok_or_else(|| malformed("empty"))?;
    let codec = Codec::of(delta).ok_or_else(|| malformed(&format!("unknown codec {number}")))?;
    let target = match codec {
        Codec::Stored if body.len() == target_len => Ok(body.to_vec()),
        Codec::Stored => Err("its length is not the target's"),
        Codec::Zstd => plain::decompress(body, &[], target_len),
        Codec::Prefix => plain::decompress(body, reference, target_len),
        Codec::CoverLight => cover::decode(Weight::Light, body, reference, target_len),
        Codec::CoverMixed => cover::decode(Weight::Mixed, body, reference, target_len),
    };
    let target = target.map_err(malformed)?;
    match target.len() == target_len {
        true => Ok(target),
        false => Err(malformed(&format!("{} bytes where {target_len} belong", target.len()))),
    }
}

fn bounded(reference: usize, target: usize, place: &str) -> Result<()> {
    let actual = reference as u64 + target as u64;
    match actual <= DELTA_BYTES_MAX as u64 {
        true => Ok(()),
        false => Err(Error::Limit {
            what: format!("length of reference and target of a delta in {place}"),
            actual,
            max: DELTA_BYTES_MAX as u64,
        }),
    }
}
