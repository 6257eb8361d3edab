//! The budget of password hashes: never more at once than cores, or than their memory allows.
//!
//! Hashes wait in an order: networks without a failure go before those with one, and among equals the latest goes first,
//! since under a flood the oldest have mostly given up.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::argon::{Cost, Scratch};

/// So many hashes and so much memory at once.
#[derive(Debug)]
pub(super) struct Budget {
    cores: usize,
    memory: u64,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    running: usize,
    used: u64,
    next: u64,
    waiting: Vec<(Priority, u64)>,
    /// Memory that is kept: handed from thread to thread, since an allocator keeps what a thread has freed for that
    /// thread, and a hundred threads would each keep the memory of a hash.
    spare: Vec<Scratch>,
    last: Option<Instant>,
}

impl Budget {
    pub(super) fn new(cores: usize, memory: u64) -> Self {
        Self { cores: cores.max(1), memory, queue: Mutex::default(), changed: Condvar::new() }
    }

    /// Runs `work` when its turn has come; `None` if that is not before the deadline.
    pub(super) fn run<T>(
        &self,
        cost: Cost,
        priority: Priority,
        deadline: Instant,
        work: impl FnOnce(&mut Scratch) -> T,
    ) -> Option<T> {
        let mut queue = self.lock();
        let turn = (priority, queue.next);
        queue.next += 1;
        queue.waiting.push(turn);
        loop {
            let first = queue.waiting.iter().max() == Some(&turn);
            let fits = queue.running < self.cores && (queue.running == 0 || queue.used + cost.octets() <= self.memory);
            if first && fits {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                queue.waiting.retain(|waiting| *waiting != turn);
                drop(queue);
                self.changed.notify_all();
                return None;
            }
            queue = self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.waiting.retain(|waiting| *waiting != turn);
        queue.running += 1;
        queue.used += cost.octets();
        let scratch = queue.spare.pop().unwrap_or_default();
        let mut share = Share { budget: self, octets: cost.octets(), scratch };
        drop(queue);
        self.changed.notify_all();
        Some(work(&mut share.scratch))
    }

    /// Gives the memory of hashes back if none was computed lately.
    pub(super) fn release_idle_memory(&self) {
        let idle = {
            let mut queue = self.lock();
            let rests = queue.running == 0 && queue.last.is_some_and(|last| last.elapsed() >= RESTS_AFTER);
            if rests { std::mem::take(&mut queue.spare) } else { Vec::new() }
        };
        drop(idle);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of the budget, given back when dropped, a panic included.
struct Share<'a> {
    budget: &'a Budget,
    octets: u64,
    scratch: Scratch,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut queue = self.budget.lock();
        queue.running -= 1;
        queue.used -= self.octets;
        queue.last = Some(Instant::now());
        let kept: u64 = queue.spare.iter().map(Scratch::octets).sum();
        if kept + self.scratch.octets() <= self.budget.memory {
            let scratch = std::mem::take(&mut self.scratch);
            queue.spare.push(scratch);
        }
        drop(queue);
        self.budget.changed.notify_all();
    }
}

/// Whose hash goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The network has failed lately.
    Failed,
    /// It has not.
    Clean,
}

/// How long the memory of a hash is kept for the next.
const RESTS_AFTER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::super::argon::{COST, dummy_hash};
    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(10);
    const KIBIBYTE: Cost = Cost { memory: 1, passes: 1, lanes: 1, hybrid: true };

    fn later() -> Instant {
        Instant::now() + WAIT_MAX
    }

    #[test]
    fn never_more_at_once_than_the_budget() {
        for (cores, memory, most) in [(2, 1 << 20, 2), (8, 3 * 1024, 3)] {
            let budget = Budget::new(cores, memory);
            let (now, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
            thread::scope(|scope| {
                for _ in 0..12 {
                    scope.spawn(|| {
                        budget.run(KIBIBYTE, Priority::Clean, later(), |_| {
                            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            thread::sleep(Duration::from_millis(5));
                            now.fetch_sub(1, Ordering::SeqCst);
                        })
                    });
                }
            });
            assert_eq!(peak.into_inner(), most);
        }
    }

    #[test]
    fn who_has_not_failed_goes_first_and_the_latest_before_the_older() {
        let budget = Budget::new(1, 1 << 20);
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let gate = Arc::new(Mutex::new(()));
            let hold = gate.lock().unwrap();
            let (budget, order) = (&budget, &order);
            let inner = Arc::clone(&gate);
            scope.spawn(move || budget.run(KIBIBYTE, Priority::Clean, later(), |_| drop(inner.lock())));
            while budget.lock().running == 0 {
                thread::yield_now();
            }
            let arrivals = [("failed", Priority::Failed), ("clean", Priority::Clean), ("latest", Priority::Clean)];
            for (n, (name, priority)) in arrivals.into_iter().enumerate() {
                scope.spawn(move || budget.run(KIBIBYTE, priority, later(), |_| order.lock().unwrap().push(name)));
                while budget.lock().waiting.len() <= n {
                    thread::yield_now();
                }
            }
            drop(hold);
        });
        assert_eq!(*order.lock().unwrap(), ["latest", "clean", "failed"]);
    }

    #[test]
    fn patience_ends_and_a_panic_gives_the_share_back() {
        let budget = Budget::new(1, 1 << 20);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            budget.run(KIBIBYTE, Priority::Clean, later(), |_| panic!("in a hash"))
        }));
        assert!(panicked.is_err());
        let inside = budget.run(KIBIBYTE, Priority::Clean, later(), |_| {
            budget.run(KIBIBYTE, Priority::Clean, Instant::now() + Duration::from_millis(10), |_| ())
        });
        assert_eq!(inside, Some(None));
        assert!(budget.lock().waiting.is_empty());
    }

    #[test]
    fn memory_is_kept_while_it_is_needed_and_given_back() {
        let budget = Budget::new(1, 1 << 30);
        let kept = || budget.lock().spare.iter().map(Scratch::octets).sum::<u64>();
        budget.run(COST, Priority::Clean, later(), |scratch| dummy_hash(COST, b"x", scratch));
        budget.release_idle_memory();
        assert_eq!(kept(), COST.octets());
        budget.lock().last = Instant::now().checked_sub(RESTS_AFTER);
        budget.release_idle_memory();
        assert_eq!(kept(), 0);
    }
}
