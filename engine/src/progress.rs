//! How a long verb tells its caller where it stands, and how the caller stops it.

use crate::error::{Error, Result};

/// What a verb is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Walking a directory; counts entries.
    Scan,
    /// Reading files and storing their chunks; counts bytes of content.
    Publish,
    /// Comparing versions; counts nothing.
    Plan,
    /// Receiving an update; counts bytes as received.
    Fetch,
    /// Building new files in the stage; counts bytes of content.
    Build,
    /// Making the stage current; counts entries.
    Swap,
    /// Copying from store to store; counts bytes of content.
    Mirror,
    /// Re-reading content against its hashes; counts bytes.
    Verify,
    /// Finding what is still needed; counts entries.
    Mark,
    /// Removing what is not; counts chunks and nodes.
    Sweep,
}

/// Something worth telling that is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Two paths differ only by case; they collide on Windows and macOS.
    CaseCollision {
        /// The first path.
        first: String,
        /// The second.
        second: String,
    },
    /// A path that Windows reserves or cannot hold.
    NotPortable {
        /// The path.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// Something of the directory that the version published does not have.
    NotKept {
        /// The path.
        path: String,
        /// What, and why.
        reason: String,
    },
    /// A file of the replica was not as floe left it.
    LocallyModified {
        /// The path.
        path: String,
    },
    /// An update could not be used; nodes and chunks are asked for one by one instead.
    UpdateIgnored {
        /// Why.
        what: String,
    },
    /// A saved state could not be used and was made anew.
    StateIgnored {
        /// What, and why.
        what: String,
    },
}

/// Called from the verb's own threads, often; implementations must be quick.
pub trait Progress: Sync {
    /// A phase begins; `total` is in the phase's unit where it is known.
    fn phase(&self, phase: Phase, total: Option<u64>) {
        let _ = (phase, total);
    }
    /// The current phase got `amount` further.
    fn advance(&self, amount: u64) {
        let _ = amount;
    }
    /// Something to tell.
    fn notice(&self, notice: Notice) {
        let _ = notice;
    }
    /// True asks the verb to stop at the next safe point, with [`Error::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// Tells nothing and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}

pub(crate) fn check(progress: &dyn Progress) -> Result<()> {
    if progress.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
