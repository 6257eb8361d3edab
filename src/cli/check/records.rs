//! The records of DNS by which other servers judge mail that comes from this host: the name of its address (PTR), which hosts
//! send mail of a domain (SPF, RFC 7208), and the keys that sign (DKIM, RFC 6376).

use std::net::IpAddr;
use std::time::Instant;

use super::Level;
use crate::cli::dkim::{self, Published};
use crate::config::outgoing::{NextHop, Outgoing};
use crate::config::{Config, DkimKey};
use crate::relay::dns::{Data, Kind, reverse_name};
use crate::relay::mx::is_public;
use crate::relay::resolve::{DnsError, Resolver};
use crate::smtp::punycode;

/// Asks name servers, by a deadline.
pub(super) struct Records<'a> {
    outgoing: &'a Outgoing,
    resolver: Resolver,
    /// The name that mail by MX is sent under.
    helo: String,
    end: Instant,
}

/// Names of an address that are looked up, at most (RFC 7208 section 4.6.4).
const NAMES_MAX: usize = 10;
/// Characters of a record that are shown, at most.
const SHOWN_MAX: usize = 200;

impl<'a> Records<'a> {
    pub(super) fn new(config: &Config, outgoing: &'a Outgoing, end: Instant) -> Self {
        let helo = outgoing.mx.as_ref().and_then(|mx| mx.helo.as_deref()).unwrap_or(&config.hostname);
        let helo = punycode::to_ascii(helo).unwrap_or_else(|| helo.to_owned()).to_ascii_lowercase();
        Self { outgoing, resolver: Resolver::configured(config), helo, end }
    }

    /// That it is not known, with the name servers that could not tell.
    pub(super) fn unknown(&self, what: &str, error: &DnsError) -> String {
        let asked: Vec<String> = self.resolver.servers().iter().map(ToString::to_string).collect();
        let place = match self.outgoing.resolver {
            Some(_) => "as `resolver`",
            None => "in /etc/resolv.conf, or as `resolver`",
        };
        format!("{what}: not known, {error} (asked {}); try again later, or name another server {place}", asked.join(", "))
    }

    /// Whether an address of this host has a name, and names lead to it: that name and the one in EHLO.
    pub(super) fn ptr(&self, address: IpAddr) -> Vec<(Level, String)> {
        let helo = &self.helo;
        if !is_public(address) {
            let text = format!(
                "PTR: not tried, {address} is a private address and the public one of this host is not known here; look it up \
                 from outside or at the provider, and see that its reverse DNS is {helo}"
            );
            return vec![(Level::Ok, text)];
        }
        let cure = format!("ask the provider of this host to set the reverse DNS of {address} to {helo}");
        let names: Vec<String> = match self.resolver.look_up(&reverse_name(address), Kind::Ptr, self.end) {
            Err(error) => return vec![(Level::Warning, self.unknown(&format!("PTR of {address}"), &error))],
            Ok(answer) => answer.records.into_iter().filter_map(name).take(NAMES_MAX).collect(),
        };
        let back: Vec<Result<bool, DnsError>> = names.iter().map(|name| self.leads_to(name, address)).collect();
        let confirmed = names.iter().zip(&back).find(|(_, back)| **back == Ok(true)).map(|(name, _)| name);
        let shown = names.join(", ");
        let row = match (confirmed, back.into_iter().find_map(Result::err)) {
            (Some(name), _) => (Level::Ok, format!("PTR: {address} is {name}, and {name} is {address}")),
            (None, Some(error)) => (Level::Warning, self.unknown(&format!("address of {shown}, the name of {address}"), &error)),
            (None, None) if names.is_empty() => {
                (Level::Warning, format!("PTR: {address} has no name, large receivers refuse its mail; {cure}"))
            }
            (None, None) => {
                let cure = if names.contains(helo) { self.publish(address) } else { cure };
                (Level::Warning, format!("PTR: {address} has the name {shown}, which does not lead back to it; {cure}"))
            }
        };
        // Of the name in EHLO nothing more is to be said where it is the one that was looked up.
        match confirmed == Some(helo) || (confirmed.is_none() && names.contains(helo)) {
            true => vec![row],
            false => vec![row, self.helo(address)],
        }
    }

    /// Whether the name in EHLO has this address.
    fn helo(&self, address: IpAddr) -> (Level, String) {
        let helo = &self.helo;
        match self.leads_to(helo, address) {
            Ok(true) => (Level::Ok, format!("EHLO: {helo} is {address}")),
            Ok(false) => {
                let cure = self.publish(address);
                (Level::Warning, format!("EHLO: the name {helo} does not lead to {address}, from which mail is sent; {cure}"))
            }
            Err(error) => (Level::Warning, self.unknown(&format!("address of {helo}, the name in EHLO"), &error)),
        }
    }

    /// The cure where the name in EHLO has not this address.
    fn publish(&self, address: IpAddr) -> String {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        format!("publish in DNS `{}. {kind} {address}`, or correct `hostname`, or `helo` in [outgoing.routes.mx]", self.helo)
    }

    /// What is no name has no address.
    fn leads_to(&self, name: &str, address: IpAddr) -> Result<bool, DnsError> {
        let kind = if address.is_ipv4() { Kind::A } else { Kind::Aaaa };
        match self.resolver.look_up(name, kind, self.end) {
            Ok(answer) => Ok(answer.records.contains(&Data::Address(address))),
            Err(DnsError::BadName(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a domain says which hosts send its mail; `own` are the addresses that this host sends from.
    pub(super) fn spf(&self, domain: &str, own: &[IpAddr]) -> (Level, String) {
        let asked = punycode::to_ascii(domain).unwrap_or_else(|| domain.to_owned());
        let found: Vec<String> = match self.resolver.look_up(&asked, Kind::Txt, self.end) {
            Err(error) => return (Level::Warning, self.unknown(&format!("SPF of {domain}"), &error)),
            Ok(answer) => answer.records.into_iter().filter_map(text).filter(|text| is_spf(text)).collect(),
        };
        match &found[..] {
            [record] => {
                let cut = if record.chars().count() > SHOWN_MAX { "..." } else { "" };
                let shown = record.chars().take(SHOWN_MAX).collect::<String>() + cut;
                let excluded = own.iter().filter(|address| is_public(**address) && excludes(record, **address));
                let terms: Vec<String> = excluded.map(|address| term(*address)).collect();
                match terms.is_empty() {
                    true => (Level::Ok, format!("SPF of {domain}: {shown}{}", not_looked_up(record, own))),
                    false => {
                        let cure = format!("add {} after v=spf1", terms.join(" "));
                        (Level::Warning, format!("SPF of {domain}: `{shown}` lets no mail of this host pass; {cure}"))
                    }
                }
            }
            [] => {
                let routes = self.outgoing.routes.keys().map(|name| NextHop::Route(name.clone()));
                let by_others = routes.into_iter().any(|route| self.outgoing.may_carry(&route, domain));
                let more = if by_others { ", with what the provider of each smarthost asks for before -all" } else { "" };
                let record = format!("{asked}. TXT \"{}\"", to_publish(own));
                let text = format!(
                    "SPF of {domain}: there is no record, large receivers distrust its mail; publish in DNS `{record}`{more}"
                );
                (Level::Warning, text)
            }
            many => {
                let text = format!(
                    "SPF of {domain}: {} records begin with v=spf1, which receivers take for an error (RFC 7208 section 4.5); merge \
                     them into one",
                    many.len()
                );
                (Level::Warning, text)
            }
        }
    }

    /// Whether a key's record is there; nothing of a key that cannot be read, which is said elsewhere.
    pub(super) fn dkim(&self, config: &Config, domain: &str, key: &DkimKey) -> Option<(Level, String)> {
        let key = dkim::read_one(config, domain, key).ok()?;
        let name = key.record_name();
        let cure = "publish in DNS the record that `pillarbox dkim list` prints";
        Some(match Published::of(&key, &self.resolver, self.end) {
            Published::Here => (Level::Ok, format!("{name}: is in DNS")),
            Published::Missing => (Level::Warning, format!("{name}: is not in DNS, so the signatures count for nothing; {cure}")),
            Published::Other => {
                (Level::Warning, format!("{name}: DNS has another key, or not all of it, so the signatures are wrong; {cure}"))
            }
            Published::Several(count) => {
                let text = format!(
                    "{name}: DNS has {count} records, of which receivers take any; leave only that which `pillarbox dkim list` prints"
                );
                (Level::Warning, text)
            }
            Published::Unknown(error) => (Level::Warning, self.unknown(&name, &error)),
        })
    }
}

/// RFC 7208 section 4.5: the version alone, or before a space.
fn is_spf(text: &str) -> bool {
    let version = text.split(' ').next().unwrap_or_default();
    version.eq_ignore_ascii_case("v=spf1")
}

/// The hosts that take mail of the domain, and the addresses that mail is sent from, as far as they are known.
fn to_publish(own: &[IpAddr]) -> String {
    let known = own.iter().filter(|address| is_public(**address));
    let terms: String = known.map(|address| format!("{} ", term(*address))).collect();
    format!("v=spf1 mx {terms}-all")
}

/// The mechanism that lets an address pass (RFC 7208 section 5.6).
fn term(address: IpAddr) -> String {
    format!("ip{}:{address}", if address.is_ipv4() { 4 } else { 6 })
}

/// True if a record lets no mail of this address pass, as far as it says so without further questions.
fn excludes(record: &str, address: IpAddr) -> bool {
    record.split_ascii_whitespace().skip(1).all(|term| {
        if term.starts_with(['-', '~', '?']) {
            return true;
        }
        let term = term.strip_prefix('+').unwrap_or(term).to_ascii_lowercase();
        let name = term.split([':', '/', '=']).next().unwrap_or_default();
        match name {
            "ip4" | "ip6" => !term.split_once(':').is_some_and(|(_, network)| contains(network, address)),
            name => !["a", "all", "exists", "include", "mx", "ptr", "redirect"].contains(&name),
        }
    })
}

/// Says so where nothing but names of others can let the addresses of this host pass.
fn not_looked_up(record: &str, own: &[IpAddr]) -> String {
    let by_itself = |address: &IpAddr| {
        record.split_ascii_whitespace().skip(1).any(|term| {
            let term = term.strip_prefix('+').unwrap_or(term).to_ascii_lowercase();
            let names_others = term.contains('=') || (term.contains(':') && !term.starts_with("ip"));
            !names_others && !excludes(&format!("v=spf1 {term}"), *address)
        })
    };
    let terms: Vec<String> =
        own.iter().filter(|address| is_public(**address) && !by_itself(address)).map(|address| term(*address)).collect();
    match &terms[..] {
        [] => String::new(),
        terms => {
            let terms = terms.join(" ");
            format!("; whether the names in it let this host pass is not looked up: see to it, or add {terms} after v=spf1")
        }
    }
}

/// True if an address is in a network, `ADDRESS` or `ADDRESS/BITS`.
fn contains(network: &str, address: IpAddr) -> bool {
    let (first, bits) = network.split_once('/').map_or((network, None), |(first, bits)| (first, Some(bits)));
    let (number, width) = match (first.parse(), address) {
        (Ok(IpAddr::V4(first)), IpAddr::V4(address)) => (u128::from(first.to_bits() ^ address.to_bits()), 32),
        (Ok(IpAddr::V6(first)), IpAddr::V6(address)) => (first.to_bits() ^ address.to_bits(), 128),
        _ => return false,
    };
    let bits: u32 = bits.map_or(Ok(width), str::parse).unwrap_or(width).min(width);
    number.checked_shr(width - bits).unwrap_or(0) == 0
}

fn name(data: Data) -> Option<String> {
    if let Data::Name(name) = data { Some(name) } else { None }
}

fn text(data: Data) -> Option<String> {
    if let Data::Text(text) = data { Some(String::from_utf8_lossy(&text).into_owned()) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spf() {
        for text in ["v=spf1", "v=spf1 -all", "V=SPF1 mx -all"] {
            assert!(is_spf(text), "{text}");
        }
        for text in ["", "v=spf10 -all", "v=spf2.0/pra", " v=spf1", "spf1", "v=spf1\t-all", "v=DMARC1; p=none"] {
            assert!(!is_spf(text), "{text}");
        }
    }

    #[test]
    fn what_lets_an_address_pass() {
        let v4: IpAddr = "203.0.113.1".parse().unwrap();
        let v6: IpAddr = "2001:67c::1".parse().unwrap();
        let rows = [
            ("v=spf1 -all", true, true),
            ("v=spf1", true, true),
            ("v=spf1 ~all exp=why.example", true, true),
            ("v=spf1 -mx ?a ~include:x.example -all", true, true),
            ("v=spf1 ip4:203.0.113.2 ip4:203.0.114.0/24 ip6:2001:67d::/32 -all", true, true),
            ("v=spf1 ip4:203.0.113.1 -all", false, true),
            ("v=spf1 +IP4:203.0.113.0/24 -all", false, true),
            ("v=spf1 ip4:0.0.0.0/0 ip6:::/0 -all", false, false),
            ("v=spf1 ip6:2001:67c::/32 -all", true, false),
            ("v=spf1 ip4:203.0.113.1/33 ip4: ip4:x/8 -all", false, true),
            ("v=spf1 mx -all", false, false),
            ("v=spf1 a/24 -all", false, false),
            ("v=spf1 A:mail.example.org -all", false, false),
            ("v=spf1 include:x.example ~all", false, false),
            ("v=spf1 exists:%{i}.x.example -all", false, false),
            ("v=spf1 redirect=x.example", false, false),
            ("v=spf1 +all", false, false),
            ("v=spf1 unknown=x -all", true, true),
        ];
        for (record, excludes_v4, excludes_v6) in rows {
            assert_eq!((excludes(record, v4), excludes(record, v6)), (excludes_v4, excludes_v6), "{record}");
        }
    }

    #[test]
    fn names_that_are_not_looked_up() {
        let own: Vec<IpAddr> = vec!["203.0.113.1".parse().unwrap(), "10.0.0.1".parse().unwrap()];
        let rows = [
            ("v=spf1 include:x.example -all", true),
            ("v=spf1 a:x.example mx:y.example ~all", true),
            ("v=spf1 redirect=x.example", true),
            ("v=spf1 -mx include:x.example -all", true),
            ("v=spf1 mx include:x.example -all", false),
            ("v=spf1 +A/24 -all", false),
            ("v=spf1 include:x.example ip4:203.0.113.0/24 -all", false),
            ("v=spf1 include:x.example +all", false),
        ];
        for (record, want) in rows {
            let text = not_looked_up(record, &own);
            assert_eq!(text.ends_with(" or add ip4:203.0.113.1 after v=spf1"), want, "{record}: {text}");
            assert_eq!(text.is_empty(), !want, "{record}: {text}");
        }
        assert_eq!(not_looked_up(rows[0].0, &own[1..]), "");
    }

    #[test]
    fn the_record_to_publish() {
        let own: Vec<IpAddr> = ["10.0.0.5", "203.0.113.1", "2001:67c::1"].map(|address| address.parse().unwrap()).to_vec();
        assert_eq!(to_publish(&own), "v=spf1 mx ip4:203.0.113.1 ip6:2001:67c::1 -all");
        assert_eq!(to_publish(&own[..1]), "v=spf1 mx -all");
    }
}
