//! The server as a whole: listeners and pool, from start to drain, and what happens to files meanwhile.

mod boot;
pub mod expiry;
pub mod keys;
pub mod load;
pub mod modes;
pub mod outgoing;
mod post;
pub mod privileges;
pub mod readiness;
mod reload;
pub mod sandbox;
mod sending;
pub mod state;
mod watch;

use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::auth::passwd;
use crate::conn::caller::Caller;
use crate::conn::context::Context;
use crate::conn::{self, Connection};
use crate::journal::{self, SessionLog};
use crate::net::admission::{Admission, Capacity, SlotGuard, TurnedAway};
use crate::net::listener::{self, AcceptPolicy, Listener};
use crate::net::network::uid_of_address;
use crate::net::pool::{Pool, PoolConfig};
use crate::net::stream::Stream;
use crate::smtp::reply::{Refusal, Refused};
use crate::smtp::session::Service;
use outgoing::Outgoing;
use readiness::Readiness;
use reload::Files;
pub use reload::{Stamps, Startup};
use state::State;

/// A running server.
#[derive(Debug)]
pub struct Server {
    context: Arc<Context>,
    admission: Arc<Admission>,
    pool: Pool<SlotGuard>,
    /// One to each acceptor: an octet asks it to give memory back, the end to stop.
    orders: Vec<PipeWriter>,
    acceptors: Vec<JoinHandle<()>>,
    watcher: JoinHandle<()>,
    state: State,
    begun: Instant,
    services: Vec<Service>,
    outgoing: Option<Outgoing>,
}

/// A request from outside the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT, or no client came for long where the socket is only lent.
    Stop,
}

/// How often files and the manager are looked at.
const TICK: Duration = Duration::from_secs(1);
/// A worker that has been idle for so long ends; another is started when it is needed.
const WORKER_IDLE: Duration = Duration::from_secs(30);
/// Failed logins on a connection that has a process of its own.
const FAILURES_OF_ONE: u32 = 3;

impl Server {
    /// Starts serving these sockets. With `idle`, [`Control::Stop`] comes by `ends` when no client came for so long.
    pub fn start(
        context: Arc<Context>,
        listeners: Vec<Listener>,
        idle: Option<(Duration, mpsc::Sender<Control>)>,
    ) -> io::Result<Self> {
        let limits = context.snapshot().config.limits;
        let capacity = Capacity { workers: limits.workers, waiting: limits.waiting, per_network: limits.per_address };
        let state = State::open(&context.snapshot().config.state, Arc::clone(&context.sending));
        let admission = Admission::new(capacity, Arc::clone(state.history()));
        let pool = {
            let context = Arc::clone(&context);
            Pool::start(PoolConfig {
                threads: limits.workers,
                idle: WORKER_IDLE,
                work: Box::new(move |guard: SlotGuard| serve_slot(&context, &guard)),
                spawn_failed: Box::new(|error| journal::notice("worker", format!("no thread can be started: {error}"))),
            })?
        };
        admission.serve_by(pool.clone());
        let watcher = {
            let (admission, context) = (Arc::clone(&admission), Arc::clone(&context));
            let watch = move || {
                let policy = ServerPolicy { context: &context };
                admission.watch(|guard| listener::turn_away_waiting(&guard, &policy));
            };
            thread::Builder::new().name("watcher".into()).spawn(watch)?
        };
        let mut orders = Vec::new();
        let mut acceptors = Vec::new();
        let services = listeners.iter().map(|listener| listener.service).collect();
        for listener in listeners {
            let (told, order) = io::pipe()?;
            orders.push(order);
            let acceptor = AcceptThread {
                listener,
                orders: told,
                admission: Arc::clone(&admission),
                context: Arc::clone(&context),
                idle: idle.clone(),
            };
            acceptors.push(thread::Builder::new().name("acceptor".into()).spawn(move || acceptor.run())?);
        }
        Ok(Self { context, admission, pool, orders, acceptors, watcher, state, begun: Instant::now(), services, outgoing: None })
    }

    /// Sends on what is queued, as long as the server runs.
    pub fn with_outgoing(mut self, outgoing: Option<Outgoing>) -> Self {
        self.outgoing = outgoing;
        self
    }

    /// Watches over files and the manager until the end, then drains. Gives true if no message was cut off.
    pub fn run(mut self, startup: Startup, told: &Receiver<Control>, readiness: &mut Readiness) -> bool {
        // What was read may be older than a signal of the start.
        let mut first = startup.reload.load(Ordering::Relaxed).then_some(Control::Reload);
        let mut files = Files::new(startup, self.services.clone());
        loop {
            match first.take().map_or_else(|| told.recv_timeout(TICK), Ok) {
                Ok(Control::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Control::Reload) => {
                    readiness.reloading();
                    files.reload_all(&self.context, Instant::now());
                    let _ = readiness.ready(None);
                }
                Err(RecvTimeoutError::Timeout) => files.look(&self.context, Instant::now()),
            }
            journal::left_out(&self.context.log_budget, false);
            self.context.verifier.release_idle_memory();
            if self.pool.tick() {
                // An acceptor that ended meanwhile keeps nothing.
                self.orders.iter().for_each(|mut order| drop(order.write_all(b"m")));
            }
            self.state.tick();
            sending::tell(&self.context, self.outgoing.as_ref().map(Outgoing::mailer));
            if let Some(outgoing) = &mut self.outgoing {
                outgoing.tick(&self.context);
            }
            let queue = self.outgoing.as_ref().map(Outgoing::status);
            readiness.tick(self.admission.sessions(), self.context.messages(), queue.as_deref());
        }
        readiness.stopping();
        self.drain()
    }

    /// Stops accepting, tells the idle, lets messages in progress end within `drain`; true if all of them did.
    pub fn drain(mut self) -> bool {
        let limit = self.context.snapshot().config.limits.drain;
        journal::draining(self.admission.sessions(), limit);
        drop(self.orders);
        for acceptor in self.acceptors {
            let _ = acceptor.join();
        }
        self.admission.drain();
        sending::tell(&self.context, self.outgoing.as_ref().map(Outgoing::mailer));
        // Couriers end beside the sessions; what a session still hands in stays in the spool.
        let couriers = self.outgoing.map(|outgoing| thread::spawn(move || outgoing.stop(limit)));
        let empty = self.admission.wait_until_empty(Instant::now() + limit);
        self.admission.end();
        // A hash that is being computed does not hold the end up; its session has been shut.
        if self.admission.wait_until_empty(Instant::now() + TICK) {
            self.pool.join(Instant::now() + TICK);
        }
        let _ = self.watcher.join();
        if let Some(couriers) = couriers {
            let _ = couriers.join();
        }
        self.state.save();
        journal::left_out(&self.context.log_budget, true);
        journal::stopped(self.context.messages(), self.begun.elapsed());
        empty
    }
}

/// Serves one connection that was handed over, without a pool. The limits that are counted over all connections hold within this
/// one alone, so few failed logins are allowed, whatever the login.
pub fn serve_one(context: Context, tcp: TcpStream, peer: SocketAddr, service: Service) -> io::Result<()> {
    ignore_file_size_signal()?;
    let context = Arc::new(context.limit_failed_logins(FAILURES_OF_ONE));
    // More workers than there are connections: nothing is under pressure.
    let admission = Admission::new(Capacity { workers: 8, waiting: 1, per_network: 1 }, Arc::default());
    admission.admit(tcp, peer, service).map_err(|_| io::Error::other("no room for one"))?;
    if let Some(guard) = admission.next_waiting() {
        serve_slot(&context, &guard);
    }
    sending::tell(&context, None);
    Ok(())
}

/// Keeps a SIGHUP that comes before [`signals`], instead of ending with it; true once there was one.
pub fn keep_reload() -> io::Result<Arc<AtomicBool>> {
    let came = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&came))?;
    Ok(came)
}

/// Turns SIGTERM, SIGINT and SIGHUP into messages; writing past a file size limit becomes an error instead of the end.
pub fn signals(told: mpsc::Sender<Control>) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    ignore_file_size_signal()?;
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let forward = move || {
        for signal in signals.forever() {
            let _ = told.send(if signal == SIGHUP { Control::Reload } else { Control::Stop });
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map(drop)
}

/// Writing past a file size limit becomes an error instead of the end.
fn ignore_file_size_signal() -> io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).map(drop)
}

fn serve_slot(context: &Context, guard: &SlotGuard) {
    let (slot, snapshot) = (guard.slot(), context.snapshot());
    let service = slot.service();
    let caller = uid_of_address(slot.peer().ip()).filter(|_| service == Service::Local);
    let caller = caller.map(|uid| Caller::new(uid, passwd::name_of(uid), slot.local_login(), &snapshot));
    let connection = Connection { service, peer: slot.peer(), opened: slot.opened(), caller, slot: Some(slot) };
    // The time it has waited for a worker is not the client's.
    let clock = conn::clock(&snapshot, connection.service, Instant::now());
    if let Ok(stream) = Stream::new(slot, guard.admission(), clock) {
        conn::serve(stream, &connection, context, snapshot);
    }
}

struct AcceptThread {
    listener: Listener,
    orders: PipeReader,
    admission: Arc<Admission>,
    context: Arc<Context>,
    idle: Option<(Duration, mpsc::Sender<Control>)>,
}

impl AcceptThread {
    fn run(&self) {
        let idle = self.idle.as_ref().map(|(limit, _)| *limit);
        let policy = ServerPolicy { context: &self.context };
        if let Err(error) = self.listener.run(&self.orders, idle, &self.admission, &policy) {
            journal::accept_failed(self.listener.service.name(), error, Duration::ZERO);
        }
        if let Some((_, ends)) = &self.idle {
            let _ = ends.send(Control::Stop);
        }
    }
}

struct ServerPolicy<'a> {
    context: &'a Context,
}

impl AcceptPolicy for ServerPolicy<'_> {
    fn blocks(&self, address: IpAddr) -> bool {
        self.context.throttle.blocks_network(address, Instant::now())
    }

    fn turned_away(&self, peer: SocketAddr, service: Service, why: TurnedAway) -> Option<Vec<u8>> {
        let log = SessionLog::new(conn::fresh_id(), peer, service.name(), &self.context.log_budget);
        let log = log.of_uid(uid_of_address(peer.ip()));
        let why = match why {
            TurnedAway::Blocked => Refusal::AddressThrottled,
            TurnedAway::Draining => Refusal::Draining,
            TurnedAway::Overloaded => Refusal::Overloaded,
            TurnedAway::PerNetwork => Refusal::PerAddress,
        };
        match why {
            Refusal::AddressThrottled => log.throttled(""),
            _ => log.overloaded(why.parts().reason),
        }
        // On 465 the client expects TLS, and no handshake is spent on a client that is turned away.
        if service == Service::Submissions {
            return None;
        }
        let mut text = Vec::new();
        Refused::from(why).write_to(&mut text, log.id());
        Some(text)
    }

    fn accept_failed(&self, service: Service, error: &io::Error, pause: Duration) {
        journal::accept_failed(service.name(), error, pause);
    }
}
