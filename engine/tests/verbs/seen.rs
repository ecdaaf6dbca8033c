//! What a sync notices of the directory: what is gone, what is not floe's, what cannot be read or does not stand still.

use std::io::Write;

use floe::sync::{plan, verify_replica};
use floe::tree::{Replica, ReplicaOptions, SurveyOptions};

use super::*;

struct Scene {
    store: MemStore,
    outer: TempDir,
}

impl Scene {
    fn new(trees: &[&Tree]) -> Scene {
        let store = MemStore::default();
        for (number, tree) in trees.iter().enumerate() {
            published(&store, tree, &format!("game@{number}"));
        }
        Scene { store, outer: quick_tempdir() }
    }

    fn dir(&self) -> PathBuf {
        self.outer.path().join("replica")
    }

    fn try_sync(&self, number: usize) -> Result<Synced> {
        try_sync(&self.store, &format!("game@{number}"), &self.dir())
    }

    fn sync(&self, number: usize) -> Synced {
        self.try_sync(number).expect("syncs")
    }

    fn told(&self, number: usize) -> (Synced, Notices) {
        let notices = Notices::default();
        let target = named(&format!("game@{number}"));
        (floe::sync::sync(&self.store, &target, &self.dir(), &syncing(), &notices).expect("syncs"), notices)
    }

    fn survey(&self) -> (usize, u64) {
        let replica = Replica::open(&self.dir(), &ReplicaOptions::default(), &Silent).expect("opens");
        let survey = replica.survey(&SurveyOptions { rehash: false, threads: threads() }, &Silent);
        let survey = survey.expect("surveys");
        (survey.drift.len(), survey.files_read)
    }
}

fn small() -> Tree {
    Tree::default()
        .with("d/f1", Item::text("one"))
        .with("d/f2", Item::text("two"))
        .with("e", Item::Dir(0o755))
        .with("g/h", Item::text("three"))
}

/// Runs the test `name` of this binary again as somebody who may not read everything. True if that was done.
fn given_up_root(name: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    let binary = std::env::current_exe().expect("a test binary");
    // It may lie where only root gets to.
    let copy = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    fs::set_permissions(copy.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let there = copy.path().join("verbs");
    fs::copy(&binary, &there).expect("copied");
    let status = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(there)
        .args(["--exact", name, "--nocapture"])
        .env("TMPDIR", "/tmp")
        .current_dir("/")
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{name} as another user"),
        Err(_) => eprintln!("SKIPPED {name}: running as root, and there is no setpriv to give that up"),
    }
    true
}

#[test]
fn a_file_that_is_gone_is_missed_after_it_was_protected() {
    let scene = Scene::new(&[&small()]);
    scene.sync(0);
    fs::remove_file(scene.dir().join("d/f2")).expect("removed");
    let options = SyncOptions { protect: vec!["d/f2".into()], ..syncing() };
    floe::sync::sync(&scene.store, &named("game@0"), &scene.dir(), &options, &Silent).expect("syncs");
    assert!(!scene.dir().join("d/f2").exists());
    let synced = scene.sync(0);
    assert!(!synced.unchanged);
    assert_replica(&scene.dir(), &small());
}

#[test]
fn a_file_that_is_gone_is_missed_after_a_sync_that_died() {
    let all: [(&str, fn(&Path)); 3] = [
        ("a file", |dir| fs::remove_file(dir.join("d/f2")).expect("removed")),
        ("an empty directory", |dir| fs::remove_dir(dir.join("e")).expect("removed")),
        // The directory that is left stands for what was in it, by its number at least.
        ("all of a directory", |dir| fs::remove_file(dir.join("g/h")).expect("removed")),
    ];
    for (what, remove) in all {
        let scene = Scene::new(&[&small()]);
        scene.sync(0);
        remove(&scene.dir());
        fs::File::open(scene.dir().join("d/f1"))
            .and_then(|file| file.set_modified(SystemTime::now()))
            .expect("touched");
        settle(&scene.dir());
        // It looks, remembers what it saw, and gets no further.
        assert!(scene.survey().0 > 0, "{what}");
        assert!(scene.survey().0 > 0, "{what}");
        let synced = scene.sync(0);
        assert!(!synced.unchanged, "{what}");
        assert_replica(&scene.dir(), &small());
    }
}

#[test]
fn what_nobody_recorded_is_not_read() {
    let scene = Scene::new(&[&small(), &small().with("saves/one", Item::text("theirs, the same"))]);
    scene.sync(0);
    let save = scene.dir().join("saves/one");
    fs::create_dir(scene.dir().join("saves")).expect("made");
    fs::write(&save, "theirs, the same").expect("written");
    fs::write(scene.dir().join("saves/two"), "two").expect("written");
    for _ in 0..2 {
        assert_eq!(scene.survey(), (2, 0));
        let synced = scene.sync(0);
        assert!(synced.unchanged && synced.files_foreign == 2);
    }
    // What a version wants is looked at first.
    let planned = plan(&scene.store, &named("game@1"), &scene.dir(), &syncing(), &Silent).expect("plans");
    assert_eq!((planned.plan.steps.len(), planned.chunks_missing), (0, 0));
    let synced = scene.sync(1);
    assert_eq!((synced.chunks_fetched, synced.files_changed, synced.files_foreign), (0, 0, 1));
    assert_eq!(scene.survey(), (1, 0));
    let found = verify_replica(&scene.dir(), &verifying(), &Silent).expect("verifies");
    assert_eq!((found.damage, found.files_foreign), (vec![], 1));
}

#[test]
fn a_foreign_file_in_the_way_has_to_be_known() {
    let with = |text: &str| small().with("saves/one", Item::text(text));
    let scene =
        Scene::new(&[&small(), &with("of the game"), &with("of the game").with("x", Item::text("x"))]);
    scene.sync(0);
    fs::create_dir(scene.dir().join("saves")).expect("made");
    fs::write(scene.dir().join("saves/one"), "mine").expect("written");
    let error = scene.try_sync(1).expect_err("in the way");
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    fs::write(scene.dir().join("saves/one"), "of the game").expect("written");
    scene.sync(2);
    assert_replica(&scene.dir(), &with("of the game").with("x", Item::text("x")));
    let delete = SyncOptions { delete: true, ..syncing() };
    fs::write(scene.dir().join("mine"), "mine").expect("written");
    floe::sync::sync(&scene.store, &named("game@0"), &scene.dir(), &delete, &Silent).expect("syncs");
    assert_replica(&scene.dir(), &small());
}

/// Appends to a file whenever anything happens.
struct Growing<'a>(&'a Path);

impl Growing<'_> {
    fn grow(&self) {
        if let Ok(mut file) = fs::File::options().append(true).open(self.0) {
            file.write_all(&[7; 1000]).expect("written");
        }
    }
}

impl Progress for Growing<'_> {
    fn phase(&self, _: floe::Phase, _: Option<u64>) {
        self.grow();
    }
    fn advance(&self, _: u64) {
        self.grow();
    }
    fn cancelled(&self) -> bool {
        self.grow();
        false
    }
}

#[test]
fn a_foreign_file_that_grows_is_left_alone() {
    let next = small().with("new", Item::text("new"));
    let scene = Scene::new(&[&small(), &next]);
    let log = scene.dir().join("log");
    fs::create_dir(scene.dir()).expect("made");
    fs::write(&log, World::noise(1, 300_000)).expect("written");
    for number in [0, 1, 1] {
        let target = named(&format!("game@{number}"));
        let synced =
            floe::sync::sync(&scene.store, &target, &scene.dir(), &syncing(), &Growing(&log)).expect("syncs");
        assert_eq!(synced.files_foreign, 1);
        let found = verify_replica(&scene.dir(), &verifying(), &Growing(&log)).expect("verifies");
        assert_eq!((found.damage, found.files_foreign), (vec![], 1));
    }
}

#[test]
fn a_recorded_file_is_replaced_once_it_stays_as_it_is() {
    let scene = Scene::new(&[&small().with("log", Item::file(0o644, World::noise(1, 300_000)))]);
    scene.sync(0);
    let log = scene.dir().join("log");
    fs::write(&log, World::noise(1, 200_000)).expect("written");
    let found = verify_replica(&scene.dir(), &verifying(), &Growing(&log)).expect("verifies");
    assert_eq!(found.damage.len(), 1);
    // While somebody writes to it, what they write is not thrown away.
    let grown = Growing(&log);
    let synced = floe::sync::sync(&scene.store, &named("game@0"), &scene.dir(), &syncing(), &grown);
    assert!(matches!(synced, Err(Error::Changed { path }) if path == log));
    assert_eq!(scene.sync(0).files_changed, 1);
}

#[test]
fn what_may_not_be_read() {
    if given_up_root("seen::what_may_not_be_read") {
        return;
    }
    let close = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    let next = small().with("d/f1", Item::text("another one"));
    let scene = Scene::new(&[&small(), &next]);
    scene.sync(0);
    // Somebody else's directory, alone in one of theirs.
    let theirs = scene.dir().join("disk/lost+found");
    fs::create_dir_all(theirs.join("in")).expect("made");
    close(&theirs, 0o000);
    for number in [0, 1, 0] {
        let synced = scene.sync(number);
        assert_eq!((synced.files_foreign, synced.paths_unpublishable), (0, 1));
        let found = verify_replica(&scene.dir(), &verifying(), &Silent).expect("verifies");
        assert_eq!((found.damage, found.files_foreign, found.paths_unpublishable), (vec![], 0, 1));
    }
    let delete = SyncOptions { delete: true, ..syncing() };
    floe::sync::sync(&scene.store, &named("game@0"), &scene.dir(), &delete, &Silent).expect("syncs");
    assert!(theirs.exists());
    // One that can be listed, and no more.
    close(&theirs, 0o444);
    let synced = scene.sync(0);
    assert_eq!((synced.files_foreign, synced.paths_unpublishable), (1, 1));
    close(&theirs, 0o755);
    fs::remove_dir_all(scene.dir().join("disk")).expect("removed");

    // A recorded file.
    close(&scene.dir().join("d/f1"), 0o000);
    let found = verify_replica(&scene.dir(), &verifying(), &Silent).expect("verifies");
    let told: Vec<_> =
        found.damage.iter().map(|damage| (damage.what.as_str(), damage.reason.as_str())).collect();
    assert_eq!(told, [("`d/f1`", "cannot be read")]);
    assert_eq!(scene.sync(0).files_changed, 1);
    assert_replica(&scene.dir(), &small());

    // A recorded directory is neither there nor gone: that is an error, and its files are not lost for it.
    close(&scene.dir().join("d"), 0o000);
    let error = scene.try_sync(1).expect_err("closed");
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("d")), "{error:?}");
    close(&scene.dir().join("d"), 0o755);
    scene.sync(1);
    assert_replica(&scene.dir(), &next);
}

#[test]
fn a_store_is_no_place_for_a_replica() {
    let scene = Scene::new(&[&small()]);
    fs::create_dir(scene.dir()).expect("made");
    fs::write(scene.dir().join("FORMAT"), "floe store 1\n").expect("written");
    let before = photograph(&scene.dir());
    let synced = scene.try_sync(0).map(drop);
    let planned = plan(&scene.store, &named("game@0"), &scene.dir(), &syncing(), &Silent).map(drop);
    let verified = verify_replica(&scene.dir(), &verifying(), &Silent).map(drop);
    for result in [synced, planned, verified] {
        let error = result.expect_err("a store");
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        assert!(error.to_string().contains(scene.dir().to_str().expect("UTF-8")), "{error}");
    }
    assert_eq!(photograph(&scene.dir()), before);
    // Any other file of this name may be one of a version.
    fs::write(scene.dir().join("FORMAT"), "floe").expect("written");
    scene.sync(0);
}

fn many() -> Tree {
    (0..400).fold(Tree::default(), |tree, n| {
        tree.with(&format!("many/with-a-longish-name-{n}"), Item::text(&format!("content {n}")))
    })
}

#[test]
fn a_flipped_bit_in_the_node_log_is_mended() {
    let a =
        many().with("big", Item::file(0o644, World::noise(1, 3_000_000))).with("gone", Item::text("gone"));
    let b = many().with("big", Item::file(0o644, World::noise(1, 3_000_000))).with("new", Item::text("new"));
    let scene = Scene::new(&[&a, &b]);
    scene.sync(0);
    let good = quick_tempdir();
    copy_tree(&scene.dir(), good.path());
    let len = fs::metadata(good.path().join(".floe/nodes")).expect("there").len() as usize;
    for at in (16..len).step_by(len / 40) {
        for number in [1, 0] {
            wipe(&scene.dir());
            copy_tree(good.path(), &scene.dir());
            let path = scene.dir().join(".floe/nodes");
            let mut bytes = fs::read(&path).expect("read");
            bytes[at] ^= 4;
            fs::write(&path, bytes).expect("written");
            let (_, notices) = scene.told(number);
            assert_eq!(on_disk(&scene.dir()), *[&a, &b][number], "byte {at}");
            if number == 1 {
                assert_eq!(scene.sync(1).files_foreign, 0, "byte {at}");
            }
            // What was not needed is still bad, and told where it is.
            match verify_replica(&scene.dir(), &verifying(), &Silent) {
                Ok(found) => assert_eq!(found.damage, vec![], "byte {at}"),
                Err(error) => {
                    assert_eq!(error.class(), floe::ErrorClass::Damaged, "byte {at}: {error}");
                    assert!(error.to_string().contains(".floe/nodes"), "{error}");
                    assert_eq!(
                        notices.ignored(),
                        0,
                        "byte {at} {number}: {error} {notices:?}",
                        notices = notices.0
                    );
                }
            }
            let options = SyncOptions { rehash: true, ..syncing() };
            let target = named(&format!("game@{number}"));
            floe::sync::sync(&scene.store, &target, &scene.dir(), &options, &Silent).expect("syncs");
            assert_replica(&scene.dir(), [&a, &b][number]);
        }
    }
}

#[test]
fn a_damaged_log_is_mended_though_the_old_version_is_nowhere() {
    let (a, b) = (many().with("gone", Item::text("gone")), many().with("new", Item::text("new")));
    let scene = Scene::new(&[&a, &b]);
    scene.sync(0);
    let poor = MemStore::default();
    published(&poor, &b, "game@1");
    let path = scene.dir().join(".floe/nodes");
    let mut bytes = fs::read(&path).expect("read");
    // In the root, which comes last.
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    let notices = Notices::default();
    let done = floe::sync::sync(&poor, &named("game@1"), &scene.dir(), &syncing(), &notices).expect("syncs");
    assert!(notices.ignored() > 0);
    // Nobody knows any more who wrote it.
    assert_eq!(done.files_foreign, 1);
    assert_replica(&scene.dir(), &b.with("gone", Item::text("gone")));
}

/// A filed record with a format that nobody knows yet.
fn from_the_future(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    bytes[5] += 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn fingerprints_from_the_future_are_put_aside() {
    let scene = Scene::new(&[&small()]);
    scene.sync(0);
    from_the_future(&scene.dir().join(".floe/stats"));
    let (synced, notices) = scene.told(0);
    assert!(synced.unchanged && notices.ignored() == 1);
    assert_eq!(scene.told(0).1.ignored(), 0);

    let (source, memory) = (quick_tempdir(), quick_tempdir());
    small().write_over(source.path());
    let options = PublishOptions { fingerprints: Some(memory.path().into()), ..publishing() };
    let publish = |text: &str, notices: &Notices| {
        floe::sync::publish(source.path(), &scene.store, &name(text), &options, notices).expect("publishes")
    };
    publish("game@10", &Notices::default());
    let table = fs::read_dir(memory.path()).expect("listed").next().expect("one").expect("listed");
    from_the_future(&table.path());
    let notices = Notices::default();
    assert_eq!(publish("game@11", &notices).files_read, 3);
    assert_eq!(notices.ignored(), 1);
}

#[test]
fn damaged_state_is_told_to_who_only_looks() {
    let scene = Scene::new(&[&small()]);
    scene.sync(0);
    let state = scene.dir().join(".floe/state");
    let good = fs::read(&state).expect("read");
    for harm in [&b""[..], b"rubbish", &good[..good.len() - 1]] {
        fs::write(&state, harm).expect("written");
        let before = photograph(&scene.dir());
        let verified = verify_replica(&scene.dir(), &verifying(), &Silent).map(drop);
        let planned = plan(&scene.store, &named("game@0"), &scene.dir(), &syncing(), &Silent).map(drop);
        for result in [verified, planned] {
            let error = result.expect_err("damaged");
            assert_eq!(error.class(), floe::ErrorClass::Damaged, "{error:?}");
            assert!(error.to_string().contains(".floe/state"), "{error}");
        }
        assert_eq!(photograph(&scene.dir()), before);
        assert!(scene.told(0).1.ignored() > 0);
        assert_replica(&scene.dir(), &small());
    }
}
