//! Nothing is lost on the way, what is foretold comes true, and nothing is done twice.

use floe::sync::{Planned, SyncOptions, diff, plan};
use floe::tree::{Replica, ReplicaOptions};
use floe::version::{EntryKind, Step};
use proptest::prelude::*;

use super::*;

fn foretell(store: &dyn Store, text: &str, dir: &Path) -> Planned {
    plan(store, &named(text), dir, &syncing(), &Silent).expect("plans")
}

fn assert_came_true(planned: &Planned, synced: &Synced) {
    let totals = planned.plan.totals();
    assert_eq!(synced.version, planned.version);
    assert_eq!(synced.from, planned.from);
    assert_eq!(synced.bytes_fetched, planned.bytes_fetched, "bytes_fetched");
    assert_eq!(synced.chunks_fetched, planned.chunks_missing, "chunks");
    assert_eq!(synced.requests, planned.requests, "requests");
    assert_eq!(synced.bytes_reused, planned.bytes_reused, "bytes_reused");
    assert_eq!(synced.files_changed, totals.files_changed);
    assert_eq!(synced.files_moved, totals.files_moved);
    assert_eq!(synced.files_removed, totals.files_removed);
    // A file system that shares blocks has no copies to write.
    let copied = planned.plan.steps.iter().map(|step| match step {
        Step::Copy { want, .. } => match want.kind {
            EntryKind::File { len, .. } => len,
            _ => 0,
        },
        _ => 0,
    });
    let least = planned.bytes_written - copied.sum::<u64>();
    assert!([least, planned.bytes_written].contains(&synced.bytes_written), "{planned:?} {synced:?}");
}

// The way of a replica that nobody touched.
fn assert_next_sync_reads_nothing(store: &dyn Store, text: &str, dir: &Path) {
    let replica = Replica::open(dir, &ReplicaOptions::default(), &Silent).expect("opens");
    let survey = world::survey(&replica, false);
    drop(replica);
    assert_eq!((survey.files_read, survey.drift), (0, Vec::new()));
    let before = photograph(dir);
    let again = sync(store, text, dir);
    assert!(again.unchanged);
    let root = foretell(store, text, dir).bytes_fetched;
    assert!(root < 256, "only the root node");
    assert_eq!((again.bytes_fetched, again.chunks_fetched, again.requests), (root, 0, 1));
    assert_eq!((again.bytes_written, again.bytes_reused), (0, 0));
    assert_eq!(photograph(dir), before);
}

fn there_and_back(store: &dyn Store, a: &Tree, b: &Tree) {
    let version = |tree: &Tree, text: &str| {
        let version = published(store, tree, text);
        // From elsewhere, as something else: the same version, and nothing new.
        let dir = quick_tempdir();
        tree.write_over(dir.path());
        let again = publish(store, dir.path(), &format!("copy-of-{text}"));
        assert_eq!(
            (again.version, again.chunks_new, again.nodes_new, again.bytes_stored),
            (version, 0, 0, 0)
        );
        version
    };
    let (va, vb) = (version(a, "game@a"), version(b, "game@b"));
    assert_eq!(va == vb, a == b);
    assert_sound(store);

    let (dir, other) = (quick_tempdir(), quick_tempdir());
    let (dir, other) = (&dir.path().join("here"), other.path());
    for (text, dir, tree) in
        [("game@a", dir.as_path(), a), ("game@b", dir, b), ("game@a", dir, a), ("game@b", other, b)]
    {
        let planned = foretell(store, text, dir);
        let clean_at_a = planned.from == Some(va) && text == "game@b";
        let synced = sync(store, text, dir);
        assert_came_true(&planned, &synced);
        assert_replica(dir, tree);
        if clean_at_a && va != vb {
            let update = diff(store, va, vb).expect("differs").bytes_update;
            assert_eq!(update, synced.bytes_fetched);
        }
        assert_next_sync_reads_nothing(store, text, dir);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_trees_there_and_back(a in any::<u64>(), b in any::<u64>()) {
        there_and_back(&MemStore::default(), &random_tree(a), &random_tree(b));
    }
}

#[test]
fn different_trees_there_and_back() {
    let (a, b) = pair();
    in_each_store(|store| there_and_back(store, &a, &b));
    in_each_store(|store| there_and_back(store, &b, &Tree::default()));
}

#[test]
fn many_chunks_and_many_nodes_there_and_back() {
    let mut a = Tree::default().with("one", Item::file(0o644, World::noise(9, 12 << 20)));
    for n in 0..700 {
        let path = format!("many/{:02}/file-with-a-rather-long-name-{n}", n % 37);
        a = a.with(&path, Item::text(&format!("content {}", n % 500)));
    }
    let mut middle = World::noise(9, 12 << 20);
    middle.splice(6 << 20..(6 << 20) + 10, *b"0123456789ab");
    let b = a.clone().with("one", Item::file(0o644, middle)).with("many/7", Item::text("seven"));
    in_each_store(|store| {
        there_and_back(store, &a, &b);
        let resolve = |text| floe::sync::resolve(store, &named(text)).expect("bound");
        let found = diff(store, resolve("game@a"), resolve("game@b")).expect("differs");
        assert!(found.delta.missing.len() <= 4, "{:?}", found.delta);
        assert_eq!((found.delta.files_changed, found.delta.files_added), (1, 1));
        // Questions follow the height of the tree.
        let synced = sync(store, "game@a", quick_tempdir().path());
        assert!(synced.chunks_fetched > 600 && synced.requests <= 8, "{synced:?}");
    });
}

// A file is cut as a whole, however publish takes it apart: around the length from which it comes in parts, with and
// without cuts in it.
#[test]
fn parts_change_no_cut() {
    let mut tree = Tree::default();
    for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) - 1, 2 << 20, 5_000_001] {
        let zeros = Item::file(0o644, vec![0; len]);
        tree = tree
            .with(&format!("noise-{len}"), Item::file(0o644, World::noise(len as u64, len)))
            .with(&format!("zeros-{len}"), zeros);
    }
    let whole = World::default().publish(&tree);
    in_each_store(|store| assert_eq!(published(store, &tree, "game@1"), whole));
}

#[test]
fn publishing_again_reads_nothing() {
    in_each_store(|store| {
        let (tree, _) = pair();
        let (dir, table) = (tempdir(), tempdir());
        tree.write_over(dir.path());
        settle(dir.path());
        let options = PublishOptions { fingerprints: Some(table.path().join("prints")), ..publishing() };
        let publish = |text, options: &_| {
            floe::sync::publish(dir.path(), store, &name(text), options, &Silent).expect("publishes")
        };
        let first = publish("game@1", &options);
        assert_eq!(first.files_read, first.files);
        let second = publish("game@2", &options);
        let counts = |p: &Published| (p.version, p.files, p.bytes, p.chunks);
        assert_eq!(counts(&second), counts(&first));
        assert_eq!((second.files_read, second.chunks_new, second.nodes_new), (0, 0, 0));

        let rehashed = publish("game@3", &PublishOptions { rehash: true, ..options.clone() });
        assert_eq!((rehashed.version, rehashed.files_read), (first.version, first.files));

        // One file changes: it alone is read.
        fs::write(dir.path().join("docs/same"), "another").expect("written");
        let changed = publish("game@4", &options);
        assert_eq!((changed.files_read, changed.chunks_new), (1, 1));
        assert_eq!(
            changed.version,
            published(store, &tree.clone().with("docs/same", Item::text("another")), "game@5")
        );

        // The fingerprints are of a version that another store need not have.
        let other = MemStore::default();
        let there = floe::sync::publish(dir.path(), &other, &name("game@1"), &options, &Silent);
        assert_eq!(there.expect("publishes").files_read, first.files);
        assert_sound(&other);
        assert_sound(store);
    });
}

#[test]
fn a_damaged_table_of_fingerprints_costs_time_only() {
    let store = MemStore::default();
    let (tree, _) = pair();
    let (dir, folder) = (tempdir(), tempdir());
    tree.write_over(dir.path());
    settle(dir.path());
    let options = PublishOptions { fingerprints: Some(folder.path().to_owned()), ..publishing() };
    let publish = |options: &_, progress: &dyn Progress| {
        floe::sync::publish(dir.path(), &store, &name("game@1"), options, progress).expect("publishes")
    };
    let first = publish(&options, &Silent);
    let table = fs::read_dir(folder.path()).expect("listed").next().expect("a table").expect("listed").path();
    let whole = fs::read(&table).expect("read");
    let cut = (0..whole.len()).step_by(37).map(|len| whole[..len].to_vec());
    let flipped = (0..whole.len()).step_by(41).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    for bytes in cut.chain(flipped) {
        fs::write(&table, bytes).expect("written");
        let notices = Notices::default();
        match floe::sync::publish(dir.path(), &store, &name("game@1"), &options, &notices) {
            Ok(again) => {
                assert_eq!((again.version, again.files_read), (first.version, first.files));
                assert_eq!(notices.ignored(), 1);
                assert_eq!(fs::read(&table).expect("read").len(), whole.len(), "made anew");
            }
            Err(Error::TooNew { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    // Nor does a disk that takes no table.
    fs::remove_file(&table).expect("removed");
    for at in 0..3 {
        let (faults, _) = failing_at(at);
        let notices = Notices::default();
        let again = publish(&PublishOptions { faults, ..options.clone() }, &notices);
        assert_eq!(again.version, first.version);
        assert_eq!(notices.ignored() == 0, table.exists());
    }
}

#[test]
fn what_is_asked_for_and_not_there_is_told_and_nothing_is_made() {
    in_each_store(|store| {
        let (outer, (tree, _)) = (tempdir(), pair());
        let version = published(store, &tree, "game@1");
        let dir = outer.path().join("replica");
        let nowhere = VersionId::of(b"nowhere");
        for target in [named("game@2"), Target::Version(nowhere)] {
            let error = floe::sync::sync(store, &target, &dir, &syncing(), &Silent).expect_err("not there");
            assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
            assert!(plan(store, &target, &dir, &syncing(), &Silent).is_err());
        }
        let bad_glob = SyncOptions { protect: vec!["{a".into()], ..syncing() };
        let error =
            floe::sync::sync(store, &named("game@1"), &dir, &bad_glob, &Silent).expect_err("bad glob");
        assert!(matches!(error, Error::Usage { .. }), "{error:?}");
        assert!(!dir.exists());
        let by_id = floe::sync::sync(store, &Target::Version(version), &dir, &syncing(), &Silent);
        assert_eq!(by_id.expect("syncs").version, version);
        assert_replica(&dir, &tree);

        // A name is for good.
        let error = floe::sync::publish(&dir, store, &name("game@1"), &publishing(), &Silent);
        assert_eq!(error.expect("the same again").version, version);
        fs::write(dir.join("new"), "new").expect("written");
        let error = floe::sync::publish(&dir, store, &name("game@1"), &publishing(), &Silent);
        assert!(matches!(error, Err(Error::Conflict { .. })), "{error:?}");
    });
}
