//! One path of a manifest: what may be said of it, and which paths may stand beside each other.

use bincode::{Decode, Encode};

use crate::id::{ChunkRef, NodeId};
use crate::limits::{CHUNK_LEN_MAX, SINGLE_CHUNK_LEN_MAX, SYMLINK_LEN_MAX};

use super::path::RelPath;

/// Why an entry, list or page is refused.
pub(super) type Refusal = &'static str;

/// The mode of a directory that is no entry of its own, but implied by what lies below it.
pub(crate) const DIR_MODE: u16 = 0o755;

/// One path of a manifest. Its derived encoding is the format; decoded entries are checked before they leave
/// this room.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Where.
    pub path: RelPath,
    /// What.
    pub kind: EntryKind,
}

/// What is at a path. `mode` is the nine permission bits (0o777).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Permission bits.
        mode: u16,
        /// Length in bytes.
        len: u64,
        /// Its chunks.
        content: Content,
    },
    /// A symbolic link; the target is kept as it is, never followed.
    Symlink {
        /// UTF-8, 1 to `SYMLINK_LEN_MAX` bytes, no NUL.
        target: String,
    },
    /// A directory that is empty or whose mode is not 0o755. Others are implied by the paths below them.
    Dir {
        /// Permission bits.
        mode: u16,
    },
}

/// The chunks of a file. Canonical: up to [`Content::INLINE_MAX`] chunks are inline, more are a tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Content {
    /// In order; empty for an empty file.
    Inline(Vec<ChunkRef>),
    /// The root of a chunk tree.
    Tree {
        /// Its node.
        root: NodeId,
        /// Chunks in it.
        chunks: u64,
    },
}

impl Content {
    /// Most chunks kept in the entry itself.
    pub const INLINE_MAX: usize = 8;

    /// Chunks in it, counted once per use.
    pub fn chunk_count(&self) -> u64 {
        match self {
            Content::Inline(chunks) => chunks.len() as u64,
            Content::Tree { chunks, .. } => *chunks,
        }
    }

    fn check(&self, len: u64) -> Result<(), Refusal> {
        match self {
            Content::Inline(chunks) => {
                if chunks.len() > Self::INLINE_MAX {
                    return Err("more than 8 chunks in an entry");
                }
                chunks.iter().try_for_each(check_chunk)?;
                if chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>() != len {
                    return Err("the chunks of a file do not add up to its length");
                }
                if len <= SINGLE_CHUNK_LEN_MAX && chunks.len() > 1 {
                    return Err("a short file of more than one chunk");
                }
                Ok(())
            }
            Content::Tree { chunks, .. } => {
                if *chunks <= Self::INLINE_MAX as u64 {
                    return Err("a chunk tree of no more than 8 chunks");
                }
                if len <= SINGLE_CHUNK_LEN_MAX {
                    return Err("a short file of more than one chunk");
                }
                check_bytes(len, *chunks)
            }
        }
    }
}

impl Entry {
    /// Length and content, if it is a file.
    pub(super) fn file(&self) -> Option<(u64, &Content)> {
        match &self.kind {
            EntryKind::File { len, content, .. } => Some((*len, content)),
            EntryKind::Symlink { .. } | EntryKind::Dir { .. } => None,
        }
    }

    /// Nothing may lie below it.
    pub(super) fn is_end(&self) -> bool {
        !matches!(self.kind, EntryKind::Dir { mode } if mode != DIR_MODE)
    }

    /// Everything that can be said of an entry alone.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        match &self.kind {
            EntryKind::File { mode, .. } | EntryKind::Dir { mode } if *mode > 0o777 => {
                Err("a mode beyond the permission bits")
            }
            EntryKind::File { len, content, .. } => content.check(*len),
            EntryKind::Dir { .. } => Ok(()),
            EntryKind::Symlink { target } => {
                if target.is_empty() || target.len() > SYMLINK_LEN_MAX {
                    Err("a symlink target that is empty or too long")
                } else if target.contains('\0') {
                    Err("a symlink target with a NUL")
                } else {
                    Ok(())
                }
            }
        }
    }
}

pub(super) fn check_chunk(chunk: &ChunkRef) -> Result<(), Refusal> {
    if (1..=CHUNK_LEN_MAX).contains(&chunk.len) { Ok(()) } else { Err("a chunk length out of bounds") }
}

/// `bytes` can be the length of `chunks` chunks.
pub(super) fn check_bytes(bytes: u64, chunks: u64) -> Result<(), Refusal> {
    let most = u128::from(chunks) * u128::from(CHUNK_LEN_MAX);
    if chunks == 0 || bytes < chunks || u128::from(bytes) > most {
        return Err("a length that so many chunks cannot have");
    }
    Ok(())
}

/// Which paths may follow each other: strictly increasing, none below a file or symlink, and no entry for a
/// directory that the paths below it imply.
///
/// Between `p` and `p/x` only paths that begin with `p` can lie (`p-b`, `p.txt`), so it is enough to keep the
/// seen paths that are prefixes of the last one: at most one a length, as lengths into it.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    last: String,
    open: Vec<(usize, Refusal)>,
}

impl Nesting {
    pub fn enter(&mut self, entry: &Entry) -> Result<(), Refusal> {
        let (path, last) = (entry.path.as_str().as_bytes(), self.last.as_bytes());
        let common = path.iter().zip(last).take_while(|(a, b)| a == b).count();
        let order = path.get(common).cmp(&last.get(common));
        if order.is_le() {
            return Err("paths out of order");
        }
        while self.open.pop_if(|(len, _)| *len > common).is_some() {}
        if let Some((_, refusal)) = self.open.iter().find(|(len, _)| path.get(*len) == Some(&b'/')) {
            return Err(refusal);
        }
        match entry.kind {
            EntryKind::File { .. } => self.open.push((path.len(), "a path below a file")),
            EntryKind::Symlink { .. } => self.open.push((path.len(), "a path below a symlink")),
            EntryKind::Dir { mode: DIR_MODE } => {
                self.open.push((path.len(), "an entry for a directory that its content implies"));
            }
            EntryKind::Dir { .. } => {}
        }
        self.last.truncate(0);
        self.last.push_str(entry.path.as_str());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;

    fn chunk(len: u32) -> ChunkRef {
        ChunkRef { id: ChunkId::of(b"x"), len }
    }

    fn tree(chunks: u64) -> Content {
        Content::Tree { root: NodeId::of(b"n"), chunks }
    }

    #[test]
    fn entries_are_judged_alone() {
        let file = |mode, len, content| EntryKind::File { mode, len, content };
        let link = |target: &str| EntryKind::Symlink { target: target.into() };
        let inline = |lens: &[u32]| Content::Inline(lens.iter().copied().map(chunk).collect());
        let big = 256 << 10;
        let rows = [
            (file(0o644, 0, inline(&[])), true),
            (file(0o644, 16384, inline(&[16384])), true),
            (file(0o777, 16385, inline(&[16384, 1])), true),
            (file(0o644, 8 * 262144, inline(&[big; 8])), true),
            (file(0o644, 9 * 262144, tree(9)), true),
            (EntryKind::Dir { mode: 0 }, true),
            (link("../x"), true),
            (file(0o1644, 0, inline(&[])), false),
            (file(0o644, 1, inline(&[])), false),
            (file(0o644, 2, inline(&[1, 1])), false),
            (file(0o644, 0, inline(&[0])), false),
            (file(0o644, 262145, inline(&[262145])), false),
            (file(0o644, 9 * 262144, inline(&[big; 9])), false),
            (file(0o644, 8 * 262144, tree(8)), false),
            (file(0o644, 9 * 262144 + 1, tree(9)), false),
            (file(0o644, 16384, tree(16)), false),
            (file(0o644, 99_999, tree(100_000)), false),
            (file(0o644, u64::MAX, tree(u64::MAX)), true),
            (EntryKind::Dir { mode: 0o1000 }, false),
            (link(""), false),
            (link("a\0"), false),
            (link(&"a".repeat(4096)), false),
        ];
        for (kind, fine) in rows {
            let entry = Entry { path: RelPath::parse("a").expect("a path"), kind };
            assert_eq!(entry.check().is_ok(), fine, "{entry:?}");
        }
    }

    #[test]
    fn neighbours_are_judged_by_prefix() {
        let f = || EntryKind::File { mode: 0o644, len: 0, content: Content::Inline(vec![]) };
        let l = || EntryKind::Symlink { target: "t".into() };
        let d = |mode| EntryKind::Dir { mode };
        let rows: [(&[(&str, EntryKind)], bool); 10] = [
            (&[("a", f()), ("a-b", f()), ("a.c", f()), ("a0", f())], true),
            (&[("a", f()), ("a-b", f()), ("a/x", f())], false),
            (&[("a", l()), ("a-b", f()), ("a-b-c", f()), ("a/x/y", f())], false),
            (&[("a", d(0o700)), ("a-b", f()), ("a/x", f())], true),
            (&[("a", d(0o755)), ("a-b", f()), ("a/x", f())], false),
            (&[("a", d(0o755)), ("a-b", f()), ("ab/x", f())], true),
            (&[("a", f()), ("a", f())], false),
            (&[("b", f()), ("a", f())], false),
            (&[("ab", f()), ("a", f())], false),
            (&[("a/b", f()), ("a/b-", d(0o755)), ("a/b-/c", f())], false),
        ];
        for (paths, fine) in rows {
            let mut nesting = Nesting::default();
            let all = paths.iter().try_for_each(|(path, kind)| {
                nesting.enter(&Entry { path: RelPath::parse(path).expect("a path"), kind: kind.clone() })
            });
            assert_eq!(all.is_ok(), fine, "{paths:?}");
        }
    }
}
