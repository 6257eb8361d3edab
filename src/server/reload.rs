//! Takes up files that change while the server runs: users, aliases, certificate by themselves; the configuration at SIGHUP.
//!
//! A part with bad content is refused, logged, and looked at again when it changes; the old state is kept. A part that could not
//! be read, for want of descriptors, say, is read again after a pause. What a file was before it was read decides whether it
//! has changed since, so no change is missed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::keys::KeySource;
use super::load::{KeyringRefused, Secrets};
use super::sandbox::{self, Access};
use super::watch::{Stamp, Watched, stamp};
use super::{expiry, load};
use crate::config::Config;
use crate::config::outgoing::Outgoing;
use crate::conn::context::{Context, Snapshot};
use crate::files;
use crate::journal;
use crate::problem::Problem;
use crate::smtp::session::Service;

/// Fixed at start: configuration path, key source, sandbox; what the files were before they were read, and whether they are to be
/// read again.
#[derive(Debug)]
pub struct Startup {
    /// The configuration's file.
    pub path: PathBuf,
    /// Where certificate and key are read.
    pub keys: KeySource,
    /// What it is confined to, if it is.
    pub access: Option<Access>,
    /// Taken before the files were read.
    pub stamps: Stamps,
    /// SIGHUP came before signals were messages.
    pub reload: Arc<AtomicBool>,
}

/// What of the files changes when they are written.
#[derive(Clone, Debug, Default)]
pub struct Stamps {
    users: Vec<Stamp>,
    aliases: Vec<Stamp>,
    tls: Vec<Stamp>,
    dkim: Vec<Stamp>,
}

impl Stamps {
    /// The stamps of the files that a configuration names; to be taken before they are read.
    pub fn of(config: &Config, keys: &KeySource) -> Self {
        let of = |part: Part| part.stamps(config, keys).unwrap_or_default();
        Self { users: of(Part::Users), aliases: of(Part::Aliases), tls: of(Part::Certificate), dkim: of(Part::Signing) }
    }
}

/// What is taken up by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Configuration,
    Users,
    Aliases,
    Certificate,
    Signing,
}

/// How often the certificate's end is looked at.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Part {
    /// The configuration comes first: it names the files of the others.
    const ALL: [Self; 5] = [Self::Configuration, Self::Users, Self::Aliases, Self::Certificate, Self::Signing];

    fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Users => "users",
            Self::Aliases => "aliases",
            Self::Certificate => "certificate",
            Self::Signing => "dkim",
        }
    }

    /// `None` if they cannot be told now. The configuration has none: it is taken up at SIGHUP alone.
    fn stamps(self, config: &Config, keys: &KeySource) -> Option<Vec<Stamp>> {
        Some(match self {
            Self::Configuration => Vec::new(),
            Self::Users => vec![stamp(&config.users)],
            Self::Aliases => config.aliases.iter().map(|file| stamp(file)).collect(),
            Self::Certificate => match &config.tls {
                Some(files) => keys.stamps_of_pair(files)?,
                None => Vec::new(),
            },
            Self::Signing => keys.stamps(&config.dkim_files())?,
        })
    }
}

/// Why a part was not taken up.
enum Refusal {
    /// What the files hold is bad.
    Content(Vec<Problem>),
    /// They could not be read, which may pass.
    Read(Problem),
}

impl Refusal {
    fn of_read(error: &io::Error, problem: Problem) -> Self {
        if files::may_pass(error) { Self::Read(problem) } else { Self::Content(vec![problem]) }
    }
}

impl From<KeyringRefused> for Refusal {
    fn from(refused: KeyringRefused) -> Self {
        match refused {
            KeyringRefused::Content(problems) => Self::Content(problems),
            KeyringRefused::Read(error, problem) => Self::of_read(&error, problem),
        }
    }
}

impl From<Vec<Problem>> for Refusal {
    fn from(problems: Vec<Problem>) -> Self {
        Self::Content(problems)
    }
}

/// The files that are taken up while the server runs.
pub(super) struct Files {
    startup: Startup,
    /// What is listened on, whatever the configuration says now.
    services: Vec<Service>,
    watched: [Watched; Part::ALL.len()],
    expiry_at: Instant,
}

impl Files {
    pub(super) fn new(startup: Startup, services: Vec<Service>) -> Self {
        let Stamps { users, aliases, tls, dkim } = startup.stamps.clone();
        let watched = [Vec::new(), users, aliases, tls, dkim].map(Watched::new);
        Self { startup, services, watched, expiry_at: Instant::now() + DAY }
    }

    /// Takes up what has changed by itself, and what could not be read before.
    pub(super) fn look(&mut self, context: &Context, now: Instant) {
        for part in Part::ALL {
            let snapshot = context.snapshot();
            let Some(stamps) = part.stamps(&snapshot.config, &self.startup.keys) else { continue };
            if self.watched[part as usize].is_due(stamps, now) {
                self.take_up(part, context, now);
            }
        }
        if now >= self.expiry_at {
            self.expiry_at = now + DAY;
            let text = context.snapshot().tls.as_ref().and_then(expiry::warning);
            text.into_iter().for_each(|text| journal::notice("certificate", text));
        }
    }

    /// SIGHUP: everything, each part by itself.
    pub(super) fn reload_all(&mut self, context: &Context, now: Instant) {
        for part in Part::ALL {
            let stamps = part.stamps(&context.snapshot().config, &self.startup.keys);
            self.watched[part as usize] = Watched::new(stamps.unwrap_or_default());
            self.take_up(part, context, now);
        }
    }

    /// Replaces the settings by those with this part read anew, or logs why not and keeps the old.
    fn take_up(&mut self, part: Part, context: &Context, now: Instant) {
        let old = context.snapshot();
        let outcome = match part {
            Part::Configuration => self.configuration(&old),
            Part::Users => users(&old),
            Part::Aliases => aliases(&old),
            Part::Certificate => certificate(&old, &self.startup.keys),
            Part::Signing => keyring(&old, &self.startup.keys),
        };
        let watched = &mut self.watched[part as usize];
        match outcome {
            Ok(snapshot) => {
                watched.done();
                context.replace(snapshot);
                journal::reloaded(part.name());
            }
            Err(Refusal::Content(problems)) => {
                watched.done();
                problems.iter().for_each(|problem| journal::reload_refused(part.name(), problem));
            }
            Err(Refusal::Read(problem)) => {
                if watched.failed(problem.to_string(), now) {
                    journal::reload_refused(part.name(), problem);
                }
            }
        }
    }

    fn configuration(&self, old: &Snapshot) -> Result<Snapshot, Refusal> {
        let Startup { path, keys, access, .. } = &self.startup;
        let text = load::text(path).map_err(|error| Refusal::of_read(&error, load::unreadable(path, &error, load::NO_CONFIG)))?;
        let config = Config::parse(&text, path, load::own_name)?;
        if access.as_ref().is_some_and(|access| !access.covers(&sandbox::access(&config, path, keys.is_helper()))) {
            let text = "needs a directory or a port outside the sandbox of this process; restart it to apply";
            return Err(vec![Problem::with(path, text)].into());
        }
        // Sockets that were handed over are not in [listen], where the parser would have seen it.
        if config.tls.is_none()
            && let Some(service) = self.services.iter().find(|service| service.needs_auth())
        {
            let text =
                format!("tls: must be given while {} is served; put [tls] back, or restart without that socket", service.name());
            return Err(vec![Problem::with(path, text)].into());
        }
        if keys.is_helper() && config.tls != old.config.tls {
            let text = "tls: the key helper reads the files that were named at the start; restart to name others";
            return Err(vec![Problem::with(path, text)].into());
        }
        if !keys.knows(&config.dkim_files()) {
            let text = "dkim: the key helper reads the files that were named at the start; restart to name others";
            return Err(vec![Problem::with(path, text)].into());
        }
        let mut secrets = secrets(old);
        if config.dkim != old.config.dkim {
            secrets.keyring = Arc::new(load::keyring(&config, keys)?);
        }
        for text in fixed_until_restart(&old.config, &config) {
            journal::notice("restart", text);
        }
        Ok(load::assemble(config, Arc::clone(&old.users), old.aliases.clone(), secrets)?)
    }
}

fn users(old: &Snapshot) -> Result<Snapshot, Refusal> {
    let file = &old.config.users;
    let text = load::text(file).map_err(|error| Refusal::of_read(&error, load::unreadable(file, &error, load::NO_USERS)))?;
    let lost = "is empty; the logins from before are kept. To lock all of them out, leave a comment line in it";
    is_there(&text, old.users.is_empty(), file, lost)?;
    is_whole(&text, file)?;
    let users = load::parse_users(&old.config, &text)?;
    Ok(load::assemble(old.config.clone(), Arc::new(users), old.aliases.clone(), secrets(old))?)
}

fn aliases(old: &Snapshot) -> Result<Snapshot, Refusal> {
    let aliases = match &old.config.aliases {
        None => Default::default(),
        Some(file) => {
            let text =
                load::text(file).map_err(|error| Refusal::of_read(&error, load::unreadable(file, &error, load::NO_ALIASES)))?;
            let lost = "is empty; the aliases from before are kept. To have none, leave a comment line in it";
            is_there(&text, old.aliases.iter().next().is_none(), file, lost)?;
            is_whole(&text, file)?;
            load::parse_aliases(&old.config, &text)?
        }
    };
    Ok(load::assemble(old.config.clone(), Arc::clone(&old.users), aliases, secrets(old))?)
}

fn certificate(old: &Snapshot, keys: &KeySource) -> Result<Snapshot, Refusal> {
    let tls = match &old.config.tls {
        None => None,
        Some(files) => {
            let pair = keys.read(files).map_err(|(path, error)| {
                let kind = io::Error::from(error.kind());
                Refusal::of_read(&kind, load::unreadable_pair(path, error))
            })?;
            load::parse_tls(&old.config, pair)?
        }
    };
    Ok(load::assemble(old.config.clone(), Arc::clone(&old.users), old.aliases.clone(), Secrets { tls, ..secrets(old) })?)
}

fn keyring(old: &Snapshot, keys: &KeySource) -> Result<Snapshot, Refusal> {
    let keyring = Arc::new(load::keyring(&old.config, keys)?);
    Ok(load::assemble(old.config.clone(), Arc::clone(&old.users), old.aliases.clone(), Secrets { keyring, ..secrets(old) })?)
}

fn secrets(old: &Snapshot) -> Secrets {
    Secrets { tls: old.tls.clone(), keyring: Arc::clone(&old.keyring) }
}

/// A truncating editor or a full disk leaves nothing in a file; that must not lock all logins out, nor refuse the mail for
/// every alias for good. Where there was nothing before, nothing is lost.
fn is_there(text: &str, was_empty: bool, file: &Path, lost: &str) -> Result<(), Refusal> {
    if text.trim().is_empty() && !was_empty { Err(vec![Problem::with(file, lost)].into()) } else { Ok(()) }
}

/// A file of which a part is missing mostly ends within a line; a cut hash or target can look like a whole one.
fn is_whole(text: &str, file: &Path) -> Result<(), Refusal> {
    match load::unfinished_line(text) {
        None => Ok(()),
        Some(line) => {
            let text = "the last line has no line end, so it may be half written; end it with one";
            Err(vec![Problem::at(line, text).in_file(file)].into())
        }
    }
}

/// True if both have `[outgoing]`, and differ in this.
fn changed<T: PartialEq>(old: &Config, new: &Config, of: impl Fn(&Outgoing) -> T) -> bool {
    matches!((&old.outgoing, &new.outgoing), (Some(old), Some(new)) if of(old) != of(new))
}

/// What has changed in a configuration and is taken up at a restart only.
fn fixed_until_restart(old: &Config, new: &Config) -> Vec<String> {
    let rows = [
        ("listen", old.listen != new.listen || old.local != new.local),
        ("user", old.user != new.user),
        ("state", old.state != new.state),
        ("limits.workers", old.limits.workers != new.limits.workers),
        ("limits.waiting", old.limits.waiting != new.limits.waiting),
        ("limits.per_address", old.limits.per_address != new.limits.per_address),
        ("limits.hash_memory", old.limits.hash_memory != new.limits.hash_memory),
        ("outgoing", old.outgoing.is_some() != new.outgoing.is_some()),
        ("outgoing.spool", changed(old, new, |outgoing| outgoing.spool.clone())),
        ("outgoing.connections", changed(old, new, |outgoing| outgoing.connections)),
        ("outgoing.after_crash", changed(old, new, |outgoing| outgoing.after_crash)),
    ];
    rows.iter()
        .filter(|(_, changed)| *changed)
        .map(|(key, _)| format!("`{key}` has changed and is taken up at the next start"))
        .collect()
}
