//! Writes what takes long: failures that must be durable, reports to senders, notices; and unlinks a message after them.
//!
//! One thread, one deed after the other, so that what belongs to a message happens in its order and the dispatcher never
//! waits for the disk. A failure is durable before its report is, and the report before the message is unlinked: after a
//! crash a report may come twice, and is never lost. A report that cannot be delivered goes to the postmaster, then the
//! message is held. What the disk does not take is done again every [`AGAIN`], and the message stays until then.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use jiff::Zoned;

use super::QueueId;
use super::explain::Cause;
use super::letter::Letter;
use super::report::{self, Kind, Original, Outcome, RETURNED_MAX};
use super::reporter::{Reporter, RouteNews};
use super::schedule::Trouble;
use super::spool::{Happened, QueuedMessage, Record, Spool, SpoolError, State, Told, Verdict, arrived};
use super::work::Attempt;
use crate::journal;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::remote::{RemoteReply, Stage};

/// Something to be done.
#[derive(Debug)]
pub enum Deed {
    /// These recipients are not tried again: recorded, unless it is already, and reported.
    Fail {
        /// The message.
        id: QueueId,
        /// The recipients, with what happened.
        recipients: Vec<(u16, Failed)>,
        /// A record is to be written.
        record: bool,
    },
    /// These recipients are not tried again: recorded, durably. The report comes when the pass is over.
    Record(QueueId, Vec<(u16, Failed)>),
    /// It goes back to `queue/`.
    Release(QueueId),
    /// It goes to `held/`.
    Hold(QueueId, &'static str),
    /// It is late: reported where that is due.
    Late(QueueId, Vec<(u16, Option<Cause>)>, u64),
    /// A login's mail is late because a route rests.
    LateNotice {
        /// The login.
        login: String,
        /// The route and why it rests.
        route: RouteNews,
        /// How many messages wait.
        count: u64,
        /// Seconds since 1970 of the oldest, and of its return.
        oldest: (u64, u64),
        /// The postmaster has been told of the route.
        told: bool,
    },
    /// Sent, and a report of that was asked for.
    Relayed(QueueId, Vec<(u16, Attempt)>),
    /// Unlinked.
    Remove(QueueId),
    /// Postmaster is told that a route rests, or is well again.
    Tell(RouteNews, u64),
}

impl Deed {
    /// The message that it is about.
    fn id(&self) -> Option<QueueId> {
        match self {
            Self::Fail { id, .. }
            | Self::Hold(id, _)
            | Self::Late(id, ..)
            | Self::Record(id, _)
            | Self::Relayed(id, _)
            | Self::Release(id)
            | Self::Remove(id) => Some(*id),
            Self::LateNotice { .. } | Self::Tell(..) => None,
        }
    }
}

/// Why a recipient is not tried again.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What happened last, as it is recorded.
    pub told: Told,
    /// Why, for people.
    pub cause: Option<Cause>,
    /// The next hop's reply.
    pub reply: Option<RemoteReply>,
    /// The next hop.
    pub host: String,
    /// Seconds since 1970 of the last attempt, if there was one.
    pub attempted: Option<u64>,
    /// Too old, rather than refused.
    pub expired: bool,
}

/// See the module's description.
pub struct Clerk {
    spool: Arc<Spool>,
    reporter: Arc<Reporter>,
    /// What could not be done, and what comes after it for the same messages.
    undone: VecDeque<Deed>,
    /// Messages that were held since no report of them could be delivered, until the schedule is done with them.
    unreported: HashSet<QueueId>,
}

/// When what could not be done is done again.
const AGAIN: Duration = Duration::from_secs(10);

impl Clerk {
    /// A clerk for this spool.
    pub fn new(spool: Arc<Spool>, reporter: Arc<Reporter>) -> Self {
        Self { spool, reporter, undone: VecDeque::new(), unreported: HashSet::new() }
    }

    /// Does what comes until there is nothing more to come. What cannot be done by then is found at the next start.
    pub fn run(mut self, deeds: &Receiver<Deed>) {
        let mut again = Instant::now() + AGAIN;
        loop {
            match deeds.recv_timeout(again.saturating_duration_since(Instant::now())) {
                Ok(deed) => self.act(deed),
                Err(RecvTimeoutError::Timeout) => {
                    for deed in std::mem::take(&mut self.undone) {
                        self.act(deed);
                    }
                    again = Instant::now() + AGAIN;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does one deed, unless an earlier one for the same message is still to be done. What cannot be done is logged, and
    /// nothing is lost: the message stays in the spool.
    pub fn act(&mut self, deed: Deed) {
        let id = deed.id();
        if id.is_some() && self.undone.iter().any(|earlier| earlier.id() == id) {
            self.undone.push_back(deed);
        } else if let Err(error) = self.obey(&deed) {
            journal::notice("spool", &error);
            // One that is gone or damaged is so the next time too.
            if matches!(error, SpoolError::Storage(_)) {
                self.undone.push_back(deed);
            }
        }
    }

    fn obey(&mut self, deed: &Deed) -> Result<(), SpoolError> {
        match deed {
            Deed::Fail { id, recipients, record } => {
                if *record {
                    self.record(*id, recipients)?;
                }
                self.fail(*id, recipients)
            }
            Deed::Record(id, recipients) => self.record(*id, recipients),
            Deed::Hold(id, why) => {
                self.spool.hold(*id, Some(&record(Happened::Hold((*why).to_owned()))))?;
                journal::queue::held(&id.to_string(), why);
                Ok(())
            }
            Deed::Release(id) => {
                self.spool.release(*id, &record(Happened::Release))?;
                journal::queue::released(&id.to_string());
                Ok(())
            }
            Deed::Late(id, recipients, until) => self.late(*id, recipients, *until),
            Deed::LateNotice { login, route, count, oldest, told } => {
                self.reporter.late_notice(login, route, *count, *oldest, *told);
                Ok(())
            }
            Deed::Relayed(id, recipients) => self.relayed(*id, recipients),
            // It stays for a person, since its sender knows nothing of it.
            Deed::Remove(id) if self.unreported.remove(id) => Ok(()),
            Deed::Remove(id) => self.spool.remove(*id),
            Deed::Tell(news, waiting) => {
                self.reporter.tell(news, *waiting);
                Ok(())
            }
        }
    }

    fn record(&mut self, id: QueueId, failed: &[(u16, Failed)]) -> Result<(), SpoolError> {
        for (recipients, told) in grouped(failed.iter().map(|(number, failed)| (*number, failed.told.clone()))) {
            self.spool.append(id, &record(Happened::Result { recipients, verdict: Verdict::Failed, told }))?;
        }
        Ok(())
    }

    fn fail(&mut self, id: QueueId, failed: &[(u16, Failed)]) -> Result<(), SpoolError> {
        let message = self.spool.read(id)?;
        let outcomes: Vec<(u16, &Failed)> = failed.iter().map(|(number, failed)| (*number, failed)).collect();
        self.report(id, &message, Kind::Failure, &outcomes)
    }

    fn late(&mut self, id: QueueId, recipients: &[(u16, Option<Cause>)], until: u64) -> Result<(), SpoolError> {
        let message = self.spool.read(id)?;
        let until = self.reporter.zoned(until);
        let failed: Vec<(u16, Failed)> =
            recipients.iter().map(|(number, cause)| (*number, last_of(&message, *number, *cause))).collect();
        let outcomes: Vec<(u16, &Failed)> = failed.iter().map(|(number, failed)| (*number, failed)).collect();
        self.report(id, &message, Kind::Delay(&until), &outcomes)
    }

    fn relayed(&mut self, id: QueueId, recipients: &[(u16, Attempt)]) -> Result<(), SpoolError> {
        let message = self.spool.read(id)?;
        let sent: Vec<(u16, Failed)> = recipients
            .iter()
            .map(|(number, attempt)| {
                let (told, reply, host) = (attempt.told(), attempt.reply.clone(), attempt.host.clone());
                (*number, Failed { told, cause: None, reply, host, attempted: Some(attempt.time), expired: false })
            })
            .collect();
        let outcomes: Vec<(u16, &Failed)> = sent.iter().map(|(number, sent)| (*number, sent)).collect();
        self.report(id, &message, Kind::Relayed, &outcomes)
    }

    /// One report for all recipients for which one is due; then the record of it.
    fn report(
        &mut self,
        id: QueueId,
        message: &QueuedMessage,
        kind: Kind<'_>,
        outcomes: &[(u16, &Failed)],
    ) -> Result<(), SpoolError> {
        let envelope = &message.envelope;
        let mut text = Vec::new();
        self.spool.open_message(id)?.take(RETURNED_MAX as u64).read_to_end(&mut text)?;
        if matches!(kind, Kind::Failure) && is_own_report(message) {
            return self.undeliverable(id, text, outcomes);
        }
        let ReversePath::Mailbox(sender) = &envelope.reverse_path else { return Ok(()) };
        let sender = &self.reporter.mailer.reports_to(&envelope.login, sender);
        let due = |(number, _): &&(u16, &Failed)| {
            let to = envelope.recipients.get(usize::from(*number));
            to.is_some_and(|to| report::is_due(kind, &envelope.reverse_path, to.notify, &text))
        };
        let due: Vec<&(u16, &Failed)> = outcomes.iter().filter(due).collect();
        if due.is_empty() {
            return Ok(());
        }
        let letter = self.letter(id, message, kind, sender, &due, &text);
        let name = id.to_string();
        match self.reporter.deliver(sender, &letter) {
            Ok(place) => journal::queue::reported(&name, place, kind.action()),
            // Of the message itself nothing is decided yet.
            Err(why) if matches!(kind, Kind::Delay(_)) => {
                journal::notice("report", format!("{id}: {why}"));
                return Ok(());
            }
            // It is neither forgotten nor repeated for ever: a person looks at it.
            Err(why) => {
                journal::notice("report", format!("{id}: {why}"));
                return self.hold_unreported(id);
            }
        }
        let recipients = due.iter().map(|(number, _)| *number).collect();
        self.spool.append(id, &record(Happened::Reported { recipients, action: kind.action().to_owned() }))
    }

    /// The report for the recipients for which it is due; `text` is the message, or as much of it as goes back.
    fn letter(
        &self,
        id: QueueId,
        message: &QueuedMessage,
        kind: Kind<'_>,
        sender: &Address,
        due: &[&(u16, &Failed)],
        text: &[u8],
    ) -> Letter {
        let envelope = &message.envelope;
        let attempted: Vec<Option<Zoned>> =
            due.iter().map(|(_, failed)| failed.attempted.map(|time| self.reporter.zoned(time))).collect();
        let doubts = message.doubts(false);
        let rows = due.iter().zip(&attempted).filter_map(|((number, failed), attempted)| {
            let to = envelope.recipients.get(usize::from(*number))?;
            Some(Outcome {
                address: &to.address,
                orcpt: to.orcpt.as_ref(),
                cause: failed.cause,
                reply: failed.reply.as_ref(),
                host: (!failed.host.is_empty()).then(|| failed.host.split('[').next().unwrap_or_default()),
                attempted: attempted.as_ref(),
                expired: failed.expired,
                maybe_twice: doubts.contains(number),
            })
        });
        let rows: Vec<Outcome<'_>> = rows.collect();
        let (arrived, name) = (self.reporter.zoned(arrived(id)), id.to_string());
        let whole = message.text.octets <= RETURNED_MAX as u64;
        let original =
            Original { id: &name, sender, arrived: &arrived, ret: envelope.ret, envid: envelope.envid.as_deref(), text, whole };
        self.reporter.with_head(|head| report::build(kind, head, original, &rows))
    }

    /// A report of this server that was sent on and refused: to the postmaster, and never a report of it.
    fn undeliverable(&mut self, id: QueueId, text: Vec<u8>, outcomes: &[(u16, &Failed)]) -> Result<(), SpoolError> {
        let (postmaster, name) = (self.reporter.mailer.postmaster(), id.to_string());
        let letter = Letter { eight_bit: !text.is_ascii(), utf8: false, text };
        let envelope = self.spool.read(id)?.envelope;
        let was_for_it = envelope.recipients.iter().any(|to| to.address == postmaster);
        let delivered = if was_for_it {
            Err("it was for the postmaster".to_owned())
        } else {
            self.reporter.mailer.deliver(&postmaster, &letter)
        };
        match delivered {
            Ok(place) => journal::queue::reported(&name, place, "failed"),
            Err(why) => {
                journal::notice("report", format!("{id}: cannot be delivered: {why}; it is held"));
                return self.hold_unreported(id);
            }
        }
        let recipients = outcomes.iter().map(|(number, _)| *number).collect();
        self.spool.append(id, &record(Happened::Reported { recipients, action: "failed".to_owned() }))
    }

    fn hold_unreported(&mut self, id: QueueId) -> Result<(), SpoolError> {
        self.spool.hold(id, Some(&record(Happened::Hold("no-report".to_owned()))))?;
        self.unreported.insert(id);
        journal::queue::held(&id.to_string(), "no-report");
        Ok(())
    }
}

/// A report of this server's own: from the null sender, and of no login.
fn is_own_report(message: &QueuedMessage) -> bool {
    message.envelope.reverse_path == ReversePath::Null && message.envelope.login.is_empty()
}

/// What the file says last about a recipient.
pub(super) fn last_of(message: &QueuedMessage, number: u16, cause: Option<Cause>) -> Failed {
    let (mut host, mut begun) = (String::new(), None);
    let mut last = None;
    for record in &message.log {
        match &record.what {
            Happened::Begin { recipients, host: name, .. } if recipients.contains(&number) => {
                host.clone_from(name);
                begun = Some(record.time);
            }
            Happened::Result { recipients, told, .. } if recipients.contains(&number) => last = Some((record.time, told.clone())),
            _ => {}
        }
    }
    // The last attempt has no record of its end: what one before it was told is not what happened last.
    if let (Some(time), Some(State::MayHaveArrived { .. })) = (begun, message.states().get(usize::from(number))) {
        let text = Trouble::Unanswered.words().to_owned();
        last = Some((time, Told { stage: Stage::Dot, code: None, status: None, text }));
    }
    let reply = last.as_ref().and_then(|(_, told)| reply_of(told));
    let attempted = last.as_ref().map(|(time, _)| *time);
    let told = last.map(|(_, told)| told).unwrap_or_else(|| nothing_said("not tried yet"));
    let cause = cause.or_else(|| Cause::told(&told));
    Failed { told, cause, reply, host, attempted, expired: false }
}

/// What is recorded where no next hop said anything.
pub(super) fn nothing_said(text: &str) -> Told {
    Told { stage: Stage::Connect, code: None, status: None, text: text.to_owned() }
}

fn reply_of(told: &Told) -> Option<RemoteReply> {
    Some(RemoteReply { code: told.code?, status: told.status, text: told.text.clone() })
}

/// Recipients that were told the same, together.
pub(super) fn grouped(told: impl Iterator<Item = (u16, Told)>) -> Vec<(Vec<u16>, Told)> {
    let mut groups: Vec<(Vec<u16>, Told)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (number, told) in told {
        let at = *places.entry(format!("{told:?}")).or_insert(groups.len());
        match groups.get_mut(at) {
            Some((numbers, _)) => numbers.push(number),
            None => groups.push((vec![number], told)),
        }
    }
    groups
}

pub(super) fn record(what: Happened) -> Record {
    Record { time: now(), what }
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
