use std::cell::RefCell;
use std::sync::Arc;

use super::*;
use crate::queue::schedule::{Destination, HeldWhy, MessageState, PartState, Reason, RestState, RouteState, WaitsFor};

/// A running server, with what it answers.
pub(super) struct Running {
    pub(super) spool: Arc<Spool>,
    pub(super) ids: Vec<QueueId>,
    pub(super) waits: Option<WaitsFor>,
    pub(super) held: Option<HeldWhy>,
    pub(super) answers: Vec<schedule::Answer>,
    pub(super) failed: Option<Attempt>,
    pub(super) asked: RefCell<Vec<(Verb, Vec<QueueId>)>>,
}

impl Desk for Running {
    fn spool(&self) -> &Spool {
        &self.spool
    }

    fn ids(&self) -> Vec<QueueId> {
        self.ids.clone()
    }

    fn message(&self, id: QueueId) -> Option<MessageState> {
        let waits_for = self.waits.filter(|_| self.ids.contains(&id))?;
        let part = PartState { destination: Destination::smarthost("next"), recipients: vec![0, 1], waits: 0, waits_for };
        Some(MessageState {
            id,
            login: "alice@example.org".into(),
            since: 1_700_000_000,
            warned: false,
            held: self.held,
            verbs_wait: false,
            parts: vec![part],
        })
    }

    fn routes(&self) -> Vec<RouteState> {
        let rest = RestState { reason: Reason::Certificate, since: 1_700_000_000, next: 1_700_000_600 };
        let route =
            |name, rest| RouteState { destination: Destination::smarthost(name), rest, pairs: 3, at_work: 0, connections: 4 };
        vec![route("next", Some(rest)), route("other", None)]
    }

    fn last_failure(&self, destination: &Destination) -> Option<Attempt> {
        self.failed.clone().filter(|_| *destination == Destination::smarthost("next"))
    }

    fn route_of(&self, envelope: &Envelope, recipient: usize) -> String {
        let address = envelope.recipients[recipient].address.to_string();
        let known = [(".refused.example", "refuse"), (".direct.example", "mx")];
        known.iter().find(|(end, _)| address.ends_with(end)).map_or("next", |(_, route)| route).to_owned()
    }

    fn apply(&self, verb: Verb, ids: &[QueueId]) -> Vec<schedule::Answer> {
        self.asked.borrow_mut().push((verb, ids.to_vec()));
        ids.iter().enumerate().map(|(at, _)| self.answers.get(at).copied().unwrap_or(schedule::Answer::Done)).collect()
    }

    fn try_route(&self, name: &str) -> bool {
        name == "next"
    }

    fn give_up(&self) -> u64 {
        5 * 86_400
    }
}

impl Running {
    pub(super) fn over(spool: &Arc<Spool>, ids: &[QueueId]) -> Self {
        let spool = Arc::clone(spool);
        let (answers, asked) = (Vec::new(), RefCell::default());
        Self { spool, ids: ids.to_vec(), waits: None, held: None, answers, failed: None, asked }
    }

    pub(super) fn explains(&self, id: QueueId) -> String {
        ask(self, Request::Explain(id.to_string())).0.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
    }
}
