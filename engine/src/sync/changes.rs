//! What has to change, what is foreign, what is protected: the rules about whose a file is.

use std::collections::HashSet;

use ignore::gitignore::Gitignore;

use crate::error::{Error, Result};
use crate::id::VersionId;
use crate::progress::Progress;
use crate::tree::{Replica, Survey, compile_globs};
use crate::version::{Change, Entry, EntryKind, Manifest, NodeSource, RelPath, diff};

use super::SyncOptions;

/// What has to change, in path order, and what is left alone.
pub(super) struct Wanted {
    pub changes: Vec<Change>,
    /// Files kept though no version wrote them.
    pub foreign: u64,
    /// Paths of the version left as they are.
    pub protected: u64,
    // Files that no version wrote, where the wanted version has something else.
    collisions: Vec<RelPath>,
}

impl Wanted {
    /// Reads those of the files that nobody recorded and nobody read which `want` has something for: whether that is
    /// there already is to be known before anything is planned. With nothing recorded all were read, but for those that
    /// did not stand still.
    pub fn read_claimed(
        replica: &Replica,
        want_nodes: &dyn NodeSource,
        want: VersionId,
        survey: &mut Survey,
        options: &SyncOptions,
        progress: &dyn Progress,
    ) -> Result<()> {
        if survey.unread().len() == 0 || replica.version() == Some(want) {
            return Ok(());
        }
        let want = Manifest::open(want_nodes, want)?;
        let mut claimed = HashSet::new();
        if let Some(from) = replica.version() {
            let mut unread = survey.unread().peekable();
            diff(&Manifest::open(replica.nodes(), from)?, &want, &mut |change| {
                while unread.next_if(|path| **path < change.path).is_some() {}
                claimed.extend(unread.next_if(|path| **path == change.path).cloned());
                Ok(())
            })?;
        } else {
            for path in survey.unread() {
                claimed.extend(want.get(path)?.map(|entry| entry.path));
            }
        }
        survey.read(replica, &|path| claimed.contains(path), options.threads, progress)
    }

    /// Joins two lists in path order: how the versions differ, and how the disk differs from the recorded version.
    pub fn find(
        have_nodes: &dyn NodeSource,
        want_nodes: &dyn NodeSource,
        from: Option<VersionId>,
        want: VersionId,
        survey: &Survey,
        options: &SyncOptions,
        protect: &Protect,
    ) -> Result<Wanted> {
        let mut wanted = Wanted { changes: Vec::new(), foreign: 0, protected: 0, collisions: Vec::new() };
        let mut drift = survey.drift.iter().peekable();
        let want = Manifest::open(want_nodes, want)?;
        let mut judge = |recorded: Option<Entry>, actual: Option<Entry>, entry: Option<Entry>| {
            let recorded =
                recorded.filter(|recorded| actual.as_ref() == Some(recorded) || !protect.spared(recorded));
            wanted.judge(recorded, actual, entry, options, protect);
        };
        let mut merge = |change: Change| {
            while let Some(only) = drift.next_if(|drift| drift.path < change.path) {
                judge(only.have.clone(), only.want.clone(), unchanged(only, &want)?);
            }
            match drift.next_if(|drift| drift.path == change.path) {
                Some(both) => judge(change.have, both.want.clone(), change.want),
                None => judge(change.have.clone(), change.have, change.want),
            }
            Ok(())
        };
        match from {
            Some(from) => diff(&Manifest::open(have_nodes, from)?, &want, &mut merge)?,
            None => {
                for entry in want.entries() {
                    let entry = entry?;
                    merge(Change { path: entry.path.clone(), have: None, want: Some(entry) })?;
                }
            }
        }
        for only in drift {
            judge(only.have.clone(), only.want.clone(), unchanged(only, &want)?);
        }
        Ok(wanted)
    }

    /// An error that names the first file that would be lost: one that no version wrote, with other content than the
    /// version has there.
    pub fn refuse_collisions(&self, replica: &Replica) -> Result<()> {
        let Some(first) = self.collisions.first() else { return Ok(()) };
        let more = match self.collisions.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let reason = match replica.version() {
            Some(_) => "no version wrote it, and the wanted version has something else there",
            None => "the wanted version has something else there, and no version is recorded that wrote it",
        };
        Err(Error::Conflict {
            what: format!("file `{}`{more}", first.as_str().escape_debug()),
            place: format!("replica `{}`", replica.dir().display()),
            reason: reason.into(),
        })
    }

    fn judge(
        &mut self,
        recorded: Option<Entry>,
        actual: Option<Entry>,
        want: Option<Entry>,
        options: &SyncOptions,
        protect: &Protect,
    ) {
        if actual == want {
            return;
        }
        let Some(path) = want.as_ref().or(actual.as_ref()).map(|entry| entry.path.clone()) else { return };
        // What floe did not write, or somebody changed since, is not floe's to remove.
        let foreign = want.is_none() && actual != recorded;
        if protect.covers(&path, want.as_ref().or(actual.as_ref())) {
            self.protected += u64::from(want.is_some());
            self.foreign += u64::from(foreign);
        } else if foreign && !options.delete {
            self.foreign += 1;
        } else {
            let theirs = recorded.is_none() && loses_content(actual.as_ref(), want.as_ref());
            if theirs && !options.overwrite && !options.delete {
                self.collisions.push(path.clone());
            }
            self.changes.push(Change { path, have: actual, want });
        }
    }
}

fn loses_content(actual: Option<&Entry>, want: Option<&Entry>) -> bool {
    match (actual.map(|entry| &entry.kind), want.map(|entry| &entry.kind)) {
        (None | Some(EntryKind::Dir { .. }), _) => false,
        (
            Some(EntryKind::File { len, content, .. }),
            Some(EntryKind::File { len: other_len, content: other, .. }),
        ) => (len, content) != (other_len, other),
        (actual, want) => actual != want,
    }
}

// What `want` has where the versions do not differ: what was recorded. But a directory may have been recorded only by
// what lay below it, and that may be gone.
fn unchanged(drift: &Change, want: &Manifest<'_>) -> Result<Option<Entry>> {
    let goes = match &drift.have {
        Some(Entry { path, kind: EntryKind::Dir { .. } }) => {
            want.get(path)?.is_none() && want.first_below(path)?.is_none()
        }
        _ => false,
    };
    Ok(drift.have.clone().filter(|_| !goes))
}

/// Whether these globs, in the syntax of `.gitignore`, can be read; else [`Error::Usage`].
pub fn check_globs(globs: &[String]) -> Result<()> {
    compile_globs(globs).map(drop)
}

/// Paths never to touch, as globs in `.gitignore` syntax, and those that the last sync did not touch.
pub(super) struct Protect {
    now: Gitignore,
    before: Gitignore,
}

impl Protect {
    pub fn new(now: &[String], before: &[String]) -> Result<Protect> {
        Ok(Protect { now: compile_globs(now)?, before: compile_globs(before)? })
    }

    pub fn covers(&self, path: &RelPath, entry: Option<&Entry>) -> bool {
        covers(&self.now, path, entry)
    }

    /// True if the last sync left the path alone: then the state records what the version has there, but what is there
    /// is the user's.
    fn spared(&self, recorded: &Entry) -> bool {
        covers(&self.before, &recorded.path, Some(recorded))
    }
}

fn covers(globs: &Gitignore, path: &RelPath, entry: Option<&Entry>) -> bool {
    let is_dir = entry.is_some_and(|entry| matches!(entry.kind, EntryKind::Dir { .. }));
    !globs.is_empty() && globs.matched_path_or_any_parents(path.as_str(), is_dir).is_ignore()
}
