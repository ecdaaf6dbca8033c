//! Who is counted as one client, and what each and all may have: requests at work by address, bytes a second.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A lock whose holder cannot leave it half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who something is counted for, as [`client_of`] says; `None` is a pipe, or everybody who comes through a proxy.
pub(super) type Client = Option<IpAddr>;

/// Who is counted as one client: an IPv4 address, or the /64 of an IPv6 address, which one machine has to itself.
pub(super) fn client_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

/// Places that each client has a number of. Holds only the clients that have some taken.
pub(super) struct Places {
    max: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default() })
    }

    /// A place for `client`, until dropped; `None` if it has taken all.
    pub fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(client).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), client })
    }
}

/// A place that is taken.
pub(super) struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places.taken);
        if let Some(count) = taken.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

/// Bytes a second, over all connections. A tenth of a second's worth may be spent at once.
pub(super) struct Rate {
    per_s: u64,
    state: Mutex<(u64, Instant)>,
}

impl Rate {
    // Less would cost more system calls than it paces.
    const BURST_MIN: u64 = 16 << 10;

    pub fn new(per_s: u64) -> Self {
        Self { per_s: per_s.max(1), state: Mutex::new((0, Instant::now())) }
    }

    fn burst(&self) -> u64 {
        (self.per_s / 10).max(Self::BURST_MIN)
    }

    /// How many of `want` bytes may go now; if none, how long to wait.
    pub fn take(&self, want: usize, now: Instant) -> Result<usize, Duration> {
        let mut state = lock(&self.state);
        let (saved, since) = *state;
        let passed = now.saturating_duration_since(since).as_nanos();
        let earned = u64::try_from(passed * u128::from(self.per_s) / 1_000_000_000).unwrap_or(u64::MAX);
        let saved = if earned > 0 {
            let saved = saved.saturating_add(earned).min(self.burst());
            *state = (saved, now);
            saved
        } else {
            saved
        };
        let enough = (self.burst() / 4).min(want as u64);
        if saved < enough {
            let nanos = u128::from(enough - saved) * 1_000_000_000 / u128::from(self.per_s);
            return Err(
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).max(Duration::from_millis(1))
            );
        }
        let given = saved.min(want as u64);
        state.0 = saved - given;
        Ok(given as usize)
    }

    /// Gives back what was not used.
    pub fn give(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.0 = state.0.saturating_add(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_network_of_its_own() {
        for (text, client) in [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(client_of(text.parse().expect(text)).to_string(), client);
        }
        let places = Places::new(2);
        let (a, b) = ("10.0.0.1".parse().expect("an address"), "10.0.0.2".parse().expect("an address"));
        let first = places.take(a).expect("free");
        let second = places.take(a).expect("free");
        assert!(places.take(a).is_none() && places.take(b).is_some());
        drop(first);
        assert!(places.take(a).is_some());
        drop(second);
        assert!(lock(&places.taken).is_empty());
    }

    #[test]
    fn a_rate_is_kept_over_time() {
        let rate = Rate::new(1_000_000);
        let mut now = Instant::now();
        let (start, mut sent) = (now, 0);
        while sent < 3_000_000 {
            match rate.take(300_000, now) {
                Ok(bytes) => {
                    rate.give(bytes / 2);
                    sent += bytes - bytes / 2;
                }
                Err(wait) => now += wait,
            }
        }
        let took = (now - start).as_millis();
        assert!((2700..3100).contains(&took), "{took} ms");
    }
}
