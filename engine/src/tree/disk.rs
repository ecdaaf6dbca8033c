//! The only writer of the file system below a replica. It hides the directory handle and the crash points.
//!
//! Every operation names a path relative to the root. The parent is opened beneath the root without following
//! a symlink in any component, so neither a hostile version nor a link planted on disk leads elsewhere.
//! Every change asks [`Faults`] first and names its path when it fails.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cap_std::fs::{Dir, DirBuilder, DirBuilderExt};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{At, Error, Result};
use crate::fault::Faults;
use crate::version::{DIR_MODE, STATE_DIR};

use super::beneath::{is_gone, open_beneath};
use super::spot::{Kind, Mount, kind_from, kind_of, mode_of};

/// Mode of files that are being prepared, and of floe's own.
const MODE_PRIVATE: u16 = 0o600;

/// The root of a replica.
#[derive(Debug)]
pub(super) struct Disk {
    root: Dir,
    pub(super) mount: Mount,
    stage: OnceLock<Dir>,
    path: PathBuf,
    faults: Faults,
}

impl Disk {
    /// Opens `path`, which must be a directory. The path itself may lead through links: it is the caller's word.
    pub(super) fn open(path: &Path, faults: Faults) -> Result<Disk> {
        // Opened by ourselves: the handles that cap-std opens are good for names, not for a sync.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from).at("open", path)?;
        let root = Dir::from_std_file(File::from(root));
        let stat = rustix::fs::fstat(&root).map_err(io::Error::from).at("look at", path)?;
        let mount = Mount::of(&root, ".", &stat);
        Ok(Disk { root, mount, stage: OnceLock::new(), path: path.to_owned(), faults })
    }

    /// Makes `path` and what lies above it where missing, then opens it.
    pub(super) fn create(path: &Path, faults: Faults) -> Result<Disk> {
        if !path.is_dir() {
            faults.check("create", path)?;
            std::fs::create_dir_all(path).at("create", path)?;
        }
        Disk::open(path, faults)
    }

    /// The root, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What messages call `path`.
    pub(super) fn full(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    pub(super) fn ask(&self, action: &'static str, path: &str) -> Result<()> {
        self.faults.check(action, &self.full(path))
    }

    // ---- looking

    /// What is at `path`; `None` if nothing is, or if the way there is not made of directories.
    pub(super) fn stat(&self, path: &str) -> Result<Option<Stat>> {
        match self.stat_raw(path) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).at("look at", self.full(path)),
        }
    }

    fn stat_raw(&self, path: &str) -> io::Result<Stat> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The kind of what is at `path`.
    pub(super) fn kind(&self, path: &str) -> Result<Option<Kind>> {
        Ok(self.stat(path)?.map(|stat| kind_of(&stat)))
    }

    /// An error if something else than what floe makes is at `path`, a place of floe's own: opening a FIFO or a link
    /// there would tell nothing, and to remove what somebody put there is not floe's to decide.
    pub(super) fn check_own(&self, path: &str, want: Kind) -> Result<()> {
        let reason = match self.kind(path)? {
            Some(kind) if kind != want => match (kind, want) {
                (Kind::Symlink, _) => "it is a symlink, where floe keeps its own state",
                (_, Kind::Dir) => "it is not a directory, where floe keeps its own state",
                _ => "it is not a plain file, where floe keeps its own state",
            },
            _ => return Ok(()),
        };
        Err(Error::Conflict {
            what: format!("`{path}`"),
            place: format!("replica `{}`", self.path.display()),
            reason: reason.to_owned(),
        })
    }

    /// Opens a regular file for reading. Never blocks on a FIFO, never follows a link.
    pub(super) fn open_file(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(self.open_beneath(path, flags)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Reads a whole small file of at most `max` bytes.
    pub(super) fn read(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let file = match self.open_file(path) {
            Err(error) if is_absent(&error) => return Ok(None),
            other => other.at("open", self.full(path))?,
        };
        let len = file.metadata().at("look at", self.full(path))?.len();
        if len > max {
            return Err(Error::Limit {
                what: format!("length of `{}`", self.full(path).display()),
                actual: len,
                max,
            });
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, max), &mut bytes).at("read", self.full(path))?;
        Ok(Some(bytes))
    }

    /// The names in a directory.
    pub(super) fn list(&self, path: &str) -> Result<Vec<(OsString, Kind)>> {
        self.list_raw(path).at("list", self.full(path))
    }

    fn list_raw(&self, path: &str) -> io::Result<Vec<(OsString, Kind)>> {
        let fd = self.open_dir(path, OFlags::RDONLY)?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd)? {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => kind_of(&rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?),
                known => kind_from(known),
            };
            names.push((OsStr::from_bytes(name.to_bytes()).to_owned(), kind));
        }
        Ok(names)
    }

    /// The target of a symlink.
    pub(super) fn read_link(&self, path: &str) -> io::Result<Vec<u8>> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::readlinkat(&*parent, name, Vec::new())?.into_bytes())
    }

    // ---- files

    /// Opens a file of floe's own for writing, making it where missing.
    pub(super) fn open_write(&self, path: &str, truncate: bool) -> Result<File> {
        self.ask("create", path)?;
        let mut flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if truncate {
            flags |= OFlags::TRUNC;
        }
        let open = || -> io::Result<File> {
            let (parent, name) = self.parent(path)?;
            let fd = rustix::fs::openat(&*parent, name, flags, mode_bits(MODE_PRIVATE))?;
            Ok(File::from(fd))
        };
        open().at("create", self.full(path))
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_at(&self, file: &File, path: &str, bytes: &[u8], offset: u64) -> Result<()> {
        self.ask("write", path)?;
        file.write_all_at(bytes, offset).at("write", self.full(path))
    }

    /// Sets a file's length.
    pub(super) fn set_len(&self, file: &File, path: &str, len: u64) -> Result<()> {
        self.ask("set the length of", path)?;
        file.set_len(len).at("set the length of", self.full(path))
    }

    /// Sets an open file's permission bits.
    pub(super) fn set_mode(&self, file: &File, path: &str, mode: u16) -> Result<()> {
        self.ask("set the mode of", path)?;
        rustix::fs::fchmod(file, mode_bits(mode))
            .map_err(io::Error::from)
            .at("set the mode of", self.full(path))
    }

    /// Makes a file's content and length durable. A failure is final: the kernel may have dropped the pages, so
    /// asking again on the same handle would lie.
    pub(super) fn sync_file(&self, file: &File, path: &str) -> Result<()> {
        self.ask("sync", path)?;
        file.sync_data().at("sync", self.full(path))
    }

    /// Shares the blocks of `from` with `to`. False where the file system cannot.
    pub(super) fn clone_file(&self, from: &File, to: &File, path: &str) -> Result<bool> {
        self.ask("clone", path)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        return Ok(rustix::fs::ioctl_ficlone(to, from).is_ok());
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        return {
            let _ = (from, to);
            Ok(false)
        };
    }

    // ---- names

    /// Renames; what is at `to` is replaced in one step.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.ask("rename", from)?;
        let rename = || -> io::Result<()> {
            let (from_dir, from_name) = self.parent(from)?;
            let (to_dir, to_name) = self.parent(to)?;
            from_dir.rename(from_name, &to_dir, to_name)
        };
        rename().at("rename", self.full(from))
    }

    /// Removes a file or link. Nothing there, or a directory there, is not an error and changes nothing.
    pub(super) fn unlink(&self, path: &str) -> Result<()> {
        self.ask("remove", path)?;
        let unlink = || -> io::Result<()> {
            let (parent, name) = self.parent(path)?;
            Ok(rustix::fs::unlinkat(&*parent, name, AtFlags::empty())?)
        };
        match unlink() {
            Err(error) if is_absent(&error) || errno_is(&error, &[Errno::ISDIR, Errno::PERM]) => {
                match self.kind(path)? {
                    None | Some(Kind::Dir) => Ok(()),
                    Some(_) => Err(error).at("remove", self.full(path)),
                }
            }
            other => other.at("remove", self.full(path)),
        }
    }

    /// Removes a directory if it is there and empty, and nothing is mounted on it.
    pub(super) fn rmdir(&self, path: &str) -> Result<()> {
        self.ask("remove", path)?;
        let rmdir = || -> io::Result<()> {
            let (parent, name) = self.parent(path)?;
            parent.remove_dir(name)
        };
        match rmdir() {
            Err(error)
                if is_absent(&error) || errno_is(&error, &[Errno::NOTEMPTY, Errno::EXIST, Errno::BUSY]) =>
            {
                Ok(())
            }
            other => other.at("remove", self.full(path)),
        }
    }

    /// Makes a directory; one that is there already is fine.
    pub(super) fn mkdir(&self, path: &str) -> Result<()> {
        self.ask("create", path)?;
        let mkdir = || -> io::Result<()> {
            let (parent, name) = self.parent(path)?;
            parent.create_dir_with(name, DirBuilder::new().mode(DIR_MODE.into()))
        };
        match mkdir() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.kind(path)? == Some(Kind::Dir) {
                    Ok(())
                } else {
                    Err(error).at("create", self.full(path))
                }
            }
            other => other.at("create", self.full(path)),
        }
    }

    /// Makes a symlink; `target` is kept as it is.
    pub(super) fn symlink(&self, target: &str, path: &str) -> Result<()> {
        self.ask("create", path)?;
        let symlink = || -> io::Result<()> {
            let (parent, name) = self.parent(path)?;
            parent.symlink_contents(target, name)
        };
        symlink().at("create", self.full(path))
    }

    /// Sets the permission bits of what is at `path`, if that is of kind `want` (a file or a directory).
    pub(super) fn chmod(&self, path: &str, want: Kind, mode: u16) -> Result<()> {
        self.ask("set the mode of", path)?;
        let chmod = || -> io::Result<()> {
            let (parent, name) = self.parent(path)?;
            let stat = rustix::fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if kind_of(&stat) != want || mode_of(&stat) == mode {
                return Ok(());
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match rustix::fs::openat(&*parent, name, flags, Mode::empty()) {
                Ok(fd) => rustix::fs::fchmod(fd, mode_bits(mode))?,
                // Its owner may change the mode of what he cannot read.
                Err(Errno::ACCESS) => {
                    rustix::fs::chmodat(&*parent, name, mode_bits(mode), AtFlags::empty())?;
                }
                Err(error) => return Err(error.into()),
            }
            Ok(())
        };
        match chmod() {
            Err(error) if is_absent(&error) => Ok(()),
            other => other.at("set the mode of", self.full(path)),
        }
    }

    // ---- durability

    /// Makes everything written to the replica's file system durable: files, names and modes. One call for all,
    /// because a sync of each of many small files costs a journal commit each. Where the system has no such call,
    /// `touched` files and directories are synced one by one.
    pub(super) fn sync_all(&self, touched: &mut dyn Iterator<Item = String>) -> Result<()> {
        self.ask("sync", "")?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            let _ = touched;
            // The handle that paths start from may be for paths alone, which syncfs refuses.
            let root = self.open_dir("", OFlags::RDONLY).at("open", &self.path)?;
            rustix::fs::syncfs(root).map_err(io::Error::from).at("sync", &self.path)
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            for path in touched {
                match self.open_beneath(&path, OFlags::RDONLY) {
                    Err(error) if is_absent(&error) => {}
                    fd => File::from(fd.at("sync", self.full(&path))?)
                        .sync_all()
                        .at("sync", self.full(&path))?,
                }
            }
            self.sync_dir("")
        }
    }

    /// Makes the names in one directory durable.
    pub(super) fn sync_dir(&self, path: &str) -> Result<()> {
        self.ask("sync", path)?;
        let sync = || -> io::Result<()> { File::from(self.open_dir(path, OFlags::RDONLY)?).sync_all() };
        sync().at("sync", self.full(path))
    }

    /// Puts a whole file of floe's own in place, durably: written beside it, synced, renamed, the name synced.
    pub(super) fn write_record(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_own(name, bytes, true)?;
        self.sync_dir(STATE_DIR)
    }

    /// The same for what may be lost: nothing is synced.
    pub(super) fn write_loose(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write_own(name, bytes, false)
    }

    fn write_own(&self, name: &str, bytes: &[u8], sync: bool) -> Result<()> {
        let new = own(&format!("{name}.new"));
        let file = self.open_write(&new, true)?;
        self.write_at(&file, &new, bytes, 0)?;
        if sync {
            self.sync_file(&file, &new)?;
        }
        self.rename(&new, &own(name))
    }

    // ---- the way in

    /// Opens a directory; the empty path is the root.
    fn open_dir(&self, path: &str, access: OFlags) -> io::Result<OwnedFd> {
        let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if path.is_empty() {
            return Ok(rustix::fs::openat(&self.root, ".", flags, Mode::empty())?);
        }
        self.open_beneath(path, flags)
    }

    fn open_beneath(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        if !path.split('/').all(is_plain) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(open_beneath(&self.root, path, flags)?)
    }

    pub(super) fn parent<'p>(&self, path: &'p str) -> io::Result<(Parent<'_>, &'p str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !is_plain(name) || path.starts_with('/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let access = OFlags::PATH;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let access = OFlags::RDONLY;
        let open = |path| Ok::<_, io::Error>(Dir::from_std_file(File::from(self.open_dir(path, access)?)));
        // The stage is where most names come from, and it is never replaced.
        if parent == STAGE {
            if let Some(stage) = self.stage.get() {
                return Ok((Parent::Kept(stage), name));
            }
            let stage = open(parent)?;
            return Ok((Parent::Kept(self.stage.get_or_init(|| stage)), name));
        }
        if parent.is_empty() {
            return Ok((Parent::Kept(&self.root), name));
        }
        Ok((Parent::Opened(open(parent)?), name))
    }
}

const STAGE: &str = ".floe/stage";

/// The directory that a name lies in.
pub(super) enum Parent<'a> {
    Kept(&'a Dir),
    Opened(Dir),
}

impl Deref for Parent<'_> {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        match self {
            Parent::Kept(dir) => dir,
            Parent::Opened(dir) => dir,
        }
    }
}

/// The path of a file of floe's own.
pub(super) fn own(name: &str) -> String {
    format!("{STATE_DIR}/{name}")
}

/// True if the error says that nothing is at the path, or that a component of it is no directory.
pub(super) fn is_absent(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(is_gone)
}

fn errno_is(error: &io::Error, any: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|code| any.iter().any(|errno| errno.raw_os_error() == code))
}

fn mode_bits(mode: u16) -> Mode {
    Mode::from_bits_truncate((mode & 0o777).into())
}

fn is_plain(component: &str) -> bool {
    !matches!(component, "" | "." | "..") && !component.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = Disk::open(dir.path(), Faults::default()).expect("opens");
        (dir, disk)
    }

    #[test]
    fn no_component_is_followed() {
        let (dir, disk) = disk();
        let outside = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("inside")).expect("made");
        symlink(outside.path(), dir.path().join("out")).expect("made");
        symlink("inside", dir.path().join("in")).expect("made");
        for path in ["out/x", "in/x", "../x", "inside/../x", "/x", "", ".", "inside//x"] {
            assert!(disk.open_write(path, true).is_err(), "{path}");
            assert!(disk.mkdir(path).is_err(), "{path}");
            assert!(disk.symlink("t", path).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(outside.path()).expect("listed").count(), 0);
        assert_eq!(std::fs::read_dir(dir.path().join("inside")).expect("listed").count(), 0);
        assert!(disk.open_file("out").is_err());
    }

    #[test]
    fn removal_and_chmod_keep_to_their_kind() {
        let (dir, disk) = disk();
        disk.mkdir("d").expect("made");
        disk.mkdir("d").expect("made twice");
        disk.unlink("d").expect("a directory is left alone");
        disk.open_write("f", false).expect("made");
        disk.rmdir("f").expect("a file is left alone");
        assert!(disk.mkdir("f").is_err());
        disk.symlink("f", "l").expect("made");
        disk.chmod("l", Kind::File, 0o777).expect("a link is left alone");
        disk.chmod("f", Kind::Dir, 0o777).expect("a file is left alone");
        disk.chmod("none", Kind::Dir, 0o777).expect("nothing is left alone");
        assert_eq!(dir.path().join("f").metadata().expect("there").mode() & 0o777, 0o600);
        disk.chmod("f", Kind::File, 0o640).expect("set");
        assert_eq!(dir.path().join("f").metadata().expect("there").mode() & 0o777, 0o640);
        disk.open_write("d/x", false).expect("made");
        disk.rmdir("d").expect("a full directory is left alone");
        disk.unlink("d/x").expect("removed");
        disk.unlink("d/x").expect("removed twice");
        disk.rmdir("d").expect("removed");
        assert_eq!(disk.kind("d").expect("looked"), None);
    }
}
