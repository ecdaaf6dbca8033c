//! Chunks that were put and not sent yet. A publish puts a few at a time; a request for each would cost a round trip.
//!
//! Who fills a pack sends it, while others fill the next one; so as many are on their way as there are threads that put,
//! up to [`SENDING_MAX`]. Memory: so many packs and one more.
//!
//! Invariants: packs are begun in the order put. One that could not be sent stays and is sent again before anything
//! else, so what was put is never forgotten while this lives.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::id::ChunkId;
use crate::store::NewChunk;
use crate::store::wire::{ITEM_HEAD_LEN, Pack};

/// Most packs on their way at once.
pub(super) const SENDING_MAX: usize = 4;

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    // A pack is no longer on its way.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    pack: Pack,
    gathered: Vec<ChunkId>,
    // Of the pack that is being filled.
    number: u64,
    // By number: on their way, and those that could not be sent.
    sending: BTreeSet<u64>,
    unsent: BTreeMap<u64, Sealed>,
    // Of all packs.
    held: HashSet<ChunkId>,
}

struct Sealed {
    bytes: Vec<u8>,
    ids: Vec<ChunkId>,
}

impl State {
    // The next to be sent of the packs up to a number.
    fn take(&mut self, until: u64) -> Option<(u64, Sealed)> {
        let first = self.unsent.first_entry().filter(|entry| *entry.key() <= until);
        let next = match first {
            Some(entry) => entry.remove_entry(),
            None if self.pack.is_empty() || self.number > until => return None,
            None => {
                let number = self.number;
                self.number += 1;
                let bytes = std::mem::take(&mut self.pack).finish();
                (number, Sealed { bytes, ids: std::mem::take(&mut self.gathered) })
            }
        };
        self.sending.insert(next.0);
        Some(next)
    }

    fn is_full(&self, more: usize, len_max: usize) -> bool {
        !self.pack.is_empty() && self.pack.len() + more > len_max
    }
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for chunks that wait here or are on their way.
    pub fn holds(&self, ids: &[ChunkId]) -> Vec<bool> {
        let state = self.state();
        ids.iter().map(|id| state.held.contains(id)).collect()
    }

    /// Adds chunks, and sends packs of up to `len_max` bytes that became full.
    pub fn add(&self, chunks: &[NewChunk], len_max: usize, send: &dyn Fn(&[u8]) -> Result<()>) -> Result<()> {
        let mut state = self.state();
        for new in chunks {
            let body = new.frame.as_bytes();
            while state.is_full(Pack::cost(body.len()), len_max) {
                state = self.send_next(state, u64::MAX, send)?;
            }
            state.pack.push(new.chunk.len, new.chunk.id.as_bytes(), body);
            state.gathered.push(new.chunk.id);
            state.held.insert(new.chunk.id);
        }
        // Otherwise whoever adds the next one waits.
        if state.is_full(ITEM_HEAD_LEN, len_max) && state.sending.len() < SENDING_MAX {
            drop(self.send_next(state, u64::MAX, send)?);
        }
        Ok(())
    }

    /// Sends what waits, and waits for what is on its way.
    pub fn send(&self, send: &dyn Fn(&[u8]) -> Result<()>) -> Result<()> {
        let mut state = self.state();
        // What others put meanwhile is theirs to wait for.
        let until = state.number;
        let mine = |number: &u64| *number <= until;
        while state.unsent.keys().any(mine) || state.sending.iter().any(mine) || {
            state.number <= until && !state.pack.is_empty()
        } {
            state = self.send_next(state, until, send)?;
        }
        Ok(())
    }

    // Sends one pack of those up to a number; where none is left, or enough are on their way, waits until one is not.
    fn send_next<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        until: u64,
        send: &dyn Fn(&[u8]) -> Result<()>,
    ) -> Result<MutexGuard<'a, State>> {
        let next = if state.sending.len() < SENDING_MAX { state.take(until) } else { None };
        let Some((number, sealed)) = next else {
            return Ok(self.ended.wait(state).unwrap_or_else(PoisonError::into_inner));
        };
        drop(state);
        let mut trip = Trip { outbox: self, number, sealed: Some(sealed) };
        if let Some(sealed) = &trip.sealed {
            send(&sealed.bytes)?;
        }
        let arrived = trip.sealed.take();
        drop(trip);
        let mut state = self.state();
        arrived.iter().flat_map(|sealed| &sealed.ids).for_each(|id| {
            state.held.remove(id);
        });
        Ok(state)
    }
}

/// A pack on its way. Whatever ends it tells those who wait, and what did not arrive stays.
struct Trip<'a> {
    outbox: &'a Outbox,
    number: u64,
    sealed: Option<Sealed>,
}

impl Drop for Trip<'_> {
    fn drop(&mut self) {
        let mut state = self.outbox.state();
        state.sending.remove(&self.number);
        if let Some(sealed) = self.sealed.take() {
            state.unsent.insert(self.number, sealed);
        }
        self.outbox.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::content::{Chunk, Compression};
    use crate::error::Error;
    use crate::store::wire::open_pack;

    fn chunk(seed: u8, len: usize) -> NewChunk {
        let chunk = Chunk::new(vec![seed; len]);
        NewChunk { chunk: chunk.to_ref(), frame: chunk.frame(Compression::None) }
    }

    #[test]
    fn chunks_are_gathered_kept_in_order_and_never_forgotten() {
        let outbox = Outbox::default();
        let sent = RefCell::new(Vec::new());
        let fails = RefCell::new(false);
        let send = |pack: &[u8]| {
            if *fails.borrow() {
                return Err(Error::Cancelled);
            }
            let opened = open_pack(pack, 2000, "here").expect("a pack");
            sent.borrow_mut().push(opened.iter().map(|(_, _, body)| body[1]).collect::<Vec<_>>());
            Ok(())
        };
        let put = |seed| outbox.add(&[chunk(seed, 400)], 1000, &send);
        put(1).expect("gathered");
        assert!(sent.borrow().is_empty());
        put(2).expect("gathered");
        put(3).expect("one full pack sent");
        assert_eq!(*sent.borrow(), [[1, 2]]);
        *fails.borrow_mut() = true;
        put(4).expect("gathered");
        assert!(put(5).is_err());
        let ids = [1, 3, 4, 5].map(|seed| chunk(seed, 400).chunk.id);
        assert_eq!(outbox.holds(&ids), [false, true, true, false], "what was not taken is the caller's");
        *fails.borrow_mut() = false;
        put(6).expect("gathered");
        outbox.send(&send).expect("sent");
        assert_eq!(*sent.borrow(), [vec![1, 2], vec![3, 4], vec![6]]);
        assert_eq!(outbox.holds(&ids), [false; 4]);
    }

    #[test]
    fn several_packs_are_on_their_way_at_once_but_not_more() {
        use std::sync::Barrier;
        use std::sync::atomic::{AtomicUsize, Ordering};
        let outbox = Outbox::default();
        let (going, most, all) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        // None of the first few arrives before all of them have begun.
        let together = Barrier::new(SENDING_MAX);
        let send = |pack: &[u8]| {
            most.fetch_max(1 + going.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
            if all.fetch_add(1, Ordering::SeqCst) < SENDING_MAX {
                together.wait();
            }
            let opened = open_pack(pack, 2000, "here").expect("a pack");
            assert!(
                outbox
                    .holds(&opened.iter().map(|(_, id, _)| ChunkId::from_bytes(*id)).collect::<Vec<_>>())
                    .into_iter()
                    .all(|held| held)
            );
            going.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        std::thread::scope(|scope| {
            for thread in 0..2 * SENDING_MAX as u8 {
                let (outbox, send) = (&outbox, &send);
                scope.spawn(move || {
                    for n in 0..10 {
                        outbox.add(&[chunk(thread * 10 + n, 900)], 1000, send).expect("sent");
                    }
                    outbox.send(send).expect("sent");
                });
            }
        });
        assert_eq!((all.into_inner(), most.into_inner()), (20 * SENDING_MAX, SENDING_MAX));
        assert_eq!(outbox.state().held.len(), 0);
    }

    #[test]
    fn whoever_waits_sends_what_another_could_not() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let outbox = Outbox::default();
        outbox.add(&[chunk(1, 400)], 1000, &|_| Ok(())).expect("gathered");
        let begun = AtomicBool::new(false);
        let sent = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                outbox.send(&|_| {
                    begun.store(true, Ordering::SeqCst);
                    Err(Error::Cancelled)
                })
            });
            while !begun.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let second = scope.spawn(|| {
                outbox.send(&|_| {
                    sent.store(true, Ordering::SeqCst);
                    Ok(())
                })
            });
            assert!(first.join().expect("ran").is_err());
            second.join().expect("ran").expect("sent");
        });
        assert!(sent.into_inner());
    }
}
