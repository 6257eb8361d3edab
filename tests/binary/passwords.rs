//! Passwords under attack: the throttle, the budget, and that nothing shows them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, Client, PATIENCE, Server, Setup, base64, require_root};
use pillarbox::smtp::reply::Refusal;

fn from(source: [u8; 4], server: &Server, service: &str) -> Client {
    Client::over(common::from(source, server.address(service)).unwrap(), &server.dir.path().join("cert.pem"))
}

fn greeted(source: [u8; 4], server: &Server) -> Client {
    let mut client = from(source, server, "submissions");
    client.tls().unwrap();
    client.expect("220");
    client.say("EHLO x.example", "250");
    client
}

fn auth(client: &mut Client, login: &str, password: &str, want: &str) {
    client.say(&format!("AUTH PLAIN {}", base64(format!("\0{login}\0{password}").as_bytes())), want);
}

#[test]
fn a_guessing_address_is_turned_away_at_the_door_and_nobody_else() {
    let server = Setup::default().limit("auth_failures = 2").start();
    let attacker = [127, 0, 4, 1];
    for n in 0..8 {
        auth(&mut greeted(attacker, &server), &format!("login{n}@example.org"), "guess", "535");
    }
    let parts = Refusal::AddressThrottled.parts();
    for service in ["smtp", "submission"] {
        let line = from(attacker, &server, service).line().unwrap();
        assert!(line.starts_with(&format!("{} 4.7.0 {}", parts.code, parts.text)), "{line}");
    }
    let mut text = Vec::new();
    let _ = from(attacker, &server, "submissions").tcp().read_to_end(&mut text);
    assert!(text.is_empty(), "closed without a word, before any TLS");
    server.wait_for_log(&["throttled", "peer=127.0.4.1:", "login=\"\""]);
    // The owner, elsewhere, gets in.
    auth(&mut greeted([127, 0, 4, 2], &server), "alice@example.org", "secret", "235");
}

#[test]
fn a_pair_is_throttled_and_the_owner_elsewhere_is_not() {
    let server = Setup::default().start();
    let mut attacker = greeted([127, 0, 5, 1], &server);
    for _ in 0..5 {
        auth(&mut attacker, "alice@example.org", "guess", "535");
    }
    auth(&mut attacker, "alice@example.org", "secret", "454 4.7.0");
    auth(&mut attacker, "bob@example.org", "secret", "235");
    auth(&mut greeted([127, 0, 5, 2], &server), "alice@example.org", "secret", "235");
}

/// One session holds the whole budget with a hash that never ends; the next is sent away when its time is over.
#[test]
fn a_password_that_cannot_be_checked_in_time_is_answered_with_454() {
    let endless = "{ARGON2ID}$argon2id$v=19$m=1024,t=4000000000,p=1$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let server = Setup::default().limit("hash_memory = \"1M\"").start();
    let users = server.dir.path().join("users");
    fs::write(&users, format!("alice@example.org:{endless}\nbob@example.org:{}\n", common::hash("secret", 8))).unwrap();
    server.wait_for_log(&["reloaded", "what=users", "result=ok"]);
    let mut first = greeted([127, 0, 6, 1], &server);
    first.send(format!("AUTH PLAIN {}\r\n", base64(b"\0alice@example.org\0guess")).as_bytes()).unwrap();
    let mut second = greeted([127, 0, 6, 2], &server);
    let busy = Refusal::AuthBusy.parts();
    auth(&mut second, "bob@example.org", "secret", &format!("{} 4.7.0 {}", busy.code, busy.text));
    server.wait_for_log(&["login-failed", "peer=127.0.6.2:", "reason=auth-busy"]);
    assert!(!server.log_text().contains("throttled"), "the password was not looked at, so nothing counts");
}

/// Logs in on so many connections at the same moment; gives how many got which code.
fn at_once(server: &Server, source: [u8; 4], password: &str) -> BTreeMap<String, usize> {
    const SESSIONS: usize = 32;
    let barrier = Barrier::new(SESSIONS);
    let codes: Vec<String> = thread::scope(|scope| {
        let one = |_| {
            scope.spawn(|| {
                let mut client = greeted(source, server);
                barrier.wait();
                let response = base64(format!("\0alice@example.org\0{password}").as_bytes());
                client.send(format!("AUTH PLAIN {response}\r\n").as_bytes()).unwrap();
                client.reply().unwrap()[..3].to_owned()
            })
        };
        let threads: Vec<_> = (0..SESSIONS).map(one).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    codes.into_iter().fold(BTreeMap::new(), |mut counts, code| {
        *counts.entry(code).or_default() += 1;
        counts
    })
}

#[test]
fn guesses_at_the_same_time_are_no_more_than_the_limit() {
    let server = Setup { hash_memory: 8192, ..Setup::default() }.start();
    let counts = at_once(&server, [127, 0, 7, 1], "guess");
    assert_eq!(counts, BTreeMap::from([("454".into(), 27), ("535".into(), 5)]));
    server.wait_for_log(&[" throttled "]);
    assert_eq!(server.log_text().matches(" throttled ").count(), 1, "said once");
}

#[test]
fn a_program_that_logs_in_many_times_at_once_gets_through() {
    let server = Setup { hash_memory: 8192, ..Setup::default() }.start();
    assert_eq!(at_once(&server, [127, 0, 8, 1], "secret"), BTreeMap::from([("235".into(), 32)]));
}

/// RFC 4616 section 2: an authorization identity that is not the login's. It is a guess like any other.
#[test]
fn a_foreign_identity_is_a_failed_login() {
    let server = Setup::default().start();
    let mut client = greeted([127, 0, 9, 1], &server);
    let plain = |authzid: &str| format!("AUTH PLAIN {}", base64(format!("{authzid}\0alice@example.org\0secret").as_bytes()));
    for _ in 0..5 {
        client.say(&plain("bob@example.org"), "535");
    }
    server.wait_for_log(&["login-failed", "peer=127.0.9.1:", "login=alice@example.org", "reason=other-identity"]);
    client.say(&plain(""), "454 4.7.0");
    greeted([127, 0, 9, 2], &server).say(&plain("Alice@EXAMPLE.org"), "235");
}

/// At the loudest level, through success, failure, malformed responses and a dropped connection.
#[test]
fn no_password_is_ever_logged() {
    let setup = Setup { wrapper: vec!["env".into(), "RUST_LOG=trace".into()], ..Setup::default() };
    let server = setup.start();
    let secrets = ["secret", "correct-horse", "battery-staple"];
    let mut client = greeted([127, 0, 0, 1], &server);
    auth(&mut client, "alice@example.org", "correct-horse", "535");
    client.say("AUTH LOGIN", "334");
    client.say(&base64(b"alice@example.org"), "334");
    client.say(&base64(b"battery-staple"), "535");
    client.say(&format!("AUTH PLAIN {}", base64(b"battery-staple")), "501");
    client.say(&format!("AUTH PLAIN {}!", base64(b"\0a\0correct-horse")), "501");
    client.say(&format!("AUTH {} x", base64(b"\0a\0correct-horse")), "50");
    client.say("AUTH PLAIN", "334");
    client.send(base64(b"\0a\0battery-staple").as_bytes()).unwrap();
    drop(client);
    auth(&mut greeted([127, 0, 0, 1], &server), "alice@example.org", "secret", "235");
    server.wait_for_log(&["login ", "mechanism=PLAIN", "login=alice@example.org"]);
    let log = server.log_text();
    for secret in secrets {
        for form in [secret.to_owned(), base64(secret.as_bytes()).trim_end_matches('=').to_owned()] {
            let form = &form[..form.len() - 2];
            assert!(!log.contains(form), "{form} is in the log:\n{log}");
        }
    }
    assert!(!log.contains(&base64(b"\0alice@example.org\0secret")[..20]), "{log}");
}

/// What a client gave does not stay in the server, neither after the command nor after the session: its memory is searched.
#[test]
fn passwords_do_not_stay_in_memory() {
    if !require_root() {
        return;
    }
    let server = Setup { users: vec![("alice@example.org".into(), "zX7-unmistakable-q9".into())], ..Setup::default() }.start();
    // The clear text, and both forms in which it crosses the wire; the searched-for words never stand whole in a log.
    let plain = base64(b"\0alice@example.org\0zX7-unmistakable-q9");
    for round in 0..3 {
        let mut client = greeted([127, 0, 0, 1], &server);
        match round {
            0 => drop(client.say(&format!("AUTH PLAIN {plain}"), "235")),
            1 => {
                client.say("AUTH LOGIN", "334");
                client.say(&base64(b"alice@example.org"), "334");
                client.say(&base64(b"zX7-unmistakable-q9"), "235");
            }
            _ => {
                client.say("AUTH PLAIN", "334");
                client.say(&plain, "235");
            }
        }
        // The session goes on, and nothing has overwritten the line.
        assert_wiped(&server, "after the login", &plain);
        client.say("QUIT", "221");
    }
    // In pieces, after other commands, and refused: the line does not stand where a buffer begins.
    let mut client = greeted([127, 0, 0, 1], &server);
    let wrong = base64(b"\0alice@example.org\0zX7-unmistakable-q9x");
    client.send(format!("{}AUTH PLAIN {}", "NOOP\r\n".repeat(70), &wrong[..46]).as_bytes()).unwrap();
    (0..70).for_each(|_| drop(client.expect("250")));
    client.send(format!("{}\r\n", &wrong[46..]).as_bytes()).unwrap();
    client.expect("535");
    assert_wiped(&server, "after a refused login", &wrong);
    client.say("QUIT", "221");
    let begun = Instant::now();
    let ended = || server.log_text().lines().filter(|line| line.contains(" disconnect ")).count();
    while ended() < 4 {
        assert!(begun.elapsed() < PATIENCE, "not all sessions end\n{}", server.log_text());
        thread::sleep(Duration::from_millis(5));
    }
    assert_wiped(&server, "after the session", &plain);
}

/// Neither the clear text nor the forms in which it crosses the wire are in the server's memory.
fn assert_wiped(server: &Server, when: &str, plain: &str) {
    let login = base64(b"zX7-unmistakable-q9");
    let needles =
        [("the password", &b"zX7-unmistakable-q9"[..]), ("PLAIN", &plain.as_bytes()[24..44]), ("LOGIN", &login.as_bytes()[..24])];
    // The reply and the log's line come a moment before the memory is wiped or given back.
    let begun = Instant::now();
    loop {
        let memory = memory_of(server.pid());
        assert!(memory.len() > 1 << 20, "nothing was read");
        let left: Vec<&str> =
            needles.iter().filter(|(_, needle)| memchr::memmem::find(&memory, needle).is_some()).map(|(what, _)| *what).collect();
        if left.is_empty() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "still there {when}: {left:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Everything that a process may write to.
fn memory_of(pid: i32) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut piece = vec![0; (to - from) as usize];
        if memory.read_exact_at(&mut piece, from).is_ok() {
            all.extend_from_slice(&piece);
        }
    }
    all
}
