//! One message as an operator sees it: its file, and what the running server knows besides.

use super::Desk;
use crate::queue::QueueId;
use crate::queue::schedule::{MessageState, PartState, WaitsFor};
use crate::queue::spool::{DOWNGRADED, Damaged, Envelope, Found, Happened, QueuedMessage, SpoolError, State, Told, arrived};
use crate::queue::work::Attempt;

/// A message at a moment.
pub(super) struct View<'a> {
    pub(super) desk: &'a dyn Desk,
    pub(super) id: QueueId,
    /// Seconds since 1970.
    pub(super) now: u64,
    pub(super) found: Found,
    pub(super) file: Result<File, String>,
}

/// What the file tells.
pub(super) struct File {
    pub(super) message: QueuedMessage,
    pub(super) states: Vec<State>,
    live: Option<MessageState>,
    doubts: Vec<u16>,
}

impl File {
    /// True if the last connection for a recipient had no TLS, though its domain had it before.
    pub(super) fn is_downgraded(&self, number: usize) -> bool {
        let of = |happened: &Happened| match happened {
            Happened::Begin { recipients, tls, .. } if recipients.iter().any(|known| usize::from(*known) == number) => {
                Some(tls.as_deref() == Some(DOWNGRADED))
            }
            _ => None,
        };
        self.message.log.iter().rev().find_map(|record| of(&record.what)).unwrap_or(false)
    }
}

/// What a recipient waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// Held.
    Held,
    /// Something that a running server knows of.
    Live(WaitsFor),
    /// The time of the file, in seconds since 1970; no server runs.
    Offline(u64),
    /// A server that sends it back.
    Return,
    /// Nothing: it is settled.
    Settled,
}

/// Why it is held where the word for it is not known.
pub(super) const DAMAGED: &str = "damaged";

impl<'a> View<'a> {
    /// A message, damaged or not; nothing if it is gone.
    pub(super) fn of(desk: &'a dyn Desk, id: QueueId, now: u64) -> Option<Self> {
        let found = desk.spool().find(id).ok()?;
        let file = match desk.spool().read(id) {
            Ok(message) => Ok(File::of(message, desk.message(id))),
            Err(SpoolError::Missing(_)) => return None,
            Err(SpoolError::Damaged(Damaged(why))) => Err(why),
            Err(error) => Err(error.to_string()),
        };
        Some(Self { desk, id, now, found, file })
    }

    /// Seconds since 1970 of its arrival.
    pub(super) fn arrived(&self) -> u64 {
        arrived(self.id)
    }

    /// The word for why it is held, if it is.
    pub(super) fn held(&self) -> Option<String> {
        let Ok(file) = &self.file else { return Some(DAMAGED.to_owned()) };
        if let Some(live) = &file.live {
            return live.held.map(|why| why.word().to_owned());
        }
        file.message.held_at(self.found.held).map(str::to_owned)
    }

    pub(super) fn waits(&self, recipient: usize) -> Waits {
        let Ok(file) = &self.file else { return Waits::Held };
        match &file.states[recipient] {
            State::Failed { .. } | State::Sent { .. } => return Waits::Settled,
            State::MayHaveArrived { .. } | State::Waits { .. } => {}
        }
        if file.live.is_some() {
            return match file.part(recipient).map(|part| part.waits_for) {
                Some(WaitsFor::Person) => Waits::Held,
                Some(waits) => Waits::Live(waits),
                // Settled since the file was read.
                None => Waits::Settled,
            };
        }
        match (file.message.is_to_be_returned(), self.held()) {
            (true, _) => Waits::Return,
            (false, Some(_)) => Waits::Held,
            // Accepted a moment ago, or read at the start in a moment.
            (false, None) if self.desk.is_running() => Waits::Live(WaitsFor::ItsTurn),
            (false, None) => Waits::Offline(self.found.due.max(self.now)),
        }
    }

    /// Seconds since 1970 of the next attempt for a recipient, where there is to be one and its time is known.
    pub(super) fn next(&self, recipient: usize) -> Option<u64> {
        let time = match self.waits(recipient) {
            Waits::Held | Waits::Settled => return None,
            Waits::Return => self.now,
            Waits::Offline(due) => due,
            Waits::Live(
                WaitsFor::Connection(time)
                | WaitsFor::Time(time)
                | WaitsFor::Pair(Some(time))
                | WaitsFor::Route { next: time, .. },
            ) => time,
            Waits::Live(WaitsFor::ItsTurn | WaitsFor::Result) => self.now,
            Waits::Live(WaitsFor::Decision | WaitsFor::Pair(None) | WaitsFor::Person) => return None,
        };
        Some(time.max(self.now))
    }

    /// What failed last with the destination of a recipient, while it rests.
    pub(super) fn last_failure(&self, recipient: usize) -> Option<Attempt> {
        let part = self.file.as_ref().ok()?.part(recipient)?;
        self.desk.last_failure(&part.destination)
    }

    /// The time when it goes back to its sender, if it could not be sent before.
    pub(super) fn over(&self) -> Option<u64> {
        let file = self.file.as_ref().ok()?;
        let since = file.live.as_ref().map(|live| live.since).or(file.message.released()).unwrap_or(self.arrived());
        Some(since.saturating_add(self.desk.give_up()))
    }

    pub(super) fn envelope(&self) -> Option<&Envelope> {
        self.file.as_ref().ok().map(|file| &file.message.envelope)
    }

    pub(super) fn route(&self, recipient: usize) -> String {
        self.envelope().map_or(String::new(), |envelope| self.desk.route_of(envelope, recipient))
    }

    /// True if verbs wait for the end of an attempt.
    pub(super) fn verbs_wait(&self) -> bool {
        self.file.as_ref().is_ok_and(|file| file.live.as_ref().is_some_and(|live| live.verbs_wait))
    }

    /// True if it may have arrived at a next hop that gave no reply.
    pub(super) fn may_have_arrived(&self) -> bool {
        self.file.as_ref().is_ok_and(|file| !file.doubts.is_empty())
    }
}

impl File {
    fn of(message: QueuedMessage, live: Option<MessageState>) -> Self {
        let is_being_sent = live.as_ref().is_some_and(|live| live.parts.iter().any(|part| part.waits_for == WaitsFor::Result));
        Self { states: message.states(), doubts: message.doubts(is_being_sent), message, live }
    }

    /// What the running server has of a recipient that is not settled.
    fn part(&self, recipient: usize) -> Option<&PartState> {
        let number = u16::try_from(recipient).ok()?;
        self.live.as_ref()?.parts.iter().find(|part| part.recipients.contains(&number))
    }

    /// How often it was tried for a recipient, and when that was last.
    pub(super) fn attempts(&self, recipient: usize) -> (u32, Option<u64>) {
        let mine = |numbers: &[u16]| numbers.iter().any(|number| usize::from(*number) == recipient);
        let (mut attempts, mut last) = (0, None);
        for record in &self.message.log {
            match &record.what {
                Happened::Begin { recipients, .. } if mine(recipients) => {
                    attempts += 1;
                    last = Some(record.time);
                }
                Happened::Result { recipients, .. } if mine(recipients) => last = Some(record.time),
                _ => {}
            }
        }
        (attempts, last)
    }

    pub(super) fn told(&self, recipient: usize) -> Option<&Told> {
        match &self.states[recipient] {
            State::Failed { told, .. } | State::Sent { told, .. } => Some(told),
            State::Waits { told, .. } => told.as_ref(),
            State::MayHaveArrived { .. } => None,
        }
    }
}
