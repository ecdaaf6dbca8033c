//! Files that change under the reader, and callers that lose patience.

use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicBool;

use floe::Phase;
use floe::sync::{Keep, PruneOptions, prune, verify_store};

use super::*;

/// Does something once, at the call with number `at`.
struct Meddler<'a> {
    at: u64,
    calls: AtomicU64,
    act: &'a (dyn Fn() + Sync),
}

impl Meddler<'_> {
    fn count(&self) {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at {
            (self.act)();
        }
    }

    fn acted(&self) -> bool {
        self.calls.load(Ordering::SeqCst) > self.at
    }
}

impl Progress for Meddler<'_> {
    fn phase(&self, _: Phase, _: Option<u64>) {
        self.count();
    }
    fn advance(&self, _: u64) {
        self.count();
    }
}

// At once, so that no walk sees a state in between.
fn replace(path: &Path, make: impl Fn(&Path)) {
    let elsewhere = quick_tempdir();
    let fresh = elsewhere.path().join("fresh");
    make(&fresh);
    fs::rename(fresh, path).expect("renamed");
}

/// What can happen to a file while it is read.
type Change = (&'static str, fn(&Path));

const CHANGES: [Change; 7] = [
    ("shrinks", |path| fs::File::options().write(true).open(path).expect("opens").set_len(10).expect("cut")),
    ("becomes empty", |path| drop(fs::File::create(path).expect("emptied"))),
    ("grows", |path| {
        use std::io::Write;
        let mut file = fs::File::options().append(true).open(path).expect("opens");
        file.write_all(&[7; 100_000]).expect("written");
    }),
    ("is replaced", |path| {
        let len = fs::metadata(path).expect("there").len();
        replace(path, |fresh| fs::write(fresh, World::noise(77, len as usize)).expect("written"));
    }),
    ("vanishes", |path| fs::remove_file(path).expect("removed")),
    ("becomes a symlink", |path| replace(path, |fresh| symlink("/etc/hostname", fresh).expect("made"))),
    ("is under a symlink", |path| {
        let dir = path.parent().expect("a directory");
        fs::rename(dir, dir.with_extension("away")).expect("renamed");
        symlink("d.away", dir).expect("made");
    }),
];

#[test]
fn a_file_that_changes_while_it_is_published_is_named_or_whole() {
    // One that is read whole among others, and one that is read in parts.
    for (victim, len) in [("d/m", 50_000), ("d/large", 9 << 20)] {
        let tree = Tree::default()
            .with("a", Item::text("a"))
            .with("e/n", Item::file(0o644, World::noise(5, 50_000)))
            .with("z/file", Item::file(0o644, World::noise(6, 300_000)))
            .with(victim, Item::file(0o644, World::noise(8, len)));
        CHANGES.iter().for_each(|change| meddle(&tree, victim, *change));
    }
}

fn meddle(tree: &Tree, victim: &str, (what, change): Change) {
    let fresh = || {
        let dir = quick_tempdir();
        tree.write_over(dir.path());
        dir
    };
    let before = fresh();
    let after = fresh();
    change(&after.path().join(victim));
    // What a walk finds that comes after what is gone, and before what is new.
    let [emptied, between] = [fresh(), fresh()];
    fs::remove_file(emptied.path().join(victim)).expect("removed");
    fs::remove_dir_all(between.path().join("d")).expect("removed");
    let versions = [&before, &after, &between, &emptied]
        .map(|dir| publish(&MemStore::default(), dir.path(), "game@1").version);

    let (mut told, mut at) = (0, 0);
    loop {
        let dir = fresh();
        let act = || change(&dir.path().join(victim));
        let meddler = Meddler { at, calls: AtomicU64::new(0), act: &act };
        let store = MemStore::default();
        let options = PublishOptions { in_flight_bytes_max: 1 << 20, ..publishing() };
        let result = floe::sync::publish(dir.path(), &store, &name("game@1"), &options, &meddler);
        if !meddler.acted() {
            assert_eq!(result.expect("nothing happened").version, versions[0]);
            break;
        }
        match result {
            Ok(done) => assert!(versions.contains(&done.version), "{victim} {what} at {at}"),
            Err(Error::Changed { path }) => {
                told += 1;
                let victim = dir.path().join(victim);
                assert!(path == victim || victim.parent() == Some(&path), "{path:?} {what} at {at}");
                assert!(store.names(None).expect("names").is_empty());
            }
            Err(other) => panic!("{victim} {what} at {at}: {other:?}"),
        }
        let again = publish(&store, dir.path(), "game@2");
        assert_eq!(again.version, versions[1], "{victim} {what} at {at}");
        assert_sound(&store);
        at += 1;
    }
    assert!(at > 3 && told > 0, "{victim} {what}: told {told} times of {at}");
}

/// Cancels at the question with number `at`.
struct Impatient {
    at: u64,
    asked: AtomicU64,
    told: AtomicBool,
}

impl Impatient {
    fn new(at: u64) -> Impatient {
        Impatient { at, asked: AtomicU64::new(0), told: AtomicBool::new(false) }
    }
}

impl Progress for Impatient {
    fn cancelled(&self) -> bool {
        let stop = self.asked.fetch_add(1, Ordering::SeqCst) >= self.at;
        self.told.fetch_or(stop, Ordering::SeqCst);
        stop
    }
}

// Calls `verb` with a caller that loses patience ever later; `after` sees what is left each time.
fn cancel_everywhere(verb: &dyn Fn(&dyn Progress) -> Result<()>, after: &dyn Fn(u64)) {
    for at in 0.. {
        let progress = Impatient::new(at);
        let result = verb(&progress);
        if !progress.told.load(Ordering::SeqCst) {
            result.expect("nobody stopped it");
            assert!(at > 3, "it asks too seldom");
            return;
        }
        assert!(matches!(result, Err(Error::Cancelled)), "at {at}: {result:?}");
        after(at);
    }
}

#[test]
fn a_publish_cancelled_anywhere_binds_nothing_and_continues() {
    let (tree, _) = pair();
    let dir = quick_tempdir();
    tree.write_over(dir.path());
    let version = published(&MemStore::default(), &tree, "game@1");
    let store = Mutex::new(MemStore::default());
    let verb = |progress: &dyn Progress| {
        *store.lock().expect("not poisoned") = MemStore::default();
        let store = store.lock().expect("not poisoned");
        floe::sync::publish(dir.path(), &*store, &name("game@1"), &publishing(), progress).map(drop)
    };
    cancel_everywhere(&verb, &|_| {
        let store = store.lock().expect("not poisoned");
        assert!(store.names(None).expect("names").is_empty());
        assert_eq!(publish(&*store, dir.path(), "game@1").version, version);
        assert_sound(&*store);
    });
}

#[test]
fn a_sync_cancelled_anywhere_leaves_the_old_version_and_continues() {
    let store = MemStore::default();
    let (old, new) = pair();
    published(&store, &old, "game@old");
    published(&store, &new, "game@new");
    let outer = quick_tempdir();
    let (start, dir) = (outer.path().join("start"), outer.path().join("dir"));
    sync(&store, "game@old", &start);
    let verb = |progress: &dyn Progress| {
        wipe(&dir);
        copy_tree(&start, &dir);
        floe::sync::sync(&store, &named("game@new"), &dir, &syncing(), progress).map(drop)
    };
    cancel_everywhere(&verb, &|_| {
        assert_replica(&dir, &old);
        sync(&store, "game@new", &dir);
        assert_replica(&dir, &new);
    });
}

#[test]
fn a_prune_or_verify_cancelled_anywhere_changes_nothing() {
    let (old, new) = pair();
    let store = MemStore::default();
    published(&store, &old, "game@old");
    published(&store, &new, "game@new");
    let keep = Keep { last: Some(1), ..Keep::default() };
    let options = PruneOptions { keep, grace: Duration::ZERO, dry_run: false, now_unix_s: 2_000 };
    let count = || (store.names(None).expect("names").len(), store.stored_bytes().expect("counted"));
    let before = count();
    let same = |_| assert_eq!(count(), before);
    cancel_everywhere(&|progress| verify_store(&store, &verifying(), progress).map(drop), &same);
    cancel_everywhere(&|progress| prune(&store, &options, progress).map(drop), &same);
    assert_sound(&store);
}
