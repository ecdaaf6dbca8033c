//! Something that there is so much of, shared out among clients: bytes in memory, or places.
//!
//! A client gets what it asks for if it then holds no more than is still free: half of all if it is alone, a third each
//! if there are two. So whoever comes next finds some at once, whatever those before do with theirs. Who holds nothing
//! gets its first piece as soon as that fits. What comes free goes to the waiting client that holds least; if that one
//! needs more than is free, nobody else gets it. Of one client who came first is served first.
//!
//! Invariants: what is free and what clients hold is all there is; who neither holds nor waits is not remembered.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::limits::{Client, lock};

/// Shares of one thing.
#[derive(Clone)]
pub(super) struct Shares(Arc<Inner>);

struct Inner {
    max: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    held: HashMap<Client, usize>,
    lines: HashMap<Client, VecDeque<Waiting>>,
    next_turn: u64,
}

struct Waiting {
    want: usize,
    turn: u64,
    tell: oneshot::Sender<Share>,
}

/// What a client holds, until dropped.
pub(super) struct Share {
    of: Shares,
    client: Client,
    held: usize,
}

impl Shares {
    pub fn new(max: u64) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let state = State { free: max, held: HashMap::new(), lines: HashMap::new(), next_turn: 0 };
        Self(Arc::new(Inner { max, state: Mutex::new(state) }))
    }

    /// Waits until `client` may have `want`. More than there is at all is all.
    pub async fn take(&self, client: Client, want: usize) -> Share {
        // Dropped after the receiver, so that who is no longer waited for is seen.
        let mut left = Left(Some((self, client)));
        let told = self.line_up(client, want);
        let share = told.await;
        left.0 = None;
        // The other end lives as long as the line, and the line as long as `self`.
        share.unwrap_or_else(|_| Share { of: self.clone(), client, held: 0 })
    }

    fn line_up(&self, client: Client, want: usize) -> oneshot::Receiver<Share> {
        let (tell, told) = oneshot::channel();
        let mut state = lock(&self.0.state);
        let turn = state.next_turn;
        state.next_turn += 1;
        let waiting = Waiting { want: want.min(self.0.max), turn, tell };
        state.lines.entry(client).or_default().push_back(waiting);
        self.settle(&mut state);
        told
    }

    pub fn free(&self) -> usize {
        lock(&self.0.state).free
    }

    pub fn taken(&self) -> usize {
        self.0.max - self.free()
    }

    // Gives to those in line what they may have.
    fn settle(&self, state: &mut State) {
        while let Some((client, want)) = state.next() {
            let Some(line) = state.lines.get_mut(&client) else { break };
            let Some(waiting) = line.pop_front() else { break };
            if line.is_empty() {
                state.lines.remove(&client);
            }
            let share = Share { of: self.clone(), client, held: want };
            match waiting.tell.send(share) {
                Ok(()) => state.give(client, want),
                // Never given, so there is nothing to give back.
                Err(mut share) => share.held = 0,
            }
        }
    }
}

impl State {
    // Whose turn it is, if there is enough for it.
    fn next(&self) -> Option<(Client, usize)> {
        let held = |client| self.held.get(client).copied().unwrap_or_default();
        let heads = self.lines.iter().filter_map(|(client, line)| Some((client, line.front()?)));
        // Whom its own share holds up holds up nobody else.
        let may = heads.filter(|(client, head)| {
            let held = held(client);
            held == 0 || held.saturating_add(head.want) <= self.free.saturating_sub(head.want)
        });
        let (client, head) = may.min_by_key(|(client, head)| (held(client), head.turn))?;
        (head.want <= self.free).then_some((*client, head.want))
    }

    fn give(&mut self, client: Client, bytes: usize) {
        self.free -= bytes;
        *self.held.entry(client).or_default() += bytes;
    }
}

// Somebody may have left the line.
struct Left<'s>(Option<(&'s Shares, Client)>);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        let Some((shares, client)) = self.0 else { return };
        let mut state = lock(&shares.0.state);
        if let Some(line) = state.lines.get_mut(&client) {
            line.retain(|waiting| !waiting.tell.is_closed());
            if line.is_empty() {
                state.lines.remove(&client);
            }
        }
        // Who stood behind may be able to go on.
        shares.settle(&mut state);
    }
}

impl Share {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.held
    }

    /// Takes so much of it off, or all there is.
    pub fn split(&mut self, part: usize) -> Share {
        let held = part.min(self.held);
        self.held -= held;
        Share { of: self.of.clone(), client: self.client, held }
    }

    /// Gives back what is over `part`.
    pub fn shrink(&mut self, part: usize) {
        drop(self.split(self.held.saturating_sub(part)));
    }

    /// Puts one of the same client with it.
    pub fn merge(&mut self, mut other: Share) {
        self.held += std::mem::take(&mut other.held);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.held == 0 {
            return;
        }
        let mut state = lock(&self.of.0.state);
        state.free += self.held;
        if let Some(held) = state.held.get_mut(&self.client) {
            *held -= self.held;
            if *held == 0 {
                state.held.remove(&self.client);
            }
        }
        if !state.lines.is_empty() {
            self.of.settle(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn client(number: u8) -> Client {
        Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)))
    }

    struct World {
        shares: Shares,
        held: HashMap<u8, Vec<Share>>,
        waiting: Vec<(u8, oneshot::Receiver<Share>)>,
    }

    impl World {
        fn new(max: u64) -> World {
            World { shares: Shares::new(max), held: HashMap::new(), waiting: Vec::new() }
        }

        fn ask(&mut self, who: u8, want: usize) {
            let told = self.shares.line_up(client(who), want);
            self.waiting.push((who, told));
            self.collect();
        }

        fn collect(&mut self) {
            for (who, mut told) in std::mem::take(&mut self.waiting) {
                match told.try_recv() {
                    Ok(share) => self.held.entry(who).or_default().push(share),
                    Err(_) => self.waiting.push((who, told)),
                }
            }
        }

        fn give_back(&mut self, who: u8) {
            drop(self.held.get_mut(&who).and_then(Vec::pop));
            self.collect();
        }

        fn has(&self, who: u8) -> usize {
            self.held.get(&who).into_iter().flatten().map(Share::len).sum()
        }
    }

    #[test]
    fn nobody_gets_so_much_that_the_next_gets_nothing() {
        let mut world = World::new(60);
        (0..50).for_each(|_| world.ask(1, 2));
        assert_eq!(world.has(1), 30, "half, if alone");
        (0..50).for_each(|_| world.ask(2, 2));
        assert_eq!((world.has(1), world.has(2)), (30, 14), "half of what is left");
        world.ask(3, 2);
        assert_eq!(world.has(3), 2, "at once");
        // What comes free goes to who holds least.
        world.give_back(1);
        assert_eq!((world.has(1), world.has(2)), (28, 14));
        (0..20).for_each(|_| world.give_back(1));
        assert!(world.has(2) > 14 && world.has(1) <= 28, "{} {}", world.has(1), world.has(2));
        assert_eq!(world.shares.free() + (1..4).map(|who| world.has(who)).sum::<usize>(), 60);
    }

    #[test]
    fn what_is_large_is_waited_for_and_not_passed_by() {
        let mut world = World::new(10);
        world.ask(1, 4);
        world.ask(2, 3);
        world.ask(3, 5);
        world.ask(4, 1);
        assert_eq!((world.has(3), world.has(4)), (0, 0), "the third waits, and the fourth behind it");
        world.give_back(1);
        assert_eq!((world.has(3), world.has(4)), (5, 1));
        world.ask(5, 1000);
        (2..5).for_each(|who| world.give_back(who));
        assert_eq!(world.has(5), 10, "more than there is is all");
    }

    #[test]
    fn who_leaves_the_line_is_forgotten() {
        let mut world = World::new(4);
        world.ask(1, 4);
        world.ask(2, 4);
        world.ask(3, 1);
        assert_eq!(world.has(3), 0);
        world.waiting.remove(0);
        drop(Left(Some((&world.shares, client(2)))));
        world.give_back(1);
        assert_eq!(world.has(3), 1);
        world.give_back(3);
        let state = lock(&world.shares.0.state);
        assert!(state.held.is_empty() && state.lines.is_empty() && state.free == 4);
    }

    #[test]
    fn a_share_is_split_and_put_together() {
        let shares = Shares::new(10);
        let mut told = shares.line_up(client(1), 8);
        let mut share = told.try_recv().expect("free");
        let part = share.split(3);
        share.shrink(2);
        assert_eq!((share.len(), part.len(), shares.taken()), (2, 3, 5));
        share.merge(part);
        assert_eq!(share.split(9).len(), 5);
        drop(share);
        assert_eq!(shares.taken(), 0);
    }
}
