//! Mail that waits to be sent on.
//!
//! [`schedule`] decides what is sent, when, and by which connection; it is pure. [`QueueId`] names a message. [`explain`]
//! says in sentences what happened to one, [`report`] and [`notice`] tell its sender and the postmaster. [`control`] is how an
//! operator asks a running server, [`listing`] what is shown. [`spool`] keeps
//! messages until they are settled, with the signatures that [`signature`] makes.

pub mod clerk;
pub mod control;
pub mod dispatcher;
pub mod explain;
mod id;
pub mod letter;
pub mod listing;
pub mod notice;
pub mod operate;
pub mod report;
pub mod reporter;
pub mod schedule;
pub mod signature;
pub mod spool;
pub mod work;

pub use id::QueueId;
