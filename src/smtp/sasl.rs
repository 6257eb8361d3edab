//! The two SASL mechanisms, PLAIN (RFC 4616) and LOGIN, as far as SMTP carries them (RFC 4954).
//!
//! What a client answers is turned into [`Credentials`] or an error; whether they are right is not asked here. Everything
//! that held a password is wiped when it is dropped, and [`Credentials`] show no password when they are printed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Octets of a line in an AUTH exchange with its CRLF, at most (RFC 4954 section 4).
pub const SASL_LINE_MAX: usize = 12_288;

/// A login and its password, as a client gave them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The login that the client gives (RFC 4616: authcid).
    pub login: String,
    /// The password that it gives.
    pub password: Zeroizing<Vec<u8>>,
    /// True if it asks to act as another than `login` (an authorization identity, RFC 4616 section 2), which is never right.
    pub foreign: bool,
}

/// An exchange that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// LOGIN has the name and waits for the password.
    LoginPassword(Zeroizing<Vec<u8>>),
    /// LOGIN waits for the name.
    LoginUser,
    /// PLAIN waits for its one response.
    Plain,
}

/// What follows from a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Ask for more: send 334 and [`Exchange::challenge`].
    Continue(Exchange),
    /// The exchange is complete.
    Done(Credentials),
}

/// Why an exchange ends without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslError {
    /// The client sent `*`.
    Cancelled,
    /// The base64 is wrong, or what it holds is not what the mechanism wants.
    Malformed,
}

/// The mechanisms that are offered, as EHLO lists them.
pub const MECHANISMS: &str = "PLAIN LOGIN";

impl Exchange {
    /// The start of a mechanism by its name, which is case-blind; `None` if it is not offered.
    pub fn start(mechanism: &str) -> Option<Self> {
        match mechanism {
            name if name.eq_ignore_ascii_case("PLAIN") => Some(Self::Plain),
            name if name.eq_ignore_ascii_case("LOGIN") => Some(Self::LoginUser),
            _ => None,
        }
    }

    /// The mechanism's name.
    pub fn mechanism(&self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::LoginUser | Self::LoginPassword(_) => "LOGIN",
        }
    }

    /// The text after `334 `. Some clients compare these to the letter.
    pub fn challenge(&self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::LoginUser => "VXNlcm5hbWU6",
            Self::LoginPassword(_) => "UGFzc3dvcmQ6",
        }
    }

    /// Takes an initial response; `=` is an empty one (RFC 4954 section 4).
    pub fn initial(self, response: &[u8]) -> Result<Progress, SaslError> {
        match response {
            b"=" => self.take(Zeroizing::new(Vec::new())),
            b"" => Err(SaslError::Malformed),
            _ => self.respond(response),
        }
    }

    /// Takes a response line without its CRLF.
    pub fn respond(self, line: &[u8]) -> Result<Progress, SaslError> {
        if line == b"*" {
            return Err(SaslError::Cancelled);
        }
        let decoded = STANDARD.decode(line).map(Zeroizing::new).map_err(|_| SaslError::Malformed)?;
        self.take(decoded)
    }

    fn take(self, decoded: Zeroizing<Vec<u8>>) -> Result<Progress, SaslError> {
        match self {
            Self::LoginUser => Ok(Progress::Continue(Self::LoginPassword(decoded))),
            Self::LoginPassword(login) => credentials(&login, &decoded).map(Progress::Done),
            Self::Plain => {
                let mut parts = decoded.split(|b| *b == 0);
                match (parts.next(), parts.next(), parts.next(), parts.next()) {
                    (Some(authzid), Some(authcid), Some(password), None) => {
                        let mut credentials = credentials(authcid, password)?;
                        // Logins are compared case-blind.
                        let same = |text: &str| text.to_lowercase() == credentials.login.to_lowercase();
                        credentials.foreign = !authzid.is_empty() && !std::str::from_utf8(authzid).is_ok_and(same);
                        Ok(Progress::Done(credentials))
                    }
                    _ => Err(SaslError::Malformed),
                }
            }
        }
    }
}

fn credentials(login: &[u8], password: &[u8]) -> Result<Credentials, SaslError> {
    let login = std::str::from_utf8(login).map_err(|_| SaslError::Malformed)?.to_owned();
    Ok(Credentials { login, password: Zeroizing::new(password.to_vec()), foreign: false })
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("login", &self.login).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(decoded: &[u8]) -> Result<Progress, SaslError> {
        Exchange::Plain.respond(STANDARD.encode(decoded).as_bytes())
    }

    fn done(login: &str, password: &str) -> Result<Progress, SaslError> {
        Ok(Progress::Done(Credentials { login: login.into(), password: Zeroizing::new(password.into()), foreign: false }))
    }

    #[test]
    fn plain_has_three_parts() {
        assert_eq!(plain(b"\0a\0b"), done("a", "b"));
        assert_eq!(plain(b"a\0a\0b"), done("a", "b"));
        assert_eq!(plain(b"\0\0"), done("", ""));
        assert_eq!(plain("\0jörg\0gr\u{fc}n".as_bytes()), done("jörg", "grün"));
        for bad in [&b""[..], b"a", b"a\0b", b"\0a\0b\0", b"\0a\0b\0c", b"\0\xff\0b"] {
            assert_eq!(plain(bad), Err(SaslError::Malformed), "{bad:?}");
        }
        for (authzid, foreign) in [("", false), ("a", false), ("A", false), ("b", true), ("a ", true), ("ä", true)] {
            let Ok(Progress::Done(credentials)) = plain(format!("{authzid}\0a\0c").as_bytes()) else { panic!("{authzid}") };
            assert_eq!(credentials.foreign, foreign, "{authzid}");
        }
    }

    #[test]
    fn base64_is_strict() {
        for bad in ["AGEAYg", "AGEAYg=", "AGEAYg===", "A GEAYg==", "AGEAYh==", "%%%", "AGEAYg==x", "=", "AGEA\tYg=="] {
            assert_eq!(Exchange::Plain.respond(bad.as_bytes()), Err(SaslError::Malformed), "{bad}");
        }
    }

    #[test]
    fn star_cancels_anywhere() {
        for exchange in [Exchange::Plain, Exchange::LoginUser, Exchange::LoginPassword(Zeroizing::new(vec![1]))] {
            assert_eq!(exchange.respond(b"*"), Err(SaslError::Cancelled));
        }
    }

    #[test]
    fn login_asks_twice() {
        let start = Exchange::start("login").unwrap();
        assert_eq!(start.challenge(), "VXNlcm5hbWU6");
        let Ok(Progress::Continue(next)) = start.respond(b"YQ==") else { panic!() };
        assert_eq!(next.challenge(), "UGFzc3dvcmQ6");
        assert_eq!(next.respond(b"Yg=="), done("a", "b"));
    }

    #[test]
    fn initial_responses() {
        assert_eq!(Exchange::Plain.initial(b"AGEAYg=="), done("a", "b"));
        assert_eq!(Exchange::Plain.initial(b"="), Err(SaslError::Malformed));
        let Ok(Progress::Continue(next)) = Exchange::LoginUser.initial(b"=") else { panic!() };
        assert_eq!(next.respond(b""), done("", ""));
        assert_eq!(Exchange::start("CRAM-MD5"), None);
    }

    #[test]
    fn nothing_prints_a_password() {
        let Ok(Progress::Done(credentials)) = plain(b"\0a\0hunter2") else { panic!() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
