//! Versions made to break out, and trees prepared to let one out.

use std::os::unix::fs::symlink;

use floe::content::{Chunk, Frame};
use floe::store::NewChunk;
use floe::{ChunkRef, NodeId};

use super::*;

fn varint(out: &mut Vec<u8>, n: u64) {
    match n {
        0..=250 => out.push(n as u8),
        251..=0xffff => out.extend([&[251][..], &(n as u16).to_le_bytes()].concat()),
        _ => out.extend([&[252][..], &(n as u32).to_le_bytes()].concat()),
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    varint(out, text.len() as u64);
    out.extend(text.bytes());
}

const EVIL: &[u8] = b"written from outside";

fn file(path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, path);
    out.push(0);
    varint(&mut out, 0o644);
    varint(&mut out, EVIL.len() as u64);
    out.extend([0, 1]);
    out.extend(Chunk::new(EVIL.to_vec()).id().as_bytes());
    varint(&mut out, EVIL.len() as u64);
    out
}

fn link(path: &str, target: &str) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, path);
    out.push(1);
    text(&mut out, target);
    out
}

fn dir(path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, path);
    out.push(2);
    varint(&mut out, 0o700);
    out
}

// A version of one leaf, as no builder would make it. Entries of files have a zero after their path.
fn bind(store: &dyn Store, entries: &[Vec<u8>], files: u64, label: &str) {
    let mut leaf = vec![2, 1, entries.len() as u8];
    entries.iter().for_each(|entry| leaf.extend(entry));
    let leaf_id = NodeId::of(&leaf);
    let mut root = vec![1, 1, 1, 1];
    [16 << 10, 64 << 10, 256 << 10].iter().for_each(|n| varint(&mut root, *n));
    root.push(1);
    root.extend(leaf_id.as_bytes());
    root.push(0);
    [entries.len() as u64, files, files * EVIL.len() as u64, files]
        .iter()
        .for_each(|sum| varint(&mut root, *sum));
    let root_id = NodeId::of(&root);
    let plain = Chunk::new(EVIL.to_vec());
    let chunk = ChunkRef { id: plain.id(), len: EVIL.len() as u32 };
    let frame = Frame::encode(EVIL, Compression::None);
    store.put_chunks(&[NewChunk { chunk, frame }]).expect("put");
    store.put_nodes(vec![(leaf_id, leaf), (root_id, root)]).expect("put");
    store.bind(&name(label), VersionId::from_bytes(*root_id.as_bytes()), 1).expect("bound");
}

// A replica in the middle of things that must stay as they are.
struct Scene {
    outer: TempDir,
    dir: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let outer = quick_tempdir();
        let dir = outer.path().join("replica");
        fs::create_dir_all(outer.path().join("outside/dir")).expect("made");
        fs::create_dir(&dir).expect("made");
        let scene = Scene { outer, dir };
        for file in ["x", "outside/b", "outside/file", "outside/dir/file", "outside/state"] {
            fs::write(scene.outer.path().join(file), "precious").expect("written");
        }
        scene
    }

    // Everything but the replica.
    fn outside(&self) -> Vec<(PathBuf, u32, u64, Vec<u8>)> {
        let mut seen = photograph(self.outer.path());
        seen.retain(|(path, ..)| !path.starts_with(&self.dir));
        seen
    }
}

#[test]
fn the_encoder_of_these_tests_makes_good_versions_too() {
    let store = MemStore::default();
    let entries = [file("a"), dir("d"), link("z", "../outside")];
    bind(&store, &entries, 1, "game@1");
    let scene = Scene::new();
    sync(&store, "game@1", &scene.dir);
    let tree = Tree::default()
        .with("a", Item::file(0o644, EVIL.to_vec()))
        .with("d", Item::Dir(0o700))
        .with("z", Item::Symlink("../outside".into()));
    assert_replica(&scene.dir, &tree);
    assert_eq!(
        published(&MemStore::default(), &tree, "game@1"),
        floe::sync::resolve(&store, &named("game@1")).expect("bound")
    );
}

#[test]
fn no_version_writes_outside_the_replica() {
    let good = Tree::default()
        .with("a", Item::Symlink("../outside".into()))
        .with("b", Item::text("a file"))
        .with("c/file", Item::text("in a directory"));
    let long = "x".repeat(5000);
    let alone = [
        "../x",
        "/x",
        ".floe/state",
        ".FLOE/state",
        ".floe",
        "..",
        ".",
        "",
        "c/../../x",
        "c/./x",
        "c//x",
        "c/",
        "n\0l",
        &long,
    ];
    let mut versions: Vec<(Vec<Vec<u8>>, u64)> = alone
        .iter()
        .flat_map(|path| [(vec![file(path)], 1), (vec![link(path, "t")], 0), (vec![dir(path)], 0)])
        .collect();
    let outside = || link("a", "../outside");
    versions.extend([
        (vec![outside(), file("a/b")], 1),
        (vec![outside(), dir("a/new")], 0),
        (vec![outside(), link("a/dir/l", "t")], 0),
        (vec![file("b"), file("b/c")], 2),
        (vec![file("b"), file("a")], 2),
        (vec![file("a"), file("a")], 2),
        (vec![file("a")], 2),
        (vec![link("l", "")], 0),
        (vec![link("l", "nul\0")], 0),
    ]);
    let store = MemStore::default();
    published(&store, &good, "game@good");
    for (at, (entries, files)) in versions.iter().enumerate() {
        let label = format!("evil@{at}");
        bind(&store, entries, *files, &label);
        for from_good in [false, true] {
            let scene = Scene::new();
            if from_good {
                sync(&store, "game@good", &scene.dir);
            }
            let (outside, before) = (scene.outside(), on_disk(&scene.dir));
            let error = try_sync(&store, &label, &scene.dir).expect_err("refused");
            assert_eq!(error.class(), floe::ErrorClass::Damaged, "{at}: {error:?}");
            assert!(floe::sync::plan(&store, &named(&label), &scene.dir, &syncing(), &Silent).is_err());
            assert_eq!(scene.outside(), outside, "{at}");
            assert_eq!(on_disk(&scene.dir), before, "{at}");
            sync(&store, "game@good", &scene.dir);
            assert_replica(&scene.dir, &good);
        }
    }
}

fn old_and_new() -> (Tree, Tree) {
    let old = Tree::default()
        .with("dir/file", Item::text("old"))
        .with("dir/gone", Item::text("gone"))
        .with("dir/moves", Item::text("moves"))
        .with("dir/tool", Item::text("tool"))
        .with("file", Item::text("old"));
    let new = Tree::default()
        .with("dir/file", Item::text("new"))
        .with("dir/moved", Item::text("moves"))
        .with("dir/deep/new", Item::text("new too"))
        .with("dir/tool", Item::file(0o755, b"tool".to_vec()))
        .with("file", Item::text("new"));
    (old, new)
}

#[test]
fn a_symlink_put_in_the_way_is_not_followed() {
    let (old, new) = old_and_new();
    let store = MemStore::default();
    published(&store, &old, "game@old");
    published(&store, &new, "game@new");
    let swaps: [(&str, &str); 9] = [
        ("dir", "../outside"),
        ("dir", "../outside/dir"),
        ("dir", "/nowhere"),
        ("file", "../x"),
        ("dir/file", "../../x"),
        (".floe/stage", "../../outside"),
        (".floe/nodes", "../../outside/state"),
        (".floe/stats", "../../outside/state"),
        (".floe/state", "../../outside/state"),
    ];
    for (path, target) in swaps {
        for delete in [false, true] {
            let scene = Scene::new();
            sync(&store, "game@old", &scene.dir);
            let (full, away) = (scene.dir.join(path), scene.outer.path().join("outside/away"));
            fs::rename(&full, away).expect("moved away");
            symlink(target, &full).expect("made");
            let outside = scene.outside();
            let options = SyncOptions { delete, ..syncing() };
            let synced = floe::sync::sync(&store, &named("game@new"), &scene.dir, &options, &Silent);
            assert_eq!(scene.outside(), outside, "{path} -> {target}");
            if !path.starts_with(".floe") {
                synced.unwrap_or_else(|error| panic!("{path} -> {target}: {error:?}"));
                assert_replica(&scene.dir, &new);
            }
        }
    }
}

#[test]
fn a_state_directory_that_is_a_symlink_is_refused() {
    let (old, _) = old_and_new();
    let store = MemStore::default();
    published(&store, &old, "game@old");
    let scene = Scene::new();
    symlink("../outside", scene.dir.join(".floe")).expect("made");
    let outside = scene.outside();
    try_sync(&store, "game@old", &scene.dir).expect_err("refused");
    assert_eq!(scene.outside(), outside);
}

/// Puts a symlink in the place of a directory at the call with number `at`.
struct Swapper<'a> {
    at: u64,
    calls: AtomicU64,
    dir: &'a Path,
}

impl Swapper<'_> {
    fn count(&self) {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            let dir = self.dir.join("dir");
            let _ = fs::rename(&dir, self.dir.join("away"));
            let _ = symlink("../outside", dir);
        }
    }
}

impl Progress for Swapper<'_> {
    fn phase(&self, _: floe::Phase, _: Option<u64>) {
        self.count();
    }
    fn advance(&self, _: u64) {
        self.count();
    }
}

#[test]
fn a_symlink_put_in_the_way_at_any_moment_is_not_followed() {
    let (old, new) = old_and_new();
    let store = MemStore::default();
    published(&store, &old, "game@old");
    published(&store, &new, "game@new");
    for at in 0.. {
        let scene = Scene::new();
        sync(&store, "game@old", &scene.dir);
        let outside = scene.outside();
        let swapper = Swapper { at, calls: AtomicU64::new(0), dir: &scene.dir };
        let result = floe::sync::sync(&store, &named("game@new"), &scene.dir, &syncing(), &swapper);
        assert_eq!(scene.outside(), outside, "at {at}: {result:?}");
        if swapper.calls.load(Ordering::SeqCst) <= at {
            result.expect("nothing happened");
            assert!(at > 10);
            break;
        }
    }
}
