//! Local sockets of the real binary: who calls is what the kernel says.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{self, PATIENCE, Server, Setup, require};
use nix::sys::signal::Signal;

/// A client at a local socket, as the user that runs the test.
struct Caller(BufReader<UnixStream>);

impl Caller {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn reply(&mut self) -> String {
        let mut text = String::new();
        loop {
            let start = text.len();
            if self.0.read_line(&mut text).unwrap() == 0 || text.as_bytes()[start..].get(3) != Some(&b'-') {
                return text;
            }
        }
    }

    fn say(&mut self, line: &str, want: &str) {
        self.0.get_ref().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let reply = self.reply();
        assert!(reply.starts_with(want), "{line}: {reply}");
    }

    fn greeted(path: &Path) -> Self {
        let mut caller = Self::connect(path);
        assert!(caller.reply().starts_with("220 "));
        caller.say("EHLO localhost", "250");
        caller
    }
}

fn with_socket(entries: &[&str]) -> Setup {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let mut setup = Setup::default();
    setup.aliases.push("root: alice".into());
    setup.local = entries.iter().map(|entry| (*entry).to_owned()).collect();
    setup.unix_users.push(format!("{user} = \"bob@example.org\""));
    setup
}

#[test]
fn a_message_comes_in_and_the_socket_is_taken_up_again_after_a_restart() {
    let mut server = with_socket(&["\"{place}/run/submit\""]).start();
    let path = server.dir.path().join("run/submit");
    server.wait_for_log(&[&format!("started service=local address={}", path.display())]);
    let data = fs::symlink_metadata(&path).unwrap();
    assert!(data.file_type().is_socket());
    assert_eq!(data.permissions().mode() & 0o777, 0o666);
    for round in 1..=2 {
        let mut caller = Caller::greeted(&path);
        caller.say("MAIL FROM:<alice@example.org>", "550 5.7.1");
        caller.say("MAIL FROM:<bob@example.org>", "250");
        caller.say("RCPT TO:<root@mx.example.org>", "250");
        caller.say("DATA", "354");
        caller.say("Subject: x\r\n\r\nhello\r\n.", "250 2.0.0");
        server.wait_for_log(&["caller ", "peer=unix:", "login=bob@example.org"]);
        assert_eq!(server.new_mail("alice@example.org").len(), round);
        if round == 1 {
            caller.say("QUIT", "221");
            server.signal(Signal::SIGKILL);
            server.wait(PATIENCE);
            assert!(UnixStream::connect(&path).is_err() && path.exists(), "it was not removed");
            server.restart();
        }
    }
}

#[test]
fn a_socket_may_be_one_logins_and_has_its_mode() {
    let entry = "{ path = \"{place}/shop\", login = \"alice@example.org\", mode = \"0600\" }";
    let server = with_socket(&["\"{place}/submit\"", entry]).start();
    let path = server.dir.path().join("shop");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    Caller::greeted(&path).say("MAIL FROM:<alice@example.org>", "250");
    Caller::greeted(&server.dir.path().join("submit")).say("MAIL FROM:<alice@example.org>", "550");
}

/// Limits by uid in place of address: connections at once.
#[test]
fn one_user_holds_so_many_connections_and_no_more() {
    let setup = with_socket(&["\"{place}/submit\""]).limit("workers = 64").limit("per_address = 5");
    let server: Server = setup.start();
    let path = server.dir.path().join("submit");
    let mut held: Vec<Caller> = (0..5).map(|_| Caller::greeted(&path)).collect();
    for _ in 0..20 {
        assert!(Caller::connect(&path).reply().starts_with("421 4.3.2 Too many connections from your address"));
    }
    // Those that are there go on, and so do others.
    held[0].say("NOOP", "250");
    server.login("alice@example.org").say("NOOP", "250");
}

/// A manager may hold the local socket alone, so that callers wait through a restart; the rest is bound as configured.
#[test]
fn a_socket_is_handed_over() {
    if !require(&["systemd-socket-activate"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut setup = with_socket(&["{ path = \"{place}/submit\", login = \"alice@example.org\" }"]);
    setup.services = vec!["smtp"];
    let config = setup.write(dir.path());
    common::give_to_nobody(dir.path());
    let path = dir.path().join("submit");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("-l").arg(&path).args(["--fdname=local", env!("CARGO_BIN_EXE_pillarbox"), "-c"]).arg(&config).arg("serve");
    let process = common::Logged::spawn(&mut command);
    let begun = Instant::now();
    // The path is there a moment before it is listened on.
    while UnixStream::connect(&path).is_err() {
        assert!(begun.elapsed() < PATIENCE, "{}", process.log_text());
        std::thread::sleep(Duration::from_millis(10));
    }
    // The entry of its path says whose it is.
    Caller::greeted(&path).say("MAIL FROM:<alice@example.org>", "250");
    process.wait_for_log("started service=local");
    process.wait_for_log("started service=smtp address=127.0.0.1:");
}
