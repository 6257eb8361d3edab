//! Mail that waits to be sent on.
//!
//! [`schedule`] decides what is sent, when, and by which connection; it is pure. [`QueueId`] names a message.

mod id;
pub mod schedule;

pub use id::QueueId;
