//! What an operator types: check, user, demo, and how each ends.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Setup, finish, give_to_nobody, said, skipped};

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
        assert!(text(&output.stdout).lines().count() < 30, "short: {args:?}");
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

#[test]
fn a_password_is_asked_for_without_echo() {
    if !Path::new("/usr/bin/python3").exists() {
        skipped("python3 not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Setup::default().write(dir.path());
    let script = r#"
import pty, os, signal, sys
signal.alarm(30)
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b''
def until(what):
    global seen
    while what not in seen:
        seen += os.read(fd, 1024)
until(b'Password: '); os.write(fd, b'typed secret\n')
until(b'Again: '); os.write(fd, b'typed secret\n')
try:
    while True:
        got = os.read(fd, 1024)
        if not got: break
        seen += got
except OSError: pass
assert b'typed' not in seen, seen
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let config = config.to_str().unwrap();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script, env!("CARGO_BIN_EXE_pillarbox"), "-c", config, "user", "add", "carol@example.org"]);
    let output = finish(&mut python);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(pillarbox(&["-c", config, "user", "verify", "carol@example.org"], "typed secret\n").status.code(), Some(0));
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

/// Ten broken configurations, each problem named with file, line and cure; then most of them at once.
#[test]
fn check_names_everything_at_once() {
    type Break = fn(&Path, String) -> String;
    let rows: [(&str, Break, &[&str]); 14] = [
        (
            "unknown key",
            |_, toml| format!("hostnam = \"x\"\n{toml}"),
            &["pillarbox.toml:1: hostnam: unknown key; the nearest known is `hostname`"],
        ),
        ("bad value", |_, toml| toml.replace("[limits]", "[limits]\nidle = \"soon\""), &["limits.idle: must be a time such as"]),
        ("no TOML", |_, toml| toml.replace("[tls]", "[tls"), &["not valid TOML"]),
        (
            "no certificate file",
            |dir, toml| toml.replace(&format!("{}/cert.pem", dir.display()), "/no/cert.pem"),
            &["/no/cert.pem: No such file", "check the path"],
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
            &["[listen] names no address"],
        ),
    ];
    for (what, destroy, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        open_to_all(dir.path());
        let path = Setup::default().write(dir.path());
        let toml = fs::read_to_string(&path).unwrap();
        fs::write(&path, destroy(dir.path(), toml)).unwrap();
        let output = pillarbox(&["-c", path.to_str().unwrap(), "check"], "");
        let report = text(&output.stdout);
        assert_eq!(output.status.code(), Some(78), "{what}:\n{report}");
        for want in want {
            assert!(report.contains(want), "{what}: {want} is not in:\n{report}");
        }
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
    fs::write(&path, toml.replace("\"nobody\"", "\"no-such-user\"")).unwrap();
    if nix::unistd::geteuid().is_root() {
        let output = pillarbox(&["-c", path.to_str().unwrap()], "");
        assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("there is no user `no-such-user`"), "{}", text(&output.stderr));
    }
}

#[test]
fn explain_says_what_a_session_would() {
    let dir = tempfile::tempdir().unwrap();
    let setup =
        Setup { aliases: vec!["sales: team".into(), "team: alice, bob".into(), "gone: nobody".into()], ..Setup::default() };
    let config = setup.write(dir.path());
    let explain = |args: &[&str]| {
        let output = pillarbox(&[&["-c", config.to_str().unwrap(), "explain"], args].concat(), "");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let way = explain(&["sales@example.org"]);
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
        assert_eq!(explain(args).lines().last(), Some(want), "{args:?}");
    }
    assert_eq!(pillarbox(&["-c", config.to_str().unwrap(), "explain"], "").status.code(), Some(64));
}

/// The first command of README, and the command that it prints.
#[test]
fn demo() {
    // Its ports are fixed: only one at a time on a machine.
    if [2525, 4465, 2500].iter().any(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_err()) {
        skipped("the demo's ports are in use");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("box");
    let mut passwords = Vec::new();
    for run in ["made", "taken up again"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_pillarbox"))
            .args(["demo", place.to_str().unwrap()])
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
            if !Path::new("/usr/bin").join(tool).exists() {
                skipped(&format!("{tool} not installed"));
                continue;
            }
            let command = shown.iter().find(|line| line.starts_with(tool)).unwrap();
            let mut sh = Command::new("sh");
            let output = finish(sh.args(["-c", command]).env_remove("CURL_CA_BUNDLE").env_remove("SSL_CERT_FILE"));
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
            Some("next.password: outgoing.routes.next.password_file: no such file"),
        ),
        ("mx", postmaster, 0o640, plain("via = \"mx\""), Some("outgoing.via: this version sends through smarthosts alone")),
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
