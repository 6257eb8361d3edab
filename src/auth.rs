//! Who may log in: the users file, the check of a password, and the limit on guessing.

pub mod argon;
mod budget;
mod cache;
pub mod edit;
pub mod passwd;
pub mod throttle;
pub mod users;
pub mod verify;
