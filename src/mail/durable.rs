//! Files that survive a power cut: drafts, links that never overwrite, fsyncs of directories that are shared.
//!
//! [`maildir`](super::maildir) and the spool are made of these steps, in this order:
//!
//! 1. [`DeliveryStep::Directory`]: the directory is open. It and those above it are made with mode 0700 where they are
//!    missing, and the entry of each is made durable before the first file in it is: once for a directory and process.
//! 2. [`DeliveryStep::Create`]: an unnamed file (`O_TMPFILE`), mode 0600; or a named one in `tmp/` where there is no such thing.
//! 3. [`DeliveryStep::Write`]: the content.
//! 4. [`DeliveryStep::SyncFile`]: fsync of the file.
//! 5. [`DeliveryStep::Link`]: a hard link under the final name; never over an existing name.
//! 6. [`DeliveryStep::SyncDirectory`]: fsync of the directory, shared by all that wait for the same one.
//!
//! [`DeliveryStep::Space`], a look at the free space, comes before all of these and writes nothing.
//!
//! A crash before 5 leaves nothing (an unnamed file is freed, a named one lies in `tmp/`); a crash after it leaves a whole
//! file. Directories are held open, so that what is made, linked, taken back and made durable is in one and the same
//! directory, whatever becomes of its path meanwhile.

mod directory;
mod error;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Seek as _, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::group_sync::GroupSync;
use super::space::SpaceCache;
use directory::{Identity, above};

pub use directory::{Directory, make_directory, sync_above};
pub use error::StorageError;

/// The steps that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's description lists them")]
pub enum DeliveryStep {
    Space,
    Directory,
    Create,
    Write,
    SyncFile,
    Link,
    SyncDirectory,
}

/// Asked before every step; an error is that step's. Only tests give anything but the default.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Injector>>);

type Injector = dyn Fn(DeliveryStep) -> io::Result<()> + Send + Sync;

/// Makes files durable; one for all directories of a kind in a process.
#[derive(Debug)]
pub struct Durable {
    unnamed: AtomicBool,
    /// An open file can be linked as it is (Linux 6.10), not only by its name below /proc.
    linked_as_it_is: AtomicBool,
    syncs: Mutex<HashMap<(u64, u64), Arc<GroupSync>>>,
    /// Directories whose entry, and those of all above, are durable.
    settled: Mutex<HashMap<PathBuf, Identity>>,
    space: SpaceCache,
    faults: Faults,
}

/// A file that is being written and has no final name yet. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    file: File,
    /// The directory and its name in it, if it has one.
    named: Option<(File, String)>,
    /// The directory that it was begun for.
    home: Arc<Directory>,
    octets: u64,
    faults: Faults,
}

/// A final name that is taken back unless it is kept. A reader that has moved the file away keeps it.
#[derive(Debug)]
pub struct Link {
    path: PathBuf,
    identity: Identity,
    /// The directory, while it is open.
    directory: Option<Arc<Directory>>,
    /// Empty once it is kept.
    name: String,
}

/// Directories that are remembered as durable, at most; then all are looked at anew.
const SETTLED_MAX: usize = 10_000;

impl Durable {
    /// Durable files with these faults.
    pub fn new(faults: Faults) -> Self {
        Self {
            unnamed: AtomicBool::new(Path::new("/proc/self/fd").is_dir()),
            linked_as_it_is: AtomicBool::new(true),
            syncs: Mutex::default(),
            settled: Mutex::default(),
            space: SpaceCache::default(),
            faults,
        }
    }

    /// Never makes an unnamed file, as on a file system that has none.
    pub fn without_unnamed_files(self) -> Self {
        self.unnamed.store(false, Ordering::Relaxed);
        self
    }

    /// Whether the file system of `path` can take a file of so many octets now; with `floor`, what is kept free of mail from
    /// strangers is left. [`StorageError::DiskFull`] if it can't.
    pub fn check_space(&self, path: &Path, octets: u64, floor: bool) -> Result<(), StorageError> {
        self.faults.check(DeliveryStep::Space)?;
        if self.space.has_room(path, octets, floor)? { Ok(()) } else { Err(io::Error::from(Errno::ENOSPC).into()) }
    }

    /// Opens `path`. Where it is missing, or is used for the first time by this process, `make` is called to make it and
    /// what belongs to it, and then the entries of the directory and of all above are made durable: another process, or one
    /// that ended between mkdir and fsync, may have made them.
    pub fn open(&self, path: &Path, make: impl FnOnce() -> io::Result<()>) -> io::Result<Arc<Directory>> {
        self.faults.check(DeliveryStep::Directory)?;
        match Directory::open(path) {
            Ok(directory) if self.is_settled(&directory) => return Ok(Arc::new(directory)),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => make()?,
        }
        let directory = Directory::open(path)?;
        self.settle(&directory)?;
        Ok(Arc::new(directory))
    }

    /// Makes the entries of a directory and of all above it durable, up to the mount point or to a directory that may not
    /// be read: this process has made nothing there.
    fn settle(&self, directory: &Directory) -> io::Result<()> {
        let mut settled = vec![(directory.path.clone(), directory.identity)];
        for above in above(directory) {
            let above = above?;
            self.sync_directory(&above)?;
            if self.is_settled(&above) {
                break;
            }
            settled.push((above.path, above.identity));
        }
        let mut known = lock(&self.settled);
        if known.len() + settled.len() > SETTLED_MAX {
            known.clear();
        }
        known.extend(settled);
        Ok(())
    }

    fn is_settled(&self, directory: &Directory) -> bool {
        lock(&self.settled).get(&directory.path) == Some(&directory.identity)
    }

    /// A draft on the file system of `home`: without a name, or where it needs one in the directory and with the name that `place`
    /// gives.
    pub fn create(&self, home: &Arc<Directory>, place: impl FnOnce() -> (PathBuf, String)) -> io::Result<Draft> {
        self.faults.check(DeliveryStep::Create)?;
        let draft = |file, named| Draft { file, named, home: Arc::clone(home), octets: 0, faults: self.faults.clone() };
        if self.unnamed.load(Ordering::Relaxed) {
            let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
            match openat(&home.file, ".", flags, FILE_MODE) {
                Ok(fd) => return Ok(draft(File::from(fd), None)),
                // What file systems and kernels without O_TMPFILE say (open(2)).
                Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let (tmp, name) = place();
        let tmp = Directory::open(&tmp)?.file;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(&tmp, name.as_str(), flags, FILE_MODE)?;
        Ok(draft(File::from(file), Some((tmp, name))))
    }

    /// fsync of a draft.
    pub fn sync_file(&self, draft: &Draft) -> io::Result<()> {
        self.faults.check(DeliveryStep::SyncFile)?;
        draft.file.sync_all()
    }

    /// A durable copy of a draft on the file system of `home`.
    pub fn copy(&self, draft: &Draft, home: &Arc<Directory>, place: impl FnOnce() -> (PathBuf, String)) -> io::Result<Draft> {
        let mut copy = self.create(home, place)?;
        let mut file = &draft.file;
        file.rewind()?;
        io::copy(&mut io::Read::take(file, draft.octets), &mut copy)?;
        if copy.octets != draft.octets {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.sync_file(&copy)?;
        Ok(copy)
    }

    /// Gives a draft the name `name` in `directory`. EEXIST: the name is taken. EXDEV: a copy on that file system is needed,
    /// although the device is the same (another mount of it, another project quota). EPERM, EOPNOTSUPP, ENOSYS for a
    /// draft with a name: no hard links there, [`Self::rename`] a copy.
    pub fn link(&self, draft: &Draft, directory: &Arc<Directory>, name: &str) -> nix::Result<Link> {
        match &draft.named {
            Some((tmp, named)) => linkat(tmp, named.as_str(), &directory.file, name, AtFlags::empty())?,
            None => self.link_unnamed(&draft.file, directory, name)?,
        }
        Ok(Link::new(directory, name))
    }

    fn link_unnamed(&self, file: &File, directory: &Directory, name: &str) -> nix::Result<()> {
        let as_it_is = self.linked_as_it_is.load(Ordering::Relaxed);
        if as_it_is {
            match linkat(file, "", &directory.file, name, AtFlags::AT_EMPTY_PATH) {
                // What older kernels say to a process without privileges, and all of them if the directory is gone.
                Err(Errno::ENOENT) => {}
                other => return other,
            }
        }
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        let linked = linkat(AT_FDCWD, source.as_str(), &directory.file, name, AtFlags::AT_SYMLINK_FOLLOW);
        if as_it_is && linked.is_ok() {
            self.linked_as_it_is.store(false, Ordering::Relaxed);
        }
        linked
    }

    /// Moves a draft that has a name to its final name; never over an existing one where the kernel can tell.
    pub fn rename(&self, mut draft: Draft, directory: &Arc<Directory>, name: &str) -> nix::Result<Link> {
        let (tmp, named) = draft.named.as_ref().ok_or(Errno::EOPNOTSUPP)?;
        match renameat2(tmp, named.as_str(), &directory.file, name, RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EINVAL | Errno::ENOSYS) => renameat(tmp, named.as_str(), &directory.file, name)?,
            other => other?,
        }
        draft.named = None;
        Ok(Link::new(directory, name))
    }

    /// The fault of the step [`DeliveryStep::Link`], for callers that try several names.
    pub fn before_link(&self) -> io::Result<()> {
        self.faults.check(DeliveryStep::Link)
    }

    /// The fault of the step [`DeliveryStep::Write`], for callers that write otherwise than by a draft.
    pub fn before_write(&self) -> io::Result<()> {
        self.faults.check(DeliveryStep::Write)
    }

    /// The fault of the step [`DeliveryStep::SyncFile`], for callers that sync otherwise than by a draft.
    pub fn before_sync(&self) -> io::Result<()> {
        self.faults.check(DeliveryStep::SyncFile)
    }

    /// fsync of a directory in which a final name was made or taken away, shared by all that wait for the same one.
    pub fn sync_names(&self, directory: &Directory) -> io::Result<()> {
        self.faults.check(DeliveryStep::SyncDirectory)?;
        self.sync_directory(directory)
    }

    fn sync_directory(&self, directory: &Directory) -> io::Result<()> {
        let key = (directory.identity.device, directory.identity.inode);
        let shared = Arc::clone(lock(&self.syncs).entry(key).or_default());
        let outcome = shared.sync(|| directory.file.sync_all());
        let mut syncs = lock(&self.syncs);
        // Two: the table's and ours.
        if Arc::strong_count(&shared) == 2 {
            syncs.remove(&key);
        }
        outcome
    }
}

impl Draft {
    /// Octets so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// True if it lies in `tmp/` under a name.
    pub fn has_name(&self) -> bool {
        self.named.is_some()
    }

    /// The directory that it was begun for.
    pub fn home(&self) -> &Arc<Directory> {
        &self.home
    }

    /// Writes over octets that have been written.
    pub fn overwrite(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.faults.check(DeliveryStep::Write)?;
        self.file.write_all_at(data, at)
    }
}

impl Write for Draft {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.faults.check(DeliveryStep::Write)?;
        let octets = self.file.write(data)?;
        self.octets += octets as u64;
        Ok(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some((tmp, name)) = &self.named {
            let _ = unlinkat(tmp, name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

impl Link {
    fn new(directory: &Arc<Directory>, name: &str) -> Self {
        let Directory { path, identity, .. } = &**directory;
        Self { path: path.clone(), identity: *identity, directory: Some(Arc::clone(directory)), name: name.to_owned() }
    }

    /// Keeps the name for good; gives its path.
    pub fn keep(mut self) -> PathBuf {
        self.path.join(std::mem::take(&mut self.name))
    }

    /// Gives the descriptor of the directory back; it is opened again if the link is taken back.
    pub fn close_directory(&mut self) {
        self.directory = None;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.name.is_empty() {
            return;
        }
        let again = || Directory::open(&self.path).ok().filter(|now| now.identity == self.identity).map(Arc::new);
        if let Some(directory) = self.directory.take().or_else(again) {
            let _ = unlinkat(&directory.file, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

impl Faults {
    /// Asks `injector` before every step.
    pub fn new(injector: impl Fn(DeliveryStep) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(injector)))
    }

    fn check(&self, step: DeliveryStep) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |injector| injector(step))
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(injected)" } else { "Faults(none)" })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const FILE_MODE: Mode = Mode::from_bits_truncate(0o600);

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_is_settled_once_and_anew_when_it_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let durable = Durable::new(Faults::default());
        let path = dir.path().join("a/b/new");
        let made = std::cell::Cell::new(0);
        let make = || {
            made.set(made.get() + 1);
            make_directory(&path)
        };
        let first = durable.open(&path, make).unwrap();
        assert!(durable.is_settled(&first) && made.get() == 1);
        let known = |path: &Path| lock(&durable.settled).contains_key(path);
        assert!(known(&dir.path().join("a/b")) && known(&dir.path().join("a")), "all that was made above it too");
        drop(durable.open(&path, make).unwrap());
        assert_eq!(made.get(), 1, "not a second time");
        drop(first);
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        make_directory(&path).unwrap();
        drop(durable.open(&path, make).unwrap());
        assert_eq!(made.get(), 2, "another directory of this name, even where it has the number of the first");
    }

    #[test]
    fn a_relative_path_ends_at_the_working_directory() {
        let durable = Durable::new(Faults::default());
        let here = Directory::open(Path::new("src/mail")).unwrap();
        durable.settle(&here).unwrap();
        let known: Vec<PathBuf> = lock(&durable.settled).keys().cloned().collect();
        assert!(known.len() == 3 && known.contains(&PathBuf::from(".")), "{known:?}");
    }

    #[test]
    fn a_link_is_taken_back_where_it_was_made_and_nowhere_else() {
        for closed in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let durable = Durable::new(Faults::default());
            let (path, moved) = (dir.path().join("new"), dir.path().join("moved"));
            let new = durable.open(&path, || make_directory(&path)).unwrap();
            let draft = durable.create(&new, || (dir.path().to_owned(), "named".into())).unwrap();
            let mut link = durable.link(&draft, &new, "one").unwrap();
            assert_eq!(durable.link(&draft, &new, "one").err(), Some(Errno::EEXIST));
            drop((draft, new));
            if closed {
                link.close_directory();
            }
            fs::rename(&path, &moved).unwrap();
            fs::create_dir(&path).unwrap();
            fs::write(path.join("one"), "another file of this name").unwrap();
            drop(link);
            assert!(path.join("one").exists());
            assert_eq!(moved.join("one").exists(), closed, "an open directory is where the link is, wherever it went");
        }
    }

    #[test]
    fn a_named_draft_moves_over_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let durable = Durable::new(Faults::default()).without_unnamed_files();
        let new = durable.open(dir.path(), || Ok(())).unwrap();
        let draft = || durable.create(&new, || (dir.path().to_owned(), "named".into())).unwrap();
        drop(durable.rename(draft(), &new, "one").unwrap().keep());
        assert_eq!(durable.rename(draft(), &new, "one").err(), Some(Errno::EEXIST));
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["one"], "the draft that could not be moved is gone");
    }
}
