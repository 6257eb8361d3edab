//! What an operator types: arguments to a verb, and what went wrong to an exit code and one line.

mod check;
mod demo;
mod explain;
mod sendmail;
mod serve;
mod user;

use std::fmt;
use std::path::{Path, PathBuf};

use getopts::{Matches, Options, ParsingStyle};

use crate::config::{Config, DEFAULT_PATH, Problem};
use crate::journal;
use crate::net::handover;
use crate::server::{keys, load};

/// How the program ends; the numbers are of sysexits(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
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
    /// The password is wrong (`user verify`).
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

/// What every verb gets.
#[derive(Debug)]
pub struct Arguments {
    config: PathBuf,
    matches: Matches,
}

type Outcome = Result<Exit, Failure>;

/// Starts the log at a level: 0 warnings, 1 events, 2 and 3 more. With `syslog` it goes there, since standard error is a
/// client's connection.
pub type StartLog = fn(level: usize, syslog: bool);

/// Every verb with what it does, for the usage text.
pub const VERBS: [(&str, &str); 6] = [
    ("serve", "serve in the foreground (the default)"),
    ("check", "find everything that `serve` would trip over"),
    ("user", "add, passwd, remove, list, verify, hash: edit the users file"),
    ("demo", "try it out: no configuration, no root"),
    ("explain", "say where mail for an ADDRESS goes, or whether a message would be taken"),
    ("help", "show this text"),
];

/// Every option with its argument and what it does: short name, long name, argument, text.
pub const OPTIONS: [(&str, &str, &str, &str); 11] = [
    ("c", "config", "FILE", "read the configuration from FILE"),
    ("v", "verbose", "", "raise the level of the log; may be given twice"),
    ("h", "help", "", "show a short help"),
    ("V", "version", "", "show the version"),
    ("s", "service", "SERVICE", "serve, explain: which service: smtp, submission or submissions"),
    ("d", "ready-fd", "FD", "serve: write a newline to descriptor FD once everything listens"),
    ("", "login", "LOGIN", "explain: who hands the message in"),
    ("", "from", "ADDRESS", "explain: its sender; <> for none"),
    ("", "to", "ADDRESS", "explain: its recipient"),
    ("", "label", "TEXT", "user: which password of a login is meant"),
    ("", "generate", "", "user: make a password and print it once"),
];

/// Runs the program; gives its exit code. Errors go to standard error, a line each.
pub fn run(args: &[String], start_log: StartLog) -> i32 {
    let outcome = dispatch(args, start_log);
    let exit = outcome.unwrap_or_else(|failure| {
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

fn dispatch(args: &[String], start_log: StartLog) -> Outcome {
    if let [verb, certificate, key] = args
        && verb == keys::VERB
    {
        return keys::help(Path::new(certificate), Path::new(key))
            .map(|()| Exit::Ok)
            .map_err(|error| Failure::new(Exit::OsError, error));
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
        println!("pillarbox {}", env!("CARGO_PKG_VERSION"));
        return Ok(Exit::Ok);
    }
    let verb = matches.free.first().map_or("serve", String::as_str).to_owned();
    if matches.opt_present("h") || verb == "help" {
        print!("{}", usage(matches.free.iter().find(|word| *word != "help").map(String::as_str)));
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
        "explain" => explain::run(&arguments),
        _ => {
            let known = VERBS.iter().map(|(name, _)| *name);
            let nearest = known.min_by_key(|name| strsim::damerau_levenshtein(name, &verb)).unwrap_or("serve");
            Err(Failure::usage(&format!("unknown verb `{verb}`, the nearest known is `{nearest}`")))
        }
    }
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
        Some("explain") => text.push_str(
            "\n  explain ADDRESS\n  explain --from ADDRESS --to ADDRESS [--login LOGIN] [--service SERVICE]\n\n\
             Without --login, the message comes from another server on smtp.\n",
        ),
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
