//! floe inside another program: publish a directory, bring a copy of it up to date, print what that took.
//!
//! `cargo run --release --example embed -- STORE NAME DIR COPY`

use std::error::Error;
use std::path::Path;

use floe::Silent;
use floe::store::{Name, RocksOptions, RocksStore};
use floe::sync::{PublishOptions, SyncOptions, Target, publish, sync};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [store, name, dir, copy] = args.as_slice() else {
        return Err("usage: embed STORE NAME DIR COPY, with a NAME as in `art@1`".into());
    };
    let (dir, copy) = (Path::new(dir), Path::new(copy));

    let store = RocksStore::open(store, &RocksOptions { create: true, ..RocksOptions::default() })?;
    // A name is bound for good: other content wants another one.
    let name = Name::parse(name)?;
    let published = publish(dir, &store, &name, &PublishOptions::default(), &Silent)?;
    println!("{name} is version {}: {} files, {} bytes", published.version, published.files, published.bytes);
    println!("  {} of {} chunks are new", published.chunks_new, published.chunks);

    let synced = sync(&store, &Target::Name(name), copy, &SyncOptions::default(), &Silent)?;
    println!(
        "  {} fetched, {} reused, {} written",
        synced.bytes_fetched, synced.bytes_reused, synced.bytes_written
    );
    Ok(())
}
