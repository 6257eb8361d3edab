//! Certificates of a next hop, good and bad, and the authority that is to be trusted.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

/// The certificate of the next hop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Leaf {
    Expired,
    ForAnotherName,
    Good,
    NotYet,
    OfAnotherAuthority,
    /// Good, with TLS 1.2 alone.
    Old,
}

/// Authorities, the one that is trusted and another.
pub struct Authority {
    trusted: Issuer<'static, KeyPair>,
    stranger: Issuer<'static, KeyPair>,
    /// The certificate that is trusted.
    pub pem: String,
    /// That of the other.
    pub stranger_pem: String,
}

const OLD: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// The names of a good certificate: one that every host knows, one for a file of hosts, one for a name server.
const NAMES: [&str; 3] = ["localhost", "listed.example", "asked.example"];

impl Authority {
    pub fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            (certificate, Issuer::new(params, key))
        };
        let (certificate, trusted) = authority("trusted");
        let (other, stranger) = authority("stranger");
        Self { trusted, stranger, pem: certificate.pem(), stranger_pem: other.pem() }
    }

    /// What a server with such a certificate has.
    pub fn server(&self, leaf: Leaf) -> Arc<ServerConfig> {
        self.server_for(leaf, WebPkiClientVerifier::no_client_auth())
    }

    /// One that wants a certificate of the client's, which it says once the client has finished the handshake (TLS 1.3).
    pub fn server_that_wants_a_certificate(&self) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        self.server_for(Leaf::Good, clients)
    }

    fn server_for(&self, leaf: Leaf, clients: Arc<dyn ClientCertVerifier>) -> Arc<ServerConfig> {
        let names = if leaf == Leaf::ForAnotherName { &["other.example"][..] } else { &NAMES };
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        if leaf == Leaf::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 2, 1);
        }
        if leaf == Leaf::NotYet {
            params.not_before = date_time_ymd(2090, 1, 1);
            params.not_after = date_time_ymd(2090, 2, 1);
        }
        let key = KeyPair::generate().unwrap();
        let issuer = if leaf == Leaf::OfAnotherAuthority { &self.stranger } else { &self.trusted };
        let certificate: CertificateDer<'static> = params.signed_by(&key, issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(if leaf == Leaf::Old { OLD } else { rustls::ALL_VERSIONS })
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Arc::new(config)
    }
}
