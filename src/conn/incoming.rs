//! The content of one message, from the wire to a durable file.
//!
//! Whatever is wrong with it, it is read to its true end, in bounded memory: the first refusal is remembered and
//! nothing is written any more. The disk is touched only once the header section has been found acceptable.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use super::authors;
use super::context::{Context, Snapshot};
use crate::mail::durable::{Draft, StorageError};
use crate::mail::maildir;
use crate::mail::message::{HEADER_MAX, Header, HeaderReader, HeaderTooLarge, RECEIVED_MAX};
use crate::mail::trace::Trace;
use crate::net::tls::TlsInfo;
use crate::policy::{Destination, LocalMailbox};
use crate::smtp::address::ForwardPath;
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
    boxes: Vec<(String, PathBuf)>,
    draft: Option<Draft>,
    refused: Option<Refused>,
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
    /// Where the client is.
    pub client: std::net::IpAddr,
}

/// A message that is durable.
#[derive(Debug)]
pub struct Stored {
    /// The message's id.
    pub id: String,
    /// Each mailbox with the file in it.
    pub files: Vec<(String, PathBuf)>,
    /// Octets of the file.
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
            boxes: Vec::new(),
            draft: None,
            refused: None,
            text: buffer,
        }
    }

    /// Takes input; gives how much of it was content, and whether the lone dot has gone by.
    pub fn feed(&mut self, input: &[u8], around: MessageContext<'_>) -> (usize, bool) {
        let fed = self.decoder.feed(input, &mut self.text);
        let limit = around.snapshot.config.limits.message_size;
        if self.decoder.octets() > limit {
            self.refuse(Refused::about(Refusal::MessageTooLarge, limit));
        } else if self.refused.is_none()
            && let Err(refused) = self.take(around)
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

    /// The content is complete: makes it durable in every mailbox. Gives back the memory that was lent.
    pub fn finish(mut self, around: MessageContext<'_>) -> (Result<Stored, Refused>, Vec<u8>) {
        let stored = self.store(around);
        (stored, self.text)
    }

    fn store(&mut self, around: MessageContext<'_>) -> Result<Stored, Refused> {
        if let Some(refused) = self.refusal(true) {
            return Err(refused);
        }
        if let Some(reader) = self.header.take() {
            self.begin_file(reader.end(), 0, around)?;
        }
        self.write()?;
        let draft = self.draft.take().ok_or(Refusal::Internal)?;
        let octets = draft.octets();
        let (mailboxes, paths): (Vec<String>, Vec<PathBuf>) = self.boxes.drain(..).unzip();
        let files = around.context.store.commit(draft, &paths).map_err(storage_refused)?;
        Ok(Stored { id: self.id.clone(), files: mailboxes.into_iter().zip(files).collect(), octets, begun: self.begun })
    }

    fn refuse(&mut self, refused: Refused) {
        self.refused.get_or_insert(refused);
        self.draft = None;
        self.header = None;
    }

    /// Looks at the text while it is header, and writes it once there is enough.
    fn take(&mut self, around: MessageContext<'_>) -> Result<(), Refused> {
        if let Some(reader) = &mut self.header {
            match reader.push(&self.text).map_err(too_large)? {
                None => self.text.clear(),
                Some((header, used)) => {
                    self.header = None;
                    self.begin_file(header, used, around)?;
                }
            }
        }
        if self.text.len() >= WRITE_SIZE { self.write() } else { Ok(()) }
    }

    /// The header section is whole: may the message be accepted, and where does it go?
    /// Its last `used` octets stand in the text, where the whole header as it is to be written takes their place.
    fn begin_file(&mut self, mut header: Header, used: usize, around: MessageContext<'_>) -> Result<(), Refused> {
        let MessageContext { context, snapshot, session, .. } = around;
        let envelope = session.envelope().ok_or(Refusal::Internal)?;
        if header.loops() {
            return Err(Refused::about(Refusal::Loop, RECEIVED_MAX));
        }
        if let Some(login) = session.login() {
            authors::check(&mut header, login, &snapshot.policy)?;
        }
        self.boxes = mailboxes(envelope, snapshot, session.service().needs_login())?;
        let (_, first) = self.boxes.first().ok_or(Refusal::NoRecipients)?;
        let draft = context.store.begin(first).map_err(storage_refused)?;
        self.draft = Some(draft);
        let mut top = Vec::with_capacity(2048);
        write_header(&header, envelope, &self.id, around, &mut top);
        self.text.splice(..used, top);
        Ok(())
    }

    fn write(&mut self) -> Result<(), Refused> {
        let draft = self.draft.as_mut().ok_or(Refusal::Internal)?;
        draft.write_all(&self.text).map_err(|error| storage_refused(error.into()))?;
        self.text.clear();
        Ok(())
    }
}

/// Where mail for a recipient goes. There is no spool yet: this is the one place that refuses what it would take.
pub fn destinations(snapshot: &Snapshot, submitted: bool, path: &ForwardPath) -> Result<Vec<LocalMailbox>, Refused> {
    let local = |to| match to {
        Destination::Mailbox(mailbox) => Ok(mailbox),
        Destination::Remote(address) => Err(Refused::about(Refusal::Relay, address)),
    };
    snapshot.policy.recipient(submitted, path)?.into_iter().map(local).collect()
}

/// Every mailbox that the recipients lead to, each once, with its Maildir or the folder within it.
fn mailboxes(envelope: &Envelope, snapshot: &Snapshot, submitted: bool) -> Result<Vec<(String, PathBuf)>, Refused> {
    let mut boxes: Vec<(String, PathBuf)> = Vec::new();
    let mut known: HashSet<PathBuf> = HashSet::new();
    for recipient in &envelope.recipients {
        for to in destinations(snapshot, submitted, &recipient.path)? {
            let inbox = snapshot.config.maildir.of(&to.mailbox);
            let folder = to.tag.and_then(|tag| maildir::folder(&inbox, &tag)).unwrap_or(inbox);
            if known.insert(folder.clone()) {
                boxes.push((to.mailbox, folder));
            }
        }
    }
    Ok(boxes)
}

fn write_header(header: &Header, envelope: &Envelope, id: &str, around: MessageContext<'_>, out: &mut Vec<u8>) {
    let MessageContext { context, snapshot, session, tls, client } = around;
    let reverse_path = envelope.reverse_path.to_string();
    let recipient = match &envelope.recipients[..] {
        [one] => Some(one.path.to_string()),
        _ => None,
    };
    let hello = session.hello();
    let time = context.now();
    let trace = Trace {
        reverse_path: &reverse_path,
        recipient: recipient.as_deref(),
        // Behind a login, where somebody sits is nobody's business.
        client: hello.filter(|_| session.login().is_none()).map(|hello| (hello.name.as_str(), client)),
        hostname: &snapshot.config.hostname,
        extended: hello.is_some_and(|hello| hello.extended),
        utf8: envelope.utf8,
        authenticated: session.login().is_some(),
        tls: tls.map(|tls| (tls.version, tls.cipher)),
        id,
        time: &time,
    };
    header.write(&trace, session.service().needs_login(), out);
}

fn too_large(_: HeaderTooLarge) -> Refused {
    Refused::about(Refusal::HeaderTooLarge, HEADER_MAX / 1024)
}

/// What a client is told when a message can't be stored: always to come again.
pub(super) fn storage_refused(error: StorageError) -> Refused {
    crate::journal::notice("storage", &error);
    match error {
        StorageError::DiskFull(_) => Refusal::DiskFull,
        StorageError::Quota(_) => Refusal::QuotaFull,
        StorageError::Unwritable(_) => Refusal::LocalError,
    }
    .into()
}
