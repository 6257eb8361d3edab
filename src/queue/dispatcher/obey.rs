//! What the dispatcher does about reports, files of the start and the schedule's actions.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::{FoundMessage, Thread, arrival, clock, lock};
use crate::journal;
use crate::journal::queue::Transfer;
use crate::queue::QueueId;
use crate::queue::clerk::{Deed, Failed, grouped, last_of, nothing_said, record};
use crate::queue::explain::Cause;
use crate::queue::reporter::RouteNews;
use crate::queue::schedule::{Action, Destination, HeldWhy, Outcome, Reason, Trouble, Verb, WaitsFor};
use crate::queue::spool::{Envelope, Happened, Verdict, arrived};
use crate::queue::work::{Attempt, Report, Task};

impl Thread {
    /// A courier has finished.
    pub(super) fn reported(&mut self, report: Report) {
        match report {
            Report::Closed(courier) => self.queue.schedule().closed(courier),
            Report::Probed { courier, destination, result } => {
                self.busy.remove(&courier);
                let result = result.map_err(|attempt| {
                    let trouble = attempt.trouble();
                    (trouble, attempt)
                });
                let (result, failed) = match result {
                    Err((Some(trouble), attempt)) => (Err(trouble), Some(attempt)),
                    _ => (Ok(()), None),
                };
                self.queue.schedule().probed(courier, result, clock());
                self.remember(Some(destination), failed);
            }
            Report::Sent { id, finished, mut attempts, begun, envelope, damaged } => {
                attempts.retain(|(_, attempt)| attempt.trouble().is_none_or(|(_, trouble)| !trouble.is_untried()));
                self.envelopes.extend(envelope.map(|envelope| (id, envelope)));
                // What may have arrived is not over before a person or another attempt says so.
                let in_doubt = |number: &u16| attempts.iter().any(|(known, attempt)| known == number && is_unanswered(attempt));
                self.begun.extend(begun.into_iter().filter(|number| !in_doubt(number)).map(|number| (id, number)));
                self.busy.remove(&finished.courier);
                let destination = self.queue.schedule().works_for(finished.courier);
                let failed = attempts.iter().find(|(_, attempt)| attempt.outcome != Outcome::Sent);
                let failed = failed.map(|(_, attempt)| attempt.clone());
                self.attempts.extend(attempts.into_iter().map(|(number, attempt)| ((id, number), attempt)));
                self.queue.schedule().finished(&finished, clock());
                self.remember(destination, failed);
                if let Some(why) = damaged {
                    self.damaged(id, &why);
                }
            }
        }
    }

    /// What failed with a destination; what had no result says nothing of it.
    fn remember(&self, destination: Option<Destination>, failed: Option<Attempt>) {
        let told = |attempt: &Attempt| attempt.trouble().is_some_and(|(_, trouble)| !trouble.is_without_result());
        if let Some((destination, attempt)) = destination.zip(failed.filter(told)) {
            let schedule = self.queue.schedule();
            lock(&self.queue.troubles).keep(destination, attempt, &schedule);
        }
    }

    /// A file that is no queued message: to `held/`, and named.
    fn damaged(&mut self, id: QueueId, why: &str) {
        journal::notice("spool", format!("{id}: {why}; the file is in held/"));
        self.queue.schedule().forget(id);
        if let Err(error) = self.queue.spool.hold(id, None) {
            journal::notice("spool", error);
        }
    }

    /// A file of the start was read.
    pub(super) fn found(&mut self, FoundMessage { id, scanned }: FoundMessage) {
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(why) => return self.damaged(id, &why),
        };
        for (number, host) in &scanned.in_doubt {
            journal::queue::maybe_twice(&id.to_string(), &self.address(id, *number), host);
        }
        if !scanned.unreported.is_empty() || !scanned.refused.is_empty() {
            self.settle_of_the_start(id, &scanned.unreported, &scanned.refused);
        }
        match &scanned.queued {
            Some(queued) => {
                if let Some(why) = scanned.hold {
                    self.deed(id, Deed::Hold(id, why.word()));
                }
                self.queue.schedule().accepted(queued, clock());
                if scanned.returned {
                    self.queue.schedule().operator(Verb::Return, &[id], clock());
                }
            }
            None => self.deed(id, Deed::Remove(id)),
        }
    }

    /// A message of which a recipient takes another route since the configuration has changed.
    pub(super) fn rerouted(&mut self, id: QueueId) {
        let Some(state) = self.queue.schedule().message(id) else { return };
        let (Ok(found), Ok(message)) = (self.queue.spool.find(id), self.queue.spool.read(id)) else { return };
        let scanned = arrival::scanned(found, &message, &*self.queue.routing(), self.hold_unanswered);
        if let Some(scanned) = arrival::rerouted(scanned, state)
            // One that is being sent keeps its route.
            && self.queue.schedule().forget(id)
        {
            self.found(FoundMessage { id, scanned: Ok(scanned) });
        }
    }

    /// Recipients that are settled, but whose sender does not know it yet.
    fn settle_of_the_start(&mut self, id: QueueId, unreported: &[u16], refused: &[u16]) {
        let Ok(message) = self.queue.spool.read(id) else { return };
        let failed = unreported.iter().map(|number| (*number, last_of(&message, *number, None))).collect::<Vec<_>>();
        if !failed.is_empty() {
            self.deed(id, Deed::Fail { id, recipients: failed, record: false });
        }
        let refused = refused.iter().map(|number| {
            let failed = last_of(&message, *number, Some(Cause::Refused));
            (*number, Failed { told: nothing_said("no route takes mail for this recipient"), ..failed })
        });
        let refused: Vec<(u16, Failed)> = refused.collect();
        if !refused.is_empty() {
            self.deed(id, Deed::Fail { id, recipients: refused, record: true });
        }
    }

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

    fn report_failure(&mut self, id: QueueId) {
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
            Action::LateNotice { login, destination, count, oldest, reason } => {
                let route = self.news(&destination, Some(reason), 0, None);
                let oldest = (oldest, oldest + self.give_up);
                let _ = self.clerk.send(Deed::LateNotice { login: login.to_string(), route, count: count.into(), oldest });
            }
            Action::Probe { courier, destination } => self.task(courier, Task::Probe(destination)),
            Action::Release { id } => self.deed(id, Deed::Release(id)),
            Action::Return { id, recipients } => self.fail(id, &recipients, Some(Cause::Returned), false),
            Action::RouteRests { destination, reason, next } => {
                journal::queue::route(&destination.name, "resting", reason.word(), time(next));
            }
            Action::RouteWell { destination } => {
                lock(&self.queue.troubles).forget(&destination);
                journal::queue::route(&destination.name, "well", "", "");
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
                match reason {
                    Some(reason) => journal::queue::route("mx", "resting", reason.word(), time(next)),
                    None => journal::queue::route("mx", "well", "", ""),
                }
                let news = RouteNews {
                    name: "mx".to_owned(),
                    host: String::new(),
                    cause: reason.map(Cause::Rests),
                    reply: None,
                    since,
                    next: Some(next),
                    tried: domains.iter().map(|domain| self.tried(domain)).collect(),
                };
                let _ = self.clerk.send(Deed::Tell(news, waiting.into()));
            }
            Action::Wait { id, recipients, waits: _, due } => self.wait_for(id, &recipients, due),
        }
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
    fn deed(&mut self, id: QueueId, deed: Deed) {
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
        self.write(id, &attempts, Verdict::Wait);
        if attempts.iter().any(|(_, attempt)| is_unanswered(attempt)) {
            self.log_in_doubt(id, &attempts);
        }
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
        let Ok(message) = self.queue.spool.read(id) else { return };
        let attempts: HashMap<u16, Attempt> = self.attempts_of(id, recipients).into_iter().collect();
        let failed = |number: &u16| match attempts.get(number) {
            Some(attempt) if cause.is_none() => {
                let (told, cause, reply) = (attempt.told(), attempt.cause, attempt.reply.clone());
                (*number, Failed { told, cause, reply, host: attempt.host.clone(), attempted: Some(attempt.time), expired })
            }
            _ => {
                let last = last_of(&message, *number, cause);
                (*number, Failed { expired, ..last })
            }
        };
        let recipients: Vec<(u16, Failed)> = recipients.iter().map(failed).collect();
        for (number, failed) in &recipients {
            let attempt = attempts.get(number);
            let owned = Owned {
                id: id.to_string(),
                to: address(&message.envelope, *number),
                route: self.route_name(&message.envelope, *number),
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
        for (number, attempt) in attempts.iter().filter(|(_, attempt)| is_unanswered(attempt)) {
            journal::queue::maybe_twice(&id.to_string(), &self.address(id, *number), &attempt.host);
        }
    }

    fn attempts_of(&mut self, id: QueueId, recipients: &[u16]) -> Vec<(u16, Attempt)> {
        for number in recipients {
            self.begun.remove(&(id, *number));
        }
        recipients.iter().filter_map(|number| Some((*number, self.attempts.remove(&(id, *number))?))).collect()
    }

    fn next_probe(&self, destination: &Destination) -> Option<u64> {
        let routes = self.queue.routes();
        routes.into_iter().find(|route| route.destination == *destination)?.rest.map(|rest| rest.next)
    }

    fn news(&self, destination: &Destination, reason: Option<Reason>, since: u64, next: Option<u64>) -> RouteNews {
        let trouble = self.queue.last_failure(destination);
        let trouble = trouble.as_ref();
        RouteNews {
            name: destination.name.to_string(),
            host: trouble.map(|attempt| attempt.host.clone()).unwrap_or_default(),
            cause: reason.map(Cause::Rests),
            reply: trouble.and_then(|attempt| attempt.reply.clone()),
            since,
            next,
            tried: Vec::new(),
        }
    }

    /// A domain, with what came of it last.
    fn tried(&self, domain: &str) -> String {
        let last = self.queue.last_failure(&Destination::mx(domain));
        last.map_or_else(|| domain.to_owned(), |last| format!("{domain}: {} ({})", last.told().text, last.host))
    }

    /// From the courier's report, or else from the file.
    fn envelope_of(&mut self, id: QueueId) -> Option<Box<Envelope>> {
        self.envelopes.remove(&id).or_else(|| self.queue.spool.read(id).ok().map(|message| message.envelope.into()))
    }

    fn route_name(&self, envelope: &Envelope, number: u16) -> String {
        let destination = self.queue.route_of(envelope, usize::from(number));
        destination.map(|destination| destination.name.to_string()).unwrap_or_default()
    }

    fn address(&self, id: QueueId, number: u16) -> String {
        self.queue.spool.read(id).map(|message| address(&message.envelope, number)).unwrap_or_default()
    }

    fn transfer(&self, id: QueueId, numbers: &[u16], attempt: &Attempt, envelope: Option<&Envelope>) -> Owned {
        let to: Vec<String> = numbers.iter().filter_map(|number| Some(address(envelope?, *number))).collect();
        let route =
            envelope.zip(numbers.first()).map(|(envelope, number)| self.route_name(envelope, *number)).unwrap_or_default();
        let told = attempt.told();
        Owned {
            id: id.to_string(),
            to: to.join(","),
            route,
            host: attempt.host.clone(),
            tls: attempt.tls.unwrap_or_default(),
            code: told.code.unwrap_or_default(),
            text: told.text,
            millis: attempt.millis,
        }
    }
}

/// A [`Transfer`] that owns its words.
struct Owned {
    id: String,
    to: String,
    route: String,
    host: String,
    tls: &'static str,
    code: u16,
    text: String,
    millis: u64,
}

impl Owned {
    fn view(&self) -> Transfer<'_> {
        let Self { id, to, route, host, tls, code, text, millis } = self;
        Transfer { id, to, route, host, tls, code: *code, text, millis: *millis }
    }
}

/// Recipients with the same result, together.
fn together(attempts: &[(u16, Attempt)]) -> Vec<(Vec<u16>, Attempt)> {
    let mut groups: Vec<(Vec<u16>, Attempt)> = Vec::new();
    for (number, attempt) in attempts {
        match groups.iter_mut().find(|(_, known)| known.told() == attempt.told() && known.host == attempt.host) {
            Some((numbers, _)) => numbers.push(*number),
            None => groups.push((vec![*number], attempt.clone())),
        }
    }
    groups
}

fn address(envelope: &Envelope, number: u16) -> String {
    envelope.recipients.get(usize::from(number)).map(|to| to.address.to_string()).unwrap_or_default()
}

fn asks_success(envelope: Option<&Envelope>, number: u16) -> bool {
    let to = envelope.and_then(|envelope| envelope.recipients.get(usize::from(number)));
    to.is_some_and(|to| to.notify.is_some_and(|notify| notify.success))
}

fn is_unanswered(attempt: &Attempt) -> bool {
    matches!(attempt.outcome, Outcome::Trouble(_, Trouble::Unanswered))
}

/// Seconds since 1970 as RFC 3339 has them.
fn time(unix: u64) -> Timestamp {
    Timestamp::from_second(i64::try_from(unix).unwrap_or_default()).unwrap_or_default()
}
