//! Tells the owner of a login and the postmaster of a limit of sending that is reached or near, once within its time.

use std::sync::Arc;

use super::post::Post;
use crate::conn::context::Context;
use crate::conn::sending::LimitReached;
use crate::journal;
use crate::policy::sending::Limit;
use crate::queue::letter::Letterhead;
use crate::queue::notice::{self, Limited};
use crate::queue::reporter::Mailer;
use crate::smtp::address::{Address, ForwardPath};

/// Tells what is to be told. Without a mailer of the outgoing side letters go into mailboxes here alone.
pub(super) fn tell(context: &Arc<Context>, mailer: Option<&dyn Mailer>) {
    let reached = context.sending.take_reached();
    if reached.is_empty() {
        return;
    }
    match mailer {
        Some(mailer) => reached.iter().for_each(|one| tell_one(context, mailer, one)),
        None => match Post::new(context, Arc::default()) {
            Ok(post) => reached.iter().for_each(|one| tell_one(context, &post, one)),
            Err(error) => journal::notice("sending-limit", error),
        },
    }
}

fn tell_one(context: &Context, mailer: &dyn Mailer, reached: &LimitReached) {
    let limit = reached.reached.limit;
    let what = format!("{}:{limit}", limit.unit);
    if reached.is_stop() {
        journal::limited(&reached.login, &what, reached.used);
    } else {
        let (login, used) = (&reached.login, reached.used);
        journal::notice("sending-limit", format!("{login}: {used} are used of {what}"));
    }
    for to in addressees(context, mailer, &reached.login) {
        if let Err(why) = mailer.deliver(&to, &letter(context, mailer, &to, reached)) {
            journal::notice("sending-limit", format!("{to} could not be told: {why}"));
        }
    }
}

/// The login's own address and the postmaster, once where they are the same mailboxes.
fn addressees(context: &Context, mailer: &dyn Mailer, login: &str) -> Vec<Address> {
    let snapshot = context.snapshot();
    let postmaster = mailer.postmaster();
    let place = |address: &Address| snapshot.policy.recipient(true, &ForwardPath::Mailbox(address.clone()));
    let own = mailer.address_of(login).filter(|own| place(own).is_ok() && place(own) != place(&postmaster));
    own.into_iter().chain([postmaster]).collect()
}

fn letter(context: &Context, mailer: &dyn Mailer, to: &Address, reached: &LimitReached) -> crate::queue::letter::Letter {
    let (hostname, from, now) = (mailer.hostname(), mailer.from(), context.now());
    let id = format!("limit-{}", crate::conn::fresh_id());
    let head = Letterhead { hostname: &hostname, from: &from, now: &now, id: &id };
    let sources = &reached.sources;
    let join = |names: &mut dyn Iterator<Item = &str>| names.collect::<Vec<_>>().join(", ");
    let (labels, addresses) = (join(&mut sources.labels.names()), join(&mut sources.addresses.names()));
    let Limit { unit, count, .. } = reached.reached.limit;
    let about = Limited {
        login: &reached.login,
        labels: &labels,
        addresses: &addresses,
        unit: &unit.to_string(),
        limit: count,
        period: reached.reached.limit.period(),
        used: reached.used,
        subjects: &subjects(sources.subjects()),
        is_stop: reached.is_stop(),
    };
    notice::limited(head, to, about)
}

fn subjects((messages, subjects, many): (u64, usize, bool)) -> String {
    let subjects = match (subjects, many) {
        (1, _) => "one subject".to_owned(),
        (_, true) => format!("{subjects} subjects or more"),
        (n, false) => format!("{n} different subjects"),
    };
    match messages {
        0 => "No message was accepted yet.".to_owned(),
        1 => "One message was accepted lately.".to_owned(),
        n => format!("{n} messages were accepted lately, with {subjects}."),
    }
}
