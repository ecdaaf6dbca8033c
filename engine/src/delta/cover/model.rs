//! What each decision depends on. The contexts of a decision are listed the most useful first: the light model uses the
//! first few of each list, the mixed one all. The compiler drops what is not used.

use super::echo;
use super::mix::{Counter, Decision, Lines, Mixer, hash};
use super::range::Side;
use super::shifts::Guesses;

/// What is known where a decision is taken.
#[derive(Default, Clone, Copy)]
pub(super) struct Scene {
    /// Which of the last bytes mismatched, the last one lowest.
    pub(super) history: u64,
    /// Bytes since the last surprise, and the gaps between the ones before.
    pub(super) since: u32,
    pub(super) gaps: [u32; 2],
    /// At least one of the next so many bytes mismatches; 0 when nothing is known.
    pub(super) must: u32,
    /// The aligned byte, the two before it, the four before it and the four from it.
    pub(super) old: u8,
    pub(super) old_before: [u8; 2],
    pub(super) old_word_before: u32,
    pub(super) old_word: u32,
    /// New bytes before, the last one lowest.
    pub(super) new_before: u64,
    /// 0 outside a field, 1 to 3 a relative address, 4 a number; and which byte of it.
    pub(super) kind: u32,
    pub(super) index: u32,
    /// The byte that the field's best guess comes to, and its trust.
    pub(super) guess: Option<(u8, u32)>,
    /// What the number's table says of the aligned word: 0 nothing, 1 to 3 a change of its first byte, 4 to 6 none.
    pub(super) table: u32,
    /// The bytes that followed the same bytes before.
    pub(super) echo: [Option<echo::Guess>; 2],
    /// How the last addresses were guessed, 1 for at once, the last one lowest.
    pub(super) hits: u32,
    /// How the last runs went, 1 for all equal, the last one lowest.
    pub(super) runs: u32,
}

/// The length of `x` in bits, at most `max`.
#[inline]
pub(super) fn log(x: u32, max: u32) -> u32 {
    (32 - x.leading_zeros()).min(max)
}

impl Scene {
    /// How many of the last sixteen bytes mismatched.
    #[inline]
    pub(super) fn density(&self) -> u32 {
        (self.history & 0xffff).count_ones()
    }

    /// Whether the aligned bytes are of no use.
    #[inline]
    fn is_literal(&self) -> u32 {
        u32::from(self.density() >= 8)
    }

    /// 0 for no guess, 1 to 3 for the old byte, 4 to 6 for another, by trust.
    #[inline]
    fn guess_class(&self) -> u32 {
        self.guess.map_or(0, |(byte, trust)| trust.clamp(1, 3) + if byte == self.old { 0 } else { 3 })
    }

    /// How good the echo is, and whether it is the old byte; 5 bits.
    #[inline]
    fn echo_state(&self) -> u32 {
        self.echo[0].map_or(0, |echo| echo.class << 1 | u32::from(echo.byte == self.old))
    }

    #[inline]
    fn flag_contexts(&self) -> [u32; 13] {
        let (history, density, since) = (self.history, self.density(), log(self.since, 7));
        let [o1, o2] = self.old_before.map(u32::from);
        let old = u32::from(self.old);
        let must = log(self.must, 7);
        let place = self.kind << 2 | self.index;
        let recent = |n: u32| history as u32 & ((1 << n) - 1);
        let strided =
            [3, 7, 11, 15, 23, 31].iter().fold(recent(2), |all, n| all << 1 | (history >> n) as u32 & 1);
        [
            hash(((place << 3 | self.guess_class()) << 3 | must) << 6 | (density / 2).min(7) << 3 | since, 1),
            (strided << 3 | self.table) << 3 | self.kind,
            hash((o1 << 8 | old) << 5 | recent(2) << 3 | self.kind, 2),
            ((since << 3 | log(self.gaps[0], 7)) << 3 | log(self.gaps[1], 7)) << 6 | self.table << 3 | must,
            hash(recent(12) << 5 | place, 3),
            hash((self.echo_state() << 5 | density) << 6 | must << 3 | self.kind, 4),
            hash(self.old_word_before ^ old << 3 ^ u32::from(density > 4), 5).wrapping_add(old),
            hash(self.old_word.wrapping_mul(31).wrapping_add(o1), 6),
            hash((o2 << 8 | o1) << 3 | recent(4).count_ones(), 7),
            ((self.table << 5 | density) << 3 | since) << 3 | self.kind,
            hash((old << 5 | recent(5)) << 5 | place, 8),
            hash((o1 << 5 | density) << 5 | place, 9),
            hash((self.echo_state() << 8 | old) << 3 | recent(3), 10),
        ]
    }

    #[inline]
    fn byte_contexts(&self) -> [u32; 10] {
        let new = self.new_before;
        let [o1, _] = self.old_before.map(u32::from);
        let (c1, old, literal) = (new as u32 & 0xff, u32::from(self.old), self.is_literal());
        let place = self.kind << 2 | self.index;
        let guess = self.guess.map_or(0, |(byte, trust)| u32::from(byte) << 3 | trust.clamp(1, 7));
        let echo = self.echo[0].map_or(0, |echo| u32::from(echo.byte) << 4 | echo.class);
        let word = hash((new >> 32) as u32 & 0xffff, new as u32);
        [
            hash((old << 5 | place) << 1 | literal, 1),
            hash(c1 << 6 | place << 1 | literal, 2),
            hash((old << 8 | o1) << 8 | c1, 3),
            hash(new as u32 & 0xffff, 4),
            hash(guess << 5 | place, 5),
            hash(new as u32 & 0xff_ffff, 6),
            hash(new as u32, 7),
            word,
            hash(new as u32 & 0xff_ffff, 8 + old),
            hash(echo << 8 | c1, 9),
        ]
    }
}

/// Ways a run of equal bytes ends.
#[derive(Clone, Copy)]
pub(super) enum RunEnd {
    /// It is as long as it was asked for.
    Full,
    /// The segment ends.
    Segment,
    /// A field that will change follows.
    Site,
}

/// How many inputs a byte's mixer has beyond its contexts.
const BYTE_EXTRAS: usize = 5;

/// The adaptive state of one unit: `F` contexts for flags, `H` for guesses, `B` inputs for bytes.
pub(super) struct Model<const F: usize, const H: usize, const B: usize> {
    runs: Decision<3>,
    flags: Decision<F>,
    hits: Decision<H>,
    bytes: Vec<Lines>,
    order0: Vec<Counter>,
    echo: Vec<Counter>,
    other: Vec<Counter>,
    guess: Vec<Counter>,
    drift: Vec<Counter>,
    mixer: Mixer<B>,
}

/// Limits of counters.
const FLAG_LIMIT: u32 = 100;
const HIT_LIMIT: u32 = 250;
const BYTE_LIMIT: u32 = 120;
const LINE_LIMIT: u32 = 60;
/// The rate at which the mixer of bytes learns.
const BYTE_RATE: i32 = 8;

impl<const F: usize, const H: usize, const B: usize> Model<F, H, B> {
    /// Tables of `1 << flag_bits` counters and `1 << line_bits` lines.
    pub(super) fn new(flag_bits: u32, line_bits: u32) -> Self {
        Model {
            runs: Decision::new(12, FLAG_LIMIT, [64, 64], 3),
            flags: Decision::new(flag_bits, FLAG_LIMIT, [512, 2048], 6),
            hits: Decision::new(16, HIT_LIMIT, [256, 256], 4),
            bytes: (0..B - BYTE_EXTRAS).map(|_| Lines::new(line_bits, LINE_LIMIT)).collect(),
            order0: vec![Counter::NEW; 64 << 8],
            echo: vec![Counter::NEW; 1 << 5],
            other: vec![Counter::NEW; 1 << 5],
            guess: vec![Counter::NEW; 1 << 10],
            drift: vec![Counter::NEW; 1 << 5],
            mixer: Mixer::new([64 * 16, 1024], BYTE_RATE),
        }
    }

    /// Whether the next `len` bytes, up to `end`, all equal the old ones.
    #[inline]
    pub(super) fn run(
        &mut self,
        side: &mut impl Side,
        scene: &Scene,
        len: usize,
        end: RunEnd,
        truth: bool,
    ) -> bool {
        let size = log(len as u32, 15) << 2 | end as u32;
        let must = u32::from(scene.must > 0);
        let contexts = [
            hash((size << 3 | log(scene.gaps[0] / 8, 7)) << 4 | log(scene.since / 16, 7) << 1 | must, 1),
            size << 6 | scene.runs & 63,
            size << 4 | (scene.runs & 0xffff).count_ones().min(15),
        ];
        self.runs.code(
            side,
            &contexts,
            [size as usize, (scene.runs & 7) as usize | (must as usize) << 3],
            truth,
        )
    }

    /// Whether the next byte differs from the old one.
    #[inline]
    pub(super) fn flag(&mut self, side: &mut impl Side, scene: &Scene, truth: bool) -> bool {
        let all = scene.flag_contexts();
        let contexts: [u32; F] = std::array::from_fn(|n| all[n]);
        let a = (scene.kind << 2 | scene.index) << 3 | scene.guess_class();
        let b = (scene.echo_state() << 3 | log(scene.since, 7)) << 3 | (scene.density() / 2).min(7);
        self.flags.code(side, &contexts, [a as usize, b as usize], truth)
    }

    /// Whether a field has the value that is proposed in the try numbered so.
    #[inline]
    pub(super) fn hit(
        &mut self,
        side: &mut impl Side,
        scene: &Scene,
        guesses: &Guesses,
        proposed: u32,
        turn: u32,
        truth: bool,
    ) -> bool {
        let same = u32::from(proposed == scene.old_word);
        let votes = guesses.iter().fold(0, |all, guess| {
            let vote = if guess.trust == 0 { 0 } else { 1 + u32::from(guess.value == proposed) };
            all << 2 | vote
        });
        let how = (scene.kind << 2 | turn) << 1 | same;
        let change = proposed.wrapping_sub(scene.old_word);
        let trust = guesses.map(|guess| guess.trust);
        let [o1, o2] = scene.old_before.map(u32::from);
        let all = [
            hash((votes << 6 | how) << 5 | trust[0] << 2 | trust[2].min(3), 1),
            hash(((scene.hits & 63) << 6 | how) << 3 | trust[0], 2),
            hash(change.wrapping_mul(64) ^ how, 3),
            hash((o2 << 8 | o1) << 6 | how, 4),
            hash(((scene.history as u32 & 0xff) << 3 | log(scene.since, 7)) << 6 | how, 5),
            hash(proposed, 6 + scene.kind),
            hash(
                (votes << 6 | how) << 6 | trust[1].min(3) << 4 | trust[3].min(3) << 2 | log(scene.must, 3),
                7,
            ),
        ];
        let contexts: [u32; H] = std::array::from_fn(|n| all[n]);
        let row = how as usize | (trust[0].min(3) as usize) << 6;
        self.hits.code(side, &contexts, [row, votes as usize], truth)
    }

    /// The next byte, which is not the old one.
    pub(super) fn byte(&mut self, side: &mut impl Side, scene: &Scene, truth: u8) -> u8 {
        let contexts = scene.byte_contexts();
        let place = (scene.kind << 2 | scene.index) << 1 | scene.is_literal();
        let drift = (scene.new_before as u8).wrapping_sub(scene.old_before[0]).wrapping_add(scene.old);
        let mut lines = [0; B];
        let (mut node, mut known) = (1u32, 0);
        for bit in (0..8).rev() {
            if bit == 7 || bit == 3 {
                known = 0;
                for ((line, lines_of), context) in lines.iter_mut().zip(&mut self.bytes).zip(contexts) {
                    *line = lines_of.line(hash(context, if bit == 7 { 0 } else { node }));
                    known += usize::from(lines_of.get(*line, 1).is_known());
                }
            }
            // The part of the node inside its nibble.
            let nibble = if bit > 3 { node } else { 1 << (3 - bit) | node & ((1 << (3 - bit)) - 1) };
            // A guess counts while the bits so far are its own.
            let expect = |guess: u8| {
                ((u32::from(guess) | 256) >> (bit + 1) == node).then_some(u32::from(guess) >> bit & 1)
            };
            let [echo, other] = scene
                .echo
                .map(|echo| echo.and_then(|echo| Some(echo.class << 1 | expect(echo.byte)?)).unwrap_or(0));
            let guess = scene.guess.and_then(|(byte, trust)| Some((expect(byte)?, trust)));
            let guess =
                guess.map_or(0, |(to, trust)| ((trust.clamp(1, 7) << 5 | place >> 1) << 1 | to) & 1023);
            let drift = expect(drift).map_or(0, |to| 2 + to + 4 * u32::from(bit > 3));
            let order0 = place << 8 | node;
            let extras = [
                (&mut self.order0, order0),
                (&mut self.echo, echo),
                (&mut self.other, other),
                (&mut self.guess, guess),
                (&mut self.drift, drift),
            ];
            let mut inputs = [0; B];
            for ((input, lines_of), line) in inputs.iter_mut().zip(&self.bytes).zip(lines) {
                *input = lines_of.get(line, nibble).stretched();
            }
            for (input, (table, at)) in inputs[B - BYTE_EXTRAS..].iter_mut().zip(&extras) {
                *input = table[*at as usize & (table.len() - 1)].stretched();
            }
            let still = u32::from(expect(scene.old).is_some());
            let rows = [
                (place << 4 | bit << 1 | still) as usize,
                ((echo << 1 | u32::from(guess > 0)) << 4) as usize | known,
            ];
            let told = self.mixer.code(side, &inputs, rows, truth >> bit & 1 == 1);
            for (lines_of, line) in self.bytes.iter_mut().zip(lines) {
                lines_of.update(line, nibble, told);
            }
            for (table, at) in extras {
                let mask = table.len() - 1;
                table[at as usize & mask].update(told, BYTE_LIMIT);
            }
            node = node << 1 | u32::from(told);
        }
        node as u8
    }
}
