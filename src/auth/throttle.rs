//! The brake on guessing passwords.
//!
//! Failures are counted by network and login, and by network alone; never by login alone, or anybody could lock the
//! owner out. Loopback is counted like everybody. A good login clears its own pair. Both tables are bounded: the entry
//! that was touched longest ago makes room. Time comes in from outside, so that a test needs no clock.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts failures; safe to share.
#[derive(Debug)]
pub struct Throttle<N> {
    tables: Mutex<Tables<N>>,
}

#[derive(Debug)]
struct Tables<N> {
    pairs: Table<(N, String)>,
    networks: Table<N>,
}

#[derive(Debug)]
struct Table<K> {
    entries: HashMap<K, Entry>,
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    failures: u32,
    first: Instant,
    touched: Instant,
    blocked_until: Option<Instant>,
}

/// Failures are counted within so long, and block for so long.
pub const WINDOW: Duration = Duration::from_secs(600);
/// A network may fail so many times as often as a pair.
pub const NETWORK_FACTOR: u32 = 4;
/// Entries in a table, at most.
const ENTRIES_MAX: usize = 20_000;
/// Octets of a login that are told apart; longer ones share an entry.
const LOGIN_MAX: usize = 64;

impl<N: Copy + Eq + Hash> Throttle<N> {
    /// Nobody has failed yet.
    pub fn new() -> Self {
        let tables = Tables { pairs: Table::new(), networks: Table::new() };
        Self { tables: Mutex::new(tables) }
    }

    /// True if this network may not even connect.
    pub fn blocks_network(&self, network: N, now: Instant) -> bool {
        self.with(|tables| tables.networks.blocks(&network, now))
    }

    /// True if this login may not be tried from this network.
    pub fn blocks(&self, network: N, login: &str, now: Instant) -> bool {
        let pair = (network, shortened(login));
        self.with(|tables| tables.pairs.blocks(&pair, now) || tables.networks.blocks(&network, now))
    }

    /// True if this network has failed lately.
    pub fn has_failed(&self, network: N, now: Instant) -> bool {
        self.with(|tables| tables.networks.entries.get(&network).is_some_and(|entry| now.duration_since(entry.first) < WINDOW))
    }

    /// A login failed; true if this very failure makes the pair or its network blocked. `limit` is of a pair.
    pub fn failed(&self, network: N, login: &str, limit: u32, now: Instant) -> bool {
        let pair = (network, shortened(login));
        self.with(|tables| {
            let pair = tables.pairs.count(pair, limit, now);
            let network = tables.networks.count(network, limit.saturating_mul(NETWORK_FACTOR), now);
            pair || network
        })
    }

    /// A login succeeded: its own pair starts anew.
    pub fn succeeded(&self, network: N, login: &str) {
        let pair = (network, shortened(login));
        self.with(|tables| tables.pairs.entries.remove(&pair));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Tables<N>) -> T) -> T {
        work(&mut self.tables.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<N: Copy + Eq + Hash> Default for Throttle<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    fn new() -> Self {
        Self { entries: HashMap::new(), sweep_at: ENTRIES_MAX }
    }

    fn blocks(&self, key: &K, now: Instant) -> bool {
        self.entries.get(key).and_then(|entry| entry.blocked_until).is_some_and(|until| now < until)
    }

    fn count(&mut self, key: K, limit: u32, now: Instant) -> bool {
        if self.entries.len() >= self.sweep_at && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        let fresh = Entry { failures: 0, first: now, touched: now, blocked_until: None };
        let entry = self.entries.entry(key).or_insert(fresh);
        if entry.is_over(now) {
            *entry = fresh;
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.touched = now;
        if entry.failures >= limit && entry.blocked_until.is_none() {
            entry.blocked_until = Some(now + WINDOW);
            return true;
        }
        false
    }

    /// Drops what is over; if that is not enough, the tenth that was touched longest ago.
    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| !entry.is_over(now));
        if self.entries.len() < self.sweep_at {
            return;
        }
        let mut ages: Vec<Instant> = self.entries.values().map(|entry| entry.touched).collect();
        let (_, limit, _) = ages.select_nth_unstable(self.sweep_at / 10);
        let limit = *limit;
        self.entries.retain(|_, entry| entry.touched > limit);
    }
}

impl Entry {
    fn is_over(&self, now: Instant) -> bool {
        match self.blocked_until {
            Some(until) => now >= until,
            None => now.duration_since(self.first) >= WINDOW,
        }
    }
}

fn shortened(login: &str) -> String {
    login.chars().take(LOGIN_MAX).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_pair_is_blocked_and_comes_back() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for failure in 1..=5 {
            assert!(!throttle.blocks(1, "a", now));
            assert_eq!(throttle.failed(1, "a", 5, now), failure == 5);
        }
        assert!(throttle.blocks(1, "a", now + 599 * SECOND));
        assert!(throttle.blocks(1, "A", now), "logins are compared case-blind");
        assert!(!throttle.blocks(2, "a", now), "the owner, elsewhere, is not locked out");
        assert!(!throttle.blocks(1, "b", now));
        assert!(!throttle.blocks_network(1, now));
        assert!(!throttle.blocks(1, "a", now + 600 * SECOND));
        assert!(!throttle.failed(1, "a", 5, now + 600 * SECOND), "counted from one again");
    }

    #[test]
    fn slow_failures_do_not_add_up() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for n in 0..20 {
            assert!(!throttle.failed(1, "a", 5, now + n * 150 * SECOND), "{n}");
        }
    }

    #[test]
    fn a_network_is_blocked_whatever_the_login() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for n in 1..=20 {
            assert!(!throttle.blocks_network(1, now));
            assert_eq!(throttle.failed(1, &format!("login{n}"), 5, now), n == 20);
        }
        assert!(throttle.blocks_network(1, now));
        assert!(throttle.blocks(1, "never tried", now));
        assert!(!throttle.blocks_network(2, now));
    }

    #[test]
    fn success_clears_its_own_pair_alone() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for login in ["a", "b"] {
            for _ in 0..4 {
                throttle.failed(1, login, 5, now);
            }
        }
        throttle.succeeded(1, "a");
        assert!(!throttle.failed(1, "a", 5, now));
        assert!(throttle.failed(1, "b", 5, now));
        assert!(throttle.has_failed(1, now));
        assert!(!throttle.has_failed(2, now));
    }

    #[test]
    fn the_tables_are_bounded_and_keep_the_youngest() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let late = |n: u64| now + Duration::from_millis(n);
        for n in 0..(2 * ENTRIES_MAX as u64) {
            throttle.failed(n, &"x".repeat(1000), 1, late(n));
        }
        throttle.with(|tables| {
            assert!(tables.pairs.entries.len() <= ENTRIES_MAX && tables.networks.entries.len() <= ENTRIES_MAX);
            assert!(tables.pairs.entries.keys().all(|(_, login)| login.len() <= LOGIN_MAX));
        });
        let last = 2 * ENTRIES_MAX as u64 - 1;
        assert!(throttle.blocks(last, &"x".repeat(1000), late(last)));
    }
}
