//! Pillarbox, a mail submission server.
//!
//! What a message goes through, one line a station:
//!
//! 1. [`net::listener`] accepts the connection, [`net::admission`] gives it a slot or turns it away, and a worker of
//!    [`net::pool`] takes it up.
//! 2. [`conn`] drives the session: lines come in through [`net::wire`] over [`net::stream`] (plain or TLS, under
//!    deadlines), [`smtp::session`] decides what to say and do, [`auth`] and [`policy`] answer what it asks.
//! 3. The content goes through [`smtp::data`] and [`mail::message`] into a draft of [`mail::maildir`].
//! 4. The draft becomes durable in every mailbox, and only then the client reads `250`.
//!
//! Imports point down only: `main`, [`cli`], [`server`], [`conn`], [`queue`], then [`net`], [`auth`], [`mail`], [`policy`] and
//! [`journal`], then [`smtp`]. A test holds this.

pub mod auth;
pub mod cli;
pub mod config;
pub mod conn;
pub mod journal;
pub mod mail;
pub mod net;
pub mod policy;
pub mod problem;
pub mod queue;
pub mod relay;
pub mod server;
pub mod smtp;
