//! What is at one path, compared with what is recorded there: the reading of files, by many threads.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::content::Chunker;
use crate::error::{Error, Result};
use crate::flow::{Flow, ordered};
use crate::id::{ChunkId, ChunkRef, NodeId};
use crate::limits::IN_FLIGHT_BYTES_MAX;
use crate::progress::{Progress, check};
use crate::version::{Change, ChunkListBuilder, Content, Entry, EntryKind, NodeSink, RelPath};

use super::disk::Disk;
use super::replica::Replica;
use super::scan::{Found, FoundKind, SourceTree};
use super::spot::{Kind, kind_of};
use super::stat::Fingerprint;

const BATCH_PATHS_MAX: usize = 256;
const BATCH_BYTES_MAX: u64 = 1 << 20;
// How often a file is read that changes while it is read.
const ATTEMPTS: u32 = 3;

/// Nodes in memory.
#[derive(Debug, Default)]
pub(super) struct Nodes(pub(super) HashMap<NodeId, Vec<u8>>);

impl NodeSink for Nodes {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.0.insert(id, bytes);
        Ok(())
    }
}

#[derive(Default)]
pub(super) struct Outcome {
    pub(super) drift: Vec<Change>,
    pub(super) files_read: u64,
    pub(super) unread: Vec<Found>,
    pub(super) nodes: Nodes,
}

/// One path: what was found there, what is recorded, and how its content becomes known.
pub(super) struct Task<'a> {
    pub(super) found: Option<&'a Found>,
    pub(super) have: Option<Entry>,
    pub(super) look: Look,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    // Its fingerprint proves that it is as recorded.
    Proven,
    // Nobody needs to know.
    Later,
    // It would be good to know.
    May,
    // It has to be known.
    Must,
}

impl<'a> Task<'a> {
    pub(super) fn unrecorded(found: &'a Found, look: Look) -> Task<'a> {
        Task { found: Some(found), have: None, look }
    }
}

impl Outcome {
    // What nobody recorded, as far as it is known without reading.
    pub(super) fn leave(&mut self, found: &Found) {
        let kind = match &found.kind {
            FoundKind::Dir { mode } => EntryKind::Dir { mode: *mode },
            FoundKind::Symlink { target } => EntryKind::Symlink { target: target.clone() },
            FoundKind::File { mode, len } => {
                self.unread.push(found.clone());
                unknown(*mode, *len)
            }
        };
        let want = Some(Entry { path: found.path.clone(), kind });
        self.drift.push(Change { path: found.path.clone(), have: None, want });
    }
}

// A file of which only this is known. No version has a file like it, but for the empty one, which it then is.
fn unknown(mode: u16, len: u64) -> EntryKind {
    EntryKind::File { mode, len, content: Content::Inline(Vec::new()) }
}

/// Reads files to learn what is in them.
pub(super) struct Reading<'a> {
    pub(super) replica: &'a Replica,
    pub(super) tree: &'a SourceTree,
    pub(super) threads: NonZeroUsize,
    pub(super) progress: &'a dyn Progress,
    pub(super) buffers: Mutex<Vec<Vec<u8>>>,
}

impl Reading<'_> {
    pub(super) fn run<'t>(
        &self,
        tasks: &mut (dyn Iterator<Item = Result<Task<'t>>> + Send),
    ) -> Result<Outcome> {
        let batches = std::iter::from_fn(|| next_batch(tasks).transpose());
        let flow = Flow { threads: self.threads, weight_max: IN_FLIGHT_BYTES_MAX };
        let judge = |batch: Vec<Task<'t>>| {
            let mut judged = Outcome::default();
            batch.into_iter().try_for_each(|task| self.judge(task, &mut judged)).map(|()| judged)
        };
        let mut outcome = Outcome::default();
        ordered(flow, batches, judge, |judged| {
            outcome.drift.extend(judged.drift);
            outcome.nodes.0.extend(judged.nodes.0);
            outcome.files_read += judged.files_read;
            outcome.unread.extend(judged.unread);
            Ok(())
        })?;
        Ok(outcome)
    }

    fn judge(&self, task: Task<'_>, outcome: &mut Outcome) -> Result<()> {
        check(self.progress)?;
        let Task { found, have, look } = task;
        let Some(found) = found else {
            let gone = have.map(|have| Change { path: have.path.clone(), have: Some(have), want: None });
            outcome.drift.extend(gone);
            return Ok(());
        };
        if look == Look::Proven {
            return Ok(());
        }
        if look == Look::Later {
            outcome.leave(found);
            return Ok(());
        }
        let mut nodes = Nodes::default();
        let kind = match &found.kind {
            FoundKind::Dir { mode } => Some(EntryKind::Dir { mode: *mode }),
            FoundKind::Symlink { target } => Some(EntryKind::Symlink { target: target.clone() }),
            FoundKind::File { mode, len } => match self.content(found, look, &mut nodes) {
                Ok(kind) => {
                    outcome.files_read += 1;
                    Some(kind)
                }
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
                    Some(unknown(*mode, *len))
                }
                Err(Error::Changed { .. }) if have.is_none() && look == Look::May => {
                    outcome.leave(found);
                    return Ok(());
                }
                // Whatever it is becoming, it is not what was recorded.
                Err(Error::Changed { .. }) if have.is_some() => self.restless(found)?,
                Err(error) => return Err(error),
            },
        };
        let want = kind.map(|kind| Entry { path: found.path.clone(), kind });
        if have != want {
            outcome.nodes.0.extend(nodes.0);
            outcome.drift.push(Change { path: found.path.clone(), have, want });
        }
        Ok(())
    }

    // What is in a file. One that has to be known gets more than one chance to stand still.
    fn content(&self, found: &Found, look: Look, nodes: &mut Nodes) -> Result<EntryKind> {
        let mut again = found.clone();
        for _ in 1..if look == Look::Must { ATTEMPTS } else { 1 } {
            match self.read(&again, nodes) {
                Err(Error::Changed { path }) => {
                    nodes.0.clear();
                    again = self.look_again(found)?.ok_or(Error::Changed { path })?;
                }
                other => return other,
            }
        }
        self.read(&again, nodes)
    }

    // A recorded file that never stood still: gone, or a file with who knows what in it.
    fn restless(&self, found: &Found) -> Result<Option<EntryKind>> {
        match self.disk()?.kind(found.path.as_str())? {
            None => return Ok(None),
            Some(Kind::File) => {}
            Some(_) => return Err(Error::Changed { path: self.tree_path(&found.path) }),
        }
        let now = self.look_again(found)?;
        Ok(now.and_then(|now| match now.kind {
            FoundKind::File { mode, len } => Some(unknown(mode, len.max(1))),
            _ => None,
        }))
    }

    // The file as it is now; `None` if it is a file no more.
    fn look_again(&self, found: &Found) -> Result<Option<Found>> {
        let stat = self.disk()?.stat(found.path.as_str())?;
        let file = stat.filter(|stat| kind_of(stat) == Kind::File).map(|stat| {
            let stat = Fingerprint::of(&stat);
            let kind = FoundKind::File { mode: stat.permissions(), len: stat.len };
            Found { path: found.path.clone(), kind, stat }
        });
        Ok(file)
    }

    fn read(&self, found: &Found, nodes: &mut Nodes) -> Result<EntryKind> {
        let path = || self.tree_path(&found.path);
        let buffer = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let mut chunks = ChunkListBuilder::new(nodes);
        let mut chunker = Chunker::with_buffer(self.tree.read(found)?, buffer);
        while let Some(bytes) = chunker.next_chunk().map_err(|error| Error::io("read", path(), error))? {
            chunks.push(ChunkRef { id: ChunkId::of(bytes), len: bytes.len() as u32 })?;
            self.progress.advance(bytes.len() as u64);
            check(self.progress)?;
        }
        let (reader, buffer) = chunker.into_parts();
        reader.finish()?;
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        let (content, len) = chunks.finish()?;
        Ok(EntryKind::File { mode: found.stat.permissions(), len, content })
    }

    fn disk(&self) -> Result<&Disk> {
        let gone = || Error::Changed { path: self.replica.dir().to_owned() };
        self.replica.disk().ok_or_else(gone)
    }

    fn tree_path(&self, path: &RelPath) -> PathBuf {
        self.replica.dir().join(path.as_str())
    }
}

// Many small files are one piece of work.
fn next_batch<'t>(
    tasks: &mut (dyn Iterator<Item = Result<Task<'t>>> + Send),
) -> Result<Option<(Vec<Task<'t>>, u64)>> {
    let (mut batch, mut weight) = (Vec::new(), 0);
    while batch.len() < BATCH_PATHS_MAX && weight < BATCH_BYTES_MAX {
        let Some(task) = tasks.next().transpose()? else { break };
        weight += match task.found {
            Some(Found { kind: FoundKind::File { len, .. }, .. })
                if matches!(task.look, Look::May | Look::Must) =>
            {
                *len
            }
            _ => 1,
        };
        batch.push(task);
    }
    // A file passes through a buffer of this size, however long it is.
    Ok((!batch.is_empty()).then_some((batch, weight.min(BATCH_BYTES_MAX))))
}
