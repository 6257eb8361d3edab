//! How much a network can make the log say. Bounded memory, no lines of its own: the journal writes the summaries.
//!
//! A network is an IPv4 address or an IPv6 /64. Of its connections, so many a second are written, and of all of its lines
//! so many octets a minute; what is left out is counted and summed up once a second. What one network does takes nothing
//! from another.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections of a network that are written in a second.
pub const CONNECTIONS: u32 = 20;
/// Octets of a network's lines in a minute; twice as much where one minute ends and the next begins.
pub const OCTETS: usize = 500_000;

/// Counts for each network.
#[derive(Debug, Default)]
pub struct LogBudget {
    networks: Mutex<HashMap<IpAddr, Usage>>,
}

/// What was left out for a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The address, or the /64's first.
    pub network: IpAddr,
    /// Connections that were not written.
    pub connections: u64,
    /// Lines that were not written, those of the connections included.
    pub lines: u64,
}

#[derive(Debug)]
struct Usage {
    second: Instant,
    connections: u32,
    minute: Instant,
    octets: usize,
    left_out: (u64, u64),
    /// When the last summary was taken, or there was nothing to sum up.
    summed: Instant,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Networks that are remembered; the oldest is forgotten for a new one.
const NETWORKS: usize = 4096;

impl LogBudget {
    /// Counts a connection; false if it is not to be written.
    pub fn connection(&self, peer: IpAddr, now: Instant) -> bool {
        self.with(peer, now, |usage| {
            usage.connections = usage.connections.saturating_add(1);
            let written = usage.connections <= CONNECTIONS;
            usage.left_out.0 += u64::from(!written);
            written
        })
    }

    /// Counts a line of so many octets; false if it is not to be written.
    pub fn line(&self, peer: IpAddr, octets: usize, now: Instant) -> bool {
        self.with(peer, now, |usage| {
            let written = usage.octets + octets <= OCTETS;
            if written {
                usage.octets += octets
            } else {
                usage.left_out.1 += 1
            }
            written
        })
    }

    /// Counts a line that is not written.
    pub fn leave_out(&self, peer: IpAddr, now: Instant) {
        self.with(peer, now, |usage| usage.left_out.1 += 1);
    }

    /// What is to be summed up: all that is a second old, or all at once with `end`.
    pub fn summaries(&self, now: Instant, end: bool) -> Vec<Summary> {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let due = networks
            .iter_mut()
            .filter(|(_, usage)| usage.left_out != (0, 0) && (end || now.saturating_duration_since(usage.summed) >= SECOND));
        let take = |(network, usage): (&IpAddr, &mut Usage)| {
            let (connections, lines) = std::mem::take(&mut usage.left_out);
            usage.summed = now;
            Summary { network: *network, connections, lines }
        };
        let summaries = due.map(take).collect();
        networks.retain(|_, usage| now.saturating_duration_since(usage.minute) < MINUTE || usage.left_out != (0, 0));
        summaries
    }

    fn with<T>(&self, peer: IpAddr, now: Instant, count: impl FnOnce(&mut Usage) -> T) -> T {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let network = network(peer);
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
            left_out: (0, 0),
            summed: now,
        });
        if now.saturating_duration_since(usage.second) >= SECOND {
            (usage.second, usage.connections) = (now, 0);
        }
        if now.saturating_duration_since(usage.minute) >= MINUTE {
            (usage.minute, usage.octets) = (now, 0);
        }
        count(usage)
    }
}

/// What an address is counted as.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
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
        assert_eq!((0..1000).filter(|_| budget.connection(peer, begun)).count(), 20);
        assert!(budget.connection(other, begun), "another network has its own");
        assert!(budget.summaries(begun, false).is_empty(), "not before a second is over");
        budget.leave_out(peer, begun);
        let want = Summary { network: peer, connections: 980, lines: 1 };
        assert_eq!(budget.summaries(at(1, begun), false), [want]);
        assert!(budget.summaries(at(3, begun), true).is_empty(), "once");
        assert_eq!((0..1000).filter(|_| budget.connection(peer, at(3, begun))).count(), 20);
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
    fn memory_is_bounded_and_given_back() {
        let (budget, begun) = (LogBudget::default(), Instant::now());
        for n in 0..10_000u32 {
            assert!(budget.connection(IpAddr::from(n.to_be_bytes()), begun));
        }
        assert_eq!(budget.networks.lock().unwrap().len(), NETWORKS);
        assert!(budget.summaries(at(61, begun), false).is_empty());
        assert_eq!(budget.networks.lock().unwrap().len(), 0);
    }
}
