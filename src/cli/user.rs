//! `pillarbox user`: edits the users file, and says what was done, to which line, and what stays.
//!
//! A password is read without echo, or from standard input where that is no terminal, and never from the command line.
//! The file is replaced in one step that a power cut cannot halve, under a lock that is held from reading to replacing,
//! so two edits at the same time both take effect.

mod prompt;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::{Arguments, Exit, Failure, Outcome, count, nearest, say, tell};
use crate::auth::argon::{self, Scratch};
use crate::auth::edit;
use crate::auth::users::{self, Users};
use crate::config::Config;
use crate::policy::sending::{Counters, TALLIES, Unit};
use crate::server::{load, state};
pub(super) use prompt::generate;
use prompt::{Password, obtain};

/// The actions, for hints; `hash` and `list` take no login.
const ACTIONS: [&str; 6] = ["add", "passwd", "remove", "list", "verify", "hash"];

/// What other programs call the same actions.
const SYNONYMS: [(&str, &str); 11] = [
    ("change", "passwd"),
    ("check", "verify"),
    ("create", "add"),
    ("del", "remove"),
    ("delete", "remove"),
    ("ls", "list"),
    ("mod", "passwd"),
    ("new", "add"),
    ("password", "passwd"),
    ("rm", "remove"),
    ("show", "list"),
];

/// Characters of a password below which there is a warning (NIST SP 800-63B section 5.1.1.1).
const PASSWORD_SHORT: usize = 8;

/// Runs the action that the first word names.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let label = arguments.matches.opt_str("label");
    if label.as_deref().is_some_and(|label| !edit::is_label(label)) {
        return Err(Failure::usage("--label: at most 64 octets, no colon and no control characters"));
    }
    let words: Vec<&str> = arguments.words().iter().map(String::as_str).collect();
    match words[..] {
        ["add", login] => add(arguments, login, label.as_deref()),
        ["passwd", login] => passwd(arguments, login, label.as_deref()),
        ["remove", login] => remove(arguments, login, label.as_deref()),
        ["verify", login] => verify(arguments, login),
        ["list"] => list(arguments),
        ["hash"] => {
            say(hash(&obtain(arguments)?)?);
            Ok(Exit::Ok)
        }
        ["add" | "passwd" | "remove" | "verify"] => Err(Failure::usage(&format!("`user {}` needs one LOGIN", words[0]))),
        ["add" | "passwd" | "remove" | "verify", ..] => {
            Err(Failure::usage("`user` takes one LOGIN, and never a password on the command line"))
        }
        ["list" | "hash", more, ..] => Err(Failure::usage(&format!("`user {}` takes no `{more}`", words[0]))),
        [] => Err(Failure::usage(&format!("`user` is followed by {}", ACTIONS.join(", ")))),
        [unknown, ..] => {
            let meant = SYNONYMS.iter().find(|(other, _)| *other == unknown).map(|(_, action)| *action);
            let meant = meant.unwrap_or_else(|| nearest(unknown, ACTIONS.into_iter()));
            Err(Failure::usage(&format!("unknown action `user {unknown}`, the nearest known is `user {meant}`")))
        }
    }
}

fn add(arguments: &Arguments, login: &str, label: Option<&str>) -> Outcome {
    users::check_login(login).map_err(|why| Failure::usage(&format!("login `{login}`: {why}")))?;
    let config = arguments.load()?;
    let label = label.unwrap_or("");
    let unused = |text: &str| match edit::has(text, login, Some(label)) {
        false => Ok(()),
        true => Err(Failure::new(
            Exit::CantCreate,
            format!("{login} is there already; change its password with `user passwd`, or add one more with --label TEXT"),
        )),
    };
    // Before the password is asked for, and again under the lock: the file may have changed meanwhile.
    unused(&read(&config.users, true)?)?;
    let password = obtain(arguments)?;
    let hash = hash(&password)?;
    let (_lock, text) = locked(&config, true)?;
    unused(&text)?;
    let edited = edit::add(&text, login, label, &hash);
    replace(&config, &edited)?;
    let line = edited.lines().count();
    match edit::lines_of(&text, login).first() {
        None => tell(format_args!("{login}: added, line {line} of {}", config.users.display())),
        Some((first, _)) => {
            tell(format_args!("{login}: {} added, line {line} of {}", named(label), config.users.display()));
            tell(format_args!("{login}: SMTP takes each of its passwords, Dovecot's IMAP only the first one, on line {first}"));
        }
    }
    warn(&config, login, &password);
    Ok(Exit::Ok)
}

fn passwd(arguments: &Arguments, login: &str, label: Option<&str>) -> Outcome {
    let config = arguments.load()?;
    let label = label.unwrap_or("");
    let known = |text: &str| if edit::has(text, login, Some(label)) { Ok(()) } else { Err(unknown(text, login, Some(label))) };
    known(&read(&config.users, false)?)?;
    let password = obtain(arguments)?;
    let hash = hash(&password)?;
    let (_lock, text) = locked(&config, false)?;
    known(&text)?;
    replace(&config, &edit::replace(&text, login, label, &hash).0)?;
    let (changed, others): (Vec<_>, Vec<_>) = edit::lines_of(&text, login).into_iter().partition(|(_, own)| own == label);
    tell(format_args!("{login}: {} changed, {}", named(label), lines(&changed)));
    stays(login, &others);
    warn(&config, login, &password);
    Ok(Exit::Ok)
}

fn remove(arguments: &Arguments, login: &str, label: Option<&str>) -> Outcome {
    let config = arguments.load()?;
    let (_lock, text) = locked(&config, false)?;
    let (edited, removed) = edit::remove(&text, login, label);
    if removed == 0 {
        return Err(unknown(&text, login, label));
    }
    replace(&config, &edited)?;
    let (gone, others): (Vec<_>, Vec<_>) =
        edit::lines_of(&text, login).into_iter().partition(|(_, own)| label.is_none_or(|label| own == label));
    match label {
        Some(label) => tell(format_args!("{login}: {} removed, {}", named(label), lines(&gone))),
        None => tell(format_args!("{login}: removed with {}, {}", count(gone.len(), "password"), lines(&gone))),
    }
    stays(login, &others);
    if others.is_empty() {
        let maildir = login.contains('@').then(|| config.maildir.of(&users::canonical(login))).filter(|path| path.exists());
        if let Some(maildir) = maildir {
            tell(format_args!("{login}: its mail stays in {}; remove that if it is not wanted", maildir.display()));
        }
        tell(format_args!("{login}: aliases that lead to it, if any, stay; `pillarbox check` names them"));
    }
    Ok(Exit::Ok)
}

fn list(arguments: &Arguments) -> Outcome {
    let config = arguments.load()?;
    let users = parsed(&config)?;
    let mut counters = state::counters(&config.state).unwrap_or_else(|error| {
        tell(format_args!("{}: {error}; what was sent today is not known", config.state.display()));
        Counters::default()
    });
    let mut rows: Vec<_> = users.all().map(|(login, password)| (password.line, login, password)).collect();
    rows.sort_by_key(|(line, ..)| *line);
    for (_, login, password) in rows {
        let cost = password.hash.cost();
        let memory = cost.memory / 1024;
        let sent = counters.used(login, &TALLIES, state::unix_seconds());
        let [messages, recipients] =
            Unit::ALL.map(|unit| sent.iter().find(|(limit, _)| limit.unit == unit).map_or(0, |row| row.1));
        let sent =
            format!("{} today, {} elsewhere", count(messages as usize, "message"), count(recipients as usize, "recipient"));
        say(format_args!("{login}\t{}\targon2 {memory} MiB, {} passes\t{sent}", password.label, cost.passes));
    }
    Ok(Exit::Ok)
}

fn verify(arguments: &Arguments, login: &str) -> Outcome {
    let config = arguments.load()?;
    let users = parsed(&config)?;
    if users.passwords(login).is_empty() {
        return Err(unknown(&read(&config.users, false)?, login, None));
    }
    let password = obtain(arguments)?;
    match users.passwords(login).iter().find(|known| known.hash.matches(password.as_bytes(), &mut Scratch::default())) {
        Some(known) if known.label.is_empty() => say("right"),
        Some(known) => say(format_args!("right: {}", known.label)),
        None => return Err(Failure::new(Exit::NoPermission, "wrong password")),
    }
    Ok(Exit::Ok)
}

/// What is likely not meant, but can be.
fn warn(config: &Config, login: &str, password: &Password) {
    match login.rsplit_once('@') {
        None => tell(format_args!("warning: {login} has no domain, so it has no mailbox; it sends as [senders] grants")),
        Some((_, domain)) if !config.is_local(login) => {
            tell(format_args!(
                "warning: {domain} is not in `domains`, so {login} has no mailbox; correct the login or `domains`"
            ));
        }
        Some(_) => {}
    }
    let length = password.chars().count();
    if length < PASSWORD_SHORT {
        let length = count(length, "character");
        tell(format_args!("warning: a password of {length} is soon guessed; take {PASSWORD_SHORT} or more, or --generate"));
    }
}

fn stays(login: &str, others: &[(usize, String)]) {
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|(line, label)| format!("{}, line {line}", named(label))).collect();
        tell(format_args!("{login}: what stays: {}", names.join("; ")));
    }
}

fn named(label: &str) -> String {
    if label.is_empty() { "the password without label".to_owned() } else { format!("password `{label}`") }
}

fn lines(lines: &[(usize, String)]) -> String {
    let numbers: Vec<String> = lines.iter().map(|(line, _)| line.to_string()).collect();
    format!("line{} {}", if numbers.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

fn unknown(text: &str, login: &str, label: Option<&str>) -> Failure {
    let labels: Vec<String> = edit::lines_of(text, login).iter().map(|(_, label)| named(label)).collect();
    let line = match (labels.is_empty(), label) {
        (false, Some("")) => format!("{login}: all its passwords have labels; give --label: {}", labels.join(", ")),
        (false, Some(label)) => format!("{login}: no password `{label}`; it has {}", labels.join(", ")),
        _ => format!("{login}: no such login in the users file; see `pillarbox user list`"),
    };
    Failure::new(Exit::NoInput, line)
}

fn parsed(config: &Config) -> Result<Users, Failure> {
    load::users(config).map_err(Failure::problems)
}

fn hash(password: &Password) -> Result<String, Failure> {
    argon::hash(password.as_bytes()).map_err(|_| Failure::new(Exit::OsError, "the system gives no random octets or no memory"))
}

fn read(path: &Path, may_be_missing: bool) -> Result<String, Failure> {
    match load::text(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_missing => Ok(String::new()),
        Err(error) => Err(Failure::file(Exit::NoInput, path, error)),
        Ok(text) => Ok(text),
    }
}

/// Takes the lock of the users file, and then reads it. The lock is its directory's: the file itself is replaced.
fn locked(config: &Config, may_be_missing: bool) -> Result<(Flock<File>, String), Failure> {
    let path = real(config);
    let directory = directory(&path);
    let file = File::open(directory).map_err(|error| Failure::file(Exit::NoInput, directory, error))?;
    let lock = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| Failure::file(Exit::OsError, directory, format_args!("cannot be locked: {error}")))?;
    Ok((lock, read(&path, may_be_missing)?))
}

/// The users file itself, where its path is a link.
fn real(config: &Config) -> PathBuf {
    config.users.canonicalize().unwrap_or_else(|_| config.users.clone())
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Replaces the users file in one step that a power cut cannot halve; owner and mode stay.
fn replace(config: &Config, text: &str) -> Result<(), Failure> {
    let path = real(config);
    write_whole(&path, text, config).map_err(|error| Failure::file(Exit::CantCreate, &path, error))
}

fn write_whole(path: &Path, text: &str, config: &Config) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = tempfile::Builder::new().prefix(&format!(".{name}.")).tempfile_in(directory(path))?;
    match fs::metadata(path) {
        Ok(old) => {
            if nix::unistd::geteuid().is_root() {
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            file.as_file().set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        // A new file is root's, and the server's to read.
        Err(_) if nix::unistd::geteuid().is_root() => {
            if let Some(account) = nix::unistd::User::from_name(&config.user).ok().flatten() {
                fchown(&file, None, Some(account.gid.as_raw()))?;
                file.as_file().set_permissions(fs::Permissions::from_mode(0o640))?;
            }
        }
        Err(_) => {}
    }
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory(path))?.sync_all()
}
