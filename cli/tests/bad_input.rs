//! What a wrong or hostile input gets: which exit code, which words. `UPDATE_EXPECT=1` rewrites the words.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use expect_test::{Expect, expect};

use crate::support::{Place, Ran, first};

/// One wrong request: what is there before, what is asked, and the answer.
pub struct Row {
    pub before: fn(&Place),
    pub args: &'static [&'static str],
    pub exit: i32,
    pub stderr: Expect,
}

pub fn nothing(_: &Place) {}

/// A tree `v1`, published as app@1 in `store` and synced to `dir`.
pub fn synced(place: &Place) {
    first(place, "v1");
    place.report(&["publish", "v1", "--store", "store", "--name", "app@1"]);
    place.report(&["sync", "store", "app@1", "dir"]);
}

fn fifo(place: &Place) {
    place.write("tree/a", "a");
    let made = Command::new("mkfifo").arg(place.path("tree/pipe\u{1b}[31m")).status().expect("mkfifo runs");
    assert!(made.success());
}

pub fn refused(rows: Vec<Row>) {
    for row in rows {
        let place = Place::new();
        (row.before)(&place);
        let ran = place.floe(row.args);
        assert_eq!(ran.exit, row.exit, "{:?}: {ran:?}", row.args);
        row.stderr.assert_eq(&ran.stderr);
        told_in_json(&place, &ran, row.args);
    }
}

/// With --json the same error is also the last object.
fn told_in_json(place: &Place, ran: &Ran, args: &[&str]) {
    let json = place.floe(&[args, &["--json"]].concat());
    let told = json.last_object();
    assert_eq!(
        (json.exit, &told["kind"], &told["exit"]),
        (ran.exit, &"error".into(), &ran.exit.into()),
        "{args:?}"
    );
    // Notices are objects there.
    let error = |ran: &Ran| ran.stderr.lines().find(|line| line.starts_with("error: ")).map(str::to_owned);
    assert_eq!(error(&json), error(ran), "{args:?}");
}

#[test]
fn wrong_words() {
    refused(vec![
        Row {
            before: nothing,
            args: &["publish", "v1", "--store", "store", "--name", "no label"],
            exit: 2,
            stderr: expect![[r#"
                error: name `no label`: must be APP@LABEL, as in `game@1.4.2`
                hint: `floe VERB --help` shows what is expected
            "#]],
        },
        Row {
            before: nothing,
            args: &["sync", "store", "app", "dir"],
            exit: 2,
            stderr: expect![[r#"
            error: name `app`: must be APP@LABEL, as in `game@1.4.2`
            hint: `floe VERB --help` shows what is expected
        "#]],
        },
        Row {
            before: nothing,
            args: &["sync", "store", "app:stable", "dir"],
            exit: 2,
            stderr: expect![[r#"
                error: channel `app:stable`: this build has no channels yet
                hint: name a version, as in game@1.4.2; `floe log --store STORE` lists them
            "#]],
        },
        Row {
            before: nothing,
            args: &["sync", "s3://bucket/store", "app@1", "dir"],
            exit: 2,
            stderr: expect![[r#"
                error: store `s3://bucket/store`: a store is a directory, or a URL that begins with http://, https:// or ssh://
                hint: give a directory, http(s)://HOST[:PORT][/PREFIX] or ssh://[USER@]HOST[:PORT]/PATH; a token goes into --token-file FILE, FLOE_TOKEN or ~/.config/floe/credentials
            "#]],
        },
        Row {
            before: nothing,
            args: &["sync", "https://me:hunter2@example.org/store", "app@1", "dir"],
            exit: 2,
            stderr: expect![[r#"
                error: store `https://…@example.org/store`: a URL must not hold a password or a token: everyone who lists processes can read it
                hint: give a directory, http(s)://HOST[:PORT][/PREFIX] or ssh://[USER@]HOST[:PORT]/PATH; a token goes into --token-file FILE, FLOE_TOKEN or ~/.config/floe/credentials
            "#]],
        },
        Row {
            before: nothing,
            args: &["log", "--store", "https://example.org/?token=hunter2"],
            exit: 2,
            stderr: expect![[r#"
                error: store `https://example.org/?…`: a URL must not hold a password or a token: everyone who lists processes can read it
                hint: give a directory, http(s)://HOST[:PORT][/PREFIX] or ssh://[USER@]HOST[:PORT]/PATH; a token goes into --token-file FILE, FLOE_TOKEN or ~/.config/floe/credentials
            "#]],
        },
        Row {
            before: nothing,
            args: &["log", "--store", "me@example.org:store"],
            exit: 2,
            stderr: expect![[r#"
                error: store `me@example.org:store`: another machine is ssh://USER@HOST/PATH, a directory of that name is ./NAME
                hint: give a directory, http(s)://HOST[:PORT][/PREFIX] or ssh://[USER@]HOST[:PORT]/PATH; a token goes into --token-file FILE, FLOE_TOKEN or ~/.config/floe/credentials
            "#]],
        },
        Row {
            before: nothing,
            args: &["sync", "store", "app@1", "dir", "--mirror", "copy"],
            exit: 2,
            stderr: expect![[r#"
                error: mirror `copy`: must be a URL that begins with http://, https:// or ssh://
                hint: `floe VERB --help` shows what is expected
            "#]],
        },
        Row {
            before: nothing,
            args: &["log", "--store", "http://127.0.0.1:1", "--retries", "0"],
            exit: 5,
            stderr: expect![[r#"
                error: cannot reach store `http://127.0.0.1:1`
                caused by: Connection refused (os error 111)
                hint: nothing listens there: check the address and the port, and that `floe serve` runs
            "#]],
        },
        Row {
            before: nothing,
            args: &["log", "--store", "https://127.0.0.1:1", "--ca", "nowhere.pem"],
            exit: 1,
            stderr: expect![[r#"
                error: cannot read `nowhere.pem`
                caused by: No such file or directory (os error 2)
                hint: check the spelling of the path
            "#]],
        },
        Row {
            before: nothing,
            args: &["prune", "store"],
            exit: 2,
            stderr: expect![[r#"
            error: prune: needs --keep-last N or --keep NAME, else it would remove everything
            hint: `floe VERB --help` shows what is expected
        "#]],
        },
        Row {
            before: nothing,
            args: &["prune", "store", "--keep-last", "1", "--grace", "soon"],
            exit: 2,
            stderr: expect![[r#"
                error: duration `soon`: expected number at 0
                hint: `floe VERB --help` shows what is expected
            "#]],
        },
        Row {
            before: synced,
            args: &["verify", "store", "--subset", "0%"],
            exit: 2,
            stderr: expect![[r#"
            error: share `0%`: must be over 0% and at most 100%, as in `5%`
            hint: `floe VERB --help` shows what is expected
        "#]],
        },
        Row {
            before: synced,
            args: &["verify", "dir", "--subset", "5%"],
            exit: 2,
            stderr: expect![[r#"
            error: option `--subset`: is for stores; a directory is always verified whole
            hint: `floe VERB --help` shows what is expected
        "#]],
        },
        Row {
            before: synced,
            args: &["sync", "store", "app@1", "dir", "--protect", "[z-a]"],
            exit: 2,
            stderr: expect![[r#"
                error: glob `[z-a]`: invalid range; 'z' > 'a'
                hint: `floe VERB --help` shows what is expected
            "#]],
        },
        Row {
            before: nothing,
            args: &["publish", "v1", "--store", "store", "--name", "a@1", "--level", "20"],
            exit: 2,
            stderr: expect![[r#"
                error: invalid value '20' for '--level <N>': must be 0 to 19, or `none`

                For more information, try '--help'.
            "#]],
        },
    ]);
}

#[test]
fn things_that_are_not_there() {
    refused(vec![
        Row {
            before: nothing,
            args: &["log", "--store", "store"],
            exit: 1,
            stderr: expect![[r#"
                error: no store in `store`
                hint: check the path; `floe publish DIR --store STORE --name NAME` makes a store
            "#]],
        },
        Row {
            before: |place| place.write("store/x", ""),
            args: &["log", "--store", "store"],
            exit: 1,
            stderr: expect![[r#"
                error: no store (there is no FORMAT file) in `store`
                hint: check the path; `floe publish DIR --store STORE --name NAME` makes a store
            "#]],
        },
        Row {
            before: nothing,
            args: &["publish", "v1", "--store", "store", "--name", "app@1"],
            exit: 1,
            stderr: expect![[r#"
                error: cannot open directory `v1`
                caused by: No such file or directory (os error 2)
                hint: check the spelling of the path
            "#]],
        },
        Row {
            before: synced,
            args: &["sync", "store", "app@9", "dir"],
            exit: 1,
            stderr: expect![[r#"
                error: no name `app@9` in store `store`
                hint: `floe log --store STORE` lists the names in store `store`
            "#]],
        },
        Row {
            before: synced,
            args: &[
                "ls",
                "0000000000000000000000000000000000000000000000000000000000000000",
                "--store",
                "store",
            ],
            exit: 1,
            stderr: expect![[r#"
                error: no version 0000000000000000000000000000000000000000000000000000000000000000 in store `store`
                hint: `floe log --store STORE` lists what a store has
            "#]],
        },
        Row {
            before: synced,
            args: &["prune", "store", "--keep", "app@9"],
            exit: 1,
            stderr: expect![[r#"
                error: no name `app@9` in store `store`
                hint: `floe log --store STORE` lists the names in store `store`
            "#]],
        },
        Row {
            before: nothing,
            args: &["verify", "dir"],
            exit: 1,
            stderr: expect![[r#"
            error: cannot open `dir`
            caused by: No such file or directory (os error 2)
            hint: check the spelling of the path
        "#]],
        },
        Row {
            before: |place| place.write("dir/x", ""),
            args: &["verify", "dir"],
            exit: 1,
            stderr: expect![[r#"
                error: no store and no synced directory in `dir`
                hint: check the path; `floe publish DIR --store STORE --name NAME` makes a store
            "#]],
        },
    ]);
}

#[test]
fn things_that_cannot_be_done() {
    refused(vec![
        Row {
            before: |place| {
                synced(place);
                place.write("v1/more", "more");
            },
            args: &["publish", "v1", "--store", "store", "--name", "app@1"],
            exit: 6,
            stderr: expect![[r#"
                error: name `app@1` in store `store`: it is bound to version 430a08330115e7b2a4b1244229493a029fd8f624ed076211644b3e38c4cdf1db, not 58129b1f9365861cd9b64a0a2c32a7423738daeea3a604e8b76e57c3464038a1
                hint: a name means the same bytes for good: publish under a new name
            "#]],
        },
        Row {
            before: |place| {
                first(place, "v1");
                place.write("store/precious", "");
            },
            args: &["publish", "v1", "--store", "store", "--name", "app@1"],
            exit: 6,
            stderr: expect![[r#"
                error: new store in `store`: the directory is not empty and not a store: it holds "precious"
                hint: give an empty directory, one that does not exist, or a store
            "#]],
        },
        Row {
            before: |place| place.write("store/FORMAT", "floe store 99\n"),
            args: &["log", "--store", "store"],
            exit: 1,
            stderr: expect![[r#"
                error: store in `store` has format 99, but this floe reads up to 1
                hint: install a newer floe; this one has changed nothing
            "#]],
        },
        Row {
            before: |place| {
                synced(place);
                std::fs::remove_file(place.path("store/FORMAT")).expect("removed");
            },
            args: &["verify", "store"],
            exit: 4,
            stderr: expect![[r#"
                error: file FORMAT in store `store` is damaged: it is lost, though the database is there
                hint: `floe verify STORE --repair SOURCE` writes it anew after a look into the database; without a SOURCE: printf 'floe store 1\n' > STORE/FORMAT
            "#]],
        },
        Row {
            before: |place| place.write("store/FORMAT", "something else"),
            args: &["log", "--store", "store"],
            exit: 4,
            stderr: expect![[r#"
                error: malformed store format in `store/FORMAT`: it must be one line: `floe store`, a number
                hint: if no newer floe wrote it: `floe verify STORE --repair SOURCE` writes it anew after a look into the database; without a SOURCE: printf 'floe store 1\n' > STORE/FORMAT
            "#]],
        },
        Row {
            before: fifo,
            args: &["publish", "tree", "--store", "store", "--name", "app@1"],
            exit: 1,
            stderr: expect![[r#"
                error: cannot publish `tree/pipe\u{1b}[31m`: it is a FIFO
                hint: leave it out with --exclude GLOB or a line in .floeignore, or remove it
            "#]],
        },
        Row {
            before: |place| {
                place.write("tree/a", "");
                fs::write(place.path("tree").join(std::ffi::OsStr::from_bytes(b"bad\xff")), "")
                    .expect("a file");
            },
            args: &["publish", "tree", "--store", "store", "--name", "app@1"],
            exit: 1,
            stderr: expect![[r#"
                error: cannot publish `tree/bad\xff`: its name is not UTF-8
                hint: leave it out with --exclude GLOB or a line in .floeignore, or remove it
            "#]],
        },
    ]);
}

/// Holds a lock file as another floe would, with the number of a living process: this one.
fn hold(place: &Place, lock: &str) -> File {
    let mut file = File::options().read(true).write(true).open(place.path(lock)).expect("the lock file");
    file.try_lock().expect("nobody holds it");
    file.set_len(0).expect("it is writable");
    writeln!(file, "{}", std::process::id()).expect("it is writable");
    file
}

#[test]
fn what_another_process_holds() {
    let place = Place::new();
    synced(&place);
    let pid = std::process::id().to_string();
    let words = |ran: Ran| format!("{} {}", ran.exit, ran.stderr).replace(&pid, "PID");
    let store = hold(&place, "store/LOCK");
    expect![[r#"
        6 error: store `store` is in use by process PID
        hint: wait until process PID is done (`ps -p PID` shows it), and run this again; if it is `floe serve`, give the URL that it serves
    "#]]
    .assert_eq(&words(place.floe(&["log", "--store", "store"])));
    drop(store);
    let dir = hold(&place, "dir/.floe/lock");
    expect![[r#"
        6 error: replica `dir` is in use by process PID
        hint: wait until process PID is done (`ps -p PID` shows it), and run this again
    "#]]
    .assert_eq(&words(place.floe(&["sync", "store", "app@1", "dir"])));
    drop(dir);
    assert_eq!(place.floe(&["sync", "store", "app@1", "dir"]).exit, 0);
}

#[test]
fn an_unreadable_file_fails_the_publish_and_binds_nothing() {
    let place = Place::new();
    synced(&place);
    place.write("v1/secret", "x");
    place.mode("v1/secret", 0o000);
    let args = ["publish", "v1", "--store", "store", "--name", "app@2"];
    let mut command = place.command(&args);
    if File::open(place.path("v1/secret")).is_ok() {
        // This is root, who reads everything, unless the right to do so is taken away.
        if Command::new("setpriv").arg("--version").output().is_err() {
            println!("SKIPPED: running as root, and there is no setpriv to give that up");
            return;
        }
        let floe = command;
        command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search"]);
        command.arg(floe.get_program()).args(floe.get_args()).current_dir(place.path(""));
    }
    let ran = place.ran(&mut command);
    assert_eq!(ran.exit, 1, "{ran:?}");
    expect![[r#"
        error: cannot open `v1/secret`
        caused by: Permission denied (os error 13)
        hint: run as a user who may do that; --exclude GLOB leaves a path out
    "#]]
    .assert_eq(&ran.stderr);
    let names = place.floe(&["log", "--store", "store", "--json"]).objects();
    assert_eq!(names.len(), 2, "{names:?}");
    place.mode("v1/secret", 0o600);
    assert_eq!(place.floe(&args).exit, 0);
}

#[test]
fn names_cannot_speak_to_the_terminal() {
    let place = Place::new();
    place.write("tree/red\u{1b}[31m\nline two\u{202e}txt", "x");
    place.report(&["publish", "tree", "--store", "store", "--name", "app@1"]);
    place.write("tree/more", "x");
    place.report(&["publish", "tree", "--store", "store", "--name", "app@2"]);
    let escaped = r"red\u{1b}[31m\nline two\u{202e}txt";
    let ls = place.floe(&["ls", "app@1", "--store", "store"]);
    assert!(ls.stdout.contains(escaped), "{ls:?}");
    place.report(&["sync", "store", "app@1", "dir"]);
    fs::remove_file(place.path("dir/red\u{1b}[31m\nline two\u{202e}txt")).expect("a removal");
    for ran in [ls, place.floe(&["verify", "dir"]), place.floe(&["plan", "store", "app@1", "dir"])] {
        let text = ran.stdout.clone() + &ran.stderr;
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{ran:?}");
        assert!(text.contains("red"), "{ran:?}");
    }
}

#[test]
fn a_full_disk_behind_standard_output_is_told_as_that() {
    if !fs::exists("/dev/full").unwrap_or(false) {
        println!("SKIPPED: no /dev/full");
        return;
    }
    let place = Place::new();
    synced(&place);
    let full = File::options().write(true).open("/dev/full").expect("the full device");
    let done = place.command(&["ls", "app@1", "--store", "store"]).stdout(full).output().expect("it runs");
    assert_eq!(done.status.code(), Some(1));
    expect![[r#"
        error: cannot write to `standard output`
        caused by: No space left on device (os error 28)
        hint: make room where standard output goes to, and run the same command again
    "#]]
    .assert_eq(&String::from_utf8_lossy(&done.stderr));
}

/// Flips a byte in the middle of every table of the store.
pub fn corrupt(place: &Place, store: &str) {
    let mut tables = 0;
    for entry in fs::read_dir(place.path(store).join("db")).expect("the database") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ext| ext == "sst")
            && fs::metadata(&path).expect("it").len() > 1 << 20
        {
            let mut bytes = fs::read(&path).expect("a table");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            fs::write(&path, bytes).expect("a table");
            tables += 1;
        }
    }
    assert!(tables > 0, "the store has no large table");
}

#[test]
fn a_damaged_store_is_named_and_mended_from_another() {
    let place = Place::new();
    synced(&place);
    place.report(&["publish", "v1", "--store", "other", "--name", "app@1"]);
    corrupt(&place, "store");
    let found = place.floe(&["verify", "store"]);
    assert_eq!(found.exit, 4, "{found:?}");
    assert!(found.stdout.contains("app@1:data/big.bin"), "{found:?}");
    let sync = place.floe(&["sync", "store", "app@1", "fresh"]);
    assert_eq!(sync.exit, 4, "{sync:?}");
    assert!(sync.stderr.contains("`floe verify STORE --repair SOURCE`"), "{sync:?}");
    let mended = place.report(&["verify", "store", "--repair", "other"]);
    assert_eq!(mended["sound"], true);
    assert_eq!(place.report(&["verify", "store"])["sound"], true);
    place.report(&["sync", "store", "app@1", "fresh"]);
    place.assert_equal("v1", "fresh");
}

#[test]
fn a_store_that_does_not_open_is_named_and_mended() {
    let place = Place::new();
    synced(&place);
    place.report(&["publish", "v1", "--store", "other", "--name", "app@1"]);
    let manifest = |store: &str| {
        let files = fs::read_dir(place.path(store).join("db")).expect("the database");
        let mut files = files.map(|file| file.expect("an entry").path());
        files.find(|path| path.to_string_lossy().contains("MANIFEST-")).expect("one")
    };
    let damage = |store: &str| {
        let path = manifest(store);
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[20] ^= 1;
        fs::write(&path, bytes).expect("it is writable");
    };
    damage("store");
    let told = |args: &[&str], hint: &str| {
        let ran = place.floe(args);
        assert_eq!(ran.exit, 4, "{ran:?}");
        assert!(ran.stderr.starts_with("error: database in store `"), "{ran:?}");
        assert!(ran.stderr.contains("MANIFEST-") && ran.stderr.contains(hint), "{ran:?}");
    };
    for args in [
        &["log", "--store", "store"][..],
        &["verify", "store"],
        &["sync", "store", "app@1", "fresh"],
        &["publish", "v1", "--store", "store", "--name", "app@9"],
        &["prune", "store", "--keep", "app@1"],
    ] {
        told(args, "hint: `floe verify STORE --repair SOURCE`");
    }
    damage("other");
    told(&["verify", "store", "--repair", "other"], "hint: if this is SOURCE, mend it first");
    fs::remove_dir_all(place.path("other")).expect("a removal");
    place.report(&["publish", "v1", "--store", "other", "--name", "app@1"]);
    assert_eq!(place.report(&["verify", "store", "--repair", "other"])["sound"], true);
    assert_eq!(place.report(&["verify", "store"])["sound"], true);
    place.report(&["sync", "store", "app@1", "fresh"]);
    place.assert_equal("v1", "fresh");
}
