//! The outgoing side.

pub mod dns;
pub mod mx;
pub mod resolve;
