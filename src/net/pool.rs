//! The fixed pool: so many threads, each taking one piece of work after the other from a bounded channel.
//!
//! A panic costs the piece of work it happened in: it is caught, and the thread goes on.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, TrySendError};

/// Stack of a worker. Little of it is ever touched; the deepest use is a TLS handshake.
const STACK: usize = 256 * 1024;

/// The threads and the way to hand them work.
#[derive(Debug)]
pub struct Pool<T> {
    sender: Sender<T>,
    threads: Vec<JoinHandle<()>>,
}

/// Hands work to a pool; may be cloned and sent anywhere.
#[derive(Debug)]
pub struct WorkSender<T>(Sender<T>);

impl<T> Clone for WorkSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> WorkSender<T> {
    /// Hands a piece of work over, or gives it back if there is no room; never waits.
    pub fn offer(&self, work: T) -> Result<(), T> {
        self.0.try_send(work).map_err(|error| match error {
            TrySendError::Full(work) | TrySendError::Disconnected(work) => work,
        })
    }
}

impl<T: Send + 'static> Pool<T> {
    /// Starts `workers` threads; `capacity` pieces of work may wait.
    pub fn start(workers: usize, capacity: usize, work: impl Fn(T) + Send + Sync + 'static) -> io::Result<Self> {
        let (sender, receiver) = crossbeam_channel::bounded::<T>(capacity);
        let work = Arc::new(work);
        let mut threads = Vec::with_capacity(workers);
        for number in 0..workers {
            let (receiver, work) = (receiver.clone(), Arc::clone(&work));
            let run = move || {
                for piece in receiver {
                    // What a panic says is for the hook: it may quote what a client sent, and nobody should log that.
                    let _ = panic::catch_unwind(AssertUnwindSafe(|| work(piece)));
                }
            };
            threads.push(thread::Builder::new().name(format!("worker-{number}")).stack_size(STACK).spawn(run)?);
        }
        Ok(Self { sender, threads })
    }

    /// The way in.
    pub fn entrance(&self) -> WorkSender<T> {
        WorkSender(self.sender.clone())
    }

    /// Closes the way in and waits for the threads to finish what they have; entrances must be gone.
    pub fn join(self) {
        drop(self.sender);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_panic_costs_one_piece_of_work() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let done_ = Arc::clone(&done);
        let work = move |n: u32| {
            assert!(n != 2, "number {n} is bad");
            done_.lock().unwrap().push(n);
        };
        let pool = Pool::start(1, 10, work).unwrap();
        for n in 1..=3 {
            pool.entrance().offer(n).unwrap();
        }
        pool.join();
        assert_eq!(*done.lock().unwrap(), [1, 3]);
    }

    #[test]
    fn a_full_pool_gives_work_back() {
        let gate = Arc::new(Mutex::new(()));
        let hold = gate.lock().unwrap();
        let inner = Arc::clone(&gate);
        let pool = Pool::start(1, 1, move |_: u32| drop(inner.lock())).unwrap();
        let taken = (0..10).filter(|n| pool.entrance().offer(*n).is_ok()).count();
        assert!((1..=2).contains(&taken), "one at work at most, one waiting: {taken}");
        drop(hold);
        pool.join();
    }
}
