//! A disk that is really full, and then has room again. Needs root, for a small disk of its own.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::{Place, noise};

/// Runs `script` in mounts of its own, with `$floe` and a disk `small` of 12 MiB. False, told loudly, if that is not
/// allowed here.
fn with_small_disk(place: &Place, script: &str) -> bool {
    let mount = "mkdir small && mount -t tmpfs -o size=12m none small";
    let run = |text: &str| {
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-c", text]).current_dir(place.path("")).stdin(Stdio::null());
        shell.env("floe", env!("CARGO_BIN_EXE_floe")).output()
    };
    if !run("mount -t tmpfs -o size=1m none .").is_ok_and(|done| done.status.success()) {
        println!("SKIPPED: this user may not mount");
        return false;
    }
    let done = run(&format!("{mount} && {script}")).expect("it runs");
    assert!(done.status.success(), "{done:?}");
    true
}

fn text(place: &Place, file: &str) -> String {
    fs::read_to_string(place.path(file)).expect("what was written")
}

// Thousands of files and one large one, 44 MB that do not shrink.
fn many(place: &Place) {
    for n in 0..3000 {
        place.write(&format!("many/{:02}/{n}", n % 50), noise(n, 8000));
    }
    place.write("many/large", noise(9999, 20_000_000));
}

#[test]
fn a_publish_stops_binds_nothing_and_continues() {
    let place = Place::new();
    many(&place);
    let publish = "timeout 120 $floe publish many --store small/store --name app@1";
    let done = with_small_disk(
        &place,
        &format!(
            "{{ {publish} 2>first; echo $? >first.exit; ls small/store/db-ingest >left; \
               cat /dev/zero >small/store/db-ingest/0.sst; $floe prune small/store --all 2>pruned; echo $? >pruned.exit; \
               $floe log --store small/store --json >log 2>log.err; \
               {publish} 2>second; echo $? >second.exit; \
               mount -o remount,size=256m small; \
               {publish} --json >third && $floe verify small/store >verified && $floe sync small/store app@1 dir >synced; }}"
        ),
    );
    if !done {
        return;
    }
    assert_eq!(text(&place, "left"), "", "the table that could not be written is gone");
    assert_eq!(text(&place, "pruned.exit"), "0\n", "{}", text(&place, "pruned"));
    for run in ["first", "second"] {
        assert_eq!(text(&place, &format!("{run}.exit")), "10\n", "{}", text(&place, run));
        assert!(
            text(&place, run).contains("hint: free some space and publish again"),
            "{}",
            text(&place, run)
        );
    }
    assert!(
        text(&place, "log").contains(r#""names":0"#),
        "{} {}",
        text(&place, "log"),
        text(&place, "log.err")
    );
    place.assert_equal("many", "dir");
}

#[test]
fn a_sync_stops_leaves_the_old_version_and_continues() {
    let place = Place::new();
    place.write("old/readme", "old");
    place.report(&["publish", "old", "--store", "store", "--name", "app@0"]);
    many(&place);
    place.report(&["publish", "many", "--store", "store", "--name", "app@1"]);
    let sync = "timeout 120 $floe sync store app@1 small/dir";
    let done = with_small_disk(
        &place,
        &format!(
            "{{ $floe sync store app@0 small/dir >old.out; {sync} 2>first; echo $? >first.exit; \
               diff -r --exclude=.floe old small/dir; \
               mount -o remount,size=256m small; {sync} --json >second; cp -r small/dir dir; }}"
        ),
    );
    if !done {
        return;
    }
    assert_eq!(text(&place, "first.exit"), "10\n", "{}", text(&place, "first"));
    assert!(
        text(&place, "first").contains("hint: free some space and sync again"),
        "{}",
        text(&place, "first")
    );
    let report: serde_json::Value =
        serde_json::from_str(text(&place, "second").lines().last().expect("a line")).expect("JSON");
    assert!(report["bytes_reused"].as_u64() > Some(0), "what was built is kept: {report}");
    assert!(!place.path("dir/readme").exists());
    place.assert_equal("many", "dir");
}
