//! How much a network can make the log say. Bounded memory, no lines of its own: the journal writes the summaries.
//!
//! A network is an IPv4 address or an IPv6 /64. As one customer may have 65,536 of those, the /48 around it is counted as
//! well, with limits twice as large. Of the connections of a network, so many a second are written, and of all of its lines
//! so many octets a minute; those of its logins are counted apart, so that what knows no password hides none of them. What is
//! left out is counted and summed up once a second, for the widest network that has had enough. What one network does takes
//! nothing from another, but for those of one /48.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections of a network that are written in a second.
pub const CONNECTIONS: u32 = 20;
/// Octets of a network's lines in a minute; twice as much where one minute ends and the next begins.
pub const OCTETS: usize = 400_000;
/// The same for the lines of its logins.
pub const LOGIN_OCTETS: usize = 100_000;

/// Counts for each network.
#[derive(Debug)]
pub struct LogBudget {
    networks: Mutex<HashMap<Network, Usage>>,
}

/// An IPv4 address, a /64 or a /48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    length: u32,
}

/// What was left out for a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The network.
    pub network: Network,
    /// Connections that were not written.
    pub connections: u64,
    /// Lines that were not written, those of the connections included.
    pub lines: u64,
}

/// What is to be counted.
#[derive(Clone, Copy, Debug)]
enum Amount {
    Connection,
    /// A line of so many octets.
    Line(usize),
    /// The line of a login, of so many octets.
    Login(usize),
}

#[derive(Debug)]
struct Usage {
    second: Instant,
    connections: u32,
    minute: Instant,
    octets: usize,
    login_octets: usize,
    /// Connections and lines.
    left_out: (u64, u64),
    /// When the last summary was taken, or there was nothing to sum up.
    summed: Instant,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Networks that are remembered, as many as a table of 4,096 places takes; the oldest is forgotten for a new one.
const NETWORKS: usize = 3584;
/// IPv6 networks that are counted, the widest first, by the length of their prefix, each with what its limits are multiplied by.
const V6_FACTORS: [(u32, u32); 2] = [(48, 2), (64, 1)];
/// The /32 in which each user of this machine has a /64. They stand side by side without being one customer.
const USERS: [u16; 2] = [0x100, 0];

impl Default for LogBudget {
    /// Nothing counted, with room for all networks from the start: glibc takes the size of a table that was mapped apart and is
    /// outgrown for a sign that it should give less back.
    fn default() -> Self {
        Self { networks: Mutex::new(HashMap::with_capacity(NETWORKS)) }
    }
}

impl LogBudget {
    /// Counts a connection; the network that has had enough if it is not to be written.
    pub fn connection(&self, peer: IpAddr, now: Instant) -> Option<Network> {
        self.count(peer, Amount::Connection, now)
    }

    /// Counts a line of so many octets; false if it is not to be written.
    pub fn line(&self, peer: IpAddr, octets: usize, now: Instant) -> bool {
        self.count(peer, Amount::Line(octets), now).is_none()
    }

    /// Counts the line of a login, of so many octets; false if it is not to be written.
    pub fn login(&self, peer: IpAddr, octets: usize, now: Instant) -> bool {
        self.count(peer, Amount::Login(octets), now).is_none()
    }

    /// Counts a line that is not written, of a connection that this network has left out.
    pub fn leave_out(&self, network: Network, now: Instant) {
        usage(&mut self.lock(), network, now).left_out.1 += 1;
    }

    /// What is to be summed up: all that is a second old, or all at once with `end`.
    pub fn summaries(&self, now: Instant, end: bool) -> Vec<Summary> {
        let mut networks = self.lock();
        let due = networks
            .iter_mut()
            .filter(|(_, usage)| usage.left_out != (0, 0) && (end || now.saturating_duration_since(usage.summed) >= SECOND));
        let take = |(network, usage): (&Network, &mut Usage)| {
            let (connections, lines) = std::mem::take(&mut usage.left_out);
            usage.summed = now;
            Summary { network: *network, connections, lines }
        };
        let summaries = due.map(take).collect();
        networks.retain(|_, usage| now.saturating_duration_since(usage.minute) < MINUTE || usage.left_out != (0, 0));
        summaries
    }

    /// Counts in all networks of an address, or leaves out in the widest of them that has had enough.
    fn count(&self, peer: IpAddr, amount: Amount, now: Instant) -> Option<Network> {
        let mut networks = self.lock();
        for (network, factor) in networks_of(peer) {
            let usage = usage(&mut networks, network, now);
            if !usage.fits(amount, factor) {
                usage.leave_out(amount);
                return Some(network);
            }
        }
        networks_of(peer).for_each(|(network, _)| usage(&mut networks, network, now).add(amount));
        None
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Network, Usage>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage {
    fn fits(&self, amount: Amount, factor: u32) -> bool {
        match amount {
            Amount::Connection => self.connections < CONNECTIONS * factor,
            Amount::Line(octets) => self.octets + octets <= OCTETS * factor as usize,
            Amount::Login(octets) => self.login_octets + octets <= LOGIN_OCTETS * factor as usize,
        }
    }

    fn add(&mut self, amount: Amount) {
        match amount {
            Amount::Connection => self.connections += 1,
            Amount::Line(octets) => self.octets += octets,
            Amount::Login(octets) => self.login_octets += octets,
        }
    }

    fn leave_out(&mut self, amount: Amount) {
        match amount {
            Amount::Connection => self.left_out.0 += 1,
            Amount::Line(_) | Amount::Login(_) => self.left_out.1 += 1,
        }
    }
}

/// What a network has used of this second and minute; a new one takes the place of the oldest where there are too many.
fn usage(networks: &mut HashMap<Network, Usage>, network: Network, now: Instant) -> &mut Usage {
    if networks.len() >= NETWORKS
        && !networks.contains_key(&network)
        && let Some(oldest) =
            networks.iter().min_by_key(|(_, usage)| (usage.left_out != (0, 0), usage.second)).map(|(key, _)| *key)
    {
        networks.remove(&oldest);
    }
    let usage = networks.entry(network).or_insert_with(|| Usage {
        second: now,
        connections: 0,
        minute: now,
        octets: 0,
        login_octets: 0,
        left_out: (0, 0),
        summed: now,
    });
    if now.saturating_duration_since(usage.second) >= SECOND {
        (usage.second, usage.connections) = (now, 0);
    }
    if now.saturating_duration_since(usage.minute) >= MINUTE {
        (usage.minute, usage.octets, usage.login_octets) = (now, 0, 0);
    }
    usage
}

/// What an address is counted as, the widest first, with the factors of the limits.
fn networks_of(address: IpAddr) -> impl Iterator<Item = (Network, u32)> {
    let of = move |(length, factor): (u32, u32)| match address.to_canonical() {
        IpAddr::V6(v6) if length == 64 || v6.segments()[..2] != USERS => {
            let first = Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - length)));
            Some((Network { first: first.into(), length }, factor))
        }
        v4 if v4.is_ipv4() && length == 64 => Some((Network { first: v4, length: 32 }, factor)),
        _ => None,
    };
    V6_FACTORS.into_iter().filter_map(of)
}

/// An IPv4 address alone, an IPv6 network with its length.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/{}", self.length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, begun: Instant) -> Instant {
        begun + Duration::from_secs(seconds)
    }

    #[test]
    fn twenty_connections_a_second_and_the_rest_is_summed_up() {
        let (budget, begun) = (LogBudget::default(), Instant::now());
        let (peer, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!((0..1000).filter(|_| budget.connection(peer, begun).is_none()).count(), 20);
        assert!(budget.connection(other, begun).is_none(), "another network has its own");
        assert!(budget.summaries(begun, false).is_empty(), "not before a second is over");
        let network = Network { first: peer, length: 32 };
        budget.leave_out(network, begun);
        let want = Summary { network, connections: 980, lines: 1 };
        assert_eq!(budget.summaries(at(1, begun), false), [want]);
        assert!(budget.summaries(at(3, begun), true).is_empty(), "once");
        assert_eq!((0..1000).filter(|_| budget.connection(peer, at(3, begun)).is_none()).count(), 20);
        assert_eq!(budget.summaries(at(3, begun), true).len(), 1, "at the end at once");
    }

    #[test]
    fn so_many_octets_a_minute() {
        let (budget, begun) = (LogBudget::default(), Instant::now());
        let peer: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let written = (0..100_000).filter(|n| budget.line(if n % 2 == 0 { peer } else { neighbour }, 100, begun)).count();
        assert_eq!(written, OCTETS / 100, "a /64 is one network");
        assert!(budget.line("2001:db8:0:1::1".parse().unwrap(), 100, begun));
        assert!(!budget.line(peer, 100, at(59, begun)));
        assert!(budget.line(peer, 100, at(60, begun)));
        let left_out: u64 = budget.summaries(at(60, begun), false).iter().map(|summary| summary.lines).sum();
        assert_eq!(left_out, 100_000 - OCTETS as u64 / 100 + 1);
    }

    #[test]
    fn logins_are_counted_apart() {
        let (budget, begun) = (LogBudget::default(), Instant::now());
        let peer = IpAddr::from([192, 0, 2, 1]);
        assert!((0..OCTETS / 100).all(|_| budget.line(peer, 100, begun)) && !budget.line(peer, 100, begun));
        assert_eq!((0..10_000).filter(|_| budget.login(peer, 100, begun)).count(), LOGIN_OCTETS / 100);
        assert!(budget.login(peer, 100, at(60, begun)) && budget.line(peer, 100, at(60, begun)));
    }

    /// One customer with a /64 for each connection; the neighbour in the same /48 is heard while only one of them floods.
    #[test]
    fn a_48_is_one_network_too() {
        let (budget, begun) = (LogBudget::default(), Instant::now());
        let of = |n: u32| IpAddr::from([0x2001, 0xdb8, 0, n as u16, 0, 0, 0, 1]);
        assert_eq!((0..4000).filter(|n| budget.connection(of(*n), begun).is_none()).count(), 40);
        let octets: usize = (0..4000).filter(|n| budget.line(of(*n), 1000, begun)).count() * 1000;
        assert_eq!(octets, 2 * OCTETS);
        let summaries = budget.summaries(at(1, begun), false);
        let all: Vec<_> = summaries.iter().map(|one| (one.network.to_string(), one.connections, one.lines)).collect();
        assert_eq!(all, [("2001:db8::/48".to_owned(), 3960, 3200)], "one line, not one for each /64");

        let budget = LogBudget::default();
        assert!((0..4000).filter(|_| budget.line(of(1), 1000, begun)).count() == 400 && budget.line(of(2), 1000, begun));
        assert!((0..4000).filter(|_| budget.connection(of(1), begun).is_none()).count() == 20);
        assert!(budget.connection(of(2), begun).is_none(), "what is left out of one takes nothing from another");
        assert_eq!(budget.summaries(at(1, begun), false)[0].network.to_string(), "2001:db8:0:1::/64");
    }

    #[test]
    fn users_of_this_machine_are_no_customer() {
        let (budget, begun) = (LogBudget::default(), Instant::now());
        let of = |uid: u16| IpAddr::from([0x100, 0, 0, uid, 0, 0, 0, 1]);
        assert!((1000..1010).all(|uid| (0..400).all(|_| budget.line(of(uid), 1000, begun))));
        assert!(!budget.line(of(1000), 1000, begun) && budget.line(of(2000), 1000, begun));
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let (budget, begun) = (LogBudget::default(), Instant::now());
        for n in 0..10_000u32 {
            assert!(budget.connection(IpAddr::from(n.to_be_bytes()), begun).is_none());
        }
        assert_eq!(budget.networks.lock().unwrap().len(), NETWORKS);
        assert!(budget.summaries(at(61, begun), false).is_empty());
        assert_eq!(budget.networks.lock().unwrap().len(), 0);
    }
}
