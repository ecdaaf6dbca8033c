//! Prepares a version completely beside the tree, in `.floe/stage/`; then `swap.rs` makes it current.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;

use rustix::fs::{FileType, RawMode};

use crate::content::{Chunk, Frame};
use crate::error::Result;
use crate::id::{ChunkRef, NodeId, VersionId};
use crate::progress::{Notice, Phase, Progress, check};
use crate::version::{Entry, EntryKind, Manifest, NodeSink, Plan, RelPath, Step, diff};

use super::disk::{Disk, own};
use super::fill::{Fill, Tally};
use super::replica::{Replica, switching};
use super::stat::{Fingerprint, StatTable};
use super::state::{self, State};
use super::survey::{CONTEXT, Survey};
use super::swap::{self, Attempt};
use super::target::{self, Target};

/// Brings chunks that are not here.
pub trait Fetch: Sync {
    /// Calls `each(index, frame)` once for every chunk, in any order; best in the order of `want`. One that cannot be
    /// had is an error. Called for all chunks that can be asked for together; `each` waits while enough is under way.
    fn fetch(&self, want: &[ChunkRef], each: &mut dyn FnMut(usize, Frame) -> Result<()>) -> Result<()>;
    /// Opens the frame that was brought for `want`: the trust door. Called by several threads, also while `fetch` runs.
    fn open(&self, want: &ChunkRef, frame: Frame) -> Result<Chunk>;
}

/// How a stage is filled.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// Threads that read, hash and write.
    pub threads: NonZeroUsize,
    /// Bound on the plain bytes in flight.
    pub in_flight_bytes_max: u64,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staged {
    /// Plain bytes lifted from files already here (seeds, copies, an earlier stage), or wanted again.
    pub bytes_reused: u64,
    /// Plain bytes of chunks fetched.
    pub bytes_new: u64,
    /// Bytes of content written to disk.
    pub bytes_written: u64,
}

/// A version being prepared. Dropping it keeps what was staged, so that the next run continues.
#[derive(Debug)]
pub struct Stage<'r> {
    replica: &'r mut Replica,
    version: VersionId,
}

impl<'r> Stage<'r> {
    /// Starts or continues the preparation of `version`.
    pub fn begin(replica: &'r mut Replica, version: VersionId) -> Result<Stage<'r>> {
        let disk = replica.writer()?;
        // Left by a switch of this very replica that failed: only opening it again finishes that.
        if state::journal_exists(disk)? {
            return Err(switching(disk));
        }
        Ok(Stage { replica, version })
    }

    /// The replica that this is a stage of.
    pub fn replica(&self) -> &Replica {
        self.replica
    }

    /// Takes a node of the version for the replica's log; its children were handed over before it.
    pub fn put_node(&self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.replica.nodes().put(self.replica.writer()?, id, &bytes)
    }

    /// Writes out the nodes that were put: they outlive a process that is killed, though not yet a loss of power.
    pub fn keep_nodes(&self) -> Result<()> {
        self.replica.nodes().write_out(self.replica.writer()?)
    }

    /// Builds every file and symlink of `plan` from seeds and `fetch`, verified chunk by chunk; durable when it
    /// returns. All nodes of the version must lie in the replica's log.
    pub fn fill(
        &mut self,
        plan: &Plan,
        survey: &Survey,
        fetch: &dyn Fetch,
        options: &StageOptions,
        progress: &dyn Progress,
    ) -> Result<Staged> {
        let disk = self.replica.writer()?;
        let want = Manifest::open(self.replica.nodes(), self.version)?;
        let (mut targets, links) = target::collect(plan);
        target::resume(disk, &mut targets, &links)?;
        progress.phase(Phase::Build, Some(targets.iter().map(|target| target.len).sum()));
        let fill = Fill {
            disk,
            replica: self.replica,
            survey,
            targets: &targets,
            fetch,
            options,
            progress,
            tally: Tally::default(),
        };
        let cloned = fill.clone_copies()?;
        fill.run(&want, &cloned)?;
        for link in &links {
            check(progress)?;
            let path = link.key.path();
            if disk.kind(&path)?.is_none() {
                disk.symlink(link.target, &path)?;
            }
        }
        targets.iter().try_for_each(Target::check_done)?;
        if !targets.is_empty() || !links.is_empty() {
            let files = targets.iter().map(|target| target.key.path());
            disk.sync_all(&mut files.chain([own("stage")]))?;
        }
        Ok(fill.tally.sum())
    }

    /// Journal, switch, record. After the journal is durable the switch will be finished, by this process or the next.
    /// `plan` and `survey` are those that were filled.
    pub fn commit(
        self,
        plan: &Plan,
        survey: &Survey,
        name: Option<&str>,
        protect: &[String],
        progress: &dyn Progress,
    ) -> Result<()> {
        let same = self.replica.recorded().is_some_and(|state| {
            state.version == self.version && state.name.as_deref() == name && state.protect == protect
        });
        let disk = self.replica.writer()?;
        if same && plan.steps.is_empty() {
            // A damaged node may have been fetched again.
            return self.replica.nodes().write_out(disk);
        }
        let nodes = self.replica.nodes();
        let want = Manifest::open(nodes, self.version)?;
        let unproven = unproven(self.replica, &want, survey)?;
        let placed = placed(disk, plan, survey)?;
        let mut nodes_len = nodes.sync(disk)?;
        check(progress)?;
        // As late as can be: what changes from here on is noticed one by one.
        let journal = swap::plan_switch(disk, plan, &want, &survey.seen, name, protect)?;
        if !plan.steps.is_empty() {
            swap::make_room(disk, &journal)?;
            state::write_journal(disk, &journal)?;
            swap::run(disk, &journal, Attempt::First, progress)?;
        }
        let nodes_live = self.replica.recorded().map_or(0, |state| state.nodes_live);
        let nodes_live = nodes.shrink(disk, self.version.root(), nodes_live)?;
        nodes_len = nodes_len.min(nodes.sync(disk)?);
        let state = State {
            version: self.version,
            name: name.map(str::to_owned),
            protect: protect.to_vec(),
            nodes_len,
            nodes_live,
        };
        state::write_state(disk, &state)?;
        swap::clear(disk)?;
        let saved = fingerprints(self.replica, plan, &placed, &want, survey, &unproven)
            .and_then(|table| table.save_in(disk));
        self.replica.record(state);
        // The tree is the version, whatever became of its fingerprints: without them it is read once more.
        if let Err(error) = saved {
            progress.notice(Notice::StateIgnored { what: error.to_string() });
        }
        Ok(())
    }
}

impl Replica {
    /// Whether the switch that `plan` asks for could be made: what stands in its way and is not the plan's to remove is
    /// the [`crate::Error::Conflict`] that [`Stage::commit`] would give. Nothing is changed.
    pub fn check_switch(&self, plan: &Plan, want: &Manifest<'_>, survey: &Survey) -> Result<()> {
        let Some(disk) = self.disk() else { return Ok(()) };
        swap::plan_switch(disk, plan, want, &survey.seen, None, &[]).map(drop)
    }
}

impl NodeSink for Stage<'_> {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        Stage::put_node(self, id, bytes)
    }
}

// Paths whose content on disk, as surveyed, is not what `want` says: changed by the plan, or protected from it.
fn unproven(replica: &Replica, want: &Manifest<'_>, survey: &Survey) -> Result<HashSet<RelPath>> {
    let mut unproven = HashSet::new();
    if let Some(version) = replica.version() {
        diff(&Manifest::open(replica.nodes(), version)?, want, &mut |change| {
            unproven.insert(change.path);
            Ok(())
        })?;
    }
    let mut judge = |actual: Option<&Entry>, path: &RelPath, wanted: Option<&Entry>| {
        if actual == wanted {
            unproven.remove(path);
        } else {
            unproven.insert(path.clone());
        }
    };
    if (survey.drift.len() as u64).saturating_mul(16) < want.totals().entries {
        for change in &survey.drift {
            judge(change.want.as_ref(), &change.path, want.get(&change.path)?.as_ref());
        }
    } else {
        let mut entries = want.entries().peekable();
        for change in &survey.drift {
            while entries
                .next_if(|entry| entry.as_ref().is_ok_and(|entry| entry.path < change.path))
                .is_some()
            {}
            let entry =
                entries.next_if(|entry| entry.as_ref().map_or(true, |entry| entry.path == change.path));
            judge(change.want.as_ref(), &change.path, entry.transpose()?.as_ref());
        }
    }
    Ok(unproven)
}

// For each step, the fingerprint of what will be put in its place, before it is.
fn placed(disk: &Disk, plan: &Plan, survey: &Survey) -> Result<Vec<Option<Fingerprint>>> {
    let look = |step: &Step| match step {
        Step::Build { want } | Step::Copy { want, .. } | Step::Make { want } => {
            Ok(disk.stat(&target::key_of(want).path())?.map(|stat| Fingerprint::of(&stat)))
        }
        Step::Move { from: path, .. } | Step::SetMode { want: Entry { path, .. } } => {
            Ok(survey.seen.get(path).copied())
        }
        Step::Delete { .. } => Ok(None),
    };
    plan.steps.iter().map(look).collect()
}

// The fingerprints of the new tree. What the plan touched is looked at again, because a rename changes ctime; it counts
// only if it is still what was put there. What the plan did not touch keeps its row; but a row that the survey's own
// start does not prove is dropped, because the table's start is later than that and would seem to.
fn fingerprints(
    replica: &Replica,
    plan: &Plan,
    placed: &[Option<Fingerprint>],
    want: &Manifest<'_>,
    survey: &Survey,
    unproven: &HashSet<RelPath>,
) -> Result<StatTable> {
    let disk = replica.writer()?;
    let table =
        |started_unix_ns| StatTable { version: want.id(), context: CONTEXT, started_unix_ns, rows: vec![] };
    let surveyed = table(survey.seen.started_unix_ns);
    // After the clock has moved on from the switch, so that they prove something at once. Without a clock nothing is
    // proven, which costs time and nothing else.
    let mut new = table(replica.lock()?.next_tick().map_or(0, StatTable::started_at));
    let touched: HashMap<&RelPath, Option<Fingerprint>> =
        plan.steps.iter().map(Step::path).zip(placed.iter().copied()).collect();
    let mut seen = survey.seen.rows.iter().peekable();
    for entry in want.entries() {
        let entry = entry?;
        while seen.next_if(|(row, _)| *row < entry.path).is_some() {}
        let kept = seen.peek().filter(|(row, _)| *row == entry.path).map(|(_, stat)| *stat);
        let stat = match touched.get(&entry.path) {
            Some(placed) => {
                let stat = disk.stat(entry.path.as_str())?.map(|stat| Fingerprint::of(&stat));
                stat.filter(|stat| still(stat, placed.as_ref(), &entry.kind))
            }
            None => kept.filter(|stat| surveyed.proves(stat) && !unproven.contains(&entry.path)),
        };
        new.rows.extend(stat.map(|stat| (entry.path, stat)));
    }
    Ok(new)
}

// True if what is there now is what was put there.
fn still(now: &Fingerprint, placed: Option<&Fingerprint>, kind: &EntryKind) -> bool {
    let same = |mode: Option<u16>| {
        placed.is_some_and(|placed| {
            (placed.len, placed.mtime_ns, placed.inode) == (now.len, now.mtime_ns, now.inode)
                && mode.is_none_or(|mode| mode == now.permissions())
        })
    };
    match kind {
        EntryKind::File { mode, .. } => same(Some(*mode)),
        EntryKind::Symlink { .. } => same(None),
        EntryKind::Dir { mode } => {
            FileType::from_raw_mode(now.mode as RawMode) == FileType::Directory && *mode == now.permissions()
        }
    }
}
