//! Why a key cannot sign, with the cure. Pure; nothing of the file gets here but what kind of block it holds.

use std::fmt;

use super::RSA_BITS_MIN;

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// A certificate (RFC 7468 section 5).
    Certificate,
    /// An EC key, in PKCS#8 or SEC1: DKIM has no algorithm for it.
    Elliptic,
    /// It would have to be decrypted with a password.
    Encrypted,
    /// No PEM block `PRIVATE KEY` or `RSA PRIVATE KEY`.
    NotPem,
    /// A private key as ssh-keygen(1) makes it.
    OpenSsh,
    /// A public key, in PKCS#1 or as RFC 7468 section 13 has it.
    Public,
    /// Neither RSA of [`RSA_BITS_MIN`] or more nor Ed25519, or damaged.
    Unreadable,
}

impl KeyError {
    /// Of a PEM block that is no key to sign with, by its label.
    pub(super) fn of(label: &str) -> Self {
        match label {
            "CERTIFICATE" => Self::Certificate,
            "OPENSSH PRIVATE KEY" => Self::OpenSsh,
            "PUBLIC KEY" | "RSA PUBLIC KEY" => Self::Public,
            _ => Self::NotPem,
        }
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let make = "make one with `pillarbox dkim add DOMAIN`";
        match self {
            Self::Certificate => write!(f, "is a certificate, and no private key; give the key, or {make}"),
            Self::Elliptic => write!(f, "is an EC key, which no DKIM signature can be made with; {make}"),
            Self::Encrypted => f.write_str(
                "is encrypted; decrypt it with `openssl pkey -in FILE -out NEW`, or make another with `pillarbox dkim add DOMAIN`",
            ),
            Self::NotPem => write!(f, "holds no PEM private key; {make}"),
            Self::OpenSsh => write!(f, "is a key of OpenSSH; {make}"),
            Self::Public => write!(f, "is a public key; give the private one, or {make}"),
            Self::Unreadable => write!(f, "is neither an Ed25519 key nor an RSA key of {RSA_BITS_MIN} bits or more; {make}"),
        }
    }
}

impl std::error::Error for KeyError {}
