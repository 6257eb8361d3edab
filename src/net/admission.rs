//! Who gets in: seats, fair shares, and who must leave when nobody else would get through.
//!
//! Every connection that was let in holds a [`Seat`] until its [`Ticket`] is dropped. A network (an IPv4 address, an
//! IPv6 /64) holds only so many seats; only so many connections wait for a worker. When the waiting room is full, a
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
pub struct Room {
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
    room: Room,
    inner: Mutex<Inner>,
    changed: Condvar,
    busy: AtomicUsize,
    draining: Arc<AtomicBool>,
    epoch: Instant,
}

#[derive(Debug, Default)]
struct Inner {
    seats: HashMap<u64, Arc<Seat>>,
    held: HashMap<Network, usize>,
    next: u64,
    waiting: Vec<Ticket>,
    ended: bool,
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Admitted {
    /// True if one more waits than before, so that a worker must be woken.
    pub wakes: bool,
    /// Who lost its place to it.
    pub displaced: Option<Ticket>,
}

/// One connection, as others see it.
#[derive(Debug)]
pub struct Seat {
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

/// Gives the seat back when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    admission: Arc<Admission>,
    seat: Arc<Seat>,
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
    /// An empty house.
    pub fn new(room: Room) -> Arc<Self> {
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
        let seat = Arc::new(Seat {
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
        inner.seats.insert(number, Arc::clone(&seat));
        *inner.held.entry(network).or_insert(0) += 1;
        inner.waiting.push(Ticket { admission: Arc::clone(self), seat });
        drop(inner);
        self.changed.notify_one();
        Ok(Admitted { wakes: displaced.is_none(), displaced })
    }

    /// The next who waits: of the network that holds least, and of those the first.
    pub fn next_waiting(&self) -> Option<Ticket> {
        let mut inner = self.lock();
        let key = |ticket: &Ticket| (inner.held_by(&ticket.seat), ticket.seat.number);
        let (at, _) = inner.waiting.iter().enumerate().min_by_key(|(_, ticket)| key(ticket))?;
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
                let Some(seat) = inner.most_dispensable() else { break };
                seat.tell(TOLD_SILENT, Shutdown::Read);
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
        for seat in inner.seats.values() {
            // Who still waits for a worker is told by the worker that takes it up.
            if !seat.at_work.load(Ordering::Relaxed) || !seat.in_transaction.load(Ordering::SeqCst) {
                seat.tell(TOLD_DRAINING, Shutdown::Read);
            }
        }
    }

    /// Waits until nobody is left, at most until `deadline`; true if so.
    pub fn wait_until_empty(&self, deadline: Instant) -> bool {
        let mut inner = self.lock();
        while !inner.seats.is_empty() {
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
        for seat in inner.seats.values() {
            seat.tell(TOLD_DRAINING, Shutdown::Both);
        }
        drop(inner);
        self.changed.notify_all();
    }

    fn leave(&self, seat: &Seat) {
        let mut inner = self.lock();
        inner.remove(seat.number);
        drop(inner);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, number: u64) {
        let Some(seat) = self.seats.remove(&number) else { return };
        if let Some(held) = self.held.get_mut(&seat.network) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&seat.network);
            }
        }
    }

    fn held_by(&self, seat: &Seat) -> usize {
        self.held.get(&seat.network).copied().unwrap_or(0)
    }

    /// Takes the place of one who waits, if its network holds more than a newcomer's with `held` seats would.
    fn displace_for(&mut self, held: usize) -> Option<Ticket> {
        let key = |ticket: &Ticket| (self.held_by(&ticket.seat), ticket.seat.number);
        let (at, most) = self.waiting.iter().enumerate().max_by_key(|(_, ticket)| key(ticket))?;
        if self.held_by(&most.seat) <= held + 1 {
            return None;
        }
        let ticket = self.waiting.remove(at);
        // Its seat is free at once; the ticket's own end then finds nothing to give back.
        self.remove(ticket.seat.number);
        Some(ticket)
    }

    /// The silent session that should leave first.
    fn most_dispensable(&self) -> Option<Arc<Seat>> {
        self.seats
            .values()
            .filter(|seat| seat.is_dispensable())
            .max_by_key(|seat| {
                let idle = !seat.in_transaction.load(Ordering::Relaxed);
                (idle, self.held_by(seat), seat.silence())
            })
            .map(Arc::clone)
    }
}

impl Seat {
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
    pub fn falls_silent(&self) {
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
    pub fn told(&self) -> Option<Refusal> {
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

    fn is_dispensable(&self) -> bool {
        self.at_work.load(Ordering::Relaxed)
            && !self.logged_in.load(Ordering::Relaxed)
            && self.told.load(Ordering::Relaxed) == TOLD_NOTHING
            && self.silence() >= SILENCE_MIN
    }
}

impl Ticket {
    /// The seat.
    pub fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// The house.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// A worker takes the connection up.
    pub fn take_up(&self) -> Busy<'_> {
        let admission = &self.admission;
        admission.busy.fetch_add(1, Ordering::Relaxed);
        self.seat.at_work.store(true, Ordering::Relaxed);
        // The watcher sleeps while nobody waits or a worker is free; this may have been the last free one.
        admission.changed.notify_all();
        Busy { ticket: self }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.leave(&self.seat);
    }
}

/// A worker is busy until this is dropped.
#[derive(Debug)]
pub struct Busy<'a> {
    ticket: &'a Ticket,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.ticket.admission.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    struct House {
        admission: Arc<Admission>,
        listener: TcpListener,
        clients: Vec<TcpStream>,
        displaced: Vec<Ticket>,
    }

    impl House {
        fn new(workers: usize, waiting: usize, per_network: usize) -> Self {
            let admission = Admission::new(Room { workers, waiting, per_network });
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
        fn enter(&mut self, from: &str) -> Result<Ticket, Refusal> {
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
        let mut house = House::new(4, 4, 2);
        let first = house.enter("10.0.0.1").unwrap();
        let _second = house.enter("10.0.0.1").unwrap();
        assert_eq!(house.arrive("10.0.0.1").unwrap_err(), Refusal::PerAddress);
        let _other = house.enter("10.0.0.2").unwrap();
        drop(first);
        house.arrive("10.0.0.1").unwrap();
    }

    #[test]
    fn a_full_house_says_so_at_once() {
        let mut house = House::new(1, 1, 10);
        let working = house.enter("10.0.0.1").unwrap();
        let _busy = working.take_up();
        house.arrive("10.0.0.2").unwrap();
        assert_eq!(house.arrive("10.0.0.3").unwrap_err(), Refusal::Overloaded);
    }

    #[test]
    fn a_newcomer_takes_the_place_of_who_holds_most() {
        let mut house = House::new(1, 2, 10);
        let working = house.enter("10.0.0.1").unwrap();
        let _busy = working.take_up();
        house.arrive("10.0.0.1").unwrap();
        house.arrive("10.0.0.1").unwrap();
        house.arrive("10.0.0.2").unwrap();
        let displaced: Vec<u64> = house.displaced.iter().map(|ticket| ticket.seat().number).collect();
        assert_eq!(displaced, [2], "the latest of the network that holds most");
        // Who holds as much as everybody else takes nobody's place.
        assert_eq!(house.arrive("10.0.0.1").unwrap_err(), Refusal::Overloaded);
        // And who holds least goes first.
        let order: Vec<u64> = std::iter::from_fn(|| house.admission.next_waiting()).map(|ticket| ticket.seat().number).collect();
        assert_eq!(order, [3, 1]);
    }

    #[test]
    fn the_silent_leave_when_somebody_waits() {
        let mut house = House::new(2, 4, 10);
        let silent = house.enter("10.0.0.1").unwrap();
        let moving = house.enter("10.0.0.1").unwrap();
        let _busy = (silent.take_up(), moving.take_up());
        silent.seat().falls_silent();
        std::thread::sleep(SILENCE_MIN + LOOK_AGAIN);
        moving.seat().falls_silent();
        let admission = Arc::clone(&house.admission);
        let watcher = std::thread::spawn(move || admission.watch());
        std::thread::sleep(4 * LOOK_AGAIN);
        assert_eq!(silent.seat().told(), None, "nobody waits");
        house.arrive("10.0.0.2").unwrap();
        std::thread::sleep(4 * LOOK_AGAIN);
        assert_eq!(silent.seat().told(), Some(Refusal::SilentTooLong));
        assert_eq!(moving.seat().told(), None);
        house.admission.end();
        watcher.join().unwrap();
    }

    #[test]
    fn who_is_logged_in_may_be_silent() {
        let mut house = House::new(1, 4, 10);
        let ticket = house.enter("10.0.0.1").unwrap();
        let _busy = ticket.take_up();
        ticket.seat().falls_silent();
        std::thread::sleep(SILENCE_MIN);
        assert!(ticket.seat().is_dispensable());
        ticket.seat().log_in();
        assert!(!ticket.seat().is_dispensable());
    }

    #[test]
    fn a_drain_spares_messages_in_progress() {
        let mut house = House::new(4, 4, 10);
        let (idle, sending) = (house.enter("10.0.0.1").unwrap(), house.enter("10.0.0.2").unwrap());
        {
            let _busy = (idle.take_up(), sending.take_up());
            sending.seat().set_in_transaction(true);
            house.admission.drain();
            assert_eq!(idle.seat().told(), Some(Refusal::Draining));
            assert_eq!(sending.seat().told(), None);
        }
        assert_eq!(house.arrive("10.0.0.3").unwrap_err(), Refusal::Draining);
        assert!(!house.admission.wait_until_empty(Instant::now()));
        drop((idle, sending));
        assert!(house.admission.wait_until_empty(Instant::now()));
    }
}
