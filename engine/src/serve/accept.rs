//! Connections: accepted within bounds, spoken to in HTTP/1.1 (one request at a time each), and ended in order.
//!
//! While a server stops, those that have a request at work go on, and new ones are only told that it stops.

use std::io;
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
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::guests::{Guests, NoSeat, Seat};
use super::limits::{Rate, client_of};
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
        let peer = connection.peer;
        let router = TowerToHyperService::new(self.router.clone().into_service::<Incoming>());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(connection.clone());
            router.call(request)
        });
        let stopping = stop.borrow().is_some();
        let talk = self.http().keep_alive(!stopping).serve_connection(TokioIo::new(io), service);
        tokio::pin!(talk);
        let result = tokio::select! {
            result = talk.as_mut() => result,
            () = told(&mut stop), if !stopping => {
                talk.as_mut().graceful_shutdown();
                talk.await
            }
        };
        if let Err(error) = result {
            let reason = if error.is_parse() { "garbage" } else { "broken" };
            self.site.metrics.refused(reason);
            tracing::debug!(target: "floe::serve", %error, reason, peer = %shown(peer), "a connection ended");
        }
    }

    async fn welcome(self: Arc<Self>, guest: Guest, stop: Stop) {
        let Guest { stream, peer, phase, held } = guest;
        let leave = Arc::clone(&held.seat.leave);
        tokio::select! {
            () = self.receive(stream, peer, phase, stop) => {}
            () = leave.notified() => {
                self.site.metrics.refused("crowd");
                tracing::debug!(target: "floe::serve", %peer, "a connection had to make room");
            }
        }
        drop(held);
    }

    async fn receive(&self, stream: TcpStream, peer: IpAddr, phase: Arc<Phase>, stop: Stop) {
        let limits = &self.site.options.limits;
        // Small answers go at once; large ones are gathered above.
        let _ = stream.set_nodelay(true);
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
    }
}

fn shown(peer: Option<IpAddr>) -> String {
    peer.map_or_else(|| "pipe".to_owned(), |peer| peer.to_string())
}

// A new connection.
struct Guest {
    stream: TcpStream,
    peer: IpAddr,
    phase: Arc<Phase>,
    held: Held,
}

// A connection's place, until it ends.
struct Held {
    seat: Seat,
    site: Arc<Site>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.site.metrics.connections_open.dec();
    }
}

/// Listens at `addr`. As many as the system allows may wait to be accepted: a crowd is told apart here, not there.
pub(super) fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    const WAITING_MAX: u32 = 4096;
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that was just stopped does not keep the address from the next.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(WAITING_MAX)
}

/// Accepts connections until `stop` says so, then lets them end for the time it says. Returns how many were cut.
pub(super) async fn listen(door: Arc<Door>, listener: TcpListener, stop: Stop) -> usize {
    let limits = &door.site.options.limits;
    let guests = Guests::new(limits.connections, limits.connections_per_client);
    let mut open = JoinSet::new();
    let mut stopping = stop.clone();
    loop {
        let next = next_guest(&door, &listener, &guests);
        tokio::pin!(next);
        let guest = loop {
            tokio::select! {
                guest = &mut next => break guest,
                Some(_) = open.join_next() => {}
                () = told(&mut stopping) => return end(&door, &listener, &guests, open, stop).await,
            }
        };
        if let Some(guest) = guest {
            open.spawn(Arc::clone(&door).welcome(guest, stop.clone()));
        }
    }
}

// Lets what is `open` end in time. Who comes meanwhile is told no, so that others need not find it out by themselves.
async fn end(
    door: &Arc<Door>,
    listener: &TcpListener,
    guests: &Arc<Guests>,
    mut open: JoinSet<()>,
    mut stop: Stop,
) -> usize {
    let grace = stop.borrow_and_update().unwrap_or_default();
    let mut asking = JoinSet::new();
    let ending = async {
        loop {
            tokio::select! {
                ended = open.join_next() => if ended.is_none() { break },
                guest = next_guest(door, listener, guests) => {
                    if let Some(guest) = guest {
                        asking.spawn(Arc::clone(door).welcome(guest, stop.clone()));
                    }
                }
                Some(_) = asking.join_next() => {}
            }
        }
    };
    let ended = timeout(grace, ending).await;
    asking.shutdown().await;
    let cut = if ended.is_ok() { 0 } else { open.len() };
    open.shutdown().await;
    cut
}

// The next connection that has a place; `None` if it had to be closed.
async fn next_guest(door: &Door, listener: &TcpListener, guests: &Arc<Guests>) -> Option<Guest> {
    let metrics = &door.site.metrics;
    let (stream, peer) = match listener.accept().await {
        Ok((stream, peer)) => (stream, peer.ip()),
        Err(error) => {
            metrics.refused("accept");
            tracing::warn!(target: "floe::serve", %error, "a connection could not be accepted");
            // No descriptors left, most likely: some have to come free.
            sleep(Duration::from_millis(50)).await;
            return None;
        }
    };
    // A proxy's address is everybody's.
    let client = (!door.site.options.proxied).then(|| client_of(peer));
    let phase = Phase::new();
    loop {
        match guests.seat(client, &phase) {
            Ok((seat, _)) => {
                metrics.connections_open.inc();
                let held = Held { seat, site: Arc::clone(&door.site) };
                return Some(Guest { stream, peer, phase, held });
            }
            Err(NoSeat::Full) => guests.some_left().await,
            Err(NoSeat::Client) => {
                metrics.refused("connections");
                tracing::debug!(target: "floe::serve", %peer, "too many connections of one address");
                return None;
            }
        }
    }
}
