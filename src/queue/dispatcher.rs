//! The thread that obeys the schedule: hands couriers their tasks, writes what came of them, and is told of everything
//! that happens to the queue.
//!
//! The schedule decides, under a lock that is never held while a file is touched. Quick records are written here, what must
//! be durable by the [`clerk`](super::clerk), unlinks and records become durable within [`SWEEP`](super::spool::SWEEP). It is stopped
//! without losing anything: no new task is given, and what couriers still report is written down.

mod arrival;
mod intake;
mod obey;
mod room;
mod sweeper;
mod troubles;
mod words;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use rustix::time::{ClockId, clock_gettime};

use super::QueueId;
use super::clerk::{Clerk, Deed, Failed, now};
use super::reporter::{Delivered, Mailer, Reporter};
use super::schedule::{Answer, Counts, Destination, Now, RouteState, Schedule, Settings, Verb};
use super::spool::{Envelope, Found, Spool};
use super::work::{Attempt, Report, Task};
pub use arrival::Routing;
use room::Coming;
pub use room::{QueueFull, Room};
use sweeper::Sweeper;
use troubles::Troubles;

/// The queue of a running server; shared by all that put something in, ask or want something.
pub struct Queue {
    spool: Arc<Spool>,
    schedule: Mutex<Schedule>,
    inputs: Sender<Input>,
    /// Pairs that the schedule has, as of the last change.
    pairs: AtomicU32,
    coming: Mutex<Coming>,
    most: AtomicU64,
    routing: Mutex<Arc<Routing>>,
    troubles: Mutex<Troubles>,
    reporter: Arc<Reporter>,
}

/// What the dispatcher is told.
enum Input {
    Accepted { id: QueueId, envelope: Box<Envelope>, room: Option<Room> },
    Configured(Settings, Arc<Routing>),
    Credentials(String),
    Divided(QueueId, Vec<(u16, Arc<str>)>),
    Found(Box<FoundMessage>),
    Operate(Verb, Vec<QueueId>, Sender<Vec<Answer>>),
    Report(Report),
    Rerouted(QueueId),
    Stop(Instant),
    TryRoute(String, Sender<bool>),
}

/// A file of the start that has been read.
struct FoundMessage {
    id: QueueId,
    scanned: Result<arrival::Scanned, String>,
    /// By which its recipients were sorted.
    routing: Arc<Routing>,
}

/// What the dispatcher is started with.
pub struct Start {
    /// The spool, and what was in it.
    pub spool: Arc<Spool>,
    /// Oldest first; when they are due is not looked at.
    pub found: Vec<Found>,
    /// The schedule's settings.
    pub settings: Settings,
    /// Couriers.
    pub couriers: u16,
    /// Pairs of message and destination that may wait.
    pub queue_max: u64,
    /// Where recipients go.
    pub routing: Arc<Routing>,
    /// Where letters go.
    pub mailer: Arc<dyn Mailer>,
}

/// The dispatcher's threads.
pub struct Dispatcher {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

/// What the thread has.
struct Thread {
    queue: Arc<Queue>,
    inputs: Receiver<Input>,
    couriers: Vec<Sender<Task>>,
    clerk: Sender<Deed>,
    /// What happened last to recipients whose result is still open.
    attempts: HashMap<(QueueId, u16), Attempt>,
    /// Recipients of attempts that are over, until a record says what came of them.
    begun: HashSet<(QueueId, u16)>,
    /// Recipients that failed in a pass that goes on; recorded, and not reported yet.
    failed: HashMap<QueueId, Vec<(u16, Failed)>>,
    /// Envelopes of what couriers have reported in this round, so that their files need not be read for the log.
    envelopes: HashMap<QueueId, Box<Envelope>>,
    /// Messages that were being sent when the routes changed; they take theirs anew after the attempt.
    to_reroute: HashSet<QueueId>,
    /// Messages of which the clerk has something to write, so that it unlinks them too.
    with_clerk: HashSet<QueueId>,
    /// Tasks that are being done.
    busy: HashSet<u16>,
    give_up: u64,
    hold_unanswered: bool,
    /// No task is given any more, and the thread ends by then.
    stops_by: Option<Instant>,
}

/// Inputs that are taken in one round, at most.
const ROUND: usize = 256;

impl Dispatcher {
    /// Starts the threads. `couriers` is called with the way to report, and gives the way to hand each courier its tasks.
    pub fn start(
        start: Start,
        couriers: impl FnOnce(Box<dyn Fn(Report) + Send + Sync>) -> io::Result<Vec<Sender<Task>>>,
    ) -> io::Result<Self> {
        let Start { spool, found, settings, couriers: count, queue_max, routing, mailer } = start;
        let (sender, inputs) = crossbeam_channel::unbounded();
        let (give_up, hold_unanswered) = (settings.give_up, settings.hold_unanswered);
        let reporter = Arc::new(Reporter::new(mailer));
        let queue = Arc::new(Queue {
            reporter: Arc::clone(&reporter),
            schedule: Mutex::new(Schedule::new(settings, count, clock())),
            spool: Arc::clone(&spool),
            inputs: sender.clone(),
            pairs: AtomicU32::new(u32::try_from(found.len()).unwrap_or(u32::MAX)),
            coming: Mutex::default(),
            most: AtomicU64::new(queue_max),
            routing: Mutex::new(routing),
            troubles: Mutex::default(),
        });
        let reports = sender.clone();
        let couriers = couriers(Box::new(move |report| drop(reports.send(Input::Report(report)))))?;
        let (deeds, clerk) = start_clerk(Clerk::new(Arc::clone(&spool), reporter))?;
        let sweeper = Sweeper::start(&spool)?;
        arrival::read_in_background(&queue, found, hold_unanswered)?;
        let mut thread = Thread {
            queue: Arc::clone(&queue),
            inputs,
            couriers,
            clerk: deeds,
            attempts: HashMap::new(),
            begun: HashSet::new(),
            failed: HashMap::new(),
            envelopes: HashMap::new(),
            to_reroute: HashSet::new(),
            with_clerk: HashSet::new(),
            busy: HashSet::new(),
            give_up,
            hold_unanswered,
            stops_by: None,
        };
        let run = move || {
            thread.run();
            // The couriers and the clerk end when nothing is left for them.
            let Thread { couriers, clerk: deeds, .. } = thread;
            drop((couriers, deeds));
            let _ = clerk.join();
            sweeper.end();
        };
        let thread = thread::Builder::new().name("dispatcher".into()).spawn(run)?;
        Ok(Self { queue, thread })
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Gives no task any more, writes down what couriers still report until `by`, and ends.
    pub fn stop(self, by: Instant) {
        let _ = self.queue.inputs.send(Input::Stop(by));
        let _ = self.thread.join();
    }
}

impl Queue {
    /// The spool.
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// The schedule, to look at.
    pub fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a recipient of an envelope is sent.
    pub fn route_of(&self, envelope: &Envelope, recipient: usize) -> Option<Destination> {
        self.routing()(envelope, recipient)
    }

    /// A message is in the spool, durable; its places are free once the schedule has it.
    pub fn accepted(&self, id: QueueId, envelope: Envelope, room: Option<Room>) {
        let _ = self.inputs.send(Input::Accepted { id, envelope: Box::new(envelope), room });
    }

    /// A message is in mailboxes here, and its sender wants to know.
    pub fn delivered(&self, delivered: &Delivered) {
        self.reporter.delivered(delivered);
    }

    /// The configuration has changed. What waits takes the route that it has now, and what is being sent does so after the
    /// attempt.
    pub fn configure(&self, settings: Settings, queue_max: u64, routing: Arc<Routing>) {
        self.most.store(queue_max, Ordering::Relaxed);
        let _ = self.inputs.send(Input::Configured(settings, routing));
    }

    /// The password file of a route has changed.
    pub fn credentials_changed(&self, route: &str) {
        let _ = self.inputs.send(Input::Credentials(route.to_owned()));
    }

    /// Applies a verb; the answers are in the order of the messages. Empty while the server is being stopped.
    pub fn operate(&self, verb: Verb, ids: &[QueueId]) -> Vec<Answer> {
        let (sender, answers) = crossbeam_channel::bounded(1);
        let _ = self.inputs.send(Input::Operate(verb, ids.to_vec(), sender));
        answers.recv().unwrap_or_default()
    }

    /// Tries a route now; false if it is not known or does not rest.
    pub fn try_route(&self, name: &str) -> bool {
        let (sender, answer) = crossbeam_channel::bounded(1);
        let _ = self.inputs.send(Input::TryRoute(name.to_owned(), sender));
        answer.recv().unwrap_or(false)
    }

    /// Every route.
    pub fn routes(&self) -> Vec<RouteState> {
        self.schedule().routes()
    }

    /// What failed last with a destination that rests.
    pub fn last_failure(&self, destination: &Destination) -> Option<Attempt> {
        lock(&self.troubles).of(destination).cloned()
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        self.schedule().counts()
    }

    fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.routing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Thread {
    fn run(&mut self) {
        loop {
            match self.inputs.recv_timeout(self.wait()) {
                Ok(input) => self.take(input),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // What has come meanwhile, before anything is done about it: a burst is one round.
            for input in self.inputs.try_iter().take(ROUND).collect::<Vec<_>>() {
                self.take(input);
            }
            self.queue.schedule().tick(clock());
            self.act();
            if self.reroute_after_attempts() {
                self.act();
            }
            // Couriers have deadlines of their own; one that hangs all the same does not hold up the end.
            if self.stops_by.is_some_and(|by| self.busy.is_empty() || Instant::now() >= by) {
                return;
            }
        }
    }

    /// Until the schedule has something to do by itself.
    fn wait(&self) -> Duration {
        if self.stops_by.is_some() {
            return Duration::from_millis(50);
        }
        let wakes = self.queue.schedule().wakes();
        let now = clock().boot;
        Duration::from_secs(wakes.map_or(60, |wakes| wakes.saturating_sub(now).min(60))).max(Duration::from_millis(20))
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Accepted { id, envelope, room } => {
                let routing = self.queue.routing();
                let scanned = Ok(arrival::accepted(id, &envelope, &*routing));
                self.found(FoundMessage { id, scanned, routing });
                self.queue.pairs.store(self.queue.schedule().pairs(), Ordering::Relaxed);
                drop(room);
            }
            Input::Configured(settings, routing) => self.configured(settings, routing),
            Input::Credentials(route) => self.queue.schedule().credentials_changed(&route, clock()),
            Input::Divided(id, domains) => self.queue.schedule().divided(id, &domains, clock()),
            Input::Found(found) => self.found(*found),
            Input::Operate(verb, ids, answer) => {
                let answers = self.queue.schedule().operator(verb, &ids, clock());
                // What was asked for is done before the operator is told so.
                self.act();
                let _ = answer.send(answers);
            }
            Input::Report(report) => self.reported(report),
            Input::Rerouted(id) => self.rerouted(id),
            Input::Stop(by) => self.stops_by = Some(by),
            Input::TryRoute(name, answer) => {
                let _ = answer.send(self.queue.schedule().route_try(&name, clock()));
            }
        }
    }
}

/// One thread that does deeds in their order.
fn start_clerk(clerk: Clerk) -> io::Result<(Sender<Deed>, JoinHandle<()>)> {
    let (sender, deeds) = crossbeam_channel::unbounded::<Deed>();
    let run = move || clerk.run(&deeds);
    Ok((sender, thread::Builder::new().name("clerk".into()).spawn(run)?))
}

/// The time.
fn clock() -> Now {
    let boot = clock_gettime(ClockId::Boottime).tv_sec;
    Now { unix: now(), boot: u64::try_from(boot).unwrap_or_default() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
