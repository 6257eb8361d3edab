//! The command line: reads the arguments, runs one verb, and turns its outcome into an exit code.
//!
//! An error is one line on standard error: what, where, and the cure. Results go to standard output, and so does a
//! password that was made; what a verb has done and what it warns of goes to standard error, so that scripts can take
//! the output as it is.

mod check;
mod demo;
mod dkim;
mod explain;
mod queue;
mod routes;
mod sendmail;
mod serve;
mod user;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use getopts::{Matches, Options, ParsingStyle};

use crate::config::{Config, DEFAULT_PATH, Problem};
use crate::journal;
use crate::net::handover;
use crate::server::{keys, load};
use sendmail::Called;

/// How the program ends; the numbers are of sysexits(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The message would be refused (`explain`).
    Refused = 1,
    /// The command line is wrong.
    Usage = 64,
    /// A file or login that was named is not there.
    NoInput = 66,
    /// A defect.
    Software = 70,
    /// The system refuses.
    OsError = 71,
    /// A file cannot be made.
    CantCreate = 73,
    /// The password is wrong (`user verify`), or the user may not do that (`queue`, `routes`).
    NoPermission = 77,
    /// The configuration is wrong.
    Config = 78,
}

/// Why a verb could not be done: an exit code and one line, or several for several problems.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    lines: Vec<String>,
}

/// The command line of a verb.
#[derive(Debug)]
pub struct Arguments {
    config: PathBuf,
    matches: Matches,
}

type Outcome = Result<Exit, Failure>;

/// Starts the log at a level: 0 warnings, 1 events, 2 and 3 all that libraries may add. With `syslog` it goes there, since standard error is a
/// client's connection.
pub type StartLog = fn(level: usize, syslog: bool);

/// Every verb with what it does, for the usage text.
pub const VERBS: [(&str, &str); 10] = [
    ("serve", "serve in the foreground (the default)"),
    ("check", "find everything that `serve` would trip over"),
    ("user", "add, passwd, remove, list, verify, hash: edit the users file"),
    ("dkim", "add, list: make keys that sign mail, and show whether DNS has them"),
    ("demo", "try it out: no configuration, no root"),
    ("explain", "say where mail for an ADDRESS goes, or whether a message would be taken"),
    ("queue", "show the mail that waits to be sent on; show, explain, try, hold, release, return, drop"),
    ("routes", "show how the next hops are; try one now"),
    ("sendmail", "hand in a message from standard input, as sendmail(8); its flags are sendmail's"),
    ("help", "show this text"),
];

/// Every option with its argument and what it does: short name, long name, argument, text.
pub const OPTIONS: [(&str, &str, &str, &str); 19] = [
    ("c", "config", "FILE", "read the configuration from FILE"),
    ("v", "verbose", "", "log every event (`demo`; `serve` does so without it)"),
    ("h", "help", "", "show a short help"),
    ("V", "version", "", "show the version"),
    ("s", "service", "SERVICE", "serve, explain: which service: smtp, submission or submissions"),
    ("d", "ready-fd", "FD", "serve: write a newline to descriptor FD once everything listens"),
    ("", "login", "LOGIN", "explain, queue: the login that hands the message in"),
    ("", "from", "ADDRESS", "explain, queue: its sender; <> for none"),
    ("", "to", "ADDRESS", "explain, queue: its recipient"),
    ("", "to-domain", "DOMAIN", "queue: the domain of a recipient"),
    ("", "route", "NAME", "queue: the route of a recipient"),
    ("", "all", "", "queue: every message"),
    ("", "yes", "", "queue: with --all, do not ask"),
    ("", "json", "", "queue, routes: an object of JSON a line"),
    ("", "offline", "", "check: ask nothing of other hosts"),
    ("", "label", "TEXT", "user: which password of a login is meant"),
    ("", "selector", "S", "dkim: the name under which the key is published; pb1, pb2 … unless given"),
    ("", "ed25519", "", "dkim: make an Ed25519 key beside the RSA key"),
    ("", "generate", "", "user: make a password and print it once"),
];

/// Runs the program; gives its exit code. Errors go to standard error, a line each. Called by the name of sendmail(8) or its
/// kin, it is that.
pub fn run(program: &OsStr, args: &[OsString], start_log: StartLog) -> i32 {
    let words = match Called::of(program, args).map(|called| called.run()) {
        Some(Ok(exit)) => return exit,
        Some(Err(words)) => Some(words),
        None => None,
    };
    let is_sendmail = words.is_some();
    let text = |arg: &OsString| arg.to_str().map(str::to_owned).ok_or_else(|| not_text(arg));
    let words = words.map_or_else(|| args.iter().map(text).collect::<Result<Vec<_>, _>>(), Ok);
    let outcome = words.and_then(|words| dispatch(&words, start_log));
    let exit = outcome.unwrap_or_else(|failure| {
        // For mailq and `sendmail -q`, an empty queue is no failure.
        if is_sendmail && failure.exit == Exit::NoInput {
            return Exit::Ok;
        }
        for line in &failure.lines {
            match handover::stderr_is_a_connection() {
                true => journal::notice("start", line),
                false => eprintln!("pillarbox: {line}"),
            }
        }
        failure.exit
    });
    exit as i32
}

/// A path that is no UTF-8 could only be shortened or changed into another.
fn not_text(arg: &OsString) -> Failure {
    Failure::usage(&format!("argument {arg:?} is not UTF-8; give the file another name"))
}

fn dispatch(args: &[String], start_log: StartLog) -> Outcome {
    if let [verb, paths @ ..] = args
        && verb == keys::VERB
    {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        return keys::help(&paths).map(|()| Exit::Ok).map_err(|error| Failure::new(Exit::OsError, error));
    }
    let mut options = Options::new();
    options.parsing_style(ParsingStyle::FloatingFrees);
    for (short, long, argument, text) in OPTIONS {
        match (argument, long) {
            (_, "verbose") => options.optflagmulti(short, long, text),
            ("", _) => options.optflag(short, long, text),
            _ => options.optopt(short, long, text, argument),
        };
    }
    let matches = options.parse(args).map_err(|error| Failure::usage(&error.to_string()))?;
    if matches.opt_present("V") {
        say(format_args!("pillarbox {}", env!("CARGO_PKG_VERSION")));
        return Ok(Exit::Ok);
    }
    let verb = matches.free.first().map_or("serve", String::as_str).to_owned();
    if matches.opt_present("h") || verb == "help" {
        let about = matches.free.iter().find(|word| *word != "help").map(String::as_str);
        if let Some(unknown) = about.filter(|verb| VERBS.iter().all(|(name, _)| name != verb)) {
            return Err(unknown_verb(unknown));
        }
        say(usage(about).trim_end());
        return Ok(Exit::Ok);
    }
    let config = matches.opt_str("c").map_or_else(|| PathBuf::from(DEFAULT_PATH), PathBuf::from);
    let arguments = Arguments { config, matches };
    arguments.belong(&verb)?;
    match verb.as_str() {
        "serve" => serve::run(&arguments, start_log),
        "check" => check::run(&arguments),
        "user" => user::run(&arguments),
        "demo" => demo::run(&arguments, start_log),
        "dkim" => dkim::run(&arguments),
        "explain" => explain::run(&arguments),
        "queue" => queue::run(&arguments),
        "routes" => routes::run(&arguments),
        _ => Err(unknown_verb(&verb)),
    }
}

fn unknown_verb(verb: &str) -> Failure {
    let nearest = nearest(verb, VERBS.iter().map(|(name, _)| *name));
    Failure::usage(&format!("unknown verb `{verb}`, the nearest known is `{nearest}`"))
}

/// The candidate that differs least from a word.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known.min_by_key(|name| strsim::damerau_levenshtein(name, word)).unwrap_or_default()
}

/// Prints a line of a result. What a reader such as `head` closed early is no defect: the rest is dropped.
fn say(line: impl fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Says on standard error what was done, or what may be amiss; the result of a verb stays alone on standard output.
fn tell(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "pillarbox: {line}");
}

/// `1 login`, `2 logins`.
fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// The short help, of all verbs or of one.
fn usage(verb: Option<&str>) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("usage: pillarbox [-c FILE] [-v]... [VERB] [options]\n\n");
    let one = |(name, _): &&(&str, &str)| verb.is_none_or(|verb| verb == *name);
    for (name, does) in VERBS.iter().filter(one) {
        let _ = writeln!(text, "  {name:<18} {does}");
    }
    text.push('\n');
    for (short, long, argument, does) in OPTIONS {
        let (owner, does) = owners(does);
        if !owner.is_empty() && verb.is_some_and(|verb| !owner.split(", ").any(|one| one == verb)) {
            continue;
        }
        let name = if short.is_empty() { format!("--{long}") } else { format!("-{short}, --{long}") };
        let owner = if owner.is_empty() || verb.is_some() { String::new() } else { format!("{owner}: ") };
        let _ = writeln!(text, "  {:<24} {owner}{does}", format!("{name} {argument}"));
    }
    match verb {
        Some("user") => text.push_str(
            "\n  user add LOGIN [--label TEXT] [--generate]\n  user passwd LOGIN [--label TEXT] [--generate]\n  \
             user remove LOGIN [--label TEXT]\n  user list\n  user verify LOGIN\n  user hash\n\n\
             The password is read from the terminal, or from standard input when that is no terminal.\n",
        ),
        Some("dkim") => text.push_str("\n  dkim add DOMAIN [--selector S] [--ed25519]\n  dkim list\n"),
        Some("explain") => text.push_str(
            "\n  explain ADDRESS\n  explain --from ADDRESS --to ADDRESS [--login LOGIN] [--service SERVICE]\n\n\
             Without --login, the message comes from another server on smtp.\n",
        ),
        Some("queue") => text.push_str(
            "\n  queue [SELECTORS] [--json]\n  queue show ID [--json]\n  queue explain ID\n  \
             queue try|hold|release|return|drop ID...|SELECTORS|--all [--yes]\n\n\
             SELECTORS: --from, --to, --to-domain, --login, --route; a message is meant that all of them fit.\n",
        ),
        Some("routes") => text.push_str("\n  routes [--json]\n  routes try NAME\n"),
        Some("demo") => text.push_str("\n  demo [DIR]   DIR is ./pillarbox-demo unless given; a second run takes it up again\n"),
        _ => text.push_str(
            "\nThe configuration is read from /etc/pillarbox/pillarbox.toml unless -c says otherwise. See pillarbox(8).\n",
        ),
    }
    text
}

/// The verbs that an option belongs to, separated by commas (empty if to all), and what it does.
fn owners(text: &str) -> (&str, &str) {
    let known = |owner: &str| owner.split(", ").all(|one| VERBS.iter().any(|(name, _)| *name == one));
    text.split_once(": ").filter(|(owner, _)| known(owner)).unwrap_or(("", text))
}

impl Arguments {
    fn words(&self) -> &[String] {
        self.matches.free.get(1..).unwrap_or(&[])
    }

    fn verbosity(&self) -> usize {
        self.matches.opt_count("v")
    }

    /// An option of another verb is an error, not something to be overlooked.
    fn belong(&self, verb: &str) -> Result<(), Failure> {
        for (short, long, _, text) in OPTIONS {
            let given = self.matches.opt_present(if short.is_empty() { long } else { short });
            let (owner, _) = owners(text);
            if given && !owner.is_empty() && !owner.split(", ").any(|one| one == verb) {
                return Err(Failure::usage(&format!("--{long} is an option of `{owner}`, not of `{verb}`")));
            }
        }
        Ok(())
    }

    fn load(&self) -> Result<Config, Failure> {
        load::config(&self.config).map_err(Failure::problems)
    }
}

impl Exit {
    /// The end that a number stands for; a number that is none of them is a defect.
    fn of(number: i32) -> Self {
        let all = [
            Self::Ok,
            Self::Refused,
            Self::Usage,
            Self::NoInput,
            Self::OsError,
            Self::CantCreate,
            Self::NoPermission,
            Self::Config,
        ];
        all.into_iter().find(|exit| *exit as i32 == number).unwrap_or(Self::Software)
    }
}

impl Failure {
    fn new(exit: Exit, line: impl fmt::Display) -> Self {
        Self { exit, lines: vec![line.to_string()] }
    }

    fn usage(text: &str) -> Self {
        Self::new(Exit::Usage, format!("{text}; see `pillarbox help`"))
    }

    fn problems(problems: Vec<Problem>) -> Self {
        Self { exit: Exit::Config, lines: problems.iter().map(Problem::to_string).collect() }
    }

    fn file(exit: Exit, path: &Path, error: impl fmt::Display) -> Self {
        Self::new(exit, format!("{}: {error}", path.display()))
    }
}
