//! How the tree on disk differs from what its state records. A recorded file whose fingerprint proves that nobody
//! touched it is not read; every other recorded file is cut and hashed. A file that nobody recorded is read only when
//! somebody asks what is in it.
//!
//! The table of fingerprints holds rows of recorded entries only, and only of those that were found as recorded. So
//! with as many rows as the version has entries, all of them proven, nothing recorded is missing or changed.
//!
//! What the state records includes the directories above its entries: where something else stands in the place of
//! such a directory, the drift says that a directory (0o755) was recorded there.

use std::io::ErrorKind;
use std::iter::Peekable;
use std::num::NonZeroUsize;
use std::path::Path;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::id::{NodeId, VersionId};
use crate::progress::{Notice, Phase, Progress};
use crate::version::{Change, Entry, Manifest, NodeSource, RelPath};

use super::disk::own;
use super::implied::Implied;
use super::judge::{Look, Nodes, Outcome, Reading, Task};
use super::nodelog::NodeLog;
use super::replica::Replica;
use super::scan::{Found, ScanOptions, SourceTree};
use super::stat::{Fingerprint, StatTable};

/// The context of a replica's table: nothing beside the version decides about it.
pub(super) const CONTEXT: [u8; 32] = [0; 32];

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
    /// In path order: `have` is what the state says, `want` what is on disk. Files nobody recorded are here too. A file
    /// whose content is not known, because it was not read or could not be, has a length and no chunks; so it equals
    /// no entry of a version.
    pub drift: Vec<Change>,
    /// Files whose content had to be read.
    pub files_read: u64,
    /// Paths that no version can hold, and directories nobody recorded that cannot be listed. They are left alone.
    pub unpublishable: u64,
    // Files in `drift` that nobody recorded and nobody read.
    unread: Vec<Found>,
    pub(super) nodes: Nodes,
    pub(super) seen: Arc<Seen>,
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

    /// The files that nobody recorded and that were not read, in path order.
    pub fn unread(&self) -> impl ExactSizeIterator<Item = &RelPath> {
        self.unread.iter().map(|found| &found.path)
    }

    /// Reads those of the unread files for which `wanted` is true, so that the drift tells what is in them. One that
    /// keeps changing is [`Error::Changed`]; one that may not be read stays as it is.
    pub fn read(
        &mut self,
        replica: &Replica,
        wanted: &dyn Fn(&RelPath) -> bool,
        threads: NonZeroUsize,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (asked, unread) =
            std::mem::take(&mut self.unread).into_iter().partition(|found| wanted(&found.path));
        self.unread = unread;
        let asked: Vec<Found> = asked;
        if asked.is_empty() {
            return Ok(());
        }
        progress.phase(Phase::Verify, None);
        let tree = SourceTree::open(replica.dir())?;
        let reading = Reading { replica, tree: &tree, threads, progress, buffers: Mutex::default() };
        let mut tasks = asked.iter().map(|found| Ok(Task::unrecorded(found, Look::Must)));
        let outcome = reading.run(&mut tasks)?;
        let mut read = outcome.drift.into_iter().peekable();
        for change in &mut self.drift {
            if let Some(read) = read.next_if(|read| read.path == change.path) {
                change.want = read.want;
            }
        }
        self.drift.retain(|change| change.have != change.want);
        self.files_read += outcome.files_read;
        self.nodes.0.extend(outcome.nodes.0);
        Ok(())
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
    /// The same as [`Replica::survey`], but damage in the recorded version's nodes is an error that blames the log.
    pub fn try_survey(&self, options: &SurveyOptions, progress: &dyn Progress) -> Result<Survey> {
        self.survey_as(options, false, progress)
    }

    /// Compares disk with state. Files with a proven fingerprint are not read. When the recorded version turns out to
    /// be unreadable it is forgotten (a notice says so) and everything on disk is drift; in a replica opened only to
    /// look that is an error. `rehash` always reads it.
    pub fn survey(&self, options: &SurveyOptions, progress: &dyn Progress) -> Result<Survey> {
        self.survey_as(options, self.writer().is_ok(), progress)
    }

    fn survey_as(&self, options: &SurveyOptions, forget: bool, progress: &dyn Progress) -> Result<Survey> {
        if self.disk().is_none() {
            return Ok(Survey {
                drift: Vec::new(),
                files_read: 0,
                unpublishable: 0,
                unread: Vec::new(),
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
            reading: Reading {
                replica: self,
                tree: &tree,
                threads: options.threads,
                progress,
                buffers: Mutex::default(),
            },
            found: &scan.found,
            closed: &scan.closed,
            table: table.as_ref(),
            implied: Implied::default(),
            outcome: Outcome::default(),
        };
        if !compare.all_proven() {
            progress.phase(Phase::Verify, None);
            compare.run(forget)?;
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
            unpublishable: scan.unpublishable.len() as u64,
            unread: outcome.unread,
            nodes: outcome.nodes,
            seen: Arc::new(seen),
        };
        self.remember(&survey, &implied, table.as_ref(), progress);
        Ok(survey)
    }

    // The fingerprints of the recorded version.
    fn table(&self, progress: &dyn Progress) -> Result<Option<StatTable>> {
        let Some(version) = self.version() else { return Ok(None) };
        match StatTable::load(&self.dir().join(own("stats"))) {
            Ok(table) => Ok(table.filter(|table| table.version == version && table.context == CONTEXT)),
            Err(
                error @ (Error::Malformed { .. }
                | Error::Limit { .. }
                | Error::UnsafePath { .. }
                | Error::TooNew { .. }),
            ) => {
                progress.notice(Notice::StateIgnored { what: error.to_string() });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    // Keeps the fingerprints of what was found to be as recorded, if more is known than `table` says. Losing them costs
    // only time.
    fn remember(
        &self,
        survey: &Survey,
        implied: &Implied,
        table: Option<&StatTable>,
        progress: &dyn Progress,
    ) {
        let (Some(version), Ok(disk)) = (self.version(), self.writer()) else { return };
        let mut drift = survey.drift.iter().map(|change| &change.path).peekable();
        let mut clean = |path: &RelPath| {
            while drift.next_if(|drifted| *drifted < path).is_some() {}
            drift.peek() != Some(&path) && !implied.is_unrecorded(path)
        };
        let rows: Vec<_> = survey.seen.rows.iter().filter(|(path, _)| clean(path)).cloned().collect();
        if survey.files_read == 0 && table.is_some_and(|table| table.rows.len() == rows.len()) {
            return;
        }
        let started_unix_ns = survey.seen.started_unix_ns;
        let table = StatTable { version, context: CONTEXT, started_unix_ns, rows };
        if let Err(error) = table.save_in(disk) {
            progress.notice(Notice::StateIgnored { what: error.to_string() });
        }
    }
}

struct Compare<'a> {
    reading: Reading<'a>,
    found: &'a [Found],
    closed: &'a [RelPath],
    table: Option<&'a StatTable>,
    implied: Implied,
    outcome: Outcome,
}

impl Compare<'_> {
    // The way of a replica that nobody touched: of its nodes only the root is read, for the number of entries. The rows
    // are then its entries, and whatever else was found is nobody's.
    fn all_proven(&mut self) -> bool {
        let (Some(table), replica) = (self.table, self.reading.replica) else { return false };
        let recorded =
            Manifest::open(replica.nodes(), table.version).map(|manifest| manifest.totals().entries);
        if recorded.ok() != Some(table.rows.len() as u64) {
            return false;
        }
        let mut implied = Implied::of_recorded();
        let mut outcome = Outcome::default();
        let mut rows = table.rows.iter().peekable();
        for found in self.found {
            match rows.next_if(|(path, _)| *path <= found.path) {
                Some((path, stat)) if *path == found.path && *stat == found.stat && table.proves(stat) => {
                    implied.both(path);
                }
                Some(_) => return false,
                None => {
                    implied.only_found(&found.path);
                    outcome.leave(found);
                }
            }
        }
        if rows.next().is_some() {
            return false;
        }
        (self.implied, self.outcome) = (implied, outcome);
        true
    }

    fn run(&mut self, forget: bool) -> Result<()> {
        let unreadable = AtomicBool::new(false);
        let Reading { replica, progress, .. } = self.reading;
        match self.against(replica.version(), &unreadable) {
            Err(error) if unreadable.load(Ordering::Acquire) && forget => {
                replica.forget(progress, &error)?;
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
            .map(|version| Manifest::open(self.reading.replica.nodes(), version).inspect_err(mark))
            .transpose()?;
        let recorded =
            manifest.iter().flat_map(|manifest| manifest.entries()).map(|entry| entry.inspect_err(mark));
        let mut implied = if manifest.is_some() { Implied::of_recorded() } else { Implied::default() };
        let mut merge = Merge {
            found: self.found.iter().peekable(),
            recorded: recorded.peekable(),
            rows: self.table.map_or(&[][..], |table| &table.rows).iter().peekable(),
            table: self.table,
            closed: self.closed,
            dir: self.reading.replica.dir(),
            // With nothing recorded, whatever lies here may be what is wanted, or hold parts of it.
            unrecorded: if manifest.is_some() { Look::Later } else { Look::May },
            implied: &mut implied,
        };
        let mut tasks = std::iter::from_fn(|| merge.next_task().transpose());
        self.outcome = self.reading.run(&mut tasks)?;
        self.implied = implied;
        Ok(())
    }
}

// Joins what was found, what is recorded and the fingerprints, all in path order.
struct Merge<'a, 'i, I: Iterator<Item = Result<Entry>>> {
    found: Peekable<slice::Iter<'a, Found>>,
    recorded: Peekable<I>,
    rows: Peekable<slice::Iter<'a, (RelPath, Fingerprint)>>,
    table: Option<&'a StatTable>,
    closed: &'a [RelPath],
    dir: &'a Path,
    unrecorded: Look,
    implied: &'i mut Implied,
}

impl<'a, I: Iterator<Item = Result<Entry>>> Merge<'a, '_, I> {
    fn next_task(&mut self) -> Result<Option<Task<'a>>> {
        let order = match (self.found.peek(), self.recorded.peek()) {
            (None, None) => return Ok(None),
            (Some(_), None) => std::cmp::Ordering::Less,
            (Some(found), Some(Ok(have))) => found.path.cmp(&have.path),
            (None, Some(_)) | (Some(_), Some(Err(_))) => std::cmp::Ordering::Greater,
        };
        let found = if order.is_le() { self.found.next() } else { None };
        let have = if order.is_ge() { self.recorded.next() } else { None }.transpose()?;
        let look = match (found, &have) {
            (Some(found), Some(_)) => {
                self.implied.both(&found.path);
                if self.proven(found) { Look::Proven } else { Look::Must }
            }
            (Some(found), None) => {
                self.implied.only_found(&found.path);
                self.unrecorded
            }
            (None, Some(have)) => {
                self.check_open(&have.path)?;
                self.implied.only_recorded(have);
                Look::Must
            }
            (None, None) => Look::Must,
        };
        Ok(Some(Task { found, have, look }))
    }

    // What is recorded in a directory that cannot be listed is neither there nor gone.
    fn check_open(&self, path: &RelPath) -> Result<()> {
        let covers = |closed: &&RelPath| {
            path.as_str()
                .strip_prefix(closed.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match self.closed.iter().find(covers) {
            Some(closed) => {
                Err(Error::io("list", self.dir.join(closed.as_str()), ErrorKind::PermissionDenied.into()))
            }
            None => Ok(()),
        }
    }

    fn proven(&mut self, found: &Found) -> bool {
        let Some(table) = self.table else { return false };
        while self.rows.next_if(|(path, _)| *path < found.path).is_some() {}
        self.rows
            .peek()
            .is_some_and(|(path, row)| *path == found.path && *row == found.stat && table.proves(row))
    }
}
