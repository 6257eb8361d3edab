//! Reads the content of a message and stores it, for the driver of a connection.

use std::fs::File;
use std::io;
use std::path::Path;

use super::incoming::{Incoming, MessageContext, storage_refused};
use super::login::Proved;
use super::sending::Sender;
use super::{Driver, outbox, recipients};
use crate::config::outgoing::NextHop;
use crate::mail::durable::StorageError;
use crate::net::deadline::Wait;
use crate::net::stream::Link;
use crate::policy::Destination;
use crate::policy::sending::Reserved;
use crate::queue::reporter::Delivered;
use crate::queue::spool::{Envelope, QueuedRecipient};
use crate::smtp::address::{Address, ForwardPath, ReversePath};
use crate::smtp::data::Framing;
use crate::smtp::event::{Event, Receipt};
use crate::smtp::reply::{Refusal, Refused};

impl<L: Link> Driver<'_, L> {
    /// Whether the disk can take the message that MAIL announces. Strangers' mail leaves the last part of it to logins.
    #[inline(never)]
    pub(super) fn check_space(&self) -> Result<(), Refused> {
        let size = self.session.announced_size().unwrap_or(0);
        let root = self.snapshot.config.maildir.root();
        let checked = self.context.store.check_space(&root, size, !self.connection.service.needs_login());
        checked.map_err(|error| match error {
            // A full disk is no news with every MAIL; the log has the refusal.
            StorageError::DiskFull(_) => Refusal::DiskFull.into(),
            error => storage_refused(self.log, error),
        })
    }

    /// Whether mail for this recipient is taken.
    #[inline(never)]
    pub(super) fn recipient(&mut self, path: &ForwardPath) -> Result<(), Refused> {
        let is_remote = self.check_recipient(path)?;
        self.reserve(is_remote)
    }

    /// Whether mail for this recipient can be taken, limits of sending aside; true if it goes elsewhere.
    fn check_recipient(&self, path: &ForwardPath) -> Result<bool, Refused> {
        let destinations = recipients::destinations(self.context, &self.snapshot, self.connection, path)?;
        let remote = destinations.iter().find_map(|to| if let Destination::Remote(address) = to { Some(address) } else { None });
        let (Some(outbox), Some(address), Some(open)) = (&self.context.outbox, remote, self.session.envelope()) else {
            return Ok(false);
        };
        // `refuse` in the tables of routes.
        if let Some(outgoing) = &self.snapshot.config.outgoing
            && *outgoing.hop(&self.sender_elsewhere(&open.reverse_path), address) == NextHop::Refuse
        {
            return Err(Refused::about(Refusal::Relay, address));
        }
        outbox.check(self.session.login().unwrap_or_default(), open.recipients.len() + 1, self.log)?;
        Ok(true)
    }

    /// The envelope sender as it is where a message leaves the machine.
    fn sender_elsewhere(&self, path: &ReversePath) -> ReversePath {
        let other = self.caller().and_then(|caller| caller.address_elsewhere(path, &self.snapshot.policy));
        other.map_or_else(|| path.clone(), ReversePath::Mailbox)
    }

    /// Counts a recipient against the limits of the login: the message with its first, and every one elsewhere.
    fn reserve(&mut self, is_remote: bool) -> Result<(), Refused> {
        let Some(login) = self.session.login() else { return Ok(()) };
        let limits = self.snapshot.config.sending_limits.and_tallies(login);
        let address = match self.caller() {
            Some(caller) => format!("this machine, user {}", caller.user),
            None => self.connection.peer.ip().to_canonical().to_string(),
        };
        let label = self.credentials.as_ref().map_or("", Proved::label);
        let now = u64::try_from(self.context.now().timestamp().as_second()).unwrap_or(0);
        let context = self.context;
        let reservation = self.reservation.get_or_insert_with(|| context.sending.reservation(login));
        let wanted = Reserved { messages: u32::from(reservation.is_empty()), recipients: u32::from(is_remote) };
        reservation.add(Sender { login, label, address: &address }, &limits, wanted, now).map_err(|exceeded| {
            let until = context.time_at(exceeded.until);
            Refused::about(Refusal::SendingLimit, until.strftime("%Y-%m-%d %H:%M:%S %z"))
        })
    }

    /// Reads dot-stuffed content to its end and stores it.
    #[inline(never)]
    pub(super) fn content(&mut self) -> io::Result<Result<Receipt, Refused>> {
        let mut incoming = self.new_incoming(Framing::Dots);
        self.pass(Wait::Data, u64::MAX, |scope, input| incoming.feed(input, scope))?;
        Ok(self.accept(incoming))
    }

    /// Reads a chunk, and stores the message if it is the last.
    #[inline(never)]
    pub(super) fn chunk(&mut self, size: u64, last: bool) -> io::Result<Event<'static>> {
        let mut incoming = match self.incoming.take() {
            Some(incoming) => incoming,
            None => self.new_incoming(Framing::Chunks),
        };
        self.pass(Wait::Chunk, size, |scope, input| incoming.feed(input, scope))?;
        if last {
            return Ok(Event::Stored(self.accept(incoming)));
        }
        let refused = incoming.refusal(false);
        self.incoming = Some(incoming);
        Ok(Event::Chunk(refused.map_or(Ok(()), Err)))
    }

    /// Hands at most `size` octets of input to `take`, until it says that the end has come.
    pub(super) fn pass(
        &mut self,
        wait: Wait,
        size: u64,
        mut take: impl FnMut(MessageContext<'_>, &[u8]) -> (usize, bool),
    ) -> io::Result<()> {
        self.wire.begin_content(wait)?;
        let Self { wire, session, connection, context, snapshot, log, .. } = self;
        let scope = MessageContext { context, snapshot, session, tls: wire.link().tls(), connection, log };
        let mut left = size;
        while left > 0 {
            let input = wire.content()?;
            let within = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let (used, ended) = take(scope, &input[..within]);
            wire.consume(used);
            left -= used as u64;
            if ended {
                break;
            }
        }
        Ok(())
    }

    /// Stores the message, and reports and counts it: it is accepted.
    fn accept(&mut self, incoming: Incoming) -> Result<Receipt, Refused> {
        let Self { wire, session, connection, context, snapshot, log, .. } = &mut *self;
        let scope = MessageContext { context, snapshot, session, tls: wire.link().tls(), connection, log };
        let (stored, buffer) = incoming.finish(scope);
        self.text_buffer = buffer;
        let stored = stored?;
        let mut lines = self.log.of_accepted();
        if let Some(envelope) = self.session.envelope() {
            let to: Vec<&ForwardPath> = envelope.recipients.iter().map(|to| &to.path).collect();
            lines.accepted(&stored.id, &envelope.reverse_path, &to, stored.octets, stored.begun.elapsed());
        }
        if let Some((from, to)) = &stored.rewritten {
            lines.rewritten(&stored.id, from, to);
        }
        for (mailbox, file) in &stored.files {
            lines.delivered(&stored.id, mailbox, file);
        }
        if let (Some(reservation), Some(login)) = (self.reservation.take(), self.session.login()) {
            reservation.keep();
            self.context.sending.accepted(login, &stored.subject);
        }
        self.messages += 1;
        if let Some(slot) = self.connection.slot {
            slot.succeed();
        }
        self.context.count_message(stored.files.iter().map(|(_, file)| file.as_path()));
        if !stored.asked.is_empty() {
            self.report_delivery(&stored.id, stored.asked, stored.files.first().map(|(_, file)| file.as_path()));
        }
        let Some(queued) = stored.queued else { return Ok(Receipt::Stored(stored.id)) };
        let Envelope { login, reverse_path, recipients, .. } = &queued.envelope;
        let to: Vec<&Address> = recipients.iter().map(|to| &to.address).collect();
        lines.queued(&stored.id, login, reverse_path, &to, queued.octets);
        // It is in the log before what comes of it.
        drop(lines);
        if let Some(outbox) = &self.context.outbox {
            outbox.accept(queued);
        }
        Ok(Receipt::Queued(stored.id))
    }

    /// For a sender who asked with NOTIFY=SUCCESS (RFC 3461 section 5.2.3).
    #[inline(never)]
    fn report_delivery(&self, id: &str, asked: Vec<QueuedRecipient>, file: Option<&Path>) {
        if let Some(outbox) = &self.context.outbox
            && let Some(envelope) = outbox::envelope(&self.session, self.log.id(), asked)
        {
            // A reader of mail may have moved it by now.
            let file = file.and_then(|file| File::open(file).ok());
            outbox.report_delivery(&Delivered { id: id.to_owned(), envelope, file });
        }
    }

    fn new_incoming(&mut self, framing: Framing) -> Incoming {
        let id = format!("{}.{}", self.log.id(), self.messages + 1);
        Incoming::new(id, framing, std::mem::take(&mut self.text_buffer))
    }
}
