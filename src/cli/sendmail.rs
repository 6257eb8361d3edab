//! `pillarbox sendmail`, also as `sendmail`, `mailq` and `newaliases`: hands a message in at the local socket as the calling user.
//!
//! It exits with 0 only after the server's 250. No mail is lost to a flag: what is not known is warned of. It needs no right
//! but to open the socket: no setuid, no setgid, no configuration file that it may not read.

mod arguments;
mod client;
mod message;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::server::load;
use crate::smtp::dsn::{Notify, Ret};
use arguments::{Arguments, Mode};
use client::Session;
use message::Message;

/// The names under which the program is sendmail.
const PROGRAMS: [&str; 3] = ["sendmail", "mailq", "newaliases"];
/// Where the socket is, unless the configuration says otherwise.
const SOCKET: &str = "/run/pillarbox/submit";
/// Octets of a message, at most.
const SIZE_MAX: u64 = 1 << 30;

/// A command line that asks for sendmail.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Called {
    /// `sendmail`, `mailq` or `newaliases`.
    program: String,
    /// The configuration's file, if it was named.
    config: Option<PathBuf>,
    words: Vec<String>,
}

/// Why no message was handed in: the exit code and what to say.
#[derive(Debug)]
struct Ending {
    exit: i32,
    text: String,
}

/// What is to be sent.
struct Mail {
    /// Empty for the null sender.
    sender: String,
    recipients: Vec<String>,
    content: Vec<u8>,
    is_eight_bit: bool,
    notify: Option<Notify>,
    ret: Option<Ret>,
    envid: Option<String>,
}

/// Exit codes (sysexits(3)).
mod exit {
    pub const USAGE: i32 = 64;
    pub const DATA: i32 = 65;
    pub const NO_USER: i32 = 67;
    pub const UNAVAILABLE: i32 = 69;
    pub const CANT_CREATE: i32 = 73;
    pub const TEMPORARY: i32 = 75;
    pub const FORBIDDEN: i32 = 77;

    /// The code that stands for a reply; `text` begins with its enhanced status code.
    pub fn of_reply(code: u16, text: &str, place: &str) -> i32 {
        let status = text.split(' ').next().unwrap_or_default();
        let subject = status.split('.').nth(1).unwrap_or_default();
        match (code / 100, subject) {
            (4, _) => TEMPORARY,
            (_, "7") => FORBIDDEN,
            (_, "1") if place == "RCPT" && code != 501 => NO_USER,
            (_, "2") => CANT_CREATE,
            (_, "3" | "6") => DATA,
            _ if code == 501 || code == 553 => DATA,
            _ => UNAVAILABLE,
        }
    }
}

impl Ending {
    fn new(exit: i32, text: &str) -> Self {
        Self { exit, text: text.to_owned() }
    }
}

impl Called {
    /// Finds out whether this is a call of sendmail: by the program's name, or by the verb.
    pub(super) fn of(program: &OsStr, args: &[OsString]) -> Option<Self> {
        let text = |words: &[OsString]| words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let name = Path::new(program).file_name()?.to_str()?;
        if PROGRAMS.contains(&name) {
            return Some(Self { program: name.to_owned(), config: None, words: text(args) });
        }
        let (config, rest) = match args {
            [flag, file, rest @ ..] if flag == "-c" || flag == "--config" => (Some(PathBuf::from(file)), rest),
            rest => (None, rest),
        };
        let (verb, words) = rest.split_first()?;
        (verb == "sendmail").then(|| Self { program: "sendmail".into(), config, words: text(words) })
    }

    /// Does what was asked; gives the exit code, or the words for a verb of the program's own that does it.
    pub(super) fn run(&self) -> Result<i32, Vec<String>> {
        let arguments = match Arguments::parse(&self.program, &self.words) {
            Ok(arguments) => arguments,
            Err(text) => return Ok(end(Err(Ending { exit: exit::USAGE, text }))),
        };
        arguments.warnings.iter().for_each(|text| complain(text));
        match arguments.mode {
            Mode::Aliases => Ok(0),
            Mode::Flush => Err(self.verb(&["queue", "try", "--all", "--yes"])),
            Mode::List => Err(self.verb(&["queue"])),
            Mode::Message => Ok(end(self.send(arguments))),
            Mode::Smtp => Ok(end(client::pass_through(&self.sockets()))),
        }
    }

    fn verb(&self, words: &[&str]) -> Vec<String> {
        let config = self.config.iter().flat_map(|file| ["-c".to_owned(), file.to_string_lossy().into_owned()]);
        config.chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    fn send(&self, arguments: Arguments) -> Result<(), Ending> {
        if arguments.recipients.is_empty() && !arguments.header_recipients {
            return Err(Ending::new(exit::USAGE, "no recipients; name them, or give -t to take those of the header"));
        }
        if io::stdin().is_terminal() {
            complain("reading the message from the terminal; a line of one dot or ^D ends it");
        }
        let mut input = Vec::new();
        let read = io::stdin().lock().take(SIZE_MAX + 1).read_to_end(&mut input);
        read.map_err(|error| Ending::new(exit::TEMPORARY, &format!("standard input: {error}")))?;
        if input.len() as u64 > SIZE_MAX {
            return Err(Ending::new(exit::DATA, "the message is larger than any that is taken"));
        }
        let mut message = Message::read(&input, arguments.ignore_dots);
        drop(input);
        let mut recipients = arguments.recipients;
        if arguments.header_recipients {
            recipients.extend(message.recipients());
        }
        // All that is wrong with the message is found before the server is waited for.
        let is_bad = |address: &String| address.contains(|c: char| c.is_control() || c == '>' || c == '<');
        if let Some(bad) = recipients.iter().chain(&arguments.sender).find(|address| is_bad(address)) {
            return Err(Ending::new(exit::DATA, &format!("{bad:?} is no address")));
        }
        if recipients.is_empty() {
            return Err(Ending::new(exit::USAGE, "no recipients: neither the command line nor the header names one"));
        }
        let session = Session::open(&self.sockets())?;
        let complete = |address: String| match address.is_empty() || address.contains('@') {
            true => address,
            false => format!("{address}@{}", session.hostname),
        };
        let own = session.sender.clone().unwrap_or_default();
        let sender = arguments.sender.map_or_else(|| own.clone(), complete);
        let mut known = std::collections::HashSet::new();
        let recipients = recipients.into_iter().map(complete).filter(|address| known.insert(address.clone())).collect();
        message.complete(&session.hostname);
        if let Some(name) = arguments.full_name.filter(|_| !message.has("from")) {
            let address = if sender.is_empty() { &own } else { &sender };
            message.add(format!("From: {} <{address}>", phrase(&name)));
        }
        let mail = Mail {
            sender,
            recipients,
            is_eight_bit: message.is_eight_bit(),
            content: message.to_wire(),
            notify: arguments.notify,
            ret: arguments.ret,
            envid: arguments.envid,
        };
        session.send(&mail)
    }

    /// The sockets of the configuration, or the one that is usual where that names none or may not be read.
    fn sockets(&self) -> Vec<PathBuf> {
        let file = self.config.clone().unwrap_or_else(|| PathBuf::from(crate::config::DEFAULT_PATH));
        let config: Option<Config> = load::config(&file).ok();
        let sockets: Vec<PathBuf> = config.iter().flat_map(|config| &config.local).map(|entry| entry.path.clone()).collect();
        if sockets.is_empty() { vec![PathBuf::from(SOCKET)] } else { sockets }
    }
}

/// A name as a quoted string (RFC 5322 section 3.2.4), unless it is plain words.
fn phrase(name: &str) -> String {
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ' || c == '-' || !c.is_ascii());
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")) }
}

fn end(outcome: Result<(), Ending>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(Ending { exit, text }) => {
            complain(&text);
            exit
        }
    }
}

/// Says something on standard error, which cron and others mail or log.
fn complain(text: &str) {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let _ = writeln!(io::stderr(), "sendmail: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_it_is_called() {
        let called = |program: &str, words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            Called::of(OsStr::new(program), &words).map(|called| (called.program, called.config, called.words))
        };
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(called("/usr/sbin/sendmail", &["-t"]), Some(("sendmail".into(), None, words(&["-t"]))));
        assert_eq!(called("mailq", &[]), Some(("mailq".into(), None, vec![])));
        assert_eq!(called("pillarbox", &["sendmail", "-c", "x"]), Some(("sendmail".into(), None, words(&["-c", "x"]))));
        let named = called("pillarbox", &["-c", "f", "sendmail", "root"]);
        assert_eq!(named, Some(("sendmail".into(), Some("f".into()), words(&["root"]))));
        assert_eq!(called("pillarbox", &["serve"]), None);
        assert_eq!(called("pillarbox", &[]), None);
    }

    #[test]
    fn replies_become_exit_codes() {
        let rows = [
            (450, "4.7.1 x", "RCPT", 75),
            (421, "4.3.2 x", "connect", 75),
            (550, "5.1.1 x", "RCPT", 67),
            (550, "5.7.1 x", "RCPT", 77),
            (550, "5.7.1 x", "MAIL", 77),
            (501, "5.1.3 x", "RCPT", 65),
            (552, "5.3.4 x", "the message", 65),
            (554, "5.6.0 x", "the message", 65),
            (552, "5.2.2 x", "the message", 73),
            (554, "5.5.1 x", "DATA", 69),
            (500, "", "MAIL", 69),
        ];
        for (code, text, place, want) in rows {
            assert_eq!(exit::of_reply(code, text, place), want, "{code} {text} {place}");
        }
    }

    #[test]
    fn names_are_quoted_where_they_must_be() {
        for (name, want) in [("Cron Daemon", "Cron Daemon"), ("a \"b\"", "\"a \\\"b\\\"\""), ("Web, Shop", "\"Web, Shop\"")] {
            assert_eq!(phrase(name), want);
        }
    }
}
