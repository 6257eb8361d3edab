//! Connections to the servers that a recipient's domain names.
//!
//! One pass tries [`ADDRESSES_MAX`](super::servers::ADDRESSES_MAX) addresses, and goes on after a server that answers but
//! does not serve once:
//! [`SESSIONS_MAX`] sessions. Addresses that failed rest, unless there are no others. TLS is taken where it is offered,
//! whatever the certificate; a handshake that fails is followed by one connection in the clear to the same address.
//!
//! An address that has as many connections as it may have is passed over; where no other serves, a place there is waited for,
//! for [`PLACE_MAX`], by one courier alone. None by then says nothing of the server ([`Unreached::Full`]): neither domain nor
//! address rests.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::courier::Courier;
use super::line::{Line, fault_of};
use super::mx::{self, Exchanger, NoServer, Own};
use super::resolve::Resolver;
use super::route::Hop;
use super::servers::{Place, Servers};
use crate::config::Config;
use crate::journal;
use crate::net::connector::TrustError;
use crate::net::dial::dial;
use crate::net::outbound::Outbound;
use crate::net::stop::Stop;
use crate::smtp::client::{Failure, Fault};
use crate::smtp::punycode;
use crate::smtp::remote::{RemoteReply, Stage};

/// How to reach any domain.
#[derive(Debug)]
pub struct Direct {
    resolver: Resolver,
    hop: Hop,
    own: Own,
    servers: Arc<Servers>,
}

/// A connection that is ready.
#[derive(Debug)]
pub struct Reached {
    /// The connection.
    pub courier: Courier,
    /// Counts it among those to its address.
    pub place: Place,
    /// The domain had TLS before, and this connection has none.
    pub downgraded: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Unreached {
    /// As many connections as may be open are open to this server, `name[address]`; nothing is known of it.
    Full(String),
    /// There is no server to connect to.
    NoServer(NoServer),
    /// What happened with the last that was tried: `name[address]`.
    Failed(String, Failure),
}

/// Servers in one pass that answer.
pub const SESSIONS_MAX: usize = 2;
/// How long name servers may take in one pass.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// How long places are waited for in one pass: the courier is wanted elsewhere.
const PLACE_MAX: Duration = Duration::from_secs(5);

impl Direct {
    /// As a configuration says; `None` if it sends nothing by MX.
    pub fn new(config: &Config, servers: &Arc<Servers>) -> Result<Option<Self>, TrustError> {
        let Some(outgoing) = config.outgoing.as_ref().filter(|outgoing| outgoing.uses_mx()) else { return Ok(None) };
        let hop = Hop::mx(outgoing, &config.hostname)?;
        let own = Own {
            names: vec![config.hostname.clone()],
            addresses: config.listen.iter().map(|(address, _)| address.ip().to_canonical()).collect(),
            ipv4: hop.source.is_empty() || hop.source.iter().any(IpAddr::is_ipv4),
            ipv6: hop.source.iter().any(IpAddr::is_ipv6),
            named: outgoing.routes.values().map(|route| route.url.host.clone()).collect(),
        };
        Ok(Some(Self { resolver: Resolver::configured(config), hop, own, servers: Arc::clone(servers) }))
    }

    /// The same, with lookups of names that end when this is stopped.
    pub fn stopped_by(self, stop: &Arc<Stop>) -> Self {
        Self { resolver: self.resolver.stopped_by(stop), ..self }
    }

    /// The servers of a domain, in the order in which they are tried.
    pub fn find(&self, domain: &str, deadline: Instant) -> Result<Vec<Exchanger>, NoServer> {
        let name = punycode::to_ascii(domain).ok_or(NoServer::NoDomain)?;
        mx::find(&self.resolver, &name, &self.own(), deadline)
    }

    /// What a server says first, by `until`, over a connection from `source` or any address. It hears QUIT alone, and nothing
    /// is remembered of it.
    pub fn greeting(
        &self,
        place: &Exchanger,
        source: Option<IpAddr>,
        until: Instant,
        stop: &Arc<Stop>,
    ) -> Result<RemoteReply, Failure> {
        let left = || until.saturating_duration_since(Instant::now());
        let address = SocketAddr::new(place.address, self.hop.port);
        let tcp =
            dial(address, source, left(), stop).map_err(|error| Failure { stage: Stage::Connect, fault: fault_of(&error) })?;
        let hop = self.hop.to(&place.host, false);
        let mut line = Line::new(Outbound::new(tcp, Arc::clone(stop)), address, &hop, stop);
        line.greeting(left()).map_err(|fault| Failure { stage: Stage::Greeting, fault })
    }

    /// A connection to a server of a domain.
    pub fn connect(&self, domain: &str, stop: &Arc<Stop>) -> Result<Reached, Unreached> {
        let found = self.find(domain, Instant::now() + WAIT_MAX).map_err(|why| match stop.is_stopped() {
            // Nothing follows from what was not asked to its end.
            true => Unreached::Failed(domain.to_owned(), Failure { stage: Stage::Connect, fault: Fault::Stopped }),
            false => Unreached::NoServer(why),
        })?;
        let (mut sessions, mut last, mut full) = (0, None, Vec::new());
        let mut places: VecDeque<(Exchanger, bool)> =
            self.servers.of_a_pass(found).into_iter().map(|place| (place, false)).collect();
        let mut until = Instant::now();
        loop {
            if places.is_empty() && !full.is_empty() {
                places.extend(full.drain(..).map(|place| (place, true)));
                until = Instant::now() + PLACE_MAX;
            }
            let Some((place, again)) = places.pop_front() else { break };
            let host = format!("{}[{}]", place.host, place.address);
            // One courier that waits is enough: the others are wanted elsewhere, and are told when there is a place.
            let is_awaited = again && self.servers.is_awaited(place.address);
            let taken = if is_awaited { None } else { self.servers.take(place.address, until, stop) };
            let failure = match taken {
                None if stop.is_stopped() => Failure { stage: Stage::Connect, fault: Fault::Stopped },
                // It may well serve: while one is full, nothing is known of the domain.
                None if again => {
                    self.servers.miss(place.address, domain);
                    last = Some(Unreached::Full(host));
                    continue;
                }
                None => {
                    full.push(place);
                    continue;
                }
                Some(taken) => match self.open(&place, stop) {
                    Ok(courier) => {
                        self.servers.reach(domain);
                        let downgraded = self.servers.is_downgraded(domain, courier.tls().is_some());
                        if downgraded {
                            let text = format!("{domain} had TLS before, {host} has it not; mail goes in the clear");
                            journal::notice("tls", text);
                        }
                        return Ok(Reached { courier, place: taken, downgraded });
                    }
                    Err(failure) => failure,
                },
            };
            let over = failure.fault == Fault::Stopped;
            sessions += usize::from(failure.stage > Stage::Connect);
            if over || !matches!(last, Some(Unreached::Full(_))) {
                last = Some(Unreached::Failed(host, failure));
            }
            if over || sessions == SESSIONS_MAX {
                break;
            }
        }
        Err(last.unwrap_or(Unreached::NoServer(NoServer::NoAddress)))
    }

    /// Domains that found all connections to their servers taken, and would find one now.
    pub fn freed(&self) -> Vec<String> {
        self.servers.freed()
    }

    fn open(&self, place: &Exchanger, stop: &Arc<Stop>) -> Result<Courier, Failure> {
        let connected = match self.session(place, true, stop) {
            // RFC 7435: something is better than nothing, and a message that never arrives protects no one.
            Err(failure) if is_handshake(&failure) => {
                let text = format!("{}[{}]: no TLS, though it is offered: {}", place.host, place.address, failure.fault);
                journal::notice("tls", format!("{text}; once more in the clear"));
                self.session(place, false, stop)
            }
            other => other,
        };
        match &connected {
            Ok(_) => self.servers.succeed(place.address),
            Err(failure) if failure.fault == Fault::Stopped => {}
            Err(_) => self.servers.fail(place.address),
        }
        connected
    }

    fn session(&self, place: &Exchanger, secured: bool, stop: &Arc<Stop>) -> Result<Courier, Failure> {
        let hop = self.hop.to(&place.host, secured);
        Courier::connect_to(&hop, &[SocketAddr::new(place.address, hop.port)], stop)
            .map_err(|unreachable| unreachable.last().cloned().unwrap_or(Failure { stage: Stage::Connect, fault: Fault::Defect }))
    }

    /// This machine as it is now: addresses come and go.
    fn own(&self) -> Own {
        let mut own = self.own.clone();
        own.addresses.extend(mx::local_addresses());
        own
    }
}

/// True if a connection in the clear may do what this one did not.
fn is_handshake(failure: &Failure) -> bool {
    (failure.stage == Stage::Tls || failure.fault == Fault::EarlyOctets) && failure.fault != Fault::Stopped
}
