//! `sendmail`: hands a message in at the local socket as the calling user.

pub mod arguments;
