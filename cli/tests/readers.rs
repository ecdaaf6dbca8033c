//! Many may read a store at once, also one that they may not write.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;

use floe::store::{RocksOptions, RocksStore, Source, Store};

use crate::support::{Place, Ran, first, second};

/// Every verb that only reads a store, with its exit code.
const READING: &[(&[&str], i32)] = &[
    (&["log", "--store", "store"], 0),
    (&["ls", "app@1", "--store", "store"], 0),
    (&["diff", "app@1", "app@2", "--store", "store"], 0),
    (&["plan", "store", "app@2", "dir"], 0),
    (&["sync", "store", "app@1", "dir"], 0),
    (&["verify", "store"], 0),
    (&["verify", "dir", "--repair", "store"], 0),
    (&["prune", "store", "--keep-last", "1", "--dry-run"], 0),
];

fn published() -> Place {
    let place = Place::new();
    first(&place, "v1");
    second(&place, "v2");
    place.report(&["publish", "v1", "--store", "store", "--name", "app@1"]);
    place.report(&["publish", "v2", "--store", "store", "--name", "app@2"]);
    place.report(&["sync", "store", "app@1", "dir"]);
    place
}

/// Every file below, with its length and when it was changed.
fn listing(dir: &Path) -> Vec<(std::path::PathBuf, u64, SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let meta = entry.metadata().expect("metadata");
        found.push((entry.path(), meta.len(), meta.modified().expect("a time")));
        if meta.is_dir() {
            found.extend(listing(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn readers_do_not_disturb_each_other_and_leave_no_trace() {
    let place = published();
    let before = listing(&place.path("store"));
    let lock = File::open(place.path("store/LOCK")).expect("the lock file");
    lock.try_lock_shared().expect("nobody writes");
    for (args, exit) in READING {
        let ran = place.floe(args);
        assert_eq!(ran.exit, *exit, "{args:?}: {ran:?}");
    }
    assert_eq!(listing(&place.path("store")), before);
    let args = ["publish", "v1", "--store", "store", "--name", "app@3"];
    let Ran { exit, stderr, .. } = place.floe(&args);
    assert_eq!((exit, stderr.lines().next()), (6, Some("error: store `store` is in use by another process")));
    drop(lock);
    assert_eq!(place.floe(&args).exit, 0);
}

/// The command, run by a shell in mounts of its own after `before` was done there.
fn in_own_mounts(place: &Place, before: &str, args: &[&str]) -> Command {
    let floe = place.command(args);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &format!("{before} && exec \"$@\""), "sh"]);
    command.arg(floe.get_program()).args(floe.get_args()).current_dir(place.path("")).stdin(Stdio::null());
    command
}

#[test]
fn a_store_on_a_read_only_mount_is_read() {
    let place = published();
    let read_only =
        "mount --bind store store && mount -o remount,bind,ro store && ! touch store/x 2>/dev/null";
    let works = in_own_mounts(&place, read_only, &["--version"]).output();
    if !works.is_ok_and(|done| done.status.success()) {
        println!("SKIPPED: this user may not mount");
        return;
    }
    for lock_is_there in [true, false] {
        if !lock_is_there {
            fs::remove_file(place.path("store/LOCK")).expect("a removal");
        }
        for (args, exit) in READING {
            let ran = place.ran(&mut in_own_mounts(&place, read_only, args));
            assert_eq!(ran.exit, *exit, "{args:?}: {ran:?}");
        }
    }
    let args = ["publish", "v1", "--store", "store", "--name", "app@3"];
    let ran = place.ran(&mut in_own_mounts(&place, read_only, &args));
    assert!(ran.exit == 1 && ran.stderr.contains("hint: nothing can be written there"), "{ran:?}");
}

/// The command as root without some of root's rights, or `None`, told loudly.
fn without(place: &Place, rights: &str, args: &[&str]) -> Option<Command> {
    let works = Command::new("setpriv").args(["--bounding-set", rights, "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        println!("SKIPPED: not root, or there is no setpriv");
        return None;
    }
    let floe = place.command(args);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", rights]).arg(floe.get_program()).args(floe.get_args());
    command.current_dir(place.path("")).stdin(Stdio::null());
    Some(command)
}

#[test]
fn a_store_of_another_user_is_read() {
    let place = published();
    let chown = Command::new("chown").args(["-R", "65534", "store"]).current_dir(place.path("")).status();
    if !chown.is_ok_and(|status| status.success()) {
        println!("SKIPPED: this user may give nothing away");
        return;
    }
    for (args, exit) in READING {
        let Some(mut command) = without(&place, "-dac_override,-dac_read_search", args) else { return };
        let ran = place.ran(&mut command);
        assert_eq!(ran.exit, *exit, "{args:?}: {ran:?}");
    }
}

#[test]
fn a_holder_that_may_not_be_signalled_is_alive() {
    let place = published();
    let user = ["--reuid", "65534", "--clear-groups", "sleep", "600"];
    let Ok(mut sleeper) = Command::new("setpriv").args(user).spawn() else {
        println!("SKIPPED: there is no setpriv");
        return;
    };
    let mut lock = File::options().write(true).open(place.path("store/LOCK")).expect("the lock file");
    lock.try_lock().expect("nobody holds it");
    writeln!(lock, "{:<10}", sleeper.id()).expect("written");
    let ran =
        without(&place, "-kill", &["log", "--store", "store"]).map(|mut command| place.ran(&mut command));
    let _ = sleeper.kill();
    let _ = sleeper.wait();
    let Some(ran) = ran else { return };
    assert_eq!(ran.exit, 6);
    assert!(ran.stderr.contains(&format!("in use by process {}", sleeper.id())), "{ran:?}");
}

#[test]
fn a_damaged_version_is_one_row_of_the_log() {
    let place = published();
    {
        let options = RocksOptions::default();
        let store = RocksStore::open(place.path("store"), &options).expect("opened");
        let names = store.names(None).expect("listed");
        let root = names.first().expect("app@1").version.root();
        store.replace_nodes(vec![(root, b"something else".to_vec())]).expect("replaced");
    }
    let log = place.floe(&["log", "--store", "store"]);
    assert_eq!(log.exit, 0, "{log:?}");
    let row = |name| log.stdout.lines().find(|line| line.starts_with(name)).expect("a row");
    assert!(row("app@1").contains("damaged") && !row("app@2").contains("damaged"), "{log:?}");
    let objects = place.floe(&["log", "--store", "store", "--json"]).objects();
    assert_eq!((&objects[0]["damaged"], &objects[0]["files"]), (&true.into(), &serde_json::Value::Null));
    assert_eq!(objects[1]["damaged"], false);
}

#[test]
fn a_repair_that_cannot_work_says_why() {
    let place = published();
    fs::remove_file(place.path("dir/readme.txt")).expect("a removal");
    place.mode("dir/bin/tool", 0o600);
    let wrong = place.floe(&["verify", "dir", "--repair", "nowhere"]);
    assert!(wrong.exit == 1 && wrong.stderr.starts_with("error: no store in `nowhere`"), "{wrong:?}");
    let mended = place.report(&["verify", "dir", "--repair", "store"]);
    assert_eq!((&mended["sound"], &mended["repaired"]), (&true.into(), &2.into()));
    place.assert_equal("v1", "dir");
}
