//! A message on its way into the spool.

use std::io::{self, Write};
use std::sync::Arc;

use nix::errno::Errno;

use super::envelope::Envelope;
use super::message::{FIRST_LINE, Signature, TextPlace};
use super::{Spool, lock, too_large};
use crate::mail::durable::{self, Link, StorageError};
use crate::queue::QueueId;

/// A message that is being written. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    spool: Arc<Spool>,
    file: durable::Draft,
    id: QueueId,
    place: TextPlace,
    signatures: Vec<Signature>,
}

/// A message that is durable. Unless it is kept, it is taken back.
#[derive(Debug)]
pub struct Committed {
    /// Its id.
    pub id: QueueId,
    /// Octets of its text.
    pub octets: u64,
    link: Link,
}

impl Draft {
    pub(super) fn begin(spool: &Arc<Spool>, envelope: &Envelope) -> Result<Self, StorageError> {
        let id = spool.ids.fresh();
        let file = spool.durable.create(&spool.queue, || (spool.path.join("tmp"), id.to_string()))?;
        let text = envelope.render();
        let place = TextPlace { envelope: (FIRST_LINE + text.len()) as u64, octets: 0, lines: 0 };
        let mut draft = Self { spool: Arc::clone(spool), file, id, place, signatures: Vec::new() };
        // In its place until the numbers are known.
        let first = place.render().ok_or_else(too_large)?;
        draft.file.write_all(first.as_bytes())?;
        draft.file.write_all(text.as_bytes())?;
        Ok(draft)
    }

    /// The id that it will have.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Adds a signature, which is sent before the text.
    pub fn sign(&mut self, signature: Signature) {
        self.signatures.push(signature);
    }

    /// Makes the message durable: it is complete, and in `queue/`.
    pub fn commit(mut self) -> Result<Committed, StorageError> {
        for signature in &self.signatures {
            self.file.write_all(format!("\n{}", signature.render()).as_bytes())?;
        }
        let first = self.place.render().ok_or_else(too_large)?;
        self.file.overwrite(0, first.as_bytes())?;
        let Self { spool, file, id, place, .. } = self;
        spool.durable.sync_file(&file)?;
        spool.durable.before_link()?;
        let link = spool.durable.link(&file, &spool.queue, &id.to_string());
        let link = match link {
            // No hard links here: the draft itself is moved.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) if file.has_name() => {
                spool.durable.rename(file, &spool.queue, &id.to_string())
            }
            other => other,
        };
        let link = link.map_err(io::Error::from)?;
        let unlinked = std::mem::take(&mut lock(&spool.unsynced).unlinked_in_queue);
        let synced = spool.durable.sync_names(&spool.queue);
        // That fsync was one for what had been unlinked there, too.
        lock(&spool.unsynced).unlinked_in_queue |= unlinked && synced.is_err();
        synced?;
        Ok(Committed { id, octets: place.octets, link })
    }
}

impl Write for Draft {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let written = self.file.write(text)?;
        self.place.octets += written as u64;
        self.place.lines += memchr::memchr_iter(b'\n', &text[..written]).count() as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Committed {
    /// Keeps the message for good.
    pub fn keep(self) -> QueueId {
        self.link.keep();
        self.id
    }
}
