//! The replica's own copy of its version's nodes: an append-only file, so that an update adds only new nodes.
//! It hides the file's layout, what of it is already written, and its rewriting.
//!
//! Layout: a header of 16 bytes, then records of node id (32 bytes), length (u32 LE), bytes. The first
//! `proven` bytes were durable when the state was written; records after them belong to a run that did not end
//! and are hashed when the log is opened. The log ends where a record is not whole or not what its id says.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{At, Error, Result};
use crate::id::NodeId;
use crate::limits::NODE_LEN_MAX;
use crate::version::{Node, NodeSource};

use super::disk::{Disk, own};
use super::spot::Kind;

const HEADER: [u8; 16] = *b"floe nodes 1\n\0\0\0";
const RECORD_HEADER_LEN: u64 = 36;
// Appended nodes are written in pieces of about this size.
const PENDING_LEN_MAX: usize = 1 << 20;
// Below this a log is not worth rewriting.
const REWRITE_LEN_MIN: u64 = 1 << 20;

/// Nodes kept in `.floe/nodes`. Clones share one log.
#[derive(Debug, Clone)]
pub struct NodeLog {
    inner: Arc<RwLock<Inner>>,
    place: String,
}

#[derive(Debug)]
struct Inner {
    file: Option<File>,
    // Where each node's bytes begin, and their length. Offsets from `written` on lie in `pending`.
    index: HashMap<NodeId, (u64, u32)>,
    written: u64,
    pending: Vec<u8>,
}

impl NodeLog {
    /// A log without a file, for a directory that is no replica yet.
    pub(super) fn none(place: String) -> NodeLog {
        let inner = Inner { file: None, index: HashMap::new(), written: 0, pending: Vec::new() };
        NodeLog { inner: Arc::new(RwLock::new(inner)), place }
    }

    /// Opens the log to read and append; makes it where missing, cuts off a torn end.
    pub(super) fn open(disk: &Disk, proven: u64) -> Result<NodeLog> {
        let path = own("nodes");
        disk.check_own(&path, Kind::File)?;
        let file = disk.open_write(&path, false)?;
        let log = NodeLog::none(place(disk));
        let (index, end) = read_index(&file, proven).at("read", disk.full(&path))?;
        let len = file.metadata().at("look at", disk.full(&path))?.len();
        if end == 0 {
            start(disk, &file, &path)?;
        } else if end < len {
            disk.set_len(&file, &path, end)?;
        }
        let written = end.max(HEADER.len() as u64);
        *log.write() = Inner { file: Some(file), index, written, pending: Vec::new() };
        Ok(log)
    }

    /// Opens the log to read, and leaves it as it is.
    pub(super) fn peek(disk: &Disk, proven: u64) -> Result<NodeLog> {
        let path = own("nodes");
        disk.check_own(&path, Kind::File)?;
        let log = NodeLog::none(place(disk));
        match disk.open_file(&path) {
            Ok(file) => {
                let (index, written) = read_index(&file, proven).at("read", disk.full(&path))?;
                *log.write() = Inner { file: Some(file), index, written, pending: Vec::new() };
            }
            Err(error) if super::disk::is_absent(&error) => {}
            Err(error) => return Err(error).at("open", disk.full(&path)),
        }
        Ok(log)
    }

    /// True if the node is here.
    pub fn contains(&self, id: &NodeId) -> bool {
        self.read().index.contains_key(id)
    }

    /// True if `error` tells of damage in this log, or of something that it lacks.
    pub fn is_blamed(&self, error: &Error) -> bool {
        match error {
            Error::Damaged { place, .. } | Error::Malformed { place, .. } | Error::NotFound { place, .. } => {
                *place == self.place
            }
            _ => false,
        }
    }

    /// Adds a node that is not here yet, or whose bytes here are not what its id says.
    pub(super) fn put(&self, disk: &Disk, id: NodeId, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() || bytes.len() > NODE_LEN_MAX {
            return Err(Error::Limit {
                what: format!("length of node {id}"),
                actual: bytes.len() as u64,
                max: NODE_LEN_MAX as u64,
            });
        }
        let mut inner = self.write();
        if let Some(&(at, len)) = inner.index.get(&id)
            && inner.bytes(at, len).is_ok_and(|bytes| NodeId::of(&bytes) == id)
        {
            return Ok(());
        }
        let at = inner.written + inner.pending.len() as u64 + RECORD_HEADER_LEN;
        let len = bytes.len() as u32;
        inner.pending.extend_from_slice(id.as_bytes());
        inner.pending.extend_from_slice(&len.to_le_bytes());
        inner.pending.extend_from_slice(bytes);
        inner.index.insert(id, (at, len));
        if inner.pending.len() >= PENDING_LEN_MAX {
            inner.flush(disk)?;
        }
        Ok(())
    }

    /// Writes what is pending. It is proven anew whenever the log is opened.
    pub(super) fn write_out(&self, disk: &Disk) -> Result<()> {
        self.write().flush(disk)
    }

    /// Writes what is pending and makes the whole log durable. Returns its length.
    pub(super) fn sync(&self, disk: &Disk) -> Result<u64> {
        let mut inner = self.write();
        inner.flush(disk)?;
        if let Some(file) = &inner.file {
            disk.sync_file(file, &own("nodes"))?;
        }
        Ok(inner.written)
    }

    /// Forgets every node: what is here cannot be relied on. Without a disk the file stays as it is.
    pub(super) fn reset(&self, disk: Option<&Disk>) -> Result<()> {
        let mut inner = self.write();
        inner.index.clear();
        inner.pending.clear();
        inner.written = HEADER.len() as u64;
        match (&inner.file, disk) {
            (Some(file), Some(disk)) => start(disk, file, &own("nodes")),
            _ => Ok(()),
        }
    }

    /// Rewrites the log if most of it is not needed by the version under `root`. `live` is what was needed when that
    /// was last counted; returns what is needed now. A log that is damaged stays as it is.
    pub(super) fn shrink(&self, disk: &Disk, root: NodeId, live: u64) -> Result<u64> {
        let len = self.read().written;
        if len < REWRITE_LEN_MIN || len / 2 < live {
            return Ok(live);
        }
        let nodes = match self.reachable(root) {
            Err(error) if self.is_blamed(&error) => return Ok(live),
            other => other?,
        };
        let live = nodes.iter().map(|&(_, (_, len))| RECORD_HEADER_LEN + u64::from(len)).sum();
        if len / 2 < live {
            return Ok(live);
        }
        let (path, new) = (own("nodes"), own("nodes.new"));
        let file = disk.open_write(&new, true)?;
        disk.write_at(&file, &new, &HEADER, 0)?;
        let mut copy = Inner {
            file: Some(file),
            index: HashMap::with_capacity(nodes.len()),
            written: HEADER.len() as u64,
            pending: Vec::with_capacity(PENDING_LEN_MAX),
        };
        let mut inner = self.write();
        for (id, (at, len)) in nodes {
            let bytes = inner.bytes(at, len).at("read", disk.full(&path))?;
            copy.index.insert(id, (copy.written + copy.pending.len() as u64 + RECORD_HEADER_LEN, len));
            copy.pending.extend_from_slice(id.as_bytes());
            copy.pending.extend_from_slice(&len.to_le_bytes());
            copy.pending.extend_from_slice(&bytes);
            if copy.pending.len() >= PENDING_LEN_MAX {
                copy.flush_to(disk, &new)?;
            }
        }
        copy.flush_to(disk, &new)?;
        if let Some(file) = &copy.file {
            disk.sync_file(file, &new)?;
        }
        disk.rename(&new, &path)?;
        *inner = copy;
        Ok(live)
    }

    // In the order they lie in the file.
    fn reachable(&self, root: NodeId) -> Result<Vec<(NodeId, (u64, u32))>> {
        let mut seen = HashSet::from([root]);
        let mut todo = vec![root];
        let mut nodes = Vec::new();
        while let Some(id) = todo.pop() {
            let inner = self.read();
            let Some(&(at, len)) = inner.index.get(&id) else {
                return Err(Error::Damaged {
                    what: format!("node {id}"),
                    place: self.place.clone(),
                    reason: "missing".into(),
                });
            };
            let bytes = inner.bytes(at, len).at("read", &self.place)?;
            nodes.push((id, (at, len)));
            todo.extend(
                Node::open(id, &bytes, &self.place)?.children().into_iter().filter(|&c| seen.insert(c)),
            );
        }
        nodes.sort_unstable_by_key(|&(_, (at, _))| at);
        Ok(nodes)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn bytes(&self, at: u64, len: u32) -> std::io::Result<Vec<u8>> {
        if let Some(start) = at.checked_sub(self.written) {
            let start = start as usize;
            let bytes = self.pending.get(start..start + len as usize);
            return Ok(bytes.expect("the index points into what is pending").to_vec());
        }
        let mut bytes = vec![0; len as usize];
        let file = self.file.as_ref().ok_or(std::io::ErrorKind::NotFound)?;
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    fn flush(&mut self, disk: &Disk) -> Result<()> {
        self.flush_to(disk, &own("nodes"))
    }

    fn flush_to(&mut self, disk: &Disk, path: &str) -> Result<()> {
        if let (Some(file), false) = (&self.file, self.pending.is_empty()) {
            disk.write_at(file, path, &self.pending, self.written)?;
            self.written += self.pending.len() as u64;
            self.pending.clear();
        }
        Ok(())
    }
}

fn place(disk: &Disk) -> String {
    format!("`{}`", disk.full(&own("nodes")).display())
}

fn start(disk: &Disk, file: &File, path: &str) -> Result<()> {
    disk.set_len(file, path, 0)?;
    disk.write_at(file, path, &HEADER, 0)
}

type Index = HashMap<NodeId, (u64, u32)>;

// The index, and where the good part ends; 0 if not even the header is right.
fn read_index(file: &File, proven: u64) -> std::io::Result<(Index, u64)> {
    let len = file.metadata()?.len();
    let mut index = HashMap::new();
    let mut header = [0; HEADER.len()];
    if len < header.len() as u64 {
        return Ok((index, 0));
    }
    file.read_exact_at(&mut header, 0)?;
    if header != HEADER {
        return Ok((index, 0));
    }
    let mut at = header.len() as u64;
    let mut head = [0; RECORD_HEADER_LEN as usize];
    let mut body = Vec::new();
    while at + RECORD_HEADER_LEN <= len {
        file.read_exact_at(&mut head, at)?;
        let (id, node_len) = head.split_first_chunk::<32>().expect("the header holds an id");
        let node_len = u32::from_le_bytes(node_len.try_into().expect("four bytes follow the id"));
        let start = at + RECORD_HEADER_LEN;
        let end = start + u64::from(node_len);
        if node_len == 0 || node_len as usize > NODE_LEN_MAX || end > len {
            break;
        }
        let id = NodeId::from_bytes(*id);
        if end > proven {
            body.resize(node_len as usize, 0);
            file.read_exact_at(&mut body, start)?;
            if NodeId::of(&body) != id {
                break;
            }
        }
        index.insert(id, (start, node_len));
        at = end;
    }
    Ok((index, at))
}

/// The nodes of a log that is `bytes`, each with where it begins and its length, and where the good part ends.
#[cfg(feature = "testing")]
pub(crate) fn index_of(bytes: &[u8], proven: u64) -> std::io::Result<(Index, u64)> {
    let file = tempfile::tempfile()?;
    file.write_all_at(bytes, 0)?;
    read_index(&file, proven)
}

impl NodeSource for NodeLog {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        for (index, id) in ids.iter().enumerate() {
            // The lock is not held while `each` runs: it may read more nodes, or put some.
            let bytes = {
                let inner = self.read();
                match inner.index.get(id) {
                    Some(&(at, len)) => Some(inner.bytes(at, len).at("read", &self.place)?),
                    None => None,
                }
            };
            each(index, bytes)?;
        }
        Ok(())
    }

    fn place(&self) -> String {
        self.place.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Faults;

    fn disk() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join(".floe")).expect("made");
        let disk = Disk::open(dir.path(), Faults::default()).expect("opens");
        (dir, disk)
    }

    fn node(n: u8) -> (NodeId, Vec<u8>) {
        let bytes = vec![n; 100 + usize::from(n)];
        (NodeId::of(&bytes), bytes)
    }

    fn get(log: &NodeLog, id: NodeId) -> Option<Vec<u8>> {
        let mut got = None;
        log.read_nodes(&[id], &mut |_, bytes| {
            got = bytes;
            Ok(())
        })
        .expect("read");
        got
    }

    #[test]
    fn nodes_are_there_before_and_after_reopening() {
        let (_dir, disk) = disk();
        let log = NodeLog::open(&disk, 0).expect("opens");
        for n in 0..10 {
            let (id, bytes) = node(n);
            log.put(&disk, id, &bytes).expect("put");
            log.put(&disk, id, &bytes).expect("put twice");
            assert_eq!(get(&log, id), Some(bytes));
        }
        let len = log.sync(&disk).expect("synced");
        for proven in [0, len] {
            let log = NodeLog::open(&disk, proven).expect("opens");
            for n in 0..10 {
                let (id, bytes) = node(n);
                assert_eq!(get(&log, id), Some(bytes));
            }
            assert_eq!(get(&log, node(11).0), None);
        }
        assert_eq!(disk.stat(".floe/nodes").expect("looked").expect("there").st_size as u64, len);
    }

    #[test]
    fn a_torn_end_is_cut_off_at_every_length() {
        let (dir, disk) = disk();
        let log = NodeLog::open(&disk, 0).expect("opens");
        for n in 0..3 {
            let (id, bytes) = node(n);
            log.put(&disk, id, &bytes).expect("put");
        }
        let len = log.sync(&disk).expect("synced");
        let path = dir.path().join(".floe/nodes");
        let whole = std::fs::read(&path).expect("read");
        for cut in 0..len as usize {
            std::fs::write(&path, &whole[..cut]).expect("written");
            let log = NodeLog::open(&disk, 0).expect("opens");
            let there = (0..3).filter(|&n| get(&log, node(n).0) == Some(node(n).1)).count();
            assert!(there < 3);
            for n in 0..4 {
                let (id, bytes) = node(n);
                log.put(&disk, id, &bytes).expect("put");
            }
            log.sync(&disk).expect("synced");
            let log = NodeLog::open(&disk, 0).expect("opens");
            assert!((0..4).all(|n| get(&log, node(n).0) == Some(node(n).1)));
        }
    }

    #[test]
    fn a_record_with_wrong_bytes_is_put_again() {
        let (dir, disk) = disk();
        let log = NodeLog::open(&disk, 0).expect("opens");
        let (id, bytes) = node(1);
        log.put(&disk, id, &bytes).expect("put");
        let len = log.sync(&disk).expect("synced");
        let path = dir.path().join(".floe/nodes");
        let mut raw = std::fs::read(&path).expect("read");
        *raw.last_mut().expect("not empty") ^= 1;
        std::fs::write(&path, raw).expect("written");
        let log = NodeLog::open(&disk, len).expect("opens");
        assert_ne!(get(&log, id), Some(bytes.clone()));
        log.put(&disk, id, &bytes).expect("put again");
        assert_eq!(get(&log, id), Some(bytes.clone()));
        let longer = log.sync(&disk).expect("synced");
        assert!(longer > len);
        assert_eq!(get(&NodeLog::open(&disk, longer).expect("opens"), id), Some(bytes));
    }

    #[test]
    fn an_unproven_record_with_wrong_bytes_is_not_served() {
        let (dir, disk) = disk();
        let log = NodeLog::open(&disk, 0).expect("opens");
        let (id, bytes) = node(1);
        log.put(&disk, id, &bytes).expect("put");
        log.sync(&disk).expect("synced");
        let path = dir.path().join(".floe/nodes");
        let mut raw = std::fs::read(&path).expect("read");
        *raw.last_mut().expect("not empty") ^= 1;
        std::fs::write(&path, raw).expect("written");
        assert_eq!(get(&NodeLog::open(&disk, 0).expect("opens"), id), None);
    }
}
