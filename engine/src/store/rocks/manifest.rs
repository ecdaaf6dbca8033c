//! Whether the MANIFEST is whole. It ends where its last record ends, or, after a loss of power, in one that was not
//! written completely. RocksDB takes a record whose length was damaged for such a one, and all that follow it for never
//! written: an older state would pass for the newest, and the tables it does not know would be removed.

use std::fs;
use std::path::Path;

use crate::error::{At, Error, Result};

const CURRENT: &str = "CURRENT";
/// Records lie in blocks of so many bytes.
const BLOCK_LEN: usize = 32 << 10;
/// Checksum 4, length 2, type 1.
const HEADER_LEN: usize = 7;
/// More than the size at which a new MANIFEST is begun, many times.
const MANIFEST_LEN_MAX: u64 = 1 << 30;

/// Refuses a MANIFEST that ends in a record with a damaged length. What else is wrong is for the database to find.
pub(super) fn check(db: &Path, place: &str) -> Result<()> {
    let Ok(current) = fs::read_to_string(db.join(CURRENT)) else { return Ok(()) };
    let name = current.trim_end();
    if !name.starts_with("MANIFEST-") || name.contains('/') {
        return Ok(());
    }
    let path = db.join(name);
    let Ok(found) = fs::metadata(&path) else { return Ok(()) };
    if !found.is_file() || found.len() > MANIFEST_LEN_MAX {
        return Ok(());
    }
    match misread_end(&fs::read(&path).at("read", &path)?) {
        None => Ok(()),
        Some(at) => Err(Error::Damaged {
            what: "database".into(),
            place: place.to_owned(),
            reason: format!("the record at byte {at} of {name} has a wrong length"),
        }),
    }
}

// Where a record claims to end behind the block or the file although its content ends within.
fn misread_end(bytes: &[u8]) -> Option<usize> {
    let start = bytes.len().saturating_sub(1) / BLOCK_LEN * BLOCK_LEN;
    let block = bytes.get(start..)?;
    let mut at = 0;
    while let Some((header, rest)) = block.get(at..).and_then(|rest| rest.split_first_chunk::<HEADER_LEN>()) {
        let [a, b, c, d, low, high, kind] = *header;
        let len = usize::from(u16::from_le_bytes([low, high]));
        if rest.len() < len {
            let crc = u32::from_le_bytes([a, b, c, d]);
            return ends_within(crc, kind, rest).then_some(start + at);
        }
        at += HEADER_LEN + len;
    }
    None
}

// Whether some beginning of `rest` is the content that the checksum was made of.
fn ends_within(masked: u32, kind: u8, rest: &[u8]) -> bool {
    let mut crc = step(!0, kind);
    for byte in rest {
        crc = step(crc, *byte);
        let found = !crc;
        if found.rotate_right(15).wrapping_add(0xa282_ead8) == masked {
            return true;
        }
    }
    false
}

// CRC-32C, a byte at a time.
fn step(crc: u32, byte: u8) -> u32 {
    (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &[u8]) -> Vec<u8> {
        let crc = !content.iter().fold(step(!0, 1), |crc, byte| step(crc, *byte));
        let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        let len = (content.len() as u16).to_le_bytes();
        [&masked.to_le_bytes(), &len[..], &[1], content].concat()
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(!b"123456789".iter().fold(!0, |crc, byte| step(crc, *byte)), 0xe306_9283);
    }

    #[test]
    fn a_wrong_length_is_told_from_a_torn_end() {
        let whole = [record(b"first"), record(b"second record"), record(b"third")].concat();
        assert_eq!(misread_end(&whole), None);
        for end in 0..whole.len() {
            assert_eq!(misread_end(&whole[..end]), None, "torn at {end}");
        }
        let mut zeros = whole.clone();
        zeros.extend([0; 100]);
        assert_eq!(misread_end(&zeros), None);
        for (at, record) in [(0, 0), (12, 12), (32, 32)] {
            for flip in [0x40, 0x80] {
                let mut bytes = whole.clone();
                bytes[at + 4] ^= flip;
                assert_eq!(misread_end(&bytes), Some(record), "{at} {flip:#x}");
            }
        }
    }
}
