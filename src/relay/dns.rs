//! DNS messages (RFC 1035): one question out, one answer in. Pure: octets in, octets out; sockets are the resolver's.
//!
//! An answer counts only if its id, its question and its flags are those that were asked for. Whatever it holds, reading it
//! ends: a chain of aliases is followed for [`ALIASES_MAX`] steps, names are bounded by the format, records by the message.
//! What is read is kept as little as the message allows: only the records of the name at the end of the chain, each name
//! in [`NAME_MAX`] octets.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::time::Duration;

use domain::base::iana::{Class, OptRcode};
use domain::base::record::ParsedRecord;
use domain::base::{Message, MessageBuilder, Name, ParsedName, Rtype, ToName as _};
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
        /// Steps of the chain to it, one at least.
        steps: usize,
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
    /// The server does not understand the question (FORMERR, NOTIMP): it may do so without EDNS (RFC 6891 section 7). The
    /// response code's word.
    NotUnderstood(String),
    /// Cut: to be asked for again over TCP.
    Truncated,
}

/// Steps of a chain of aliases, at most.
pub const ALIASES_MAX: usize = 8;
/// Octets of an answer over UDP that we are ready for (the size that DNS Flag Day 2020 settled on).
pub const UDP_SIZE: u16 = 1232;
/// What is said of an answer that cannot be read.
pub const MALFORMED: &str = "malformed answer";
/// What is said of one that leads on and on.
const TOO_LONG: &str = "a chain of aliases that is too long";
/// The longest time for which an answer is kept.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Octets of a name's text, at most: one more than a host's name may have, so that what is cut is none.
pub const NAME_MAX: usize = 254;
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

/// A query with recursion and the AD bit asked for, with EDNS (RFC 6891) or without; `None` if `name` is no domain name.
pub fn query(id: u16, name: &str, kind: Kind, edns: bool) -> Option<Vec<u8>> {
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
    if edns {
        message.opt(opt).ok()?;
    }
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

/// Reads a message that may be the answer to [`query`] with the same arguments; `aliases` is how many steps of a chain may be
/// followed.
pub fn read(octets: &[u8], id: u16, name: &str, kind: Kind, aliases: usize) -> Reading {
    read_message(octets, id, name, kind, aliases).unwrap_or(Reading::Foreign)
}

fn read_message(octets: &[u8], id: u16, name: &str, kind: Kind, aliases: usize) -> Option<Reading> {
    let message = Message::from_octets(octets).ok()?;
    let header = message.header();
    if header.id() != id || !header.qr() {
        return None;
    }
    let code = message.opt_rcode();
    let not_understood = matches!(code, OptRcode::FORMERR | OptRcode::NOTIMP);
    // One that reads no further than the header answers with that alone.
    if not_understood && message.header_counts().qdcount() == 0 {
        return Some(Reading::NotUnderstood(code.to_string()));
    }
    let question = message.sole_question().ok()?;
    let asked = parse_name(name)?;
    if question.qtype() != kind.rtype() || question.qclass() != Class::IN || *question.qname() != asked {
        return None;
    }
    if header.tc() {
        return Some(Reading::Truncated);
    }
    let exists = match code {
        OptRcode::NOERROR => true,
        OptRcode::NXDOMAIN => false,
        _ if not_understood => return Some(Reading::NotUnderstood(code.to_string())),
        other => return Some(Reading::Failed(other.to_string())),
    };
    let read = Chain::follow(&message, asked, aliases).and_then(|chain| {
        let (records, ttl) = records_of(&message, &chain.end, kind)?;
        Ok(conclude(&message, exists, chain, records, ttl))
    });
    Some(read.unwrap_or_else(|bad| Reading::Failed(bad.to_owned())))
}

/// What a message says in which the chain of aliases ends at a name with these records.
fn conclude(message: &Message<&[u8]>, exists: bool, chain: Chain, records: Vec<Data>, ttl: Option<u32>) -> Reading {
    let header = message.header();
    let (authenticated, mut ttl) = (header.ad(), least(chain.ttl, ttl));
    let lasts = |seconds: Option<u32>| Duration::from_secs(u64::from(seconds.unwrap_or(0))).min(TTL_MAX);
    if records.is_empty() {
        let negative = negative_ttl(message);
        // No word of the alias's target: the resolver has not looked.
        if exists && negative.is_none() && chain.steps > 0 {
            return Reading::Alias { target: text_of(&chain.end), steps: chain.steps, ttl: lasts(ttl), authenticated };
        }
        // An authority knows and a resolver has looked; anything else that has nothing says nothing.
        if negative.is_none() && !header.ra() && !header.aa() {
            return Reading::Failed("this name server looks up nothing for others".to_owned());
        }
        ttl = least(ttl, Some(negative.unwrap_or(NEGATIVE_TTL)));
    } else if !exists {
        return Reading::Failed("records of a name that it says does not exist".to_owned());
    }
    Reading::Answer(Answer { records, exists, authenticated, ttl: lasts(ttl) })
}

/// Aliases from the name that was asked for to another.
struct Chain {
    end: Name<Vec<u8>>,
    steps: usize,
    /// The least of all.
    ttl: Option<u32>,
}

/// Where an alias leads, and its time to live.
type Link = (Name<Vec<u8>>, u32);

impl Chain {
    /// Follows the aliases of a message from `asked`, for so many steps at most. A pass over the message for each: nothing is
    /// built that grows with it.
    fn follow(message: &Message<&[u8]>, asked: Name<Vec<u8>>, aliases: usize) -> Result<Self, &'static str> {
        let mut chain = Self { end: asked, steps: 0, ttl: None };
        while let Some((target, ttl)) = chain.next(message)? {
            if chain.steps == aliases {
                return Err(TOO_LONG);
            }
            chain = Self { end: target, steps: chain.steps + 1, ttl: least(chain.ttl, Some(ttl)) };
        }
        Ok(chain)
    }

    fn next(&self, message: &Message<&[u8]>) -> Result<Option<Link>, &'static str> {
        for record in message.answer().map_err(|_| MALFORMED)? {
            let record = record.map_err(|_| MALFORMED)?;
            if record.rtype() == Rtype::CNAME && record.class() == Class::IN && record.owner() == self.end {
                let alias = record.to_record::<Cname<ParsedName<&[u8]>>>().ok().flatten().ok_or(MALFORMED)?;
                return Ok(Some((alias.data().cname().to_vec(), record.ttl().as_secs())));
            }
        }
        Ok(None)
    }
}

/// The records of a name, and the least of their times to live.
fn records_of(message: &Message<&[u8]>, owner: &Name<Vec<u8>>, kind: Kind) -> Result<(Vec<Data>, Option<u32>), &'static str> {
    let (mut records, mut ttl) = (Vec::new(), None);
    for record in message.answer().map_err(|_| MALFORMED)? {
        let record = record.map_err(|_| MALFORMED)?;
        if record.rtype() == kind.rtype() && record.class() == Class::IN && record.owner() == *owner {
            records.push(Data::of(&record, kind).ok_or(MALFORMED)?);
            ttl = least(ttl, Some(record.ttl().as_secs()));
        }
    }
    Ok((records, ttl))
}

fn least(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    one.into_iter().chain(other).min()
}

impl Data {
    fn of(record: &ParsedRecord<'_, &[u8]>, kind: Kind) -> Option<Self> {
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

/// A name in lower case without its final dot; empty for the root. One with escapes is no host's name, and may be cut: it is
/// none afterwards either.
fn text_of(name: &impl std::fmt::Display) -> String {
    let mut text = name.to_string().trim_end_matches('.').to_ascii_lowercase();
    text.truncate(NAME_MAX);
    text.shrink_to_fit();
    text
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
                "a record of another class",
                {
                    let mut octets = answer("a.x", Kind::A, Rcode::NOERROR, &[("a.x", 60, Four([192, 0, 2, 9]))], None);
                    // The class of the record, after the question and the record's name and kind.
                    let class = octets.len() - 4 - 2 - 4 - 1;
                    octets[class] = 3;
                    octets
                },
                Kind::A,
                none(true, 60),
            ),
            (
                "alias alone",
                answer("a.x", Kind::A, Rcode::NOERROR, &[("a.x", 5, Alias("b.x"))], None),
                Kind::A,
                Reading::Alias { target: "b.x".into(), steps: 1, ttl: Duration::from_secs(5), authenticated: false },
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
                "no for as long as the SOA lives",
                answer("a.x", Kind::Mx, Rcode::NXDOMAIN, &[], Some(9999)),
                Kind::Mx,
                none(false, 3600),
            ),
            ("no, without an SOA", answer("a.x", Kind::Mx, Rcode::NXDOMAIN, &[], None), Kind::Mx, none(false, 60)),
            (
                "records of what does not exist",
                answer("a.x", Kind::A, Rcode::NXDOMAIN, &[("a.x", 60, Four([192, 0, 2, 1]))], None),
                Kind::A,
                Reading::Failed("records of a name that it says does not exist".into()),
            ),
            (
                "no, from a server that looks up nothing",
                {
                    let mut octets = answer("a.x", Kind::Mx, Rcode::NXDOMAIN, &[], None);
                    octets[3] &= !0x80;
                    octets
                },
                Kind::Mx,
                Reading::Failed("this name server looks up nothing for others".into()),
            ),
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
            assert_eq!(read(&octets, ID, "a.x", kind, ALIASES_MAX), want, "{what}");
        }
    }

    /// A chain in one message, from `a0.x` to `a{length}.x`, which has an address.
    fn chain(length: usize) -> Vec<u8> {
        let names: Vec<String> = (0..=length).map(|number| format!("a{number}.x")).collect();
        let link = |at: usize| (names[at].as_str(), if at == 1 { 40 } else { 50 }, Alias(&names[at + 1]));
        let mut rows: Vec<Row<'_>> = (0..length).rev().map(link).collect();
        rows.push((&names[length], 60, Four([192, 0, 2, 1])));
        // Of no concern, whatever it says.
        rows.push(("other.x", 1, Four([192, 0, 2, 9])));
        rows.push(("other.x", 1, Alias("a0.x")));
        answer("a0.x", Kind::A, Rcode::NOERROR, &rows, None)
    }

    /// Eight aliases and no more, in whatever order they stand; the least time to live of those that lead there counts.
    #[test]
    fn chains_of_aliases() {
        let v4 = vec![Data::Address(IpAddr::from([192, 0, 2, 1]))];
        assert_eq!(read(&chain(0), ID, "a0.x", Kind::A, ALIASES_MAX), found(v4.clone(), 60));
        assert_eq!(read(&chain(3), ID, "a0.x", Kind::A, ALIASES_MAX), found(v4.clone(), 40));
        assert_eq!(read(&chain(8), ID, "a0.x", Kind::A, ALIASES_MAX), found(v4.clone(), 40));
        assert_eq!(read(&chain(9), ID, "a0.x", Kind::A, ALIASES_MAX), Reading::Failed(TOO_LONG.into()));
        assert_eq!(read(&chain(0), ID, "a0.x", Kind::A, 0), found(v4, 60));
        assert_eq!(read(&chain(1), ID, "a0.x", Kind::A, 0), Reading::Failed(TOO_LONG.into()));
    }

    /// As many records as a message has room for, names that are 1,000 characters as text: what is read stays small.
    #[test]
    fn the_longest_answers() {
        let mut long = vec![3, b'a', 0, b'b'];
        [63, 63, 63, 54].into_iter().for_each(|length| {
            long.push(length);
            long.extend(std::iter::repeat_n(1, usize::from(length)));
        });
        long.push(0);
        let message = |asked: u8, kind: u8, data: &[u8]| {
            let mut octets = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 1, b'x', 0, 0, asked, 0, 1];
            // The long name stands in a record of another kind; the others point to it.
            octets.extend([0xc0, 12, 0, 99, 0, 1, 0, 0, 0, 60, 0, long.len() as u8]);
            let at = octets.len() as u16;
            octets.extend(&long);
            let mut count = 1_u16;
            while octets.len() + 32 < 65_535 {
                octets.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8 + 2]);
                octets.extend(data);
                octets.extend((at | 0xc000).to_be_bytes());
                count += 1;
            }
            octets[6..8].copy_from_slice(&count.to_be_bytes());
            (octets, usize::from(count) - 1)
        };
        let (octets, count) = message(15, 15, &[0, 10]);
        let Reading::Answer(answer) = read(&octets, ID, "a.x", Kind::Mx, ALIASES_MAX) else { panic!("{count} records") };
        assert!(count > 4000 && answer.records.len() == count);
        for record in &answer.records {
            let Data::Exchange(10, host) = record else { panic!("{record:?}") };
            // It was cut, and has become no host's name by it.
            assert!(host.len() <= NAME_MAX && host.capacity() <= NAME_MAX && query(ID, host, Kind::A, true).is_none(), "{host}");
        }
        let (octets, count) = message(1, 5, &[]);
        let reading = read(&octets, ID, "a.x", Kind::A, ALIASES_MAX);
        assert!(count > 4000 && matches!(&reading, Reading::Alias { target, .. } if target.len() <= NAME_MAX), "{reading:?}");
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let good = answer("a.x", Kind::A, Rcode::NOERROR, &[("a.x", 60, Four([192, 0, 2, 1]))], None);
        assert_eq!(read(&good, ID + 1, "a.x", Kind::A, ALIASES_MAX), Reading::Foreign, "another id");
        assert_eq!(read(&good, ID, "b.x", Kind::A, ALIASES_MAX), Reading::Foreign, "another name");
        assert_eq!(read(&good, ID, "a.x", Kind::Mx, ALIASES_MAX), Reading::Foreign, "another kind");
        let mut query = good.clone();
        query[2] &= 0x7f;
        assert_eq!(read(&query, ID, "a.x", Kind::A, ALIASES_MAX), Reading::Foreign, "a query");
        let mut cut = good.clone();
        cut[2] |= 2;
        assert_eq!(read(&cut, ID, "a.x", Kind::A, ALIASES_MAX), Reading::Truncated);
        for length in 0..good.len() {
            assert_ne!(
                read(&good[..length], ID, "a.x", Kind::A, ALIASES_MAX),
                read(&good, ID, "a.x", Kind::A, ALIASES_MAX),
                "{length} octets"
            );
        }
        assert_eq!(
            read(&super::query(ID, "a.x", Kind::A, true).unwrap(), ID, "a.x", Kind::A, ALIASES_MAX),
            Reading::Foreign,
            "an echo"
        );
    }

    /// A name server that is to look things up, and to say whether they are authentic (RFC 6840 section 5.7).
    #[test]
    fn what_is_asked() {
        for edns in [true, false] {
            let octets = super::query(ID, "a.x", Kind::Mx, edns).unwrap();
            let message = Message::from_octets(&octets[..]).unwrap();
            let header = message.header();
            assert_eq!((header.id(), header.rd(), header.ad(), header.qr(), header.tc()), (ID, true, true, false, false));
            let question = message.sole_question().unwrap();
            assert_eq!((question.qtype(), question.qclass(), *question.qname() == name("a.x")), (Rtype::MX, Class::IN, true));
            assert_eq!(message.opt().map(|opt| opt.udp_payload_size()), edns.then_some(1232));
        }
    }

    #[test]
    fn names() {
        for bad in ["", ".", "a b", "a\\.b", "\u{f6}.x", "a..b", &"a".repeat(64), &"a.".repeat(200)] {
            assert!(query(1, bad, Kind::A, true).is_none(), "{bad}");
        }
        assert!(query(1, "_dmarc.a-b.example.", Kind::Txt, true).is_some());
        assert_eq!(reverse_name(IpAddr::from([192, 0, 2, 7])), "7.2.0.192.in-addr.arpa");
        assert!(reverse_name("2001:db8::1".parse().unwrap()).starts_with("1.0.0.0.0"));
    }

    proptest::proptest! {
        /// Nothing that comes makes it loop or panic.
        #[test]
        fn any_octets(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..600), flip in 0_usize..80, value: u8) {
            read(&octets, ID, "a.x", Kind::Mx, ALIASES_MAX);
            let rows = [("a.x", 5, Alias("b.x")), ("b.x", 5, Exchange(1, "m.x")), ("b.x", 6, Exchange(2, "n.x"))];
            let mut good = answer("a.x", Kind::Mx, Rcode::NOERROR, &rows, Some(3));
            let at = flip % good.len();
            good[at] = value;
            read(&good, ID, "a.x", Kind::Mx, ALIASES_MAX);
        }
    }
}
