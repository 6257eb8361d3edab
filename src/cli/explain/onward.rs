//! The way of a message for an address elsewhere: the row that chooses its route, the route, and whether that rests.

use crate::cli::queue::plain;
use crate::cli::say;
use crate::config::outgoing::{NextHop, Outgoing};
use crate::queue::control::{self, Answer, Request};
use crate::queue::listing::RouteRow;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::reply::{Refusal, Refused};

/// Says it, step by step; the error is what RCPT would be answered.
pub(super) fn way(outgoing: &Outgoing, sender: &ReversePath, recipient: &Address) -> Result<(), Refused> {
    let (row, hop) = outgoing.row(sender, recipient);
    let row = match row {
        Some((section, key)) => format!("[outgoing.{section}] {key:?}"),
        None => "[outgoing] via".to_owned(),
    };
    say(format_args!("recipient {recipient}: elsewhere; {row} says: {hop}"));
    if *hop == NextHop::Refuse {
        return Err(Refused::about(Refusal::Relay, recipient));
    }
    let states = states(outgoing);
    let mut next = Some(hop);
    while let Some(hop) = next {
        next = one(outgoing, hop, &states);
        if let Some(other) = next {
            say(format_args!("while it rests: {other}"));
        }
    }
    Ok(())
}

/// Says what a next hop is and how it is now; gives the one that is used while it rests.
fn one<'a>(outgoing: &'a Outgoing, hop: &NextHop, states: &Result<Vec<RouteRow>, String>) -> Option<&'a NextHop> {
    let NextHop::Route(name) = hop else {
        say("mx: the servers of the recipient's domain");
        return None;
    };
    let route = outgoing.routes.get(name)?;
    let login = route.login.as_ref().map_or_else(|| "without a login".to_owned(), |login| format!("login {login}"));
    say(format_args!("route {name}: {}, {login}", route.url));
    let now = match states {
        Err(why) => format!("not known, {why}"),
        Ok(rows) => match rows.iter().find(|row| row.name == *name) {
            Some(row) => state(row),
            None => "not known, the server has another configuration; reload it".to_owned(),
        },
    };
    say(format_args!("route {name} now: {now}"));
    route.then.as_ref()
}

fn state(row: &RouteRow) -> String {
    let mut text = plain(&row.state);
    if let Some(why) = &row.why {
        text.push_str(&format!(", {}", plain(why)));
    }
    if let Some(next) = &row.next {
        text.push_str(&format!(", probed at {}", plain(next)));
    }
    text
}

/// The routes as the running server has them, or why they are not known.
fn states(outgoing: &Outgoing) -> Result<Vec<RouteRow>, String> {
    let mut rows = Vec::new();
    let asked = control::ask(&outgoing.spool, &Request::Routes, |answer| {
        if let Answer::Route(row) = answer {
            rows.push(row);
        }
    });
    match asked {
        Ok(Some((0, _))) => Ok(rows),
        Ok(Some((_, text))) => Err(plain(&text)),
        Ok(None) => Err("no server runs".to_owned()),
        Err(error) => Err(format!("the server cannot be asked: {error}")),
    }
}
