//! Opening what lies below a directory without following a symlink, and reading files so that a change is
//! noticed, never mixed in.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::error::{Error, Result};

use super::scan::Found;
use super::stat::Fingerprint;

// Files no longer than the kernel's default readahead gain nothing from a larger one.
const READAHEAD_LEN: u64 = 128 << 10;

/// Opens `path` (relative, without `..`) below `root`. A symlink anywhere in it is an error.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{ResolveFlags, openat2};
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(root, path, flags, Mode::empty(), resolve) {
            // Not in this kernel, or hidden by a sandbox.
            Err(Errno::NOSYS | Errno::PERM | Errno::AGAIN) => {}
            done => return done,
        }
    }
    open_by_steps(root, path, flags)
}

fn open_by_steps(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (dirs, last) = path.rsplit_once('/').map_or((None, path), |(dirs, last)| (Some(dirs), last));
    let mut here: Option<OwnedFd> = None;
    for dir in dirs.into_iter().flat_map(|dirs| dirs.split('/')) {
        let next = match &here {
            None => openat(root, dir, step, Mode::empty()),
            Some(fd) => openat(fd, dir, step, Mode::empty()),
        }?;
        here = Some(next);
    }
    match &here {
        None => openat(root, last, flags, Mode::empty()),
        Some(fd) => openat(fd, last, flags, Mode::empty()),
    }
}

/// True if the answer means that something else, or nothing, is at a path that was just listed.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Reads a file and knows whether it stayed the same.
#[derive(Debug)]
pub struct FileReader {
    file: File,
    path: PathBuf,
    stat: Fingerprint,
    read: u64,
    ended: bool,
}

impl FileReader {
    /// Opens `found` below `root`; `path` is what errors call it.
    pub(super) fn open(root: BorrowedFd<'_>, found: &Found, path: PathBuf) -> Result<FileReader> {
        // NONBLOCK: a FIFO put in its place must not hang the open.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = match open_beneath(root, found.path.as_str(), flags) {
            Ok(fd) => fd,
            // NXIO: a socket or an unread FIFO is there now.
            Err(error) if is_gone(error) || error == Errno::NXIO => return Err(Error::Changed { path }),
            Err(error) => return Err(Error::io("open", path, error.into())),
        };
        let reader = FileReader { file: fd.into(), path, stat: found.stat, read: 0, ended: false };
        if !reader.is_same()? {
            return Err(Error::Changed { path: reader.path });
        }
        if found.stat.len > READAHEAD_LEN {
            // Advice only.
            #[cfg(not(target_vendor = "apple"))]
            let _ = rustix::fs::fadvise(&reader.file, 0, None, rustix::fs::Advice::Sequential);
        }
        Ok(reader)
    }

    /// Call after the end was reached: [`crate::Error::Changed`] unless the file is still what the scan found and
    /// exactly its length was read.
    pub fn finish(mut self) -> Result<()> {
        if !self.ended && self.read == self.stat.len {
            let more = self.read(&mut [0]);
            self.ended = matches!(more, Ok(0));
        }
        if self.ended && self.read == self.stat.len && self.is_same()? {
            Ok(())
        } else {
            Err(Error::Changed { path: self.path })
        }
    }

    fn is_same(&self) -> Result<bool> {
        let stat = fstat(&self.file).map_err(|error| Error::io("stat", &self.path, error.into()))?;
        Ok(Fingerprint::of(&stat) == self.stat)
    }
}

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // One byte over the length shows that the file grew; more is not read, however fast it grows.
        let left = (self.stat.len + 1).saturating_sub(self.read);
        let most = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let Some(room) = buf.get_mut(..most).filter(|room| !room.is_empty()) else { return Ok(0) };
        let got = self.file.read(room)?;
        self.read += got as u64;
        self.ended |= got == 0;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn no_symlink_is_followed_either_way() {
        let dir = tempfile::TempDir::new().expect("a directory");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("directories");
        std::fs::write(dir.path().join("a/b/f"), "").expect("a file");
        std::os::unix::fs::symlink("a", dir.path().join("s")).expect("a symlink");
        std::os::unix::fs::symlink("f", dir.path().join("a/b/l")).expect("a symlink");
        let root = File::open(dir.path()).expect("the root");
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
        let rows =
            [("a/b/f", true), ("a", true), ("s/b/f", false), ("a/b/l", false), ("s", false), ("a/x", false)];
        for (path, want) in rows {
            assert_eq!(open_beneath(root.as_fd(), path, flags).is_ok(), want, "{path}");
            let by_steps = open_by_steps(root.as_fd(), path, flags);
            assert_eq!(by_steps.is_ok(), want, "{path}");
            assert!(by_steps.is_ok() || by_steps.is_err_and(is_gone), "{path}");
        }
    }
}
