//! What an operator types: check, user, demo, and how each ends.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{PATIENCE, Setup, finish, free_port, give_to_nobody, require, require_root, said, skipped};

fn pillarbox(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pillarbox"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// A FIFO that no process writes to, where a file was.
fn in_place_of(dir: &Path, file: &str, toml: String) -> String {
    fs::remove_file(dir.join(file)).unwrap();
    nix::unistd::mkfifo(&dir.join(file), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    toml
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn help_version_and_wrong_words() {
    for args in [&["-h"][..], &["--help"], &["help"], &["serve", "-h"], &["user", "--help"], &["help", "demo"]] {
        let output = pillarbox(args, "");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(text(&output.stdout).starts_with("usage: pillarbox [-c FILE] [-v]... [VERB] [options]"), "{args:?}");
        assert!(text(&output.stdout).lines().count() < 40, "short: {args:?}");
    }
    let version = pillarbox(&["-V"], "");
    assert_eq!(text(&version.stdout), concat!("pillarbox ", env!("CARGO_PKG_VERSION"), "\n"));
    let rows = [
        (&["chek"][..], 64, "pillarbox: unknown verb `chek`, the nearest known is `check`"),
        (&["--nonsense"], 64, "pillarbox: Unrecognized option: 'nonsense'"),
        (&["check", "more"], 64, "pillarbox: `check` takes no `more`"),
        (&["check", "--generate"], 64, "pillarbox: --generate is an option of `user`, not of `check`"),
        (&["serve", "-s", "pop3", "-c", "/x"], 64, "pillarbox: -s pop3: a service is"),
        (&["user"], 64, "pillarbox: `user` is followed by"),
        (&["user", "del", "a"], 64, "pillarbox: unknown action `user del`, the nearest known is `user remove`"),
        (&["user", "pasword", "a"], 64, "pillarbox: unknown action `user pasword`, the nearest known is `user passwd`"),
        (&["user", "list", "a"], 64, "pillarbox: `user list` takes no `a`"),
        (&["help", "chek"], 64, "pillarbox: unknown verb `chek`, the nearest known is `check`"),
        (&["user", "add"], 64, "pillarbox: `user add` needs one LOGIN"),
        (&["user", "add", "a", "password"], 64, "pillarbox: `user` takes one LOGIN, and never a password"),
        (&["-c", "/no/such/file", "serve"], 78, "pillarbox: /no/such/file: no such file"),
        (&["-c", "/no/such/file", "user", "list"], 78, "pillarbox: /no/such/file: no such file"),
        (&["demo", "a", "b"], 64, "pillarbox: `demo` takes one DIR"),
        (&["demo", "/proc/no"], 73, "pillarbox: /proc/no: "),
    ];
    for (args, code, want) in rows {
        let output = pillarbox(args, "");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).starts_with(want), "{args:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr).lines().count(), 1, "an error is one line: {}", text(&output.stderr));
    }
    let mut odd = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    let output = finish(odd.arg("-c").arg(std::ffi::OsStr::from_bytes(b"/etc/\xff.toml")).arg("check"));
    assert_eq!(output.status.code(), Some(64), "{}", said(&output));
    assert!(text(&output.stderr).contains("is not UTF-8"), "{}", said(&output));
    // A reader that has gone, or a full disk, is no reason to end with a panic.
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_pillarbox")).arg("help").stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn users_are_edited_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    let users = dir.path().join("users");
    let before = format!("# people\n\n{}", fs::read_to_string(&users).unwrap());
    fs::write(&users, &before).unwrap();
    fs::set_permissions(&users, fs::Permissions::from_mode(0o640)).unwrap();
    let config = config.to_str().unwrap();
    let user = |args: &[&str], input: &str| pillarbox(&[&["-c", config, "user"], args].concat(), input);
    let ok = |args: &[&str], input: &str| {
        let output = user(args, input);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let code = |args: &[&str], input: &str| user(args, input).status.code();

    ok(&["add", "carol@example.org"], "open sesame\n");
    assert_eq!(ok(&["verify", "Carol@example.org"], "open sesame\n"), "right\n");
    assert_eq!(code(&["verify", "carol@example.org"], "open\n"), Some(77));
    assert_eq!(code(&["add", "carol@example.org"], "again\n"), Some(73), "the same login and label");
    let made = ok(&["add", "carol@example.org", "--label", "phone", "--generate"], "");
    assert_eq!(made.trim().len(), 20);
    assert_eq!(ok(&["verify", "carol@example.org"], &made), "right: phone\n");
    ok(&["passwd", "carol@example.org"], "changed\r\n");
    assert_eq!(ok(&["verify", "carol@example.org"], "changed"), "right\n");
    let list = ok(&["list"], "");
    assert!(list.contains("carol@example.org\tphone\targon2 19 MiB, 2 passes"), "{list}");
    ok(&["remove", "carol@example.org", "--label", "phone"], "");
    assert_eq!(code(&["verify", "carol@example.org"], &made), Some(77));
    ok(&["remove", "carol@example.org"], "");
    assert_eq!(fs::read_to_string(&users).unwrap(), before, "comments and order stay");
    assert_eq!(fs::metadata(&users).unwrap().mode() & 0o777, 0o640, "the mode stays");

    assert_eq!(code(&["remove", "nobody"], ""), Some(66));
    assert_eq!(code(&["passwd", "nobody"], "x\n"), Some(66));
    assert_eq!(code(&["verify", "nobody"], "x\n"), Some(66));
    assert_eq!(code(&["add", "a/b"], "x\n"), Some(64));
    assert_eq!(code(&["add", "dave"], "\n"), Some(66), "an empty password");
    assert_eq!(code(&["add", "dave", "--label", "a:b"], "x\n"), Some(64));
    assert!(ok(&["hash"], "x\n").starts_with("{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5, "nothing is left beside the files");
}

/// A first users file is root's to write, and the server's to read by the group of its user, whatever that is called.
#[test]
fn a_new_users_file_is_readable_by_the_server() {
    if !require_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    open_to_all(dir.path());
    let config = Setup::default().write(dir.path());
    let users = dir.path().join("users");
    fs::remove_file(&users).unwrap();
    let output = pillarbox(&["-c", config.to_str().unwrap(), "user", "add", "alice@example.org"], "open sesame\n");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let (made, group) = (fs::metadata(&users).unwrap(), nix::unistd::User::from_name("nobody").unwrap().unwrap().gid);
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (0, group.as_raw(), 0o640));
}

/// What `user add`, `passwd` and `remove` say, on standard error: which password, which line, what stays, what is odd.
#[test]
fn user_says_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    let users = dir.path().join("users");
    fs::create_dir_all(dir.path().join("mail/example.org/carol/new")).unwrap();
    let rows: [(&[&str], &str, &[&str]); 10] = [
        (&["add", "carol@example.org"], "long enough", &["carol@example.org: added, line 3 of "]),
        (
            &["add", "carol@example.org", "--label", "phone"],
            "long enough",
            &["password `phone` added, line 4", "IMAP only the first one, on line 3"],
        ),
        (
            &["passwd", "carol@example.org"],
            "long enough",
            &["the password without label changed, line 3", "what stays: password `phone`, line 4"],
        ),
        (&["passwd", "carol@example.org", "--label", "phone"], "x", &["password `phone` changed, line 4", "1 character is soon"]),
        (
            &["remove", "carol@example.org", "--label", "phone"],
            "",
            &["password `phone` removed, line 4", "what stays: the password without label, line 3"],
        ),
        (
            &["remove", "carol@example.org"],
            "",
            &["removed with 1 password, line 3", "its mail stays in ", "/mail/example.org/carol"],
        ),
        (&["add", "scanner"], "long enough", &["scanner: added", "warning: scanner has no domain, so it has no mailbox"]),
        (&["add", "eve@nothere.example"], "long enough", &["warning: nothere.example is not in `domains`"]),
        (&["add", "dave@example.org", "--label", "tablet"], "long enough", &["dave@example.org: added"]),
        (&["remove", "eve@nothere.example"], "", &["removed with 1 password, line 4"]),
    ];
    for (args, password, want) in rows {
        let output = pillarbox(&[&["-c", config.to_str().unwrap(), "user"], args].concat(), &format!("{password}\n"));
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", said(&output));
        assert_eq!(text(&output.stdout), "", "{args:?}: a result alone goes to standard output");
        for want in want {
            assert!(text(&output.stderr).contains(want), "{args:?}: {want} is not in {}", said(&output));
        }
        let lines = text(&output.stderr).lines().filter(|line| line.contains("warning")).count();
        assert_eq!(lines, usize::from(want.iter().any(|want| want.contains("warning") || want.contains("soon"))), "{args:?}");
    }
    let output = pillarbox(&["-c", config.to_str().unwrap(), "user", "passwd", "dave@example.org"], "x\n");
    assert!(text(&output.stderr).contains("all its passwords have labels; give --label: password `tablet`"), "{}", said(&output));
    assert!(fs::read_to_string(users).unwrap().contains("dave@example.org"));
}

/// An edit that is made while another one is going on is not lost: the file is read under the lock.
#[test]
fn two_edits_both_take_effect() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    let users = dir.path().join("users");
    let held = nix::fcntl::Flock::lock(fs::File::open(dir.path()).unwrap(), nix::fcntl::FlockArg::LockExclusive).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pillarbox"))
        .args(["-c", config.to_str().unwrap(), "user", "add", "carol@example.org", "--generate"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    // proc_locks(5): `->` before a lock that is waited for.
    let waits = |line: &str| line.contains("->") && line.split_whitespace().any(|word| word == pid);
    let begun = std::time::Instant::now();
    while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
        assert!(begun.elapsed() < PATIENCE && child.try_wait().unwrap().is_none(), "it waits for no lock");
        std::thread::yield_now();
    }
    let mut text = fs::read_to_string(&users).unwrap();
    text.push_str("# written meanwhile\n");
    fs::write(&users, text).unwrap();
    drop(held);
    assert!(child.wait().unwrap().success());
    let text = fs::read_to_string(&users).unwrap();
    assert!(text.contains("# written meanwhile\n") && text.contains("carol@example.org:"), "{text}");
}

/// Nor is a users file waited for that is a FIFO.
#[test]
fn a_users_file_that_is_a_fifo_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    in_place_of(dir.path(), "users", String::new());
    for action in ["add", "passwd", "remove"] {
        let words = ["-c", config.to_str().unwrap(), "user", action, "alice@example.org", "--label", "x"];
        let output = finish(Command::new(env!("CARGO_BIN_EXE_pillarbox")).args(words).stdin(Stdio::null()));
        assert!(text(&output.stderr).contains("users: is no regular file"), "{action}: {}", said(&output));
    }
}

/// Runs a script of Python in which `run(…)` starts the program on a terminal of its own, `until` waits for what it
/// says and `send` types.
fn on_a_terminal(script: &str, arguments: &[&str]) -> Option<Output> {
    const HEAD: &str = r#"
import fcntl, os, pty, signal, struct, sys, termios
TIOCGPTN = 0x80045430
signal.alarm(30)
seen = b''
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
def until(what, times=1):
    global seen
    while seen.count(what) < times:
        seen += os.read(fd, 1024)
def send(what): os.write(fd, what)
def echoes(): return bool(termios.tcgetattr(fd)[3] & termios.ECHO)
def end():
    global seen
    try:
        while True:
            got = os.read(fd, 1024)
            if not got: break
            seen += got
    except OSError: pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"#;
    if !require(&["python3"]) {
        return None;
    }
    let mut python = Command::new("python3");
    python.args(["-c", &format!("{HEAD}{script}"), env!("CARGO_BIN_EXE_pillarbox")]).args(arguments);
    Some(finish(&mut python))
}

/// Typed twice, asked for again where the two differ, three times at most.
#[test]
fn a_password_is_asked_for_without_echo() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    let config = config.to_str().unwrap();
    let add = ["-c", config, "user", "add", "carol@example.org"];
    let script = r#"
until(b'Password: '); send(b'typed secret\n')
until(b'Again: '); send(b'typed otherwise\n')
until(b'differ'); until(b'Password: ', 2); send(b'typed secret\n')
until(b'Again: ', 2); send(b'typed secret\n')
code = end()
assert b'typed' not in seen, seen
sys.exit(code)
"#;
    let Some(output) = on_a_terminal(script, &add) else { return };
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(pillarbox(&["-c", config, "user", "verify", "carol@example.org"], "typed secret\n").status.code(), Some(0));
    let script = r#"
for n in (1, 2, 3):
    until(b'Password: ', n); send(b'one\n')
    until(b'Again: ', n); send(b'two\n')
sys.exit(end())
"#;
    let output = on_a_terminal(script, &["-c", config, "user", "passwd", "carol@example.org"]).unwrap();
    assert_eq!(output.status.code(), Some(66), "{}", said(&output));
    assert_eq!(pillarbox(&["-c", config, "user", "verify", "carol@example.org"], "typed secret\n").status.code(), Some(0));
}

/// Ctrl-C at the prompt ends the program as a signal does, and the terminal shows again what is typed.
#[test]
fn a_signal_at_the_prompt_brings_the_echo_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    let script = r#"
until(b'Password: ')
assert not echoes()
# Its other side is kept open, so that it can still be asked for its state.
number = struct.unpack('i', fcntl.ioctl(fd, TIOCGPTN, bytes(4)))[0]
slave = os.open(f'/dev/pts/{number}', os.O_RDWR | os.O_NOCTTY)
send(b'\x03')
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert code == -signal.SIGINT, code
assert echoes()
"#;
    let Some(output) = on_a_terminal(script, &["-c", config.to_str().unwrap(), "user", "add", "carol@example.org"]) else {
        return;
    };
    assert!(output.status.success(), "{}", said(&output));
    assert!(!fs::read_to_string(dir.path().join("users")).unwrap().contains("carol"));
}

#[test]
fn check_finds_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    open_to_all(dir.path());
    fs::create_dir(dir.path().join("mail")).unwrap();
    fs::set_permissions(dir.path().join("mail"), fs::Permissions::from_mode(0o777)).unwrap();
    let output = pillarbox(&["-c", config.to_str().unwrap(), "check"], "");
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}{}", text(&output.stderr));
    assert_eq!(report.lines().last(), Some("ok"), "{report}");
    assert!(report.contains("weaker than OWASP"), "a warning alone is no error: {report}");
}

/// `serve` takes port 0 as any program does; what was meant is hardly ever that.
#[test]
fn check_warns_of_port_0() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    let warned = || {
        let report = said(&pillarbox(&["-c", config.to_str().unwrap(), "check"], ""));
        let is_such = |line: &&str| line.starts_with("ports") && line.contains("warning") && line.contains(": with port 0 ");
        report.lines().filter(is_such).count()
    };
    let mut toml = fs::read_to_string(&config).unwrap();
    let sockets = toml.matches(":0\"").count();
    assert!(sockets > 0 && warned() == sockets, "{toml}");
    for _ in 0..sockets {
        toml = toml.replacen(":0\"", &format!(":{}\"", free_port()), 1);
    }
    fs::write(&config, &toml).unwrap();
    assert_eq!(warned(), 0, "{toml}");
}

/// What `serve` says of them at a start, `check` says as well.
#[test]
fn check_names_rows_of_unix_users_that_mean_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let rows = ["daemon = \"shop@example.org\"", "nosuchuser = \"alice@example.org\""].map(str::to_owned);
    let config = Setup { unix_users: rows.to_vec(), ..Setup::default() }.write(dir.path());
    let report = said(&pillarbox(&["-c", config.to_str().unwrap(), "check"], ""));
    for row in [
        "unix_users.daemon: shop@example.org is not in the users file; add it if it is to have a mailbox or a password",
        "unix_users.nosuchuser: this machine has no such user; correct the name",
    ] {
        assert_eq!(report.lines().filter(|line| line.contains("warning") && line.ends_with(row)).count(), 1, "{report}");
    }
    assert!(!report.contains("unix_users.daemon: this machine") && !report.contains("unix_users.nosuchuser: alice"), "{report}");
}

/// `mailq` is for every user's fingers, but not for every user.
#[test]
fn the_queue_is_for_root_alone() {
    if !require_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o640)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    let output = finish(command.arg("-c").arg(&config).arg("queue").uid(1).gid(1));
    let text = said(&output);
    assert_eq!(output.status.code(), Some(77), "{text}");
    assert!(text.ends_with("pillarbox.toml: only root and the user that the server runs as see the queue; use sudo\n"), "{text}");
}

/// Ten broken configurations, each problem named with file, line and cure; then most of them at once.
#[test]
fn check_names_everything_at_once() {
    type Break = fn(&Path, String) -> String;
    let rows: [(&str, Break, &[&str]); 20] = [
        (
            "unknown key",
            |_, toml| format!("hostnam = \"x\"\n{toml}"),
            &["pillarbox.toml:1: hostnam: unknown key; the nearest known is `hostname`"],
        ),
        ("bad value", |_, toml| toml.replace("[limits]", "[limits]\nidle = \"soon\""), &["limits.idle: must be a time such as"]),
        ("no TOML", |_, toml| toml.replace("[tls]", "[tls"), &["not valid TOML"]),
        (
            "domains that are no list",
            |_, toml| toml.replace("[\"example.org\"]", "\"example.org\""),
            &["domains: must be a list"],
        ),
        (
            "no aliases file",
            |dir, toml| {
                fs::remove_file(dir.join("aliases")).unwrap();
                toml
            },
            &["aliases: no such file; make it, or remove `aliases`"],
        ),
        (
            "an alias that forwards",
            |dir, toml| {
                fs::write(dir.join("aliases"), "a: bob@elsewhere.example\n").unwrap();
                toml
            },
            &["bob@elsewhere.example is not in `domains`, and nothing is forwarded to other servers"],
        ),
        (
            "no certificate file",
            |dir, toml| toml.replace(&format!("{}/cert.pem", dir.display()), "/no/cert.pem"),
            &["/no/cert.pem: No such file", "issue the certificate, or correct the path"],
        ),
        (
            "key of another certificate",
            |dir, toml| {
                let other = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
                fs::write(dir.join("key.pem"), other.signing_key.serialize_pem()).unwrap();
                toml
            },
            &["key.pem: the key is not the one of the certificate in", "cert.pem"],
        ),
        (
            "certificate for another name",
            |_, toml| toml.replace("mx.example.org", "other.example.org"),
            &["cert.pem: is not for `other.example.org`"],
        ),
        (
            "expired certificate",
            |dir, toml| {
                let mut params = rcgen::CertificateParams::new(["mx.example.org".to_owned()]).unwrap();
                params.not_after = rcgen::date_time_ymd(2001, 1, 1);
                let key = rcgen::KeyPair::generate().unwrap();
                fs::write(dir.join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
                fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
                toml
            },
            &["cert.pem: the certificate has expired; renew it"],
        ),
        (
            "users file",
            |dir, toml| {
                fs::write(dir.join("users"), "alice\nbob:{PLAIN}x\n").unwrap();
                toml
            },
            &[
                "users:1: no password field",
                "users:2: password scheme {PLAIN} is not {ARGON2ID}; make one with `pillarbox user passwd",
            ],
        ),
        (
            "no users file",
            |dir, toml| {
                fs::remove_file(dir.join("users")).unwrap();
                toml
            },
            &["users: no such file; make it with `pillarbox user add LOGIN`"],
        ),
        (
            "aliases that loop, lead nowhere, or run something",
            |dir, toml| {
                fs::write(dir.join("aliases"), "a: b\nb: a\nc: nobody\n").unwrap();
                toml
            },
            &["aliases:1: alias `a`:", "leads back to itself", "aliases:3: alias `c`: nobody@example.org is no mailbox"],
        ),
        (
            "alias to a program",
            |dir, toml| {
                fs::write(dir.join("aliases"), "a: |/bin/sh\n").unwrap();
                toml
            },
            &["aliases:1: target `|/bin/sh`: pipes, files and :include: are not done here"],
        ),
        (
            "Maildir that nobody may write",
            |dir, toml| {
                fs::write(dir.join("blocked"), "").unwrap();
                toml.replace("/mail/{domain}", "/blocked/{domain}")
            },
            &["maildir", "blocked: is no directory"],
        ),
        (
            "port in use",
            |dir, toml| {
                let taken = Box::leak(Box::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap()));
                let _ = dir;
                toml.replace("127.0.0.1:0", &taken.local_addr().unwrap().to_string())
            },
            &["listens there; stop it or choose another"],
        ),
        (
            "no port at all",
            |_, toml| {
                let (before, rest) = toml.split_once("[listen]").unwrap();
                format!("{before}{}", &rest[rest.find("[tls]").unwrap()..])
            },
            &["[listen] names no address", "unless sockets are handed over"],
        ),
        // None of these is waited for.
        ("a FIFO for aliases", |dir, toml| in_place_of(dir, "aliases", toml), &["aliases: is no regular file; put one"]),
        ("a FIFO for users", |dir, toml| in_place_of(dir, "users", toml), &["users: is no regular file; put one"]),
        ("a FIFO for the key", |dir, toml| in_place_of(dir, "key.pem", toml), &["key.pem: is no regular file; put one"]),
    ];
    for (what, destroy, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path());
        let path = Setup::default().write(dir.path());
        let toml = fs::read_to_string(&path).unwrap();
        fs::write(&path, destroy(dir.path(), toml)).unwrap();
        let output = finish(Command::new(env!("CARGO_BIN_EXE_pillarbox")).args(["-c", path.to_str().unwrap(), "check"]));
        let report = text(&output.stdout);
        assert_eq!(output.status.code(), Some(78), "{what}:\n{report}");
        for want in want {
            assert!(report.contains(want), "{what}: {want} is not in:\n{report}");
        }
        // What is wrong is named, and not what follows from it.
        assert!(!report.contains("has a domain that is not in"), "{what}:\n{report}");
        assert!(report.lines().last().unwrap().contains("error"), "{what}:\n{report}");
    }
    // All in one run.
    let dir = tempfile::tempdir().unwrap();
    open_to_all(dir.path());
    let path = Setup::default().write(dir.path());
    let toml = fs::read_to_string(&path).unwrap().replace("[limits]", "[limits]\nidle = \"soon\"\nworkerz = 1");
    fs::write(&path, toml.replace("mx.example.org", "other.example.org").replace("/mail/{domain}", "/cert.pem/{domain}"))
        .unwrap();
    fs::write(dir.path().join("users"), "alice\n").unwrap();
    fs::write(dir.path().join("aliases"), "a: |x\n").unwrap();
    let report = text(&pillarbox(&["-c", path.to_str().unwrap(), "check"], "").stdout);
    for want in ["limits.idle", "limits.workerz", "users:1", "aliases:1", "is not for `other", "is no directory", "6 errors"] {
        assert!(report.contains(want), "{want} is not in:\n{report}");
    }
}

#[test]
fn serve_refuses_a_broken_configuration_with_the_same_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = Setup::default().write(dir.path());
    let toml = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("x = 1\ny = 2\n{toml}")).unwrap();
    let output = pillarbox(&["-c", path.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(text(&output.stderr).matches("unknown key").count(), 2, "{}", text(&output.stderr));
    fs::write(&path, &toml).unwrap();
    fs::write(dir.path().join("aliases"), "a: b\nb: a\nc: nosuch\nd: x@elsewhere.example\n").unwrap();
    let output = pillarbox(&["-c", path.to_str().unwrap()], "");
    assert_eq!(output.status.code(), Some(78));
    for want in ["aliases:1: ", "aliases:2: ", "aliases:3: alias `c`: nosuch@example.org", "nothing is forwarded"] {
        assert!(text(&output.stderr).contains(want), "all that is wrong with the aliases: {want} in {}", said(&output));
    }
    fs::write(dir.path().join("aliases"), "a: alice\n").unwrap();
    fs::write(&path, toml.replace("\"nobody\"", "\"no-such-user\"")).unwrap();
    if require_root() {
        let output = pillarbox(&["-c", path.to_str().unwrap()], "");
        assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("there is no user `no-such-user`"), "{}", text(&output.stderr));
    }
}

/// What `check` calls an error and a server survives, it says once at its start.
#[test]
fn serve_says_at_its_start_what_it_survives() {
    let dir = tempfile::tempdir().unwrap();
    let mail = dir.path().join("elsewhere");
    fs::create_dir(&mail).unwrap();
    open_to_all(dir.path());
    fs::set_permissions(&mail, fs::Permissions::from_mode(0o555)).unwrap();
    let setup = Setup { mail: Some(mail), aliases: vec!["a: nosuch".into()], ..Setup::default() };
    let config = setup.write(dir.path());
    let toml = fs::read_to_string(&config).unwrap();
    fs::write(&config, toml.replace("mx.example.org", "other.example.org")).unwrap();
    let users = dir.path().join("users");
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
    let root = require_root();
    let log = log_of_a_start(&config);
    let mut want = vec!["cert.pem: is not for `other.example.org`", "elsewhere: ", "alias `a`: nosuch@example.org is no mailbox"];
    if root {
        want.push("users: `nobody` may not read it, and so not take up a change");
    }
    for want in want {
        let found = log.iter().filter(|line| line.contains("notice about=start") && line.contains(want)).count();
        assert_eq!(found, 1, "{want} in\n{}", log.join("\n"));
    }
}

/// A users file that is empty, as after an interrupted write: a start takes it, where a reload keeps the logins from before.
#[test]
fn a_start_says_that_there_are_no_logins() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    open_to_all(dir.path());
    let users = dir.path().join("users");
    let whole = fs::read_to_string(&users).unwrap();
    let empty = "users: has no login: nobody can log in, and there is no mailbox; add one with `pillarbox user add LOGIN`";
    let unfinished = "the last line has no line end: a running server would take the file for half written";
    for (text, want) in [("", Some(empty)), ("# locked\n", Some(empty)), (whole.trim_end(), Some(unfinished)), (&whole, None)] {
        fs::write(&users, text).unwrap();
        let log = log_of_a_start(&config);
        let notices = |want: &str| log.iter().filter(|line| line.contains("notice about=start") && line.contains(want)).count();
        let output = pillarbox(&["-c", config.to_str().unwrap(), "check"], "");
        let checked = |want: &str| said(&output).lines().filter(|line| line.contains("warning") && line.contains(want)).count();
        for row in [empty, unfinished] {
            let expected = usize::from(want == Some(row));
            assert_eq!((notices(row), checked(row)), (expected, expected), "{text:?}\n{}\n{}", log.join("\n"), said(&output));
        }
    }
}

/// What `serve` logs before it serves.
fn log_of_a_start(config: &Path) -> Vec<String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pillarbox"))
        .args(["-c", config.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let log = lines.take_while(|line| !line.contains("started service=")).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    log
}

#[test]
fn explain_says_what_a_session_would() {
    let dir = tempfile::tempdir().unwrap();
    let setup =
        Setup { aliases: vec!["sales: team".into(), "team: alice, bob".into(), "gone: nobody".into()], ..Setup::default() };
    let config = setup.write(dir.path());
    let explain = |args: &[&str], code: i32| {
        let output = pillarbox(&[&["-c", config.to_str().unwrap(), "explain"], args].concat(), "");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
        text(&output.stdout)
    };
    let way = explain(&["sales@example.org"], 0);
    let maildir = |user: &str| format!("-> {}/mail/example.org/{user}", dir.path().display());
    let want = [
        "sales@example.org: alias of team",
        "team@example.org: alias of alice, bob",
        "alice@example.org: a mailbox",
        "bob@example.org: a mailbox",
    ];
    assert_eq!(way.lines().take(4).collect::<Vec<_>>(), want, "{way}");
    assert!(way.contains(&maildir("alice")) && way.contains(&maildir("bob")), "{way}");
    let rows: [(&[&str], &str); 8] = [
        (&["--login", "alice@example.org", "--from", "alice@example.org", "--to", "bob@example.org"], "accepted"),
        (
            &["--login", "alice@example.org", "--from", "bob@example.org", "--to", "bob@example.org"],
            "refused at MAIL: 550 5.7.1 <bob@example.org> is not an address of your login",
        ),
        (
            &["--login", "alice@example.org", "--from", "<>", "--to", "x@elsewhere.example"],
            "refused at RCPT: 550 5.7.1 This server does not relay: <x@elsewhere.example> is not local",
        ),
        (
            &["--login", "nobody", "--from", "<>", "--to", "bob@example.org"],
            "refused at AUTH: 535 5.7.8 Authentication credentials invalid",
        ),
        (&["--from", "<>", "--to", "bob@example.org", "-s", "submission"], "refused at MAIL: 530 5.7.0 Authentication required"),
        (
            &["--from", "x@elsewhere.example", "--to", "gone@example.org"],
            "refused at RCPT: 550 5.1.1 No such mailbox: <gone@example.org>",
        ),
        (
            &["--from", "x@elsewhere.example", "--to", "a b@example.org"],
            "refused at RCPT: 501 5.1.3 Bad recipient address syntax",
        ),
        (&["--from", "x@elsewhere.example", "--to", "postmaster"], "refused at RCPT: 550 5.1.1 No such mailbox: <postmaster>"),
    ];
    for (args, want) in rows {
        assert_eq!(explain(args, i32::from(want != "accepted")).lines().last(), Some(want), "{args:?}");
    }
    // A name is taken as an alias's target is: in the domain where it leads somewhere.
    for (name, want) in [("sales", "sales: taken as sales@example.org"), ("Alice", "Alice: taken as Alice@example.org")] {
        let way = explain(&[name], 0);
        assert!(way.starts_with(want) && way.contains(&maildir("alice")), "{way}");
    }
    assert!(explain(&["nosuch"], 1).ends_with("refused at RCPT: 550 5.1.1 No such mailbox: <nosuch@example.org>\n"));
    let elsewhere = explain(&["x@elsewhere.example"], 1);
    assert!(elsewhere.contains("[outgoing]") && elsewhere.contains("refused at RCPT: 550 5.7.1"), "{elsewhere}");
    assert!(explain(&["a@@b"], 1).contains("refused at RCPT: 501 5.1.3"));
    let login = explain(&["--login", "alice@example.org", "--from", "<>", "--to", "bob@example.org"], 0);
    assert!(login.contains("login alice@example.org: 1 password, line 1\n"), "{login}");
    assert_eq!(pillarbox(&["-c", config.to_str().unwrap(), "explain"], "").status.code(), Some(64));
}

/// A network of its own, so that fixed ports are free: the words before a command that starts in a new one, and those
/// before one that enters that of a process.
fn own_network(pid: u32) -> (Vec<String>, Vec<String>) {
    let (unshare, nsenter): (&[&str], &[&str]) = match nix::unistd::geteuid().is_root() {
        true => (&["unshare", "--net"], &["nsenter", "--net"]),
        false => (&["unshare", "--user", "--map-root-user", "--net"], &["nsenter", "--user", "--preserve-credentials", "--net"]),
    };
    let up = ["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"];
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    (owned(&[unshare, &up].concat()), [owned(nsenter), vec!["--target".into(), pid.to_string()]].concat())
}

/// The first command of README, and the command that it prints.
#[test]
fn demo() {
    if !require(&["ip", "unshare", "nsenter"]) {
        return;
    }
    let (unshare, _) = own_network(0);
    if !Command::new(&unshare[0]).args(&unshare[1..]).arg("true").output().is_ok_and(|output| output.status.success()) {
        return skipped("no network of its own can be made");
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("box");
    let mut passwords = Vec::new();
    for run in ["made", "taken up again"] {
        let mut child = Command::new(&unshare[0])
            .args(&unshare[1..])
            .args([env!("CARGO_BIN_EXE_pillarbox"), "demo", place.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut shown = Vec::new();
        for line in lines.by_ref().map_while(Result::ok) {
            let last = line.starts_with("Stored messages show up here");
            shown.push(line);
            if last {
                break;
            }
        }
        let whole = shown.join("\n");
        assert!(whole.contains(run), "{whole}");
        passwords.push(shown.iter().find(|line| line.contains("password ")).unwrap().clone());
        for tool in ["curl", "swaks"] {
            if !require(&[tool]) {
                continue;
            }
            let command = shown.iter().find(|line| line.starts_with(tool)).unwrap();
            let (_, nsenter) = own_network(child.id());
            let mut sh = Command::new(&nsenter[0]);
            let output = finish(
                sh.args(&nsenter[1..]).args(["sh", "-c", command]).env_remove("CURL_CA_BUNDLE").env_remove("SSL_CERT_FILE"),
            );
            assert!(output.status.success(), "{command}\n{}", text(&output.stderr));
            let stored = loop {
                let line = lines.next().unwrap().unwrap();
                if let Some(file) = line.strip_prefix("stored: ") {
                    break file.to_owned();
                }
            };
            assert!(fs::read_to_string(stored).unwrap().contains("with ESMTPSA"));
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    assert_eq!(passwords[0], passwords[1], "a second run takes up the same directory");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing outside its directory");
}

/// Where [outgoing] itself is at fault, no route is tried: what would be tried is not what was meant.
#[test]
fn check_tries_no_routes_of_a_faulty_configuration() {
    let dir = tempfile::tempdir().unwrap();
    open_to_all(dir.path());
    let outgoing = "[outgoing]\nvia = \"next\"\nspool = \"{place}/spool\"\nresolver = \"127.0.0.1:1\"\n\
         [outgoing.routes.next]\nurl = \"smtps://127.0.0.1:0\"\n";
    let config = Setup { outgoing: outgoing.to_owned(), ..Setup::default() }.write(dir.path());
    let output = finish(Command::new(env!("CARGO_BIN_EXE_pillarbox")).args(["-c", config.to_str().unwrap(), "check"]));
    let report = text(&output.stdout);
    assert!(report.contains("outgoing.routes.next.url: ") && report.contains(" error "), "{}", said(&output));
    assert!(!report.lines().any(|line| line.starts_with("routes")), "{report}");
}

/// What would make mail wait or vanish unnoticed ends `serve` and `check` with 78: no postmaster that is told, a password
/// that others can read, a way out that this version does not know.
#[test]
fn an_outgoing_side_that_cannot_work_is_refused() {
    let route = "[outgoing.routes.next]\nurl = \"smtps://127.0.0.1:1\"\n";
    let with_password = format!("via = \"next\"\n{route}login = \"a\"\npassword_file = \"{{place}}/next.password\"\n");
    let plain = |top: &str| format!("{top}\n{route}");
    let postmaster = vec!["postmaster: alice".to_owned()];
    let rows = [
        ("a postmaster alias", postmaster.clone(), 0o640, plain("via = \"next\""), None),
        ("an address elsewhere", vec![], 0o640, plain("via = \"next\"\npostmaster = \"me@elsewhere.example\""), None),
        ("neither", vec![], 0o640, plain("via = \"next\""), Some("outgoing.postmaster: no address is told of mail")),
        (
            "an address here that is none",
            postmaster.clone(),
            0o640,
            plain("via = \"next\"\npostmaster = \"gone@example.org\""),
            Some("outgoing.postmaster: <gone@example.org> leads nowhere"),
        ),
        ("a password", postmaster.clone(), 0o640, with_password.clone(), None),
        ("a password for all", postmaster.clone(), 0o644, with_password.clone(), Some("its mode 0644 is wider than 0640")),
        (
            "no password file",
            postmaster.clone(),
            0,
            with_password,
            Some("next.password: outgoing.routes.next.password_file: no such file; write the password into it, or correct"),
        ),
        ("mx", postmaster, 0o640, plain("via = \"mx\""), None),
    ];
    for (what, aliases, mode, outgoing, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path());
        let outgoing = format!("[outgoing]\nspool = \"{{place}}/spool\"\n{outgoing}");
        let config = Setup { aliases, outgoing, ..Setup::default() }.write(dir.path());
        if mode != 0 {
            let file = dir.path().join("next.password");
            fs::write(&file, "secret\n").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        give_to_nobody(dir.path());
        let config = config.display().to_string();
        let check = pillarbox(&["-c", &config, "check"], "");
        let report = text(&check.stdout);
        let outgoing_errors = report.lines().filter(|line| line.starts_with("outgoing") && line.contains(" error ")).count();
        match want {
            None => assert_eq!(outgoing_errors, 0, "{what}:\n{report}"),
            Some(want) => {
                assert_eq!(check.status.code(), Some(78), "{what}:\n{report}");
                assert!(report.contains(want) && outgoing_errors == 1, "{what}:\n{report}");
                let serve = pillarbox(&["-c", &config, "serve"], "");
                assert_eq!(serve.status.code(), Some(78), "{what}: {}", text(&serve.stderr));
                assert!(text(&serve.stderr).contains(want), "{what}: {}", text(&serve.stderr));
            }
        }
    }
}
