//! Why a message was not sent, in plain sentences: the one table that reports and `pillarbox queue explain` read. Pure.
//!
//! From the stage of the dialogue and what was answered, or from what went wrong without an answer, follow: what
//! happened, on whose side the fault is, what the sender can do and what the operator can do. Nothing of a server's own
//! text comes through here; who shows it shows it as a quotation. Where nothing is known a sentence says that, and
//! nothing is guessed.

mod rows;

use crate::smtp::remote::{RemoteReply, RemoteStatus, Stage};
use rows::*;

/// Why an attempt, or all of them, had no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// It went back or waits because somebody said so.
    Decision(Decision),
    /// Something failed and no reply says what.
    Fault(Stage, Fault),
    /// A reply of the next hop.
    Reply {
        /// What it answers.
        stage: Stage,
        /// The reply code.
        code: u16,
        /// The enhanced status code, if there was one.
        status: Option<RemoteStatus>,
    },
}

/// What this server or its operator decided about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Three attempts in a row ended with the process.
    HeldAfterCrashes,
    /// The operator holds it.
    HeldByOperator,
    /// It may have arrived, and `after_crash = "hold"`.
    HeldInDoubt,
    /// `refuse` in `[outgoing.to]` or `[outgoing.from]`.
    Refused,
    /// The operator sent it back.
    Returned,
}

/// What failed without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The server offers no mechanism of AUTH that is spoken here.
    AuthMissing,
    /// The certificate is not good for the server's name.
    Certificate,
    /// The server closed the connection.
    Closed,
    /// The server takes no non-ASCII addresses.
    NoSmtpUtf8,
    /// The name has no address.
    NoSuchHost,
    /// The addresses are of no use: private, loopback, multicast.
    NoUsableAddress,
    /// The domain takes no mail (RFC 7505).
    NullMx,
    /// The addresses are this server's own.
    OwnAddress,
    /// The password file cannot be read.
    PasswordFile,
    /// The port refuses connections.
    Refused,
    /// The name's servers gave no answer in time.
    ResolverSilent,
    /// What came is no SMTP.
    Senseless,
    /// No TLS could be agreed on.
    Tls,
    /// STARTTLS is required and not offered.
    TlsMissing,
    /// Nothing came in time.
    TimedOut,
    /// The message is larger than the server takes.
    TooLarge,
    /// No road leads to the address.
    Unreachable,
}

/// On whose side the fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The recipient's.
    Recipient,
    /// The route's: the next server and the way to it.
    Route,
    /// The sender's: the address, the message or its content.
    Sender,
    /// This server's.
    Us,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Explanation {
    /// On whose side the fault is.
    pub side: Side,
    /// What happened; a sentence.
    pub what: &'static str,
    /// What the sender can do; a sentence or two.
    pub sender: &'static str,
    /// What the operator can do; a sentence or two.
    pub operator: &'static str,
}

impl Cause {
    /// The cause that a reply is.
    pub fn reply(stage: Stage, reply: &RemoteReply) -> Self {
        Self::Reply { stage, code: reply.code, status: reply.status }
    }

    /// The status for a report (RFC 3463): the reply's own or what its code means, of class 5 where `permanent`, else 4.
    pub fn status(&self, permanent: bool) -> RemoteStatus {
        let class = if permanent { 5 } else { 4 };
        match *self {
            Self::Reply { status: Some((own, subject, detail)), .. } if own == class => (class, subject, detail),
            // What was a matter of time has run out of it.
            Self::Reply { code, .. } if permanent && code / 100 == 4 => (5, 4, 7),
            Self::Reply { stage, code, .. } => {
                let (subject, detail) = of_code(stage, code);
                (class, subject, detail)
            }
            Self::Fault(_, fault) => {
                let (subject, detail) = fault.status();
                (class, subject, detail)
            }
            Self::Decision(Decision::Refused) => (class, 7, 1),
            Self::Decision(_) => (class, 3, 0),
        }
    }

    /// What happened, on whose side, and what can be done.
    pub fn explain(&self) -> Explanation {
        match *self {
            Self::Decision(decision) => decision.explain(),
            Self::Fault(stage, fault) => fault.explain(stage),
            Self::Reply { stage: Stage::Auth, .. } => AUTH_REFUSED,
            Self::Reply { stage: Stage::Connect | Stage::Greeting | Stage::Hello | Stage::Tls | Stage::StartTls, .. } => {
                TURNED_AWAY
            }
            Self::Reply { code: 530 | 534 | 535 | 538, .. } => AUTH_REFUSED,
            Self::Reply { code: 421, .. } => BUSY,
            Self::Reply { stage, code, status } => {
                let (subject, detail) = match status {
                    // x.0.0 and x.5.0 say nothing that the code does not.
                    Some((_, subject, detail)) if (subject, detail) != (0, 0) && (subject, detail) != (5, 0) => (subject, detail),
                    _ => of_code(stage, code),
                };
                by_status(stage, code / 100 == 4, (subject, detail))
            }
        }
    }
}

impl Explanation {
    /// What the sender can do once the message is tried no more.
    pub fn sender_when_over(&self) -> &'static str {
        if [WAIT, PATIENCE].contains(&self.sender) { AGAIN } else { self.sender }
    }
}

impl Side {
    /// The sentence that names it.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Recipient => "The cause is on the recipient's side.",
            Self::Route => "The cause is on the way: the server that takes our mail, or the connection to it.",
            Self::Sender => "The cause is on the sender's side: the sender's address or the message itself.",
            Self::Us => "The cause is this mail server.",
        }
    }

    /// The word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recipient => "recipient",
            Self::Route => "route",
            Self::Sender => "sender",
            Self::Us => "us",
        }
    }
}

/// Subject and detail that a code without an enhanced status means at a stage (RFC 5321 section 4.2.2 and 4.2.3).
fn of_code(stage: Stage, code: u16) -> (u16, u16) {
    match (stage, code) {
        (Stage::Recipient, 550 | 551 | 553) => (1, 1),
        (Stage::Recipient, 450) => (2, 0),
        (Stage::Recipient, 452) => (5, 3),
        (Stage::Mail, 550 | 553) => (7, 1),
        (Stage::Data | Stage::Dot, 550 | 554) => (6, 0),
        (Stage::Recipient, 552) => (2, 2),
        (_, 552) => (3, 4),
        (_, 452) => (3, 1),
        (_, 451) => (3, 0),
        _ => (0, 0),
    }
}

/// The rows for replies after the login, by subject and detail (RFC 3463, RFC 5248 and its registry).
fn by_status(stage: Stage, transient: bool, status: (u16, u16)) -> Explanation {
    match status {
        (1, 0 | 1 | 4 | 6) if transient => LATER,
        (1, 0 | 1 | 4) => NO_MAILBOX,
        (1, 2 | 3) => BAD_ADDRESS,
        (1, 6) => MOVED,
        (1, 7 | 8) => SENDER_UNKNOWN,
        (1, 10) => NULL_MX,
        (2, 2) => MAILBOX_FULL,
        (2, 3) | (3, 4) => TOO_LARGE,
        (2, _) => MAILBOX_CLOSED,
        (3, 1 | 2 | 5) => BUSY,
        (4, 5) => LIMIT,
        (4, _) => NOT_PASSED_ON,
        (5, 3) => TOO_MANY,
        (6, 7 | 9 | 10) => NO_UTF8,
        (6, _) => CONTENT,
        (7, 20..=27 | 29) => UNPROVED,
        (7, 28) => LIMIT,
        (7, _) if transient => LATER,
        (7, _) if stage == Stage::Recipient => NOT_ALLOWED,
        (7, _) if stage == Stage::Mail => SENDER_REFUSED,
        (7, _) => CONTENT,
        _ if transient => LATER,
        _ => NO_REASON,
    }
}

impl Fault {
    /// Subject and detail for a report (RFC 3463).
    pub fn status(self) -> (u16, u16) {
        match self {
            Self::AuthMissing | Self::Certificate | Self::Tls | Self::TlsMissing => (7, 5),
            Self::Closed => (4, 2),
            Self::NoSmtpUtf8 => (6, 7),
            Self::NoSuchHost => (1, 2),
            Self::NoUsableAddress => (4, 4),
            Self::NullMx => (1, 10),
            Self::OwnAddress => (4, 6),
            Self::PasswordFile => (3, 5),
            Self::Refused | Self::TimedOut | Self::Unreachable => (4, 1),
            Self::ResolverSilent => (4, 3),
            Self::Senseless => (5, 0),
            Self::TooLarge => (3, 4),
        }
    }

    fn explain(self, stage: Stage) -> Explanation {
        match self {
            Self::AuthMissing => AUTH_MISSING,
            Self::Certificate => CERTIFICATE,
            Self::Closed | Self::TimedOut if stage == Stage::Dot => IN_DOUBT,
            Self::Closed => CLOSED,
            Self::NoSmtpUtf8 => NO_UTF8,
            Self::NoSuchHost => NO_SUCH_HOST,
            Self::NoUsableAddress => NO_USABLE_ADDRESS,
            Self::NullMx => NULL_MX,
            Self::OwnAddress => OWN_ADDRESS,
            Self::PasswordFile => PASSWORD_FILE,
            Self::Refused | Self::Unreachable => UNREACHABLE,
            Self::ResolverSilent => RESOLVER_SILENT,
            Self::Senseless => SENSELESS,
            Self::Tls | Self::TlsMissing => NO_TLS,
            Self::TimedOut => TIMED_OUT,
            Self::TooLarge => TOO_LARGE,
        }
    }

    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::AuthMissing,
        Self::Certificate,
        Self::Closed,
        Self::NoSmtpUtf8,
        Self::NoSuchHost,
        Self::NoUsableAddress,
        Self::NullMx,
        Self::OwnAddress,
        Self::PasswordFile,
        Self::Refused,
        Self::ResolverSilent,
        Self::Senseless,
        Self::Tls,
        Self::TlsMissing,
        Self::TimedOut,
        Self::TooLarge,
        Self::Unreachable,
    ];
}

impl Decision {
    fn explain(self) -> Explanation {
        match self {
            Self::HeldAfterCrashes => HELD_AFTER_CRASHES,
            Self::HeldByOperator => HELD_BY_OPERATOR,
            Self::HeldInDoubt => HELD_IN_DOUBT,
            Self::Refused => REFUSED_HERE,
            Self::Returned => RETURNED,
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::HeldAfterCrashes, Self::HeldByOperator, Self::HeldInDoubt, Self::Refused, Self::Returned];
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 11] = [
        Stage::Connect,
        Stage::Tls,
        Stage::Greeting,
        Stage::Hello,
        Stage::StartTls,
        Stage::Auth,
        Stage::Mail,
        Stage::Recipient,
        Stage::Data,
        Stage::Dot,
        Stage::End,
    ];

    #[test]
    fn replies() {
        let rows = [
            (Stage::Recipient, 550, Some((5, 1, 1)), NO_MAILBOX, (5, 1, 1)),
            (Stage::Recipient, 550, None, NO_MAILBOX, (5, 1, 1)),
            (Stage::Recipient, 550, Some((5, 7, 1)), NOT_ALLOWED, (5, 7, 1)),
            (Stage::Recipient, 550, Some((5, 0, 0)), NO_MAILBOX, (5, 0, 0)),
            (Stage::Recipient, 550, Some((5, 1, 10)), NULL_MX, (5, 1, 10)),
            (Stage::Recipient, 552, Some((5, 2, 2)), MAILBOX_FULL, (5, 2, 2)),
            (Stage::Recipient, 552, None, MAILBOX_FULL, (5, 2, 2)),
            (Stage::Recipient, 554, Some((5, 7, 1)), NOT_ALLOWED, (5, 7, 1)),
            (Stage::Recipient, 554, None, NO_REASON, (5, 0, 0)),
            // What was asked to wait has waited too long.
            (Stage::Recipient, 451, Some((4, 7, 1)), LATER, (5, 4, 7)),
            (Stage::Recipient, 450, None, MAILBOX_CLOSED, (5, 4, 7)),
            (Stage::Recipient, 452, Some((4, 2, 2)), MAILBOX_FULL, (5, 4, 7)),
            (Stage::Mail, 550, Some((5, 7, 1)), SENDER_REFUSED, (5, 7, 1)),
            (Stage::Mail, 553, Some((5, 1, 8)), SENDER_UNKNOWN, (5, 1, 8)),
            (Stage::Mail, 552, None, TOO_LARGE, (5, 3, 4)),
            (Stage::Mail, 550, Some((5, 4, 5)), LIMIT, (5, 4, 5)),
            (Stage::Mail, 530, Some((5, 7, 0)), AUTH_REFUSED, (5, 7, 0)),
            (Stage::Dot, 554, Some((5, 7, 1)), CONTENT, (5, 7, 1)),
            (Stage::Dot, 554, None, CONTENT, (5, 6, 0)),
            (Stage::Dot, 550, Some((5, 7, 26)), UNPROVED, (5, 7, 26)),
            (Stage::Dot, 421, Some((4, 7, 28)), BUSY, (5, 4, 7)),
            (Stage::Dot, 550, Some((5, 7, 28)), LIMIT, (5, 7, 28)),
            (Stage::Auth, 535, Some((5, 7, 8)), AUTH_REFUSED, (5, 7, 8)),
            (Stage::Greeting, 554, None, TURNED_AWAY, (5, 0, 0)),
        ];
        for (stage, code, status, want, permanent) in rows {
            let cause = Cause::Reply { stage, code, status };
            assert_eq!(cause.explain(), want, "{cause:?}");
            assert_eq!(cause.status(true), permanent, "{cause:?}");
        }
        let wait = Cause::Reply { stage: Stage::Recipient, code: 451, status: Some((4, 7, 1)) };
        assert_eq!(wait.status(false), (4, 7, 1));
        assert_eq!(Cause::Fault(Stage::Connect, Fault::TimedOut).status(false), (4, 4, 1));
        assert_eq!(Cause::Fault(Stage::Dot, Fault::Closed).explain(), IN_DOUBT);
        assert_eq!(Cause::Fault(Stage::Data, Fault::Closed).explain(), CLOSED);
    }

    /// Every cause there is has sentences, and they are sentences.
    #[test]
    fn every_cause_is_explained_in_sentences() {
        let mut causes: Vec<Cause> = Decision::ALL.into_iter().map(Cause::Decision).collect();
        for stage in STAGES {
            causes.extend(Fault::ALL.into_iter().map(|fault| Cause::Fault(stage, fault)));
            for code in (400..600).filter(|code| code % 100 < 60) {
                causes.push(Cause::Reply { stage, code, status: None });
                for (subject, detail) in (0..9).flat_map(|subject| (0..32).map(move |detail| (subject, detail))) {
                    causes.push(Cause::Reply { stage, code, status: Some(((code / 100) as u8, subject, detail)) });
                }
            }
        }
        for cause in causes {
            let Explanation { what, sender, operator, .. } = cause.explain();
            for text in [what, sender, operator] {
                let begins = text.starts_with(|c: char| c.is_ascii_uppercase() || matches!(c, '`' | '['));
                assert!(text.is_ascii() && text.ends_with('.') && begins, "{cause:?}: {text}");
            }
            for permanent in [true, false] {
                assert_eq!(cause.status(permanent).0, if permanent { 5 } else { 4 }, "{cause:?}");
            }
        }
    }
}
