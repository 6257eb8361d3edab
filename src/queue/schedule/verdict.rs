//! What came of a transaction: a verdict for every recipient, and what it says about the route.

use super::rest::is_final;
use super::table::{NONE, State, Time};
use super::turn::Sending;
use super::{
    Action, Fault, Finished, HeldWhy, Now, Outcome, Reason, RecipientResult, Schedule, Stage, Transaction, Trouble, Verdict,
    divide,
};
use crate::queue::QueueId;

/// The recipients of a transaction by what becomes of them.
#[derive(Default)]
struct Split {
    sent: Vec<u16>,
    fail: Vec<u16>,
    wait: Vec<u16>,
    next: Vec<u16>,
    plain: Vec<u16>,
    parked: Vec<u16>,
    unanswered: Vec<u16>,
    /// Failed, and so that a smarthost may be refusing everything; the domain where that is a recipient's.
    refused: Vec<u16>,
    refused_domain: Option<u32>,
    /// They keep their place: the route is at fault, or nothing was tried.
    kept: Vec<u16>,
    /// Nothing was tried; true if all connections to the server are taken.
    untried: Option<bool>,
    reason: Option<(Reason, Stage)>,
    /// A temporary refusal that counts, with the domain where that is a recipient's.
    temporary: Option<Option<u32>>,
}

impl Schedule {
    /// What came of a job.
    pub fn finished(&mut self, done: &Finished, now: Now) {
        self.at(now);
        let courier = usize::from(done.courier);
        let Some(sending) = self.sending(courier) else { return };
        let message = self.table.parts[sending.part].message;
        let id = self.table.messages[message].id;
        let split = self.split(&sending, done);
        self.report_settled(id, &split);
        if !split.sent.is_empty() {
            self.credit(&sending);
        }
        let rested = self.hops[sending.via].rest.is_some();
        let parts = self.divide_part(&sending, &split);
        if let Some((reason, stage)) = split.reason {
            self.route_failed(&sending, reason, stage);
        }
        if let Some(is_full) = split.untried {
            self.pause(sending.via, is_full);
        }
        let waits = self.apply(&sending, parts, &split);
        parts.into_iter().for_each(|part| self.give_back(part));
        if let Some(domain) = split.temporary.filter(|_| split.sent.is_empty()) {
            self.refused_for_now(sending.via, id, domain);
        }
        let kind = self.hops[sending.via].destination.kind;
        if done.others.is_some_and(|(stage, trouble)| is_final(kind, stage, trouble)) {
            self.direct_answered();
        }
        let learnt = done.others.is_none_or(|(_, trouble)| !trouble.is_without_result());
        if sending.probe && rested && !learnt {
            self.probe_soon(sending.via);
        } else if sending.probe && rested && split.reason.is_none() {
            self.hops[sending.via].tried = Some(self.clock.now);
            if done.others.is_some_and(|(stage, trouble)| is_final(kind, stage, trouble)) {
                self.well(sending.via);
            } else {
                self.rest_again(sending.via);
            }
        }
        self.after_attempt(message, id, waits);
        // Until here the attempt counts, which keeps its flow and its hop from being let go.
        self.stop(courier, &sending, done.open);
        self.settle_turn(sending.flow);
        self.wake_hop(sending.via);
        self.stay(courier, sending.flow);
        if self.flows.get(sending.flow).is_some() {
            self.release_flow(sending.flow);
        }
        if self.hops.get(sending.via).is_some() {
            self.release_hop(sending.via);
        }
        self.dispatch();
    }

    /// The courier's connection is closed.
    pub fn closed(&mut self, courier: u16) {
        if let Some(courier) = self.couriers.get_mut(usize::from(courier)) {
            courier.open = None;
        }
    }

    /// Sorts the recipients by whose fault it is.
    fn split(&self, sending: &Sending, done: &Finished) -> Split {
        let kind = self.hops[sending.via].destination.kind;
        let transaction = Transaction { accepted: done.accepted, parameters: done.parameters };
        let mut split = Split::default();
        for number in self.table.recipients(sending.part) {
            let own = done.results.iter().find(|result| result.number == number);
            let (stage, trouble, domain) = match (own, done.others) {
                (Some(RecipientResult { outcome: Outcome::Sent, .. }), _) => {
                    split.sent.push(number);
                    continue;
                }
                (Some(RecipientResult { outcome: Outcome::Trouble(stage, trouble), domain, .. }), _) => {
                    (*stage, *trouble, Some(*domain))
                }
                (None, Some((stage, trouble))) => (stage, trouble, None),
                (None, None) => {
                    split.next.push(number);
                    continue;
                }
            };
            if trouble == Trouble::Unanswered {
                split.unanswered.push(number);
                continue;
            }
            let domain = domain.filter(|_| stage == Stage::Recipient);
            match divide(kind, stage, trouble, transaction) {
                Fault::RestNext => split.next.push(number),
                Fault::RetryWithoutParameters if !self.table.parts[sending.part].plain => split.plain.push(number),
                Fault::NotTried => {
                    split.untried = Some(trouble == Trouble::ServerFull);
                    split.kept.push(number);
                }
                Fault::Pair => split.parked.push(number),
                Fault::Route(reason) => {
                    split.reason = split.reason.or(Some((reason, stage)));
                    split.kept.push(number);
                }
                Fault::Message(Verdict::Wait) | Fault::Recipient(Verdict::Wait) => {
                    split.wait.push(number);
                    if concerns_route(trouble) {
                        split.temporary = split.temporary.or(Some(domain));
                    }
                }
                Fault::Message(Verdict::Fail) | Fault::Recipient(Verdict::Fail) | Fault::RetryWithoutParameters => {
                    if concerns_route(trouble) && self.hops[sending.via].is_smarthost() {
                        split.refused.push(number);
                        split.refused_domain = split.refused_domain.or(domain);
                    } else {
                        split.fail.push(number);
                    }
                }
            }
        }
        split.certain(self.hops[sending.via].rest.is_some());
        split
    }

    fn report_settled(&mut self, id: QueueId, split: &Split) {
        if !split.sent.is_empty() {
            self.actions.push_back(Action::Sent { id, recipients: split.sent.clone() });
        }
        if !split.fail.is_empty() {
            self.actions.push_back(Action::Fail { id, recipients: split.fail.clone() });
        }
    }

    /// One part for each of the groups that stay: in the order wait, next, plain, parked, unanswered, refused, kept.
    fn divide_part(&mut self, sending: &Sending, split: &Split) -> [u32; 7] {
        let (message, waits) = (self.table.parts[sending.part].message, self.table.parts[sending.part].waits);
        let plain = self.table.parts[sending.part].plain;
        self.table.parts[sending.part].state = State::Held;
        let mut own = Some(sending.part);
        let groups = [&split.wait, &split.next, &split.plain, &split.parked, &split.unanswered, &split.refused, &split.kept];
        let parts = groups.map(|group| {
            if group.is_empty() {
                return NONE;
            }
            if let Some(part) = own.take() {
                self.table.set_recipients(part, group);
                return part;
            }
            let part = self.new_part(message, sending.flow, waits, group);
            self.table.parts[part].plain = plain;
            if let Some(home) = self.table.homes.get(&sending.part).copied() {
                self.table.homes.insert(part, home);
            }
            part
        });
        if let Some(part) = own {
            // Nothing stays. The flow may go with it, so it is released later, when nothing names it any more.
            let (flow, login) = (sending.flow, self.flows[sending.flow].login);
            self.table.remove_part(part);
            self.flows[flow].parts -= 1;
            self.logins[login].parts -= 1;
        }
        parts
    }

    /// Puts every group where it belongs. True if one has waited.
    fn apply(&mut self, sending: &Sending, parts: [u32; 7], split: &Split) -> bool {
        let [wait, next, plain, parked, unanswered, refused, kept] = parts;
        let ready = [next, plain, kept];
        if plain != NONE {
            self.table.parts[plain].plain = true;
        }
        for part in ready.into_iter().filter(|part| *part != NONE) {
            self.make_ready(part);
        }
        if wait != NONE {
            self.wait(wait);
        }
        let rests = self.hops[sending.via].rest.is_some();
        if parked != NONE || unanswered != NONE {
            let until = self.flows[sending.flow].rest.as_ref().map_or(0, |rest| rest.until);
            // Several lines cut at one moment are one rest.
            if !rests && until <= self.clock.now {
                self.rest_pair(sending.flow);
                self.ask_probe(sending.via);
            }
            if parked != NONE && rests {
                self.make_ready(parked);
            } else if parked != NONE && until > self.clock.now && until != NONE {
                self.wait(parked);
            } else if parked != NONE {
                self.table.parts[parked].state = State::Parked;
                self.hops[sending.via].parked.push(parked);
            }
        }
        if refused != NONE {
            self.refused(sending.via, refused, split.refused_domain);
        }
        if unanswered != NONE && self.settings.hold_unanswered {
            let message = self.table.parts[unanswered].message;
            self.hold(message, HeldWhy::MayHaveArrived);
        } else if unanswered != NONE {
            self.wait(unanswered);
        }
        wait != NONE || unanswered != NONE
    }

    /// The pair of login and destination rests until an empty probe has shown whose fault it was.
    fn rest_pair(&mut self, flow: u32) {
        let step = self.flows[flow].rest.as_ref().map_or(0, |rest| rest.step);
        self.flows[flow].rest = Some(super::flow::FlowRest { until: NONE, step });
        self.settle_turn(flow);
    }

    /// After an attempt: what waited for its end.
    fn after_attempt(&mut self, message: u32, id: QueueId, waits: bool) {
        let gone = self.table.messages.get(message).is_none_or(|entry| entry.id != id);
        if gone {
            return;
        }
        self.settle_message(message);
        if self.table.messages.get(message).is_none_or(|entry| entry.id != id) {
            return;
        }
        self.late_after_attempt(message);
        if waits {
            self.set_due(message);
        }
        self.apply_pending(message);
    }

    /// The recipients of a part wait by themselves; too old, they are returned, since this was an attempt.
    pub(super) fn wait(&mut self, part: u32) {
        let message = self.table.parts[part].message;
        let entry = &self.table.messages[message];
        let id = entry.id;
        let over = entry.base.saturating_add(self.settings.give_up as Time);
        if over <= self.clock.now && self.clock.may_expire() {
            self.expire(part, None);
            return;
        }
        let span = own_wait(id, self.table.parts[part].waits);
        let mut due = self.clock.now + span;
        // The last attempt is made when the time is over, not up to three hours after it.
        if over > self.clock.now {
            due = due.min(over);
        }
        self.table.parts[part].waits = self.table.parts[part].waits.saturating_add(1);
        let (recipients, waits) = (self.table.recipients(part), self.table.parts[part].waits);
        self.make_wait(part, due);
        self.actions.push_back(Action::Wait { id, recipients, waits, due: self.clock.unix_of(due) });
    }

    /// The same some time after the attempt, so the file's time stamp follows here.
    pub(super) fn wait_now(&mut self, part: u32) {
        let (message, id) = (self.table.parts[part].message, self.id_of(part));
        self.wait(part);
        if self.table.messages.get(message).is_some_and(|entry| entry.id == id) {
            self.set_due(message);
        }
    }

    /// The recipients of a part are refused for good.
    pub(super) fn fail(&mut self, part: u32) {
        let (message, id) = (self.table.parts[part].message, self.id_of(part));
        let recipients = self.table.recipients(part);
        self.actions.push_back(Action::Fail { id, recipients });
        self.remove_part(part);
        self.settle_message(message);
    }

    /// The time stamp of a message's file: when its next part is due.
    pub(super) fn set_due(&mut self, message: u32) {
        let parts = self.table.parts_of(message);
        let due = parts.iter().map(|part| match self.table.parts[*part].state {
            State::Waiting => self.table.parts[*part].due,
            _ => self.clock.now,
        });
        if let Some(due) = due.min() {
            let id = self.table.messages[message].id;
            self.actions.push_back(Action::SetDue { id, due: self.clock.unix_of(due) });
        }
    }

    pub(super) fn id_of(&self, part: u32) -> QueueId {
        self.table.messages[self.table.parts[part].message].id
    }
}

impl Split {
    /// Settles what is certain: a refusal stands where the same transaction was accepted, and waits where the route rests,
    /// since what a route says in trouble is not said of a message. A transaction without any progress waits too.
    fn certain(&mut self, rests: bool) {
        if !self.sent.is_empty() {
            self.fail.append(&mut self.refused);
        }
        if rests {
            self.wait.append(&mut self.refused);
        }
        let settled = self.sent.len() + self.fail.len() + self.wait.len() + self.refused.len();
        if settled == 0 && self.reason.is_none() && self.parked.is_empty() && self.unanswered.is_empty() {
            self.wait.append(&mut self.next);
        }
        self.fail.sort_unstable();
        self.wait.sort_unstable();
    }
}

/// Replies about an address or a mailbox (X.1.X, X.2.X) say nothing about the route; nor does what was found here.
fn concerns_route(trouble: Trouble) -> bool {
    match trouble {
        Trouble::Reply { status, .. } => !matches!(status, Some((_, 1 | 2, _))),
        _ => false,
    }
}

/// Seconds of a recipient's next wait after `waits` others: 400·(2n+1) ±5 %, at most three hours.
pub(super) fn own_wait(id: QueueId, waits: u8) -> Time {
    let span = (400 * (2 * u32::from(waits) + 1)).min(3 * 3600);
    // Spread by the id and the number of the wait: messages of one moment don't come back at one moment.
    let mixed = (id.bits() ^ u64::from(waits) << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let percent = 950 + ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as u32 % 101;
    (span * percent / 1000).min(3 * 3600)
}
