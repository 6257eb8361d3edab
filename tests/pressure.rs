//! Slow, silent and too many clients: each is gone in time, and a client that logs in gets through whatever the others do.

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::attack::{Stage, attack};
use common::{Client, PATIENCE, Server, Setup, base64, uninterrupted};
use nix::sys::signal::Signal;
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
fn one_makes_room_and_is_told_why() {
    let server = Setup::default().limit("workers = 4").start();
    // Port 25 has three of them.
    let connect = |n: u8| greeted(client(&server, from([127, 0, 0, 70 + n], server.address("smtp"))));
    let mut idle: Vec<Client> = (0..3).map(connect).collect();
    idle[1].say("EHLO success.example", "250");
    let reply = idle[1].deliver("", "bob@example.org", b"Subject: x\r\n");
    assert!(reply.is_some_and(|reply| reply.starts_with("250")));
    // The latest success stays; of the others, that which has connected first leaves.
    let mut waits = client(&server, from([127, 0, 0, 80], server.address("smtp")));
    waits.expect("220");
    waits.say("EHLO waits.example", "250");
    assert!(says(&rest(idle[0].tcp()), Refusal::Evicted));
    for stays in &mut idle[1..] {
        stays.say("NOOP", "250");
    }
}

fn greeted(mut client: Client) -> Client {
    client.expect("220");
    client
}

#[test]
fn sessions_of_one_login_beyond_a_quarter_make_room() {
    let server = Setup::default().limit("workers = 4").start();
    let mut alice: Vec<Client> = (0..3).map(|_| server.login("alice@example.org")).collect();
    thread::sleep(Duration::from_millis(1500));
    alice.iter_mut().for_each(|stays| drop(stays.say("NOOP", "250")));
    alice[0].say("MAIL FROM:<alice@example.org>", "250");
    let _bob = server.login("bob@example.org");
    let _others = server.connect("smtp");
    let _bob_again = server.login("bob@example.org");
    alice[0].say("RCPT TO:<bob@example.org>", "250");
    let gone = alice[1..].iter_mut().filter_map(Client::reply).filter(|reply| says(reply, Refusal::Evicted)).count();
    assert_eq!(gone, 2, "the busy one stays");
}

/// More attackers than workers, from few networks or from many, which hold what they have or come again when it is taken from them;
/// a client that logs in gets in at the first try, and so does another server on port 25 where that can be.
fn gets_through(stage: Stage) {
    thread::scope(|scope| {
        for (few, again) in [(true, false), (true, true), (false, false), (false, true)] {
            scope.spawn(move || {
                // Sessions of the attack do not end by themselves.
                let server = Setup::default().limit("workers = 16").limit("errors = 1000").start();
                withstands(&server, stage, few, again);
                // Content at the data rate is spared for 30 seconds.
                let spared = matches!(stage, Stage::Data | Stage::Bdat);
                let evicted = server.log_text().contains("reason=evicted");
                assert!(evicted || spared, "{stage:?}, few {few}, again {again}: no attack\n{}", server.log_text());
            });
        }
    });
}

fn withstands(server: &Server, stage: Stage, few: bool, again: bool) {
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..24u8 {
            let source = if few { [127, 0, 1, n % 3] } else { [127, 0, 1, n] };
            scope.spawn(move || {
                attack(server, source, stage, stop);
                while again && !stop.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(50));
                    attack(server, source, stage, stop);
                }
            });
        }
        // Whatever happens to the good clients, the attackers end.
        let _end = End(stop);
        thread::sleep(Duration::from_millis(1500));
        for n in 0..3 {
            let mut good = client(server, from([127, 0, 2, n], server.address("submissions")));
            good.tls().unwrap_or_else(|error| panic!("{stage:?}, few {few}, again {again}: {error}"));
            good.expect("220");
            good.say("EHLO good.example", "250");
            good.say(&format!("AUTH PLAIN {}", base64(b"\0alice@example.org\0secret")), "235");
            let reply = good.deliver("alice@example.org", "bob@example.org", b"Subject: x\r\n");
            assert!(reply.as_deref().is_some_and(|reply| reply.starts_with("250")), "{reply:?}");
        }
        if !matches!(stage, Stage::Data | Stage::Bdat) {
            let mut good = client(server, from([127, 0, 2, 9], server.address("smtp")));
            good.expect("220");
            good.say("EHLO good.example", "250");
            let reply = good.deliver("", "bob@example.org", b"Subject: x\r\n");
            assert!(reply.as_deref().is_some_and(|reply| reply.starts_with("250")), "{reply:?}");
        }
    });
}

/// Ends the attackers when it is dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn stalled_handshakes() {
    gets_through(Stage::Handshake);
}

#[test]
fn stalled_before_ehlo() {
    gets_through(Stage::BeforeEhlo);
}

#[test]
fn stalled_before_the_login() {
    gets_through(Stage::BeforeLogin);
}

#[test]
fn stalled_in_mail() {
    gets_through(Stage::Mail);
}

#[test]
fn stalled_in_rcpt() {
    gets_through(Stage::Rcpt);
}

#[test]
fn dripping_content() {
    gets_through(Stage::SlowData);
}

#[test]
fn content_at_the_data_rate() {
    gets_through(Stage::Data);
}

#[test]
fn a_chunk_at_the_data_rate() {
    gets_through(Stage::Bdat);
}

#[test]
fn replies_that_are_not_read() {
    gets_through(Stage::ReadsNothing);
}

/// One application with all workers of its share, and a slow client; no other connection waits.
#[test]
fn where_none_waits_the_slow_survive() {
    let setup = Setup::default().limit("workers = 4").limit("idle = \"2s\"").limit("data_rate = 500");
    let server = setup.start();
    let server = &server;
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut application = server.login("alice@example.org");
                for _ in 0..12 {
                    thread::sleep(Duration::from_millis(1000));
                    application.say("NOOP", "250");
                }
                let reply = application.deliver("alice@example.org", "bob@example.org", b"Subject: x\r\n");
                assert!(reply.is_some_and(|reply| reply.starts_with("250")));
            });
        }
        scope.spawn(|| {
            let mut modem = server.login("bob@example.org");
            for line in ["MAIL FROM:<bob@example.org>", "RCPT TO:<bob@example.org>"] {
                modem.say(line, "250");
            }
            modem.say("DATA", "354");
            for _ in 0..60 {
                // 2,000 octets a second.
                modem.send(&[[b'x'; 398].as_slice(), b"\r\n"].concat()).unwrap();
                thread::sleep(Duration::from_millis(200));
            }
            modem.send(b".\r\n").unwrap();
            modem.expect("250");
        });
    });
    assert_eq!(server.new_mail("bob@example.org").len(), 3);
}

#[test]
fn waiting_for_a_worker_costs_no_time_to_log_in() {
    let server = Setup::default().limit("workers = 1").limit("login = \"3s\"").start();
    let working = server.login("bob@example.org");
    let mut waits = client(&server, from([127, 0, 0, 90], server.address("submission")));
    thread::sleep(Duration::from_millis(3500));
    drop(working);
    waits.expect("220");
    waits.say("EHLO waits.example", "250");
    waits.say("STARTTLS", "220");
    waits.tls().unwrap();
    waits.say("EHLO waits.example", "250");
    waits.say(&format!("AUTH PLAIN {}", base64(b"\0alice@example.org\0secret")), "235");
}

/// The system starts no thread: a connection waits for that, and is not lost.
#[test]
fn a_connection_waits_until_a_thread_can_be_started() {
    if !common::require(&["prlimit", "setpriv"]) {
        return;
    }
    let server = Setup::default().limit("workers = 4").start();
    let limit = |most: &str| {
        let mut command = Command::new("setpriv");
        if nix::unistd::geteuid().is_root() {
            // The server's user may change its limits, even where root may not.
            let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
            command.args([&format!("--reuid={}", nobody.uid), &format!("--regid={}", nobody.gid), "--clear-groups"]);
        }
        command.args(["prlimit", "--pid", &server.pid().to_string(), &format!("--nproc={most}")]);
        let done = common::finish(&mut command);
        assert!(done.status.success(), "{}", common::said(&done));
    };
    let _first = greeted(server.connect("smtp"));
    limit("1:");
    // There are two threads at most: the one from the start, and one if that was not idle yet.
    let mut others = [server.connect("smtp"), server.connect("smtp")];
    server.wait_for_log(&["notice", "about=worker"]);
    limit("9999:");
    others.iter_mut().for_each(|other| drop(other.expect("220")));
}

/// What came of a message is acknowledged at once, piece by piece, and so is the client's end of the handshake: a client with
/// Nagle's algorithm waits for that.
#[test]
fn what_a_client_waits_for_is_acknowledged_at_once() {
    if !common::require(&["strace"]) {
        return;
    }
    let trace = tempfile::NamedTempFile::new().unwrap();
    let words = ["strace", "-f", "-qq", "-e", "trace=setsockopt", "-o", trace.path().to_str().unwrap()];
    let server = Setup { wrapper: words.map(str::to_owned).to_vec(), ..Setup::default() }.start();
    let count = || std::fs::read_to_string(trace.path()).unwrap().matches("TCP_QUICKACK, [1]").count();
    let acknowledged = |before: usize, what: &str| {
        let begun = Instant::now();
        while count() == before {
            assert!(begun.elapsed() < PATIENCE, "{what} is not acknowledged");
            thread::sleep(Duration::from_millis(5));
        }
    };
    let mut client = greeted(server.connect("submission"));
    client.say("EHLO nagle.example", "250");
    client.say("STARTTLS", "220");
    assert_eq!(count(), 0, "nothing has come that the client waits for");
    client.tls().unwrap();
    acknowledged(0, "the handshake");
    client.say("EHLO nagle.example", "250");
    client.say(&format!("AUTH PLAIN {}", base64(b"\0alice@example.org\0secret")), "235");
    client.say("MAIL FROM:<alice@example.org>", "250");
    client.say("RCPT TO:<bob@example.org>", "250");
    client.say("DATA", "354");
    for piece in 1..=5 {
        let before = count();
        client.send(b"a piece\r\n").unwrap();
        acknowledged(before, &format!("piece {piece}"));
    }
    client.say(".", "250");
    // What is there in one piece is acknowledged by the reply.
    let before = count();
    let reply = client.deliver("alice@example.org", "bob@example.org", b"From: alice@example.org\r\n\r\nx");
    assert!(reply.is_some_and(|reply| reply.starts_with("250")));
    assert_eq!(count(), before);
    // The first octets of a chunk come with its command, which has no reply of its own.
    client.say("MAIL FROM:<alice@example.org>", "250");
    client.say("RCPT TO:<bob@example.org>", "250");
    let before = count();
    client.send(b"BDAT 10 LAST\r\nx\r\n").unwrap();
    acknowledged(before, "the command of a chunk");
    client.send(b"1234567").unwrap();
    client.expect("250");
}

/// A network that has logged in is known after a restart; a damaged file is no error.
#[test]
fn logins_are_remembered_below_state() {
    let mut server = Setup::default().start();
    drop(server.login("alice@example.org"));
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(server.wait(PATIENCE), Some(0));
    let state = server.dir.path().join("state");
    let mode = std::os::unix::fs::PermissionsExt::mode(&state.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    let text = std::fs::read_to_string(state.join("networks")).unwrap();
    assert!(text.starts_with("127.0.0.1 ") && text.lines().count() == 1, "{text}");
    std::fs::write(state.join("networks"), b"\xff\0damaged").unwrap();
    server.restart();
    drop(server.login("alice@example.org"));
    assert!(!server.log_text().contains("about=state"));
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
            // Reads nothing, while every chunk has an answer.
            let mut deaf = common::from_with_buffer([127, 0, 3, 5], smtp, 1).unwrap();
            deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let chunks = "BDAT 1\r\nx".repeat(5000);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(10) && !server.log_text().contains("peer=127.0.3.5:") {
                thread::sleep(pause);
            }
            let _ = deaf.write_all(b"EHLO deaf.example\r\n");
            thread::sleep(pause);
            let _ = deaf.write_all(b"MAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\n");
            while begun.elapsed() < PATIENCE && !server.log_text().contains("where=reply") {
                if deaf.write_all(chunks.as_bytes()).is_err() {
                    thread::sleep(pause);
                }
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
    // A client that speaks before the greeting is turned away for that.
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
    let server = server::Server::start(context, vec![Listener { socket: socket.into(), service: Service::Smtp }], None).unwrap();
    (dir, server, address)
}

#[test]
fn a_panic_costs_one_session() {
    let first = AtomicBool::new(true);
    let faults = Faults::new(move |step| {
        assert!(step != DeliveryStep::Write || !first.swap(false, Ordering::SeqCst), "a defect, injected");
        Ok(())
    });
    // One worker: if the panic ended it, nothing would serve the second session.
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

/// What came in one TLS record and fills the buffer of lines to its last octet: the rest is with the TLS library, and the socket is
/// empty.
#[test]
fn what_is_said_too_early_is_found_in_the_buffer_of_tls() {
    let server = Setup::default().start();
    let mut client = server.login("alice@example.org");
    // After a second without a line the buffer has 512 octets.
    thread::sleep(Duration::from_millis(1500));
    let envelope = "MAIL FROM:<alice@example.org>\r\nRCPT TO:<alice@example.org>\r\n";
    let noop = format!("NOOP {}\r\n", "x".repeat(512 - envelope.len() - "NOOP \r\nDATA\r\n".len()));
    client.send(format!("{envelope}{noop}DATA\r\nSubject: early\r\n\r\n.\r\n").as_bytes()).unwrap();
    for beginning in ["250 2.1.0", "250 2.1.5", "250 2.0.0", "554 5.5.0 Wait for the reply"] {
        client.expect(beginning);
    }
}

/// The same where the rest was read from the socket and is not decrypted yet, as after a message.
#[test]
fn what_is_said_too_early_is_found_before_it_is_decrypted() {
    let server = Setup::default().start();
    let mut client = server.login("alice@example.org");
    client.deliver("alice@example.org", "alice@example.org", b"Subject: x\r\n\r\n").unwrap();
    let mut text = "MAIL FROM:<alice@example.org>\r\nRCPT TO:<alice@example.org>\r\n".to_owned();
    // A record has 16,384 octets; the last of them end the command.
    let end = 16_384 - "DATA\r\n".len();
    while text.len() < end {
        let line = match end - text.len() {
            1001.. => 500,
            left @ 501.. => left / 2,
            left => left,
        };
        text += &format!("NOOP {}\r\n", "x".repeat(line - "NOOP \r\n".len()));
    }
    text += &format!("DATA\r\nSubject: early\r\n\r\n{}.\r\n", "x\r\n".repeat(2700));
    // All of it is there when the server looks.
    server.signal(Signal::SIGSTOP);
    client.send(text.as_bytes()).unwrap();
    server.signal(Signal::SIGCONT);
    let refused = std::iter::from_fn(|| client.reply()).find(|reply| reply.starts_with("354") || reply.starts_with("554"));
    assert!(refused.as_ref().is_some_and(|reply| reply.starts_with("554 5.5.0 Wait for the reply")), "{refused:?}");
}
