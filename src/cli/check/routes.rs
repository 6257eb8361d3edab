//! What `check` finds out from the next hops: each route is tried at once with all others and with what there is to find out of
//! sending by MX ([`direct`]), and sends nothing.
//!
//! A route has a row for each step, down to the first that fails: the name, the connection, the certificate, EHLO, AUTH, MAIL
//! for each local domain whose mail may take it, RSET and QUIT. A step that fails is a warning with its cure, never an error:
//! a server starts and keeps its mail when no route works. It all ends after [`LIMIT`].

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::{Level, direct};
use crate::cli::queue::plain;
use crate::config::Config;
use crate::config::outgoing::{NextHop, Outgoing, Route};
use crate::net::connector;
use crate::net::dial::source_for;
use crate::net::stop::Stop;
use crate::relay::courier::Courier;
use crate::relay::line::Timeouts;
use crate::relay::names;
use crate::relay::route::Hop;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::client::{Failure, Fault, Offer};
use crate::smtp::remote::Stage;

type Rows = Vec<(Level, String)>;

/// How long the routes may take together.
const LIMIT: Duration = Duration::from_secs(10);
/// Days of a next hop's certificate below which there is a warning.
const DAYS_MIN: u64 = 7;

/// Tries every route; the rows are in the order of their names, those of `mx` and of DNS after them.
pub(super) fn rows(config: &Config) -> direct::Rows {
    let Some(outgoing) = &config.outgoing else { return direct::Rows::new() };
    let stop = Arc::new(Stop::new());
    let end = Instant::now() + LIMIT;
    thread::scope(|scope| {
        let mut attempts = Vec::new();
        for (name, route) in &outgoing.routes {
            let stop = &stop;
            let attempt = Attempt { name, route, rows: Rows::new() };
            attempts.push((name, scope.spawn(move || attempt.run(config, outgoing, stop))));
        }
        let direct = scope.spawn(move || direct::rows(config, outgoing, end));
        while Instant::now() < end && attempts.iter().any(|(_, attempt)| !attempt.is_finished()) {
            thread::sleep(Duration::from_millis(5));
        }
        stop.stop(Instant::now());
        let defect = |name: &str| (Level::Warning, format!("{name}: a defect of this program, please report it"));
        let mut rows = direct::Rows::new();
        for (name, attempt) in attempts {
            let found = attempt.join().unwrap_or_else(|_| vec![defect(name)]);
            rows.extend(found.into_iter().map(|(level, text)| ("routes", level, text)));
        }
        let found = direct.join().unwrap_or_else(|_| vec![("routes", Level::Warning, defect("mx").1)]);
        rows.extend(found.into_iter().map(|(part, level, text)| (part, level, plain(&text))));
        rows
    })
}

/// One route that is tried.
struct Attempt<'a> {
    name: &'a str,
    route: &'a Route,
    rows: Rows,
}

impl Attempt<'_> {
    fn run(mut self, config: &Config, outgoing: &Outgoing, stop: &Arc<Stop>) -> Rows {
        if let Some(mut courier) = self.connect(config, stop)
            && self.mail(config, outgoing, &mut courier)
        {
            match courier.reset() {
                Ok(()) => self.say(Level::Ok, "RSET, QUIT: done, and nothing was sent"),
                Err(failure) => self.failed("RSET", &failure),
            }
            courier.quit();
        }
        self.rows
    }

    /// From the name to readiness.
    fn connect(&mut self, config: &Config, stop: &Arc<Stop>) -> Option<Courier> {
        let mut hop = match Hop::smarthost(self.route, &config.hostname) {
            Ok(hop) => hop,
            Err(error) => {
                self.say(Level::Warning, &format!("authorities: {error}"));
                return None;
            }
        };
        hop.timeouts = Timeouts { names: LIMIT, connect: LIMIT, command: LIMIT, ..hop.timeouts };
        let addresses = match names::addresses(&hop.host, hop.port, Instant::now() + LIMIT, stop) {
            Ok(addresses) => addresses,
            Err(fault) => {
                self.failed("DNS", &Failure { stage: Stage::Connect, fault });
                return None;
            }
        };
        let list: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        self.say(Level::Ok, &format!("DNS: {} is at {}", hop.host, list.join(", ")));
        let reachable: Vec<_> = addresses.into_iter().filter(|address| source_for(*address, &hop.source).is_some()).collect();
        if reachable.is_empty() {
            self.say(Level::Warning, "connect: none of these is of a family that `source` has; add an address of the other one");
        }
        for address in reachable {
            match Courier::connect_to(&hop, &[address], stop) {
                Ok(courier) => {
                    self.reached(&courier);
                    return Some(courier);
                }
                Err(unreachable) => {
                    let Some(failure) = unreachable.last() else { continue };
                    self.failed(&format!("{} at {address}", step(failure.stage)), failure);
                    if failure.stage == Stage::Auth {
                        break;
                    }
                }
            }
        }
        None
    }

    /// Everything up to the login has worked.
    fn reached(&mut self, courier: &Courier) {
        let tls = courier.tls().map_or("no TLS", |tls| tls.version);
        self.say(Level::Ok, &format!("connect: {}, {tls}", courier.peer()));
        if let Some(end) = courier.certificate_end() {
            let days = end.duration_since(SystemTime::now()).map_or(0, |left| left.as_secs() / (24 * 60 * 60));
            let text = format!("certificate: is for {}, {days} days left", self.route.url.host);
            match days < DAYS_MIN {
                true => self.say(Level::Warning, &format!("{text}; whoever runs that server has to renew it")),
                false => self.say(Level::Ok, &text),
            }
        }
        self.say(Level::Ok, &format!("EHLO: {}", offered(courier.offer())));
        match &self.route.login {
            Some(login) => self.say(Level::Ok, &format!("AUTH: logged in as {login}")),
            None => self.say(Level::Ok, "AUTH: no `login` is configured"),
        }
    }

    /// Whether mail of the local domains is taken. False once the connection is of no use.
    fn mail(&mut self, config: &Config, outgoing: &Outgoing, courier: &mut Courier) -> bool {
        let this = NextHop::Route(self.name.to_owned());
        let domains: Vec<&String> = config.domains.iter().filter(|domain| outgoing.may_carry(&this, domain)).collect();
        if domains.is_empty() {
            self.say(Level::Ok, "MAIL: not tried, no mail of a local domain takes this route");
        }
        for domain in domains {
            let sender = format!("postmaster@{domain}");
            let address = Address::parse(&sender).ok().filter(|_| domain.is_ascii());
            let Some(address) = address else {
                self.say(Level::Ok, &format!("MAIL from {sender}: not tried, it needs SMTPUTF8"));
                continue;
            };
            match courier.probe(ReversePath::Mailbox(address)) {
                Ok(reply) if reply.is_positive() => self.say(Level::Ok, &format!("MAIL from {sender}: taken")),
                Ok(reply) => {
                    let cure = "ask the provider to let this login send for the domain, or give the domain another route in \
                                [outgoing.from]";
                    self.say(Level::Warning, &format!("MAIL from {sender}: {reply}; {cure}"));
                }
                Err(failure) => {
                    self.failed(&format!("MAIL from {sender}"), &failure);
                    return false;
                }
            }
        }
        true
    }

    fn failed(&mut self, step: &str, failure: &Failure) {
        let said = match &failure.fault {
            Fault::Stopped => format!("no answer within {} seconds", LIMIT.as_secs()),
            fault => fault.to_string(),
        };
        // A certificate's text begins with the step's own name.
        let said = said.strip_prefix("certificate: ").unwrap_or(&said);
        let cure = cure(failure).map(|cure| format!("; {cure}")).unwrap_or_default();
        self.say(Level::Warning, &format!("{step}: {said}{cure}"));
    }

    /// What a server said is foreign text: no control character of it reaches the terminal.
    fn say(&mut self, level: Level, text: &str) {
        self.rows.push((level, plain(&format!("{}: {text}", self.name))));
    }
}

/// The step that a stage is part of, as the rows name it.
fn step(stage: Stage) -> &'static str {
    match stage {
        Stage::Auth => "AUTH",
        Stage::Connect => "connect",
        Stage::Greeting => "greeting",
        Stage::Hello => "EHLO",
        Stage::StartTls => "STARTTLS",
        Stage::Tls => "certificate",
        Stage::Mail | Stage::Recipient | Stage::Data | Stage::Dot => "MAIL",
        Stage::End => "RSET",
    }
}

/// What to do about a failure; none where its own text says that.
fn cure(failure: &Failure) -> Option<&'static str> {
    Some(match (failure.stage, &failure.fault) {
        (_, Fault::Password(_) | Fault::Local(_)) => return None,
        (_, Fault::Source(_)) => "correct `source`, or give this host the address",
        (_, Fault::Defect) => "please report it",
        (_, Fault::Dns(_)) => "correct the host in `url`, or the servers in /etc/resolv.conf",
        (_, Fault::Certificate(why)) if why.starts_with(connector::OTHER_NAME) => {
            "name in `url` the host that the certificate is for"
        }
        (_, Fault::Certificate(why)) if why.starts_with(connector::EXPIRED) => {
            "ask whoever runs that server to renew it, or correct this host's clock"
        }
        (_, Fault::Certificate(why)) if why.starts_with(connector::NOT_YET) => "correct this host's clock",
        (_, Fault::Certificate(why)) if why.starts_with(connector::IS_AUTHORITY) => {
            "ask whoever runs that server for one of its own, with CA:FALSE"
        }
        (_, Fault::Certificate(_)) => {
            "give the certificate of its authority as `ca`, or its own where it has signed itself; or correct the host in `url`"
        }
        (Stage::Tls, _) => "correct the scheme or the port in `url`: smtps:// has TLS at once, submission:// has STARTTLS",
        (Stage::Connect, _) => {
            "correct the port in `url`, or ask the provider of this host whether it lets connections out to it"
        }
        (Stage::Greeting, Fault::Timeout | Fault::Stopped | Fault::Closed | Fault::Garbage(_)) => {
            "if the port has TLS at once, write smtps:// in `url`"
        }
        (Stage::Hello, Fault::Refused(_)) => "correct `helo`, or `hostname` that is said without it",
        (_, Fault::NoStartTls) => "TLS is required: take another port, or smtps:// if the port has TLS at once",
        (Stage::Auth, Fault::NoMechanism) => "ask the provider for a login by PLAIN or LOGIN",
        (Stage::Auth, Fault::Refused(_)) => "correct `login`, and the password in `password_file`",
        _ => "ask whoever runs that server",
    })
}

/// What is offered of the extensions that matter to a message.
fn offered(offer: &Offer) -> String {
    let rows = [(offer.pipelining, "PIPELINING"), (offer.eight_bit, "8BITMIME"), (offer.utf8, "SMTPUTF8"), (offer.dsn, "DSN")];
    let mut words: Vec<String> = rows.iter().filter(|(is, _)| *is).map(|(_, word)| (*word).to_owned()).collect();
    words.extend(offer.size_max.map(|size| format!("SIZE {size}")));
    if words.is_empty() { "answered, without extensions".to_owned() } else { words.join(", ") }
}
