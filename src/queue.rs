//! Mail that waits to be sent on.
//!
//! [`schedule`] decides what is sent, when, and by which connection; it is pure. [`QueueId`] names a message. [`explain`]
//! says in sentences what happened to one.

pub mod control;
pub mod explain;
mod id;
pub mod listing;
pub mod schedule;

pub use id::QueueId;
