//! What the schedule is told, and what it answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fault::{Kind, Reason, Trouble};
use crate::queue::QueueId;
use crate::smtp::remote::Stage;

/// The time, in seconds: what the clock shows, and a clock that never jumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Seconds since 1970, CLOCK_REALTIME.
    pub unix: u64,
    /// Seconds since the machine was started, CLOCK_BOOTTIME.
    pub boot: u64,
}

/// Where mail goes next: a smarthost by the name of its route, or the servers of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// What it is.
    pub kind: Kind,
    /// The route's name, or the domain in lower case.
    pub name: Arc<str>,
}

impl Destination {
    /// The smarthost of a route.
    pub fn smarthost(route: &str) -> Self {
        Self { kind: Kind::Smarthost, name: route.into() }
    }

    /// The servers of a domain.
    pub fn mx(domain: &str) -> Self {
        Self { kind: Kind::Mx, name: domain.into() }
    }
}

/// The operator's choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Connections at once to the servers of one domain.
    pub mx_connections: u16,
    /// Seconds until a message is late.
    pub warn: u64,
    /// Seconds until a message is returned.
    pub give_up: u64,
    /// A message that may have arrived is held rather than sent again.
    pub hold_unanswered: bool,
    /// The smarthosts.
    pub routes: Vec<RouteSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { mx_connections: 2, warn: 4 * 3600, give_up: 5 * 86_400, hold_unanswered: false, routes: Vec::new() }
    }
}

/// What the operator chose for one smarthost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// Its name.
    pub name: String,
    /// Connections at once.
    pub connections: u16,
    /// Transactions that may begin in a time.
    pub rate: Option<Rate>,
    /// What to use while this one rests.
    pub then: Option<Then>,
}

/// What is used instead of a smarthost that rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// The servers of the recipients' domains.
    Mx,
    /// Another smarthost, by the name of its route.
    Route(String),
}

impl RouteSettings {
    /// A route with the defaults.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), connections: 4, rate: None, then: None }
    }
}

/// `count` transactions in `seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Transactions, at least 1.
    pub count: u32,
    /// Seconds, at least 1.
    pub seconds: u32,
}

/// A message that is in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Its id.
    pub id: QueueId,
    /// Whose it is; mail that no login handed in has the empty one.
    pub login: Arc<str>,
    /// Seconds since 1970 of its arrival, or of the last release: its age counts from here.
    pub since: u64,
    /// Read from the disk at the start, so `since` was written by another clock than the present one.
    pub scanned: bool,
    /// NOTIFY=DELAY is asked for by a recipient.
    pub asks_delay: bool,
    /// The sender has been told that it is late.
    pub warned: bool,
    /// It waits for a person.
    pub held: Option<HeldWhy>,
    /// Its recipients that are not settled, by destination.
    pub parts: Vec<Part>,
}

/// Recipients of a message that have one destination and one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where they are.
    pub destination: Destination,
    /// Their numbers within the message, ascending.
    pub recipients: Vec<u16>,
    /// Their own waits so far.
    pub waits: u8,
    /// Seconds since 1970 of the next attempt; in the past: now.
    pub due: u64,
}

/// Why a message is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeldWhy {
    /// It was sent, and no reply came: it may have arrived.
    MayHaveArrived,
    /// The operator said so.
    Operator,
    /// Three attempts began and none of them had a result, or the file is damaged.
    NoResult,
}

impl HeldWhy {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::MayHaveArrived, Self::Operator, Self::NoResult];

    /// The word in the spool, in the log and in listings.
    pub fn word(self) -> &'static str {
        match self {
            Self::MayHaveArrived => "may-have-arrived",
            Self::Operator => "operator",
            Self::NoResult => "no-result",
        }
    }

    /// The reason of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|why| why.word() == word)
    }
}

/// One courier's next task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The number of the courier, from 0.
    pub courier: u16,
    /// The message.
    pub id: QueueId,
    /// The recipients, by number.
    pub recipients: Vec<u16>,
    /// The next hop to use; another than the message's own while that one rests and `then` names this one.
    pub destination: Destination,
    /// The courier may still have a connection to it.
    pub reuse: bool,
    /// MAIL without parameters.
    pub plain: bool,
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The number of the courier.
    pub courier: u16,
    /// Recipients that have a result of their own.
    pub results: Vec<RecipientResult>,
    /// What happened to all others; without it they go in the next transaction.
    pub others: Option<(Stage, Trouble)>,
    /// MAIL had parameters.
    pub parameters: bool,
    /// A RCPT was accepted, whatever came after it.
    pub accepted: bool,
    /// The connection is open and can take another message.
    pub open: bool,
}

/// What came of one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecipientResult {
    /// Its number.
    pub number: u16,
    /// A number that is equal for recipients of equal domains.
    pub domain: u32,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop has the message.
    Sent,
    /// Something was wrong with it.
    Trouble(Stage, Trouble),
}

/// What the operator wants of messages; as it is asked for through the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verb {
    /// Gone, without a report.
    Drop,
    /// Not until it is released.
    Hold,
    /// A held message again, its age counted from now.
    Release,
    /// Back to the sender with a report.
    Return,
    /// Now.
    Try,
}

/// What became of a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is done when the attempt is finished that is being made.
    Later,
    /// The message is in no state for it: `try` and `hold` of a held one, `release` of one that is not.
    Nothing,
    /// There is no such message.
    Unknown,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Of what domains the recipients are, which wait for a smarthost that rests: [`Schedule::divided`] is the answer, soon.
    ///
    /// [`Schedule::divided`]: super::Schedule::divided
    Divide {
        /// The message.
        id: QueueId,
        /// The recipients.
        recipients: Vec<u16>,
    },
    /// Gone by the operator's will; [`Action::Settled`] follows.
    Drop {
        /// The message.
        id: QueueId,
    },
    /// Too old: back to the sender.
    Expire {
        /// The message.
        id: QueueId,
        /// The recipients.
        recipients: Vec<u16>,
        /// Why the route rests, if that is what it waited for.
        reason: Option<Reason>,
    },
    /// Refused for good: back to the sender.
    Fail {
        /// The message.
        id: QueueId,
        /// The recipients.
        recipients: Vec<u16>,
    },
    /// The file goes to `held/`.
    Hold {
        /// The message.
        id: QueueId,
        /// Why.
        why: HeldWhy,
    },
    /// Refused for good by a smarthost, but it is open whether it refuses everything: [`Action::Fail`] or
    /// [`Action::Wait`] comes later, and needs the reply then.
    Keep {
        /// The message.
        id: QueueId,
        /// The recipients.
        recipients: Vec<u16>,
    },
    /// A message is late: a delay report where it is due.
    Late {
        /// The message.
        id: QueueId,
        /// The recipients.
        recipients: Vec<u16>,
        /// The route rests for this reason: only recipients that asked with NOTIFY=DELAY are reported.
        reason: Option<Reason>,
    },
    /// A login's messages are late because a route rests: one notice.
    LateNotice {
        /// Whose they are.
        login: Arc<str>,
        /// Where they wait.
        destination: Destination,
        /// How many pairs wait there.
        count: u32,
        /// Seconds since 1970 of the oldest.
        oldest: u64,
        /// Why the route rests.
        reason: Reason,
        /// Postmaster has been told that it does, or that no domain is reached.
        told: bool,
    },
    /// Connect, TLS, AUTH, QUIT.
    Probe {
        /// The number of the courier.
        courier: u16,
        /// The next hop.
        destination: Destination,
    },
    /// The file goes back to `queue/`; its age counts from now.
    Release {
        /// The message.
        id: QueueId,
    },
    /// Back to the sender by the operator's will.
    Return {
        /// The message.
        id: QueueId,
        /// The recipients.
        recipients: Vec<u16>,
    },
    /// A route rests from now on.
    RouteRests {
        /// Which.
        destination: Destination,
        /// Why.
        reason: Reason,
        /// Seconds since 1970 of the next probe.
        next: u64,
    },
    /// A route that rested works.
    RouteWell {
        /// Which.
        destination: Destination,
    },
    /// A courier begins a transaction.
    Send(Job),
    /// The next hop has the message.
    Sent {
        /// The message.
        id: QueueId,
        /// The recipients.
        recipients: Vec<u16>,
    },
    /// All connections that may be open to the servers of a domain are taken: said once, until one of its messages is sent.
    ServerFull {
        /// Which.
        destination: Destination,
    },
    /// When the next attempt is, for the file's time stamp.
    SetDue {
        /// The message.
        id: QueueId,
        /// Seconds since 1970.
        due: u64,
    },
    /// Nothing is left of the message: the file is unlinked once its reports are durable.
    Settled {
        /// The message.
        id: QueueId,
    },
    /// Postmaster is told of a route, once when it rests and once when it is well.
    Tell {
        /// Which.
        destination: Destination,
        /// Why it rests; nothing when it is well again.
        reason: Option<Reason>,
        /// Seconds since 1970: it rests or rested from then on.
        since: u64,
        /// Pairs that wait there.
        waiting: u32,
    },
    /// Postmaster is told that mail by MX reaches no domain, once, and once when one works again.
    TellDirect {
        /// Why; nothing when it works again.
        reason: Option<Reason>,
        /// Seconds since 1970: it does not or did not work from then on.
        since: u64,
        /// Pairs that wait for domains that rest.
        waiting: u32,
        /// Domains that were not reached, the last one last.
        domains: Vec<Arc<str>>,
        /// Seconds since 1970 of the next probe of any.
        next: u64,
    },
    /// These recipients wait.
    Wait {
        /// The message.
        id: QueueId,
        /// The recipients.
        recipients: Vec<u16>,
        /// Their waits, this one included.
        waits: u8,
        /// Seconds since 1970 of the next attempt.
        due: u64,
    },
}
