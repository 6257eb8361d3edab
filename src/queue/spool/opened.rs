//! A message's file that is open: read, its text read, and records appended by one descriptor.
//!
//! A courier opens a message once for all of a delivery. What opening anew would find is found here as well: a file that was
//! unlinked meanwhile takes no record, so that its message is not sent.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::message::FIRST_LINE;
use super::{Damaged, QueuedMessage, RECORD_MAX, Record, Spool, SpoolError, TextPlace, too_large};
use crate::queue::QueueId;

/// Octets of signatures and records, at most: five days of attempts for a thousand recipients that are all told something
/// else take less than half of it.
const RECORDS_MAX: u64 = 64 * 1024 * 1024;

/// See the module's description.
#[derive(Debug)]
pub struct Opened {
    spool: Arc<Spool>,
    id: QueueId,
    file: Arc<File>,
}

/// Reads the text of a message, exactly that.
#[derive(Debug)]
pub struct TextReader {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Spool {
    /// Opens a message to be sent.
    pub fn open_to_send(self: &Arc<Self>, id: QueueId) -> Result<Opened, SpoolError> {
        let file = self.file(id, OFlag::O_RDWR | OFlag::O_APPEND)?;
        Ok(Opened { spool: Arc::clone(self), id, file: Arc::new(file) })
    }

    /// Reads a message without its text.
    pub fn read(&self, id: QueueId) -> Result<QueuedMessage, SpoolError> {
        read(&self.file(id, OFlag::O_RDONLY)?)
    }

    /// Opens the text of a message.
    pub fn open_message(&self, id: QueueId) -> Result<TextReader, SpoolError> {
        text(Arc::new(self.file(id, OFlag::O_RDONLY)?))
    }

    /// Appends a record to an open file, in one write: a second one for the rest could come after another record.
    pub(super) fn write_to(&self, id: QueueId, mut file: &File, record: &Record) -> Result<(), SpoolError> {
        let text = record.render();
        debug_assert!(text.len() <= RECORD_MAX, "{text}");
        self.durable.before_write()?;
        if file.metadata()?.nlink() == 0 {
            return Err(SpoolError::Missing(id));
        }
        match file.write(text.as_bytes())? {
            written if written == text.len() => Ok(()),
            _ => Err(io::Error::from(Errno::ENOSPC).into()),
        }
    }
}

impl Opened {
    /// Reads the message without its text.
    pub fn read(&self) -> Result<QueuedMessage, SpoolError> {
        read(&self.file)
    }

    /// The text of the message.
    pub fn text(&self) -> Result<TextReader, SpoolError> {
        text(Arc::clone(&self.file))
    }

    /// As [`Spool::append`].
    pub fn append(&self, record: &Record) -> Result<(), SpoolError> {
        self.spool.append_to(self.id, &self.file, record)
    }

    /// As [`Spool::append_durably`].
    pub fn append_durably(&self, record: &Record) -> Result<(), SpoolError> {
        self.spool.write_to(self.id, &self.file, record)?;
        Ok(self.file.sync_data()?)
    }
}

impl Read for TextReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        if read == 0 && wanted > 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

fn read(file: &File) -> Result<QueuedMessage, SpoolError> {
    let (place, size) = first_line(file)?;
    let mut before = vec![0; usize::try_from(place.envelope).map_err(|_| too_large())?];
    file.read_exact_at(&mut before, 0)?;
    let end = place.envelope + place.octets;
    // A file of a size that it can't have been given by records: memory for it would end the process.
    if size - end > RECORDS_MAX {
        return Err(Damaged(format!("{} octets after the message are no records", size - end)).into());
    }
    let mut after = vec![0; usize::try_from(size - end).map_err(|_| too_large())?];
    file.read_exact_at(&mut after, end)?;
    Ok(QueuedMessage::parse(place, &before, &after)?)
}

fn text(file: Arc<File>) -> Result<TextReader, SpoolError> {
    let (place, _) = first_line(&file)?;
    Ok(TextReader { file, at: place.envelope, left: place.octets })
}

fn first_line(file: &File) -> Result<(TextPlace, u64), SpoolError> {
    let data = file.metadata()?;
    if !data.is_file() {
        return Err(Damaged("it is no file".into()).into());
    }
    let mut line = [0; FIRST_LINE];
    if data.len() < line.len() as u64 {
        return Err(Damaged(format!("{} octets are no queued message", data.len())).into());
    }
    file.read_exact_at(&mut line, 0)?;
    Ok((TextPlace::parse(&line, data.len())?, data.len()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::Happened;
    use super::super::tests::{at, begin, envelope, put, spool, text};
    use super::*;

    /// By damage to the file system, or by hand: it is named and held like any other damage.
    #[test]
    fn a_file_that_is_larger_than_memory_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path());
        let id = put(&spool, &envelope(&["bob@b.example"]), "x\n").unwrap();
        let file = fs::OpenOptions::new().write(true).open(dir.path().join("queue").join(id.to_string())).unwrap();
        let octets = file.metadata().unwrap().len();
        file.set_len(octets + RECORDS_MAX).unwrap();
        assert!(spool.read(id).is_ok());
        file.set_len(octets + RECORDS_MAX + 1).unwrap();
        let error = spool.read(id).unwrap_err();
        assert!(matches!(error, SpoolError::Damaged(_)) && error.to_string().contains("67108865 octets"), "{error}");
    }

    /// By one descriptor a delivery reads and writes what others would by their own; what was unlinked meanwhile takes no record.
    #[test]
    fn a_message_that_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path());
        let id = put(&spool, &envelope(&["bob@b.example"]), "Subject: x\n\nbody\n").unwrap();
        let file = spool.open_to_send(id).unwrap();
        file.append(&begin(&[0])).unwrap();
        file.append_durably(&at(Happened::Dot { recipients: vec![0] })).unwrap();
        assert!(!spool.needs_sweep());
        file.append(&at(Happened::Dot { recipients: vec![0] })).unwrap();
        assert!(spool.needs_sweep());
        let message = file.read().unwrap();
        assert_eq!((message.log.len(), &message), (3, &spool.read(id).unwrap()));
        let mut own = String::new();
        file.text().unwrap().read_to_string(&mut own).unwrap();
        assert_eq!(own, text(&spool, id));
        // Held meanwhile: it is the same file.
        spool.hold(id, None).unwrap();
        file.append(&begin(&[0])).unwrap();
        assert_eq!(spool.read(id).unwrap().log.len(), 4);
        spool.remove(id).unwrap();
        assert!(matches!(file.append(&begin(&[0])), Err(SpoolError::Missing(_))));
        assert!(matches!(file.append_durably(&begin(&[0])), Err(SpoolError::Missing(_))));
        assert!(matches!(spool.open_to_send(id), Err(SpoolError::Missing(_))));
        // Neither through a symbolic link, nor what is no file.
        let [link, directory] = [1, 2].map(QueueId::from_bits);
        let place = |id: QueueId| dir.path().join("queue").join(id.to_string());
        symlink(dir.path().join("lock"), place(link)).unwrap();
        fs::create_dir(place(directory)).unwrap();
        for id in [link, directory] {
            assert!(matches!(spool.open_to_send(id).and_then(|file| file.read()), Err(SpoolError::Damaged(_))), "{id}");
        }
    }
}
