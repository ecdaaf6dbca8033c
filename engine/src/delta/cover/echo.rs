//! Where the bytes just coded occurred before, anywhere in reference or target: a guess at the next byte for content
//! that no segment covers.

/// Known bytes are entered at every fourth place, coded ones at each.
const STEP: usize = 4;
/// Lengths of the two keys.
const LONG: usize = 12;
const SHORT: usize = 6;
/// A match is verified this far back.
const VERIFY_MAX: usize = 48;
/// Shortest match that is followed.
const MATCH_MIN: usize = 5;

/// A match that is being followed, and the places of keys.
pub(super) struct Echo {
    long: Vec<u32>,
    short: Vec<u32>,
    /// Where the guess is; 0 for none.
    from: usize,
    len: usize,
}

impl Echo {
    /// Tables of `1 << bits` places, with every fourth place of `known` from `first` on.
    pub(super) fn new(bits: u32, known: &[u8], first: usize) -> Self {
        let mut echo = Echo { long: vec![0; 1 << bits], short: vec![0; 1 << bits], from: 0, len: 0 };
        for at in (first..known.len()).step_by(STEP) {
            echo.enter(known, at);
        }
        echo
    }

    fn slots(&self, bytes: &[u8], at: usize) -> Option<(usize, usize)> {
        let last: &[u8; LONG] = bytes.get(at.checked_sub(LONG)?..at)?.try_into().ok()?;
        let [a, b, c, d, e, f, rest @ ..] = last;
        let first = u64::from_le_bytes([*a, *b, *c, *d, *e, *f, 0, 0]);
        let second = u64::from_le_bytes([rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], 0, 0]);
        let short = second.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let long = (first.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ second).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        let shift = 64 - self.long.len().ilog2();
        const _: () = assert!(SHORT == 6 && LONG == 2 * SHORT);
        Some(((long >> shift) as usize, (short >> shift) as usize))
    }

    #[inline]
    fn enter(&mut self, bytes: &[u8], at: usize) {
        if let Some((long, short)) = self.slots(bytes, at) {
            self.long[long] = at as u32;
            self.short[short] = at as u32;
        }
    }

    /// Goes on after the byte before `at` was coded.
    #[inline]
    pub(super) fn follow(&mut self, bytes: &[u8], at: usize) {
        if self.from > 0 {
            if bytes[self.from] == bytes[at - 1] {
                self.from += 1;
                self.len += 1;
            } else {
                (self.from, self.len) = (0, 0);
            }
        }
        self.enter(bytes, at);
    }

    /// Goes on after the bytes from `start` to `at` were copied.
    pub(super) fn skip(&mut self, bytes: &[u8], start: usize, at: usize) {
        (self.from, self.len) = (0, 0);
        for at in (start..=at).step_by(STEP) {
            self.enter(bytes, at);
        }
    }

    /// The guess for the byte at `at`, and how many bytes before it agreed.
    #[inline]
    pub(super) fn guess(&mut self, bytes: &[u8], at: usize) -> Option<(u8, usize)> {
        if self.from == 0 {
            let (long, short) = self.slots(bytes, at)?;
            for from in [self.long[long] as usize, self.short[short] as usize] {
                let most = VERIFY_MAX.min(from);
                let len = (1..=most).take_while(|n| bytes[from - n] == bytes[at - n]).count();
                if len >= MATCH_MIN && len > self.len {
                    (self.from, self.len) = (from, len);
                }
            }
        }
        (self.from > 0).then(|| (bytes[self.from], self.len))
    }
}
