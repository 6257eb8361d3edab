//! Pillarbox, a mail submission server.
//!
//! What a message goes through on its way in, one line a step:
//!
//! 1. [`net::listener`] accepts the connection, [`net::admission`] gives it a slot or turns it away, and a worker of
//!    [`net::pool`] takes it up.
//! 2. [`conn`] drives the session: lines come in through [`net::wire`] over [`net::stream`] (plain or TLS, under
//!    deadlines), [`smtp::session`] decides what to say and do, [`auth`] and [`policy`] answer what it asks.
//! 3. The content goes through [`smtp::data`] and [`mail::message`] into a draft of [`mail::maildir`].
//! 4. The draft becomes durable in every mailbox, and for recipients elsewhere in the spool; only then the client reads `250`.
//!
//! What an outgoing message goes through after that:
//!
//! 1. [`queue::dispatcher`] is told of it and asks [`queue::schedule`] which message goes when, by which next hop.
//! 2. A courier of [`relay::pool`] takes the task up and opens a connection, unless it has one: [`relay::names`] finds the
//!    addresses, [`net::dial`] and [`net::outbound`] connect under deadlines, with TLS by [`net::connector`].
//! 3. [`relay::courier`] drives the transaction; [`smtp::client`] decides what to say and what a reply means for each recipient.
//! 4. [`relay::results`] says what came of it; records of it are appended to the file in [`queue::spool`], and the schedule
//!    decides what follows.
//! 5. Once every recipient is sent, or failed and reported by [`queue::report`], the file is removed.
//!
//! Imports point down only: `main`, [`cli`], [`server`], [`conn`] and [`relay`], [`queue`], then [`net`], [`auth`], [`mail`],
//! [`policy`] and [`journal`], then [`smtp`]. A test holds this.

pub mod auth;
pub mod cli;
pub mod config;
pub mod conn;
pub mod files;
pub mod journal;
pub mod mail;
pub mod net;
pub mod policy;
pub mod problem;
pub mod queue;
pub mod relay;
pub mod server;
pub mod smtp;

/// A unit test says what it leaves out; with PILLARBOX_REQUIRE_TOOLS=1 nothing may be left out, and it fails.
#[cfg(test)]
fn skipped(what: &str) {
    assert!(std::env::var_os("PILLARBOX_REQUIRE_TOOLS").is_none(), "left out: {what}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past the test harness, which shows the words of failing tests alone.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {test}: {what}\n").as_bytes());
}
