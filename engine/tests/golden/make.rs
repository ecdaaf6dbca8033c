//! How `testdata` is made, and the values in it.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use floe::content::{Compression, CutParams, Frame};
use floe::delta::Profile;
use floe::store::{MemStore, Name, NameRecord, NewChunk, RocksOptions, RocksStore, Store, UpdateAsk};
use floe::sync::stream::{self, UpdateReader};
use floe::sync::{PublishOptions, SyncOptions, Target, publish, sync};
use floe::testing::doors::{base, bound_value};
use floe::tree::{Fingerprint, StatTable};
use floe::version::{
    ChunkListBuilder, Content, Entry, EntryKind, Manifest, ManifestBuilder, NodeSink, RelPath, make_edits,
};
use floe::{ChunkId, ChunkRef, Faults, NodeId, Silent, VersionId};

use crate::world::{Item, Tree};
use crate::{cuts, files};

const README: &str = "\
Files that floe must read for good, one folder for each format version. `MANIFEST` lists them: BLAKE3, length, path,
meaning. `engine/tests/golden` reads them and says what they hold; `UPDATE_GOLDEN=1 cargo test --release --test golden`
writes them anew. What a release wrote is never changed: a new format gets a new folder beside it.
";

pub fn name(text: &str) -> Name {
    Name::parse(text).expect("a name")
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text).expect("a path")
}

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("floe golden").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn text(lines: usize) -> Vec<u8> {
    (0..lines).flat_map(|n| format!("line {n} of a text\n").into_bytes()).collect()
}

/// The nodes of a version or of a file, in the order they were made.
#[derive(Default)]
pub struct Nodes(pub Vec<(NodeId, Vec<u8>)>);

impl NodeSink for Nodes {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> floe::Result<()> {
        self.0.push((id, bytes));
        Ok(())
    }
}

impl Nodes {
    /// The shortest one of a kind.
    pub fn one(&self, kind: u8) -> Vec<u8> {
        let of_kind = self.0.iter().map(|(_, bytes)| bytes).filter(|bytes| bytes[0] == kind);
        of_kind.min_by_key(|bytes| bytes.len()).expect("there is one").clone()
    }
}

pub fn chunk(n: u32) -> ChunkRef {
    ChunkRef { id: ChunkId::of(&n.to_le_bytes()), len: 20_000 + n }
}

/// Entries of every kind, small enough for one page.
pub fn entries() -> Vec<Entry> {
    let file = |mode, len, content| EntryKind::File { mode, len, content };
    let tree = Content::Tree { root: NodeId::of(b"chunks"), chunks: 70_000 };
    let kinds = [
        ("bin/tool", file(0o755, 20_001, Content::Inline(vec![chunk(1)]))),
        ("data/empty", file(0o644, 0, Content::Inline(Vec::new()))),
        ("data/large", file(0o600, 5_000_000_000, tree)),
        ("data/some", file(0o444, 60_006, Content::Inline((1..4).map(chunk).collect()))),
        ("link", EntryKind::Symlink { target: "data/some".into() }),
        ("open", EntryKind::Dir { mode: 0o777 }),
        ("ü", EntryKind::Dir { mode: 0o755 }),
    ];
    kinds.into_iter().map(|(text, kind)| Entry { path: path(text), kind }).collect()
}

pub fn version(entries: Vec<Entry>) -> (VersionId, Nodes) {
    let mut nodes = Nodes::default();
    let mut builder = ManifestBuilder::new(CutParams::V1, &mut nodes);
    entries.into_iter().for_each(|entry| builder.push(entry).expect("in order"));
    let (version, _) = builder.finish().expect("built");
    (version, nodes)
}

pub fn many_entries() -> Vec<Entry> {
    let entry = |n: u32| Entry {
        path: path(&format!("d{:02}/f{n:04}", n / 100)),
        kind: EntryKind::File {
            mode: 0o644,
            len: u64::from(chunk(n).len),
            content: Content::Inline(vec![chunk(n)]),
        },
    };
    (0..1000).map(entry).collect()
}

pub fn many_chunks() -> (Content, Nodes) {
    let mut nodes = Nodes::default();
    let mut builder = ChunkListBuilder::new(&mut nodes);
    (0..1500).for_each(|n| builder.push(chunk(n)).expect("taken"));
    let (content, _) = builder.finish().expect("built");
    (content, nodes)
}

pub fn name_record() -> NameRecord {
    NameRecord {
        name: name("game@1.0"),
        version: VersionId::of(b"version"),
        bound_unix_s: 1_795_000_000,
        sequence: 300,
    }
}

pub fn table() -> StatTable {
    let stat = |n: i64| Fingerprint {
        len: 1 << (8 * n),
        mtime_ns: 1_795_000_000_123_456_789 + n,
        ctime_ns: -n,
        inode: u64::MAX - n as u64,
        mode: 0o100_644,
    };
    let paths = ["a", "a/b", "a/bc", "a/ü/d", "b"];
    StatTable {
        version: VersionId::of(b"version"),
        context: [7; 32],
        started_unix_ns: 1_795_000_001_000_000_000,
        rows: paths.iter().zip(0..).map(|(text, n)| (path(text), stat(n))).collect(),
    }
}

/// What is stored and synced in whole: the first version and the second.
pub fn trees() -> [Tree; 2] {
    let file = |mode, data| Item::file(mode, data);
    let two = noise(3, 70_000);
    let first = Tree::default()
        .with("bin/tool", file(0o755, noise(1, 3000)))
        .with("data/one.bin", file(0o644, noise(2, 30_000)))
        .with("data/two.bin", file(0o644, two.clone()))
        .with("docs/empty", file(0o644, Vec::new()))
        .with("docs/long.txt", file(0o644, text(1000)))
        .with("docs/ü.txt", Item::text("ü\n"))
        .with("link", Item::Symlink("docs/ü.txt".into()));
    let edited = [&two[..50_000], b"an edit", &two[50_000..]].concat();
    let second = Tree::default()
        .with("bin/tool", file(0o644, noise(4, 2000)))
        .with("data/moved.bin", file(0o644, noise(2, 30_000)))
        .with("data/two.bin", file(0o644, edited))
        .with("data/zeros.bin", file(0o644, vec![0; 9 * (256 << 10) + 1]))
        .with("docs/long.txt", file(0o644, text(1001)))
        .with("link/below", Item::text("a directory now\n"))
        .with("sealed", Item::Dir(0o500))
        .with("sealed/x", file(0o400, b"x".to_vec()))
        .with("void", Item::Dir(0o755));
    [first, second]
}

// Between them lie steps of every kind.
fn switched() -> [Tree; 2] {
    let first = Tree::default()
        .with("dir/gone", Item::text("gone with its directory\n"))
        .with("mode", Item::file(0o644, b"mode\n".to_vec()))
        .with("opened", Item::Dir(0o700))
        .with("moved/old", Item::text("moved\n"))
        .with("sealed", Item::Dir(0o555))
        .with("sealed/inner", Item::text("1\n"));
    let second = Tree::default()
        .with("fresh/file", Item::text("fresh\n"))
        .with("mode", Item::file(0o755, b"mode\n".to_vec()))
        .with("opened", Item::Dir(0o711))
        .with("moved/new", Item::text("moved\n"))
        .with("sealed", Item::Dir(0o555))
        .with("sealed/inner", Item::text("2\n"));
    [first, second]
}

pub fn published(store: &dyn Store, tree: &Tree, name: &Name, compression: Compression) -> VersionId {
    let dir = tempfile::tempdir().expect("a temporary directory");
    tree.write_over(dir.path());
    let options = PublishOptions {
        compression,
        exclude: Vec::new(),
        rehash: false,
        fingerprints: None,
        threads: NonZeroUsize::MIN,
        in_flight_bytes_max: 16 << 20,
        now_unix_s: 1_795_000_000,
        faults: Faults::default(),
    };
    publish(dir.path(), store, name, &options, &Silent).expect("published").version
}

pub fn sync_options(protect: &[&str], faults: Faults) -> SyncOptions {
    SyncOptions {
        delete: false,
        overwrite: false,
        protect: protect.iter().map(ToString::to_string).collect(),
        rehash: false,
        deltas: None,
        threads: NonZeroUsize::MIN,
        in_flight_bytes_max: 16 << 20,
        faults,
    }
}

/// State, node log and journal of a replica that is stopped when its switch begins.
pub fn replica_records() -> [(&'static str, Vec<u8>); 3] {
    let (store, dir) = (MemStore::default(), tempfile::tempdir().expect("a temporary directory"));
    let names = ["game@1", "game@2"].map(name);
    for (tree, name) in switched().iter().zip(&names) {
        published(&store, tree, name, Compression::None);
    }
    let target = |at: usize| Target::Name(names[at].clone());
    let read = |file: &str| fs::read(dir.path().join(".floe").join(file)).expect("read");
    sync(&store, &target(0), dir.path(), &sync_options(&["mods/**"], Faults::default()), &Silent)
        .expect("synced");
    let (state, nodes) = (read("state"), read("nodes"));
    for steps in 0.. {
        let left = AtomicU64::new(steps);
        let faults = Faults::new(move |_, _| {
            let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            spent.map(drop).map_err(|_| io::Error::other("stopped"))
        });
        let options = sync_options(&["mods/**", "*.log"], faults);
        sync(&store, &target(1), dir.path(), &options, &Silent).expect_err("stopped before its end");
        if dir.path().join(".floe/journal").exists() {
            break;
        }
    }
    [("state.bin", state), ("node-log.bin", nodes), ("journal.bin", read("journal"))]
}

/// The version that the edits lead to, in a store that has the base as well; and the base.
pub fn edited() -> (MemStore, VersionId, VersionId) {
    let (store, base, new) = base();
    let old = chunks_of(&store, base, "base/long");
    for (n, chunk) in (100..).zip(&new) {
        let frame = Frame::encode(&[n; 100], Compression::None);
        store.put_chunks(&[NewChunk { chunk: *chunk, frame }]).expect("in memory");
    }
    let mut nodes = Nodes::default();
    let file = |nodes: &mut Nodes, text: &str, mode: u16, chunks: &[ChunkRef]| {
        let mut list = ChunkListBuilder::new(nodes);
        chunks.iter().for_each(|chunk| list.push(*chunk).expect("a chunk"));
        let (content, len) = list.finish().expect("in memory");
        Entry { path: path(text), kind: EntryKind::File { mode, len, content } }
    };
    let joined = [&old[5..], &new[..2], &old[..5], &new[..1]].concat();
    let drawn = [&new[2..], &old[3..6]].concat();
    let entries = [
        file(&mut nodes, "base/again", 0o600, &drawn),
        file(&mut nodes, "base/copy", 0o755, &old),
        Entry { path: path("base/empty"), kind: EntryKind::Dir { mode: 0o755 } },
        Entry { path: path("base/link"), kind: EntryKind::Symlink { target: "long".into() } },
        file(&mut nodes, "base/long", 0o644, &joined),
        file(&mut nodes, "base/tiny", 0o444, &chunks_of(&store, base, "base/tiny")),
    ];
    let mut builder = ManifestBuilder::new(CutParams::V1, &mut nodes);
    entries.into_iter().for_each(|entry| builder.push(entry).expect("in order"));
    let (version, _) = builder.finish().expect("in memory");
    store.put_nodes(nodes.0).expect("in memory");
    (store, base, version)
}

fn chunks_of(store: &MemStore, version: VersionId, text: &str) -> Vec<ChunkRef> {
    let manifest = Manifest::open(store, version).expect("in memory");
    let entry = manifest.get(&path(text)).expect("in memory").expect("a file of the version");
    let EntryKind::File { content, .. } = entry.kind else { panic!("a file") };
    manifest.chunks(&content).map(|chunk| chunk.expect("in memory")).collect()
}

fn edits() -> Vec<u8> {
    let (store, base, version) = edited();
    let open = |id| Manifest::open(&store, id).expect("in memory");
    make_edits(Some(&open(base)), &open(version)).expect("in memory").expect("within the limits").bytes
}

fn update(profile: Option<Profile>) -> Vec<u8> {
    let (store, base, want) = edited();
    let mut bytes = Vec::new();
    let made = stream::make(
        &store,
        &UpdateAsk { have: Some(base), want, from_unit: 0, from_byte: 0, profile },
        &mut |piece| {
            bytes.extend(piece);
            Ok(())
        },
    );
    assert!(made.expect("in memory"));
    bytes
}

fn unit(profile: Option<Profile>) -> Vec<u8> {
    let (bytes, (_, have, want)) = (update(profile), edited());
    let ask = UpdateAsk { have: Some(have), want, from_unit: 0, from_byte: 0, profile };
    let mut reader = UpdateReader::open(&bytes[..], &ask, "memory").expect("own bytes");
    reader.next_unit().expect("own bytes").expect("a unit").bytes().to_vec()
}

/// Every record but frames, as this build writes it.
pub fn records() -> Vec<(&'static str, Vec<u8>)> {
    let (small, many) = (version(entries()).1, version(many_entries()).1);
    let (_, chunks) = many_chunks();
    let dir = tempfile::tempdir().expect("a temporary directory");
    table().save(&dir.path().join("table"), &Faults::default()).expect("saved");
    let mut records = vec![
        ("root.bin", small.one(1)),
        ("root-empty.bin", version(Vec::new()).1.one(1)),
        ("entries.bin", small.one(2)),
        ("inner-entries.bin", many.one(3)),
        ("chunks.bin", chunks.one(4)),
        ("inner-chunks.bin", chunks.one(5)),
        ("name.bin", bound_value(&name_record())),
        ("location.bin", [&[0, 0, 1, 2, 3, 4, 5, 6][..], &[0, 1, 2, 3], &[0, 0, 0, 9]].concat()),
        ("fingerprint-table.bin", fs::read(dir.path().join("table")).expect("read")),
        ("edits.bin", edits()),
        ("update-unit.bin", unit(None)),
        ("FORMAT-replica", b"floe replica 1\n".to_vec()),
        ("FORMAT-store", b"floe store 1\n".to_vec()),
    ];
    records.extend(replica_records());
    records
}

/// Writes all of it, but the manifest.
pub fn all(dir: &Path) {
    let put = |path: &str, bytes: &[u8]| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("made");
        fs::write(path, bytes).expect("written");
    };
    // Deltas are made by their own test.
    let mut kept = crate::files(dir);
    kept.retain(|path, _| path.starts_with("formats/v1/delta-"));
    let _ = fs::remove_dir_all(dir);
    for (path, bytes) in &kept {
        put(path, bytes);
    }
    put("README", README.as_bytes());
    put("cuts/v1.txt", cuts::make().as_bytes());
    for (name, bytes) in records() {
        put(&format!("formats/v1/{name}"), &bytes);
    }
    let plain = text(40);
    put("formats/v1/frame-stored.bin", Frame::encode(&plain, Compression::None).as_bytes());
    put("formats/v1/update.bin", &update(None));
    put("formats/v1/update-delta.bin", &unit(Some(Profile::Fast)));
    put("formats/v1/frame-zstd.bin", Frame::encode(&plain, Compression::Zstd(3)).as_bytes());

    let [first, second] = trees();
    let (stored, replica) = (dir.join("stores/v1"), dir.join("replicas/v1"));
    {
        let options = RocksOptions { create: true, ..RocksOptions::default() };
        let store = RocksStore::open(&stored, &options).expect("made");
        published(&store, &first, &name("game@1"), Compression::None);
        published(&store, &second, &name("game@2"), Compression::Zstd(3));
        let options = sync_options(&[], Faults::default());
        sync(&store, &Target::Name(name("game@1")), &replica, &options, &Silent).expect("synced");
    }
    // Locks hold the number of a process.
    for lock in [stored.join("LOCK"), stored.join("db/LOCK"), replica.join(".floe/lock")] {
        fs::remove_file(lock).expect("removed");
    }
    assert!(!files(&stored).is_empty() && !files(&replica).is_empty());
}
