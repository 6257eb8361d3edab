//! Mail addresses as SMTP commands carry them (RFC 5321 section 4.1.2, RFC 6531 section 3.3).
//!
//! Parsing has no partial success: a path is understood to its last octet or refused. What comes out is typed and
//! compared in one form: local parts unquoted, domains in lower case. Nothing is ever rewritten: `a%b@c` and `a!b@c`
//! are local parts with a `%` and a `!` in them, and mean no more than that.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::fmt;

/// Octets in a local part, at most (RFC 5321 section 4.5.3.1.1).
pub const LOCAL_PART_MAX: usize = 64;
/// Octets in a domain, at most (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_MAX: usize = 255;
/// Octets in a path with its angle brackets, at most (RFC 5321 section 4.5.3.1.3).
pub const PATH_MAX: usize = 256;

/// The argument of MAIL FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// An ordinary sender.
    Mailbox(Address),
    /// `<>`: a bounce or a notification, which must not be answered (RFC 5321 section 4.5.5).
    Null,
}

/// The argument of RCPT TO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// An ordinary recipient.
    Mailbox(Address),
    /// `<Postmaster>` without a domain (RFC 5321 section 4.1.1.3).
    Postmaster,
}

/// A mailbox: a local part at a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    local: String,
    domain: Domain,
}

/// The part after the `@`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// An address literal, with its brackets, in lower case.
    Literal(String),
    /// A domain name in lower case, without a final dot.
    Name(String),
}

/// Why a path was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// It does not follow the grammar, or is longer than the limits.
    Syntax,
    /// It holds UTF-8, and the transaction did not say SMTPUTF8 (RFC 6531 section 3.4).
    Utf8,
}

impl ReversePath {
    /// Reads a path with its angle brackets; `utf8` is true once MAIL has said SMTPUTF8.
    pub fn parse(text: &str, utf8: bool) -> Result<Self, AddressError> {
        match text {
            "<>" => Ok(Self::Null),
            _ => parse_path(text, utf8).map(Self::Mailbox),
        }
    }

    /// Reads a path as [`Self::parse`] does, and one whose local part has dots where RFC 5321 section 4.1.2 has none: `a..b@c`,
    /// `a.@c`. Telephone companies gave out such addresses by the million. From then on it is written as a quoted string.
    pub fn parse_with_any_dots(text: &str, utf8: bool) -> Result<Self, AddressError> {
        Self::parse(text, utf8).or_else(|error| {
            let inner = text.strip_prefix('<').and_then(|rest| rest.split_once('@')).ok_or(error)?;
            let (local, domain) = inner;
            let dots = local.contains('.') && local.chars().all(|c| c == '.' || is_atext(c, utf8));
            if dots { Self::parse(&format!("<\"{local}\"@{domain}"), utf8) } else { Err(error) }
        })
    }
}

impl ForwardPath {
    /// Reads a path with its angle brackets; `utf8` is true where MAIL has said SMTPUTF8.
    pub fn parse(text: &str, utf8: bool) -> Result<Self, AddressError> {
        if text.eq_ignore_ascii_case("<postmaster>") {
            return Ok(Self::Postmaster);
        }
        parse_path(text, utf8).map(Self::Mailbox)
    }
}

impl Address {
    /// Reads `local@domain` without angle brackets, UTF-8 allowed; for header fields and files. The final dot that a path
    /// may have is refused here: what is written is stored, shown and compared as it is, and a path is not.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.ends_with('.') { Err(AddressError::Syntax) } else { parse_mailbox(text, true) }
    }

    /// The local part without quotes, as it was written.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The form that is compared: the local part unquoted and in lower case, `@`, the domain in lower case.
    pub fn key(&self) -> String {
        [&self.local.to_lowercase(), "@", self.domain.as_str()].concat()
    }
}

impl Domain {
    /// The name, or the literal with its brackets.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Literal(text) | Self::Name(text) => text,
        }
    }

    /// True for a literal, and for a name with a dot in it (RFC 6409 section 6.1 wants no other).
    pub fn is_fully_qualified(&self) -> bool {
        match self {
            Self::Literal(_) => true,
            Self::Name(name) => name.contains('.'),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local, true) {
            f.write_str(&self.local)?;
            f.write_str("@")?;
            return f.write_str(self.domain.as_str());
        }
        f.write_str("\"")?;
        for c in self.local.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\"@{}", self.domain)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mailbox(address) => address.fmt(f),
            Self::Null => Ok(()),
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mailbox(address) => address.fmt(f),
            Self::Postmaster => f.write_str("postmaster"),
        }
    }
}

/// Where the path that `text` begins with ends: the octets up to and with its closing `>`, quoted strings respected.
pub fn path_len(text: &str) -> Option<usize> {
    end_of(text, '>').map(|at| at + 1)
}

/// Where the word that `text` begins with ends: the octets up to the first space, quoted strings respected.
pub fn word_len(text: &str) -> usize {
    end_of(text, ' ').unwrap_or(text.len())
}

/// Where `end` first stands outside quoted strings.
fn end_of(text: &str, end: char) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == end && !quoted => return Some(at),
            _ => {}
        }
        None
    })
}

/// True if `text` is a domain as RFC 5321 section 4.1.2 has it: labels of letters, digits and inner hyphens.
pub fn is_domain(text: &str, utf8: bool) -> bool {
    !text.is_empty() && text.len() <= DOMAIN_MAX && text.split('.').all(|label| is_label(label, utf8))
}

/// True if mail can be sent to a domain of this name: two labels at least, 253 octets at most (RFC 1035 section 2.3.4,
/// without the length octets of the first and the root label), the last label not of digits alone, which would be an
/// address (RFC 3696 section 2). The labels themselves are held to [`is_domain`]'s rules when an address is read.
pub fn is_mail_domain(name: &str) -> bool {
    let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    name.len() <= 253
        && is_written_domain(name, true)
        && !name.ends_with('.')
        && name.rsplit_once('.').is_some_and(|(_, last)| !is_number(last))
}

/// True if `text` is an address literal in its brackets (RFC 5321 section 4.1.3).
pub fn is_literal(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return false;
    };
    if text.len() > DOMAIN_MAX {
        return false;
    }
    match inner.split_once(':') {
        None => inner.parse::<Ipv4Addr>().is_ok(),
        Some((tag, rest)) if tag.eq_ignore_ascii_case("IPv6") => rest.parse::<Ipv6Addr>().is_ok(),
        Some((tag, rest)) => is_label(tag, false) && !rest.is_empty() && rest.bytes().all(|b| matches!(b, 33..=90 | 94..=126)),
    }
}

fn parse_path(text: &str, utf8: bool) -> Result<Address, AddressError> {
    let inner = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).ok_or(AddressError::Syntax)?;
    if text.len() > PATH_MAX {
        return Err(AddressError::Syntax);
    }
    parse_mailbox(skip_source_route(inner, utf8)?, utf8)
}

/// `@a,@b:user@c` means `user@c`: routes are read and ignored (RFC 5321 appendix C).
fn skip_source_route(text: &str, utf8: bool) -> Result<&str, AddressError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let (route, mailbox) = text.split_once(':').ok_or(AddressError::Syntax)?;
    let known = route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(|name| is_domain(name, utf8)));
    if known { Ok(mailbox) } else { Err(AddressError::Syntax) }
}

fn parse_mailbox(text: &str, utf8: bool) -> Result<Address, AddressError> {
    if !utf8 && !text.is_ascii() {
        return Err(AddressError::Utf8);
    }
    let (local, rest) = match text.strip_prefix('"') {
        Some(quoted) => parse_quoted(quoted)?,
        None => {
            let at = text.find('@').ok_or(AddressError::Syntax)?;
            let local = &text[..at];
            if !is_dot_string(local, utf8) {
                return Err(AddressError::Syntax);
            }
            (local.to_owned(), &text[at..])
        }
    };
    let domain = rest.strip_prefix('@').ok_or(AddressError::Syntax)?;
    if local.len() > LOCAL_PART_MAX {
        return Err(AddressError::Syntax);
    }
    let domain = if is_literal(domain) {
        Domain::Literal(domain.to_ascii_lowercase())
    } else if is_written_domain(domain, utf8) {
        // In lower case a name can be longer: what is kept must be a domain as well.
        let name = domain.strip_suffix('.').unwrap_or(domain).to_lowercase();
        if !name.is_ascii() && !is_written_domain(&name, utf8) {
            return Err(AddressError::Syntax);
        }
        Domain::Name(name)
    } else {
        return Err(AddressError::Syntax);
    };
    Ok(Address { local, domain })
}

/// True for a domain as real addresses have it: with underscores, which DNS allows, or with the root's final dot.
fn is_written_domain(text: &str, utf8: bool) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| label == "_" || label.split('_').all(|part| part.is_empty() || is_label(part, utf8));
    name.len() <= DOMAIN_MAX && name.split('.').all(|text| !text.is_empty() && text.len() <= 63 && label(text))
}

/// Reads a Quoted-string after its opening quote; gives its content and what follows the closing quote.
fn parse_quoted(text: &str) -> Result<(String, &str), AddressError> {
    let mut local = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((local, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, escaped @ ' '..='~')) => local.push(escaped),
                _ => return Err(AddressError::Syntax),
            },
            ' '..='~' => local.push(c),
            c if !c.is_ascii() && !c.is_control() => local.push(c),
            _ => return Err(AddressError::Syntax),
        }
    }
    Err(AddressError::Syntax)
}

fn is_dot_string(text: &str, utf8: bool) -> bool {
    !text.is_empty() && text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(|c| is_atext(c, utf8)))
}

/// atext of RFC 5322 section 3.2.3, and what RFC 6531 section 3.3 adds to it.
fn is_atext(c: char, utf8: bool) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (utf8 && !c.is_ascii() && !c.is_control())
}

fn is_label(label: &str, utf8: bool) -> bool {
    let inner =
        |c: char| c.is_ascii_alphanumeric() || c == '-' || (utf8 && !c.is_ascii() && !c.is_control() && !c.is_whitespace());
    !label.is_empty() && label.len() <= 63 && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str, utf8: bool) -> Result<String, AddressError> {
        parse_path(path, utf8).map(|address| address.key())
    }

    #[test]
    fn paths_that_are_understood() {
        let rows = [
            ("<a@b.example>", "a@b.example"),
            ("<A.B@B.Example>", "a.b@b.example"),
            ("<!#$%&'*+-/=?^_`{|}~@x.example>", "!#$%&'*+-/=?^_`{|}~@x.example"),
            // A quoted form means what it means unquoted.
            ("<\"a\"@b.example>", "a@b.example"),
            ("<\"a\\b\"@b.example>", "ab@b.example"),
            ("<\"a b>c@d\"@b.example>", "a b>c@d@b.example"),
            ("<\"\\\"\"@b.example>", "\"@b.example"),
            ("<\"\"@b.example>", "@b.example"),
            // Source routes are read and ignored.
            ("<@x.example,@y.example:a@b.example>", "a@b.example"),
            // Tricks are nothing but characters.
            ("<a%evil.example@b.example>", "a%evil.example@b.example"),
            ("<evil.example!a@b.example>", "evil.example!a@b.example"),
            ("<\"a@evil.example\"@b.example>", "a@evil.example@b.example"),
            ("<a@[127.0.0.1]>", "a@[127.0.0.1]"),
            ("<a@[IPv6:2001:DB8::1]>", "a@[ipv6:2001:db8::1]"),
            ("<a@[x-tag:content]>", "a@[x-tag:content]"),
            ("<a@localhost>", "a@localhost"),
            // Not RFC 5321's, and common.
            ("<a@b_c.example>", "a@b_c.example"),
            ("<a@_b.c_.example>", "a@_b.c_.example"),
            ("<a@B.example.>", "a@b.example"),
        ];
        for (path, want) in rows {
            assert_eq!(key(path, false).as_deref(), Ok(want), "{path}");
        }
    }

    #[test]
    fn paths_that_are_not() {
        let long_local = format!("<{}@b.example>", "a".repeat(65));
        let long_domain = format!("<a@{}example>", "abcdefghi.".repeat(25));
        let long_label = format!("<a@{}.example>", "a".repeat(64));
        let rows = [
            "",
            "<",
            "a@b.example",
            "<a@b.example",
            "a@b.example>",
            "<a>",
            "<@b.example>",
            "<a@>",
            "<a@@b.example>",
            "<a@b@c.example>",
            "<.a@b.example>",
            "<a.@b.example>",
            "<a..b@b.example>",
            "<a b@c.example>",
            "<a@-b.example>",
            "<a@b-.example>",
            "<a@b..example>",
            "<a@.example>",
            "<a@b.example..>",
            "<a@.>",
            "<a@[1.2.3]>",
            "<a@[1.2.3.4>",
            "<a@1.2.3.4]>",
            "<a@[IPv6:1::2::3]>",
            "<a@[]>",
            "<a@[ ]>",
            "<\"a@b.example>",
            "<\"a\"b@c.example>",
            "<\"a\"\"b\"@c.example>",
            "<\"a\\\"@c.example>",
            "<a\\b@c.example>",
            "<(c)a@b.example>",
            "<a@b.example>>",
            "<<a@b.example>",
            "<@x.example:>",
            "<@x.example a@b.example>",
            "<@:a@b.example>",
            "<,@x.example:a@b.example>",
            "<a@b.example\0>",
            "<a\0@b.example>",
            "<\"a\tb\"@c.example>",
            "<\"a\nb\"@c.example>",
            "<a@b.ex ample>",
            "< a@b.example>",
            "<postmaster>",
            &long_local,
            &long_domain,
            &long_label,
        ];
        for path in rows {
            assert_eq!(key(path, true), Err(AddressError::Syntax), "{path}");
        }
    }

    #[test]
    fn a_final_dot_is_read_in_paths_alone() {
        assert_eq!(key("<alice@example.org.>", false).as_deref(), Ok("alice@example.org"));
        for text in ["alice@example.org.", "\"alice\"@example.org.", "x@y."] {
            assert_eq!(Address::parse(text), Err(AddressError::Syntax), "{text}");
        }
        assert!(Address::parse("alice@example_.org").is_ok());
    }

    #[test]
    fn utf8_only_where_it_was_announced() {
        assert_eq!(key("<jörg@bücher.example>", true).as_deref(), Ok("jörg@bücher.example"));
        assert_eq!(key("<JÖRG@b.example>", true).as_deref(), Ok("jörg@b.example"));
        assert_eq!(key("<jörg@b.example>", false), Err(AddressError::Utf8));
        assert_eq!(key("<a@bücher.example>", false), Err(AddressError::Utf8));
        assert_eq!(key("<\"ö\"@b.example>", false), Err(AddressError::Utf8));
        assert_eq!(key("<a\u{85}@b.example>", true), Err(AddressError::Syntax));
    }

    #[test]
    fn limits_are_exact() {
        assert!(key(&format!("<{}@b.example>", "a".repeat(64)), false).is_ok());
        let path = |n: usize| format!("<a@{}>", "b.".repeat(n) + "c");
        assert!(path(125).len() < PATH_MAX && key(&path(125), false).is_ok());
        assert!(path(126).len() > PATH_MAX && key(&path(126), false).is_err());
    }

    #[test]
    fn special_paths() {
        assert_eq!(ReversePath::parse("<>", false), Ok(ReversePath::Null));
        assert_eq!(ForwardPath::parse("<>", false), Err(AddressError::Syntax));
        assert_eq!(ForwardPath::parse("<PostMaster>", false), Ok(ForwardPath::Postmaster));
        assert_eq!(ReversePath::parse("<postmaster>", false), Err(AddressError::Syntax));
    }

    #[test]
    fn dots_of_a_sender_may_stand_anywhere() {
        for (text, want) in [
            ("<a..b@c.example>", "\"a..b\"@c.example"),
            ("<a.@c.example>", "\"a.\"@c.example"),
            ("<...@c.example>", "\"...\"@c.example"),
            ("<a.b@c.example>", "a.b@c.example"),
            ("<\"a b\"@c.example>", "\"a b\"@c.example"),
        ] {
            let path = ReversePath::parse_with_any_dots(text, false).unwrap();
            assert_eq!(path.to_string(), want);
            assert_eq!(ReversePath::parse(&format!("<{path}>"), false), Ok(path), "it can be read again");
        }
        for text in [
            "<a..b c@c.example>",
            "<a..b@>",
            "<a..b@c@d.example>",
            "<a..(b)@c.example>",
            "<\"a..b@c.example>",
            "a..b@c.example",
            "<@x:a..b@c>",
        ] {
            assert_eq!(ReversePath::parse_with_any_dots(text, false), Err(AddressError::Syntax), "{text}");
        }
        assert_eq!(ReversePath::parse_with_any_dots("<\u{f6}..b@c.example>", false), Err(AddressError::Utf8));
        let long = format!("<{}..@c.example>", "a".repeat(63));
        assert_eq!(ReversePath::parse_with_any_dots(&long, false), Err(AddressError::Syntax));
    }

    #[test]
    fn display_quotes_what_needs_it() {
        for path in ["<a@b.example>", "<\"a b\"@b.example>", "<\"a\\\"b\\\\\"@b.example>", "<\"\"@b.example>"] {
            assert_eq!(format!("<{}>", parse_path(path, false).unwrap()), path);
        }
    }

    #[test]
    fn a_path_ends_at_its_own_bracket() {
        for (text, want) in [("<a@b> SIZE=1", Some(5)), ("<\"a>b\"@c>X", Some(9)), ("<\"a\\\">b", None), ("<a", None)] {
            assert_eq!(path_len(text), want, "{text}");
        }
    }

    /// U+0130 is two octets, and three in lower case: a label of 62 octets becomes one of 93.
    #[test]
    fn what_is_too_long_in_lower_case_is_no_domain() {
        let long = format!("x@{}.example", "\u{130}".repeat(31));
        assert!(ReversePath::parse(&format!("<{long}>"), true).is_err());
        let short = ReversePath::parse(&format!("<x@{}.example>", "\u{130}".repeat(20)), true).unwrap();
        assert!(Address::parse(&short.to_string()).is_ok(), "what is taken can be read again");
    }
}
