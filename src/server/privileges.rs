//! From root to the user that mail is served as.
//!
//! Done while there is one thread, through libc, so that the whole process changes and not one thread of it.

use std::ffi::CString;
use std::fmt;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, User, getegid, geteuid, initgroups, setgid, setuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Why a process could not become what it should be.
#[derive(Debug)]
pub enum PrivilegeError {
    /// No such user.
    NoUser(String),
    /// The user is root.
    Root(String),
    /// The system refuses.
    System(&'static str, nix::Error),
    /// Capabilities are left.
    Capabilities(String),
}

const NO_CAPABILITIES: CapabilitySets =
    CapabilitySets { effective: CapabilitySet::empty(), permitted: CapabilitySet::empty(), inheritable: CapabilitySet::empty() };

/// Becomes `user` for good if this is root; does nothing otherwise. Files made from now on have no rights for others.
pub fn drop_to(user: &str) -> Result<(), PrivilegeError> {
    umask(Mode::from_bits_truncate(0o077));
    if geteuid().is_root() {
        let account = find(user)?;
        let name = CString::new(user).map_err(|_| PrivilegeError::NoUser(user.to_owned()))?;
        initgroups(&name, account.gid).map_err(|errno| PrivilegeError::System("initgroups", errno))?;
        setgid(account.gid).map_err(|errno| PrivilegeError::System("setgid", errno))?;
        setuid(account.uid).map_err(|errno| PrivilegeError::System("setuid", errno))?;
        // The kernel leaves the inheritable set alone, and some service managers in containers hand one down.
        set_capabilities(None, NO_CAPABILITIES).map_err(|errno| PrivilegeError::Capabilities(errno.to_string()))?;
        // A way back would make all of this worthless: it must be closed, not only unused.
        let back = setuid(Uid::from_raw(0)).is_ok() || setgid(Gid::from_raw(0)).is_ok();
        if back || geteuid() != account.uid || getegid() != account.gid {
            return Err(PrivilegeError::System("setuid", nix::Error::EPERM));
        }
        if has_capabilities() {
            return Err(PrivilegeError::Capabilities("some are left".to_owned()));
        }
    }
    forbid_core_dumps();
    prctl::set_no_new_privs().map_err(|errno| PrivilegeError::System("no_new_privs", errno))
}

/// True if any capability is left (capabilities(7): all but the inheritable ones are cleared when the last root id of a process goes).
fn has_capabilities() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let sets = status.lines().filter(|line| ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"].iter().any(|set| line.starts_with(set)));
    sets.filter_map(|line| line.split_whitespace().nth(1)).any(|set| set.chars().any(|digit| digit != '0'))
}

/// The account of this name, which must not be root's.
pub fn find(user: &str) -> Result<User, PrivilegeError> {
    let account = User::from_name(user).ok().flatten().ok_or_else(|| PrivilegeError::NoUser(user.to_owned()))?;
    if account.uid.is_root() { Err(PrivilegeError::Root(user.to_owned())) } else { Ok(account) }
}

/// Writes no core dump: there may be a password or the key in the memory of this process.
pub fn forbid_core_dumps() {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}

/// Allows as many open files as the system lets this process have; each session takes one or two, and up to eighteen more
/// while its message is linked into many mailboxes.
pub fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536).max(soft), hard);
    }
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUser(user) => {
                write!(f, "user: there is no user `{user}` to run as; make it (useradd --system {user}) or set `user`")
            }
            Self::Root(user) => write!(f, "user: `{user}` is root, which mail is never served as; name another"),
            Self::System(what, errno) => write!(f, "cannot give up root ({what}): {errno}"),
            Self::Capabilities(why) => write!(f, "cannot give up root (capabilities): {why}"),
        }
    }
}
