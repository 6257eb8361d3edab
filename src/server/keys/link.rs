//! Numbered questions and answers over a stream; answers to questions that were given up are skipped.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The end that asks.
#[derive(Debug)]
pub(super) struct Link {
    socket: UnixStream,
    /// What has come of an answer so far; it is kept when its question is given up.
    input: Vec<u8>,
    number: u64,
    timeout: Duration,
}

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A kind and a number.
pub(super) const QUESTION_LEN: usize = 9;
/// A number and a length.
const HEADER_LEN: usize = 12;
/// Octets of an answer, at most: a chain of certificates, and keys for thousands of domains.
const ANSWER_MAX: usize = 16 * (super::FILE_MAX as usize);

impl Link {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self { socket, input: Vec::new(), number: 0, timeout: TIMEOUT }
    }

    /// What the other end says before it is asked anything.
    pub(super) fn hello(&mut self) -> io::Result<Vec<u8>> {
        self.answer_to(0)
    }

    /// An error of kind `TimedOut` may pass; after any other the link is of no use.
    pub(super) fn ask(&mut self, kind: u8) -> io::Result<Vec<u8>> {
        self.number += 1;
        let mut question = [kind; QUESTION_LEN];
        question[1..].copy_from_slice(&self.number.to_le_bytes());
        self.socket.set_write_timeout(Some(self.timeout))?;
        self.socket.write_all(&question).map_err(timed_out)?;
        self.answer_to(self.number)
    }

    fn answer_to(&mut self, wanted: u64) -> io::Result<Vec<u8>> {
        let deadline = Instant::now() + self.timeout;
        loop {
            while let Some((number, text)) = self.take_answer()? {
                match number {
                    _ if number == wanted => return Ok(text),
                    _ if number > wanted => return Err(io::ErrorKind::InvalidData.into()),
                    _ => {}
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            let mut piece = zeroize::Zeroizing::new([0; 4096]);
            match self.socket.read(&mut *piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(octets) => self.input.extend_from_slice(&piece[..octets]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(timed_out(error)),
            }
        }
    }

    /// An answer that has come whole.
    fn take_answer(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let Some((header, text)) = self.input.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let (number, length) = (number_of(&header[..8]), number_of(&header[8..]) as usize);
        if length > ANSWER_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some((text, rest)) = text.split_at_checked(length) else { return Ok(None) };
        let (text, rest) = (text.to_vec(), rest.to_vec());
        // Not drained in place: what held a key goes back to the allocator, which wipes it.
        self.input = rest;
        Ok(Some((number, text)))
    }
}

/// Writes an answer.
pub(super) fn answer(socket: &mut UnixStream, number: u64, text: &[u8]) -> io::Result<()> {
    let length = (text.len() as u32).to_le_bytes();
    socket.write_all(&[&number.to_le_bytes()[..], &length, text].concat())
}

/// Kind and number.
pub(super) fn question(bytes: &[u8; QUESTION_LEN]) -> (u8, u64) {
    (bytes[0], number_of(&bytes[1..]))
}

fn number_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A socket's time limit is `WouldBlock` (EAGAIN).
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Link { timeout: Duration::from_millis(50), ..Link::new(ours) }, theirs)
    }

    #[test]
    fn an_answer_that_is_late_is_skipped_whole_or_in_pieces() {
        let (mut link, mut helper) = pair();
        answer(&mut helper, 0, b"hello").unwrap();
        assert_eq!(link.hello().unwrap(), b"hello");
        assert_eq!(link.ask(b's').unwrap_err().kind(), io::ErrorKind::TimedOut);
        // The late one comes in two pieces, the second after the next question was given up as well.
        let mut late = Vec::new();
        late.extend_from_slice(&1u64.to_le_bytes());
        late.extend_from_slice(&10u32.to_le_bytes());
        late.extend_from_slice(b"stale");
        helper.write_all(&late).unwrap();
        assert_eq!(link.ask(b'r').unwrap_err().kind(), io::ErrorKind::TimedOut);
        helper.write_all(b"stale").unwrap();
        answer(&mut helper, 2, b"stale too").unwrap();
        answer(&mut helper, 3, b"fresh").unwrap();
        assert_eq!(link.ask(b'r').unwrap(), b"fresh");
        let mut questions = [0; 3 * QUESTION_LEN];
        helper.read_exact(&mut questions).unwrap();
        let third = questions.as_chunks::<QUESTION_LEN>().0[2];
        assert_eq!(question(&third), (b'r', 3));
    }

    #[test]
    fn an_end_and_nonsense_are_errors_that_stay() {
        let (mut link, mut helper) = pair();
        answer(&mut helper, 7, b"").unwrap();
        assert_eq!(link.ask(b's').unwrap_err().kind(), io::ErrorKind::InvalidData, "an answer to no question");
        let (mut link, mut helper) = pair();
        helper.write_all(&[0xff; HEADER_LEN]).unwrap();
        assert_eq!(link.ask(b's').unwrap_err().kind(), io::ErrorKind::InvalidData, "a length that no answer has");
        let (mut link, helper) = pair();
        drop(helper);
        assert_ne!(link.ask(b's').unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
