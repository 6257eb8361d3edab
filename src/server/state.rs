//! What the server remembers over a restart, below `state`: the networks that logged in lately.
//!
//! Losing it loses no mail. A file that is missing or damaged is no error, and what cannot be read of it is left out; what cannot
//! be written is said in the log, once, and the server goes on. It is written whole under another name and then renamed, a minute
//! after a change at the earliest, and at the end.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::{User, chown, geteuid};

use crate::journal;
use crate::net::history::History;

/// The directory, and when it was written last.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    history: Arc<History>,
    looked: Instant,
    fails: bool,
}

/// The file with the networks.
const NETWORKS: &str = "networks";
/// Changes are written so long after the last at the earliest.
const INTERVAL: Duration = Duration::from_secs(60);
/// Octets that are read at most.
const SIZE_MAX: u64 = 4 << 20;

/// Makes the directory with mode 0700 if there is none, for `user` if this is root. To be done before root is given up, and before
/// the sandbox.
pub fn prepare(directory: &Path, user: &str) -> io::Result<()> {
    if let Some(above) = directory.parent() {
        fs::create_dir_all(above)?;
    }
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    }
    if geteuid().is_root()
        && let Ok(Some(user)) = User::from_name(user)
    {
        chown(directory, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

impl State {
    /// Takes up what is there.
    pub fn open(directory: &Path) -> Self {
        let history = History::default();
        let mut text = Vec::new();
        let read = File::open(directory.join(NETWORKS)).and_then(|file| file.take(SIZE_MAX).read_to_end(&mut text));
        let mut state = Self { directory: directory.to_owned(), history: Arc::default(), looked: Instant::now(), fails: false };
        match read {
            Ok(_) => history.read_text(&String::from_utf8_lossy(&text), SystemTime::now()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => state.complain(&error),
        }
        state.history = Arc::new(history);
        state
    }

    /// What is remembered of networks.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Writes what has changed, if it is time to.
    pub fn tick(&mut self) {
        if self.looked.elapsed() >= INTERVAL {
            self.save();
        }
    }

    /// Writes what has changed.
    pub fn save(&mut self) {
        self.looked = Instant::now();
        if let Some(text) = self.history.to_text()
            && let Err(error) = self.write(&text)
        {
            self.complain(&error);
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let (file, fresh) = (self.directory.join(NETWORKS), self.directory.join(format!("{NETWORKS}.new")));
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(fresh, file)
    }

    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.fails, true) {
            let directory = self.directory.display();
            journal::notice("state", format!("{directory}: {error}; which networks logged in is forgotten at a restart"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::network::Network;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn networks_survive_a_restart_and_damage_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/state");
        prepare(&place, "nobody").unwrap();
        prepare(&place, "nobody").unwrap();
        assert_eq!(place.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let network: Network = "192.0.2.7".parse().unwrap();
        let mut state = State::open(&place);
        state.save();
        assert!(!place.join(NETWORKS).exists(), "nothing to write");
        state.history().logged_in(network, SystemTime::now());
        state.tick();
        assert!(!place.join(NETWORKS).exists(), "a minute after the last at the earliest");
        state.save();
        assert!(State::open(&place).history().is_known(network));
        let mut text = fs::read(place.join(NETWORKS)).unwrap();
        text.splice(0..0, *b"\xff\xfe\0\nhalf a li\n");
        fs::write(place.join(NETWORKS), text).unwrap();
        assert!(State::open(&place).history().is_known(network));
        fs::remove_dir_all(&place).unwrap();
        let mut gone = State::open(&place);
        gone.history().logged_in(network, SystemTime::now());
        gone.save();
        assert!(gone.fails && gone.history().is_known(network), "it goes on without");
    }
}
