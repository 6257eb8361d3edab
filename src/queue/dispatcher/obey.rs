//! Does what the schedule has decided: hands out tasks, writes records, and has reports made.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::words::{Owned, address, together};
use super::{Input, Thread, lock};
use crate::journal;
use crate::queue::QueueId;
use crate::queue::clerk::{Deed, Failed, grouped, last_of, record};
use crate::queue::explain::Cause;
use crate::queue::reporter::RouteNews;
use crate::queue::schedule::{Action, HeldWhy, Reason, WaitsFor};
use crate::queue::spool::{Envelope, Happened, SpoolError, Verdict, arrived};
use crate::queue::work::{Attempt, Task};

impl Thread {
    /// Does what the schedule has decided.
    pub(super) fn act(&mut self) {
        let actions: Vec<Action> = {
            let mut schedule = self.queue.schedule();
            let actions = std::iter::from_fn(|| schedule.action()).collect();
            self.queue.pairs.store(schedule.pairs(), Ordering::Relaxed);
            actions
        };
        let mut settled: HashSet<QueueId> =
            actions.iter().filter_map(|action| if let Action::Settled { id } = action { Some(*id) } else { None }).collect();
        // What the clerk has to do for a message takes a while, in which its file must tell what was sent.
        for action in &actions {
            if let Action::Expire { id, .. } | Action::Fail { id, .. } | Action::Return { id, .. } = action {
                settled.remove(id);
            }
        }
        for action in actions {
            self.obey(action, &settled);
        }
        self.end_attempts();
        self.report_failures();
        self.envelopes.clear();
    }

    /// One report for the failures of one pass: none while other recipients of the message are being sent or about to be. A
    /// next hop that takes one recipient a transaction would make a report of each.
    fn report_failures(&mut self) {
        let over: Vec<QueueId> = {
            let schedule = self.queue.schedule();
            let goes_on = |id: &QueueId| {
                let parts = schedule.message(*id).map(|message| message.parts).unwrap_or_default();
                parts.iter().any(|part| matches!(part.waits_for, WaitsFor::Result | WaitsFor::ItsTurn))
            };
            self.failed.keys().filter(|id| !goes_on(id)).copied().collect()
        };
        over.into_iter().for_each(|id| self.report_failure(id));
    }

    /// The report of a message's failures that waits for the rest of it, if there is one.
    pub(super) fn report_failure(&mut self, id: QueueId) {
        if let Some(recipients) = self.failed.remove(&id) {
            self.deed(id, Deed::Fail { id, recipients, record: false });
        }
    }

    /// Says of attempts that came to nothing that they are over: after a crash they are no doubt, and no sign that the message
    /// ended the process. A route's fault is one, and so is a recipient that goes in the next transaction.
    fn end_attempts(&mut self) {
        let mut by_message: HashMap<QueueId, Vec<u16>> = HashMap::new();
        for (id, number) in self.begun.drain() {
            by_message.entry(id).or_default().push(number);
        }
        for (id, mut recipients) in by_message {
            recipients.sort_unstable();
            if let Err(error) = self.queue.spool.append(id, &record(Happened::End { recipients })) {
                journal::notice("spool", error);
            }
        }
    }

    fn obey(&mut self, action: Action, settled: &HashSet<QueueId>) {
        match action {
            Action::Divide { id, .. } => self.divide(id),
            Action::Drop { id } => journal::queue::dropped(&id.to_string()),
            Action::Expire { id, recipients, reason } => self.fail(id, &recipients, reason.map(Cause::Rests), true),
            Action::Fail { id, recipients } => self.fail(id, &recipients, None, false),
            Action::Hold { id, why } => {
                if why == HeldWhy::MayHaveArrived {
                    self.in_doubt(id);
                }
                self.deed(id, Deed::Hold(id, why.word()));
            }
            Action::Keep { .. } => {}
            Action::Late { id, recipients, reason } => self.late(id, &recipients, reason),
            Action::LateNotice { login, destination, count, oldest, reason, told } => {
                let route = self.news(&destination, Some(reason), 0, None);
                let oldest = (oldest, oldest + self.give_up);
                let _ = self.clerk.send(Deed::LateNotice { login: login.to_string(), route, count: count.into(), oldest, told });
            }
            Action::Probe { courier, destination } => self.task(courier, Task::Probe(destination)),
            Action::Release { id } => self.deed(id, Deed::Release(id)),
            Action::Return { id, recipients } => self.fail(id, &recipients, Some(Cause::Returned), false),
            Action::RouteRests { destination, reason, next } => {
                let text = self.queue.last_failure(&destination).map(|last| last.told().text).unwrap_or_default();
                journal::queue::route(&destination.name, "resting", reason.word(), time(next), &text);
            }
            Action::RouteWell { destination } => {
                lock(&self.queue.troubles).forget(&destination);
                journal::queue::route(&destination.name, "well", "", "", "");
            }
            Action::Send(job) => self.task(job.courier, Task::Send(job)),
            Action::Sent { id, recipients } => self.sent(id, &recipients, settled.contains(&id)),
            Action::ServerFull { destination } => {
                let text = "as many connections to its server are open as this server opens there; mail for it waits";
                journal::notice("route", format!("{}: {text}", destination.name));
            }
            Action::SetDue { id, due } => {
                if let Err(error) = self.queue.spool.set_due(id, due) {
                    journal::notice("spool", error);
                }
            }
            Action::Settled { id } => self.settled(id),
            Action::Tell { destination, reason, since, waiting } => {
                let next = reason.and_then(|_| self.next_probe(&destination));
                let news = self.news(&destination, reason, since, next);
                let _ = self.clerk.send(Deed::Tell(news, waiting.into()));
            }
            Action::TellDirect { reason, since, waiting, domains, next } => {
                let tried = domains.iter().map(|domain| self.tried(domain)).collect();
                self.tell_direct(reason, since, waiting.into(), tried, next);
            }
            Action::Wait { id, recipients, waits: _, due } => self.wait_for(id, &recipients, due),
        }
    }

    /// Finds the domains of a message's recipients. The answer is an input like others, so that what waits for a route that rests
    /// does not hold up results.
    fn divide(&mut self, id: QueueId) {
        let domains = match self.queue.spool.read(id) {
            Ok(message) => domains_of(&message.envelope),
            Err(SpoolError::Damaged(why)) => {
                self.damaged(id, &why.to_string());
                Vec::new()
            }
            Err(SpoolError::Missing(_)) => Vec::new(),
            Err(error) => {
                journal::notice("spool", format!("{id}: {error}"));
                Vec::new()
            }
        };
        let _ = self.queue.inputs.send(Input::Divided(id, domains));
    }

    /// Servers that are found by MX rest, or one has worked again; `tried` says how it went at each domain.
    fn tell_direct(&mut self, reason: Option<Reason>, since: u64, waiting: u64, tried: Vec<String>, next: u64) {
        match reason {
            Some(reason) => {
                let text = tried.last().map_or("", String::as_str);
                journal::queue::route("mx", "resting", reason.word(), time(next), text);
            }
            None => journal::queue::route("mx", "well", "", "", ""),
        }
        let news = RouteNews {
            name: "mx".to_owned(),
            host: String::new(),
            cause: reason.map(Cause::Rests),
            reply: None,
            since,
            next: Some(next),
            tried,
        };
        let _ = self.clerk.send(Deed::Tell(news, waiting));
    }

    fn task(&mut self, courier: u16, task: Task) {
        if self.stops_by.is_some() {
            return;
        }
        if let Some(sender) = self.couriers.get(usize::from(courier)) {
            self.busy.insert(courier);
            let _ = sender.send(task);
        }
    }

    /// For the clerk, which then has all that comes for this message.
    pub(super) fn deed(&mut self, id: QueueId, deed: Deed) {
        self.with_clerk.insert(id);
        let _ = self.clerk.send(deed);
    }

    fn settled(&mut self, id: QueueId) {
        self.attempts.retain(|(known, _), _| *known != id);
        self.begun.retain(|(known, _)| *known != id);
        self.report_failure(id);
        if self.with_clerk.remove(&id) {
            let _ = self.clerk.send(Deed::Remove(id));
        } else if let Err(error) = self.queue.spool.remove(id) {
            journal::notice("spool", error);
            // It is done again from there: at the next start it would be sent once more.
            let _ = self.clerk.send(Deed::Remove(id));
        }
    }

    fn sent(&mut self, id: QueueId, recipients: &[u16], settled: bool) {
        let envelope = self.envelope_of(id);
        let attempts = self.attempts_of(id, recipients);
        for (numbers, attempt) in together(&attempts) {
            journal::queue::sent(self.transfer(id, &numbers, &attempt, envelope.as_deref()).view());
        }
        let asked = attempts.iter().filter(|(number, attempt)| !attempt.dsn && asks_success(envelope.as_deref(), *number));
        let asked: Vec<(u16, Attempt)> = asked.cloned().collect();
        // A message of which nothing is left is unlinked: no record is needed.
        if !settled || !asked.is_empty() || self.with_clerk.contains(&id) {
            self.write(id, &attempts, Verdict::Sent);
        }
        if !asked.is_empty() {
            self.deed(id, Deed::Relayed(id, asked));
        }
    }

    fn wait_for(&mut self, id: QueueId, recipients: &[u16], due: u64) {
        let attempts = self.attempts_of(id, recipients);
        let envelope = self.envelope_of(id);
        for (numbers, attempt) in together(&attempts) {
            journal::queue::deferred(self.transfer(id, &numbers, &attempt, envelope.as_deref()).view(), time(due));
        }
        // Named before the record ends the doubt: what is killed in between names it once more at its next start.
        self.log_in_doubt(id, &attempts);
        self.write(id, &attempts, Verdict::Wait);
    }

    /// The results of an attempt, each once. What cannot be written is tried again after a restart only.
    fn write(&mut self, id: QueueId, attempts: &[(u16, Attempt)], verdict: Verdict) {
        for (recipients, told) in grouped(attempts.iter().map(|(number, attempt)| (*number, attempt.told()))) {
            let what = Happened::Result { recipients, verdict, told };
            if let Err(error) = self.queue.spool.append(id, &record(what)) {
                journal::notice("spool", error);
            }
        }
    }

    /// Refused, too old, or returned: recorded and reported by the clerk.
    fn fail(&mut self, id: QueueId, recipients: &[u16], cause: Option<Cause>, expired: bool) {
        let message = match self.queue.spool.read(id) {
            Err(SpoolError::Missing(_)) => return,
            // What is to be done with a file that can't be read is decided where its sender is told.
            message => message.ok(),
        };
        let message = message.as_ref();
        let attempts: HashMap<u16, Attempt> = self.attempts_of(id, recipients).into_iter().collect();
        let failed = |number: &u16| match attempts.get(number) {
            Some(attempt) if cause.is_none() => {
                let (told, cause, reply) = (attempt.told(), attempt.cause, attempt.reply.clone());
                (*number, Failed { told, cause, reply, host: attempt.host.clone(), attempted: Some(attempt.time), expired })
            }
            _ => {
                let unread = || Failed::unread(cause);
                let last = message.map_or_else(unread, |message| last_of(message, *number, cause));
                (*number, Failed { expired, ..last })
            }
        };
        let recipients: Vec<(u16, Failed)> = recipients.iter().map(failed).collect();
        for (number, failed) in &recipients {
            let attempt = attempts.get(number);
            let owned = Owned {
                id: id.to_string(),
                to: message.map(|message| address(&message.envelope, *number)).unwrap_or_default(),
                route: message.map(|message| self.route_name(&message.envelope, *number)).unwrap_or_default(),
                host: failed.host.clone(),
                tls: attempt.and_then(|attempt| attempt.tls).unwrap_or_default(),
                code: failed.told.code.unwrap_or_default(),
                text: failed.told.text.clone(),
                millis: attempt.map_or(0, |attempt| attempt.millis),
            };
            journal::queue::failed(owned.view());
        }
        self.deed(id, Deed::Record(id, recipients.clone()));
        self.failed.entry(id).or_default().extend(recipients);
    }

    fn late(&mut self, id: QueueId, recipients: &[u16], reason: Option<Reason>) {
        let Ok(message) = self.queue.spool.read(id) else { return };
        // While its route rests only those are told who asked with NOTIFY=DELAY.
        let asked = |number: &&u16| {
            let to = message.envelope.recipients.get(usize::from(**number));
            reason.is_none() || to.is_some_and(|to| to.notify.is_some_and(|notify| notify.delay))
        };
        let recipients: Vec<(u16, Option<Cause>)> =
            recipients.iter().filter(asked).map(|number| (*number, reason.map(Cause::Rests))).collect();
        if !recipients.is_empty() {
            let since = message.released().unwrap_or_else(|| arrived(id));
            self.deed(id, Deed::Late(id, recipients, since + self.give_up));
        }
    }

    /// A message that may have arrived, by its attempts.
    fn in_doubt(&mut self, id: QueueId) {
        let attempts: Vec<(u16, Attempt)> = self
            .attempts
            .iter()
            .filter(|((known, _), _)| *known == id)
            .map(|((_, number), attempt)| (*number, attempt.clone()))
            .collect();
        self.log_in_doubt(id, &attempts);
    }

    fn log_in_doubt(&self, id: QueueId, attempts: &[(u16, Attempt)]) {
        for (number, attempt) in attempts.iter().filter(|(_, attempt)| attempt.is_unanswered()) {
            journal::queue::maybe_twice(&id.to_string(), &self.address(id, *number), &attempt.host);
        }
    }

    fn attempts_of(&mut self, id: QueueId, recipients: &[u16]) -> Vec<(u16, Attempt)> {
        for number in recipients {
            self.begun.remove(&(id, *number));
        }
        recipients.iter().filter_map(|number| Some((*number, self.attempts.remove(&(id, *number))?))).collect()
    }
}

/// The domain of each recipient, as mail by MX names its destinations.
fn domains_of(envelope: &Envelope) -> Vec<(u16, Arc<str>)> {
    let numbered = (0_u16..).zip(&envelope.recipients);
    numbered.map(|(number, to)| (number, to.address.domain().to_string().to_lowercase().into())).collect()
}

fn asks_success(envelope: Option<&Envelope>, number: u16) -> bool {
    let to = envelope.and_then(|envelope| envelope.recipients.get(usize::from(number)));
    to.is_some_and(|to| to.notify.is_some_and(|notify| notify.success))
}

/// Seconds since 1970 as RFC 3339 has them.
fn time(unix: u64) -> Timestamp {
    Timestamp::from_second(i64::try_from(unix).unwrap_or_default()).unwrap_or_default()
}
