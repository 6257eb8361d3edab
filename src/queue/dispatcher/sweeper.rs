//! The thread that makes the spool's quick writes durable.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::journal;
use crate::queue::spool::{SWEEP, Spool};

/// Makes unlinks and records durable, [`SWEEP`] after they were written at the latest.
pub(super) struct Sweeper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What fails is said so long after the last time at the earliest.
const SAY_AGAIN: Duration = Duration::from_secs(60);

impl Sweeper {
    pub(super) fn start(spool: &Arc<Spool>) -> io::Result<Self> {
        let (spool, stop) = (Arc::clone(spool), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let run = move || {
            let mut said: Option<Instant> = None;
            loop {
                let last = stopped.load(Ordering::Relaxed);
                if spool.needs_sweep() {
                    let swept = if last { spool.sweep() } else { spool.sweep_older() };
                    if let Err(error) = swept
                        && said.is_none_or(|said| said.elapsed() >= SAY_AGAIN)
                    {
                        said = Some(Instant::now());
                        journal::notice("spool", format!("records are not made durable: {error}"));
                    }
                }
                if last {
                    return;
                }
                thread::park_timeout(SWEEP / 3);
            }
        };
        Ok(Self { thread: thread::Builder::new().name("sweeper".into()).spawn(run)?, stop })
    }

    pub(super) fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        let _ = self.thread.join();
    }
}
