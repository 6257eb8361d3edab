//! A small blocking stub resolver: the questions of sending by MX, with a deadline.
//!
//! Asks the name servers in turn over UDP, over TCP where an answer was cut. Every question has a random id and a port of its
//! own. Answers are kept as long as they hold, a day at most, in a bounded table; "no" too. What cannot be answered
//! ([`DnsError`]) is a fault of the route, never of a message.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::dns::{self, ALIASES_MAX, Answer, Kind, Reading};
use crate::config::Config;

/// Asks name servers, and remembers what they said.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    trusted: bool,
    cache: Mutex<HashMap<(String, Kind), Kept>>,
}

#[derive(Debug)]
struct Kept {
    answer: Answer,
    until: Instant,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// No domain name.
    BadName(String),
    /// The name servers could not tell; what the last one said.
    Failed(String),
    /// There is no name server to ask.
    NoServer,
    /// None answered in time.
    Timeout,
}

/// How long all of a lookup may take, so that no courier is held longer.
pub const LOOKUP_MAX: Duration = Duration::from_secs(20);
/// How long a server may take for an answer over UDP, at the first and at the second try.
const TRIES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5)];
/// How long a server may take over TCP.
const TCP_MAX: Duration = Duration::from_secs(10);
/// Answers that are kept.
const CACHE_MAX: usize = 10_000;
/// Records of an answer that is kept, at most, so that the table is bounded in octets as well.
const KEPT_RECORDS_MAX: usize = 100;
/// Where the name servers of this host are named.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;

impl Resolver {
    /// The resolver that a configuration names, or that of the system.
    pub fn configured(config: &Config) -> Self {
        match config.outgoing.as_ref().and_then(|outgoing| outgoing.resolver) {
            Some(server) => Self::with_server(server),
            None => Self::of_the_system(Path::new(RESOLV_CONF)),
        }
    }

    /// A resolver that asks this server alone, and believes it when it says that an answer is authentic.
    pub fn with_server(server: SocketAddr) -> Self {
        Self::new(vec![server], true)
    }

    /// A resolver as resolv.conf(5) says; where there is none, the server of this host is asked. The AD bit counts with the
    /// option `trust-ad` only: that a server is on loopback proves nothing.
    pub fn of_the_system(file: &Path) -> Self {
        let text = std::fs::read(file).unwrap_or_default();
        let (config, _) = resolv_conf::Config::parse_with_errors(&text);
        let mut servers: Vec<SocketAddr> =
            config.nameservers.iter().map(|server| SocketAddr::new(IpAddr::from(server.clone()), DNS_PORT)).collect();
        if servers.is_empty() {
            servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT)));
        }
        Self::new(servers, config.trust_ad)
    }

    /// A resolver that asks these servers in turn, and does not believe what they say of an answer's authenticity.
    pub fn with_servers(servers: &[SocketAddr]) -> Self {
        Self::new(servers.to_vec(), false)
    }

    fn new(servers: Vec<SocketAddr>, trusted: bool) -> Self {
        Self { servers, trusted, cache: Mutex::default() }
    }

    /// The name servers that are asked, in turn.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// What a name has of a kind; aliases are followed. `deadline` is kept, and so is [`LOOKUP_MAX`].
    pub fn look_up(&self, name: &str, kind: Kind, deadline: Instant) -> Result<Answer, DnsError> {
        let deadline = deadline.min(Instant::now() + LOOKUP_MAX);
        let key = (name.trim_end_matches('.').to_ascii_lowercase(), kind);
        if let Some(answer) = self.kept(&key) {
            return Ok(answer);
        }
        let mut asked = key.0.clone();
        // An answer holds as long as the aliases that led to it, and is as authentic as they are.
        let (mut least, mut trusted) = (Duration::MAX, self.trusted);
        for _ in 0..ALIASES_MAX {
            match self.ask(&asked, kind, deadline)? {
                Reading::Alias { target, ttl, authenticated } => {
                    asked = target;
                    least = least.min(ttl);
                    trusted &= authenticated;
                }
                Reading::Answer(mut answer) => {
                    answer.authenticated &= trusted;
                    answer.ttl = answer.ttl.min(least);
                    self.keep(key, &answer);
                    return Ok(answer);
                }
                Reading::Failed(_) | Reading::Foreign | Reading::Truncated => break,
            }
        }
        Err(DnsError::Failed("a chain of aliases that is too long".to_owned()))
    }

    /// Asks every server, twice at most, until one gives an answer.
    fn ask(&self, name: &str, kind: Kind, deadline: Instant) -> Result<Reading, DnsError> {
        let mut error = if self.servers.is_empty() { DnsError::NoServer } else { DnsError::Timeout };
        for (limit, server) in TRIES.iter().flat_map(|limit| self.servers.iter().map(move |server| (*limit, *server))) {
            let until = deadline.min(Instant::now() + limit);
            if until <= Instant::now() {
                break;
            }
            match ask_over_udp(server, name, kind, until) {
                Ok(None) => return Err(DnsError::BadName(name.to_owned())),
                Ok(Some(Reading::Truncated)) => match ask_over_tcp(server, name, kind, deadline) {
                    Ok(Reading::Failed(word)) => error = DnsError::Failed(word),
                    Ok(reading @ (Reading::Alias { .. } | Reading::Answer(_))) => return Ok(reading),
                    Ok(Reading::Foreign | Reading::Truncated) => error = DnsError::Failed("malformed answer".to_owned()),
                    Err(failure) => error = DnsError::of(&failure),
                },
                Ok(Some(Reading::Failed(word))) => error = DnsError::Failed(word),
                Ok(Some(reading)) => return Ok(reading),
                Err(failure) => error = DnsError::of(&failure),
            }
        }
        Err(error)
    }

    fn kept(&self, key: &(String, Kind)) -> Option<Answer> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(key).filter(|kept| kept.until > Instant::now()).map(|kept| kept.answer.clone())
    }

    fn keep(&self, key: (String, Kind), answer: &Answer) {
        if answer.records.len() > KEPT_RECORDS_MAX {
            return;
        }
        let now = Instant::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_MAX {
            cache.retain(|_, kept| kept.until > now);
            if cache.len() >= CACHE_MAX {
                cache.clear();
            }
        }
        cache.insert(key, Kept { answer: answer.clone(), until: now + answer.ttl });
    }
}

/// One question from a port of its own, until an answer to it comes; `None` if the name is none.
fn ask_over_udp(server: SocketAddr, name: &str, kind: Kind, until: Instant) -> io::Result<Option<Reading>> {
    let id = random_id()?;
    let Some(query) = dns::query(id, name, kind) else { return Ok(None) };
    let any = if server.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // Connected: the kernel drops what comes from elsewhere.
    socket.connect(server)?;
    socket.send(&query)?;
    let mut buffer = [0; dns::UDP_SIZE as usize];
    loop {
        socket.set_read_timeout(Some(left(until)?))?;
        match socket.recv(&mut buffer) {
            Ok(octets) => match dns::read(&buffer[..octets], id, name, kind) {
                Reading::Foreign => {}
                reading => return Ok(Some(reading)),
            },
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The same over TCP, a length before each message (RFC 1035 section 4.2.2).
fn ask_over_tcp(server: SocketAddr, name: &str, kind: Kind, deadline: Instant) -> io::Result<Reading> {
    let until = deadline.min(Instant::now() + TCP_MAX);
    let id = random_id()?;
    let query = dns::query(id, name, kind).ok_or(ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect_timeout(&server, left(until)?)?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat())?;
    let mut length = [0; 2];
    read_exact(&mut stream, &mut length, until)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    read_exact(&mut stream, &mut answer, until)?;
    Ok(dns::read(&answer, id, name, kind))
}

/// Fills the buffer before `until`, however slowly the octets come.
fn read_exact(stream: &mut TcpStream, buffer: &mut [u8], until: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(octets) => filled += octets,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// An id that cannot be guessed (RFC 5452 section 9.1).
fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| io::Error::other("the system gives no random octets"))?;
    Ok(u16::from_be_bytes(id))
}

impl DnsError {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Timeout,
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName(name) => write!(f, "`{name}` is no domain name"),
            Self::Failed(word) => write!(f, "the name servers could not tell: {word}"),
            Self::NoServer => f.write_str("no name server is configured"),
            Self::Timeout => f.write_str("no name server answered in time"),
        }
    }
}

impl std::error::Error for DnsError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers from names that begin with `a`, `b` and `c`: aliases of the next, and an address; each with its TTL and AD bit.
    fn name_server(rows: [(u8, bool); 3]) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            for (number, (ttl, authentic)) in rows.into_iter().enumerate() {
                let (_, from) = socket.recv_from(&mut buffer).unwrap();
                // The question is `a.x`, IN A: 9 octets after the header.
                let mut answer = buffer[..21].to_vec();
                answer[2..12].copy_from_slice(&[0x81, if authentic { 0xa0 } else { 0x80 }, 0, 1, 0, 1, 0, 0, 0, 0]);
                let kind = if number == 2 { 1 } else { 5 };
                answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, ttl]);
                if number == 2 {
                    answer.extend([0, 4, 192, 0, 2, 1]);
                } else {
                    answer.extend([0, 5, 1, buffer[13] + 1, 1, b'x', 0]);
                }
                socket.send_to(&answer, from).unwrap();
            }
        });
        address
    }

    #[test]
    fn an_answer_is_worth_what_its_aliases_are() {
        let rows = [
            ([(60, true), (60, true), (60, true)], 60, true),
            ([(5, true), (60, true), (60, true)], 5, true),
            ([(60, true), (7, false), (60, true)], 7, false),
            ([(60, false), (60, true), (9, true)], 9, false),
            ([(60, true), (60, true), (60, false)], 60, false),
        ];
        for (hops, ttl, authentic) in rows {
            let resolver = Resolver::with_server(name_server(hops));
            let answer = resolver.look_up("a.x", Kind::A, Instant::now() + LOOKUP_MAX).unwrap();
            assert_eq!((answer.ttl.as_secs(), answer.authenticated, answer.records.len()), (ttl, authentic, 1), "{hops:?}");
        }
    }
}
