//! One fsync of a directory for all deliveries that wait for it.
//!
//! A delivery that comes while enough of them run waits for the next one: it starts after the delivery came, so it covers
//! what that has linked. All that wait leave with its outcome, an error included. Each waits on a condition variable of
//! its own and is woken once, when there is something for it: woken all together they would only queue for one lock.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Turns calls that wait for the same fsync into few.
#[derive(Debug, Default)]
pub(super) struct GroupSync(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    running: usize,
    /// Those that came while so many were running.
    waiting: Vec<Arc<Waiter>>,
}

/// What one caller waits on.
#[derive(Debug, Default)]
struct Waiter {
    outcome: Mutex<Option<Outcome>>,
    changed: Condvar,
}

#[derive(Debug)]
enum Outcome {
    /// The fsync that covers the waiter is over; the error's number if it failed.
    Done(Result<(), Option<i32>>),
    /// The waiter does the next fsync, for itself and for these.
    Promote(Vec<Arc<Waiter>>),
}

/// Running side by side. With one, a disk that answers fast is left idle while the next leader wakes up: 64 writers
/// were seen at half the rate; with many, a slow disk has little to share.
const AT_ONCE: usize = 2;

impl GroupSync {
    /// Gives the outcome of an fsync that started after this call: of `fsync`, or of another caller's.
    pub(super) fn sync(&self, fsync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = lock(&self.0);
        if state.running < AT_ONCE {
            state.running += 1;
            drop(state);
            return self.lead(Vec::new(), fsync);
        }
        let waiter = Arc::new(Waiter::default());
        state.waiting.push(Arc::clone(&waiter));
        drop(state);
        match waiter.wait() {
            Outcome::Promote(others) => self.lead(others, fsync),
            Outcome::Done(Ok(())) => Ok(()),
            Outcome::Done(Err(Some(number))) => Err(io::Error::from_raw_os_error(number)),
            Outcome::Done(Err(None)) => Err(io::Error::other("another delivery's fsync of this directory failed")),
        }
    }

    fn lead(&self, others: Vec<Arc<Waiter>>, fsync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let synced = fsync();
        let mut state = lock(&self.0);
        let mut next = std::mem::take(&mut state.waiting);
        let leader = next.pop();
        state.running -= usize::from(leader.is_none());
        drop(state);
        if let Some(leader) = leader {
            leader.tell(Outcome::Promote(next));
        }
        for other in others {
            other.tell(Outcome::Done(synced.as_ref().copied().map_err(io::Error::raw_os_error)));
        }
        synced
    }
}

impl Waiter {
    fn wait(&self) -> Outcome {
        let mut outcome = lock(&self.outcome);
        loop {
            match outcome.take() {
                Some(outcome) => return outcome,
                None => outcome = self.changed.wait(outcome).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn tell(&self, outcome: Outcome) {
        *lock(&self.outcome) = Some(outcome);
        self.changed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_waiter_is_covered_only_by_a_sync_that_starts_after_it() {
        let shared = GroupSync::default();
        let (started, over) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for n in 0..32 {
                let (shared, started, over) = (&shared, &started, &over);
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(n % 7));
                    let before = started.load(SeqCst);
                    let fsync = || {
                        let number = started.fetch_add(1, SeqCst) + 1;
                        thread::sleep(Duration::from_millis(5));
                        // Two run at a time: the later may be over first.
                        over.fetch_max(number, SeqCst);
                        Ok(())
                    };
                    shared.sync(fsync).unwrap();
                    assert!(over.load(SeqCst) > before, "one that had begun already");
                });
            }
        });
        assert!(started.into_inner() < 32, "nothing was shared");
        assert_eq!(lock(&shared.0).running, 0);
    }

    #[test]
    fn a_failed_sync_fails_everybody_it_was_for_and_nobody_else() {
        let shared = GroupSync::default();
        let (failed, number) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for n in 0..8 {
                let (shared, failed, number) = (&shared, &failed, &number);
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(5 * u64::from(n > 1)));
                    let fsync = || {
                        thread::sleep(Duration::from_millis(50));
                        // The first two are for their callers alone, the third for the six that came meanwhile.
                        match number.fetch_add(1, SeqCst) {
                            2 => Err(io::Error::from_raw_os_error(28)),
                            _ => Ok(()),
                        }
                    };
                    let outcome = shared.sync(fsync);
                    failed.fetch_add(u64::from(outcome.is_err_and(|error| error.raw_os_error() == Some(28))), SeqCst);
                });
            }
        });
        assert_eq!((failed.into_inner(), number.into_inner()), (6, 3));
    }
}
