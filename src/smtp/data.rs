//! Message content as it crosses the wire, to message content as it is stored.
//!
//! Only CR LF "." CR LF ends DATA (RFC 5321 section 4.1.1.4). Lines leave with LF alone, leading dots are unstuffed
//! (section 4.5.2). A bare CR, a bare LF or a NUL makes the whole message refused, because a server that relays it
//! later could see another end than we do (SMTP smuggling, CVE-2023-51764 and its kin): the decoder remembers where the
//! first one stood, gives nothing out any more, and reads on to the true end. What follows a false end is therefore
//! content, never a command.

use std::fmt;

/// How content is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// BDAT: so many octets, no dots (RFC 3030).
    Chunks,
    /// DATA: dot-stuffed, up to the lone dot.
    Dots,
}

/// Turns the octets of one message into lines; feed it any split of them.
#[derive(Clone, Debug)]
pub struct Decoder {
    framing: Framing,
    state: State,
    line: u64,
    /// Octets of the present line that went by.
    octet: u64,
    /// Octets of content, each line end counted as the two that it is on the wire (RFC 1870 section 4).
    content: u64,
    fault: Option<Fault>,
}

/// What became of a piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Octets that belonged to the message or its end.
    pub used: usize,
    /// True once the lone dot has gone by.
    pub ended: bool,
}

/// The first octet that no message may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which kind.
    pub kind: FaultKind,
    /// The line it stands in; the first is 1.
    pub line: u64,
    /// The octet within that line as it was sent; the first is 1.
    pub octet: u64,
}

/// Octets that no message may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A CR without an LF after it.
    BareCr,
    /// An LF without a CR before it.
    BareLf,
    /// A NUL.
    Nul,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// After a CR within a line.
    Cr,
    /// After a dot that began a line.
    Dot,
    /// After a dot that began a line, and a CR.
    DotCr,
    /// At the start of a line; the content starts as if a CRLF had gone before it.
    LineStart,
    /// Within a line.
    Text,
}

impl Decoder {
    /// A decoder before the first octet of a message.
    pub fn new(framing: Framing) -> Self {
        Self { framing, state: State::LineStart, line: 1, octet: 0, content: 0, fault: None }
    }

    /// Takes a piece of input and appends what it means to `out`, which never grows by more than `input.len() + 1`.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Fed {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::LineStart if self.framing == Framing::Dots && input[at] == b'.' => {
                    self.state = State::Dot;
                    self.octet += 1;
                    at += 1;
                }
                State::LineStart | State::Text => at += self.text(&input[at..], out),
                State::Dot if input[at] == b'\r' => {
                    self.state = State::DotCr;
                    self.octet += 1;
                    at += 1;
                }
                State::Dot => self.state = State::Text,
                State::DotCr if input[at] == b'\n' => return Fed { used: at + 1, ended: true },
                State::Cr if input[at] == b'\n' => {
                    self.emit(b"\n", out);
                    self.end_line();
                    at += 1;
                }
                State::Cr | State::DotCr => {
                    // The CR stands before the octet that is looked at now.
                    self.note(FaultKind::BareCr, self.octet);
                    self.state = State::Text;
                }
            }
        }
        Fed { used: at, ended: false }
    }

    /// Says that no more content comes (the end of the last chunk), and gives the first fault if there was one.
    pub fn finish(&mut self) -> Option<Fault> {
        if self.state == State::Cr {
            self.note(FaultKind::BareCr, self.octet);
        }
        self.fault
    }

    /// The first fault so far.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Octets of content so far, as RFC 1870 section 4 counts them: stuffed dots and the lone dot are none.
    pub fn octets(&self) -> u64 {
        self.content
    }

    /// Takes whole lines and the text after them, up to the next octet that matters, and that octet; gives how many.
    fn text(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let mut at = 0;
        while let Some(length) = memchr::memchr3(b'\r', b'\n', 0, &input[at..]) {
            let (start, end) = (at, at + length);
            at = end + 1;
            self.octet += length as u64 + 1;
            self.content += length as u64;
            self.state = State::Text;
            if input[end] == b'\r' && input.get(at) == Some(&b'\n') {
                self.emit(&input[start..at], out);
                if let (None, Some(cr)) = (self.fault, out.last_mut()) {
                    *cr = b'\n';
                }
                self.end_line();
                at += 1;
                // What a line begins with may matter.
                if input.get(at).is_none_or(|octet| *octet == b'.') {
                    return at;
                }
                continue;
            }
            self.emit(&input[start..end], out);
            match input[end] {
                b'\r' => self.state = State::Cr,
                b'\n' => self.note(FaultKind::BareLf, self.octet),
                _ => self.note(FaultKind::Nul, self.octet),
            }
            return at;
        }
        let rest = &input[at..];
        self.emit(rest, out);
        self.octet += rest.len() as u64;
        self.content += rest.len() as u64;
        self.state = State::Text;
        input.len()
    }

    fn end_line(&mut self) {
        self.line += 1;
        self.content += 2;
        self.octet = 0;
        self.state = State::LineStart;
    }

    fn emit(&self, text: &[u8], out: &mut Vec<u8>) {
        if self.fault.is_none() {
            out.extend_from_slice(text);
        }
    }

    fn note(&mut self, kind: FaultKind, octet: u64) {
        self.fault.get_or_insert(Fault { kind, line: self.line, octet });
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            FaultKind::BareCr => "bare CR",
            FaultKind::BareLf => "bare LF",
            FaultKind::Nul => "NUL",
        };
        write!(f, "{kind} in line {}, octet {}", self.line, self.octet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces of `step`; gives the content, the octets used, whether it ended, and the fault.
    fn run(framing: Framing, input: &[u8], step: usize) -> (Vec<u8>, usize, bool, Option<Fault>) {
        let mut decoder = Decoder::new(framing);
        let (mut out, mut used) = (Vec::new(), 0);
        for piece in input.chunks(step) {
            let fed = decoder.feed(piece, &mut out);
            used += fed.used;
            if fed.ended {
                return (out, used, true, decoder.finish());
            }
        }
        (out, used, false, decoder.finish())
    }

    fn each_split(framing: Framing, input: &[u8], check: impl Fn((Vec<u8>, usize, bool, Option<Fault>), usize)) {
        for step in [1, 2, 3, 4, 5, 7, 64] {
            check(run(framing, input, step), step);
        }
    }

    #[test]
    fn content_and_its_end() {
        let rows: [(&[u8], &[u8], usize); 9] = [
            (b".\r\nQUIT", b"", 3),
            (b"a\r\n.\r\nQUIT", b"a\n", 6),
            (b"\r\n.\r\n", b"\n", 5),
            (b"..\r\n.\r\n", b".\n", 7),
            (b"...\r\n.\r\n", b"..\n", 8),
            (b".a\r\n.\r\n", b"a\n", 7),
            (b"a.\r\n.\r\n", b"a.\n", 7),
            (b"a\r\n.b\r\n..\r\n.\r\n", b"a\nb\n.\n", 14),
            (b"\xff\x80\r\n.\r\n", b"\xff\x80\n", 7),
        ];
        for (input, want, length) in rows {
            each_split(Framing::Dots, input, |(out, used, ended, fault), step| {
                assert!(ended && fault.is_none(), "{input:?} by {step}: {fault:?}");
                assert_eq!((&out[..], used), (want, length), "{input:?} by {step}");
            });
        }
    }

    #[test]
    fn false_ends_are_content_and_faults() {
        use FaultKind::*;
        let rows: [(&[u8], FaultKind, u64, u64); 16] = [
            (b"a\n.\n", BareLf, 1, 2),
            (b"a\n.\r\n", BareLf, 1, 2),
            (b"a\r.\r\n", BareCr, 1, 2),
            (b"a\r.\r", BareCr, 1, 2),
            (b"a\r\n.\n", BareLf, 2, 2),
            (b"a\r\n.\r", BareCr, 2, 2),
            (b"a\r\n.\r\r\n", BareCr, 2, 2),
            (b"a\r\r\n.\r\n", BareCr, 1, 2),
            (b"a\r\n\r.\r\n", BareCr, 2, 1),
            (b"a\r\n\n.\r\n", BareLf, 2, 1),
            (b"\n.\r\n", BareLf, 1, 1),
            (b"a\0\r\n", Nul, 1, 2),
            (b"a\r\n.\0\r\n", Nul, 2, 2),
            (b"a\r\0\n.\r\n", BareCr, 1, 2),
            (b"a\r\nb\r\ncd\n.\n", BareLf, 3, 3),
            (b"\r.\r\n", BareCr, 1, 1),
        ];
        for (input, kind, line, octet) in rows {
            // Whatever the false end, what follows is read as content up to the true one.
            let whole = [input, b"MAIL FROM:<x@y.example>\r\n\r\n.\r\nrest"].concat();
            let true_end = memchr::memmem::find(&[b"\r\n", &whole[..]].concat(), b"\r\n.\r\n").unwrap() + 3;
            each_split(Framing::Dots, &whole, |(_, used, ended, fault), step| {
                assert!(ended, "{input:?} by {step}");
                assert_eq!(fault, Some(Fault { kind, line, octet }), "{input:?} by {step}");
                assert_eq!(used, true_end, "{input:?} by {step}");
            });
        }
    }

    #[test]
    fn chunks_know_no_dots() {
        each_split(Framing::Chunks, b".\r\n..\r\nend", |(out, used, ended, fault), _| {
            assert_eq!((&out[..], used, ended, fault), (&b".\n..\nend"[..], 10, false, None));
        });
        for (input, octet) in [(&b"a\r"[..], 2), (b"ab\rc\r\n", 3)] {
            each_split(Framing::Chunks, input, |(.., fault), _| {
                assert_eq!(fault, Some(Fault { kind: FaultKind::BareCr, line: 1, octet }));
            });
        }
    }
}
