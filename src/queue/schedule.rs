//! What is sent, when, by which connection: decides and does nothing.
//!
//! The schedule is told what happened (a message was accepted, a courier has finished, an operator wants something, time
//! has passed) and answers with [`Action`]s, to be done in their order. It reads no clock, no file and no thread, so days
//! of mail are a test of a second. It guarantees:
//!
//! - Every message is sent, or there is an action that tells its sender or the operator.
//! - A fault of a route ([`divide`]) writes nothing per message; its messages keep their recipients and their place.
//! - A login does not wait for another one's mail: turns go by login, with a bound on the wait for the first message.
//! - Nothing is returned without an attempt, or a probe of its resting route, in the hour before.
//!
//! A pair of message and destination takes less than 100 octets; addresses and replies are not kept.

mod action;
mod age;
mod direct;
mod fault;
mod flow;
mod heap;
mod hop;
mod lend;
mod list;
mod operator;
mod rest;
mod table;
mod turn;
mod verdict;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use self::age::Clock;
use self::direct::Direct;
use self::flow::{Flow, Login};
use self::heap::Heap;
use self::hop::{Bucket, Hop};
use self::operator::Pending;
use self::table::{ASKS_DELAY, Message, NONE, SCANNED, Slab, Table, Time, WARNED};
use self::turn::Courier;
use crate::queue::QueueId;
use crate::smtp::remote::Stage;

pub use action::*;
pub use fault::*;
pub use list::*;

/// The schedule.
pub struct Schedule {
    settings: Settings,
    clock: Clock,
    actions: VecDeque<Action>,
    table: Table,
    flows: Slab<Flow>,
    flow_numbers: HashMap<(u32, u32), u32>,
    logins: Slab<Login>,
    login_names: HashMap<Arc<str>, u32>,
    hops: Slab<Hop>,
    hop_numbers: HashMap<Destination, u32>,
    /// Whether mail by MX works at all.
    direct: Direct,
    /// Hops that the settings name.
    routes: Vec<u32>,
    /// Logins that have something to send now: couriers at work, when served last, number.
    line: BTreeSet<(u32, u64, u32)>,
    served: u64,
    couriers: Vec<Courier>,
    /// Hops whose probe is due.
    probes: VecDeque<u32>,
    probes_at_work: u32,
    probed_last: bool,
    /// Messages that are not late yet.
    late: Heap,
    timers: BinaryHeap<Reverse<(Time, Timer)>>,
    pending: HashMap<u32, Vec<Pending>>,
    /// Flows of which a part is asked for to be divided, and its message.
    divisions: HashMap<u32, QueueId>,
}

/// What the time makes due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Flow(u32),
    Hop(u32),
}

impl Schedule {
    /// A schedule for so many couriers, numbered from 0.
    pub fn new(settings: Settings, couriers: u16, now: Now) -> Self {
        let mut schedule = Self {
            settings: Settings::default(),
            clock: Clock::default(),
            actions: VecDeque::new(),
            table: Table::default(),
            flows: Slab::default(),
            flow_numbers: HashMap::new(),
            logins: Slab::default(),
            login_names: HashMap::new(),
            hops: Slab::default(),
            hop_numbers: HashMap::new(),
            direct: Direct::default(),
            routes: Vec::new(),
            line: BTreeSet::new(),
            served: 0,
            couriers: (0..couriers.max(1)).map(|_| Courier::default()).collect(),
            probes: VecDeque::new(),
            probes_at_work: 0,
            probed_last: false,
            late: Heap::default(),
            timers: BinaryHeap::new(),
            pending: HashMap::new(),
            divisions: HashMap::new(),
        };
        schedule.at(now);
        schedule.set(settings);
        schedule
    }

    /// The settings have changed. Routes that are gone keep what waits for them: see [`Schedule::forget`].
    pub fn configure(&mut self, settings: Settings, now: Now) {
        self.at(now);
        self.set(settings);
        for number in self.hops.numbers() {
            self.settle_hop(number);
            self.wake_hop(number);
        }
        self.dispatch();
    }

    fn set(&mut self, settings: Settings) {
        self.settings = settings;
        let old = std::mem::take(&mut self.routes);
        for number in &old {
            let hop = &mut self.hops[*number];
            (hop.configured, hop.then, hop.then_mx, hop.rate) = (false, None, false, None);
        }
        for route in self.settings.routes.clone() {
            let number = self.hop(&Destination::smarthost(&route.name));
            let then = match &route.then {
                Some(Then::Route(name)) => Some(self.hop(&Destination::smarthost(name))),
                Some(Then::Mx) | None => None,
            };
            let now = self.clock.now;
            let hop = &mut self.hops[number];
            hop.set_limit(route.connections);
            hop.rate = route.rate.map(|rate| Bucket::new(rate, now));
            (hop.configured, hop.then, hop.then_mx) = (true, then, route.then == Some(Then::Mx));
            self.routes.push(number);
        }
        let mx = self.settings.mx_connections;
        for number in self.hops.numbers() {
            if !self.hops[number].is_smarthost() {
                self.hops[number].set_limit(mx);
            }
        }
        for number in old {
            if !self.routes.contains(&number) {
                self.release_hop(number);
            }
        }
    }

    /// A message is in the spool: it was accepted, or read at the start. One that is known already is not taken again,
    /// nor one without recipients: false.
    pub fn accepted(&mut self, queued: &Queued, now: Now) -> bool {
        self.at(now);
        if self.table.find(queued.id).is_some() || queued.parts.iter().all(|part| part.recipients.is_empty()) {
            return false;
        }
        let login = self.login(&queued.login);
        let message = self.table.add_message(Message {
            id: queued.id,
            since: u32::try_from(queued.since).unwrap_or(u32::MAX),
            base: self.clock.past(queued.since),
            login,
            first: NONE,
            place: NONE,
            flags: [(queued.asks_delay, ASKS_DELAY), (queued.warned, WARNED), (queued.scanned, SCANNED)]
                .into_iter()
                .filter_map(|(set, flag)| set.then_some(flag))
                .fold(0, |flags, flag| flags | flag),
            held: queued.held,
        });
        let mut room = false;
        for part in queued.parts.iter().filter(|part| !part.recipients.is_empty()) {
            let hop = self.hop(&part.destination);
            let flow = self.flow(login, hop);
            let number = self.new_part(message, flow, part.waits, &part.recipients);
            if queued.held.is_some() {
                continue;
            }
            // A time stamp from a clock that was ahead holds nothing up for longer than a wait can be.
            let wait = part.due.saturating_sub(self.clock.unix).min(u64::from(WAIT_MAX)) as Time;
            if wait == 0 {
                self.make_ready(number)
            } else {
                self.make_wait(number, self.clock.now + wait)
            }
            room |= self.room(flow).is_some() || self.lends(flow);
        }
        if !queued.warned && queued.held.is_none() {
            self.watch_late(message);
        }
        // Nothing else can have become possible, so with a full destination no turn is looked for.
        if room || !self.probes.is_empty() {
            self.dispatch();
        }
        true
    }

    /// Time has passed: does what has become due. To be called at [`Schedule::wakes`], and as often besides as one likes.
    pub fn tick(&mut self, now: Now) {
        self.at(now);
        while let Some(Reverse((time, timer))) = self.timers.peek().copied().filter(|Reverse((time, _))| *time <= self.clock.now)
        {
            self.timers.pop();
            match timer {
                Timer::Flow(flow) if self.flows.get(flow).is_some_and(|state| state.armed == time) => {
                    self.flows[flow].armed = NONE;
                    self.wake_flow(flow);
                }
                Timer::Hop(hop) if self.hops.get(hop).is_some_and(|state| state.armed == time) => {
                    self.hops[hop].armed = NONE;
                    self.wake_hop(hop);
                }
                // An earlier time was set after this one.
                Timer::Flow(_) | Timer::Hop(_) => {}
            }
        }
        self.check_late();
        self.dispatch();
    }

    /// What is to be done next.
    pub fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Schedule::tick`] has something to do next, on the clock that never jumps: [`Now::boot`].
    pub fn wakes(&self) -> Option<u64> {
        let timer = self.timers.peek().map(|Reverse((time, _))| *time);
        let late = self.late.first().map(|message| self.late_at(message));
        timer.into_iter().chain(late).min().map(|time| u64::from(time.saturating_sub(age::BIAS)))
    }

    fn arm(&mut self, time: Time, timer: Timer) {
        if time != NONE {
            self.timers.push(Reverse((time, timer)));
        }
    }
}

/// Seconds of the longest wait, the spread included.
const WAIT_MAX: Time = 3 * 3600;
