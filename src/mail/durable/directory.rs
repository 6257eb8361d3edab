//! Directories that are held open, made, and made durable with all above them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::OFlag;

use super::Draft;

/// An open directory that files are linked into.
#[derive(Debug)]
pub struct Directory {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) identity: Identity,
}

/// What tells a directory from a later one of the same path: inode numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
    born: Option<SystemTime>,
}

impl Directory {
    /// Opens a directory that is there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(path)?;
        let data = file.metadata()?;
        let identity = Identity { device: data.dev(), inode: data.ino(), born: data.created().ok() };
        Ok(Self { path: path.to_owned(), file, identity })
    }

    /// Its path when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open directory.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// True if a draft is on the same device, so that a link is worth a try.
    pub fn is_near(&self, draft: &Draft) -> bool {
        self.identity.device == draft.home.identity.device
    }
}

/// Makes the entries of a directory, as far as it is there, and of all above it durable. To be called before the process is
/// confined to what lies below it: an earlier process may have made it and ended at once.
pub fn sync_above(path: &Path) -> io::Result<()> {
    let there = path.ancestors().find(|path| path.is_dir());
    match there.map(Directory::open) {
        Some(Err(error)) if error.kind() != ErrorKind::PermissionDenied => Err(error),
        Some(Ok(directory)) => above(&directory).try_for_each(|above| above?.file.sync_all()),
        _ => Ok(()),
    }
}

/// The directories above one, up to the mount point, the working directory, or one that may not be read.
pub(super) fn above(directory: &Directory) -> impl Iterator<Item = io::Result<Directory>> {
    let device = directory.identity.device;
    let parents = directory.path.ancestors().skip(1).map(|path| if path.as_os_str().is_empty() { Path::new(".") } else { path });
    parents.map(Directory::open).take_while(move |above| match above {
        Ok(above) => above.identity.device == device,
        Err(error) => error.kind() != ErrorKind::PermissionDenied,
    })
}

/// Makes a directory and what is missing above it, mode 0700. Nothing is durable yet.
pub fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directory(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        // Below a directory with the set-group-ID bit, such as Debian's /var/mail, the new one would have it too.
        made => made.and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700))),
    }
}
