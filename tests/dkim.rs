//! Signatures, held against another implementation: dkimpy verifies what is signed here.

mod common;

use std::fs;
use std::process::Command;

use common::{finish, python_with, said};
use pillarbox::mail::dkim::{Algorithm, BodyHasher, Fields, SigningKey};

/// Header sections and bodies, as the spool has them.
const MESSAGES: [(&str, &str, &str); 7] = [
    ("plain", "From: alice@example.org\nTo: bob@example.net\nSubject: x\nDate: Wed, 25 Nov 2026 10:00:00 +0000\n", "Hello\n"),
    ("no body", "From: alice@example.org\n", ""),
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
    (
        "many fields",
        "From: a@example.org\nReferences: <1@x> <2@x>\n\t<3@x>\nIn-Reply-To: <3@x>\nMessage-ID: <4@x>\nSender: a@example.org\n",
        "x\n",
    ),
];

const VERIFY: &str = r#"
import dkim, sys
record = sys.argv[2].encode()
m = open(sys.argv[1], 'rb').read()
ok = dkim.verify(m, dnsfunc=lambda name, timeout=5: record if name in (b'pb1._domainkey.example.org.', 'pb1._domainkey.example.org.') else None)
forged = dkim.verify(b'Subject: added\r\n' + m, dnsfunc=lambda name, timeout=5: record)
sys.exit(0 if ok and not forged else 1)
"#;

#[test]
fn dkimpy_verifies_every_signature_and_no_added_subject() {
    let Some(python) = python_with("dkim") else { return };
    let dir = tempfile::tempdir().unwrap();
    for algorithm in [Algorithm::Rsa, Algorithm::Ed25519] {
        let (key, _) = SigningKey::generate("example.org", "pb1", algorithm).unwrap();
        for (what, header, body) in MESSAGES {
            for fields in [Fields::All, Fields::WithoutId] {
                let mut hasher = BodyHasher::new();
                hasher.update(body.as_bytes());
                let signature = key.sign(header.as_bytes(), &hasher.finish(), 1_764_000_000, fields).unwrap();
                let end = if body.is_empty() || body.ends_with('\n') { "" } else { "\n" };
                let sent = format!("{signature}{header}\n{body}{end}").replace('\n', "\r\n");
                let file = dir.path().join("message");
                fs::write(&file, &sent).unwrap();
                let output = finish(Command::new(&python).args(["-c", VERIFY]).arg(&file).arg(key.record()));
                assert!(output.status.success(), "{what}, {algorithm:?}, {fields:?}:\n{sent}\n{}", said(&output));
            }
        }
    }
}
