//! What this machine has of what a configuration needs: the account, rights of files, Maildirs, room on the disks, ports,
//! local sockets, and the time that a password takes.
//!
//! Nothing is made or changed; a port is bound for the time of the question.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use super::Report;
use super::probe::{self, MAY_READ, MAY_WRITE, holder, may};
use crate::config::{Config, LocalSocket};
use crate::mail::space::{FLOOR_MAX, free_space};
use crate::net::handover;
use crate::server::privileges;

/// The account that mail is served as, if it is another than this process has: `user` for root.
pub(super) fn run_as(config: &Config, report: &mut Report) -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    match privileges::find(&config.user) {
        Ok(account) => {
            report.ok("user", format!("runs as {}", config.user));
            Some(account)
        }
        Err(error) => {
            report.error("user", error);
            None
        }
    }
}

/// The files that are read again while the server runs, as its user, and cannot be. `account` is the user where this
/// process is another.
pub(super) fn unreadable(config: &Config, file: &Path, account: Option<&User>) -> Vec<String> {
    let routes = config.outgoing.iter().flat_map(|outgoing| outgoing.routes.values());
    let of_routes = routes.flat_map(|route| [route.password_file.as_deref(), route.ca.as_deref()]);
    let files = [Some(file), Some(&config.users), config.aliases.as_deref()].into_iter().chain(of_routes).flatten();
    let cannot = |file: &&Path| file.exists() && !may(account, file, MAY_READ);
    files
        .filter(cannot)
        .map(|file| {
            let name = &config.user;
            format!(
                "{}: `{name}` may not read it, and so not take up a change; chmod 640, and chgrp to the group of `{name}`",
                file.display()
            )
        })
        .collect()
}

pub(super) fn maildirs(config: &Config, logins: &[String], account: Option<&User>, report: &mut Report) {
    let bad = unwritable(config, logins, account);
    if bad.is_empty() {
        report.ok("maildir", format!("{}: can be written", config.maildir.root().display()));
    }
    bad.into_iter().for_each(|text| report.error("maildir", text));
}

/// What cannot be written of the Maildirs that are there, and of the place where the others will be made.
pub(super) fn unwritable(config: &Config, logins: &[String], account: Option<&User>) -> Vec<String> {
    let root = config.maildir.root();
    let there = root.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return vec![format!("{}: is no directory; move it away or correct `maildir`", there.display())];
    }
    let name = account.map_or_else(probe::own_name, |account| account.name.clone());
    let mut bad = Vec::new();
    if !may(account, there, MAY_WRITE) {
        let cure = format!("mkdir -p {0}; chown {name} {0}", root.display());
        bad.push(format!("{}: {name} may not write there; {cure}", there.display()));
    }
    for login in logins.iter().filter(|login| config.is_local(login)) {
        let Some(place) = foreign(&root, &config.maildir.of(login), account) else { continue };
        let text = format!("{0}: {name} may not write there; chown -R {name}: {0}", place.display());
        if !bad.contains(&text) {
            bad.push(text);
        }
    }
    bad
}

/// The topmost of what is there between `root` and the inside of a Maildir that cannot be written: after a restore, all of it.
fn foreign(root: &Path, maildir: &Path, account: Option<&User>) -> Option<PathBuf> {
    let mut above: Vec<&Path> = maildir.ancestors().take_while(|ancestor| *ancestor != root).collect();
    above.reverse();
    let inside = ["new", "tmp", "cur"].map(|part| maildir.join(part));
    let all = above.into_iter().map(Path::to_owned).chain(inside);
    all.into_iter().find(|place| place.exists() && !(place.is_dir() && may(account, place, MAY_WRITE)))
}

/// Capacity on the file system of a directory.
pub(super) fn space(root: &Path, report: &mut Report) {
    let there = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let Ok(space) = free_space(there) else { return };
    let known = format!("{}: ", there.display());
    if report.0.iter().any(|(part, _, text)| *part == "space" && text.starts_with(&known)) {
        return;
    }
    let inodes = space.inodes.map(|inodes| format!(" and {inodes} inodes")).unwrap_or_default();
    let text = format!("{}: {} MiB{inodes} are free", there.display(), space.free >> 20);
    if space.free < FLOOR_MAX || space.inodes.is_some_and(|inodes| inodes < INODES_MIN) {
        report.warning("space", format!("{text}; make room"));
    } else {
        report.ok("space", text);
    }
}

pub(super) fn ports(config: &Config, report: &mut Report) {
    if config.listen.is_empty() && config.local.is_empty() {
        report.error(
            "ports",
            "[listen] names no address; give one for smtp, submission, submissions or local, unless sockets are handed over",
        );
    }
    for entry in &config.local {
        local_socket(entry, report);
    }
    for (address, service) in &config.listen {
        let name = format!("{} {address}", service.name());
        match handover::bind(*address, config.lists_ipv4(address.port())) {
            Ok(_) if address.port() == 0 => report.warning(
                "ports",
                format!(
                    "{name}: with port 0 the system chooses one, another at each start; give the one that clients connect to"
                ),
            ),
            Ok(_) => report.ok("ports", name),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => match holder(address.port()) {
                Some((process, _)) if process == "pillarbox" => {
                    report.ok("ports", format!("{name}: pillarbox listens there now"))
                }
                Some((process, pid)) => {
                    report.error("ports", format!("{name}: {process} (process {pid}) listens there; stop it or choose another"))
                }
                None => report.error("ports", format!("{name}: a process listens there; stop it or choose another")),
            },
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                report.warning("ports", format!("{name}: needs root, or a socket handed over by the service manager"));
            }
            Err(error) => report.error("ports", format!("{name}: {error}; choose an address that this host has")),
        }
    }
}

/// What would keep a local socket from being made; none is made here.
fn local_socket(entry: &LocalSocket, report: &mut Report) {
    let name = format!("local {}", entry.path.display());
    let group = entry.group.as_deref().filter(|group| !matches!(nix::unistd::Group::from_name(group), Ok(Some(_))));
    let kind = fs::symlink_metadata(&entry.path).map(|there| there.file_type().is_socket());
    match (group, kind) {
        (Some(group), _) => report.error("ports", format!("{name}: there is no group `{group}`; make it, or name another")),
        (None, Ok(false)) => report.error("ports", format!("{name}: there is a file that is no socket; remove it")),
        (None, _) => report.ok("ports", name),
    }
}

/// What checking a password takes on this machine, measured; and how many can be checked at once.
pub(super) fn hash_costs(config: &Config, users: &crate::auth::users::Users, report: &mut Report) {
    let mut costs: Vec<_> = users.all().map(|(_, password)| password.hash.cost()).collect();
    costs.sort_unstable();
    costs.dedup();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let mut scratch = crate::auth::argon::Scratch::default();
    for cost in costs.into_iter().take(8) {
        // Once for the memory, which the server keeps; once for the time.
        crate::auth::argon::dummy_hash(cost, b"a password", &mut scratch);
        let begun = std::time::Instant::now();
        crate::auth::argon::dummy_hash(cost, b"a password", &mut scratch);
        let took = begun.elapsed().as_millis();
        let at_once = cores.min(config.limits.hash_memory / cost.octets().max(1)).max(1);
        let text = format!("argon2 with {} MiB and {} passes takes {took} ms", cost.octets() >> 20, cost.passes);
        report.ok(
            "hashes",
            format!("{text}; {at_once} at once on {cores} cores within hash_memory, for {} workers", config.limits.workers),
        );
    }
}

/// Free inodes of a file system below which there is a warning.
const INODES_MIN: u64 = 1000;
