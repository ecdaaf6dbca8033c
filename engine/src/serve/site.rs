//! What all requests of one server share, and what every request goes through: counting, admission, the log.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::store::wire::BINARY;

use super::answer::{Answer, JSON, Refused};
use super::bridge::Bridge;
use super::gate::{Caller, Gate};
use super::limits::{Client, Place, Places, client_of};
use super::metrics::Metrics;
use super::options::ServeOptions;
use super::plans::Plans;
use super::shares::Shares;
use super::tokens::Role;
use super::watched::{AtWork, Phase};

/// One server.
pub(super) struct Site {
    pub options: ServeOptions,
    pub bridge: Bridge,
    pub gate: Gate,
    pub metrics: Metrics,
    pub in_flight: Shares,
    pub bodies: Shares,
    pub plans: Plans,
    pub sweeps: Semaphore,
    pub streams: Arc<Places>,
    pub ready: AtomicBool,
    /// It ends what it does and begins nothing.
    pub stopping: AtomicBool,
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
            in_flight: Shares::new(limits.in_flight_bytes_max),
            bodies: Shares::new(limits.bodies_bytes_max),
            plans: Plans::new(limits.updates_bytes_max, limits.updates),
            sweeps: Semaphore::new(1),
            streams: Places::new(limits.streams_per_client),
            ready: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
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
    pub client: Client,
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

/// What a route is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing that it looks at.
    Nothing,
    Json,
    Binary,
}

/// What is known of a route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// What the log and the metrics call it.
    pub route: &'static str,
    pub needs: Needs,
    pub takes: Takes,
}

/// Takes a request through admission and its work, and sends the answer under the eyes of the log.
pub(super) async fn carry_out<W: Future<Output = Answer>>(
    site: Arc<Site>,
    rule: Rule,
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
        route: rule.route,
        peer,
        _place: None,
        _at_work: connection.map(|connection| connection.phase.work()),
    };
    site.metrics.requests_open.inc();
    let chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
    let answer = match admit(&site, rule, peer, &head) {
        Err(refused) => Err(refused),
        Ok((caller, place)) => {
            told.caller.clone_from(&caller.id);
            told._place = place;
            let client = peer.map(client_of);
            let ask = Ask { site: Arc::clone(&site), caller, client, head, body, args };
            let slow = |_| Err(Refused::slow("it took too long"));
            timeout_at(until, work(ask)).await.unwrap_or_else(slow)
        }
    };
    let mut response = answer.unwrap_or_else(|refused| {
        site.metrics.refused(refused.label);
        if let Some(cause) = &refused.unseen.cause {
            tracing::error!(target: "floe::serve", route = rule.route, cause, "a request failed");
        }
        if told.caller.is_none() {
            told.caller.clone_from(&refused.unseen.caller);
        }
        refused.into_response()
    });
    if chunked {
        // A length that was beside it is read over, and what follows may be a request to one of two and not to the other.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    told.status = response.status().as_u16();
    site.metrics.request(rule.route, told.status);
    response.map(|body| Body::new(Told::over(told, body, until)))
}

fn admit(
    site: &Site,
    rule: Rule,
    peer: Option<IpAddr>,
    head: &Parts,
) -> Result<(Caller, Option<Place>), Refused> {
    let headers = &head.headers;
    let (role, whole) = match rule.needs {
        Needs::Nothing => return Ok((Caller { role: Role::Read, app: None, id: None }, None)),
        Needs::Role(role) => (role, false),
        Needs::Whole(role) => (role, true),
    };
    if site.stopping.load(Relaxed) {
        return Err(Refused::busy("stopping", "it is stopping"));
    }
    if site.trusting && peer.is_some() {
        refuse_browsers(head)?;
    }
    let caller = site.gate.admit(headers, site.now_unix_s())?;
    let denied = |reason: String| Err(Refused::denied("the request", reason).with_caller(caller.id.clone()));
    if caller.role < role {
        let has = caller.id.as_ref().map_or("nobody's", |_| "the token's");
        return denied(format!("it needs role {role}, {has} is {}", caller.role));
    }
    if let Some(app) = caller.app.as_ref().filter(|_| whole) {
        return denied(format!("the token is for `{app}` alone"));
    }
    check_type(rule.takes, headers)?;
    let place = match peer {
        None => None,
        Some(peer) => Some(site.streams.take(client_of(peer)).ok_or_else(Refused::too_many)?),
    };
    Ok((caller, place))
}

fn check_type(takes: Takes, headers: &HeaderMap) -> Result<(), Refused> {
    let wanted = match takes {
        Takes::Nothing => return Ok(()),
        Takes::Json => JSON,
        Takes::Binary => BINARY,
    };
    let told = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = told.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case(wanted) { Ok(()) } else { Err(Refused::wrong_type(told, wanted)) }
}

// Where nobody is told apart, a page in this machine's browser must not be able to do what its user may: not by a
// request across sites, nor by a name of its own that leads here. A request may say where it goes in its first line,
// too.
fn refuse_browsers(head: &Parts) -> Result<(), Refused> {
    let headers = &head.headers;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let target = head.uri.authority().map_or("", |authority| authority.as_str());
    let hosts = headers.get_all(header::HOST).iter().count();
    if headers.contains_key(header::ORIGIN) || hosts > 1 || !is_here(host) || !is_here(target) {
        return Err(Refused::denied("the request", "it comes from a web page"));
    }
    Ok(())
}

fn is_here(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_start_matches('[').trim_end_matches(']');
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
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
        let peer = self.peer.map_or_else(|| "pipe".to_owned(), |peer| peer.to_string());
        tracing::info!(
            target: "floe::serve",
            method = self.method,
            route = self.route,
            path = self.path,
            status = self.status,
            bytes = self.bytes,
            ms = self.start.elapsed().as_millis() as u64,
            peer,
            caller = self.caller.as_deref().unwrap_or(&peer),
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
