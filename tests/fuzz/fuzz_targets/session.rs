//! A whole session in a world where the password of `a` is `b`, every other is wrong, and only `@example.org` is local.
//! One in two inputs begins logged in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::smtp::address::ForwardPath;
use pillarbox::smtp::reply::Refusal;
use pillarbox::smtp::session::{Event, Next, Receipt, Service, Session, SessionConfig};

fn is_local(path: &ForwardPath) -> bool {
    !matches!(path, ForwardPath::Mailbox(address) if address.domain().to_string() != "example.org")
}

fuzz_target!(|input: (u8, &[u8])| {
    let service = Service::ALL[usize::from(input.0 % 4)];
    let terms = SessionConfig { hostname: "mx.example.org".into(), service, tls: true, dsn: true, message_size: 1000, recipients: 3, errors: 20 };
    let mut session = Session::new(terms);
    let login: &[u8] = match (input.0 & 128 != 0, service) {
        (false, _) => b"NOOP",
        (true, Service::Submission) => b"EHLO a\nSTARTTLS\nEHLO a\nAUTH PLAIN AGEAYg==",
        (true, _) => b"EHLO a\nAUTH PLAIN AGEAYg==",
    };
    let mut lines = login.split(|b| *b == b'\n').chain(input.1.split(|b| *b == b'\n'));
    let mut logged_in = false;
    let mut step = session.step(Event::Opened { early: b"" });
    loop {
        let event = match step.next {
            Next::Close => return,
            Next::Line | Next::SaslLine => match lines.next() {
                Some(line) => Event::Line { line, more: input.0 & 64 != 0 },
                None => return,
            },
            Next::StartTls => {
                logged_in = false;
                Event::Secured
            }
            Next::Verify { credentials, .. } => {
                let right = credentials.login == "a" && *credentials.password == *b"b";
                logged_in |= right;
                Event::Login(if right { Ok("a".into()) } else { Err(Refusal::BadCredentials.into()) })
            }
            Next::Sender(_) => {
                assert!(!service.needs_login() || logged_in, "a sender without a login");
                Event::Verdict(Ok(()))
            }
            Next::Recipient(path) => Event::Verdict(if is_local(&path) { Ok(()) } else { Err(Refusal::Relay.into()) }),
            Next::Content | Next::Chunk { last: true, .. } => {
                let envelope = session.envelope().expect("a transaction");
                assert!(!envelope.recipients.is_empty() && envelope.recipients.iter().all(|to| is_local(&to.path)));
                Event::Stored(Ok(Receipt::Stored("id".into())))
            }
            Next::Chunk { .. } => Event::Chunk(Ok(())),
            Next::Skip(_) => Event::Skipped,
        };
        step = session.step(event);
    }
});
