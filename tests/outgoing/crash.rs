//! A crash at each step, and exactly what the next start makes of it.

use super::*;
use common::hop::Said;

/// Two recipients of one message, the second refused, on a server that was stopped before it could try.
fn stopped_with_a_message(hop: &Hop, more: &str, to: &[&str]) -> (Server, String) {
    hop.down(true);
    let mut server = setup(hop, more).start();
    // The Maildir is there before, so that every link that follows is of a message.
    mail_to(&server, &[ALICE], "the Maildir");
    let id = mail_to(&server, to, "crash");
    server.wait_for_log(&["state=resting"]);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.wait(PATIENCE);
    assert_eq!(queued(&server), [id.as_str()]);
    hop.down(false);
    (server, id)
}

/// Starts it under strace, which kills it at a system call that touches this path.
fn restart_to_die(server: &mut Server, path: &Path, inject: &str) {
    wrap(server, path, inject);
    server.restart_to_its_end();
    server.setup.wrapper.clear();
}

fn restart_under(server: &mut Server, path: &Path, inject: &str) {
    wrap(server, path, inject);
    server.restart();
}

/// What starts it from now on is strace, which injects this into a system call that touches this path.
fn wrap(server: &mut Server, path: &Path, inject: &str) {
    let call = inject.split(':').next().unwrap();
    let trace = server.dir.path().join("strace.log").display().to_string();
    server.setup.wrapper = ["strace", "-f", "-o", &trace, "-P", &path.display().to_string()].map(str::to_owned).to_vec();
    server.setup.wrapper.extend(["-e".into(), format!("trace={call}"), "-e".into(), format!("inject={inject}")]);
}

fn restart(server: &mut Server) {
    server.setup.wrapper.clear();
    server.restart();
}

/// Before the link nothing is there, and the client has no 250.
#[test]
fn accepting() {
    if !strace_works() {
        return;
    }
    let hop = Hop::new();
    for (inject, to, local) in [
        ("linkat:signal=KILL:when=1", vec!["x@there.example"], 0),
        // The local one is durable; it comes again when the client does.
        ("linkat:signal=KILL:when=2", vec!["x@there.example", "bob@example.org"], 1),
    ] {
        let mut server = setup(&hop, "").start();
        mail_to(&server, &["bob@example.org"], "the Maildir");
        let path = server.maildir("bob@example.org").join("new");
        kill(&mut server);
        let trace = server.dir.path().join("strace.log").display().to_string();
        server.setup.wrapper = ["strace", "-f", "-o", &trace, "-e", "trace=linkat", "-e"].map(str::to_owned).to_vec();
        server.setup.wrapper.push(format!("inject={inject}"));
        server.restart();
        let mut client = server.login(ALICE);
        client.say("MAIL FROM:<alice@example.org>", "250");
        for to in &to {
            client.say(&format!("RCPT TO:<{to}>"), "250");
        }
        client.say("DATA", "354");
        client.send(format!("{}.\r\n", plain("crash")).as_bytes()).unwrap();
        assert_eq!(client.reply(), None, "{inject}");
        server.wait(PATIENCE);
        restart(&mut server);
        assert_eq!((queued(&server), fs::read_dir(&path).unwrap().count() - 1), (Vec::new(), local), "{inject}");
        assert_eq!(hop.taken_count(), 0, "{inject}");
    }
}

/// Before the dot nothing can have arrived: tried again, and nothing is said of it.
#[test]
fn an_attempt_before_its_dot() {
    if !strace_works() {
        return;
    }
    // At the record `begin`, and at `dot`.
    for (inject, begins) in [("write:signal=KILL:when=1", 0), ("write:signal=KILL:when=2", 1)] {
        let hop = Hop::new();
        let (mut server, id) = stopped_with_a_message(&hop, "", &["x@there.example"]);
        let path = queue_dir(&server).join(&id);
        restart_to_die(&mut server, &path, inject);
        let file = spool_file(&server, &id);
        assert_eq!((file.matches(" begin ").count(), file.matches(" dot 1;").count()), (begins, 0), "{inject}: {file}");
        assert_eq!(hop.taken_count(), 0, "{inject}");
        restart(&mut server);
        hop.wait_for_messages(1);
        wait_until_sent(&server);
        assert!(lines(&server, "maybe-twice").is_empty() && hop.taken_count() == 1, "{inject}: {}", server.log_text());
    }
}

/// After the dot it may have arrived: named, and sent again or held.
#[test]
fn after_the_dot() {
    for (mode, is_held) in [("resend", false), ("hold", true)] {
        let hop = Hop::new();
        hop.rule(|asked| if asked.stage == "." && asked.nth == 0 { Said::Hold } else { Said::Usual });
        let mut server = setup(&hop, &format!("after_crash = \"{mode}\"")).start();
        let id = mail_to(&server, &["x@there.example"], mode);
        hop.wait_for_held(".", 1);
        kill(&mut server);
        server.restart();
        let line = server.wait_for_log(&["maybe-twice", &id, "x@there.example"]);
        assert!(line.contains("host=localhost[127.0.0.1]"), "{line}");
        if is_held {
            server.wait_for_log(&["held", &id, "reason=may-have-arrived"]);
            wait_until("it is held", &server, || held(&server) == [id.clone()] && queued(&server).is_empty());
            assert_eq!(hop.count("."), 1);
        } else {
            assert_eq!(hop.wait_for_messages(1).len(), 1);
            wait_until_sent(&server);
        }
        assert_eq!(lines(&server, "maybe-twice").len(), 1, "{}", server.log_text());
    }
}

/// What is held for that and goes back to its sender: the report says so, and is not about what an earlier attempt was told.
#[test]
fn what_may_have_arrived_is_returned() {
    let hop = Hop::new();
    hop.rule(|asked| match (asked.stage, asked.nth) {
        (".", 0) => Said::Reply("451 4.7.1 greylisted"),
        (".", 1) => Said::Hold,
        _ => Said::Usual,
    });
    let mut server = setup(&hop, "after_crash = \"hold\"").start();
    let id = mail_to(&server, &["x@there.example"], "returned");
    server.wait_for_log(&["deferred ", &id]);
    let said = super::routes::said(&server, &["queue", "try", &id]);
    assert!(said.contains("tried now"), "{said}");
    hop.wait_for_held(".", 1);
    kill(&mut server);
    server.restart();
    server.wait_for_log(&["held", &id, "reason=may-have-arrived"]);
    wait_until("it is held", &server, || held(&server) == [id.clone()]);
    super::routes::said(&server, &["queue", "return", &id]);
    let report = unfolded(&wait_for_letters(&server, ALICE, 1)[0]);
    assert!(report.contains("The message may have arrived all the same"), "{report}");
    assert!(report.contains("Ask the recipient before you send it again") && !report.contains("greylisted"), "{report}");
}

/// After the reply and before the file is gone: the same, since nothing is known of the reply.
#[test]
fn after_the_reply() {
    if !strace_works() {
        return;
    }
    let hop = Hop::new();
    let (mut server, id) = stopped_with_a_message(&hop, "", &["x@there.example"]);
    let queue = queue_dir(&server);
    restart_to_die(&mut server, &queue, "unlinkat:signal=KILL");
    assert_eq!((hop.taken_count(), queued(&server)), (1, vec![id.clone()]));
    restart(&mut server);
    server.wait_for_log(&["maybe-twice", &id, "x@there.example"]);
    assert_eq!(hop.wait_for_messages(2).len(), 2);
    wait_until_sent(&server);
}

/// Between the failure and its report: the report comes, perhaps twice; what was sent is not sent again.
#[test]
fn between_the_failure_and_its_report() {
    if !strace_works() {
        return;
    }
    // At the link of the report, at the fsync after it, and at the unlink of the message.
    let rows = [("linkat:signal=KILL", "new", 0, 1), ("fsync:signal=KILL", "new", 1, 2), ("unlinkat:signal=KILL", "queue", 1, 1)];
    thread::scope(|scope| {
        for (inject, place, before, after) in rows {
            scope.spawn(move || {
                let hop = Hop::new();
                hop.rule(|asked| match asked.line.contains("bad@") {
                    true => Said::Reply("550 5.1.1 no such user"),
                    false => Said::Usual,
                });
                let (mut server, id) = stopped_with_a_message(&hop, "", &["ok@there.example", "bad@there.example"]);
                let path = if place == "new" { server.maildir(ALICE).join("new") } else { queue_dir(&server) };
                restart_to_die(&mut server, &path, inject);
                let reports =
                    |server: &Server| letters(server, ALICE).iter().filter(|text| text.contains("multipart/report")).count();
                let file = spool_file(&server, &id);
                assert!(file.contains(" 2 failed at=rcpt 550 5.1.1"), "{inject}: {file}");
                assert_eq!(reports(&server), before, "{inject}");
                restart(&mut server);
                wait_until_sent(&server);
                assert_eq!(reports(&server), after, "{inject}: {}", server.log_text());
                assert_eq!(hop.taken_count(), 1, "{inject}: what was sent is not sent again: {file}");
                assert!(lines(&server, "maybe-twice").is_empty(), "{inject}: {}", server.log_text());
            });
        }
    });
}

/// A report that was in the middle of its way into the queue.
#[test]
fn a_report_to_a_sender_elsewhere() {
    if !strace_works() {
        return;
    }
    let hop = Hop::new();
    hop.rule(|asked| if asked.line.contains("bad@") { Said::Reply("550 5.1.1 no such user") } else { Said::Usual });
    hop.down(true);
    let mut setup = setup(&hop, "");
    setup.senders = vec!["\"alice@example.org\" = [\"app@shop.example\"]".into()];
    let mut server = setup.start();
    let content = b"From: app@shop.example\r\n\r\nx\r\n";
    let to = ["<ok@there.example>", "<bad@there.example>"];
    let id = submit(&mut server.login(ALICE), "<app@shop.example>", &to, content);
    server.wait_for_log(&["state=resting"]);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.wait(PATIENCE);
    hop.down(false);
    let queue = queue_dir(&server);
    restart_to_die(&mut server, &queue, "linkat:signal=KILL");
    assert_eq!(queued(&server), [id]);
    restart(&mut server);
    let taken = hop.wait_for_messages(2);
    assert_eq!(
        (taken[1].mail.split(' ').nth(1).unwrap(), &taken[1].rcpt[..]),
        ("FROM:<>", &["RCPT TO:<app@shop.example>".to_owned()][..])
    );
    wait_until_sent(&server);
    assert_eq!(hop.taken_count(), 2);
}

/// A record that cannot be written: the attempt does not begin, and the message stays.
#[test]
fn records_that_cannot_be_written() {
    if !strace_works() {
        return;
    }
    for (inject, stage) in [
        ("write:error=ENOSPC:when=1", "MAIL"),
        // In the middle of the record.
        ("write:retval=20:when=1", "MAIL"),
        ("write:error=ENOSPC:when=2", "."),
        ("write:retval=5:when=2", "."),
    ] {
        let hop = Hop::new();
        let (mut server, id) = stopped_with_a_message(&hop, "", &["x@there.example"]);
        let path = queue_dir(&server).join(&id);
        restart_under(&mut server, &path, inject);
        server.wait_for_log(&["deferred ", &id]);
        assert_eq!((hop.count(stage), queued(&server)), (0, vec![id.clone()]), "{inject}: {}", server.log_text());
        assert!(letters(&server, ALICE).len() == 1 && lines(&server, "maybe-twice").is_empty(), "{inject}");
        kill(&mut server);
        due_now(&server, &id);
        restart(&mut server);
        hop.wait_for_messages(1);
        wait_until_sent(&server);
        assert_eq!(hop.taken_count(), 1, "{inject}");
    }
}

/// A failure that cannot be made durable is not reported, and the message stays until it can.
#[test]
fn a_failure_that_cannot_be_written() {
    if !strace_works() {
        return;
    }
    let hop = Hop::new();
    hop.rule(|asked| if asked.line.contains("bad@") { Said::Reply("550 5.1.1 no such user") } else { Said::Usual });
    let (mut server, id) = stopped_with_a_message(&hop, "", &["ok@there.example", "bad@there.example"]);
    let path = queue_dir(&server).join(&id);
    // The first of each thread: that of the clerk, and one of the sweeper, which comes again.
    restart_under(&mut server, &path, "fdatasync:error=EIO:when=1");
    server.wait_for_log(&["failed ", &id]);
    server.wait_for_log(&["notice", "about=spool"]);
    assert!(letters(&server, ALICE).len() == 1 && queued(&server) == [id.clone()], "{}", server.log_text());
    let letters = wait_for_letters(&server, ALICE, 2);
    assert!(letters.iter().any(|letter| letter.contains("Final-Recipient: rfc822; bad@there.example")), "{letters:?}");
    wait_until_sent(&server);
    assert_eq!((server.new_mail(ALICE).len(), hop.taken_count()), (2, 1));
}

/// With `hold` the record is durable before the dot: without that there is no dot.
#[test]
fn hold_makes_the_dot_durable() {
    if !strace_works() {
        return;
    }
    let hop = Hop::new();
    let (mut server, id) = stopped_with_a_message(&hop, "after_crash = \"hold\"", &["x@there.example"]);
    let path = queue_dir(&server).join(&id);
    restart_under(&mut server, &path, "fdatasync:error=EIO");
    server.wait_for_log(&["deferred ", &id]);
    assert_eq!((hop.count("DATA"), hop.count(".")), (1, 0));
    assert!(lines(&server, "maybe-twice").is_empty(), "{}", server.log_text());
}

/// After a power cut the log says that what was decided last may be done again; not after a stop or a crash.
#[test]
fn the_log_names_a_power_cut() {
    let hop = Hop::new();
    let (mut server, _) = stopped_with_a_message(&hop, "", &["x@there.example"]);
    hop.down(true);
    let boot = server.dir.path().join("spool/boot");
    let says = |server: &Server| lines(server, "power cut").len();
    // A stop in good order leaves nothing undone.
    assert!(!boot.exists());
    restart(&mut server);
    assert_eq!(says(&server), 0);
    let own = fs::read_to_string(&boot).unwrap();
    assert_eq!(own.trim(), fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim());
    kill(&mut server);
    server.restart();
    assert_eq!(says(&server), 0, "{}", server.log_text());
    kill(&mut server);
    fs::write(&boot, "01234567-89ab-cdef-0123-456789abcdef\n").unwrap();
    server.restart();
    server.wait_for_log(&["notice", "about=spool", "power cut"]);
    assert_eq!((says(&server), fs::read_to_string(&boot).unwrap()), (1, own));
}
