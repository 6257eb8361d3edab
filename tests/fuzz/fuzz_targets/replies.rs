//! A whole connection to a server that says anything: every recipient has one outcome, nothing is taken for sent before its
//! content was, and the password is said inside TLS alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pillarbox::smtp::address::{Address, ForwardPath, ReversePath};
use pillarbox::smtp::client::{Client, ClientConfig, Event, Fault, Message, Next, Outcome, TlsUse};
use pillarbox::smtp::command::Recipient;
use pillarbox::smtp::event::Envelope;
use pillarbox::smtp::reply_reader::ReplyReader;
use pillarbox::smtp::sasl::Credentials;

/// `secretword` and `\0login\0secretword`, as AUTH says them.
const SECRETS: [&[u8]; 2] = [b"c2VjcmV0d29yZA==", b"AGxvZ2luAHNlY3JldHdvcmQ="];

fn message(flags: u8) -> Message {
    let mailbox = |text: &str| Address::parse(text).expect("an address");
    let recipients = ["a@example.org", "b@example.org", "c@example.net"].map(|to| Recipient::plain(ForwardPath::Mailbox(mailbox(to))));
    let envelope = Envelope {
        reverse_path: ReversePath::Mailbox(mailbox("x@example.com")),
        recipients: recipients.into(),
        body: None,
        utf8: flags & 16 != 0,
        ret: None,
        envid: None,
    };
    Message { envelope, size: 5, auth: Some("x@example.com".into()), plain: flags & 32 != 0 }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (flags, mut rest) = input;
    let tls = [TlsUse::Implicit, TlsUse::None, TlsUse::Offered, TlsUse::Required][usize::from(flags & 3)];
    let credentials = (flags & 4 != 0).then(|| Credentials { login: "login".into(), password: b"secretword".to_vec().into(), foreign: false });
    let mut client = Client::new(ClientConfig { helo: "me.example".into(), tls, credentials, message_size: None });
    let mut reader = ReplyReader::new();
    let (mut secured, mut begun, mut content) = (tls == TlsUse::Implicit, 0, false);
    let mut step = client.step(Event::Connected);
    loop {
        let says = |secret: &[u8]| step.write.windows(secret.len()).any(|part| part == secret);
        assert!(secured || !SECRETS.into_iter().any(says));
        let can_begin = match &step.next {
            Next::Close(_) => return,
            Next::Finished(finished) => {
                assert_eq!(finished.outcomes.len(), 3);
                assert!(content || !finished.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Sent(_))));
                if !finished.reusable {
                    return;
                }
                true
            }
            Next::Probed(_) | Next::Ready => true,
            Next::Content | Next::Handshake | Next::Reply(_) => false,
        };
        let event = match &step.next {
            _ if can_begin && begun == 3 => Event::Quit,
            _ if can_begin => {
                (begun, content) = (begun + 1, false);
                match begun {
                    1 if flags & 8 != 0 => Event::Probe(ReversePath::Null),
                    _ => Event::Begin(Box::new(message(flags))),
                }
            }
            Next::Content => {
                content = true;
                Event::ContentSent
            }
            Next::Handshake => {
                secured = true;
                Event::Secured
            }
            _ => match reader.feed(rest) {
                Ok(fed) => {
                    rest = &rest[fed.used..];
                    match &fed.response {
                        Some(response) => {
                            step = client.step(Event::Reply { response, more: !rest.is_empty() });
                            continue;
                        }
                        None => Event::Lost(Fault::Closed),
                    }
                }
                Err(_) => Event::Lost(Fault::Closed),
            },
        };
        step = client.step(event);
    }
});
