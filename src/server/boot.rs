//! Finds out whether the system ended while a server had the spool.
//!
//! The file `boot` in the spool has the kernel's boot id while a server runs, and is removed when it ends in good order. One
//! with another id is left over from a power cut or a crash of the kernel: records and unlinks of the last moment may be
//! lost. Without the file nothing is known, and nothing is said.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::files;

/// The mark of a server that runs.
#[derive(Debug)]
pub(super) struct Boot {
    path: PathBuf,
    /// The system ended while an earlier server ran.
    pub(super) after_power_cut: bool,
}

const NAME: &str = "boot";
/// Octets of a boot id, at most.
const MARK_MAX: u64 = 100;
const ID: &str = "/proc/sys/kernel/random/boot_id";

impl Boot {
    /// Looks at the mark of an earlier server, and sets this one's. What fails here stops no mail.
    pub(super) fn begin(spool: &Path) -> Self {
        let path = spool.join(NAME);
        let Ok(own) = fs::read_to_string(ID) else { return Self { path, after_power_cut: false } };
        let earlier = files::read(&path, MARK_MAX).ok().and_then(|octets| String::from_utf8(octets).ok());
        let after_power_cut = earlier.is_some_and(|earlier| !earlier.trim().is_empty() && earlier.trim() != own.trim());
        let _ = write(&path, &own);
        Self { path, after_power_cut }
    }

    /// The server has ended, and everything is durable.
    pub(super) fn end(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn write(path: &Path, id: &str) -> io::Result<()> {
    // A FIFO would be waited for, and a symbolic link leads elsewhere.
    if fs::symlink_metadata(path).is_ok_and(|data| !data.is_file()) {
        fs::remove_file(path)?;
    }
    let mut file = File::create(path)?;
    file.write_all(id.as_bytes())?;
    file.sync_data()?;
    path.parent().map_or(Ok(()), |spool| File::open(spool)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;

    #[test]
    fn what_stands_in_its_place_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join(NAME), Mode::S_IRWXU).unwrap();
        assert!(!Boot::begin(dir.path()).after_power_cut);
        assert_eq!(fs::read_to_string(dir.path().join(NAME)).unwrap(), fs::read_to_string(ID).unwrap());
        fs::write(dir.path().join(NAME), "another\n").unwrap();
        let boot = Boot::begin(dir.path());
        assert!(boot.after_power_cut);
        boot.end();
        assert!(!Boot::begin(dir.path()).after_power_cut);
    }
}
