//! What the tests of mail by MX share: tables of DNS, a server that sends by it, and messages for it.

#![allow(dead_code, reason = "each test uses its part")]

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::network::THERE;
use crate::common::{PATIENCE, Server, Setup, finish, said};
use crate::names::{Behaviour, NameServer, Record};

pub const ALICE: &str = "alice@example.org";

/// An address of the other machine.
pub fn there(number: usize) -> Record {
    Record::A(THERE[number].parse().unwrap())
}

pub fn mx(rows: &[(u16, &'static str)]) -> Behaviour {
    Behaviour::Records(rows.iter().map(|(preference, host)| Record::Mx(*preference, host)).collect())
}

pub fn hosts(records: Vec<Record>) -> Behaviour {
    Behaviour::Records(records)
}

/// A server that sends by MX; `more` stands in `[outgoing]` and after it.
pub fn setup(names: &NameServer, more: &str) -> Setup {
    setup_at(&names.address.to_string(), more)
}

/// The same with a name server that need not be there.
pub fn setup_at(resolver: &str, more: &str) -> Setup {
    let outgoing = format!(
        "[outgoing]\nvia = \"mx\"\nspool = \"{{place}}/spool\"\npostmaster = \"bob@example.org\"\nresolver = \"{resolver}\"\n{more}\n"
    );
    Setup { outgoing, services: vec!["submissions"], ..Setup::default() }
}

/// Hands a message to alice's server; gives its id.
pub fn send(server: &Server, to: &[&str]) -> String {
    send_as(server, "", to, b"From: alice@example.org\r\nSubject: x\r\n\r\nHello\r\n")
}

/// The same with parameters of MAIL, and with content: whole lines.
pub fn send_as(server: &Server, parameters: &str, to: &[&str], content: &[u8]) -> String {
    let mut client = server.login(ALICE);
    client.say(&format!("MAIL FROM:<{ALICE}>{parameters}"), "250");
    for to in to {
        client.say(&format!("RCPT TO:<{to}>"), "250");
    }
    client.say("DATA", "354");
    let mut stuffed = Vec::new();
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        stuffed.extend(line.starts_with(b".").then_some(b'.'));
        stuffed.extend(line);
    }
    client.send(&[&stuffed[..], b".\r\n"].concat()).unwrap();
    client.expect("250 2.0.0 Ok").rsplit(' ').next().unwrap().to_owned()
}

/// Runs a verb; what it said.
pub fn run(server: &Server, words: &[&str]) -> String {
    let output = finish(Command::new(env!("CARGO_BIN_EXE_pillarbox")).arg("-c").arg(&server.config).args(words));
    said(&output)
}

/// Messages in the queue.
pub fn waiting(server: &Server) -> usize {
    fs::read_dir(server.dir.path().join("spool/queue")).unwrap().count()
}

/// The reports in alice's mailbox.
pub fn reports(server: &Server, count: usize) -> Vec<String> {
    wait(|| server.new_mail(ALICE).len() >= count, || format!("{} reports, not {count}", server.new_mail(ALICE).len()));
    server.new_mail(ALICE).iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// Waits until something is so; fails with these words if it is not in time.
pub fn wait(mut done: impl FnMut() -> bool, why: impl Fn() -> String) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < 2 * PATIENCE, "{}", why());
        thread::sleep(Duration::from_millis(5));
    }
}
