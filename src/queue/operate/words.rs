//! What is told of one message: everything in its file, and in sentences what happens to it.

use super::rows::{rfc3339, said};
use super::view::{View, Waits};
use crate::queue::explain::{Cause, Side};
use crate::queue::letter::{clean, wrap};
use crate::queue::schedule::{HeldWhy, Trouble, WaitsFor};
use crate::queue::spool::{DOWNGRADED, Envelope, Happened, Record, State};
use crate::smtp::address::ReversePath;
use crate::smtp::remote::Stage;

/// The envelope and every attempt, a line each.
pub(super) fn show(view: &View<'_>) -> Vec<String> {
    let mut lines = vec![
        format!("id        {}", view.id),
        format!("arrived   {} ({} ago)", rfc3339(view.arrived()), span(view.now.saturating_sub(view.arrived()))),
    ];
    let file = match &view.file {
        Err(why) => {
            lines.push(format!("held      damaged: {}", clean(why)));
            let path = view.desk.spool().path().join(if view.found.held { "held" } else { "queue" }).join(view.id.to_string());
            lines.push(format!("file      {}", path.display()));
            return lines;
        }
        Ok(file) => file,
    };
    let Envelope { reverse_path, login, session, body, utf8, ret, envid, recipients } = &file.message.envelope;
    lines.push(format!("from      {}", path(reverse_path)));
    lines.push(format!("login     {}", if login.is_empty() { "(none: a report of this server)" } else { login }));
    lines.push(format!("session   {session}"));
    lines.push(format!("size      {} octets", file.message.text.octets));
    let mut parameters: Vec<String> = Vec::new();
    parameters.extend(body.map(|body| format!("BODY={body}")));
    parameters.extend(utf8.then(|| "SMTPUTF8".to_owned()));
    parameters.extend(ret.map(|ret| format!("RET={ret}")));
    parameters.extend(envid.as_ref().map(|envid| format!("ENVID={envid}")));
    if !parameters.is_empty() {
        lines.push(format!("with      {}", parameters.join(" ")));
    }
    if !file.message.signatures.is_empty() {
        lines.push(format!("signed    {} times", file.message.signatures.len()));
    }
    lines.extend(view.held().map(|why| format!("held      {why}")));
    if view.may_have_arrived() {
        lines.push("note      may have arrived: an attempt ended after the final dot without a reply".to_owned());
    }
    let row = view.row();
    for ((number, recipient), told) in recipients.iter().enumerate().zip(&row.to) {
        let attempts = if told.attempts == 1 { "1 attempt".to_owned() } else { format!("{} attempts", told.attempts) };
        let next = view.next(number).map(|next| format!(", next {}", rfc3339(next))).unwrap_or_default();
        let notify = recipient.notify.map(|notify| format!(" NOTIFY={notify}")).unwrap_or_default();
        let orcpt = recipient.orcpt.as_ref().map(|orcpt| format!(" ORCPT={};{}", orcpt.kind, orcpt.address)).unwrap_or_default();
        lines.push(format!(
            "to {:<6} <{}>{notify}{orcpt} route {}: {}, {attempts}{next}",
            number + 1,
            told.address,
            told.route,
            told.state
        ));
    }
    lines.extend(file.message.log.iter().map(|record| happened(record, recipients.len())));
    lines.iter().map(|line| clean(line)).collect()
}

/// A record, for people.
fn happened(Record { time, what }: &Record, recipients: usize) -> String {
    let whose = |numbers: &[u16]| match numbers {
        numbers if recipients > 1 && numbers.len() == recipients => "all: ".to_owned(),
        numbers if recipients > 1 && !numbers.is_empty() => {
            let numbers: Vec<String> = numbers.iter().map(|number| (u32::from(*number) + 1).to_string()).collect();
            format!("{}: ", numbers.join(","))
        }
        _ => String::new(),
    };
    let text = match what {
        Happened::Begin { recipients, host, tls } => {
            let tls = match tls.as_deref() {
                None => "without TLS".to_owned(),
                Some(DOWNGRADED) => "without TLS, which the domain had before".to_owned(),
                Some(version) => format!("TLS {}", version.trim_start_matches("TLSv")),
            };
            format!("{}sent to {host}, {tls}", whose(recipients))
        }
        Happened::Dot { recipients } => format!("{}final dot", whose(recipients)),
        Happened::End { recipients } => format!("{}it came to nothing", whose(recipients)),
        Happened::Hold(why) => format!("held: {why}"),
        Happened::Release => "released".to_owned(),
        Happened::Reported { recipients, action } => format!("{}the sender was told: {action}", whose(recipients)),
        Happened::Result { recipients, verdict, told } => {
            let at = if told.stage == Stage::Dot { String::new() } else { format!(" at {}", told.stage.name()) };
            format!("{}{}{at}: {}", whose(recipients), verdict.name(), said(told))
        }
        Happened::Return => "to be returned to the sender".to_owned(),
    };
    format!("{}  {text}", rfc3339(*time))
}

/// Recipients that the same can be said of.
struct Group {
    recipients: Vec<usize>,
    route: String,
    state: State,
    waits: Waits,
    attempts: u32,
}

/// In words: what happened, whose fault that is, what happens next and when, and what can be done.
pub(super) fn explain(view: &View<'_>) -> Vec<String> {
    let mut text = String::new();
    let Some(envelope) = view.envelope() else {
        let why = view.file.as_ref().err().map_or("", String::as_str);
        wrap(&mut text, 0, &format!("{}: its file is damaged: {}.", view.id, clean(why)));
        wrap(
            &mut text,
            0,
            "The cause is this mail server or its disk. The message is not sent and nothing happens to it by itself.",
        );
        let path = view.desk.spool().path().join("held").join(view.id.to_string());
        let cure = format!("What you can do: read {}, tell its sender, then `pillarbox queue drop {}`.", path.display(), view.id);
        wrap(&mut text, 0, &cure);
        return text.lines().map(str::to_owned).collect();
    };
    let login =
        if envelope.login.is_empty() { "a report of this server".to_owned() } else { format!("login {}", envelope.login) };
    let age = span(view.now.saturating_sub(view.arrived()));
    let head = format!("{}: from {}, {login}, accepted {age} ago.", view.id, path(&envelope.reverse_path));
    wrap(&mut text, 0, &clean(&head));
    if view.may_have_arrived() {
        text.push('\n');
        wrap(&mut text, 0, IN_DOUBT);
    }
    for group in groups(view) {
        text.push('\n');
        explain_group(view, envelope, &group, &mut text);
    }
    if view.verbs_wait() {
        text.push('\n');
        wrap(&mut text, 0, "What you asked for is applied when the attempt that is under way is finished.");
    }
    text.lines().map(str::to_owned).collect()
}

const DOWNGRADE: &str = "The last connection had no TLS, though the domain had it before: what is sent can be read on the way.";
const IN_DOUBT: &str = "It may have arrived: an attempt ended after the final dot and before the reply, so a recipient may get it \
    twice.";

fn groups(view: &View<'_>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let Ok(file) = &view.file else { return groups };
    for (number, state) in file.states.iter().enumerate() {
        let group = Group {
            recipients: vec![number],
            route: view.route(number),
            state: state.clone(),
            waits: view.waits(number),
            attempts: file.attempts(number).0,
        };
        let same = |other: &&mut Group| {
            (&other.route, &other.state, other.waits, other.attempts) == (&group.route, &group.state, group.waits, group.attempts)
        };
        match groups.iter_mut().find(same) {
            Some(other) => other.recipients.push(number),
            None => groups.push(group),
        }
    }
    groups
}

fn explain_group(view: &View<'_>, envelope: &Envelope, group: &Group, text: &mut String) {
    let names = group.recipients.iter().map(|number| format!("<{}>", envelope.recipients[*number].address));
    let names: Vec<String> = names.take(NAMES_MAX).collect();
    let more = match group.recipients.len() - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    wrap(text, 0, &clean(&format!("To {}{more}, by the route {}:", names.join(", "), group.route)));
    let told = view.file.as_ref().ok().and_then(|file| file.told(group.recipients[0]));
    let cause = cause(view, group);
    let is_sent = matches!(group.state, State::Sent { .. });
    if let Some(cause) = cause {
        let explanation = cause.explain();
        wrap(text, 2, explanation.what);
        wrap(
            text,
            2,
            match explanation.side {
                // A hold is no fault.
                Side::Us if matches!(cause, Cause::Held(HeldWhy::Operator) | Cause::Returned) => "",
                side => side.sentence(),
            },
        );
    }
    if let Some(told) = told {
        let whose = if told.code.is_some() { "The server said" } else { "The last attempt" };
        wrap(text, 2, &clean(&format!("{whose}: \"{}\" (at {})", said(told), told.stage.name())));
    }
    if let Waits::Live(WaitsFor::Route { since, failures, .. }) = group.waits {
        wrap(text, 2, &clean(&looks(view, group, since, failures)));
    }
    if view.file.as_ref().is_ok_and(|file| file.is_downgraded(group.recipients[0])) {
        wrap(text, 2, DOWNGRADE);
    }
    wrap(text, 2, &next(view, group));
    if let Some(cause) = cause.filter(|_| !is_sent) {
        let explanation = cause.explain();
        let id = view.id.to_string();
        wrap(text, 2, &format!("What you can do: {}", explanation.operator_of(&group.route).replace("ID`", &format!("{id}`"))));
        wrap(text, 2, &format!("What the sender can do: {}", explanation.sender));
    }
}

/// How often the way to the server was tried since it rests, and what came of that; no message was sent to it then.
fn looks(view: &View<'_>, group: &Group, since: u64, failures: u32) -> String {
    let (mut place, mut end) = (String::new(), ".".to_owned());
    if let Some(last) = view.last_failure(group.recipients[0]) {
        place = format!(" {} ago at {}", span(view.now.saturating_sub(last.time)), last.host);
        end = format!(": \"{}\" (at {})", said(&last.told()), last.stage.name());
    }
    let often = match failures {
        0 | 1 => format!("The way to the server was tried once{place}"),
        n if place.is_empty() => format!("Since {} the way to the server was tried {n} times", rfc3339(since)),
        n => format!("Since {} the way to the server was tried {n} times, the last time{place}", rfc3339(since)),
    };
    format!("{often}, and {}{end}", if failures > 1 { "failed each time" } else { "failed" })
}

/// Addresses that are named of a group.
const NAMES_MAX: usize = 5;

/// Why these wait, or were not sent; none where nothing went wrong, or nothing is known.
fn cause(view: &View<'_>, group: &Group) -> Option<Cause> {
    let told = view.file.as_ref().ok().and_then(|file| file.told(group.recipients[0]));
    match (group.waits, &group.state) {
        (_, State::Sent { .. }) => None,
        (Waits::Held, _) => {
            Some(Cause::Held(view.held().and_then(|word| HeldWhy::from_word(&word)).unwrap_or(HeldWhy::Operator)))
        }
        (Waits::Return, _) => Some(Cause::Returned),
        (Waits::Live(WaitsFor::Route { reason, .. }), _) => Some(Cause::Rests(reason)),
        (Waits::Live(WaitsFor::Connection(_)), _) => Some(Cause::Trouble(Stage::Connect, Trouble::ServerFull)),
        (Waits::Live(WaitsFor::Result), _) => None,
        (_, State::MayHaveArrived { .. }) => Some(Cause::Trouble(Stage::Dot, Trouble::Unanswered)),
        _ if group.route == "refuse" && told.is_none() => Some(Cause::Refused),
        _ => told.and_then(Cause::told),
    }
}

/// What happens next, and when.
fn next(view: &View<'_>, group: &Group) -> String {
    let id = view.id;
    let over = view.over().map_or(String::new(), |over| {
        format!(" If it cannot be sent by {}, it goes back to its sender with a report.", rfc3339(over))
    });
    let so_far = match group.attempts {
        0 if matches!(group.waits, Waits::Live(WaitsFor::Route { .. })) => "It has not been handed to a server yet.".to_owned(),
        0 => "It has not been tried yet.".to_owned(),
        1 => "It was tried once.".to_owned(),
        attempts => format!("It was tried {attempts} times."),
    };
    match (&group.state, group.waits) {
        (State::Sent { .. }, _) => "The next server has it; nothing is left to do here.".to_owned(),
        (State::Failed { reported: true, .. }, _) => "It is not tried again, and its sender was told.".to_owned(),
        (State::Failed { reported: false, .. }, _) => "It is not tried again; its sender is told next.".to_owned(),
        (_, Waits::Settled) => "It is settled at this moment.".to_owned(),
        (_, Waits::Held) => {
            format!("{so_far} It stays until you release it, return it to its sender or drop it: `pillarbox queue return {id}`.")
        }
        (_, Waits::Return) => "It goes back to its sender, with a report, when the server starts.".to_owned(),
        (_, Waits::Offline(due)) => {
            format!("{so_far} No server runs at present; once one does, it is tried {}.{over}", from_now(view, due))
        }
        (_, Waits::Live(waits)) => next_while_running(view, group, waits, &so_far, &over),
    }
}

/// What happens next where a server runs, which knows what the recipients wait for.
fn next_while_running(view: &View<'_>, group: &Group, waits: WaitsFor, so_far: &str, over: &str) -> String {
    let id = view.id;
    let at = |time| from_now(view, time);
    match waits {
        WaitsFor::Decision => {
            "It waits until the route has taken or refused other messages; only then is it known whether this one is \
                 refused, or everything is."
                .to_owned()
        }
        WaitsFor::Connection(time) => {
            let when = at(time);
            format!("{so_far} It keeps its place. A connection is taken as soon as one is free; looked for again {when}.{over}")
        }
        WaitsFor::ItsTurn => format!("{so_far} It is sent as soon as it is its turn.{over}"),
        WaitsFor::Pair(Some(time)) => format!("The connection was cut in the middle. It is tried again {}.{over}", at(time)),
        WaitsFor::Pair(None) => {
            format!("The connection was cut in the middle. It is tried again once the route has been looked at.{over}")
        }
        WaitsFor::Person => String::new(),
        WaitsFor::Result => "It is being sent at this moment.".to_owned(),
        WaitsFor::Route { next, .. } => {
            // Servers that are found by MX rest by domain, of which there may be several here.
            let verb = if group.route == "mx" { format!("queue try {id}") } else { format!("routes try {}", group.route) };
            format!(
                "{so_far} The route rests, which is no fault of the message; it keeps its place. The route is tried {}, and \
                     the message goes out when it works; `pillarbox {verb}` tries it now.{over}",
                at(next)
            )
        }
        WaitsFor::Time(time) => {
            format!("{so_far} It is tried again {}; `pillarbox queue try {id}` tries it now.{over}", at(time))
        }
    }
}

/// A time and how far off it is.
fn from_now(view: &View<'_>, time: u64) -> String {
    match time.saturating_sub(view.now) {
        0 => "now".to_owned(),
        wait => format!("at {} (in {})", rfc3339(time), span(wait)),
    }
}

fn path(path: &ReversePath) -> String {
    match path {
        ReversePath::Mailbox(address) => format!("<{address}>"),
        ReversePath::Null => "<>".to_owned(),
    }
}

/// A time in its two largest units: `5m`, `3h12m`, `2d4h`.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, 0) => format!("{hours}h"),
        (0, ..) => format!("{hours}h{minutes}m"),
        (_, 0, _) => format!("{days}d"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let rows = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m"),
            (3600, "1h"),
            (11_520, "3h12m"),
            (86_400, "1d"),
            (187_200, "2d4h"),
        ];
        for (seconds, want) in rows {
            assert_eq!(span(seconds), want);
        }
    }
}
