//! Adaptive probabilities and their mixing. All of it is integer arithmetic on embedded constants: two machines must
//! come to the same probability to the last bit.

use super::range::Side;

/// e^(-1/256) times 2^63.
const DECAY: u64 = 9_187_413_517_043_429_148;
/// The stretched domain is `-STRETCH_MAX..=STRETCH_MAX`, in 256ths.
const STRETCH_MAX: i32 = 12 * 256 - 1;

/// 65536 / (1 + e^(-x/256)) for x from 0 on.
static SQUASH: [u16; STRETCH_MAX as usize + 1] = squash_table();
/// 256 ln(p / (1 - p)) for p in 4096ths, at the middle of each step.
static STRETCH: [i16; 4096] = stretch_table();
/// 65536 / (n + 1.6): how far a counter that was moved n times moves.
static PACE: [u32; 1024] = pace_table();

const fn squash_table() -> [u16; STRETCH_MAX as usize + 1] {
    let mut table = [0; STRETCH_MAX as usize + 1];
    let mut power: u128 = 1 << 63;
    let mut x = 0;
    while x < table.len() {
        let p = (1u128 << 79) / ((1 << 63) + power);
        table[x] = if p > 65535 { 65535 } else { p as u16 };
        power = (power * DECAY as u128) >> 63;
        x += 1;
    }
    table
}

const fn stretch_table() -> [i16; 4096] {
    let squash = squash_table();
    let mut table = [0; 4096];
    let (mut p, mut x) = (2048, 0);
    while p < 4096 {
        while x < STRETCH_MAX as usize && (squash[x] as usize) < p * 16 + 8 {
            x += 1;
        }
        table[p] = x as i16;
        table[4095 - p] = -(x as i16);
        p += 1;
    }
    table
}

const fn pace_table() -> [u32; 1024] {
    let mut table = [0; 1024];
    let mut n = 0;
    while n < table.len() {
        table[n] = 5 * 65536 / (5 * n as u32 + 8);
        n += 1;
    }
    table
}

#[inline]
fn squash(x: i32) -> u32 {
    let x = x.clamp(-STRETCH_MAX, STRETCH_MAX);
    let p = u32::from(SQUASH[x.unsigned_abs() as usize]);
    if x < 0 { 65536 - p } else { p }
}

/// A probability that learns: 22 bits of it above 10 bits of how often it was moved.
#[derive(Clone, Copy)]
pub(super) struct Counter(u32);

impl Counter {
    /// One half, never moved.
    pub(super) const NEW: Counter = Counter(1 << 31);

    /// In 65536ths.
    #[inline]
    pub(super) fn p(self) -> u32 {
        self.0 >> 16
    }

    #[inline]
    pub(super) fn stretched(self) -> i32 {
        i32::from(STRETCH[(self.0 >> 20) as usize])
    }

    /// Whether it was ever moved.
    #[inline]
    pub(super) fn is_known(self) -> bool {
        self.0 & 1023 != 0
    }

    /// Moves towards `bit`, by at least 1 / (`limit` + 1.6).
    #[inline]
    pub(super) fn update(&mut self, bit: bool, limit: u32) {
        let (p, n) = ((self.0 >> 10) as i32, self.0 & 1023);
        let goal = if bit { (1 << 22) - 1 } else { 0 };
        let step = (i64::from(goal - p) * i64::from(PACE[n as usize])) >> 16;
        self.0 = (p.wrapping_add(step as i32) as u32) << 10 | (n + u32::from(n < limit));
    }

    /// Codes a decision by this counter alone.
    #[inline]
    pub(super) fn code(&mut self, side: &mut impl Side, truth: bool, limit: u32) -> bool {
        let bit = side.bit(self.p(), truth);
        self.update(bit, limit);
        bit
    }
}

/// Weights for `N` inputs and a constant one, in 65536ths, picked by a selector.
struct Weights<const N: usize> {
    rows: Vec<([i32; N], i32)>,
}

impl<const N: usize> Weights<N> {
    fn new(rows: usize, first: i32) -> Self {
        Weights { rows: vec![([first; N], 0); rows.next_power_of_two()] }
    }

    #[inline]
    fn row(&mut self, selector: usize) -> &mut ([i32; N], i32) {
        let mask = self.rows.len() - 1;
        &mut self.rows[selector & mask]
    }
}

/// The constant input.
const BIAS: i32 = 256;

#[inline]
fn dot<const N: usize>(inputs: &[i32; N], (row, bias): &([i32; N], i32)) -> i32 {
    let mut sum = bias.wrapping_mul(BIAS);
    for (input, weight) in inputs.iter().zip(row) {
        sum = sum.wrapping_add(input.wrapping_mul(*weight));
    }
    sum >> 16
}

// Weights stay far inside 32 bits: a sum of sixteen products of 12 and 18 bits is below 2^31.
#[inline]
fn train<const N: usize>(inputs: &[i32; N], (row, bias): &mut ([i32; N], i32), error: i32) {
    for (input, weight) in inputs.iter().zip(row.iter_mut()) {
        *weight = (*weight)
            .wrapping_add(input.wrapping_mul(error).wrapping_add(1 << 15) >> 16)
            .clamp(-WEIGHT_MAX, WEIGHT_MAX);
    }
    *bias = bias
        .wrapping_add(BIAS.wrapping_mul(error).wrapping_add(1 << 15) >> 16)
        .clamp(-WEIGHT_MAX, WEIGHT_MAX);
}

const WEIGHT_MAX: i32 = 1 << 18;

/// Mixes `N` stretched predictions by two sets of weights, each trained on its own error; the result is their mean.
pub(super) struct Mixer<const N: usize> {
    sets: [Weights<N>; 2],
    rate: i32,
}

impl<const N: usize> Mixer<N> {
    /// `rows` of each set of weights; `rate` of learning.
    pub(super) fn new(rows: [usize; 2], rate: i32) -> Self {
        let first = 65536 * 5 / 4 / (N as i32).max(4);
        Mixer { sets: rows.map(|rows| Weights::new(rows, first)), rate }
    }

    /// Codes a decision from the predictions of `inputs`.
    #[inline]
    pub(super) fn code(
        &mut self,
        side: &mut impl Side,
        inputs: &[i32; N],
        rows: [usize; 2],
        truth: bool,
    ) -> bool {
        let [a, b] = &mut self.sets;
        let (a, b) = (a.row(rows[0]), b.row(rows[1]));
        let (dot_a, dot_b) = (dot(inputs, a), dot(inputs, b));
        let bit = side.bit(squash((dot_a + dot_b) >> 1), truth);
        let goal = if bit { 65536 } else { 0 };
        for (row, dot) in [(a, dot_a), (b, dot_b)] {
            let error = ((goal - squash(dot) as i32) * self.rate) >> 4;
            train(inputs, row, error);
        }
        bit
    }
}

/// A decision under `N` contexts: a table of counters for each, and a mixer.
pub(super) struct Decision<const N: usize> {
    tables: [Vec<Counter>; N],
    mixer: Mixer<N>,
    limit: u32,
}

impl<const N: usize> Decision<N> {
    /// Tables of `1 << bits` counters that are never slower than `limit` steps.
    pub(super) fn new(bits: u32, limit: u32, rows: [usize; 2], rate: i32) -> Self {
        Decision {
            tables: std::array::from_fn(|_| vec![Counter::NEW; 1 << bits]),
            mixer: Mixer::new(rows, rate),
            limit,
        }
    }

    /// Codes a decision. Contexts are taken modulo the size of the tables, rows modulo those of the mixer.
    #[inline]
    pub(super) fn code(
        &mut self,
        side: &mut impl Side,
        contexts: &[u32; N],
        rows: [usize; 2],
        truth: bool,
    ) -> bool {
        let mut inputs = [0; N];
        for ((table, context), input) in self.tables.iter().zip(contexts).zip(&mut inputs) {
            *input = table[*context as usize & (table.len() - 1)].stretched();
        }
        let bit = self.mixer.code(side, &inputs, rows, truth);
        for (table, context) in self.tables.iter_mut().zip(contexts) {
            let mask = table.len() - 1;
            table[*context as usize & mask].update(bit, self.limit);
        }
        bit
    }
}

/// Counters in lines of sixteen, one line for a nibble of a byte under a context. The first of a line, which no nibble
/// needs, tells whose line it is: a newcomer begins anew.
pub(super) struct Lines {
    lines: Vec<[Counter; 16]>,
    limit: u32,
}

impl Lines {
    /// `1 << bits` lines.
    pub(super) fn new(bits: u32, limit: u32) -> Self {
        Lines { lines: vec![[Counter::NEW; 16]; 1 << bits], limit }
    }

    /// The number of the line of the context hashed to `context`, made its own.
    #[inline]
    pub(super) fn line(&mut self, context: u32) -> u32 {
        let index = context & (self.lines.len() - 1) as u32;
        let line = &mut self.lines[index as usize];
        let check = Counter(context | 1);
        if line[0].0 != check.0 {
            *line = [Counter::NEW; 16];
            line[0] = check;
        }
        index
    }

    /// The counter for the `nibble` so far, with its leading 1.
    #[inline]
    pub(super) fn get(&self, line: u32, nibble: u32) -> Counter {
        self.lines[line as usize & (self.lines.len() - 1)][nibble as usize & 15]
    }

    /// Teaches that counter.
    #[inline]
    pub(super) fn update(&mut self, line: u32, nibble: u32, bit: bool) {
        let mask = self.lines.len() - 1;
        self.lines[line as usize & mask][nibble as usize & 15].update(bit, self.limit);
    }
}

/// Spreads `value` over the upper bits of the result, differently for each `salt`.
#[inline]
pub(super) fn hash(value: u32, salt: u32) -> u32 {
    let mixed = value.wrapping_add(salt.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
    (mixed ^ mixed >> 15).wrapping_mul(0xc2b2_ae35) ^ mixed >> 13
}
