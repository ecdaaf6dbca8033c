//! The directory around the database: who holds it, and which parts of it there are.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::format;
use crate::error::{At, Error, Result};
use crate::fault::Faults;
use crate::version::STATE_DIR;

const LOCK_FILE: &str = "LOCK";
const DB_DIR: &str = "db";
const INGEST_DIR: &str = "db-ingest";
/// A database that is made anew from what is readable of `db`.
const NEW_DIR: &str = "db-new";
/// The database that one took the place of.
const DAMAGED_DIR: &str = "db-damaged";

/// A store's directory, held by this process until dropped.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    fresh: bool,
    // The lock goes with the open file. A reader may have none: see `lock_shared`.
    _lock: Option<File>,
}

impl Home {
    /// Finds or makes the directory and locks it.
    pub fn open(dir: &Path, create: bool, faults: &Faults) -> Result<Home> {
        if !format::read(dir)? {
            if !create || holds_tables(&dir.join(DB_DIR))? {
                return Err(not_a_store(dir));
            }
            prepare(dir, faults)?;
        }
        let lock = lock_exclusive(dir)?;
        put_back(dir, faults)?;
        // Asked again: another process may have completed it before the lock was ours.
        let fresh = !format::read(dir)?;
        let home = Home { dir: dir.to_owned(), fresh, _lock: Some(lock) };
        if fresh && holds_tables(&home.db())? {
            return Err(not_a_store(dir));
        }
        Ok(home)
    }

    /// Writes `FORMAT` anew if it is lost or damaged, and the database beside it is a store's of this format.
    pub fn restore_format(dir: &Path, faults: &Faults) -> Result<()> {
        let db = dir.join(DB_DIR);
        let lost = || match format::read(dir) {
            Ok(true) | Err(Error::TooNew { .. }) => Ok(false),
            Ok(false) | Err(Error::Malformed { .. }) => holds_tables(&db),
            Err(error) => Err(error),
        };
        // Nothing is written into a directory that is no store, not even a lock file.
        if !lost()? {
            return Ok(());
        }
        format::check_database(dir, &db)?;
        let _lock = lock_exclusive(dir)?;
        if lost()? { format::write(dir, faults) } else { Ok(()) }
    }

    /// Finds the directory and shares it with other readers. Writes nothing, except that a lost lock file is made
    /// again where that is possible.
    pub fn open_shared(dir: &Path) -> Result<Home> {
        if !format::read(dir)? {
            return Err(not_a_store(dir));
        }
        let lock = lock_shared(dir)?;
        Ok(Home { dir: dir.to_owned(), fresh: false, _lock: lock })
    }

    /// No store was ever complete here: the database may be made.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Where the database is.
    pub fn db(&self) -> PathBuf {
        self.dir.join(DB_DIR)
    }

    /// Removes tables that a stopped writer left waiting to be ingested: the disk may be full of them.
    pub fn clear_ingest(&self, faults: &Faults) -> Result<()> {
        let dir = self.dir.join(INGEST_DIR);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.at("read", &dir)?,
        };
        for entry in entries {
            let path = entry.at("read", &dir)?.path();
            faults.check("remove", &path)?;
            fs::remove_file(&path).at("remove", &path)?;
        }
        Ok(())
    }

    /// The folder for tables that wait to be ingested, made where it is missing.
    pub fn ingest_dir(&self, faults: &Faults) -> Result<PathBuf> {
        let dir = self.dir.join(INGEST_DIR);
        if !dir.is_dir() {
            faults.check("create", &dir)?;
            fs::create_dir(&dir).at("create", &dir)?;
        }
        Ok(dir)
    }

    /// Makes an empty folder for a database made anew; what a stopped salvage left there goes.
    pub fn begin_new(&self, faults: &Faults) -> Result<PathBuf> {
        let new = self.dir.join(NEW_DIR);
        remove_tree(&new, faults)?;
        faults.check("create", &new)?;
        fs::create_dir(&new).at("create", &new)?;
        Ok(new)
    }

    /// Puts the database made anew in the place of the damaged one, which is kept.
    pub fn take_new(&self, faults: &Faults) -> Result<()> {
        let (db, new, old) = (self.db(), self.dir.join(NEW_DIR), self.dir.join(DAMAGED_DIR));
        remove_tree(&old, faults)?;
        faults.check("sync", &new)?;
        sync_dir(&new)?;
        faults.check("exchange", &db)?;
        if db.exists() && renameat_with(CWD, &new, CWD, &db, RenameFlags::EXCHANGE).is_ok() {
            sync_dir(&self.dir)?;
            faults.check("rename", &old)?;
            fs::rename(&new, &old).at("rename", &old)?;
        } else {
            // Where directories cannot be exchanged there is none between the two; `put_back` knows that.
            if db.exists() {
                fs::rename(&db, &old).at("rename", &old)?;
            }
            faults.check("rename", &db)?;
            fs::rename(&new, &db).at("rename", &db)?;
        }
        sync_dir(&self.dir)
    }

    /// Removes the damaged database that one made anew took the place of.
    pub fn remove_damaged(&self, faults: &Faults) -> Result<()> {
        remove_tree(&self.dir.join(NEW_DIR), faults)?;
        remove_tree(&self.dir.join(DAMAGED_DIR), faults)
    }

    /// Declares a new store complete, once its database is.
    pub fn complete(&self, faults: &Faults) -> Result<()> {
        format::write(&self.dir, faults)
    }
}

/// Bytes of the tables and logs of the store in `dir`, those that wait to be ingested included. What goes meanwhile does
/// not count.
pub(super) fn bytes_on_disk(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for dir in [dir.join(DB_DIR), dir.join(INGEST_DIR)] {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.at("read", &dir)?,
        };
        for entry in entries {
            let entry = entry.at("read", &dir)?;
            let path = entry.path();
            if path.extension().is_some_and(|kind| kind == "sst" || kind == "log") {
                sum += entry.metadata().map_or(0, |found| found.len());
            }
        }
    }
    Ok(sum)
}

// A stop between two renames left no database in its place.
fn put_back(dir: &Path, faults: &Faults) -> Result<()> {
    let (db, old) = (dir.join(DB_DIR), dir.join(DAMAGED_DIR));
    if db.exists() || !old.exists() {
        return Ok(());
    }
    faults.check("rename", &db)?;
    fs::rename(&old, &db).at("rename", &db)
}

fn remove_tree(dir: &Path, faults: &Faults) -> Result<()> {
    if dir.exists() {
        faults.check("remove", dir)?;
        fs::remove_dir_all(dir).at("remove", dir)?;
    }
    Ok(())
}

// Why what has no `FORMAT` is not opened.
fn not_a_store(dir: &Path) -> Error {
    if holds_tables(&dir.join(DB_DIR)).unwrap_or(false) {
        return format::lost(dir, "it is lost, though the database is there".to_owned());
    }
    let what = if dir.exists() { "store (there is no FORMAT file)" } else { "store" };
    Error::NotFound { what: what.into(), place: quoted(dir) }
}

// Makes the directory, or accepts one that is empty or where making a store was cut short.
fn prepare(dir: &Path, faults: &Faults) -> Result<()> {
    refuse_replica(dir)?;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return create_dirs(dir, faults);
        }
        Err(error) => return Err(Error::io("read", dir, error)),
    };
    for entry in entries {
        let name = entry.at("read", dir)?.file_name();
        if ![LOCK_FILE, DB_DIR, INGEST_DIR, format::NEW].map(OsStr::new).contains(&name.as_os_str()) {
            return Err(Error::Conflict {
                what: "new store".into(),
                place: quoted(dir),
                reason: format!("the directory is not empty and not a store: it holds {name:?}"),
            });
        }
    }
    Ok(())
}

// A store in a replica would be foreign files there.
fn refuse_replica(dir: &Path) -> Result<()> {
    let full = std::path::absolute(dir).at("find", dir)?;
    let there = full.ancestors().find(|above| above.exists()).unwrap_or(&full);
    let there = there.canonicalize().at("find", there)?;
    let Some(replica) = there.ancestors().find(|above| above.join(STATE_DIR).join(format::FILE).is_file())
    else {
        return Ok(());
    };
    let reason = format!("it would lie in a synced directory, {}", quoted(replica));
    Err(Error::Conflict { what: "new store".into(), place: quoted(dir), reason })
}

// Makes `dir` and the directories above it that are missing. An entry is durable when the directory that holds it
// is synced.
fn create_dirs(dir: &Path, faults: &Faults) -> Result<()> {
    let missing: Vec<_> =
        dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    for made in missing.into_iter().rev() {
        faults.check("create", made)?;
        fs::create_dir_all(made).at("create", made)?;
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        faults.check("sync", parent)?;
        sync_dir(parent)?;
    }
    Ok(())
}

fn lock_exclusive(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK_FILE);
    check_file(&path)?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = file.at("open", &path)?;
    if !try_lock(&file, FlockOperation::NonBlockingLockExclusive, &path)? {
        // Who can share the lock has met readers, who leave no number; the one in the file is then of a writer that
        // is gone.
        let readers = try_lock(&file, FlockOperation::NonBlockingLockShared, &path)?;
        return Err(Error::Locked { place: place(dir), pid: if readers { None } else { holder(&file) } });
    }
    // Always as long, so that nothing need be cut off: some file systems flush a file that was.
    file.write_all_at(format!("{:<10}\n", std::process::id()).as_bytes(), 0).at("write", &path)?;
    Ok(file)
}

// A copy of a store may have come without its lock file. If it cannot be made either, as on a read-only mount or in
// a directory of another user, reading goes on without a lock: what this process may not write it can only ask
// others to leave alone, and a store that cannot be read at all helps nobody.
fn lock_shared(dir: &Path) -> Result<Option<File>> {
    let path = dir.join(LOCK_FILE);
    check_file(&path)?;
    let mut file = File::open(&path);
    if file.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        if let Err(error) = file {
            tracing::warn!("{}: read without a lock, for there is no lock file: {error}", path.display());
            return Ok(None);
        }
    }
    let file = file.at("open", &path)?;
    if try_lock(&file, FlockOperation::NonBlockingLockShared, &path)? {
        return Ok(Some(file));
    }
    Err(Error::Locked { place: place(dir), pid: holder(&file) })
}

// Opening a FIFO would wait for whoever writes to it.
pub(super) fn check_file(path: &Path) -> Result<()> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let reason = "it is not a plain file, where the store has its own".into();
        return Err(Error::Conflict { what: quoted(path), place: "the store".into(), reason });
    }
    Ok(())
}

fn try_lock(file: &File, how: FlockOperation, path: &Path) -> Result<bool> {
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(Error::io("lock", path, error.into())),
    }
}

// The number of the writer that holds the lock. It means nothing if the writer is in another container or on another
// machine: only a living process is named, also one of another user, which may not be signalled.
fn holder(lock: &File) -> Option<u32> {
    let mut text = [0; 16];
    let len = lock.read_at(&mut text, 0).ok()?;
    let pid: i32 = std::str::from_utf8(text.get(..len)?).ok()?.trim().parse().ok()?;
    match test_kill_process(Pid::from_raw(pid)?) {
        Ok(()) | Err(Errno::PERM) => u32::try_from(pid).ok(),
        Err(_) => None,
    }
}

/// What errors call the store at `dir`.
pub(super) fn place(dir: &Path) -> String {
    format!("store {}", quoted(dir))
}

pub(super) fn quoted(path: &Path) -> String {
    format!("`{}`", path.display())
}

fn holds_tables(db: &Path) -> Result<bool> {
    let entries = match fs::read_dir(db) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("read", db, error)),
    };
    for entry in entries {
        let name = entry.at("read", db)?.file_name();
        if Path::new(&name).extension() == Some(OsStr::new("sst")) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).at("open", dir)?.sync_all().at("sync", dir)
}
