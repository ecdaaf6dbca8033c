//! Where the bytes just coded occurred before, anywhere in reference or target: guesses at the next byte for content
//! that no segment covers.

/// Known bytes are entered at every fourth place, coded ones at each.
const STEP: usize = 4;
/// Lengths of the keys of the two trails.
const LONG: usize = 12;
const SHORT: usize = 6;
/// A match is verified this far back.
const VERIFY_MAX: usize = 48;
/// Shortest match that is followed.
const MATCH_MIN: usize = 5;
/// A match is given up after so many misses, unless so many bytes agree again: a name may have changed in what goes on
/// alike.
const MISSES_MAX: u32 = 8;
const HEALED: usize = 16;

/// A guess at the next byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) byte: u8,
    /// 1 to 15, by how many bytes agreed and how many did not before.
    pub(super) class: u32,
}

/// A match that is being followed.
#[derive(Default, Clone, Copy)]
struct Trail {
    /// Where the guess is; 0 for none.
    from: usize,
    len: usize,
    misses: u32,
}

impl Trail {
    #[inline]
    fn follow(&mut self, bytes: &[u8], at: usize) {
        if self.from == 0 {
            return;
        }
        let agrees = bytes[self.from] == bytes[at - 1];
        self.from += 1;
        if agrees {
            self.len += 1;
            self.misses = if self.len >= HEALED { 0 } else { self.misses };
        } else {
            (self.len, self.misses) = (0, self.misses + 1);
            if self.misses > MISSES_MAX {
                *self = Trail::default();
            }
        }
    }

    /// Looks whether the place `from` agrees for longer.
    #[inline]
    fn consider(&mut self, bytes: &[u8], at: usize, from: usize) {
        let most = VERIFY_MAX.min(from);
        let len = (1..=most).take_while(|n| bytes[from - n] == bytes[at - n]).count();
        if len >= MATCH_MIN && len > self.len {
            *self = Trail { from, len, misses: 0 };
        }
    }

    #[inline]
    fn guess(&self, bytes: &[u8]) -> Option<Guess> {
        if self.from == 0 {
            return None;
        }
        let class = match (self.misses, self.len) {
            (0, len) => 8 + (len as u32 / 8).min(3) + (len as u32 / 32).min(4),
            (misses, len) => 1 + (len as u32 / 2).min(4) + 2 * u32::from(misses < 3),
        };
        Some(Guess { byte: bytes[self.from], class: class.min(15) })
    }
}

/// Two trails, found by a long and a short key, and the places of keys.
pub(super) struct Echo {
    long: Vec<u32>,
    short: Vec<u32>,
    trails: [Trail; 2],
    /// What the tables held for the current place before it was entered.
    found: [u32; 2],
}

impl Echo {
    /// Tables of `1 << bits` places, with every fourth place of `known` from `first` on.
    pub(super) fn new(bits: u32, known: &[u8], first: usize) -> Self {
        let trails = [Trail::default(); 2];
        let mut echo = Echo { long: vec![0; 1 << bits], short: vec![0; 1 << bits], trails, found: [0; 2] };
        for at in (first..known.len()).step_by(STEP) {
            echo.enter(known, at);
        }
        echo
    }

    fn slots(&self, bytes: &[u8], at: usize) -> Option<(usize, usize)> {
        const _: () = assert!(SHORT == 6 && LONG == 2 * SHORT);
        let [a, b, c, d, e, f, g, h, i, j, k, l]: [u8; LONG] =
            *bytes.get(at.checked_sub(LONG)?..at)?.first_chunk()?;
        let first = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let second = u64::from_le_bytes([g, h, i, j, k, l, 0, 0]);
        let short = second.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let long = (first.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ second).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let shift = 64 - self.long.len().ilog2();
        Some(((long >> shift) as usize, (short >> shift) as usize))
    }

    #[inline]
    fn enter(&mut self, bytes: &[u8], at: usize) {
        self.found = [0; 2];
        if let Some((long, short)) = self.slots(bytes, at) {
            let (long, short) = (&mut self.long[long], &mut self.short[short]);
            self.found = [*long, *short];
            (*long, *short) = (at as u32, at as u32);
        }
    }

    /// Goes on after the byte before `at` was coded; where nothing mismatched lately, a guess is not looked for.
    #[inline]
    pub(super) fn follow(&mut self, bytes: &[u8], at: usize, is_needed: bool) {
        for trail in &mut self.trails {
            trail.follow(bytes, at);
        }
        self.found = [0; 2];
        if is_needed || at.is_multiple_of(STEP) {
            self.enter(bytes, at);
        }
    }

    /// Goes on after the bytes from `start` to `at` were copied.
    pub(super) fn skip(&mut self, bytes: &[u8], start: usize, at: usize) {
        self.trails = [Trail::default(); 2];
        for at in (start..at).step_by(STEP) {
            self.enter(bytes, at);
        }
        self.enter(bytes, at);
    }

    /// The guesses for the byte at `at`, by the long key and by the short one. The second is none where it is the same.
    #[inline]
    pub(super) fn guesses(&mut self, bytes: &[u8], at: usize) -> [Option<Guess>; 2] {
        for (trail, from) in self.trails.iter_mut().zip(self.found) {
            if trail.len < HEALED && from > 0 {
                trail.consider(bytes, at, from as usize);
            }
        }
        let [long, short] = &mut self.trails;
        if long.from == 0 {
            std::mem::swap(long, short);
        }
        let second = if short.from == long.from { None } else { short.guess(bytes) };
        [long.guess(bytes), second]
    }
}
