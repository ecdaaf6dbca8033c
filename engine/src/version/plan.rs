//! The local steps that turn what is there into what is wanted, with their costs. Pure.
//!
//! Steps are to be read as done at once: `from` is always what is there before any of them, also where the path
//! is itself the target of another step.

use std::collections::{HashMap, VecDeque};

use super::delta::Change;
use super::entry::{Content, Entry};
use super::path::RelPath;

/// One step. Each path is the target of at most one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Same content, another mode.
    SetMode {
        /// What the path shall be.
        want: Entry,
    },
    /// The file at `from` goes away and its content is wanted at `want.path`. If nothing else is to be at `from`, it
    /// has no step of its own.
    Move {
        /// Where the content is now.
        from: RelPath,
        /// What it shall be.
        want: Entry,
    },
    /// The content of the file now at `from` is wanted at `want.path` too. `from` may stay, or be replaced or moved by
    /// another step.
    Copy {
        /// Where the content is now.
        from: RelPath,
        /// What it shall be.
        want: Entry,
    },
    /// A file put together from chunks, in place of whatever is there.
    Build {
        /// What it shall be.
        want: Entry,
    },
    /// A symlink or directory to make (a directory with its mode), in place of whatever is there.
    Make {
        /// What it shall be.
        want: Entry,
    },
    /// A path to remove; `have` is what is there. A directory is to be removed only if it is then empty; otherwise
    /// it is an ordinary one from now on, of mode 0o755.
    Delete {
        /// What is there now.
        have: Entry,
    },
}

impl Step {
    /// The path that it changes.
    pub fn path(&self) -> &RelPath {
        match self {
            Step::SetMode { want }
            | Step::Move { want, .. }
            | Step::Copy { want, .. }
            | Step::Build { want }
            | Step::Make { want } => &want.path,
            Step::Delete { have } => &have.path,
        }
    }
}

/// What a plan costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanTotals {
    /// Files added or with new content.
    pub files_changed: u64,
    /// Files moved.
    pub files_moved: u64,
    /// Files removed.
    pub files_removed: u64,
    /// Bytes of content to write (built and copied files).
    pub bytes_written: u64,
    /// Most extra bytes on disk while both old and new files exist.
    pub bytes_extra_peak: u64,
}

/// The steps in path order of their target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Plans `changes`, which are in path order, at most one a path.
    pub fn from_changes(changes: Vec<Change>) -> Plan {
        let (origins, taken) = origins(&changes);
        let mut steps = Vec::with_capacity(changes.len());
        for ((Change { have, want, .. }, origin), taken) in changes.into_iter().zip(origins).zip(taken) {
            let step = match (have, want) {
                (None, None) => continue,
                (Some(have), None) if taken && have.file().is_some() => continue,
                (Some(have), None) => Step::Delete { have },
                (Some(have), Some(want)) if have == want => continue,
                (Some(have), Some(want)) if same_file(&have, &want) => Step::SetMode { want },
                (_, Some(want)) => match origin {
                    Some(Origin::Moved(from)) => Step::Move { from, want },
                    Some(Origin::Copied(from)) => Step::Copy { from, want },
                    None if want.file().is_some() => Step::Build { want },
                    None => Step::Make { want },
                },
            };
            steps.push(step);
        }
        Plan { steps }
    }

    /// Sums it up.
    pub fn totals(&self) -> PlanTotals {
        let mut totals = PlanTotals::default();
        for step in &self.steps {
            match step {
                Step::Build { want } | Step::Copy { want, .. } => {
                    totals.files_changed += 1;
                    totals.bytes_written =
                        totals.bytes_written.saturating_add(want.file().map_or(0, |(len, _)| len));
                }
                Step::Move { .. } => totals.files_moved += 1,
                Step::Delete { have } => totals.files_removed += u64::from(have.file().is_some()),
                Step::SetMode { .. } | Step::Make { .. } => {}
            }
        }
        // Moved files are renamed, and nothing old goes away before the switch.
        totals.bytes_extra_peak = totals.bytes_written;
        totals
    }
}

fn same_file(a: &Entry, b: &Entry) -> bool {
    a.file().is_some() && a.file() == b.file()
}

/// Where the content of a path is already.
#[derive(Debug, Clone)]
enum Origin {
    Moved(RelPath),
    Copied(RelPath),
}

/// The changes that concern one content, by their index.
#[derive(Default)]
struct Group {
    have: Vec<usize>,
    // Those of `have` whose path will hold something else.
    gone: Vec<usize>,
    // Paths that will hold it and do not.
    want: Vec<usize>,
}

// For each change its origin, if the content is at another path, and whether its old content was moved away.
fn origins(changes: &[Change]) -> (Vec<Option<Origin>>, Vec<bool>) {
    // Empty files are as quickly made as moved.
    let mut groups: HashMap<(u64, &Content), Group> = HashMap::new();
    for (at, change) in changes.iter().enumerate() {
        let (have, want) =
            (change.have.as_ref().and_then(Entry::file), change.want.as_ref().and_then(Entry::file));
        if let Some(have) = have.filter(|(len, _)| *len > 0) {
            let group = groups.entry(have).or_default();
            group.have.push(at);
            if Some(have) != want {
                group.gone.push(at);
            }
        }
        if let Some(want) = want.filter(|(len, _)| *len > 0 && have != want) {
            groups.entry(want).or_default().want.push(at);
        }
    }
    let mut origins = vec![None; changes.len()];
    let mut taken = vec![false; changes.len()];
    for group in groups.values().filter(|group| !group.have.is_empty()) {
        assign(changes, group, &mut origins, &mut taken);
    }
    (origins, taken)
}

// Each path that goes away is moved once, to a path of the same file name where there is one; whatever is wanted
// beyond that is copied.
fn assign(changes: &[Change], group: &Group, origins: &mut [Option<Origin>], taken: &mut [bool]) {
    let mut by_name: HashMap<&str, VecDeque<usize>> = HashMap::new();
    for &at in &group.gone {
        by_name.entry(changes[at].path.file_name()).or_default().push_back(at);
    }
    let mut rest = Vec::new();
    for &at in &group.want {
        match by_name.get_mut(changes[at].path.file_name()).and_then(VecDeque::pop_front) {
            Some(from) => {
                origins[at] = Some(Origin::Moved(changes[from].path.clone()));
                taken[from] = true;
            }
            None => rest.push(at),
        }
    }
    let mut free = group.gone.iter().copied().filter(|&at| !taken[at]).collect::<Vec<_>>().into_iter();
    for at in rest {
        origins[at] = match (free.next(), group.have.first()) {
            (Some(from), _) => {
                taken[from] = true;
                Some(Origin::Moved(changes[from].path.clone()))
            }
            (None, Some(&from)) => Some(Origin::Copied(changes[from].path.clone())),
            (None, None) => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::EntryKind;
    use super::*;
    use crate::id::{ChunkId, ChunkRef};

    // "f1" is a file of content 1, "x1" the same but executable, "d" a directory, "l" a symlink.
    fn entry(path: &RelPath, text: &str) -> Option<Entry> {
        let file = |mode: u16| {
            let len = u32::from(text.as_bytes()[1] - b'0');
            let chunk = ChunkRef { id: ChunkId::of(&text.as_bytes()[1..]), len };
            let content = Content::Inline(if len == 0 { vec![] } else { vec![chunk] });
            EntryKind::File { mode, len: len.into(), content }
        };
        let kind = match text.as_bytes().first()? {
            b'f' => file(0o644),
            b'x' => file(0o755),
            b'd' => EntryKind::Dir { mode: 0o700 },
            _ => EntryKind::Symlink { target: "t".into() },
        };
        Some(Entry { path: path.clone(), kind })
    }

    fn plan(changes: &[(&str, &str, &str)]) -> (Vec<String>, PlanTotals) {
        let change = |&(path, have, want): &(&str, &str, &str)| {
            let path = RelPath::parse(path).expect("a valid path");
            Change { have: entry(&path, have), want: entry(&path, want), path }
        };
        let plan = Plan::from_changes(changes.iter().map(change).collect());
        let word = |step: &Step| match step {
            Step::SetMode { want } => format!("mode {}", want.path),
            Step::Move { from, want } => format!("move {from} {}", want.path),
            Step::Copy { from, want } => format!("copy {from} {}", want.path),
            Step::Build { want } => format!("build {}", want.path),
            Step::Make { want } => format!("make {}", want.path),
            Step::Delete { have } => format!("delete {}", have.path),
        };
        (plan.steps.iter().map(word).collect(), plan.totals())
    }

    #[test]
    fn steps_follow_the_rules() {
        type Row<'a> = (&'a [(&'a str, &'a str, &'a str)], &'a [&'a str]);
        let rows: [Row<'_>; 13] = [
            (&[("a", "", "f1"), ("b", "f2", ""), ("c", "f3", "f4")], &["build a", "delete b", "build c"]),
            (&[("a", "f1", "x1"), ("d", "d", "")], &["mode a", "delete d"]),
            (&[("a", "f1", ""), ("b", "", "x1")], &["move a b"]),
            (&[("a/n", "f1", ""), ("b/m", "", "f1"), ("b/n", "", "f1")], &["copy a/n b/m", "move a/n b/n"]),
            (
                &[("a/m", "f1", ""), ("a/n", "f1", ""), ("b/n", "", "f1"), ("b/o", "", "f1")],
                &["move a/n b/n", "move a/m b/o"],
            ),
            // Swapped, and rotated as log files are.
            (&[("a", "f1", "f2"), ("b", "f2", "f1")], &["move b a", "move a b"]),
            (
                &[("l", "f1", "f2"), ("l1", "f3", "f1"), ("l2", "", "f3")],
                &["build l", "move l l1", "move l1 l2"],
            ),
            (&[("a", "f1", "x1"), ("b", "", "f1")], &["mode a", "copy a b"]),
            (&[("a", "f0", ""), ("b", "", "f0")], &["delete a", "build b"]),
            (&[("a", "f1", "d"), ("b", "", "f1")], &["make a", "move a b"]),
            (&[("a", "f1", ""), ("a/b", "", "f1"), ("a/c", "", "f2")], &["move a a/b", "build a/c"]),
            (&[("a", "l", "f1"), ("a/b", "", "")], &["build a"]),
            (&[("a", "d", "l"), ("b", "l", "d")], &["make a", "make b"]),
        ];
        for (changes, want) in rows {
            assert_eq!(plan(changes).0, want, "{changes:?}");
        }
    }

    #[test]
    fn costs_add_up() {
        let changes = [
            ("a", "f1", ""),
            ("b", "", "f1"),
            ("c", "", "f5"),
            ("d", "f7", "x7"),
            ("e", "", "f7"),
            ("f", "f3", ""),
        ];
        let want = PlanTotals {
            files_changed: 2,
            files_moved: 1,
            files_removed: 1,
            bytes_written: 12,
            bytes_extra_peak: 12,
        };
        assert_eq!(plan(&changes).1, want);
    }
}
