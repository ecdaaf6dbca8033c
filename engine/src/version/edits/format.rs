//! The records of the edits. They follow each other without headers: a head, then each edit, and behind the edit of a
//! file its runs.

use bincode::{Decode, Encode};

use crate::content::CutParams;
use crate::error::{Error, Result};
use crate::version::manifest::Totals;
use crate::version::path::RelPath;

/// What errors call them.
pub(super) const EDITS: &str = "edits";

#[derive(Debug, Encode, Decode)]
pub(super) struct Head {
    /// How the files of the target are cut.
    pub params: CutParams,
    pub edits: u64,
}

/// What happens to one path.
#[derive(Debug, Encode, Decode)]
pub(super) struct Edit {
    /// Coded against the path of the edit before.
    pub path: PathCode,
    pub what: What,
}

#[derive(Debug, Encode, Decode)]
pub(super) enum What {
    Remove,
    Dir {
        mode: u16,
    },
    Symlink {
        target: String,
    },
    /// A file whose content stays.
    Mode {
        mode: u16,
    },
    /// A file with the content of an old one; `from` is coded against the last old path that was named.
    Whole {
        mode: u16,
        from: PathCode,
    },
    /// A file put together by the runs that follow.
    File {
        mode: u16,
        runs: u64,
    },
}

#[derive(Debug, Clone, Encode, Decode)]
pub(super) enum Run {
    /// Chunks of an old file: the one named last in this edit, or else the one at the edit's own path.
    Copy { first: u64, count: u64 },
    /// The next new chunks that no run has used yet.
    New { count: u64 },
    /// New chunks that were used already, by their number.
    Again { first: u64, count: u64 },
    /// Names the old file of the copies that follow; coded against the last old path that was named.
    From { path: PathCode },
}

/// A path by what it shares with another: the longest they have in common, then the rest.
#[derive(Debug, Clone, Encode, Decode)]
pub(super) struct PathCode {
    shared: u16,
    rest: Vec<u8>,
}

/// The path that the next one is coded against.
#[derive(Debug, Default)]
pub(super) struct LastPath(Vec<u8>);

impl LastPath {
    pub fn encode(&mut self, path: &RelPath) -> PathCode {
        let path = path.as_str().as_bytes();
        let shared = self.0.iter().zip(path).take_while(|(a, b)| a == b).count();
        let rest = path.get(shared..).unwrap_or_default().to_vec();
        self.0.truncate(shared);
        self.0.extend_from_slice(&rest);
        PathCode { shared: shared as u16, rest }
    }

    pub fn decode(&mut self, code: &PathCode, place: &str) -> Result<RelPath> {
        let shared = usize::from(code.shared);
        if shared > self.0.len() || (shared < self.0.len() && self.0.get(shared) == code.rest.first()) {
            return Err(malformed(place, "a path that does not follow from the one before"));
        }
        self.0.truncate(shared);
        self.0.extend_from_slice(&code.rest);
        let text = std::str::from_utf8(&self.0).map_err(|_| malformed(place, "a path that is not UTF-8"))?;
        RelPath::parse(text)
    }
}

/// Most chunks that the runs of all edits may stand for: a little may describe much, as in a file of zeros, but not
/// without end.
pub(super) fn uses_max(have: Option<Totals>, new: usize) -> u64 {
    let known = have.map_or(0, |totals| totals.chunks).saturating_add(new as u64);
    known.saturating_mul(8).saturating_add(1 << 20)
}

pub(super) fn malformed(place: &str, reason: impl Into<String>) -> Error {
    Error::Malformed { kind: EDITS, place: place.to_owned(), reason: reason.into() }
}
