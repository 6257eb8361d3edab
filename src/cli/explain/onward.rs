//! The way of a message for an address elsewhere: the row that chooses its route, the route, and whether that rests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::queue::plain;
use crate::cli::say;
use crate::config::Config;
use crate::config::outgoing::{NextHop, Outgoing};
use crate::queue::control::{self, Answer, Request};
use crate::queue::listing::RouteRow;
use crate::relay::direct::Direct;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::reply::{Refusal, Refused};

/// How long name servers are waited for.
const DNS_MAX: Duration = Duration::from_secs(10);

/// Says it, step by step; the error is what RCPT would be answered.
pub(super) fn way(config: &Config, outgoing: &Outgoing, sender: &ReversePath, recipient: &Address) -> Result<(), Refused> {
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
        if *hop == NextHop::Mx {
            servers(config, &recipient.domain().to_string());
            break;
        }
        next = one(outgoing, hop, &states);
        if let Some(other) = next {
            say(format_args!("while it rests: {other}"));
        }
    }
    Ok(())
}

/// Says which servers a domain has, in the order in which they are tried. DNS is asked; no connection is made.
fn servers(config: &Config, domain: &str) {
    let direct = match Direct::new(config, &Arc::default()) {
        Ok(Some(direct)) => direct,
        Ok(None) => return,
        Err(error) => return say(format_args!("mx: {error}")),
    };
    match direct.find(domain, Instant::now() + DNS_MAX) {
        Ok(servers) => servers.iter().for_each(|server| say(format_args!("mx: {}[{}]", server.host, server.address))),
        Err(why) => say(format_args!("mx: {why}")),
    }
}

/// Says what a next hop is and how it is now; gives the one that is used while it rests.
fn one<'a>(outgoing: &'a Outgoing, hop: &NextHop, states: &Result<Vec<RouteRow>, String>) -> Option<&'a NextHop> {
    let NextHop::Route(name) = hop else { return None };
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
