//! Durable delivery into Maildirs.
//!
//! When [`Store::commit`] returns `Ok`, every octet is on the disk, in every mailbox, and survives a power cut. When it
//! returns an error, no mailbox shows the message. The steps, in this order:
//!
//! 1. [`DeliveryStep::Directory`]: the Maildir is there, or is made with mode 0700, each new directory made durable.
//! 2. [`DeliveryStep::Create`]: an unnamed file (`O_TMPFILE`), mode 0600; or a named one in `tmp/` where there is no such thing.
//! 3. [`DeliveryStep::Write`]: the content.
//! 4. [`DeliveryStep::SyncFile`]: fsync of the file; then one copy more, made durable too, for every further file system.
//! 5. [`DeliveryStep::Link`]: a hard link under the final name in each mailbox's `new/`; never over an existing name.
//! 6. [`DeliveryStep::SyncDirectory`]: fsync of every `new/`, shared by all that wait for the same one.
//!
//! A crash before 5 leaves nothing (an unnamed file is freed, a named one lies in `tmp/`, where readers delete it after
//! 36 hours); a crash behind it leaves a whole message, for which nobody was told `250`. Every step before 5 can fail
//! without a trace; from 5 on the links are taken back. What is written is what was given; nothing is looked into.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::linkat;

use super::group_sync::GroupSync;
use crate::smtp::reply::Refusal;

/// The steps of a delivery that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's description lists them")]
pub enum DeliveryStep {
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

/// Delivers into Maildirs; one for a process.
#[derive(Debug)]
pub struct Store {
    host: String,
    pid: u32,
    counter: AtomicU64,
    unnamed: AtomicBool,
    /// An open file can be linked as it is (Linux 6.10), not only by its name below /proc.
    linked_as_it_is: AtomicBool,
    syncs: Mutex<HashMap<(u64, u64), Arc<GroupSync>>>,
    faults: Faults,
}

/// A message that is being written and belongs to no mailbox yet. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    file: File,
    /// Its name in `tmp/`, if it has one.
    named: Option<PathBuf>,
    /// The Maildir that it was begun for.
    home: Maildir,
    octets: u64,
    faults: Faults,
}

/// A Maildir whose `new/` is open, so that what is made, linked and made durable is in one and the same directory,
/// whatever becomes of its path meanwhile.
#[derive(Debug)]
struct Maildir {
    path: PathBuf,
    new: File,
    device: u64,
    inode: u64,
}

/// Subdirectories of a Maildir, in the order in which they are made.
const PARTS: [&str; 3] = ["tmp", "cur", "new"];
/// How often another name is tried when one is taken.
const NAMES_MAX: usize = 16;

impl Store {
    /// A store whose file names end in `hostname`.
    pub fn new(hostname: &str, faults: Faults) -> Self {
        Self {
            // maildir(5): a slash or a colon in the host name is replaced.
            host: hostname.replace('/', "\\057").replace(':', "\\072"),
            pid: std::process::id(),
            counter: AtomicU64::new(0),
            unnamed: AtomicBool::new(Path::new("/proc/self/fd").is_dir()),
            linked_as_it_is: AtomicBool::new(true),
            syncs: Mutex::default(),
            faults,
        }
    }

    /// Begins a message that will be linked into `maildir`, and elsewhere.
    pub fn begin(&self, maildir: &Path) -> io::Result<Draft> {
        self.create(self.open(maildir)?)
    }

    /// Makes the message durable in every one of `maildirs`, of which the first is the one that it was begun for; gives
    /// the files. All or none.
    pub fn commit(&self, draft: Draft, maildirs: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
        let others: Vec<Maildir> =
            maildirs.get(1..).unwrap_or_default().iter().map(|path| self.open(path)).collect::<io::Result<_>>()?;
        self.faults.check(DeliveryStep::SyncFile)?;
        draft.file.sync_all()?;
        let mut drafts = vec![draft];
        for maildir in &others {
            if !drafts.iter().any(|draft| draft.home.device == maildir.device) {
                let copy = self.copy(&drafts[0], self.open(&maildir.path)?)?;
                drafts.push(copy);
            }
        }
        let mut links = Links(Vec::with_capacity(maildirs.len()));
        let places = || std::iter::once(&drafts[0].home).chain(&others);
        for maildir in places() {
            self.faults.check(DeliveryStep::Link)?;
            let source = drafts.iter().find(|draft| draft.home.device == maildir.device).unwrap_or(&drafts[0]);
            links.0.push(self.link(source, maildir)?);
        }
        for maildir in places() {
            self.faults.check(DeliveryStep::SyncDirectory)?;
            self.sync_directory(maildir)?;
        }
        Ok(links.keep())
    }

    fn open(&self, maildir: &Path) -> io::Result<Maildir> {
        self.faults.check(DeliveryStep::Directory)?;
        let path = maildir.join("new");
        let directory = || OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(&path);
        let new = match directory() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(maildir)?;
                directory()?
            }
            other => other?,
        };
        let data = new.metadata()?;
        Ok(Maildir { path: maildir.to_owned(), new, device: data.dev(), inode: data.ino() })
    }

    fn create(&self, home: Maildir) -> io::Result<Draft> {
        self.faults.check(DeliveryStep::Create)?;
        let draft = |file, named, home| Draft { file, named, home, octets: 0, faults: self.faults.clone() };
        if self.unnamed.load(Ordering::Relaxed) {
            let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
            match openat(&home.new, ".", flags, Mode::from_bits_truncate(0o600)) {
                Ok(fd) => return Ok(draft(File::from(fd), None, home)),
                // What file systems and kernels without O_TMPFILE say (open(2)).
                Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let named = home.path.join("tmp").join(self.name(None));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&named)?;
        Ok(draft(file, Some(named), home))
    }

    /// A durable copy of a draft on the file system of `home`.
    fn copy(&self, draft: &Draft, home: Maildir) -> io::Result<Draft> {
        let mut copy = self.create(home)?;
        let mut file = &draft.file;
        file.rewind()?;
        io::copy(&mut file.take(draft.octets), &mut copy)?;
        if copy.octets != draft.octets {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.faults.check(DeliveryStep::SyncFile)?;
        copy.file.sync_all()?;
        Ok(copy)
    }

    /// Gives the draft a final name in `new/`.
    fn link(&self, draft: &Draft, maildir: &Maildir) -> io::Result<PathBuf> {
        for _ in 0..NAMES_MAX {
            let name = self.name(Some(draft.octets));
            let linked = match &draft.named {
                Some(path) => linkat(AT_FDCWD, path, &maildir.new, name.as_str(), AtFlags::empty()),
                None => self.link_unnamed(&draft.file, maildir, &name),
            };
            let target = maildir.path.join("new").join(name);
            match linked {
                Ok(()) => return Ok(target),
                Err(Errno::EEXIST) => {}
                // No hard links here (some FUSE file systems): a copy of its own, moved to a name that nobody else makes.
                Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) if draft.named.is_some() => {
                    return self.copy_and_move(draft, maildir, &target);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    fn link_unnamed(&self, file: &File, maildir: &Maildir, name: &str) -> nix::Result<()> {
        let as_it_is = self.linked_as_it_is.load(Ordering::Relaxed);
        if as_it_is {
            match linkat(file, "", &maildir.new, name, AtFlags::AT_EMPTY_PATH) {
                // What older kernels say to a process without privileges, and all of them if `new/` is gone.
                Err(Errno::ENOENT) => {}
                other => return other,
            }
        }
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        let linked = linkat(AT_FDCWD, source.as_str(), &maildir.new, name, AtFlags::AT_SYMLINK_FOLLOW);
        if as_it_is && linked.is_ok() {
            self.linked_as_it_is.store(false, Ordering::Relaxed);
        }
        linked
    }

    fn copy_and_move(&self, draft: &Draft, maildir: &Maildir, target: &Path) -> io::Result<PathBuf> {
        let mut copy = self.copy(draft, self.open(&maildir.path)?)?;
        let Some(path) = copy.named.take() else { return Err(ErrorKind::Unsupported.into()) };
        fs::rename(&path, target).inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(target.to_owned())
    }

    /// fsync of `new/`, shared by all that wait for the same one.
    fn sync_directory(&self, maildir: &Maildir) -> io::Result<()> {
        let key = (maildir.device, maildir.inode);
        let shared = {
            let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(syncs.entry(key).or_default())
        };
        let outcome = shared.sync(|| maildir.new.sync_all());
        let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        // Two: the table's and ours.
        if Arc::strong_count(&shared) == 2 {
            syncs.remove(&key);
        }
        outcome
    }

    /// `time.MusecPpidQn.host`, and `,S=size` for a final name (Maildir++); unique in this process, and on this host.
    fn name(&self, octets: Option<u64>) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let stem = format!("{}.M{}P{}Q{number}.{}", now.as_secs(), now.subsec_micros(), self.pid, self.host);
        match octets {
            Some(octets) => format!("{stem},S={octets}"),
            None => stem,
        }
    }
}

impl Draft {
    /// Octets so far.
    pub fn octets(&self) -> u64 {
        self.octets
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
        if let Some(path) = &self.named {
            let _ = fs::remove_file(path);
        }
    }
}

/// Links that are taken back unless they are kept.
struct Links(Vec<PathBuf>);

impl Links {
    fn keep(mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for link in &self.0 {
            let _ = fs::remove_file(link);
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

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(injected)" } else { "Faults(none)" })
    }
}

/// What a client is told when delivery fails: always to come again.
pub fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC) => Refusal::DiskFull,
        Some(Errno::EDQUOT) => Refusal::QuotaFull,
        _ => Refusal::LocalError,
    }
}

/// The Maildir++ folder for a tag, if there is one: a directory `.tag` in the Maildir, compared case-blind. Its name is
/// read from the disk; nothing a client sent becomes part of a path.
pub fn folder(maildir: &Path, tag: &str) -> Option<PathBuf> {
    let wanted = format!(".{tag}").to_lowercase();
    let entries = fs::read_dir(maildir).ok()?;
    entries
        .flatten()
        .find(|entry| {
            let same = entry.file_name().to_str().is_some_and(|name| name.len() > 1 && name.to_lowercase() == wanted);
            same && entry.file_type().is_ok_and(|kind| kind.is_dir())
        })
        .map(|entry| entry.path())
}

/// Makes a Maildir. `new` is made last, so that a Maildir with a `new` is whole.
fn make(maildir: &Path) -> io::Result<()> {
    make_durable(maildir)?;
    PARTS.iter().try_for_each(|part| make_durable(&maildir.join(part)))
}

/// Makes a directory and what is missing above it, mode 0700, with an fsync of each parent.
fn make_durable(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().ok_or(ErrorKind::NotFound)?;
    make_durable(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        // Below a directory with the set-group-ID bit, such as Debian's /var/mail, the new one would have it too.
        made => made.and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)))?,
    }
    File::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(store: &Store, content: &[u8], maildirs: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
        let mut draft = store.begin(&maildirs[0])?;
        draft.write_all(content)?;
        store.commit(draft, maildirs)
    }

    fn files(directory: &Path) -> Vec<PathBuf> {
        fs::read_dir(directory).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
    }

    fn everything_below(directory: &Path) -> Vec<PathBuf> {
        files(directory).into_iter().flat_map(|path| if path.is_dir() { everything_below(&path) } else { vec![path] }).collect()
    }

    /// Both ways to make a file, whatever the file system can do.
    fn both_ways(check: impl Fn(Store, &Path)) {
        for unnamed in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::new("mx.example.org", Faults::default());
            store.unnamed.store(unnamed, Ordering::Relaxed);
            check(store, dir.path());
        }
    }

    #[test]
    fn one_file_for_several_mailboxes() {
        both_ways(|store, dir| {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o2700)).unwrap();
            let boxes = [dir.join("example.org/a"), dir.join("example.org/b")];
            let made = deliver(&store, b"hello\n", &boxes).unwrap();
            let (one, two) = (fs::metadata(&made[0]).unwrap(), fs::metadata(&made[1]).unwrap());
            assert_eq!(one.ino(), two.ino());
            assert_eq!((one.nlink(), one.permissions().mode() & 0o7777), (2, 0o600));
            assert_eq!(fs::read(&made[1]).unwrap(), b"hello\n");
            assert!(made[0].to_str().unwrap().ends_with(".mx.example.org,S=6"), "{made:?}");
            for path in [dir.join("example.org"), boxes[0].clone(), boxes[0].join("new")] {
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700, "{path:?}");
            }
            assert_eq!(everything_below(dir).len(), 2, "nothing is left in tmp/");
        });
    }

    #[test]
    fn another_file_system_gets_a_copy() {
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return };
        both_ways(|store, dir| {
            let boxes = [dir.join("a"), other.path().join("b")];
            let made = deliver(&store, b"hello\n", &boxes).unwrap();
            assert_eq!(fs::read(&made[1]).unwrap(), b"hello\n");
            fs::remove_dir_all(&boxes[1]).unwrap();
        });
    }

    #[test]
    fn each_step_that_fails_leaves_nothing() {
        let steps = [
            DeliveryStep::Directory,
            DeliveryStep::Create,
            DeliveryStep::Write,
            DeliveryStep::SyncFile,
            DeliveryStep::Link,
            DeliveryStep::SyncDirectory,
        ];
        let errors = [
            (Errno::ENOSPC, Refusal::DiskFull),
            (Errno::EDQUOT, Refusal::QuotaFull),
            (Errno::EIO, Refusal::LocalError),
            (Errno::EMFILE, Refusal::LocalError),
            (Errno::EROFS, Refusal::LocalError),
        ];
        for step in steps {
            for (errno, want) in errors {
                // The second time, where there is one: for the second mailbox.
                for skip in [0, 1] {
                    let left = Arc::new(AtomicU64::new(skip));
                    let faults = Faults::new(move |at| match at == step && left.fetch_sub(1, Ordering::SeqCst) == 0 {
                        true => Err(errno.into()),
                        false => Ok(()),
                    });
                    for unnamed in [true, false] {
                        let dir = tempfile::tempdir().unwrap();
                        let store = Store::new("h", faults.clone());
                        store.unnamed.store(unnamed, Ordering::Relaxed);
                        match deliver(&store, b"x", &[dir.path().join("a"), dir.path().join("b")]) {
                            Err(error) => {
                                assert_eq!(refusal(&error), want, "{step:?} {errno}");
                                assert_eq!(everything_below(dir.path()), Vec::<PathBuf>::new(), "{step:?} {errno}");
                            }
                            Ok(_) => assert!(skip == 1 || !unnamed, "{step:?} {errno} did not fail"),
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_dropped_draft_leaves_nothing() {
        both_ways(|store, dir| {
            let mut draft = store.begin(&dir.join("a")).unwrap();
            draft.write_all(b"half").unwrap();
            drop(draft);
            assert_eq!(everything_below(dir), Vec::<PathBuf>::new());
        });
    }

    #[test]
    fn a_maildir_that_vanished_or_is_a_file() {
        both_ways(|store, dir| {
            let maildir = dir.join("a");
            let draft = store.begin(&maildir).unwrap();
            fs::remove_dir_all(&maildir).unwrap();
            assert!(store.commit(draft, std::slice::from_ref(&maildir)).is_err());
            fs::write(&maildir, "").unwrap();
            assert!(store.begin(&maildir).is_err());
        });
    }

    #[test]
    fn folders_are_found_on_the_disk_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(".Lists.rust")).unwrap();
        fs::write(dir.path().join(".file"), "").unwrap();
        assert_eq!(folder(dir.path(), "lists.RUST"), Some(dir.path().join(".Lists.rust")));
        for tag in ["", ".", "/", "../x", "file", "Lists.rust/", "other"] {
            assert_eq!(folder(dir.path(), tag), None, "{tag}");
        }
    }
}
