//! Couriers against a next hop of the tests' own, which plays its side of a transcript: TLS, passwords, lines that are cut.

mod common;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::PATIENCE;
use common::leaf::{Authority, Leaf};
use pillarbox::config::outgoing::{DkimMode, Route, RouteUrl, TlsMin};
use pillarbox::net::stop::Stop;
use pillarbox::relay::courier::{Courier, Unreachable};
use pillarbox::relay::line::Timeouts;
use pillarbox::relay::route::Hop;
use pillarbox::smtp::address::{Address, ForwardPath, ReversePath};
use pillarbox::smtp::client::{Failure, Fault, Finished, Message, Outcome, Unreached};
use pillarbox::smtp::command::Recipient;
use pillarbox::smtp::event::Envelope;
use pillarbox::smtp::remote::Stage;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

/// An authority, a certificate, a password, and a next hop that plays a script for each connection.
struct World {
    dir: TempDir,
    address: SocketAddr,
    hop: Option<JoinHandle<Vec<String>>>,
    implicit: bool,
    stop: Arc<Stop>,
    /// Whatever is held ends when this is dropped.
    release: Option<Sender<()>>,
}

impl World {
    fn new(implicit: bool, leaf: Leaf, scripts: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        let password = dir.path().join("password");
        fs::write(&password, "secret\n").unwrap();
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
        let config = authority.server(leaf);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let scripts: Vec<String> = scripts.iter().map(|script| (*script).to_owned()).collect();
        let (release, held) = channel();
        let stop = Arc::<Stop>::default();
        let stopper = Arc::clone(&stop);
        let hop = thread::spawn(move || {
            let play = |script: String| {
                let (tcp, _) = listener.accept().unwrap();
                tcp.set_read_timeout(Some(PATIENCE)).unwrap();
                NextHop { tcp: Transport::Plain(tcp), config: Arc::clone(&config), stop: Arc::clone(&stopper) }
                    .play(&script, implicit, &held)
            };
            scripts.into_iter().map(play).collect()
        });
        Self { dir, address, hop: Some(hop), implicit, stop, release: Some(release) }
    }

    fn route(&self) -> Route {
        Route {
            url: RouteUrl { implicit_tls: self.implicit, host: "localhost".into(), port: self.address.port() },
            login: Some("alice".into()),
            password_file: Some(self.password()),
            connections: 1,
            rate: None,
            message_size: None,
            helo: Some("me.example".into()),
            source: Vec::new(),
            ca: Some(self.dir.path().join("ca.pem")),
            tls_min: TlsMin::V12,
            dkim: DkimMode::Off,
            then: None,
        }
    }

    fn password(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    fn connect(&self) -> Result<Courier, Unreachable> {
        Courier::connect(&Hop::smarthost(&self.route(), "unused.example").unwrap(), &self.stop)
    }

    /// With a route without a login.
    fn connect_without_login(&self, timeouts: Timeouts) -> Result<Courier, Unreachable> {
        let mut hop = Hop::smarthost(&Route { login: None, password_file: None, ..self.route() }, "unused.example").unwrap();
        hop.timeouts = timeouts;
        Courier::connect(&hop, &self.stop)
    }

    /// What the next hop has to say of its scripts: nothing, if they were followed.
    fn ends_well(&mut self) {
        self.release.take();
        let wrong = self.hop.take().unwrap().join().unwrap();
        assert!(wrong.iter().all(String::is_empty), "{}", wrong.join("\n"));
    }
}

/// The server's side of one connection.
struct NextHop {
    tcp: Transport,
    config: Arc<ServerConfig>,
    stop: Arc<Stop>,
}

enum Transport {
    Gone,
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl NextHop {
    /// `S: ` says a line, neighbours in one write; `C: ` wants a line; `~ tls`, `~ content N` wants N lines and a dot, `~ gone`
    /// wants the end of the connection, `~ some N` reads N octets of content, `~ hold` reads nothing until the test is over,
    /// `~ farewell` wants a close_notify, `~ stop` says the stop, `~ wait` says nothing for a while. At its end the connection is closed.
    fn play(mut self, script: &str, implicit: bool, held: &Receiver<()>) -> String {
        let mut heard = String::new();
        let mut say = String::new();
        if implicit && !self.secure() {
            return String::new();
        }
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()).chain(["~ end"]) {
            let (kind, rest) = line.split_at(2);
            if kind != "S:" && !say.is_empty() {
                self.write(std::mem::take(&mut say).as_bytes());
            }
            let fault = match kind {
                "S:" => {
                    say.push_str(rest.trim_start());
                    say.push_str("\r\n");
                    None
                }
                "C:" => {
                    let got = self.line();
                    heard.push_str(&format!("{got:?}\n"));
                    (got.as_deref() != Some(rest.trim_start())).then(|| format!("{rest} was wanted"))
                }
                _ => match rest.split_once(' ').unwrap_or((rest, "")) {
                    ("tls", _) if !self.secure() => return String::new(),
                    ("tls" | "end", _) => None,
                    ("stop", _) => {
                        self.stop.stop(Instant::now() + 100 * PATIENCE);
                        None
                    }
                    ("wait", _) => {
                        thread::sleep(Duration::from_millis(300));
                        None
                    }
                    ("farewell", _) => {
                        let end = self.stream().read(&mut [0]);
                        (!matches!(end, Ok(0))).then(|| format!("no close_notify: {end:?}"))
                    }
                    ("hold", _) => {
                        let _ = held.recv();
                        None
                    }
                    ("gone", _) => self.line().map(|line| format!("{line} instead of the end")),
                    ("some", octets) => {
                        let mut some = vec![0; octets.parse().unwrap()];
                        self.stream().read_exact(&mut some).err().map(|error| error.to_string())
                    }
                    ("content", lines) => {
                        let got: Vec<String> = std::iter::from_fn(|| self.line()).take_while(|line| line != ".").collect();
                        let fits =
                            got.len().to_string() == lines && got.iter().enumerate().all(|(n, line)| *line == content_line(n));
                        (!fits).then(|| format!("other content: {} lines, {:?}", got.len(), got.first()))
                    }
                    other => panic!("{other:?}"),
                },
            };
            if let Some(fault) = fault {
                return format!("{script}\n{heard}{fault}");
            }
        }
        String::new()
    }

    fn stream(&mut self) -> &mut dyn ReadWrite {
        match &mut self.tcp {
            Transport::Gone => panic!(),
            Transport::Plain(tcp) => tcp,
            Transport::Tls(tls) => tls,
        }
    }

    fn write(&mut self, octets: &[u8]) {
        let stream = self.stream();
        let _ = stream.write_all(octets).and_then(|()| stream.flush());
    }

    /// A line without its end; `None` if the connection has ended.
    fn line(&mut self) -> Option<String> {
        let (mut line, mut octet) = (Vec::new(), [0]);
        while self.stream().read(&mut octet).is_ok_and(|octets| octets == 1) {
            line.push(octet[0]);
            if line.ends_with(b"\r\n") {
                line.truncate(line.len() - 2);
                return Some(String::from_utf8(line).unwrap());
            }
        }
        None
    }

    /// False if the client does not want to.
    fn secure(&mut self) -> bool {
        let Transport::Plain(tcp) = std::mem::replace(&mut self.tcp, Transport::Gone) else { panic!() };
        let mut tls = Box::new(StreamOwned::new(ServerConnection::new(Arc::clone(&self.config)).unwrap(), tcp));
        while tls.conn.is_handshaking() {
            if tls.conn.complete_io(&mut tls.sock).is_err() {
                return false;
            }
        }
        self.tcp = Transport::Tls(tls);
        true
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A line of content on the wire; each seventh begins with a dot.
fn content_line(number: usize) -> String {
    if number % 7 == 3 { format!("..line {number}") } else { format!("line {number}") }
}

/// The same as it is stored.
fn content(lines: usize) -> Vec<u8> {
    (0..lines).map(|n| content_line(n).replace("..", ".") + "\n").collect::<String>().into_bytes()
}

fn message(content: &[u8]) -> Message {
    let to = |text: &str| Recipient::plain(ForwardPath::Mailbox(Address::parse(text).unwrap()));
    let envelope = Envelope {
        reverse_path: ReversePath::Mailbox(Address::parse("a@me.example").unwrap()),
        recipients: vec![to("b@there.example"), to("c@there.example")],
        body: None,
        utf8: false,
        ret: None,
        envid: None,
    };
    Message { envelope, size: content.len() as u64, auth: None, plain: false }
}

/// Sends a message of some lines; and how often it was asked before the dot.
fn send(courier: &mut Courier, lines: usize) -> (Finished, usize) {
    let content = content(lines);
    let mut asked = 0;
    let finished = courier.send(message(&content), &mut &content[..], &mut || {
        asked += 1;
        Ok(())
    });
    (finished, asked)
}

fn failure(result: Result<Courier, Unreachable>) -> Failure {
    result.unwrap_err().last().unwrap().clone()
}

fn shown(finished: &Finished) -> Vec<String> {
    let show = |outcome: &Outcome| match outcome {
        Outcome::Sent(reply) => format!("sent {reply}"),
        Outcome::Refused { stage, reply } => format!("refused {} {reply}", stage.name()),
        Outcome::Lost { stage, after_dot, fault } => format!("lost {} {after_dot} {}", stage.name(), fault.reason()),
        other => format!("{other:?}"),
    };
    finished.outcomes.iter().map(show).collect()
}

const OPENING: &str = "
    S: 220 there.example
    C: EHLO me.example
    S: 250-there.example
    S: 250-AUTH PLAIN
    S: 250 PIPELINING
";
const LOGIN: &str = "
    C: AUTH PLAIN AGFsaWNlAHNlY3JldA==
    S: 235 2.7.0 ok
";
const ENVELOPE: &str = "
    C: MAIL FROM:<a@me.example>
    C: RCPT TO:<b@there.example>
    C: RCPT TO:<c@there.example>
    C: DATA
    S: 250 2.1.0 ok
    S: 250 2.1.5 ok
    S: 550 5.1.1 unknown
    S: 354 go
";

fn after_login(rest: &str) -> String {
    [OPENING, LOGIN, rest].concat()
}

fn without_login(rest: &str) -> String {
    [OPENING, rest].concat()
}

#[test]
fn two_messages_by_implicit_tls() {
    let twice = "~ content 1\nS: 250 2.0.0 one";
    let script = after_login(&[ENVELOPE, twice, ENVELOPE, "~ content 100000\nS: 250 2.0.0 two\nC: QUIT\n~ farewell"].concat());
    let mut world = World::new(true, Leaf::Good, &[&script]);
    let mut courier = world.connect().unwrap();
    assert_eq!((courier.peer(), courier.tls().unwrap().version), (world.address, "TLSv1.3"));
    for (lines, text) in [(1, "one"), (100_000, "two")] {
        let (finished, asked) = send(&mut courier, lines);
        assert_eq!(shown(&finished), [format!("sent 250 2.0.0 {text}"), "refused rcpt 550 5.1.1 unknown".into()]);
        assert!(asked == 1 && finished.reusable && courier.is_usable());
    }
    courier.quit();
    world.ends_well();
}

#[test]
fn starttls() {
    let script = [
        "S: 220 there.example\nC: EHLO me.example\nS: 250-there.example\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\n~ tls\n",
        &after_login(&[ENVELOPE, "~ content 3\nS: 250 ok\nC: QUIT\n~ gone"].concat()).replacen("S: 220 there.example\n", "", 1),
    ]
    .concat();
    let mut world = World::new(false, Leaf::Good, &[&script]);
    let mut courier = world.connect().unwrap();
    assert_eq!(shown(&send(&mut courier, 3).0)[0], "sent 250 ok");
    courier.quit();
    world.ends_well();
}

#[test]
fn certificates_that_are_not_trusted() {
    for leaf in [Leaf::Expired, Leaf::ForAnotherName, Leaf::OfAnotherAuthority] {
        for implicit in [true, false] {
            let clear =
                "S: 220 there.example\nC: EHLO me.example\nS: 250-there.example\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\n~ tls";
            let mut world = World::new(implicit, leaf, &[if implicit { "~ gone" } else { clear }]);
            let failure = failure(world.connect());
            assert!(matches!(failure, Failure { stage: Stage::Tls, fault: Fault::Certificate(_) }), "{failure:?}");
            world.ends_well();
        }
    }
}

#[test]
fn the_oldest_version_of_tls() {
    let mut world = World::new(true, Leaf::Old, &[&after_login("C: QUIT\n~ gone"), "~ gone"]);
    let courier = world.connect().unwrap();
    assert_eq!(courier.tls().unwrap().version, "TLSv1.2");
    courier.quit();
    let hop = Hop::smarthost(&Route { tls_min: TlsMin::V13, ..world.route() }, "unused.example").unwrap();
    let failure = failure(Courier::connect(&hop, &world.stop));
    assert!(matches!(failure, Failure { stage: Stage::Tls, fault: Fault::Tls(_) }), "{failure:?}");
    world.ends_well();
}

/// Nothing of the login is said in the clear.
#[test]
fn starttls_is_stripped() {
    let script = "S: 220 there.example\nC: EHLO me.example\nS: 250-there.example\nS: 250 AUTH PLAIN\nC: QUIT\n~ gone";
    let mut world = World::new(false, Leaf::Good, &[script]);
    assert_eq!(failure(world.connect()), Failure { stage: Stage::StartTls, fault: Fault::NoStartTls });
    world.ends_well();
}

#[test]
fn octets_before_the_handshake() {
    let script = "S: 220 there.example\nC: EHLO me.example\nS: 250-there.example\nS: 250 STARTTLS\nC: STARTTLS\n\
                  S: 220 go\nS: 250-there.example\nS: 250 AUTH PLAIN\n~ gone";
    let mut world = World::new(false, Leaf::Good, &[script]);
    assert_eq!(failure(world.connect()).fault, Fault::EarlyOctets);
    world.ends_well();
}

/// A second address would count as a second wrong password.
#[test]
fn a_wrong_password_is_tried_once() {
    let script = [OPENING, "C: AUTH PLAIN AGFsaWNlAHNlY3JldA==\nS: 535 5.7.8 wrong\nC: QUIT\n~ gone"].concat();
    let mut world = World::new(true, Leaf::Good, &[&script]);
    let hop = Hop::smarthost(&world.route(), "unused.example").unwrap();
    let unreachable = Courier::connect_to(&hop, &[world.address, world.address], &world.stop).unwrap_err();
    assert_eq!(unreachable.attempts.len(), 1);
    let Failure { stage: Stage::Auth, fault: Fault::Refused(reply) } = &unreachable.attempts[0].1 else { panic!() };
    assert_eq!(reply.to_string(), "535 5.7.8 wrong");
    world.ends_well();
}

/// The password is read when it is used; without it nothing is connected to.
#[test]
fn the_password_file() {
    let mut world = World::new(true, Leaf::Good, &[&after_login("C: QUIT\n~ gone")]);
    fs::set_permissions(world.password(), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = failure(world.connect());
    assert!(matches!(refused, Failure { stage: Stage::Auth, fault: Fault::Password(_) }), "{refused:?}");
    assert!(!refused.to_string().contains("secret"));
    fs::set_permissions(world.password(), fs::Permissions::from_mode(0o640)).unwrap();
    world.connect().unwrap().quit();
    world.ends_well();
}

#[test]
fn the_next_address_after_one_that_fails() {
    let mut world = World::new(true, Leaf::Good, &["S: 554 no service\nC: QUIT\n~ gone", &after_login("C: QUIT\n~ gone")]);
    let hop = Hop::smarthost(&world.route(), "unused.example").unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let courier = Courier::connect_to(&hop, &[silent, world.address, world.address], &world.stop).unwrap();
    courier.quit();
    let unreachable = Courier::connect_to(&hop, &[silent], &world.stop).unwrap_err();
    let [(Some(address), Failure { stage: Stage::Connect, fault: Fault::Io(_) })] = &unreachable.attempts[..] else {
        panic!("{unreachable:?}")
    };
    assert_eq!(*address, silent);
    // A source of the other family reaches none of them.
    let mut from_six = hop;
    from_six.source = vec!["::1".parse().unwrap()];
    let failure = failure(Courier::connect_to(&from_six, &[world.address], &world.stop));
    assert!(matches!(failure.fault, Fault::Dns(_)), "{failure:?}");
    world.ends_well();
}

#[test]
fn cut_at_each_stage() {
    let whole = "~ content 3\n";
    let rows: [(&str, [&str; 2], usize); 8] = [
        ("C: MAIL FROM:<a@me.example>\nS: 421 4.3.0 bye", ["refused mail 421 4.3.0 bye"; 2], 0),
        ("C: MAIL FROM:<a@me.example>", ["lost mail false closed"; 2], 0),
        (
            "C: MAIL FROM:<a@me.example>\nC: RCPT TO:<b@there.example>\nC: RCPT TO:<c@there.example>\nC: DATA\n\
             S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 421 4.3.0 bye",
            ["refused data 421 4.3.0 bye"; 2],
            0,
        ),
        ("ENVELOPE S: 421 4.3.0 bye", ["refused dot 421 4.3.0 bye", "refused rcpt 550 5.1.1 unknown"], 1),
        ("ENVELOPE", ["lost dot true closed", "refused rcpt 550 5.1.1 unknown"], 1),
        ("ENVELOPE S: nonsense", ["lost dot true garbage", "refused rcpt 550 5.1.1 unknown"], 1),
        ("ENVELOPE S: 451 4.3.0 disk\nC: QUIT", ["refused dot 451 4.3.0 disk", "refused rcpt 550 5.1.1 unknown"], 1),
        ("ENVELOPE S: 250 ok\nC: QUIT", ["sent 250 ok", "refused rcpt 550 5.1.1 unknown"], 1),
    ];
    for (rest, want, wanted_asked) in rows {
        let rest = rest.replace("ENVELOPE ", &[ENVELOPE, whole].concat()).replace("ENVELOPE", &[ENVELOPE, whole].concat());
        let mut world = World::new(true, Leaf::Good, &[&after_login(&rest)]);
        let mut courier = world.connect().unwrap();
        let (finished, asked) = send(&mut courier, 3);
        assert_eq!((shown(&finished), asked), (want.map(str::to_owned).to_vec(), wanted_asked), "{rest}");
        assert_eq!(finished.reusable, rest.contains("QUIT"), "{rest}");
        courier.quit();
        world.ends_well();
    }
}

/// A server that closes an idle connection has refused nothing.
#[test]
fn a_connection_that_ends_between_transactions() {
    let script = after_login(&[ENVELOPE, "~ content 3\nS: 250 ok\nS: 421 4.4.2 idle too long"].concat());
    let mut world = World::new(true, Leaf::Good, &[&script]);
    let mut courier = world.connect().unwrap();
    assert_eq!(shown(&send(&mut courier, 3).0)[0], "sent 250 ok");
    world.ends_well();
    let (finished, asked) = send(&mut courier, 3);
    assert_eq!((finished.outcomes, asked), (vec![Outcome::NotTried(Unreached::Stale); 2], 0));
    assert!(!courier.is_usable());
}

/// A hundred transactions or five minutes a connection.
#[test]
fn a_connection_wears_out() {
    let one = [ENVELOPE, "~ content 3\nS: 250 ok\n"].concat();
    let mut world = World::new(true, Leaf::Good, &[&without_login(&[&one.repeat(100), "~ gone"].concat())]);
    let long = Timeouts::default();
    assert_eq!(long.reuse.as_secs(), 300);
    let mut courier = world.connect_without_login(long).unwrap();
    for _ in 0..100 {
        assert_eq!(shown(&send(&mut courier, 3).0)[0], "sent 250 ok");
    }
    assert_eq!(send(&mut courier, 3).0.outcomes, vec![Outcome::NotTried(Unreached::Stale); 2]);
    drop(courier);
    world.ends_well();

    let mut world = World::new(true, Leaf::Good, &[&without_login(&[&one, "~ gone"].concat())]);
    let mut courier = world.connect_without_login(Timeouts { reuse: Duration::ZERO, ..long }).unwrap();
    assert_eq!(shown(&send(&mut courier, 3).0)[0], "sent 250 ok");
    assert!(!courier.is_usable());
    drop(courier);
    world.ends_well();
}

/// Without the caller's leave there is no dot, and so no message; the same if the content cannot be sent as it is.
#[test]
fn no_dot_without_leave() {
    let refuse: fn() -> io::Result<()> = || Err(io::Error::other("no space for the record"));
    let agree: fn() -> io::Result<()> = || Ok(());
    let cr = b"a\rb\n".to_vec();
    for (content, before_dot) in [(content(1), refuse), (cr, agree)] {
        let mut world = World::new(true, Leaf::Good, &[&after_login(&[ENVELOPE, "~ gone"].concat())]);
        let mut courier = world.connect().unwrap();
        let finished = courier.send(message(&content), &mut &content[..], &mut { before_dot });
        assert_eq!(shown(&finished), ["lost dot false local", "refused rcpt 550 5.1.1 unknown"]);
        world.ends_well();
    }
}

/// A refusal in the middle of a large message is heard, and the dot is not said.
#[test]
fn refused_within_the_content() {
    let script = after_login(&[ENVELOPE, "~ some 100000\nS: 552 5.3.4 too large"].concat());
    let mut world = World::new(true, Leaf::Good, &[&script]);
    let mut courier = world.connect().unwrap();
    // The content waits for the refusal, as a slow line would.
    let mut content = Gate { lines: content(200_000).into(), open_at: 1_000_000, hop: &mut world };
    let finished = courier.send(message(b"x"), &mut content, &mut || panic!("no dot is due"));
    assert_eq!(shown(&finished), ["refused dot 552 5.3.4 too large", "refused rcpt 550 5.1.1 unknown"]);
}

/// The same where the server reads no more, and the write waits in vain.
#[test]
fn refused_while_nothing_is_read() {
    let script = without_login(&[ENVELOPE, "~ some 10\n~ wait\nS: 552 5.3.4 too large\n~ hold"].concat());
    let mut world = World::new(true, Leaf::Good, &[&script]);
    let timeouts = Timeouts { content: Duration::from_secs(1), ..Timeouts::default() };
    let mut courier = world.connect_without_login(timeouts).unwrap();
    let finished = courier.send(message(b"x"), &mut &content(2_000_000)[..], &mut || panic!("no dot is due"));
    assert_eq!(shown(&finished)[0], "refused dot 552 5.3.4 too large");
    world.ends_well();
}

/// A reply that nothing asked for would be taken for the answer to the next MAIL.
#[test]
fn one_reply_too_many() {
    let script = after_login(&[ENVELOPE, "~ content 3\nS: 250 ok\nS: 250 ok\n~ gone"].concat());
    let mut world = World::new(true, Leaf::Good, &[&script]);
    let mut courier = world.connect().unwrap();
    assert_eq!(shown(&send(&mut courier, 3).0)[0], "sent 250 ok");
    assert_eq!(send(&mut courier, 3).0.outcomes, vec![Outcome::NotTried(Unreached::Stale); 2]);
    drop(courier);
    world.ends_well();
}

/// Content that stops after some octets until the next hop has ended.
struct Gate<'a> {
    lines: std::collections::VecDeque<u8>,
    open_at: usize,
    hop: &'a mut World,
}

impl Read for Gate<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.lines.len() < self.open_at && self.hop.hop.is_some() {
            self.hop.ends_well();
        }
        self.lines.read(buffer)
    }
}

#[test]
fn each_wait_has_its_own_end() {
    let short = Duration::from_millis(200);
    let long = Timeouts::default();
    assert_eq!([long.connect, long.command, long.data_end].map(|limit| limit.as_secs()), [30, 300, 600]);

    let mut world = World::new(true, Leaf::Good, &["~ hold"]);
    let late = failure(world.connect_without_login(Timeouts { command: short, ..long }));
    assert!(matches!(late, Failure { stage: Stage::Greeting | Stage::Tls, fault: Fault::Timeout }), "{late:?}");
    world.hop.take();

    let script = without_login(&[ENVELOPE, "~ content 3\n~ gone"].concat());
    let mut world = World::new(true, Leaf::Good, &[&script]);
    let mut courier = world.connect_without_login(Timeouts { data_end: short, ..long }).unwrap();
    assert_eq!(shown(&send(&mut courier, 3).0)[0], "lost dot true timeout");
    drop(courier);
    world.ends_well();

    let script = without_login(&[ENVELOPE, "~ some 10\n~ hold"].concat());
    let mut world = World::new(true, Leaf::Good, &[&script]);
    let mut courier = world.connect_without_login(Timeouts { content: short, ..long }).unwrap();
    let finished = courier.send(message(b"x"), &mut &content(2_000_000)[..], &mut || panic!("no dot is due"));
    assert_eq!(shown(&finished)[0], "lost dot false timeout");
    world.ends_well();
}

#[test]
fn nothing_begins_after_a_stop() {
    let mut world = World::new(true, Leaf::Good, &[&after_login("C: QUIT\n~ gone")]);
    let mut courier = world.connect().unwrap();
    world.stop.stop(Instant::now() + PATIENCE);
    let (finished, asked) = send(&mut courier, 3);
    assert_eq!((finished.outcomes, asked), (vec![Outcome::NotTried(Unreached::Stopped); 2], 0));
    let hop = Hop::smarthost(&world.route(), "unused.example").unwrap();
    let unreachable = Courier::connect_to(&hop, &[world.address, world.address], &world.stop).unwrap_err();
    assert_eq!((unreachable.attempts.len(), &unreachable.attempts[0].1.fault), (1, &Fault::Stopped));
    courier.quit();
    world.ends_well();
}

/// What waits for a reply to a command ends at once; what is in its content may end.
#[test]
fn a_stop_within_a_transaction() {
    let envelope = "C: MAIL FROM:<a@me.example>\nC: RCPT TO:<b@there.example>\nC: RCPT TO:<c@there.example>\nC: DATA\n\
                    ~ stop\n~ hold";
    let mut world = World::new(true, Leaf::Good, &[&without_login(envelope)]);
    let mut courier = world.connect_without_login(Timeouts { command: PATIENCE, ..Timeouts::default() }).unwrap();
    assert_eq!(shown(&send(&mut courier, 3).0), ["lost mail false stopped"; 2]);
    drop(courier);
    world.ends_well();

    for (later, want) in [(PATIENCE, "sent 250 ok"), (Duration::ZERO, "lost dot true stopped")] {
        let mut world = World::new(true, Leaf::Good, &[&after_login(&[ENVELOPE, "~ content 3\nS: 250 ok"].concat())]);
        let mut courier = world.connect().unwrap();
        let content = content(3);
        let stop = Arc::clone(&world.stop);
        let finished = courier.send(message(&content), &mut &content[..], &mut || {
            stop.stop(Instant::now() + later);
            Ok(())
        });
        assert_eq!(shown(&finished)[0], want);
        drop(courier);
        if later == PATIENCE {
            world.ends_well();
        }
        world.hop.take();
    }
}
