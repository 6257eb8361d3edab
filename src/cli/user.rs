//! `pillarbox user`: edits the users file. A password is read without echo, and never from the command line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{Arguments, Exit, Failure, Outcome};
use crate::auth::argon::{self, Scratch};
use crate::auth::edit;
use crate::auth::users::{self, Users};
use crate::config::Config;

type Password = Zeroizing<String>;

/// Octets in a password, at most: a PLAIN response must fit into a line.
const PASSWORD_MAX: usize = 1024;

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
            println!("{}", hash(&obtain(arguments)?)?);
            Ok(Exit::Ok)
        }
        ["add" | "passwd" | "remove" | "verify"] => Err(Failure::usage(&format!("`user {}` needs one LOGIN", words[0]))),
        ["add" | "passwd" | "remove" | "verify", ..] => {
            Err(Failure::usage("`user` takes one LOGIN, and never a password on the command line"))
        }
        _ => Err(Failure::usage("`user` is followed by add, passwd, remove, list, verify or hash")),
    }
}

fn add(arguments: &Arguments, login: &str, label: Option<&str>) -> Outcome {
    users::check_login(login).map_err(|why| Failure::usage(&format!("login `{login}`: {why}")))?;
    let config = arguments.load()?;
    let label = label.unwrap_or("");
    let text = read(&config.users, true)?;
    if edit::has(&text, login, Some(label)) {
        let text = format!("{login} has that password already; change it with `user passwd`, or add one more with --label TEXT");
        return Err(Failure::new(Exit::CantCreate, text));
    }
    let hash = hash(&obtain(arguments)?)?;
    // Read anew: somebody may have edited the file while the password was typed.
    replace(&config, &edit::add(&read(&config.users, true)?, login, label, &hash))
}

fn passwd(arguments: &Arguments, login: &str, label: Option<&str>) -> Outcome {
    let config = arguments.load()?;
    let label = label.unwrap_or("");
    if !edit::has(&read(&config.users, false)?, login, Some(label)) {
        return Err(unknown(login));
    }
    let hash = hash(&obtain(arguments)?)?;
    let (text, _) = edit::replace(&read(&config.users, false)?, login, label, &hash);
    replace(&config, &text)
}

fn remove(arguments: &Arguments, login: &str, label: Option<&str>) -> Outcome {
    let config = arguments.load()?;
    match edit::remove(&read(&config.users, false)?, login, label) {
        (_, 0) => Err(unknown(login)),
        (text, _) => replace(&config, &text),
    }
}

fn list(arguments: &Arguments) -> Outcome {
    let users = parsed(&arguments.load()?)?;
    let mut rows: Vec<_> = users.all().map(|(login, password)| (password.line, login, password)).collect();
    rows.sort_by_key(|(line, ..)| *line);
    for (_, login, password) in rows {
        let cost = password.hash.cost();
        let memory = cost.memory / 1024;
        println!("{login}\t{}\targon2 {memory} MiB, {} passes", password.label, cost.passes);
    }
    Ok(Exit::Ok)
}

fn verify(arguments: &Arguments, login: &str) -> Outcome {
    let users = parsed(&arguments.load()?)?;
    if users.passwords(login).is_empty() {
        return Err(unknown(login));
    }
    let password = obtain(arguments)?;
    match users.passwords(login).iter().find(|known| known.hash.matches(password.as_bytes(), &mut Scratch::default())) {
        Some(known) if known.label.is_empty() => println!("right"),
        Some(known) => println!("right: {}", known.label),
        None => return Err(Failure::new(Exit::NoPermission, "wrong password")),
    }
    Ok(Exit::Ok)
}

fn unknown(login: &str) -> Failure {
    Failure::new(Exit::NoInput, format!("{login}: no such login or label in the users file; see `user list`"))
}

fn parsed(config: &Config) -> Result<Users, Failure> {
    crate::server::load::users(config).map_err(Failure::problems)
}

fn hash(password: &Password) -> Result<String, Failure> {
    argon::hash(password.as_bytes()).map_err(|_| Failure::new(Exit::OsError, "the system gives no random octets or no memory"))
}

/// A password from the terminal, typed twice; from standard input; or made and printed once.
fn obtain(arguments: &Arguments) -> Result<Password, Failure> {
    if arguments.matches.opt_present("generate") {
        let password = generate()?;
        println!("{}", *password);
        return Ok(password);
    }
    let failed = |error: io::Error| Failure::new(Exit::NoInput, format!("password: {error}"));
    let password = if io::stdin().is_terminal() {
        let first = ask("Password: ").map_err(failed)?;
        let twice = arguments.words().first().is_none_or(|word| word != "verify");
        if twice && *ask("Again: ").map_err(failed)? != *first {
            return Err(Failure::new(Exit::NoInput, "password: the two differ; try again"));
        }
        first
    } else {
        line_of_stdin().map_err(failed)?
    };
    if password.is_empty() || password.len() > PASSWORD_MAX {
        return Err(Failure::new(Exit::NoInput, format!("password: must have 1 to {PASSWORD_MAX} octets")));
    }
    Ok(password)
}

/// 100 bits, in characters that survive being read aloud.
pub(super) fn generate() -> Result<Password, Failure> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = Zeroizing::new([0; 20]);
    aws_lc_rs::rand::fill(&mut *random).map_err(|_| Failure::new(Exit::OsError, "the system gives no random octets"))?;
    Ok(Zeroizing::new(random.iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect()))
}

fn line_of_stdin() -> io::Result<Password> {
    let mut line = Zeroizing::new(String::with_capacity(PASSWORD_MAX + 2));
    io::stdin().lock().take(PASSWORD_MAX as u64 + 2).read_line(&mut line)?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn ask(prompt: &str) -> io::Result<Password> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent)?;
    // Only now, so that what is typed at the prompt is neither shown nor flushed.
    eprint!("{prompt}");
    io::stderr().flush()?;
    let line = line_of_stdin();
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &before)?;
    eprintln!();
    line
}

fn read(path: &Path, may_be_missing: bool) -> Result<String, Failure> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && may_be_missing => Ok(String::new()),
        Err(error) => Err(Failure::file(Exit::NoInput, path, error)),
        Ok(text) => Ok(text),
    }
}

/// Replaces the users file in one step that a power cut cannot halve; owner and mode stay.
fn replace(config: &Config, text: &str) -> Outcome {
    let path = config.users.canonicalize().unwrap_or_else(|_| config.users.clone());
    write_whole(&path, text, config).map_err(|error| Failure::file(Exit::CantCreate, &path, error))?;
    Ok(Exit::Ok)
}

fn write_whole(path: &Path, text: &str, config: &Config) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = (|| {
        match fs::metadata(path) {
            Ok(old) => {
                if nix::unistd::geteuid().is_root() {
                    fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
                file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            }
            // A new file is root's, and the server's to read.
            Err(_) if nix::unistd::geteuid().is_root() => {
                if let Some(group) = super::check::group_of(config) {
                    fchown(&file, None, Some(group.gid.as_raw()))?;
                    file.set_permissions(fs::Permissions::from_mode(0o640))?;
                }
            }
            Err(_) => {}
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    })();
    written.inspect_err(|_| drop(fs::remove_file(&temporary)))
}
