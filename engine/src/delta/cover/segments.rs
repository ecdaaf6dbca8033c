//! How the target lies along what is known: a list of segments, each with one distance back to its source, and its
//! coded form. The decoder has all of it before the first byte of data, so it can ask where old content went.

use super::mix::Counter;
use super::range::Side;

/// Sources are at least this far back, so that four bytes from a source's position are always known.
pub(super) const DIST_MIN: u32 = 8;
/// Bytes of target a segment has on average, at least: bounds the list by the target.
pub(super) const SEGMENT_LEN_MEAN_MIN: usize = 8;

/// Bytes that are looked at before a source.
const MARGIN: i64 = 8;
const RECENT: usize = 32;
const LIMIT: u32 = 60;

/// Target bytes from `start` to the next segment are aligned with those `dist` before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u32,
    pub(super) dist: u32,
}

/// The distances used last, the most recent first.
struct Recent([u32; RECENT]);

impl Recent {
    fn new(dist: u32) -> Self {
        let mut recent = [0; RECENT];
        recent[0] = dist;
        Recent(recent)
    }

    fn find(&self, dist: u32) -> Option<usize> {
        self.0.iter().position(|known| *known == dist)
    }

    fn raise(&mut self, index: usize, dist: u32) {
        self.0[..=index].rotate_right(1);
        self.0[0] = dist;
    }
}

/// Numbers by their bit length, then their bits: the upper three adaptive, the rest plain.
struct Number {
    length: Vec<[Counter; 64]>,
    mantissa: Vec<[Counter; 8]>,
}

impl Number {
    fn new(contexts: usize) -> Self {
        Number {
            length: vec![[Counter::NEW; 64]; contexts],
            mantissa: vec![[Counter::NEW; 8]; contexts * 64],
        }
    }

    // `value` is below 2^32 - 1; what is read may be anything below 2^40.
    fn code(&mut self, side: &mut impl Side, context: usize, value: u32) -> u64 {
        let value = u64::from(value) + 1;
        let bits = tree(side, &mut self.length[context], 6, value.ilog2()).min(40);
        let (mut read, mut prefix) = (1u64, 1usize);
        for bit in (0..bits).rev() {
            let truth = value >> bit & 1 == 1;
            let told = if prefix < 8 {
                let told = self.mantissa[context * 64 + bits as usize][prefix].code(side, truth, LIMIT);
                prefix = prefix << 1 | usize::from(told);
                told
            } else {
                side.bit(1 << 15, truth)
            };
            read = read << 1 | u64::from(told);
        }
        read - 1
    }
}

/// Codes `symbol` of `bits` bits by a binary tree of `counters`, which has room for it.
fn tree(side: &mut impl Side, counters: &mut [Counter], bits: u32, symbol: u32) -> u32 {
    let mut node = 1;
    for bit in (0..bits).rev() {
        let told = counters[node].code(side, symbol >> bit & 1 == 1, LIMIT);
        node = node << 1 | usize::from(told);
    }
    node as u32 - (1 << bits)
}

/// Codes the segments of a target that begins at `first` and ends at `end`. The encoder gives the list, the decoder an
/// empty one; both are returned the list. What is not one is an error.
pub(super) fn code_segments(
    side: &mut impl Side,
    given: &[Segment],
    first: u32,
    end: u32,
    dist: u32,
) -> Result<Vec<Segment>, &'static str> {
    let mut numbers = Number::new(1);
    let mut symbols = vec![[Counter::NEW; 64]; 4];
    let mut signs = [Counter::NEW; 2];
    let mut moves = Number::new(2);
    let mut lengths = Number::new(4);
    let mut recent = Recent::new(dist);

    let count = numbers.code(side, 0, given.len() as u32);
    let most = (end - first) as u64 / SEGMENT_LEN_MEAN_MIN as u64 + 1;
    if count == 0 || count > most {
        return Err("more segments than bytes");
    }
    let mut segments: Vec<Segment> = Vec::new();
    let (mut start, mut class, mut long) = (first, 0, false);
    for n in 0..count {
        let told = given.get(n as usize).copied().unwrap_or(Segment { start, dist });
        let index = recent.find(told.dist);
        let symbol = tree(side, &mut symbols[class], 6, index.map_or(0, |index| index as u32 + 1));
        let now = match symbol {
            0 => {
                let last = recent.0[0];
                let less = signs[usize::from(class == 0)].code(side, told.dist < last, LIMIT);
                let by = moves.code(side, usize::from(class == 0), told.dist.abs_diff(last));
                let now = if less { i64::from(last) - by as i64 } else { i64::from(last) + by as i64 };
                recent.raise(RECENT - 1, now.clamp(0, i64::from(u32::MAX)) as u32);
                now
            }
            symbol => {
                let index = symbol as usize - 1;
                let now = *recent.0.get(index).ok_or("a distance that was never used")?;
                recent.raise(index, now);
                i64::from(now)
            }
        };
        if now < i64::from(DIST_MIN) || now + MARGIN > i64::from(start) {
            return Err("a source outside what is known");
        }
        segments.push(Segment { start, dist: now as u32 });
        class = symbol.min(3) as usize;
        if n + 1 < count {
            let next = given.get(n as usize + 1).map_or(start + 1, |next| next.start);
            let context = usize::from(symbol == 0) * 2 + usize::from(long);
            let len = lengths.code(side, context, next - start - 1) + 1;
            if len >= u64::from(end - start) {
                return Err("segments longer than the target");
            }
            start += len as u32;
            long = len > 256;
        }
    }
    Ok(segments)
}

const BLOCK: u32 = 8;

/// Answers where the bytes at an old place went.
pub(super) struct CoverMap {
    segments: Vec<Segment>,
    first: u32,
    end: u32,
    // The segment that holds the first byte of every block of the target.
    blocks: Vec<u32>,
}

impl CoverMap {
    /// Segments as coded between the same bounds.
    pub(super) fn new(segments: Vec<Segment>, first: u32, end: u32) -> Self {
        let mut blocks = Vec::with_capacity(((end - first) >> BLOCK) as usize + 1);
        let mut index = 0u32;
        for at in (first..end).step_by(1 << BLOCK) {
            while segments.get(index as usize + 1).is_some_and(|next| next.start <= at) {
                index += 1;
            }
            blocks.push(index);
        }
        CoverMap { segments, first, end, blocks }
    }

    /// The segment `index` and where it ends.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<(Segment, u32)> {
        let segment = *self.segments.get(index)?;
        Some((segment, self.segments.get(index + 1).map_or(self.end, |next| next.start)))
    }

    /// The distance of a segment whose source holds `old`, looked for near where `dist` would put it.
    #[inline]
    pub(super) fn dist_of(&self, old: u32, dist: u32) -> Option<u32> {
        let guess = old.wrapping_add(dist);
        let block = guess.wrapping_sub(self.first) >> BLOCK;
        let mut index = *self.blocks.get(block as usize)? as usize;
        while self.segments.get(index + 1).is_some_and(|next| next.start <= guess) {
            index += 1;
        }
        let holds = |index: usize| {
            let (segment, end) = self.get(index)?;
            let at = old.wrapping_add(segment.dist);
            (segment.start <= at && at < end).then_some(segment.dist)
        };
        holds(index).or_else(|| {
            (1..=4).find_map(|by| holds(index + by).or_else(|| index.checked_sub(by).and_then(holds)))
        })
    }
}
