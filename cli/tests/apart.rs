//! A store and a directory that lie in each other, and what else must not be waited for or taken at its word.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Place, first};

/// `w` with a store in it, and another directory that has the same version.
fn nested() -> Place {
    let place = Place::new();
    first(&place, "w");
    place.report(&["publish", "w", "--store", "w/st", "--name", "app@1"]);
    place.report(&["sync", "w/st", "app@1", "dir"]);
    place
}

#[test]
fn a_store_and_a_replica_are_kept_apart() {
    let place = nested();
    symlink("w/st", place.path("link")).expect("made");
    fs::create_dir(place.path("w/sub")).expect("made");
    for (source, dir) in [
        ("w/st", "w"),
        ("w/st", "w/st"),
        ("w/st", "w/st/db"),
        ("w/st", "w/st/new/deep"),
        ("w/st", "w/st/none/../db"),
        ("w/st", "w/sub/../st/db"),
        ("w/st", "link/db"),
        ("link", "w"),
    ] {
        for verb in ["plan", "sync"] {
            let ran = place.floe(&[verb, source, "app@1", dir, "--delete"]);
            assert_eq!(ran.exit, 6, "{verb} {source} {dir}: {ran:?}");
        }
    }
    // Another store's directory, too.
    place.report(&["publish", "dir", "--store", "other", "--name", "app@1"]);
    assert_eq!(place.floe(&["sync", "w/st", "app@1", "other/db", "--delete"]).exit, 6);
    assert_eq!(place.floe(&["publish", "w/st", "--store", "w/st", "--name", "app@9"]).exit, 6);
    for store in ["w/st", "other"] {
        assert_eq!(place.report(&["verify", store])["sound"], true, "{store}");
        assert!(!place.path(store).join("db/.floe").exists());
    }
}

// Ends by itself well within the time, or is killed and fails the test.
fn ends(mut child: Child) -> i32 {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = child.try_wait().expect("waited") {
            return status.code().unwrap_or(-1);
        }
        if Instant::now() > until {
            child.kill().expect("killed");
            panic!("it hangs");
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_pipe_in_the_place_of_a_state_file_is_not_waited_for() {
    for (name, exit) in [("stats", 0), ("state", 6), ("nodes", 6), ("journal", 6), ("FORMAT", 6), ("lock", 6)]
    {
        let place = nested();
        let path = place.path("dir/.floe").join(name);
        let _ = fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
        let mut command = place.command(&["sync", "w/st", "app@1", "dir"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        assert_eq!(ends(child), exit, "{name}");
    }
}

#[test]
fn threads_have_a_bound() {
    let place = nested();
    for (threads, exit) in [("0", 2), ("1", 0), ("1025", 2), ("100000", 2), ("x", 2)] {
        assert_eq!(
            place.floe(&["sync", "w/st", "app@1", "dir", "--threads", threads]).exit,
            exit,
            "{threads}"
        );
    }
}
