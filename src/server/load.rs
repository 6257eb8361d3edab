//! Files to [`Snapshot`]: what `serve` starts with, what a reload replaces, what `check` looks at.
//!
//! Each part is read by itself, so that a bad one can be refused while the others are taken up.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::keys::KeySource;
use crate::auth::users::Users;
use crate::config::{Config, Problem};
use crate::conn::context::Snapshot;
use crate::net::tls::{TlsError, TlsServer};
use crate::policy::aliases::Aliases;
use crate::policy::{AliasProblem, Policy};

/// Octets of a file that is read whole, at most.
const FILE_MAX: u64 = 64 << 20;

/// Reads pillarbox.toml.
pub fn config(path: &Path) -> Result<Config, Vec<Problem>> {
    let text = text(path).map_err(|error| vec![unreadable(path, &error)])?;
    Config::parse(&text, path, own_name)
}

/// Everything that a configuration names, or everything that is wrong with it.
pub fn snapshot(config: Config, keys: &KeySource) -> Result<Snapshot, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut keep = |found: Vec<Problem>| problems.extend(found);
    let users = users(&config).map_err(&mut keep).ok();
    let aliases = aliases(&config).map_err(&mut keep).ok();
    let tls = tls(&config, keys).map_err(&mut keep).ok();
    match (users, aliases, tls) {
        (Some(users), Some(aliases), Some(tls)) => assemble(config, Arc::new(users), aliases, tls),
        _ => Err(problems),
    }
}

/// Puts parts together; aliases that loop are refused here, where the users are known, and then all that is wrong with
/// the aliases is named.
pub fn assemble(config: Config, users: Arc<Users>, aliases: Aliases, tls: Option<TlsServer>) -> Result<Snapshot, Vec<Problem>> {
    let policy = Policy::new(&config.domains, users.logins(), aliases.clone(), &config.senders);
    let problems = alias_problems(&config, &policy);
    match problems.iter().any(|(fatal, _)| *fatal) {
        true => Err(problems.into_iter().map(|(_, problem)| problem).collect()),
        false => Ok(Snapshot { config, users, aliases, policy, tls }),
    }
}

/// What is wrong with the aliases, each with whether the file must not be used.
pub fn alias_problems(config: &Config, policy: &Policy) -> Vec<(bool, Problem)> {
    let file = config.aliases.clone().unwrap_or_default();
    let describe = |AliasProblem { line, text, fatal }| (fatal, Problem { file: file.clone(), line, key: String::new(), text });
    policy.alias_problems().into_iter().map(describe).collect()
}

/// Reads the users file.
pub fn users(config: &Config) -> Result<Users, Vec<Problem>> {
    let file = &config.users;
    let text = text(file).map_err(|error| {
        let mut problem = unreadable(file, &error);
        if error.kind() == io::ErrorKind::NotFound {
            problem.text = "no such file; make it with `pillarbox user add LOGIN`".to_owned();
        }
        vec![problem]
    })?;
    Users::parse(&text, config.limits.hash_memory).map_err(|errors| {
        let name = |error: crate::auth::users::UsersError| Problem {
            file: file.clone(),
            line: error.line,
            key: String::new(),
            text: error.text,
        };
        errors.into_iter().map(name).collect()
    })
}

/// Reads the aliases file, if there is one.
pub fn aliases(config: &Config) -> Result<Aliases, Vec<Problem>> {
    let Some(file) = &config.aliases else { return Ok(Aliases::default()) };
    let text = text(file).map_err(|error| {
        let mut problem = unreadable(file, &error);
        if error.kind() == io::ErrorKind::NotFound {
            problem.text = "no such file; make it, or remove `aliases` from pillarbox.toml".to_owned();
        }
        vec![problem]
    })?;
    Aliases::parse(&text).map_err(|errors| {
        let name = |error: crate::policy::aliases::AliasError| Problem {
            file: file.clone(),
            line: error.line,
            key: String::new(),
            text: error.text,
        };
        errors.into_iter().map(name).collect()
    })
}

/// Reads certificate and key, if there are any.
pub fn tls(config: &Config, keys: &KeySource) -> Result<Option<TlsServer>, Vec<Problem>> {
    let Some(files) = &config.tls else { return Ok(None) };
    let whole = |text: String| vec![Problem { file: Path::new("[tls]").to_owned(), line: 0, key: String::new(), text }];
    let read = keys.read(files).map_err(|(path, error)| whole(TlsError::Read(path, error).to_string()))?;
    let (certificate, key) = (Zeroizing::new(read.0), Zeroizing::new(read.1));
    let acceptor = TlsServer::from_pem((&files.certificate, &certificate), (&files.key, &key));
    acceptor.map(Some).map_err(|error| whole(error.to_string()))
}

/// The host's own name.
pub fn own_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok().map(|name| name.to_ascii_lowercase())
}

fn text(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 64 MiB"));
    }
    fs::read_to_string(path)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let cure = match error.kind() {
        io::ErrorKind::NotFound => "no such file; give its path".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read; check its owner and mode".to_owned(),
        io::ErrorKind::InvalidData => "is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    };
    Problem { file: path.to_owned(), line: 0, key: String::new(), text: cure }
}
