//! `pillarbox check`: names everything that is wrong with a configuration and the files that it names, all at once.
//!
//! It is stricter than `serve`: what a server starts with and then refuses mail or logins for is an error too. `serve`
//! says those once at its start ([`advice`]).

mod direct;
mod machine;
mod probe;
mod records;
mod routes;
mod spool;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::{User, geteuid};

use super::{Arguments, Exit, Outcome, count, dkim, say};
use crate::auth::users::Users;
use crate::config::outgoing::{DkimMode, Outgoing};
use crate::config::{Config, Problem};
use crate::conn::context::Snapshot;
use crate::policy::aliases::Aliases;
use crate::policy::{Destination, Policy};
use crate::server::keys::KeySource;
use crate::server::{expiry, load, modes, sandbox};
use crate::smtp::address::{Address, ForwardPath};
use machine::{hash_costs, maildirs, ports, run_as, space, unreadable, unwritable};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Error,
}

struct Report(Vec<(&'static str, Level, String)>);

/// Prints a table, then `ok` or the count of errors; exit 0 or 78.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    if let Some(word) = arguments.words().first() {
        return Err(super::Failure::usage(&format!("`check` takes no `{word}`")));
    }
    let mut report = Report(Vec::new());
    match load::text(&arguments.config) {
        Err(error) => report.error("configuration", load::unreadable(&arguments.config, &error, load::NO_CONFIG)),
        Ok(text) => {
            let (config, problems) = Config::examine(&text, &arguments.config, load::own_name);
            // What stands in for a faulty part of it must not be tried instead: mail would seem to go by MX, say.
            let is_outgoing_whole = problems.iter().all(|problem| !problem.key.starts_with("outgoing"));
            report.part("configuration", &arguments.config.display().to_string(), problems);
            if let Some(config) = config {
                let offline = arguments.matches.opt_present("offline") || !is_outgoing_whole;
                everything(&config, &arguments.config, offline, &mut report);
            }
        }
    }
    let errors = report.0.iter().filter(|(_, level, _)| *level == Level::Error).count();
    for (part, level, text) in &report.0 {
        say(format_args!("{part:<14} {:<8} {text}", level.word()));
    }
    if errors == 0 {
        say("ok")
    } else {
        say(count(errors, "error"))
    }
    Ok(if errors == 0 { Exit::Ok } else { Exit::Config })
}

fn everything(config: &Config, file: &Path, offline: bool, report: &mut Report) {
    let account = run_as(config, report);
    let users = load::users(config);
    let logins: Vec<String> = users.as_ref().map(|users| users.logins().map(str::to_owned).collect()).unwrap_or_default();
    match &users {
        Ok(_) => report.ok("users", format!("{}: {}", config.users.display(), count(logins.len(), "login"))),
        Err(problems) => report.errors("users", problems),
    }
    rights(config, file, account.as_ref(), report);
    unfinished(config).into_iter().for_each(|text| report.warning("files", text));
    report.errors("maildir", &load::shared_maildirs(config, logins.iter().map(String::as_str)));
    let aliases = load::aliases(config);
    if let Err(problems) = &aliases {
        report.errors("aliases", problems);
    }
    let policy = load::policy(config, logins.iter().map(String::as_str), aliases.clone().unwrap_or_default());
    if let (Ok(_), Ok(aliases)) = (&users, &aliases) {
        addresses(config, &policy, aliases, &logins, report);
    }
    if let Some(outgoing) = &config.outgoing {
        sending(config, outgoing, users.is_ok() && aliases.is_ok(), &policy, report);
        unsigned(config, outgoing, file).into_iter().for_each(|text| report.warning("dkim", text));
        spool::look(&outgoing.spool, account.as_ref(), report);
        if !offline {
            report.0.extend(routes::rows(config));
        }
    }
    if let Ok(users) = &users {
        no_logins(config, users).into_iter().for_each(|text| report.warning("users", text));
        weak_hashes(users).into_iter().for_each(|text| report.warning("users", text));
        unknown_logins(config, users).into_iter().for_each(|text| report.warning("users", text));
        no_such_users(config).into_iter().for_each(|text| report.warning("users", text));
        hash_costs(config, users, report);
    }
    certificate(config, report);
    signing(config, report);
    maildirs(config, &logins, account.as_ref(), report);
    space(&config.maildir.root(), report);
    config.outgoing.iter().for_each(|outgoing| space(&outgoing.spool, report));
    ports(config, report);
    let access = sandbox::access(config, file, geteuid().is_root());
    let writes: Vec<String> = access.writes.iter().map(|path| path.display().to_string()).collect();
    let reads: Vec<String> = access.reads.iter().map(|path| path.display().to_string()).collect();
    report.ok("access", format!("reads {}; writes {}", reads.join(", "), writes.join(", ")));
}

/// Files that the server may not read again while it runs, and files that others may read.
fn rights(config: &Config, file: &Path, account: Option<&User>, report: &mut Report) {
    for text in unreadable(config, file, account) {
        report.error("rights", text);
    }
    modes::too_wide(config, file).into_iter().for_each(|text| report.warning("rights", text));
}

/// Files that a reload would take for half written, while a start takes them up.
fn unfinished(config: &Config) -> Vec<String> {
    let files = [Some(&config.users), config.aliases.as_ref()].into_iter().flatten();
    let line = |file: &PathBuf| {
        let line = load::text(file).ok().and_then(|text| load::unfinished_line(&text))?;
        let text = "the last line has no line end: a running server would take the file for half written; end it with one";
        Some(format!("{}:{line}: {text}", file.display()))
    };
    files.filter_map(line).collect()
}

/// A users file without a login, which a start takes up too. What is handed in by local sockets alone needs none.
fn no_logins(config: &Config, users: &Users) -> Option<String> {
    let needs_none = config.listen.is_empty() && !config.local.is_empty();
    let text = "has no login: nobody can log in, and there is no mailbox; add one with `pillarbox user add LOGIN`";
    (users.is_empty() && !needs_none).then(|| format!("{}: {text}", config.users.display()))
}

/// Where aliases lead, and whether each login and each row of `[senders]` has its counterpart.
fn addresses(config: &Config, policy: &Policy, aliases: &Aliases, logins: &[String], report: &mut Report) {
    let before = report.0.len();
    let problems = load::alias_problems(config, policy);
    for problem in problems.fatal.iter().chain(&problems.dead_ends) {
        report.error("aliases", problem);
    }
    if report.0.len() == before {
        let number = Aliases::iter(aliases).count();
        report.ok("aliases", if number == 1 { "1 alias".to_owned() } else { format!("{number} aliases") });
    }
    required_names(policy).into_iter().for_each(|text| report.warning("addresses", text));
    for login in config.senders.keys().filter(|login| !logins.contains(login)) {
        report.warning("senders", format!("`{login}` is no login of the users file; correct or remove it"));
    }
    // Without any domain, that is what must be corrected first.
    let foreign = |login: &&String| !config.domains.is_empty() && login.contains('@') && !config.is_local(login);
    for login in logins.iter().filter(foreign) {
        report.warning("users", format!("`{login}` has a domain that is not in `domains`: it can log in, and has no mailbox"));
    }
}

/// The outgoing side, as far as nothing has to be asked of other hosts.
fn sending(config: &Config, outgoing: &Outgoing, is_policy_whole: bool, policy: &Policy, report: &mut Report) {
    let mut problems = load::password_files(config);
    if is_policy_whole {
        problems.extend(load::outgoing_problems(config, policy));
    }
    if problems.is_empty() {
        let told: Vec<String> = outgoing.postmaster_at(policy).iter().map(place).collect();
        let routes = count(outgoing.routes.len(), "route");
        report.ok("outgoing", format!("via {}; {routes}; {} is told of routes that rest", outgoing.via, told.join(", ")));
        report.ok(
            "outgoing",
            "a process that is started for one connection (inetd nowait, tcpserver, pillarbox-connection.socket) sends nothing on: \
             it refuses mail for other domains"
                .to_owned(),
        );
    }
    report.errors("outgoing", &problems);
}

/// The keys that sign.
fn signing(config: &Config, report: &mut Report) {
    match load::keyring(config, &KeySource::default()) {
        Err(refused) => report.errors("dkim", &refused.problems()),
        Ok(_) if config.dkim.is_empty() => {}
        Ok(_) => report.ok("dkim", count(config.dkim_files().len(), "key")),
    }
}

/// Domains whose mail is sent on without a signature, where a route wants one.
fn unsigned(config: &Config, outgoing: &Outgoing, file: &Path) -> Vec<String> {
    if outgoing.dkim_modes().all(|mode| mode == DkimMode::Off) {
        return Vec::new();
    }
    let has_none = |domain: &&String| dkim::rows(config, domain).all(|(_, keys)| keys.is_empty());
    let text = |domain: &String| {
        let made = dkim::unnamed(file, domain);
        let cure = made.unwrap_or_else(|| format!("make a key with `pillarbox dkim add {domain}`"));
        format!("mail from {domain} is sent unsigned; {cure}")
    };
    config.domains.iter().filter(has_none).map(text).collect()
}

/// A mailbox, or an address elsewhere.
fn place(destination: &Destination) -> String {
    match destination {
        Destination::Mailbox(local) => local.mailbox.clone(),
        Destination::Remote(address) => address.to_string(),
    }
}

/// What `serve` says once at its start, as the user that it runs as.
pub(super) fn advice(snapshot: &Snapshot, file: &Path) -> Vec<String> {
    let mut texts = required_names(&snapshot.policy);
    texts.extend(no_logins(&snapshot.config, &snapshot.users));
    texts.extend(unfinished(&snapshot.config));
    texts.extend(weak_hashes(&snapshot.users));
    texts.extend(unknown_logins(&snapshot.config, &snapshot.users));
    if let Some(acceptor) = &snapshot.tls {
        texts.extend(wrong_name(&snapshot.config, acceptor));
        texts.extend(days_left(acceptor).into_iter().filter(|(level, _)| *level != Level::Ok).map(|(_, text)| text));
    }
    texts.extend(snapshot.config.outgoing.iter().flat_map(|outgoing| unsigned(&snapshot.config, outgoing, file)));
    texts.extend(unreadable(&snapshot.config, file, None));
    let logins: Vec<String> = snapshot.users.logins().map(str::to_owned).collect();
    texts.extend(unwritable(&snapshot.config, &logins, None));
    texts
}

/// Addresses that every domain must have (RFC 5321 section 4.5.1, RFC 2142).
fn required_names(policy: &Policy) -> Vec<String> {
    let mut texts = Vec::new();
    for domain in policy.domains() {
        for name in ["postmaster", "abuse"] {
            let address = format!("{name}@{domain}");
            let leads = Address::parse(&address)
                .is_ok_and(|address| !policy.route(&ForwardPath::Mailbox(address)).destinations.is_empty());
            if !leads {
                texts.push(format!("{address} leads nowhere; add an alias such as `{name}: LOGIN`"));
            }
        }
    }
    texts
}

fn weak_hashes(users: &Users) -> Vec<String> {
    let mut weak: Vec<(usize, String)> = users
        .all()
        .filter(|(_, password)| password.hash.cost().is_weak())
        .map(|(login, password)| {
            (
                password.line,
                format!("line {}: the hash of {login} is weaker than OWASP's minimum; set the password anew", password.line),
            )
        })
        .collect();
    weak.sort();
    weak.into_iter().map(|(_, text)| text).collect()
}

fn certificate(config: &Config, report: &mut Report) {
    let acceptor = match load::tls(config, &KeySource::default()) {
        Ok(None) => return,
        Ok(Some(acceptor)) => acceptor,
        Err(problems) => return report.errors("certificate", &problems),
    };
    let file = config.tls.as_ref().map(|tls| tls.certificate.display().to_string()).unwrap_or_default();
    match wrong_name(config, &acceptor) {
        None => report.ok("certificate", format!("{file}: is for {}", config.hostname)),
        Some(text) => report.error("certificate", text),
    }
    if let Some((level, text)) = days_left(&acceptor) {
        report.0.push(("certificate", level, format!("{file}: {text}")));
    }
}

fn wrong_name(config: &Config, acceptor: &crate::net::tls::TlsServer) -> Option<String> {
    let file = config.tls.as_ref().map(|tls| tls.certificate.display().to_string()).unwrap_or_default();
    let text = format!("{file}: is not for `{}`; issue it for that name or correct `hostname`", config.hostname);
    (!acceptor.is_for(&config.hostname)).then_some(text)
}

fn days_left(acceptor: &crate::net::tls::TlsServer) -> Option<(Level, String)> {
    let left = expiry::days_left(acceptor, SystemTime::now())?;
    Some(match (left, expiry::warning(acceptor)) {
        (None, Some(text)) => (Level::Error, text),
        (_, Some(text)) => (Level::Warning, text),
        (left, None) => (Level::Ok, format!("the certificate has {} days left", left.unwrap_or(0))),
    })
}

/// Users of this machine whose login is in no line of the users file, which may be meant: it needs no password here.
fn unknown_logins(config: &Config, users: &Users) -> Vec<String> {
    let rows = config.unix_users.iter().filter(|(_, login)| users.passwords(login).is_empty());
    let text = |(user, login): (&String, &String)| {
        format!("unix_users.{user}: {login} is not in the users file; add it if it is to have a mailbox or a password")
    };
    rows.map(text).collect()
}

/// Rows of `unix_users` that mean no user of this machine.
fn no_such_users(config: &Config) -> Vec<String> {
    let rows = config.unix_users.keys().filter(|user| matches!(User::from_name(user), Ok(None)));
    rows.map(|user| format!("unix_users.{user}: this machine has no such user; correct the name")).collect()
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Report {
    fn ok(&mut self, part: &'static str, text: String) {
        self.0.push((part, Level::Ok, text));
    }

    fn warning(&mut self, part: &'static str, text: String) {
        self.0.push((part, Level::Warning, text));
    }

    fn error(&mut self, part: &'static str, text: impl ToString) {
        self.0.push((part, Level::Error, text.to_string()));
    }

    fn errors(&mut self, part: &'static str, problems: &[Problem]) {
        problems.iter().for_each(|problem| self.error(part, problem));
    }

    fn part(&mut self, part: &'static str, what: &str, problems: Vec<Problem>) {
        match problems.is_empty() {
            true => self.ok(part, what.to_owned()),
            false => self.errors(part, &problems),
        }
    }
}
