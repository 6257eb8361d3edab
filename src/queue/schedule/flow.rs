//! Flows: the parts of one login that have one destination, those that are due and those that wait.
//!
//! All changes of a part's state go through here, so that counts, heaps and the turn agree.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::heap::Heap;
use super::table::{Due, Late, NONE, Oldest, State, Time};
use super::{Action, Schedule, Timer};

/// What waits of one login for one destination.
pub(super) struct Flow {
    pub(super) login: u32,
    pub(super) hop: u32,
    /// Its place in the list of its hop.
    place: u32,
    pub(super) ready: Heap,
    pub(super) waiting: Heap,
    pub(super) parts: u32,
    pub(super) at_work: u32,
    /// When it was served last, as a number that grows.
    pub(super) served: u64,
    pub(super) armed: Time,
    pub(super) in_turn: bool,
    /// Its login has been told that the route rests.
    pub(super) noticed: bool,
    pub(super) rest: Option<FlowRest>,
}

/// A pair of destination and login that rests.
pub(super) struct FlowRest {
    pub(super) until: Time,
    pub(super) step: u8,
}

/// A login, or another name under which mail is queued.
pub(super) struct Login {
    pub(super) name: Arc<str>,
    pub(super) at_work: u32,
    pub(super) served: u64,
    /// Its flows that may be served, the longest unserved first.
    pub(super) turn: BTreeSet<(u64, u32)>,
    pub(super) flows: u32,
    pub(super) parts: u32,
}

impl Schedule {
    pub(super) fn login(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.login_names.get(name) {
            return *number;
        }
        let name = Arc::clone(name);
        let login = Login { name: Arc::clone(&name), at_work: 0, served: 0, turn: BTreeSet::new(), flows: 0, parts: 0 };
        let number = self.logins.add(login);
        self.login_names.insert(name, number);
        number
    }

    pub(super) fn flow(&mut self, login: u32, hop: u32) -> u32 {
        if let Some(number) = self.flow_numbers.get(&(login, hop)) {
            return *number;
        }
        let number = self.flows.add(Flow {
            login,
            hop,
            place: self.hops[hop].flows.len() as u32,
            ready: Heap::default(),
            waiting: Heap::default(),
            parts: 0,
            at_work: 0,
            served: 0,
            armed: NONE,
            in_turn: false,
            noticed: false,
            rest: None,
        });
        self.hops[hop].flows.push(number);
        self.logins[login].flows += 1;
        self.flow_numbers.insert((login, hop), number);
        number
    }

    /// A new part, in no heap yet.
    pub(super) fn new_part(&mut self, message: u32, flow: u32, waits: u8, recipients: &[u16]) -> u32 {
        let login = self.flows[flow].login;
        self.flows[flow].parts += 1;
        self.logins[login].parts += 1;
        self.table.add_part(message, flow, waits, recipients)
    }

    /// The part is due: it waits for its turn.
    pub(super) fn make_ready(&mut self, part: u32) {
        let flow = self.table.parts[part].flow;
        self.table.parts[part].state = State::Ready;
        self.flows[flow].ready.push(part, &mut Oldest(&mut self.table));
        let hop = self.flows[flow].hop;
        self.hops[hop].ready += 1;
        if self.flows[flow].ready.len() == 1 {
            self.hops[hop].flows_ready += 1;
            self.settle_turn(flow);
            self.arm_hop(hop);
        }
    }

    /// The part waits until `due`.
    pub(super) fn make_wait(&mut self, part: u32, due: Time) {
        let flow = self.table.parts[part].flow;
        self.table.parts[part].state = State::Waiting;
        self.table.parts[part].due = due;
        self.flows[flow].waiting.push(part, &mut Due(&mut self.table));
        self.arm_flow(flow);
    }

    /// Takes the part out of wherever it is; its state is the caller's to set.
    pub(super) fn detach(&mut self, part: u32) {
        let (flow, state) = (self.table.parts[part].flow, self.table.parts[part].state);
        let hop = self.flows[flow].hop;
        match state {
            State::Ready => {
                self.flows[flow].ready.remove(part, &mut Oldest(&mut self.table));
                self.hops[hop].ready -= 1;
                if self.flows[flow].ready.is_empty() {
                    self.hops[hop].flows_ready -= 1;
                    self.settle_turn(flow);
                }
            }
            State::Waiting => self.flows[flow].waiting.remove(part, &mut Due(&mut self.table)),
            // With a smarthost that was used instead it is on that one's list.
            State::Parked | State::Refused => self.forget_part(part),
            State::Held | State::Sending => {}
        }
        self.table.parts[part].state = State::Held;
    }

    /// The part is settled.
    pub(super) fn remove_part(&mut self, part: u32) {
        self.detach(part);
        let flow = self.table.parts[part].flow;
        let login = self.flows[flow].login;
        self.table.remove_part(part);
        self.flows[flow].parts -= 1;
        self.logins[login].parts -= 1;
        self.release_flow(flow);
    }

    /// The message too, if it has no part left.
    pub(super) fn settle_message(&mut self, message: u32) {
        if self.table.messages[message].first != NONE {
            return;
        }
        self.not_late(message);
        self.pending.remove(&message);
        let id = self.table.remove_message(message).id;
        self.actions.push_back(Action::Settled { id });
    }

    pub(super) fn not_late(&mut self, message: u32) {
        if self.table.messages[message].place != NONE {
            self.late.remove(message, &mut Late(&mut self.table));
            self.table.messages[message].place = NONE;
        }
    }

    /// Lets a flow, its login and its destination go once nothing waits or is sent there.
    pub(super) fn release_flow(&mut self, flow: u32) {
        let Flow { login, hop, place, parts, at_work, .. } = self.flows[flow];
        if parts > 0 || at_work > 0 {
            return;
        }
        self.settle_turn(flow);
        self.flows.remove(flow);
        self.flow_numbers.remove(&(login, hop));
        self.hops[hop].flows.swap_remove(place as usize);
        if let Some(moved) = self.hops[hop].flows.get(place as usize).copied() {
            self.flows[moved].place = place;
        }
        self.logins[login].flows -= 1;
        if self.logins[login].flows == 0 {
            let name = self.logins.remove(login).name;
            self.login_names.remove(&name);
        }
        self.release_hop(hop);
    }

    pub(super) fn arm_flow(&mut self, flow: u32) {
        let state = &self.flows[flow];
        let due = state.waiting.first().map_or(NONE, |part| self.table.parts[part].due);
        let rest = state.rest.as_ref().map_or(NONE, |rest| if rest.until > self.clock.now { rest.until } else { NONE });
        let time = due.min(rest);
        if time < state.armed {
            self.flows[flow].armed = time;
            self.arm(time, Timer::Flow(flow));
        }
    }

    /// What waited until now is due; a rest of the pair may be over.
    pub(super) fn wake_flow(&mut self, flow: u32) {
        while let Some(part) = self.flows[flow].waiting.first().filter(|part| self.table.parts[*part].due <= self.clock.now) {
            self.detach(part);
            self.make_ready(part);
        }
        self.settle_turn(flow);
        self.arm_flow(flow);
    }

    /// Everything that waits in the flow is due.
    pub(super) fn hurry_flow(&mut self, flow: u32) {
        while let Some(part) = self.flows[flow].waiting.pop(&mut Due(&mut self.table)) {
            self.make_ready(part);
        }
    }
}
