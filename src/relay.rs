//! The outgoing side: which server a message goes on to, and the connection to it.
//!
//! 1. [`route`] makes a [`Hop`](route::Hop) of a smarthost's settings; [`mx`] finds the servers of a recipient's domain by
//!    [`resolve`], [`dns`] and [`cache`]; [`names`] asks the system's resolver for a smarthost's addresses.
//!    [`direct`] connects to those, with what [`servers`] remembers of them.
//! 2. [`courier`] drives one connection: over a [`line`](mod@line) it does what [`smtp::client`](crate::smtp::client) asks and reports what came.
//!    [`pool`] runs the couriers, each on a thread; what one is to send of a message is said by `job`.
//! 3. [`results`] says that in the words of [`queue::schedule`](crate::queue::schedule), which decides what follows.

pub mod cache;
pub mod courier;
pub mod direct;
pub mod dns;
mod job;
pub mod line;
pub mod mx;
pub mod names;
pub mod pool;
pub mod resolve;
pub mod results;
pub mod route;
pub mod secured;
pub mod servers;
