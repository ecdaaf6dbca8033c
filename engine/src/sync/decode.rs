//! Units that are deltas become content again: the reference is read from the replica's own files, hashed, and from what
//! earlier units brought. A unit may wait for one before it, never for a later one, so nobody waits for ever.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkRef};
use crate::limits::DELTA_REFERENCE_BYTES_MAX;
use crate::tree::{Arrivals, OldFiles, Replica};
use crate::version::{Manifest, RelPath};

use super::stream::{DeltaUnit, Reference, Unit};

/// New chunks by their number: who brings them, and where they are.
#[derive(Default)]
pub(super) struct Decoded {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    // The unit that brings it, and where it lies once that is decoded.
    chunks: HashMap<u64, (u64, Option<Plain>)>,
    failed: bool,
}

/// Where the content of a chunk lies among the arrivals.
#[derive(Clone, Copy)]
struct Plain {
    at: u64,
    len: u32,
}

impl Decoded {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a unit, before it or any later one is decoded.
    pub fn expect(&self, unit: &Unit) {
        let numbers = unit.delta().into_iter().flat_map(|delta| &delta.chunks);
        let mut table = self.table();
        for (number, _) in numbers {
            table.chunks.entry(*number).or_insert((unit.index(), None));
        }
    }

    // Where chunk `number` is, for a unit that comes after the one which brings it.
    fn wait(&self, number: u64, before: u64) -> Option<Plain> {
        let mut table = self.table();
        loop {
            match table.chunks.get(&number) {
                Some((_, Some(plain))) => return Some(*plain),
                Some((unit, None)) if *unit < before && !table.failed => {}
                _ => return None,
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What decoding needs to know of the base.
pub(super) struct Decoder<'a> {
    pub replica: &'a Replica,
    pub base: Manifest<'a>,
    /// The path of each edit.
    pub paths: Vec<RelPath>,
}

// Tells those who wait that this unit will not come, unless it did.
struct Promise<'d>(&'d Decoded, bool);

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.0.table().failed |= !self.1;
        self.0.changed.notify_all();
    }
}

/// A chunk that a unit brought: its number, and where its content is among the arrivals.
pub(super) type Brought = (u64, ChunkRef, u64);

impl Decoder<'_> {
    /// Decodes a unit and keeps its content in `arrivals`.
    pub fn decode(
        &self,
        unit: &Unit,
        delta: &DeltaUnit,
        decoded: &Decoded,
        arrivals: &Arrivals,
        place: &str,
    ) -> Result<Vec<Brought>> {
        let mut promise = Promise(decoded, false);
        let reference = self.reference(unit, delta, decoded, arrivals, place)?;
        let plain = unit.decode(delta, &reference, place)?;
        drop(reference);
        let mut at = arrivals.keep(self.replica, &plain)?;
        let mut brought = Vec::with_capacity(delta.chunks.len());
        let mut rest = plain.as_slice();
        for (number, len) in &delta.chunks {
            let Some((bytes, tail)) = rest.split_at_checked(*len as usize) else { break };
            brought.push((*number, ChunkRef { id: ChunkId::of(bytes), len: *len }, at));
            (rest, at) = (tail, at + u64::from(*len));
        }
        let mut table = decoded.table();
        for (number, chunk, at) in &brought {
            let place = Plain { at: *at, len: chunk.len };
            table.chunks.insert(*number, (unit.index(), Some(place)));
        }
        drop(table);
        promise.1 = true;
        Ok(brought)
    }

    fn reference(
        &self,
        unit: &Unit,
        delta: &DeltaUnit,
        decoded: &Decoded,
        arrivals: &Arrivals,
        place: &str,
    ) -> Result<Vec<u8>> {
        let refused = |reason: &str| Error::Damaged {
            what: format!("unit {}", unit.index()),
            place: place.to_owned(),
            reason: reason.to_owned(),
        };
        let mut reference = Vec::new();
        let mut files = OldFiles::new(self.replica)?;
        let mut buffer = Vec::new();
        let room = |reference: &[u8], len: u32| {
            let fits = reference.len() as u64 + u64::from(len) <= DELTA_REFERENCE_BYTES_MAX;
            if fits { Ok(()) } else { Err(refused("its reference is longer than may be")) }
        };
        for stretch in &delta.reference {
            match *stretch {
                Reference::Old { edit, first, count } => {
                    let path = usize::try_from(edit).ok().and_then(|edit| self.paths.get(edit));
                    let path = path.ok_or_else(|| refused("it names an edit that is not there"))?;
                    let there = self.base.stretch(path, first, count, &mut |offset, chunk| {
                        room(&reference, chunk.len)?;
                        if !files.read(path, offset, &chunk, &mut buffer) {
                            return Err(refused(&format!("`{path}` is not as the base has it")));
                        }
                        reference.extend_from_slice(&buffer);
                        Ok(())
                    })?;
                    if !there {
                        return Err(refused("it names chunks that the base has not"));
                    }
                }
                Reference::New { first, count } => {
                    for number in first..first.saturating_add(count) {
                        let earlier = decoded.wait(number, unit.index());
                        let plain =
                            earlier.ok_or_else(|| refused("it names a chunk that did not come before"))?;
                        room(&reference, plain.len)?;
                        if !arrivals.kept(plain.at, plain.len, &mut buffer) {
                            return Err(refused("what came before it cannot be read"));
                        }
                        reference.extend_from_slice(&buffer);
                    }
                }
            }
        }
        Ok(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Nobody waits for what cannot come.
    #[test]
    fn only_earlier_units_are_waited_for() {
        let decoded = Decoded::default();
        let known = Plain { at: 7, len: 3 };
        decoded.table().chunks.extend([(0, (0, Some(known))), (1, (1, None)), (2, (2, None))]);
        assert_eq!(decoded.wait(0, 1).map(|plain| plain.at), Some(7));
        for (number, before) in [(1, 1), (2, 1), (3, 9)] {
            assert!(decoded.wait(number, before).is_none(), "{number} {before}");
        }
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| decoded.wait(1, 2).is_none());
            drop(Promise(&decoded, false));
            assert!(waits.join().expect("ends"));
        });
    }
}
