//! The protocol, and nothing else.
//!
//! Everything here is pure: it reads no socket, no file and no clock, makes nothing random and logs nothing. What
//! happened comes in as an [`event::Event`]; what to say and what to do next goes out as an [`event::Step`].
//! So every dialogue can be a table test, every split of the input can be tried, and a fuzzer needs no socket.

pub mod address;
pub mod client;
pub mod command;
pub mod data;
pub mod dsn;
pub mod encoder;
pub mod event;
pub mod punycode;
pub mod remote;
pub mod reply;
pub mod reply_reader;
pub mod rules;
pub mod sasl;
pub mod session;
mod transaction;
