//! DNS messages (RFC 1035): one question out, one answer in. Pure: octets in, octets out; sockets are the resolver's.
//!
//! An answer counts only if its id, its question and its flags are those that were asked for. Whatever it holds, reading it
//! ends: a chain of aliases is followed for [`ALIASES_MAX`] steps, names are bounded by the format, records by the message.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr as _;
use std::time::Duration;

use domain::base::iana::{Class, OptRcode};
use domain::base::{Message, MessageBuilder, Name, ParsedName, Rtype};
use domain::rdata::{A, Aaaa, Cname, Mx, Ptr, Soa, Txt};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses (RFC 3596).
    Aaaa,
    /// Mail exchangers (RFC 5321 section 5.1).
    Mx,
    /// The name of an address.
    Ptr,
    /// Text: keys and policies.
    Txt,
}

/// One record of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Of A and AAAA.
    Address(IpAddr),
    /// Of MX: preference and host; the host is empty for the null MX (RFC 7505).
    Exchange(u16, String),
    /// Of PTR.
    Name(String),
    /// Of TXT, its pieces joined.
    Text(Vec<u8>),
}

/// What a name has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The records, in the order in which they came; none if the name has none of this kind.
    pub records: Vec<Data>,
    /// False if there is no such name (NXDOMAIN).
    pub exists: bool,
    /// The resolver says that it has validated the answer (RFC 4035 section 3.2.3).
    pub authenticated: bool,
    /// For how long it holds.
    pub ttl: Duration,
}

/// What a message turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The name is an alias of another one, whose records are not in the message.
    Alias {
        /// The other one.
        target: String,
        /// For how long it is.
        ttl: Duration,
        /// As in [`Answer::authenticated`].
        authenticated: bool,
    },
    /// The answer.
    Answer(Answer),
    /// The server could not tell; the response code's word.
    Failed(String),
    /// Not an answer to this question: to be overlooked.
    Foreign,
    /// Cut: to be asked for again over TCP.
    Truncated,
}

/// Steps of a chain of aliases, at most.
pub const ALIASES_MAX: usize = 8;
/// Octets of an answer over UDP that we are ready for (the size that DNS Flag Day 2020 settled on).
pub const UDP_SIZE: u16 = 1232;
/// The longest time for which an answer is kept.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long "no" holds where the answer does not say.
const NEGATIVE_TTL: u32 = 60;

impl Kind {
    fn rtype(self) -> Rtype {
        match self {
            Self::A => Rtype::A,
            Self::Aaaa => Rtype::AAAA,
            Self::Mx => Rtype::MX,
            Self::Ptr => Rtype::PTR,
            Self::Txt => Rtype::TXT,
        }
    }
}

/// A query with EDNS (RFC 6891), recursion and the AD bit asked for; `None` if `name` is no domain name.
pub fn query(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let name = parse_name(name)?;
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(id);
    message.header_mut().set_rd(true);
    message.header_mut().set_ad(true);
    let mut message = message.question();
    message.push((&name, kind.rtype())).ok()?;
    let mut message = message.additional();
    let opt = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
        opt.set_udp_payload_size(UDP_SIZE);
        Ok(())
    };
    message.opt(opt).ok()?;
    Some(message.finish())
}

/// The name under which an address has its PTR record (RFC 1035 section 3.5, RFC 3596 section 2.5).
pub fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            let labels: String = nibbles.map(|nibble| format!("{nibble:x}.")).collect();
            format!("{labels}ip6.arpa")
        }
    }
}

/// Reads a message that may be the answer to [`query`] with the same arguments.
pub fn read(octets: &[u8], id: u16, name: &str, kind: Kind) -> Reading {
    read_message(octets, id, name, kind).unwrap_or(Reading::Foreign)
}

fn read_message(octets: &[u8], id: u16, name: &str, kind: Kind) -> Option<Reading> {
    let message = Message::from_octets(octets).ok()?;
    let header = message.header();
    let question = message.sole_question().ok()?;
    let asked = parse_name(name)?;
    let ours = header.id() == id && header.qr() && question.qtype() == kind.rtype() && question.qclass() == Class::IN;
    if !ours || *question.qname() != asked {
        return None;
    }
    if header.tc() {
        return Some(Reading::Truncated);
    }
    let exists = match message.opt_rcode() {
        OptRcode::NOERROR => true,
        OptRcode::NXDOMAIN => false,
        other => return Some(Reading::Failed(other.to_string())),
    };
    let Some(Section { aliases, found, mut ttl }) = Section::of(&message, kind) else {
        return Some(Reading::Failed("malformed answer".to_owned()));
    };
    let mut owner = text_of(&asked);
    for _ in 0..ALIASES_MAX {
        match aliases.get(&owner) {
            Some(target) => owner.clone_from(target),
            None => break,
        }
    }
    if aliases.contains_key(&owner) {
        return Some(Reading::Failed("a chain of aliases that is too long".to_owned()));
    }
    let records: Vec<Data> = found.into_iter().filter(|(known, _)| *known == owner).map(|(_, data)| data).collect();
    if records.is_empty() {
        let negative = negative_ttl(&message);
        // No word of the alias's target: the resolver has not looked.
        if exists && negative.is_none() && owner != text_of(&asked) {
            let ttl = Duration::from_secs(u64::from(ttl.unwrap_or(0))).min(TTL_MAX);
            return Some(Reading::Alias { target: owner, ttl, authenticated: header.ad() });
        }
        // An authority knows and a resolver has looked; anything else that has nothing says nothing.
        if exists && negative.is_none() && !header.ra() && !header.aa() {
            return Some(Reading::Failed("this name server looks up nothing for others".to_owned()));
        }
        ttl = Some(negative.unwrap_or(NEGATIVE_TTL).min(ttl.unwrap_or(u32::MAX)));
    }
    let ttl = Duration::from_secs(u64::from(ttl.unwrap_or(0))).min(TTL_MAX);
    Some(Reading::Answer(Answer { records, exists, authenticated: header.ad(), ttl }))
}

/// What the answer section says.
struct Section {
    aliases: HashMap<String, String>,
    found: Vec<(String, Data)>,
    /// The least of all.
    ttl: Option<u32>,
}

impl Section {
    fn of(message: &Message<&[u8]>, kind: Kind) -> Option<Self> {
        let mut section = Self { aliases: HashMap::new(), found: Vec::new(), ttl: None };
        for record in message.answer().ok()? {
            let record = record.ok()?;
            if record.class() != Class::IN {
                continue;
            }
            let owner = text_of(&record.owner());
            if record.rtype() == Rtype::CNAME {
                let alias = record.to_record::<Cname<ParsedName<&[u8]>>>().ok()??;
                section.aliases.insert(owner, text_of(alias.data().cname()));
            } else if record.rtype() == kind.rtype() {
                section.found.push((owner, Data::of(&record, kind)?));
            } else {
                continue;
            }
            let seconds = record.ttl().as_secs();
            section.ttl = Some(section.ttl.map_or(seconds, |known| known.min(seconds)));
        }
        Some(section)
    }
}

impl Data {
    fn of(record: &domain::base::record::ParsedRecord<'_, &[u8]>, kind: Kind) -> Option<Self> {
        Some(match kind {
            Kind::A => Self::Address(record.to_record::<A>().ok()??.data().addr().into()),
            Kind::Aaaa => Self::Address(record.to_record::<Aaaa>().ok()??.data().addr().into()),
            Kind::Mx => {
                let record = record.to_record::<Mx<ParsedName<&[u8]>>>().ok()??;
                Self::Exchange(record.data().preference(), text_of(record.data().exchange()))
            }
            Kind::Ptr => Self::Name(text_of(record.to_record::<Ptr<ParsedName<&[u8]>>>().ok()??.data().ptrdname())),
            Kind::Txt => Self::Text(record.to_record::<Txt<&[u8]>>().ok()??.data().text()),
        })
    }
}

/// How long "there is none" holds (RFC 2308 section 5).
fn negative_ttl(message: &Message<&[u8]>) -> Option<u32> {
    let section = message.authority().ok()?;
    let mut soa = section.limit_to_in::<Soa<ParsedName<&[u8]>>>();
    let soa = soa.next()?.ok()?;
    Some(soa.ttl().as_secs().min(soa.data().minimum().as_secs()))
}

fn parse_name(name: &str) -> Option<Name<Vec<u8>>> {
    // Host names alone: nothing that the zone file syntax would read as an escape.
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.');
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty() && name.bytes().all(plain)).then(|| Name::from_str(name).ok()).flatten()
}

/// A name in lower case without its final dot; empty for the root.
fn text_of(name: &impl std::fmt::Display) -> String {
    name.to_string().trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::base::Ttl;
    use domain::base::iana::Rcode;

    const ID: u16 = 0x1234;

    type Row<'a> = (&'a str, u32, RecordData<'a>);

    enum RecordData<'a> {
        A([u8; 4]),
        Cname(&'a str),
        Mx(u16, &'a str),
        Txt(&'a str),
    }
    use RecordData::{A as Four, Cname as Alias, Mx as Exchange, Txt as Text};

    fn name(text: &str) -> Name<Vec<u8>> {
        Name::from_str(text).unwrap()
    }

    fn answer(asked: &str, kind: Kind, rcode: Rcode, rows: &[Row<'_>], soa: Option<u32>) -> Vec<u8> {
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_id(ID);
        message.header_mut().set_qr(true);
        message.header_mut().set_rcode(rcode);
        message.header_mut().set_ra(true);
        let mut message = message.question();
        message.push((name(asked), kind.rtype())).unwrap();
        let mut message = message.answer();
        for (owner, ttl, data) in rows {
            let (owner, ttl) = (name(owner), Ttl::from_secs(*ttl));
            match data {
                Four([a, b, c, d]) => message.push((owner, ttl, A::from_octets(*a, *b, *c, *d))).unwrap(),
                Alias(target) => message.push((owner, ttl, Cname::new(name(target)))).unwrap(),
                Exchange(preference, host) => message.push((owner, ttl, Mx::new(*preference, name(host)))).unwrap(),
                Text(text) => message.push((owner, ttl, Txt::<Vec<u8>>::build_from_slice(text.as_bytes()).unwrap())).unwrap(),
            }
        }
        let mut message = message.authority();
        if let Some(minimum) = soa {
            let data = Soa::new(name("ns.x"), name("root.x"), 1.into(), Ttl::HOUR, Ttl::HOUR, Ttl::HOUR, Ttl::from_secs(minimum));
            message.push((name("x"), Ttl::from_secs(3600), data)).unwrap();
        }
        message.finish()
    }

    fn found(records: Vec<Data>, ttl: u64) -> Reading {
        Reading::Answer(Answer { records, exists: true, authenticated: false, ttl: Duration::from_secs(ttl) })
    }

    #[test]
    fn answers() {
        let v4 = |last| Data::Address(IpAddr::from([192, 0, 2, last]));
        let none = |exists, ttl| {
            Reading::Answer(Answer { records: Vec::new(), exists, authenticated: false, ttl: Duration::from_secs(ttl) })
        };
        let rows: Vec<(&str, Vec<u8>, Kind, Reading)> = vec![
            (
                "one",
                answer("a.x", Kind::A, Rcode::NOERROR, &[("a.x", 60, Four([192, 0, 2, 1]))], None),
                Kind::A,
                found(vec![v4(1)], 60),
            ),
            (
                "case",
                answer("A.x", Kind::A, Rcode::NOERROR, &[("a.X", 60, Four([192, 0, 2, 1]))], None),
                Kind::A,
                found(vec![v4(1)], 60),
            ),
            (
                "alias",
                answer("a.x", Kind::A, Rcode::NOERROR, &[("a.x", 5, Alias("b.x")), ("b.x", 60, Four([192, 0, 2, 2]))], None),
                Kind::A,
                found(vec![v4(2)], 5),
            ),
            (
                "another name's record",
                answer("a.x", Kind::A, Rcode::NOERROR, &[("evil.x", 60, Four([192, 0, 2, 9]))], None),
                Kind::A,
                none(true, 60),
            ),
            (
                "alias alone",
                answer("a.x", Kind::A, Rcode::NOERROR, &[("a.x", 5, Alias("b.x"))], None),
                Kind::A,
                Reading::Alias { target: "b.x".into(), ttl: Duration::from_secs(5), authenticated: false },
            ),
            (
                "alias to nothing",
                answer("a.x", Kind::A, Rcode::NXDOMAIN, &[("a.x", 5, Alias("b.x"))], Some(30)),
                Kind::A,
                none(false, 5),
            ),
            (
                "a loop of aliases",
                answer("a.x", Kind::A, Rcode::NOERROR, &[("a.x", 5, Alias("b.x")), ("b.x", 5, Alias("a.x"))], None),
                Kind::A,
                Reading::Failed("a chain of aliases that is too long".into()),
            ),
            ("no such name", answer("a.x", Kind::Mx, Rcode::NXDOMAIN, &[], Some(30)), Kind::Mx, none(false, 30)),
            ("none of this kind", answer("a.x", Kind::Mx, Rcode::NOERROR, &[], Some(90)), Kind::Mx, none(true, 90)),
            (
                "nothing, from a server that looks up nothing",
                {
                    let mut octets = answer("a.x", Kind::Mx, Rcode::NOERROR, &[], None);
                    octets[3] &= !0x80;
                    octets
                },
                Kind::Mx,
                Reading::Failed("this name server looks up nothing for others".into()),
            ),
            ("failure", answer("a.x", Kind::Mx, Rcode::SERVFAIL, &[], None), Kind::Mx, Reading::Failed("SERVFAIL".into())),
            (
                "null MX",
                answer("a.x", Kind::Mx, Rcode::NOERROR, &[("a.x", 60, Exchange(0, "."))], None),
                Kind::Mx,
                found(vec![Data::Exchange(0, String::new())], 60),
            ),
            (
                "long life",
                answer("a.x", Kind::Txt, Rcode::NOERROR, &[("a.x", 9_999_999, Text("v=1"))], None),
                Kind::Txt,
                found(vec![Data::Text(b"v=1".to_vec())], 86_400),
            ),
        ];
        for (what, octets, kind, want) in rows {
            assert_eq!(read(&octets, ID, "a.x", kind), want, "{what}");
        }
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let good = answer("a.x", Kind::A, Rcode::NOERROR, &[("a.x", 60, Four([192, 0, 2, 1]))], None);
        assert_eq!(read(&good, ID + 1, "a.x", Kind::A), Reading::Foreign, "another id");
        assert_eq!(read(&good, ID, "b.x", Kind::A), Reading::Foreign, "another name");
        assert_eq!(read(&good, ID, "a.x", Kind::Mx), Reading::Foreign, "another kind");
        let mut query = good.clone();
        query[2] &= 0x7f;
        assert_eq!(read(&query, ID, "a.x", Kind::A), Reading::Foreign, "a query");
        let mut cut = good.clone();
        cut[2] |= 2;
        assert_eq!(read(&cut, ID, "a.x", Kind::A), Reading::Truncated);
        for length in 0..good.len() {
            assert_ne!(read(&good[..length], ID, "a.x", Kind::A), read(&good, ID, "a.x", Kind::A), "{length} octets");
        }
        assert_eq!(read(&super::query(ID, "a.x", Kind::A).unwrap(), ID, "a.x", Kind::A), Reading::Foreign, "an echo");
    }

    #[test]
    fn names() {
        for bad in ["", ".", "a b", "a\\.b", "\u{f6}.x", "a..b", &"a".repeat(64), &"a.".repeat(200)] {
            assert!(query(1, bad, Kind::A).is_none(), "{bad}");
        }
        assert!(query(1, "_dmarc.a-b.example.", Kind::Txt).is_some());
        assert_eq!(reverse_name(IpAddr::from([192, 0, 2, 7])), "7.2.0.192.in-addr.arpa");
        assert!(reverse_name("2001:db8::1".parse().unwrap()).starts_with("1.0.0.0.0"));
    }

    proptest::proptest! {
        /// Nothing that comes makes it loop or panic.
        #[test]
        fn any_octets(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..600), flip in 0_usize..80, value: u8) {
            read(&octets, ID, "a.x", Kind::Mx);
            let rows = [("a.x", 5, Alias("b.x")), ("b.x", 5, Exchange(1, "m.x")), ("b.x", 6, Exchange(2, "n.x"))];
            let mut good = answer("a.x", Kind::Mx, Rcode::NOERROR, &rows, Some(3));
            let at = flip % good.len();
            good[at] = value;
            read(&good, ID, "a.x", Kind::Mx);
        }
    }
}
