//! From accepted content to a file that a mail reader finds.

pub mod maildir;
pub mod message;
mod shared_sync;
