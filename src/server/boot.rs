//! Finds out whether the system ended while a server had the spool.
//!
//! The file `boot` in the spool has the kernel's boot id while a server runs, and is removed when it ends in good order. One
//! with another id is left over from a power cut or a crash of the kernel: records and unlinks of the last moment may be
//! lost. Without the file nothing is known, and nothing is said.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The mark of a server that runs.
#[derive(Debug)]
pub(super) struct Boot {
    path: PathBuf,
    /// The system ended while an earlier server ran.
    pub(super) after_power_cut: bool,
}

const NAME: &str = "boot";
const ID: &str = "/proc/sys/kernel/random/boot_id";

impl Boot {
    /// Looks at the mark of an earlier server, and sets this one's. What fails here stops no mail.
    pub(super) fn begin(spool: &Path) -> Self {
        let path = spool.join(NAME);
        let Ok(own) = fs::read_to_string(ID) else { return Self { path, after_power_cut: false } };
        let earlier = fs::read_to_string(&path).ok();
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
    let mut file = File::create(path)?;
    file.write_all(id.as_bytes())?;
    file.sync_data()?;
    path.parent().map_or(Ok(()), |spool| File::open(spool)?.sync_all())
}
