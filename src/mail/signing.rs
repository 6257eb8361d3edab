//! Which keys sign a message, and the signing itself while the message streams in.
//!
//! The domain of the header From chooses the keys ([`Keyring`]); a message whose From is not understood, is there twice, or
//! is of a domain without keys is not signed. A [`Signer`] is fed with the message as it is written, header section
//! first, and then gives one field for each key and each wanted set of fields. It keeps the header section and a hash.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::dkim::{self, BodyHasher, Fields, SigningKey, ascii_domain};
use super::from::{self, Author};

/// The keys of all domains.
#[derive(Default)]
pub struct Keyring(BTreeMap<String, Vec<SigningKey>>);

/// A message that is being signed.
#[derive(Clone)]
pub struct Signer {
    keyring: Arc<Keyring>,
    domain: String,
    header: Vec<u8>,
    /// Octets of the header section, its empty line included, that have not gone by yet.
    left: usize,
    body: BodyHasher,
}

impl Keyring {
    /// A keyring of these keys; those of one domain sign in this order.
    pub fn new(keys: impl IntoIterator<Item = SigningKey>) -> Self {
        let mut domains: BTreeMap<String, Vec<SigningKey>> = BTreeMap::new();
        for key in keys {
            domains.entry(key.domain().to_owned()).or_default().push(key);
        }
        Self(domains)
    }

    /// All keys, taken out.
    pub fn into_keys(self) -> impl Iterator<Item = SigningKey> {
        self.0.into_values().flatten()
    }

    /// The keys that sign for a domain.
    pub fn of(&self, domain: &str) -> &[SigningKey] {
        self.0.get(&ascii_domain(domain)).map_or(&[], Vec::as_slice)
    }
}

impl Signer {
    /// A signer of the message that begins with `start`, which holds the header section whole, whatever follows it; `None` if
    /// there is no key for the message. All of the message is to be fed then, `start` too.
    pub fn begin(keyring: &Arc<Keyring>, start: &[u8]) -> Option<Self> {
        let end = memchr::memmem::find(start, b"\n\n");
        let header = end.map_or(start, |end| &start[..=end]);
        let domain = author_domain(header).filter(|domain| !keyring.of(domain).is_empty())?;
        let left = end.map_or(start.len(), |end| end + 2);
        Some(Self { keyring: Arc::clone(keyring), domain, header: header.to_vec(), left, body: BodyHasher::new() })
    }

    /// Takes the next octets of the message, of lines that end in LF.
    pub fn update(&mut self, text: &[u8]) {
        let header = text.len().min(self.left);
        self.left -= header;
        self.body.update(&text[header..]);
    }

    /// One field for each key, signed at `time` (seconds of Unix time): DKIM-Signature, folded with LF, without a line end
    /// after its last line. `None` if the library refuses one.
    pub fn sign(&self, time: u64, fields: Fields) -> Option<Vec<String>> {
        let hash = self.body.clone().finish();
        let sign = |key: &SigningKey| {
            let field = key.sign(&self.header, &hash, time, fields)?;
            Some(field.trim_end_matches('\n').to_owned())
        };
        self.keyring.of(&self.domain).iter().map(sign).collect()
    }
}

/// The domain of the first author, in lower case; `None` unless there is one From field that can be understood.
pub fn author_domain(header: &[u8]) -> Option<String> {
    let fields = dkim::fields_of(header);
    let mut named = fields.iter().filter(|(name, _)| name == "from");
    let (Some((_, field)), None) = (named.next(), named.next()) else { return None };
    match from::parse(&field[memchr::memchr(b':', field)? + 1..]) {
        Ok(Author::Mailboxes(mailboxes)) => Some(mailboxes.first()?.address.domain().to_string().to_lowercase()),
        Ok(Author::Word(_)) | Err(_) => None,
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.values().flatten()).finish()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("domain", &self.domain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::dkim::Algorithm;

    fn keyring() -> Arc<Keyring> {
        let key = |domain: &str, selector: &str| SigningKey::generate(domain, selector, Algorithm::Ed25519).unwrap().0;
        Arc::new(Keyring::new([key("example.org", "a"), key("example.org", "b"), key("other.example", "c")]))
    }

    #[test]
    fn the_domain_of_from_chooses() {
        let rows: [(&str, Option<&str>); 9] = [
            ("From: alice@Example.org\n", Some("example.org")),
            ("Subject: x\nFROM : Alice <alice@example.org>,\n bob@other.example\nSender: c@other.example\n", Some("example.org")),
            ("From: alice@sub.example.org\n", None),
            ("From: alice@elsewhere.example\n", None),
            ("From: root (Cron)\n", None),
            ("From: a@example.org\nFrom: b@other.example\n", None),
            ("From: <a@example.org> <b@other.example>\n", None),
            ("Subject: x\n", None),
            ("Subject: x\n\nFrom: a@example.org\n", None),
        ];
        let keyring = keyring();
        for (header, want) in rows {
            let signer = Signer::begin(&keyring, header.as_bytes());
            assert_eq!(signer.as_ref().map(|signer| signer.domain.as_str()), want, "{header}");
        }
        let signer = Signer::begin(&keyring, b"From: a@example.org\n").unwrap();
        let fields = signer.sign(1, Fields::All).unwrap();
        assert!(fields[0].contains("s=a;") && fields[1].contains("s=b;") && fields.len() == 2, "{fields:?}");
        assert!(fields.iter().all(|field| field.starts_with("DKIM-Signature: ") && !field.ends_with('\n')));
    }

    /// What is fed in pieces of any size is signed as what is known as a whole; the start may hold a part of the body.
    #[test]
    fn pieces() {
        let keyring = keyring();
        let header = "From: a@example.org\nSubject: x\n";
        for (message, body) in [
            (format!("{header}\nbody\n\nmore\n"), "body\n\nmore\n"),
            (format!("{header}\n\n"), "\n"),
            (format!("{header}\n"), ""),
            (header.to_owned(), ""),
        ] {
            let mut hasher = BodyHasher::new();
            hasher.update(body.as_bytes());
            let key = &keyring.of("example.org")[0];
            let want = key.sign(header.as_bytes(), &hasher.finish(), 7, Fields::All).unwrap();
            for step in 1..=message.len() {
                for start in [message.len(), (header.len() + 1).min(message.len())] {
                    let mut signer = Signer::begin(&keyring, &message.as_bytes()[..start]).unwrap();
                    message.as_bytes().chunks(step).for_each(|piece| signer.update(piece));
                    assert_eq!(signer.sign(7, Fields::All).unwrap()[0], want.trim_end(), "{message:?} by {step}");
                }
            }
        }
    }
}
