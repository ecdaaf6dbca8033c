//! What the words mean: opened stores, targets, options. Together with `output.rs` the only reader of the
//! environment and the clock.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use floe::store::{RocksOptions, RocksStore, Store};
use floe::sync::{SyncOptions, Target, VerifyOptions};
use floe::{Error, Faults, Result, limits};

use crate::args::{Common, SyncWhat};

/// What holds for every verb.
pub struct Settings {
    /// How many threads a verb may use.
    pub threads: NonZeroUsize,
    /// Seconds since 1970, read once.
    pub now_unix_s: u64,
}

impl Settings {
    /// Reads environment, clock and processors.
    pub fn new(common: &Common) -> Result<Settings> {
        trace()?;
        let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Settings { threads: common.threads.unwrap_or(processors), now_unix_s: now.as_secs() })
    }

    /// The options of sync and plan.
    pub fn sync_options(&self, what: &SyncWhat) -> SyncOptions {
        SyncOptions {
            delete: what.delete,
            overwrite: what.overwrite,
            protect: what.protect.clone(),
            rehash: what.rehash,
            threads: self.threads,
            in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX,
            faults: Faults::default(),
        }
    }

    /// The options of verify; another share of the chunks at each run.
    pub fn verify_options(&self, subset: Option<&str>) -> Result<VerifyOptions> {
        Ok(VerifyOptions {
            subset: subset.map_or(Ok(1.0), share)?,
            seed: self.now_unix_s,
            threads: self.threads,
            in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX,
        })
    }
}

/// Turns Ctrl-C and a polite kill into a flag; the second one ends the process at once.
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag down. Without handlers a signal just ends the process.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop));
        let _ = signal_hook::flag::register(signal, Arc::clone(&stop));
    }
    stop
}

/// A version as typed: a name or an id.
pub fn target(text: &str) -> Result<Target> {
    if !text.contains('@') && text.contains(':') {
        return Err(Error::Usage {
            what: format!("channel `{}`", text.escape_debug()),
            reason: "this build has no channels yet".to_owned(),
        });
    }
    text.parse()
}

/// A store or source as typed. Only directories can be opened by this build.
pub fn place(text: &str) -> Result<&Path> {
    match text.split_once("://") {
        Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b)) => {
            Err(Error::Usage {
                what: format!("store `{}`", text.escape_debug()),
                reason: "this build opens directories only, no URLs yet".to_owned(),
            })
        }
        _ => Ok(Path::new(text)),
    }
}

/// What is at a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A store.
    Store,
    /// A directory that `floe sync` made.
    Replica,
}

impl Place {
    /// What it is called.
    pub fn word(self) -> &'static str {
        match self {
            Place::Store => "store",
            Place::Replica => "replica",
        }
    }
}

/// Tells a store from a replica.
pub fn what_is_at(path: &Path) -> Result<Place> {
    // A replica may hold a published file FORMAT; a store holds no `.floe`.
    if path.join(".floe").is_dir() {
        return Ok(Place::Replica);
    }
    if path.join("FORMAT").is_file() {
        return Ok(Place::Store);
    }
    std::fs::metadata(path).map_err(|source| Error::Io { action: "open", path: path.to_owned(), source })?;
    Err(Error::NotFound {
        what: "store and no synced directory".to_owned(),
        place: format!("`{}`", path.display()),
    })
}

/// Opens a store that is there, to read it beside other readers.
pub fn open_to_read(path: &Path) -> Result<Box<dyn Store>> {
    Ok(Box::new(RocksStore::open_read_only(path)?))
}

/// Opens a store that is there, to change it.
pub fn open(path: &Path) -> Result<Box<dyn Store>> {
    store(path, false)
}

/// Opens a store that is there, to mend it: also one whose database is damaged.
pub fn open_to_mend(path: &Path) -> Result<Box<dyn Store>> {
    let options = RocksOptions { salvage: true, ..RocksOptions::default() };
    Ok(Box::new(RocksStore::open(path, &options)?))
}

/// Opens a store, or makes it.
pub fn open_or_create(path: &Path) -> Result<Box<dyn Store>> {
    store(path, true)
}

/// Where a store keeps the fingerprints of the directories published into it.
pub fn fingerprints(store: &Path) -> Result<PathBuf> {
    let dir = store.join("sources");
    std::fs::create_dir_all(&dir).map_err(|source| Error::Io {
        action: "create",
        path: dir.clone(),
        source,
    })?;
    Ok(dir)
}

fn store(path: &Path, create: bool) -> Result<Box<dyn Store>> {
    let options = RocksOptions { create, ..RocksOptions::default() };
    Ok(Box::new(RocksStore::open(path, &options)?))
}

// `5%` or `0.05`.
fn share(text: &str) -> Result<f64> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    share.ok().filter(|share| *share > 0.0 && *share <= 1.0).ok_or_else(|| Error::Usage {
        what: format!("share `{}`", text.escape_debug()),
        reason: "must be over 0% and at most 100%, as in `5%`".to_owned(),
    })
}

// FLOE_LOG=debug, or any filter of tracing-subscriber, writes the engine's events to stderr.
fn trace() -> Result<()> {
    let Some(filter) = std::env::var_os("FLOE_LOG").filter(|filter| !filter.is_empty()) else {
        return Ok(());
    };
    let filter = filter.to_string_lossy();
    let filter = tracing_subscriber::EnvFilter::try_new(&*filter).map_err(|error| Error::Usage {
        what: format!("FLOE_LOG `{}`", filter.escape_debug()),
        reason: error.to_string(),
    })?;
    let colour =
        std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (text, want) in [("5%", Some(0.05)), ("100%", Some(1.0)), ("0.25", Some(0.25)), ("1", Some(1.0))]
        {
            assert_eq!(share(text).ok(), want, "{text}");
        }
        for text in ["0", "0%", "101%", "-5%", "nan", "inf", "", "%", "five"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn places() {
        for text in ["http://h/x", "https://h", "ssh://h/p", "s3://b", "file:///x"] {
            assert!(place(text).is_err(), "{text}");
        }
        for text in ["store", "/a/b", "./a:b", "a:/b", "dir/x://y"] {
            assert!(place(text).is_ok(), "{text}");
        }
    }
}
