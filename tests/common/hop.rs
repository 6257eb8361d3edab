//! A next hop: a server with TLS and a login that takes every message, records it to the octet, and answers otherwise
//! where a test says so.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use super::leaf::{Authority, Leaf};
use super::{PATIENCE, base64, give_to_nobody};

/// What the client has just said.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `connect`, `EHLO`, `AUTH`, `MAIL`, `RCPT`, `DATA`, `.` or another verb.
    pub stage: &'static str,
    /// The line; at the dot the sender's path.
    pub line: String,
    /// How often this stage was reached before, on any connection.
    pub nth: usize,
    /// Octets of content at the dot.
    pub octets: usize,
}

/// What the next hop does.
#[derive(Clone, Debug)]
pub enum Said {
    /// What a server does that takes everything.
    Usual,
    /// This reply; 421 closes.
    Reply(&'static str),
    /// The line is cut.
    Cut,
    /// Nothing, until [`Hop::let_go`]; then the usual.
    Hold,
}

/// A message that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The line of MAIL.
    pub mail: String,
    /// The lines of RCPT that were accepted.
    pub rcpt: Vec<String>,
    /// As on the wire, dots undone.
    pub content: Vec<u8>,
}

type Rule = dyn Fn(&Asked) -> Said + Send + Sync;

struct Shared {
    rule: Mutex<Arc<Rule>>,
    offer: Mutex<Vec<&'static str>>,
    tls: Mutex<Arc<ServerConfig>>,
    taken: Mutex<Vec<Taken>>,
    counts: Mutex<HashMap<&'static str, usize>>,
    heard: Mutex<Vec<String>>,
    held: Mutex<HashMap<&'static str, usize>>,
    open: Mutex<Vec<TcpStream>>,
    go: AtomicUsize,
    ends: AtomicBool,
    down: AtomicBool,
    password: Mutex<String>,
}

/// A running next hop; dropping it ends it.
pub struct Hop {
    pub address: SocketAddr,
    dir: TempDir,
    authority: Authority,
    shared: Arc<Shared>,
}

/// What is offered after EHLO unless a test says otherwise.
pub const OFFER: [&str; 6] = ["PIPELINING", "SIZE 50000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "AUTH PLAIN LOGIN"];

impl Hop {
    pub fn new() -> Self {
        Self::with(Leaf::Good)
    }

    pub fn with(leaf: Leaf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        let shared = Arc::new(Shared {
            rule: Mutex::new(Arc::new(|_: &Asked| Said::Usual)),
            offer: Mutex::new(OFFER.to_vec()),
            tls: Mutex::new(authority.server(leaf)),
            taken: Mutex::default(),
            counts: Mutex::default(),
            heard: Mutex::default(),
            held: Mutex::default(),
            open: Mutex::default(),
            go: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
            down: AtomicBool::new(false),
            password: Mutex::new("secret".into()),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let hop = Self { address, dir, authority, shared: Arc::clone(&shared) };
        hop.write_password("secret");
        give_to_nobody(hop.dir.path());
        fs::set_permissions(hop.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        thread::spawn(move || {
            for tcp in listener.incoming() {
                if shared.ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(tcp) = tcp else { continue };
                let shared = Arc::clone(&shared);
                thread::spawn(move || drop(serve(&shared, tcp)));
            }
        });
        hop
    }

    /// The section of a route to this next hop.
    pub fn route(&self, name: &str) -> String {
        format!(
            "[outgoing.routes.{name}]\nurl = \"smtps://localhost:{}\"\nlogin = \"relay@next.example\"\npassword_file = {:?}\nca = {:?}\n",
            self.address.port(),
            self.password_file().display(),
            self.dir.path().join("ca.pem").display(),
        )
    }

    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// The authorities that the client trusts.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The password that the client has.
    pub fn write_password(&self, password: &str) {
        let path = self.dir.path().join("password.new");
        fs::write(&path, format!("{password}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        give_to_nobody(&path);
        fs::rename(path, self.password_file()).unwrap();
    }

    /// The password that this server wants.
    pub fn want_password(&self, password: &str) {
        *self.shared.password.lock().unwrap() = password.to_owned();
    }

    pub fn rule(&self, rule: impl Fn(&Asked) -> Said + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap() = Arc::new(rule);
    }

    pub fn offer(&self, offer: &[&'static str]) {
        *self.shared.offer.lock().unwrap() = offer.to_vec();
    }

    pub fn certificate(&self, leaf: Leaf) {
        *self.shared.tls.lock().unwrap() = self.authority.server(leaf);
    }

    /// The client trusts the other authority from now on.
    pub fn trust_another(&self) {
        let path = self.dir.path().join("ca.new");
        fs::write(&path, &self.authority.stranger_pem).unwrap();
        fs::rename(path, self.authorities()).unwrap();
    }

    /// The file of authorities that the client trusts.
    pub fn authorities(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// While it is down, connections are closed at once.
    pub fn down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
        if down {
            self.cut_all();
        }
    }

    /// Cuts every connection, as the death of the process would.
    pub fn cut_all(&self) {
        for tcp in self.shared.open.lock().unwrap().drain(..) {
            let _ = tcp.shutdown(Shutdown::Both);
        }
    }

    /// Whatever is held goes on.
    pub fn let_go(&self) {
        self.shared.go.fetch_add(1, Ordering::SeqCst);
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.shared.taken.lock().unwrap().clone()
    }

    pub fn taken_count(&self) -> usize {
        self.shared.taken.lock().unwrap().len()
    }

    /// How often a stage was reached.
    pub fn count(&self, stage: &str) -> usize {
        self.shared.counts.lock().unwrap().get(stage).copied().unwrap_or(0)
    }

    /// Every line of a command.
    pub fn heard(&self) -> Vec<String> {
        self.shared.heard.lock().unwrap().clone()
    }

    pub fn wait_for_messages(&self, count: usize) -> Vec<Taken> {
        self.wait(&format!("{count} messages"), |hop| hop.taken_count() >= count);
        self.taken()
    }

    /// Waits until so many are held at a stage.
    pub fn wait_for_held(&self, stage: &'static str, count: usize) {
        self.wait(&format!("{count} held at {stage}"), |hop| {
            hop.shared.held.lock().unwrap().get(stage).copied().unwrap_or(0) >= count
        });
    }

    pub fn wait_for_count(&self, stage: &str, count: usize) {
        self.wait(&format!("{stage} {count} times"), |hop| hop.count(stage) >= count);
    }

    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "the next hop never had {what}:\n{}", self.heard().join("\n"));
            thread::sleep(Duration::from_millis(3));
        }
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        self.let_go();
        self.cut_all();
        let _ = TcpStream::connect(self.address);
    }
}

struct Session<'a> {
    shared: &'a Shared,
    stream: BufReader<StreamOwned<ServerConnection, TcpStream>>,
}

fn serve(shared: &Shared, tcp: TcpStream) -> io::Result<()> {
    if shared.down.load(Ordering::SeqCst) {
        return Ok(());
    }
    tcp.set_nodelay(true)?;
    shared.open.lock().unwrap().push(tcp.try_clone()?);
    let config = Arc::clone(&shared.tls.lock().unwrap());
    let mut tls = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, tcp);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    let mut session = Session { shared, stream: BufReader::with_capacity(65536, tls) };
    let ended = session.run();
    let tls = session.stream.get_mut();
    tls.conn.send_close_notify();
    let _ = tls.flush();
    let _ = tls.sock.shutdown(Shutdown::Both);
    ended
}

impl Session<'_> {
    fn run(&mut self) -> io::Result<()> {
        if !self.answer("connect", "", 0, "220 next.example ESMTP")? {
            return Ok(());
        }
        let (mut mail, mut rcpt): (Option<String>, Vec<String>) = (None, Vec::new());
        while let Some(line) = self.line()? {
            let line = String::from_utf8_lossy(&line).into_owned();
            self.shared.heard.lock().unwrap().push(line.clone());
            let verb = line.split(' ').next().unwrap().to_uppercase();
            let go_on = match verb.as_str() {
                "EHLO" => {
                    let offer = self.shared.offer.lock().unwrap().clone();
                    let lines: Vec<String> = std::iter::once("next.example").chain(offer).map(str::to_owned).collect();
                    let (last, before) = lines.split_last().unwrap();
                    let text: String = before.iter().map(|line| format!("250-{line}\r\n")).collect();
                    self.answer("EHLO", &line, 0, &format!("{text}250 {last}"))?
                }
                "AUTH" => {
                    let password = self.shared.password.lock().unwrap().clone();
                    let good = line.ends_with(&base64(format!("\0relay@next.example\0{password}").as_bytes()));
                    let usual = if good { "235 2.7.0 welcome" } else { "535 5.7.8 wrong password" };
                    self.answer("AUTH", &line, 0, usual)?
                }
                "MAIL" => {
                    (mail, rcpt) = (None, Vec::new());
                    self.answered("MAIL", &line, 0, "250 2.1.0 ok")?.is_some_and(|reply| {
                        if reply.starts_with('2') {
                            mail = Some(line.clone());
                        }
                        !reply.starts_with("421")
                    })
                }
                "RCPT" => self.answered("RCPT", &line, 0, "250 2.1.5 ok")?.is_some_and(|reply| {
                    if reply.starts_with('2') {
                        rcpt.push(line.clone());
                    }
                    !reply.starts_with("421")
                }),
                "DATA" => {
                    let usual = if mail.is_some() && !rcpt.is_empty() { "354 go on" } else { "503 5.5.1 no recipients" };
                    match self.answered("DATA", &line, 0, usual)? {
                        None => false,
                        Some(reply) if reply.starts_with("354") => self.content(mail.take(), std::mem::take(&mut rcpt))?,
                        Some(reply) => !reply.starts_with("421"),
                    }
                }
                "RSET" => {
                    (mail, rcpt) = (None, Vec::new());
                    self.answer("RSET", &line, 0, "250 2.0.0 ok")?
                }
                "QUIT" => {
                    self.answer("QUIT", &line, 0, "221 2.0.0 bye")?;
                    false
                }
                _ => self.answer("other", &line, 0, "500 5.5.1 what?")?,
            };
            if !go_on {
                return Ok(());
            }
        }
        Ok(())
    }

    fn content(&mut self, mail: Option<String>, rcpt: Vec<String>) -> io::Result<bool> {
        let mut content = Vec::new();
        loop {
            let before = content.len();
            if self.stream.read_until(b'\n', &mut content)? == 0 {
                return Ok(false);
            }
            match &content[before..] {
                b".\r\n" if content[..before].is_empty() || content[..before].ends_with(b"\r\n") => {
                    content.truncate(before);
                    break;
                }
                [b'.', ..] => drop(content.remove(before)),
                _ => {}
            }
        }
        let mail = mail.unwrap_or_default();
        let octets = content.len();
        let reply = self.ask(".", &mail, octets, "250 2.0.0 taken");
        // What is taken is on its disk before the reply.
        if reply.as_deref().is_some_and(|reply| reply.starts_with('2')) {
            self.shared.taken.lock().unwrap().push(Taken { mail, rcpt, content });
        }
        let Some(reply) = reply else { return Ok(false) };
        self.say(&reply)?;
        Ok(!reply.starts_with("421"))
    }

    fn answer(&mut self, stage: &'static str, line: &str, octets: usize, usual: &str) -> io::Result<bool> {
        Ok(self.answered(stage, line, octets, usual)?.is_some_and(|reply| !reply.starts_with("421")))
    }

    fn answered(&mut self, stage: &'static str, line: &str, octets: usize, usual: &str) -> io::Result<Option<String>> {
        let reply = self.ask(stage, line, octets, usual);
        if let Some(reply) = &reply {
            self.say(reply)?;
        }
        Ok(reply)
    }

    /// What is to be said; `None` if the line is cut.
    fn ask(&mut self, stage: &'static str, line: &str, octets: usize, usual: &str) -> Option<String> {
        let nth = {
            let mut counts = self.shared.counts.lock().unwrap();
            let count = counts.entry(stage).or_default();
            *count += 1;
            *count - 1
        };
        let rule = Arc::clone(&self.shared.rule.lock().unwrap());
        match rule(&Asked { stage, line: line.to_owned(), nth, octets }) {
            Said::Usual => Some(usual.to_owned()),
            Said::Reply(reply) => Some(reply.to_owned()),
            Said::Cut => None,
            Said::Hold => {
                let before = self.shared.go.load(Ordering::SeqCst);
                *self.shared.held.lock().unwrap().entry(stage).or_default() += 1;
                while self.shared.go.load(Ordering::SeqCst) == before {
                    thread::sleep(Duration::from_millis(3));
                }
                Some(usual.to_owned())
            }
        }
    }

    fn say(&mut self, reply: &str) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{reply}\r\n").as_bytes())?;
        stream.flush()
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut self.stream).take(8192).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        while line.last().is_some_and(|octet| matches!(octet, b'\r' | b'\n')) {
            line.pop();
        }
        Ok(Some(line))
    }
}
