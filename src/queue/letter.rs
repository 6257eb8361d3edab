//! The mails that this server writes: header, wrapped text, folded fields. Pure; what time it is comes in.
//!
//! Lines end in LF, as in a Maildir and in the spool. What comes from elsewhere goes through [`clean`] first, so that no
//! server's words can make a field or a part of their own.

use std::fmt::Write as _;

use jiff::Zoned;

use crate::smtp::address::Address;

/// Who writes, and when.
#[derive(Clone, Copy, Debug)]
pub struct Letterhead<'a> {
    /// This server's name.
    pub hostname: &'a str,
    /// What stands in From: the postmaster, or MAILER-DAEMON at the server's name.
    pub from: &'a Address,
    /// The time.
    pub now: &'a Zoned,
    /// The letter's own id, letters and digits: its Message-ID and what separates its parts.
    pub id: &'a str,
}

/// A letter, to be delivered or queued with the null reverse path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The whole message, lines with LF.
    pub text: Vec<u8>,
    /// True if it is not ASCII, and BODY=8BITMIME is due.
    pub eight_bit: bool,
    /// True if its header section is not ASCII, and SMTPUTF8 is due.
    pub utf8: bool,
}

impl Letter {
    /// The file of a letter in a mailbox here: the fields of final delivery on top (RFC 5321 section 4.4), the reverse path
    /// being the null one.
    pub fn delivered_to(&self, mailbox: &Address) -> Vec<u8> {
        [format!("Return-Path: <>\nDelivered-To: {mailbox}\n").as_bytes(), &self.text].concat()
    }
}

/// Columns of a line of text, at most, where words allow.
pub const WIDTH: usize = 78;

impl Letterhead<'_> {
    /// A header section up to and without the fields of MIME. `automatic` is the value of Auto-Submitted (RFC 3834
    /// section 5).
    pub(super) fn head(&self, to: &Address, subject: &str, automatic: &str) -> String {
        let mut head = String::new();
        let _ = writeln!(head, "From: Mail Delivery System <{}>", self.from);
        let _ = writeln!(head, "To: <{to}>");
        field(&mut head, "Subject", subject);
        let _ = writeln!(head, "Date: {}", date(self.now));
        let _ = writeln!(head, "Message-ID: <{}@{}>", self.id, self.hostname);
        let _ = writeln!(head, "Auto-Submitted: {automatic}");
        head.push_str("MIME-Version: 1.0\n");
        head
    }

    /// A letter of text alone.
    pub(super) fn plain(&self, to: &Address, subject: &str, text: &str) -> Letter {
        let mut letter = self.head(to, subject, "auto-generated");
        let utf8 = !letter.is_ascii();
        letter.push_str(&text_part(text));
        Letter { eight_bit: !letter.is_ascii(), utf8, text: letter.into_bytes() }
    }
}

/// The fields and the content of a part of text: ASCII as it is, else quoted-printable (RFC 2045 section 6.7).
pub(super) fn text_part(text: &str) -> String {
    let (charset, encoding, text) = match text.is_ascii() {
        true => ("us-ascii", "7bit", text.to_owned()),
        false => ("utf-8", "quoted-printable", quoted_printable(text)),
    };
    format!("Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: {encoding}\n\n{text}")
}

/// A date as header fields have it (RFC 5322 section 3.3).
pub(super) fn date(time: &Zoned) -> String {
    jiff::fmt::rfc2822::to_string(time).unwrap_or_else(|_| time.timestamp().to_string())
}

/// Printable characters alone, on one line, in the order that they are written in: no controls, line separators or marks
/// that turn the direction of text.
pub(crate) fn clean(text: &str) -> String {
    let is_format = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || is_format(c) { ' ' } else { c }).collect()
}

/// Appends words wrapped to [`WIDTH`] columns, each line after `indent` spaces. A word that is longer stands alone.
pub(super) fn wrap(out: &mut String, indent: usize, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            let _ = write!(out, "{:indent$}{word}", "");
            column = indent + length;
        } else {
            let _ = write!(out, " {word}");
            column += 1 + length;
        }
    }
    if column > 0 {
        out.push('\n');
    }
}

/// Appends a header field, folded before words at [`WIDTH`] columns (RFC 5322 section 2.2.3).
pub(super) fn field(out: &mut String, name: &str, value: &str) {
    let value = clean(value);
    out.push_str(name);
    out.push(':');
    let mut column = name.len() + 1;
    for (at, word) in value.split_whitespace().enumerate() {
        let length = word.chars().count();
        // Not before the first word: a line of white space alone would follow from a long one.
        if at > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        }
        let _ = write!(out, " {word}");
        column += 1 + length;
    }
    out.push('\n');
}

fn quoted_printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let mut column = 0;
        let bytes = line.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            let is_last = at + 1 == bytes.len();
            let plain = matches!(byte, b'!'..=b'<' | b'>'..=b'~') || (*byte == b' ' && !is_last);
            let length = if plain { 1 } else { 3 };
            // The soft line break takes a column of the 76.
            if column + length > 75 {
                out.push_str("=\n");
                column = 0;
            }
            match plain {
                true => out.push(char::from(*byte)),
                false => drop(write!(out, "={byte:02X}")),
            }
            column += length;
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_at_its_width_and_words_stay_whole() {
        let mut out = String::new();
        wrap(&mut out, 4, &format!("a {} {} b", "c".repeat(73), "d".repeat(100)));
        assert_eq!(out, format!("    a\n    {}\n    {}\n    b\n", "c".repeat(73), "d".repeat(100)));
        let mut out = String::new();
        wrap(&mut out, 0, "");
        assert_eq!(out, "");
        let mut out = String::new();
        wrap(&mut out, 0, &"word ".repeat(100));
        assert!(out.lines().all(|line| line.len() <= WIDTH) && out.lines().count() == 7);
    }

    #[test]
    fn a_field_cannot_be_broken_out_of() {
        let mut out = String::new();
        field(&mut out, "Diagnostic-Code", "smtp; 550 a\r\nBcc: x@y.example\n\nbody\0");
        assert_eq!(out, "Diagnostic-Code: smtp; 550 a Bcc: x@y.example body\n");
        let mut out = String::new();
        field(&mut out, "X", &"word ".repeat(40));
        assert!(out.lines().all(|line| line.len() <= WIDTH && !line.trim().is_empty()));
        assert!(out.lines().skip(1).all(|line| line.starts_with(" word")));
    }

    #[test]
    fn a_letter_that_is_delivered_here_says_from_nobody_and_to_whom() {
        let letter = Letter { text: b"Subject: x\n\ny\n".to_vec(), eight_bit: false, utf8: false };
        let mailbox = Address::parse("alice@example.org").unwrap();
        let want = b"Return-Path: <>\nDelivered-To: alice@example.org\nSubject: x\n\ny\n";
        assert_eq!(letter.delivered_to(&mailbox), want);
    }

    #[test]
    fn quoted_printable_lines_are_short_and_mean_the_same() {
        let rows = [("grün", "gr=C3=BCn\n"), ("a=b", "a=3Db\n"), ("a ", "a=20\n"), ("", "")];
        for (text, want) in rows {
            assert_eq!(quoted_printable(text), want);
        }
        let long = quoted_printable(&"ü".repeat(100));
        assert!(long.lines().all(|line| line.len() <= 76));
        assert_eq!(long.replace("=\n", "").trim_end(), "=C3=BC".repeat(100));
    }
}
