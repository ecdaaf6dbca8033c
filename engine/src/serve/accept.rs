//! Connections: accepted within bounds, spoken to in HTTP/1.1 (one request at a time each), and ended in order.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::limits::{Place, Places, Rate, client_of};
use super::site::{Connection, Site};
use super::watched::{Phase, Times, Watched};

// What hyper gathers before it writes, and reads at once.
const BUFFER_LEN: usize = 256 << 10;
const HEADERS_MAX: usize = 64;

/// How a server is to end: once told, within so long.
pub(super) type Stop = watch::Receiver<Option<Duration>>;

async fn told(stop: &mut Stop) {
    // The other end gone says the same.
    drop(stop.wait_for(Option::is_some).await);
}

/// What every connection of a server needs.
pub(super) struct Door {
    pub site: Arc<Site>,
    pub router: Router,
    pub tls: Option<TlsAcceptor>,
    pub rate: Option<Arc<Rate>>,
}

impl Door {
    pub fn new(site: Arc<Site>, router: Router, tls: Option<TlsAcceptor>) -> Arc<Door> {
        let rate = site.options.limits.limit_rate.map(|rate| Arc::new(Rate::new(rate)));
        Arc::new(Door { site, router, tls, rate })
    }

    fn http(&self) -> http1::Builder {
        let mut http = http1::Builder::new();
        // Time is watched below; a client may close its side and still read.
        http.half_close(true).header_read_timeout(None).max_headers(HEADERS_MAX).max_buf_size(BUFFER_LEN);
        http.max_header_size(self.site.options.limits.header_len_max.max(8 << 10));
        http
    }

    /// Speaks HTTP over `io` until it ends or `stop` says so.
    pub async fn converse(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        connection: Connection,
        mut stop: Stop,
    ) {
        let router = TowerToHyperService::new(self.router.clone().into_service::<Incoming>());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            router.call(request)
        });
        let talk = self.http().serve_connection(TokioIo::new(io), service);
        tokio::pin!(talk);
        let result = tokio::select! {
            result = talk.as_mut() => result,
            () = told(&mut stop) => {
                talk.as_mut().graceful_shutdown();
                talk.await
            }
        };
        if let Err(error) = result {
            let reason = if error.is_parse() { "garbage" } else { "broken" };
            self.site.metrics.refused(reason);
            tracing::debug!(target: "floe::serve", %error, reason, "a connection ended");
        }
    }

    async fn welcome(self: Arc<Self>, stream: TcpStream, peer: IpAddr, held: Held, stop: Stop) {
        let limits = &self.site.options.limits;
        // Small answers go at once; large ones are gathered above.
        let _ = stream.set_nodelay(true);
        let phase = Phase::new();
        let io = Watched::new(stream, Some(Times::of(limits)), Arc::clone(&phase), self.rate.clone());
        let connection = Connection { peer: Some(peer), phase };
        match &self.tls {
            None => self.converse(io, connection, stop).await,
            Some(tls) => match timeout(limits.header_timeout, tls.accept(io)).await {
                Ok(Ok(io)) => self.converse(io, connection, stop).await,
                Ok(Err(error)) => {
                    self.site.metrics.refused("tls");
                    tracing::debug!(target: "floe::serve", %error, %peer, "no TLS");
                }
                Err(_) => self.site.metrics.refused("slow"),
            },
        }
        drop(held);
    }
}

// A connection's places, until it ends.
struct Held {
    _all: OwnedSemaphorePermit,
    _own: Option<Place>,
    site: Arc<Site>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.site.metrics.connections_open.dec();
    }
}

/// Accepts connections until `stop` says so, then lets them end for the time it says. Returns how many were cut.
pub(super) async fn listen(door: Arc<Door>, listener: TcpListener, mut stop: Stop) -> usize {
    let limits = &door.site.options.limits;
    let all = Arc::new(Semaphore::new(limits.connections));
    let own = Places::new(limits.connections_per_client);
    let mut open = JoinSet::new();
    let mut stopping = stop.clone();
    loop {
        // A place first: who does not get one waits in the kernel, where it costs nothing.
        let next = async {
            let place = Arc::clone(&all).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            Some(_) = open.join_next() => continue,
            () = told(&mut stopping) => break,
        };
        match (place, accepted) {
            (Ok(place), Ok((stream, peer))) => welcome(&door, &mut open, &own, (place, stream, peer), &stop),
            (Err(_), _) => break,
            (_, Err(error)) => {
                door.site.metrics.refused("accept");
                tracing::warn!(target: "floe::serve", %error, "a connection could not be accepted");
                // No descriptors left, most likely: some have to come free.
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let grace = stop.borrow_and_update().unwrap_or_default();
    let ended = timeout(grace, async { while open.join_next().await.is_some() {} }).await;
    let cut = if ended.is_ok() { 0 } else { open.len() };
    open.shutdown().await;
    cut
}

fn welcome(
    door: &Arc<Door>,
    open: &mut JoinSet<()>,
    own: &Arc<Places>,
    (place, stream, peer): (OwnedSemaphorePermit, TcpStream, SocketAddr),
    stop: &Stop,
) {
    let site = Arc::clone(&door.site);
    // A proxy's address is everybody's.
    let own = match site.options.proxied {
        true => None,
        false => match own.take(client_of(peer.ip())) {
            Some(own) => Some(own),
            None => return site.metrics.refused("connections"),
        },
    };
    site.metrics.connections_open.inc();
    let held = Held { _all: place, _own: own, site };
    open.spawn(Arc::clone(door).welcome(stream, peer.ip(), held, stop.clone()));
}
