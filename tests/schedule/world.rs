//! A world in which days pass at once: couriers with durations, next hops that behave by rule.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pillarbox::queue::QueueId;
use pillarbox::queue::schedule::*;
use pillarbox::smtp::remote::Stage;

pub const MINUTE: u64 = 60;
pub const HOUR: u64 = 3600;
pub const DAY: u64 = 86_400;
const EPOCH: u64 = 1_700_000_000;

/// What a next hop does with a transaction or, without a message, with an empty probe.
pub type Rule = Box<dyn Fn(&Asked) -> (u64, Reply)>;

/// What a next hop is asked.
pub struct Asked {
    pub hop: String,
    pub id: Option<QueueId>,
    pub recipients: Vec<u16>,
    /// Seconds since the world began.
    pub time: u64,
    pub plain: bool,
}

/// What it answers.
#[derive(Clone)]
pub enum Reply {
    /// Everything is accepted.
    Yes,
    /// This, for the whole transaction.
    No(Stage, Trouble),
    /// Recipients one by one: `None` is accepted.
    Each(Vec<(u16, Option<(Stage, Trouble)>)>),
}

pub fn code(stage: Stage, code: u16) -> Reply {
    Reply::No(stage, Trouble::Reply { code, status: None })
}

pub fn status(stage: Stage, code: u16, status: (u8, u16, u16)) -> Reply {
    Reply::No(stage, Trouble::Reply { code, status: Some(status) })
}

enum Task {
    Send(Job, Reply),
    Probe(Reply),
}

pub struct World {
    pub schedule: Schedule,
    pub unix: u64,
    pub boot: u64,
    start: u64,
    busy: BTreeMap<(u64, u16), Task>,
    pub rule: Rule,
    /// All actions with their times; `Send` and `Probe` too.
    pub log: Vec<(u64, Action)>,
    pub sent: HashMap<QueueId, (u64, u32)>,
    next_id: u64,
    /// The domain of a recipient, for a smarthost's mail that takes mx.
    pub domain: fn(QueueId, u16) -> String,
    /// It is not found out.
    pub blind: bool,
    /// Nor is that said yet.
    pub silent: bool,
    /// Connections stay open after a transaction.
    pub keeps_open: bool,
    /// Transactions at once, by hop: now and at most.
    pub at_once: HashMap<String, (u32, u32)>,
}

impl World {
    pub fn new(settings: Settings, couriers: u16, rule: impl Fn(&Asked) -> (u64, Reply) + 'static) -> Self {
        let (unix, boot) = (EPOCH, 1000);
        Self {
            schedule: Schedule::new(settings, couriers, Now { unix, boot }),
            unix,
            boot,
            start: boot,
            busy: BTreeMap::new(),
            rule: Box::new(rule),
            log: Vec::new(),
            sent: HashMap::new(),
            next_id: EPOCH << 20,
            domain: |_, number| format!("d{number}.example"),
            blind: false,
            silent: false,
            keeps_open: true,
            at_once: HashMap::new(),
        }
    }

    pub fn now(&self) -> Now {
        Now { unix: self.unix, boot: self.boot }
    }

    pub fn time(&self) -> u64 {
        self.boot - self.start
    }

    /// A message of a login to destinations, one recipient each.
    pub fn accept(&mut self, login: &str, destinations: &[Destination]) -> QueueId {
        let parts = destinations.iter().enumerate().map(|(n, destination)| Part {
            destination: destination.clone(),
            recipients: vec![n as u16],
            waits: 0,
            due: 0,
        });
        let parts = parts.collect();
        self.queue(login, parts)
    }

    pub fn queue(&mut self, login: &str, parts: Vec<Part>) -> QueueId {
        self.next_id += 1;
        let id = QueueId::from_bits(self.next_id);
        let queued = Queued {
            id,
            login: login.into(),
            since: self.unix,
            scanned: false,
            asks_delay: false,
            warned: false,
            held: None,
            parts,
        };
        assert!(self.schedule.accepted(&queued, self.now()));
        self.obey();
        id
    }

    pub fn operator(&mut self, verb: Verb, id: QueueId) -> Answer {
        let answers = self.schedule.operator(verb, &[id], self.now());
        self.obey();
        answers[0]
    }

    /// Lets time pass.
    pub fn run(&mut self, seconds: u64) {
        let end = self.boot + seconds;
        self.obey();
        loop {
            let event = self.busy.keys().next().map(|(time, _)| *time);
            let next = event.into_iter().chain(self.schedule.wakes()).min().unwrap_or(end).min(end).max(self.boot);
            self.unix += next - self.boot;
            self.boot = next;
            self.finish();
            self.schedule.tick(self.now());
            self.obey();
            if self.boot == end && self.busy.keys().next().is_none_or(|(time, _)| *time > end) {
                return;
            }
        }
    }

    /// Until nothing is queued, or so long.
    pub fn drain(&mut self, seconds: u64) {
        let end = self.boot + seconds;
        while self.schedule.counts().messages > 0 && self.boot < end {
            self.run((seconds / 1000).max(1));
        }
    }

    fn finish(&mut self) {
        while let Some(entry) = self.busy.first_entry().filter(|entry| entry.key().0 <= self.boot) {
            let ((_, courier), task) = entry.remove_entry();
            match task {
                Task::Probe(Reply::No(stage, trouble)) => self.schedule.probed(courier, Err((stage, trouble)), self.now()),
                Task::Probe(_) => self.schedule.probed(courier, Ok(()), self.now()),
                Task::Send(job, reply) => self.result(courier, &job, reply),
            }
            self.obey();
        }
    }

    fn result(&mut self, courier: u16, job: &Job, reply: Reply) {
        self.at_once.get_mut(&*job.destination.name).unwrap().0 -= 1;
        let mut done = Finished {
            courier,
            results: Vec::new(),
            others: None,
            parameters: !job.plain,
            accepted: false,
            open: self.keeps_open,
        };
        let sent = |number| RecipientResult { number, domain: 0, outcome: Outcome::Sent };
        match reply {
            Reply::Yes => done.results = job.recipients.iter().map(|number| sent(*number)).collect(),
            Reply::No(stage, trouble) => {
                done.others = Some((stage, trouble));
                done.accepted = stage > Stage::Recipient;
                done.open &= trouble != Trouble::Dropped && trouble != Trouble::Unanswered && stage >= Stage::Mail;
            }
            Reply::Each(each) => {
                done.accepted = each.iter().any(|(_, trouble)| trouble.is_none());
                done.results = each
                    .into_iter()
                    .map(|(number, trouble)| match trouble {
                        None => sent(number),
                        Some((stage, trouble)) => {
                            RecipientResult { number, domain: u32::from(number), outcome: Outcome::Trouble(stage, trouble) }
                        }
                    })
                    .collect();
            }
        }
        self.schedule.finished(&done, self.now());
    }

    fn obey(&mut self) {
        while let Some(action) = self.schedule.action() {
            match &action {
                Action::Send(job) => {
                    let asked = Asked {
                        hop: job.destination.name.to_string(),
                        id: Some(job.id),
                        recipients: job.recipients.clone(),
                        time: self.time(),
                        plain: job.plain,
                    };
                    let (duration, reply) = (self.rule)(&asked);
                    let count = self.at_once.entry(asked.hop).or_default();
                    count.0 += 1;
                    count.1 = count.1.max(count.0);
                    let key = (self.boot + duration, job.courier);
                    assert!(!self.busy.keys().any(|(_, courier)| *courier == job.courier), "a courier does one thing");
                    self.busy.insert(key, Task::Send(job.clone(), reply));
                }
                Action::Probe { courier, destination } => {
                    let hop = destination.name.to_string();
                    let asked = Asked { hop, id: None, recipients: Vec::new(), time: self.time(), plain: false };
                    let (duration, reply) = (self.rule)(&asked);
                    assert!(!self.busy.keys().any(|(_, other)| other == courier), "a courier does one thing");
                    self.busy.insert((self.boot + duration, *courier), Task::Probe(reply));
                }
                Action::Sent { id, recipients } => {
                    let entry = self.sent.entry(*id).or_default();
                    *entry = (self.boot - self.start, entry.1 + recipients.len() as u32);
                }
                Action::Divide { id, .. } if !self.silent => {
                    let domains: Vec<(u16, Arc<str>)> =
                        (0..if self.blind { 0 } else { 100 }).map(|n| (n, (self.domain)(*id, n).into())).collect();
                    self.schedule.divided(*id, &domains, self.now());
                }
                _ => {}
            }
            self.log.push((self.boot - self.start, action));
        }
    }

    pub fn count(&self, wanted: impl Fn(&Action) -> bool) -> usize {
        self.log.iter().filter(|(_, action)| wanted(action)).count()
    }

    /// The times of actions.
    pub fn times(&self, wanted: impl Fn(&Action) -> bool) -> Vec<u64> {
        self.log.iter().filter(|(_, action)| wanted(action)).map(|(time, _)| *time).collect()
    }

    /// When transactions with a message began.
    pub fn begun(&self, id: QueueId) -> Vec<u64> {
        self.times(|action| matches!(action, Action::Send(job) if job.id == id))
    }
}

/// What is written or told for a single message.
pub fn per_message(action: &Action) -> Option<QueueId> {
    match action {
        Action::Drop { id }
        | Action::Expire { id, .. }
        | Action::Fail { id, .. }
        | Action::Hold { id, .. }
        | Action::Keep { id, .. }
        | Action::Late { id, .. }
        | Action::Release { id }
        | Action::Return { id, .. }
        | Action::Sent { id, .. }
        | Action::SetDue { id, .. }
        | Action::Settled { id }
        | Action::Wait { id, .. } => Some(*id),
        _ => None,
    }
}

pub fn provider() -> Destination {
    Destination::smarthost("provider")
}

pub fn settings() -> Settings {
    Settings { routes: vec![RouteSettings::new("provider")], ..Settings::default() }
}
