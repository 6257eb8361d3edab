//! Threads that each take one piece of work after the other: a fixed number at most, no more than there is work for.
//!
//! A thread is started when a piece of work finds none idle, and ends when it has been idle for a while; the one that became idle
//! last is woken first, so that the others come to their end. Of those that are idle the one that was started last ends first, and
//! after the end of many the memory that they have used is given back to the system ([`memory`]). Work that is handed over is
//! never lost and never refused: where all threads are busy, or none can be started, it waits for the next that is free. A panic
//! costs the piece of work it happened in: it is caught, and the thread goes on.

use std::collections::VecDeque;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender};

use super::memory;

/// The threads; may be cloned and sent anywhere.
#[derive(Debug)]
pub struct Pool<T>(Arc<Shared<T>>);

/// What a pool is made of.
pub struct PoolConfig<T> {
    /// Threads at once, at most.
    pub threads: usize,
    /// How long a thread may be idle before it ends.
    pub idle: Duration,
    /// What is done with a piece of work.
    pub work: Box<dyn Fn(T) + Send + Sync>,
    /// A thread could not be started. It is tried again, after a pause.
    pub spawn_failed: Box<dyn Fn(&io::Error) + Send + Sync>,
}

struct Shared<T> {
    config: PoolConfig<T>,
    inner: Mutex<Inner<T>>,
    ended: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    /// Those that are idle, the latest at the end.
    idle: Vec<Idle<T>>,
    backlog: VecDeque<T>,
    threads: usize,
    /// The most there were since memory was given back.
    most: usize,
    next: u64,
    failed: Option<Instant>,
    closed: bool,
}

/// A thread that is idle.
#[derive(Debug)]
struct Idle<T> {
    number: u64,
    /// Brings work; dropped, it tells the thread to end.
    work: Sender<T>,
    /// When a thread has been idle here for long enough.
    until: Instant,
}

/// After the end of so many threads memory is given back.
const MANY: usize = 16;
/// How long no thread is started after the system refused one.
const PAUSE: Duration = Duration::from_secs(1);

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.config.threads).finish_non_exhaustive()
    }
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Pool<T> {
    /// Starts one thread, to see that it can be done; the others follow with the work.
    pub fn start(config: PoolConfig<T>) -> io::Result<Self> {
        // A worker that made it grow would place it among what sessions hold, which it would keep from being given back.
        let idle = Vec::with_capacity(config.threads);
        let inner = Inner { idle, backlog: VecDeque::new(), threads: 0, most: 0, next: 0, failed: None, closed: false };
        let pool = Self(Arc::new(Shared { config, inner: Mutex::new(inner), ended: Condvar::new() }));
        pool.spawn(&mut pool.lock())?;
        Ok(pool)
    }

    /// Hands a piece of work over; never waits.
    pub fn offer(&self, work: T) {
        let mut inner = self.lock();
        match inner.idle.pop() {
            Some(thread) => {
                if let Err(error) = thread.work.send(work) {
                    inner.backlog.push_back(error.into_inner());
                }
            }
            None => inner.backlog.push_back(work),
        }
        self.staff(&mut inner);
    }

    /// Tries again to start a thread, if work waits for one; gives memory back after many have ended, and true if it did. Called
    /// once a second.
    pub fn tick(&self) -> bool {
        let mut inner = self.lock();
        self.staff(&mut inner);
        let many_ended = inner.most >= MANY && inner.threads <= inner.most / 8;
        if many_ended {
            inner.most = inner.threads;
            drop(inner);
            memory::give_all_back();
        }
        many_ended
    }

    /// Threads at this moment.
    pub fn threads(&self) -> usize {
        self.lock().threads
    }

    /// Lets idle threads end, and waits until all have, at most until `deadline`; true if so.
    pub fn join(&self, deadline: Instant) -> bool {
        let mut inner = self.lock();
        inner.closed = true;
        inner.idle.clear();
        while inner.threads > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self.0.ended.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Starts threads for work that waits, as far as that is allowed and possible.
    fn staff(&self, inner: &mut Inner<T>) {
        let pauses = inner.failed.is_some_and(|failed| failed.elapsed() < PAUSE);
        if inner.backlog.is_empty() || inner.threads >= self.0.config.threads || pauses {
            return;
        }
        if let Err(error) = self.spawn(inner) {
            inner.failed = Some(Instant::now());
            (self.0.config.spawn_failed)(&error);
        }
    }

    fn spawn(&self, inner: &mut Inner<T>) -> io::Result<()> {
        let pool = self.clone();
        let number = inner.next;
        thread::Builder::new().name(format!("worker-{number}")).stack_size(memory::STACK).spawn(move || pool.run(number))?;
        inner.next += 1;
        inner.threads += 1;
        inner.most = inner.most.max(inner.threads);
        inner.failed = None;
        Ok(())
    }

    fn run(&self, number: u64) {
        while let Some(work) = self.next(number) {
            // What a panic says is for the hook: it may quote what a client sent, which is never logged.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| (self.0.config.work)(work)));
        }
        memory::give_back();
        self.0.ended.notify_all();
    }

    /// The next piece of work; `None` if there was none for so long that the thread ends, which it then does not count any more.
    fn next(&self, number: u64) -> Option<T> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let mut until = Instant::now() + self.0.config.idle;
        {
            let mut inner = self.lock();
            let work = inner.backlog.pop_front();
            if work.is_some() {
                return work;
            }
            if inner.closed {
                inner.threads -= 1;
                return None;
            }
            inner.idle.push(Idle { number, work: sender, until });
        }
        loop {
            match receiver.recv_deadline(until) {
                Ok(work) => return Some(work),
                Err(RecvTimeoutError::Disconnected) => {}
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(later) = self.lock().pass_end_on(number) {
                        until = later;
                        continue;
                    }
                }
            }
            let mut inner = self.lock();
            inner.idle.retain(|idle| idle.number != number);
            // It may have come at the last moment.
            let work = receiver.try_recv().ok();
            inner.threads -= usize::from(work.is_none());
            return work;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Inner<T> {
    /// Lets the idle thread that was started last end in the place of this one, which takes its place; gives the end of that one's
    /// time, or `None` if none was started later. What lies highest in a heap was allocated last, so the oldest threads are the
    /// ones that keep least from being given back.
    fn pass_end_on(&mut self, number: u64) -> Option<Instant> {
        let own = self.idle.iter().position(|idle| idle.number == number)?;
        let last = (0..self.idle.len()).max_by_key(|at| self.idle[*at].number).filter(|last| *last != own)?;
        let until = self.idle[last].until;
        self.idle[own].until = until;
        self.idle.swap(own, last);
        drop(self.idle.remove(own));
        Some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn start<T: Send + 'static>(threads: usize, idle: Duration, work: impl Fn(T) + Send + Sync + 'static) -> Pool<T> {
        Pool::start(PoolConfig { threads, idle, work: Box::new(work), spawn_failed: Box::new(|_| ()) }).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + PATIENCE
    }

    #[test]
    fn a_panic_costs_one_piece_of_work() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let done_ = Arc::clone(&done);
        let work = move |n: u32| {
            assert!(n != 2, "number {n} is bad");
            done_.lock().unwrap().push(n);
        };
        let pool = start(1, PATIENCE, work);
        (1..=3).for_each(|n| pool.offer(n));
        assert!(pool.join(soon()));
        assert_eq!(*done.lock().unwrap(), [1, 3]);
    }

    #[test]
    fn there_are_no_more_threads_than_allowed_and_no_work_is_lost() {
        let (now, most, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (now_, most_, done_) = (Arc::clone(&now), Arc::clone(&most), Arc::clone(&done));
        let pool = start(3, Duration::from_millis(1), move |_: u32| {
            most_.fetch_max(now_.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            now_.fetch_sub(1, Ordering::SeqCst);
            done_.fetch_add(1, Ordering::SeqCst);
        });
        for n in 0..2000 {
            pool.offer(n);
            if n % 100 == 0 {
                // Long enough for threads to end in between.
                thread::sleep(Duration::from_millis(2));
            }
            assert!(pool.threads() <= 3);
        }
        assert!(pool.join(soon()));
        assert_eq!((done.load(Ordering::SeqCst), now.load(Ordering::SeqCst)), (2000, 0));
        assert!(most.load(Ordering::SeqCst) <= 3);
    }

    #[test]
    fn an_idle_thread_ends_and_another_is_started_when_it_is_needed() {
        let done = Arc::new(AtomicUsize::new(0));
        let done_ = Arc::clone(&done);
        let pool = start(2, Duration::from_millis(10), move |n: usize| {
            done_.fetch_add(n, Ordering::SeqCst);
        });
        let until = |what: &dyn Fn() -> bool| {
            let begun = Instant::now();
            while !what() {
                assert!(begun.elapsed() < PATIENCE);
                thread::sleep(Duration::from_millis(1));
            }
        };
        pool.offer(1);
        until(&|| done.load(Ordering::SeqCst) == 1);
        until(&|| pool.threads() == 0);
        pool.offer(2);
        until(&|| done.load(Ordering::SeqCst) == 3);
    }

    #[test]
    fn of_idle_threads_the_one_that_was_started_last_ends() {
        let begun = Instant::now();
        let idle = |number: u64, seconds| Idle {
            number,
            work: crossbeam_channel::bounded::<()>(1).0,
            until: begun + Duration::from_secs(seconds),
        };
        let idle = vec![idle(2, 1), idle(0, 2), idle(3, 3), idle(1, 4)];
        let mut inner = Inner { idle, backlog: VecDeque::new(), threads: 4, most: 4, next: 4, failed: None, closed: false };
        let left = |inner: &Inner<()>| -> Vec<_> {
            inner.idle.iter().map(|idle| (idle.number, (idle.until - begun).as_secs())).collect()
        };
        assert_eq!(inner.pass_end_on(2), Some(begun + Duration::from_secs(3)));
        assert_eq!(left(&inner), [(0, 2), (2, 3), (1, 4)], "it is idle in the other's place");
        assert_eq!(inner.pass_end_on(0), Some(begun + Duration::from_secs(3)));
        assert_eq!(left(&inner), [(0, 3), (1, 4)]);
        assert_eq!(inner.pass_end_on(1), None, "none was started later");
        assert_eq!(inner.pass_end_on(7), None, "work has come for it");
        assert_eq!(left(&inner), [(0, 3), (1, 4)]);
    }

    #[test]
    fn the_thread_that_was_started_first_ends_last() {
        let (tell, told) = crossbeam_channel::unbounded();
        let pool = start(3, Duration::from_secs(1), move |end: Option<crossbeam_channel::Receiver<()>>| match end {
            Some(end) => drop(end.recv()),
            None => tell.send(thread::current().name().unwrap().to_owned()).unwrap(),
        });
        let ends: Vec<Sender<()>> = (0..3)
            .map(|_| {
                let (end, wait) = crossbeam_channel::bounded(1);
                pool.offer(Some(wait));
                end
            })
            .collect();
        // Thread 0 is idle first.
        for end in ends {
            thread::sleep(Duration::from_millis(300));
            drop(end);
        }
        let begun = Instant::now();
        while pool.threads() > 1 {
            assert!(begun.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(1));
        }
        pool.offer(None);
        let name = told.recv_timeout(PATIENCE).unwrap();
        assert!(!["worker-1", "worker-2"].contains(&&*name), "{name} was started later than worker-0, and outlived it");
    }

    #[test]
    fn the_latest_idle_thread_is_woken_first() {
        let (sender, names) = crossbeam_channel::unbounded();
        let all_at_work = std::sync::Barrier::new(4);
        let pool = start(4, PATIENCE, move |meets: bool| {
            if meets {
                all_at_work.wait();
            }
            sender.send(thread::current().name().map(str::to_owned)).unwrap();
        });
        (0..4).for_each(|_| pool.offer(true));
        let all: Vec<_> = (0..4).map(|_| names.recv().unwrap()).collect();
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 4, "four at once: {all:?}");
        let mut used = std::collections::HashSet::new();
        for _ in 0..50 {
            while pool.lock().idle.len() < 4 {
                thread::yield_now();
            }
            pool.offer(false);
            used.insert(names.recv().unwrap());
        }
        assert_eq!(used.len(), 1, "the others could end: {used:?}");
    }
}
