//! The client's side of a local socket: one message, or the octets as they are.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Ending, Mail, exit};
use crate::smtp::dsn;

/// How long a server that is not there is tried for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it takes until the next try.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a reply may take (RFC 5321 section 4.5.3.2).
const REPLY_MAX: Duration = Duration::from_secs(600);
/// Octets of a reply that are kept.
const REPLY_SIZE_MAX: u64 = 64 * 1024;

/// A session that was greeted.
pub(super) struct Session {
    stream: BufReader<UnixStream>,
    /// The server's name.
    pub(super) hostname: String,
    /// The caller's own address, as the server knows it.
    pub(super) sender: Option<String>,
    extensions: Vec<String>,
}

/// A reply of the server's.
pub(super) struct Reply {
    code: u16,
    /// All of it, a line each, without codes.
    lines: Vec<String>,
}

impl Session {
    /// Connects to the first of these sockets that a server answers at; tries for half a minute.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, Ending> {
        Self::open_within(PATIENCE, paths)
    }

    fn open_within(limit: Duration, paths: &[PathBuf]) -> Result<Self, Ending> {
        let end = Instant::now() + limit;
        loop {
            let mut why: Option<Ending> = None;
            for path in paths {
                match Self::greeted(path) {
                    Ok(session) => return Ok(session),
                    // One that may come is worth waiting for; else the first says why.
                    Err(ending) if ending.exit == exit::TEMPORARY || why.is_none() => why = Some(ending),
                    Err(_) => {}
                }
            }
            let why = why.unwrap_or_else(|| Ending::new(exit::TEMPORARY, "there is no local socket"));
            if why.exit != exit::TEMPORARY || Instant::now() >= end {
                return Err(why);
            }
            thread::sleep(PAUSE);
        }
    }

    fn greeted(path: &Path) -> Result<Self, Ending> {
        let stream = connect(path)?;
        let mut session = Self { stream: BufReader::new(stream), hostname: String::new(), sender: None, extensions: Vec::new() };
        session.reply()?.wants(220, "connect")?;
        let mut lines = session.say("EHLO localhost")?.wants(250, "EHLO")?.lines.into_iter();
        let first = lines.next().unwrap_or_default();
        let (hostname, sender) = first.split_once(' ').map_or((first.as_str(), None), |(name, own)| (name, Some(own)));
        session.hostname = hostname.to_owned();
        session.sender = sender.map(str::to_owned);
        session.extensions = lines.map(|line| line.to_ascii_uppercase()).collect();
        Ok(session)
    }

    /// Sends a message. Recipients that are refused are named on standard error, and the others get it.
    pub(super) fn send(mut self, mail: &Mail) -> Result<(), Ending> {
        self.say(&self.mail_command(mail))?.wants(250, "MAIL")?;
        let (mut accepted, mut refused) = (0, None);
        for recipient in &mail.recipients {
            match self.say(&self.rcpt_command(mail, recipient))?.wants(250, "RCPT") {
                Ok(_) => accepted += 1,
                Err(ending) => {
                    let ending = Ending { text: format!("{recipient}: {}", ending.text), ..ending };
                    if let Some(Ending { text, .. }) = refused.replace(ending) {
                        super::complain(&text);
                    }
                }
            }
        }
        if accepted > 0 {
            self.say("DATA")?.wants(354, "DATA")?;
            self.stream.get_mut().write_all(&mail.content).map_err(broken)?;
            self.reply()?.wants(250, "the message")?;
        }
        let _ = self.say("QUIT");
        refused.map_or(Ok(()), Err)
    }

    fn offers(&self, extension: &str) -> bool {
        self.extensions.iter().any(|offered| offered.split(' ').next() == Some(extension))
    }

    fn mail_command(&self, mail: &Mail) -> String {
        let mut line = format!("MAIL FROM:<{}>", mail.sender);
        if mail.is_eight_bit && self.offers("8BITMIME") {
            line.push_str(" BODY=8BITMIME");
        }
        let utf8 = !mail.sender.is_ascii() || mail.recipients.iter().any(|recipient| !recipient.is_ascii());
        if utf8 && self.offers("SMTPUTF8") {
            line.push_str(" SMTPUTF8");
        }
        if self.offers("DSN") {
            if let Some(ret) = mail.ret {
                line.push_str(if ret == dsn::Ret::Full { " RET=FULL" } else { " RET=HDRS" });
            }
            if let Some(envid) = &mail.envid {
                line.push_str(&format!(" ENVID={}", dsn::encode_xtext(envid)));
            }
        }
        line
    }

    fn rcpt_command(&self, mail: &Mail, recipient: &str) -> String {
        let mut line = format!("RCPT TO:<{recipient}>");
        if let Some(notify) = mail.notify.filter(|_| self.offers("DSN")) {
            let words = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
            let words: Vec<&str> = words.into_iter().filter(|(asked, _)| *asked).map(|(_, word)| word).collect();
            line.push_str(&format!(" NOTIFY={}", if words.is_empty() { "NEVER".to_owned() } else { words.join(",") }));
        }
        line
    }

    fn say(&mut self, line: &str) -> Result<Reply, Ending> {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).map_err(broken)?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply, Ending> {
        let mut lines = Vec::new();
        let mut input = (&mut self.stream).take(REPLY_SIZE_MAX);
        loop {
            let mut line = String::new();
            if input.read_line(&mut line).map_err(broken)? == 0 {
                return Err(broken(ErrorKind::UnexpectedEof.into()));
            }
            let line = line.trim_end();
            let code = line.get(..3).and_then(|code| code.parse().ok()).ok_or_else(|| broken(ErrorKind::InvalidData.into()))?;
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }
}

impl Reply {
    fn wants(self, code: u16, place: &str) -> Result<Self, Ending> {
        if self.code == code {
            return Ok(self);
        }
        let text = format!("{} {}", self.code, self.lines.join(" "));
        Err(Ending { exit: exit::of_reply(self.code, self.lines.first().map_or("", String::as_str), place), text })
    }
}

/// Carries octets between standard input and output and the first socket that is there, until the server closes.
pub(super) fn pass_through(paths: &[PathBuf]) -> Result<(), Ending> {
    let end = Instant::now() + PATIENCE;
    let stream = loop {
        let mut tried = paths.iter().map(|path| connect(path));
        match tried.find(Result::is_ok) {
            Some(stream) => break stream?,
            None if Instant::now() >= end => {
                return Err(Ending::new(exit::TEMPORARY, "there is no server at the local socket"));
            }
            None => thread::sleep(PAUSE),
        }
    };
    let mut to = stream.try_clone().map_err(broken)?;
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut out = io::stdout().lock();
    let mut from = &stream;
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(octets) => out.write_all(&buffer[..octets]).and_then(|()| out.flush()).map_err(broken)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
}

fn connect(path: &Path) -> Result<UnixStream, Ending> {
    let stream = UnixStream::connect(path).map_err(|error| {
        let exit = if error.kind() == ErrorKind::PermissionDenied { exit::FORBIDDEN } else { exit::TEMPORARY };
        let why = match error.kind() {
            ErrorKind::NotFound => {
                "there is no such socket; name it in `local` below [listen] and restart the server, or start \
                 pillarbox-local.socket"
            }
            ErrorKind::ConnectionRefused => {
                "no server listens there; start pillarbox, or, where it runs, stop it and start pillarbox-local.socket first"
            }
            ErrorKind::PermissionDenied => "the calling user may not open it",
            _ => return Ending::new(exit, &format!("{}: {error}", path.display())),
        };
        Ending::new(exit, &format!("{}: {why}", path.display()))
    })?;
    stream.set_read_timeout(Some(REPLY_MAX)).map_err(broken)?;
    stream.set_write_timeout(Some(REPLY_MAX)).map_err(broken)?;
    Ok(stream)
}

fn broken(error: io::Error) -> Ending {
    Ending::new(exit::TEMPORARY, &format!("the server: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`PATIENCE`] is shortened; that it is waited at all shows tests/binary/sendmail.rs.
    #[test]
    fn a_server_that_does_not_come_is_a_temporary_failure() {
        assert_eq!(PATIENCE.as_secs(), 30);
        let dir = tempfile::tempdir().unwrap();
        let (missing, dead) = (dir.path().join("missing"), dir.path().join("dead"));
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        for (path, want) in [
            (missing, ": there is no such socket; name it in `local`"),
            (dead, ": no server listens there; start pillarbox, or, where it runs, stop it and"),
        ] {
            let begun = Instant::now();
            let Err(ending) = Session::open_within(2 * PAUSE, &[path]) else { panic!("there is no server") };
            assert_eq!((ending.exit, begun.elapsed() >= 2 * PAUSE), (exit::TEMPORARY, true));
            assert!(ending.text.contains(want), "{}", ending.text);
        }
    }
}
