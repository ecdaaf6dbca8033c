//! A step of an asset pipeline: which files does a build have to touch again, now that `NEW` is the input and not
//! `OLD`? Prints one line for each, and how many bytes of content are new.
//!
//! `cargo run --release --example pipeline -- OLD NEW`

use std::error::Error;
use std::path::PathBuf;

use floe::store::{MemStore, Name};
use floe::sync::{PublishOptions, diff, publish};
use floe::version::EntryKind;
use floe::{Silent, VersionId};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [old, new] = args.as_slice() else { return Err("usage: pipeline OLD NEW".into()) };
    // Nothing is kept: a store in memory is enough to compare two directories.
    let store = MemStore::default();
    let version = |dir: &PathBuf, label: &str| -> floe::Result<VersionId> {
        let name = Name::parse(&format!("input@{label}"))?;
        Ok(publish(dir, &store, &name, &PublishOptions::default(), &Silent)?.version)
    };
    let differ = diff(&store, version(old, "old")?, version(new, "new")?)?;
    for change in &differ.changes {
        let verb = match (&change.have, &change.want) {
            (_, None) => "drop",
            (None, Some(_)) => "build",
            (Some(have), Some(want)) => match (&have.kind, &want.kind) {
                (EntryKind::File { content: had, .. }, EntryKind::File { content: has, .. })
                    if had == has =>
                {
                    "chmod"
                }
                _ => "rebuild",
            },
        };
        println!("{verb:8} {}", change.path);
    }
    println!("{} bytes of content are new", differ.delta.bytes_missing());
    Ok(())
}
