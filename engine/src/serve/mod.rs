//! A store with a socket: HTTP/1.1 over a [`Store`], plain or TLS, or over a pipe. The only async code.
//!
//! Hides threads, connections and their limits. What a client may do, and what it costs, is bounded before it is done;
//! nothing that it sends is kept unproven.

mod accept;
mod answer;
mod body;
mod bridge;
mod gate;
mod guests;
mod limits;
mod metrics;
mod options;
mod plans;
mod routes;
mod shares;
mod site;
mod stream;
mod tls;
mod tokens;
mod upkeep;
mod watched;
mod writes;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::store::Store;

use self::accept::{Door, listen};
use self::bridge::Bridge;
use self::gate::Gate;
use self::limits::lock;
use self::site::{Connection, Site};
use self::watched::{Phase, Watched};

pub use options::{ServeLimits, ServeOptions, TlsOptions};
pub use tokens::{NewToken, Role, TokenRecord, TokenSecret, Tokens};

/// What is served. Shared, because a server reads and writes from several threads.
pub type Served = Arc<dyn Store + Sync>;

// Jobs that are under way when a server stops may take this long to end.
const JOBS_GRACE: Duration = Duration::from_secs(30);

/// Starts servers.
pub struct Server;

impl Server {
    /// Listens at `options.listen` and serves `store` until [`Running::stop`]. Returns once connections are accepted.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if `options` would let anybody in from elsewhere, or somebody read along, without saying so, or
    /// for a certificate that cannot be used; [`Error::Io`] if the address cannot be had; what is wrong with the tokens
    /// file.
    pub fn start(store: Served, options: ServeOptions) -> Result<Running> {
        let gate = Gate::open(options.tokens.clone().map(Tokens::at), options.public_read)?;
        refuse_open_doors(&options, &gate)?;
        let tls = options.tls.as_ref().map(tls::acceptor).transpose()?;
        let runtime = runtime(&options)?;
        let listener = runtime.block_on(async { accept::bind(options.listen) });
        let place = || options.listen.to_string();
        let listener = listener.map_err(|source| Error::io("listen at", place(), source))?;
        let addr = listener.local_addr().map_err(|source| Error::io("listen at", place(), source))?;
        let bridge = Bridge::new(store, &options);
        let site = Site::new(options, bridge, gate);
        let door = Door::new(Arc::clone(&site), routes::routes(&site), tls);
        let (stop, stopped) = watch::channel(None);
        let listening = runtime.spawn(listen(door, listener, stopped));
        tracing::info!(target: "floe::serve", %addr, "listening");
        let work = Mutex::new(Some(Work { runtime, listening }));
        Ok(Running { addr, site, stop, work, ended: Mutex::new(false), end: Condvar::new() })
    }
}

// Elsewhere than on loopback a server needs TLS, and to know who asks or that everybody may read.
fn refuse_open_doors(options: &ServeOptions, gate: &Gate) -> Result<()> {
    let told_apart = gate.asks() || options.tls.as_ref().is_some_and(|tls| tls.client_ca_pem.is_some());
    let reason = match () {
        () if options.insecure || options.listen.ip().to_canonical().is_loopback() => return Ok(()),
        () if options.tls.is_none() => "anybody between can read along; it needs TLS",
        () if !told_apart => "anybody may do anything; it needs tokens or client certificates",
        () => return Ok(()),
    };
    let what = format!("listening at {}", options.listen);
    Err(Error::Usage { what, reason: format!("{reason}, or the option that allows it (insecure)") })
}

fn runtime(options: &ServeOptions) -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(options.workers.get())
        .max_blocking_threads(Bridge::threads(options))
        .thread_name("floe-serve")
        .enable_all()
        .build()
        .map_err(|source| Error::io("start threads of", "this process", source))
}

/// A server at work. Dropping it stops it at once. Not to be used from async code.
pub struct Running {
    addr: SocketAddr,
    site: Arc<Site>,
    stop: watch::Sender<Option<Duration>>,
    work: Mutex<Option<Work>>,
    ended: Mutex<bool>,
    end: Condvar,
}

struct Work {
    runtime: Runtime,
    listening: JoinHandle<usize>,
}

impl Running {
    /// Where it listens, with the port it got.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on `/readyz` says no, and everything else goes on: for whoever balances load to look elsewhere first.
    pub fn unready(&self) {
        self.site.ready.store(false, Relaxed);
    }

    /// Begins nothing more, lets requests that run end for `grace`, then cuts them; clients resume what is cut. Meanwhile
    /// `/readyz` says no, and everything else that it is still there, but stops (503). Returns how many connections were
    /// cut, 0 if it was stopped before.
    pub fn stop(&self, grace: Duration) -> usize {
        self.unready();
        self.site.stopping.store(true, Relaxed);
        let Some(Work { runtime, listening }) = lock(&self.work).take() else {
            self.wait();
            return 0;
        };
        self.stop.send_replace(Some(grace));
        let cut = runtime.block_on(listening).unwrap_or_default();
        runtime.shutdown_timeout(JOBS_GRACE);
        tracing::info!(target: "floe::serve", cut, "stopped");
        *lock(&self.ended) = true;
        self.end.notify_all();
        cut
    }

    /// Waits until it is stopped.
    pub fn wait(&self) {
        let ended = self.end.wait_while(lock(&self.ended), |ended| !*ended);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if lock(&self.work).is_some() {
            self.stop(Duration::ZERO);
        }
    }
}

/// Serves one connection over standard input and output, until the other side closes it. Whoever can start this may do
/// everything: tokens are not asked for, and no time runs while nothing is said.
pub fn stdio(store: Served, options: &ServeOptions) -> Result<()> {
    let mut options = options.clone();
    options.limits.prune_grace_min = Duration::ZERO;
    let runtime = runtime(&options)?;
    let bridge = Bridge::new(store, &options);
    let site = Site::new(options, bridge, Gate::none());
    let door = Door::new(Arc::clone(&site), routes::routes(&site), None);
    let (stop, stopped) = watch::channel(None);
    runtime.block_on(async {
        let phase = Phase::new();
        let pipe = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
        let io = Watched::new(pipe, None, Arc::clone(&phase), door.rate.clone());
        door.converse(io, Connection { peer: None, phase }, stopped).await;
    });
    drop(stop);
    // A read of standard input may be under way, and nothing would end it.
    runtime.shutdown_background();
    Ok(())
}
