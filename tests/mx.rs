//! Mail that goes directly to the servers of a domain: two machines with a wire between, port 25, a name server.
//!
//! Which server is taken, which address is not, what fails at once and what waits.

#[path = "mx/checking.rs"]
mod checking;
mod common;
#[path = "common/direct.rs"]
mod direct;
#[path = "common/names.rs"]
mod names;
#[path = "mx/peers.rs"]
mod peers;
#[path = "mx/rows.rs"]
mod rows;
#[path = "mx/then.rs"]
mod then;

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use common::mx::{MailServer, StartTls, Taken};
use common::network::{HERE, Network, THERE, ip};
use common::{PATIENCE, Setup, finish, said};
use direct::{ALICE, hosts, mx, reports, run, send, setup, setup_at, there, waiting};
use domain::base::iana::Rcode;
use names::{Behaviour, NameServer, Record};
use nix::sys::signal::Signal;
use pillarbox::net::stop::Stop;
use pillarbox::relay::direct::{Direct, Unreached};
use pillarbox::relay::servers::{PER_ADDRESS, Place, Servers};
use pillarbox::server::load;

#[test]
fn the_best_server_that_answers_takes_it() {
    Network::run(|network| {
        let names = NameServer::start(vec![
            ("two.example", mx(&[(20, "b.example"), (10, "a.example")])),
            // Nothing listens at the first; the second has it.
            ("dead.example", mx(&[(10, "none.example"), (20, "b.example")])),
            ("bare.example", hosts(vec![there(1), Record::Aaaa(THERE[6].parse().unwrap())])),
            ("alias.example", hosts(vec![Record::Cname("two.example")])),
            ("xn--bcher-kva.example", mx(&[(10, "a.example")])),
            ("a.example", hosts(vec![there(0)])),
            ("b.example", hosts(vec![there(1)])),
            ("none.example", hosts(vec![there(2)])),
        ]);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::Works);
        let b = MailServer::on(network.listen(THERE[1], 25), StartTls::None);
        let server = setup(&names, "[outgoing.routes.mx]\nhelo = \"out.example.org\"\n").start();
        send(&server, &["x@two.example"]);
        let taken = a.wait(1).remove(0);
        let Taken { ehlo, mail, rcpt, secured, from, .. } = &taken;
        assert_eq!((ehlo.as_str(), *secured, from.to_string().as_str()), ("EHLO out.example.org", true, HERE));
        assert!(mail.starts_with("MAIL FROM:<alice@example.org>") && rcpt == &["RCPT TO:<x@two.example>"], "{taken:?}");
        assert!(String::from_utf8_lossy(&taken.content).ends_with("\r\n\r\nHello\r\n"));
        server.wait_for_log(&["sent", "to=x@two.example", "host=a.example[203.0.113.11]", "tls=TLSv1.3"]);
        send(&server, &["x@dead.example"]);
        send(&server, &["x@bare.example"]);
        let taken = b.wait(2);
        assert!(taken.iter().all(|taken| !taken.secured && taken.from.is_ipv4()));
        // Several recipients of one domain: one transaction.
        send(&server, &["x@alias.example", "y@alias.example"]);
        assert_eq!(a.wait(2)[1].rcpt.len(), 2);
        // An international domain is asked for by its ASCII form; this server has no SMTPUTF8, so that the message fails there.
        let mut client = server.login(ALICE);
        client.say("MAIL FROM:<alice@example.org> SMTPUTF8", "250");
        client.say("RCPT TO:<z@b\u{fc}cher.example>", "250");
        client.say("DATA", "354");
        client.send(b"From: alice@example.org\r\n\r\nHello\r\n.\r\n").unwrap();
        client.expect("250");
        assert!(reports(&server, 1)[0].contains("Status: 5.6.7\n"), "{}", reports(&server, 1)[0]);
    });
}

/// What is not offered and what is broken: in the clear, said in the log; a domain that had TLS is named.
#[test]
fn tls_is_taken_where_it_works() {
    Network::run(|network| {
        let names = NameServer::start(vec![("a.example", hosts(vec![there(0)]))]);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::Broken);
        a.one_message_each();
        let server = setup(&names, "").start();
        send(&server, &["x@a.example"]);
        assert!(!a.wait(1)[0].secured);
        assert_eq!(a.count("connect"), 2);
        server.wait_for_log(&[
            "notice",
            "about=tls",
            "a.example[203.0.113.11]: no TLS, though it is offered",
            "once more in the clear",
        ]);
        a.starttls(StartTls::Works);
        send(&server, &["x@a.example"]);
        assert!(a.wait(2)[1].secured);
        a.starttls(StartTls::None);
        a.rule(|line, _| line.starts_with("RCPT").then_some("450 4.2.0 greylisted"));
        let id = send(&server, &["y@a.example"]);
        server.wait_for_log(&["deferred", &id]);
        server.wait_for_log(&["notice", "about=tls", "a.example had TLS before"]);
        let text = run(&server, &["queue", "explain", &id]);
        assert!(text.contains("The last connection had no TLS, though the domain had it before"), "{text}");
        let text = run(&server, &["queue", "show", &id]);
        assert!(text.contains("without TLS, which the domain had before"), "{text}");
        assert_eq!(a.taken().len(), 2);
    });
}

/// In TLS 1.3 the client has finished its handshake before a server that wants a certificate of it says so; and what comes in the
/// clear after the reply to STARTTLS ends the connection before it.
#[test]
fn a_handshake_that_is_rejected_or_not_begun_is_followed_by_the_clear() {
    Network::run(|network| {
        let names = NameServer::start(vec![("a.example", hosts(vec![there(0)]))]);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::Rejects);
        a.one_message_each();
        let server = setup(&names, "").start();
        for (number, starttls) in [StartTls::Rejects, StartTls::Early].into_iter().enumerate() {
            a.starttls(starttls);
            send(&server, &["x@a.example"]);
            assert!(!a.wait(number + 1)[number].secured, "{starttls:?}");
            let counts = ["connect", "STARTTLS", "EHLO"].map(|verb| a.count(verb));
            assert_eq!(counts, [2, 1, 2].map(|count| (number + 1) * count), "{starttls:?}");
        }
        server.wait_for_log(&[
            "notice",
            "about=tls",
            "a.example[203.0.113.11]: no TLS, though it is offered",
            "once more in the clear",
        ]);
        assert!(!server.log_text().contains("state=resting"), "{}", server.log_text());
    });
}

/// What a domain had is known after a restart too: the first connection without it is named. A file that is damaged is said to
/// be, and costs nothing else.
#[test]
fn a_downgrade_is_noticed_after_a_restart() {
    Network::run(|network| {
        let names = NameServer::start(vec![("a.example", hosts(vec![there(0)])), ("b.example", hosts(vec![there(0)]))]);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::Works);
        a.one_message_each();
        let mut server = setup(&names, "").start();
        send(&server, &["x@a.example"]);
        assert!(a.wait(1)[0].secured);
        server.wait_for_log(&["sent", "to=x@a.example"]);
        let stop = |server: &mut common::Server| {
            server.signal(Signal::SIGTERM);
            assert_eq!(server.wait(PATIENCE), Some(0));
        };
        stop(&mut server);
        a.starttls(StartTls::None);
        server.restart();
        a.rule(|line, _| line.starts_with("RCPT").then_some("450 4.2.0 greylisted"));
        let other = send(&server, &["x@b.example"]);
        server.wait_for_log(&["deferred", &other]);
        let id = send(&server, &["y@a.example"]);
        server.wait_for_log(&["deferred", &id]);
        server.wait_for_log(&["notice", "about=tls", "a.example had TLS before"]);
        assert!(!server.log_text().contains("b.example had TLS"), "{}", server.log_text());
        for (id, is_named) in [(&id, true), (&other, false)] {
            let text = run(&server, &["queue", "explain", id]);
            assert_eq!(text.contains("The last connection had no TLS, though the domain had it before"), is_named, "{text}");
        }
        stop(&mut server);
        let file = server.dir.path().join("state/secured");
        assert!(fs::read_to_string(&file).unwrap().starts_with("a.example 1"));
        fs::write(&file, b"\xff\0 damaged").unwrap();
        server.restart();
        server.wait_for_log(&["notice", "about=state", "secured: lines that cannot be read are left out: 1"]);
        a.rule(|_, _| None);
        send(&server, &["z@a.example"]);
        server.wait_for_log(&["sent", "to=z@a.example"]);
        assert!(!server.log_text().contains("had TLS before"), "{}", server.log_text());
    });
}

/// Final, each with its status: reported at once, nothing stays.
#[test]
fn what_cannot_be_sent_fails_at_once() {
    Network::run(|network| {
        let names = NameServer::start(vec![
            ("null.example", mx(&[(0, ".")])),
            ("private.example", mx(&[(10, "inside.example")])),
            ("inside.example", hosts(vec![Record::A(Ipv4Addr::new(10, 0, 0, 1)), Record::A(Ipv4Addr::new(127, 0, 0, 1))])),
            // The address of the domain itself works, and is not used beside an MX.
            ("gone.example", hosts(vec![Record::Mx(10, "nowhere.example"), there(0)])),
            ("ours.example", mx(&[(10, "mx.example.org"), (20, "a.example")])),
            ("own.example", mx(&[(10, "self.example")])),
            ("self.example", hosts(vec![Record::A(HERE.parse().unwrap())])),
            ("a.example", hosts(vec![there(0)])),
            // IPv6 alone, without a source of that family.
            ("six.example", hosts(vec![Record::Aaaa(THERE[6].parse().unwrap())])),
        ]);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::None);
        let server = setup(&names, "").start();
        let rows = [
            ("x@nothing.example", "5.1.2"),
            ("x@null.example", "5.1.10"),
            ("x@private.example", "5.4.4"),
            ("x@gone.example", "5.4.4"),
            ("x@six.example", "5.4.4"),
            ("x@ours.example", "5.4.6"),
            ("x@own.example", "5.4.6"),
        ];
        rows.iter().for_each(|(to, _)| drop(send(&server, &[to])));
        let reports = reports(&server, rows.len());
        for (to, status) in rows {
            let report = reports
                .iter()
                .find(|report| report.contains(&format!("rfc822;{to}")) || report.contains(&format!("rfc822; {to}")));
            let report = report.unwrap_or_else(|| panic!("no report of {to}"));
            assert!(report.contains(&format!("Status: {status}\n")), "{to}: {report}");
            // Some have no address, some one that is never used: the words are true of both.
            let told = report.replace("=\n", "").split_whitespace().collect::<Vec<_>>().join(" ");
            let none = "has an address that mail can be sent to: there is none, or it is a private one or this server's own";
            assert_eq!(told.contains(none), status == "5.4.4", "{to}: {told}");
        }
        let begun = Instant::now();
        while waiting(&server) > 0 {
            assert!(begun.elapsed() < PATIENCE, "{}", run(&server, &["queue"]));
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(a.count("connect"), 0);
    });
}

/// The route's faults and temporary ones: nothing is bounced, and all of it arrives once, when they are gone.
#[test]
fn what_should_wait_waits_and_arrives_once() {
    Network::run(|network| {
        let names = NameServer::start(vec![
            ("servfail.example", Behaviour::Code(Rcode::SERVFAIL)),
            ("refused.example", Behaviour::Code(Rcode::REFUSED)),
            ("half.example", mx(&[(10, "servfail.example")])),
            ("grey.example", hosts(vec![there(0)])),
            ("busy.example", hosts(vec![there(1)])),
            ("closed.example", hosts(vec![there(2)])),
            ("rude.example", hosts(vec![there(3)])),
            ("cut.example", hosts(vec![there(4)])),
        ]);
        let servers: Vec<MailServer> =
            [0, 1, 3, 4].map(|number| MailServer::on(network.listen(THERE[number], 25), StartTls::Works)).into();
        servers[0].rule(|line, _| line.starts_with("RCPT").then_some("450 4.2.0 greylisted"));
        servers[1].rule(|line, _| (line == "connect").then_some("421 4.3.2 busy"));
        servers[2].rule(|line, _| (line == "connect").then_some("554 5.3.2 no mail here"));
        servers[3].rule(|line, _| line.starts_with("MAIL").then_some(""));
        let server = setup(&names, "").start();
        let domains = ["servfail", "refused", "half", "grey", "busy", "closed", "rude", "cut"];
        let ids: Vec<String> = domains.iter().map(|domain| send(&server, &[&format!("x@{domain}.example")])).collect();
        server.wait_for_log(&["deferred", &format!("id={}", ids[3])]);
        server.wait_for_log(&["deferred", &format!("id={}", ids[7])]);
        for domain in domains.iter().filter(|domain| !["grey", "cut"].contains(*domain)) {
            server.wait_for_log(&["route", &format!("{domain}.example"), "state=resting"]);
        }
        assert_eq!((waiting(&server), server.new_mail(ALICE).len()), (ids.len(), 0), "{}", server.log_text());
        // What was tried is told, though the message was part of none of it.
        run(&server, &["routes", "try", "busy.example"]);
        let begun = Instant::now();
        let explained = || run(&server, &["queue", "explain", &ids[4]]).split_whitespace().collect::<Vec<_>>().join(" ");
        let want = "the way to the server was tried 2 times, the last time";
        while !explained().contains(want) {
            assert!(begun.elapsed() < PATIENCE, "{}", explained());
        }
        let (told, at) =
            (explained(), format!("ago at busy.example[{}], and failed each time: \"421 4.3.2 busy\" (at ", THERE[1]));
        assert!(told.contains(&at) && told.contains("It has not been handed to a server yet. The route rests"), "{told}");
        // Everything is well again.
        for name in ["servfail.example", "refused.example"] {
            names.set(name, hosts(vec![there(0)]));
        }
        servers.iter().for_each(|server| server.rule(|_, _| None));
        let closed = MailServer::on(network.listen(THERE[2], 25), StartTls::Works);
        let begun = Instant::now();
        while waiting(&server) > 0 {
            assert!(begun.elapsed() < 3 * PATIENCE, "{}\n{}", run(&server, &["queue"]), run(&server, &["routes"]));
            for domain in domains {
                run(&server, &["routes", "try", &format!("{domain}.example")]);
            }
            run(&server, &["queue", "try", "--all", "--yes"]);
            thread::sleep(Duration::from_millis(500));
        }
        let mut arrived: Vec<String> =
            servers.iter().chain([&closed]).flat_map(MailServer::taken).flat_map(|taken| taken.rcpt).collect();
        arrived.sort();
        let mut want: Vec<String> = domains.iter().map(|domain| format!("RCPT TO:<x@{domain}.example>")).collect();
        want.sort();
        assert_eq!(arrived, want);
        assert!(server.new_mail(ALICE).is_empty());
    });
}

/// Name servers that are not there, that say nothing, that cannot tell: the route's fault. Nothing is bounced, whoever asks for
/// the message reads what it waits for, and it leaves as soon as they answer.
#[test]
fn mail_waits_for_the_name_servers() {
    Network::run(|network| {
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::None);
        let rows = || vec![("a.example", mx(&[(10, "mx.a.example")])), ("mx.a.example", hosts(vec![there(0)]))];
        let refuse = |behaviour| vec![("a.example", behaviour)];
        // With the MX known and its address not, too.
        let half = || vec![("a.example", mx(&[(10, "mx.a.example")])), ("mx.a.example", Behaviour::Code(Rcode::SERVFAIL))];
        let faults = [
            ("none", None, "the name servers could not tell: Connection refused"),
            ("silence", Some(refuse(Behaviour::Silence)), "no name server answered in time"),
            ("SERVFAIL", Some(refuse(Behaviour::Code(Rcode::SERVFAIL))), "the name servers could not tell: SERVFAIL"),
            ("no address", Some(half()), "the name servers could not tell: SERVFAIL"),
            ("garbage", Some(refuse(Behaviour::Garbage)), "no name server answered in time"),
        ];
        for (taken, (what, fault, why)) in faults.into_iter().enumerate() {
            let mut names = fault.map(|rows| NameServer::start_at(53, rows));
            let server = setup_at("127.0.0.1:53", "").start();
            let id = send(&server, &["x@a.example"]);
            let line = server.wait_for_log(&["route", "a.example", "state=resting", "reason=dns"]);
            let words = line.replace("\\u{20}", " ");
            assert!(words.contains(&format!("text=\"name not resolved: {why}")), "{what}: {line}");
            let text = run(&server, &["queue", "explain", &id]).replace("\n  ", " ");
            assert!(text.contains(&format!("and failed: \"name not resolved: {why}")), "{what}: {text}");
            assert!(text.contains("The name servers (DNS) do not give the address of the server"), "{what}: {text}");
            assert!(text.contains("which is no fault of the message"), "{what}: {text}");
            // Of a domain by itself nobody is told.
            assert!(!text.contains("is told") && text.contains("If that lasts, ask the postmaster"), "{what}: {text}");
            // What they say is asked for apart.
            let words = ["explain", "--login", ALICE, "--from", ALICE, "--to", "x@a.example"];
            let text = run(&server, &words);
            assert!(text.contains(&format!("mx: {why}")), "{what}: {text}");
            assert_eq!((waiting(&server), a.taken().len()), (1, taken), "{what}: {}", server.log_text());
            match &names {
                Some(names) => rows().into_iter().for_each(|(name, behaviour)| names.set(name, behaviour)),
                None => names = Some(NameServer::start_at(53, rows())),
            }
            run(&server, &["routes", "try", "a.example"]);
            a.wait(taken + 1);
            server.wait_for_log(&["sent", &id]);
            server.wait_for_log(&["route", "a.example", "state=well"]);
            assert!(server.new_mail(ALICE).is_empty(), "{what}");
        }
    });
}

/// resolv.conf: the second server is asked where nothing listens at the first; a link-local one, by its interface; and a change
/// of the file is taken up by a server that runs.
#[test]
fn the_name_servers_of_the_system() {
    Network::run(|network| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let write = |text: &str| fs::write(&file, text).unwrap();
        write("nameserver fe80::53%gone0\n");
        // The file of this thread and what it starts.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let file_name = file.to_str().unwrap();
        for words in [&["--make-rprivate", "/"][..], &["--bind", file_name, "/etc/resolv.conf"]] {
            let output = finish(Command::new("mount").args(words));
            assert!(output.status.success(), "mount {words:?}: {}", said(&output));
        }
        // Each knows a domain of which the other can tell nothing.
        let _names = network.there(move || {
            ip(&["addr", "add", "fe80::53/64", "dev", "there", "nodad"]);
            let scope = nix::net::if_::if_nametoindex("there").unwrap();
            let global = SocketAddr::new(THERE[5].parse().unwrap(), 53);
            let link_local = SocketAddrV6::new("fe80::53".parse().unwrap(), 53, 0, scope).into();
            [(global, "a.example", "b.example"), (link_local, "b.example", "a.example")].map(|(at, known, unknown)| {
                let rows = vec![(known, hosts(vec![there(0)])), (unknown, Behaviour::Code(Rcode::SERVFAIL))];
                NameServer::on(UdpSocket::bind::<SocketAddr>(at).unwrap(), TcpListener::bind(at).unwrap(), rows)
            })
        });
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::None);
        let server = Setup { outgoing: setup_at("", "").outgoing.replace("resolver = \"\"\n", ""), ..setup_at("", "") }.start();
        server.wait_for_log(&["notice", "about=resolver", "fe80::53%gone0"]);
        let files = [format!("nameserver {}\nnameserver {}\n", THERE[7], THERE[5]), "nameserver fe80::53%here\n".to_owned()];
        for (taken, (text, domain)) in files.iter().zip(["a.example", "b.example"]).enumerate() {
            send(&server, &[&format!("x@{domain}")]);
            server.wait_for_log(&["route", domain, "state=resting", "reason=dns"]);
            write(text);
            let begun = Instant::now();
            while a.taken().len() <= taken {
                assert!(begun.elapsed() < PATIENCE, "{text}{}", server.log_text());
                run(&server, &["routes", "try", domain]);
                thread::sleep(Duration::from_millis(200));
            }
        }
        assert_eq!((a.taken().len(), server.new_mail(ALICE).len()), (2, 0));
    });
}

/// Two sessions a pass, and the next pass goes to the addresses that did not fail.
#[test]
fn a_pass_is_bounded_and_addresses_that_failed_rest() {
    Network::run(|network| {
        let names = NameServer::start(vec![
            ("many.example", mx(&[(10, "a.example"), (20, "b.example"), (30, "c.example"), (40, "d.example")])),
            ("a.example", hosts(vec![there(0)])),
            ("b.example", hosts(vec![there(1)])),
            ("c.example", hosts(vec![there(2)])),
            ("d.example", hosts(vec![there(3)])),
        ]);
        let servers: Vec<MailServer> = (0..4).map(|n| MailServer::on(network.listen(THERE[n], 25), StartTls::None)).collect();
        servers[..2].iter().for_each(|server| server.rule(|line, _| (line == "connect").then_some("421 4.3.2 busy")));
        let server = setup(&names, "").start();
        send(&server, &["x@many.example"]);
        server.wait_for_log(&["route", "many.example", "state=resting"]);
        let connects: Vec<usize> = servers.iter().map(|server| server.count("connect")).collect();
        assert_eq!(connects, [1, 1, 0, 0]);
        let begun = Instant::now();
        while servers[2].taken().is_empty() {
            assert!(begun.elapsed() < PATIENCE, "{}", run(&server, &["routes"]));
            run(&server, &["routes", "try", "many.example"]);
            thread::sleep(Duration::from_millis(200));
        }
        assert_eq!((servers[0].count("connect"), servers[1].count("connect")), (1, 1), "they rest");
    });
}

/// Forty domains at one host: five connections at most, and every message arrives.
#[test]
fn one_host_of_many_domains_has_few_connections() {
    Network::run(|network| {
        const NAMES: [&str; 40] = {
            let mut names = [""; 40];
            let all = "d00.exampled01.exampled02.exampled03.exampled04.exampled05.exampled06.exampled07.exampled08.exampled09.example\
                       d10.exampled11.exampled12.exampled13.exampled14.exampled15.exampled16.exampled17.exampled18.exampled19.example\
                       d20.exampled21.exampled22.exampled23.exampled24.exampled25.exampled26.exampled27.exampled28.exampled29.example\
                       d30.exampled31.exampled32.exampled33.exampled34.exampled35.exampled36.exampled37.exampled38.exampled39.example";
            let mut at = 0;
            while at < 40 {
                names[at] = all.split_at(11 * at).1.split_at(11).0;
                at += 1;
            }
            names
        };
        let mut rows: Vec<(&'static str, Behaviour)> = NAMES.iter().map(|name| (*name, mx(&[(10, "a.example")]))).collect();
        rows.push(("a.example", hosts(vec![there(0)])));
        let names = NameServer::start(rows);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::None);
        a.rule(|line, _| {
            if line.starts_with("DATA") {
                thread::sleep(Duration::from_millis(20));
            }
            None
        });
        let server = setup(&names, "").start();
        for name in NAMES {
            send(&server, &[&format!("x@{name}")]);
        }
        assert_eq!(a.wait(NAMES.len()).len(), NAMES.len());
        assert!(a.most() <= 5, "{} connections at once", a.most());
    });
}

/// A server that is full is passed over; where it is the only one the message waits, which is no attempt and no fault.
#[test]
fn a_full_server_holds_no_courier_and_rests_no_domain() {
    Network::run(|network| {
        let first = ["h0.example", "h1.example", "h2.example", "h3.example", "h4.example"];
        let mut rows: Vec<(&'static str, Behaviour)> = first.iter().map(|name| (*name, mx(&[(10, "a.example")]))).collect();
        rows.extend([
            ("two.example", mx(&[(10, "a.example"), (20, "b.example")])),
            ("only.example", mx(&[(10, "a.example")])),
            ("a.example", hosts(vec![there(0)])),
            ("b.example", hosts(vec![there(1)])),
        ]);
        let names = NameServer::start(rows);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::None);
        let b = MailServer::on(network.listen(THERE[1], 25), StartTls::None);
        let full = Arc::new(RwLock::new(()));
        let held = full.write().unwrap();
        a.rule({
            let full = Arc::clone(&full);
            move |line, _| {
                if line.starts_with("DATA") {
                    drop(full.read());
                }
                None
            }
        });
        let server = setup(&names, "").start();
        for name in first {
            send(&server, &[&format!("x@{name}")]);
        }
        let begun = Instant::now();
        while a.count("DATA") < first.len() {
            assert!(begun.elapsed() < PATIENCE, "{}", server.log_text());
            thread::sleep(Duration::from_millis(5));
        }
        send(&server, &["x@two.example"]);
        b.wait(1);
        let id = send(&server, &["x@only.example"]);
        server.wait_for_log(&["notice", "about=route", "only.example: as many connections to its server are open"]);
        let told = run(&server, &["queue", "explain", &id]).split_whitespace().collect::<Vec<_>>().join(" ");
        for want in [
            "As many connections to the domain's server are open as this server opens there at once",
            "The cause is a limit of this mail server; nobody is at fault, and it counts as no attempt.",
            "It has not been tried yet. It keeps its place. A connection is taken as soon as one is free; looked for again",
            "What you can do: Nothing has to be done",
        ] {
            assert!(told.contains(want), "{want}\n{told}");
        }
        let log = server.log_text();
        assert!(!log.contains("state=resting") && !log.contains("deferred"), "{log}");
        // Nor does the address rest: what waits goes there as soon as a connection is free.
        drop(held);
        a.wait(first.len() + 1);
    });
}

/// A courier that waits for name servers ends at once, and what it had to send waits: no message is in its content.
#[test]
fn a_stop_waits_for_no_name_server() {
    Network::run(|network| {
        let silent = ["s1.example", "s2.example", "s3.example", "s4.example"];
        let mut rows = vec![("a.example", mx(&[(1, silent[0]), (2, silent[1]), (3, silent[2]), (4, silent[3])]))];
        rows.extend(silent.map(|name| (name, Behaviour::Silence)));
        let names = NameServer::start(rows);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::None);
        let mut server = setup(&names, "").start();
        send(&server, &["x@a.example"]);
        let begun = Instant::now();
        while names.questions().len() < 2 {
            assert!(begun.elapsed() < PATIENCE, "{}", server.log_text());
            thread::sleep(Duration::from_millis(5));
        }
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait(PATIENCE), Some(0));
        // The lookups of all names take 20 s. One that ends by the stop is the last.
        let asked = names.questions();
        assert!(asked.iter().all(|asked| asked.name != silent[3]), "{asked:?}: {}", server.log_text());
        // The end of this server is no fault of the route.
        let log = server.log_text();
        assert!(!log.contains("state=resting") && !log.contains("deferred"), "{log}");
        silent.into_iter().for_each(|name| names.set(name, hosts(vec![there(0)])));
        server.restart();
        a.wait(1);
    });
}

/// A connection that is kept was opened by other settings: the next message goes by the new ones.
#[test]
fn a_reload_leaves_no_connection_with_the_old_settings() {
    Network::run(|network| {
        let names = NameServer::start(vec![("a.example", hosts(vec![there(0)]))]);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::None);
        let server = setup(&names, "[outgoing.routes.mx]\nhelo = \"one.example.org\"\n").start();
        send(&server, &["x@a.example"]);
        a.wait(1);
        let text = fs::read_to_string(&server.config).unwrap();
        let more = format!("two.example.org\"\nsource = [\"{HERE}\"]");
        fs::write(&server.config, text.replace("one.example.org\"", &more)).unwrap();
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reloaded", "what=configuration", "result=ok"]);
        // The couriers have it within a round of the server, and a connection is kept for longer than that.
        thread::sleep(Duration::from_millis(1500));
        assert_eq!(a.count("QUIT"), 0, "the first connection is still there");
        send(&server, &["x@a.example"]);
        let said: Vec<String> = a.wait(2).into_iter().map(|taken| taken.ehlo).collect();
        assert_eq!(said, ["EHLO one.example.org", "EHLO two.example.org"]);
        assert_eq!(a.count("connect"), 2);
    });
}

/// What keeps mail from every domain is told to the postmaster, once, and once more when it is over.
#[test]
fn the_postmaster_is_told_of_a_source_that_is_not_ours() {
    Network::run(|network| {
        let names = NameServer::start(vec![("a.example", hosts(vec![there(0)])), ("b.example", hosts(vec![there(0)]))]);
        let a = MailServer::on(network.listen(THERE[0], 25), StartTls::None);
        let server = setup(&names, "[outgoing.routes.mx]\nsource = [\"192.0.2.77\"]\n").start();
        let letters = |count: usize| {
            let begun = Instant::now();
            while server.new_mail("bob@example.org").len() < count {
                assert!(begun.elapsed() < PATIENCE, "{}", server.log_text());
                thread::sleep(Duration::from_millis(5));
            }
            let mut letters: Vec<String> =
                server.new_mail("bob@example.org").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
            letters.sort();
            letters.iter().map(|letter| letter.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        send(&server, &["x@a.example"]);
        server.wait_for_log(&["route", "route=mx", "state=resting", "reason=source", "text=\"a.example:"]);
        let told = letters(1).remove(0);
        for want in [
            "Subject: Route mx does not work",
            "This server is to connect from an address that this host does not have.",
            "a.example: source address not usable: 192.0.2.77: ",
            "What you can do: Correct `source` of the route",
            "`pillarbox routes try mx` tries it at once.",
        ] {
            assert!(told.contains(want), "{want}\n{told}");
        }
        send(&server, &["x@b.example"]);
        server.wait_for_log(&["route=b.example", "state=resting", "reason=source"]);
        let text = fs::read_to_string(&server.config).unwrap();
        fs::write(&server.config, text.replace("192.0.2.77", HERE)).unwrap();
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reloaded", "what=configuration", "result=ok"]);
        let begun = Instant::now();
        while a.taken().len() < 2 {
            assert!(begun.elapsed() < PATIENCE, "{}", server.log_text());
            run(&server, &["routes", "try", "mx"]);
            thread::sleep(Duration::from_millis(200));
        }
        assert!(letters(2).iter().any(|letter| letter.contains("Subject: Route mx works again")), "{:?}", letters(2));
        thread::sleep(Duration::from_millis(300));
        assert_eq!(letters(2).len(), 2);
    });
}

/// While another address of the domain serves, no place is waited for at the one that is full; if there is no other, it is.
#[test]
fn a_full_address_is_passed_over() {
    Network::run(|network| {
        let names = NameServer::start(vec![
            ("two.example", mx(&[(10, "a.example"), (20, "b.example")])),
            ("only.example", mx(&[(10, "a.example")])),
            ("a.example", hosts(vec![there(0)])),
            ("b.example", hosts(vec![there(1)])),
        ]);
        let _servers = [0, 1].map(|number| MailServer::on(network.listen(THERE[number], 25), StartTls::None));
        let dir = tempfile::tempdir().unwrap();
        let config = load::config(&setup(&names, "").write(dir.path())).unwrap();
        let (servers, stop) = (Arc::new(Servers::default()), Arc::new(Stop::new()));
        let direct = Direct::new(&config, &servers).unwrap().unwrap();
        let take = || servers.take(THERE[0].parse().unwrap(), Instant::now(), &stop).unwrap();
        let mut full: Vec<Place> = (0..PER_ADDRESS).map(|_| take()).collect();
        let mut connect = |domain| {
            let (reached, waited) = thread::scope(|scope| {
                let reached = scope.spawn(|| direct.connect(domain, &stop));
                let mut waited = false;
                while !reached.is_finished() {
                    if full[0].is_wanted() && !std::mem::replace(&mut waited, true) {
                        full.pop();
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                (reached.join().unwrap(), waited)
            });
            (reached.map(|reached| reached.courier.host().to_owned()).map_err(|why| format!("{why:?}")), waited)
        };
        assert_eq!(connect("two.example"), (Ok("b.example".to_owned()), false));
        assert_eq!(connect("only.example"), (Ok("a.example".to_owned()), true));
        // One that rests is tried where there is no other; once it serves, it rests no more.
        let a = THERE[0].parse().unwrap();
        servers.fail(a);
        assert!(servers.rests(a));
        assert_eq!(connect("only.example"), (Ok("a.example".to_owned()), false));
        assert!(!servers.rests(a));
    });
}

/// Domains at a server of which all connections are taken keep no couriers from another domain, of the same login too.
#[test]
fn a_full_address_holds_one_courier() {
    const DOMAINS: usize = 100;
    Network::run(|network| {
        let silent: Vec<&str> = (0..DOMAINS).map(|number| &*format!("d{number}.example").leak()).collect();
        let names = NameServer::start(vec![("a.example", hosts(vec![there(0)])), ("good.example", hosts(vec![there(1)]))]);
        silent.iter().for_each(|domain| names.set(domain, mx(&[(10, "a.example")])));
        // Connections come about, and are greeted by nothing.
        let _silent = network.listen(THERE[0], 25);
        let good = MailServer::on(network.listen(THERE[1], 25), StartTls::None);
        let server = setup(&names, "").start();
        silent.iter().for_each(|domain| drop(send(&server, &[&format!("x@{domain}")])));
        send(&server, &["x@good.example"]);
        good.wait(1);
        assert_eq!(waiting(&server), DOMAINS);
    });
}

/// Where one address is full, nothing is known of the domain, though another one fails.
#[test]
fn a_domain_of_which_one_address_is_full_does_not_rest() {
    Network::run(|_| {
        let names = NameServer::start(vec![
            ("two.example", mx(&[(10, "a.example"), (20, "none.example")])),
            ("a.example", hosts(vec![there(0)])),
            ("none.example", hosts(vec![there(1)])),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let config = load::config(&setup(&names, "").write(dir.path())).unwrap();
        let (servers, stop) = (Arc::new(Servers::default()), Arc::new(Stop::new()));
        let direct = Direct::new(&config, &servers).unwrap().unwrap();
        let fill = |number: usize| -> Vec<Place> {
            let take = |_| servers.take(THERE[number].parse().unwrap(), Instant::now(), &stop).unwrap();
            (0..PER_ADDRESS).map(take).collect()
        };
        // It fails at once, or once a place is free, after the other was waited for.
        for late in [false, true] {
            let (full, mut other) = (fill(0), if late { fill(1) } else { Vec::new() });
            let reached = thread::scope(|scope| {
                let reached = scope.spawn(|| direct.connect("two.example", &stop));
                while !reached.is_finished() {
                    if full[0].is_wanted() {
                        other.clear();
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                reached.join().unwrap()
            });
            assert!(matches!(&reached, Err(Unreached::Full(host)) if host == "a.example[203.0.113.11]"), "{late}: {reached:?}");
            // It rests, which would have it tried last.
            servers.succeed(THERE[1].parse().unwrap());
        }
    });
}

/// A source of IPv6 makes IPv6 be used; a host that a route names may have an address that is not public.
#[test]
fn sources_and_hosts_that_are_named() {
    Network::run(|network| {
        let names = NameServer::start(vec![
            ("six.example", hosts(vec![Record::Aaaa(THERE[6].parse::<Ipv6Addr>().unwrap())])),
            ("private.example", mx(&[(10, "inside.example")])),
            ("inside.example", hosts(vec![Record::A(Ipv4Addr::LOCALHOST)])),
        ]);
        let six = MailServer::on(network.listen(THERE[6], 2525), StartTls::None);
        let inside = MailServer::on(TcpListener::bind("127.0.0.1:2525").unwrap(), StartTls::None);
        let more = "mx_port = 2525\n[outgoing.routes.mx]\nsource = [\"2001:67c::1\", \"127.0.0.1\"]\n\
                    [outgoing.routes.inside]\nurl = \"submission://inside.example\"\n";
        let server = setup(&names, more).start();
        send(&server, &["x@six.example"]);
        send(&server, &["x@private.example"]);
        assert_eq!(six.wait(1)[0].from.to_string(), "2001:67c::1");
        assert_eq!(inside.wait(1)[0].rcpt, ["RCPT TO:<x@private.example>"]);
    });
}

/// Sources of IPv6 alone: what has only IPv4 cannot be reached, for good, as the other way round.
#[test]
fn sources_of_one_family() {
    Network::run(|network| {
        let names = NameServer::start(vec![
            ("four.example", hosts(vec![there(0)])),
            ("both.example", hosts(vec![there(0), Record::Aaaa(THERE[6].parse::<Ipv6Addr>().unwrap())])),
        ]);
        let six = MailServer::on(network.listen(THERE[6], 25), StartTls::None);
        let server = setup(&names, "[outgoing.routes.mx]\nsource = [\"2001:67c::1\"]\n").start();
        send(&server, &["x@four.example"]);
        send(&server, &["x@both.example"]);
        six.wait(1);
        assert!(reports(&server, 1)[0].contains("Status: 5.4.4\n"), "{}", server.log_text());
        assert!(!server.log_text().contains("state=resting"), "{}", server.log_text());
    });
}
