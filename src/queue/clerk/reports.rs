//! The clerk's reports to senders: made, delivered, recorded; and what becomes of those that have no place.

use std::io::Read as _;

use jiff::Zoned;

use super::{Clerk, Deed, Failed, last_of, record};
use crate::journal;
use crate::queue::QueueId;
use crate::queue::letter::Letter;
use crate::queue::report::{self, Kind, Original, Outcome, RETURNED_MAX};
use crate::queue::spool::{Happened, QueuedMessage, SpoolError, State, arrived};
use crate::smtp::address::{Address, ReversePath};

impl Clerk {
    /// One report for all recipients for which one is due; then the record of it.
    pub(super) fn report(
        &mut self,
        id: QueueId,
        message: &QueuedMessage,
        kind: Kind<'_>,
        outcomes: &[(u16, &Failed)],
    ) -> Result<(), SpoolError> {
        let envelope = &message.envelope;
        let mut text = Vec::new();
        self.spool.open_message(id)?.take(RETURNED_MAX as u64).read_to_end(&mut text)?;
        if matches!(kind, Kind::Failure) && is_own_report(message) {
            return self.undeliverable(id, text, outcomes);
        }
        let ReversePath::Mailbox(sender) = &envelope.reverse_path else { return Ok(()) };
        let sender = &self.reporter.mailer.reports_to(&envelope.login, sender);
        let due = |(number, _): &&(u16, &Failed)| {
            let to = envelope.recipients.get(usize::from(*number));
            to.is_some_and(|to| report::is_due(kind, &envelope.reverse_path, to.notify, &text))
        };
        let due: Vec<&(u16, &Failed)> = outcomes.iter().filter(due).collect();
        if due.is_empty() {
            return Ok(());
        }
        let letter = self.letter(id, message, kind, sender, &due, &text);
        let name = id.to_string();
        match self.reporter.deliver(sender, &letter) {
            Ok(place) => journal::queue::reported(&name, place, kind.action()),
            // Of the message itself nothing is decided yet.
            Err(why) if matches!(kind, Kind::Delay(_)) => {
                journal::notice("report", format!("{id}: {why}"));
                return Ok(());
            }
            // It is not forgotten: a person looks at it, and it is tried again.
            Err(why) => return self.hold_unreported(id, &why),
        }
        let recipients = due.iter().map(|(number, _)| *number).collect();
        self.reported(id, recipients, kind.action())
    }

    /// The report for the recipients for which it is due; `text` is the message, or as much of it as goes back.
    fn letter(
        &self,
        id: QueueId,
        message: &QueuedMessage,
        kind: Kind<'_>,
        sender: &Address,
        due: &[&(u16, &Failed)],
        text: &[u8],
    ) -> Letter {
        let envelope = &message.envelope;
        let attempted: Vec<Option<Zoned>> =
            due.iter().map(|(_, failed)| failed.attempted.map(|time| self.reporter.zoned(time))).collect();
        let doubts = message.doubts(false);
        let rows = due.iter().zip(&attempted).filter_map(|((number, failed), attempted)| {
            let to = envelope.recipients.get(usize::from(*number))?;
            Some(Outcome {
                address: &to.address,
                orcpt: to.orcpt.as_ref(),
                cause: failed.cause,
                reply: failed.reply.as_ref(),
                host: (!failed.host.is_empty()).then(|| failed.host.split('[').next().unwrap_or_default()),
                attempted: attempted.as_ref(),
                expired: failed.expired,
                maybe_twice: doubts.contains(number),
            })
        });
        let rows: Vec<Outcome<'_>> = rows.collect();
        let (arrived, name) = (self.reporter.zoned(arrived(id)), id.to_string());
        let whole = message.text.octets <= RETURNED_MAX as u64;
        let original =
            Original { id: &name, sender, arrived: &arrived, ret: envelope.ret, envid: envelope.envid.as_deref(), text, whole };
        self.reporter.with_head(|head| report::build(kind, head, original, &rows))
    }

    /// A report of this server that was sent on and refused: to the postmaster, and never a report of it.
    fn undeliverable(&mut self, id: QueueId, text: Vec<u8>, outcomes: &[(u16, &Failed)]) -> Result<(), SpoolError> {
        let (postmaster, name) = (self.reporter.mailer.postmaster(), id.to_string());
        let letter = Letter { eight_bit: !text.is_ascii(), utf8: false, text };
        let envelope = self.spool.read(id)?.envelope;
        let was_for_it = envelope.recipients.iter().any(|to| to.address == postmaster);
        let delivered = if was_for_it {
            Err("it was for the postmaster".to_owned())
        } else {
            self.reporter.mailer.deliver(&postmaster, &letter)
        };
        match delivered {
            Ok(place) => journal::queue::reported(&name, place, "failed"),
            Err(why) => return self.hold_unreported(id, &format!("cannot be delivered: {why}; it is held")),
        }
        let recipients = outcomes.iter().map(|(number, _)| *number).collect();
        self.reported(id, recipients, "failed")
    }

    /// Records that a report was delivered; later where the disk does not take it, and without another report.
    fn reported(&mut self, id: QueueId, recipients: Vec<u16>, action: &'static str) -> Result<(), SpoolError> {
        let deed = Deed::Reported(id, recipients, action);
        match self.obey(&deed) {
            Err(error @ SpoolError::Storage(_)) => {
                self.complain(Some(id), &error);
                self.undone.push_back(deed);
                Ok(())
            }
            other => other,
        }
    }

    fn hold_unreported(&mut self, id: QueueId, why: &str) -> Result<(), SpoolError> {
        if self.spool.find(id)?.held && self.unreported.contains(&id) {
            return Ok(());
        }
        journal::notice("report", format!("{id}: {why}"));
        self.spool.hold(id, Some(&record(Happened::Hold("no-report".to_owned()))))?;
        self.unreported.insert(id);
        journal::queue::held(&id.to_string(), "no-report");
        Ok(())
    }

    /// Tries reports again that could not be delivered. The log has them already.
    pub(super) fn report_again(&mut self) {
        for id in std::mem::take(&mut self.to_report) {
            // One that is gone, or damaged, is left to the person who looks at it.
            let Ok(recipients) = self.unreported_of(id) else { continue };
            self.unreported.insert(id);
            self.act(Deed::Fail { id, recipients, record: false });
            let is_recorded_later = |deed: &Deed| matches!(deed, Deed::Reported(known, ..) if *known == id);
            if self.undone.iter().any(is_recorded_later) || self.unreported_of(id).is_ok_and(|left| left.is_empty()) {
                self.unreported.remove(&id);
            }
            self.act(Deed::Remove(id));
        }
    }

    /// Recipients that failed and whose sender does not know it.
    fn unreported_of(&self, id: QueueId) -> Result<Vec<(u16, Failed)>, SpoolError> {
        let message = self.spool.read(id)?;
        let states = (0_u16..).zip(message.states());
        let unreported = states.filter(|(_, state)| matches!(state, State::Failed { reported: false, .. }));
        Ok(unreported.map(|(number, _)| (number, last_of(&message, number, None))).collect())
    }
}

/// A report of this server's own: from the null sender, and of no login.
fn is_own_report(message: &QueuedMessage) -> bool {
    message.envelope.reverse_path == ReversePath::Null && message.envelope.login.is_empty()
}
