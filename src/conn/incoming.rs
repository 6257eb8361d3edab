//! The content of one message, from the wire to durable files: one for mailboxes, one in the spool for recipients elsewhere.
//!
//! Whatever is wrong with it, it is read to its true end, in bounded memory: the first refusal is remembered and
//! nothing is written any more. The disk is touched only once the header section has been found acceptable.

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use super::Connection;
use super::authors::{self, Identity};
use super::caller::Caller;
use super::context::{Context, Snapshot};
use super::outbox::{self, Accepted};
use super::recipients::{self, Mailboxes, Recipients};
use crate::journal::SessionLog;
use crate::mail::durable::{Draft, StorageError};
use crate::mail::from;
use crate::mail::maildir::Delivered;
use crate::mail::message::{HEADER_MAX, Header, HeaderReader, HeaderTooLarge, RECEIVED_MAX};
use crate::mail::signing::Signer;
use crate::mail::trace::Trace;
use crate::net::tls::TlsInfo;
use crate::queue::signature;
use crate::queue::spool::{self, QueuedRecipient};
use crate::smtp::address::ReversePath;
use crate::smtp::data::{Decoder, Framing};
use crate::smtp::reply::{Refusal, Refused};
use crate::smtp::session::{Envelope, Session};

/// A message that is coming in.
#[derive(Debug)]
pub struct Incoming {
    id: String,
    begun: Instant,
    decoder: Decoder,
    header: Option<HeaderReader>,
    mailboxes: Mailboxes,
    /// Recipients here of whose delivery the sender wants to know.
    asked: Vec<QueuedRecipient>,
    /// For the mailboxes.
    draft: Option<Draft>,
    /// For recipients elsewhere.
    queued: Option<(spool::Draft, spool::Envelope)>,
    /// Sees what is written for them, if there is a key for it.
    signer: Option<Signer>,
    refused: Option<Refused>,
    subject: Vec<u8>,
    /// Of the copy that leaves the machine: an address that was replaced, and by which.
    rewritten: Option<(String, String)>,
    /// What is to be looked at or written next.
    text: Vec<u8>,
}

/// Borrowed context for one call.
#[derive(Clone, Copy, Debug)]
pub struct MessageContext<'a> {
    /// What all sessions share.
    pub context: &'a Context,
    /// The settings of this session.
    pub snapshot: &'a Snapshot,
    /// The session, with an open transaction.
    pub session: &'a Session,
    /// What TLS agreed on.
    pub tls: Option<TlsInfo>,
    /// Where it comes from.
    pub connection: &'a Connection<'a>,
    /// Its log.
    pub log: &'a SessionLog,
}

impl<'a> MessageContext<'a> {
    /// The caller on a local socket.
    fn caller(&self) -> Option<&'a Caller> {
        self.connection.caller.as_ref()?.as_ref().ok()
    }
}

/// A message that is durable.
#[derive(Debug)]
pub struct Stored {
    /// The message's id.
    pub id: String,
    /// Each mailbox with the file in it.
    pub files: Vec<(String, PathBuf)>,
    /// Recipients here of whose delivery the sender wants to know.
    pub asked: Vec<QueuedRecipient>,
    /// What is in the spool, if there are recipients elsewhere.
    pub queued: Option<Accepted>,
    /// An address of the sender's that was replaced in what leaves the machine, and by which.
    pub rewritten: Option<(String, String)>,
    /// What stands in Subject.
    pub subject: Vec<u8>,
    /// Octets of a file.
    pub octets: u64,
    /// When the content began to come.
    pub begun: Instant,
}

/// Octets that are gathered before they are written.
const WRITE_SIZE: usize = 64 * 1024;

impl Incoming {
    /// Before the first octet of content; `buffer` is memory to be used, and given back by [`Self::finish`].
    pub fn new(id: String, framing: Framing, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        Self {
            id,
            begun: Instant::now(),
            decoder: Decoder::new(framing),
            header: Some(HeaderReader::default()),
            mailboxes: Vec::new(),
            asked: Vec::new(),
            draft: None,
            queued: None,
            signer: None,
            refused: None,
            subject: Vec::new(),
            rewritten: None,
            text: buffer,
        }
    }

    /// Takes input; gives how much of it was content, and whether the lone dot has gone by.
    pub fn feed(&mut self, input: &[u8], scope: MessageContext<'_>) -> (usize, bool) {
        let fed = self.decoder.feed(input, &mut self.text);
        let limit = scope.snapshot.config.limits.message_size;
        if self.decoder.octets() > limit {
            self.refuse(Refused::about(Refusal::MessageTooLarge, limit));
        } else if self.refused.is_none()
            && let Err(refused) = self.take(scope)
        {
            self.refuse(refused);
        }
        if self.refused.is_some() {
            self.text.clear();
        }
        (fed.used, fed.ended)
    }

    /// What is wrong so far, for a chunk's reply.
    pub fn refusal(&mut self, last: bool) -> Option<Refused> {
        let fault = if last { self.decoder.finish() } else { self.decoder.fault() };
        fault.map(|fault| Refused::about(Refusal::BadOctet, fault)).or_else(|| self.refused.clone())
    }

    /// The content is complete: makes it durable in every mailbox and in the spool, or in none. Gives back the memory that was lent.
    pub fn finish(mut self, scope: MessageContext<'_>) -> (Result<Stored, Refused>, Vec<u8>) {
        let stored = self.commit(scope);
        (stored, self.text)
    }

    fn commit(&mut self, scope: MessageContext<'_>) -> Result<Stored, Refused> {
        if let Some(refused) = self.refusal(true) {
            return Err(refused);
        }
        if let Some(reader) = self.header.take() {
            self.begin_files(reader.end(), 0, scope)?;
        }
        self.write(scope.log)?;
        let room = match (&self.queued, &scope.context.outbox) {
            (Some((_, envelope)), Some(outbox)) => outbox.take_room(&envelope.login, envelope.recipients.len())?,
            _ => None,
        };
        let (names, paths): (Vec<String>, Vec<PathBuf>) = self.mailboxes.drain(..).unzip();
        let mut octets = None;
        let delivered = match self.draft.take() {
            Some(draft) => {
                octets = Some(draft.octets());
                Some(scope.context.store.deliver(draft, &paths).map_err(|error| storage_refused(scope.log, error))?)
            }
            None => None,
        };
        // The spool comes last: what is in it may be sent at any moment, while mailboxes give back what they were given.
        let queued = match self.queued.take() {
            Some((mut draft, envelope)) => {
                if let (Some(signer), Some(outgoing)) = (&self.signer, &scope.snapshot.config.outgoing) {
                    signature::sign(&mut draft, signer, outgoing);
                }
                let committed = draft.commit().map_err(|error| outbox::refused(scope.log, error))?;
                octets = octets.or(Some(committed.octets));
                Some(Accepted { octets: committed.octets, id: committed.keep(), envelope, room })
            }
            None => None,
        };
        let files = delivered.map(Delivered::keep).unwrap_or_default();
        let octets = octets.ok_or(Refusal::Internal)?;
        let files = names.into_iter().zip(files).collect();
        let asked = std::mem::take(&mut self.asked);
        let subject = std::mem::take(&mut self.subject);
        let rewritten = self.rewritten.take();
        Ok(Stored { id: self.id.clone(), files, asked, queued, rewritten, subject, octets, begun: self.begun })
    }

    fn refuse(&mut self, refused: Refused) {
        self.refused.get_or_insert(refused);
        (self.draft, self.queued) = (None, None);
        self.header = None;
    }

    /// Looks at the text while it is header, and writes it once there is enough.
    fn take(&mut self, scope: MessageContext<'_>) -> Result<(), Refused> {
        if let Some(reader) = &mut self.header {
            match reader.push(&self.text).map_err(too_large)? {
                None => self.text.clear(),
                Some((header, used)) => {
                    self.header = None;
                    self.begin_files(header, used, scope)?;
                }
            }
        }
        if self.text.len() >= WRITE_SIZE { self.write(scope.log) } else { Ok(()) }
    }

    /// The header section is whole: may the message be accepted, and where does it go?
    /// Its last `used` octets stand in the text, where the whole header as it is to be written takes their place.
    fn begin_files(&mut self, mut header: Header, used: usize, scope: MessageContext<'_>) -> Result<(), Refused> {
        let MessageContext { context, snapshot, session, .. } = scope;
        let envelope = session.envelope().ok_or(Refusal::Internal)?;
        if header.loops() {
            return Err(Refused::about(Refusal::Loop, RECEIVED_MAX));
        }
        if let Some(login) = session.login() {
            authors::check(&mut header, Identity { login, caller: scope.caller() }, &snapshot.policy)?;
        }
        self.subject = header.subject().map(<[u8]>::to_vec).unwrap_or_default();
        let Recipients { mailboxes, asked, elsewhere } = recipients::of_message(envelope, scope)?;
        (self.mailboxes, self.asked) = (mailboxes, asked);
        if let Some(outbox) = context.outbox.as_ref().filter(|_| !elsewhere.is_empty()) {
            let session_id = self.id.split('.').next().unwrap_or_default();
            let mut envelope = outbox::envelope(session, session_id, elsewhere).ok_or(Refusal::Internal)?;
            self.rewrite_sender(&mut envelope, scope);
            // What a client declares for every message must not keep one from a server that lacks it.
            envelope.utf8 &= !header.is_ascii();
            let draft = outbox.spool().begin(&envelope).map_err(|error| outbox::refused(scope.log, error))?;
            // One id for all copies: a missing Message-ID is made of it.
            self.id = draft.id().to_string();
            self.queued = Some((draft, envelope));
        }
        if let Some((_, first)) = self.mailboxes.first() {
            self.draft = Some(context.store.begin(first).map_err(|error| storage_refused(scope.log, error))?);
        }
        self.write_header(header, used, envelope, scope)
    }

    /// Puts the header in the place of its last `used` octets, as each of the files has it, and begins the signature.
    fn write_header(
        &mut self,
        mut header: Header,
        used: usize,
        envelope: &Envelope,
        scope: MessageContext<'_>,
    ) -> Result<(), Refused> {
        let snapshot = scope.snapshot;
        let author = if self.queued.is_some() { author_elsewhere(&header, scope) } else { None };
        let author = author.map(|Replaced { own, other, field }| {
            self.rewritten.get_or_insert((own, other));
            field
        });
        let mut top = |final_delivery: bool| {
            if let Some(author) = author.as_ref().filter(|_| !final_delivery) {
                header.set_author(author.clone());
            }
            render_header(&header, envelope, &self.id, scope, final_delivery)
        };
        let outgoing = snapshot.config.outgoing.as_ref();
        let signer = |top: &[u8]| outgoing.and_then(|outgoing| signature::begin(outgoing, &snapshot.keyring, top));
        match (&mut self.draft, &mut self.queued) {
            (Some(_), None) => replace_start(&mut self.text, used, &top(true)),
            (None, Some(_)) => {
                let top = top(false);
                self.signer = signer(&top);
                replace_start(&mut self.text, used, &top);
            }
            (Some(draft), Some((queued, _))) => {
                // The copy that stays comes first: the other one's author replaces the header's.
                draft.write_all(&top(true)).map_err(|error| storage_refused(scope.log, error.into()))?;
                let top_of_queued = top(false);
                self.signer = signer(&top_of_queued);
                queue(queued, self.signer.as_mut(), &top_of_queued, scope.log)?;
                drop(self.text.drain(..used));
            }
            (None, None) => return Err(Refusal::NoRecipients.into()),
        }
        Ok(())
    }

    /// Replaces USER@hostname of a caller on a local socket, which no other server takes, in what leaves the machine.
    fn rewrite_sender(&mut self, envelope: &mut spool::Envelope, scope: MessageContext<'_>) {
        let policy = &scope.snapshot.policy;
        let other = scope.caller().and_then(|caller| caller.address_elsewhere(&envelope.reverse_path, policy));
        if let Some(other) = other {
            self.rewritten = Some((envelope.reverse_path.to_string(), other.to_string()));
            envelope.reverse_path = ReversePath::Mailbox(other);
        }
    }

    fn write(&mut self, log: &SessionLog) -> Result<(), Refused> {
        if let Some(draft) = &mut self.draft {
            draft.write_all(&self.text).map_err(|error| storage_refused(log, error.into()))?;
        }
        if let Some((draft, _)) = &mut self.queued {
            queue(draft, self.signer.as_mut(), &self.text, log)?;
        }
        self.text.clear();
        Ok(())
    }
}

/// Puts `start` in the place of the first `used` octets.
fn replace_start(text: &mut Vec<u8>, used: usize, start: &[u8]) {
    let (end, wanted) = (text.len(), text.len() - used + start.len());
    text.resize(wanted.max(end), 0);
    text.copy_within(used..end, start.len());
    text.truncate(wanted);
    text[..start.len()].copy_from_slice(start);
}

/// Writes to the spool what is signed as it goes by.
fn queue(draft: &mut spool::Draft, signer: Option<&mut Signer>, text: &[u8], log: &SessionLog) -> Result<(), Refused> {
    if let Some(signer) = signer {
        signer.update(text);
    }
    draft.write_all(text).map_err(|error| outbox::refused(log, error.into()))
}

/// The header section as it is written: for mailboxes, or for the spool.
fn render_header(header: &Header, envelope: &Envelope, id: &str, scope: MessageContext<'_>, final_delivery: bool) -> Vec<u8> {
    let MessageContext { context, snapshot, session, tls, connection, .. } = scope;
    let recipient: Option<&dyn Display> = match &envelope.recipients[..] {
        [one] => Some(&one.path),
        _ => None,
    };
    let hello = session.hello();
    let time = context.now();
    let trace = Trace {
        final_delivery,
        reverse_path: &envelope.reverse_path,
        recipient,
        // After a login the client is not shown: where a user works is private.
        client: hello.filter(|_| session.login().is_none()).map(|hello| (hello.name.as_str(), connection.peer.ip())),
        hostname: &snapshot.config.hostname,
        extended: hello.is_some_and(|hello| hello.extended),
        utf8: envelope.utf8,
        authenticated: session.login().is_some() && connection.caller.is_none(),
        tls: tls.map(|tls| (tls.version, tls.cipher)),
        id,
        time: &time,
    };
    let mut out = Vec::with_capacity(2048);
    header.write(&trace, session.service().needs_login(), &mut out);
    out
}

/// A From field of exactly the caller's own address, as it is where the message leaves the machine.
struct Replaced {
    own: String,
    other: String,
    /// What stands after the colon.
    field: String,
}

fn author_elsewhere(header: &Header, scope: MessageContext<'_>) -> Option<Replaced> {
    let (caller, policy) = (scope.caller()?, &scope.snapshot.policy);
    let mut fields = header.senders().filter(|(name, _)| *name == "From");
    let (Some((_, body)), None) = (fields.next(), fields.next()) else { return None };
    let from::Author::Mailboxes(mailboxes) = from::parse(body).ok()? else { return None };
    let [one] = &mailboxes[..] else { return None };
    let other = caller.replacement(policy).filter(|_| caller.owns(&one.address))?.to_string();
    let field = caller.author_elsewhere(&one.address, body, policy)?;
    Some(Replaced { own: one.address.to_string(), other, field })
}

fn too_large(_: HeaderTooLarge) -> Refused {
    Refused::about(Refusal::HeaderTooLarge, HEADER_MAX / 1024)
}

/// What a client is told when a message can't be stored: always to come again.
pub(super) fn storage_refused(log: &SessionLog, error: StorageError) -> Refused {
    log.storage("storage", &error);
    match error {
        StorageError::DiskFull(_) => Refusal::DiskFull,
        StorageError::Quota(_) => Refusal::QuotaFull,
        StorageError::Unwritable(_) => Refusal::LocalError,
    }
    .into()
}
