//! Relaying: what is accepted for other domains and handed on to a next hop, and a queue whose next hop is down.
//!
//! The next hop is a server of our own: TLS from the first octet, a login that is always right, no file. It counts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::{Server, Setup};
use crate::load::{self, Outcome, Plan};

/// A next hop that takes everything and keeps nothing.
#[derive(Clone)]
pub struct Sink {
    /// Messages so far.
    count: Arc<AtomicU64>,
    /// Microseconds from `begun` to the first and to the last of them.
    first: Arc<AtomicU64>,
    last: Arc<AtomicU64>,
    begun: Instant,
}

/// Where the messages of this bench go.
const ELSEWHERE: &str = "someone@elsewhere.example";
/// Messages of the queue.
const QUEUE: u64 = 100_000;
/// Octets of a message of the queue.
const SMALL: usize = 1_000;
/// How long the last messages may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

impl Sink {
    /// Serves until the process ends, a thread a connection.
    pub fn serve(listener: TcpListener, certificate: &Path, key: &Path) -> Self {
        let chain =
            CertificateDer::pem_file_iter(certificate).expect("certificate").collect::<Result<_, _>>().expect("certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("key");
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
        let config = Arc::new(builder.with_single_cert(chain, key).expect("key pair"));
        let (count, first, last) = (Arc::default(), Arc::default(), Arc::default());
        let sink = Self { count, first, last, begun: Instant::now() };
        let own = sink.clone();
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (config, sink) = (Arc::clone(&config), own.clone());
                thread::spawn(move || sink.session(tcp, config));
            }
        });
        sink
    }

    fn session(&self, tcp: TcpStream, config: Arc<ServerConfig>) -> std::io::Result<()> {
        tcp.set_nodelay(true)?;
        let connection = ServerConnection::new(config).map_err(std::io::Error::other)?;
        let mut tls = StreamOwned::new(connection, tcp);
        let (mut come, mut piece, mut replies) = (Vec::new(), vec![0; 64 * 1024], b"220 sink ESMTP\r\n".to_vec());
        let mut in_data = false;
        loop {
            tls.write_all(&replies)?;
            tls.flush()?;
            replies.clear();
            match tls.read(&mut piece)? {
                0 => return Ok(()),
                octets => come.extend_from_slice(&piece[..octets]),
            }
            let end = |in_data: bool| if in_data { &b"\r\n.\r\n"[..] } else { b"\r\n" };
            let mut at = 0;
            while let Some(length) = memchr::memmem::find(&come[at..], end(in_data)) {
                let line = &come[at..at + length];
                at += length + end(in_data).len();
                if in_data {
                    in_data = false;
                    self.arrived();
                    replies.extend_from_slice(b"250 2.0.0 taken\r\n");
                    continue;
                }
                let verb: Vec<u8> = line.iter().take(4).map(u8::to_ascii_uppercase).collect();
                in_data = verb == b"DATA";
                replies.extend_from_slice(match &verb[..] {
                    b"EHLO" => b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 100000000\r\n250 AUTH PLAIN\r\n",
                    b"AUTH" => b"235 2.7.0 OK\r\n",
                    b"DATA" => b"354 Go on\r\n",
                    b"QUIT" => b"221 2.0.0 Bye\r\n",
                    _ => b"250 2.0.0 OK\r\n",
                });
            }
            come.drain(..at);
        }
    }

    fn arrived(&self) {
        let now = self.begun.elapsed().as_micros().max(1) as u64;
        let _ = self.first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        self.last.fetch_max(now, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn first(&self) -> Option<Instant> {
        Some(self.first.load(Ordering::Relaxed)).filter(|at| *at > 0).map(|at| self.begun + Duration::from_micros(at))
    }

    fn last(&self) -> Instant {
        self.begun + Duration::from_micros(self.last.load(Ordering::Relaxed))
    }
}

/// For a script: serves a next hop, says the time of the first message in seconds since 1970 as soon as it has come, and the
/// number of messages when standard input ends.
pub fn sink(address: &str, certificate: &Path, key: &Path) {
    let sink = Sink::serve(TcpListener::bind(address).expect("address"), certificate, key);
    let told = sink.clone();
    thread::spawn(move || {
        while told.count() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        let ago = told.first().map_or(Duration::ZERO, |first| first.elapsed());
        let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() - ago;
        println!("first {:.4}", first.as_secs_f64());
    });
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    println!("messages {}", sink.count());
}

/// What went through a server to a next hop: accepted in the time of the plan, and arrived until the last was there.
pub struct Passage {
    accepted: Outcome,
    arrived: u64,
    took: Duration,
}

impl Passage {
    /// For a script: accepted, in seconds, arrived, in seconds.
    pub fn figures(&self) -> String {
        let Self { accepted, arrived, took } = self;
        format!("{} {:.3} {arrived} {:.3}", accepted.messages, accepted.took.as_secs_f64(), took.as_secs_f64())
    }

    fn through(&self) -> f64 {
        self.arrived as f64 / self.took.as_secs_f64()
    }
}

/// Runs a plan against a server that hands on to this sink.
pub fn run(address: SocketAddr, plan: &Plan, sink: &Sink) -> Passage {
    let (before, begun) = (sink.count(), Instant::now());
    let accepted = load::run(address, plan);
    while sink.count() - before < accepted.messages && begun.elapsed() < plan.time + PATIENCE {
        thread::sleep(Duration::from_millis(2));
    }
    let took = if sink.count() > before { sink.last() - begun } else { begun.elapsed() };
    Passage { arrived: sink.count() - before, accepted, took }
}

/// A plan for messages to other domains.
pub fn elsewhere(plan: Plan) -> Plan {
    Plan { to: ELSEWHERE.into(), ..plan }
}

fn setup(port: u16, connections: usize) -> Setup {
    let mut setup = Setup { hash_memory: 19 * 1024, ..Setup::default() };
    setup.limits.push("per_address = 100000".into());
    setup.outgoing = format!(
        "[outgoing]\nvia = \"next\"\nspool = \"{{place}}/spool\"\npostmaster = \"alice@example.org\"\nqueue_max = 1000000\n\
         [outgoing.routes.next]\nurl = \"smtps://localhost:{port}\"\nca = \"{{place}}/cert.pem\"\nconnections = {connections}\n"
    );
    setup
}

/// A port where nothing listens.
fn dead() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Accepting into a Maildir, into the spool with a next hop that is down, and through to one that is up, in turns.
pub fn table() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a port").port();
    let live = setup(port, 16).start();
    let dead = setup(dead(), 16).start();
    let sink = Sink::serve(listener, &live.dir.path().join("cert.pem"), &live.dir.path().join("key.pem"));
    println!(
        "| round | Maildir | spool | ratio | through: accepted | handed on | server CPU a message |\n|---|---|---|---|---|---|---|"
    );
    for round in 1..=5 {
        let plan = || Plan { time: Duration::from_secs(2), ..Plan::default() };
        let (maildir, spool) = in_turns(&dead, 4);
        let before = crate::cpu(&live);
        let passage = run(live.address("submissions"), &elsewhere(plan()), &sink);
        let cpu = (crate::cpu(&live) - before).as_secs_f64() * 1000.0 / passage.arrived.max(1) as f64;
        println!(
            "| {round} | {:.0}/s | {:.0}/s | {:.2} | {:.0}/s | {:.0}/s ({} of {}) | {cpu:.3} ms |",
            maildir.rate(),
            spool.rate(),
            spool.rate() / maildir.rate(),
            passage.accepted.rate(),
            passage.through(),
            passage.arrived,
            passage.accepted.messages,
        );
    }
}

/// The disk is not the same from second to second: both in slices, in turns.
fn in_turns(server: &Server, slices: usize) -> (Outcome, Outcome) {
    let (mut maildir, mut spool) = (Outcome::default(), Outcome::default());
    for _ in 0..slices {
        let plan = || Plan { time: Duration::from_millis(700), ..Plan::default() };
        maildir += load::run(server.address("submissions"), &plan());
        spool += load::run(server.address("submissions"), &elsewhere(plan()));
    }
    (maildir, spool)
}

/// A queue of many messages whose next hop is down: filled, its memory, a start, and a start with the next hop up.
pub fn queue(count: u64) {
    let port = dead();
    let mut server = setup(port, 16).start();
    let plan = |count| elsewhere(Plan { size: SMALL, count, time: Duration::from_secs(600), ..Plan::default() });
    load::run(server.address("submissions"), &plan(2_000));
    settle(&server);
    let before = crate::memory(&server, "Pss:");
    let filled = load::run(server.address("submissions"), &plan(count));
    settle(&server);
    let after = crate::memory(&server, "Pss:");
    println!("accepted {} of {SMALL} octets into the spool: {filled}", filled.messages);
    println!("memory: {:.0} octets a message", (after.saturating_sub(before)) as f64 * 1024.0 / filled.messages as f64);
    for sink in [None, Some(port)] {
        server.signal(Signal::SIGTERM);
        server.wait(Duration::from_secs(30));
        let sink = sink.map(|port| {
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
            Sink::serve(listener, &server.dir.path().join("cert.pem"), &server.dir.path().join("key.pem"))
        });
        let begun = Instant::now();
        server.restart();
        let listening = begun.elapsed();
        println!("from the start to `started`: {:.1} ms", listening.as_secs_f64() * 1000.0);
        let Some(sink) = sink else {
            let line = |server: &Server| status(server);
            while line(&server) < count && begun.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(5));
            }
            println!("to the whole queue being known: {:.2} s", begun.elapsed().as_secs_f64());
            settle(&server);
            println!("memory after that start: {} KiB", crate::memory(&server, "Pss:"));
            continue;
        };
        while sink.count() == 0 && begun.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        let first = sink.first().map_or(f64::NAN, |first| (first - begun).as_secs_f64());
        println!("to the first message sent: {first:.3} s");
        while sink.count() < filled.messages + 2_000 && sink.last().elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(5));
        }
        let took = (sink.last() - begun).as_secs_f64();
        println!("all sent: {} in {took:.1} s, {:.0}/s", sink.count(), sink.count() as f64 / took);
    }
}

/// Messages that the server knows of, as `routes --json` has it.
fn status(server: &Server) -> u64 {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pillarbox"));
    let output = command.arg("-c").arg(&server.config).args(["routes", "--json"]).output().expect("routes");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.split("\"waiting\":").skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    });
    numbers.sum()
}

/// What follows a load: sessions end, records become durable.
fn settle(server: &Server) {
    let mut before = crate::cpu(server);
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = crate::cpu(server);
        if now - before < Duration::from_millis(30) {
            return;
        }
        before = now;
    }
}

/// The queue of the usual size.
pub fn usual_queue() {
    queue(QUEUE);
}
