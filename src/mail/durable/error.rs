//! Why a message could not be made durable.

use std::fmt::{self, Display};
use std::io;
use std::path::Path;

use nix::errno::Errno;

/// Why a message could not be made durable. The same message may well be stored later.
#[derive(Debug)]
pub enum StorageError {
    /// No space or no inode is left on the file system (ENOSPC).
    DiskFull(io::Error),
    /// The owner of the files has used up its quota (EDQUOT).
    Quota(io::Error),
    /// Anything else.
    Unwritable(io::Error),
}

impl StorageError {
    /// The same, naming what could not be written.
    pub fn at(self, path: &Path) -> Self {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match self {
            Self::DiskFull(error) => Self::DiskFull(named(error)),
            Self::Quota(error) => Self::Quota(named(error)),
            Self::Unwritable(error) => Self::Unwritable(named(error)),
        }
    }
}

impl From<io::Error> for StorageError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC) => Self::DiskFull(error),
            Some(Errno::EDQUOT) => Self::Quota(error),
            _ => Self::Unwritable(error),
        }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::DiskFull(error) | StorageError::Quota(error) | StorageError::Unwritable(error) => error,
        }
    }
}

impl Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskFull(error) | Self::Quota(error) | Self::Unwritable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StorageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::DiskFull(error) | Self::Quota(error) | Self::Unwritable(error) => Some(error),
        }
    }
}
