//! Faults of the machine: kill -9, full disks, failing system calls. What got 250 is there, whole, once; nothing else is.
//!
//! PILLARBOX_ROUNDS sets how often the server is killed (`.ci/run` takes 50).

use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{Client, PATIENCE, Server, Setup, finish, require, rounds, skipped};
use nix::sys::signal::Signal;

fn strace_works() -> bool {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
    if !works {
        skipped("strace does not work");
    }
    works
}

/// A server under strace; the trace is written to `strace.log` in its directory.
fn traced(setup: Setup, trace: &str, inject: &[&str]) -> Server {
    let log = tempfile::Builder::new().prefix("strace").tempfile().unwrap().into_temp_path().keep().unwrap();
    let mut wrapper: Vec<String> = ["strace", "-f", "-y", "-s", "200", "-e", trace, "-o"].map(str::to_owned).to_vec();
    wrapper.push(log.display().to_string());
    for one in inject {
        match one.starts_with('/') {
            true => wrapper.extend(["-P".to_owned(), (*one).to_owned()]),
            false => wrapper.extend(["-e".to_owned(), format!("inject={one}")]),
        }
    }
    let setup = Setup { wrapper, services: vec!["smtp"], ..setup };
    setup.limit("workers = 4").start()
}

fn trace_of(server: &Server) -> String {
    let path = &server.setup.wrapper[8];
    let text = fs::read_to_string(path).unwrap();
    let _ = fs::remove_file(path);
    text
}

fn greeted(server: &Server) -> Client {
    let mut client = server.connect("smtp");
    client.expect("220");
    client.say("EHLO x.example", "250");
    client
}

fn send(client: &mut Client, subject: &str) -> String {
    client.deliver("", "bob@example.org", format!("Subject: {subject}\r\n\r\nbody").as_bytes()).expect("a reply")
}

/// Everything below a directory that is a file.
fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn two_hundred_and_fifty_is_said_after_both_fsyncs() {
    if !strace_works() {
        return;
    }
    let server = traced(Setup::default(), "trace=openat,fsync,linkat,sendto,write,rename,renameat,renameat2", &[]);
    let mut client = greeted(&server);
    send(&mut client, "first, which makes the Maildir");
    assert!(send(&mut client, "second").starts_with("250"));
    client.say("QUIT", "221");
    server.wait_for_log(&["disconnect"]);
    thread::sleep(Duration::from_millis(100));
    let trace = trace_of(&server);
    let lines: Vec<&str> = trace.lines().collect();
    let second = lines.iter().rposition(|line| line.contains("354 End data")).expect("354");
    let place = |what: &str, parts: &[&str]| {
        let found = lines[second..].iter().position(|line| parts.iter().all(|part| line.contains(part)));
        found.unwrap_or_else(|| panic!("no {what} in\n{}", lines[second..].join("\n")))
    };
    let file = place("fsync of the file", &["fsync("]);
    let link = place("link", &["linkat(", "/new>", ",S="]);
    let directory = place("fsync of new/", &["fsync(", "/bob/new>"]);
    let reply = place("250", &["250 2.0.0 Ok: stored"]);
    assert!(file < link && link < directory && directory < reply, "{}", lines[second..].join("\n"));
}

#[test]
fn failing_system_calls_are_answered_and_leave_nothing() {
    if !strace_works() {
        return;
    }
    // At the first use of a Maildir its parents are made durable, then the file, then new/.
    let parents = fsyncs_of_a_delivery() - 2;
    assert!(parents >= 2, "the Maildir and its domain, at least: {parents}");
    let [file, new] = [parents + 1, parents + 2];
    let rows = [
        (&*format!("fsync:error=EIO:when={parents}"), "451 4.3.0"),
        (&*format!("fsync:error=EIO:when={file}"), "451 4.3.0"),
        (&*format!("fsync:error=EIO:when={new}"), "451 4.3.0"),
        (&*format!("fsync:error=ENOSPC:when={file}"), "452 4.3.1"),
        ("linkat:error=EDQUOT:when=1", "452 4.2.2"),
        ("linkat:error=EROFS:when=1", "451 4.3.0"),
        ("linkat:error=EEXIST:when=1", "250"),
        // A kernel before 6.10: the file is linked by its name below /proc.
        ("linkat:error=ENOENT:when=1", "250"),
    ];
    thread::scope(|scope| {
        for (inject, want) in rows {
            scope.spawn(move || {
                let dir = maildir_of_bob();
                let mail = dir.path().to_owned();
                let call = inject.split(':').next().unwrap();
                let server = traced(Setup { mail: Some(mail.clone()), ..Setup::default() }, &format!("trace={call}"), &[inject]);
                let mut client = greeted(&server);
                assert!(send(&mut client, inject).starts_with(want), "{inject}: {}", client.transcript);
                let left = files_below(&mail).len();
                assert_eq!(left, usize::from(want == "250"), "{inject}");
                // And then it goes on.
                assert!(send(&mut client, "again").starts_with("250"), "{inject}: {}", client.transcript);
                assert_eq!(files_below(&mail).len(), left + 1, "{inject}");
                trace_of(&server);
            });
        }
    });
}

/// A directory with a Maildir of bob@example.org in it, as an earlier server has left it.
fn maildir_of_bob() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for part in ["tmp", "cur", "new"] {
        fs::create_dir_all(dir.path().join("example.org/bob").join(part)).unwrap();
    }
    let _ = Command::new("chown").args(["-R", "nobody"]).arg(dir.path()).status();
    dir
}

fn fsyncs_of_a_delivery() -> usize {
    let dir = maildir_of_bob();
    let server = traced(Setup { mail: Some(dir.path().to_owned()), ..Setup::default() }, "trace=fsync", &[]);
    assert!(send(&mut greeted(&server), "count").starts_with("250"));
    let trace = trace_of(&server);
    // strace counts each thread by itself; the first one makes durable what is above the Maildirs, at the start.
    let threads: Vec<&str> =
        trace.lines().filter(|line| line.contains("fsync(")).filter_map(|line| line.split(' ').next()).collect();
    threads.iter().filter(|thread| *thread == threads.last().unwrap()).count()
}

/// A file system that knows no unnamed files gets the classical way by tmp/, with the same promise.
#[test]
fn without_unnamed_files() {
    if !strace_works() {
        return;
    }
    // A kernel without O_TMPFILE, as far as the server can see: what is opened within new/ is that one.
    let dir = maildir_of_bob();
    let setup = Setup { mail: Some(dir.path().to_owned()), ..Setup::default() };
    // With -P, only what is opened at new/ is counted: the directory, at its first use once more, then the unnamed file in it.
    let new = dir.path().join("example.org/bob/new").display().to_string();
    let server = traced(setup, "trace=openat", &["openat:error=EOPNOTSUPP:when=3+2", &new]);
    let mut client = greeted(&server);
    for n in 1..=3 {
        assert!(send(&mut client, "by tmp/").starts_with("250"), "{}", client.transcript);
        assert_eq!(files_below(dir.path()).len(), n, "nothing is left in tmp/");
    }
    let trace = trace_of(&server);
    assert_eq!(trace.matches("O_TMPFILE").count(), 3, "{trace}");
    assert_eq!(trace.matches("INJECTED").count(), 3, "{trace}");
}

fn mount_tmpfs(at: &Path, options: &str) -> bool {
    let works = nix::unistd::geteuid().is_root()
        && Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .status()
            .is_ok_and(|status| status.success());
    if !works {
        skipped("mounting is not allowed");
    }
    works
}

#[test]
fn a_full_disk_is_answered_and_service_comes_back() {
    for (options, what) in [("size=64k,mode=777", "octets"), ("size=4m,nr_inodes=12,mode=777", "inodes")] {
        let dir = tempfile::tempdir().unwrap();
        let mail = dir.path().join("mail");
        fs::create_dir(&mail).unwrap();
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        if !mount_tmpfs(&mail, options) {
            return;
        }
        let outcome = std::panic::catch_unwind(|| {
            let server = Setup { mail: Some(mail.clone()), services: vec!["smtp"], ..Setup::default() }.start();
            let mut client = greeted(&server);
            let body = "0123456789abcdef\r\n".repeat(400);
            let mut stored = 0;
            let refused = loop {
                let reply = client.deliver("", "bob@example.org", body.as_bytes()).unwrap();
                if !reply.starts_with("250") {
                    break reply;
                }
                stored += 1;
                assert!(stored < 100, "the disk never fills");
            };
            assert!(refused.starts_with("452 4.3.1"), "{what}: {refused}");
            assert!(stored > 0 && files_below(&mail).len() == stored, "{what}: no partial file");
            for file in server.new_mail("bob@example.org") {
                fs::remove_file(file).unwrap();
            }
            // The refusal may have been the reply to MAIL, and others follow it.
            let reply = greeted(&server).deliver("", "bob@example.org", body.as_bytes()).unwrap();
            assert!(reply.starts_with("250"), "{what}: service comes back at once: {reply}");
        });
        run("umount", &mail);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }
}

/// SIZE is held against what is free, and the last hundredth of a disk is for those that log in.
#[test]
fn a_disk_that_is_nearly_full() {
    let dir = tempfile::tempdir().unwrap();
    let mail = dir.path().join("mail");
    fs::create_dir(&mail).unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    if !mount_tmpfs(&mail, "size=10m,mode=777") {
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let server = Setup { mail: Some(mail.clone()), services: vec!["smtp", "submissions"], ..Setup::default() }.start();
        let mut stranger = greeted(&server);
        stranger.say("MAIL FROM:<a@b.example> SIZE=11000000", "452 4.3.1");
        stranger.say("MAIL FROM:<a@b.example> SIZE=9000000", "250");
        // 60 KiB are left, and the floor is 102.4 KiB.
        fs::write(mail.join("ballast"), vec![0; (10 * 1024 - 60) * 1024]).unwrap();
        thread::sleep(Duration::from_millis(1100));
        stranger.say("RSET", "250");
        stranger.say("MAIL FROM:<a@b.example>", "452 4.3.1");
        let mut user = server.login("alice@example.org");
        user.say("MAIL FROM:<alice@example.org> SIZE=100000", "452 4.3.1");
        assert!(user.deliver("alice@example.org", "bob@example.org", b"Subject: x\r\n").unwrap().starts_with("250"));
        fs::remove_file(mail.join("ballast")).unwrap();
        stranger.say("MAIL FROM:<a@b.example> SIZE=100000", "250");
    });
    run("umount", &mail);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn run(tool: &str, path: &Path) {
    for _ in 0..50 {
        if Command::new(tool).arg(path).status().is_ok_and(|status| status.success()) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The log says in words what keeps a client from TLS, for whoever sets up the scanner.
#[test]
fn a_client_without_tls_1_2_is_named() {
    if !require(&["openssl"]) {
        return;
    }
    let server = Setup { services: vec!["submissions"], ..Setup::default() }.start();
    let address = server.address("submissions").to_string();
    let client = |args: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address]).args(args).stdin(Stdio::null());
        assert_eq!(finish(&mut command).status.code(), Some(1), "{args:?}");
    };
    client(&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    server.wait_for_log(&["tls session=", "error=\"the client knows no TLS 1.2 (peer"]);
    // The key is one of ECDSA.
    client(&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]);
    server.wait_for_log(&["tls session=", "error=\"the client has no key exchange or cipher in common"]);
    client(&["-verify_return_error", "-no-CAfile", "-no-CApath", "-no-CAstore"]);
    server.wait_for_log(&["tls session=", "error=\"the client does not trust the certificate (received"]);
}

/// A Maildir that is not ours, or that is read-only: a 451, and others are served.
#[test]
fn a_maildir_that_is_not_ours() {
    if !nix::unistd::geteuid().is_root() {
        skipped("needs root, so that the server is another user");
        return;
    }
    let server = Setup { services: vec!["smtp"], ..Setup::default() }.start();
    let mut client = greeted(&server);
    assert!(send(&mut client, "made").starts_with("250"));
    let maildir = server.maildir("bob@example.org");
    let domain = maildir.parent().unwrap();
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
        let output = command.arg("-c").arg(&server.config).args(["check", "--offline"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!check().contains("may not write there"), "{}", check());
    // As a restore leaves it.
    let _ = Command::new("chown").args(["-R", "root"]).arg(domain).status();
    assert!(send(&mut client, "not ours").starts_with("451 4.3.0"));
    let named = format!(" about=storage text=\"{}:", maildir.display());
    server.wait_for_log(&["notice session=", " peer=127.0.0.1:", &named]);
    // The whole of it, so that the cure is one.
    let cure = format!("{0}: nobody may not write there; chown -R nobody: {0}\n", domain.display());
    assert!(check().contains(&cure), "{}", check());
    let _ = Command::new("chown").args(["-R", "nobody"]).arg(domain).status();
    assert!(!check().contains("may not write there"), "{}", check());
    let _ = Command::new("chown").args(["-R", "root"]).arg(&maildir).status();
    assert!(send(&mut client, "not ours").starts_with("451 4.3.0"));
    assert!(client.deliver("", "alice@example.org", b"Subject: other\r\n").unwrap().starts_with("250"));
    let _ = Command::new("chown").args(["-R", "nobody"]).arg(&maildir).status();
    assert!(send(&mut client, "ours again").starts_with("250"));
    fs::remove_dir_all(&maildir).unwrap();
    assert!(send(&mut client, "vanished, and made anew").starts_with("250"));
    assert_eq!(server.new_mail("bob@example.org").len(), 1);
}

/// kill -9 at any moment under many clients: every message that got 250 is there exactly once, whole.
#[test]
fn killed_at_any_moment() {
    let clients = 32;
    let total = AtomicUsize::new(0);
    rounds(4, |round| {
        let setup = Setup { services: vec!["smtp"], ..Setup::default() };
        let mut server = setup.limit("per_address = 100").start();
        let accepted: Mutex<HashMap<String, u32>> = Mutex::default();
        thread::scope(|scope| {
            for n in 0..clients {
                let (server, accepted) = (&server, &accepted);
                scope.spawn(move || {
                    // The server may be gone before this one has come.
                    let Ok(tcp) = TcpStream::connect(server.address("smtp")) else { return };
                    let mut client = Client::over(tcp, &server.dir.path().join("cert.pem"));
                    if client.reply().is_none() || client.send(b"EHLO x.example\r\n").is_err() || client.reply().is_none() {
                        return;
                    }
                    for message in 0..100_000u32 {
                        let name = format!("{n}-{message}");
                        let body = format!("{name} 0123456789\r\n").repeat(1 + (message as usize % 7) * 100);
                        let sum = checksum(&body.replace("\r\n", "\n"));
                        let content = format!("Subject: {name}\r\nX-Sum: {sum}\r\n\r\n{}", &body[..body.len() - 2]);
                        match client.deliver("", "bob@example.org", content.as_bytes()) {
                            Some(reply) if reply.starts_with("250") => drop(accepted.lock().unwrap().insert(name, sum)),
                            _ => return,
                        }
                    }
                });
            }
            // A different moment each round, from the first messages on.
            thread::sleep(Duration::from_millis(20 + (round * 37) % 400));
            server.signal(Signal::SIGKILL);
        });
        server.wait(PATIENCE);
        let accepted = accepted.into_inner().unwrap();
        let mut found: HashMap<String, u32> = HashMap::new();
        for file in server.new_mail("bob@example.org") {
            let text = fs::read_to_string(&file).unwrap();
            let field = |name: &str| {
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{file:?} is partial"))
            };
            let (name, sum): (String, u32) = (field("Subject: ").into(), field("X-Sum: ").parse().unwrap());
            let body = text.split_once("\n\n").expect("a body").1;
            assert_eq!(checksum(body), sum, "{file:?} is not whole");
            *found.entry(name).or_default() += 1;
        }
        for name in accepted.keys() {
            assert_eq!(found.get(name), Some(&1), "round {round}: {name} got 250");
        }
        assert!(found.values().all(|count| *count == 1), "round {round}: a message is there twice");
        total.fetch_add(accepted.len(), Ordering::Relaxed);
    });
    let total = total.into_inner();
    assert!(total > 0, "nothing was accepted");
    eprintln!("{total} messages got 250, and all are there");
}

fn checksum(text: &str) -> u32 {
    text.bytes().fold(17, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)))
}
