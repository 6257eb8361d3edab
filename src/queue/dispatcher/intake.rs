//! What the dispatcher is told: reports of couriers, files of the start, and messages that take another route.

use std::sync::Arc;

use super::{FoundMessage, Routing, Thread, arrival, clock, lock};
use crate::journal;
use crate::queue::QueueId;
use crate::queue::clerk::{Deed, Failed, last_of, nothing_said};
use crate::queue::explain::Cause;
use crate::queue::schedule::{Destination, Outcome, Settings, Verb, WaitsFor};
use crate::queue::work::{Attempt, Report};

impl Thread {
    /// A courier has finished.
    pub(super) fn reported(&mut self, report: Report) {
        match report {
            Report::Closed(courier) => self.queue.schedule().closed(courier),
            Report::Freed(destination) => self.queue.schedule().freed(&destination, clock()),
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
                let in_doubt = |number: &u16| attempts.iter().any(|(known, attempt)| known == number && attempt.is_unanswered());
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
    pub(super) fn damaged(&mut self, id: QueueId, why: &str) {
        journal::notice("spool", format!("{id}: {why}; the file is in held/"));
        self.queue.schedule().forget(id);
        if let Err(error) = self.queue.spool.hold(id, None) {
            journal::notice("spool", error);
        }
    }

    /// The settings have changed. The routes are changed here and nowhere else, so that what is told before this is in the
    /// schedule when it is looked through, and what is told after it is sorted by the routes of now.
    pub(super) fn configured(&mut self, settings: Settings, routing: Arc<Routing>) {
        (self.give_up, self.hold_unanswered) = (settings.give_up, settings.hold_unanswered);
        self.queue.schedule().configure(settings, clock());
        *lock(&self.queue.routing) = routing;
        if let Err(error) = arrival::reroute_in_background(&self.queue) {
            journal::notice("route", format!("what waits keeps its route until a restart: {error}"));
        }
    }

    /// A message was accepted, or its file was read at the start.
    pub(super) fn found(&mut self, FoundMessage { id, scanned, routing }: FoundMessage) {
        let scanned = match scanned {
            Ok(scanned) => scanned,
            Err(why) => return self.damaged(id, &why),
        };
        // Read before the routes changed, told after it: nothing else would look at it again.
        let scanned = match Arc::ptr_eq(&routing, &self.queue.routing()) {
            true => scanned,
            false => self.scanned_again(id).unwrap_or(scanned),
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
            None => {
                // Of a recipient that failed before, while the others were still to be sent.
                self.report_failure(id);
                self.deed(id, Deed::Remove(id));
            }
        }
    }

    /// A message of which a recipient takes another route since the configuration has changed.
    pub(super) fn rerouted(&mut self, id: QueueId) {
        let Some(state) = self.queue.schedule().message(id) else { return };
        if state.parts.iter().any(|part| part.waits_for == WaitsFor::Result) {
            self.to_reroute.insert(id);
            return;
        }
        let Some(scanned) = self.scanned_again(id).and_then(|scanned| arrival::rerouted(scanned, state)) else { return };
        if self.queue.schedule().forget(id) {
            let routing = self.queue.routing();
            self.found(FoundMessage { id, scanned: Ok(scanned), routing });
        }
    }

    /// Messages whose route changed during an attempt: called when its records are written. False if there are none.
    pub(super) fn reroute_after_attempts(&mut self) -> bool {
        let ids = std::mem::take(&mut self.to_reroute);
        let any = !ids.is_empty();
        ids.into_iter().for_each(|id| self.rerouted(id));
        any
    }

    /// The same message by the routes of now, from its file.
    fn scanned_again(&self, id: QueueId) -> Option<arrival::Scanned> {
        let (found, message) = (self.queue.spool.find(id).ok()?, self.queue.spool.read(id).ok()?);
        Some(arrival::scanned(found, &message, &*self.queue.routing(), self.hold_unanswered))
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
}
