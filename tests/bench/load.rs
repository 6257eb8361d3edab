//! Throughput: messages a second, beside what the disk alone gives with as many writers.

use std::fmt;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pillarbox::mail::durable::Faults;
use pillarbox::mail::maildir::Store;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::common::base64;

/// What the clients do.
pub struct Plan {
    pub connections: usize,
    pub size: usize,
    pub login: String,
    pub password: String,
    /// The recipient; the login itself if there is none.
    pub to: String,
    /// Messages after which it ends.
    pub count: u64,
    /// A new session for each message.
    pub each: bool,
    pub time: Duration,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    pub messages: u64,
    pub octets: u64,
    pub took: Duration,
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, more: Self) {
        self.messages += more.messages;
        self.octets += more.octets;
        self.took += more.took;
    }
}

/// How long either goes on before it is the other's turn, and how often.
const SLICE: Duration = Duration::from_millis(700);
const SLICES: usize = 6;

impl Default for Plan {
    fn default() -> Self {
        Self {
            connections: 16,
            size: 10_000,
            login: "alice@example.org".into(),
            password: "secret".into(),
            to: String::new(),
            count: u64::MAX,
            each: false,
            time: Duration::from_secs(5),
        }
    }
}

impl Outcome {
    /// For a script: messages, seconds, octets, and milliseconds of CPU that this process has used so far.
    pub fn figures(&self) -> String {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeValLike as _;
        let used = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        let cpu = used.user_time().num_milliseconds() + used.system_time().num_milliseconds();
        format!("{} {:.3} {} {cpu}", self.messages, self.took.as_secs_f64(), self.octets)
    }

    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.took.as_secs_f64()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} messages/s, {:.0} MB/s", self.rate(), self.octets as f64 / 1e6 / self.took.as_secs_f64())
    }
}

/// A client that neither checks certificates nor makes strings: it must not be what is measured.
struct Session {
    tls: StreamOwned<ClientConnection, TcpStream>,
    buffer: Vec<u8>,
    /// The server said so (RFC 2920); OpenSMTPD does not.
    pipelining: bool,
}

impl Session {
    fn open(address: SocketAddr, config: &Arc<ClientConfig>, plan: &Plan) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_nodelay(true)?;
        let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from("localhost").unwrap())
            .map_err(std::io::Error::other)?;
        let mut session = Self { tls: StreamOwned::new(connection, tcp), buffer: Vec::new(), pipelining: false };
        session.replies(1)?;
        session.say(b"EHLO bench.example\r\n", 1)?;
        let response = base64(format!("\0{}\0{}", plan.login, plan.password).as_bytes());
        session.say(format!("AUTH PLAIN {response}\r\n").as_bytes(), 1)?;
        Ok(session)
    }

    fn say(&mut self, text: &[u8], replies: usize) -> std::io::Result<()> {
        self.tls.write_all(text)?;
        self.tls.flush()?;
        self.replies(replies)
    }

    /// Reads so many whole replies; anything but 2xx and 3xx is an error.
    fn replies(&mut self, count: usize) -> std::io::Result<()> {
        use std::io::Read as _;
        let mut seen = 0;
        while seen < count {
            while let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                self.pipelining |= line.get(4..) == Some(b"PIPELINING\r\n");
                if line.get(3) != Some(&b'-') {
                    seen += 1;
                    if !matches!(line[0], b'2' | b'3') {
                        return Err(std::io::Error::other(String::from_utf8_lossy(&line).into_owned()));
                    }
                }
            }
            if seen < count {
                let mut piece = [0; 2048];
                match self.tls.read(&mut piece)? {
                    0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                    octets => self.buffer.extend_from_slice(&piece[..octets]),
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, from: &str, to: &str, content: &[u8]) -> std::io::Result<()> {
        if self.pipelining {
            self.say(format!("MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\nDATA\r\n").as_bytes(), 3)?;
        } else {
            self.say(format!("MAIL FROM:<{from}>\r\n").as_bytes(), 1)?;
            self.say(format!("RCPT TO:<{to}>\r\n").as_bytes(), 1)?;
            self.say(b"DATA\r\n", 1)?;
        }
        self.say(content, 1)
    }
}

/// Runs a plan against a server with TLS from the first octet.
pub fn run(address: SocketAddr, plan: &Plan) -> Outcome {
    let to = if plan.to.is_empty() { &plan.login } else { &plan.to };
    let head = format!(
        "From: {}\r\nTo: {to}\r\nSubject: bench\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <b@example.org>\r\n\r\n",
        plan.login
    );
    let mut content = head.into_bytes();
    while content.len() < plan.size {
        content.extend_from_slice(b"The quick brown fox jumps over the lazy dog, again and again and again.\r\n");
    }
    content.extend_from_slice(b".\r\n");
    let config = unverified();
    let (messages, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let begun_messages = AtomicU64::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..plan.connections {
            let (config, content, messages, stop, begun_messages) = (&config, &content, &messages, &stop, &begun_messages);
            threads.push(scope.spawn(move || {
                let mut session: Option<Session> = None;
                while !stop.load(Ordering::Relaxed) {
                    let mut open = match session.take() {
                        Some(open) => open,
                        None => match Session::open(address, config, plan) {
                            Ok(open) => open,
                            Err(error) => return eprintln!("login: {error}"),
                        },
                    };
                    if begun_messages.fetch_add(1, Ordering::Relaxed) >= plan.count {
                        return;
                    }
                    if let Err(error) = open.deliver(&plan.login, to, content) {
                        return eprintln!("message: {error}");
                    }
                    messages.fetch_add(1, Ordering::Relaxed);
                    if plan.each {
                        let _ = open.say(b"QUIT\r\n", 1);
                    } else {
                        session = Some(open);
                    }
                }
            }));
        }
        while begun.elapsed() < plan.time && threads.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(Duration::from_millis(5).min(plan.time.saturating_sub(begun.elapsed())));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let took = begun.elapsed();
    let messages = messages.into_inner();
    Outcome { messages, octets: messages * content.len() as u64, took }
}

/// Logs so many sessions in, says so, and holds them until standard input ends.
pub fn hold(address: SocketAddr, plan: &Plan, count: usize) {
    let config = unverified();
    let sessions: Vec<_> = (0..count).map(|_| Session::open(address, &config, plan)).collect();
    let held = sessions.iter().filter(|session| session.is_ok()).count();
    println!("held {held}");
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

/// The same files by the same steps, without a network.
pub fn disk(directory: &Path, writers: usize, size: usize, time: Duration) -> Outcome {
    let store = Store::new("bench", Faults::default());
    let (messages, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let content = vec![b'x'; size];
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..writers {
            let (store, messages, stop, content) = (&store, &messages, &stop, &content);
            let maildir: PathBuf = directory.join("box");
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut draft = store.begin(&maildir).unwrap();
                    draft.write_all(content).unwrap();
                    store.commit(draft, std::slice::from_ref(&maildir)).unwrap();
                    messages.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    let messages = messages.into_inner();
    Outcome { messages, octets: messages * size as u64, took: begun.elapsed() }
}

pub fn disk_table() {
    for (writers, size) in [(1, 10_000), (16, 10_000), (64, 10_000), (2, 10_000_000)] {
        let dir = tempfile::tempdir().unwrap();
        println!("disk alone, {writers} writers of {size}: {}", disk(dir.path(), writers, size, Duration::from_secs(4)));
    }
}

/// Each scenario beside the disk alone, interleaved, three rounds; the Maildir is counted, not the answers.
pub fn table() {
    let rows = [
        ("one connection", 1, 10_000, false),
        ("16 connections", 16, 10_000, false),
        ("login each, 16 at once", 16, 10_000, true),
        ("10 MB, 2 connections", 2, 10_000_000, false),
    ];
    println!(
        "| scenario | round | pillarbox | disk alone | ratio | server CPU a message | stored of acknowledged |\n|---|---|---|---|---|---|---|"
    );
    // ext4 looks long for an inode while many have just been freed: nothing is deleted before all is measured.
    let mut kept = Vec::new();
    for round in 1..=3 {
        for (name, connections, size, each) in rows {
            let server = crate::server(&["message_size = \"64M\""]);
            let plan = Plan { connections, size, each, time: SLICE, ..Plan::default() };
            let (mut ours, mut alone, mut cpu) = (Outcome::default(), Outcome::default(), Duration::ZERO);
            let dir = tempfile::tempdir().unwrap();
            // The disk is not the same from second to second: both in slices, by turns.
            for _ in 0..SLICES {
                let before = crate::cpu(&server);
                ours += run(server.address("submissions"), &plan);
                cpu += crate::cpu(&server) - before;
                alone += disk(dir.path(), connections, size, SLICE);
            }
            let cpu = cpu.as_secs_f64() * 1000.0 / ours.messages.max(1) as f64;
            let stored = server.new_mail("alice@example.org").len();
            let ratio = ours.rate() / alone.rate();
            println!("| {name} | {round} | {ours} | {alone} | {ratio:.2} | {cpu:.3} ms | {stored} of {} |", ours.messages);
            kept.push((server, dir));
        }
    }
}

/// Takes any certificate: the peer is this machine.
fn unverified() -> Arc<ClientConfig> {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::{DigitallySignedStruct, SignatureScheme};
    #[derive(Debug)]
    struct Anybody;
    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth())
}
