//! A connection that cannot be held open by doing nothing: bounds on silence, on slowness and on speed, below HTTP.
//!
//! Between requests and within their headers time runs while nothing arrives; within an answer, while the other side
//! takes less than it must. Within a request's work no time runs here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::{Rate, lock};
use super::options::ServeLimits;

/// Times of one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    header: Duration,
    idle: Duration,
    stall: Duration,
    stall_bytes: u64,
}

impl Times {
    pub fn of(limits: &ServeLimits) -> Self {
        let stall_bytes = limits.rate_min.saturating_mul(limits.stall_timeout.as_secs());
        let ServeLimits { header_timeout, idle_timeout, stall_timeout, .. } = limits;
        Self { header: *header_timeout, idle: *idle_timeout, stall: *stall_timeout, stall_bytes }
    }
}

/// What a connection waits for; shared with the requests on it.
#[derive(Debug)]
pub(super) struct Phase(Mutex<State>);

#[derive(Debug)]
struct State {
    at_work: usize,
    // Of the silence, or of the headers that have begun.
    since: Instant,
    begun: bool,
}

impl Phase {
    /// Of a new connection: its first request has begun.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { at_work: 0, since: Instant::now(), begun: true })))
    }

    /// A request is at work until the guard is dropped.
    pub fn work(self: &Arc<Self>) -> AtWork {
        lock(&self.0).at_work += 1;
        AtWork(Arc::clone(self))
    }

    /// Since when no request is at work.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = lock(&self.0);
        (state.at_work == 0).then_some(state.since)
    }

    /// Since when it owes the headers of a request.
    pub fn unasked_since(&self) -> Option<Instant> {
        let state = lock(&self.0);
        (state.at_work == 0 && state.begun).then_some(state.since)
    }

    fn received(&self) {
        let mut state = lock(&self.0);
        if state.at_work == 0 && !state.begun {
            (state.begun, state.since) = (true, Instant::now());
        }
    }

    fn deadline(&self, times: &Times) -> Option<Instant> {
        let state = lock(&self.0);
        let limit = if state.begun { times.header } else { times.idle };
        (state.at_work == 0).then(|| state.since + limit)
    }
}

/// A request at work.
pub(super) struct AtWork(Arc<Phase>);

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        state.at_work -= 1;
        (state.begun, state.since) = (false, Instant::now());
    }
}

/// The connection.
pub(super) struct Watched<IO> {
    io: IO,
    // None: a pipe from somebody who may hold it as long as they like.
    times: Option<Times>,
    phase: Arc<Phase>,
    rate: Option<Arc<Rate>>,
    read_timer: Pin<Box<Sleep>>,
    write_timer: Pin<Box<Sleep>>,
    // Since a write had to wait: until when how much must be taken.
    window: Option<(Instant, u64)>,
}

impl<IO> Watched<IO> {
    pub fn new(io: IO, times: Option<Times>, phase: Arc<Phase>, rate: Option<Arc<Rate>>) -> Self {
        let timer = || Box::pin(sleep_until(Instant::now()));
        Self { io, times, phase, rate, read_timer: timer(), write_timer: timer(), window: None }
    }

    // Ready once `until` has passed.
    fn poll_until(timer: &mut Pin<Box<Sleep>>, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    fn took(&mut self, bytes: usize) {
        self.window = self.window.and_then(|(until, left)| {
            let left = left.saturating_sub(bytes as u64);
            (left > 0).then_some((until, left))
        });
    }

    // A write waits: how long may it?
    fn stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(times) = self.times else { return Poll::Pending };
        let (until, _) = *self.window.get_or_insert((Instant::now() + times.stall, times.stall_bytes.max(1)));
        ready!(Self::poll_until(&mut self.write_timer, until, cx));
        Poll::Ready(Err(timed_out("takes too little of an answer")))
    }

    // How much of `len` may be written now.
    fn allowed(&mut self, len: usize, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(rate) = &self.rate else { return Poll::Ready(len) };
        loop {
            let now = Instant::now();
            match rate.take(len, now) {
                Ok(bytes) => return Poll::Ready(bytes),
                Err(wait) => {
                    // Our own slowness is not the client's.
                    self.window = None;
                    ready!(Self::poll_until(&mut self.write_timer, now + wait, cx));
                }
            }
        }
    }

    fn written(&mut self, allowed: usize, result: &Poll<io::Result<usize>>) {
        let bytes = if let Poll::Ready(Ok(bytes)) = result { *bytes } else { 0 };
        if let Some(rate) = &self.rate {
            rate.give(allowed.saturating_sub(bytes));
        }
        self.took(bytes);
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the client {what}"))
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, buf) {
            if buf.filled().len() > before {
                this.phase.received();
            }
            return Poll::Ready(result);
        }
        let Some(until) = this.times.as_ref().and_then(|times| this.phase.deadline(times)) else {
            return Poll::Pending;
        };
        ready!(Self::poll_until(&mut this.read_timer, until, cx));
        Poll::Ready(Err(timed_out("is silent")))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let allowed = ready!(this.allowed(buf.len(), cx));
        let part = buf.get(..allowed).unwrap_or(buf);
        let result = Pin::new(&mut this.io).poll_write(cx, part);
        this.written(allowed, &result);
        if result.is_pending() { this.stalled(cx) } else { result }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.rate.is_some() {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        let result = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.written(0, &result);
        if result.is_pending() { this.stalled(cx) } else { result }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked for once everything is written: nothing waits for the client any more.
        self.window = None;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    // Takes a byte at a time, and lets itself be asked twice for each.
    struct Drip(bool);

    impl AsyncWrite for Drip {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            self.0 = !self.0;
            if self.0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Ok(1))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn who_takes_a_little_now_and_then_is_cut_as_well() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        for (rate_min, cut) in [(1 << 40, true), (0, false)] {
            let stall_timeout = Duration::from_secs(1);
            let limits = ServeLimits { stall_timeout, rate_min, ..ServeLimits::default() };
            // As many bytes as no test takes in that time, or as any does.
            let mut times = Times::of(&limits);
            times.stall = Duration::from_millis(20);
            let wrote = runtime.block_on(async {
                let mut io = Watched::new(Drip(false), Some(times), Phase::new(), None);
                for _ in 0..if cut { u64::MAX } else { 10_000 } {
                    io.write_all(b"x").await?;
                }
                Ok::<_, io::Error>(())
            });
            assert_eq!(wrote.err().map(|error| error.kind()), cut.then_some(io::ErrorKind::TimedOut));
        }
    }
}
