//! Durable delivery into Maildirs.
//!
//! When [`Store::commit`] returns `Ok`, every octet is on the disk, in every mailbox, and survives a power cut. When it
//! returns an error, no mailbox shows the message. The steps, in this order:
//!
//! 1. [`Step::Directory`]: the Maildir is there, or is made with mode 0700, each new directory made durable.
//! 2. [`Step::Create`]: an unnamed file (`O_TMPFILE`), mode 0600; or a named one in `tmp/` where there is no such thing.
//! 3. [`Step::Write`]: the content.
//! 4. [`Step::SyncFile`]: fsync of the file; then one copy more, made durable too, for every further file system.
//! 5. [`Step::Link`]: a hard link under the final name in each mailbox's `new/`; never over an existing name.
//! 6. [`Step::SyncDirectory`]: fsync of every `new/`, shared by all that wait for the same one.
//!
//! A crash before 5 leaves nothing (an unnamed file is freed, a named one lies in `tmp/`, where readers delete it after
//! 36 hours); a crash behind it leaves a whole message, for which nobody was told `250`. Every step before 5 can fail
//! without a trace; from 5 on the links are taken back. What is written is what was given; nothing is looked into.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::{LinkatFlags, linkat};

use crate::smtp::reply::Refusal;

/// The steps of a delivery that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's description lists them")]
pub enum Step {
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

type Injector = dyn Fn(Step) -> io::Result<()> + Send + Sync;

/// Delivers into Maildirs; one for a process.
#[derive(Debug)]
pub struct Store {
    host: String,
    counter: AtomicU64,
    unnamed: AtomicBool,
    syncs: Mutex<HashMap<PathBuf, Arc<SharedSync>>>,
    faults: Faults,
}

/// A message that is being written and belongs to no mailbox yet. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    file: File,
    /// Its name in `tmp/`, if it has one.
    named: Option<PathBuf>,
    device: u64,
    octets: u64,
    faults: Faults,
}

/// Subdirectories of a Maildir, in the order in which they are made.
const PARTS: [&str; 3] = ["tmp", "cur", "new"];
/// How often another name is tried when one is taken.
const NAMES_MAX: usize = 16;

impl Store {
    /// A store whose file names end in `hostname`.
    pub fn new(hostname: &str, faults: Faults) -> Self {
        // maildir(5): a slash or a colon in the host name is replaced.
        let host = hostname.replace('/', "\\057").replace(':', "\\072");
        let unnamed = AtomicBool::new(Path::new("/proc/self/fd").is_dir());
        Self { host, counter: AtomicU64::new(0), unnamed, syncs: Mutex::default(), faults }
    }

    /// Begins a message that will be linked into `maildir`, and elsewhere.
    pub fn begin(&self, maildir: &Path) -> io::Result<Draft> {
        self.faults.check(Step::Directory)?;
        ensure(maildir)?;
        self.create(maildir)
    }

    /// Makes the message durable in every one of `maildirs`; gives the files. All or none.
    pub fn commit(&self, draft: Draft, maildirs: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
        let mut drafts = vec![draft];
        for maildir in &maildirs[1.min(maildirs.len())..] {
            self.faults.check(Step::Directory)?;
            ensure(maildir)?;
        }
        self.faults.check(Step::SyncFile)?;
        drafts[0].file.sync_all()?;
        let mut sources = Vec::with_capacity(maildirs.len());
        for maildir in maildirs {
            let device = fs::metadata(maildir.join("new"))?.dev();
            let source = match drafts.iter().position(|draft| draft.device == device) {
                Some(source) => source,
                None => {
                    let copy = self.copy(&mut drafts[0], maildir)?;
                    drafts.push(copy);
                    drafts.len() - 1
                }
            };
            sources.push(source);
        }
        let mut links = Links(Vec::with_capacity(maildirs.len()));
        for (maildir, source) in maildirs.iter().zip(sources) {
            self.faults.check(Step::Link)?;
            let file = self.link(&mut drafts[source], maildir)?;
            links.0.push(file);
        }
        for maildir in maildirs {
            self.faults.check(Step::SyncDirectory)?;
            self.sync_directory(&maildir.join("new"))?;
        }
        Ok(links.keep())
    }

    fn create(&self, maildir: &Path) -> io::Result<Draft> {
        self.faults.check(Step::Create)?;
        let new = maildir.join("new");
        let device = fs::metadata(&new)?.dev();
        if self.unnamed.load(Ordering::Relaxed) {
            let mut options = OpenOptions::new();
            options.read(true).write(true).mode(0o600).custom_flags(OFlag::O_TMPFILE.bits());
            match options.open(&new) {
                Ok(file) => return Ok(Draft { file, named: None, device, octets: 0, faults: self.faults.clone() }),
                // What file systems and kernels without O_TMPFILE say (open(2)).
                Err(error) if is(&error, &[Errno::EOPNOTSUPP, Errno::EISDIR, Errno::EINVAL, Errno::ENOENT]) => {}
                Err(error) => return Err(error),
            }
        }
        let named = maildir.join("tmp").join(self.name(None));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&named)?;
        Ok(Draft { file, named: Some(named), device, octets: 0, faults: self.faults.clone() })
    }

    /// A durable copy of a draft on the file system of `maildir`.
    fn copy(&self, draft: &mut Draft, maildir: &Path) -> io::Result<Draft> {
        let mut copy = self.create(maildir)?;
        draft.file.rewind()?;
        let mut reader = io::Read::by_ref(&mut draft.file).take(draft.octets);
        io::copy(&mut reader, &mut copy)?;
        if copy.octets != draft.octets {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.faults.check(Step::SyncFile)?;
        copy.file.sync_all()?;
        Ok(copy)
    }

    /// Gives the draft a final name in `new/`.
    fn link(&self, draft: &mut Draft, maildir: &Path) -> io::Result<PathBuf> {
        for _ in 0..NAMES_MAX {
            let target = maildir.join("new").join(self.name(Some(draft.octets)));
            let linked = match &draft.named {
                Some(path) => fs::hard_link(path, &target),
                None => {
                    let source = format!("/proc/self/fd/{}", draft.file.as_fd().as_raw_fd());
                    let follow = LinkatFlags::from(AtFlags::AT_SYMLINK_FOLLOW);
                    linkat(AT_FDCWD, source.as_str(), AT_FDCWD, &target, follow).map_err(io::Error::from)
                }
            };
            match linked {
                Ok(()) => return Ok(target),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // No hard links here (some FUSE file systems): a copy of its own, moved to a name that nobody else makes.
                Err(error) if is(&error, &[Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENOSYS]) && draft.named.is_some() => {
                    return self.copy_and_move(draft, maildir, &target);
                }
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    fn copy_and_move(&self, draft: &mut Draft, maildir: &Path, target: &Path) -> io::Result<PathBuf> {
        let mut copy = self.copy(draft, maildir)?;
        let Some(path) = copy.named.take() else { return Err(ErrorKind::Unsupported.into()) };
        fs::rename(&path, target).inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(target.to_owned())
    }

    /// fsync of a directory, shared: whoever waits is covered by any fsync that starts after its link.
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let shared = {
            let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(syncs.entry(directory.to_owned()).or_default())
        };
        let outcome = shared.sync(|| File::open(directory)?.sync_all());
        let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        // Two: the table's and ours.
        if Arc::strong_count(&shared) == 2 {
            syncs.remove(directory);
        }
        outcome
    }

    /// `time.MusecPpidQn.host`, and `,S=size` for a final name (Maildir++); unique in this process, and on this host.
    fn name(&self, octets: Option<u64>) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let stem = format!("{}.M{}P{}Q{number}.{}", now.as_secs(), now.subsec_micros(), std::process::id(), self.host);
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
        self.faults.check(Step::Write)?;
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
    pub fn new(injector: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(injector)))
    }

    fn check(&self, step: Step) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |injector| injector(step))
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Faults(injected)" } else { "Faults(none)" })
    }
}

/// Turns calls that wait for the same fsync into few. Generations are numbered; a call is covered by the first one that
/// starts after it.
#[derive(Debug, Default)]
struct SharedSync {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    started: u64,
    running: bool,
    failed: HashSet<u64>,
}

impl SharedSync {
    fn sync(&self, fsync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.started + 1;
        while state.running {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            let is_over = state.started > mine || (state.started == mine && !state.running);
            if is_over {
                return match state.failed.contains(&mine) {
                    true => Err(io::Error::other("another delivery's fsync of this directory failed")),
                    false => Ok(()),
                };
            }
        }
        state.running = true;
        state.started += 1;
        drop(state);
        let outcome = fsync();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = false;
        if outcome.is_err() {
            let generation = state.started;
            state.failed.insert(generation);
        }
        drop(state);
        self.changed.notify_all();
        outcome
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

/// Makes a Maildir if it is not there. `new` is made last, so that a Maildir with a `new` is whole.
pub fn ensure(maildir: &Path) -> io::Result<()> {
    if maildir.join("new").is_dir() {
        return Ok(());
    }
    make_durable(maildir)?;
    for part in PARTS {
        make_durable(&maildir.join(part))?;
    }
    Ok(())
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

fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|raw| errnos.contains(&Errno::from_raw(raw)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
        let steps = [Step::Directory, Step::Create, Step::Write, Step::SyncFile, Step::Link, Step::SyncDirectory];
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
    fn a_waiter_is_covered_only_by_a_sync_that_starts_after_it() {
        let shared = Arc::new(SharedSync::default());
        let syncs = Arc::new(AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let before = syncs.load(Ordering::SeqCst);
                    let fsync = || {
                        std::thread::sleep(Duration::from_millis(5));
                        syncs.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    };
                    shared.sync(fsync).unwrap();
                    assert!(syncs.load(Ordering::SeqCst) > before);
                });
            }
        });
        assert!(syncs.load(Ordering::SeqCst) < 32, "nothing was shared");
    }

    #[test]
    fn a_failed_sync_fails_everybody_it_was_for() {
        let shared = Arc::new(SharedSync::default());
        let failures = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let fsync = || {
                        std::thread::sleep(Duration::from_millis(20));
                        Err(Errno::EIO.into())
                    };
                    failures.fetch_add(u64::from(shared.sync(fsync).is_err()), Ordering::SeqCst);
                });
            }
        });
        assert_eq!(failures.into_inner(), 8);
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
