//! When the spool takes nothing: the client is told to come again, with the reason, and local mail goes on.

use super::*;

/// With nothing that is sent on, as its next hop is down.
fn waiting(hop: &Hop, more: &str) -> Setup {
    hop.down(true);
    setup(hop, more)
}

fn local_mail_goes_on(client: &mut Client) {
    submit(client, "<alice@example.org>", &["<bob@example.org>"], plain("local").as_bytes());
}

#[test]
fn the_queue_is_full() {
    let hop = Hop::new();
    let server = Setup { users: users(4), ..waiting(&hop, "queue_max = 8") }.start();
    let reply = |login: &str| {
        let mut client = server.login(login);
        client.say(&format!("MAIL FROM:<{login}>"), "250");
        client.say("RCPT TO:<x@there.example>", "")
    };
    let fill = |login: &str| {
        let mut taken = 0;
        while reply(login).starts_with("250") {
            mail(&server, login);
            taken += 1;
            wait_until("the schedule knows it", &server, || queued(&server).len() >= taken);
        }
        taken
    };
    // Beyond half of the queue a login has at most half of what the others leave.
    assert_eq!(fill("u0@example.org"), 4);
    assert_eq!(fill("u1@example.org"), 2, "of the four that are left");
    assert_eq!(fill("u2@example.org"), 1);
    let refused = reply("u0@example.org");
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    server.wait_for_log(&["refused", "reason=queue-full"]);
    assert_eq!(queued(&server).len(), 7);
    let mut client = server.login("u0@example.org");
    submit(&mut client, "<u0@example.org>", &["<u1@example.org>"], b"From: u0@example.org\r\n\r\nlocal\r\n");
}

fn users(count: usize) -> Vec<(String, String)> {
    let name = |n: usize| (if n == count { ALICE.to_owned() } else { format!("u{n}@example.org") }, "secret".to_owned());
    (0..=count).map(name).chain([("bob@example.org".to_owned(), "secret".to_owned())]).collect()
}

fn mail(server: &Server, login: &str) -> String {
    let content = format!("From: {login}\r\n\r\nx\r\n");
    submit(&mut server.login(login), &format!("<{login}>"), &["<x@there.example>"], content.as_bytes())
}

/// The number of recipients counts: each is one pair with its message.
#[test]
fn one_message_does_not_fill_the_queue() {
    let hop = Hop::new();
    let server = waiting(&hop, "queue_max = 10").start();
    let mut client = server.login(ALICE);
    client.say("MAIL FROM:<alice@example.org>", "250");
    let replies: Vec<String> = (0..12).map(|n| client.say(&format!("RCPT TO:<x{n}@d{n}.example>"), "")[..9].to_owned()).collect();
    let taken = replies.iter().filter(|reply| reply.starts_with("250")).count();
    assert!((5..10).contains(&taken) && replies[taken..].iter().all(|reply| reply == "452 4.3.1"), "{replies:?}");
    client.say("RCPT TO:<bob@example.org>", "250");
    client.say("RSET", "250");
    local_mail_goes_on(&mut client);
}

#[test]
fn the_disk_of_the_spool_is_full() {
    let hop = Hop::new();
    hop.down(true);
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if !mount_tmpfs(dir.path(), "size=64k,mode=777") {
        return;
    }
    let spool = dir.path().join("spool");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut setup = setup(&hop, "");
        setup.outgoing = setup.outgoing.replace("{place}/spool", &spool.display().to_string());
        let server = setup.start();
        let mut client = server.login(ALICE);
        let content = format!("From: alice@example.org\r\n\r\n{}", "0123456789abcdef\r\n".repeat(400));
        let mut taken = Vec::new();
        let refused = loop {
            client.say("MAIL FROM:<alice@example.org>", "250");
            let reply = client.say("RCPT TO:<x@there.example>", "");
            if !reply.starts_with("250") {
                break reply;
            }
            client.say("DATA", "354");
            client.send(format!("{content}.\r\n").as_bytes()).unwrap();
            let reply = client.expect("");
            if !reply.starts_with("250") {
                break reply;
            }
            taken.push(reply.rsplit(' ').next().unwrap().to_owned());
            assert!(taken.len() < 50, "the disk never fills");
        };
        assert!(refused.starts_with("452 4.3.1"), "{refused}");
        server.wait_for_log(&["refused", "reason=spool-full"]);
        assert!(!taken.is_empty() && names(&spool.join("queue")) == taken, "{taken:?}");
        client.say("RSET", "250");
        local_mail_goes_on(&mut client);
    }));
    let _ = Command::new("umount").arg("-l").arg(dir.path()).status();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

pub fn mount_tmpfs(at: &Path, options: &str) -> bool {
    let mount = || Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
    let works = nix::unistd::geteuid().is_root() && mount().is_ok_and(|status| status.success());
    if !works {
        skipped("mounting is not allowed");
    }
    works
}

#[test]
fn the_spool_cannot_be_written() {
    if !nix::unistd::geteuid().is_root() {
        skipped("needs root, so that the server is another user");
        return;
    }
    let hop = Hop::new();
    let server = waiting(&hop, "").start();
    let first = mail_to(&server, &["x@there.example"], "before");
    let queue = queue_dir(&server);
    let owner = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    nix::unistd::chown(&queue, Some(0.into()), Some(0.into())).unwrap();
    let mut client = server.login(ALICE);
    client.say("MAIL FROM:<alice@example.org>", "250");
    client.say("RCPT TO:<x@there.example>", "250");
    client.say("RCPT TO:<bob@example.org>", "250");
    client.say("DATA", "354");
    client.send(format!("{}.\r\n", plain("mixed")).as_bytes()).unwrap();
    client.expect("451 4.3.0");
    // All or none: nothing for bob either.
    assert_eq!(server.new_mail("bob@example.org").len(), 0);
    local_mail_goes_on(&mut client);
    nix::unistd::chown(&queue, Some(owner.uid), Some(owner.gid)).unwrap();
    let second = mail_to(&server, &["x@there.example"], "after");
    assert_eq!(queued(&server), [first, second]);
}

/// Local and remote recipients of one message: both, or none.
#[test]
fn local_and_remote_recipients() {
    let hop = Hop::new();
    let server = setup(&hop, "").start();
    let id = mail_to(&server, &["bob@example.org", "x@there.example", "alice@example.org"], "mixed");
    let taken = hop.wait_for_messages(1).remove(0);
    assert_eq!(taken.rcpt, ["RCPT TO:<x@there.example>"]);
    for mailbox in ["bob@example.org", ALICE] {
        let letter = &letters(&server, mailbox)[0];
        assert!(letter.contains(&format!("<{id}@mx.example.org>")) && letter.contains("Hello."), "{letter}");
    }
    let sent = String::from_utf8(taken.content).unwrap();
    assert!(!sent.contains("Return-Path") && !sent.contains("Delivered-To") && sent.contains(&id), "{sent}");
}

/// Port 25 relays nothing, whatever is configured.
#[test]
fn port_25_never_relays() {
    let hop = Hop::new();
    let server = Setup { services: vec!["smtp", "submissions"], ..setup(&hop, "") }.start();
    let mut client = server.connect("smtp");
    client.expect("220");
    let hello = {
        client.send(b"EHLO x.example\r\n").unwrap();
        client.expect("250");
        client.transcript.clone()
    };
    assert!(!hello.contains("DSN"), "{hello}");
    client.say("MAIL FROM:<alice@example.org>", "250");
    client.say("RCPT TO:<x@there.example>", "550 5.7.1");
    assert!(queued(&server).is_empty());
}
