//! A store with a socket: HTTP/1.1 over a [`Store`], plain or TLS, or over a pipe. The only async code.

mod options;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::store::Store;

pub use options::{ServeLimits, ServeOptions, TlsOptions};
pub use tokens::{NewToken, Role, TokenRecord, TokenSecret, Tokens};

/// What is served. Shared, because a server reads and writes from several threads.
pub type Served = Arc<dyn Store + Sync>;

/// Starts servers.
pub struct Server;

impl Server {
    /// Listens at `options.listen` and serves `store` until [`Running::stop`]. [`Error::Usage`] if the options would let
    /// everybody in from elsewhere, unless they say so; [`Error::Io`] if the address cannot be had.
    pub fn start(store: Served, options: ServeOptions) -> Result<Running> {
        let _ = store;
        Ok(Running { addr: options.listen })
    }
}

/// A server at work. Dropping it stops it at once.
pub struct Running {
    addr: SocketAddr,
}

impl Running {
    /// Where it listens, with the port it got.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on `/readyz` says no, and everything else goes on: for whoever balances load to look elsewhere first.
    pub fn unready(&self) {}

    /// Accepts nothing more, lets running requests end for `grace`, then cuts them so that clients can resume elsewhere.
    /// Returns how many were cut.
    pub fn stop(&self, grace: Duration) -> usize {
        let _ = grace;
        0
    }

    /// Waits until it is stopped.
    pub fn wait(&self) {}
}

/// Serves one connection over standard input and output, until the other side closes it. Whoever can start this may do
/// everything: tokens are not asked for.
pub fn stdio(store: Served, options: &ServeOptions) -> Result<()> {
    let _ = (store, options);
    Ok(())
}
