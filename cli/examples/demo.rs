//! The main job on real input, through the real command: two versions of a directory are published, a replica is
//! brought from nothing to the first, to the second and back, each time verified, and the old one is pruned.
//!
//! `make demo` runs it on two sets of crates that `cargo vendor` brings; `make demo OLD=dir NEW=dir` on your own.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A crate, an older version and a newer one.
type Pinned = (&'static str, &'static str, &'static str);

/// Crates to vendor.
const CRATES: &[Pinned] = &[
    ("hyper", "1.5.0", "1.6.0"),
    ("regex", "1.10.6", "1.11.1"),
    ("serde_json", "1.0.128", "1.0.140"),
    ("syn", "2.0.79", "2.0.101"),
    ("tokio", "1.40.0", "1.45.0"),
];

fn main() -> Result<()> {
    let work = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: demo WORK [OLD NEW]")?);
    fs::create_dir_all(&work)?;
    let work = work.canonicalize()?;
    let given: Vec<PathBuf> = std::env::args_os().skip(2).map(PathBuf::from).collect();
    let (old, new) = match given.as_slice() {
        [] => (vendor(&work, "old", |row| row.1)?, vendor(&work, "new", |row| row.2)?),
        [old, new] => (old.clone(), new.clone()),
        _ => return Err("give both OLD and NEW, or neither".into()),
    };
    // Beside this example lies the command: target/release/examples/demo, target/release/floe.
    let here = std::env::current_exe()?;
    let floe = here.ancestors().nth(2).ok_or("no directory above this program")?.join("floe");
    Demo { floe, store: work.join("store"), replica: work.join("replica") }.run(&old, &new)
}

/// Writes a package that pins `version` of each crate, and vendors it.
fn vendor(work: &Path, label: &str, version: fn(&Pinned) -> &'static str) -> Result<PathBuf> {
    let package = work.join(format!("{label}-package"));
    let vendored = work.join(label);
    fs::create_dir_all(package.join("src"))?;
    fs::write(package.join("src/lib.rs"), "")?;
    let mut manifest =
        format!("[package]\nname = \"{label}\"\nedition = \"2021\"\n[workspace]\n[dependencies]\n");
    for row in CRATES {
        manifest += &format!("{} = \"={}\"\n", row.0, version(row));
    }
    fs::write(package.join("Cargo.toml"), manifest)?;
    eprintln!("vendoring the {label} versions");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = package.join("Cargo.toml");
    let mut command = Command::new(cargo);
    command.args(["vendor", "--quiet", "--manifest-path"]).arg(manifest).arg(&vendored);
    // It prints the lines for a cargo configuration; nobody needs them here.
    let done = command.output()?;
    if !done.status.success() {
        return Err(format!("cargo vendor failed:\n{}", String::from_utf8_lossy(&done.stderr)).into());
    }
    Ok(vendored)
}

struct Demo {
    floe: PathBuf,
    store: PathBuf,
    replica: PathBuf,
}

impl Demo {
    fn run(&self, old: &Path, new: &Path) -> Result<()> {
        for dir in [&self.store, &self.replica] {
            if dir.exists() {
                fs::remove_dir_all(dir)?;
            }
        }
        let title = |cells: [&str; 8]| println!("{}", row(&cells.map(str::to_owned)));
        title(["", "files", "bytes", "chunks", "new", "new bytes", "stored", "seconds"]);
        self.publish(old, "demo@old")?;
        self.publish(new, "demo@new")?;
        println!();
        title(["", "changed", "moved", "removed", "fetched", "reused", "written", "seconds"]);
        self.sync("nothing -> old", "demo@old", old)?;
        self.sync("old -> new", "demo@new", new)?;
        self.sync("new -> old", "demo@old", old)?;
        println!();
        let store = self.store.as_path();
        let pruned = self.floe(&["prune", "STORE", "--keep", "demo@new"], &[("STORE", store)])?;
        let sound = self.floe(&["verify", "STORE"], &[("STORE", store)])?;
        println!(
            "pruned the old version: {} chunks, {} bytes; the store is sound: {} chunks re-read",
            pruned["chunks_removed"], pruned["bytes_removed"], sound["chunks"]
        );
        println!(
            "after each sync every file was verified: `floe verify` re-hashed it, `diff -r` found no difference"
        );
        Ok(())
    }

    fn publish(&self, tree: &Path, name: &str) -> Result<()> {
        let words = ["publish", "TREE", "--store", "STORE", "--name", name];
        let report = self.floe(&words, &[("TREE", tree), ("STORE", &self.store)])?;
        let fields = ["files", "bytes", "chunks", "chunks_new", "bytes_new", "bytes_stored"];
        print_row(&format!("publish {name}"), &report, &fields);
        Ok(())
    }

    fn sync(&self, label: &str, name: &str, tree: &Path) -> Result<()> {
        let paths: &[(&str, &Path)] = &[("STORE", &self.store), ("DIR", &self.replica)];
        let report = self.floe(&["sync", "STORE", name, "DIR"], paths)?;
        let fields = [
            "files_changed",
            "files_moved",
            "files_removed",
            "bytes_fetched",
            "bytes_reused",
            "bytes_written",
        ];
        print_row(label, &report, &fields);
        self.floe(&["verify", "DIR"], paths)?;
        let diff = Command::new("diff")
            .args(["-r", "--no-dereference", "--exclude=.floe"])
            .args([tree, &self.replica])
            .output()?;
        if !diff.status.success() || !diff.stdout.is_empty() {
            return Err(format!("diff -r: {}", String::from_utf8_lossy(&diff.stdout)).into());
        }
        Ok(())
    }

    /// Runs the command with `--json` and returns its report. Words that stand for a path are replaced.
    fn floe(&self, words: &[&str], paths: &[(&str, &Path)]) -> Result<Value> {
        let mut command = Command::new(&self.floe);
        for word in words {
            match paths.iter().find(|(name, _)| name == word) {
                Some((_, path)) => command.arg(path),
                None => command.arg(word),
            };
        }
        let done =
            command.arg("--json").output().map_err(|error| format!("{}: {error}", self.floe.display()))?;
        if !done.status.success() {
            return Err(format!("floe {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr)).into());
        }
        let text = String::from_utf8(done.stdout)?;
        Ok(serde_json::from_str(text.lines().next_back().ok_or("floe printed no report")?)?)
    }
}

fn print_row(label: &str, report: &Value, fields: &[&str; 6]) {
    let [a, b, c, d, e, f] = fields.map(|field| report[field].to_string());
    let seconds = report["elapsed_ms"].as_u64().unwrap_or_default() as f64 / 1000.0;
    println!("{}", row(&[label.to_owned(), a, b, c, d, e, f, format!("{seconds:.2}")]));
}

fn row(cells: &[String; 8]) -> String {
    let [label, rest @ ..] = cells;
    let rest: String = rest.iter().map(|cell| format!("{cell:>11}")).collect();
    format!("{label:<18}{rest}")
}
