//! Mail that waits to be sent on: what is told to people about it.

pub mod explain;
