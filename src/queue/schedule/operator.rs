//! The operator's verbs. A verb on a message that is being sent is applied when that attempt is finished.

use super::table::{Late, NONE, SCANNED, State, WARNED};
use super::{Action, Answer, HeldWhy, Now, Reason, Schedule, Verb};
use crate::queue::QueueId;

/// A verb that waits for the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    Hold(HeldWhy),
    Verb(Verb),
}

impl Schedule {
    /// Applies a verb to messages; the answers are in their order.
    pub fn operator(&mut self, verb: Verb, ids: &[QueueId], now: Now) -> Vec<Answer> {
        self.at(now);
        let answers = ids.iter().map(|id| self.verb(verb, *id)).collect();
        self.dispatch();
        answers
    }

    fn verb(&mut self, verb: Verb, id: QueueId) -> Answer {
        let Some(message) = self.table.find(id) else { return Answer::Unknown };
        if self.is_sending(message) {
            self.pending.entry(message).or_default().push(Pending::Verb(verb));
            return Answer::Later;
        }
        self.apply_verb(verb, message)
    }

    fn apply_verb(&mut self, verb: Verb, message: u32) -> Answer {
        let held = self.table.messages[message].held.is_some();
        match verb {
            Verb::Try | Verb::Hold if held => return Answer::Nothing,
            Verb::Release if !held => return Answer::Nothing,
            Verb::Drop => self.drop_message(message),
            Verb::Hold => self.hold(message, HeldWhy::Operator),
            Verb::Release => self.release(message),
            Verb::Return => self.return_message(message),
            Verb::Try => self.try_message(message),
        }
        Answer::Done
    }

    /// What was asked for while the message was being sent.
    pub(super) fn apply_pending(&mut self, message: u32) {
        if self.is_sending(message) {
            return;
        }
        let id = self.table.messages[message].id;
        for pending in self.pending.remove(&message).unwrap_or_default() {
            // The verb before it may have been the last.
            if self.table.find(id) != Some(message) {
                return;
            }
            match pending {
                Pending::Hold(why) => self.hold(message, why),
                Pending::Verb(verb) => drop(self.apply_verb(verb, message)),
            }
        }
    }

    fn is_sending(&self, message: u32) -> bool {
        self.table.parts_of(message).iter().any(|part| self.table.parts[*part].state == State::Sending)
    }

    /// Holds a message: at once, or when its other parts are no longer being sent.
    pub(super) fn hold(&mut self, message: u32, why: HeldWhy) {
        if self.is_sending(message) {
            self.pending.entry(message).or_default().push(Pending::Hold(why));
            return;
        }
        for part in self.table.parts_of(message) {
            self.detach(part);
        }
        self.not_late(message);
        let entry = &mut self.table.messages[message];
        entry.held = Some(why);
        let id = entry.id;
        self.actions.push_back(Action::Hold { id, why });
    }

    /// A held message again, as if it had arrived now.
    fn release(&mut self, message: u32) {
        let (now, unix) = (self.clock.now, self.clock.unix);
        let entry = &mut self.table.messages[message];
        entry.held = None;
        entry.since = u32::try_from(unix).unwrap_or(u32::MAX);
        entry.base = now;
        entry.flags &= !(SCANNED | WARNED);
        let id = entry.id;
        self.actions.push_back(Action::Release { id });
        self.watch_late(message);
        for part in self.table.parts_of(message) {
            self.table.parts[part].waits = 0;
            self.make_ready(part);
            self.give_back(part);
        }
        self.set_due(message);
    }

    /// Back to the sender.
    fn return_message(&mut self, message: u32) {
        let id = self.table.messages[message].id;
        let mut recipients = self.remove_parts(message);
        recipients.sort_unstable();
        self.actions.push_back(Action::Return { id, recipients });
        self.settle_message(message);
    }

    fn drop_message(&mut self, message: u32) {
        let id = self.table.messages[message].id;
        self.remove_parts(message);
        self.actions.push_back(Action::Drop { id });
        self.settle_message(message);
    }

    /// Now. Where its route rests, that is tried too, unless its login is refused: another AUTH is the operator's word
    /// about the route.
    fn try_message(&mut self, message: u32) {
        for part in self.table.parts_of(message) {
            if self.table.parts[part].state == State::Waiting {
                self.detach(part);
                self.make_ready(part);
            }
            let flow = self.table.parts[part].flow;
            if let Some(rest) = self.flows[flow].rest.as_mut().filter(|rest| rest.until != NONE) {
                rest.until = self.clock.now;
                self.settle_turn(flow);
            }
            let hop = self.flows[flow].hop;
            self.hops[hop].paused = self.clock.now;
            if self.hops[hop].rest.as_ref().is_some_and(|rest| rest.reason != Reason::AuthRefused) {
                self.probe_now(hop);
            }
        }
        self.set_due(message);
    }

    /// Takes out all parts; the numbers of their recipients.
    fn remove_parts(&mut self, message: u32) -> Vec<u16> {
        let mut recipients = Vec::new();
        for part in self.table.parts_of(message) {
            recipients.extend(self.table.recipients(part));
            self.remove_part(part);
        }
        recipients
    }

    /// Forgets a message that is read from its file anew, after its route has changed. False while it is being sent.
    pub fn forget(&mut self, id: QueueId) -> bool {
        let Some(message) = self.table.find(id).filter(|message| !self.is_sending(*message)) else { return false };
        self.remove_parts(message);
        self.not_late(message);
        self.pending.remove(&message);
        self.table.remove_message(message);
        true
    }

    /// Puts a message among those that become late.
    pub(super) fn watch_late(&mut self, message: u32) {
        self.late.push(message, &mut Late(&mut self.table));
    }
}
