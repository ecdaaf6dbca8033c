//! Every verb over http, against `floe serve` on a free port.

use std::fs;
use std::process::{Child, Stdio};

use crate::bad_input::corrupt;
use crate::support::{Place, Server, first, noise, second};

/// A place with two trees, an empty store made by a first publish, and its server.
pub fn served() -> (Place, Server) {
    let place = Place::new();
    first(&place, "v1");
    second(&place, "v2");
    place.write("v0/a", "a");
    place.report(&["publish", "v0", "--store", "store", "--name", "other@1"]);
    let server = Server::start(&place, "store", &[]);
    (place, server)
}

#[test]
fn every_verb_over_http() {
    let (place, server) = served();
    let url = &*server.url;
    let published = place.report(&["publish", "v1", "--store", url, "--name", "app@1"]);
    assert!(published["chunks_new"].as_u64() > Some(0), "{published}");
    let again = place.report(&["publish", "v1", "--store", url, "--name", "app@1"]);
    assert_eq!((&again["files_read"], &again["unchanged"]), (&0.into(), &true.into()), "{again}");
    let second = place.report(&["publish", "v2", "--store", url, "--name", "app@2"]);
    assert!(second["chunks_new"].as_u64() < published["chunks_new"].as_u64(), "{second}");

    for (name, tree) in [("app@1", "v1"), ("app@2", "v2"), ("app@1", "v1"), ("app@2", "v2")] {
        place.report(&["plan", url, name, "dir"]);
        let sync = place.report(&["sync", url, name, "dir"]);
        assert!(sync["bytes_fetched"].as_u64() > Some(0) && sync["bytes_sent"].as_u64() > Some(0), "{sync}");
        place.assert_equal(tree, "dir");
    }
    let idle = place.report(&["sync", url, "app@2", "dir"]);
    assert!(idle["bytes_fetched"].as_u64() <= Some(2048) && idle["requests"].as_u64() <= Some(2), "{idle}");
    assert_eq!(place.floe(&["sync", url, "app@2", "dir", "--exit-unchanged"]).exit, 3);
    assert_eq!(place.floe(&["plan", url, "app@2", "dir", "--exit-unchanged"]).exit, 3);

    assert_eq!(place.report(&["diff", "app@1", "app@2", "--store", url])["files_moved"], 1);
    assert_eq!(place.report(&["ls", "app@1", "--store", url])["files"], 8);
    assert_eq!(place.report(&["log", "app", "--store", url])["names"], 2);
    assert_eq!(place.report(&["verify", url])["sound"], true);
    fs::remove_file(place.path("dir/readme.txt")).expect("a removal");
    assert_eq!(place.report(&["verify", "dir", "--repair", url])["repaired"], 1);

    let (exit, report) = server.stop();
    assert_eq!((exit, &report["kind"], &report["requests_cut"]), (0, &"report".into(), &0.into()));
    assert_eq!(place.report(&["verify", "store"])["sound"], true);
}

#[test]
fn a_prune_over_http_gives_publishers_a_day() {
    let (place, server) = served();
    for (tree, name) in [("v1", "app@1"), ("v2", "app@2")] {
        place.report(&["publish", tree, "--store", &server.url, "--name", name]);
    }
    let args = ["prune", &*server.url, "--keep-last", "1", "--app", "app"];
    let dry = place.report(&[&args[..], &["--dry-run"]].concat());
    let wet = place.report(&args);
    assert_eq!((&dry["chunks_condemned"], &wet["chunks_removed"]), (&wet["chunks_condemned"], &0.into()));
    assert!(wet["chunks_condemned"].as_u64() > Some(0) && wet["names_removed"][0] == "app@1", "{wet}");
    drop(server);
    // The directory is pruned by its own default, at once.
    let own = place.report(&["prune", "store", "--keep-last", "1", "--app", "app"]);
    assert_eq!(own["chunks_removed"], wet["chunks_condemned"], "{own}");
}

#[test]
fn a_mirror_copies_what_is_not_there() {
    let (place, server) = served();
    for (tree, name) in [("v1", "app@1"), ("v2", "app@2")] {
        place.report(&["publish", tree, "--store", "local", "--name", name]);
    }
    let one = place.report(&["mirror", "local", &server.url, "app@1"]);
    assert_eq!((&one["names"], &one["unchanged"]), (&1.into(), &false.into()), "{one}");
    let rest = place.report(&["mirror", "local", &server.url]);
    assert_eq!((&rest["names"], &rest["names_unchanged"]), (&1.into(), &1.into()), "{rest}");
    assert!(rest["chunks"].as_u64() < one["chunks"].as_u64(), "{one} {rest}");
    assert_eq!(place.floe(&["mirror", "local", &server.url, "--exit-unchanged"]).exit, 3);
    let back = place.report(&["mirror", &server.url, "copy"]);
    assert_eq!(back["names"], 3, "{back}");
    assert_eq!(place.report(&["verify", "copy"])["sound"], true);
    place.report(&["sync", "copy", "app@2", "dir"]);
    place.assert_equal("v2", "dir");
    // Another tree under the same name stays another tree.
    place.report(&["publish", "v2", "--store", "wrong", "--name", "app@1"]);
    assert_eq!(place.floe(&["mirror", "wrong", &server.url]).exit, 6);
    assert_eq!(place.floe(&["mirror", "local", "local"]).exit, 6);
}

#[test]
fn damage_in_a_served_store_is_mended_over_http() {
    let (place, server) = served();
    place.report(&["publish", "v1", "--store", &server.url, "--name", "app@1"]);
    place.report(&["mirror", &server.url, "copy"]);
    assert_eq!(place.report(&["verify", &server.url, "--repair", "copy"])["sound"], true);
    assert_eq!(place.report(&["verify", "copy", "--repair", &server.url])["sound"], true);
    corrupt(&place, "copy");
    assert_eq!(place.floe(&["verify", "copy"]).exit, 4);
    let mended = place.report(&["verify", "copy", "--repair", &server.url]);
    assert!(mended["sound"] == true && mended["repaired"].as_u64() > Some(0), "{mended}");
    assert_eq!(place.report(&["verify", "copy"])["sound"], true);
    place.report(&["sync", "copy", "app@1", "dir"]);
    place.assert_equal("v1", "dir");
}

#[test]
fn damage_behind_a_url_is_mended_through_it() {
    let (place, server) = served();
    place.report(&["publish", "v1", "--store", &server.url, "--name", "app@1"]);
    place.report(&["mirror", &server.url, "copy"]);
    let address = server.kill();
    place.report(&["log", "--store", "store"]);
    corrupt(&place, "store");
    let server = Server::listen(&place, "store", &address, &[]);
    assert_eq!(place.floe(&["verify", &server.url]).exit, 4);
    let mended = place.report(&["verify", &server.url, "--repair", "copy"]);
    assert!(mended["sound"] == true && mended["repaired"].as_u64() > Some(0), "{mended}");
    assert_eq!(place.report(&["verify", &server.url])["sound"], true);
    place.report(&["sync", &server.url, "app@1", "dir"]);
    place.assert_equal("v1", "dir");
}

fn begin(place: &Place, args: &[&str]) -> Child {
    place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

#[test]
fn of_two_publishers_of_one_name_one_wins() {
    let (place, server) = served();
    let publish = |tree: &'static str| ["publish", tree, "--store", &*server.url, "--name", "app@1"];
    let both = [begin(&place, &publish("v1")), begin(&place, &publish("v2"))];
    let exits: Vec<_> =
        both.into_iter().map(|child| child.wait_with_output().expect("it ends").status.code()).collect();
    assert!(exits == [Some(0), Some(6)] || exits == [Some(6), Some(0)], "{exits:?}");
    // Of different names both do, though they share chunks.
    let publish =
        |tree: &'static str, name: &'static str| ["publish", tree, "--store", &*server.url, "--name", name];
    let both = [begin(&place, &publish("v1", "b@1")), begin(&place, &publish("v2", "b@2"))];
    for child in both {
        assert_eq!(child.wait_with_output().expect("it ends").status.code(), Some(0));
    }
    assert_eq!(place.report(&["verify", &server.url])["sound"], true);
}

#[test]
fn a_store_that_is_served_is_reached_by_its_url() {
    let (place, _server) = served();
    for args in [&["log", "--store", "store"][..], &["publish", "v1", "--store", "store", "--name", "a@1"]] {
        let ran = place.floe(args);
        assert!(ran.exit == 6 && ran.stderr.contains("give the URL that it serves"), "{ran:?}");
    }
}

#[test]
fn the_log_is_json_on_request() {
    let place = Place::new();
    place.write("v0/a", "a");
    place.report(&["publish", "v0", "--store", "store", "--name", "a@1"]);
    let server = Server::start(&place, "store", &["--log", "json"]);
    place.report(&["log", "--store", &server.url]);
    drop(server);
    let log = fs::read_to_string(place.path("serve.log")).expect("a log");
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().any(|line| line["fields"]["path"] == "/v1/names"), "{log}");
}

#[test]
fn a_mirror_answers_for_a_server_that_is_gone() {
    let (place, server) = served();
    place.report(&["publish", "v1", "--store", &server.url, "--name", "app@1"]);
    place.report(&["publish", "v0", "--store", "store-2", "--name", "a@1"]);
    let gone = Server::start(&place, "store-2", &[]).kill();
    let gone = format!("http://{gone}");
    let args = ["sync", &*gone, "app@1", "dir", "--retries", "0"];
    let alone = place.floe(&args);
    assert!(alone.exit == 5 && alone.stderr.contains("hint: nothing listens there"), "{alone:?}");
    place.report(&[&args[..], &["--mirror", &server.url]].concat());
    place.assert_equal("v1", "dir");
}

#[test]
fn a_rate_is_kept() {
    let place = Place::new();
    place.write("v1/large.bin", noise(9, 3 << 20));
    place.report(&["publish", "v1", "--store", "store", "--name", "app@1"]);
    let server = Server::start(&place, "store", &[]);
    let fast = place.report(&["sync", &server.url, "app@1", "fast"]);
    let slow = place.report(&["sync", &server.url, "app@1", "slow", "--limit-rate", "1M"]);
    place.assert_equal("fast", "slow");
    // Three seconds, less what may come at once.
    assert!(slow["elapsed_ms"].as_u64() > Some(1000), "{fast} {slow}");
}
