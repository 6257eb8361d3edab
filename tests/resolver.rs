//! The stub resolver against a name server that answers well, wrongly, late, cut, or not at all.

mod common;
#[path = "common/names.rs"]
mod names;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use domain::base::iana::Rcode;
use names::{Answered, Behaviour, Lie, NameServer, Record};
use pillarbox::relay::dns::{Data, Kind};
use pillarbox::relay::mx::{self, Own};
use pillarbox::relay::resolve::{DnsError, Resolver};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn address(last: u8) -> Data {
    Data::Address(IpAddr::from(Ipv4Addr::new(192, 0, 2, last)))
}

fn a(last: u8) -> Record {
    Record::A(Ipv4Addr::new(192, 0, 2, last))
}

#[test]
fn answers_from_a_table() {
    let many: Vec<Record> = (0..4000).map(|n| Record::A(Ipv4Addr::from(0xc000_0200 + n % 256))).collect();
    let server = NameServer::start(vec![
        ("plain.example", Behaviour::Records(vec![a(1), a(2)])),
        ("mail.example", Behaviour::Records(vec![Record::Mx(20, "two.example"), Record::Mx(10, "one.example")])),
        ("null.example", Behaviour::Records(vec![Record::Mx(0, ".")])),
        ("alias.example", Behaviour::Records(vec![Record::Cname("plain.example")])),
        ("loop.example", Behaviour::Records(vec![Record::Cname("pool.example")])),
        ("pool.example", Behaviour::Records(vec![Record::Cname("loop.example")])),
        ("cut.example", Behaviour::Truncated(vec![a(3)])),
        ("many.example", Behaviour::Truncated(many)),
        ("broken.example", Behaviour::Code(Rcode::SERVFAIL)),
        ("refused.example", Behaviour::Code(Rcode::REFUSED)),
    ]);
    let resolver = Resolver::with_server(server.address);
    let look = |name: &str, kind| resolver.look_up(name, kind, soon()).map(|answer| (answer.exists, answer.records));
    assert_eq!(look("plain.example", Kind::A), Ok((true, vec![address(1), address(2)])));
    assert_eq!(look("PLAIN.Example.", Kind::A), Ok((true, vec![address(1), address(2)])));
    let mx = vec![Data::Exchange(20, "two.example".into()), Data::Exchange(10, "one.example".into())];
    assert_eq!(look("mail.example", Kind::Mx), Ok((true, mx)));
    assert_eq!(look("null.example", Kind::Mx), Ok((true, vec![Data::Exchange(0, String::new())])));
    assert_eq!(look("mail.example", Kind::A), Ok((true, Vec::new())));
    assert_eq!(look("alias.example", Kind::A), Ok((true, vec![address(1), address(2)])));
    assert!(matches!(look("loop.example", Kind::A), Err(DnsError::Failed(_))));
    assert_eq!(look("cut.example", Kind::A), Ok((true, vec![address(3)])));
    assert_eq!(look("many.example", Kind::A).unwrap().1.len(), 4000);
    assert_eq!(look("nothing.example", Kind::A), Ok((false, Vec::new())));
    assert_eq!(look("broken.example", Kind::A), Err(DnsError::Failed("SERVFAIL".into())));
    assert_eq!(look("refused.example", Kind::A), Err(DnsError::Failed("REFUSED".into())));
    assert_eq!(look("a b", Kind::A), Err(DnsError::BadName("a b".into())));
}

#[test]
fn an_answer_is_kept_as_long_as_it_holds_and_no_failure_is() {
    let server = NameServer::start(vec![
        ("plain.example", Behaviour::Records(vec![a(1)])),
        ("broken.example", Behaviour::Code(Rcode::SERVFAIL)),
    ]);
    let resolver = Resolver::with_server(server.address);
    for _ in 0..3 {
        resolver.look_up("plain.example", Kind::A, soon()).unwrap();
        resolver.look_up("nothing.example", Kind::A, soon()).unwrap();
    }
    assert_eq!(server.asked.load(Ordering::Relaxed), 2);
    resolver.look_up("broken.example", Kind::A, soon()).unwrap_err();
    server.set("broken.example", Behaviour::Records(vec![a(5)]));
    assert_eq!(resolver.look_up("broken.example", Kind::A, soon()).unwrap().records, [address(5)]);
}

/// What is very long is asked for again, since the table is bounded by answers.
#[test]
fn an_answer_of_many_records_is_not_kept() {
    for (count, asked) in [(100, 2), (101, 4)] {
        let server = NameServer::start(vec![("many.example", Behaviour::Truncated((0..count).map(a).collect()))]);
        let resolver = Resolver::with_server(server.address);
        for _ in 0..2 {
            assert_eq!(resolver.look_up("many.example", Kind::A, soon()).unwrap().records.len(), usize::from(count));
        }
        assert_eq!(server.asked.load(Ordering::Relaxed), asked, "{count} records");
    }
}

#[test]
fn silence_and_garbage_end_at_the_deadline() {
    let server = NameServer::start(vec![("silent.example", Behaviour::Silence), ("garbage.example", Behaviour::Garbage)]);
    let resolver = Resolver::with_server(server.address);
    for name in ["silent.example", "garbage.example"] {
        let begun = Instant::now();
        let outcome = resolver.look_up(name, Kind::A, begun + Duration::from_millis(300));
        assert_eq!(outcome, Err(DnsError::Timeout), "{name}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}");
    }
}

/// The first name server is down, another one answers: the lookup takes one limit longer.
#[test]
fn the_next_server_is_asked() {
    let server = NameServer::start(vec![("plain.example", Behaviour::Records(vec![a(1)]))]);
    let mute = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("resolv.conf");
    // resolv.conf names no ports: only that the file is read, and its option, can be seen here.
    fs::write(&file, "nameserver 192.0.2.53\nnameserver 2001:db8::53\noptions trust-ad\n").unwrap();
    assert!(format!("{:?}", Resolver::of_the_system(&file)).contains("[192.0.2.53:53, [2001:db8::53]:53], trusted: true"));
    fs::write(&file, "search example\n").unwrap();
    assert!(format!("{:?}", Resolver::of_the_system(&file)).contains("[127.0.0.1:53], trusted: false"));
    let servers: [SocketAddr; 2] = [mute.local_addr().unwrap(), server.address];
    let resolver = Resolver::with_servers(&servers);
    assert_eq!(resolver.look_up("plain.example", Kind::A, soon()).unwrap().records, [address(1)]);
}

#[test]
fn a_lost_question_is_asked_again() {
    let server = NameServer::start(vec![("slow.example", Behaviour::SilenceAtFirst(1))]);
    let resolver = Resolver::with_server(server.address);
    assert_eq!(resolver.look_up("slow.example", Kind::A, soon()).unwrap().records, [address(1)]);
}

/// The answer to the first question comes after the second one, and to its port: it is none to that.
#[test]
fn a_late_answer_is_overlooked() {
    let server = NameServer::start(vec![("late.example", Behaviour::Late(vec![a(1)]))]);
    let resolver = Resolver::with_server(server.address);
    assert_eq!(resolver.look_up("late.example", Kind::A, soon()).unwrap().records, [address(1)]);
    assert_eq!(server.questions().len(), 2);
}

/// What is no answer to the question is overlooked, and the answer that follows it is taken.
#[test]
fn lies() {
    for lie in [Lie::Class, Lie::Echo, Lie::Id, Lie::Kind, Lie::Name, Lie::Port, Lie::TwoQuestions] {
        let server = NameServer::start(vec![("forged.example", Behaviour::Forged(lie, vec![a(4)]))]);
        let resolver = Resolver::with_server(server.address);
        let answer = resolver.look_up("forged.example", Kind::A, soon()).map(|answer| answer.records);
        assert_eq!((answer, server.questions().len()), (Ok(vec![address(4)]), 1), "{lie:?}");
    }
}

/// RFC 6891: how much is taken over UDP. RFC 5452 section 9: nothing of a question follows from the one before.
#[test]
fn what_a_question_is_like() {
    let server = NameServer::start(Vec::new());
    let resolver = Resolver::with_server(server.address);
    for number in 0..50 {
        resolver.look_up(&format!("n{number}.example"), Kind::A, soon()).unwrap();
    }
    let questions = server.questions();
    assert!(questions.iter().all(|question| question.edns == Some(1232) && !question.tcp), "{questions:?}");
    let differ = |values: &[u16]| {
        let steps = values.windows(2).map(|two| two[1].wrapping_sub(two[0])).collect::<BTreeSet<_>>().len();
        values.iter().collect::<BTreeSet<_>>().len().min(steps)
    };
    let ids: Vec<u16> = questions.iter().map(|question| question.id).collect();
    let ports: Vec<u16> = questions.iter().map(|question| question.port).collect();
    assert!(questions.len() == 50 && differ(&ids) > 40 && differ(&ports) > 25, "{questions:?}");
}

/// RFC 6891 sections 6.2.2 and 7: a server that does not know EDNS is asked again without, and not for longer.
#[test]
fn edns_is_left_out_where_it_is_not_understood() {
    for code in [Rcode::FORMERR, Rcode::NOTIMP] {
        for answered in [Answered::WithTheQuestion, Answered::WithTheHeader] {
            let server = NameServer::start(vec![("old.example", Behaviour::WithoutEdns(code, answered, vec![a(1)]))]);
            let resolver = Resolver::with_server(server.address);
            let answer = resolver.look_up("old.example", Kind::A, soon()).map(|answer| answer.records);
            assert_eq!(answer, Ok(vec![address(1)]), "{code}, {answered:?}");
            let edns: Vec<Option<u16>> = server.questions().iter().map(|question| question.edns).collect();
            assert_eq!(edns, [Some(1232), None], "{code}, {answered:?}");
        }
    }
    // What it does not understand without EDNS either is no answer; the next server is asked.
    let rows = vec![("old.example", Behaviour::Code(Rcode::FORMERR)), ("lame.example", Behaviour::Code(Rcode::SERVFAIL))];
    let (bad, good) = (NameServer::start(rows), NameServer::start(vec![("old.example", Behaviour::Records(vec![a(2)]))]));
    let resolver = Resolver::with_servers(&[bad.address, good.address]);
    assert_eq!(resolver.look_up("old.example", Kind::A, soon()).unwrap().records, [address(2)]);
    assert_eq!((bad.questions().len(), good.questions().len()), (2, 1));
    let resolver = Resolver::with_server(bad.address);
    assert_eq!(resolver.look_up("old.example", Kind::A, soon()), Err(DnsError::Failed("FORMERR".into())));
    // Other failures are none of EDNS.
    let before = bad.questions().len();
    resolver.look_up("lame.example", Kind::A, soon()).unwrap_err();
    assert!(bad.questions()[before..].iter().all(|question| question.edns.is_some()), "{:?}", bad.questions());
}

/// A chain of aliases, each in an answer of its own.
#[test]
fn aliases_are_counted_over_all_answers() {
    const NAMES: [&str; 10] = [
        "0.example",
        "1.example",
        "2.example",
        "3.example",
        "4.example",
        "5.example",
        "6.example",
        "7.example",
        "8.example",
        "9.example",
    ];
    let mut rows: Vec<(&str, Behaviour)> =
        (0..9).map(|at| (NAMES[at], Behaviour::Records(vec![Record::Cname(NAMES[at + 1])]))).collect();
    rows.push((NAMES[9], Behaviour::Records(vec![a(9)])));
    // Several in an answer.
    rows.push(("eight.example", Behaviour::Aliases(&["x.example", "y.example", "z.example", "5.example"])));
    rows.push(("nine.example", Behaviour::Aliases(&["w.example", "x.example", "y.example", "z.example", "5.example"])));
    rows.push(("self.example", Behaviour::Records(vec![Record::Cname("self.example")])));
    rows.push(("odd.example", Behaviour::Records(vec![Record::Cname("not/a/host.example")])));
    let server = NameServer::start(rows);
    let resolver = Resolver::with_server(server.address);
    let look = |name: &str| resolver.look_up(name, Kind::A, soon()).map(|answer| answer.records);
    let too_long = Err(DnsError::Failed("a chain of aliases that is too long".into()));
    assert_eq!(look(NAMES[1]), Ok(vec![address(9)]), "8 aliases");
    assert_eq!(look(NAMES[0]), too_long, "9 aliases");
    assert_eq!(look("eight.example"), Ok(vec![address(9)]));
    assert_eq!(look("nine.example"), too_long);
    let before = server.questions().len();
    assert_eq!(look("self.example"), too_long);
    assert!(server.questions().len() - before <= 10, "{}", server.questions().len() - before);
    // A good name that leads to one that cannot be asked for: nothing final follows.
    assert!(matches!(look("odd.example"), Err(DnsError::Failed(_))), "{:?}", look("odd.example"));
}

/// However many mail servers a domain names, and however many aliases each is, the questions are counted.
#[test]
fn questions_of_a_domain_are_bounded() {
    let hosts: Vec<&'static str> = (0..2000_u16).map(|number| &*format!("h{number}.example").leak()).collect();
    let exchangers = (0..2000).zip(&hosts).map(|(number, host)| Record::Mx(number, host)).collect();
    let mut rows = vec![("many.example", Behaviour::Truncated(exchangers))];
    // Each leads to the same nine aliases, which is one too many.
    let aliases: Vec<&'static str> = (0..10).map(|number| &*format!("c{number}.example").leak()).collect();
    rows.extend(hosts.iter().map(|host| (*host, Behaviour::Records(vec![Record::Cname(aliases[0])]))));
    rows.extend(aliases.windows(2).map(|two| (two[0], Behaviour::Records(vec![Record::Cname(two[1])]))));
    let server = NameServer::start(rows);
    let own = Own { names: Vec::new(), addresses: Vec::new(), ipv4: true, ipv6: true, named: Vec::new() };
    let resolver = Resolver::with_server(server.address);
    let found = mx::find(&resolver, "many.example", &own, soon());
    assert_eq!(found.map_err(|no| no.status()), Err(None));
    // MX twice, since it was cut; 20 hosts, 2 kinds, 9 questions and the last of them once more.
    assert!(server.questions().len() <= 2 + 20 * 2 * 10, "{}", server.questions().len());
}

/// A server of which nothing says that it can be believed.
#[test]
fn authentic_is_what_a_trusted_server_calls_so() {
    let server = NameServer::start(vec![("plain.example", Behaviour::Records(vec![a(1)]))]);
    assert!(Resolver::with_server(server.address).look_up("plain.example", Kind::A, soon()).unwrap().authenticated);
    let untrusted = Resolver::with_servers(&[server.address]);
    assert!(!untrusted.look_up("plain.example", Kind::A, soon()).unwrap().authenticated);
}

/// `explain` goes on to the servers that mail for an address elsewhere would be sent to.
#[test]
fn explain_names_the_servers_of_a_domain() {
    let names = NameServer::start(vec![
        ("shop.example", Behaviour::Records(vec![Record::Mx(10, "a.example"), Record::Mx(20, "b.example")])),
        ("a.example", Behaviour::Records(vec![Record::A([9, 1, 1, 1].into())])),
        ("b.example", Behaviour::Records(vec![Record::A([9, 1, 1, 2].into())])),
    ]);
    let outgoing = format!(
        "[outgoing]\nvia = \"mx\"\nspool = \"{{place}}/spool\"\npostmaster = \"me@elsewhere.example\"\nresolver = \"{}\"\n",
        names.address
    );
    let dir = tempfile::tempdir().unwrap();
    let config = common::Setup { outgoing, ..common::Setup::default() }.write(dir.path());
    let explain = |to: &str| {
        let words = ["explain", "--login", "alice@example.org", "--from", "alice@example.org", "--to", to];
        let output = Command::new(env!("CARGO_BIN_EXE_pillarbox")).arg("-c").arg(&config).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = explain("x@shop.example");
    assert!(text.contains("\nmx: a.example[9.1.1.1]\nmx: b.example[9.1.1.2]\n") && text.contains("\naccepted\n"), "{text}");
    let text = explain("x@gone.example");
    assert!(text.contains("\nmx: there is no such domain\n"), "{text}");
}

/// A name server that others wrote.
#[test]
fn dnsmasq_answers() {
    if !common::require(&["dnsmasq"]) {
        return;
    }
    let port = common::free_port();
    let _dnsmasq = Ended(
        Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--local=/example/", "--user=root"])
            .args(["--mx-host=shop.example,b.example,20", "--mx-host=shop.example,a.example,10"])
            .args(["--host-record=a.example,9.1.1.1", "--host-record=b.example,9.1.1.2", "--cname=alias.example,a.example"])
            .arg(format!("--port={port}"))
            .spawn()
            .unwrap(),
    );
    let resolver = Resolver::with_server(([127, 0, 0, 1], port).into());
    let own = Own { names: Vec::new(), addresses: Vec::new(), ipv4: true, ipv6: false, named: Vec::new() };
    let find = |domain: &str| mx::find(&resolver, domain, &own, soon()).map_err(|no| no.status());
    let hosts = |domain| find(domain).map(|found| found.into_iter().map(|to| to.host).collect::<Vec<_>>());
    let begun = Instant::now();
    while find("gone.example") == Err(None) && begun.elapsed() < Duration::from_secs(20) {}
    assert_eq!(find("gone.example"), Err(Some((5, 1, 2))));
    assert_eq!(hosts("shop.example"), Ok(vec!["a.example".to_owned(), "b.example".to_owned()]));
    assert_eq!(find("alias.example").unwrap()[0].address, IpAddr::from([9, 1, 1, 1]));
    assert_eq!(find("elsewhere.test"), Err(None), "refused: it asks no other server");
}

/// A process that ends with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// However many names stay without an answer, the one that has one is found.
#[test]
fn names_without_an_answer_leave_time_for_others() {
    let exchangers = [(1, "a.silent.example"), (2, "b.silent.example"), (20, "live.example")];
    let server = NameServer::start(vec![
        ("slow.example", Behaviour::Records(exchangers.map(|(preference, host)| Record::Mx(preference, host)).to_vec())),
        ("a.silent.example", Behaviour::Silence),
        ("b.silent.example", Behaviour::Silence),
        ("live.example", Behaviour::Records(vec![Record::A([9, 1, 1, 1].into())])),
    ]);
    let resolver = Resolver::with_server(server.address);
    let own = Own { names: Vec::new(), addresses: Vec::new(), ipv4: true, ipv6: false, named: Vec::new() };
    let found = mx::find(&resolver, "slow.example", &own, Instant::now() + Duration::from_secs(3)).unwrap();
    assert_eq!(found.into_iter().map(|to| to.host).collect::<Vec<_>>(), ["live.example"]);
}

/// From domain to servers: what is final has a status, what is not known yet has none.
#[test]
fn servers_of_a_domain() {
    const NONE: [&str; 21] = [
        "a.none", "b.none", "c.none", "d.none", "e.none", "f.none", "g.none", "h.none", "i.none", "j.none", "k.none", "l.none",
        "m.none", "n.none", "o.none", "p.none", "q.none", "r.none", "s.none", "t.none", "u.none",
    ];
    let public = |last| Record::A(Ipv4Addr::new(9, 9, 9, last));
    let of =
        |rows: &[(u16, &'static str)]| Behaviour::Records(rows.iter().map(|(number, host)| Record::Mx(*number, host)).collect());
    let server = NameServer::start(vec![
        ("two.example", Behaviour::Records(vec![Record::Mx(20, "b.example"), Record::Mx(10, "a.example")])),
        ("a.example", Behaviour::Records(vec![public(1)])),
        ("b.example", Behaviour::Records(vec![public(2), public(3)])),
        ("bare.example", Behaviour::Records(vec![public(4)])),
        ("bare2.example", Behaviour::Records(vec![public(2), public(3)])),
        ("null.example", Behaviour::Records(vec![Record::Mx(0, ".")])),
        ("gone.example", Behaviour::Records(vec![Record::Mx(10, "nothing.example")])),
        ("half.example", Behaviour::Records(vec![Record::Mx(10, "nothing.example"), Record::Mx(20, "a.example")])),
        ("broken.example", Behaviour::Code(Rcode::SERVFAIL)),
        ("mute.example", Behaviour::Records(vec![Record::Mx(10, "broken.example")])),
        ("inside.example", Behaviour::Records(vec![Record::Mx(10, "local.example")])),
        ("local.example", Behaviour::Records(vec![Record::A(Ipv4Addr::LOCALHOST), Record::A(Ipv4Addr::new(10, 0, 0, 1))])),
        ("ours.example", Behaviour::Records(vec![Record::Mx(10, "mx.example")])),
        ("hidden.example", Behaviour::Records(vec![Record::Mx(10, "alias.example")])),
        ("alias.example", Behaviour::Records(vec![public(9)])),
        ("literal.example", Behaviour::Records(vec![Record::Mx(10, "9.9.9.9")])),
        ("empty.example", Behaviour::Records(vec![])),
        // This server by another name: its equals and all that is worse are left out.
        ("middle.example", of(&[(10, "a.example"), (20, "b.example"), (20, "alias.example"), (30, "bare.example")])),
        ("first.example", of(&[(10, "a.example"), (10, "alias.example"), (20, "b.example")])),
        ("unsure.example", of(&[(5, "broken.example"), (10, "alias.example"), (20, "b.example")])),
        ("equal.example", of(&[(10, "broken.example"), (10, "alias.example")])),
        ("routed.example", of(&[(10, "named.example"), (20, "b.example")])),
        ("named.example", Behaviour::Records(vec![public(9)])),
        ("many.example", Behaviour::Records((0..21).map(|n| Record::Mx(n, NONE[usize::from(n)])).collect())),
        // An address of ours that others have as well, in their network: no other server is left out for it.
        ("nat.example", of(&[(10, "inner.example"), (20, "b.example")])),
        ("inner.example", Behaviour::Records(vec![Record::A(Ipv4Addr::new(10, 9, 9, 9))])),
        ("fewer.example", Behaviour::Records((0..20).map(|n| Record::Mx(n, NONE[usize::from(n)])).collect())),
    ]);
    let resolver = Resolver::with_server(server.address);
    let own = Own {
        names: vec!["mx.example".into()],
        addresses: vec!["9.9.9.9".parse().unwrap(), "10.9.9.9".parse().unwrap()],
        ipv4: true,
        ipv6: false,
        named: vec!["named.example".into()],
    };
    let find = |domain: &str| {
        mx::find(&resolver, domain, &own, soon())
            .map(|found| found.into_iter().map(|to| to.host).collect::<Vec<_>>())
            .map_err(|no| no.status())
    };
    type Row<'a> = (&'a str, Result<&'a [&'a str], Option<(u8, u16, u16)>>);
    let rows: [Row<'_>; 21] = [
        ("nat.example", Ok(&["b.example", "b.example"])),
        ("two.example", Ok(&["a.example", "b.example", "b.example"])),
        ("bare.example", Ok(&["bare.example"])),
        ("half.example", Ok(&["a.example"])),
        ("null.example", Err(Some((5, 1, 10)))),
        ("nothing.example", Err(Some((5, 1, 2)))),
        ("gone.example", Err(Some((5, 4, 4)))),
        ("inside.example", Err(Some((5, 4, 4)))),
        ("literal.example", Err(Some((5, 4, 4)))),
        ("empty.example", Err(Some((5, 4, 4)))),
        ("ours.example", Err(Some((5, 4, 6)))),
        ("hidden.example", Err(Some((5, 4, 6)))),
        ("broken.example", Err(None)),
        ("mute.example", Err(None)),
        ("middle.example", Ok(&["a.example"])),
        ("first.example", Err(Some((5, 4, 6)))),
        ("unsure.example", Err(None)),
        ("equal.example", Err(Some((5, 4, 6)))),
        ("routed.example", Ok(&["named.example", "b.example", "b.example"])),
        ("many.example", Err(None)),
        ("fewer.example", Err(Some((5, 4, 4)))),
    ];
    for (domain, want) in rows {
        let want = want.map(|hosts| hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>());
        assert_eq!(find(domain), want, "{domain}");
    }
    // Two addresses of one host share its mail.
    let first = |_| mx::find(&resolver, "bare2.example", &own, soon()).unwrap()[0].address;
    assert_eq!((0..64).map(first).collect::<BTreeSet<_>>().len(), 2);
}
