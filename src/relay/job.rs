//! What of a queued message one job sends: envelope and size, and which of its recipients have the same domain.

use crate::queue::schedule::Job;
use crate::queue::spool::QueuedMessage;
use crate::smtp::address::ForwardPath;
use crate::smtp::client::Message;
use crate::smtp::command::Recipient;
use crate::smtp::event::Envelope;

/// The message for the recipients of a job, with these signatures before it.
pub(super) fn outgoing(message: &QueuedMessage, job: &Job, signatures: &str) -> Message {
    let envelope = &message.envelope;
    let recipients = job.recipients.iter().filter_map(|number| envelope.recipients.get(usize::from(*number)));
    let recipients = recipients.map(|to| Recipient {
        path: ForwardPath::Mailbox(to.address.clone()),
        notify: to.notify,
        orcpt: to.orcpt.clone(),
    });
    let signed = (signatures.len() + signatures.matches('\n').count()) as u64;
    Message {
        envelope: Envelope {
            reverse_path: envelope.reverse_path.clone(),
            recipients: recipients.collect(),
            body: envelope.body,
            utf8: envelope.utf8,
            ret: envelope.ret,
            envid: envelope.envid.clone(),
        },
        size: message.text.octets + message.text.lines + signed,
        // RFC 4954 section 5: what is not known for certain is given as `<>`.
        auth: Some(if envelope.login.contains('@') { envelope.login.clone() } else { String::new() }),
        plain: job.plain,
    }
}

/// For each recipient of a job a number that is equal for equal domains.
pub(super) fn domains(message: &QueuedMessage, job: &Job) -> Vec<u32> {
    let mut known: Vec<String> = Vec::new();
    let of = |number: &u16| {
        let domain =
            message.envelope.recipients.get(usize::from(*number)).map(|to| to.address.domain().to_string().to_lowercase());
        let domain = domain.unwrap_or_default();
        let at = known.iter().position(|name| *name == domain).unwrap_or_else(|| {
            known.push(domain);
            known.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    };
    job.recipients.iter().map(of).collect()
}
