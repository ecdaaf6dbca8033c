//! Makes a stage current. First the whole switch is worked out and checked against the disk, then it is written to
//! the journal, then it is done. Doing any part of it again changes nothing, so that after a crash the journal is
//! simply done from the start.
//!
//! Order: directories on the way become writable; files that move go into the stage (afterwards a mark says so);
//! old files go; directories that became empty go; directories are made; staged files take their places; modes are
//! set, those of directories last and deepest first.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rustix::fs::Stat;

use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::version::{DIR_MODE, Entry, EntryKind, Manifest, Plan, RelPath, STATE_DIR, Step};

use super::arrivals;
use super::disk::{Disk, is_absent, own};
use super::known::{Known, Placed};
use super::spot::{Kind, Spot, kind_of, mode_of};
use super::stat::Fingerprint;
use super::state::{Journal, Op};
use super::survey::Seen;
use super::target::key_of;

// The owner must be able to change what is in a directory, and to go through it.
const MODE_WORKABLE: u16 = 0o300;
// There once every file that moves is in the stage.
const MARK: &str = "stage/moved";

/// Works out the switch that `plan` asks for. Nothing on disk is changed; what stands in the way and is not the plan's
/// to remove is a [`Error::Conflict`].
pub(super) fn plan_switch(
    disk: &Disk,
    plan: &Plan,
    want: &Manifest<'_>,
    seen: &Seen,
    name: Option<&str>,
    protect: &[String],
) -> Result<Journal> {
    let mut switch = Switch {
        disk,
        seen,
        leaving: HashSet::new(),
        moving: HashSet::new(),
        crossed: BTreeSet::new(),
        needed: BTreeSet::new(),
        emptied: BTreeSet::new(),
        dir_modes: BTreeMap::new(),
        stash: Vec::new(),
        unlink: Vec::new(),
        place: Vec::new(),
        modes: Vec::new(),
    };
    for step in &plan.steps {
        switch.leave(step);
    }
    for step in &plan.steps {
        switch.arrive(step, want)?;
    }
    switch.into_journal(want, name, protect)
}

struct Switch<'a> {
    disk: &'a Disk,
    seen: &'a Seen,
    // Paths where a file or link, or a directory entry, is not to stay.
    leaving: HashSet<RelPath>,
    // Of these, the files that go into the stage.
    moving: HashSet<RelPath>,
    // Directories that files are moved out of or into.
    crossed: BTreeSet<RelPath>,
    // Directories that must be there at the end.
    needed: BTreeSet<RelPath>,
    // Directories to remove if nothing is left in them.
    emptied: BTreeSet<RelPath>,
    // Modes that directories have at the end, if they are there then.
    dir_modes: BTreeMap<RelPath, u16>,
    stash: Vec<Op>,
    unlink: Vec<Op>,
    place: Vec<Op>,
    modes: Vec<Op>,
}

impl Switch<'_> {
    // What goes away.
    fn leave(&mut self, step: &Step) {
        let path = match step {
            Step::Delete { have } => &have.path,
            Step::Move { from, .. } => {
                self.moving.insert(from.clone());
                self.crossed.extend(ancestors(from));
                from
            }
            Step::Make { want: Entry { path, kind: EntryKind::Dir { .. } } } => {
                self.leaving.insert(path.clone());
                return;
            }
            _ => return,
        };
        if let Step::Delete { have: Entry { kind: EntryKind::Dir { .. }, .. } } = step {
            self.emptied.insert(path.clone());
            self.dir_modes.insert(path.clone(), DIR_MODE);
        }
        self.leaving.insert(path.clone());
        self.emptied.extend(ancestors(path));
    }

    // What comes, and how what goes away does so.
    fn arrive(&mut self, step: &Step, want: &Manifest<'_>) -> Result<()> {
        match step {
            Step::Delete { have: Entry { kind: EntryKind::Dir { .. }, .. } } => {}
            Step::Delete { have } => match self.disk.spot(have.path.as_str())? {
                None => {}
                Some(spot) if spot.kind() == Kind::Dir => {}
                Some(spot) => {
                    let known = self.check_known(&have.path, &spot)?;
                    self.unlink.push(Op::Unlink { path: have.path.clone(), known });
                }
            },
            Step::SetMode { want: entry } => match entry.kind {
                EntryKind::File { mode, .. } => {
                    self.check_seen(&entry.path, self.disk.stat(entry.path.as_str())?.as_ref())?;
                    self.needed.extend(ancestors(&entry.path));
                    self.modes.push(Op::FileMode { path: entry.path.clone(), mode });
                }
                EntryKind::Dir { mode } => self.make_dir(&entry.path, mode, want)?,
                EntryKind::Symlink { .. } => {}
            },
            Step::Make { want: entry } => match entry.kind {
                EntryKind::Dir { mode } => self.make_dir(&entry.path, mode, want)?,
                _ => self.put(entry)?,
            },
            Step::Build { want: entry } | Step::Copy { want: entry, .. } => self.put(entry)?,
            Step::Move { from, want: entry } => {
                // The content was proven by the survey; it must still be that file.
                let Some(spot) = self.disk.spot(from.as_str())? else {
                    return Err(Error::Changed { path: self.disk.full(from.as_str()) });
                };
                let known = self.check_known(from, &spot)?;
                self.stash.push(Op::Stash { from: from.clone(), key: key_of(entry), known });
                self.put(entry)?;
                if let EntryKind::File { mode, .. } = entry.kind {
                    self.modes.push(Op::FileMode { path: entry.path.clone(), mode });
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, entry: &Entry) -> Result<()> {
        let path = &entry.path;
        let mut over = None;
        match self.disk.spot(path.as_str())? {
            None => {}
            Some(spot) if spot.kind() == Kind::Dir => {
                self.check_mount(path, &spot)?;
                self.check_leaving(path.as_str())?;
                self.emptied.insert(path.clone());
                self.emptied.extend(ancestors(path));
            }
            Some(_) if self.moving.contains(path) => {}
            Some(spot) => over = Some(self.check_known(path, &spot)?),
        }
        self.needed.extend(ancestors(path));
        self.crossed.extend(ancestors(path));
        self.place.push(Op::Place { key: key_of(entry), path: path.clone(), over });
        Ok(())
    }

    fn make_dir(&mut self, path: &RelPath, mode: u16, want: &Manifest<'_>) -> Result<()> {
        match self.disk.spot(path.as_str())? {
            None => {}
            Some(spot) if spot.kind() == Kind::Dir || self.moving.contains(path) => {}
            Some(spot) => {
                let known = self.check_known(path, &spot)?;
                self.unlink.push(Op::Unlink { path: path.clone(), known });
            }
        }
        self.dir_modes.insert(path.clone(), mode);
        // A directory that is only implied is there if something below it is.
        let set = if want.get(path)?.is_some() { &mut self.needed } else { &mut self.emptied };
        set.insert(path.clone());
        set.extend(ancestors(path));
        Ok(())
    }

    // What is moved, removed or replaced must be what was there when the plan was made, and in reach.
    fn check_known(&self, path: &RelPath, spot: &Spot) -> Result<Known> {
        if spot.kind() == Kind::Other {
            return Err(self.conflict(path.as_str(), "neither file, link nor directory"));
        }
        if self.seen.get(path).is_none() {
            let reason = "it appeared while this ran, and the version has something else there";
            return Err(self.conflict(path.as_str(), reason));
        }
        self.check_seen(path, Some(&spot.stat))?;
        self.check_mount(path, spot)?;
        Ok(Known::of(&spot.stat))
    }

    fn check_seen(&self, path: &RelPath, stat: Option<&Stat>) -> Result<()> {
        let now = stat.map(Fingerprint::of);
        if now.is_some() && now.as_ref() == self.seen.get(path) {
            return Ok(());
        }
        Err(Error::Changed { path: self.disk.full(path.as_str()) })
    }

    fn check_mount(&self, path: &RelPath, spot: &Spot) -> Result<()> {
        if spot.within {
            return Ok(());
        }
        Err(self.conflict(
            path.as_str(),
            "another file system is mounted there, and the version changes it: unmount it and run again",
        ))
    }

    // A directory in whose place something else is wanted: all that is in it must be leaving.
    fn check_leaving(&mut self, dir: &str) -> Result<()> {
        let children = self.disk.list(dir)?;
        for (name, kind) in children {
            let path =
                name.to_str().and_then(|name| RelPath::parse(&format!("{dir}/{name}")).ok()).ok_or_else(
                    || self.conflict(dir, "it holds files of yours, and the version wants its place"),
                )?;
            if kind == Kind::Dir {
                if !self.leaving.contains(&path) && self.disk.list(path.as_str())?.is_empty() {
                    return Err(
                        self.conflict(path.as_str(), "it is yours, and the version wants the place above it")
                    );
                }
                self.check_leaving(path.as_str())?;
                self.emptied.insert(path);
            } else if !self.leaving.contains(&path) {
                return Err(
                    self.conflict(path.as_str(), "it is yours, and the version wants the place above it")
                );
            }
        }
        Ok(())
    }

    fn conflict(&self, path: &str, reason: &str) -> Error {
        Error::Conflict {
            what: format!("`{}`", path.escape_debug()),
            place: format!("replica `{}`", self.disk.path().display()),
            reason: reason.to_owned(),
        }
    }

    fn into_journal(
        mut self,
        want: &Manifest<'_>,
        name: Option<&str>,
        protect: &[String],
    ) -> Result<Journal> {
        for path in &self.crossed {
            if let Some(spot) = self.disk.spot(path.as_str())? {
                self.check_mount(path, &spot)?;
            }
        }
        let mkdirs = self.missing_dirs()?;
        let mut rmdirs = Vec::new();
        // Deepest first: in reverse path order a directory comes after what lies in it.
        for path in self.emptied.iter().rev().filter(|path| !self.needed.contains(*path)) {
            let recorded = want.get(path)?;
            if !matches!(recorded, Some(Entry { kind: EntryKind::Dir { .. }, .. })) {
                rmdirs.push(Op::Rmdir { path: path.clone() });
            }
        }
        let loosen = self.loosen()?;
        let mut modes = self.modes;
        modes.extend(self.dir_modes.into_iter().rev().map(|(path, mode)| Op::DirMode { path, mode }));
        let parts = [self.unlink, rmdirs, mkdirs, self.place, modes];
        Ok(Journal {
            version: want.id(),
            name: name.map(str::to_owned),
            protect: protect.to_vec(),
            loosen,
            stash: self.stash,
            place: parts.into_iter().flatten().collect(),
        })
    }

    // Directories that must be made, above first; what stands in their place must be leaving.
    fn missing_dirs(&mut self) -> Result<Vec<Op>> {
        let mut mkdirs = Vec::new();
        for path in &self.needed {
            let there = self.disk.kind(path.as_str())?;
            if there == Some(Kind::Dir) {
                continue;
            }
            if there.is_some() && !self.leaving.contains(path) {
                return Err(
                    self.conflict(path.as_str(), "it is yours, and the version has a directory there")
                );
            }
            // The mode is set at the end: a umask may have narrowed it.
            self.dir_modes.entry(path.clone()).or_insert(DIR_MODE);
            mkdirs.push(Op::Mkdir { path: path.clone() });
        }
        Ok(mkdirs)
    }

    // Directories of today in which something changes and that do not let us: above first.
    fn loosen(&mut self) -> Result<Vec<Op>> {
        let mut ops = Vec::new();
        for path in self.needed.union(&self.emptied) {
            let Some(stat) = self.disk.stat(path.as_str())? else { continue };
            let mode = mode_of(&stat);
            if kind_of(&stat) == Kind::Dir && mode & MODE_WORKABLE != MODE_WORKABLE {
                ops.push(Op::Loosen { path: path.clone(), mode: mode | 0o700 });
                self.dir_modes.entry(path.clone()).or_insert(mode);
            }
        }
        Ok(ops)
    }
}

/// Removes from the stage what a new switch could take for its own: marks and files that an earlier run left where
/// this one will put moved files. Before the journal is written.
pub(super) fn make_room(disk: &Disk, journal: &Journal) -> Result<()> {
    let keys = journal.stash.iter().filter_map(|op| match op {
        Op::Stash { key, .. } => Some(key.path()),
        _ => None,
    });
    let mut removed = false;
    for path in keys.chain([own(MARK)]) {
        if disk.kind(&path)?.is_some() {
            disk.unlink(&path)?;
            removed = true;
        }
    }
    if removed { disk.sync_dir(&own("stage")) } else { Ok(()) }
}

/// Whether a switch just begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Everything must be as it was planned.
    First,
    /// Any part of it may have been done.
    Again,
}

/// True if every file that moves is in the stage.
pub(super) fn all_moved(disk: &Disk) -> Result<bool> {
    Ok(disk.kind(&own(MARK))?.is_some())
}

/// Does the switch, from wherever an earlier attempt ended. What somebody put in the way since it was planned is kept:
/// then it is a [`Error::Conflict`] that names it, until it is moved away.
pub(super) fn run(disk: &Disk, journal: &Journal, attempt: Attempt, progress: &dyn Progress) -> Result<()> {
    let ops = [&journal.loosen, &journal.stash, &journal.place];
    progress.phase(Phase::Swap, Some(ops.iter().map(|ops| ops.len() as u64).sum()));
    for op in &journal.loosen {
        run_op(disk, op, attempt)?;
        progress.advance(1);
    }
    // Once files begin to take their places, a path that was emptied may be filled again: from then on, what is there
    // must not be taken for what was to move.
    if !journal.stash.is_empty() && !all_moved(disk)? {
        for op in &journal.stash {
            run_op(disk, op, attempt)?;
            progress.advance(1);
        }
        disk.sync_all(&mut touched(&journal.stash))?;
        disk.open_write(&own(MARK), false)?;
        disk.sync_dir(&own("stage"))?;
    }
    for op in &journal.place {
        run_op(disk, op, attempt)?;
        progress.advance(1);
    }
    disk.sync_all(&mut touched(&journal.place))
}

/// After the state was recorded: the journal goes, durably, and only then what it would need to be done again.
pub(super) fn clear(disk: &Disk) -> Result<()> {
    disk.unlink(&own("journal"))?;
    disk.sync_dir(STATE_DIR)?;
    arrivals::clear(disk)?;
    for (name, kind) in disk.list(&own("stage"))? {
        match (name.to_str(), kind) {
            (Some(name), Kind::Dir) => disk.rmdir(&own(&format!("stage/{name}")))?,
            (Some(name), _) => disk.unlink(&own(&format!("stage/{name}")))?,
            (None, _) => {}
        }
    }
    Ok(())
}

fn run_op(disk: &Disk, op: &Op, attempt: Attempt) -> Result<()> {
    match op {
        Op::Loosen { path, mode } | Op::DirMode { path, mode } => disk.chmod(path.as_str(), Kind::Dir, *mode),
        Op::FileMode { path, mode } => disk.chmod(path.as_str(), Kind::File, *mode),
        Op::Stash { from, key, known } => {
            let staged = key.path();
            let there = disk.kind(&staged)?.is_some();
            // What is not the known file any more stays where it is, and is not floe's.
            if there || disk.stash(from.as_str(), &staged, known)? || attempt == Attempt::Again {
                return Ok(());
            }
            Err(Error::Changed { path: disk.full(from.as_str()) })
        }
        Op::Unlink { path, known } => disk.unlink_known(path.as_str(), known),
        Op::Rmdir { path } => disk.rmdir(path.as_str()),
        Op::Mkdir { path } => make_dir(disk, path),
        Op::Place { key, path, over } => place(disk, &key.path(), path, over.as_ref(), attempt),
    }
}

fn place(disk: &Disk, staged: &str, path: &RelPath, over: Option<&Known>, attempt: Attempt) -> Result<()> {
    let mut placed = disk.place(staged, path.as_str(), over)?;
    if matches!(placed, Placed::NoDir) {
        if let Some(above) = path.parent() {
            make_dir(disk, &above)?;
        }
        placed = disk.place(staged, path.as_str(), over)?;
    }
    match placed {
        Placed::Done => Ok(()),
        Placed::NotStaged if attempt == Attempt::Again => Ok(()),
        Placed::NotStaged => Err(Error::NotFound {
            what: format!("staged file for `{}`", path.as_str().escape_debug()),
            place: format!("`{}`", disk.full(&own("stage")).display()),
        }),
        Placed::NoDir => Err(Error::Changed { path: disk.full(path.as_str()) }),
        Placed::Blocked(kind) => Err(blocked(disk, path, kind, 0)),
    }
}

// Also what should be above it and was taken away.
fn make_dir(disk: &Disk, path: &RelPath) -> Result<()> {
    let made = disk.mkdir(path.as_str());
    let Err(Error::Io { source, .. }) = &made else { return made };
    match path.parent() {
        _ if source.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(blocked(disk, path, disk.kind(path.as_str())?.unwrap_or(Kind::Other), 0))
        }
        Some(above) if is_absent(source) => {
            make_dir(disk, &above)?;
            disk.mkdir(path.as_str())
        }
        _ => made,
    }
}

/// Somebody's own in the place of what the switch brings; in so many `more` places too.
pub(super) fn blocked(disk: &Disk, path: &RelPath, kind: Kind, more: usize) -> Error {
    let what = match kind {
        Kind::File => "a file that floe did not put there".to_owned(),
        Kind::Symlink => "a symlink that floe did not put there".to_owned(),
        Kind::Other => "something that is neither file, link nor directory".to_owned(),
        Kind::Dir => match disk.list(path.as_str()).ok().and_then(|names| names.into_iter().next()) {
            Some((name, _)) => format!("a directory that holds `{}`", name.to_string_lossy().escape_debug()),
            None => "a directory".to_owned(),
        },
    };
    let reason = format!("{what} is in the way of a switch that has begun: move it away and run again");
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Error::Conflict {
        what: format!("`{}`{more}", path.as_str().escape_debug()),
        place: format!("replica `{}`", disk.path().display()),
        reason,
    }
}

// Files and directories whose names or modes the steps changed.
fn touched(ops: &[Op]) -> impl Iterator<Item = String> {
    let paths: BTreeSet<String> = ops
        .iter()
        .flat_map(|op| match op {
            Op::Loosen { path, .. } | Op::DirMode { path, .. } | Op::FileMode { path, .. } => {
                [Some(path.as_str().to_owned()), None]
            }
            Op::Stash { from: path, .. } | Op::Place { path, .. } => [parent_of(path), Some(own("stage"))],
            Op::Unlink { path, .. } | Op::Rmdir { path } | Op::Mkdir { path } => [parent_of(path), None],
        })
        .flatten()
        .collect();
    paths.into_iter()
}

fn parent_of(path: &RelPath) -> Option<String> {
    path.as_str().rsplit_once('/').map(|(parent, _)| parent.to_owned())
}

fn ancestors(path: &RelPath) -> impl Iterator<Item = RelPath> {
    std::iter::successors(path.parent(), RelPath::parent)
}
