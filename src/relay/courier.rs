//! One connection to a next hop: does what [`Client`] asks, under deadlines, and reports what came of it.
//!
//! It knows no rules of the protocol. It guarantees that nothing waits without an end, that the final dot is written only
//! after the caller has agreed to it, and that after [`Stop`] no transaction begins, one whose content is under way may
//! end until the stop's deadline, and everything else ends at once.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::line::{Line, fault_of};
use super::names;
use super::route::{Hop, read_password};
use crate::mail::dkim::Fields;
use crate::net::dial::{dial, source_for};
use crate::net::outbound::Outbound;
use crate::net::stop::Stop;
use crate::net::tls::TlsInfo;
use crate::smtp::address::ReversePath;
use crate::smtp::client::{
    Client, ClientConfig, Event, Failure, Fault, Finished, Message, Next, Offer, Outcome, TlsUse, Unreached,
};
use crate::smtp::remote::{RemoteReply, Stage};
use crate::smtp::sasl::Credentials;

/// A connection that is ready for a transaction, or of no use any more.
#[derive(Debug)]
pub struct Courier {
    client: Client,
    line: Line,
    reusable: bool,
    opened: Instant,
    transactions: usize,
    signatures: Option<Fields>,
}

/// Why there is no connection: what happened with each address that was tried, in order; one entry at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The address, unless there was none to try, and what happened.
    pub attempts: Vec<(Option<SocketAddr>, Failure)>,
}

/// A connection serves so many transactions, at most.
const TRANSACTIONS_MAX: usize = 100;
impl Unreachable {
    /// What happened last.
    pub fn last(&self) -> Option<&Failure> {
        self.attempts.last().map(|(_, failure)| failure)
    }

    fn before_any(stage: Stage, fault: Fault) -> Self {
        Self { attempts: vec![(None, Failure { stage, fault })] }
    }
}

impl Courier {
    /// Opens a connection to a hop: looks its name up, tries its addresses in order, does TLS and logs in.
    pub fn connect(hop: &Hop, stop: &Arc<Stop>) -> Result<Self, Unreachable> {
        let addresses = names::addresses(&hop.host, hop.port, Instant::now() + hop.timeouts.names, stop)
            .map_err(|fault| Unreachable::before_any(Stage::Connect, fault))?;
        Self::connect_to(hop, &addresses, stop)
    }

    /// The same with addresses that are known. A refused login is not tried at another address: it would count twice.
    pub fn connect_to(hop: &Hop, addresses: &[SocketAddr], stop: &Arc<Stop>) -> Result<Self, Unreachable> {
        let credentials = match &hop.login {
            None => None,
            Some((login, path)) => {
                let password = read_password(path)
                    .map_err(|error| Unreachable::before_any(Stage::Auth, Fault::Password(error.to_string())))?;
                Some(Credentials { login: login.clone(), password, foreign: false })
            }
        };
        let mut attempts = Vec::new();
        for address in addresses {
            // An address of a family that no source has.
            let Some(source) = source_for(*address, &hop.source) else { continue };
            let opened = dial(*address, source, hop.timeouts.connect, stop)
                .map_err(|error| Failure { stage: Stage::Connect, fault: fault_of(&error) })
                .and_then(|tcp| {
                    let outbound = Outbound::new(tcp, Arc::clone(stop));
                    Self::open(hop, credentials.clone(), Line::new(outbound, *address, hop, stop))
                });
            match opened {
                Ok(courier) => return Ok(courier),
                Err(failure) => {
                    let over = failure.stage == Stage::Auth || failure.fault == Fault::Stopped;
                    attempts.push((Some(*address), failure));
                    if over {
                        break;
                    }
                }
            }
        }
        if attempts.is_empty() {
            let why = format!("{} has no address that can be reached from `source`", hop.host);
            return Err(Unreachable::before_any(Stage::Connect, Fault::Dns(why)));
        }
        Err(Unreachable { attempts })
    }

    /// Sends a message to its recipients. `before_dot` is asked when everything but the final dot is on its way: its error
    /// ends the transaction, and the server takes nothing. The content has LF line ends.
    pub fn send(&mut self, message: Message, content: &mut dyn Read, before_dot: &mut dyn FnMut() -> io::Result<()>) -> Finished {
        let count = message.envelope.recipients.len();
        let unreached = |why| Finished { outcomes: vec![Outcome::NotTried(why); count], ..Finished::default() };
        if self.line.stop.is_stopped() {
            return unreached(Unreached::Stopped);
        }
        if !self.is_usable() {
            return unreached(Unreached::Stale);
        }
        self.transactions += 1;
        let mut step = self.client.step(Event::Begin(Box::new(message)));
        loop {
            step = match step.next {
                Next::Content => self.line.content(&mut self.client, content, before_dot),
                Next::Finished(finished) => {
                    self.reusable = finished.reusable;
                    if !self.reusable {
                        self.line.bid_farewell(&step.write);
                    }
                    return finished;
                }
                Next::Close(failure) => {
                    self.reusable = false;
                    let fault = failure.map_or(Fault::Defect, |failure| failure.fault);
                    let lost = Outcome::Lost { stage: Stage::Mail, after_dot: false, fault };
                    return Finished { outcomes: vec![lost; count], ..Finished::default() };
                }
                _ => self.line.advance(&mut self.client, step),
            };
        }
    }

    /// Asks whether the server would take mail from this sender, and sends none.
    pub fn probe(&mut self, sender: ReversePath) -> Result<RemoteReply, Failure> {
        self.transactions += 1;
        let mut step = self.client.step(Event::Probe(sender));
        loop {
            match step.next {
                Next::Probed(reply) => return Ok(reply),
                Next::Close(failure) => {
                    self.reusable = false;
                    self.line.bid_farewell(&step.write);
                    return Err(failure.unwrap_or(Failure { stage: Stage::Mail, fault: Fault::Defect }));
                }
                _ => step = self.line.advance(&mut self.client, step),
            }
        }
    }

    /// Undoes what a probe began on the server (RSET).
    pub fn reset(&mut self) -> Result<(), Failure> {
        let mut step = self.client.step(Event::Reset);
        loop {
            match step.next {
                Next::Ready => return Ok(()),
                Next::Close(failure) => {
                    self.reusable = false;
                    self.line.bid_farewell(&step.write);
                    return Err(failure.unwrap_or(Failure { stage: Stage::End, fault: Fault::Defect }));
                }
                _ => step = self.line.advance(&mut self.client, step),
            }
        }
    }

    /// True if another transaction may begin: the server has not closed the connection, said nothing of its own accord, and
    /// the connection is neither too old nor used too often.
    pub fn is_usable(&mut self) -> bool {
        // A fresh one is used whatever it says: what ends it then is told as what it is, and not tried again at once.
        let is_fresh = self.transactions == 0;
        let is_worn = self.transactions >= TRANSACTIONS_MAX || self.opened.elapsed() >= self.line.timeouts.reuse;
        self.reusable = self.reusable && (is_fresh || (!is_worn && self.line.is_silent()));
        self.reusable
    }

    /// Says QUIT, if the server may still listen, and closes. The reply is not waited for.
    pub fn quit(mut self) {
        if self.reusable {
            let step = self.client.step(Event::Quit);
            self.line.bid_farewell(&step.write);
        }
    }

    /// The server's address.
    pub fn peer(&self) -> SocketAddr {
        self.line.peer
    }

    /// The server's name.
    pub fn host(&self) -> &str {
        &self.line.host
    }

    /// Which signatures its route sends.
    pub fn signatures(&self) -> Option<Fields> {
        self.signatures
    }

    /// What TLS agreed on; `None` in the clear.
    pub fn tls(&self) -> Option<TlsInfo> {
        self.line.tls
    }

    /// When the server's certificate ends; `None` in the clear, or if it cannot be read out of it.
    pub fn certificate_end(&self) -> Option<SystemTime> {
        self.line.certificate_end()
    }

    /// What the server offers.
    pub fn offer(&self) -> &Offer {
        self.client.offer()
    }

    /// From the first octet to readiness.
    fn open(hop: &Hop, credentials: Option<Credentials>, mut line: Line) -> Result<Self, Failure> {
        let config = ClientConfig { helo: hop.helo.clone(), tls: hop.tls, credentials, message_size: hop.message_size };
        let mut client = Client::new(config);
        if hop.tls == TlsUse::Implicit {
            line.handshake(&hop.client).map_err(|fault| Failure { stage: Stage::Tls, fault })?;
        }
        let mut step = client.step(Event::Connected);
        loop {
            step = match step.next {
                Next::Ready => {
                    return Ok(Self {
                        client,
                        line,
                        reusable: true,
                        opened: Instant::now(),
                        transactions: 0,
                        signatures: hop.signatures,
                    });
                }
                Next::Handshake => match line.handshake(&hop.client) {
                    Ok(()) => client.step(Event::Secured),
                    Err(fault) => client.step(Event::Lost(fault)),
                },
                Next::Close(failure) => {
                    line.bid_farewell(&step.write);
                    return Err(failure.unwrap_or(Failure { stage: Stage::Connect, fault: Fault::Defect }));
                }
                _ => line.advance(&mut client, step),
            };
        }
    }
}
