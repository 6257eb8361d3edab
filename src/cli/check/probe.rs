//! What the machine answers: the rights of an account, and which process listens on a port.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{AccessFlags, User, access, geteuid};

/// The rights of a file's mode: it may be read.
pub(super) const MAY_READ: u32 = 4;
/// The rights of a directory's mode: files may be made in it.
pub(super) const MAY_WRITE: u32 = 3;

/// Whether an account may do this with a file, all directories above it included; without one, this process.
pub(super) fn may(account: Option<&User>, path: &Path, rights: u32) -> bool {
    let Some(account) = account else {
        return access(path, AccessFlags::from_bits_truncate(rights as i32)).is_ok();
    };
    let groups: Vec<u32> = std::ffi::CString::new(account.name.as_str())
        .ok()
        .and_then(|name| nix::unistd::getgrouplist(&name, account.gid).ok())
        .unwrap_or_default()
        .iter()
        .map(|group| group.as_raw())
        .collect();
    let allowed = |path: &Path, rights: u32| {
        fs::metadata(path).is_ok_and(|data| {
            let shift = match (data.uid() == account.uid.as_raw(), groups.contains(&data.gid())) {
                (true, _) => 6,
                (false, true) => 3,
                (false, false) => 0,
            };
            (data.mode() >> shift) & rights == rights
        })
    };
    let Ok(path) = path.canonicalize() else { return false };
    allowed(&path, rights) && path.ancestors().skip(1).all(|above| allowed(above, 1))
}

/// The name of the user that this process runs as.
pub(super) fn own_name() -> String {
    User::from_uid(geteuid()).ok().flatten().map_or_else(|| "this user".to_owned(), |user| user.name)
}

/// Name and number of the process that listens on a port, as far as this user may see it.
pub(super) fn holder(port: u16) -> Option<(String, u32)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    // proc_pid_net(5): field 1 is the local address in hexadecimal, 3 the state (0A listens), 9 the inode.
    let listening = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields.get(3) == Some(&"0A") && fields.get(1).is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
    };
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter(listening)
        .filter_map(|line| line.split_ascii_whitespace().nth(9))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in processes {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let mut links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        if links.any(|link| link.to_str().is_some_and(|link| inodes.iter().any(|inode| inode == link))) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some((name.trim().to_owned(), pid));
        }
    }
    None
}
