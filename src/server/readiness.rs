//! Tells a service manager how things are: systemd over NOTIFY_SOCKET, s6 by a newline on a descriptor.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Speaks to whatever manager there is.
#[derive(Debug)]
pub struct Readiness {
    watchdog: Option<Duration>,
    last: Instant,
    status: String,
}

impl Readiness {
    /// Finds out whether there is a watchdog to be fed.
    pub fn new() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled().map(|interval| interval / 2), last: Instant::now(), status: String::new() }
    }

    /// s6's descriptor, opened by its number, since taking one over by number alone would need unsafe code. The pipe is
    /// root's: it is opened before root is given up.
    pub fn descriptor(fd: u32) -> io::Result<File> {
        OpenOptions::new().write(true).open(format!("/dev/fd/{fd}"))
    }

    /// Everything listens. `descriptor` is s6's, which is closed afterwards.
    pub fn ready(&self, descriptor: Option<File>) -> io::Result<()> {
        if let Some(mut descriptor) = descriptor {
            descriptor.write_all(b"\n")?;
        }
        sd_notify::notify(&[NotifyState::Ready])
    }

    /// A reload begins; [`Self::ready`] says that it is over.
    pub fn reloading(&self) {
        let now = NotifyState::monotonic_usec_now();
        let _ = now.and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
    }

    /// Says how things are, if that has changed, and feeds the watchdog, if it is time.
    pub fn tick(&mut self, sessions: usize, messages: u64, queue: Option<&str>) {
        let queue = queue.map_or(String::new(), |queue| format!(", {queue}"));
        let status = format!("{sessions} sessions, {messages} messages{queue}");
        if status != self.status {
            let _ = sd_notify::notify(&[NotifyState::Status(&status)]);
            self.status = status;
        }
        if self.watchdog.is_some_and(|interval| self.last.elapsed() >= interval) {
            self.last = Instant::now();
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}
