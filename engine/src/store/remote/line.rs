//! One request at a time where every connection is a process: a store that is written is open in one process only, so
//! a second one would be refused.
//!
//! Invariant: nobody waits here for ever. A thread that asks while it reads an answer, and who waited for too long while
//! nothing moved, goes ahead with a connection of its own.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::error::{Error, Result};

#[derive(Default)]
pub(super) struct Line {
    // Who holds it.
    taken: Mutex<Option<ThreadId>>,
    freed: Condvar,
}

/// The right to ask. Given back when dropped.
pub(super) struct Permit<'a>(Option<&'a Line>);

impl Line {
    fn taken(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is free, for at most about `longest` in which `moved` stays the same; `wait` says whether the caller
    /// wants to stop.
    pub fn enter(
        &self,
        longest: Duration,
        moved: &dyn Fn() -> u64,
        wait: &dyn Fn(Duration) -> bool,
    ) -> Result<Permit<'_>> {
        const LOOK: Duration = Duration::from_millis(100);
        let me = thread::current().id();
        let (mut left, mut before) = (longest, moved());
        let mut taken = self.taken();
        while let Some(other) = *taken {
            if other == me || left.is_zero() {
                return Ok(Permit(None));
            }
            let slice = LOOK.min(left);
            let (again, result) =
                self.freed.wait_timeout(taken, slice).unwrap_or_else(PoisonError::into_inner);
            taken = again;
            if result.timed_out() {
                let now = moved();
                left = if now == before { left.saturating_sub(slice) } else { longest };
                before = now;
                if !wait(Duration::ZERO) {
                    return Err(Error::Cancelled);
                }
            }
        }
        *taken = Some(me);
        Ok(Permit(Some(self)))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(line) = self.0 {
            *line.taken() = None;
            line.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn one_goes_at_a_time_and_nobody_waits_for_ever() {
        let line = Line::default();
        let (go_on, still) = (|_: Duration| true, || 0);
        let first = line.enter(Duration::MAX, &still, &go_on).expect("free");
        let nested = line.enter(Duration::MAX, &still, &go_on).expect("its own");
        assert!(first.0.is_some() && nested.0.is_none());
        let looks = AtomicU64::new(0);
        let moving = || looks.fetch_add(1, Ordering::Relaxed).min(4);
        thread::scope(|scope| {
            let late = scope.spawn(|| {
                line.enter(Duration::from_millis(30), &still, &go_on).map(|permit| permit.0.is_some())
            });
            assert!(!late.join().expect("ran").expect("went ahead"), "waited long enough");
            let stopped = scope.spawn(|| line.enter(Duration::MAX, &still, &|_| false).map(drop));
            assert!(matches!(stopped.join().expect("ran"), Err(Error::Cancelled)));
            let slow = scope.spawn(|| {
                line.enter(Duration::from_millis(5), &moving, &go_on).map(|permit| permit.0.is_some())
            });
            assert!(!slow.join().expect("ran").expect("went ahead"));
            assert!(looks.load(Ordering::Relaxed) > 5, "what moves is waited for");
            let waiting =
                scope.spawn(|| line.enter(Duration::MAX, &still, &go_on).map(|permit| permit.0.is_some()));
            drop((nested, first));
            assert!(waiting.join().expect("ran").expect("free"));
        });
        assert!(line.enter(Duration::ZERO, &still, &go_on).expect("free").0.is_some());
    }
}
