//! The directory around the database: who holds it, and which format it has. `FORMAT` is readable without
//! RocksDB and is written last when a store is made, so a directory with it was complete once.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, test_kill_process};

use crate::error::{At, Error, Result};
use crate::fault::Faults;

const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
const FORMAT_PREFIX: &str = "floe store ";
const LOCK_FILE: &str = "LOCK";
const DB_DIR: &str = "db";
const INGEST_DIR: &str = "db-ingest";

/// A store's directory, held by this process until dropped.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    fresh: bool,
    // The lock goes with the open file.
    _lock: File,
}

impl Home {
    /// Finds or makes the directory and locks it.
    pub fn open(dir: &Path, create: bool, faults: &Faults) -> Result<Home> {
        if !read_format(dir)? {
            if !create {
                return Err(not_a_store(dir));
            }
            prepare(dir, faults)?;
        }
        let lock = lock(dir, FlockOperation::NonBlockingLockExclusive)?;
        // Asked again: another process may have completed it before the lock was ours.
        let fresh = !read_format(dir)?;
        let home = Home { dir: dir.to_owned(), fresh, _lock: lock };
        if fresh && holds_tables(&home.db())? {
            return Err(Error::Damaged {
                what: "store".into(),
                place: dir.display().to_string(),
                reason: "it has tables but no FORMAT file".into(),
            });
        }
        Ok(home)
    }

    /// Finds the directory and shares it with other readers. Writes nothing.
    pub fn open_shared(dir: &Path) -> Result<Home> {
        if !read_format(dir)? {
            return Err(not_a_store(dir));
        }
        let lock = lock(dir, FlockOperation::NonBlockingLockShared)?;
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

    /// Makes an empty folder for tables that wait to be ingested; what a crash left there goes.
    pub fn ingest_dir(&self, faults: &Faults) -> Result<PathBuf> {
        let dir = self.dir.join(INGEST_DIR);
        match fs::read_dir(&dir) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.at("read", &dir)?.path();
                    faults.check("remove", &path)?;
                    fs::remove_file(&path).at("remove", &path)?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                faults.check("create", &dir)?;
                fs::create_dir(&dir).at("create", &dir)?;
            }
            Err(error) => return Err(Error::io("read", dir, error)),
        }
        Ok(dir)
    }

    /// Declares a new store complete, once its database is.
    pub fn complete(&self, faults: &Faults) -> Result<()> {
        let (new, path) = (self.dir.join(FORMAT_NEW), self.dir.join(FORMAT_FILE));
        faults.check("write", &new)?;
        let mut file = File::create(&new).at("create", &new)?;
        writeln!(file, "{FORMAT_PREFIX}{FORMAT}").at("write", &new)?;
        file.sync_all().at("sync", &new)?;
        faults.check("rename", &path)?;
        fs::rename(&new, &path).at("rename", &path)?;
        faults.check("sync", &self.dir)?;
        sync_dir(&self.dir)
    }
}

fn not_a_store(dir: &Path) -> Error {
    let place = dir.display().to_string();
    let what = if dir.exists() { "store (there is no FORMAT file)" } else { "store" };
    Error::NotFound { what: what.into(), place }
}

/// True if `dir` is a store of a format that this build reads; false if it is none.
fn read_format(dir: &Path) -> Result<bool> {
    let path = dir.join(FORMAT_FILE);
    let mut text = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(64).read_to_end(&mut text).at("read", &path)?,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(error) => return Err(Error::io("open", path, error)),
    };
    match format_number(&text) {
        Some(found) if found > FORMAT => {
            Err(Error::TooNew { kind: "store", place: dir.display().to_string(), found, supported: FORMAT })
        }
        Some(_) => Ok(true),
        None => Err(Error::Malformed {
            kind: "store format",
            place: path.display().to_string(),
            reason: "it must be one line: `floe store`, a number".into(),
        }),
    }
}

pub(crate) fn format_number(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix(FORMAT_PREFIX)?.strip_suffix('\n')?;
    let number: u32 = digits.parse().ok()?;
    (number > 0 && number.to_string() == digits).then_some(number)
}

// Makes the directory, or accepts one that is empty or where making a store was cut short.
fn prepare(dir: &Path, faults: &Faults) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            faults.check("create", dir)?;
            fs::create_dir_all(dir).at("create", dir)?;
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            return sync_dir(parent.unwrap_or(Path::new(".")));
        }
        Err(error) => return Err(Error::io("read", dir, error)),
    };
    for entry in entries {
        let name = entry.at("read", dir)?.file_name();
        if ![LOCK_FILE, DB_DIR, INGEST_DIR, FORMAT_NEW].map(OsStr::new).contains(&name.as_os_str()) {
            return Err(Error::Conflict {
                what: "directory".into(),
                place: dir.display().to_string(),
                reason: format!("it is not empty and not a store: it holds {name:?}"),
            });
        }
    }
    Ok(())
}

fn lock(dir: &Path, how: FlockOperation) -> Result<File> {
    let path = dir.join(LOCK_FILE);
    let write = how == FlockOperation::NonBlockingLockExclusive;
    let file = OpenOptions::new().read(true).write(write).create(write).truncate(false).open(&path);
    let file = file.at("open", &path)?;
    match flock(&file, how) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(Error::Locked { place: dir.display().to_string(), pid: holder(&file) });
        }
        Err(error) => return Err(Error::io("lock", path, error.into())),
    }
    if write {
        // Always as long, so that nothing need be cut off: some file systems flush a file that was.
        file.write_all_at(format!("{:<10}\n", std::process::id()).as_bytes(), 0).at("write", &path)?;
    }
    Ok(file)
}

// Readers hold the lock without a word, and a killed writer leaves its number: only a living process is named.
fn holder(lock: &File) -> Option<u32> {
    let mut text = [0; 16];
    let len = lock.read_at(&mut text, 0).ok()?;
    let pid: i32 = std::str::from_utf8(text.get(..len)?).ok()?.trim().parse().ok()?;
    test_kill_process(Pid::from_raw(pid)?).ok()?;
    u32::try_from(pid).ok()
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

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).at("open", dir)?.sync_all().at("sync", dir)
}

#[cfg(test)]
mod tests {
    use super::format_number;

    #[test]
    fn only_one_spelling_of_a_format() {
        assert_eq!(format_number(b"floe store 1\n"), Some(1));
        assert_eq!(format_number(b"floe store 4294967295\n"), Some(u32::MAX));
        for bad in [
            "",
            "1\n",
            "floe store 1",
            "floe store 0\n",
            "floe store 01\n",
            "floe store +1\n",
            "floe store 1 \n",
            "floe store 1\n\n",
            "floe store 4294967296\n",
            "floe store x\n",
        ] {
            assert_eq!(format_number(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
