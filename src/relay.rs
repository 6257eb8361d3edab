//! The outgoing side.

pub mod dns;
