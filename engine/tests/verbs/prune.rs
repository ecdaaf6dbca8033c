//! What is not needed goes, in two steps; what is needed never does.

use floe::content::Frame;
use floe::store::NewChunk;
use floe::sync::{Keep, PruneOptions, Pruned, prune};
use floe::testing::conformance::nodes_in;

use super::*;

const GRACE: Duration = Duration::from_secs(100);

fn options(last: u64, now_unix_s: u64) -> PruneOptions {
    let keep = Keep { last: Some(last), ..Keep::default() };
    PruneOptions { keep, grace: GRACE, dry_run: false, now_unix_s }
}

fn run(store: &dyn Store, options: &PruneOptions) -> Pruned {
    prune(store, options, &Silent).expect("prunes")
}

fn counts(store: &dyn Store) -> (u64, u64, usize) {
    let mut chunks = 0;
    store
        .each_chunk(&mut |_| {
            chunks += 1;
            Ok(())
        })
        .expect("listed");
    let nodes = nodes_in(store).expect("listed").len() as u64;
    (chunks, nodes, store.names(None).expect("names").len())
}

// Two versions that share a file; each has one of its own.
fn scene(store: &dyn Store) -> [Tree; 2] {
    let shared = || Item::file(0o644, World::noise(1, 500_000));
    let trees = [11, 12].map(|seed| {
        let own = Item::file(0o644, World::noise(seed, 3_000_000));
        Tree::default().with("shared", shared()).with("own", own).with("list/tree", Item::text("same"))
    });
    published(store, &trees[0], "game@1");
    published(store, &trees[1], "game@2");
    trees
}

#[test]
fn first_condemned_then_removed() {
    in_each_store(|store| {
        let trees = scene(store);
        let before = counts(store);
        let bytes = store.stored_bytes().expect("counted");

        let dry = run(store, &PruneOptions { dry_run: true, ..options(1, 1_000) });
        assert_eq!(counts(store), before);
        let first = run(store, &options(1, 1_000));
        assert_eq!(first, dry);
        assert_eq!((first.names_kept, &first.names_removed[..]), (1, &[name("game@1")][..]));
        assert!(first.swept.chunks_condemned > 10 && first.swept.bytes_condemned > 2_900_000);
        assert_eq!((first.swept.chunks_removed, first.swept.nodes_removed), (0, 0));
        let condemned = counts(store);
        assert_eq!((condemned.0, condemned.1, condemned.2), (before.0, before.1, 1));

        let early = run(store, &options(1, 1_099));
        assert_eq!((early.swept.chunks_removed, early.names_removed), (0, vec![]));
        assert_eq!(early.swept.chunks_condemned, first.swept.chunks_condemned);

        let dry = run(store, &PruneOptions { dry_run: true, ..options(1, 1_100) });
        assert_eq!(counts(store), condemned);
        let last = run(store, &options(1, 1_100));
        assert_eq!(last, dry);
        assert_eq!(last.swept.chunks_removed, first.swept.chunks_condemned);
        assert_eq!(last.swept.bytes_removed, first.swept.bytes_condemned);
        assert!(last.swept.nodes_removed >= 2);
        assert_eq!(counts(store).0, before.0 - last.swept.chunks_removed);
        assert!(store.stored_bytes().expect("counted") < bytes - 2_500_000);
        assert_sound(store);
        let dir = quick_tempdir();
        sync(store, "game@2", dir.path());
        assert_replica(dir.path(), &trees[1]);
        assert!(matches!(try_sync(store, "game@1", dir.path()), Err(Error::NotFound { .. })));
    });
}

#[test]
fn what_a_publisher_uses_again_in_time_stays() {
    in_each_store(|store| {
        let trees = scene(store);
        let first = run(store, &options(1, 1_000));
        let source = quick_tempdir();
        trees[0].write_over(source.path());
        let again = publish(store, source.path(), "game@3");
        assert_eq!((again.chunks_new, again.nodes_new), (0, 0));
        let keep = Keep { last: Some(2), ..Keep::default() };
        let second = run(store, &PruneOptions { keep, ..options(1, 5_000) });
        assert_eq!((second.swept.chunks_removed, second.swept.nodes_removed), (0, 0));
        assert!(first.swept.chunks_condemned > 0 && second.swept.chunks_condemned == 0);
        assert_sound(store);
        let dir = quick_tempdir();
        sync(store, "game@3", dir.path());
        assert_replica(dir.path(), &trees[0]);
    });
}

/// Prunes in the middle of a publish, when the publisher has found its chunks there already.
struct Pruner<'a> {
    store: &'a dyn Store,
    at: u64,
    calls: AtomicU64,
}

impl Progress for Pruner<'_> {
    fn advance(&self, _: u64) {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            run(self.store, &options(1, 5_000));
        }
    }
}

#[test]
fn a_prune_beside_a_publisher_takes_nothing_from_it() {
    for at in 0.. {
        let reached = AtomicU64::new(0);
        in_each_store(|store| {
            let trees = scene(store);
            // Condemned long ago: a second prune would remove it.
            run(store, &options(1, 1_000));
            let source = quick_tempdir();
            trees[0].write_over(source.path());
            let pruner = Pruner { store, at, calls: AtomicU64::new(0) };
            let done = floe::sync::publish(source.path(), store, &name("game@3"), &publishing(), &pruner);
            done.expect("publishes");
            assert_sound(store);
            let dir = quick_tempdir();
            sync(store, "game@3", dir.path());
            assert_replica(dir.path(), &trees[0]);
            reached.fetch_max(pruner.calls.load(Ordering::SeqCst), Ordering::SeqCst);
        });
        if reached.into_inner() <= at {
            assert!(at > 2);
            break;
        }
    }
}

#[test]
fn the_rules_say_what_stays() {
    in_each_store(|store| {
        let tree = |text: &str| Tree::default().with("file", Item::text(text));
        for text in ["a@1", "b@1", "a@2", "a@3", "b@2"] {
            published(store, &tree(text), text);
        }
        let none = PruneOptions { keep: Keep::default(), ..options(0, 1) };
        assert!(matches!(prune(store, &none, &Silent), Err(Error::Usage { .. })));
        let unknown = Keep { names: vec![name("a@9")], ..Keep::default() };
        let unknown = PruneOptions { keep: unknown, ..none.clone() };
        assert!(matches!(prune(store, &unknown, &Silent), Err(Error::NotFound { .. })));
        assert_eq!(counts(store), (5, 10, 5));

        let keep = Keep { last: Some(1), names: vec![name("a@1")], ..Keep::default() };
        let done = run(store, &PruneOptions { keep, grace: Duration::ZERO, ..none.clone() });
        assert_eq!(done.names_removed, [name("b@1"), name("a@2")]);
        assert_eq!((done.swept.chunks_live, done.swept.chunks_removed, done.swept.nodes_removed), (3, 2, 4));
        let app = floe::store::AppName::parse("b").ok();
        let lost = Keep { names: vec![name("a@1")], app: app.clone(), ..Keep::default() };
        let lost = PruneOptions { keep: lost, ..none.clone() };
        assert!(matches!(prune(store, &lost, &Silent), Err(Error::Usage { .. })));
        let keep = Keep { none: true, app, ..Keep::default() };
        let done = run(store, &PruneOptions { keep, grace: Duration::ZERO, ..none });
        assert_eq!((done.names_kept, &done.names_removed[..]), (2, &[name("b@2")][..]));
        assert_sound(store);
        assert_eq!(counts(store), (2, 4, 2));
    });
}

#[test]
fn a_damaged_version_that_stays_stops_it() {
    in_each_store(|store| {
        let trees = scene(store);
        let root = floe::sync::resolve(store, &named("game@2")).expect("bound").root();
        let mut bytes = Vec::new();
        store
            .read_nodes(&[root], &mut |_, found| {
                bytes = found.expect("there");
                Ok(())
            })
            .expect("read");
        store.replace_nodes(vec![(root, bytes[..8].to_vec())]).expect("replaced");
        let before = counts(store);
        let error = prune(store, &PruneOptions { grace: Duration::ZERO, ..options(1, 1_000) }, &Silent);
        let error = error.expect_err("damaged");
        assert!(error.to_string().contains(&root.to_string()), "{error}");
        assert_eq!(counts(store), before);
        // The damaged one may go.
        let keep = Keep { names: vec![name("game@1")], ..Keep::default() };
        run(store, &PruneOptions { keep, grace: Duration::ZERO, ..options(1, 1_000) });
        assert_sound(store);
        let dir = quick_tempdir();
        sync(store, "game@1", dir.path());
        assert_replica(dir.path(), &trees[0]);
    });
}

// A publish whose table of fingerprints is of a version that was pruned since reads everything again.
#[test]
fn fingerprints_of_a_pruned_version_prove_nothing() {
    in_each_store(|store| {
        let trees = scene(store);
        let (source, prints) = (tempdir(), tempdir());
        trees[0].write_over(source.path());
        settle(source.path());
        let publishing = PublishOptions { fingerprints: Some(prints.path().to_owned()), ..publishing() };
        let publish = |text: &str| {
            floe::sync::publish(source.path(), store, &name(text), &publishing, &Silent).expect("publishes")
        };
        publish("game@3");
        assert_eq!(publish("game@3").files_read, 0);
        let keep = Keep { names: vec![name("game@2")], ..Keep::default() };
        run(store, &PruneOptions { keep, grace: Duration::ZERO, ..options(1, 1_000) });
        let again = publish("game@4");
        assert_eq!(again.files_read, 3);
        assert!(again.chunks_new > 10);
        assert_sound(store);
    });
}

#[cfg(feature = "rocks")]
#[test]
fn the_directory_of_a_store_shrinks() {
    fn on_disk_bytes(dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("listed"));
        let len = |entry: fs::DirEntry| match entry.metadata().expect("there") {
            meta if meta.is_dir() => on_disk_bytes(&entry.path()),
            meta => meta.len(),
        };
        entries.map(len).sum()
    }
    let outer = tempdir();
    let home = outer.path().join("store");
    let kept = Tree::default().with("kept", Item::file(0o644, World::noise(1, 1_000_000)));
    {
        let store = rocks(&home, Faults::default()).expect("opens");
        for n in 10..14 {
            let tree = kept.clone().with("own", Item::file(0o644, World::noise(n, 8 << 20)));
            published(&store, &tree, &format!("game@{n}"));
        }
        published(&store, &kept, "game@kept");
    }
    let before = on_disk_bytes(&home);
    let store = rocks(&home, Faults::default()).expect("opens");
    let done = run(&store, &PruneOptions { grace: Duration::ZERO, ..options(1, 1_000) });
    assert!(done.swept.bytes_removed > 32 << 20);
    drop(store);
    let after = on_disk_bytes(&home);
    assert!(before > 33 << 20 && after < 4 << 20, "{before} {after}");
    let store = rocks(&home, Faults::default()).expect("opens");
    assert_sound(&store);
    let dir = quick_tempdir();
    sync(&store, "game@kept", dir.path());
    assert_replica(dir.path(), &kept);
}

// Damaged content is not the prune's business: it is carried along or goes.
#[test]
fn a_damaged_chunk_does_not_stop_it() {
    in_each_store(|store| {
        scene(store);
        let mut victims = Vec::new();
        store
            .each_chunk(&mut |chunk| {
                victims.push(chunk);
                Ok(())
            })
            .expect("listed");
        let frame = Frame::encode(b"something else", Compression::None);
        let damaged = victims.iter().map(|chunk| NewChunk { chunk: *chunk, frame: frame.clone() });
        store.replace_chunks(&damaged.collect::<Vec<_>>()).expect("replaced");
        let done = run(store, &PruneOptions { grace: Duration::ZERO, ..options(1, 1_000) });
        assert!(done.swept.chunks_removed > 10);
        assert_eq!(verify(store).damage.len() as u64, counts(store).0);
    });
}
