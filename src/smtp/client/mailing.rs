//! One mail transaction (RFC 5321 section 3.3) from the client's side: what is said, and what becomes of each recipient.
//!
//! Where PIPELINING is offered, MAIL, every RCPT and DATA leave at once (RFC 2920); the content follows a 354 alone. A 354
//! though no recipient was accepted is answered with the lone dot: the server waits for content, and takes nothing.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;

use super::super::address::{ForwardPath, ReversePath};
use super::super::command::Body;
use super::super::dsn::encode_xtext;
use super::super::encoder::FINAL_DOT;
use super::super::remote::{RemoteReply, Stage};
use super::offer::Offer;
use super::outcome::{Fault, Finished, Outcome, Unfit, Unreached};
use super::{Message, Wait};

/// A transaction that is under way.
#[derive(Debug)]
pub(super) struct Mailing {
    message: Message,
    offer: Offer,
    /// AUTH= may be said.
    auth: bool,
    /// The connection served a transaction before this one.
    reused: bool,
    /// No parameters are said, since the server did not understand them.
    plain: bool,
    /// The recipients of this transaction; the others are settled without a word.
    chosen: Vec<usize>,
    outcomes: Vec<Option<Outcome>>,
    /// What was said and not answered.
    expected: VecDeque<Said>,
    phase: Phase,
    /// The server has answered something.
    heard: bool,
    refused: Option<RemoteReply>,
    accepted: Vec<usize>,
}

/// What follows from an event.
#[derive(Debug)]
pub(super) enum Advance {
    /// Write the content.
    Content,
    /// Every recipient has its outcome; the connection is of further use if `sane`.
    End { sane: bool },
    /// Write this and wait.
    Send(Vec<u8>, Wait),
    /// Wait for another reply.
    Wait(Wait),
}

/// The end, and whether RSET has to come before anything else.
#[derive(Debug)]
pub(super) struct End {
    pub(super) told: Finished,
    pub(super) needs_reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Data,
    Dot,
    Mail,
    Recipient(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Commands.
    Commands,
    /// After 354, before the final dot.
    Content,
    /// The dot was answered with a 2xx.
    Delivered,
    /// Nothing was said.
    Silent,
}

/// Recipients of a transaction, at most: what every server must take (RFC 5321 section 4.5.3.1.8), so that their replies
/// fit into buffers while nothing reads them.
const RECIPIENTS_MAX: usize = 100;
/// Replies to MAIL after which it is said once more without parameters (RFC 5321 section 4.2.3).
const NOT_UNDERSTOOD: [u16; 3] = [501, 504, 555];

impl Mailing {
    /// Chooses the recipients that the server can take in one transaction.
    pub(super) fn new(message: Message, offer: Offer, message_size: Option<u64>, auth: bool, reused: bool) -> Self {
        let plain = message.plain;
        let envelope = &message.envelope;
        let most = offer.rcpt_max.unwrap_or(RECIPIENTS_MAX).min(RECIPIENTS_MAX);
        let size_max = [message_size, offer.size_max].into_iter().flatten().min();
        let all_utf8 = envelope.utf8 || !is_ascii(&envelope.reverse_path);
        let mut domains = HashSet::new();
        let mut chosen = Vec::new();
        let mut outcomes = Vec::new();
        for (index, recipient) in envelope.recipients.iter().enumerate() {
            let path = recipient.path.to_string();
            let outcome = match size_max {
                Some(size_max) if message.size > size_max => Some(Outcome::Unfit(Unfit::TooLarge(size_max))),
                _ if !offer.utf8 && (all_utf8 || !path.is_ascii()) => Some(Outcome::Unfit(Unfit::Utf8)),
                _ if chosen.len() == most => Some(Outcome::NotTried(Unreached::NextTransaction)),
                _ => {
                    let domain = match &recipient.path {
                        ForwardPath::Mailbox(address) => address.domain().to_string(),
                        ForwardPath::Postmaster => String::new(),
                    };
                    let full = offer.rcpt_domain_max.is_some_and(|most| domains.len() >= most);
                    let fits = domains.contains(&domain) || (!full && domains.insert(domain));
                    if fits {
                        chosen.push(index);
                    }
                    (!fits).then_some(Outcome::NotTried(Unreached::NextTransaction))
                }
            };
            outcomes.push(outcome);
        }
        Self {
            message,
            offer,
            auth,
            reused,
            plain,
            chosen,
            outcomes,
            expected: VecDeque::new(),
            phase: Phase::Silent,
            heard: false,
            refused: None,
            accepted: Vec::new(),
        }
    }

    /// True if no recipient can be tried.
    pub(super) fn is_void(&self) -> bool {
        self.chosen.is_empty()
    }

    /// The first write.
    pub(super) fn begin(&mut self) -> Advance {
        if self.is_void() {
            return Advance::End { sane: true };
        }
        self.phase = Phase::Commands;
        let mut lines = self.mail_line();
        self.expected.push_back(Said::Mail);
        if self.offer.pipelining {
            for index in self.chosen.clone() {
                lines.push_str(&self.recipient_line(index));
                self.expected.push_back(Said::Recipient(index));
            }
            lines.push_str(DATA);
            self.expected.push_back(Said::Data);
        }
        Advance::Send(lines.into_bytes(), Wait::Command)
    }

    /// Takes a reply.
    pub(super) fn reply(&mut self, reply: &RemoteReply) -> Advance {
        let first = !std::mem::replace(&mut self.heard, true);
        let refuses = reply.is_transient() || reply.is_permanent();
        if first && self.reused && reply.code == CLOSING {
            return self.end(false, Outcome::NotTried(Unreached::Stale));
        }
        let said = match self.phase {
            // The server has seen enough of the content. Without the dot it cannot take the message any more.
            Phase::Content if refuses => return self.end(false, Outcome::Refused { stage: Stage::Dot, reply: reply.clone() }),
            Phase::Content => return self.lost(Fault::Unexpected(reply.clone())),
            _ => self.expected.front().copied(),
        };
        let Some(said) = said else { return self.lost(Fault::Unexpected(reply.clone())) };
        if !refuses && !said.hopes_for(reply) {
            return self.lost(Fault::Unexpected(reply.clone()));
        }
        self.expected.pop_front();
        match said {
            Said::Mail if refuses => self.refused = Some(reply.clone()),
            Said::Mail => {}
            Said::Recipient(index) => self.recipient_reply(index, reply),
            // After a refused MAIL this says no more than that.
            Said::Data if refuses && self.refused.is_some() => {}
            Said::Data if refuses => self.settle_all(Outcome::Refused { stage: Stage::Data, reply: reply.clone() }),
            Said::Data if !self.accepts_content() => {
                self.expected.push_back(Said::Dot);
                return Advance::Send(FINAL_DOT.to_vec(), Wait::DataEnd);
            }
            Said::Data => {
                self.phase = Phase::Content;
                return Advance::Content;
            }
            Said::Dot if refuses => self.settle_all(Outcome::Refused { stage: Stage::Dot, reply: reply.clone() }),
            Said::Dot => {
                self.phase = Phase::Delivered;
                if self.accepts_content() {
                    self.settle_all(Outcome::Sent(reply.clone()));
                }
            }
        }
        if reply.code == CLOSING {
            let (stage, reply) = match &self.refused {
                Some(refused) if !self.may_be_said_plainly(refused) => (Stage::Mail, refused),
                _ => (said.stage(), reply),
            };
            return self.end(false, Outcome::Refused { stage, reply: reply.clone() });
        }
        match self.expected.front() {
            Some(Said::Data) => Advance::Wait(Wait::DataInit),
            Some(_) => Advance::Wait(Wait::Command),
            None => self.go_on(said),
        }
    }

    /// The content was written; from here on the message may arrive.
    pub(super) fn content_sent(&mut self) -> Advance {
        if self.phase != Phase::Content {
            return self.lost(Fault::Defect);
        }
        self.phase = Phase::Commands;
        self.expected.push_back(Said::Dot);
        Advance::Send(FINAL_DOT.to_vec(), Wait::DataEnd)
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, fault: Fault) -> Advance {
        if self.reused && !self.heard && fault == Fault::Closed {
            return self.end(false, Outcome::NotTried(Unreached::Stale));
        }
        let outcome = match (&self.refused, self.phase) {
            (Some(reply), _) if !self.may_be_said_plainly(reply) => Outcome::Refused { stage: Stage::Mail, reply: reply.clone() },
            (_, Phase::Content) => Outcome::Lost { stage: Stage::Dot, after_dot: false, fault },
            _ => {
                let said = self.expected.front().copied().unwrap_or(Said::Mail);
                Outcome::Lost { stage: said.stage(), after_dot: said == Said::Dot, fault }
            }
        };
        self.end(false, outcome)
    }

    /// What to tell.
    pub(super) fn finish(self) -> End {
        let dsn = self.offer.dsn && !self.plain;
        let (accepted, parameters) = (self.accepts_content(), self.mail_line().contains("> "));
        let outcomes = self.outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::NotTried(Unreached::NextTransaction)));
        End {
            told: Finished { outcomes: outcomes.collect(), reusable: false, accepted, parameters, dsn },
            needs_reset: !matches!(self.phase, Phase::Delivered | Phase::Silent),
        }
    }

    /// Everything said is answered: what comes next.
    fn go_on(&mut self, answered: Said) -> Advance {
        if let Some(reply) = self.refused.take() {
            if self.may_be_said_plainly(&reply) {
                self.plain = true;
                return self.begin();
            }
            return self.end(true, Outcome::Refused { stage: Stage::Mail, reply });
        }
        // Without PIPELINING one command follows the other.
        let next = match answered {
            Said::Mail => self.chosen.first(),
            Said::Recipient(index) => self.chosen.iter().find(|other| **other > index && self.outcomes[**other].is_none()),
            Said::Data | Said::Dot => return Advance::End { sane: true },
        };
        match next.copied() {
            Some(index) => {
                self.expected.push_back(Said::Recipient(index));
                Advance::Send(self.recipient_line(index).into_bytes(), Wait::Command)
            }
            None if self.accepted.is_empty() => Advance::End { sane: true },
            None => {
                self.expected.push_back(Said::Data);
                Advance::Send(DATA.into(), Wait::DataInit)
            }
        }
    }

    fn recipient_reply(&mut self, index: usize, reply: &RemoteReply) {
        if self.refused.is_some() {
            // Without MAIL there is no recipient, whatever the server says.
            return;
        }
        if reply.is_positive() {
            self.accepted.push(index);
            return;
        }
        // RFC 5321 section 4.5.3.1.10, and 552 for the same in RFC 821; x.2.x is about the mailbox.
        let too_many = matches!(reply.code, 452 | 552)
            && !self.accepted.is_empty()
            && reply.status.is_none_or(|(_, subject, _)| subject != 2);
        if !too_many {
            self.outcomes[index] = Some(Outcome::Refused { stage: Stage::Recipient, reply: reply.clone() });
            return;
        }
        let rest = if self.offer.pipelining { &[index][..] } else { &self.chosen };
        for other in rest.iter().filter(|other| **other >= index) {
            self.outcomes[*other] = Some(Outcome::NotTried(Unreached::NextTransaction));
        }
    }

    fn accepts_content(&self) -> bool {
        !self.accepted.is_empty()
    }

    /// Once it was said plainly there are no parameters any more.
    fn may_be_said_plainly(&self, reply: &RemoteReply) -> bool {
        !self.plain && NOT_UNDERSTOOD.contains(&reply.code) && !self.needs_utf8() && self.has_parameters()
    }

    /// Not read from a line: a quoted local part may look like the end of a path with parameters after it.
    fn has_parameters(&self) -> bool {
        !self.mail_parameters().is_empty() || self.chosen.iter().any(|index| !self.recipient_parameters(*index).is_empty())
    }

    fn end(&mut self, sane: bool, outcome: Outcome) -> Advance {
        self.settle_all(outcome);
        Advance::End { sane }
    }

    fn settle_all(&mut self, outcome: Outcome) {
        for settled in self.outcomes.iter_mut().filter(|settled| settled.is_none()) {
            *settled = Some(outcome.clone());
        }
    }

    fn needs_utf8(&self) -> bool {
        let envelope = &self.message.envelope;
        envelope.utf8
            || !is_ascii(&envelope.reverse_path)
            || self.chosen.iter().any(|index| !envelope.recipients[*index].path.to_string().is_ascii())
    }

    fn mail_line(&self) -> String {
        format!("MAIL FROM:<{}>{}\r\n", self.message.envelope.reverse_path, self.mail_parameters())
    }

    fn mail_parameters(&self) -> String {
        let envelope = &self.message.envelope;
        let mut line = String::new();
        let said = !self.plain;
        if said && self.offer.size {
            let _ = write!(line, " SIZE={}", self.message.size);
        }
        if said && self.offer.eight_bit && envelope.body == Some(Body::EightBitMime) {
            let _ = write!(line, " BODY={}", Body::EightBitMime);
        }
        if self.needs_utf8() {
            line.push_str(" SMTPUTF8");
        }
        if let (true, Some(ret)) = (said && self.offer.dsn, envelope.ret) {
            let _ = write!(line, " RET={ret}");
        }
        if let (true, Some(envid)) = (said && self.offer.dsn, &envelope.envid) {
            let _ = write!(line, " ENVID={}", encode_xtext(envid));
        }
        if let (true, Some(login)) = (said && self.auth, &self.message.auth) {
            let is_known = login.is_ascii() && !login.is_empty();
            let login = if is_known { encode_xtext(login) } else { "<>".into() };
            let _ = write!(line, " AUTH={login}");
        }
        line
    }

    fn recipient_line(&self, index: usize) -> String {
        format!("RCPT TO:<{}>{}\r\n", self.message.envelope.recipients[index].path, self.recipient_parameters(index))
    }

    fn recipient_parameters(&self, index: usize) -> String {
        let recipient = &self.message.envelope.recipients[index];
        let mut line = String::new();
        if self.offer.dsn && !self.plain {
            if let Some(notify) = recipient.notify {
                let _ = write!(line, " NOTIFY={notify}");
            }
            if let Some(orcpt) = &recipient.orcpt {
                let _ = write!(line, " ORCPT={orcpt}");
            }
        }
        line
    }
}

impl Said {
    fn hopes_for(self, reply: &RemoteReply) -> bool {
        match self {
            Self::Data => reply.code == 354,
            Self::Dot | Self::Mail | Self::Recipient(_) => reply.is_positive(),
        }
    }

    fn stage(self) -> Stage {
        match self {
            Self::Data => Stage::Data,
            Self::Dot => Stage::Dot,
            Self::Mail => Stage::Mail,
            Self::Recipient(_) => Stage::Recipient,
        }
    }
}

fn is_ascii(path: &ReversePath) -> bool {
    path.to_string().is_ascii()
}

const DATA: &str = "DATA\r\n";
/// The server closes the connection (RFC 5321 section 3.8).
const CLOSING: u16 = 421;

#[cfg(test)]
mod tests {
    use super::super::super::command::Recipient;
    use super::super::super::event::Envelope;
    use super::*;

    /// More would fill the buffers between two sides of which neither reads.
    #[test]
    fn no_server_is_told_more_than_a_hundred_recipients_at_once() {
        let recipients = vec![Recipient::plain(ForwardPath::Postmaster); 101];
        let reverse_path = ReversePath::Null;
        let envelope = Envelope { reverse_path, recipients, body: None, utf8: false, ret: None, envid: None };
        let message = Message { envelope, size: 1, auth: None, plain: false };
        for (rcpt_max, want) in [(None, 100), (Some(1000), 100), (Some(99), 99)] {
            let offer = Offer { rcpt_max, ..Offer::default() };
            assert_eq!(Mailing::new(message.clone(), offer, None, false, false).chosen.len(), want, "{rcpt_max:?}");
        }
    }
}
