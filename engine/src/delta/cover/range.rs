//! The binary range coder. One trait for both directions: the walk over a unit is written once, and what the encoder
//! knows of the target the decoder is told, so the two cannot drift apart.
//!
//! 64-bit range, renormalised by whole 32-bit words, big-endian. A probability is 16 bits, never 0 or 65536.

/// Probabilities are clamped to `P_MIN..=65536 - P_MIN`.
const P_MIN: u32 = 3;

/// One direction of coding.
pub(super) trait Side {
    /// Codes one decision whose probability to be 1 is `p` in 65536ths. The encoder is given the `truth`, the decoder
    /// ignores it and returns what it reads.
    fn bit(&mut self, p: u32, truth: bool) -> bool;

    /// The target's byte at `at`; 0 where it is not known, or not yet.
    fn byte(&self, at: usize) -> u8;

    /// The target's four bytes from `at`, little-endian; 0 as above.
    fn word(&self, at: usize) -> u32;

    /// Whether the target's bytes from `at` are `old`; `false` as above.
    fn equal(&self, at: usize, old: &[u8]) -> bool;
}

fn split(range: u64, p: u32) -> u64 {
    (range >> 16) * u64::from(p.clamp(P_MIN, 65536 - P_MIN))
}

/// Writes.
pub(super) struct Encoder<'a> {
    target: &'a [u8],
    low: u64,
    range: u64,
    out: Vec<u8>,
}

impl<'a> Encoder<'a> {
    /// Appends to `out` what is coded of `target`.
    pub(super) fn new(target: &'a [u8], out: Vec<u8>) -> Self {
        Encoder { target, low: 0, range: u64::MAX, out }
    }

    fn carry(&mut self) {
        for byte in self.out.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }

    /// Ends the stream with the fewest bytes that name a point of the last range; a reader goes on with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for bytes in 0..=8u32 {
            let below = u64::MAX.checked_shr(8 * bytes).unwrap_or(0);
            let (sum, over) = self.low.overflowing_add(below);
            let point = sum & !below;
            if point.wrapping_sub(self.low) < self.range {
                if over {
                    self.carry();
                }
                self.out.extend_from_slice(&point.to_be_bytes()[..bytes as usize]);
                break;
            }
        }
        self.out
    }
}

impl Side for Encoder<'_> {
    #[inline]
    fn bit(&mut self, p: u32, truth: bool) -> bool {
        let bound = split(self.range, p);
        if truth {
            self.range = bound;
        } else {
            let (low, over) = self.low.overflowing_add(bound);
            self.low = low;
            self.range -= bound;
            if over {
                self.carry();
            }
        }
        if self.range >> 32 == 0 {
            self.out.extend_from_slice(&((self.low >> 32) as u32).to_be_bytes());
            self.low <<= 32;
            self.range <<= 32;
        }
        truth
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        self.target.get(at).copied().unwrap_or(0)
    }

    #[inline]
    fn word(&self, at: usize) -> u32 {
        self.target.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
    }

    #[inline]
    fn equal(&self, at: usize, old: &[u8]) -> bool {
        self.target.get(at..).is_some_and(|rest| rest.starts_with(old))
    }
}

/// Reads.
pub(super) struct Decoder<'a> {
    input: &'a [u8],
    // May run past the end of `input`, which goes on with zeros.
    at: usize,
    code: u64,
    range: u64,
}

impl<'a> Decoder<'a> {
    /// Begins at the start of `input`.
    pub(super) fn new(input: &'a [u8]) -> Self {
        let mut decoder = Decoder { input, at: 0, code: 0, range: u64::MAX };
        decoder.take();
        decoder.take();
        decoder
    }

    #[inline]
    fn take(&mut self) {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let word = match rest.first_chunk() {
            Some(word) => *word,
            None => {
                let mut word = [0; 4];
                word[..rest.len()].copy_from_slice(rest);
                word
            }
        };
        self.at += 4;
        self.code = self.code << 32 | u64::from(u32::from_be_bytes(word));
    }

    /// Whether more was read than a sound stream can make a reader read.
    pub(super) fn is_past_end(&self) -> bool {
        self.at > self.input.len() + 8
    }

    /// Whether all of the input was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.input.len()
    }
}

impl Side for Decoder<'_> {
    #[inline]
    fn bit(&mut self, p: u32, _: bool) -> bool {
        let bound = split(self.range, p);
        let bit = self.code < bound;
        if bit {
            self.range = bound;
        } else {
            self.code -= bound;
            self.range -= bound;
        }
        if self.range >> 32 == 0 {
            self.range <<= 32;
            self.take();
        }
        bit
    }

    #[inline]
    fn byte(&self, _: usize) -> u8 {
        0
    }

    #[inline]
    fn word(&self, _: usize) -> u32 {
        0
    }

    #[inline]
    fn equal(&self, _: usize, _: &[u8]) -> bool {
        false
    }
}
