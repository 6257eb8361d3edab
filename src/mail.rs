//! From accepted content to a file that a mail reader finds.

pub mod display_name;
pub mod dkim;
pub mod durable;
pub mod from;
mod group_sync;
pub mod maildir;
pub mod message;
pub mod signing;
pub mod space;
pub mod trace;
