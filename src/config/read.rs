//! Walks through the parsed pillarbox.toml: reads each key, and remembers each problem with its line.

mod dkim;
mod local;
mod outgoing;
mod sending;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, KEYS, Limits, Problem, Template, TlsFiles};
use crate::policy::Grant;
use crate::smtp::address;
use crate::smtp::session::Service;

const SECOND: u64 = 1;
const DAY: u64 = 24 * 60 * 60;

/// Walks through the parsed file and remembers what is wrong.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
    pub(super) problems: Vec<Problem>,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    /// Reads everything, with defaults in place of what is wrong.
    pub(super) fn config(&mut self, table: &DeTable<'_>, host: impl FnOnce() -> Option<String>) -> Config {
        self.known(table, "", |key| !key.contains('.') || key == "senders");
        let own_name = host().filter(|name| address::is_domain(name, false));
        let hostname = match table.get("hostname") {
            Some(value) => self.hostname(value),
            None => own_name.clone().or_else(|| {
                self.missing("hostname", "the host's own name is no host name; give one, such as \"mail.example.org\"");
                None
            }),
        };
        let domains = match table.get("domains") {
            Some(value) => self.domains(value),
            None => {
                self.missing("domains", "must be given: the domains whose mail is delivered here, such as [\"example.org\"]");
                None
            }
        };
        let user = self.text_or(table, "", "user", "pillarbox");
        let users = self.path_of(table, "", "users").unwrap_or_else(|| PathBuf::from("/etc/pillarbox/users"));
        let aliases = self.path_of(table, "", "aliases");
        let maildir = self.maildir(table);
        let state = self.path_of(table, "", "state").unwrap_or_else(|| PathBuf::from("/var/lib/pillarbox"));
        let listen = self.section(table, "listen").map(|section| self.listen(section)).unwrap_or_default();
        let local = table.get("listen").and_then(|section| section.get_ref().as_table()?.get(Service::Local.name()));
        let local = local.map(|value| self.local_sockets(value)).unwrap_or_default();
        let unix_users = self.section(table, "unix_users").map(|section| self.unix_users(section)).unwrap_or_default();
        let tls = self.section(table, "tls").and_then(|section| self.tls(section));
        let needs_tls = listen.iter().any(|(_, service)| service.needs_auth());
        if needs_tls && table.get("tls").is_none() {
            self.missing("tls", "must be given where submission or submissions is listened on: certificate = … and key = …");
        }
        let limits = self.section(table, "limits").map(|section| self.limits(section)).unwrap_or_default();
        let senders = self.section(table, "senders").map(|section| self.senders(section)).unwrap_or_default();
        let sending_limits =
            self.section(table, "sending_limits").map(|section| self.sending_limits(section)).unwrap_or_default();
        let outgoing = self.section(table, "outgoing").map(|section| self.outgoing(section));
        let dkim = self.section(table, "dkim").map(|section| self.dkim(section)).unwrap_or_default();
        let hostname = hostname.unwrap_or_else(|| "localhost".to_owned());
        let domains = domains.unwrap_or_default();
        let own_name = own_name.filter(|name| *name != hostname);
        Config {
            hostname,
            own_name,
            domains,
            user,
            users,
            aliases,
            maildir,
            state,
            listen,
            local,
            unix_users,
            tls,
            limits,
            senders,
            sending_limits,
            outgoing,
            dkim,
        }
    }

    /// The line that a span begins in, from 1.
    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let end = span.start.min(self.text.len());
        self.text.as_bytes()[..end].iter().filter(|b| **b == b'\n').count() + 1
    }

    fn problem(&mut self, span: &Range<usize>, key: &str, text: impl Into<String>) {
        let line = self.line(span);
        self.problems.push(Problem { file: self.path.to_owned(), line, key: key.to_owned(), text: text.into() });
    }

    fn missing(&mut self, key: &str, text: &str) {
        self.problems.push(Problem { file: self.path.to_owned(), line: 0, key: key.to_owned(), text: text.to_owned() });
    }

    /// Complains about keys of a table that are not known; `section` ends in a dot if it is not empty.
    fn known(&mut self, table: &DeTable<'_>, section: &str, belongs: impl Fn(&str) -> bool) {
        self.known_as(table, section, section, belongs);
    }

    /// The same for a section that the table of keys has under another name.
    fn known_as(&mut self, table: &DeTable<'_>, prefix: &str, section: &str, belongs: impl Fn(&str) -> bool) {
        let mut known: Vec<&str> =
            KEYS.iter().filter_map(|(key, _)| key.strip_prefix(prefix)).filter(|key| belongs(key)).collect();
        if section.is_empty() {
            known.push("senders");
        }
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            // A key of another section, or one that is taken for a section, is most likely what is meant.
            let elsewhere = KEYS.iter().map(|(key, _)| *key).find(|key| key.rsplit('.').next() == Some(name));
            let nearest = || known.iter().min_by_key(|candidate| strsim::damerau_levenshtein(name, candidate)).unwrap_or(&"");
            let nearest = elsewhere.map_or_else(|| format!("{section}{}", nearest()), str::to_owned);
            self.problem(&key.span(), &format!("{section}{name}"), format!("unknown key; the nearest known is `{nearest}`"));
        }
    }

    fn section<'t>(&mut self, table: &'t DeTable<'_>, name: &str) -> Option<&'t DeTable<'t>> {
        let value = table.get(name)?;
        let section = value.get_ref().as_table();
        if section.is_none() {
            self.problem(&value.span(), name, format!("must be a section: write [{name}]"));
        }
        section
    }

    fn string(&mut self, value: &Value<'_>, key: &str) -> Option<String> {
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            self.problem(&value.span(), key, "must be a string in quotes");
        }
        text
    }

    fn strings(&mut self, value: &Value<'_>, key: &str) -> Vec<(Range<usize>, String)> {
        let Some(list) = value.get_ref().as_array() else {
            self.problem(&value.span(), key, "must be a list of strings in brackets");
            return Vec::new();
        };
        list.iter().filter_map(|value| self.string(value, key).map(|text| (value.span(), text))).collect()
    }

    fn text_or(&mut self, table: &DeTable<'_>, section: &str, key: &str, default: &str) -> String {
        match table.get(key) {
            Some(value) => self.string(value, &format!("{section}{key}")).unwrap_or_default(),
            None => default.to_owned(),
        }
    }

    fn hostname(&mut self, value: &Value<'_>) -> Option<String> {
        let name = self.string(value, "hostname")?;
        if address::is_domain(&name, false) {
            return Some(name.to_ascii_lowercase());
        }
        self.problem(&value.span(), "hostname", "must be a host name, such as \"mail.example.org\"");
        None
    }

    fn domains(&mut self, value: &Value<'_>) -> Option<Vec<String>> {
        let mut domains = Vec::new();
        for (span, name) in self.strings(value, "domains") {
            if address::is_domain(&name, true) && !name.contains('/') {
                domains.push(name.to_lowercase());
            } else {
                self.problem(&span, "domains", format!("`{name}` is no domain name; write it without @ or dots at its ends"));
            }
        }
        if domains.is_empty() && value.get_ref().as_array().is_some_and(|list| list.is_empty()) {
            self.problem(&value.span(), "domains", "must name one domain at least");
        }
        Some(domains)
    }

    fn path_of(&mut self, table: &DeTable<'_>, section: &str, key: &str) -> Option<PathBuf> {
        let value = table.get(key)?;
        let full = format!("{section}{key}");
        let text = self.string(value, &full)?;
        if !text.starts_with('/') {
            self.problem(&value.span(), &full, "must be an absolute path");
        }
        Some(PathBuf::from(text))
    }

    fn maildir(&mut self, table: &DeTable<'_>) -> Template {
        let default = Template("/var/mail/pillarbox/{domain}/{user}".to_owned());
        let Some(value) = table.get("maildir") else { return default };
        let Some(text) = self.string(value, "maildir") else { return default };
        let bare = text.replace("{user}", "").replace("{domain}", "");
        if !text.starts_with('/') || bare.contains(['{', '}']) || text.split('/').any(|part| part == "..") {
            self.problem(
                &value.span(),
                "maildir",
                "must be an absolute path with {domain} and {user} in it and nothing else in braces",
            );
        } else if !text.contains("{user}") {
            self.problem(&value.span(), "maildir", "must have {user} in it, or all mailboxes are one");
        }
        Template(text)
    }

    fn listen(&mut self, section: &DeTable<'_>) -> Vec<(SocketAddr, Service)> {
        self.known(section, "listen.", |_| true);
        let mut listen: Vec<(SocketAddr, Service)> = Vec::new();
        for service in Service::ALL.into_iter().filter(|service| *service != Service::Local) {
            let Some(value) = section.get(service.name()) else { continue };
            let key = format!("listen.{}", service.name());
            for (span, text) in self.strings(value, &key) {
                match text.parse::<SocketAddr>() {
                    Ok(address) if listen.iter().any(|(known, _)| *known == address) => {
                        self.problem(&span, &key, format!("`{text}` is listed already; one address has one role"));
                    }
                    Ok(address) => listen.push((address, service)),
                    Err(_) => self.problem(
                        &span,
                        &key,
                        format!("`{text}` is no address with a port, such as \"[::]:25\" or \"127.0.0.1:25\""),
                    ),
                }
            }
        }
        listen
    }

    fn tls(&mut self, section: &DeTable<'_>) -> Option<TlsFiles> {
        self.known(section, "tls.", |_| true);
        for key in ["certificate", "key"] {
            if section.get(key).is_none() {
                self.missing(&format!("tls.{key}"), "must be given in [tls]; certbot's are fullchain.pem and privkey.pem");
            }
        }
        let certificate = self.path_of(section, "tls.", "certificate");
        let key = self.path_of(section, "tls.", "key");
        Some(TlsFiles { certificate: certificate?, key: key? })
    }

    fn limits(&mut self, section: &DeTable<'_>) -> Limits {
        self.known(section, "limits.", |_| true);
        let mut limits = Limits::default();
        let mut number = |key: &str, least: u64, most: u64, put: &mut dyn FnMut(u64)| {
            if let Some(value) = section.get(key) {
                self.number(value, key, (least, most), &COUNT).into_iter().for_each(put);
            }
        };
        number("workers", 1, 10_000, &mut |n| limits.workers = n as usize);
        number("waiting", 0, 100_000, &mut |n| limits.waiting = n as usize);
        number("per_address", 1, 100_000, &mut |n| limits.per_address = n as usize);
        number("recipients", 100, 10_000, &mut |n| limits.recipients = n as usize);
        number("auth_failures", 1, 1000, &mut |n| limits.auth_failures = n as u32);
        number("errors", 1, 1000, &mut |n| limits.errors = n as u32);
        let mut size = |key: &str, least: u64, most: u64, put: &mut dyn FnMut(u64)| {
            if let Some(value) = section.get(key) {
                self.number(value, key, (least, most), &SIZE).into_iter().for_each(put);
            }
        };
        size("message_size", 64 << 10, 1 << 40, &mut |n| limits.message_size = n);
        size("data_rate", 1, 1 << 30, &mut |n| limits.data_rate = n);
        size("hash_memory", 1 << 20, 1 << 40, &mut |n| limits.hash_memory = n);
        let mut duration = |key: &str, put: &mut dyn FnMut(Duration)| {
            if let Some(value) = section.get(key) {
                self.number(value, key, (SECOND, DAY), &TIME).into_iter().map(Duration::from_secs).for_each(put);
            }
        };
        duration("idle", &mut |d| limits.idle = d);
        duration("login", &mut |d| limits.login = d);
        duration("session", &mut |d| limits.session = d);
        duration("drain", &mut |d| limits.drain = d);
        limits
    }

    fn number(&mut self, value: &Value<'_>, key: &str, (least, most): (u64, u64), kind: &Kind) -> Option<u64> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().to_owned(),
            _ => String::new(),
        };
        let number = (kind.parse)(&text).filter(|number| (least..=most).contains(number));
        if number.is_none() {
            let (least, most) = ((kind.show)(least), (kind.show)(most));
            let text = format!("must be {}, from {least} to {most}", kind.form);
            self.problem(&value.span(), &format!("limits.{key}"), text);
        }
        number
    }

    fn senders(&mut self, section: &DeTable<'_>) -> BTreeMap<String, Vec<Grant>> {
        let mut senders = BTreeMap::new();
        for (login, value) in section.iter() {
            let key = format!("senders.{:?}", login.get_ref().as_ref());
            let mut grants = Vec::new();
            for (span, text) in self.strings(value, &key) {
                match Grant::parse(&text) {
                    Some(grant) => grants.push(grant),
                    None => self.problem(&span, &key, format!("`{text}` is none of user@domain, *@domain and *")),
                }
            }
            senders.insert(login.get_ref().to_lowercase(), grants);
        }
        senders
    }
}

/// How a limit is written.
struct Kind {
    form: &'static str,
    parse: fn(&str) -> Option<u64>,
    show: fn(u64) -> String,
}

const COUNT: Kind = Kind { form: "a whole number", parse: |text| text.parse().ok(), show: |number| number.to_string() };
const SIZE: Kind = Kind { form: "a number of octets, or a size such as \"50M\"", parse: parse_size, show: show_size };
const TIME: Kind = Kind { form: "a time such as \"30s\", \"5m\" or \"1h\"", parse: parse_seconds, show: show_time };

/// A time in its largest unit; the ends of ranges are whole ones.
fn show_time(seconds: u64) -> String {
    let units = [(DAY, "day"), (3600, "hour"), (60, "minute"), (SECOND, "second")];
    let (length, unit) = units.into_iter().find(|(length, _)| seconds.is_multiple_of(*length)).unwrap_or((SECOND, "second"));
    let number = seconds / length;
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// A size with the largest unit that leaves it whole.
fn show_size(octets: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    let unit = units.into_iter().find(|(shift, _)| octets.is_multiple_of(1 << shift));
    unit.map_or_else(|| octets.to_string(), |(shift, unit)| format!("{}{unit}", octets >> shift))
}

/// `500`, `64K`, `50M`, `2G`: powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = split_unit(text)?;
    let shift = match unit {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return None,
    };
    digits.checked_mul(1 << shift)
}

/// `30`, `30s`, `5m`, `1h`: seconds.
fn parse_seconds(text: &str) -> Option<u64> {
    let (digits, unit) = split_unit(text)?;
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    digits.checked_mul(factor)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}
