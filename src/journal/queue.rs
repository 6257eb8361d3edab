//! The log's lines about mail that is sent on.

use std::fmt::Display;

use log::{info, warn};

use super::LogLine;

/// What happened to recipients of a queued message.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// The message.
    pub id: &'a str,
    /// The recipients, separated by commas.
    pub to: &'a str,
    /// The route.
    pub route: &'a str,
    /// The next hop; empty if none was reached.
    pub host: &'a str,
    /// The version of TLS; empty in the clear.
    pub tls: &'a str,
    /// The reply code; 0 without a reply.
    pub code: u16,
    /// The reply's text, or what happened without one.
    pub text: &'a str,
    /// Milliseconds that the transaction took.
    pub millis: u64,
}

/// The next hop has the message.
pub fn sent(transfer: Transfer<'_>) {
    info!("{}", transfer.line("sent").text());
}

/// It is tried again, at `next`.
pub fn deferred(transfer: Transfer<'_>, next: impl Display) {
    info!("{}", transfer.line("deferred").key("next", next).text());
}

/// It is not tried again.
pub fn failed(transfer: Transfer<'_>) {
    warn!("{}", transfer.line("failed").text());
}

/// A report is durable: in a mailbox, or in the queue under an id of its own.
pub fn reported(id: &str, mailbox: impl Display, action: &str) {
    info!("{}", LogLine::new("reported").key("id", id).key("mailbox", mailbox).key("action", action).text());
}

/// A message waits for a person.
pub fn held(id: &str, reason: &str) {
    warn!("{}", LogLine::new("held").key("id", id).key("reason", reason).text());
}

/// A held message is sent again.
pub fn released(id: &str) {
    info!("{}", LogLine::new("released").key("id", id).text());
}

/// The operator has taken a message away.
pub fn dropped(id: &str) {
    warn!("{}", LogLine::new("dropped").key("id", id).text());
}

/// A message may have arrived at this host, and is sent again or held.
pub fn maybe_twice(id: &str, to: &str, host: &str) {
    warn!("{}", LogLine::new("maybe-twice").key("id", id).key("to", to).key("host", host).text());
}

/// A route rests, or is well again. `text` is what came of the last attempt, where there was one.
pub fn route(route: &str, state: &str, reason: &str, next: impl Display, text: &str) {
    let line = LogLine::new("route").key("route", route).key("state", state).key("reason", reason).key("next", next);
    warn!("{}", line.key("text", text).text());
}

impl Transfer<'_> {
    fn line(&self, event: &str) -> LogLine {
        let line = LogLine::new(event).key("id", self.id).key("to", self.to).key("route", self.route).key("host", self.host);
        let line = line.key("tls", self.tls).key("code", self.code).key("text", self.text);
        line.key("seconds", format_args!("{}.{:03}", self.millis / 1000, self.millis % 1000))
    }
}
