//! What a client can make the log say is bounded, and hides no line of another. Octets are counted, not seconds.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, Client, PATIENCE, Server, Setup};
use pillarbox::journal::budget::{LOGIN_OCTETS, OCTETS};

/// Octets that one network may write in a minute.
const PER_MINUTE: usize = 1_000_000;

/// A connection to port 25's stand-in from an address of 127/8.
fn connect(server: &Server, source: [u8; 4]) -> TcpStream {
    let stream = common::from(source, server.address("smtp")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Says EHLO, then all of `lines` at once, and reads to the end.
fn say(stream: &mut TcpStream, lines: &[u8]) -> String {
    let reply = |stream: &mut TcpStream, end: &str| {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n") || !text.rsplit(|b| *b == b'\n').nth(1).unwrap().starts_with(end.as_bytes()) {
            let mut octet = [0];
            assert_eq!(stream.read(&mut octet).unwrap(), 1, "closed instead of {end}");
            text.push(octet[0]);
        }
    };
    reply(stream, "220 ");
    stream.write_all(b"EHLO x.example\r\n").unwrap();
    reply(stream, "250 ");
    let mut writer = stream.try_clone().unwrap();
    let lines = lines.to_vec();
    // The server may close before it has read everything.
    let writing = thread::spawn(move || writer.write_all(&lines));
    let mut text = b"\r\n".to_vec();
    let _ = stream.read_to_end(&mut text);
    let _ = writing.join();
    String::from_utf8_lossy(&text).into_owned()
}

/// The lines that name this address.
fn lines_of(log: &str, address: &str) -> Vec<String> {
    let (peer, network) = (format!(" peer={address}:"), format!(" network={address} "));
    log.lines().filter(|line| line.contains(&peer) || line.contains(&network)).map(str::to_owned).collect()
}

/// Waits until `done` finds what it looks for in the log.
fn wait_until(server: &Server, what: &str, done: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    loop {
        let log = server.log_text();
        if done(&log) {
            return log;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}:\n{}", &log[log.len().saturating_sub(3000)..]);
        thread::sleep(Duration::from_millis(20));
    }
}

/// The values of a key in the lines with an event, added up.
fn sum(lines: &[String], event: &str, key: &str) -> u64 {
    let key = format!(" {key}=");
    let of_event = lines.iter().filter(|line| line.contains(&format!(" {event} ")));
    of_event.filter_map(|line| line.split_once(&key)?.1.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// Another client, whose lines must be there whatever the first one does.
fn assert_heard(server: &Server, from: [u8; 4]) {
    let [a, b, c, d] = from;
    let address = format!("{a}.{b}.{c}.{d}");
    say(&mut connect(server, from), b"RCPT TO:<bob@example.org>\r\nQUIT\r\n");
    wait_until(server, "another client is not heard", |log| {
        let lines = lines_of(log, &address);
        ["connect", "refused", "disconnect"].iter().all(|event| lines.iter().any(|line| line.contains(&format!(" {event} "))))
    });
}

#[test]
fn recipients_without_end_are_one_line_and_end_the_session() {
    let server = Setup::default().limit("recipients = 100").start();
    let mut lines = b"MAIL FROM:<>\r\n".to_vec();
    lines.extend(b"RCPT TO:<bob@example.org>\r\n".repeat(50_000));
    let said = say(&mut connect(&server, [127, 0, 8, 1]), &lines);
    assert_eq!(said.matches("\r\n250 2.1.5 ").count(), 100);
    assert_eq!(said.matches("\r\n452 4.5.3 ").count(), 1000, "an ordinary server may send a long list");
    assert!(said.trim_end().rsplit("\r\n").next().unwrap().starts_with("421 4.7.0 Too many errors"), "{said}");
    assert_heard(&server, [127, 0, 8, 2]);
    let log = wait_until(&server, "no end", |log| lines_of(log, "127.0.8.1").iter().any(|line| line.contains(" disconnect ")));
    let lines = lines_of(&log, "127.0.8.1");
    assert_eq!(lines.iter().filter(|line| line.contains("reason=too-many-recipients")).count(), 2, "{lines:#?}");
    assert_eq!(sum(&lines, "refused", "count"), 999);
    assert_eq!(lines.len(), 5, "connect, refused, refused again, too-many-errors, disconnect: {lines:#?}");
}

/// A new transaction is a new line, but the session ends all the same; what was stored starts the count anew.
#[test]
fn a_client_that_alternates_commands_is_ended_too() {
    let server = Setup::default().limit("recipients = 100").start();
    let round = [&b"MAIL FROM:<>\r\n"[..], &b"RCPT TO:<bob@example.org>\r\n".repeat(400), b"RSET\r\n"].concat();
    let said = say(&mut connect(&server, [127, 0, 8, 3]), &round.repeat(50));
    assert_eq!(said.matches("\r\n452 4.5.3 ").count(), 1000);
    let log = wait_until(&server, "no end", |log| lines_of(log, "127.0.8.3").iter().any(|line| line.contains(" disconnect ")));
    let lines = lines_of(&log, "127.0.8.3");
    assert_eq!(lines.iter().filter(|line| line.contains("too-many-recipients") && line.contains(" text=")).count(), 4);
    assert_eq!(sum(&lines, "refused", "count"), 996);
    assert_heard(&server, [127, 0, 8, 4]);
}

#[test]
fn connections_in_a_loop_are_summed_up() {
    let server = Setup::default().start();
    let begun = Instant::now();
    let many = 3000;
    for _ in 0..many {
        drop(connect(&server, [127, 0, 8, 5]));
    }
    assert_heard(&server, [127, 0, 8, 6]);
    let counted = |log: &str| {
        let lines = lines_of(log, "127.0.8.5");
        let written = lines.iter().filter(|line| [" connect ", " overloaded "].iter().any(|event| line.contains(event))).count();
        written as u64 + sum(&lines, "left-out", "connections")
    };
    let log = wait_until(&server, "connections are missing", |log| counted(log) == many);
    let lines = lines_of(&log, "127.0.8.5");
    // Twenty connections of two or three lines and one summary a second.
    let seconds = begun.elapsed().as_secs() as usize + 2;
    assert!(lines.len() <= seconds * 62, "{} lines in {seconds} s:\n{lines:#?}", lines.len());
    assert!(sum(&lines, "left-out", "lines") > 0);
}

/// Many sessions that are refused as often and as long as they can be: at some time no more is written.
#[test]
fn refusals_in_many_sessions_stay_below_a_megabyte() {
    let server = Setup::default().limit("per_address = 200").start();
    let long = format!("RCPT TO:<\"{}\"@example.org>\r\n", " =".repeat(31));
    let mut commands = b"MAIL FROM:<>\r\n".to_vec();
    for n in 0..10 {
        commands.extend(long.replacen(" =", &format!("{n}x"), 1).as_bytes());
    }
    let sessions = 600;
    for _ in 0..sessions {
        let said = say(&mut connect(&server, [127, 0, 8, 7]), &[&commands[..], b"NOOP\r\n"].concat());
        assert_eq!(said.matches("\r\n550 5.1.1 ").count(), 10, "{said}");
    }
    assert_heard(&server, [127, 0, 8, 8]);
    let log = wait_until(&server, "no summary", |log| sum(&lines_of(log, "127.0.8.7"), "left-out", "lines") > 0);
    let lines = lines_of(&log, "127.0.8.7");
    let octets: usize = lines.iter().map(String::len).sum();
    // Whole lines are counted; the summaries come on top.
    assert!(octets < OCTETS + 5000 && 2 * OCTETS < PER_MINUTE, "{octets}");
    let would_be = lines.iter().find(|line| line.contains("unknown-mailbox")).unwrap().len() * sessions * 10;
    assert!(would_be > 2 * PER_MINUTE, "the test is too weak: {would_be}");
}

/// A hundred names of one mailbox: the message takes one file, and the log no more than that.
#[test]
fn many_names_of_one_mailbox_are_not_all_listed() {
    let server = Setup::default().start();
    let mut commands = b"MAIL FROM:<>\r\n".to_vec();
    for n in 0..100 {
        commands.extend(format!("RCPT TO:<bob+{n:02}{}@example.org>\r\n", "x".repeat(50)).bytes());
    }
    commands.extend(b"BDAT 3 LAST\r\nx\r\nQUIT\r\n");
    let said = say(&mut connect(&server, [127, 0, 8, 9]), &commands);
    assert!(said.contains("\r\n250 2.0.0 Ok: stored as "), "{said}");
    let log = wait_until(&server, "no end", |log| lines_of(log, "127.0.8.9").iter().any(|line| line.contains(" disconnect ")));
    let lines = lines_of(&log, "127.0.8.9");
    let accepted = lines.iter().find(|line| line.contains(" accepted ")).unwrap();
    let (list, rest) =
        accepted.split_once(" to=bob+00x").unwrap().1.split_once(',').map(|(_, rest)| rest.split_once(' ').unwrap()).unwrap();
    let (listed, more) = list.rsplit_once(",+").unwrap();
    assert_eq!(1 + listed.split(',').count() + more.parse::<usize>().unwrap(), 100, "{accepted}");
    assert!(accepted.len() < 1300 && rest.starts_with("size="), "{accepted}");
    assert_eq!(lines.iter().filter(|line| line.contains(" delivered ")).count(), 1);
}

/// A mailbox that cannot be written is said, and not with every message that a stranger sends to it.
#[test]
fn a_bad_mailbox_floods_no_log() {
    let server = Setup::default().limit("per_address = 200").start();
    let mailbox = server.maildir("bob@example.org");
    std::fs::create_dir_all(mailbox.parent().unwrap()).unwrap();
    std::fs::write(&mailbox, "").unwrap();
    let message = b"MAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nBDAT 3 LAST\r\nx\r\n";
    let (mut refused, sessions) = (0, 100);
    for _ in 0..sessions {
        let said = say(&mut connect(&server, [127, 0, 8, 10]), &[&message.repeat(90)[..], b"QUIT\r\n"].concat());
        refused += said.matches("\r\n451 4.3.0 ").count();
    }
    assert_heard(&server, [127, 0, 8, 11]);
    let log = wait_until(&server, "no summary", |log| sum(&lines_of(log, "127.0.8.10"), "left-out", "lines") > 0);
    let notices: Vec<_> = log.lines().filter(|line| line.contains(" notice ") && line.contains(" about=storage ")).collect();
    let octets = |lines: &[&str]| lines.iter().map(|line| line.len()).sum::<usize>();
    assert!((1..refused).contains(&notices.len()), "{} of {refused}", notices.len());
    let all: Vec<_> = log.lines().collect();
    assert!(octets(&all) < PER_MINUTE, "{}", octets(&all));
    let would_be = notices[0].len() * refused;
    assert!(would_be > PER_MINUTE / 2, "the test is too weak: {would_be}");
}

/// A program that logs in again and again: what it sends can be traced to its login, and the rest is summed up.
#[test]
fn logins_in_a_loop_are_summed_up() {
    let server = Setup::default().limit("per_address = 200").start();
    let login = || {
        let mut client = Client::over(
            common::from([127, 0, 8, 12], server.address("submissions")).unwrap(),
            &server.dir.path().join("cert.pem"),
        );
        client.tls().unwrap();
        client.expect("220");
        client.say("EHLO x.example", "250");
        client.say(&format!("AUTH PLAIN {}", common::base64(b"\0alice@example.org\0secret")), "235");
        client
    };
    login().say("QUIT", "221");
    let size = server.wait_for_log(&[" login ", "peer=127.0.8.12:"]).len();
    let enough = LOGIN_OCTETS / size + 50;
    for _ in 1..enough {
        login().say("QUIT", "221");
    }
    let logins = |log: &str| lines_of(log, "127.0.8.12").iter().filter(|line| line.contains(" login ")).count();
    let log = wait_until(&server, "no summary", |log| sum(&lines_of(log, "127.0.8.12"), "left-out", "lines") >= 50);
    let written = logins(&log);
    assert!((enough / 2..enough - 30).contains(&written), "{written} of {enough}");

    let mut client = login();
    let reply = client.deliver("alice@example.org", "bob@example.org", b"x\r\n").unwrap();
    let id = reply.rsplit(' ').next().unwrap();
    let session = id.split('.').next().unwrap();
    server.wait_for_log(&[" delivered ", session]);
    let log = server.log_text();
    let at = |event: &str| log.lines().position(|line| line.contains(event) && line.contains(&format!(" session={session} ")));
    assert!(at(" login ").is_some_and(|login| login < at(" accepted ").unwrap()), "accepted mail cannot be traced to its login");
    assert_eq!(logins(&log), written + 1);
}
