//! What came of a connection or a transaction, in the words of the schedule, and as the attempt that is recorded.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::mx::NoServer;
use crate::queue::explain::Cause;
use crate::queue::schedule::{Outcome as Scheduled, Trouble};
use crate::queue::work::Attempt;
use crate::smtp::client::{Failure, Fault, Outcome};
use crate::smtp::remote::{RemoteReply, Stage};

/// What happened to a recipient; `None` if it goes in the next transaction. The stages are those of the dialogue.
pub fn outcome(outcome: &Outcome) -> Option<Scheduled> {
    match outcome {
        Outcome::Lost { stage, after_dot: true, .. } => Some(Scheduled::Trouble(*stage, Trouble::Unanswered)),
        Outcome::Lost { stage, after_dot: false, fault } => Some(Scheduled::Trouble(*stage, trouble(fault))),
        Outcome::NotTried(_) => None,
        Outcome::Refused { stage, reply } => Some(Scheduled::Trouble(*stage, replied(reply))),
        Outcome::Sent(_) => Some(Scheduled::Sent),
        Outcome::Unfit(_) => Some(Scheduled::Trouble(Stage::Mail, Trouble::Unfit)),
    }
}

/// Where and why there is no connection.
pub fn failure(failure: &Failure) -> (Stage, Trouble) {
    (failure.stage, trouble(&failure.fault))
}

/// What a fault is to the schedule, other than after the final dot.
pub fn trouble(fault: &Fault) -> Trouble {
    match fault {
        Fault::Certificate(_) => Trouble::Certificate,
        Fault::Closed | Fault::Garbage(_) | Fault::Io(_) | Fault::Timeout => Trouble::Dropped,
        Fault::Defect | Fault::Local(_) => Trouble::Internal,
        Fault::Dns(_) => Trouble::NameUnresolved,
        Fault::EarlyOctets | Fault::Tls(_) => Trouble::Handshake,
        Fault::NoMechanism | Fault::NoStartTls => Trouble::NotOffered,
        Fault::Password(_) => Trouble::PasswordFile,
        Fault::Refused(reply) | Fault::Unexpected(reply) => replied(reply),
        Fault::Source(_) => Trouble::Source,
        Fault::Stopped => Trouble::Stopped,
    }
}

/// What it is to the schedule that a domain has no server to connect to.
pub fn no_server(why: &NoServer) -> Trouble {
    match why {
        NoServer::Loop => Trouble::Loop,
        NoServer::NoAddress => Trouble::NotRoutable,
        NoServer::NoDomain => Trouble::NameUnknown,
        NoServer::NullMx => Trouble::NoMail,
        NoServer::Unknown(_) => Trouble::NameUnresolved,
    }
}

/// One attempt for one recipient, as it is recorded and told; `begun` is when it began.
pub(super) fn attempt(
    host: &str,
    tls: Option<&'static str>,
    came: &Outcome,
    scheduled: Scheduled,
    dsn: bool,
    begun: Instant,
) -> Attempt {
    let (stage, trouble) = match scheduled {
        Scheduled::Sent => (Stage::Dot, None),
        Scheduled::Trouble(stage, trouble) => (stage, Some(trouble)),
    };
    let (reply, text) = match came {
        Outcome::Sent(reply) | Outcome::Refused { reply, .. } => (Some(reply.clone()), String::new()),
        Outcome::Lost { fault: Fault::Refused(reply) | Fault::Unexpected(reply), .. } => (Some(reply.clone()), String::new()),
        Outcome::Lost { fault, .. } => (None, fault.to_string()),
        Outcome::Unfit(unfit) => (None, unfit.to_string()),
        Outcome::NotTried(_) => (None, String::new()),
    };
    let cause = match (came, &reply) {
        (Outcome::Unfit(unfit), _) => Some(Cause::Unfit(*unfit)),
        (_, Some(reply)) if trouble == Some(Trouble::from(reply)) => Some(Cause::reply(stage, reply)),
        _ => trouble.map(|trouble| Cause::Trouble(stage, trouble)),
    };
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Attempt { host: host.to_owned(), tls, stage, outcome: scheduled, cause, reply, text, dsn, millis, time: now() }
}

/// What happened before a message could be sent.
pub(super) fn attempt_of(host: &str, failure: &Failure, begun: Instant) -> Attempt {
    let (stage, trouble) = self::failure(failure);
    let came = Outcome::Lost { stage, after_dot: false, fault: failure.fault.clone() };
    let trouble = if failure.fault == Fault::Defect { Trouble::Internal } else { trouble };
    attempt(host, None, &came, Scheduled::Trouble(stage, trouble), false, begun)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn replied(reply: &RemoteReply) -> Trouble {
    Trouble::Reply { code: reply.code, status: reply.status }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::client::{Unfit, Unreached};

    fn reply(code: u16) -> RemoteReply {
        RemoteReply { code, status: None, text: String::new() }
    }

    #[test]
    fn outcomes() {
        let lost = |after_dot, fault| Outcome::Lost { stage: Stage::Dot, after_dot, fault };
        let at_dot = |trouble| Some(Scheduled::Trouble(Stage::Dot, trouble));
        let coded = |code| Trouble::Reply { code, status: None };
        let rows = [
            (Outcome::Sent(reply(250)), Some(Scheduled::Sent)),
            (Outcome::NotTried(Unreached::NextTransaction), None),
            (Outcome::NotTried(Unreached::Stale), None),
            (Outcome::Refused { stage: Stage::Dot, reply: reply(451) }, at_dot(coded(451))),
            (Outcome::Unfit(Unfit::Utf8), Some(Scheduled::Trouble(Stage::Mail, Trouble::Unfit))),
            // After the dot it may have arrived, whatever ended the wait.
            (lost(true, Fault::Closed), at_dot(Trouble::Unanswered)),
            (lost(true, Fault::Stopped), at_dot(Trouble::Unanswered)),
            (lost(false, Fault::Stopped), at_dot(Trouble::Stopped)),
            (lost(true, Fault::Unexpected(reply(354))), at_dot(Trouble::Unanswered)),
            (lost(false, Fault::Closed), at_dot(Trouble::Dropped)),
            (lost(false, Fault::Local(String::new())), at_dot(Trouble::Internal)),
            (lost(false, Fault::Unexpected(reply(250))), at_dot(coded(250))),
        ];
        for (what, want) in rows {
            assert_eq!(outcome(&what), want, "{what:?}");
        }
    }

    #[test]
    fn failures() {
        let rows = [
            (Fault::Certificate(String::new()), Trouble::Certificate),
            (Fault::Timeout, Trouble::Dropped),
            (Fault::Dns(String::new()), Trouble::NameUnresolved),
            (Fault::EarlyOctets, Trouble::Handshake),
            (Fault::NoStartTls, Trouble::NotOffered),
            (Fault::Source(String::new()), Trouble::Source),
            (Fault::Password(String::new()), Trouble::PasswordFile),
            (Fault::Refused(reply(535)), Trouble::Reply { code: 535, status: None }),
        ];
        for (fault, want) in rows {
            assert_eq!(failure(&Failure { stage: Stage::Auth, fault }), (Stage::Auth, want));
        }
    }
}
