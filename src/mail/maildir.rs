//! Durable delivery into Maildirs (maildir(5)), by the steps of [`durable`](super::durable).
//!
//! When [`Store::commit`] returns `Ok`, every octet is on the disk, in `new/` of every mailbox, and survives a power cut.
//! When it returns an error, the links that were made are taken back; what a reader has moved to `cur/` meanwhile stays
//! there, and what a power cut brings back is a whole message, for which no 250 was said.
//!
//! One file is linked into every mailbox of a file system; every further file system gets one copy, made durable before it
//! is linked. Up to [`OPEN_MAX`] mailboxes are open at a time: they are linked, made durable and closed before the next.
//! What is written is what was given; nothing is looked into.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;

use super::durable::{Directory, Draft, Durable, Faults, Link, StorageError, make_directory};

/// Delivers into Maildirs; one for a process.
#[derive(Debug)]
pub struct Store {
    host: String,
    pid: u32,
    counter: AtomicU64,
    durable: Durable,
}

/// A message that is durable in every mailbox. Unless it is kept, it is taken back.
#[derive(Debug)]
pub struct Delivered(Vec<Link>);

/// Subdirectories of a Maildir, in the order in which they are made.
const PARTS: [&str; 3] = ["tmp", "cur", "new"];
/// How often another name is tried when one is taken.
const NAMES_MAX: usize = 16;
/// Octets that the numbers in a file name take.
const NAME_SIZE: usize = 64;
/// Maildirs of one message that are open at once.
const OPEN_MAX: usize = 16;

impl Store {
    /// A store whose file names end in `hostname`.
    pub fn new(hostname: &str, faults: Faults) -> Self {
        Self::over(hostname, Durable::new(faults))
    }

    fn over(hostname: &str, durable: Durable) -> Self {
        Self {
            // maildir(5): a slash or a colon in the host name is replaced.
            host: hostname.replace('/', "\\057").replace(':', "\\072"),
            pid: std::process::id(),
            counter: AtomicU64::new(0),
            durable,
        }
    }

    /// Whether the file system of `root`, above all Maildirs, can take a message now: see [`Durable::check_space`].
    pub fn check_space(&self, root: &Path, octets: u64, floor: bool) -> Result<(), StorageError> {
        self.durable.check_space(root, octets, floor)
    }

    /// Begins a message that will be linked into `maildir`, and elsewhere.
    pub fn begin(&self, maildir: &Path) -> Result<Draft, StorageError> {
        let new = self.open(maildir)?;
        self.create(&new).map_err(|error| StorageError::from(error).at(maildir))
    }

    /// Makes the message durable in every one of `maildirs`, of which the first is the one that it was begun for; gives
    /// the files. All or none.
    pub fn commit(&self, draft: Draft, maildirs: &[PathBuf]) -> Result<Vec<PathBuf>, StorageError> {
        Ok(self.deliver(draft, maildirs)?.keep())
    }

    /// As [`Self::commit`], for a message that has yet to be stored elsewhere before it is accepted.
    pub fn deliver(&self, draft: Draft, maildirs: &[PathBuf]) -> Result<Delivered, StorageError> {
        // What the first links wait for: that all mailboxes can be opened.
        for maildir in maildirs.iter().skip(OPEN_MAX) {
            self.open(maildir)?;
        }
        self.durable.sync_file(&draft)?;
        let mut first = Some(Arc::clone(draft.home()));
        let mut drafts = vec![draft];
        let mut links = Delivered(Vec::with_capacity(maildirs.len()));
        for group in maildirs.chunks(OPEN_MAX) {
            let group = group.iter().map(|path| first.take().map_or_else(|| self.open(path), Ok));
            let group: Vec<Arc<Directory>> = group.collect::<Result<_, _>>()?;
            let begin = links.0.len();
            for maildir in &group {
                self.durable.before_link()?;
                let link = self.link(&mut drafts, maildir)?;
                links.0.push(link);
            }
            group.iter().try_for_each(|maildir| self.durable.sync_names(maildir))?;
            if maildirs.len() > OPEN_MAX {
                links.0[begin..].iter_mut().for_each(Link::close_directory);
            }
        }
        Ok(links)
    }

    /// Opens `new/`; makes the Maildir, of which `new` comes last, where it is missing.
    fn open(&self, maildir: &Path) -> Result<Arc<Directory>, StorageError> {
        let make = || PARTS.iter().try_for_each(|part| make_directory(&maildir.join(part)));
        self.durable.open(&maildir.join("new"), make).map_err(|error| StorageError::from(error).at(maildir))
    }

    fn create(&self, new: &Arc<Directory>) -> io::Result<Draft> {
        self.durable.create(new, || (tmp(new), self.name(None)))
    }

    /// Links the one of `drafts` that can be linked into `new`; makes a copy more where none can.
    fn link(&self, drafts: &mut Vec<Draft>, new: &Arc<Directory>) -> io::Result<Link> {
        for draft in drafts.iter().filter(|draft| new.is_near(draft)) {
            if let Some(link) = self.link_one(draft, new)? {
                return Ok(link);
            }
        }
        let copy = self.durable.copy(&drafts[0], new, || (tmp(new), self.name(None)))?;
        match self.link_one(&copy, new)? {
            Some(link) => {
                drafts.push(copy);
                Ok(link)
            }
            // No hard links here (some FUSE file systems): the copy itself is moved, to a name that no other process makes.
            None => {
                let name = self.name(Some(copy.octets()));
                Ok(self.durable.rename(copy, new, &name)?)
            }
        }
    }

    /// `None` where the kernel links no file from there to here.
    fn link_one(&self, draft: &Draft, new: &Arc<Directory>) -> io::Result<Option<Link>> {
        for _ in 0..NAMES_MAX {
            match self.durable.link(draft, new, &self.name(Some(draft.octets()))) {
                Ok(link) => return Ok(Some(link)),
                Err(Errno::EEXIST) => {}
                Err(Errno::EXDEV) => return Ok(None),
                Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) if draft.has_name() => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// `time.MusecPpidQn.host`, and `,S=size` for a final name (Maildir++); unique in this process, and on this host.
    fn name(&self, octets: Option<u64>) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut name = String::with_capacity(NAME_SIZE + self.host.len());
        let _ = write!(name, "{}.M{}P{}Q{number}.{}", now.as_secs(), now.subsec_micros(), self.pid, self.host);
        if let Some(octets) = octets {
            let _ = write!(name, ",S={octets}");
        }
        name
    }
}

impl Delivered {
    /// Keeps the message for good; gives its files.
    pub fn keep(self) -> Vec<PathBuf> {
        self.0.into_iter().map(Link::keep).collect()
    }
}

/// `tmp/` beside an open `new/`.
fn tmp(new: &Directory) -> PathBuf {
    new.path().with_file_name("tmp")
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::thread;

    use crate::mail::durable::DeliveryStep;

    fn deliver(store: &Store, content: &[u8], maildirs: &[PathBuf]) -> Result<Vec<PathBuf>, StorageError> {
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

    fn store(unnamed: bool, faults: Faults) -> Store {
        let durable = Durable::new(faults);
        Store::over("mx.example.org", if unnamed { durable } else { durable.without_unnamed_files() })
    }

    /// Both ways to make a file, whatever the file system can do.
    fn both_ways(check: impl Fn(Store, &Path)) {
        for unnamed in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            check(store(unnamed, Faults::default()), dir.path());
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
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return crate::skipped("there is no /dev/shm") };
        let device = |path: &Path| fs::metadata(path).unwrap().dev();
        if device(other.path()) == device(&std::env::temp_dir()) {
            return crate::skipped("/dev/shm is the file system of temporary files");
        }
        both_ways(|store, dir| {
            let boxes = [dir.join("a"), other.path().join("b")];
            let made = deliver(&store, b"hello\n", &boxes).unwrap();
            assert!(made.iter().all(|file| fs::read(file).unwrap() == b"hello\n"));
            assert_ne!(device(&made[0]), device(&made[1]));
            assert_eq!(everything_below(other.path()), [made[1].clone()], "nothing is left in tmp/ there");
            fs::remove_dir_all(&boxes[1]).unwrap();
        });
    }

    /// Each step, each time that it is done, on both ways; more mailboxes than are open at once.
    #[test]
    fn each_step_that_fails_leaves_nothing() {
        let steps = [
            (DeliveryStep::Directory, 2 * OPEN_MAX as u64),
            (DeliveryStep::Create, 1),
            (DeliveryStep::Write, 1),
            (DeliveryStep::SyncFile, 1),
            (DeliveryStep::Link, OPEN_MAX as u64 + 1),
            (DeliveryStep::SyncDirectory, OPEN_MAX as u64 + 1),
        ];
        // All at the same time, since each waits for the disk.
        thread::scope(|scope| {
            for (unnamed, (step, at_least)) in [true, false].into_iter().flat_map(|unnamed| steps.map(|row| (unnamed, row))) {
                scope.spawn(move || each_time_that_it_fails(unnamed, step, at_least));
            }
        });
    }

    fn each_time_that_it_fails(unnamed: bool, step: DeliveryStep, at_least: u64) {
        let (mut nth, mut failed) = (0, 0);
        loop {
            let count = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&count);
            let faults = Faults::new(move |at| match at == step && counted.fetch_add(1, Ordering::SeqCst) == nth {
                true => Err(Errno::EIO.into()),
                false => Ok(()),
            });
            let dir = tempfile::tempdir().unwrap();
            let boxes: Vec<PathBuf> = (0..=OPEN_MAX).map(|n| dir.path().join(n.to_string())).collect();
            let outcome = deliver(&store(unnamed, faults), b"x", &boxes);
            if count.load(Ordering::SeqCst) <= nth {
                assert_eq!(outcome.unwrap().len(), boxes.len());
                break;
            }
            assert!(outcome.is_err(), "{step:?} {nth}, unnamed: {unnamed}: did not fail");
            assert_eq!(everything_below(dir.path()), Vec::<PathBuf>::new(), "{step:?} {nth}, unnamed: {unnamed}");
            (nth, failed) = (nth + 1, failed + 1);
        }
        assert!(failed >= at_least.min(OPEN_MAX as u64 + 1), "{step:?} was done {failed} times");
    }

    #[test]
    fn errors_are_told_apart() {
        let kinds = |errno: Errno| StorageError::from(io::Error::from(errno));
        assert!(matches!(kinds(Errno::ENOSPC), StorageError::DiskFull(_)));
        assert!(matches!(kinds(Errno::EDQUOT), StorageError::Quota(_)));
        for errno in [Errno::EIO, Errno::EMFILE, Errno::EROFS] {
            assert!(matches!(kinds(errno), StorageError::Unwritable(_)), "{errno}");
        }
    }

    /// A reader moves a new file to `cur/` between the link and the error.
    #[test]
    fn what_a_reader_has_moved_is_no_error_and_stays() {
        both_ways(|store, dir| {
            let boxes = [dir.join("a"), dir.join("b")];
            let mut draft = store.begin(&boxes[0]).unwrap();
            draft.write_all(b"x").unwrap();
            let delivered = store.deliver(draft, &boxes).unwrap();
            let new = files(&boxes[0].join("new"));
            let cur = boxes[0].join("cur").join(new[0].file_name().unwrap());
            fs::rename(&new[0], &cur).unwrap();
            drop(delivered);
            assert_eq!(everything_below(dir), [cur]);
        });
    }

    /// However many mailboxes a message has, few of them are open at once.
    #[test]
    fn descriptors_do_not_grow_with_recipients() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().canonicalize().unwrap();
        let most = Arc::new(AtomicU64::new(0));
        let (seen, place) = (Arc::clone(&most), below.clone());
        let faults = Faults::new(move |_| {
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
            seen.fetch_max(open.filter(|path| path.starts_with(&place)).count() as u64, Ordering::SeqCst);
            Ok(())
        });
        let boxes: Vec<PathBuf> = (0..100).map(|n| below.join(n.to_string())).collect();
        assert_eq!(deliver(&store(true, faults), b"x", &boxes).unwrap().len(), 100);
        let most = most.load(Ordering::SeqCst);
        assert!((OPEN_MAX as u64..=OPEN_MAX as u64 + 3).contains(&most), "{most}");
    }

    /// One device, two mounts: the kernel links nothing from one to the other (link(2), EXDEV).
    #[test]
    fn another_mount_of_the_same_device_gets_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (dir.path().join("here"), dir.path().join("there"));
        fs::create_dir_all(&here).unwrap();
        fs::create_dir_all(&there).unwrap();
        let mounted = std::process::Command::new("mount").arg("--bind").args([&there, &there]).status();
        if !mounted.is_ok_and(|status| status.success()) {
            return crate::skipped("a bind mount needs root");
        }
        let outcome = std::panic::catch_unwind(|| {
            for unnamed in [true, false] {
                let store = store(unnamed, Faults::default());
                let boxes = ["a", "b", "c"].map(|name| if name == "a" { here.join(name) } else { there.join(name) });
                let made = deliver(&store, b"hello\n", &boxes).unwrap();
                let links: Vec<u64> = made.iter().map(|file| fs::metadata(file).unwrap().nlink()).collect();
                assert_eq!(links, [1, 2, 2], "one copy for the other mount");
                assert!(made.iter().all(|file| fs::read(file).unwrap() == b"hello\n"));
            }
            assert_eq!(everything_below(dir.path()).len(), 6);
        });
        let unmounted = std::process::Command::new("umount").arg(&there).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
        outcome.unwrap();
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
