//! The rows of `--json`, which the listings for people are made of as well.

use jiff::Timestamp;

use super::view::{View, Waits};
use crate::queue::listing::{MessageRow, RecipientRow, RouteRow, VERSION};
use crate::queue::schedule::{RouteState, Trouble, WaitsFor};
use crate::queue::spool::{State, Told};
use crate::smtp::address::ReversePath;

impl View<'_> {
    /// The row of the message. Of a file that is damaged there is little to tell.
    pub(super) fn row(&self) -> MessageRow {
        let row = MessageRow {
            v: VERSION,
            id: self.id.to_string(),
            arrived: rfc3339(self.arrived()),
            size: self.found.octets,
            held: self.held(),
            maybe_twice: self.may_have_arrived(),
            ..MessageRow::default()
        };
        let Ok(file) = &self.file else { return row };
        let envelope = &file.message.envelope;
        let recipients = 0..envelope.recipients.len();
        MessageRow {
            size: file.message.text.octets,
            login: envelope.login.clone(),
            from: match &envelope.reverse_path {
                ReversePath::Mailbox(address) => Some(address.to_string()),
                ReversePath::Null => None,
            },
            next: recipients.clone().filter_map(|number| self.next(number)).min().map(rfc3339).unwrap_or_default(),
            to: recipients.map(|number| self.recipient(number)).collect(),
            ..row
        }
    }

    fn recipient(&self, number: usize) -> RecipientRow {
        let mut row = RecipientRow { route: self.route(number), ..RecipientRow::default() };
        let Ok(file) = &self.file else { return row };
        let waits = self.waits(number);
        row.address = file.message.envelope.recipients[number].address.to_string();
        row.state = match (&file.states[number], waits) {
            (State::Failed { .. }, _) => "failed",
            (State::Sent { .. }, _) => "sent",
            (_, Waits::Return) => "returned",
            (State::MayHaveArrived { .. } | State::Waits { .. }, _) => "waits",
        }
        .to_owned();
        let (attempts, last) = file.attempts(number);
        (row.attempts, row.last) = (attempts, last.map(rfc3339));
        match (present(waits), file.told(number), &file.states[number]) {
            // What it waits for now counts for more than what was said last.
            (Some(text), ..) => row.text = Some(text),
            (None, Some(told), _) => {
                row.code = told.code;
                row.status = told.status.map(|(class, subject, detail)| format!("{class}.{subject}.{detail}"));
                row.text = Some(told.text.clone());
            }
            (None, None, State::MayHaveArrived { .. }) => row.text = Some(Trouble::Unanswered.words().to_owned()),
            (None, None, _) => {}
        }
        row
    }
}

/// What keeps a recipient waiting, where that is nothing that was said to it.
fn present(waits: Waits) -> Option<String> {
    match waits {
        Waits::Return => Some("returned when the server starts".to_owned()),
        Waits::Live(WaitsFor::Connection(_)) => Some(Trouble::ServerFull.words().to_owned()),
        Waits::Live(WaitsFor::Decision) => Some("refused; held back until the route takes or refuses another message".to_owned()),
        Waits::Live(WaitsFor::Pair(_)) => Some("the connection was cut; the route is looked at first".to_owned()),
        Waits::Live(WaitsFor::Result) => Some("is being sent".to_owned()),
        Waits::Live(WaitsFor::Route { reason, .. }) => Some(format!("route rests: {}", reason.word())),
        Waits::Held | Waits::Offline(_) | Waits::Settled => None,
        Waits::Live(WaitsFor::ItsTurn | WaitsFor::Person | WaitsFor::Time(_)) => None,
    }
}

/// The row of a route.
pub(super) fn route(state: &RouteState) -> RouteRow {
    RouteRow {
        v: VERSION,
        name: state.destination.name.to_string(),
        state: if state.rest.is_some() { "resting" } else { "well" }.to_owned(),
        why: state.rest.map(|rest| rest.reason.word().to_owned()),
        since: state.rest.map(|rest| rfc3339(rest.since)),
        next: state.rest.map(|rest| rfc3339(rest.next)),
        waiting: u64::from(state.pairs),
    }
}

/// A reply in one line.
pub(super) fn said(told: &Told) -> String {
    let code = told.code.map(|code| code.to_string());
    let status = told.status.map(|(class, subject, detail)| format!("{class}.{subject}.{detail}"));
    let words: Vec<String> = code.into_iter().chain(status).chain([told.text.clone()]).filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

pub(super) fn rfc3339(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.unwrap_or(Timestamp::MAX).to_string()
}
