//! The letters that this server writes: into a mailbox here, or into the queue, where they are signed as any mail is.

use std::io::{self, Write as _};
use std::sync::{Arc, OnceLock, Weak};

use crate::conn::context::{Context, Snapshot};
use crate::policy::Destination as Place;
use crate::queue::dispatcher::Queue;
use crate::queue::letter::Letter;
use crate::queue::reporter::Mailer;
use crate::queue::signature;
use crate::queue::spool::{Envelope, QueuedRecipient};
use crate::smtp::address::{Address, ForwardPath, ReversePath};
use crate::smtp::command::Body;

/// Letters into mailboxes here, or into the queue.
pub(super) struct Post {
    context: Weak<Context>,
    /// Stands in From where no domain gives a better one.
    own: Address,
    queue: Arc<OnceLock<Arc<Queue>>>,
}

impl Mailer for Post {
    fn hostname(&self) -> String {
        self.context.upgrade().map(|context| context.snapshot().config.hostname.clone()).unwrap_or_default()
    }

    fn from(&self) -> Address {
        let domain = self.context.upgrade().and_then(|context| context.snapshot().config.domains.first().cloned());
        domain.and_then(|domain| Address::parse(&format!("postmaster@{domain}")).ok()).unwrap_or_else(|| self.own.clone())
    }

    fn deliver(&self, to: &Address, letter: &Letter) -> Result<String, String> {
        let context = self.context.upgrade().ok_or("the server is being stopped")?;
        let snapshot = context.snapshot();
        let path = ForwardPath::Mailbox(to.clone());
        let places = snapshot.policy.recipient(true, &path).map_err(|refused| refused.text())?;
        let mut said = Vec::new();
        for place in places {
            said.push(match place {
                Place::Mailbox(mailbox) => store(&context, &snapshot, &mailbox.mailbox, letter)?,
                Place::Remote(address) => self.enqueue(&snapshot, address, letter)?,
            });
        }
        Ok(said.join(","))
    }

    fn postmaster(&self) -> Address {
        let context = self.context.upgrade();
        let configured = context.as_ref().and_then(|context| context.snapshot().config.outgoing.as_ref()?.postmaster.clone());
        configured.unwrap_or_else(|| self.from())
    }

    fn reports_to(&self, login: &str, sender: &Address) -> Address {
        let Some(context) = self.context.upgrade() else { return sender.clone() };
        let snapshot = context.snapshot();
        let is_local = snapshot.config.is_local(&sender.key());
        if is_local || snapshot.policy.proves(login, sender) {
            return sender.clone();
        }
        snapshot.policy.own_address(login).unwrap_or_else(|| self.postmaster())
    }

    fn address_of(&self, login: &str) -> Option<Address> {
        self.context.upgrade()?.snapshot().policy.own_address(login)
    }
}

impl Post {
    /// Letters into mailboxes, and into the queue once there is one.
    pub(super) fn new(context: &Arc<Context>, queue: Arc<OnceLock<Arc<Queue>>>) -> io::Result<Self> {
        let own = format!("postmaster@{}", context.snapshot().config.hostname);
        let own = Address::parse(&own).map_err(|_| io::Error::other(format!("{own} is no address; correct `hostname`")))?;
        Ok(Self { context: Arc::downgrade(context), own, queue })
    }

    /// From the null sender, of no login.
    fn enqueue(&self, snapshot: &Snapshot, to: Address, letter: &Letter) -> Result<String, String> {
        let queue = self.queue.get().ok_or("the queue is not there yet")?;
        let envelope = Envelope {
            reverse_path: ReversePath::Null,
            login: String::new(),
            session: String::new(),
            body: letter.eight_bit.then_some(Body::EightBitMime),
            utf8: letter.utf8,
            ret: None,
            envid: None,
            recipients: vec![QueuedRecipient { address: to, notify: None, orcpt: None }],
        };
        let mut draft = queue.spool().begin(&envelope).map_err(|error| error.to_string())?;
        draft.write_all(&letter.text).map_err(|error| error.to_string())?;
        if let Some(outgoing) = &snapshot.config.outgoing
            && let Some(mut signer) = signature::begin(outgoing, &snapshot.keyring, &letter.text)
        {
            signer.update(&letter.text);
            signature::sign(&mut draft, &signer, outgoing);
        }
        let id = draft.commit().map_err(|error| error.to_string())?.keep();
        queue.accepted(id, envelope, None);
        Ok(format!("queue:{id}"))
    }
}

fn store(context: &Context, snapshot: &Snapshot, mailbox: &str, letter: &Letter) -> Result<String, String> {
    let inbox = snapshot.config.maildir.of(mailbox);
    let mut draft = context.store.begin(&inbox).map_err(|error| error.to_string())?;
    let address = Address::parse(mailbox).map_err(|_| format!("{mailbox} is no address"))?;
    draft.write_all(&letter.delivered_to(&address)).map_err(|error| error.to_string())?;
    context.store.commit(draft, &[inbox]).map_err(|error| error.to_string())?;
    Ok(mailbox.to_owned())
}
