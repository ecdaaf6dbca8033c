//! Stat fingerprints: how a file that nobody touched is recognised without reading it.
//!
//! A table proves nothing beyond what it can know: the rule against racy times is in [`StatTable::proves`]. It
//! trusts the clock of the file system to run with that of this machine, and not backwards.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use bincode::{Decode, Encode};
use rustix::fs::{FileType, Mode, OFlags, Stat};

use crate::codec::{self, Kind};
use crate::error::{At, Error, Result};
use crate::fault::Faults;
use crate::id::VersionId;
use crate::version::RelPath;

use super::disk::Disk;
use super::scan::Found;

const KIND: Kind = Kind { number: 0x21, name: "fingerprint table", format: 1 };
const TABLE_LEN_MAX: usize = 1 << 30;

// Sharing lets a few bytes stand for a long path. All paths together take at most so many times the bytes in the
// table, each row counted at its shortest. A real table that is refused for it costs only time.
const PATH_BYTES_PER_BYTE: usize = 64;
const ROW_LEN_MIN: usize = 7;

const SECOND_NS: i128 = 1_000_000_000;
// The kernel stamps files with a clock that lags by up to one tick, 10 ms at most.
const CLOCK_LAG_NS: i128 = 20_000_000;
// The coarsest file systems count two seconds.
const COARSE_LAG_NS: i128 = 2 * SECOND_NS + CLOCK_LAG_NS;

const TYPE_BITS: u32 = 0o170_000;
const PERMISSION_BITS: u32 = 0o777;

/// What the file system says of a path. For directories only `mode` counts; the rest is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs)]
pub struct Fingerprint {
    pub len: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub inode: u64,
    /// File type and permission bits.
    pub mode: u32,
}

impl Fingerprint {
    /// Takes what counts from `stat`.
    #[allow(clippy::unnecessary_cast)] // The widths differ between systems.
    pub(crate) fn of(stat: &Stat) -> Fingerprint {
        let mode = stat.st_mode as u32 & (TYPE_BITS | PERMISSION_BITS);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Fingerprint { len: 0, mtime_ns: 0, ctime_ns: 0, inode: 0, mode };
        }
        // Times out of the range of 64 bits stay at its end: equal, but then also never proven.
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Fingerprint {
            len: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
            inode: stat.st_ino as u64,
            mode,
        }
    }

    /// The nine permission bits.
    pub fn permissions(&self) -> u16 {
        u16::try_from(self.mode & PERMISSION_BITS).unwrap_or(0)
    }
}

/// Fingerprints of a whole tree, and the version it was when they were taken. A file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatTable {
    /// The version that the tree was.
    pub version: VersionId,
    /// Whatever else must be equal for the table to be used (source directory, excludes), as a hash.
    pub context: [u8; 32],
    /// When the scan began; a fingerprint whose ctime is not safely before it proves nothing (racy).
    pub started_unix_ns: i128,
    /// In path order.
    pub rows: Vec<(RelPath, Fingerprint)>,
}

impl StatTable {
    /// True if `row` was taken long enough after the file's last change to prove anything.
    ///
    /// A file changed twice within one tick of the clock has the same times after both changes. Had the scan come
    /// between the two, its fingerprint would fit the second content as well. So the last change must lie a tick
    /// before the scan began: then any later one has a later ctime. A ctime in whole seconds is taken as a sign of
    /// a file system that has no finer ones.
    pub fn proves(&self, row: &Fingerprint) -> bool {
        let (mtime, ctime) = (i128::from(row.mtime_ns), i128::from(row.ctime_ns));
        let lag = if ctime % SECOND_NS == 0 { COARSE_LAG_NS } else { CLOCK_LAG_NS };
        mtime.max(ctime) < self.started_unix_ns - lag
    }

    /// The start of a table whose fingerprints were all taken after the clock of the file system itself was seen at
    /// `clock_ns`: what changes later has no earlier ctime, so no lag has to be feared.
    pub(super) fn started_at(clock_ns: i64) -> i128 {
        i128::from(clock_ns) + CLOCK_LAG_NS
    }

    /// True if the tree is, path for path, what it was: then its version is the table's.
    pub fn is_unchanged(&self, found: &[Found]) -> bool {
        let same =
            |(row, found): (&(RelPath, Fingerprint), &Found)| row.0 == found.path && self.fits(&row.1, found);
        self.rows.len() == found.len() && self.rows.iter().zip(found).all(same)
    }

    /// For every path found: true if the table proves that nobody touched it.
    pub fn unchanged(&self, found: &[Found]) -> Vec<bool> {
        let mut rows = self.rows.iter().peekable();
        let judge = |found: &Found| {
            while rows.next_if(|(path, _)| *path < found.path).is_some() {}
            rows.next_if(|(path, _)| *path == found.path).is_some_and(|(_, stat)| self.fits(stat, found))
        };
        found.iter().map(judge).collect()
    }

    fn fits(&self, row: &Fingerprint, found: &Found) -> bool {
        *row == found.stat && self.proves(row)
    }

    /// Reads the table at `path`. `Ok(None)` if there is none; damaged or foreign formats are an error.
    pub fn load(path: &Path) -> Result<Option<StatTable>> {
        // Without waiting for whoever may write to a pipe of that name.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(Error::io("open", path, error.into())),
        };
        let place = format!("`{}`", path.display());
        if !file.metadata().at("stat", path)?.is_file() {
            return Err(Error::Malformed { kind: KIND.name, place, reason: "not a regular file".into() });
        }
        let len = file.metadata().at("stat", path)?.len();
        let max = TABLE_LEN_MAX as u64;
        if len > max {
            let what = format!("length of {} in {place}", KIND.name);
            return Err(Error::Limit { what, actual: len, max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        file.take(max).read_to_end(&mut bytes).at("read", path)?;
        StatTable::decode(&bytes, &place).map(Some)
    }

    pub(crate) fn decode(bytes: &[u8], place: &str) -> Result<StatTable> {
        let record: Record = codec::decode_filed(KIND, bytes, TABLE_LEN_MAX, place)?;
        record.unpack().map_err(|reason| Error::Malformed {
            kind: KIND.name,
            place: place.to_owned(),
            reason,
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode_filed(KIND, &Record::pack(self))
    }

    // What is written must be readable: the bound holds both ways.
    fn encode_bounded(&self) -> Result<Vec<u8>> {
        let bytes = self.encode();
        if bytes.len() > TABLE_LEN_MAX {
            let (what, max) = (format!("length of {}", KIND.name), TABLE_LEN_MAX as u64);
            return Err(Error::Limit { what, actual: bytes.len() as u64, max });
        }
        Ok(bytes)
    }

    /// Writes it as a replica's own. Not synced: losing it costs only time.
    pub(super) fn save_in(&self, disk: &Disk) -> Result<()> {
        disk.write_loose("stats", &self.encode_bounded()?)
    }

    /// Writes it by write-and-rename, and its folder where that is missing. Not synced: losing it costs only time.
    pub fn save(&self, path: &Path, faults: &Faults) -> Result<()> {
        let bytes = self.encode_bounded()?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = path.with_file_name(name);
        faults.check("write", &fresh)?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).at("create", folder)?;
        }
        // A left-over goes first, so that nothing is ever written through a link.
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &fresh, error));
            }
            _ => {}
        }
        let written =
            File::create_new(&fresh).and_then(|mut file| file.write_all(&bytes)).at("write", &fresh);
        let done = written
            .and_then(|()| faults.check("rename", path))
            .and_then(|()| fs::rename(&fresh, path).at("rename", &fresh));
        if done.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_file(&fresh);
        }
        done
    }
}

/// A table as it is filed: every path without what it shares with the one before it, all in one run of bytes.
#[derive(Encode, Decode)]
struct Record {
    version: VersionId,
    context: [u8; 32],
    started_unix_ns: i128,
    rests: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Encode, Decode)]
struct Row {
    // Bytes taken over from the path before, as many as there are; then so many of `rests`.
    shared: u16,
    rest: u16,
    stat: Fingerprint,
}

impl Record {
    fn pack(table: &StatTable) -> Record {
        let mut rests = Vec::new();
        let mut rows = Vec::with_capacity(table.rows.len());
        let mut previous = "";
        for (path, stat) in &table.rows {
            let path = path.as_str();
            let shared = shared(previous.as_bytes(), path.as_bytes());
            let rest = &path.as_bytes()[shared..];
            rests.extend_from_slice(rest);
            let len = |len| u16::try_from(len).expect("a path is at most 4095 bytes");
            rows.push(Row { shared: len(shared), rest: len(rest.len()), stat: *stat });
            previous = path;
        }
        let StatTable { version, context, started_unix_ns, .. } = *table;
        Record { version, context, started_unix_ns, rests, rows }
    }

    fn unpack(self) -> Result<StatTable, String> {
        let mut rests = self.rests.as_slice();
        let mut rows: Vec<(RelPath, Fingerprint)> = Vec::with_capacity(self.rows.len());
        let mut path: Vec<u8> = Vec::new();
        let mut paid = PATH_BYTES_PER_BYTE * (rests.len() + ROW_LEN_MIN * self.rows.len());
        for row in &self.rows {
            let (rest, later) = rests
                .split_at_checked(usize::from(row.rest))
                .ok_or_else(|| "a path reaches over the end".to_owned())?;
            rests = later;
            let keep = usize::from(row.shared);
            if path.get(keep).is_some_and(|next| rest.first().is_none_or(|byte| byte <= next)) {
                return Err("its paths are not in order".to_owned());
            }
            // At the end of the path before, any rest comes after it; more than all of it cannot be shared.
            if keep > path.len() || rest.is_empty() {
                return Err("a path shares more than there is".to_owned());
            }
            path.truncate(keep);
            path.extend_from_slice(rest);
            paid = paid.checked_sub(path.len()).ok_or_else(|| "its paths share too much".to_owned())?;
            let text = std::str::from_utf8(&path).map_err(|_| "a path is not UTF-8".to_owned())?;
            let parsed = RelPath::parse(text).map_err(|error| error.to_string())?;
            rows.push((parsed, row.stat));
        }
        if !rests.is_empty() {
            return Err("bytes that belong to no path".to_owned());
        }
        let Record { version, context, started_unix_ns, .. } = self;
        Ok(StatTable { version, context, started_unix_ns, rows })
    }
}

fn shared(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::FoundKind;

    const STARTED: i128 = 1_700_000_000_500_000_000;

    fn stat(mtime_ns: i64, ctime_ns: i64) -> Fingerprint {
        Fingerprint { len: 3, mtime_ns, ctime_ns, inode: 7, mode: 0o100_644 }
    }

    fn table(paths: &[&str]) -> StatTable {
        let row = |path: &&str| (RelPath::parse(path).expect("a safe path"), stat(1, 1));
        StatTable {
            version: VersionId::of(b"v"),
            context: [5; 32],
            started_unix_ns: STARTED,
            rows: paths.iter().map(row).collect(),
        }
    }

    #[test]
    fn racy_rows_prove_nothing() {
        let started = i64::try_from(STARTED).expect("it fits until 2262");
        let (ms, s) = (1_000_000, 1_000_000_000);
        let rows = [
            (started - 20 * ms - 1, started - 20 * ms - 1, true),
            (started - 20 * ms, started - s, false),
            (started - s, started - 20 * ms, false),
            (started + 1, started - 3 * s, false),
            (started - 3 * s, started + 1, false),
            // Whole seconds: a coarse file system.
            (started - 3 * s, started - s - 500 * ms, false),
            (started - 3 * s, started - 2 * s - 500 * ms, true),
            (0, 0, true),
            (i64::MIN, i64::MIN, true),
            (i64::MAX, 0, false),
        ];
        for (mtime, ctime, want) in rows {
            assert_eq!(table(&[]).proves(&stat(mtime, ctime)), want, "{mtime} {ctime}");
        }
    }

    #[test]
    fn a_scan_against_a_table() {
        let table = table(&["a", "b", "c", "e"]);
        let rows: [(&[(&str, i64)], &[bool], bool); 6] = [
            (&[("a", 1), ("b", 1), ("c", 1), ("e", 1)], &[true, true, true, true], true),
            (&[("a", 1), ("b", 2), ("c", 1), ("e", 1)], &[true, false, true, true], false),
            (&[("a", 1), ("b", 1), ("c", 1)], &[true, true, true], false),
            (&[("b", 1), ("c", 1), ("d", 1)], &[true, true, false], false),
            (
                &[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1), ("f", 1)],
                &[true, true, true, false, true, false],
                false,
            ),
            (&[], &[], false),
        ];
        for (found, want, same) in rows {
            let found = found.iter().map(|(path, ctime)| Found {
                path: RelPath::parse(path).expect("a safe path"),
                kind: FoundKind::File { mode: 0o644, len: 3 },
                stat: stat(1, *ctime),
            });
            let found: Vec<_> = found.collect();
            let judged = (table.unchanged(&found), table.is_unchanged(&found));
            assert_eq!(judged, (want.to_vec(), same), "{found:?}");
        }
    }

    #[test]
    fn records_that_lie_are_refused() {
        let edit = |change: fn(&mut Record)| {
            let mut record = Record::pack(&table(&["a/b", "a/c"]));
            change(&mut record);
            record.unpack().expect_err("an edited record")
        };
        let rows: [(fn(&mut Record), &str); 9] = [
            (|r| r.rows.swap(0, 1), "a path shares more than there is"),
            (|r| r.rests[3] = b'a', "its paths are not in order"),
            (|r| r.rests[3] = b'b', "its paths are not in order"),
            (|r| r.rows[1].shared = 4, "a path shares more than there is"),
            (|r| r.rows[1].rest = 0, "its paths are not in order"),
            (|r| r.rows[1].rest = 2, "a path reaches over the end"),
            (|r| r.rests.push(b'x'), "bytes that belong to no path"),
            (|r| r.rests[0] = 0xff, "a path is not UTF-8"),
            (|r| r.rests[0] = b'/', "unsafe path `//b`: absolute"),
        ];
        for (index, (change, want)) in rows.into_iter().enumerate() {
            assert_eq!(edit(change), want, "row {index}");
        }
    }

    #[test]
    fn few_bytes_do_not_stand_for_many_long_paths() {
        let long = ["d"; 100].join("/");
        let unpacked = |dir: &str| {
            let paths: Vec<String> = (100..900).map(|n| format!("{dir}/{n}")).collect();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            Record::pack(&table(&paths)).unpack().map(|table| table.rows.len())
        };
        assert_eq!(unpacked(&long), Ok(800));
        assert_eq!(unpacked(&[long.as_str(); 20].join("/")), Err("its paths share too much".into()));
    }

    proptest! {
        #[test]
        fn packed_tables_unpack(paths in proptest::collection::btree_set("[a-cü]{1,3}(/[a-b]{1,2}){0,3}", 0..40)) {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let table = table(&paths);
            prop_assert_eq!(Record::pack(&table).unpack().expect("own record"), table);
        }
    }
}
