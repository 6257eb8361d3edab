//! Checks passwords within a budget.
//!
//! Never more hashes at once than cores or than `hash_memory` allows; who must wait longer than [`WAIT_MAX`] is sent
//! away. Hashes wait in an order: networks without a failure go before those with one, and among equals the latest
//! goes first, since under a flood the oldest have mostly given up. A password that was right lately is known again
//! by a keyed digest: key fresh at each start, in memory alone, forgotten when the users change or after ten minutes.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use super::users::{self, Cost, Scratch, Users};
use crate::smtp::sasl::Credentials;

/// Checks passwords; safe to share.
#[derive(Debug)]
pub struct Verifier {
    budget: Budget,
    cache: Cache,
    wait_max: Duration,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No time for it: try later.
    Busy,
    /// Login and label.
    Right {
        /// The login in its canonical form.
        login: String,
        /// The label of the password that fitted; may be empty.
        label: String,
    },
    /// Unknown login or wrong password; nobody is told which.
    Wrong,
}

/// Whose hash goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The network has failed lately.
    Failed,
    /// It has not.
    Clean,
}

/// How long a hash may wait for its turn.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the memory of a hash is kept for the next.
const RESTS_AFTER: Duration = Duration::from_secs(2);
/// How long a password is known again without a hash.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Passwords known again, at most.
const REMEMBERED_MAX: usize = 4096;

impl Verifier {
    /// A verifier that computes `cores` hashes at once, in `memory` octets together.
    pub fn new(cores: usize, memory: u64) -> Self {
        Self { budget: Budget::new(cores, memory), cache: Cache::new(), wait_max: WAIT_MAX }
    }

    /// The same, with another wait_max than [`WAIT_MAX`].
    pub fn with_wait_max(mut self, wait_max: Duration) -> Self {
        self.wait_max = wait_max;
        self
    }

    /// Gives the memory of hashes back if none was computed lately; to be called now and then.
    pub fn release_idle_memory(&self) {
        let idle = {
            let mut queue = self.budget.lock();
            let rests = queue.running == 0 && queue.last.is_some_and(|last| last.elapsed() >= RESTS_AFTER);
            if rests { std::mem::take(&mut queue.spare) } else { Vec::new() }
        };
        drop(idle);
    }

    /// Checks credentials against `users`, which are a new generation whenever the file was read anew.
    pub fn verify(&self, users: &Arc<Users>, credentials: &Credentials, priority: Priority) -> Verdict {
        let login = users::canonical(&credentials.login);
        let digest = self.cache.digest(&login, &credentials.password);
        if let Some(label) = self.cache.get(users, &digest) {
            return Verdict::Right { login, label };
        }
        let deadline = Instant::now() + self.wait_max;
        for password in users.passwords(&login) {
            match self
                .budget
                .run(password.hash.cost(), priority, deadline, |scratch| password.hash.matches(&credentials.password, scratch))
            {
                None => return Verdict::Busy,
                Some(false) => {}
                Some(true) => {
                    self.cache.insert(users, digest, &password.label);
                    return Verdict::Right { login, label: password.label.clone() };
                }
            }
        }
        for cost in users.padding(&login) {
            if self
                .budget
                .run(cost, priority, deadline, |scratch| users::dummy_hash(cost, &credentials.password, scratch))
                .is_none()
            {
                return Verdict::Busy;
            }
        }
        Verdict::Wrong
    }
}

/// So many hashes and so much memory at once.
#[derive(Debug)]
struct Budget {
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
    fn new(cores: usize, memory: u64) -> Self {
        Self { cores: cores.max(1), memory, queue: Mutex::default(), changed: Condvar::new() }
    }

    /// Runs `work` when its turn has come; `None` if that is not before the deadline.
    fn run<T>(&self, cost: Cost, priority: Priority, deadline: Instant, work: impl FnOnce(&mut Scratch) -> T) -> Option<T> {
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

type Digest = [u8; 32];

/// Passwords that were right lately.
#[derive(Debug)]
struct Cache {
    key: hmac::Key,
    known: Mutex<HashMap<Digest, Known>>,
}

#[derive(Debug)]
struct Known {
    users: Arc<Users>,
    label: String,
    since: Instant,
}

impl Cache {
    fn new() -> Self {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        // Without randomness nothing is remembered under a key that could be guessed: the process must not go on.
        aws_lc_rs::rand::fill(&mut *key).expect("the system gives random octets");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &*key), known: Mutex::default() }
    }

    fn digest(&self, login: &str, password: &[u8]) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(login.len() as u64).to_le_bytes());
        context.update(login.as_bytes());
        context.update(password);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }

    fn get(&self, users: &Arc<Users>, digest: &Digest) -> Option<String> {
        let mut known = self.lock();
        let entry = known.get(digest)?;
        if entry.since.elapsed() >= REMEMBERED || !Arc::ptr_eq(&entry.users, users) {
            known.remove(digest);
            return None;
        }
        Some(entry.label.clone())
    }

    fn insert(&self, users: &Arc<Users>, digest: Digest, label: &str) {
        let mut known = self.lock();
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, entry| entry.since.elapsed() < REMEMBERED && Arc::ptr_eq(&entry.users, users));
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
        }
        known.insert(digest, Known { users: Arc::clone(users), label: label.to_owned(), since: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

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
        let verifier = Verifier::new(1, 1 << 30);
        let users = Arc::new(Users::parse("", 1 << 30).unwrap());
        let credentials = Credentials { login: "a".into(), password: b"x".to_vec().into() };
        assert_eq!(verifier.verify(&users, &credentials, Priority::Clean), Verdict::Wrong);
        verifier.release_idle_memory();
        assert_eq!(verifier.budget.lock().spare.iter().map(Scratch::octets).sum::<u64>(), users::COST.octets());
        verifier.budget.lock().last = Instant::now().checked_sub(RESTS_AFTER);
        verifier.release_idle_memory();
        assert!(verifier.budget.lock().spare.is_empty());
    }

    #[test]
    fn a_password_is_known_again_only_while_the_users_are_the_same() {
        let line = format!("a:{}", users::hash(b"right").unwrap());
        let (one, two) = (Arc::new(Users::parse(&line, 1 << 30).unwrap()), Arc::new(Users::parse("", 1 << 30).unwrap()));
        let verifier = Verifier::new(1, 1 << 30);
        let credentials = |password: &[u8]| Credentials { login: "A".into(), password: password.to_vec().into() };
        let right = Verdict::Right { login: "a".into(), label: String::new() };
        assert_eq!(verifier.verify(&one, &credentials(b"right"), Priority::Clean), right);
        let digest = verifier.cache.digest("a", b"right");
        assert!(verifier.cache.get(&one, &digest).is_some());
        assert_eq!(verifier.verify(&one, &credentials(b"right"), Priority::Clean), right);
        assert_eq!(verifier.verify(&one, &credentials(b"wrong"), Priority::Clean), Verdict::Wrong);
        assert_eq!(verifier.verify(&two, &credentials(b"right"), Priority::Clean), Verdict::Wrong);
    }
}
