//! Local sockets: made where they are configured, in one step, so that no caller sees one that is half made.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Listens at `path` with this mode and group. What was left there by a server that has ended is replaced; a socket that is
/// listened on, or what is no socket, is an error. The directory is made if it is missing.
pub fn bind(path: &Path, mode: u32, group: Option<u32>) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket; remove it"));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => {}
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        fs::create_dir_all(directory)?;
        // Whatever the umask is, callers must get there.
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(&fresh)?;
    let finish = || {
        chown(&fresh, None, group)?;
        fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
        fs::rename(&fresh, path)
    };
    match finish() {
        Ok(()) => Ok(socket),
        Err(error) => {
            let _ = fs::remove_file(&fresh);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/submit");
        let first = bind(&path, 0o666, None).unwrap();
        assert_eq!(dir.path().join("a").metadata().unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(bind(&path, 0o666, None).unwrap_err().kind(), ErrorKind::AddrInUse, "it is listened on");
        drop(first);
        assert!(UnixStream::connect(&path).is_err(), "stale");
        let _second = bind(&path, 0o600, None).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert_eq!(bind(&file, 0o666, None).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }
}
