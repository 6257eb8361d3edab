//! What changes while the server runs: users, aliases, certificate, configuration; and the end.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, Client, Logged, PATIENCE, Server, Setup, base64, finish, hash, require, said, skipped};
use nix::sys::signal::Signal;
use pillarbox::smtp::reply::Refusal;

fn can_log_in(server: &Server, login: &str, password: &str) -> bool {
    let mut client = server.connect("submissions");
    client.tls().unwrap();
    client.expect("220");
    client.say("EHLO x.example", "250");
    client.send(format!("AUTH PLAIN {}\r\n", base64(format!("\0{login}\0{password}").as_bytes())).as_bytes()).unwrap();
    client.reply().unwrap().starts_with("235")
}

fn until(what: &str, server: &Server, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}\n{}", server.log_text());
        thread::sleep(Duration::from_millis(100));
    }
}

fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).unwrap();
    let _ = std::process::Command::new("chown").arg("nobody").arg(&temporary).status();
    fs::rename(temporary, path).unwrap();
}

#[test]
fn users_and_aliases_are_taken_up_by_themselves_and_a_bad_file_is_not() {
    let mut setup = Setup::default();
    setup.users.push(("carol@example.org".into(), "secret".into()));
    let server = setup.start();
    let (users, aliases) = (server.dir.path().join("users"), server.dir.path().join("aliases"));
    let mut running = server.login("bob@example.org");
    let mut carol = server.login("carol@example.org");
    assert!(can_log_in(&server, "alice@example.org", "secret"));
    replace(&users, &format!("alice@example.org:{}\ncarol@example.org:{}\n", hash("changed", 8), hash("secret", 8)));
    server.wait_for_log(&["reloaded", "what=users", "result=ok"]);
    assert!(!can_log_in(&server, "alice@example.org", "secret"), "a password that was known a moment ago");
    assert!(can_log_in(&server, "alice@example.org", "changed") && can_log_in(&server, "carol@example.org", "secret"));
    // A session whose password is gone ends with its next command; one whose password is still there goes on.
    let parts = Refusal::PasswordChanged.parts();
    running.send(b"MAIL FROM:<bob@example.org>\r\n").unwrap();
    let reply = running.reply().unwrap();
    assert!(reply.starts_with(&format!("{} 4.7.0 {}", parts.code, parts.text)), "{reply}");
    let reply = carol.deliver("carol@example.org", "alice@example.org", b"Subject: x\r\n").unwrap();
    assert!(reply.starts_with("250"), "{reply}");

    replace(&users, "carol@example.org:{PLAIN}oops\n");
    server.wait_for_log(&["reloaded", "what=users", "result=refused", "users:1: password scheme"]);
    assert!(can_log_in(&server, "carol@example.org", "secret"), "the old state is kept");
    // The server looks at its files twice before it takes up the aliases, and finds the bad one each time.
    replace(&aliases, "info: carol\n");
    server.wait_for_log(&["reloaded", "what=aliases", "result=ok"]);
    assert_eq!(server.log_text().matches("what=users result=refused").count(), 1, "logged once");
    let mut client = server.connect("smtp");
    client.expect("220");
    client.say("EHLO x.example", "250");
    client.say("MAIL FROM:<>", "250");
    client.say("RCPT TO:<info@example.org>", "250");
    replace(&aliases, "info: info2\ninfo2: info\n");
    replace(&users, &format!("carol@example.org:{}\n", hash("again", 8)));
    server.wait_for_log(&["reloaded", "what=aliases", "result=refused", "leads back to itself"]);
    until("the corrected file", &server, || server.log_text().matches("what=users result=ok").count() == 2);
    assert!(can_log_in(&server, "carol@example.org", "again"));
    let mut client = server.connect("smtp");
    client.expect("220");
    client.say("EHLO x.example", "250");
    client.say("MAIL FROM:<>", "250");
    client.say("RCPT TO:<info@example.org>", "250");
}

/// What a truncating editor, a full disk or a mistake leaves in place of the users file locks no login out.
#[test]
fn what_is_no_whole_users_file_is_refused_and_the_next_good_one_is_not() {
    let server = Setup::default().start();
    let users = server.dir.path().join("users");
    let refused = |part: &str| {
        server.wait_for_log(&["reloaded", "what=users", "result=refused", part]);
        assert!(can_log_in(&server, "bob@example.org", "secret"), "the old state is kept");
    };
    fs::write(&users, "").unwrap();
    refused("is empty");
    // Cut within the hash: what is left of it reads like a hash.
    let whole = format!("alice@example.org:{0}\nbob@example.org:{0}", hash("changed", 8));
    replace(&users, &whole[..whole.len() - 4]);
    refused("users:2: the last line has no line end");
    replace(&users, &format!("{whole}\n"));
    server.wait_for_log(&["reloaded", "what=users", "result=ok"]);
    assert!(can_log_in(&server, "bob@example.org", "changed") && !can_log_in(&server, "bob@example.org", "secret"));
}

/// Mail for an alias is not refused for good because an editor has just emptied the file; an end that is meant counts.
#[test]
fn an_emptied_aliases_file_is_refused() {
    let server = Setup::default().start();
    let aliases = server.dir.path().join("aliases");
    let info = |code: &str| {
        let mut client = server.connect("smtp");
        client.expect("220");
        client.say("EHLO x.example", "250");
        client.say("MAIL FROM:<>", "250");
        client.say("RCPT TO:<info@example.org>", code);
    };
    replace(&aliases, "info: bob\n");
    server.wait_for_log(&["reloaded", "what=aliases", "result=ok"]);
    info("250");
    fs::write(&aliases, "").unwrap();
    server.wait_for_log(&["reloaded", "what=aliases", "result=refused", "is empty; the aliases from before are kept"]);
    info("250");
    replace(&aliases, "# none\n");
    until("the end that is meant", &server, || server.log_text().matches("what=aliases result=ok").count() == 2);
    info("550");
}

/// Nor does what is there instead of a file; an end that is meant does.
#[test]
fn what_is_no_users_file_is_refused_and_an_empty_list_is_not() {
    let server = Setup::default().start();
    let users = server.dir.path().join("users");
    let refused = |part: &str| {
        server.wait_for_log(&["reloaded", "what=users", "result=refused", part]);
        assert!(can_log_in(&server, "bob@example.org", "secret"), "the old state is kept");
    };
    fs::remove_file(&users).unwrap();
    refused("no such file");
    nix::unistd::mkfifo(&users, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    refused("is no regular file");
    // What `pillarbox user remove` leaves.
    replace(&users, "# no login is left\n");
    server.wait_for_log(&["reloaded", "what=users", "result=ok"]);
    assert!(!can_log_in(&server, "bob@example.org", "secret"));
}

/// In a flood there may be no descriptor left to read a file with. The removed login goes when there is one again, though the
/// file has not changed since.
#[test]
fn a_file_that_could_not_be_read_is_read_again() {
    if !require(&["prlimit"]) {
        return;
    }
    let server = Setup::default().start();
    let (users, aliases) = (server.dir.path().join("users"), server.dir.path().join("aliases"));
    assert!(can_log_in(&server, "alice@example.org", "secret"));
    let limit = |files: &str| {
        let pid = server.pid().to_string();
        let mut command = std::process::Command::new("prlimit");
        command.args(["--pid", &pid, &format!("--nofile={files}:")]);
        // Not even root may do that to another user's process in every container.
        if nix::unistd::geteuid().is_root() {
            let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
            command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
        }
        let output = finish(&mut command);
        assert!(output.status.success(), "{}", common::said(&output));
    };
    limit("3");
    replace(&users, &format!("bob@example.org:{}\n", hash("secret", 8)));
    replace(&aliases, "postmaster: bob\n");
    server.wait_for_log(&["reloaded", "what=users", "result=refused", "Too many open files"]);
    server.wait_for_log(&["reloaded", "what=aliases", "result=refused", "Too many open files"]);
    // Until the next try, which is a second and at most two later.
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(server.log_text().matches("Too many open files").count(), 2, "each said once\n{}", server.log_text());
    limit("1024");
    server.wait_for_log(&["reloaded", "what=users", "result=ok"]);
    server.wait_for_log(&["reloaded", "what=aliases", "result=ok"]);
    assert!(!can_log_in(&server, "alice@example.org", "secret"));
    assert!(can_log_in(&server, "bob@example.org", "secret"));
}

/// A session that began before a password was removed cannot log in with it afterwards, even if it was known a moment ago.
#[test]
fn a_removed_password_is_of_no_use_to_a_session_that_began_before() {
    let server = Setup::default().start();
    assert!(can_log_in(&server, "alice@example.org", "secret"));
    let mut early = server.connect("submissions");
    early.tls().unwrap();
    early.expect("220");
    early.say("EHLO x.example", "250");
    replace(&server.dir.path().join("users"), &format!("bob@example.org:{}\n", hash("secret", 8)));
    server.wait_for_log(&["reloaded", "what=users", "result=ok"]);
    early.say(&format!("AUTH PLAIN {}", base64(b"\0alice@example.org\0secret")), "535");
    early.say(&format!("AUTH PLAIN {}", base64(b"\0bob@example.org\0secret")), "235");
}

/// Two logins that would read each other's mail: neither at a reload nor at a start.
#[test]
fn two_logins_on_one_maildir_are_refused() {
    let server = Setup { domains: vec!["example.org".into(), "example.net".into()], ..Setup::default() }.start();
    let toml = fs::read_to_string(&server.config).unwrap();
    replace(&server.config, &toml.replace("/{domain}/{user}", "/example.org/{user}"));
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["reloaded", "what=configuration", "result=ok"]);
    let users = server.dir.path().join("users");
    let both = format!("bob@example.org:{0}\nbob@example.net:{0}\n", hash("other", 8));
    replace(&users, &both);
    let line = server.wait_for_log(&["reloaded", "what=users", "result=refused", "{domain}"]);
    assert!(line.contains("bob@example.net and bob@example.org"), "{line}");
    assert!(can_log_in(&server, "bob@example.org", "secret"), "the old state is kept");
    for verb in ["check", "serve"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pillarbox"));
        let output = finish(command.arg("-c").arg(&server.config).arg(verb).stdin(std::process::Stdio::null()));
        assert_eq!(output.status.code(), Some(78), "{}", common::said(&output));
        assert!(common::said(&output).contains("bob@example.net and bob@example.org alike"), "{}", common::said(&output));
    }
}

/// A signal that comes before the server can take it up: neither the end nor forgotten.
#[test]
fn a_reload_during_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let port = common::free_port();
    let config = Setup { port, ..Setup::default() }.write(dir.path());
    common::give_to_nobody(dir.path());
    // Its first line waits for room, after the addresses are bound and before signals are taken.
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = |flags| nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    flags(nix::fcntl::OFlag::O_NONBLOCK);
    while std::io::Write::write(&mut &writer, b"xxxxxxxxxxxxxxx\n").is_ok() {}
    flags(nix::fcntl::OFlag::empty());
    std::io::Write::flush(&mut writer).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    let mut child =
        command.arg("-c").arg(&config).arg("serve").stderr(writer).stdin(std::process::Stdio::null()).spawn().unwrap();
    drop(command);
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < PATIENCE && child.try_wait().unwrap().is_none());
        thread::sleep(Duration::from_millis(10));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGHUP).unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(reader)).map_while(Result::ok);
    let mut lines = lines.skip_while(|line| !line.contains("started service=submissions"));
    assert!(lines.any(|line| line.contains("reloaded what=configuration result=ok")), "{:?}", child.try_wait());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A socket that was handed over needs TLS, though [listen] does not say so.
#[test]
fn tls_stays_while_a_handed_socket_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup { services: Vec::new(), ..Setup::default() }.write(dir.path());
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    command.arg("-c").arg(&config).args(["serve", "-s", "submissions"]);
    let mut server = Logged::spawn(command.stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(socket))));
    common::give_to_nobody(dir.path());
    server.wait_for_log("started service=submissions");
    let toml = fs::read_to_string(&config).unwrap();
    let (start, end) = (toml.find("[tls]").unwrap(), toml.find("[limits]").unwrap());
    replace(&config, &format!("{}{}", &toml[..start], &toml[end..]));
    server.signal(Signal::SIGHUP);
    server.wait_for_log("tls: must be given while submissions is served");
    let mut client = Client::connect(address, &dir.path().join("cert.pem"));
    client.tls().unwrap();
    client.expect("220");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// Renewed without signal or restart; a pair that does not match is refused and the old one serves on.
#[test]
fn a_renewed_certificate_is_taken_up_by_itself() {
    let server = Setup::default().start();
    let (certificate, key) = (server.dir.path().join("cert.pem"), server.dir.path().join("key.pem"));
    let old = server.dir.path().join("old.pem");
    fs::copy(&certificate, &old).unwrap();
    let presents = |pinned: &Path| Client::connect(server.address("submissions"), pinned).tls().is_ok();
    assert!(presents(&old));
    let names = || ["localhost".to_owned(), "mx.example.org".to_owned()];
    let stray = rcgen::generate_simple_self_signed(names()).unwrap();
    replace(&key, &stray.signing_key.serialize_pem());
    server.wait_for_log(&["reloaded", "what=certificate", "result=refused", "key.pem", "cert.pem"]);
    assert!(presents(&old), "the old pair serves on");
    let renewed = rcgen::generate_simple_self_signed(names()).unwrap();
    replace(&certificate, &renewed.cert.pem());
    replace(&key, &renewed.signing_key.serialize_pem());
    until("the new certificate", &server, || presents(&certificate));
    assert!(!presents(&old));
}

#[test]
fn sighup_reads_the_configuration_again() {
    let server = Setup::default().start();
    let toml = fs::read_to_string(&server.config).unwrap();
    let accepts = |address: &str| {
        let mut client = server.connect("smtp");
        client.expect("220");
        client.say("EHLO x.example", "250");
        client.say("MAIL FROM:<>", "250");
        client.send(format!("RCPT TO:<{address}>\r\n").as_bytes()).unwrap();
        client.reply().unwrap().starts_with("250")
    };
    assert!(!accepts("postmaster@example.net"));
    fs::write(
        &server.config,
        toml.replace("[\"example.org\"]", "[\"example.org\", \"example.net\"]").replace("[limits]", "[limits]\nworkers = 9"),
    )
    .unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["notice", "about=restart", "limits.workers"]);
    server.wait_for_log(&["reloaded", "what=configuration", "result=ok"]);
    until("the new domain", &server, || accepts("postmaster@example.net"));
    // Where the kernel confines the server, a Maildir root elsewhere would only make every delivery fail.
    if server.wait_for_log(&["sandbox", "server="]).contains("server=files") {
        let mail = server.dir.path().join("mail").display().to_string();
        fs::write(&server.config, toml.replace(&mail, "/var/elsewhere")).unwrap();
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reloaded", "what=configuration", "result=refused", "outside the sandbox"]);
    } else {
        skipped("no Landlock");
    }
    fs::write(&server.config, "hostname = 1\n").unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["reloaded", "what=configuration", "result=refused", "pillarbox.toml:1: hostname"]);
    assert!(accepts("postmaster@example.net"), "the old state is kept");
}

#[test]
fn an_idle_session_is_told_at_once_and_the_exit_is_clean() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Setup::default().start();
        let mut idle = server.login("alice@example.org");
        let mut sending = server.login("bob@example.org");
        sending.say("MAIL FROM:<bob@example.org>", "250");
        sending.say("RCPT TO:<alice@example.org>", "250");
        sending.say("DATA", "354");
        server.signal(signal);
        let parts = Refusal::Draining.parts();
        assert!(idle.reply().unwrap().contains(parts.text));
        server.wait_for_log(&["draining", "sessions=2"]);
        let begun = Instant::now();
        while std::net::TcpStream::connect(server.address("smtp")).is_ok() {
            assert!(begun.elapsed() < PATIENCE, "still accepting");
            thread::sleep(Duration::from_millis(10));
        }
        // The message in progress ends as if nothing had happened; the next command is told.
        sending.send(b"Subject: last\r\n\r\n.\r\n").unwrap();
        sending.expect("250 2.0.0");
        assert!(sending.reply().is_none_or(|reply| reply.contains(parts.text)));
        assert_eq!(server.wait(PATIENCE), Some(0));
        assert_eq!(server.new_mail("alice@example.org").len(), 1);
        server.wait_for_log(&["stopped", "messages=1"]);
    }
}

#[test]
fn who_does_not_end_within_drain_is_cut_off_without_harm() {
    let mut server = Setup::default().limit("drain = \"1s\"").start();
    let mut stuck = server.login("bob@example.org");
    stuck.say("MAIL FROM:<bob@example.org>", "250");
    stuck.say("RCPT TO:<alice@example.org>", "250");
    stuck.say("DATA", "354");
    stuck.send(b"Subject: half").unwrap();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(Duration::from_secs(10)), Some(0));
    assert!(server.new_mail("alice@example.org").is_empty());
}

/// 50 clients send as fast as they can while the server is stopped: what got 250 is there, whole, once.
#[test]
fn a_drain_loses_nothing() {
    let mut server = Setup::default().limit("per_address = 100").start();
    let (accepted, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let body = "0123456789abcdef\r\n".repeat(300);
    thread::scope(|scope| {
        for n in 0..50 {
            let (accepted, stop, body) = (&accepted, &stop, &body);
            // Connected before the server is told to stop, however late its thread begins.
            let mut client = server.connect("smtp");
            scope.spawn(move || {
                if client.reply().is_none() || client.send(b"EHLO x.example\r\n").is_err() || client.reply().is_none() {
                    return;
                }
                for message in 0..1000 {
                    let content = format!("Subject: {n}-{message}\r\n\r\n{body}end");
                    match client.deliver("", "alice@example.org", content.as_bytes()) {
                        Some(reply) if reply.starts_with("250") => accepted.fetch_add(1, Ordering::SeqCst),
                        _ => return,
                    };
                    if stop.load(Ordering::SeqCst) && message > 900 {
                        return;
                    }
                }
            });
        }
        let begun = Instant::now();
        while accepted.load(Ordering::SeqCst) <= 50 && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
        server.signal(Signal::SIGTERM);
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(server.wait(Duration::from_secs(35)), Some(0));
    let files = server.new_mail("alice@example.org");
    let accepted = accepted.into_inner();
    assert!(accepted > 50, "only {accepted} were sent");
    assert!(files.len() >= accepted, "{} files for {accepted} answers of 250", files.len());
    // A message can be stored whose 250 could not be delivered any more: one a client at most.
    assert!(files.len() <= accepted + 50);
    for file in files {
        assert!(fs::read_to_string(&file).unwrap().ends_with("0123456789abcdef\nend\n"), "{file:?}");
    }
}

/// What a check beside the running server finds at its ports is no fault.
#[test]
fn a_check_beside_the_running_server() {
    let port = common::free_port();
    let server = Setup { services: vec!["submissions"], port, ..Setup::default() }.start();
    let output = finish(Command::new(env!("CARGO_BIN_EXE_pillarbox")).arg("-c").arg(&server.config).args(["check", "--offline"]));
    let row = format!("ports          ok       submissions 127.0.0.1:{port}: pillarbox listens there now");
    assert!(said(&output).lines().any(|line| line == row), "{}", said(&output));
}
