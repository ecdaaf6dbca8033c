//! The one error of the engine. Each variant names which thing, at which place; `Display` is one
//! line without the cause, which `source()` has. What to do about it is the caller's to say.

use std::io;
use std::path::{Path, PathBuf};

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, with what, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a path.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// The verb, as in "open" or "rename".
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A name, version or file that the caller asked for is not there.
    #[error("no {what} in {place}")]
    NotFound {
        /// The thing, as in "name `game@1.0`".
        what: String,
        /// Where it was looked for.
        place: String,
    },
    /// Stored content is missing or is not what its name says.
    #[error("{what} in {place} is damaged: {reason}")]
    Damaged {
        /// The thing, with its full id.
        what: String,
        /// Where it lies.
        place: String,
        /// How it is wrong.
        reason: String,
    },
    /// Bytes that do not follow the format.
    #[error("malformed {kind} in {place}: {reason}")]
    Malformed {
        /// The kind of record, as in "node" or "journal".
        kind: &'static str,
        /// Where it came from.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// The other side does not prove that it is who it should be.
    #[error("{what} of {place} is not trusted: {reason}")]
    Untrusted {
        /// What it shows, as in "certificate".
        what: String,
        /// The other side, without secrets.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A format newer than this build reads.
    #[error("{kind} in {place} has format {found}, but this floe reads up to {supported}")]
    TooNew {
        /// The kind of record.
        kind: &'static str,
        /// Where it came from.
        place: String,
        /// The number found.
        found: u32,
        /// The highest number this build reads.
        supported: u32,
    },
    /// A length or count over its bound.
    #[error("{what} is {actual}, over the limit of {max}")]
    Limit {
        /// What was measured, and where.
        what: String,
        /// The value found.
        actual: u64,
        /// The bound, from [`crate::limits`].
        max: u64,
    },
    /// A path that no version may hold.
    #[error("unsafe path `{}`: {reason}", path.escape_debug())]
    UnsafePath {
        /// The path as found.
        path: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// Something in a tree that a version cannot hold: a device, socket, FIFO, a name that is not UTF-8.
    #[error("cannot publish `{}`: {reason}", path.display())]
    Unpublishable {
        /// The path as found.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
    /// A file changed while it was read.
    #[error("`{}` changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The request contradicts what is already there.
    #[error("{what} in {place}: {reason}")]
    Conflict {
        /// The thing, as in "name `game@1.0`".
        what: String,
        /// Where.
        place: String,
        /// What it collides with.
        reason: String,
    },
    /// Another process holds the store or the replica.
    #[error("{place} is in use by {}", holder(.pid))]
    Locked {
        /// The store or replica.
        place: String,
        /// The other process, where it is known.
        pid: Option<u32>,
    },
    /// The store's database refused an operation.
    #[error("cannot {action} in {place}")]
    Store {
        /// The verb.
        action: &'static str,
        /// The store.
        place: String,
        /// The database's answer.
        #[source]
        source: Cause,
    },
    /// The caller's words cannot be taken: a name, id, glob or option.
    #[error("{what}: {reason}")]
    Usage {
        /// The word, quoted.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The other side could not be reached, fell silent, or broke off; trying again may help.
    #[error("cannot {action} {place}")]
    Network {
        /// The verb, as in "reach" or "read from".
        action: &'static str,
        /// The other side, without secrets.
        place: String,
        /// What happened.
        #[source]
        source: Cause,
    },
    /// The other side does not let us: no token, or one that is expired or of another role.
    #[error("{place} refuses {what}: {reason}")]
    Denied {
        /// What was asked for.
        what: String,
        /// The other side, without secrets.
        place: String,
        /// Its reason.
        reason: String,
    },
    /// The caller's [`crate::Progress`] asked to stop. Run again to continue.
    #[error("cancelled")]
    Cancelled,
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// What the caller can do about an error; exit codes come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The operation failed for a local reason named in the error.
    Failure,
    /// The request itself is wrong.
    Usage,
    /// Something is damaged or not to be trusted.
    Damaged,
    /// Contradicts what is there, or another process holds it.
    Conflict,
    /// The disk is full.
    NoSpace,
    /// Stopped on request.
    Cancelled,
    /// The other side cannot be reached, or not for now.
    Network,
    /// The other side wants to know who asks, or does not allow it to them.
    Denied,
}

impl Error {
    /// Returns what kind of reaction the error calls for.
    pub fn class(&self) -> ErrorClass {
        match self {
            Error::Io { source, .. } if is_no_space(source) => ErrorClass::NoSpace,
            Error::Store { source, .. } if says_no_space(&**source) => ErrorClass::NoSpace,
            Error::Io { .. }
            | Error::NotFound { .. }
            | Error::TooNew { .. }
            | Error::Unpublishable { .. }
            | Error::Changed { .. }
            | Error::Store { .. } => ErrorClass::Failure,
            Error::Damaged { .. }
            | Error::Malformed { .. }
            | Error::Limit { .. }
            | Error::Untrusted { .. }
            | Error::UnsafePath { .. } => ErrorClass::Damaged,
            Error::Conflict { .. } | Error::Locked { .. } => ErrorClass::Conflict,
            Error::Usage { .. } => ErrorClass::Usage,
            Error::Network { .. } => ErrorClass::Network,
            Error::Denied { .. } => ErrorClass::Denied,
            Error::Cancelled => ErrorClass::Cancelled,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Error::Io { action, path: path.as_ref().to_owned(), source }
    }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

// The database reports a full disk only in words.
fn says_no_space(error: &(dyn std::error::Error + 'static)) -> bool {
    let text = error.to_string();
    text.contains("No space left on device") || text.contains("NoSpace")
}

/// Names the path on an [`io::Result`].
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::io(action, path, source))
    }
}
