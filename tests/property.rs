//! Whatever a client sends, split anyhow: no panic, no relaying, no false success, and the same answers for every split.

use pillarbox::smtp::address::{Address, ForwardPath, ReversePath};
use pillarbox::smtp::data::{Decoder, Framing};
use pillarbox::smtp::reply::Refusal;
use pillarbox::smtp::session::{Event, Next, Receipt, Service, Session, SessionConfig};
use proptest::prelude::*;

fn session(service: Service) -> Session {
    let terms = SessionConfig {
        hostname: "mx.example.org".into(),
        service,
        tls: true,
        dsn: true,
        message_size: 100_000,
        recipients: 100,
        errors: 1000,
    };
    let mut session = Session::new(terms);
    session.step(Event::Opened { early: b"" });
    session
}

/// What a session asked of its surroundings, in words that can be compared.
#[derive(Debug, Default, PartialEq)]
struct Deeds {
    accepted_without_login: bool,
    password_in_the_clear: bool,
    stored_without_recipient: bool,
    /// Messages that a login handed in.
    submitted: usize,
}

/// Plays a world in which the password of `a` is `b`, every other is wrong, and only `@example.org` is local.
fn play(service: Service, lines: &[Vec<u8>]) -> Deeds {
    let mut session = session(service);
    let mut deeds = Deeds::default();
    let mut lines = lines.iter();
    let mut next = Next::Line;
    let (mut secured, mut logged_in) = (service == Service::Submissions, false);
    loop {
        let event = match next {
            Next::Close => return deeds,
            Next::Line | Next::SaslLine => match lines.next() {
                Some(line) => Event::Line { line, more: false },
                None => return deeds,
            },
            Next::StartTls => {
                // RFC 3207 section 4.2: what was known before TLS is forgotten.
                (secured, logged_in) = (true, false);
                Event::Secured
            }
            Next::Verify { credentials, .. } => {
                deeds.password_in_the_clear |= !secured;
                let right = credentials.login == "a" && *credentials.password == *b"b";
                logged_in |= right;
                Event::Login(if right { Ok("a".into()) } else { Err(Refusal::BadCredentials.into()) })
            }
            Next::Sender(_) => {
                deeds.accepted_without_login |= service.needs_login() && !logged_in;
                Event::Verdict(Ok(()))
            }
            Next::Recipient(path) => match path {
                ForwardPath::Mailbox(address) if address.domain().to_string() != "example.org" => {
                    Event::Verdict(Err(Refusal::Relay.into()))
                }
                _ => Event::Verdict(Ok(())),
            },
            Next::Content | Next::Chunk { last: true, .. } => {
                deeds.stored_without_recipient |= session.envelope().is_none_or(|envelope| {
                    envelope.recipients.is_empty()
                        || envelope.recipients.iter().any(
                            |to| matches!(&to.path, ForwardPath::Mailbox(address) if address.domain().to_string() != "example.org"),
                        )
                });
                deeds.submitted += usize::from(logged_in);
                Event::Stored(Ok(Receipt::Stored("id".into())))
            }
            Next::Chunk { .. } => Event::Chunk(Ok(())),
            Next::Skip(_) => Event::Skipped,
        };
        let step = session.step(event);
        next = step.next;
    }
}

/// The lines of a client that logs in first.
fn logged_in(service: Service) -> Vec<Vec<u8>> {
    let lines: &[&str] = match service {
        Service::Submission => &["EHLO a.example", "STARTTLS", "EHLO a.example", "AUTH PLAIN AGEAYg=="],
        _ => &["EHLO a.example", "AUTH PLAIN AGEAYg=="],
    };
    lines.iter().map(|line| line.as_bytes().to_vec()).collect()
}

#[test]
fn the_world_lets_a_login_in() {
    let message = ["MAIL FROM:<a@b.example>", "RCPT TO:<x@example.org>", "DATA"].map(|line| line.as_bytes().to_vec());
    for service in [Service::Submission, Service::Submissions] {
        let lines = [logged_in(service), message.to_vec()].concat();
        assert_eq!(play(service, &lines), Deeds { submitted: 1, ..Deeds::default() }, "{service:?}");
        assert_eq!(play(service, &lines[lines.len() - 3..]), Deeds::default(), "{service:?}");
    }
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "EHLO a.example",
        "HELO a",
        "STARTTLS",
        "AUTH PLAIN AGEAYg==",
        "AUTH LOGIN",
        "MAIL FROM:<a@b.example>",
        "MAIL FROM:<>",
        "RCPT TO:<x@example.org>",
        "RCPT TO:<x@elsewhere.example>",
        "RCPT TO:<@example.org:x@elsewhere.example>",
        "RCPT TO:<Postmaster>",
        "MAIL FROM:<a@b.example> RET=FULL ENVID=x",
        "RCPT TO:<x@elsewhere.example> NOTIFY=NEVER ORCPT=rfc822;x@example.org",
        "DATA",
        "BDAT 3",
        "BDAT 3 LAST",
        "RSET",
        "NOOP",
        "VRFY x",
        "QUITX",
        "YQ==",
        "*",
        "",
    ]);
    prop_oneof![
        4 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..80),
        1 => "(MAIL FROM:|RCPT TO:|AUTH |BDAT |EHLO )[ -~]{0,60}".prop_map(String::into_bytes),
        1 => "(?i)(mail from|rcpt to):<[^\r\n]{0,40}>( [A-Z0-9=]{0,20})?".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_lines_relays_or_gets_past_the_login(lines in prop::collection::vec(line(), 0..40), login: bool) {
        for service in Service::ALL {
            let first = if login { logged_in(service) } else { Vec::new() };
            let deeds = play(service, &[first, lines.clone()].concat());
            let want = Deeds { submitted: if service.needs_login() { deeds.submitted } else { 0 }, ..Deeds::default() };
            prop_assert_eq!(deeds, want);
        }
    }

    #[test]
    fn addresses_are_read_whole_or_not_at_all(text in "\\PC{0,80}|<[!-~]{0,70}>|<\"[ -~]{0,20}\"@[a-z.]{0,20}>") {
        for utf8 in [false, true] {
            if let Ok(ReversePath::Mailbox(address)) = ReversePath::parse(&text, utf8) {
                // What is shown means the same address again.
                let again = Address::parse(&address.to_string());
                prop_assert_eq!(again.map(|again| again.key()), Ok(address.key()));
                prop_assert!(address.local().len() <= 64 && address.domain().to_string().len() <= 255);
            }
            let _ = ForwardPath::parse(&text, utf8);
        }
    }

    #[test]
    fn content_means_the_same_for_every_split(
        input in prop::collection::vec(prop::sample::select(b"\r\n.\0ab".to_vec()), 0..60),
        cuts in prop::collection::vec(1usize..7, 0..60),
    ) {
        for framing in [Framing::Dots, Framing::Chunks] {
            let (mut whole, mut out) = (Decoder::new(framing), Vec::new());
            let fed = whole.feed(&input, &mut out);
            let (mut split, mut pieces, mut used, mut ended) = (Decoder::new(framing), Vec::new(), 0, false);
            let mut cuts = cuts.iter().copied().chain(std::iter::repeat(3));
            let mut rest = &input[..];
            while !rest.is_empty() && !ended {
                let (piece, tail) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                let one = split.feed(piece, &mut pieces);
                used += one.used;
                ended = one.ended;
                rest = tail;
            }
            prop_assert_eq!((fed.used, fed.ended), (used, ended));
            prop_assert_eq!(whole.finish(), split.finish());
            prop_assert_eq!(whole.octets(), split.octets());
            prop_assert_eq!(&out, &pieces);
            // The end is the first CR LF . CR LF, and nothing else.
            if framing == Framing::Dots {
                let padded = [b"\r\n", &input[..]].concat();
                let end = padded.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 3);
                prop_assert_eq!(end.is_some(), fed.ended);
                prop_assert_eq!(end.unwrap_or(input.len()), fed.used);
            }
            prop_assert!(!out.contains(&b'\r') && !out.contains(&0));
        }
    }
}
