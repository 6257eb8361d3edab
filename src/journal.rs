//! The log: one function an event, and nothing else formats a log line.
//!
//! A line is `event key=value …`. A value that holds anything but plain printable characters is quoted and escaped: a
//! `=` always, a blank wherever it may come from a client. So no client can forge a key, a word or a line, for a reader
//! that knows no quotes either. Every line of a session has `session=` and `peer=`. Nothing a client says after
//! AUTH gets here but the mechanism and the login. How much one network can make it write is bounded ([`budget`]); mail
//! that was accepted is always written, and with it the login that it came by. pillarbox(8) lists all events with their keys.

pub mod budget;
mod line;
pub mod queue;

use std::cell::RefCell;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Level, error, info, log, warn};

use budget::LogBudget;
use line::{LINE_SIZE, LogLine, listed};

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

/// Octets of time, level and line end, which stand around the text of a line.
const STAMP_SIZE: usize = 32;
/// Octets of lines that are written together, which a pipe takes undivided (PIPE_BUF, pipe(7)) with their stamps.
const TOGETHER_MAX: usize = 3 * 1024;

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
        LogLine::new(event).keys(&self.keys)
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
        let line = line.text();
        if self.text.len() + line.len() > TOGETHER_MAX {
            self.write();
        }
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(&line);
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
    LogLine::of_keys().key("session", id).key("peer", peer).text()
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
    fn so_many_lines_are_written_together() {
        let log = SessionLog::new("id".into(), ([192, 0, 2, 1], 25).into(), "smtp", &Arc::default());
        *log.login.borrow_mut() = Some("login session=id".into());
        let mut lines = log.of_accepted();
        lines.delivered("id.1", "alice@example.org", Path::new("/mail/1"));
        let both = "login session=id\ndelivered session=id peer=192.0.2.1:25 id=id.1 mailbox=alice@example.org file=/mail/1";
        assert_eq!(lines.text, both);
        for _ in 0..100 {
            lines.delivered("id.1", "alice@example.org", Path::new("/mail/2"));
            assert!(lines.text.len() <= TOGETHER_MAX, "{}", lines.text.len());
        }
    }
}
