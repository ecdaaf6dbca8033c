//! Parallel work with an ordered end: items are fed in order, worked on by several threads, and drained
//! in the order they were fed. The weight of everything between feed and drain stays under one bound.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rayon::ThreadPoolBuilder;

use crate::error::{Error, Result};
use crate::limits::THREADS_MAX;

/// How much may be in flight, and on how many threads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub threads: NonZeroUsize,
    pub weight_max: u64,
}

/// Runs `feed`'s items through `work` on `threads` threads of a pool of its own (and `feed` on one more), and hands the
/// results to `drain` on the calling thread, in feed order. The first error in feed order is returned; nothing after it
/// is drained.
///
/// No deadlock: weight is taken in feed order, so the oldest undrained item always holds its share, and an item
/// heavier than the bound takes the whole bound. When the drain stops, every worker fails to send and ends; the last one
/// takes the queue with it, so that the feeder fails to send too. A panic closes the budget, lest the feeder wait for a
/// weight that nobody gives back.
pub(crate) fn ordered<T: Send, R: Send>(
    flow: Flow,
    mut feed: impl Iterator<Item = Result<(T, u64)>> + Send,
    work: impl Fn(T) -> Result<R> + Sync,
    drain: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let feed = |push: &mut Push<'_, T>| {
        feed.try_for_each(|item| {
            let (item, weight) = item?;
            push(item, weight)
        })
    };
    pushed(flow, feed, work, drain)
}

/// Hands an item and its weight on. Waits for room; an error says that the flow has ended and no more is wanted.
pub(crate) type Push<'a, T> = dyn FnMut(T, u64) -> Result<()> + 'a;

/// The same for a feed that pushes its items. Its own error comes after everything that it pushed.
pub(crate) fn pushed<T: Send, R: Send>(
    flow: Flow,
    feed: impl FnOnce(&mut Push<'_, T>) -> Result<()> + Send,
    work: impl Fn(T) -> Result<R> + Sync,
    mut drain: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let threads = flow.threads.get().min(THREADS_MAX);
    let pool = ThreadPoolBuilder::new().num_threads(threads + 1).build().map_err(|error| {
        let source = std::io::Error::other(error);
        Error::Io { action: "start threads of", path: "this process".into(), source }
    })?;
    let budget = Budget::new(flow.weight_max);
    let (job_tx, job_rx) = sync_channel::<(u64, T, u64)>(threads);
    let job_rx = Arc::new(Mutex::new(job_rx));
    let (done_tx, done_rx) = sync_channel::<(u64, Result<R>, u64)>(threads * 2);
    let (budget, work) = (&budget, &work);
    pool.in_place_scope(|scope| {
        let feed_done = done_tx.clone();
        scope.spawn(move |_| {
            let _guard = CloseOnPanic(budget);
            feed_all(feed, budget, job_tx, feed_done);
        });
        for _ in 0..threads {
            let (jobs, done) = (Arc::clone(&job_rx), done_tx.clone());
            scope.spawn(move |_| {
                let _guard = CloseOnPanic(budget);
                work_all(&jobs, work, done);
            });
        }
        drop((job_rx, done_tx));
        let result = drain_all(done_rx, budget, &mut drain);
        budget.close();
        result
    })
}

struct CloseOnPanic<'a>(&'a Budget);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}

fn feed_all<T, R>(
    feed: impl FnOnce(&mut Push<'_, T>) -> Result<()>,
    budget: &Budget,
    jobs: SyncSender<(u64, T, u64)>,
    done: SyncSender<(u64, Result<R>, u64)>,
) {
    let mut index = 0u64;
    let fed = feed(&mut |item, weight| {
        let weight = budget.take(weight).ok_or(Error::Cancelled)?;
        jobs.send((index, item, weight)).map_err(|_| Error::Cancelled)?;
        index += 1;
        Ok(())
    });
    if let Err(error) = fed {
        // If the flow has ended nobody listens, and its end had another reason.
        let _ = done.send((index, Err(error), 0));
    }
}

fn work_all<T, R>(
    jobs: &Mutex<Receiver<(u64, T, u64)>>,
    work: &impl Fn(T) -> Result<R>,
    done: SyncSender<(u64, Result<R>, u64)>,
) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((index, item, weight)) = job else { return };
        if done.send((index, work(item), weight)).is_err() {
            return;
        }
    }
}

fn drain_all<R>(
    done: Receiver<(u64, Result<R>, u64)>,
    budget: &Budget,
    drain: &mut impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let mut waiting = BTreeMap::new();
    let mut next = 0u64;
    for (index, result, weight) in done {
        waiting.insert(index, (result, weight));
        while let Some((result, weight)) = waiting.remove(&next) {
            drain(result?)?;
            budget.give(weight);
            next += 1;
        }
    }
    // A worker that panicked leaves a gap; the scope re-raises its panic right after this.
    if waiting.is_empty() { Ok(()) } else { Err(Error::Cancelled) }
}

struct Budget {
    max: u64,
    state: Mutex<BudgetState>,
    freed: Condvar,
}

struct BudgetState {
    taken: u64,
    closed: bool,
}

impl Budget {
    fn new(max: u64) -> Self {
        Self { max, state: Mutex::new(BudgetState { taken: 0, closed: false }), freed: Condvar::new() }
    }

    // Waits for room; `None` when the flow has ended.
    fn take(&self, weight: u64) -> Option<u64> {
        let weight = weight.min(self.max);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self
            .freed
            .wait_while(state, |state| !state.closed && state.taken + weight > self.max)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        state.taken += weight;
        Some(weight)
    }

    fn give(&self, weight: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.taken -= weight;
        self.freed.notify_all();
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(threads: usize, weight_max: u64) -> Flow {
        Flow { threads: NonZeroUsize::new(threads).expect("not zero"), weight_max }
    }

    #[test]
    fn drains_in_feed_order_whatever_the_bound() {
        for (threads, weight_max) in [(1, 1), (2, 3), (4, 1000)] {
            let mut seen = Vec::new();
            let feed = (0..500u64).map(|n| Ok((n, n % 7)));
            ordered(
                flow(threads, weight_max),
                feed,
                |n| Ok(n * 2),
                |n| {
                    seen.push(n);
                    Ok(())
                },
            )
            .expect("no item fails");
            assert_eq!(seen, (0..500).map(|n| n * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let fail = |at: u64| move |n: u64| if n == at { Err(Error::Cancelled) } else { Ok(n) };
        let mut seen = 0;
        let feed = (0..1000u64).map(|n| Ok((n, 1)));
        let result = ordered(flow(3, 8), feed, fail(37), |_| {
            seen += 1;
            Ok(())
        });
        assert!(matches!(result, Err(Error::Cancelled)));
        assert_eq!(seen, 37);
        // With every queue full when the drain stops, over and over.
        for round in 0..200 {
            let feed = (0..10_000u64).map(|n| Ok((n, 0)));
            let stop = |n| if n == 20 + round { Err(Error::Cancelled) } else { Ok(()) };
            assert!(ordered(flow(2, 1), feed, Ok, stop).is_err());
            let feed = (0..10_000u64).map(|n| Ok((n, 0)));
            assert!(ordered(flow(2, 1), feed, fail(20 + round), |_| Ok(())).is_err());
        }
        let feed = (0..1000u64).map(|n| if n == 5 { Err(Error::Cancelled) } else { Ok((n, 1)) });
        assert!(ordered(flow(2, 2), feed, Ok, |_| Ok(())).is_err());
        let feed = (0..1000u64).map(|n| Ok((n, 1)));
        assert!(
            ordered(flow(2, 2), feed, Ok, |n| if n == 3 { Err(Error::Cancelled) } else { Ok(()) }).is_err()
        );
    }

    #[test]
    fn what_was_pushed_is_drained_before_the_feeds_own_error() {
        for threads in [1, 3] {
            let mut seen = Vec::new();
            let feed = |push: &mut Push<'_, u64>| {
                (0..100).try_for_each(|n| push(n, 1))?;
                Err(Error::Cancelled)
            };
            let drain = |n| {
                seen.push(n);
                Ok(())
            };
            assert!(matches!(pushed(flow(threads, 4), feed, Ok, drain), Err(Error::Cancelled)));
            assert_eq!(seen, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_in_a_worker_comes_out() {
        let feed = (0..10_000u64).map(|n| Ok((n, 1)));
        let work = |n| if n == 7 { panic!("as asked") } else { Ok(n) };
        let run = std::panic::AssertUnwindSafe(|| ordered(flow(2, 2), feed, work, |_| Ok(())));
        assert!(std::panic::catch_unwind(run).is_err());
    }
}
