//! One connection as the server sees it: where it comes from, what it has got done, and what it waits for at this moment.
//!
//! The worker that serves it notes these facts; [`eviction`](super::eviction) reads them. Whether the session waits for its client
//! is one word, changed by compare and exchange: a session that works (a hash, fsync, the answer of a handshake) cannot be
//! evicted, and one that is evicted while octets arrive never acts on them.

use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use socket2::Socket;

use super::eviction::{Candidate, Content};
use super::history::{History, Standing};
use super::network::Network;
use super::waiting::Class;
use crate::smtp::session::Service;

/// One connection that was let in.
#[derive(Debug)]
pub struct Slot {
    pub(super) number: u64,
    pub(super) network: Network,
    peer: SocketAddr,
    service: Service,
    socket: Arc<Socket>,
    local_login: Option<Arc<str>>,
    opened: Instant,
    shared: Shared,
    /// WORKING, READING, WRITING or EVICTED.
    state: AtomicU8,
    /// Milliseconds from `opened` to when a worker took it up, plus one; 0 while it waits.
    taken_up: AtomicU64,
    /// Milliseconds from `opened` to the last success, plus one; 0 before the first.
    success: AtomicU64,
    login: OnceLock<Arc<str>>,
    in_transaction: AtomicBool,
    /// Milliseconds from `opened` to the first octet of the content of the open transaction, plus one; 0 before it.
    content: AtomicU64,
    /// Milliseconds that were waited for the client within content, of earlier transactions too.
    waited: AtomicU64,
    /// Milliseconds from `opened` to when the present wait within content began, plus one; 0 if there is none.
    waits_since: AtomicU64,
    octets: AtomicU64,
    data_rate: AtomicU64,
    told_to_drain: AtomicBool,
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address; for a user of this machine, the one that stands for its uid.
    pub address: SocketAddr,
    /// The login of the local socket that it came by, if that has one.
    pub local_login: Option<Arc<str>>,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self { address, local_login: None }
    }
}

/// What all slots of a server share.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    pub(super) history: Arc<History>,
    pub(super) draining: Arc<AtomicBool>,
}

/// Why a session must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server is being stopped.
    Draining,
    /// Others wait for a worker.
    Evicted,
}

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Octets of the client.
    Read,
    /// The client to take octets.
    Write,
}

const WORKING: u8 = 0;
const READING: u8 = 1;
const WRITING: u8 = 2;
const EVICTED: u8 = 3;

impl Slot {
    pub(super) fn new(number: u64, peer: Peer, service: Service, socket: Socket, shared: Shared) -> Self {
        let Peer { address: peer, local_login } = peer;
        Self {
            number,
            network: Network::of(peer.ip()),
            peer,
            service,
            socket: Arc::new(socket),
            local_login,
            opened: Instant::now(),
            shared,
            state: AtomicU8::new(WORKING),
            taken_up: AtomicU64::new(0),
            success: AtomicU64::new(0),
            login: OnceLock::new(),
            in_transaction: AtomicBool::new(false),
            content: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            waits_since: AtomicU64::new(0),
            octets: AtomicU64::new(0),
            data_rate: AtomicU64::new(0),
            told_to_drain: AtomicBool::new(false),
        }
    }

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

    /// The login of the local socket that it came by, if that has one.
    pub fn local_login(&self) -> Option<&str> {
        self.local_login.as_deref()
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// A session begins to wait for its client; false if it has been evicted.
    pub fn begin_wait(&self, side: Side) -> bool {
        let waits = if side == Side::Read { READING } else { WRITING };
        if self.content.load(Ordering::Relaxed) > 0 {
            self.waits_since.store(self.now(), Ordering::Relaxed);
        }
        self.state.compare_exchange(WORKING, waits, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The wait is over; false if the session was evicted meanwhile, and must not act on what came.
    pub fn end_wait(&self) -> bool {
        self.waited.store(self.content_wait(), Ordering::Relaxed);
        self.waits_since.store(0, Ordering::Relaxed);
        let waits = self.state.load(Ordering::SeqCst);
        waits != EVICTED && self.state.compare_exchange(waits, WORKING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Content is expected, and should come with so many octets a second.
    pub fn begin_content(&self, data_rate: u64) {
        self.data_rate.store(data_rate, Ordering::Relaxed);
        let _ = self.content.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// So many octets of content came.
    pub fn add_content(&self, octets: usize) {
        self.octets.fetch_add(octets as u64, Ordering::Relaxed);
    }

    /// The client has logged in.
    pub fn log_in(&self, login: &str) {
        let _ = self.login.set(login.into());
        self.success.store(self.now(), Ordering::Relaxed);
        self.shared.history.logged_in(self.network, SystemTime::now());
    }

    /// A message of the client was accepted.
    pub fn succeed(&self) {
        self.success.store(self.now(), Ordering::Relaxed);
    }

    /// A transaction has begun or ended: while one is open, a drain waits for it.
    pub fn set_in_transaction(&self, open: bool) {
        self.in_transaction.store(open, Ordering::SeqCst);
        if !open {
            self.content.store(0, Ordering::Relaxed);
            self.octets.store(0, Ordering::Relaxed);
        }
    }

    /// Why this session must end, if so. A drain waits for the end of a transaction.
    pub fn ending(&self) -> Option<Ending> {
        if self.is_evicted() {
            return Some(Ending::Evicted);
        }
        let drains = self.shared.draining.load(Ordering::SeqCst) && !self.in_transaction.load(Ordering::SeqCst);
        (drains || self.told_to_drain.load(Ordering::SeqCst)).then_some(Ending::Draining)
    }

    /// True if the session was evicted.
    pub fn is_evicted(&self) -> bool {
        self.state.load(Ordering::SeqCst) == EVICTED
    }

    /// A worker takes it up.
    pub(super) fn take_up(&self) {
        self.taken_up.store(self.now(), Ordering::SeqCst);
    }

    /// True once a worker has taken it up.
    pub(super) fn is_at_work(&self) -> bool {
        self.taken_up.load(Ordering::SeqCst) > 0
    }

    /// Evicts the session, if it waits for its client at this moment. Shutting the reading side wakes a worker that reads and
    /// leaves room for a last word; a client that reads nothing would not hear one.
    pub(super) fn evict(&self) -> bool {
        for (waits, how) in [(READING, Shutdown::Read), (WRITING, Shutdown::Both)] {
            if self.state.compare_exchange(waits, EVICTED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                let _ = self.socket.shutdown(how);
                return true;
            }
        }
        false
    }

    /// Tells the session to end because the server does.
    pub(super) fn tell_to_drain(&self, how: Shutdown) {
        self.told_to_drain.store(true, Ordering::SeqCst);
        let _ = self.socket.shutdown(how);
    }

    /// True unless a transaction is open.
    pub(super) fn is_between_messages(&self) -> bool {
        !self.in_transaction.load(Ordering::SeqCst)
    }

    /// The session has ended: what its network is remembered by. On port 25 a session that stored nothing is no fault, as after
    /// an unknown recipient; it counts only if it had a worker that `others_wait` for.
    pub(super) fn remember(&self, others_wait: bool) {
        let class = Class::of(self.service);
        let succeeded = self.success.load(Ordering::Relaxed) != 0;
        if self.is_evicted() || (!succeeded && (class != Class::Smtp || others_wait)) {
            self.shared.history.failed(self.network, class, Instant::now());
        } else if succeeded && class == Class::Smtp {
            self.shared.history.succeeded(self.network, class);
        }
    }

    /// The facts that decide about its eviction.
    pub(super) fn candidate(&self) -> Candidate {
        let class = Class::of(self.service);
        let age = |noted: u64| Duration::from_millis(self.now().saturating_sub(noted));
        let in_transaction = self.in_transaction.load(Ordering::Relaxed);
        let state = self.state.load(Ordering::Relaxed);
        let content = match self.content.load(Ordering::Relaxed) {
            0 => None,
            began => Some(Content {
                lasts: age(began),
                waited: Duration::from_millis(self.content_wait()),
                octets: self.octets.load(Ordering::Relaxed),
                rate: self.data_rate.load(Ordering::Relaxed),
            }),
        };
        Candidate {
            network: self.network,
            class,
            login: self.login.get().cloned(),
            known: class == Class::Submission && self.shared.history.is_known(self.network),
            failed: self.shared.history.standing(self.network, class, Instant::now()) == Standing::Failed,
            in_transaction,
            waits: matches!(state, READING | WRITING),
            served: age(self.taken_up.load(Ordering::Relaxed)),
            since_success: age(self.success.load(Ordering::Relaxed)),
            // A client that does not read its replies sends no content either.
            content: content.filter(|_| in_transaction && state != WRITING),
        }
    }

    /// Milliseconds that were waited for the client within content until now.
    fn content_wait(&self) -> u64 {
        let present = match self.waits_since.load(Ordering::Relaxed) {
            0 => 0,
            began => self.now().saturating_sub(began),
        };
        self.waited.load(Ordering::Relaxed) + present
    }

    fn now(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::eviction::Waiter;
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream};

    fn slot(service: Service) -> (Slot, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (tcp, peer) = listener.accept().unwrap();
        (Slot::new(0, peer.into(), service, tcp.into(), Shared::default()), client)
    }

    #[test]
    fn one_that_works_for_its_client_is_not_evicted() {
        let (slot, _client) = slot(Service::Smtp);
        assert!(!slot.evict(), "it works");
        assert!(slot.begin_wait(Side::Read) && slot.candidate().waits);
        assert!(slot.end_wait() && !slot.candidate().waits);
        assert!(!slot.evict(), "it works again");
        assert!(slot.begin_wait(Side::Read) && slot.evict() && !slot.evict());
        assert_eq!(slot.ending(), Some(Ending::Evicted));
        assert!(!slot.end_wait() && !slot.begin_wait(Side::Read), "it does not act on what came meanwhile");
    }

    #[test]
    fn one_that_waits_is_woken() {
        for side in [Side::Read, Side::Write] {
            let (slot, mut client) = slot(Service::Smtp);
            assert!(slot.begin_wait(side) && slot.evict());
            assert_eq!((&**slot.socket()).read(&mut [0]).unwrap(), 0, "{side:?}");
            client.set_nonblocking(true).unwrap();
            // A client that is read from hears a last word, one that reads nothing would not.
            assert_eq!(client.read(&mut [0]).is_ok(), side == Side::Write, "{side:?}");
        }
    }

    #[test]
    fn content_is_counted_in_an_open_transaction_alone() {
        let (slot, _client) = slot(Service::Smtp);
        slot.begin_content(500);
        slot.add_content(7);
        assert!(slot.candidate().content.is_none(), "the octets of a refused chunk");
        slot.set_in_transaction(true);
        assert_eq!(slot.candidate().content.unwrap().octets, 7);
        assert!(slot.begin_wait(Side::Write) && slot.candidate().content.is_none(), "it reads no replies");
        assert!(slot.end_wait());
        slot.set_in_transaction(false);
        slot.set_in_transaction(true);
        assert!(slot.candidate().content.is_none(), "another message");
    }

    #[test]
    fn waits_for_content_add_up_over_messages() {
        let (slot, _client) = slot(Service::Smtp);
        let wait = |milliseconds| {
            assert!(slot.begin_wait(Side::Read));
            std::thread::sleep(Duration::from_millis(milliseconds));
            assert!(slot.end_wait());
        };
        let waited = || slot.candidate().content.unwrap().waited;
        slot.set_in_transaction(true);
        wait(20);
        slot.begin_content(500);
        assert_eq!(waited(), Duration::ZERO, "commands do not count");
        wait(20);
        let first = waited();
        assert!(first >= Duration::from_millis(19));
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(waited(), first, "it waits for the server");
        slot.set_in_transaction(false);
        wait(20);
        slot.set_in_transaction(true);
        slot.begin_content(500);
        assert_eq!(waited(), first, "neither do waits between messages");
        assert!(slot.begin_wait(Side::Read));
        std::thread::sleep(Duration::from_millis(20));
        let second = waited();
        assert!(second >= first + Duration::from_millis(19), "the present wait counts");
        assert!(slot.end_wait() && waited() >= second);
    }

    #[test]
    fn content_at_the_data_rate_is_spared_for_thirty_seconds_of_a_session_not_of_a_message() {
        let (mut slot, _client) = slot(Service::Smtp);
        // Its clock is ahead by so much from now on.
        let pass = |slot: &mut Slot, seconds| slot.opened -= Duration::from_secs(seconds);
        slot.take_up();
        let mut evictable = Vec::new();
        for _ in 0..4 {
            pass(&mut slot, 100);
            slot.set_in_transaction(true);
            slot.begin_content(500);
            assert!(slot.begin_wait(Side::Read));
            pass(&mut slot, 9);
            slot.add_content(5000);
            evictable.push(slot.candidate().is_evictable(Waiter::Other));
            assert!(slot.end_wait());
            slot.succeed();
            slot.set_in_transaction(false);
        }
        assert_eq!(evictable, [false, false, false, true], "after 9, 18, 27 and 36 seconds of content");
    }

    #[test]
    fn a_login_is_remembered_at_once_and_an_end_without_success_too() {
        let (slot, _client) = slot(Service::Submission);
        let standing = || slot.shared.history.standing(slot.network, Class::Submission, Instant::now());
        slot.remember(false);
        assert_eq!(standing(), Standing::Failed);
        slot.log_in("alice@example.org");
        assert_eq!(standing(), Standing::Known);
        slot.remember(false);
        assert_eq!(standing(), Standing::Known);
    }

    /// A server that knew no recipient here did not keep anything from others.
    #[test]
    fn on_port_25_an_end_without_success_counts_where_others_wait() {
        let (slot, _client) = slot(Service::Smtp);
        let standing = || slot.shared.history.standing(slot.network, Class::Smtp, Instant::now());
        slot.remember(false);
        assert_eq!(standing(), Standing::New);
        slot.remember(true);
        assert_eq!(standing(), Standing::Failed);
        slot.remember(false);
        assert_eq!(standing(), Standing::Failed, "and nothing but a message ends it");
        slot.succeed();
        slot.remember(true);
        assert_eq!(standing(), Standing::New);
    }
}
