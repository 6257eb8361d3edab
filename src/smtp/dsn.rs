//! The words of delivery status notifications (RFC 3461): what a sender asks to be told, and how the words are written.
//!
//! Parsing is strict: what RFC 3461's grammar does not allow is no value. Every value prints as it stands in a command,
//! so what came in can be handed on.

use core::fmt::{self, Display, Write as _};

/// RET: how much of the message a failure report carries (RFC 3461 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// The whole message.
    Full,
    /// The header section alone.
    Headers,
}

/// NOTIFY: when the sender is told (RFC 3461 section 4.1). All false is NEVER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// After delivery.
    pub success: bool,
    /// After a failure.
    pub failure: bool,
    /// When it is late.
    pub delay: bool,
}

/// ORCPT: the recipient as the sender first named it (RFC 3461 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orcpt {
    /// The address type, `rfc822` or `utf-8` as a rule.
    pub kind: String,
    /// The address, decoded.
    pub address: String,
}

/// Octets of ENVID, encoded, at most (RFC 3461 section 4.4).
pub const ENVID_MAX: usize = 100;
/// The address type whose address may be UTF-8 (RFC 6533 section 3).
pub const UTF8: &str = "utf-8";
/// ASCII that does not stand for itself in an address of type `utf-8`.
const NEEDS_ESCAPE: [char; 4] = [' ', '+', '=', '\\'];
/// Octets of ORCPT, encoded, at most (RFC 3461 section 4.2).
pub const ORCPT_MAX: usize = 500;

impl Ret {
    /// Reads `FULL` or `HDRS`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            _ if text.eq_ignore_ascii_case("FULL") => Some(Self::Full),
            _ if text.eq_ignore_ascii_case("HDRS") => Some(Self::Headers),
            _ => None,
        }
    }
}

impl Notify {
    /// Reads `NEVER`, or a list of `SUCCESS`, `FAILURE`, `DELAY`, each once at most.
    pub fn parse(text: &str) -> Option<Self> {
        let mut notify = Self::default();
        if text.eq_ignore_ascii_case("NEVER") {
            return Some(notify);
        }
        for word in text.split(',') {
            let flag = match word {
                _ if word.eq_ignore_ascii_case("SUCCESS") => &mut notify.success,
                _ if word.eq_ignore_ascii_case("FAILURE") => &mut notify.failure,
                _ if word.eq_ignore_ascii_case("DELAY") => &mut notify.delay,
                _ => return None,
            };
            if core::mem::replace(flag, true) {
                return None;
            }
        }
        Some(notify)
    }
}

impl Orcpt {
    /// Reads `addr-type;xtext`, whose address is ASCII without controls; with the type `utf-8`, whose address may hold
    /// anything but controls, utf-8-addr-xtext or utf-8-addr-unitext (RFC 6533 section 3).
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, address) = text.split_once(';').filter(|_| text.len() <= ORCPT_MAX)?;
        let is_atom = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let kind = kind.to_ascii_lowercase();
        let address = if kind == UTF8 { decode_unitext(address) } else { decode_xtext(address) };
        let address = address.filter(|address| !address.is_empty())?;
        is_atom.then_some(Self { kind, address })
    }
}

/// Reads ENVID: xtext of at most 100 octets whose content is printable ASCII (RFC 3461 section 4.4).
pub fn parse_envid(text: &str) -> Option<String> {
    decode_xtext(text).filter(|id| !id.is_empty() && text.len() <= ENVID_MAX)
}

/// Decodes xtext (RFC 3461 section 4): printable ASCII but `+` and `=` stands for itself, `+XX` in upper-case hexadecimal
/// digits for an octet. What decodes to a control or no ASCII is refused.
pub fn decode_xtext(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let octet = match octet {
            b'+' => hex(octets.next()?)? << 4 | hex(octets.next()?)?,
            b'!'..=b'~' if octet != b'=' => octet,
            _ => return None,
        };
        if !(b' '..=b'~').contains(&octet) {
            return None;
        }
        decoded.push(char::from(octet));
    }
    Some(decoded)
}

/// Encodes as xtext (RFC 3461 section 4).
pub fn encode_xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'!'..=b'~' if octet != b'+' && octet != b'=' => encoded.push(char::from(octet)),
            _ => {
                let _ = write!(encoded, "+{octet:02X}");
            }
        }
    }
    encoded
}

/// Decodes utf-8-addr-unitext, which utf-8-addr-xtext is a part of (RFC 6533 section 3): `\x{HEX}`, two to six upper-case
/// hexadecimal digits, stands for a character that cannot stand for itself. Controls and surrogates are refused, and
/// numbers with zeros in front or of characters that need no such form.
pub fn decode_unitext(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let (digits, after) = rest.strip_prefix("x{")?.split_once('}')?;
                let upper = digits.bytes().all(|b| hex(b).is_some());
                if !upper || !(2..=6).contains(&digits.len()) || digits.starts_with('0') {
                    return None;
                }
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                if c.is_control() || (c.is_ascii() && !NEEDS_ESCAPE.contains(&c)) {
                    return None;
                }
                decoded.push(c);
                rest = after;
            }
            _ if c.is_control() || NEEDS_ESCAPE.contains(&c) => return None,
            _ => decoded.push(c),
        }
    }
    Some(decoded)
}

/// Encodes as utf-8-addr-xtext, which is ASCII (RFC 6533 section 3).
pub fn encode_utf8_xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() && !NEEDS_ESCAPE.contains(&c) {
            encoded.push(c);
        } else {
            let _ = write!(encoded, "\\x{{{:02X}}}", u32::from(c));
        }
    }
    encoded
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl Display for Ret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        })
    }
}

impl Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [("SUCCESS", self.success), ("FAILURE", self.failure), ("DELAY", self.delay)];
        let mut words = words.iter().filter(|(_, asked)| *asked).map(|(word, _)| *word);
        f.write_str(words.next().unwrap_or("NEVER"))?;
        words.try_for_each(|word| write!(f, ",{word}"))
    }
}

impl Display for Orcpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = if self.kind == UTF8 { encode_utf8_xtext(&self.address) } else { encode_xtext(&self.address) };
        write!(f, "{};{encoded}", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify() {
        let rows = [
            ("NEVER", Some("NEVER")),
            ("never", Some("NEVER")),
            ("SUCCESS", Some("SUCCESS")),
            ("delay,FAILURE", Some("FAILURE,DELAY")),
            ("SUCCESS,FAILURE,DELAY", Some("SUCCESS,FAILURE,DELAY")),
            ("NEVER,SUCCESS", None),
            ("SUCCESS,SUCCESS", None),
            ("SUCCESS,", None),
            ("", None),
            ("ALWAYS", None),
        ];
        for (text, want) in rows {
            assert_eq!(Notify::parse(text).map(|notify| notify.to_string()).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn xtext() {
        let rows = [
            ("QQ314159", Some("QQ314159")),
            ("a+2Bb+3Dc+20d", Some("a+b=c d")),
            ("a+2bb", None),
            ("a+2", None),
            ("a=b", None),
            ("a b", None),
            ("a+0A", None),
            ("a+7F", None),
            ("a+FF", None),
            ("ö", None),
        ];
        for (text, want) in rows {
            assert_eq!(decode_xtext(text).as_deref(), want, "{text}");
            if let Some(want) = want {
                assert_eq!(decode_xtext(&encode_xtext(want)).as_deref(), Some(want));
            }
        }
    }

    #[test]
    fn orcpt_and_envid() {
        let rows = [
            ("rfc822;Bob@ex.example", Some("rfc822;Bob@ex.example")),
            ("RFC822;Bob+2B1@ex.example", Some("rfc822;Bob+2B1@ex.example")),
            ("rfc822;", None),
            ("rfc822", None),
            (";a@b", None),
            ("rfc822;j\u{f6}rg@b.example", None),
            ("utf-8;j\u{f6}rg@b.example", Some("utf-8;j\\x{F6}rg@b.example")),
            ("UTF-8;j\\x{F6}rg@b.example", Some("utf-8;j\\x{F6}rg@b.example")),
            ("utf-8;a\\x{2B}b\\x{10FFFF}@b.example", Some("utf-8;a\\x{2B}b\\x{10FFFF}@b.example")),
            ("utf-8;a+2Bb@b.example", None),
            ("utf-8;a\\x{61}@b.example", None),
            ("utf-8;a\\x{f6}@b.example", None),
            ("utf-8;a\\x{0F6}@b.example", None),
            ("utf-8;a\\x{D800}@b.example", None),
            ("utf-8;a\\x{110000}@b.example", None),
            ("utf-8;a\\x{85}@b.example", None),
            ("utf-8;a\\x{F6@b.example", None),
            ("utf-8;a\\b@b.example", None),
            ("utf-8;", None),
            ("r c;a@b", None),
        ];
        for (text, want) in rows {
            assert_eq!(Orcpt::parse(text).map(|orcpt| orcpt.to_string()).as_deref(), want, "{text}");
        }
        assert!(Orcpt::parse(&format!("rfc822;{}", "a".repeat(493))).is_some());
        assert!(Orcpt::parse(&format!("rfc822;{}", "a".repeat(494))).is_none());
        assert!(parse_envid(&"a".repeat(100)).is_some() && parse_envid(&"a".repeat(101)).is_none());
    }
}
