//! What a next hop answers, and at which stage of the dialogue.
//!
//! A reply of a server that mail is sent to is never trusted: its text is bounded and holds printable characters alone
//! before it reaches a log, the spool or a report.

use core::fmt::{self, Display};

/// Class, subject and detail, the latter two up to 999 (RFC 3463 section 2).
pub type RemoteStatus = (u8, u16, u16);

/// A reply of a next hop (RFC 5321 section 4.2), made safe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteReply {
    /// The reply code, 200 to 599.
    pub code: u16,
    /// The enhanced status code, if the first line has one of the reply's own class (RFC 2034 section 4).
    pub status: Option<RemoteStatus>,
    /// The text without codes, lines joined by a space, printable, at most [`TEXT_MAX`] octets.
    pub text: String,
}

/// Where in the dialogue something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Looking up the name, opening the connection.
    Connect,
    /// The TLS handshake, and the check of the certificate.
    Tls,
    /// The greeting.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
    /// DATA, up to its 354.
    Data,
    /// The content and the final dot.
    Dot,
    /// RSET or QUIT, after everything is known.
    End,
}

/// Octets of a reply's text that are kept.
pub const TEXT_MAX: usize = 300;

impl RemoteReply {
    /// True for 2xx.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// True for 4xx.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// True for 5xx.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }
}

impl Stage {
    /// Every stage, in the order of a dialogue.
    pub const ALL: [Self; 11] = [
        Self::Connect,
        Self::Tls,
        Self::Greeting,
        Self::Hello,
        Self::StartTls,
        Self::Auth,
        Self::Mail,
        Self::Recipient,
        Self::Data,
        Self::Dot,
        Self::End,
    ];

    /// The word for the log and for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Hello => "ehlo",
            Self::StartTls => "starttls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Recipient => "rcpt",
            Self::Data => "data",
            Self::Dot => "dot",
            Self::End => "end",
        }
    }
}

impl Display for RemoteReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some((class, subject, detail)) = self.status {
            write!(f, " {class}.{subject}.{detail}")?;
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, " {}", self.text) }
    }
}
