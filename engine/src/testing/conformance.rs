//! What every store must do, as a list of named checks. `MemStore` is the reference; a store that passes is
//! indistinguishable from it through [`Store`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::codec::{Kind, encode_named};
use crate::content::{Chunk, Compression, CutParams};
use crate::error::{Error, ErrorClass, Result};
use crate::id::{ChunkId, ChunkRef, NodeId, VersionId};
use crate::limits::{CHUNK_LEN_MAX, NODE_LEN_MAX};
use crate::store::{AppName, Name, NewChunk, Proof, Store, SweepOptions, Swept};
use crate::version::{
    ChunkListBuilder, Content, Entry, EntryKind, Manifest, ManifestBuilder, Node, NodeSink, RelPath,
};

/// Makes an empty store, hands it over, and cleans up after it.
pub type WithStore<'a> = &'a dyn Fn(&dyn Fn(&dyn Store));

type Check = fn(&dyn Store) -> Result<()>;

/// The checks, by name.
pub const CHECKS: &[(&str, Check)] = &[
    ("an empty store has nothing", empty),
    ("chunks come back whatever the order asked", chunks_come_back),
    ("chunks put twice are kept once", duplicates),
    ("lacking and lists are told before and after a flush", lacking),
    ("frames have lengths before and after a flush", frame_lengths),
    ("ten thousand small chunks", small_chunks),
    ("the longest chunks, more than fit one table", long_chunks),
    ("nodes come back", nodes_come_back),
    ("a tree comes back", a_tree_comes_back),
    ("a callback's error ends reading", callback_errors),
    ("names are bound for good", names_are_for_good),
    ("names keep the order of binding", names_in_order),
    ("a version's root must be here", root_must_be_here),
    ("a sweep at once removes what is not live", sweep_at_once),
    ("a sweep with grace condemns first", sweep_with_grace),
    ("asking or putting reprieves", reprieve),
    ("a dry run changes nothing", dry_run),
    ("everything can go", sweep_everything),
    ("replacing overwrites", replace),
];

/// Runs every check on a store of its own.
///
/// # Panics
///
/// If a check fails; the message names it.
pub fn run(with_store: WithStore<'_>) {
    for (name, check) in CHECKS {
        with_store(&|store| {
            if let Err(error) = check(store) {
                panic!("{name}: {error}, {:?}", std::error::Error::source(&error).map(ToString::to_string));
            }
        });
    }
}

/// A chunk of `len` bytes that `seed` decides.
pub fn chunk(seed: u64, len: usize) -> NewChunk {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    let chunk = Chunk::new(bytes);
    NewChunk { chunk: chunk.to_ref(), frame: chunk.frame(Compression::None) }
}

/// A node that names nothing: the root of an empty tree that `seed` makes one of its own, or a page of one directory.
pub fn node(seed: u64, root: bool) -> (NodeId, Vec<u8>) {
    if root {
        let mut nodes = Nodes(Vec::new());
        let least = 1 + (seed % u64::from(CutParams::V1.min)) as u32;
        let builder = ManifestBuilder::new(CutParams { min: least, ..CutParams::V1 }, &mut nodes);
        builder.finish().expect("an empty tree");
        return nodes.0.pop().expect("a root");
    }
    page((0..1).map(|_| dir(format!("{seed}"))))
}

fn dir(path: String) -> Entry {
    Entry { path: RelPath::parse(&path).expect("a path"), kind: EntryKind::Dir { mode: 0o755 } }
}

fn page(entries: impl Iterator<Item = Entry>) -> (NodeId, Vec<u8>) {
    let kind = Kind { number: 2, name: "entries node", format: 1 };
    let bytes = encode_named(kind, &entries.collect::<Vec<_>>());
    let id = NodeId::of(&bytes);
    Node::open(id, &bytes, "the conformance suite").expect("a node");
    (id, bytes)
}

/// The nodes of a tree of one file of one chunk that is [`chunk`]`(seed, 100)`: a page and a root.
pub fn tree(seed: u64) -> Vec<(NodeId, Vec<u8>)> {
    let mut nodes = Nodes(Vec::new());
    let mut builder = ManifestBuilder::new(CutParams::V1, &mut nodes);
    let content = Content::Inline(vec![chunk(seed, 100).chunk]);
    let kind = EntryKind::File { mode: 0o644, len: 100, content };
    let path = RelPath::parse("a").expect("a path");
    builder.push(Entry { path, kind }).expect("in order");
    builder.finish().expect("built");
    nodes.0
}

struct Nodes(Vec<(NodeId, Vec<u8>)>);

impl NodeSink for Nodes {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.0.push((id, bytes));
        Ok(())
    }
}

/// The version whose root is [`node`]`(seed, true)`.
pub fn version(seed: u64) -> VersionId {
    VersionId::from_bytes(*node(seed, true).0.as_bytes())
}

fn refs(chunks: &[NewChunk]) -> Vec<ChunkRef> {
    chunks.iter().map(|new| new.chunk).collect()
}

fn ids(chunks: &[NewChunk]) -> Vec<ChunkId> {
    chunks.iter().map(|new| new.chunk.id).collect()
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a valid name")
}

/// Reads and opens chunks; checks that each was handed over once. `None` for those not there.
pub fn read(store: &dyn Store, want: &[ChunkRef]) -> Result<Vec<Option<Chunk>>> {
    let mut got = BTreeMap::new();
    store.read_chunks(want, &mut |index, frame| {
        let chunk =
            frame.map(|frame| Chunk::open(frame, &want[index], "the store under test")).transpose()?;
        assert!(got.insert(index, chunk).is_none(), "chunk {index} handed over twice");
        Ok(())
    })?;
    assert!(got.keys().copied().eq(0..want.len()), "every chunk is handed over");
    Ok(got.into_values().collect())
}

/// Reads nodes; `None` for those not there.
pub fn read_nodes(store: &dyn Store, ids: &[NodeId]) -> Result<Vec<Option<Vec<u8>>>> {
    let mut got = BTreeMap::new();
    store.read_nodes(ids, &mut |index, bytes| {
        assert!(got.insert(index, bytes).is_none(), "node {index} handed over twice");
        Ok(())
    })?;
    assert!(got.keys().copied().eq(0..ids.len()), "every node is handed over");
    Ok(got.into_values().collect())
}

/// Every node in `store`, needed or not, by id.
pub fn nodes_in(store: &dyn Store) -> Result<Vec<NodeId>> {
    let nodes = RefCell::new(Vec::new());
    store.sweep(&SweepOptions {
        chunk_live: &|_| true,
        node_live: &|id| {
            nodes.borrow_mut().push(*id);
            true
        },
        now_unix_s: 0,
        grace: Duration::ZERO,
        dry_run: true,
    })?;
    let mut nodes = nodes.into_inner();
    nodes.sort_unstable();
    Ok(nodes)
}

fn here(store: &dyn Store, want: &[ChunkRef]) -> Result<Vec<bool>> {
    Ok(read(store, want)?.into_iter().map(|chunk| chunk.is_some()).collect())
}

fn empty(store: &dyn Store) -> Result<()> {
    let absent = chunk(1, 10);
    assert_eq!(store.lacks_chunks(&[absent.chunk.id])?, [true]);
    assert_eq!(store.lacks_nodes(&[node(1, true).0])?, [true]);
    assert_eq!(store.lacks_chunks(&[])?, [false; 0]);
    assert_eq!(store.prove_chunks(&[absent.chunk.id])?, [Proof::Absent]);
    assert_eq!(store.prove_nodes(&[node(1, true).0])?, [Proof::Absent]);
    assert_eq!(store.prove_chunks(&[])?, []);
    assert_eq!(here(store, &[absent.chunk])?, [false]);
    assert_eq!(here(store, &[])?, [false; 0]);
    assert_eq!(read_nodes(store, &[node(1, true).0])?, [None]);
    assert_eq!(store.resolve(&name("a@1"))?, None);
    assert_eq!(store.names(None)?, []);
    store.put_chunks(&[])?;
    store.put_nodes(Vec::new())?;
    store.unbind(&[name("a@1")])?;
    store.flush()?;
    store.each_chunk(&mut |_| panic!("there is no chunk"))?;
    assert_eq!(nodes_in(store)?, []);
    assert_eq!(sweep(store, &[], &[], 0, 0)?, Swept::default());
    Ok(())
}

fn chunks_come_back(store: &dyn Store) -> Result<()> {
    let chunks: Vec<_> = (0..60).map(|n| chunk(n, 1 + 997 * n as usize)).collect();
    store.put_chunks(&chunks[..20])?;
    let want = refs(&chunks);
    assert_eq!(here(store, &want)?, (0..60).map(|n| n < 20).collect::<Vec<_>>());
    store.put_chunks(&chunks[20..40])?;
    store.flush()?;
    store.put_chunks(&chunks[40..])?;
    let mut want = want;
    for turn in 0..4 {
        for (chunk, want) in read(store, &want)?.into_iter().zip(&want) {
            assert_eq!(chunk.map(|chunk| chunk.to_ref()), Some(*want));
        }
        want.reverse();
        want.rotate_left(7 + turn);
    }
    let twice = [want[3], want[9], want[3]];
    assert_eq!(here(store, &twice)?, [true; 3]);
    assert_eq!(here(store, &[want[0], chunk(999, 5).chunk, want[1]])?, [true, false, true]);
    Ok(())
}

fn duplicates(store: &dyn Store) -> Result<()> {
    let chunks = [chunk(1, 100), chunk(2, 100), chunk(1, 100)];
    store.put_chunks(&chunks)?;
    store.put_chunks(&chunks)?;
    store.flush()?;
    store.put_chunks(&chunks)?;
    let root = node(1, true);
    store.put_nodes(vec![root.clone(), root.clone()])?;
    store.flush()?;
    store.put_nodes(vec![root.clone()])?;
    let mut order = Vec::new();
    store.each_chunk(&mut |chunk| {
        order.push(chunk);
        Ok(())
    })?;
    assert_eq!(order, refs(&chunks[..2]), "stored order is the order put");
    assert_eq!(nodes_in(store)?, [root.0]);
    Ok(())
}

fn lacking(store: &dyn Store) -> Result<()> {
    let chunks = [chunk(1, 10), chunk(2, 20), chunk(3, 30)];
    store.put_chunks(&chunks[..2])?;
    store.put_nodes(vec![node(1, false)])?;
    for _ in 0..2 {
        assert_eq!(store.lacks_chunks(&ids(&chunks))?, [false, false, true]);
        assert_eq!(store.lacks_nodes(&[node(1, false).0, node(2, false).0])?, [false, true]);
        let [sound, absent] = [Proof::Sound, Proof::Absent];
        assert_eq!(store.prove_chunks(&ids(&chunks))?, [sound, sound, absent]);
        assert_eq!(store.prove_nodes(&[node(1, false).0, node(2, false).0])?, [sound, absent]);
        store.flush()?;
    }
    // What was only just put is listed too.
    store.put_chunks(&chunks[2..])?;
    store.put_nodes(vec![node(2, false)])?;
    let (mut nodes, mut listed) = (BTreeSet::new(), Vec::new());
    store.each_node(&mut |id| {
        nodes.insert(id);
        Ok(())
    })?;
    store.each_chunk(&mut |chunk| {
        listed.push(chunk);
        Ok(())
    })?;
    assert_eq!(nodes, BTreeSet::from([node(1, false).0, node(2, false).0]));
    assert_eq!(listed, refs(&chunks));
    for _ in 0..2 {
        assert_eq!(store.lacks_chunks(&ids(&chunks))?, [false; 3]);
        store.flush()?;
    }
    Ok(())
}

fn frame_lengths(store: &dyn Store) -> Result<()> {
    let chunks = [chunk(1, 10), chunk(2, 20), chunk(3, 30)];
    store.put_chunks(&chunks[..2])?;
    for _ in 0..2 {
        assert_eq!(store.frame_lens(&ids(&chunks))?, [Some(11), Some(21), None]);
        store.flush()?;
    }
    Ok(())
}

fn small_chunks(store: &dyn Store) -> Result<()> {
    let chunks: Vec<_> = (0..10_000).map(|n| chunk(n, 1 + n as usize % 300)).collect();
    for batch in chunks.chunks(700) {
        store.put_chunks(batch)?;
    }
    let want = refs(&chunks);
    assert!(here(store, &want)?.iter().all(|here| *here));
    store.flush()?;
    assert!(here(store, &want)?.iter().all(|here| *here));
    let every_ninth: Vec<_> = want.iter().copied().step_by(9).collect();
    assert!(here(store, &every_ninth)?.iter().all(|here| *here));
    Ok(())
}

fn long_chunks(store: &dyn Store) -> Result<()> {
    let chunks: Vec<_> = (0..300).map(|n| chunk(n, CHUNK_LEN_MAX as usize)).collect();
    for batch in chunks.chunks(50) {
        store.put_chunks(batch)?;
    }
    store.flush()?;
    assert!(here(store, &refs(&chunks))?.iter().all(|here| *here));
    assert!(store.stored_bytes()? >= 300 * u64::from(CHUNK_LEN_MAX));
    Ok(())
}

fn nodes_come_back(store: &dyn Store) -> Result<()> {
    let mut nodes: Vec<_> = (0..500).map(|seed| node(seed, seed % 2 == 0)).collect();
    // Of entries of 56 bytes, as many as fit.
    let long = page((0..NODE_LEN_MAX / 56).map(|n| dir(format!("{n:051}"))));
    assert!((NODE_LEN_MAX - 64..=NODE_LEN_MAX).contains(&long.1.len()), "{}", long.1.len());
    nodes.push(long);
    store.put_nodes(nodes[..250].to_vec())?;
    store.flush()?;
    store.put_nodes(nodes[250..].to_vec())?;
    let wanted: Vec<_> = nodes.iter().map(|(id, _)| *id).chain([node(9999, true).0]).collect();
    let got = read_nodes(store, &wanted)?;
    for (got, (_, bytes)) in got.iter().zip(&nodes) {
        assert_eq!(got.as_ref(), Some(bytes));
    }
    assert_eq!(got.last(), Some(&None));
    let seen = nodes_in(store)?;
    assert_eq!(seen.len(), nodes.len());
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), nodes.iter().map(|(id, _)| *id).collect());
    Ok(())
}

fn a_tree_comes_back(store: &dyn Store) -> Result<()> {
    let chunks: Vec<_> = (0..300).map(|n| chunk(n, 20_000)).collect();
    let mut nodes = Nodes(Vec::new());
    let mut list = ChunkListBuilder::new(&mut nodes);
    refs(&chunks).into_iter().try_for_each(|chunk| list.push(chunk))?;
    let (content, len) = list.finish()?;
    let mut builder = ManifestBuilder::new(CutParams::V1, &mut nodes);
    let path = RelPath::parse("a/b")?;
    builder.push(Entry { path, kind: EntryKind::File { mode: 0o644, len, content: content.clone() } })?;
    let (version, totals) = builder.finish()?;
    assert!(nodes.0.len() > 4, "a tree of chunks below a page below a root");
    store.put_chunks(&chunks)?;
    store.put_nodes(nodes.0)?;
    store.bind(&name("tree@1"), version, 7)?;
    let manifest = Manifest::open(store, version)?;
    assert_eq!(manifest.totals(), totals);
    assert_eq!(manifest.entries().collect::<Result<Vec<_>>>()?.len(), 1);
    assert_eq!(manifest.chunks(&content).collect::<Result<Vec<_>>>()?, refs(&chunks));
    Ok(())
}

fn callback_errors(store: &dyn Store) -> Result<()> {
    let chunks = [chunk(1, 10), chunk(2, 20)];
    store.put_chunks(&chunks)?;
    store.put_nodes(vec![node(1, true)])?;
    let stop = || Err(Error::Cancelled);
    assert!(matches!(store.read_chunks(&refs(&chunks), &mut |_, _| stop()), Err(Error::Cancelled)));
    assert!(matches!(store.read_nodes(&[node(1, true).0], &mut |_, _| stop()), Err(Error::Cancelled)));
    assert!(matches!(store.each_chunk(&mut |_| stop()), Err(Error::Cancelled)));
    store.put_chunks(&[chunk(3, 30)])?;
    store.flush()
}

fn names_are_for_good(store: &dyn Store) -> Result<()> {
    store.put_nodes(vec![node(1, true), node(2, true)])?;
    let game = name("game@1");
    let first = store.bind(&game, version(1), 100)?;
    assert_eq!((first.version, first.bound_unix_s), (version(1), 100));
    assert_eq!(store.bind(&game, version(1), 200)?, first, "binding again changes nothing");
    let error = store.bind(&game, version(2), 300).expect_err("bound to another version");
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert_eq!(store.resolve(&game)?, Some(first));
    store.unbind(&[name("other@1"), game.clone()])?;
    assert_eq!(store.resolve(&game)?, None);
    assert_eq!(store.bind(&game, version(2), 300)?.version, version(2), "free again");
    Ok(())
}

fn names_in_order(store: &dyn Store) -> Result<()> {
    store.put_nodes(vec![node(1, true)])?;
    let order = ["b@2", "a@9", "b@1", "ab@1", "a@10", "a-b@1"];
    for (text, now) in order.iter().zip(1..) {
        store.bind(&name(text), version(1), 1000 - now)?;
    }
    let listed = |app: Option<&str>| -> Result<Vec<String>> {
        let app = app.map(|app| AppName::parse(app).expect("a valid app"));
        Ok(store.names(app.as_ref())?.iter().map(|record| record.name.to_string()).collect())
    };
    assert_eq!(listed(None)?, order);
    assert_eq!(listed(Some("a"))?, ["a@9", "a@10"]);
    assert_eq!(listed(Some("b"))?, ["b@2", "b@1"]);
    assert_eq!(listed(Some("nobody"))?, [""; 0]);
    let last = store.resolve(&name("a-b@1"))?.expect("bound").sequence;
    store.unbind(&[name("a-b@1")])?;
    assert!(store.bind(&name("c@1"), version(1), 0)?.sequence > last, "no position is given twice");
    Ok(())
}

fn root_must_be_here(store: &dyn Store) -> Result<()> {
    store.put_nodes(vec![node(2, true)])?;
    let error = store.bind(&name("a@1"), version(1), 0).expect_err("there is no such root");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert_eq!(store.resolve(&name("a@1"))?, None);
    store.bind(&name("a@1"), version(2), 0)?;
    Ok(())
}

/// A sweep at `now` that keeps the chunks and nodes given.
fn sweep(store: &dyn Store, chunks: &[NewChunk], nodes: &[NodeId], now: u64, grace_s: u64) -> Result<Swept> {
    sweep_as(store, chunks, nodes, now, grace_s, false)
}

fn sweep_as(
    store: &dyn Store,
    chunks: &[NewChunk],
    nodes: &[NodeId],
    now_unix_s: u64,
    grace_s: u64,
    dry_run: bool,
) -> Result<Swept> {
    let chunks: BTreeSet<_> = ids(chunks).into_iter().collect();
    store.sweep(&SweepOptions {
        chunk_live: &|id| chunks.contains(id),
        node_live: &|id| nodes.contains(id),
        now_unix_s,
        grace: Duration::from_secs(grace_s),
        dry_run,
    })
}

// Ten chunks of 1000 bytes (1001 as frames) and four nodes, two of them roots.
fn stock(store: &dyn Store) -> Result<(Vec<NewChunk>, Vec<NodeId>)> {
    let chunks: Vec<_> = (0..10).map(|n| chunk(n, 1000)).collect();
    let nodes: Vec<_> = (0..4).map(|n| node(n, n < 2)).collect();
    store.put_chunks(&chunks)?;
    store.put_nodes(nodes.clone())?;
    store.flush()?;
    Ok((chunks, nodes.into_iter().map(|(id, _)| id).collect()))
}

fn sweep_at_once(store: &dyn Store) -> Result<()> {
    let (chunks, nodes) = stock(store)?;
    let swept = sweep(store, &chunks[..4], &[nodes[1], nodes[3]], 5, 0)?;
    let expected = Swept {
        chunks_live: 4,
        chunks_removed: 6,
        nodes_removed: 2,
        bytes_removed: 6 * 1001,
        ..Swept::default()
    };
    assert_eq!(swept, expected);
    assert_eq!(here(store, &refs(&chunks))?, (0..10).map(|n| n < 4).collect::<Vec<_>>());
    assert_eq!(store.lacks_nodes(&nodes)?, [true, false, true, false]);
    store.put_chunks(&chunks)?;
    store.flush()?;
    assert_eq!(here(store, &refs(&chunks))?, [true; 10], "what was removed can be put again");
    Ok(())
}

fn sweep_with_grace(store: &dyn Store) -> Result<()> {
    let (chunks, nodes) = stock(store)?;
    let condemned = |live, condemned| Swept {
        chunks_live: live,
        chunks_condemned: condemned,
        bytes_condemned: condemned * 1001,
        ..Swept::default()
    };
    assert_eq!(sweep(store, &chunks[..4], &nodes[..2], 100, 50)?, condemned(4, 6));
    assert_eq!(sweep(store, &chunks[..3], &nodes[..2], 149, 50)?, condemned(3, 7));
    // Chunk 9 and a node are needed again: they lose their marks.
    let kept = [&chunks[..3], &chunks[9..]].concat();
    let swept = sweep(store, &kept, &nodes[..3], 150, 50)?;
    let expected = Swept { chunks_removed: 5, nodes_removed: 1, bytes_removed: 5 * 1001, ..condemned(4, 1) };
    assert_eq!(swept, expected);
    assert_eq!(sweep(store, &chunks[..3], &nodes[..2], 200, 50)?, {
        Swept { chunks_removed: 1, bytes_removed: 1001, ..condemned(3, 1) }
    });
    let left: Vec<_> = [0, 1, 2, 9].into();
    assert_eq!(here(store, &refs(&chunks))?, (0..10).map(|n| left.contains(&n)).collect::<Vec<_>>());
    assert_eq!(
        read_nodes(store, &nodes)?.iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, true, true, false]
    );
    Ok(())
}

fn reprieve(store: &dyn Store) -> Result<()> {
    let (chunks, nodes) = stock(store)?;
    sweep(store, &[], &[], 100, 50)?;
    assert_eq!(store.lacks_chunks(&ids(&chunks[..2]))?, [false; 2]);
    assert_eq!(store.lacks_nodes(&nodes[..1])?, [false]);
    store.put_chunks(&chunks[2..4])?;
    store.put_nodes(vec![node(1, true)])?;
    let swept = sweep(store, &[], &[], 150, 50)?;
    assert_eq!((swept.chunks_removed, swept.chunks_condemned, swept.nodes_removed), (6, 4, 2));
    assert_eq!(here(store, &refs(&chunks))?, (0..10).map(|n| n < 4).collect::<Vec<_>>());
    let swept = sweep(store, &[], &[], 200, 50)?;
    assert_eq!((swept.chunks_removed, swept.nodes_removed), (4, 2), "its new mark is as good as the first");
    Ok(())
}

fn dry_run(store: &dyn Store) -> Result<()> {
    let (chunks, nodes) = stock(store)?;
    let at_once = sweep_as(store, &chunks[..4], &nodes[..2], 100, 0, true)?;
    assert_eq!((at_once.chunks_live, at_once.chunks_removed, at_once.nodes_removed), (4, 6, 2));
    let with_grace = sweep_as(store, &chunks[..4], &nodes[..2], 100, 50, true)?;
    assert_eq!((with_grace.chunks_condemned, with_grace.chunks_removed), (6, 0));
    let later = sweep_as(store, &chunks[..4], &nodes[..2], 1000, 50, true)?;
    assert_eq!(later, with_grace, "nothing was marked");
    assert_eq!(here(store, &refs(&chunks))?, [true; 10]);
    assert_eq!(store.lacks_nodes(&nodes)?, [false; 4]);
    Ok(())
}

fn sweep_everything(store: &dyn Store) -> Result<()> {
    let chunks: Vec<_> = (0..40).map(|n| chunk(n, 100_000)).collect();
    for batch in chunks.chunks(5) {
        store.put_chunks(batch)?;
        store.flush()?;
    }
    store.put_nodes(vec![node(1, true), node(2, false)])?;
    store.flush()?;
    let before = store.stored_bytes()?;
    let half: Vec<_> = chunks.iter().step_by(3).cloned().collect();
    sweep(store, &half, &[], 1, 0)?;
    let between = store.stored_bytes()?;
    assert!(between < before * 6 / 10, "{between} of {before} bytes left with a third live");
    assert!(here(store, &refs(&half))?.iter().all(|here| *here));
    let swept = sweep(store, &[], &[], 2, 0)?;
    assert_eq!((swept.chunks_live, swept.chunks_removed), (0, half.len() as u64));
    let after = store.stored_bytes()?;
    assert!(after < 10_000, "{after} bytes left of {before}");
    assert!(here(store, &refs(&chunks))?.iter().all(|here| !*here));
    store.put_chunks(&chunks)?;
    store.flush()?;
    assert!(here(store, &refs(&chunks))?.iter().all(|here| *here));
    Ok(())
}

fn replace(store: &dyn Store) -> Result<()> {
    let good = [chunk(1, 5000), chunk(2, 6000)];
    let root = node(1, true);
    store.put_chunks(&good[..1])?;
    store.replace_chunks(&good)?;
    assert_eq!(here(store, &refs(&good))?, [true; 2], "one that is missing is put");
    store.replace_nodes(vec![root.clone()])?;
    store.replace_nodes(vec![root.clone()])?;
    assert_eq!(read_nodes(store, &[root.0])?, [Some(root.1)]);
    let mut count = 0;
    store.each_chunk(&mut |_| {
        count += 1;
        Ok(())
    })?;
    assert_eq!(count, 2, "and one that is there is there once");
    replace_damaged(store)
}

// A store behind a door does not take what is not what it says: then nothing is damaged, and nothing was kept.
fn replace_damaged(store: &dyn Store) -> Result<()> {
    let (id, bytes) = node(2, true);
    match store.put_nodes(vec![(id, b"something else".to_vec())]) {
        Ok(()) => store.replace_nodes(vec![(id, bytes.clone())])?,
        Err(error) => {
            assert_eq!(error.class(), ErrorClass::Damaged, "{error}");
            store.put_nodes(vec![(id, bytes.clone())])?;
        }
    }
    assert_eq!(read_nodes(store, &[id])?, [Some(bytes)]);

    let good = chunk(3, 5000);
    let bad = NewChunk { frame: chunk(4, 400).frame, ..good.clone() };
    match store.put_chunks(&[bad]).and_then(|()| store.flush()) {
        Ok(()) => {
            assert!(read(store, &[good.chunk]).is_err(), "the wrong bytes do not open");
            store.replace_chunks(std::slice::from_ref(&good))?;
            assert_eq!(here(store, &[good.chunk])?, [true]);
        }
        Err(error) => assert_eq!(error.class(), ErrorClass::Damaged, "{error}"),
    }
    Ok(())
}
