//! The key helper: root's part of a server that has given up root.
//!
//! A private key belongs to root and should stay so, yet a renewed one must be taken up while the server runs as another user. So
//! before it gives up root, the server starts itself once more as this helper. It knows two paths and two questions (what do
//! they hold, have they changed), is asked over a socket pair on its standard input, and ends when the other end is closed.
//!
//! The helper confines itself before the first question: no capability but CAP_DAC_READ_SEARCH, no file but those in the
//! directories of the two paths, and those only to be read, no TCP; and a network of its own where root may make one. What of that
//! the system refused is told to the server, which logs it.
//!
//! Questions and answers are numbered: an answer that comes after its question was given up is skipped. A helper that has ended
//! cannot be started again, as root is gone; that is logged once, and named wherever the pair is to be read afterwards.

mod confinement;
mod link;

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::files;
use super::watch::{self, Stamp};
use crate::config::TlsFiles;
use crate::journal;
use link::{Link, answer};

/// The word that makes a helper of this program; not typed by people.
pub const VERB: &str = "key-helper";

/// Where certificate and key are read.
#[derive(Clone, Debug, Default)]
pub struct KeySource(Option<Arc<Helper>>);

#[derive(Debug)]
struct Helper {
    files: TlsFiles,
    /// What it confined itself to.
    confinement: String,
    asked: Mutex<Asked>,
}

#[derive(Debug)]
struct Asked {
    /// `None` once the helper has ended.
    link: Option<Link>,
    child: Child,
}

/// Question: what do the files hold?
const READ: u8 = b'r';
/// Question: what are their stamps?
const STAMP: u8 = b's';
/// Octets of a file, at most.
const FILE_MAX: u64 = 1 << 20;

impl KeySource {
    /// Starts a helper for these files; this process must be root.
    pub fn start_helper(files: &TlsFiles) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(std::env::current_exe()?)
            .arg(VERB)
            .args([&files.certificate, &files.key])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut link = Link::new(ours);
        let confinement = String::from_utf8_lossy(&link.hello()?).into_owned();
        let asked = Mutex::new(Asked { link: Some(link), child });
        Ok(Self(Some(Arc::new(Helper { files: files.clone(), confinement, asked }))))
    }

    /// True if the helper reads the files.
    pub fn is_helper(&self) -> bool {
        self.0.is_some()
    }

    /// What the helper confined itself to, in words with commas between; `None` without a helper.
    pub fn confinement(&self) -> Option<&str> {
        self.0.as_ref().map(|helper| helper.confinement.as_str())
    }

    /// The bytes of certificate and key; the path that an error is about comes with it.
    pub fn read(&self, files: &TlsFiles) -> Result<(Vec<u8>, Vec<u8>), (PathBuf, io::Error)> {
        let (certificate, key) = match self.helper_for(files) {
            None => {
                let certificate = files::read(&files.certificate, FILE_MAX);
                (certificate, files::read(&files.key, FILE_MAX))
            }
            Some(helper) => {
                let text = helper.ask(READ).map_err(|error| (files.key.clone(), error))?;
                let mut rest = &text[..];
                (take_part(&mut rest), take_part(&mut rest))
            }
        };
        Ok((certificate.map_err(|error| (files.certificate.clone(), error))?, key.map_err(|error| (files.key.clone(), error))?))
    }

    /// What of the files changes when they are written; `None` if the helper does not say in time.
    pub(super) fn stamps(&self, files: &TlsFiles) -> Option<Vec<Stamp>> {
        let own = || vec![watch::stamp(&files.certificate), watch::stamp(&files.key)];
        match self.helper_for(files) {
            None => Some(own()),
            Some(helper) => match helper.ask(STAMP) {
                Ok(bytes) => Some(bytes.chunks(Stamp::LEN).map(Stamp::from_bytes).collect()),
                // As far as this process may look, so that a renewal is still noticed, and said to be impossible.
                Err(_) if helper.has_ended() => Some(own()),
                Err(_) => None,
            },
        }
    }

    /// The helper knows the files that were configured when it was started, and no others.
    fn helper_for(&self, files: &TlsFiles) -> Option<&Helper> {
        self.0.as_deref().filter(|helper| helper.files == *files)
    }
}

impl Helper {
    fn ask(&self, question: u8) -> io::Result<Vec<u8>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = &mut asked.link else { return Err(ended()) };
        match link.ask(question) {
            Err(error) if error.kind() != io::ErrorKind::TimedOut => {
                asked.link = None;
                let status = asked.child.try_wait().ok().flatten().map_or(String::new(), |status| format!(" with {status}"));
                journal::notice("key-helper", format!("the key helper has ended{status} ({error}): {CURE}"));
                Err(ended())
            }
            outcome => outcome,
        }
    }

    fn has_ended(&self) -> bool {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).link.is_none()
    }
}

const CURE: &str = "no renewed certificate is taken up any more; restart the server";

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, format!("the key helper has ended: {CURE}"))
}

/// The helper's whole life.
pub fn help(certificate: &Path, key: &Path) -> io::Result<()> {
    let confinement = confinement::confine([certificate, key]);
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    answer(&mut socket, 0, confinement.as_bytes())?;
    let mut question = [0; link::QUESTION_LEN];
    loop {
        match socket.read_exact(&mut question) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let (kind, number) = link::question(&question);
        let text = match kind {
            READ => {
                let mut parts = Vec::new();
                put_part(&mut parts, files::read(certificate, FILE_MAX));
                put_part(&mut parts, files::read(key, FILE_MAX));
                parts
            }
            STAMP => [watch::stamp(certificate), watch::stamp(key)].map(Stamp::to_bytes).concat(),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        answer(&mut socket, number, &text)?;
    }
}

/// Length and bytes; or an error's number with the highest bit set.
fn put_part(text: &mut Vec<u8>, outcome: io::Result<Vec<u8>>) {
    match outcome {
        Ok(bytes) => {
            text.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            text.extend_from_slice(&bytes);
        }
        Err(error) => {
            let own = match error.kind() {
                io::ErrorKind::InvalidInput => nix::Error::EINVAL as i32,
                io::ErrorKind::FileTooLarge => nix::Error::EFBIG as i32,
                _ => nix::Error::EIO as i32,
            };
            text.extend_from_slice(&(error.raw_os_error().unwrap_or(own) as u32 | 1 << 31).to_le_bytes());
        }
    }
}

fn take_part(rest: &mut &[u8]) -> io::Result<Vec<u8>> {
    let broken = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (length, after) = rest.split_first_chunk().ok_or_else(broken)?;
    *rest = after;
    let length = u32::from_le_bytes(*length);
    if length >> 31 == 1 {
        let number = (length & !(1 << 31)) as i32;
        return Err(match nix::Error::from_raw(number) {
            nix::Error::EINVAL => files::not_regular(),
            nix::Error::EFBIG => files::too_large(),
            _ => io::Error::from_raw_os_error(number),
        });
    }
    let (bytes, after) = rest.split_at_checked(length as usize).ok_or_else(broken)?;
    *rest = after;
    Ok(bytes.to_vec())
}

/// The directories in which a path and what it links to stand.
fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    [path.to_owned(), real].into_iter().filter_map(|path| path.parent().map(Path::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_and_taken() {
        let mut text = Vec::new();
        put_part(&mut text, Ok(b"pem".to_vec()));
        put_part(&mut text, Err(io::Error::from_raw_os_error(13)));
        put_part(&mut text, Err(files::not_regular()));
        let mut rest = &text[..];
        assert_eq!(take_part(&mut rest).unwrap(), b"pem");
        assert_eq!(take_part(&mut rest).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(take_part(&mut rest).unwrap_err().to_string(), files::not_regular().to_string());
        assert!(take_part(&mut rest).is_err(), "nothing is left");
        assert!(take_part(&mut &[9, 0, 0, 0, 1][..]).is_err(), "a length that is not there");
    }
}
