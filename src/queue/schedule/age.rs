//! Late, and over: what becomes of messages that get old, and clocks that jump.
//!
//! Ages are kept on a clock that never jumps. What was read from the disk has its age from the clock of another day;
//! where the present clock is found to have been wrong, these ages are worked out again, and nothing is returned for an
//! hour.

use super::table::{ASKS_DELAY, LATE_WHEN_FINISHED, Late, NONE, Oldest, SCANNED, State, Time, WARNED};
use super::{Action, Now, Schedule};

/// The present, on both clocks.
#[derive(Default)]
pub(super) struct Clock {
    pub(super) now: Time,
    pub(super) unix: u64,
    offset: Option<i128>,
    no_expiry_until: Time,
}

impl Clock {
    /// Takes the time. True if the clock has jumped against the one that does not.
    fn set(&mut self, now: Now) -> bool {
        self.now = self.now.max(BIAS.saturating_add(u32::try_from(now.boot).unwrap_or(u32::MAX)).min(NONE - BIAS));
        self.unix = now.unix;
        let offset = i128::from(now.unix) - i128::from(now.boot);
        let jumped = self.offset.is_some_and(|before| (offset - before).unsigned_abs() > u128::from(JUMP));
        self.offset = Some(offset);
        if jumped {
            self.no_expiry_until = self.now + HOUR;
        }
        jumped
    }

    /// Seconds since 1970.
    pub(super) fn unix_of(&self, time: Time) -> u64 {
        (self.unix + u64::from(time)).saturating_sub(u64::from(self.now))
    }

    /// The time that was so many seconds since 1970 by the present clock; never in the future.
    pub(super) fn past(&self, unix: u64) -> Time {
        self.now - self.unix.saturating_sub(unix).min(u64::from(BIAS)) as Time
    }

    pub(super) fn may_expire(&self) -> bool {
        self.now >= self.no_expiry_until
    }
}

impl Schedule {
    /// Takes the time before anything else is done.
    pub(super) fn at(&mut self, now: Now) {
        if self.clock.set(now) {
            self.rebase();
        }
    }

    /// The clock was wrong, so the ages of what was read from the disk were.
    fn rebase(&mut self) {
        let scanned: Vec<u32> =
            self.table.messages.iter().filter(|(_, message)| message.flags & SCANNED != 0).map(|(number, _)| number).collect();
        for number in &scanned {
            let base = self.clock.past(u64::from(self.table.messages[*number].since));
            self.table.messages[*number].base = base;
        }
        if scanned.is_empty() {
            return;
        }
        self.late.rebuild(&mut Late(&mut self.table));
        for number in self.flows.numbers() {
            self.flows[number].ready.rebuild(&mut Oldest(&mut self.table));
        }
        let resting: Vec<u32> = self.hops.iter().filter(|(_, hop)| hop.rest.is_some()).map(|(number, _)| number).collect();
        for number in resting {
            if let Some(rest) = &mut self.hops[number].rest {
                rest.sweep = self.clock.now;
            }
            self.arm_hop(number);
        }
    }

    /// Messages that have become late.
    pub(super) fn check_late(&mut self) {
        while let Some(number) = self.late.first().filter(|number| self.late_at(*number) <= self.clock.now) {
            self.not_late(number);
            self.table.messages[number].flags |= WARNED;
            let sending = self.table.parts_of(number).iter().any(|part| self.table.parts[*part].state == State::Sending);
            if sending {
                self.table.messages[number].flags |= LATE_WHEN_FINISHED;
            } else {
                self.warn(number);
            }
        }
    }

    pub(super) fn late_after_attempt(&mut self, number: u32) {
        let sending = self.table.parts_of(number).iter().any(|part| self.table.parts[*part].state == State::Sending);
        if !sending && self.table.messages[number].flags & LATE_WHEN_FINISHED != 0 {
            self.table.messages[number].flags &= !LATE_WHEN_FINISHED;
            self.warn(number);
        }
    }

    /// When a message becomes late.
    pub(super) fn late_at(&self, number: u32) -> Time {
        self.table.messages[number].base.saturating_add(Time::try_from(self.settings.warn).unwrap_or(NONE))
    }

    /// The sender is told, once: of the message, or of all that wait for a route that rests.
    fn warn(&mut self, number: u32) {
        let message = &self.table.messages[number];
        let (id, asks) = (message.id, message.flags & ASKS_DELAY != 0);
        let (mut waiting, mut resting, mut reason) = (Vec::new(), Vec::new(), None);
        for part in self.table.parts_of(number) {
            let flow = self.table.parts[part].flow;
            let hop = self.flows[flow].hop;
            if self.table.parts[part].state == State::Refused {
                continue;
            }
            match self.hops[hop].rest.as_ref().filter(|_| self.via(hop).is_none() && !self.goes_direct(hop)) {
                None => waiting.extend(self.table.recipients(part)),
                Some(rest) => {
                    reason = Some(rest.reason);
                    resting.extend(self.table.recipients(part));
                    self.notice(flow);
                }
            }
        }
        waiting.sort_unstable();
        resting.sort_unstable();
        if !waiting.is_empty() {
            self.actions.push_back(Action::Late { id, recipients: waiting, reason: None });
        }
        if asks && !resting.is_empty() {
            self.actions.push_back(Action::Late { id, recipients: resting, reason });
        }
    }

    /// One notice a login while a route rests.
    fn notice(&mut self, flow: u32) {
        let state = &self.flows[flow];
        let hop = &self.hops[state.hop];
        let Some(rest) = hop.rest.as_ref().filter(|_| !state.noticed) else { return };
        let since = |part: &u32| self.table.messages[self.table.parts[*part].message].since;
        let told = if hop.is_smarthost() { rest.told } else { self.direct.is_told() };
        let oldest = state.ready.first().iter().chain(state.waiting.items()).map(since).min();
        self.actions.push_back(Action::LateNotice {
            login: std::sync::Arc::clone(&self.logins[state.login].name),
            destination: hop.destination.clone(),
            count: state.parts,
            oldest: oldest.map_or(self.clock.unix, u64::from),
            reason: rest.reason,
            told,
        });
        self.flows[flow].noticed = true;
    }

    /// Returns what is too old and waits for a route that rests: at a bounded rate, and only when the route has been tried
    /// within the hour.
    pub(super) fn sweep(&mut self, number: u32) {
        let now = self.clock.now;
        let give_up = Time::try_from(self.settings.give_up).unwrap_or(NONE);
        let reason = self.hops[number].rest.as_ref().map(|rest| rest.reason);
        let tried = self.hops[number].tried.is_some_and(|tried| now - tried <= HOUR);
        let (mut next, mut left) = (now + HOUR, RETURNS_AT_ONCE);
        let used_instead = self.via(number).is_some() || self.goes_direct(number);
        for flow in self.hops[number].flows.clone() {
            while let Some(part) = self.flows.get(flow).and_then(|flow| flow.ready.first()) {
                let over = self.table.messages[self.table.parts[part].message].base.saturating_add(give_up);
                if over > now {
                    next = next.min(over);
                    break;
                }
                if left == 0 {
                    next = next.min(now + RETURN_PAUSE);
                    break;
                }
                if !tried || used_instead || !self.clock.may_expire() {
                    next = next.min(now + MINUTE);
                    break;
                }
                left -= 1;
                self.expire(part, reason);
            }
        }
        if let Some(Some(rest)) = self.hops.get_mut(number).map(|hop| hop.rest.as_mut()) {
            rest.sweep = next;
        }
    }

    /// The recipients of a part are too old.
    pub(super) fn expire(&mut self, part: u32, reason: Option<super::Reason>) {
        let (message, id) = (self.table.parts[part].message, self.id_of(part));
        let recipients = self.table.recipients(part);
        self.actions.push_back(Action::Expire { id, recipients, reason });
        self.remove_part(part);
        self.settle_message(message);
    }
}

/// Seconds that stand before the start of the machine, so that older times have a number too: 34 years.
pub(super) const BIAS: Time = 1 << 30;

/// Seconds by which the clock may be set without doubt about ages.
const JUMP: u64 = 300;

const MINUTE: Time = 60;
const HOUR: Time = 3600;

/// Messages of a resting route that are returned at once, and the pause after them.
const RETURNS_AT_ONCE: u32 = 10;
const RETURN_PAUSE: Time = 10;
