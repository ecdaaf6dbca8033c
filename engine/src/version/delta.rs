//! What one version has and another lacks. Reads O(changes x log n) nodes: equal subtrees are skipped.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::id::{ChunkRef, VersionId};

use super::chunks::{diff_chunks, each_distinct};
use super::cursor::{Cursor, Head};
use super::entry::{Content, Entry, Nesting};
use super::manifest::Manifest;
use super::node::malformed;
use super::page::{Entries, EntriesLink};
use super::path::RelPath;

/// How one path differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path.
    pub path: RelPath,
    /// What the base has there.
    pub have: Option<Entry>,
    /// What the target has there.
    pub want: Option<Entry>,
}

/// Calls `each` for every path that differs, in path order. Proves that what is new in `want` fits among what is
/// not: if `have` is a sound version, `want` is, or there is an error.
pub fn diff(
    have: &Manifest<'_>,
    want: &Manifest<'_>,
    each: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<()> {
    if have.top() == want.top() {
        let equal = have.totals() == want.totals();
        return if equal { Ok(()) } else { Err(unsound(want, "its totals are not those of its entries")) };
    }
    let (mut a, mut b) = (have.cursor()?, want.cursor()?);
    let mut nesting = Nesting::default();
    let mut unseen = Unseen { have, want, checked: None };
    loop {
        let order = match (a.head(), b.head()) {
            (Head::End, Head::End) => return Ok(()),
            (Head::Link(_, x), Head::Link(_, y)) if x.child == y.child => {
                a.skip();
                b.skip();
                continue;
            }
            // The higher of two, or both, so that they meet again as soon as they can.
            (Head::Link(x, _), Head::Link(y, _)) => {
                if x >= y {
                    enter(&mut a, x, &b)?;
                }
                if y >= x {
                    enter(&mut b, y, &a)?;
                }
                continue;
            }
            (Head::Link(level, _), _) => {
                enter(&mut a, level, &b)?;
                continue;
            }
            (_, Head::Link(level, _)) => {
                enter(&mut b, level, &a)?;
                continue;
            }
            (Head::Item(_), Head::End) => Ordering::Less,
            (Head::End, Head::Item(_)) => Ordering::Greater,
            (Head::Item(x), Head::Item(y)) => x.path.cmp(&y.path),
        };
        let old = if order.is_le() { a.take() } else { None };
        let new = if order.is_ge() { b.take() } else { None };
        if let Some(entry) = &new {
            nesting.enter(entry).map_err(|reason| unsound(want, reason))?;
        }
        if old != new
            && let Some(path) = old.as_ref().or(new.as_ref()).map(|entry| entry.path.clone())
        {
            let change = Change { path, have: old, want: new };
            unseen.check(&change, &a.head())?;
            each(change)?;
        }
    }
}

/// Entries of equal subtrees, which a comparison never sees. They are in `have` as they are in `want`, so `have`,
/// which is near, is asked first.
struct Unseen<'m, 'a> {
    have: &'m Manifest<'a>,
    want: &'m Manifest<'a>,
    // The last directory found free of a file or symlink at itself or above.
    checked: Option<RelPath>,
}

impl Unseen<'_, '_> {
    // `next` is what `have` has after the change's path.
    fn check(&mut self, change: &Change, next: &Head<'_, Entries>) -> Result<()> {
        let Change { path, have, want: Some(want) } = change else { return Ok(()) };
        if have.is_none() {
            self.check_above(path)?;
        }
        if !want.is_end() || have.as_ref().is_some_and(Entry::is_end) {
            return Ok(());
        }
        let below = match next {
            Head::End => false,
            // Only paths that begin with `path` lie before those below it.
            Head::Item(next) if !next.path.as_str().starts_with(path.as_str()) => false,
            Head::Item(next) if next.path.is_below(path) => true,
            Head::Item(_) | Head::Link(..) => self.have.first_below(path)?.is_some(),
        };
        match below && self.want.first_below(path)?.is_some() {
            true => Err(unsound(self.want, "a path below one that is no directory")),
            false => Ok(()),
        }
    }

    fn check_above(&mut self, path: &RelPath) -> Result<()> {
        let is_end = |found: Option<Entry>| found.is_some_and(|entry| entry.is_end());
        let parent = path.parent();
        let mut next = parent.clone();
        while let Some(dir) = next {
            if self.checked.as_ref().is_some_and(|checked| *checked == dir || checked.is_below(&dir)) {
                break;
            }
            if is_end(self.have.get(&dir)?) && is_end(self.want.get(&dir)?) {
                return Err(unsound(self.want, "a path below one that is no directory"));
            }
            next = dir.parent();
        }
        self.checked = parent.or(self.checked.take());
        Ok(())
    }
}

fn unsound(version: &Manifest<'_>, reason: &str) -> Error {
    malformed("version", &version.source().place(), &format!("version {}: {reason}", version.id()))
}

// Reads ahead what the other side surely does not have: a link within the range of the page that the other side
// is in at that level, and not in that page.
fn enter(this: &mut Cursor<'_, Entries>, level: u8, other: &Cursor<'_, Entries>) -> Result<()> {
    let peer = other.links_at(level + 1);
    this.enter(|link: &EntriesLink| match peer {
        Ok(links) => {
            let at = links.partition_point(|other| other.last < link.last);
            links.get(at).is_some_and(|other| other.child != link.child)
        }
        Err(spent) => spent,
    })
}

/// What a target needs that a base lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The base; `None` is nothing at all.
    pub base: Option<VersionId>,
    /// The target.
    pub target: VersionId,
    /// Chunks of the target that are nowhere in the base; each once, in order of first use.
    pub missing: Vec<ChunkRef>,
    /// Files added, removed, changed, moved.
    pub files_added: u64,
    /// See `files_added`.
    pub files_removed: u64,
    /// See `files_added`. Content or mode.
    pub files_changed: u64,
    /// Same content, not empty, under another path that went away. Neither added nor removed.
    pub files_moved: u64,
}

impl Delta {
    /// Compares two versions.
    ///
    /// Reads O(changes x log n) nodes to find what may be missing. Only if something may, one pass over all nodes of
    /// the base drops what it has in unchanged places; that pass keeps no more than the ids of chunk nodes.
    pub fn between(base: Option<&Manifest<'_>>, target: &Manifest<'_>) -> Result<Delta> {
        let mut changed = Changed::default();
        match base {
            Some(base) => diff(base, target, &mut |change| {
                changed.note(change.have, change.want);
                Ok(())
            })?,
            None => target.entries().try_for_each(|entry| {
                changed.note(None, Some(entry?));
                Ok::<_, Error>(())
            })?,
        }
        let files_moved = changed.moved();
        Ok(Delta {
            base: base.map(Manifest::id),
            target: target.id(),
            missing: changed.missing(base, target)?,
            files_added: changed.added - files_moved,
            files_removed: changed.removed - files_moved,
            files_changed: changed.changed,
            files_moved,
        })
    }

    /// Plain bytes of the missing chunks.
    pub fn bytes_missing(&self) -> u64 {
        self.missing.iter().map(|c| u64::from(c.len)).sum()
    }
}

type File = (u64, Content);

/// Files whose content differs, and counts.
#[derive(Default)]
struct Changed {
    files: Vec<(Option<File>, Option<File>)>,
    added: u64,
    removed: u64,
    changed: u64,
}

impl Changed {
    fn note(&mut self, have: Option<Entry>, want: Option<Entry>) {
        let file = |entry: Option<Entry>| entry?.file().map(|(len, content)| (len, content.clone()));
        let (have, want) = (file(have), file(want));
        match (&have, &want) {
            (None, None) => return,
            (Some(_), None) => self.removed += 1,
            (None, Some(_)) => self.added += 1,
            (Some(_), Some(_)) => self.changed += 1,
        }
        if have != want {
            self.files.push((have, want));
        }
    }

    fn moved(&self) -> u64 {
        let mut gone: HashMap<&File, u64> = HashMap::new();
        for (have, want) in &self.files {
            if let (Some(file), None) = (have, want) {
                *gone.entry(file).or_default() += u64::from(file.0 > 0);
            }
        }
        let arrivals = self.files.iter().filter_map(|(have, want)| want.as_ref().filter(|_| have.is_none()));
        let taken = arrivals.filter(|&file| match gone.get_mut(file) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        });
        taken.count() as u64
    }

    fn missing(&self, base: Option<&Manifest<'_>>, target: &Manifest<'_>) -> Result<Vec<ChunkRef>> {
        let old: HashSet<&File> = self.files.iter().filter_map(|(have, _)| have.as_ref()).collect();
        let nothing = Content::Inline(Vec::new());
        // Where there is no base there is no old file to read.
        let base_nodes = base.map_or(target.source(), Manifest::source);
        let (mut candidates, mut left) = (Vec::new(), HashSet::new());
        let mut gone: HashSet<ChunkRef> = HashSet::new();
        for (have, want) in &self.files {
            let Some(want) = want.as_ref().filter(|want| !old.contains(want)) else { continue };
            let (len, content) = have.as_ref().map_or((0, &nothing), |(len, content)| (*len, content));
            let found = diff_chunks((base_nodes, len, content), (target.source(), want.0, &want.1))?;
            gone.extend(found.have);
            candidates.extend(found.want.into_iter().filter(|chunk| left.insert(*chunk)));
        }
        if let Some(base) = base {
            left.retain(|chunk| !gone.contains(chunk));
            drop(gone);
            self.drop_present(base, &old, &mut left)?;
            candidates.retain(|chunk| left.contains(chunk));
        }
        Ok(candidates)
    }

    // Removes from `left` what the base has: first in files that changed, then anywhere.
    fn drop_present(
        &self,
        base: &Manifest<'_>,
        old: &HashSet<&File>,
        left: &mut HashSet<ChunkRef>,
    ) -> Result<()> {
        let mut seen = HashSet::new();
        let mut visit = |file: (u64, &Content), left: &mut HashSet<ChunkRef>| {
            each_distinct((base.source(), file.0, file.1), &mut seen, &mut |_, chunk| {
                left.remove(chunk);
            })
        };
        for (len, content) in old {
            if left.is_empty() {
                return Ok(());
            }
            visit((*len, content), left)?;
        }
        if left.is_empty() {
            return Ok(());
        }
        for entry in base.entries() {
            if let Some(file) = entry?.file() {
                visit(file, left)?;
            }
            if left.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
