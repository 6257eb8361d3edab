//! The words between a client and its driver: what happened, what to write, what to do next.

use zeroize::Zeroizing;

use super::super::address::ReversePath;
use super::super::event::Envelope;
use super::super::remote::RemoteReply;
use super::super::reply_reader::Response;
use super::super::sasl::Credentials;
use super::outcome::{Failure, Fault, Finished};

/// How a connection is to be used.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The name in EHLO: a domain name, or an address literal with its brackets.
    pub helo: String,
    /// How TLS is come to.
    pub tls: TlsUse,
    /// Log in with these; the server must offer PLAIN or LOGIN.
    pub credentials: Option<Credentials>,
    /// Octets of a message, at most, whatever the server says.
    pub message_size: Option<u64>,
}

/// How TLS is come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsUse {
    /// From the first octet (RFC 8314); [`Event::Connected`] is said after the handshake.
    Implicit,
    /// By STARTTLS if it is offered and not refused.
    Offered,
    /// Not at all.
    None,
    /// By STARTTLS, or nothing is sent.
    Required,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender, and the recipients of which each gets an [`Outcome`]. Its `utf8` means that the header section needs
    /// SMTPUTF8; addresses are looked at here.
    pub envelope: Envelope,
    /// Octets with CR LF line ends, stuffed dots not counted (RFC 1870 section 4).
    pub size: u64,
    /// AUTH=: the mailbox of the login that handed the message in, or empty if it is not known (RFC 4954 section 5).
    pub auth: Option<String>,
    /// Say no parameters, since the server did not understand them before; SMTPUTF8 is said where it is needed.
    pub plain: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Send this message; after [`Next::Ready`], or [`Next::Finished`] with a reusable connection.
    Begin(Box<Message>),
    /// The connection stands, TLS included if it is implicit.
    Connected,
    /// The content has been read to its end. From here on it may arrive: the final dot is written next.
    ContentSent,
    /// The connection is of no use any more.
    Lost(Fault),
    /// Ask whether the server would take mail from this sender, and send none; when a transaction could be begun.
    Probe(ReversePath),
    /// End the connection; when a transaction could be begun.
    Quit,
    /// A reply. One that comes within the content, before [`Event::ContentSent`], is told as well.
    Reply {
        /// The reply.
        response: &'a Response,
        /// True if octets wait after it.
        more: bool,
    },
    /// Undo what a probe began, if anything; [`Next::Ready`] follows. When a transaction could be begun.
    Reset,
    /// The TLS handshake is done.
    Secured,
}

/// What to write and what to do next.
#[derive(Debug)]
pub struct Step {
    /// Octets to write, all at once. They may hold a password and are wiped.
    pub write: Zeroizing<Vec<u8>>,
    /// What to do after that.
    pub next: Next,
}

/// What the driver does next, and which event it owes. [`Event::Lost`] may be said instead of any.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Close; owes nothing. Why, unless it was asked for.
    Close(Option<Failure>),
    /// Write the content by [`Encoder`](crate::smtp::encoder::Encoder), without the final dot; owes [`Event::ContentSent`].
    Content,
    /// The transaction is over; owes [`Event::Begin`], [`Event::Probe`] or [`Event::Quit`] if the connection is reusable,
    /// else nothing.
    Finished(Finished),
    /// Do the TLS handshake; owes [`Event::Secured`].
    Handshake,
    /// Log in or not, a transaction can be begun; owes [`Event::Begin`], [`Event::Probe`] or [`Event::Quit`].
    Ready,
    /// The server's answer about a sender; otherwise as [`Next::Ready`].
    Probed(RemoteReply),
    /// Wait for a reply; owes [`Event::Reply`].
    Reply(Wait),
}

/// What is waited for; how long is the driver's to know (RFC 5321 section 4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A reply to a command.
    Command,
    /// The reply to the final dot.
    DataEnd,
    /// The reply to DATA.
    DataInit,
    /// The greeting.
    Greeting,
}
