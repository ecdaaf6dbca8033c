//! What was received of an update and is not in the tree yet: the file `.floe/arrivals`, only ever appended to and cut
//! at its end, so that a run that was stopped goes on where it was. Where each chunk's frame lies is kept in memory;
//! its content is not.
//!
//! What the bytes mean is known to those who receive them. They prove them again when they continue: nothing is synced
//! here, so after a loss of power any part may be missing or wrong.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::content::{Compression, Frame};
use crate::error::{At, Result};
use crate::id::{ChunkId, ChunkRef};
use crate::limits::FRAME_LEN_MAX;

use super::disk::{Disk, own};
use super::replica::Replica;

const NAME: &str = "arrivals";
const PLAIN_NAME: &str = "arrivals.plain";

/// The log of an update under way. Unlinking it does not close it.
#[derive(Debug)]
pub struct Arrivals {
    file: File,
    len: AtomicU64,
    chunks: RwLock<HashMap<ChunkId, Place>>,
    plain: Mutex<Option<PlainFile>>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    // In the log.
    Frame { at: u64, len: u32 },
    // Among what was decoded.
    Plain { at: u64, len: u32 },
}

/// What was decoded of the log: a file without a name, gone with the process, because it can be made again.
#[derive(Debug, Clone)]
struct PlainFile {
    file: Arc<File>,
    len: u64,
}

impl Arrivals {
    /// True if an earlier run left a log.
    pub fn exist(replica: &Replica) -> Result<bool> {
        Ok(replica.writer()?.kind(&own(NAME))?.is_some())
    }

    /// Opens the log, making it where it is missing. Nothing in it is known yet.
    pub fn open(replica: &Replica) -> Result<Arrivals> {
        let disk = replica.writer()?;
        let file = disk.open_write(&own(NAME), false)?;
        let len = file.metadata().at("look at", disk.full(&own(NAME)))?.len();
        Ok(Arrivals { file, len: AtomicU64::new(len), chunks: RwLock::default(), plain: Mutex::default() })
    }

    /// Removes the log, if there is one.
    pub fn discard(replica: &Replica) -> Result<()> {
        clear(replica.writer()?)
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads it from the start.
    pub fn reader(&self) -> impl Read + Send + '_ {
        Reader { file: &self.file, at: 0 }
    }

    /// All that is in it from `at` on.
    pub fn tail(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Reader { file: &self.file, at }.take(self.len().saturating_sub(at)).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Adds `bytes` at the end; returns where they begin. For one thread at a time.
    pub fn append(&self, replica: &Replica, bytes: &[u8]) -> Result<u64> {
        let at = self.len();
        replica.writer()?.write_at(&self.file, &own(NAME), bytes, at)?;
        self.len.store(at + bytes.len() as u64, Ordering::Release);
        Ok(at)
    }

    /// Keeps the first `len` bytes. Frames noted beyond are the caller's to avoid.
    pub fn cut(&self, replica: &Replica, len: u64) -> Result<()> {
        replica.writer()?.set_len(&self.file, &own(NAME), len)?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    /// Notes that the frame of chunk `id` lies at `at` and is `len` bytes long.
    pub fn note(&self, id: ChunkId, at: u64, len: u32) {
        self.insert(id, Place::Frame { at, len });
    }

    /// Notes that the content of a chunk lies at `at` among what was kept.
    pub fn note_kept(&self, chunk: &ChunkRef, at: u64) {
        self.insert(chunk.id, Place::Plain { at, len: chunk.len });
    }

    fn insert(&self, id: ChunkId, place: Place) {
        self.chunks.write().unwrap_or_else(PoisonError::into_inner).insert(id, place);
    }

    /// Keeps decoded content for as long as this is open; returns where it begins. By any number of threads.
    pub fn keep(&self, replica: &Replica, bytes: &[u8]) -> Result<u64> {
        let disk = replica.writer()?;
        let (file, at) = {
            let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
            if plain.is_none() {
                let file = Arc::new(disk.open_write(&own(PLAIN_NAME), true)?);
                disk.unlink(&own(PLAIN_NAME))?;
                *plain = Some(PlainFile { file, len: 0 });
            }
            let Some(plain) = plain.as_mut() else { return Ok(0) };
            let at = plain.len;
            plain.len += bytes.len() as u64;
            (Arc::clone(&plain.file), at)
        };
        disk.write_at(&file, &own(PLAIN_NAME), bytes, at)?;
        Ok(at)
    }

    /// Reads `len` bytes of what was kept into `buffer`; false if they cannot be read.
    pub fn kept(&self, at: u64, len: u32, buffer: &mut Vec<u8>) -> bool {
        buffer.resize(len as usize, 0);
        let file = self.plain.lock().unwrap_or_else(PoisonError::into_inner).clone();
        file.is_some_and(|plain| plain.file.read_exact_at(buffer, at).is_ok())
    }

    /// True if a frame of the chunk is noted.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.place(id).is_some()
    }

    /// The frame of a chunk, if it is noted and can be read. Unproven, like every frame.
    pub fn frame(&self, id: &ChunkId) -> Option<Frame> {
        let bytes = match self.place(id)? {
            Place::Frame { at, len } => {
                let mut bytes = vec![0; (len as usize).min(FRAME_LEN_MAX)];
                self.file.read_exact_at(&mut bytes, at).ok()?;
                bytes
            }
            Place::Plain { at, len } => {
                let mut plain = Vec::new();
                return self.kept(at, len, &mut plain).then(|| Frame::encode(&plain, Compression::None));
            }
        };
        Frame::from_bytes(bytes, NAME).ok()
    }

    fn place(&self, id: &ChunkId) -> Option<Place> {
        self.chunks.read().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }
}

/// Removes the log, if there is one, and what a run left that was stopped before it took the other file's name away.
pub(super) fn clear(disk: &Disk) -> Result<()> {
    for path in [NAME, PLAIN_NAME].map(own) {
        if disk.kind(&path)?.is_some() {
            disk.unlink(&path)?;
        }
    }
    Ok(())
}

struct Reader<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(into, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::tree::ReplicaOptions;

    #[test]
    fn what_is_appended_is_there_again_until_it_is_cut_or_discarded() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let replica = Replica::open(dir.path(), &ReplicaOptions::default(), &Silent).expect("opens");
        assert!(!Arrivals::exist(&replica).expect("looked"));
        Arrivals::discard(&replica).expect("nothing to do");
        let log = Arrivals::open(&replica).expect("made");
        let at = [&b"abc"[..], b"\0frame", b"rest"].map(|b| log.append(&replica, b).expect("appended"));
        assert_eq!((at, log.len()), ([0, 3, 9], 13));
        let id = ChunkId::of(b"frame");
        log.note(id, at[1], 6);
        for (id, at, len) in [(ChunkId::of(b"beyond"), 10, 6), (ChunkId::of(b"no frame"), 0, 3)] {
            log.note(id, at, len);
            assert!(log.contains(&id) && log.frame(&id).is_none());
        }
        assert_eq!(log.frame(&id).expect("there").as_bytes(), b"\0frame");
        for (at, tail) in [(0, &b"abc\0framerest"[..]), (9, b"rest"), (13, b""), (99, b"")] {
            assert_eq!(log.tail(at).expect("read"), tail);
        }
        drop(log);

        let log = Arrivals::open(&replica).expect("opens");
        assert!(!log.contains(&id), "only bytes are kept");
        log.cut(&replica, 9).expect("cut");
        log.append(&replica, b"other").expect("appended");
        let mut bytes = Vec::new();
        log.reader().read_to_end(&mut bytes).expect("read");
        assert_eq!(bytes, b"abc\0frameother");
        log.note(id, 3, 6);
        Arrivals::discard(&replica).expect("removed");
        assert!(!Arrivals::exist(&replica).expect("looked"));
        assert!(log.frame(&id).is_some(), "still open");
    }
}
