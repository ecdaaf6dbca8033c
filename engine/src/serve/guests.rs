//! Who is connected, and who has to go when somebody else comes.
//!
//! At the limit the address with most connections loses one: the one that was idle longest, or else, if that address
//! has two more than who comes, the one that came last. So an address that takes many takes them from itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::limits::{Client, lock};
use super::watched::Phase;

/// All connections of a server.
pub(super) struct Guests {
    max: usize,
    max_per_client: usize,
    state: Mutex<State>,
    left: Notify,
}

#[derive(Default)]
struct State {
    // By when they came.
    by_client: HashMap<Client, BTreeMap<u64, Guest>>,
    count: usize,
    next: u64,
}

struct Guest {
    phase: Arc<Phase>,
    leave: Arc<Notify>,
}

/// A connection's place, until dropped.
pub(super) struct Seat {
    guests: Arc<Guests>,
    client: Client,
    number: u64,
    /// Told when it has to go.
    pub leave: Arc<Notify>,
}

/// Why there is no place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoSeat {
    /// This address has all that one may have.
    Client,
    /// Nobody can be asked to go; one may end.
    Full,
}

impl Guests {
    /// Places for `max` connections, `max_per_client` of them for one address.
    pub fn new(max: usize, max_per_client: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), max_per_client, state: Mutex::default(), left: Notify::new() })
    }

    /// A place for a connection of `client`, and whether another had to go for it.
    pub fn seat(self: &Arc<Self>, client: Client, phase: &Arc<Phase>) -> Result<(Seat, bool), NoSeat> {
        let mut state = lock(&self.state);
        let has = state.by_client.get(&client).map_or(0, BTreeMap::len);
        // A proxy's address is everybody's.
        let victim = if client.is_some() && has >= self.max_per_client {
            let own = state.by_client.get(&client).and_then(longest_unasked);
            Some((client, own.ok_or(NoSeat::Client)?))
        } else if state.count >= self.max {
            Some(state.victim(has).ok_or(NoSeat::Full)?)
        } else {
            None
        };
        if let Some((client, number)) = victim
            && let Some(guest) = state.remove(client, number)
        {
            guest.leave.notify_one();
        }
        let number = state.next;
        state.next += 1;
        state.count += 1;
        let leave = Arc::new(Notify::new());
        let guest = Guest { phase: Arc::clone(phase), leave: Arc::clone(&leave) };
        state.by_client.entry(client).or_default().insert(number, guest);
        Ok((Seat { guests: Arc::clone(self), client, number, leave }, victim.is_some()))
    }

    /// Waits until somebody has left, or may have become idle.
    pub async fn some_left(&self) {
        const A_WHILE: Duration = Duration::from_millis(50);
        drop(timeout(A_WHILE, self.left.notified()).await);
    }
}

// Of those that have sent no whole request, the one that has not for longest.
fn longest_unasked(guests: &BTreeMap<u64, Guest>) -> Option<u64> {
    let unasked = guests.iter().filter_map(|(number, guest)| Some((guest.phase.unasked_since()?, *number)));
    unasked.min().map(|(_, number)| number)
}

fn longest_idle(guests: &BTreeMap<u64, Guest>) -> Option<u64> {
    let idle = guests.iter().filter_map(|(number, guest)| Some((guest.phase.idle_since()?, *number)));
    idle.min().map(|(_, number)| number)
}

impl State {
    // Who has to go for a client that has so many.
    fn victim(&self, has: usize) -> Option<(Client, u64)> {
        let mut clients: Vec<_> = self.by_client.iter().collect();
        clients.sort_unstable_by_key(|(_, guests)| std::cmp::Reverse(guests.len()));
        let idle = clients.iter().find_map(|(client, guests)| Some((**client, longest_idle(guests)?)));
        let busy = || {
            let (client, guests) = clients.first().filter(|(_, guests)| guests.len() >= has + 2)?;
            guests.last_key_value().map(|(number, _)| (**client, *number))
        };
        idle.or_else(busy)
    }

    fn remove(&mut self, client: Client, number: u64) -> Option<Guest> {
        let guests = self.by_client.get_mut(&client)?;
        let guest = guests.remove(&number)?;
        if guests.is_empty() {
            self.by_client.remove(&client);
        }
        self.count -= 1;
        Some(guest)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.guests.state).remove(self.client, self.number);
        self.guests.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn client(number: u8) -> Client {
        Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)))
    }

    // Comes, at work or not; whether another had to go.
    fn come(
        guests: &Arc<Guests>,
        who: u8,
        works: bool,
        kept: &mut Vec<Box<dyn std::any::Any>>,
    ) -> Option<bool> {
        let phase = Phase::new();
        let at_work = works.then(|| phase.work());
        let (seat, went) = guests.seat(client(who), &phase).ok()?;
        kept.push(Box::new((seat, at_work)));
        Some(went)
    }

    fn counts(guests: &Guests) -> Vec<usize> {
        let state = lock(&guests.state);
        (1..4).map(|who| state.by_client.get(&client(who)).map_or(0, BTreeMap::len)).collect()
    }

    #[test]
    fn who_has_most_makes_room() {
        for (first, second, third, left) in [
            ((1, 4, false), (2, 2, true), (3, true), Some([3, 2, 1])),
            // Who is idle goes before who works, wherever it is.
            ((1, 4, true), (2, 2, false), (3, false), Some([4, 1, 1])),
            ((1, 4, true), (2, 2, true), (3, true), Some([3, 2, 1])),
            ((1, 3, true), (2, 3, true), (2, true), None),
            ((1, 4, true), (2, 2, true), (2, true), Some([3, 3, 0])),
        ] {
            let guests = Guests::new(6, 5);
            let mut kept = Vec::new();
            for (who, count, works) in [first, second] {
                (0..count).for_each(|_| assert_eq!(come(&guests, who, works, &mut kept), Some(false)));
            }
            let came = come(&guests, third.0, third.1, &mut kept);
            assert_eq!(came, left.map(|_| true));
            assert!(left.is_none_or(|left| counts(&guests) == left), "{:?}", counts(&guests));
            drop(kept);
            let state = lock(&guests.state);
            assert!(state.by_client.is_empty() && state.count == 0, "nobody is remembered");
        }
    }

    #[test]
    fn one_address_has_only_so_many() {
        let guests = Guests::new(9, 2);
        let mut kept = Vec::new();
        assert_eq!(come(&guests, 1, true, &mut kept), Some(false));
        assert_eq!(come(&guests, 1, false, &mut kept), Some(false));
        assert_eq!(come(&guests, 1, true, &mut kept), Some(true), "who never asked goes");
        assert_eq!(come(&guests, 1, true, &mut kept), None);
        assert_eq!(come(&guests, 2, true, &mut kept), Some(false));
    }
}
