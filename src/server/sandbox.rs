//! Landlock limits files, TCP ports and signals to what is needed. Without kernel support the process runs unconfined, and says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, LandlockStatus, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use super::keys::{self, directories};
use crate::auth::passwd;
use crate::config::Config;

/// What a process may reach; everything else is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Directories that are read, with what is below.
    pub reads: BTreeSet<PathBuf>,
    /// Directories that are written, with what is below.
    pub writes: BTreeSet<PathBuf>,
    /// TCP ports of other hosts that are connected to. No port is listened on but those that are bound before.
    pub connects: BTreeSet<u16>,
}

/// What of a sandbox the kernel enforces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enforced {
    /// Reading and writing files, from Linux 5.13; all ways to change one from 6.2.
    pub files: bool,
    /// Binding and connecting TCP sockets, from Linux 6.7.
    pub tcp: bool,
    /// Signals to processes outside, from Linux 6.12.
    pub signals: bool,
}

impl Access {
    /// True if a process that is confined to this can do what needs the other.
    pub fn covers(&self, other: &Self) -> bool {
        let within = |path: &PathBuf, set: &BTreeSet<PathBuf>| set.iter().any(|known| path.starts_with(known));
        other.reads.iter().all(|path| within(path, &self.reads) || within(path, &self.writes))
            && other.writes.iter().all(|path| within(path, &self.writes))
            && other.connects.is_subset(&self.connects)
    }
}

impl Enforced {
    /// Everything.
    pub const ALL: Self = Self { files: true, tcp: true, signals: true };

    /// The parts that are enforced, for the log.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let rows = [(self.files, "files"), (self.tcp, "tcp"), (self.signals, "signals")];
        rows.into_iter().filter(|(enforced, _)| *enforced).map(|(_, word)| word)
    }
}

/// What the system's resolver reads: its files, and the libraries of its modules.
const FOR_NAMES: [&str; 12] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/ld.so.cache",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/systemd/resolve",
    "/run/resolvconf",
];
/// Where distributions keep the authorities that are trusted.
const AUTHORITIES: [&str; 5] =
    ["/etc/ssl", "/etc/pki", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc/ca-certificates"];
/// Answers that are cut come over TCP.
const DNS_PORT: u16 = 53;

/// The version of the interface that was written for; the kernel may know less or more.
const KNOWN: ABI = ABI::V6;

/// What a server with this configuration must reach. `file` is the configuration's own; files are named by their
/// directories, since they are replaced while the server runs. With `keys`, certificate and keys are read by a helper.
pub fn access(config: &Config, file: &Path, keys: bool) -> Access {
    let mut reads = BTreeSet::from([PathBuf::from("/usr/share/zoneinfo"), PathBuf::from("/etc/localtime")]);
    let secret = if keys { Vec::new() } else { keys::paths(config) };
    for path in [file, &config.users].into_iter().chain(config.aliases.as_deref()).chain(secret.iter().map(PathBuf::as_path)) {
        reads.extend(directories(path));
    }
    // Without `state` the server goes on, so it need not be there.
    let state = Some(config.state.clone()).filter(|path| path.exists());
    let spool = config.outgoing.as_ref().map(|outgoing| outgoing.spool.clone());
    let writes = [existing(&config.maildir.root())].into_iter().chain(state).chain(spool).collect();
    let mut connects = BTreeSet::new();
    for route in config.outgoing.iter().flat_map(|outgoing| outgoing.routes.values()) {
        connects.insert(route.url.port);
        reads.extend([&route.password_file, &route.ca].into_iter().flatten().flat_map(|file| directories(file)));
    }
    if !config.local.is_empty() {
        // The file is replaced when a user is added, so its directory is named.
        reads.extend(Path::new(passwd::PATH).parent().map(Path::to_owned));
    }
    if let Some(outgoing) = &config.outgoing {
        connects.insert(DNS_PORT);
        connects.extend(outgoing.resolver.map(|server| server.port()));
        connects.extend(outgoing.uses_mx().then_some(outgoing.mx_port));
        reads.extend(FOR_NAMES.iter().chain(&AUTHORITIES).map(PathBuf::from));
        reads.extend(named_authorities());
    }
    Access { reads, writes, connects }
}

/// Authorities that the environment names, as OpenSSL does.
fn named_authorities() -> Vec<PathBuf> {
    ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().filter_map(std::env::var_os).map(PathBuf::from).collect()
}

/// A directory that is made later is reached through the one above it.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

/// Confines this process and all its threads for good.
pub fn confine(access: &Access) -> Result<Enforced, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Nothing is run, and no device is made or driven.
    let write = AccessFs::from_all(KNOWN) & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::Signal)?
        .create()?;
    for (paths, rights) in [(&access.reads, read), (&access.writes, write)] {
        for fd in paths.iter().filter_map(|path| PathFd::new(path).ok()) {
            ruleset = ruleset.add_rule(PathBeneath::new(fd, rights))?;
        }
    }
    for port in &access.connects {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    if !access.connects.is_empty() {
        // A source address is bound with port 0: any free one.
        ruleset = ruleset.add_rule(NetPort::new(0, AccessNet::BindTcp))?;
    }
    let status = ruleset.restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => Enforced::default(),
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            Enforced { files: true, tcp: effective_abi >= ABI::V4, signals: effective_abi >= ABI::V6 }
        }
        _ => Enforced { files: true, ..Enforced::default() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_covers_what() {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<BTreeSet<_>>();
        let wide = Access { reads: paths(&["/etc"]), writes: paths(&["/var/mail", "/var/spool"]), connects: [25, 465].into() };
        let narrow = |reads: &[&str], writes: &[&str], connects: &[u16]| Access {
            reads: paths(reads),
            writes: paths(writes),
            connects: connects.iter().copied().collect(),
        };
        assert!(wide.covers(&wide) && wide.covers(&Access::default()));
        assert!(wide.covers(&narrow(&["/etc/pillarbox", "/var/spool/x"], &["/var/mail/x"], &[25])));
        assert!(!wide.covers(&narrow(&["/home"], &[], &[])), "read");
        assert!(!wide.covers(&narrow(&[], &["/etc"], &[])), "written");
        assert!(!wide.covers(&narrow(&[], &["/var/mail", "/var/mailx"], &[])), "a name that only begins the same");
        assert!(!wide.covers(&narrow(&[], &[], &[587])), "connected to");
    }

    /// It holds for the thread alone that asks for it, and for those that it starts.
    #[test]
    fn what_is_not_granted_is_denied() {
        use std::fs;
        use std::io::ErrorKind;
        use std::net::{TcpListener, TcpStream};

        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (read, write) = (dir.path().join("read"), dir.path().join("write"));
        for path in [&read, &write] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
        }
        let (granted, denied) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (granted, denied) = (granted.local_addr().unwrap(), denied.local_addr().unwrap());
        let confined = move || {
            let access =
                Access { reads: [read.clone()].into(), writes: [write.clone()].into(), connects: [granted.port()].into() };
            let enforced = confine(&access).unwrap();
            let kind = |outcome: std::io::Result<()>| outcome.err().map(|error| error.kind());
            if enforced.files {
                assert!(fs::read(read.join("file")).is_ok() && fs::write(write.join("file"), "y").is_ok());
                assert_eq!(kind(fs::write(read.join("file"), "y")), Some(ErrorKind::PermissionDenied));
                assert_eq!(kind(fs::write(elsewhere.path().join("file"), "y")), Some(ErrorKind::PermissionDenied));
                assert_eq!(kind(fs::read("/etc/passwd").map(drop)), Some(ErrorKind::PermissionDenied));
            }
            if enforced.tcp {
                assert_ne!(kind(TcpStream::connect(granted).map(drop)), Some(ErrorKind::PermissionDenied));
                assert_eq!(kind(TcpStream::connect(denied).map(drop)), Some(ErrorKind::PermissionDenied));
                assert_eq!(kind(TcpListener::bind("127.0.0.1:2525").map(drop)), Some(ErrorKind::PermissionDenied));
            }
            enforced
        };
        let enforced = std::thread::spawn(confined).join().unwrap();
        if enforced != Enforced::ALL {
            crate::skipped(&format!("this kernel enforces {:?} only", enforced.words().collect::<Vec<_>>()));
        }
    }
}
