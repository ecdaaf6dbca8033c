//! The main job, from a directory to a store to a directory and back, and what every report promises.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::{Place, first, noise, second};

/// A place with both versions published.
fn published() -> Place {
    let place = Place::new();
    first(&place, "v1");
    second(&place, "v2");
    place.report(&["publish", "v1", "--store", "store", "--name", "app@1"]);
    place.report(&["publish", "v2", "--store", "store", "--name", "app@2"]);
    place
}

#[test]
fn there_and_back_again() {
    let place = published();
    for (name, tree) in [("app@1", "v1"), ("app@2", "v2"), ("app@1", "v1"), ("app@2", "v2")] {
        let plan = place.report(&["plan", "store", name, "dir"]);
        let sync = place.report(&["sync", "store", name, "dir"]);
        let both = ["version", "from", "unchanged", "bytes_fetched", "bytes_reused", "bytes_written"];
        let counts = ["requests", "files_changed", "files_moved", "files_removed"];
        for field in both.iter().chain(&counts) {
            assert_eq!(plan[field], sync[field], "{field} of plan and sync to {name}");
        }
        place.assert_equal(tree, "dir");
        assert_eq!(place.report(&["verify", "dir"])["sound"], true);
    }
    let again = place.report(&["sync", "store", "app@2", "dir"]);
    assert_eq!(again["unchanged"], true);
    // Only the name is asked for.
    assert!(again["bytes_fetched"].as_u64() < Some(1000) && again["bytes_written"] == 0, "{again}");
    assert_eq!(place.floe(&["sync", "store", "app@2", "dir", "--exit-unchanged"]).exit, 3);
    assert_eq!(place.floe(&["plan", "store", "app@2", "dir", "--exit-unchanged"]).exit, 3);
    assert_eq!(place.floe(&["plan", "store", "app@1", "dir", "--exit-unchanged"]).exit, 0);
}

#[test]
fn only_what_changed_is_moved() {
    let place = published();
    place.report(&["sync", "store", "app@1", "dir"]);
    let diff = place.report(&["diff", "app@1", "app@2", "--store", "store"]);
    let sync = place.report(&["sync", "store", "app@2", "dir"]);
    let moved = sync["bytes_fetched"].as_u64().expect("a number");
    // One edit in the big file is at most three chunks of 256 KiB; the new file has 100 000 bytes.
    assert!((100_000..900_000).contains(&moved), "{moved}");
    assert!(diff["bytes_update"].as_u64().expect("a number") <= moved, "{diff} {sync}");
    let expected = [("files_added", 2), ("files_removed", 1), ("files_moved", 1)];
    for (field, count) in expected {
        assert_eq!(diff[field], count, "{field}: {diff}");
    }
    assert_eq!(sync["files_moved"], 1);
}

#[test]
fn diff_lists_every_path_that_differs() {
    let place = published();
    let ran = place.floe(&["diff", "app@1", "app@2", "--store", "store"]);
    let lines: Vec<_> = ran.stdout.lines().take_while(|line| line.as_bytes().get(1) == Some(&b' ')).collect();
    assert_eq!(
        lines,
        [
            "M bin/link",
            "M data/big.bin",
            "D data/goes.bin",
            "A data/new.bin",
            "M hollow",
            "R data/moves.bin -> moved/moved.bin",
            "M readme.txt",
        ]
    );
    let objects = place.floe(&["diff", "app@1", "app@2", "--store", "store", "--json"]).objects();
    assert_eq!(objects.len(), lines.len() + 1);
    assert_eq!(objects[5]["from"], "data/moves.bin");
    assert_eq!(place.floe(&["diff", "app@1", "app@1", "--store", "store", "--exit-unchanged"]).exit, 3);
}

#[test]
fn ls_and_log_list_everything() {
    let place = published();
    let ran = place.floe(&["ls", "app@1", "--store", "store"]);
    assert_eq!(ran.exit, 0);
    for line in [
        "-rw-r--r--            6 readme.txt",
        "-rwxr-xr-x           10 bin/tool",
        "lrwxrwxrwx            - bin/link -> ../readme.txt",
        "drwxr-xr-x            - hollow/",
        "-rw-r--r--      3145728 data/big.bin",
    ] {
        assert!(ran.stdout.contains(line), "{line}: {}", ran.stdout);
    }
    let entries = place.floe(&["ls", "app@1", "--store", "store", "--json"]).objects();
    let big = entries.iter().find(|entry| entry["path"] == "data/big.bin").expect("the big file");
    assert_eq!(
        (&big["type"], &big["mode"], &big["bytes"]),
        (&"file".into(), &"0644".into(), &(3 << 20).into())
    );
    let by_id = place.report(&[
        "ls",
        entries.last().expect("a report")["version"].as_str().expect("an id"),
        "--store",
        "store",
    ]);
    assert_eq!(by_id["files"], 8);

    let names = place.floe(&["log", "app", "--store", "store", "--json"]).objects();
    assert_eq!(names.iter().filter_map(|name| name["name"].as_str()).collect::<Vec<_>>(), ["app@1", "app@2"]);
    assert_eq!(names[0]["version"].as_str().expect("an id").len(), 64);
    let table = place.floe(&["log", "--store", "store"]).stdout;
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().last().is_some_and(|line| line.starts_with("store     2 names, ")), "{table}");
    let none = place.floe(&["log", "other", "--store", "store"]);
    assert!(none.exit == 1 && none.stderr.contains("no name of app `other` in store"), "{none:?}");
}

#[test]
fn publishing_again_is_recognised() {
    let place = published();
    let again = place.report(&["publish", "v1", "--store", "store", "--name", "app@1"]);
    assert_eq!((&again["unchanged"], &again["chunks_new"]), (&true.into(), &0.into()));
    assert_eq!(
        place.floe(&["publish", "v1", "--store", "store", "--name", "app@1", "--exit-unchanged"]).exit,
        3
    );
    let renamed = place.report(&["publish", "v1", "--store", "store", "--name", "app@1-same", "--rehash"]);
    assert_eq!((&renamed["unchanged"], &renamed["version"]), (&false.into(), &again["version"]));
    assert_eq!(renamed["files_read"], renamed["files"]);
    let plain = place.report(&["publish", "v2", "--store", "plain", "--name", "app@2", "--level", "none"]);
    assert!(plain["bytes_stored"].as_u64() >= plain["bytes_new"].as_u64(), "{plain}");
    let some = ["publish", "v1", "--store", "store", "--name", "app@some", "--exclude", "*.bin"];
    assert_eq!(place.report(&some)["left_out"], 4);
}

#[test]
fn prune_removes_what_nothing_kept_needs() {
    let place = published();
    let dry = place.report(&["prune", "store", "--keep-last", "1", "--dry-run"]);
    let wet = place.report(&["prune", "store", "--keep-last", "1"]);
    for field in ["names_removed", "names_kept", "chunks_removed", "bytes_removed", "nodes_removed"] {
        assert_eq!(dry[field], wet[field], "{field}");
    }
    assert_eq!(wet["names_removed"][0], "app@1");
    assert_eq!(dry["bytes_stored"], wet["bytes_stored_before"]);
    assert!(wet["bytes_stored"].as_u64() < wet["bytes_stored_before"].as_u64(), "{wet}");
    assert!(wet["chunks_removed"].as_u64() > Some(0), "{wet}");
    assert_eq!(place.report(&["verify", "store"])["sound"], true);
    place.report(&["sync", "store", "app@2", "dir"]);
    place.assert_equal("v2", "dir");
    assert_eq!(place.floe(&["prune", "store", "--keep-last", "1", "--exit-unchanged"]).exit, 3);
    assert_eq!(place.floe(&["sync", "store", "app@1", "dir"]).exit, 1);
}

#[test]
fn foreign_files_stay_unless_asked_and_protected_ones_always() {
    let place = published();
    place.report(&["sync", "store", "app@1", "dir"]);
    place.write("dir/saves/game.sav", "mine");
    place.write("dir/junk", "junk");
    let kept = place.report(&["sync", "store", "app@2", "dir"]);
    assert_eq!(kept["files_foreign"], 2);
    place.report(&["sync", "store", "app@2", "dir", "--delete", "--protect", "saves/**"]);
    assert!(!place.path("dir/junk").exists());
    assert_eq!(fs::read(place.path("dir/saves/game.sav")).expect("the save"), b"mine");
}

#[test]
fn damage_is_found_and_mended() {
    let place = published();
    place.report(&["sync", "store", "app@1", "dir"]);
    let mut big = noise(1, 3 << 20);
    big[2_000_000] ^= 1;
    fs::write(place.path("dir/data/big.bin"), big).expect("a file");
    fs::remove_file(place.path("dir/readme.txt")).expect("a removal");
    let found = place.floe(&["verify", "dir", "--json"]);
    assert_eq!(found.exit, 4, "{found:?}");
    let damaged: Vec<_> = found.objects().into_iter().filter(|line| line["kind"] == "damage").collect();
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert_eq!(found.last_object()["damaged"], 2);
    let mended = place.report(&["verify", "dir", "--repair", "store"]);
    assert_eq!((&mended["sound"], &mended["repaired"]), (&true.into(), &2.into()));
    place.assert_equal("v1", "dir");
}

#[test]
fn quiet_says_nothing_and_a_closed_pipe_is_no_failure() {
    let place = Place::new();
    for n in 0..3000 {
        place.write(&format!("many/file-{n:05}-with-a-name-that-fills-the-pipe-rather-soon"), "");
    }
    let quiet = place.floe(&["publish", "many", "--store", "store", "--name", "many@1", "--quiet"]);
    assert_eq!((quiet.exit, &*quiet.stdout, &*quiet.stderr), (0, "", ""));
    let mut ls = place.command(&["ls", "many@1", "--store", "store"]);
    let mut ls = ls.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let mut line = String::new();
    BufReader::new(ls.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let done = ls.wait_with_output().expect("it ends");
    assert_eq!((done.status.code(), &*done.stderr), (Some(0), &b""[..]), "{line}");
}
