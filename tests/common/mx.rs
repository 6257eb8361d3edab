//! A mail server that is found by MX: it takes everything, unless a rule says otherwise, with STARTTLS or without.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::PATIENCE;
use super::leaf::{Authority, Leaf};

/// A message that came.
#[derive(Clone, Debug)]
pub struct Taken {
    pub ehlo: String,
    pub mail: String,
    pub rcpt: Vec<String>,
    pub content: Vec<u8>,
    pub secured: bool,
    pub from: std::net::IpAddr,
}

/// What STARTTLS is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StartTls {
    /// Offered, and the handshake is answered by nonsense.
    Broken,
    /// Offered, and its reply has more after it in the clear.
    Early,
    None,
    /// Offered, and the client's end of the handshake is refused: it has no certificate.
    Rejects,
    Works,
}

/// `connect` or the line of a command, and how often this verb came before: what to answer, if not the usual. An empty answer
/// closes.
pub type Rule = dyn Fn(&str, usize) -> Option<&'static str> + Send + Sync;

/// A running server; it ends with the test.
#[derive(Clone)]
pub struct MailServer(Arc<Shared>);

struct Shared {
    tls: Arc<ServerConfig>,
    strict: Arc<ServerConfig>,
    starttls: Mutex<StartTls>,
    offer: Mutex<Vec<&'static str>>,
    rule: Mutex<Arc<Rule>>,
    one_each: AtomicBool,
    counts: Mutex<std::collections::HashMap<String, usize>>,
    taken: Mutex<Vec<Taken>>,
    busy: Mutex<(usize, usize)>,
}

trait Octets: Read + Write + Send {}
impl<T: Read + Write + Send> Octets for T {}

impl MailServer {
    pub fn on(listener: TcpListener, starttls: StartTls) -> Self {
        let authority = Authority::new();
        let shared = Arc::new(Shared {
            tls: authority.server(Leaf::Expired),
            strict: authority.server_that_wants_a_certificate(),
            starttls: Mutex::new(starttls),
            offer: Mutex::new(vec!["PIPELINING"]),
            rule: Mutex::new(Arc::new(|_: &str, _: usize| None)),
            one_each: AtomicBool::default(),
            counts: Mutex::default(),
            taken: Mutex::default(),
            busy: Mutex::default(),
        });
        let server = Self(Arc::clone(&shared));
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || session(&shared, tcp));
            }
        });
        server
    }

    pub fn rule(&self, rule: impl Fn(&str, usize) -> Option<&'static str> + Send + Sync + 'static) {
        *self.0.rule.lock().unwrap() = Arc::new(rule);
    }

    /// From now on a connection is closed after its first message, so that the next message comes by a new one.
    pub fn one_message_each(&self) {
        self.0.one_each.store(true, Ordering::SeqCst);
    }

    pub fn starttls(&self, starttls: StartTls) {
        *self.0.starttls.lock().unwrap() = starttls;
    }

    /// The extensions that are offered beside 8BITMIME and STARTTLS.
    pub fn offer(&self, offer: &[&'static str]) {
        *self.0.offer.lock().unwrap() = offer.to_vec();
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.0.taken.lock().unwrap().clone()
    }

    /// How often a verb came.
    pub fn count(&self, verb: &str) -> usize {
        self.0.counts.lock().unwrap().get(verb).copied().unwrap_or(0)
    }

    /// Messages that were coming in at the same time, at most.
    pub fn most(&self) -> usize {
        self.0.busy.lock().unwrap().1
    }

    /// Forgets what came.
    pub fn forget(&self) {
        self.0.taken.lock().unwrap().clear();
        let mut busy = self.0.busy.lock().unwrap();
        busy.1 = busy.0;
    }

    pub fn wait(&self, count: usize) -> Vec<Taken> {
        let begun = Instant::now();
        while self.taken().len() < count {
            assert!(begun.elapsed() < PATIENCE, "{} messages came, not {count}", self.taken().len());
            thread::sleep(Duration::from_millis(5));
        }
        self.taken()
    }
}

impl Shared {
    fn answer(&self, verb: &str, line: &str) -> Option<&'static str> {
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(verb.to_owned()).or_default();
        *count += 1;
        let (rule, nth) = (Arc::clone(&self.rule.lock().unwrap()), *count - 1);
        drop(counts);
        rule(line, nth)
    }
}

fn session(shared: &Shared, tcp: TcpStream) -> io::Result<()> {
    let from = tcp.peer_addr()?.ip().to_canonical();
    tcp.set_nodelay(true)?;
    let raw = tcp.try_clone()?;
    let mut stream: BufReader<Box<dyn Octets>> = BufReader::new(Box::new(tcp));
    let starttls = *shared.starttls.lock().unwrap();
    let mut open =
        Taken { ehlo: String::new(), mail: String::new(), rcpt: Vec::new(), content: Vec::new(), secured: false, from };
    match shared.answer("connect", "connect") {
        Some("") => return Ok(()),
        Some(text) => say(&mut stream, text)?,
        None => say(&mut stream, "220 mx.elsewhere.example ESMTP")?,
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        if let Some(answer) = shared.answer(&verb, &line) {
            if answer.is_empty() {
                return Ok(());
            }
            if verb == "MAIL" {
                open.mail.clear();
            }
            say(&mut stream, answer)?;
            continue;
        }
        match verb.as_str() {
            "EHLO" => {
                open.ehlo = line;
                let tls = (starttls != StartTls::None && !open.secured).then_some("STARTTLS");
                let offer: Vec<&str> = shared.offer.lock().unwrap().iter().copied().chain(tls).collect();
                let offer: String = offer.iter().map(|word| format!("250-{word}\r\n")).collect();
                say(&mut stream, &format!("250-mx.elsewhere.example\r\n{offer}250 8BITMIME"))?;
            }
            "STARTTLS" if starttls == StartTls::Early => {
                return say(&mut stream, "220 go on\r\n250 injected");
            }
            "STARTTLS" => {
                say(&mut stream, "220 go on")?;
                if starttls == StartTls::Broken {
                    stream.get_mut().write_all(b"what is this?\r\n")?;
                    return Ok(());
                }
                let config = if starttls == StartTls::Rejects { &shared.strict } else { &shared.tls };
                let tls = StreamOwned::new(ServerConnection::new(Arc::clone(config)).unwrap(), raw.try_clone()?);
                stream = BufReader::new(Box::new(tls));
                open.secured = true;
            }
            "MAIL" => {
                (open.mail, open.rcpt) = (line, Vec::new());
                let mut busy = shared.busy.lock().unwrap();
                busy.0 += 1;
                busy.1 = busy.1.max(busy.0);
                drop(busy);
                say(&mut stream, "250 2.1.0 ok")?;
            }
            "RCPT" | "DATA" if open.mail.is_empty() => say(&mut stream, "503 5.5.1 no sender")?,
            "RCPT" => {
                open.rcpt.push(line);
                say(&mut stream, "250 2.1.5 ok")?;
            }
            "DATA" if open.rcpt.is_empty() => say(&mut stream, "554 5.5.1 no recipients")?,
            "DATA" => {
                say(&mut stream, "354 go on")?;
                open.content.clear();
                loop {
                    let mut line = Vec::new();
                    stream.read_until(b'\n', &mut line)?;
                    if line.is_empty() || line == b".\r\n" {
                        break;
                    }
                    open.content.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                }
                match shared.answer(".", ".") {
                    Some("") => return Ok(()),
                    Some(text) => say(&mut stream, text)?,
                    None => {
                        shared.taken.lock().unwrap().push(open.clone());
                        shared.busy.lock().unwrap().0 -= 1;
                        say(&mut stream, "250 2.0.0 taken")?;
                        if shared.one_each.load(Ordering::SeqCst) {
                            return Ok(());
                        }
                    }
                }
            }
            "QUIT" => return say(&mut stream, "221 2.0.0 bye"),
            _ => say(&mut stream, "250 2.0.0 ok")?,
        }
    }
}

fn say(stream: &mut BufReader<Box<dyn Octets>>, text: &str) -> io::Result<()> {
    stream.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
    stream.get_mut().flush()
}
