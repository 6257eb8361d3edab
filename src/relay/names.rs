//! The system's resolver, which may take as long as it likes, asked on a thread of its own: the caller waits until its
//! deadline or until everything is stopped, and no longer.
//!
//! A lookup that hangs keeps its thread until the system gives up. [`LOOKUPS_MAX`] threads may do so at once; after that
//! lookups fail, until one of them has ended.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::net::stop::Stop;
use crate::smtp::client::Fault;

/// Lookups at once, at most.
pub const LOOKUPS_MAX: usize = 16;
/// The longest sleep without asking whether everything is stopped.
const SLICE: Duration = Duration::from_millis(100);
/// Octets of a lookup's stack: the system's resolver loads modules and keeps answers on it.
const STACK: usize = 512 * 1024;

/// The addresses of a host, IPv4 first, each once. A name that is an address is not looked up.
pub fn addresses(host: &str, port: u16, deadline: Instant, stop: &Stop) -> Result<Vec<SocketAddr>, Fault> {
    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let name = host.to_owned();
    let look_up = move || (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
    let mut found = look_up_by(look_up, &LOOKUPS, deadline, stop).map_err(|fault| match fault {
        Fault::Dns(why) => Fault::Dns(format!("{host}: {why}")),
        other => other,
    })?;
    found.sort_by_key(SocketAddr::is_ipv6);
    found.dedup();
    if found.is_empty() { Err(Fault::Dns(format!("{host}: has no address"))) } else { Ok(found) }
}

type Found = io::Result<Vec<SocketAddr>>;

fn look_up_by(
    look_up: impl FnOnce() -> Found + Send + 'static,
    lookups: &'static AtomicUsize,
    deadline: Instant,
    stop: &Stop,
) -> Result<Vec<SocketAddr>, Fault> {
    let Some(place) = Place::take(lookups) else {
        return Err(Fault::Dns("too many lookups of names hang".into()));
    };
    let (sender, receiver) = mpsc::channel();
    let thread = thread::Builder::new().name("lookup".into()).stack_size(STACK);
    let run = move || {
        let found = look_up();
        drop(place);
        let _ = sender.send(found);
    };
    thread.spawn(run).map_err(|error| Fault::Dns(error.to_string()))?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(SLICE)) {
            Ok(found) => return found.map_err(|error| Fault::Dns(error.to_string())),
            Err(RecvTimeoutError::Disconnected) => return Err(Fault::Dns("the lookup ended without an answer".into())),
            Err(RecvTimeoutError::Timeout) if stop.is_stopped() => return Err(Fault::Stopped),
            Err(RecvTimeoutError::Timeout) if left.is_zero() => return Err(Fault::Dns("no answer in time".into())),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// One of the lookups that may run.
struct Place(&'static AtomicUsize);

impl Place {
    fn take(lookups: &'static AtomicUsize) -> Option<Self> {
        let place = Self(lookups);
        // Taken before it is looked at; given back by the drop where there are too many.
        (lookups.fetch_add(1, Ordering::SeqCst) < LOOKUPS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn addresses_are_not_looked_up() {
        let found = addresses("127.0.0.1", 465, Instant::now(), &Stop::new());
        assert_eq!(found, Ok(vec!["127.0.0.1:465".parse().unwrap()]));
        assert_eq!(addresses("::1", 25, Instant::now(), &Stop::new()), Ok(vec!["[::1]:25".parse().unwrap()]));
    }

    #[test]
    fn the_systems_names() {
        let found = addresses("localhost", 25, Instant::now() + HOUR, &Stop::new()).unwrap();
        assert_eq!(found[0], "127.0.0.1:25".parse().unwrap());
    }

    /// What hangs holds up neither a deadline nor a stop, and only so many hang at once.
    #[test]
    fn a_lookup_that_hangs() {
        static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
        let (release, held) = mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let hang = || {
            let held = std::sync::Arc::clone(&held);
            move || -> Found {
                let _ = held.lock().map(|held| held.recv());
                Ok(Vec::new())
            }
        };
        let late = look_up_by(hang(), &LOOKUPS, Instant::now() + Duration::from_millis(20), &Stop::new());
        assert_eq!(late, Err(Fault::Dns("no answer in time".into())));
        let stop = Stop::new();
        stop.stop(Instant::now());
        for _ in 1..LOOKUPS_MAX {
            assert_eq!(look_up_by(hang(), &LOOKUPS, Instant::now() + HOUR, &stop), Err(Fault::Stopped));
        }
        let full = look_up_by(hang(), &LOOKUPS, Instant::now() + HOUR, &Stop::new());
        assert_eq!(full, Err(Fault::Dns("too many lookups of names hang".into())));
        drop(release);
        while LOOKUPS.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
        assert_eq!(look_up_by(|| Ok(Vec::new()), &LOOKUPS, Instant::now() + HOUR, &Stop::new()), Ok(Vec::new()));
    }
}
