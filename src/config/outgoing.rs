//! The `[outgoing]` sections: how mail for other domains is sent. The fields are named as the keys are.
//!
//! Everything here has been read and found possible on its own terms. Whether files, hosts and mailboxes exist is found
//! out by what uses them; what follows from the tables is judged here: [`Outgoing::postmaster_problem`] and
//! [`Outgoing::unsupported`].

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::{Destination, Policy};
use crate::smtp::address::{Address, ForwardPath, ReversePath};

/// The `[outgoing]` section.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "named as in the file; pillarbox.toml(5) describes them")]
pub struct Outgoing {
    pub via: NextHop,
    pub spool: PathBuf,
    pub postmaster: Option<Address>,
    pub connections: usize,
    pub queue_max: u64,
    pub warn: Duration,
    pub give_up: Duration,
    pub after_crash: AfterCrash,
    /// The name server that is asked; without one, those of the system.
    pub resolver: Option<SocketAddr>,
    /// The port of servers that are found by MX.
    pub mx_port: u16,
    /// `[outgoing.routes.NAME]`, each under its name, without `mx`.
    pub routes: BTreeMap<String, Route>,
    /// `[outgoing.routes.mx]`, if it is there.
    pub mx: Option<MxRoute>,
    /// `[outgoing.from]`: senders' addresses, in the form that is compared, and domains in lower case.
    pub from: BTreeMap<String, NextHop>,
    /// `[outgoing.to]`: recipients' domains in lower case, and `*.domain` for all below one.
    pub to: BTreeMap<String, NextHop>,
}

/// Where a message is sent on to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// `mx`: the servers of the recipient's domain.
    Mx,
    /// `refuse`: nowhere. Never the value of `via` or `then`.
    Refuse,
    /// The route of this name, which is in [`Outgoing::routes`].
    Route(String),
}

/// A smarthost: `[outgoing.routes.NAME]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "named as in the file; pillarbox.toml(5) describes them")]
pub struct Route {
    pub url: RouteUrl,
    /// With a `password_file`, or neither.
    pub login: Option<String>,
    pub password_file: Option<PathBuf>,
    pub connections: usize,
    pub rate: Option<Rate>,
    /// Octets.
    pub message_size: Option<u64>,
    pub helo: Option<String>,
    /// Local addresses to connect from; empty for any.
    pub source: Vec<IpAddr>,
    pub ca: Option<PathBuf>,
    pub tls_min: TlsMin,
    pub dkim: DkimMode,
    /// Never [`NextHop::Refuse`]; following it comes to an end.
    pub then: Option<NextHop>,
}

/// `[outgoing.routes.mx]`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "named as in the file; pillarbox.toml(5) describes them")]
pub struct MxRoute {
    pub connections: usize,
    pub helo: Option<String>,
    pub source: Vec<IpAddr>,
    pub dkim: DkimMode,
}

/// `url` of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteUrl {
    /// True for `smtps`: TLS from the first octet (RFC 8314); otherwise STARTTLS is required.
    pub implicit_tls: bool,
    /// A host name in lower case, or an address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

/// `rate`: transactions in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; never 0.
    pub count: u32,
    /// A second, a minute, an hour or a day.
    pub per: Duration,
}

/// `tls_min`: the oldest version of TLS that is spoken with a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the name says it")]
pub enum TlsMin {
    #[default]
    V12,
    V13,
}

/// `dkim`: what is signed on a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DkimMode {
    /// Everything that a signature should cover.
    #[default]
    All,
    /// Nothing is signed.
    Off,
    /// The same without Date and Message-ID, for routes that rewrite them.
    WithoutId,
}

/// `after_crash`: what becomes of messages that may have arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterCrash {
    /// They wait for a person.
    Hold,
    /// They are sent again.
    #[default]
    Resend,
}

/// Couriers to one smarthost, unless its route says otherwise.
pub const ROUTE_CONNECTIONS: usize = 4;
/// Couriers to one domain by MX, unless `[outgoing.routes.mx]` says otherwise.
pub const MX_CONNECTIONS: usize = 2;

impl Outgoing {
    /// What is wrong with the address that is told of routes and of reports that cannot be delivered, and the cure: there
    /// must be one. Without `postmaster` it is the local postmaster's mailbox. The policy is one that takes mail for other
    /// domains.
    pub fn postmaster_problem(&self, policy: &Policy) -> Option<String> {
        const CURE: &str = "give an address that is read, such as postmaster = \"me@elsewhere.example\", or add an alias";
        let path = self.postmaster.clone().map_or(ForwardPath::Postmaster, ForwardPath::Mailbox);
        match (policy.recipient(true, &path), &self.postmaster) {
            (Ok(_), _) => None,
            (Err(_), Some(address)) => Some(format!("<{address}> leads nowhere; {CURE} for it")),
            (Err(_), None) => Some(format!("no address is told of mail that cannot be sent; {CURE} `postmaster: LOGIN`")),
        }
    }

    /// Where mail from a sender to a recipient goes: by the recipient's domain, the nearest above it, the sender's address, its
    /// domain, then [`Self::via`].
    pub fn hop(&self, sender: &ReversePath, recipient: &Address) -> &NextHop {
        self.row(sender, recipient).1
    }

    /// The same with the row that says so: its section, `to` or `from`, and its key; none for [`Self::via`].
    pub fn row(&self, sender: &ReversePath, recipient: &Address) -> (Option<(&'static str, &str)>, &NextHop) {
        let domain = recipient.domain().to_string().to_lowercase();
        let above = domain.match_indices('.').map(|(at, _)| format!("*{}", &domain[at..]));
        if let Some((key, hop)) = std::iter::once(domain.clone()).chain(above).find_map(|key| self.to.get_key_value(&key)) {
            return (Some(("to", key)), hop);
        }
        let ReversePath::Mailbox(sender) = sender else { return (None, &self.via) };
        let domain = sender.domain().to_string().to_lowercase();
        match self.from.get_key_value(&sender.key()).or_else(|| self.from.get_key_value(&domain)) {
            Some((key, hop)) => (Some(("from", key)), hop),
            None => (None, &self.via),
        }
    }

    /// True if mail from an address of this domain may be sent on to there: by a table, by [`Self::via`], or after a route
    /// that rests.
    pub fn may_carry(&self, wanted: &NextHop, domain: &str) -> bool {
        let begins = |hop: &NextHop| {
            let mut next = Some(hop);
            while let Some(hop) = next {
                if hop == wanted {
                    return true;
                }
                let NextHop::Route(name) = hop else { break };
                next = self.routes.get(name).and_then(|route| route.then.as_ref());
            }
            false
        };
        let of_domain = |key: &str| key.rsplit('@').next() == Some(domain);
        self.to.values().any(begins)
            || self.from.iter().any(|(key, hop)| of_domain(key) && begins(hop))
            || (!self.from.contains_key(domain) && begins(&self.via))
    }

    /// Where mail for that address goes; empty only where [`Self::postmaster_problem`] has found one.
    pub fn postmaster_at(&self, policy: &Policy) -> Vec<Destination> {
        let path = self.postmaster.clone().map_or(ForwardPath::Postmaster, ForwardPath::Mailbox);
        policy.recipient(true, &path).unwrap_or_default()
    }

    /// True if some mail goes to the servers of the recipient's domain.
    pub fn uses_mx(&self) -> bool {
        let then = self.routes.values().filter_map(|route| route.then.as_ref());
        let mut hops = self.from.values().chain(self.to.values()).chain(then).chain([&self.via]);
        hops.any(|hop| *hop == NextHop::Mx)
    }

    /// What is signed on the way to a next hop.
    pub fn dkim_mode(&self, hop: &NextHop) -> DkimMode {
        match hop {
            NextHop::Mx => self.mx.as_ref().map(|mx| mx.dkim).unwrap_or_default(),
            NextHop::Refuse => DkimMode::Off,
            NextHop::Route(name) => self.routes.get(name).map(|route| route.dkim).unwrap_or_default(),
        }
    }

    /// What the routes want signed, `mx` included where it is used.
    pub fn dkim_modes(&self) -> impl Iterator<Item = DkimMode> {
        let mx = self.uses_mx().then(|| self.dkim_mode(&NextHop::Mx));
        self.routes.values().map(|route| route.dkim).chain(mx)
    }
}

impl Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mx => "mx",
            Self::Refuse => "refuse",
            Self::Route(name) => name,
        })
    }
}

impl RouteUrl {
    /// Reads `smtps://HOST[:PORT]` or `submission://HOST[:PORT]`; the error says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "write \"smtps://HOST\" (TLS at once, port 465) or \"submission://HOST\" (STARTTLS, port 587)";
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("`{text}` is no URL; {FORM}"))?;
        let implicit_tls = match scheme.to_ascii_lowercase().as_str() {
            "smtps" | "submissions" => true,
            "submission" => false,
            "smtp" => return Err(format!("`smtp://` does not say how TLS begins, and a password needs TLS; {FORM}")),
            _ => return Err(format!("`{scheme}://` is not how mail is handed in; {FORM}")),
        };
        if rest.contains('@') {
            return Err("no login in the URL; it has keys of its own, `login` and `password_file`".to_owned());
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match port {
            None => Some(if implicit_tls { 465 } else { 587 }),
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().filter(|port| *port > 0),
            Some(_) => None,
        };
        let port = port.ok_or_else(|| format!("`{rest}`: a port is a number from 1 to 65535, and nothing follows it"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => crate::smtp::address::is_domain(host, false),
        };
        if !is_host {
            return Err(format!("`{host}` is no host name, IPv4 address or IPv6 address in brackets; {FORM}"));
        }
        Ok(Self { implicit_tls, host: bare.unwrap_or(host).to_ascii_lowercase(), port })
    }
}

impl Display for RouteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.implicit_tls { "smtps" } else { "submission" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let rows = [
            ("smtps://smtp.relay.example", Some("smtps://smtp.relay.example:465")),
            ("SUBMISSION://Smtp.Relay.example", Some("submission://smtp.relay.example:587")),
            ("submissions://relay.example", Some("smtps://relay.example:465")),
            ("smtps://192.0.2.1:2465", Some("smtps://192.0.2.1:2465")),
            ("smtps://[2001:db8::1]", Some("smtps://[2001:db8::1]:465")),
            ("submission://[2001:db8::1]:25", Some("submission://[2001:db8::1]:25")),
            ("smtp://relay.example", None),
            ("http://relay.example", None),
            ("relay.example", None),
            ("smtps://", None),
            ("smtps://relay.example:0", None),
            ("smtps://relay.example:65536", None),
            ("smtps://relay.example:", None),
            ("smtps://relay.example:+1", None),
            ("smtps://relay.example/", None),
            ("smtps://relay.example:465/x", None),
            ("smtps://u:p@relay.example", None),
            ("smtps://2001:db8::1", None),
            ("smtps://[relay.example]", None),
            ("smtps://re lay.example", None),
        ];
        for (text, want) in rows {
            assert_eq!(RouteUrl::parse(text).ok().map(|url| url.to_string()).as_deref(), want, "{text}");
        }
    }
}
