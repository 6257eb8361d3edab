//! The couriers: a fixed number of threads, each with its own tasks and at most one connection.
//!
//! A courier keeps its connection after a transaction, for the next task to the same destination, and closes it when none
//! comes within [`IDLE`]. Before a message is sent, its record `begin` is in the spool; before the final dot, `dot`. What
//! cannot be recorded is not sent. A panic costs one task, which is reported as without a result.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::courier::Courier;
use super::direct::{Direct, Reached, Unreached as NotReached};
use super::job::{domains, outgoing};
use super::results::{self, attempt, attempt_of, now};
use super::route::Hop;
use super::servers::{PER_ADDRESS, Place};
use crate::journal;
use crate::net::stop::Stop;
use crate::queue::schedule::{Destination, Finished, Job, Kind, Outcome, RecipientResult, Trouble};
use crate::queue::spool::{DOWNGRADED, Happened, Opened, QueuedMessage, Record, Spool, SpoolError};
use crate::queue::work::{Attempt, Report, Task};
use crate::smtp::client::{Failure, Fault, Outcome as Came, Unreached};
use crate::smtp::remote::Stage;

/// What all couriers share.
pub struct Shared {
    /// The messages.
    pub spool: Arc<Spool>,
    /// The next hops, by destination; replaced when the configuration is.
    pub hops: RwLock<HashMap<Destination, Arc<Hop>>>,
    /// The way to the servers of any domain; replaced when the configuration is. `None` if there is none.
    pub direct: RwLock<Option<Arc<Direct>>>,
    /// Ends everything.
    pub stop: Arc<Stop>,
    /// `dot` is made durable before the final dot, since a message that may have arrived is held.
    pub dot_durably: bool,
    /// Where reports go.
    pub report: Box<dyn Fn(Report) + Send + Sync>,
}

impl Shared {
    /// The settings by which a destination is reached now.
    fn by(&self, destination: &Destination) -> Option<By> {
        match destination.kind {
            Kind::Mx => self.direct.read().unwrap_or_else(PoisonError::into_inner).clone().map(By::Mx),
            Kind::Smarthost => {
                let hops = self.hops.read().unwrap_or_else(PoisonError::into_inner);
                hops.get(destination).cloned().map(By::Smarthost)
            }
        }
    }
}

/// One courier.
struct Worker {
    number: u16,
    shared: Arc<Shared>,
    connection: Option<Connection>,
}

/// A connection that is open.
struct Connection {
    destination: Destination,
    by: By,
    courier: Courier,
    /// Its place among those to one address, for servers that are found by MX.
    place: Option<Place>,
    /// The domain had TLS before, and this connection has none.
    downgraded: bool,
}

/// The settings by which a connection was opened. Those that a reload has replaced are others, whatever they say.
#[derive(Clone)]
enum By {
    Mx(Arc<Direct>),
    Smarthost(Arc<Hop>),
}

impl PartialEq for By {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mx(own), Self::Mx(other)) => Arc::ptr_eq(own, other),
            (Self::Smarthost(own), Self::Smarthost(other)) => Arc::ptr_eq(own, other),
            (Self::Mx(_), Self::Smarthost(_)) | (Self::Smarthost(_), Self::Mx(_)) => false,
        }
    }
}

/// How long a connection is kept without a task.
const IDLE: Duration = Duration::from_secs(5);
/// Stack of a courier: the deepest use is a TLS handshake.
const STACK: usize = 256 * 1024;

/// Couriers that run.
pub struct Started {
    /// The way to hand each its tasks; they end when these are dropped.
    pub tasks: Vec<Sender<Task>>,
    /// Their threads.
    pub threads: Vec<JoinHandle<()>>,
}

/// Starts so many couriers.
pub fn start(count: u16, shared: &Arc<Shared>) -> io::Result<Started> {
    let mut started = Started { tasks: Vec::new(), threads: Vec::new() };
    for number in 0..count {
        // The schedule gives a courier one task at a time.
        let (sender, tasks) = crossbeam_channel::bounded(1);
        let worker = Worker { number, shared: Arc::clone(shared), connection: None };
        let thread = thread::Builder::new().name(format!("courier-{number}")).stack_size(STACK);
        started.threads.push(thread.spawn(move || worker.run(&tasks))?);
        started.tasks.push(sender);
    }
    Ok(started)
}

impl Worker {
    fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            let task = match self.connection {
                None => tasks.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => tasks.recv_timeout(IDLE),
            };
            match task {
                Ok(task) => self.take(&task),
                Err(RecvTimeoutError::Timeout) => {
                    self.close();
                    self.tell_freed();
                    (self.shared.report)(Report::Closed(self.number));
                }
                Err(RecvTimeoutError::Disconnected) => return self.close(),
            }
        }
    }

    fn take(&mut self, task: &Task) {
        let report = match panic::catch_unwind(AssertUnwindSafe(|| self.obey(task))) {
            Ok(report) => report,
            Err(_) => {
                self.connection = None;
                self.without_result(task)
            }
        };
        // First, so that a domain which found no connection has its turn before the next message of this one.
        self.tell_freed();
        (self.shared.report)(report);
    }

    /// Says for which domains there is a connection again.
    fn tell_freed(&self) {
        let direct = self.shared.direct.read().unwrap_or_else(PoisonError::into_inner).clone();
        for domain in direct.iter().flat_map(|direct| direct.freed()) {
            (self.shared.report)(Report::Freed(Destination::mx(&domain)));
        }
    }

    fn obey(&mut self, task: &Task) -> Report {
        match task {
            Task::Probe(destination) => {
                self.close();
                let result = self.connect(destination).map_err(|attempt| *attempt);
                self.close();
                Report::Probed { courier: self.number, destination: destination.clone(), result }
            }
            Task::Send(job) => self.send(job),
        }
    }

    fn close(&mut self) {
        if let Some(Connection { courier, .. }) = self.connection.take() {
            courier.quit();
        }
    }

    /// A connection to this destination, the one that is open or a new one.
    fn connect(&mut self, destination: &Destination) -> Result<(), Box<Attempt>> {
        let begun = Instant::now();
        let by = self.shared.by(destination);
        if let Some(open) = &mut self.connection
            && open.destination == *destination
            && by.as_ref() == Some(&open.by)
            && open.courier.is_usable()
        {
            return Ok(());
        }
        self.close();
        let hop = match by {
            Some(By::Mx(direct)) => return self.connect_directly(destination, direct, begun),
            Some(By::Smarthost(hop)) => hop,
            None => {
                let why = match destination.kind {
                    Kind::Mx => "`mx` is not configured any more",
                    Kind::Smarthost => "no such route is configured",
                };
                let failure = Failure { stage: Stage::Connect, fault: Fault::Dns(why.to_owned()) };
                return Err(attempt_of(&destination.name, &failure, begun).into());
            }
        };
        match Courier::connect(&hop, &self.shared.stop) {
            Ok(courier) => {
                let destination = destination.clone();
                let by = By::Smarthost(hop);
                self.connection = Some(Connection { destination, by, courier, place: None, downgraded: false });
                Ok(())
            }
            Err(unreachable) => {
                let (address, failure) = unreachable
                    .attempts
                    .last()
                    .cloned()
                    .unwrap_or((None, Failure { stage: Stage::Connect, fault: Fault::Defect }));
                let host = address.map_or_else(|| hop.host.clone(), |address| format!("{}[{}]", hop.host, address.ip()));
                Err(attempt_of(&host, &failure, begun).into())
            }
        }
    }

    /// To a server that the domain names.
    fn connect_directly(&mut self, destination: &Destination, direct: Arc<Direct>, begun: Instant) -> Result<(), Box<Attempt>> {
        match direct.connect(&destination.name, &self.shared.stop) {
            Ok(Reached { courier, place, downgraded }) => {
                let destination = destination.clone();
                let by = By::Mx(direct);
                self.connection = Some(Connection { destination, by, courier, place: Some(place), downgraded });
                Ok(())
            }
            Err(NotReached::Failed(host, failure)) => Err(attempt_of(&host, &failure, begun).into()),
            Err(NotReached::Full(host)) => {
                let (stage, text) = (Stage::Connect, format!("{PER_ADDRESS} connections are open"));
                let came = Came::Lost { stage, after_dot: false, fault: Fault::Local(text) };
                let outcome = Outcome::Trouble(stage, Trouble::ServerFull);
                Err(attempt(&host, None, &came, outcome, false, begun).into())
            }
            Err(NotReached::NoServer(why)) => {
                let came = Came::Lost { stage: Stage::Connect, after_dot: false, fault: Fault::Dns(why.to_string()) };
                let outcome = Outcome::Trouble(Stage::Connect, results::no_server(&why));
                Err(attempt(&destination.name, None, &came, outcome, false, begun).into())
            }
        }
    }

    fn send(&mut self, job: &Job) -> Report {
        let begun = Instant::now();
        let opened = self.shared.spool.open_to_send(job.id).and_then(|file| Ok((file.read()?, file)));
        let (message, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.unreadable(job, &error),
        };
        if let Err(attempt) = self.connect(&job.destination) {
            return self.nothing_sent(job, &attempt);
        }
        // A connection that ended before it was used is no attempt: another one is opened once.
        let mut report = match self.transaction(job, &message, &file, begun) {
            None => match self.connect(&job.destination) {
                Ok(()) => {
                    self.transaction(job, &message, &file, begun).unwrap_or_else(|| self.without_result(&Task::Send(job.clone())))
                }
                Err(attempt) => self.nothing_sent(job, &attempt),
            },
            Some(report) => report,
        };
        if let Report::Sent { envelope, .. } = &mut report {
            *envelope = Some(Box::new(message.envelope));
        }
        report
    }

    /// One transaction on the open connection; `None` if the connection had ended before.
    fn transaction(&mut self, job: &Job, message: &QueuedMessage, file: &Opened, begun: Instant) -> Option<Report> {
        let dot_durably = self.shared.dot_durably;
        let Connection { courier, place, downgraded, .. } = self.connection.as_mut()?;
        let host = format!("{}[{}]", courier.host(), courier.peer().ip());
        let signatures = message.signatures.iter().filter(|signature| Some(signature.fields) == courier.signatures());
        let signatures: String = signatures.map(|signature| format!("{}\n", signature.text)).collect();
        let tls = courier.tls().map(|tls| tls.version);
        let record = |what| Record { time: now(), what };
        let begin = Happened::Begin {
            recipients: job.recipients.clone(),
            host: host.clone(),
            tls: if *downgraded { Some(DOWNGRADED.to_owned()) } else { tls.map(str::to_owned) },
        };
        let outgoing = outgoing(message, job, &signatures);
        let mut content = match file.append(&record(begin)).and_then(|()| file.text()) {
            Ok(text) => io::Cursor::new(signatures).chain(text),
            Err(error) => return Some(self.unreadable(job, &error)),
        };
        let mut before_dot = || {
            let dot = record(Happened::Dot { recipients: job.recipients.clone() });
            let appended = if dot_durably { file.append_durably(&dot) } else { file.append(&dot) };
            appended.map_err(|error| io::Error::other(error.to_string()))
        };
        let domains = domains(message, job);
        let came = courier.send(outgoing, &mut content, &mut before_dot);
        if came.outcomes.iter().all(|outcome| *outcome == Came::NotTried(Unreached::Stale)) {
            self.connection = None;
            return None;
        }
        let (mut results, mut attempts) = (Vec::new(), Vec::new());
        for ((number, domain), outcome) in job.recipients.iter().copied().zip(domains).zip(&came.outcomes) {
            let Some(scheduled) = results::outcome(outcome) else { continue };
            results.push(RecipientResult { number, domain, outcome: scheduled });
            attempts.push((number, attempt(&host, tls, outcome, scheduled, came.dsn, begun)));
        }
        let is_lost = came.outcomes.iter().any(|outcome| matches!(outcome, Came::Lost { .. }));
        if let Some(place) = place.as_ref().filter(|_| is_lost) {
            // The next attempt goes to another address, if there is one (RFC 5321 section 5.1).
            place.fail();
        }
        let is_wanted = place.as_ref().is_some_and(Place::is_wanted);
        if !came.reusable {
            self.connection = None;
        } else if is_wanted {
            self.close();
        }
        let finished = Finished {
            courier: self.number,
            results,
            others: None,
            parameters: came.parameters,
            accepted: came.accepted,
            open: self.connection.is_some(),
        };
        Some(Report::Sent { id: job.id, finished, attempts, begun: job.recipients.clone(), envelope: None, damaged: None })
    }

    /// No connection: nothing was said about any recipient.
    fn nothing_sent(&self, job: &Job, attempt: &Attempt) -> Report {
        let others = attempt.trouble();
        let attempts = job.recipients.iter().map(|number| (*number, attempt.clone())).collect();
        let finished =
            Finished { courier: self.number, results: Vec::new(), others, parameters: false, accepted: false, open: false };
        Report::Sent { id: job.id, finished, attempts, begun: Vec::new(), envelope: None, damaged: None }
    }

    /// The file cannot be read or written to.
    fn unreadable(&self, job: &Job, error: &SpoolError) -> Report {
        journal::notice("spool", format!("{}: {error}", job.id));
        let failure = Failure { stage: Stage::Mail, fault: Fault::Local(error.to_string()) };
        let mut report = self.nothing_sent(job, &attempt_of("", &failure, Instant::now()));
        if let (Report::Sent { damaged, finished, .. }, SpoolError::Damaged(why)) = (&mut report, error) {
            *damaged = Some(why.to_string());
            finished.open = self.connection.is_some();
        }
        report
    }

    /// After a panic.
    fn without_result(&self, task: &Task) -> Report {
        let failure = Failure { stage: Stage::Mail, fault: Fault::Defect };
        let attempt = attempt_of("", &failure, Instant::now());
        match task {
            Task::Probe(destination) => {
                Report::Probed { courier: self.number, destination: destination.clone(), result: Err(attempt) }
            }
            Task::Send(job) => self.nothing_sent(job, &attempt),
        }
    }
}
