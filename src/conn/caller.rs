//! The caller at a local socket: what the kernel says of it, as a login.
//!
//! A user with a row in `[unix_users]`, or one that may open a socket with a `login`, is that login. Every other is USER@hostname
//! and writes to mailboxes here alone. USER@hostname is the caller's own address in either case, and so is USER at the host's own
//! name, which mail programs write, unless that is a local domain.

use std::borrow::Cow;

use crate::auth::passwd::OVERFLOW_UID;
use crate::auth::users;
use crate::conn::context::Snapshot;
use crate::policy::Policy;
use crate::smtp::address::{Address, Domain, ForwardPath, ReversePath};
use crate::smtp::reply::{Refusal, Refused};

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What the kernel says.
    pub uid: u32,
    /// The user's name, or `uid-` and the number where it has none.
    pub user: String,
    /// The login that its mail counts for.
    pub login: String,
    /// USER@hostname.
    address: Option<Address>,
    /// USER at the host's own name.
    other_address: Option<Address>,
    /// True if the login is one of the configuration's, not made of the user's name.
    has_login: bool,
}

impl Caller {
    /// The caller with this uid and, by /etc/passwd, this name; `socket_login` is the login of the socket, if it has one.
    pub fn new(uid: u32, name: Option<String>, socket_login: Option<&str>, snapshot: &Snapshot) -> Result<Self, Refusal> {
        let config = &snapshot.config;
        // All users of other namespaces look alike, and like no user here.
        let name = name.filter(|_| uid != OVERFLOW_UID);
        let own = |user: &str| Address::parse(&format!("{user}@{}", config.hostname)).ok();
        let (user, address) = match name.and_then(|name| own(&name).map(|address| (name, address))) {
            Some((name, address)) => (name, Some(address)),
            None => (format!("uid-{uid}"), own(&format!("uid-{uid}")).filter(|_| uid != OVERFLOW_UID)),
        };
        let row = socket_login.or_else(|| config.unix_users.get(&user).map(String::as_str).filter(|_| uid != OVERFLOW_UID));
        let login = match (row, &address) {
            (Some(login), _) => users::canonical(login),
            (None, None) => return Err(Refusal::UnknownCaller),
            // No login of the users file is meant, and none can be called so.
            (None, Some(address)) if !snapshot.users.passwords(&address.key()).is_empty() => format!("unix:{}", address.key()),
            (None, Some(address)) => address.key(),
        };
        let own_name = config.own_name.as_ref().filter(|name| !snapshot.policy.domains().contains(name));
        let at_own_name = |name: &String| Address::parse(&format!("{user}@{name}")).ok();
        let other_address = own_name.filter(|_| address.is_some()).and_then(at_own_name);
        Ok(Self { uid, login, address, other_address, has_login: row.is_some(), user })
    }

    /// True if mail of this caller may leave the machine.
    pub fn may_send_elsewhere(&self) -> bool {
        self.has_login
    }

    /// True if this is USER@hostname, or USER at the host's own name.
    pub fn owns(&self, address: &Address) -> bool {
        self.address.iter().chain(&self.other_address).any(|own| own.key() == address.key())
    }

    /// The sender where the caller names none: USER@hostname, or the login's address where the user has no name here.
    pub fn sender(&self, policy: &Policy) -> Option<Address> {
        self.address.clone().or_else(|| policy.own_address(&self.login))
    }

    /// Whether a sender may be used.
    pub fn check_sender(&self, path: &ReversePath, policy: &Policy) -> Result<(), Refused> {
        match path {
            ReversePath::Mailbox(address) if self.owns(address) => Ok(()),
            ReversePath::Mailbox(address) if !self.has_login => Err(Refused::about(Refusal::SenderNotYours, address)),
            _ => policy.sender(Some(&self.login), path),
        }
    }

    /// True if an address in a header field is the caller's own.
    pub fn may_write_as(&self, address: &Address, policy: &Policy) -> bool {
        self.owns(address) || (self.has_login && policy.may_send_as(&self.login, address))
    }

    /// The address that stands for the caller where a field says nothing.
    pub fn author(&self, policy: &Policy) -> Option<Address> {
        let of_login = if self.has_login { policy.own_address(&self.login) } else { None };
        of_login.or_else(|| self.address.clone())
    }

    /// What USER@hostname becomes where a message leaves the machine: the address of the login.
    pub fn address_elsewhere(&self, path: &ReversePath, policy: &Policy) -> Option<Address> {
        match path {
            ReversePath::Mailbox(address) if self.owns(address) => self.replacement(policy),
            _ => None,
        }
    }

    /// The same for a From field of exactly that address: what stands after the colon, with the other address in it.
    pub fn author_elsewhere(&self, own: &Address, body: &[u8], policy: &Policy) -> Option<String> {
        let (own, other) = (own.to_string(), self.replacement(policy)?.to_string());
        let text = std::str::from_utf8(body).ok()?.trim();
        let (lower, own) = (text.to_ascii_lowercase(), own.to_ascii_lowercase());
        let (mut value, mut end) = (String::new(), 0);
        for (at, _) in lower.match_indices(&own) {
            value.push_str(&text[end..at]);
            value.push_str(&other);
            end = at + own.len();
        }
        value.push_str(&text[end..]);
        (end > 0).then_some(value)
    }

    /// The address of the login, where mail may leave the machine.
    pub fn replacement(&self, policy: &Policy) -> Option<Address> {
        if self.has_login { policy.own_address(&self.login) } else { None }
    }
}

/// A recipient as it is looked up: at this host's own name, where that is no local domain, a name means what it means without
/// a domain, so that cron's mail to root finds the alias of root.
pub fn looked_up<'a>(path: &'a ForwardPath, snapshot: &Snapshot) -> Cow<'a, ForwardPath> {
    let config = &snapshot.config;
    let is_own = |name: &String| *name == config.hostname || Some(name) == config.own_name.as_ref();
    match path {
        ForwardPath::Mailbox(address) if matches!(address.domain(), Domain::Name(name) if is_own(name) && !snapshot.policy.domains().contains(name)) => {
            match snapshot.policy.qualified(address.local()) {
                Some(meant) => Cow::Owned(ForwardPath::Mailbox(meant)),
                None => Cow::Borrowed(path),
            }
        }
        _ => Cow::Borrowed(path),
    }
}
