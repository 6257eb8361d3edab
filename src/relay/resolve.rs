//! A small blocking stub resolver: the questions of sending by MX, with a deadline.
//!
//! Asks the name servers in turn over UDP, over TCP where an answer was cut, and without EDNS where that is not understood.
//! Every question has a random id and a port of its own. Answers are kept as long as they hold, a day at most, in a bounded
//! table; "no" too. What cannot be answered ([`DnsError`]) is a fault of the route, never of a message. A stop ends every wait.

use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use resolv_conf::ScopedIp;

use super::cache::Cache;
use super::dns::{self, ALIASES_MAX, Answer, Kind, MALFORMED, Reading};
use crate::config::Config;
use crate::journal;
use crate::net::dial::dial;
use crate::net::stop::{self, SLICE, Stop, is_stop};

/// Asks name servers, and remembers what they said.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    trusted: bool,
    limits: Limits,
    cache: Mutex<Cache>,
    stop: Arc<Stop>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// All of a lookup.
    lookup: Duration,
    /// A server's answer over UDP, at the first and at the second try.
    udp: [Duration; 2],
    /// A server's answer over TCP.
    tcp: Duration,
}

/// One question, of however many servers.
#[derive(Clone, Copy)]
struct Question<'a> {
    name: &'a str,
    kind: Kind,
    /// Steps that a chain of aliases may still have.
    aliases: usize,
    edns: bool,
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
    /// Everything is being stopped.
    Stopped,
    /// None answered in time.
    Timeout,
}

/// How long all of a lookup may take, so that no courier is held longer.
pub const LOOKUP_MAX: Duration = Duration::from_secs(20);
const LIMITS: Limits =
    Limits { lookup: LOOKUP_MAX, udp: [Duration::from_secs(2), Duration::from_secs(5)], tcp: Duration::from_secs(10) };
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
    /// option `trust-ad` only: that a server is on loopback proves nothing. A server that cannot be reached as it stands
    /// there is named in the log and not asked.
    pub fn of_the_system(file: &Path) -> Self {
        let text = std::fs::read(file).unwrap_or_default();
        let (config, errors) = resolv_conf::Config::parse_with_errors(&text);
        let pass_over = |why: String| journal::notice("resolver", format!("{}: {why}; it is not asked", file.display()));
        for line in errors.iter().filter_map(|error| bad_name_server(&text, error)) {
            pass_over(format!("`{line}` is no address of a name server"));
        }
        let mut servers: Vec<SocketAddr> = Vec::new();
        for server in &config.nameservers {
            match socket_address(server) {
                Ok(address) => servers.push(address),
                Err(error) => pass_over(format!("name server {server}: its interface: {error}")),
            }
        }
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
        Self { servers, trusted, limits: LIMITS, cache: Mutex::default(), stop: Arc::default() }
    }

    /// The same, with lookups that end when this is stopped.
    pub fn stopped_by(self, stop: &Arc<Stop>) -> Self {
        Self { stop: Arc::clone(stop), ..self }
    }

    /// The name servers that are asked, in turn.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// What a name has of a kind; aliases are followed. `deadline` is kept, and so is [`LOOKUP_MAX`].
    pub fn look_up(&self, name: &str, kind: Kind, deadline: Instant) -> Result<Answer, DnsError> {
        let deadline = deadline.min(Instant::now() + self.limits.lookup);
        let key = (name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase(), kind);
        if let Some(answer) = self.cache().find(&key, Instant::now()) {
            return Ok(answer);
        }
        let mut asked = key.0.clone();
        // An answer holds as long as the aliases that led to it, and is as authentic as they are.
        let (mut least, mut trusted) = (Duration::MAX, self.trusted);
        // Each alias takes one of these at least, and without any no alias is read: this ends.
        let mut aliases = ALIASES_MAX;
        loop {
            match self.ask(Question { name: &asked, kind, aliases, edns: true }, deadline) {
                // The name that was asked for is a good one: nothing final follows from where it leads.
                Err(DnsError::BadName(name)) if aliases < ALIASES_MAX => {
                    return Err(DnsError::Failed(format!("an alias of `{name}`, which is no host's name")));
                }
                Ok(Reading::Alias { target, steps, ttl, authenticated }) => {
                    asked = target;
                    aliases = aliases.saturating_sub(steps);
                    least = least.min(ttl);
                    trusted &= authenticated;
                }
                Ok(Reading::Answer(mut answer)) => {
                    answer.authenticated &= trusted;
                    answer.ttl = answer.ttl.min(least);
                    self.cache().keep(key, &answer, Instant::now());
                    return Ok(answer);
                }
                Ok(_) => return Err(DnsError::Failed(MALFORMED.to_owned())),
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks every server, twice at most, until one gives an answer or an alias.
    fn ask(&self, question: Question<'_>, deadline: Instant) -> Result<Reading, DnsError> {
        let mut error = if self.servers.is_empty() { DnsError::NoServer } else { DnsError::Timeout };
        let tries = self.limits.udp.iter().flat_map(|limit| self.servers.iter().map(move |server| (*limit, *server)));
        for (limit, server) in tries {
            let until = deadline.min(Instant::now() + limit);
            if until <= Instant::now() {
                break;
            }
            let mut reading = self.ask_server(server, question, until, deadline);
            if let Ok(Reading::NotUnderstood(_)) = reading {
                reading = self.ask_server(server, Question { edns: false, ..question }, until, deadline);
            }
            match reading {
                Ok(reading @ (Reading::Alias { .. } | Reading::Answer(_))) => return Ok(reading),
                Ok(Reading::Failed(word) | Reading::NotUnderstood(word)) => error = DnsError::Failed(word),
                Ok(Reading::Foreign | Reading::Truncated) => error = DnsError::Failed(MALFORMED.to_owned()),
                Err(failure @ (DnsError::BadName(_) | DnsError::Stopped)) => return Err(failure),
                Err(failure) => error = failure,
            }
        }
        Err(error)
    }

    /// One server, over TCP if its answer is cut.
    fn ask_server(
        &self,
        server: SocketAddr,
        question: Question<'_>,
        until: Instant,
        deadline: Instant,
    ) -> Result<Reading, DnsError> {
        let id = random_id().map_err(|error| DnsError::of(&error))?;
        let Some(query) = dns::query(id, question.name, question.kind, question.edns) else {
            return Err(DnsError::BadName(question.name.to_owned()));
        };
        let read = |octets: &[u8]| dns::read(octets, id, question.name, question.kind, question.aliases);
        let reading = match ask_over_udp(server, &query, read, until, &self.stop) {
            Ok(Reading::Truncated) => {
                ask_over_tcp(server, &query, read, deadline.min(Instant::now() + self.limits.tcp), &self.stop)
            }
            other => other,
        };
        reading.map_err(|error| DnsError::of(&error))
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text of a line that should name a server and does not.
fn bad_name_server(text: &[u8], error: &resolv_conf::ParseError) -> Option<String> {
    let (resolv_conf::ParseError::InvalidIp(number, _) | resolv_conf::ParseError::InvalidValue(number)) = error else {
        return None;
    };
    let line = String::from_utf8_lossy(text.split(|octet| *octet == b'\n').nth(*number)?).trim().to_owned();
    line.starts_with("nameserver").then_some(line)
}

/// With the number of the interface that a link-local address stands beside (RFC 4007 section 11).
fn socket_address(server: &ScopedIp) -> nix::Result<SocketAddr> {
    Ok(match server {
        ScopedIp::V4(address) => SocketAddr::from((*address, DNS_PORT)),
        ScopedIp::V6(address, None) => SocketAddr::from((*address, DNS_PORT)),
        ScopedIp::V6(address, Some(scope)) => {
            let number = scope.parse().or_else(|_| if_nametoindex(scope.as_str()))?;
            SocketAddrV6::new(*address, DNS_PORT, 0, number).into()
        }
    })
}

/// One question from a port of its own, until an answer to it comes.
fn ask_over_udp(
    server: SocketAddr,
    query: &[u8],
    read: impl Fn(&[u8]) -> Reading,
    until: Instant,
    stop: &Stop,
) -> io::Result<Reading> {
    let any = if server.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // Connected: the kernel drops what comes from elsewhere.
    socket.connect(server)?;
    socket.send(query)?;
    let mut buffer = [0; dns::UDP_SIZE as usize];
    loop {
        socket.set_read_timeout(Some(slice(until, stop)?))?;
        match socket.recv(&mut buffer) {
            Ok(octets) => match read(&buffer[..octets]) {
                Reading::Foreign => {}
                reading => return Ok(reading),
            },
            Err(error) if is_no_end(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The same over TCP, a length before each message (RFC 1035 section 4.2.2).
fn ask_over_tcp(
    server: SocketAddr,
    query: &[u8],
    read: impl Fn(&[u8]) -> Reading,
    until: Instant,
    stop: &Stop,
) -> io::Result<Reading> {
    let mut stream = dial(server, None, left(until)?, stop)?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    read_exact(&mut stream, &mut length, until, stop)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    read_exact(&mut stream, &mut answer, until, stop)?;
    Ok(read(&answer))
}

/// Fills the buffer before `until`, however slowly the octets come.
fn read_exact(stream: &mut TcpStream, buffer: &mut [u8], until: Instant, stop: &Stop) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        stream.set_read_timeout(Some(slice(until, stop)?))?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(octets) => filled += octets,
            Err(error) if is_no_end(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How long to wait before it is asked again whether everything is stopped.
fn slice(until: Instant, stop: &Stop) -> io::Result<Duration> {
    if stop.is_stopped() { Err(stop::error()) } else { Ok(left(until)?.min(SLICE)) }
}

/// True for the end of a slice, after which the deadline is looked at.
fn is_no_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock)
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
            _ if is_stop(error) => Self::Stopped,
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
            Self::Stopped => f.write_str("this server is being stopped"),
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

    /// A server that takes questions and says nothing; how many came is seen afterwards.
    fn silent() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    fn asked(socket: &UdpSocket) -> usize {
        std::iter::from_fn(|| socket.recv(&mut [0; 512]).ok()).count()
    }

    fn limited(servers: &[SocketAddr], lookup: u64, udp: u64) -> Resolver {
        let (lookup, udp) = (Duration::from_millis(lookup), Duration::from_millis(udp));
        Resolver { limits: Limits { lookup, udp: [udp; 2], ..LIMITS }, ..Resolver::with_servers(servers) }
    }

    /// Every server is asked twice; where that takes longer than a lookup may, those that are left are not asked.
    #[test]
    fn a_lookup_has_a_limit_of_its_own() {
        assert_eq!((LIMITS.lookup, LOOKUP_MAX), (LOOKUP_MAX, Duration::from_secs(20)));
        let far = Instant::now() + Duration::from_secs(3600);
        let sockets = [silent(), silent(), silent()];
        let servers = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
        assert_eq!(limited(&servers, 60_000, 20).look_up("a.x", Kind::A, far), Err(DnsError::Timeout));
        assert_eq!(sockets.each_ref().map(asked), [2, 2, 2]);
        assert_eq!(limited(&servers, 300, 1000).look_up("a.x", Kind::A, far), Err(DnsError::Timeout));
        let asked = sockets.each_ref().map(asked);
        assert!(asked[0] <= 1 && asked[1..] == [0, 0], "{asked:?}");
        // The caller's deadline is kept as well.
        let soon = Instant::now() + Duration::from_millis(300);
        assert_eq!(limited(&servers, 60_000, 1000).look_up("a.x", Kind::A, soon), Err(DnsError::Timeout));
        assert!(sockets[1..].iter().all(|socket| self::asked(socket) == 0));
    }

    /// Octets that trickle in over TCP are not waited for longer than all the rest.
    #[test]
    fn a_slow_answer_over_tcp_ends_at_the_limit() {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = std::net::TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let server = udp.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (octets, from) = udp.recv_from(&mut buffer).unwrap();
            buffer[2] = 0x83;
            udp.send_to(&buffer[..octets], from).unwrap();
            let (mut stream, _) = tcp.accept().unwrap();
            let _ = stream.write_all(&60_000_u16.to_be_bytes());
            for _ in 0..150 {
                if stream.write_all(b"x").is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Without the limit the connection ends, which is another error.
        let mut resolver = limited(&[server], 500, 500);
        resolver.limits.tcp = Duration::from_secs(3600);
        let far = Instant::now() + Duration::from_secs(3600);
        assert_eq!(resolver.look_up("a.x", Kind::A, far), Err(DnsError::Timeout));
    }

    /// A link-local server stands beside an interface; what cannot be asked is left out, and the others are.
    #[test]
    fn servers_of_resolv_conf() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let servers = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Resolver::of_the_system(&file).servers.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(servers("nameserver fe80::1%lo\n"), ["[fe80::1%1]:53"]);
        assert_eq!(servers("nameserver fe80::1%7\nnameserver 2001:db8::1\n"), ["[fe80::1%7]:53", "[2001:db8::1]:53"]);
        assert_eq!(servers("nameserver fe80::1%gone0\nnameserver 192.0.2.1\n"), ["192.0.2.1:53"]);
        assert_eq!(servers("nameserver nonsense\nnameserver 192.0.2.1\n"), ["192.0.2.1:53"]);
        assert_eq!(servers("options edns0 unheard-of\n"), ["127.0.0.1:53"]);
    }

    /// The lines that are named in the log as not asked.
    #[test]
    fn lines_that_name_no_server() {
        let text = b"# x\nnameserver br-lan\noptions unheard-of\nsortlist x\n  nameserver\nnameserver fe80::1%br-lan # y\n";
        let (_, errors) = resolv_conf::Config::parse_with_errors(text);
        let named: Vec<String> = errors.iter().filter_map(|error| bad_name_server(text, error)).collect();
        assert_eq!(named, ["nameserver br-lan", "nameserver", "nameserver fe80::1%br-lan # y"]);
    }
}
