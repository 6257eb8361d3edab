//! Started as root: what is given up, what is kept, and that a renewed key is taken up all the same.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::hop::Hop;
use crate::common::leaf::Leaf;
use crate::common::{self, Client, Logged, PATIENCE, Server, Setup, finish, require, require_root, said, skipped};
use crate::names::{Behaviour, NameServer, Record};
use nix::sys::signal::Signal;
use pillarbox::mail::dkim::{Algorithm, BodyHasher, Fields, SigningKey};

fn status(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim()
}

/// 1 << 2, capabilities(7).
const CAP_DAC_READ_SEARCH: u64 = 4;

fn no_core_dumps(limits: &str) -> bool {
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    line.split_whitespace().nth(4) == Some("0") && line.split_whitespace().nth(5) == Some("0")
}

fn children(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

fn helper_of(server: &Server) -> String {
    children(server.pid()).split_whitespace().next().expect("a key helper").to_owned()
}

fn send(signal: Signal, pid: &str) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse().unwrap()), signal).unwrap();
}

/// Puts another pair where the server's is; gives a copy of its certificate.
fn renew(dir: &Path) -> PathBuf {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned(), "mx.example.org".to_owned()]).unwrap();
    for (name, pem) in [("cert.pem", pair.cert.pem()), ("key.pem", pair.signing_key.serialize_pem())] {
        fs::write(dir.join("new.pem"), pem).unwrap();
        fs::rename(dir.join("new.pem"), dir.join(name)).unwrap();
    }
    let pinned = dir.join("pinned.pem");
    fs::copy(dir.join("cert.pem"), &pinned).unwrap();
    pinned
}

fn until(what: &str, log: impl Fn() -> String, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}\n{}", log());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn root_is_given_up_for_good() {
    if !require_root() {
        return;
    }
    let mut server = Setup::default().start();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    // Most workers are started with the work, after root was given up.
    let greeted = |_| {
        let mut client = server.connect("smtp");
        client.expect("220");
        client
    };
    let sessions: Vec<Client> = (0..16).map(greeted).collect();
    let tasks: Vec<String> = fs::read_dir(format!("/proc/{}/task", server.pid()))
        .unwrap()
        .flatten()
        .map(|entry| format!("{}/task/{}", server.pid(), entry.file_name().to_string_lossy()))
        .collect();
    assert!(tasks.len() > sessions.len(), "a worker for each session: {tasks:?}");
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
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    assert!(no_core_dumps(&limits), "{limits}");
    // The helper: root without root's powers, in a network of its own, and gone when the server is.
    let helper = helper_of(&server);
    let of_helper = status(&helper);
    assert_eq!(field(&of_helper, "Uid:").split('\t').next(), Some("0"));
    assert!(fs::read_to_string(format!("/proc/{helper}/cmdline")).unwrap().contains("key-helper"));
    for set in ["CapInh:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(&of_helper, set).trim_matches('0'), "", "{set}");
    }
    for set in ["CapPrm:", "CapEff:"] {
        assert_eq!(u64::from_str_radix(field(&of_helper, set), 16).unwrap() & !CAP_DAC_READ_SEARCH, 0, "{set}");
    }
    assert_eq!(field(&of_helper, "NoNewPrivs:"), "1");
    let limits = fs::read_to_string(format!("/proc/{helper}/limits")).unwrap();
    assert!(no_core_dumps(&limits), "{limits}");
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(&helper), network("self"));
    server.wait_for_log(&["sandbox", "helper=namespace,capabilities"]);
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
    if !require_root() {
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

/// A key that signs stays root's too, in a directory of root's: the server reads it as another user, before and after a change.
#[test]
fn a_signing_key_that_only_root_can_read_is_taken_up() {
    if !require_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let (file, next) = (dir.path().join("pb1.pem"), dir.path().join("next"));
    let make = || {
        let (key, text) = SigningKey::generate("example.org", "pb1", Algorithm::Ed25519).unwrap();
        fs::write(&next, text.as_bytes()).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&next, &file).unwrap();
        key
    };
    let first = make();
    let hop = Hop::new();
    let outgoing = format!(
        "[outgoing]\nvia = \"next\"\nspool = \"{{place}}/spool\"\n{}[dkim]\n\"example.org\" = {{ selector = \"pb1\", key = \"{}\" }}\n",
        hop.route("next"),
        file.display()
    );
    let server = Setup { outgoing, ..Setup::default() }.start();
    let sent = |number: usize| {
        send_elsewhere(&server, "x@a.example");
        String::from_utf8(hop.wait_for_messages(number)[number - 1].content.clone()).unwrap()
    };
    // A signature of Ed25519 is the same each time it is made.
    let signed_by = |key: &SigningKey, message: &str| {
        let message = message.replace("\r\n", "\n");
        let end = message.find("\nReceived: ").expect("a signature on top") + 1;
        let (header, body) = message[end..].split_once("\n\n").unwrap();
        let time = message.split_once(" t=").unwrap().1.split_once(';').unwrap().0.parse().unwrap();
        let mut hasher = BodyHasher::new();
        hasher.update(body.as_bytes());
        key.sign(format!("{header}\n").as_bytes(), &hasher.finish(), time, Fields::All).unwrap() == message[..end]
    };
    let message = sent(1);
    assert!(signed_by(&first, &message), "{message}");
    let second = make();
    server.wait_for_log(&["reloaded", "what=dkim", "result=ok"]);
    let message = sent(2);
    assert!(signed_by(&second, &message) && !signed_by(&first, &message), "{message}");
}

/// Landlock: a Maildir that is a link to somewhere else cannot be followed out of the Maildir root.
#[test]
fn nothing_outside_the_maildirs_can_be_written() {
    if !require_root() {
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mail = tempfile::tempdir().unwrap();
    fs::create_dir(mail.path().join("example.org")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), mail.path().join("example.org/bob")).unwrap();
    let _ = Command::new("chown").args(["-R", "nobody"]).arg(mail.path()).status();
    let server = Setup { mail: Some(mail.path().to_owned()), ..Setup::default() }.start();
    if !server.wait_for_log(&["sandbox", "server="]).contains("server=files") {
        skipped("no Landlock");
        return;
    }
    let mut client = server.connect("smtp");
    client.expect("220");
    client.say("EHLO x.example", "250");
    assert!(client.deliver("", "bob@example.org", b"Subject: x\r\n").unwrap().starts_with("451"));
    assert!(client.deliver("", "alice@example.org", b"Subject: x\r\n").unwrap().starts_with("250"));
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

/// A helper that did not answer in time: what it says late is no answer to the next question.
#[test]
fn a_helper_that_was_stopped_for_a_while_is_understood_afterwards() {
    if !require_root() {
        return;
    }
    let server = Setup::default().start();
    let helper = helper_of(&server);
    send(Signal::SIGSTOP, &helper);
    // Longer than an answer may take: one question at least is given up.
    thread::sleep(Duration::from_secs(7));
    send(Signal::SIGCONT, &helper);
    let pinned = renew(server.dir.path());
    let presents = || Client::connect(server.address("submissions"), &pinned).tls().is_ok();
    until("the renewed pair", || server.log_text(), presents);
    let log = server.log_text();
    assert!(!log.contains("result=refused") && !log.contains("about=key-helper"), "{log}");
}

#[test]
fn the_end_of_the_helper_is_logged_once_and_named_at_each_renewal() {
    if !require_root() {
        return;
    }
    let server = Setup::default().start();
    let old = server.dir.path().join("old.pem");
    fs::copy(server.dir.path().join("cert.pem"), &old).unwrap();
    send(Signal::SIGKILL, &helper_of(&server));
    let line = server.wait_for_log(&["notice", "about=key-helper", "restart the server"]);
    assert!(line.contains("SIGKILL") || line.contains("signal: 9"), "{line}");
    for renewals in 1..=2 {
        renew(server.dir.path());
        server.signal(Signal::SIGHUP);
        let refused = || server.log_text().matches("what=certificate result=refused").count();
        until("the refusal", || server.log_text(), || refused() >= renewals);
    }
    server.wait_for_log(&["reloaded", "what=certificate", "the key helper has ended"]);
    assert_eq!(server.log_text().matches("about=key-helper").count(), 1, "{}", server.log_text());
    assert!(Client::connect(server.address("submissions"), &old).tls().is_ok(), "the old pair serves on");
}

/// The shipped unit leaves root few capabilities and no namespaces: the helper is confined there too, and still reads the key; and
/// a local socket gets the group that its entry names.
#[test]
fn the_helper_is_confined_under_the_rules_of_the_unit() {
    if !require_root() || !require(&["setpriv"]) {
        return;
    }
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/etc/systemd/pillarbox.service")).unwrap();
    let bounding = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a bounding set");
    let bounding = bounding.to_lowercase().replace("cap_", "+").replace(' ', ",");
    assert_eq!(bounding, "+net_bind_service,+setuid,+setgid,+chown");
    // Without CAP_DAC_OVERRIDE root reads what is its own, and what all may read.
    let dir = tempfile::tempdir().unwrap();
    let config = Setup { services: vec!["submissions"], ..Setup::default() }.write(dir.path());
    let socket = group_socket(dir.path(), &config);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["pillarbox.toml", "users", "aliases", "cert.pem"] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-all,{bounding}")).arg("--no-new-privs").args([
        env!("CARGO_BIN_EXE_pillarbox"),
        "-c",
        &config.display().to_string(),
        "serve",
    ]);
    let mut server = Logged::spawn(command.stdin(Stdio::null()));
    let line = server.wait_for_log("sandbox ");
    assert!(line.contains("helper=capabilities"), "{line}");
    if line.contains("server=none") {
        skipped("no Landlock");
    } else {
        assert!(line.contains("helper=capabilities,files"), "{line}");
    }
    server.wait_for_log("started service=submissions");
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
    let made = fs::metadata(&socket).unwrap();
    assert_eq!((made.gid(), made.permissions().mode() & 0o777), (group, 0o660));
    let helper = children(server.child.id() as i32).split_whitespace().next().expect("a key helper").to_owned();
    let of_helper = status(&helper);
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(&of_helper, set).trim_matches('0'), "", "{set}");
    }
    renew(dir.path());
    server.wait_for_log("what=certificate result=ok");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// As systemd in a container of systemd-nspawn starts a service: with an inheritable set, which giving up root does not clear.
#[test]
fn inheritable_capabilities_are_given_up_too() {
    if !require_root() || !require(&["setpriv"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Setup { services: vec!["submissions"], ..Setup::default() }.write(dir.path());
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=+net_bind_service,+setuid", env!("CARGO_BIN_EXE_pillarbox"), "-c"]).arg(config).arg("serve");
    let mut server = Logged::spawn(command.stdin(Stdio::null()));
    server.wait_for_log("started service=submissions");
    assert_eq!(field(&status(&server.child.id().to_string()), "CapInh:").trim_matches('0'), "");
    server.signal(Signal::SIGTERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// Puts a local socket for the group `daemon` into a configuration without any.
fn group_socket(dir: &Path, config: &Path) -> PathBuf {
    let socket = dir.join("run/shop");
    let entry = format!("path = \"{}\", login = \"alice@example.org\", mode = \"0660\", group = \"daemon\"", socket.display());
    let text = fs::read_to_string(config).unwrap();
    fs::write(config, text.replacen("local = [", &format!("local = [{{ {entry} }}"), 1)).unwrap();
    socket
}

#[test]
fn a_socket_that_cannot_be_given_to_its_group_is_named_with_the_cure() {
    if !require_root() || !require(&["setpriv"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Setup { services: vec!["submissions"], ..Setup::default() }.write(dir.path());
    let socket = group_socket(dir.path(), &config);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-chown", env!("CARGO_BIN_EXE_pillarbox"), "-c"]).arg(config).arg("serve");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert!(said.contains("to give it to group `daemon`, start as root with CAP_CHOWN"), "{said}");
    assert!(!socket.exists());
}

/// What every user of the machine can read or write is said at a start and by `check`.
#[test]
fn wide_modes_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let config = Setup { services: vec!["submissions"], ..Setup::default() }.write(dir.path());
    for (name, mode) in [("pillarbox.toml", 0o644), ("users", 0o666), ("aliases", 0o644), ("cert.pem", 0o644), ("key.pem", 0o644)]
    {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    common::give_to_nobody(dir.path());
    let wanted = ["/users: every user of this machine can read and write it", "/key.pem: every user of this machine can read it"];
    let run = |verb: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
        command.arg("-c").arg(&config).arg(verb).stdin(Stdio::null());
        command
    };
    let output = finish(&mut run("check"));
    let text = said(&output);
    assert!(wanted.iter().all(|part| text.contains(part)), "{text}");
    assert_eq!(text.matches("every user of this machine").count(), wanted.len(), "{text}");
    let server = Logged::spawn(&mut run("serve"));
    server.wait_for_log("started service");
    let text = server.log_text();
    assert!(wanted.iter().all(|part| text.contains(part)), "{text}");
}

/// The helper knows two paths for good: a configuration that names others needs a restart, and says so.
#[test]
fn another_pair_needs_a_restart() {
    if !require_root() {
        return;
    }
    let server = Setup::default().start();
    let toml = fs::read_to_string(&server.config).unwrap();
    fs::write(&server.config, toml.replace("/key.pem", "/other.pem")).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["reloaded", "what=configuration", "result=refused", "restart to name others"]);
    server.wait_for_log(&["reloaded", "what=certificate", "result=ok"]);
}

/// A message from alice to an address elsewhere.
fn send_elsewhere(server: &Server, to: &str) {
    let mut client = server.login("alice@example.org");
    let reply = client.deliver("alice@example.org", to, b"From: alice@example.org\r\nSubject: x\r\n\r\nx\r\n").unwrap();
    assert!(reply.starts_with("250"), "{reply}");
}

/// A name server at port 53 of an address that no other test has; none where that may not be bound.
fn name_server(rows: Vec<(&'static str, Behaviour)>) -> Option<NameServer> {
    let address = (Ipv4Addr::new(127, 53, (std::process::id() >> 8) as u8, std::process::id() as u8), 53);
    let (udp, tcp) = (UdpSocket::bind(address).ok()?, TcpListener::bind(address).ok()?);
    Some(NameServer::on(udp, tcp, rows))
}

/// In the sandbox names come from the file of hosts and from the name server, and authorities from the system; all that is
/// read when it is needed.
#[test]
fn the_sandbox_lets_out_what_sending_needs() {
    if !require_root() || !require(&["unshare"]) {
        return;
    }
    let Some(names) = name_server(vec![("asked.example", Behaviour::Records(vec![Record::A(Ipv4Addr::LOCALHOST)]))]) else {
        skipped("port 53 cannot be bound");
        return;
    };
    let hop = Hop::new();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("hosts"), "127.0.0.1 localhost listed.example\n").unwrap();
    fs::write(dir.path().join("resolv.conf"), format!("nameserver {}\n", names.address.ip())).unwrap();
    fs::write(dir.path().join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    let mounts = [
        ("hosts".into(), "/etc/hosts"),
        ("resolv.conf".into(), "/etc/resolv.conf"),
        ("nsswitch.conf".into(), "/etc/nsswitch.conf"),
        (hop.authorities(), "/etc/ssl/certs/ca-certificates.crt"),
    ];
    let mounts: Vec<String> =
        mounts.map(|(from, to): (PathBuf, _)| format!("mount --bind {} {to} && ", dir.path().join(from).display())).into();
    let script = format!("{} unset SSL_CERT_FILE SSL_CERT_DIR; exec \"$@\"", mounts.concat());
    let route = |name: &str, host: &str| {
        let route = hop.route(name).replace("//localhost", &format!("//{host}"));
        route.lines().filter(|line| !line.starts_with("ca =")).map(|line| format!("{line}\n")).collect::<String>()
    };
    let outgoing = format!(
        "[outgoing]\nvia = \"listed\"\nspool = \"{{place}}/spool\"\n{}{}[outgoing.to]\n\"b.example\" = \"asked\"\n",
        route("listed", "listed.example"),
        route("asked", "asked.example")
    );
    let wrapper = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    let server = Setup { outgoing, wrapper, ..Setup::default() }.start();
    let confined = server.wait_for_log(&["sandbox", "server="]);
    for (to, route) in [("x@a.example", "route=listed"), ("x@b.example", "route=asked")] {
        send_elsewhere(&server, to);
        server.wait_for_log(&["sent ", route, to]);
    }
    assert!(names.asked.load(std::sync::atomic::Ordering::Relaxed) > 0);
    // Not even another port of the same host, until a restart.
    let toml = fs::read_to_string(&server.config).unwrap();
    fs::write(&server.config, toml.replace(&format!(":{}\"", hop.address.port()), ":1\"")).unwrap();
    server.signal(Signal::SIGHUP);
    if confined.contains("tcp") {
        server.wait_for_log(&["reloaded", "what=configuration", "result=refused"]);
        send_elsewhere(&server, "y@a.example");
        server.wait_for_log(&["sent ", "y@a.example"]);
    } else {
        skipped("no Landlock for TCP");
    }
}

/// Another file in the place of the authorities is taken up without a restart, and the route that rested for it is tried.
#[test]
fn changed_authorities_are_taken_up() {
    let hop = Hop::new();
    hop.certificate(Leaf::OfAnotherAuthority);
    let outgoing = format!("[outgoing]\nvia = \"next\"\nspool = \"{{place}}/spool\"\n{}", hop.route("next"));
    let server = Setup { outgoing, ..Setup::default() }.start();
    send_elsewhere(&server, "x@a.example");
    server.wait_for_log(&["route ", "state=resting", "reason=certificate"]);
    // What holds no certificate is named, and the old ones stay.
    fs::write(hop.authorities(), "").unwrap();
    server.wait_for_log(&["notice", "about=route", "holds no PEM certificate"]);
    hop.trust_another();
    server.wait_for_log(&["route ", "state=well"]);
    server.wait_for_log(&["sent ", "x@a.example"]);
}
