//! `pillarbox explain`: says whether a message would be accepted, and where mail for an address goes.
//!
//! The answers come from the functions that a session calls. It exits with 0 where the message would be accepted and
//! with 1 where it would be refused. For a recipient elsewhere it goes on to the route ([`onward`]) and sends nothing.

mod onward;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Arguments, Exit, Failure, Outcome, count, dkim, say};
use crate::auth::users;
use crate::config::DkimKey;
use crate::config::outgoing::{DkimMode, Outgoing};
use crate::conn::context::Snapshot;
use crate::mail::maildir;
use crate::policy::Destination;
use crate::policy::sending::{Counters, Exceeded, Reserved};
use crate::server::{load, state};
use crate::smtp::address::{Address, AddressError, ForwardPath, ReversePath};
use crate::smtp::reply::{Refusal, Refused};
use crate::smtp::session::Service;

/// Explains an address, or a message by its login, sender and recipient.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let option = |name: &str| arguments.matches.opt_str(name);
    let snapshot = snapshot(arguments)?;
    match (arguments.words(), option("from"), option("to")) {
        ([address], None, None) => Ok(mailbox(&snapshot, address)),
        ([], Some(from), Some(to)) => {
            let service = super::serve::service_option(arguments)?;
            Ok(message(&snapshot, service, option("login").as_deref(), &from, &to))
        }
        _ => Err(Failure::usage("`explain` takes one ADDRESS, or --from and --to")),
    }
}

/// Everything but the certificate, which only root may be able to read and which decides nothing here.
fn snapshot(arguments: &Arguments) -> Result<Snapshot, Failure> {
    let config = arguments.load()?;
    let users = load::users(&config).map_err(Failure::problems)?;
    let aliases = load::aliases(&config).map_err(Failure::problems)?;
    load::assemble(config, users.into(), aliases, load::Secrets::default()).map_err(Failure::problems)
}

/// Where mail for an address goes; a name without a domain is taken as an alias's target is.
fn mailbox(snapshot: &Snapshot, text: &str) -> Exit {
    let name = text.trim_start_matches('<').trim_end_matches('>');
    let meant = if name.contains('@') { None } else { snapshot.policy.qualified(name) };
    if let Some(address) = &meant {
        say(format_args!("{name}: taken as {address}"));
    }
    let path = match meant {
        Some(address) => ForwardPath::Mailbox(address),
        None => match forward_path(text) {
            Err(refused) => return refuse("RCPT", &refused),
            Ok(path) => path,
        },
    };
    match &path {
        ForwardPath::Mailbox(address) if !snapshot.config.is_local(&address.key()) => elsewhere(snapshot, &path, address),
        _ => {
            way(snapshot, &path);
            snapshot.policy.recipient(false, &path).map_or_else(|refused| refuse("RCPT", &refused), |_| Exit::Ok)
        }
    }
}

/// Where mail for an address that is not in `domains` goes: that of logins, since what other servers bring is refused.
fn elsewhere(snapshot: &Snapshot, path: &ForwardPath, address: &Address) -> Exit {
    let Some(outgoing) = &snapshot.config.outgoing else {
        say(format_args!("{address} is not in `domains`, and nothing is sent to other servers; [outgoing] says how it is"));
        return refuse("RCPT", &Refused::about(Refusal::Relay, address));
    };
    if let Err(refused) = snapshot.policy.recipient(true, path) {
        return refuse("RCPT", &refused);
    }
    say(format_args!("{address} is not in `domains`: it is taken from logins, and refused from other servers"));
    if !outgoing.from.is_empty() {
        say("[outgoing.from] may say otherwise for a sender; give --login, --from and --to");
    }
    onward::way(&snapshot.config, outgoing, &ReversePath::Null, address)
        .map_or_else(|refused| refuse("RCPT", &refused), |()| Exit::Ok)
}

fn way(snapshot: &Snapshot, path: &ForwardPath) {
    let route = snapshot.policy.route(path);
    route.steps.iter().for_each(say);
    for to in &route.destinations {
        let inbox = snapshot.config.maildir.of(&to.mailbox);
        let folder = to.tag.as_deref().and_then(|tag| maildir::folder(&inbox, tag));
        say(format_args!("-> {}", folder.unwrap_or(inbox).display()));
    }
}

fn message(snapshot: &Snapshot, service: Option<Service>, login: Option<&str>, from: &str, to: &str) -> Exit {
    let service = service.unwrap_or(if login.is_some() { Service::Submissions } else { Service::Smtp });
    let wants = if service.needs_login() { "required" } else { "neither offered nor accepted" };
    say(format_args!("service {}: login {wants}", service.name()));
    let login = match (service.needs_login(), login) {
        (false, Some(_)) => return refuse("AUTH", &Refusal::AuthNotOffered.into()),
        (true, None) => return refuse("MAIL", &Refusal::LoginNeeded.into()),
        (_, login) => login.map(users::canonical),
    };
    if login.as_deref().is_some_and(|login| !has_password(snapshot, login)) {
        return refuse("AUTH", &Refusal::BadCredentials.into());
    }
    let sender = ReversePath::parse(&bracketed(from), true).map_err(|error| syntax(error, Refusal::BadSender));
    let sender = match sender.and_then(|path| snapshot.policy.sender(login.as_deref(), &path).map(|()| path)) {
        Err(refused) => return refuse("MAIL", &refused),
        Ok(path) => path,
    };
    say(format_args!("sender {from}: may be used"));
    let path = match forward_path(to) {
        Err(refused) => return refuse("RCPT", &refused),
        Ok(path) => path,
    };
    let destinations = match snapshot.policy.recipient(service.needs_login(), &path) {
        Err(refused) => {
            // The steps of aliases say nothing of an address elsewhere that could be sent to.
            let steps = snapshot.policy.route(&path).steps;
            let foreign = matches!(&path, ForwardPath::Mailbox(address) if !snapshot.config.is_local(&address.key()));
            steps.iter().filter(|_| !foreign || snapshot.config.outgoing.is_none()).for_each(say);
            return refuse("RCPT", &refused);
        }
        Ok(destinations) => destinations,
    };
    let remote = destinations.iter().find_map(|to| if let Destination::Remote(address) = to { Some(address) } else { None });
    match (remote, &snapshot.config.outgoing) {
        (Some(address), Some(outgoing)) => {
            if let Err(refused) = onward::way(&snapshot.config, outgoing, &sender, address) {
                return refuse("RCPT", &refused);
            }
        }
        _ => way(snapshot, &path),
    }
    if let Some(login) = &login
        && let Err(exceeded) = limits(snapshot, login, remote.is_some())
    {
        let until = Timestamp::from_second(exceeded.until as i64).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::system());
        return refuse("RCPT", &Refused::about(Refusal::SendingLimit, until.strftime("%Y-%m-%d %H:%M:%S %z")));
    }
    for to in &destinations {
        if let (Destination::Remote(address), Some(outgoing)) = (to, &snapshot.config.outgoing) {
            say(signing(snapshot, outgoing, &sender, address));
        }
    }
    say("accepted");
    Exit::Ok
}

/// Says where the passwords of a login stand; whether there are any.
fn has_password(snapshot: &Snapshot, login: &str) -> bool {
    let passwords = snapshot.users.passwords(login);
    if !passwords.is_empty() {
        let lines: Vec<String> = passwords.iter().map(|one| one.line.to_string()).collect();
        let lines = format!("line{} {}", if lines.len() == 1 { "" } else { "s" }, lines.join(", "));
        say(format_args!("login {login}: {}, {lines}", count(passwords.len(), "password")));
    }
    !passwords.is_empty()
}

/// Says what is left of each limit of a login, and whether one more message may be sent.
fn limits(snapshot: &Snapshot, login: &str, is_remote: bool) -> Result<(), Exceeded> {
    let limits = snapshot.config.sending_limits.of(login);
    let now = state::unix_seconds();
    let mut counters = match state::counters(&snapshot.config.state) {
        Ok(counters) => counters,
        Err(error) => {
            say(format_args!("limits: {}: {error}; what was sent is not known", snapshot.config.state.display()));
            Counters::default()
        }
    };
    for (limit, used) in counters.used(login, limits, now) {
        say(format_args!("limit {} {limit}: {} left", limit.unit, limit.count.saturating_sub(used)));
    }
    let wanted = Reserved { messages: 1, recipients: u32::from(is_remote) };
    counters.reserve(login, limits, wanted, now).map(drop)
}

/// The keys that sign a message to an address elsewhere, if its From is the sender.
fn signing(snapshot: &Snapshot, outgoing: &Outgoing, sender: &ReversePath, to: &Address) -> String {
    let ReversePath::Mailbox(address) = sender else { return "signed by the domain of From".to_owned() };
    let domain = address.domain().to_string().to_lowercase();
    let hop = outgoing.hop(sender, to);
    if outgoing.dkim_mode(hop) == DkimMode::Off {
        return format!("not signed: route {hop} has dkim = \"off\"");
    }
    let keys: Vec<&DkimKey> = dkim::rows(&snapshot.config, &domain).flat_map(|(_, keys)| keys).collect();
    match &keys[..] {
        [] => format!("not signed: [dkim] has no key for {domain}; make one with `pillarbox dkim add {domain}`"),
        keys => {
            let selectors: Vec<&str> = keys.iter().map(|key| key.selector.as_str()).collect();
            format!("signed for {domain}, selector {}, if From is the sender", selectors.join(" and "))
        }
    }
}

fn refuse(command: &str, refused: &Refused) -> Exit {
    say(format_args!("refused at {command}: {refused}"));
    Exit::Refused
}

fn forward_path(text: &str) -> Result<ForwardPath, Refused> {
    ForwardPath::parse(&bracketed(text), true).map_err(|error| syntax(error, Refusal::BadRecipient))
}

fn bracketed(text: &str) -> String {
    if text.starts_with('<') { text.to_owned() } else { format!("<{text}>") }
}

fn syntax(error: AddressError, refusal: Refusal) -> Refused {
    match error {
        AddressError::Syntax => refusal.into(),
        AddressError::Utf8 => Refusal::Utf8.into(),
    }
}
