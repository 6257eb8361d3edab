//! From accepted content to a file that a mail reader finds.

pub mod durable;
mod group_sync;
pub mod maildir;
pub mod message;
pub mod space;
pub mod trace;
