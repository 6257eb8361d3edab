//! Who may log in: the users file, the check of a password, and the brake on guessing.

pub mod edit;
pub mod throttle;
pub mod users;
pub mod verify;
