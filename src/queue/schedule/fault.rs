//! Whose fault it is when something goes wrong with a next hop.
//!
//! One table, [`divide`]: the stage, what happened there, and the kind of next hop give the [`Fault`]. What is the
//! route's fault is never charged to a message: it keeps its recipients and its place in the queue.

use crate::smtp::remote::{RemoteReply, RemoteStatus, Stage};

/// What a next hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The servers that a recipient's domain names (RFC 5321 section 5).
    Mx,
    /// A server that is told to send on, by the operator's choice and with a login.
    Smarthost,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The certificate does not prove the name of the server.
    Certificate,
    /// No connection, or it was closed or silent past its deadline. After the final dot: [`Trouble::Unanswered`].
    Dropped,
    /// No TLS, for another reason than the certificate.
    Handshake,
    /// A fault of this program: the attempt ended without a result.
    Internal,
    /// The mail would come back to this server.
    Loop,
    /// The name does not exist (RFC 2308 section 2.1).
    NameUnknown,
    /// The name could not be looked up.
    NameUnresolved,
    /// The domain says that it takes no mail (RFC 7505).
    NoMail,
    /// An extension that the route requires is not offered: STARTTLS, AUTH or a mechanism.
    NotOffered,
    /// Every address of the domain is one that mail is not sent to: private, or this server's own.
    NotRoutable,
    /// The password file of the route cannot be read.
    PasswordFile,
    /// The next hop answered so.
    Reply {
        /// The reply code.
        code: u16,
        /// The enhanced status code, if there is one.
        status: Option<RemoteStatus>,
    },
    /// As many connections to the server are open as this side opens at once: nothing was tried.
    ServerFull,
    /// The address to connect from is none of this machine's.
    Source,
    /// This server is being stopped: nothing was tried, or not to its end.
    Stopped,
    /// The final dot was sent, and the connection ended without a reply: the message may have arrived.
    Unanswered,
    /// The next hop does not offer what the message needs: SMTPUTF8, its size.
    Unfit,
}

/// What is known of the transaction when it goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// A recipient was accepted in it.
    pub accepted: bool,
    /// MAIL had parameters.
    pub parameters: bool,
}

/// Whose fault it is, and so what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message's: all recipients without a result of their own.
    Message(Verdict),
    /// None: nothing was tried, so nothing is counted and no message waits longer for it.
    NotTried,
    /// That of the pair of destination and login, until an empty probe shows that it is the route's.
    Pair,
    /// The recipient's alone.
    Recipient(Verdict),
    /// On no side: these recipients go in the next transaction.
    RestNext,
    /// On no side: the same once more, MAIL without parameters.
    RetryWithoutParameters,
    /// The route's.
    Route(Reason),
}

/// What becomes of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is refused for good.
    Fail,
    /// It is tried again.
    Wait,
}

/// Why a route rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// AUTH failed for the moment.
    Auth,
    /// The login or its password is refused: 534, 535.
    AuthRefused,
    /// The next hop wants another way to log in: 530, 538, another 5xx to AUTH, or no AUTH is offered.
    AuthRequired,
    /// The certificate is not valid for the name.
    Certificate,
    /// No address takes a connection.
    Connect,
    /// The name cannot be resolved.
    Dns,
    /// The greeting is a refusal.
    Greeting,
    /// EHLO and HELO are refused.
    Hello,
    /// The password file cannot be read.
    PasswordFile,
    /// Replies that have no place in the dialogue, 503 among them.
    Protocol,
    /// A limit of the account is reached: X.4.5.
    Quota,
    /// Five messages in a row were refused.
    RefusesEverything,
    /// The address to connect from is none of this machine's.
    Source,
    /// Three messages in a row were refused for the moment.
    Temporary,
    /// STARTTLS is not offered or refused, or there is no TLS.
    Tls,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 15] = [
        Self::Auth,
        Self::AuthRefused,
        Self::AuthRequired,
        Self::Certificate,
        Self::Connect,
        Self::Dns,
        Self::Greeting,
        Self::Hello,
        Self::PasswordFile,
        Self::Protocol,
        Self::Quota,
        Self::RefusesEverything,
        Self::Source,
        Self::Temporary,
        Self::Tls,
    ];

    /// The word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::AuthRefused => "auth-refused",
            Self::AuthRequired => "auth-required",
            Self::Certificate => "certificate",
            Self::Connect => "connect",
            Self::Dns => "dns",
            Self::Greeting => "greeting",
            Self::Hello => "ehlo",
            Self::PasswordFile => "password-file",
            Self::Protocol => "protocol",
            Self::Quota => "quota",
            Self::RefusesEverything => "refuses-everything",
            Self::Source => "source",
            Self::Temporary => "temporary",
            Self::Tls => "tls",
        }
    }

    /// True where waiting cures nothing: the operator is told at once.
    pub fn needs_a_person(self) -> bool {
        match self {
            Self::AuthRefused | Self::AuthRequired | Self::Certificate | Self::PasswordFile | Self::RefusesEverything => true,
            Self::Source => true,
            Self::Auth | Self::Connect | Self::Dns | Self::Greeting | Self::Hello | Self::Protocol => false,
            Self::Quota | Self::Temporary | Self::Tls => false,
        }
    }
}

impl From<&RemoteReply> for Trouble {
    fn from(reply: &RemoteReply) -> Self {
        Self::Reply { code: reply.code, status: reply.status }
    }
}

impl Trouble {
    /// All that are no reply.
    pub const WITHOUT_REPLY: [Self; 16] = [
        Self::Certificate,
        Self::Dropped,
        Self::Handshake,
        Self::Internal,
        Self::Loop,
        Self::NameUnknown,
        Self::NameUnresolved,
        Self::NoMail,
        Self::NotOffered,
        Self::NotRoutable,
        Self::PasswordFile,
        Self::ServerFull,
        Self::Source,
        Self::Stopped,
        Self::Unanswered,
        Self::Unfit,
    ];

    /// True if nothing was tried: it says nothing of the next hop or the message, and is recorded nowhere.
    pub fn is_untried(self) -> bool {
        matches!(self, Self::ServerFull | Self::Stopped)
    }

    /// True if it says nothing of the next hop: nothing was tried, or it ended by a defect of this program.
    pub fn is_without_result(self) -> bool {
        self.is_untried() || self == Self::Internal
    }

    /// What a record says where there was no reply, alone or before `: ` and more. `reply` for a reply.
    pub fn words(self) -> &'static str {
        match self {
            Self::Certificate => "certificate not valid",
            Self::Dropped => "connection lost",
            Self::Handshake => "no TLS",
            Self::Internal => "no result",
            Self::Loop => "leads back to this server",
            Self::NameUnknown => "no such host",
            Self::NameUnresolved => "name not resolved",
            Self::NoMail => "domain takes no mail",
            Self::NotOffered => "extension not offered",
            Self::NotRoutable => "no usable address",
            Self::PasswordFile => "password file not readable",
            Self::Reply { .. } => "reply",
            Self::ServerFull => "no free connection to the server",
            Self::Source => "source address not usable",
            Self::Stopped => "this server was stopped",
            Self::Unanswered => "no reply after the final dot",
            Self::Unfit => "not offered for this message",
        }
    }
}

/// Says whose fault it is. The first row that fits is the answer.
pub fn divide(kind: Kind, stage: Stage, trouble: Trouble, transaction: Transaction) -> Fault {
    use Fault::{Message, NotTried, Pair, Recipient, RestNext, RetryWithoutParameters, Route};
    use Verdict::{Fail, Wait};
    let (code, status) = match trouble {
        Trouble::Reply { code, status } => (code, status),
        Trouble::Internal => return Message(Wait),
        Trouble::ServerFull | Trouble::Stopped => return NotTried,
        Trouble::Unfit => return if stage == Stage::Recipient { Recipient(Fail) } else { Message(Fail) },
        Trouble::Loop | Trouble::NoMail | Trouble::NotRoutable if kind == Kind::Mx => return Message(Fail),
        Trouble::NameUnknown if kind == Kind::Mx => return Message(Fail),
        Trouble::NameUnknown | Trouble::NameUnresolved | Trouble::NoMail => return Route(Reason::Dns),
        Trouble::Loop | Trouble::NotRoutable => return Route(Reason::Connect),
        Trouble::Certificate => return Route(Reason::Certificate),
        Trouble::Handshake => return Route(Reason::Tls),
        Trouble::NotOffered if stage == Stage::Auth => return Route(Reason::AuthRequired),
        Trouble::NotOffered => return Route(Reason::Tls),
        Trouble::PasswordFile => return Route(Reason::PasswordFile),
        Trouble::Source => return Route(Reason::Source),
        Trouble::Unanswered => return Pair,
        Trouble::Dropped if stage < Stage::Mail => return Route(before_mail(stage)),
        Trouble::Dropped => return if stage == Stage::End { RestNext } else { Pair },
    };
    let detail = status.map(|(_, subject, detail)| (subject, detail));
    match (stage, code) {
        (Stage::End, _) => RestNext,
        // The account, whatever command it is said to.
        (_, 534 | 535) => Route(Reason::AuthRefused),
        (_, 530 | 538) => Route(Reason::AuthRequired),
        (_, 503) => Route(Reason::Protocol),
        (_, 500..=599) if detail == Some((4, 5)) => Route(Reason::Quota),
        (Stage::Auth, 500..=599) => Route(Reason::AuthRequired),
        (stage, _) if stage < Stage::Mail => Route(before_mail(stage)),
        (_, 421) => Pair,
        (Stage::Mail, 501 | 504 | 555) if transaction.parameters => RetryWithoutParameters,
        // RFC 5321 section 4.5.3.1.10: too many recipients, unless the mailbox is meant (RFC 3463 section 3.3).
        (Stage::Recipient, 452 | 552) if transaction.accepted && detail.is_none_or(|(subject, _)| subject != 2) => RestNext,
        (Stage::Recipient, 400..=499) => Recipient(Wait),
        (Stage::Recipient, 500..=599) => Recipient(Fail),
        (_, 400..=499) => Message(Wait),
        (_, 500..=599) => Message(Fail),
        // Neither yes nor no: this dialogue is not one.
        _ => Pair,
    }
}

fn before_mail(stage: Stage) -> Reason {
    match stage {
        Stage::Connect => Reason::Connect,
        Stage::Greeting => Reason::Greeting,
        Stage::Hello => Reason::Hello,
        Stage::Tls | Stage::StartTls => Reason::Tls,
        Stage::Auth => Reason::Auth,
        Stage::Mail | Stage::Recipient | Stage::Data | Stage::Dot | Stage::End => Reason::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::Fault::{Message, NotTried, Pair, Recipient, RestNext, RetryWithoutParameters, Route};
    use super::Verdict::{Fail, Wait};
    use super::*;

    const PLAIN: Transaction = Transaction { accepted: false, parameters: false };
    const ACCEPTED: Transaction = Transaction { accepted: true, parameters: false };
    const PARAMETERS: Transaction = Transaction { accepted: false, parameters: true };
    const BEFORE_MAIL: [Stage; 6] = [Stage::Connect, Stage::Tls, Stage::Greeting, Stage::Hello, Stage::StartTls, Stage::Auth];
    const FROM_MAIL: [Stage; 4] = [Stage::Mail, Stage::Recipient, Stage::Data, Stage::Dot];

    fn reply(code: u16, status: Option<RemoteStatus>) -> Trouble {
        Trouble::Reply { code, status }
    }

    /// Before MAIL nothing is a message's fault, for either kind of next hop.
    #[test]
    fn before_mail_it_is_the_route() {
        for kind in [Kind::Mx, Kind::Smarthost] {
            for stage in BEFORE_MAIL {
                for code in [354, 421, 450, 451, 454, 500, 502, 504, 521, 550, 554] {
                    let fault = divide(kind, stage, reply(code, None), PLAIN);
                    assert!(matches!(fault, Route(_)), "{kind:?} {stage:?} {code}: {fault:?}");
                }
                let faults = [
                    Trouble::Certificate,
                    Trouble::Dropped,
                    Trouble::Handshake,
                    Trouble::NameUnresolved,
                    Trouble::NotOffered,
                    Trouble::PasswordFile,
                ];
                for trouble in faults {
                    let fault = divide(kind, stage, trouble, PLAIN);
                    assert!(matches!(fault, Route(_)), "{kind:?} {stage:?} {trouble:?}: {fault:?}");
                }
            }
        }
    }

    #[test]
    fn the_reason_says_where() {
        let rows = [
            (Stage::Connect, Trouble::NameUnresolved, Reason::Dns),
            (Stage::Connect, Trouble::NameUnknown, Reason::Dns),
            (Stage::Connect, Trouble::Dropped, Reason::Connect),
            (Stage::Connect, Trouble::Source, Reason::Source),
            (Stage::Greeting, Trouble::Dropped, Reason::Greeting),
            (Stage::Greeting, reply(554, None), Reason::Greeting),
            (Stage::Hello, reply(550, None), Reason::Hello),
            (Stage::StartTls, Trouble::NotOffered, Reason::Tls),
            (Stage::StartTls, reply(454, None), Reason::Tls),
            (Stage::Tls, Trouble::Handshake, Reason::Tls),
            (Stage::Tls, Trouble::Certificate, Reason::Certificate),
            (Stage::Auth, Trouble::NotOffered, Reason::AuthRequired),
            (Stage::Auth, Trouble::PasswordFile, Reason::PasswordFile),
            (Stage::Auth, reply(454, Some((4, 7, 0))), Reason::Auth),
            (Stage::Auth, reply(535, Some((5, 7, 8))), Reason::AuthRefused),
            (Stage::Auth, reply(534, Some((5, 7, 9))), Reason::AuthRefused),
            (Stage::Auth, reply(538, Some((5, 7, 11))), Reason::AuthRequired),
            (Stage::Auth, reply(504, Some((5, 5, 4))), Reason::AuthRequired),
            (Stage::Auth, Trouble::Dropped, Reason::Auth),
        ];
        for (stage, trouble, reason) in rows {
            assert_eq!(divide(Kind::Smarthost, stage, trouble, PLAIN), Route(reason), "{stage:?} {trouble:?}");
        }
    }

    /// 503, 530, 534, 535, 538 and 5.4.5 are the route's, whatever they answer.
    #[test]
    fn some_replies_are_the_routes_at_any_stage() {
        let rows = [
            (503, None, Reason::Protocol),
            (530, None, Reason::AuthRequired),
            (534, None, Reason::AuthRefused),
            (535, None, Reason::AuthRefused),
            (538, None, Reason::AuthRequired),
            (550, Some((5, 4, 5)), Reason::Quota),
            (552, Some((5, 4, 5)), Reason::Quota),
        ];
        for kind in [Kind::Mx, Kind::Smarthost] {
            for stage in BEFORE_MAIL.into_iter().chain(FROM_MAIL) {
                for (code, status, reason) in rows {
                    assert_eq!(divide(kind, stage, reply(code, status), ACCEPTED), Route(reason), "{stage:?} {code}");
                }
            }
        }
    }

    #[test]
    fn from_mail_on_replies_are_the_messages_or_the_recipients() {
        let rows = [
            (Stage::Mail, 450, None, PARAMETERS, Message(Wait)),
            (Stage::Mail, 452, None, PARAMETERS, Message(Wait)),
            (Stage::Mail, 550, Some((5, 7, 1)), PARAMETERS, Message(Fail)),
            (Stage::Mail, 552, Some((5, 3, 4)), PARAMETERS, Message(Fail)),
            // Once more without parameters, and only once.
            (Stage::Mail, 501, None, PARAMETERS, RetryWithoutParameters),
            (Stage::Mail, 504, None, PARAMETERS, RetryWithoutParameters),
            (Stage::Mail, 555, None, PARAMETERS, RetryWithoutParameters),
            (Stage::Mail, 501, None, PLAIN, Message(Fail)),
            (Stage::Mail, 504, None, PLAIN, Message(Fail)),
            (Stage::Mail, 555, None, PLAIN, Message(Fail)),
            (Stage::Recipient, 501, None, PARAMETERS, Recipient(Fail)),
            (Stage::Recipient, 450, Some((4, 2, 0)), ACCEPTED, Recipient(Wait)),
            (Stage::Recipient, 451, Some((4, 7, 1)), PLAIN, Recipient(Wait)),
            (Stage::Recipient, 550, Some((5, 1, 1)), PLAIN, Recipient(Fail)),
            // Too many recipients: the rest next, but only after one was accepted, and never a full mailbox.
            (Stage::Recipient, 452, None, ACCEPTED, RestNext),
            (Stage::Recipient, 452, Some((4, 5, 3)), ACCEPTED, RestNext),
            (Stage::Recipient, 552, None, ACCEPTED, RestNext),
            (Stage::Recipient, 552, Some((5, 5, 3)), ACCEPTED, RestNext),
            (Stage::Recipient, 452, None, PLAIN, Recipient(Wait)),
            (Stage::Recipient, 552, None, PLAIN, Recipient(Fail)),
            (Stage::Recipient, 452, Some((4, 2, 2)), ACCEPTED, Recipient(Wait)),
            (Stage::Recipient, 552, Some((5, 2, 2)), ACCEPTED, Recipient(Fail)),
            (Stage::Data, 451, None, ACCEPTED, Message(Wait)),
            (Stage::Data, 554, None, ACCEPTED, Message(Fail)),
            (Stage::Dot, 452, None, ACCEPTED, Message(Wait)),
            (Stage::Dot, 552, None, ACCEPTED, Message(Fail)),
            (Stage::Dot, 554, Some((5, 7, 1)), ACCEPTED, Message(Fail)),
            // Neither yes nor no.
            (Stage::Data, 250, None, ACCEPTED, Pair),
            (Stage::Mail, 354, None, PLAIN, Pair),
            // After everything is known nothing matters.
            (Stage::End, 421, None, PLAIN, RestNext),
            (Stage::End, 535, None, PLAIN, RestNext),
        ];
        for kind in [Kind::Mx, Kind::Smarthost] {
            for (stage, code, status, transaction, fault) in rows {
                assert_eq!(divide(kind, stage, reply(code, status), transaction), fault, "{kind:?} {stage:?} {code} {status:?}");
            }
        }
    }

    #[test]
    fn a_cut_or_421_after_mail_is_the_pairs() {
        for kind in [Kind::Mx, Kind::Smarthost] {
            for stage in FROM_MAIL {
                assert_eq!(divide(kind, stage, Trouble::Dropped, ACCEPTED), Pair, "{stage:?}");
                assert_eq!(divide(kind, stage, reply(421, Some((4, 7, 0))), ACCEPTED), Pair, "{stage:?}");
            }
            assert_eq!(divide(kind, Stage::Dot, Trouble::Unanswered, ACCEPTED), Pair);
            assert_eq!(divide(kind, Stage::End, Trouble::Dropped, ACCEPTED), RestNext);
        }
    }

    /// A domain without mail is the recipient's fault; a smarthost's name that is gone is the route's.
    #[test]
    fn names_depend_on_the_kind() {
        for trouble in [Trouble::Loop, Trouble::NameUnknown, Trouble::NoMail, Trouble::NotRoutable] {
            assert_eq!(divide(Kind::Mx, Stage::Connect, trouble, PLAIN), Message(Fail), "{trouble:?}");
            assert!(matches!(divide(Kind::Smarthost, Stage::Connect, trouble, PLAIN), Route(_)), "{trouble:?}");
        }
    }

    #[test]
    fn what_the_next_hop_cannot_carry_fails_and_what_broke_here_waits() {
        assert_eq!(divide(Kind::Smarthost, Stage::Mail, Trouble::Unfit, PLAIN), Message(Fail));
        assert_eq!(divide(Kind::Smarthost, Stage::Recipient, Trouble::Unfit, PLAIN), Recipient(Fail));
        assert_eq!(divide(Kind::Mx, Stage::Dot, Trouble::Internal, PLAIN), Message(Wait));
    }

    /// Whatever had been said before: what ended it was here, and it goes on.
    #[test]
    fn a_limit_or_a_stop_of_this_side_is_nobodys_fault() {
        for kind in [Kind::Mx, Kind::Smarthost] {
            for stage in BEFORE_MAIL.into_iter().chain(FROM_MAIL) {
                for trouble in [Trouble::ServerFull, Trouble::Stopped] {
                    assert_eq!(divide(kind, stage, trouble, ACCEPTED), NotTried, "{kind:?} {stage:?} {trouble:?}");
                }
            }
        }
    }

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let words: std::collections::HashSet<&str> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
