//! Stopped at the k-th operation on durable state, as by a loss of power, for every k (far ones in strides).

use floe::sync::plan;
use floe::tree::{Replica, ReplicaOptions};

use super::*;

// The first so many one by one, then every seventh, which meets every kind of operation in turn.
fn next(at: u64) -> u64 {
    if at < 120 { at + 1 } else { at + 7 }
}

fn small_pair() -> (Tree, Tree) {
    let a = Tree::default()
        .with("a", Item::text("one"))
        .with("dir/moves", Item::file(0o644, World::noise(1, 40_000)))
        .with("link", Item::Symlink("a".into()))
        .with("swaps/file", Item::text("two"))
        .with("gone", Item::Dir(0o700));
    let b = Tree::default()
        .with("a", Item::text("another"))
        .with("here/moved", Item::file(0o755, World::noise(1, 40_000)))
        .with("link/file", Item::text("three"))
        .with("new", Item::file(0o600, World::noise(2, 300_000)))
        .with("swaps", Item::Symlink("new".into()));
    (a, b)
}

#[test]
fn a_sync_stopped_anywhere_leaves_old_or_new_and_the_next_completes() {
    let (old, new) = pair();
    let (small_old, small_new) = small_pair();
    for (old, new) in [(old.clone(), new), (Tree::default(), old), (small_old, small_new)] {
        stop_syncs(&old, &new);
    }
}

fn stop_syncs(old: &Tree, new: &Tree) {
    let store = MemStore::default();
    let versions = [published(&store, old, "game@old"), published(&store, new, "game@new")];
    let outer = quick_tempdir();
    let start = outer.path().join("start");
    sync(&store, "game@old", &start);
    fs::write(start.join("mine"), "not floe's").expect("written");
    let trees = [old, new].map(|tree| tree.clone().with("mine", Item::text("not floe's")));
    fs::write(outer.path().join("outside"), "outside").expect("written");

    let (mut seen, mut at) = ([0, 0], 0);
    loop {
        let dir = outer.path().join("replica");
        wipe(&dir);
        copy_tree(&start, &dir);
        let (faults, count) = failing_at(at);
        let options = SyncOptions { faults, ..syncing() };
        let result = floe::sync::sync(&store, &named("game@new"), &dir, &options, &Silent);
        if count.load(Ordering::SeqCst) <= at {
            assert_eq!(result.expect("nothing stopped it").version, versions[1]);
            break;
        }
        // To look is always allowed, and says so if there is something to finish.
        let planned = match plan(&store, &named("game@new"), &dir, &syncing(), &Silent) {
            Ok(planned) => Some(planned),
            Err(Error::Conflict { .. }) => None,
            Err(other) => panic!("stopped at {at}: {other:?}"),
        };
        let replica = Replica::open(&dir, &ReplicaOptions::default(), &Silent).expect("opens");
        let now =
            versions.iter().position(|version| replica.version() == Some(*version)).expect("one of both");
        drop(replica);
        seen[now] += 1;
        assert_replica_with(&dir, &trees[now], at);
        let (text, tree) = [("game@old", &trees[0]), ("game@new", &trees[1])][at as usize % 2];
        let done = try_sync(&store, text, &dir).unwrap_or_else(|error| panic!("stopped at {at}: {error:?}"));
        assert_eq!(done.files_foreign, 1);
        // What was staged before the stop is here: the plan said so.
        if let Some(planned) = planned.filter(|planned| planned.version == done.version) {
            let said = (planned.chunks_missing, planned.bytes_fetched, planned.bytes_written);
            let did = (done.chunks_fetched, done.bytes_fetched, done.bytes_written);
            assert_eq!(said, did, "stopped at {at}");
        }
        assert_replica_with(&dir, tree, at);
        at = next(at);
    }
    assert!(seen.iter().all(|times| *times > 3), "{seen:?}");
    assert_eq!(fs::read(outer.path().join("outside")).expect("still there"), b"outside");
    assert_eq!(fs::read_dir(outer.path()).expect("listed").count(), 3);
}

// A copy or a restored backup has other inodes and times; what is in the files tells whose they are.
#[test]
fn a_copy_of_a_stopped_replica_is_finished() {
    let (small_old, small_new) = small_pair();
    for (old, new) in [pair(), (small_old, small_new)] {
        let store = MemStore::default();
        let version = [published(&store, &old, "game@old"), published(&store, &new, "game@new")][1];
        let outer = quick_tempdir();
        let [start, stopped, copy] = ["start", "stopped", "copy"].map(|name| outer.path().join(name));
        sync(&store, "game@old", &start);
        let (mut at, mut journals) = (0, 0);
        loop {
            wipe(&stopped);
            copy_tree(&start, &stopped);
            let (faults, count) = failing_at(at);
            let options = SyncOptions { faults, ..syncing() };
            let _ = floe::sync::sync(&store, &named("game@new"), &stopped, &options, &Silent);
            if count.load(Ordering::SeqCst) <= at {
                break;
            }
            if stopped.join(".floe/journal").exists() {
                journals += 1;
                wipe(&copy);
                copy_tree(&stopped, &copy);
                let done = try_sync(&store, "game@new", &copy);
                let done = done.unwrap_or_else(|error| panic!("stopped at {at}: {error:?}"));
                assert_eq!((done.version, done.files_foreign), (version, 0), "stopped at {at}");
                assert_replica(&copy, &new);
            }
            at = next(at);
        }
        assert!(journals > 3);
    }
}

#[test]
fn what_is_foreign_in_a_stopped_switch_is_counted_and_follows_the_usual_rules() {
    let many = |text: &str| {
        (0..5)
            .fold(Tree::default(), |tree, n| tree.with(&format!("f{n}"), Item::text(&format!("{text} {n}"))))
    };
    let (old, new) = (many("old"), many("new"));
    let overwrite = SyncOptions { overwrite: true, ..syncing() };
    let delete = SyncOptions { delete: true, ..syncing() };
    for asked in [overwrite, delete] {
        let store = MemStore::default();
        published(&store, &old, "game@old");
        published(&store, &new, "game@new");
        let outer = quick_tempdir();
        let dir = outer.path().join("replica");
        sync(&store, "game@old", &dir);
        let faults = Faults::new(|action, _| match action {
            "put in place" => Err(std::io::Error::other("power")),
            _ => Ok(()),
        });
        let options = SyncOptions { faults, ..syncing() };
        floe::sync::sync(&store, &named("game@new"), &dir, &options, &Silent).expect_err("stopped");
        for n in 1..4 {
            fs::write(dir.join(format!("f{n}")), "the user's own").expect("written");
        }
        let before = on_disk(&dir);
        let error = try_sync(&store, "game@new", &dir).expect_err("in the way");
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        assert!(error.to_string().contains("`f1` and 2 more"), "{error}");
        assert_eq!(on_disk(&dir), before, "nothing was done yet");
        floe::sync::sync(&store, &named("game@new"), &dir, &asked, &Silent).expect("syncs");
        assert_replica(&dir, &new);
    }
}

fn assert_replica_with(dir: &Path, tree: &Tree, at: u64) {
    assert_eq!(on_disk(dir), *tree, "stopped at {at}");
    let found = floe::sync::verify_replica(dir, &verifying(), &Silent).expect("verifies");
    assert_eq!((found.damage, found.files_foreign), (vec![], 1), "stopped at {at}");
}

#[cfg(feature = "rocks")]
mod rocks {
    use floe::store::RocksStore;
    use floe::sync::{Keep, PruneOptions, prune};

    use super::*;

    struct Bench {
        dirs: [TempDir; 3],
        versions: [VersionId; 3],
    }

    impl Bench {
        fn new() -> Bench {
            let (a, b) = small_pair();
            let c = b
                .clone()
                .with("a", Item::text("one"))
                .with("big", Item::file(0o644, World::noise(7, 700_000)));
            let memory = MemStore::default();
            let dirs = [a, b, c].map(|tree| {
                let dir = quick_tempdir();
                tree.write_over(dir.path());
                dir
            });
            let versions = [0, 1, 2].map(|n| publish(&memory, dirs[n].path(), &label(n)).version);
            Bench { dirs, versions }
        }

        // Publishes two, prunes the first, publishes the third. Returns how many of the four steps were done.
        fn run(&self, store: &RocksStore, prints: &Path, faults: &Faults) -> (usize, Result<()>) {
            let options = PublishOptions {
                fingerprints: Some(prints.to_owned()),
                faults: faults.clone(),
                ..publishing()
            };
            let publish = |n: usize| {
                floe::sync::publish(self.dirs[n].path(), store, &name(&label(n)), &options, &Silent)
                    .map(|done| assert_eq!(done.version, self.versions[n]))
            };
            let keep = Keep { last: Some(1), ..Keep::default() };
            let pruning = PruneOptions { keep, grace: Duration::ZERO, dry_run: false, now_unix_s: 2_000 };
            let steps: [&dyn Fn() -> Result<()>; 4] =
                [&|| publish(0), &|| publish(1), &|| prune(store, &pruning, &Silent).map(drop), &|| {
                    publish(2)
                }];
            for (done, step) in steps.iter().enumerate() {
                if let Err(error) = step() {
                    return (done, Err(error));
                }
            }
            (4, Ok(()))
        }
    }

    fn label(n: usize) -> String {
        format!("game@{n}")
    }

    // Which of the three names are bound. Each is whole.
    fn bound(bench: &Bench, store: &RocksStore) -> [bool; 3] {
        for record in store.names(None).expect("names") {
            let n = (0..3).find(|n| name(&label(*n)) == record.name).expect("one of ours");
            assert_eq!(record.version, bench.versions[n]);
        }
        assert_sound(store);
        [0, 1, 2].map(|n| store.resolve(&name(&label(n))).expect("resolves").is_some())
    }

    #[test]
    fn publish_and_prune_stopped_anywhere_lose_nothing_that_was_bound() {
        let bench = Bench::new();
        let mut at = 0;
        loop {
            let outer = quick_tempdir();
            let (home, prints) = (outer.path().join("store"), outer.path().join("prints"));
            let (faults, count) = failing_at(at);
            let done = match super::super::rocks(&home, faults.clone()) {
                Ok(store) => bench.run(&store, &prints, &faults).0,
                Err(_) => 0,
            };
            let stopped = count.load(Ordering::SeqCst) > at;
            assert!(stopped || done == 4);
            let store = super::super::rocks(&home, Faults::default())
                .unwrap_or_else(|error| panic!("stopped at {at}: {error:?}"));
            let [first, second, third] = bound(&bench, &store);
            match done {
                0 => assert!(!second && !third, "stopped at {at}"),
                1 => assert!(first && !third, "stopped at {at}"),
                2 => assert!(second && !third, "stopped at {at}"),
                3 => assert!(!first && second, "stopped at {at}"),
                _ => assert!(!first && second && third, "stopped at {at}"),
            }
            if !stopped {
                break;
            }
            let (_, again) = bench.run(&store, &prints, &Faults::default());
            again.unwrap_or_else(|error| panic!("again after {at}: {error:?}"));
            let _ = bound(&bench, &store);
            let dir = outer.path().join("replica");
            sync(&store, "game@2", &dir);
            assert_eq!(on_disk(&dir), on_disk(bench.dirs[2].path()), "stopped at {at}");
            at = next(at);
        }
        eprintln!("stopped at up to {at}");
    }
}
