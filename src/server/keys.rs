//! The key helper: root's part of a server that has given up root.
//!
//! A private key belongs to root and should stay so, yet a renewed one must be taken up while the server runs as somebody
//! else. So before it gives up root, the server starts itself once more as this helper. It has no network, knows two
//! paths and two questions (what do they hold, have they changed), is asked over a socket pair on its standard input, and
//! ends when the other end is closed.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::watch::{self, Stamp};
use crate::config::TlsFiles;

/// The word that makes a helper of this program; typed by nobody.
pub const VERB: &str = "key-helper";

/// Where certificate and key are read.
#[derive(Clone, Debug, Default)]
pub struct KeySource(Option<Arc<Helper>>);

#[derive(Debug)]
struct Helper {
    files: TlsFiles,
    socket: Mutex<UnixStream>,
}

/// Question: what do the files hold?
const READ: u8 = b'r';
/// Question: what are their stamps?
const STAMP: u8 = b's';
/// Octets of a file, at most.
const FILE_MAX: u64 = 1 << 20;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

impl KeySource {
    /// Starts a helper for these files; this process must be root.
    pub fn start_helper(files: &TlsFiles) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(TIMEOUT))?;
        ours.set_write_timeout(Some(TIMEOUT))?;
        Command::new(std::env::current_exe()?)
            .arg(VERB)
            .args([&files.certificate, &files.key])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(Some(Arc::new(Helper { files: files.clone(), socket: Mutex::new(ours) }))))
    }

    /// True if somebody else reads the files.
    pub fn is_helper(&self) -> bool {
        self.0.is_some()
    }

    /// The bytes of certificate and key; the path that an error is about comes with it.
    pub fn read(&self, files: &TlsFiles) -> Result<(Vec<u8>, Vec<u8>), (PathBuf, io::Error)> {
        match self.helper_for(files) {
            None => {
                let read = |path: &Path| fs::read(path).map_err(|error| (path.to_owned(), error));
                Ok((read(&files.certificate)?, read(&files.key)?))
            }
            Some(helper) => {
                let mut socket = helper.socket.lock().unwrap_or_else(PoisonError::into_inner);
                let whole = |error| (files.key.clone(), error);
                socket.write_all(&[READ]).map_err(whole)?;
                let certificate = receive(&mut socket).map_err(whole)?;
                let key = receive(&mut socket).map_err(whole)?;
                Ok((certificate.map_err(|error| (files.certificate.clone(), error))?, key.map_err(whole)?))
            }
        }
    }

    /// What of the files changes when they are written.
    pub(super) fn stamps(&self, files: &TlsFiles) -> Vec<Stamp> {
        match self.helper_for(files) {
            None => vec![watch::stamp(&files.certificate), watch::stamp(&files.key)],
            Some(helper) => helper.stamps().unwrap_or_default(),
        }
    }

    /// The helper knows the files that were configured when it was started, and no others.
    fn helper_for(&self, files: &TlsFiles) -> Option<&Helper> {
        self.0.as_deref().filter(|helper| helper.files == *files)
    }
}

impl Helper {
    fn stamps(&self) -> io::Result<Vec<Stamp>> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.write_all(&[STAMP])?;
        let mut bytes = [0; 2 * Stamp::LEN];
        socket.read_exact(&mut bytes)?;
        Ok(bytes.chunks(Stamp::LEN).map(Stamp::from_bytes).collect())
    }
}

/// The helper's whole life.
pub fn help(certificate: &Path, key: &Path) -> io::Result<()> {
    let _ = nix::sys::prctl::set_no_new_privs();
    // Not allowed in some containers; then there is a network that is not used.
    let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut question = [0];
    while socket.read(&mut question)? > 0 {
        match question[0] {
            READ => {
                send(&mut socket, read_some(certificate))?;
                send(&mut socket, read_some(key))?;
            }
            STAMP => {
                socket.write_all(&watch::stamp(certificate).to_bytes())?;
                socket.write_all(&watch::stamp(key).to_bytes())?;
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Length and bytes; or an error's number with the highest bit set.
fn send(socket: &mut UnixStream, outcome: io::Result<Vec<u8>>) -> io::Result<()> {
    match outcome {
        Ok(bytes) => {
            socket.write_all(&(bytes.len() as u32).to_le_bytes())?;
            socket.write_all(&bytes)
        }
        Err(error) => socket.write_all(&(error.raw_os_error().unwrap_or(5) as u32 | 1 << 31).to_le_bytes()),
    }
}

fn receive(socket: &mut UnixStream) -> io::Result<io::Result<Vec<u8>>> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length >> 31 == 1 {
        return Ok(Err(io::Error::from_raw_os_error((length & !(1 << 31)) as i32)));
    }
    if u64::from(length) > FILE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    socket.read_exact(&mut bytes)?;
    Ok(Ok(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_cross_the_socket() {
        let (mut one, mut two) = UnixStream::pair().unwrap();
        send(&mut one, Ok(b"pem".to_vec())).unwrap();
        send(&mut one, Err(io::Error::from_raw_os_error(13))).unwrap();
        assert_eq!(receive(&mut two).unwrap().unwrap(), b"pem");
        assert_eq!(receive(&mut two).unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        one.write_all(&[0xff, 0xff, 0xff, 0x7f]).unwrap();
        assert!(receive(&mut two).is_err(), "a length that no file has");
    }
}
