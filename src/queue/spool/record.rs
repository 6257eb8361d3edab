//! What happened to a queued message, as it is appended to its file.
//!
//! A record is a line of at most [`RECORD_MAX`] octets that begins with its LF and ends with the only `;` in it, written at
//! once. One that was cut short is ignored, wherever it stands, and the next one begins on a line of its own.

use std::fmt::Write as _;

use super::envelope::{escape, unescape};
use crate::smtp::remote::{RemoteStatus, Stage, TEXT_MAX};

/// A record with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Seconds since 1970.
    pub time: u64,
    /// What happened.
    pub what: Happened,
}

/// What happened. Recipients are their numbers, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// An attempt begins for these recipients.
    Begin {
        /// The recipients.
        recipients: Vec<u16>,
        /// The next hop, `name[address]`.
        host: String,
        /// The version of TLS.
        tls: Option<String>,
    },
    /// The final dot comes next for these recipients: from here on it may arrive. Without a list, for those of the last
    /// attempt that began.
    Dot {
        /// The recipients.
        recipients: Vec<u16>,
    },
    /// An attempt is over for these recipients and comes to nothing: nothing has arrived, and nothing was refused.
    End {
        /// The recipients.
        recipients: Vec<u16>,
    },
    /// It is held, by a word for why.
    Hold(String),
    /// It is no longer held; its age counts from here.
    Release,
    /// The operator wants it back at its sender; done at the next start, where no server runs.
    Return,
    /// The sender was told about these recipients.
    Reported {
        /// The recipients.
        recipients: Vec<u16>,
        /// What they were told: `failed`, `delayed`, `delivered` or `relayed` (RFC 3464 section 2.3.3).
        action: String,
    },
    /// What came of an attempt for these recipients, or what was decided about them.
    Result {
        /// The recipients.
        recipients: Vec<u16>,
        /// What it comes to.
        verdict: Verdict,
        /// What was said.
        told: Told,
    },
}

/// What a result comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not tried again.
    Failed,
    /// The next hop has it.
    Sent,
    /// It is tried again.
    Wait,
}

/// What a next hop said, or what was found out without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// At which stage.
    pub stage: Stage,
    /// The reply code, if there was a reply.
    pub code: Option<u16>,
    /// The enhanced status code.
    pub status: Option<RemoteStatus>,
    /// The text; it is written printable, without `;`, at most [`TEXT_MAX`] octets of it.
    pub text: String,
}

/// Stands for the version of TLS where a domain had TLS before, and this connection has none.
pub const DOWNGRADED: &str = "downgraded";
/// Octets of a record, at most.
pub const RECORD_MAX: usize = 1000;
/// Octets of a list of recipients, at most; a longer one is written as all from its first to its last.
const LIST_MAX: usize = 400;
/// Octets of a host or a word, at most.
const WORD_MAX: usize = 250;
const NAME: &str = "Pillarbox-Log: ";

impl Record {
    /// The record with the LF that it begins with.
    pub fn render(&self) -> String {
        let mut text = format!("\n{NAME}{} ", self.time);
        let _ = match &self.what {
            Happened::Begin { recipients, host, tls } => {
                let _ = write!(text, "begin {} host={}", list(recipients), word(host));
                tls.as_ref().map_or(Ok(()), |tls| write!(text, " tls={}", word(tls)))
            }
            Happened::Dot { recipients } if recipients.is_empty() => write!(text, "dot"),
            Happened::Dot { recipients } => write!(text, "dot {}", list(recipients)),
            Happened::End { recipients } => write!(text, "end {}", list(recipients)),
            Happened::Hold(why) => write!(text, "hold {}", word(why)),
            Happened::Release => write!(text, "release"),
            Happened::Return => write!(text, "return"),
            Happened::Reported { recipients, action } => write!(text, "{} reported {}", list(recipients), word(action)),
            Happened::Result { recipients, verdict, told } => {
                let _ = write!(text, "{} {} ", list(recipients), verdict.name());
                if told.stage != Stage::Dot {
                    let _ = write!(text, "at={} ", told.stage.name());
                }
                let code = told.code.map_or_else(|| "-".to_owned(), |code| code.to_string());
                let status = told.status.map_or_else(|| "-".to_owned(), |(a, b, c)| format!("{a}.{b}.{c}"));
                write!(text, "{code} {status} {}", printable(&told.text))
            }
        };
        text.push(';');
        text
    }

    /// Reads a line without its LF; `None` for what is no whole record.
    pub fn parse(line: &str) -> Option<Self> {
        let (time, what) = line.strip_prefix(NAME)?.strip_suffix(';')?.split_once(' ')?;
        if what.contains(';') {
            return None;
        }
        Some(Self { time: time.parse().ok()?, what: parse_what(what)? })
    }
}

fn parse_what(what: &str) -> Option<Happened> {
    let (first, rest) = what.split_once(' ').unwrap_or((what, ""));
    match first {
        "begin" => {
            let mut words = rest.split(' ');
            let recipients = read_list(words.next()?)?;
            let host = unescape(words.next()?.strip_prefix("host=")?)?;
            let tls = match words.next() {
                Some(tls) => Some(unescape(tls.strip_prefix("tls=")?)?),
                None => None,
            };
            words.next().is_none().then_some(Happened::Begin { recipients, host, tls })
        }
        "dot" if rest.is_empty() => Some(Happened::Dot { recipients: Vec::new() }),
        "dot" => read_list(rest).map(|recipients| Happened::Dot { recipients }),
        "end" => read_list(rest).map(|recipients| Happened::End { recipients }),
        "hold" => unescape(rest).map(Happened::Hold),
        "release" => rest.is_empty().then_some(Happened::Release),
        "return" => rest.is_empty().then_some(Happened::Return),
        _ => {
            let recipients = read_list(first)?;
            match rest.split_once(' ')? {
                ("reported", action) => Some(Happened::Reported { recipients, action: unescape(action)? }),
                (verdict, told) => {
                    Some(Happened::Result { recipients, verdict: Verdict::from_name(verdict)?, told: Told::parse(told)? })
                }
            }
        }
    }
}

impl Told {
    /// True if the next hop has refused: nothing of it is there.
    pub fn is_refusal(&self) -> bool {
        self.code.is_some_and(|code| (400..600).contains(&code))
    }

    fn parse(text: &str) -> Option<Self> {
        let (stage, text) = match text.strip_prefix("at=") {
            Some(rest) => {
                let (name, rest) = rest.split_once(' ')?;
                (Stage::ALL.into_iter().find(|stage| stage.name() == name)?, rest)
            }
            None => (Stage::Dot, text),
        };
        let mut words = text.splitn(3, ' ');
        let code = match words.next()? {
            "-" => None,
            // As it is written: three digits, the first of which is none that falls away.
            code => Some(code.parse().ok().filter(|number| code.len() == 3 && (100..1000).contains(number))?),
        };
        let status = match words.next()? {
            "-" => None,
            status => {
                let mut parts = status.split('.');
                let status = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
                parts.next().is_none().then_some(Some(status))?
            }
        };
        Some(Self { stage, code, status, text: words.next()?.to_owned() })
    }
}

impl Verdict {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Sent => "sent",
            Self::Wait => "wait",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Failed, Self::Sent, Self::Wait].into_iter().find(|verdict| verdict.name() == name)
    }
}

/// `1-3,5`: numbers from 1, as a reader counts the lines of the envelope.
fn list(recipients: &[u16]) -> String {
    let mut text = String::new();
    let mut rest = recipients;
    while let [first, ..] = rest {
        let length = (1..rest.len()).find(|at| u32::from(rest[*at]) != u32::from(*first) + *at as u32).unwrap_or(rest.len());
        let first = u32::from(*first) + 1;
        let _ = match length {
            1 => write!(text, "{first},"),
            _ => write!(text, "{first}-{},", first + length as u32 - 1),
        };
        rest = &rest[length..];
    }
    text.pop();
    match recipients {
        [first, .., last] if text.len() > LIST_MAX => format!("{}-{}", u32::from(*first) + 1, u32::from(*last) + 1),
        _ => text,
    }
}

fn read_list(text: &str) -> Option<Vec<u16>> {
    let mut recipients: Vec<u16> = Vec::new();
    let number = |text: &str| {
        let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        digits.then(|| text.parse::<u32>().ok()).flatten().and_then(|number| u16::try_from(number - 1).ok())
    };
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let ascends = recipients.last().is_none_or(|before| *before < first) && first <= last;
        if !ascends {
            return None;
        }
        recipients.extend(first..=last);
    }
    Some(recipients)
}

fn word(text: &str) -> String {
    let mut escaped = escape(text);
    if escaped.len() > WORD_MAX {
        let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| escape(&text[..*end]).len() <= WORD_MAX);
        escaped = escape(&text[..end.last().unwrap_or(0)]);
    }
    escaped
}

fn printable(text: &str) -> String {
    let safe = |c| match c {
        ';' => ',',
        ' '..='~' => c,
        _ if char::is_control(c) => ' ',
        _ => '?',
    };
    text.chars().take(TEXT_MAX).map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_records_are_cut_and_many_numbers_become_a_range() {
        let numbers: Vec<u16> = (0..=u16::MAX).step_by(2).collect();
        let begin = Happened::Begin { recipients: numbers.clone(), host: "ö".repeat(900), tls: Some("x".repeat(900)) };
        let told = Told { stage: Stage::StartTls, code: Some(550), status: Some((5, 999, 999)), text: "a;\r\n\0ö".repeat(900) };
        let result = Happened::Result { recipients: numbers, verdict: Verdict::Failed, told };
        for what in [begin, result] {
            let text = Record { time: u64::MAX, what }.render();
            assert!(text.len() <= RECORD_MAX, "{}", text.len());
            assert!(text.bytes().skip(1).all(|b| (b' '..=b'~').contains(&b)) && text.matches(';').count() == 1, "{text}");
            let read = Record::parse(&text[1..]).unwrap();
            let (Happened::Begin { recipients, .. } | Happened::Result { recipients, .. }) = read.what else { panic!("{text}") };
            assert_eq!((recipients[0], recipients.len()), (0, 65_535));
        }
    }

    /// What is read can be written and read again.
    #[test]
    fn reply_codes_that_are_none() {
        for code in ["+51", "051", "000", "45", "4510", "4x1"] {
            let line = format!("Pillarbox-Log: 1700000123 2 wait at=rcpt {code} 4.7.1 greylisted;");
            assert_eq!(Record::parse(&line), None, "{line}");
        }
        assert!(Record::parse("Pillarbox-Log: 1700000123 2 wait at=rcpt 451 4.7.1 greylisted;").is_some());
    }
}
