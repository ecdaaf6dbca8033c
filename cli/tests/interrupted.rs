//! Killed at moments chosen by a fixed seed, a command that is run again finishes the work.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Place, first, noise, second};

const ROUNDS: u64 = 12;

/// Starts the command, kills it after a while, and says whether it was still running.
fn kill_after(mut command: Command, time: Duration) -> bool {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    // What is tested is the moment of the kill, so time has to pass.
    thread::sleep(time);
    let running = child.try_wait().expect("its state").is_none();
    let _ = child.kill();
    child.wait().expect("it ends");
    running
}

fn moments(whole: Duration) -> impl Iterator<Item = Duration> {
    noise(77, ROUNDS as usize).into_iter().map(move |byte| whole * u32::from(byte) / 255)
}

#[test]
fn a_killed_publish_leaves_a_store_that_works() {
    let place = Place::new();
    first(&place, "v1");
    place.write("v1/large.bin", noise(9, 24 << 20));
    let args = |store| ["publish", "v1", "--store", store, "--name", "app@1"];
    let begin = Instant::now();
    let whole = place.report(&args("whole"));
    let took = begin.elapsed();
    for time in moments(took) {
        kill_after(place.command(&args("store")), time);
    }
    assert_eq!(place.report(&args("store"))["version"], whole["version"]);
    assert_eq!(place.report(&["verify", "store"])["sound"], true);
    place.report(&["sync", "store", "app@1", "dir"]);
    place.assert_equal("v1", "dir");
}

#[test]
fn a_killed_sync_is_the_old_or_the_new_tree_after_the_next() {
    let place = Place::new();
    first(&place, "v1");
    second(&place, "v2");
    place.write("v1/large.bin", noise(9, 24 << 20));
    place.write("v2/large.bin", noise(10, 24 << 20));
    for (tree, name) in [("v1", "app@1"), ("v2", "app@2")] {
        place.report(&["publish", tree, "--store", "store", "--name", name]);
    }
    let begin = Instant::now();
    place.report(&["sync", "store", "app@1", "dir"]);
    let took = begin.elapsed();
    let mut targets = [("app@2", "v2"), ("app@1", "v1")].into_iter().cycle();
    for time in moments(took) {
        let (name, tree) = targets.next().expect("endless");
        kill_after(place.command(&["sync", "store", name, "dir"]), time);
        place.report(&["sync", "store", name, "dir"]);
        place.assert_equal(tree, "dir");
    }
    assert_eq!(place.report(&["verify", "dir"])["sound"], true);
    assert_eq!(place.report(&["verify", "store"])["sound"], true);
}

#[test]
fn an_interrupt_is_a_pause() {
    let place = Place::new();
    place.write("v1/large.bin", noise(9, 64 << 20));
    let args = ["publish", "v1", "--store", "store", "--name", "app@1", "--level", "19", "--json"];
    let child =
        place.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // At the highest level this takes many seconds; the store is made when the work begins.
    let begin = Instant::now();
    while !place.path("store/FORMAT").exists() && begin.elapsed() < Duration::from_secs(30) {
        thread::sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let done = child.wait_with_output().expect("it ends");
    assert_eq!(done.status.code(), Some(130));
    assert_eq!(String::from_utf8_lossy(&done.stderr), "cancelled; run the same command again to continue\n");
    let stdout = String::from_utf8_lossy(&done.stdout);
    assert!(stdout.lines().last().is_some_and(|line| line.contains(r#""class":"cancelled""#)), "{stdout}");
    place.report(&["publish", "v1", "--store", "store", "--name", "app@1"]);
    assert_eq!(place.report(&["verify", "store"])["sound"], true);
}
