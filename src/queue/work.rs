//! What passes between the dispatcher and the couriers.

use super::explain::Cause;
use super::schedule::{Destination, Finished, Job, Outcome, Trouble};
use super::spool::{Envelope, Told};
use super::{QueueId, schedule};
use crate::smtp::remote::{RemoteReply, Stage};

/// What a courier is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Connect, log in, and end: no message.
    Probe(Destination),
    /// Send a message to some of its recipients.
    Send(Job),
}

/// What a courier reports.
#[derive(Clone, Debug)]
pub enum Report {
    /// Its connection is closed.
    Closed(u16),
    /// A connection to a server of this destination can be had again, where all were taken.
    Freed(Destination),
    /// What came of a probe.
    Probed {
        /// The number of the courier.
        courier: u16,
        /// What it was to.
        destination: Destination,
        /// What happened, if it was no success.
        result: Result<(), Attempt>,
    },
    /// What came of a message.
    Sent {
        /// The message.
        id: QueueId,
        /// For the schedule.
        finished: Finished,
        /// What happened to each recipient that the schedule gets a result of, by number.
        attempts: Vec<(u16, Attempt)>,
        /// The recipients of a record that an attempt begins; it ends with a record too.
        begun: Vec<u16>,
        /// The message's envelope, if it was read.
        envelope: Option<Box<Envelope>>,
        /// The file is no queued message; why.
        damaged: Option<String>,
    },
}

/// What happened to a recipient, or to a probe, for the log, the spool and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The next hop, `name[address]`.
    pub host: String,
    /// The version of TLS.
    pub tls: Option<&'static str>,
    /// At which stage.
    pub stage: Stage,
    /// For the schedule.
    pub outcome: Outcome,
    /// Why not, for reports and people; nothing after a success.
    pub cause: Option<Cause>,
    /// The next hop's reply, if there was one.
    pub reply: Option<RemoteReply>,
    /// What happened without a reply, in a few words.
    pub text: String,
    /// The next hop answers for reports of success from now on (RFC 3461 section 5.2).
    pub dsn: bool,
    /// Milliseconds that the transaction took.
    pub millis: u64,
    /// Seconds since 1970.
    pub time: u64,
}

impl Attempt {
    /// No connection to mx.example, at that time.
    #[cfg(test)]
    pub fn unreached(time: u64) -> Self {
        let outcome = Outcome::Trouble(Stage::Connect, Trouble::Dropped);
        let (host, text) = ("mx.example[192.0.2.9]".to_owned(), "no route to host".to_owned());
        let (tls, stage, cause, reply) = (None, Stage::Connect, None, None);
        Self { host, tls, stage, outcome, cause, reply, text, dsn: false, millis: 1, time }
    }

    /// What the spool's record says.
    pub fn told(&self) -> Told {
        Told {
            stage: self.stage,
            code: self.reply.as_ref().map(|reply| reply.code),
            status: self.reply.as_ref().and_then(|reply| reply.status),
            text: self.reply.as_ref().map_or_else(|| self.without_reply(), |reply| reply.text.clone()),
        }
    }

    /// In the words that [`Cause::told`] reads.
    fn without_reply(&self) -> String {
        match self.trouble() {
            Some((_, trouble)) => format!("{}: {}", trouble.words(), self.text),
            None => self.text.clone(),
        }
    }

    /// True if the message may have arrived: no reply came after the final dot.
    pub fn is_unanswered(&self) -> bool {
        matches!(self.outcome, Outcome::Trouble(_, Trouble::Unanswered))
    }

    /// Where and why it failed, for the schedule; nothing after a success.
    pub fn trouble(&self) -> Option<(Stage, Trouble)> {
        match self.outcome {
            schedule::Outcome::Sent => None,
            schedule::Outcome::Trouble(stage, trouble) => Some((stage, trouble)),
        }
    }
}
