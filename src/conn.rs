//! Drives one connection: does what the session asks ([`Next`]) and reports back ([`Event`]). All I/O, no protocol rules.
//!
//! Whatever happens on the connection, a message is either durable in every mailbox when 250 is written, or in none. A client
//! that has gone before it could read the 250 sends it again.

pub mod authors;
pub mod caller;
mod content;
pub mod context;
mod incoming;
mod login;
pub mod outbox;
mod recipients;
mod refusals;
pub mod sending;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::journal::SessionLog;
use crate::net::admission::{Ending, Slot};
use crate::net::deadline::{self, Clock, Wait};
use crate::net::network;
use crate::net::stream::Link;
use crate::net::tls;
use crate::net::wire::{Line, Wire};
use crate::smtp::command::Verb;
use crate::smtp::reply::Refusal;
use crate::smtp::sasl::SASL_LINE_MAX;
use crate::smtp::session::{Answer, Event, Next, Service, Session, SessionConfig, Step};
use caller::Caller;
use context::{Context, Snapshot};
use incoming::Incoming;
use refusals::Refusals;
use sending::Reservation;

/// From when a worker takes the connection up to MAIL on port 25; the `login` limit is for ports where there is a login.
const MAIL_LIMIT: std::time::Duration = std::time::Duration::from_secs(300);
/// Octets of a random id.
const ID_LEN: usize = 12;

/// One accepted connection: service, peer, time of accept.
#[derive(Debug)]
pub struct Connection<'a> {
    /// What the port is for.
    pub service: Service,
    /// Where the client is.
    pub peer: SocketAddr,
    /// When it was accepted.
    pub opened: Instant,
    /// The caller on a local socket, or why it is not served.
    pub caller: Option<Result<Caller, Refusal>>,
    /// Its slot; none in tests.
    pub slot: Option<&'a Arc<Slot>>,
}

/// The deadlines of a connection under these settings.
pub fn clock(snapshot: &Snapshot, service: Service, opened: Instant) -> Clock {
    let limits = &snapshot.config.limits;
    let login = if service.needs_login() { limits.login } else { MAIL_LIMIT };
    Clock::new(
        deadline::DeadlineLimits { idle: limits.idle, login, session: limits.session, data_rate: limits.data_rate },
        opened,
    )
}

/// A random id for a session; 60 bits, so that none comes twice.
pub fn fresh_id() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = [0; ID_LEN];
    // Without randomness an id is not unique, which is no reason to refuse mail.
    let _ = aws_lc_rs::rand::fill(&mut random);
    random.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect()
}

/// Serves one connection to its end.
pub fn serve<L: Link>(link: L, connection: &Connection<'_>, context: &Context, snapshot: Arc<Snapshot>) {
    let log = SessionLog::new(fresh_id(), connection.peer, connection.service.name(), &context.log_budget);
    let log = log.of_uid(network::uid_of_address(connection.peer.ip()));
    log.connect();
    let guard = PanicLog(&log);
    let driver = Driver {
        wire: Wire::new(link),
        session: session(context, &snapshot, connection),
        connection,
        context,
        snapshot,
        log: &log,
        incoming: None,
        text_buffer: Vec::new(),
        messages: 0,
        credentials: None,
        reservation: None,
        command: "connect",
        refusals: Refusals::default(),
        open: false,
    };
    driver.run();
    drop(guard);
}

fn session(context: &Context, snapshot: &Snapshot, connection: &Connection<'_>) -> Session {
    let session = Session::new(session_config(context, snapshot, connection.service));
    match &connection.caller {
        Some(Ok(caller)) => session.with_login(&caller.login, caller.sender(&snapshot.policy).map(|sender| sender.to_string())),
        _ => session,
    }
}

fn session_config(context: &Context, snapshot: &Snapshot, service: Service) -> SessionConfig {
    let limits = &snapshot.config.limits;
    SessionConfig {
        hostname: snapshot.config.hostname.as_str().into(),
        service,
        tls: snapshot.tls.is_some() && service != Service::Local,
        // Reports are promised where there is a queue: a process for one connection has none.
        dsn: snapshot.config.outgoing.is_some() && context.outbox.is_some(),
        message_size: limits.message_size,
        recipients: limits.recipients,
        errors: limits.errors,
    }
}

struct Driver<'a, L> {
    wire: Wire<L>,
    session: Session,
    connection: &'a Connection<'a>,
    context: &'a Context,
    snapshot: Arc<Snapshot>,
    log: &'a SessionLog,
    /// The message whose content is coming in, between chunks too.
    incoming: Option<Incoming>,
    /// Memory for the next message; given back when the client falls silent.
    text_buffer: Vec<u8>,
    messages: u64,
    /// What the login was proved with.
    credentials: Option<login::Proved>,
    /// What the open transaction counts against the limits of sending.
    reservation: Option<Reservation<'a>>,
    /// The last command, for the log.
    command: &'static str,
    refusals: Refusals,
    /// True if a transaction was open when the last line was waited for.
    open: bool,
}

// Not inlined: what these need of the stack must not lie beneath the handshake, the deepest use of it. A worker keeps each page
// of its stack that was ever touched.
impl<L: Link> Driver<'_, L> {
    fn run(mut self) {
        let mut step = self.open();
        let mut ending = false;
        loop {
            let done = step.and_then(|step| {
                if let Some(answer) = &step.answer {
                    self.say(answer);
                }
                self.obey(step.next)
            });
            step = match done {
                Ok(Some(step)) => Ok(step),
                Ok(None) => break,
                // The last word did not get through either.
                Err(_) if ending => break,
                Err(error) => match self.last_word(&error) {
                    Some(refusal) => {
                        ending = true;
                        Ok(self.session.step(Event::Abort(refusal)))
                    }
                    None => break,
                },
            };
            if !self.session.is_in_content() {
                self.incoming = None;
            }
            if self.session.envelope().is_none() {
                self.reservation = None;
            }
        }
        self.incoming = None;
        self.wire.link().close();
        self.sum_up_refusals();
        self.log.disconnect(self.messages, self.connection.opened.elapsed());
    }

    /// TLS first where the port wants it, then whatever the client sent too early.
    fn open(&mut self) -> io::Result<Step> {
        if self.connection.service == Service::Submissions {
            self.handshake()?;
        }
        if let Some(refusal) = self.greet_caller().or_else(|| self.shutdown_reason()) {
            return Ok(self.session.step(Event::Abort(refusal)));
        }
        let early = self.wire.early()?;
        Ok(self.session.step(Event::Opened { early }))
    }

    #[inline(never)]
    fn say(&mut self, answer: &Answer) {
        match answer {
            Answer::Reply(reply) => reply.write_to(self.wire.out()),
            Answer::No(refused) => {
                let parts = refused.why.parts();
                refused.write_to(self.wire.out(), self.log.id());
                if self.refusals.is_new(self.command, refused) {
                    let (before, about, after) = refused.text_parts();
                    self.log.refused(self.command, parts.code, parts.reason, (&before, about, after));
                }
            }
        }
    }

    fn sum_up_refusals(&mut self) {
        for repeat in self.refusals.take() {
            let parts = repeat.why.parts();
            self.log.refused_again(repeat.command, parts.code, parts.reason, repeat.count);
        }
    }

    /// Does what is next; `None` at the end of the session.
    fn obey(&mut self, next: Next) -> io::Result<Option<Step>> {
        let event = match next {
            Next::Close => {
                self.wire.flush(Wait::Farewell)?;
                return Ok(None);
            }
            Next::Line => return self.line(Wait::Command).map(Some),
            Next::SaslLine => return self.line(Wait::Auth).map(Some),
            Next::StartTls => {
                self.wire.flush(Wait::Reply)?;
                self.wire.forget_input();
                self.handshake()?;
                Event::Secured
            }
            Next::Sender(path) => {
                let verdict = self.check_sender(&path).and_then(|()| self.check_space());
                if verdict.is_ok() && !self.connection.service.needs_login() {
                    self.wire.link().clock().trust();
                }
                Event::Verdict(verdict)
            }
            Next::Recipient(path) => Event::Verdict(self.recipient(&path)),
            Next::Verify { mechanism, credentials } => Event::Login(self.verify(mechanism, &credentials)),
            Next::Content => Event::Stored(self.content()?),
            Next::Chunk { size, last } => self.chunk(size, last)?,
            Next::Skip(size) => {
                self.pass(Wait::Chunk, size, |_, input| (input.len(), false))?;
                Event::Skipped
            }
        };
        Ok(Some(self.session.step(event)))
    }

    #[inline(never)]
    fn line(&mut self, wait: Wait) -> io::Result<Step> {
        let open = self.session.envelope().is_some();
        if std::mem::replace(&mut self.open, open) && !open {
            self.sum_up_refusals();
        }
        if let Some(slot) = self.connection.slot {
            slot.set_in_transaction(open);
        }
        if !open && let Some(refusal) = self.shutdown_reason() {
            return Ok(self.session.step(Event::Abort(refusal)));
        }
        let buffer = &mut self.text_buffer;
        let line = match self.wire.line(wait, SASL_LINE_MAX - 2, || *buffer = Vec::new())? {
            Line::Text(line) | Line::Foreign(line) => line,
            Line::Bare => return Ok(self.session.step(Event::BareLineEnd)),
            Line::TooLong => return Ok(self.session.step(Event::LineTooLong)),
            Line::End => return Err(ErrorKind::UnexpectedEof.into()),
        };
        if self.is_password_gone() {
            return Ok(self.session.step(Event::Abort(Refusal::PasswordChanged)));
        }
        let verb = Verb::of(self.wire.text(line.clone()));
        let secret = wait == Wait::Auth || verb == Some(Verb::Auth);
        if wait == Wait::Command {
            self.command = verb.map_or("unknown", Verb::name);
        }
        let more = (wait == Wait::Auth || verb.is_some_and(Verb::ends_a_batch)) && self.wire.has_more()?;
        let step = self.session.step(Event::Line { line: self.wire.text(line.clone()), more });
        if secret {
            self.wire.wipe(line);
        }
        Ok(step)
    }

    fn handshake(&mut self) -> io::Result<()> {
        let Some(acceptor) = self.snapshot.tls.clone() else {
            return Err(ErrorKind::Unsupported.into());
        };
        let link = self.wire.link();
        link.clock().begin(Wait::Handshake, Instant::now());
        match link.start_tls(&acceptor) {
            Ok(info) => {
                self.log.tls(info.version, info.cipher, info.resumed);
                Ok(())
            }
            Err(error) => {
                if error.kind() != ErrorKind::TimedOut {
                    self.log.tls_failed(tls::client_fault(&error));
                }
                Err(error)
            }
        }
    }

    fn shutdown_reason(&self) -> Option<Refusal> {
        let ending = self.connection.slot.and_then(|slot| slot.ending())?;
        Some(match ending {
            Ending::Draining => Refusal::Draining,
            Ending::Evicted => Refusal::Evicted,
        })
    }

    /// What the connection's end calls for: a last word to the client, if it can hear one. Logs why.
    #[inline(never)]
    fn last_word(&mut self, error: &io::Error) -> Option<Refusal> {
        let wait = self.wire.link().clock().wait();
        let secured = self.connection.service != Service::Submissions || self.wire.link().tls().is_some();
        let can_hear = secured && !matches!(wait, Wait::Handshake | Wait::Reply | Wait::Farewell);
        self.wire.out().clear();
        match (error.kind(), self.shutdown_reason()) {
            (_, Some(told)) => {
                if !can_hear {
                    self.log.refused(self.command, told.parts().code, told.parts().reason, (told.parts().text, "", ""));
                }
                can_hear.then_some(told)
            }
            (ErrorKind::TimedOut, None) => {
                self.log.timeout(wait.name(), self.connection.opened.elapsed());
                can_hear.then_some(Refusal::Timeout)
            }
            _ => None,
        }
    }
}

/// Says which session a panic ended.
struct PanicLog<'a>(&'a SessionLog);

impl Drop for PanicLog<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked("the session ended by a defect; please report it");
        }
    }
}
