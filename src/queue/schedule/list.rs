//! What an operator is shown: messages, routes and counts.

use std::sync::Arc;

use super::table::{NONE, State, WARNED};
use super::turn::Task;
use super::{Destination, HeldWhy, Reason, Schedule, Settings};
use crate::queue::QueueId;

/// A message and where its recipients are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageState {
    /// Its id.
    pub id: QueueId,
    /// Whose it is.
    pub login: Arc<str>,
    /// Seconds since 1970 of arrival or the last release.
    pub since: u64,
    /// It is known to be late.
    pub warned: bool,
    /// It waits for a person.
    pub held: Option<HeldWhy>,
    /// Verbs wait for the end of an attempt.
    pub verbs_wait: bool,
    /// Its recipients that are not settled.
    pub parts: Vec<PartState>,
}

/// Recipients that have one destination and one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartState {
    /// Where they go.
    pub destination: Destination,
    /// Their numbers.
    pub recipients: Vec<u16>,
    /// Their own waits.
    pub waits: u8,
    /// What they wait for.
    pub waits_for: WaitsFor,
}

/// What recipients wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// A connection to its server, which has as many as it may have; looked for again then, in seconds since 1970.
    Connection(u64),
    /// Whether a smarthost refuses everything, or only this.
    Decision,
    /// The login's turn, the rate of the route, or a free connection.
    ItsTurn,
    /// The pair of login and destination rests, after a line that was cut, until then (seconds since 1970) or, without
    /// a time, until a probe.
    Pair(Option<u64>),
    /// A person.
    Person,
    /// The end of the attempt that is being made.
    Result,
    /// The route rests.
    Route {
        /// Why.
        reason: Reason,
        /// Seconds since 1970 of the next probe.
        next: u64,
        /// Seconds since 1970: it rests from then on.
        since: u64,
        /// How often it was tried since then, and failed.
        failures: u32,
    },
    /// The time of the next attempt, in seconds since 1970.
    Time(u64),
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteState {
    /// Which.
    pub destination: Destination,
    /// It rests.
    pub rest: Option<RestState>,
    /// Pairs that wait or are being sent.
    pub pairs: u32,
    /// Transactions that are being made.
    pub at_work: u32,
    /// Connections at once that are allowed now.
    pub connections: u16,
}

/// How a route rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestState {
    /// Why.
    pub reason: Reason,
    /// Seconds since 1970: it rests from then on.
    pub since: u64,
    /// Seconds since 1970 of the next probe.
    pub next: u64,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages, held ones included.
    pub messages: u32,
    /// Pairs of message and destination, held ones included.
    pub pairs: u32,
    /// Messages that wait for a person.
    pub held: u32,
    /// Transactions that are being made.
    pub sending: u32,
    /// Destinations that rest.
    pub resting: u32,
}

impl Schedule {
    /// All messages, the oldest id first.
    pub fn ids(&self) -> Vec<QueueId> {
        let mut ids: Vec<QueueId> = self.table.messages.iter().map(|(_, message)| message.id).collect();
        ids.sort_unstable();
        ids
    }

    /// One message.
    pub fn message(&self, id: QueueId) -> Option<MessageState> {
        let number = self.table.find(id)?;
        let message = &self.table.messages[number];
        let mut parts: Vec<PartState> = self.table.parts_of(number).into_iter().map(|part| self.part(part)).collect();
        parts.sort_by(|a, b| a.recipients.cmp(&b.recipients));
        Some(MessageState {
            id,
            login: Arc::clone(&self.logins[message.login].name),
            since: u64::from(message.since),
            warned: message.flags & WARNED != 0,
            held: message.held,
            verbs_wait: self.pending.contains_key(&number),
            parts,
        })
    }

    fn part(&self, number: u32) -> PartState {
        let part = &self.table.parts[number];
        let flow = &self.flows[part.flow];
        let hop = &self.hops[flow.hop];
        let waits_for = match (part.state, &hop.rest, &flow.rest) {
            (State::Held, ..) => WaitsFor::Person,
            (State::Parked, ..) => WaitsFor::Pair(None),
            (State::Refused, ..) => WaitsFor::Decision,
            (State::Sending, ..) => WaitsFor::Result,
            (State::Ready | State::Waiting, Some(rest), _) if self.via(flow.hop).is_none() && !self.goes_direct(flow.hop) => {
                let (next, since) = (self.clock.unix_of(rest.next), self.clock.unix_of(rest.since));
                WaitsFor::Route { reason: rest.reason, next, since, failures: rest.failures }
            }
            (State::Waiting, ..) => WaitsFor::Time(self.clock.unix_of(part.due)),
            (State::Ready, _, Some(rest)) if rest.until == NONE => WaitsFor::Pair(None),
            (State::Ready, _, Some(rest)) if rest.until > self.clock.now => WaitsFor::Pair(Some(self.clock.unix_of(rest.until))),
            (State::Ready, ..) if hop.is_full && hop.paused > self.clock.now => {
                WaitsFor::Connection(self.clock.unix_of(hop.paused))
            }
            (State::Ready, ..) => WaitsFor::ItsTurn,
        };
        PartState {
            destination: hop.destination.clone(),
            recipients: self.table.recipients(number),
            waits: part.waits,
            waits_for,
        }
    }

    /// Destinations: the smarthosts of the settings, and all where something waits or that rest; in order of name.
    pub fn routes(&self) -> Vec<RouteState> {
        let mut routes: Vec<RouteState> = self
            .hops
            .iter()
            .map(|(number, hop)| RouteState {
                destination: hop.destination.clone(),
                rest: hop.rest.as_ref().map(|rest| RestState {
                    reason: rest.reason,
                    since: self.clock.unix_of(rest.since),
                    next: self.clock.unix_of(rest.next),
                }),
                pairs: self.waiting(number),
                at_work: hop.at_work,
                connections: hop.allowed,
            })
            .collect();
        routes.sort_by(|a, b| a.destination.cmp(&b.destination));
        routes
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        let sending = self.couriers.iter().filter(|courier| matches!(courier.task, Task::Send(_))).count();
        Counts {
            messages: self.table.messages.len() as u32,
            pairs: self.table.parts.len() as u32,
            held: self.table.messages.iter().filter(|(_, message)| message.held.is_some()).count() as u32,
            sending: sending as u32,
            resting: self.hops.iter().filter(|(_, hop)| hop.rest.is_some()).count() as u32,
        }
    }

    /// True if a destination rests.
    pub fn rests(&self, destination: &Destination) -> bool {
        self.hop_numbers.get(destination).is_some_and(|number| self.hops[*number].rest.is_some())
    }

    /// The next hop that a courier has a transaction with.
    pub fn works_for(&self, courier: u16) -> Option<Destination> {
        self.sending(usize::from(courier)).map(|sending| self.hops[sending.via].destination.clone())
    }

    /// What the operator chose.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Pairs of message and destination, held ones included.
    pub fn pairs(&self) -> u32 {
        self.table.parts.len() as u32
    }

    /// Pairs of one login.
    pub fn pairs_of(&self, login: &str) -> u32 {
        self.login_names.get(login).map_or(0, |number| self.logins[*number].parts)
    }

    /// Octets of memory that messages and pairs take, without what is kept once a login, a destination or a pair of these.
    pub fn octets(&self) -> usize {
        let heaps: usize = self.flows.iter().map(|(_, flow)| flow.ready.octets() + flow.waiting.octets()).sum();
        self.table.octets() + heaps + self.late.octets()
    }

    /// Octets of memory of logins, destinations and pairs of these.
    pub fn shared_octets(&self) -> usize {
        self.flows.octets() + self.logins.octets() + self.hops.octets()
    }
}
