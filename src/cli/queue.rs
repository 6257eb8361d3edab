//! `pillarbox queue`: shows the mail that waits to be sent on, and does what the operator wants done with it.
//!
//! A listing, an envelope or an explanation goes to standard output; what was done goes to standard error. Addresses and
//! replies are foreign text: no control character of theirs reaches the terminal.

mod ask;
mod table;

use std::io::{IsTerminal as _, Write as _};

use super::{Arguments, Exit, Failure, Outcome, count, nearest, say, tell};
use crate::queue::QueueId;
use crate::queue::control::{Answer, Request, Verb};
use crate::queue::listing::Selectors;
pub(super) use ask::{Spooled, json, plain};

/// The words that may follow `queue`, with what follows them.
const ACTIONS: [(&str, Action); 7] = [
    ("show", Action::Show),
    ("explain", Action::Explain),
    ("try", Action::Apply(Verb::Try)),
    ("hold", Action::Apply(Verb::Hold)),
    ("release", Action::Apply(Verb::Release)),
    ("return", Action::Apply(Verb::Return)),
    ("drop", Action::Apply(Verb::Drop)),
];

#[derive(Clone, Copy)]
enum Action {
    Apply(Verb),
    Explain,
    List,
    Show,
}

/// Shows the queue, or does something with messages in it.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let given = |name: &str| arguments.matches.opt_present(name);
    let (word, action, ids) = words(arguments)?;
    let selectors = selectors(arguments, ids);
    let name = format!("queue {word}");
    let name = name.trim_end();
    if given("json") && !matches!(action, Action::List | Action::Show) {
        return Err(Failure::usage(&format!("--json belongs to `queue` and `queue show`, not to `{name}`")));
    }
    if given("yes") && !selectors.all {
        return Err(Failure::usage("--yes belongs to --all"));
    }
    if selectors.all && selectors != (Selectors { all: true, ..Selectors::default() }) {
        return Err(Failure::usage("--all is every message; leave it out where IDs or selectors are given"));
    }
    match action {
        Action::List => list(&Spooled::open(arguments)?, selectors, given("json")),
        Action::Show if given("json") => list(&Spooled::open(arguments)?, one(name, selectors)?, true),
        Action::Show => print(&Spooled::open(arguments)?, &Request::Show(one(name, selectors)?.ids.remove(0))),
        Action::Explain => print(&Spooled::open(arguments)?, &Request::Explain(one(name, selectors)?.ids.remove(0))),
        Action::Apply(verb) => {
            if selectors.is_empty() {
                let text = format!("`{name}` needs an ID, a selector (--from, --to, --to-domain, --login, --route) or --all");
                return Err(Failure::usage(&text));
            }
            if selectors.all && !given("yes") && !std::io::stdin().is_terminal() {
                return Err(Failure::usage(&format!("`{name} --all` asks on a terminal; here it needs --yes as well")));
            }
            let spooled = Spooled::open(arguments)?;
            if selectors.all && !given("yes") && !confirmed(&spooled, verb)? {
                tell("nothing was done");
                return Ok(Exit::Ok);
            }
            apply(&spooled, verb, &selectors)
        }
    }
}

/// The word after `queue`, what it means, and the IDs that follow.
fn words(arguments: &Arguments) -> Result<(&str, Action, &[String]), Failure> {
    let [word, ids @ ..] = arguments.words() else { return Ok(("", Action::List, &[])) };
    if let Some((_, action)) = ACTIONS.iter().find(|(name, _)| name == word) {
        return Ok((word, *action, ids));
    }
    if word.to_ascii_lowercase().parse::<QueueId>().is_ok() {
        return Err(Failure::usage(&format!("what about {word}? `pillarbox queue show {word}` shows it")));
    }
    let nearest = nearest(word, ACTIONS.iter().map(|(name, _)| *name));
    let text = format!("unknown action `queue {word}`, the nearest known is `queue {nearest}`; `queue` alone lists");
    Err(Failure::usage(&text))
}

fn selectors(arguments: &Arguments, ids: &[String]) -> Selectors {
    let option = |name: &str| arguments.matches.opt_str(name);
    Selectors {
        ids: ids.to_vec(),
        from: option("from"),
        to: option("to"),
        to_domain: option("to-domain"),
        login: option("login"),
        route: option("route"),
        all: arguments.matches.opt_present("all"),
    }
}

/// One ID and nothing else.
fn one(name: &str, selectors: Selectors) -> Result<Selectors, Failure> {
    let alone = Selectors { ids: selectors.ids.clone(), ..Selectors::default() };
    match selectors.ids.as_slice() {
        [_] if alone == selectors => Ok(selectors),
        _ => Err(Failure::usage(&format!("`{name}` takes one ID"))),
    }
}

fn list(spooled: &Spooled, selectors: Selectors, as_json: bool) -> Outcome {
    let mut rows = Vec::new();
    let outcome = spooled.ask(&Request::List(selectors), &mut |answer| match answer {
        Answer::Message(row) if as_json => say(json(&*row)),
        Answer::Message(row) => rows.push(*row),
        _ => {}
    })?;
    if !as_json {
        table::lines(&rows, jiff::Timestamp::now()).iter().for_each(say);
        if rows.is_empty() {
            say("the queue is empty");
        }
    }
    Ok(outcome)
}

fn print(spooled: &Spooled, request: &Request) -> Outcome {
    spooled.ask(request, &mut |answer| {
        if let Answer::Text(line) = answer {
            say(plain(&line));
        }
    })
}

fn apply(spooled: &Spooled, verb: Verb, selectors: &Selectors) -> Outcome {
    let mut some_wrong = None;
    let one = |selectors: Selectors| {
        spooled.ask(&Request::Apply(verb, selectors), &mut |answer| {
            if let Answer::Text(line) = answer {
                tell(plain(&line));
            }
        })
    };
    if selectors.ids.len() <= IDS_MAX {
        return one(selectors.clone());
    }
    for ids in selectors.ids.chunks(IDS_MAX) {
        match one(Selectors { ids: ids.to_vec(), ..selectors.clone() }) {
            Err(failure) if failure.exit == Exit::NoInput => some_wrong = Some(failure),
            other => drop(other?),
        }
    }
    some_wrong.map_or(Ok(Exit::Ok), Err)
}

/// IDs of one request, at most: it is bounded in octets.
const IDS_MAX: usize = 5000;

/// Asks on the terminal.
fn confirmed(spooled: &Spooled, verb: Verb) -> Result<bool, Failure> {
    let mut messages = 0;
    spooled.ask(&Request::List(Selectors { all: true, ..Selectors::default() }), &mut |_| messages += 1)?;
    if messages == 0 {
        return Err(Failure::new(Exit::NoInput, "the queue is empty"));
    }
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "pillarbox: {} all of {}? [y/N] ", verb.name(), count(messages, "message"));
    let _ = stderr.flush();
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
