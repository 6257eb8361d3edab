//! What the server says: replies (RFC 5321 section 4.2) with enhanced status codes (RFC 2034, RFC 3463).
//!
//! Every "no" has a name, a [`Refusal`], and its code, status and text stand in one table, [`Refusal::parts`]. No 4xx
//! or 5xx is written anywhere else. pillarbox(8) lists them all, with the remedy.

use std::borrow::Cow;
use std::fmt::{self, Display};

/// Class, subject and detail (RFC 3463 section 2).
pub type Status = (u8, u8, u8);

/// A reply that is no refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    status: Option<Status>,
    lines: Lines,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Lines {
    Many(Vec<String>),
    One(Cow<'static, str>),
}

/// A refusal, and what exactly it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which refusal.
    pub why: Refusal,
    about: Option<String>,
}

/// Every refusal there is; [`Refusal::parts`] says how each reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the reason word and the text in the table say it")]
pub enum Refusal {
    AddressThrottled,
    AlreadyLoggedIn,
    AlreadyTls,
    AuthBadBase64,
    AuthBusy,
    AuthCancelled,
    AuthLineTooLong,
    AuthMechanism,
    AuthNotOffered,
    AuthThrottled,
    BadCredentials,
    BadOctet,
    BadRecipient,
    BadSender,
    BadValue,
    BareLineEnd,
    ChunksBegun,
    DiskFull,
    Draining,
    EarlyInput,
    Evicted,
    HeaderFrom,
    HeaderFromUnreadable,
    HeaderTooLarge,
    Hello,
    HelloFirst,
    Http,
    Internal,
    JunkCommands,
    LineTooLong,
    LocalError,
    Loop,
    LoginNeeded,
    MessageTooLarge,
    NoRecipients,
    NoTransaction,
    NotOffered,
    Overloaded,
    PerAddress,
    PasswordChanged,
    Pipelined,
    QueueFull,
    QuotaFull,
    RecipientDomain,
    Relay,
    SenderDomain,
    SenderNotYours,
    SendingLimit,
    SpoolFull,
    Syntax,
    Timeout,
    TlsFirst,
    TlsHello,
    TooManyErrors,
    TooManyRecipients,
    TransactionOpen,
    UnknownCaller,
    UnknownCommand,
    UnknownMailbox,
    UnknownParameter,
    Utf8,
}

/// How a [`Refusal`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The reply code.
    pub code: u16,
    /// The enhanced status code.
    pub status: Status,
    /// The word that the log has as `reason=`.
    pub reason: &'static str,
    /// The text; `{}` stands for what it is about.
    pub text: &'static str,
}

impl Reply {
    /// A line without an enhanced status code: greetings and 3xx carry none (RFC 2034 section 4).
    pub fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status: None, lines: Lines::One(text.into()) }
    }

    /// A line with an enhanced status code.
    pub fn ok(code: u16, status: Status, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status: Some(status), lines: Lines::One(text.into()) }
    }

    /// Several lines without a status code: the answer to EHLO. There must be one line at least.
    pub fn lines(code: u16, lines: Vec<String>) -> Self {
        Self { code, status: None, lines: Lines::Many(lines) }
    }

    /// The reply code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Appends the reply as it goes over the wire.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match &self.lines {
            Lines::One(text) => push_line(out, self.code, ' ', self.status, &[text]),
            Lines::Many(lines) => {
                let last = lines.len().saturating_sub(1);
                for (at, line) in lines.iter().enumerate() {
                    push_line(out, self.code, if at == last { ' ' } else { '-' }, self.status, &[line]);
                }
            }
        }
    }
}

impl Refused {
    /// A refusal that names what it is about. Only printable ASCII of it is repeated, 200 characters at most.
    pub fn about(why: Refusal, what: impl Display) -> Self {
        let text: String = what.to_string().chars().take(200).map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect();
        Self { why, about: Some(text) }
    }

    /// The text with what it is about put in.
    pub fn text(&self) -> Cow<'static, str> {
        let text = self.why.parts().text;
        match &self.about {
            Some(about) => Cow::Owned(text.replacen("{}", about, 1)),
            None => Cow::Borrowed(text),
        }
    }

    /// The text in three parts for the log, which keeps apart what a client may have sent: the words before it, it, and
    /// the words after it.
    pub fn text_parts(&self) -> (Cow<'static, str>, &str, &'static str) {
        let text = self.why.parts().text;
        // What these are about is words of our own.
        let ours = matches!(self.why, Refusal::BadOctet | Refusal::SendingLimit | Refusal::Syntax);
        match (&self.about, text.split_once("{}")) {
            (Some(about), Some((before, after))) if !ours => (before.into(), about, after),
            _ => (self.text(), "", ""),
        }
    }

    /// Appends the refusal as it goes over the wire; `id` is the session's, so that a user can report it.
    pub fn write_to(&self, out: &mut Vec<u8>, id: &str) {
        let parts = self.why.parts();
        push_line(out, parts.code, ' ', Some(parts.status), &[&self.text(), " (", id, ")"]);
    }
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Self {
        Self { why, about: None }
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { code, status: (class, subject, detail), .. } = self.why.parts();
        write!(f, "{code} {class}.{subject}.{detail} {}", self.text())
    }
}

impl Refusal {
    /// The one table of what is said when the answer is no.
    pub const fn parts(self) -> Parts {
        const fn row(code: u16, status: Status, reason: &'static str, text: &'static str) -> Parts {
            Parts { code, status, reason, text }
        }
        match self {
            Self::AddressThrottled => {
                row(421, (4, 7, 0), "address-throttled", "Too many failed logins from your address, try again later")
            }
            Self::AlreadyLoggedIn => row(503, (5, 5, 1), "already-logged-in", "Already logged in"),
            Self::AlreadyTls => row(503, (5, 5, 1), "already-tls", "TLS is already active"),
            Self::AuthBadBase64 => row(501, (5, 5, 2), "auth-malformed", "The response is not what the mechanism wants"),
            Self::AuthBusy => row(454, (4, 7, 0), "auth-busy", "Too many logins at once, try again soon"),
            Self::AuthCancelled => row(501, (5, 7, 0), "auth-cancelled", "Authentication cancelled"),
            Self::AuthLineTooLong => row(500, (5, 5, 6), "auth-line-too-long", "Authentication line too long"),
            Self::AuthMechanism => row(504, (5, 5, 4), "auth-mechanism", "Mechanism not offered, use PLAIN or LOGIN"),
            Self::AuthNotOffered => row(503, (5, 5, 1), "auth-not-offered", "AUTH is not offered on this port"),
            Self::AuthThrottled => row(454, (4, 7, 0), "auth-throttled", "Too many failed logins, try again later"),
            Self::BadCredentials => row(535, (5, 7, 8), "bad-credentials", "Authentication credentials invalid"),
            Self::BadOctet => row(554, (5, 6, 0), "bad-octet", "Message refused: {}; lines end in CR LF"),
            Self::BadRecipient => row(501, (5, 1, 3), "bad-recipient", "Bad recipient address syntax"),
            Self::BadSender => row(501, (5, 1, 7), "bad-sender", "Bad sender address syntax"),
            Self::BadValue => row(501, (5, 5, 4), "bad-value", "Bad value of parameter {}"),
            Self::BareLineEnd => {
                row(500, (5, 5, 2), "bare-line-end", "A command ends in CR LF and holds no other control character")
            }
            Self::ChunksBegun => row(503, (5, 5, 1), "chunks-begun", "BDAT has begun; finish it or send RSET"),
            Self::DiskFull => row(452, (4, 3, 1), "disk-full", "Insufficient system storage, try again later"),
            Self::Draining => row(421, (4, 3, 2), "draining", "Service is shutting down, try again soon"),
            Self::EarlyInput => row(554, (5, 5, 0), "early-input", "Wait for the greeting before you speak"),
            Self::Evicted => row(421, (4, 3, 2), "evicted", "All workers are busy and others wait, try again soon"),
            Self::HeaderFrom => row(550, (5, 7, 1), "header-from", "Header {} is not an address of your login"),
            Self::HeaderFromUnreadable => row(550, (5, 7, 1), "header-from-unreadable", "Header cannot be read: {}"),
            Self::HeaderTooLarge => row(552, (5, 3, 4), "header-too-large", "The header section is larger than {} KiB"),
            Self::Hello => row(501, (5, 5, 4), "hello", "Give your host name, or your address in brackets"),
            Self::HelloFirst => row(503, (5, 5, 1), "hello-first", "Send EHLO first"),
            Self::Http => row(554, (5, 5, 0), "http", "This port speaks SMTP, not HTTP"),
            Self::Internal => row(421, (4, 3, 0), "internal", "Internal error, try again later"),
            Self::JunkCommands => row(421, (4, 7, 0), "junk-commands", "Too many commands without a message"),
            Self::LineTooLong => row(500, (5, 5, 2), "line-too-long", "Line too long"),
            Self::LocalError => row(451, (4, 3, 0), "local-error", "Local error, try again later"),
            Self::Loop => row(554, (5, 4, 6), "loop", "More than {} Received headers: the message loops"),
            Self::LoginNeeded => row(530, (5, 7, 0), "login-needed", "Authentication required"),
            Self::MessageTooLarge => row(552, (5, 3, 4), "message-too-large", "Message is larger than {} octets"),
            Self::NoRecipients => row(554, (5, 5, 1), "no-recipients", "No valid recipients"),
            Self::NoTransaction => row(503, (5, 5, 1), "no-transaction", "Send MAIL first"),
            Self::NotOffered => row(502, (5, 5, 1), "not-offered", "Command not offered here"),
            Self::Overloaded => row(421, (4, 3, 2), "overloaded", "Too many connections, try again soon"),
            Self::PerAddress => row(421, (4, 3, 2), "per-address", "Too many connections from your address"),
            Self::PasswordChanged => {
                row(421, (4, 7, 0), "password-changed", "Your password was changed or removed, log in again")
            }
            Self::Pipelined => row(554, (5, 5, 0), "pipelined", "Wait for the reply before you go on"),
            Self::QueueFull => row(452, (4, 3, 1), "queue-full", "Too much mail waits to be sent, try again later"),
            Self::QuotaFull => row(452, (4, 2, 2), "quota-full", "Mailbox full, try again later"),
            Self::RecipientDomain => row(554, (5, 1, 2), "recipient-domain", "Recipient domain <{}> is not fully qualified"),
            Self::Relay => row(550, (5, 7, 1), "relay", "This server does not relay: <{}> is not local"),
            Self::SenderDomain => row(554, (5, 1, 8), "sender-domain", "Sender domain <{}> is not fully qualified"),
            Self::SenderNotYours => row(550, (5, 7, 1), "sender-not-yours", "<{}> is not an address of your login"),
            Self::SendingLimit => row(450, (4, 7, 1), "sending-limit", "Your login has sent as much as it may; it goes on at {}"),
            Self::SpoolFull => row(452, (4, 3, 1), "spool-full", "Insufficient storage for mail to be sent, try again later"),
            Self::Syntax => row(501, (5, 5, 2), "syntax", "Syntax: {}"),
            Self::Timeout => row(421, (4, 4, 2), "timeout", "Timeout"),
            Self::TlsFirst => row(530, (5, 7, 0), "tls-first", "Must issue STARTTLS first"),
            Self::TlsHello => row(554, (5, 5, 0), "tls-hello", "This port starts without TLS, use STARTTLS"),
            Self::TooManyErrors => row(421, (4, 7, 0), "too-many-errors", "Too many errors"),
            Self::TooManyRecipients => row(452, (4, 5, 3), "too-many-recipients", "Too many recipients"),
            Self::TransactionOpen => row(503, (5, 5, 1), "transaction-open", "A mail transaction is open"),
            Self::UnknownCaller => {
                row(554, (5, 7, 1), "unknown-caller", "You are of another user namespace, which needs a socket with a login")
            }
            Self::UnknownCommand => row(500, (5, 5, 2), "unknown-command", "Command not recognized"),
            Self::UnknownMailbox => row(550, (5, 1, 1), "unknown-mailbox", "No such mailbox: <{}>"),
            Self::UnknownParameter => row(555, (5, 5, 4), "unknown-parameter", "Parameter {} not recognized"),
            Self::Utf8 => row(553, (5, 6, 7), "utf8", "A non-ASCII address needs SMTPUTF8"),
        }
    }

    /// Every refusal; tests hold the transcripts and the manual against it.
    pub const ALL: [Self; 61] = [
        Self::AddressThrottled,
        Self::AlreadyLoggedIn,
        Self::AlreadyTls,
        Self::AuthBadBase64,
        Self::AuthBusy,
        Self::AuthCancelled,
        Self::AuthLineTooLong,
        Self::AuthMechanism,
        Self::AuthNotOffered,
        Self::AuthThrottled,
        Self::BadCredentials,
        Self::BadOctet,
        Self::BadRecipient,
        Self::BadSender,
        Self::BadValue,
        Self::BareLineEnd,
        Self::ChunksBegun,
        Self::DiskFull,
        Self::Draining,
        Self::EarlyInput,
        Self::Evicted,
        Self::HeaderFrom,
        Self::HeaderFromUnreadable,
        Self::HeaderTooLarge,
        Self::Hello,
        Self::HelloFirst,
        Self::Http,
        Self::Internal,
        Self::JunkCommands,
        Self::LineTooLong,
        Self::LocalError,
        Self::Loop,
        Self::LoginNeeded,
        Self::MessageTooLarge,
        Self::NoRecipients,
        Self::NoTransaction,
        Self::NotOffered,
        Self::Overloaded,
        Self::PerAddress,
        Self::PasswordChanged,
        Self::Pipelined,
        Self::QueueFull,
        Self::QuotaFull,
        Self::RecipientDomain,
        Self::Relay,
        Self::SenderDomain,
        Self::SenderNotYours,
        Self::SendingLimit,
        Self::SpoolFull,
        Self::Syntax,
        Self::Timeout,
        Self::TlsFirst,
        Self::TlsHello,
        Self::TooManyErrors,
        Self::TooManyRecipients,
        Self::TransactionOpen,
        Self::UnknownCaller,
        Self::UnknownCommand,
        Self::UnknownMailbox,
        Self::UnknownParameter,
        Self::Utf8,
    ];

    /// True if the session ends after this reply.
    pub fn closes(self) -> bool {
        self.parts().code == 421
            || matches!(
                self,
                Self::BadOctet | Self::BareLineEnd | Self::EarlyInput | Self::Http | Self::Pipelined | Self::TlsHello
            )
    }

    /// True if it counts against the `errors` limit: what a client did wrong, not what it could not know.
    pub fn is_clients_fault(self) -> bool {
        self.parts().code >= 500 || matches!(self, Self::AuthThrottled)
    }
}

fn push_line(out: &mut Vec<u8>, code: u16, separator: char, status: Option<Status>, texts: &[&str]) {
    push_number(out, code);
    out.push(separator as u8);
    if let Some((class, subject, detail)) = status {
        for (part, end) in [(class, b'.'), (subject, b'.'), (detail, b' ')] {
            push_number(out, part.into());
            out.push(end);
        }
    }
    for text in texts {
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn push_number(out: &mut Vec<u8>, number: u16) {
    if number >= 10 {
        push_number(out, number / 10);
    }
    out.push(b'0' + (number % 10) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_consistent() {
        let reasons: HashSet<_> = Refusal::ALL.iter().map(|why| why.parts().reason).collect();
        assert_eq!(reasons.len(), Refusal::ALL.len(), "reason words are unique, and ALL names nothing twice");
        for why in Refusal::ALL {
            let Parts { code, status, reason, text } = why.parts();
            assert!((400..600).contains(&code), "{why:?}");
            assert_eq!(u16::from(status.0), code / 100, "{why:?}");
            assert!(reason.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{why:?}");
            assert!(text.is_ascii() && text.len() <= 100, "{why:?}");
        }
    }

    #[test]
    fn nothing_a_client_sent_breaks_a_line() {
        let refused = Refused::about(Refusal::Relay, "a\r\n250 ok\u{85}ö{}");
        let mut out = Vec::new();
        refused.write_to(&mut out, "id");
        assert_eq!(out, b"550 5.7.1 This server does not relay: <a??250 ok??{}> is not local (id)\r\n");
    }

    #[test]
    fn several_lines() {
        let mut out = Vec::new();
        Reply::lines(250, vec!["a".into(), "b".into()]).write_to(&mut out);
        Reply::ok(221, (2, 0, 0), "Bye").write_to(&mut out);
        Reply::plain(334, "").write_to(&mut out);
        assert_eq!(out, b"250-a\r\n250 b\r\n221 2.0.0 Bye\r\n334 \r\n");
    }
}
