//! The verbs on the spool itself, while no server runs.
//!
//! The spool's lock is held, so no server can start meanwhile. A hold, a release and a drop are done at once. `try` sets the
//! time of the file to now, so the next server begins with it. `return` needs a report, which only a server makes: a record
//! `return` is appended, durably, and a server that finds it at its start
//! ([`is_to_be_returned`](crate::queue::spool::QueuedMessage::is_to_be_returned)) sends the message back, wherever its file
//! is. A hold or a release that comes later takes it back.

use std::cell::RefCell;
use std::collections::HashMap;

use super::{Desk, now};
use crate::config::outgoing::Outgoing;
use crate::mail::durable::Faults;
use crate::queue::QueueId;
use crate::queue::schedule::{Answer, HeldWhy, MessageState, RouteState, Verb};
use crate::queue::spool::{Envelope, Found, Happened, Record, Spool, SpoolError};

/// A spool that no server has.
#[derive(Debug)]
pub struct Offline<'a> {
    outgoing: &'a Outgoing,
    spool: Spool,
    found: Vec<Found>,
    failures: RefCell<HashMap<QueueId, String>>,
}

impl<'a> Offline<'a> {
    /// Takes the lock of the spool; nothing where there is no spool yet. While another process has it, the error is
    /// [`SpoolError::Locked`].
    pub fn open(outgoing: &'a Outgoing) -> Result<Option<Self>, SpoolError> {
        if !outgoing.spool.join("queue").try_exists()? {
            return Ok(None);
        }
        let (spool, found, _) = Spool::open(&outgoing.spool, Faults::default())?;
        Ok(Some(Self { outgoing, spool, found, failures: RefCell::default() }))
    }

    /// Makes durable what was done, and ends.
    pub fn finish(self) -> Result<(), SpoolError> {
        self.spool.sweep()
    }

    fn do_one(&self, verb: Verb, id: QueueId) -> Result<Answer, SpoolError> {
        let place = self.spool.find(id)?;
        let message = match self.spool.read(id) {
            Err(SpoolError::Damaged(_)) => return Ok(Answer::Unknown),
            message => message?,
        };
        let is_held = message.held_at(place.held).is_some();
        let record = |what| Record { time: now(), what };
        match verb {
            Verb::Try | Verb::Hold if is_held => return Ok(Answer::Nothing),
            Verb::Release if !is_held => return Ok(Answer::Nothing),
            Verb::Drop => self.spool.remove(id)?,
            Verb::Hold => self.spool.hold(id, Some(&record(Happened::Hold(HeldWhy::Operator.word().to_owned()))))?,
            Verb::Release => {
                self.spool.release(id, &record(Happened::Release))?;
                self.spool.set_due(id, now())?;
            }
            Verb::Return if message.is_to_be_returned() => {}
            Verb::Return => {
                self.spool.append_durably(id, &record(Happened::Return))?;
                self.spool.set_due(id, now())?;
            }
            Verb::Try => self.spool.set_due(id, now())?,
        }
        Ok(if matches!(verb, Verb::Return | Verb::Try) { Answer::Later } else { Answer::Done })
    }
}

impl Desk for Offline<'_> {
    fn spool(&self) -> &Spool {
        &self.spool
    }

    fn ids(&self) -> Vec<QueueId> {
        self.found.iter().map(|file| file.id).filter(|id| self.spool.find(*id).is_ok()).collect()
    }

    fn message(&self, _id: QueueId) -> Option<MessageState> {
        None
    }

    fn routes(&self) -> Vec<RouteState> {
        Vec::new()
    }

    fn route_of(&self, envelope: &Envelope, recipient: usize) -> String {
        self.outgoing.hop(&envelope.reverse_path, &envelope.recipients[recipient].address).to_string()
    }

    fn apply(&self, verb: Verb, ids: &[QueueId]) -> Vec<Answer> {
        let one = |id: &QueueId| {
            self.do_one(verb, *id).unwrap_or_else(|error| {
                if !matches!(error, SpoolError::Missing(_)) {
                    self.failures.borrow_mut().insert(*id, error.to_string());
                }
                Answer::Unknown
            })
        };
        ids.iter().map(one).collect()
    }

    fn try_route(&self, _name: &str) -> bool {
        false
    }

    fn give_up(&self) -> u64 {
        self.outgoing.give_up.as_secs()
    }

    fn is_running(&self) -> bool {
        false
    }

    fn failure(&self, id: QueueId) -> Option<String> {
        self.failures.borrow().get(&id).cloned()
    }
}
