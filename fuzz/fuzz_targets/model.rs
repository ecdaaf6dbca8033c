//! Random histories of one store and one replica, beside a model that is a few maps.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use floe::content::{Compression, Frame};
use floe::store::{MemStore, Name, NewChunk, Store};
use floe::sync::{
    Keep, PruneOptions, PublishOptions, SyncOptions, Target, VerifyOptions, prune, publish, repair_store,
    sync, verify_replica, verify_store,
};
use floe::{Faults, Silent};
use tempfile::TempDir;

type Tree = BTreeMap<String, Vec<u8>>;

const THREADS: NonZeroUsize = NonZeroUsize::MIN;
const IN_FLIGHT: u64 = 1 << 20;
const STEPS_MAX: usize = 24;

struct World {
    source: TempDir,
    replica: TempDir,
    store: MemStore,
    // Gets everything that is published, and loses nothing.
    backup: MemStore,
    tree: Tree,
    versions: Vec<(Name, Tree)>,
    published: u64,
    foreign: Tree,
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let dir = || tempfile::tempdir().expect("a temporary directory");
    let mut world = World {
        source: dir(),
        replica: dir(),
        store: MemStore::default(),
        backup: MemStore::default(),
        tree: Tree::new(),
        versions: Vec::new(),
        published: 0,
        foreign: Tree::new(),
    };
    for step in bytes.chunks_exact(3).take(STEPS_MAX) {
        world.step(step[0], usize::from(step[1]), usize::from(step[2]));
    }
    let found = verify_store(&world.store, &verify(), &Silent).expect("the store can be read");
    assert_eq!(found.damage, []);
});

impl World {
    fn step(&mut self, what: u8, a: usize, b: usize) {
        match what % 8 {
            0 | 1 => self.edit(a, b),
            2 => self.publish(a),
            3 => self.sync(a, b % 2 == 1, Faults::default()),
            4 => self.sync_cut_short(a, b),
            5 => self.meddle(a, b),
            6 => self.prune(1 + a % 3),
            _ => self.damage(a),
        }
    }

    fn edit(&mut self, a: usize, b: usize) {
        let path = ["a", "a/b", "a/b/c", "a-", "d/e", "d/f", "g"][a % 7];
        let below = format!("{path}/");
        self.tree.retain(|other, _| !other.starts_with(&below) && !path.starts_with(&format!("{other}/")));
        self.tree.remove(path);
        let len = [0, 1, 700, 40_000, 600_000][b % 5];
        if !b.is_multiple_of(7) {
            let mut content = vec![0; len];
            noise(b as u64 % 3, &mut content);
            self.tree.insert(path.to_owned(), content);
        }
    }

    fn publish(&mut self, a: usize) {
        clear(self.source.path());
        write(self.source.path(), &self.tree);
        let name: Name = Name::parse(&format!("game@{}", self.published)).expect("a name");
        self.published += 1;
        let compression = [Compression::None, Compression::Zstd(1)][a % 2];
        let options = PublishOptions {
            compression,
            exclude: Vec::new(),
            rehash: false,
            fingerprints: None,
            threads: THREADS,
            in_flight_bytes_max: IN_FLIGHT,
            now_unix_s: self.published,
            faults: Faults::default(),
        };
        let mut done = Vec::new();
        for store in [&self.store, &self.backup] {
            let report = publish(self.source.path(), store, &name, &options, &Silent).expect("publishes");
            assert_eq!(report.files, self.tree.len() as u64);
            done.push(report.version);
        }
        assert_eq!(done[0], done[1]);
        self.versions.push((name, self.tree.clone()));
    }

    fn sync(&mut self, a: usize, delete: bool, faults: Faults) {
        let Some((name, tree)) = self.versions.get(a % self.versions.len().max(1)) else { return };
        let options = SyncOptions {
            delete,
            overwrite: true,
            protect: Vec::new(),
            rehash: false,
            deltas: None,
            threads: THREADS,
            in_flight_bytes_max: IN_FLIGHT,
            faults: faults.clone(),
        };
        let done = sync(&self.store, &Target::Name(name.clone()), self.replica.path(), &options, &Silent);
        let armed = format!("{faults:?}") != format!("{:?}", Faults::default());
        match done {
            Err(error) => assert!(armed, "{error}"),
            Ok(_) => {
                if delete {
                    self.foreign.clear();
                }
                let mut expected = tree.clone();
                expected.extend(self.foreign.clone());
                let found = read(self.replica.path());
                let paths = || expected.keys().chain(found.keys());
                if let Some(path) = paths().find(|path| expected.get(*path) != found.get(*path)) {
                    panic!("{name}: `{path}` is {:?}", found.get(path).map(|content| content.len()));
                }
                let found = verify_replica(self.replica.path(), &verify(), &Silent).expect("it can be read");
                assert_eq!(found.damage, []);
            }
        }
    }

    // Power is lost at some step; the next sync, to whatever version, puts it right.
    fn sync_cut_short(&mut self, a: usize, b: usize) {
        let left = AtomicU64::new(b as u64);
        let faults = Faults::new(move |_, _| {
            let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            spent.map(drop).map_err(|_| io::Error::other("the power is gone"))
        });
        self.sync(a, false, faults);
        self.sync(a + b, false, Faults::default());
    }

    // Someone else writes into the replica: what the version has is put back, the rest stays until told to go.
    fn meddle(&mut self, a: usize, b: usize) {
        let dir = self.replica.path();
        let here = read(dir);
        let path = here.keys().nth(a % here.len().max(1)).filter(|path| !path.starts_with("mine"));
        let (path, content) = (path.cloned().unwrap_or(format!("mine-{}", a % 3)), vec![b as u8; 9]);
        fs::write(dir.join(&path), &content).expect("written");
        let in_the_way =
            |other: &String| other.starts_with(&format!("{path}/")) || path.starts_with(&format!("{other}/"));
        match self.versions.get(b % self.versions.len().max(1)) {
            Some((_, tree)) if tree.keys().any(in_the_way) => {}
            Some((_, tree)) if tree.contains_key(&path) => self.sync(b, false, Faults::default()),
            _ => {
                self.foreign.insert(path.clone(), content);
                self.sync(b, false, Faults::default());
            }
        }
        if !path.starts_with("mine") {
            self.sync(b, true, Faults::default());
        }
    }

    fn prune(&mut self, last: usize) {
        let options = PruneOptions {
            keep: Keep { last: Some(last as u64), ..Keep::default() },
            grace: Duration::ZERO,
            dry_run: false,
            now_unix_s: self.published,
        };
        let report = prune(&self.store, &options, &Silent).expect("prunes");
        let gone = self.versions.len().saturating_sub(last);
        assert_eq!(report.names_removed.len(), gone);
        self.versions.drain(..gone);
    }

    // One chunk becomes another: it is found, and mended.
    fn damage(&mut self, a: usize) {
        let mut chunks = Vec::new();
        let list = self.store.each_chunk(&mut |chunk| {
            chunks.push(chunk);
            Ok(())
        });
        list.expect("listed");
        let Some(&chunk) = chunks.get(a % chunks.len().max(1)) else { return };
        let frame = Frame::encode(b"not what it was", Compression::None);
        self.store.replace_chunks(&[NewChunk { chunk, frame }]).expect("replaced");
        let found = verify_store(&self.store, &verify(), &Silent).expect("the store can be read");
        assert_eq!(found.damage.len(), 1);
        let mended = repair_store(&self.store, &self.backup, &verify(), &Silent).expect("mends");
        assert_eq!((mended.repaired, mended.damage), (1, Vec::new()));
    }
}

fn verify() -> VerifyOptions {
    VerifyOptions {
        subset: 1.0,
        accept_loss: false,
        seed: 0,
        threads: THREADS,
        in_flight_bytes_max: IN_FLIGHT,
    }
}

fn noise(seed: u64, into: &mut [u8]) {
    let mut state = seed.wrapping_mul(2) + 1;
    for word in into.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}

fn clear(dir: &Path) {
    fs::remove_dir_all(dir).and_then(|()| fs::create_dir(dir)).expect("cleared");
}

fn write(dir: &Path, tree: &Tree) {
    for (path, content) in tree {
        let full = dir.join(path);
        fs::create_dir_all(full.parent().expect("below the directory")).expect("made");
        fs::write(full, content).expect("written");
    }
}

fn read(dir: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(next).expect("listed") {
            let path = entry.expect("listed").path();
            if path.is_dir() {
                todo.extend((!path.ends_with(".floe")).then_some(path));
            } else {
                let name = path.strip_prefix(dir).expect("below it").to_str().expect("UTF-8").to_owned();
                tree.insert(name, fs::read(path).expect("read"));
            }
        }
    }
    tree
}
