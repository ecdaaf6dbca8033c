//! What every byte of a connection passes: it is counted, held to the limit of rate, and missed when it does not come.
//! Lies below TLS, so that everything is counted that the network carries.
//!
//! A sending that the other side does not take any more is no error yet: it may have answered before it closed, and that
//! answer says why.
//!
//! Invariant: no wait for the other side is longer than the silence that the request allows, and nobody is waited for
//! who sends less than [`DRIP_LEN`] bytes in that time.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Timeout};

use super::options::{Counters, Now, RemoteOptions, Wait};

/// Fewer bytes than these in a whole time of silence are as good as none.
const DRIP_LEN: u64 = 1024;
// How often a wait looks whether the caller wants to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A bucket that fills with time: each byte takes from it, and who finds it empty waits. Holds a quarter of a second.
struct Bucket {
    rate: u64,
    // When it will be as full as it can be.
    full_at: Mutex<Option<Instant>>,
}

impl Bucket {
    /// How long to wait after `bytes` at `now`.
    fn take(&self, bytes: u64, now: Instant) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate.max(1) as f64);
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = full_at.map_or(now, |at| at.max(now)) + cost;
        *full_at = Some(next);
        next.saturating_duration_since(now).saturating_sub(Duration::from_millis(250))
    }
}

/// What all connections of a store share.
#[derive(Clone)]
pub(super) struct Watch {
    counters: Arc<Counters>,
    down: Option<Arc<Bucket>>,
    up: Option<Arc<Bucket>>,
    wait: Wait,
    now: Now,
}

impl Watch {
    pub fn new(options: &RemoteOptions) -> Watch {
        let bucket = || options.limit_rate.map(|rate| Arc::new(Bucket { rate, full_at: Mutex::default() }));
        Watch {
            counters: Arc::clone(&options.counters),
            down: bucket(),
            up: bucket(),
            wait: Arc::clone(&options.wait),
            now: Arc::clone(&options.now),
        }
    }

    fn pace(&self, bucket: &Option<Arc<Bucket>>, bytes: u64) -> Result<(), Error> {
        let wait = bucket.as_ref().map_or(Duration::ZERO, |bucket| bucket.take(bytes, (self.now)()));
        match wait.is_zero() || (self.wait)(wait) {
            true => Ok(()),
            false => Err(stopped()),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// The caller wants to stop.
#[derive(Debug)]
pub(super) struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped on request")
    }
}

impl std::error::Error for Stopped {}

fn stopped() -> Error {
    Error::Other(Box::new(Stopped))
}

/// The first words of the other side are no HTTP, but perhaps TLS.
#[derive(Debug)]
pub(super) struct Foreign {
    pub tls: bool,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "it speaks TLS" } else { "it does not speak HTTP" })
    }
}

impl std::error::Error for Foreign {}

impl Foreign {
    // By the first bytes; every answer in HTTP begins with the same letter, every alert in TLS with these two.
    fn tell(words: &[u8]) -> Option<Foreign> {
        match words {
            [] | [b'H', ..] => None,
            [0x15] | [0x15, 3, ..] => Some(Foreign { tls: true }),
            _ => Some(Foreign { tls: false }),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted)
}

/// Puts a [`Meter`] on the connection made before it in the chain.
#[derive(Debug)]
pub(super) struct MeterConnector {
    pub watch: Watch,
    /// HTTP comes next, with nothing between.
    pub plain: bool,
}

impl<In: Transport> Connector<In> for MeterConnector {
    type Out = Meter<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<Meter<In>>, Error> {
        let (watch, plain) = (self.watch.clone(), self.plain);
        let waited = Duration::ZERO;
        Ok(chained.map(|inner| Meter { inner, watch, waited, got: 0, unheard: plain, cut: false }))
    }
}

#[derive(Debug)]
pub(super) struct Meter<T> {
    inner: T,
    watch: Watch,
    // Time spent waiting, and bytes that came in it, since the last sending or since enough came.
    waited: Duration,
    got: u64,
    // Nothing came yet, and what comes must be HTTP.
    unheard: bool,
    // The other side takes nothing any more.
    cut: bool,
}

impl<T: Transport> Meter<T> {
    // One read, in slices, so that a caller who wants to stop does not wait for the other side.
    fn read(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let silence = timeout.per_read.map(|silence| *silence);
        let begun = (self.watch.now)();
        loop {
            let waited = (self.watch.now)().saturating_duration_since(begun);
            if silence.is_some_and(|silence| waited >= silence) {
                return Err(Error::Timeout(Timeout::PerRead));
            }
            if waited >= *timeout.after {
                return Err(Error::Timeout(timeout.reason));
            }
            let left = silence.unwrap_or(Duration::MAX).min(*timeout.after).saturating_sub(waited);
            let slice = NextTimeout { after: LOOK.min(left).into(), per_read: None, ..timeout };
            match Transport::await_input(&mut self.inner, slice) {
                Err(Error::Timeout(_)) if (self.watch.wait)(Duration::ZERO) => {}
                Err(Error::Timeout(_)) => return Err(stopped()),
                other => return other,
            }
        }
    }
}

impl<T: Transport> Transport for Meter<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        (self.waited, self.got) = (Duration::ZERO, 0);
        if self.cut {
            return Ok(());
        }
        match self.inner.transmit_output(amount, timeout) {
            Err(Error::Io(error)) if is_gone(&error) => {
                self.cut = true;
                return Ok(());
            }
            sent => sent?,
        }
        self.watch.counters.add_sent(amount as u64);
        self.watch.pace(&self.watch.up, amount as u64)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        if timeout.per_read.is_some_and(|silence| self.waited >= *silence) {
            if self.got < DRIP_LEN {
                return Err(Error::Timeout(Timeout::PerRead));
            }
            (self.waited, self.got) = (Duration::ZERO, 0);
        }
        let before = self.inner.buffers().input().len();
        let begun = (self.watch.now)();
        let progress = self.read(timeout)?;
        self.waited += (self.watch.now)().saturating_duration_since(begun);
        let came = self.inner.buffers().input().len().saturating_sub(before) as u64;
        if came > 0
            && std::mem::take(&mut self.unheard)
            && let Some(foreign) = Foreign::tell(self.inner.buffers().input())
        {
            return Err(Error::Other(Box::new(foreign)));
        }
        self.got += came;
        self.watch.counters.add_received(came);
        self.watch.pace(&self.watch.down, came)?;
        Ok(progress)
    }

    fn is_open(&mut self) -> bool {
        !self.cut && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_lets_its_rate_through() {
        let begin = Instant::now();
        let bucket = Bucket { rate: 1000, full_at: Mutex::default() };
        let mut now = begin;
        for _ in 0..100 {
            now += bucket.take(100, now);
        }
        assert_eq!(now - begin, Duration::from_millis(9750), "10 000 bytes, a quarter of a second ahead");
        now += Duration::from_secs(60);
        assert_eq!(bucket.take(250, now), Duration::ZERO, "a pause fills it");
        assert_eq!(bucket.take(1000, now), Duration::from_secs(1), "but only once");
    }
}
