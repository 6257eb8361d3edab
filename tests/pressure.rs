//! Slow, silent and too many clients: each is gone in time, and whoever speaks gets through.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, PATIENCE, Server, Setup, base64, uninterrupted};
use pillarbox::conn::context::Context;
use pillarbox::mail::durable::{DeliveryStep, Faults};
use pillarbox::net::listener::Listener;
use pillarbox::server::{self, load};
use pillarbox::smtp::reply::Refusal;
use pillarbox::smtp::session::Service;

fn from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let tcp = common::from(source, to).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp
}

/// Everything until the connection ends.
fn rest(mut tcp: &TcpStream) -> String {
    let mut text = Vec::new();
    let _ = tcp.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn says(text: &str, why: Refusal) -> bool {
    let parts = why.parts();
    text.contains(&format!("{} {}.{}.{} {}", parts.code, parts.status.0, parts.status.1, parts.status.2, parts.text))
}

fn client(server: &Server, tcp: TcpStream) -> Client {
    Client::over(tcp, &server.dir.path().join("cert.pem"))
}

#[test]
fn one_address_holds_its_share_only() {
    let server = Setup::default().limit("per_address = 2").start();
    let smtp = server.address("smtp");
    let (first, _second) = (from([127, 0, 0, 50], smtp), from([127, 0, 0, 50], smtp));
    assert!(says(&rest(&from([127, 0, 0, 50], smtp)), Refusal::PerAddress));
    assert_eq!(rest(&from([127, 0, 0, 50], server.address("submissions"))), "", "closed without a word on 465");
    server.wait_for_log(&["overloaded", "peer=127.0.0.50:", "reason=per-address"]);
    client(&server, from([127, 0, 0, 51], smtp)).expect("220");
    drop(first);
    let begun = Instant::now();
    while !client(&server, from([127, 0, 0, 50], smtp)).line().is_some_and(|line| line.starts_with("220")) {
        assert!(begun.elapsed() < PATIENCE, "the slot is not given back");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_full_server_says_so_at_once() {
    let server = Setup::default().limit("workers = 1").limit("waiting = 1").start();
    let _working = server.login("alice@example.org");
    let _waiting = from([127, 0, 0, 60], server.address("smtp"));
    thread::sleep(Duration::from_millis(200));
    let mut refused = from([127, 0, 0, 61], server.address("smtp"));
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = [0; 200];
    let octets = uninterrupted(|| refused.read(&mut text)).unwrap();
    assert!(says(&String::from_utf8_lossy(&text[..octets]), Refusal::Overloaded));
    server.wait_for_log(&["overloaded", "peer=127.0.0.61:", "reason=overloaded"]);
}

#[test]
fn the_silent_make_room_and_are_told() {
    let server = Setup::default().limit("workers = 2").start();
    let silent: Vec<_> = (0..2).map(|n| from([127, 0, 0, 70 + n], server.address("smtp"))).collect();
    for tcp in &silent {
        let mut greeting = [0; 64];
        let mut tcp = tcp;
        let octets = uninterrupted(|| tcp.read(&mut greeting)).unwrap();
        assert!(greeting[..octets].starts_with(b"220"));
    }
    let mut speaks = client(&server, from([127, 0, 0, 80], server.address("smtp")));
    speaks.expect("220");
    speaks.say("EHLO speaks.example", "250");
    let told = silent.iter().filter(|tcp| {
        tcp.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        says(&rest(tcp), Refusal::Evicted)
    });
    assert_eq!(told.count(), 1, "one made room, the other stays");
}

/// Stalled at every stage, many more than there is room for; and one that speaks.
#[test]
fn whoever_speaks_gets_through() {
    let server = Setup::default().limit("workers = 16").limit("waiting = 8").start();
    let stop = Arc::new(AtomicBool::new(false));
    let (submission, submissions, smtp) = (server.address("submission"), server.address("submissions"), server.address("smtp"));
    let attackers: Vec<_> = (0..20u8)
        .map(|n| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut held: Vec<TcpStream> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let stage: (SocketAddr, &[u8]) = match held.len() % 4 {
                        0 => (smtp, b""),
                        1 => (smtp, b"EHLO stal"),
                        2 => (submission, b"EHLO stall.example\r\nSTARTTLS\r\n\x16\x03\x01"),
                        _ => (submissions, b"\x16\x03\x01\x02\x00\x01"),
                    };
                    let mut tcp = from([127, 0, 1, n], stage.0);
                    let _ = tcp.write_all(stage.1);
                    held.push(tcp);
                    if held.len() >= 10 {
                        held.remove(0);
                    }
                    thread::sleep(Duration::from_millis(30));
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    let mut accepted = 0;
    for n in 0..6 {
        let mut good = client(&server, from([127, 0, 2, 1], submissions));
        good.tls().unwrap_or_else(|error| panic!("message {n}: {error}"));
        good.expect("220");
        good.say("EHLO good.example", "250");
        good.say(&format!("AUTH PLAIN {}", base64(b"\0alice@example.org\0secret")), "235");
        let reply = good.deliver("alice@example.org", "bob@example.org", b"Subject: x\r\n");
        assert!(reply.as_deref().is_some_and(|reply| reply.starts_with("250")), "{reply:?}");
        accepted += 1;
    }
    stop.store(true, Ordering::Relaxed);
    attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
    assert_eq!(server.new_mail("bob@example.org").len(), accepted);
}

/// Three quarters of the workers are busy: who is logged in and idle leaves after 10 seconds instead of 5 minutes.
#[test]
fn idle_limits_shrink_under_pressure() {
    let server = Setup::default().limit("workers = 4").start();
    let idle: Vec<Client> = (0..3).map(|_| server.login("alice@example.org")).collect();
    let begun = Instant::now();
    // Whichever is first: when it has gone the pressure has, and the others may stay.
    server.wait_for_log(&["timeout", "where=command"]);
    assert!(begun.elapsed() > Duration::from_secs(5), "but not at once");
    let told = idle.into_iter().filter(|client| {
        client.tcp().set_nonblocking(true).unwrap();
        thread::sleep(Duration::from_millis(50));
        client.tcp().peek(&mut [0]).is_ok()
    });
    assert!(told.count() >= 1, "and it is told why");
}

/// Sends `octets` one at a time until the server closes; gives what it said.
fn drip(mut tcp: TcpStream, octets: &[u8], pause: Duration) -> String {
    let begun = Instant::now();
    for octet in octets.iter().cycle() {
        if tcp.write_all(&[*octet]).is_err() {
            break;
        }
        tcp.set_read_timeout(Some(pause)).unwrap();
        let mut text = [0; 200];
        match tcp.peek(&mut text) {
            Ok(0) => break,
            Ok(n) if text[..n].windows(4).any(|four| four == b"421 ") => break,
            _ => thread::sleep(pause / 10),
        }
        assert!(begun.elapsed() < PATIENCE, "it lasts");
    }
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    rest(&tcp)
}

#[test]
fn the_slow_are_gone_in_time() {
    let setup = Setup::default().limit("idle = \"2s\"").limit("login = \"2s\"").limit("data_rate = 1000");
    let server = setup.start();
    let (smtp, submissions, submission) = (server.address("smtp"), server.address("submissions"), server.address("submission"));
    let pause = Duration::from_millis(100);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut slow = client(&server, from([127, 0, 3, 1], smtp));
            slow.expect("220");
            let text = drip(slow.tcp().try_clone().unwrap(), b"x", pause);
            assert!(says(&text, Refusal::Timeout), "a command: {text}");
            server.wait_for_log(&["timeout", "peer=127.0.3.1:", "where=command"]);
        });
        scope.spawn(|| {
            let text = drip(from([127, 0, 3, 2], submissions), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", pause);
            assert!(!text.contains("421"), "a handshake has no words: {text}");
            server.wait_for_log(&["timeout", "peer=127.0.3.2:", "where=handshake"]);
        });
        scope.spawn(|| {
            let mut slow = client(&server, from([127, 0, 3, 3], smtp));
            slow.expect("220");
            slow.say("EHLO slow.example", "250");
            slow.say("MAIL FROM:<>", "250");
            slow.say("RCPT TO:<alice@example.org>", "250");
            slow.say("DATA", "354");
            let text = drip(slow.tcp().try_clone().unwrap(), b"x", pause);
            assert!(says(&text, Refusal::Timeout), "content: {text}");
            server.wait_for_log(&["timeout", "peer=127.0.3.3:", "where=data"]);
        });
        scope.spawn(|| {
            let mut slow = client(&server, from([127, 0, 3, 4], smtp));
            slow.expect("220");
            slow.say("EHLO slow.example", "250");
            slow.say("MAIL FROM:<>", "250");
            slow.say("RCPT TO:<alice@example.org>", "250");
            slow.send(b"BDAT 100000 LAST\r\nSubject: x").unwrap();
            assert!(says(&slow.reply().unwrap(), Refusal::Timeout));
            server.wait_for_log(&["timeout", "peer=127.0.3.4:", "where=chunk"]);
        });
        scope.spawn(|| {
            // Reads nothing, while every command has an answer.
            let mut deaf = from([127, 0, 3, 5], smtp);
            deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let help = b"HELP\r\n".repeat(1000);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(10) && !server.log_text().contains("peer=127.0.3.5:") {
                thread::sleep(pause);
            }
            while begun.elapsed() < PATIENCE && !server.log_text().contains("where=reply") {
                let _ = deaf.write_all(&help);
            }
            server.wait_for_log(&["timeout", "peer=127.0.3.5:", "where=reply"]);
        });
        scope.spawn(|| {
            let mut slow = client(&server, from([127, 0, 3, 6], submissions));
            slow.tls().unwrap();
            slow.expect("220");
            slow.say("EHLO slow.example", "250");
            slow.say("AUTH LOGIN", "334");
            assert!(says(&slow.reply().unwrap(), Refusal::Timeout));
            server.wait_for_log(&["timeout", "peer=127.0.3.6:", "where=auth"]);
        });
        scope.spawn(|| {
            // Busy, but never logged in: the login limit is a total.
            let mut busy = client(&server, from([127, 0, 3, 7], submission));
            busy.expect("220");
            let begun = Instant::now();
            let last = loop {
                if busy.send(b"NOOP\r\n").is_err() {
                    break busy.reply();
                }
                match busy.reply() {
                    Some(reply) if reply.starts_with("250") => thread::sleep(pause),
                    other => break other,
                }
                assert!(begun.elapsed() < PATIENCE, "it lasts");
            };
            assert!(last.is_none_or(|reply| says(&reply, Refusal::Timeout)));
        });
    });
    assert!(server.new_mail("alice@example.org").is_empty());
}

/// Always something to read, and never a line: the limit of the session ends that too.
#[test]
fn a_flood_ends_with_the_session() {
    let server = Setup::default().limit("login = \"1s\"").start();
    let mut tcp = from([127, 0, 3, 20], server.address("submission"));
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    // Whoever speaks before the greeting is turned away for that.
    let mut greeting = [0; 3];
    tcp.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, *b"220");
    let (flood, begun) = (vec![b'x'; 1 << 20], Instant::now());
    while tcp.write_all(&flood).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it lasts");
    }
    server.wait_for_log(&["timeout", "peer=127.0.3.20:", "where=command"]);
}

/// A server within this process, so that a fault can be injected.
fn in_process(setup: &Setup, faults: Faults) -> (tempfile::TempDir, server::Server, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let config = load::config(&setup.write(dir.path())).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let context = Arc::new(Context::new(load::snapshot(config, &Default::default()).unwrap(), faults));
    let server = server::Server::start(context, vec![Listener { socket, service: Service::Smtp }], None).unwrap();
    (dir, server, address)
}

#[test]
fn a_panic_costs_one_session() {
    let first = AtomicBool::new(true);
    let faults = Faults::new(move |step| {
        assert!(step != DeliveryStep::Write || !first.swap(false, Ordering::SeqCst), "a defect, injected");
        Ok(())
    });
    // One worker: if the panic took it along, nobody would serve the second session.
    let (dir, server, address) = in_process(&Setup::default().limit("workers = 1"), faults);
    let mut replies = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(address, &dir.path().join("cert.pem"));
        client.expect("220");
        client.say("EHLO x.example", "250");
        replies.push(client.deliver("", "bob@example.org", b"Subject: x\r\n"));
    }
    assert_eq!(replies[0], None, "the session ends");
    assert!(replies[1].as_deref().is_some_and(|reply| reply.starts_with("250")), "{replies:?}");
    assert!(server.drain());
}

#[test]
fn too_many_open_files_are_survived() {
    let setup = Setup {
        wrapper: ["sh", "-c", "ulimit -n 24; exec \"$@\"", "sh"].map(str::to_owned).to_vec(),
        services: vec!["smtp"],
        ..Setup::default()
    };
    let server = setup.limit("per_address = 1000").start();
    let held: Vec<_> = (0..60).map(|_| TcpStream::connect(server.address("smtp")).unwrap()).collect();
    server.wait_for_log(&["accept-failed", "service=smtp", "Too many open files"]);
    thread::sleep(Duration::from_millis(1500));
    let failures = server.log_text().matches("accept-failed").count();
    assert!(failures < 30, "it pauses in between: {failures}");
    drop(held);
    let mut client = server.connect("smtp");
    client.expect("220");
    client.say("EHLO x.example", "250");
    let reply = client.deliver("", "bob@example.org", b"Subject: x\r\n");
    assert!(reply.is_some_and(|reply| reply.starts_with("250")));
}
