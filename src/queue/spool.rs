//! The spool: one file a message that is to be sent on, written once, then appended to until every recipient is settled.
//!
//! When [`Draft::commit`] returns `Ok`, every octet and every recipient is on the disk and survives a power cut. What
//! happens later is appended as records; a record that was cut short is ignored. The place of a file says whether the message
//! waits for a person (`held/`) or is sent (`queue/`), its time stamp when it is tried next; its records are the truth. A
//! file that cannot be understood goes to `held/` and stays there. One process has a spool at a time.

mod draft;
mod envelope;
mod error;
mod ids;
mod message;
mod opened;
mod record;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, UtimensatFlags, fstatat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, syncfs, unlinkat};

use super::QueueId;
use crate::mail::durable::{Directory, Durable, Faults, StorageError, make_directory};

pub use draft::{Committed, Draft};
pub use envelope::{Envelope, QueuedRecipient};
pub use error::SpoolError;
use error::missing;
use ids::Ids;
pub use ids::arrived;
pub use message::{Damaged, QueuedMessage, Signature, State, TextPlace};
pub use opened::{Opened, TextReader};
pub use record::{DOWNGRADED, Happened, RECORD_MAX, Record, Told, Verdict};

/// How long a record or an unlink may stay undurable at most, if [`Spool::sweep`] is called as often.
pub const SWEEP: std::time::Duration = std::time::Duration::from_millis(200);
/// Files that are made durable one by one; more of them at once, with all of their file system.
const SYNC_MAX: usize = 4;

/// The spool of this process.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    queue: Arc<Directory>,
    held: Arc<Directory>,
    durable: Durable,
    ids: Ids,
    unsynced: Mutex<Unsynced>,
    _lock: Flock<File>,
}

/// What is not durable yet.
#[derive(Debug, Default)]
struct Unsynced {
    /// Of files with a record that a power cut must not undo.
    records: HashSet<QueueId>,
    /// Of those the ones that [`Spool::sweep_older`] has seen once.
    older: HashSet<QueueId>,
    unlinked_in_queue: bool,
    unlinked_in_held: bool,
}

/// A file as its directory shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its id.
    pub id: QueueId,
    /// It is in `held/`.
    pub held: bool,
    /// Seconds since 1970 of the next attempt.
    pub due: u64,
    /// Octets of the file.
    pub octets: u64,
}

impl Spool {
    /// Makes the spool where it is missing, takes its lock, empties `tmp/`, and gives what is there, oldest first, with what
    /// is in it under a name that is no id.
    pub fn open(path: &Path, faults: Faults) -> Result<(Self, Vec<Found>, Vec<PathBuf>), SpoolError> {
        Self::over(path, Durable::new(faults), true)
    }

    /// The same without times and octets, which are 0: [`Self::find`] has them. With a hundred thousand files it takes a
    /// tenth of the time.
    pub fn open_names(path: &Path, faults: Faults) -> Result<(Self, Vec<Found>, Vec<PathBuf>), SpoolError> {
        Self::over(path, Durable::new(faults), false)
    }

    fn over(path: &Path, durable: Durable, details: bool) -> Result<(Self, Vec<Found>, Vec<PathBuf>), SpoolError> {
        make_directory(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        let lock = options.open(path.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => SpoolError::Locked(path.to_owned()),
            errno => errno.into(),
        })?;
        let make = || ["tmp", "held", "queue"].iter().try_for_each(|part| make_directory(&path.join(part)));
        let queue = durable.open(&path.join("queue"), make)?;
        let held = durable.open(&path.join("held"), || Ok(()))?;
        let mut strange = Vec::new();
        for left in fs::read_dir(path.join("tmp"))? {
            let left = left?;
            match left.file_type()?.is_dir() {
                true => strange.push(left.path()),
                false => fs::remove_file(left.path())?,
            }
        }
        let spool =
            Self { path: path.to_owned(), queue, held, durable, ids: Ids::default(), unsynced: Mutex::default(), _lock: lock };
        let mut found = Vec::new();
        for directory in [&spool.queue, &spool.held] {
            spool.scan(directory, details, &mut found, &mut strange)?;
        }
        // A power cut in the middle of a move leaves it in both: a person decides.
        found.sort_unstable_by_key(|file| (file.id, !file.held));
        for both in found.windows(2).filter(|two| two[0].id == two[1].id) {
            unlinkat(spool.queue.file(), both[0].id.to_string().as_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        found.dedup_by_key(|file| file.id);
        if let Some(last) = found.last() {
            spool.ids.seen(last.id);
        }
        Ok((spool, found, strange))
    }

    fn scan(
        &self,
        directory: &Arc<Directory>,
        details: bool,
        found: &mut Vec<Found>,
        strange: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        let held = Arc::ptr_eq(directory, &self.held);
        for entry in fs::read_dir(directory.path())? {
            let entry = entry?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            match id {
                // Of the entry itself, not of what a symbolic link leads to.
                Some(id) if entry.file_type()?.is_file() => {
                    let data = details.then(|| entry.metadata()).transpose()?;
                    let due = data.as_ref().and_then(|data| u64::try_from(data.mtime()).ok()).unwrap_or_default();
                    found.push(Found { id, held, due, octets: data.map_or(0, |data| data.size()) });
                }
                _ => strange.push(entry.path()),
            }
        }
        Ok(())
    }

    /// What the directory tells of a message.
    pub fn find(&self, id: QueueId) -> Result<Found, SpoolError> {
        let name = id.to_string();
        let look = |directory: &Directory| fstatat(directory.file(), name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let (held, data) = self.in_either(look).map_err(|errno| missing(id, errno))?;
        let number = |number| u64::try_from(number).unwrap_or_default();
        Ok(Found { id, held, due: number(data.st_mtime), octets: number(data.st_size) })
    }

    /// What is in `held/`, in no order.
    pub fn held(&self) -> io::Result<Vec<QueueId>> {
        let names = fs::read_dir(self.held.path())?.flatten().map(|entry| entry.file_name());
        Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// Where the spool is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its file system can take a message of so many octets now.
    pub fn check_space(&self, octets: u64) -> Result<(), StorageError> {
        self.durable.check_space(&self.path, octets, false)
    }

    /// Begins a message with this envelope; its text is written to the draft, with LF line ends.
    pub fn begin(self: &Arc<Self>, envelope: &Envelope) -> Result<Draft, StorageError> {
        Draft::begin(self, envelope)
    }

    /// Appends a record. That of a failure is durable when this returns, any other within [`SWEEP`].
    pub fn append(&self, id: QueueId, record: &Record) -> Result<(), SpoolError> {
        self.append_to(id, &self.file_to_append(id)?, record)
    }

    /// Appends a record that is durable when this returns.
    pub fn append_durably(&self, id: QueueId, record: &Record) -> Result<(), SpoolError> {
        let file = self.file_to_append(id)?;
        self.write_to(id, &file, record)?;
        Ok(file.sync_data()?)
    }

    fn append_to(&self, id: QueueId, file: &File, record: &Record) -> Result<(), SpoolError> {
        self.write_to(id, file, record)?;
        match record.what {
            Happened::Result { verdict: Verdict::Failed, .. } => file.sync_data()?,
            // That an attempt began is nothing to a power cut: without a dot nothing can have arrived.
            Happened::Begin { .. } => {}
            _ => drop(lock(&self.unsynced).records.insert(id)),
        }
        Ok(())
    }

    fn file_to_append(&self, id: QueueId) -> Result<File, SpoolError> {
        self.file(id, OFlag::O_WRONLY | OFlag::O_APPEND)
    }

    /// Sets when a message is tried next, in seconds since 1970. Any record sets it to now, so this comes after them.
    pub fn set_due(&self, id: QueueId, due: u64) -> Result<(), SpoolError> {
        let due = TimeSpec::new(i64::try_from(due).unwrap_or(i64::MAX), 0);
        let set = |directory: &Directory| {
            utimensat(directory.file(), id.to_string().as_str(), &TimeSpec::UTIME_OMIT, &due, UtimensatFlags::NoFollowSymlink)
        };
        self.in_either(set).map(drop).map_err(|errno| missing(id, errno))
    }

    /// Moves a message to `held/`, durably, with a record of the word for why. A file that is damaged is moved alone.
    pub fn hold(&self, id: QueueId, record: Option<&Record>) -> Result<(), SpoolError> {
        if let Some(record) = record {
            self.append_durably(id, record)?;
        }
        self.move_to(id, &self.queue, &self.held)
    }

    /// Moves a message back to `queue/`, durably, with a record of its release.
    pub fn release(&self, id: QueueId, record: &Record) -> Result<(), SpoolError> {
        self.append_durably(id, record)?;
        self.move_to(id, &self.held, &self.queue)
    }

    /// Links, then unlinks: each directory may be made durable by another thread at any moment, and between the two the
    /// message must be in both, not in neither.
    fn move_to(&self, id: QueueId, from: &Directory, to: &Directory) -> Result<(), SpoolError> {
        let name = id.to_string();
        match linkat(from.file(), name.as_str(), to.file(), name.as_str(), AtFlags::empty()) {
            // It is there already, from a move that was interrupted or altogether.
            Err(Errno::EEXIST) => {}
            Err(Errno::ENOENT) if self.file(id, OFlag::O_PATH).is_ok() => return Ok(()),
            // No hard links here.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                renameat2(from.file(), name.as_str(), to.file(), name.as_str(), RenameFlags::RENAME_NOREPLACE)?;
                self.durable.sync_names(to)?;
                return Ok(self.durable.sync_names(from)?);
            }
            other => other.map_err(|errno| missing(id, errno))?,
        }
        self.durable.sync_names(to)?;
        match unlinkat(from.file(), name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => {}
            other => other?,
        }
        Ok(self.durable.sync_names(from)?)
    }

    /// Unlinks a message; durable within [`SWEEP`].
    pub fn remove(&self, id: QueueId) -> Result<(), SpoolError> {
        let unlink = |directory: &Directory| unlinkat(directory.file(), id.to_string().as_str(), UnlinkatFlags::NoRemoveDir);
        let is_held = match unlink(&self.queue) {
            Err(Errno::ENOENT) => unlink(&self.held).map(|()| true).map_err(|errno| missing(id, errno))?,
            other => other.map(|()| false)?,
        };
        let mut unsynced = lock(&self.unsynced);
        unsynced.records.remove(&id);
        unsynced.older.remove(&id);
        unsynced.unlinked_in_held |= is_held;
        unsynced.unlinked_in_queue |= !is_held;
        Ok(())
    }

    /// True if [`Self::sweep`] has something to do.
    pub fn needs_sweep(&self) -> bool {
        let unsynced = lock(&self.unsynced);
        unsynced.unlinked_in_queue || unsynced.unlinked_in_held || !unsynced.records.is_empty() || !unsynced.older.is_empty()
    }

    /// Makes those durable that were there at the last call already, and unlinks. Called every third of [`SWEEP`], it does
    /// nothing for a message that is sent and unlinked meanwhile.
    pub fn sweep_older(&self) -> Result<(), SpoolError> {
        let mut unsynced = lock(&self.unsynced);
        let young = std::mem::take(&mut unsynced.records);
        let due = std::mem::replace(&mut unsynced.older, young);
        let taken = Unsynced {
            records: due,
            older: HashSet::new(),
            unlinked_in_queue: std::mem::take(&mut unsynced.unlinked_in_queue),
            unlinked_in_held: std::mem::take(&mut unsynced.unlinked_in_held),
        };
        drop(unsynced);
        self.sweep_taken(taken)
    }

    /// Makes records and unlinks durable that are not yet.
    pub fn sweep(&self) -> Result<(), SpoolError> {
        let mut taken = std::mem::take(&mut *lock(&self.unsynced));
        taken.records.extend(std::mem::take(&mut taken.older));
        self.sweep_taken(taken)
    }

    fn sweep_taken(&self, taken: Unsynced) -> Result<(), SpoolError> {
        let outcome = self.sweep_these(&taken);
        if outcome.is_err() {
            let mut unsynced = lock(&self.unsynced);
            unsynced.records.extend(taken.records);
            unsynced.unlinked_in_queue |= taken.unlinked_in_queue;
            unsynced.unlinked_in_held |= taken.unlinked_in_held;
        }
        outcome
    }

    fn sweep_these(&self, these: &Unsynced) -> Result<(), SpoolError> {
        if these.records.len() > SYNC_MAX {
            self.durable.before_sync()?;
            return Ok(syncfs(self.queue.file())?);
        }
        // One that cannot be written does not keep the others.
        let mut outcome = Ok(());
        for id in &these.records {
            let synced = match self.file(*id, OFlag::O_WRONLY) {
                // Settled meanwhile, or nothing that a record could have been written to.
                Err(SpoolError::Missing(_) | SpoolError::Damaged(_)) => Ok(()),
                file => file.and_then(|file| {
                    self.durable.before_sync()?;
                    Ok(file.sync_data()?)
                }),
            };
            outcome = outcome.and(synced);
        }
        if these.unlinked_in_queue {
            self.durable.sync_names(&self.queue)?;
        }
        if these.unlinked_in_held {
            self.durable.sync_names(&self.held)?;
        }
        outcome
    }

    /// Opens a file in `queue/` or `held/`, never through a symbolic link.
    fn file(&self, id: QueueId, flags: OFlag) -> Result<File, SpoolError> {
        let name = id.to_string();
        let open = |directory: &Directory| {
            openat(
                directory.file(),
                name.as_str(),
                flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK,
                Mode::empty(),
            )
        };
        match self.in_either(open) {
            Ok((_, file)) => Ok(File::from(file)),
            Err(Errno::ELOOP) => Err(Damaged("it is a symbolic link".into()).into()),
            Err(Errno::EISDIR | Errno::ENXIO) => Err(Damaged("it is no file".into()).into()),
            Err(errno) => Err(missing(id, errno)),
        }
    }

    /// What is found of a name in `queue/` or else in `held/`, with true for the latter. `queue/` comes once more after that: the
    /// message may have been moved there from `held/` between the two looks.
    fn in_either<T>(&self, mut look: impl FnMut(&Directory) -> nix::Result<T>) -> nix::Result<(bool, T)> {
        for (held, directory) in [(false, &self.queue), (true, &self.held), (false, &self.queue)] {
            match look(directory) {
                Err(Errno::ENOENT) => {}
                other => return other.map(|found| (held, found)),
            }
        }
        Err(Errno::ENOENT)
    }
}

fn too_large() -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(super) mod tests;
