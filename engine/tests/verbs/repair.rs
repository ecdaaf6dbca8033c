//! Replicas that somebody changed: found, told, and mended.

use std::os::unix::fs::{PermissionsExt, symlink};

use floe::sync::{repair_replica, verify_replica};
use floe::tree::{Replica, ReplicaOptions};

use super::*;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

type Harm = (&'static str, &'static str, &'static dyn Fn(&Path));

fn harms() -> [Harm; 11] {
    [
        ("big", "has other content", &|dir| {
            let mut bytes = fs::read(dir.join("big")).expect("read");
            bytes[1_000_000] ^= 1;
            fs::write(dir.join("big"), bytes).expect("written");
        }),
        ("docs/moved", "has another length", &|dir| {
            fs::write(dir.join("docs/moved"), "short").expect("written")
        }),
        ("docs/same", "missing", &|dir| fs::remove_file(dir.join("docs/same")).expect("removed")),
        ("bin/tool", "has another mode", &|dir| set_mode(&dir.join("bin/tool"), 0o700)),
        ("hollow", "has another mode", &|dir| set_mode(&dir.join("hollow"), 0o711)),
        ("closed", "has another mode", &|dir| set_mode(&dir.join("closed"), 0o700)),
        ("link", "points elsewhere", &|dir| {
            fs::remove_file(dir.join("link")).expect("removed");
            symlink("/etc/passwd", dir.join("link")).expect("made");
        }),
        ("empty", "is another kind of file", &|dir| {
            fs::remove_file(dir.join("empty")).expect("removed");
            symlink("big", dir.join("empty")).expect("made");
        }),
        ("was", "is another kind of file", &|dir| {
            fs::remove_file(dir.join("was")).expect("removed");
            fs::create_dir(dir.join("was")).expect("made");
        }),
        ("gone/deep/file", "missing", &|dir| fs::remove_dir_all(dir.join("gone")).expect("removed")),
        ("turns/file", "has another length", &|dir| fs::write(dir.join("turns/file"), "").expect("written")),
    ]
}

#[test]
fn what_was_changed_is_found_and_mended_from_a_source() {
    let (tree, _) = pair();
    let store = MemStore::default();
    published(&store, &tree, "game@1");
    let dir = quick_tempdir();
    let dir = dir.path();
    sync(&store, "game@1", dir);
    fs::write(dir.join("mine"), "mine").expect("written");
    let with_mine = tree.clone().with("mine", Item::text("mine"));
    let check = |harms: &[Harm]| {
        harms.iter().for_each(|(_, _, harm)| harm(dir));
        let photo = photograph(dir);
        let found = verify_replica(dir, &verifying(), &Silent).expect("verifies");
        assert_eq!(photograph(dir), photo, "a look changes nothing");
        let mut told: Vec<_> = found.damage.iter().map(|d| (d.what.as_str(), d.reason.as_str())).collect();
        let mut expected: Vec<_> =
            harms.iter().map(|(path, reason, _)| (format!("`{path}`"), *reason)).collect();
        told.sort();
        expected.sort();
        assert_eq!(told, expected.iter().map(|(path, reason)| (path.as_str(), *reason)).collect::<Vec<_>>());
        assert_eq!(found.files_foreign, 1);
        let repaired = repair_replica(dir, &store, &syncing(), &Silent).expect("repairs");
        assert_eq!(repaired.files_foreign, 1);
        assert_eq!(on_disk(dir), with_mine);
        assert_eq!(verify_replica(dir, &verifying(), &Silent).expect("verifies").damage, []);
    };
    harms().iter().for_each(|harm| check(std::slice::from_ref(harm)));
    check(&harms());
    check(&[]);
}

// Not even a file whose times and length are as they were is trusted.
#[test]
fn a_change_behind_the_fingerprints_is_found() {
    let (tree, _) = pair();
    let store = MemStore::default();
    published(&store, &tree, "game@1");
    let dir = quick_tempdir();
    sync(&store, "game@1", dir.path());
    let path = dir.path().join("docs/same");
    let modified = fs::metadata(&path).expect("there").modified().expect("told");
    let file = fs::File::options().write(true).open(&path).expect("opens");
    std::os::unix::fs::FileExt::write_at(&file, b"S", 0).expect("written");
    file.set_modified(modified).expect("set");
    let found = verify_replica(dir.path(), &verifying(), &Silent).expect("verifies");
    assert_eq!(found.damage.len(), 1);
    let repaired = repair_replica(dir.path(), &store, &syncing(), &Silent).expect("repairs");
    assert_eq!((repaired.files_changed, repaired.chunks_fetched), (1, 1));
    assert_replica(dir.path(), &tree);
}

#[test]
fn a_repair_keeps_name_and_protected_paths() {
    let (tree, _) = pair();
    let store = MemStore::default();
    let version = published(&store, &tree, "game@1");
    let dir = quick_tempdir();
    let dir = dir.path();
    let options = SyncOptions { protect: vec!["/docs/".into(), "*.cfg".into()], ..syncing() };
    fs::create_dir(dir.join("docs")).expect("made");
    fs::write(dir.join("docs/same"), "my own").expect("written");
    let synced = floe::sync::sync(&store, &named("game@1"), dir, &options, &Silent).expect("syncs");
    assert_eq!(synced.files_protected, 2);
    fs::write(dir.join("big"), "damaged").expect("written");
    fs::write(dir.join("user.cfg"), "mine").expect("written");
    for _ in 0..2 {
        repair_replica(dir, &store, &options, &Silent).expect("repairs");
        let replica = Replica::peek(dir).expect("looks");
        assert_eq!((replica.version(), replica.name()), (Some(version), Some("game@1")));
        assert_eq!(replica.protect(), ["/docs/", "*.cfg"]);
    }
    assert_eq!(fs::read(dir.join("docs/same")).expect("read"), b"my own");
    assert!(!dir.join("docs/moved").exists());
    assert_eq!(fs::read(dir.join("user.cfg")).expect("read"), b"mine");
    assert_eq!(fs::metadata(dir.join("big")).expect("there").len(), 1_800_000);
    let found = verify_replica(dir, &verifying(), &Silent).expect("verifies");
    assert_eq!(found.damage.iter().map(|d| d.what.as_str()).collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn what_is_no_replica_is_not_verified() {
    let dir = quick_tempdir();
    for dir in [dir.path(), &dir.path().join("nowhere")] {
        let error = verify_replica(dir, &verifying(), &Silent).expect_err("no version");
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    let error =
        repair_replica(dir.path(), &MemStore::default(), &syncing(), &Silent).expect_err("no version");
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[test]
fn damaged_state_is_told_and_made_anew() {
    let (tree, _) = pair();
    let store = MemStore::default();
    published(&store, &tree, "game@1");
    let dir = quick_tempdir();
    sync(&store, "game@1", dir.path());
    drop(Replica::open(dir.path(), &ReplicaOptions::default(), &Silent).expect("opens"));
    for file in ["state", "stats", "nodes"] {
        for harm in ["", "rubbish"] {
            assert!(dir.path().join(".floe").join(file).exists(), "{file}");
            fs::write(dir.path().join(".floe").join(file), harm).expect("written");
            let notices = Notices::default();
            let done = floe::sync::sync(&store, &named("game@1"), dir.path(), &syncing(), &notices);
            assert_eq!(done.expect("syncs").chunks_fetched, 0, "{file}");
            assert!(notices.ignored() > 0, "{file} {harm}");
            assert_replica(dir.path(), &tree);
        }
    }
}
