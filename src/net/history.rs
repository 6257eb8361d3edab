//! What is remembered of networks: which logged in lately, and which got nowhere lately.
//!
//! Both tables are bounded: the entry that was noted longest ago makes room. A network gets into the first only by a login, so
//! no client without a password can fill it; an entry that an attacker pushes out of the second only makes a network look new.
//! The first has a text form that can be kept over a restart: one line a network, its first address and seconds since 1970. A
//! line that cannot be read is left out.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::network::Network;
use super::waiting::Class;

/// Remembers networks; safe to share.
#[derive(Debug, Default)]
pub struct History {
    tables: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    logins: HashMap<Network, SystemTime>,
    failures: HashMap<(Network, Class), Instant>,
    /// Something has been noted that was not given out as text yet.
    changed: bool,
}

/// How a network stands among those that wait, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It logged in within [`LOGIN_MEMORY`].
    Known,
    /// Nothing is known of it, or it logged in lately and a session from there got nowhere lately.
    New,
    /// A session from there was evicted or left without success within [`FAILURE_MEMORY`].
    Failed,
}

/// How long a login is remembered.
pub const LOGIN_MEMORY: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long it is remembered that a session was evicted, or left without success.
pub const FAILURE_MEMORY: Duration = Duration::from_secs(600);
/// Entries in a table, at most.
const ENTRIES_MAX: usize = 20_000;
/// Entries that a table has room for from the start, in 132 KiB. A table that grew while there are many sessions would lie among
/// what they hold, and keep that from being given back when they end; larger ones are mapped apart by the allocator.
const ENTRIES: usize = 3584;

impl History {
    /// A session of this network has logged in.
    pub fn logged_in(&self, network: Network, now: SystemTime) {
        let mut tables = self.lock();
        insert(&mut tables.logins, network, now);
        tables.changed = true;
        tables.failures.remove(&(network, Class::Submission));
    }

    /// A session of this network got something done that is no proof: a message on port 25.
    pub fn succeeded(&self, network: Network, class: Class) {
        self.lock().failures.remove(&(network, class));
    }

    /// A session of this network was evicted, or left without success.
    pub fn failed(&self, network: Network, class: Class, now: Instant) {
        insert(&mut self.lock().failures, (network, class), now);
    }

    /// True if this network has logged in within [`LOGIN_MEMORY`].
    pub fn is_known(&self, network: Network) -> bool {
        self.lock().is_known(network, SystemTime::now())
    }

    /// How this network stands among those that wait for a worker of this class. A login counts for submission only.
    pub fn standing(&self, network: Network, class: Class, now: Instant) -> Standing {
        let tables = self.lock();
        let known = class == Class::Submission && tables.is_known(network, SystemTime::now());
        let noted = tables.failures.get(&(network, class));
        match (known, noted.is_some_and(|noted| now.saturating_duration_since(*noted) < FAILURE_MEMORY)) {
            (true, false) => Standing::Known,
            (true, true) | (false, false) => Standing::New,
            (false, true) => Standing::Failed,
        }
    }

    /// The networks that have logged in as text, if that has changed since it was asked for last.
    pub fn to_text(&self) -> Option<String> {
        let mut tables = self.lock();
        if !std::mem::take(&mut tables.changed) {
            return None;
        }
        let mut text = String::new();
        for (network, noted) in &tables.logins {
            let seconds = noted.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let _ = writeln!(text, "{network} {seconds}");
        }
        Some(text)
    }

    /// Takes up what [`Self::to_text`] gave; what is old, in the future or cannot be read is left out.
    pub fn read_text(&self, text: &str, now: SystemTime) {
        let mut tables = self.lock();
        for line in text.lines() {
            let Some((network, seconds)) = line.split_once(' ') else { continue };
            let (Ok(network), Ok(seconds)) = (network.parse(), seconds.parse()) else { continue };
            let Some(noted) = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) else { continue };
            if now.duration_since(noted).is_ok_and(|age| age < LOGIN_MEMORY) {
                insert(&mut tables.logins, network, noted);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self { logins: HashMap::with_capacity(ENTRIES), failures: HashMap::with_capacity(ENTRIES), changed: false }
    }
}

impl Tables {
    fn is_known(&self, network: Network, now: SystemTime) -> bool {
        let noted = self.logins.get(&network);
        // A clock that was set back makes no network unknown.
        noted.is_some_and(|noted| now.duration_since(*noted).is_ok_and(|age| age < LOGIN_MEMORY) || *noted > now)
    }
}

/// Notes a key; a full table first drops the tenth that was noted longest ago.
fn insert<K: Copy + Eq + Hash, T: Copy + Ord>(table: &mut HashMap<K, T>, key: K, noted: T) {
    if table.len() >= ENTRIES_MAX && !table.contains_key(&key) {
        let mut times: Vec<T> = table.values().copied().collect();
        let (_, limit, _) = times.select_nth_unstable(ENTRIES_MAX / 10);
        let limit = *limit;
        table.retain(|_, noted| *noted > limit);
    }
    table.insert(key, noted);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn network(n: u32) -> Network {
        Network::of(std::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn standings() {
        let (history, now) = (History::default(), Instant::now());
        let at = |seconds: u32, n: u32| history.standing(network(n), Class::Submission, now + seconds * SECOND);
        assert_eq!(at(0, 1), Standing::New);
        history.failed(network(1), Class::Submission, now);
        assert_eq!((at(0, 1), at(599, 1), at(600, 1)), (Standing::Failed, Standing::Failed, Standing::New));
        assert_eq!(at(0, 2), Standing::New, "another network");
        assert_eq!(history.standing(network(1), Class::Smtp, now), Standing::New, "another service");
        history.logged_in(network(1), SystemTime::now());
        assert_eq!(at(0, 1), Standing::Known, "a login makes good");
        assert_eq!(history.standing(network(1), Class::Smtp, now), Standing::New, "but is worth nothing on port 25");
        history.failed(network(1), Class::Submission, now);
        assert_eq!(at(0, 1), Standing::New, "a network that logs in is never last");
        history.failed(network(3), Class::Smtp, now);
        history.succeeded(network(3), Class::Smtp);
        assert_eq!(history.standing(network(3), Class::Smtp, now), Standing::New);
        assert!(!history.is_known(network(3)), "a message on port 25 is no proof");
    }

    #[test]
    fn a_login_is_remembered_for_thirty_days() {
        let (history, now) = (History::default(), SystemTime::now());
        history.logged_in(network(1), now - LOGIN_MEMORY);
        history.logged_in(network(2), now - (LOGIN_MEMORY - 60 * SECOND));
        assert!(!history.is_known(network(1)));
        assert!(history.is_known(network(2)));
    }

    #[test]
    fn logins_survive_as_text_whatever_else_it_holds() {
        let (history, now) = (History::default(), SystemTime::now());
        assert_eq!(history.to_text(), None, "nothing to keep");
        history.logged_in(network(0x0a00_0001), now);
        history.logged_in("2001:db8::1".parse().unwrap(), now);
        let text = history.to_text().unwrap();
        assert_eq!(history.to_text(), None, "nothing new");
        let later = History::default();
        let old = now.duration_since(UNIX_EPOCH).unwrap().as_secs() - LOGIN_MEMORY.as_secs() - 1;
        let damage = format!("x\n\n10.0.0.9\n10.0.0.8 x\n10.0.0.7 {old}\n10.0.0.6 {}\n{text}\u{0}", u64::MAX);
        later.read_text(&damage, now);
        for (address, known) in [("10.0.0.1", true), ("2001:db8::ffff", true), ("10.0.0.6", false), ("10.0.0.7", false)] {
            assert_eq!(later.is_known(address.parse().unwrap()), known, "{address}");
        }
        assert_eq!(later.to_text(), None, "what was read need not be written");
    }

    #[test]
    fn the_tables_are_bounded_and_keep_the_youngest() {
        let (history, now, wall) = (History::default(), Instant::now(), SystemTime::now());
        let most = 3 * ENTRIES_MAX as u32;
        for n in 0..most {
            history.failed(network(n), Class::Smtp, now + Duration::from_micros(n.into()));
            history.logged_in(network(n), wall - 60 * SECOND + Duration::from_micros(n.into()));
        }
        let tables = history.lock();
        assert!(tables.failures.len() <= ENTRIES_MAX && tables.logins.len() <= ENTRIES_MAX);
        assert!(
            tables.failures.contains_key(&(network(most - 1), Class::Smtp)) && tables.logins.contains_key(&network(most - 1))
        );
    }
}
