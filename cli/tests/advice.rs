//! What a newcomer runs into first: each error says what is wrong and what to do about it.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use expect_test::expect;

use crate::bad_input::{Row, nothing, refused, synced};
use crate::support::{Place, first};

const PUBLISH: &[&str] = &["publish", "v1", "--store", "store", "--name", "app@1"];
const SYNC: &[&str] = &["sync", "store", "app@1", "dir"];

fn pipe(place: &Place, name: &str) {
    let _ = fs::remove_file(place.path(name));
    assert!(Command::new("mkfifo").arg(place.path(name)).status().expect("mkfifo runs").success());
}

#[test]
fn no_directory_where_one_belongs() {
    refused(vec![
        Row {
            before: |place| place.write("v1", "a file"),
            args: PUBLISH,
            exit: 1,
            stderr: expect![[r#"
            error: cannot open directory `v1`
            caused by: Not a directory (os error 20)
            hint: give the directory that holds what is to be published; a single file is not
        "#]],
        },
        Row {
            before: |place| symlink("nowhere", place.path("v1")).expect("made"),
            args: PUBLISH,
            exit: 1,
            stderr: expect![[r#"
                error: cannot open directory `v1`
                caused by: No such file or directory (os error 2)
                hint: this is a symlink that leads nowhere: mend it or remove it, or give another path
            "#]],
        },
        Row {
            before: |place| {
                first(place, "v1");
                place.report(PUBLISH);
                place.write("dir", "a file");
            },
            args: SYNC,
            exit: 1,
            stderr: expect![[r#"
                error: cannot create `dir`
                caused by: File exists (os error 17)
                hint: a file is where a directory should be: move it away, or give another path
            "#]],
        },
        Row {
            before: |place| {
                first(place, "v1");
                place.report(PUBLISH);
                symlink("nowhere", place.path("dir")).expect("made");
            },
            args: SYNC,
            exit: 1,
            stderr: expect![[r#"
                error: cannot find `HERE/dir`
                caused by: No such file or directory (os error 2)
                hint: this is a symlink that leads nowhere: mend it or remove it, or give another path
            "#]],
        },
    ]);
    // No store is made for what is not there.
    let place = Place::new();
    assert_eq!(place.floe(PUBLISH).exit, 1);
    assert!(!place.path("store").exists());
}

#[test]
fn state_that_is_not_floes() {
    refused(vec![
        Row {
            before: |place| {
                synced(place);
                fs::rename(place.path("dir/.floe"), place.path("real")).expect("renamed");
                symlink("../real", place.path("dir/.floe")).expect("made");
            },
            args: SYNC,
            exit: 6,
            stderr: expect![[r#"
                error: `.floe` in replica `dir`: it is a symlink, where floe keeps its own state
                hint: move it away and run this again
            "#]],
        },
        Row {
            before: |place| {
                synced(place);
                pipe(place, "dir/.floe/state");
            },
            args: &["verify", "dir"],
            exit: 6,
            stderr: expect![[r#"
                error: `.floe/state` in replica `dir`: it is not a plain file, where floe keeps its own state
                hint: move it away and run this again
            "#]],
        },
        Row {
            before: |place| {
                synced(place);
                pipe(place, "dir/.floe/nodes");
            },
            args: SYNC,
            exit: 6,
            stderr: expect![[r#"
                error: `.floe/nodes` in replica `dir`: it is not a plain file, where floe keeps its own state
                hint: move it away and run this again
            "#]],
        },
        Row {
            before: |place| {
                synced(place);
                place.write("dir/.floe/FORMAT", "rubbish");
            },
            args: SYNC,
            exit: 4,
            stderr: expect![[r#"
                error: malformed replica format in `dir/.floe/FORMAT`: must read `floe replica N`
                hint: if no newer floe wrote this file, remove it and run `floe sync` on this directory
            "#]],
        },
        Row {
            before: |place| {
                synced(place);
                place.write("dir/.floe/FORMAT", "floe replica 2\n");
            },
            args: SYNC,
            exit: 1,
            stderr: expect![[r#"
                error: replica in `dir/.floe/FORMAT` has format 2, but this floe reads up to 1
                hint: install a newer floe; this one has changed nothing
            "#]],
        },
    ]);
}

#[test]
fn damage_that_a_sync_mends() {
    refused(vec![
        Row {
            before: |place| {
                synced(place);
                fs::remove_file(place.path("dir/.floe/nodes")).expect("removed");
            },
            args: &["verify", "dir"],
            exit: 4,
            stderr: expect![[r#"
                error: version 430a08330115e7b2a4b1244229493a029fd8f624ed076211644b3e38c4cdf1db in `dir/.floe/nodes` is damaged: its root node is missing
                hint: run `floe sync` on this directory: it reads every file, keeps what is right and records it again
            "#]],
        },
        Row {
            before: |place| {
                synced(place);
                place.write("dir/.floe/state", "rubbish");
            },
            args: &["verify", "dir", "--repair", "store"],
            exit: 4,
            stderr: expect![[r#"
                note: started afresh: malformed replica state in `dir/.floe/state`: shorter than its header
                error: malformed replica state in `dir/.floe/state`: shorter than its header
                hint: run `floe sync` on this directory: it reads every file, keeps what is right and records it again
            "#]],
        },
    ]);
    let place = Place::new();
    synced(&place);
    fs::remove_file(place.path("dir/.floe/nodes")).expect("removed");
    assert_eq!(place.report(&["verify", "dir", "--repair", "store"])["sound"], true);
}

#[test]
fn rules_that_cannot_be_read() {
    refused(vec![
        Row {
            before: |place| {
                first(place, "v1");
                place.write("v1/.floeignore", b"*.\xff");
            },
            args: PUBLISH,
            exit: 1,
            stderr: expect![[r#"
                error: cannot publish `v1/.floeignore`: its rules are not UTF-8
                hint: put a plain UTF-8 file in its place, or remove it; to leave it out does not turn off its rules
            "#]],
        },
        Row {
            before: |place| {
                first(place, "v1");
                place.write("v1/data/.floeignore", "*.o\n[z-a]\n");
            },
            args: PUBLISH,
            exit: 2,
            stderr: expect![[r#"
                error: glob `[z-a]` in line 2 of `data/.floeignore`: invalid range; 'z' > 'a'
                hint: mend this line; it is in the syntax of .gitignore
            "#]],
        },
    ]);
}

#[test]
fn a_prune_that_would_keep_nothing() {
    refused(vec![
        Row {
            before: synced,
            args: &["prune", "store", "--keep-last", "0"],
            exit: 2,
            stderr: expect![[r#"
            error: prune: --keep-last 0 would remove everything: say --all if that is meant
            hint: `floe VERB --help` shows what is expected
        "#]],
        },
        Row {
            before: |place| {
                synced(place);
                place.report(&["publish", "v1", "--store", "store", "--name", "other@1"]);
            },
            args: &["prune", "store", "--keep", "other@1", "--app", "app"],
            exit: 2,
            stderr: expect![[r#"
                error: prune: none of the names to keep is of app `app`, so all of its names would go
                hint: `floe VERB --help` shows what is expected
            "#]],
        },
        Row {
            before: nothing,
            args: &["prune", "store", "--keep-last", "1", "--grace", "-1s"],
            exit: 2,
            stderr: expect![[r#"
                error: duration `-1s`: expected number at 0
                hint: `floe VERB --help` shows what is expected
            "#]],
        },
        Row {
            before: nothing,
            args: &["publish", "v1", "--store", "store", "--name", "a@1", "--level", "-1"],
            exit: 2,
            stderr: expect![[r#"
                error: invalid value '-1' for '--level <N>': must be 0 to 19, or `none`

                For more information, try '--help'.
            "#]],
        },
    ]);
    let place = Place::new();
    synced(&place);
    assert_eq!(place.floe(&["prune", "store", "--all", "--keep-last", "1"]).exit, 2);
    let report = place.report(&["prune", "store", "--all"]);
    assert_eq!((&report["names_kept"], &report["chunks_live"]), (&0.into(), &0.into()));
}

#[test]
fn a_path_too_long_is_named() {
    let place = Place::new();
    // Made from inside, as the system takes no longer path at once.
    let script = "n=$(printf %0200d 0); mkdir v1; cd v1; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; \
                  do mkdir $n && cd -P $n; done; n=$(printf %0100d 0); : > x$n";
    let mut shell = Command::new("sh");
    assert!(shell.args(["-c", script]).current_dir(place.path("")).status().expect("a shell").success());
    let ran = place.floe(PUBLISH);
    assert_eq!(ran.exit, 1, "{ran:?}");
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert!(lines[0].starts_with("error: cannot publish `v1/000"), "{ran:?}");
    assert!(lines[0].ends_with("`: path too long, over 4095 bytes"), "{ran:?}");
    assert!(lines[1].starts_with("hint: leave it out with --exclude GLOB"), "{ran:?}");
    let ran = place.report(&[PUBLISH, &["--exclude", "x*"]].concat());
    assert_eq!(ran["left_out"], 1);
}

#[test]
fn what_a_version_does_not_keep_is_told() {
    let place = Place::new();
    place.write("v1/.FLOE/state", "x");
    place.write("v1/su", "x");
    place.mode("v1/su", 0o4755);
    let ran = place.floe(PUBLISH);
    assert_eq!(ran.exit, 0);
    expect![[r#"
        note: `.FLOE`: left out: `.floe`, in any case, is where a synced directory keeps its own state
        note: `su`: its setuid, setgid or sticky bit is not kept
    "#]]
    .assert_eq(&ran.stderr);
    let told: Vec<_> = place
        .floe(&[PUBLISH, &["--json"]].concat())
        .objects()
        .into_iter()
        .filter(|object| object["kind"] == "notice")
        .map(|object| (object["notice"].clone(), object["path"].clone()))
        .collect();
    assert_eq!(told, [("not_kept".into(), ".FLOE".into()), ("not_kept".into(), "su".into())]);
}

#[test]
fn what_delete_cannot_remove_is_counted_apart() {
    let place = Place::new();
    synced(&place);
    place.write("dir/mine", "x");
    pipe(&place, "dir/pipe");
    let counts = |args: &[&str]| {
        let report = place.report(args);
        [report["files_foreign"].as_u64(), report["paths_unpublishable"].as_u64()]
    };
    assert_eq!(counts(SYNC), [Some(1), Some(1)]);
    assert_eq!(counts(&["verify", "dir"]), [Some(1), Some(1)]);
    let told = place.floe(SYNC).stdout;
    assert!(told.contains("1 file that no version wrote (--delete removes)"), "{told}");
    assert!(told.contains("left      1 path that no version can hold"), "{told}");
    assert_eq!(counts(&[SYNC, &["--delete"]].concat()), [Some(0), Some(1)]);
}

#[test]
fn pages_and_scripts_are_reported() {
    let place = Place::new();
    let pages = place.report(&["man", "pages"]);
    let pages = pages["pages"].as_array().expect("a list");
    assert!(
        pages.contains(&"pages/floe.1".into()) && pages.contains(&"pages/floe-sync.1".into()),
        "{pages:?}"
    );
    assert_eq!(pages.len(), fs::read_dir(place.path("pages")).expect("listed").count());
    let script = place.report(&["completions", "bash"]);
    assert_eq!(script["shell"], "bash");
    assert_eq!(script["script"], place.floe(&["completions", "bash"]).stdout);
}

#[test]
fn a_pipe_in_the_place_of_a_store_file_is_not_waited_for() {
    for name in ["store/LOCK", "store/FORMAT"] {
        let place = Place::new();
        synced(&place);
        pipe(&place, name);
        for args in [&["log", "--store", "store"][..], PUBLISH] {
            let ran = place.floe(args);
            assert_eq!(ran.exit, 6, "{ran:?}");
            assert!(ran.stderr.contains("it is not a plain file"), "{ran:?}");
        }
    }
}

#[test]
fn a_reader_that_leaves_does_not_stop_a_sync() {
    let place = Place::new();
    synced(&place);
    for number in 0..15 {
        place.write(&format!("v1/{number}:x"), "x");
    }
    let args = ["publish", "v1", "--store", "store", "--name", "app@2"];
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = place.command(&args).stderr(writer).stdout(std::process::Stdio::null()).status();
    assert_eq!(status.expect("it runs").code(), Some(0));
    assert_eq!(place.floe(&["ls", "app@2", "--store", "store"]).exit, 0);
}

#[test]
fn what_is_asked_for_wrongly_leaves_no_store() {
    refused(vec![
        Row {
            before: |place| first(place, "v1"),
            args: &["publish", "v1", "--store", "store", "--name", "app@1", "--exclude", "["],
            exit: 2,
            stderr: expect![[r#"
                error: glob `[`: unclosed character class; missing ']'
                hint: `floe VERB --help` shows what is expected
            "#]],
        },
        Row {
            before: synced,
            args: &["publish", "v1", "--store", "dir/new/store", "--name", "app@1"],
            exit: 6,
            stderr: expect![[r#"
                error: new store in `dir/new/store`: it would lie in a synced directory, `HERE/dir`
                hint: give a directory outside: a sync with --delete would remove the store
            "#]],
        },
        Row {
            before: synced,
            args: &["publish", "dir", "--store", "dir/data/store", "--name", "app@1"],
            exit: 6,
            stderr: expect![[r#"
                error: new store in `dir/data/store`: it would lie in a synced directory, `HERE/dir`
                hint: give a directory outside: a sync with --delete would remove the store
            "#]],
        },
        Row {
            before: synced,
            args: &["verify", "store", "--repair", "./store"],
            exit: 2,
            stderr: expect![[r#"
                error: option `--repair`: names the store that is to be mended: give another one that has the same versions
                hint: `floe VERB --help` shows what is expected
            "#]],
        },
        Row {
            before: synced,
            args: &["log", "ap", "--store", "store"],
            exit: 1,
            stderr: expect![[r#"
            error: no name of app `ap` in store `store`
            hint: `floe log --store STORE`, without an app, lists the names in store `store`
        "#]],
        },
        Row {
            before: synced,
            args: &["log", "ap"],
            exit: 2,
            stderr: expect![[r#"
            error: the following required arguments were not provided:
              --store <STORE>

            Usage: floe log [OPTIONS] --store <STORE> [APP]

            For more information, try '--help'.
        "#]],
        },
    ]);
    let place = Place::new();
    first(&place, "v1");
    place.floe(&[PUBLISH, &["--exclude", "["]].concat());
    assert!(!place.path("store").exists());
}

#[test]
fn a_directory_without_its_state_is_told_how_to_go_on() {
    let edited = |place: &Place| {
        synced(place);
        place.write("v1/readme.txt", "hello again\n");
        place.report(&["publish", "v1", "--store", "store", "--name", "app@2"]);
        fs::remove_file(place.path("dir/.floe/state")).expect("removed");
    };
    refused(vec![Row {
        before: edited,
        args: &["sync", "store", "app@2", "dir"],
        exit: 6,
        stderr: expect![[r#"
            error: file `readme.txt` in replica `dir`: the wanted version has something else there, and no version is recorded that wrote it
            hint: sync to the version that the directory had, and then to this one: what is equal is adopted; or have them replaced with --overwrite
        "#]],
    }]);
    let place = Place::new();
    edited(&place);
    place.report(SYNC);
    place.report(&["sync", "store", "app@2", "dir"]);
    place.assert_equal("v1", "dir");
}

#[test]
fn a_switch_that_is_given_up_is_told() {
    let place = Place::new();
    synced(&place);
    place.write("dir/left", "of the version that was to come");
    place.write("dir/.floe/journal", "rubbish");
    let ran = place.floe(SYNC);
    assert_eq!(ran.exit, 0, "{ran:?}");
    assert!(
        ran.stderr.contains("files that no version wrote: 1, some perhaps of the switch given up"),
        "{ran:?}"
    );
    assert!(!place.floe(SYNC).stderr.contains("given up"));
}

#[test]
fn a_report_that_cannot_be_written_is_no_full_disk_of_the_replica() {
    let place = Place::new();
    first(&place, "v1");
    place.report(PUBLISH);
    let full = fs::File::options().write(true).open("/dev/full").expect("the system has it");
    let mut command = place.command(SYNC);
    let child = command.stdout(full).stderr(std::process::Stdio::piped()).spawn().expect("it starts");
    let done = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{told}");
    assert!(
        told.contains("hint: what was asked for is done; only its report could not be written"),
        "{told}"
    );
    place.assert_equal("v1", "dir");
}

#[test]
fn what_is_left_out_or_not_read_is_told_truthfully() {
    let place = Place::new();
    first(&place, "v1");
    let ran = place.floe(&["publish", "v1", "--store", "v1/store", "--name", "app@1"]);
    assert!(ran.stdout.contains("left out  1 path (the store itself, .floeignore, --exclude)"), "{ran:?}");
    let ran = place.floe(&["verify", "v1/store", "--subset", "0.0000001%"]);
    assert!(ran.exit == 0 && ran.stdout.contains("no damage in the nodes and in 0 of "), "{ran:?}");
    assert!(!ran.stdout.contains("everything"), "{ran:?}");
    let ran = place.floe(&["prune", "v1/store", "--keep-last", "1", "--app", "ap"]);
    assert!(
        ran.exit == 0 && ran.stderr.contains("note: no name of app `ap` is in store `v1/store`"),
        "{ran:?}"
    );

    // A replica in the tree: its state is its own.
    let place = Place::new();
    synced(&place);
    fs::create_dir(place.path("outer")).expect("made");
    fs::rename(place.path("dir"), place.path("outer/inner")).expect("moved");
    let ran = place.floe(&["publish", "outer", "--store", "store", "--name", "outer@1"]);
    assert!(ran.stderr.contains("note: `inner/.floe`: left out"), "{ran:?}");
    let ran = place.floe(&["ls", "outer@1", "--store", "store"]);
    assert!(ran.exit == 0 && !ran.stdout.contains(".floe/"), "{ran:?}");
}
