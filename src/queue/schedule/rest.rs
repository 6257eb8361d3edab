//! How a route rests, how it is found to be well, and who is told.
//!
//! A fault of a route writes nothing per message: its messages keep their place, and one probe decides for all of them.

use std::collections::BTreeSet;

use super::hop::{Hop, Kept, PAUSE, Rest};
use super::table::{NONE, State, Time};
use super::turn::{Courier, Sending, Task};
use super::{Action, Fault, Kind, Now, Reason, Schedule, Stage, Timer, Transaction, Trouble, Verdict, divide};
use crate::queue::QueueId;

impl Schedule {
    /// What came of an empty probe.
    pub fn probed(&mut self, courier: u16, result: Result<(), (Stage, Trouble)>, now: Now) {
        self.at(now);
        let Some(Task::Probe(number)) = self.couriers.get(usize::from(courier)).map(|courier| courier.task) else { return };
        self.couriers[usize::from(courier)] = Courier::default();
        self.probes_at_work -= 1;
        let learnt = !matches!(result, Err((_, trouble)) if trouble.is_without_result());
        let hop = &mut self.hops[number];
        if learnt {
            hop.tried = Some(self.clock.now);
        }
        match result {
            Ok(()) => {
                if hop.destination.kind == Kind::Mx {
                    self.direct_works();
                }
                self.unpark(number, true);
                self.well(number);
            }
            // A verdict that each message gets by itself, at once: resting any longer would only keep it from them.
            Err((stage, trouble)) if is_final(hop.destination.kind, stage, trouble) => {
                self.direct_answered();
                self.unpark(number, false);
                self.well(number);
            }
            // Nothing was learnt of a route: one that rests is probed again, one that does not has no fault.
            Err(_) if !learnt && hop.rest.is_some() => self.probe_soon(number),
            Err(_) if !learnt => self.unpark(number, true),
            Err((stage, trouble)) => {
                let reason = match divide(hop.destination.kind, stage, trouble, Transaction::default()) {
                    Fault::Route(reason) => reason,
                    _ if stage == Stage::Connect => Reason::Dns,
                    _ => Reason::Protocol,
                };
                self.rest(number, reason, false);
            }
        }
        // Until here the probe counts, which keeps its hop from being let go.
        self.hops[number].probing = false;
        self.arm_hop(number);
        self.release_hop(number);
        self.dispatch();
    }

    /// The operator wants a route to be tried now: a smarthost, a domain, or with `mx` every domain. False if it does not rest,
    /// or is not known.
    pub fn route_try(&mut self, name: &str, now: Now) -> bool {
        self.at(now);
        let is_meant = |hop: &Hop| &*hop.destination.name == name || (name == EVERY_DOMAIN && !hop.is_smarthost());
        let found: Vec<u32> = self.hops.iter().filter(|(_, hop)| is_meant(hop)).map(|(number, _)| number).collect();
        let tried = found.into_iter().filter(|number| self.probe_now(*number)).count();
        self.dispatch();
        tried > 0
    }

    /// The password file of a route has changed: if it rests because it was refused, it is tried now.
    pub fn credentials_changed(&mut self, name: &str, now: Now) {
        self.at(now);
        let waits = |reason| matches!(reason, Reason::AuthRefused | Reason::AuthRequired | Reason::PasswordFile);
        let found: Vec<u32> = self
            .hops
            .iter()
            .filter(|(_, hop)| hop.is_smarthost() && &*hop.destination.name == name)
            .filter(|(_, hop)| hop.rest.as_ref().is_some_and(|rest| waits(rest.reason)))
            .map(|(number, _)| number)
            .collect();
        for number in found {
            self.probe_now(number);
        }
        self.dispatch();
    }

    /// A route rests from now on, or goes on resting after another failure.
    pub(super) fn rest(&mut self, number: u32, reason: Reason, by_message: bool) {
        let now = self.clock.now;
        let (first, most) = match reason {
            Reason::AuthRefused | Reason::RefusesEverything => (HOUR, HOUR),
            Reason::Temporary => (10, 15 * MINUTE),
            _ => (MINUTE, HOUR),
        };
        let hop = &mut self.hops[number];
        let step = if hop.step.1 == first { hop.step.0 } else { 0 };
        hop.step = (step.saturating_add(1).min(20), first);
        let next = now + (u64::from(first) << step).min(u64::from(most)) as Time;
        if let Some(rest) = &mut hop.rest {
            (rest.reason, rest.next, rest.by_message) = (reason, next, by_message);
            rest.failures = rest.failures.saturating_add(1);
        } else {
            hop.rest = Some(Rest { reason, since: now, failures: 1, next, by_message, told: false, sweep: now });
            let destination = hop.destination.clone();
            self.actions.push_back(Action::RouteRests { destination, reason, next: self.clock.unix_of(next) });
            self.settle_hop(number);
        }
        if !self.hops[number].is_smarthost() {
            self.direct_failed(number, reason, next);
        }
        self.unpark(number, false);
        // A refusal that is not decided yet was perhaps the first sign of this.
        for Kept { part, .. } in std::mem::take(&mut self.hops[number].breaker.kept) {
            self.wait_now(part);
        }
        if reason.needs_a_person() {
            self.tell(number);
        }
        self.arm_hop(number);
    }

    /// The probe of a resting route has failed: the same again.
    pub(super) fn rest_again(&mut self, number: u32) {
        if let Some(Rest { reason, by_message, .. }) = self.hops[number].rest {
            self.rest(number, reason, by_message);
        }
    }

    /// The probe of a resting route had no result: another one before long, and the rest is no longer for it.
    pub(super) fn probe_soon(&mut self, number: u32) {
        if let Some(rest) = &mut self.hops[number].rest {
            rest.next = self.clock.now + PAUSE;
        }
    }

    /// A route works: what waits for it is due, at the couriers' pace.
    pub(super) fn well(&mut self, number: u32) {
        let Some(rest) = self.hops[number].rest.take() else { return };
        let destination = self.hops[number].destination.clone();
        self.actions.push_back(Action::RouteWell { destination: destination.clone() });
        if rest.told {
            let (since, waiting) = (self.clock.unix_of(rest.since), self.waiting(number));
            self.actions.push_back(Action::Tell { destination, reason: None, since, waiting });
        }
        self.give_all_back();
        for flow in self.hops[number].flows.clone() {
            self.flows[flow].noticed = false;
            self.hurry_flow(flow);
        }
        self.settle_hop(number);
        self.arm_hop(number);
    }

    /// A fault of the route in a transaction.
    pub(super) fn route_failed(&mut self, sending: &Sending, reason: Reason, stage: Stage) {
        let number = sending.via;
        let by_message = stage >= Stage::Mail;
        let refused = reason == Reason::AuthRefused;
        self.hops[number].tried = Some(self.clock.now);
        if self.hops[number].rest.is_some() {
            // What began before the rest shows nothing new, except that another AUTH is one too many.
            if sending.probe || refused {
                self.rest(number, reason, by_message);
            }
            return;
        }
        let another_works =
            self.couriers.iter().any(|courier| matches!(courier.task, Task::Send(other) if other.via == number && other.proven));
        if another_works && !refused && !by_message && !sending.proven {
            self.hops[number].lower();
        } else {
            self.rest(number, reason, by_message);
        }
    }

    /// A message was accepted.
    pub(super) fn credit(&mut self, sending: &Sending) {
        self.flows[sending.flow].rest = None;
        self.settle_turn(sending.flow);
        let hop = &mut self.hops[sending.via];
        hop.step = (0, 0);
        hop.tried = Some(self.clock.now);
        (hop.paused, hop.is_full) = (0, false);
        hop.raise();
        hop.breaker.run.clear();
        hop.breaker.temporary.clear();
        for Kept { part, .. } in std::mem::take(&mut hop.breaker.kept) {
            self.fail(part);
        }
        if !self.hops[sending.via].is_smarthost() {
            self.direct_works();
        }
        // What logged in before a password was refused says nothing of the next AUTH.
        let locked = self.hops[sending.via].rest.as_ref().is_some_and(|rest| rest.reason == Reason::AuthRefused);
        if sending.probe || !locked {
            self.well(sending.via);
        }
    }

    /// A smarthost refused a message. Five in a row, of different messages: it refuses everything, and they all wait.
    pub(super) fn refused(&mut self, number: u32, part: u32, domain: Option<u32>) {
        let id = self.id_of(part);
        let breaker = &mut self.hops[number].breaker;
        breaker.temporary.clear();
        let counts = breaker.run.iter().all(|(other, there)| *other != id && (domain.is_none() || *there != domain));
        if !counts {
            self.fail(part);
            return;
        }
        breaker.run.push((id, domain));
        let nth = breaker.run.len();
        breaker.kept.push(Kept { part, at: self.clock.now, nth });
        self.table.parts[part].state = State::Refused;
        if nth < REFUSALS {
            let recipients = self.table.recipients(part);
            self.actions.push_back(Action::Keep { id, recipients });
            self.arm_hop(number);
            return;
        }
        self.hops[number].breaker.run.clear();
        self.rest(number, Reason::RefusesEverything, true);
    }

    /// A smarthost refused a message for the moment. Three in a row: one courier, after a rest.
    pub(super) fn refused_for_now(&mut self, number: u32, id: QueueId, domain: Option<u32>) {
        let hop = &mut self.hops[number];
        if !hop.is_smarthost() || hop.rest.is_some() {
            return;
        }
        let row = &mut hop.breaker.temporary;
        if row.iter().all(|(other, there)| *other != id && (domain.is_none() || *there != domain)) {
            row.push((id, domain));
        }
        if row.len() >= TEMPORARY_REFUSALS {
            row.clear();
            self.rest(number, Reason::Temporary, true);
        }
    }

    /// An empty probe is wanted after a cut line: it shows whose fault that was.
    pub(super) fn ask_probe(&mut self, number: u32) {
        let hop = &mut self.hops[number];
        if !hop.probing && !hop.probe_due {
            hop.probe_due = true;
            self.probes.push_back(number);
        }
    }

    /// The route is well, so the cut line was the pair's fault and its messages wait; or it is not, and they don't.
    fn unpark(&mut self, number: u32, well: bool) {
        let mut pairs = BTreeSet::new();
        for part in std::mem::take(&mut self.hops[number].parked) {
            let flow = self.table.parts[part].flow;
            pairs.insert(flow);
            if well {
                self.wait_now(part)
            } else {
                self.make_ready(part)
            }
            self.give_back(part);
        }
        pairs.extend(self.hops[number].flows.iter().copied());
        for flow in pairs {
            let Some(rest) = self.flows.get(flow).and_then(|flow| flow.rest.as_ref()).filter(|rest| rest.until == NONE) else {
                continue;
            };
            let span = (u64::from(MINUTE) << rest.step.min(10)).min(u64::from(HOUR)) as Time;
            let until = if well { self.clock.now + span } else { self.clock.now };
            if let Some(rest) = &mut self.flows[flow].rest {
                rest.until = until;
                rest.step = rest.step.saturating_add(u8::from(well));
            }
            self.settle_turn(flow);
            self.arm_flow(flow);
        }
    }

    /// Takes a part off the lists of those that wait for a decision.
    pub(super) fn forget_part(&mut self, part: u32) {
        let own = self.flows[self.table.parts[part].flow].hop;
        for number in self.routes.iter().copied().chain([own]) {
            let hop = &mut self.hops[number];
            hop.parked.retain(|other| *other != part);
            hop.breaker.kept.retain(|kept| kept.part != part);
        }
    }

    /// Begins the first probe that can begin.
    pub(super) fn start_probe(&mut self) -> bool {
        for _ in 0..self.probes.len() {
            let Some(number) = self.probes.pop_front() else { return false };
            self.hops[number].probe_due = false;
            let by_message = self.hops[number].rest.as_ref().is_some_and(|rest| rest.by_message);
            if by_message {
                let rests = |flow: &u32| self.flows[*flow].rest.as_ref().is_some_and(|rest| rest.until > self.clock.now);
                let flows = self.hops[number].flows.iter().copied().filter(|flow| !self.flows[*flow].ready.is_empty());
                let next = flows.filter(|flow| !rests(flow)).min_by_key(|flow| self.flows[*flow].served);
                if let Some(flow) = next.filter(|_| self.hops[number].at_work == 0) {
                    self.hops[number].probing = true;
                    self.probes_at_work += 1;
                    self.start(flow, number, None, true);
                    return true;
                }
                // Every pair there rests by itself, or something is still being sent.
                if let Some(rest) = &mut self.hops[number].rest {
                    rest.next = self.clock.now + MINUTE;
                }
                self.arm_hop(number);
                continue;
            }
            if let Some(courier) = self.courier_for(number) {
                self.hops[number].probing = true;
                self.probes_at_work += 1;
                self.couriers[courier] = Courier { task: Task::Probe(number), open: None };
                let destination = self.hops[number].destination.clone();
                self.actions.push_back(Action::Probe { courier: courier as u16, destination });
                return true;
            }
        }
        false
    }

    /// A resting route is probed as soon as a courier is free. False if it does not rest.
    pub(super) fn probe_now(&mut self, number: u32) -> bool {
        let now = self.clock.now;
        let Some(rest) = &mut self.hops[number].rest else { return false };
        rest.next = rest.next.min(now);
        self.wake_hop(number);
        true
    }

    /// Everything about a hop that the time may have made due.
    pub(super) fn wake_hop(&mut self, number: u32) {
        let now = self.clock.now;
        let hop = &self.hops[number];
        if let Some(rest) = &hop.rest {
            let (tell, sweep) = (!rest.told && rest.since + TELL_AFTER <= now, rest.sweep <= now);
            // A message can only be the probe if one is there; and one that began before the rest comes first.
            let can = if rest.by_message { hop.ready > 0 && hop.at_work == 0 } else { true };
            if rest.next <= now && can {
                self.ask_probe(number);
            }
            if tell {
                self.tell(number);
            }
            if sweep {
                self.sweep(number);
            }
        }
        if self.hops.get(number).is_some() {
            self.decide_kept(number);
        }
        if self.hops.get(number).is_some() {
            self.arm_hop(number);
        }
    }

    /// Sets the timer of a hop to the earliest of what it waits for.
    pub(super) fn arm_hop(&mut self, number: u32) {
        let hop = &self.hops[number];
        let mut time = NONE;
        if let Some(rest) = &hop.rest {
            let can = if rest.by_message { hop.ready > 0 && hop.at_work == 0 } else { true };
            if can && !hop.probing && !hop.probe_due {
                time = time.min(rest.next);
            }
            if !rest.told && hop.is_smarthost() {
                time = time.min(rest.since + TELL_AFTER);
            }
            time = time.min(rest.sweep);
        }
        if let Some(kept) = hop.breaker.kept.iter().map(|kept| self.decision(number, kept)).min() {
            time = time.min(kept);
        }
        if hop.ready > 0 {
            time = time.min(hop.rate_wakes(self.clock.now));
        }
        if hop.paused > self.clock.now {
            time = time.min(hop.paused);
        }
        if time < hop.armed {
            self.hops[number].armed = time;
            self.arm(time, Timer::Hop(number));
        }
    }

    /// When a refusal stands without further evidence. A single one while nothing else is sent: soon. After another one:
    /// it waits longer for an acceptance, since the smarthost may be refusing everything.
    fn decision(&self, number: u32, kept: &Kept) -> Time {
        let hop = &self.hops[number];
        let quiet = hop.at_work == 0 && hop.ready == 0 && kept.nth == 1;
        kept.at + if quiet { REFUSAL_ALONE } else { HOUR }
    }

    fn decide_kept(&mut self, number: u32) {
        let hop = &self.hops[number];
        let due = |kept: &&Kept| self.decision(number, kept) <= self.clock.now;
        let parts: Vec<u32> = hop.breaker.kept.iter().filter(due).map(|kept| kept.part).collect();
        for part in parts {
            self.fail(part);
        }
    }

    /// Postmaster is told once a rest, of smarthosts: a domain that does not answer is its own affair, unless none does.
    fn tell(&mut self, number: u32) {
        let waiting = self.waiting(number);
        let hop = &mut self.hops[number];
        let smarthost = hop.is_smarthost();
        let Some(rest) = hop.rest.as_mut().filter(|rest| smarthost && !rest.told) else { return };
        rest.told = true;
        let (reason, since) = (Some(rest.reason), self.clock.unix_of(rest.since));
        self.actions.push_back(Action::Tell { destination: hop.destination.clone(), reason, since, waiting });
    }

    /// Pairs that wait for a destination.
    pub(super) fn waiting(&self, number: u32) -> u32 {
        self.hops[number].flows.iter().map(|flow| self.flows[*flow].parts).sum()
    }
}

/// True for what a domain's own records say for good: it does not exist, takes no mail, or has no server to send to.
pub(super) fn is_final(kind: Kind, stage: Stage, trouble: Trouble) -> bool {
    let verdict = divide(kind, stage, trouble, Transaction::default());
    kind == Kind::Mx && stage == Stage::Connect && verdict == Fault::Message(Verdict::Fail)
}

/// What means every domain where a route is named; no smarthost is called so.
const EVERY_DOMAIN: &str = "mx";

const MINUTE: Time = 60;
const HOUR: Time = 3600;

/// Seconds of rest after which postmaster is told.
const TELL_AFTER: Time = 15 * MINUTE;

/// Seconds until a single refusal stands.
const REFUSAL_ALONE: Time = 20;

/// Refusals in a row that mean that a smarthost refuses everything.
const REFUSALS: usize = 5;

/// Temporary refusals in a row that mean that a smarthost wants less.
const TEMPORARY_REFUSALS: usize = 3;
