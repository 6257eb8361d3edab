//! DKIM signatures (RFC 6376; RFC 8463 for Ed25519) over what is stored, while it streams in.
//!
//! The text is as the spool has it, with LF line ends, and is signed as it goes over the wire, with CRLF. Both
//! canonicalizations are `relaxed`. A signature has `t=`, and neither `x=` nor `l=`. Nothing in the message is changed.
//!
//! [`BodyHasher`] takes the body in pieces of any size; [`SigningKey::sign`] takes the header section and gives one header
//! field. Signing fails only where the cryptography library does.

mod error;

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::message::field_name;
use crate::smtp::punycode;

pub use error::KeyError;

/// A domain as a signature and DNS have it (RFC 8616 section 4): lower case, international labels as `xn--`.
pub fn ascii_domain(domain: &str) -> String {
    punycode::to_ascii(&domain.to_lowercase()).unwrap_or_else(|| domain.to_lowercase())
}

/// One key that signs for a domain.
pub struct SigningKey {
    domain: String,
    selector: String,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// The kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `ed25519-sha256` (RFC 8463).
    Ed25519,
    /// `rsa-sha256` (RFC 6376 section 3.3.1).
    Rsa,
}

/// Which fields are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fields {
    /// All that RFC 6376 section 5.4.1 recommends.
    #[default]
    All,
    /// The same without Date and Message-ID, for next hops that replace them.
    WithoutId,
}

/// Hashes a body in the `relaxed` canonical form (RFC 6376 section 3.4.4), in memory that does not grow with it.
#[derive(Clone)]
pub struct BodyHasher {
    context: digest::Context,
    /// Empty lines that count only if another line follows.
    empty_lines: u64,
    /// The line has octets other than white space.
    in_line: bool,
    /// White space that counts only if something follows in its line.
    space: bool,
}

/// Bits of an RSA key, at least (RFC 8301 section 3.2 recommends it); the cryptography library takes no smaller one.
pub const RSA_BITS_MIN: usize = 2048;
/// The object identifier id-ecPublicKey in DER (RFC 5480 section 2.1.1).
const EC_PUBLIC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// Octets of a PKCS#8 key (RFC 5958 section 2) within which the identifier of its algorithm begins.
const PKCS8_HEAD: usize = 16;
/// Octets of a line of the signature's field, about.
const LINE_LENGTH: usize = 72;
/// Octets of a name, at most: it stands in one line, between two octets of white space and a colon (RFC 5322 section 2.1.1).
const NAME_MAX: usize = 998 - 3;

/// Fields that are signed if present (RFC 6376 section 5.4.1, RFC 8058 section 4); each also with what begins like it.
const SIGNED: [&str; 14] = [
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "mime-version",
    "auto-submitted",
    "resent-from",
    "resent-to",
];
/// Beginnings of further names.
const SIGNED_PREFIXES: [&str; 2] = ["content-", "list-"];
/// Fields of which none may be added: named once more than they are there (RFC 6376 section 8.15).
const OVERSIGNED: [&str; 6] = ["from", "subject", "date", "to", "cc", "reply-to"];

impl SigningKey {
    /// Reads a private key: PKCS#8, or PKCS#1 for RSA.
    pub fn from_pem(domain: &str, selector: &str, text: &[u8]) -> Result<Self, KeyError> {
        let block = pem::parse(text).map_err(|_| KeyError::NotPem)?;
        // RFC 1421 section 4.6.1.1: `Proc-Type: 4,ENCRYPTED`.
        if block.headers().get("Proc-Type").is_some_and(|kind| kind.contains("ENCRYPTED")) {
            return Err(KeyError::Encrypted);
        }
        let tag = block.tag().to_owned();
        let der = Zeroizing::new(block.into_contents());
        let pair = match tag.as_str() {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der).map(Pair::Rsa),
            "EC PARAMETERS" | "EC PRIVATE KEY" => return Err(KeyError::Elliptic),
            "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
            "PRIVATE KEY" if der.windows(EC_PUBLIC_KEY.len()).take(PKCS8_HEAD).any(|octets| octets == EC_PUBLIC_KEY) => {
                return Err(KeyError::Elliptic);
            }
            "PRIVATE KEY" => RsaKeyPair::from_pkcs8(&der)
                .map(Pair::Rsa)
                .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Pair::Ed25519)),
            tag => return Err(KeyError::of(tag)),
        };
        Ok(Self::new(domain, selector, pair.map_err(|_| KeyError::Unreadable)?))
    }

    /// Makes a key; gives it with its PKCS#8 text in PEM. `None` if the library has no randomness.
    pub fn generate(domain: &str, selector: &str, algorithm: Algorithm) -> Option<(Self, Zeroizing<String>)> {
        let (pair, der) = match algorithm {
            Algorithm::Rsa => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).ok()?;
                let der: Pkcs8V1Der<'_> = pair.as_der().ok()?;
                let der = Zeroizing::new(der.as_ref().to_vec());
                (Pair::Rsa(pair), der)
            }
            Algorithm::Ed25519 => {
                let pair = Ed25519KeyPair::generate().ok()?;
                let der: Pkcs8V1Der<'_> = pair.as_der().ok()?;
                let der = Zeroizing::new(der.as_ref().to_vec());
                (Pair::Ed25519(pair), der)
            }
        };
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let text = Zeroizing::new(pem::encode_config(&pem::Pem::new("PRIVATE KEY", der.to_vec()), config));
        Some((Self::new(domain, selector, pair), text))
    }

    fn new(domain: &str, selector: &str, pair: Pair) -> Self {
        Self { domain: ascii_domain(domain), selector: selector.to_ascii_lowercase(), pair }
    }

    /// The domain that is signed for, `d=`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The selector, `s=`.
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// What the key is of.
    pub fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Ed25519(_) => Algorithm::Ed25519,
            Pair::Rsa(_) => Algorithm::Rsa,
        }
    }

    /// The name of the TXT record that publishes the key (RFC 6376 section 3.6.2.1).
    pub fn record_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// The content of that record (RFC 6376 section 3.6.1; RFC 8463 section 4.2).
    pub fn record(&self) -> String {
        let public = match &self.pair {
            Pair::Ed25519(pair) => STANDARD.encode(pair.public_key().as_ref()),
            Pair::Rsa(pair) => {
                let der: Option<PublicKeyX509Der<'_>> = pair.public_key().as_der().ok();
                der.map(|der| STANDARD.encode(der.as_ref())).unwrap_or_default()
            }
        };
        let kind = match self.algorithm() {
            Algorithm::Ed25519 => "ed25519",
            Algorithm::Rsa => "rsa",
        };
        format!("v=DKIM1; k={kind}; p={public}")
    }

    /// Signs a header section (lines that end in LF, without the empty line) and a body's hash at `time` (seconds of Unix
    /// time). Gives the field DKIM-Signature, folded, with LF line ends. `None` if the library refuses.
    pub fn sign(&self, header: &[u8], body_hash: &[u8; 32], time: u64, fields: Fields) -> Option<String> {
        let present = fields_of(header);
        let names = names_to_sign(&present, fields);
        let algorithm = match self.algorithm() {
            Algorithm::Ed25519 => "ed25519-sha256",
            Algorithm::Rsa => "rsa-sha256",
        };
        let mut field =
            format!("DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed; d={};\n\ts={};", self.domain, self.selector);
        field.push_str(&format!(" t={time};\n\t"));
        push_folded(&mut field, "h=", names.iter().map(String::as_str), ":");
        field.push_str(&format!(";\n\tbh={};\n\tb=", STANDARD.encode(body_hash)));
        let signature = self.signature(&signed_octets(&present, &names, &field))?;
        let encoded = STANDARD.encode(signature);
        let pieces = encoded.as_bytes().chunks(LINE_LENGTH).map(|piece| str::from_utf8(piece).unwrap_or_default());
        field.push_str(&pieces.collect::<Vec<_>>().join("\n\t "));
        field.push('\n');
        Some(field)
    }

    /// The octets of `b=`, over what is hashed of the header section. `None` if the library refuses.
    fn signature(&self, input: &[u8]) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input, &mut signature).ok()?;
                Some(signature)
            }
            // RFC 8463 section 3: Ed25519 signs the hash.
            Pair::Ed25519(pair) => Some(pair.try_sign(digest::digest(&SHA256, input).as_ref()).ok()?.as_ref().to_vec()),
        }
    }
}

impl BodyHasher {
    /// Before the first octet of a body.
    pub fn new() -> Self {
        Self { context: digest::Context::new(&SHA256), empty_lines: 0, in_line: false, space: false }
    }

    /// Takes the next octets, of lines that end in LF.
    pub fn update(&mut self, mut text: &[u8]) {
        while let Some(&octet) = text.first() {
            let run = text.iter().position(|octet| matches!(octet, b' ' | b'\t' | b'\n')).unwrap_or(text.len());
            if run > 0 {
                self.begin_word();
                self.context.update(&text[..run]);
                text = &text[run..];
                continue;
            }
            text = &text[1..];
            if octet != b'\n' {
                self.space = true;
            } else {
                match std::mem::take(&mut self.in_line) {
                    true => self.context.update(b"\r\n"),
                    false => self.empty_lines += 1,
                }
                self.space = false;
            }
        }
    }

    /// The hash, once the body is whole (`bh=`).
    pub fn finish(mut self) -> [u8; 32] {
        if self.in_line {
            self.context.update(b"\r\n");
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(self.context.finish().as_ref());
        hash
    }

    fn begin_word(&mut self) {
        for _ in 0..std::mem::take(&mut self.empty_lines) {
            self.context.update(b"\r\n");
        }
        if std::mem::take(&mut self.space) {
            self.context.update(b" ");
        }
        self.in_line = true;
    }
}

/// The fields of a header section, each with its name in lower case.
pub(super) fn fields_of(header: &[u8]) -> Vec<(String, &[u8])> {
    let mut fields = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < header.len() {
        at = memchr::memchr(b'\n', &header[at..]).map_or(header.len(), |length| at + length + 1);
        if !matches!(header.get(at), Some(b' ' | b'\t')) {
            let whole = &header[start..at];
            if let Some(name) = field_name(whole) {
                fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), whole));
            }
            start = at;
        }
    }
    fields
}

/// What stands in `h=`: each field as often as it is there, some once more.
fn names_to_sign(present: &[(String, &[u8])], fields: Fields) -> Vec<String> {
    let left_out = |name: &str| fields == Fields::WithoutId && matches!(name, "date" | "message-id");
    let mut names: Vec<String> = Vec::new();
    for name in SIGNED.iter().filter(|name| !left_out(name)) {
        let oversigned = usize::from(OVERSIGNED.contains(name));
        let count = present.iter().filter(|(known, _)| known == name).count() + oversigned;
        names.extend(std::iter::repeat_n((*name).to_owned(), count));
    }
    // A name may hold a semicolon (RFC 5322 section 3.6.8), which would end the list.
    let fits = |name: &str| !name.contains(';') && name.len() <= NAME_MAX;
    let is_further = |name: &str| SIGNED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && fits(name);
    let further = present.iter().filter(|(name, _)| is_further(name));
    names.extend(further.map(|(name, _)| name.clone()));
    names
}

/// What is hashed of a header section: the named fields, and last the signature's own with an empty `b=` (RFC 6376 section
/// 3.7).
fn signed_octets(present: &[(String, &[u8])], names: &[String], field: &str) -> Vec<u8> {
    // By name, as there may be tens of thousands of fields.
    let mut left: HashMap<&str, Vec<&[u8]>> = HashMap::new();
    for (name, whole) in present {
        left.entry(name).or_default().push(whole);
    }
    let mut input = Vec::new();
    for name in names {
        // Of several with one name the last first (RFC 6376 section 5.4.2); one that is not there adds nothing.
        if let Some(whole) = left.get_mut(name.as_str()).and_then(Vec::pop) {
            push_relaxed_field(&mut input, whole);
            input.extend_from_slice(b"\r\n");
        }
    }
    push_relaxed_field(&mut input, field.as_bytes());
    input
}

/// The `relaxed` form of a field without its end (RFC 6376 section 3.4.2).
fn push_relaxed_field(out: &mut Vec<u8>, field: &[u8]) {
    let colon = memchr::memchr(b':', field).unwrap_or(field.len());
    out.extend(field_name(field).unwrap_or_default().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let value = field.get(colon + 1..).unwrap_or_default();
    let mut words = value.split(|octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n')).filter(|word| !word.is_empty());
    out.extend_from_slice(words.next().unwrap_or_default());
    for word in words {
        out.push(b' ');
        out.extend_from_slice(word);
    }
}

/// Appends a list whose lines are folded before they grow long.
fn push_folded<'a>(out: &mut String, tag: &str, items: impl Iterator<Item = &'a str>, separator: &str) {
    out.push_str(tag);
    let mut length = tag.len() + 8;
    for (number, item) in items.enumerate() {
        if number > 0 {
            out.push_str(separator);
        }
        if length + item.len() > LINE_LENGTH {
            out.push_str("\n\t ");
            length = 8;
        }
        out.push_str(item);
        length += item.len() + separator.len();
    }
}

impl Default for BodyHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for BodyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyHasher").finish_non_exhaustive()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("domain", &self.domain).field("selector", &self.selector).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};

    use super::*;

    fn body(text: &str) -> String {
        let hash = |step: usize| {
            let mut hasher = BodyHasher::new();
            text.as_bytes().chunks(step).for_each(|piece| hasher.update(piece));
            STANDARD.encode(hasher.finish())
        };
        assert_eq!(hash(1), hash(text.len().max(1)), "{text:?} octet by octet");
        hash(1)
    }

    /// RFC 6376 section 3.4.5 (its example's relaxed form), appendix A, and RFC 8463 appendix A.
    #[test]
    fn bodies() {
        let plain = |text: &[u8]| STANDARD.encode(digest::digest(&SHA256, text));
        let rows: [(&str, &[u8]); 9] = [
            ("", b""),
            ("\n", b""),
            ("\n\n \t\n", b""),
            (" C \nD \t E\n\n\n", b" C\r\nD E\r\n"),
            ("a", b"a\r\n"),
            ("a\n\n\nb\n", b"a\r\n\r\n\r\nb\r\n"),
            ("a \n \t\nb", b"a\r\n\r\nb\r\n"),
            ("\t x\n", b" x\r\n"),
            ("\u{f6} \u{f6}\n", "\u{f6} \u{f6}\r\n".as_bytes()),
        ];
        for (text, want) in rows {
            assert_eq!(body(text), plain(want), "{text:?}");
        }
        assert_eq!(
            body("Hi.\n\nWe lost the game.  Are you hungry yet?\n\nJoe.\n"),
            "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
        );
    }

    /// RFC 6376 section 3.4.5.
    #[test]
    fn fields_in_relaxed_form() {
        let rows: [(&str, &str); 4] =
            [("A: X\n", "a:X"), ("B : Y\t\n\tZ  \n", "b:Y Z"), ("Subject:\n", "subject:"), ("x:\n a\n", "x:a")];
        for (field, want) in rows {
            let mut out = Vec::new();
            push_relaxed_field(&mut out, field.as_bytes());
            assert_eq!(str::from_utf8(&out).unwrap(), want);
        }
    }

    /// RFC 8463 appendix A.1 and A.2: the key, and the record that publishes it.
    fn key_of_rfc_8463() -> SigningKey {
        let seed = STANDARD.decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=").unwrap();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        SigningKey::new("football.example.com", "brisbane", Pair::Ed25519(pair))
    }

    #[test]
    fn the_key_of_rfc_8463() {
        let key = key_of_rfc_8463();
        assert_eq!(key.record(), "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
        assert_eq!(key.record_name(), "brisbane._domainkey.football.example.com");
    }

    /// RFC 8463 appendix A.3, both signatures: `b=` of the Ed25519 key comes out as it is published; that of the RSA key of 1024
    /// bits, with which the library does not sign, verifies over the same octets. That says as much: a key has one signature of
    /// given octets (RFC 8017 section 8.2).
    ///
    /// The example of RFC 6376 appendix A has the same body hash, as both forms of its body are alike (erratum 3192), but its
    /// header section is in the `simple` form, which is not made here.
    #[test]
    fn the_signatures_of_rfc_8463() {
        let unfolded = |field: &str| field.lines().map(str::trim_start).collect::<String>();
        let octets = |(field, value): &(&str, &str)| {
            let present = fields_of(HEADER_OF_RFC_8463.as_bytes());
            let names = field.split_once("h=").and_then(|(_, rest)| rest.split_once(';')).unwrap().0;
            let names: Vec<String> = names.split(':').map(|name| name.trim().to_owned()).collect();
            assert_eq!(names.len(), 8, "{names:?}");
            (signed_octets(&present, &names, field), unfolded(value))
        };
        let (input, published) = octets(&ED25519_OF_RFC_8463);
        assert_eq!(STANDARD.encode(key_of_rfc_8463().signature(&input).unwrap()), published);

        let (mut input, published) = octets(&RSA_OF_RFC_8463);
        let public = STANDARD.decode(unfolded(RSA_RECORD_OF_RFC_8463)).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, public);
        let published = STANDARD.decode(published).unwrap();
        assert!(public.verify(&input, &published).is_ok());
        input.push(b' ');
        assert!(public.verify(&input, &published).is_err());
    }

    #[test]
    fn what_is_signed() {
        let header =
            b"From: a@b.example\nX-Other: 1\nTo: c@d.example\nList-Id: <l>\nList-X;l=1: y\nDate: now\nContent-Type: text/plain\nTo: e\n";
        let names = |fields| names_to_sign(&fields_of(header), fields).join(":");
        assert_eq!(names(Fields::All), "from:from:reply-to:to:to:to:cc:subject:date:date:list-id:content-type");
        assert_eq!(names(Fields::WithoutId), "from:from:reply-to:to:to:to:cc:subject:list-id:content-type");

        let (key, _) = SigningKey::generate("b.example", "pb1", Algorithm::Ed25519).unwrap();
        for (length, signed) in [(NAME_MAX, true), (NAME_MAX + 1, false)] {
            let name = format!("{:x<length$}", "list-");
            let header = format!("From: a@b.example\n{name}:\n");
            let field = key.sign(header.as_bytes(), &BodyHasher::new().finish(), 1, Fields::All).unwrap();
            assert_eq!(field.contains(&name), signed, "a name of {length} octets");
            assert!(field.lines().all(|line| line.len() <= 998), "{field}");
        }
    }

    /// Each by its name, once more where none may be added; what else stands in the header section is not named.
    #[test]
    fn every_field_that_is_signed() {
        let once = [
            "Sender",
            "Message-ID",
            "In-Reply-To",
            "References",
            "MIME-Version",
            "Auto-Submitted",
            "Resent-From",
            "Resent-To",
            "Content-Type",
            "Content-Transfer-Encoding",
            "Content-Disposition",
            "Content-Language",
            "List-Id",
            "List-Post",
            "List-Unsubscribe",
            "List-Unsubscribe-Post",
        ];
        let oversigned = ["From", "Subject", "Date", "To", "Cc", "Reply-To"];
        let others = ["Received", "Return-Path", "Bcc", "Comments", "Keywords", "X-Mailer", "DKIM-Signature", "Sender-X"];
        let names = once.iter().chain(&oversigned).chain(&others);
        let header: String = names.map(|name| format!("{name}: a@b.example\n")).collect();
        let (key, _) = SigningKey::generate("b.example", "pb1", Algorithm::Ed25519).unwrap();
        let signed = |fields| {
            let field = key.sign(header.as_bytes(), &BodyHasher::new().finish(), 1_764_000_000, fields).unwrap();
            let value = field.strip_prefix("DKIM-Signature:").unwrap().split_whitespace().collect::<String>();
            let tags: Vec<(&str, &str)> = value.split(';').map(|tag| tag.split_once('=').unwrap()).collect();
            // No `l=`, to which text could be added, and no `x=`: mail may be late.
            assert_eq!(tags.iter().map(|(name, _)| *name).collect::<String>(), "vacdsthbhb", "{field}");
            let of = |wanted| tags.iter().find(|(name, _)| *name == wanted).unwrap().1.to_owned();
            assert_eq!((of("t"), of("c")), ("1764000000".to_owned(), "relaxed/relaxed".to_owned()));
            let mut names: Vec<String> = of("h").split(':').map(str::to_owned).collect();
            names.sort();
            names
        };
        let all = once.iter().chain(&oversigned).chain(&oversigned);
        let mut all: Vec<String> = all.map(|name| name.to_ascii_lowercase()).collect();
        all.sort();
        assert_eq!(signed(Fields::All), all);
        all.retain(|name| !["date", "message-id"].contains(&name.as_str()));
        assert_eq!(signed(Fields::WithoutId), all);
    }

    #[test]
    fn an_international_domain_is_written_as_dns_has_it() {
        let (key, _) = SigningKey::generate("B\u{fc}cher.example", "pb1", Algorithm::Ed25519).unwrap();
        assert_eq!(key.record_name(), "pb1._domainkey.xn--bcher-kva.example");
        let field = key.sign(b"From: a@b.example\n", &BodyHasher::new().finish(), 1, Fields::All).unwrap();
        assert!(field.contains(" d=xn--bcher-kva.example;"), "{field}");
        let keyring = crate::mail::signing::Keyring::new([key]);
        for from in ["b\u{fc}cher.example", "XN--bcher-kva.example"] {
            assert_eq!(keyring.of(from).len(), 1, "{from}");
        }
    }

    #[test]
    fn keys_survive_their_text() {
        for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
            let (key, text) = SigningKey::generate("Example.org", "PB1", algorithm).unwrap();
            let read = SigningKey::from_pem("example.org", "pb1", text.as_bytes()).unwrap();
            assert_eq!((read.algorithm(), read.record()), (algorithm, key.record()));
            let field = read.sign(b"From: a@example.org\n", &BodyHasher::new().finish(), 1, Fields::All).unwrap();
            assert!(field.lines().all(|line| line.len() <= 78 + 16), "{field}");
            assert!(field.starts_with("DKIM-Signature: v=1; a=") && field.ends_with('\n'));
        }
        assert_eq!(SigningKey::from_pem("d", "s", b"nothing").unwrap_err(), KeyError::NotPem);
        let other = "-----BEGIN X-----\nAAAA\n-----END X-----\n";
        assert_eq!(SigningKey::from_pem("d", "s", other.as_bytes()).unwrap_err(), KeyError::NotPem);
        let damaged = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(SigningKey::from_pem("d", "s", damaged.as_bytes()).unwrap_err(), KeyError::Unreadable);
        assert_eq!(SigningKey::from_pem("d", "s", SMALL.as_bytes()).unwrap_err(), KeyError::Unreadable);
    }

    #[test]
    fn a_key_of_another_kind_is_named() {
        let pkcs8 = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let sec1 = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
        let block = |tag| format!("-----BEGIN {tag}-----\nAAAA\n-----END {tag}-----\n");
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        // RFC 1421 section 4.6, as OpenSSL writes it with -traditional.
        let old_way = SMALL.replace("KEY-----\nMII", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,C5\n\nMII");
        for (text, want) in [
            (pkcs8.as_str(), "is an EC key, which no DKIM signature can be made with; make one with `pillarbox dkim add DOMAIN`"),
            (sec1, "is an EC key"),
            (&format!("{parameters}{sec1}"), "is an EC key"),
            (encrypted, "is encrypted; decrypt it with `openssl pkey -in FILE -out NEW`"),
            (&old_way, "is encrypted; decrypt it"),
            (&block("OPENSSH PRIVATE KEY"), "is a key of OpenSSH; make one with `pillarbox dkim add DOMAIN`"),
            (&block("CERTIFICATE"), "is a certificate, and no private key; give the key"),
            (&block("PUBLIC KEY"), "is a public key; give the private one"),
            (&block("RSA PUBLIC KEY"), "is a public key; give the private one"),
        ] {
            let error = SigningKey::from_pem("d", "s", text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(want), "{text}{error}");
        }
    }

    const HEADER_OF_RFC_8463: &str = "\
From: Joe SixPack <joe@football.example.com>\n\
To: Suzie Q <suzie@shopping.example.net>\n\
Subject: Is dinner ready?\n\
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\n\
Message-ID: <20030712040037.46341.5F8J@football.example.com>\n";
    /// A signature's field up to the value of `b=`, and that value.
    const ED25519_OF_RFC_8463: (&str, &str) = (
        "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\n \
d=football.example.com; i=@football.example.com;\n \
q=dns/txt; s=brisbane; t=1528637909; h=from : to :\n \
subject : date : message-id : from : subject : date;\n \
bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\n \
b=",
        "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\n \
Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\n",
    );
    const RSA_OF_RFC_8463: (&str, &str) = (
        "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\n \
d=football.example.com; i=@football.example.com;\n \
q=dns/txt; s=test; t=1528637909; h=from : to : subject :\n \
date : message-id : from : subject : date;\n \
bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\n \
b=",
        "F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\n \
DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\n \
dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\n",
    );
    /// `p=` of the record `test._domainkey.football.example.com`.
    const RSA_RECORD_OF_RFC_8463: &str = "\
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWR\n\
iGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutAC\n\
DfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3\n\
Ip3G+2kryOTIKT+l/K4w3QIDAQAB\n";

    /// A key of 1024 bits, made for this test.
    const SMALL: &str = "\
-----BEGIN RSA PRIVATE KEY-----\n\
MIICWwIBAAKBgQCz4RhWuRy8CmElbkDsDOiPhrCEgIAR0XK0gwVjpFWou9C6eopt\n\
kUG4UHKw/6vVyOMQvLG3ane0YELqaQ0b+QLBmmRcrVs8M/RGYPGwebuU5m+L5nC8\n\
O9wh+QsJgJpU1Q3o8kb2ES3bvHo2pnQ64RcXECx3Hu8Q/auW8nRvJYxprwIDAQAB\n\
AoGAHzlDcEpRopJqqoSo4FCdTcyjd1yW3oDs2Eil9tXfyJpRcQ00WjCMp+HPBspa\n\
mZF1WMJoVt40SSsscmQp0mE3CPmsZaXOI2HX3WDHgUfHlLcXaFgGR+oXhlIDFZHI\n\
aAvTE4IcYViz2LCFYU2lAbmlUHSukyFwUNwI2h/0s8ImzoECQQDcxZUVr/IHUXbx\n\
oWXt0mInJNJdaeFSR9VKCXxVoW4t739nB1D0cX25ssUiLjEGb26stN/bCYztJ+5I\n\
lG1eNdN7AkEA0JUSy26X8mnwXY+dYCUL5BrZl9HtoIAgisnuojJJ7uE3vUyHeSdF\n\
ye8CMPVmaz02vvF5YVf2SNMXuQYW3iTiXQJAYdiYCLKgPCoY42K7ADp8Egk5yvkA\n\
Si1YFKY7muAfKvC4sHsHoC8kn8bhpBKA2+9LR/QqOrPy57EI5NYT2utUPQJAarls\n\
JXUQADRejbDXKIOsIunuHjWG7dHBVOJf3NP4amcIey52PvJuThWiPGTEI+jtYyPx\n\
JHK6jKaeA8ju2Hls7QJASojvGMC0PabH/ms7Dnyl53NAaA11u/l35jHVugRZ1gE6\n\
y41zI/TASQY656f4+m74qPVDA9VFEGS2bGf099IV2A==\n\
-----END RSA PRIVATE KEY-----\n\
";
}
