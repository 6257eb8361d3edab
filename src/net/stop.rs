//! The stop flag of everything that sends: once it is set no new work begins, and what is in its content may end until a deadline.
//!
//! The waits of [`outbound`](super::outbound), [`dial`](super::dial) and the lookups of names ask it every half second.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Shared by everything that is stopped together.
#[derive(Debug, Default)]
pub struct Stop {
    until: OnceLock<Instant>,
}

/// The longest sleep without asking.
pub(crate) const SLICE: Duration = Duration::from_millis(500);

impl Stop {
    /// Not stopped yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops; content that is under way may end until `until`. The first call counts.
    pub fn stop(&self, until: Instant) {
        let _ = self.until.set(until);
    }

    /// True once it was said.
    pub fn is_stopped(&self) -> bool {
        self.until.get().is_some()
    }

    /// Until when content that is under way may last, once it is stopped.
    pub fn until(&self) -> Option<Instant> {
        self.until.get().copied()
    }
}

/// True for an error that means: everything is being stopped.
pub fn is_stop(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

/// The error of a wait that was given up. Its kind is not `Interrupted`, after which much is tried again.
pub(crate) fn error() -> io::Error {
    io::Error::new(ErrorKind::ConnectionAborted, Stopped)
}

#[derive(Debug)]
struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}
