//! Scanning real trees, and reading what was found while it changes.

mod table;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use floe::tree::{Found, FoundKind, Scan, ScanOptions, SourceTree, StatTable};
use floe::{Error, Faults, Notice, Progress, Silent, VersionId};
use tempfile::TempDir;

fn options(exclude: &[&str]) -> ScanOptions {
    ScanOptions {
        exclude: exclude.iter().map(|glob| (*glob).to_owned()).collect(),
        honour_ignore: true,
        tolerate_foreign: false,
        threads: NonZeroUsize::new(3).expect("not zero"),
    }
}

/// Makes a tree: `a/b` is a file, `a/b/` a directory, `a -> b` a symlink, `a = text` a file with a text.
fn tree(lines: &[&str]) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    for line in lines {
        let (path, rest) = line.split_once(" = ").map_or((*line, ""), |(path, text)| (path, text));
        let (path, target) = path.split_once(" -> ").map_or((path, None), |(path, to)| (path, Some(to)));
        let at = dir.path().join(path);
        fs::create_dir_all(at.parent().expect("below the root")).expect("parents");
        match target {
            Some(target) => symlink(target, &at).expect("a symlink"),
            None if path.ends_with('/') => fs::create_dir_all(&at).expect("a directory"),
            None => fs::write(&at, rest.replace("\\n", "\n")).expect("a file"),
        }
        // Whatever the umask.
        let above = at.ancestors().take_while(|above| *above != dir.path());
        above.filter(|above| above.is_dir() && !above.is_symlink()).for_each(|above| chmod(above, 0o755));
    }
    dir
}

fn scan_with(dir: &Path, options: &ScanOptions) -> floe::Result<Scan> {
    SourceTree::open(dir)?.scan(options, &Silent)
}

fn scan(dir: &Path) -> Scan {
    scan_with(dir, &options(&[])).expect("a scan")
}

fn show(found: &Found) -> String {
    match &found.kind {
        FoundKind::File { .. } => found.path.as_str().to_owned(),
        FoundKind::Symlink { target } => format!("{} -> {target}", found.path.as_str()),
        FoundKind::Dir { mode } => format!("{}/ {mode:o}", found.path.as_str()),
    }
}

fn names(scan: &Scan) -> Vec<String> {
    scan.found.iter().map(show).collect()
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

#[test]
fn trees_are_found_in_the_order_of_their_paths() {
    type Row = (&'static [&'static str], &'static [&'static str]);
    let rows: [Row; 9] = [
        (&[], &[]),
        (&["b", "a"], &["a", "b"]),
        // A slash sorts after a dot and a dash.
        (&["a/x", "a.txt", "a-b/y", "a0"], &["a-b/y", "a.txt", "a/x", "a0"]),
        // Hidden files, and what other tools would leave out.
        (&[".git/config", ".gitignore = *", ".hidden", "x"], &[".git/config", ".gitignore", ".hidden", "x"]),
        // Further down it is of another replica; there in its own case alone.
        (
            &[".FLOE/state", ".floe/lock", "d/.floe/x", "e/.FLOE/x", ".floes"],
            &[".floes", "d/ 755", "e/.FLOE/x"],
        ),
        (&["e/", "f/g/", "h/i"], &["e/ 755", "f/g/ 755", "h/i"]),
        (
            &["l -> l", "m -> nowhere", "n -> ..", "o/p -> ../n"],
            &["l -> l", "m -> nowhere", "n -> ..", "o/p -> ../n"],
        ),
        (&["d/x", "s -> d"], &["d/x", "s -> d"]),
        (&["ü/ö", "z"], &["z", "ü/ö"]),
    ];
    for (make, want) in rows {
        let dir = tree(make);
        assert_eq!(names(&scan(dir.path())), want, "{make:?}");
    }
}

#[test]
fn ignore_rules() {
    type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static str], u64);
    let rows: [Row; 14] = [
        (&["a.o", "b.c"], &["*.o"], &["b.c"], 1),
        (&[".floeignore = *.o", "a.o", "d/b.o", "d/c"], &[], &[".floeignore", "d/c"], 2),
        // A directory counts once, and leaves its parent empty.
        (&[".floeignore = /d/e", "d/e/1", "d/e/2"], &[], &[".floeignore", "d/ 755"], 1),
        // Only directories.
        (&[".floeignore = x/", "a/x/1", "b/x"], &[], &[".floeignore", "a/ 755", "b/x"], 1),
        // Anchored by a leading slash, and by one in the middle.
        (&[".floeignore = /x\\nd/y", "x", "d/x", "d/y", "e/d/y"], &[], &[".floeignore", "d/x", "e/d/y"], 2),
        // The last match in a file wins.
        (&[".floeignore = *.log\\n!keep.log", "a.log", "keep.log"], &[], &[".floeignore", "keep.log"], 1),
        (&[".floeignore = !keep.log\\n*.log", "keep.log"], &[], &[".floeignore"], 1),
        // A nested file comes before those above it, and sees its own paths.
        (
            &[
                ".floeignore = *.log",
                "d/.floeignore = !a.log\\n/b",
                "d/a.log",
                "d/b",
                "d/e/a.log",
                "d/e/b",
                "a.log",
            ],
            &[],
            &[".floeignore", "d/.floeignore", "d/a.log", "d/e/a.log", "d/e/b"],
            2,
        ),
        // Nothing below a directory left out comes back.
        (&[".floeignore = d\\n!d/keep", "d/keep"], &[], &[".floeignore"], 1),
        (&[".floeignore = d/*\\n!d/keep", "d/keep", "d/x"], &[], &[".floeignore", "d/keep"], 1),
        // A rules file below a directory left out is not read.
        (&[".floeignore = d", "d/.floeignore = ["], &[], &[".floeignore"], 1),
        // The caller's globs come first; a rules file left out is still obeyed.
        (&[".floeignore = a", "a", "b"], &["!a", "b"], &[".floeignore", "a"], 1),
        (&[".floeignore = a", "a", "b"], &[".floeignore"], &["b"], 2),
        // Comments, blank lines, a byte order mark, symlinks by their own name.
        (
            &[".floeignore = \u{feff}l\\n# b\\n\\n", "l -> d", "b", "d/"],
            &[],
            &[".floeignore", "b", "d/ 755"],
            1,
        ),
    ];
    for (make, exclude, want, left_out) in rows {
        let dir = tree(make);
        let scan = scan_with(dir.path(), &options(exclude)).expect("a scan");
        assert_eq!(
            (names(&scan), scan.left_out),
            (want.iter().map(|s| (*s).to_owned()).collect(), left_out),
            "{make:?}"
        );
    }
    let dir = tree(&[".floeignore = a", "a"]);
    let replica = ScanOptions { honour_ignore: false, ..options(&[]) };
    let scan = scan_with(dir.path(), &replica).expect("a scan");
    assert_eq!((names(&scan), scan.left_out), (vec![".floeignore".to_owned(), "a".to_owned()], 0));
}

#[test]
fn bad_rules_are_named() {
    let dir = tree(&["x"]);
    for (rules, want) in [
        (&b"*.\xff"[..], "its rules are not UTF-8"),
        (&vec![b'#'; (1 << 20) + 1], "rules are not read beyond 1 MiB"),
    ] {
        fs::write(dir.path().join(".floeignore"), rules).expect("a file");
        let error = scan_with(dir.path(), &options(&[])).expect_err("bad rules");
        assert!(matches!(error, Error::Unpublishable { reason, .. } if reason == want), "{error}");
    }

    let dir = tree(&["d/.floeignore = ok\\nx[", "x"]);
    let error = scan_with(dir.path(), &options(&[])).expect_err("a bad glob");
    assert!(matches!(error, Error::Usage { .. }));
    let text = error.to_string();
    assert!(text.starts_with("glob `x[` in line 2 of `d/.floeignore`: "), "{text}");
    let text = scan_with(dir.path(), &options(&["fine", "{a"])).expect_err("a bad glob").to_string();
    assert!(text.starts_with("glob `{a`: "), "{text}");

    let dir = tree(&[".floeignore -> other", "other = x"]);
    let error = scan_with(dir.path(), &options(&[])).expect_err("a symlink for rules");
    assert!(matches!(error, Error::Unpublishable { .. }), "{error}");
}

#[test]
fn modes_and_fingerprints() {
    let dir = tree(&["d/f = four", "e/", "g/x", "l -> d"]);
    chmod(dir.path().join("d/f"), 0o4751);
    chmod(dir.path().join("d"), 0o700);
    chmod(dir.path().join("e"), 0o555);
    chmod(dir.path().join("g"), 0o755);
    let scan = scan(dir.path());
    assert_eq!(names(&scan), ["d/ 700", "d/f", "e/ 555", "g/x", "l -> d"]);
    let [d, f, _, _, l] = &scan.found[..] else { panic!("five entries") };
    assert_eq!(f.kind, FoundKind::File { mode: 0o751, len: 4 });
    assert_eq!((f.stat.len, f.stat.mode), (4, 0o100_751));
    assert!(f.stat.inode != 0 && f.stat.ctime_ns != 0 && f.stat.mtime_ns != 0);
    assert_eq!(
        (d.stat.mode, d.stat.len, d.stat.inode, d.stat.mtime_ns, d.stat.ctime_ns),
        (0o040_700, 0, 0, 0, 0)
    );
    assert_eq!(l.stat.mode & 0o170_000, 0o120_000);
}

#[test]
fn what_no_version_keeps_is_told() {
    const BITS: &str = "its setuid, setgid or sticky bit is not kept";
    const STATE: &str = "left out: `.floe`, in any case, is where a synced directory keeps its own state";
    const DIR_BITS: &str = "its setgid or sticky bit is not kept";
    type Row =
        (&'static [&'static str], &'static [(&'static str, u32)], &'static [(&'static str, &'static str)]);
    const TWO_MORE: &str = "its setgid or sticky bit is not kept, nor that of 2 more directories";
    let rows: [Row; 6] = [
        (&["a", ".floe/state", "d/.FLOE/x"], &[], &[]),
        (&[".FLOE/state", ".Floe"], &[], &[(".FLOE", STATE), (".Floe", STATE)]),
        (
            &["d/su", "d/sg", "st"],
            &[("d/su", 0o4755), ("d/sg", 0o2755), ("st", 0o1644)],
            &[("d/sg", BITS), ("d/su", BITS), ("st", BITS)],
        ),
        (&["tmp/x"], &[("tmp", 0o1777)], &[("tmp", DIR_BITS)]),
        (&["a/b/c/"], &[("a", 0o2755), ("a/b", 0o2755), ("a/b/c", 0o2755)], &[("a", TWO_MORE)]),
        (&["l -> su", "su"], &[("su", 0o4755)], &[("su", BITS)]),
    ];
    for (make, modes, want) in rows {
        let dir = tree(make);
        modes.iter().for_each(|(path, mode)| chmod(dir.path().join(path), *mode));
        let scan = scan(dir.path());
        let told: Vec<_> = scan
            .notices
            .iter()
            .filter_map(|notice| match notice {
                Notice::NotKept { path, reason } => Some((path.as_str(), reason.as_str())),
                _ => None,
            })
            .collect();
        assert_eq!(told, want, "{make:?}");
        let ours = |found: &&Found| found.path.as_str().to_lowercase().starts_with(".floe");
        assert!(!scan.found.iter().any(|found| ours(&found)), "{make:?}");
    }
}

#[test]
fn what_no_version_can_hold() {
    let make_fifo = |dir: &Path| {
        let root = File::open(dir).expect("the root");
        rustix::fs::mkfifoat(&root, "d/pipe", 0o600.into()).expect("a FIFO");
    };
    let dir = tree(&["d/a"]);
    make_fifo(dir.path());
    let error = scan_with(dir.path(), &options(&[])).expect_err("a FIFO");
    let want = format!("cannot publish `{}`: it is a FIFO", dir.path().join("d/pipe").display());
    assert_eq!(error.to_string(), want);
    // Left out, it disturbs nobody.
    assert_eq!(names(&scan_with(dir.path(), &options(&["pipe"])).expect("a scan")), ["d/a"]);

    let dir = tree(&["a"]);
    let _socket = UnixListener::bind(dir.path().join("sock")).expect("a socket");
    let error = scan_with(dir.path(), &options(&[])).expect_err("a socket").to_string();
    assert!(error.ends_with("sock`: it is a socket"), "{error}");

    let dir = tree(&["a"]);
    fs::write(dir.path().join(OsStr::from_bytes(b"bad\xff\nname")), "").expect("a file");
    let error = scan_with(dir.path(), &options(&[])).expect_err("a name that is not UTF-8").to_string();
    assert!(error.ends_with("bad\\xff\\nname`: its name is not UTF-8"), "{error}");

    let dir = tree(&["a"]);
    symlink(OsStr::from_bytes(b"\xff"), dir.path().join("l")).expect("a symlink");
    let error = scan_with(dir.path(), &options(&[])).expect_err("a target that is not UTF-8").to_string();
    assert!(error.ends_with("l`: its target is not UTF-8"), "{error}");

    // A replica lists them instead, and a directory that holds one is not empty.
    let dir = tree(&["d/", "e/f/"]);
    make_fifo(dir.path());
    fs::write(dir.path().join(OsStr::from_bytes(b"e/f/\xff")), "").expect("a file");
    let scan =
        scan_with(dir.path(), &ScanOptions { tolerate_foreign: true, ..options(&[]) }).expect("a scan");
    assert_eq!(names(&scan), [""; 0]);
    let want = [Path::new("d/pipe"), Path::new(OsStr::from_bytes(b"e/f/\xff"))];
    assert_eq!(scan.unpublishable, want);
}

#[test]
fn unreadable_directories_fail_the_scan() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED unreadable_directories_fail_the_scan: root reads everything");
        return;
    }
    let dir = tree(&["d/a", "f = x"]);
    chmod(dir.path().join("f"), 0o000);
    let found = scan(dir.path());
    let source = SourceTree::open(dir.path()).expect("a tree");
    let error = source.read(found.found.last().expect("f")).expect_err("an unreadable file");
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("f")), "{error}");
    chmod(dir.path().join("d"), 0o000);
    let error = scan_with(dir.path(), &options(&[])).expect_err("an unreadable directory");
    chmod(dir.path().join("d"), 0o755);
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("d")), "{error}");
}

#[test]
fn no_directory_no_tree() {
    let dir = tree(&["file"]);
    for name in ["file", "missing"] {
        let path = dir.path().join(name);
        let error = SourceTree::open(&path).expect_err("no directory");
        assert_eq!(error.to_string(), format!("cannot open directory `{}`", path.display()));
    }
}

#[test]
fn deep_and_long_paths() {
    let dir = TempDir::new().expect("a directory");
    let mut at = File::open(dir.path()).expect("the root");
    let mut path = String::new();
    // 16 levels of 250 bytes: 4015 bytes with the slashes.
    for level in 0..16 {
        let name = format!("{level:0250}");
        rustix::fs::mkdirat(&at, &name, 0o755.into()).expect("a directory");
        at = rustix::fs::openat(&at, &name, rustix::fs::OFlags::RDONLY, 0.into()).expect("it").into();
        path.push_str(&name);
        path.push('/');
    }
    let create = |name: &str| {
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::RDWR;
        rustix::fs::openat(&at, name, flags, 0o644.into()).expect("a file");
    };
    let longest = "x".repeat(4095 - path.len());
    create(&longest);
    let found = scan(dir.path());
    assert_eq!(names(&found), [format!("{path}{longest}")]);
    SourceTree::open(dir.path())
        .expect("a tree")
        .read(&found.found[0])
        .expect("a reader")
        .finish()
        .expect("empty");
    create(&"x".repeat(4096 - path.len()));
    let error = scan_with(dir.path(), &options(&[])).expect_err("a path too long");
    assert!(
        matches!(&error, Error::Unpublishable { path: at, reason: "path too long, over 4095 bytes" } if at.starts_with(dir.path().join(&path))),
        "{error}"
    );
    let without = scan_with(dir.path(), &options(&["x*"])).expect("a scan without it");
    assert_eq!((without.found.len(), without.left_out), (1, 2));
}

#[test]
fn a_flat_directory_is_shared_between_threads() {
    let dir = TempDir::new().expect("a directory");
    let mut want: Vec<String> = (0..9000).map(|n| format!("f{n}")).collect();
    for name in &want {
        File::create(dir.path().join(name)).expect("a file");
    }
    for n in 0..50 {
        fs::create_dir(dir.path().join(format!("f{n}-"))).expect("a directory");
        chmod(dir.path().join(format!("f{n}-")), 0o755);
        fs::write(dir.path().join(format!("f{n}-/x")), "").expect("a file");
        want.push(format!("f{n}-/x"));
    }
    want.sort();
    let progress = Counting::default();
    let scan = SourceTree::open(dir.path()).expect("a tree").scan(&options(&[]), &progress).expect("a scan");
    assert_eq!(scan.found.iter().map(|found| found.path.as_str()).collect::<Vec<_>>(), want);
    assert_eq!(progress.0.load(Ordering::Relaxed), 9100);
}

#[derive(Default)]
struct Counting(AtomicU64);

impl Progress for Counting {
    fn advance(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }
}

struct StopAfter(AtomicU64);

impl Progress for StopAfter {
    fn cancelled(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

#[test]
fn a_scan_can_be_cancelled() {
    let dir = tree(&["a/1", "b/1", "c/1", "d/e/1"]);
    let source = SourceTree::open(dir.path()).expect("a tree");
    for questions in 0..4 {
        let stop = StopAfter(AtomicU64::new(questions));
        let error = source.scan(&options(&[]), &stop).expect_err("cancelled");
        assert!(matches!(error, Error::Cancelled), "{error}");
    }
}

/// Renames a directory when the first names were looked at, before it was listed itself.
struct Renames<'a>(&'a Path, AtomicU64);

impl Progress for Renames<'_> {
    fn advance(&self, _: u64) {
        if self.1.fetch_add(1, Ordering::Relaxed) == 0 {
            fs::rename(self.0.join("from"), self.0.join("to")).expect("renamed");
        }
    }
}

#[test]
fn a_directory_that_moves_during_a_scan_is_not_lost_in_silence() {
    for tolerate_foreign in [false, true] {
        let dir = tree(&["from/a", "x"]);
        let source = SourceTree::open(dir.path()).expect("a tree");
        // One thread: it looks at all names at the top before it lists what is below.
        let one = NonZeroUsize::MIN;
        let options = ScanOptions { tolerate_foreign, threads: one, ..options(&[]) };
        let scan = source.scan(&options, &Renames(dir.path(), AtomicU64::new(0)));
        match scan {
            Err(Error::Changed { path }) => {
                assert!(!tolerate_foreign && path == dir.path().join("from"), "{path:?}");
            }
            // In a replica it is gone, and what is new is seen the next time.
            Ok(scan) => assert!(tolerate_foreign && names(&scan) == ["x"]),
            Err(error) => panic!("{error}"),
        }
    }
}

struct Panicking;

impl Progress for Panicking {
    fn advance(&self, _: u64) {
        panic!("a caller's mistake");
    }
}

#[test]
fn a_panic_of_the_caller_comes_back_and_hangs_nobody() {
    let dir = tree(&["a/1", "b/1", "c/1"]);
    let source = SourceTree::open(dir.path()).expect("a tree");
    let scan = || source.scan(&options(&[]), &Panicking);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(scan)).is_err());
}

#[test]
fn names_other_systems_cannot_hold_are_told() {
    let dir = tree(&["A/x", "a/y", "aux.c", "d/é", "d/É", "ok"]);
    let notices = scan(dir.path()).notices;
    let collision =
        |first: &str, second: &str| Notice::CaseCollision { first: first.into(), second: second.into() };
    assert_eq!(notices.len(), 3);
    assert!(matches!(&notices[0], Notice::NotPortable { path, .. } if path == "aux.c"));
    assert_eq!(notices[1..], [collision("A", "a"), collision("d/É", "d/é")]);
}

#[test]
fn an_untouched_file_reads_to_its_end() {
    let text = "x".repeat(100_000);
    let dir = tree(&[&format!("d/f = {text}"), "empty"]);
    let source = SourceTree::open(dir.path()).expect("a tree");
    let found = scan(dir.path()).found;
    let mut read = String::new();
    let mut reader = source.read(&found[0]).expect("a reader");
    reader.read_to_string(&mut read).expect("its content");
    reader.finish().expect("unchanged");
    assert_eq!(read, text);
    // Exactly its length, without a further read that shows the end.
    let mut reader = source.read(&found[0]).expect("a reader");
    reader.read_exact(&mut vec![0; text.len()]).expect("its content");
    reader.finish().expect("unchanged");
    source.read(&found[1]).expect("a reader").finish().expect("unchanged");
    // Too little is an error of its own kind, but never silence.
    let mut reader = source.read(&found[0]).expect("a reader");
    reader.read_exact(&mut [0; 10]).expect("a part");
    assert!(matches!(reader.finish(), Err(Error::Changed { .. })));
}

type Edit = fn(&Path);

fn append(path: &Path) {
    fs::OpenOptions::new()
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(b"more"))
        .expect("grown");
}

fn shrink(path: &Path) {
    fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(1)).expect("shrunk");
}

fn overwrite(path: &Path) {
    let before = fs::metadata(path).expect("stat");
    fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"X")).expect("written");
    // An older mtime, so that the test needs no sleep to see a change within one tick of the clock.
    let mtime = before.modified().expect("a time") - std::time::Duration::from_secs(5);
    File::options().write(true).open(path).and_then(|file| file.set_modified(mtime)).expect("a time");
}

#[test]
fn files_that_change_between_scan_and_read() {
    let rows: [(&str, Edit); 8] = [
        ("grows", append),
        ("shrinks", shrink),
        ("is overwritten", overwrite),
        ("vanishes", |path| fs::remove_file(path).expect("removed")),
        ("is replaced", |path| {
            fs::write(path.with_extension("new"), "0123456789").expect("a file");
            fs::rename(path.with_extension("new"), path).expect("renamed");
        }),
        ("becomes a symlink", |path| {
            fs::rename(path, path.with_extension("old")).expect("renamed");
            symlink("f.old", path).expect("a symlink");
        }),
        ("becomes a FIFO", |path| {
            fs::remove_file(path).expect("removed");
            rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).expect("a FIFO");
        }),
        ("loses its directory to a symlink", |path| {
            let dir = path.parent().expect("a directory");
            fs::rename(dir, dir.with_extension("old")).expect("renamed");
            symlink("d.old", dir).expect("a symlink");
        }),
    ];
    for (what, edit) in rows {
        let dir = tree(&["d/f = 0123456789"]);
        let source = SourceTree::open(dir.path()).expect("a tree");
        let found = scan(dir.path()).found;
        edit(&dir.path().join("d/f"));
        let read = source.read(&found[0]);
        let done = read.and_then(|mut reader| {
            let _ = reader.read_to_end(&mut Vec::new());
            reader.finish()
        });
        assert!(matches!(&done, Err(Error::Changed { path }) if path.ends_with("d/f")), "{what}: {done:?}");
    }
}

#[test]
fn files_that_change_while_they_are_read() {
    let rows: [(&str, Edit); 4] = [
        ("grows", append),
        ("shrinks", shrink),
        ("is overwritten", overwrite),
        ("grows for ever", |path| (0..1000).for_each(|_| append(path))),
    ];
    for (what, edit) in rows {
        let dir = tree(&["f = 0123456789"]);
        let source = SourceTree::open(dir.path()).expect("a tree");
        let found = scan(dir.path()).found;
        let mut reader = source.read(&found[0]).expect("a reader");
        reader.read_exact(&mut [0; 4]).expect("a part");
        edit(&dir.path().join("f"));
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("the rest");
        assert!(rest.len() <= 7, "{what}: one byte over its length is enough");
        let done = reader.finish();
        assert!(matches!(done, Err(Error::Changed { .. })), "{what}: {done:?}");
    }
}
