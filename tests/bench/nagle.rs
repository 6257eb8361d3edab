//! A client that writes content in small pieces with Nagle's algorithm on (RFC 896), as many mail programs do: it holds back each
//! small segment until the one before is acknowledged, so an acknowledgement that is delayed costs it 40 ms.

use std::fmt;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Client, base64};
use crate::percentile;

/// Octets of a message, and of what is written at once.
const SIZE: usize = 10_000;
const PIECE: usize = 100;
const LOGIN: &str = "alice@example.org";

/// How long messages take from DATA's reply on.
#[derive(Default)]
pub struct Outcome {
    pieces: Vec<Duration>,
    whole: Vec<Duration>,
    handshakes: Vec<Duration>,
}

impl fmt::Display for Outcome {
    /// Messages, and medians in milliseconds: in pieces with Nagle, in one write without, and from connect to the login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = |times: &[Duration]| percentile(times, 50).as_secs_f64() * 1000.0;
        write!(f, "{} {:.2} {:.2} {:.2}", self.pieces.len(), median(&self.pieces), median(&self.whole), median(&self.handshakes))
    }
}

/// Against a server with TLS from the first octet, or on port 25 in the clear if there is no password.
pub fn run(address: SocketAddr, certificate: &Path, password: Option<&str>, starttls: bool, time: Duration) -> Outcome {
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let connected = Instant::now();
        let mut client = Client::over(TcpStream::connect(address).unwrap(), certificate);
        client.tcp().set_nodelay(false).unwrap();
        if starttls {
            client.expect("220");
            client.say("EHLO nagle.example", "250");
            client.say("STARTTLS", "220");
        }
        if password.is_some() {
            client.tls().unwrap();
        }
        if !starttls {
            client.expect("220");
        }
        client.say("EHLO nagle.example", "250");
        if let Some(password) = password {
            client.say(&format!("AUTH PLAIN {}", base64(format!("\0{LOGIN}\0{password}").as_bytes())), "235");
        }
        outcome.handshakes.push(connected.elapsed());
        for _ in 0..10 {
            outcome.pieces.push(message(&mut client, PIECE));
            outcome.whole.push(message(&mut client, SIZE));
            client.transcript.clear();
        }
        let _ = client.send(b"QUIT\r\n");
    }
    [&mut outcome.pieces, &mut outcome.whole, &mut outcome.handshakes].into_iter().for_each(|times| times.sort_unstable());
    outcome
}

/// Hands in a message in writes of `piece` octets, and the final dot in one of its own.
fn message(client: &mut Client, piece: usize) -> Duration {
    client.tcp().set_nodelay(piece == SIZE).unwrap();
    client.say(&format!("MAIL FROM:<{LOGIN}>"), "250");
    client.say(&format!("RCPT TO:<{LOGIN}>"), "250");
    client.say("DATA", "354");
    let mut content = format!("From: {LOGIN}\r\nSubject: nagle\r\n\r\n").into_bytes();
    while content.len() < SIZE {
        content.extend_from_slice(b"The quick brown fox jumps over the lazy dog, again and again and again.\r\n");
    }
    let begun = Instant::now();
    if piece == SIZE {
        content.extend_from_slice(b".\r\n");
        client.send(&content).unwrap();
    } else {
        content.chunks(piece).for_each(|piece| client.send(piece).unwrap());
        client.send(b".\r\n").unwrap();
    }
    client.expect("250");
    begun.elapsed()
}

/// On all ports of a server of its own.
pub fn table() {
    let server = crate::server(&[]);
    let certificate = server.dir.path().join("cert.pem");
    println!("{SIZE} octets: messages, median in pieces of {PIECE} with Nagle (ms), in one write without, connect to login");
    for (service, password, starttls) in
        [("smtp", None, false), ("submission", Some("secret"), true), ("submissions", Some("secret"), false)]
    {
        println!("{service}: {}", run(server.address(service), &certificate, password, starttls, Duration::from_secs(5)));
    }
}
