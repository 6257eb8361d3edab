//! Landlock limits file access to what is needed. Without kernel support the server runs unconfined.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};

use crate::config::Config;

/// The directories that the server reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Read, with what is below.
    pub reads: BTreeSet<PathBuf>,
    /// Written, with what is below.
    pub writes: PathBuf,
}

impl Access {
    /// True if a process that is confined to this can do what needs the other.
    pub fn covers(&self, other: &Self) -> bool {
        let reads = |path: &PathBuf| self.reads.iter().any(|known| path.starts_with(known)) || path.starts_with(&self.writes);
        other.reads.iter().all(reads) && other.writes.starts_with(&self.writes)
    }
}

/// The version of the interface that was written for; the kernel may know less or more.
const KNOWN: ABI = ABI::V5;

/// What a server with this configuration must reach. `file` is the configuration's own; files are named by their
/// directories, since they are replaced while the server runs. With `keys`, certificate and key are read by a helper.
pub fn access(config: &Config, file: &Path, keys: bool) -> Access {
    let mut reads = BTreeSet::from([PathBuf::from("/usr/share/zoneinfo"), PathBuf::from("/etc/localtime")]);
    let pair = config.tls.iter().filter(|_| !keys).flat_map(|tls| [&tls.certificate, &tls.key]);
    for path in [file, &config.users].into_iter().chain(config.aliases.as_deref()).chain(pair.map(PathBuf::as_path)) {
        for path in [path.to_owned(), path.canonicalize().unwrap_or_else(|_| path.to_owned())] {
            reads.extend(path.parent().map(Path::to_owned));
        }
    }
    // certbot keeps the files in archive/ and links to them from live/.
    let root = config.maildir.root();
    let writes = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned();
    Access { reads, writes }
}

/// Confines this process and all its threads for good; true if the kernel did.
pub fn confine(access: &Access) -> Result<bool, RulesetError> {
    let mut ruleset =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(KNOWN))?.create()?;
    for path in &access.reads {
        if let Ok(fd) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(fd, AccessFs::from_read(KNOWN)))?;
        }
    }
    if let Ok(fd) = PathFd::new(&access.writes) {
        ruleset = ruleset.add_rule(PathBeneath::new(fd, AccessFs::from_all(KNOWN)))?;
    }
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}
