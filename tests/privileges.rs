//! Started as root: what is given up, what is kept, and that a renewed key is taken up all the same.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, PATIENCE, Setup, skipped};
use nix::sys::signal::Signal;

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped("needs root");
    }
    root
}

fn status(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim()
}

#[test]
fn root_is_given_up_for_good() {
    if !is_root() {
        return;
    }
    let mut server = Setup::default().start();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let tasks: Vec<String> = fs::read_dir(format!("/proc/{}/task", server.pid()))
        .unwrap()
        .flatten()
        .map(|entry| format!("{}/task/{}", server.pid(), entry.file_name().to_string_lossy()))
        .collect();
    assert!(tasks.len() > 256, "the pool stands");
    for task in tasks {
        let status = status(&task);
        let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
        assert_eq!(field(&status, "Uid:"), four(nobody.uid.as_raw()), "every thread");
        assert_eq!(field(&status, "Gid:"), four(nobody.gid.as_raw()));
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(&status, set).trim_matches('0'), "", "{set}");
        }
        assert_eq!(field(&status, "NoNewPrivs:"), "1");
    }
    assert_eq!(field(&status(&server.pid().to_string()), "Umask:"), "0077");
    // The helper: root, in a network of its own, and gone when the server is.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.pid())).unwrap();
    let helper = children.split_whitespace().next().expect("a key helper").to_owned();
    assert_eq!(field(&status(&helper), "Uid:").split('\t').next(), Some("0"));
    assert!(fs::read_to_string(format!("/proc/{helper}/cmdline")).unwrap().contains("key-helper"));
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(&helper), network("self"));
    server.signal(Signal::SIGKILL);
    server.wait(PATIENCE);
    let begun = Instant::now();
    while Path::new(&format!("/proc/{helper}")).exists() && !status(&helper).contains("zombie") {
        assert!(begun.elapsed() < PATIENCE, "the helper outlives its server");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Let's Encrypt's layout: live/ links to archive/, both 0700 and root's, the key 0600.
#[test]
fn a_renewed_key_that_only_root_can_read_is_taken_up() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (archive, live) = (dir.path().join("archive"), dir.path().join("live"));
    for path in [&archive, &live] {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let issue = |n: u32| {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned(), "mx.example.org".to_owned()]).unwrap();
        for (name, pem) in [("fullchain", pair.cert.pem()), ("privkey", pair.signing_key.serialize_pem())] {
            let file = archive.join(format!("{name}{n}.pem"));
            fs::write(&file, pem).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let link = live.join(format!("{name}.pem"));
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&file, &link).unwrap();
        }
        let pinned = dir.path().join(format!("pinned{n}.pem"));
        fs::copy(live.join("fullchain.pem"), &pinned).unwrap();
        pinned
    };
    let first = issue(1);
    let server = Setup { tls: Some(live.clone()), ..Setup::default() }.start();
    let presents = |pinned: &Path| Client::connect(server.address("submissions"), pinned).tls().is_ok();
    assert!(presents(&first));
    let second = issue(2);
    let begun = Instant::now();
    while !presents(&second) {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute\n{}", server.log_text());
        thread::sleep(Duration::from_millis(200));
    }
    assert!(!presents(&first));
    server.wait_for_log(&["reloaded", "what=certificate", "result=ok"]);
}

/// Landlock: a Maildir that is a link to somewhere else cannot be followed out of the Maildir root.
#[test]
fn nothing_outside_the_maildirs_can_be_written() {
    if !is_root() || !fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|text| text.contains("landlock")) {
        skipped("no Landlock to be seen");
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mail = tempfile::tempdir().unwrap();
    fs::create_dir(mail.path().join("example.org")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), mail.path().join("example.org/bob")).unwrap();
    let _ = std::process::Command::new("chown").args(["-R", "nobody"]).arg(mail.path()).status();
    let server = Setup { mail: Some(mail.path().to_owned()), ..Setup::default() }.start();
    let mut client = server.connect("smtp");
    client.expect("220");
    client.say("EHLO x.example", "250");
    assert!(client.deliver("", "bob@example.org", b"Subject: x\r\n").unwrap().starts_with("451"));
    assert!(client.deliver("", "alice@example.org", b"Subject: x\r\n").unwrap().starts_with("250"));
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}
