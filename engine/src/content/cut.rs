//! Where a chunk ends: FastCDC v2020, 16/64/256 KiB, normalisation level 1 (Xia et al., 2020). A format: the
//! tables and masks are those of the pinned `fastcdc` crate, and `testdata/cuts` proves that they stay.
//!
//! The search is our own, because one Gear hash is a chain of dependent additions that leaves most of a core idle. A
//! candidate is tested by bits 0 to 47 of the hash, so it depends on the last 48 bytes only, and several stretches of
//! the data can be searched at once. Of several hits the first in the data counts: the cuts are those of the serial
//! search, bit for bit.

use std::borrow::Cow;
use std::sync::LazyLock;

use fastcdc::v2020::{MASKS, get_gear_with_seed};

/// The chunker's parameters; part of every version's root, so that equal trees have equal ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct CutParams {
    /// Number of the algorithm: 1 is FastCDC v2020 at normalisation level 1.
    pub algorithm: u8,
    /// Bytes never cut within.
    pub min: u32,
    /// Aimed-at bytes; the mean comes out about a quarter larger.
    pub avg: u32,
    /// Most bytes of a chunk.
    pub max: u32,
}

impl CutParams {
    /// The parameters of format 1, the only ones.
    pub const V1: CutParams = CutParams { algorithm: 1, min: 16 << 10, avg: 64 << 10, max: 256 << 10 };
}

const MIN: usize = CutParams::V1.min as usize;
const AVG: usize = CutParams::V1.avg as usize;
const MAX: usize = CutParams::V1.max as usize;

// 64 KiB is 2^16; level 1 asks for one bit more before the average and one less after it.
const MASK_SMALL: u64 = MASKS[17];
const MASK_LARGE: u64 = MASKS[15];

// Bytes before a candidate that its test depends on.
const WINDOW: usize = 47;
const _: () = assert!(MASK_SMALL >> (WINDOW + 1) == 0 && MASK_LARGE >> (WINDOW + 1) == 0);

// Stretches searched at once, and bytes of each. Together they divide what lies between MIN, AVG and MAX; half of them is
// searched in vain for each chunk.
const STRIPS: usize = 3;
const STRIP: usize = 2 << 10;
const _: () =
    assert!((AVG - MIN).is_multiple_of(STRIPS * STRIP) && (MAX - AVG).is_multiple_of(STRIPS * STRIP));

// Bytes in pairs, because a step takes two. Of fixed length, so that no bound is checked in the loop.
type Strip = [[u8; 2]; STRIP / 2];

type Gear = [u64; 256];

/// The crate's table, and the same shifted by one bit: with both, a step takes two bytes.
#[derive(Clone, Copy)]
struct Gears {
    one: &'static Gear,
    two: &'static Gear,
}

static GEARS: LazyLock<Gears> = LazyLock::new(|| {
    let (one, two) = get_gear_with_seed(0);
    let table = |table| match table {
        Cow::Borrowed(table) => <&Gear>::try_from(table).expect("a Gear table has 256 entries"),
        Cow::Owned(_) => unreachable!("seed 0 changes nothing"),
    };
    Gears { one: table(one), two: table(two) }
});

/// Returns the length of the first chunk of `data`: all of it if it is at most 16 KiB, else 16 KiB to 256 KiB.
/// `data` must be the rest of the file, or at least 256 KiB of it. Cuts as [`CutParams::V1`] says.
pub fn cut(data: &[u8]) -> usize {
    if data.len() <= MIN {
        return data.len();
    }
    let data = &data[..data.len().min(MAX)];
    // An odd last byte is never a candidate.
    let end = data.len() & !1;
    let center = AVG.min(end);
    let gears = *GEARS;

    let hit = first_hit(gears, data, MIN, center, MASK_SMALL);
    let hit = hit.or_else(|| first_hit(gears, data, center, end, MASK_LARGE));
    hit.unwrap_or(data.len())
}

/// The lengths of the chunks at the front of `rest`, the rest of a file or the beginning of it: all of them if it has
/// `ended`, else those that what follows cannot change.
pub fn cut_all(mut rest: &[u8], ended: bool) -> Vec<usize> {
    let mut lens = Vec::new();
    while rest.len() >= MAX || (ended && !rest.is_empty()) {
        let len = cut(rest);
        lens.push(len);
        rest = rest.get(len..).unwrap_or_default();
    }
    lens
}

// The first position in `from..to` whose hash, over the bytes from MIN on, passes the mask.
fn first_hit(gears: Gears, data: &[u8], from: usize, to: usize, mask: u64) -> Option<usize> {
    let (mut from, mut rest) = (from, data.get(from..to)?);
    while let Some((block, tail)) = rest.split_at_checked(STRIPS * STRIP) {
        let strips = block.as_chunks::<2>().0.as_chunks().0.first_chunk()?;
        let hashes = std::array::from_fn(|index| warm_up(gears.one, data, from + index * STRIP));
        if let Some(at) = search_strips(gears, strips, hashes, mask) {
            return earliest(gears.one, data, from, at, mask);
        }
        (from, rest) = (from + block.len(), tail);
    }
    search(gears.one, rest, warm_up(gears.one, data, from), mask).map(|hit| from + hit)
}

// The hash just before position `at`, as far as tests from there on can see it.
fn warm_up(gear: &Gear, data: &[u8], at: usize) -> u64 {
    let start = at.saturating_sub(WINDOW).max(MIN);
    data[start..at].iter().fold(0, |hash, byte| step(gear, hash, *byte))
}

fn step(gear: &Gear, hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(gear[usize::from(byte)])
}

fn search(gear: &Gear, data: &[u8], mut hash: u64, mask: u64) -> Option<usize> {
    data.iter().position(|byte| {
        hash = step(gear, hash, *byte);
        hash & mask == 0
    })
}

// Searches all strips in step; returns where in its strip the pair is that has the first hit. Each test is a branch of
// its own: collected in a flag, tests cost a third of the speed. After the first of two bytes the hash stands shifted by
// one more bit, so it is tested with the mask shifted too: no mask has bit 63.
fn search_strips(gears: Gears, strips: &[Strip; STRIPS], start: [u64; STRIPS], mask: u64) -> Option<usize> {
    let Gears { one, two } = gears;
    let mut hashes = start;
    for at in 0..STRIP / 2 {
        for (hash, strip) in hashes.iter_mut().zip(strips) {
            let [first, second] = strip[at];
            *hash = (*hash << 2).wrapping_add(two[usize::from(first)]);
            if *hash & (mask << 1) == 0 {
                return Some(2 * at);
            }
            *hash = hash.wrapping_add(one[usize::from(second)]);
            if *hash & mask == 0 {
                return Some(2 * at);
            }
        }
    }
    None
}

// The first hit in strips that have one at `at` or right after it, and none before: what is left of each strip is
// searched before the next one.
fn earliest(gear: &Gear, data: &[u8], from: usize, at: usize, mask: u64) -> Option<usize> {
    (0..STRIPS).find_map(|index| {
        let (start, end) = (from + index * STRIP + at, from + (index + 1) * STRIP);
        search(gear, data.get(start..end)?, warm_up(gear, data, start), mask).map(|hit| start + hit)
    })
}

#[cfg(test)]
mod tests {
    use fastcdc::v2020::{FastCDC, Normalization};
    use proptest::prelude::*;

    use super::*;

    // The rule in its plainest form, byte by byte. An odd last byte is never a candidate.
    fn plain_cut(data: &[u8], gear: &Gear) -> usize {
        let (min, avg, max) = (16 << 10, 64 << 10, 256 << 10);
        if data.len() <= min {
            return data.len();
        }
        let window = data.len().min(max);
        let center = avg.min(window);
        let mut hash = 0u64;
        for at in min..window / 2 * 2 {
            hash = (hash << 1).wrapping_add(gear[usize::from(data[at])]);
            let mask = if at < center / 2 * 2 { MASK_SMALL } else { MASK_LARGE };
            if hash & mask == 0 {
                return at;
            }
        }
        window
    }

    fn content() -> impl Strategy<Value = Vec<u8>> {
        let pattern = prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..64),
            Just(vec![0]),
            Just((0..251).collect::<Vec<u8>>())
        ];
        (pattern, 0usize..700_000, any::<u64>(), 0u8..4).prop_map(|(pattern, len, seed, noise)| {
            let mut state = seed | 1;
            let random = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let mut random = random;
            pattern
                .iter()
                .cycle()
                .take(len)
                .map(|byte| if random() % 4 < u64::from(noise) { random() as u8 } else { *byte })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn equal_to_the_crate_and_to_the_plain_rule(data in content()) {
            let gear = GEARS.one;
            let oracle = FastCDC::with_level(&data, 16 << 10, 64 << 10, 256 << 10, Normalization::Level1);
            let mut rest = data.as_slice();
            for chunk in oracle {
                let len = cut(rest);
                prop_assert_eq!(len, chunk.length);
                prop_assert_eq!(len, plain_cut(rest, gear));
                rest = &rest[len..];
            }
            prop_assert!(rest.is_empty());
        }
    }
}
