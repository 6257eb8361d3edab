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

/// Serves the control socket until the process ends, each caller on a thread of its own.
pub(super) fn serve(path: &Path, queue: &Arc<Queue>) -> io::Result<()> {
    // The lock of the spool is ours: a socket that is there is left over.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let queue = Arc::clone(queue);
    let own = geteuid().as_raw();
    let run = move || {
        let callers = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            // One that says nothing does not keep the others out; one too many is closed.
            if callers.fetch_add(1, Ordering::Relaxed) >= CALLERS_MAX {
                callers.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (queue, callers) = (Arc::clone(&queue), Arc::clone(&callers));
            let run = move || {
                // A caller that goes away is no concern of the server's.
                let _ = control::answer(stream, own, |request, say| operate::serve(&*queue, request, say));
                callers.fetch_sub(1, Ordering::Relaxed);
            };
            if thread::Builder::new().name("control-caller".into()).spawn(run).is_err() {
                thread::sleep(Duration::from_millis(100));
            }
        }
    };
    thread::Builder::new().name("control".into()).spawn(run).map(drop)
}
