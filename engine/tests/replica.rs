//! Replicas from outside: whatever the trees, whenever it is interrupted, whatever lies in the way.

mod world;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use floe::content::Chunker;
use floe::tree::{Replica, ReplicaOptions};
use floe::{ChunkId, Error, Faults, Silent};
use proptest::prelude::*;
use world::{Item, Notices, Tree, World, on_disk, random_tree, survey};

type Meddle = fn(&Path);

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn read(dir: &Path, path: &str) -> String {
    fs::read_to_string(dir.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

// Fails at the operation with number `at` and at every later one.
fn failing_at(at: u64) -> (Faults, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let faults = Faults::new(move |_, _| {
        if counted.fetch_add(1, Ordering::SeqCst) < at { Ok(()) } else { Err(std::io::Error::other("power")) }
    });
    (faults, count)
}

fn open(dir: &Path) -> floe::Result<Replica> {
    Replica::open(dir, &ReplicaOptions::default(), &Silent)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_replica_is_exactly_the_version(seeds in proptest::collection::vec(any::<u64>(), 2..5)) {
        let (mut world, dir) = (World::default(), tempdir());
        let trees: Vec<Tree> = seeds.iter().map(|&seed| random_tree(seed)).collect();
        let versions: Vec<_> = trees.iter().map(|tree| world.publish(tree)).collect();
        for at in (0..trees.len()).chain((0..trees.len()).rev()) {
            let report = world.sync(dir.path(), versions[at]).expect("syncs");
            prop_assert_eq!(on_disk(dir.path()), trees[at].clone());
            prop_assert!(report.fetched_twice.is_empty());
            let again = world.sync(dir.path(), versions[at]).expect("syncs again");
            prop_assert_eq!(again.steps, 0);
            prop_assert_eq!(on_disk(dir.path()), trees[at].clone());
        }
    }

    #[test]
    fn whatever_was_done_to_it_the_next_sync_mends_it(a in any::<u64>(), b in any::<u64>(), c in any::<u64>()) {
        let (mut world, dir) = (World::default(), tempdir());
        let (a, b, local) = (random_tree(a), random_tree(b), random_tree(c));
        let (va, vb) = (world.publish(&a), world.publish(&b));
        world.sync(dir.path(), va).expect("syncs");
        local.write_over(dir.path());
        world.delete = true;
        world.sync(dir.path(), vb).expect("syncs");
        prop_assert_eq!(on_disk(dir.path()), b.clone());
        local.write_over(dir.path());
        world.sync(dir.path(), vb).expect("syncs");
        prop_assert_eq!(on_disk(dir.path()), b);
    }
}

#[test]
fn stopped_at_any_operation_it_is_old_or_new_and_the_next_run_completes() {
    for seed in [3, 11, 29, 42] {
        let mut world = World::default();
        let (a, b) = (random_tree(seed), random_tree(seed + 1000));
        let (va, vb) = (world.publish(&a), world.publish(&b));
        let old = tempdir();
        world.sync(old.path(), va).expect("syncs");
        let (mut seen_old, mut seen_new) = (false, false);
        for at in 0.. {
            let dir = tempdir();
            copy_tree(old.path(), dir.path());
            let (faults, count) = failing_at(at);
            world.faults = faults;
            let result = world.sync(dir.path(), vb);
            world.faults = Faults::default();
            if count.load(Ordering::SeqCst) <= at {
                result.expect("nothing stopped it");
                break;
            }
            // The first recovery may be stopped as well.
            let (faults, _) = failing_at(at % 17);
            let _ = Replica::open(dir.path(), &ReplicaOptions { faults, ..Default::default() }, &Silent);
            let version = open(dir.path()).expect("recovers").version();
            let now = on_disk(dir.path());
            if version == Some(vb) {
                assert_eq!(now, b, "seed {seed}, stopped at {at}");
                seen_new = true;
            } else {
                assert_eq!(now, a, "seed {seed}, stopped at {at}");
                seen_old = true;
            }
            let report =
                world.sync(dir.path(), vb).unwrap_or_else(|error| panic!("stopped at {at}: {error:?}"));
            assert!(report.fetched_twice.is_empty());
            assert_eq!(on_disk(dir.path()), b, "seed {seed}, stopped at {at}");
            assert_eq!(fs::read_dir(dir.path().join(".floe/stage")).expect("listed").count(), 0);
        }
        assert!(seen_old && seen_new);
    }
}

#[test]
fn what_was_staged_is_not_fetched_again() {
    let mut world = World::default();
    let tree = Tree::default()
        .with("big", Item::file(0o644, World::noise(1, 3 << 20)))
        .with("more", Item::file(0o444, World::noise(2, 1 << 20)))
        .with("small", Item::file(0o400, b"small".to_vec()));
    let version = world.publish(&tree);
    let (probe, count) = failing_at(u64::MAX);
    world.faults = probe;
    world.sync(tempdir().path(), version).expect("syncs");
    let mut seen = 0;
    for at in (10..count.load(Ordering::SeqCst)).step_by(7) {
        let dir = tempdir();
        world.faults = failing_at(at).0;
        let first = world.sync_counting(dir.path(), version);
        // But for the fingerprints, which come last and may be lost.
        assert!(first.result.is_err() || open(dir.path()).expect("opens").version() == Some(version));
        world.faults = Faults::default();
        let staged = staged_chunks(dir.path(), &tree);
        seen += staged.len();
        let second = world.sync_counting(dir.path(), version);
        second.result.expect("completes");
        assert_eq!(on_disk(dir.path()), tree);
        let again: BTreeSet<_> = staged.intersection(&second.taken).collect();
        assert!(again.is_empty(), "stopped at {at}: {} fetched twice", again.len());
    }
    assert!(seen > 100, "{seen}");
}

// The chunks of `tree` that lie where they belong in some file of the stage.
fn staged_chunks(dir: &Path, tree: &Tree) -> BTreeSet<ChunkId> {
    let stage = fs::read_dir(dir.join(".floe/stage")).into_iter().flatten();
    let files: Vec<Vec<u8>> =
        stage.map(|file| fs::read(file.expect("listed").path()).expect("read")).collect();
    let mut found = BTreeSet::new();
    for (_, item) in tree.items() {
        let Item::File(_, data) = item else { continue };
        let (mut chunker, mut at) = (Chunker::new(&data[..]), 0);
        while let Some(bytes) = chunker.next_chunk().expect("memory can be read") {
            if files.iter().any(|file| file.get(at..at + bytes.len()) == Some(bytes)) {
                found.insert(ChunkId::of(bytes));
            }
            at += bytes.len();
        }
    }
    found
}

#[test]
fn unchanged_files_are_not_read() {
    let (mut world, dir) = (World::default(), tempdir());
    let version = world.publish(&random_tree(5));
    world.sync(dir.path(), version).expect("syncs");
    // Fingerprints prove nothing within a tick of the clock after the switch.
    let until = Instant::now() + Duration::from_secs(10);
    while survey(&open(dir.path()).expect("opens"), false).files_read > 0 {
        assert!(Instant::now() < until, "files are read again and again");
    }
    let replica = open(dir.path()).expect("opens");
    assert!(survey(&replica, true).files_read > 0);
    assert_eq!(survey(&replica, false).files_read, 0);
}

#[test]
fn foreign_files_stay() {
    let (mut world, dir) = (World::default(), tempdir());
    let a =
        Tree::default().with("d/x", Item::text("x")).with("e", Item::Dir(0o755)).with("f", Item::text("f"));
    let b = Tree::default().with("g", Item::text("g"));
    let (va, vb) = (world.publish(&a), world.publish(&b));
    world.sync(dir.path(), va).expect("syncs");
    let mine = ["d/mine", "e/mine", "mods/deep/mine", ".floeignore"];
    fs::create_dir_all(dir.path().join("mods/deep")).expect("made");
    fs::create_dir_all(dir.path().join("empty")).expect("made");
    mine.iter().for_each(|path| fs::write(dir.path().join(path), "*").expect("written"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path().join("d/pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .expect("made");
    // The directory `e` is recorded as an empty one; that it is not empty now is no change to it.
    let replica = open(dir.path()).expect("opens");
    let seen = survey(&replica, false);
    assert!(seen.drift.iter().all(|change| change.have.is_none()), "{:?}", seen.drift);
    assert_eq!(seen.unpublishable, 1);
    drop(replica);
    let report = world.sync(dir.path(), vb).expect("syncs");
    assert_eq!(report.foreign, 5);
    mine.iter().for_each(|path| assert_eq!(read(dir.path(), path), "*"));
    assert_eq!(read(dir.path(), "g"), "g");
    assert!(dir.path().join("empty").is_dir() && dir.path().join("d/pipe").exists());
    assert!(!dir.path().join("d/x").exists() && !dir.path().join("f").exists());
    world.sync(dir.path(), va).expect("syncs back");
    assert_eq!(read(dir.path(), "d/x"), "x");
}

#[test]
fn what_stands_in_the_way_is_a_conflict_and_stays() {
    let b = Tree::default().with("d", Item::text("file")).with("p/q", Item::text("q"));
    let a = Tree::default().with("d/x", Item::text("x")).with("keep", Item::text("keep"));
    let cases: [(&str, Meddle); 4] = [
        ("d/mine", |dir| fs::write(dir.join("d/mine"), "mine").expect("written")),
        ("d/empty", |dir| fs::create_dir(dir.join("d/empty")).expect("made")),
        ("p", |dir| fs::write(dir.join("p"), "mine").expect("written")),
        ("p", |dir| symlink("/nowhere", dir.join("p")).expect("made")),
    ];
    for (path, make) in cases {
        let (mut world, dir) = (World::default(), tempdir());
        let (va, vb) = (world.publish(&a), world.publish(&b));
        world.sync(dir.path(), va).expect("syncs");
        make(dir.path());
        let before = on_disk(dir.path());
        let error = world.sync(dir.path(), vb).expect_err("it is in the way");
        assert!(matches!(&error, Error::Conflict { what, .. } if what.contains(path)), "{error}");
        assert_eq!(on_disk(dir.path()), before);
        assert!(!dir.path().join(".floe/journal").exists());
        world.delete = true;
        world.sync(dir.path(), vb).expect("it may be deleted now");
        assert_eq!(on_disk(dir.path()), b);
    }
}

#[test]
fn nothing_outside_is_written() {
    let (mut world, dir, outside) = (World::default(), tempdir(), tempdir());
    let a = Tree::default().with("d/e/x", Item::text("old")).with("f", Item::text("f"));
    let b = Tree::default().with("d/e/x", Item::text("new")).with("d/e/y", Item::text("y"));
    let (va, vb) = (world.publish(&a), world.publish(&b));
    fs::create_dir(outside.path().join("e")).expect("made");
    fs::write(outside.path().join("e/x"), "theirs").expect("written");
    for target in [outside.path(), Path::new("inside")] {
        let _ = fs::remove_dir_all(dir.path());
        world.sync(dir.path(), va).expect("syncs");
        fs::rename(dir.path().join("d"), dir.path().join("inside")).expect("renamed");
        symlink(target, dir.path().join("d")).expect("made");
        world.sync(dir.path(), vb).expect("syncs");
        assert_eq!(read(outside.path(), "e/x"), "theirs");
        assert_eq!(fs::read_dir(outside.path().join("e")).expect("listed").count(), 1);
        assert_eq!(read(dir.path(), "inside/e/x"), "old");
        assert!(dir.path().join("d").symlink_metadata().expect("there").is_dir());
        assert_eq!(read(dir.path(), "d/e/x"), "new");
        assert_eq!(read(dir.path(), "d/e/y"), "y");
    }
}

#[test]
fn state_that_is_a_link_is_refused() {
    let (mut world, dir, outside) = (World::default(), tempdir(), tempdir());
    let version = world.publish(&random_tree(1));
    symlink(outside.path(), dir.path().join(".floe")).expect("made");
    assert!(world.sync(dir.path(), version).is_err());
    assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0);
}

#[test]
fn two_do_not_hold_it_at_once() {
    let dir = tempdir();
    let held = open(dir.path()).expect("opens");
    match open(dir.path()) {
        Err(Error::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(held);
    open(dir.path()).expect("it is free again");
}

#[test]
fn an_existing_directory_is_adopted_and_serves_as_seed() {
    let (mut world, dir) = (World::default(), tempdir());
    let tree = random_tree(8).with("big", Item::file(0o644, World::noise(4, 2 << 20)));
    let version = world.publish(&tree);
    tree.write_over(dir.path());
    let report = world.sync(dir.path(), version).expect("syncs");
    assert_eq!((report.fetched, report.steps), (0, 0));
    fs::rename(dir.path().join("big"), dir.path().join("grown")).expect("renamed");
    fs::remove_dir_all(dir.path().join(".floe")).expect("removed");
    let report = world.sync(dir.path(), version).expect("syncs");
    assert_eq!((report.fetched, report.foreign), (0, 1));
    fs::remove_file(dir.path().join("grown")).expect("removed");
    assert_eq!(on_disk(dir.path()), tree);
}

#[test]
fn copies_share_nothing() {
    use std::os::unix::fs::MetadataExt;
    let (mut world, dir) = (World::default(), tempdir());
    let a = Tree::default().with("a", Item::text("same"));
    let b = a.clone().with("b", Item::text("same"));
    let (va, vb) = (world.publish(&a), world.publish(&b));
    world.sync(dir.path(), va).expect("syncs");
    let report = world.sync(dir.path(), vb).expect("syncs");
    assert_eq!(report.fetched, 0);
    let inode = |path: &str| dir.path().join(path).metadata().expect("there").ino();
    assert_ne!(inode("a"), inode("b"));
}

#[test]
fn a_moved_file_is_not_written_again() {
    let (mut world, dir) = (World::default(), tempdir());
    let data = World::noise(9, 1 << 20);
    let a = Tree::default().with("x/a", Item::file(0o644, data.clone())).with("b", Item::text("b"));
    let b = Tree::default().with("y/a", Item::file(0o600, data)).with("x", Item::text("b"));
    let (va, vb) = (world.publish(&a), world.publish(&b));
    world.sync(dir.path(), va).expect("syncs");
    let report = world.sync(dir.path(), vb).expect("syncs");
    assert_eq!((report.fetched, report.staged.bytes_written), (0, 0));
    assert_eq!(on_disk(dir.path()), b);
    // One that changed since it was looked at is not moved.
    let error = world
        .sync_meddling(dir.path(), va, |dir| fs::write(dir.join("y/a"), "mine").expect("written"))
        .expect_err("it changed");
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert_eq!(read(dir.path(), "y/a"), "mine");
}

#[test]
fn what_appears_while_it_runs_is_not_overwritten() {
    let (mut world, dir) = (World::default(), tempdir());
    let a = Tree::default().with("a", Item::text("a"));
    let (va, vb) = (world.publish(&a), world.publish(&a.clone().with("b", Item::text("b"))));
    world.sync(dir.path(), va).expect("syncs");
    let error = world
        .sync_meddling(dir.path(), vb, |dir| fs::write(dir.join("b"), "mine").expect("written"))
        .expect_err("it appeared");
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    assert_eq!(read(dir.path(), "b"), "mine");
}

#[test]
fn damaged_state_is_told_and_mended() {
    let tree = random_tree(21).with("big", Item::file(0o644, World::noise(5, 2 << 20)));
    for file in ["state", "nodes", "stats", "journal"] {
        for spoil in 0..4 {
            let (mut world, dir) = (World::default(), tempdir());
            let other = world.publish(&tree.clone().with("new", Item::text("new")));
            let version = world.publish(&tree);
            world.sync(dir.path(), version).expect("syncs");
            let path = dir.path().join(".floe").join(file);
            let mut bytes = fs::read(&path).unwrap_or_else(|_| b"FLOE and nonsense".to_vec());
            let middle = bytes.len() / 2;
            match spoil {
                0 => bytes.clear(),
                1 => bytes[middle] ^= 1,
                2 => bytes.truncate(middle),
                _ => bytes = vec![0xff; 300],
            }
            fs::write(&path, bytes).expect("written");
            let notices = Notices::default();
            let replica = Replica::open(dir.path(), &ReplicaOptions::default(), &notices).expect("opens");
            survey(&replica, true);
            drop(replica);
            assert!(file == "nodes" || file == "stats" || notices.ignored() > 0, "{file} {spoil}");
            let report = world.sync(dir.path(), version).unwrap_or_else(|e| panic!("{file} {spoil}: {e:?}"));
            assert_eq!(report.fetched, 0, "{file} {spoil}");
            assert_eq!(on_disk(dir.path()), tree);
            world.sync(dir.path(), other).expect("syncs");
            assert_eq!(open(dir.path()).expect("opens").version(), Some(other));
        }
    }
}

#[test]
fn a_format_from_the_future_is_refused_and_left_alone() {
    let (mut world, dir) = (World::default(), tempdir());
    let version = world.publish(&random_tree(2));
    world.sync(dir.path(), version).expect("syncs");
    let before = on_disk(dir.path());
    fs::write(dir.path().join(".floe/FORMAT"), "floe replica 9\n").expect("written");
    for result in [open(dir.path()).map(drop), Replica::peek(dir.path()).map(drop)] {
        assert!(matches!(result, Err(Error::TooNew { found: 9, supported: 1, .. })));
    }
    assert_eq!(on_disk(dir.path()), before);
}

#[test]
fn peeking_touches_nothing() {
    let dir = tempdir();
    let none = dir.path().join("none");
    let replica = Replica::peek(&none).expect("nothing is there");
    assert_eq!((replica.version(), survey(&replica, false).drift.len()), (None, 0));
    assert!(!none.exists());
    fs::write(dir.path().join("x"), "x").expect("written");
    let replica = Replica::peek(dir.path()).expect("no replica yet");
    assert_eq!(survey(&replica, false).drift.len(), 1);
    assert!(!dir.path().join(".floe").exists());
}

#[test]
fn read_only_directories_change_and_stay_read_only() {
    let (mut world, dir) = (World::default(), tempdir());
    let a = Tree::default()
        .with("r", Item::Dir(0o555))
        .with("r/s", Item::Dir(0o500))
        .with("r/s/x", Item::file(0o444, b"x".to_vec()))
        .with("r/y", Item::text("y"));
    let b = a.clone().with("r/s/x", Item::file(0o400, b"xx".to_vec())).with("r/t/z", Item::text("z"));
    let c = Tree::default().with("r", Item::text("file"));
    for tree in [&a, &b, &a, &c, &b, &c] {
        let version = world.publish(tree);
        world.sync(dir.path(), version).expect("syncs");
        assert_eq!(on_disk(dir.path()), *tree);
    }
    // A replica that cannot be entered could not be removed either.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).expect("set");
}

fn copy_tree(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
    assert!(status.expect("cp runs").success());
}
