//! What `check` finds out of sending by MX: whether mail servers elsewhere can be reached, and what DNS says of this host, of
//! the local domains and of the keys that sign.
//!
//! Name servers are asked, connections are opened, the greeting is read and QUIT is said; no mail is offered. What is not as
//! it should be is a warning with its cure. What name servers could not tell is said as that, never as missing. All of it ends
//! by the caller's deadline.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Level;
use super::records::Records;
use crate::config::Config;
use crate::config::outgoing::{NextHop, Outgoing};
use crate::net::stop::Stop;
use crate::relay::direct::Direct;
use crate::relay::mx::{Exchanger, NoServer};
use crate::relay::resolve::DnsError;
use crate::smtp::client::{Failure, Fault};
use crate::smtp::remote::Stage;

/// Rows of the table: the part, the level, the text.
pub(super) type Rows = Vec<(&'static str, Level, String)>;

/// Domains of `[outgoing.to]` whose servers are tried.
const DOMAINS_MAX: usize = 3;
/// The domain whose servers are tried where none is named.
const DOMAIN: &str = "gmail.com";
/// Addresses of a domain that are tried, of each family.
const ADDRESSES_MAX: usize = 2;
/// How long name servers are asked for the servers of a domain, so that time is left to connect.
const FIND_MAX: Duration = Duration::from_secs(5);
/// Questions and connections at once.
const THREADS: usize = 16;
/// An address to which nothing is sent (RFC 5737): the kernel says from where it would be.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The port there (RFC 863).
const DISCARD: u16 = 9;

/// Everything, by `end`.
pub(super) fn rows(config: &Config, outgoing: &Outgoing, end: Instant) -> Rows {
    let records = Records::new(config, outgoing, end);
    let mut rows = Rows::new();
    let direct = Direct::new(config, &Arc::default()).unwrap_or_else(|error| {
        rows.push(("routes", Level::Warning, format!("mx: {error}")));
        None
    });
    let port25 = direct.map(|direct| Port25 { direct, outgoing, end });
    let found = port25.as_ref().map(|port25| port25.find(&records, &mut rows)).unwrap_or_default();
    let sources = port25.as_ref().map(|port25| port25.sources(&found, &mut rows)).unwrap_or_default();
    let own: Vec<IpAddr> = sources.iter().map(|(_, local)| *local).collect();
    let (records, found, own) = (&records, &found[..], &own[..]);
    let mut tasks: Vec<Task<'_>> = Vec::new();
    if let Some(port25) = &port25 {
        for (source, local) in sources.iter().copied() {
            tasks.push(Box::new(move || of_mx(vec![port25.connect(source, local, found)])));
            tasks.push(Box::new(move || of_mx(records.ptr(local))));
        }
        for domain in config.domains.iter().filter(|domain| outgoing.may_carry(&NextHop::Mx, domain)) {
            tasks.push(Box::new(move || of_mx(vec![records.spf(domain, own)])));
        }
    }
    for (domain, key) in config.dkim.iter().flat_map(|(domain, keys)| keys.iter().map(move |key| (domain, key))) {
        let row = move || records.dkim(config, domain, key).map(|(level, text)| ("dkim", level, text));
        tasks.push(Box::new(move || row().into_iter().collect()));
    }
    rows.extend(together(&tasks));
    rows
}

/// Finds out one thing.
type Task<'a> = Box<dyn Fn() -> Rows + Sync + 'a>;

fn of_mx(rows: Vec<(Level, String)>) -> Rows {
    rows.into_iter().map(|(level, text)| ("routes", level, format!("mx: {text}"))).collect()
}

/// Does several tasks at once; the rows are in the order of the tasks.
fn together(tasks: &[Task<'_>]) -> Rows {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(task) = tasks.get(at) else { break };
            let rows = task();
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, rows));
        }
    };
    thread::scope(|scope| (0..tasks.len().min(THREADS)).for_each(|_| drop(scope.spawn(work))));
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().flat_map(|(_, rows)| rows).collect()
}

/// Whether mail servers elsewhere can be reached.
struct Port25<'a> {
    direct: Direct,
    outgoing: &'a Outgoing,
    end: Instant,
}

impl Port25<'_> {
    /// The servers to try, of each domain; a warning for each domain that has none.
    fn find(&self, records: &Records<'_>, rows: &mut Rows) -> Vec<Vec<Exchanger>> {
        let named = self.outgoing.to.iter().filter(|(domain, hop)| **hop == NextHop::Mx && !domain.contains('*'));
        let mut domains: Vec<&str> = named.map(|(domain, _)| domain.as_str()).take(DOMAINS_MAX).collect();
        let cure =
            if domains.is_empty() { "see whether the name servers of this host work" } else { "correct it in [outgoing.to]" };
        if domains.is_empty() {
            domains.push(DOMAIN);
        }
        let until = self.end.min(Instant::now() + FIND_MAX);
        let found: Vec<Result<Vec<Exchanger>, NoServer>> = thread::scope(|scope| {
            let asked: Vec<_> = domains.iter().map(|domain| scope.spawn(|| self.direct.find(domain, until))).collect();
            let failed = || Err(NoServer::Unknown(DnsError::Timeout));
            asked.into_iter().map(|asked| asked.join().unwrap_or_else(|_| failed())).collect()
        });
        let mut all = Vec::new();
        for (domain, found) in domains.iter().zip(found) {
            let text = match found {
                Ok(servers) => {
                    all.push(servers);
                    continue;
                }
                Err(NoServer::Unknown(error)) => records.unknown(&format!("mail servers of {domain}"), &error),
                Err(why) => format!("mail servers of {domain}: {why}; {cure}"),
            };
            rows.push(("routes", Level::Warning, format!("mx: {text}")));
        }
        all
    }

    /// The configured sources, or any, each with the address that connections have here; a warning for each that cannot be
    /// used.
    fn sources(&self, found: &[Vec<Exchanger>], rows: &mut Rows) -> Vec<(Option<IpAddr>, IpAddr)> {
        let configured = self.outgoing.mx.as_ref().map_or(&[][..], |mx| &mx.source);
        let sources = if configured.is_empty() { vec![None] } else { configured.iter().copied().map(Some).collect() };
        let mut usable = Vec::new();
        for source in sources {
            let ipv6 = source.is_some_and(|source: IpAddr| source.is_ipv6());
            let target = found.iter().flatten().map(|place| place.address).find(|address| address.is_ipv6() == ipv6);
            match (local_address(source, target), source) {
                (Ok(local), _) => usable.push((source, local)),
                (Err(error), Some(source)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    let text =
                        format!("mx: source {source}: is no address of this host; correct `source` in [outgoing.routes.mx]");
                    rows.push(("routes", Level::Warning, text));
                }
                (Err(error), _) => {
                    let from = source.map(|source| format!(" from {source}")).unwrap_or_default();
                    let text = format!(
                        "mx: port {}{from}: {error}; see whether this host has a route to the internet",
                        self.outgoing.mx_port
                    );
                    rows.push(("routes", Level::Warning, text));
                }
            }
        }
        usable
    }

    /// One server that answers is enough.
    fn connect(&self, source: Option<IpAddr>, local: IpAddr, found: &[Vec<Exchanger>]) -> (Level, String) {
        let from = source.map(|source| format!(" from {source}")).unwrap_or_default();
        let name = format!("port {}{from}", self.outgoing.mx_port);
        let of_family = |servers: &'_ Vec<Exchanger>| -> Vec<Exchanger> {
            servers.iter().filter(|place| place.address.is_ipv4() == local.is_ipv4()).take(ADDRESSES_MAX).cloned().collect()
        };
        let places: Vec<Exchanger> = found.iter().flat_map(of_family).collect();
        if places.is_empty() {
            let of_family = if found.is_empty() { "" } else { " of that family" };
            return (Level::Ok, format!("{name}: not tried, no mail server{of_family} is known"));
        }
        let stop = Arc::new(Stop::new());
        let outcomes: Vec<Result<String, Failure>> = thread::scope(|scope| {
            let try_one = |place: &Exchanger| {
                let reply = self.direct.greeting(place, source, self.end, &stop)?;
                if reply.code != 220 {
                    return Err(Failure { stage: Stage::Greeting, fault: Fault::Refused(reply) });
                }
                stop.stop(Instant::now());
                Ok(reply.to_string())
            };
            let tried: Vec<_> = places.iter().map(|place| scope.spawn(move || try_one(place))).collect();
            let defect = |_| Err(Failure { stage: Stage::Connect, fault: Fault::Defect });
            tried.into_iter().map(|tried| tried.join().unwrap_or_else(defect)).collect()
        });
        let mut failures = Vec::new();
        for (place, outcome) in places.iter().zip(outcomes) {
            let host = format!("{}[{}]", place.host, place.address);
            match outcome {
                Ok(greeting) => return (Level::Ok, format!("{name}: open; {host} answers: {greeting}")),
                Err(failure) => failures.push((host, failure)),
            }
        }
        (Level::Warning, format!("{name}: {}", self.why(&failures)))
    }

    /// What happened with all of them, and the cure for the one that came farthest.
    fn why(&self, failures: &[(String, Failure)]) -> String {
        let port = self.outgoing.mx_port;
        let said: Vec<String> = failures
            .iter()
            .map(|(host, failure)| match &failure.fault {
                Fault::Refused(reply) => format!("{host} greets with {reply}"),
                Fault::Timeout if failure.stage == Stage::Greeting => format!("{host} takes the connection and says nothing"),
                fault => format!("{host}: {fault}"),
            })
            .collect();
        let refused = failures.iter().any(|(_, failure)| matches!(failure.fault, Fault::Refused(_)));
        let connected = failures.iter().any(|(_, failure)| failure.stage == Stage::Greeting);
        let cure = match (refused, connected) {
            (true, _) => {
                "the port is open, and this host is not welcome there; if the words name a block list, look this host's address up \
                 in it"
                    .to_owned()
            }
            (false, true) => format!(
                "a firewall on the way may answer for it; ask the provider of this host whether it lets connections out to port \
                 {port}, or send by a smarthost"
            ),
            (false, false) => format!(
                "most likely the provider of this host blocks port {port}; ask it to open it, or send by a smarthost"
            ),
        };
        format!("{}; {cure}", said.join(", "))
    }
}

/// The address that a connection has here: `source`, or what the kernel chooses. An error if it cannot be used, or not to
/// reach `to`. Nothing is sent.
fn local_address(source: Option<IpAddr>, to: Option<IpAddr>) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((source.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 0))?;
    if source.is_none() || to.is_some() {
        socket.connect((to.unwrap_or(ELSEWHERE), DISCARD))?;
    }
    Ok(socket.local_addr()?.ip())
}
