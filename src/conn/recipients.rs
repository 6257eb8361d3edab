//! Where the recipients of one message lead: the mailboxes here, each once, and the addresses elsewhere.

use std::collections::HashSet;
use std::path::PathBuf;

use super::Connection;
use super::caller::{self, Caller};
use super::context::{Context, Snapshot};
use super::incoming::MessageContext;
use crate::mail::maildir;
use crate::policy::Destination;
use crate::queue::spool::QueuedRecipient;
use crate::smtp::address::ForwardPath;
use crate::smtp::command::Recipient;
use crate::smtp::reply::{Refusal, Refused};
use crate::smtp::session::Envelope;

/// Mailboxes, each with its Maildir or the folder within it.
pub(super) type Mailboxes = Vec<(String, PathBuf)>;

/// The recipients of a message by where they lead.
#[derive(Debug, Default)]
pub(super) struct Recipients {
    /// Here.
    pub mailboxes: Mailboxes,
    /// Recipients here of whose delivery the sender wants to know.
    pub asked: Vec<QueuedRecipient>,
    /// In other domains.
    pub elsewhere: Vec<QueuedRecipient>,
}

/// Where mail for a recipient goes. Without an outbox, what is for other domains is refused.
pub(super) fn destinations(
    context: &Context,
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    path: &ForwardPath,
) -> Result<Vec<Destination>, Refused> {
    let destinations = match &connection.caller {
        Some(caller) => {
            let elsewhere = caller.as_ref().is_ok_and(Caller::may_send_elsewhere);
            snapshot.policy.recipient(elsewhere, &caller::looked_up(path, snapshot))?
        }
        None => snapshot.policy.recipient(connection.service.needs_login(), path)?,
    };
    match &destinations[..] {
        [Destination::Remote(address)] if context.outbox.is_none() => Err(Refused::about(Refusal::Relay, address)),
        _ => Ok(destinations),
    }
}

/// Every mailbox that the recipients lead to, each once; and every recipient elsewhere, each once, with the reports that
/// were asked for first.
pub(super) fn of_message(envelope: &Envelope, scope: MessageContext<'_>) -> Result<Recipients, Refused> {
    let MessageContext { context, snapshot, connection, .. } = scope;
    let mut found = Recipients::default();
    let (mut known, mut addresses) = (HashSet::new(), HashSet::new());
    for Recipient { path, notify, orcpt } in &envelope.recipients {
        let asks = notify.is_some_and(|notify| notify.success);
        for to in destinations(context, snapshot, connection, path)? {
            if asks && let (Destination::Mailbox(_), ForwardPath::Mailbox(address)) = (&to, path) {
                let to = QueuedRecipient { address: address.clone(), notify: *notify, orcpt: orcpt.clone() };
                if !found.asked.contains(&to) {
                    found.asked.push(to);
                }
            }
            match to {
                Destination::Mailbox(to) => {
                    let inbox = snapshot.config.maildir.of(&to.mailbox);
                    let folder = to.tag.and_then(|tag| maildir::folder(&inbox, &tag)).unwrap_or(inbox);
                    if known.insert(folder.clone()) {
                        found.mailboxes.push((to.mailbox, folder));
                    }
                }
                Destination::Remote(address) => {
                    if addresses.insert(address.clone()) {
                        found.elsewhere.push(QueuedRecipient { address, notify: *notify, orcpt: orcpt.clone() });
                    }
                }
            }
        }
    }
    Ok(found)
}
