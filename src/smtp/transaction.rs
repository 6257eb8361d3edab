//! The mail transaction of a [`Session`] (RFC 5321 section 3.3): MAIL, RCPT, DATA or BDAT, and what comes of them.

use std::mem;

use super::command::{Mail, Recipient};
use super::event::{Envelope, Next, Receipt, Step};
use super::reply::{Refusal, Refused, Reply};
use super::session::{Session, State, say};

impl Session {
    pub(super) fn mail(&mut self, mail: Mail) -> Step {
        if mail.size.is_some_and(|size| size > self.config.message_size) {
            return self.no(self.too_large());
        }
        let path = mail.reverse_path.clone();
        self.state = State::Sender(mail);
        Step { answer: None, next: Next::Sender(path) }
    }

    pub(super) fn rcpt(&mut self, recipient: Recipient, utf8: bool) -> Step {
        let (refusal, envelope) = match mem::replace(&mut self.state, State::Idle) {
            State::Mail(envelope) if utf8 && !envelope.utf8 => (Refusal::Utf8, envelope),
            State::Mail(envelope) if envelope.recipients.len() >= self.config.recipients => {
                (Refusal::TooManyRecipients, envelope)
            }
            State::Mail(envelope) => {
                let path = recipient.path.clone();
                self.state = State::Recipient(envelope, recipient);
                return Step { answer: None, next: Next::Recipient(path) };
            }
            state => {
                self.state = state;
                return self.no(Refusal::NoTransaction);
            }
        };
        self.state = State::Mail(envelope);
        self.no(refusal)
    }

    pub(super) fn verdict(&mut self, verdict: Result<(), Refused>) -> Step {
        match (mem::replace(&mut self.state, State::Idle), verdict) {
            (State::Sender(mail), Ok(())) => {
                let Mail { reverse_path, size: _, body, utf8, ret, envid } = mail;
                self.state = State::Mail(Envelope { reverse_path, recipients: Vec::new(), body, utf8, ret, envid });
                say(Reply::ok(250, (2, 1, 0), "Ok"), Next::Line)
            }
            (State::Recipient(mut envelope, recipient), Ok(())) => {
                envelope.recipients.push(recipient);
                self.state = State::Mail(envelope);
                say(Reply::ok(250, (2, 1, 5), "Ok"), Next::Line)
            }
            (State::Recipient(envelope, _), Err(refused)) => {
                self.state = State::Mail(envelope);
                self.no(refused)
            }
            (_, Err(refused)) => self.no(refused),
            (_, Ok(())) => self.no(Refusal::Internal),
        }
    }

    pub(super) fn data(&mut self) -> Step {
        match mem::replace(&mut self.state, State::Idle) {
            State::Mail(envelope) if !envelope.recipients.is_empty() => {
                self.state = State::Content(envelope);
                say(Reply::plain(354, "End data with <CR><LF>.<CR><LF>"), Next::Content)
            }
            state => {
                self.state = state;
                self.no(Refusal::NoRecipients)
            }
        }
    }

    pub(super) fn bdat(&mut self, size: u64, last: bool) -> Step {
        let (envelope, before) = match mem::replace(&mut self.state, State::Idle) {
            State::Mail(envelope) if envelope.recipients.is_empty() => {
                self.state = State::Mail(envelope);
                let mut step = self.no(Refusal::NoRecipients);
                step.next = Next::Skip(size);
                return step;
            }
            State::Mail(envelope) => (envelope, 0),
            State::Chunks(envelope, before) => (envelope, before),
            state => {
                self.state = state;
                return self.no(Refusal::Internal);
            }
        };
        let total = size.saturating_add(before);
        if total > self.config.message_size {
            let mut step = self.no(self.too_large());
            step.next = Next::Skip(size);
            return step;
        }
        self.state = if last { State::Content(envelope) } else { State::Chunks(envelope, total) };
        Step { answer: None, next: Next::Chunk { size, last } }
    }

    pub(super) fn chunk(&mut self, outcome: Result<(), Refused>) -> Step {
        match outcome {
            Ok(()) => say(Reply::ok(250, (2, 0, 0), "Ok"), Next::Line),
            Err(refused) => {
                self.state = State::Idle;
                self.no(refused)
            }
        }
    }

    pub(super) fn stored(&mut self, outcome: Result<Receipt, Refused>) -> Step {
        self.state = State::Idle;
        match outcome {
            Ok(receipt) => {
                (self.junk, self.tried, self.deferrals) = (0, false, 0);
                let text = match receipt {
                    Receipt::Queued(id) => format!("Ok: queued as {id}"),
                    Receipt::Stored(id) => format!("Ok: stored as {id}"),
                };
                say(Reply::ok(250, (2, 0, 0), text), Next::Line)
            }
            Err(refused) => self.no(refused),
        }
    }

    fn too_large(&self) -> Refused {
        Refused::about(Refusal::MessageTooLarge, self.config.message_size)
    }
}
