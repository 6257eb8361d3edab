//! One line of the log: how a value is written so that no client can forge a key, a word or a line.

use std::fmt::{Display, Write as _};

use super::EVENTS;

/// A line that is being put together.
#[derive(Debug)]
pub(super) struct LogLine(String);

/// Octets that a line usually takes.
pub(super) const LINE_SIZE: usize = 400;

/// Octets of recipients that one line lists.
const LISTED_MAX: usize = 1000;

impl LogLine {
    pub(super) fn new(event: &str) -> Self {
        debug_assert!(EVENTS.iter().any(|(known, _)| *known == event), "{event} is not in EVENTS");
        let mut line = String::with_capacity(LINE_SIZE);
        line.push_str(event);
        Self(line)
    }

    /// Keys without an event, for [`Self::keys`].
    pub(super) fn of_keys() -> Self {
        Self(String::new())
    }

    /// Appends keys that were put together before.
    pub(super) fn keys(mut self, keys: &str) -> Self {
        self.0.push_str(keys);
        self
    }

    fn name(&mut self, key: &str) {
        self.0.push(' ');
        self.0.push_str(key);
        self.0.push('=');
    }

    /// Appends a value as it is, if it is plain, else quoted with every other character and every blank escaped.
    pub(super) fn key(mut self, key: &str, value: impl Display) -> Self {
        self.name(key);
        let line = &mut self.0;
        let start = line.len();
        let _ = write!(line, "{value}");
        if !is_plain(&line[start..]) {
            let value = line.split_off(start);
            line.push('"');
            push_escaped(line, &value, false);
            line.push('"');
        }
        self
    }

    /// The same for a file, no part of which comes from a client: a `=` is part of the names in a Maildir.
    pub(super) fn path(mut self, key: &str, value: &str) -> Self {
        if value.is_empty() || !value.bytes().all(|octet| octet == b'=' || is_plain_octet(octet)) {
            return self.key(key, value);
        }
        self.name(key);
        self.0.push_str(value);
        self
    }

    /// The same for words of our own, which keep their blanks.
    pub(super) fn words(self, key: &str, value: impl Display) -> Self {
        let value = value.to_string();
        if is_plain(&value) { self.key(key, value) } else { self.words_about(key, (&value, "", "")) }
    }

    /// Words of our own around what may come from a client.
    pub(super) fn words_about(mut self, key: &str, (before, about, after): (&str, &str, &str)) -> Self {
        self.name(key);
        let line = &mut self.0;
        line.push('"');
        push_escaped(line, before, true);
        push_escaped(line, about, false);
        push_escaped(line, after, true);
        line.push('"');
        self
    }

    pub(super) fn text(self) -> String {
        self.0
    }
}

fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(is_plain_octet)
}

fn is_plain_octet(octet: u8) -> bool {
    octet.is_ascii_graphic() && !matches!(octet, b'"' | b'\\' | b'=')
}

/// Appends what may stand between quotes; with `blanks`, a blank is left as it is.
fn push_escaped(line: &mut String, value: &str, blanks: bool) {
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                line.push('\\');
                line.push(c);
            }
            ' ' if blanks => line.push(c),
            '!'..='~' if c != '=' => line.push(c),
            c => {
                let _ = write!(line, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
}

/// The first recipients, and how many more there are: a stranger may name a hundred of 254 octets each for one mailbox.
pub(super) fn listed<T: Display>(recipients: &[T]) -> String {
    let mut text = String::with_capacity(64);
    for (at, recipient) in recipients.iter().enumerate() {
        let before = text.len();
        let _ = write!(text, "{}{recipient}", if at > 0 { "," } else { "" });
        if at > 0 && text.len() > LISTED_MAX {
            text.truncate(before);
            let _ = write!(text, ",+{}", recipients.len() - at);
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_recipients_is_cut_between_two() {
        let of = |octets: usize, n: usize| vec!["a".repeat(octets); n];
        assert_eq!(listed(&["a@x.example", "b@x.example"]), "a@x.example,b@x.example");
        assert_eq!(listed(&of(99, 10)).len(), 999, "all of them");
        assert_eq!(listed(&of(99, 12)), of(99, 10).join(",") + ",+2");
        assert_eq!(listed(&of(1200, 2)), "a".repeat(1200) + ",+1", "the first is always there");
        assert_eq!(listed::<&str>(&[]), "");
    }

    #[test]
    fn values_cannot_forge_a_key_or_a_line() {
        let rows = [
            ("plain@x.example", "plain@x.example"),
            ("", "\"\""),
            ("a b", "\"a\\u{20}b\""),
            ("a\nevent key=value", "\"a\\u{a}event\\u{20}key\\u{3d}value\""),
            ("x\" reason=ok", "\"x\\\"\\u{20}reason\\u{3d}ok\""),
            ("a=b", "\"a\\u{3d}b\""),
            ("back\\slash", "\"back\\\\slash\""),
            ("\u{1b}[2J\u{85}\u{2028}ö", "\"\\u{1b}[2J\\u{85}\\u{2028}\\u{f6}\""),
        ];
        for (value, want) in rows {
            assert_eq!(LogLine::new("notice").key("text", value).text(), format!("notice text={want}"));
        }
        assert_eq!(LogLine::new("delivered").path("file", "/a/b,S=1").text(), "delivered file=/a/b,S=1");
        assert_eq!(LogLine::new("delivered").path("file", "/a b,S=1").text(), "delivered file=\"/a\\u{20}b,S\\u{3d}1\"");
        // Words of our own are readable, what they are about is not taken for one.
        let text = ("No such mailbox: <", "x reason=y", ">; a=b");
        let line = LogLine::new("refused").words_about("text", text).text();
        assert_eq!(line, "refused text=\"No such mailbox: <x\\u{20}reason\\u{3d}y>; a\\u{3d}b\"");
        assert_eq!(LogLine::new("notice").words("text", "a b").text(), "notice text=\"a b\"");
        assert_eq!(LogLine::new("notice").words("text", "ab").text(), "notice text=ab");
    }
}
