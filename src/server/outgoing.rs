//! The outgoing side as a whole: spool, dispatcher, couriers and control socket, from start to drain.
//!
//! It is there only where `[outgoing]` is configured. What changes in the configuration is taken up at a reload, but for the
//! spool and the number of couriers. A password file that has changed is taken up by itself, and so are authorities.

mod control_socket;
mod settings;

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::boot::Boot;
use super::post::Post;
use super::state::Domains;
use super::watch::{Stamp, stamp};
use crate::config::Config;
use crate::config::outgoing::{self, AfterCrash};
use crate::conn::context::{Context, Snapshot};
use crate::conn::outbox::{Accepted, Outbox};
use crate::journal;
use crate::mail::durable::Faults;
use crate::net::stop::Stop;
use crate::queue::control;
use crate::queue::dispatcher::{Dispatcher, Queue, QueueFull, Start};
use crate::queue::reporter::Mailer;
use crate::queue::schedule::Destination;
use crate::queue::spool::{Found, Spool, SpoolError};
use crate::relay::pool::{self, Shared};
use crate::relay::resolve::RESOLV_CONF;
use crate::relay::servers::Servers;
use settings::{direct, hops, routing};

/// A spool that is open, before there are threads.
pub struct Opened {
    spool: Arc<Spool>,
    found: Vec<Found>,
    queue: Arc<OnceLock<Arc<Queue>>>,
    boot: Boot,
}

/// The running outgoing side.
pub struct Outgoing {
    dispatcher: Dispatcher,
    shared: Arc<Shared>,
    servers: Arc<Servers>,
    domains: Domains,
    /// Of resolv.conf, which changes with the network.
    names: Stamp,
    couriers: Vec<JoinHandle<()>>,
    stop: Arc<Stop>,
    passwords: HashMap<String, (PathBuf, Stamp)>,
    authorities: HashMap<String, (PathBuf, Stamp)>,
    snapshot: Arc<Snapshot>,
    /// The settings that the queue has; the snapshot's may be gone.
    taken_up: outgoing::Outgoing,
    socket: PathBuf,
    boot: Boot,
    mailer: Arc<dyn Mailer>,
}

/// Where the system's authorities are looked for a change; other systems take one up at a restart.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How long the end waits for couriers beyond `drain`.
const STOP_MORE: Duration = Duration::from_secs(3);

impl Opened {
    /// Opens the spool; names what is in it and no queued message.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        crate::mail::durable::sync_above(path)?;
        let (spool, found, strange) = Spool::open_names(path, Faults::default())?;
        for file in strange {
            journal::notice("spool", format!("{}: is no queued message; remove it", file.display()));
        }
        let boot = Boot::begin(path);
        if boot.after_power_cut && !found.is_empty() {
            journal::notice(
                "spool",
                "the system ended without a stop of this server (power cut?): what was decided in its last 200 ms may be done again, and is not named",
            );
        }
        Ok(Self { spool: Arc::new(spool), found, queue: Arc::default(), boot })
    }

    /// What sessions hand messages to.
    pub fn outbox(&self) -> Outbox {
        let (room, accepts) = (Arc::clone(&self.queue), Arc::clone(&self.queue));
        let has_room = move |login: &str, pairs| room.get().is_some_and(|queue: &Arc<Queue>| queue.has_room(login, pairs));
        let (delivered, places) = (Arc::clone(&self.queue), Arc::clone(&self.queue));
        let take_room = move |login: &str, pairs| match places.get() {
            Some(queue) => queue.take_room(login, pairs).map(Some),
            None => Err(QueueFull),
        };
        let accepted = move |accepted: Accepted| {
            if let Some(queue) = accepts.get() {
                queue.accepted(accepted.id, accepted.envelope, accepted.room);
            }
        };
        Outbox::new(Arc::clone(&self.spool), has_room, accepted).taking_room(take_room).reporting(move |message| {
            if let Some(queue) = delivered.get() {
                queue.delivered(message);
            }
        })
    }

    /// Starts dispatcher, couriers and control socket.
    pub fn start(self, context: &Arc<Context>) -> io::Result<Outgoing> {
        let Self { spool, found, queue, boot } = self;
        let snapshot = context.snapshot();
        let Some(config) = &snapshot.config.outgoing else { return Err(ErrorKind::NotFound.into()) };
        let (stop, servers) = (Arc::new(Stop::new()), Arc::new(Servers::default()));
        // Before the first connection, which is compared with what the domain had.
        let domains = Domains::open(&snapshot.config.state, &servers);
        let count = u16::try_from(config.connections).unwrap_or(u16::MAX);
        let mailer: Arc<dyn Mailer> = Arc::new(Post::new(context, Arc::clone(&queue))?);
        let start = Start {
            spool: Arc::clone(&spool),
            found,
            settings: settings::of_schedule(config),
            couriers: count,
            queue_max: config.queue_max,
            routing: routing(config.clone()),
            mailer: Arc::clone(&mailer),
        };
        let mut couriers = Vec::new();
        let mut shared = None;
        let dispatcher = Dispatcher::start(start, |report| {
            let all = Arc::new(Shared {
                spool: Arc::clone(&spool),
                hops: RwLock::new(hops(&snapshot.config)),
                direct: RwLock::new(direct(&snapshot.config, &servers, &stop)),
                stop: Arc::clone(&stop),
                dot_durably: config.after_crash == AfterCrash::Hold,
                report,
            });
            let started = pool::start(count, &all)?;
            couriers = started.threads;
            shared = Some(all);
            Ok(started.tasks)
        })?;
        let shared = shared.ok_or(ErrorKind::Other)?;
        let _ = queue.set(Arc::clone(dispatcher.queue()));
        let socket = spool.path().join(control::NAME);
        control_socket::serve(&socket, dispatcher.queue())?;
        let (passwords, authorities) = (passwords(config), authorities(config));
        let names = stamp(Path::new(RESOLV_CONF));
        let taken_up = config.clone();
        Ok(Outgoing {
            dispatcher,
            shared,
            servers,
            domains,
            names,
            couriers,
            stop,
            passwords,
            authorities,
            snapshot,
            taken_up,
            socket,
            boot,
            mailer,
        })
    }
}

impl Outgoing {
    /// What writes letters of this server's own.
    pub fn mailer(&self) -> &dyn Mailer {
        &*self.mailer
    }

    /// Takes up a configuration that was reloaded, and files of passwords and authorities that have changed.
    pub fn tick(&mut self, context: &Context) {
        self.domains.tick();
        let now = context.snapshot();
        if !Arc::ptr_eq(&now, &self.snapshot) {
            self.take_up(&now);
            self.snapshot = now;
        }
        let names = stamp(Path::new(RESOLV_CONF));
        if names != self.names {
            self.names = names;
            self.take_up_names();
        }
        for route in changed(&mut self.passwords) {
            self.dispatcher.queue().credentials_changed(&route);
        }
        let trusted = changed(&mut self.authorities);
        if !trusted.is_empty() {
            self.take_up_hops(&self.snapshot.config);
        }
        for route in trusted {
            self.dispatcher.queue().try_route(&route);
        }
    }

    fn take_up(&mut self, now: &Snapshot) {
        let Some(outgoing) = &now.config.outgoing else {
            journal::notice("restart", "`[outgoing]` is gone: what is queued is sent as before until the next start");
            return;
        };
        // Authorities may have changed though the settings have not.
        self.take_up_hops(&now.config);
        if *outgoing != self.taken_up {
            self.taken_up = outgoing.clone();
            self.dispatcher.queue().configure(settings::of_schedule(outgoing), outgoing.queue_max, routing(outgoing.clone()));
            self.passwords = passwords(outgoing);
            self.authorities = authorities(outgoing);
        }
        if now.config != self.snapshot.config {
            *self.shared.direct.write().unwrap_or_else(PoisonError::into_inner) = direct(&now.config, &self.servers, &self.stop);
        }
    }

    fn take_up_names(&self) {
        *self.shared.direct.write().unwrap_or_else(PoisonError::into_inner) =
            direct(&self.snapshot.config, &self.servers, &self.stop);
    }

    /// Makes the next hops anew. What cannot be read is named; the authorities that were trusted before stay.
    fn take_up_hops(&self, config: &Config) {
        let mut hops = hops(config);
        let named = |destination: &Destination| {
            config.outgoing.as_ref().is_some_and(|outgoing| outgoing.routes.contains_key(&*destination.name))
        };
        let mut shared = self.shared.hops.write().unwrap_or_else(PoisonError::into_inner);
        for (destination, hop) in shared.drain().filter(|(destination, _)| named(destination)) {
            hops.entry(destination).or_insert(hop);
        }
        *shared = hops;
    }

    /// How it is, in a few words.
    pub fn status(&self) -> String {
        let schedule = self.dispatcher.queue().schedule();
        let mut text = format!("{} queued", schedule.pairs());
        let resting: Vec<String> = schedule
            .routes()
            .into_iter()
            .filter(|route| route.rest.is_some())
            .take(3)
            .map(|route| route.destination.name.to_string())
            .collect();
        if !resting.is_empty() {
            text.push_str(&format!(", resting: {}", resting.join(", ")));
        }
        text
    }

    /// No transaction begins any more; those whose content is under way end within `limit`.
    pub fn stop(mut self, limit: Duration) {
        let by = Instant::now() + limit;
        self.stop.stop(by);
        self.dispatcher.stop(by + STOP_MORE);
        self.boot.end();
        let _ = fs::remove_file(&self.socket);
        for courier in self.couriers {
            while !courier.is_finished() && Instant::now() < by + STOP_MORE {
                thread::sleep(Duration::from_millis(10));
            }
        }
        self.domains.save();
    }
}

/// Makes the spool with mode 0700 if there is none, for `user` if this is root; before root is given up.
pub fn prepare(config: &Config) -> io::Result<()> {
    match &config.outgoing {
        Some(outgoing) => super::state::prepare(&outgoing.spool, &config.user),
        None => Ok(()),
    }
}

fn passwords(config: &outgoing::Outgoing) -> HashMap<String, (PathBuf, Stamp)> {
    let file = |(name, route): (&String, &outgoing::Route)| {
        let path = route.password_file.clone()?;
        let stamp = stamp(&path);
        Some((name.clone(), (path, stamp)))
    };
    config.routes.iter().filter_map(file).collect()
}

fn authorities(config: &outgoing::Outgoing) -> HashMap<String, (PathBuf, Stamp)> {
    let file = |(name, route): (&String, &outgoing::Route)| {
        let path = route.ca.clone().unwrap_or_else(|| SYSTEM_AUTHORITIES.into());
        let stamp = stamp(&path);
        (name.clone(), (path, stamp))
    };
    config.routes.iter().map(file).collect()
}

/// The routes whose files have changed since the last call.
fn changed(files: &mut HashMap<String, (PathBuf, Stamp)>) -> Vec<String> {
    let mut routes = Vec::new();
    for (route, (path, known)) in files {
        let found = stamp(path);
        if *known != found {
            *known = found;
            routes.push(route.clone());
        }
    }
    routes
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").field("socket", &self.socket).finish_non_exhaustive()
    }
}
