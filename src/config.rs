//! Reads pillarbox.toml into a [`Config`].
//!
//! Everything that is wrong is named at once, each with its line, its key and the cure; a key that is not known is an
//! error, with the nearest that is. Only the text is read: whether the files exist that it names is for the caller to find out.

pub mod outgoing;
mod read;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use crate::policy::Grant;
use crate::policy::sending::SendingLimits;
pub use crate::problem::Problem;
use crate::smtp::session::Service;
use outgoing::Outgoing;
use read::Reader;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name in the greeting, in Received and in file names.
    pub hostname: String,
    /// The host's own name, where it is another than [`Self::hostname`].
    pub own_name: Option<String>,
    /// Mail for these is delivered here.
    pub domains: Vec<String>,
    /// The user to run as when started as root.
    pub user: String,
    /// The users file.
    pub users: PathBuf,
    /// The aliases file.
    pub aliases: Option<PathBuf>,
    /// Where Maildirs are, with `{domain}` and `{user}` in it.
    pub maildir: Template,
    /// Where it is kept what is remembered over a restart.
    pub state: PathBuf,
    /// Addresses to listen on.
    pub listen: Vec<(SocketAddr, Service)>,
    /// Local sockets to listen on.
    pub local: Vec<LocalSocket>,
    /// Which login a user of this machine is.
    pub unix_users: BTreeMap<String, String>,
    /// Certificate and key.
    pub tls: Option<TlsFiles>,
    /// All limits.
    pub limits: Limits,
    /// The addresses that a login may send as, beside its own.
    pub senders: BTreeMap<String, Vec<Grant>>,
    /// How much a login may send.
    pub sending_limits: SendingLimits,
    /// How mail for other domains is sent; absent, it is refused.
    pub outgoing: Option<Outgoing>,
    /// `[dkim]`: the keys that sign for a domain, which is in lower case.
    pub dkim: BTreeMap<String, Vec<DkimKey>>,
}

/// A local socket: an entry of `[listen] local`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalSocket {
    /// Where it is.
    pub path: PathBuf,
    /// The login that all its callers have, if it is for one alone.
    pub login: Option<String>,
    /// Its mode.
    pub mode: u32,
    /// Its group, if not that of the process.
    pub group: Option<String>,
}

impl Default for LocalSocket {
    fn default() -> Self {
        Self { path: PathBuf::new(), login: None, mode: 0o666, group: None }
    }
}

/// Certificate and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The key, PEM.
    pub key: PathBuf,
}

/// A key that signs for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DkimKey {
    /// The selector, in lower case.
    pub selector: String,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// Where Maildirs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

/// The `[limits]` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in the file; pillarbox.toml(5) describes them")]
pub struct Limits {
    pub workers: usize,
    pub waiting: usize,
    pub per_address: usize,
    pub message_size: u64,
    pub recipients: usize,
    pub idle: Duration,
    pub login: Duration,
    pub session: Duration,
    pub data_rate: u64,
    pub auth_failures: u32,
    pub errors: u32,
    pub hash_memory: u64,
    pub drain: Duration,
}

/// Every key with its default as it would be written; the manual and the sample are held against it.
pub const KEYS: [(&str, &str); 62] = [
    ("hostname", "the host's own name"),
    ("domains", "none, must be given"),
    ("user", "\"pillarbox\""),
    ("users", "\"/etc/pillarbox/users\""),
    ("aliases", "none"),
    ("maildir", "\"/var/mail/pillarbox/{domain}/{user}\""),
    ("state", "\"/var/lib/pillarbox\""),
    ("listen", ""),
    ("listen.local", "[]"),
    ("listen.smtp", "[]"),
    ("listen.submission", "[]"),
    ("listen.submissions", "[]"),
    ("tls", ""),
    ("tls.certificate", "none"),
    ("tls.key", "none"),
    ("limits", ""),
    ("limits.workers", "256"),
    ("limits.waiting", "64"),
    ("limits.per_address", "32"),
    ("limits.message_size", "\"50M\""),
    ("limits.recipients", "100"),
    ("limits.idle", "\"5m\""),
    ("limits.login", "\"1m\""),
    ("limits.session", "\"1h\""),
    ("limits.data_rate", "\"500\""),
    ("limits.auth_failures", "5"),
    ("limits.errors", "10"),
    ("limits.hash_memory", "\"64M\""),
    ("limits.drain", "\"30s\""),
    ("sending_limits", "none"),
    ("unix_users", "none"),
    ("outgoing", ""),
    ("outgoing.via", "none, must be given"),
    ("outgoing.spool", "\"/var/spool/pillarbox\""),
    ("outgoing.postmaster", "the local postmaster"),
    ("outgoing.connections", "20"),
    ("outgoing.queue_max", "100000"),
    ("outgoing.warn", "\"4h\""),
    ("outgoing.give_up", "\"5d\""),
    ("outgoing.after_crash", "\"resend\""),
    ("outgoing.mx_port", "25"),
    ("outgoing.resolver", "the servers of resolv.conf"),
    ("outgoing.routes", ""),
    ("outgoing.routes.NAME.url", "none, must be given"),
    ("outgoing.routes.NAME.login", "none"),
    ("outgoing.routes.NAME.password_file", "none"),
    ("outgoing.routes.NAME.connections", "4"),
    ("outgoing.routes.NAME.rate", "none"),
    ("outgoing.routes.NAME.message_size", "what the server says"),
    ("outgoing.routes.NAME.helo", "the hostname"),
    ("outgoing.routes.NAME.source", "[], any"),
    ("outgoing.routes.NAME.ca", "the system's"),
    ("outgoing.routes.NAME.tls_min", "\"1.2\""),
    ("outgoing.routes.NAME.dkim", "\"all\""),
    ("outgoing.routes.NAME.then", "none"),
    ("outgoing.routes.mx.connections", "2"),
    ("outgoing.routes.mx.helo", "the hostname"),
    ("outgoing.routes.mx.source", "[], any IPv4"),
    ("outgoing.routes.mx.dkim", "\"all\""),
    ("outgoing.from", "none"),
    ("outgoing.to", "none"),
    ("dkim", "none"),
];

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/pillarbox/pillarbox.toml";

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: 256,
            waiting: 64,
            per_address: 32,
            message_size: 50 << 20,
            recipients: 100,
            idle: Duration::from_secs(300),
            login: Duration::from_secs(60),
            session: Duration::from_secs(3600),
            data_rate: 500,
            auth_failures: 5,
            errors: 10,
            hash_memory: 64 << 20,
            drain: Duration::from_secs(30),
        }
    }
}

impl Template {
    /// The Maildir of a mailbox (`user@domain`, a checked login).
    pub fn of(&self, mailbox: &str) -> PathBuf {
        let (user, domain) = mailbox.rsplit_once('@').unwrap_or((mailbox, ""));
        // One pass, so that what is put in is never looked into.
        let mut path = String::with_capacity(self.0.len() + mailbox.len());
        let mut rest = self.0.as_str();
        while let Some(at) = rest.find('{') {
            path.push_str(&rest[..at]);
            rest = &rest[at..];
            let (name, value) = if rest.starts_with("{user}") { ("{user}", user) } else { ("{domain}", domain) };
            path.push_str(value);
            rest = rest.get(name.len()..).unwrap_or("");
        }
        path.push_str(rest);
        PathBuf::from(path)
    }

    /// The directory above everything that differs between mailboxes.
    pub fn root(&self) -> PathBuf {
        let fixed = self.0.find('{').map_or(self.0.as_str(), |at| &self.0[..at]);
        let end = fixed.rfind('/').unwrap_or(0);
        PathBuf::from(if end == 0 { "/" } else { &fixed[..end] })
    }
}

impl Config {
    /// Reads a configuration, or names everything that is wrong; see [`Self::examine`].
    pub fn parse(text: &str, path: &Path, host: impl FnOnce() -> Option<String>) -> Result<Self, Vec<Problem>> {
        match Self::examine(text, path, host) {
            (Some(config), problems) if problems.is_empty() => Ok(config),
            (_, problems) => Err(problems),
        }
    }

    /// Reads as much of a configuration as can be understood, with everything that is wrong; `path` is for messages,
    /// `host` gives the host's own name where none is configured. Only what is no TOML at all gives no configuration.
    pub fn examine(text: &str, path: &Path, host: impl FnOnce() -> Option<String>) -> (Option<Self>, Vec<Problem>) {
        let mut reader = Reader { text, path, problems: Vec::new() };
        let config = match DeTable::parse(text) {
            Ok(table) => Some(reader.config(table.get_ref(), host)),
            Err(error) => {
                let line = error.span().map_or(0, |span| reader.line(&span));
                let mut text = format!("not valid TOML: {}", error.message().replace('\n', ", "));
                if error.message() == "duplicate key"
                    && let Some(key) = error.span().and_then(|span| reader.text.get(span))
                {
                    text.push_str(&format!(" `{key}`"));
                }
                reader.problems.push(Problem { file: path.to_owned(), line, key: String::new(), text });
                None
            }
        };
        (config, reader.problems)
    }

    /// True if the domain of an address is one of `domains`, so that mail for it is delivered here.
    pub fn is_local(&self, address: &str) -> bool {
        address.rsplit_once('@').is_some_and(|(_, domain)| self.domains.contains(&domain.to_lowercase()))
    }

    /// True if an IPv4 address with this port is listened on, so that `[::]` with the same port must leave IPv4 to it.
    pub fn lists_ipv4(&self, port: u16) -> bool {
        self.listen.iter().any(|(address, _)| address.is_ipv4() && address.port() == port)
    }

    /// The files of all keys that sign, in the order of `dkim`.
    pub fn dkim_files(&self) -> Vec<PathBuf> {
        self.dkim.values().flatten().map(|key| key.key.clone()).collect()
    }

    /// True if a service is listened on.
    pub fn serves(&self, service: Service) -> bool {
        self.listen.iter().any(|(_, known)| *known == service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Vec<String>> {
        Config::parse(text, Path::new("p.toml"), || Some("own.example.org".into()))
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    /// What stands in KEYS is what is taken where a key is absent.
    #[test]
    fn the_listed_defaults_are_the_defaults() {
        let mut text = "domains = [\"x.example\"]\n".to_owned();
        for section in ["", "listen.", "limits."] {
            let keys = KEYS.iter().filter_map(|(key, default)| Some((key.strip_prefix(section)?, *default)));
            let written = |(key, default): &(&str, &str)| {
                !key.contains('.') && (default.starts_with(['"', '[']) || default.parse::<u32>().is_ok())
            };
            if !section.is_empty() {
                text.push_str(&format!("[{}]\n", section.trim_end_matches('.')));
            }
            keys.filter(written).for_each(|(key, default)| text.push_str(&format!("{key} = {default}\n")));
        }
        assert!(
            text.contains("user = \"pillarbox\"") && text.contains("drain = \"30s\"") && text.contains("smtp = []"),
            "{text}"
        );
        assert_eq!(parse(&text).unwrap(), parse("domains = [\"x.example\"]").unwrap(), "{text}");
    }

    #[test]
    fn little_is_needed() {
        let config = parse("domains = [\"Example.org\"]").unwrap();
        assert_eq!((config.hostname.as_str(), &config.domains[..]), ("own.example.org", &["example.org".to_owned()][..]));
        assert_eq!(config.limits, Limits::default());
        assert!(config.listen.is_empty() && config.tls.is_none());
    }

    #[test]
    fn everything_can_be_said() {
        let config = parse(include_str!("../etc/pillarbox.toml")).unwrap();
        assert_eq!(config.limits, Limits::default(), "the sample shows the defaults");
        assert_eq!(config.listen.len(), 4);
        assert_eq!(config.maildir.of("a@b.example"), PathBuf::from("/var/mail/pillarbox/b.example/a"));
    }

    #[test]
    fn every_problem_has_line_key_and_cure() {
        let rows = [
            ("", "p.toml: domains: must be given"),
            ("domains = []", "p.toml:1: domains: must name one domain at least"),
            ("domains = [\"@x\"]", "p.toml:1: domains: `@x` is no domain name"),
            ("domains = \"x.example\"", "p.toml:1: domains: must be a list"),
            ("hostnme = \"x\"\ndomains = [\"x.example\"]", "p.toml:1: hostnme: unknown key; the nearest known is `hostname`"),
            ("domains = [\"x.example\"]\nhostname = \"a b\"", "p.toml:2: hostname: must be a host name"),
            (
                "domains = [\"x.example\"]\n[limits]\nworkers = 0",
                "p.toml:3: limits.workers: must be a whole number, from 1 to 10000",
            ),
            (
                "domains = [\"x.example\"]\n[limits]\nhash_memory = 1",
                "p.toml:3: limits.hash_memory: must be a number of octets, or a size such as \"50M\", from 1M to 1024G",
            ),
            ("domains = [\"x.example\"]\n[smtp]\nx = 1", "p.toml:2: smtp: unknown key; the nearest known is `listen.smtp`"),
            ("domains = [\"x.example\"]\nidle = 1", "p.toml:2: idle: unknown key; the nearest known is `limits.idle`"),
            (
                "domains = [\"x.example\"]\n[limits]\nidel = \"5m\"",
                "p.toml:3: limits.idel: unknown key; the nearest known is `limits.idle`",
            ),
            ("domains = [\"x.example\"]\nuser = \"a\"\nuser = \"b\"", "p.toml:3: not valid TOML: duplicate key `user`"),
            ("domains = [\"x.example\"]\n[limits]\n[limits]", "p.toml:3: not valid TOML: duplicate key `limits`"),
            ("domains = [\"x.example\"]\n[limits]\nidle = \"5 minutes\"", "p.toml:3: limits.idle: must be a time"),
            ("domains = [\"x.example\"]\n[limits]\nrecipients = 99", "p.toml:3: limits.recipients: must be"),
            ("domains = [\"x.example\"]\n[listen]\nsmtp = [\"25\"]", "p.toml:3: listen.smtp: `25` is no address"),
            ("domains = [\"x.example\"]\n[listen]\nsubmission = [\"[::]:587\"]", "p.toml: tls: must be given"),
            ("domains = [\"x.example\"]\n[tls]\nkey = \"/k\"", "p.toml: tls.certificate: must be given"),
            ("domains = [\"x.example\"]\n[senders]\n\"a\" = [\"b\"]", "p.toml:3: senders.\"a\": `b` is none of"),
            ("domains = [\"x.example\"]\n[listen]\nlocal = [\"run/x\"]", "p.toml:3: listen.local: `run/x` is no absolute path"),
            (
                "domains = [\"x.example\"]\n[listen]\nlocal = [{ path = \"/x\", mode = \"rw\" }]",
                "p.toml:3: listen.local: `rw` is no mode such as",
            ),
            (
                "domains = [\"x.example\"]\n[listen]\nlocal = [{ path = \"/x\", owner = \"a\" }]",
                "p.toml:3: listen.local.owner: unknown key; there are group, login, mode, path",
            ),
            ("domains = [\"x.example\"]\n[listen]\nlocal = [\"/x\", \"/x\"]", "p.toml:3: listen.local: `/x` is listed already"),
            ("domains = [\"x.example\"]\n[unix_users]\nroot = 0", "p.toml:3: unix_users.\"root\": must be a string"),
            ("domains = [\"x.example\"]\n[sending_limits]\n\"*\" = 5", "p.toml:3: sending_limits.\"*\": must be {"),
            (
                "domains = [\"x.example\"]\n[sending_limits]\n\"*\" = { messages = [\"5/w\"] }",
                "p.toml:3: sending_limits.\"*\".messages: `5/w` is no limit such as",
            ),
            (
                "domains = [\"x.example\"]\n[sending_limits]\na = { messages = [\"5/h\", \"6/h\"] }",
                "p.toml:3: sending_limits.\"a\".messages: `6/h`: there is a limit for that time already",
            ),
            (
                "domains = [\"x.example\"]\n[sending_limits]\na = { mesages = [\"5/h\"] }",
                "p.toml:3: sending_limits.\"a\".mesages: unknown key",
            ),
            ("domains = [\"x.example\"]\nusers = \"users\"", "p.toml:2: users: must be an absolute path"),
            ("domains = [\"x.example\"]\nmaildir = \"/m/{usr}\"", "p.toml:2: maildir: must be an absolute path with"),
            ("domains = [\"x.example\"]\nmaildir = \"/m\"", "p.toml:2: maildir: must have {user}"),
            ("domains = [\"x.example\"\n", "p.toml:1: not valid TOML"),
            ("domains = [\"x.example\"]\nlisten = 1", "p.toml:2: listen: must be a section"),
        ];
        for (text, want) in rows {
            let problems = parse(text).unwrap_err();
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].starts_with(want), "{text}: {problems:?}");
        }
        let many = parse("x = 1\ny = 2\n[limits]\nz = 3\nworkers = \"many\"").unwrap_err();
        assert_eq!(many.len(), 5, "all at once: {many:?}");
    }

    #[test]
    fn a_template_puts_in_each_part_once() {
        let template = Template("/m/{domain}/{user}/Maildir".into());
        assert_eq!(template.of("{domain}@x.example"), PathBuf::from("/m/x.example/{domain}/Maildir"));
        assert_eq!(template.root(), PathBuf::from("/m"));
        assert_eq!(Template("/{user}".into()).root(), PathBuf::from("/"));
        assert_eq!(Template("/var/m-{user}".into()).root(), PathBuf::from("/var"));
    }
}
