//! The hot pieces, each by itself: so that a regression is seen before it drowns in a whole session.

use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use pillarbox::mail::dkim::{Algorithm, Fields, SigningKey};
use pillarbox::mail::durable::Faults;
use pillarbox::mail::maildir::Store;
use pillarbox::mail::message::HeaderReader;
use pillarbox::mail::signing::{Keyring, Signer};
use pillarbox::queue::spool::{Envelope, QueuedRecipient, Signature, Spool};
use pillarbox::smtp::address::{Address, ReversePath};
use pillarbox::smtp::command::{self, Dialect, Grammar, Verb};
use pillarbox::smtp::data::{Decoder, Framing};
use pillarbox::smtp::session::{Event, Receipt, Service, Session, SessionConfig};

fn main() {
    divan::main();
}

/// A megabyte in lines of so many octets, with their CR LF.
fn text(line: usize) -> Vec<u8> {
    let one = ["x".repeat(line - 2).as_bytes(), b"\r\n"].concat();
    one.repeat((1 << 20) / line)
}

/// Octets a second through the decoder of DATA, in the pieces that TLS records come in.
#[divan::bench(args = [20, 78, 998])]
fn decoder(bencher: Bencher, line: usize) {
    let input = text(line);
    let mut out = Vec::with_capacity(input.len() + 1);
    bencher.counter(BytesCount::new(input.len())).bench_local(|| {
        let mut decoder = Decoder::new(Framing::Dots);
        out.clear();
        for piece in input.chunks(16 * 1024) {
            decoder.feed(black_box(piece), &mut out);
        }
        out.len()
    });
}

#[divan::bench(args = ["EHLO client.example", "MAIL FROM:<alice@example.org> SIZE=10000 BODY=8BITMIME", "RCPT TO:<bob@example.org>", "DATA"])]
fn command_parse(line: &str) -> bool {
    let verb = Verb::of(black_box(line.as_bytes()));
    verb.is_some_and(|verb| command::parse(verb, black_box(line), Dialect { grammar: Grammar::Transfer, dsn: false }).is_ok())
}

/// The steps of one message: MAIL, RCPT, DATA and the end.
#[divan::bench]
fn session_steps(bencher: Bencher) {
    let terms = SessionConfig {
        hostname: "mx.example.org".into(),
        service: Service::Smtp,
        tls: true,
        dsn: false,
        message_size: 50 << 20,
        recipients: 100,
        errors: 10,
    };
    let mut session = Session::new(terms);
    session.step(Event::Opened { early: b"" });
    session.step(Event::Line { line: b"EHLO client.example", more: false });
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        session.step(Event::Line { line: b"MAIL FROM:<a@client.example>", more: true });
        session.step(Event::Verdict(Ok(())));
        session.step(Event::Line { line: b"RCPT TO:<alice@example.org>", more: true });
        session.step(Event::Verdict(Ok(())));
        session.step(Event::Line { line: b"DATA", more: false });
        session.step(Event::Stored(Ok(Receipt::Stored("id".into()))))
    });
}

#[divan::bench]
fn header(bencher: Bencher) {
    let section: String = (0..20).map(|n| format!("X-Field-{n}: {}\n", "value ".repeat(8))).collect::<String>() + "\n";
    bencher
        .counter(BytesCount::new(section.len()))
        .bench(|| HeaderReader::default().push(black_box(section.as_bytes())).is_ok_and(|header| header.is_some()));
}

/// One message of 10 kB, durable in one Maildir.
#[divan::bench(sample_count = 200)]
fn delivery(bencher: Bencher) {
    let dir = tempfile::tempdir().unwrap();
    let (store, maildir, content) = (Store::new("mx.example.org", Faults::default()), dir.path().join("box"), text(78));
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        let mut draft = store.begin(&maildir).unwrap();
        draft.write_all(&content[..10_000]).unwrap();
        store.commit(draft, std::slice::from_ref(&maildir)).unwrap()
    });
}

/// A message of 10 kB into the spool, durable: without a signature, and signed by one key or two. The signatures cost a hash of
/// the body and one use of each key.
#[divan::bench(args = ["none", "ed25519", "rsa", "both"], sample_count = 1000)]
fn queueing(bencher: Bencher, key: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (spool, _, _) = Spool::open(&dir.path().join("spool"), Faults::default()).unwrap();
    let spool = Arc::new(spool);
    let algorithms: &[Algorithm] = match key {
        "none" => &[],
        "ed25519" => &[Algorithm::Ed25519],
        "rsa" => &[Algorithm::Rsa],
        _ => &[Algorithm::Rsa, Algorithm::Ed25519],
    };
    let keys = algorithms.iter().map(|algorithm| SigningKey::generate("example.org", "pb1", *algorithm).unwrap().0);
    let keyring = Arc::new(Keyring::new(keys));
    let header = "From: alice@example.org\nTo: bob@example.net\nSubject: a newsletter\nDate: Wed, 25 Nov 2026 10:00:00 +0000\n\n";
    let content =
        [header.as_bytes(), &text(78).into_iter().filter(|octet| *octet != b'\r').take(10_000).collect::<Vec<u8>>()].concat();
    let envelope = Envelope {
        reverse_path: ReversePath::parse("<alice@example.org>", false).unwrap(),
        login: "alice@example.org".into(),
        session: "bench".into(),
        body: None,
        utf8: false,
        ret: None,
        envid: None,
        recipients: vec![QueuedRecipient { address: Address::parse("bob@example.net").unwrap(), notify: None, orcpt: None }],
    };
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        let mut signer = Signer::begin(&keyring, &content);
        let mut draft = spool.begin(&envelope).unwrap();
        if let Some(signer) = &mut signer {
            signer.update(&content);
        }
        draft.write_all(&content).unwrap();
        for text in signer.iter().flat_map(|signer| signer.sign(1_764_000_000, Fields::All).unwrap()) {
            draft.sign(Signature { fields: Fields::All, text });
        }
        draft.commit().unwrap().keep()
    });
}

/// The signature of a message of 10 kB alone.
#[divan::bench(args = ["ed25519", "rsa"])]
fn signing(bencher: Bencher, key: &str) {
    let algorithm = if key == "rsa" { Algorithm::Rsa } else { Algorithm::Ed25519 };
    let keyring = Arc::new(Keyring::new([SigningKey::generate("example.org", "pb1", algorithm).unwrap().0]));
    let content = [b"From: alice@example.org\nSubject: x\n\n", &text(78)[..10_000]].concat();
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        let mut signer = Signer::begin(&keyring, black_box(&content)).unwrap();
        signer.update(&content);
        signer.sign(1_764_000_000, Fields::All)
    });
}
