//! From a message in the spool to what the schedule is told of it.

use std::io;
use std::sync::Arc;
use std::thread;

use super::{FoundMessage, Input, Queue};
use crate::queue::QueueId;
use crate::queue::schedule::{Destination, HeldWhy, MessageState, Part, PartState, Queued};
use crate::queue::spool::{Envelope, Found, Happened, QueuedMessage, SpoolError, State, arrived};

/// Where a recipient of an envelope is sent; none if that is refused by now.
pub type Routing = dyn Fn(&Envelope, usize) -> Option<Destination> + Send + Sync;

/// What a message is to the schedule, and what else is to be done about it.
pub struct Scanned {
    /// For the schedule; none if no recipient waits.
    pub queued: Option<Queued>,
    /// Recipients that failed and whose sender has not been told.
    pub unreported: Vec<u16>,
    /// Recipients that may have arrived, with the next hop.
    pub in_doubt: Vec<(u16, String)>,
    /// Recipients that no route takes any more.
    pub refused: Vec<u16>,
    /// It is to be held from now on.
    pub hold: Option<HeldWhy>,
    /// An operator wanted it back while no server ran.
    pub returned: bool,
}

/// A message that was accepted just now. The routes may have changed since its recipients were: one of them may have none.
pub fn accepted(id: QueueId, envelope: &Envelope, routing: &Routing) -> Scanned {
    let waiting = (0..envelope.recipients.len()).map(|number| (number, 0, 0));
    let (parts, refused) = parts(envelope, waiting, routing);
    let queued = Queued {
        id,
        login: envelope.login.as_str().into(),
        since: arrived(id),
        scanned: false,
        asks_delay: asks_delay(envelope),
        warned: false,
        held: None,
        parts,
    };
    let (unreported, in_doubt, hold, returned) = (Vec::new(), Vec::new(), None, false);
    Scanned { queued: (!queued.parts.is_empty()).then_some(queued), unreported, in_doubt, refused, hold, returned }
}

/// A message that was found at the start. `hold_unanswered` where what may have arrived is not sent again.
pub fn scanned(found: Found, message: &QueuedMessage, routing: &Routing, hold_unanswered: bool) -> Scanned {
    let states = message.states();
    let numbered = || states.iter().enumerate();
    let number = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let unreported = numbered().filter(|(_, state)| matches!(state, State::Failed { reported: false, .. }));
    let in_doubt: Vec<(u16, String)> = numbered()
        .filter(|(_, state)| matches!(state, State::MayHaveArrived { .. }))
        .map(|(at, _)| (number(at), last_host(message, number(at))))
        .collect();
    let waiting = numbered().filter_map(|(at, state)| match state {
        State::MayHaveArrived { waits } => Some((at, *waits, 0)),
        State::Waits { waits, .. } => Some((at, *waits, found.due)),
        State::Failed { .. } | State::Sent { .. } => None,
    });
    let (parts, refused) = parts(&message.envelope, waiting, routing);
    let (returned, word) = (message.is_to_be_returned(), message.held_at(found.held));
    let hold = match returned || word.is_some() {
        true => None,
        false if message.ends_the_process() => Some(HeldWhy::NoResult),
        false => (hold_unanswered && !in_doubt.is_empty()).then_some(HeldWhy::MayHaveArrived),
    };
    let held = match word {
        Some(word) => Some(HeldWhy::from_word(word).unwrap_or(HeldWhy::NoResult)),
        // What goes back to its sender is not sent first.
        None if returned => Some(HeldWhy::Operator),
        None => hold,
    };
    let queued = Queued {
        id: found.id,
        login: message.envelope.login.as_str().into(),
        since: message.released().unwrap_or_else(|| arrived(found.id)),
        scanned: true,
        asks_delay: asks_delay(&message.envelope),
        warned: message.warned(),
        held,
        parts,
    };
    Scanned {
        unreported: unreported.map(|(at, _)| number(at)).collect(),
        refused,
        hold,
        in_doubt: if word.is_some() { Vec::new() } else { in_doubt },
        returned,
        queued: (!queued.parts.is_empty()).then_some(queued),
    }
}

/// Reads the files of the start, those that are due first, so that listening does not wait for them.
pub(super) fn read_in_background(queue: &Arc<Queue>, mut found: Vec<Found>, hold_unanswered: bool) -> io::Result<()> {
    let queue = Arc::clone(queue);
    let run = move || {
        // When each is due. What cannot be found is told when it is read.
        for file in &mut found {
            *file = queue.spool.find(file.id).unwrap_or(*file);
        }
        found.sort_by_key(|file| (file.held, file.due, file.id));
        for file in found {
            let routing = queue.routing();
            let scanned = match queue.spool.read(file.id) {
                Ok(message) => Ok(scanned(file, &message, &*routing, hold_unanswered)),
                // Settled meanwhile.
                Err(SpoolError::Missing(_)) => continue,
                Err(error) => Err(error.to_string()),
            };
            let _ = queue.inputs.send(Input::Found(Box::new(FoundMessage { id: file.id, scanned, routing })));
        }
    };
    thread::Builder::new().name("spool-reader".into()).spawn(run).map(drop)
}

/// Reads what waits, and tells the dispatcher of each message of which a recipient takes another route now.
pub(super) fn reroute_in_background(queue: &Arc<Queue>) -> io::Result<()> {
    let queue = Arc::clone(queue);
    let run = move || {
        let routing = queue.routing();
        let ids = queue.schedule().ids();
        for id in ids {
            let Some(state) = queue.schedule().message(id) else { continue };
            let Ok(message) = queue.spool.read(id) else { continue };
            let differs = |part: &PartState| {
                part.recipients.iter().any(|at| routing(&message.envelope, usize::from(*at)).as_ref() != Some(&part.destination))
            };
            if state.parts.iter().any(differs) {
                let _ = queue.inputs.send(Input::Rerouted(id));
            }
        }
    };
    thread::Builder::new().name("spool-reader".into()).spawn(run).map(drop)
}

/// The same message by the routes of now: with what its file tells, for the recipients that wait by the schedule. None if
/// nothing is to be done.
pub(super) fn rerouted(mut scanned: Scanned, state: MessageState) -> Option<Scanned> {
    let waits = |number: &u16| state.parts.iter().any(|part| part.recipients.contains(number));
    // What may have arrived is decided where that happened; of the rest the schedule knows more than the file does.
    if !scanned.in_doubt.is_empty() {
        return None;
    }
    (scanned.hold, scanned.returned) = (None, false);
    scanned.unreported.clear();
    scanned.refused.retain(waits);
    if let Some(queued) = &mut scanned.queued {
        queued.parts.iter_mut().for_each(|part| part.recipients.retain(waits));
        queued.parts.retain(|part| !part.recipients.is_empty());
        (queued.since, queued.warned, queued.held) = (state.since, state.warned, state.held);
    }
    scanned.queued = scanned.queued.filter(|queued| !queued.parts.is_empty());
    (scanned.queued.is_some() || !scanned.refused.is_empty()).then_some(scanned)
}

/// Recipients with their waits and due times, by destination; and those that no route takes.
fn parts(envelope: &Envelope, waiting: impl Iterator<Item = (usize, u8, u64)>, routing: &Routing) -> (Vec<Part>, Vec<u16>) {
    let (mut parts, mut refused): (Vec<Part>, Vec<u16>) = (Vec::new(), Vec::new());
    for (at, waits, due) in waiting {
        let number = u16::try_from(at).unwrap_or(u16::MAX);
        let Some(destination) = routing(envelope, at) else {
            refused.push(number);
            continue;
        };
        match parts.iter_mut().find(|part| part.destination == destination && part.waits == waits && part.due == due) {
            Some(part) => part.recipients.push(number),
            None => parts.push(Part { destination, recipients: vec![number], waits, due }),
        }
    }
    (parts, refused)
}

fn asks_delay(envelope: &Envelope) -> bool {
    envelope.recipients.iter().any(|to| to.notify.is_some_and(|notify| notify.delay))
}

fn last_host(message: &QueuedMessage, number: u16) -> String {
    let host = message.log.iter().rev().find_map(|record| match &record.what {
        Happened::Begin { recipients, host, .. } if recipients.contains(&number) => Some(host.clone()),
        _ => None,
    });
    host.unwrap_or_default()
}
