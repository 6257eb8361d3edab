//! From a recipient's domain to the servers that take its mail (RFC 5321 section 5).
//!
//! Exchangers go by preference, equals in random order; A and AAAA of the domain itself serve only where it has no MX at all.
//! Ourselves, and what is no better than we are, is left out. Addresses that no other mail server has (loopback,
//! private, link-local, multicast, our own) are never connected to. What is final has an enhanced status code in
//! [`NoServer`]; what the name servers could not tell is [`NoServer::Unknown`], a fault of the route.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::dns::{Answer, Data, Kind};
use super::resolve::{DnsError, Resolver};
use crate::smtp::remote::RemoteStatus;

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanger {
    /// The host's name.
    pub host: String,
    /// One of its addresses.
    pub address: IpAddr,
}

/// What is known of this machine.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The names of this server.
    pub names: Vec<String>,
    /// The addresses of this server.
    pub addresses: Vec<IpAddr>,
    /// True if mail may leave by IPv4.
    pub ipv4: bool,
    /// True if mail may leave by IPv6.
    pub ipv6: bool,
    /// Hosts that the operator has named in a route: they may have addresses that are not public.
    pub named: Vec<String>,
}

/// Why there is no server to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoServer {
    /// The best server is this one.
    Loop,
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// There is no such domain.
    NoDomain,
    /// No server of the domain has an address that mail may be sent to.
    NoAddress,
    /// The name servers could not tell.
    Unknown(DnsError),
}

/// Places that are found, at most: more than are tried in one pass, since some may rest.
pub const PLACES_MAX: usize = 20;
/// Exchangers that are looked at, at most: a domain may have thousands.
const HOSTS_MAX: usize = 20;

/// The servers of a domain, in the order in which they are to be tried; [`PLACES_MAX`] at most.
pub fn find(resolver: &Resolver, domain: &str, own: &Own, deadline: Instant) -> Result<Vec<Exchanger>, NoServer> {
    let answer = resolver.look_up(domain, Kind::Mx, deadline).map_err(NoServer::unknown)?;
    if !answer.exists {
        return Err(NoServer::NoDomain);
    }
    let Hosts { hosts, cut } = hosts(domain, &answer, own, random)?;
    let mut found: Vec<(u16, Exchanger)> = Vec::new();
    let (mut unknown, mut ours): (Option<(u16, DnsError)>, bool) = (None, false);
    let (mut best_of_ours, mut seen) = (None, BTreeSet::new());
    let count = hosts.len();
    for (at, (preference, host)) in hosts.into_iter().enumerate() {
        // A name without an answer takes its share of the time, not that of the others.
        let now = Instant::now();
        let until = now + deadline.saturating_duration_since(now) / u32::try_from(count - at).unwrap_or(u32::MAX);
        // All equals are looked at: one of them may be this server.
        if best_of_ours.is_some() || (found.len() >= PLACES_MAX && found.last().is_some_and(|(last, _)| *last < preference)) {
            break;
        }
        for kind in [own.ipv4.then_some(Kind::A), own.ipv6.then_some(Kind::Aaaa)].into_iter().flatten() {
            match resolver.look_up(&host, kind, until) {
                Err(DnsError::BadName(_)) => {}
                Err(error @ DnsError::Stopped) => return Err(NoServer::Unknown(error)),
                Err(error) => drop(unknown.get_or_insert((preference, error))),
                Ok(answer) => {
                    let mut addresses: Vec<IpAddr> = answer.records.iter().filter_map(Data::address).collect();
                    shuffle(&mut addresses, random);
                    ours |= addresses.iter().any(|address| own.has(*address));
                    if addresses.iter().any(|address| own.is_reached_at(&host, *address)) {
                        best_of_ours = Some(preference);
                    }
                    // Two hosts of one address are one server, tried once in a pass.
                    addresses.retain(|address| own.may_connect_to(&host, *address) && seen.insert(*address));
                    found.extend(addresses.into_iter().map(|address| (preference, Exchanger { host: host.clone(), address })));
                }
            }
        }
    }
    // RFC 5321 section 5.1, as for a host with our name: our equals would send it back to us.
    if let Some(preference) = best_of_ours {
        found.retain(|(other, _)| *other < preference);
        unknown = unknown.filter(|(other, _)| *other < preference);
    }
    found.truncate(PLACES_MAX);
    match (found.is_empty(), unknown) {
        (false, _) => Ok(found.into_iter().map(|(_, place)| place).collect()),
        (true, Some((_, error))) => Err(NoServer::Unknown(error)),
        (true, None) if ours => Err(NoServer::Loop),
        // One of the others may have an address.
        (true, None) if cut => Err(NoServer::Unknown(DnsError::Failed("more mail servers than are looked at".to_owned()))),
        (true, None) => Err(NoServer::NoAddress),
    }
}

/// The hosts to look up, each with its preference.
#[derive(Debug, PartialEq, Eq)]
struct Hosts {
    hosts: Vec<(u16, String)>,
    /// There are more.
    cut: bool,
}

/// The hosts to look up for a domain with this answer to its MX question. `random` gives a number below its argument.
fn hosts(domain: &str, answer: &Answer, own: &Own, mut random: impl FnMut(usize) -> usize) -> Result<Hosts, NoServer> {
    let mut by_preference: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for record in &answer.records {
        if let Data::Exchange(preference, host) = record {
            by_preference.entry(*preference).or_default().push(host.clone());
        }
    }
    if by_preference.is_empty() {
        let hosts = vec![(0, domain.to_owned())];
        return if own.is_named(domain) { Err(NoServer::Loop) } else { Ok(Hosts { hosts, cut: false }) };
    }
    // RFC 7505 section 3: the null MX stands alone; beside others it means nothing.
    if answer.records.len() == 1 && by_preference.values().flatten().all(String::is_empty) {
        return Err(NoServer::NullMx);
    }
    let (mut hosts, mut known) = (Vec::new(), BTreeSet::new());
    for (preference, mut equals) in by_preference {
        // RFC 5321 section 5.1: ourselves, our equals and all that is worse are left out.
        if equals.iter().any(|host| own.is_named(host)) {
            if hosts.is_empty() {
                return Err(NoServer::Loop);
            }
            break;
        }
        // A host counts at its best preference.
        equals.retain(|host| !host.is_empty() && known.insert(host.to_ascii_lowercase()));
        shuffle(&mut equals, &mut random);
        hosts.extend(equals.into_iter().map(|host| (preference, host)));
    }
    let cut = hosts.len() > HOSTS_MAX;
    hosts.truncate(HOSTS_MAX);
    if hosts.is_empty() { Err(NoServer::NoAddress) } else { Ok(Hosts { hosts, cut }) }
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], mut random: impl FnMut(usize) -> usize) {
    for at in (1..items.len()).rev() {
        items.swap(at, random(at + 1));
    }
}

/// A number below `below`, near enough to even for a choice among a few servers.
fn random(below: usize) -> usize {
    let mut octets = [0; 8];
    // Without randomness the first is taken, which is an order as well.
    let _ = aws_lc_rs::rand::fill(&mut octets);
    usize::try_from(u64::from_le_bytes(octets) % below.max(1) as u64).unwrap_or(0)
}

impl Own {
    fn is_named(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.');
        self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// True for an address of ours that others could mean: every machine has the loopback ones.
    fn has(&self, address: IpAddr) -> bool {
        let own = |address: IpAddr| !address.is_loopback() && self.addresses.contains(&address);
        own(address) || own(leads_to(address))
    }

    /// True if a host of this address is this server. A private address may be another machine's as well, in its network; and
    /// what a route names is meant.
    fn is_reached_at(&self, host: &str, address: IpAddr) -> bool {
        self.has(address) && is_public(leads_to(address)) && !self.is_meant(host)
    }

    fn is_meant(&self, host: &str) -> bool {
        self.named.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    fn may_connect_to(&self, host: &str, address: IpAddr) -> bool {
        self.is_meant(host) || (is_public(address) && !self.has(address))
    }
}

/// The addresses of this machine's interfaces.
pub fn local_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let of = |address: SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    interfaces.filter_map(|interface| of(interface.address?)).map(|address| address.to_canonical()).collect()
}

/// True if an address may be that of another mail server (RFC 6890 and its registries). One of IPv4 that is written as one of
/// IPv6 is none on any wire.
pub fn is_public(address: IpAddr) -> bool {
    match (address, leads_to(address)) {
        (IpAddr::V6(mapped), _) if mapped.to_ipv4_mapped().is_some() => false,
        (_, IpAddr::V4(v4)) => is_public_v4(v4),
        (_, IpAddr::V6(v6)) => is_public_v6(v6),
    }
}

/// Where what is sent to an address ends: at the IPv4 address within, for a mapped one, for NAT64's well-known prefix
/// (RFC 6052 section 2.1) and for 6to4 (RFC 3056 section 2).
fn leads_to(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let within = |[a, b]: [u16; 2]| {
        let ([a, b], [c, d]) = (a.to_be_bytes(), b.to_be_bytes());
        IpAddr::from([a, b, c, d])
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => within([high, low]),
        _ => v6.to_canonical(),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    // RFC 6598, CGNAT: 100.64/10; RFC 2544, benchmarks: 198.18/15; RFC 6890: 192.0.0/24; class E and broadcast: 240/4.
    let special = a == 0 || (a == 100 && (64..128).contains(&b)) || (a == 198 && (18..20).contains(&b)) || a >= 240;
    let special = special || (a, b, c) == (192, 0, 0);
    !(special || address.is_loopback() || address.is_private() || address.is_link_local() || address.is_multicast())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Global unicast is 2000::/3 (RFC 4291); the rest is local, multicast or not given out. In it 2001::/23 is for protocols
    // (RFC 2928): Teredo, whose addresses lead on to others, ORCHID, benchmarks.
    first & 0xe000 == 0x2000 && !(first == 0x2001 && second < 0x200)
}

impl Data {
    fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Exchange(..) | Self::Name(_) | Self::Text(_) => None,
        }
    }
}

impl NoServer {
    fn unknown(error: DnsError) -> Self {
        match error {
            DnsError::BadName(_) => Self::NoDomain,
            error => Self::Unknown(error),
        }
    }

    /// The enhanced status code of what is final (RFC 3463, RFC 7505 section 4.2); `None` where it is the route's fault.
    pub fn status(&self) -> Option<RemoteStatus> {
        match self {
            Self::Loop => Some((5, 4, 6)),
            Self::NoAddress => Some((5, 4, 4)),
            Self::NoDomain => Some((5, 1, 2)),
            Self::NullMx => Some((5, 1, 10)),
            Self::Unknown(_) => None,
        }
    }
}

impl fmt::Display for NoServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loop => f.write_str("the mail would come back to this server"),
            Self::NoAddress => f.write_str("no mail server of the domain has an address that mail may be sent to"),
            Self::NoDomain => f.write_str("there is no such domain"),
            Self::NullMx => f.write_str("the domain takes no mail"),
            Self::Unknown(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NoServer {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn answer(records: &[(u16, &str)]) -> Answer {
        let records = records.iter().map(|(preference, host)| Data::Exchange(*preference, (*host).to_owned())).collect();
        Answer { records, exists: true, authenticated: false, ttl: Duration::ZERO }
    }

    fn names(found: Result<Hosts, NoServer>) -> Result<Vec<String>, NoServer> {
        found.map(|found| found.hosts.into_iter().map(|(_, host)| host).collect())
    }

    #[test]
    fn hosts_of_a_domain() {
        let own = Own { names: vec!["mx.own.example".into()], ..Own::default() };
        type Row<'a> = (&'a str, &'a [(u16, &'a str)], Result<&'a [&'a str], NoServer>);
        let rows: [Row<'_>; 13] = [
            ("no MX at all", &[], Ok(&["d.example"])),
            ("one", &[(10, "a.x")], Ok(&["a.x"])),
            ("by preference", &[(20, "b.x"), (10, "a.x"), (30, "c.x")], Ok(&["a.x", "b.x", "c.x"])),
            ("one host twice", &[(10, "a.x"), (10, "A.x")], Ok(&["a.x"])),
            ("one host twice, worse", &[(30, "A.x"), (10, "a.x"), (20, "b.x")], Ok(&["a.x", "b.x"])),
            ("null MX", &[(0, "")], Err(NoServer::NullMx)),
            ("null MX of another preference", &[(10, "")], Err(NoServer::NullMx)),
            ("null MX beside another", &[(0, ""), (10, "a.x")], Ok(&["a.x"])),
            ("two null MX", &[(0, ""), (10, "")], Err(NoServer::NoAddress)),
            ("we are the best", &[(10, "MX.own.example"), (20, "a.x")], Err(NoServer::Loop)),
            ("we are in the middle", &[(10, "a.x"), (20, "mx.own.example"), (30, "b.x")], Ok(&["a.x"])),
            ("we and an equal", &[(10, "a.x"), (20, "b.x"), (20, "mx.own.example")], Ok(&["a.x"])),
            ("we are the only one", &[(10, "mx.own.example")], Err(NoServer::Loop)),
        ];
        for (what, records, want) in rows {
            let want = want.map(|hosts| hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>());
            assert_eq!(names(hosts("d.example", &answer(records), &own, |_| 0)), want, "{what}");
        }
        assert_eq!(hosts("mx.own.example", &answer(&[]), &own, |_| 0), Err(NoServer::Loop));
        let many: Vec<(u16, String)> = (0..4000).map(|n| (n, format!("h{n}.x"))).collect();
        let many: Vec<(u16, &str)> = many.iter().map(|(n, host)| (*n, host.as_str())).collect();
        for (count, cut) in [(HOSTS_MAX, false), (HOSTS_MAX + 1, true), (4000, true)] {
            let found = hosts("d.example", &answer(&many[..count]), &own, |_| 0).unwrap();
            assert_eq!((found.hosts.len(), found.cut), (HOSTS_MAX, cut), "{count}");
        }
    }

    #[test]
    fn equals_take_turns() {
        let own = Own::default();
        let first = |number: usize| {
            let equals = answer(&[(10, "a.x"), (10, "b.x"), (10, "c.x")]);
            names(hosts("d.example", &equals, &own, |below| number % below)).unwrap()[0].clone()
        };
        let firsts: std::collections::BTreeSet<String> = (0..6).map(first).collect();
        assert!(firsts.len() > 1, "{firsts:?}");
        assert!((0..1000).map(|_| random(3)).collect::<std::collections::BTreeSet<_>>().len() == 3);
    }

    #[test]
    fn addresses_that_are_never_connected_to() {
        let never = [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:9.9.9.9",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::808:808",
            "64:ff9b:1:a00:0:100:808:808",
            "2001::1",
            "2001:0:7f00:1::",
            "2001:2::1",
            "2001:10::1",
            "2001:1ff::1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "ff02::1",
            "fec0::1",
            "100::1",
        ];
        for text in never {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        for text in
            ["9.9.9.9", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "2620:fe::fe", "2001:200::1"]
        {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in ["64:ff9b::808:808", "2002:808:808::1"] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        let own = Own { addresses: vec!["9.9.9.9".parse().unwrap()], ..Own::default() };
        assert!(!own.may_connect_to("mx.x", "9.9.9.9".parse().unwrap()));
        for text in ["::ffff:9.9.9.9", "64:ff9b::909:909", "2002:909:909::25"] {
            let address = text.parse().unwrap();
            assert!(!own.may_connect_to("mx.x", address) && own.is_reached_at("mx.x", address), "{text}");
        }
        for text in ["9.9.9.8", "64:ff9b::909:908", "2002:909:908::25"] {
            let address = text.parse().unwrap();
            assert!(own.may_connect_to("mx.x", address) && !own.is_reached_at("mx.x", address), "{text}");
        }
        let own = Own { named: vec!["mx.x".to_owned()], ..Own::default() };
        assert!(own.may_connect_to("MX.x", "10.0.0.1".parse().unwrap()) && !own.may_connect_to("x", "10.0.0.1".parse().unwrap()));
        assert!(local_addresses().contains(&IpAddr::from(Ipv4Addr::LOCALHOST)));
    }
}
