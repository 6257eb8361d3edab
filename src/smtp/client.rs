//! The client's side of SMTP as a pure state machine.
//!
//! It is told what happened ([`Event`]) and answers what to write and what to do next ([`Step`]). It guarantees that a
//! password is said inside TLS alone, that content follows a 354 and nothing else, and that every recipient of a
//! transaction has one [`Outcome`], of its own. Replies are read by [`ReplyReader`](super::reply_reader::ReplyReader).
//!
//! A connection begins with [`Event::Connected`]. When [`Next::Ready`] comes, the driver may begin a transaction or quit;
//! a transaction ends with [`Next::Finished`], after which it may begin another if the connection is reusable.
//! [`Next::Close`] ends everything. Nothing is sent by BDAT: a server that refuses must never read text as commands.

mod event;
mod login;
mod mailing;
mod offer;
mod outcome;

use std::mem;

use zeroize::Zeroizing;

use super::address::ReversePath;
use super::remote::{RemoteReply, Stage};
use super::reply_reader::Response;
pub use event::{ClientConfig, Event, Message, Next, Step, TlsUse, Wait};
use login::Login;
use mailing::{Advance, Mailing};
pub use offer::Offer;
pub use outcome::{Failure, Fault, Finished, Outcome, Unfit, Unreached};

/// See the module's description.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    state: State,
    secured: bool,
    logged_in: bool,
    offer: Offer,
    /// Transactions that were begun.
    transactions: usize,
    /// The server has a transaction open that will not be finished.
    needs_reset: bool,
}

#[derive(Debug)]
enum State {
    Closed,
    Fresh,
    Greeting,
    Handshake,
    Hello {
        extended: bool,
    },
    Login(Login),
    Mailing(Box<Mailing>),
    Probe,
    Ready,
    /// RSET is under way; what is to be done after it.
    Reset(Purpose),
    StartTls,
}

/// What a connection that is ready is used for.
#[derive(Debug)]
enum Purpose {
    Mail(Box<Message>),
    Nothing,
    Probe(ReversePath),
}

impl Client {
    /// A client on a connection that is about to be opened.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            state: State::Fresh,
            secured: false,
            logged_in: false,
            offer: Offer::default(),
            transactions: 0,
            needs_reset: false,
        }
    }

    /// What the server offers, since the last EHLO.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// True inside TLS.
    pub fn is_secured(&self) -> bool {
        self.secured
    }

    /// Takes what happened; gives what to write and do. An event that is not owed ends the connection.
    pub fn step(&mut self, event: Event<'_>) -> Step {
        match event {
            Event::Connected if matches!(self.state, State::Fresh) => {
                self.secured = self.config.tls == TlsUse::Implicit;
                self.state = State::Greeting;
                wait(Wait::Greeting)
            }
            Event::Secured if matches!(self.state, State::Handshake) => {
                self.secured = true;
                self.hello(true)
            }
            Event::Begin(message) if matches!(self.state, State::Ready) => self.begin(Purpose::Mail(message)),
            Event::Probe(sender) if matches!(self.state, State::Ready) => self.begin(Purpose::Probe(sender)),
            Event::Reset if matches!(self.state, State::Ready) => self.begin(Purpose::Nothing),
            Event::Quit if matches!(self.state, State::Ready) => {
                self.state = State::Closed;
                write(QUIT, Next::Close(None))
            }
            Event::Reply { response, more } => self.reply(response, more),
            Event::ContentSent if matches!(self.state, State::Mailing(_)) => self.mailing(|mailing| mailing.content_sent()),
            Event::Lost(fault) => self.lost(fault),
            _ => self.lost(Fault::Defect),
        }
    }

    fn reply(&mut self, response: &Response, more: bool) -> Step {
        let reply = &response.reply;
        match mem::replace(&mut self.state, State::Closed) {
            State::Mailing(mailing) => {
                self.state = State::Mailing(mailing);
                self.mailing(|mailing| mailing.reply(reply))
            }
            State::Reset(purpose) if reply.is_positive() => {
                self.needs_reset = false;
                self.begin_now(purpose)
            }
            State::Reset(purpose) => self.not_begun(purpose, Fault::of(reply)),
            State::Greeting if reply.code == 220 => self.hello(true),
            State::Greeting => self.fail(Stage::Greeting, Fault::of(reply)),
            State::Hello { extended } => self.greeted(extended, response),
            State::StartTls => self.start_tls(reply, more),
            State::Login(login) => self.log_in(login, reply),
            State::Probe => self.probed(reply),
            State::Closed | State::Fresh | State::Handshake | State::Ready => self.fail(Stage::End, Fault::of(reply)),
        }
    }

    fn hello(&mut self, extended: bool) -> Step {
        // Everything said before a handshake is forgotten (RFC 3207 section 4.2).
        self.offer = Offer::default();
        self.state = State::Hello { extended };
        let verb = if extended { "EHLO" } else { "HELO" };
        write(format!("{verb} {}\r\n", self.config.helo), Next::Reply(Wait::Command))
    }

    /// HELO after a refused EHLO is of no use where an extension is needed (RFC 5321 section 3.2).
    fn greeted(&mut self, extended: bool, response: &Response) -> Step {
        let reply = &response.reply;
        let needs_extensions = self.config.credentials.is_some() || (self.config.tls == TlsUse::Required && !self.secured);
        match reply.code {
            250 if extended => self.offer = Offer::parse(&response.lines),
            250 => {}
            500..=599 if extended && !needs_extensions => return self.hello(false),
            _ => return self.fail(Stage::Hello, Fault::of(reply)),
        }
        match self.config.tls {
            TlsUse::Offered | TlsUse::Required if !self.secured && self.offer.starttls => {
                self.state = State::StartTls;
                write("STARTTLS\r\n", Next::Reply(Wait::Command))
            }
            TlsUse::Required if !self.secured => self.fail(Stage::StartTls, Fault::NoStartTls),
            _ => self.authenticate(),
        }
    }

    /// What comes in the clear after the 220 could have been put there by anything on the way (CVE-2011-0411).
    fn start_tls(&mut self, reply: &RemoteReply, more: bool) -> Step {
        match reply.code {
            220 if more => self.abandon(Stage::StartTls, Fault::EarlyOctets),
            220 => {
                self.state = State::Handshake;
                Step { write: Zeroizing::default(), next: Next::Handshake }
            }
            421 => self.fail(Stage::StartTls, Fault::of(reply)),
            400..=599 if self.config.tls == TlsUse::Offered => self.authenticate(),
            _ => self.fail(Stage::StartTls, Fault::of(reply)),
        }
    }

    fn authenticate(&mut self) -> Step {
        let Some(credentials) = &self.config.credentials else {
            self.state = State::Ready;
            return Step { write: Zeroizing::default(), next: Next::Ready };
        };
        if !self.secured {
            return self.fail(Stage::Auth, Fault::NoStartTls);
        }
        match Login::begin(&self.offer, credentials) {
            Some((login, line)) => {
                self.state = State::Login(login);
                Step { write: line, next: Next::Reply(Wait::Command) }
            }
            None => self.fail(Stage::Auth, Fault::NoMechanism),
        }
    }

    fn log_in(&mut self, login: Login, reply: &RemoteReply) -> Step {
        let Some(credentials) = &self.config.credentials else { return self.lost(Fault::Defect) };
        match (reply.code, login) {
            (235, _) => {
                self.logged_in = true;
                self.config.credentials = None;
                self.state = State::Ready;
                Step { write: Zeroizing::default(), next: Next::Ready }
            }
            (334, login) => match login.respond(credentials) {
                Some((login, line)) => {
                    self.state = State::Login(login);
                    Step { write: line, next: Next::Reply(Wait::Command) }
                }
                None => self.fail(Stage::Auth, Fault::of(reply)),
            },
            _ => self.fail(Stage::Auth, Fault::of(reply)),
        }
    }

    fn begin(&mut self, purpose: Purpose) -> Step {
        if !self.needs_reset {
            return self.begin_now(purpose);
        }
        self.state = State::Reset(purpose);
        write("RSET\r\n", Next::Reply(Wait::Command))
    }

    fn begin_now(&mut self, purpose: Purpose) -> Step {
        match purpose {
            Purpose::Mail(message) => {
                let reused = self.transactions > 0;
                let auth = self.logged_in && self.offer.auth();
                let mailing = Mailing::new(*message, self.offer.clone(), self.config.message_size, auth, reused);
                self.transactions += usize::from(!mailing.is_void());
                self.state = State::Mailing(Box::new(mailing));
                self.mailing(Mailing::begin)
            }
            Purpose::Nothing => {
                self.state = State::Ready;
                Step { write: Zeroizing::default(), next: Next::Ready }
            }
            Purpose::Probe(sender) => {
                self.transactions += 1;
                self.state = State::Probe;
                write(format!("MAIL FROM:<{sender}>\r\n"), Next::Reply(Wait::Command))
            }
        }
    }

    fn probed(&mut self, reply: &RemoteReply) -> Step {
        self.needs_reset = reply.is_positive();
        if reply.code == 421 || !(reply.is_positive() || reply.is_transient() || reply.is_permanent()) {
            return self.fail(Stage::Mail, Fault::of(reply));
        }
        self.state = State::Ready;
        Step { write: Zeroizing::default(), next: Next::Probed(reply.clone()) }
    }

    /// Lets the transaction go on, and sees to its end.
    fn mailing(&mut self, advance: impl FnOnce(&mut Mailing) -> Advance) -> Step {
        let State::Mailing(mut mailing) = mem::replace(&mut self.state, State::Closed) else {
            return self.lost(Fault::Defect);
        };
        match advance(&mut mailing) {
            Advance::Content => {
                self.state = State::Mailing(mailing);
                Step { write: Zeroizing::default(), next: Next::Content }
            }
            Advance::Send(octets, wait) => {
                self.state = State::Mailing(mailing);
                write(octets, Next::Reply(wait))
            }
            Advance::Wait(kind) => {
                self.state = State::Mailing(mailing);
                wait(kind)
            }
            Advance::End { sane } => {
                let finished = mailing.finish();
                self.needs_reset |= finished.needs_reset;
                let reusable = sane && self.offer.mail_max.is_none_or(|most| self.transactions < most);
                if reusable {
                    self.state = State::Ready;
                }
                let farewell = if sane && !reusable { QUIT } else { "" };
                write(farewell, Next::Finished(Finished { reusable, ..finished.told }))
            }
        }
    }

    fn lost(&mut self, fault: Fault) -> Step {
        match mem::replace(&mut self.state, State::Closed) {
            State::Mailing(mailing) => {
                self.state = State::Mailing(mailing);
                self.mailing(|mailing| mailing.lost(fault))
            }
            State::Reset(purpose) => self.not_begun(purpose, fault),
            state => {
                let stage = match state {
                    State::Fresh => Stage::Connect,
                    State::Greeting => Stage::Greeting,
                    State::Handshake => Stage::Tls,
                    State::Hello { .. } if self.is_rejected(&fault) => Stage::Tls,
                    State::Hello { .. } => Stage::Hello,
                    State::Login(_) => Stage::Auth,
                    State::Probe => Stage::Mail,
                    State::StartTls => Stage::StartTls,
                    State::Closed | State::Mailing(_) | State::Ready | State::Reset(_) => Stage::End,
                };
                self.abandon(stage, fault)
            }
        }
    }

    /// A server that rejects a handshake of TLS 1.3, for want of a certificate of ours say, does so after the client has
    /// finished it (RFC 8446 section 2): what shows of it is that the first reply never comes.
    fn is_rejected(&self, fault: &Fault) -> bool {
        self.config.tls == TlsUse::Offered && self.secured && matches!(fault, Fault::Closed | Fault::Io(_))
    }

    /// RSET failed: nothing of the transaction was said, another connection may take it.
    fn not_begun(&mut self, purpose: Purpose, fault: Fault) -> Step {
        match purpose {
            Purpose::Mail(message) => {
                let outcomes = message.envelope.recipients.iter().map(|_| Outcome::NotTried(Unreached::Stale)).collect();
                write("", Next::Finished(Finished { outcomes, ..Finished::default() }))
            }
            Purpose::Nothing | Purpose::Probe(_) => self.abandon(Stage::End, fault),
        }
    }

    /// Says goodbye to a server that refused; one that has said 421 or no sense is left alone.
    fn fail(&mut self, stage: Stage, fault: Fault) -> Step {
        let polite = match &fault {
            Fault::Refused(reply) => reply.code != 421,
            Fault::NoStartTls | Fault::NoMechanism => true,
            _ => false,
        };
        self.state = State::Closed;
        write(if polite { QUIT } else { "" }, Next::Close(Some(Failure { stage, fault })))
    }

    fn abandon(&mut self, stage: Stage, fault: Fault) -> Step {
        self.state = State::Closed;
        write("", Next::Close(Some(Failure { stage, fault })))
    }
}

fn write(octets: impl Into<Vec<u8>>, next: Next) -> Step {
    Step { write: Zeroizing::new(octets.into()), next }
}

fn wait(kind: Wait) -> Step {
    write("", Next::Reply(kind))
}

const QUIT: &str = "QUIT\r\n";
