//! A directory of its own for each test, and the command run in it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A fresh directory; commands run in it, so that paths in messages are short and the same everywhere.
pub struct Place(TempDir);

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, content).expect("a file");
    }

    pub fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("a mode");
    }

    /// The command, ready to start here, without anything from the environment that changes what it prints.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_floe"));
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        for name in ["FLOE_LOG", "FLOE_TOKEN", "FLOE_SSH", "NO_COLOR", "COLUMNS", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", self.path("config")).env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    pub fn floe(&self, args: &[&str]) -> Ran {
        self.ran(&mut self.command(args))
    }

    pub fn ran(&self, command: &mut Command) -> Ran {
        let done = command.output().expect("the command starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Ran {
            exit: done.status.code().unwrap_or(-1),
            stdout: text(done.stdout),
            stderr: text(done.stderr).replace(&*self.0.path().to_string_lossy(), "HERE"),
        }
    }

    /// Runs it with `--json`, which must succeed, and returns the report.
    pub fn report(&self, args: &[&str]) -> Value {
        let ran = self.floe(&[args, &["--json"]].concat());
        assert_eq!(ran.exit, 0, "{args:?}: {ran:?}");
        let report = ran.last_object();
        assert_eq!(report["kind"], "report", "{args:?}");
        assert_eq!(report["verb"], args[0]);
        report
    }

    /// Asserts that `diff -r` sees no difference between two trees, leaving out floe's own state.
    pub fn assert_equal(&self, a: &str, b: &str) {
        let mut diff = Command::new("diff");
        diff.args(["-r", "--no-dereference", "--exclude=.floe", a, b]).current_dir(self.0.path());
        let diff = self.ran(&mut diff);
        assert!(diff.exit == 0 && diff.stdout.is_empty(), "{a} and {b} differ: {diff:?}");
        assert_eq!(modes(&self.path(a)), modes(&self.path(b)), "modes of {a} and {b}");
    }
}

/// `floe serve`, on a free port; killed when dropped.
pub struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    pub url: String,
    pub address: String,
}

impl Server {
    pub fn start(place: &Place, store: &str, args: &[&str]) -> Server {
        Server::listen(place, store, "127.0.0.1:0", args)
    }

    pub fn listen(place: &Place, store: &str, address: &str, args: &[&str]) -> Server {
        let all = [&["serve", store, "--listen", address, "--json"], args].concat();
        let log = fs::File::options().create(true).append(true).open(place.path("serve.log")).expect("a log");
        let mut child =
            place.command(&all).stdout(Stdio::piped()).stderr(log).spawn().expect("the server starts");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        let told: Value = serde_json::from_str(&line).unwrap_or_default();
        let log = || fs::read_to_string(place.path("serve.log"));
        assert_eq!(told["kind"], "listening", "{line}: {:?}", log());
        let text = |field: &str| told[field].as_str().expect("text").to_owned();
        Server { child, out, url: text("url"), address: text("address") }
    }

    /// Ends it at once.
    pub fn kill(mut self) -> String {
        self.child.kill().expect("killed");
        self.child.wait().expect("it ends");
        self.address.clone()
    }

    /// Ends it politely; its exit code and its last object.
    pub fn stop(mut self) -> (i32, Value) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).expect("its output");
        let last = rest.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        (self.child.wait().expect("it ends").code().unwrap_or(-1), last)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ran {
    /// The last line of stdout as JSON; every line must be an object.
    pub fn last_object(&self) -> Value {
        self.objects().pop().expect("at least one object")
    }

    pub fn objects(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Every file below `dir` with its permission bits.
fn modes(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).expect("a directory") {
            let entry = entry.expect("an entry");
            let meta = entry.metadata().expect("metadata");
            if entry.file_name() == ".floe" {
                continue;
            }
            if meta.is_dir() {
                dirs.push(entry.path());
            }
            if !meta.is_symlink() {
                let path = entry.path().strip_prefix(dir).expect("below").to_owned();
                found.push((path, meta.permissions().mode() & 0o777));
            }
        }
    }
    found.sort();
    found
}

/// Bytes that look random and are the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Writes the first version of a small tree.
pub fn first(place: &Place, dir: &str) {
    let path = |name: &str| format!("{dir}/{name}");
    place.write(&path("readme.txt"), "hello\n");
    place.write(&path("bin/tool"), "#!/bin/sh\n");
    place.mode(&path("bin/tool"), 0o755);
    place.write(&path("data/big.bin"), noise(1, 3 << 20));
    place.write(&path("data/same.bin"), noise(2, 200_000));
    place.write(&path("data/moves.bin"), noise(3, 300_000));
    place.write(&path("data/goes.bin"), noise(4, 50_000));
    place.write(&path("data/empty"), "");
    place.write(&path(".hidden"), "kept like any other\n");
    fs::create_dir_all(place.path(&path("hollow"))).expect("a directory");
    std::os::unix::fs::symlink("../readme.txt", place.path(&path("bin/link"))).expect("a link");
}

/// Writes the second: an edit in the middle of the big file, one file moved, one gone, one new, one mode changed,
/// a link that points elsewhere, a directory that became a file.
pub fn second(place: &Place, dir: &str) {
    first(place, dir);
    let path = |name: &str| place.path(&format!("{dir}/{name}"));
    let mut big = noise(1, 3 << 20);
    big.splice(1_500_000..1_500_010, *b"an edit here");
    fs::write(path("data/big.bin"), big).expect("a file");
    fs::create_dir_all(path("moved")).expect("a directory");
    fs::rename(path("data/moves.bin"), path("moved/moved.bin")).expect("a move");
    fs::remove_file(path("data/goes.bin")).expect("a removal");
    place.write(&format!("{dir}/data/new.bin"), noise(5, 100_000));
    place.mode(&format!("{dir}/readme.txt"), 0o600);
    fs::remove_file(path("bin/link")).expect("a removal");
    std::os::unix::fs::symlink("tool", path("bin/link")).expect("a link");
    fs::remove_dir(path("hollow")).expect("a removal");
    fs::write(path("hollow"), "a file now\n").expect("a file");
}
