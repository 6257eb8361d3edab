//! A whole session in a world where every password is wrong and only `@example.org` is local.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::smtp::address::ForwardPath;
use pillarbox::smtp::reply::Refusal;
use pillarbox::smtp::session::{Event, Next, Service, Session, SessionConfig};

fn is_local(path: &ForwardPath) -> bool {
    !matches!(path, ForwardPath::Mailbox(address) if address.domain().to_string() != "example.org")
}

fuzz_target!(|input: (u8, &[u8])| {
    let service = Service::ALL[usize::from(input.0 % 3)];
    let terms = SessionConfig { hostname: "mx.example.org".into(), service, tls: true, dsn: true, message_size: 1000, recipients: 3, errors: 20 };
    let mut session = Session::new(terms);
    let mut lines = input.1.split(|b| *b == b'\n');
    let mut step = session.step(Event::Opened { early: b"" });
    loop {
        let event = match step.next {
            Next::Close => return,
            Next::Line | Next::SaslLine => match lines.next() {
                Some(line) => Event::Line { line, more: input.0 & 64 != 0 },
                None => return,
            },
            Next::StartTls => Event::Secured,
            Next::Verify { .. } => Event::Login(Err(Refusal::BadCredentials.into())),
            Next::Sender(_) => {
                assert!(!service.needs_login(), "a sender without a login");
                Event::Verdict(Ok(()))
            }
            Next::Recipient(path) => Event::Verdict(if is_local(&path) { Ok(()) } else { Err(Refusal::Relay.into()) }),
            Next::Content | Next::Chunk { last: true, .. } => {
                let envelope = session.envelope().expect("a transaction");
                assert!(!envelope.recipients.is_empty() && envelope.recipients.iter().all(is_local));
                Event::Stored(Ok("id".into()))
            }
            Next::Chunk { .. } => Event::Chunk(Ok(())),
            Next::Skip(_) => Event::Skipped,
        };
        step = session.step(event);
    }
});
