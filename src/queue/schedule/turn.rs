//! Which login, destination and message comes next.
//!
//! A free courier goes first to the login with the fewest couriers at work, then to its longest-unserved destination,
//! then to its oldest message. With A logins that have something to send and k couriers, a login's first message begins
//! after at most ⌈A/k⌉+1 transactions; where a destination takes fewer than k connections, k is that number there.

use std::sync::Arc;

use super::table::{Oldest, State};
use super::{Action, Job, Schedule};

/// A courier, as far as it is known here.
#[derive(Default)]
pub(super) struct Courier {
    pub(super) task: Task,
    /// The hop that it has an open connection to.
    pub(super) open: Option<u32>,
}

/// What a courier does.
#[derive(Clone, Copy, Default)]
pub(super) enum Task {
    /// Nothing.
    #[default]
    Free,
    /// An empty probe of a hop.
    Probe(u32),
    /// A transaction.
    Send(Sending),
}

/// A transaction that is being made.
#[derive(Clone, Copy)]
pub(super) struct Sending {
    pub(super) part: u32,
    pub(super) flow: u32,
    /// The hop that is used, which need not be that of the flow.
    pub(super) via: u32,
    /// The connection has carried a message before.
    pub(super) proven: bool,
    /// It is the probe of a hop that rests.
    pub(super) probe: bool,
}

impl Schedule {
    pub(super) fn free(&self) -> u32 {
        self.couriers.iter().filter(|courier| matches!(courier.task, Task::Free)).count() as u32
    }

    /// Gives every free courier what it is due, and asks for what another might be given.
    pub(super) fn dispatch(&mut self) {
        self.employ();
        self.lend();
    }

    fn employ(&mut self) {
        loop {
            let free = self.free();
            if free == 0 {
                return;
            }
            let next = self.pick(free, None);
            // A probe goes first, but never two in a row while a login waits, and few at once.
            let most = (self.couriers.len() as u32 / 4).max(1);
            if !self.probes.is_empty()
                && self.probes_at_work < most
                && (next.is_none() || !self.probed_last)
                && self.start_probe()
            {
                self.probed_last = true;
                continue;
            }
            let Some((flow, via)) = next else { return };
            self.probed_last = false;
            self.start(flow, via, None, false);
        }
    }

    /// The flow that is to be served next, and by which hop; not one of the login `except`.
    fn pick(&self, free: u32, except: Option<u32>) -> Option<(u32, u32)> {
        for (at_work, _, login) in &self.line {
            // A login takes another courier only while it holds fewer than are free.
            if *at_work >= free {
                return None;
            }
            if Some(*login) == except {
                continue;
            }
            for (_, flow) in &self.logins[*login].turn {
                if let Some(via) = self.room(*flow) {
                    return Some((*flow, via));
                }
            }
        }
        None
    }

    /// The hop that may take a transaction of the flow now.
    pub(super) fn room(&self, flow: u32) -> Option<u32> {
        let state = &self.flows[flow];
        let via = self.via(state.hop)?;
        let hop = &self.hops[via];
        if hop.at_work >= u32::from(hop.allowed) || !hop.rate_allows(self.clock.now) {
            return None;
        }
        let is_open = self.idle_at(via).is_some();
        if hop.paused > self.clock.now && !is_open {
            return None;
        }
        let first = hop.at_work == 0 || is_open;
        // A further connection: two logins wait there, or one waits and another is served, or a full round waits.
        let home = &self.hops[state.hop];
        let another = home.flows_ready >= 2 || state.at_work == 0 || home.ready as usize >= self.couriers.len();
        (first || another).then_some(via)
    }

    /// A free courier that has a connection to the hop.
    fn idle_at(&self, hop: u32) -> Option<usize> {
        self.couriers.iter().position(|courier| matches!(courier.task, Task::Free) && courier.open == Some(hop))
    }

    /// After a transaction the courier stays with its destination while no other login waits.
    pub(super) fn stay(&mut self, courier: usize, flow: u32) {
        let Some(hop) = self.couriers[courier].open else { return };
        let Some(state) = self.flows.get(flow) else { return };
        let stays = state.in_turn && self.room(flow) == Some(hop) && self.probes.is_empty();
        if stays && self.pick(self.free(), Some(state.login)).is_none() {
            self.start(flow, hop, Some(courier), false);
        }
    }

    /// Begins a transaction with the oldest message of a flow.
    pub(super) fn start(&mut self, flow: u32, via: u32, courier: Option<usize>, probe: bool) {
        let Some(courier) = courier.or_else(|| self.courier_for(via)) else { return };
        let Some(part) = self.flows[flow].ready.pop(&mut Oldest(&mut self.table)) else { return };
        let (login, hop) = (self.flows[flow].login, self.flows[flow].hop);
        self.hops[hop].ready -= 1;
        if self.flows[flow].ready.is_empty() {
            self.hops[hop].flows_ready -= 1;
        }
        self.table.parts[part].state = State::Sending;
        self.served += 1;
        let served = self.served;
        self.take_out(flow);
        self.flows[flow].served = served;
        self.flows[flow].at_work += 1;
        self.hops[via].at_work += 1;
        self.change_login(login, |login| {
            login.at_work += 1;
            login.served = served;
        });
        self.settle_turn(flow);
        self.hops[via].take_rate(self.clock.now);
        self.arm_hop(via);
        let proven = self.couriers[courier].open == Some(via);
        self.couriers[courier] = Courier { task: Task::Send(Sending { part, flow, via, proven, probe }), open: Some(via) };
        self.actions.push_back(Action::Send(Job {
            courier: courier as u16,
            id: self.table.messages[self.table.parts[part].message].id,
            recipients: self.table.recipients(part),
            destination: self.hops[via].destination.clone(),
            reuse: proven,
            plain: self.table.parts[part].plain,
        }));
    }

    /// The transaction that a courier makes.
    pub(super) fn sending(&self, courier: usize) -> Option<Sending> {
        match self.couriers.get(courier)?.task {
            Task::Send(sending) => Some(sending),
            Task::Free | Task::Probe(_) => None,
        }
    }

    /// The transaction is over: its courier is free, the counts are down.
    pub(super) fn stop(&mut self, courier: usize, sending: &Sending, open: bool) {
        self.couriers[courier] = Courier { task: Task::Free, open: open.then_some(sending.via) };
        self.flows[sending.flow].at_work -= 1;
        self.hops[sending.via].at_work -= 1;
        if sending.probe {
            self.probes_at_work -= 1;
            self.hops[sending.via].probing = false;
        }
        let login = self.flows[sending.flow].login;
        self.change_login(login, |login| login.at_work -= 1);
    }

    /// A free courier: one with a connection to the hop, else one without any, else one that leaves its own.
    pub(super) fn courier_for(&self, hop: u32) -> Option<usize> {
        let free = |courier: &super::turn::Courier| matches!(courier.task, Task::Free);
        self.idle_at(hop)
            .or_else(|| self.couriers.iter().position(|courier| free(courier) && courier.open.is_none()))
            .or_else(|| self.couriers.iter().position(free))
    }

    /// Puts a flow among those that may be served, or takes it out.
    pub(super) fn settle_turn(&mut self, flow: u32) {
        let state = &self.flows[flow];
        let rests = state.rest.as_ref().is_some_and(|rest| rest.until > self.clock.now);
        let should = !state.ready.is_empty() && !rests && (self.via(state.hop).is_some() || self.goes_direct(state.hop));
        if should && !state.in_turn {
            let (login, key) = (state.login, (state.served, flow));
            self.flows[flow].in_turn = true;
            self.change_login(login, |login| _ = login.turn.insert(key));
        } else if !should {
            self.take_out(flow);
        }
    }

    fn take_out(&mut self, flow: u32) {
        if self.flows[flow].in_turn {
            let (login, key) = (self.flows[flow].login, (self.flows[flow].served, flow));
            self.flows[flow].in_turn = false;
            self.change_login(login, |login| _ = login.turn.remove(&key));
        }
    }

    /// Changes a login, whose place in the line follows.
    fn change_login(&mut self, number: u32, change: impl FnOnce(&mut super::flow::Login)) {
        let login = &mut self.logins[number];
        if !login.turn.is_empty() {
            self.line.remove(&(login.at_work, login.served, number));
        }
        change(login);
        if !login.turn.is_empty() {
            self.line.insert((login.at_work, login.served, number));
        }
    }

    /// The names of logins that have something to send now, in the order in which they would be served.
    pub fn waiting_logins(&self) -> Vec<Arc<str>> {
        self.line.iter().map(|(_, _, login)| Arc::clone(&self.logins[*login].name)).collect()
    }
}
