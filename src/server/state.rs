//! What the server remembers over a restart, below `state`: the networks that logged in lately, what logins have sent against
//! their limits, and the domains whose servers had TLS.
//!
//! Losing it loses no mail. A file that is missing or damaged is no error, and what cannot be read of it is left out; what cannot
//! be written is said in the log, once, and the server goes on. Each file is written whole under another name and then renamed:
//! networks a minute after a change at the earliest, counts after ten seconds, domains after five minutes, and all at the end.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::{User, chown, geteuid};

use crate::conn::sending::Sending;
use crate::files;
use crate::journal;
use crate::net::history::History;
use crate::policy::sending::Counters;
use crate::relay::servers::Servers;

/// The directory, and when it was written last.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    history: Arc<History>,
    sending: Arc<Sending>,
    looked: Instant,
    counted: Instant,
    fails: bool,
}

/// What the couriers remember, in the same directory.
#[derive(Debug)]
pub struct Domains {
    directory: PathBuf,
    servers: Arc<Servers>,
    looked: Instant,
    fails: bool,
}

/// The file with the networks.
const NETWORKS: &str = "networks";
/// The file with what logins have sent.
const SENDING: &str = "sending";
/// The file with the domains that had TLS.
const SECURED: &str = "secured";
/// Counts are written so long after the last at the earliest.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);
/// Changes are written so long after the last at the earliest.
const INTERVAL: Duration = Duration::from_secs(60);
/// Domains are written so long after the last at the earliest.
const DOMAINS_INTERVAL: Duration = Duration::from_secs(300);
/// Octets that are read at most.
const SIZE_MAX: u64 = 16 << 20;

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
    pub fn open(directory: &Path, sending: Arc<Sending>) -> Self {
        let now = Instant::now();
        let (directory, history) = (directory.to_owned(), Arc::<History>::default());
        let mut state = Self { directory, history, sending, looked: now, counted: now, fails: false };
        match read(&state.directory, NETWORKS) {
            Ok(text) => state.history.read_text(&text, SystemTime::now()),
            Err(error) => state.complain(&error),
        }
        match read(&state.directory, SENDING) {
            Ok(text) => state.sending.read_text(&text),
            Err(error) => state.complain(&error),
        }
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
        } else if self.counted.elapsed() >= COUNT_INTERVAL {
            self.save_counts();
        }
    }

    /// Writes what has changed.
    pub fn save(&mut self) {
        self.looked = Instant::now();
        if let Some(text) = self.history.to_text()
            && let Err(error) = write(&self.directory, NETWORKS, &text)
        {
            self.complain(&error);
        }
        self.save_counts();
    }

    fn save_counts(&mut self) {
        self.counted = Instant::now();
        if let Some(text) = self.sending.to_text(unix_seconds())
            && let Err(error) = write(&self.directory, SENDING, &text)
        {
            self.complain(&error);
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.fails, true) {
            let directory = self.directory.display();
            journal::notice(
                "state",
                format!("{directory}: {error}; which networks logged in and what was sent is forgotten at a restart"),
            );
        }
    }
}

impl Domains {
    /// Takes up what is there, for these.
    pub fn open(directory: &Path, servers: &Arc<Servers>) -> Self {
        let (directory, servers, looked) = (directory.to_owned(), Arc::clone(servers), Instant::now());
        let mut domains = Self { directory, servers, looked, fails: false };
        match read(&domains.directory, SECURED).map(|text| domains.servers.read_secured(&text)) {
            Ok(0) => {}
            Ok(bad) => {
                let file = domains.directory.join(SECURED);
                journal::notice("state", format!("{}: lines that cannot be read are left out: {bad}", file.display()));
            }
            Err(error) => domains.complain(&error),
        }
        domains
    }

    /// Writes what has changed, if it is time to.
    pub fn tick(&mut self) {
        if self.looked.elapsed() >= DOMAINS_INTERVAL {
            self.save();
        }
    }

    /// Writes what has changed.
    pub fn save(&mut self) {
        self.looked = Instant::now();
        if let Some(text) = self.servers.secured_text()
            && let Err(error) = write(&self.directory, SECURED, &text)
        {
            self.complain(&error);
        }
    }

    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.fails, true) {
            let file = self.directory.join(SECURED);
            journal::notice("state", format!("{}: {error}; which domains had TLS is forgotten at a restart", file.display()));
        }
    }
}

/// What logins have sent lately as a server with this state directory has written it last; for those that are no server.
pub fn counters(directory: &Path) -> io::Result<Counters> {
    read(directory, SENDING).map(|text| Counters::parse(&text))
}

/// The time in seconds of Unix time.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A whole file, durable before it has its name.
fn write(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let (file, fresh) = (directory.join(name), directory.join(format!("{name}.new")));
    // Whatever stands there is not written to: to open a FIFO would wait for a reader.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(fresh, file)
}

/// A file's text; empty where there is none. What is no file is not waited for.
fn read(directory: &Path, name: &str) -> io::Result<String> {
    let mut text = Vec::new();
    match files::open(&directory.join(name)).and_then(|(file, _)| file.take(SIZE_MAX).read_to_end(&mut text)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(String::from_utf8_lossy(&text).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::network::Network;
    use std::os::unix::fs::PermissionsExt as _;

    /// To open it would wait for another process, at the start and then with every write.
    #[test]
    fn a_fifo_in_its_place_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = |name: &str| nix::unistd::mkfifo(&dir.path().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        [NETWORKS, SENDING, SECURED].into_iter().for_each(fifo);
        assert_eq!(read(dir.path(), NETWORKS).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(counters(dir.path()).is_err());
        let mut state = State::open(dir.path(), Arc::default());
        assert!(state.fails);
        fifo("networks.new");
        write(dir.path(), NETWORKS, "text\n").unwrap();
        state.save();
        assert_eq!(read(dir.path(), NETWORKS).unwrap(), "text\n");
    }

    #[test]
    fn networks_survive_a_restart_and_damage_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/state");
        prepare(&place, "nobody").unwrap();
        prepare(&place, "nobody").unwrap();
        assert_eq!(place.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let network: Network = "192.0.2.7".parse().unwrap();
        let mut state = State::open(&place, Arc::default());
        state.save();
        assert!(!place.join(NETWORKS).exists(), "nothing to write");
        state.history().logged_in(network, SystemTime::now());
        state.tick();
        assert!(!place.join(NETWORKS).exists(), "a minute after the last at the earliest");
        state.save();
        assert!(State::open(&place, Arc::default()).history().is_known(network));
        let mut text = fs::read(place.join(NETWORKS)).unwrap();
        text.splice(0..0, *b"\xff\xfe\0\nhalf a li\n");
        fs::write(place.join(NETWORKS), text).unwrap();
        assert!(State::open(&place, Arc::default()).history().is_known(network));
        fs::remove_dir_all(&place).unwrap();
        let mut gone = State::open(&place, Arc::default());
        gone.history().logged_in(network, SystemTime::now());
        gone.save();
        assert!(gone.fails && gone.history().is_known(network), "it goes on without");
    }

    #[test]
    fn domains_survive_a_restart_and_damage_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path(), dir.path().join(SECURED));
        let open = || Domains::open(path, &Arc::default());
        let mut domains = open();
        domains.save();
        assert!(!file.exists(), "nothing to write");
        domains.servers.is_downgraded("a.example", true);
        domains.tick();
        assert!(!file.exists(), "five minutes after the last at the earliest");
        domains.save();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let had_tls = |domains: &Domains| domains.servers.is_downgraded("a.example", false);
        assert!(had_tls(&open()));
        let mut text = fs::read(&file).unwrap();
        text.splice(0..0, *b"\xff\xfe\0\nhalf a li\n");
        fs::write(&file, text).unwrap();
        assert!(had_tls(&open()) && !open().fails);
        fs::write(&file, b"\xff").unwrap();
        assert!(!had_tls(&open()) && !open().fails);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let mut blocked = open();
        blocked.servers.is_downgraded("a.example", true);
        blocked.save();
        assert!(blocked.fails && had_tls(&blocked), "it goes on without");
    }
}
