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

// Which version it was is known, and so whose the files are: what was changed is mended, and is nobody's own.
#[test]
fn lost_nodes_come_back_with_a_sync_or_a_repair() {
    let (tree, _) = pair();
    let store = MemStore::default();
    let version = published(&store, &tree, "game@1");
    type Mend<'a> = (&'a str, &'a dyn Fn(&Path) -> Result<Synced>);
    let mends: [Mend; 2] = [
        ("sync", &|dir| try_sync(&store, "game@1", dir)),
        ("repair", &|dir| repair_replica(dir, &store, &syncing(), &Silent)),
    ];
    for (what, mend) in mends {
        for harm in ["gone", "empty", "rubbish"] {
            let dir = quick_tempdir();
            let dir = dir.path();
            sync(&store, "game@1", dir);
            fs::write(dir.join("docs/same"), "damaged").expect("written");
            let nodes = dir.join(".floe/nodes");
            match harm {
                "gone" => fs::remove_file(&nodes).expect("removed"),
                "empty" => fs::write(&nodes, "").expect("written"),
                _ => fs::write(&nodes, "rubbish").expect("written"),
            }
            let error = verify_replica(dir, &verifying(), &Silent).expect_err("lost");
            assert!(
                matches!(&error, Error::Damaged { place, .. } if place.ends_with(".floe/nodes`")),
                "{error}"
            );
            let done = mend(dir).expect(what);
            assert_eq!((done.version, done.files_changed), (version, 1), "{what} {harm}");
            assert_replica(dir, &tree);
            let replica = Replica::peek(dir).expect("looks");
            assert_eq!((replica.version(), replica.name()), (Some(version), Some("game@1")), "{what} {harm}");
        }
    }
}

#[test]
fn a_repair_names_damaged_state() {
    let store = MemStore::default();
    published(&store, &pair().0, "game@1");
    let dir = quick_tempdir();
    sync(&store, "game@1", dir.path());
    fs::write(dir.path().join(".floe/state"), "rubbish").expect("written");
    for _ in 0..2 {
        let error = repair_replica(dir.path(), &store, &syncing(), &Silent).expect_err("no version");
        assert!(matches!(error, Error::Malformed { kind: "replica state", .. }), "{error:?}");
    }
    sync(&store, "game@1", dir.path());
    assert_replica(dir.path(), &pair().0);
}

// Nothing waits at a FIFO, and nothing goes through a link.
#[test]
fn what_is_not_floes_in_its_place_is_named() {
    let store = MemStore::default();
    published(&store, &pair().0, "game@1");
    for place in
        [".floe", ".floe/FORMAT", ".floe/state", ".floe/nodes", ".floe/journal", ".floe/lock", ".floe/stage"]
    {
        for link in [true, false] {
            let dir = quick_tempdir();
            let dir = dir.path();
            sync(&store, "game@1", dir);
            let (path, aside) = (dir.join(place), dir.join("aside"));
            if path.exists() {
                fs::rename(&path, &aside).expect("renamed");
            }
            if link {
                symlink("../aside", &path).expect("made");
            } else {
                rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).expect("a FIFO");
            }
            let photo = photograph(dir);
            let done = try_sync(&store, "game@1", dir);
            let named = |what: &str| what == format!("`{place}`");
            assert!(matches!(&done, Err(Error::Conflict { what, .. }) if named(what)), "{place}: {done:?}");
            assert_eq!(photograph(dir).len(), photo.len(), "{place}");
            fs::remove_file(&path).expect("removed");
            if aside.exists() {
                fs::rename(&aside, &path).expect("renamed");
            }
            sync(&store, "game@1", dir);
            assert_replica(dir, &pair().0);
        }
    }
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

#[test]
fn a_damaged_journal_goes_with_the_repair_that_made_up_for_it() {
    let (tree, _) = pair();
    let store = MemStore::default();
    published(&store, &tree, "game@1");
    let repair = |dir: &Path| floe::sync::repair_replica(dir, &store, &syncing(), &Silent).map(drop);
    let again = |dir: &Path| try_sync(&store, "game@1", dir).map(drop);
    for (how, mend) in [("repair", &repair as &dyn Fn(&Path) -> Result<()>), ("sync", &again)] {
        let dir = quick_tempdir();
        sync(&store, "game@1", dir.path());
        let aside = dir.path().join(".floe/journal.damaged");
        fs::write(dir.path().join(".floe/journal"), "rubbish").expect("written");
        drop(Replica::open(dir.path(), &ReplicaOptions::default(), &Silent).expect("opens"));
        assert!(aside.exists(), "{how}: put aside");
        fs::write(dir.path().join(".floe/journal"), "rubbish again").expect("written");
        mend(dir.path()).expect(how);
        assert!(!aside.exists(), "{how}");
        assert_replica(dir.path(), &tree);
    }
}
