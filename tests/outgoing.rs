//! Mail that goes out, by the built binary, to next hops of the tests' own: what arrives, to the octet; whose fault what is;
//! reports; restarts; what is lost and what comes twice.
//!
//! PILLARBOX_ROUNDS sets how often servers are killed (`.ci/run` takes more than the default).

#[path = "outgoing/accepting.rs"]
mod accepting;
#[path = "outgoing/checking.rs"]
mod checking;
mod common;
#[path = "outgoing/crash.rs"]
mod crash;
#[path = "outgoing/killed.rs"]
mod killed;
#[path = "outgoing/reports.rs"]
mod reports;
#[path = "outgoing/routes.rs"]
mod routes;
#[path = "outgoing/sending.rs"]
mod sending;
#[path = "outgoing/stopping.rs"]
mod stopping;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::hop::Hop;
use common::{Client, PATIENCE, Server, Setup, skipped};

const ALICE: &str = "alice@example.org";

/// A server that sends on by this next hop; `more` stands in its section `[outgoing]`.
fn setup(hop: &Hop, more: &str) -> Setup {
    let outgoing = format!(
        "[outgoing]\nvia = \"next\"\nspool = \"{{place}}/spool\"\npostmaster = \"bob@example.org\"\n{more}\n{}",
        hop.route("next")
    );
    Setup { outgoing, services: vec!["submissions"], ..Setup::default() }
}

/// Hands in a message; the words after the path of MAIL and after the addresses of RCPT are parameters.
fn submit(client: &mut Client, mail: &str, rcpt: &[&str], content: &[u8]) -> String {
    client.say(&format!("MAIL FROM:{mail}"), "250");
    for to in rcpt {
        client.say(&format!("RCPT TO:{to}"), "250");
    }
    client.say("DATA", "354");
    client.send(&[&stuffed(content)[..], b".\r\n"].concat()).unwrap();
    let reply = client.expect("250 2.0.0 Ok");
    reply.rsplit(' ').next().unwrap().to_owned()
}

/// A short message from alice to one address; its queue id.
fn mail_to(server: &Server, to: &[&str], subject: &str) -> String {
    let rcpt: Vec<String> = to.iter().map(|to| format!("<{to}>")).collect();
    let rcpt: Vec<&str> = rcpt.iter().map(String::as_str).collect();
    submit(&mut server.login(ALICE), "<alice@example.org>", &rcpt, plain(subject).as_bytes())
}

fn plain(subject: &str) -> String {
    format!("From: alice@example.org\r\nSubject: {subject}\r\n\r\nHello.\r\n")
}

/// With dots doubled where a line begins with one.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 64);
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out
}

fn queue_dir(server: &Server) -> PathBuf {
    server.dir.path().join("spool/queue")
}

/// Names below a directory of the spool.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn queued(server: &Server) -> Vec<String> {
    names(&queue_dir(server))
}

fn held(server: &Server) -> Vec<String> {
    names(&server.dir.path().join("spool/held"))
}

/// A file of the spool, wherever it is.
fn spool_file(server: &Server, id: &str) -> String {
    let spool = server.dir.path().join("spool");
    let read = |part: &str| fs::read(spool.join(part).join(id));
    let octets = read("queue").or_else(|_| read("held")).unwrap_or_else(|error| panic!("{id}: {error}"));
    String::from_utf8_lossy(&octets).into_owned()
}

/// A message is due, for the next start.
fn due_now(server: &Server, id: &str) {
    let times = fs::FileTimes::new().set_modified(std::time::SystemTime::now() - Duration::from_secs(10));
    if let Ok(file) = fs::File::options().write(true).open(queue_dir(server).join(id)) {
        file.set_times(times).unwrap();
    }
}

fn wait_until(what: &str, server: &Server, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}\nqueue {:?}\n{}", queued(server), server.log_text());
        thread::sleep(Duration::from_millis(3));
    }
}

fn wait_until_sent(server: &Server) {
    wait_until("the queue is empty", server, || queued(server).is_empty());
}

/// The messages in a mailbox, as text.
fn letters(server: &Server, mailbox: &str) -> Vec<String> {
    server.new_mail(mailbox).iter().map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned()).collect()
}

fn wait_for_letters(server: &Server, mailbox: &str, count: usize) -> Vec<String> {
    wait_until(&format!("{count} letters for {mailbox}"), server, || server.new_mail(mailbox).len() >= count);
    letters(server, mailbox)
}

/// Lines of the log with this part.
fn lines(server: &Server, part: &str) -> Vec<String> {
    server.log.lock().unwrap().iter().filter(|line| line.contains(part)).cloned().collect()
}

/// A letter without what folds its lines.
fn unfolded(letter: &str) -> String {
    letter.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn strace_works() -> bool {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
    if !works {
        skipped("strace does not work");
    }
    works
}

/// The process itself, not the wrapper that has started it.
fn server_pid(server: &Server) -> nix::unistd::Pid {
    let pid = server.pid();
    if server.setup.wrapper.is_empty() {
        return nix::unistd::Pid::from_raw(pid);
    }
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    nix::unistd::Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap())
}

/// Kills it as a crash would, and waits for its end.
fn kill(server: &mut Server) {
    nix::sys::signal::kill(server_pid(server), nix::sys::signal::Signal::SIGKILL).unwrap();
    server.wait(PATIENCE);
}
