//! A directory held equal to a version, with its state in `.floe/`: lock, recovery, and what it is.
//!
//! Holding a [`Replica`] from [`Replica::open`] means holding the lock; no switch is under way in it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{At, Error, Result};
use crate::fault::Faults;
use crate::id::VersionId;
use crate::progress::{Notice, Progress};
use crate::version::{NodeSource, STATE_DIR};

use super::disk::{Disk, own};
use super::nodelog::NodeLog;
use super::recognise::recognise;
use super::spot::Kind;
use super::state::{self, Lock, State};
use super::swap::{self, Attempt};

// Where a journal is put that cannot be read.
const JOURNAL_DAMAGED: &str = "journal.damaged";
// How the `FORMAT` of a store begins.
const STORE_WORDS: &[u8] = b"floe store";

/// How a replica is opened.
#[derive(Debug, Clone, Default)]
pub struct ReplicaOptions {
    /// Crash points, for tests.
    pub faults: Faults,
    /// Replace what is foreign and in the way of an interrupted switch; otherwise it is a conflict.
    pub overwrite: bool,
}

/// An open replica.
#[derive(Debug)]
pub struct Replica {
    dir: PathBuf,
    disk: Option<Disk>,
    // Held for as long as this lives; only one that is held may write.
    lock: Option<Lock>,
    state: Option<State>,
    // Why there is no state, if there is one that cannot be read.
    damage: Option<Error>,
    // A switch was given up, because its journal could not be read.
    gave_up: bool,
    // Set when the recorded version turns out not to be readable: from then on nothing counts as recorded.
    forgotten: AtomicBool,
    nodes: NodeLog,
}

impl Replica {
    /// Opens `dir` for writing: creates it and `.floe/` where they are missing, takes the lock, finishes an
    /// interrupted switch. Damaged state is told as a notice and then counts as not there. The nodes of the version
    /// recorded may be missing or damaged; reading them tells.
    pub fn open(dir: &Path, options: &ReplicaOptions, progress: &dyn Progress) -> Result<Replica> {
        let disk = Disk::create(dir, options.faults.clone())?;
        refuse_store(&disk)?;
        disk.check_own(STATE_DIR, Kind::Dir)?;
        disk.mkdir(STATE_DIR)?;
        let lock = state::lock(&disk)?;
        if !state::check_format(&disk)? {
            state::write_format(&disk)?;
        }
        disk.check_own(&own("stage"), Kind::Dir)?;
        disk.mkdir(&own("stage"))?;
        let mut gave_up = false;
        let journal = match usable(state::read_journal(&disk), progress)? {
            Usable::Yes(journal) => journal,
            Usable::Damaged(_) => {
                // How far the switch came is not known. The recorded version still tells which files are floe's;
                // without fingerprints all of them are read and compared with it.
                disk.rename(&own("journal"), &own(JOURNAL_DAMAGED))?;
                disk.unlink(&own("stats"))?;
                disk.sync_dir(STATE_DIR)?;
                gave_up = true;
                None
            }
        };
        if let Some(mut journal) = journal {
            let nodes = NodeLog::open(&disk, 0)?;
            let left = state::read_state(&disk).ok().flatten().map(|state| state.version);
            recognise(&disk, &mut journal, left, &nodes, options.overwrite)?;
            swap::run(&disk, &journal, Attempt::Again, progress)?;
            let state = State {
                version: journal.version,
                name: journal.name,
                protect: journal.protect,
                nodes_len: nodes.sync(&disk)?,
                nodes_live: 0,
            };
            state::write_state(&disk, &state)?;
            swap::clear(&disk)?;
        }
        let (state, damage) = match usable(state::read_state(&disk), progress)? {
            Usable::Yes(state) => (state, None),
            Usable::Damaged(error) => (None, Some(error)),
        };
        let nodes = NodeLog::open(&disk, state.as_ref().map_or(0, |state| state.nodes_len))?;
        let forgotten = AtomicBool::new(false);
        let (disk, lock) = (Some(disk), Some(lock));
        Ok(Replica { dir: dir.to_owned(), disk, lock, state, damage, gave_up, forgotten, nodes })
    }

    /// Looks without touching anything: no directory is made, no lock taken, nothing recovered. An interrupted switch
    /// is an error that says so, and so is damaged state: only [`Replica::open`] may put it aside.
    pub fn peek(dir: &Path) -> Result<Replica> {
        let none = |disk| Replica {
            dir: dir.to_owned(),
            disk,
            lock: None,
            state: None,
            damage: None,
            gave_up: false,
            forgotten: AtomicBool::new(false),
            nodes: NodeLog::none(format!("`{}`", dir.display())),
        };
        let disk = match Disk::open(dir, Faults::default()) {
            Ok(disk) => disk,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(none(None));
            }
            Err(error) => return Err(error),
        };
        refuse_store(&disk)?;
        disk.check_own(STATE_DIR, Kind::Dir)?;
        if disk.kind(STATE_DIR)?.is_none() {
            return Ok(none(Some(disk)));
        }
        state::check_format(&disk)?;
        if state::journal_exists(&disk)? {
            return Err(switching(&disk));
        }
        let state = state::read_state(&disk)?;
        let nodes = NodeLog::peek(&disk, state.as_ref().map_or(0, |state| state.nodes_len))?;
        if let Some(state) = state.as_ref().filter(|state| !nodes.contains(&state.version.root())) {
            return Err(Error::Damaged {
                what: format!("version {}", state.version),
                place: nodes.place(),
                reason: "its root node is missing".into(),
            });
        }
        Ok(Replica { state, nodes, ..none(Some(disk)) })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version recorded; `None` before the first sync, or when the record is not usable.
    pub fn version(&self) -> Option<VersionId> {
        self.recorded().map(|state| state.version)
    }

    /// What is wrong with the record, if [`Replica::open`] found one that it could not use.
    pub fn into_damage(self) -> Option<Error> {
        self.damage
    }

    /// True if [`Replica::open`] found a switch that it could not finish: files of the version that it was to may lie
    /// here as if no version wrote them.
    pub fn gave_up_switch(&self) -> bool {
        self.gave_up
    }

    /// Removes a journal that was put aside because it could not be read.
    pub fn remove_damaged_journal(&self) -> Result<()> {
        let path = own(JOURNAL_DAMAGED);
        match &self.disk {
            Some(disk) if disk.kind(&path)?.is_some() => {
                disk.unlink(&path)?;
                disk.sync_dir(STATE_DIR)
            }
            _ => Ok(()),
        }
    }

    /// The name it was synced by.
    pub fn name(&self) -> Option<&str> {
        self.recorded()?.name.as_deref()
    }

    /// Globs protected by the last sync.
    pub fn protect(&self) -> &[String] {
        self.recorded().map_or(&[], |state| &state.protect)
    }

    /// Its nodes.
    pub fn nodes(&self) -> &NodeLog {
        &self.nodes
    }

    pub(super) fn recorded(&self) -> Option<&State> {
        self.state.as_ref().filter(|_| !self.forgotten.load(Ordering::Acquire))
    }

    pub(super) fn record(&mut self, state: State) {
        self.state = Some(state);
        self.forgotten.store(false, Ordering::Release);
    }

    /// The recorded version cannot be read: its nodes are dropped, so that they are fetched again. From then on nothing
    /// counts as recorded.
    pub fn forget(&self, progress: &dyn Progress, why: &Error) -> Result<()> {
        self.forgotten.store(true, Ordering::Release);
        progress.notice(Notice::StateIgnored { what: format!("recorded version: {why}") });
        self.nodes.reset(self.writer().ok())
    }

    /// The disk to look at; `None` if there is no directory.
    pub(super) fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// The disk to write to.
    pub(super) fn writer(&self) -> Result<&Disk> {
        self.held().map(|(disk, _)| disk)
    }

    /// Its lock.
    pub(super) fn lock(&self) -> Result<&Lock> {
        self.held().map(|(_, lock)| lock)
    }

    fn held(&self) -> Result<(&Disk, &Lock)> {
        match (&self.disk, &self.lock) {
            (Some(disk), Some(lock)) => Ok((disk, lock)),
            _ => Err(Error::Conflict {
                what: "the replica".into(),
                place: format!("`{}`", self.dir.display()),
                reason: "it was opened only to look".into(),
            }),
        }
    }
}

// A store is no place for a replica: its own files would be in each other's way.
// A directory that is a store, or lies in one.
fn refuse_store(disk: &Disk) -> Result<()> {
    let dir = disk.path().canonicalize().at("find", disk.path())?;
    // What lies in a replica may look like a store: a version can hold anything.
    let mut above = dir.ancestors().take_while(|dir| dir.join(STATE_DIR).symlink_metadata().is_err());
    let Some(store) = above.find(|dir| is_store(dir)) else { return Ok(()) };
    let reason = if store == dir { "this directory is a floe store" } else { "it lies in a floe store" };
    let place = format!("`{}`", disk.path().display());
    Err(Error::Conflict { what: "a replica".into(), place, reason: reason.into() })
}

fn is_store(dir: &Path) -> bool {
    let path = dir.join("FORMAT");
    let mut words = [0; STORE_WORDS.len()];
    path.symlink_metadata().is_ok_and(|found| found.is_file())
        && File::open(path).and_then(|file| file.read_exact_at(&mut words, 0)).is_ok()
        && words == STORE_WORDS
}

/// What an interrupted switch answers to those who cannot finish it.
pub(super) fn switching(disk: &Disk) -> Error {
    Error::Conflict {
        what: "the replica".into(),
        place: format!("`{}`", disk.path().display()),
        reason: "a switch was interrupted; the next sync finishes it".into(),
    }
}

enum Usable<T> {
    Yes(T),
    Damaged(Error),
}

// A damaged record is told and does not stop anything; one from the future, or a disk that does not answer, does.
fn usable<T>(read: Result<T>, progress: &dyn Progress) -> Result<Usable<T>> {
    match read {
        Ok(record) => Ok(Usable::Yes(record)),
        Err(error @ (Error::Malformed { .. } | Error::Limit { .. } | Error::UnsafePath { .. })) => {
            progress.notice(Notice::StateIgnored { what: error.to_string() });
            Ok(Usable::Damaged(error))
        }
        Err(error) => Err(error),
    }
}
