//! SIGTERM, SIGHUP, and files of the spool that are not as they should be.

use super::*;
use common::hop::Said;
use nix::sys::signal::Signal;

/// No transaction begins after SIGTERM, one that is in its content ends within `drain`, the rest stays.
#[test]
fn a_stop_lets_the_content_end() {
    let hop = Hop::new();
    hop.rule(|asked| if asked.stage == "." && asked.nth == 0 { Said::Hold } else { Said::Usual });
    let mut server = setup(&hop, "connections = 1").start();
    let first = mail_to(&server, &["a@there.example"], "first");
    hop.wait_for_held(".", 1);
    let second = mail_to(&server, &["b@there.example"], "second");
    server.signal(Signal::SIGTERM);
    server.wait_for_log(&["draining"]);
    thread::sleep(Duration::from_millis(100));
    hop.let_go();
    assert_eq!(server.wait(PATIENCE), Some(0));
    assert_eq!((hop.taken_count(), queued(&server)), (1, vec![second.clone()]));
    server.restart();
    let taken = hop.wait_for_messages(2);
    assert_eq!(taken[1].rcpt, ["RCPT TO:<b@there.example>"]);
    wait_until_sent(&server);
    assert!(lines(&server, "maybe-twice").is_empty() && hop.taken_count() == 2, "{first} {second}: {}", server.log_text());
}

/// One that does not end within `drain` is cut after its dot: it may have arrived. It is named, and sent again or held.
#[test]
fn a_stop_that_cuts() {
    for (mode, is_held) in [("resend", false), ("hold", true)] {
        let hop = Hop::new();
        hop.rule(|asked| if asked.stage == "." && asked.nth == 0 { Said::Hold } else { Said::Usual });
        let setup = setup(&hop, &format!("after_crash = \"{mode}\"")).limit("drain = \"1s\"");
        let mut server = setup.start();
        let id = mail_to(&server, &["a@there.example"], "cut");
        hop.wait_for_held(".", 1);
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait(PATIENCE), Some(0));
        assert_eq!(lines(&server, "maybe-twice").len(), 1, "{}", server.log_text());
        assert_eq!(if is_held { held(&server) } else { queued(&server) }, [id.as_str()], "{mode}");
        let text = routes::said(&server, &["queue"]);
        assert!(text.contains("may have arrived"), "{mode}: {text}");
        // Its wait is over.
        due_now(&server, &id);
        server.restart();
        if is_held {
            mail_to(&server, &["b@there.example"], "another");
            assert_eq!(hop.wait_for_messages(1)[0].rcpt, ["RCPT TO:<b@there.example>"]);
        } else {
            assert_eq!(hop.wait_for_messages(1)[0].rcpt, ["RCPT TO:<a@there.example>"]);
            wait_until_sent(&server);
        }
    }
}

/// What waits for a reply to a command ends at once.
#[test]
fn a_stop_before_the_content() {
    let hop = Hop::new();
    hop.rule(|asked| if asked.stage == "MAIL" && asked.nth == 0 { Said::Hold } else { Said::Usual });
    let mut server = setup(&hop, "").start();
    let id = mail_to(&server, &["a@there.example"], "not yet");
    hop.wait_for_held("MAIL", 1);
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(PATIENCE), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(15), "the drain is 30 s");
    assert_eq!(queued(&server), [id.as_str()]);
    server.restart();
    hop.wait_for_messages(1);
    wait_until_sent(&server);
    assert!(lines(&server, "maybe-twice").is_empty(), "{}", server.log_text());
}

/// A changed route is taken up at SIGHUP, for what waits too.
#[test]
fn a_reload_takes_up_routes() {
    let (first, second) = (Hop::new(), Hop::new());
    first.down(true);
    // The ports of both are known from the start, as the sandbox lets out no other.
    let mut setup = setup(&first, "");
    setup.outgoing.push_str(&second.route("other"));
    let server = setup.clone().start();
    let mut client = server.login(ALICE);
    for to in ["<a@there.example>", "<b@there.example>"] {
        submit(&mut client, "<alice@example.org>", &[to], plain("before").as_bytes());
    }
    // One that is held stays so.
    let held_one = submit(&mut client, "<alice@example.org>", &["<held@there.example>"], plain("held").as_bytes());
    let said = routes::said(&server, &["queue", "hold", &held_one]);
    assert!(said.contains("held"), "{said}");
    // One whose domain is refused from now on.
    submit(&mut client, "<alice@example.org>", &["<x@never.example>"], plain("refused").as_bytes());
    server.wait_for_log(&["route=next", "state=resting"]);
    setup.outgoing = setup.outgoing.replacen("via = \"next\"", "via = \"other\"", 1);
    setup.outgoing.push_str("[outgoing.to]\n\"never.example\" = \"refuse\"\n");
    fs::write(&server.config, setup.toml(server.dir.path())).unwrap();
    server.signal(Signal::SIGHUP);
    let mut to: Vec<String> = second.wait_for_messages(2).into_iter().flat_map(|taken| taken.rcpt).collect();
    to.sort();
    assert_eq!(to, ["RCPT TO:<a@there.example>", "RCPT TO:<b@there.example>"]);
    assert!(wait_for_letters(&server, ALICE, 1)[0].contains("Final-Recipient: rfc822; x@never.example"));
    wait_until("what was refused is gone", &server, || queued(&server).is_empty());
    assert_eq!(held(&server), [held_one.as_str()]);
    routes::said(&server, &["queue", "release", &held_one]);
    assert_eq!(second.wait_for_messages(3)[2].rcpt, ["RCPT TO:<held@there.example>"]);
    wait_until_sent(&server);
    assert_eq!((first.taken_count(), second.taken_count()), (0, 3));
}

/// The same route by another server: a connection that is open to the first one is not used any more.
#[test]
fn a_reload_moves_a_route() {
    let (first, second) = (Hop::new(), Hop::new());
    let mut setup = setup(&first, "");
    setup.outgoing.push_str(&second.route("other"));
    let server = setup.clone().start();
    mail_to(&server, &["a@there.example"], "before");
    first.wait_for_messages(1);
    setup.outgoing = setup.outgoing.replace(&first.route("next"), &second.route("next"));
    fs::write(&server.config, setup.toml(server.dir.path())).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["reloaded", "what=configuration"]);
    // At once, and not only when the open connection is worn out, after a hundred messages.
    let moved = (0..20).any(|n| {
        mail_to(&server, &["b@there.example"], &format!("after {n}"));
        wait_until_sent(&server);
        second.taken_count() > 0
    });
    assert!(moved, "{}", server.log_text());
}

/// Authorities that were replaced are taken up at SIGHUP, though the settings are the same.
#[test]
fn a_reload_reads_the_authorities() {
    let (hop, other) = (Hop::new(), Hop::new());
    let good = fs::read(hop.ca_file()).unwrap();
    fs::copy(other.ca_file(), hop.ca_file()).unwrap();
    let server = setup(&hop, "").start();
    mail_to(&server, &["a@there.example"], "x");
    server.wait_for_log(&["state=resting", "reason=certificate"]);
    fs::write(hop.ca_file(), good).unwrap();
    server.signal(Signal::SIGHUP);
    wait_until("it is sent", &server, || {
        routes::said(&server, &["routes", "try", "next"]);
        hop.taken_count() == 1
    });
}

/// A file that cannot be understood: to held/, and named; the rest goes on.
#[test]
fn damaged_files() {
    let hop = Hop::new();
    hop.down(true);
    let mut server = setup(&hop, "").start();
    let ids: Vec<String> = (0..4).map(|n| mail_to(&server, &[&format!("a@d{n}.example")], "x")).collect();
    server.signal(Signal::SIGTERM);
    server.wait(PATIENCE);
    hop.down(false);
    let queue = queue_dir(&server);
    let cut = fs::read(queue.join(&ids[0])).unwrap();
    fs::write(queue.join(&ids[0]), &cut[..cut.len() / 2]).unwrap();
    fs::write(queue.join(&ids[2]), b"").unwrap();
    fs::write(queue.join("strange"), b"?").unwrap();
    server.restart();
    hop.wait_for_messages(2);
    wait_until("the damaged are held", &server, || held(&server) == [ids[0].clone(), ids[2].clone()]);
    for id in [&ids[0], &ids[2]] {
        server.wait_for_log(&["notice", "about=spool", id]);
    }
    server.wait_for_log(&["notice", "about=spool", "strange"]);
    wait_until("the rest is sent", &server, || queued(&server) == ["strange"]);
    assert_eq!(hop.taken_count(), 2);
}

/// Damaged while the server runs: the courier finds out.
#[test]
fn damaged_while_it_waits() {
    let hop = Hop::new();
    hop.want_password("another");
    let server = setup(&hop, "").start();
    let ids: Vec<String> = (0..2).map(|n| mail_to(&server, &[&format!("a@d{n}.example")], "x")).collect();
    server.wait_for_log(&["state=resting"]);
    fs::OpenOptions::new().write(true).open(queue_dir(&server).join(&ids[0])).unwrap().set_len(100).unwrap();
    hop.want_password("secret");
    hop.write_password("secret");
    hop.wait_for_messages(1);
    wait_until("it is held", &server, || held(&server) == [ids[0].clone()] && queued(&server).is_empty());
    server.wait_for_log(&["notice", "about=spool", &ids[0]]);
}

/// Three attempts without any result: the message ends the process, and is held.
#[test]
fn a_message_that_ends_the_process() {
    let hop = Hop::new();
    hop.rule(|asked| if asked.stage == "DATA" && asked.nth < 3 { Said::Hold } else { Said::Usual });
    let mut server = setup(&hop, "").start();
    let id = mail_to(&server, &["a@there.example"], "deadly");
    for n in 1..=3 {
        hop.wait_for_held("DATA", n);
        kill(&mut server);
        assert_eq!(queued(&server), [id.as_str()], "{n}");
        server.restart();
    }
    server.wait_for_log(&["held", &id, "reason=no-result"]);
    wait_until("it is held", &server, || held(&server) == [id.clone()] && queued(&server).is_empty());
    let another = mail_to(&server, &["b@there.example"], "harmless");
    let taken = hop.wait_for_messages(1);
    assert!(taken[0].rcpt == ["RCPT TO:<b@there.example>"], "{another}");
}

/// A resolver that says nothing holds up neither the stop nor the mail of other routes.
#[test]
fn a_resolver_that_hangs() {
    if !common::require_root() {
        return;
    }
    // Nothing answers there, so that each question waits for its end.
    let Ok(silent) = std::net::UdpSocket::bind("127.9.9.9:53") else {
        skipped("port 53 cannot be had");
        return;
    };
    let hop = Hop::new();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let resolv = dir.path().join("resolv.conf");
    fs::write(&resolv, "nameserver 127.9.9.9\noptions timeout:30 attempts:5\n").unwrap();
    let mut setup = setup(&hop, "");
    let slow = hop.route("slow").replace(&format!("localhost:{}", hop.address.port()), "smtp.slow.example:465");
    setup.outgoing.push_str(&format!("{slow}[outgoing.to]\n\"slow.example\" = \"slow\"\n"));
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    setup.wrapper = ["unshare", "-m", "sh", "-c", script, &resolv.display().to_string()].map(str::to_owned).to_vec();
    let mut server = setup.start();
    let waits = mail_to(&server, &["x@slow.example"], "slow");
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.recv(&mut [0; 512]).expect("a question");
    mail_to(&server, &["x@there.example"], "quick");
    hop.wait_for_messages(1);
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(PATIENCE), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(15), "the resolver would take 30 s, and the drain is as long");
    assert_eq!(queued(&server), [waits]);
}

/// The disk is full in the middle of the record of a result: the message stays, and what is cut short is ignored.
#[test]
fn a_full_disk_in_the_middle_of_a_record() {
    let hop = Hop::new();
    hop.rule(|asked| if asked.stage == "." && asked.nth < 2 { Said::Hold } else { Said::Usual });
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if !accepting::mount_tmpfs(dir.path(), "size=1m,mode=777") {
        return;
    }
    let spool = dir.path().join("spool");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut setup = setup(&hop, "");
        setup.outgoing = setup.outgoing.replace("{place}/spool", &spool.display().to_string());
        let mut server = setup.start();
        let size = |id: &str| fs::metadata(spool.join("queue").join(id)).unwrap().len() as usize;
        // The first shows how much a message takes until its dot; the second ends 20 octets before a page does.
        let first = mail_to(&server, &["x@there.example"], "first");
        hop.wait_for_held(".", 1);
        let more = 4096 * 2 - 20 - size(&first);
        hop.let_go();
        wait_until("the first is sent", &server, || names(&spool.join("queue")).is_empty());
        let content = format!(
            "{}{}\r\n",
            plain("first"),
            "x\r\n".repeat(more / 2 - 1).trim_end().to_owned() + if more % 2 == 0 { "" } else { "x" }
        );
        let second = submit(&mut server.login(ALICE), "<alice@example.org>", &["<x@there.example>"], content.as_bytes());
        hop.wait_for_held(".", 2);
        let left = 4096 * 2 - size(&second);
        assert!((10..=40).contains(&left), "{left}");
        let _ = fs::write(dir.path().join("ballast"), vec![0; 2 << 20]);
        hop.cut_all();
        server.wait_for_log(&["notice", "about=spool"]);
        thread::sleep(Duration::from_millis(200));
        kill(&mut server);
        let file = fs::read_to_string(spool.join("queue").join(&second)).unwrap();
        assert!(!file.ends_with(';'), "a record that was cut short: {:?}", &file[file.len() - 100..]);
        fs::remove_file(dir.path().join("ballast")).unwrap();
        server.restart();
        hop.wait_for_messages(2);
        server.wait_for_log(&["maybe-twice", &second]);
        wait_until("all are sent", &server, || names(&spool.join("queue")).is_empty());
    }));
    let _ = Command::new("umount").arg("-l").arg(dir.path()).status();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// A route to a port that was not known at the start is outside the sandbox: refused, and the old routes are kept.
#[test]
fn a_reload_with_another_port() {
    let (first, second) = (Hop::new(), Hop::new());
    let mut setup = setup(&first, "");
    let server = setup.clone().start();
    if !server.wait_for_log(&["sandbox "]).contains("tcp") {
        skipped("this kernel confines no connections");
        return;
    }
    setup.outgoing = setup.outgoing.replacen("via = \"next\"", "via = \"other\"", 1) + &second.route("other");
    fs::write(&server.config, setup.toml(server.dir.path())).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["reloaded", "what=configuration", "restart"]);
    mail_to(&server, &["b@there.example"], "after");
    first.wait_for_messages(1);
}
