//! The one place that knows how records become bytes: `bincode` 2.0.1, little-endian, variable-length
//! integers, under one of two headers.
//!
//! * **Named** records (nodes) carry `kind: u8, format: u8`; their hash is their name, so nothing else
//!   is needed to prove them.
//! * **Filed** records (state, journal, tables, database values) carry `magic "FLOE", kind: u8, format: u8,
//!   reserved: u16 = 0, length: u64 LE, BLAKE3 of the body`, 48 bytes in all.
//!
//! Decoding is bounded, refuses trailing bytes, and refuses bytes that would encode differently.

use bincode::config::{Configuration, Limit, standard};
use bincode::error::DecodeError;
use bincode::{Decode, Encode};

use crate::error::{Error, Result};

/// A kind of record: its number in the header, what errors call it, and its newest format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The number in the header. Never reused.
    pub number: u8,
    /// What errors call it.
    pub name: &'static str,
    /// The newest format that this build reads and writes.
    pub format: u8,
}

const MAGIC: [u8; 4] = *b"FLOE";
/// Bytes before the body of a filed record.
pub(crate) const FILED_HEADER_LEN: usize = 48;

/// Encodes a record that is named by the hash of the returned bytes.
pub(crate) fn encode_named<T: Encode>(kind: Kind, record: &T) -> Vec<u8> {
    let mut bytes = vec![kind.number, kind.format];
    append(&mut bytes, record);
    bytes
}

/// Decodes what [`encode_named`] wrote; `max` bounds the whole.
pub(crate) fn decode_named<T: Encode + Decode<()>>(
    kind: Kind,
    bytes: &[u8],
    max: usize,
    place: &str,
) -> Result<T> {
    within(kind, bytes, max, place)?;
    let (&[number, format], body) =
        bytes.split_first_chunk().ok_or_else(|| malformed(kind, place, "shorter than its header"))?;
    known(kind, number, format, place)?;
    decode_body(kind, body, place)
}

/// Encodes a record with a full header, for a file or a database value.
pub(crate) fn encode_filed<T: Encode>(kind: Kind, record: &T) -> Vec<u8> {
    let mut bytes = vec![0; FILED_HEADER_LEN];
    append(&mut bytes, record);
    seal(kind, &mut bytes);
    bytes
}

// Fills in the header of a record whose body is already behind it.
fn seal(kind: Kind, bytes: &mut [u8]) {
    let (header, body) = bytes.split_at_mut(FILED_HEADER_LEN);
    header.copy_from_slice(&header_of(kind, [&*body]));
}

/// The header of a filed record whose body is in `parts`.
pub(crate) fn header_of<'p>(kind: Kind, parts: impl IntoIterator<Item = &'p [u8]>) -> [u8; FILED_HEADER_LEN] {
    let (mut hasher, mut len) = (blake3::Hasher::new(), 0u64);
    for part in parts {
        hasher.update(part);
        len += part.len() as u64;
    }
    let mut header = [0; FILED_HEADER_LEN];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = kind.number;
    header[5] = kind.format;
    header[8..16].copy_from_slice(&len.to_le_bytes());
    header[16..].copy_from_slice(hasher.finalize().as_bytes());
    header
}

/// Puts a header before any bytes, so that the doors of `testing` reach what lies behind its hash.
#[cfg(feature = "testing")]
pub(crate) fn seal_any(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0; FILED_HEADER_LEN], body].concat();
    seal(kind, &mut bytes);
    bytes
}

/// Decodes what [`encode_filed`] wrote; `max` bounds the whole. Wrong magic, kind, length, hash or a newer
/// format is an error that names `place`.
pub(crate) fn decode_filed<T: Encode + Decode<()>>(
    kind: Kind,
    bytes: &[u8],
    max: usize,
    place: &str,
) -> Result<T> {
    within(kind, bytes, max, place)?;
    let (header, body) = bytes
        .split_first_chunk::<FILED_HEADER_LEN>()
        .ok_or_else(|| malformed(kind, place, "shorter than its header"))?;
    if header[..4] != MAGIC {
        return Err(malformed(kind, place, "does not begin with `FLOE`"));
    }
    known(kind, header[4], header[5], place)?;
    if header[6..8] != [0, 0] || header[8..16] != (body.len() as u64).to_le_bytes() {
        return Err(malformed(kind, place, "its length does not match its header"));
    }
    if header[16..] != *blake3::hash(body).as_bytes() {
        return Err(malformed(kind, place, "its content does not match its hash"));
    }
    decode_body(kind, body, place)
}

/// Takes one headless record off the front of `bytes`: an item of a list that is too long to be decoded at once. A
/// count in it may claim 128 KiB at most.
pub(crate) fn take<T: Encode + Decode<()>>(kind: &'static str, bytes: &mut &[u8], place: &str) -> Result<T> {
    let malformed = |reason: String| Error::Malformed { kind, place: place.to_owned(), reason };
    let (record, used) = limited::<T, 0x2_0000>(bytes).map_err(|error| malformed(error.to_string()))?;
    let (body, rest) = bytes.split_at_checked(used).ok_or_else(|| malformed("cut short".to_owned()))?;
    let mut again = Vec::with_capacity(used);
    append(&mut again, &record);
    if again != body {
        return Err(malformed("not in canonical form".to_owned()));
    }
    *bytes = rest;
    Ok(record)
}

/// The header of a filed record that is read piece by piece: the length of the body behind it, at most `max`.
pub(crate) fn body_len(
    kind: Kind,
    header: &[u8; FILED_HEADER_LEN],
    max: usize,
    place: &str,
) -> Result<usize> {
    if header[..4] != MAGIC {
        return Err(malformed(kind, place, "does not begin with `FLOE`"));
    }
    known(kind, header[4], header[5], place)?;
    let len = header[8..16].iter().rev().fold(0u64, |len, byte| len << 8 | u64::from(*byte));
    match usize::try_from(len) {
        Ok(len) if len <= max => Ok(len),
        _ => {
            let what = format!("length of {} in {place}", kind.name);
            Err(Error::Limit { what, actual: len, max: max as u64 })
        }
    }
}

/// Appends the body of a record, without a header: an item of a page that is put together from its items' bytes.
pub(crate) fn append<T: Encode>(bytes: &mut Vec<u8>, record: &T) {
    bincode::encode_into_std_write(record, bytes, standard())
        .expect("records are plain data, and writing to memory does not fail");
}

fn within(kind: Kind, bytes: &[u8], max: usize, place: &str) -> Result<()> {
    if bytes.len() <= max {
        return Ok(());
    }
    let what = format!("length of {} in {place}", kind.name);
    Err(Error::Limit { what, actual: bytes.len() as u64, max: max as u64 })
}

fn known(kind: Kind, number: u8, format: u8, place: &str) -> Result<()> {
    if number != kind.number {
        return Err(malformed(kind, place, format!("kind {number:#04x} where {:#04x} belongs", kind.number)));
    }
    if format == 0 {
        return Err(malformed(kind, place, "format 0"));
    }
    if format > kind.format {
        let (found, supported) = (u32::from(format), u32::from(kind.format));
        return Err(Error::TooNew { kind: kind.name, place: place.to_owned(), found, supported });
    }
    Ok(())
}

fn decode_body<T: Encode + Decode<()>>(kind: Kind, body: &[u8], place: &str) -> Result<T> {
    let (record, used) = match body.len() {
        0..0x1000 => limited::<T, 0x2_0000>(body),
        0x1000..0x4000 => limited::<T, 0x8_0000>(body),
        0x4000..0x1_0000 => limited::<T, 0x20_0000>(body),
        0x1_0000..0x4_0000 => limited::<T, 0x80_0000>(body),
        0x4_0000..0x10_0000 => limited::<T, 0x200_0000>(body),
        0x10_0000..0x40_0000 => limited::<T, 0x800_0000>(body),
        0x40_0000..0x100_0000 => limited::<T, 0x2000_0000>(body),
        0x100_0000..0x400_0000 => limited::<T, 0x8000_0000>(body),
        0x400_0000..0x1000_0000 => limited::<T, 0x2_0000_0000>(body),
        _ => limited::<T, 0x8_0000_0000>(body),
    }
    .map_err(|error| malformed(kind, place, error))?;
    if used != body.len() {
        return Err(malformed(kind, place, "bytes after its end"));
    }
    let mut again = Vec::with_capacity(body.len());
    append(&mut again, &record);
    if again != body {
        return Err(malformed(kind, place, "not in canonical form"));
    }
    Ok(record)
}

// A claimed element count meets LIMIT before an allocator: at most 128 times the bytes that claim it, or 128 KiB.
fn limited<T: Decode<()>, const LIMIT: usize>(body: &[u8]) -> Result<(T, usize), DecodeError> {
    let config: Configuration<_, _, Limit<LIMIT>> = standard().with_limit::<LIMIT>();
    bincode::decode_from_slice(body, config)
}

fn malformed(kind: Kind, place: &str, reason: impl ToString) -> Error {
    Error::Malformed { kind: kind.name, place: place.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIND: Kind = Kind { number: 0x7f, name: "sample", format: 2 };
    type Sample = (u64, Vec<String>, Option<[u8; 3]>);

    fn sample() -> impl Strategy<Value = Sample> {
        (any::<u64>(), proptest::collection::vec("[a-z]{0,9}", 0..9), any::<Option<[u8; 3]>>())
    }

    proptest! {
        #[test]
        fn both_headers_round_trip_and_refuse_damage(record in sample(), at in any::<usize>(), bit in 0..8u8) {
            let named = encode_named(KIND, &record);
            prop_assert_eq!(&decode_named::<Sample>(KIND, &named, 4096, "here").expect("own bytes"), &record);
            let mut filed = encode_filed(KIND, &record);
            prop_assert_eq!(&decode_filed::<Sample>(KIND, &filed, 4096, "here").expect("own bytes"), &record);
            for len in 0..filed.len() {
                prop_assert!(decode_filed::<Sample>(KIND, &filed[..len], 4096, "here").is_err());
            }
            let at = at % filed.len();
            filed[at] ^= 1 << bit;
            // Only a lower, still known format may pass: the format byte is not under the hash.
            let passes = decode_filed::<Sample>(KIND, &filed, 4096, "here").is_ok();
            prop_assert!(!passes || (at == 5 && filed[5] < KIND.format));
        }

        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = vec![KIND.number, KIND.format];
            framed.extend_from_slice(&bytes);
            if let Ok(record) = decode_named::<Sample>(KIND, &framed, 4096, "here") {
                prop_assert_eq!(encode_named(KIND, &record), framed);
            }
        }
    }

    #[test]
    fn headers_are_judged_before_bodies() {
        let good = encode_filed(KIND, &1u64);
        let edit = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            decode_filed::<u64>(KIND, &bytes, 4096, "`file`").expect_err("an edited header").to_string()
        };
        assert_eq!(edit(5, 3), "sample in `file` has format 3, but this floe reads up to 2");
        assert_eq!(edit(4, 1), "malformed sample in `file`: kind 0x01 where 0x7f belongs");
        assert_eq!(edit(0, 1), "malformed sample in `file`: does not begin with `FLOE`");
        assert_eq!(edit(48, 7), "malformed sample in `file`: its content does not match its hash");
        let error = decode_filed::<u64>(KIND, &good, 20, "`file`").expect_err("over the limit");
        assert_eq!(error.to_string(), "length of sample in `file` is 49, over the limit of 20");
    }

    #[test]
    fn a_claimed_count_does_not_reach_the_allocator() {
        // A vector of 2^60 elements in nine bytes.
        let bytes = [KIND.number, KIND.format, 253, 0, 0, 0, 0, 0, 0, 0, 16];
        assert!(decode_named::<Vec<u64>>(KIND, &bytes, 4096, "here").is_err());
        // Long bodies, claiming a thousand times their length.
        for len in [5 << 10, 300 << 10, 17 << 20] {
            let mut body = bincode::encode_to_vec(len as u64 * 1000 / 64, standard()).expect("an integer");
            body.resize(len, 0);
            let bytes = [&[KIND.number, KIND.format], body.as_slice()].concat();
            let error =
                decode_named::<Vec<[u64; 8]>>(KIND, &bytes, 1 << 30, "here").expect_err("a lie").to_string();
            assert!(error.ends_with("LimitExceeded"), "{error}");
        }
        // The same integer in a longer form than needed.
        let wide = [KIND.number, KIND.format, 251, 5, 0];
        let error = decode_named::<u64>(KIND, &wide, 4096, "here").expect_err("not canonical").to_string();
        assert_eq!(error, "malformed sample in here: not in canonical form");
    }
}
