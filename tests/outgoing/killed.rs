//! kill -9 at random moments under load, of the server and of its next hop: nothing that got 250 is lost, and nothing
//! arrives twice but what `maybe-twice` names.

use std::collections::{HashMap, HashSet};
use std::net::TcpStream;
use std::sync::Mutex;

use super::*;
use common::{free_port, hop::Said, rounds};
use nix::sys::signal::Signal;

/// Numbers that look random and are the same in each run.
struct Moments(u64);

impl Moments {
    fn sleep(&mut self, most: u64) {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        thread::sleep(Duration::from_millis((self.0 >> 33) % most));
    }
}

/// Sends until the server is gone; the ids of what got 250.
fn load(server: &Server, number: usize, accepted: &Mutex<Vec<String>>) {
    let Ok(tcp) = TcpStream::connect(server.address("submissions")) else { return };
    let mut client = Client::over(tcp, &server.dir.path().join("cert.pem"));
    let auth = format!("AUTH PLAIN {}\r\n", common::base64(b"\0alice@example.org\0secret"));
    if client.tls().is_err() || client.reply().is_none() {
        return;
    }
    for line in ["EHLO x.example\r\n", &auth] {
        if client.send(line.as_bytes()).is_err() || client.reply().is_none() {
            return;
        }
    }
    for n in 0..1000 {
        let body = format!("{number}-{n} 0123456789\r\n").repeat(1 + n % 5 * 200);
        let content = format!("From: alice@example.org\r\nSubject: {}\r\n\r\n{}", body.len(), &body[..body.len() - 2]);
        match client.deliver(ALICE, "carol@there.example", content.as_bytes()) {
            Some(reply) if reply.starts_with("250") => {
                accepted.lock().unwrap().push(reply.rsplit(' ').next().unwrap().to_owned())
            }
            _ => return,
        }
    }
}

/// The queue ids that `maybe-twice` names in the log of this run.
fn doubts(server: &Server, named: &mut HashSet<String>) {
    for line in lines(server, "maybe-twice") {
        named.insert(line.split(" id=").nth(1).unwrap().split(' ').next().unwrap().to_owned());
    }
}

/// The id in a message, of which a whole one has as many octets as it says.
fn id_of(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content).replace("\r\n", "\n");
    let id = text.split("Message-ID: <").nth(1).unwrap_or_else(|| panic!("{text}")).split('@').next().unwrap().to_owned();
    let octets: usize = text.split("Subject: ").nth(1).unwrap().split('\n').next().unwrap().parse().unwrap();
    let body = text.split_once("\n\n").unwrap().1;
    assert_eq!(body.replace('\n', "\r\n").len(), octets, "{id} is not whole");
    id
}

/// Starts it again and again, with all that waits made due, until nothing waits.
fn send_the_rest(server: &mut Server, named: &mut HashSet<String>, arrived: impl Fn() -> usize) {
    for _ in 0..30 {
        let begun = Instant::now();
        let (mut last, mut since) = (arrived(), Instant::now());
        while !queued(server).is_empty() && begun.elapsed() < PATIENCE && since.elapsed() < Duration::from_millis(700) {
            thread::sleep(Duration::from_millis(10));
            if arrived() != last {
                (last, since) = (arrived(), Instant::now());
            }
        }
        let empty = queued(server).is_empty();
        server.signal(Signal::SIGTERM);
        server.wait(PATIENCE);
        doubts(server, named);
        if empty {
            return;
        }
        queued(server).iter().for_each(|id| due_now(server, id));
        server.restart();
    }
    panic!("it does not come to an end: {:?}\n{}", queued(server), server.log_text());
}

fn compare(accepted: &[String], arrived: &[String], named: &HashSet<String>, round: u64) {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for id in arrived {
        *counts.entry(id).or_default() += 1;
    }
    let lost: Vec<_> = accepted.iter().filter(|id| !counts.contains_key(id.as_str())).collect();
    assert!(lost.is_empty(), "round {round}: {} of {} are lost: {lost:?}", lost.len(), accepted.len());
    let twice: Vec<_> = counts.iter().filter(|(id, count)| **count > 1 && !named.contains(**id)).collect();
    assert!(twice.is_empty(), "round {round}: twice and not named: {twice:?}");
    println!(
        "round {round}: {} got 250, {} arrived, {} of them more than once, {} named",
        accepted.len(),
        arrived.len(),
        counts.values().filter(|count| **count > 1).count(),
        named.len()
    );
}

/// The server is killed, again and again; its next hop records every message before it answers.
#[test]
fn the_server() {
    rounds(3, |round| {
        let hop = Hop::new();
        // A reply takes a moment, so that there is something between the dot and it.
        hop.rule(|asked| {
            if asked.stage == "." {
                thread::sleep(Duration::from_millis(asked.nth as u64 % 4));
            }
            Said::Usual
        });
        let mut server = setup(&hop, "").start();
        let (accepted, mut named, mut moments) = (Mutex::default(), HashSet::new(), Moments(round));
        for _ in 0..3 {
            thread::scope(|scope| {
                let (server, accepted) = (&server, &accepted);
                (0..4).for_each(|n| drop(scope.spawn(move || load(server, n, accepted))));
                thread::sleep(Duration::from_millis(40));
                moments.sleep(250);
                server.signal(Signal::SIGKILL);
            });
            server.wait(PATIENCE);
            doubts(&server, &mut named);
            server.restart();
        }
        send_the_rest(&mut server, &mut named, || hop.taken_count());
        let arrived: Vec<String> = hop.taken().iter().map(|taken| id_of(&taken.content)).collect();
        compare(&accepted.into_inner().unwrap(), &arrived, &named, round);
    });
}

/// Both are killed: the next hop is another server of this kind.
#[test]
fn the_next_hop_too() {
    rounds(2, |round| {
        let mut next = Setup {
            domains: vec!["there.example".into()],
            users: vec![("carol@there.example".into(), "secret".into()), ("relay@next.example".into(), "secret".into())],
            aliases: vec!["postmaster: carol".into()],
            senders: vec!["\"relay@next.example\" = [\"*\"]".into()],
            services: vec!["submissions"],
            port: free_port(),
            ..Setup::default()
        }
        .start();
        let certificate = tempfile::tempdir().unwrap();
        fs::set_permissions(certificate.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let ca = certificate.path().join("ca.pem");
        fs::copy(next.dir.path().join("cert.pem"), &ca).unwrap();
        let hop = Hop::new();
        let mut setup = setup(&hop, "");
        let own = format!("ca = \"{}\"", ca.display());
        let route: Vec<&str> =
            setup.outgoing.lines().map(|line| if line.starts_with("ca = ") { own.as_str() } else { line }).collect();
        setup.outgoing = route.join("\n").replace(&hop.address.port().to_string(), &next.setup.port.to_string());
        let mut server = setup.start();
        let (accepted, mut named, mut moments) = (Mutex::default(), HashSet::new(), Moments(round + 77));
        for kill_both in [false, true, false] {
            thread::scope(|scope| {
                let (server, accepted) = (&server, &accepted);
                (0..4).for_each(|n| drop(scope.spawn(move || load(server, n, accepted))));
                thread::sleep(Duration::from_millis(60));
                moments.sleep(250);
                next.signal(Signal::SIGKILL);
                moments.sleep(40);
                if kill_both {
                    server.signal(Signal::SIGKILL);
                } else {
                    thread::sleep(Duration::from_millis(100));
                    server.signal(Signal::SIGTERM);
                }
            });
            next.wait(PATIENCE);
            server.wait(PATIENCE);
            doubts(&server, &mut named);
            queued(&server).iter().for_each(|id| due_now(&server, id));
            next.restart();
            server.restart();
        }
        send_the_rest(&mut server, &mut named, || next.new_mail("carol@there.example").len());
        let mail = next.new_mail("carol@there.example");
        let arrived: Vec<String> = mail.iter().map(|file| id_of(&fs::read(file).unwrap())).collect();
        compare(&accepted.into_inner().unwrap(), &arrived, &named, round);
    });
}
