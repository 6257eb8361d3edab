//! AUTH from the client's side: PLAIN (RFC 4616) if it is offered, else LOGIN, as far as SMTP carries them (RFC 4954).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::super::sasl::Credentials;
use super::offer::Offer;

/// What the server is expected to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// Nothing more.
    Done,
    /// LOGIN: the password.
    Password,
    /// LOGIN: the name.
    User,
    /// PLAIN without an initial response: everything.
    Plain,
}

/// Octets of a command with its CRLF, at most (RFC 5321 section 4.5.3.1.4); a longer initial response has to wait for a
/// challenge (RFC 4954 section 4).
const COMMAND_MAX: usize = 512;

impl Login {
    /// The first line with the best mechanism offered; `None` if none is known here.
    pub(super) fn begin(offer: &Offer, credentials: &Credentials) -> Option<(Self, Zeroizing<Vec<u8>>)> {
        if !offer.auth_plain {
            return offer.auth_login.then(|| (Self::User, Zeroizing::new(b"AUTH LOGIN\r\n".to_vec())));
        }
        let response = plain(credentials);
        let whole = Zeroizing::new([b"AUTH PLAIN ", &response[..]].concat());
        if whole.len() <= COMMAND_MAX {
            return Some((Self::Done, whole));
        }
        Some((Self::Plain, Zeroizing::new(b"AUTH PLAIN\r\n".to_vec())))
    }

    /// The line that answers a 334, whatever its text; `None` if there is nothing left to say.
    pub(super) fn respond(self, credentials: &Credentials) -> Option<(Self, Zeroizing<Vec<u8>>)> {
        match self {
            Self::Done => None,
            Self::Password => Some((Self::Done, line(&credentials.password))),
            Self::User => Some((Self::Password, line(credentials.login.as_bytes()))),
            Self::Plain => Some((Self::Done, plain(credentials))),
        }
    }
}

fn plain(credentials: &Credentials) -> Zeroizing<Vec<u8>> {
    let parts: [&[u8]; 4] = [b"\0", credentials.login.as_bytes(), b"\0", &credentials.password];
    line(&Zeroizing::new(parts.concat()))
}

fn line(response: &[u8]) -> Zeroizing<Vec<u8>> {
    let encoded = Zeroizing::new(STANDARD.encode(response));
    Zeroizing::new([encoded.as_bytes(), b"\r\n"].concat())
}
