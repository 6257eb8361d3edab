//! The key helper: root's part of a server that has given up root.
//!
//! A private key belongs to root and should stay so, yet a renewed one must be taken up while the server runs as another user. So
//! before it gives up root, the server starts itself once more as this helper. It knows the paths that it was started with, those
//! of the certificate, of its key and of the keys that sign, and two questions (what do they hold, have they changed), is asked over a socket pair on its standard input, and ends when the other end is closed.
//!
//! The helper confines itself before the first question: no capability but CAP_DAC_READ_SEARCH, no file but those in the
//! directories of these paths, and those only to be read, no TCP; and a network of its own where root may make one. What of that
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

use super::watch::{self, Stamp};
use crate::config::{Config, TlsFiles};
use crate::files;
use crate::journal;
use link::{Link, answer};

/// The word that makes a helper of this program; not typed by people.
pub const VERB: &str = "key-helper";

/// Where certificate and keys are read.
#[derive(Clone, Debug, Default)]
pub struct KeySource(Option<Arc<Helper>>);

#[derive(Debug)]
struct Helper {
    paths: Vec<PathBuf>,
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

/// What a file holds, and the rights in its mode.
pub(super) type Held = (u32, Vec<u8>);

/// Question: what do the files hold?
const READ: u8 = b'r';
/// Question: what are their stamps?
const STAMP: u8 = b's';
/// Octets of a file, at most.
const FILE_MAX: u64 = 1 << 20;

/// The files of a configuration that may be root's alone.
pub fn paths(config: &Config) -> Vec<PathBuf> {
    let pair = config.tls.iter().flat_map(pair);
    pair.chain(config.dkim_files()).collect()
}

fn pair(files: &TlsFiles) -> [PathBuf; 2] {
    [files.certificate.clone(), files.key.clone()]
}

impl KeySource {
    /// Starts a helper for these files; this process must be root.
    pub fn start_helper(paths: &[PathBuf]) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(std::env::current_exe()?)
            .arg(VERB)
            .args(paths)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut link = Link::new(ours);
        let confinement = String::from_utf8_lossy(&link.hello()?).into_owned();
        let asked = Mutex::new(Asked { link: Some(link), child });
        Ok(Self(Some(Arc::new(Helper { paths: paths.to_vec(), confinement, asked }))))
    }

    /// True if a helper reads the files.
    pub fn is_helper(&self) -> bool {
        self.0.is_some()
    }

    /// True if all these files can be read here: the helper knows those that were configured when it was started, and no
    /// others.
    pub fn knows(&self, paths: &[PathBuf]) -> bool {
        self.0.as_ref().is_none_or(|helper| helper.knows(paths))
    }

    /// What the helper confined itself to, in words with commas between; `None` without a helper.
    pub fn confinement(&self) -> Option<&str> {
        self.0.as_ref().map(|helper| helper.confinement.as_str())
    }

    /// The bytes of certificate and key; the path that an error is about comes with it.
    pub fn read(&self, files: &TlsFiles) -> Result<(Vec<u8>, Vec<u8>), (PathBuf, io::Error)> {
        let mut held = self.read_all(&pair(files)).into_iter();
        let mut next = |path: &PathBuf| match held.next() {
            Some(Ok((_, bytes))) => Ok(bytes),
            Some(Err(error)) => Err((path.clone(), error)),
            None => Err((path.clone(), io::ErrorKind::UnexpectedEof.into())),
        };
        Ok((next(&files.certificate)?, next(&files.key)?))
    }

    /// What each of these files holds.
    pub(super) fn read_all(&self, paths: &[PathBuf]) -> Vec<io::Result<Held>> {
        let Some(helper) = self.0.as_deref().filter(|helper| helper.knows(paths)) else {
            return paths.iter().map(|path| files::read_with_mode(path, FILE_MAX)).collect();
        };
        let text = match helper.ask(READ) {
            Ok(text) => zeroize::Zeroizing::new(text),
            Err(error) => {
                let again = || io::Error::new(error.kind(), error.to_string());
                return paths.iter().map(|_| Err(again())).collect();
            }
        };
        let mut rest = &text[..];
        let parts: Vec<io::Result<Held>> = helper.paths.iter().map(|_| take_part(&mut rest)).collect();
        // One file may be named more than once: a key that signs for two domains.
        let part = |path: &PathBuf| match helper.place(path).map(|at| &parts[at]) {
            Some(Ok(held)) => Ok(held.clone()),
            Some(Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        paths.iter().map(part).collect()
    }

    /// What of the files changes when they are written; `None` if the helper does not say in time.
    pub(super) fn stamps(&self, paths: &[PathBuf]) -> Option<Vec<Stamp>> {
        let own = || paths.iter().map(|path| watch::stamp(path)).collect();
        let Some(helper) = self.0.as_deref().filter(|helper| helper.knows(paths)) else { return Some(own()) };
        match helper.ask(STAMP) {
            Ok(bytes) => {
                let stamps: Vec<Stamp> = bytes.chunks(Stamp::LEN).map(Stamp::from_bytes).collect();
                paths.iter().map(|path| stamps.get(helper.place(path)?).copied()).collect()
            }
            // As far as this process may look, so that a renewal is still noticed, and said to be impossible.
            Err(_) if helper.has_ended() => Some(own()),
            Err(_) => None,
        }
    }

    /// The stamps of certificate and key.
    pub(super) fn stamps_of_pair(&self, files: &TlsFiles) -> Option<Vec<Stamp>> {
        self.stamps(&pair(files))
    }
}

impl Helper {
    fn place(&self, path: &Path) -> Option<usize> {
        self.paths.iter().position(|known| known == path)
    }

    fn knows(&self, paths: &[PathBuf]) -> bool {
        paths.iter().all(|path| self.place(path).is_some())
    }

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

const CURE: &str = "no renewed certificate or key is taken up any more; restart the server";

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, format!("the key helper has ended: {CURE}"))
}

/// Answers questions until the server has closed the link.
pub fn help(paths: &[PathBuf]) -> io::Result<()> {
    let confinement = confinement::confine(paths);
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    answer(&mut socket, 0, confinement.as_bytes())?;
    let mut question = [0; link::QUESTION_LEN];
    loop {
        match socket.read_exact(&mut question) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let (kind, number) = link::question(&question);
        let mut text = zeroize::Zeroizing::new(Vec::new());
        match kind {
            READ => paths.iter().for_each(|path| put_part(&mut text, files::read_with_mode(path, FILE_MAX))),
            STAMP => paths.iter().for_each(|path| text.extend_from_slice(&watch::stamp(path).to_bytes())),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        answer(&mut socket, number, &text)?;
    }
}

/// Mode, length and bytes; or an error's number with the highest bit set in place of the mode.
fn put_part(text: &mut Vec<u8>, outcome: io::Result<Held>) {
    match outcome {
        Ok((mode, bytes)) => {
            text.extend_from_slice(&mode.to_le_bytes());
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

fn take_part(rest: &mut &[u8]) -> io::Result<Held> {
    let mode = take_number(rest)?;
    if mode >> 31 == 1 {
        let number = (mode & !(1 << 31)) as i32;
        return Err(match nix::Error::from_raw(number) {
            nix::Error::EINVAL => files::not_regular(),
            nix::Error::EFBIG => files::too_large(),
            _ => io::Error::from_raw_os_error(number),
        });
    }
    let length = take_number(rest)? as usize;
    let (bytes, after) = rest.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
    *rest = after;
    Ok((mode, bytes.to_vec()))
}

fn take_number(rest: &mut &[u8]) -> io::Result<u32> {
    let (number, after) = rest.split_first_chunk().ok_or(io::ErrorKind::UnexpectedEof)?;
    *rest = after;
    Ok(u32::from_le_bytes(*number))
}

/// The directories in which a file and what it links to stand: certbot keeps the files in archive/ and links from live/.
pub fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    // A bare name has an empty parent; what it links to has the directory.
    let parents = [path.to_owned(), real].into_iter().filter_map(|path| path.parent().map(Path::to_owned));
    parents.filter(|parent| !parent.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_and_taken() {
        let mut text = Vec::new();
        put_part(&mut text, Ok((0o640, b"pem".to_vec())));
        put_part(&mut text, Err(io::Error::from_raw_os_error(13)));
        put_part(&mut text, Err(files::not_regular()));
        let mut rest = &text[..];
        assert_eq!(take_part(&mut rest).unwrap(), (0o640, b"pem".to_vec()));
        assert_eq!(take_part(&mut rest).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(take_part(&mut rest).unwrap_err().to_string(), files::not_regular().to_string());
        assert!(take_part(&mut rest).is_err(), "nothing is left");
        assert!(take_part(&mut &[0, 0, 0, 0, 9, 0, 0, 0, 1][..]).is_err(), "a length that is not there");
    }
}
