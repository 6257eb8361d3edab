//! The outgoing side.

pub mod dns;
pub mod resolve;
