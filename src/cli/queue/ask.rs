//! Asks the running server through its control socket, or without one does it on the spool itself.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use serde::Serialize;

use crate::cli::{Arguments, Exit, Failure, tell};
use crate::config::outgoing::Outgoing;
use crate::mail::durable::StorageError;
use crate::queue::control::{self, Answer, Request};
use crate::queue::letter::clean;
use crate::queue::operate::{self, Offline};
use crate::queue::spool::SpoolError;
use crate::server::privileges;

/// The spool of a configuration, after root was given up: files that root made would lock the server out.
pub(crate) struct Spooled {
    outgoing: Outgoing,
    user: String,
}

/// How often and after what pauses a spool is tried that is locked while no server answers: it is starting or stopping, or
/// another command works on it.
const TRIES: u32 = 15;
const PAUSE: Duration = Duration::from_millis(200);

impl Spooled {
    pub(crate) fn open(arguments: &Arguments) -> Result<Self, Failure> {
        if access(&arguments.config, AccessFlags::R_OK) == Err(Errno::EACCES) {
            let text = "only root and the user that the server runs as see the queue; use sudo";
            return Err(Failure::file(Exit::NoPermission, &arguments.config, text));
        }
        let config = arguments.load()?;
        let Some(outgoing) = config.outgoing else {
            let text = format!("no [outgoing] in {}: nothing is queued", arguments.config.display());
            return Err(Failure::new(Exit::NoInput, text));
        };
        privileges::drop_to(&config.user).map_err(|error| Failure::new(Exit::Config, error))?;
        Ok(Self { outgoing, user: config.user })
    }

    /// Asks; `each` gets every line of the answer but its end.
    pub(crate) fn ask(&self, request: &Request, each: &mut dyn FnMut(Answer)) -> Result<Exit, Failure> {
        for _ in 0..TRIES {
            let asked = control::ask(&self.outgoing.spool, request, &mut *each);
            if let Some(end) = asked.map_err(|error| self.no_answer(&error))? {
                return ended(end);
            }
            match Offline::open(&self.outgoing) {
                Ok(Some(spool)) => return self.alone(spool, request, each),
                Ok(None) => return ended(self.without_spool(request)),
                Err(SpoolError::Locked(_)) => thread::sleep(PAUSE),
                Err(error) => return Err(self.unusable(&error)),
            }
        }
        let spool = self.outgoing.spool.display();
        let text = format!(
            "{spool}: another process has it, and no server answers at {spool}/{}; try again if the server is starting or \
             stopping, else find the process with `fuser -v {spool}/lock` and end it",
            control::NAME
        );
        Err(Failure::new(Exit::OsError, text))
    }

    /// On the spool itself.
    fn alone(&self, spool: Offline<'_>, request: &Request, each: &mut dyn FnMut(Answer)) -> Result<Exit, Failure> {
        let mut end = (0, String::new());
        operate::serve(&spool, request.clone(), &mut |answer| {
            match answer {
                Answer::End(exit, text) => end = (exit, text),
                answer => each(answer),
            }
            Ok(())
        });
        spool.finish().map_err(|error| self.unusable(&error))?;
        ended(end)
    }

    fn without_spool(&self, request: &Request) -> (i32, String) {
        match request {
            Request::List(selectors) if selectors.is_empty() || selectors.all => (0, String::new()),
            _ => (66, format!("nothing is queued: {} is made when the server starts", self.outgoing.spool.display())),
        }
    }

    fn no_answer(&self, error: &io::Error) -> Failure {
        let path = self.outgoing.spool.join(control::NAME);
        match error.kind() {
            ErrorKind::PermissionDenied => self.forbidden(&path),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Failure::file(Exit::OsError, &path, "the server does not answer; look at its log, and start it anew if it hangs")
            }
            ErrorKind::UnexpectedEof => Failure::file(
                Exit::OsError,
                &path,
                "the server ended before it had answered; see what is done with `pillarbox queue`",
            ),
            _ => Failure::file(Exit::OsError, &path, error),
        }
    }

    fn unusable(&self, error: &SpoolError) -> Failure {
        match error {
            SpoolError::Storage(StorageError::Unwritable(error)) if error.kind() == ErrorKind::PermissionDenied => {
                self.forbidden(&self.outgoing.spool)
            }
            error => Failure::file(Exit::OsError, &self.outgoing.spool, error),
        }
    }

    fn forbidden(&self, path: &Path) -> Failure {
        let text = format!("only root and the user `{}` may do that; use sudo", self.user);
        Failure::file(Exit::NoPermission, path, text)
    }
}

/// The end of an answer as that of the program.
fn ended((exit, text): (i32, String)) -> Result<Exit, Failure> {
    let text = plain(&text);
    match Exit::of(exit) {
        Exit::Ok if text.is_empty() => Ok(Exit::Ok),
        Exit::Ok => {
            tell(text);
            Ok(Exit::Ok)
        }
        exit => Err(Failure::new(exit, text)),
    }
}

/// A line as a terminal may have it.
pub(crate) fn plain(line: &str) -> String {
    clean(line)
}

/// A row as a line of JSON. What a terminal may take for more than a character is escaped.
pub(crate) fn json(row: &impl Serialize) -> String {
    let text = serde_json::to_string(row).unwrap_or_default();
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        // Such a character stands within a string, so the escape means the same.
        match clean(c.encode_utf8(&mut [0; 4])) == " " && c != ' ' {
            true => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => line.push(c),
        }
    }
    line
}
