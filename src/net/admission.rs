//! Who gets in: slots, fair shares, and who must leave when nobody else would get through.
//!
//! Every connection that was let in holds a [`Slot`] until its [`SlotGuard`] is dropped. A network (an IPv4 address, an
//! IPv6 /64) holds only so many slots; only so many connections wait for a worker. When the waiting room is full, a
//! newcomer takes the place of one from the network that holds most, if it holds less itself. When somebody waits and
//! no worker is free, the session that has been silent longest among those that are not logged in, of the network that
//! holds most, is told to leave. So whoever speaks gets through, however many are silent.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::smtp::reply::Refusal;
use crate::smtp::session::Service;

/// An IPv4 address, or the first 64 bits of an IPv6 address: what one customer of a provider has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(u128);

/// How many may be where.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Sessions at once.
    pub workers: usize,
    /// Connections that may wait for a worker.
    pub waiting: usize,
    /// Connections at once from one network.
    pub per_network: usize,
}

/// Counts and knows all connections.
#[derive(Debug)]
pub struct Admission {
    room: Capacity,
    inner: Mutex<Inner>,
    changed: Condvar,
    busy: AtomicUsize,
    draining: Arc<AtomicBool>,
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<u64, Arc<Slot>>,
    held: HashMap<Network, usize>,
    next: u64,
    waiting: Vec<SlotGuard>,
    ended: bool,
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Admitted {
    /// True if one more waits than before, so that a worker must be woken.
    pub wakes: bool,
    /// Who lost its place to it.
    pub displaced: Option<SlotGuard>,
}

/// One connection, as others see it.
#[derive(Debug)]
pub struct Slot {
    number: u64,
    network: Network,
    peer: SocketAddr,
    service: Service,
    tcp: Arc<TcpStream>,
    opened: Instant,
    epoch: Instant,
    /// Milliseconds from the epoch to when the present silence began, plus one; 0 while something moves.
    silent_since: AtomicU64,
    at_work: AtomicBool,
    logged_in: AtomicBool,
    in_transaction: AtomicBool,
    told: AtomicU8,
    draining: Arc<AtomicBool>,
}

/// Gives the slot back when it is dropped.
#[derive(Debug)]
pub struct SlotGuard {
    admission: Arc<Admission>,
    slot: Arc<Slot>,
}

/// How long a session must have been silent before it can be told to leave: longer than a round trip over a bad line.
const SILENCE_MIN: Duration = Duration::from_millis(1000);
/// How often the silent are looked at while somebody waits.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

const TOLD_NOTHING: u8 = 0;
const TOLD_SILENT: u8 = 1;
const TOLD_DRAINING: u8 = 2;

impl Network {
    /// The network of an address; an IPv4 address mapped into IPv6 counts as what it is.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => Self(v6.to_bits() & !u128::from(u64::MAX)),
        }
    }
}

impl Admission {
    /// Without any connection.
    pub fn new(room: Capacity) -> Arc<Self> {
        Arc::new(Self {
            room,
            inner: Mutex::default(),
            changed: Condvar::new(),
            busy: AtomicUsize::new(0),
            draining: Arc::default(),
            epoch: Instant::now(),
        })
    }

    /// Lets a connection into the waiting room, or says why not.
    pub fn admit(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr, service: Service) -> Result<Admitted, (Refusal, TcpStream)> {
        let network = Network::of(peer.ip());
        let mut inner = self.lock();
        if self.draining.load(Ordering::SeqCst) {
            return Err((Refusal::Draining, tcp));
        }
        let held = inner.held.get(&network).copied().unwrap_or(0);
        if held >= self.room.per_network {
            return Err((Refusal::PerAddress, tcp));
        }
        let free = self.room.workers.saturating_sub(self.busy.load(Ordering::Relaxed));
        let displaced = match inner.waiting.len() < self.room.waiting.max(1) + free {
            true => None,
            false => match inner.displace_for(held) {
                None => return Err((Refusal::Overloaded, tcp)),
                some => some,
            },
        };
        let number = inner.next;
        inner.next += 1;
        let slot = Arc::new(Slot {
            number,
            network,
            peer,
            service,
            tcp: Arc::new(tcp),
            opened: Instant::now(),
            epoch: self.epoch,
            silent_since: AtomicU64::new(0),
            at_work: AtomicBool::new(false),
            logged_in: AtomicBool::new(false),
            in_transaction: AtomicBool::new(false),
            told: AtomicU8::new(TOLD_NOTHING),
            draining: Arc::clone(&self.draining),
        });
        inner.slots.insert(number, Arc::clone(&slot));
        *inner.held.entry(network).or_insert(0) += 1;
        inner.waiting.push(SlotGuard { admission: Arc::clone(self), slot });
        drop(inner);
        self.changed.notify_one();
        Ok(Admitted { wakes: displaced.is_none(), displaced })
    }

    /// The next who waits: of the network that holds least, and of those the first.
    pub fn next_waiting(&self) -> Option<SlotGuard> {
        let mut inner = self.lock();
        let key = |guard: &SlotGuard| (inner.held_by(&guard.slot), guard.slot.number);
        let (at, _) = inner.waiting.iter().enumerate().min_by_key(|(_, guard)| key(guard))?;
        Some(inner.waiting.remove(at))
    }

    /// True while three quarters of the workers are busy: limits shrink (as Postfix's stress mode does).
    pub fn is_under_pressure(&self) -> bool {
        self.busy.load(Ordering::Relaxed) * 4 >= self.room.workers * 3
    }

    /// Sessions at this moment.
    pub fn sessions(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Tells the silent to leave whenever somebody waits and no worker is free; returns after [`Self::end`].
    pub fn watch(&self) {
        let mut inner = self.lock();
        while !inner.ended {
            if inner.waiting.is_empty() || self.busy.load(Ordering::Relaxed) < self.room.workers {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            for _ in 0..inner.waiting.len() {
                let Some(slot) = inner.most_evictable() else { break };
                slot.tell(TOLD_SILENT, Shutdown::Read);
            }
            drop(inner);
            std::thread::sleep(LOOK_AGAIN);
            inner = self.lock();
        }
    }

    /// Lets nobody in any more and tells everybody to leave who is not in the middle of a message.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        let inner = self.lock();
        for slot in inner.slots.values() {
            // Who still waits for a worker is told by the worker that takes it up.
            if !slot.at_work.load(Ordering::Relaxed) || !slot.in_transaction.load(Ordering::SeqCst) {
                slot.tell(TOLD_DRAINING, Shutdown::Read);
            }
        }
    }

    /// Waits until nobody is left, at most until `deadline`; true if so.
    pub fn wait_until_empty(&self, deadline: Instant) -> bool {
        let mut inner = self.lock();
        while !inner.slots.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Ends [`Self::watch`] and shuts every connection that is left.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        for slot in inner.slots.values() {
            slot.tell(TOLD_DRAINING, Shutdown::Both);
        }
        drop(inner);
        self.changed.notify_all();
    }

    fn leave(&self, slot: &Slot) {
        let mut inner = self.lock();
        inner.remove(slot.number);
        drop(inner);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, number: u64) {
        let Some(slot) = self.slots.remove(&number) else { return };
        if let Some(held) = self.held.get_mut(&slot.network) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&slot.network);
            }
        }
    }

    fn held_by(&self, slot: &Slot) -> usize {
        self.held.get(&slot.network).copied().unwrap_or(0)
    }

    /// Takes the place of one who waits, if its network holds more than a newcomer's with `held` slots would.
    fn displace_for(&mut self, held: usize) -> Option<SlotGuard> {
        let key = |guard: &SlotGuard| (self.held_by(&guard.slot), guard.slot.number);
        let (at, most) = self.waiting.iter().enumerate().max_by_key(|(_, guard)| key(guard))?;
        if self.held_by(&most.slot) <= held + 1 {
            return None;
        }
        let guard = self.waiting.remove(at);
        // Its slot is free at once; the guard's own end then finds nothing to give back.
        self.remove(guard.slot.number);
        Some(guard)
    }

    /// The silent session that should leave first.
    fn most_evictable(&self) -> Option<Arc<Slot>> {
        self.slots
            .values()
            .filter(|slot| slot.is_evictable())
            .max_by_key(|slot| {
                let idle = !slot.in_transaction.load(Ordering::Relaxed);
                (idle, self.held_by(slot), slot.silence())
            })
            .map(Arc::clone)
    }
}

impl Slot {
    /// Where the connection comes from.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// What the port is for.
    pub fn service(&self) -> Service {
        self.service
    }

    /// When it was accepted.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// The socket.
    pub fn tcp(&self) -> &Arc<TcpStream> {
        &self.tcp
    }

    /// The client begins to be waited for.
    pub fn mark_waiting(&self) {
        let now = self.epoch.elapsed().as_millis() as u64 + 1;
        let _ = self.silent_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Something came from the client, or it took something.
    pub fn moves(&self) {
        self.silent_since.store(0, Ordering::Relaxed);
    }

    /// The client has logged in: it is never told to leave for being silent.
    pub fn log_in(&self) {
        self.logged_in.store(true, Ordering::Relaxed);
    }

    /// A transaction has begun or ended: while one is open, a drain waits for it.
    pub fn set_in_transaction(&self, open: bool) {
        self.in_transaction.store(open, Ordering::SeqCst);
    }

    /// Why this session must end, if it was told to. A drain waits for the end of a transaction.
    pub fn shutdown_reason(&self) -> Option<Refusal> {
        match self.told.load(Ordering::SeqCst) {
            TOLD_NOTHING => {
                let leaves = self.draining.load(Ordering::SeqCst) && !self.in_transaction.load(Ordering::SeqCst);
                leaves.then_some(Refusal::Draining)
            }
            TOLD_SILENT => Some(Refusal::SilentTooLong),
            _ => Some(Refusal::Draining),
        }
    }

    /// Tells the session to end. Shutting the reading side wakes a worker that waits, and leaves room for a last word.
    fn tell(&self, why: u8, how: Shutdown) {
        let _ = self.told.compare_exchange(TOLD_NOTHING, why, Ordering::SeqCst, Ordering::SeqCst);
        let _ = self.tcp.shutdown(how);
    }

    fn silence(&self) -> Duration {
        match self.silent_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.epoch.elapsed().saturating_sub(Duration::from_millis(since - 1)),
        }
    }

    fn is_evictable(&self) -> bool {
        self.at_work.load(Ordering::Relaxed)
            && !self.logged_in.load(Ordering::Relaxed)
            && self.told.load(Ordering::Relaxed) == TOLD_NOTHING
            && self.silence() >= SILENCE_MIN
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

    /// A worker takes the connection up.
    pub fn take_up(&self) -> Busy<'_> {
        let admission = &self.admission;
        admission.busy.fetch_add(1, Ordering::Relaxed);
        self.slot.at_work.store(true, Ordering::Relaxed);
        // The watcher sleeps while nobody waits or a worker is free; this may have been the last free one.
        admission.changed.notify_all();
        Busy { guard: self }
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.admission.leave(&self.slot);
    }
}

/// A worker is busy until this is dropped.
#[derive(Debug)]
pub struct Busy<'a> {
    guard: &'a SlotGuard,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.guard.admission.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    struct Bench {
        admission: Arc<Admission>,
        listener: TcpListener,
        clients: Vec<TcpStream>,
        displaced: Vec<SlotGuard>,
    }

    impl Bench {
        fn new(workers: usize, waiting: usize, per_network: usize) -> Self {
            let admission = Admission::new(Capacity { workers, waiting, per_network });
            Self { admission, listener: TcpListener::bind("127.0.0.1:0").unwrap(), clients: Vec::new(), displaced: Vec::new() }
        }

        fn arrive(&mut self, from: &str) -> Result<(), Refusal> {
            self.clients.push(TcpStream::connect(self.listener.local_addr().unwrap()).unwrap());
            let (tcp, _) = self.listener.accept().unwrap();
            let peer = SocketAddr::new(from.parse().unwrap(), 1);
            let admitted = self.admission.admit(tcp, peer, Service::Smtp).map_err(|(refusal, _)| refusal)?;
            self.displaced.extend(admitted.displaced);
            Ok(())
        }

        /// Arrives, and is the next to be taken from the waiting room.
        fn enter(&mut self, from: &str) -> Result<SlotGuard, Refusal> {
            self.arrive(from)?;
            Ok(self.admission.next_waiting().unwrap())
        }
    }

    #[test]
    fn networks() {
        let same = [("10.0.0.1", "::ffff:10.0.0.1"), ("2001:db8::1", "2001:db8::ffff:1:2:3")];
        for (a, b) in same {
            assert_eq!(Network::of(a.parse().unwrap()), Network::of(b.parse().unwrap()), "{a} {b}");
        }
        let other = [("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8:0:1::1"), ("::1", "0.0.0.1")];
        for (a, b) in other {
            assert_ne!(Network::of(a.parse().unwrap()), Network::of(b.parse().unwrap()), "{a} {b}");
        }
    }

    #[test]
    fn a_network_has_its_share_and_gets_it_back() {
        let mut context = Bench::new(4, 4, 2);
        let first = context.enter("10.0.0.1").unwrap();
        let _second = context.enter("10.0.0.1").unwrap();
        assert_eq!(context.arrive("10.0.0.1").unwrap_err(), Refusal::PerAddress);
        let _other = context.enter("10.0.0.2").unwrap();
        drop(first);
        context.arrive("10.0.0.1").unwrap();
    }

    #[test]
    fn a_full_server_says_so_at_once() {
        let mut context = Bench::new(1, 1, 10);
        let working = context.enter("10.0.0.1").unwrap();
        let _busy = working.take_up();
        context.arrive("10.0.0.2").unwrap();
        assert_eq!(context.arrive("10.0.0.3").unwrap_err(), Refusal::Overloaded);
    }

    #[test]
    fn a_newcomer_takes_the_place_of_who_holds_most() {
        let mut context = Bench::new(1, 2, 10);
        let working = context.enter("10.0.0.1").unwrap();
        let _busy = working.take_up();
        context.arrive("10.0.0.1").unwrap();
        context.arrive("10.0.0.1").unwrap();
        context.arrive("10.0.0.2").unwrap();
        let displaced: Vec<u64> = context.displaced.iter().map(|guard| guard.slot().number).collect();
        assert_eq!(displaced, [2], "the latest of the network that holds most");
        // Who holds as much as everybody else takes nobody's place.
        assert_eq!(context.arrive("10.0.0.1").unwrap_err(), Refusal::Overloaded);
        // And who holds least goes first.
        let order: Vec<u64> = std::iter::from_fn(|| context.admission.next_waiting()).map(|guard| guard.slot().number).collect();
        assert_eq!(order, [3, 1]);
    }

    #[test]
    fn the_silent_leave_when_somebody_waits() {
        let mut context = Bench::new(2, 4, 10);
        let silent = context.enter("10.0.0.1").unwrap();
        let moving = context.enter("10.0.0.1").unwrap();
        let _busy = (silent.take_up(), moving.take_up());
        silent.slot().mark_waiting();
        std::thread::sleep(SILENCE_MIN + LOOK_AGAIN);
        moving.slot().mark_waiting();
        let admission = Arc::clone(&context.admission);
        let watcher = std::thread::spawn(move || admission.watch());
        std::thread::sleep(4 * LOOK_AGAIN);
        assert_eq!(silent.slot().shutdown_reason(), None, "nobody waits");
        context.arrive("10.0.0.2").unwrap();
        std::thread::sleep(4 * LOOK_AGAIN);
        assert_eq!(silent.slot().shutdown_reason(), Some(Refusal::SilentTooLong));
        assert_eq!(moving.slot().shutdown_reason(), None);
        context.admission.end();
        watcher.join().unwrap();
    }

    #[test]
    fn who_is_logged_in_may_be_silent() {
        let mut context = Bench::new(1, 4, 10);
        let guard = context.enter("10.0.0.1").unwrap();
        let _busy = guard.take_up();
        guard.slot().mark_waiting();
        std::thread::sleep(SILENCE_MIN);
        assert!(guard.slot().is_evictable());
        guard.slot().log_in();
        assert!(!guard.slot().is_evictable());
    }

    #[test]
    fn a_drain_spares_messages_in_progress() {
        let mut context = Bench::new(4, 4, 10);
        let (idle, sending) = (context.enter("10.0.0.1").unwrap(), context.enter("10.0.0.2").unwrap());
        {
            let _busy = (idle.take_up(), sending.take_up());
            sending.slot().set_in_transaction(true);
            context.admission.drain();
            assert_eq!(idle.slot().shutdown_reason(), Some(Refusal::Draining));
            assert_eq!(sending.slot().shutdown_reason(), None);
        }
        assert_eq!(context.arrive("10.0.0.3").unwrap_err(), Refusal::Draining);
        assert!(!context.admission.wait_until_empty(Instant::now()));
        drop((idle, sending));
        assert!(context.admission.wait_until_empty(Instant::now()));
    }
}
