//! Certificate and key to something that can do handshakes. TLS 1.3 and 1.2, nothing older (RFC 8996).
//!
//! Keys may be ECDSA, RSA or Ed25519, in PKCS#8, SEC1 or PKCS#1. Clients may resume sessions by ticket; the ticket
//! keys live in memory only and change by themselves.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, InvalidMessage, PeerIncompatible, ServerConfig};
use x509_cert::der::Decode as _;

/// Ready for handshakes.
#[derive(Clone)]
pub struct TlsServer {
    config: Arc<ServerConfig>,
    leaf: CertificateDer<'static>,
}

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite's IANA name.
    pub cipher: &'static str,
    /// True if the client resumed an earlier session.
    pub resumed: bool,
}

/// Why a pair cannot be used; names the file.
#[derive(Debug)]
pub enum TlsError {
    /// The certificate file holds no certificate.
    NoCertificate(PathBuf),
    /// The key file holds no key in a known format.
    NoKey(PathBuf),
    /// The key is not the certificate's.
    Mismatch(PathBuf, PathBuf),
    /// A file cannot be read.
    Read(PathBuf, io::Error),
    /// The TLS library refuses them.
    Refused(PathBuf, PathBuf, String),
}

impl TlsServer {
    /// Reads and checks a pair of PEM files.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| TlsError::Read(path.to_owned(), error));
        Self::from_pem((certificate, &read(certificate)?), (key, &read(key)?))
    }

    /// Checks a pair that was read already; the paths are for messages.
    pub fn from_pem((certificate, chain_pem): (&Path, &[u8]), (key, key_pem): (&Path, &[u8])) -> Result<Self, TlsError> {
        let chain: Vec<CertificateDer<'static>> =
            certificates(chain_pem).collect::<Result<_, _>>().map_err(|error| TlsError::Read(certificate.to_owned(), error))?;
        let leaf = chain.first().cloned().ok_or_else(|| TlsError::NoCertificate(certificate.to_owned()))?;
        let private: PrivateKeyDer<'static> = rustls_pemfile::private_key(&mut &*key_pem)
            .map_err(|error| TlsError::Read(key.to_owned(), error))?
            .ok_or_else(|| TlsError::NoKey(key.to_owned()))?;
        let refused = |error: rustls::Error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch(certificate.to_owned(), key.to_owned()),
            other => TlsError::Refused(certificate.to_owned(), key.to_owned(), other.to_string()),
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(refused)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(refused)?;
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(refused)?;
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config), leaf })
    }

    /// For the stream alone.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// When the certificate ends; `None` if it cannot be read out of it.
    pub fn not_after(&self) -> Option<SystemTime> {
        not_after(&self.leaf)
    }

    /// True if the certificate is for this host name.
    pub fn is_for(&self, hostname: &str) -> bool {
        let name = ServerName::try_from(hostname.to_owned());
        let certificate = webpki::EndEntityCert::try_from(&self.leaf);
        matches!((name, certificate), (Ok(name), Ok(certificate)) if certificate.verify_is_valid_for_subject_name(&name).is_ok())
    }

    /// True if both hold the same certificate.
    pub fn is_same_certificate(&self, other: &Self) -> bool {
        self.leaf == other.leaf
    }
}

impl TlsInfo {
    pub(super) fn of(connection: &rustls::CommonState) -> Option<Self> {
        let version = match connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let cipher = connection.negotiated_cipher_suite()?.suite();
        let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        Some(Self { version, cipher: iana_name(cipher), resumed })
    }
}

/// The certificates of a PEM text, in its order.
pub(super) fn certificates(mut pem: &[u8]) -> impl Iterator<Item = io::Result<CertificateDer<'static>>> {
    let read = move || rustls_pemfile::certs(&mut pem).next();
    std::iter::from_fn(read)
}

/// When a certificate ends; `None` if it cannot be read out of it.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let end: Duration = certificate.tbs_certificate.validity.not_after.to_unix_duration();
    UNIX_EPOCH.checked_add(end)
}

/// The library writes TLS 1.3 suites in its own way.
fn iana_name(suite: rustls::CipherSuite) -> &'static str {
    match suite {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").finish_non_exhaustive()
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate(path) => {
                write!(f, "{}: holds no PEM certificate; give the full chain, as certbot's fullchain.pem", path.display())
            }
            Self::NoKey(path) => {
                write!(f, "{}: holds no PEM private key (PKCS#8, SEC1 or PKCS#1); give certbot's privkey.pem", path.display())
            }
            Self::Mismatch(certificate, key) => write!(
                f,
                "{}: the key is not the one of the certificate in {}; give both from the same issue",
                key.display(),
                certificate.display()
            ),
            Self::Read(path, error) => {
                let cure = match error.kind() {
                    io::ErrorKind::NotFound => "issue the certificate, or correct the path",
                    io::ErrorKind::PermissionDenied => "start as root, or correct its owner and mode",
                    // The key helper has ended, and the error says what to do.
                    io::ErrorKind::BrokenPipe => return write!(f, "{}: {error}", path.display()),
                    _ => "correct the path, or what stands there",
                };
                write!(f, "{}: {error}; {cure}", path.display())
            }
            Self::Refused(certificate, key, error) => {
                write!(f, "{} and {}: {error}; issue them anew", certificate.display(), key.display())
            }
        }
    }
}

impl std::error::Error for TlsError {}

/// Why a client's handshake failed, in words for whoever sets that client up, with the library's own after them.
pub fn client_fault(error: &io::Error) -> String {
    let library = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let words = match library {
        Some(rustls::Error::PeerIncompatible(why)) => match why {
            // Without the extension it cannot be TLS 1.2 as RFC 5246 has it, or it is older.
            PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled => "the client knows no TLS 1.2",
            PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon => {
                "the client has no key exchange or cipher in common with the server and the kind of its key"
            }
            _ => return error.to_string(),
        },
        Some(rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnsupportedCertificate,
        )) => "the client does not trust the certificate",
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "what the client says is no TLS",
        _ => return error.to_string(),
    };
    format!("{words} ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_a_client_from_tls_is_said_in_words() {
        let said = |error: rustls::Error| client_fault(&io::Error::new(io::ErrorKind::InvalidData, error));
        for (error, want) in [
            (PeerIncompatible::SignatureAlgorithmsExtensionRequired.into(), "the client knows no TLS 1.2 (peer is incompatible"),
            (PeerIncompatible::NoKxGroupsInCommon.into(), "the client has no key exchange or cipher in common"),
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), "the client does not trust the certificate ("),
            (InvalidMessage::InvalidContentType.into(), "what the client says is no TLS ("),
            (rustls::Error::HandshakeNotComplete, "handshake not complete"),
        ] {
            let text = said(error);
            assert!(text.starts_with(want), "{text}");
        }
        assert_eq!(client_fault(&io::ErrorKind::UnexpectedEof.into()), "unexpected end of file");
    }
}
