//! The reference store: everything in memory under one lock. It is what every other store must be
//! indistinguishable from, so it is written to be obviously right, not fast.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    AppName, Name, NameRecord, NewChunk, Proof, ROOT_NODE_KIND, Source, Store, SweepOptions, Swept, Verdict,
};
use crate::content::Frame;
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkRef, NodeId, VersionId};
use crate::version::NodeSource;

/// Everything in memory.
#[derive(Debug, Default)]
pub struct MemStore(Mutex<Shelves>);

#[derive(Debug, Default)]
struct Shelves {
    chunks: BTreeMap<ChunkId, Held<(u32, u64, Frame)>>,
    nodes: BTreeMap<NodeId, Held<Vec<u8>>>,
    names: BTreeMap<Name, NameRecord>,
    chunks_put: u64,
    names_bound: u64,
}

// `mark` is when a sweep condemned it; what is `doubted` did not prove.
#[derive(Debug)]
struct Held<T> {
    value: T,
    mark: Option<u64>,
    doubted: bool,
}

impl<T> Held<T> {
    fn new(value: T) -> Self {
        Self { value, mark: None, doubted: false }
    }
}

impl MemStore {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeSource for MemStore {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        for (index, id) in ids.iter().enumerate() {
            let bytes = self.shelves().nodes.get(id).map(|node| node.value.clone());
            each(index, bytes)?;
        }
        Ok(())
    }

    fn place(&self) -> String {
        "memory".into()
    }
}

impl Source for MemStore {
    fn read_chunks(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<()> {
        for (index, chunk) in want.iter().enumerate() {
            let frame = self.shelves().chunks.get(&chunk.id).map(|held| held.value.2.clone());
            each(index, frame)?;
        }
        Ok(())
    }

    fn frame_lens(&self, ids: &[ChunkId]) -> Result<Vec<Option<u32>>> {
        let shelves = self.shelves();
        let len = |id| shelves.chunks.get(id).map(|held| held.value.2.as_bytes().len() as u32);
        Ok(ids.iter().map(len).collect())
    }

    fn resolve(&self, name: &Name) -> Result<Option<NameRecord>> {
        Ok(self.shelves().names.get(name).cloned())
    }

    fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>> {
        let wanted = |record: &&NameRecord| app.is_none_or(|app| record.name.app() == app);
        let mut records: Vec<_> = self.shelves().names.values().filter(wanted).cloned().collect();
        records.sort_by_key(|record| record.sequence);
        Ok(records)
    }
}

impl Shelves {
    fn put_chunk(&mut self, new: &NewChunk, replace: bool) {
        match self.chunks.get_mut(&new.chunk.id) {
            Some(held) if !replace && !held.doubted => held.mark = None,
            _ => {
                let value = (new.chunk.len, self.chunks_put, new.frame.clone());
                self.chunks.insert(new.chunk.id, Held::new(value));
                self.chunks_put += 1;
            }
        }
    }

    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>, replace: bool) {
        match self.nodes.get_mut(&id) {
            Some(held) if !replace && !held.doubted => held.mark = None,
            _ => drop(self.nodes.insert(id, Held::new(bytes))),
        }
    }
}

impl Store for MemStore {
    fn lacks_chunks(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let mut shelves = self.shelves();
        Ok(ids.iter().map(|id| lacks(shelves.chunks.get_mut(id))).collect())
    }

    fn lacks_nodes(&self, ids: &[NodeId]) -> Result<Vec<bool>> {
        let mut shelves = self.shelves();
        Ok(ids.iter().map(|id| lacks(shelves.nodes.get_mut(id))).collect())
    }

    fn prove_chunks(&self, ids: &[ChunkId]) -> Result<Vec<Proof>> {
        let mut shelves = self.shelves();
        let proof = |id, (len, _, frame): &(u32, u64, Frame)| {
            Proof::of_chunk(&ChunkRef { id, len: *len }, frame.clone())
        };
        Ok(ids.iter().map(|id| judged(shelves.chunks.get_mut(id), |value| proof(*id, value))).collect())
    }

    fn prove_nodes(&self, ids: &[NodeId]) -> Result<Vec<Proof>> {
        let mut shelves = self.shelves();
        let proof = |id, bytes: &Vec<u8>| Proof::of_node(id, bytes);
        Ok(ids.iter().map(|id| judged(shelves.nodes.get_mut(id), |value| proof(*id, value))).collect())
    }

    fn put_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        let mut shelves = self.shelves();
        chunks.iter().for_each(|chunk| shelves.put_chunk(chunk, false));
        Ok(())
    }

    fn put_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        let mut shelves = self.shelves();
        nodes.into_iter().for_each(|(id, bytes)| shelves.put_node(id, bytes, false));
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn bind(&self, name: &Name, version: VersionId, now_unix_s: u64) -> Result<NameRecord> {
        let mut shelves = self.shelves();
        if let Some(record) = shelves.names.get(name) {
            record.refuse_other(version, "memory")?;
            return Ok(record.clone());
        }
        if lacks(shelves.nodes.get_mut(&version.root())) {
            return Err(Error::NotFound { what: format!("version {version}"), place: self.place() });
        }
        let sequence = shelves.names_bound;
        shelves.names_bound += 1;
        let record = NameRecord { name: name.clone(), version, bound_unix_s: now_unix_s, sequence };
        shelves.names.insert(name.clone(), record.clone());
        Ok(record)
    }

    fn unbind(&self, names: &[Name]) -> Result<()> {
        let mut shelves = self.shelves();
        for name in names {
            shelves.names.remove(name);
        }
        Ok(())
    }

    fn sweep(&self, options: &SweepOptions<'_>) -> Result<Swept> {
        let mut shelves = self.shelves();
        let mut swept = Swept::default();
        for roots in [true, false] {
            shelves.nodes.retain(|id, held| {
                if (held.value.first() == Some(&ROOT_NODE_KIND)) != roots {
                    return true;
                }
                let verdict = judge(held, (options.node_live)(id), options);
                swept.nodes_removed += u64::from(verdict == Verdict::Remove);
                verdict != Verdict::Remove || options.dry_run
            });
        }
        shelves.chunks.retain(|id, held| {
            let bytes = held.value.2.as_bytes().len() as u64;
            let verdict = judge(held, (options.chunk_live)(id), options);
            swept.count_chunk(verdict, bytes);
            verdict != Verdict::Remove || options.dry_run
        });
        Ok(swept)
    }

    fn each_node(&self, each: &mut dyn FnMut(NodeId) -> Result<()>) -> Result<()> {
        let ids: Vec<_> = self.shelves().nodes.keys().copied().collect();
        ids.into_iter().try_for_each(each)
    }

    fn each_chunk(&self, each: &mut dyn FnMut(ChunkRef) -> Result<()>) -> Result<()> {
        let mut chunks: Vec<_> = {
            let shelves = self.shelves();
            shelves.chunks.iter().map(|(id, held)| (held.value.1, *id, held.value.0)).collect()
        };
        chunks.sort_unstable();
        chunks.into_iter().try_for_each(|(_, id, len)| each(ChunkRef { id, len }))
    }

    fn damaged_records(&self) -> Result<Option<String>> {
        Ok(None)
    }

    fn replace_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        let mut shelves = self.shelves();
        chunks.iter().for_each(|chunk| shelves.put_chunk(chunk, true));
        Ok(())
    }

    fn replace_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        let mut shelves = self.shelves();
        nodes.into_iter().for_each(|(id, bytes)| shelves.put_node(id, bytes, true));
        Ok(())
    }

    fn stored_bytes(&self) -> Result<u64> {
        let shelves = self.shelves();
        let chunks: usize = shelves.chunks.values().map(|held| held.value.2.as_bytes().len()).sum();
        let nodes: usize = shelves.nodes.values().map(|held| held.value.len()).sum();
        Ok((chunks + nodes) as u64)
    }
}

fn lacks<T>(held: Option<&mut Held<T>>) -> bool {
    let sound = held.filter(|held| !held.doubted);
    sound.map(|held| held.mark = None).is_none()
}

fn judged<T>(held: Option<&mut Held<T>>, proof: impl FnOnce(&T) -> Proof) -> Proof {
    let Some(held) = held else { return Proof::Absent };
    let proof = proof(&held.value);
    held.mark = None;
    held.doubted = proof != Proof::Sound;
    proof
}

fn judge<T>(held: &mut Held<T>, live: bool, options: &SweepOptions<'_>) -> Verdict {
    let verdict = options.verdict(live, held.mark);
    match verdict {
        _ if options.dry_run => {}
        Verdict::Keep => held.mark = None,
        Verdict::Condemn => held.mark = Some(options.now_unix_s),
        Verdict::Wait | Verdict::Remove => {}
    }
    verdict
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::MemStore;

    #[test]
    fn is_the_reference() {
        crate::testing::conformance::run(&|check| check(&MemStore::default()));
    }
}
