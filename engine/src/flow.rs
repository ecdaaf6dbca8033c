//! Parallel work with an ordered end: items are fed in order, worked on by several threads, and drained
//! in the order they were fed. The weight of everything between feed and drain stays under one bound.
//!
//! There are as many threads as cores to use, and each takes what is furthest along: it drains if it may, else works,
//! else feeds. So no thread has to wake another for what it can do itself, and the drain is never kept waiting by
//! work that could come later.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};
use crate::limits::THREADS_MAX;

/// Items between feed and drain, however little they weigh.
const IN_FLIGHT_MAX: u64 = 1024;

/// How much may be in flight, and on how many threads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub threads: NonZeroUsize,
    pub weight_max: u64,
}

/// Runs `feed`'s items through `work` on `threads` threads, the calling one included, and hands the results to `drain`
/// on the calling thread, in feed order. The first error in feed order is returned; nothing after it is drained.
///
/// No deadlock: a thread waits only while others are at something whose end it will be told of. An item is fed
/// while there is room for any weight, so the bound is passed by one item at most, and one heavier than the bound passes
/// alone. A panic stops all, and comes out here.
pub(crate) fn ordered<T: Send, R: Send, F: Iterator<Item = Result<(T, u64)>> + Send>(
    flow: Flow,
    feed: F,
    work: impl Fn(T) -> Result<R> + Sync,
    mut drain: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let others = flow.threads.get().min(THREADS_MAX) - 1;
    let shared = &Shared::new(flow, feed);
    if others == 0 {
        return shared.drain_all(&work, &mut drain);
    }
    pool(others)?.in_place_scope(|scope| {
        let _stop = Stop { shared, only_in_panic: false };
        (0..others).for_each(|_| scope.spawn(|_| shared.join_in(&work)));
        shared.drain_all(&work, &mut drain)
    })
}

/// Hands an item and its weight on. Waits for room; an error says that the flow has ended and no more is wanted.
pub(crate) type Push<'a, T> = dyn FnMut(T, u64) -> Result<()> + 'a;

/// The same for a feed that pushes its items, on a thread more. Its own error comes after everything that it pushed.
pub(crate) fn pushed<T: Send, R: Send>(
    flow: Flow,
    feed: impl FnOnce(&mut Push<'_, T>) -> Result<()> + Send,
    work: impl Fn(T) -> Result<R> + Sync,
    mut drain: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let others = flow.threads.get().min(THREADS_MAX) - 1;
    let shared = &Shared::new(flow, std::iter::empty());
    // For the whole time, so that nobody looks for items elsewhere.
    shared.state().feeding = true;
    pool(others + 1)?.in_place_scope(|scope| {
        let _stop = Stop { shared, only_in_panic: false };
        scope.spawn(move |_| {
            let _stop = Stop { shared, only_in_panic: true };
            let end = feed(&mut |item, weight| shared.push(item, weight));
            shared.update(|state| state.add(end.err().map(Err)));
        });
        (0..others).for_each(|_| scope.spawn(|_| shared.join_in(&work)));
        shared.drain_all(&work, &mut drain)
    })
}

fn pool(threads: usize) -> Result<ThreadPool> {
    ThreadPoolBuilder::new().num_threads(threads).build().map_err(|error| {
        let source = std::io::Error::other(error);
        Error::Io { action: "start threads of", path: "this process".into(), source }
    })
}

/// What a thread does next.
enum Step<T, R> {
    Drain(Result<R>, u64),
    Work(u64, T, u64),
    Feed,
}

struct Shared<F, T, R> {
    weight_max: u64,
    feed: Mutex<F>,
    state: Mutex<State<T, R>>,
    changed: Condvar,
}

struct State<T, R> {
    jobs: VecDeque<(u64, T, u64)>,
    done: BTreeMap<u64, (Result<R>, u64)>,
    // Of all items fed and not drained.
    weight: u64,
    fed: u64,
    drained: u64,
    feeding: bool,
    feed_ended: bool,
    stopped: bool,
}

impl<T, R> State<T, R> {
    fn new() -> Self {
        Self {
            jobs: VecDeque::new(),
            done: BTreeMap::new(),
            weight: 0,
            fed: 0,
            drained: 0,
            feeding: false,
            feed_ended: false,
            stopped: false,
        }
    }

    fn is_drained(&self) -> bool {
        self.feed_ended && !self.feeding && self.drained == self.fed
    }

    fn has_room(&self, weight_max: u64) -> bool {
        let in_flight = self.fed - self.drained;
        in_flight == 0 || (self.weight < weight_max && in_flight < IN_FLIGHT_MAX)
    }

    fn may_feed(&self, weight_max: u64) -> bool {
        !self.feed_ended && !self.feeding && self.has_room(weight_max)
    }
}

impl<F: Iterator<Item = Result<(T, u64)>>, T, R> Shared<F, T, R> {
    // Waits until there is something to do; `None` when nothing will be any more.
    fn next(&self, drains: bool) -> Option<Step<T, R>> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return None;
            }
            let next = state.drained;
            if drains && let Some((result, weight)) = state.done.remove(&next) {
                state.drained += 1;
                return Some(Step::Drain(result, weight));
            }
            if let Some((index, item, weight)) = state.jobs.pop_front() {
                return Some(Step::Work(index, item, weight));
            }
            if state.may_feed(self.weight_max) {
                state.feeding = true;
                return Some(Step::Feed);
            }
            let no_more_jobs = state.feed_ended && !state.feeding;
            if no_more_jobs && (!drains || state.is_drained()) {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    // Any other thread's part.
    fn join_in(&self, work: &impl Fn(T) -> Result<R>) {
        let _stop = Stop { shared: self, only_in_panic: true };
        while let Some(step) = self.next(false) {
            self.take(step, work);
        }
    }

    // The calling thread's part, until everything is drained or something fails.
    fn drain_all(
        &self,
        work: &impl Fn(T) -> Result<R>,
        drain: &mut impl FnMut(R) -> Result<()>,
    ) -> Result<()> {
        while let Some(step) = self.next(true) {
            match step {
                Step::Drain(result, weight) => {
                    drain(result?)?;
                    self.update(|state| state.weight -= weight);
                }
                step => self.take(step, work),
            }
        }
        // Only a panic elsewhere leaves anything undone; the scope raises it again right after this.
        if self.state().is_drained() { Ok(()) } else { Err(Error::Cancelled) }
    }

    fn take(&self, step: Step<T, R>, work: &impl Fn(T) -> Result<R>) {
        match step {
            Step::Work(index, item, weight) => {
                let result = work(item);
                self.update(|state| state.done.insert(index, (result, weight)));
            }
            Step::Feed => {
                let item = self.feed.lock().unwrap_or_else(PoisonError::into_inner).next();
                self.update(|state| state.add(item));
            }
            Step::Drain(..) => unreachable!("only the calling thread asks for it"),
        }
    }

    fn update<U>(&self, change: impl FnOnce(&mut State<T, R>) -> U) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

impl<F, T, R> Shared<F, T, R> {
    fn new(flow: Flow, feed: F) -> Self {
        Self {
            weight_max: flow.weight_max,
            feed: Mutex::new(feed),
            state: Mutex::new(State::new()),
            changed: Condvar::new(),
        }
    }

    fn push(&self, item: T, weight: u64) -> Result<()> {
        let mut state = self.state();
        while !state.stopped && !state.has_room(self.weight_max) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return Err(Error::Cancelled);
        }
        state.put(item, weight);
        self.changed.notify_all();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State<T, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, R> State<T, R> {
    fn put(&mut self, item: T, weight: u64) {
        self.jobs.push_back((self.fed, item, weight));
        self.weight += weight;
        self.fed += 1;
    }

    fn add(&mut self, item: Option<Result<(T, u64)>>) {
        self.feeding = false;
        match item {
            Some(Ok((item, weight))) => self.put(item, weight),
            Some(Err(error)) => {
                self.done.insert(self.fed, (Err(error), 0));
                self.fed += 1;
                self.feed_ended = true;
            }
            None => self.feed_ended = true,
        }
    }
}

/// Ends all threads when the calling one is done, or any of them panics.
struct Stop<'a, F, T, R> {
    shared: &'a Shared<F, T, R>,
    only_in_panic: bool,
}

impl<F, T, R> Drop for Stop<'_, F, T, R> {
    fn drop(&mut self) {
        if !self.only_in_panic || thread::panicking() {
            self.shared.state().stopped = true;
            self.shared.changed.notify_all();
        }
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
        for (threads, weight_max) in [(1, 1), (1, 100), (2, 3), (2, 0), (4, 1000), (9, 2)] {
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
    fn a_panic_anywhere_comes_out() {
        for (threads, at) in [(1, 0), (2, 0), (4, 0), (2, 1), (2, 2), (4, 1), (4, 2)] {
            let panic_if = |here: u32, n: u64| assert!(here != at || n != 700, "as asked");
            let feed = (0..10_000u64).map(|n| {
                panic_if(1, n);
                Ok((n, 1))
            });
            let work = |n| {
                panic_if(0, n);
                Ok(n)
            };
            let drain = |n| {
                panic_if(2, n);
                Ok(())
            };
            let run = std::panic::AssertUnwindSafe(|| ordered(flow(threads, 2), feed, work, drain));
            let payload = std::panic::catch_unwind(run).expect_err("a panic");
            assert_eq!(payload.downcast_ref::<&str>(), Some(&"as asked"), "{threads} threads, at {at}");
        }
    }

    #[test]
    fn nothing_waits_for_ever() {
        for round in 0..2000u64 {
            let threads = 1 + (round % 5) as usize;
            let feed = (0..round % 97).map(|n| Ok((n, (n * round) % 11)));
            let mut drained = 0;
            let drain = |_| {
                drained += 1;
                Ok(())
            };
            ordered(flow(threads, round % 13), feed, Ok, drain).expect("no item fails");
            assert_eq!(drained, round % 97);
        }
    }
}
