//! What is said of a message and of a route: the lines of the log, and the letters to the postmaster and to logins.

use super::Thread;
use crate::journal::queue::Transfer;
use crate::queue::QueueId;
use crate::queue::explain::Cause;
use crate::queue::reporter::RouteNews;
use crate::queue::schedule::{Destination, Reason};
use crate::queue::spool::Envelope;
use crate::queue::work::Attempt;

impl Thread {
    pub(super) fn next_probe(&self, destination: &Destination) -> Option<u64> {
        let routes = self.queue.routes();
        routes.into_iter().find(|route| route.destination == *destination)?.rest.map(|rest| rest.next)
    }

    pub(super) fn news(&self, destination: &Destination, reason: Option<Reason>, since: u64, next: Option<u64>) -> RouteNews {
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
    pub(super) fn tried(&self, domain: &str) -> String {
        let last = self.queue.last_failure(&Destination::mx(domain));
        last.map_or_else(|| domain.to_owned(), |last| format!("{domain}: {} ({})", last.told().text, last.host))
    }

    /// From the courier's report, or else from the file.
    pub(super) fn envelope_of(&mut self, id: QueueId) -> Option<Box<Envelope>> {
        self.envelopes.remove(&id).or_else(|| self.queue.spool.read(id).ok().map(|message| message.envelope.into()))
    }

    pub(super) fn route_name(&self, envelope: &Envelope, number: u16) -> String {
        let destination = self.queue.route_of(envelope, usize::from(number));
        destination.map(|destination| destination.name.to_string()).unwrap_or_default()
    }

    pub(super) fn address(&self, id: QueueId, number: u16) -> String {
        self.queue.spool.read(id).map(|message| address(&message.envelope, number)).unwrap_or_default()
    }

    pub(super) fn transfer(&self, id: QueueId, numbers: &[u16], attempt: &Attempt, envelope: Option<&Envelope>) -> Owned {
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
pub(super) struct Owned {
    pub(super) id: String,
    pub(super) to: String,
    pub(super) route: String,
    pub(super) host: String,
    pub(super) tls: &'static str,
    pub(super) code: u16,
    pub(super) text: String,
    pub(super) millis: u64,
}

impl Owned {
    pub(super) fn view(&self) -> Transfer<'_> {
        let Self { id, to, route, host, tls, code, text, millis } = self;
        Transfer { id, to, route, host, tls, code: *code, text, millis: *millis }
    }
}

/// Recipients with the same result, together.
pub(super) fn together(attempts: &[(u16, Attempt)]) -> Vec<(Vec<u16>, Attempt)> {
    let mut groups: Vec<(Vec<u16>, Attempt)> = Vec::new();
    for (number, attempt) in attempts {
        match groups.iter_mut().find(|(_, known)| known.told() == attempt.told() && known.host == attempt.host) {
            Some((numbers, _)) => numbers.push(*number),
            None => groups.push((vec![*number], attempt.clone())),
        }
    }
    groups
}

pub(super) fn address(envelope: &Envelope, number: u16) -> String {
    envelope.recipients.get(usize::from(number)).map(|to| to.address.to_string()).unwrap_or_default()
}
