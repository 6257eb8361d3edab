//! The envelope of a queued message, as it stands at the top of its file.
//!
//! One line each for the sender and for every recipient. Addresses and values are written as printable ASCII without spaces,
//! `+XX` for every other octet, so that nothing that a client sent ends a line or begins a word. Reading accepts what is
//! written and nothing else.

use std::fmt::Write as _;

use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::Body;
use crate::smtp::dsn::{Notify, Orcpt, Ret};

/// What is known of a queued message beside its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The sender.
    pub reverse_path: ReversePath,
    /// The login that it came by; empty for reports of this server.
    pub login: String,
    /// The session that it came by.
    pub session: String,
    /// BODY of MAIL.
    pub body: Option<Body>,
    /// MAIL said SMTPUTF8.
    pub utf8: bool,
    /// RET of MAIL.
    pub ret: Option<Ret>,
    /// ENVID of MAIL, decoded.
    pub envid: Option<String>,
    /// The recipients; their numbers are their places here. At least one, at most 65,535.
    pub recipients: Vec<QueuedRecipient>,
}

/// A recipient of a queued message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedRecipient {
    /// The address.
    pub address: Address,
    /// NOTIFY of RCPT.
    pub notify: Option<Notify>,
    /// ORCPT of RCPT.
    pub orcpt: Option<Orcpt>,
}

const FROM: &str = "Pillarbox-From:";
const TO: &str = "Pillarbox-To:";

impl Envelope {
    /// Its lines.
    pub fn render(&self) -> String {
        let mut text = format!("{FROM} <{}>", escape(&self.reverse_path.to_string()));
        let mut key = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                let _ = write!(text, " {name}={value}");
            }
        };
        key("login", Some(escape(&self.login)));
        key("session", Some(escape(&self.session)));
        let body = self.body.map(|body| match body {
            Body::EightBitMime => "8bitmime".to_owned(),
            Body::SevenBit => "7bit".to_owned(),
        });
        key("body", body);
        key("utf8", self.utf8.then(|| "yes".to_owned()));
        key("ret", self.ret.map(|ret| ret.to_string().to_lowercase()));
        key("envid", self.envid.as_deref().map(escape));
        text.push('\n');
        for recipient in &self.recipients {
            let _ = write!(text, "{TO} <{}>", escape(&recipient.address.to_string()));
            if let Some(notify) = recipient.notify {
                let _ = write!(text, " notify={}", notify.to_string().to_lowercase());
            }
            if let Some(Orcpt { kind, address }) = &recipient.orcpt {
                let _ = write!(text, " orcpt={};{}", escape(kind), escape(address));
            }
            text.push('\n');
        }
        text
    }

    /// Reads what [`Self::render`] writes; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.strip_suffix('\n').ok_or("no end of line after the envelope")?.split('\n');
        let mut words = Words::new(lines.next().unwrap_or_default(), FROM)?;
        let reverse_path = match words.path()?.as_str() {
            "" => ReversePath::Null,
            address => ReversePath::Mailbox(mailbox(address)?),
        };
        let mut envelope = Self {
            reverse_path,
            login: words.key("login").ok_or("no login=")?,
            session: words.key("session").ok_or("no session=")?,
            body: words.parsed("body", |body| match body {
                "8bitmime" => Some(Body::EightBitMime),
                "7bit" => Some(Body::SevenBit),
                _ => None,
            })?,
            utf8: words.parsed("utf8", |yes| (yes == "yes").then_some(()))?.is_some(),
            ret: words.parsed("ret", Ret::parse)?,
            envid: words.key("envid"),
            recipients: Vec::new(),
        };
        words.end()?;
        for line in lines {
            let mut words = Words::new(line, TO)?;
            let address = mailbox(&words.path()?)?;
            let notify = words.parsed("notify", Notify::parse)?;
            let orcpt = words.raw("orcpt").map(|value| {
                let (kind, address) = value.split_once(';')?;
                Some(Orcpt { kind: unescape(kind)?, address: unescape(address)? })
            });
            let orcpt = orcpt.map(|orcpt| orcpt.ok_or("orcpt= cannot be read")).transpose()?;
            words.end()?;
            envelope.recipients.push(QueuedRecipient { address, notify, orcpt });
        }
        match envelope.recipients.len() {
            0 => Err("no recipient".into()),
            count if u16::try_from(count).is_err() => Err(format!("{count} recipients")),
            _ => Ok(envelope),
        }
    }
}

fn mailbox(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|_| format!("{text:?} is no address"))
}

/// The words of a line, each taken once and in their order.
struct Words<'a> {
    rest: std::iter::Peekable<std::str::Split<'a, char>>,
    line: &'a str,
}

impl<'a> Words<'a> {
    fn new(line: &'a str, name: &str) -> Result<Self, String> {
        let rest =
            line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')).ok_or_else(|| format!("no {name} in {line:?}"))?;
        Ok(Self { rest: rest.split(' ').peekable(), line })
    }

    fn path(&mut self) -> Result<String, String> {
        let word = self.rest.next().and_then(|word| word.strip_prefix('<')).and_then(|word| word.strip_suffix('>'));
        word.and_then(unescape).ok_or_else(|| format!("no address in {:?}", self.line))
    }

    fn raw(&mut self, name: &str) -> Option<&'a str> {
        let is_it = |word: &&str| word.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        self.rest.next_if(is_it).map(|word| &word[name.len() + 1..])
    }

    fn key(&mut self, name: &str) -> Option<String> {
        self.raw(name).and_then(unescape)
    }

    fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, String> {
        match self.raw(name) {
            None => Ok(None),
            Some(value) => parse(value).map(Some).ok_or_else(|| format!("{name}={value:?} cannot be read")),
        }
    }

    fn end(mut self) -> Result<(), String> {
        self.rest.next().map_or(Ok(()), |word| Err(format!("{word:?} is not known in {:?}", self.line)))
    }
}

/// Printable ASCII but `+`, `=` and `;` stands for itself, `+XX` for any other octet.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            b'!'..=b'~' if !matches!(octet, b'+' | b'=' | b';') => escaped.push(char::from(octet)),
            _ => {
                let _ = write!(escaped, "+{octet:02X}");
            }
        }
    }
    escaped
}

/// Reads what [`escape`] writes; `None` for anything else, control characters and what is not UTF-8 included.
pub(super) fn unescape(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            b'!'..=b'~' => octet,
            _ => return None,
        });
    }
    let decoded = String::from_utf8(octets).ok().filter(|decoded| !decoded.chars().any(char::is_control))?;
    (escape(&decoded) == text).then_some(decoded)
}
