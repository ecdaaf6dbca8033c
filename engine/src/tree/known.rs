//! Changes of names that happen only to what they were meant for. Whoever owns the tree may change it at any moment,
//! also between a switch that was interrupted and its end; what he put there is never removed and never replaced.

use std::io;

use bincode::{Decode, Encode};
use rustix::fs::{AtFlags, Stat};

use crate::error::{At, Error, Result};

use super::beneath::is_gone;
use super::disk::{Disk, is_absent};
use super::spot::{Kind, Mount, Spot, kind_of};
use super::stat::Fingerprint;

/// Which file or symlink something is: what a switch itself does not change, so neither mode nor ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Known {
    pub(super) inode: u64,
    pub(super) len: u64,
    pub(super) mtime_ns: i64,
}

impl Known {
    pub(super) fn of(stat: &Stat) -> Known {
        let Fingerprint { inode, len, mtime_ns, .. } = Fingerprint::of(stat);
        Known { inode, len, mtime_ns }
    }

    fn is(&self, stat: &Stat) -> bool {
        kind_of(stat) != Kind::Dir && *self == Known::of(stat)
    }
}

/// What became of a staged file.
pub(super) enum Placed {
    Done,
    /// Nothing is staged under its name.
    NotStaged,
    /// The directory that it belongs in is missing, or is none.
    NoDir,
    /// Something else than what was to be replaced is in its place.
    Blocked(Kind),
}

impl Disk {
    /// What is at `path`; `None` if nothing is, or if the way there is not made of directories.
    pub(super) fn spot(&self, path: &str) -> Result<Option<Spot>> {
        let look = || -> io::Result<Spot> {
            let (parent, name) = self.parent(path)?;
            let stat = rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let within = Mount::of(&*parent, name, &stat).is_within(&self.mount);
            Ok(Spot { stat, within })
        };
        match look() {
            Ok(spot) => Ok(Some(spot)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).at("look at", self.full(path)),
        }
    }

    /// Removes what is at `path` if it is `known`; anything else is left alone.
    pub(super) fn unlink_known(&self, path: &str, known: &Known) -> Result<()> {
        self.ask("remove", path)?;
        let unlink = || -> io::Result<()> {
            let (parent, name) = self.parent(path)?;
            if known.is(&rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?) {
                rustix::fs::unlinkat(&*parent, name, AtFlags::empty())?;
            }
            Ok(())
        };
        match unlink() {
            Err(error) if is_absent(&error) => Ok(()),
            other => other.at("remove", self.full(path)),
        }
    }

    /// Takes what is at `path` into the stage if it is `known`. False if it is not.
    pub(super) fn stash(&self, path: &str, staged: &str, known: &Known) -> Result<bool> {
        self.ask("move", path)?;
        let stash = || -> io::Result<bool> {
            let (parent, name) = self.parent(path)?;
            if !known.is(&rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?) {
                return Ok(false);
            }
            let (stage, staged) = self.parent(staged)?;
            parent.rename(name, &stage, staged)?;
            Ok(true)
        };
        match stash() {
            Err(error) if is_absent(&error) => Ok(false),
            other => other.at("move", self.full(path)),
        }
    }

    /// Puts a staged file at `path`, where nothing may be but what is `over`.
    pub(super) fn place(&self, staged: &str, path: &str, over: Option<&Known>) -> Result<Placed> {
        self.ask("put in place", path)?;
        if self.stat(staged)?.is_none() {
            return Ok(Placed::NotStaged);
        }
        let place = || -> io::Result<Placed> {
            let (parent, name) = match self.parent(path) {
                Err(error) if is_absent(&error) => return Ok(Placed::NoDir),
                other => other?,
            };
            match rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(error) if is_gone(error) => {}
                Err(error) => return Err(error.into()),
                Ok(stat) if over.is_some_and(|over| over.is(&stat)) => {}
                Ok(stat) => return Ok(Placed::Blocked(kind_of(&stat))),
            }
            let (stage, staged) = self.parent(staged)?;
            stage.rename(staged, &parent, name)?;
            Ok(Placed::Done)
        };
        place().map_err(|error| Error::io("put in place", self.full(path), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Faults;

    #[test]
    fn only_what_is_known_is_touched() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = Disk::open(dir.path(), Faults::default()).expect("opens");
        disk.mkdir(".floe").and_then(|()| disk.mkdir(".floe/stage")).expect("made");
        let put = |path: &str, text: &str| {
            std::fs::write(dir.path().join(path), text).expect("written");
            Known::of(&disk.stat(path).expect("looked").expect("there"))
        };
        let read = |path: &str| std::fs::read_to_string(dir.path().join(path)).ok();
        let old = put("f", "old");
        let staged = ".floe/stage/s";
        put(staged, "new");
        put("f", "longer");
        disk.unlink_known("f", &old).expect("left alone");
        assert!(!disk.stash("f", ".floe/stage/t", &old).expect("left alone"));
        for over in [Some(&old), None] {
            let placed = disk.place(staged, "f", over).expect("left alone");
            assert!(matches!(placed, Placed::Blocked(Kind::File)));
        }
        assert_eq!(read("f").as_deref(), Some("longer"));
        disk.mkdir("d").expect("made");
        assert!(matches!(disk.place(staged, "d", None), Ok(Placed::Blocked(Kind::Dir))));
        disk.unlink_known("d", &old).expect("left alone");
        for path in ["none/x", "f/x"] {
            assert!(matches!(disk.place(staged, path, None), Ok(Placed::NoDir)), "{path}");
            disk.unlink_known(path, &old).expect("nothing there");
            assert!(!disk.stash(path, ".floe/stage/t", &old).expect("nothing there"));
        }

        let known = Known::of(&disk.stat("f").expect("looked").expect("there"));
        assert!(matches!(disk.place(staged, "f", Some(&known)), Ok(Placed::Done)));
        assert_eq!(read("f").as_deref(), Some("new"));
        assert!(matches!(disk.place(staged, "f", None), Ok(Placed::NotStaged)));
        let known = Known::of(&disk.stat("f").expect("looked").expect("there"));
        assert!(disk.stash("f", staged, &known).expect("taken"));
        assert!(matches!(disk.place(staged, "d/g", None), Ok(Placed::Done)));
        disk.unlink_known("d/g", &known).expect("removed");
        assert_eq!(disk.kind("d/g").expect("looked"), None);
    }
}
