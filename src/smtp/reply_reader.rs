//! Replies of a next hop, read from octets that arrive in any pieces.
//!
//! A reply is bounded before it is kept: [`LINE_MAX`] octets a line and [`LINES_MAX`] lines. Its text is made safe:
//! UTF-8 without controls, without characters that change the direction of text or have no width. A line that does not
//! begin with a reply code, or changes the code within a reply, is an error, after which nothing more can be read: which
//! reply belongs to which command is not known any more. A line ends with LF; a CR before it belongs to the end.

use core::fmt::{self, Display};

use super::remote::{RemoteReply, RemoteStatus, TEXT_MAX};

/// Octets of a line without its end, at most. RFC 5321 section 4.5.3.1.5 has 512; servers write longer ones.
pub const LINE_MAX: usize = 2_000;
/// Lines of a reply, at most.
pub const LINES_MAX: usize = 100;

/// Collects the lines of replies.
#[derive(Clone, Debug, Default)]
pub struct ReplyReader {
    line: Vec<u8>,
    code: u16,
    lines: Vec<String>,
}

/// A reply with the lines that it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The reply, made safe and cut.
    pub reply: RemoteReply,
    /// The text of each line after the reply code, made safe; one at least.
    pub lines: Vec<String>,
}

/// What became of a piece of input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Octets that belonged to the reply.
    pub used: usize,
    /// The reply, if it is complete.
    pub response: Option<Response>,
}

/// Why octets are no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line has another code than the line before it (RFC 5321 section 4.2.1 forbids it).
    CodeChanged,
    /// A line is longer than [`LINE_MAX`].
    LineTooLong,
    /// A line does not begin with a reply code; how it begins, made safe.
    NoCode(String),
    /// There are more lines than [`LINES_MAX`].
    TooManyLines,
}

impl ReplyReader {
    /// A reader before the first octet.
    pub fn new() -> Self {
        Self::default()
    }

    /// True if part of a reply has been read.
    pub fn is_within(&self) -> bool {
        !self.line.is_empty() || !self.lines.is_empty()
    }

    /// Takes octets up to the end of a reply at most.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed, ReplyError> {
        let mut used = 0;
        while used < input.len() {
            let rest = &input[used..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.collect(rest)?;
                return Ok(Fed { used: input.len(), response: None });
            };
            self.collect(&rest[..end])?;
            used += end + 1;
            if let Some(response) = self.end_line()? {
                return Ok(Fed { used, response: Some(response) });
            }
        }
        Ok(Fed { used, response: None })
    }

    fn collect(&mut self, octets: &[u8]) -> Result<(), ReplyError> {
        // One more for the CR of the line end.
        if self.line.len() + octets.len() > LINE_MAX + 1 {
            return Err(ReplyError::LineTooLong);
        }
        self.line.extend_from_slice(octets);
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Response>, ReplyError> {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        if line.len() > LINE_MAX {
            return Err(ReplyError::LineTooLong);
        }
        let (code, last, text) = split_line(line).ok_or_else(|| ReplyError::NoCode(safe_text(line, QUOTED_MAX)))?;
        if !self.lines.is_empty() && code != self.code {
            return Err(ReplyError::CodeChanged);
        }
        if self.lines.len() == LINES_MAX {
            return Err(ReplyError::TooManyLines);
        }
        self.code = code;
        self.lines.push(safe_text(text, LINE_MAX));
        self.line.clear();
        Ok(last.then(|| {
            let lines = core::mem::take(&mut self.lines);
            Response { reply: RemoteReply::of(code, &lines), lines }
        }))
    }
}

impl RemoteReply {
    /// A reply out of its code and the text of its lines.
    pub fn of(code: u16, lines: &[String]) -> Self {
        let status = lines.first().and_then(|line| split_status(code, line)).map(|(status, _)| status);
        let mut text = String::new();
        for line in lines {
            // Each line repeats the status (RFC 2034 section 4).
            let line = split_status(code, line).map_or(line.as_str(), |(_, rest)| rest).trim();
            if !text.is_empty() && !line.is_empty() {
                text.push(' ');
            }
            text.push_str(line);
            if text.len() > TEXT_MAX {
                break;
            }
        }
        Self { code, status, text: safe_text(text.as_bytes(), TEXT_MAX) }
    }

    /// Reads one whole reply and nothing more.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let fed = ReplyReader::new().feed(octets).ok()?;
        fed.response.filter(|_| fed.used == octets.len()).map(|response| response.reply)
    }
}

/// Makes foreign text fit for a log, a file and a terminal: what is no UTF-8 becomes `?`, controls and characters
/// that are not seen become a space. At most `max` octets of it are kept.
pub fn safe_text(octets: &[u8], max: usize) -> String {
    let mut text = String::with_capacity(octets.len().min(max));
    for c in String::from_utf8_lossy(octets).chars() {
        let c = match c {
            char::REPLACEMENT_CHARACTER => '?',
            // Line and paragraph ends, joiners, and marks that turn the direction of text.
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
                ' '
            }
            c if c.is_control() => ' ',
            c => c,
        };
        if text.len() + c.len_utf8() > max {
            break;
        }
        text.push(c);
    }
    text.truncate(text.trim_end().len());
    text
}

/// Octets that an error quotes of a line that is no reply.
const QUOTED_MAX: usize = 60;

/// Code, whether it is the last line, and the text. RFC 5321 section 4.2 lets a line be the code alone.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !(b'2'..=b'5').contains(&digits[0]) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest.split_first() {
        None => Some((code, true, rest)),
        Some((b' ', text)) => Some((code, true, text)),
        Some((b'-', text)) => Some((code, false, text)),
        Some(_) => None,
    }
}

/// An enhanced status code of the reply's own class, and the text after it (RFC 2034 section 4, RFC 3463 section 2).
fn split_status(code: u16, text: &str) -> Option<(RemoteStatus, &str)> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut parts = word.split('.').map(|part| {
        let is_number = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| is_number)
    });
    let (class, subject, detail) = (parts.next()??, parts.next()??, parts.next()??);
    let fits = parts.next().is_none() && class == code / 100 && matches!(class, 2 | 4 | 5);
    fits.then_some(((class as u8, subject, detail), rest))
}

impl Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CodeChanged => f.write_str("the lines of a reply have different codes"),
            Self::LineTooLong => write!(f, "a reply line is longer than {LINE_MAX} octets"),
            Self::NoCode(begin) => write!(f, "no reply code: {begin:?}"),
            Self::TooManyLines => write!(f, "a reply has more than {LINES_MAX} lines"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reply in the input, read in pieces of `step`, and the error that ended it.
    fn read(input: &[u8], step: usize) -> (Vec<Response>, Option<ReplyError>) {
        let (mut reader, mut found) = (ReplyReader::new(), Vec::new());
        for mut piece in input.chunks(step) {
            while !piece.is_empty() {
                match reader.feed(piece) {
                    Err(error) => return (found, Some(error)),
                    Ok(fed) => {
                        piece = &piece[fed.used..];
                        found.extend(fed.response);
                    }
                }
            }
        }
        (found, None)
    }

    #[test]
    fn replies() {
        let rows: [(&[u8], &[&str]); 18] = [
            (b"250 2.1.0 Ok\r\n", &["250 2.1.0 Ok"]),
            (b"250 Ok\n", &["250 Ok"]),
            (b"250\r\n", &["250"]),
            (b"250 \r\n", &["250"]),
            (b"250-2.0.0 one\r\n250 2.0.0 two\r\n", &["250 2.0.0 one two"]),
            (b"250-one\n250-\r\n250 two\n", &["250 one two"]),
            (b"250 a\r\n354 b\r\n550 5.7.1 c\r\n", &["250 a", "354 b", "550 5.7.1 c"]),
            // Only a status of the reply's class is one; anything else is text.
            (b"550 4.1.1 no\r\n", &["550 4.1.1 no"]),
            (b"550 5.1.1\r\n", &["550 5.1.1"]),
            (b"550 5.1.1no\r\n", &["550 5.1.1no"]),
            (b"550 5.1 no\r\n", &["550 5.1 no"]),
            (b"550 5.1.1.1 no\r\n", &["550 5.1.1.1 no"]),
            (b"550 5.1234.1 no\r\n", &["550 5.1234.1 no"]),
            (b"354 3.0.0 go\r\n", &["354 3.0.0 go"]),
            (b"550 a\x1b[2Jb\0c\x07\td\r\r\n", &["550 a [2Jb c  d"]),
            (b"550 a\xffb\xc3\xb6c\r\n", &["550 a?böc"]),
            ("550 a\u{202e}b\u{200b}c\u{2028}d\r\n".as_bytes(), &["550 a b c d"]),
            (b"299 a\r\n", &["299 a"]),
        ];
        for (input, want) in rows {
            for step in [1, 2, 3, 64] {
                let (found, error) = read(input, step);
                let shown: Vec<String> = found.iter().map(|response| response.reply.to_string()).collect();
                assert_eq!((shown, error), (want.iter().map(|text| (*text).to_owned()).collect(), None), "{input:?} by {step}");
            }
        }
        let status = |input: &[u8]| RemoteReply::parse(input).unwrap().status;
        assert_eq!(status(b"550-5.1.1 a\r\n550 5.7.1 b\r\n"), Some((5, 1, 1)));
        assert_eq!(status(b"452 4.999.999 a\r\n"), Some((4, 999, 999)));
        for none in [
            &b"550 4.1.1 no\r\n"[..],
            b"550 5.1.1no\r\n",
            b"354 3.0.0 go\r\n",
            b"550 5.1234.1 no\r\n",
            b"550-no\r\n550 5.1.1 no\r\n",
        ] {
            assert_eq!(status(none), None, "{none:?}");
        }
    }

    #[test]
    fn what_is_no_reply() {
        use ReplyError::*;
        let no_code = |text: &str| NoCode(text.into());
        let rows: [(&[u8], ReplyError); 13] = [
            (b"\r\n", no_code("")),
            (b"25\r\n", no_code("25")),
            (b"2500 a\r\n", no_code("2500 a")),
            (b"250_a\r\n", no_code("250_a")),
            (b" 250 a\r\n", no_code(" 250 a")),
            (b"150 a\r\n", no_code("150 a")),
            (b"650 a\r\n", no_code("650 a")),
            (b"SSH-2.0-OpenSSH\x1b\r\n", no_code("SSH-2.0-OpenSSH")),
            (b"HTTP/1.1 400 Bad Request\r\n", no_code("HTTP/1.1 400 Bad Request")),
            (b"\x16\x03\x01\n", no_code("")),
            (b"250-a\r\n251 b\r\n", CodeChanged),
            (b"250-a\r\n550 b\r\n", CodeChanged),
            (b"250-a\r\nb\r\n", no_code("b")),
        ];
        for (input, want) in rows {
            for step in [1, 2, 64] {
                assert_eq!(read(input, step), (Vec::new(), Some(want.clone())), "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn bounds() {
        let line = |length: usize| [b"250 ".to_vec(), vec![b'a'; length - 4], b"\r\n".to_vec()].concat();
        for step in [1, 7, 100_000] {
            let (found, error) = read(&line(LINE_MAX), step);
            assert_eq!((found[0].lines[0].len(), error), (LINE_MAX - 4, None));
            assert_eq!(found[0].reply.text.len(), TEXT_MAX);
            assert_eq!(read(&line(LINE_MAX + 1), step), (Vec::new(), Some(ReplyError::LineTooLong)));
            let lines = |count: usize| [b"250-a\r\n".repeat(count - 1), b"250 a\r\n".to_vec()].concat();
            assert_eq!(read(&lines(LINES_MAX), step).0[0].lines.len(), LINES_MAX);
            assert_eq!(read(&lines(LINES_MAX + 1), step), (Vec::new(), Some(ReplyError::TooManyLines)));
        }
        // Ten megabytes without an end: refused when it is too long, and nothing of it is kept.
        let mut reader = ReplyReader::new();
        let piece = [b'2'; 1000];
        let taken = (0..10_000).take_while(|_| reader.feed(&piece).is_ok()).count();
        assert!(taken == 2 && reader.line.capacity() < 2 * LINE_MAX + 1000, "{taken} {}", reader.line.capacity());
    }

    /// A character is kept whole or not at all.
    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(safe_text("aöö".as_bytes(), 4), "aö");
        let reply = RemoteReply::of(550, &["ö".repeat(200)]);
        assert_eq!(reply.text.chars().count(), TEXT_MAX / 2);
    }
}
