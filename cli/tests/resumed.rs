//! A server or a client that is killed in the middle: what was received is not received again.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Place, Ran, Server, noise};

const LARGE: usize = 12 << 20;

/// A served store with two versions that share little; the server sends 6 MiB a second.
fn served() -> (Place, Server) {
    let place = Place::new();
    for (tree, seed) in [("v1", 1), ("v2", 2)] {
        place.write(&format!("{tree}/large.bin"), noise(seed, LARGE));
        place.write(&format!("{tree}/same.bin"), noise(9, 1 << 20));
        let name = format!("app@{seed}");
        place.report(&["publish", tree, "--store", "store", "--name", &name]);
    }
    let server = Server::start(&place, "store", &SLOW);
    (place, server)
}

const SLOW: [&str; 2] = ["--limit-rate", "6M"];

fn begin(place: &Place, args: &[&str]) -> Child {
    let mut command = place.command(&[args, &["--json"]].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

fn end(child: Child) -> Ran {
    let done = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Ran { exit: done.status.code().unwrap_or(-1), stdout: text(done.stdout), stderr: text(done.stderr) }
}

// What is tested is the moment, so time has to pass: two or three seconds is what the whole takes.
fn moment() {
    thread::sleep(Duration::from_millis(900));
}

fn fetched(report: &Value) -> usize {
    report["bytes_fetched"].as_u64().expect("a number") as usize
}

#[test]
fn a_server_that_comes_back_is_asked_for_the_rest() {
    for name in ["app@1", "app@2"] {
        let (place, server) = served();
        if name == "app@2" {
            place.report(&["sync", "--quiet", &server.url, "app@1", "dir"]);
        }
        let sync = ["sync", &*server.url.clone(), name, "dir", "--retries", "20"].map(str::to_owned);
        let child = begin(&place, &sync.each_ref().map(String::as_str));
        moment();
        let address = server.kill();
        let server = Server::listen(&place, "store", &address, &SLOW);
        let ran = end(child);
        assert_eq!(ran.exit, 0, "{name}: {ran:?}");
        let report = ran.last_object();
        // Less than the whole and a quarter of it: at most what was on its way came twice.
        assert!(fetched(&report) < (LARGE + (1 << 20)) * 5 / 4, "{name}: {report}");
        place.assert_equal(if name == "app@1" { "v1" } else { "v2" }, "dir");
        assert_eq!(place.report(&["verify", &server.url])["sound"], true);
    }
}

#[test]
fn a_sync_that_was_killed_or_lost_its_server_goes_on_where_it_was() {
    for name in ["app@1", "app@2"] {
        let (place, server) = served();
        if name == "app@2" {
            place.report(&["sync", &server.url, "app@1", "dir"]);
        }
        let url = server.url.clone();
        let sync = ["sync", &*url, name, "dir", "--retries", "0"];
        let mut child = begin(&place, &sync);
        moment();
        child.kill().expect("killed");
        child.wait().expect("it ends");
        let child = begin(&place, &sync);
        moment();
        let address = server.kill();
        let ran = end(child);
        assert!(ran.exit == 5 && ran.stderr.contains("hint: "), "{name}: {ran:?}");
        let _server = Server::listen(&place, "store", &address, &SLOW);
        let last = place.report(&sync);
        assert!(fetched(&last) < LARGE / 2, "{name}: {last}");
        place.assert_equal(if name == "app@1" { "v1" } else { "v2" }, "dir");
    }
}

#[test]
fn an_interrupt_ends_the_waiting_for_a_server_that_is_gone() {
    let (place, server) = served();
    let url = format!("http://{}", server.kill());
    let child = begin(&place, &["sync", &url, "app@1", "dir", "--retries", "100"]);
    moment();
    let pid = child.id().to_string();
    let begin = Instant::now();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let ran = end(child);
    assert_eq!(ran.exit, 130, "{ran:?}");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_publish_that_was_killed_sends_only_the_rest() {
    let (place, server) = served();
    place.write("v3/large.bin", noise(3, 3 * LARGE));
    // Several packs are kept within the moment.
    let publish = ["publish", "v3", "--store", &*server.url, "--name", "app@3", "--limit-rate", "16M"];
    let mut child = begin(&place, &publish);
    moment();
    child.kill().expect("killed");
    child.wait().expect("it ends");
    let rest = place.report(&publish);
    let (new, whole) = (rest["bytes_new"].as_u64(), rest["bytes"].as_u64());
    assert!(
        new > Some(0) && new < whole,
        "killed in the middle, and what was kept is not sent again: {rest}"
    );
    assert_eq!(place.report(&["verify", &server.url])["sound"], true);
    place.report(&["sync", &server.url, "app@3", "dir"]);
    place.assert_equal("v3", "dir");
}
