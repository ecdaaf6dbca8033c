//! The verbs from outside, over every store: what they do, what they count, and what is left when they are stopped.

mod crash;
mod damage;
mod deltas;
mod foreign;
#[cfg(feature = "rocks")]
mod format;
mod hostile;
mod meddle;
mod mirror;
mod prune;
mod repair;
#[cfg(feature = "rocks")]
mod salvage;
mod seen;
mod stream;
mod transit;
mod whole;
#[path = "../world/mod.rs"]
mod world;

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use floe::content::Compression;
use floe::store::{MemStore, Name, Source, Store};
use floe::sync::{PublishOptions, Published, SyncOptions, Synced, Target, Verified, VerifyOptions};
use floe::{Error, Faults, Notice, Progress, Result, Silent, VersionId};
use world::{Item, Tree, World, on_disk, random_tree};

/// A directory that goes with all that is in it, closed directories too.
struct TempDir(tempfile::TempDir);

impl TempDir {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        open_up(self.path());
    }
}

fn tempdir() -> TempDir {
    TempDir(tempfile::tempdir().expect("a temporary directory"))
}

/// The same where nothing waits for a disk, for tests that start over hundreds of times.
fn quick_tempdir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").map_or_else(|_| tempdir(), TempDir)
}

fn open_up(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn wipe(dir: &Path) {
    if dir.exists() {
        open_up(dir);
        fs::remove_dir_all(dir).expect("removed");
    }
}

fn threads() -> NonZeroUsize {
    NonZeroUsize::new(3).expect("not zero")
}

fn publishing() -> PublishOptions {
    PublishOptions {
        compression: Compression::Zstd(1),
        exclude: Vec::new(),
        rehash: false,
        fingerprints: None,
        threads: threads(),
        in_flight_bytes_max: 16 << 20,
        now_unix_s: 1_000,
        faults: Faults::default(),
    }
}

fn syncing() -> SyncOptions {
    SyncOptions {
        delete: false,
        overwrite: false,
        protect: Vec::new(),
        rehash: false,
        deltas: None,
        threads: threads(),
        in_flight_bytes_max: 16 << 20,
        faults: Faults::default(),
    }
}

fn verifying() -> VerifyOptions {
    VerifyOptions {
        subset: 1.0,
        accept_loss: false,
        seed: 0,
        threads: threads(),
        in_flight_bytes_max: 16 << 20,
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).expect(text)
}

fn named(text: &str) -> Target {
    Target::Name(name(text))
}

fn publish(store: &dyn Store, dir: &Path, text: &str) -> Published {
    floe::sync::publish(dir, store, &name(text), &publishing(), &Silent).expect("publishes")
}

/// Writes `tree` somewhere and publishes it from there.
fn published(store: &dyn Store, tree: &Tree, text: &str) -> VersionId {
    let dir = quick_tempdir();
    tree.write_over(dir.path());
    publish(store, dir.path(), text).version
}

fn try_sync(source: &dyn Source, text: &str, dir: &Path) -> Result<Synced> {
    floe::sync::sync(source, &named(text), dir, &syncing(), &Silent)
}

fn sync(source: &dyn Source, text: &str, dir: &Path) -> Synced {
    try_sync(source, text, dir).expect("syncs")
}

fn verify(store: &dyn Store) -> Verified {
    floe::sync::verify_store(store, &verifying(), &Silent).expect("verifies")
}

fn assert_sound(store: &dyn Store) {
    assert_eq!(verify(store).damage, []);
}

fn assert_replica(dir: &Path, tree: &Tree) {
    assert_eq!(on_disk(dir), *tree);
    let found = floe::sync::verify_replica(dir, &verifying(), &Silent).expect("verifies");
    assert_eq!(found.damage, []);
}

/// Runs `test` over a store of every kind.
fn in_each_store(test: impl Fn(&dyn Store)) {
    test(&MemStore::default());
    #[cfg(feature = "rocks")]
    {
        let dir = quick_tempdir();
        test(&rocks(&dir.path().join("store"), Faults::default()).expect("a new store"));
    }
}

#[cfg(feature = "rocks")]
fn rocks(dir: &Path, faults: Faults) -> Result<floe::store::RocksStore> {
    floe::store::RocksStore::open(
        dir,
        &floe::store::RocksOptions { create: true, faults, ..Default::default() },
    )
}

/// Fails at the operation with number `at` and at every later one.
fn failing_at(at: u64) -> (Faults, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let faults = Faults::new(move |_, _| {
        if counted.fetch_add(1, Ordering::SeqCst) < at { Ok(()) } else { Err(std::io::Error::other("power")) }
    });
    (faults, count)
}

/// Waits until the clock is so far past the last change below `dir` that fingerprints prove something.
fn settle(dir: &Path) {
    fn newest(dir: &Path) -> i128 {
        let entries = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("listed"));
        let ages = entries.map(|entry| {
            let meta = entry.metadata().expect("there");
            let below = if meta.is_dir() { newest(&entry.path()) } else { 0 };
            below.max(i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()))
        });
        ages.max().unwrap_or(0)
    }
    let (newest, began) = (newest(dir), Instant::now());
    while SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i128)
        < newest + 25_000_000
    {
        assert!(began.elapsed() < Duration::from_secs(5), "the clock stands");
        std::thread::yield_now();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let (meta, to) = (entry.metadata().expect("there"), to.join(entry.file_name()));
        if meta.is_dir() {
            copy_tree(&entry.path(), &to);
            fs::set_permissions(&to, meta.permissions()).expect("set");
        } else if meta.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).expect("read"), &to).expect("made");
        } else {
            fs::copy(entry.path(), &to).expect("copied");
        }
    }
}

/// Every path below `dir` with what it is, `.floe` included: to show that nothing changed.
fn photograph(dir: &Path) -> Vec<(PathBuf, u32, u64, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("listed") {
            let entry = entry.expect("listed");
            let meta = entry.metadata().expect("there");
            let content = match () {
                () if meta.is_file() => fs::read(entry.path()).expect("read"),
                () if meta.is_symlink() => {
                    fs::read_link(entry.path()).expect("read").into_os_string().into_encoded_bytes()
                }
                () => Vec::new(),
            };
            if meta.is_dir() {
                todo.push(entry.path());
            }
            seen.push((entry.path(), meta.mode(), meta.ino(), content));
        }
    }
    seen.sort();
    seen
}

/// Remembers what is told.
#[derive(Default)]
struct Notices(Mutex<Vec<Notice>>);

impl Progress for Notices {
    fn notice(&self, notice: Notice) {
        self.0.lock().expect("not poisoned").push(notice);
    }
}

impl Notices {
    fn modified(&self) -> Vec<String> {
        let told = self.0.lock().expect("not poisoned");
        let path = |notice: &Notice| match notice {
            Notice::LocallyModified { path } => Some(path.clone()),
            _ => None,
        };
        told.iter().filter_map(path).collect()
    }

    fn ignored(&self) -> usize {
        let told = self.0.lock().expect("not poisoned");
        told.iter().filter(|notice| matches!(notice, Notice::StateIgnored { .. })).count()
    }
}

/// Two versions that differ in every way, and share much.
fn pair() -> (Tree, Tree) {
    let big = |seed| World::noise(seed, 900_000);
    let a = Tree::default()
        .with("big", Item::file(0o644, [big(1), big(2)].concat()))
        .with("docs/moved", Item::file(0o644, big(3)))
        .with("docs/same", Item::text("same"))
        .with("empty", Item::file(0o600, Vec::new()))
        .with("bin/tool", Item::file(0o644, b"#!/bin/sh\n".to_vec()))
        .with("gone/deep/file", Item::text("gone"))
        .with("link", Item::Symlink("docs/same".into()))
        .with("turns/file", Item::text("a file in a directory"))
        .with("was", Item::text("a file"))
        .with("hollow", Item::Dir(0o755))
        .with("closed", Item::Dir(0o555))
        .with("closed/in", Item::text("in"));
    let b = Tree::default()
        .with("big", Item::file(0o644, [big(1), b"inserted".to_vec(), big(2)].concat()))
        .with("moved/here", Item::file(0o644, big(3)))
        .with("docs/same", Item::text("same"))
        .with("docs/twice", Item::text("same"))
        .with("bin/tool", Item::file(0o755, b"#!/bin/sh\n".to_vec()))
        .with("link", Item::Symlink("big".into()))
        .with("turns", Item::text("a file"))
        .with("was/file", Item::text("a file in a directory"))
        .with("new", Item::file(0o444, big(4)))
        .with("closed", Item::Dir(0o555))
        .with("closed/in", Item::text("in again"));
    (a, b)
}
