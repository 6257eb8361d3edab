//! Which sessions leave when connections wait and no worker is free for them.
//!
//! First go sessions of one login beyond a quarter of the workers, those without an open transaction before the others. Then one
//! of the network with most sessions that have no login: that whose last success, or else connect, is longest ago; networks
//! that logged in lately come last. Only where no session is without a login leaves one that has got nothing done for a while.
//! Octets and commands count for nothing: a client that drips is as idle as a silent one.
//!
//! Never chosen is a session that works for its client, that is new, or whose message comes at the data rate, until the session's
//! messages have been waited for long enough in all: one that sends message after message as slowly as it may holds its worker
//! no longer than one that sends a single one. A session of a network that has not failed lately stays some seconds longer, if
//! none waits but connections of networks that have: clients that come again as soon as they are evicted leave others the time
//! for a login over a slow line.
//!
//! No sockets and no clock here: a decision follows from the [`Candidate`]s alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use super::network::Network;
use super::waiting::Class;

/// What decides about the eviction of a session that is being served.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where it comes from.
    pub network: Network,
    /// Which share of the workers it takes from.
    pub class: Class,
    /// Its login.
    pub login: Option<Arc<str>>,
    /// Its network logged in lately.
    pub known: bool,
    /// Its network got nowhere lately.
    pub failed: bool,
    /// MAIL was accepted, and the message is not complete.
    pub in_transaction: bool,
    /// It waits for its client, to send or to read.
    pub waits: bool,
    /// Since a worker took it up.
    pub served: Duration,
    /// Since its login or its last accepted message, else since the connect.
    pub since_success: Duration,
    /// The content of the open transaction, once it has begun.
    pub content: Option<Content>,
}

/// Content that comes in.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    /// Since it has begun.
    pub lasts: Duration,
    /// How long the session has waited for its client within content, that of earlier messages too.
    pub waited: Duration,
    /// Octets so far.
    pub octets: u64,
    /// Octets a second that it should come with.
    pub rate: u64,
}

/// What waits for the place of a session: a connection of which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// One that got nowhere lately.
    Failed,
    /// Any other.
    Other,
}

/// A decision in the making: candidates, and which of them leave already.
#[derive(Debug)]
pub struct Eviction {
    candidates: Vec<Candidate>,
    leaves: Vec<bool>,
    /// Sessions that one login may have while others wait.
    login_share: usize,
    waiter: Waiter,
}

/// Sessions that give way one after the other.
#[derive(Default)]
struct Group {
    /// A network that logged in lately.
    known: bool,
    /// How many sessions there are, whether they can be evicted or not.
    count: usize,
    /// Those that can be, the one that leaves first at the end.
    members: Vec<usize>,
}

/// In which order groups give way, the greatest first: unknown before known, the largest, the one with the oldest success.
type Rank = (Reverse<bool>, usize, Duration);

/// No session leaves so soon after a worker took it up: a login over a bad line is under way.
const NEW: Duration = Duration::from_secs(1);
/// Nor does one without a login whose network has not failed lately, so soon, for one whose network has.
const UNDER_WAY: Duration = Duration::from_secs(5);
/// No session leaves within so much time of waiting for its content, if that comes at the data rate.
const CONTENT: Duration = Duration::from_secs(30);
/// A session with a login leaves at the earliest so long after its last success.
const LOGGED_IN: Duration = Duration::from_secs(10);

impl Candidate {
    /// True if it may be chosen at all.
    pub fn is_evictable(&self, waiter: Waiter) -> bool {
        let spared = if waiter == Waiter::Failed && self.login.is_none() && !self.failed { UNDER_WAY } else { NEW };
        self.waits && self.served >= spared && !self.content.is_some_and(Content::is_protected)
    }
}

impl Content {
    /// True in the session's first 30 seconds of content, if this comes at the data rate.
    fn is_protected(self) -> bool {
        self.waited < CONTENT && self.octets >= self.rate.saturating_mul(self.lasts.as_secs())
    }
}

impl Eviction {
    /// No session leaves yet; `workers` is how many sessions there can be.
    pub fn new(candidates: Vec<Candidate>, workers: usize) -> Self {
        let leaves = vec![false; candidates.len()];
        Self { candidates, leaves, login_share: (workers / 4).max(1), waiter: Waiter::Other }
    }

    /// Chooses at most `need` sessions that leave for such a waiter, of one class if `scope` says so; gives their places among the
    /// candidates.
    pub fn choose(&mut self, scope: Option<Class>, need: usize, waiter: Waiter) -> Vec<usize> {
        self.waiter = waiter;
        let mut chosen = Vec::new();
        self.take(need, self.beyond_their_share(scope), &mut chosen);
        self.take(need, self.without_login(scope), &mut chosen);
        let in_scope = |one: &Candidate| scope.is_none_or(|class| one.class == class);
        if !self.candidates.iter().any(|one| one.login.is_none() && in_scope(one)) {
            self.take(need, self.idle_with_login(scope), &mut chosen);
        }
        chosen
    }

    /// Sessions of logins that have more than their share: as many of each as that is.
    fn beyond_their_share(&self, scope: Option<Class>) -> Vec<Group> {
        let mut groups = self.grouped(scope, |one| one.login.clone());
        groups.retain(|group| group.count > self.login_share);
        for group in &mut groups {
            group.known = false;
            let spared = group.members.len().saturating_sub(group.count - self.login_share);
            group.members.drain(..spared);
        }
        groups
    }

    /// Sessions without a login, by network.
    fn without_login(&self, scope: Option<Class>) -> Vec<Group> {
        self.grouped(scope, |one| one.login.is_none().then_some((one.network, one.known)))
    }

    /// Sessions with a login that have got nothing done for a while.
    fn idle_with_login(&self, scope: Option<Class>) -> Vec<Group> {
        self.grouped(scope, |one| (one.login.is_some() && one.since_success >= LOGGED_IN).then_some(()))
    }

    fn grouped<K: Ord>(&self, scope: Option<Class>, key: impl Fn(&Candidate) -> Option<K>) -> Vec<Group> {
        let mut groups: BTreeMap<K, Group> = BTreeMap::new();
        for (at, one) in self.candidates.iter().enumerate().filter(|(at, _)| !self.leaves[*at]) {
            let Some(key) = key(one) else { continue };
            let group = groups.entry(key).or_default();
            group.known = one.known;
            group.count += 1;
            if one.is_evictable(self.waiter) && scope.is_none_or(|class| one.class == class) {
                group.members.push(at);
            }
        }
        // One with a login and an open transaction is busy, and leaves after those that are not.
        let rank = |at: &usize| {
            let one = &self.candidates[*at];
            (one.login.is_none() || !one.in_transaction, one.since_success, Reverse(*at))
        };
        groups.values_mut().for_each(|group| group.members.sort_by_key(rank));
        groups.into_values().collect()
    }

    /// Takes one session of the group that should give way, then looks anew, until there are `need` in all.
    fn take(&mut self, need: usize, mut groups: Vec<Group>, chosen: &mut Vec<usize>) {
        let mut heap: BinaryHeap<(Rank, Reverse<usize>)> =
            (0..groups.len()).map(|at| (self.rank(&groups[at]), Reverse(at))).collect();
        while chosen.len() < need {
            let Some((_, Reverse(at))) = heap.pop() else { return };
            let group = &mut groups[at];
            let Some(one) = group.members.pop() else { continue };
            self.leaves[one] = true;
            chosen.push(one);
            group.count -= 1;
            heap.push((self.rank(group), Reverse(at)));
        }
    }

    fn rank(&self, group: &Group) -> Rank {
        (Reverse(group.known), group.count, group.members.last().map_or(Duration::ZERO, |at| self.candidates[*at].since_success))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A session of a network, so many seconds old, that waits for a command.
    fn session(network: u8, age: u32) -> Candidate {
        Candidate {
            network: Network::of([10, 0, 0, network].into()),
            class: Class::Submission,
            login: None,
            known: false,
            failed: false,
            in_transaction: false,
            waits: true,
            served: age * SECOND,
            since_success: age * SECOND,
            content: None,
        }
    }

    fn login(name: &str, since_success: u32, in_transaction: bool) -> Candidate {
        Candidate { login: Some(name.into()), in_transaction, since_success: since_success * SECOND, ..session(9, 1000) }
    }

    fn order(candidates: &[Candidate], workers: usize) -> Vec<usize> {
        Eviction::new(candidates.to_vec(), workers).choose(None, usize::MAX, Waiter::Other)
    }

    #[test]
    fn what_spares_a_session() {
        let content_after = |before: u32, lasts: u32, octets: u64| Candidate {
            in_transaction: true,
            content: Some(Content { lasts: lasts * SECOND, waited: (before + lasts) * SECOND, octets, rate: 500 }),
            ..session(1, 100)
        };
        let content = |lasts: u32, octets: u64| content_after(0, lasts, octets);
        let rows = [
            ("waits for a command", session(1, 100), true),
            ("is a second old", session(1, 1), true),
            ("is new", Candidate { served: Duration::from_millis(999), ..session(1, 100) }, false),
            ("works", Candidate { waits: false, ..session(1, 100) }, false),
            ("has just been told to send", content(0, 0), false),
            ("sends at the data rate", content(29, 14_500), false),
            ("sends more slowly", content(29, 14_499), true),
            ("has sent for 30 seconds", content(30, 1 << 30), true),
            ("has sent for 29 seconds, with an earlier message", content_after(28, 1, 500), false),
            ("has sent for 30 seconds, with an earlier message", content_after(29, 1, 500), true),
            ("begins after 30 seconds of earlier messages", content_after(30, 0, 0), true),
        ];
        for (what, candidate, evictable) in rows {
            assert_eq!(candidate.is_evictable(Waiter::Other), evictable, "{what}");
            assert_eq!(order(&[candidate], 4).len(), usize::from(evictable), "{what}");
        }
    }

    #[test]
    fn the_network_with_most_gives_way_and_its_oldest_leaves() {
        let candidates = [session(1, 50), session(2, 5), session(2, 9), session(2, 7), session(3, 90)];
        // Network 2 has three, then two; then all have one, and the oldest goes.
        assert_eq!(order(&candidates, 8), [2, 3, 4, 0, 1]);
        let known = candidates.clone().map(|one| Candidate { known: one.network == candidates[1].network, ..one });
        assert_eq!(order(&known, 8), [4, 0, 2, 3, 1], "one that logged in lately is last");
    }

    /// Clients that come again at once would else leave a login over a slow line one second.
    #[test]
    fn what_failed_waits_for_a_login_that_is_under_way() {
        let failed = |network: u8, age: u32| Candidate { failed: true, ..session(network, age) };
        let candidates = [session(1, 4), failed(2, 1), session(3, 5), login("a", 600, false), login("a", 600, false)];
        let chosen = |waiter| Eviction::new(candidates.to_vec(), 4).choose(None, usize::MAX, waiter);
        assert_eq!(chosen(Waiter::Failed), [3, 2, 1]);
        assert_eq!(chosen(Waiter::Other), [3, 2, 0, 1], "a login beyond its share, and then by age");
    }

    #[test]
    fn sessions_that_cannot_leave_count_for_their_network() {
        let new = Candidate { served: Duration::ZERO, ..session(1, 0) };
        assert_eq!(order(&[session(2, 60), new.clone(), new, session(1, 2)], 8)[0], 3);
    }

    #[test]
    fn a_success_makes_young() {
        let successful = Candidate { since_success: 2 * SECOND, ..session(1, 600) };
        assert_eq!(order(&[successful, session(1, 3)], 8), [1, 0]);
    }

    #[test]
    fn a_login_beyond_its_share_leaves_first_and_idle_before_busy() {
        let candidates = [login("a", 1, true), login("a", 0, false), login("a", 2, true), session(1, 60), login("b", 0, false)];
        // A quarter of eight is two.
        assert_eq!(order(&candidates, 8), [1, 3]);
        assert_eq!(order(&candidates, 4), [1, 2, 3], "a quarter of four is one");
        assert_eq!(order(&candidates[..3], 64), [0_usize; 0], "within its share, and lately active");
    }

    #[test]
    fn a_login_within_its_share_leaves_only_where_all_have_one() {
        let candidates = [login("a", 60, false), login("b", 600, true), login("c", 9, false), login("d", 30, false)];
        assert_eq!(order(&candidates, 16), [0, 3, 1]);
        let new = Candidate { served: Duration::ZERO, ..session(1, 0) };
        assert_eq!(order(&[&candidates[..], &[new]].concat(), 16), [0_usize; 0], "one without a login can leave soon");
    }

    #[test]
    fn only_the_class_that_is_full_gives_way() {
        let smtp = Candidate { class: Class::Smtp, ..session(1, 60) };
        let candidates = [session(1, 90), smtp, login("a", 60, false)];
        let mut eviction = Eviction::new(candidates.to_vec(), 8);
        assert_eq!(eviction.choose(Some(Class::Smtp), 5, Waiter::Other), [1]);
        assert_eq!(eviction.choose(None, 1, Waiter::Other), [0], "one that leaves already is not chosen again");
    }
}
