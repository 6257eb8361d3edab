//! Mail of a smarthost that rests, by the servers of its recipients' domains meanwhile: `then = "mx"`.
//!
//! A smarthost's part of a message holds recipients of several domains, which are not known here. [`Action::Divide`] asks for
//! them: for one part of a login at a time, the oldest, and only while the login could be served. The recipients of each domain
//! become a part at that domain's destination, with its limits, its rests and its turn; it keeps the message's place by age. As
//! soon as the smarthost can be used, what is not being sent goes back to it, joined again. A smarthost that is probed by a
//! message keeps one for that.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::hop::THEN_MAX;
use super::table::State;
use super::{Action, Destination, Now, Schedule};
use crate::queue::QueueId;

impl Schedule {
    /// The answer to [`Action::Divide`]: the domain of every recipient of the message, in lower case. Nothing where the file cannot
    /// be read now: the recipients wait.
    pub fn divided(&mut self, id: QueueId, domains: &[(u16, Arc<str>)], now: Now) {
        self.at(now);
        self.divisions.retain(|_, asked| *asked != id);
        let parts = self.table.find(id).map(|message| self.table.parts_of(message)).unwrap_or_default();
        for part in parts {
            let flow = self.table.parts[part].flow;
            if self.table.parts[part].state == State::Ready && self.goes_direct(self.flows[flow].hop) {
                self.lend_part(part, domains);
            }
        }
        self.dispatch();
    }

    /// Every hop that could be used for this one rests, and the last one names `mx`.
    pub(super) fn goes_direct(&self, hop: u32) -> bool {
        let mut at = hop;
        for _ in 0..THEN_MAX {
            let state = &self.hops[at];
            match state.then {
                _ if state.rest.is_none() => return false,
                None => return state.then_mx,
                Some(next) => at = next,
            }
        }
        false
    }

    /// A part of the flow may be divided now.
    pub(super) fn lends(&self, flow: u32) -> bool {
        let state = &self.flows[flow];
        let hop = &self.hops[state.hop];
        let probes = |rest: &super::hop::Rest| rest.by_message && rest.next <= self.clock.now;
        let kept_for_probe = hop.rest.as_ref().is_some_and(probes) && !hop.probing && hop.at_work == 0;
        state.in_turn && !kept_for_probe && !self.divisions.contains_key(&flow) && self.goes_direct(state.hop)
    }

    /// Asks for what can be sent by its domains' servers.
    pub(super) fn lend(&mut self) {
        let free = self.free();
        let resting = self.routes.iter().filter(|route| self.goes_direct(**route));
        let flows = resting.flat_map(|route| self.hops[*route].flows.iter().copied());
        let flows: Vec<u32> =
            flows.filter(|flow| self.lends(*flow) && self.logins[self.flows[*flow].login].at_work < free).collect();
        for flow in flows {
            let Some(part) = self.flows[flow].ready.first() else { continue };
            let (id, recipients) = (self.id_of(part), self.table.recipients(part));
            self.divisions.insert(flow, id);
            self.actions.push_back(Action::Divide { id, recipients });
        }
    }

    /// The smarthost of a part that was lent can be used again: it goes back, unless it is being sent.
    pub(super) fn give_back(&mut self, part: u32) {
        let Some(home) = self.table.homes.get(&part).copied().filter(|home| self.via(*home).is_some()) else { return };
        let (state, message, old) = (self.table.parts[part].state, self.table.parts[part].message, self.table.parts[part].flow);
        if !matches!(state, State::Ready | State::Waiting) {
            return;
        }
        self.detach(part);
        self.table.homes.remove(&part);
        let flow = self.flow(self.flows[old].login, home);
        self.change_flow(part, flow);
        let waits = self.table.parts[part].waits;
        let joins = |other: &u32| {
            let other = &self.table.parts[*other];
            (other.flow, other.state, other.waits, other.plain) == (flow, State::Ready, waits, false)
        };
        match self.table.parts_of(message).into_iter().find(joins) {
            _ if state == State::Waiting => self.make_wait(part, self.table.parts[part].due),
            Some(other) => {
                let mut recipients = [self.table.recipients(other), self.table.recipients(part)].concat();
                recipients.sort_unstable();
                self.remove_part(part);
                self.table.set_recipients(other, &recipients);
            }
            None => self.make_ready(part),
        }
        self.release_flow(old);
    }

    /// The same for all that is lent.
    pub(super) fn give_all_back(&mut self) {
        let mut lent: Vec<u32> = self.table.homes.keys().copied().collect();
        lent.sort_unstable();
        lent.into_iter().for_each(|part| self.give_back(part));
    }

    /// One part for each domain, at its own destination; it waits if the domains are not known.
    fn lend_part(&mut self, part: u32, domains: &[(u16, Arc<str>)]) {
        let (message, waits, old) = (self.table.parts[part].message, self.table.parts[part].waits, self.table.parts[part].flow);
        let (login, home) = (self.flows[old].login, self.flows[old].hop);
        let mut groups: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
        for number in self.table.recipients(part) {
            let Some((_, domain)) = domains.iter().find(|(known, _)| *known == number) else {
                self.detach(part);
                return self.wait_now(part);
            };
            groups.entry(domain).or_default().push(number);
        }
        self.detach(part);
        let mut own = Some(part);
        for (domain, recipients) in groups {
            let hop = self.hop(&Destination::mx(domain));
            let flow = self.flow(login, hop);
            let number = match own.take() {
                Some(part) => {
                    self.change_flow(part, flow);
                    self.table.set_recipients(part, &recipients);
                    self.table.parts[part].plain = false;
                    part
                }
                None => self.new_part(message, flow, waits, &recipients),
            };
            self.table.homes.insert(number, home);
            self.make_ready(number);
        }
        self.release_flow(old);
    }

    /// Puts a part that is in no heap into another flow of its login.
    fn change_flow(&mut self, part: u32, flow: u32) {
        let old = std::mem::replace(&mut self.table.parts[part].flow, flow);
        self.flows[old].parts -= 1;
        self.flows[flow].parts += 1;
    }
}
