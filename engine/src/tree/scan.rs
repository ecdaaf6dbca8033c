//! A directory to publish from: what is in it, in path order, and readers that notice a change.
//!
//! A path is looked at once, never opened for it, and no symlink is followed below the root.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{At, Result};
use crate::progress::{self, Notice, Phase, Progress};
use crate::version::{DIR_MODE, RelPath};

use super::portable;
use super::reader::FileReader;
use super::stat::Fingerprint;
use super::walk::{self, Item, Listing};

/// What a scan leaves out.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// Globs in `.gitignore` syntax, relative to the root, beside what `.floeignore` files say.
    pub exclude: Vec<String>,
    /// Obey `.floeignore` files. A replica does not: there they are files like any other.
    pub honour_ignore: bool,
    /// List what cannot be published in [`Scan::unpublishable`] instead of failing. For replicas.
    pub tolerate_foreign: bool,
    /// Threads that walk.
    pub threads: NonZeroUsize,
}

/// One path found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub path: RelPath,
    /// What.
    pub kind: FoundKind,
    /// Its fingerprint at the time of the scan.
    pub stat: Fingerprint,
}

/// What was found. Modes are the nine permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FoundKind {
    File {
        mode: u16,
        len: u64,
    },
    Symlink {
        target: String,
    },
    /// Only directories that become an entry: empty ones, or with a mode other than 0o755.
    Dir {
        mode: u16,
    },
}

/// Everything found, in path order.
#[derive(Debug, Clone)]
pub struct Scan {
    /// In path order.
    pub found: Vec<Found>,
    /// Paths left out by `.floeignore` or `exclude` (a directory counts once).
    pub left_out: u64,
    /// Wall clock at the start, nanoseconds since 1970: what the racy rule compares with.
    pub started_unix_ns: i128,
    /// With `tolerate_foreign`: devices, sockets, FIFOs, names that are not UTF-8, and what is in `closed`, relative to
    /// the root.
    pub unpublishable: Vec<std::path::PathBuf>,
    /// With `tolerate_foreign`: what could not be looked into for want of permission. In path order.
    pub closed: Vec<RelPath>,
    /// Names that other systems cannot hold, and what no version keeps.
    pub notices: Vec<Notice>,
}

/// An open directory to publish from. `.floe` at its top is never part of it; in another case it is left out, too, and
/// told.
#[derive(Debug)]
pub struct SourceTree {
    dir: PathBuf,
    fd: OwnedFd,
}

impl SourceTree {
    /// Opens `dir`. It may itself be reached through symlinks.
    pub fn open(dir: &Path) -> Result<SourceTree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, dir, flags, Mode::empty()).map_err(Into::into).at("open directory", dir)?;
        Ok(SourceTree { dir: dir.to_owned(), fd })
    }

    /// Walks it. What cannot be published, and a directory that cannot be listed, fails the scan as a whole
    /// (but see [`ScanOptions::tolerate_foreign`]).
    pub fn scan(&self, options: &ScanOptions, progress: &dyn Progress) -> Result<Scan> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        // A clock before 1970 proves no fingerprint.
        let started_unix_ns = started.map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(0));
        progress.phase(Phase::Scan, None);
        progress::check(progress)?;
        let mut walked = walk::walk(self.fd.as_fd(), &self.dir, options, progress)?;
        walked.unpublishable.sort_unstable();
        walked.closed.sort_unstable();
        let found = in_order(walked.listings);
        let mut notices = portable::notices(found.iter().map(|found| found.path.as_str()));
        notices.extend(portable::not_kept(walked.special, walked.state_like));
        let (left_out, unpublishable, closed) = (walked.left_out, walked.unpublishable, walked.closed);
        Ok(Scan { found, left_out, started_unix_ns, unpublishable, closed, notices })
    }

    /// Opens a file found by a scan. Never follows a symlink. [`crate::Error::Changed`] if it is not what was
    /// found any more.
    pub fn read(&self, found: &Found) -> Result<FileReader> {
        FileReader::open(self.fd.as_fd(), found, self.dir.join(found.path.as_str()))
    }
}

// Depth first through the listings. Each is freed as soon as it is through.
fn in_order(mut listings: HashMap<usize, Listing>) -> Vec<Found> {
    let mut found = Vec::with_capacity(listings.values().map(|listing| listing.items.len()).sum());
    let mut open: Vec<_> = listings.remove(&0).map(|root| root.items.into_iter()).into_iter().collect();
    while let Some(items) = open.last_mut() {
        match items.next() {
            None => {
                open.pop();
            }
            Some(Item::Entry(entry)) => found.push(entry),
            Some(Item::Dir { found: dir, id }) => {
                let Some(listing) = listings.get(&id) else { continue };
                let implied = dir.stat.permissions() == DIR_MODE && !is_empty(listing, &listings);
                if !implied && !listing.closed {
                    found.push(dir);
                }
            }
            Some(Item::Body { id, .. }) => {
                open.extend(listings.remove(&id).map(|listing| listing.items.into_iter()));
            }
        }
    }
    found
}

// A directory that vanished during the walk has no listing, and does not count.
fn is_empty(listing: &Listing, listings: &HashMap<usize, Listing>) -> bool {
    !listing.foreign
        && listing.items.iter().all(|item| match item {
            Item::Entry(_) => false,
            Item::Dir { id, .. } | Item::Body { id, .. } => !listings.contains_key(id),
        })
}
