//! What is sent, when, by which connection: decides and does nothing.

mod action;
mod fault;

pub use action::*;
pub use fault::*;
