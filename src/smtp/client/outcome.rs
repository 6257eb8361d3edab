//! What became of a connection, of a transaction, and of each of its recipients.

use core::fmt::{self, Display};

use super::super::remote::{RemoteReply, RemoteStatus, Stage};
use super::super::reply_reader::ReplyError;

/// Why a connection is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// Why.
    pub fault: Fault,
}

/// What went wrong, other than with a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The certificate is not one that is trusted for this name; why, for people.
    Certificate(String),
    /// The server closed the connection, or it was reset.
    Closed,
    /// The driver or this client did what it should not.
    Defect,
    /// The name could not be looked up; why, for people.
    Dns(String),
    /// Octets came in the clear between the 220 to STARTTLS and the handshake.
    EarlyOctets,
    /// The server sent what is no reply.
    Garbage(ReplyError),
    /// The system's word for it: no connection, no permission.
    Io(String),
    /// Something of this server's own: the message cannot be read, holds an octet that no message may hold, or its record
    /// cannot be written; why, for people.
    Local(String),
    /// A login is needed, and neither PLAIN nor LOGIN is offered.
    NoMechanism,
    /// TLS is needed, and STARTTLS is not offered.
    NoStartTls,
    /// The password's file cannot be used; why, for people.
    Password(String),
    /// The server refused.
    Refused(RemoteReply),
    /// The address to connect from is none of this machine's; why, for people.
    Source(String),
    /// This server is being stopped.
    Stopped,
    /// Nothing came in time.
    Timeout,
    /// The handshake failed for another reason than the certificate; why, for people.
    Tls(String),
    /// A reply that does not belong here.
    Unexpected(RemoteReply),
}

/// The end of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// One for each recipient of the message, in their order.
    pub outcomes: Vec<Outcome>,
    /// True if another transaction may begin on this connection.
    pub reusable: bool,
    /// True if a RCPT was accepted, whatever came after it.
    pub accepted: bool,
    /// True if the last MAIL had parameters.
    pub parameters: bool,
    /// True if NOTIFY, ORCPT, RET and ENVID were handed on: the server answers for reports from now on
    /// (RFC 3461 section 5.2).
    pub dsn: bool,
}

/// What became of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The connection ended in the middle.
    Lost {
        /// Where.
        stage: Stage,
        /// True if the final dot may have been sent: the message may have arrived.
        after_dot: bool,
        /// Why.
        fault: Fault,
    },
    /// Nothing was said about this recipient, or it counts as not said; try it again.
    NotTried(Unreached),
    /// The server refused.
    Refused {
        /// MAIL, RCPT, DATA or the dot.
        stage: Stage,
        /// Its reply, 4xx or 5xx; after 421 the connection ends.
        reply: RemoteReply,
    },
    /// The server took the message for this recipient.
    Sent(RemoteReply),
    /// It cannot be sent to this server.
    Unfit(Unfit),
}

/// Why a recipient was not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreached {
    /// The server takes no more recipients in one transaction: this one belongs into the next.
    NextTransaction,
    /// A connection that was used before ended before this transaction had an answer: another will do.
    Stale,
    /// This server is being stopped.
    Stopped,
}

/// Why a message cannot be sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It has more octets than are taken: so many, at most.
    TooLarge(u64),
    /// It needs SMTPUTF8, which is not offered.
    Utf8,
}

impl Fault {
    /// What a reply means that is not the one that was hoped for.
    pub(super) fn of(reply: &RemoteReply) -> Self {
        let refuses = reply.is_transient() || reply.is_permanent();
        if refuses { Self::Refused(reply.clone()) } else { Self::Unexpected(reply.clone()) }
    }

    /// The word for the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "certificate",
            Self::Closed => "closed",
            Self::Defect => "defect",
            Self::Dns(_) => "dns",
            Self::EarlyOctets => "early-octets",
            Self::Garbage(_) => "garbage",
            Self::Io(_) => "io",
            Self::Local(_) => "local",
            Self::NoMechanism => "no-mechanism",
            Self::NoStartTls => "no-starttls",
            Self::Password(_) => "password",
            Self::Refused(_) => "refused",
            Self::Source(_) => "source",
            Self::Stopped => "stopped",
            Self::Timeout => "timeout",
            Self::Tls(_) => "tls",
            Self::Unexpected(_) => "unexpected-reply",
        }
    }
}

impl Unfit {
    /// The enhanced status code (RFC 3463, RFC 6531 section 3.3).
    pub fn status(self) -> RemoteStatus {
        match self {
            Self::TooLarge(_) => (5, 3, 4),
            Self::Utf8 => (5, 6, 7),
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(why) => write!(f, "certificate: {why}"),
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Defect => f.write_str("a defect of this program"),
            Self::EarlyOctets => f.write_str("octets came in the clear before the TLS handshake"),
            Self::Garbage(error) => error.fmt(f),
            Self::Dns(why) | Self::Io(why) | Self::Local(why) | Self::Password(why) | Self::Source(why) => f.write_str(why),
            Self::NoMechanism => f.write_str("the server offers neither AUTH PLAIN nor AUTH LOGIN"),
            Self::NoStartTls => f.write_str("the server does not offer STARTTLS"),
            Self::Refused(reply) | Self::Unexpected(reply) => reply.fmt(f),
            Self::Stopped => f.write_str("this server is being stopped"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Tls(why) => write!(f, "TLS: {why}"),
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage.name(), self.fault)
    }
}

impl Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(most) => write!(f, "the next server takes messages of {most} octets at most"),
            Self::Utf8 => f.write_str("the next server does not take addresses or header fields in UTF-8"),
        }
    }
}
