//! Writes what takes long: failures that must be durable, reports to senders, notices; and unlinks a message after them.
//!
//! One thread, one deed after the other, so that what belongs to a message happens in its order and the dispatcher never
//! waits for the disk. A failure is durable before its report is, and the report before the message is unlinked: after a
//! crash a report may come twice, and is never lost. A report that cannot be delivered goes to the postmaster, then the
//! message is held, and that report is tried again every [`REPORT_AGAIN`], as is news of a route for the postmaster. What the
//! disk does not take is done again every [`AGAIN`], and the message stays until then; a report that was delivered is not made
//! again with it. A message whose sender is to be told and that cannot be read is held.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::QueueId;
use super::explain::Cause;
use super::report::Kind;
use super::reporter::{Reporter, RouteNews};
use super::schedule::Trouble;
use super::spool::{Happened, QueuedMessage, Record, Spool, SpoolError, State, Told, Verdict};
use super::work::Attempt;
use crate::journal;
use crate::smtp::remote::{RemoteReply, Stage};

mod reports;

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
    /// A report of these recipients was delivered: recorded.
    Reported(QueueId, Vec<u16>, &'static str),
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
            | Self::Remove(id)
            | Self::Reported(id, ..) => Some(*id),
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

impl Failed {
    /// Of a recipient of a message that cannot be read now.
    pub(super) fn unread(cause: Option<Cause>) -> Self {
        let told = nothing_said("what happened before cannot be read");
        Self { told, cause, reply: None, host: String::new(), attempted: None, expired: false }
    }
}

/// See the module's description.
pub struct Clerk {
    spool: Arc<Spool>,
    reporter: Arc<Reporter>,
    /// What could not be done, and what comes after it for the same messages.
    undone: VecDeque<Deed>,
    /// Messages that were held since no report of them could be delivered, until the schedule is done with them.
    unreported: HashSet<QueueId>,
    /// The same when it is done with them: their reports are tried again.
    to_report: HashSet<QueueId>,
    /// News of routes that the postmaster's mailbox did not take, the last of each, with how many messages wait.
    untold: BTreeMap<String, (RouteNews, u64)>,
    reports_again: Instant,
}

/// When what could not be done is done again.
const AGAIN: Duration = Duration::from_secs(10);
/// When reports and news of routes that could not be delivered are tried again.
const REPORT_AGAIN: Duration = Duration::from_secs(600);

impl Clerk {
    /// A clerk for this spool.
    pub fn new(spool: Arc<Spool>, reporter: Arc<Reporter>) -> Self {
        let (unreported, to_report) = (HashSet::new(), HashSet::new());
        let (undone, untold) = (VecDeque::new(), BTreeMap::new());
        Self { spool, reporter, undone, unreported, to_report, untold, reports_again: Instant::now() + REPORT_AGAIN }
    }

    /// Does what comes until there is nothing more to come. What cannot be done by then is found at the next start.
    pub fn run(mut self, deeds: &Receiver<Deed>) {
        let mut again = Instant::now() + AGAIN;
        loop {
            match deeds.recv_timeout(again.saturating_duration_since(Instant::now())) {
                Ok(deed) => self.act(deed),
                Err(RecvTimeoutError::Timeout) => {
                    self.tick(Instant::now());
                    again = Instant::now() + AGAIN;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does one deed, unless an earlier one for the same message is still to be done. What cannot be done is logged, and
    /// nothing is lost: the message stays in the spool.
    pub fn act(&mut self, deed: Deed) {
        self.attempt(deed, true);
    }

    /// Does again what is due for that. To be called every [`AGAIN`].
    fn tick(&mut self, now: Instant) {
        self.do_again();
        if now >= self.reports_again {
            self.report_again();
            self.tell_again();
            self.reports_again = now + REPORT_AGAIN;
        }
    }

    /// Does again what could not be done. The log has it already, so it says nothing of what cannot be done yet.
    fn do_again(&mut self) {
        for deed in std::mem::take(&mut self.undone) {
            self.attempt(deed, false);
        }
    }

    fn attempt(&mut self, deed: Deed, is_first: bool) {
        let id = deed.id();
        if id.is_some() && self.undone.iter().any(|earlier| earlier.id() == id) {
            return self.undone.push_back(deed);
        }
        let Err(error) = self.obey(&deed) else { return };
        match (error, deed) {
            (error @ SpoolError::Storage(_), deed) => {
                if is_first {
                    self.complain(id, &error);
                }
                self.undone.push_back(deed);
            }
            // Its sender knows nothing of it, so it is not unlinked.
            (error @ SpoolError::Damaged(_), Deed::Fail { id, .. } | Deed::Record(id, _)) => {
                if !self.unreported.insert(id) {
                    return;
                }
                journal::notice("spool", format!("{id}: {error}; its sender is not told, and the file is in held/"));
                if let Err(error) = self.spool.hold(id, None) {
                    self.complain(Some(id), &error);
                }
            }
            // One that is gone or damaged is so the next time too.
            (error, _) => self.complain(id, &error),
        }
    }

    fn complain(&self, id: Option<QueueId>, error: &SpoolError) {
        match id {
            Some(id) if !matches!(error, SpoolError::Missing(_)) => journal::notice("spool", format!("{id}: {error}")),
            _ => journal::notice("spool", error),
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
                // All these letters go to one postmaster: with one that has no place yet, no other is vouched for.
                self.reporter.late_notice(login, route, *count, *oldest, *told && self.untold.is_empty());
                Ok(())
            }
            Deed::Relayed(id, recipients) => self.relayed(*id, recipients),
            // It stays for a person, since its sender knows nothing of it.
            Deed::Remove(id) if self.unreported.remove(id) => {
                self.to_report.insert(*id);
                Ok(())
            }
            Deed::Remove(id) => self.spool.remove(*id),
            Deed::Reported(id, recipients, action) => {
                let what = Happened::Reported { recipients: recipients.clone(), action: (*action).to_owned() };
                self.spool.append(*id, &record(what))
            }
            Deed::Tell(news, waiting) => {
                self.tell(news, *waiting);
                Ok(())
            }
        }
    }

    /// Tells the postmaster of a route; again later if that fails, unless there is other news of it by then.
    fn tell(&mut self, news: &RouteNews, waiting: u64) {
        match self.reporter.tell(news, waiting) {
            Ok(()) => drop(self.untold.remove(&news.name)),
            Err(why) => {
                if self.untold.insert(news.name.clone(), (news.clone(), waiting)).is_none() {
                    journal::notice("postmaster", format!("cannot be told of route {}: {why}", news.name));
                }
            }
        }
    }

    fn tell_again(&mut self) {
        self.untold.clone().values().for_each(|(news, waiting)| self.tell(news, *waiting));
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

#[cfg(test)]
mod tests;
