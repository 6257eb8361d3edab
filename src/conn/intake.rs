//! The content of one message, from the wire to a durable file.
//!
//! Whatever is wrong with it, it is read to its true end, in bounded memory: the first refusal is remembered and
//! nothing is written any more. The disk is touched only once the header section has been found acceptable.

use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::Instant;

use super::house::{House, Settings};
use crate::mail::maildir::{self, Draft};
use crate::mail::message::{From, Header, HeaderReader, Trace};
use crate::net::tls::TlsInfo;
use crate::smtp::data::{Decoder, Framing};
use crate::smtp::reply::{Refusal, Refused};
use crate::smtp::session::{Envelope, Session};

/// A message that is coming in.
#[derive(Debug)]
pub struct Intake {
    id: String,
    begun: Instant,
    decoder: Decoder,
    header: Option<HeaderReader>,
    boxes: Vec<(String, PathBuf)>,
    draft: Option<BufWriter<Draft>>,
    refused: Option<Refused>,
    lines: Vec<u8>,
}

/// What an intake asks about; lives as long as a call.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// What all sessions share.
    pub house: &'a House,
    /// The settings of this session.
    pub settings: &'a Settings,
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
const WRITE_SIZE: usize = 32 * 1024;

impl Intake {
    /// Before the first octet of content.
    pub fn new(id: String, framing: Framing) -> Self {
        Self {
            id,
            begun: Instant::now(),
            decoder: Decoder::new(framing),
            header: Some(HeaderReader::default()),
            boxes: Vec::new(),
            draft: None,
            refused: None,
            lines: Vec::new(),
        }
    }

    /// Takes input; gives how much of it was content, and whether the lone dot has gone by.
    pub fn feed(&mut self, input: &[u8], around: Circumstances<'_>) -> (usize, bool) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.clear();
        let fed = self.decoder.feed(input, &mut lines);
        let limit = around.settings.config.limits.message_size;
        if self.decoder.octets() > limit {
            self.refuse(Refused::about(Refusal::MessageTooLarge, limit));
        }
        if self.refused.is_none()
            && let Err(refused) = self.take(&lines, around)
        {
            self.refuse(refused);
        }
        self.lines = lines;
        (fed.used, fed.ended)
    }

    /// What is wrong so far, for a chunk's reply.
    pub fn refusal(&mut self, last: bool) -> Option<Refused> {
        let fault = if last { self.decoder.finish() } else { self.decoder.fault() };
        fault.map(|fault| Refused::about(Refusal::BadOctet, fault)).or_else(|| self.refused.clone())
    }

    /// The content is complete: makes it durable in every mailbox.
    pub fn finish(mut self, around: Circumstances<'_>) -> Result<Stored, Refused> {
        if let Some(refused) = self.refusal(true) {
            return Err(refused);
        }
        if let Some(reader) = self.header.take() {
            self.begin_file(reader.end(), around)?;
        }
        let writer = self.draft.take().ok_or(Refusal::Internal)?;
        let draft = writer.into_inner().map_err(|error| maildir::refusal(error.error()))?;
        let octets = draft.octets();
        let paths: Vec<PathBuf> = self.boxes.iter().map(|(_, path)| path.clone()).collect();
        let files = around.house.store.commit(draft, &paths).map_err(|error| storage_refused(&error))?;
        let mailboxes = self.boxes.into_iter().map(|(mailbox, _)| mailbox);
        Ok(Stored { id: self.id, files: mailboxes.zip(files).collect(), octets, begun: self.begun })
    }

    fn refuse(&mut self, refused: Refused) {
        self.refused.get_or_insert(refused);
        self.draft = None;
        self.header = None;
    }

    fn take(&mut self, lines: &[u8], around: Circumstances<'_>) -> Result<(), Refused> {
        let Some(reader) = &mut self.header else {
            return self.write(lines);
        };
        match reader.push(lines)? {
            None => Ok(()),
            Some((header, used)) => {
                self.header = None;
                self.begin_file(header, around)?;
                self.write(&lines[used..])
            }
        }
    }

    /// The header section is whole: may the message be accepted, and where does it go?
    fn begin_file(&mut self, header: Header, around: Circumstances<'_>) -> Result<(), Refused> {
        let Circumstances { house, settings, session, .. } = around;
        let envelope = session.envelope().ok_or(Refusal::Internal)?;
        if header.loops() {
            return Err(Refusal::Loop.into());
        }
        if let Some(login) = session.login() {
            match header.from() {
                From::Unreadable => return Err(Refusal::HeaderFromUnreadable.into()),
                From::Addresses(list) => list.iter().try_for_each(|one| settings.policy.header_from(login, one))?,
            }
        }
        self.boxes = mailboxes(envelope, settings, session.service().needs_login())?;
        let (_, first) = self.boxes.first().ok_or(Refusal::NoRecipients)?;
        let draft = house.store.begin(first).map_err(|error| storage_refused(&error))?;
        self.draft = Some(BufWriter::with_capacity(WRITE_SIZE, draft));
        let mut top = Vec::with_capacity(1024);
        write_header(&header, envelope, &self.id, around, &mut top);
        self.write(&top)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), Refused> {
        let draft = self.draft.as_mut().ok_or(Refusal::Internal)?;
        draft.write_all(data).map_err(|error| storage_refused(&error))
    }
}

/// Every mailbox that the recipients lead to, each once, with its Maildir or the folder within it.
fn mailboxes(envelope: &Envelope, settings: &Settings, submitted: bool) -> Result<Vec<(String, PathBuf)>, Refused> {
    let mut boxes: Vec<(String, PathBuf)> = Vec::new();
    for path in &envelope.recipients {
        for to in settings.policy.recipient(submitted, path)? {
            let inbox = settings.config.maildir.of(&to.mailbox);
            let folder = to.tag.and_then(|tag| maildir::folder(&inbox, &tag)).unwrap_or(inbox);
            if !boxes.iter().any(|(_, known)| *known == folder) {
                boxes.push((to.mailbox, folder));
            }
        }
    }
    Ok(boxes)
}

fn write_header(header: &Header, envelope: &Envelope, id: &str, around: Circumstances<'_>, out: &mut Vec<u8>) {
    let Circumstances { house, settings, session, tls, client } = around;
    let reverse_path = envelope.reverse_path.to_string();
    let recipient = match &envelope.recipients[..] {
        [one] => Some(one.to_string()),
        _ => None,
    };
    let hello = session.hello();
    let time = house.now();
    let trace = Trace {
        reverse_path: &reverse_path,
        recipient: recipient.as_deref(),
        // Behind a login, where somebody sits is nobody's business.
        client: hello.filter(|_| session.login().is_none()).map(|hello| (hello.name.as_str(), client)),
        hostname: &settings.config.hostname,
        extended: hello.is_some_and(|hello| hello.extended),
        utf8: envelope.utf8,
        authenticated: session.login().is_some(),
        tls: tls.map(|tls| (tls.version, tls.cipher)),
        id,
        time: &time,
    };
    header.write(&trace, session.service().needs_login(), out);
}

fn storage_refused(error: &std::io::Error) -> Refused {
    crate::journal::notice("storage", error);
    maildir::refusal(error).into()
}
