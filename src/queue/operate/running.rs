//! The verbs with a running server: its schedule knows what a message waits for, its dispatcher does what is asked for.

use super::Desk;
use crate::queue::QueueId;
use crate::queue::dispatcher::Queue;
use crate::queue::schedule::{Answer, Destination, Kind, MessageState, RouteState, Verb};
use crate::queue::spool::{Envelope, Spool};
use crate::queue::work::Attempt;

impl Desk for Queue {
    fn spool(&self) -> &Spool {
        Queue::spool(self)
    }

    fn ids(&self) -> Vec<QueueId> {
        self.schedule().ids()
    }

    fn message(&self, id: QueueId) -> Option<MessageState> {
        self.schedule().message(id)
    }

    fn routes(&self) -> Vec<RouteState> {
        Queue::routes(self)
    }

    fn last_failure(&self, destination: &Destination) -> Option<Attempt> {
        Queue::last_failure(self, destination)
    }

    fn route_of(&self, envelope: &Envelope, recipient: usize) -> String {
        match Queue::route_of(self, envelope, recipient) {
            Some(destination) if destination.kind == Kind::Mx => "mx".to_owned(),
            Some(destination) => destination.name.to_string(),
            None => "refuse".to_owned(),
        }
    }

    fn apply(&self, verb: Verb, ids: &[QueueId]) -> Vec<Answer> {
        self.operate(verb, ids)
    }

    fn try_route(&self, name: &str) -> bool {
        Queue::try_route(self, name)
    }

    fn give_up(&self) -> u64 {
        self.schedule().settings().give_up
    }
}
