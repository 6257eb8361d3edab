//! `pillarbox serve`: detects how it was started, gives up root, and serves.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};

use super::{Arguments, Exit, Failure, Outcome, StartLog};
use crate::config::{Config, LocalSocket};
use crate::conn::context::{Context, Snapshot};
use crate::journal;
use crate::mail::durable::{self, Faults};
use crate::net::handover::{self, Inherited};
use crate::net::listener::{Listener, Listening};
use crate::net::local;
use crate::queue::spool::SpoolError;
use crate::server::keys::{self, KeySource};
use crate::server::outgoing::{self, Opened};
use crate::server::readiness::Readiness;
use crate::server::sandbox::{Access, Enforced};
use crate::server::{self, Server, Stamps, Startup, load, modes, privileges, sandbox, state};
use crate::smtp::session::Service;

/// Serves until told to stop, or until the one connection that was handed over has ended.
pub(super) fn run(arguments: &Arguments, start_log: StartLog) -> Outcome {
    if let Some(word) = arguments.words().first() {
        return Err(Failure::usage(&format!("`serve` takes no `{word}`")));
    }
    let wanted = service_option(arguments)?;
    let ready_fd = ready_descriptor(arguments)?;
    let inherited = handover::inherited().map_err(|error| Failure::new(Exit::OsError, format!("handed sockets: {error}")))?;
    start_log(arguments.verbosity() + 1, handover::stderr_is_a_connection());
    let is_server = !matches!(inherited, Inherited::Connection(_));
    let reload =
        if is_server { server::keep_reload().map_err(|error| Failure::new(Exit::OsError, error))? } else { Arc::default() };
    let config = arguments.load()?;
    let bound = match &inherited {
        Inherited::Nothing => bind_all(&config)?,
        Inherited::Listeners(sockets) => bind_beside(&config, sockets)?,
        Inherited::Connection(_) | Inherited::Lent(_) => Vec::new(),
    };
    let keys = if is_server { key_source(&config)? } else { KeySource::default() };
    let user = config.user.clone();
    let stamps = Stamps::of(&config, &keys);
    let snapshot = load::snapshot(config, &keys).map_err(Failure::problems)?;
    if is_server {
        prepare_state(&snapshot.config);
        prepare_spool(&snapshot.config)?;
    }
    privileges::raise_file_limit();
    privileges::drop_to(&user).map_err(|error| Failure::new(Exit::Config, error))?;
    let root = snapshot.config.maildir.root();
    durable::sync_above(&root).map_err(|error| Failure::new(Exit::OsError, format!("{}: {error}", root.display())))?;
    // As the user that it runs as, so that no file in it is root's; before the sandbox, which knows no directory above it.
    let opened = match &snapshot.config.outgoing {
        Some(config) if is_server => Some(Opened::open(&config.spool).map_err(spool_failure)?),
        _ => None,
    };
    // Before any thread is started, as it holds for those that come after it alone.
    let (access, enforced) = confine(&snapshot.config, &arguments.config, keys.is_helper());
    let startup = Startup { path: arguments.config.clone(), keys, access, stamps, reload };
    if is_server {
        log_sandbox(enforced, &startup.keys);
    }
    let listeners = match inherited {
        Inherited::Connection(tcp) => return serve_one(snapshot, tcp, wanted),
        Inherited::Lent(socket) => {
            return listen(snapshot, startup, opened, vec![named(socket.into(), None, wanted)?], true, ready_fd);
        }
        Inherited::Listeners(sockets) => {
            let config = &snapshot.config;
            let name = |(socket, name): (Listening, Option<String>)| named(of_entry(socket, config), name.as_deref(), wanted);
            let handed = sockets.into_iter().map(name).collect::<Result<Vec<_>, _>>()?;
            handed.into_iter().chain(bound).collect()
        }
        Inherited::Nothing => bound,
    };
    listen(snapshot, startup, opened, listeners, false, ready_fd)
}

/// The descriptor of `-d`.
fn ready_descriptor(arguments: &Arguments) -> Result<Option<File>, Failure> {
    let Some(text) = arguments.matches.opt_str("d") else { return Ok(None) };
    let fd = text.parse().map_err(|_| Failure::usage(&format!("-d {text}: not a descriptor's number")))?;
    Readiness::descriptor(fd).map(Some).map_err(|error| Failure::new(Exit::OsError, format!("-d {fd}: {error}")))
}

/// As root, a helper that stays root reads the files that may be root's alone.
fn key_source(config: &Config) -> Result<KeySource, Failure> {
    let secret = keys::paths(config);
    if !nix::unistd::geteuid().is_root() || secret.is_empty() {
        return Ok(KeySource::default());
    }
    KeySource::start_helper(&secret).map_err(|error| Failure::new(Exit::OsError, format!("key helper: {error}")))
}

/// Serves the one connection that was handed over, to its end.
fn serve_one(snapshot: Snapshot, tcp: TcpStream, wanted: Option<Service>) -> Outcome {
    let service = role(None, tcp.local_addr().ok(), wanted)?;
    let peer = tcp.peer_addr().map_err(|error| Failure::new(Exit::OsError, format!("the handed connection: {error}")))?;
    let context = Context::new(snapshot, Faults::default());
    need_tls(&context.snapshot(), service)?;
    server::serve_one(context, tcp, peer, service).map_err(|error| Failure::new(Exit::OsError, error))?;
    Ok(Exit::Ok)
}

fn prepare_spool(config: &Config) -> Result<(), Failure> {
    let spool = config.outgoing.as_ref().map_or(Path::new(""), |outgoing| &outgoing.spool);
    outgoing::prepare(config).map_err(|error| {
        let cure = format!("{error}; make it: install -d -o {} -m 0700 {}", config.user, spool.display());
        Failure::file(Exit::CantCreate, spool, cure)
    })
}

fn prepare_state(config: &Config) {
    if let Err(error) = state::prepare(&config.state, &config.user) {
        journal::notice("state", format!("{}: cannot be made: {error}", config.state.display()));
    }
}

/// Leaves nothing to touch but what is needed, where the kernel can do that.
fn confine(config: &Config, file: &Path, keys: bool) -> (Option<Access>, Enforced) {
    let access = sandbox::access(config, file, keys);
    let enforced = sandbox::confine(&access).unwrap_or_else(|error| {
        journal::notice("start", format!("not confined: {error}"));
        Enforced::default()
    });
    (enforced.files.then_some(access), enforced)
}

/// Says once at start what is confined and what is not.
fn log_sandbox(enforced: Enforced, keys: &KeySource) {
    let words: Vec<&str> = enforced.words().collect();
    let server = if words.is_empty() { "none".to_owned() } else { words.join(",") };
    journal::sandbox(&server, keys.confinement());
}

fn listen(
    snapshot: Snapshot,
    startup: Startup,
    opened: Option<Opened>,
    listeners: Vec<Listener>,
    lent: bool,
    ready_fd: Option<File>,
) -> Outcome {
    if listeners.is_empty() {
        let text = format!("{}: listen: no address to listen on; give one in [listen]", startup.path.display());
        return Err(Failure::new(Exit::Config, text));
    }
    for listener in &listeners {
        need_tls(&snapshot, listener.service)?;
    }
    let os_error = |error: std::io::Error| Failure::new(Exit::OsError, error);
    for problem in unusual(&snapshot, &startup.path) {
        journal::notice("start", problem);
    }
    let names: Vec<_> = listeners.iter().map(|listener| (listener.service, listener.socket.name())).collect();
    let (tell, told) = mpsc::channel();
    let idle = lent.then(|| (snapshot.config.limits.idle, tell.clone()));
    server::signals(tell).map_err(os_error)?;
    let context = Context::new(snapshot, Faults::default());
    let context = match &opened {
        Some(opened) => context.with_outbox(opened.outbox()),
        None => context,
    };
    let context = Arc::new(context);
    let outgoing = opened.map(|opened| opened.start(&context)).transpose().map_err(os_error)?;
    let server = Server::start(context, listeners, idle).map_err(os_error)?.with_outgoing(outgoing);
    for (service, address) in names {
        journal::started(service.name(), address);
    }
    let mut readiness = Readiness::new();
    if let Err(error) = readiness.ready(ready_fd) {
        journal::notice("readiness", error);
    }
    server.run(startup, &told, &mut readiness);
    Ok(Exit::Ok)
}

fn spool_failure(error: SpoolError) -> Failure {
    let exit = match error {
        SpoolError::Locked(_) => Exit::Config,
        _ => Exit::CantCreate,
    };
    Failure::new(exit, format!("outgoing.spool: {error}"))
}

/// What an operator should know at every start, though it stops nothing.
fn unusual(snapshot: &Snapshot, file: &Path) -> Vec<String> {
    let aliases = load::alias_problems(&snapshot.config, &snapshot.policy).dead_ends;
    let aliases = aliases.iter().map(ToString::to_string);
    aliases.chain(super::check::advice(snapshot, file)).chain(modes::too_wide(&snapshot.config, file)).collect()
}

pub(super) fn service_option(arguments: &Arguments) -> Result<Option<Service>, Failure> {
    match arguments.matches.opt_str("s") {
        None => Ok(None),
        Some(name) => match service_of_tcp(&name) {
            Some(service) => Ok(Some(service)),
            None => Err(Failure::usage(&format!("-s {name}: a service is smtp, submission or submissions"))),
        },
    }
}

/// Binds all addresses; everything that fails is named at once.
pub(super) fn bind_all(config: &Config) -> Result<Vec<Listener>, Failure> {
    bind(config, &config.local)
}

/// Binds what is configured beside sockets that were handed over: addresses where none was handed, local sockets but for those
/// that were. So a manager can hold the local socket alone, for callers that wait through a restart.
fn bind_beside(config: &Config, handed: &[(Listening, Option<String>)]) -> Result<Vec<Listener>, Failure> {
    let names: Vec<String> = handed.iter().map(|(socket, _)| socket.name()).collect();
    let is_missing = |entry: &&LocalSocket| !names.contains(&entry.path.display().to_string());
    let missing: Vec<LocalSocket> = config.local.iter().filter(is_missing).cloned().collect();
    let has_tcp = handed.iter().any(|(socket, _)| matches!(socket, Listening::Tcp(_)));
    let config = Config { listen: if has_tcp { Vec::new() } else { config.listen.clone() }, ..config.clone() };
    bind(&config, &missing)
}

fn bind(config: &Config, local: &[LocalSocket]) -> Result<Vec<Listener>, Failure> {
    let mut listeners = Vec::new();
    let mut lines = Vec::new();
    for (address, service) in &config.listen {
        match handover::bind(*address, config.lists_ipv4(address.port())) {
            Ok(socket) => listeners.push(Listener { socket: socket.into(), service: *service }),
            Err(error) => lines.push(format!("listen.{}: {address}: {error}; {}", service.name(), cure(&error))),
        }
    }
    for entry in local {
        match bind_local(entry) {
            Ok(socket) => listeners.push(Listener { socket, service: Service::Local }),
            Err(why) => lines.push(format!("listen.local: {}: {why}", entry.path.display())),
        }
    }
    if lines.is_empty() { Ok(listeners) } else { Err(Failure { exit: Exit::OsError, lines }) }
}

fn bind_local(entry: &LocalSocket) -> Result<Listening, String> {
    let group = match &entry.group {
        None => None,
        Some(name) => match nix::unistd::Group::from_name(name) {
            Ok(Some(group)) => Some(group.gid.as_raw()),
            _ => return Err(format!("there is no group `{name}`; make it, or name another")),
        },
    };
    let bound = local::bind(&entry.path, entry.mode, group);
    let socket = bound.map_err(|error| match &entry.group {
        Some(group) if error.raw_os_error() == Some(nix::libc::EPERM) => {
            format!("{error}; to give it to group `{group}`, start as root with CAP_CHOWN: CapabilityBoundingSet= of the unit")
        }
        _ => format!("{error}; {}", cure(&error)),
    })?;
    Ok(Listening::Unix { socket, path: Some(entry.path.clone()), login: entry.login.as_deref().map(Into::into) })
}

/// A local socket that was handed over, with the login of its entry in [listen].
fn of_entry(socket: Listening, config: &Config) -> Listening {
    let Listening::Unix { socket, path, .. } = socket else { return socket };
    let entry = config.local.iter().find(|entry| Some(&entry.path) == path.as_ref());
    let login = entry.and_then(|entry| entry.login.as_deref()).map(Into::into);
    Listening::Unix { socket, path, login }
}

fn cure(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "stop what listens there, or choose another address",
        std::io::ErrorKind::PermissionDenied => "start as root, or let a service manager hand the socket over",
        _ => "choose an address that this host has",
    }
}

fn named(socket: Listening, name: Option<&str>, wanted: Option<Service>) -> Result<Listener, Failure> {
    let service = match &socket {
        Listening::Tcp(socket) => role(name, socket.local_addr().ok(), wanted)?,
        Listening::Unix { .. } => Service::Local,
    };
    Ok(Listener { socket, service })
}

/// A service that is served over TCP.
fn service_of_tcp(name: &str) -> Option<Service> {
    Service::from_name(name).filter(|service| *service != Service::Local)
}

/// The role of a handed socket: from its name, else from its port, else from `-s`.
fn role(name: Option<&str>, local: Option<SocketAddr>, wanted: Option<Service>) -> Result<Service, Failure> {
    let by_port = || local.and_then(|address| handover::service_of_port(address.port()));
    name.and_then(service_of_tcp).or_else(by_port).or(wanted).ok_or_else(|| {
        let address = local.map_or_else(|| "handed socket".to_owned(), |address| address.to_string());
        Failure::usage(&format!("{address}: neither name nor port tells the service; give -s smtp, submission or submissions"))
    })
}

fn need_tls(snapshot: &Snapshot, service: Service) -> Result<(), Failure> {
    if service.needs_auth() && snapshot.tls.is_none() {
        return Err(Failure::new(Exit::Config, format!("tls: must be given to serve {}", service.name())));
    }
    Ok(())
}
