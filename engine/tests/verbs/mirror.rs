//! From store to store: only what is lacking, in an order that any stop leaves sound.

use std::sync::atomic::AtomicUsize;

use floe::content::Frame;
use floe::store::{AppName, NameRecord, NewChunk, Proof, SweepOptions, Swept};
use floe::sync::{MirrorOptions, Mirrored, mirror};
use floe::version::{Manifest, NodeSource};
use floe::{ChunkId, ChunkRef, NodeId};

use super::*;

fn mirroring() -> MirrorOptions {
    MirrorOptions { threads: threads(), in_flight_bytes_max: 16 << 20 }
}

fn try_mirror(source: &dyn Source, dest: &dyn Store, names: &[&str]) -> Result<Mirrored> {
    let names: Vec<_> = names.iter().map(|text| name(text)).collect();
    mirror(source, dest, &names, &mirroring(), &Silent)
}

/// A store that counts what it is asked, and stops at the k-th write and at every later one.
struct Counting<'s> {
    store: &'s dyn Store,
    nodes_read: AtomicUsize,
    chunks_read: AtomicUsize,
    chunks_asked: AtomicUsize,
    left: AtomicUsize,
}

impl<'s> Counting<'s> {
    fn new(store: &'s dyn Store, left: usize) -> Counting<'s> {
        let count = || AtomicUsize::new(0);
        Counting {
            store,
            nodes_read: count(),
            chunks_read: count(),
            chunks_asked: count(),
            left: AtomicUsize::new(left),
        }
    }

    fn operate(&self) -> Result<()> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let stopped =
            |_| Error::Io { action: "write", path: "here".into(), source: std::io::Error::other("power") };
        left.map(drop).map_err(stopped)
    }

    fn read(&self) -> [usize; 2] {
        [&self.nodes_read, &self.chunks_read].map(|count| count.load(Ordering::SeqCst))
    }
}

impl NodeSource for Counting<'_> {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        self.nodes_read.fetch_add(ids.len(), Ordering::SeqCst);
        self.store.read_nodes(ids, each)
    }
    fn place(&self) -> String {
        self.store.place()
    }
}

impl Source for Counting<'_> {
    fn read_chunks(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<()> {
        self.chunks_read.fetch_add(want.len(), Ordering::SeqCst);
        self.store.read_chunks(want, each)
    }
    fn frame_lens(&self, ids: &[ChunkId]) -> Result<Vec<Option<u32>>> {
        self.store.frame_lens(ids)
    }
    fn resolve(&self, name: &Name) -> Result<Option<NameRecord>> {
        self.store.resolve(name)
    }
    fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>> {
        self.store.names(app)
    }
}

impl Store for Counting<'_> {
    fn lacks_chunks(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.chunks_asked.fetch_add(ids.len(), Ordering::SeqCst);
        self.store.lacks_chunks(ids)
    }
    fn lacks_nodes(&self, ids: &[NodeId]) -> Result<Vec<bool>> {
        self.store.lacks_nodes(ids)
    }
    fn prove_chunks(&self, ids: &[ChunkId]) -> Result<Vec<Proof>> {
        self.store.prove_chunks(ids)
    }
    fn prove_nodes(&self, ids: &[NodeId]) -> Result<Vec<Proof>> {
        self.store.prove_nodes(ids)
    }
    fn put_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        // Chunk by chunk, so that a stop may fall between any two.
        chunks.iter().try_for_each(|chunk| {
            self.operate()?;
            self.store.put_chunks(std::slice::from_ref(chunk))
        })
    }
    fn put_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        nodes.into_iter().try_for_each(|node| {
            self.operate()?;
            assert_below(self.store, &node.0, &node.1);
            self.store.put_nodes(vec![node])
        })
    }
    fn flush(&self) -> Result<()> {
        self.operate()?;
        self.store.flush()
    }
    fn bind(&self, name: &Name, version: VersionId, now_unix_s: u64) -> Result<NameRecord> {
        self.operate()?;
        self.store.bind(name, version, now_unix_s)
    }
    fn unbind(&self, names: &[Name]) -> Result<()> {
        self.store.unbind(names)
    }
    fn sweep(&self, options: &SweepOptions<'_>) -> Result<Swept> {
        self.store.sweep(options)
    }
    fn each_chunk(&self, each: &mut dyn FnMut(ChunkRef) -> Result<()>) -> Result<()> {
        self.store.each_chunk(each)
    }
    fn each_node(&self, each: &mut dyn FnMut(NodeId) -> Result<()>) -> Result<()> {
        self.store.each_node(each)
    }
    fn damaged_records(&self) -> Result<Option<String>> {
        self.store.damaged_records()
    }
    fn replace_chunks(&self, chunks: &[NewChunk]) -> Result<()> {
        self.store.replace_chunks(chunks)
    }
    fn replace_nodes(&self, nodes: Vec<(NodeId, Vec<u8>)>) -> Result<()> {
        self.store.replace_nodes(nodes)
    }
    fn stored_bytes(&self) -> Result<u64> {
        self.store.stored_bytes()
    }
}

// What a node names is there before the node is.
fn assert_below(store: &dyn Store, id: &NodeId, bytes: &[u8]) {
    let node = floe::version::Node::open(*id, bytes, "here").expect("a node");
    let chunks: Vec<_> = node.chunks().iter().map(|chunk| chunk.id).collect();
    assert!(!store.lacks_nodes(&node.children()).expect("asked").contains(&true));
    assert!(!store.lacks_chunks(&chunks).expect("asked").contains(&true));
}

fn source() -> (MemStore, [Tree; 3]) {
    let (a, b) = pair();
    let mut big = b.clone();
    for n in 0..300 {
        big = big.with(&format!("many/{:02}/{n}", n % 17), Item::text(&format!("content {}", n % 200)));
    }
    let c = big.clone().with("many/03/3", Item::text("changed"));
    let store = MemStore::default();
    for (n, tree) in [&a, &big, &c].into_iter().enumerate() {
        published(&store, tree, &format!("game@{n}"));
    }
    published(&store, &a, "tool@a");
    (store, [a, big, c])
}

fn assert_mirrored(source: &dyn Source, dest: &dyn Store) {
    let names = |store: &dyn Source| -> Vec<_> {
        let records = store.names(None).expect("names").into_iter();
        records.map(|record| (record.name, record.version, record.bound_unix_s)).collect()
    };
    assert_eq!(names(source), names(dest));
    assert_sound(dest);
}

#[test]
fn everything_once_and_then_nothing() {
    let (store, trees) = source();
    in_each_store(|dest| {
        let done = try_mirror(&store, dest, &[]).expect("mirrors");
        assert_mirrored(&store, dest);
        let (mut nodes, mut chunks) = (0, 0);
        dest.each_node(&mut |_| {
            nodes += 1;
            Ok(())
        })
        .expect("listed");
        dest.each_chunk(&mut |_| {
            chunks += 1;
            Ok(())
        })
        .expect("listed");
        assert_eq!((done.names, done.names_unchanged, done.nodes, done.chunks), (4, 0, nodes, chunks));
        let again = try_mirror(&store, dest, &[]).expect("mirrors");
        assert_eq!(again, Mirrored { names_unchanged: 4, ..Mirrored::default() });
        let dir = quick_tempdir();
        sync(dest, "game@2", dir.path());
        assert_eq!(on_disk(dir.path()), trees[2]);
    });
}

#[test]
fn a_new_version_costs_what_is_new() {
    let (store, _) = source();
    let dest = MemStore::default();
    try_mirror(&store, &dest, &["game@1"]).expect("mirrors");
    let (from, to) = (Counting::new(&store, 0), Counting::new(&dest, usize::MAX));
    let done = try_mirror(&from, &to, &["game@2"]).expect("mirrors");
    let entries =
        Manifest::open(&dest, store.resolve(&name("game@2")).expect("read").expect("bound").version)
            .expect("opens")
            .totals()
            .entries;
    assert!(entries > 300);
    assert_eq!((done.chunks, done.versions, done.names), (1, 1, 1));
    let [nodes, chunks] = from.read();
    assert_eq!((nodes as u64, chunks), (done.nodes, 1), "{done:?}");
    assert!(done.nodes < 6, "{done:?}");
    // Nor is the other store asked about all.
    assert!(to.read()[0] < 10 && to.chunks_asked.load(Ordering::SeqCst) < 200);
    // The same version by another name.
    let done = try_mirror(&store, &dest, &["tool@a", "game@0"]).expect("mirrors");
    assert_eq!((done.names, done.versions), (2, 2));
    assert_sound(&dest);
}

#[test]
fn a_name_that_means_something_else_stops_it_there() {
    let (store, trees) = source();
    let dest = MemStore::default();
    let other = published(&dest, &trees[0].clone().with("x", Item::text("x")), "game@1");
    let error = try_mirror(&store, &dest, &[]).expect_err("a conflict");
    assert!(matches!(&error, Error::Conflict { what, .. } if what.contains("game@1")), "{error:?}");
    let bound = |text| dest.resolve(&name(text)).expect("read").map(|record| record.version);
    assert!(bound("game@0").is_some() && bound("game@1") == Some(other));
    assert!(bound("game@2").is_none() && bound("tool@a").is_none());
    assert_sound(&dest);
    let error = try_mirror(&store, &dest, &["game@7"]).expect_err("not there");
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[test]
fn stopped_anywhere_it_leaves_a_sound_store_and_goes_on() {
    let (store, _) = source();
    let mut at = 0;
    loop {
        let dest = MemStore::default();
        let counting = Counting::new(&dest, at);
        let done = try_mirror(&store, &counting, &[]);
        assert_sound(&dest);
        // What is bound is whole, and nothing is copied twice.
        let (mut nodes, mut chunks) = (0, 0);
        dest.each_node(&mut |_| {
            nodes += 1;
            Ok(())
        })
        .expect("listed");
        dest.each_chunk(&mut |_| {
            chunks += 1;
            Ok(())
        })
        .expect("listed");
        let again = try_mirror(&store, &dest, &[]).expect("mirrors");
        assert_mirrored(&store, &dest);
        if let Ok(done) = done {
            assert_eq!(again.names_unchanged, 4);
            assert_eq!((done.nodes, done.chunks), (nodes, chunks));
            break;
        }
        let whole = try_mirror(&store, &MemStore::default(), &[]).expect("mirrors");
        assert_eq!(
            (nodes + again.nodes, chunks + again.chunks),
            (whole.nodes, whole.chunks),
            "stopped at {at}"
        );
        at += if at < 40 { 1 } else { 5 };
    }
    assert!(at > 100);
}

// What a sweep that was stopped leaves: nodes without what is below them.
#[test]
fn nodes_that_no_name_needs_prove_nothing() {
    let (store, _) = source();
    let dest = MemStore::default();
    try_mirror(&store, &dest, &["game@1"]).expect("mirrors");
    dest.unbind(&[name("game@1")]).expect("unbound");
    let root = store.resolve(&name("game@1")).expect("read").expect("bound").version.root();
    let mut children = Vec::new();
    store
        .read_nodes(&[root], &mut |_, bytes| {
            let node = floe::version::Node::open(root, &bytes.expect("there"), "here")?;
            children = node.children();
            Ok(())
        })
        .expect("read");
    let sweep = SweepOptions {
        chunk_live: &|id| id.as_bytes()[0] % 2 == 0,
        node_live: &|id| *id == root || children.contains(id),
        now_unix_s: 5_000,
        grace: Duration::ZERO,
        dry_run: false,
    };
    assert!(dest.sweep(&sweep).expect("sweeps").nodes_removed > 0);
    let done = try_mirror(&store, &dest, &[]).expect("mirrors");
    assert!(done.nodes > 0 && done.chunks > 0);
    assert_mirrored(&store, &dest);
}

#[test]
fn what_is_damaged_at_the_source_is_not_copied() {
    let (store, _) = source();
    let mut ids = Vec::new();
    store
        .each_chunk(&mut |chunk| {
            ids.push(chunk);
            Ok(())
        })
        .expect("listed");
    let bad = ids[ids.len() / 2];
    let frame = Frame::encode(b"something else", Compression::None);
    store.replace_chunks(&[NewChunk { chunk: bad, frame }]).expect("replaced");
    let dest = MemStore::default();
    let error = try_mirror(&store, &dest, &[]).expect_err("damaged");
    assert!(error.to_string().contains(&bad.id.to_string()), "{error}");
    assert_sound(&dest);
    assert_eq!(dest.lacks_chunks(&[bad.id]).expect("asked"), [true]);
}
