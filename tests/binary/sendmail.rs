//! `pillarbox sendmail` against the real server: what it hands in, what it exits with, and the programs that call it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Server, Setup, require, require_root, said, skipped};
use nix::sys::signal::Signal;

const BINARY: &str = env!("CARGO_BIN_EXE_pillarbox");
/// Debian's www-data and games: users that are there everywhere.
const WWW_DATA: u32 = 33;
const GAMES: u32 = 5;

/// A server with a local socket that every user may open; www-data is bob.
fn server() -> Server {
    setup().start_open()
}

fn setup() -> Setup {
    let mut setup = Setup { local: vec!["\"{place}/submit\"".into()], ..Setup::default() }.outgoing();
    setup.aliases.push("root: alice".into());
    setup.aliases.push("games: alice".into());
    setup.unix_users.push("www-data = \"bob@example.org\"".into());
    setup
}

trait Open {
    fn start_open(self) -> Server;
}

impl Open for Setup {
    /// Every user may read the configuration and open the socket.
    fn start_open(self) -> Server {
        let server = self.start();
        for path in [server.dir.path(), &server.config] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let script = format!("#!/bin/sh\nexec {BINARY} -c {} sendmail \"$@\"\n", server.config.display());
        fs::write(script_of(&server), script).unwrap();
        fs::set_permissions(script_of(&server), fs::Permissions::from_mode(0o755)).unwrap();
        server
    }
}

fn script_of(server: &Server) -> PathBuf {
    server.dir.path().join("sendmail")
}

fn sendmail(server: &Server) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("-c").arg(&server.config).arg("sendmail");
    command
}

/// Runs a command with this on standard input.
fn feed(command: &mut Command, input: &[u8]) -> Output {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn exit_of(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// The one message in a mailbox that has this in it.
fn message_with(server: &Server, mailbox: &str, part: &str) -> String {
    let begun = Instant::now();
    loop {
        let texts =
            server.new_mail(mailbox).into_iter().map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned());
        if let Some(text) = texts.into_iter().find(|text| text.contains(part)) {
            return text;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "no `{part}` in {mailbox}: {}", server.log_text());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_message_is_completed_and_exit_is_what_the_server_says() {
    if !require_root() {
        return;
    }
    let server = server();
    let as_root = |words: &[&str], input: &str| feed(sendmail(&server).args(words), input.as_bytes());
    let output =
        as_root(&["-i", "-FCronDaemon", "-B8BITMIME", "-oem", "root"], "Subject: Cron\nTo: root\n\n.\nline\rtwo\n\u{fc}\n");
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    let text = message_with(&server, "alice@example.org", "Subject: Cron");
    for want in [
        "Return-Path: <root@mx.example.org>\n",
        "Delivered-To: root@mx.example.org\n",
        "From: CronDaemon <root@mx.example.org>\n",
        "To: root@mx.example.org\n",
        "\nDate: ",
        "\nMessage-ID: <",
        "\n\n.\nline\ntwo\n\u{fc}\n",
    ] {
        assert!(text.contains(want), "{want:?} in {text}");
    }

    let output = as_root(&["-t", "bob@example.org"], "To: root\nBcc: hidden <alice@example.org>\nSubject: by header\n\nx\n");
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    let text = message_with(&server, "bob@example.org", "Subject: by header");
    assert!(!text.contains("hidden") && text.contains("To: root@mx.example.org\n"), "{text}");
    message_with(&server, "alice@example.org", "Subject: by header");

    // A dot ends it without -i; the null sender; a line of an mbox.
    assert_eq!(exit_of(&as_root(&["-f", "", "root"], "From x\nSubject: dot\n\nbefore\n.\nafter\n")), 0);
    let text = message_with(&server, "alice@example.org", "Subject: dot");
    assert!(text.starts_with("Return-Path: <>\n") && text.ends_with("\nbefore\n"), "{text}");

    let rows: [(&[&str], i32, &str); 8] = [
        (&["nobody-there@example.org"], 67, "550 5.1.1"),
        (&["x@elsewhere.example"], 77, "550 5.7.1"),
        (&["-f", "alice@example.org", "root"], 77, "550 5.7.1 5.7.1"),
        (&[], 64, "no recipients"),
        (&["-bd"], 64, "pillarbox serve"),
        (&["-f", "a\r\nRCPT TO:<x@y.example>", "root"], 64, "line end"),
        (&["a<b>@c.example"], 65, "no address"),
        (&["-bi"], 0, ""),
    ];
    for (words, want, text) in rows {
        let output = as_root(words, "Subject: rows\n\nx\n");
        assert_eq!(exit_of(&output), want, "{words:?}: {}", said(&output));
        assert!(said(&output).contains(text.split(" 5.7.1").next().unwrap()), "{words:?}: {}", said(&output));
    }
    // The good recipients get it, the bad one is named.
    let output = as_root(&["nobody-there@example.org", "alice@example.org"], "Subject: half\n\nx\n");
    assert_eq!(exit_of(&output), 67);
    assert!(said(&output).contains("nobody-there@example.org: 550 5.1.1 No such mailbox"), "{}", said(&output));
    message_with(&server, "alice@example.org", "Subject: half");
    // An unknown flag is warned of, and the mail goes.
    let output = as_root(&["-Z", "root"], "Subject: flag\n\nx\n");
    assert!(exit_of(&output) == 0 && said(&output).contains("unknown flag -Z"), "{}", said(&output));
    message_with(&server, "alice@example.org", "Subject: flag");
    // A header that names another author is refused, and said so.
    let output = as_root(&["root"], "From: alice@example.org\nSubject: forged\n\nx\n");
    assert!(exit_of(&output) == 77 && said(&output).contains("550 5.7.1 Header From"), "{}", said(&output));
}

#[test]
fn by_the_programs_name() {
    let by_name = |name: &str, words: &[&str]| feed(Command::new(BINARY).arg0(name).args(words), b"");
    assert_eq!(exit_of(&by_name("/usr/bin/newaliases", &[])), 0);
    assert_eq!(exit_of(&by_name("/usr/sbin/sendmail", &["-bi"])), 0);
    assert_eq!(exit_of(&by_name("sendmail", &[])), 64);
    let server = server();
    let output = feed(sendmail(&server).arg("-bp"), b"");
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    assert_eq!(exit_of(&feed(sendmail(&server).arg("-q"), b"")), 0, "nothing waits");
}

/// The server is not there: the caller waits for it, and half a minute at most.
#[test]
fn it_waits_through_a_restart() {
    if !require_root() {
        return;
    }
    let mut server = server();
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(PATIENCE), Some(0));
    let mut command = sendmail(&server);
    let mut child = command.arg("root").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Subject: waited\n\nx\n").unwrap();
    thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "it has given up");
    server.restart();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    message_with(&server, "alice@example.org", "Subject: waited");
}

/// What the kernel says counts, whatever the caller says.
#[test]
fn users_are_who_the_kernel_says() {
    if !require_root() {
        return;
    }
    let server = server();
    let by = |uid: u32, words: &[&str], input: &str| feed(sendmail(&server).args(words).uid(uid).gid(uid), input.as_bytes());
    // With a row: it is that login, and may write to others.
    assert_eq!(exit_of(&by(WWW_DATA, &["x@elsewhere.example", "alice@example.org"], "Subject: row\nFrom: www-data\n\nx\n")), 0);
    let text = message_with(&server, "alice@example.org", "Subject: row");
    assert!(text.contains("\nFrom: www-data@mx.example.org\n"), "{text}");
    server.wait_for_log(&["caller ", "peer=unix:33 ", "user=www-data", "login=bob@example.org"]);
    server.wait_for_log(&["rewritten ", "from=www-data@mx.example.org", "to=bob@example.org"]);
    server.wait_for_log(&["queued ", "login=bob@example.org", "from=bob@example.org", "to=x@elsewhere.example"]);
    assert_eq!(exit_of(&by(WWW_DATA, &["-f", "bob@example.org", "alice@example.org"], "Subject: own\n\nx\n")), 0);
    // Without: mailboxes here alone.
    assert_eq!(exit_of(&by(GAMES, &["alice@example.org"], "Subject: none\n\nx\n")), 0);
    let text = message_with(&server, "alice@example.org", "Subject: none");
    assert!(text.contains("From: games@mx.example.org\n"), "{text}");
    assert_eq!(exit_of(&by(GAMES, &["x@elsewhere.example"], "Subject: out\n\nx\n")), 77);
    // Forged.
    for uid in [WWW_DATA, GAMES] {
        assert_eq!(exit_of(&by(uid, &["-f", "alice@example.org", "alice@example.org"], "\nx\n")), 77, "{uid}");
        assert_eq!(exit_of(&by(uid, &["alice@example.org"], "From: alice@example.org\n\nx\n")), 77, "{uid}");
        assert_eq!(exit_of(&by(uid, &["-f", "root", "alice@example.org"], "\nx\n")), 77, "{uid}");
    }
    // A user without a name.
    assert_eq!(exit_of(&by(4321, &["alice@example.org"], "Subject: nameless\n\nx\n")), 0);
    assert!(message_with(&server, "alice@example.org", "Subject: nameless").contains("From: uid-4321@mx.example.org\n"));
}

/// All users of another namespace look alike: they need a socket that is one login's.
#[test]
fn another_user_namespace_needs_a_socket_of_its_own() {
    if !require_root() || !require(&["unshare", "setpriv"]) {
        return;
    }
    let mut setup = setup();
    let server = setup.clone().start_open();
    let inside = |server: &Server| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=5", "--regid=5", "--clear-groups", "unshare", "--user", "--map-root-user", BINARY, "-c"]);
        command.arg(&server.config).args(["sendmail", "alice@example.org"]);
        feed(&mut command, b"Subject: inside\n\nx\n")
    };
    let outside = inside(&server);
    if said(&outside).contains("unshare failed") {
        skipped("no user namespaces here");
        return;
    }
    // Mapped to a user of this namespace it is that user; what is not mapped is told apart from nobody.
    assert_eq!(exit_of(&outside), 0, "{}", said(&outside));
    assert!(message_with(&server, "alice@example.org", "Subject: inside").contains("From: games@mx.example.org\n"));
    let overflow = feed(sendmail(&server).arg("alice@example.org").uid(65_534).gid(65_534), b"Subject: nobody\n\nx\n");
    assert_eq!(exit_of(&overflow), 77, "{}", said(&overflow));
    assert!(said(&overflow).contains("another user namespace"), "{}", said(&overflow));
    setup.local = vec!["{ path = \"{place}/shop\", login = \"bob@example.org\" }".into()];
    let server = setup.start_open();
    let output = feed(sendmail(&server).arg("alice@example.org").uid(65_534).gid(65_534), b"Subject: shop\n\nx\n");
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    assert!(message_with(&server, "alice@example.org", "Subject: shop").contains("Return-Path: <bob@example.org>\n"));
}

/// One user that holds 200 connections and one that writes without end: neither stops another.
#[test]
fn one_user_does_not_block_another() {
    if !require_root() || !require(&["python3"]) {
        return;
    }
    let mut setup = setup().limit("per_address = 8");
    setup.sending_limits.push("\"games@mx.example.org\" = { messages = [\"20/h\"] }".into());
    let server = setup.start_open();
    let hold = "import socket, sys, time\nheld = []\nfor n in range(200):\n    s = socket.socket(socket.AF_UNIX)\n    s.connect(sys.argv[1])\n    \
                held.append(s)\nprint('held', flush=True)\ntime.sleep(120)\n";
    let socket = server.dir.path().join("submit");
    let mut holder =
        Command::new("python3").args(["-c", hold]).arg(&socket).uid(7).gid(7).stdout(Stdio::piped()).spawn().unwrap();
    let mut word = [0; 4];
    let mut said_by_holder = holder.stdout.take().unwrap();
    said_by_holder.read_exact(&mut word).unwrap();
    let exits: Vec<i32> = (0..40)
        .map(|n| {
            let text = format!("Subject: much {n}\n\nx\n");
            exit_of(&feed(sendmail(&server).arg("alice@example.org").uid(GAMES).gid(GAMES), text.as_bytes()))
        })
        .collect();
    assert!(exits[..20].iter().all(|exit| *exit == 0) && exits[20..].iter().all(|exit| *exit == 75), "{exits:?}");
    let output = feed(sendmail(&server).arg("alice@example.org").uid(WWW_DATA).gid(WWW_DATA), b"Subject: through\n\nx\n");
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    message_with(&server, "alice@example.org", "Subject: through");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

// The programs that call it.

/// A shell in which /usr/sbin/sendmail is the server's script, without new privileges.
fn shell(server: &Server, script: &str) -> Output {
    let inner = format!(
        "mount --bind {0} /usr/sbin/sendmail && exec setpriv --no-new-privs sh -c '{script}'",
        script_of(server).display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &inner]).current_dir(server.dir.path()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    feed(&mut command, b"")
}

fn with_tools(tools: &[&str]) -> Option<Server> {
    let all: Vec<&str> = tools.iter().copied().chain(["unshare", "setpriv"]).collect();
    if !require_root() || !require(&all) {
        return None;
    }
    if !Path::new("/usr/sbin/sendmail").exists() {
        skipped("/usr/sbin/sendmail is not there to be mounted over");
        return None;
    }
    Some(server())
}

#[test]
fn called_by_mail_programs() {
    let rows: [(&[&str], &str, &str); 3] = [
        (&["bsd-mailx"], "bsd-mailx", "echo body | bsd-mailx -s bsd-mailx root"),
        (&["s-nail"], "s-nail", "echo body | s-nail -:/ -S mta=/usr/sbin/sendmail -s s-nail root@mx.example.org"),
        (
            &["mutt"],
            "mutt",
            "echo body | HOME=/nonexistent mutt -n -e \"set sendmail=/usr/sbin/sendmail copy=no\" -s mutt root@mx.example.org",
        ),
    ];
    for (tools, subject, script) in rows {
        let Some(server) = with_tools(tools) else { continue };
        let output = shell(&server, script);
        assert_eq!(exit_of(&output), 0, "{script}: {}", said(&output));
        let text = message_with(&server, "alice@example.org", &format!("Subject: {subject}"));
        assert!(text.contains("\nbody\n"), "{text}");
    }
}

#[test]
fn called_by_php() {
    let Some(server) = with_tools(&["php"]) else { return };
    let script = "php -r \"exit(mail(\\\"root\\\", \\\"php plain\\\", \\\"body\\\") ? 0 : 1);\"";
    let output = shell(&server, script);
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    message_with(&server, "alice@example.org", "Subject: php plain");
    let script = "setpriv --reuid=33 --regid=33 --clear-groups php -r \"exit(mail(\\\"x@elsewhere.example, root\\\", \\\"php f\\\", \\\"body\\\", \
                  \\\"From: Shop <bob@example.org>\\\", \\\"-fbob@example.org\\\") ? 0 : 1);\"";
    let output = shell(&server, script);
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    let text = message_with(&server, "alice@example.org", "Subject: php f");
    assert!(text.contains("Return-Path: <bob@example.org>") && text.contains("From: Shop <bob@example.org>"), "{text}");
    server.wait_for_log(&["queued ", "login=bob@example.org", "to=x@elsewhere.example"]);
    let script = "setpriv --reuid=33 --regid=33 --clear-groups php -r \"exit(mail(\\\"root\\\", \\\"forged\\\", \\\"b\\\", \\\"\\\", \
                  \\\"-falice@example.org\\\") ? 0 : 1);\"";
    assert_eq!(exit_of(&shell(&server, script)), 1, "PHP is told");
}

/// As Symfony's mailer speaks through `sendmail -bs`.
#[test]
fn called_with_bs() {
    let Some(server) = with_tools(&["php"]) else { return };
    let talk = r#"<?php
$p = proc_open("/usr/sbin/sendmail -bs", [["pipe", "r"], ["pipe", "w"]], $pipes);
function want($code) { global $pipes; do { $line = fgets($pipes[1]); } while (isset($line[3]) && $line[3] === "-");
  if (strpos((string)$line, $code) !== 0) { fwrite(STDERR, "wanted $code, got $line"); exit(1); } }
function say($line, $code) { global $pipes; fwrite($pipes[0], $line . "\r\n"); want($code); }
want("220"); say("EHLO [127.0.0.1]", "250"); say("MAIL FROM:<root@mx.example.org>", "250"); say("RCPT TO:<root@mx.example.org>", "250");
say("DATA", "354"); say("Subject: symfony\r\n\r\nbody\r\n.", "250"); say("QUIT", "221"); exit(proc_close($p));
"#;
    fs::write(server.dir.path().join("talk.php"), talk).unwrap();
    let output = shell(&server, "php talk.php");
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    message_with(&server, "alice@example.org", "Subject: symfony");
}

#[test]
fn called_by_git_send_email() {
    let Some(server) = with_tools(&["git"]) else { return };
    if !feed(Command::new("git").args(["send-email", "-h"]), b"").status.success()
        && !Path::new("/usr/lib/git-core/git-send-email").exists()
    {
        return skipped("git send-email not installed");
    }
    let patch = "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\nFrom: Root <root@mx.example.org>\n\
                 Date: Tue, 24 Nov 2026 12:00:00 +0000\nSubject: [PATCH] git\n\nbody\n---\n x | 1 +\n";
    fs::write(server.dir.path().join("one.patch"), patch).unwrap();
    let script = "/usr/bin/git send-email --quiet --confirm=never --from root@mx.example.org --to root@mx.example.org \
                  --smtp-server=/usr/sbin/sendmail one.patch";
    let output = shell(&server, script);
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    message_with(&server, "alice@example.org", "[PATCH] git");
}

#[test]
fn called_by_at() {
    let Some(server) = with_tools(&["at", "atd"]) else { return };
    // A queue of jobs of its own, run once by a daemon of its own.
    let script = "echo \"echo from-at\" | at -m now 2>/dev/null; sleep 1; atd -s -l 1000; sleep 3";
    let jobs = server.dir.path().join("jobs");
    let inner = format!(
        "mkdir -p {0} {0}/spool; cp -a /var/spool/cron/atjobs/. {0}/; rm -f {0}/[a-z]0*; chown daemon:daemon {0} {0}/spool; chmod 1770 {0} {0}/spool; \
         touch {0}/.SEQ; chown daemon:daemon {0}/.SEQ; chmod 600 {0}/.SEQ; mount --bind {0}/spool /var/spool/cron/atspool; mount --bind {0} /var/spool/cron/atjobs; \
         mount --bind {1} /usr/sbin/sendmail; exec sh -c '{script}'",
        jobs.display(),
        script_of(&server).display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &inner]).current_dir(server.dir.path()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = feed(&mut command, b"");
    assert_eq!(exit_of(&output), 0, "{}", said(&output));
    let text = message_with(&server, "alice@example.org", "from-at");
    assert!(text.contains("Subject: Output from your job"), "{text}");
}

/// A job that prints. cron takes a /run without its mark for a start of the system, and runs the job at once.
#[test]
fn called_by_cron() {
    let Some(server) = with_tools(&["cron"]) else { return };
    let dir = server.dir.path().display();
    fs::write(server.dir.path().join("crontab"), "@reboot root echo from-cron\n").unwrap();
    fs::set_permissions(server.dir.path().join("crontab"), fs::Permissions::from_mode(0o644)).unwrap();
    let inner = format!(
        "chown root:root {dir}/crontab; mkdir {dir}/empty {dir}/run; mount --bind {dir}/crontab /etc/crontab; \
         mount --bind {dir}/empty /etc/cron.d; mount --bind {dir}/empty /var/spool/cron/crontabs; mount --bind {dir}/run /run; \
         mount --bind {} /usr/sbin/sendmail; exec setpriv --no-new-privs cron -f",
        script_of(&server).display()
    );
    let mut cron =
        Command::new("unshare").args(["-m", "sh", "-c", &inner]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").spawn().unwrap();
    let text = message_with(&server, "alice@example.org", "from-cron");
    cron.kill().unwrap();
    cron.wait().unwrap();
    assert!(text.contains("Subject: Cron <root@") && text.contains("From: root@mx.example.org (Cron Daemon)\n"), "{text}");
}
