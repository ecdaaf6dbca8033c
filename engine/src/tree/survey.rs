//! How the tree on disk differs from what its state records. A file whose fingerprint proves that nobody touched it
//! is not read; every other file is cut and hashed.
//!
//! What the state records includes the directories above its entries: where something else stands in the place of
//! such a directory, the drift says that a directory (0o755) was recorded there.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;
use std::num::NonZeroUsize;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::content::Chunker;
use crate::error::{Error, Result};
use crate::flow::{Flow, ordered};
use crate::id::{ChunkId, ChunkRef, NodeId, VersionId};
use crate::limits::IN_FLIGHT_BYTES_MAX;
use crate::progress::{Notice, Phase, Progress, check};
use crate::version::{Change, ChunkListBuilder, Entry, EntryKind, Manifest, NodeSink, NodeSource, RelPath};

use super::disk::own;
use super::nodelog::NodeLog;
use super::replica::Replica;
use super::scan::{Found, FoundKind, ScanOptions, SourceTree};
use super::stat::{Fingerprint, StatTable};

/// The context of a replica's table: nothing beside the version decides about it.
pub(super) const CONTEXT: [u8; 32] = [0; 32];
/// The mode of a directory that is no entry of its own.
pub(super) const DIR_MODE: u16 = 0o755;

const BATCH_PATHS_MAX: usize = 256;
const BATCH_BYTES_MAX: u64 = 1 << 20;

/// How the tree is compared with its state.
#[derive(Debug, Clone)]
pub struct SurveyOptions {
    /// Re-read every file, whatever its fingerprint says.
    pub rehash: bool,
    /// Threads that walk and read.
    pub threads: NonZeroUsize,
}

/// How the tree differs from the version its state records.
#[derive(Debug)]
pub struct Survey {
    /// In path order: `have` is what the state says, `want` what is on disk. Files nobody recorded are here too.
    pub drift: Vec<Change>,
    /// Files whose content had to be read.
    pub files_read: u64,
    /// Paths that no version can hold, or that cannot be read and nobody recorded. They are left alone.
    pub unpublishable: u64,
    pub(super) nodes: Nodes,
    pub(super) seen: Arc<Seen>,
}

/// Nodes in memory.
#[derive(Debug, Default)]
pub(super) struct Nodes(HashMap<NodeId, Vec<u8>>);

impl NodeSink for Nodes {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.0.insert(id, bytes);
        Ok(())
    }
}

/// Every path on disk, as the survey saw it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) started_unix_ns: i128,
    pub(super) rows: Vec<(RelPath, Fingerprint)>,
}

impl Seen {
    pub(super) fn get(&self, path: &RelPath) -> Option<&Fingerprint> {
        let at = self.rows.binary_search_by(|(row, _)| row.cmp(path)).ok()?;
        self.rows.get(at).map(|(_, stat)| stat)
    }
}

impl Survey {
    /// Nodes of files on disk whose chunk lists are nowhere else, then the replica's log.
    pub fn nodes<'a>(&'a self, replica: &'a Replica) -> Box<dyn NodeSource + 'a> {
        Box::new(self.over(replica.nodes()))
    }

    pub(super) fn over<'a>(&'a self, log: &'a NodeLog) -> Overlay<'a> {
        Overlay { nodes: &self.nodes, log }
    }
}

/// Nodes in memory, then a log.
pub(super) struct Overlay<'a> {
    nodes: &'a Nodes,
    log: &'a NodeLog,
}

impl NodeSource for Overlay<'_> {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        for (index, id) in ids.iter().enumerate() {
            match self.nodes.0.get(id) {
                Some(bytes) => each(index, Some(bytes.clone()))?,
                None => self.log.read_nodes(slice::from_ref(id), &mut |_, bytes| each(index, bytes))?,
            }
        }
        Ok(())
    }

    fn place(&self) -> String {
        self.log.place()
    }
}

impl Replica {
    /// Compares disk with state. Files with a proven fingerprint are not read. When the recorded version turns out to
    /// be unreadable it is forgotten (a notice says so) and everything on disk is drift; `rehash` always reads it.
    pub fn survey(&self, options: &SurveyOptions, progress: &dyn Progress) -> Result<Survey> {
        if self.disk().is_none() {
            return Ok(Survey {
                drift: Vec::new(),
                files_read: 0,
                unpublishable: 0,
                nodes: Nodes::default(),
                seen: Arc::default(),
            });
        }
        let tree = SourceTree::open(self.dir())?;
        // Dated by the clock that stamps the files, where it may be asked, so that what was proven before stays so.
        let clock = self.lock().ok().and_then(|lock| lock.clock().ok());
        let scan = tree.scan(
            &ScanOptions {
                exclude: Vec::new(),
                honour_ignore: false,
                tolerate_foreign: true,
                threads: options.threads,
            },
            progress,
        )?;
        let table = if options.rehash { None } else { self.table(progress)? };
        let mut compare = Compare {
            replica: self,
            tree: &tree,
            found: &scan.found,
            table: table.as_ref(),
            threads: options.threads,
            progress,
            buffers: Mutex::new(Vec::new()),
            implied: Implied::default(),
            outcome: Outcome::default(),
        };
        if !compare.all_proven() {
            progress.phase(Phase::Verify, None);
            compare.run()?;
        }
        let Compare { mut implied, mut outcome, .. } = compare;
        for path in &scan.unpublishable {
            path.to_str().into_iter().for_each(|path| implied.holds(path));
        }
        implied.settle(&mut outcome.drift);
        let seen = Seen {
            started_unix_ns: clock.map_or(scan.started_unix_ns, StatTable::started_at),
            rows: scan.found.into_iter().map(|found| (found.path, found.stat)).collect(),
        };
        let survey = Survey {
            drift: outcome.drift,
            files_read: outcome.files_read,
            unpublishable: scan.unpublishable.len() as u64 + outcome.unreadable,
            nodes: outcome.nodes,
            seen: Arc::new(seen),
        };
        if table.is_none() || survey.files_read > 0 {
            self.remember(&survey, progress);
        }
        Ok(survey)
    }

    // The fingerprints of the recorded version.
    fn table(&self, progress: &dyn Progress) -> Result<Option<StatTable>> {
        let Some(version) = self.version() else { return Ok(None) };
        match StatTable::load(&self.dir().join(own("stats"))) {
            Ok(table) => Ok(table.filter(|table| table.version == version && table.context == CONTEXT)),
            Err(error @ (Error::Malformed { .. } | Error::Limit { .. } | Error::UnsafePath { .. })) => {
                progress.notice(Notice::StateIgnored { what: error.to_string() });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    // Keeps the fingerprints of what was found to be as recorded. Losing them costs only time.
    fn remember(&self, survey: &Survey, progress: &dyn Progress) {
        let (Some(version), Ok(disk)) = (self.version(), self.writer()) else { return };
        let mut drift = survey.drift.iter().map(|change| &change.path).peekable();
        let clean = |path: &RelPath| {
            while drift.next_if(|drifted| *drifted < path).is_some() {}
            drift.peek() != Some(&path)
        };
        let rows = survey.seen.rows.iter().cloned();
        let mut clean = clean;
        let table = StatTable {
            version,
            context: CONTEXT,
            started_unix_ns: survey.seen.started_unix_ns,
            rows: rows.filter(|(path, _)| clean(path)).collect(),
        };
        if let Err(error) = table.save(&self.dir().join(own("stats")), disk.faults()) {
            progress.notice(Notice::StateIgnored { what: error.to_string() });
        }
    }
}

struct Compare<'a> {
    replica: &'a Replica,
    tree: &'a SourceTree,
    found: &'a [Found],
    table: Option<&'a StatTable>,
    threads: NonZeroUsize,
    progress: &'a dyn Progress,
    buffers: Mutex<Vec<Vec<u8>>>,
    implied: Implied,
    outcome: Outcome,
}

#[derive(Default)]
struct Outcome {
    drift: Vec<Change>,
    files_read: u64,
    unreadable: u64,
    nodes: Nodes,
}

// One path: what was found there, what is recorded, and whether its fingerprint proves that they are equal.
struct Task<'a> {
    found: Option<&'a Found>,
    have: Option<Entry>,
    proven: bool,
}

impl Compare<'_> {
    // The way of a replica that nobody touched: not one node is read.
    fn all_proven(&self) -> bool {
        self.table.is_some_and(|table| table.is_unchanged(self.found))
    }

    fn run(&mut self) -> Result<()> {
        let unreadable = AtomicBool::new(false);
        match self.against(self.replica.version(), &unreadable) {
            Err(error) if unreadable.load(Ordering::Acquire) => {
                self.replica.forget(self.progress, &error)?;
                self.implied = Implied::default();
                self.outcome = Outcome::default();
                self.table = None;
                self.against(None, &unreadable)
            }
            other => other,
        }
    }

    fn against(&mut self, version: Option<VersionId>, unreadable: &AtomicBool) -> Result<()> {
        let mark = |error: &Error| {
            unreadable.fetch_or(!matches!(error, Error::Cancelled), Ordering::AcqRel);
        };
        let manifest = version
            .map(|version| Manifest::open(self.replica.nodes(), version).inspect_err(mark))
            .transpose()?;
        let recorded =
            manifest.iter().flat_map(|manifest| manifest.entries()).map(|entry| entry.inspect_err(mark));
        let mut implied = Implied { any_recorded: manifest.is_some(), ..Implied::default() };
        let mut outcome = Outcome::default();
        let mut merge = Merge {
            found: self.found.iter().peekable(),
            recorded: recorded.peekable(),
            rows: self.table.map_or(&[][..], |table| &table.rows).iter().peekable(),
            table: self.table,
            implied: &mut implied,
        };
        let batches = std::iter::from_fn(|| merge.next_batch().transpose());
        let this = &*self;
        let flow = Flow { threads: this.threads, weight_max: IN_FLIGHT_BYTES_MAX };
        let judge = |batch: Vec<Task<'_>>| {
            let mut judged = Outcome::default();
            batch.into_iter().try_for_each(|task| this.judge(task, &mut judged)).map(|()| judged)
        };
        let result = ordered(flow, batches, judge, |judged| {
            outcome.drift.extend(judged.drift);
            outcome.nodes.0.extend(judged.nodes.0);
            outcome.files_read += judged.files_read;
            outcome.unreadable += judged.unreadable;
            Ok(())
        });
        self.implied = implied;
        self.outcome = outcome;
        result
    }

    fn judge(&self, task: Task<'_>, outcome: &mut Outcome) -> Result<()> {
        check(self.progress)?;
        let Task { found, have, proven } = task;
        let Some(found) = found else {
            let gone = have.map(|have| Change { path: have.path.clone(), have: Some(have), want: None });
            outcome.drift.extend(gone);
            return Ok(());
        };
        if proven && have.is_some() {
            return Ok(());
        }
        let mut nodes = Nodes::default();
        let kind = match &found.kind {
            FoundKind::Dir { mode } => EntryKind::Dir { mode: *mode },
            FoundKind::Symlink { target } => EntryKind::Symlink { target: target.clone() },
            FoundKind::File { mode, .. } => match self.read(found, *mode, &mut nodes) {
                Ok(kind) => {
                    outcome.files_read += 1;
                    kind
                }
                Err(Error::Io { source, .. })
                    if have.is_none() && source.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    outcome.unreadable += 1;
                    return Ok(());
                }
                Err(error) => return Err(error),
            },
        };
        let want = Some(Entry { path: found.path.clone(), kind });
        if have != want {
            outcome.nodes.0.extend(nodes.0);
            outcome.drift.push(Change { path: found.path.clone(), have, want });
        }
        Ok(())
    }

    fn read(&self, found: &Found, mode: u16, nodes: &mut Nodes) -> Result<EntryKind> {
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
        Ok(EntryKind::File { mode, len, content })
    }

    fn tree_path(&self, path: &RelPath) -> std::path::PathBuf {
        self.replica.dir().join(path.as_str())
    }
}

// Joins what was found, what is recorded and the fingerprints, all in path order.
struct Merge<'a, 'i, I: Iterator<Item = Result<Entry>>> {
    found: Peekable<slice::Iter<'a, Found>>,
    recorded: Peekable<I>,
    rows: Peekable<slice::Iter<'a, (RelPath, Fingerprint)>>,
    table: Option<&'a StatTable>,
    implied: &'i mut Implied,
}

impl<'a, I: Iterator<Item = Result<Entry>>> Merge<'a, '_, I> {
    // Many small files are one piece of work.
    fn next_batch(&mut self) -> Result<Option<(Vec<Task<'a>>, u64)>> {
        let (mut batch, mut weight) = (Vec::new(), 0);
        while batch.len() < BATCH_PATHS_MAX && weight < BATCH_BYTES_MAX {
            let Some(task) = self.next_task()? else { break };
            weight += match task.found {
                Some(Found { kind: FoundKind::File { len, .. }, .. }) if !task.proven => *len,
                _ => 1,
            };
            batch.push(task);
        }
        // A file passes through a buffer of this size, however long it is.
        Ok((!batch.is_empty()).then_some((batch, weight.min(BATCH_BYTES_MAX))))
    }

    fn next_task(&mut self) -> Result<Option<Task<'a>>> {
        let order = match (self.found.peek(), self.recorded.peek()) {
            (None, None) => return Ok(None),
            (Some(_), None) => std::cmp::Ordering::Less,
            (Some(found), Some(Ok(have))) => found.path.cmp(&have.path),
            (None, Some(_)) | (Some(_), Some(Err(_))) => std::cmp::Ordering::Greater,
        };
        let found = if order.is_le() { self.found.next() } else { None };
        let have = if order.is_ge() { self.recorded.next() } else { None }.transpose()?;
        self.implied.see(found, have.as_ref());
        let proven = found.is_some_and(|found| self.proven(found));
        Ok(Some(Task { found, have, proven }))
    }

    fn proven(&mut self, found: &Found) -> bool {
        let Some(table) = self.table else { return false };
        while self.rows.next_if(|(path, _)| *path < found.path).is_some() {}
        self.rows
            .peek()
            .is_some_and(|(path, row)| *path == found.path && *row == found.stat && table.proves(row))
    }
}

// Directories that are recorded or on disk only through what lies below them. Path order puts them first.
#[derive(Default)]
struct Implied {
    // False without a recorded version: then nothing can be implied.
    any_recorded: bool,
    // Found, not recorded; and of these, the ones that a recorded path makes a directory.
    unrecorded: HashSet<RelPath>,
    recorded_dirs: HashSet<RelPath>,
    // Recorded as directories, not found as entries; and of these, the ones that are there all the same.
    missing: HashSet<RelPath>,
    there: HashSet<RelPath>,
}

impl Implied {
    fn see(&mut self, found: Option<&Found>, have: Option<&Entry>) {
        if !self.any_recorded {
            return;
        }
        if let Some(have) = have {
            for above in ancestors_in(&self.unrecorded, have.path.as_str()) {
                self.recorded_dirs.insert(above);
            }
        }
        match (found, have) {
            (Some(found), None) => {
                self.holds(found.path.as_str());
                self.unrecorded.insert(found.path.clone());
            }
            (Some(found), Some(_)) => self.holds(found.path.as_str()),
            (None, Some(Entry { path, kind: EntryKind::Dir { .. } })) => {
                self.missing.insert(path.clone());
            }
            _ => {}
        }
    }

    // Something is at `path`: so the directories above it are there.
    fn holds(&mut self, path: &str) {
        for above in ancestors_in(&self.missing, path) {
            self.there.insert(above);
        }
    }

    fn settle(&self, drift: &mut Vec<Change>) {
        drift.retain_mut(|change| {
            let dir = |mode| Some(Entry { path: change.path.clone(), kind: EntryKind::Dir { mode } });
            if change.have.is_none() && self.recorded_dirs.contains(&change.path) {
                change.have = dir(DIR_MODE);
            }
            if change.want.is_none() && self.there.contains(&change.path) {
                change.want = dir(DIR_MODE);
            }
            change.have != change.want
        });
    }
}

fn ancestors_in(set: &HashSet<RelPath>, path: &str) -> Vec<RelPath> {
    if set.is_empty() {
        return Vec::new();
    }
    let above = path.match_indices('/').filter_map(|(at, _)| RelPath::parse(&path[..at]).ok());
    above.filter(|above| set.contains(above)).collect()
}
