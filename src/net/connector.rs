//! TLS towards a server elsewhere. TLS 1.3 and 1.2, nothing older (RFC 8996). The certificate is verified against the host's
//! name (RFC 6125), by the system's authorities or by those of a file, unless the client is
//! [`TlsClient::unverified`], for servers that are found by MX.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::tls;
use crate::files;

/// Ready for handshakes with servers. Sessions are resumed where a server allows it.
#[derive(Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
}

/// Why there can be no handshakes; names the file.
#[derive(Debug)]
pub enum TrustError {
    /// The file holds no certificate.
    Empty(PathBuf),
    /// The file cannot be read, or is no PEM.
    Read(PathBuf, io::Error),
    /// The system has no authorities.
    System,
    /// The TLS library refuses the settings.
    Library(String),
}

/// Why a handshake failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// The certificate is not one that is trusted for this name.
    Certificate(String),
    /// The connection failed.
    Io(io::Error),
    /// Anything else.
    Protocol(String),
}

impl TlsClient {
    /// Trusts the authorities of a PEM file, or the system's. `only_v13` leaves TLS 1.2 out.
    pub fn new(ca: Option<&Path>, only_v13: bool) -> Result<Self, TrustError> {
        let roots = match ca {
            Some(path) => from_file(path)?,
            None => from_system()?,
        };
        let versions =
            if only_v13 { &[&rustls::version::TLS13][..] } else { &[&rustls::version::TLS13, &rustls::version::TLS12] };
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .map_err(|error| TrustError::Library(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }

    /// Asks for no certificate that is trusted: for servers that may speak in the clear as well, where TLS of any kind hides
    /// more than none (RFC 7435).
    pub fn unverified() -> Result<Self, TrustError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| TrustError::Library(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }

    /// The start of a handshake with the host of this name, which may be an IP address.
    pub(super) fn connection(&self, host: &str) -> Result<ClientConnection, HandshakeError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| HandshakeError::Protocol(error.to_string()))?;
        ClientConnection::new(Arc::clone(&self.config), name).map_err(|error| HandshakeError::Protocol(error.to_string()))
    }
}

/// Takes every certificate, while the handshake still has to be signed by its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl HandshakeError {
    /// Tells the certificate from the rest.
    pub(super) fn of(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::Certificate(reason(why)),
            Some(rustls::Error::NoCertificatesPresented) => Self::Certificate("the server has none".into()),
            Some(other) => Self::Protocol(other.to_string()),
            None => Self::Io(error),
        }
    }
}

/// How [`HandshakeError::Certificate`] begins where the certificate is an authority's own.
pub const IS_AUTHORITY: &str = "it is the certificate of an authority (CA:TRUE)";
/// The same where its time is over.
pub const EXPIRED: &str = "it has expired";
/// The same where its time is still to come.
pub const NOT_YET: &str = "it is not valid yet";
/// The same where it is for other names.
pub const OTHER_NAME: &str = "it is not for ";
/// The same where nothing that is trusted vouches for it.
pub const UNTRUSTED: &str = "no authority that is trusted has issued it";

/// Names of a certificate that are listed where it is for others; it may have thousands.
const NAMES_MAX: usize = 5;

/// Why a certificate is not trusted, in words; those of the library where there are none here.
fn reason(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired => EXPIRED.to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("{EXPIRED}, {} days ago", time.as_secs().saturating_sub(not_after.as_secs()) / 86_400)
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            // The library writes `DnsName("mx.example")`.
            let names: Vec<&str> = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name)).collect();
            let listed = match names.len() {
                0 => "no name".to_owned(),
                all if all > NAMES_MAX => format!("{} and {} more", names[..NAMES_MAX].join(", "), all - NAMES_MAX),
                _ => names.join(", "),
            };
            format!("{OTHER_NAME}{}, but for {listed}", expected.to_str())
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => NOT_YET.to_owned(),
        CertificateError::UnknownIssuer => UNTRUSTED.to_owned(),
        CertificateError::Other(other)
            if other.0.downcast_ref::<webpki::Error>().is_some_and(|error| *error == webpki::Error::CaUsedAsEndEntity) =>
        {
            IS_AUTHORITY.to_owned()
        }
        other => other.to_string(),
    }
}

fn from_file(path: &Path) -> Result<RootCertStore, TrustError> {
    let read = |error| TrustError::Read(path.to_owned(), error);
    let pem = files::read(path, files::TEXT_MAX).map_err(read)?;
    let mut roots = RootCertStore::empty();
    for certificate in tls::certificates(&pem) {
        roots
            .add(certificate.map_err(read)?)
            .map_err(|error| read(io::Error::new(io::ErrorKind::InvalidData, error.to_string())))?;
    }
    if roots.is_empty() { Err(TrustError::Empty(path.to_owned())) } else { Ok(roots) }
}

/// A certificate of the system's that the library does not understand is left out, as others may be enough.
fn from_system() -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TrustError::System) } else { Ok(roots) }
}

impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(path) => write!(f, "{}: holds no PEM certificate; give the authority's", path.display()),
            Self::Read(path, error) => write!(f, "{}: {error}; check the path, its rights and that it is PEM", path.display()),
            Self::System => f.write_str("the system has no certificate authorities; install ca-certificates, or give `ca`"),
            Self::Library(error) => f.write_str(error),
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(why) | Self::Protocol(why) => f.write_str(why),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TrustError {}
impl std::error::Error for HandshakeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_judged_in_words() {
        let unix = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let other = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("mx.example").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let as_server = rustls::OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity));
        for (why, want) in [
            (CertificateError::UnknownIssuer, UNTRUSTED),
            (CertificateError::Expired, EXPIRED),
            (CertificateError::ExpiredContext { time: unix(1_000_000), not_after: unix(800_000) }, "it has expired, 2 days ago"),
            (other(&["DnsName(\"a.example\")", "b"]), "it is not for mx.example, but for a.example, b"),
            (other(&[]), "it is not for mx.example, but for no name"),
            (other(&["a", "b", "c", "d", "e"]), "it is not for mx.example, but for a, b, c, d, e"),
            (other(&["a", "b", "c", "d", "e", "f", "g"]), "it is not for mx.example, but for a, b, c, d, e and 2 more"),
            (CertificateError::NotValidYetContext { time: unix(1), not_before: unix(2) }, NOT_YET),
            (CertificateError::Other(as_server), IS_AUTHORITY),
            (CertificateError::Revoked, "Revoked"),
        ] {
            assert_eq!(reason(&why), want);
        }
    }

    #[test]
    fn files_of_authorities() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(matches!(TlsClient::new(Some(&path), false), Err(TrustError::Read(..))));
        // Not waited for: it would keep a server from its start, and a courier from everything else.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let fifo = path.clone();
        std::thread::spawn(move || tell.send(TlsClient::new(Some(&fifo), false).map(drop)));
        let outcome = told.recv_timeout(std::time::Duration::from_secs(20)).expect("a FIFO is waited for");
        assert!(matches!(outcome, Err(TrustError::Read(..))), "{outcome:?}");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "no PEM\n").unwrap();
        assert!(matches!(TlsClient::new(Some(&path), false), Err(TrustError::Empty(_))));
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, damaged).unwrap();
        assert!(matches!(TlsClient::new(Some(&path), false), Err(TrustError::Read(..))));
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&path, pair.cert.pem()).unwrap();
        assert!(TlsClient::new(Some(&path), true).is_ok());
    }
}
