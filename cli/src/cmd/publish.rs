//! `floe publish DIR --store STORE --name NAME`

use std::path::Path;

use floe::content::Compression;
use floe::store::Name;
use floe::sync::PublishOptions;
use floe::tree::SourceTree;
use floe::{Error, Faults, Result, limits};
use serde::Serialize;

use crate::args::Publish;
use crate::output::Output;
use crate::place::{Moved, Opener, Place};
use crate::report::End;
use crate::settings::Settings;
use crate::terms::{bytes, count, elapsed};

#[derive(Serialize)]
struct Report {
    name: String,
    version: String,
    unchanged: bool,
    files: u64,
    bytes: u64,
    chunks: u64,
    chunks_new: u64,
    bytes_new: u64,
    bytes_stored: u64,
    nodes_new: u64,
    chunks_mended: u64,
    nodes_mended: u64,
    files_read: u64,
    left_out: u64,
    #[serde(flatten)]
    moved: Moved,
}

pub fn run(args: &Publish, settings: &Settings, output: &Output) -> Result<End> {
    let name = Name::parse(&args.name)?;
    let place = Place::parse(&args.store)?;
    let opener = Opener::new(&place, &args.reach, settings, output);
    // A DIR that cannot be opened leaves no new store behind.
    drop(SourceTree::open(&args.dir)?);
    floe::sync::check_globs(&args.exclude)?;
    let store = opener.create(&place)?;
    if place.dir().is_some_and(|store| super::same_directory(&args.dir, store)) {
        return Err(Error::Conflict {
            what: format!("directory `{}`", args.dir.display()),
            place: store.place(),
            reason: "it is the store itself".into(),
        });
    }
    let below = store_below(&args.dir, &place);
    let left_out =
        if below.is_some() { "the store itself, .floeignore, --exclude" } else { ".floeignore, --exclude" };
    let options = PublishOptions {
        compression: if args.level == 0 { Compression::None } else { Compression::Zstd(args.level.into()) },
        exclude: args.exclude.iter().cloned().chain(below).collect(),
        rehash: args.rehash,
        fingerprints: opener.fingerprints(&place)?,
        threads: settings.threads,
        in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX,
        now_unix_s: settings.now_unix_s,
        faults: Faults::default(),
    };
    // Binding a name again is refused unless it means the same tree; so a name that was there has not changed.
    let unchanged = store.resolve(&name)?.is_some();
    let done = floe::sync::publish(&args.dir, &*store, &name, &options, output)?;
    let report = Report {
        name: name.to_string(),
        version: done.version.to_string(),
        unchanged,
        files: done.files,
        bytes: done.bytes,
        chunks: done.chunks,
        chunks_new: done.chunks_new,
        bytes_new: done.bytes_new,
        bytes_stored: done.bytes_stored,
        nodes_new: done.nodes_new,
        chunks_mended: done.chunks_mended,
        nodes_mended: done.nodes_mended,
        files_read: done.files_read,
        left_out: done.left_out,
        moved: store.moved(),
    };
    let mut table = vec![
        (if unchanged { "unchanged" } else { "published" }, report.name.clone()),
        ("version", report.version.clone()),
        ("files", format!("{} ({}), {} read", done.files, bytes(done.bytes), done.files_read)),
        ("new", new(&report)),
    ];
    if done.chunks_mended + done.nodes_mended > 0 {
        let (chunks, nodes) = (count(done.chunks_mended, "chunk"), count(done.nodes_mended, "node"));
        table.push(("mended", format!("{chunks} and {nodes} that the store had damaged")));
    }
    if done.left_out > 0 {
        table.push(("left out", format!("{} ({left_out})", count(done.left_out, "path"))));
    }
    table.extend(report.moved.line());
    table.push(("time", elapsed(output.elapsed())));
    output.report("publish", &report, &table)?;
    Ok(super::end(unchanged, args.exit_unchanged))
}

// A store that lies in the directory to publish is no part of it: a glob that leaves it out, with what globs read
// otherwise escaped.
fn store_below(dir: &Path, store: &Place) -> Option<String> {
    let (dir, store) = (dir.canonicalize().ok()?, store.dir()?.canonicalize().ok()?);
    let below = store.strip_prefix(dir).ok()?.to_str().filter(|below| !below.is_empty())?;
    let mut glob = String::from("/");
    for letter in below.chars() {
        if "\\*?[]{}!# ".contains(letter) {
            glob.push('\\');
        }
        glob.push(letter);
    }
    glob.push('/');
    Some(glob)
}

fn new(report: &Report) -> String {
    format!(
        "{} of {} ({}, stored as {})",
        report.chunks_new,
        count(report.chunks, "chunk"),
        bytes(report.bytes_new),
        bytes(report.bytes_stored)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_in_the_tree_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let odd = dir.path().join("a/b [x]*");
        std::fs::create_dir_all(&odd).expect("made");
        let store = |path: &Path| Place::Dir(path.to_owned());
        assert_eq!(store_below(dir.path(), &store(&odd)).as_deref(), Some(r"/a/b\ \[x\]\*/"));
        assert_eq!(store_below(&odd, &store(dir.path())), None);
        assert_eq!(store_below(&odd, &store(&odd)), None);
    }
}
