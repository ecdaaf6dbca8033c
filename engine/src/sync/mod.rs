//! The verbs. Each is a function: options in, report out. They join a store and a tree and know no format.

mod changes;
mod cost;
mod decode;
mod gather;
mod mark;
mod mirror;
mod nodes;
mod prune;
mod publish;
mod query;
mod receive;
pub mod stream;
pub mod units;
mod update;
mod verify;
mod wire;

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::content::Compression;
use crate::delta::Profile;
use crate::error::Error;
use crate::fault::Faults;
use crate::id::VersionId;
use crate::limits::IN_FLIGHT_BYTES_MAX;
use crate::store::{AppName, Name, NameRecord};
use crate::tree::ReplicaOptions;

pub use changes::check_globs;
pub use mirror::mirror;
pub use prune::prune;
pub use publish::publish;
pub use query::{diff, list, log, resolve};
pub use update::{plan, sync};
pub use verify::{repair_replica, repair_store, verify_replica, verify_store};

/// What the caller calls a version: a name or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `app@label`.
    Name(Name),
    /// 64 hex digits.
    Version(VersionId),
}

impl FromStr for Target {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() == 64 && !text.contains('@') {
            text.parse().map(Target::Version)
        } else {
            Name::parse(text).map(Target::Name)
        }
    }
}

/// How a tree is published.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// How chunks are stored.
    pub compression: Compression,
    /// Globs to leave out, beside `.floeignore`.
    pub exclude: Vec<String>,
    /// Read every file, whatever its fingerprint says, and trust no record of the store: what it has of the tree is read
    /// and hashed, and put again where it is damaged. Otherwise a chunk that the store has a record of is not put.
    pub rehash: bool,
    /// Where the fingerprints of source directories are kept; `None` keeps none.
    pub fingerprints: Option<std::path::PathBuf>,
    /// Threads.
    pub threads: NonZeroUsize,
    /// Bound on plain bytes in flight.
    pub in_flight_bytes_max: u64,
    /// Now, in seconds since 1970: when the name is bound.
    pub now_unix_s: u64,
    /// Crash points of the fingerprint file.
    pub faults: Faults,
}

impl Default for PublishOptions {
    /// zstd at level 3, all processors, no fingerprints kept, bound at this moment.
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(3),
            exclude: Vec::new(),
            rehash: false,
            fingerprints: None,
            threads: processors(),
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
            now_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs()),
            faults: Faults::default(),
        }
    }
}

/// What a publish did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The version.
    pub version: VersionId,
    /// The name's record.
    pub record: NameRecord,
    /// Files in the version.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Chunks, counted once per use.
    pub chunks: u64,
    /// Chunks the store lacked.
    pub chunks_new: u64,
    /// Their plain bytes.
    pub bytes_new: u64,
    /// Their stored bytes.
    pub bytes_stored: u64,
    /// Nodes the store lacked.
    pub nodes_new: u64,
    /// Chunks the store had damaged, put again (only with `rehash`).
    pub chunks_mended: u64,
    /// Nodes the store had damaged, put again (only with `rehash`).
    pub nodes_mended: u64,
    /// Files whose content was read.
    pub files_read: u64,
    /// Paths left out by `.floeignore` and `exclude`.
    pub left_out: u64,
}

/// How a directory is brought to a version.
#[derive(Debug, Clone)]
pub struct SyncOptions {
    /// Remove files that no version wrote, and replace those where the version has something else.
    pub delete: bool,
    /// Replace files that no version wrote where the version has something else; otherwise they are a conflict.
    pub overwrite: bool,
    /// Globs of paths never to touch.
    pub protect: Vec<String>,
    /// Read every file, whatever its fingerprint says.
    pub rehash: bool,
    /// How a source on another machine may tell new chunks: as deltas in this profile, or as the frames that it holds.
    pub deltas: Option<Profile>,
    /// Threads.
    pub threads: NonZeroUsize,
    /// Bound on plain bytes in flight.
    pub in_flight_bytes_max: u64,
    /// Crash points of the replica.
    pub faults: Faults,
}

impl SyncOptions {
    // How the replica is opened.
    fn replica(&self) -> ReplicaOptions {
        ReplicaOptions { faults: self.faults.clone(), overwrite: self.overwrite || self.delete }
    }
}

impl Default for SyncOptions {
    /// Keeps foreign files, protects none, trusts fingerprints, uses all processors.
    fn default() -> Self {
        Self {
            delete: false,
            overwrite: false,
            protect: Vec::new(),
            rehash: false,
            deltas: None,
            threads: processors(),
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
            faults: Faults::default(),
        }
    }
}

fn processors() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The version the directory is now.
    pub version: VersionId,
    /// The version it was.
    pub from: Option<VersionId>,
    /// Updates, frames and nodes received from the source, in bytes as received.
    pub bytes_fetched: u64,
    /// Chunks received.
    pub chunks_fetched: u64,
    /// Bytes taken from what was here.
    pub bytes_reused: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// Questions asked of the source.
    pub requests: u64,
    /// Files added or with new content.
    pub files_changed: u64,
    /// Files moved.
    pub files_moved: u64,
    /// Files removed.
    pub files_removed: u64,
    /// Files kept though no version wrote them; `delete` removes those that are not protected.
    pub files_foreign: u64,
    /// What no version can hold (devices, sockets, FIFOs, names that are not UTF-8) and directories that cannot be
    /// listed: kept, with `delete`, too.
    pub paths_unpublishable: u64,
    /// Paths of the version not applied because they are protected.
    pub files_protected: u64,
    /// Whether anything was changed.
    pub unchanged: bool,
}

/// What a sync would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The version wanted.
    pub version: VersionId,
    /// The version there.
    pub from: Option<VersionId>,
    /// The steps.
    pub plan: crate::version::Plan,
    /// Chunks to fetch.
    pub chunks_missing: u64,
    /// Their plain bytes.
    pub bytes_missing: u64,
    /// What would be received: the update if the source makes one from what is here, else frames and nodes. HTTP and TLS
    /// are not counted, and what an earlier run received of an update is.
    pub bytes_fetched: u64,
    /// Bytes taken from what is here.
    pub bytes_reused: u64,
    /// Bytes of content to write.
    pub bytes_written: u64,
    /// Most extra bytes on disk.
    pub bytes_extra_peak: u64,
    /// Questions to ask; the name is not counted.
    pub requests: u64,
}

/// How two versions differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diffed {
    /// The delta.
    pub delta: crate::version::Delta,
    /// Every path that differs, in path order.
    pub changes: Vec<crate::version::Change>,
    /// The encoded update: frames of the missing chunks as stored, and the nodes the base lacks.
    pub bytes_update: u64,
}

/// How a store is copied into another.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    /// Threads that prove chunks.
    pub threads: NonZeroUsize,
    /// Bound on the bytes of chunks in flight, plain and stored together.
    pub in_flight_bytes_max: u64,
}

impl Default for MirrorOptions {
    /// All processors.
    fn default() -> Self {
        Self { threads: processors(), in_flight_bytes_max: IN_FLIGHT_BYTES_MAX }
    }
}

/// What a mirror did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirrored {
    /// Names bound.
    pub names: u64,
    /// Names that were there already.
    pub names_unchanged: u64,
    /// Versions that had no name of their app there.
    pub versions: u64,
    /// Chunks copied.
    pub chunks: u64,
    /// Nodes copied.
    pub nodes: u64,
    /// Bytes copied: frames and nodes, as stored.
    pub bytes: u64,
}

/// One thing found damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The chunk, node or path, with its full id.
    pub what: String,
    /// How it is wrong.
    pub reason: String,
    /// Paths or names that need it, a few of them.
    pub needed_by: Vec<String>,
}

/// How much is verified.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Share of a store's chunks to read, over 0 to 1. Nodes are always read in full.
    pub subset: f64,
    /// Take names that may have been lost for gone, after what the source has of them (repair only).
    pub accept_loss: bool,
    /// Picks the share: another seed, other chunks.
    pub seed: u64,
    /// Threads.
    pub threads: NonZeroUsize,
    /// Bound on plain bytes in flight.
    pub in_flight_bytes_max: u64,
}

impl Default for VerifyOptions {
    /// Everything, on all processors.
    fn default() -> Self {
        Self {
            subset: 1.0,
            accept_loss: false,
            seed: 0,
            threads: processors(),
            in_flight_bytes_max: IN_FLIGHT_BYTES_MAX,
        }
    }
}

/// What a verify found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// Names (store) or the one version (replica) checked.
    pub versions: u64,
    /// Files checked (replica).
    pub files: u64,
    /// Chunks read and hashed.
    pub chunks: u64,
    /// Chunks that there are: more than were read where only a share was asked for (store).
    pub chunks_in_all: u64,
    /// Nodes read and hashed.
    pub nodes: u64,
    /// Plain bytes hashed.
    pub bytes: u64,
    /// What is damaged.
    pub damage: Vec<Damage>,
    /// Things mended (repair only).
    pub repaired: u64,
    /// Files on disk that no version wrote (replica).
    pub files_foreign: u64,
    /// Paths on disk that no version can hold, and directories that cannot be listed (replica).
    pub paths_unpublishable: u64,
    /// Files that are protected and not as the version has them; not counted in `files` (replica).
    pub files_protected: u64,
}

/// What a prune keeps. A name is kept if any rule keeps it. Rules that keep none of the names they judge are refused,
/// unless `none` says that this is meant.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Rules that keep nothing are meant so.
    pub none: bool,
    /// The newest so many names of every app.
    pub last: Option<u64>,
    /// These names.
    pub names: Vec<Name>,
    /// Only names of this app are judged; others stay.
    pub app: Option<AppName>,
}

/// How a prune runs.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// What stays.
    pub keep: Keep,
    /// How long something unneeded stays before it is removed.
    pub grace: Duration,
    /// Count only.
    pub dry_run: bool,
    /// Now, in seconds since 1970.
    pub now_unix_s: u64,
}

/// What a prune did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// Names that stay.
    pub names_kept: u64,
    /// Names removed.
    pub names_removed: Vec<Name>,
    /// What the sweep did.
    pub swept: crate::store::Swept,
}
