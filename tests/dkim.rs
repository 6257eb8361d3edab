//! Signatures, held against another implementation: dkimpy verifies what is signed here.

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use common::python_with;
use pillarbox::mail::dkim::{Algorithm, BodyHasher, Fields, SigningKey};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Header sections and bodies, as the spool has them.
const MESSAGES: [(&str, &str, &str); 17] = [
    ("plain", "From: alice@example.org\nTo: bob@example.net\nSubject: x\nDate: Wed, 25 Nov 2026 10:00:00 +0000\n", "Hello\n"),
    ("no body", "From: alice@example.org\n", ""),
    ("one empty line", "From: alice@example.org\n", "\n"),
    ("only empty lines", "From: alice@example.org\n", "\n\n\n"),
    ("only white space", "From: alice@example.org\n", " \n\t \n \n"),
    ("white space without a line end", "From: alice@example.org\n", "a\n \t"),
    ("empty lines at the end", "From: alice@example.org\nSubject:\n", "a  b\t c \n\n \n\n\n"),
    ("no last line end", "From: alice@example.org\n", "cut"),
    (
        "8-bit",
        "From: =?utf-8?q?J=C3=B6rg?= <j\u{f6}rg@example.org>\nSubject: \u{4f60}\u{597d}  \u{1f600}\n",
        "\u{e4}\u{f6}\u{fc}\n.\n..\n",
    ),
    (
        "folded and repeated",
        "Received: one\nTo: a@b.example,\n\t c@d.example\nTo: second@e.example\nFROM:  Alice\n  <alice@example.org> \nList-Id: <l.example>\n\
         List-Unsubscribe: <https://l.example/u>\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\nContent-Type: text/plain;\n charset=utf-8\n",
        "  leading\n\ttab\n",
    ),
    ("folds of white space alone", "From:\n alice@example.org\nSubject: a\n \n\t\n  b \n \nTo:\n\t\n b@c.example\n", "x\n"),
    ("List-Unsubscribe-Post by itself", "From: a@example.org\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\n", "x\n"),
    (
        "each oversigned field twice",
        "Subject: 1\nFrom: a@example.org\nCc: 1\nTo: 1\nDate: 1\nReply-To: 1\nSubject: 2\nReply-To: 2\nCc: 2\nTo: 2\nDate: 2\n",
        "x\n",
    ),
    ("groups", "From: a@example.org\nTo: undisclosed-recipients:;\nCc: some: b@c.example, d@e.example;\n", "x\n"),
    (
        "colons and signatures in values",
        "From: a@example.org\nSubject: a: b; b=xyz; h=from:to\nDKIM-Signature: v=1; a=x; b=old\n",
        "x\n",
    ),
    ("case", "fROM: a@example.org\nSUBJECT: X\ncontent-TYPE: text/plain\nlIST-iD: <l>\n", "x\n"),
    (
        "many fields",
        "From: a@example.org\nReferences: <1@x> <2@x>\n\t<3@x>\nIn-Reply-To: <3@x>\nMessage-ID: <4@x>\nSender: a@example.org\n",
        "x\n",
    ),
];

/// One process for all messages: it reads a record on a line, the length of a message on the next, and the message; its answer is
/// a line. A field is added that each signature must notice.
const VERIFY: &str = r#"
import dkim, sys
read = sys.stdin.buffer
while True:
    record = read.readline().strip()
    if not record: break
    message = read.read(int(read.readline()))
    def verify(m):
        try: return dkim.verify(m, dnsfunc=lambda name, timeout=5: record if name == b'pb1._domainkey.example.org.' else None)
        except Exception as error: return repr(error)
    added = [verify(name + b': added\r\n' + message) for name in (b'From', b'Subject', b'To', b'Cc', b'Reply-To')]
    print('ok' if verify(message) is True and not any(added) else f'{verify(message)!r} {added!r}', flush=True)
"#;

struct Dkimpy {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Dkimpy {
    fn start() -> Option<Self> {
        let python = python_with("dkim")?;
        let mut child =
            Command::new(python).args(["-c", VERIFY]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Some(Self { child, input, output })
    }

    /// What it says of a message that is signed and sent as Pillarbox does it.
    fn verify(&mut self, key: &SigningKey, header: &[u8], body: &[u8], fields: Fields) -> Result<(), String> {
        let mut hasher = BodyHasher::new();
        hasher.update(body);
        let signature = key.sign(header, &hasher.finish(), 1_764_000_000, fields).unwrap();
        let end: &[u8] = if body.is_empty() || body.ends_with(b"\n") { b"" } else { b"\n" };
        let sent = with_crlf(&[signature.as_bytes(), header, b"\n", body, end].concat());
        self.input.write_all(format!("{}\n{}\n", key.record(), sent.len()).as_bytes()).unwrap();
        self.input.write_all(&sent).unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        if answer == "ok\n" { Ok(()) } else { Err(format!("{answer}{}", String::from_utf8_lossy(&sent))) }
    }
}

impl Drop for Dkimpy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_crlf(text: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|octet| if *octet == b'\n' { b"\r\n" } else { std::slice::from_ref(octet) }).copied().collect()
}

#[test]
fn dkimpy_verifies_every_signature_and_no_added_field() {
    let Some(mut dkimpy) = Dkimpy::start() else { return };
    let long = "y".repeat(998);
    let (long_header, long_body) =
        (format!("From: a@example.org\nSubject: {}\n", "x".repeat(989)), format!("{long}\n {long} \n"));
    let rows = MESSAGES.into_iter().chain([("lines of 998 octets", long_header.as_str(), long_body.as_str())]);
    for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
        let (key, _) = SigningKey::generate("example.org", "pb1", algorithm).unwrap();
        for (what, header, body) in rows.clone() {
            for fields in [Fields::All, Fields::WithoutId] {
                let outcome = dkimpy.verify(&key, header.as_bytes(), body.as_bytes(), fields);
                assert_eq!(outcome, Ok(()), "{what}, {algorithm:?}, {fields:?}");
            }
        }
    }
}

/// Pieces of a value or of a body, of which white space is the larger part.
fn words(more: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let white: &[&[u8]] = &[b" ", b"\t", b"  ", b" \t "];
    let text: &[&[u8]] = &[b"a", b"bc;", b":", b"=", b"b=", b"<x@y>", b".", b"\xff", b"\xc3\xa4", b"\x01", b"\x7f"];
    let bits = [white, white, text, more].concat();
    prop::collection::vec(prop::sample::select(bits), 0..14).prop_map(|bits| bits.concat())
}

/// A field, whose folds begin with white space and may hold nothing else.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let names = vec![
        "From2",
        "To",
        "TO",
        "Cc",
        "Subject",
        "Date",
        "Reply-To",
        "Sender",
        "Message-ID",
        "References",
        "MIME-Version",
        "Content-Type",
        "Content-X",
        "List-Id",
        "List-Unsubscribe-Post",
        "list-x;l=1",
        "Received",
        "X",
        "Resent-To",
        "h=",
        "Auto-Submitted",
        "DKIM-Signature-Not",
    ];
    let value = words(&[b"\n ", b"\n\t", b"\n \n\t", b"\n  "]);
    (prop::sample::select(names), value).prop_map(|(name, value)| [name.as_bytes(), b":", &value, b"\n"].concat())
}

/// Whatever the header section and the body look like, another implementation agrees on what was signed.
#[test]
fn dkimpy_verifies_whatever_is_sent() {
    let Some(dkimpy) = Dkimpy::start() else { return };
    let dkimpy = Mutex::new(dkimpy);
    let keys = [Algorithm::Rsa, Algorithm::Ed25519].map(|kind| SigningKey::generate("example.org", "pb1", kind).unwrap().0);
    let from = prop::sample::select(vec!["From: a@example.org\n", "FROM:\n  A\t \n <a@example.org> \n", "from:a@example.org\n"]);
    let message = (
        prop::collection::vec(field(), 0..8),
        from,
        any::<prop::sample::Index>(),
        words(&[b"\n", b"\n\n", b"\n \n", b"\n\t"]),
        any::<[bool; 2]>(),
    );
    let mut runner = TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&message, |(mut header, from, at, body, [ed25519, all])| {
        header.insert(at.index(header.len() + 1), from.as_bytes().to_vec());
        let fields = if all { Fields::All } else { Fields::WithoutId };
        let outcome = dkimpy.lock().unwrap().verify(&keys[usize::from(ed25519)], &header.concat(), &body, fields);
        prop_assert_eq!(outcome, Ok(()));
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
}
