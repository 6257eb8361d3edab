//! The log: one function an event, and nothing else formats a log line.
//!
//! A line is `event key=value …`. A value that holds anything but plain printable characters is quoted and escaped: a
//! `=` always, a blank wherever it may come from a client. So no client can forge a key, a word or a line, for a reader
//! that knows no quotes either. Every line of a session has `session=` and `peer=`. Nothing a client says after
//! AUTH gets here but the mechanism and the login. How much one network can make it write is bounded ([`budget`]); mail
//! that was accepted is always written, and with it the login that it came by. pillarbox(8) lists all events with their keys.

pub mod budget;
pub mod queue;

use std::cell::RefCell;
use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Level, error, info, log, warn};

use budget::LogBudget;

/// Writes the lines of one session.
#[derive(Clone, Debug)]
pub struct SessionLog {
    id: String,
    peer: SocketAddr,
    /// The keys that every line of the session begins with, after its event.
    keys: String,
    service: &'static str,
    budget: Arc<LogBudget>,
    /// The network whose connections are left out, and with them the lines of this one itself.
    quiet: Option<budget::Network>,
    /// The line of a login that was left out; it is written as soon as the session gets a message accepted.
    login: RefCell<Option<String>>,
}

/// Writes the lines of one message that was accepted, which are never left out: together, when this is dropped.
#[derive(Debug)]
pub struct AcceptedLog<'a> {
    log: &'a SessionLog,
    text: String,
}

/// Whether a line may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Never.
    Always,
    /// Once its network has written enough.
    Bounded,
    /// The same, and where a network has had connections enough in this second.
    Connection,
    /// Once its network has logged in often enough, which takes nothing from its other lines.
    Login,
}

/// Every event with its keys; the manual is held against it.
pub const EVENTS: [(&str, &[&str]); 33] = [
    ("accept-failed", &["service", "error", "pause"]),
    ("accepted", &["session", "peer", "id", "from", "to", "size", "seconds"]),
    ("caller", &["session", "peer", "uid", "user", "login"]),
    ("connect", &["session", "peer", "service"]),
    ("deferred", &["id", "to", "route", "host", "tls", "code", "text", "seconds", "next"]),
    ("delivered", &["session", "peer", "id", "mailbox", "file"]),
    ("disconnect", &["session", "peer", "messages", "seconds"]),
    ("draining", &["sessions", "seconds"]),
    ("dropped", &["id"]),
    ("failed", &["id", "to", "route", "host", "tls", "code", "text", "seconds"]),
    ("held", &["id", "reason"]),
    ("left-out", &["network", "connections", "lines"]),
    ("limited", &["login", "what", "count"]),
    ("login", &["session", "peer", "mechanism", "login", "label"]),
    ("login-failed", &["session", "peer", "mechanism", "login", "reason"]),
    ("maybe-twice", &["id", "to", "host"]),
    ("notice", &["session", "peer", "about", "text"]),
    ("overloaded", &["session", "peer", "service", "reason"]),
    ("panic", &["session", "peer", "text"]),
    ("queued", &["session", "peer", "id", "login", "from", "to", "size"]),
    ("refused", &["session", "peer", "command", "code", "reason", "text", "count"]),
    ("released", &["id"]),
    ("reloaded", &["what", "result", "text"]),
    ("reported", &["id", "mailbox", "action"]),
    ("rewritten", &["session", "peer", "id", "from", "to"]),
    ("route", &["route", "state", "reason", "next", "text"]),
    ("sandbox", &["server", "helper"]),
    ("sent", &["id", "to", "route", "host", "tls", "code", "text", "seconds"]),
    ("started", &["service", "address"]),
    ("stopped", &["messages", "seconds"]),
    ("throttled", &["session", "peer", "login"]),
    ("timeout", &["session", "peer", "where", "seconds"]),
    ("tls", &["session", "peer", "version", "cipher", "resumed", "error"]),
];

impl SessionLog {
    /// A log for a session with a fresh id; counts its connection.
    pub fn new(id: String, peer: SocketAddr, service: &'static str, budget: &Arc<LogBudget>) -> Self {
        let quiet = budget.connection(peer.ip(), Instant::now());
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let keys = session_keys(&id, peer);
        Self { id, peer, keys, service, budget: Arc::clone(budget), quiet, login: RefCell::default() }
    }

    /// The lines name this user of the machine in place of an address.
    pub fn of_uid(self, uid: Option<u32>) -> Self {
        match uid {
            Some(uid) => Self { keys: session_keys(&self.id, format_args!("unix:{uid}")), ..self },
            None => self,
        }
    }

    /// The session's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// For the lines of a message that was accepted. The line of its login, if it was left out, comes first.
    pub fn of_accepted(&self) -> AcceptedLog<'_> {
        let mut text = String::with_capacity(2 * LINE_SIZE);
        text.push_str(&self.login.take().unwrap_or_default());
        AcceptedLog { log: self, text }
    }

    fn line(&self, event: &str) -> LogLine {
        let mut line = LogLine::new(event);
        line.0.push_str(&self.keys);
        line
    }

    fn write(&self, level: Level, class: Class, line: LogLine) {
        let (text, now) = (line.text(), Instant::now());
        let (peer, octets) = (self.peer.ip(), text.len() + STAMP_SIZE);
        let fits = match class {
            Class::Always => true,
            Class::Bounded => self.budget.line(peer, octets, now),
            Class::Connection => match self.quiet {
                Some(network) => {
                    self.budget.leave_out(network, now);
                    false
                }
                None => self.budget.line(peer, octets, now),
            },
            Class::Login => self.budget.login(peer, octets, now),
        };
        match class {
            _ if fits => log!(level, "{text}"),
            Class::Login => *self.login.borrow_mut() = Some(text),
            _ => {}
        }
    }

    /// The connection is taken up.
    pub fn connect(&self) {
        self.write(Level::Info, Class::Connection, self.line("connect").key("service", self.service));
    }

    /// Which user of this machine the client is, and its login.
    pub fn caller(&self, uid: u32, user: &str, login: &str) {
        let line = self.line("caller").key("uid", uid).key("user", user).key("login", login);
        self.write(Level::Info, Class::Connection, line);
    }

    /// The handshake is done.
    pub fn tls(&self, version: &str, cipher: &str, resumed: bool) {
        let line = self.line("tls").key("version", version).key("cipher", cipher);
        self.write(Level::Info, Class::Connection, line.key("resumed", if resumed { "yes" } else { "no" }));
    }

    /// The handshake failed.
    pub fn tls_failed(&self, error: impl Display) {
        self.write(Level::Info, Class::Connection, self.line("tls").words("error", error));
    }

    /// A login succeeded.
    pub fn login(&self, mechanism: &str, login: &str, label: &str) {
        let line = self.line("login").key("mechanism", mechanism).key("login", login);
        self.write(Level::Info, Class::Login, if label.is_empty() { line } else { line.key("label", label) });
    }

    /// A login failed.
    pub fn login_failed(&self, mechanism: &str, login: &str, reason: &str) {
        let line = self.line("login-failed").key("mechanism", mechanism).key("login", clip(login));
        self.write(Level::Warn, Class::Bounded, line.key("reason", reason));
    }

    /// The disk fails, for the mailboxes or for the spool.
    pub fn storage(&self, about: &str, error: impl Display) {
        self.write(Level::Warn, Class::Bounded, self.line("notice").key("about", about).words("text", error));
    }

    /// The answer was no. The text is in three parts, of which the one in the middle may come from the client.
    pub fn refused(&self, command: &str, code: u16, reason: &str, text: (&str, &str, &str)) {
        let line = self.line("refused").key("command", command).key("code", code).key("reason", reason);
        self.write(Level::Info, Class::Bounded, line.words_about("text", text));
    }

    /// The answer was the same no, so many times more.
    pub fn refused_again(&self, command: &str, code: u16, reason: &str, count: u64) {
        let line = self.line("refused").key("command", command).key("code", code).key("reason", reason);
        self.write(Level::Info, Class::Bounded, line.key("count", count));
    }

    /// This failure has blocked a login from here, or all logins from here; without a login, a connection was turned away.
    pub fn throttled(&self, login: &str) {
        let class = if login.is_empty() { Class::Connection } else { Class::Bounded };
        self.write(Level::Warn, class, self.line("throttled").key("login", clip(login)));
    }

    /// A connection was turned away for want of room.
    pub fn overloaded(&self, reason: &str) {
        let line = self.line("overloaded").key("service", self.service).key("reason", reason);
        self.write(Level::Warn, Class::Connection, line);
    }

    /// A deadline passed.
    pub fn timeout(&self, place: &str, after: Duration) {
        let line = self.line("timeout").key("where", place).key("seconds", seconds(after));
        self.write(Level::Info, Class::Bounded, line);
    }

    /// The session is over.
    pub fn disconnect(&self, messages: u64, took: Duration) {
        let line = self.line("disconnect").key("messages", messages).key("seconds", seconds(took));
        self.write(Level::Info, Class::Connection, line);
    }

    /// A defect ended the session.
    pub fn panicked(&self, text: &str) {
        self.write(Level::Error, Class::Always, self.line("panic").words("text", text));
    }
}

impl AcceptedLog<'_> {
    /// In what leaves the machine, an address of the sender's was replaced.
    pub fn rewritten(&mut self, id: &str, from: &str, to: &str) {
        let line = self.log.line("rewritten").key("id", id).key("from", from).key("to", to);
        self.push(line);
    }

    /// A message is durable.
    pub fn accepted<T: Display>(&mut self, id: &str, from: impl Display, to: &[T], size: u64, took: Duration) {
        let line = self.log.line("accepted").key("id", id).key("from", from).key("to", listed(to));
        self.push(line.key("size", size).key("seconds", seconds(took)));
    }

    /// A message for recipients elsewhere is in the spool.
    pub fn queued<T: Display>(&mut self, id: &str, login: &str, from: impl Display, to: &[T], size: u64) {
        let line = self.log.line("queued").key("id", id).key("login", login).key("from", from).key("to", listed(to));
        self.push(line.key("size", size));
    }

    /// A message is in this mailbox.
    pub fn delivered(&mut self, id: &str, mailbox: &str, file: &Path) {
        let line = self.log.line("delivered").key("id", id).key("mailbox", mailbox);
        self.push(line.path("file", &file.to_string_lossy()));
    }

    fn push(&mut self, line: LogLine) {
        if self.text.len() + line.0.len() > TOGETHER_MAX {
            self.write();
        }
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(&line.0);
    }

    fn write(&mut self) {
        if !self.text.is_empty() {
            info!("{}", self.text);
            self.text.clear();
        }
    }
}

impl Drop for AcceptedLog<'_> {
    fn drop(&mut self) {
        self.write();
    }
}

/// Sums up the lines that were left out: those of a second, or all at the end.
pub fn left_out(budget: &LogBudget, end: bool) {
    for summary in budget.summaries(Instant::now(), end) {
        let line = LogLine::new("left-out").key("network", summary.network).key("connections", summary.connections);
        warn!("{}", line.key("lines", summary.lines).text());
    }
}

/// A listener stands.
pub fn started(service: &str, address: impl Display) {
    info!("{}", LogLine::new("started").key("service", service).key("address", address).text());
}

/// accept(2) fails.
pub fn accept_failed(service: &str, error: impl Display, pause: Duration) {
    error!("{}", LogLine::new("accept-failed").key("service", service).words("error", error).key("pause", seconds(pause)).text());
}

/// A worker panicked outside of any session.
pub fn panicked(text: &str) {
    error!("{}", LogLine::new("panic").words("text", text).text());
}

/// A file was taken up anew.
pub fn reloaded(what: &str) {
    info!("{}", LogLine::new("reloaded").key("what", what).key("result", "ok").text());
}

/// A file is bad, and the old state is kept.
pub fn reload_refused(what: &str, error: impl Display) {
    error!("{}", LogLine::new("reloaded").key("what", what).key("result", "refused").words("text", error).text());
}

/// What the server and its key helper are confined to, each in words with commas between; a helper is not always needed.
pub fn sandbox(server: &str, helper: Option<&str>) {
    let line = LogLine::new("sandbox").words("server", server);
    info!("{}", line.words("helper", helper.unwrap_or("absent")).text());
}

/// Something an operator should know.
pub fn notice(about: &str, text: impl Display) {
    warn!("{}", LogLine::new("notice").key("about", about).words("text", text).text());
}

/// A login has sent as much as a limit allows, for the first time within its time.
pub fn limited(login: &str, what: impl Display, count: u32) {
    warn!("{}", LogLine::new("limited").key("login", login).key("what", what).key("count", count).text());
}

/// The end has begun.
pub fn draining(sessions: usize, limit: Duration) {
    info!("{}", LogLine::new("draining").key("sessions", sessions).key("seconds", seconds(limit)).text());
}

/// The end.
pub fn stopped(messages: u64, took: Duration) {
    info!("{}", LogLine::new("stopped").key("messages", messages).key("seconds", seconds(took)).text());
}

/// The keys that every line of a session begins with.
fn session_keys(id: &str, peer: impl Display) -> String {
    LogLine(String::new()).key("session", id).key("peer", peer).text()
}

struct LogLine(String);

/// Octets that a line usually takes.
const LINE_SIZE: usize = 400;

/// Octets of time, level and line end, which stand around the text of a line.
const STAMP_SIZE: usize = 32;
/// Octets of lines that are written together, which a pipe takes undivided (PIPE_BUF, pipe(7)) with their stamps.
const TOGETHER_MAX: usize = 3 * 1024;
/// Octets of recipients that one line lists.
const LISTED_MAX: usize = 1000;

impl LogLine {
    fn new(event: &str) -> Self {
        debug_assert!(EVENTS.iter().any(|(known, _)| *known == event), "{event} is not in EVENTS");
        let mut line = String::with_capacity(LINE_SIZE);
        line.push_str(event);
        Self(line)
    }

    fn name(&mut self, key: &str) {
        self.0.push(' ');
        self.0.push_str(key);
        self.0.push('=');
    }

    /// Appends a value as it is, if it is plain, else quoted with every other character and every blank escaped.
    fn key(mut self, key: &str, value: impl Display) -> Self {
        self.name(key);
        let line = &mut self.0;
        let start = line.len();
        let _ = write!(line, "{value}");
        if !is_plain(&line[start..]) {
            let value = line.split_off(start);
            line.push('"');
            push_escaped(line, &value, false);
            line.push('"');
        }
        self
    }

    /// The same for a file, no part of which comes from a client: a `=` is part of the names in a Maildir.
    fn path(mut self, key: &str, value: &str) -> Self {
        if value.is_empty() || !value.bytes().all(|octet| octet == b'=' || is_plain_octet(octet)) {
            return self.key(key, value);
        }
        self.name(key);
        self.0.push_str(value);
        self
    }

    /// The same for words of our own, which keep their blanks.
    fn words(self, key: &str, value: impl Display) -> Self {
        let value = value.to_string();
        if is_plain(&value) { self.key(key, value) } else { self.words_about(key, (&value, "", "")) }
    }

    /// Words of our own around what may come from a client.
    fn words_about(mut self, key: &str, (before, about, after): (&str, &str, &str)) -> Self {
        self.name(key);
        let line = &mut self.0;
        line.push('"');
        push_escaped(line, before, true);
        push_escaped(line, about, false);
        push_escaped(line, after, true);
        line.push('"');
        self
    }

    fn text(self) -> String {
        self.0
    }
}

fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(is_plain_octet)
}

fn is_plain_octet(octet: u8) -> bool {
    octet.is_ascii_graphic() && !matches!(octet, b'"' | b'\\' | b'=')
}

/// Appends what may stand between quotes; with `blanks`, a blank is left as it is.
fn push_escaped(line: &mut String, value: &str, blanks: bool) {
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                line.push('\\');
                line.push(c);
            }
            ' ' if blanks => line.push(c),
            '!'..='~' if c != '=' => line.push(c),
            c => {
                let _ = write!(line, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
}

/// The first recipients, and how many more there are: a stranger may name a hundred of 254 octets each for one mailbox.
fn listed<T: Display>(recipients: &[T]) -> String {
    let mut text = String::with_capacity(64);
    for (at, recipient) in recipients.iter().enumerate() {
        let before = text.len();
        let _ = write!(text, "{}{recipient}", if at > 0 { "," } else { "" });
        if at > 0 && text.len() > LISTED_MAX {
            text.truncate(before);
            let _ = write!(text, ",+{}", recipients.len() - at);
            break;
        }
    }
    text
}

/// A login as long as a login can be; a client may send more.
fn clip(login: &str) -> String {
    login.chars().take(255).collect()
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_of_recipients_is_cut_between_two() {
        let of = |octets: usize, n: usize| vec!["a".repeat(octets); n];
        assert_eq!(listed(&["a@x.example", "b@x.example"]), "a@x.example,b@x.example");
        assert_eq!(listed(&of(99, 10)).len(), 999, "all of them");
        assert_eq!(listed(&of(99, 12)), of(99, 10).join(",") + ",+2");
        assert_eq!(listed(&of(1200, 2)), "a".repeat(1200) + ",+1", "the first is always there");
        assert_eq!(listed::<&str>(&[]), "");
    }

    #[test]
    fn values_cannot_forge_a_key_or_a_line() {
        let rows = [
            ("plain@x.example", "plain@x.example"),
            ("", "\"\""),
            ("a b", "\"a\\u{20}b\""),
            ("a\nevent key=value", "\"a\\u{a}event\\u{20}key\\u{3d}value\""),
            ("x\" reason=ok", "\"x\\\"\\u{20}reason\\u{3d}ok\""),
            ("a=b", "\"a\\u{3d}b\""),
            ("back\\slash", "\"back\\\\slash\""),
            ("\u{1b}[2J\u{85}\u{2028}ö", "\"\\u{1b}[2J\\u{85}\\u{2028}\\u{f6}\""),
        ];
        for (value, want) in rows {
            assert_eq!(LogLine::new("notice").key("text", value).text(), format!("notice text={want}"));
        }
        assert_eq!(LogLine::new("delivered").path("file", "/a/b,S=1").text(), "delivered file=/a/b,S=1");
        assert_eq!(LogLine::new("delivered").path("file", "/a b,S=1").text(), "delivered file=\"/a\\u{20}b,S\\u{3d}1\"");
        // Words of our own are readable, what they are about is not taken for one.
        let text = ("No such mailbox: <", "x reason=y", ">; a=b");
        let line = LogLine::new("refused").words_about("text", text).text();
        assert_eq!(line, "refused text=\"No such mailbox: <x\\u{20}reason\\u{3d}y>; a\\u{3d}b\"");
        assert_eq!(LogLine::new("notice").words("text", "a b").text(), "notice text=\"a b\"");
        assert_eq!(LogLine::new("notice").words("text", "ab").text(), "notice text=ab");
    }
}
