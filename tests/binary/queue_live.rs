//! What an operator does with the outgoing queue of a running server, through its control socket: each verb on a message
//! that is being sent at that moment, and on one that waits.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, Server, Setup, require_root};
use pillarbox::queue::listing::{MessageRow, RouteRow};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A next hop that takes a message to its final dot, says so, and gives the reply that it is told to give.
struct NextHop {
    address: SocketAddr,
    listener: Option<TcpListener>,
    dots: Receiver<()>,
    replies: Sender<String>,
    inside: Option<(Sender<()>, Receiver<String>)>,
}

impl NextHop {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ((dot, dots), (replies, reply)) = (channel(), channel());
        Self { address, listener: Some(listener), dots, replies, inside: Some((dot, reply)) }
    }

    fn setup(&self) -> Setup {
        let outgoing = format!(
            "[outgoing]\nvia = \"next\"\nspool = \"{{place}}/spool\"\n[outgoing.routes.next]\nurl = \"smtps://localhost:{}\"\n\
             ca = \"{{place}}/cert.pem\"\n",
            self.address.port()
        );
        Setup { outgoing, ..Setup::default() }
    }

    /// Serves with the certificate that is in this directory.
    fn serve(&mut self, dir: &Path) {
        let config = tls(dir);
        let listener = self.listener.take().unwrap();
        let (dot, reply) = self.inside.take().unwrap();
        let reply = Arc::new(Mutex::new(reply));
        thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                let (config, dot, reply) = (Arc::clone(&config), dot.clone(), Arc::clone(&reply));
                thread::spawn(move || drop(session(tcp, config, &dot, &reply)));
            }
        });
    }

    fn wait_for_dot(&self) {
        self.dots.recv_timeout(PATIENCE).expect("no message came to its final dot");
    }

    fn is_quiet(&self) {
        let more = self.dots.recv_timeout(Duration::from_millis(700));
        assert_eq!(more, Err(RecvTimeoutError::Timeout), "a message was sent");
    }

    fn reply(&self, text: &str) {
        self.replies.send(text.to_owned()).unwrap();
    }
}

fn tls(dir: &Path) -> Arc<ServerConfig> {
    let read = |name| BufReader::new(File::open(dir.join(name)).unwrap());
    let certificates = rustls_pemfile::certs(&mut read("cert.pem")).collect::<Result<Vec<_>, _>>().unwrap();
    let key = rustls_pemfile::private_key(&mut read("key.pem")).unwrap().unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    Arc::new(config)
}

fn session(tcp: TcpStream, config: Arc<ServerConfig>, dot: &Sender<()>, reply: &Mutex<Receiver<String>>) -> io::Result<()> {
    tcp.set_read_timeout(Some(PATIENCE))?;
    let stream = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
    let mut stream = BufReader::new(stream);
    let say = |stream: &mut BufReader<StreamOwned<ServerConnection, TcpStream>>, text: &str| {
        stream.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
        stream.get_mut().flush()
    };
    say(&mut stream, "220 next.example")?;
    let (mut line, mut content) = (String::new(), false);
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match (content, line.trim_end().split([' ', ':']).next().unwrap_or_default()) {
            (true, ".") => {
                content = false;
                let _ = dot.send(());
                let text = reply.lock().unwrap().recv_timeout(PATIENCE).unwrap_or_else(|_| "451 nothing said".into());
                say(&mut stream, &text)?;
            }
            (true, _) => {}
            (false, "DATA") => {
                content = true;
                say(&mut stream, "354 go")?;
            }
            (false, "QUIT") => return say(&mut stream, "221 bye"),
            (false, _) => say(&mut stream, "250 ok")?,
        }
    }
}

/// A server, a next hop, and what an operator types.
struct Place {
    server: Server,
    hop: NextHop,
}

impl Place {
    fn new() -> Self {
        let mut hop = NextHop::new();
        let server = hop.setup().start();
        hop.serve(server.dir.path());
        Self { server, hop }
    }

    /// Hands in a message and waits until it is at its final dot.
    fn being_sent(&self) -> String {
        let id = hand_in(&self.server);
        self.hop.wait_for_dot();
        id
    }

    fn row(&self, id: &str) -> Option<MessageRow> {
        rows(&self.server).into_iter().find(|row| row.id == id)
    }

    /// Waits until the message is like that.
    fn wait_for(&self, id: &str, what: &str, is_so: impl Fn(Option<&MessageRow>) -> bool) {
        let begun = Instant::now();
        loop {
            let row = self.row(id);
            if is_so(row.as_ref()) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not {what}: {row:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_until_gone(&self, id: &str) {
        let is_there = |part| self.server.dir.path().join("spool").join(part).join(id).exists();
        self.wait_for(id, "gone", |row| row.is_none() && !is_there("queue") && !is_there("held"));
    }

    fn wait_until_it_waits(&self, id: &str) {
        self.wait_for(id, "waiting", |row| row.is_some_and(|row| row.to[0].code == Some(451) && row.held.is_none()));
    }

    fn says(&self, words: &[&str]) -> String {
        let (code, stdout, stderr) = run(&self.server, words);
        assert_eq!((code, stdout.as_str()), (Some(0), ""), "{words:?}: {stderr}");
        stderr.trim_end().replace("pillarbox: ", "")
    }
}

fn hand_in(server: &Server) -> String {
    let mut client = server.login("alice@example.org");
    let content = b"From: alice@example.org\r\nSubject: x\r\n\r\nbody\r\n";
    let reply = client.deliver("alice@example.org", "x@elsewhere.example", content).unwrap();
    reply.rsplit(' ').next().unwrap().trim().to_owned()
}

fn rows(server: &Server) -> Vec<MessageRow> {
    let (code, stdout, stderr) = run(server, &["queue", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn run(server: &Server, words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pillarbox"))
        .arg("-c")
        .arg(&server.config)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const LATER: &str = "applied when the attempt that is under way is finished";

#[test]
fn shown_while_it_is_sent() {
    let place = Place::new();
    let id = place.being_sent();
    let row = place.row(&id).unwrap();
    assert_eq!((row.to[0].text.as_deref(), row.to[0].attempts, row.maybe_twice), (Some("is being sent"), 1, false));
    let (_, stdout, _) = run(&place.server, &["queue"]);
    assert!(stdout.contains("alice@example.org  x@elsewhere.example  now  is being sent"), "{stdout}");
    let (_, stdout, _) = run(&place.server, &["queue", "show", &id]);
    assert!(stdout.contains("sent to localhost[127.0.0.1], TLS 1.3") && stdout.contains("final dot"), "{stdout}");
    let (_, stdout, _) = run(&place.server, &["queue", "explain", &id]);
    assert!(stdout.contains("It is being sent at this moment."), "{stdout}");
    place.hop.reply("250 2.0.0 ok");
    place.wait_until_gone(&id);
    assert_eq!(run(&place.server, &["queue"]), (Some(0), "the queue is empty\n".into(), String::new()));
    let (code, _, stderr) = run(&place.server, &["queue", "show", &id]);
    assert!(code == Some(66) && stderr.contains(&format!("no message {id} in the queue")), "{stderr}");
}

#[test]
fn held_while_it_is_sent() {
    let place = Place::new();
    let id = place.being_sent();
    assert_eq!(place.says(&["queue", "hold", &id]), format!("{id}: hold: {LATER}"));
    let (_, stdout, _) = run(&place.server, &["queue", "explain", &id]);
    assert!(stdout.contains("What you asked for is applied when the attempt"), "{stdout}");
    place.hop.reply("451 4.7.1 later");
    place.wait_for(&id, "held", |row| row.is_some_and(|row| row.held.as_deref() == Some("operator")));
    place.wait_for(&id, "in held/", |_| place.server.dir.path().join("spool/held").join(&id).exists());
    place.server.wait_for_log(&["held", &id]);
    assert_eq!(place.says(&["queue", "hold", &id]), format!("{id}: is held"));
    assert_eq!(run(&place.server, &["queue", "try", &id]).0, Some(66));
    place.hop.is_quiet();
    // Let go, it is sent at once.
    assert_eq!(place.says(&["queue", "release", &id]), format!("{id}: released"));
    place.hop.wait_for_dot();
    place.hop.reply("250 2.0.0 ok");
    place.wait_until_gone(&id);
}

#[test]
fn tried_while_it_is_sent() {
    let place = Place::new();
    let id = place.being_sent();
    assert_eq!(place.says(&["queue", "try", &id]), format!("{id}: try: {LATER}"));
    place.hop.reply("451 4.7.1 later");
    // Without the wait that comes after a 451.
    place.hop.wait_for_dot();
    place.hop.reply("250 2.0.0 ok");
    place.wait_until_gone(&id);
}

#[test]
fn dropped_while_it_is_sent() {
    let place = Place::new();
    let id = place.being_sent();
    assert_eq!(place.says(&["queue", "drop", &id]), format!("{id}: drop: {LATER}"));
    assert!(place.row(&id).is_some(), "not before its attempt is finished");
    place.hop.reply("451 4.7.1 later");
    place.wait_until_gone(&id);
    place.server.wait_for_log(&["dropped", &id]);
    place.hop.is_quiet();
    assert!(place.server.new_mail("alice@example.org").is_empty(), "no report of what the operator dropped");
}

#[test]
fn returned_while_it_is_sent() {
    let place = Place::new();
    let id = place.being_sent();
    assert_eq!(place.says(&["queue", "return", &id]), format!("{id}: return: {LATER}"));
    place.hop.reply("451 4.7.1 later");
    place.wait_until_gone(&id);
    let reports = place.server.new_mail("alice@example.org");
    let text = fs::read_to_string(&reports[0]).unwrap();
    assert!(reports.len() == 1 && text.contains("multipart/report") && text.contains("x@elsewhere.example"), "{text}");
    place.hop.is_quiet();
}

/// One that is not held has nothing to be released from, then as now.
#[test]
fn released_while_it_is_sent() {
    let place = Place::new();
    let id = place.being_sent();
    assert_eq!(place.says(&["queue", "release", &id]), format!("{id}: release: {LATER}"));
    place.hop.reply("451 4.7.1 later");
    place.wait_until_it_waits(&id);
    place.hop.is_quiet();
    // A hold before it, and both are done in their order.
    place.says(&["queue", "try", &id]);
    place.hop.wait_for_dot();
    place.says(&["queue", "hold", &id]);
    place.says(&["queue", "release", &id]);
    place.hop.reply("451 4.7.1 later");
    place.hop.wait_for_dot();
    place.hop.reply("250 2.0.0 ok");
    place.wait_until_gone(&id);
}

/// What was asked for is no matter of the message that the next hop took.
#[test]
fn verbs_on_what_is_sent_meanwhile() {
    for verb in ["hold", "try", "return", "drop", "release"] {
        let place = Place::new();
        let id = place.being_sent();
        assert_eq!(place.says(&["queue", verb, &id]), format!("{id}: {verb}: {LATER}"));
        place.hop.reply("250 2.0.0 ok");
        place.wait_until_gone(&id);
        place.hop.is_quiet();
        assert!(place.server.new_mail("alice@example.org").is_empty(), "{verb}: it was sent, and that is no failure");
    }
}

#[test]
fn verbs_on_what_waits() {
    let place = Place::new();
    let waiting = || {
        let id = place.being_sent();
        place.hop.reply("451 4.7.1 later");
        place.wait_until_it_waits(&id);
        id
    };
    let id = waiting();
    let (_, stdout, _) = run(&place.server, &["queue"]);
    assert!(stdout.contains("in 6m  451 4.7.1 later") || stdout.contains("in 7m  451 4.7.1 later"), "{stdout}");
    let (_, stdout, _) = run(&place.server, &["queue", "explain", &id]);
    let words = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("The server said: \"451 4.7.1 later\"") && words.contains("It was tried once."), "{stdout}");
    assert_eq!(place.says(&["queue", "try", "--login", "alice@example.org"]), format!("{id}: tried now"));
    place.hop.wait_for_dot();
    place.hop.reply("451 4.7.1 later");
    place.wait_until_it_waits(&id);
    assert_eq!(place.says(&["queue", "hold", &id]), format!("{id}: held"));
    assert_eq!(place.row(&id).unwrap().held.as_deref(), Some("operator"));
    assert_eq!(place.says(&["queue", "return", "--route", "next"]), format!("{id}: returned to the sender"));
    place.wait_until_gone(&id);
    assert_eq!(place.server.new_mail("alice@example.org").len(), 1);
    let id = waiting();
    assert_eq!(place.says(&["queue", "drop", "--all", "--yes"]), format!("{id}: dropped"));
    place.wait_until_gone(&id);
    assert_eq!(place.server.new_mail("alice@example.org").len(), 1);
    assert_eq!(run(&place.server, &["queue", "drop", "--to-domain", "elsewhere.example"]).0, Some(66));
}

#[test]
fn a_route_that_rests_and_is_tried() {
    let mut hop = NextHop::new();
    let setup = hop.setup();
    // Nothing listens yet.
    drop(hop.listener.take());
    let server = setup.start();
    let id = hand_in(&server);
    server.wait_for_log(&["route", "state=resting"]);
    let (code, stdout, _) = run(&server, &["routes"]);
    assert!(code == Some(0) && stdout.starts_with("next  resting  1 waits        connect, since "), "{stdout}");
    let (_, stdout, _) = run(&server, &["routes", "--json"]);
    let row: RouteRow = serde_json::from_str(&stdout).unwrap();
    assert_eq!((row.name.as_str(), row.state.as_str(), row.why.as_deref(), row.waiting), ("next", "resting", Some("connect"), 1));
    assert!(row.since.is_some() && row.next.is_some());
    assert_eq!(rows(&server)[0].to[0].text.as_deref(), Some("route rests: connect"));
    let (_, stdout, _) = run(&server, &["queue", "explain", &id]);
    let words = stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("no fault of the message") && words.contains("`pillarbox routes try next` tries it now"), "{stdout}");
    let (code, _, stderr) = run(&server, &["routes", "try", "nxet"]);
    assert_eq!(
        (code, stderr.as_str()),
        (Some(66), "pillarbox: no route `nxet`, the nearest known is `next`; see `pillarbox routes`\n")
    );
    hop.listener = Some(TcpListener::bind(hop.address).unwrap());
    hop.serve(server.dir.path());
    assert_eq!(run(&server, &["routes", "try", "next"]), (Some(0), String::new(), "pillarbox: next: is tried now\n".into()));
    hop.wait_for_dot();
    hop.reply("250 2.0.0 ok");
    server.wait_for_log(&["route", "state=well"]);
    let (_, stdout, _) = run(&server, &["routes"]);
    assert!(stdout.starts_with("next  well "), "{stdout}");
    let (code, _, stderr) = run(&server, &["routes", "try", "next"]);
    assert!(code == Some(0) && stderr.contains("does not rest"), "{stderr}");
}

/// What was asked for without a server is done by the next one.
#[test]
fn a_return_without_a_server_is_done_at_the_start() {
    let place = Place::new();
    let Place { mut server, hop } = place;
    let id = hand_in(&server);
    let other = hand_in(&server);
    for _ in 0..2 {
        hop.wait_for_dot();
        hop.reply("451 4.7.1 later");
    }
    let begun = Instant::now();
    while rows(&server).iter().any(|row| row.to[0].code.is_none()) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", rows(&server));
        thread::sleep(Duration::from_millis(20));
    }
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(server.wait(PATIENCE), Some(0));
    let (code, _, stderr) = run(&server, &["queue", "return", &id]);
    assert_eq!((code, stderr), (Some(0), format!("pillarbox: {id}: returned to the sender when the server starts\n")));
    // Taken back by a hold.
    run(&server, &["queue", "return", &other]);
    run(&server, &["queue", "hold", &other]);
    server.restart();
    let begun = Instant::now();
    while rows(&server).iter().map(|row| row.id.as_str()).ne([other.as_str()]) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", rows(&server));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(rows(&server)[0].held.as_deref(), Some("operator"));
    let begun = Instant::now();
    while server.new_mail("alice@example.org").len() != 1 {
        assert!(begun.elapsed() < PATIENCE, "no report");
        thread::sleep(Duration::from_millis(20));
    }
    let text = fs::read_to_string(&server.new_mail("alice@example.org")[0]).unwrap();
    assert!(text.contains(&id), "{text}");
    hop.is_quiet();
}

/// A power cut between the record of a hold and the move: the record counts, for the listing and for the server.
#[test]
fn a_hold_that_was_interrupted() {
    let Place { mut server, hop } = Place::new();
    let id = hand_in(&server);
    hop.wait_for_dot();
    hop.reply("451 4.7.1 later");
    let begun = Instant::now();
    while rows(&server)[0].to[0].code.is_none() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", rows(&server));
        thread::sleep(Duration::from_millis(20));
    }
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(server.wait(PATIENCE), Some(0));
    run(&server, &["queue", "hold", &id]);
    let part = |part| server.dir.path().join("spool").join(part).join(&id);
    fs::rename(part("held"), part("queue")).unwrap();
    assert_eq!(rows(&server)[0].held.as_deref(), Some("operator"));
    File::open(part("queue")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    server.restart();
    hop.is_quiet();
    assert_eq!(rows(&server)[0].held.as_deref(), Some("operator"));
    assert_eq!(run(&server, &["queue", "release", &id]).0, Some(0));
    hop.wait_for_dot();
    hop.reply("250 2.0.0 ok");
}

/// Another user is not answered.
#[test]
fn who_may_ask() {
    if !require_root() {
        return;
    }
    let place = Place::new();
    let config = fs::read_to_string(&place.server.config).unwrap().replace("user = \"nobody\"", "user = \"daemon\"");
    let other = place.server.dir.path().join("other.toml");
    fs::write(&other, config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_pillarbox"))
        .arg("-c")
        .arg(&other)
        .args(["queue"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(77) && stderr.contains("only root and the user `daemon` may do that"), "{stderr}");
}
