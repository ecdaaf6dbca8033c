//! Reading files so that a change is noticed, never mixed in.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::buffer::spare_capacity;
use rustix::fs::{OFlags, fstat};
use rustix::io::Errno;

use crate::error::{Error, Result};

use super::beneath::{is_gone, open_beneath};
use super::scan::Found;
use super::stat::Fingerprint;

// Files no longer than the kernel's default readahead gain nothing from a larger one.
const READAHEAD_LEN: u64 = 128 << 10;

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

    /// Reads once, into memory that `into` has to spare; `Ok(0)` is the end, or no room. Unlike [`Read`] it needs no
    /// memory that was written before.
    pub fn read_spare(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        // More than one byte over the length can come, but only once.
        if self.read > self.stat.len || into.len() == into.capacity() {
            return Ok(0);
        }
        let got = rustix::io::retry_on_intr(|| rustix::io::read(&self.file, spare_capacity(into)))?;
        self.count(got);
        Ok(got)
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

    fn count(&mut self, got: usize) {
        self.read += got as u64;
        self.ended |= got == 0;
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
        self.count(got);
        Ok(got)
    }
}
