//! Files to [`Snapshot`]: what `serve` starts with, what a reload replaces, what `check` looks at.
//!
//! Each part is read by itself, so that a bad one can be refused while the others are taken up.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::keys::KeySource;
use crate::auth::users::Users;
use crate::config::Config;
use crate::conn::context::Snapshot;
use crate::files;
use crate::mail::dkim::SigningKey;
use crate::mail::signing::Keyring;
use crate::net::tls::{TlsError, TlsServer};
use crate::policy::aliases::Aliases;
use crate::policy::{AliasProblems, Policy};
use crate::problem::Problem;

/// What was made of files that may be root's alone.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// Certificate and key, if there are any.
    pub tls: Option<TlsServer>,
    /// The keys that sign.
    pub keyring: Arc<Keyring>,
}

/// Why the keys that sign are not taken up.
#[derive(Debug)]
pub enum KeyringRefused {
    /// What the files hold is bad.
    Content(Vec<Problem>),
    /// One could not be read, which may pass.
    Read(io::Error, Problem),
}

/// What to do where there is no configuration.
pub const NO_CONFIG: &str = "give its path with -c";
/// What to do where there is no users file.
pub(super) const NO_USERS: &str = "make it with `pillarbox user add LOGIN`";
/// What to do where there is no aliases file.
pub(super) const NO_ALIASES: &str = "make it, or remove `aliases` from pillarbox.toml";
/// The widest mode of a file with a password or a key that signs.
const SECRET_MODE: u32 = 0o640;

/// Reads pillarbox.toml.
pub fn config(path: &Path) -> Result<Config, Vec<Problem>> {
    let text = text(path).map_err(|error| vec![unreadable(path, &error, NO_CONFIG)])?;
    Config::parse(&text, path, own_name)
}

/// Everything that a configuration names, or everything that is wrong with it.
pub fn snapshot(config: Config, keys: &KeySource) -> Result<Snapshot, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut keep = |found: Vec<Problem>| problems.extend(found);
    keep(password_files(&config));
    let users = users(&config).map_err(&mut keep).ok();
    let aliases = aliases(&config).map_err(&mut keep).ok();
    let tls = tls(&config, keys).map_err(&mut keep).ok();
    let keyring = keyring(&config, keys).map_err(|refused| keep(refused.problems())).ok();
    match (users, aliases, tls, keyring) {
        (Some(users), Some(aliases), Some(tls), Some(keyring)) if problems.is_empty() => {
            assemble(config, Arc::new(users), aliases, Secrets { tls, keyring: Arc::new(keyring) })
        }
        _ => Err(problems),
    }
}

/// Puts parts together; aliases that loop and an outgoing side without anyone to report to are refused here, where the users
/// are known, and then all that is wrong with the aliases is named.
pub fn assemble(config: Config, users: Arc<Users>, aliases: Aliases, secrets: Secrets) -> Result<Snapshot, Vec<Problem>> {
    let policy = policy(&config, users.logins(), aliases.clone());
    let AliasProblems { mut fatal, dead_ends } = alias_problems(&config, &policy);
    if !fatal.is_empty() {
        fatal.extend(dead_ends);
    }
    fatal.extend(shared_maildirs(&config, users.logins()));
    fatal.extend(outgoing_problems(&config, &policy));
    let Secrets { tls, keyring } = secrets;
    if fatal.is_empty() { Ok(Snapshot { config, users, aliases, policy, tls, keyring }) } else { Err(fatal) }
}

/// The tables that follow from a configuration, the logins of the users file and the aliases.
pub fn policy<'a>(config: &Config, logins: impl Iterator<Item = &'a str>, aliases: Aliases) -> Policy {
    Policy::new(&config.domains, logins, aliases, &config.senders).with_outgoing(config.outgoing.is_some())
}

/// What forbids sending with this configuration: a postmaster without a mailbox.
pub fn outgoing_problems(config: &Config, policy: &Policy) -> Vec<Problem> {
    let Some(outgoing) = &config.outgoing else { return Vec::new() };
    let problem = outgoing.postmaster_problem(policy);
    let name = |text| Problem { file: Path::new("[outgoing]").to_owned(), line: 0, key: "outgoing.postmaster".to_owned(), text };
    problem.into_iter().map(name).collect()
}

/// Password files of routes that are missing, or that more than their owner and group may read.
pub fn password_files(config: &Config) -> Vec<Problem> {
    let Some(outgoing) = &config.outgoing else { return Vec::new() };
    let mut problems = Vec::new();
    for (name, route) in &outgoing.routes {
        let Some(file) = &route.password_file else { continue };
        let text = match fs::metadata(file) {
            Err(error) => unreadable(file, &error, "write the password into it, or correct the path").text,
            Ok(data) if data.mode() & 0o7777 & !SECRET_MODE != 0 => {
                format!("its mode {:04o} is wider than 0640; chmod 640 it", data.mode() & 0o7777)
            }
            Ok(_) => continue,
        };
        problems.push(Problem { file: file.clone(), line: 0, key: format!("outgoing.routes.{name}.password_file"), text });
    }
    problems
}

/// What is wrong with the aliases.
pub fn alias_problems(config: &Config, policy: &Policy) -> AliasProblems {
    let AliasProblems { fatal, dead_ends } = policy.alias_problems();
    let named = |problems| in_file(problems, config.aliases.as_deref().unwrap_or(Path::new("")));
    AliasProblems { fatal: named(fatal), dead_ends: named(dead_ends) }
}

/// Logins of local domains whose mailboxes would be one Maildir: each could read the other's mail.
pub fn shared_maildirs<'a>(config: &Config, logins: impl Iterator<Item = &'a str>) -> Vec<Problem> {
    let local = |login: &&str| login.rsplit_once('@').is_some_and(|(_, domain)| config.domains.iter().any(|own| own == domain));
    let mut owners: BTreeMap<PathBuf, Vec<&str>> = BTreeMap::new();
    for login in logins.filter(local) {
        owners.entry(config.maildir.of(login)).or_default().push(login);
    }
    let shared = owners.into_iter().filter(|(_, logins)| logins.len() > 1);
    shared
        .map(|(path, mut logins)| {
            logins.sort_unstable();
            let text = format!(
                "maildir: {} would be the Maildir of {} alike; put {{domain}} into `maildir`, or remove all logins but one",
                path.display(),
                logins.join(" and ")
            );
            Problem::with(&config.users, text)
        })
        .collect()
}

fn in_file(problems: Vec<Problem>, file: &Path) -> Vec<Problem> {
    problems.into_iter().map(|problem| problem.in_file(file)).collect()
}

/// Reads the users file.
pub fn users(config: &Config) -> Result<Users, Vec<Problem>> {
    let text = text(&config.users).map_err(|error| vec![unreadable(&config.users, &error, NO_USERS)])?;
    parse_users(config, &text)
}

/// Reads the aliases file, if there is one.
pub fn aliases(config: &Config) -> Result<Aliases, Vec<Problem>> {
    let Some(file) = &config.aliases else { return Ok(Aliases::default()) };
    let text = text(file).map_err(|error| vec![unreadable(file, &error, NO_ALIASES)])?;
    parse_aliases(config, &text)
}

/// Reads certificate and key, if there are any.
pub fn tls(config: &Config, keys: &KeySource) -> Result<Option<TlsServer>, Vec<Problem>> {
    let Some(files) = &config.tls else { return Ok(None) };
    let pair = keys.read(files).map_err(|(path, error)| vec![unreadable_pair(path, error)])?;
    parse_tls(config, pair)
}

/// Reads the keys that sign; each that is missing, damaged or may be read by others is named.
pub fn keyring(config: &Config, keys: &KeySource) -> Result<Keyring, KeyringRefused> {
    let named = config.dkim.iter().flat_map(|(domain, keys)| keys.iter().map(move |key| (domain, key)));
    let (mut signing, mut problems, mut unread) = (Vec::new(), Vec::new(), None);
    for ((domain, key), held) in named.zip(keys.read_all(&config.dkim_files())) {
        let name = format!("dkim.{domain:?}");
        match held {
            Err(error) => {
                let cure = format!("make a key with `pillarbox dkim add {domain}`, or correct the path");
                let problem = Problem { key: name, ..unreadable(&key.key, &error, &cure) };
                problems.push(problem.clone());
                unread = unread.or_else(|| files::may_pass(&error).then_some((error, problem)));
            }
            Ok((mode, text)) => {
                let text = Zeroizing::new(text);
                match signing_key(domain, &key.selector, mode, &text) {
                    Ok(key) => signing.push(key),
                    Err(text) => problems.push(Problem { file: key.key.clone(), line: 0, key: name, text }),
                }
            }
        }
    }
    match (unread, problems.len()) {
        (_, 0) => Ok(Keyring::new(signing)),
        (Some((error, problem)), 1) => Err(KeyringRefused::Read(error, problem)),
        _ => Err(KeyringRefused::Content(problems)),
    }
}

fn signing_key(domain: &str, selector: &str, mode: u32, text: &[u8]) -> Result<SigningKey, String> {
    if mode & !SECRET_MODE != 0 {
        return Err(format!("its mode {mode:04o} is wider than 0640; chmod 640 it"));
    }
    SigningKey::from_pem(domain, selector, text).map_err(|error| error.to_string())
}

impl KeyringRefused {
    /// The same as what is wrong.
    pub fn problems(self) -> Vec<Problem> {
        match self {
            Self::Content(problems) => problems,
            Self::Read(_, problem) => vec![problem],
        }
    }
}

/// The users file of this text.
pub(super) fn parse_users(config: &Config, text: &str) -> Result<Users, Vec<Problem>> {
    Users::parse(text, config.limits.hash_memory).map_err(|problems| in_file(problems, &config.users))
}

/// The aliases file of this text.
pub(super) fn parse_aliases(config: &Config, text: &str) -> Result<Aliases, Vec<Problem>> {
    Aliases::parse(text).map_err(|problems| in_file(problems, config.aliases.as_deref().unwrap_or(Path::new(""))))
}

/// The server side of TLS with this pair of certificate and key, in PEM.
pub(super) fn parse_tls(config: &Config, pair: (Vec<u8>, Vec<u8>)) -> Result<Option<TlsServer>, Vec<Problem>> {
    let Some(files) = &config.tls else { return Ok(None) };
    let (certificate, key) = (Zeroizing::new(pair.0), Zeroizing::new(pair.1));
    let acceptor = TlsServer::from_pem((&files.certificate, &certificate), (&files.key, &key));
    acceptor.map(Some).map_err(|error| vec![Problem::with(Path::new("[tls]"), error.to_string())])
}

/// The host's own name.
pub fn own_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok().map(|name| name.to_ascii_lowercase())
}

/// The text of a regular file of at most 64 MiB; of anything else an error at once.
pub fn text(path: &Path) -> io::Result<String> {
    let bytes = files::read(path, files::TEXT_MAX)?;
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The last line, if it has no line end: part of the file may be missing.
pub fn unfinished_line(text: &str) -> Option<usize> {
    (!text.is_empty() && !text.ends_with('\n')).then(|| text.lines().count())
}

/// A file that cannot be read, and the cure; `missing` is what to do where there is none.
pub fn unreadable(path: &Path, error: &io::Error, missing: &str) -> Problem {
    let cure = match error.kind() {
        io::ErrorKind::NotFound => format!("no such file; {missing}"),
        io::ErrorKind::PermissionDenied => "may not be read; check its owner and mode".to_owned(),
        io::ErrorKind::InvalidData => "is not UTF-8 text".to_owned(),
        _ => format!("{error}; correct the path, or what stands there"),
    };
    Problem::with(path, cure)
}

/// The same for certificate or key.
pub(super) fn unreadable_pair(path: PathBuf, error: io::Error) -> Problem {
    Problem::with(Path::new("[tls]"), TlsError::Read(path, error).to_string())
}
