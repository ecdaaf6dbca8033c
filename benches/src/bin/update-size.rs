//! `update-size OLD NEW [PROFILE...]`: what the update between two trees is in bytes, and what making it takes on one
//! core. Profiles are `frames`, `fast`, `small` and `smallest`. Prints a line for each: profile, bytes, seconds.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use floe::content::Compression;
use floe::delta::Profile;
use floe::store::{MemStore, Name, UpdateAsk};
use floe::sync::{PublishOptions, publish, stream};
use floe::{Faults, Silent, VersionId, limits};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(old), Some(new)) = (words.next(), words.next()) else {
        return Err("usage: update-size OLD NEW [frames|fast|small|smallest]...".into());
    };
    let mut profiles: Vec<String> = words.collect();
    if profiles.is_empty() {
        profiles = ["frames", "fast", "small", "smallest"].map(String::from).to_vec();
    }
    let store = MemStore::default();
    let have = published(&store, &old, "tree@old")?;
    let want = published(&store, &new, "tree@new")?;
    for word in profiles {
        let profile = match word.as_str() {
            "frames" => None,
            name => Some(Profile::named(name).ok_or_else(|| format!("no profile `{name}`"))?),
        };
        let ask = UpdateAsk { have: Some(have), want, from_unit: 0, from_byte: 0, profile };
        let mut bytes = 0;
        let begun = Instant::now();
        let made = stream::make(&store, &ask, &mut |piece| {
            bytes += piece.len();
            Ok(())
        })?;
        if !made {
            return Err("the update is beyond the limits of a stream".into());
        }
        println!("{word} {bytes} {:.2}", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

// Frames as a publish makes them when nothing else is said.
fn published(store: &MemStore, dir: &str, name: &str) -> Result<VersionId, Box<dyn Error>> {
    let options = PublishOptions {
        compression: Compression::Zstd(3),
        exclude: Vec::new(),
        rehash: false,
        fingerprints: None,
        threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX,
        now_unix_s: 0,
        faults: Faults::default(),
    };
    Ok(publish(Path::new(dir), store, &Name::parse(name)?, &options, &Silent)?.version)
}
