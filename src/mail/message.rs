//! What is changed in a message between the wire and the file, and nothing else: pillarbox(8), TRANSPARENCY.
//!
//! On top come Return-Path, Delivered-To, Received and, on submission, a missing Date, Message-ID and From. Return-Path, Bcc,
//! Resent-Bcc and Content-Length that came in go, and on submission spaces and tabs before a field's colon. Every other octet
//! stays, so a DKIM signature still verifies. The header section is gathered whole, because what it says decides whether the
//! message is accepted; the body is not.

use std::fmt::Write as _;

use super::trace::{Trace, rfc5322_date};

/// Octets of a header section, at most.
pub const HEADER_MAX: usize = 256 * 1024;
/// Received fields, at most (RFC 5321 section 6.3).
pub const RECEIVED_MAX: usize = 100;

/// Octets and fields that a header section seldom exceeds.
const SECTION_SIZE: usize = 2048;
const FIELDS: usize = 24;

/// Fields that do not survive delivery (Postfix's message_drop_headers).
const DROPPED: [&str; 4] = ["bcc", "content-length", "resent-bcc", "return-path"];

/// Fields that name a sender (RFC 5322 sections 3.6.2 and 3.6.6).
const SENDERS: [&str; 4] = ["From", "Sender", "Resent-From", "Resent-Sender"];

/// Gathers a header section from lines that end in LF.
#[derive(Debug, Default)]
pub struct HeaderReader {
    section: Vec<u8>,
    /// Where the first line begins that has not been looked at.
    looked: usize,
}

/// A whole header section.
#[derive(Debug)]
pub struct Header {
    section: Vec<u8>,
    /// True if an empty line is missing between it and the body.
    unseparated: bool,
    fields: Vec<Field>,
    /// What every From field is to say, if not what it says.
    author: Option<String>,
}

#[derive(Debug)]
struct Field {
    start: usize,
    name_end: usize,
    end: usize,
}

/// The header section is larger than [`HEADER_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderTooLarge;

impl HeaderReader {
    /// Takes lines; gives the header section once it is whole, and how many octets of `lines` belong to it. All octets
    /// were taken where it gives `None`.
    pub fn push(&mut self, lines: &[u8]) -> Result<Option<(Header, usize)>, HeaderTooLarge> {
        let before = self.section.len();
        self.section.reserve(lines.len().min(SECTION_SIZE));
        let mut rest = lines;
        while let Some(length) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(length + 1);
            self.append(line)?;
            rest = after;
            let (end, line) = (self.section.len(), &self.section[self.looked..self.section.len() - 1]);
            if line.is_empty() {
                return Ok(Some(self.finish_at(end, false, before)));
            }
            let continues = matches!(line[0], b' ' | b'\t') && self.looked > 0;
            if !continues && field_name(line).is_none() {
                return Ok(Some(self.finish_at(self.looked, true, before)));
            }
            self.looked = end;
        }
        self.append(rest)?;
        Ok(None)
    }

    fn append(&mut self, text: &[u8]) -> Result<(), HeaderTooLarge> {
        if self.section.len() + text.len() > HEADER_MAX {
            return Err(HeaderTooLarge);
        }
        self.section.extend_from_slice(text);
        Ok(())
    }

    /// The content has ended within the header section.
    pub fn end(self) -> Header {
        let mut section = self.section;
        // A last line without an end that is no field is a body.
        let unseparated = section.len() > self.looked && field_name(&section[self.looked..]).is_none() && {
            let line = &section[self.looked..];
            !(matches!(line.first(), Some(b' ' | b'\t')) && self.looked > 0)
        };
        if unseparated {
            section.insert(self.looked, b'\n');
        }
        Header::new(section, false)
    }

    fn finish_at(&mut self, end: usize, unseparated: bool, before: usize) -> (Header, usize) {
        let mut section = std::mem::take(&mut self.section);
        // Earlier calls took whole lines of the header and then perhaps a piece of a line, which may turn out to be body: that
        // piece is put back after the header. What this call was given from `end` on is the caller's.
        let tail = if end < before { section[end..before].to_vec() } else { Vec::new() };
        section.truncate(end);
        let mut header = Header::new(section, unseparated);
        if !tail.is_empty() {
            header.push_tail(&tail);
        }
        (header, end.saturating_sub(before))
    }
}

impl Header {
    fn new(section: Vec<u8>, unseparated: bool) -> Self {
        let mut fields: Vec<Field> = Vec::with_capacity(FIELDS);
        let mut at = 0;
        while at < section.len() {
            let end = memchr::memchr(b'\n', &section[at..]).map_or(section.len(), |length| at + length + 1);
            let line = &section[at..end];
            match (field_name(line), fields.last_mut()) {
                (_, Some(last)) if matches!(line[0], b' ' | b'\t') => last.end = end,
                (Some(name), _) => fields.push(Field { start: at, name_end: at + name.len(), end }),
                (None, _) => break,
            }
            at = end;
        }
        Self { section, unseparated, fields, author: None }
    }

    /// Puts back what was read of the body's first line.
    fn push_tail(&mut self, tail: &[u8]) {
        if self.unseparated {
            self.section.push(b'\n');
            self.unseparated = false;
        }
        self.section.extend_from_slice(tail);
    }

    /// True if there are more Received fields than any path has hops (RFC 5321 section 6.3).
    pub fn loops(&self) -> bool {
        self.named("received").count() > RECEIVED_MAX
    }

    /// Every field that names a sender: its name, and what stands after the colon.
    pub fn senders(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.fields.iter().filter_map(|field| {
            let name = SENDERS.into_iter().find(|name| self.is_named(field, name))?;
            let text = &self.section[field.name_end..field.end];
            Some((name, &text[memchr::memchr(b':', text)? + 1..]))
        })
    }

    /// What stands in the first Subject field.
    pub fn subject(&self) -> Option<&[u8]> {
        let field = self.fields.iter().find(|field| self.is_named(field, "subject"))?;
        let text = &self.section[field.name_end..field.end];
        Some(&text[memchr::memchr(b':', text)? + 1..])
    }

    /// True if no field has an octet above 127, so that its message needs no SMTPUTF8 (RFC 6531 section 3.2).
    pub fn is_ascii(&self) -> bool {
        self.section.is_ascii()
    }

    /// Has [`Self::write`] put `value` into the From field, which is added if it is missing.
    pub fn set_author(&mut self, value: String) {
        self.author = Some(value);
    }

    /// Appends everything up to the body: the trace, missing fields where `complete`, what came in less what is dropped.
    ///
    /// White space before a colon goes where `complete` (RFC 6409 section 8): it is obsolete, and must not be sent (RFC 5322
    /// section 4.5). Verifiers of signatures stumble over it; those that don't, leave it out too (RFC 6376 section 3.4.2).
    pub fn write(&self, trace: &Trace<'_>, complete: bool, out: &mut Vec<u8>) {
        let mut top = trace.render();
        if complete && self.named("date").next().is_none() {
            let _ = writeln!(top, "Date: {}", rfc5322_date(trace.time));
        }
        if complete && self.named("message-id").next().is_none() {
            let _ = writeln!(top, "Message-ID: <{}@{}>", trace.id, trace.hostname);
        }
        let author = self.author.as_ref().map(|value| format!("From: {value}\n"));
        if let (Some(author), None) = (&author, self.named("from").next()) {
            top.push_str(author);
        }
        out.extend_from_slice(top.as_bytes());
        let mut kept_from = 0;
        for field in &self.fields {
            let replaced = author.as_ref().filter(|_| self.is_named(field, "from"));
            if replaced.is_some() || DROPPED.iter().any(|name| self.is_named(field, name)) {
                out.extend_from_slice(&self.section[kept_from..field.start]);
                out.extend_from_slice(replaced.map_or(&[], |author| author.as_bytes()));
                kept_from = field.end;
            } else if complete && self.section[field.name_end] != b':' {
                out.extend_from_slice(&self.section[kept_from..field.name_end]);
                let colon = memchr::memchr(b':', &self.section[field.name_end..]).unwrap_or(0);
                kept_from = field.name_end + colon;
            }
        }
        out.extend_from_slice(&self.section[kept_from..]);
        if self.unseparated {
            out.push(b'\n');
        }
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Field> {
        self.fields.iter().filter(move |field| self.is_named(field, name))
    }

    fn is_named(&self, field: &Field, name: &str) -> bool {
        self.section[field.start..field.name_end].eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The name of the field that a line begins, if it begins one; spaces and tabs before the colon are obsolete and understood (RFC
/// 5322 section 4.5), a form feed there is not white space.
pub fn field_name(line: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', line)?;
    let end = line[..colon].iter().rposition(|octet| !matches!(octet, b' ' | b'\t'))?;
    let name = &line[..=end];
    let fits = !name.is_empty() && name.iter().all(|b| matches!(b, 33..=126));
    fits.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::trace::tests::{time, trace};

    /// Runs a message through in pieces of `step`; gives what follows the trace.
    fn run(message: &[u8], step: usize, complete: bool) -> Result<String, HeaderTooLarge> {
        let (mut reader, mut out, mut header) = (Some(HeaderReader::default()), Vec::new(), None);
        for piece in message.chunks(step) {
            match &mut reader {
                None => out.extend_from_slice(piece),
                Some(gathering) => {
                    if let Some((whole, used)) = gathering.push(piece)? {
                        let time = time();
                        whole.write(&trace(&time), complete, &mut out);
                        out.extend_from_slice(&piece[used..]);
                        (header, reader) = (Some(()), None);
                    }
                }
            }
        }
        if let (None, Some(reader)) = (header, reader) {
            let time = time();
            reader.end().write(&trace(&time), complete, &mut out);
        }
        let text = String::from_utf8(out).unwrap();
        let time = time();
        Ok(text.strip_prefix(&trace(&time).render()).unwrap().to_owned())
    }

    fn each_split(message: &str, want: &str, complete: bool) {
        for step in [1, 2, 3, 5, 8, 13, 1000] {
            assert_eq!(run(message.as_bytes(), step, complete).unwrap(), want, "{message:?} by {step}");
        }
    }

    const STAMPS: &str = "Date: Mon, 23 Nov 2026 17:43:50 +0000\nMessage-ID: <id1@mx.example.org>\n";

    #[test]
    fn what_is_kept_dropped_and_added() {
        let rows = [
            ("Date: x\nMessage-ID: y\nSubject: z\n\nbody\n", "Date: x\nMessage-ID: y\nSubject: z\n\nbody\n", ""),
            ("Subject: z\n\nDate: in the body\n", "Subject: z\n\nDate: in the body\n", STAMPS),
            ("DATE: x\nmessage-id: y\nBCC: a,\n b\nX: 1\n\n", "DATE: x\nmessage-id: y\nX: 1\n\n", ""),
            (
                "Return-Path: <x>\nDate: x\nContent-Length: 3\nMessage-ID: y\nResent-Bcc: z\n\nb",
                "Date: x\nMessage-ID: y\n\nb",
                "",
            ),
            // No header at all: an empty line keeps the body a body.
            ("hello\nworld\n", "\nhello\nworld\n", STAMPS),
            ("hello", "\nhello", STAMPS),
            ("\nhello\n", "\nhello\n", STAMPS),
            ("", "", STAMPS),
            // A form feed is no white space.
            (
                "Date: x\nMessage-ID\x0c: y\n\nrest\n",
                "Date: x\n\nMessage-ID\x0c: y\n\nrest\n",
                "Message-ID: <id1@mx.example.org>\n",
            ),
            (":\n :\nrest\n", "\n:\n :\nrest\n", STAMPS),
            // A header that ends in a line that is no field.
            ("Date: x\nMessage-ID: y\nnot a field\nrest\n", "Date: x\nMessage-ID: y\n\nnot a field\nrest\n", ""),
            ("Date: x\nMessage-ID: y\n", "Date: x\nMessage-ID: y\n", ""),
            (" continues nothing\n", "\n continues nothing\n", STAMPS),
            ("Date: x\nMessage-ID: y\n folded\n\tmore\n\n", "Date: x\nMessage-ID: y\n folded\n\tmore\n\n", ""),
        ];
        for (message, want, stamps) in rows {
            each_split(message, &format!("{stamps}{want}"), true);
            each_split(message, want, false);
        }
    }

    /// RFC 5322 section 4.5: understood, and left out where the message enters the mail system.
    #[test]
    fn white_space_before_a_colon() {
        let message = "Bcc : a\nDate\t : x\nMessage-ID: y\nX : 1 : 2\n :\nBCC\t: b\nY :\n\nZ : 3\n";
        each_split(message, "Date: x\nMessage-ID: y\nX: 1 : 2\n :\nY:\n\nZ : 3\n", true);
        each_split(message, "Date\t : x\nMessage-ID: y\nX : 1 : 2\n :\nY :\n\nZ : 3\n", false);
    }

    #[test]
    fn the_author_is_replaced_in_its_place_or_added() {
        let rows = [
            ("A: 1\nFROM : root\n (Cron)\nB: 2\n\n", "A: 1\nFrom: x\nB: 2\n\n"),
            ("A: 1\n\n", "From: x\nA: 1\n\n"),
            ("From: root", "From: x\n"),
        ];
        for (header, want) in rows {
            let mut header = match HeaderReader::default().push(header.as_bytes()).unwrap() {
                Some((header, _)) => header,
                None => {
                    let mut reader = HeaderReader::default();
                    reader.push(header.as_bytes()).unwrap();
                    reader.end()
                }
            };
            header.set_author("x".into());
            let (time, mut out) = (time(), Vec::new());
            header.write(&trace(&time), false, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.strip_prefix(&trace(&time).render()), Some(want));
        }
    }

    #[test]
    fn limits_of_the_header() {
        let fields = "X: y\n".repeat(HEADER_MAX / 5);
        assert!(run(format!("{fields}\n\nbody").as_bytes(), 4096, false).is_ok());
        assert_eq!(run(format!("{fields}X: yy\n\nbody").as_bytes(), 4096, false), Err(HeaderTooLarge));
        // To the octet, the empty line at its end included, whole or in pieces.
        for step in [4096, usize::MAX] {
            assert!(run(format!("{fields}X:\n\nbody").as_bytes(), step, false).is_ok());
            assert_eq!(run(format!("{fields}X: \n\nbody").as_bytes(), step, false), Err(HeaderTooLarge));
        }
        assert_eq!(run("x".repeat(HEADER_MAX + 1).as_bytes(), 4096, false), Err(HeaderTooLarge));
        let received = |n: usize| {
            let text = "Received: x\n".repeat(n) + "\n";
            HeaderReader::default().push(text.as_bytes()).unwrap().unwrap().0.loops()
        };
        assert!(!received(100) && received(101));
    }
}
