//! What an operator finds out before mail by MX is returned: `check` reads a greeting, and asks DNS for what other servers
//! judge this host by.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::Ordering;

use pillarbox::mail::dkim::{Algorithm, SigningKey};

use super::*;
use common::network::ip;
use common::{finish, give_to_nobody, said};

/// Records of a host that mail can be sent from, the other machine's server, and a key.
struct World {
    names: NameServer,
    far: MailServer,
    pem: String,
    via: &'static str,
    more: String,
    resolver: String,
    domains: Vec<String>,
}

const PTR: &str = "1.113.0.203.in-addr.arpa";
const KEY: &str = "pb1._domainkey.example.org";
const DOMAIN: &str = "far.example";
/// The cure where no connection to port 25 comes about.
const BLOCKED: &str = "most likely the provider of this host blocks port 25; ask it to open it, or send by a smarthost";

impl World {
    /// All is well. The server is that of [`far`].
    fn new(far: &MailServer) -> Self {
        let (key, pem) = SigningKey::generate("example.org", "pb1", Algorithm::Ed25519).unwrap();
        let names = NameServer::start(vec![
            (DOMAIN, mx(&[(10, "mx.far.example")])),
            ("gmail.com", mx(&[(10, "mx.far.example")])),
            ("mx.far.example", hosts(vec![there(0)])),
            (PTR, hosts(vec![Record::Ptr("mx.example.org")])),
            ("mx.example.org", hosts(vec![Record::A(HERE.parse().unwrap())])),
            ("example.org", texts(&["v=spf1 mx -all", "v=spf10 is another version", "site-verification=x"])),
            (KEY, texts(&[&key.record()])),
        ]);
        let resolver = names.address.to_string();
        let (more, domains) = (by_mx(&[DOMAIN]), vec!["example.org".to_owned()]);
        Self { names, far: far.clone(), pem: pem.to_string(), via: "mx", more, resolver, domains }
    }

    /// All that `check` said, with this exit status.
    fn run(&self, args: &[&str], exit: i32) -> String {
        let dir = tempfile::tempdir().unwrap();
        let mut setup = setup(&self.names, &self.more);
        setup.outgoing = setup.outgoing.replace(&self.names.address.to_string(), &self.resolver);
        setup.outgoing = setup.outgoing.replace("via = \"mx\"", &format!("via = \"{}\"", self.via));
        setup.outgoing.push_str("[dkim]\n\"example.org\" = { selector = \"pb1\", key = \"{place}/pb1.pem\" }\n");
        setup.domains.clone_from(&self.domains);
        let config = setup.write(dir.path());
        let key = dir.path().join("pb1.pem");
        fs::write(&key, &self.pem).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        give_to_nobody(dir.path());
        let output = finish(Command::new(env!("CARGO_BIN_EXE_pillarbox")).arg("-c").arg(&config).arg("check").args(args));
        let text = said(&output);
        assert_eq!(output.status.code(), Some(exit), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        text
    }

    /// Its rows about the routes and about keys, all of which are warnings at worst, and all that it said.
    fn check(&self, args: &[&str]) -> (Vec<String>, String) {
        let text = self.run(args, 0);
        let of = |line: &&str| line.starts_with("routes ") || (line.starts_with("dkim ") && line.contains("_domainkey"));
        let rows = text.lines().filter(of).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>().join(" "));
        (rows.collect(), text)
    }

    /// The warnings are these, in this order; `...` stands for anything.
    fn warns(&self, what: &str, want: &[&str]) {
        let (rows, text) = self.check(&[]);
        let warnings: Vec<&String> = rows.iter().filter(|row| row.contains(" warning ")).collect();
        assert_eq!(warnings.len(), want.len(), "{what}:\n{text}");
        for (row, want) in warnings.iter().zip(want) {
            let mut rest = row.as_str();
            for part in want.split("...") {
                let at = rest.find(part).unwrap_or_else(|| panic!("{what}: no `{part}` in\n{row}"));
                rest = &rest[at + part.len()..];
            }
        }
    }
}

/// Listens at the first of the other machine's addresses, by which all others are reached.
fn far(network: &Network) -> MailServer {
    ip(&["route", "add", "default", "via", THERE[0]]);
    MailServer::on(network.listen(THERE[0], 25), StartTls::None)
}

/// The section `[outgoing.to]` with these rows.
fn by_mx(domains: &[&str]) -> String {
    let rows: String = domains.iter().map(|domain| format!("{domain:?} = \"mx\"\n")).collect();
    format!("[outgoing.to]\n{rows}")
}

fn texts(records: &[&str]) -> Behaviour {
    Behaviour::Records(records.iter().map(|text| Record::Txt((*text).to_owned())).collect())
}

#[test]
fn a_host_that_may_send_has_a_row_for_each_thing() {
    Network::run(|network| {
        let far = far(network);
        let world = World::new(&far);
        let (rows, text) = world.check(&["--offline"]);
        assert!(rows.is_empty(), "{text}");
        assert_eq!((world.names.asked.load(Ordering::Relaxed), world.far.count("connect")), (0, 0), "{text}");
        let want = [
            "routes ok mx: port 25: open; mx.far.example[203.0.113.11] answers: 220 mx.elsewhere.example ESMTP",
            "routes ok mx: PTR: 203.0.113.1 is mx.example.org, and mx.example.org is 203.0.113.1",
            "routes ok mx: SPF of example.org: v=spf1 mx -all",
            "dkim ok pb1._domainkey.example.org: is in DNS",
        ];
        assert_eq!(world.check(&[]).0, want);
        let begun = Instant::now();
        while world.far.count("QUIT") < 1 {
            assert!(begun.elapsed() < PATIENCE, "no QUIT");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!((world.far.count("connect"), world.far.count("EHLO"), world.far.count("MAIL")), (1, 0, 0));
    });
}

#[test]
fn what_is_wrong_in_dns_is_named_with_its_cure() {
    Network::run(|network| {
        let far = far(network);
        type Change = fn(&World);
        let other =
            "does not lead back to it; ask the provider of this host to set the reverse DNS of 203.0.113.1 to mx.example.org";
        let back = format!("PTR: 203.0.113.1 has the name vps1.host.example, which {other}");
        let rows: Vec<(&str, Change, Vec<&str>)> = vec![
            (
                "no PTR",
                |world| world.names.set(PTR, hosts(Vec::new())),
                vec![
                    "PTR: 203.0.113.1 has no name...ask the provider of this host to set the reverse DNS of 203.0.113.1 to mx.example.org",
                ],
            ),
            (
                "a PTR that leads nowhere",
                |world| world.names.set(PTR, hosts(vec![Record::Ptr("vps1.host.example")])),
                vec![&back],
            ),
            (
                "a PTR that leads elsewhere",
                |world| {
                    world.names.set(PTR, hosts(vec![Record::Ptr("vps1.host.example")]));
                    world.names.set("vps1.host.example", hosts(vec![there(0)]));
                },
                vec![&back],
            ),
            (
                "one of two names leads back",
                |world| {
                    world.names.set(PTR, hosts(vec![Record::Ptr("vps1.host.example"), Record::Ptr("mx.example.org")]));
                },
                vec![],
            ),
            (
                "another name that leads back",
                |world| {
                    world.names.set(PTR, hosts(vec![Record::Ptr("vps1.host.example")]));
                    world.names.set("vps1.host.example", hosts(vec![Record::A(HERE.parse().unwrap())]));
                },
                vec![],
            ),
            (
                "the name in EHLO leads elsewhere, that of the address does not",
                |world| {
                    world.names.set(PTR, hosts(vec![Record::Ptr("vps1.host.example")]));
                    world.names.set("vps1.host.example", hosts(vec![Record::A(HERE.parse().unwrap())]));
                    world.names.set("mx.example.org", hosts(vec![there(0)]));
                },
                vec![
                    "EHLO: the name mx.example.org does not lead to 203.0.113.1...publish in DNS `mx.example.org. A 203.0.113.1`...`helo`",
                ],
            ),
            (
                "the PTR is the name in EHLO, which leads elsewhere",
                |world| world.names.set("mx.example.org", hosts(vec![there(0)])),
                vec![
                    "PTR: 203.0.113.1 has the name mx.example.org, which does not lead back...publish in DNS `mx.example.org. A 203.0.113.1`",
                ],
            ),
            (
                "no SPF",
                |world| world.names.set("example.org", texts(&["v=spf10 is another version", "site-verification=x"])),
                vec![
                    "SPF of example.org: there is no record...publish in DNS `example.org. TXT \"v=spf1 mx ip4:203.0.113.1 -all\"`",
                ],
            ),
            (
                "two SPF records",
                |world| world.names.set("example.org", texts(&["v=spf1 mx -all", "v=spf1 -all"])),
                vec!["SPF of example.org: 2 records...RFC 7208 section 4.5...merge them into one"],
            ),
            (
                "an SPF record for a domain that sends no mail",
                |world| world.names.set("example.org", texts(&["v=spf1 -all"])),
                vec!["SPF of example.org: `v=spf1 -all` lets no mail of this host pass; add ip4:203.0.113.1 after v=spf1"],
            ),
            (
                "no key in DNS",
                |world| world.names.set(KEY, hosts(Vec::new())),
                vec!["pb1._domainkey.example.org: is not in DNS...publish in DNS the record that `pillarbox dkim list` prints"],
            ),
            (
                "another key in DNS",
                |world| world.names.set(KEY, texts(&["v=DKIM1; k=ed25519; p=AAAA"])),
                vec![
                    "pb1._domainkey.example.org: DNS has another key...publish in DNS the record that `pillarbox dkim list` prints",
                ],
            ),
            (
                "a domain that does not exist",
                |world| world.names.set(DOMAIN, Behaviour::Code(Rcode::NXDOMAIN)),
                vec!["mail servers of far.example: there is no such domain; correct it in [outgoing.to]"],
            ),
        ];
        for (what, change, want) in rows {
            let world = World::new(&far);
            change(&world);
            world.warns(what, &want);
        }
    });
}

/// What the name servers cannot tell is never called missing, and they are named.
#[test]
fn what_is_not_known_is_not_missing() {
    Network::run(|network| {
        let far = far(network);
        let names: [(&'static str, &str); 5] = [
            (DOMAIN, "mail servers of far.example"),
            (PTR, "PTR of 203.0.113.1"),
            ("mx.example.org", "address of mx.example.org, the name of 203.0.113.1"),
            ("example.org", "SPF of example.org"),
            (KEY, KEY),
        ];
        for (name, what) in names {
            let world = World::new(&far);
            world.names.set(name, Behaviour::Code(Rcode::SERVFAIL));
            world.warns(
                name,
                &[&format!(
                    "{what}: not known, the name servers could not tell: SERVFAIL (asked {})...`resolver`",
                    world.resolver
                )],
            );
        }
        let mut world = World::new(&far);
        world.names.set(PTR, hosts(vec![Record::Ptr("vps1.host.example")]));
        world.names.set("vps1.host.example", hosts(vec![Record::A(HERE.parse().unwrap())]));
        world.names.set("mx.example.org", Behaviour::Code(Rcode::SERVFAIL));
        world.warns("EHLO", &["address of mx.example.org, the name in EHLO: not known"]);
        // Nothing listens there; and a server that says nothing.
        let what = [
            "mail servers of far.example: not",
            "PTR of 203.0.113.1: not",
            "SPF of example.org: not",
            "pb1._domainkey.example.org: not",
        ];
        world.resolver = format!("127.0.0.1:{}", common::free_port());
        world.more.push_str(&format!("[outgoing.routes.mx]\nsource = [\"{HERE}\"]\n"));
        world.warns(
            "no name server",
            &what.map(|what| format!("{what} known...(asked {})", world.resolver)).each_ref().map(String::as_str),
        );
        let mute = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        world.resolver = mute.local_addr().unwrap().to_string();
        world.warns(
            "silence",
            &what
                .map(|what| format!("{what} known, no name server answered in time (asked {})", world.resolver))
                .each_ref()
                .map(String::as_str),
        );
    });
}

#[test]
fn port_25_that_does_not_answer() {
    Network::run(|network| {
        let far = far(network);
        let world = World::new(&far);
        world.names.set("mx.far.example", hosts(vec![there(1)]));
        let refused = "routes warning mx: port 25: mx.far.example[203.0.113.12]: Connection refused";
        world.warns("nothing listens", &[&format!("{refused}...; {BLOCKED}")]);
        let _silent = network.listen(THERE[2], 25);
        world.names.set("mx.far.example", hosts(vec![there(2)]));
        let mute = "mx.far.example[203.0.113.13] takes the connection and says nothing; a firewall on the way...ask the provider";
        world.warns("silence", &[mute]);
        world.names.set("mx.far.example", hosts(vec![there(0)]));
        far.rule(|line, _| (line == "connect").then_some("554 5.7.1 \x1b]0;x\x07 203.0.113.1 is on a list"));
        let listed =
            "mx.far.example[203.0.113.11] greets with 554 5.7.1...is on a list; the port is open, and this host is not welcome";
        world.warns("a refusal", &[listed]);
        far.rule(|line, _| (line == "connect").then_some("HTTP/1.1 400 \x1b[31m"));
        world.warns("another protocol", &["mx.far.example[203.0.113.11]: ...a firewall on the way"]);
    });
}

/// What comes from here is dropped.
#[test]
fn port_25_that_is_filtered() {
    Network::run(|network| {
        let world = World::new(&far(network));
        network.there(|| ip(&["route", "add", "blackhole", "203.0.113.1/32"]));
        world.warns("dropped", &[&format!("mx.far.example[203.0.113.11]: no answer in time; {BLOCKED}")]);
    });
}

/// Servers of three domains are tried; one that answers is enough.
#[test]
fn servers_of_the_domains_that_go_by_mx() {
    Network::run(|network| {
        let far = far(network);
        let mut world = World::new(&far);
        let _silent = network.listen(THERE[2], 25);
        world.names.set("a.example", hosts(vec![there(1), there(2)]));
        world.more = by_mx(&["*.example", "a.example", DOMAIN]);
        world.warns("one of two", &[]);
        world.names.set("b.example", Behaviour::Silence);
        world.more = by_mx(&["a.example", "b.example", DOMAIN]);
        world.warns("one has no answer", &["mail servers of b.example: not known, no name server answered in time"]);
        world.names.set("a.example", hosts(vec![there(1)]));
        world.names.set("b.example", hosts(vec![there(1)]));
        world.names.set("c.example", hosts(vec![there(1), there(3), there(4)]));
        world.more = by_mx(&["a.example", "b.example", "c.example", DOMAIN]);
        let (rows, text) = world.check(&[]);
        assert!(rows[0].starts_with("routes warning mx: port 25: a.example[203.0.113.12]: Connection refused"), "{text}");
        assert_eq!((rows[0].matches("b.example[").count(), rows[0].matches("c.example[").count()), (1, 2), "{text}");
        assert!(!rows[0].contains("far.example"), "three at most: {text}");
        // Where none is named, it is a domain that always has servers.
        world.more = "[outgoing.to]\n\"*.example\" = \"mx\"\n".to_owned();
        world.names.set(DOMAIN, Behaviour::Code(Rcode::SERVFAIL));
        let (rows, text) = world.check(&[]);
        assert!(rows[0].starts_with("routes ok mx: port 25: open; mx.far.example[203.0.113.11] answers"), "{text}");
        world.names.set("gmail.com", Behaviour::Code(Rcode::NXDOMAIN));
        world.warns("no such domain", &["mail servers of gmail.com: there is no such domain; see whether the name servers"]);
        // Without a route there is no address to ask about, either.
        ip(&["route", "del", "default"]);
        let gone = "mx: port 25: Network is unreachable (os error 101); see whether this host has a route to the internet";
        world.warns("no route", &["mail servers of gmail.com: there is no such domain", gone]);
    });
}

/// Each source by itself; what is behind NAT is not judged by its private address.
#[test]
fn sources_are_tried_each() {
    Network::run(|network| {
        let far = far(network);
        let mut world = World::new(&far);
        let _six = MailServer::on(network.listen(THERE[6], 25), StartTls::None);
        world.names.set("mx.far.example", hosts(vec![there(0), Record::Aaaa(THERE[6].parse().unwrap())]));
        world.more.push_str(
            "[outgoing.routes.mx]\nhelo = \"Out.example.org\"\nsource = [\"203.0.113.1\", \"2001:67c::1\", \"203.0.113.99\"]\n",
        );
        let reverse = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.c.7.6.0.1.0.0.2.ip6.arpa";
        world.names.set(PTR, hosts(vec![Record::Ptr("out.example.org")]));
        world.names.set(reverse, hosts(vec![Record::Ptr("out.example.org")]));
        world.names.set("out.example.org", hosts(vec![Record::A(HERE.parse().unwrap())]));
        world.names.set("example.org", hosts(Vec::new()));
        let (rows, text) = world.check(&[]);
        let want = [
            "routes warning mx: source 203.0.113.99: is no address of this host; correct `source` in [outgoing.routes.mx]",
            "routes ok mx: port 25 from 203.0.113.1: open; mx.far.example[203.0.113.11] answers: 220 mx.elsewhere.example ESMTP",
            "routes ok mx: PTR: 203.0.113.1 is out.example.org, and out.example.org is 203.0.113.1",
            "routes ok mx: port 25 from 2001:67c::1: open; mx.far.example[2001:67c::11] answers: 220 mx.elsewhere.example ESMTP",
            "routes warning mx: PTR: 2001:67c::1 has the name out.example.org, which does not lead back to it; publish in DNS \
             `out.example.org. AAAA 2001:67c::1`, or correct `hostname`, or `helo` in [outgoing.routes.mx]",
            "routes warning mx: SPF of example.org: there is no record, large receivers distrust its mail; publish in DNS `example.org. \
             TXT \"v=spf1 mx ip4:203.0.113.1 ip6:2001:67c::1 -all\"`",
        ];
        assert_eq!(rows[..want.len()], want, "{text}");
        // No server has an address of the family.
        world.names.set("mx.far.example", hosts(vec![there(0)]));
        let untried = "routes ok mx: port 25 from 2001:67c::1: not tried, no mail server of that family is known";
        let (rows, text) = world.check(&[]);
        assert_eq!(rows[3], untried, "{text}");
        let mut world = World::new(&far);
        ip(&["addr", "add", "10.9.9.9/32", "dev", "here"]);
        ip(&["route", "replace", "203.0.113.0/24", "dev", "here", "src", "10.9.9.9"]);
        network.there(|| ip(&["route", "add", "10.9.9.9", "dev", "there"]));
        for more in ["", "[outgoing.routes.mx]\nsource = [\"10.9.9.9\"]\n"] {
            world.more = by_mx(&[DOMAIN]) + more;
            let (rows, text) = world.check(&[]);
            assert!(rows.iter().all(|row| row.contains(" ok ")), "{text}");
            assert!(rows[1].contains("mx: PTR: not tried, 10.9.9.9 is a private address"), "{text}");
        }
    });
}

/// Text that others wrote: in a record, in a name, in a greeting.
#[test]
fn foreign_text_does_not_reach_the_terminal_raw() {
    Network::run(|network| {
        let far = far(network);
        let world = World::new(&far);
        world.names.set("example.org", texts(&["v=spf1 mx \x1b[31m\x07\u{9b}2J -all"]));
        world.names.set(KEY, texts(&["v=DKIM1;\x1b[2J p=\x1b"]));
        world.names.set(PTR, hosts(vec![Record::Ptr("\\027[2J.example")]));
        world.far.rule(|line, _| (line == "connect").then_some("220 \x1b]0;x\x07\u{9b}2J hello"));
        let (rows, text) = world.check(&[]);
        assert!(rows[0].contains("open;") && rows[0].ends_with(" hello") && !text.contains('\x1b'), "{text:?}");
        assert!(rows.iter().any(|row| row.contains("SPF of example.org: v=spf1 mx ") && row.ends_with("-all")), "{text}");
        assert!(rows.iter().any(|row| row.contains("has the name \\027[2j.example, which does not lead back")), "{text}");
    });
}

/// A smarthost asks for no PTR and for no port 25; the keys sign for it, too.
#[test]
fn keys_are_looked_for_whatever_the_route() {
    Network::run(|network| {
        let far = far(network);
        let mut world = World::new(&far);
        world.via = "next";
        world.more = "[outgoing.routes.next]\nurl = \"smtps://127.0.0.1:1\"\n".to_owned();
        world.names.set(KEY, hosts(Vec::new()));
        world.warns("a smarthost", &["next: connect at 127.0.0.1:1", "pb1._domainkey.example.org: is not in DNS"]);
        assert_eq!((world.names.asked.load(Ordering::Relaxed), world.far.count("connect")), (1, 0));
        // Mail for one domain goes by MX, so that its servers judge this host.
        world.more.push_str(&by_mx(&[DOMAIN]));
        world.names.set("example.org", hosts(Vec::new()));
        let spf = "SPF of example.org: there is no record...-all\"`, with what the provider of each smarthost asks for";
        world.warns("both", &["next: connect at 127.0.0.1:1", spf, "pb1._domainkey.example.org: is not in DNS"]);
        // Mail from a domain that never goes by MX needs no such record.
        world.via = "mx";
        world.domains.push("shop.example".to_owned());
        world.more =
            "[outgoing.from]\n\"shop.example\" = \"next\"\n[outgoing.routes.next]\nurl = \"smtps://127.0.0.1:1\"\n".to_owned();
        let (rows, text) = world.check(&[]);
        let spf: Vec<&String> = rows.iter().filter(|row| row.contains("SPF of ")).collect();
        assert!(
            matches!(&spf[..], [row] if row.contains("SPF of example.org: there is no record") && row.ends_with("-all\"`")),
            "{text}"
        );
        // A key that cannot be used is named once.
        world.pem = "no key".to_owned();
        let text = world.run(&[], 78);
        assert_eq!((text.matches("holds no PEM private key").count(), text.matches("_domainkey").count()), (1, 0), "{text}");
    });
}
