//! Exim's tests of MX told anew (0032, 0045, 0117, 0145, 0388, 0430, 0469, 0497, and the records of its test zone that others
//! of its tests use): which servers a domain has, in which order, what fails at once and what waits. Each row is named by the
//! number of the test and the domain in it; where this server differs, the row says why.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::mx::{MailServer, StartTls};
use crate::common::network::Network;
use crate::direct::{ALICE, hosts, mx, reports, run, send, setup, there, wait, waiting};
use crate::names::{Behaviour, NameServer, Record};
use domain::base::iana::Rcode;
use pillarbox::relay::mx::{self, Own};
use pillarbox::relay::resolve::Resolver;

/// Exim's test expects the same.
const AS_EXIM: &str = "as Exim";
/// A row that is not of Exim's tests, though its records may be.
const OURS: &str = "";

/// One of the ten hosts of the zone, and this server.
fn ten(last: u8) -> Record {
    Record::A([9, 1, 0, last].into())
}

fn ours() -> Record {
    Record::A([9, 9, 9, 9].into())
}

fn six(last: u16) -> Record {
    Record::Aaaa([0x2620, 0, 0, 0, 0, 0, 0, last].into())
}

/// The zone.
fn zone() -> Vec<(&'static str, Behaviour)> {
    vec![
        ("host.ex", hosts(vec![ours()])),
        ("alias.ex", hosts(vec![Record::Cname("host.ex")])),
        ("dead-alias.ex", hosts(vec![Record::Cname("not-exist.ex")])),
        ("t1.ex", hosts(vec![ten(1)])),
        ("t2.ex", hosts(vec![ten(2)])),
        ("t3.ex", hosts(vec![ten(3)])),
        ("t4.ex", hosts(vec![ten(4)])),
        ("t5.ex", hosts(vec![ten(5)])),
        ("t6.ex", hosts(vec![ten(6)])),
        ("t5-6.ex", hosts(vec![ten(5), ten(6)])),
        ("t1-alias.ex", hosts(vec![Record::Cname("t1.ex")])),
        ("local.ex", hosts(vec![Record::A([127, 0, 0, 1].into()), Record::Aaaa([0, 0, 0, 0, 0, 0, 0, 1].into())])),
        ("local2.ex", hosts(vec![Record::A([127, 0, 0, 2].into())])),
        ("bad-loop.ex", hosts(vec![ten(1), Record::A([127, 0, 0, 1].into())])),
        ("servfail.ex", Behaviour::Code(Rcode::SERVFAIL)),
        ("46.ex", hosts(vec![ten(4), six(4)])),
        ("46b.ex", hosts(vec![ten(5), six(5)])),
        ("v6.ex", hosts(vec![six(6)])),
        ("mxt1.ex", mx(&[(5, "host.ex")])),
        ("mxt2.ex", mx(&[(5, "not-exist.ex")])),
        ("mxt3.ex", mx(&[(5, "not-exist.ex"), (6, "host.ex")])),
        ("mxt3r.ex", mx(&[(5, "not-exist.ex"), (6, "t1.ex")])),
        ("mxt4.ex", mx(&[(5, "alias.ex")])),
        ("mxt4r.ex", mx(&[(5, "t1-alias.ex")])),
        ("mxt4d.ex", mx(&[(5, "dead-alias.ex"), (6, "t1.ex")])),
        ("mxt5.ex", mx(&[(5, "host.ex"), (5, "t1.ex")])),
        ("mxt6.ex", mx(&[(5, "t1.ex"), (6, "host.ex"), (6, "t2.ex")])),
        ("mxt7.ex", mx(&[(5, "t2.ex"), (6, "t3.ex"), (7, "host.ex"), (8, "t1.ex")])),
        ("mxt8.ex", mx(&[(5, "t2.ex"), (6, "t3.ex"), (7, "host.ex"), (7, "t4.ex"), (8, "t1.ex")])),
        ("mxt9.ex", mx(&[(5, "t1.ex"), (6, "t2.ex"), (7, "t3.ex"), (8, "t1.ex")])),
        ("mxt9a.ex", mx(&[(6, "t2.ex"), (7, "t3.ex"), (8, "t1.ex"), (5, "t1.ex")])),
        ("mxt9b.ex", mx(&[(7, "t3.ex"), (8, "T1.EX"), (5, "t1.ex"), (6, "t2.ex")])),
        ("mxt10.ex", mx(&[(5, "9.1.0.1")])),
        ("mxt10m.ex", mx(&[(5, "9.1.0.1"), (6, "t2.ex")])),
        ("mxt11.ex", mx(&[(5, "local.ex"), (6, "local.ex")])),
        ("mxt11a.ex", mx(&[(5, "local.ex"), (6, "t1.ex")])),
        ("mxt12.ex", mx(&[(5, "local.ex"), (6, "local2.ex")])),
        ("mxt14.ex", mx(&[(4, "t5-6.ex"), (5, "t5.ex"), (6, "t6.ex")])),
        ("mxt1c.ex", mx(&[(1, "dontqualify")])),
        ("mxcased.ex", mx(&[(5, "T2.EX")])),
        ("mxloop.ex", mx(&[(5, "bad-loop.ex")])),
        ("null.ex", mx(&[(0, ".")])),
        ("nulls.ex", mx(&[(0, "."), (5, "t1.ex")])),
        ("unknown.ex", mx(&[(5, "servfail.ex")])),
        ("unsure.ex", mx(&[(5, "servfail.ex"), (6, "t1.ex")])),
        ("mx46.ex", mx(&[(46, "46.ex")])),
        ("mx46466b.ex", mx(&[(46, "46.ex"), (47, "46b.ex"), (48, "v6.ex")])),
        ("mx6-4.ex", mx(&[(10, "v6.ex"), (20, "t1.ex")])),
        ("mxv6.ex", mx(&[(10, "v6.ex")])),
    ]
}

/// Hosts with the last octet of each address, or the status; `None` is a fault of the route: the message waits.
type Want = Result<&'static [&'static str], Option<(u8, u16, u16)>>;

const LOOP: Want = Err(Some((5, 4, 6)));
const NO_ADDRESS: Want = Err(Some((5, 4, 4)));

fn find(resolver: &Resolver, domain: &str, ipv4: bool, ipv6: bool) -> Result<Vec<String>, Option<(u8, u16, u16)>> {
    let own = Own {
        names: vec!["mx.own.ex".into()],
        addresses: vec![[9, 9, 9, 9].into(), [127, 0, 0, 1].into()],
        ipv4,
        ipv6,
        named: Vec::new(),
    };
    let last = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets()[3].to_string(),
        IpAddr::V6(v6) => format!(":{:x}", v6.segments()[7]),
    };
    let found = mx::find(resolver, domain, &own, Instant::now() + Duration::from_secs(20));
    found
        .map(|found| found.into_iter().map(|to| format!("{} {}", to.host.to_lowercase(), last(to.address))).collect())
        .map_err(|no| no.status())
}

fn owned(want: Want) -> Result<Vec<String>, Option<(u8, u16, u16)>> {
    want.map(|hosts| hosts.iter().map(|host| (*host).to_owned()).collect())
}

#[test]
fn servers_of_a_domain() {
    let server = NameServer::start(zone());
    let resolver = Resolver::with_server(server.address);
    let freezes = "Exim freezes the message for its operator; here the sender is told, as RFC 5321 section 5.1 has it";
    let rows: [(&str, &str, Want, &str); 34] = [
        ("0045", "host.ex", LOOP, freezes),
        ("0045", "mxt1.ex", LOOP, freezes),
        ("0045", "mxt2.ex", NO_ADDRESS, AS_EXIM),
        (
            "0045",
            "mxt3.ex",
            LOOP,
            "both give up; that the best server there is is this one says more than that another is not there",
        ),
        ("0045", "mxt4.ex", LOOP, freezes),
        ("0045", "mxt5.ex", LOOP, freezes),
        ("0045", "mxt6.ex", Ok(&["t1.ex 1"]), AS_EXIM),
        ("0045", "mxt7.ex", Ok(&["t2.ex 2", "t3.ex 3"]), AS_EXIM),
        ("0045", "mxt8.ex", Ok(&["t2.ex 2", "t3.ex 3"]), AS_EXIM),
        ("0032", "mxt1.ex", LOOP, AS_EXIM),
        ("0117", "mxt9.ex", Ok(&["t1.ex 1", "t2.ex 2", "t3.ex 3"]), AS_EXIM),
        ("0117", "mxt9a.ex", Ok(&["t1.ex 1", "t2.ex 2", "t3.ex 3"]), AS_EXIM),
        ("0117", "mxt9b.ex", Ok(&["t1.ex 1", "t2.ex 2", "t3.ex 3"]), AS_EXIM),
        ("0145", "mxt10.ex", NO_ADDRESS, AS_EXIM),
        ("0145 and another", "mxt10m.ex", Ok(&["t2.ex 2"]), AS_EXIM),
        // A list in which hosts and MX of a domain are mixed is Exim's own; what is left of its rows is the MX.
        ("0430", "mxt8.ex", Ok(&["t2.ex 2", "t3.ex 3"]), AS_EXIM),
        ("0430", "mxt5.ex", LOOP, freezes),
        ("0430", "mxt11.ex", NO_ADDRESS, "Exim waits; loopback never becomes another machine, so that waiting helps nobody"),
        ("0430", "mxt11a.ex", Ok(&["t1.ex 1"]), AS_EXIM),
        ("0469", "mxt1c.ex", NO_ADDRESS, AS_EXIM),
        // Others of the zone, and some beside them.
        ("alone", "t1.ex", Ok(&["t1.ex 1"]), OURS),
        ("alone", "not-exist.ex", Err(Some((5, 1, 2))), OURS),
        ("mxt3r", "mxt3r.ex", Ok(&["t1.ex 1"]), OURS),
        ("an alias, against RFC 2181 section 10.3", "mxt4r.ex", Ok(&["t1-alias.ex 1"]), OURS),
        ("an alias of nothing", "mxt4d.ex", Ok(&["t1.ex 1"]), OURS),
        ("mxt12", "mxt12.ex", NO_ADDRESS, OURS),
        ("mxt14: addresses that come again", "mxt14.ex", Ok(&["t5-6.ex 5", "t5-6.ex 6"]), OURS),
        ("mxcased", "mxcased.ex", Ok(&["t2.ex 2"]), OURS),
        ("badloop", "mxloop.ex", Ok(&["bad-loop.ex 1"]), "the address of loopback alone is left out"),
        ("null MX", "null.ex", Err(Some((5, 1, 10))), OURS),
        ("null MX beside another", "nulls.ex", Ok(&["t1.ex 1"]), "RFC 7505 section 3 forbids it; the other is believed"),
        ("no answer", "unknown.ex", Err(None), OURS),
        ("no answer of the best", "unsure.ex", Ok(&["t1.ex 1"]), OURS),
        ("no answer of the domain", "servfail.ex", Err(None), OURS),
    ];
    for (test, domain, want, why) in rows {
        let mut found = find(&resolver, domain, true, false);
        if let (Ok(found), "mxt14.ex") = (&mut found, domain) {
            // Addresses of one host come in any order.
            found.sort();
        }
        assert_eq!(found, owned(want), "{test} {domain} {why}");
    }
}

/// IPv4 first at each host, IPv6 only where a source has it; what is of a family that no source has is not there.
#[test]
fn families_of_the_sources() {
    let server = NameServer::start(zone());
    let resolver = Resolver::with_server(server.address);
    let rows: [(&str, &str, [Want; 3]); 5] = [
        ("one of both", "mx46.ex", [Ok(&["46.ex 4"]), Ok(&["46.ex 4", "46.ex :4"]), Ok(&["46.ex :4"])]),
        (
            "three by preference",
            "mx46466b.ex",
            [
                Ok(&["46.ex 4", "46b.ex 5"]),
                Ok(&["46.ex 4", "46.ex :4", "46b.ex 5", "46b.ex :5", "v6.ex :6"]),
                Ok(&["46.ex :4", "46b.ex :5", "v6.ex :6"]),
            ],
        ),
        // The domain's preference is the domain's: a better server of IPv6 comes before a worse one of IPv4.
        ("IPv6 before IPv4", "mx6-4.ex", [Ok(&["t1.ex 1"]), Ok(&["v6.ex :6", "t1.ex 1"]), Ok(&["v6.ex :6"])]),
        ("IPv6 alone", "mxv6.ex", [NO_ADDRESS, Ok(&["v6.ex :6"]), Ok(&["v6.ex :6"])]),
        ("no MX", "46.ex", [Ok(&["46.ex 4"]), Ok(&["46.ex 4", "46.ex :4"]), Ok(&["46.ex :4"])]),
    ];
    for (what, domain, wants) in rows {
        for ((ipv4, ipv6), want) in [(true, false), (true, true), (false, true)].into_iter().zip(wants) {
            assert_eq!(find(&resolver, domain, ipv4, ipv6), owned(want), "{what}, IPv4 {ipv4}, IPv6 {ipv6}");
        }
    }
}

/// 0032: the sender is told, with the message.
#[test]
fn what_leads_back_here_is_reported() {
    Network::run(|_| {
        let names = NameServer::start(vec![
            ("mxt1.ex", mx(&[(5, "host.ex")])),
            ("host.ex", hosts(vec![Record::A(crate::common::network::HERE.parse().unwrap())])),
        ]);
        let server = setup(&names, "").start();
        send(&server, &["userx@mxt1.ex"]);
        let report = reports(&server, 1).remove(0);
        for part in ["Final-Recipient: rfc822;userx@mxt1.ex\n", "Action: failed\n", "Status: 5.4.6\n", "Subject: x\n"] {
            assert!(report.replace("rfc822; ", "rfc822;").contains(part), "{part}: {report}");
        }
        wait(|| waiting(&server) == 0, || run(&server, &["queue"]));
        assert_eq!(server.new_mail(ALICE).len(), 1);
    });
}

/// Test and command, what is matched, and what is said there; nothing: closed.
type Trouble = (&'static str, &'static str, &'static str);

/// 0388 and 0497: what is refused for a time at a command is the message's or the recipient's; it waits, the other server is
/// not asked, and the next attempt sends it once. Exim goes on to the next server where a recipient is refused for a time; here
/// the reply is believed, as another server of the domain would say the same.
#[test]
fn what_is_refused_for_a_time_waits() {
    const TEMPORARY: &str = "452 temporary error";
    // Exim's test bounces, since its retry rule for these is empty; ours has none that is.
    let rows: [(Trouble, &[&str]); 10] = [
        (("0388 RCPT 451", "RCPT", "451 Temporary error"), &["PIPELINING"]),
        (("0497 MAIL", "MAIL", TEMPORARY), &[]),
        (("0497 RCPT", "RCPT", TEMPORARY), &[]),
        (("0497 DATA", "DATA", TEMPORARY), &[]),
        (("0497 dot", ".", TEMPORARY), &[]),
        (("0497 MAIL", "MAIL", TEMPORARY), &["PIPELINING"]),
        (("0497 RCPT", "RCPT", TEMPORARY), &["PIPELINING"]),
        (("0497 DATA", "DATA", TEMPORARY), &["PIPELINING"]),
        (("0497 dot", ".", TEMPORARY), &["PIPELINING"]),
        (("0497 RCPT, closed", "RCPT", ""), &["PIPELINING"]),
    ];
    Network::run(move |network| {
        let names = NameServer::start(vec![
            ("two.ex", mx(&[(5, "first.ex"), (6, "second.ex")])),
            ("first.ex", hosts(vec![there(0)])),
            ("second.ex", hosts(vec![there(1)])),
        ]);
        let first = Arc::new(MailServer::on(network.listen(crate::common::network::THERE[0], 25), StartTls::None));
        let second = MailServer::on(network.listen(crate::common::network::THERE[1], 25), StartTls::None);
        for ((row, stage, reply), offer) in rows {
            let server = setup(&names, "").start();
            let (before, connects) = (first.taken().len() + second.taken().len(), second.count("connect"));
            first.offer(offer);
            first.rule(move |line, _| (line.starts_with(stage)).then_some(reply));
            let id = send(&server, &["x@two.ex"]);
            let line = server.wait_for_log(&["deferred", &id]);
            assert!(reply.is_empty() || line.contains(&format!("code={}", &reply[..3])), "{row}: {line}");
            let text = run(&server, &["queue", "explain", &id]);
            assert!(!reply.starts_with("451") || text.contains("The cause is on the recipient's side"), "{row}: {text}");
            first.rule(|_, _| None);
            assert_eq!((waiting(&server), first.taken().len() + second.taken().len()), (1, before), "{row}");
            assert!(reply.is_empty() || second.count("connect") == connects, "{row}");
            run(&server, &["routes", "try", "two.ex"]);
            run(&server, &["queue", "try", &id]);
            wait(|| waiting(&server) == 0, || format!("{row}: {}\n{}", run(&server, &["queue"]), server.log_text()));
            assert_eq!(first.taken().len() + second.taken().len(), before + 1, "{row}");
            // A server that closes rests, and the other is asked.
            assert_eq!(second.count("connect") > connects, reply.is_empty(), "{row}");
            assert!(server.new_mail(ALICE).is_empty(), "{row}");
        }
    });
}
