//! Decides which addresses are local, where their mail goes, and which senders a login may use. Pure: tables in,
//! answers out.
//!
//! The same functions answer the session and `pillarbox explain`. Nothing outside the configured domains is ever
//! resolved, so no trick with `%`, `!` or quotes can make the server relay: such an address is an unknown local part at
//! best. A mailbox is always a login of the users file; no name from the wire becomes one.

pub mod aliases;
mod expansion;
pub mod sending;

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::smtp::address::{Address, Domain, ForwardPath, ReversePath, is_mail_domain};
use crate::smtp::reply::{Refusal, Refused};
use aliases::Aliases;
use expansion::Walk;

pub use expansion::{AliasProblems, CHAIN_MAX, DeadEnd, DeadEndReason, Route};

/// The tables.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    domains: Vec<String>,
    mailboxes: HashSet<String>,
    aliases: Aliases,
    senders: HashMap<String, Vec<Grant>>,
    outgoing: bool,
}

/// An address, or all of a domain, that a login may send as beside its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// This address, in the form that is compared.
    Address(String),
    /// Any address at all.
    Any,
    /// Every address of this domain, in lower case.
    Domain(String),
}

/// Where mail for a recipient goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Here.
    Mailbox(LocalMailbox),
    /// To an address in a domain that is not local.
    Remote(Address),
}

/// A mailbox, and the folder to try within it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalMailbox {
    /// A login of the users file with its domain, in the form that is compared.
    pub mailbox: String,
    /// What stood after the `+`, if anything did.
    pub tag: Option<String>,
}

impl Grant {
    /// Reads `user@domain`, `*@domain` or `*`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        match text.strip_prefix("*@") {
            Some(domain) => match Address::parse(&format!("x@{domain}")).ok()?.domain() {
                Domain::Name(name) => Some(Self::Domain(name.clone())),
                Domain::Literal(_) => None,
            },
            None => Some(Self::Address(Address::parse(text).ok()?.key())),
        }
    }
}

impl Policy {
    /// Tables from the configuration, the logins of the users file, the aliases.
    pub fn new<'a>(
        domains: &[String],
        logins: impl Iterator<Item = &'a str>,
        aliases: Aliases,
        senders: &BTreeMap<String, Vec<Grant>>,
    ) -> Self {
        let domains: Vec<String> = domains.iter().map(|domain| domain.to_lowercase()).collect();
        let is_local =
            |login: &str| login.rsplit_once('@').is_some_and(|(_, domain)| domains.iter().any(|known| known == domain));
        let mailboxes = logins.map(str::to_lowercase).filter(|login| is_local(login)).collect();
        let senders = senders.iter().map(|(login, grants)| (login.to_lowercase(), grants.clone())).collect();
        Self { domains, mailboxes, aliases, senders, outgoing: false }
    }

    /// With mail for other domains taken from logins, or not.
    pub fn with_outgoing(self, outgoing: bool) -> Self {
        Self { outgoing, ..self }
    }

    /// The local domains.
    pub fn domains(&self) -> &[String] {
        &self.domains
    }

    /// Whether a client may use this sender. `login` is `None` where there is no login.
    pub fn sender(&self, login: Option<&str>, path: &ReversePath) -> Result<(), Refused> {
        let (Some(login), ReversePath::Mailbox(address)) = (login, path) else {
            return Ok(());
        };
        if !address.domain().is_fully_qualified() && !self.is_local(address.domain()) {
            return Err(Refused::about(Refusal::SenderDomain, address.domain()));
        }
        if self.may_send_as(login, address) { Ok(()) } else { Err(Refused::about(Refusal::SenderNotYours, address)) }
    }

    /// The address that stands for a login: itself, or the first that `[senders]` grants where it is none.
    pub fn own_address(&self, login: &str) -> Option<Address> {
        Address::parse(login).ok().or_else(|| {
            self.senders.get(login)?.iter().find_map(|grant| match grant {
                Grant::Address(granted) => Address::parse(granted).ok(),
                _ => None,
            })
        })
    }

    /// Where mail for a recipient goes; the order of the checks is what a client sees. `submitted` where there is a login:
    /// without one no mail for other domains is taken, whatever is configured.
    pub fn recipient(&self, submitted: bool, path: &ForwardPath) -> Result<Vec<Destination>, Refused> {
        if let ForwardPath::Mailbox(address) = path
            && !self.is_local(address.domain())
        {
            return self.remote(submitted, address);
        }
        let route = self.walk(path, Walk::default());
        if route.destinations.is_empty() {
            return Err(Refused::about(Refusal::UnknownMailbox, path));
        }
        Ok(route.destinations.into_iter().map(Destination::Mailbox).collect())
    }

    /// An address literal names no domain that mail is routed by, so it stays refused as relaying.
    fn remote(&self, submitted: bool, address: &Address) -> Result<Vec<Destination>, Refused> {
        let domain = address.domain();
        if submitted && !domain.is_fully_qualified() {
            return Err(Refused::about(Refusal::RecipientDomain, domain));
        }
        match domain {
            Domain::Name(name) if submitted && self.outgoing => match is_mail_domain(name) {
                true => Ok(vec![Destination::Remote(address.clone())]),
                false => Err(Refused::about(Refusal::RecipientDomain, domain)),
            },
            _ => Err(Refused::about(Refusal::Relay, address)),
        }
    }

    /// True if `address` is the login's own: its address, an alias that leads only to it, or what `[senders]` grants.
    pub fn may_send_as(&self, login: &str, address: &Address) -> bool {
        self.senders.get(login).is_some_and(|grants| grants.contains(&Grant::Any)) || self.proves(login, address)
    }

    /// The same without the grant of every sender, which says nothing about whose an address is.
    pub fn proves(&self, login: &str, address: &Address) -> bool {
        let key = address.key();
        if key == login {
            return true;
        }
        let domain = address.domain().as_str();
        let granted = self.senders.get(login).is_some_and(|grants| {
            grants.iter().any(|grant| match grant {
                Grant::Address(granted) => *granted == key,
                Grant::Any => false,
                Grant::Domain(granted) => granted == domain,
            })
        });
        if granted {
            return true;
        }
        if !self.is_local(address.domain()) {
            return false;
        }
        let route = self.walk(&ForwardPath::Mailbox(address.clone()), Walk::default());
        route.dead_ends.is_empty() && !route.destinations.is_empty() && route.destinations.iter().all(|to| to.mailbox == login)
    }

    fn is_local(&self, domain: &Domain) -> bool {
        matches!(domain, Domain::Name(name) if self.domains.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Problem;

    fn policy() -> Policy {
        let aliases = "
            postmaster: alice
            sales: alice, bob@example.org
            info@example.net: carol@example.net
            @example.net: alice@example.org
            alice.b@example.org: alice
            bob: bob, alice
            gone: nobody
            away: x@elsewhere.example
            loop: loop2
            loop2: loop
            lists+rust: bob
            dave: dave, bob@example.org
        ";
        let text: String = aliases.lines().map(|line| format!("{}\n", line.trim_start())).collect();
        let logins = [
            "alice@example.org",
            "bob@example.org",
            "carol@example.net",
            "scanner",
            "dave@elsewhere.example",
            "dave@example.org",
        ];
        let grants = |list: &[&str]| list.iter().map(|text| Grant::parse(text).unwrap()).collect::<Vec<_>>();
        let senders = BTreeMap::from([
            ("scanner".to_owned(), grants(&["scans@example.org", "*@lab.example"])),
            ("carol@example.net".to_owned(), grants(&["*"])),
        ]);
        let domains = ["example.org".to_owned(), "Example.NET".to_owned()];
        Policy::new(&domains, logins.into_iter(), Aliases::parse(&text).unwrap(), &senders)
    }

    fn to(address: &str) -> Result<Vec<String>, Refusal> {
        let path = ForwardPath::parse(&format!("<{address}>"), true).unwrap();
        let show = |to| match to {
            Destination::Mailbox(to) => to.mailbox + &to.tag.map_or(String::new(), |tag| format!(" .{tag}")),
            Destination::Remote(to) => format!("remote {to}"),
        };
        policy().recipient(true, &path).map(|to| to.into_iter().map(show).collect()).map_err(|refused| refused.why)
    }

    #[test]
    fn where_mail_goes() {
        let rows: [(&str, Result<&[&str], Refusal>); 26] = [
            ("alice@example.org", Ok(&["alice@example.org"])),
            ("ALICE@EXAMPLE.ORG", Ok(&["alice@example.org"])),
            ("\"alice\"@example.org", Ok(&["alice@example.org"])),
            ("alice+x.y@example.org", Ok(&["alice@example.org .x.y"])),
            ("alice+@example.org", Ok(&["alice@example.org"])),
            ("sales@example.org", Ok(&["alice@example.org", "bob@example.org"])),
            ("postmaster", Ok(&["alice@example.org"])),
            ("postmaster@example.net", Ok(&["alice@example.org"])),
            ("info@example.net", Ok(&["carol@example.net"])),
            ("anything@example.net", Ok(&["alice@example.org"])),
            ("bob@example.org", Ok(&["bob@example.org", "alice@example.org"])),
            ("bob+x@example.org", Ok(&["bob@example.org .x", "alice@example.org"])),
            ("dave+y@example.org", Ok(&["dave@example.org .y", "bob@example.org", "alice@example.org"])),
            ("lists+rust@example.org", Ok(&["bob@example.org", "alice@example.org"])),
            ("lists+c@example.org", Err(Refusal::UnknownMailbox)),
            ("nobody@example.org", Err(Refusal::UnknownMailbox)),
            ("gone@example.org", Err(Refusal::UnknownMailbox)),
            ("loop@example.org", Err(Refusal::UnknownMailbox)),
            ("scanner@example.org", Err(Refusal::UnknownMailbox)),
            ("away@example.org", Err(Refusal::UnknownMailbox)),
            ("dave@elsewhere.example", Err(Refusal::Relay)),
            ("alice@elsewhere.example", Err(Refusal::Relay)),
            ("alice%elsewhere.example@example.org", Err(Refusal::UnknownMailbox)),
            ("elsewhere.example!alice@example.org", Err(Refusal::UnknownMailbox)),
            ("alice@[127.0.0.1]", Err(Refusal::Relay)),
            ("alice@localhost", Err(Refusal::RecipientDomain)),
        ];
        for (address, want) in rows {
            let want = want.map(|boxes| boxes.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
            assert_eq!(to(address), want, "{address}");
        }
    }

    #[test]
    fn a_login_may_address_anybody_where_mail_goes_out_and_nobody_else_may() {
        let long = format!("x@{}example", "a.".repeat(124));
        let rows = [
            ("x@elsewhere.example", Ok(true)),
            ("x@xn--bcher-kva.example", Ok(true)),
            ("x@bücher.example", Ok(true)),
            ("x@1.example", Ok(true)),
            ("dave@elsewhere.example", Ok(true)),
            ("alice@example.org", Ok(false)),
            ("alice%elsewhere.example@example.org", Err(Refusal::UnknownMailbox)),
            ("x@localhost", Err(Refusal::RecipientDomain)),
            ("x@192.0.2.1", Err(Refusal::RecipientDomain)),
            ("x@elsewhere.1", Err(Refusal::RecipientDomain)),
            (&long, Err(Refusal::RecipientDomain)),
            ("x@[192.0.2.1]", Err(Refusal::Relay)),
            ("x@[IPv6:2001:db8::1]", Err(Refusal::Relay)),
        ];
        let policy = policy().with_outgoing(true);
        for (address, want) in rows {
            let path = ForwardPath::Mailbox(Address::parse(address).unwrap());
            let remote = |found: Vec<Destination>| matches!(&found[..], [Destination::Remote(_)]);
            assert_eq!(policy.recipient(true, &path).map(remote).map_err(|refused| refused.why), want, "{address}");
            // Without a login an address is local or refused.
            let found = policy.recipient(false, &path);
            assert_eq!(found.is_ok(), want == Ok(false), "{address}: {found:?}");
        }
    }

    #[test]
    fn who_may_send_as_whom() {
        let rows = [
            ("alice@example.org", "alice@example.org", true),
            ("alice@example.org", "Alice@Example.org", true),
            ("alice@example.org", "alice+tag@example.org", true),
            ("alice@example.org", "alice.b@example.org", true),
            ("alice@example.org", "postmaster@example.org", true),
            ("alice@example.org", "anything@example.net", true),
            ("alice@example.org", "sales@example.org", false),
            ("alice@example.org", "bob@example.org", false),
            ("bob@example.org", "bob@example.org", true),
            ("alice@example.org", "alice@elsewhere.example", false),
            ("alice@example.org", "nobody@example.org", false),
            ("alice@example.org", "carol@example.net", false),
            ("scanner", "scans@example.org", true),
            ("scanner", "x@lab.example", true),
            ("scanner", "x@sub.lab.example", false),
            ("scanner", "scanner@example.org", false),
            ("carol@example.net", "anybody@elsewhere.example", true),
            ("dave@elsewhere.example", "dave@elsewhere.example", true),
        ];
        for (login, address, want) in rows {
            assert_eq!(policy().may_send_as(login, &Address::parse(address).unwrap()), want, "{login} as {address}");
        }
        assert_eq!(policy().sender(Some("scanner"), &ReversePath::Null), Ok(()));
        let unqualified = ReversePath::parse("<root@myhost>", false).unwrap();
        assert_eq!(policy().sender(Some("scanner"), &unqualified).unwrap_err().why, Refusal::SenderDomain);
        assert_eq!(policy().sender(None, &unqualified), Ok(()));
    }

    /// Every sender may be used by a list manager; that proves nothing about whose an address is.
    #[test]
    fn any_sender_is_no_proof() {
        let senders =
            BTreeMap::from([("lists@example.org".to_owned(), vec![Grant::Any, Grant::parse("*@lab.example").unwrap()])]);
        let logins = ["lists@example.org"].into_iter();
        let policy = Policy::new(&["example.org".to_owned()], logins, Aliases::default(), &senders);
        for (address, may, proved) in
            [("victim@elsewhere.example", true, false), ("x@lab.example", true, true), ("lists@example.org", true, true)]
        {
            let address = Address::parse(address).unwrap();
            let found = (policy.may_send_as("lists@example.org", &address), policy.proves("lists@example.org", &address));
            assert_eq!(found, (may, proved), "{address}");
        }
    }

    #[test]
    fn problems_of_aliases_have_lines() {
        let lines = |problems: &[Problem]| problems.iter().map(|problem| problem.line).collect::<HashSet<_>>();
        let problems = policy().alias_problems();
        assert_eq!(lines(&problems.fatal), HashSet::from([10, 11]));
        assert_eq!(lines(&problems.dead_ends), HashSet::from([8, 9]));
    }

    /// What an alias is called decides nothing: a target may read like a message of ours.
    #[test]
    fn only_a_loop_is_a_loop() {
        let aliases = Aliases::parse("a: \"b leads back to itself\"@example.org\nc: x@elsewhere.example\n").unwrap();
        let policy = Policy::new(&["example.org".to_owned()], [].into_iter(), aliases, &BTreeMap::new());
        let problems = policy.alias_problems();
        assert_eq!((problems.fatal.len(), problems.dead_ends.len()), (0, 2), "{problems:?}");
        assert!(problems.dead_ends[1].text.contains("nothing is forwarded"), "{problems:?}");
    }

    #[test]
    fn a_name_means_the_domain_where_it_leads_somewhere() {
        for (name, want) in [("alice", "alice@example.org"), ("Info", "Info@example.net"), ("nobody", "nobody@example.org")] {
            assert_eq!(policy().qualified(name), Address::parse(want).ok(), "{name}");
        }
    }

    /// Found by the fuzzer: ten lists of forty lists of each other would have been followed 40 to the power of 10 times.
    #[test]
    fn lists_of_lists_do_not_multiply() {
        let name = |n: usize| format!("l{n}");
        let all = (0..40).map(name).collect::<Vec<_>>().join(", ");
        let mut text: String = (0..40).map(|n| format!("{}: {all}, alice\n", name(n))).collect();
        text.push_str("top: l0, bob, alice\n");
        let domains = ["example.org".to_owned()];
        let logins = ["alice@example.org", "bob@example.org"];
        let policy = Policy::new(&domains, logins.into_iter(), Aliases::parse(&text).unwrap(), &BTreeMap::new());
        let route = policy.route(&ForwardPath::parse("<top@example.org>", false).unwrap());
        let found: HashSet<&str> = route.destinations.iter().map(|to| to.mailbox.as_str()).collect();
        assert_eq!(found, HashSet::from(logins));
        assert!(!policy.alias_problems().fatal.is_empty(), "they loop");
    }

    #[test]
    fn chains_to_ten_and_no_further() {
        let chain = |length: usize| {
            let mut text: String = (1..length).map(|n| format!("a{n}: a{}\n", n + 1)).collect();
            text.push_str(&format!("a{length}: alice\n"));
            let domains = ["example.org".to_owned()];
            Policy::new(&domains, ["alice@example.org"].into_iter(), Aliases::parse(&text).unwrap(), &BTreeMap::new())
        };
        assert_eq!(chain(10).alias_problems(), AliasProblems::default());
        assert!(!chain(11).alias_problems().fatal.is_empty());
    }
}
