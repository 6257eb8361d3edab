//! The client's side of the protocol: every transcript in tests/dialogue/client/, whole and one octet at a time, and the
//! client against the session in memory.
//!
//! A transcript has the server's lines as `S:` (`S>` for raw octets without a line end), what the client must write as
//! `C:` (neighbours in one write), `C.` for content, and `=` for what is told at the end. `~` is what happens beside:
//! `tls`, `timeout`, `closed`, `stopped`, and `begin`, `quit`, `probe` when a transaction may begin. Where the connection
//! may be used again and nothing is said of it, the transcript is over.

use std::fs;
use std::path::Path;

use pillarbox::smtp::address::{Address, ForwardPath, ReversePath};
use pillarbox::smtp::client::{Client, ClientConfig, Event, Fault, Finished, Message, Next, Outcome, Step, TlsUse};
use pillarbox::smtp::command::{Body, Recipient};
use pillarbox::smtp::dsn::{Notify, Orcpt, Ret};
use pillarbox::smtp::encoder::Encoder;
use pillarbox::smtp::event::Envelope;
use pillarbox::smtp::reply_reader::ReplyReader;
use pillarbox::smtp::sasl::Credentials;

#[test]
fn transcripts_whole() {
    each_case(usize::MAX);
}

#[test]
fn transcripts_one_octet_at_a_time() {
    each_case(1);
}

/// An event that is not owed ends the connection, and accepts nothing.
#[test]
fn events_that_are_not_owed() {
    let envelope =
        Envelope { reverse_path: ReversePath::Null, recipients: Vec::new(), body: None, utf8: false, ret: None, envid: None };
    let recipients = vec![Recipient::plain(ForwardPath::Postmaster)];
    let message = Message { envelope: Envelope { recipients, ..envelope }, size: 5, auth: None, plain: false };
    let config = ClientConfig { helo: "me.example".into(), tls: TlsUse::None, credentials: None, message_size: None };
    let told = ["220 there", "250 there", "250 mail"];
    for heard in 0..=told.len() {
        let events: [fn() -> Event<'static>; 6] = [
            || Event::ContentSent,
            || Event::Secured,
            || Event::Connected,
            || Event::Quit,
            || Event::Reset,
            || Event::Probe(ReversePath::Null),
        ];
        for (at, event) in events.into_iter().enumerate() {
            let mut client = Client::new(config.clone());
            let mut step = client.step(Event::Connected);
            for line in &told[..heard] {
                let response = ReplyReader::new().feed(format!("{line}\r\n").as_bytes()).unwrap().response.unwrap();
                step = client.step(Event::Reply { response: &response, more: false });
                if step.next == Next::Ready {
                    step = client.step(Event::Begin(Box::new(message.clone())));
                }
            }
            assert!(matches!(step.next, Next::Reply(_)));
            match client.step(event()).next {
                Next::Close(Some(failure)) => assert_eq!(failure.fault, Fault::Defect, "{heard} {at}"),
                Next::Finished(Finished { outcomes, reusable: false, .. }) => {
                    let lost =
                        |outcome: &Outcome| matches!(outcome, Outcome::Lost { after_dot: false, fault: Fault::Defect, .. });
                    assert!(outcomes.iter().all(lost), "{heard} {at}: {outcomes:?}");
                }
                other => panic!("{heard} {at}: {other:?}"),
            }
        }
    }
}

#[derive(Clone)]
struct Case {
    title: String,
    config: ClientConfig,
    message: Message,
    content: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq)]
enum Item {
    Client(Vec<u8>),
    Content(String),
    Happens(String),
    Server(Vec<u8>),
    Told(String),
}

fn each_case(step: usize) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogue/client");
    let (mut count, mut failures) = (0, Vec::new());
    for file in fs::read_dir(directory).unwrap().flatten() {
        for case in parse(&fs::read_to_string(file.path()).unwrap()) {
            count += 1;
            if let Err(why) = play(&case, step) {
                failures.push(format!("{}: {}\n{why}", file.path().display(), case.title));
            }
        }
    }
    assert!(count > 50, "only {count} cases were found");
    assert!(failures.is_empty(), "{} of {count} cases fail\n\n{}", failures.len(), failures.join("\n\n"));
}

fn address(text: &str) -> Address {
    Address::parse(text.trim_matches(['<', '>'])).unwrap()
}

fn parse(text: &str) -> Vec<Case> {
    let envelope =
        Envelope { reverse_path: ReversePath::Null, recipients: Vec::new(), body: None, utf8: false, ret: None, envid: None };
    let mut base = Case {
        title: String::new(),
        config: ClientConfig { helo: "me.example".into(), tls: TlsUse::None, credentials: None, message_size: None },
        message: Message { envelope, size: 5, auth: None, plain: false },
        content: b"a\n.b\n".to_vec(),
        items: Vec::new(),
    };
    let mut cases: Vec<Case> = Vec::new();
    let mut before = "";
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix("== ") {
            cases.push(Case { title: title.into(), ..base.clone() });
            before = "";
            continue;
        }
        let case = cases.last_mut().unwrap_or(&mut base);
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let item = match kind {
            "@" => {
                set_up(case, rest);
                continue;
            }
            "S:" => Item::Server(format!("{}\r\n", expand(rest)).into_bytes()),
            "S>" => Item::Server(expand(rest).replace("\\r", "\r").replace("\\n", "\n").replace("\\e", "\x1b").into_bytes()),
            "C:" => Item::Client(format!("{}\r\n", expand(rest)).into_bytes()),
            "C." => Item::Content(rest.replace("\\r", "\r").replace("\\n", "\n")),
            "~" => Item::Happens(rest.into()),
            "=" => Item::Told(rest.into()),
            other => panic!("{other}"),
        };
        match (case.items.last_mut(), item) {
            (Some(Item::Client(all)), Item::Client(more)) if before == kind => all.extend(more),
            (Some(Item::Server(all)), Item::Server(more)) => all.extend(more),
            (_, item) => case.items.push(item),
        }
        before = kind;
    }
    cases
}

fn set_up(case: &mut Case, line: &str) {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let envelope = &mut case.message.envelope;
    match word {
        "tls" => {
            case.config.tls = match rest {
                "implicit" => TlsUse::Implicit,
                "offered" => TlsUse::Offered,
                "required" => TlsUse::Required,
                other => panic!("{other}"),
            }
        }
        "login" => {
            let (login, password) = rest.split_once(' ').unwrap();
            let password = expand(password).into_bytes();
            case.config.credentials = Some(Credentials { login: login.into(), password: password.into(), foreign: false });
        }
        "limit" => case.config.message_size = Some(rest.parse().unwrap()),
        "from" => envelope.reverse_path = ReversePath::Mailbox(address(rest)),
        "to" => {
            // A quoted local part may hold a space.
            let (path, rest) = rest.split_at(rest.rfind('>').map_or(rest.len(), |end| end + 1));
            let words = rest.split_whitespace();
            let mut recipient = Recipient::plain(ForwardPath::Mailbox(address(path)));
            for word in words {
                match word.split_once('=').unwrap() {
                    ("NOTIFY", value) => recipient.notify = Notify::parse(value),
                    ("ORCPT", value) => recipient.orcpt = Orcpt::parse(value),
                    other => panic!("{other:?}"),
                }
            }
            envelope.recipients.push(recipient);
        }
        "null" => envelope.reverse_path = ReversePath::Null,
        "size" => case.message.size = rest.parse().unwrap(),
        "body" => envelope.body = Body::parse(rest),
        "utf8" => envelope.utf8 = true,
        "plain" => case.message.plain = true,
        "ret" => envelope.ret = Ret::parse(rest),
        "envid" => envelope.envid = Some(rest.into()),
        "auth" => case.message.auth = Some(rest.into()),
        other => panic!("{other}"),
    }
}

/// Puts in `${base64 text}`, `${plain login password}` and `${repeat count text}`.
fn expand(text: &str) -> String {
    let Some((before, rest)) = text.split_once("${") else { return text.into() };
    let (inner, after) = rest.split_once('}').unwrap();
    let words: Vec<&str> = inner.splitn(3, ' ').collect();
    let value = match words[..] {
        ["base64", text] => base64(text.as_bytes()),
        ["plain", login, password] => base64(format!("\0{login}\0{password}").as_bytes()),
        ["plain-repeated", login, password] => {
            let (count, text) = password.split_once(' ').unwrap();
            base64(format!("\0{login}\0{}", text.repeat(count.parse().unwrap())).as_bytes())
        }
        ["repeat", count, text] => text.replace("\\n", "\n").repeat(count.parse().unwrap()),
        _ => panic!("{inner}"),
    };
    format!("{before}{value}{}", expand(after))
}

fn base64(octets: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(octets)
}

/// Runs a case; an error is the transcript so far and what is wrong.
fn play(case: &Case, step: usize) -> Result<(), String> {
    let mut client = Client::new(case.config.clone());
    let mut reader = ReplyReader::new();
    let mut items = case.items.iter().cloned().peekable();
    let mut pending: Vec<u8> = Vec::new();
    let mut log = String::new();
    let mut now = client.step(Event::Connected);
    loop {
        let wrong = |log: &str, why: String| Err(format!("{log}{why}"));
        if !now.write.is_empty() {
            log.push_str(&format!("C: {}\n", now.write.escape_ascii()));
            if items.next() != Some(Item::Client(now.write.to_vec())) {
                return wrong(&log, "the transcript has another write here".into());
            }
        }
        let told = told(&now.next);
        let over = matches!(now.next, Next::Close(_) | Next::Finished(Finished { reusable: false, .. }));
        for line in told {
            log.push_str(&format!("= {line}\n"));
            match items.next() {
                Some(Item::Told(want)) if want == line => {}
                other => return wrong(&log, format!("the transcript has {other:?} instead of the last line")),
            }
        }
        let can_begin = matches!(now.next, Next::Ready | Next::Finished(_) | Next::Probed(_));
        if over || (items.peek().is_none() && can_begin) {
            return match items.next() {
                None if pending.is_empty() || over => Ok(()),
                other => wrong(&log, format!("left over: {other:?}")),
            };
        }
        now = match &now.next {
            _ if !pending.is_empty() && matches!(now.next, Next::Reply(_) | Next::Content) => {
                feed(&mut client, &mut reader, &mut pending, step)
            }
            _ if can_begin && matches!(items.peek(), Some(Item::Happens(_))) => match items.next() {
                Some(Item::Happens(word)) if word == "quit" => client.step(Event::Quit),
                Some(Item::Happens(word)) if word == "reset" => client.step(Event::Reset),
                Some(Item::Happens(word)) if word == "probe" => {
                    client.step(Event::Probe(case.message.envelope.reverse_path.clone()))
                }
                _ => client.step(Event::Begin(Box::new(case.message.clone()))),
            },
            Next::Ready => client.step(Event::Begin(Box::new(case.message.clone()))),
            _ => match items.next() {
                Some(Item::Server(octets)) => {
                    log.push_str(&format!("S: {:.400}\n", octets.escape_ascii().to_string()));
                    pending = octets;
                    feed(&mut client, &mut reader, &mut pending, step)
                }
                Some(Item::Happens(word)) => match word.as_str() {
                    "tls" => {
                        if now.next != Next::Handshake {
                            return wrong(&log, format!("{:?} instead of a handshake", now.next));
                        }
                        client.step(Event::Secured)
                    }
                    "closed" => client.step(Event::Lost(Fault::Closed)),
                    "timeout" => client.step(Event::Lost(Fault::Timeout)),
                    "stopped" => client.step(Event::Lost(Fault::Stopped)),
                    other => panic!("{other}"),
                },
                Some(Item::Content(want)) if now.next == Next::Content => {
                    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
                    encoder.feed(&case.content, &mut out).unwrap();
                    encoder.finish(&mut out);
                    assert_eq!(String::from_utf8(out).unwrap(), want);
                    client.step(Event::ContentSent)
                }
                other => return wrong(&log, format!("{other:?} while {:?}", now.next)),
            },
        };
    }
}

/// Feeds octets up to the end of a reply; what is left stays pending.
fn feed(client: &mut Client, reader: &mut ReplyReader, pending: &mut Vec<u8>, step: usize) -> Step {
    while !pending.is_empty() {
        let piece = step.min(pending.len());
        match reader.feed(&pending[..piece]) {
            Err(error) => {
                pending.clear();
                return client.step(Event::Lost(Fault::Garbage(error)));
            }
            Ok(fed) => {
                pending.drain(..fed.used);
                if let Some(response) = fed.response {
                    return client.step(Event::Reply { response: &response, more: !pending.is_empty() });
                }
            }
        }
    }
    // The server stops in the middle of a reply.
    client.step(Event::Lost(Fault::Closed))
}

fn told(next: &Next) -> Vec<String> {
    match next {
        Next::Close(None) => vec!["closed".into()],
        Next::Close(Some(failure)) => vec![format!("failed {failure} ({})", failure.fault.reason())],
        Next::Probed(reply) => vec![format!("probed {reply}")],
        Next::Finished(finished) => {
            let mut lines: Vec<String> = finished.outcomes.iter().map(outcome).collect();
            let state = if finished.reusable { "reusable" } else { "not reusable" };
            lines.push(format!("{state}{}", if finished.dsn { ", dsn" } else { "" }));
            lines
        }
        Next::Content | Next::Handshake | Next::Ready | Next::Reply(_) => Vec::new(),
    }
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Lost { stage, after_dot, fault } => {
            format!("lost {}{} {}", stage.name(), if *after_dot { " after the dot" } else { "" }, fault.reason())
        }
        Outcome::NotTried(why) => format!("not tried {why:?}"),
        Outcome::Refused { stage, reply } => format!("refused {} {reply}", stage.name()),
        Outcome::Sent(reply) => format!("sent {reply}"),
        Outcome::Unfit(why) => format!("unfit {:?} {why}", why.status()),
    }
}
