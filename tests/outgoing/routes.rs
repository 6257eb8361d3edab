//! Faults of a route: nothing bounces, nothing is written per message, the operator is told, and all go out afterwards.

use super::*;
use common::hop::Said;
use common::leaf::Leaf;

/// Messages of a login, each to another domain.
const COUNT: usize = 6;

/// A server with what it does below its spool in a file of its own.
fn traced(mut setup: Setup) -> (Server, PathBuf) {
    let trace = tempfile::Builder::new().prefix("trace").tempfile().unwrap().into_temp_path().keep().unwrap();
    setup.wrapper = ["strace", "-f", "-y", "-s", "60", "-e", "trace=write,pwrite64,unlinkat,renameat2,utimensat,linkat", "-o"]
        .map(str::to_owned)
        .to_vec();
    setup.wrapper.push(trace.display().to_string());
    (setup.start(), trace)
}

/// What was written to queued messages after they had been accepted.
fn written(trace: &Path) -> Vec<String> {
    let text = fs::read_to_string(trace).unwrap();
    // A message that is being accepted is an unnamed file until it is linked: `spool/queue/#123 (deleted)`.
    let touches = |line: &&str| line.contains("/spool/queue") && !line.contains("/queue/#") && !line.contains("linkat(AT_FDCWD");
    text.lines()
        .filter(touches)
        .filter(|line| !line.contains("linkat(") || line.contains("unlinkat("))
        .map(str::to_owned)
        .collect()
}

fn submit_all(server: &Server, count: usize) -> Vec<String> {
    let mut client = server.login(ALICE);
    let one = |n: usize| {
        submit(&mut client, "<alice@example.org>", &[&format!("<x@d{n}.example>")], plain(&format!("number {n}")).as_bytes())
    };
    (0..count).map(one).collect()
}

/// All wait, nothing has bounced, and one line says that the route rests.
fn assert_rests(server: &Server, ids: &[String], reason: &str) {
    let line = server.wait_for_log(&["route ", "route=next", "state=resting", &format!("reason={reason}")]);
    assert!(line.contains("next=2"), "{line}");
    let mut want = ids.to_vec();
    want.sort();
    assert_eq!(queued(server), want, "{reason}");
    assert!(letters(server, ALICE).is_empty(), "{reason}");
    for event in ["failed ", "deferred ", "sent ", "reported "] {
        assert!(!server.log_text().contains(&format!(" {event}id=")), "{reason}: {}", server.log_text());
    }
    assert_eq!(lines(server, "state=resting").len(), 1, "{reason}: {}", server.log_text());
}

#[test]
fn a_wrong_password() {
    if !strace_works() {
        return;
    }
    let hop = Hop::new();
    hop.want_password("another");
    let (server, trace) = traced(setup(&hop, ""));
    let ids = submit_all(&server, COUNT);
    let letter = unfolded(&wait_for_letters(&server, "bob@example.org", 1)[0]);
    assert!(letter.contains("next") && letter.contains("password"), "{letter}");
    assert_rests(&server, &ids, "auth-refused");
    // The password is tried once, whatever waits: more would lock the account.
    assert_eq!(hop.count("AUTH"), 1);
    assert_eq!(written(&trace), Vec::<String>::new());
    assert!(!server.log_text().contains("secret"), "no password is logged");
    // The right one is taken up by itself.
    hop.write_password("another");
    server.wait_for_log(&["route ", "route=next", "state=well"]);
    assert_eq!(hop.wait_for_messages(COUNT).len(), COUNT);
    wait_until_sent(&server);
    assert_eq!(wait_for_letters(&server, "bob@example.org", 2).len(), 2);
    assert!(letters(&server, ALICE).is_empty());
    assert!(!written(&trace).is_empty(), "the trace shows what is written");
    let _ = fs::remove_file(trace);
}

/// A password file that goes away while the server runs: the same.
#[test]
fn a_password_file_that_is_not_there() {
    let hop = Hop::new();
    let server = setup(&hop, "").start();
    fs::remove_file(hop.password_file()).unwrap();
    let ids = submit_all(&server, 3);
    wait_for_letters(&server, "bob@example.org", 1);
    assert_rests(&server, &ids, "password-file");
    assert_eq!(hop.count("AUTH"), 0);
    hop.write_password("secret");
    assert_eq!(hop.wait_for_messages(3).len(), 3);
}

/// Certificates that prove nothing: the postmaster is told at once, no login is said.
#[test]
fn certificates_that_prove_nothing() {
    if !strace_works() {
        return;
    }
    thread::scope(|scope| {
        for leaf in [Leaf::Expired, Leaf::ForAnotherName, Leaf::OfAnotherAuthority] {
            scope.spawn(move || {
                let hop = Hop::with(leaf);
                let (server, trace) = traced(setup(&hop, ""));
                let ids = submit_all(&server, COUNT);
                let letter = unfolded(&wait_for_letters(&server, "bob@example.org", 1)[0]);
                assert!(letter.contains("certificate"), "{letter}");
                assert_rests(&server, &ids, "certificate");
                assert_eq!((hop.count("AUTH"), written(&trace)), (0, Vec::new()), "{leaf:?}");
                let _ = fs::remove_file(trace);
            });
        }
    });
}

/// A port where nothing listens, a name that does not exist: a fault that passes, so nobody is told yet.
#[test]
fn no_connection_and_no_name() {
    if !strace_works() {
        return;
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    thread::scope(|scope| {
        for (host, reason) in [(format!("localhost:{closed}"), "connect"), ("no-such-host.invalid:465".to_owned(), "dns")] {
            scope.spawn(move || {
                let hop = Hop::new();
                let mut setup = setup(&hop, "");
                setup.outgoing = setup.outgoing.replace(&format!("localhost:{}", hop.address.port()), &host);
                let (server, trace) = traced(setup);
                let ids = submit_all(&server, COUNT);
                assert_rests(&server, &ids, reason);
                assert_eq!(written(&trace), Vec::<String>::new(), "{reason}");
                assert!(letters(&server, "bob@example.org").is_empty(), "{reason}");
                let _ = fs::remove_file(trace);
            });
        }
    });
}

/// A day's quota that is used up: the message that shows it waits with the others.
#[test]
fn a_quota_that_is_used_up() {
    for stage in ["MAIL", "RCPT", "."] {
        let hop = Hop::new();
        hop.rule(move |asked| if asked.stage == stage { Said::Reply("550 5.4.5 daily quota exceeded") } else { Said::Usual });
        let server = setup(&hop, "connections = 1").start();
        let ids = submit_all(&server, COUNT);
        assert_rests(&server, &ids, "quota");
        assert_eq!(hop.count(stage), 1);
    }
}

/// Five refusals in a row, of different messages: it is the account, not the messages.
#[test]
fn a_smarthost_that_refuses_everything() {
    let hop = Hop::new();
    hop.rule(|asked| if asked.stage == "MAIL" { Said::Reply("554 5.7.1 account suspended") } else { Said::Usual });
    let server = setup(&hop, "connections = 1").start();
    let ids = submit_all(&server, COUNT);
    let letter = unfolded(&wait_for_letters(&server, "bob@example.org", 1)[0]);
    assert!(letter.contains("account suspended"), "{letter}");
    server.wait_for_log(&["route ", "state=resting", "reason=refuses-everything"]);
    assert_eq!(queued(&server), ids);
    assert!(letters(&server, ALICE).is_empty() && lines(&server, " failed ").is_empty(), "{}", server.log_text());
    assert_eq!(hop.count("MAIL"), 5);
}

/// When it is over the operator says so, and all go out: whatever the fault was.
#[test]
fn tried_when_it_is_over() {
    thread::scope(|scope| {
        for (fault, reason) in
            [("certificate", "certificate"), ("greeting", "greeting"), ("quota", "quota"), ("everything", "refuses-everything")]
        {
            scope.spawn(move || {
                let hop = Hop::new();
                match fault {
                    "certificate" => hop.certificate(Leaf::Expired),
                    "greeting" => {
                        hop.rule(|asked| if asked.stage == "connect" { Said::Reply("554 not today") } else { Said::Usual })
                    }
                    "quota" => {
                        hop.rule(|asked| if asked.stage == "MAIL" { Said::Reply("552 5.4.5 over quota") } else { Said::Usual })
                    }
                    _ => hop.rule(|asked| if asked.stage == "." { Said::Reply("554 5.7.1 no") } else { Said::Usual }),
                }
                let server = setup(&hop, "connections = 1").start();
                // Of those that are refused each waits by itself, and one that is left is the probe.
                let count = if fault == "everything" { COUNT + 4 } else { COUNT };
                let ids = submit_all(&server, count);
                if fault == "everything" {
                    server.wait_for_log(&["state=resting", &format!("reason={reason}")]);
                } else {
                    assert_rests(&server, &ids, reason);
                }
                let shown = said(&server, &["routes"]);
                assert!(shown.contains("next") && shown.contains("resting"), "{shown}");
                // The same again is no news.
                let before = hop.count("connect") + hop.count("MAIL");
                said(&server, &["routes", "try", "next"]);
                wait_until("it was tried", &server, || {
                    fault == "certificate" || hop.count("connect") + hop.count("MAIL") > before
                });
                thread::sleep(Duration::from_millis(100));
                assert_eq!(lines(&server, " route route=next").len(), 1, "{}", server.log_text());
                hop.certificate(Leaf::Good);
                hop.rule(|_| Said::Usual);
                wait_until("it is well", &server, || {
                    said(&server, &["routes", "try", "next"]);
                    thread::sleep(Duration::from_millis(50));
                    !lines(&server, "state=well").is_empty()
                });
                hop.wait_for_messages(count);
                wait_until_sent(&server);
                assert!(letters(&server, ALICE).is_empty(), "{fault}");
                assert_eq!((lines(&server, "state=well").len(), hop.taken_count()), (1, count), "{}", server.log_text());
            });
        }
    });
}

/// What a verb says.
pub(super) fn said(server: &Server, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    common::said(&common::finish(command.arg("-c").arg(&server.config).args(words)))
}

/// The route to use while the first one rests; per recipient and per sender; `refuse`.
#[test]
fn which_route() {
    let (first, second, third) = (Hop::new(), Hop::new(), Hop::new());
    first.down(true);
    let outgoing = format!(
        "[outgoing]\nvia = \"first\"\nspool = \"{{place}}/spool\"\npostmaster = \"bob@example.org\"\n{}then = \"second\"\n{}{}\
         [outgoing.to]\n\"partner.example\" = \"third\"\n\"*.below.example\" = \"third\"\n\"never.example\" = \"refuse\"\n\
         [outgoing.from]\n\"bob@example.org\" = \"third\"\n",
        first.route("first"),
        second.route("second"),
        third.route("third"),
    );
    let server = Setup { outgoing, services: vec!["submissions"], ..Setup::default() }.start();
    let mut client = server.login(ALICE);
    for to in ["x@there.example", "x@partner.example", "x@a.below.example", "x@below.example"] {
        submit(&mut client, "<alice@example.org>", &[&format!("<{to}>")], plain(to).as_bytes());
    }
    client.say("MAIL FROM:<alice@example.org>", "250");
    let refused = client.say("RCPT TO:<x@never.example>", "550 5.7.1");
    assert!(refused.contains("never.example"), "{refused}");
    client.say("RSET", "250");
    let mut bob = server.login("bob@example.org");
    submit(&mut bob, "<bob@example.org>", &["<y@there.example>"], b"From: bob@example.org\r\n\r\nx\r\n");
    let to = |hop: &Hop, count| {
        let mut to: Vec<String> = hop.wait_for_messages(count).into_iter().flat_map(|taken| taken.rcpt).collect();
        to.sort();
        to
    };
    assert_eq!(to(&third, 3), ["RCPT TO:<x@a.below.example>", "RCPT TO:<x@partner.example>", "RCPT TO:<y@there.example>"]);
    assert_eq!(to(&second, 2), ["RCPT TO:<x@below.example>", "RCPT TO:<x@there.example>"]);
    wait_until_sent(&server);
    assert_eq!(first.taken_count(), 0);
    assert_eq!(lines(&server, "state=resting").len(), 1, "{}", server.log_text());
}

/// STARTTLS or nothing: no message and no password in the clear.
#[test]
fn a_submission_route_without_starttls() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain_server = thread::spawn(move || {
        use std::io::{BufRead as _, BufReader, Write as _};
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.write_all(b"220 clear.example\r\n").unwrap();
        let mut heard = Vec::new();
        for line in BufReader::new(tcp.try_clone().unwrap()).lines().map_while(Result::ok) {
            let reply = if line.starts_with("EHLO") { "250-clear.example\r\n250 AUTH PLAIN\r\n" } else { "221 bye\r\n" };
            let quits = line == "QUIT";
            heard.push(line);
            if tcp.write_all(reply.as_bytes()).is_err() || quits {
                break;
            }
        }
        heard
    });
    let hop = Hop::new();
    let mut setup = setup(&hop, "");
    setup.outgoing =
        setup.outgoing.replace(&format!("smtps://localhost:{}", hop.address.port()), &format!("submission://localhost:{port}"));
    let server = setup.start();
    let ids = submit_all(&server, 1);
    assert_rests(&server, &ids, "tls");
    let heard = plain_server.join().unwrap();
    assert!(heard.iter().all(|line| line.starts_with("EHLO") || line == "QUIT"), "{heard:?}");
}

/// A route that is down with thousands of messages, beside a working one: nothing is written for them, and the other goes on.
#[test]
fn ten_thousand_for_a_dead_route() {
    let dead = Hop::new();
    dead.down(true);
    let live = Hop::new();
    let mut setup = setup(&live, "");
    setup.outgoing.push_str(&format!("{}[outgoing.to]\n\"dead.example\" = \"dead\"\n", dead.route("dead")));
    // Put there as an earlier server has left them.
    let mut server = setup.start();
    let id = mail_to(&server, &["x@dead.example"], "the first of many");
    server.wait_for_log(&["route=dead", "state=resting"]);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.wait(PATIENCE);
    let latency = |server: &Server| {
        let begun = Instant::now();
        let before = live.taken_count();
        let mut client = server.login(ALICE);
        for n in 0..20 {
            submit(&mut client, "<alice@example.org>", &["<x@there.example>"], plain(&n.to_string()).as_bytes());
            live.wait_for_messages(before + n + 1);
        }
        begun.elapsed()
    };
    server.restart();
    let alone = latency(&server);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.wait(PATIENCE);
    let count = 10_000;
    copy_many(&server, &id, count);
    server.restart();
    wait_until("all are read", &server, || lines(&server, "route=dead").iter().any(|line| line.contains("resting")));
    let beside = latency(&server);
    println!("20 messages one after the other: {alone:?} alone, {beside:?} beside {count} for a dead route");
    wait_until("the live ones are gone", &server, || queued(&server).len() == count);
    let spool = server.dir.path().join("spool/queue");
    let stamps = stamps(&spool);
    latency(&server);
    wait_until("the live ones are gone", &server, || queued(&server).len() == count);
    assert_eq!(self::stamps(&spool), stamps, "a file of the dead route was touched");
    assert_eq!(lines(&server, "state=resting").len(), 1, "{}", server.log_text());
}

/// Thousands of messages of one login before one of another: it waits for what is being sent, and for nothing more.
#[test]
fn ten_thousand_of_one_login() {
    let hop = Hop::new();
    hop.down(true);
    let mut server = setup(&hop, "").start();
    let id = mail_to(&server, &["x@there.example"], "a newsletter");
    server.wait_for_log(&["state=resting"]);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.wait(PATIENCE);
    copy_many(&server, &id, 10_000);
    hop.down(false);
    hop.rule(|asked| {
        if asked.stage == "." {
            thread::sleep(Duration::from_millis(5));
        }
        Said::Usual
    });
    server.restart();
    hop.wait_for_messages(100);
    let mut bob = server.login("bob@example.org");
    let before = hop.count("MAIL");
    submit(&mut bob, "<bob@example.org>", &["<y@other.example>"], b"From: bob@example.org\r\n\r\nreset\r\n");
    wait_until("it is begun", &server, || hop.heard().iter().any(|line| line.starts_with("MAIL FROM:<bob@")));
    let begun: Vec<String> = hop.heard().into_iter().filter(|line| line.starts_with("MAIL FROM:")).collect();
    let at = begun.iter().position(|line| line.starts_with("MAIL FROM:<bob@")).unwrap();
    println!("{} transactions began between the submission of another login's message and its own", at - before);
    // A handful while it was accepted, then one for each connection; not ten thousand.
    assert!(at - before < 200, "{at} {before}");
}

/// Sizes, time stamps and changes of every file.
fn stamps(directory: &Path) -> std::collections::BTreeMap<String, [i64; 4]> {
    use std::os::unix::fs::MetadataExt as _;
    let stamp = |entry: fs::DirEntry| {
        let data = entry.metadata().ok()?;
        let stamp = [data.size() as i64, data.mtime(), data.ctime(), data.ctime_nsec()];
        Some((entry.file_name().into_string().ok()?, stamp))
    };
    fs::read_dir(directory).unwrap().flatten().filter_map(stamp).collect()
}

/// So many files in the spool altogether, each with an id of its own.
pub(super) fn copy_many(server: &Server, id: &str, count: usize) {
    use std::os::unix::fs::MetadataExt as _;
    let spool = queue_dir(server);
    let content = fs::read(spool.join(id)).unwrap();
    let owner = fs::metadata(spool.join(id)).unwrap();
    let mut made = 1;
    let alphabet: Vec<char> = "0123456789abcdefghjkmnpqrstvwxyz".chars().collect();
    for a in &alphabet {
        for b in &alphabet {
            for c in &alphabet {
                let name = format!("{}{a}{b}{c}", &id[..id.len() - 3]);
                if made >= count {
                    return;
                }
                if name == id {
                    continue;
                }
                let path = spool.join(&name);
                fs::write(&path, &content).unwrap();
                if nix::unistd::geteuid().is_root() {
                    std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
                }
                made += 1;
            }
        }
    }
    assert_eq!(made, count);
}
