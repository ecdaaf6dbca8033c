//! Writing: packs to the store itself, never to a mirror.

use std::cell::Cell;

use ureq::http::Method;

use super::RemoteStore;
use super::fault::{Failure, sent_to};
use super::origin::{Answer, Ask, JSON};
use super::read::{name_path, optional};
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkRef, NodeId, VersionId};
use crate::store::wire::{
    self, BINARY, BindJson, IDS_MAX, JSON_LEN_MAX, LIMIT_PACK, LIMIT_SWEEP, LISTED_IDS_MAX, NameJson,
    PACK_LEN_MAX, PROVE_IDS_MAX, Pack, SWEEP_IDS_MAX, StateJson, SweepJson, SweptJson, pack_ids, path,
    proof_of,
};
use crate::store::{Name, NameRecord, NewChunk, Proof, Store, SweepOptions, Swept};

/// Most ids that a listing is believed.
const LISTED_MAX: u64 = 1 << 31;
// How often something is sent that arrives damaged.
const SENT_MAX: u32 = 3;
// More than what stands before the ids of a sweep.
const SWEEP_HEAD_LEN: usize = 1024;

impl RemoteStore {
    /// Sends what was put and waits.
    pub(super) fn send_all(&self) -> Result<()> {
        self.outbox.send(&|pack| self.post_pack(path::CHUNKS, pack))
    }

    // What arrives damaged was damaged on the way, because it was whole here: it is sent again.
    fn post_pack(&self, path: &str, pack: &[u8]) -> Result<()> {
        let post = || self.first.ask(&Ask { accept: None, slow: true, ..Ask::post(path, pack) }, done);
        let (mut sent, arrived) = (1, sent_to(self.first.place()));
        loop {
            match post() {
                Err(Error::Damaged { place, .. }) if place == arrived && sent < SENT_MAX => sent += 1,
                Err(Error::Damaged { what, place, reason }) if place == arrived => {
                    let reason = format!("it arrived so {SENT_MAX} times ({reason})");
                    return Err(Error::Damaged { what, place, reason });
                }
                done => return done,
            }
        }
    }

    // Packs, each as large as the server takes, in order.
    fn post_packs<'a>(
        &self,
        path: &str,
        items: impl Iterator<Item = (u32, &'a [u8; 32], &'a [u8])>,
    ) -> Result<()> {
        let len_max = self.limit(LIMIT_PACK, PACK_LEN_MAX)?;
        let mut pack = Pack::default();
        for (number, id, body) in items {
            if !pack.is_empty() && pack.len() + Pack::cost(body.len()) > len_max {
                self.post_pack(path, &std::mem::take(&mut pack).finish())?;
            }
            pack.push(number, id, body);
        }
        if pack.is_empty() { Ok(()) } else { self.post_pack(path, &pack.finish()) }
    }

    fn lacks(&self, path: &str, ids: &[u8], count: usize) -> Result<Vec<bool>> {
        let told = self.first.ask_bytes(&Ask::post(path, ids), count)?;
        match told.len() == count && told.iter().all(|lacks| *lacks <= 1) {
            true => Ok(told.iter().map(|lacks| *lacks == 1).collect()),
            false => Err(self.first.malformed(format!("{} bytes for {count} ids", told.len()))),
        }
    }

    // The server reads and hashes: only the answer travels.
    fn prove(&self, path: &str, ids: &[&[u8; 32]]) -> Result<Vec<Proof>> {
        let mut proofs = Vec::with_capacity(ids.len());
        for ids in ids.chunks(PROVE_IDS_MAX) {
            let request = pack_ids(ids.iter().copied());
            let told = self.first.ask_bytes(&Ask { slow: true, ..Ask::post(path, &request) }, ids.len())?;
            let read: Option<Vec<Proof>> = told.iter().map(|byte| proof_of(*byte)).collect();
            let read = read.filter(|read| read.len() == ids.len()).ok_or_else(|| {
                self.first.malformed(format!("{} bytes for {} ids to prove", told.len(), ids.len()))
            })?;
            proofs.extend(read);
        }
        Ok(proofs)
    }

    // Every item of a list of ids, of `len` bytes each.
    fn listed(&self, path: &str, len: usize, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.send_all()?;
        let mut told = 0u64;
        let mut items = 0u32;
        let mut next = |number: u32, item: Option<Vec<u8>>| {
            let item = item.filter(|item| item.len() % len == 0 && number == items);
            let Some(item) = item else {
                return Err(self.first.malformed(format!("item {number} of a list is not one")));
            };
            items += 1;
            told += (item.len() / len) as u64;
            if told > LISTED_MAX {
                let what = format!("length of a list from {}", self.first.place());
                return Err(Error::Limit { what, actual: told, max: LISTED_MAX });
            }
            each(&item)
        };
        // Not tried again once it began: the caller was told a part of it.
        let answer = self.first.ask_open(&Ask::get(path, BINARY))?;
        match answer.items(LISTED_IDS_MAX * len, &mut next) {
            Ok(()) => Ok(()),
            Err(Failure::Final(error) | Failure::Again(error, _)) => Err(error),
        }
    }
}

fn done(answer: Answer<'_>) -> Result<(), Failure> {
    answer.bytes(JSON_LEN_MAX).map(drop)
}

impl Store for RemoteStore {
    fn is_far(&self) -> bool {
        true
    }

    fn lacks_chunks(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let mut lacks = vec![false; ids.len()];
        let held = self.outbox.holds(ids);
        let unknown: Vec<_> = (0..ids.len()).filter(|at| held.get(*at) == Some(&false)).collect();
        for group in unknown.chunks(IDS_MAX) {
            let request = pack_ids(group.iter().filter_map(|at| ids.get(*at)).map(ChunkId::as_bytes));
            let told = self.lacks(path::CHUNKS_LACK, &request, group.len())?;
            for (at, told) in group.iter().zip(told) {
                if let Some(lacks) = lacks.get_mut(*at) {
                    *lacks = told;
                }
            }
        }
        Ok(lacks)
    }

    fn lacks_nodes(&self, ids: &[NodeId]) -> Result<Vec<bool>> {
        let mut lacks = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS_MAX) {
            let request = pack_ids(ids.iter().map(NodeId::as_bytes));
            lacks.extend(self.lacks(path::NODES_LACK, &request, ids.len())?);
        }
        Ok(lacks)
    }

    fn prove_chunks(&self, ids: &[ChunkId]) -> Result<Vec<Proof>> {
        let held = self.outbox.holds(ids);
        let unknown = ids.iter().zip(&held).filter(|(_, held)| !**held);
        let unknown: Vec<_> = unknown.map(|(id, _)| id.as_bytes()).collect();
        let mut told = self.prove(path::CHUNKS_PROVE, &unknown)?.into_iter();
        let proof = |held| if held { Some(Proof::Sound) } else { told.next() };
        Ok(held.into_iter().filter_map(proof).collect())
    }

    fn prove_nodes(&self, ids: &[NodeId]) -> Result<Vec<Proof>> {
        let ids: Vec<_> = ids.iter().map(NodeId::as_bytes).collect();
        self.prove(path::NODES_PROVE, &ids)
    }

    fn put_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        let len_max = self.limit(LIMIT_PACK, PACK_LEN_MAX)?;
        self.outbox.add(chunks, len_max, &|pack| self.post_pack(path::CHUNKS, pack))
    }

    fn put_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        self.send_all()?;
        self.post_packs(path::NODES, nodes.iter().map(|(id, bytes)| (0, id.as_bytes(), &bytes[..])))
    }

    fn flush(&self) -> Result<()> {
        self.send_all()?;
        self.first.ask(&Ask { accept: None, slow: true, ..Ask::post(path::FLUSH, &[]) }, done)
    }

    fn bind(&self, name: &Name, version: VersionId, now_unix_s: u64) -> Result<NameRecord> {
        self.send_all()?;
        let request = self.json(&BindJson { version: version.to_string(), now_unix_s })?;
        let ask = Ask {
            method: Method::PUT,
            path: name_path(name),
            body: Some((JSON, &request)),
            accept: Some(JSON),
            slow: true,
        };
        let told: NameJson = self.first.ask_json(&ask, JSON_LEN_MAX)?;
        let record = told.open(self.first.place())?;
        match record.name == *name && record.version == version {
            true => Ok(record),
            false => Err(self.first.malformed(format!("`{}` was bound in place of `{name}`", record.name))),
        }
    }

    fn unbind(&self, names: &[Name]) -> Result<()> {
        for name in names {
            let ask =
                Ask { method: Method::DELETE, path: name_path(name), body: None, accept: None, slow: true };
            optional(self.first.ask(&ask, done))?;
        }
        Ok(())
    }

    // What is needed is known here, what there is is known there: the lists come, and the ids of what is dead go, in
    // one request, because a sweep takes the mark of everything that it is not told to be dead.
    fn sweep(&self, options: &SweepOptions<'_>) -> Result<Swept> {
        let room = self.limit(LIMIT_SWEEP, SWEEP_IDS_MAX * 32 + SWEEP_HEAD_LEN)?;
        let room = room.saturating_sub(SWEEP_HEAD_LEN) / 32;
        let (mut nodes, mut chunks) = (Vec::new(), Vec::new());
        self.each_node(&mut |id| {
            if !(options.node_live)(&id) {
                nodes.push(*id.as_bytes());
            }
            // A node left out would stay without those below it.
            match nodes.len() <= room {
                true => Ok(()),
                false => Err(Error::Limit {
                    what: format!("dead nodes in {}", self.first.place()),
                    actual: nodes.len() as u64,
                    max: room as u64,
                }),
            }
        })?;
        // Chunks left out wait for the next sweep.
        let room = room - nodes.len();
        let left_out = Cell::new(0u64);
        self.each_chunk(&mut |chunk| {
            match (options.chunk_live)(&chunk.id) {
                true => {}
                false if chunks.len() < room => chunks.push(*chunk.id.as_bytes()),
                false => left_out.set(left_out.get() + 1),
            }
            Ok(())
        })?;
        let mut request = self.json(&SweepJson {
            now_unix_s: options.now_unix_s,
            grace_s: options.grace.as_secs(),
            dry_run: options.dry_run,
            nodes_dead: nodes.len() as u64,
            chunks_dead: chunks.len() as u64,
        })?;
        request.push(b'\n');
        request.reserve_exact((nodes.len() + chunks.len()) * 32);
        nodes.iter().chain(&chunks).for_each(|id| request.extend_from_slice(id));
        drop((nodes, chunks));
        let ask = Ask { accept: Some(JSON), slow: true, ..Ask::post(path::UPKEEP_SWEEP, &request) };
        let told: SweptJson = self.first.ask_json(&ask, JSON_LEN_MAX)?;
        Ok(Swept {
            chunks_live: told.chunks_live.saturating_sub(left_out.get()),
            chunks_condemned: told.chunks_condemned,
            chunks_removed: told.chunks_removed,
            nodes_removed: told.nodes_removed,
            bytes_removed: told.bytes_removed,
            bytes_condemned: told.bytes_condemned,
        })
    }

    fn each_chunk(&self, each: &mut dyn FnMut(ChunkRef) -> Result<()>) -> Result<()> {
        self.listed(path::UPKEEP_CHUNKS, 36, &mut |bytes| {
            wire::unpack_refs(bytes, self.first.place())?.into_iter().try_for_each(&mut *each)
        })
    }

    fn each_node(&self, each: &mut dyn FnMut(NodeId) -> Result<()>) -> Result<()> {
        self.listed(path::UPKEEP_NODES, 32, &mut |bytes| {
            wire::node_ids(wire::unpack_ids(bytes, self.first.place())?).into_iter().try_for_each(&mut *each)
        })
    }

    fn damaged_records(&self) -> Result<Option<String>> {
        Ok(self.state()?.damaged_records)
    }

    fn replace_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        self.send_all()?;
        let items = chunks.iter().map(|new| (new.chunk.len, new.chunk.id.as_bytes(), new.frame.as_bytes()));
        self.post_packs(path::REPAIR_CHUNKS, items)
    }

    fn replace_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        self.send_all()?;
        self.post_packs(path::REPAIR_NODES, nodes.iter().map(|(id, bytes)| (0, id.as_bytes(), &bytes[..])))
    }

    fn stored_bytes(&self) -> Result<u64> {
        Ok(self.state()?.stored_bytes)
    }
}

impl RemoteStore {
    fn state(&self) -> Result<StateJson> {
        self.send_all()?;
        self.first.ask_json(&Ask { slow: true, ..Ask::get(path::UPKEEP_STATE, JSON) }, JSON_LEN_MAX)
    }

    fn json(&self, value: &impl serde::Serialize) -> Result<Vec<u8>> {
        serde_json::to_vec(value).map_err(|error| self.first.malformed(error.to_string()))
    }
}
