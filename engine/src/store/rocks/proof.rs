//! Reading and hashing what the records say is here. What does not prove counts as lacking until it is put again: nothing
//! is removed for it, since what cannot be read now may be read by the next who asks.

use std::collections::HashMap;

use super::RocksStore;
use super::base::Wanted;
use super::ingest::Writer;
use super::layout::Key;
use crate::error::Result;
use crate::id::{ChunkId, ChunkRef, NodeId};
use crate::store::Proof;

/// Nodes held at once.
const NODES_AT_ONCE: usize = 128;

impl RocksStore {
    pub(super) fn proofs_of_chunks(&self, ids: &[ChunkId]) -> Result<Vec<Proof>> {
        // First what is on its way, then the database, because that is the way chunks go.
        let ahead = self.ahead.holds(ids);
        let mut proofs: Vec<_> =
            ahead.iter().map(|ahead| if *ahead { Proof::Sound } else { Proof::Absent }).collect();
        let asked: Vec<usize> = (0..).zip(&ahead).filter(|(_, ahead)| !**ahead).map(|(at, _)| at).collect();
        let (mut wanted, mut refs) = (Vec::with_capacity(asked.len()), HashMap::new());
        let mut indexes = asked.iter().copied();
        let here = asked.iter().filter_map(|index| ids.get(*index)).copied();
        self.base.locate(here, &mut |location| {
            let index = indexes.next();
            if let (Some(index), Some(location)) = (index, location)
                && let Some(id) = ids.get(index)
            {
                refs.insert(index, ChunkRef { id: *id, len: location.plain_len });
                wanted.push(Wanted { location, index });
            }
        })?;
        self.base.frames(&mut wanted, &mut |index, frame| {
            if let (Some(proof), Some(chunk), Some(frame)) = (proofs.get_mut(index), refs.get(&index), frame)
            {
                *proof = Proof::of_chunk(chunk, frame);
            }
            Ok(())
        })?;
        self.settle_proofs(ids, proofs, Writer::holds_chunk)
    }

    pub(super) fn proofs_of_nodes(&self, ids: &[NodeId]) -> Result<Vec<Proof>> {
        let mut proofs = vec![Proof::Absent; ids.len()];
        for (ids, proofs) in ids.chunks(NODES_AT_ONCE).zip(proofs.chunks_mut(NODES_AT_ONCE)) {
            {
                let writer = self.writer();
                let held = |id| if writer.node(id).is_some() { Proof::Sound } else { Proof::Absent };
                proofs.iter_mut().zip(ids).for_each(|(proof, id)| *proof = held(id));
            }
            let each = &mut |index, bytes: Option<Vec<u8>>| {
                if let (Some(proof @ Proof::Absent), Some(id), Some(bytes)) =
                    (proofs.get_mut(index), ids.get(index), bytes)
                {
                    *proof = Proof::of_node(*id, &bytes);
                }
                Ok(())
            };
            self.base.nodes(ids, each)?;
        }
        self.settle_proofs(ids, proofs, |writer, id| writer.node(id).is_some())
    }

    // Tells what is damaged from what is absent, remembers it, and reprieves the rest.
    fn settle_proofs<K: Key>(
        &self,
        ids: &[K],
        mut proofs: Vec<Proof>,
        held: fn(&Writer, &K) -> bool,
    ) -> Result<Vec<Proof>> {
        let mut claimed = self.base.claims(&of(ids, &proofs, Proof::Absent))?.into_iter();
        for proof in proofs.iter_mut().filter(|proof| **proof == Proof::Absent) {
            if claimed.next() == Some(true) {
                *proof = Proof::Damaged;
            }
        }
        self.ahead.doubt(&of(ids, &proofs, Proof::Damaged));
        let sound = of(ids, &proofs, Proof::Sound);
        self.ahead.trust(&sound);
        // A sweep may have been at them since they were read.
        let mut lacks = self.writer().lacks(&self.base, &sound, held)?.into_iter();
        for proof in proofs.iter_mut().filter(|proof| **proof == Proof::Sound) {
            if lacks.next() == Some(true) {
                *proof = Proof::Absent;
            }
        }
        Ok(proofs)
    }
}

fn of<K: Key>(ids: &[K], proofs: &[Proof], want: Proof) -> Vec<K> {
    ids.iter().zip(proofs).filter(|(_, proof)| **proof == want).map(|(id, _)| *id).collect()
}
