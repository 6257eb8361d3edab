//! One destination: how many connections it takes, how fast, and its state.

use super::table::{NONE, Time};
use super::{Action, Destination, Kind, Now, Rate, Reason, Schedule};
use crate::queue::QueueId;

/// One destination.
pub(super) struct Hop {
    pub(super) destination: Destination,
    /// The settings name it, or name its kind.
    pub(super) configured: bool,
    pub(super) flows: Vec<u32>,
    /// Parts that are due.
    pub(super) ready: u32,
    /// Flows that have some.
    pub(super) flows_ready: u32,
    /// Transactions that are being made.
    pub(super) at_work: u32,
    /// Connections at once, as set.
    pub(super) limit: u16,
    /// The same, lowered where an extra connection failed.
    pub(super) allowed: u16,
    /// Acceptances since it was lowered.
    good: u16,
    pub(super) then: Option<u32>,
    /// The servers of the recipients' domains are used while it rests.
    pub(super) then_mx: bool,
    pub(super) rate: Option<Bucket>,
    pub(super) rest: Option<Rest>,
    /// How often it has rested in a row, and for which first span.
    pub(super) step: (u8, u32),
    /// When it was tried last.
    pub(super) tried: Option<Time>,
    pub(super) probe_due: bool,
    pub(super) probing: bool,
    /// No connection is opened before: there was none to have.
    pub(super) paused: Time,
    /// All connections to its server are taken, and that has been said.
    pub(super) is_full: bool,
    pub(super) armed: Time,
    /// Parts that wait for an empty probe.
    pub(super) parked: Vec<u32>,
    pub(super) breaker: Breaker,
}

/// Why and how long a destination rests.
pub(super) struct Rest {
    pub(super) reason: Reason,
    pub(super) since: Time,
    /// How often it was tried, and failed.
    pub(super) failures: u32,
    pub(super) next: Time,
    /// The probe is a message, since an empty one would show nothing.
    pub(super) by_message: bool,
    /// Postmaster has been told.
    pub(super) told: bool,
    /// When to look next for what is too old.
    pub(super) sweep: Time,
}

/// Refusals in a row.
#[derive(Default)]
pub(super) struct Breaker {
    /// Refusals without an acceptance between: whose, and the domain where it was a recipient's.
    pub(super) run: Vec<(QueueId, Option<u32>)>,
    /// Those of them that are not decided yet.
    pub(super) kept: Vec<Kept>,
    /// Temporary refusals in a row.
    pub(super) temporary: Vec<(QueueId, Option<u32>)>,
}

/// A refusal that is not decided yet.
pub(super) struct Kept {
    pub(super) part: u32,
    pub(super) at: Time,
    /// Its place in the run, from 1.
    pub(super) nth: usize,
}

/// Transactions that may begin.
pub(super) struct Bucket {
    rate: Rate,
    tokens: u32,
    at: Time,
}

impl Bucket {
    pub(super) fn new(rate: Rate, now: Time) -> Self {
        let rate = Rate { count: rate.count.max(1), seconds: rate.seconds.max(1) };
        Self { rate, tokens: Self::most(rate), at: now }
    }

    /// What one second brings, and no more is saved up: no minute sees many more than its share.
    fn most(rate: Rate) -> u32 {
        rate.count.div_ceil(rate.seconds)
    }

    /// The tokens at a time, and the time up to which they are counted.
    fn filled(&self, now: Time) -> (u32, Time) {
        let (count, seconds) = (u64::from(self.rate.count), u64::from(self.rate.seconds));
        let gained = u64::from(now.saturating_sub(self.at)) * count / seconds;
        let tokens = u64::from(self.tokens) + gained;
        if tokens >= u64::from(Self::most(self.rate)) {
            return (Self::most(self.rate), now);
        }
        (tokens as u32, self.at + (gained * seconds).div_ceil(count) as Time)
    }

    /// When the next transaction may begin.
    fn next(&self, now: Time) -> Time {
        let (tokens, at) = self.filled(now);
        if tokens > 0 { now } else { (at + self.rate.seconds.div_ceil(self.rate.count)).max(now + 1) }
    }
}

impl Hop {
    pub(super) fn new(destination: Destination) -> Self {
        Self {
            destination,
            configured: false,
            flows: Vec::new(),
            ready: 0,
            flows_ready: 0,
            at_work: 0,
            limit: 1,
            allowed: 1,
            good: 0,
            then: None,
            then_mx: false,
            rate: None,
            rest: None,
            step: (0, 0),
            tried: None,
            probe_due: false,
            probing: false,
            paused: 0,
            is_full: false,
            armed: NONE,
            parked: Vec::new(),
            breaker: Breaker::default(),
        }
    }

    pub(super) fn is_smarthost(&self) -> bool {
        self.destination.kind == Kind::Smarthost
    }

    pub(super) fn rate_allows(&self, now: Time) -> bool {
        self.rate.as_ref().is_none_or(|bucket| bucket.filled(now).0 > 0)
    }

    pub(super) fn take_rate(&mut self, now: Time) {
        if let Some(bucket) = &mut self.rate {
            let (tokens, at) = bucket.filled(now);
            (bucket.tokens, bucket.at) = (tokens.saturating_sub(1), at);
        }
    }

    /// When the rate lets something begin that it holds up now.
    pub(super) fn rate_wakes(&self, now: Time) -> Time {
        match &self.rate {
            Some(bucket) if !self.rate_allows(now) => bucket.next(now),
            _ => NONE,
        }
    }

    pub(super) fn set_limit(&mut self, limit: u16) {
        if self.limit != limit.max(1) {
            self.limit = limit.max(1);
            self.allowed = self.limit;
        }
    }

    /// An extra connection failed while others work: no more than those for a while.
    pub(super) fn lower(&mut self) {
        let others = self.at_work.saturating_sub(1);
        self.allowed = u16::try_from(others).unwrap_or(self.limit).clamp(1, self.limit);
        self.good = 0;
    }

    /// Twenty acceptances, and one more connection is tried again.
    pub(super) fn raise(&mut self) {
        self.good += 1;
        if self.allowed < self.limit && self.good >= RAISE_AFTER {
            self.allowed += 1;
            self.good = 0;
        }
        self.good = self.good.min(RAISE_AFTER);
    }
}

impl Schedule {
    pub(super) fn hop(&mut self, destination: &Destination) -> u32 {
        if let Some(number) = self.hop_numbers.get(destination) {
            return *number;
        }
        let mut hop = Hop::new(destination.clone());
        if destination.kind == Kind::Mx {
            hop.set_limit(self.settings.mx_connections);
        }
        let number = self.hops.add(hop);
        self.hop_numbers.insert(destination.clone(), number);
        number
    }

    /// The hop that is used for a destination: itself, or while it rests the one that `then` names.
    pub(super) fn via(&self, hop: u32) -> Option<u32> {
        let mut at = hop;
        for _ in 0..THEN_MAX {
            if self.hops[at].rest.is_none() {
                return Some(at);
            }
            at = self.hops[at].then?;
        }
        None
    }

    /// Nothing could be tried: the next connection is opened a little later, always the same while, since no side is at fault.
    pub(super) fn pause(&mut self, number: u32, is_full: bool) {
        let hop = &mut self.hops[number];
        hop.paused = self.clock.now + PAUSE;
        if is_full && !std::mem::replace(&mut hop.is_full, true) {
            self.actions.push_back(Action::ServerFull { destination: hop.destination.clone() });
        }
        self.arm_hop(number);
    }

    /// A connection to a server of a destination can be had again, where all were taken: it is looked for at once.
    pub fn freed(&mut self, destination: &Destination, now: Now) {
        self.at(now);
        let Some(number) = self.hop_numbers.get(destination).copied() else { return };
        if self.hops[number].is_full {
            self.hops[number].paused = self.clock.now;
            self.dispatch();
        }
    }

    /// Lets a destination go that nothing waits for, unless the settings name it.
    pub(super) fn release_hop(&mut self, number: u32) {
        let hop = &self.hops[number];
        if hop.configured || !hop.flows.is_empty() || hop.at_work > 0 || hop.probing {
            return;
        }
        for courier in &mut self.couriers {
            if courier.open == Some(number) {
                courier.open = None;
            }
        }
        self.probes.retain(|probe| *probe != number);
        let destination = self.hops.remove(number).destination;
        if destination.kind == Kind::Smarthost {
            self.table.homes.retain(|_, home| *home != number);
        }
        self.hop_numbers.remove(&destination);
    }

    /// After a rest has begun or ended: the flows of this hop, and of those that use it instead, may be served or not.
    pub(super) fn settle_hop(&mut self, number: u32) {
        for flow in self.hops[number].flows.clone() {
            self.settle_turn(flow);
        }
        for other in self.routes.clone() {
            if other != number && self.hops[other].then.is_some() {
                for flow in self.hops[other].flows.clone() {
                    self.settle_turn(flow);
                }
            }
        }
    }
}

/// Acceptances after which a lowered number of connections rises by one.
const RAISE_AFTER: u16 = 20;

/// Seconds until a connection is looked for again where none was to be had, unless one becomes free before.
pub(super) const PAUSE: Time = 30;

/// Routes that are followed by `then`.
pub(super) const THEN_MAX: usize = 8;
