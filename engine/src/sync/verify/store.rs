//! A store, re-hashed: the nodes that its names need, whether their chunks are there, and the chunks' content.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::Builder;

use crate::content::Chunk;
use crate::error::{Error, ErrorClass, Result};
use crate::flow::{Flow, ordered};
use crate::id::{ChunkId, ChunkRef, NodeId};
use crate::progress::{Phase, Progress, check};
use crate::store::{Name, NameRecord, NewChunk, Source, Store};
use crate::sync::mark::{Met, walk_past};
use crate::sync::{Damage, MirrorOptions, Verified, VerifyOptions, mirror};
use crate::version::{Entry, EntryKind, Manifest, Node, ROOT_NODE_KIND};

/// Most names or paths listed beside a damaged thing.
const NEEDED_BY_MAX: usize = 4;
/// What a repair calls names that it cannot be sure of.
const LIST_OF_NAMES: &str = "list of names";
/// Nodes read together.
const NODES_PER_READ: usize = 256;
/// Chunks read together.
const CHUNKS_PER_READ: usize = 64;

/// Re-hashes a store: every node that its names need, that their chunks are there, and the content of all chunks
/// or of a share of them. Memory: 32 bytes a node, and what is damaged.
pub fn verify_store(store: &dyn Store, options: &VerifyOptions, progress: &dyn Progress) -> Result<Verified> {
    let mut found = look_at_nodes(store, progress)?;
    read_chunks(store, options, progress, &mut found)?;
    name_users(store, &mut found)?;
    found.records = store.damaged_records()?;
    Ok(found.into_report())
}

/// Verifies `store` and replaces what is damaged from `source`. What `source` lacks too stays in the report.
pub fn repair_store(
    store: &dyn Store,
    source: &dyn Source,
    options: &VerifyOptions,
    progress: &dyn Progress,
) -> Result<Verified> {
    let (mut found, mut repaired) = mend_trees(store, source, progress)?;
    let mut unbound = Vec::new();
    if store.names_lost()? {
        let bound;
        (bound, unbound) = find_names(store, source, options, progress)?;
        let (again, nodes) = mend_trees(store, source, progress)?;
        found = again;
        repaired += bound + nodes;
    }
    read_chunks(store, options, progress, &mut found)?;
    repaired += mend_chunks(store, source, &mut found)?;
    name_users(store, &mut found)?;
    if found.nodes.is_empty() && found.chunks.is_empty() && (unbound.is_empty() || options.accept_loss) {
        unbound.clear();
        store.settle()?;
    }
    found.records = store.damaged_records()?;
    let mut report = found.into_report();
    report.damage.extend(unbound);
    Ok(Verified { repaired, ..report })
}

// Mends nodes until no more are found that can be; returns how many were.
fn mend_trees(store: &dyn Store, source: &dyn Source, progress: &dyn Progress) -> Result<(Found, u64)> {
    let mut repaired = 0;
    // What was mended once and is damaged again is the disk's fault.
    let mut mended = HashSet::new();
    // A mended node may show more that is missing below it.
    loop {
        let mut found = look_at_nodes(store, progress)?;
        let nodes = mend_nodes(store, source, &mut found, &mut mended)?;
        repaired += nodes;
        if nodes == 0 {
            return Ok((found, repaired));
        }
    }
}

// Binds the names of `source` that the store does not know, each after all that it needs has come; returns how many,
// and those of which something cannot be had.
fn find_names(
    store: &dyn Store,
    source: &dyn Source,
    options: &VerifyOptions,
    progress: &dyn Progress,
) -> Result<(u64, Vec<Damage>)> {
    // Any other store would add its own names, and its silence about the lost ones would pass for their absence.
    let left = store.names(None)?;
    if left.is_empty()
        && !options.accept_loss
        && let Some(doubt) = doubt_without_names(store, source)?
    {
        return Ok((0, vec![doubt]));
    }
    for NameRecord { name, version, .. } in left {
        if source.resolve(&name)?.is_none_or(|record| record.version != version) {
            return Ok((0, vec![not_a_copy(&name, source)]));
        }
    }
    let options =
        MirrorOptions { threads: options.threads, in_flight_bytes_max: options.in_flight_bytes_max };
    let (mut bound, mut unbound) = (0, Vec::new());
    for NameRecord { name, .. } in source.names(None)? {
        if store.resolve(&name)?.is_some() {
            continue;
        }
        match mirror(source, store, std::slice::from_ref(&name), &options, progress) {
            Ok(mirrored) => bound += mirrored.names,
            Err(error) if error.class() == ErrorClass::Damaged => unbound.push(Damage {
                what: format!("name `{name}`"),
                reason: format!("it may have been lost, and cannot be bound again: {error}"),
                needed_by: Vec::new(),
            }),
            Err(error) => return Err(error),
        }
    }
    Ok((bound, unbound))
}

fn not_a_copy(name: &Name, source: &dyn Source) -> Damage {
    Damage {
        what: LIST_OF_NAMES.to_owned(),
        reason: format!(
            "names may have been lost, and {} is no copy of this store that has them all: it does not have `{name}` as here",
            source.place()
        ),
        needed_by: Vec::new(),
    }
}

// Without a name left, the versions that are here tell: a copy of the store has a name for each of them.
fn doubt_without_names(store: &dyn Store, source: &dyn Source) -> Result<Option<Damage>> {
    let named: HashSet<NodeId> =
        source.names(None)?.into_iter().map(|record| record.version.root()).collect();
    let (mut ids, mut roots, mut unnamed) = (Vec::new(), 0_u64, None);
    store.each_node(&mut |id| {
        ids.push(id);
        Ok(())
    })?;
    for batch in ids.chunks(NODES_PER_READ) {
        store.read_nodes(batch, &mut |index, bytes| {
            if bytes.is_some_and(|bytes| bytes.first() == Some(&ROOT_NODE_KIND)) {
                roots += 1;
                unnamed = unnamed.or(batch.get(index).filter(|id| !named.contains(id)).copied());
            }
            Ok(())
        })?;
    }
    let why = match unnamed {
        Some(root) => format!("has no name for version {root}, which is here"),
        None if roots == 0 => "has any of them cannot be told: no version is left here".to_owned(),
        None => return Ok(None),
    };
    let whether = if roots == 0 { "whether " } else { "" };
    Ok(Some(Damage {
        what: LIST_OF_NAMES.to_owned(),
        reason: format!("all names may have been lost, and {whether}{} {why}", source.place()),
        needed_by: Vec::new(),
    }))
}

#[derive(Default)]
struct Found {
    counts: Verified,
    nodes: BTreeMap<NodeId, String>,
    chunks: BTreeMap<ChunkId, (ChunkRef, String)>,
    records: Option<String>,
    needed_by: HashMap<[u8; 32], Vec<String>>,
}

impl Found {
    fn into_report(self) -> Verified {
        let Found { mut counts, nodes, chunks, records, needed_by } = self;
        let needed_by = |id: &[u8; 32]| needed_by.get(id).cloned().unwrap_or_default();
        let of_node = |(id, reason): (NodeId, String)| Damage {
            what: format!("node {id}"),
            reason,
            needed_by: needed_by(id.as_bytes()),
        };
        let of_chunk = |(id, (_, reason)): (ChunkId, (ChunkRef, String))| Damage {
            what: format!("chunk {id}"),
            reason,
            needed_by: needed_by(id.as_bytes()),
        };
        let of_records =
            |reason| Damage { what: "the store's records".into(), reason, needed_by: Vec::new() };
        counts.damage = nodes
            .into_iter()
            .map(of_node)
            .chain(chunks.into_iter().map(of_chunk))
            .chain(records.map(of_records))
            .collect();
        counts
    }
}

fn look_at_nodes(store: &dyn Store, progress: &dyn Progress) -> Result<Found> {
    let mut found = Found::default();
    progress.phase(Phase::Mark, None);
    let mut seen = HashSet::new();
    for record in store.names(None)? {
        found.counts.versions += 1;
        let Found { counts, nodes, chunks, .. } = &mut found;
        let each = &mut |met: Met<'_>| {
            check(progress)?;
            progress.advance(1);
            counts.nodes += 1;
            let refs: Vec<ChunkRef> = met.node.chunks();
            let ids: Vec<_> = refs.iter().map(|chunk| chunk.id).collect();
            for (chunk, len) in refs.iter().zip(store.frame_lens(&ids)?) {
                if len.is_none() {
                    chunks.insert(chunk.id, (*chunk, "missing".into()));
                }
            }
            Ok(())
        };
        walk_past(store, record.version.root(), &mut seen, each, &mut |id, error| {
            nodes.insert(id, reason_of(&error));
            Ok(())
        })?;
    }
    Ok(found)
}

// Hashes the content of the chosen chunks, in stored order. They are walked twice, once for their sum, so that none of
// them has to be remembered.
fn read_chunks(
    store: &dyn Store,
    options: &VerifyOptions,
    progress: &dyn Progress,
    found: &mut Found,
) -> Result<()> {
    let subset = Subset::new(options);
    let mut total = 0;
    let in_all = &mut found.counts.chunks_in_all;
    store.each_chunk(&mut |chunk| {
        *in_all += 1;
        total += if subset.has(&chunk.id) { u64::from(chunk.len) } else { 0 };
        check(progress)
    })?;
    progress.phase(Phase::Verify, Some(total));
    let flow = Flow { threads: options.threads, weight_max: options.in_flight_bytes_max };
    let hash = |batch: Vec<ChunkRef>| bad_chunks(store, &batch, progress).map(|bad| (batch, bad));
    let (batches, feed) = sync_channel(1);
    std::thread::scope(|scope| {
        Builder::new()
            .spawn_scoped(scope, move || send_chosen(store, &subset, &batches))
            .map_err(|error| Error::io("start threads of", "this process", error))?;
        ordered(flow, feed.into_iter(), hash, |(batch, bad): (Vec<ChunkRef>, _)| {
            found.counts.chunks += batch.len() as u64;
            found.counts.bytes += batch.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
            for (chunk, reason) in bad {
                found.chunks.entry(chunk.id).or_insert((chunk, reason));
            }
            Ok(())
        })
    })
}

type Batch = Result<(Vec<ChunkRef>, u64)>;

// Ends early when nobody listens any more.
fn send_chosen(store: &dyn Store, subset: &Subset, batches: &SyncSender<Batch>) {
    let mut batch = Vec::with_capacity(CHUNKS_PER_READ);
    let send = |batch: &mut Vec<ChunkRef>| {
        let weight = batch.iter().map(|chunk| u64::from(chunk.len)).sum();
        batches.send(Ok((std::mem::take(batch), weight))).map_err(|_| Error::Cancelled)
    };
    let walked = store.each_chunk(&mut |chunk| {
        if subset.has(&chunk.id) {
            batch.push(chunk);
        }
        if batch.len() < CHUNKS_PER_READ { Ok(()) } else { send(&mut batch) }
    });
    // A listener that is gone has its own reason to tell.
    let _ = match walked {
        Ok(()) => send(&mut batch),
        Err(error) => batches.send(Err(error)).map_err(|_| Error::Cancelled),
    };
}

/// Which chunks a share of a store has: a draw by the chunk's id and the seed.
struct Subset {
    key: [u8; 32],
    threshold: u64,
}

impl Subset {
    fn new(options: &VerifyOptions) -> Subset {
        let threshold = (options.subset.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        Subset { key: blake3::derive_key("floe verify subset v1", &options.seed.to_le_bytes()), threshold }
    }

    fn has(&self, id: &ChunkId) -> bool {
        let draw = || {
            let draw = blake3::keyed_hash(&self.key, id.as_bytes());
            draw.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        self.threshold == u64::MAX || draw() <= self.threshold
    }
}

// What is far is read again where it is bad: it may have been damaged on the way.
fn bad_chunks(
    store: &dyn Store,
    batch: &[ChunkRef],
    progress: &dyn Progress,
) -> Result<Vec<(ChunkRef, String)>> {
    check(progress)?;
    let mut bad = read_bad(store, batch)?;
    for _ in 0..if store.is_far() { 2 } else { 0 } {
        if !bad.is_empty() {
            check(progress)?;
            let again: Vec<_> = bad.iter().map(|(chunk, _)| *chunk).collect();
            bad = read_bad(store, &again)?;
        }
    }
    progress.advance(batch.iter().map(|chunk| u64::from(chunk.len)).sum());
    Ok(bad)
}

fn read_bad(store: &dyn Store, batch: &[ChunkRef]) -> Result<Vec<(ChunkRef, String)>> {
    let place = store.place();
    let mut bad = Vec::new();
    store.read_chunks(batch, &mut |index, frame| {
        let Some(chunk) = batch.get(index) else { return Ok(()) };
        let opened = match frame {
            Some(frame) => Chunk::open(frame, chunk, &place).map(drop),
            None => Err(missing(chunk, &place)),
        };
        if let Err(error) = opened {
            bad.push((*chunk, reason_of(&error)));
        }
        Ok(())
    })?;
    Ok(bad)
}

// Says which names and paths need what is damaged; walks the versions again, and only if something is.
fn name_users(store: &dyn Store, found: &mut Found) -> Result<()> {
    let Found { nodes, chunks, needed_by, .. } = found;
    if nodes.is_empty() && chunks.is_empty() {
        return Ok(());
    }
    let mut note = |id: &[u8; 32], user: String| {
        let users = needed_by.entry(*id).or_default();
        if users.len() < NEEDED_BY_MAX && !users.contains(&user) {
            users.push(user);
        }
    };
    for record in store.names(None)? {
        let met = &mut |_: Met<'_>| Ok(());
        walk_past(store, record.version.root(), &mut HashSet::new(), met, &mut |id, _| {
            note(id.as_bytes(), record.name.to_string());
            Ok(())
        })?;
        let Ok(manifest) = Manifest::open(store, record.version) else { continue };
        for entry in manifest.entries() {
            let Ok(Entry { path, kind: EntryKind::File { content, .. } }) = entry else { continue };
            for chunk in Manifest::chunks_in(store, &content) {
                let Ok(chunk) = chunk else { break };
                if chunks.contains_key(&chunk.id) {
                    note(chunk.id.as_bytes(), format!("{}:{path}", record.name));
                }
            }
        }
    }
    Ok(())
}

fn mend_nodes(
    store: &dyn Store,
    source: &dyn Source,
    found: &mut Found,
    mended: &mut HashSet<NodeId>,
) -> Result<u64> {
    let ids: Vec<NodeId> = found.nodes.keys().copied().filter(|id| mended.insert(*id)).collect();
    let mut good = Vec::new();
    source.read_nodes(&ids, &mut |index, bytes| {
        if let (Some(id), Some(bytes)) = (ids.get(index), bytes)
            && Node::open(*id, &bytes, &source.place()).is_ok()
        {
            good.push((*id, bytes));
        }
        Ok(())
    })?;
    for (id, _) in &good {
        found.nodes.remove(id);
    }
    let count = good.len() as u64;
    if count > 0 {
        store.replace_nodes(good)?;
    }
    Ok(count)
}

fn mend_chunks(store: &dyn Store, source: &dyn Source, found: &mut Found) -> Result<u64> {
    let refs: Vec<ChunkRef> = found.chunks.values().map(|(chunk, _)| *chunk).collect();
    let mut mended = 0;
    for batch in refs.chunks(CHUNKS_PER_READ) {
        let mut good = Vec::new();
        source.read_chunks(batch, &mut |index, frame| {
            if let (Some(chunk), Some(frame)) = (batch.get(index), frame)
                && let Ok(opened) = Chunk::open(frame.clone(), chunk, &source.place())
            {
                debug_assert_eq!(opened.id(), chunk.id);
                good.push(NewChunk { chunk: *chunk, frame });
            }
            Ok(())
        })?;
        for new in &good {
            found.chunks.remove(&new.chunk.id);
        }
        mended += good.len() as u64;
        if !good.is_empty() {
            store.replace_chunks(&good)?;
        }
    }
    Ok(mended)
}

fn missing(chunk: &ChunkRef, place: &str) -> Error {
    Error::Damaged { what: format!("chunk {}", chunk.id), place: place.to_owned(), reason: "missing".into() }
}

fn reason_of(error: &Error) -> String {
    match error {
        Error::Damaged { reason, .. } | Error::Malformed { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}
