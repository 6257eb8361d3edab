//! The operator's verbs: what `pillarbox queue` and `pillarbox routes` ask for is found out or done here.
//!
//! [`serve`] answers one request with the help of a [`Desk`]. A running server is one, and [`Offline`] is another, which
//! works on the spool itself under its lock while no server runs. What is shown comes from the files, with what the running
//! server knows besides: a route that rests is in no file. A verb is done for every message that is meant, and what
//! became of each is said; an id that is wrong does not stop the others.

mod offline;
mod rows;
mod running;
mod view;
mod words;

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::QueueId;
use super::control::{Answer, Request, Verb};
use super::listing::Selectors;
use super::schedule;
use super::spool::{Envelope, Spool, SpoolError};
use super::work::Attempt;
pub use offline::Offline;
use view::View;
pub use words::span;

/// What the verbs are done with.
pub trait Desk {
    /// The spool, for what is in the files.
    fn spool(&self) -> &Spool;

    /// All messages, held ones included, the oldest first.
    fn ids(&self) -> Vec<QueueId>;

    /// What the running server knows of a message; nothing without a server.
    fn message(&self, id: QueueId) -> Option<schedule::MessageState>;

    /// The routes; none without a server.
    fn routes(&self) -> Vec<schedule::RouteState>;

    /// What failed last with a destination that rests; nothing without a server.
    fn last_failure(&self, _destination: &schedule::Destination) -> Option<Attempt> {
        None
    }

    /// The name of the route that a recipient takes by the tables of `[outgoing]`: that of a smarthost, `mx` or `refuse`.
    fn route_of(&self, envelope: &Envelope, recipient: usize) -> String;

    /// Applies a verb; the answers are in the order of the ids.
    fn apply(&self, verb: Verb, ids: &[QueueId]) -> Vec<schedule::Answer>;

    /// Probes a route now; false if there is none of this name.
    fn try_route(&self, name: &str) -> bool;

    /// Seconds until a message is returned.
    fn give_up(&self) -> u64;

    /// False if no server runs: what only a server can do is done at its next start.
    fn is_running(&self) -> bool {
        true
    }

    /// Why the last verb could not be done for a message, where that is the disk's fault.
    fn failure(&self, _id: QueueId) -> Option<String> {
        None
    }
}

/// How a request ends: the exit code and a sentence.
type End = (i32, String);
type Say<'a> = &'a mut dyn FnMut(Answer) -> io::Result<()>;

/// A code of sysexits(3): what was named is not there.
const NO_INPUT: i32 = 66;
/// A code of sysexits(3): the system refuses.
const OS_ERROR: i32 = 71;
/// Messages that are named one by one when a verb is done for them; of more, their number is said.
const NAMED_MAX: usize = 10;

/// Answers a request. A caller that is gone is told no more; what was asked for is done all the same.
pub fn serve(desk: &dyn Desk, request: Request, say: Say<'_>) {
    let ended = match request {
        Request::Apply(verb, selectors) => apply(desk, verb, &selectors, say),
        Request::Explain(id) => one(desk, &id, say, words::explain),
        Request::List(selectors) => list(desk, &selectors, say),
        Request::Routes => routes(desk, say),
        Request::Show(id) => one(desk, &id, say, words::show),
        Request::TryRoute(name) => try_route(desk, &name),
    };
    if let Ok((exit, text)) = ended {
        let _ = say(Answer::End(exit, text));
    }
}

fn apply(desk: &dyn Desk, verb: Verb, selectors: &Selectors, say: Say<'_>) -> io::Result<End> {
    let Chosen { ids, wrong } = choose(desk, selectors);
    let answers = desk.apply(verb, &ids);
    if answers.len() < ids.len() {
        return Ok((OS_ERROR, "the server is being stopped; nothing was done, try again".into()));
    }
    let mut tally = Tally { named: ids.len() <= NAMED_MAX, ..Tally::default() };
    for (id, answer) in ids.iter().zip(answers) {
        tally.take(desk, verb, *id, answer);
    }
    for line in tally.lines(desk, verb) {
        say(Answer::Text(line))?;
    }
    Ok(match (tally.failed, wrong.is_empty(), ids.is_empty()) {
        (Some(why), ..) => (OS_ERROR, why),
        (None, false, _) => (NO_INPUT, wrong.join("; ")),
        (None, true, true) => (NO_INPUT, nothing_matches(selectors)),
        (None, true, false) if tally.missing > 0 => {
            (NO_INPUT, "a message was sent or returned meanwhile, or the server is still reading it; try again".into())
        }
        // A held message that is to be tried stays where it is.
        (None, true, false) if verb == Verb::Try && tally.done + tally.later == 0 => {
            (NO_INPUT, "nothing was tried; `pillarbox queue release` lets held messages go".into())
        }
        (None, true, false) => (0, String::new()),
    })
}

/// What became of the messages that a verb was for.
#[derive(Default)]
struct Tally {
    named: bool,
    lines: Vec<String>,
    done: usize,
    later: usize,
    nothing: usize,
    missing: usize,
    failed: Option<String>,
}

impl Tally {
    fn take(&mut self, desk: &dyn Desk, verb: Verb, id: QueueId, answer: schedule::Answer) {
        use schedule::Answer::{Done, Later, Nothing, Unknown};
        let line = match answer {
            Done => {
                self.done += 1;
                format!("{id}: {}", verb.done())
            }
            Later => {
                self.later += 1;
                format!("{id}: {}", later(desk, verb))
            }
            Nothing => {
                self.nothing += 1;
                let why = if verb == Verb::Release { "is not held" } else { "is held" };
                format!("{id}: {why}")
            }
            Unknown => return self.take_unknown(desk, verb, id),
        };
        if self.named {
            self.lines.push(line);
        }
    }

    /// What is in the spool and not in the schedule: it is damaged, its report cannot be delivered, or it is being settled.
    fn take_unknown(&mut self, desk: &dyn Desk, verb: Verb, id: QueueId) {
        if let Some(why) = desk.failure(id) {
            self.lines.push(format!("{id}: {why}"));
            self.failed.get_or_insert(format!("{id}: {why}"));
            return;
        }
        let is_held = desk.spool().find(id).is_ok_and(|found| found.held);
        let line = match desk.spool().read(id) {
            Err(SpoolError::Damaged(_)) | Ok(_) if verb == Verb::Drop && is_held => match desk.spool().remove(id) {
                Ok(()) => {
                    if desk.is_running() {
                        crate::journal::queue::dropped(&id.to_string());
                    }
                    self.done += 1;
                    format!("{id}: {}", verb.done())
                }
                Err(error) => {
                    self.failed.get_or_insert(format!("{id}: {error}"));
                    format!("{id}: {error}")
                }
            },
            Err(SpoolError::Damaged(why)) => {
                let path = desk.spool().path().join("held").join(id.to_string());
                let text = format!("{id}: its file is damaged ({why}); look at {}, then drop it", path.display());
                self.failed.get_or_insert(text.clone());
                text
            }
            Ok(message) if is_held && message.is_settled() => {
                self.failed.get_or_insert(format!(
                    "{id}: nothing is left to send; its report is tried again, or drop it when you have read it"
                ));
                format!("{id}: its report cannot be delivered; the log says why")
            }
            Err(SpoolError::Missing(_)) | Ok(_) => {
                self.missing += 1;
                format!("{id}: is not in the queue at this moment")
            }
            Err(error) => {
                self.failed.get_or_insert(format!("{id}: {error}"));
                format!("{id}: {error}")
            }
        };
        self.lines.push(line);
    }

    fn lines(&mut self, desk: &dyn Desk, verb: Verb) -> Vec<String> {
        let mut lines = std::mem::take(&mut self.lines);
        if self.named {
            return lines;
        }
        let messages = |count: usize| format!("{count} message{}", if count == 1 { "" } else { "s" });
        if self.done > 0 {
            lines.push(format!("{}: {}", messages(self.done), verb.done()));
        }
        if self.later > 0 {
            lines.push(format!("{}: {}", messages(self.later), later(desk, verb)));
        }
        if self.nothing > 0 {
            let what = if verb == Verb::Release { "not held" } else { "held" };
            lines.push(format!("{}: {what}, so nothing was done", messages(self.nothing)));
        }
        lines
    }
}

/// What is said of a verb that is done later.
fn later(desk: &dyn Desk, verb: Verb) -> String {
    match (desk.is_running(), verb) {
        (true, _) => format!("{}: applied when the attempt that is under way is finished", verb.name()),
        (false, _) => format!("{} when the server starts", verb.done().trim_end_matches(" now")),
    }
}

fn list(desk: &dyn Desk, selectors: &Selectors, say: Say<'_>) -> io::Result<End> {
    let Chosen { ids, wrong } = choose(desk, selectors);
    let mut some = false;
    for id in ids {
        if let Some(view) = View::of(desk, id, now()) {
            some = true;
            say(Answer::Message(Box::new(view.row())))?;
        }
    }
    Ok(match (wrong.is_empty(), some || selectors.is_empty() || selectors.all) {
        (false, _) => (NO_INPUT, wrong.join("; ")),
        (true, true) => (0, String::new()),
        (true, false) => (NO_INPUT, nothing_matches(selectors)),
    })
}

fn routes(desk: &dyn Desk, say: Say<'_>) -> io::Result<End> {
    if !desk.is_running() {
        return Ok((NO_INPUT, "no server runs on this spool, so no route is in use; it tries them all when it starts".into()));
    }
    for route in desk.routes() {
        say(Answer::Route(rows::route(&route)))?;
    }
    Ok((0, String::new()))
}

fn try_route(desk: &dyn Desk, name: &str) -> io::Result<End> {
    let names: Vec<String> = desk.routes().iter().map(|route| route.destination.name.to_string()).collect();
    // Every domain that rests; a smarthost cannot be called so.
    let is_known = name == "mx" || names.iter().any(|known| known == name);
    Ok(match (desk.is_running(), desk.try_route(name)) {
        (false, _) => (NO_INPUT, "no server runs on this spool; it tries every route when it starts".into()),
        (true, true) => (0, format!("{name}: is tried now")),
        (true, false) if is_known => (0, format!("{name}: does not rest, so there is nothing to try")),
        (true, false) => {
            let nearest = names.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
            let hint = nearest.map_or(String::new(), |nearest| format!(", the nearest known is `{nearest}`"));
            (NO_INPUT, format!("no route `{name}`{hint}; see `pillarbox routes`"))
        }
    })
}

/// Writes of one message.
fn one(desk: &dyn Desk, id: &str, say: Say<'_>, write: fn(&View<'_>) -> Vec<String>) -> io::Result<End> {
    let view = known(desk, id).and_then(|id| View::of(desk, id, now()).ok_or_else(|| no_message(id)));
    match view {
        Err(wrong) => Ok((NO_INPUT, wrong)),
        Ok(view) => {
            write(&view).into_iter().try_for_each(|line| say(Answer::Text(line)))?;
            Ok((0, String::new()))
        }
    }
}

/// Which messages are meant, and what is wrong with ids that are none.
#[derive(Debug)]
struct Chosen {
    ids: Vec<QueueId>,
    wrong: Vec<String>,
}

fn choose(desk: &dyn Desk, selectors: &Selectors) -> Chosen {
    let (mut ids, mut wrong) = (Vec::new(), Vec::new());
    for text in &selectors.ids {
        match known(desk, text) {
            Ok(id) if ids.contains(&id) => {}
            Ok(id) => ids.push(id),
            Err(why) => wrong.push(why),
        }
    }
    if selectors.ids.is_empty() {
        ids = all(desk);
    }
    let Selectors { from, to, to_domain, login, route, .. } = selectors;
    if [from, to, to_domain, login, route].iter().any(|one| one.is_some()) {
        let rest = Selectors { ids: Vec::new(), ..selectors.clone() };
        ids.retain(|id| View::of(desk, *id, now()).is_some_and(|view| view.row().fits(&rest)));
    }
    Chosen { ids, wrong }
}

/// Every message; a file that is damaged is in `held/` and not in the schedule.
fn all(desk: &dyn Desk) -> Vec<QueueId> {
    let mut ids = desk.ids();
    ids.extend(desk.spool().held().unwrap_or_default());
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The id that a person means, in capitals too.
fn known(desk: &dyn Desk, text: &str) -> Result<QueueId, String> {
    let wrong = || format!("`{text}` is no queue id; it has 13 letters and digits, see `pillarbox queue`");
    let id: QueueId = text.to_ascii_lowercase().parse().map_err(|()| wrong())?;
    match desk.spool().find(id) {
        Err(SpoolError::Missing(_)) => Err(no_message(id)),
        Err(error) => Err(format!("{id}: {error}")),
        Ok(_) => Ok(id),
    }
}

fn no_message(id: QueueId) -> String {
    format!("no message {id} in the queue; it was sent, returned or dropped, or the id is wrong")
}

fn nothing_matches(selectors: &Selectors) -> String {
    if selectors.all { "the queue is empty".into() } else { "no message in the queue matches".into() }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
