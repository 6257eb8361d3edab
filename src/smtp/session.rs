//! One SMTP session as a pure state machine.
//!
//! It is told what happened ([`Event`]) and answers what to say and what to do next ([`Step`]). What is slow or can
//! fail (password hash, disk, TLS, the policy's tables) leaves as a [`Next`] and comes back as an event. It guarantees
//! that no order of commands reaches a mailbox past the rules of its port: which verb is legal when stands in one
//! table, [`rules`]; the data of a state is part of the state.

use std::mem;

use super::command::{self, COMMAND_MAX, Command, Dialect, Mail, Recipient, Verb};
pub use super::event::{Answer, Envelope, Event, Hello, Next, Receipt, SessionConfig, Step};
use super::reply::{Refusal, Refused, Reply};
pub use super::rules::Service;
use super::rules::{self, Situation, Transaction};
use super::sasl::{self, Exchange, Progress, SaslError};

/// See the module's description.
#[derive(Debug)]
pub struct Session {
    pub(super) config: SessionConfig,
    pub(super) state: State,
    secured: bool,
    hello: Option<Hello>,
    login: Option<String>,
    /// The client's own address, where it is told.
    address: Option<String>,
    errors: u32,
    /// Commands since the last message that bring none nearer.
    pub(super) junk: u32,
    /// MAIL was said since the last message.
    pub(super) tried: bool,
    /// Refusals that are not the client's fault, since a message was stored.
    pub(super) deferrals: u32,
}

/// Refusals that are not the client's fault after which the session ends. Ordinary servers send long lists of recipients
/// without having read LIMITS.
pub const DEFERRALS_MAX: u32 = 1000;

#[derive(Debug)]
pub(super) enum State {
    /// BDAT has begun; so many octets so far.
    Chunks(Envelope, u64),
    /// The content of a whole message or of its last chunk is being read.
    Content(Envelope),
    /// No transaction.
    Idle,
    /// MAIL was accepted.
    Mail(Envelope),
    /// The policy is asked about a recipient.
    Recipient(Envelope, Recipient),
    /// A SASL exchange waits for a response.
    Sasl(Exchange),
    /// The policy is asked about a sender.
    Sender(Mail),
    /// The handshake is under way, or the connection has not been greeted.
    Silent,
    /// Credentials are being checked.
    Verify,
}

impl Session {
    /// A session on a fresh connection; on `submissions` the handshake is done already.
    pub fn new(config: SessionConfig) -> Self {
        let secured = config.service == Service::Submissions;
        Self {
            config,
            state: State::Silent,
            secured,
            hello: None,
            login: None,
            address: None,
            errors: 0,
            junk: 0,
            tried: false,
            deferrals: 0,
        }
    }

    /// The same where the login is known from the start, on a socket of this machine.
    /// EHLO then says the client's own address beside the server's name.
    pub fn with_login(mut self, login: &str, address: Option<String>) -> Self {
        self.login = Some(login.to_owned());
        self.address = address;
        self
    }

    /// What the port is for.
    pub fn service(&self) -> Service {
        self.config.service
    }

    /// How the client introduced itself, since the last handshake.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The login, once there is one.
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// The open transaction.
    pub fn envelope(&self) -> Option<&Envelope> {
        match &self.state {
            State::Chunks(envelope, _) | State::Content(envelope) | State::Mail(envelope) => Some(envelope),
            State::Recipient(envelope, _) => Some(envelope),
            State::Idle | State::Sasl(_) | State::Sender(_) | State::Silent | State::Verify => None,
        }
    }

    /// SIZE of the MAIL that the policy is asked about (RFC 1870 section 5).
    pub fn announced_size(&self) -> Option<u64> {
        match &self.state {
            State::Sender(mail) => mail.size,
            _ => None,
        }
    }

    /// True while content that was read belongs to an open message.
    pub fn is_in_content(&self) -> bool {
        matches!(self.state, State::Chunks(..) | State::Content(_))
    }

    /// Takes what happened; gives what to say and do.
    pub fn step(&mut self, event: Event<'_>) -> Step {
        match event {
            Event::Opened { early } => self.opened(early),
            Event::Line { .. } | Event::LineTooLong if self.has_erred_enough() => self.no(Refusal::TooManyErrors),
            Event::Line { line, more } => self.line(line, more),
            Event::LineTooLong => match mem::replace(&mut self.state, State::Idle) {
                State::Sasl(_) => self.no(Refusal::AuthLineTooLong),
                state => {
                    self.state = state;
                    self.no(Refusal::LineTooLong)
                }
            },
            Event::BareLineEnd => self.no(Refusal::BareLineEnd),
            Event::Secured => self.secured(),
            Event::Verdict(verdict) => self.verdict(verdict),
            Event::Login(outcome) => self.logged_in(outcome),
            Event::Chunk(outcome) => self.chunk(outcome),
            Event::Stored(outcome) => self.stored(outcome),
            Event::Skipped => Step { answer: None, next: Next::Line },
            Event::Abort(refusal) => Step { answer: Some(Answer::No(refusal.into())), next: Next::Close },
        }
    }

    /// True if the next line is answered with the end of the session, whatever it says.
    fn has_erred_enough(&self) -> bool {
        self.errors >= self.config.errors || self.deferrals >= DEFERRALS_MAX
    }

    fn opened(&mut self, early: &[u8]) -> Step {
        if !early.is_empty() {
            return self.no(foreign_protocol(early).unwrap_or(Refusal::EarlyInput));
        }
        self.state = State::Idle;
        say(Reply::plain(220, format!("{} ESMTP", self.config.hostname)), Next::Line)
    }

    fn line(&mut self, line: &[u8], more: bool) -> Step {
        if let State::Sasl(_) = self.state {
            return self.sasl_line(line, more);
        }
        if let Some(foreign) = foreign_protocol(line) {
            return self.no(foreign);
        }
        let verb = Verb::of(line);
        if line.len() > COMMAND_MAX && verb != Some(Verb::Auth) {
            return self.no(Refusal::LineTooLong);
        }
        let Some(verb) = verb else {
            return self.no(Refusal::UnknownCommand);
        };
        if verb.ends_a_batch() && more {
            return self.no(Refusal::Pipelined);
        }
        let text = std::str::from_utf8(line).map_err(|_| Refused::about(Refusal::Syntax, "ASCII or UTF-8"));
        let command = text.and_then(|text| command::parse(verb, text, self.dialect()).map_err(Refused::from));
        match (rules::check(verb, &self.situation()), command) {
            (Ok(()), Ok(command)) => self.command(command),
            // How many octets follow is not known; none of them must be read as a command.
            (Ok(()), Err(refused)) if verb == Verb::Bdat => Step { next: Next::Close, ..self.no(refused) },
            (Ok(()), Err(refused)) => self.no(refused),
            // A refused BDAT is still followed by its octets (RFC 3030 section 2).
            (Err(refusal), Ok(Command::Bdat { size, .. })) => Step { next: Next::Skip(size), ..self.no(refusal) },
            (Err(refusal), _) => self.no(refusal),
        }
    }

    /// What the legality table asks about.
    fn situation(&self) -> Situation {
        let transaction = match &self.state {
            State::Idle => Transaction::None,
            State::Chunks(..) => Transaction::Chunks,
            _ => Transaction::Open,
        };
        Situation {
            service: self.config.service,
            secured: self.secured,
            greeted: self.hello.is_some(),
            logged_in: self.login.is_some(),
            transaction,
        }
    }

    fn dialect(&self) -> Dialect {
        Dialect { grammar: self.config.service.grammar(), dsn: self.offers_dsn() }
    }

    fn offers_dsn(&self) -> bool {
        self.config.dsn && self.config.service.needs_login()
    }

    /// Counts commands that can be repeated for ever: all that bring no message nearer, and those that should but come again
    /// without one. True if there were too many.
    fn is_junk_too_often(&mut self, command: &Command<'_>) -> bool {
        let junk = match command {
            Command::Ehlo(_) | Command::Helo(_) => self.hello.is_some(),
            Command::Help | Command::Noop | Command::Rset | Command::Vrfy => true,
            Command::Mail(_) => mem::replace(&mut self.tried, true),
            Command::Bdat { size, last } => *size == 0 && !last,
            Command::Auth { .. } | Command::Data | Command::Quit => false,
            Command::Rcpt { .. } | Command::StartTls | Command::Unoffered => false,
        };
        self.junk += u32::from(junk);
        self.junk > JUNK_MAX
    }

    fn command(&mut self, command: Command<'_>) -> Step {
        if self.is_junk_too_often(&command) {
            return self.no(Refusal::JunkCommands);
        }
        match command {
            Command::Auth { mechanism, initial } => self.auth(mechanism, initial),
            Command::Bdat { size, last } => self.bdat(size, last),
            Command::Data => self.data(),
            Command::Ehlo(name) => self.greet(name, true),
            Command::Helo(name) => self.greet(name, false),
            Command::Help => say(
                Reply::ok(
                    214,
                    (2, 0, 0),
                    "EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT; see pillarbox(8)",
                ),
                Next::Line,
            ),
            Command::Mail(mail) => self.mail(mail),
            Command::Noop => say(Reply::ok(250, (2, 0, 0), "Ok"), Next::Line),
            Command::Quit => say(Reply::ok(221, (2, 0, 0), "Bye"), Next::Close),
            Command::Rcpt { recipient, utf8 } => self.rcpt(recipient, utf8),
            Command::Rset => {
                self.state = State::Idle;
                say(Reply::ok(250, (2, 0, 0), "Ok"), Next::Line)
            }
            Command::StartTls => self.start_tls(),
            Command::Unoffered => self.no(Refusal::NotOffered),
            Command::Vrfy => {
                say(Reply::ok(252, (2, 0, 0), "Cannot VRFY user, but will accept message and attempt delivery"), Next::Line)
            }
        }
    }

    /// EHLO and HELO end an open transaction (RFC 5321 section 4.1.4).
    fn greet(&mut self, name: &str, extended: bool) -> Step {
        self.state = State::Idle;
        self.hello = Some(Hello { name: name.to_owned(), extended });
        let config = &self.config;
        if !extended {
            return say(Reply::plain(250, config.hostname.to_string()), Next::Line);
        }
        let own = self.address.as_ref().map_or_else(String::new, |address| format!(" {address}"));
        let mut lines = vec![
            format!("{}{own}", config.hostname),
            "PIPELINING".into(),
            format!("SIZE {}", config.message_size),
            "8BITMIME".into(),
            "SMTPUTF8".into(),
            "ENHANCEDSTATUSCODES".into(),
            "CHUNKING".into(),
            format!("LIMITS RCPTMAX={}", config.recipients),
        ];
        if self.offers_dsn() {
            lines.push("DSN".into());
        }
        if config.tls && !self.secured {
            lines.push("STARTTLS".into());
        }
        if config.service.needs_auth() && self.secured && self.login.is_none() {
            lines.push(format!("AUTH {}", sasl::MECHANISMS));
        }
        say(Reply::lines(250, lines), Next::Line)
    }

    fn start_tls(&mut self) -> Step {
        if self.secured {
            return self.no(Refusal::AlreadyTls);
        }
        if !self.config.tls {
            return self.no(Refusal::NotOffered);
        }
        self.state = State::Silent;
        say(Reply::ok(220, (2, 0, 0), "Ready to start TLS"), Next::StartTls)
    }

    /// Everything said before the handshake is forgotten, the client's name too (RFC 3207 section 4.2).
    fn secured(&mut self) -> Step {
        self.secured = true;
        self.hello = None;
        self.state = State::Idle;
        Step { answer: None, next: Next::Line }
    }

    fn auth(&mut self, mechanism: &str, initial: Option<&str>) -> Step {
        if self.login.is_some() {
            return self.no(Refusal::AlreadyLoggedIn);
        }
        let Some(exchange) = Exchange::start(mechanism) else {
            return self.no(Refusal::AuthMechanism);
        };
        match initial {
            None => self.challenge(exchange),
            Some(response) => {
                let name = exchange.mechanism();
                self.progress(name, exchange.initial(response.as_bytes()))
            }
        }
    }

    fn sasl_line(&mut self, line: &[u8], more: bool) -> Step {
        let State::Sasl(exchange) = mem::replace(&mut self.state, State::Idle) else {
            return self.no(Refusal::Internal);
        };
        if more {
            return self.no(Refusal::Pipelined);
        }
        let name = exchange.mechanism();
        self.progress(name, exchange.respond(line))
    }

    fn progress(&mut self, mechanism: &'static str, progress: Result<Progress, SaslError>) -> Step {
        match progress {
            Ok(Progress::Continue(exchange)) => self.challenge(exchange),
            Ok(Progress::Done(credentials)) => {
                self.state = State::Verify;
                Step { answer: None, next: Next::Verify { mechanism, credentials } }
            }
            Err(SaslError::Cancelled) => self.no(Refusal::AuthCancelled),
            Err(SaslError::Malformed) => self.no(Refusal::AuthBadBase64),
        }
    }

    fn challenge(&mut self, exchange: Exchange) -> Step {
        let reply = Reply::plain(334, exchange.challenge());
        self.state = State::Sasl(exchange);
        say(reply, Next::SaslLine)
    }

    fn logged_in(&mut self, outcome: Result<String, Refused>) -> Step {
        self.state = State::Idle;
        match outcome {
            Ok(login) => {
                self.login = Some(login);
                say(Reply::ok(235, (2, 7, 0), "Authentication successful"), Next::Line)
            }
            Err(refused) => self.no(refused),
        }
    }

    pub(super) fn no(&mut self, refused: impl Into<Refused>) -> Step {
        let refused = refused.into();
        let counter = if refused.why.is_clients_fault() { &mut self.errors } else { &mut self.deferrals };
        *counter = counter.saturating_add(1);
        let next = if refused.why.closes() { Next::Close } else { Next::Line };
        Step { answer: Some(Answer::No(refused)), next }
    }
}

pub(super) fn say(reply: Reply, next: Next) -> Step {
    Step { answer: Some(Answer::Reply(reply)), next }
}

/// NOOP, RSET, VRFY, HELP, chunks of nothing, and repeated EHLO, HELO and MAIL without a message between, at most.
pub const JUNK_MAX: u32 = 100;

/// Browsers made to post to port 25, and TLS where it is not due, are ended at their first line.
fn foreign_protocol(line: &[u8]) -> Option<Refusal> {
    const HTTP: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PRI", "PUT"];
    /// ContentType handshake, and the major version that every TLS record has (RFC 8446 section 5.1).
    const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];
    let word = line.split(|b| *b == b' ').next().unwrap_or(line);
    if word.len() < line.len() && HTTP.iter().any(|verb| verb.as_bytes().eq_ignore_ascii_case(word)) {
        return Some(Refusal::Http);
    }
    line.starts_with(&TLS_HANDSHAKE).then_some(Refusal::TlsHello)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(service: Service) -> Session {
        let mut session = Session::new(SessionConfig {
            hostname: "mx.example.org".into(),
            service,
            tls: true,
            dsn: false,
            message_size: 1000,
            recipients: 2,
            errors: 10,
        });
        session.step(Event::Opened { early: b"" });
        session
    }

    #[test]
    fn help_names_every_verb_that_is_offered() {
        let mut session = session(Service::Smtp);
        let step = session.step(Event::Line { line: b"HELP", more: false });
        let Some(Answer::Reply(reply)) = step.answer else { panic!("{step:?}") };
        let mut text = Vec::new();
        reply.write_to(&mut text);
        let text = String::from_utf8(text).unwrap();
        let mut named: Vec<&str> = text.split(';').next().unwrap().split(' ').skip(2).collect();
        let dialect = session.dialect();
        let offered = |verb: &Verb| !matches!(command::parse(*verb, verb.name(), dialect), Ok(Command::Unoffered));
        let mut verbs: Vec<&str> = Verb::ALL.iter().filter(|verb| offered(verb)).map(|verb| verb.name()).collect();
        named.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(named, verbs);
    }

    /// Whatever a client says before login on a submission port, nothing but these can follow.
    #[test]
    fn before_login_no_line_reaches_the_policy() {
        let lines = [
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<a@b.example>",
            "DATA",
            "BDAT 3 LAST",
            "RSET",
            "VRFY a",
            "ETRN x",
            "HELP",
            "NOOP",
            "EHLO x",
            "HELO x",
            "EXPN a",
            "AUTH PLAIN =",
        ];
        for service in [Service::Submission, Service::Submissions] {
            for first in lines {
                for second in lines {
                    let mut session = session(service);
                    session.step(Event::Line { line: first.as_bytes(), more: false });
                    let step = session.step(Event::Line { line: second.as_bytes(), more: false });
                    let harmless = matches!(step.next, Next::Line | Next::SaslLine | Next::Skip(3) | Next::Close);
                    assert!(harmless, "{service:?}: {first}, {second}: {step:?}");
                }
            }
        }
    }

    /// A chunk of nothing would be a NOOP without end; the last one may well be empty.
    #[test]
    fn a_hundred_empty_chunks() {
        let line = |line| Event::Line { line, more: false };
        let begun = || {
            let mut session = session(Service::Smtp);
            session.step(line(b"EHLO x"));
            for command in [&b"MAIL FROM:<>"[..], b"RCPT TO:<a@b.example>"] {
                session.step(line(command));
                session.step(Event::Verdict(Ok(())));
            }
            for _ in 0..JUNK_MAX {
                for (chunk, octets) in [(b"BDAT 1", 1), (b"BDAT 0", 0)] {
                    assert_eq!(session.step(line(chunk)).next, Next::Chunk { size: octets, last: false });
                    session.step(Event::Chunk(Ok(())));
                }
            }
            session
        };
        assert_eq!(begun().step(line(b"BDAT 0 LAST")).next, Next::Chunk { size: 0, last: true });
        let step = begun().step(line(b"BDAT 0"));
        assert!(matches!(&step.answer, Some(Answer::No(refused)) if refused.why == Refusal::JunkCommands), "{step:?}");
        assert_eq!(step.next, Next::Close);
    }

    #[test]
    fn a_stray_event_is_no_panic_and_no_success() {
        for service in Service::ALL {
            let events: [fn() -> Event<'static>; 6] = [
                || Event::Verdict(Ok(())),
                || Event::Chunk(Err(Refusal::DiskFull.into())),
                || Event::Skipped,
                || Event::LineTooLong,
                || Event::BareLineEnd,
                || Event::Abort(Refusal::Timeout),
            ];
            for event in events {
                let step = session(service).step(event());
                assert!(matches!(step.next, Next::Line | Next::Close), "{step:?}");
            }
        }
    }
}
