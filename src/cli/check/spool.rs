//! What `check` finds out about the spool: whether the run-time user can write it, what waits in it, what room it has.
//!
//! It takes no lock and changes nothing, so it may run beside the server.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{User, geteuid};

use super::Report;
use super::probe::{MAY_WRITE, may, own_name};
use crate::queue::QueueId;

/// The directories below it that messages are in.
const PARTS: [&str; 3] = ["tmp", "queue", "held"];
/// The right of a directory's mode: what is below it may be reached.
const MAY_ENTER: u32 = 1;
/// Rights that the owner alone should have.
const OTHERS: u32 = 0o077;

pub(super) fn look(spool: &Path, account: Option<&User>, report: &mut Report) {
    let name = account.map_or_else(own_name, |account| account.name.clone());
    let shown = spool.display();
    let Ok(data) = fs::metadata(spool) else { return missing(spool, &name, account, report) };
    if !data.is_dir() {
        return report.error("spool", format!("{shown}: is no directory; move it away or correct `outgoing.spool`"));
    }
    let cure = format!("chown -R {name} {shown}");
    let places = PARTS.iter().map(|part| spool.join(part)).filter(|part| part.exists()).chain([spool.to_owned()]);
    let closed: Vec<_> = places.filter(|place| !may(account, place, MAY_WRITE)).collect();
    for place in &closed {
        report.error("spool", format!("{}: {name} may not write there; {cure}", place.display()));
    }
    if data.mode() & OTHERS != 0 {
        report.warning("spool", format!("{shown}: others than its owner may enter it; chmod 0700 {shown}"));
    }
    if closed.is_empty() {
        let (queued, held) = (messages(&spool.join("queue")), messages(&spool.join("held")));
        let queued = if queued == 1 { "1 message waits".to_owned() } else { format!("{queued} messages wait") };
        report.ok("spool", format!("{shown}: {name} can write it; {queued}, {held} held"));
    }
}

/// It is made at the first start, by root for the user, or by the user itself.
fn missing(spool: &Path, name: &str, account: Option<&User>, report: &mut Report) {
    let shown = spool.display();
    let above = spool.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let makes = geteuid().is_root() || may(None, above, MAY_WRITE);
    let cure = format!("install -d -o {name} -m 0700 {shown}");
    if !above.is_dir() || !makes || !may(account, above, MAY_ENTER) {
        return report.error("spool", format!("{shown}: is not there, and cannot be made and used by {name}; {cure}"));
    }
    report.ok("spool", format!("{shown}: will be made at the first start; under systemd make it before: {cure}"));
}

/// How many messages are in a directory of the spool.
fn messages(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<QueueId>().is_ok())).count()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn rows(spool: &Path) -> Vec<(bool, String)> {
        let mut report = Report(Vec::new());
        look(spool, None, &mut report);
        report.0.into_iter().map(|(_, level, text)| (level == Level::Ok, text)).collect()
    }

    #[test]
    fn what_is_there_and_what_is_not() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("spool");
        assert!(matches!(&rows(&spool)[..], [(true, text)] if text.contains("first start")));
        for part in PARTS {
            fs::create_dir_all(spool.join(part)).unwrap();
        }
        fs::set_permissions(&spool, fs::Permissions::from_mode(0o700)).unwrap();
        for file in ["queue/06qz8x1c2v3b4", "queue/06qz8x1c2v3b5", "queue/note", "held/06qz8x1c2v3b6"] {
            fs::write(spool.join(file), "").unwrap();
        }
        let found = rows(&spool);
        assert!(matches!(&found[..], [(true, text)] if text.ends_with("2 messages wait, 1 held")), "{found:?}");
        fs::set_permissions(&spool, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(rows(&spool).iter().any(|(ok, text)| !ok && text.contains("chmod 0700")));
        fs::remove_dir_all(&spool).unwrap();
        fs::write(&spool, "").unwrap();
        assert!(matches!(&rows(&spool)[..], [(false, text)] if text.contains("is no directory")));
    }
}
