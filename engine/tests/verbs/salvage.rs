//! One byte of a store's database is flipped, anywhere: it is told, mended, and nothing that could be read is lost.

use std::collections::BTreeSet;

use floe::content::CutParams;
use floe::store::{NameRecord, RocksOptions, RocksStore};
use floe::sync::{MirrorOptions, list, mirror, repair_store};
use floe::testing::conformance::{nodes_in, read, read_nodes};
use floe::version::{EntryKind, Manifest, ManifestBuilder, Node, NodeSink};
use floe::{ChunkRef, ErrorClass, NodeId, Result};

use super::*;

const NAMES: [&str; 4] = ["game@1", "game@2", "game@3", "tool@1"];

/// Positions tried in each file, beside the ends of its blocks.
const SPOTS: usize = 5;

fn tree(n: u64) -> Tree {
    let mut tree = Tree::default().with("same", Item::file(0o644, World::noise(7, 60_000)));
    tree = tree.with("changes", Item::file(0o755, World::noise(n, 20_000)));
    if n == 2 {
        // More than goes through a memtable.
        tree = tree.with("big", Item::file(0o644, World::noise(8, 1_300_000)));
    }
    for file in 0..120 {
        tree =
            tree.with(&format!("many/{file}"), Item::text(&format!("content {file} {}", n * (file % 3 / 2))));
    }
    tree
}

fn trees() -> Vec<(&'static str, Tree)> {
    NAMES.into_iter().zip(0..).map(|(name, n)| (name, tree(n))).collect()
}

/// A store of several versions, all of them there, with several tables of each kind.
pub struct Scene {
    dir: TempDir,
    pub good: MemStore,
    chunks: Vec<ChunkRef>,
    nodes: Vec<NodeId>,
    names: Vec<NameRecord>,
}

impl Scene {
    pub fn new() -> Scene {
        Scene::of(&trees())
    }

    /// Each version leaves a table of each family; four of them are made one.
    fn of(trees: &[(&'static str, Tree)]) -> Scene {
        let (dir, good) = (quick_tempdir(), MemStore::default());
        for (name, tree) in trees {
            published(&rocks(&dir.path().join("whole"), Faults::default()).expect("opens"), tree, name);
            published(&good, tree, name);
        }
        let mut chunks = BTreeSet::new();
        for (name, _) in trees {
            let version = floe::sync::resolve(&good, &named(name)).expect("bound");
            list(&good, version, &mut |entry| {
                if let EntryKind::File { content, .. } = &entry.kind {
                    let manifest = Manifest::open(&good, version)?;
                    for chunk in manifest.chunks(content) {
                        let ChunkRef { id, len } = chunk?;
                        chunks.insert((id, len));
                    }
                }
                Ok(())
            })
            .expect("listed");
        }
        let chunks = chunks.into_iter().map(|(id, len)| ChunkRef { id, len }).collect();
        let nodes = nodes_in(&good).expect("listed");
        let whole = RocksStore::open_read_only(dir.path().join("whole")).expect("opens");
        let names = whole.names(None).expect("listed");
        drop(whole);
        Scene { dir, good, chunks, nodes, names }
    }

    fn whole(&self) -> PathBuf {
        self.dir.path().join("whole")
    }

    /// Files of the database that damage may hit.
    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.whole().join("db")).expect("listed");
        let mut files: Vec<_> = files.map(|file| file.expect("listed").path()).collect();
        files.retain(|file| {
            let name = file.file_name().expect("named").to_string_lossy().into_owned();
            ["MANIFEST", "CURRENT", "OPTIONS"].iter().any(|part| name.starts_with(part))
                || name.ends_with(".sst")
        });
        files.sort();
        files
    }

    /// A copy of the store with other bytes in one file, or without it.
    pub fn harmed(&self, file: &Path, bytes: Option<&[u8]>) -> PathBuf {
        let store = self.dir.path().join("harmed");
        wipe(&store);
        fs::create_dir_all(store.join("db")).expect("made");
        fs::copy(self.whole().join("FORMAT"), store.join("FORMAT")).expect("copied");
        for entry in fs::read_dir(self.whole().join("db")).expect("listed") {
            let from = entry.expect("listed").path();
            let to = store.join("db").join(from.file_name().expect("named"));
            if from == file {
                bytes.into_iter().for_each(|bytes| fs::write(&to, bytes).expect("written"));
            } else if from.extension().is_some_and(|kind| kind == "sst") {
                // Tables never change.
                fs::hard_link(&from, &to).expect("linked");
            } else {
                fs::copy(&from, &to).expect("copied");
            }
        }
        store
    }

    /// What of the chunks and nodes can be read, by their places in the lists.
    fn readable(&self, store: &dyn Store) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let chunks = read(store, &self.chunks).expect("read to the end");
        let nodes = read_nodes(store, &self.nodes).expect("read to the end");
        let there = |found: Vec<bool>| (0..).zip(found).filter(|(_, found)| *found).map(|(n, _)| n).collect();
        (
            there(chunks.iter().map(Option::is_some).collect()),
            there(nodes.iter().map(Option::is_some).collect()),
        )
    }

    /// The nodes that names lead to through `readable` ones: below another, nobody knows what there was.
    fn reached(&self, readable: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut reached = BTreeSet::new();
        let mut todo: Vec<_> = self.names.iter().map(|record| record.version.root()).collect();
        while let Some(id) = todo.pop() {
            if readable.contains(&id) && reached.insert(id) {
                let bytes = read_nodes(&self.good, &[id]).expect("read").swap_remove(0).expect("there");
                todo.extend(Node::open(id, &bytes, "good").expect("sound").children());
            }
        }
        reached
    }

    pub fn assert_whole(&self, store: &Path, context: &str) {
        let store = RocksStore::open_read_only(store).expect(context);
        assert_eq!(verify(&store).damage, [], "{context}");
        let all = (self.chunks.len(), self.nodes.len());
        let (chunks, nodes) = self.readable(&store);
        assert_eq!((chunks.len(), nodes.len()), all, "{context}");
        let mut names = store.names(None).expect(context);
        names.iter_mut().zip(&self.names).for_each(|(name, want)| name.sequence = want.sequence);
        names.sort_by_key(|record| record.name.to_string());
        let mut want = self.names.clone();
        names.iter_mut().chain(&mut want).for_each(|record| record.sequence = 0);
        assert_eq!(names, want, "{context}");
    }

    /// Tells, mends, loses nothing; returns whether anything was told.
    fn check(&self, file: &Path, bytes: Option<&[u8]>, context: &str) -> bool {
        let path = self.harmed(file, bytes);
        let damaged = |error: &Error| assert_eq!(error.class(), ErrorClass::Damaged, "{context}: {error:?}");
        let mut before = None;
        let mut sound = false;
        match RocksStore::open_read_only(&path) {
            Err(error) => damaged(&error),
            Ok(store) => {
                match floe::sync::verify_store(&store, &verifying(), &Silent) {
                    Err(error) => damaged(&error),
                    Ok(found) => sound = found.damage.is_empty(),
                }
                before = Some(self.readable(&store));
            }
        }
        if sound {
            self.assert_whole(&path, context);
        }
        let options = RocksOptions { salvage: true, ..RocksOptions::default() };
        let store = RocksStore::open(&path, &options).unwrap_or_else(|error| panic!("{context}: {error:?}"));
        let (chunks, nodes) = self.readable(&store);
        if let Some((chunks_before, nodes_before)) = before {
            assert!(chunks.is_superset(&chunks_before), "{context}: chunks");
            assert!(nodes.is_superset(&nodes_before), "{context}: nodes");
        }
        if !context.contains(".sst") {
            let all = (self.chunks.len(), self.nodes.len());
            assert_eq!((chunks.len(), nodes.len()), all, "{context}: the tables were whole");
        }
        let mended = repair_store(&store, &self.good, &verifying(), &Silent);
        let mended = mended.unwrap_or_else(|error| panic!("{context}: {error:?}"));
        assert_eq!(mended.damage, [], "{context}");
        drop(store);
        self.assert_whole(&path, context);
        assert!(!path.join("db-damaged").exists() && !path.join("db-new").exists(), "{context}");
        !sound
    }
}

fn kind_of(file: &Path) -> String {
    file.file_name().expect("named").to_string_lossy().into_owned()
}

#[test]
fn a_flipped_byte_anywhere_is_told_and_mended() {
    let (mut told, mut tried) = (0, 0);
    let scenes = [Scene::new(), Scene::of(&trees()[..3])];
    for (scene, file) in
        scenes.iter().flat_map(|scene| scene.files().into_iter().map(move |file| (scene, file)))
    {
        let bytes = fs::read(&file).expect("read");
        let spots = spots(bytes.len());
        for (n, at) in (0..).zip(spots) {
            let mut harmed = bytes.clone();
            harmed[at] ^= [0x01, 0x40, 0x80][n % 3];
            let context = format!("{} at {at} of {}", kind_of(&file), bytes.len());
            told += u32::from(scene.check(&file, Some(&harmed), &context));
            tried += 1;
        }
    }
    assert!(told * 3 > tried, "{told} of {tried}");
}

// Evenly spread, and close together near the end, where a table says what it is.
fn spots(len: usize) -> BTreeSet<usize> {
    let even = (0..SPOTS).map(|n| n * len / SPOTS);
    let end = (0..4).map(|n| len.saturating_sub(3 + n * n * n * 40));
    even.chain(end).filter(|at| *at < len).collect()
}

pub fn salvaging(faults: Faults) -> RocksOptions {
    RocksOptions { salvage: true, faults, ..RocksOptions::default() }
}

// Flips a byte in the first block of each table of one family; a table says which it is of.
fn flip_tables(scene: &Scene, path: &Path, family: &str) {
    let mark = format!("name{family}").into_bytes();
    let mut flipped = 0;
    for file in scene.files() {
        let mut bytes = fs::read(&file).expect("read");
        if bytes.windows(mark.len()).any(|window| window == mark) {
            bytes[20] ^= 1;
            let target = path.join("db").join(kind_of(&file));
            fs::remove_file(&target).expect("removed");
            fs::write(&target, bytes).expect("written");
            flipped += 1;
        }
    }
    assert!(flipped > 0, "{family}");
}

#[test]
fn files_that_are_gone_cut_or_empty_are_made_up_for() {
    let scene = Scene::new();
    for file in scene.files() {
        let bytes = fs::read(&file).expect("read");
        for (how, bytes) in
            [("gone", None), ("cut", Some(&bytes[..bytes.len() / 2])), ("empty", Some(&[][..]))]
        {
            let context = format!("{} {how}", kind_of(&file));
            let told = scene.check(&file, bytes, &context);
            assert!(told || context.contains("OPTIONS"), "{context}");
            // It is a store like any other again.
            let path = scene.dir.path().join("harmed");
            published(&rocks(&path, Faults::default()).expect("opens"), &tree(9), "game@9");
            let store = RocksStore::open_read_only(&path).expect("opens");
            assert_sound(&store);
            let dir = quick_tempdir();
            sync(&store, "game@9", dir.path());
            assert_replica(dir.path(), &tree(9));
            for (name, tree) in trees() {
                sync(&store, name, dir.path());
                assert_replica(dir.path(), &tree);
            }
        }
    }
}

#[test]
fn a_rehash_mends_what_lies_in_damaged_blocks() {
    let scene = Scene::new();
    for families in [&["data"][..], &["node"], &["index"], &["data", "node", "index"]] {
        let mut mended = 0;
        for (_, tree) in trees() {
            let path = scene.harmed(Path::new(""), None);
            families.iter().for_each(|family| flip_tables(&scene, &path, family));
            let options = PublishOptions { rehash: true, ..publishing() };
            let dir = quick_tempdir();
            tree.write_over(dir.path());
            let store = RocksStore::open(&path, &RocksOptions::default()).expect("opens");
            let done = floe::sync::publish(dir.path(), &store, &name("again@1"), &options, &Silent);
            let done = match done {
                // A compaction may have met the damage: that is told, and no name is bound.
                Err(error) if families != ["data"] => {
                    assert_eq!(error.class(), ErrorClass::Damaged, "{families:?}: {error:?}");
                    assert_eq!(store.resolve(&name("again@1")).expect("read"), None, "{families:?}");
                    continue;
                }
                done => done.unwrap_or_else(|error| panic!("{families:?}: {error:?}")),
            };
            mended += done.chunks_mended + done.nodes_mended;
            drop(store);
            let store = RocksStore::open_read_only(&path).expect("opens");
            let to = quick_tempdir();
            sync(&store, "again@1", to.path());
            assert_replica(to.path(), &tree);
        }
        assert!(mended > 0 || families != ["data"], "{families:?}");
    }
}

#[test]
fn a_rehash_may_meet_a_damaged_entry_again_while_its_chunk_is_on_its_way() {
    let twice = tree(2).with("twice", Item::file(0o644, World::noise(8, 1_300_000)));
    let scene = Scene::of(&[("game@1", twice.clone())]);
    let path = scene.harmed(Path::new(""), None);
    flip_tables(&scene, &path, "index");
    let dir = quick_tempdir();
    twice.write_over(dir.path());
    let store = RocksStore::open(&path, &RocksOptions::default()).expect("opens");
    let options = PublishOptions { rehash: true, ..publishing() };
    let done = floe::sync::publish(dir.path(), &store, &name("game@2"), &options, &Silent);
    assert!(done.expect("publishes").chunks_mended > 0);
    let to = quick_tempdir();
    sync(&store, "game@2", to.path());
    assert_replica(to.path(), &twice);
}

#[test]
fn an_index_is_made_from_frames_alone() {
    let scene = Scene::new();
    let path = scene.harmed(Path::new(""), None);
    flip_tables(&scene, &path, "index");
    let before = scene.readable(&RocksStore::open_read_only(&path).expect("opens")).0;
    assert!(before.len() < scene.chunks.len());
    let store = RocksStore::open(&path, &salvaging(Faults::default())).expect("opens");
    assert_eq!(scene.readable(&store).0.len(), scene.chunks.len(), "no source was asked");
    assert_sound(&store);
    drop(store);
    scene.assert_whole(&path, "after");
    assert!(path.join("db-damaged").is_dir(), "kept until a repair has ended well");
}

#[test]
fn damage_in_many_tables_hides_nothing_that_can_be_read() {
    let many = |n: u64| {
        let file = |at: u64| (format!("many/{}", at * n), Item::text(&format!("content {}", at * n)));
        (0..3_000).map(file).fold(Tree::default(), |tree, (path, item)| tree.with(&path, item))
    };
    let scene = Scene::of(&[("game@1", many(1)), ("game@2", many(10_007))]);
    for family in ["node", "index", "data"] {
        for share in [2, 5] {
            let path = scene.harmed(Path::new(""), None);
            let mark = format!("name{family}").into_bytes();
            for file in scene.files() {
                let mut bytes = fs::read(&file).expect("read");
                if bytes.windows(mark.len()).any(|window| window == mark) {
                    let at = bytes.len() / share;
                    bytes[at] ^= 1;
                    let target = path.join("db").join(kind_of(&file));
                    fs::remove_file(&target).expect("removed");
                    fs::write(&target, bytes).expect("written");
                }
            }
            let before = scene.readable(&RocksStore::open_read_only(&path).expect("opens"));
            let store = RocksStore::open(&path, &salvaging(Faults::default())).expect("opens");
            let after = scene.readable(&store);
            let ids = |places: &BTreeSet<usize>| -> BTreeSet<NodeId> {
                places.iter().map(|place| scene.nodes[*place]).collect()
            };
            let (known, kept) = (scene.reached(&ids(&before.1)), ids(&after.1));
            let context = format!("{family} at 1/{share}: {} of {} nodes", kept.len(), known.len());
            assert!(after.0.is_superset(&before.0) && kept.is_superset(&known), "{context}");
        }
    }
}

#[test]
fn a_poor_source_leaves_the_rest_told_and_the_old_database_beside() {
    let scene = Scene::new();
    let path = scene.harmed(Path::new(""), None);
    flip_tables(&scene, &path, "node");
    let store = RocksStore::open(&path, &salvaging(Faults::default())).expect("opens");
    let left = repair_store(&store, &MemStore::default(), &verifying(), &Silent).expect("repairs");
    assert!(!left.damage.is_empty() && path.join("db-damaged").is_dir());
    drop(store);
    assert!(!verify(&RocksStore::open_read_only(&path).expect("opens")).damage.is_empty());
    // Names are not found again in a source that has none; where all of them could be read nothing is missed.
    let path = scene.harmed(Path::new(""), None);
    flip_tables(&scene, &path, "meta");
    drop(RocksStore::open(&path, &salvaging(Faults::default())).expect("opens"));
    let store = RocksStore::open_read_only(&path).expect("opens");
    let told = verify(&store).damage;
    assert!(told.iter().any(|damage| damage.reason.contains("names may have been lost")), "{told:?}");
}

#[test]
fn names_lost_with_what_they_need_come_back() {
    let scene = Scene::new();
    let of = |family: &str| {
        let mark = format!("name{family}").into_bytes();
        let is_of =
            |file: &PathBuf| fs::read(file).expect("read").windows(mark.len()).any(|part| part == mark);
        scene.files().into_iter().filter(is_of).collect::<Vec<_>>()
    };
    let tables: Vec<_> = scene.files().into_iter().filter(|file| kind_of(file).ends_with(".sst")).collect();
    let names_and_nodes = [of("meta"), of("node")].concat();
    let rows: [(&str, &[PathBuf], Option<u64>); 4] = [
        ("all tables gone", &tables, None),
        ("all tables cut", &tables, Some(100)),
        ("names and nodes gone", &names_and_nodes, None),
        ("database gone", &[], None),
    ];
    // A source that has every name, and lacks nodes.
    let poor = scene.dir.path().join("poor");
    let path = scene.harmed(Path::new(""), None);
    flip_tables(&scene, &path, "node");
    fs::rename(&path, &poor).expect("renamed");
    for (context, files, len) in rows {
        let path = scene.harmed(Path::new(""), None);
        for file in files {
            let (target, bytes) = (path.join("db").join(kind_of(file)), fs::read(file).expect("read"));
            fs::remove_file(&target).expect("removed");
            if let Some(len) = len {
                fs::write(&target, &bytes[..len as usize]).expect("written");
            }
        }
        if files.is_empty() {
            wipe(&path.join("db"));
        }
        let store = RocksStore::open(&path, &salvaging(Faults::default())).expect(context);
        // No name is left to tell a copy by.
        let left = repair_store(&store, &scene.good, &verifying(), &Silent).expect(context).damage;
        assert!(left.iter().any(|damage| damage.what == "list of names"), "{context}: {left:?}");
        assert_eq!(store.names(None).expect(context), [], "{context}");
        let one = [name("tool@1")];
        mirror(&scene.good, &store, &one, &MirrorOptions::default(), &Silent).expect(context);
        let source = RocksStore::open_read_only(&poor).expect(context);
        let left = repair_store(&store, &source, &verifying(), &Silent).expect(context).damage;
        assert!(left.iter().any(|damage| damage.what.starts_with("name `")), "{context}: {left:?}");
        assert!(left.iter().any(|damage| damage.what == "the store's records"), "{context}: {left:?}");
        assert!(path.join("db-damaged").exists(), "{context}");
        drop(store);
        assert!(!verify(&RocksStore::open_read_only(&path).expect(context)).damage.is_empty(), "{context}");
        let store = RocksStore::open(&path, &salvaging(Faults::default())).expect(context);
        let mended = repair_store(&store, &scene.good, &verifying(), &Silent).expect(context);
        assert_eq!((mended.damage, mended.versions), (vec![], NAMES.len() as u64), "{context}");
        drop(store);
        scene.assert_whole(&path, context);
        assert!(!path.join("db-damaged").exists(), "{context}");
    }
}

#[test]
fn only_a_copy_of_the_store_says_which_names_were_lost() {
    let scene = Scene::new();
    let path = scene.harmed(Path::new(""), None);
    wipe(&path.join("db"));
    let store = RocksStore::open(&path, &salvaging(Faults::default())).expect("made anew");
    let kept = scene.good.names(None).expect("names").swap_remove(0);
    let other = MemStore::default();
    let copied = [kept.name.clone()];
    mirror(&scene.good, &store, &copied, &MirrorOptions::default(), &Silent).expect("one name is left");
    other.put_nodes(vec![empty_root()]).expect("put");
    let version = VersionId::from_bytes(*empty_root().0.as_bytes());
    other.bind(&Name::parse("z@1").expect("a name"), version, 0).expect("bound");

    let names = |store: &RocksStore| store.names(None).expect("names").len();
    let told = repair_store(&store, &other, &verifying(), &Silent).expect("it ends").damage;
    assert!(told.iter().any(|damage| damage.what == "list of names"), "{told:?}");
    assert_eq!((names(&store), store.names_lost().expect("read")), (1, true));
    let options = VerifyOptions { accept_loss: true, ..verifying() };
    let told = repair_store(&store, &other, &options, &Silent).expect("it ends").damage;
    assert_eq!((told, names(&store), store.names_lost().expect("read")), (vec![], 1, false));
}

#[test]
fn without_a_name_left_a_source_is_taken_only_when_loss_is_accepted() {
    let scene = Scene::new();
    let path = scene.harmed(Path::new(""), None);
    wipe(&path.join("db"));
    let store = RocksStore::open(&path, &salvaging(Faults::default())).expect("made anew");
    for (accept_loss, names) in [(false, 0), (false, 0), (true, NAMES.len())] {
        let options = VerifyOptions { accept_loss, ..verifying() };
        let told = repair_store(&store, &scene.good, &options, &Silent).expect("it ends").damage;
        assert_eq!(told.iter().any(|damage| damage.what == "list of names"), !accept_loss, "{told:?}");
        assert_eq!(store.names(None).expect("names").len(), names);
        assert_eq!(store.names_lost().expect("read"), !accept_loss);
        assert_eq!(path.join("db-damaged").exists(), !accept_loss);
    }
    drop(store);
    scene.assert_whole(&path, "after");
    // The versions that are here tell a copy, too.
    let path = scene.harmed(Path::new(""), None);
    flip_tables(&scene, &path, "meta");
    let store = RocksStore::open(&path, &salvaging(Faults::default())).expect("made anew");
    let part = MemStore::default();
    mirror(&scene.good, &part, &[name("game@1"), name("game@2")], &MirrorOptions::default(), &Silent)
        .expect("mirrored");
    for (source, doubted, names) in [(&part, true, 0), (&scene.good, false, NAMES.len())] {
        let told = repair_store(&store, source, &verifying(), &Silent).expect("it ends").damage;
        assert_eq!(told.iter().any(|damage| damage.reason.contains("has no name for version")), doubted);
        assert_eq!(store.names(None).expect("names").len(), names);
    }
}

// The version of an empty directory.
fn empty_root() -> (NodeId, Vec<u8>) {
    let mut nodes = Nodes(Vec::new());
    ManifestBuilder::new(CutParams::V1, &mut nodes).finish().expect("a root");
    nodes.0.swap_remove(0)
}

struct Nodes(Vec<(NodeId, Vec<u8>)>);

impl NodeSink for Nodes {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.0.push((id, bytes));
        Ok(())
    }
}

#[test]
fn a_crash_at_any_step_leaves_the_old_or_the_new() {
    let scene = Scene::new();
    let mut steps = 0;
    loop {
        let path = scene.harmed(Path::new(""), None);
        flip_tables(&scene, &path, "index");
        let before = scene.readable(&RocksStore::open_read_only(&path).expect("opens"));
        let (faults, _) = failing_at(steps);
        let stopped = RocksStore::open(&path, &salvaging(faults)).is_err();
        let store = RocksStore::open(&path, &RocksOptions::default()).expect("old or new");
        let (chunks, nodes) = scene.readable(&store);
        assert!(chunks.is_superset(&before.0) && nodes.is_superset(&before.1), "step {steps}");
        assert_eq!(store.names(None).expect("listed"), scene.names, "step {steps}");
        drop(store);
        let store = RocksStore::open(&path, &salvaging(Faults::default())).expect("opens");
        let mended = repair_store(&store, &scene.good, &verifying(), &Silent).expect("repairs");
        assert_eq!(mended.damage, [], "step {steps}");
        drop(store);
        scene.assert_whole(&path, &format!("step {steps}"));
        assert!(!path.join("db-damaged").exists() && !path.join("db-new").exists());
        if !stopped {
            break;
        }
        steps += 1;
    }
    assert!(steps > 10, "{steps}");
}
