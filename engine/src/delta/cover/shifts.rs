//! What is known of how numbers moved: the shifts of addresses by where they pointed, and the changes of other numbers
//! by what they were. Both sides learn the same from every field that was coded.

use super::machine::Site;
use super::mix::hash;
use super::segments::CoverMap;

/// How many guesses a field gets.
pub(super) const GUESSES: usize = 4;

/// A guess at a field's new value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) value: u32,
    /// 0 for no guess, up to 7.
    pub(super) trust: u32,
}

/// All guesses at a field, in the order of their sources.
pub(super) type Guesses = [Guess; GUESSES];

/// How often the same was seen, at most.
const TRUST_MAX: u8 = 7;

#[derive(Clone, Copy, Default)]
struct Known {
    by: u32,
    check: u16,
    // 0 for an empty place.
    trust: u8,
}

/// Direct-mapped: a newcomer takes the place.
struct Table(Vec<Known>);

impl Table {
    fn new(bits: u32) -> Self {
        Table(vec![Known::default(); 1 << bits])
    }

    #[inline]
    fn slot(&self, key: u32) -> (usize, u16) {
        let hashed = hash(key, 0);
        (hashed as usize & (self.0.len() - 1), (hashed >> 16) as u16 ^ key as u16)
    }

    #[inline]
    fn get(&self, key: u32) -> Option<(u32, u32)> {
        let (index, check) = self.slot(key);
        let known = self.0[index];
        (known.check == check && known.trust > 0).then_some((known.by, u32::from(known.trust)))
    }

    #[inline]
    fn put(&mut self, key: u32, by: u32) {
        let (index, check) = self.slot(key);
        let known = &mut self.0[index];
        let same = known.check == check && known.by == by;
        *known = Known { by, check, trust: if same { (known.trust + 1).min(TRUST_MAX) } else { 1 } };
    }
}

/// Shifts of the targets of relative addresses.
pub(super) struct Targets {
    exact: Table,
    near: Table,
    region: Table,
}

impl Targets {
    /// Room for about `1 << bits` targets.
    pub(super) fn new(bits: u32) -> Self {
        Targets { exact: Table::new(bits), near: Table::new(bits - 3), region: Table::new(bits - 6) }
    }

    /// The shift that is most likely for the target of `site`, which moved by `moved`.
    #[inline]
    pub(super) fn best(&self, site: &Site, moved: u32, map: &CoverMap) -> Option<u32> {
        let exact = self.exact.get(site.target).map(|(by, _)| by);
        exact
            .or_else(|| map.dist_of(site.place(), moved))
            .or_else(|| self.near.get(site.target >> 8).map(|(by, _)| by))
    }

    /// All guesses: by the same target, by the segments, by what is near, by the region.
    #[inline]
    pub(super) fn guesses(&self, site: &Site, moved: u32, map: &CoverMap) -> Guesses {
        let guess = |(by, trust)| Guess { value: site.predict(by, moved), trust };
        let exact = self.exact.get(site.target).map(guess);
        let mapped = match exact {
            Some(_) => None,
            None => map.dist_of(site.place(), moved).map(|by| guess((by, 2))),
        };
        let near = self.near.get(site.target >> 8).map(guess);
        let region = self.region.get(site.target >> 13).map(guess);
        [exact, mapped, near, region].map(Option::unwrap_or_default)
    }

    /// Learns what became of `site`.
    #[inline]
    pub(super) fn learn(&mut self, site: &Site, now: u32, moved: u32) {
        if let Some(by) = site.shift(now, moved) {
            self.exact.put(site.target, by);
            self.near.put(site.target >> 8, by);
            self.region.put(site.target >> 13, by);
        }
    }

    /// Learns that the target of a site moved as the site did, where nothing was known of it.
    #[inline]
    pub(super) fn learn_new(&mut self, target: u32, moved: u32) {
        if self.exact.get(target).is_none() {
            self.exact.put(target, moved);
        }
    }
}

/// Fields that began this far back may have changed alike, the likeliest first.
const STRIDES: [usize; 4] = [24, 8, 16, 4];
/// Fields remembered by where they began.
const RING: usize = 64;

/// Changes of numbers that are not relative to their place.
pub(super) struct Changes {
    exact: Table,
    near: Table,
    // Place and change of the fields that began last, by place.
    ring: [(usize, u32); RING],
    last: Guess,
}

impl Changes {
    /// Room for about `1 << bits` numbers.
    pub(super) fn new(bits: u32) -> Self {
        let ring = [(usize::MAX, 0); RING];
        Changes { exact: Table::new(bits), near: Table::new(bits - 3), ring, last: Guess::default() }
    }

    /// The change that the same number had before.
    #[inline]
    pub(super) fn of(&self, value: u32) -> Option<(u32, u32)> {
        self.exact.get(value)
    }

    /// All guesses: by the same number, by its neighbours, by fields at a stride, by the last field.
    #[inline]
    pub(super) fn guesses(&self, at: usize, value: u32) -> Guesses {
        let guess = |(by, trust): (u32, u32)| Guess { value: value.wrapping_add(by), trust };
        let strided = STRIDES.iter().enumerate().find_map(|(n, stride)| {
            let (place, by) = self.ring[at.checked_sub(*stride)? % RING];
            (place == at - stride).then_some((by, 4 - n as u32))
        });
        let last = Guess { value: value.wrapping_add(self.last.value), trust: self.last.trust };
        [
            self.exact.get(value).map(guess).unwrap_or_default(),
            self.near.get(value >> 10).map(guess).unwrap_or_default(),
            strided.map(guess).unwrap_or_default(),
            last,
        ]
    }

    /// Learns what became of the number at `at`.
    #[inline]
    pub(super) fn learn(&mut self, at: usize, value: u32, now: u32) {
        let by = now.wrapping_sub(value);
        self.exact.put(value, by);
        self.near.put(value >> 10, by);
        self.ring[at % RING] = (at, by);
        let trust = if self.last.value == by { (self.last.trust + 1).min(TRUST_MAX as u32) } else { 1 };
        self.last = Guess { value: by, trust };
    }
}
