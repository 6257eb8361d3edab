//! What is remembered of servers that are found by MX: connections that are open to each address, domains that found none,
//! addresses that failed, and domains that had TLS. Bounded. All but the last is lost at a restart, which costs an attempt and
//! no mail.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::mx::Exchanger;
use super::secured::Secured;
use crate::net::stop::{SLICE, Stop};

/// What is known of all servers.
#[derive(Debug, Default)]
pub struct Servers {
    known: Mutex<Known>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    open: HashMap<IpAddr, Open>,
    /// The number of the next courier that waits.
    next: u64,
    /// Until when an address rests, and how often it has failed in a row.
    failed: HashMap<IpAddr, (Instant, u32)>,
    /// Domains that found no place at an address, the first that came first.
    missed: VecDeque<(IpAddr, String)>,
    /// Those of them for which there is one now.
    freed: Vec<String>,
    /// Domains that had TLS.
    secured: Secured,
}

/// What is open to one address.
#[derive(Debug, Default)]
struct Open {
    connections: usize,
    /// The numbers of couriers that wait, in the order in which they came.
    waiting: VecDeque<u64>,
}

/// A connection that counts; dropping it lets another one be opened.
#[derive(Debug)]
pub struct Place {
    servers: Arc<Servers>,
    address: IpAddr,
}

/// Addresses that are tried in one pass.
pub const ADDRESSES_MAX: usize = 5;
/// Those among them that are left to addresses which have not failed, where there are more than that.
const UNTRIED: usize = 2;
/// Connections to one address at once, whatever domains it serves.
pub const PER_ADDRESS: usize = 5;
/// How long an address that failed rests: twice as long each time, from one to the other.
const REST_MIN: Duration = Duration::from_secs(60);
const REST_MAX: Duration = Duration::from_secs(3600);
/// Addresses that are remembered, and domains that found no connection.
const KNOWN_MAX: usize = 10_000;

impl Servers {
    /// A place among the connections to an address; waits for one until `deadline`, or until everything is stopped. The
    /// first that came is served first.
    pub fn take(self: &Arc<Self>, address: IpAddr, deadline: Instant, stop: &Stop) -> Option<Place> {
        let mut known = self.known();
        let number = known.next;
        known.next += 1;
        known.open.entry(address).or_default().waiting.push_back(number);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let open = known.open.entry(address).or_default();
            let taken = open.connections < PER_ADDRESS && open.waiting.front() == Some(&number);
            if taken || left.is_zero() || stop.is_stopped() {
                open.waiting.retain(|other| *other != number);
                open.connections += usize::from(taken);
                drop(known);
                // The next one may be first now.
                self.freed.notify_all();
                return taken.then(|| Place { servers: Arc::clone(self), address });
            }
            (known, _) = self.freed.wait_timeout(known, left.min(SLICE)).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// True if a courier waits for a place at an address.
    pub fn is_awaited(&self, address: IpAddr) -> bool {
        self.known().open.get(&address).is_some_and(|open| !open.waiting.is_empty())
    }

    /// A domain found no place at an address: [`Servers::freed`] names it when there is one.
    pub fn miss(&self, address: IpAddr, domain: &str) {
        let mut known = self.known();
        known.missed.retain(|(at, other)| *at != address || other != domain);
        if known.missed.len() >= KNOWN_MAX {
            known.missed.pop_front();
        }
        known.missed.push_back((address, domain.to_owned()));
    }

    /// A domain has a connection.
    pub fn reach(&self, domain: &str) {
        self.known().missed.retain(|(_, other)| other != domain);
    }

    /// Domains that found no place and would find one now; each is named once, and one for each place.
    pub fn freed(&self) -> Vec<String> {
        std::mem::take(&mut self.known().freed)
    }

    /// An address did not serve: it rests. Connections that fail together are one failure: what began before it rests, or
    /// is tried though it does, makes the rest no longer.
    pub fn fail(&self, address: IpAddr) {
        let now = Instant::now();
        let mut known = self.known();
        shorten(&mut known.failed, |(until, _)| *until > now);
        let (until, times) = known.failed.entry(address).or_insert((now, 0));
        if *until > now {
            return;
        }
        *until = now + REST_MIN.saturating_mul(1 << (*times).min(6)).min(REST_MAX);
        *times += 1;
    }

    /// An address serves.
    pub fn succeed(&self, address: IpAddr) {
        self.known().failed.remove(&address);
    }

    /// True if an address has failed and is not due.
    pub fn rests(&self, address: IpAddr) -> bool {
        self.known().failed.get(&address).is_some_and(|(until, _)| *until > Instant::now())
    }

    /// The addresses of one pass, in their order: five at most, those that rest only where there are no others. However many
    /// fail, one that has not is tried before they are due for the second time.
    pub fn of_a_pass(&self, found: Vec<Exchanger>) -> Vec<Exchanger> {
        let (resting, mut well): (Vec<Exchanger>, Vec<Exchanger>) =
            found.into_iter().partition(|place| self.rests(place.address));
        if well.is_empty() {
            well = resting;
        }
        if well.len() > ADDRESSES_MAX {
            let others = well.split_off(ADDRESSES_MAX - UNTRIED);
            let (failed, untried): (Vec<Exchanger>, Vec<Exchanger>) =
                others.into_iter().partition(|place| self.known().failed.contains_key(&place.address));
            well.extend(untried.into_iter().chain(failed));
            well.truncate(ADDRESSES_MAX);
        }
        well
    }

    /// Remembers whether a domain has TLS; true if it had, and has not now.
    pub fn is_downgraded(&self, domain: &str, secured: bool) -> bool {
        let mut known = self.known();
        if secured {
            known.secured.note(domain, now());
        }
        !secured && known.secured.had_tls(domain, now())
    }

    /// Domains that had TLS as text, if that has changed: [`Secured::to_text`].
    pub fn secured_text(&self) -> Option<String> {
        self.known().secured.to_text()
    }

    /// Takes up such a text; gives how many of its lines cannot be read.
    pub fn read_secured(&self, text: &str) -> usize {
        self.known().secured.read_text(text, now())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Makes room where there is none: what still counts stays, unless that is too much.
fn shorten<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, counts: impl Fn(&V) -> bool) {
    if map.len() >= KNOWN_MAX {
        map.retain(|_, value| counts(value));
        if map.len() >= KNOWN_MAX {
            map.clear();
        }
    }
}

impl Place {
    /// True if a courier waits for a place at this address or has found none, so that an idle connection is better closed.
    pub fn is_wanted(&self) -> bool {
        let misses = |servers: &Servers| servers.known().missed.iter().any(|(address, _)| *address == self.address);
        self.servers.is_awaited(self.address) || misses(&self.servers)
    }

    /// The connection did not serve.
    pub fn fail(&self) {
        self.servers.fail(self.address);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut known = self.servers.known();
        let mut is_free = true;
        if let Some(open) = known.open.get_mut(&self.address) {
            open.connections -= 1;
            is_free = open.waiting.is_empty();
            if open.connections == 0 && is_free {
                known.open.remove(&self.address);
            }
        }
        let missed = known.missed.iter().position(|(address, _)| is_free && *address == self.address);
        if let Some((_, domain)) = missed.and_then(|at| known.missed.remove(at)) {
            known.missed.retain(|(_, other)| *other != domain);
            known.freed.push(domain);
        }
        drop(known);
        self.servers.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn so_many_connections_to_an_address() {
        let servers = Arc::new(Servers::default());
        let take = |until| servers.take(HERE, until, &Stop::new());
        let mut places: Vec<Place> = (0..PER_ADDRESS).map(|_| take(Instant::now()).unwrap()).collect();
        assert!(take(Instant::now()).is_none() && !places[0].is_wanted());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| take(Instant::now() + Duration::from_secs(3600)).is_some());
            while !places[0].is_wanted() {
                std::thread::yield_now();
            }
            places.pop();
            assert!(waits.join().unwrap());
        });
        drop(places);
        assert!(servers.known().open.is_empty());
        let stop = Stop::new();
        stop.stop(Instant::now());
        let _all: Vec<Place> = (0..PER_ADDRESS).map(|_| take(Instant::now()).unwrap()).collect();
        assert!(servers.take(HERE, Instant::now() + Duration::from_secs(3600), &stop).is_none());
    }

    /// However often others come, none waits longer than those before it.
    #[test]
    fn the_first_that_came_is_served_first() {
        let servers = Arc::new(Servers::default());
        let late = || Instant::now() + Duration::from_secs(20);
        let mut places: Vec<Place> = (0..PER_ADDRESS).map(|_| servers.take(HERE, late(), &Stop::new()).unwrap()).collect();
        let waiting = || servers.known().open[&HERE].waiting.len();
        let (told, order) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (servers, told) = (Arc::clone(&servers), told.clone());
                scope.spawn(move || told.send((number, servers.take(HERE, late(), &Stop::new()))));
                while waiting() <= number {
                    std::thread::yield_now();
                }
            }
            for number in 0..4 {
                // One that comes later has nothing while another waits, though there is a place for a moment.
                places.pop();
                assert!(number == 3 || servers.take(HERE, Instant::now(), &Stop::new()).is_none());
                let (first, place) = order.recv().unwrap();
                assert_eq!(first, number);
                places.insert(0, place.unwrap());
            }
        });
    }

    /// Each place that becomes free is for one of those that found none, in their order; none is named that has a connection.
    #[test]
    fn a_place_that_becomes_free_is_named_to_one() {
        let servers = Arc::new(Servers::default());
        let other = IpAddr::from([192, 0, 2, 2]);
        let take = |address| servers.take(address, Instant::now(), &Stop::new()).unwrap();
        let mut places: Vec<Place> = (0..PER_ADDRESS).map(|_| take(HERE)).collect();
        let elsewhere = take(other);
        assert!(!places[0].is_wanted());
        for domain in ["a.example", "b.example", "a.example", "c.example"] {
            servers.miss(HERE, domain);
        }
        servers.miss(other, "a.example");
        servers.reach("c.example");
        assert!(places[0].is_wanted() && elsewhere.is_wanted());
        let mut freed = || {
            places.pop();
            servers.freed()
        };
        assert_eq!([freed(), freed(), freed()], [vec!["b.example".to_owned()], vec!["a.example".to_owned()], vec![]]);
        drop(elsewhere);
        assert!(servers.freed().is_empty());
        servers.known().missed.extend((0..KNOWN_MAX).map(|number| (HERE, number.to_string())));
        servers.miss(HERE, "last.example");
        assert_eq!(servers.known().missed.len(), KNOWN_MAX);
    }

    #[test]
    fn an_address_that_failed_rests_longer_each_time() {
        let servers = Servers::default();
        let rest = || {
            servers.fail(HERE);
            // Five connections that fail at one moment.
            (1..PER_ADDRESS).for_each(|_| servers.fail(HERE));
            let now = Instant::now();
            let until = std::mem::replace(&mut servers.known().failed.get_mut(&HERE).unwrap().0, now);
            (until - now).as_secs_f64().round()
        };
        assert!(!servers.rests(HERE));
        let rests: Vec<f64> = (0..9).map(|_| rest()).collect();
        assert_eq!(rests, [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]);
        servers.fail(HERE);
        assert!(servers.rests(HERE));
        servers.succeed(HERE);
        assert!(!servers.rests(HERE));
    }

    #[test]
    fn many_that_fail_hide_no_other() {
        let servers = Servers::default();
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let found = || (0..9).map(|last| Exchanger { host: "mx.example".to_owned(), address: address(last) }).collect();
        let pass = || servers.of_a_pass(found()).into_iter().map(|place| place.address).collect::<Vec<_>>();
        let fail = |addresses: Vec<IpAddr>| {
            addresses.iter().for_each(|address| servers.fail(*address));
            // All are due again when the next pass begins.
            servers.known().failed.values_mut().for_each(|(until, _)| *until = Instant::now());
        };
        assert_eq!(pass(), [0, 1, 2, 3, 4].map(address));
        fail(pass());
        assert_eq!(pass(), [0, 1, 2, 5, 6].map(address));
        fail(pass());
        assert_eq!(pass(), [0, 1, 2, 7, 8].map(address));
    }

    #[test]
    fn what_a_domain_had() {
        let servers = Servers::default();
        assert!(!servers.is_downgraded("a.example", false));
        assert!(!servers.is_downgraded("a.example", true));
        assert!(servers.is_downgraded("a.example", false) && !servers.is_downgraded("b.example", false));
        let later = Servers::default();
        assert_eq!(later.read_secured(&servers.secured_text().unwrap()), 0);
        assert!(later.is_downgraded("a.example", false) && !later.is_downgraded("b.example", false));
    }
}
