//! `pillarbox explain`: would it be accepted, and where would it go? The same code answers that a session asks.

use super::{Arguments, Exit, Failure, Outcome};
use crate::auth::users;
use crate::conn::context::Snapshot;
use crate::mail::maildir;
use crate::server::load;
use crate::smtp::address::{AddressError, ForwardPath, ReversePath};
use crate::smtp::reply::{Refusal, Refused};
use crate::smtp::session::Service;

/// Explains an address, or a message by its login, sender and recipient.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let option = |name: &str| arguments.matches.opt_str(name);
    let snapshot = snapshot(arguments)?;
    match (arguments.words(), option("from"), option("to")) {
        ([address], None, None) => {
            way(&snapshot, &forward_path(address).map_err(|refused| Failure::usage(&format!("{address}: {refused}")))?);
        }
        ([], Some(from), Some(to)) => {
            let service = super::serve::service_option(arguments)?;
            message(&snapshot, service, option("login").as_deref(), &from, &to)?;
        }
        _ => return Err(Failure::usage("`explain` takes one ADDRESS, or --from and --to")),
    }
    Ok(Exit::Ok)
}

/// Everything but the certificate, which only root may be able to read and which decides nothing here.
fn snapshot(arguments: &Arguments) -> Result<Snapshot, Failure> {
    let config = arguments.load()?;
    let users = load::users(&config).map_err(Failure::problems)?;
    let aliases = load::aliases(&config).map_err(Failure::problems)?;
    load::assemble(config, users.into(), aliases, None).map_err(Failure::problems)
}

fn way(snapshot: &Snapshot, path: &ForwardPath) {
    let route = snapshot.policy.route(path);
    for step in &route.steps {
        println!("{step}");
    }
    for to in &route.destinations {
        let inbox = snapshot.config.maildir.of(&to.mailbox);
        let folder = to.tag.as_deref().and_then(|tag| maildir::folder(&inbox, tag));
        println!("-> {}", folder.unwrap_or(inbox).display());
    }
    if let Err(refused) = snapshot.policy.recipient(false, path) {
        println!("-> {refused}");
    }
}

fn message(snapshot: &Snapshot, service: Option<Service>, login: Option<&str>, from: &str, to: &str) -> Result<(), Failure> {
    let service = service.unwrap_or(if login.is_some() { Service::Submissions } else { Service::Smtp });
    println!(
        "service {}: login {}",
        service.name(),
        if service.needs_login() { "required" } else { "neither offered nor accepted" }
    );
    let login = match (service.needs_login(), login) {
        (false, Some(_)) => return refuse("AUTH", &Refusal::AuthNotOffered.into()),
        (true, None) => return refuse("MAIL", &Refusal::LoginNeeded.into()),
        (_, login) => login.map(users::canonical),
    };
    if let Some(login) = &login {
        match snapshot.users.passwords(login) {
            [] => return refuse("AUTH", &Refusal::BadCredentials.into()),
            passwords => println!(
                "login {login}: {} passwords, lines {:?}",
                passwords.len(),
                passwords.iter().map(|one| one.line).collect::<Vec<_>>()
            ),
        }
    }
    let sender = ReversePath::parse(&bracketed(from), true).map_err(|error| syntax(error, Refusal::BadSender));
    match sender.and_then(|path| snapshot.policy.sender(login.as_deref(), &path)) {
        Err(refused) => return refuse("MAIL", &refused),
        Ok(()) => println!("sender {from}: may be used"),
    }
    let path = match forward_path(to) {
        Err(refused) => return refuse("RCPT", &refused),
        Ok(path) => path,
    };
    if let Err(refused) = snapshot.policy.recipient(service.needs_login(), &path) {
        snapshot.policy.route(&path).steps.iter().for_each(|step| println!("{step}"));
        return refuse("RCPT", &refused);
    }
    way(snapshot, &path);
    println!("accepted");
    Ok(())
}

fn refuse(command: &str, refused: &Refused) -> Result<(), Failure> {
    println!("refused at {command}: {refused}");
    Ok(())
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
