//! Holds the sender fields of a message that is handed in to the login: every address in them, and every address that a
//! name consists of, is the login's own. Fields that say nothing get the login's address. Reply-To is not looked at.

use super::caller::Caller;
use crate::mail::from::{self, Author};
use crate::mail::message::Header;
use crate::policy::Policy;
use crate::smtp::address::Address;
use crate::smtp::reply::{Refusal, Refused};

/// As whom a message is handed in.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// The login.
    pub login: &'a str,
    /// The caller, on a local socket.
    pub caller: Option<&'a Caller>,
}

impl Identity<'_> {
    fn author(&self, policy: &Policy) -> Option<Address> {
        self.caller.map_or_else(|| policy.own_address(self.login), |caller| caller.author(policy))
    }

    fn may_write_as(&self, address: &Address, policy: &Policy) -> bool {
        match self.caller {
            Some(caller) => caller.may_write_as(address, policy),
            None => policy.may_send_as(self.login, address),
        }
    }
}

/// Checks From, Sender, Resent-From and Resent-Sender. A From that is missing, or is one bare word, gets the address
/// that stands for the login.
pub fn check(header: &mut Header, identity: Identity<'_>, policy: &Policy) -> Result<(), Refused> {
    let unreadable =
        |field: &str, why: &dyn std::fmt::Display| Refused::about(Refusal::HeaderFromUnreadable, format!("{field} {why}"));
    let own = identity.author(policy).map(|address| address.to_string());
    let (mut fields, mut author) = (0, None);
    for (field, body) in header.senders() {
        fields += usize::from(field == "From");
        match from::parse(body).map_err(|why| unreadable(field, &why))? {
            Author::Mailboxes(mailboxes) => {
                for mailbox in mailboxes {
                    if !identity.may_write_as(&mailbox.address, policy) {
                        return Err(Refused::about(Refusal::HeaderFrom, format!("{field}: <{}>", mailbox.address)));
                    }
                    let foreign = |shown: &&String| !Address::parse(shown).is_ok_and(|own| identity.may_write_as(&own, policy));
                    if let Some(shown) = mailbox.shown.iter().find(foreign) {
                        return Err(Refused::about(Refusal::HeaderFrom, format!("{field}: the name {shown}")));
                    }
                }
            }
            Author::Word(word) => match &own {
                Some(own) if field == "From" => author = Some(from::named(&word, own)),
                _ => return Err(unreadable(field, &"has no address; give one")),
            },
        }
    }
    // Readers and signatures each take another of two (RFC 5322 section 3.6 allows one).
    if fields > 1 {
        return Err(unreadable("From", &"is there more than once; leave one"));
    }
    if let Some(author) = if fields == 0 { own } else { author } {
        header.set_author(author);
    }
    Ok(())
}
