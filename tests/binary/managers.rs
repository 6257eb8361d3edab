//! Started by what the system has: systemd's sockets, inetd, tcpserver, s6, runit; and the files that etc/ has for them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Client, PATIENCE, Setup, base64, finish, free_port, require, require_root, said, skipped, uninterrupted};
use nix::sys::signal::{Signal, kill};

/// A configuration that listens nowhere, in a directory of its own.
struct Place {
    dir: tempfile::TempDir,
    config: String,
}

impl Place {
    fn new() -> Self {
        Self::with(Setup::default())
    }

    fn with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Setup { services: Vec::new(), ..setup }.limit("idle = \"1s\"").write(dir.path());
        if nix::unistd::geteuid().is_root() {
            let _ = Command::new("chown").args(["-R", "nobody"]).arg(dir.path()).status();
        }
        Self { config: path.display().to_string(), dir }
    }

    fn client(&self, address: SocketAddr) -> Client {
        let begun = Instant::now();
        loop {
            match TcpStream::connect(address) {
                Ok(tcp) => return Client::over(tcp, &self.dir.path().join("cert.pem")),
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{address}: {error}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A whole message over TLS from the first octet.
    fn deliver_tls(&self, address: SocketAddr) {
        let mut client = self.client(address);
        client.tls().unwrap();
        client.expect("220");
        client.say("EHLO x.example", "250");
        client.say(&format!("AUTH PLAIN {}", base64(b"\0alice@example.org\0secret")), "235");
        let reply = client.deliver("alice@example.org", "bob@example.org", b"Subject: x\r\n");
        assert!(reply.as_deref().is_some_and(|reply| reply.starts_with("250")), "{reply:?}\n{}", client.transcript);
        client.say("QUIT", "221");
        assert_eq!(client.line(), None, "nothing but SMTP: {}", client.transcript);
    }

    fn stored(&self) -> usize {
        fs::read_dir(self.dir.path().join("mail/example.org/bob/new")).map(Iterator::count).unwrap_or(0)
    }
}

/// Ends what it holds, by its number.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill(nix::unistd::Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            if let Ok(Some(_)) = self.0.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Waits for a supervisor that was told to end its service and itself: ended otherwise, it would leave the service.
    fn ends(mut self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && matches!(self.0.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn spawn(command: &mut Command) -> Process {
    Process(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

const BINARY: &str = env!("CARGO_BIN_EXE_pillarbox");

#[test]
fn sockets_of_systemd_with_names() {
    if !require(&["systemd-socket-activate"]) {
        return;
    }
    let place = Place::new();
    let (smtp, submissions) = (free_port(), free_port());
    let _process = spawn(
        Command::new("systemd-socket-activate")
            .args(["-l", &format!("127.0.0.1:{smtp}"), "-l", &format!("127.0.0.1:{submissions}"), "--fdname=smtp:submissions"])
            .args([BINARY, "-c", &place.config, "serve"]),
    );
    place.deliver_tls(local(submissions));
    let mut server = place.client(local(smtp));
    server.expect("220");
    server.say("EHLO x.example", "250");
    server.say("AUTH PLAIN", "503");
    assert_eq!(place.stored(), 1);
}

#[test]
fn systemd_accepts_and_hands_over_a_connection() {
    if !require(&["systemd-socket-activate"]) {
        return;
    }
    for inetd in [true, false] {
        let place = Place::new();
        let port = free_port();
        let mut command = Command::new("systemd-socket-activate");
        command.args(["-l", &format!("127.0.0.1:{port}"), "-a"]);
        if inetd {
            command.arg("--inetd");
        }
        let _process = spawn(command.args([BINARY, "-c", &place.config, "-s", "submissions"]));
        place.deliver_tls(local(port));
        place.deliver_tls(local(port));
        assert_eq!(place.stored(), 2, "inetd: {inetd}");
    }
}

/// openbsd-inetd has the socket on descriptors 0, 1 and 2: nothing but SMTP may go there, errors of the start included.
#[test]
fn inetd() {
    if !require(&["inetd"]) || !require_root() {
        return;
    }
    for wait in ["nowait", "wait"] {
        let place = Place::new();
        let (port, broken) = (free_port(), free_port());
        let conf = place.dir.path().join("inetd.conf");
        let lines = format!(
            "127.0.0.1:{port} stream tcp {wait} nobody {BINARY} pillarbox -c {} -s submissions\n\
             127.0.0.1:{broken} stream tcp nowait nobody {BINARY} pillarbox -c /no/such/file -s smtp\n",
            place.config
        );
        fs::write(&conf, lines).unwrap();
        let _process = spawn(Command::new("inetd").args(["-d", "-i"]).arg(&conf).stderr(Stdio::null()));
        place.deliver_tls(local(port));
        place.deliver_tls(local(port));
        assert_eq!(place.stored(), 2, "{wait}");
        let mut text = String::new();
        let _ = place.client(local(broken)).tcp().read_to_string(&mut text);
        assert_eq!(text, "", "{wait}: an error of the start is for the log");
        // With wait the server ends when no client comes, and is started anew.
        if wait == "wait" {
            thread::sleep(Duration::from_millis(2500));
            place.deliver_tls(local(port));
            assert_eq!(place.stored(), 3);
        }
    }
}

#[test]
fn tcpserver() {
    if !require(&["tcpserver"]) {
        return;
    }
    let place = Place::new();
    let port = free_port();
    let log = fs::File::create(place.dir.path().join("log")).unwrap();
    let mut command = Command::new("tcpserver");
    command.args(["-HRl0", "127.0.0.1", &port.to_string(), BINARY, "-c", &place.config, "-s", "submissions"]);
    let _process = spawn(command.stderr(log));
    place.deliver_tls(local(port));
    assert_eq!(place.stored(), 1);
    let log = fs::read_to_string(place.dir.path().join("log")).unwrap();
    assert!(log.contains("accepted session=") && log.contains("peer=127.0.0.1:"), "its own stderr is the log: {log}");
}

/// The environment of s6-tcpserver, and its connection on descriptors 0 and 1.
#[test]
fn a_connection_as_s6_tcpserver_gives_it() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = place.config.clone();
    let server = thread::spawn(move || {
        let (tcp, peer) = listener.accept().unwrap();
        let fd = std::os::fd::OwnedFd::from(tcp);
        let output = fd.try_clone().unwrap();
        let mut child = Command::new(BINARY)
            .args(["-c", &config, "serve", "-s", "submissions"])
            .env("PROTO", "TCP")
            .env("TCPREMOTEIP", peer.ip().to_string())
            .env("TCPREMOTEPORT", peer.port().to_string())
            .stdin(Stdio::from(fd))
            .stdout(Stdio::from(output))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (child.wait().unwrap().code(), log)
    });
    place.deliver_tls(address);
    let (code, log) = server.join().unwrap();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("disconnect session="), "{log}");
    assert_eq!(place.stored(), 1);
}

/// s6-supervise reads readiness from the descriptor that notification-fd names; the run script is etc/'s.
#[test]
fn s6() {
    if !require(&["s6-supervise", "s6-svwait"]) {
        return;
    }
    let place = Place::new();
    let port = serve_on_a_port(&place);
    let service = place.dir.path().join("service");
    copy_script("etc/s6/pillarbox", &service, &place.config);
    let process = spawn(Command::new("s6-supervise").arg(&service).stderr(Stdio::null()));
    let begun = Instant::now();
    while !Command::new("s6-svok").arg(&service).status().unwrap().success() {
        assert!(begun.elapsed() < PATIENCE, "no supervisor");
        thread::sleep(Duration::from_millis(10));
    }
    let ready = Command::new("s6-svwait").args(["-U", "-t", "10000"]).arg(&service).status().unwrap();
    assert!(ready.success(), "never ready");
    place.deliver_tls(local(port));
    let _ = Command::new("s6-svc").arg("-xd").arg(&service).status();
    process.ends();
    assert_eq!(place.stored(), 1);
}

#[test]
fn runit() {
    if !require(&["runsv", "sv", "svlogd"]) {
        return;
    }
    let place = Place::new();
    let port = serve_on_a_port(&place);
    let service = place.dir.path().join("service");
    copy_script("etc/runit/pillarbox", &service, &place.config);
    let process = spawn(Command::new("runsv").arg(&service).stderr(Stdio::null()));
    place.deliver_tls(local(port));
    let _ = Command::new("sv").arg("exit").arg(&service).stdout(Stdio::null()).status();
    process.ends();
    assert_eq!(place.stored(), 1);
    let log = fs::read_to_string(place.dir.path().join("log/current")).unwrap();
    assert!(log.contains(" started service=") && log.contains(" stopped messages=1 "), "{log}");
}

/// daemontools takes the same run script as runit.
#[test]
fn daemontools() {
    if !require(&["supervise", "svc"]) {
        return;
    }
    let place = Place::new();
    let port = serve_on_a_port(&place);
    let service = place.dir.path().join("service");
    copy_script("etc/runit/pillarbox", &service, &place.config);
    let process = spawn(Command::new("supervise").arg(&service).stderr(Stdio::null()));
    place.deliver_tls(local(port));
    let _ = Command::new("svc").arg("-dx").arg(&service).status();
    process.ends();
    assert_eq!(place.stored(), 1);
}

/// xinetd's package conflicts with openbsd-inetd's; `.ci/run` unpacks it beside.
#[test]
fn xinetd() {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/xinetd/usr/sbin/xinetd");
    let binary = if unpacked.exists() { unpacked } else { "/usr/sbin/xinetd".into() };
    if !binary.exists() {
        return skipped("xinetd not installed");
    }
    if !require_root() {
        return;
    }
    let place = Place::new();
    let port = free_port();
    // The file of etc/, with this binary, a free port, and a user that there is.
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/inetd/xinetd")).unwrap();
    let text = text
        .replace("= 465", &format!("= {port}"))
        .replace("= pillarbox", "= nobody")
        .replace("/usr/sbin/pillarbox", BINARY)
        .replace("= serve", &format!("= -c {} serve -s submissions", place.config));
    let conf = place.dir.path().join("xinetd.conf");
    fs::write(&conf, text).unwrap();
    let (log, pid) = (place.dir.path().join("log"), place.dir.path().join("pid"));
    let mut command = Command::new(binary);
    command.args(["-dontfork", "-f"]).arg(&conf).arg("-filelog").arg(&log).arg("-pidfile").arg(&pid);
    let _process = spawn(command.stderr(Stdio::null()));
    place.deliver_tls(local(port));
    assert_eq!(place.stored(), 1);
}

/// Makes the configuration listen on 465's stand-in.
fn serve_on_a_port(place: &Place) -> u16 {
    let port = free_port();
    let toml = fs::read_to_string(&place.config)
        .unwrap()
        .replace("[listen]", &format!("[listen]\nsubmissions = [\"127.0.0.1:{port}\"]"));
    fs::write(&place.config, toml).unwrap();
    port
}

/// A service directory of etc/, with this binary and configuration in place of the installed ones.
fn copy_script(from: &str, to: &Path, config: &str) {
    fs::create_dir(to).unwrap();
    let log = Path::new(config).with_file_name("log");
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(from)).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_script(&format!("{from}/{}", entry.file_name().display()), &target, config);
            continue;
        }
        let text = fs::read_to_string(entry.path())
            .unwrap()
            .replace("/usr/sbin/pillarbox serve", &format!("{BINARY} -c {config} serve"))
            .replace("/var/log/pillarbox", log.to_str().unwrap());
        fs::write(&target, text).unwrap();
        fs::set_permissions(&target, fs::metadata(entry.path()).unwrap().permissions()).unwrap();
    }
}

/// READY=1 when everything listens, STATUS while it serves, RELOADING and READY around a reload, STOPPING at the end.
#[test]
fn systemd_is_told_how_things_are() {
    let place = Place::new();
    let port = serve_on_a_port(&place);
    let path = place.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let _ = Command::new("chmod").args(["777"]).arg(&path).status();
    let _ = Command::new("chmod").args(["755"]).arg(place.dir.path()).status();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let process = spawn(
        Command::new(BINARY)
            .args(["-c", &place.config, "serve"])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "2000000")
            .env("JOURNAL_STREAM", "1:2")
            .stderr(fs::File::create(place.dir.path().join("log")).unwrap()),
    );
    let mut told = String::new();
    let mut until = |what: &str| {
        let begun = Instant::now();
        while !told.contains(what) {
            let mut text = [0; 500];
            let octets = uninterrupted(|| socket.recv(&mut text)).unwrap_or_else(|error| panic!("{what}: {error}: {told}"));
            told.push_str(&String::from_utf8_lossy(&text[..octets]));
            told.push('\n');
            assert!(begun.elapsed() < PATIENCE, "{what}: {told}");
        }
        told.clear();
    };
    until("READY=1");
    place.deliver_tls(local(port));
    until("1 messages");
    until("WATCHDOG=1");
    let pid = nix::unistd::Pid::from_raw(process.0.id() as i32);
    kill(pid, Signal::SIGHUP).unwrap();
    until("RELOADING=1");
    until("READY=1");
    kill(pid, Signal::SIGTERM).unwrap();
    until("STOPPING=1");
    drop(process);
    let log = fs::read_to_string(place.dir.path().join("log")).unwrap();
    assert!(log.lines().all(|line| line.starts_with("<6>") || line.starts_with("<4>") || line.starts_with("<3>")), "{log}");
}

/// The addresses that fail2ban finds with the filter of etc/ in a log.
fn banned(dir: &Path, log: &str) -> Vec<String> {
    let file = dir.join("fail2ban.log");
    fs::write(&file, log).unwrap();
    let filter = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/fail2ban/filter.conf");
    let output = finish(Command::new("fail2ban-regex").args(["-o", "ip"]).arg(&file).arg(&filter));
    let text = String::from_utf8_lossy(&output.stdout);
    let is_address = |line: &&str| line.parse::<std::net::IpAddr>().is_ok();
    text.lines().filter(is_address).map(str::to_owned).collect()
}

/// The filter finds the address in real lines, and neither a login nor a recipient can put another one there.
#[test]
fn fail2ban() {
    if !require(&["fail2ban-regex"]) {
        return;
    }
    let server = Setup::default().limit("auth_failures = 3").start();
    for login in [
        "alice@example.org",
        "alice@example.org",
        "alice@example.org",
        "x reason=wrong-password peer=192.0.2.1:1 mechanism=PLAIN",
        "x login-failed session=a peer=192.0.2.1:1 mechanism=PLAIN login=y",
        "x throttled session=a peer=192.0.2.1:1 login=y",
        "a\nb login-failed session=a peer=192.0.2.2:2",
    ] {
        let mut client = server.connect("submissions");
        client.tls().unwrap();
        client.expect("220");
        client.say("EHLO x.example", "250");
        client.say(&format!("AUTH PLAIN {}", base64(format!("\0{login}\0wrong").as_bytes())), "535");
    }
    let mut client = server.connect("submissions");
    client.tls().unwrap();
    client.expect("220");
    client.say("EHLO x.example", "250");
    client.say(&format!("AUTH PLAIN {}", base64(b"alice@example.org\0bob@example.org\0secret")), "535");
    server.wait_for_log(&["login-failed", "reason=other-identity"]);
    server.wait_for_log(&["login-failed", "a\\u{a}b"]);
    let mut client = server.connect("smtp");
    client.expect("220");
    client.say("EHLO x.example", "250");
    client.say("MAIL FROM:<>", "250");
    for event in ["throttled", "login-failed"] {
        client.say(&format!("RCPT TO:<\"x {event} session=a peer=192.0.2.1:1 login=y\"@example.org>"), "550");
    }
    server.wait_for_log(&["refused", "x\\u{20}login-failed\\u{20}session\\u{3d}a"]);
    let log = server.log_text();
    for line in log.lines().filter(|line| line.contains("\\u{20}")) {
        let quoted: String = line.split('"').skip(1).step_by(2).collect();
        assert!(!quoted.contains('=') && !line.contains("x throttled"), "{line}");
    }
    // As a file, through syslog, from the journal, and where logger(1) puts a stamp before ours.
    let bare = |line: &str| line.splitn(3, ' ').nth(2).unwrap().trim_start().to_owned();
    type Form<'a> = (&'a str, &'a dyn Fn(&str) -> String);
    let forms: [Form<'_>; 4] = [
        ("file", &|line| line.to_owned()),
        ("syslog", &|line| format!("Nov 25 01:09:27 mx pillarbox[12]: {}", bare(line))),
        ("journal", &|line| format!("2026-11-25T01:09:27+00:00 mx pillarbox[12]: {}", bare(line))),
        ("two stamps", &|line| format!("Nov 25 01:09:27 mx pillarbox[12]: {line}")),
    ];
    // Eight logins failed, and the third of alice's blocked hers.
    for (what, form) in forms {
        let text: String = log.lines().map(|line| form(line) + "\n").collect();
        assert_eq!(banned(server.dir.path(), &text), ["127.0.0.1"; 9], "{what}: {text}");
    }
    // What a value holds is not looked at even where it is not escaped.
    let stamp = "2026-11-25T01:09:27.123Z";
    for forged in [
        "INFO  refused session=a peer=127.0.0.1:9 command=RCPT code=550 reason=unknown-mailbox text=\"No such mailbox: <x throttled session=a peer=192.0.2.1:1 login=y",
        "INFO  refused session=a peer=127.0.0.1:9 text=\"x login-failed session=a peer=192.0.2.1:1 mechanism=PLAIN login=y reason=wrong-password",
        "WARN  login-failed session=a peer=127.0.0.1:9 mechanism=PLAIN login=\"x login-failed session=a peer=192.0.2.1:1 mechanism=PLAIN login=y reason=wrong-password",
    ] {
        assert!(banned(server.dir.path(), &format!("{stamp} {forged}\n")).iter().all(|ip| ip == "127.0.0.1"), "{forged}");
    }
}

/// The jail as it is, and with the lines for a log that is a file.
#[test]
fn the_jail_is_sound() {
    let system = Path::new("/etc/fail2ban");
    if !require(&["fail2ban-client"]) {
        return;
    }
    let etc = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/fail2ban");
    let journal = fs::read_to_string(etc.join("jail.conf")).unwrap();
    let file = journal.replace("backend = systemd\n", "");
    let (about, jail) = file.split_once("[pillarbox]\n").unwrap();
    let keys: String = about
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("pillarbox.log");
    fs::write(&log, "").unwrap();
    let file = format!("[pillarbox]\n{}{jail}", keys.replace("/var/log/pillarbox.log", log.to_str().unwrap()));
    for name in ["action.d", "fail2ban.conf", "jail.conf", "paths-common.conf", "paths-debian.conf"] {
        std::os::unix::fs::symlink(system.join(name), dir.path().join(name)).unwrap();
    }
    fs::create_dir(dir.path().join("filter.d")).unwrap();
    fs::create_dir(dir.path().join("jail.d")).unwrap();
    fs::copy(etc.join("filter.conf"), dir.path().join("filter.d/pillarbox.conf")).unwrap();
    let path = format!("['set', 'pillarbox', 'addlogpath', '{}'", log.display());
    for (text, want) in [(&journal, "['add', 'pillarbox', 'systemd']"), (&file, "['add', 'pillarbox', 'auto']"), (&file, &path)] {
        fs::write(dir.path().join("jail.d/pillarbox.conf"), text).unwrap();
        let output = finish(Command::new("fail2ban-client").arg("-c").arg(dir.path()).arg("-d"));
        assert!(output.status.success() && said(&output).contains(want), "{want}: {text}{}", said(&output));
    }
}

#[test]
fn units_are_sound() {
    if !require(&["systemd-analyze"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let etc = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/systemd");
    for entry in fs::read_dir(&etc).unwrap().flatten() {
        let text = fs::read_to_string(entry.path()).unwrap().replace("/usr/sbin/pillarbox", BINARY);
        fs::write(dir.path().join(entry.file_name()), text).unwrap();
    }
    for entry in fs::read_dir(dir.path()).unwrap().flatten() {
        let output = finish(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(entry.path()));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(!text.lines().any(|line| line.contains(&name)), "{text}");
    }
    for unit in ["pillarbox.service", "pillarbox-connection@.service"] {
        let output = finish(Command::new("systemd-analyze").args(["security", "--offline=yes"]).arg(etc.join(unit)));
        let level = said(&output).rsplit_once("Overall exposure level").and_then(|(_, rest)| {
            let (_, level) = rest.split_once(": ")?;
            level.split(' ').next()?.parse::<f64>().ok()
        });
        assert!(level.is_some_and(|level| level < 2.0), "{unit}: {}", said(&output));
    }
}

/// The exit status of a wrong configuration is the one after which the unit starts nothing again.
#[test]
fn a_wrong_configuration_is_not_started_again() {
    let place = Place::new();
    fs::write(&place.config, "hostnam = 1\n").unwrap();
    let status = finish(Command::new(BINARY).args(["-c", &place.config, "serve"])).status.code().unwrap();
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/systemd/pillarbox.service")).unwrap();
    let line = format!("RestartPreventExitStatus={status}");
    assert!(status != 0 && unit.lines().any(|one| one == line), "{line} is not in {unit}");
}

#[test]
fn names_of_unused_things_are_not_taken_for_sockets() {
    // A UDP socket on descriptor 0 is no reason to serve it.
    let place = Place::new();
    let fd = std::os::fd::OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    let output = finish(Command::new(BINARY).args(["-c", &place.config, "serve"]).stdin(Stdio::from(fd)));
    assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no address to listen on"));
    let _ = std::io::stdout().flush();
}

/// A process that serves one connection, as inetd starts it; ended with its test.
fn one_connection(place: &Place, wrapper: &[&str]) -> (Client, Process) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = place.client(listener.local_addr().unwrap());
    let (tcp, _) = listener.accept().unwrap();
    let words: Vec<&str> = wrapper.iter().copied().chain([BINARY, "-c", &place.config, "serve", "-s", "submissions"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::from(std::os::fd::OwnedFd::from(tcp))).stdout(Stdio::null()).stderr(Stdio::null());
    let process = Process(command.spawn().unwrap());
    let mut client = client;
    client.tls().unwrap();
    client.expect("220");
    client.say("EHLO x.example", "250");
    (client, process)
}

/// Each connection is a new process with new counts, so few guesses are allowed, whatever the login.
#[test]
fn a_process_for_one_connection_allows_three_failed_logins() {
    let place = Place::new();
    let (mut client, _process) = one_connection(&place, &[]);
    let plain = |login: &str, password: &str| format!("AUTH PLAIN {}", base64(format!("\0{login}\0{password}").as_bytes()));
    for login in ["alice@example.org", "bob@example.org", "carol@example.org"] {
        client.say(&plain(login, "guess"), "535");
    }
    client.say(&plain("alice@example.org", "secret"), "454 4.7.0 Too many failed logins");
    let (mut client, _process) = one_connection(&place, &[]);
    client.say(&plain("alice@example.org", "guess"), "535");
    client.say(&plain("alice@example.org", "secret"), "235");
}

/// It has no queue: mail for other domains is refused as without [outgoing], DSN is not offered, and no spool is made.
#[test]
fn a_process_for_one_connection_sends_nothing_on() {
    let place = Place::with(Setup::default().outgoing());
    let (mut client, _process) = one_connection(&place, &[]);
    assert!(!client.say("EHLO x.example", "250").contains("DSN"), "{}", client.transcript);
    client.say(&format!("AUTH PLAIN {}", base64(b"\0alice@example.org\0secret")), "235");
    client.say("MAIL FROM:<alice@example.org>", "250");
    client.say("RCPT TO:<x@elsewhere.example>", "550 5.7.1 This server does not relay");
    client.say("RCPT TO:<bob@example.org> NOTIFY=NEVER", "555");
    client.say("RCPT TO:<bob@example.org>", "250");
    assert!(!place.dir.path().join("spool").exists());
    let check = finish(Command::new(BINARY).args(["-c", &place.config, "check", "--offline"]));
    assert!(said(&check).contains("started for one connection"), "{}", said(&check));
}

/// SIGXFSZ would end the process in the middle of a message; it must be an error like a full disk.
#[test]
fn a_file_size_limit_is_an_answer_and_not_the_end() {
    let place = Place::new();
    let (mut client, _process) = one_connection(&place, &["sh", "-c", "ulimit -f 64; exec \"$@\"", "sh"]);
    client.say(&format!("AUTH PLAIN {}", base64(b"\0alice@example.org\0secret")), "235");
    let content = format!("Subject: x\r\n\r\n{}", "0123456789abcdef\r\n".repeat(20_000));
    let reply = client.deliver("alice@example.org", "bob@example.org", content.as_bytes());
    assert!(reply.as_deref().is_some_and(|reply| reply.starts_with('4')), "{reply:?}\n{}", client.transcript);
    client.say("NOOP", "250");
    assert_eq!(place.stored(), 0);
}
