//! Where the target's content is in what is known: the encoder's choice of segments. Nothing here is part of the format.
//!
//! Hash chains over reference and earlier target, of eight bytes, and of 32 for long matches that are far down a chain. A place is looked up only where the current segment stops matching; a
//! match is taken when the bits it saves pay for the segment.

use super::segments::{DIST_MIN, SEGMENT_LEN_MEAN_MIN, Segment};

/// Under the current distance so many matching bytes are passed without a search.
const PASS: usize = 24;
/// Segments may begin this far before the match that justified them.
const BACK_MAX: usize = 2048;
const BACK_SCORE: i32 = 24;
const RECENT: usize = 8;

/// How content of one kind is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taste {
    /// Shortest match that is taken.
    pub(super) len_min: usize,
    /// Bits that a byte costs when it is not covered.
    pub(super) byte_bits: u32,
    /// Bits that must be saved beyond the price of the segment.
    pub(super) margin: u32,
}

/// Machine code and tables: short matches put addresses in phase.
pub(super) const BINARY: Taste = Taste { len_min: 10, byte_bits: 8, margin: 16 };
/// The same, where instructions are four bytes.
pub(super) const ARM64: Taste = Taste { len_min: 9, byte_bits: 8, margin: 12 };
/// Text: what is not covered is cheap for the model of bytes.
pub(super) const TEXT: Taste = Taste { len_min: 32, byte_bits: 2, margin: 20 };

/// How many candidates of a chain are looked at.
pub(super) const DEPTH_LIGHT: u32 = 16;
pub(super) const DEPTH_MIXED: u32 = 24;

struct Index {
    heads: Vec<u32>,
    before: Vec<u32>,
    long: Vec<[u32; 2]>,
}

#[inline]
fn eight(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

#[inline]
fn slot(key: u64, bits: u32) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as usize
}

impl Index {
    fn new(len: usize) -> Self {
        let bits = (len.max(1).ilog2()).clamp(12, 22);
        Index { heads: vec![0; 1 << bits], before: vec![0; len], long: vec![[0; 2]; 1 << (bits - 1)] }
    }

    #[inline]
    fn long_slot(&self, bytes: &[u8], at: usize) -> Option<usize> {
        // One place in eight, chosen by content, so that equal content is sampled alike.
        let middle = eight(bytes, at + 12)?;
        if slot(middle, 3) != 0 {
            return None;
        }
        let all = [eight(bytes, at)?, middle, eight(bytes, at + 24)?];
        let key = all
            .iter()
            .fold(0u64, |key, part| (key ^ part).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(23));
        Some(slot(key, self.long.len().ilog2()))
    }

    #[inline]
    fn insert(&mut self, bytes: &[u8], at: usize) {
        let Some(key) = eight(bytes, at) else { return };
        // Runs of one byte would fill a chain.
        if key == key.rotate_left(8) {
            return;
        }
        let head = slot(key, self.heads.len().ilog2());
        self.before[at] = self.heads[head];
        self.heads[head] = at as u32;
        if let Some(slot) = self.long_slot(bytes, at) {
            let [newest, _] = self.long[slot];
            self.long[slot] = [at as u32, newest];
        }
    }
}

/// Length of the match of two places, below `most`.
#[inline]
fn match_len(bytes: &[u8], a: usize, b: usize, most: usize) -> usize {
    let mut len = 0;
    while len + 8 <= most {
        let (Some(x), Some(y)) = (eight(bytes, a + len), eight(bytes, b + len)) else { break };
        if x != y {
            return len + (x ^ y).trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    while len < most && bytes[a + len] == bytes[b + len] {
        len += 1;
    }
    len
}

#[inline]
fn equal_bytes(bytes: &[u8], a: usize, b: usize, len: usize) -> usize {
    bytes[a..a + len].iter().zip(&bytes[b..b + len]).filter(|(a, b)| a == b).count()
}

/// Estimated bits of a segment with a new distance.
#[inline]
fn price(dist: u32, now: u32) -> u32 {
    16 + (32 - dist.abs_diff(now).leading_zeros())
}

const PRICE_RECENT: u32 = 13;

/// A match: its length and distance, and what it is worth.
#[derive(Clone, Copy)]
struct Found {
    len: usize,
    dist: u32,
    score: i64,
}

struct Search<'a> {
    bytes: &'a [u8],
    index: Index,
    dist: u32,
    recent: [u32; RECENT],
    depth: u32,
}

impl Search<'_> {
    fn judge(&self, at: usize, from: usize, taste: &Taste, price: u32, best: &mut Option<Found>) {
        let dist = (at - from) as u32;
        if dist < DIST_MIN {
            return;
        }
        let len = match_len(self.bytes, from, at, self.bytes.len() - at);
        if len < DIST_MIN as usize {
            return;
        }
        let score = len as i64 * i64::from(taste.byte_bits) - i64::from(price);
        if best.is_none_or(|best| score > best.score) {
            *best = Some(Found { len, dist, score });
        }
    }

    fn best(&self, at: usize, lowest: usize, taste: &Taste) -> Option<Found> {
        let bytes = self.bytes;
        let mut best: Option<Found> = None;
        for dist in self.recent {
            if dist >= DIST_MIN && dist as usize + lowest <= at {
                self.judge(at, at - dist as usize, taste, PRICE_RECENT, &mut best);
            }
        }
        let try_at = |from: usize, best: &mut Option<Found>| {
            // Worth a closer look only if it matches where a better one must.
            let beyond = best.map_or(0, |best| best.len.saturating_sub(4));
            if from >= lowest && from < at && bytes.get(from + beyond) == bytes.get(at + beyond) {
                let dist = (at - from) as u32;
                self.judge(at, from, taste, price(dist, self.dist), best);
            }
        };
        if let Some(slot) = self.index.long_slot(bytes, at) {
            for from in self.index.long[slot] {
                try_at(from as usize, &mut best);
            }
        }
        if let Some(key) = eight(bytes, at) {
            let mut from = self.index.heads[slot(key, self.index.heads.len().ilog2())] as usize;
            for _ in 0..self.depth {
                if from < lowest {
                    break;
                }
                try_at(from, &mut best);
                from = self.index.before[from] as usize;
            }
        }
        best
    }
}

/// Chooses segments for the target that begins at `first`; sources begin at `lowest`. `dist` is the first distance.
pub(super) fn find_segments(
    bytes: &[u8],
    lowest: usize,
    first: usize,
    dist: u32,
    depth: u32,
    taste: impl Fn(usize) -> Taste,
) -> Vec<Segment> {
    let mut search = Search { bytes, index: Index::new(bytes.len()), dist, recent: [dist; RECENT], depth };
    for at in lowest..first {
        search.index.insert(bytes, at);
    }
    let mut segments = vec![Segment { start: first as u32, dist }];
    let (mut at, mut inserted) = (first, first);
    while at < bytes.len() {
        let now = search.dist as usize;
        let matching = match_len(bytes, at - now, at, bytes.len() - at);
        let mut next = at + matching.max(1);
        if matching < PASS {
            for place in inserted..at {
                search.index.insert(bytes, place);
            }
            inserted = at;
            let taste = taste(at);
            if let Some(found) = search.best(at, lowest, &taste).filter(|found| found.dist != search.dist) {
                let equal = equal_bytes(bytes, at, at - now, found.len);
                let known = search.recent.contains(&found.dist);
                let cost = if known { PRICE_RECENT } else { price(found.dist, search.dist) } + taste.margin;
                let saved = (found.len - equal) as u64 * u64::from(taste.byte_bits);
                let len_min = if known { DIST_MIN as usize } else { taste.len_min };
                if found.len >= len_min && saved > u64::from(cost) {
                    begin(bytes, &mut segments, at, found.dist, lowest);
                    search.dist = found.dist;
                    let place =
                        search.recent.iter().position(|dist| *dist == found.dist).unwrap_or(RECENT - 1);
                    search.recent[..=place].rotate_right(1);
                    search.recent[0] = found.dist;
                    next = at + found.len;
                }
            }
        }
        at = next;
    }
    merge(bytes, &segments, &taste)
}

/// Begins a segment at `at`, or before it where the new distance already matched better than the old one.
fn begin(bytes: &[u8], segments: &mut Vec<Segment>, at: usize, dist: u32, lowest: usize) {
    let Some(last) = segments.last().copied() else { return };
    let floor = (last.start as usize).max(at.saturating_sub(BACK_MAX)).max(lowest + dist as usize);
    let (mut place, mut start, mut score, mut best) = (at, at, 0i32, 0i32);
    while place > floor && score > best - BACK_SCORE {
        place -= 1;
        score += i32::from(bytes[place] == bytes[place - dist as usize]);
        score -= i32::from(bytes[place] == bytes[place - last.dist as usize]);
        if score > best {
            (best, start) = (score, place);
        }
    }
    if start <= last.start as usize {
        segments.pop();
    }
    let start = start as u32;
    if segments.last().is_none_or(|last| last.dist != dist) {
        segments.push(Segment { start, dist });
    }
}

/// Drops segments that do not pay, from left to right.
fn merge(bytes: &[u8], segments: &[Segment], taste: &impl Fn(usize) -> Taste) -> Vec<Segment> {
    let mut kept: Vec<Segment> = Vec::with_capacity(segments.len());
    let most =
        segments.first().map_or(0, |first| bytes.len() - first.start as usize) / SEGMENT_LEN_MEAN_MIN + 1;
    for (n, segment) in segments.iter().enumerate() {
        let Some(last) = kept.last().copied() else {
            kept.push(*segment);
            continue;
        };
        if last.dist == segment.dist || kept.len() >= most {
            continue;
        }
        let next = segments.get(n + 1);
        let (start, end) = (segment.start as usize, next.map_or(bytes.len(), |next| next.start as usize));
        let here = equal_bytes(bytes, start, start - segment.dist as usize, end - start);
        let there = equal_bytes(bytes, start, start - last.dist as usize, end - start);
        let taste = taste(start);
        let returns = next.is_some_and(|next| next.dist == last.dist);
        let cost = if returns { 2 * PRICE_RECENT } else { PRICE_RECENT } + taste.margin / 2;
        if (here.saturating_sub(there)) as u64 * u64::from(taste.byte_bits) >= u64::from(cost) {
            kept.push(*segment);
        }
    }
    kept
}
