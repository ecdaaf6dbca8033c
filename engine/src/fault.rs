//! Crash points. Whatever changes durable state asks here first; a crash test answers with an
//! error at the k-th question and at every later one, as a machine that lost power would.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

type Check = dyn Fn(&'static str, &Path) -> io::Result<()> + Send + Sync;

/// Decides whether an operation on durable state may happen. The default lets everything happen.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Check>>);

impl Faults {
    /// Asks `check(action, path)` before every operation.
    pub fn new(check: impl Fn(&'static str, &Path) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(check)))
    }

    pub(crate) fn check(&self, action: &'static str, path: &Path) -> Result<()> {
        match &self.0 {
            None => Ok(()),
            Some(check) => check(action, path).map_err(|source| Error::io(action, path, source)),
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(armed)" } else { "Faults(none)" })
    }
}
