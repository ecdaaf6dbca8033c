//! A whole store and a whole replica, opened as a later floe would: in a copy, with other times and inodes.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use floe::store::{RocksOptions, RocksStore, Source};
use floe::sync::{Target, VerifyOptions, diff, list, log, sync, verify_replica, verify_store};
use floe::tree::{Replica, StatTable};
use floe::{Faults, Silent, VersionId};

use crate::make::{name, sync_options, trees};
use crate::testdata;
use crate::world::on_disk;

const FIRST: &str = "fa93292daef6c75a2a0046697cf6082f3e1b9c97e88180513ef846676ffe08a0";
const SECOND: &str = "cbb0b1f36de606baba9775383dd695fd22b873db6f7a564803cc3b66ea778f9f";

fn version(text: &str) -> VersionId {
    text.parse().expect("a version id")
}

fn verify() -> VerifyOptions {
    VerifyOptions {
        subset: 1.0,
        accept_loss: false,
        seed: 0,
        threads: NonZeroUsize::MIN,
        in_flight_bytes_max: 16 << 20,
    }
}

// Checked out by whoever, with whatever umask: of a mode only the execute bit is kept.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("set");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let (meta, to) = (entry.metadata().expect("there"), to.join(entry.file_name()));
        if meta.is_dir() {
            copy(&entry.path(), &to);
        } else if meta.is_symlink() {
            symlink(fs::read_link(entry.path()).expect("read"), to).expect("made");
        } else {
            fs::write(&to, fs::read(entry.path()).expect("read")).expect("written");
            let mode = if meta.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            fs::set_permissions(to, fs::Permissions::from_mode(mode)).expect("set");
        }
    }
}

fn copied(path: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    copy(&testdata().join(path), dir.path());
    dir
}

fn open(dir: &Path) -> RocksStore {
    RocksStore::open(dir, &RocksOptions::default()).expect("the store opens")
}

#[test]
fn a_store_of_format_1() {
    let dir = copied("stores/v1");
    let store = open(dir.path());
    let names: Vec<_> = log(&store, None).expect("listed");
    let told: Vec<_> = names
        .iter()
        .map(|(record, totals)| (record.name.to_string(), totals.expect("sound").files))
        .collect();
    assert_eq!(told, [("game@1".to_owned(), 6), ("game@2".to_owned(), 7)]);
    for ((record, totals), (n, id)) in names.iter().zip([FIRST, SECOND].iter().enumerate()) {
        assert_eq!((record.version.to_string().as_str(), record.sequence), (*id, n as u64));
        assert_eq!(record.bound_unix_s, 1_795_000_000);
        let mut entries = 0;
        let counted = list(&store, record.version, &mut |_| {
            entries += 1;
            Ok(())
        });
        let totals = totals.expect("sound");
        assert_eq!((counted.expect("walked"), entries), (totals, totals.entries));
    }
    let found = verify_store(&store, &verify(), &Silent).expect("verified");
    assert_eq!((found.damage, found.versions), (Vec::new(), 2));
    assert!(found.chunks > 0 && found.nodes > 0);
    for (name, tree) in ["game@1", "game@2"].map(name).into_iter().zip(trees()) {
        let to = tempfile::tempdir().expect("a temporary directory");
        let target = Target::Name(name);
        sync(&store, &target, to.path(), &sync_options(&[], Faults::default()), &Silent).expect("synced");
        assert!(on_disk(to.path()) == tree, "{target:?} has other content");
    }
    let differ = diff(&store, version(FIRST), version(SECOND)).expect("compared");
    assert!(!differ.changes.is_empty());
    // It can be written on.
    let [first, _] = trees();
    let again = crate::make::published(&store, &first, &name("game@3"), floe::content::Compression::None);
    assert_eq!(again, version(FIRST));
    drop(store);
    assert_eq!(open(dir.path()).names(None).expect("listed").len(), 3);
}

#[test]
fn a_replica_of_format_1() {
    let (replica, store) = (copied("replicas/v1"), copied("stores/v1"));
    let dir = replica.path();
    let peeked = Replica::peek(dir).expect("looked at");
    assert_eq!((peeked.version(), peeked.name()), (Some(version(FIRST)), Some("game@1")));
    drop(peeked);
    let found = verify_replica(dir, &verify(), &Silent).expect("verified");
    assert_eq!((found.damage, found.files, found.files_foreign), (Vec::new(), 6, 0));
    let table = StatTable::load(&dir.join(".floe/stats")).expect("read").expect("there");
    assert_eq!((table.version, table.rows.len()), (version(FIRST), 7));
    let store = open(store.path());
    let [first, second] = trees();
    let options = sync_options(&[], Faults::default());
    // Nothing is fetched for what is there, though no fingerprint fits.
    let same = sync(&store, &Target::Name(name("game@1")), dir, &options, &Silent).expect("synced");
    assert_eq!((same.unchanged, same.chunks_fetched), (true, 0));
    let there = sync(&store, &Target::Name(name("game@2")), dir, &options, &Silent).expect("synced");
    assert_eq!((there.from, there.version), (Some(version(FIRST)), version(SECOND)));
    assert!(there.bytes_reused >= 60_000, "{there:?}");
    assert!(on_disk(dir) == second, "not the second version");
    sync(&store, &Target::Name(name("game@1")), dir, &options, &Silent).expect("synced");
    assert!(on_disk(dir) == first, "not the first version");
}
