//! The walk through `[outgoing]` and the sections within it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::{Reader, Value, parse_seconds, parse_size, split_unit};
use crate::config::outgoing::{
    AfterCrash, DkimMode, MX_CONNECTIONS, MxRoute, NextHop, Outgoing, ROUTE_CONNECTIONS, Rate, Route, RouteUrl, TlsMin,
};
use crate::smtp::address::{self, Address, Domain, is_mail_domain};

/// A table and the section that it is, with a final dot.
#[derive(Clone, Copy)]
struct Section<'t> {
    table: &'t DeTable<'t>,
    name: &'t str,
}

/// A number's range, how it is written, and the words for a number that is not.
struct Form {
    range: RangeInclusive<u64>,
    parse: fn(&str) -> Option<u64>,
    words: &'static str,
}

const COUNT: fn(&str) -> Option<u64> = |text| text.parse().ok();
const MONTH: u64 = 30 * 24 * 60 * 60;

const CONNECTIONS: Form = Form { range: 1..=1000, parse: COUNT, words: "a whole number from 1 to 1000" };
const QUEUE_MAX: Form = Form { range: 1..=10_000_000, parse: COUNT, words: "a whole number from 1 to 10000000" };
const PORT: Form = Form { range: 1..=65535, parse: COUNT, words: "a port, from 1 to 65535" };
const SIZE: Form = Form { range: 64 << 10..=1 << 40, parse: parse_size, words: "a size from \"64K\" to \"1024G\"" };
const TIME: Form =
    Form { range: 1..=MONTH, parse: parse_long, words: "a time such as \"4h\" or \"5d\", from 1 second to 30 days" };

impl Reader<'_> {
    /// Reads `[outgoing]`, with defaults in place of what is wrong.
    pub(super) fn outgoing(&mut self, table: &DeTable<'_>) -> Outgoing {
        let section = Section { table, name: "outgoing." };
        self.known(table, "outgoing.", |key| !key.contains('.'));
        let (routes, mx) = self.routes(section);
        let via = match table.get("via") {
            Some(value) => self.hop(value, "outgoing.via", &routes, false),
            None => {
                let names: Vec<&str> = routes.keys().map(String::as_str).collect();
                let cure = match &names[..] {
                    [] => "a section [outgoing.routes.NAME] and via = \"NAME\"".to_owned(),
                    names => format!("via = {:?}", names.join("\" or \"")),
                };
                self.missing("outgoing.via", &format!("must be given: the route that mail takes; write {cure}"));
                None
            }
        };
        let from = self.map(section, "from", &routes, sender_key, "a sender's address or domain");
        let to = self.map(section, "to", &routes, recipient_key, "a recipient's domain, or *.domain for all below one");
        self.then_loops(section, &routes);
        Outgoing {
            via: via.unwrap_or(NextHop::Mx),
            spool: self.path_of(table, section.name, "spool").unwrap_or_else(|| "/var/spool/pillarbox".into()),
            postmaster: self.postmaster(section),
            connections: self.number_of(section, "connections", &CONNECTIONS).map_or(20, |n| n as usize),
            queue_max: self.number_of(section, "queue_max", &QUEUE_MAX).unwrap_or(100_000),
            warn: self.number_of(section, "warn", &TIME).map_or(Duration::from_secs(4 * 3600), Duration::from_secs),
            give_up: self.number_of(section, "give_up", &TIME).map_or(Duration::from_secs(5 * 24 * 3600), Duration::from_secs),
            after_crash: self
                .word(section, "after_crash", &[("resend", AfterCrash::Resend), ("hold", AfterCrash::Hold)])
                .unwrap_or_default(),
            resolver: self.resolver(section),
            mx_port: self.number_of(section, "mx_port", &PORT).and_then(|port| u16::try_from(port).ok()).unwrap_or(25),
            routes,
            mx,
            from,
            to,
        }
    }

    /// An address, whose port is 53 unless it says another.
    fn resolver(&mut self, section: Section<'_>) -> Option<SocketAddr> {
        let value = section.table.get("resolver")?;
        let text = self.string(value, "outgoing.resolver")?;
        let bare = || Some(SocketAddr::new(text.trim_matches(['[', ']']).parse().ok()?, 53));
        let address = text.parse().ok().or_else(bare).filter(|address: &SocketAddr| address.port() != 0);
        if address.is_none() {
            let text = format!("`{text}` is no address of a name server, such as \"127.0.0.1:53\"");
            self.problem(&value.span(), "outgoing.resolver", text);
        }
        address
    }

    fn postmaster(&mut self, section: Section<'_>) -> Option<Address> {
        let value = section.table.get("postmaster")?;
        let text = self.string(value, "outgoing.postmaster")?;
        let address = Address::parse(&text).ok();
        let address = address.filter(|address| matches!(address.domain(), Domain::Name(name) if is_mail_domain(name)));
        if address.is_none() {
            let text = format!("`{text}` is no address that mail can be sent to; write one such as \"me@elsewhere.example\"");
            self.problem(&value.span(), "outgoing.postmaster", text);
        }
        address
    }

    fn routes(&mut self, section: Section<'_>) -> (BTreeMap<String, Route>, Option<MxRoute>) {
        let (mut routes, mut mx) = (BTreeMap::new(), None);
        let Some(value) = section.table.get("routes") else { return (routes, mx) };
        let Some(tables) = value.get_ref().as_table() else {
            self.problem(&value.span(), "outgoing.routes", "must be sections: write [outgoing.routes.NAME]");
            return (routes, mx);
        };
        for (name, value) in tables {
            let (span, name) = (name.span(), name.get_ref().as_ref());
            let key = format!("outgoing.routes.{name}");
            let Some(table) = value.get_ref().as_table() else {
                self.problem(&value.span(), &key, format!("must be a section: write [{key}]"));
                continue;
            };
            let prefix = format!("{key}.");
            let section = Section { table, name: &prefix };
            match name {
                "mx" => mx = Some(self.mx_route(section)),
                "refuse" => self.problem(&span, &key, "`refuse` is a word of its own; give the route another name"),
                _ if name.is_empty() || name.len() > 32 || !name.bytes().all(is_name_octet) => {
                    self.problem(&span, &key, "a route's name is 1 to 32 letters, digits, hyphens and underscores; rename it");
                }
                _ => drop(self.route(section, &span).map(|route| routes.insert(name.to_owned(), route))),
            }
        }
        (routes, mx)
    }

    fn mx_route(&mut self, section: Section<'_>) -> MxRoute {
        const KEYS: [&str; 4] = ["connections", "helo", "source", "dkim"];
        self.known_as(section.table, ROUTE_KEYS, section.name, |key| KEYS.contains(&key));
        MxRoute {
            connections: self.number_of(section, "connections", &CONNECTIONS).map_or(MX_CONNECTIONS, |n| n as usize),
            helo: self.helo(section),
            source: self.source(section),
            dkim: self.dkim_mode(section),
        }
    }

    /// A route whose `url` is missing or wrong is none, and the problem is noted.
    fn route(&mut self, section: Section<'_>, span: &Range<usize>) -> Option<Route> {
        let key = |name: &str| format!("{}{name}", section.name);
        let table = section.table;
        self.known_as(table, ROUTE_KEYS, section.name, |_| true);
        let url = match table.get("url") {
            Some(value) => self
                .string(value, &key("url"))
                .and_then(|text| RouteUrl::parse(&text).map_err(|why| self.problem(&value.span(), &key("url"), why)).ok()),
            None => {
                self.problem(span, &key("url"), "must be given, such as url = \"smtps://smtp.relay.example\"");
                None
            }
        };
        let login = table.get("login").and_then(|value| self.string(value, &key("login")).map(|text| (value, text)));
        if let Some((value, _)) = login.as_ref().filter(|(_, text)| text.is_empty() || text.contains(char::is_control)) {
            self.problem(&value.span(), &key("login"), "must be the name that the provider knows you by");
        }
        let password_file = self.path_of(table, section.name, "password_file");
        match (&login, table.get("password_file")) {
            (Some((value, _)), None) => {
                let text =
                    "needs a password: add password_file = \"/etc/pillarbox/NAME.password\", with the password as its line";
                self.problem(&value.span(), &key("login"), text);
            }
            (None, Some(value)) if table.get("login").is_none() => {
                self.problem(&value.span(), &key("password_file"), "needs a name: add login = \"…\", or remove it");
            }
            _ => {}
        }
        let then = table.get("then").and_then(|value| self.string(value, &key("then")));
        let route = Route {
            url: url.clone().unwrap_or(RouteUrl { implicit_tls: true, host: String::new(), port: 465 }),
            login: login.map(|(_, text)| text),
            password_file,
            connections: self.number_of(section, "connections", &CONNECTIONS).map_or(ROUTE_CONNECTIONS, |n| n as usize),
            rate: self.rate(section),
            message_size: self.number_of(section, "message_size", &SIZE),
            helo: self.helo(section),
            source: self.source(section),
            ca: self.path_of(table, section.name, "ca"),
            tls_min: self.word(section, "tls_min", &[("1.2", TlsMin::V12), ("1.3", TlsMin::V13)]).unwrap_or_default(),
            dkim: self.dkim_mode(section),
            then: then.map(|name| if name == "mx" { NextHop::Mx } else { NextHop::Route(name) }),
        };
        url.map(|_| route)
    }

    fn rate(&mut self, section: Section<'_>) -> Option<Rate> {
        let value = section.table.get("rate")?;
        let key = format!("{}rate", section.name);
        let text = self.string(value, &key)?;
        let rate = text.split_once('/').and_then(|(count, unit)| {
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                "d" => 24 * 3600,
                _ => return None,
            };
            let count = count.parse().ok().filter(|count| (1..=1_000_000).contains(count))?;
            Some(Rate { count, per: Duration::from_secs(seconds) })
        });
        if rate.is_none() {
            self.problem(&value.span(), &key, "must be a rate such as \"10/s\" or \"500/h\", from 1 to 1000000 in s, m, h or d");
        }
        rate
    }

    fn helo(&mut self, section: Section<'_>) -> Option<String> {
        let value = section.table.get("helo")?;
        let key = format!("{}helo", section.name);
        let name = self.string(value, &key)?;
        if address::is_domain(&name, false) || address::is_literal(&name) {
            return Some(name);
        }
        self.problem(&value.span(), &key, "must be a host name, or an address in brackets");
        None
    }

    fn source(&mut self, section: Section<'_>) -> Vec<IpAddr> {
        let Some(value) = section.table.get("source") else { return Vec::new() };
        let key = format!("{}source", section.name);
        let mut source = Vec::new();
        for (span, text) in self.strings(value, &key) {
            match text.parse() {
                Ok(address) => source.push(address),
                Err(_) => self.problem(&span, &key, format!("`{text}` is no IPv4 or IPv6 address; write it without a port")),
            }
        }
        source
    }

    fn dkim_mode(&mut self, section: Section<'_>) -> DkimMode {
        let words = [("all", DkimMode::All), ("without-id", DkimMode::WithoutId), ("off", DkimMode::Off)];
        self.word(section, "dkim", &words).unwrap_or_default()
    }

    /// `[outgoing.from]` or `[outgoing.to]`.
    fn map(
        &mut self,
        section: Section<'_>,
        name: &str,
        routes: &BTreeMap<String, Route>,
        read: fn(&str) -> Option<String>,
        words: &str,
    ) -> BTreeMap<String, NextHop> {
        let mut map = BTreeMap::new();
        let Some(value) = section.table.get(name) else { return map };
        let Some(table) = value.get_ref().as_table() else {
            self.problem(&value.span(), &format!("outgoing.{name}"), format!("must be a section: write [outgoing.{name}]"));
            return map;
        };
        for (entry, value) in table {
            let text = entry.get_ref().as_ref();
            let key = format!("outgoing.{name}.{text:?}");
            let hop = self.hop(value, &key, routes, true);
            match read(text) {
                None => self.problem(&entry.span(), &key, format!("`{text}` is not {words}")),
                Some(known) if map.contains_key(&known) => {
                    self.problem(&entry.span(), &key, format!("`{known}` is there already; remove one"));
                }
                Some(known) => drop(hop.map(|hop| map.insert(known, hop))),
            }
        }
        map
    }

    /// The name of a route, `mx`, or `refuse` where that is an answer.
    fn hop(&mut self, value: &Value<'_>, key: &str, routes: &BTreeMap<String, Route>, refuse: bool) -> Option<NextHop> {
        let text = self.string(value, key)?;
        match text.as_str() {
            "mx" => return Some(NextHop::Mx),
            "refuse" if refuse => return Some(NextHop::Refuse),
            _ if routes.contains_key(&text) => return Some(NextHop::Route(text)),
            _ => {}
        }
        // A route that is there and wrong has its own line among the problems.
        let route = format!("outgoing.routes.{text}");
        let of_it = |key: &str| key.strip_prefix(&route).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if self.problems.iter().any(|problem| of_it(&problem.key)) {
            return None;
        }
        let mut names: Vec<&str> = routes.keys().map(String::as_str).chain(["mx"]).collect();
        names.extend(refuse.then_some("refuse"));
        let names = names.join(", ");
        self.problem(&value.span(), key, format!("no route `{text}`; add [outgoing.routes.{text}], or write one of: {names}"));
        None
    }

    /// `then` names another route, and following it ends.
    fn then_loops(&mut self, section: Section<'_>, routes: &BTreeMap<String, Route>) {
        let tables = section.table.get("routes").and_then(|value| value.get_ref().as_table());
        for name in routes.keys() {
            let value = tables.and_then(|tables| tables.get(name.as_str())?.get_ref().as_table()?.get("then"));
            let Some(value) = value else { continue };
            let key = format!("outgoing.routes.{name}.then");
            let mut way = vec![name.as_str()];
            let mut at = name;
            while let Some(NextHop::Route(next)) = routes.get(at).and_then(|route| route.then.as_ref()) {
                if next == name {
                    // Each loop is named once, at the first of its routes.
                    if way.iter().all(|other| *other >= name.as_str()) {
                        way.push(name);
                        let text = format!("leads back to itself ({}); remove one of these `then`", way.join(", "));
                        self.problem(&value.span(), &key, text);
                    }
                    break;
                }
                if way.contains(&next.as_str()) {
                    break;
                }
                way.push(next);
                at = next;
            }
            self.hop(value, &key, routes, false);
        }
    }

    fn number_of(&mut self, section: Section<'_>, key: &str, form: &Form) -> Option<u64> {
        let value = section.table.get(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(integer) if integer.radix() == 10 => integer.as_str().to_owned(),
            _ => String::new(),
        };
        let number = (form.parse)(&text).filter(|number| form.range.contains(number));
        if number.is_none() {
            self.problem(&value.span(), &format!("{}{key}", section.name), format!("must be {}", form.words));
        }
        number
    }

    fn word<T: Copy>(&mut self, section: Section<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let value = section.table.get(key)?;
        let full = format!("{}{key}", section.name);
        let text = self.string(value, &full)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let list: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.problem(&value.span(), &full, format!("must be {}", list.join(" or ")));
        }
        found
    }
}

/// The keys of a route as the table of keys names them.
const ROUTE_KEYS: &str = "outgoing.routes.NAME.";

fn is_name_octet(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')
}

fn sender_key(text: &str) -> Option<String> {
    if text.contains('@') {
        return Some(Address::parse(text).ok()?.key());
    }
    address::is_domain(text, true).then(|| text.to_lowercase())
}

fn recipient_key(text: &str) -> Option<String> {
    let domain = text.strip_prefix("*.").unwrap_or(text);
    address::is_domain(domain, true).then(|| text.to_lowercase())
}

/// Seconds as elsewhere, and days.
fn parse_long(text: &str) -> Option<u64> {
    match split_unit(text)? {
        (days, "d") => days.checked_mul(24 * 3600),
        _ => parse_seconds(text),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const HEAD: &str = "domains = [\"x.example\"]\n[outgoing]\n";
    const ROUTE: &str = "[outgoing.routes.a]\nurl = \"smtps://relay.example\"\n";

    fn parse(text: &str) -> Result<Outgoing, Vec<String>> {
        let host = || Some("own.example.org".to_owned());
        match Config::parse(&format!("{HEAD}{text}"), Path::new("p.toml"), host) {
            Ok(config) => Ok(config.outgoing.unwrap()),
            Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn little_is_needed() {
        let outgoing = parse(&format!("via = \"a\"\n{ROUTE}")).unwrap();
        assert_eq!(outgoing.via, NextHop::Route("a".into()));
        assert_eq!((outgoing.connections, outgoing.queue_max), (20, 100_000));
        assert_eq!((outgoing.warn.as_secs(), outgoing.give_up.as_secs()), (14_400, 432_000));
        assert_eq!(outgoing.spool, Path::new("/var/spool/pillarbox"));
        assert_eq!(outgoing.after_crash, AfterCrash::Resend);
        let route = &outgoing.routes["a"];
        assert_eq!((route.connections, route.rate, route.message_size), (4, None, None));
        assert_eq!((route.tls_min, route.dkim), (TlsMin::V12, DkimMode::All));
        assert!(outgoing.mx.is_none() && outgoing.postmaster.is_none());
    }

    #[test]
    fn everything_can_be_said() {
        let outgoing = parse(
            "via = \"a\"\nspool = \"/s\"\npostmaster = \"Me@elsewhere.example\"\nconnections = 3\nqueue_max = 9\nwarn = \"90s\"\n\
             give_up = \"3d\"\nafter_crash = \"hold\"\n\
             [outgoing.routes.a]\nurl = \"submission://relay.example:2587\"\nlogin = \"l\"\npassword_file = \"/p\"\nconnections = 1\n\
             rate = \"500/h\"\nmessage_size = \"10M\"\nhelo = \"h.example\"\nsource = [\"192.0.2.7\", \"2001:db8::7\"]\nca = \"/ca\"\n\
             tls_min = \"1.3\"\ndkim = \"off\"\nthen = \"b\"\n\
             [outgoing.routes.b]\nurl = \"smtps://b.example\"\nthen = \"mx\"\n\
             [outgoing.from]\n\"Shop.example\" = \"b\"\n\"A@b.example\" = \"refuse\"\n\
             [outgoing.to]\n\"*.Partner.example\" = \"b\"\n",
        )
        .unwrap();
        assert_eq!(outgoing.postmaster.as_ref().unwrap().to_string(), "Me@elsewhere.example");
        assert_eq!((outgoing.warn.as_secs(), outgoing.give_up.as_secs()), (90, 3 * 86_400));
        assert_eq!(outgoing.after_crash, AfterCrash::Hold);
        let route = &outgoing.routes["a"];
        assert_eq!(route.url.to_string(), "submission://relay.example:2587");
        assert_eq!(route.rate, Some(Rate { count: 500, per: Duration::from_secs(3600) }));
        assert_eq!((route.message_size, route.source.len(), route.tls_min), (Some(10 << 20), 2, TlsMin::V13));
        assert_eq!((route.dkim, route.then.as_ref()), (DkimMode::Off, Some(&NextHop::Route("b".into()))));
        assert!(outgoing.routes["b"].then == Some(NextHop::Mx) && outgoing.uses_mx());
        assert_eq!(outgoing.from["shop.example"], NextHop::Route("b".into()));
        assert_eq!(outgoing.from["a@b.example"], NextHop::Refuse);
        assert_eq!(outgoing.to["*.partner.example"], NextHop::Route("b".into()));
    }

    /// Line 1 is `domains`, line 2 `[outgoing]`.
    #[test]
    fn every_problem_has_line_key_and_cure() {
        let with_route = |rest: &str| format!("via = \"a\"\n{ROUTE}{rest}");
        let top = |line: &str| format!("via = \"a\"\n{line}\n{ROUTE}");
        let rows = [
            ("".into(), "p.toml: outgoing.via: must be given: the route that mail takes; write a section"),
            (ROUTE.into(), "p.toml: outgoing.via: must be given: the route that mail takes; write via = \"a\""),
            (
                format!("via = \"b\"\n{ROUTE}"),
                "p.toml:3: outgoing.via: no route `b`; add [outgoing.routes.b], or write one of: a, mx",
            ),
            (format!("via = \"refuse\"\n{ROUTE}"), "p.toml:3: outgoing.via: no route `refuse`"),
            (format!("via = 1\n{ROUTE}"), "p.toml:3: outgoing.via: must be a string"),
            (top("spool = \"s\""), "p.toml:4: outgoing.spool: must be an absolute path"),
            (top("resolver = \"ns\""), "p.toml:4: outgoing.resolver: `ns` is no address of a name server"),
            (top("resolver = \"127.0.0.1:0\""), "p.toml:4: outgoing.resolver: `127.0.0.1:0` is no address of a name server"),
            (top("postmaster = \"me\""), "p.toml:4: outgoing.postmaster: `me` is no address"),
            (top("postmaster = \"me@[192.0.2.1]\""), "p.toml:4: outgoing.postmaster: `me@[192.0.2.1]` is no address"),
            (top("connections = 0"), "p.toml:4: outgoing.connections: must be a whole number from 1 to 1000"),
            (top("queue_max = \"x\""), "p.toml:4: outgoing.queue_max: must be a whole number"),
            (top("warn = \"4 hours\""), "p.toml:4: outgoing.warn: must be a time such as"),
            (top("give_up = \"31d\""), "p.toml:4: outgoing.give_up: must be a time such as"),
            (top("after_crash = \"drop\""), "p.toml:4: outgoing.after_crash: must be \"resend\" or \"hold\""),
            (top("spol = \"/s\""), "p.toml:4: outgoing.spol: unknown key; the nearest known is `outgoing.spool`"),
            ("via = \"mx\"\nroutes = 1".into(), "p.toml:4: outgoing.routes: must be sections"),
            (with_route("usr = 1"), "p.toml:6: outgoing.routes.a.usr: unknown key; the nearest known is `outgoing.routes.a.url`"),
            (with_route("login = \"l\""), "p.toml:6: outgoing.routes.a.login: needs a password: add password_file"),
            (with_route("login = \"\"\npassword_file = \"/p\""), "p.toml:6: outgoing.routes.a.login: must be the name"),
            (with_route("password_file = \"/p\""), "p.toml:6: outgoing.routes.a.password_file: needs a name"),
            (
                with_route("login = \"l\"\npassword_file = \"p\""),
                "p.toml:7: outgoing.routes.a.password_file: must be an absolute path",
            ),
            (with_route("connections = \"x\""), "p.toml:6: outgoing.routes.a.connections: must be"),
            (with_route("rate = \"10\""), "p.toml:6: outgoing.routes.a.rate: must be a rate such as"),
            (with_route("rate = \"0/s\""), "p.toml:6: outgoing.routes.a.rate: must be a rate such as"),
            (with_route("message_size = \"1K\""), "p.toml:6: outgoing.routes.a.message_size: must be a size"),
            (with_route("helo = \"a b\""), "p.toml:6: outgoing.routes.a.helo: must be a host name"),
            (with_route("source = [\"192.0.2.1:25\"]"), "p.toml:6: outgoing.routes.a.source: `192.0.2.1:25` is no IPv4"),
            (with_route("ca = \"ca\""), "p.toml:6: outgoing.routes.a.ca: must be an absolute path"),
            (with_route("tls_min = \"1.1\""), "p.toml:6: outgoing.routes.a.tls_min: must be \"1.2\" or \"1.3\""),
            (with_route("dkim = \"no\""), "p.toml:6: outgoing.routes.a.dkim: must be"),
            (with_route("then = \"b\""), "p.toml:6: outgoing.routes.a.then: no route `b`"),
            (with_route("then = \"refuse\""), "p.toml:6: outgoing.routes.a.then: no route `refuse`"),
            (with_route("then = \"a\""), "p.toml:6: outgoing.routes.a.then: leads back to itself (a, a)"),
            (
                with_route("then = \"b\"\n[outgoing.routes.b]\nurl = \"smtps://b.example\"\nthen = \"a\"\n"),
                "p.toml:6: outgoing.routes.a.then: leads back to itself (a, b, a)",
            ),
            (
                format!("via = \"a\"\n{}", ROUTE.replace("smtps", "http")),
                "p.toml:5: outgoing.routes.a.url: `http://` is not how mail is handed in; write",
            ),
            (
                format!("via = \"a\"\n{}", ROUTE.replace("smtps", "smtp")),
                "p.toml:5: outgoing.routes.a.url: `smtp://` does not say",
            ),
            ("via = \"a\"\n[outgoing.routes.a]\n".into(), "p.toml:4: outgoing.routes.a.url: must be given"),
            (with_route("[outgoing.routes.\"b c\"]\n"), "p.toml:6: outgoing.routes.b c: a route's name"),
            (with_route("[outgoing.routes.refuse]\n"), "p.toml:6: outgoing.routes.refuse: `refuse` is a word"),
            (with_route("[outgoing.routes.mx]\nlogin = \"x\""), "p.toml:7: outgoing.routes.mx.login: unknown key"),
            (with_route("[outgoing.from]\n\"a b\" = \"a\""), "p.toml:7: outgoing.from.\"a b\": `a b` is not a sender's address"),
            (with_route("[outgoing.from]\n\"a.example\" = \"b\""), "p.toml:7: outgoing.from.\"a.example\": no route `b`"),
            (with_route("[outgoing.to]\n\"x@a.example\" = \"a\""), "p.toml:7: outgoing.to.\"x@a.example\": `x@a.example` is not"),
            (with_route("[outgoing.to]\n\"A.b\" = \"a\"\n\"a.b\" = \"a\""), "p.toml:"),
        ];
        for (text, want) in rows {
            let problems = parse(&text).unwrap_err();
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].starts_with(want), "{text}: {problems:?}");
        }
    }
}
