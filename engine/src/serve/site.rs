//! What all requests of one server share, and what every request goes through: counting, admission, the log.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::answer::{Answer, Refused};
use super::bridge::Bridge;
use super::gate::{Caller, Gate};
use super::limits::{Budget, Place, Places, client_of};
use super::metrics::Metrics;
use super::options::ServeOptions;
use super::tokens::Role;
use super::watched::{AtWork, Phase};

/// One server.
pub(super) struct Site {
    pub options: ServeOptions,
    pub bridge: Bridge,
    pub gate: Gate,
    pub metrics: Metrics,
    pub in_flight: Budget,
    pub bodies: Budget,
    pub sweeps: Semaphore,
    pub streams: Arc<Places>,
    pub ready: AtomicBool,
    /// It listens where only this machine can come from, and tells nobody apart.
    pub trusting: bool,
}

impl Site {
    pub fn new(options: ServeOptions, bridge: Bridge, gate: Gate) -> Arc<Site> {
        let limits = &options.limits;
        let trusting = options.listen.ip().to_canonical().is_loopback() && !gate.asks() && !options.proxied;
        Arc::new(Site {
            bridge,
            gate,
            metrics: Metrics::new(),
            in_flight: Budget::new(limits.in_flight_bytes_max),
            bodies: Budget::new(limits.bodies_bytes_max),
            sweeps: Semaphore::new(1),
            streams: Places::new(limits.streams_per_client),
            ready: AtomicBool::new(true),
            trusting,
            options,
        })
    }

    /// Seconds since 1970 by this machine's clock.
    pub fn now_unix_s(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// Where a request came from.
#[derive(Clone)]
pub(super) struct Connection {
    /// `None`: a pipe.
    pub peer: Option<IpAddr>,
    pub phase: Arc<Phase>,
}

/// A request that was let in.
pub(super) struct Ask {
    pub site: Arc<Site>,
    pub caller: Caller,
    pub head: Parts,
    pub body: Body,
    /// The parts of its path that the route leaves open.
    pub args: Vec<String>,
}

/// What a route demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing; it is not counted either.
    Nothing,
    /// This role.
    Role(Role),
    /// This role for all applications.
    Whole(Role),
}

/// Takes a request through admission and its work, and sends the answer under the eyes of the log.
pub(super) async fn carry_out<W: Future<Output = Answer>>(
    site: Arc<Site>,
    route: &'static str,
    needs: Needs,
    request: (Parts, Body, Vec<String>),
    work: impl FnOnce(Ask) -> W,
) -> Response<Body> {
    let (head, body, args) = request;
    let connection = head.extensions.get::<Connection>().cloned();
    let peer = peer(&site, connection.as_ref(), &head.headers);
    let until = Instant::now() + site.options.limits.total_timeout;
    let mut told = Told {
        method: head.method.to_string(),
        path: head.uri.path().escape_debug().to_string(),
        start: Instant::now(),
        status: 0,
        bytes: 0,
        whole: false,
        caller: None,
        site: Arc::clone(&site),
        route,
        peer,
        _place: None,
        _at_work: connection.map(|connection| connection.phase.work()),
    };
    site.metrics.requests_open.inc();
    let answer = match admit(&site, needs, peer, &head.headers) {
        Err(refused) => Err(refused),
        Ok((caller, place)) => {
            told.caller.clone_from(&caller.id);
            told._place = place;
            let ask = Ask { site: Arc::clone(&site), caller, head, body, args };
            let slow = |_| Err(Refused::slow("it took too long"));
            timeout_at(until, work(ask)).await.unwrap_or_else(slow)
        }
    };
    let response = answer.unwrap_or_else(|refused| {
        site.metrics.refused(refused.label);
        if let Some(cause) = &refused.cause {
            tracing::error!(target: "floe::serve", route, cause, "a request failed");
        }
        refused.into_response()
    });
    told.status = response.status().as_u16();
    site.metrics.request(route, told.status);
    response.map(|body| Body::new(Told::over(told, body, until)))
}

fn admit(
    site: &Site,
    needs: Needs,
    peer: Option<IpAddr>,
    headers: &HeaderMap,
) -> Result<(Caller, Option<Place>), Refused> {
    let (role, whole) = match needs {
        Needs::Nothing => return Ok((Caller { role: Role::Read, app: None, id: None }, None)),
        Needs::Role(role) => (role, false),
        Needs::Whole(role) => (role, true),
    };
    if site.trusting && peer.is_some() {
        refuse_browsers(headers)?;
    }
    let caller = site.gate.admit(headers, site.now_unix_s())?;
    if caller.role < role {
        let has = caller.id.as_ref().map_or("nobody's", |_| "the token's");
        return Err(Refused::denied(
            "the request",
            format!("it needs role {role}, {has} is {}", caller.role),
        ));
    }
    if let Some(app) = caller.app.as_ref().filter(|_| whole) {
        return Err(Refused::denied("the request", format!("the token is for `{app}` alone")));
    }
    let place = match peer {
        None => None,
        Some(peer) => Some(site.streams.take(client_of(peer)).ok_or_else(Refused::too_many)?),
    };
    Ok((caller, place))
}

// Where nobody is told apart, a page in this machine's browser must not be able to do what its user may: not by a
// request across sites, nor by a name of its own that leads here.
fn refuse_browsers(headers: &HeaderMap) -> Result<(), Refused> {
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_start_matches('[').trim_end_matches(']');
    let here = name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok();
    let hosts = headers.get_all("host").iter().count();
    if headers.contains_key("origin") || !here || hosts > 1 {
        return Err(Refused::denied("the request", "it comes from a web page"));
    }
    Ok(())
}

fn peer(site: &Site, connection: Option<&Connection>, headers: &HeaderMap) -> Option<IpAddr> {
    let direct = connection.and_then(|connection| connection.peer)?;
    let last = headers.get_all("x-forwarded-for").iter().next_back().filter(|_| site.options.proxied);
    let told = last.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    Some(told.unwrap_or(direct))
}

// What the log says of a request once its answer is sent, or cut.
struct Told {
    site: Arc<Site>,
    method: String,
    route: &'static str,
    path: String,
    peer: Option<IpAddr>,
    caller: Option<String>,
    start: Instant,
    status: u16,
    bytes: u64,
    whole: bool,
    _place: Option<Place>,
    _at_work: Option<AtWork>,
}

impl Told {
    fn over(mut told: Told, body: Body, until: Instant) -> Watch {
        told.whole = body.is_end_stream() || told.method == "HEAD";
        Watch { body, told, timer: Box::pin(sleep_until(until)) }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let metrics = &self.site.metrics;
        metrics.requests_open.dec();
        metrics.bytes_out.inc_by(self.bytes);
        tracing::info!(
            target: "floe::serve",
            method = self.method,
            route = self.route,
            path = self.path,
            status = self.status,
            bytes = self.bytes,
            ms = self.start.elapsed().as_millis() as u64,
            peer = self.peer.map_or_else(|| "pipe".to_owned(), |peer| peer.to_string()),
            caller = self.caller.as_deref().unwrap_or("-"),
            cut = !self.whole,
            "request"
        );
    }
}

// A body that is counted, and ends in time.
struct Watch {
    body: Body,
    told: Told,
    timer: Pin<Box<Sleep>>,
}

impl hyper::body::Body for Watch {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        use std::future::Future as _;
        if self.timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(axum::Error::new(std::io::Error::from(
                std::io::ErrorKind::TimedOut,
            )))));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.told.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                let whole = self.body.is_end_stream();
                self.told.whole |= whole;
            }
            Poll::Ready(None) => self.told.whole = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Site {
    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }
}
