//! Tree -> store. Chunks, then nodes, then the name; whatever stops it before the name leaves no trace but
//! chunks that the next publish finds already there.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;

use crate::content::CutParams;
use crate::error::{At, Error, Result};
use crate::flow::ordered;
use crate::id::{ChunkId, NodeId, VersionId};
use crate::progress::{Notice, Phase, Progress, check};
use crate::store::{Name, Proof, Store};
use crate::tree::{Found, FoundKind, Scan, ScanOptions, SourceTree, StatTable};
use crate::version::{ChunkListBuilder, Entry, EntryKind, Manifest, ManifestBuilder, NodeSink, Totals};

use super::gather::{Buffers, Gather, Gathered, Pieces, Windows, file_mode, without_content};
use super::{PublishOptions, Published};

/// Publishes `dir` into `store` under `name`. All or nothing: on any error the name is not bound, and running
/// again continues where it stopped.
pub fn publish(
    dir: &Path,
    store: &dyn Store,
    name: &Name,
    options: &PublishOptions,
    progress: &dyn Progress,
) -> Result<Published> {
    let tree = SourceTree::open(dir)?;
    let scan_options = ScanOptions {
        exclude: options.exclude.clone(),
        honour_ignore: true,
        tolerate_foreign: false,
        threads: options.threads,
    };
    let scan = tree.scan(&scan_options, progress)?;
    scan.notices.iter().cloned().for_each(|notice| progress.notice(notice));

    let memory = Memory::recall(dir, options, progress)?;
    let known = memory.table(store, options)?;
    let mut counts = Counts::default();
    let same = known.filter(|table| table.is_unchanged(&scan.found));
    let (version, totals) = match same {
        Some(table) => (table.version, Manifest::open(store, table.version)?.totals()),
        None => read(&tree, &scan, known, store, options, progress, &mut counts)?,
    };
    check(progress)?;
    let record = store.bind(name, version, options.now_unix_s)?;
    let left_out = scan.left_out;
    // The name is bound: what is left can only make the next publish slower.
    if same.is_none()
        && let Err(error) = memory.keep(version, scan, options)
    {
        progress.notice(Notice::StateIgnored { what: error.to_string() });
    }
    Ok(Published {
        version,
        record,
        files: totals.files,
        bytes: totals.bytes,
        chunks: totals.chunks,
        chunks_new: counts.chunks_new,
        bytes_new: counts.bytes_new,
        bytes_stored: counts.bytes_stored,
        nodes_new: counts.nodes_new,
        chunks_mended: counts.chunks_mended,
        nodes_mended: counts.nodes_mended,
        files_read: counts.files_read,
        left_out,
    })
}

#[derive(Default)]
struct Counts {
    chunks_new: u64,
    bytes_new: u64,
    bytes_stored: u64,
    nodes_new: u64,
    chunks_mended: u64,
    nodes_mended: u64,
    files_read: u64,
}

fn read(
    tree: &SourceTree,
    scan: &Scan,
    known: Option<&StatTable>,
    store: &dyn Store,
    options: &PublishOptions,
    progress: &dyn Progress,
    counts: &mut Counts,
) -> Result<(VersionId, Totals)> {
    let unchanged = known.map_or_else(|| vec![false; scan.found.len()], |table| table.unchanged(&scan.found));
    progress.phase(Phase::Publish, Some(bytes_to_read(scan, &unchanged)));
    let nodes = Nodes::new(store, options.rehash);
    let mut manifest = ManifestBuilder::new(CutParams::V1, &nodes);
    let mut open: Option<ChunkListBuilder<_>> = None;
    let buffers = Buffers::default();
    let gather = Gather::new(tree, store, options, progress, &buffers);

    let old = known.map(|table| Manifest::open(store, table.version)).transpose()?;
    let old = old.map(|old| old.entries().peekable());
    let feed = Pieces::new(tree, WithKnown { found: scan.found.iter().zip(unchanged), old }, &buffers);
    let windows = Windows::of(store, options.in_flight_bytes_max);
    ordered(
        windows.flow(options.threads, options.in_flight_bytes_max),
        windows.over(feed),
        |window| gather.work(window),
        |batch| {
            gather.put(batch.new)?;
            nodes.hold_until(batch.relies_on, batch.number);
            for gathered in batch.gathered {
                let files = match gathered {
                    Gathered::Known(entry) => {
                        manifest.push(*entry)?;
                        continue;
                    }
                    Gathered::Read(files) => files,
                };
                for file in files {
                    let mut list = open.take().unwrap_or_else(|| ChunkListBuilder::new(&nodes));
                    file.chunks.into_iter().try_for_each(|chunk| list.push(chunk))?;
                    if file.last {
                        let (content, len) = list.finish()?;
                        counts.files_read += 1;
                        let kind = EntryKind::File { mode: file_mode(file.found)?, len, content };
                        manifest.push(Entry { path: file.found.path.clone(), kind })?;
                    } else {
                        open = Some(list);
                    }
                }
            }
            Ok(())
        },
    )?;
    counts.chunks_new = gather.counts.chunks.load(Relaxed);
    counts.bytes_new = gather.counts.bytes.load(Relaxed);
    counts.bytes_stored = gather.counts.stored.load(Relaxed);
    let mended = gather.mended();
    let (version, totals) = manifest.finish()?;
    nodes.put_all()?;
    counts.nodes_new = nodes.new.get();
    let nodes_mended = nodes.mended.take();
    counts.chunks_mended = mended.len() as u64;
    counts.nodes_mended = nodes_mended.len() as u64;
    prove_mended(store, &mended, &nodes_mended)?;
    Ok((version, totals))
}

// A disk that damaged what was there may do it again, and a server that was started anew has forgotten what it found
// damaged: the name is bound only to what can be read.
fn prove_mended(store: &dyn Store, chunks: &[ChunkId], nodes: &[NodeId]) -> Result<()> {
    if chunks.is_empty() && nodes.is_empty() {
        return Ok(());
    }
    store.flush()?;
    let still = |what: String| Error::Damaged {
        what,
        place: store.place(),
        reason: "it was put again, and still cannot be read".to_owned(),
    };
    for ids in chunks.chunks(PROVEN_AT_ONCE) {
        let mut proofs = ids.iter().zip(store.prove_chunks(ids)?);
        if let Some((id, _)) = proofs.find(|(_, proof)| *proof != Proof::Sound) {
            return Err(still(format!("chunk {id}")));
        }
    }
    for ids in nodes.chunks(PROVEN_AT_ONCE) {
        let mut proofs = ids.iter().zip(store.prove_nodes(ids)?);
        if let Some((id, _)) = proofs.find(|(_, proof)| *proof != Proof::Sound) {
            return Err(still(format!("node {id}")));
        }
    }
    Ok(())
}

fn bytes_to_read(scan: &Scan, unchanged: &[bool]) -> u64 {
    let len = |(found, unchanged): (&Found, &bool)| match found.kind {
        FoundKind::File { len, .. } if !unchanged => len,
        _ => 0,
    };
    scan.found.iter().zip(unchanged).map(len).sum()
}

/// Found paths joined with what the version published last says of those that did not change. Both are in path
/// order, so one pass over the old entries is enough.
struct WithKnown<F, E: Iterator> {
    found: F,
    old: Option<Peekable<E>>,
}

impl<'s, F, E> Iterator for WithKnown<F, E>
where
    F: Iterator<Item = (&'s Found, bool)>,
    E: Iterator<Item = Result<Entry>>,
{
    type Item = Result<(&'s Found, Option<Entry>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (found, unchanged) = self.found.next()?;
        if let Some(entry) = without_content(found) {
            return Some(Ok((found, Some(entry))));
        }
        let entry = if unchanged { self.old_entry(found) } else { Ok(None) };
        Some(entry.map(|entry| (found, entry)))
    }
}

impl<F, E: Iterator<Item = Result<Entry>>> WithKnown<F, E> {
    // `None` if the old version does not have the path after all: then it is read.
    fn old_entry(&mut self, found: &Found) -> Result<Option<Entry>> {
        let Some(old) = &mut self.old else { return Ok(None) };
        while let Some(entry) = old.next_if(|entry| entry.as_ref().is_ok_and(|entry| entry.path < found.path))
        {
            entry?;
        }
        match old.next_if(|entry| entry.as_ref().map_or(true, |entry| entry.path == found.path)) {
            Some(entry) => entry.map(|entry| matches!(entry.kind, EntryKind::File { .. }).then_some(entry)),
            None => Ok(None),
        }
    }
}

/// New nodes on their way into the store, a batch at a time.
///
/// No node is put before the chunks that it names. Those of the windows drained so far are put, but for chunks that a
/// later window is at: then nodes wait for that one.
struct Nodes<'s> {
    store: &'s dyn Store,
    // What the store says it has is read and hashed.
    prove: bool,
    batch: RefCell<Vec<(NodeId, Vec<u8>)>>,
    batch_max: usize,
    // The last window that a node relies on, and whether it is still to come.
    until: Cell<u64>,
    held: Cell<bool>,
    new: Cell<u64>,
    mended: RefCell<Vec<NodeId>>,
}

const NODES_PER_BATCH: usize = 256;
const FAR_NODES_PER_BATCH: usize = 2048;
/// Things put again that are proven together.
const PROVEN_AT_ONCE: usize = 256;

impl<'s> Nodes<'s> {
    fn new(store: &'s dyn Store, prove: bool) -> Self {
        let batch_max = if store.is_far() { FAR_NODES_PER_BATCH } else { NODES_PER_BATCH };
        let (until, held, new) = (Cell::new(0), Cell::new(false), Cell::new(0));
        let (batch, mended) = (RefCell::default(), RefCell::default());
        Self { store, prove, batch, batch_max, until, held, new, mended }
    }

    fn hold_until(&self, window: u64, drained: u64) {
        self.until.set(self.until.get().max(window));
        self.held.set(self.until.get() > drained);
    }

    fn put_all(&self) -> Result<()> {
        let mut batch = self.batch.take();
        // Files of equal content bring equal nodes.
        let mut seen = HashSet::new();
        batch.retain(|(id, _)| seen.insert(*id));
        let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
        let proofs = match self.prove {
            true => self.store.prove_nodes(&ids)?,
            false => self.store.lacks_nodes(&ids)?.into_iter().map(Proof::trusted).collect(),
        };
        let mut new = Vec::new();
        for (node, proof) in batch.into_iter().zip(proofs) {
            match proof {
                Proof::Sound => continue,
                Proof::Absent => self.new.set(self.new.get() + 1),
                Proof::Damaged => self.mended.borrow_mut().push(node.0),
            }
            new.push(node);
        }
        if new.is_empty() { Ok(()) } else { self.store.put_nodes(new) }
    }
}

impl NodeSink for &Nodes<'_> {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.batch.borrow_mut().push((id, bytes));
        let full = self.batch.borrow().len() >= self.batch_max;
        if full && !self.held.get() { self.put_all() } else { Ok(()) }
    }
}

/// Where the fingerprints of one source directory are kept, and what was recalled.
struct Memory {
    path: Option<PathBuf>,
    context: [u8; 32],
    table: Option<StatTable>,
}

impl Memory {
    // A table that cannot be read costs time, not the publish.
    fn recall(dir: &Path, options: &PublishOptions, progress: &dyn Progress) -> Result<Memory> {
        let dir = dir.canonicalize().at("find", dir)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(dir.as_os_str().as_encoded_bytes());
        for glob in &options.exclude {
            hasher.update(&[0]);
            hasher.update(glob.as_bytes());
        }
        let context = *hasher.finalize().as_bytes();
        let name = blake3::Hash::from_bytes(context).to_hex();
        let path = options.fingerprints.as_ref().map(|folder| folder.join(name.as_str()));
        let table = match path.as_deref().map(StatTable::load).transpose() {
            Ok(table) => table.flatten(),
            Err(error) => {
                progress.notice(Notice::StateIgnored { what: error.to_string() });
                None
            }
        };
        Ok(Memory { path, context, table })
    }

    // A version that a name is bound to is complete, and stays so until a prune's grace is over.
    fn table(&self, store: &dyn Store, options: &PublishOptions) -> Result<Option<&StatTable>> {
        let Some(table) =
            self.table.as_ref().filter(|table| !options.rehash && table.context == self.context)
        else {
            return Ok(None);
        };
        let bound = store.names(None)?.iter().any(|record| record.version == table.version);
        Ok(bound.then_some(table))
    }

    fn keep(&self, version: VersionId, scan: Scan, options: &PublishOptions) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let rows = scan.found.into_iter().map(|found| (found.path, found.stat)).collect();
        let started_unix_ns = scan.started_unix_ns;
        StatTable { version, context: self.context, started_unix_ns, rows }.save(path, &options.faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemStore;
    use crate::version::NodeSource;

    #[test]
    fn nodes_wait_for_the_window_they_rely_on() {
        let store = MemStore::default();
        let nodes = Nodes::new(&store, false);
        let mut number = 0u32;
        let mut put = |count: usize| {
            for _ in 0..count {
                let bytes = number.to_le_bytes().to_vec();
                number += 1;
                (&mut &nodes).put_node(NodeId::of(&bytes), bytes).expect("put");
            }
            nodes.new.get()
        };
        nodes.hold_until(3, 1);
        assert_eq!(put(NODES_PER_BATCH), 0, "window 3 is still to come");
        nodes.hold_until(2, 2);
        assert_eq!(put(1), 0);
        nodes.hold_until(3, 3);
        assert_eq!(put(1), NODES_PER_BATCH as u64 + 2);
        let id = NodeId::of(&0u32.to_le_bytes());
        let mut found = false;
        store
            .read_nodes(&[id], &mut |_, bytes| {
                found = bytes.is_some();
                Ok(())
            })
            .expect("read");
        assert!(found);
    }
}
