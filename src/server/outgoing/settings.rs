//! What of a configuration the queue and the couriers are given: settings, routing, the next hops.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::config::outgoing::{self, AfterCrash, NextHop};
use crate::journal;
use crate::net::stop::Stop;
use crate::queue::dispatcher::Routing;
use crate::queue::schedule::{Destination, Rate, RouteSettings, Settings, Then};
use crate::queue::spool::Envelope;
use crate::relay::direct::Direct;
use crate::relay::route::Hop;
use crate::relay::servers::Servers;

/// Where recipients go. Mail from the null reverse path goes as mail from a sender without a row in `[outgoing.from]`.
pub(super) fn routing(config: outgoing::Outgoing) -> Arc<Routing> {
    Arc::new(move |envelope: &Envelope, at: usize| {
        let recipient = &envelope.recipients.get(at)?.address;
        match config.hop(&envelope.reverse_path, recipient) {
            NextHop::Route(name) => Some(Destination::smarthost(name)),
            NextHop::Mx => Some(Destination::mx(&recipient.domain().to_string().to_lowercase())),
            NextHop::Refuse => None,
        }
    })
}

/// What the schedule is told.
pub(super) fn of_schedule(config: &outgoing::Outgoing) -> Settings {
    let count = |connections: usize| u16::try_from(connections).unwrap_or(u16::MAX);
    let routes = config.routes.iter().map(|(name, route)| RouteSettings {
        name: name.clone(),
        connections: count(route.connections),
        rate: route
            .rate
            .map(|rate| Rate { count: rate.count, seconds: u32::try_from(rate.per.as_secs().max(1)).unwrap_or(u32::MAX) }),
        then: match &route.then {
            Some(NextHop::Mx) => Some(Then::Mx),
            Some(NextHop::Route(name)) => Some(Then::Route(name.clone())),
            Some(NextHop::Refuse) | None => None,
        },
    });
    Settings {
        mx_connections: config.mx.as_ref().map_or(2, |mx| count(mx.connections)),
        warn: config.warn.as_secs(),
        give_up: config.give_up.as_secs(),
        hold_unanswered: config.after_crash == AfterCrash::Hold,
        routes: routes.collect(),
    }
}

/// The smarthosts; one whose authorities cannot be read is named, and its messages wait.
pub(super) fn hops(config: &Config) -> HashMap<Destination, Arc<Hop>> {
    let mut hops = HashMap::new();
    for (name, route) in config.outgoing.iter().flat_map(|outgoing| &outgoing.routes) {
        match Hop::smarthost(route, &config.hostname) {
            Ok(hop) => drop(hops.insert(Destination::smarthost(name), Arc::new(hop))),
            Err(error) => journal::notice("route", format!("{name}: {error}")),
        }
    }
    hops
}

/// The way to the servers of any domain, if some mail goes there.
pub(super) fn direct(config: &Config, servers: &Arc<Servers>, stop: &Arc<Stop>) -> Option<Arc<Direct>> {
    match Direct::new(config, servers) {
        Ok(direct) => direct.map(|direct| Arc::new(direct.stopped_by(stop))),
        Err(error) => {
            journal::notice("route", format!("mx: {error}"));
            None
        }
    }
}
