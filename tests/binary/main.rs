//! The built binary from outside: each module starts servers of its own. They are one program, so that one test's waits are
//! another's time to run.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/names.rs"]
mod names;

mod change;
mod faults;
mod flood;
mod local;
mod managers;
mod passwords;
mod privileges;
mod queue_live;
mod queue_verbs;
mod reports;
mod sending;
mod sendmail;
mod signing;
