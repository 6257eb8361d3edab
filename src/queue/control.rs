//! The control socket of a running server: one request a connection, asked and answered in lines of JSON.
//!
//! The kernel says which user calls; root and the user that the server runs as are answered, all others are refused. A
//! request is bounded, and so is the time that it may take to come.

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use super::listing::{MessageRow, RouteRow, Selectors};
pub use super::schedule::Verb;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Do this to these messages.
    Apply(Verb, Selectors),
    /// Every message that these mean.
    List(Selectors),
    /// Every route.
    Routes,
    /// The envelope of a message with every attempt, as it is in the spool.
    Show(String),
    /// In words: what happens to a message.
    Explain(String),
    /// Probe a route now.
    TryRoute(String),
}

/// One line of an answer; the last is [`Answer::End`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The end: the exit code (sysexits(3)) and a sentence for standard error, which may be empty.
    End(i32, String),
    /// A message.
    Message(Box<MessageRow>),
    /// A route.
    Route(RouteRow),
    /// A line for people.
    Text(String),
}

/// Octets of a request, at most: some thousand ids.
const REQUEST_MAX: u64 = 256 * 1024;
/// How long the server waits for a caller, and a caller for each line of the server's answer.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// The socket's name in the spool.
pub const NAME: &str = "control";

impl Verb {
    /// All of them with the words for what was done.
    pub const ALL: [Self; 5] = [Self::Drop, Self::Hold, Self::Release, Self::Return, Self::Try];

    /// The word that is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Return => "return",
            Self::Try => "try",
        }
    }

    /// The word for what was done.
    pub fn done(self) -> &'static str {
        match self {
            Self::Drop => "dropped",
            Self::Hold => "held",
            Self::Release => "released",
            Self::Return => "returned to the sender",
            Self::Try => "tried now",
        }
    }
}

/// Reads one caller's request and hands it to `serve`, which writes the answer; refuses users that are neither root nor
/// `own`.
pub fn answer(
    stream: UnixStream,
    own: u32,
    serve: impl FnOnce(Request, &mut dyn FnMut(Answer) -> io::Result<()>),
) -> io::Result<()> {
    stream.set_write_timeout(Some(TIMEOUTS.0))?;
    let mut out = BufWriter::new(&stream);
    let caller = getsockopt(&stream, PeerCredentials).map_err(io::Error::from)?.uid();
    if !may_ask(caller, own) {
        return write(&mut out, &Answer::End(77, "only root and the server's own user may do that".to_owned()))
            .and_then(|()| out.flush());
    }
    let line = request(&stream, Instant::now() + TIMEOUTS.0)?;
    match serde_json::from_slice(&line) {
        Ok(request) => serve(request, &mut |answer| write(&mut out, &answer)),
        Err(error) => write(&mut out, &Answer::End(64, format!("not understood: {error}")))?,
    }
    out.flush()
}

/// Asks the server whose spool is `spool`; `each` gets every line but the last, which is given back. `None` if no server
/// listens there.
pub fn ask(spool: &Path, request: &Request, mut each: impl FnMut(Answer)) -> io::Result<Option<(i32, String)>> {
    let stream = match UnixStream::connect(spool.join(NAME)) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        other => other?,
    };
    stream.set_read_timeout(Some(TIMEOUTS.1))?;
    let mut out = BufWriter::new(&stream);
    serde_json::to_writer(&mut out, request)?;
    out.write_all(b"\n")?;
    out.flush()?;
    for line in BufReader::new(&stream).lines() {
        match serde_json::from_str(&line?)? {
            Answer::End(exit, text) => return Ok(Some((exit, text))),
            answer => each(answer),
        }
    }
    Err(ErrorKind::UnexpectedEof.into())
}

/// The line of a request, whole before `deadline` however slowly it comes.
fn request(mut stream: &UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let (mut line, mut piece) = (Vec::new(), [0; 4096]);
    while !line.ends_with(b"\n") && (line.len() as u64) < REQUEST_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => break,
            octets => line.extend_from_slice(&piece[..octets]),
        }
    }
    Ok(line)
}

/// Root, and the user that the server runs as.
fn may_ask(caller: u32, own: u32) -> bool {
    caller == 0 || caller == own
}

fn write(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    fn own() -> u32 {
        nix::unistd::getuid().as_raw()
    }

    #[test]
    fn a_request_and_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(NAME)).unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut seen = None;
            answer(stream, own(), |request, say| {
                seen = Some(request);
                say(Answer::Text("one".into())).unwrap();
                say(Answer::End(66, "no such message".into())).unwrap();
            })
            .unwrap();
            seen
        });
        let request = Request::Apply(Verb::Try, Selectors { all: true, ..Default::default() });
        let mut lines = Vec::new();
        let end = ask(dir.path(), &request, |answer| lines.push(answer)).unwrap();
        assert_eq!(end, Some((66, "no such message".to_owned())));
        assert_eq!(lines, [Answer::Text("one".into())]);
        assert_eq!(server.join().unwrap(), Some(request));
    }

    #[test]
    fn no_server_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ask(dir.path(), &Request::Routes, |_| {}).unwrap(), None);
        drop(UnixListener::bind(dir.path().join(NAME)).unwrap());
        assert_eq!(ask(dir.path(), &Request::Routes, |_| {}).unwrap(), None, "a socket that is left over");
    }

    #[test]
    fn what_is_no_request_is_answered_and_bounded() {
        let say = |sent: Vec<u8>| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let server = thread::spawn(move || answer(theirs, own(), |_, _| panic!("understood")));
            let mut out = &ours;
            let _ = out.write_all(&sent);
            let _ = ours.shutdown(std::net::Shutdown::Write);
            let mut text = String::new();
            let _ = (&ours).read_to_string(&mut text);
            drop(ours);
            let _ = server.join().unwrap();
            text
        };
        assert!(say(b"HELP\n".to_vec()).contains("[64,"));
        assert!(say(vec![b'x'; 2 * REQUEST_MAX as usize]).len() < 1000);
    }

    #[test]
    fn who_may_ask() {
        assert!(may_ask(0, 998) && may_ask(998, 998) && !may_ask(1000, 998) && !may_ask(65_534, 998));
    }
}
