//! From accepted content to a file that a mail reader finds.

pub mod dkim;
mod group_sync;
pub mod maildir;
pub mod message;
