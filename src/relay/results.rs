//! What came of a connection or a transaction, in the words of the schedule.

use crate::queue::schedule::{Outcome as Scheduled, Trouble};
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
        Fault::Closed | Fault::Garbage(_) | Fault::Io(_) | Fault::Stopped | Fault::Timeout => Trouble::Dropped,
        Fault::Defect | Fault::Local(_) => Trouble::Internal,
        Fault::Dns(_) => Trouble::NameUnresolved,
        Fault::EarlyOctets | Fault::Tls(_) => Trouble::Handshake,
        Fault::NoMechanism | Fault::NoStartTls => Trouble::NotOffered,
        Fault::Password(_) => Trouble::PasswordFile,
        Fault::Refused(reply) | Fault::Unexpected(reply) => replied(reply),
    }
}

fn replied(reply: &RemoteReply) -> Trouble {
    Trouble::Reply { code: reply.code, status: reply.status }
}
