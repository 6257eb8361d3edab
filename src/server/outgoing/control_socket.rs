//! The control socket: takes callers up and has [`control`] answer them, which knows the requests.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::queue::dispatcher::Queue;
use crate::queue::{control, operate};

/// Callers of the control socket at once.
const CALLERS_MAX: usize = 16;

/// A place among the callers; free when it is dropped, also where no thread could be started or the thread panics.
struct Place(Arc<AtomicUsize>);

impl Place {
    /// None if all are taken.
    fn take(callers: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(callers));
        (callers.fetch_add(1, Ordering::Relaxed) < CALLERS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves the control socket until the process ends, each caller on a thread of its own.
pub(super) fn serve(path: &Path, queue: &Arc<Queue>) -> io::Result<()> {
    // The lock of the spool is ours: a socket that is there is left over.
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(named)?;
    let queue = Arc::clone(queue);
    let own = geteuid().as_raw();
    let run = move || {
        let callers = Arc::default();
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            // One that says nothing does not keep the others out; one too many is closed.
            let Some(place) = Place::take(&callers) else { continue };
            let queue = Arc::clone(&queue);
            let run = move || {
                let _place = place;
                // A caller that goes away is no concern of the server's.
                let _ = control::answer(stream, own, |request, say| operate::serve(&*queue, request, say));
            };
            if thread::Builder::new().name("control-caller".into()).spawn(run).is_err() {
                thread::sleep(Duration::from_millis(100));
            }
        }
    };
    thread::Builder::new().name("control".into()).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_however_its_caller_ends() {
        let callers = Arc::default();
        let places: Vec<Place> = (0..CALLERS_MAX).map(|_| Place::take(&callers).unwrap()).collect();
        for _ in 0..3 {
            assert!(Place::take(&callers).is_none());
        }
        drop(places);
        for _ in 0..2 * CALLERS_MAX {
            let place = Place::take(&callers).unwrap();
            let run = move || {
                let _place = place;
                std::panic::resume_unwind(Box::new(()))
            };
            assert!(thread::spawn(run).join().is_err());
        }
        assert_eq!(callers.load(Ordering::Relaxed), 0);
    }
}
