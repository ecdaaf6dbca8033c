//! What was written once must be read for good: cuts, records, a whole store and a whole replica of format 1.
//! `UPDATE_GOLDEN=1` writes `testdata` anew; after a release that is right only for what is new in it.
#![cfg(all(feature = "testing", feature = "rocks"))]

mod cuts;
mod make;
mod mirror;
mod records;
mod trees;
#[path = "../world/mod.rs"]
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Files by path relative to `testdata`, and what begins with it is.
const MEANINGS: &[(&str, &str)] = &[
    ("README", "what this folder is"),
    ("cuts/v1.txt", "cut lengths of inputs made by rule"),
    ("formats/v1/root.bin", "root node of a version"),
    ("formats/v1/root-empty.bin", "root node of the empty version"),
    ("formats/v1/entries.bin", "node of entries of every kind"),
    ("formats/v1/inner-entries.bin", "node above nodes of entries"),
    ("formats/v1/chunks.bin", "node of a file's chunks"),
    ("formats/v1/inner-chunks.bin", "node above nodes of chunks"),
    ("formats/v1/name.bin", "value of a name in a store"),
    ("formats/v1/location.bin", "value of a chunk in a store's index"),
    ("formats/v1/fingerprint-table.bin", "fingerprints of a source directory"),
    ("formats/v1/state.bin", "state of a replica"),
    ("formats/v1/journal.bin", "journal of a replica in the middle of a switch"),
    ("formats/v1/node-log.bin", "node log of a replica"),
    ("formats/v1/edits.bin", "edits of every kind, of the version in `testing::doors::base`"),
    (
        "formats/v1/update.bin",
        "update stream with those edits; for reading only, as its edits are compressed",
    ),
    ("formats/v1/update-unit.bin", "unit of that stream"),
    (
        "formats/v1/update-delta.bin",
        "unit of the same update told as a delta; for reading only, as it is compressed",
    ),
    ("formats/v1/frame-stored.bin", "frame of a chunk, plain"),
    ("formats/v1/frame-zstd.bin", "frame of a chunk, compressed; for decoding only"),
    ("formats/v1/delta-stored.bin", "delta of the specimen in `engine/tests/delta.rs`, stored"),
    ("formats/v1/delta-zstd.bin", "the same as a zstd frame; for decoding only"),
    ("formats/v1/delta-prefix.bin", "the same with the reference as prefix; for decoding only"),
    ("formats/v1/delta-light.bin", "the same by `cover`, light; for decoding only"),
    ("formats/v1/delta-mixed.bin", "the same by `cover`, mixed; for decoding only"),
    ("formats/v1/FORMAT-replica", "format file of a replica"),
    ("formats/v1/FORMAT-store", "format file of a store"),
    ("replicas/v1/.floe/", "state of a replica that is game@1"),
    ("replicas/v1/", "content of a replica that is game@1"),
    ("stores/v1/", "store with game@1 and game@2"),
];

/// The folder, written anew first if that is asked for.
fn testdata() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let workspace =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in a workspace");
        let dir = workspace.join("testdata");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            make::all(&dir);
            fs::write(dir.join("MANIFEST"), listing(&dir)).expect("written");
        }
        dir
    })
}

fn golden(path: &str) -> Vec<u8> {
    fs::read(testdata().join(path)).unwrap_or_else(|error| panic!("testdata/{path}: {error}"))
}

fn record(name: &str) -> Vec<u8> {
    golden(&format!("formats/v1/{name}"))
}

/// Every file below `dir`, by relative path: its bytes, or where a symlink points to.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).expect("listed") {
            let path = entry.expect("listed").path();
            let meta = path.symlink_metadata().expect("there");
            if meta.is_dir() {
                todo.push(path);
                continue;
            }
            let bytes = if meta.is_symlink() {
                fs::read_link(&path).expect("read").into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).expect("read")
            };
            let relative = path.strip_prefix(dir).expect("below it").to_str().expect("UTF-8").to_owned();
            found.insert(relative, bytes);
        }
    }
    found
}

fn listing(dir: &Path) -> String {
    let mut found = files(dir);
    found.remove("MANIFEST");
    let line = |(path, bytes): (String, Vec<u8>)| {
        let (_, meaning) = MEANINGS
            .iter()
            .find(|(start, _)| path.starts_with(start))
            .unwrap_or_else(|| panic!("testdata/{path} has no meaning"));
        format!("{} {:>6} {path}: {meaning}\n", blake3::hash(&bytes).to_hex(), bytes.len())
    };
    found.into_iter().map(line).collect()
}

#[test]
fn the_manifest_lists_every_file() {
    let (found, listed) = (listing(testdata()), String::from_utf8(golden("MANIFEST")).expect("text"));
    for (found, listed) in found.lines().zip(listed.lines()) {
        assert_eq!(found, listed);
    }
    assert_eq!(found, listed);
    let bytes: usize = files(testdata()).values().map(Vec::len).sum();
    assert!(bytes < 600 << 10, "testdata has {bytes} bytes");
}
