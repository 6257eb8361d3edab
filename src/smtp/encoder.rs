//! Message content as it is stored, to message content as it crosses the wire after DATA.
//!
//! Lines leave with CR LF, leading dots are stuffed (RFC 5321 section 4.5.2), nothing else is changed. A CR or NUL is
//! refused: content that was accepted holds none, and a server that takes a bare CR for a line end would read another end
//! of the message than this one (SMTP smuggling, CVE-2023-51764). The counterpart of [`data`](super::data).

/// Turns lines into the octets of one message; feed it any split of them.
#[derive(Clone, Debug)]
pub struct Encoder {
    at_line_start: bool,
}

/// The content holds an octet that no message may hold: a CR or a NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForbiddenOctet;

/// What ends the content, at the start of a line.
pub const FINAL_DOT: &[u8] = b".\r\n";

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder before the first octet of a message.
    pub fn new() -> Self {
        Self { at_line_start: true }
    }

    /// Takes a piece of content and appends what it is on the wire to `out`: at most three times its octets.
    pub fn feed(&mut self, content: &[u8], out: &mut Vec<u8>) -> Result<(), ForbiddenOctet> {
        let mut rest = content;
        while let Some(first) = rest.first() {
            if self.at_line_start && *first == b'.' {
                out.push(b'.');
            }
            let Some(end) = memchr::memchr3(b'\n', b'\r', 0, rest) else {
                out.extend_from_slice(rest);
                self.at_line_start = false;
                return Ok(());
            };
            if rest[end] != b'\n' {
                return Err(ForbiddenOctet);
            }
            out.extend_from_slice(&rest[..end]);
            out.extend_from_slice(b"\r\n");
            self.at_line_start = true;
            rest = &rest[end + 1..];
        }
        Ok(())
    }

    /// Ends the last line if it has no end; [`FINAL_DOT`] may follow.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.at_line_start {
            out.extend_from_slice(b"\r\n");
            self.at_line_start = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(content: &[u8], step: usize) -> Result<Vec<u8>, ForbiddenOctet> {
        let (mut encoder, mut out) = (Encoder::new(), Vec::new());
        for piece in content.chunks(step) {
            encoder.feed(piece, &mut out)?;
        }
        encoder.finish(&mut out);
        Ok(out)
    }

    #[test]
    fn lines_and_dots() {
        let rows: [(&[u8], &[u8]); 12] = [
            (b"", b""),
            (b"\n", b"\r\n"),
            (b"a\n", b"a\r\n"),
            (b"a", b"a\r\n"),
            (b".", b"..\r\n"),
            (b".\n", b"..\r\n"),
            (b"..\n", b"...\r\n"),
            (b".\n.\n", b"..\r\n..\r\n"),
            (b"a.\n.b\n", b"a.\r\n..b\r\n"),
            (b"\n.\n\n", b"\r\n..\r\n\r\n"),
            (b"a\n.QUIT", b"a\r\n..QUIT\r\n"),
            (b"\xff\x80\n", b"\xff\x80\r\n"),
        ];
        for (content, want) in rows {
            for step in [1, 2, 3, 64] {
                assert_eq!(encode(content, step).as_deref(), Ok(want), "{content:?} by {step}");
            }
        }
    }

    #[test]
    fn no_other_line_end_leaves() {
        for content in [&b"a\r\n"[..], b"a\r.\n", b"\r", b"a\0\n", b"\n.\r\n"] {
            for step in [1, 2, 64] {
                assert_eq!(encode(content, step), Err(ForbiddenOctet), "{content:?} by {step}");
            }
        }
    }
}
