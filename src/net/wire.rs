//! Lines in, replies out, over any [`Link`].
//!
//! A line is what stands before CR LF, and is bounded; nothing else ends one. Replies gather while complete commands
//! are in the buffer and leave in one write when the server has to wait for more, so a pipelined batch is answered in
//! one piece (RFC 2920 section 3.2). Buffers are given back when the client falls silent, and are wiped where a password
//! stood in them.

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::time::Instant;

use zeroize::Zeroize as _;

use super::deadline::Wait;
use super::stream::{Link, ReadMode};

/// A [`Link`] with buffers.
#[derive(Debug)]
pub struct Wire<L> {
    link: L,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    out: Vec<u8>,
}

/// What was found where a line was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A CR, LF or NUL that is not part of a CR LF; nothing after it can be trusted.
    Bare,
    /// The client has gone.
    End,
    /// The first octets of a TLS record where a command belongs.
    Foreign(Range<usize>),
    /// Where the line stands in the buffer, without its CRLF; valid until the next read.
    Text(Range<usize>),
    /// A line that is too long; it was read to its end and dropped.
    TooLong,
}

/// Octets of the input buffer between commands: some pipelined ones.
const IN_COMMANDS: usize = 4 * 1024;
/// Octets of the input buffer while nothing comes: one command.
const AT_REST: usize = 512;
/// Octets of the input buffer within a message: two TLS records.
const IN_CONTENT: usize = 32 * 1024;
/// How a TLS handshake begins (RFC 8446 section 5.1): it has no line end to wait for.
const TLS_RECORD: [u8; 2] = [0x16, 0x03];
/// Replies are sent at the latest when so many octets wait.
const OUT_MAX: usize = 4 * 1024;

impl<L: Link> Wire<L> {
    /// A wire over a link.
    pub fn new(link: L) -> Self {
        Self { link, buffer: Vec::new(), start: 0, end: 0, out: Vec::new() }
    }

    /// The link.
    pub fn link(&mut self) -> &mut L {
        &mut self.link
    }

    /// Replies gather here; they leave by [`Self::flush`], or when the next line or content has to be waited for.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Sends what has gathered.
    pub fn flush(&mut self, wait: Wait) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.link.clock().begin(wait, Instant::now());
        let sent = self.link.write_all(&self.out).and_then(|()| self.link.flush());
        self.out.clear();
        if self.out.capacity() > OUT_MAX {
            self.out = Vec::new();
        }
        sent
    }

    /// Reads a line of at most `max` octets without its CRLF. When it has to be waited for longer, wide buffers are given
    /// back, and `release` is called for those of the caller's.
    pub fn line(&mut self, wait: Wait, max: usize, release: impl FnOnce()) -> io::Result<Line> {
        let mut scanned = 0;
        let mut dropping = false;
        if self.out.len() >= OUT_MAX {
            self.flush(Wait::Reply)?;
        }
        let mut waiting = false;
        let mut release = Some(release);
        loop {
            if !dropping && self.buffer[self.start..self.end].starts_with(&TLS_RECORD) && self.link.tls().is_none() {
                return Ok(Line::Foreign(self.start..self.end));
            }
            let pending = &self.buffer[self.start + scanned..self.end];
            match memchr::memchr3(b'\r', b'\n', 0, pending) {
                Some(at) if pending[at] == b'\r' && pending.get(at + 1) == Some(&b'\n') => {
                    let line = self.start..self.start + scanned + at;
                    self.start = line.end + 2;
                    return Ok(if dropping || line.len() > max { Line::TooLong } else { Line::Text(line) });
                }
                Some(at) if pending[at] == b'\r' && at + 1 == pending.len() => scanned += at,
                Some(_) => return Ok(Line::Bare),
                None => scanned += pending.len(),
            }
            if scanned > max {
                // Too long whatever comes: only a CR at its very end may still matter.
                dropping = true;
                self.wipe(self.start..self.start + scanned);
                self.start += scanned;
                scanned = 0;
            }
            if !waiting {
                self.flush(Wait::Reply)?;
                self.link.clock().begin(wait, Instant::now());
                waiting = true;
            }
            let unread = self.end - self.start;
            let room = match wait {
                Wait::Command if release.is_none() && unread < AT_REST => AT_REST,
                Wait::Command if unread < IN_COMMANDS => IN_COMMANDS,
                _ => max + 2,
            };
            let mode = if release.is_some() { ReadMode::OneSlice } else { ReadMode::UntilDeadline };
            match self.fill(room, mode)? {
                Some(0) => return Ok(Line::End),
                Some(_) => {}
                None => {
                    self.release_buffers();
                    release.take().into_iter().for_each(|release| release());
                }
            }
        }
    }

    /// The octets of a line that was found.
    pub fn text(&self, line: Range<usize>) -> &[u8] {
        &self.buffer[line]
    }

    /// Overwrites octets of the buffer, and what the link still has of them.
    pub fn wipe(&mut self, range: Range<usize>) {
        self.buffer[range].zeroize();
        self.link.wipe_input();
    }

    /// True if the client had sent more than what was read as lines when the last of them came, whether it has been looked at or not.
    pub fn has_more(&mut self) -> io::Result<bool> {
        if self.start < self.end {
            return Ok(true);
        }
        if self.link.is_drained() {
            return Ok(false);
        }
        if self.buffer.len() == self.end {
            self.grow(self.end + 512);
        }
        match self.link.read_within(ReadMode::NonBlocking, &mut self.buffer[self.end..])? {
            Some(octets) => {
                self.end += octets;
                Ok(octets > 0)
            }
            None => Ok(false),
        }
    }

    /// What the client has sent already, though it was not its turn; 512 octets of it at most.
    pub fn early(&mut self) -> io::Result<&[u8]> {
        while self.end - self.start < 512 {
            let before = self.end;
            self.grow(self.end + 512);
            match self.link.read_within(ReadMode::NonBlocking, &mut self.buffer[self.end..])? {
                Some(octets) => self.end += octets,
                None => break,
            }
            if self.end == before {
                break;
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Prepares for content: a wide buffer, and one clock for the whole of it.
    pub fn begin_content(&mut self, wait: Wait) -> io::Result<()> {
        self.flush(Wait::Reply)?;
        self.link.clock().begin(wait, Instant::now());
        self.link.expect_much();
        self.grow(IN_CONTENT);
        Ok(())
    }

    /// The next octets of content, waiting for them if there are none; an error if the client has gone.
    pub fn content(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.fill(IN_CONTENT, ReadMode::UntilDeadline)? == Some(0) {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// So many octets of content were taken.
    pub fn consume(&mut self, octets: usize) {
        self.start = (self.start + octets).min(self.end);
        self.link.clock().moved(octets, Instant::now());
    }

    /// Gives wide buffers back, if what is unread fits into a narrow one.
    fn release_buffers(&mut self) {
        self.link.release_buffers();
        let unread = self.end - self.start;
        if self.buffer.len() > AT_REST && unread <= AT_REST {
            let mut narrow = vec![0; AT_REST];
            narrow[..unread].copy_from_slice(&self.buffer[self.start..self.end]);
            self.buffer = narrow;
            (self.start, self.end) = (0, unread);
        }
    }

    /// Forgets what was read: nothing from before the handshake survives it.
    pub fn forget_input(&mut self) {
        self.buffer.zeroize();
        self.buffer = Vec::new();
        (self.start, self.end) = (0, 0);
    }

    /// Reads once, with room for `room` unread octets in all; 0 at the end, `None` if the mode was not enough.
    fn fill(&mut self, room: usize, mode: ReadMode) -> io::Result<Option<usize>> {
        if self.start > 0 && (self.start == self.end || self.buffer.len() - self.start < room) {
            self.buffer.copy_within(self.start..self.end, 0);
            // What has moved may be a part of a password.
            let moved = self.end - self.start;
            self.buffer[self.start.max(moved)..self.end].zeroize();
            (self.start, self.end) = (0, moved);
        }
        if self.buffer.len() < room {
            self.grow(room);
        }
        let came = match self.link.read_within(mode, &mut self.buffer[self.end..]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Some(0),
            other => other?,
        };
        self.end += came.unwrap_or(0);
        Ok(came)
    }

    /// Makes the buffer larger and leaves no copy of a password where it was.
    fn grow(&mut self, size: usize) {
        if self.buffer.len() < size {
            let mut larger = vec![0; size];
            larger[..self.end].copy_from_slice(&self.buffer[..self.end]);
            self.buffer.zeroize();
            self.buffer = larger;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::deadline::{Clock, DeadlineLimits};
    use crate::net::tls::{TlsInfo, TlsServer};
    use std::time::Duration;

    /// A client that is silent for a slice, and then says a line.
    struct Silent {
        clock: Clock,
        released: bool,
        /// The most that was read at once before and after buffers were given back.
        rooms: [usize; 2],
    }

    impl io::Read for Silent {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.rooms[usize::from(self.released)] = buffer.len();
            buffer[..6].copy_from_slice(b"NOOP\r\n");
            Ok(6)
        }
    }

    impl io::Write for Silent {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Link for Silent {
        fn clock(&mut self) -> &mut Clock {
            &mut self.clock
        }

        fn read_within(&mut self, mode: ReadMode, buffer: &mut [u8]) -> io::Result<Option<usize>> {
            if mode == ReadMode::UntilDeadline { io::Read::read(self, buffer).map(Some) } else { Ok(None) }
        }

        fn expect_much(&mut self) {}

        fn release_buffers(&mut self) {
            self.released = true;
        }

        fn start_tls(&mut self, _: &TlsServer) -> io::Result<TlsInfo> {
            Err(ErrorKind::Unsupported.into())
        }

        fn tls(&self) -> Option<TlsInfo> {
            None
        }

        fn close(&mut self) {}
    }

    #[test]
    fn a_silent_session_holds_no_wide_buffers() {
        let minute = Duration::from_secs(60);
        let limits = DeadlineLimits { idle: minute, login: minute, session: minute, data_rate: 1 };
        let mut wire = Wire::new(Silent { clock: Clock::new(limits, Instant::now()), released: false, rooms: [0; 2] });
        wire.begin_content(Wait::Data).unwrap();
        let octets = wire.content().unwrap().len();
        wire.consume(octets);
        let mut given_back = false;
        assert_eq!(wire.line(Wait::Command, 1000, || given_back = true).unwrap(), Line::Text(0..4));
        assert!(given_back && wire.link().released);
        assert_eq!(wire.link().rooms, [IN_CONTENT, AT_REST]);
    }
}
