//! Directories that are recorded, or on disk, only through what lies below them.

use std::collections::HashSet;

use crate::version::{Change, DIR_MODE, Entry, EntryKind, RelPath};

/// Learns of every path in path order, which puts directories before what lies in them.
#[derive(Default)]
pub(super) struct Implied {
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
    /// For a tree with a recorded version.
    pub(super) fn of_recorded() -> Implied {
        Implied { any_recorded: true, ..Implied::default() }
    }

    /// A path that is recorded and on disk.
    pub(super) fn both(&mut self, path: &RelPath) {
        self.recorded(path);
        self.holds(path.as_str());
    }

    /// A path that nobody recorded.
    pub(super) fn only_found(&mut self, path: &RelPath) {
        if self.any_recorded {
            self.holds(path.as_str());
            self.unrecorded.insert(path.clone());
        }
    }

    /// An entry that is not on disk.
    pub(super) fn only_recorded(&mut self, have: &Entry) {
        self.recorded(&have.path);
        if let EntryKind::Dir { .. } = have.kind {
            self.missing.insert(have.path.clone());
        }
    }

    fn recorded(&mut self, path: &RelPath) {
        for above in ancestors_in(&self.unrecorded, path.as_str()) {
            self.recorded_dirs.insert(above);
        }
    }

    /// Something is at `path`: so the directories above it are there.
    pub(super) fn holds(&mut self, path: &str) {
        for above in ancestors_in(&self.missing, path) {
            self.there.insert(above);
        }
    }

    /// True if `path` was found and is no entry of the recorded version.
    pub(super) fn is_unrecorded(&self, path: &RelPath) -> bool {
        self.unrecorded.contains(path)
    }

    /// Puts the directories into `drift` that are recorded or there only through what lies below them.
    pub(super) fn settle(&self, drift: &mut Vec<Change>) {
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
