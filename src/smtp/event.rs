//! The words between a session and its driver: what happened, what to say, what to do next.

use std::sync::Arc;

use super::address::{ForwardPath, ReversePath};
use super::command::{Body, Recipient};
use super::dsn::Ret;
use super::reply::{Refusal, Refused, Reply};
use super::rules::Service;
use super::sasl::Credentials;

/// What a session is held to.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The name in the greeting.
    pub hostname: Arc<str>,
    /// What the port is for.
    pub service: Service,
    /// True if STARTTLS can be offered.
    pub tls: bool,
    /// True if DSN is offered (RFC 3461); only where there is a login.
    pub dsn: bool,
    /// Octets of a message, at most.
    pub message_size: u64,
    /// Recipients of a message, at most.
    pub recipients: usize,
    /// Refused commands after which the session ends.
    pub errors: u32,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A command or a SASL response whose line ends otherwise than in CR LF, or holds a CR, LF or NUL.
    BareLineEnd,
    /// A chunk that is not the last has been read, or could not be kept.
    Chunk(Result<(), Refused>),
    /// A line without its CRLF; `more` if input waits after it.
    Line {
        /// The line.
        line: &'a [u8],
        /// True if the client has sent more already.
        more: bool,
    },
    /// A line longer than a line may be; it was read to its end and dropped.
    LineTooLong,
    /// The credentials were looked at: the login that they are for, or why not.
    Login(Result<String, Refused>),
    /// The connection stands; `early` is what the client sent without waiting for the greeting.
    Opened {
        /// Octets that came too early; should be empty.
        early: &'a [u8],
    },
    /// The TLS handshake is done.
    Secured,
    /// The octets of a refused chunk have gone by.
    Skipped,
    /// The message is durable, under this id, or why not.
    Stored(Result<Receipt, Refused>),
    /// The driver ends the session for a reason of its own.
    Abort(Refusal),
    /// The policy's answer about the sender or the recipient that was asked about.
    Verdict(Result<(), Refused>),
}

/// Under which id a message is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// In the spool, for recipients elsewhere, and in the mailbox of every other.
    Queued(String),
    /// In the mailbox of every recipient.
    Stored(String),
}

/// What to say and what to do next.
#[derive(Debug)]
pub struct Step {
    /// What to say, if anything.
    pub answer: Option<Answer>,
    /// What to do after it.
    pub next: Next,
}

/// Something to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A refusal, to be logged.
    No(Refused),
    /// Anything else.
    Reply(Reply),
}

/// What the driver does next, and which event it owes.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Read so many octets of content; owes [`Event::Chunk`], or [`Event::Stored`] if it is the last.
    Chunk {
        /// Octets.
        size: u64,
        /// True if the message ends with them.
        last: bool,
    },
    /// Flush and close; owes nothing.
    Close,
    /// Read dot-stuffed content; owes [`Event::Stored`].
    Content,
    /// Read a command line; owes [`Event::Line`].
    Line,
    /// Ask whether this recipient is local; owes [`Event::Verdict`].
    Recipient(ForwardPath),
    /// Read a SASL response line; owes [`Event::Line`].
    SaslLine,
    /// Ask whether the login may use this sender; owes [`Event::Verdict`].
    Sender(ReversePath),
    /// Read so many octets and forget them; owes [`Event::Skipped`].
    Skip(u64),
    /// Flush and do the TLS handshake; owes [`Event::Secured`].
    StartTls,
    /// Check these credentials; owes [`Event::Login`].
    Verify {
        /// The mechanism, for the log.
        mechanism: &'static str,
        /// What the client gave.
        credentials: Credentials,
    },
}

/// What a mail transaction has gathered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The sender.
    pub reverse_path: ReversePath,
    /// The recipients so far, as they were given.
    pub recipients: Vec<Recipient>,
    /// What MAIL said of the octets of the content, if it did (RFC 6152).
    pub body: Option<Body>,
    /// True if MAIL said SMTPUTF8.
    pub utf8: bool,
    /// RET: how much of the message a report carries (RFC 3461 section 4.3).
    pub ret: Option<Ret>,
    /// ENVID: the sender's own name for this envelope, decoded (RFC 3461 section 4.4).
    pub envid: Option<String>,
}

/// How a client introduced itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The name it gave.
    pub name: String,
    /// True for EHLO.
    pub extended: bool,
}
