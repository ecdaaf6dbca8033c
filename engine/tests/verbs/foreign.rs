//! What is whose: files of the user, files that floe wrote, files that somebody changed since.

use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;

use super::*;

struct Scene {
    store: MemStore,
    outer: TempDir,
    old: Tree,
    new: Tree,
}

impl Scene {
    fn new() -> Scene {
        let (store, (old, new)) = (MemStore::default(), pair());
        published(&store, &old, "game@old");
        published(&store, &new, "game@new");
        Scene { store, outer: quick_tempdir(), old, new }
    }

    fn dir(&self) -> PathBuf {
        self.outer.path().join("replica")
    }

    fn sync(&self, text: &str, options: &SyncOptions) -> Result<Synced> {
        floe::sync::sync(&self.store, &named(text), &self.dir(), options, &Silent)
    }
}

fn protecting(globs: &[&str]) -> SyncOptions {
    SyncOptions { protect: globs.iter().map(|glob| (*glob).to_owned()).collect(), ..syncing() }
}

fn put(dir: &Path, path: &str, text: &str) {
    fs::create_dir_all(dir.join(path).parent().expect("below")).expect("made");
    fs::write(dir.join(path), text).expect("written");
}

fn same_content(a: &Item, b: &Item) -> bool {
    match (a, b) {
        (Item::File(_, a), Item::File(_, b)) => a == b,
        (a, b) => a == b,
    }
}

fn has_dir(tree: &Tree, path: &str) -> bool {
    let below = format!("{path}/");
    tree.items()
        .any(|(other, item)| other.starts_with(&below) || other == path && matches!(item, Item::Dir(_)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_user_did(a in any::<u64>(), b in any::<u64>(), c in any::<u64>()) {
        let (a, b, user) = (random_tree(a), random_tree(b), random_tree(c));
        let (store, dir) = (MemStore::default(), quick_tempdir());
        let dir = dir.path();
        published(&store, &a, "game@a");
        published(&store, &b, "game@b");
        sync(&store, "game@a", dir);
        user.write_over(dir);
        let before = on_disk(dir);
        // What only the user has, where the new version has something else, is lost to nobody who did not say so.
        let collides = before.items().any(|(path, item)| {
            let theirs = a.get(path).is_none() && !matches!(item, Item::Dir(_));
            theirs && b.get(path).is_some_and(|want| !same_content(want, item))
        });
        if collides {
            let refused = floe::sync::plan(&store, &named("game@b"), dir, &syncing(), &Silent);
            let is_conflict = |error: Option<Error>| matches!(error, Some(Error::Conflict { .. }));
            prop_assert!(is_conflict(refused.err()));
            prop_assert!(is_conflict(try_sync(&store, "game@b", dir).err()));
            prop_assert_eq!(&on_disk(dir), &before);
        }
        let overwrite = SyncOptions { overwrite: true, ..syncing() };
        let planned = floe::sync::plan(&store, &named("game@b"), dir, &overwrite, &Silent);
        match floe::sync::sync(&store, &named("game@b"), dir, &overwrite, &Silent) {
            Err(error @ Error::Conflict { .. }) => {
                prop_assert_eq!(on_disk(dir), before);
                prop_assert_eq!(planned.expect_err("the same").to_string(), error.to_string());
            }
            Err(other) => panic!("{other:?}"),
            Ok(done) => {
                let planned = planned.expect("plans");
                let after = on_disk(dir);
                for (path, item) in b.items() {
                    // An empty directory may have got something of the user's.
                    prop_assert!(after.get(path) == Some(item) || *item == Item::Dir(0o755), "{}", path);
                }
                for (path, item) in before.items().filter(|(_, item)| !matches!(item, Item::Dir(_))) {
                    // What both versions have a directory for is put right.
                    let mended = [&a, &b].into_iter().all(|tree| has_dir(tree, path));
                    let users = a.get(path) != Some(item) && b.get(path).is_none() && !mended;
                    prop_assert!(!users || after.get(path) == Some(item), "{}", path);
                }
                prop_assert_eq!(done.bytes_fetched, planned.bytes_fetched);
                prop_assert_eq!(done.bytes_reused, planned.bytes_reused);
                prop_assert_eq!(done.requests, planned.requests);
            }
        }
        let delete = SyncOptions { delete: true, ..syncing() };
        floe::sync::sync(&store, &named("game@b"), dir, &delete, &Silent).expect("syncs");
        prop_assert_eq!(on_disk(dir), b);
    }
}

#[test]
fn files_that_no_version_wrote_stay_unless_asked() {
    let scene = Scene::new();
    let dir = scene.dir();
    scene.sync("game@old", &syncing()).expect("syncs");
    // In a directory of the old version, in one of its own, at the top, hidden.
    for path in ["gone/deep/mine", "my/own/dir/file", "mine", ".hidden", "docs/mine"] {
        put(&dir, path, "mine");
    }
    fs::create_dir(dir.join("my/empty")).expect("made");
    symlink("nowhere", dir.join("my/link")).expect("made");
    let mine = |tree: &Tree| {
        let paths = ["gone/deep/mine", "my/own/dir/file", "mine", ".hidden", "docs/mine"];
        let tree = paths.iter().fold(tree.clone(), |tree, path| tree.with(path, Item::text("mine")));
        tree.with("my/empty", Item::Dir(0o755)).with("my/link", Item::Symlink("nowhere".into()))
    };
    for (text, tree) in [("game@new", &scene.new), ("game@old", &scene.old), ("game@new", &scene.new)] {
        let planned = floe::sync::plan(&scene.store, &named(text), &dir, &syncing(), &Silent).expect("plans");
        let synced = scene.sync(text, &syncing()).expect("syncs");
        assert_eq!(synced.files_foreign, 7);
        assert_eq!(synced.bytes_fetched, planned.bytes_fetched);
        assert_eq!(on_disk(&dir), mine(tree), "{text}");
        assert!(scene.sync(text, &syncing()).expect("syncs").unchanged);
    }
    let delete = SyncOptions { delete: true, ..syncing() };
    let synced = scene.sync("game@new", &delete).expect("syncs");
    assert_eq!((synced.files_foreign, synced.files_removed), (0, 5));
    assert_replica(&dir, &scene.new);
}

#[test]
fn protected_paths_are_never_touched() {
    let scene = Scene::new();
    let dir = scene.dir();
    scene.sync("game@old", &syncing()).expect("syncs");
    put(&dir, "docs/same", "edited");
    put(&dir, "saves/one", "mine");
    fs::remove_file(dir.join("link")).expect("removed");
    let options = SyncOptions { delete: true, ..protecting(&["docs/", "saves/*", "/link", "big"]) };
    let synced = scene.sync("game@new", &options).expect("syncs");
    // docs/twice, big and link are not brought; docs/same is not mended, docs/moved not taken.
    assert_eq!((synced.files_protected, synced.files_foreign), (4, 1));
    let same = |path: &str| match path {
        "big" => [World::noise(1, 900_000), World::noise(2, 900_000)].concat(),
        _ => World::noise(3, 900_000),
    };
    let expected = scene
        .new
        .clone()
        .with("big", Item::file(0o644, same("big")))
        .with("docs/moved", Item::file(0o644, same("docs/moved")))
        .with("docs/same", Item::text("edited"))
        .with("saves/one", Item::text("mine"));
    let without = |tree: Tree, dir: &Path| {
        let copy = quick_tempdir();
        tree.write_over(copy.path());
        for path in ["docs/twice", "link"] {
            fs::remove_file(copy.path().join(path)).expect("there");
            assert!(!dir.join(path).exists());
        }
        on_disk(copy.path())
    };
    assert_eq!(on_disk(&dir), without(expected, &dir));
    // Once nothing is protected any more, all comes right.
    let delete = SyncOptions { delete: true, ..syncing() };
    scene.sync("game@new", &delete).expect("syncs");
    assert_replica(&dir, &scene.new);
}

#[test]
fn a_file_in_the_way_of_a_new_one_is_not_lost() {
    let scene = Scene::new();
    let dir = scene.dir();
    put(&dir, "docs/same", "precious");
    put(&dir, "mine", "mine");
    // Before the first sync as after it, and with a plan as with a sync.
    for _ in 0..2 {
        let Err(Error::Conflict { what, .. }) = scene.sync("game@old", &syncing()) else {
            panic!("a conflict")
        };
        assert_eq!(what, "file `docs/same`");
        assert!(floe::sync::plan(&scene.store, &named("game@old"), &dir, &syncing(), &Silent).is_err());
        assert_eq!(fs::read(dir.join("docs/same")).expect("there"), b"precious");
    }
    assert_eq!(scene.sync("game@old", &protecting(&["docs/same"])).expect("syncs").files_protected, 1);
    assert_eq!(fs::read(dir.join("docs/same")).expect("there"), b"precious");
    fs::remove_file(dir.join("docs/same")).expect("removed");
    put(&dir, "new", "precious");
    assert!(matches!(scene.sync("game@new", &syncing()), Err(Error::Conflict { .. })));
    let overwrite = SyncOptions { overwrite: true, ..syncing() };
    scene.sync("game@new", &overwrite).expect("syncs");
    assert_eq!(on_disk(&dir), scene.new.clone().with("mine", Item::text("mine")));
}

#[test]
fn what_was_protected_once_stays_the_users() {
    let scene = Scene::new();
    let dir = scene.dir();
    put(&dir, "docs/same", "precious");
    scene.sync("game@old", &protecting(&["docs/same"])).expect("syncs");
    let found = floe::sync::verify_replica(&dir, &verifying(), &Silent).expect("verifies");
    let files = scene.old.items().filter(|(_, item)| matches!(item, Item::File(..))).count() as u64;
    assert_eq!((found.damage, found.files, found.files_protected), (vec![], files - 1, 1));
    for target in ["game@old", "game@new", "game@old"] {
        assert!(matches!(scene.sync(target, &syncing()), Err(Error::Conflict { .. })), "{target}");
        assert_eq!(fs::read(dir.join("docs/same")).expect("there"), b"precious");
    }
    let overwrite = SyncOptions { overwrite: true, ..syncing() };
    scene.sync("game@new", &overwrite).expect("syncs");
    assert_eq!(on_disk(&dir), scene.new);
    assert!(scene.sync("game@new", &syncing()).expect("syncs").unchanged);
}

#[test]
fn a_glob_that_does_not_parse_protects_nothing_silently() {
    let scene = Scene::new();
    for glob in ["sav/[1", "[", "{a", "x[z-a]"] {
        let refused = scene.sync("game@old", &protecting(&[glob]));
        assert!(matches!(refused, Err(Error::Usage { .. })), "{glob}: {refused:?}");
        assert!(!scene.dir().exists(), "{glob}");
    }
}

#[test]
fn a_directory_that_has_the_content_is_adopted() {
    let scene = Scene::new();
    let dir = scene.dir();
    scene.new.write_over(&dir_made(&dir));
    put(&dir, "mine", "mine");
    fs::set_permissions(dir.join("new"), fs::Permissions::from_mode(0o600)).expect("set");
    fs::rename(dir.join("moved/here"), dir.join("elsewhere")).expect("moved");
    fs::remove_dir(dir.join("moved")).expect("empty");
    let synced = scene.sync("game@new", &syncing()).expect("syncs");
    assert_eq!((synced.from, synced.chunks_fetched, synced.files_foreign), (None, 0, 2));
    assert!(synced.bytes_fetched < 8_000, "only nodes: {synced:?}");
    let (mine, moved) = (Item::text("mine"), Item::file(0o644, World::noise(3, 900_000)));
    let expected = scene.new.clone().with("mine", mine).with("elsewhere", moved);
    assert_eq!(on_disk(&dir), expected);
    let synced = scene.sync("game@new", &syncing()).expect("syncs");
    assert!(synced.unchanged);
}

fn dir_made(dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).expect("made");
    dir.to_owned()
}

#[test]
fn a_file_that_somebody_changed_is_told_and_put_right() {
    let scene = Scene::new();
    let dir = scene.dir();
    scene.sync("game@old", &syncing()).expect("syncs");
    put(&dir, "big", "overwritten");
    put(&dir, "docs/same", "sane");
    fs::set_permissions(dir.join("bin/tool"), fs::Permissions::from_mode(0o777)).expect("set");
    fs::remove_file(dir.join("empty")).expect("removed");
    let notices = Notices::default();
    let synced =
        floe::sync::sync(&scene.store, &named("game@old"), &dir, &syncing(), &notices).expect("syncs");
    assert_eq!(notices.modified(), ["big", "bin/tool", "docs/same", "empty"]);
    assert!(!synced.unchanged && synced.files_changed == 3);
    assert_replica(&dir, &scene.old);

    // On the way to another version too; what that version drops is the user's from now on.
    put(&dir, "gone/deep/file", "edited");
    put(&dir, "docs/same", "edited");
    let synced = scene.sync("game@new", &syncing()).expect("syncs");
    assert_eq!(synced.files_foreign, 1);
    assert_eq!(on_disk(&dir), scene.new.clone().with("gone/deep/file", Item::text("edited")));
}

#[test]
fn a_file_in_the_place_of_a_directory_that_goes_is_the_users() {
    let scene = Scene::new();
    let dir = scene.dir();
    scene.sync("game@old", &syncing()).expect("syncs");
    for path in ["gone", "hollow"] {
        fs::remove_dir_all(dir.join(path)).expect("removed");
        put(&dir, path, "mine");
    }
    let synced = scene.sync("game@new", &syncing()).expect("syncs");
    assert_eq!(synced.files_foreign, 2);
    let mine = |tree: &Tree| tree.clone().with("gone", Item::text("mine")).with("hollow", Item::text("mine"));
    assert_eq!(on_disk(&dir), mine(&scene.new));
    assert!(scene.sync("game@new", &syncing()).expect("syncs").unchanged);
    let delete = SyncOptions { delete: true, ..syncing() };
    scene.sync("game@new", &delete).expect("syncs");
    assert_replica(&dir, &scene.new);
}

#[test]
fn what_is_the_users_and_in_the_way_is_a_conflict() {
    let scene = Scene::new();
    let dir = scene.dir();
    scene.sync("game@old", &syncing()).expect("syncs");
    // The new version has a file where this directory is.
    put(&dir, "turns/mine", "mine");
    let before = on_disk(&dir);
    let error = scene.sync("game@new", &syncing()).expect_err("in the way");
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    assert!(error.to_string().contains("turns/mine"), "{error}");
    assert_eq!(on_disk(&dir), before);
    let delete = SyncOptions { delete: true, ..syncing() };
    scene.sync("game@new", &delete).expect("syncs");
    assert_replica(&dir, &scene.new);

    // And a file where the version has a directory.
    let scene = Scene::new();
    let dir = scene.dir();
    put(&dir, "moved", "mine");
    let error = scene.sync("game@new", &syncing()).expect_err("in the way");
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    assert_eq!(on_disk(&dir), Tree::default().with("moved", Item::text("mine")));
    fs::remove_file(dir.join("moved")).expect("removed");
    scene.sync("game@new", &syncing()).expect("syncs");
    assert_replica(&dir, &scene.new);
}

#[test]
fn a_plan_refuses_what_a_sync_refuses() {
    type Spoil = fn(&Path);
    let rows: [(&str, Spoil); 4] = [
        ("a file where the version wants the directory", |dir| put(dir, "turns/mine", "mine")),
        ("an empty directory of the user's there", |dir| {
            fs::create_dir(dir.join("turns/own")).expect("made")
        }),
        ("a pipe in the place of a recorded file", |dir| pipe(&dir.join("docs/same"))),
        ("a pipe where a new file belongs", |dir| pipe(&dir.join("new"))),
    ];
    for (what, spoil) in rows {
        let scene = Scene::new();
        let dir = scene.dir();
        scene.sync("game@old", &syncing()).expect("syncs");
        spoil(&dir);
        for options in [syncing(), SyncOptions { overwrite: true, ..syncing() }] {
            let planned = floe::sync::plan(&scene.store, &named("game@new"), &dir, &options, &Silent);
            let planned = planned.map(drop).expect_err(what);
            assert!(matches!(planned, Error::Conflict { .. }), "{what}: {planned:?}");
            let synced = scene.sync("game@new", &options).expect_err(what);
            assert_eq!(planned.to_string(), synced.to_string(), "{what}");
        }
    }
}

fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
    assert!(made.success());
}

#[test]
fn what_cannot_be_in_a_version_is_left_alone() {
    let scene = Scene::new();
    let dir = scene.dir();
    scene.sync("game@old", &syncing()).expect("syncs");
    let socket = dir.join("docs/socket");
    let _held = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    use std::os::unix::ffi::OsStrExt;
    let odd = dir.join(std::ffi::OsStr::from_bytes(b"odd-\xff"));
    fs::write(&odd, "odd").expect("written");
    put(&dir, "mine", "mine");
    let synced = scene.sync("game@new", &syncing()).expect("syncs");
    assert_eq!((synced.files_foreign, synced.paths_unpublishable), (1, 2));
    let found = floe::sync::verify_replica(&dir, &verifying(), &Silent).expect("verifies");
    assert_eq!((found.files_foreign, found.paths_unpublishable), (1, 2));
    let delete = SyncOptions { delete: true, ..syncing() };
    let synced = scene.sync("game@new", &delete).expect("syncs");
    assert_eq!((synced.files_foreign, synced.paths_unpublishable, synced.files_removed), (0, 2, 1));
    assert!(socket.symlink_metadata().is_ok() && odd.exists());
    let error = floe::sync::publish(&dir, &scene.store, &name("game@3"), &publishing(), &Silent);
    assert!(matches!(error, Err(Error::Unpublishable { .. })), "{error:?}");
    let none = scene.store.resolve(&name("game@3")).expect("asked");
    assert_eq!(none, None);
}

#[test]
fn read_only_directories_are_updated() {
    let closed = |mode, text: &str| {
        Tree::default()
            .with("closed", Item::Dir(mode))
            .with("closed/deep", Item::Dir(mode))
            .with("closed/deep/file", Item::file(0o444, text.as_bytes().to_vec()))
            .with(&format!("closed/{text}"), Item::text("here"))
    };
    let (a, b) = (closed(0o555, "one"), closed(0o500, "two"));
    let store = MemStore::default();
    published(&store, &a, "game@a");
    published(&store, &b, "game@b");
    published(&store, &Tree::default(), "game@none");
    let dir = quick_tempdir();
    for (text, tree) in [("game@a", &a), ("game@b", &b), ("game@a", &a), ("game@none", &Tree::default())] {
        sync(&store, text, dir.path());
        assert_replica(dir.path(), tree);
    }
}

#[test]
fn what_is_left_out_is_counted_and_not_published() {
    in_each_store(|store| {
        let dir = tempdir();
        let dir = dir.path();
        for path in ["keep", "logs/a.log", "logs/b.txt", "tmp/x", "tmp/y", ".hidden", ".gitignore"] {
            put(dir, path, path);
        }
        put(dir, ".floeignore", "tmp/\n");
        put(dir, ".floe/state", "of a replica");
        let options = PublishOptions { exclude: vec!["*.log".into()], ..publishing() };
        let done = floe::sync::publish(dir, store, &name("game@1"), &options, &Silent).expect("publishes");
        assert_eq!(done.left_out, 2);
        let mut paths = Vec::new();
        floe::sync::list(store, done.version, &mut |entry| {
            paths.push(entry.path.to_string());
            Ok(())
        })
        .expect("listed");
        assert_eq!(paths, [".floeignore", ".gitignore", ".hidden", "keep", "logs/b.txt"]);
        let log = floe::sync::log(store, None).expect("listed");
        assert_eq!(log.len(), 1);
        assert_eq!((log[0].1.expect("sound").files, log[0].0.clone()), (5, done.record));
    });
}
