//! Limits of sending against the real binary: a stolen password is stopped, and its owner is told.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Server, Setup, finish, said};
use nix::sys::signal::Signal;

fn limited(line: &str) -> Setup {
    Setup { sending_limits: vec![line.to_owned()], ..Setup::default() }
}

/// The letters of this server in a mailbox that have this in their Subject.
fn letters(server: &Server, mailbox: &str, subject: &str) -> Vec<String> {
    let texts = server.new_mail(mailbox).into_iter().map(|file| fs::read_to_string(file).unwrap());
    texts.filter(|text| text.lines().any(|line| line.starts_with("Subject: ") && line.contains(subject))).collect()
}

fn wait_for_letter(server: &Server, mailbox: &str, subject: &str) -> String {
    let begun = Instant::now();
    loop {
        if let Some(letter) = letters(server, mailbox, subject).pop() {
            return letter;
        }
        assert!(begun.elapsed() < PATIENCE, "no letter `{subject}` in {mailbox}: {}", server.log_text());
        thread::sleep(Duration::from_millis(50));
    }
}

fn pillarbox(server: &Server, words: &[&str]) -> String {
    let output = finish(Command::new(env!("CARGO_BIN_EXE_pillarbox")).arg("-c").arg(&server.config).args(words));
    said(&output) + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn the_owner_and_the_postmaster_are_told_once_and_counts_survive_reload_and_restart() {
    let mut server = limited("\"*\" = { messages = [\"5/d\"] }").start();
    let mut bob = server.login("bob@example.org");
    for n in 1..=5 {
        let reply = bob.deliver("bob@example.org", "bob@example.org", format!("Subject: hello {}\r\n", n % 2).as_bytes());
        assert!(reply.unwrap().starts_with("250"), "{n}");
    }
    for _ in 0..3 {
        bob.say("MAIL FROM:<bob@example.org>", "250");
        bob.say("RCPT TO:<alice@example.org>", "450 4.7.1 Your login has sent as much as it may; it goes on at ");
        bob.say("RSET", "250");
    }
    let stop = wait_for_letter(&server, "bob@example.org", "Stopped: bob@example.org");
    for want in [
        "5 messages in one day",
        "Sent from: 127.0.0.",
        "5 messages were accepted lately, with 2 different subjects.",
        "pillarbox user passwd bob@example.org",
        "pillarbox queue hold --from bob@example.org",
        "pillarbox queue drop --from bob@example.org",
        "Delivered-To: bob@example.org",
    ] {
        assert!(stop.contains(want), "{want}\n{stop}");
    }
    let near = wait_for_letter(&server, "bob@example.org", "bob@example.org nears");
    assert!(near.contains("4 of 5 messages in one day"), "{near}");
    // Alice is the postmaster.
    wait_for_letter(&server, "alice@example.org", "Stopped: bob@example.org");
    wait_for_letter(&server, "alice@example.org", "bob@example.org nears");
    server.wait_for_log(&["limited login=bob@example.org what=messages:5/d count=5"]);
    let mut alice = server.login("alice@example.org");
    assert!(alice.deliver("alice@example.org", "bob@example.org", b"Subject: x\r\n").unwrap().starts_with("250"));

    // A limit that is raised keeps what was counted.
    let text = fs::read_to_string(&server.config).unwrap();
    fs::write(&server.config, text.replace("5/d", "6/d")).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["reloaded", "what=configuration", "result=ok"]);
    let mut bob = server.login("bob@example.org");
    assert!(bob.deliver("bob@example.org", "bob@example.org", b"Subject: x\r\n").unwrap().starts_with("250"));
    bob.say("MAIL FROM:<bob@example.org>", "250");
    bob.say("RCPT TO:<alice@example.org>", "450 4.7.1");

    bob.say("RSET", "250");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(PATIENCE), Some(0));
    server.restart();
    let mut bob = server.login("bob@example.org");
    bob.say("MAIL FROM:<bob@example.org>", "250");
    bob.say("RCPT TO:<alice@example.org>", "450 4.7.1");
    let list = pillarbox(&server, &["user", "list"]);
    let row = |login: &str| list.lines().find(|line| line.starts_with(login)).unwrap_or_default().to_owned();
    assert!(row("bob@example.org").ends_with("\t6 messages today, 0 recipients elsewhere"), "{list}");
    assert!(row("alice@example.org").ends_with("\t1 message today, 0 recipients elsewhere"), "{list}");
    let explain = |login: &str| pillarbox(&server, &["explain", "--login", login, "--from", login, "--to", "alice@example.org"]);
    let stopped = explain("bob@example.org");
    assert!(stopped.contains("limit messages 6/d: 0 left\n"), "{stopped}");
    assert!(stopped.contains("refused at RCPT: 450 4.7.1 Your login has sent"), "{stopped}");
    let open = explain("alice@example.org");
    assert!(open.contains("limit messages 6/d: 5 left\n") && open.contains("\naccepted\n"), "{open}");
}

/// 50 connections that write 10,000 messages with one password: as many go as may, and others' mail goes on.
#[test]
fn a_stolen_password_is_stopped() {
    let setup = limited("\"bob@example.org\" = { messages = [\"100/h\"] }").limit("per_address = 200");
    let server = setup.start();
    let memory = || -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let accepted = AtomicUsize::new(0);
    let before = memory();
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut client = server.login("bob@example.org");
                for n in 0..200 {
                    let text = format!("Subject: offer {n}\r\n");
                    match client.deliver("bob@example.org", "bob@example.org", text.as_bytes()) {
                        Some(reply) if reply.starts_with("250") => drop(accepted.fetch_add(1, Ordering::SeqCst)),
                        Some(reply) if reply.starts_with("450") => {
                            let said = client.send(b"RSET\r\n");
                            let mut goes_on = |code| client.reply().is_some_and(|reply| reply.starts_with(code));
                            if said.is_err() || !(goes_on("554") && goes_on("250")) {
                                drop(client);
                                client = server.login("bob@example.org");
                            }
                        }
                        _ => {
                            drop(client);
                            client = server.login("bob@example.org");
                        }
                    }
                }
            });
        }
        let mut alice = server.login("alice@example.org");
        for n in 0..50 {
            let reply = alice.deliver("alice@example.org", "alice@example.org", b"Subject: mine\r\n").unwrap();
            assert!(reply.starts_with("250"), "{n}: {reply}");
        }
    });
    assert_eq!(accepted.load(Ordering::SeqCst), 100);
    wait_for_letter(&server, "bob@example.org", "Stopped: ");
    thread::sleep(Duration::from_millis(1500));
    for (mailbox, subject) in
        [("bob@example.org", "Stopped: "), ("alice@example.org", "Stopped: "), ("alice@example.org", "nears")]
    {
        assert_eq!(letters(&server, mailbox, subject).len(), 1, "{mailbox} {subject}");
    }
    assert_eq!(letters(&server, "alice@example.org", "mine").len(), 50);
    assert_eq!(letters(&server, "bob@example.org", "offer").len(), 100);
    let more = memory().saturating_sub(before);
    assert!(more < 64 << 10, "{more} KiB more");
}
