//! Rate limit for failed logins.
//!
//! Failures are counted by network and login, and by network alone; never by login alone, or anybody could lock the owner out. A
//! network is an IPv4 address or an IPv6 /64. As one customer may have 65,536 of those, the /56 and the /48 around it are counted
//! as well, with larger limits; they block logins, not connections. Loopback is counted like any other.
//!
//! An attempt is counted before its password is checked and taken back if that was right, so guesses made at the same time are no
//! more than the limit. Where the attempts under way would reach the limit if all of them failed, the next waits for one to end:
//! a program that logs in on many connections at once gets through.
//!
//! Both tables are bounded: what is not blocked makes room first, and of that what was touched longest ago.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Counts failures; safe to share.
#[derive(Debug, Default)]
pub struct Throttle {
    tables: Mutex<Tables>,
    ended: Condvar,
    /// Of a network, instead of [`NETWORK_FACTOR`] times the limit of a pair.
    network_limit: Option<u32>,
}

/// A login that is being checked; dropped without an outcome, it counts for nothing.
#[derive(Debug)]
pub struct Attempt<'a> {
    throttle: &'a Throttle,
    keys: Keys,
    limits: Limits,
}

/// Failures that are allowed, before the factor of a network.
#[derive(Clone, Copy, Debug)]
struct Limits {
    pair: u32,
    network: u32,
}

/// Why a login may not be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Too many have failed lately.
    Blocked,
    /// Too many are under way, and none of them has ended in time.
    Busy,
}

#[derive(Debug, Default)]
struct Tables {
    pairs: Table<(Network, String)>,
    networks: Table<Network>,
}

#[derive(Debug)]
struct Table<K>(HashMap<K, Entry>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    failures: u32,
    /// Attempts under way.
    pending: u32,
    first: Instant,
    touched: Instant,
    blocked_until: Option<Instant>,
}

/// The first bits of an address, IPv4 as mapped into IPv6, with how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Network {
    bits: u128,
    length: u32,
}

/// What an attempt is counted under: its networks, the narrowest first, each with the factor of its limits; and its login.
#[derive(Debug)]
struct Keys {
    networks: Vec<(Network, u32)>,
    login: String,
}

/// Failures are counted within so long, and block for so long.
pub const WINDOW: Duration = Duration::from_secs(600);
/// A network may fail so many times as often as a pair.
pub const NETWORK_FACTOR: u32 = 4;
/// IPv6 networks that are counted, by the length of their prefix, each with what its limits are multiplied by.
const V6_FACTORS: [(u32, u32); 3] = [(64, 1), (56, 2), (48, 4)];
/// Entries in a table, at most.
const ENTRIES_MAX: usize = 20_000;
/// Characters of a login that are told apart; longer ones share an entry.
const LOGIN_MAX: usize = 64;

impl Throttle {
    /// Nothing has failed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, with a limit of its own for all logins from one network.
    pub fn with_network_limit(limit: u32) -> Self {
        Self { network_limit: Some(limit), ..Self::default() }
    }

    /// True if the narrowest network of this address may not even connect.
    pub fn blocks_network(&self, address: IpAddr, now: Instant) -> bool {
        self.lock().networks.blocks(&narrowest(address), now)
    }

    /// True if the narrowest network of this address has failed lately.
    pub fn has_failed(&self, address: IpAddr, now: Instant) -> bool {
        let tables = self.lock();
        tables.networks.0.get(&narrowest(address)).is_some_and(|entry| entry.failures_at(now) > 0)
    }

    /// Begins an attempt; `limit` is of a pair of IPv4 address or /64 and login. Waits at most `wait` while too many are under way.
    pub fn attempt(&self, address: IpAddr, login: &str, limit: u32, wait: Duration) -> Result<Attempt<'_>, Denied> {
        let keys = Keys::new(address, login);
        let network = self.network_limit.unwrap_or(limit.saturating_mul(NETWORK_FACTOR));
        let limits = Limits { pair: limit, network };
        let deadline = Instant::now() + wait;
        let mut tables = self.lock();
        loop {
            let now = Instant::now();
            match tables.begin(&keys, limits, now) {
                Ok(()) => return Ok(Attempt { throttle: self, keys, limits }),
                Err(Denied::Busy) if now < deadline => {
                    tables = self.ended.wait_timeout(tables, deadline - now).unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(denied) => return Err(denied),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// The password was wrong; true if this very failure makes the login or a network blocked.
    pub fn failed(self, now: Instant) -> bool {
        self.throttle.lock().fail(&self.keys, self.limits, now)
    }

    /// The password was right: the pair of the narrowest network and the login starts anew.
    pub fn succeeded(self) {
        self.throttle.lock().forget(&self.keys);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.throttle.lock().end(&self.keys);
        self.throttle.ended.notify_all();
    }
}

impl Keys {
    fn new(address: IpAddr, login: &str) -> Self {
        let login = login.chars().take(LOGIN_MAX).collect::<String>().to_lowercase();
        Self { networks: networks(address), login }
    }

    fn pairs(&self) -> impl Iterator<Item = ((Network, String), u32)> {
        self.networks.iter().map(|(network, factor)| ((*network, self.login.clone()), *factor))
    }
}

/// The networks of an address, the narrowest first, with the factors of their limits.
fn networks(address: IpAddr) -> Vec<(Network, u32)> {
    match address.to_canonical() {
        IpAddr::V4(v4) => vec![(Network { bits: v4.to_ipv6_mapped().to_bits(), length: 128 }, 1)],
        IpAddr::V6(v6) => {
            let of =
                |(length, factor): (u32, u32)| (Network { bits: v6.to_bits() & (u128::MAX << (128 - length)), length }, factor);
            V6_FACTORS.map(of).to_vec()
        }
    }
}

fn narrowest(address: IpAddr) -> Network {
    networks(address)[0].0
}

impl Tables {
    /// Counts an attempt everywhere, or nowhere.
    fn begin(&mut self, keys: &Keys, limits: Limits, now: Instant) -> Result<(), Denied> {
        let pairs: Vec<_> = keys.pairs().collect();
        let states = pairs.iter().map(|(key, factor)| self.pairs.state(key, limits.pair.saturating_mul(*factor), now));
        let networks = keys.networks.iter();
        let states =
            states.chain(networks.map(|(key, factor)| self.networks.state(key, limits.network.saturating_mul(*factor), now)));
        let denied: Vec<Denied> = states.flatten().collect();
        if let Some(denied) = denied.iter().find(|denied| **denied == Denied::Blocked).or(denied.first()) {
            return Err(*denied);
        }
        pairs.into_iter().for_each(|(key, _)| self.pairs.begin(key, now));
        keys.networks.iter().for_each(|(key, _)| self.networks.begin(*key, now));
        Ok(())
    }

    fn fail(&mut self, keys: &Keys, limits: Limits, now: Instant) -> bool {
        let mut blocked = false;
        for (key, factor) in keys.pairs() {
            blocked |= self.pairs.fail(&key, limits.pair.saturating_mul(factor), now);
        }
        for (key, factor) in &keys.networks {
            blocked |= self.networks.fail(key, limits.network.saturating_mul(*factor), now);
        }
        blocked
    }

    fn forget(&mut self, keys: &Keys) {
        if let Some((pair, _)) = keys.pairs().next()
            && let Some(entry) = self.pairs.0.get_mut(&pair)
        {
            entry.failures = 0;
        }
    }

    fn end(&mut self, keys: &Keys) {
        keys.pairs().for_each(|(key, _)| self.pairs.end(&key));
        keys.networks.iter().for_each(|(key, _)| self.networks.end(key));
    }
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    fn blocks(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).and_then(|entry| entry.blocked_until).is_some_and(|until| now < until)
    }

    /// Why another attempt may not begin, if it may not.
    fn state(&self, key: &K, limit: u32, now: Instant) -> Option<Denied> {
        let entry = self.0.get(key)?;
        let failures = entry.failures_at(now);
        if self.blocks(key, now) || failures >= limit {
            Some(Denied::Blocked)
        } else {
            (failures.saturating_add(entry.pending) >= limit).then_some(Denied::Busy)
        }
    }

    fn begin(&mut self, key: K, now: Instant) {
        if self.0.len() >= ENTRIES_MAX && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        let fresh = Entry { failures: 0, pending: 0, first: now, touched: now, blocked_until: None };
        let entry = self.0.entry(key).or_insert(fresh);
        entry.pending += 1;
        entry.touched = now;
    }

    fn fail(&mut self, key: &K, limit: u32, now: Instant) -> bool {
        let Some(entry) = self.0.get_mut(key) else { return false };
        if entry.failures == 0 || entry.is_over(now) {
            *entry = Entry { failures: 0, first: now, blocked_until: None, ..*entry };
        }
        entry.failures = entry.failures.saturating_add(1);
        entry.touched = now;
        if entry.failures >= limit && entry.blocked_until.is_none() {
            entry.blocked_until = Some(now + WINDOW);
            return true;
        }
        false
    }

    fn end(&mut self, key: &K) {
        if let Some(entry) = self.0.get_mut(key) {
            entry.pending = entry.pending.saturating_sub(1);
            if entry.pending == 0 && entry.failures == 0 {
                self.0.remove(key);
            }
        }
    }

    /// Drops what is over; if that is not enough, the tenth that comes first: not blocked before blocked, then by age. What is
    /// under way stays.
    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, entry| entry.pending > 0 || !entry.is_over(now));
        if self.0.len() < ENTRIES_MAX {
            return;
        }
        let rank = |entry: &Entry| (entry.blocked_until.is_some(), entry.touched);
        let mut ranks: Vec<_> = self.0.values().map(rank).collect();
        let (_, limit, _) = ranks.select_nth_unstable(ENTRIES_MAX / 10);
        let limit = *limit;
        self.0.retain(|_, entry| entry.pending > 0 || rank(entry) > limit);
    }
}

impl Entry {
    fn failures_at(&self, now: Instant) -> u32 {
        if self.is_over(now) { 0 } else { self.failures }
    }

    fn is_over(&self, now: Instant) -> bool {
        match self.blocked_until {
            Some(until) => now >= until,
            None => now.duration_since(self.first) >= WINDOW,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What becomes of an attempt with a wrong password at this time; `Ok(true)` if it blocks something.
    fn wrong(throttle: &Throttle, from: &str, login: &str, now: Instant) -> Result<bool, Denied> {
        let keys = Keys::new(address(from), login);
        let mut tables = throttle.lock();
        let limits = Limits { pair: 5, network: 5 * NETWORK_FACTOR };
        tables.begin(&keys, limits, now)?;
        let blocked = tables.fail(&keys, limits, now);
        tables.end(&keys);
        Ok(blocked)
    }

    #[test]
    fn a_pair_is_blocked_and_comes_back() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for failure in 1..=5 {
            assert_eq!(wrong(&throttle, "192.0.2.1", "a", now), Ok(failure == 5));
        }
        assert_eq!(wrong(&throttle, "192.0.2.1", "a", now + 599 * SECOND), Err(Denied::Blocked));
        assert_eq!(wrong(&throttle, "::ffff:192.0.2.1", "A", now), Err(Denied::Blocked), "logins are compared case-blind");
        assert_eq!(wrong(&throttle, "192.0.2.2", "a", now), Ok(false), "the owner, elsewhere, is not locked out");
        assert_eq!(wrong(&throttle, "192.0.2.1", "b", now), Ok(false));
        assert!(!throttle.blocks_network(address("192.0.2.1"), now));
        assert_eq!(wrong(&throttle, "192.0.2.1", "a", now + 600 * SECOND), Ok(false), "counted from one again");
    }

    #[test]
    fn slow_failures_do_not_add_up() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for n in 0..20 {
            assert_eq!(wrong(&throttle, "192.0.2.1", "a", now + n * 150 * SECOND), Ok(false), "{n}");
        }
    }

    #[test]
    fn a_network_is_blocked_whatever_the_login() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for n in 1..=20 {
            assert!(!throttle.blocks_network(address("192.0.2.1"), now));
            assert_eq!(wrong(&throttle, "192.0.2.1", &format!("login{n}"), now), Ok(n == 20));
        }
        assert!(throttle.blocks_network(address("192.0.2.1"), now));
        assert_eq!(wrong(&throttle, "192.0.2.1", "never tried", now), Err(Denied::Blocked));
        assert!(!throttle.blocks_network(address("192.0.2.2"), now));
    }

    /// How many of 1,000 guesses, each from an address of its own, get as far as the hash.
    fn guesses(from: impl Fn(u32) -> String, login: impl Fn(u32) -> String) -> usize {
        let (throttle, now) = (Throttle::new(), Instant::now());
        (0..1000).filter(|n| wrong(&throttle, &from(*n), &login(*n), now).is_ok()).count()
    }

    #[test]
    fn the_networks_of_one_customer_are_counted_together() {
        let alice = |_| "alice".to_owned();
        let any = |n: u32| format!("login{n}");
        assert_eq!(guesses(|n| format!("2001:db8::{n:x}"), alice), 5, "a /64");
        assert_eq!(guesses(|n| format!("2001:db8:0:{:x}::1", n % 256), alice), 10, "a /56");
        assert_eq!(guesses(|n| format!("2001:db8:0:{:x}::1", n * 64), alice), 20, "a /48");
        assert_eq!(guesses(|n| format!("2001:db8:{n:x}::1"), alice), 1000, "other customers");
        assert_eq!(guesses(|n| format!("2001:db8::{n:x}"), any), 20);
        assert_eq!(guesses(|n| format!("2001:db8:0:{:x}::1", n % 256), any), 40);
        assert_eq!(guesses(|n| format!("2001:db8:0:{:x}::1", n * 64), any), 80);
    }

    #[test]
    fn a_wide_network_blocks_logins_and_no_connections() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for n in 0..80 {
            assert!(wrong(&throttle, &format!("2001:db8:0:{:x}::1", n * 256), &format!("login{n}"), now).is_ok());
        }
        assert_eq!(wrong(&throttle, "2001:db8:0:1::1", "x", now), Err(Denied::Blocked));
        assert!(!throttle.blocks_network(address("2001:db8:0:1::1"), now), "a neighbour's mail still comes in");
    }

    #[test]
    fn success_clears_its_own_pair_alone() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        for login in ["a", "b"] {
            for _ in 0..4 {
                wrong(&throttle, "192.0.2.1", login, now).unwrap();
            }
        }
        throttle.attempt(address("192.0.2.1"), "a", 5, SECOND).unwrap().succeeded();
        assert_eq!(wrong(&throttle, "192.0.2.1", "a", now), Ok(false));
        assert_eq!(wrong(&throttle, "192.0.2.1", "b", now), Ok(true));
        assert!(throttle.has_failed(address("192.0.2.1"), now));
        assert!(!throttle.has_failed(address("192.0.2.2"), now));
    }

    #[test]
    fn guesses_at_the_same_time_are_no_more_than_the_limit() {
        let (throttle, tried) = (Throttle::new(), AtomicUsize::new(0));
        let outcomes: Vec<_> = thread::scope(|scope| {
            let one = || {
                let attempt = throttle.attempt(address("::1"), "a", 5, 60 * SECOND)?;
                tried.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(20));
                Ok(attempt.failed(Instant::now()))
            };
            let threads: Vec<_> = (0..32).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(tried.into_inner(), 5);
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err(Denied::Blocked)).count(), 27, "{outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Ok(true)).count(), 1, "said once");
    }

    #[test]
    fn right_passwords_at_the_same_time_all_get_through_and_leave_nothing() {
        let throttle = Throttle::new();
        thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let attempt = throttle.attempt(address("::1"), "a", 2, 60 * SECOND).unwrap();
                    thread::sleep(Duration::from_millis(2));
                    attempt.succeeded();
                });
            }
        });
        assert!(throttle.lock().pairs.0.is_empty() && throttle.lock().networks.0.is_empty());
    }

    #[test]
    fn what_does_not_end_in_time_is_busy_and_an_attempt_without_an_outcome_counts_for_nothing() {
        let throttle = Throttle::new();
        let begin = || throttle.attempt(address("::1"), "a", 1, Duration::from_millis(10));
        let first = begin().unwrap();
        assert_eq!(begin().err(), Some(Denied::Busy));
        drop(first);
        assert!(begin().is_ok_and(|attempt| attempt.failed(Instant::now())));
        assert_eq!(begin().err(), Some(Denied::Blocked));
    }

    #[test]
    fn the_tables_are_bounded_and_keep_what_is_blocked() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        let late = |n: u32| now + Duration::from_millis(u64::from(n));
        let from = |n: u32| std::net::Ipv4Addr::from_bits(n).to_string();
        for _ in 0..5 {
            wrong(&throttle, "192.0.2.1", "blocked", now).unwrap();
        }
        for n in 1..=(2 * ENTRIES_MAX as u32) {
            wrong(&throttle, &from(n), &"x".repeat(1000), late(n)).unwrap();
        }
        {
            let tables = throttle.lock();
            assert!(tables.pairs.0.len() <= ENTRIES_MAX && tables.networks.0.len() <= ENTRIES_MAX);
            assert!(tables.pairs.0.keys().all(|(_, login)| login.len() <= LOGIN_MAX));
        }
        let last = 2 * ENTRIES_MAX as u32;
        assert!(throttle.has_failed(address(&from(last)), late(last)), "the youngest");
        assert_eq!(wrong(&throttle, "192.0.2.1", "blocked", late(last)), Err(Denied::Blocked));
    }
}
