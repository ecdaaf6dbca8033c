//! The parallel walk below a directory: one `stat` for each path, nothing opened but directories and rules.
//!
//! Work is a stack of directories to list and, where one holds very many names, of parts of it to `stat`. Every
//! directory is opened from the root by its path without following symlinks, so the number of open handles does
//! not grow with depth. What is found stays in one listing for each directory; `scan.rs` puts them in order.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use ignore::gitignore::Gitignore;
use rustix::fs::{AtFlags, FileType, OFlags, Stat, readlinkat, statat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::limits::{COMPONENT_LEN_MAX, PATH_LEN_MAX, SYMLINK_LEN_MAX, THREADS_MAX};
use crate::progress::{self, Progress};
use crate::version::{RelPath, STATE_DIR};

use super::beneath::{is_gone, open_beneath};
use super::rules::{self, RULES_NAME, Rules};
use super::scan::{Found, FoundKind, ScanOptions};
use super::stat::Fingerprint;

// Names that one thread takes from a directory before others may help.
const PART_LEN: usize = 4096;
// Set user id, set group id, sticky.
const SPECIAL_BITS: u32 = 0o7000;
const _: () = assert!(PATH_LEN_MAX == 4095 && COMPONENT_LEN_MAX == 255, "as the refusals say");

/// One line of a directory's listing.
#[derive(Debug)]
pub(super) enum Item {
    /// A file or a symlink.
    Entry(Found),
    /// A directory; whether it is an entry depends on its own listing.
    Dir { found: Found, id: usize },
    /// Where the content of directory `id` comes: its path with a slash.
    Body { prefix: Arc<str>, id: usize },
}

impl Item {
    /// What items are ordered by; then the walk through all listings is in the byte order of paths.
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Item::Entry(found) | Item::Dir { found, .. } => found.path.as_str().as_bytes(),
            Item::Body { prefix, .. } => prefix.as_bytes(),
        }
    }
}

/// What one directory holds, in order.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) items: Vec<Item>,
    /// It also holds something that cannot be published.
    pub(super) foreign: bool,
    /// It is there, but may not be listed.
    pub(super) closed: bool,
}

/// Everything the walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// By directory id; the root is 0. A directory that was gone when it was opened has none.
    pub(super) listings: HashMap<usize, Listing>,
    pub(super) left_out: u64,
    pub(super) unpublishable: Vec<PathBuf>,
    pub(super) closed: Vec<RelPath>,
    /// Files and directories with mode bits that no version keeps.
    pub(super) special: Vec<(RelPath, FileType)>,
    /// What is left out for its name: at the top `.floe` in another case, and, of a tree that is published, `.floe` further down.
    pub(super) state_like: Vec<String>,
}

/// Walks the tree open at `root`, which errors call `dir`.
pub(super) fn walk(
    root: BorrowedFd<'_>,
    dir: &Path,
    options: &ScanOptions,
    progress: &dyn Progress,
) -> Result<Walked> {
    let first = Job::List { id: 0, prefix: "".into(), rules: None };
    let walk = Walk {
        root,
        dir,
        options,
        excludes: rules::excludes(&options.exclude)?,
        progress,
        queue: Mutex::new(Queue { jobs: vec![first], busy: 0, outcome: None }),
        wake: Condvar::new(),
        dirs: AtomicUsize::new(1),
    };
    let gathered: Vec<Worker<'_, '_>> = std::thread::scope(|scope| {
        // Where no more threads can be had, fewer do.
        let others: Vec<_> = (1..options.threads.get().min(THREADS_MAX))
            .map_while(|_| Builder::new().spawn_scoped(scope, || Worker::new(&walk).run()).ok())
            .collect();
        let own = Worker::new(&walk).run();
        let others = others.into_iter().map(|other| match other.join() {
            Ok(worker) => worker,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        std::iter::once(own).chain(others).collect()
    });
    let mut walked = Walked::default();
    for worker in gathered {
        walked.left_out += worker.left_out;
        walked.unpublishable.extend(worker.unpublishable);
        walked.closed.extend(worker.closed);
        walked.special.extend(worker.special);
        walked.state_like.extend(worker.state_like);
        for (id, mut part) in worker.listings {
            let whole = walked.listings.entry(id).or_default();
            whole.foreign |= part.foreign;
            whole.closed |= part.closed;
            if whole.items.is_empty() {
                whole.items = part.items;
            } else {
                whole.items.append(&mut part.items);
                // Parts are sorted runs: merging them is nearly linear.
                whole.items.sort_by(|left, right| left.key().cmp(right.key()));
            }
        }
    }
    match walk.lock().outcome.take() {
        Some(error) => Err(error),
        None => Ok(walked),
    }
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    dir: &'a Path,
    options: &'a ScanOptions,
    excludes: Option<Gitignore>,
    progress: &'a dyn Progress,
    queue: Mutex<Queue>,
    wake: Condvar,
    dirs: AtomicUsize,
}

struct Queue {
    jobs: Vec<Job>,
    busy: usize,
    // The first error; nothing more is started.
    outcome: Option<Error>,
}

enum Job {
    List { id: usize, prefix: Arc<str>, rules: Option<Arc<Rules>> },
    Stat { listed: Arc<Listed>, part: Range<usize> },
}

impl Walk<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; `None` when there will be no more.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.outcome.is_some() {
                return None;
            }
            if let Some(job) = queue.jobs.pop() {
                queue.busy += 1;
                return Some(job);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, jobs: &mut Vec<Job>) {
        if !jobs.is_empty() {
            self.lock().jobs.append(jobs);
            self.wake.notify_all();
        }
    }

    fn full_path(&self, prefix: &str, name: &[u8]) -> PathBuf {
        match std::str::from_utf8(name) {
            Ok(name) => self.dir.join(prefix).join(name),
            Err(_) => self.dir.join(prefix).join(name.escape_ascii().to_string()),
        }
    }
}

// Takes a worker out of the count however its job ends, so that no other waits for it for ever.
struct Busy<'w, 'a>(&'w Walk<'a>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.busy -= 1;
        if std::thread::panicking() {
            queue.outcome.get_or_insert(Error::Cancelled);
        }
        if queue.outcome.is_some() || (queue.busy == 0 && queue.jobs.is_empty()) {
            self.0.wake.notify_all();
        }
    }
}

/// A directory's names, open for `stat`.
struct Listed {
    id: usize,
    prefix: Arc<str>,
    rules: Option<Arc<Rules>>,
    fd: OwnedFd,
    names: Names,
}

/// Names one after the other, each with its NUL.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    // Where each begins, and its type if the directory tells.
    starts: Vec<(usize, FileType)>,
}

impl Names {
    fn push(&mut self, name: &CStr, kind: FileType) {
        self.starts.push((self.bytes.len(), kind));
        self.bytes.extend_from_slice(name.to_bytes_with_nul());
    }

    fn get(&self, index: usize) -> Option<(&CStr, FileType)> {
        let (start, kind) = *self.starts.get(index)?;
        let name = CStr::from_bytes_until_nul(self.bytes.get(start..)?).ok()?;
        Some((name, kind))
    }
}

struct Worker<'w, 'a> {
    walk: &'w Walk<'a>,
    listings: Vec<(usize, Listing)>,
    left_out: u64,
    unpublishable: Vec<PathBuf>,
    closed: Vec<RelPath>,
    special: Vec<(RelPath, FileType)>,
    state_like: Vec<String>,
    // Reused: the path being looked at, the kernel's directory buffer, new work.
    path: String,
    buffer: Vec<u8>,
    jobs: Vec<Job>,
}

impl<'w, 'a> Worker<'w, 'a> {
    fn new(walk: &'w Walk<'a>) -> Self {
        Worker {
            walk,
            listings: Vec::new(),
            left_out: 0,
            unpublishable: Vec::new(),
            closed: Vec::new(),
            special: Vec::new(),
            state_like: Vec::new(),
            path: String::new(),
            buffer: Vec::with_capacity(64 << 10),
            jobs: Vec::new(),
        }
    }

    fn run(mut self) -> Self {
        while let Some(job) = self.walk.next() {
            let busy = Busy(self.walk);
            let done = match job {
                Job::List { id, prefix, rules } => self.list(id, prefix, rules),
                Job::Stat { listed, part } => self.stat(&listed, part),
            };
            if let Err(error) = done {
                self.walk.lock().outcome.get_or_insert(error);
            }
            drop(busy);
        }
        self
    }

    fn list(&mut self, id: usize, prefix: Arc<str>, rules: Option<Arc<Rules>>) -> Result<()> {
        let place = || self.walk.dir.join(&*prefix);
        let path = prefix.strip_suffix('/').unwrap_or(".");
        let fd = match open_beneath(self.walk.root, path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(error) if is_gone(error) && id != 0 => return self.vanished(|| self.walk.dir.join(path)),
            Err(Errno::ACCESS) if id != 0 && self.close(path) => {
                self.listings.push((id, Listing { foreign: true, closed: true, ..Listing::default() }));
                return Ok(());
            }
            Err(error) => return Err(Error::io("open", place(), error.into())),
        };
        let mut names = Names::default();
        let mut has_rules = false;
        let read = read_names(&fd, &mut self.buffer, |name, kind| {
            let bytes = name.to_bytes();
            let is_state = bytes == STATE_DIR.as_bytes();
            if id == 0 && bytes.eq_ignore_ascii_case(STATE_DIR.as_bytes()) {
                self.state_like.extend((!is_state).then(|| name.to_string_lossy().into_owned()));
            } else if is_state && self.walk.options.honour_ignore && kind != FileType::RegularFile {
                // Of a replica in the tree: its state is true of that directory alone.
                self.state_like.push(format!("{prefix}{STATE_DIR}"));
            } else if bytes != b"." && bytes != b".." {
                has_rules |= bytes == RULES_NAME.as_bytes();
                names.push(name, kind);
            }
        });
        read.map_err(|error| Error::io("list", place(), error.into()))?;
        let rules = if has_rules && self.walk.options.honour_ignore {
            Rules::read(fd.as_fd(), self.walk.dir, &prefix, rules)?
        } else {
            rules
        };
        let len = names.starts.len();
        let listed = Arc::new(Listed { id, prefix, rules, fd, names });
        for start in (PART_LEN..len).step_by(PART_LEN) {
            let part = start..len.min(start + PART_LEN);
            self.jobs.push(Job::Stat { listed: Arc::clone(&listed), part });
        }
        self.walk.add(&mut self.jobs);
        self.stat(&listed, 0..len.min(PART_LEN))
    }

    fn stat(&mut self, listed: &Listed, part: Range<usize>) -> Result<()> {
        progress::check(self.walk.progress)?;
        let amount = part.len() as u64;
        let mut listing = Listing { items: Vec::with_capacity(part.len()), ..Listing::default() };
        for index in part {
            if let Some((name, kind)) = listed.names.get(index) {
                self.look(listed, name, kind, &mut listing)?;
            }
        }
        listing.items.sort_unstable_by(|left, right| left.key().cmp(right.key()));
        self.listings.push((listed.id, listing));
        self.walk.add(&mut self.jobs);
        self.walk.progress.advance(amount);
        Ok(())
    }

    // One name.
    fn look(&mut self, listed: &Listed, name: &CStr, kind: FileType, listing: &mut Listing) -> Result<()> {
        let Ok(text) = name.to_str() else {
            return self.refuse(listed, name, listing, "its name is not UTF-8");
        };
        self.path.clear();
        self.path.push_str(&listed.prefix);
        self.path.push_str(text);
        let mut known = None;
        if self.has_rules(listed) {
            let is_dir = if kind == FileType::Unknown {
                let Some(stat) = self.stat_one(listed, name)? else {
                    return self.name_vanished(listed, name);
                };
                known = Some(stat);
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            } else {
                kind == FileType::Directory
            };
            if self.leave_out(listed, is_dir) {
                self.left_out += 1;
                return Ok(());
            }
        }
        let stat = match known {
            Some(stat) => stat,
            None => match self.stat_one(listed, name) {
                Ok(Some(stat)) => stat,
                Ok(None) => return self.name_vanished(listed, name),
                Err(error) if is_denied(&error) && self.close_found() => {
                    listing.foreign = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
        };
        let path = match RelPath::parse(&self.path) {
            Ok(path) => path,
            Err(_) => {
                let long_path = self.path.len() > PATH_LEN_MAX;
                let reason = if long_path {
                    "path too long, over 4095 bytes"
                } else {
                    "name too long, over 255 bytes"
                };
                return self.refuse(listed, name, listing, reason);
            }
        };
        self.take(listed, name, path, &stat, listing)
    }

    fn take(
        &mut self,
        listed: &Listed,
        name: &CStr,
        path: RelPath,
        stat: &Stat,
        listing: &mut Listing,
    ) -> Result<()> {
        let fingerprint = Fingerprint::of(stat);
        let mode = fingerprint.permissions();
        self.note_special(&path, stat);
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => FoundKind::File { mode, len: fingerprint.len },
            FileType::Symlink => match self.target(listed, name, listing)? {
                Some(target) => FoundKind::Symlink { target },
                None => return Ok(()),
            },
            FileType::Directory => {
                let id = self.walk.dirs.fetch_add(1, Ordering::Relaxed);
                let prefix: Arc<str> = format!("{}/", path.as_str()).into();
                let rules = listed.rules.clone();
                self.jobs.push(Job::List { id, prefix: Arc::clone(&prefix), rules });
                let found = Found { path, kind: FoundKind::Dir { mode }, stat: fingerprint };
                listing.items.push(Item::Dir { found, id });
                listing.items.push(Item::Body { prefix, id });
                return Ok(());
            }
            FileType::Fifo => return self.refuse(listed, name, listing, "it is a FIFO"),
            FileType::Socket => return self.refuse(listed, name, listing, "it is a socket"),
            FileType::CharacterDevice => {
                return self.refuse(listed, name, listing, "it is a character device");
            }
            FileType::BlockDevice => return self.refuse(listed, name, listing, "it is a block device"),
            FileType::Unknown => return self.refuse(listed, name, listing, "its kind is not known"),
        };
        listing.items.push(Item::Entry(Found { path, kind, stat: fingerprint }));
        Ok(())
    }

    // `None` if it was refused, or is a symlink no more.
    fn target(&mut self, listed: &Listed, name: &CStr, listing: &mut Listing) -> Result<Option<String>> {
        let target = match readlinkat(&listed.fd, name, Vec::new()) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::INVAL) => return self.name_vanished(listed, name).map(|()| None),
            Err(error) => return Err(self.io("read link", listed, name, error)),
        };
        match target.into_string() {
            Ok(target) if (1..=SYMLINK_LEN_MAX).contains(&target.len()) => Ok(Some(target)),
            Ok(_) => self.refuse(listed, name, listing, "its target is empty or too long").map(|()| None),
            Err(_) => self.refuse(listed, name, listing, "its target is not UTF-8").map(|()| None),
        }
    }

    // Notes what may not be looked into; false if that is not to be borne.
    fn close(&mut self, path: &str) -> bool {
        let Some(path) = RelPath::parse(path).ok().filter(|_| self.walk.options.tolerate_foreign) else {
            return false;
        };
        self.unpublishable.push(path.as_str().into());
        self.closed.push(path);
        true
    }

    // The same of the path being looked at.
    fn close_found(&mut self) -> bool {
        let path = std::mem::take(&mut self.path);
        let closed = self.close(&path);
        self.path = path;
        closed
    }

    fn refuse(
        &mut self,
        listed: &Listed,
        name: &CStr,
        listing: &mut Listing,
        reason: &'static str,
    ) -> Result<()> {
        let name = name.to_bytes();
        if !self.walk.options.tolerate_foreign {
            return Err(Error::Unpublishable { path: self.walk.full_path(&listed.prefix, name), reason });
        }
        listing.foreign = true;
        self.unpublishable.push(Path::new(&*listed.prefix).join(OsStr::from_bytes(name)));
        Ok(())
    }

    // A version keeps the nine permission bits only.
    #[allow(clippy::useless_conversion)] // The widths differ between systems.
    fn note_special(&mut self, path: &RelPath, stat: &Stat) {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let kept = matches!(kind, FileType::RegularFile | FileType::Directory);
        if kept && u32::from(stat.st_mode) & SPECIAL_BITS != 0 && !self.walk.options.tolerate_foreign {
            self.special.push((path.clone(), kind));
        }
    }

    // What was there when its directory was listed and is not any more may be somewhere else by now, where nobody
    // looks again: to publish the tree without it would be to lose it in silence. In a replica it is just gone.
    fn vanished(&self, path: impl FnOnce() -> PathBuf) -> Result<()> {
        if self.walk.options.tolerate_foreign { Ok(()) } else { Err(Error::Changed { path: path() }) }
    }

    fn name_vanished(&self, listed: &Listed, name: &CStr) -> Result<()> {
        self.vanished(|| self.walk.full_path(&listed.prefix, name.to_bytes()))
    }

    fn stat_one(&self, listed: &Listed, name: &CStr) -> Result<Option<Stat>> {
        match statat(&listed.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.io("stat", listed, name, error)),
        }
    }

    fn has_rules(&self, listed: &Listed) -> bool {
        self.walk.excludes.is_some() || listed.rules.is_some()
    }

    fn leave_out(&self, listed: &Listed, is_dir: bool) -> bool {
        let excludes = self.walk.excludes.as_ref();
        excludes
            .and_then(|globs| rules::excluded(globs, &self.path, is_dir))
            .unwrap_or_else(|| listed.rules.as_ref().is_some_and(|rules| rules.leave_out(&self.path, is_dir)))
    }

    fn io(&self, action: &'static str, listed: &Listed, name: &CStr, error: Errno) -> Error {
        Error::io(action, self.walk.full_path(&listed.prefix, name.to_bytes()), error.into())
    }
}

fn is_denied(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
}

#[cfg(target_os = "linux")]
fn read_names(
    fd: &OwnedFd,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(&CStr, FileType),
) -> rustix::io::Result<()> {
    let mut entries = rustix::fs::RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        each(entry.file_name(), entry.file_type());
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn read_names(
    fd: &OwnedFd,
    _buffer: &mut Vec<u8>,
    mut each: impl FnMut(&CStr, FileType),
) -> rustix::io::Result<()> {
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        each(entry.file_name(), entry.file_type());
    }
    Ok(())
}
