//! The waiting list: connections that no worker has taken up yet, in the order in which they will be.
//!
//! Each class of services has a list of its own, so that one cannot fill another's. Within a class the order is: how the
//! network stands ([`Standing`]), how few connections it has, which came first. Adding, taking and dropping cost the logarithm of
//! the number of networks that wait. An entry is never dropped here: one that is taken out is given to the caller.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use super::history::Standing;
use super::network::Network;
use crate::smtp::session::Service;

/// Services that share workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Sockets of this host.
    Local,
    /// Port 25.
    Smtp,
    /// All submission ports together.
    Submission,
}

/// Connections of one class that wait.
#[derive(Debug)]
pub struct WaitingList<T> {
    lines: HashMap<Network, Line<T>>,
    order: BTreeSet<Key>,
    len: usize,
}

/// Those of one network, the first at the front.
#[derive(Debug)]
struct Line<T> {
    standing: Standing,
    held: usize,
    entries: VecDeque<Entry<T>>,
}

/// One that waits.
#[derive(Debug)]
pub struct Entry<T> {
    /// Counts up with every connection.
    pub number: u64,
    /// When it began to wait.
    pub since: Instant,
    /// What waits.
    pub item: T,
}

/// The place of a network in the order: the least is served first, the greatest makes room.
type Key = (Standing, usize, u64, Network);

impl Class {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Local, Self::Smtp, Self::Submission];

    /// The class of a service.
    pub fn of(service: Service) -> Self {
        match service {
            Service::Local => Self::Local,
            Service::Smtp => Self::Smtp,
            Service::Submission | Service::Submissions => Self::Submission,
        }
    }

    /// How many of `all` places this class may have: three quarters, or a quarter for sockets of this host; one at least.
    pub fn share(self, all: usize) -> usize {
        match self {
            Self::Local => all / 4,
            Self::Smtp | Self::Submission => all * 3 / 4,
        }
        .max(1)
    }

    /// How many of its share a class gives to networks that hold others already: on port 25, where no login tells clients
    /// apart, three quarters. The rest is left for networks that hold none.
    pub fn share_beyond_first(self, all: usize) -> usize {
        match self {
            Self::Smtp => (self.share(all) * 3 / 4).max(1),
            Self::Local | Self::Submission => self.share(all),
        }
    }
}

impl<T> WaitingList<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many of them come after all networks that have not failed lately.
    pub fn failed(&self) -> usize {
        self.lines.values().filter(|line| line.standing == Standing::Failed).map(|line| line.entries.len()).sum()
    }

    /// Adds one at the end of its network's line; `held` is how many connections that has, this one included.
    pub fn push(&mut self, network: Network, standing: Standing, held: usize, entry: Entry<T>) {
        self.len += 1;
        self.change(network, |line| {
            line.standing = standing;
            line.held = held;
            line.entries.push_back(entry);
        });
    }

    /// A network has so many connections now.
    pub fn set_held(&mut self, network: Network, held: usize) {
        if self.lines.contains_key(&network) {
            self.change(network, |line| line.held = held);
        }
    }

    /// Takes the one whose turn it is.
    pub fn pop_first(&mut self) -> Option<Entry<T>> {
        let (.., network) = *self.order.first()?;
        self.take(network, |line| line.entries.pop_front())
    }

    /// The same among those that are the only connection of their network.
    pub fn pop_only(&mut self) -> Option<Entry<T>> {
        let (.., network) = *self.order.iter().find(is_only)?;
        self.take(network, |line| line.entries.pop_front())
    }

    /// How many are the only connection of their network.
    pub fn only(&self) -> usize {
        self.order.iter().filter(is_only).count()
    }

    /// How the network stands that would have to make room, and how many connections it has.
    pub fn last(&self) -> Option<(Standing, usize)> {
        self.order.last().map(|(standing, held, ..)| (*standing, *held))
    }

    /// Takes the latest of the network that has to make room.
    pub fn pop_last(&mut self) -> Option<Entry<T>> {
        let (.., network) = *self.order.last()?;
        self.take(network, |line| line.entries.pop_back())
    }

    /// Takes out all that have waited since before `limit`.
    pub fn expire(&mut self, limit: Instant) -> Vec<Entry<T>> {
        let late = |line: &Line<T>| line.entries.front().is_some_and(|entry| entry.since < limit);
        let networks: Vec<Network> = self.lines.iter().filter(|(_, line)| late(line)).map(|(network, _)| *network).collect();
        let mut expired = Vec::new();
        for network in networks {
            while self.lines.get(&network).is_some_and(late) {
                expired.extend(self.take(network, |line| line.entries.pop_front()));
            }
        }
        expired
    }

    fn take(&mut self, network: Network, which: impl FnOnce(&mut Line<T>) -> Option<Entry<T>>) -> Option<Entry<T>> {
        let entry = self.change(network, which);
        self.len -= usize::from(entry.is_some());
        entry
    }

    /// Changes a network's line, and its place in the order with it.
    fn change<R>(&mut self, network: Network, change: impl FnOnce(&mut Line<T>) -> R) -> R {
        let line =
            self.lines.entry(network).or_insert_with(|| Line { standing: Standing::New, held: 0, entries: VecDeque::new() });
        if let Some(key) = line.key(network) {
            self.order.remove(&key);
        }
        let outcome = change(line);
        match line.key(network) {
            Some(key) => self.order.insert(key),
            None => self.lines.remove(&network).is_none(),
        };
        outcome
    }
}

fn is_only((_, held, ..): &&Key) -> bool {
    *held <= 1
}

impl<T> Line<T> {
    fn key(&self, network: Network) -> Option<Key> {
        self.entries.front().map(|first| (self.standing, self.held, first.number, network))
    }
}

impl<T> Default for WaitingList<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), order: BTreeSet::new(), len: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn network(n: u8) -> Network {
        Network::of([10, 0, 0, n].into())
    }

    fn entry(number: u64, since: Instant) -> Entry<()> {
        Entry { number, since, item: () }
    }

    #[test]
    fn shares() {
        for (all, smtp, local) in [(1, 1, 1), (2, 1, 1), (4, 3, 1), (16, 12, 4), (256, 192, 64)] {
            let shares = [Class::Smtp, Class::Submission, Class::Local].map(|class| class.share(all));
            assert_eq!(shares, [smtp, smtp, local], "{all}");
        }
        for (all, beyond) in [(1, 1), (2, 1), (4, 2), (16, 9), (256, 144)] {
            assert_eq!(Class::Smtp.share_beyond_first(all), beyond, "{all}");
            assert_eq!(Class::Submission.share_beyond_first(all), Class::Submission.share(all), "{all}");
        }
    }

    #[test]
    fn the_order_is_standing_then_fewest_then_first() {
        let (mut list, now) = (WaitingList::default(), Instant::now());
        list.push(network(1), Standing::New, 2, entry(1, now));
        list.push(network(1), Standing::New, 2, entry(2, now));
        list.push(network(2), Standing::Failed, 1, entry(3, now));
        list.push(network(3), Standing::New, 1, entry(4, now));
        list.push(network(4), Standing::Known, 9, entry(5, now));
        list.push(network(5), Standing::New, 1, entry(6, now));
        assert_eq!((list.len(), list.last()), (6, Some((Standing::Failed, 1))));
        list.set_held(network(5), 3);
        let order: Vec<u64> = std::iter::from_fn(|| list.pop_first()).map(|entry| entry.number).collect();
        assert_eq!(order, [5, 4, 1, 2, 6, 3]);
        assert!(list.is_empty() && list.lines.is_empty() && list.order.is_empty());
    }

    #[test]
    fn the_only_one_of_a_network_is_found() {
        let (mut list, now) = (WaitingList::default(), Instant::now());
        list.push(network(1), Standing::New, 2, entry(1, now));
        list.push(network(2), Standing::Failed, 1, entry(2, now));
        list.push(network(3), Standing::New, 1, entry(3, now));
        let mut only = || (list.only(), list.pop_only().map(|entry| entry.number));
        assert_eq!([only(), only(), only()], [(2, Some(3)), (1, Some(2)), (0, None)]);
        list.set_held(network(1), 1);
        assert_eq!(list.pop_only().unwrap().number, 1, "the other one of its network has left");
    }

    #[test]
    fn the_latest_of_the_last_network_makes_room() {
        let (mut list, now) = (WaitingList::default(), Instant::now());
        list.push(network(1), Standing::New, 2, entry(1, now));
        list.push(network(1), Standing::New, 2, entry(2, now));
        list.push(network(2), Standing::New, 1, entry(3, now));
        assert_eq!(list.pop_last().unwrap().number, 2);
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn those_that_have_waited_too_long_are_taken_out() {
        let (mut list, now) = (WaitingList::default(), Instant::now());
        for (number, second) in [(1, 0), (2, 2), (3, 1), (4, 3)] {
            list.push(network((number % 2) as u8), Standing::New, 1, entry(number, now + Duration::from_secs(second)));
        }
        let mut late: Vec<u64> = list.expire(now + Duration::from_secs(2)).iter().map(|entry| entry.number).collect();
        late.sort_unstable();
        assert_eq!((late, list.len()), (vec![1, 3], 2));
    }
}
