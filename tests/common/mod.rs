//! What the tests of the built binary share: a server of their own, and a client that says exactly what it is told.

#![allow(dead_code, reason = "each test uses its part")]

pub mod attack;
pub mod hop;
pub mod leaf;
pub mod messages;
pub mod mx;
pub mod network;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a test wants to be different from a plain server.
#[derive(Clone, Debug)]
pub struct Setup {
    pub domains: Vec<String>,
    pub users: Vec<(String, String)>,
    pub aliases: Vec<String>,
    /// Lines for the sections `[limits]` and `[senders]`.
    pub limits: Vec<String>,
    pub senders: Vec<String>,
    pub sending_limits: Vec<String>,
    /// Entries of `[listen] local` as they stand in the file, and lines for `[unix_users]`; `{place}` is the server's own directory.
    pub local: Vec<String>,
    pub unix_users: Vec<String>,
    /// The sections `[outgoing…]` as they stand in the file; `{place}` is the server's own directory.
    pub outgoing: String,
    pub services: Vec<&'static str>,
    /// What is written before `pillarbox`: strace and its arguments, or nothing.
    pub wrapper: Vec<String>,
    /// Beside the fast hash, for tests of what a hash costs.
    pub hash_memory: u32,
    /// Where the Maildirs are, if not in the server's own directory.
    pub mail: Option<PathBuf>,
    /// The directory of fullchain.pem and privkey.pem, if not a certificate of the server's own.
    pub tls: Option<PathBuf>,
    /// The port of the first service; 0 for any.
    pub port: u16,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            domains: vec!["example.org".into()],
            users: vec![("alice@example.org".into(), "secret".into()), ("bob@example.org".into(), "secret".into())],
            aliases: vec!["postmaster: alice".into(), "abuse: alice".into()],
            limits: Vec::new(),
            senders: Vec::new(),
            sending_limits: Vec::new(),
            local: Vec::new(),
            unix_users: Vec::new(),
            outgoing: String::new(),
            services: vec!["smtp", "submission", "submissions"],
            wrapper: Vec::new(),
            hash_memory: 8,
            mail: None,
            tls: None,
            port: 0,
        }
    }
}

impl Setup {
    pub fn limit(mut self, line: &str) -> Self {
        self.limits.push(line.to_owned());
        self
    }

    /// With mail for other domains taken, and a next hop at a port where nothing listens.
    pub fn outgoing(mut self) -> Self {
        self.outgoing = "[outgoing]\nvia = \"next\"\nspool = \"{place}/spool\"\npostmaster = \"me@elsewhere.example\"\n\
                         [outgoing.routes.next]\nurl = \"smtps://127.0.0.1:1\"\n"
            .to_owned();
        self
    }

    /// Writes configuration, users, aliases and certificate into `dir`.
    pub fn write(&self, dir: &Path) -> PathBuf {
        let users: String =
            self.users.iter().map(|(login, password)| format!("{login}:{}\n", hash(password, self.hash_memory))).collect();
        fs::write(dir.join("users"), users).unwrap();
        fs::write(dir.join("aliases"), self.aliases.join("\n") + "\n").unwrap();
        let names = [
            "localhost".to_owned(),
            "mx.example.org".to_owned(),
            "127.0.0.1".to_owned(),
            "127.0.0.2".to_owned(),
            "127.0.0.3".to_owned(),
        ];
        let pair = rcgen::generate_simple_self_signed(names).unwrap();
        fs::write(dir.join("cert.pem"), pair.cert.pem()).unwrap();
        fs::write(dir.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
        let path = dir.join("pillarbox.toml");
        fs::write(&path, self.toml(dir)).unwrap();
        path
    }

    pub fn toml(&self, dir: &Path) -> String {
        let place = dir.display();
        let mail = self.mail.clone().unwrap_or_else(|| dir.join("mail"));
        let port = |n| if n == 1 { self.port } else { 0 };
        let listen: String =
            self.services.iter().zip(1..).map(|(name, n)| format!("{name} = [\"127.0.0.{n}:{}\"]\n", port(n))).collect();
        let local = self.local.join(", ").replace("{place}", &place.to_string());
        format!(
            "hostname = \"mx.example.org\"\ndomains = {:?}\nusers = \"{place}/users\"\naliases = \"{place}/aliases\"\n\
             maildir = \"{}/{{domain}}/{{user}}\"\nstate = \"{place}/state\"\nuser = \"nobody\"\n[listen]\n{listen}local = [{local}]\n[unix_users]\n{}\n[tls]\n\
             certificate = {:?}\nkey = {:?}\n[limits]\n{}\n[senders]\n{}\n[sending_limits]\n{}\n{}",
            self.domains,
            mail.display(),
            self.unix_users.join("\n"),
            self.tls.as_ref().map_or(dir.join("cert.pem"), |tls| tls.join("fullchain.pem")),
            self.tls.as_ref().map_or(dir.join("key.pem"), |tls| tls.join("privkey.pem")),
            self.limits.join("\n"),
            self.senders.join("\n"),
            self.sending_limits.join("\n"),
            self.outgoing.replace("{place}", &place.to_string())
        )
    }

    pub fn start(self) -> Server {
        self.start_with(tempfile::tempdir().unwrap(), |_| {})
    }

    /// The same in a directory in which more is made before it starts.
    pub fn start_with(self, dir: TempDir, make: impl FnOnce(&Path)) -> Server {
        make(dir.path());
        Server::start(self, dir)
    }
}

/// An argon2id hash of little cost.
pub fn hash(password: &str, memory: u32) -> String {
    use base64::Engine as _;
    let params = argon2::Params::new(memory, 1, 1, None).unwrap();
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut output = [0; 32];
    argon2.hash_password_into(password.as_bytes(), b"saltsaltsalt", &mut output).unwrap();
    let encode = |data: &[u8]| base64::engine::general_purpose::STANDARD_NO_PAD.encode(data);
    format!("{{ARGON2ID}}$argon2id$v=19$m={memory},t=1,p=1${}${}", encode(b"saltsaltsalt"), encode(&output))
}

pub fn base64(text: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A running `pillarbox serve`; dropping it ends it and removes its directory.
pub struct Server {
    pub dir: TempDir,
    pub config: PathBuf,
    pub log: Arc<Mutex<Vec<String>>>,
    pub setup: Setup,
    child: Child,
    addresses: Vec<(String, SocketAddr)>,
}

impl Server {
    fn start(setup: Setup, dir: TempDir) -> Self {
        let config = setup.write(dir.path());
        let (child, log) = Self::spawn(&setup, &config);
        give_to_nobody(dir.path());
        let mut server = Self { dir, config, log, setup, child, addresses: Vec::new() };
        server.wait_until_it_listens();
        server
    }

    /// Starts it anew after it has ended, on the same files and with other ports.
    pub fn restart(&mut self) {
        (self.child, self.log) = Self::spawn(&self.setup, &self.config);
        self.addresses.clear();
        self.wait_until_it_listens();
    }

    /// The same, until it ends by itself, which may be before it listens.
    pub fn restart_to_its_end(&mut self) {
        (self.child, self.log) = Self::spawn(&self.setup, &self.config);
        self.addresses.clear();
        self.wait(PATIENCE);
    }

    fn spawn(setup: &Setup, config: &Path) -> (Child, Arc<Mutex<Vec<String>>>) {
        let mut words = setup.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_pillarbox").to_owned());
        words.extend(["-c".to_owned(), config.display().to_string(), "serve".to_owned()]);
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("LISTEN_FDS")
            .spawn()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        (child, log)
    }

    fn wait_until_it_listens(&mut self) {
        let begun = Instant::now();
        while self.addresses.len() < self.setup.services.len() {
            assert!(begun.elapsed() < PATIENCE, "no server: {}", self.log_text());
            if let Ok(Some(status)) = self.child.try_wait() {
                thread::sleep(Duration::from_millis(50));
                panic!("the server ended with {status}: {}", self.log_text());
            }
            thread::sleep(Duration::from_millis(2));
            self.addresses = self.log.lock().unwrap().iter().filter_map(|line| started(line)).collect();
        }
    }

    pub fn address(&self, service: &str) -> SocketAddr {
        self.addresses.iter().find(|(name, _)| name == service).unwrap_or_else(|| panic!("no {service}")).1
    }

    pub fn connect(&self, service: &str) -> Client {
        Client::connect(self.address(service), &self.dir.path().join("cert.pem"))
    }

    /// A client that has logged in on 465.
    pub fn login(&self, login: &str) -> Client {
        let mut client = self.connect("submissions");
        client.tls().unwrap();
        client.expect("220");
        client.say("EHLO test.example", "250");
        client.say(&format!("AUTH PLAIN {}", base64(format!("\0{login}\0secret").as_bytes())), "235");
        client
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Stops the server where it stands, until SIGCONT; returns once no thread of it runs.
    pub fn stop_all_threads(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
        let runs = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('T'))
        };
        let begun = Instant::now();
        while fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().flatten().any(runs) {
            assert!(begun.elapsed() < PATIENCE, "the server does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end; gives the exit code.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the server did not end: {}", self.log_text());
    }

    pub fn log_text(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits for a log line that has all of `parts`.
    pub fn wait_for_log(&self, parts: &[&str]) -> String {
        let begun = Instant::now();
        loop {
            let found = self.log.lock().unwrap().iter().find(|line| parts.iter().all(|part| line.contains(part))).cloned();
            if let Some(line) = found {
                return line;
            }
            assert!(begun.elapsed() < PATIENCE, "no line with {parts:?} in the log:\n{}", self.log_text());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn maildir(&self, mailbox: &str) -> PathBuf {
        let (user, domain) = mailbox.split_once('@').unwrap();
        self.setup.mail.clone().unwrap_or_else(|| self.dir.path().join("mail")).join(domain).join(user)
    }

    /// The files under `new/` of a mailbox, oldest first.
    pub fn new_mail(&self, mailbox: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.maildir(mailbox).join("new"))
            .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.sort();
        files
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Under a wrapper, the server is its child, and would outlive it.
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of the server\n{}\n---", self.log_text());
        }
    }
}

/// A process and its log; dropping it ends it. For a server that [`Server`] cannot start.
pub struct Logged {
    pub child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Logged {
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        Self { child, log }
    }

    pub fn log_text(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits for a log line with this part.
    pub fn wait_for_log(&self, part: &str) -> String {
        let begun = Instant::now();
        loop {
            let found = self.log.lock().unwrap().iter().find(|line| line.contains(part)).cloned();
            if let Some(line) = found {
                return line;
            }
            assert!(begun.elapsed() < PATIENCE, "no line with {part} in the log:\n{}", self.log_text());
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn started(line: &str) -> Option<(String, SocketAddr)> {
    let rest = line.split_once("started service=")?.1;
    let (service, address) = rest.split_once(" address=")?;
    Some((service.to_owned(), address.trim().parse().ok()?))
}

/// As root, the server becomes `nobody`, which must be able to read and write its directory.
pub fn give_to_nobody(dir: &Path) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().expect("user nobody");
    chown_all(dir, &nobody);
}

fn chown_all(path: &Path, owner: &nix::unistd::User) {
    nix::unistd::chown(path, Some(owner.uid), Some(owner.gid)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().flatten().for_each(|entry| chown_all(&entry.path(), owner));
    }
}

/// A connection, plain or TLS.
pub struct Client {
    stream: Option<Transport>,
    certificate: PathBuf,
    buffer: Vec<u8>,
    /// Everything said, for the message of a failing test.
    pub transcript: String,
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Client {
    pub fn connect(address: SocketAddr, certificate: &Path) -> Self {
        let tcp = TcpStream::connect(address).unwrap();
        Self::over(tcp, certificate)
    }

    pub fn over(tcp: TcpStream, certificate: &Path) -> Self {
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self {
            stream: Some(Transport::Plain(tcp)),
            certificate: certificate.to_owned(),
            buffer: Vec::new(),
            transcript: String::new(),
        }
    }

    pub fn tcp(&self) -> &TcpStream {
        match self.stream.as_ref().unwrap() {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => &tls.sock,
        }
    }

    pub fn tls(&mut self) -> io::Result<()> {
        let Some(Transport::Plain(tcp)) = self.stream.take() else { panic!("TLS already") };
        let connection =
            ClientConnection::new(client_config(&self.certificate), ServerName::try_from("localhost").unwrap()).unwrap();
        let mut tls = Box::new(StreamOwned::new(connection, tcp));
        while tls.conn.is_handshaking() {
            uninterrupted(|| tls.conn.complete_io(&mut tls.sock))?;
        }
        self.stream = Some(Transport::Tls(tls));
        self.transcript.push_str("~ tls\n");
        Ok(())
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.transcript.push_str(&format!("C: {}\n", String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).escape_debug()));
        match self.stream.as_mut().unwrap() {
            Transport::Plain(tcp) => tcp.write_all(bytes),
            Transport::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }

    /// A line without its CRLF; `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                self.transcript.push_str(&format!("S: {line}\n"));
                return Some(line);
            }
            let mut piece = [0; 4096];
            let read = uninterrupted(|| match self.stream.as_mut().unwrap() {
                Transport::Plain(tcp) => tcp.read(&mut piece),
                Transport::Tls(tls) => tls.read(&mut piece),
            });
            match read {
                Ok(0) => return None,
                Ok(octets) => self.buffer.extend_from_slice(&piece[..octets]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("the server says nothing\n{}", self.transcript)
                }
                Err(error) => {
                    self.transcript.push_str(&format!("~ {error}\n"));
                    return None;
                }
            }
        }
    }

    /// A whole reply; its last line.
    pub fn reply(&mut self) -> Option<String> {
        loop {
            let line = self.line()?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line);
            }
        }
    }

    /// A reply that must begin so.
    pub fn expect(&mut self, beginning: &str) -> String {
        let reply = self.reply().unwrap_or_else(|| panic!("closed instead of {beginning}\n{}", self.transcript));
        assert!(reply.starts_with(beginning), "{reply} instead of {beginning}\n{}", self.transcript);
        reply
    }

    pub fn say(&mut self, line: &str, beginning: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes()).unwrap();
        self.expect(beginning)
    }

    /// Hands in a message; gives the last reply, or `None` if the connection ended before it.
    pub fn deliver(&mut self, from: &str, to: &str, content: &[u8]) -> Option<String> {
        self.send(format!("MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\nDATA\r\n").as_bytes()).ok()?;
        for want in ["250", "250", "354"] {
            let reply = self.reply()?;
            if !reply.starts_with(want) {
                return Some(reply);
            }
        }
        self.send(&[content, b"\r\n.\r\n"].concat()).ok()?;
        self.reply()
    }
}

pub fn client_config(certificate: &Path) -> Arc<ClientConfig> {
    let pem = fs::read(certificate).unwrap();
    let mut roots = RootCertStore::empty();
    for der in rustls_pemfile::certs(&mut &pem[..]) {
        let der: CertificateDer<'static> = der.unwrap();
        roots.add(der).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Connects from an address of 127/8 of its own.
pub fn from(source: [u8; 4], to: SocketAddr) -> io::Result<TcpStream> {
    from_with_buffer(source, to, 0)
}

/// The same with so many octets for what has come and was not read; 0 for what is usual.
pub fn from_with_buffer(source: [u8; 4], to: SocketAddr, octets: usize) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    if octets > 0 {
        socket.set_recv_buffer_size(octets)?;
    }
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Reads again when a signal came in between: a read with a time limit is not taken up again by itself (signal(7)).
pub fn uninterrupted<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A port of 127.0.0.1 for a program that must be told one. No other test of this process gets it, and it is below those
/// that the kernel gives to sockets without a number (32768 and up), so it is still free when the program binds it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12000 + (std::process::id() as u16 % 1000 * 20 + n) % 20000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Runs so many rounds of a test, or as many as PILLARBOX_ROUNDS says; four at a time, since each waits more than it computes.
pub fn rounds(few: u64, round: impl Fn(u64) + Sync) {
    let all = std::env::var("PILLARBOX_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(few);
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..all.min(4) {
            scope.spawn(|| {
                loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        number if number < all => round(number),
                        _ => return,
                    }
                }
            });
        }
    });
}

/// Runs a tool to its end and gives what it said; one that hangs is killed after a minute and fails its test, not the
/// whole run.
pub fn finish(command: &mut Command) -> Output {
    const LIMIT: Duration = Duration::from_secs(60);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let (done, ended) = mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        let hangs = ended.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
        hangs && nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).is_ok()
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    assert!(!guard.join().unwrap(), "{command:?} hangs: {}", said(&output));
    output
}

/// Both outputs of a tool, for the message of a failing test.
pub fn said(output: &Output) -> String {
    format!("{}\n{}\n{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// True if all tools are installed. If not, the test is skipped and says so; with PILLARBOX_REQUIRE_TOOLS=1 it fails.
pub fn require(tools: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let missing: Vec<_> = tools.iter().filter(|tool| !path.split(':').any(|dir| Path::new(dir).join(tool).exists())).collect();
    if missing.is_empty() {
        return true;
    }
    skipped(&format!("{missing:?} not installed"));
    false
}

/// The Python that knows dkimpy and flufl.bounce: a virtual environment of .ci/run's making, or what python3 is.
pub fn python() -> String {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python3");
    std::env::var("PILLARBOX_PYTHON")
        .unwrap_or_else(|_| if venv.exists() { venv.display().to_string() } else { "python3".into() })
}

/// True for root. If not, the test is skipped and says so; with PILLARBOX_REQUIRE_TOOLS=1 it fails.
pub fn require_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped("needs root");
    }
    root
}

/// A Python that has this module: in a virtual environment of .ci/run's making, or wherever python3 finds it. Without one
/// the test is skipped, and says so.
pub fn python_with(module: &str) -> Option<String> {
    let python = python();
    let mut command = Command::new(&python);
    command.args(["-c", &format!("import {module}")]).stderr(Stdio::null());
    if command.status().is_ok_and(|status| status.success()) {
        return Some(python);
    }
    skipped(&format!("Python has no module {module}"));
    None
}

/// Says what was left out, past the test harness, which shows the words of failing tests alone; with
/// PILLARBOX_REQUIRE_TOOLS=1 nothing may be left out.
pub fn skipped(what: &str) {
    assert!(std::env::var_os("PILLARBOX_REQUIRE_TOOLS").is_none(), "left out: {what}");
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(io::stderr(), "skipped: {test}: {what}");
}
