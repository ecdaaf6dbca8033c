//! What is like what: windows of blocks by their hash, of which one in [`SAMPLE`] is kept, chosen by the hash itself, so
//! that equal content has equal windows wherever it lies (Broder, 1997).

/// Bytes of a window.
const WINDOW: usize = 24;
/// One window in so many is kept while there are few.
const SAMPLE: u64 = 32;
/// Windows kept; of more content fewer are sampled.
const WINDOWS_MAX: u64 = 8 << 20;
/// A window that more blocks have says nothing of any of them.
const COMMON: usize = 16;

const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// The index.
pub(super) struct Likeness {
    // Sorted; what was added last waits in `added`.
    windows: Vec<(u32, u32)>,
    added: Vec<(u32, u32)>,
    // A window is kept if its hash, shifted right by this, is 0.
    shift: u32,
    // FACTOR to the power of WINDOW.
    leaving: u64,
}

impl Likeness {
    /// For up to `bytes` of content.
    pub fn new(bytes: u64) -> Self {
        let sample = SAMPLE.max(bytes.div_ceil(WINDOWS_MAX)).next_power_of_two();
        let leaving = (0..WINDOW).fold(1u64, |power, _| power.wrapping_mul(FACTOR));
        Self { windows: Vec::new(), added: Vec::new(), shift: 64 - sample.trailing_zeros(), leaving }
    }

    /// Calls `each` with the sampled windows of `plain`.
    pub fn windows(&self, plain: &[u8], each: &mut impl FnMut(u32)) {
        let Some((first, _)) = plain.split_at_checked(WINDOW) else { return };
        let mut hash = first.iter().fold(0u64, |hash, byte| step(hash, *byte));
        let mut run = 0;
        let gone = plain.iter();
        for (out, into) in gone.zip(plain.get(WINDOW..).unwrap_or_default()) {
            run = if out == into { run + 1 } else { 0 };
            let mixed = (hash ^ (hash >> 29)).wrapping_mul(FACTOR);
            // What repeats with a period that divides the window is no content.
            if mixed >> self.shift == 0 && run < WINDOW {
                each((mixed >> 16) as u32);
            }
            hash = step(hash, *into).wrapping_sub(value(*out).wrapping_mul(self.leaving));
        }
    }

    /// Adds a block; it is found after [`Likeness::settle`].
    pub fn add(&mut self, block: usize, plain: &[u8]) {
        let mut found = Vec::new();
        self.windows(plain, &mut |window| found.push(window));
        self.add_later(block, found.into_iter());
    }

    /// Adds the windows of a block; it is found after [`Likeness::settle`].
    pub fn add_later(&mut self, block: usize, windows: impl Iterator<Item = u32>) {
        self.added.extend(windows.map(|window| (window, block as u32)));
    }

    /// Lets what was added be found.
    pub fn settle(&mut self) {
        self.windows.append(&mut self.added);
        // Two sorted runs, the second a short one: merged in one pass.
        self.windows.sort();
        self.windows.dedup();
    }

    /// The blocks that have `window`, or none if too many have it.
    pub fn blocks(&self, window: u32) -> impl Iterator<Item = usize> {
        let from = self.windows.partition_point(|(other, _)| *other < window);
        let rest = self.windows.get(from..).unwrap_or_default();
        let count = rest.iter().take(COMMON + 1).take_while(|(other, _)| *other == window).count();
        let found = if count > COMMON { &[] } else { rest.get(..count).unwrap_or_default() };
        found.iter().map(|(_, block)| *block as usize)
    }
}

fn value(byte: u8) -> u64 {
    u64::from(byte) + 1
}

fn step(hash: u64, byte: u8) -> u64 {
    hash.wrapping_mul(FACTOR).wrapping_add(value(byte))
}
