//! A message as sendmail(8) reads it, made ready to be sent: recipients from its header, names without a domain completed, lines that
//! end in CR LF. Pure.

use std::ops::Range;

use crate::mail::message::field_name;

/// What came in on standard input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Header fields, each with its folded lines and without the last line end; line ends within are LF.
    fields: Vec<Vec<u8>>,
    /// Lines that end in LF.
    body: Vec<u8>,
}

/// The fields that name people; a name without a domain in one is completed.
const ADDRESSES: [&str; 12] = [
    "bcc",
    "cc",
    "from",
    "reply-to",
    "resent-bcc",
    "resent-cc",
    "resent-from",
    "resent-reply-to",
    "resent-sender",
    "resent-to",
    "sender",
    "to",
];
/// The fields that -t takes recipients of; the first set where the message has one of it.
const RESENT: [&str; 3] = ["resent-to", "resent-cc", "resent-bcc"];
const ORIGINAL: [&str; 3] = ["to", "cc", "bcc"];

impl Message {
    /// Reads what came in: lines that end in LF or CR LF; a CR within a line ends it too, and NUL is left out, since no server
    /// takes either. A line of one dot ends it unless dots are ignored.
    pub fn read(input: &[u8], ignore_dots: bool) -> Self {
        let mut text = Vec::with_capacity(input.len() + input.len() / 32);
        for line in input.split_inclusive(|octet| *octet == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line == b"." && !ignore_dots {
                break;
            }
            text.extend(line.iter().filter(|octet| **octet != 0).map(|octet| if *octet == b'\r' { b'\n' } else { *octet }));
            text.push(b'\n');
        }
        Self::split(&text)
    }

    /// Splits the header section off. A first line such as mailboxes in one file have between messages is left out.
    fn split(text: &[u8]) -> Self {
        let mut message = Self::default();
        let mut rest = text;
        while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            match message.fields.last_mut() {
                _ if line.is_empty() => {
                    rest = after;
                    break;
                }
                None if line.starts_with(b"From ") || line.starts_with(b">From ") => {}
                Some(field) if matches!(line[0], b' ' | b'\t') => {
                    field.push(b'\n');
                    field.extend_from_slice(line);
                }
                _ if field_name(line).is_some() => message.fields.push(line.to_vec()),
                _ => break,
            }
            rest = after;
        }
        message.body = rest.to_vec();
        message
    }

    /// The recipients that the header names.
    pub fn recipients(&self) -> Vec<String> {
        let has = |names: &[&str]| self.fields.iter().any(|field| names.contains(&name(field).as_str()));
        let names = if has(&RESENT) { RESENT } else { ORIGINAL };
        let named = self.fields.iter().filter(|field| names.contains(&name(field).as_str()));
        named
            .flat_map(|field| {
                let text = String::from_utf8_lossy(value(field)).into_owned();
                addresses(&text).into_iter().map(move |range| text[range].to_owned()).collect::<Vec<_>>()
            })
            .filter(|address| !address.is_empty())
            .collect()
    }

    /// Completes names without a domain, and takes the hidden recipients out.
    pub fn complete(&mut self, hostname: &str) {
        self.fields.retain(|field| !["bcc", "resent-bcc"].contains(&name(field).as_str()));
        for field in self.fields.iter_mut().filter(|field| ADDRESSES.contains(&name(field).as_str())) {
            // What is no UTF-8 is left as it is.
            let Ok(text) = std::str::from_utf8(value(field)) else { continue };
            let mut completed = text.to_owned();
            for range in addresses(text).into_iter().rev() {
                let address = &text[range.clone()];
                if !address.is_empty() && !address.contains(['@', ' ', '\t', '\n']) {
                    completed.insert_str(range.end, &format!("@{hostname}"));
                }
            }
            let start = field.len() - text.len();
            field.splice(start.., completed.into_bytes());
        }
    }

    /// True if there is a field of this name, given in lower case.
    pub fn has(&self, wanted: &str) -> bool {
        self.fields.iter().any(|field| name(field) == wanted)
    }

    /// Puts a field on top.
    pub fn add(&mut self, field: String) {
        self.fields.insert(0, field.into_bytes());
    }

    /// True if an octet is no ASCII.
    pub fn is_eight_bit(&self) -> bool {
        !self.body.is_ascii() || self.fields.iter().any(|field| !field.is_ascii())
    }

    /// The message as it goes over the wire (RFC 5321 section 4.5.2), with the dot that ends it.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.body.len() + self.body.len() / 32 + 1024);
        for field in &self.fields {
            push_lines(&mut wire, field);
        }
        wire.extend_from_slice(b"\r\n");
        if let Some(body) = self.body.strip_suffix(b"\n") {
            push_lines(&mut wire, body);
        }
        wire.extend_from_slice(b".\r\n");
        wire
    }
}

fn push_lines(wire: &mut Vec<u8>, text: &[u8]) {
    for line in text.split(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
        wire.extend_from_slice(b"\r\n");
    }
}

fn name(field: &[u8]) -> String {
    String::from_utf8_lossy(field_name(field).unwrap_or_default()).to_ascii_lowercase()
}

fn value(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|octet| *octet == b':').map_or(field.len(), |colon| colon + 1);
    &field[end..]
}

/// Where the addresses of a list stand (RFC 5322 section 3.4): what stands between angle brackets, or else a member without its
/// comments. Members of groups count, names of groups do not.
fn addresses(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut member = Member::default();
    let (mut quoted, mut depth, mut escaped) = (false, 0_usize, false);
    for (at, c) in text.char_indices() {
        if std::mem::take(&mut escaped) {
            member.word(at, c);
            continue;
        }
        match c {
            '\\' if quoted || depth > 0 => escaped = true,
            '"' if depth == 0 => {
                quoted = !quoted;
                member.word(at, c);
            }
            _ if quoted => member.word(at, c),
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            '<' => member.open = Some(at + 1),
            '>' => member.close(at),
            ',' | ';' if member.open.is_none() => found.extend(std::mem::take(&mut member).address(text)),
            // The name of a group; not the colon within an address literal.
            ':' if member.open.is_none() && !text[member.start()..at].contains('[') => member = Member::default(),
            _ => member.word(at, c),
        }
    }
    found.extend(member.address(text));
    found
}

/// A member of a list that is being read.
#[derive(Default)]
struct Member {
    /// After an open angle bracket.
    open: Option<usize>,
    angle: Option<Range<usize>>,
    /// The words outside of brackets and comments, without white space at their ends.
    words: Option<Range<usize>>,
}

impl Member {
    fn start(&self) -> usize {
        self.words.as_ref().map_or(0, |words| words.start)
    }

    fn word(&mut self, at: usize, c: char) {
        if self.open.is_none() && !c.is_ascii_whitespace() {
            let end = at + c.len_utf8();
            self.words = Some(self.words.as_ref().map_or(at, |words| words.start)..end);
        }
    }

    fn close(&mut self, at: usize) {
        if let Some(open) = self.open.take() {
            self.angle = Some(open..at);
        }
    }

    fn address(self, text: &str) -> Option<Range<usize>> {
        let range = self.angle.or(self.words)?;
        let inner = &text[range.clone()];
        let start = range.start + (inner.len() - inner.trim_start().len());
        // Obsolete routes (RFC 5322 section 4.4) say nothing.
        let route = text[start..range.end].rfind(':').filter(|_| text[start..].starts_with('@')).map_or(0, |colon| colon + 1);
        Some(start + route..start + route + text[start + route..range.end].trim_end().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(input: &str) -> String {
        let mut message = Message::read(input.as_bytes(), false);
        message.complete("vps.example");
        String::from_utf8(message.to_wire()).unwrap()
    }

    #[test]
    fn lines_dots_and_headers() {
        let rows = [
            ("plain", "Subject: x\n\nhello\n", "Subject: x\r\n\r\nhello\r\n.\r\n"),
            ("CR LF", "Subject: x\r\n\r\nhello\r\n", "Subject: x\r\n\r\nhello\r\n.\r\n"),
            ("no last line end", "Subject: x\n\nhello", "Subject: x\r\n\r\nhello\r\n.\r\n"),
            ("a dot ends it", "A: x\n\nhello\n.\nmore\n", "A: x\r\n\r\nhello\r\n.\r\n"),
            ("dots are doubled", "A: x\n\n..\n.x\n", "A: x\r\n\r\n...\r\n..x\r\n.\r\n"),
            ("no header", "hello\nyou\n", "\r\nhello\r\nyou\r\n.\r\n"),
            ("no empty line", "A: x\nhello you\n", "A: x\r\n\r\nhello you\r\n.\r\n"),
            ("nothing", "", "\r\n.\r\n"),
            ("a progress bar", "A: x\n\n10%\r20%\rdone\n\0\n", "A: x\r\n\r\n10%\r\n20%\r\ndone\r\n\r\n.\r\n"),
            ("a line of an mbox", "From root Tue Nov 24\nA: x\n\n", "A: x\r\n\r\n.\r\n"),
            ("folded", "A: x\n y\nTo: a,\n\tb <c>\n\n", "A: x\r\n y\r\nTo: a@vps.example,\r\n\tb <c@vps.example>\r\n\r\n.\r\n"),
        ];
        for (what, input, want) in rows {
            assert_eq!(wire(input), want, "{what}");
        }
        assert_eq!(Message::read(b"A: x\n\n.\nmore\n", true).to_wire(), b"A: x\r\n\r\n..\r\nmore\r\n.\r\n");
    }

    #[test]
    fn names_are_completed_and_hidden_recipients_taken_out() {
        let rows = [
            ("From: root (Cron Daemon)\n", "From: root@vps.example (Cron Daemon)\r\n"),
            ("To: \"Root, Mr\" <root>, a@b.example\n", "To: \"Root, Mr\" <root@vps.example>, a@b.example\r\n"),
            ("To: team: a, B <b>;, c\n", "To: team: a@vps.example, B <b@vps.example>;, c@vps.example\r\n"),
            ("Cc: undisclosed-recipients:;\n", "Cc: undisclosed-recipients:;\r\n"),
            ("Reply-To: two words\n", "Reply-To: two words\r\n"),
            ("Bcc: a\nResent-Bcc: b\nX: c\n", "X: c\r\n"),
            ("To: a@[IPv6:::1], b\n", "To: a@[IPv6:::1], b@vps.example\r\n"),
            ("Subject: root\n", "Subject: root\r\n"),
            ("To: \n", "To: \r\n"),
        ];
        for (input, want) in rows {
            assert_eq!(wire(&format!("{input}\n")), format!("{want}\r\n.\r\n"), "{input}");
        }
    }

    #[test]
    fn recipients_of_the_header() {
        let rows: [(&str, &[&str]); 6] = [
            ("To: a, B <b@c.example>\nCc: (x, y) d\nBcc: e@f.example\n", &["a", "b@c.example", "d", "e@f.example"]),
            ("To: a\nResent-To: b\nResent-Cc: c\nResent-Bcc: d\n", &["b", "c", "d"]),
            ("To: team: a, <b>;\n", &["a", "b"]),
            ("To: \"a\\\"b, c\"@d.example\n", &["\"a\\\"b, c\"@d.example"]),
            ("To: <@relay.example:a@b.example>\n", &["a@b.example"]),
            ("Subject: x\n", &[]),
        ];
        for (input, want) in rows {
            assert_eq!(Message::read(format!("{input}\nbody\n").as_bytes(), false).recipients(), want, "{input}");
        }
    }
}
