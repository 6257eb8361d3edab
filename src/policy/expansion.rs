//! Alias expansion (RFC 5321 section 3.9.1): follows the aliases from an address to mailboxes.
//!
//! It ends for any tables: an alias within itself is a loop, a chain has [`CHAIN_MAX`] steps, and what was expanded once
//! adds nothing a second time. Where an address goes no further is a [`DeadEnd`] with the reason.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::aliases::Target;
use super::{LocalMailbox, Policy};
use crate::problem::Problem;
use crate::smtp::address::{Address, ForwardPath};

/// Where an address leads, with the way there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The mailboxes, each once.
    pub destinations: Vec<LocalMailbox>,
    /// Where it goes no further.
    pub dead_ends: Vec<DeadEnd>,
    /// One line for each step, for people.
    pub steps: Vec<String>,
}

/// A target that mail cannot be delivered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadEnd {
    /// The address, in the form that is compared.
    pub address: String,
    /// What is wrong with it.
    pub why: DeadEndReason,
}

/// Why an address leads to no mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadEndReason {
    /// Its domain is not local, and nothing is forwarded.
    Foreign,
    /// Its aliases lead back to itself.
    Loop,
    /// Its chain of aliases is longer than [`CHAIN_MAX`].
    TooDeep,
    /// It is neither a mailbox nor an alias.
    Unknown,
}

/// The way through the aliases so far.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Whether its steps are noted.
    explained: bool,
    /// The aliases on the way here.
    path: Vec<String>,
    /// Every alias that was expanded, and how deep at most: a second time adds nothing, and lists of lists would
    /// multiply.
    expanded: HashMap<String, usize>,
    seen: HashSet<LocalMailbox>,
    route: Route,
}

/// What is wrong with the aliases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AliasProblems {
    /// Loops and chains that are too long: the file must not be used.
    pub fatal: Vec<Problem>,
    /// Aliases that lead nowhere, or that belong to a domain that is not local.
    pub dead_ends: Vec<Problem>,
}

/// An alias may lead to an alias, so many times.
pub const CHAIN_MAX: usize = 10;

impl Policy {
    /// The address that a name without a domain means: in the first domain where it leads somewhere, else in the
    /// first of all.
    pub fn qualified(&self, name: &str) -> Option<Address> {
        let first = self.domains.first()?;
        Address::parse(&format!("{name}@{}", self.domain_of(&name.to_lowercase(), first, &[]))).ok()
    }

    /// Where mail for an address goes, with every step.
    pub fn route(&self, path: &ForwardPath) -> Route {
        self.walk(path, Walk::explained())
    }

    pub(super) fn walk(&self, path: &ForwardPath, mut walk: Walk) -> Route {
        match path {
            ForwardPath::Mailbox(address) => self.follow_address(address, 0, &mut walk),
            // RFC 5321 section 4.5.1: the one name that needs no domain; the first domain's is meant.
            ForwardPath::Postmaster => {
                let domain = self.domains.first().cloned().unwrap_or_default();
                self.follow("postmaster", &domain, 0, &mut walk);
            }
        }
        walk.route
    }

    /// Everything that is wrong with the aliases.
    pub fn alias_problems(&self) -> AliasProblems {
        let mut problems = AliasProblems::default();
        for (name, alias) in self.aliases.iter() {
            let (local, domains) = match name.split_once('@') {
                Some((local, domain)) if self.domains.iter().any(|known| known == domain) => (local, vec![domain.to_owned()]),
                Some((_, domain)) => {
                    let text = format!("alias `{name}`: {domain} is not in `domains`; add it there or remove the alias");
                    problems.dead_ends.push(Problem::at(alias.line, text));
                    continue;
                }
                None => (name, self.domains.clone()),
            };
            for domain in domains {
                let mut walk = Walk::explained();
                let start = if local.is_empty() { "any-name-at-all" } else { local };
                self.follow(start, &domain, 0, &mut walk);
                let route = walk.route;
                // What makes the file unusable is named before what does not.
                let end = route.dead_ends.iter().find(|end| end.why.is_fatal()).or(route.dead_ends.first());
                let Some(end) = end else { continue };
                let text = format!("alias `{name}`: {end}; {}", end.why.cure());
                let list = if end.why.is_fatal() { &mut problems.fatal } else { &mut problems.dead_ends };
                if !list.iter().any(|known| known.text == text) {
                    list.push(Problem::at(alias.line, text));
                }
            }
        }
        problems
    }

    fn follow_address(&self, address: &Address, depth: usize, walk: &mut Walk) {
        if self.is_local(address.domain()) {
            self.follow(&address.local().to_lowercase(), address.domain().as_str(), depth, walk);
        } else {
            walk.ends_at(address.key(), DeadEndReason::Foreign);
        }
    }

    /// Follows `local@domain`, which is local and in lower case.
    fn follow(&self, local: &str, domain: &str, depth: usize, walk: &mut Walk) {
        let at_domain = |local: &str| [local, "@", domain].concat();
        if depth > CHAIN_MAX {
            return walk.ends_at(at_domain(local), DeadEndReason::TooDeep);
        }
        let (base, tag) = match local.split_once('+') {
            Some((base, tag)) if !base.is_empty() => (base, Some(tag)),
            _ => (local, None),
        };
        let candidates = [(local, None), (base, tag)];
        for (name, tag) in &candidates[..if tag.is_some() { 2 } else { 1 }] {
            let own = at_domain(name);
            // An alias that names itself means the mailbox: `alice: alice, bob` keeps a copy.
            let within_itself = walk.path.last() == Some(&own);
            if let Some(targets) = self.aliases.of(name, domain)
                && !(within_itself && self.mailboxes.contains(&own))
            {
                return self.expand(&own, targets, domain, tag.filter(|tag| !tag.is_empty()), depth, walk);
            }
            if self.mailboxes.contains(&own) {
                return walk.arrives(own, tag.filter(|tag| !tag.is_empty()));
            }
        }
        match self.aliases.catch_all(domain) {
            Some(targets) => self.expand(&at_domain(""), targets, domain, None, depth, walk),
            None => walk.ends_at(at_domain(local), DeadEndReason::Unknown),
        }
    }

    /// Follows the targets of an alias; a `tag` is for the copy that an alias keeps in its own mailbox.
    fn expand(&self, name: &str, targets: &[Target], domain: &str, tag: Option<&str>, depth: usize, walk: &mut Walk) {
        if walk.path.iter().any(|known| known == name) {
            return walk.ends_at(name.to_owned(), DeadEndReason::Loop);
        }
        // As deep as before, or less deep: all that it leads to has been seen, the end of a chain that is too long too.
        if walk.expanded.get(name).is_some_and(|before| *before >= depth) {
            return;
        }
        walk.expanded.insert(name.to_owned(), depth);
        walk.note(|| {
            let list: Vec<String> = targets.iter().map(Target::text).collect();
            format!("{name}: alias of {}", list.join(", "))
        });
        walk.path.push(name.to_owned());
        for target in targets {
            let (local, domain) = match target {
                Target::Address(address) if self.is_local(address.domain()) => {
                    (address.local().to_lowercase(), address.domain().to_string())
                }
                Target::Address(address) => {
                    walk.ends_at(address.key(), DeadEndReason::Foreign);
                    continue;
                }
                Target::Name(local) => (local.clone(), self.domain_of(local, domain, &walk.path).to_owned()),
            };
            let local = match tag {
                Some(tag) if format!("{local}@{domain}") == name => format!("{local}+{tag}"),
                _ => local,
            };
            self.follow(&local, &domain, depth + 1, walk);
        }
        walk.path.pop();
    }

    /// The domain that a bare target means: the one it is looked up in if it leads somewhere there, else the first
    /// domain where it does. An alias that names itself leads nowhere but to a mailbox.
    fn domain_of<'a>(&'a self, name: &str, domain: &'a str, path: &[String]) -> &'a str {
        let base = name.split('+').next().unwrap_or(name);
        let leads = |domain: &str| {
            let own = format!("{base}@{domain}");
            let itself = path.last() == Some(&own);
            self.mailboxes.contains(&own) || (!itself && self.aliases.of(base, domain).is_some())
        };
        if leads(domain) {
            return domain;
        }
        self.domains.iter().map(String::as_str).find(|domain| leads(domain)).unwrap_or(domain)
    }
}

impl Walk {
    /// One that notes its steps, for people.
    fn explained() -> Self {
        Self { explained: true, ..Self::default() }
    }

    fn note(&mut self, step: impl FnOnce() -> String) {
        if self.explained {
            self.route.steps.push(step());
        }
    }

    fn ends_at(&mut self, address: String, why: DeadEndReason) {
        if self.route.dead_ends.iter().all(|known| known.address != address) {
            let end = DeadEnd { address, why };
            self.note(|| end.to_string());
            self.route.dead_ends.push(end);
        }
    }

    fn arrives(&mut self, mailbox: String, tag: Option<&str>) {
        let destination = LocalMailbox { mailbox, tag: tag.map(str::to_owned) };
        if self.seen.insert(destination.clone()) {
            self.note(|| {
                let folder = tag.map_or(String::new(), |tag| format!(", folder .{tag} if it exists"));
                format!("{}: a mailbox{folder}", destination.mailbox)
            });
            self.route.destinations.push(destination);
        }
    }
}

impl DeadEndReason {
    /// True if the aliases file must not be used with it.
    fn is_fatal(self) -> bool {
        matches!(self, Self::Loop | Self::TooDeep)
    }

    fn cure(self) -> &'static str {
        match self {
            Self::Foreign => "name a mailbox here",
            Self::Loop | Self::TooDeep => "remove one of its steps",
            Self::Unknown => "correct or remove it",
        }
    }
}

impl fmt::Display for DeadEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.address;
        match self.why {
            DeadEndReason::Foreign => write!(f, "{address} is not in `domains`, and nothing is forwarded to other servers"),
            DeadEndReason::Loop => write!(f, "{address} leads back to itself"),
            DeadEndReason::TooDeep => write!(f, "{address}: the chain of aliases is longer than {CHAIN_MAX}"),
            DeadEndReason::Unknown => write!(f, "{address} is no mailbox and no alias"),
        }
    }
}
