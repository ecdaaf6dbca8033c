//! One server: requests to it, each tried again while that is of use, and its answers, each held to a bound.
//!
//! Invariants: a request may be repeated without harm, because all of the protocol's are idempotent. No redirect is
//! followed. What a server answered with sense is final; what may be chance is tried again.

use std::cell::Cell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufReader, Read};
use std::time::Duration;

use ureq::http::{HeaderValue, Method, Request, Response, header, request};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, RustlsConnector, TcpConnector};
use ureq::{Agent, AsSendBody, BodyReader};

use super::address::{RemoteAddress, RemoteScheme};
use super::child::{ChildConnector, NoResolver};
use super::fault::{self, Failure};
use super::line::{Line, Permit};
use super::meter::{MeterConnector, Watch};
use super::options::{RemoteOptions, Retries, Token};
use super::tls;
use crate::error::{Error, Result};
use crate::store::wire::{BINARY, Items, ItemsError, JSON_LEN_MAX};

pub(super) const JSON: &str = "application/json";
const HEADER_LEN_MAX: usize = 16 << 10;
const BUFFER_LEN: usize = 128 << 10;
// Connections kept for the next request.
const IDLE_MAX: usize = 16;
/// How much longer than others a request may be silent that ends when something is durable.
const SLOW: u32 = 10;

/// A server and the connections to it.
pub(super) struct Origin {
    agent: Agent,
    base: String,
    place: String,
    token: Option<Token>,
    // Where a connection is a process.
    line: Option<Line>,
    options: RemoteOptions,
}

/// A request.
pub(super) struct Ask<'a> {
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Its type and bytes.
    pub body: Option<(&'static str, &'a [u8])>,
    /// The type of the answer; `None` if nothing in it matters.
    pub accept: Option<&'static str>,
    /// It ends only when something is durable.
    pub slow: bool,
}

impl<'a> Ask<'a> {
    pub fn get(path: impl Into<String>, accept: &'static str) -> Ask<'static> {
        Ask { method: Method::GET, path: path.into(), body: None, accept: Some(accept), slow: false }
    }

    pub fn post(path: &str, body: &'a [u8]) -> Ask<'a> {
        let body = Some((BINARY, body));
        Ask { method: Method::POST, path: path.to_owned(), body, accept: Some(BINARY), slow: false }
    }
}

/// An answer whose body was not read yet.
pub(super) struct Answer<'a> {
    origin: &'a Origin,
    body: ureq::Body,
    permit: Option<Permit<'a>>,
}

impl Origin {
    pub fn new(
        address: &RemoteAddress,
        token: &Option<Token>,
        options: &RemoteOptions,
        watch: &Watch,
    ) -> Result<Origin> {
        if token.is_some() && !address.is_private() && !options.insecure {
            let reason = "a token is not sent unencrypted; use https".to_owned();
            return Err(Error::Usage { what: format!("address `{address}`"), reason });
        }
        let config = Agent::config_builder()
            // Given by the caller or not at all: the environment is not ours to read.
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("floe/", env!("CARGO_PKG_VERSION")))
            .accept("")
            .accept_encoding("")
            .timeout_resolve(Some(options.connect))
            .timeout_connect(Some(options.connect))
            .max_idle_connections(IDLE_MAX)
            .max_idle_connections_per_host(IDLE_MAX)
            .max_idle_age(Duration::from_secs(30))
            .max_response_header_size(HEADER_LEN_MAX)
            .input_buffer_size(BUFFER_LEN)
            .output_buffer_size(BUFFER_LEN);
        let plain = address.scheme() == RemoteScheme::Http;
        let meter = MeterConnector { watch: watch.clone(), plain };
        let agent = match address.scheme() {
            RemoteScheme::Ssh => {
                let connector = ChildConnector::new(address, options).chain(meter);
                Agent::with_parts(config.build(), connector, NoResolver)
            }
            scheme => {
                let config = match scheme {
                    RemoteScheme::Https => config.tls_config(tls::config(options)?),
                    _ => config,
                };
                let connector =
                    ().chain(TcpConnector::default()).chain(meter).chain(RustlsConnector::default());
                Agent::with_parts(config.build(), connector, DefaultResolver::default())
            }
        };
        let ssh = address.scheme() == RemoteScheme::Ssh;
        Ok(Origin {
            agent,
            base: if ssh { "http://floe".to_owned() } else { address.to_string() },
            place: format!("store `{address}`"),
            token: token.clone().filter(|_| !ssh),
            line: ssh.then(Line::default),
            options: options.clone(),
        })
    }

    /// What errors call it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The answer to `ask`, read by `read`; both again if the connection fails.
    pub fn ask<T>(&self, ask: &Ask<'_>, read: impl Fn(Answer<'_>) -> Result<T, Failure>) -> Result<T> {
        let tries = Tries::new(self);
        loop {
            match self.send(ask).and_then(&read) {
                Ok(told) => return Ok(told),
                Err(failure) => tries.again(failure)?,
            }
        }
    }

    /// The answer to `ask`, for reading once: nothing is tried again after it began.
    pub fn ask_open(&self, ask: &Ask<'_>) -> Result<Answer<'_>> {
        let tries = Tries::new(self);
        loop {
            match self.send(ask) {
                Ok(answer) => return Ok(answer),
                Err(failure) => tries.again(failure)?,
            }
        }
    }

    /// The body of the answer to `ask`, of at most `len_max` bytes.
    pub fn ask_bytes(&self, ask: &Ask<'_>, len_max: usize) -> Result<Vec<u8>> {
        self.ask(ask, |answer| answer.bytes(len_max))
    }

    /// The answer to `ask` as JSON.
    pub fn ask_json<T: serde::de::DeserializeOwned>(&self, ask: &Ask<'_>, len_max: usize) -> Result<T> {
        let bytes = self.ask_bytes(ask, len_max)?;
        serde_json::from_slice(&bytes).map_err(|error| self.malformed(error.to_string()))
    }

    /// Asks for `count` items and calls `each` once for every one. `body` makes the request for those that are still
    /// to come, which a connection that fails leaves behind: they are asked for again, what came is not.
    pub fn ask_items(
        &self,
        path: &str,
        count: usize,
        len_max: usize,
        body: &dyn Fn(&[usize]) -> Vec<u8>,
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        let tries = Tries::new(self);
        let mut to_come: Vec<usize> = (0..count).collect();
        while !to_come.is_empty() {
            let mut told = vec![false; to_come.len()];
            let request = body(&to_come);
            let got = self.send(&Ask::post(path, &request)).and_then(|answer| {
                answer.items(len_max, &mut |number, item| match (
                    told.get_mut(number as usize),
                    to_come.get(number as usize),
                ) {
                    (Some(told @ false), Some(index)) => {
                        *told = true;
                        tries.progressed();
                        each(*index, item)
                    }
                    (Some(_), _) => Err(self.malformed(format!("item {number} came twice"))),
                    (None, _) => Err(self.malformed(format!("item {number} was not asked for"))),
                })
            });
            let rest = to_come.iter().zip(&told).filter(|(_, told)| !**told).map(|(index, _)| *index);
            to_come = rest.collect();
            match got {
                Err(Failure::Final(error)) => return Err(error),
                // Whatever happened behind the last item harms nobody.
                _ if to_come.is_empty() => {}
                Ok(()) => return Err(self.malformed(format!("{} items never came", to_come.len()))),
                Err(failure) => tries.again(failure)?,
            }
        }
        Ok(())
    }

    /// One try. The answer has a good status and the type asked for.
    pub fn send(&self, ask: &Ask<'_>) -> Result<Answer<'_>, Failure> {
        let silence = self.options.silence.saturating_mul(if ask.slow { SLOW } else { 1 });
        let permit = match &self.line {
            Some(line) => {
                let counters = &self.options.counters;
                let moved = || counters.sent().wrapping_add(counters.received());
                Some(line.enter(silence, &moved, &*self.options.wait).map_err(Failure::Final)?)
            }
            None => None,
        };
        self.options.counters.add_request();
        let mut request = Request::builder().method(&ask.method).uri(format!("{}{}", self.base, ask.path));
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
                .map_err(|_| Failure::Final(Error::Usage { what: "token".into(), reason: "unfit".into() }))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let response = match ask.body {
            Some((kind, bytes)) => self.run(request.header(header::CONTENT_TYPE, kind), bytes, silence),
            None => self.run(request, (), silence),
        };
        let response = response.map_err(|error| self.failed("reach", error))?;
        let (head, body) = response.into_parts();
        let answer = Answer { origin: self, body, permit };
        if !head.status.is_success() {
            let words = answer.bytes(JSON_LEN_MAX).unwrap_or_default();
            return Err(fault::refused(&self.place, ask, &head, &words));
        }
        if let Some(accept) = ask.accept {
            let kind =
                head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
            let media = kind.split(';').next().unwrap_or_default().trim();
            if !media.eq_ignore_ascii_case(accept) {
                let reason = format!("its type is `{}`, not `{accept}`", kind.escape_debug());
                return Err(Failure::Final(self.malformed(reason)));
            }
        }
        Ok(answer)
    }

    fn run<S: AsSendBody>(
        &self,
        request: request::Builder,
        body: S,
        silence: Duration,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let request = self.agent.configure_request(request.body(body)?);
        let timed = request.timeout_per_read(Some(silence)).timeout_per_write(Some(silence));
        self.agent.run(timed.build())
    }

    pub fn malformed(&self, reason: String) -> Error {
        Error::Malformed { kind: "answer", place: self.place.clone(), reason }
    }

    /// What an error of a connection means.
    pub fn failed(&self, action: &'static str, error: ureq::Error) -> Failure {
        fault::failed(&self.place, action, error)
    }
}

impl<'a> Answer<'a> {
    /// All of the body; more than `len_max` bytes are an error.
    pub fn bytes(mut self, len_max: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let mut reader = self.body.as_reader().take(len_max as u64 + 1);
        reader.read_to_end(&mut bytes).map_err(|error| self.origin.failed("read from", error.into()))?;
        if bytes.len() > len_max {
            let what = format!("length of an answer from {}", self.origin.place);
            return Err(Failure::Final(Error::Limit {
                what,
                actual: bytes.len() as u64,
                max: len_max as u64,
            }));
        }
        Ok(bytes)
    }

    /// The body as a stream of items of at most `len_max` bytes each.
    pub fn items(
        mut self,
        len_max: usize,
        each: &mut dyn FnMut(u32, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<(), Failure> {
        let mut reader = BufReader::with_capacity(BUFFER_LEN, self.body.as_reader());
        let cut = |error: io::Error| self.origin.failed("read from", error.into());
        let mut items = Items::new(&mut reader, len_max, &self.origin.place);
        loop {
            match items.next() {
                Ok(Some((number, item))) => each(number, item).map_err(Failure::Final)?,
                Ok(None) => break,
                Err(ItemsError::Read(error)) => return Err(cut(error)),
                Err(ItemsError::Refused(error)) => return Err(Failure::Final(error)),
            }
        }
        // Reading to the very end gives the connection back.
        match reader.read(&mut [0]).map_err(cut)? {
            0 => Ok(()),
            _ => Err(Failure::Final(self.origin.malformed("something follows its end mark".into()))),
        }
    }

    /// The body as it comes.
    pub fn into_reader(self) -> Stream<'a> {
        Stream { body: self.body.into_reader(), _permit: self.permit }
    }
}

/// The body of an answer.
pub(super) struct Stream<'a> {
    body: BodyReader<'static>,
    _permit: Option<Permit<'a>>,
}

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.body.read(into)
    }
}

/// How often in a row it failed.
pub(super) struct Tries<'a> {
    retries: Retries,
    asked_max: Duration,
    wait: &'a dyn Fn(Duration) -> bool,
    failed: Cell<u32>,
}

impl<'a> Tries<'a> {
    pub fn new(origin: &'a Origin) -> Tries<'a> {
        let RemoteOptions { retries, silence, .. } = origin.options;
        // Nobody is waited for longer than for an answer.
        let asked_max = retries.max.min(silence);
        Tries { retries, asked_max, wait: &*origin.options.wait, failed: Cell::new(0) }
    }

    pub fn progressed(&self) {
        self.failed.set(0);
    }

    /// Waits before the next try, or returns the error if there is to be none.
    pub fn again(&self, failure: Failure) -> Result<()> {
        let (error, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again(error, asked) => (error, asked),
        };
        let failed = self.failed.get() + 1;
        self.failed.set(failed);
        if failed >= self.retries.attempts.max(1) {
            return Err(error);
        }
        let longest = self.retries.base.saturating_mul(1 << (failed - 1).min(20));
        // Half of it is chance, so that many clients that failed together do not come back together.
        let backoff = longest.min(self.retries.max);
        let wait = backoff.mul_f64(0.5 + 0.5 * chance());
        let wait = wait.max(asked.unwrap_or_default().min(self.asked_max));
        if (self.wait)(wait) { Ok(()) } else { Err(Error::Cancelled) }
    }
}

// From 0 to 1. Every hasher of the library's is seeded anew.
fn chance() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}
