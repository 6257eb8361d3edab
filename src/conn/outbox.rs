//! Accepts mail for other domains: into the spool, and from there it is the dispatcher's.

use std::sync::Arc;

use crate::journal::SessionLog;
use crate::mail::durable::StorageError;
use crate::queue::QueueId;
use crate::queue::dispatcher::{QueueFull, Room};
use crate::queue::reporter::Delivered;
use crate::queue::spool::{Envelope, QueuedRecipient, Spool};
use crate::smtp::reply::{Refusal, Refused};
use crate::smtp::session::Session;

/// Where mail for other domains goes.
pub struct Outbox {
    spool: Arc<Spool>,
    has_room: Box<HasRoom>,
    take_room: Box<TakeRoom>,
    accepted: Box<AcceptedCallback>,
    delivered: Box<DeliveredCallback>,
}

/// A message that is in the spool, durable.
#[derive(Debug)]
pub struct Accepted {
    /// Its id.
    pub id: QueueId,
    /// Its envelope.
    pub envelope: Envelope,
    /// Octets of its text.
    pub octets: u64,
    /// Its places in the queue.
    pub room: Option<Room>,
}

type HasRoom = dyn Fn(&str, usize) -> bool + Send + Sync;
type TakeRoom = dyn Fn(&str, usize) -> Result<Option<Room>, QueueFull> + Send + Sync;
type AcceptedCallback = dyn Fn(Accepted) + Send + Sync;
type DeliveredCallback = dyn Fn(&Delivered) + Send + Sync;

impl Outbox {
    /// `has_room` says whether a login may let so many pairs of message and destination more wait; `accepted` is told of every message
    /// before its 250 is said.
    pub fn new(
        spool: Arc<Spool>,
        has_room: impl Fn(&str, usize) -> bool + Send + Sync + 'static,
        accepted: impl Fn(Accepted) + Send + Sync + 'static,
    ) -> Self {
        let (has_room, accepted) = (Box::new(has_room), Box::new(accepted));
        Self { spool, has_room, take_room: Box::new(|_, _| Ok(None)), accepted, delivered: Box::new(|_| ()) }
    }

    /// The same with places that are taken before a message is made durable: all sessions may have been told that there is
    /// room for one more.
    pub fn taking_room(
        mut self,
        take_room: impl Fn(&str, usize) -> Result<Option<Room>, QueueFull> + Send + Sync + 'static,
    ) -> Self {
        self.take_room = Box::new(take_room);
        self
    }

    /// The same with reports of delivery, which are durable when `delivered` returns.
    pub fn reporting(mut self, delivered: impl Fn(&Delivered) + Send + Sync + 'static) -> Self {
        self.delivered = Box::new(delivered);
        self
    }

    /// The spool.
    pub fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    /// Whether a transaction of a login may have so many recipients elsewhere.
    pub fn check(&self, login: &str, recipients: usize, log: &SessionLog) -> Result<(), Refused> {
        if !(self.has_room)(login, recipients) {
            return Err(Refusal::QueueFull.into());
        }
        self.spool.check_space(0).map_err(|error| match error {
            // A full disk is no news with every RCPT; the log has the refusal.
            StorageError::DiskFull(_) => Refusal::SpoolFull.into(),
            error => refused(log, error),
        })
    }

    /// Takes the places for so many recipients elsewhere.
    pub fn take_room(&self, login: &str, recipients: usize) -> Result<Option<Room>, Refused> {
        (self.take_room)(login, recipients).map_err(|QueueFull| Refusal::QueueFull.into())
    }

    /// Hands a message over.
    pub fn accept(&self, accepted: Accepted) {
        (self.accepted)(accepted);
    }

    /// Reports that a message is in mailboxes here, before its 250 is said.
    pub fn report_delivery(&self, delivered: &Delivered) {
        (self.delivered)(delivered);
    }
}

/// The envelope that the spool keeps; none without an open transaction.
pub fn envelope(session: &Session, id: &str, recipients: Vec<QueuedRecipient>) -> Option<Envelope> {
    let open = session.envelope()?;
    Some(Envelope {
        reverse_path: open.reverse_path.clone(),
        login: session.login().unwrap_or_default().to_owned(),
        session: id.to_owned(),
        body: open.body,
        utf8: open.utf8,
        ret: open.ret,
        envid: open.envid.clone(),
        recipients,
    })
}

/// What a client is told when a message can't be put into the spool: always to come again.
pub fn refused(log: &SessionLog, error: StorageError) -> Refused {
    log.storage("spool", &error);
    match error {
        StorageError::DiskFull(_) | StorageError::Quota(_) => Refusal::SpoolFull,
        StorageError::Unwritable(_) => Refusal::LocalError,
    }
    .into()
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("spool", &self.spool).finish_non_exhaustive()
    }
}
