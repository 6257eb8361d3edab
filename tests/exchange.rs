//! The client's side and the server's side of the protocol against each other, in memory: for every set of extensions
//! and every split of the octets, what went in comes out, to the octet.

use pillarbox::smtp::address::{Address, ForwardPath, ReversePath};
use pillarbox::smtp::client::{Client, ClientConfig, Event, Fault, Message, Next, Outcome, TlsUse, Unfit, Unreached};
use pillarbox::smtp::command::{Body, Recipient};
use pillarbox::smtp::data::{Decoder, Framing};
use pillarbox::smtp::dsn::{Notify, Orcpt, Ret};
use pillarbox::smtp::encoder::Encoder;
use pillarbox::smtp::event::{self, Answer, Envelope};
use pillarbox::smtp::reply::Refusal;
use pillarbox::smtp::reply_reader::ReplyReader;
use pillarbox::smtp::sasl::Credentials;
use pillarbox::smtp::session::{Service, Session, SessionConfig};
use proptest::prelude::*;

/// What a session may show; a bit of a set each.
const EXTENSIONS: [&str; 10] =
    ["PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "LIMITS", "STARTTLS", "AUTH", "DSN"];
/// Recipients of a transaction, at most; the message has more.
const RECIPIENTS_MAX: usize = 3;

/// The server's side: a session, and the world around it.
struct Server {
    session: Session,
    next: event::Next,
    shown: u16,
    input: Vec<u8>,
    output: Vec<u8>,
    decoder: Decoder,
    content: Vec<u8>,
    stored: Vec<(Envelope, Vec<u8>)>,
}

impl Server {
    fn new(service: Service, shown: u16) -> Self {
        let config = SessionConfig {
            hostname: "there.example".into(),
            service,
            tls: true,
            dsn: service != Service::Smtp,
            message_size: 100_000,
            recipients: RECIPIENTS_MAX,
            errors: 1000,
        };
        let decoder = Decoder::new(Framing::Dots);
        let session = Session::new(config);
        let (input, output, content, stored) = Default::default();
        let mut server = Self { session, next: event::Next::Line, shown, input, output, decoder, content, stored };
        server.happens(event::Event::Opened { early: b"" });
        server
    }

    fn shows(&self, extension: &str) -> bool {
        let at = EXTENSIONS.iter().position(|name| *name == extension).unwrap();
        self.shown & 1 << at != 0
    }

    fn happens(&mut self, event: event::Event<'_>) {
        let step = self.session.step(event);
        let mut reply = Vec::new();
        match step.answer {
            Some(Answer::Reply(reply_)) => reply_.write_to(&mut reply),
            Some(Answer::No(refused)) => refused.write_to(&mut reply, "id"),
            None => {}
        }
        self.output.extend(self.hide(String::from_utf8(reply).unwrap()).into_bytes());
        self.next = step.next;
    }

    /// Leaves out of a reply to EHLO what is not shown.
    fn hide(&self, reply: String) -> String {
        if !reply.starts_with("250-") {
            return reply;
        }
        let hidden = |line: &str| EXTENSIONS.iter().any(|name| line[4..].split(' ').next() == Some(name) && !self.shows(name));
        let kept: Vec<&str> = reply.lines().filter(|line| !hidden(line)).map(|line| &line[4..]).collect();
        let (last, others) = kept.split_last().unwrap();
        others.iter().map(|text| format!("250-{text}\r\n")).collect::<String>() + &format!("250 {last}\r\n")
    }

    /// Takes octets from the client and does what the session asks as far as they reach.
    fn take(&mut self, octets: &[u8]) {
        self.input.extend(octets);
        loop {
            match &self.next {
                event::Next::Line | event::Next::SaslLine => {
                    let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") else { return };
                    let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
                    let more = !self.input.is_empty();
                    self.happens(event::Event::Line { line: &line, more });
                }
                event::Next::Content => {
                    let fed = self.decoder.feed(&self.input, &mut self.content);
                    self.input.drain(..fed.used);
                    if !fed.ended {
                        return;
                    }
                    assert_eq!(std::mem::replace(&mut self.decoder, Decoder::new(Framing::Dots)).finish(), None);
                    let envelope = self.session.envelope().unwrap().clone();
                    self.stored.push((envelope, std::mem::take(&mut self.content)));
                    self.happens(event::Event::Stored(Ok(event::Receipt::Stored("id".into()))));
                }
                event::Next::Recipient(path) => {
                    let verdict = if path.to_string().starts_with("no") { Err(Refusal::UnknownMailbox.into()) } else { Ok(()) };
                    self.happens(event::Event::Verdict(verdict));
                }
                event::Next::Sender(_) => self.happens(event::Event::Verdict(Ok(()))),
                event::Next::Verify { credentials, .. } => {
                    assert_eq!((credentials.login.as_str(), &credentials.password[..]), ("alice", &b"se\xffcret"[..]));
                    self.happens(event::Event::Login(Ok("alice".into())));
                }
                event::Next::StartTls => {
                    assert!(self.input.is_empty(), "octets before the handshake: {:?}", self.input);
                    return;
                }
                event::Next::Close => return,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Sends the message until each recipient is settled; the outcomes, or why the connection is of no use.
fn send(
    server: &mut Server,
    config: ClientConfig,
    message: &Message,
    content: &[u8],
    cuts: &[usize],
) -> Result<Vec<Outcome>, Fault> {
    let mut cuts = cuts.iter().copied().cycle();
    let mut client = Client::new(config);
    let mut reader = ReplyReader::new();
    let mut outcomes: Vec<Option<Outcome>> = vec![None; message.envelope.recipients.len()];
    let mut step = client.step(Event::Connected);
    loop {
        if !server.shows("PIPELINING") {
            let lines = step.write.windows(2).filter(|two| *two == b"\r\n").count();
            assert!(lines <= 1, "pipelined without leave: {:?}", String::from_utf8_lossy(&step.write));
        }
        put(server, &step.write, &mut cuts);
        let left: Vec<usize> = (0..outcomes.len()).filter(|at| outcomes[*at].is_none()).collect();
        step = match step.next {
            Next::Reply(_) => {
                let mut response = None;
                while response.is_none() {
                    assert!(!server.output.is_empty(), "the client waits in vain");
                    let piece = cuts.next().unwrap().min(server.output.len());
                    let fed = reader.feed(&server.output[..piece]).unwrap();
                    server.output.drain(..fed.used);
                    response = fed.response;
                }
                client.step(Event::Reply { response: &response.unwrap(), more: !server.output.is_empty() })
            }
            Next::Handshake => {
                server.happens(event::Event::Secured);
                client.step(Event::Secured)
            }
            Next::Content => {
                let (mut encoder, mut out) = (Encoder::new(), Vec::new());
                let mut rest = content;
                while !rest.is_empty() {
                    let (piece, tail) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                    encoder.feed(piece, &mut out).unwrap();
                    rest = tail;
                }
                encoder.finish(&mut out);
                put(server, &out, &mut cuts);
                client.step(Event::ContentSent)
            }
            Next::Close(None) => return Ok(outcomes.into_iter().map(Option::unwrap).collect()),
            Next::Close(Some(failure)) => return Err(failure.fault),
            Next::Finished(finished) => {
                assert!(finished.reusable, "{finished:?}");
                let sent = finished.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Sent(_)));
                assert_eq!(finished.accepted, sent, "{finished:?}");
                let offer = client.offer();
                let any = offer.size || offer.eight_bit || offer.dsn || offer.auth();
                assert!(finished.parameters == any || (offer.utf8 && finished.parameters), "{finished:?} {offer:?}");
                for (at, outcome) in left.iter().zip(finished.outcomes) {
                    if outcome != Outcome::NotTried(Unreached::NextTransaction) {
                        outcomes[*at] = Some(outcome);
                    }
                }
                begin(&mut client, message, &outcomes)
            }
            Next::Ready => begin(&mut client, message, &outcomes),
            Next::Probed(_) => unreachable!(),
        };
    }
}

fn begin(client: &mut Client, message: &Message, outcomes: &[Option<Outcome>]) -> pillarbox::smtp::client::Step {
    let mut message = message.clone();
    let mut open = outcomes.iter().map(Option::is_none);
    message.envelope.recipients.retain(|_| open.next().unwrap());
    if message.envelope.recipients.is_empty() { client.step(Event::Quit) } else { client.step(Event::Begin(Box::new(message))) }
}

fn put(server: &mut Server, octets: &[u8], cuts: &mut impl Iterator<Item = usize>) {
    let mut rest = octets;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(cuts.next().unwrap().min(rest.len()));
        server.take(piece);
        rest = tail;
    }
}

fn message(content: &[u8]) -> Message {
    let to = |address: &str, notify: &str, orcpt: &str| Recipient {
        path: ForwardPath::Mailbox(Address::parse(address).unwrap()),
        notify: Notify::parse(notify),
        orcpt: Orcpt::parse(orcpt),
    };
    let recipients = vec![
        to("b@there.example", "NEVER", ""),
        to("\"c c\"@there.example", "SUCCESS,DELAY", "rfc822;C+2Bc@there.example"),
        to("nobody@there.example", "", ""),
        to("d@there.example", "", ""),
        to("e@there.example", "", ""),
        to("j\u{f6}rg@there.example", "", ""),
    ];
    let lines = content.iter().filter(|octet| **octet == b'\n').count();
    Message {
        envelope: Envelope {
            reverse_path: ReversePath::Mailbox(Address::parse("a@me.example").unwrap()),
            recipients,
            body: Some(Body::EightBitMime),
            utf8: false,
            ret: Some(Ret::Headers),
            envid: Some("QQ +3".into()),
        },
        size: (content.len() + lines) as u64,
        auth: Some("alice@me.example".into()),
        plain: false,
    }
}

/// Those that another server or a user's program speaks to.
const SERVICES: [Service; 3] = [Service::Smtp, Service::Submission, Service::Submissions];

/// One exchange, and whether what came out is what went in.
fn exchange(service: Service, shown: u16, content: &[u8], cuts: &[usize]) {
    let mut server = Server::new(service, shown);
    let message = message(content);
    let with_login = matches!(service, Service::Submission | Service::Submissions);
    let tls = match service {
        Service::Local | Service::Smtp => TlsUse::Offered,
        Service::Submission => TlsUse::Required,
        Service::Submissions => TlsUse::Implicit,
    };
    let credentials =
        with_login.then(|| Credentials { login: "alice".into(), password: b"se\xffcret".to_vec().into(), foreign: false });
    let config = ClientConfig { helo: "me.example".into(), tls, credentials, message_size: None };
    let result = send(&mut server, config, &message, content, cuts);
    if tls == TlsUse::Required && !server.shows("STARTTLS") {
        assert_eq!((result, server.stored.len()), (Err(Fault::NoStartTls), 0));
        return;
    }
    if with_login && !server.shows("AUTH") {
        assert_eq!((result, server.stored.len()), (Err(Fault::NoMechanism), 0));
        return;
    }
    let outcomes = result.unwrap();
    let utf8 = server.shows("SMTPUTF8");
    let dsn = server.shows("DSN") && service != Service::Smtp;
    let mut whole = content.to_vec();
    if whole.last().is_some_and(|last| *last != b'\n') {
        whole.push(b'\n');
    }
    let mut reached = Vec::new();
    for (envelope, stored) in &server.stored {
        assert_eq!(stored, &whole);
        assert_eq!(envelope.reverse_path, message.envelope.reverse_path);
        assert_eq!(envelope.body, message.envelope.body.filter(|_| server.shows("8BITMIME")));
        assert_eq!(envelope.ret, message.envelope.ret.filter(|_| dsn));
        assert_eq!(envelope.envid, message.envelope.envid.clone().filter(|_| dsn));
        reached.extend(envelope.recipients.clone());
    }
    for (recipient, outcome) in message.envelope.recipients.iter().zip(outcomes) {
        let found = reached.iter().filter(|other| other.path == recipient.path).collect::<Vec<_>>();
        let name = recipient.path.to_string();
        let expected = match &outcome {
            Outcome::Unfit(Unfit::Utf8) => !utf8 && !name.is_ascii() && found.is_empty(),
            Outcome::Refused { reply, .. } => name.starts_with("no") && reply.code == 550 && found.is_empty(),
            Outcome::Sent(reply) => {
                let (notify, orcpt) = if dsn { (recipient.notify, recipient.orcpt.clone()) } else { (None, None) };
                reply.code == 250 && found.len() == 1 && found[0].notify == notify && found[0].orcpt == orcpt
            }
            _ => false,
        };
        assert!(expected, "{name}: {outcome:?}, {found:?}");
    }
}

const CONTENT: &[u8] = b"Subject: x\n\n.\n..\n.a\n\n\xff\xc3\xb6 end.\nno line end";

/// Every set of extensions, every service, whole and in pieces of one to three octets.
#[test]
fn every_set_of_extensions() {
    for shown in 0..1 << EXTENSIONS.len() {
        for service in SERVICES {
            for step in [1, 2, 3, usize::MAX] {
                exchange(service, shown, CONTENT, &[step]);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_content_in_any_pieces(
        content in prop_oneof![
            prop::collection::vec(prop::sample::select(b"\n.ab\xff".to_vec()), 1..80),
            prop::collection::vec(any::<u8>().prop_filter("no CR, no NUL", |octet| !matches!(octet, b'\r' | 0)), 1..400),
        ],
        cuts in prop::collection::vec(1usize..40, 1..30),
        shown in 0u16..1 << EXTENSIONS.len(),
    ) {
        for service in SERVICES {
            exchange(service, shown, &content, &cuts);
        }
    }
}
