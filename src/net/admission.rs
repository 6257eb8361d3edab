//! Connection limits, the waiting list, and the hand-over to workers.
//!
//! Every connection that was let in holds a [`Slot`] until its [`SlotGuard`] is dropped. A network holds only so many slots, and
//! each class of services only a part of the workers, so that a flood on one leaves room on the others. A quarter of port 25's
//! part is left for networks that hold nothing yet. A connection that no worker is free for waits, for a limited time; where
//! the list is full, a new connection takes the place of one from a network that stands worse or holds more. While one waits,
//! sessions that get nothing done are evicted ([`eviction`](super::eviction)).
//!
//! How many sessions run is changed under the same lock as the list, so no connection waits beside a free worker.

use std::collections::{BTreeMap, HashMap};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::eviction::{Eviction, Waiter};
use super::history::{History, Standing};
pub use super::network::Network;
use super::pool::Pool;
use super::slot::Shared;
pub use super::slot::{Ending, Peer, Slot};
use super::waiting::{Class, Entry, WaitingList};
use crate::smtp::session::Service;

/// How many connections there may be, and where.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Sessions at once.
    pub workers: usize,
    /// Connections that may wait for a worker; with 0 none does.
    pub waiting: usize,
    /// Connections at once from one network.
    pub per_network: usize,
}

/// Counts and knows all connections.
#[derive(Debug)]
pub struct Admission {
    capacity: Capacity,
    inner: Mutex<Inner>,
    /// A connection waits, or the end has come.
    waits: Condvar,
    left: Condvar,
    /// Sessions at this moment, for those that need not be exact.
    sessions: AtomicUsize,
    /// Milliseconds from the epoch to when a connection last had to wait, plus one; 0 if none had to.
    pressed: AtomicU64,
    shared: Shared,
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    /// By number, so the oldest come first.
    slots: BTreeMap<u64, Arc<Slot>>,
    held: HashMap<Network, usize>,
    next: u64,
    waiting: [WaitingList<SlotGuard>; Class::ALL.len()],
    /// Sessions of each class, and those among them that were evicted and have not left yet.
    busy: [usize; Class::ALL.len()],
    leaving: [usize; Class::ALL.len()],
    pool: Option<Pool<SlotGuard>>,
    ended: bool,
}

/// How many sessions should leave.
#[derive(Clone, Copy, Debug, Default)]
struct Shortage {
    /// Of which class, if not of any.
    scope: Option<Class>,
    /// For networks that have not failed lately.
    others: usize,
    /// For networks that have.
    failed: usize,
}

/// Why a connection is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// Too many logins have failed from its network.
    Blocked,
    /// The server is being stopped.
    Draining,
    /// No worker is free, and no place to wait; or it has waited for too long.
    Overloaded,
    /// Its network holds too many connections.
    PerNetwork,
}

/// Gives the slot back when it is dropped.
#[derive(Debug)]
pub struct SlotGuard {
    admission: Arc<Admission>,
    slot: Arc<Slot>,
}

/// How long a connection may wait for a worker.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Limits of sessions shrink for so long after a connection had to wait.
const PRESSURE: Duration = Duration::from_secs(10);
/// How long it takes at least until sessions are looked at again, while a connection waits.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Admission {
    /// Without any connection; `history` says how networks stand, and is told how they behave.
    pub fn new(capacity: Capacity, history: Arc<History>) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            // Large enough from the start: what grows while there are many sessions lies among what they hold, which then is
            // not given back when they end.
            inner: Mutex::new(Inner { held: HashMap::with_capacity(capacity.workers + capacity.waiting), ..Inner::default() }),
            waits: Condvar::new(),
            left: Condvar::new(),
            sessions: AtomicUsize::new(0),
            pressed: AtomicU64::new(0),
            shared: Shared { history, ..Shared::default() },
            epoch: Instant::now(),
        })
    }

    /// Hands connections over to this pool from now on.
    pub fn serve_by(&self, pool: Pool<SlotGuard>) {
        let mut inner = self.lock();
        inner.pool = Some(pool);
        self.hand_over(&mut inner);
    }

    /// Lets a connection in, to be served or to wait, and gives the one that loses its place to it; or says why not.
    pub fn admit(
        self: &Arc<Self>,
        socket: impl Into<Socket>,
        peer: impl Into<Peer>,
        service: Service,
    ) -> Result<Option<SlotGuard>, (TurnedAway, Socket)> {
        let (socket, peer) = (socket.into(), peer.into());
        let (network, class, now) = (Network::of(peer.address.ip()), Class::of(service), Instant::now());
        let standing = self.shared.history.standing(network, class, now);
        let mut inner = self.lock();
        if self.is_draining() {
            return Err((TurnedAway::Draining, socket));
        }
        let held = inner.held.get(&network).copied().unwrap_or(0);
        if held >= self.capacity.per_network {
            return Err((TurnedAway::PerNetwork, socket));
        }
        let displaced = match inner.place(class, standing, held + 1, &self.capacity) {
            Ok(displaced) => displaced,
            Err(why) => return Err((why, socket)),
        };
        let number = inner.next;
        inner.next += 1;
        let slot = Arc::new(Slot::new(number, peer, service, socket, self.shared.clone()));
        inner.slots.insert(number, Arc::clone(&slot));
        inner.held.insert(network, held + 1);
        let item = SlotGuard { admission: Arc::clone(self), slot };
        inner.waiting[class as usize].push(network, standing, held + 1, Entry { number, since: now, item });
        self.hand_over(&mut inner);
        if inner.must_wait() {
            self.pressed.store(self.now(), Ordering::Relaxed);
            self.waits.notify_one();
        }
        Ok(displaced)
    }

    /// Takes the connection whose turn it is, if there is a worker for it; for those that have no pool.
    pub fn next_waiting(&self) -> Option<SlotGuard> {
        let mut inner = self.lock();
        let next = inner.take_next(&self.capacity);
        self.count(&inner);
        next
    }

    /// True while three quarters of the workers are busy, if a connection had to wait lately: limits shrink, as Postfix's stress
    /// mode does it.
    pub fn is_under_pressure(&self) -> bool {
        let pressed = self.pressed.load(Ordering::Relaxed);
        let lately = pressed > 0 && Duration::from_millis(self.now().saturating_sub(pressed)) < PRESSURE;
        lately && self.sessions() * 4 >= self.capacity.workers * 3
    }

    /// Sessions at this moment.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Evicts sessions while connections wait, and gives those that have waited too long to `late`; returns after [`Self::end`].
    pub fn watch(&self, late: impl Fn(SlotGuard)) {
        let mut inner = self.lock();
        while !inner.ended {
            if !inner.must_wait() {
                inner = self.waits.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let begun = Instant::now();
            self.evict(&mut inner);
            let expired = begun.checked_sub(WAIT_MAX).map(|limit| inner.expire(limit)).unwrap_or_default();
            drop(inner);
            expired.into_iter().for_each(&late);
            // Looking takes a twentieth of the time at most, however many sessions there are.
            std::thread::sleep(LOOK_AGAIN.max(begun.elapsed() * 20));
            inner = self.lock();
        }
    }

    /// Lets no connection in any more, and tells every session to leave that is not in the middle of a message.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        // One that still waits is told by the worker that takes it up.
        let inner = self.lock();
        inner.slots.values().filter(|slot| slot.is_between_messages()).for_each(|slot| slot.tell_to_drain(Shutdown::Read));
    }

    /// Waits until no connection is left, at most until `deadline`; true if so.
    pub fn wait_until_empty(&self, deadline: Instant) -> bool {
        let mut inner = self.lock();
        while !inner.slots.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self.left.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Ends [`Self::watch`] and shuts every connection that is left.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        inner.slots.values().for_each(|slot| slot.tell_to_drain(Shutdown::Both));
        self.waits.notify_all();
    }

    fn evict(&self, inner: &mut Inner) {
        let slots: Vec<Arc<Slot>> =
            inner.slots.values().filter(|slot| slot.is_at_work() && !slot.is_evicted()).map(Arc::clone).collect();
        let mut eviction = Eviction::new(slots.iter().map(|slot| slot.candidate()).collect(), self.capacity.workers);
        for Shortage { scope, others, failed } in inner.shortage(&self.capacity) {
            for (need, waiter) in [(others, Waiter::Other), (failed, Waiter::Failed)] {
                for at in eviction.choose(scope, need, waiter) {
                    if slots[at].evict() {
                        inner.leaving[Class::of(slots[at].service()) as usize] += 1;
                    }
                }
            }
        }
    }

    fn leave(&self, slot: &Slot) {
        if slot.is_at_work() {
            let others_wait = !self.lock().waiting[Class::of(slot.service()) as usize].is_empty();
            slot.remember(others_wait);
        }
        let mut inner = self.lock();
        inner.remove(slot);
        self.hand_over(&mut inner);
        drop(inner);
        self.left.notify_all();
    }

    /// Hands over as many of those that wait as there are workers for.
    fn hand_over(&self, inner: &mut Inner) {
        if let Some(pool) = inner.pool.clone() {
            while let Some(guard) = inner.take_next(&self.capacity) {
                pool.offer(guard);
            }
        }
        self.count(inner);
    }

    fn count(&self, inner: &Inner) {
        self.sessions.store(inner.busy.iter().sum(), Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shortage {
    /// With so many workers for those that are served first.
    fn less(self, workers: usize) -> Self {
        let rest = workers.saturating_sub(self.others);
        Self { others: self.others.saturating_sub(workers), failed: self.failed.saturating_sub(rest), ..self }
    }
}

impl Inner {
    /// Finds a place for a new connection of a network that holds so many with it; gives the one that loses it, if one does.
    fn place(
        &mut self,
        class: Class,
        standing: Standing,
        held: usize,
        capacity: &Capacity,
    ) -> Result<Option<SlotGuard>, TurnedAway> {
        let all: usize = self.waiting.iter().map(WaitingList::len).sum();
        let own = &self.waiting[class as usize];
        let is_full = own.len() >= class.share(capacity.waiting);
        if (own.is_empty() && self.room(class, held <= 1, capacity) > 0) || (all < capacity.waiting && !is_full) {
            return Ok(None);
        }
        let lists = Class::ALL.iter().filter(|one| !is_full || **one == class);
        let last = lists.filter_map(|one| self.waiting[*one as usize].last().map(|last| (last, *one))).max();
        match last {
            Some(((worst, most), from)) if worst > standing || (worst == standing && most > held) => {
                let Some(Entry { item, .. }) = self.waiting[from as usize].pop_last() else { return Ok(None) };
                // Its slot is free at once; the guard's own end then finds nothing to give back.
                self.remove(&item.slot);
                Ok(Some(item))
            }
            _ => Err(TurnedAway::Overloaded),
        }
    }

    /// Sessions that a class may begin at this moment, of a network that holds no other connection or of any.
    fn room(&self, class: Class, only: bool, capacity: &Capacity) -> usize {
        let free = capacity.workers.saturating_sub(self.busy.iter().sum());
        let share = if only { class.share(capacity.workers) } else { class.share_beyond_first(capacity.workers) };
        free.min(share.saturating_sub(self.busy[class as usize]))
    }

    /// Takes the next of the class that has fewest sessions, among those that may begin one.
    fn take_next(&mut self, capacity: &Capacity) -> Option<SlotGuard> {
        let waits = |class: &Class| {
            let list = &self.waiting[*class as usize];
            let any = !list.is_empty() && self.room(*class, false, capacity) > 0;
            any || (self.room(*class, true, capacity) > 0 && list.only() > 0)
        };
        let class = Class::ALL.into_iter().filter(waits).min_by_key(|class| self.busy[*class as usize])?;
        let any = self.room(class, false, capacity) > 0;
        let list = &mut self.waiting[class as usize];
        let Entry { item, .. } = if any { list.pop_first() } else { list.pop_only() }?;
        self.busy[class as usize] += 1;
        item.slot.take_up();
        Some(item)
    }

    /// True if a connection waits; those for which there are workers have been handed over.
    fn must_wait(&self) -> bool {
        self.waiting.iter().any(|list| !list.is_empty())
    }

    /// How many sessions should leave, those that do already left out: of one class for those that it is full for, and of any.
    /// What leaves already is for networks that have not failed lately, which are served first.
    fn shortage(&self, capacity: &Capacity) -> [Shortage; Class::ALL.len() + 1] {
        let mut any = Shortage::default();
        let mut coming = capacity.workers.saturating_sub(self.busy.iter().sum());
        let mut rows = [any; Class::ALL.len() + 1];
        for class in Class::ALL {
            let (at, list) = (class as usize, &self.waiting[class as usize]);
            let left = |share: usize| share.saturating_sub(self.busy[at]);
            let held_up = (list.len() - list.only()).saturating_sub(left(class.share_beyond_first(capacity.workers)));
            let room = left(class.share(capacity.workers)).min(list.len() - held_up);
            let all = Shortage { scope: Some(class), failed: list.failed(), others: list.len() - list.failed() };
            let beyond = all.less(room);
            rows[at] = beyond.less(self.leaving[at]);
            any.others += all.others - beyond.others;
            any.failed += all.failed - beyond.failed;
            coming += self.leaving[at].saturating_sub(beyond.others + beyond.failed);
        }
        rows[Class::ALL.len()] = any.less(coming);
        rows
    }

    fn expire(&mut self, limit: Instant) -> Vec<SlotGuard> {
        let late: Vec<SlotGuard> = self.waiting.iter_mut().flat_map(|list| list.expire(limit)).map(|entry| entry.item).collect();
        late.iter().for_each(|guard| self.remove(&guard.slot));
        late
    }

    fn remove(&mut self, slot: &Slot) {
        if self.slots.remove(&slot.number).is_none() {
            return;
        }
        let at = Class::of(slot.service()) as usize;
        if slot.is_at_work() {
            self.busy[at] -= 1;
            self.leaving[at] = self.leaving[at].saturating_sub(slot.is_evicted().into());
        }
        let Some(held) = self.held.get_mut(&slot.network) else { return };
        *held -= 1;
        let left = *held;
        if left == 0 {
            self.held.remove(&slot.network);
        }
        self.waiting.iter_mut().for_each(|list| list.set_held(slot.network, left));
    }
}

impl SlotGuard {
    /// The slot.
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// The admission that it belongs to.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.admission.leave(&self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::slot::Side;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    struct Fixture {
        admission: Arc<Admission>,
        listener: TcpListener,
        clients: Vec<TcpStream>,
        displaced: Vec<SlotGuard>,
    }

    impl Fixture {
        fn new(workers: usize, waiting: usize, per_network: usize) -> Self {
            let admission = Admission::new(Capacity { workers, waiting, per_network }, Arc::default());
            Self { admission, listener: TcpListener::bind("127.0.0.1:0").unwrap(), clients: Vec::new(), displaced: Vec::new() }
        }

        fn arrive_at(&mut self, service: Service, from: &str) -> Result<(), TurnedAway> {
            self.clients.push(TcpStream::connect(self.listener.local_addr().unwrap()).unwrap());
            let (tcp, _) = self.listener.accept().unwrap();
            let peer = SocketAddr::new(from.parse().unwrap(), 1);
            let displaced = self.admission.admit(tcp, peer, service).map_err(|(why, _)| why)?;
            self.displaced.extend(displaced);
            Ok(())
        }

        fn arrive(&mut self, from: &str) -> Result<(), TurnedAway> {
            self.arrive_at(Service::Submissions, from)
        }

        /// Arrives, and is the next to be served.
        fn enter_at(&mut self, service: Service, from: &str) -> SlotGuard {
            self.arrive_at(service, from).unwrap();
            self.admission.next_waiting().unwrap()
        }

        fn enter(&mut self, from: &str) -> SlotGuard {
            self.enter_at(Service::Submissions, from)
        }

        fn order(&self) -> Vec<u64> {
            // Kept to the end, so that no worker becomes free.
            let served: Vec<SlotGuard> = std::iter::from_fn(|| self.admission.next_waiting()).collect();
            served.iter().map(|guard| guard.slot().number).collect()
        }
    }

    #[test]
    fn a_network_has_its_share_and_gets_it_back() {
        let mut fixture = Fixture::new(8, 4, 2);
        let first = fixture.enter("10.0.0.1");
        let _second = fixture.enter("10.0.0.1");
        assert_eq!(fixture.arrive("10.0.0.1").unwrap_err(), TurnedAway::PerNetwork);
        let _other = fixture.enter("10.0.0.2");
        drop(first);
        fixture.arrive("10.0.0.1").unwrap();
    }

    #[test]
    fn a_full_server_says_so_at_once() {
        let mut fixture = Fixture::new(1, 1, 10);
        let _working = fixture.enter("10.0.0.1");
        fixture.arrive("10.0.0.2").unwrap();
        assert_eq!(fixture.arrive("10.0.0.3").unwrap_err(), TurnedAway::Overloaded);
    }

    #[test]
    fn where_none_may_wait_a_free_worker_still_serves() {
        let mut fixture = Fixture::new(1, 0, 10);
        let working = fixture.enter("10.0.0.1");
        assert_eq!(fixture.arrive("10.0.0.2").unwrap_err(), TurnedAway::Overloaded);
        drop(working);
        fixture.enter("10.0.0.2");
    }

    #[test]
    fn each_class_has_its_share_of_workers_and_places() {
        let mut fixture = Fixture::new(4, 4, 100);
        let smtp: Vec<SlotGuard> = (0..3).map(|n| fixture.enter_at(Service::Smtp, &format!("10.0.1.{n}"))).collect();
        for n in 0..3 {
            fixture.arrive_at(Service::Smtp, &format!("10.0.2.{n}")).unwrap();
            assert!(fixture.admission.next_waiting().is_none(), "three quarters are all there are");
        }
        assert_eq!(fixture.arrive_at(Service::Smtp, "10.0.0.1").unwrap_err(), TurnedAway::Overloaded, "so are the places");
        let submission = fixture.enter_at(Service::Submission, "10.0.0.2");
        fixture.arrive_at(Service::Submissions, "10.0.0.2").unwrap();
        assert!(fixture.admission.next_waiting().is_none(), "all workers are busy");
        drop(smtp);
        let next: Vec<SlotGuard> = std::iter::from_fn(|| fixture.admission.next_waiting()).collect();
        let services: Vec<Service> = next.iter().map(|guard| guard.slot().service()).collect();
        assert_eq!(services, [Service::Smtp, Service::Smtp, Service::Submissions], "the class with fewest sessions first");
        drop(submission);
        assert!(fixture.admission.next_waiting().is_some());
    }

    #[test]
    fn a_newcomer_takes_the_place_of_a_network_that_holds_more() {
        let mut fixture = Fixture::new(1, 2, 10);
        let working = fixture.enter("10.0.0.1");
        // Of two places, a class has one.
        fixture.arrive("10.0.0.1").unwrap();
        fixture.arrive("10.0.0.2").unwrap();
        let displaced: Vec<u64> = fixture.displaced.iter().map(|guard| guard.slot().number).collect();
        assert_eq!(displaced, [1]);
        assert_eq!(fixture.arrive("10.0.0.3").unwrap_err(), TurnedAway::Overloaded, "it holds as many");
        drop(working);
        assert_eq!(fixture.order(), [2]);
    }

    #[test]
    fn a_network_that_got_nowhere_waits_behind_the_others() {
        let mut fixture = Fixture::new(4, 8, 10);
        drop(fixture.enter("10.0.0.1"));
        let mut working: Vec<SlotGuard> = (0..3).map(|_| fixture.enter("10.0.0.9")).collect();
        for from in ["10.0.0.1", "10.0.0.2"] {
            fixture.arrive(from).unwrap();
        }
        working[0].slot().log_in("alice");
        drop(working.remove(0));
        let first = fixture.admission.next_waiting().unwrap();
        assert_eq!(first.slot().peer().ip().to_string(), "10.0.0.2");
        // One that has logged in comes before those that are not known, though it holds more.
        fixture.arrive("10.0.0.3").unwrap();
        fixture.arrive("10.0.0.9").unwrap();
        drop(working.remove(0));
        assert_eq!(fixture.admission.next_waiting().unwrap().slot().peer().ip().to_string(), "10.0.0.9");
    }

    #[test]
    fn a_message_on_port_25_is_no_proof_but_makes_good() {
        let mut fixture = Fixture::new(4, 8, 10);
        let history = Arc::clone(&fixture.admission.shared.history);
        let network = Network::of([10, 0, 0, 1].into());
        let standing = |class| history.standing(network, class, Instant::now());
        drop(fixture.enter_at(Service::Smtp, "10.0.0.1"));
        assert_eq!(standing(Class::Smtp), Standing::New, "no other waited for the worker");
        let leaves = fixture.enter_at(Service::Smtp, "10.0.0.1");
        fixture.arrive_at(Service::Smtp, "10.0.0.2").unwrap();
        drop(leaves);
        assert_eq!(standing(Class::Smtp), Standing::Failed);
        drop(fixture.admission.next_waiting());
        let sends = fixture.enter_at(Service::Smtp, "10.0.0.1");
        sends.slot().succeed();
        drop(sends);
        assert_eq!((standing(Class::Smtp), standing(Class::Submission)), (Standing::New, Standing::New));
    }

    #[test]
    fn a_session_that_gets_nothing_done_leaves_while_one_waits() {
        let mut fixture = Fixture::new(1, 4, 10);
        let guard = fixture.enter("10.0.0.1");
        let admission = Arc::clone(&fixture.admission);
        let watcher = std::thread::spawn(move || admission.watch(drop));
        assert!(guard.slot().begin_wait(Side::Read));
        // Longer than it is new.
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(guard.slot().ending(), None, "none waits");
        fixture.arrive("10.0.0.2").unwrap();
        let begun = Instant::now();
        while guard.slot().ending().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(guard.slot().ending(), Some(Ending::Evicted));
        assert!(!guard.slot().end_wait(), "it does not act on what came meanwhile");
        assert!(!guard.slot().begin_wait(Side::Read));
        drop(guard);
        assert!(fixture.admission.next_waiting().is_some());
        fixture.admission.end();
        watcher.join().unwrap();
    }

    /// Clients that come again at once evict no login that is under way over a slow line; one that has not failed may.
    #[test]
    fn a_session_is_given_time_while_only_those_that_failed_wait() {
        let mut fixture = Fixture::new(1, 4, 10);
        drop(fixture.enter("10.0.0.2"));
        let begun = Instant::now();
        let guard = fixture.enter("10.0.0.1");
        let admission = Arc::clone(&fixture.admission);
        let watcher = std::thread::spawn(move || admission.watch(drop));
        assert!(guard.slot().begin_wait(Side::Read));
        fixture.arrive("10.0.0.2").unwrap();
        // Longer than it is new.
        std::thread::sleep(Duration::from_millis(1500));
        let ending = guard.slot().ending();
        assert!(ending.is_none() || begun.elapsed() >= Duration::from_secs(5), "{ending:?}");
        fixture.arrive("10.0.0.3").unwrap();
        while guard.slot().ending().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(guard);
        assert_eq!(fixture.admission.next_waiting().unwrap().slot().peer().ip().to_string(), "10.0.0.3");
        fixture.admission.end();
        watcher.join().unwrap();
    }

    #[test]
    fn those_that_leave_are_counted_once() {
        let mut fixture = Fixture::new(4, 8, 10);
        let smtp: Vec<SlotGuard> = (0..3).map(|n| fixture.enter_at(Service::Smtp, &format!("10.0.1.{n}"))).collect();
        let capacity = fixture.admission.capacity;
        let shortage = |fixture: &Fixture| fixture.admission.lock().shortage(&capacity).map(|row| row.others + row.failed);
        assert_eq!(shortage(&fixture), [0, 0, 0, 0]);
        fixture.arrive_at(Service::Smtp, "10.0.0.2").unwrap();
        assert_eq!(shortage(&fixture), [0, 1, 0, 0], "a worker is free, but not for this class");
        let _submission = fixture.enter("10.0.0.3");
        fixture.arrive("10.0.0.4").unwrap();
        assert_eq!(shortage(&fixture), [0, 1, 0, 1]);
        fixture.admission.lock().leaving[Class::Smtp as usize] = 1;
        assert_eq!(shortage(&fixture), [0, 0, 0, 1]);
        fixture.admission.lock().leaving[Class::Smtp as usize] = 2;
        assert_eq!(shortage(&fixture), [0, 0, 0, 0]);
        drop(smtp);
    }

    #[test]
    fn those_that_failed_are_counted_by_themselves() {
        let mut fixture = Fixture::new(4, 16, 10);
        drop(fixture.enter("10.0.0.1"));
        let working: Vec<SlotGuard> = (0..2).map(|_| fixture.enter("10.0.0.2")).collect();
        let capacity = fixture.admission.capacity;
        let shortage = |fixture: &Fixture| fixture.admission.lock().shortage(&capacity).map(|row| (row.others, row.failed));
        for from in ["10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.3", "10.0.0.4"] {
            fixture.arrive(from).unwrap();
        }
        // One worker of the class is free, and will be for a network that has not failed.
        assert_eq!(shortage(&fixture), [(0, 0), (0, 0), (1, 3), (0, 0)]);
        fixture.admission.lock().leaving[Class::Submission as usize] = 2;
        assert_eq!(shortage(&fixture), [(0, 0), (0, 0), (0, 2), (0, 0)]);
        drop(working);
    }

    #[test]
    fn on_port_25_a_quarter_is_left_for_networks_that_hold_nothing() {
        // Twelve for port 25, nine of them for a network's second and later ones.
        let mut fixture = Fixture::new(16, 16, 100);
        let mut busy: Vec<SlotGuard> = (0..9).map(|_| fixture.enter_at(Service::Smtp, "10.0.0.1")).collect();
        let capacity = fixture.admission.capacity;
        let shortage = |fixture: &Fixture| fixture.admission.lock().shortage(&capacity).map(|row| row.others + row.failed);
        fixture.arrive_at(Service::Smtp, "10.0.0.1").unwrap();
        assert!(fixture.admission.next_waiting().is_none(), "it waits");
        assert_eq!(shortage(&fixture), [0, 1, 0, 0], "and one that gets nothing done leaves for it");
        for n in 2..5 {
            busy.push(fixture.enter_at(Service::Smtp, &format!("10.0.0.{n}")));
            fixture.arrive_at(Service::Smtp, &format!("10.0.0.{n}")).unwrap();
            assert!(fixture.admission.next_waiting().is_none(), "it is the second of its network");
        }
        fixture.arrive_at(Service::Smtp, "10.0.0.5").unwrap();
        assert!(fixture.admission.next_waiting().is_none(), "the share of port 25 is full");
        assert_eq!(shortage(&fixture), [0, 5, 0, 0]);
        busy.drain(..2);
        assert_eq!(fixture.admission.next_waiting().unwrap().slot().peer().ip().to_string(), "10.0.0.5");
        busy.clear();
        assert_eq!(fixture.order().len(), 4, "all that waited");
    }

    #[test]
    fn limits_shrink_only_while_connections_have_to_wait() {
        let mut fixture = Fixture::new(4, 4, 10);
        let _busy: Vec<SlotGuard> = (0..3).map(|_| fixture.enter("10.0.0.1")).collect();
        // Without a pool, each had to wait until it was taken.
        fixture.admission.pressed.store(0, Ordering::Relaxed);
        assert!(!fixture.admission.is_under_pressure());
        fixture.arrive("10.0.0.2").unwrap();
        assert!(fixture.admission.is_under_pressure());
    }

    #[test]
    fn a_drain_spares_messages_in_progress() {
        let mut fixture = Fixture::new(4, 4, 10);
        let (idle, sending) = (fixture.enter("10.0.0.1"), fixture.enter("10.0.0.2"));
        sending.slot().set_in_transaction(true);
        fixture.admission.drain();
        assert_eq!(idle.slot().ending(), Some(Ending::Draining));
        assert_eq!(sending.slot().ending(), None);
        assert_eq!(fixture.arrive("10.0.0.3").unwrap_err(), TurnedAway::Draining);
        assert!(!fixture.admission.wait_until_empty(Instant::now()));
        drop((idle, sending));
        assert!(fixture.admission.wait_until_empty(Instant::now()));
    }
}
