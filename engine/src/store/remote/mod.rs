//! A store behind `http`, `https` or `ssh`: `Source` and `Store` over the protocol of `wire`.
//!
//! What it hides: connections, retries, resumption, mirrors, limits of rate and time. Nothing that a server says is
//! used before it met a bound.

mod address;
mod child;
mod fault;
mod line;
mod meter;
mod options;
mod origin;
mod outbox;
mod read;
mod tls;
mod write;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use self::meter::Watch;
use self::origin::{Ask, Origin};
use self::outbox::Outbox;
use super::wire::{self, Hello, JSON_LEN_MAX};
use crate::error::Result;

pub use address::{RemoteAddress, RemoteScheme};
pub use options::{ClientPem, Counters, Now, RemoteOptions, Retries, Token, Wait};

/// A store on another machine. Opening it sends nothing yet.
///
/// What is read may come from its mirrors too; what is written goes to the store itself. Small puts are gathered and
/// sent together, at the latest with the next request that could tell the difference.
pub struct RemoteStore {
    first: Origin,
    mirrors: Vec<Origin>,
    counters: Arc<Counters>,
    outbox: Outbox,
    // Held while it is asked for, so that it is asked for once.
    hello: Mutex<Option<Hello>>,
    // Which source the next update stream is asked of first: one that broke goes behind the others.
    updates_from: Arc<AtomicUsize>,
}

impl RemoteStore {
    /// Prepares to speak to `address`.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Usage`] for certificates that cannot be used, and for a token that would go over a connection
    /// that anybody between may read.
    pub fn open(address: &RemoteAddress, options: RemoteOptions) -> Result<RemoteStore> {
        let watch = Watch::new(&options);
        let mirrors =
            options.mirrors.iter().map(|(address, token)| Origin::new(address, token, &options, &watch));
        Ok(RemoteStore {
            first: Origin::new(address, &options.token, &options, &watch)?,
            mirrors: mirrors.collect::<Result<_>>()?,
            counters: Arc::clone(&options.counters),
            outbox: Outbox::default(),
            hello: Mutex::default(),
            updates_from: Arc::default(),
        })
    }

    /// What moved so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// All sources to read from, the store itself first.
    fn origins(&self) -> impl Iterator<Item = &Origin> {
        std::iter::once(&self.first).chain(&self.mirrors)
    }

    /// A limit of the server's, or ours if that is lower.
    fn limit(&self, name: &str, ours: usize) -> Result<usize> {
        let mut hello = self.hello.lock().unwrap_or_else(PoisonError::into_inner);
        let hello = match &mut *hello {
            Some(hello) => hello,
            none => {
                none.insert(self.first.ask_json(&Ask::get(wire::path::PREFIX, origin::JSON), JSON_LEN_MAX)?)
            }
        };
        let told = hello.limits.get(name).copied();
        Ok(told.map_or(ours, |told| usize::try_from(told).unwrap_or(usize::MAX).min(ours)))
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
