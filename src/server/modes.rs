//! Files that other users of the machine can read or write, though they should not.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::config::Config;

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const SEARCH: u32 = 0o1;

/// One sentence for each file whose mode is too wide. Only what every user can reach counts: a file in a closed directory is safe
/// whatever its own mode. A file that this process cannot see is in such a directory.
pub fn too_wide(config: &Config, file: &Path) -> Vec<String> {
    let tls = config.tls.as_ref();
    let rows = [
        (Some(file), WRITE, "chmod o-w"),
        (Some(&*config.users), READ | WRITE, "chmod 640, and chgrp to the group of `user`"),
        (config.aliases.as_deref(), WRITE, "chmod o-w"),
        (tls.map(|tls| &*tls.certificate), WRITE, "chmod o-w"),
        (tls.map(|tls| &*tls.key), READ | WRITE, "chmod 600"),
    ];
    let describe = |(path, rights, cure): (Option<&Path>, u32, &str)| {
        let path = path?;
        let found = rights_of_others(path) & rights;
        let what = match (found & READ != 0, found & WRITE != 0) {
            (false, false) => return None,
            (true, false) => "read",
            (false, true) => "write",
            (true, true) => "read and write",
        };
        Some(format!("{}: every user of this machine can {what} it; {cure}", path.display()))
    };
    rows.into_iter().filter_map(describe).collect()
}

/// The rights that the mode gives to users that are neither the owner nor in the group, directories above included.
fn rights_of_others(path: &Path) -> u32 {
    let Ok(path) = path.canonicalize() else { return 0 };
    let mode = |path: &Path| fs::metadata(path).map_or(0, |data| data.mode());
    if path.ancestors().skip(1).all(|above| mode(above) & SEARCH != 0) { mode(&path) & (READ | WRITE) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_wide_mode_counts_where_others_can_get_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let chmod = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let names = ["p.toml", "users", "aliases", "cert.pem", "key.pem"];
        let text = format!(
            "domains = [\"x.example\"]\nusers = \"{0}/users\"\naliases = \"{0}/aliases\"\n[tls]\ncertificate = \"{0}/cert.pem\"\nkey = \"{0}/key.pem\"\n",
            dir.path().display()
        );
        let config = Config::parse(&text, Path::new("p.toml"), || Some("mx.example.org".into())).unwrap();
        let file = dir.path().join("p.toml");
        let found = |mode: u32| {
            for name in names {
                fs::write(dir.path().join(name), "").unwrap();
                chmod(&dir.path().join(name), mode);
            }
            too_wide(&config, &file)
        };
        chmod(dir.path(), 0o755);
        assert_eq!(found(0o640), Vec::<String>::new());
        let readable = found(0o644);
        assert!(readable.len() == 2 && readable[0].contains("users: every user of this machine can read it"), "{readable:?}");
        assert!(readable[1].contains("key.pem"), "{readable:?}");
        assert_eq!(found(0o666).len(), names.len());
        chmod(dir.path(), 0o700);
        assert_eq!(found(0o666), Vec::<String>::new(), "no other user gets there");
    }
}
