//! What can be wrong with a spool, or with a message in it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use super::message::Damaged;
use crate::mail::durable::StorageError;
use crate::queue::QueueId;

/// Why a spool, or a message in it, cannot be used.
#[derive(Debug)]
pub enum SpoolError {
    /// The file is no queued message.
    Damaged(Damaged),
    /// Another process has the spool.
    Locked(PathBuf),
    /// There is no such message.
    Missing(QueueId),
    /// The disk.
    Storage(StorageError),
}

impl From<io::Error> for SpoolError {
    fn from(error: io::Error) -> Self {
        Self::Storage(error.into())
    }
}

impl From<Errno> for SpoolError {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<Damaged> for SpoolError {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged)
    }
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(why) => write!(f, "damaged: {why}"),
            Self::Locked(path) => write!(f, "{}: another server uses this spool; stop it, or set outgoing.spool", path.display()),
            Self::Missing(id) => write!(f, "no message {id}"),
            Self::Storage(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SpoolError {}

pub(super) fn missing(id: QueueId, errno: Errno) -> SpoolError {
    if errno == Errno::ENOENT { SpoolError::Missing(id) } else { errno.into() }
}
