//! The file `FORMAT`: which format a store has, readable without RocksDB. It is written last when a store is made, so a
//! directory with it was complete once. One that was lost is written anew only where the database itself says that it
//! is a store's, and of this format: that has exactly these families, and a later one writes its number into `meta`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use rocksdb::{Cache, DB};

use super::home::{check_file, place, quoted, sync_dir};
use super::layout::{CACHE_BYTES, DEFAULT, FAMILIES, FORMAT_KEY, META, database_options, families, number};
use crate::error::{At, Error, Result};
use crate::fault::Faults;

const FORMAT: u32 = 1;
/// Its name.
pub(super) const FILE: &str = "FORMAT";
/// Its name while it is written.
pub(super) const NEW: &str = "FORMAT.new";
const PREFIX: &str = "floe store ";

/// True if `dir` is a store of a format that this build reads; false if it is none.
pub(super) fn read(dir: &Path) -> Result<bool> {
    let path = dir.join(FILE);
    check_file(&path)?;
    let mut text = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(64).read_to_end(&mut text).at("read", &path)?,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(error) => return Err(Error::io("open", path, error)),
    };
    match format_number(&text) {
        Some(found) if found > FORMAT => Err(too_new(dir, found)),
        Some(_) => Ok(true),
        None => Err(Error::Malformed {
            kind: "store format",
            place: quoted(&path),
            reason: "it must be one line: `floe store`, a number".into(),
        }),
    }
}

/// Writes it, in one step.
pub(super) fn write(dir: &Path, faults: &Faults) -> Result<()> {
    let (new, path) = (dir.join(NEW), dir.join(FILE));
    faults.check("write", &new)?;
    let mut file = File::create(&new).at("create", &new)?;
    writeln!(file, "{PREFIX}{FORMAT}").at("write", &new)?;
    file.sync_all().at("sync", &new)?;
    faults.check("rename", &path)?;
    fs::rename(&new, &path).at("rename", &path)?;
    faults.check("sync", dir)?;
    sync_dir(dir)
}

/// Refuses a database that is not a store's of this format, or cannot say so. Writes nothing.
pub(super) fn check_database(dir: &Path, db: &Path) -> Result<()> {
    let unsaid = |error: rocksdb::Error| lost(dir, format!("{GONE} does not say what it is: {error}"));
    let mut options = database_options(false).map_err(unsaid)?;
    let found: BTreeSet<String> = DB::list_cf(&options, db).map_err(unsaid)?.into_iter().collect();
    if !found.iter().map(String::as_str).eq(FAMILIES.into_iter().chain([DEFAULT]).collect::<BTreeSet<_>>()) {
        return Err(lost(dir, format!("{GONE} is not that of a store")));
    }
    // Damaged tables are for a salvage to mend.
    options.set_paranoid_checks(false);
    let cache = Cache::new_lru_cache(CACHE_BYTES);
    let db = DB::open_cf_descriptors_read_only(&options, db, families(&cache), false).map_err(unsaid)?;
    let Some(meta) = db.cf_handle(META) else { return Ok(()) };
    match db.get_cf(meta, FORMAT_KEY).map_err(unsaid)? {
        None => Ok(()),
        Some(value) => match number(&value).map(u32::try_from) {
            Some(Ok(found)) if found <= FORMAT => Ok(()),
            Some(found) => Err(too_new(dir, found.unwrap_or(u32::MAX))),
            None => Err(lost(dir, format!("{GONE} does not say what it is: malformed `format`"))),
        },
    }
}

const GONE: &str = "it is lost or damaged, and the database beside it";

/// What is told of a store whose `FORMAT` is lost.
pub(super) fn lost(dir: &Path, reason: String) -> Error {
    Error::Damaged { what: "file FORMAT".into(), place: place(dir), reason }
}

fn too_new(dir: &Path, found: u32) -> Error {
    Error::TooNew { kind: "store", place: quoted(dir), found, supported: FORMAT }
}

pub(crate) fn format_number(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix(PREFIX)?.strip_suffix('\n')?;
    let number: u32 = digits.parse().ok()?;
    (number > 0 && number.to_string() == digits).then_some(number)
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
