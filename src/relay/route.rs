//! The settings of a next hop, made ready for couriers.
//!
//! A smarthost always has TLS with a certificate verified against its name; nothing here turns that off.
//! The password is
//! read whenever a connection is opened, so a changed file is taken up by itself, and it is never kept longer.

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::line::Timeouts;
use crate::config::outgoing::{NextHop, Outgoing, Route, TlsMin};
use crate::files;
use crate::mail::dkim::Fields;
use crate::net::connector::{TlsClient, TrustError};
use crate::queue::signature;
use crate::smtp::client::TlsUse;

/// A server to send on to, and how. Cheap to share, not to make: it holds the authorities that are trusted.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The host's name, which its certificate has to be for; or its address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The name in EHLO.
    pub helo: String,
    /// Addresses to connect from, the first of a family counts; empty for any.
    pub source: Vec<IpAddr>,
    /// Octets of a message, at most, whatever the server says.
    pub message_size: Option<u64>,
    /// The login and its password's file.
    pub login: Option<(String, PathBuf)>,
    /// How long what may take.
    pub timeouts: Timeouts,
    /// Which signatures are sent, if any.
    pub signatures: Option<Fields>,
    pub(super) tls: TlsUse,
    pub(super) client: TlsClient,
}

/// Why a password's file cannot be used; its path, and the cure.
#[derive(Debug)]
pub enum PasswordError {
    /// It holds no password, or more than one line.
    Form(PathBuf),
    /// Others than the owner and the group may read it, or others than the owner write it; its mode.
    Mode(PathBuf, u32),
    /// It cannot be read.
    Read(PathBuf, io::Error),
}

/// The widest mode of a password's file.
const MODE_MAX: u32 = 0o640;
/// Octets of a password's file, at most.
const PASSWORD_MAX: u64 = 4096;

impl Hop {
    /// A smarthost by its settings; `hostname` is said in EHLO where they name nothing else.
    pub fn smarthost(route: &Route, hostname: &str) -> Result<Self, TrustError> {
        let client = TlsClient::new(route.ca.as_deref(), route.tls_min == TlsMin::V13)?;
        Ok(Self {
            host: route.url.host.clone(),
            port: route.url.port,
            helo: route.helo.clone().unwrap_or_else(|| hostname.to_owned()),
            source: route.source.clone(),
            message_size: route.message_size,
            login: route.login.clone().zip(route.password_file.clone()),
            timeouts: Timeouts::default(),
            signatures: signature::fields(route.dkim),
            tls: if route.url.implicit_tls { TlsUse::Implicit } else { TlsUse::Required },
            client,
        })
    }

    /// The servers that recipients' domains name: TLS where it is offered, no certificate asked for. The host is filled in for
    /// each ([`Self::to`]).
    pub fn mx(outgoing: &Outgoing, hostname: &str) -> Result<Self, TrustError> {
        let mx = outgoing.mx.as_ref();
        Ok(Self {
            host: String::new(),
            port: outgoing.mx_port,
            helo: mx.and_then(|mx| mx.helo.clone()).unwrap_or_else(|| hostname.to_owned()),
            source: mx.map(|mx| mx.source.clone()).unwrap_or_default(),
            message_size: None,
            login: None,
            timeouts: Timeouts::default(),
            signatures: signature::fields(outgoing.dkim_mode(&NextHop::Mx)),
            tls: TlsUse::Offered,
            client: TlsClient::unverified()?,
        })
    }

    /// The same for a host of this name, with TLS if `secured`. For [`Self::mx`].
    pub(super) fn to(&self, host: &str, secured: bool) -> Self {
        let tls = if secured { TlsUse::Offered } else { TlsUse::None };
        Self { host: host.to_owned(), tls, ..self.clone() }
    }
}

/// Reads a password: one line, whose end does not count. A mode wider than 0640 is an error.
pub fn read_password(path: &Path) -> Result<Zeroizing<Vec<u8>>, PasswordError> {
    let read = |error| PasswordError::Read(path.to_owned(), error);
    let (file, data) = files::open(path).map_err(read)?;
    let mode = data.mode() & 0o7777;
    if mode & !MODE_MAX != 0 {
        return Err(PasswordError::Mode(path.to_owned(), mode));
    }
    // With its whole size at once, so that no copy is left where it grew.
    let mut text = Zeroizing::new(Vec::with_capacity(PASSWORD_MAX as usize + 1));
    file.take(PASSWORD_MAX + 1).read_to_end(&mut text).map_err(read)?;
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    if text.last() == Some(&b'\r') {
        text.pop();
    }
    if text.is_empty() || text.len() as u64 > PASSWORD_MAX || memchr::memchr3(b'\n', b'\r', 0, &text).is_some() {
        return Err(PasswordError::Form(path.to_owned()));
    }
    Ok(text)
}

impl std::fmt::Display for PasswordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Form(path) => write!(f, "{}: must hold the password in one line, and nothing else", path.display()),
            Self::Mode(path, mode) => {
                write!(f, "{}: has mode {mode:04o}, others may see the password; chmod 0640 or narrower", path.display())
            }
            Self::Read(path, error) => write!(f, "{}: {error}; check the path and its rights", path.display()),
        }
    }
}

impl std::error::Error for PasswordError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn passwords() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let read = |text: &[u8], mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read_password(&path).map(|password| password.to_vec())
        };
        for (text, want) in [(&b"secret\n"[..], &b"secret"[..]), (b"secret", b"secret"), (b" s \xff\r\n", b" s \xff")] {
            assert_eq!(read(text, 0o600).unwrap(), want, "{text:?}");
        }
        for text in [&b""[..], b"\n", b"a\nb\n", b"a\n\n", b"a\0b", &[b'x'; 5000]] {
            assert!(matches!(read(text, 0o600), Err(PasswordError::Form(_))), "{text:?}");
        }
        for mode in [0o400, 0o440, 0o600, 0o640] {
            assert!(read(b"x", mode).is_ok(), "{mode:o}");
        }
        for mode in [0o644, 0o660, 0o650, 0o740, 0o604, 0o4600] {
            assert!(matches!(read(b"x", mode), Err(PasswordError::Mode(_, found)) if found == mode), "{mode:o}");
        }
        assert!(matches!(read_password(&dir.path().join("none")), Err(PasswordError::Read(..))));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(read_password(&fifo), Err(PasswordError::Read(..))), "it would wait for a writer");
    }
}
