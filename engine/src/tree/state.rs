//! The small records of `.floe/`: format, lock, state, journal. They hide their encoding.
//!
//! `FORMAT` and `lock` stay for good. `state` says what the tree is. `journal` exists exactly while a switch is
//! under way; its steps are checked when they are read, like everything from outside.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use bincode::{Decode, Encode};
use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW};

use crate::codec::{Kind as RecordKind, decode_filed, encode_filed};
use crate::error::{At, Error, Result};
use crate::id::VersionId;
use crate::version::RelPath;

use super::disk::{Disk, own};
use super::known::Known;
use super::spot::Kind;
use super::stat::Fingerprint;

const FORMAT_WORDS: &str = "floe replica ";
const FORMAT: u32 = 1;
const STATE: RecordKind = RecordKind { number: 0x30, name: "replica state", format: 1 };
const JOURNAL: RecordKind = RecordKind { number: 0x31, name: "replica journal", format: 1 };
const STATE_LEN_MAX: usize = 1 << 20;
// A step takes a hash, one path and what identifies a file: enough for millions of them.
const JOURNAL_LEN_MAX: usize = 1 << 30;
// Ten ticks of the slowest clock there is, but for file systems that count whole seconds.
const TICK_MAX: Duration = Duration::from_millis(100);

/// Name of a file in the stage: the hash of what it will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub(super) struct StageKey(pub(super) [u8; 32]);

impl StageKey {
    pub(super) fn file_name(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    pub(super) fn path(&self) -> String {
        own(&format!("stage/{}", self.file_name()))
    }
}

/// What the tree is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct State {
    pub(super) version: VersionId,
    pub(super) name: Option<String>,
    pub(super) protect: Vec<String>,
    /// Bytes of the node log that were durable and proven when this was written.
    pub(super) nodes_len: u64,
    /// Bytes of the node log that the version needed when that was last counted.
    pub(super) nodes_live: u64,
}

/// What the tree shall be, and the steps there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Journal {
    pub(super) version: VersionId,
    pub(super) name: Option<String>,
    pub(super) protect: Vec<String>,
    /// Steps that may be done again at any time.
    pub(super) loosen: Vec<Op>,
    /// Steps of the first half: afterwards every file that moves is in the stage.
    pub(super) stash: Vec<Op>,
    /// Steps of the second half.
    pub(super) place: Vec<Op>,
}

/// One step of a switch. Doing one again after it or later ones were done changes nothing, and whatever somebody else
/// put at its path in the meantime is not touched.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Op {
    /// Makes a directory writable for the switch.
    Loosen { path: RelPath, mode: u16 },
    /// Takes a file of the tree into the stage, if it is still the one that is known.
    Stash { from: RelPath, key: StageKey, known: Known },
    /// Removes a file or symlink, if it is still the one that is known.
    Unlink { path: RelPath, known: Known },
    /// Removes a directory if it is empty.
    Rmdir { path: RelPath },
    /// Makes a directory where it is missing.
    Mkdir { path: RelPath },
    /// Moves a staged file or symlink to its place, where nothing may be but what it replaces.
    Place { key: StageKey, path: RelPath, over: Option<Known> },
    /// Sets the mode of a file.
    FileMode { path: RelPath, mode: u16 },
    /// Sets the mode of a directory.
    DirMode { path: RelPath, mode: u16 },
}

/// The replica's lock, held until it is dropped. The operating system lets go of it when the process ends, however it
/// ends.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child process between fork and exec still has the file open.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Lock {
    /// The clock of the file system, by touching the lock file.
    #[allow(clippy::unnecessary_cast)] // The widths differ between systems.
    pub(super) fn clock(&self) -> std::io::Result<i64> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        rustix::fs::futimens(&self.0, &Timestamps { last_access: now, last_modification: now })?;
        Ok(Fingerprint::of(&rustix::fs::fstat(&self.0)?).ctime_ns)
    }

    /// The same, after it moved on. Where that takes too long it is returned as it stands.
    pub(super) fn next_tick(&self) -> std::io::Result<i64> {
        let (first, began) = (self.clock()?, Instant::now());
        loop {
            let now = self.clock()?;
            if now > first || began.elapsed() >= TICK_MAX {
                return Ok(now);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Takes the lock, or tells who has it.
pub(super) fn lock(disk: &Disk) -> Result<Lock> {
    let path = own("lock");
    disk.check_own(&path, Kind::File)?;
    let file = disk.open_write(&path, false)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = [0; 16];
            let len = file.read_at(&mut text, 0).unwrap_or(0);
            let pid = text.get(..len).and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
            return Err(Error::Locked { place: format!("replica `{}`", disk.path().display()), pid });
        }
        Err(error) => return Err(std::io::Error::from(error)).at("lock", disk.full(&path)),
    }
    let lock = Lock(file);
    disk.set_len(&lock.0, &path, 0)?;
    disk.write_at(&lock.0, &path, format!("{}\n", std::process::id()).as_bytes(), 0)?;
    Ok(lock)
}

/// Checks `FORMAT`. True if it is there.
pub(super) fn check_format(disk: &Disk) -> Result<bool> {
    let path = own("FORMAT");
    disk.check_own(&path, Kind::File)?;
    let place = format!("`{}`", disk.full(&path).display());
    let malformed = |reason: &str| Error::Malformed {
        kind: "replica format",
        place: place.clone(),
        reason: reason.to_owned(),
    };
    let Some(bytes) = disk.read(&path, 64).map_err(|error| match error {
        Error::Limit { .. } => malformed("longer than 64 bytes"),
        other => other,
    })?
    else {
        return Ok(false);
    };
    let number = format_number(&bytes).ok_or_else(|| malformed("must read `floe replica N`"))?;
    if number > FORMAT {
        return Err(Error::TooNew { kind: "replica", place, found: number, supported: FORMAT });
    }
    Ok(true)
}

pub(crate) fn format_number(bytes: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_prefix(FORMAT_WORDS)?.strip_suffix('\n')?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    plain.then(|| digits.parse().ok()).flatten()
}

/// Writes `FORMAT`.
pub(super) fn write_format(disk: &Disk) -> Result<()> {
    disk.write_record("FORMAT", format!("{FORMAT_WORDS}{FORMAT}\n").as_bytes())
}

pub(super) fn read_state(disk: &Disk) -> Result<Option<State>> {
    read_record(disk, "state", STATE, STATE_LEN_MAX)
}

pub(super) fn write_state(disk: &Disk, state: &State) -> Result<()> {
    write_bounded(disk, "state", encode_filed(STATE, state), STATE_LEN_MAX)
}

pub(super) fn read_journal(disk: &Disk) -> Result<Option<Journal>> {
    read_record(disk, "journal", JOURNAL, JOURNAL_LEN_MAX)
}

pub(super) fn write_journal(disk: &Disk, journal: &Journal) -> Result<()> {
    write_bounded(disk, "journal", encode_filed(JOURNAL, journal), JOURNAL_LEN_MAX)
}

/// True if a switch is under way.
pub(super) fn journal_exists(disk: &Disk) -> Result<bool> {
    Ok(disk.kind(&own("journal"))? == Some(Kind::File))
}

fn read_record<T: Encode + Decode<()>>(
    disk: &Disk,
    name: &str,
    kind: RecordKind,
    max: usize,
) -> Result<Option<T>> {
    let path = own(name);
    disk.check_own(&path, Kind::File)?;
    let Some(bytes) = disk.read(&path, max as u64)? else { return Ok(None) };
    decode_filed(kind, &bytes, max, &format!("`{}`", disk.full(&path).display())).map(Some)
}

// What is written must be readable: the bound holds both ways.
fn write_bounded(disk: &Disk, name: &str, bytes: Vec<u8>, max: usize) -> Result<()> {
    if bytes.len() > max {
        let what = format!("length of `{}`", disk.full(&own(name)).display());
        return Err(Error::Limit { what, actual: bytes.len() as u64, max: max as u64 });
    }
    disk.write_record(name, &bytes)
}

/// Opens the bytes of `state` and encodes again what they say.
#[cfg(feature = "testing")]
pub(crate) fn state_again(bytes: &[u8]) -> Result<Vec<u8>> {
    let state: State = decode_filed(STATE, bytes, STATE_LEN_MAX, "bytes")?;
    Ok(encode_filed(STATE, &state))
}

/// Opens the bytes of `journal` and encodes again what they say.
#[cfg(feature = "testing")]
pub(crate) fn journal_again(bytes: &[u8]) -> Result<Vec<u8>> {
    let journal: Journal = decode_filed(JOURNAL, bytes, JOURNAL_LEN_MAX, "bytes")?;
    Ok(encode_filed(JOURNAL, &journal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Faults;
    use proptest::prelude::*;

    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join(".floe")).expect("made");
        let disk = Disk::open(dir.path(), Faults::default()).expect("opens");
        (dir, disk)
    }

    fn journal() -> Journal {
        let path = |text| RelPath::parse(text).expect("a path");
        let key = StageKey([7; 32]);
        let known = Known { inode: 1 << 40, len: 5, mtime_ns: -1 };
        Journal {
            version: VersionId::from_bytes([3; 32]),
            name: Some("game@1".into()),
            protect: vec!["mods/**".into()],
            loosen: vec![Op::Loosen { path: path("d"), mode: 0o755 }],
            stash: vec![Op::Stash { from: path("d/a"), key, known }],
            place: vec![
                Op::Unlink { path: path("x"), known },
                Op::Rmdir { path: path("d") },
                Op::Mkdir { path: path("e") },
                Op::Place { key, path: path("e/a"), over: None },
                Op::Place { key, path: path("g"), over: Some(known) },
                Op::FileMode { path: path("f"), mode: 0o644 },
                Op::DirMode { path: path("e"), mode: 0o555 },
            ],
        }
    }

    #[test]
    fn records_come_back_as_written() {
        let (_dir, disk) = disk();
        assert_eq!(read_journal(&disk).expect("read"), None);
        write_journal(&disk, &journal()).expect("written");
        assert_eq!(read_journal(&disk).expect("read"), Some(journal()));
        let state = State {
            version: VersionId::from_bytes([1; 32]),
            name: None,
            protect: vec![],
            nodes_len: 16,
            nodes_live: 5,
        };
        write_state(&disk, &state).expect("written");
        assert_eq!(read_state(&disk).expect("read"), Some(state));
    }

    #[test]
    fn formats() {
        let (dir, disk) = disk();
        assert!(!check_format(&disk).expect("none"));
        write_format(&disk).expect("written");
        assert!(check_format(&disk).expect("ours"));
        let path = dir.path().join(".floe/FORMAT");
        std::fs::write(&path, "floe replica 7\n").expect("written");
        assert!(matches!(check_format(&disk), Err(Error::TooNew { found: 7, supported: 1, .. })));
        for text in ["", "floe replica 1", "floe replica 01\n", "floe replica +1\n", "x", &"9".repeat(100)] {
            std::fs::write(&path, text).expect("written");
            assert!(matches!(check_format(&disk), Err(Error::Malformed { .. })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_journal_is_an_error(at in 0usize..1000, bit in 0u8..8, cut in 0usize..1000) {
            let bytes = encode_filed(JOURNAL, &journal());
            let mut flipped = bytes.clone();
            let at = at % bytes.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(decode_filed::<Journal>(JOURNAL, &flipped, JOURNAL_LEN_MAX, "test").is_err());
            let cut = cut % bytes.len();
            prop_assert!(decode_filed::<Journal>(JOURNAL, &bytes[..cut], JOURNAL_LEN_MAX, "test").is_err());
        }
    }
}
