//! The walk over a unit's target, the same for both directions. Bytes are equal to the aligned old ones until a decision
//! says otherwise; there are three sizes of decision:
//!
//! * a *run*: all bytes up to the next address that is going to change equal the old ones;
//! * a *field*: the four bytes of an address or number are a guessed value;
//! * a *flag*: the next byte differs from the old one, and then which it is.
//!
//! The target is written into the buffer as it becomes known, by the encoder too, and nothing after the current place is
//! ever looked at but through [`Side`]: so the encoder cannot use what the decoder has not.

use super::echo::Echo;
use super::machine::{BEFORE_LEN, Machine, Site};
use super::model::{Model, RunEnd, Scene};
use super::range::Side;
use super::segments::CoverMap;
use super::shifts::{Changes, Guess, Guesses, Targets};

/// Bytes that match after a surprise before runs are asked for again.
const CALM: u32 = 32;
/// Lengths of runs: the first, the shortest, the longest.
const RUN_FIRST: usize = 64;
const RUN_MIN: usize = 16;
const RUN_MAX: usize = 1 << 16;
/// Where more of the last sixteen bytes mismatch, old bytes say nothing of addresses.
const DENSITY_MAX: u32 = 11;
/// Where more of them mismatch, there are no numbers in text either.
const TEXT_DENSITY_MAX: u32 = 7;
/// The kind of a number's field.
const NUMBER: u32 = 4;

/// What a field was before it changed.
#[derive(Clone, Copy)]
enum Origin {
    Address(Site),
    Number(u32),
}

/// A field that was not guessed and is coded byte by byte.
#[derive(Clone, Copy)]
struct Field {
    start: usize,
    kind: u32,
    origin: Origin,
    best: Guess,
}

/// The state of a walk.
pub(super) struct Walk<'a, S, const F: usize, const H: usize, const B: usize> {
    side: &'a mut S,
    bytes: &'a mut [u8],
    at: usize,
    map: &'a CoverMap,
    machine: Machine,
    model: Model<F, H, B>,
    targets: Targets,
    changes: Changes,
    echo: Option<Echo>,
    scene: Scene,
    field: Option<Field>,
    numbers_density: u32,
    calm: bool,
    run: usize,
    // Targets of the addresses within a run that nothing was known of.
    fresh: Vec<u32>,
}

#[inline]
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

impl<'a, S: Side, const F: usize, const H: usize, const B: usize> Walk<'a, S, F, H, B> {
    /// A walk over `bytes` from `first` on, which must be zero there.
    #[expect(clippy::too_many_arguments, reason = "the parts of a walk, each used once")]
    pub(super) fn new(
        side: &'a mut S,
        bytes: &'a mut [u8],
        first: usize,
        map: &'a CoverMap,
        machine: Machine,
        model: Model<F, H, B>,
        field_bits: u32,
        echo: Option<Echo>,
    ) -> Self {
        Walk {
            side,
            bytes,
            at: first,
            map,
            machine,
            model,
            targets: Targets::new(field_bits),
            changes: Changes::new(field_bits),
            echo,
            scene: Scene::default(),
            field: None,
            numbers_density: if machine == Machine::None { TEXT_DENSITY_MAX } else { u32::MAX },
            calm: true,
            run: RUN_FIRST,
            fresh: Vec::new(),
        }
    }

    /// Walks to the end; `check` is asked after every segment whether to go on.
    pub(super) fn finish(mut self, check: impl Fn(&S) -> bool) -> bool {
        let mut index = 0;
        while let Some((segment, end)) = self.map.get(index) {
            self.field = None;
            self.scene.must = 0;
            self.begin_runs();
            while self.at < end as usize {
                if self.calm {
                    self.run(segment.dist as usize, end as usize);
                } else {
                    self.step(segment.dist as usize, end as usize);
                }
            }
            if !check(self.side) {
                return false;
            }
            index += 1;
        }
        true
    }

    fn begin_runs(&mut self) {
        self.calm = true;
        self.run = RUN_FIRST;
    }

    #[inline]
    fn site(&self, old: usize) -> Option<Site> {
        let around = self.bytes.get(old - BEFORE_LEN..)?.first_chunk()?;
        self.machine.site(around, old as u32)
    }

    /// How many of the next `most` bytes lie before an address that is going to change, and whether one ends them.
    fn scan(&mut self, dist: usize, most: usize, end: usize) -> (usize, bool) {
        self.fresh.clear();
        let first = self.at - dist;
        let Some(old) = self.bytes.get(first - BEFORE_LEN..first + most + 3) else { return (most, false) };
        let mut at = 0;
        while let Some(by) = old.get(at..).and_then(|rest| self.machine.next_site(rest)) {
            at += by;
            if at >= most || self.at + at + 4 > end {
                break;
            }
            let around = old.get(at..).and_then(|rest| rest.first_chunk());
            let Some(site) = around.and_then(|around| self.machine.site(around, (first + at) as u32)) else {
                at += 1;
                continue;
            };
            match self.targets.best(&site, dist as u32, self.map) {
                Some(shift) if site.predict(shift, dist as u32) != site.value => return (at, true),
                _ => self.fresh.push(site.target),
            }
            at += 4;
        }
        (most, false)
    }

    /// Asks for one run, or settles the address that ends it at once.
    fn run(&mut self, dist: usize, end: usize) {
        let must = self.scene.must as usize;
        if must > 0 && must <= RUN_MIN {
            self.calm = false;
            return;
        }
        let wanted = if must > 0 { RUN_MIN.max(must / 4) } else { self.run };
        let most = wanted.min(end - self.at).min(dist);
        let (len, ends_at_site) = self.scan(dist, most, end);
        let old = self.at - dist;
        if len == 0 {
            match self.site(old) {
                Some(site) => self.address(site, dist),
                None => self.calm = false,
            }
            return;
        }
        let how = match (ends_at_site, len == end - self.at) {
            (true, _) => RunEnd::Site,
            (_, true) => RunEnd::Segment,
            _ => RunEnd::Full,
        };
        let truth = self.side.equal(self.at, &self.bytes[old..old + len]);
        let equal = self.model.run(self.side, &self.scene, len, how, truth);
        self.scene.runs = self.scene.runs << 1 | u32::from(equal);
        if !equal {
            self.scene.must = len as u32;
            self.run = RUN_FIRST;
            return;
        }
        self.bytes.copy_within(old..old + len, self.at);
        if let Some(echo) = &mut self.echo {
            echo.skip(self.bytes, self.at, self.at + len);
        }
        for target in &self.fresh {
            self.targets.learn_new(*target, dist as u32);
        }
        self.at += len;
        self.matched(len as u32);
        if must == 0 {
            self.run = (self.run * 4).min(RUN_MAX);
        }
    }

    #[inline]
    fn matched(&mut self, len: u32) {
        let scene = &mut self.scene;
        scene.history = scene.history.checked_shl(len).unwrap_or(0);
        scene.since = scene.since.saturating_add(len);
        scene.must = scene.must.saturating_sub(len);
    }

    #[inline]
    fn surprise(&mut self) {
        let scene = &mut self.scene;
        scene.gaps = [scene.since, scene.gaps[0]];
        scene.since = 0;
        scene.must = 0;
        scene.history = scene.history << 1 | 1;
    }

    #[inline]
    fn put(&mut self, byte: u8) {
        self.bytes[self.at] = byte;
        self.at += 1;
        if let Some(echo) = &mut self.echo {
            echo.follow(self.bytes, self.at, self.scene.density() > 0);
        }
    }

    fn look(&mut self, dist: usize) {
        let old = self.at - dist;
        let scene = &mut self.scene;
        scene.old = self.bytes[old];
        scene.old_before = [self.bytes[old - 1], self.bytes[old - 2]];
        scene.old_word = word(self.bytes, old);
        scene.old_word_before = word(self.bytes, old - 4);
        let before = self.bytes.get(self.at - 8..).and_then(|rest| rest.first_chunk());
        scene.new_before = before.map_or(0, |bytes| u64::from_be_bytes(*bytes));
        (scene.kind, scene.index, scene.guess, scene.table) = (0, 0, None, 0);
        match &self.field {
            Some(field) => {
                let index = (self.at - field.start) as u32;
                (scene.kind, scene.index) = (field.kind, index);
                if field.best.trust > 0 {
                    let known =
                        if index == 0 { 0 } else { word(self.bytes, field.start) << (32 - 8 * index) };
                    let off = if index == 0 {
                        0
                    } else {
                        let top = field.best.value << (32 - 8 * index);
                        (known.wrapping_sub(top) as i32 >> (32 - 8 * index)) as u32
                    };
                    let near = field.best.value.wrapping_add(off);
                    scene.guess = Some(((near >> (8 * index)) as u8, field.best.trust));
                }
            }
            None => {
                if let Some((by, trust)) = self.changes.of(scene.old_word) {
                    scene.table = trust.clamp(1, 3) + if by & 0xff == 0 { 3 } else { 0 };
                }
            }
        }
        scene.echo = self.echo.as_mut().map_or([None; 2], |echo| echo.guesses(self.bytes, self.at));
    }

    /// Settles one byte, or a field that begins here.
    fn step(&mut self, dist: usize, end: usize) {
        let has_room = end - self.at >= 4;
        let may_begin = self.field.is_none() && has_room && self.scene.density() <= DENSITY_MAX;
        if let Some(site) = may_begin.then(|| self.site(self.at - dist)).flatten() {
            self.address(site, dist);
            return;
        }
        self.look(dist);
        let old = self.scene.old;
        let truth = self.side.byte(self.at);
        let differs = self.scene.must == 1 || self.model.flag(self.side, &self.scene, truth != old);
        if differs {
            let number = self.field.is_none() && has_room && self.scene.density() <= self.numbers_density;
            if number && self.number() {
                return;
            }
            let byte = self.model.byte(self.side, &self.scene, truth);
            self.surprise();
            self.put(byte);
        } else {
            self.matched(1);
            self.put(old);
        }
        if let Some(field) = self.field.filter(|field| field.start + 4 <= self.at) {
            let now = word(self.bytes, field.start);
            match field.origin {
                Origin::Address(site) => self.targets.learn(&site, now, dist as u32),
                Origin::Number(value) => self.changes.learn(field.start, value, now),
            }
            self.field = None;
        }
        if self.scene.since >= CALM && self.scene.must == 0 && self.field.is_none() {
            self.begin_runs();
        }
    }

    /// Settles the address `site`, whose old bytes are aligned with this place.
    fn address(&mut self, site: Site, dist: usize) {
        let guesses = self.targets.guesses(&site, dist as u32, self.map);
        self.look_at_field(site.kind, site.value, dist);
        let best = guesses.iter().find(|guess| guess.trust > 0).copied();
        let best = best.unwrap_or(Guess { value: site.value, trust: 1 });
        let second =
            guesses.iter().find(|guess| guess.trust > 0 && ![best.value, site.value].contains(&guess.value));
        let mut turns = [Some(best.value), None, None];
        turns[1] = Some(site.value).filter(|value| *value != best.value);
        turns[2] = second.map(|guess| guess.value);
        let truth = self.side.word(self.at);
        for (turn, proposed) in turns.into_iter().flatten().enumerate() {
            let hit =
                self.model.hit(self.side, &self.scene, &guesses, proposed, turn as u32, truth == proposed);
            self.scene.hits = self.scene.hits << 1 | u32::from(hit);
            if hit {
                for byte in proposed.to_le_bytes() {
                    self.put(byte);
                }
                self.matched(4);
                if proposed != site.value {
                    self.scene.must = 0;
                }
                self.targets.learn(&site, proposed, dist as u32);
                return;
            }
        }
        self.calm = false;
        // The old value was among those proposed.
        self.scene.must = 4;
        self.field = Some(Field { start: self.at, kind: site.kind, origin: Origin::Address(site), best });
    }

    #[inline]
    fn look_at_field(&mut self, kind: u32, value: u32, dist: usize) {
        let old = self.at - dist;
        let scene = &mut self.scene;
        scene.old_before = [self.bytes[old - 1], self.bytes[old - 2]];
        scene.old_word = value;
        scene.kind = kind;
    }

    /// Settles the number whose first byte is known to differ; `false` leaves it to bytes.
    fn number(&mut self) -> bool {
        let value = self.scene.old_word;
        let guesses: Guesses = self.changes.guesses(self.at, value);
        self.scene.kind = NUMBER;
        let truth = self.side.word(self.at);
        let fits = |guess: &Guess| guess.trust > 0 && (guess.value ^ value) & 0xff != 0;
        let best = guesses.iter().find(|guess| fits(guess)).copied();
        let second =
            guesses.iter().find(|guess| fits(guess) && best.is_none_or(|best| best.value != guess.value));
        for (turn, guess) in [best, second.copied()].into_iter().flatten().enumerate() {
            let proposed = guess.value;
            if self.model.hit(self.side, &self.scene, &guesses, proposed, turn as u32, truth == proposed) {
                self.surprise();
                for (now, old) in proposed.to_le_bytes().into_iter().zip(value.to_le_bytes()).skip(1) {
                    self.scene.history = self.scene.history << 1 | u64::from(now != old);
                }
                for byte in proposed.to_le_bytes() {
                    self.put(byte);
                }
                self.changes.learn(self.at - 4, value, proposed);
                return true;
            }
        }
        let best = best.unwrap_or_default();
        self.field = Some(Field { start: self.at, kind: NUMBER, origin: Origin::Number(value), best });
        false
    }
}
