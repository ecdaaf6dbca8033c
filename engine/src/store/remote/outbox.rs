//! Chunks that were put and not sent yet. A publish puts a few at a time; a request for each would cost a round trip.
//!
//! Invariants: chunks are sent in the order put. One that could not be sent stays and is sent again before anything
//! else, so what was put is never forgotten while this lives.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::id::ChunkId;
use crate::store::NewChunk;
use crate::store::wire::{ITEM_HEAD_LEN, Pack};

#[derive(Default)]
pub(super) struct Outbox {
    // Held by whoever sends or adds, so that order is kept.
    turn: Mutex<Option<Vec<u8>>>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    pack: Pack,
    gathered: HashSet<ChunkId>,
    sending: HashSet<ChunkId>,
}

impl Outbox {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for chunks that wait here or are on their way.
    pub fn holds(&self, ids: &[ChunkId]) -> Vec<bool> {
        let open = self.open();
        ids.iter().map(|id| open.gathered.contains(id) || open.sending.contains(id)).collect()
    }

    /// Adds chunks, and sends packs of up to `len_max` bytes that became full.
    pub fn add(&self, chunks: &[NewChunk], len_max: usize, send: &dyn Fn(&[u8]) -> Result<()>) -> Result<()> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        for new in chunks {
            let body = new.frame.as_bytes();
            let full = {
                let open = self.open();
                !open.pack.is_empty() && open.pack.len() + Pack::cost(body.len()) > len_max
            };
            if full {
                self.send_pack(&mut turn, send)?;
            }
            let mut open = self.open();
            open.pack.push(new.chunk.len, new.chunk.id.as_bytes(), body);
            open.gathered.insert(new.chunk.id);
        }
        let full = self.open().pack.len() + ITEM_HEAD_LEN >= len_max;
        if full { self.send_pack(&mut turn, send) } else { Ok(()) }
    }

    /// Sends what waits.
    pub fn send(&self, send: &dyn Fn(&[u8]) -> Result<()>) -> Result<()> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.send_pack(&mut turn, send)
    }

    // First the pack that could not be sent the last time, then the open one.
    fn send_pack(&self, turn: &mut Option<Vec<u8>>, send: &dyn Fn(&[u8]) -> Result<()>) -> Result<()> {
        for _ in 0..2 {
            if turn.is_none() {
                let mut open = self.open();
                if open.pack.is_empty() {
                    return Ok(());
                }
                *turn = Some(std::mem::take(&mut open.pack).finish());
                open.sending = std::mem::take(&mut open.gathered);
            }
            if let Some(pack) = turn.as_deref() {
                send(pack)?;
            }
            *turn = None;
            self.open().sending.clear();
        }
        Ok(())
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
}
