//! A replica whose owner goes on working in it: while a version is made ready, while it is switched to, and between a
//! switch that was interrupted and its end. Nothing that he made is ever lost, and every switch can be finished.

mod world;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use floe::tree::{Replica, ReplicaOptions};
use floe::{Error, Faults, Silent, VersionId};
use world::{Item, Notices, Tree, World, on_disk};

fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

fn open(dir: &Path) -> floe::Result<Replica> {
    Replica::open(dir, &ReplicaOptions::default(), &Silent)
}

fn journal(dir: &Path) -> bool {
    dir.join(".floe/journal").exists()
}

// Does something at the first operation that `when` picks, and lets it go on.
fn doing(
    when: impl Fn(&str, &Path) -> bool + Send + Sync + 'static,
    act: impl Fn() + Send + Sync + 'static,
) -> Faults {
    let done = AtomicBool::new(false);
    Faults::new(move |action, path| {
        if when(action, path) && !done.swap(true, Ordering::SeqCst) {
            act();
        }
        Ok(())
    })
}

fn stopping(when: impl Fn(&str, &Path) -> bool + Send + Sync + 'static) -> Faults {
    let stopped = AtomicBool::new(false);
    Faults::new(move |action, path| {
        if when(action, path) || stopped.load(Ordering::SeqCst) {
            stopped.store(true, Ordering::SeqCst);
            return Err(std::io::Error::other("power"));
        }
        Ok(())
    })
}

// A path for every kind of step.
fn pair() -> (Tree, Tree) {
    let a = Tree::default()
        .with("built", Item::text("one"))
        .with("copied", Item::text("two"))
        .with("gone", Item::text("gone"))
        .with("link", Item::Symlink("built".into()))
        .with("mode", Item::text("mode"))
        .with("moves", Item::file(0o644, World::noise(1, 40_000)))
        .with("same", Item::file(0o644, World::noise(2, 40_000)))
        .with("thing", Item::text("a file"))
        .with("turns/file", Item::text("in a directory"));
    let b = Tree::default()
        .with("built", Item::text("another"))
        .with("copied", Item::file(0o644, World::noise(2, 40_000)))
        .with("link", Item::Symlink("mode".into()))
        .with("mode", Item::file(0o755, b"mode".to_vec()))
        .with("moved", Item::file(0o644, World::noise(1, 40_000)))
        .with("new/deep/file", Item::text("new"))
        .with("same", Item::file(0o644, World::noise(2, 40_000)))
        .with("thing/inside", Item::text("a file in a directory"))
        .with("turns", Item::text("a file"));
    (a, b)
}

struct Scene {
    world: World,
    versions: [VersionId; 2],
    trees: [Tree; 2],
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let (a, b) = pair();
        Scene::of(a, b)
    }

    fn of(a: Tree, b: Tree) -> Scene {
        let (mut world, dir) = (World::default(), tempdir());
        let versions = [world.publish(&a), world.publish(&b)];
        world.sync(dir.path(), versions[0]).expect("syncs");
        Scene { world, versions, trees: [a, b], dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn sync(&self) -> floe::Result<world::Report> {
        self.world.sync(self.path(), self.versions[1])
    }

    fn sync_with(&mut self, faults: Faults) -> floe::Result<world::Report> {
        self.world.faults = faults;
        let result = self.sync();
        self.world.faults = Faults::default();
        result
    }
}

#[test]
fn what_is_edited_before_the_switch_stops_it() {
    for path in ["built", "copied", "gone", "link", "mode", "moves", "thing", "turns/file"] {
        let scene = Scene::new();
        let before = scene.trees[0].clone();
        let edit = |dir: &Path| {
            fs::remove_file(dir.join(path)).expect("there");
            fs::write(dir.join(path), "mine").expect("written");
        };
        let error = scene
            .world
            .sync_meddling(scene.path(), scene.versions[1], edit)
            .map(drop)
            .expect_err(&format!("{path} changed"));
        let named = matches!(&error, Error::Changed { path: told } if *told == scene.path().join(path));
        assert!(named, "{path}: {error:?}");
        assert!(!journal(scene.path()), "{path}");
        assert_eq!(on_disk(scene.path()), before.with(path, Item::text("mine")), "{path}");
    }
}

#[test]
fn what_goes_away_before_the_switch_need_not_be_removed() {
    let scene = Scene::new();
    let remove = |dir: &Path| fs::remove_file(dir.join("gone")).expect("there");
    scene.world.sync_meddling(scene.path(), scene.versions[1], remove).expect("syncs");
    assert_eq!(on_disk(scene.path()), scene.trees[1]);
}

// Whether in place or as a new file, at any moment of a switch; afterwards it is finished.
#[test]
fn what_is_made_after_an_interruption_is_never_lost() {
    let paths =
        ["built", "copied", "gone", "link", "moved", "moves", "new", "thing", "turns", "turns/file", "mode"];
    let in_place: fn(&Path) = |path| fs::write(path, "mine, and in place").expect("written");
    let anew: fn(&Path) = |path| {
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, "mine, and anew").expect("written");
        fs::rename(&fresh, path).expect("renamed");
    };
    let again: fn(&Path) = |path| {
        let _ = fs::remove_file(path);
        fs::write(path, "mine, made again").expect("written");
    };
    let mut interrupted = 0;
    for at in 0.. {
        let mut stopped = false;
        for (nth, path) in (0..).zip(paths) {
            // Each way to edit each path, a few operations apart.
            for edit in [[in_place, anew, again][(at + nth) as usize % 3]] {
                let mut scene = Scene::new();
                let count = AtomicU64::new(0);
                let reached = Arc::new(AtomicBool::new(false));
                let (told, root) = (reached.clone(), scene.path().to_owned());
                let _ = scene.sync_with(stopping(move |_, _| {
                    let stop = journal(&root) && count.fetch_add(1, Ordering::SeqCst) >= at;
                    told.fetch_or(stop, Ordering::SeqCst);
                    stop
                }));
                stopped |= reached.load(Ordering::SeqCst);
                let full = scene.path().join(path);
                let meta = full.symlink_metadata();
                let possible = meta
                    .as_ref()
                    .map_or_else(|_| full.parent().is_some_and(Path::is_dir), |meta| meta.is_file());
                if !journal(scene.path()) || !possible {
                    continue;
                }
                interrupted += 1;
                edit(&full);
                let mine = fs::read(&full).expect("written");
                let what = format!("{path} after {at}: {}", String::from_utf8_lossy(&mine));
                let aside = tempdir();
                let mut moves = 0;
                while let Err(error) = open(scene.path()) {
                    let Error::Conflict { what: named, reason, .. } = &error else {
                        panic!("{what}: {error:?}");
                    };
                    assert!(reason.contains("move it away"), "{what}: {error}");
                    let named = named.trim_matches('`');
                    assert!(moves == 0, "{what}: {named} is still in the way");
                    fs::rename(scene.path().join(named), aside.path().join("it")).expect("moved");
                    moves += 1;
                }
                let kept = [full.clone(), aside.path().join("it"), aside.path().join("it/file")];
                let kept = kept.iter().filter(|path| fs::read(path).is_ok_and(|text| text == mine)).count();
                assert_eq!(kept, 1, "{what}: {:?}", on_disk(scene.path()));
                assert!(!journal(scene.path()), "{what}");
                // From now on it is the user's, or a file of the version that somebody changed.
                let free = scene.trees[1].get(path).is_none();
                scene.sync().unwrap_or_else(|error| panic!("{what}: {error:?}"));
                let now = on_disk(scene.path());
                for (path, item) in scene.trees[1].items() {
                    assert_eq!(now.get(path), Some(item), "{what}");
                }
                if free && moves == 0 {
                    assert_eq!(fs::read(&full).expect("kept"), mine, "{what}");
                }
            }
        }
        if !stopped {
            break;
        }
    }
    assert!(interrupted > 100, "{interrupted}");
}

#[test]
fn what_comes_in_the_way_of_a_switch_is_named_until_it_is_moved() {
    let rows: [(&str, fn(&Path), &str); 4] = [
        ("turns/file", |dir| fs::write(dir.join("turns/mine"), "mine").expect("written"), "turns"),
        ("moved", |dir| fs::write(dir.join("moved"), "mine").expect("written"), "moved"),
        ("new", |dir| symlink("nowhere", dir.join("new")).expect("made"), "new"),
        ("moved", |dir| fs::create_dir(dir.join("moved")).expect("made"), "moved"),
    ];
    for (at, put, named) in rows {
        let mut scene = Scene::new();
        let root = scene.path().to_owned();
        let when = move |action: &str, path: &Path| {
            matches!(action, "remove" | "put in place" | "create") && path.ends_with(at) && journal(&root)
        };
        let root = scene.path().to_owned();
        let first = scene.sync_with(doing(when, move || put(&root))).map(drop).expect_err("in the way");
        let second = open(scene.path()).map(drop).expect_err("still in the way");
        for error in [&first, &second] {
            assert!(
                matches!(error, Error::Conflict { what, reason, .. }
                    if *what == format!("`{named}`") && reason.contains("move it away")),
                "{error}"
            );
        }
        if at == "turns/file" {
            assert!(first.to_string().contains("a directory that holds `mine`"), "{first}");
        }
        let aside = tempdir();
        fs::rename(scene.path().join(named), aside.path().join("it")).expect("moved");
        open(scene.path()).expect("finishes");
        assert_eq!(on_disk(scene.path()), scene.trees[1]);
    }
}

#[test]
fn directories_that_vanish_under_a_switch_are_made_again() {
    let a = Tree::default().with("d/e/x", Item::text("x"));
    let b = a.clone().with("d/e/y", Item::text("y")).with("d/e/f/z", Item::text("z"));
    let mut scene = Scene::of(a, b.clone());
    let root = scene.path().to_owned();
    let when = move |_: &str, _: &Path| journal(&root);
    let root = scene.path().to_owned();
    scene
        .sync_with(doing(when, move || fs::remove_dir_all(root.join("d")).expect("removed")))
        .expect("syncs");
    assert!(scene.path().join("d/e/f/z").exists());
    scene.sync().expect("mends");
    assert_eq!(on_disk(scene.path()), b);
}

#[test]
fn what_vanishes_under_a_switch_is_no_success() {
    let remove_staged = |dir: &Path| {
        for entry in fs::read_dir(dir.join(".floe/stage")).expect("listed") {
            fs::remove_file(entry.expect("listed").path()).expect("removed");
        }
    };
    let remove_moving = |dir: &Path| fs::remove_file(dir.join("moves")).expect("there");
    let rows: [(&str, fn(&Path)); 2] = [("put in place", remove_staged), ("move", remove_moving)];
    for (at, act) in rows {
        let mut scene = Scene::new();
        let root = scene.path().to_owned();
        let faults = doing(move |action, _| action == at, move || act(&root));
        scene.sync_with(faults).map(drop).expect_err("something is missing");
        open(scene.path()).expect("finishes");
        scene.sync().expect("mends");
        assert_eq!(on_disk(scene.path()), scene.trees[1], "{at}");
    }
}

#[test]
fn fingerprints_that_cannot_be_kept_do_not_fail_a_sync() {
    let scene = Scene::new();
    let faults = Faults::new(|_, path| {
        if path.ends_with("stats.new") || path.ends_with("stats") {
            return Err(std::io::Error::other("no space"));
        }
        Ok(())
    });
    let notices = Notices::default();
    let mut replica = Replica::open(scene.path(), &ReplicaOptions { faults, ..Default::default() }, &notices)
        .expect("opens");
    scene.world.sync_open(&mut replica, scene.versions[1], &notices).expect("the tree is the version");
    assert_eq!(replica.version(), Some(scene.versions[1]));
    assert!(notices.ignored() > 0);
    assert_eq!(on_disk(scene.path()), scene.trees[1]);
    drop(replica);
    assert_eq!(open(scene.path()).expect("opens").version(), Some(scene.versions[1]));
}

#[test]
fn fingerprints_are_written_as_privately_as_the_rest_and_through_no_link() {
    let scene = Scene::new();
    for name in ["stats", "state", "nodes"] {
        let mode = fs::metadata(scene.path().join(".floe").join(name)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    // Moved away under an open replica: what it writes goes where its handle leads.
    let outer = tempdir();
    let (dir, away) = (outer.path().join("replica"), outer.path().join("away"));
    let mut world = World::default();
    let (a, b) = pair();
    let (va, vb) = (world.publish(&a), world.publish(&b));
    world.sync(&dir, va).expect("syncs");
    let before = fs::read(dir.join(".floe/stats")).expect("read");
    let mut replica = open(&dir).expect("opens");
    let (from, to, decoy) = (dir.clone(), away.clone(), tempdir());
    fs::create_dir(decoy.path().join(".floe")).expect("made");
    let swap = |_: &Path| {
        fs::rename(&from, &to).expect("renamed");
        symlink(decoy.path(), &from).expect("made");
    };
    world.sync_open_meddling(&mut replica, vb, &Silent, &swap).expect("syncs");
    assert_eq!(fs::read_dir(decoy.path().join(".floe")).expect("listed").count(), 0);
    assert_ne!(fs::read(away.join(".floe/stats")).expect("read"), before);
    assert_eq!(on_disk(&away), b);
}

/// A file system of its own, or a second view of a directory or file, until it is dropped.
struct Mounted<'a>(&'a Path);

impl Mounted<'_> {
    fn tmpfs(at: &Path) -> Option<Mounted<'_>> {
        Mounted::mount(&["-t", "tmpfs", "none"], at)
    }

    fn bind<'a>(from: &Path, at: &'a Path) -> Option<Mounted<'a>> {
        Mounted::mount(&["--bind", from.to_str().expect("UTF-8")], at)
    }

    fn mount<'a>(words: &[&str], at: &'a Path) -> Option<Mounted<'a>> {
        let done = Command::new("mount").args(words).arg(at).output().ok()?;
        done.status.success().then_some(Mounted(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn mount_points_in_the_way_are_named_before_anything_changes() {
    type Mount = for<'a> fn(&'a Path, &Path) -> Option<Mounted<'a>>;
    let tmpfs: Mount = |at, _| Mounted::tmpfs(at);
    let bind: Mount = |at, other| Mounted::bind(other, at);
    let a = Tree::default()
        .with("dir/file", Item::text("file"))
        .with("gone", Item::text("gone"))
        .with("file", Item::text("file"))
        .with("moves", Item::text("moves"))
        .with("turns", Item::Dir(0o755));
    let b = Tree::default()
        .with("dir/file", Item::text("file"))
        .with("dir/new", Item::text("new"))
        .with("dir/moved", Item::text("moves"))
        .with("file", Item::text("other"))
        .with("turns", Item::text("a file"));
    for (path, is_dir, mount) in [
        ("dir", true, tmpfs),
        ("dir", true, bind),
        ("turns", true, tmpfs),
        ("turns", true, bind),
        ("file", false, bind),
        ("gone", false, bind),
        ("moves", false, bind),
    ] {
        let (scene, other) = (Scene::of(a.clone(), b.clone()), tempdir());
        let at = scene.path().join(path);
        let source = if is_dir {
            other.path().to_owned()
        } else {
            fs::copy(&at, other.path().join("it")).expect("copied");
            other.path().join("it")
        };
        let Some(mounted) = mount(&at, &source) else {
            eprintln!("nothing can be mounted here: not tested");
            return;
        };
        let before = on_disk(scene.path());
        let error = scene.sync().map(drop).expect_err(path);
        let named = matches!(&error, Error::Conflict { what, reason, .. }
            if *what == format!("`{path}`") && reason.contains("mounted"));
        assert!(named, "{path}: {error:?}");
        assert!(!journal(scene.path()), "{path}");
        assert_eq!(on_disk(scene.path()), before, "{path}");
        drop(mounted);
        scene.sync().expect("syncs");
        assert_eq!(on_disk(scene.path()), b, "{path}");
    }
}

#[test]
fn a_mounted_directory_that_the_version_drops_stays() {
    let a = Tree::default().with("saves", Item::Dir(0o755)).with("x", Item::text("x"));
    let b = Tree::default().with("x", Item::text("y"));
    let scene = Scene::of(a, b.clone());
    let at = scene.path().join("saves");
    let Some(mounted) = Mounted::tmpfs(&at) else { return };
    // As it is recorded, so that it is not taken for changed.
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).expect("set");
    scene.sync().expect("syncs");
    assert_eq!(on_disk(scene.path()), b.with("saves", Item::Dir(0o755)));
    drop(mounted);
}
