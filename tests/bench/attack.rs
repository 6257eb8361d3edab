//! Attacks, with a good client among them: what it feels is what counts.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::attack::{Stage, attack};
use crate::common::{Client, Server, base64, from};
use crate::{memory, percentile};

fn auth(login: &str, password: &str) -> String {
    format!("AUTH PLAIN {}\r\n", base64(format!("\0{login}\0{password}").as_bytes()))
}

/// Connects, logs in, and sends a message if there is one; `None` if any of it fails.
fn good(server: &Server, source: [u8; 4], message: bool) -> Option<Duration> {
    good_on("submissions", server, source, message)
}

fn good_on(service: &str, server: &Server, source: [u8; 4], message: bool) -> Option<Duration> {
    let begun = Instant::now();
    let mut client = Client::over(from(source, server.address(service)).ok()?, &server.dir.path().join("cert.pem"));
    if service == "submission" {
        client.reply().filter(|reply| reply.starts_with("220"))?;
        client.send(b"EHLO good.example\r\n").ok()?;
        client.reply()?;
        client.send(b"STARTTLS\r\n").ok()?;
    } else {
        client.tls().ok()?;
    }
    client.reply().filter(|reply| reply.starts_with("220"))?;
    if service == "submission" {
        client.tls().ok()?;
    }
    client.send(b"EHLO good.example\r\n").ok()?;
    client.reply()?;
    client.send(auth("alice@example.org", "secret").as_bytes()).ok()?;
    client.reply().filter(|reply| reply.starts_with("235"))?;
    if message {
        client
            .deliver("alice@example.org", "bob@example.org", b"Subject: good\r\n\r\nx")
            .filter(|reply| reply.starts_with("250"))?;
    }
    let took = begun.elapsed();
    let _ = client.send(b"QUIT\r\n");
    Some(took)
}

/// The same on port 25, without a login.
fn good_on_25(server: &Server, source: [u8; 4]) -> Option<Duration> {
    let begun = Instant::now();
    let mut client = Client::over(from(source, server.address("smtp")).ok()?, &server.dir.path().join("cert.pem"));
    // Content at the data rate is spared for 30 seconds, and a connection waits for a minute.
    client.tcp().set_read_timeout(Some(Duration::from_secs(70))).unwrap();
    client.reply().filter(|reply| reply.starts_with("220"))?;
    client.send(b"EHLO good.example\r\n").ok()?;
    client.reply()?;
    client.deliver("", "bob@example.org", b"Subject: good\r\n\r\nx").filter(|reply| reply.starts_with("250"))?;
    let took = begun.elapsed();
    let _ = client.send(b"QUIT\r\n");
    Some(took)
}

/// 256 workers as they are by default; at every stage, from 10 networks with 32 connections each or from 500, which are held or opened again as
/// soon as they are closed. 25 good sessions on 465, 25 on 587 and 25 on port 25, each from a network that was never seen: the first
/// try counts. On port 25 all 25 come within a second, elsewhere one after the other.
pub fn stages(only: Option<&str>) {
    println!(
        "| stage | networks | connections | 465: first tries, p50, longest | 587: first tries, p50, longest | 25: first tries, p50, longest |\n|---|---|---|---|---|---|"
    );
    for stage in Stage::ALL {
        if only.is_some_and(|only| format!("{stage:?}") != only) {
            continue;
        }
        for (networks, each) in [(10u16, 32u16), (500, 1)] {
            for again in [false, true] {
                let server = crate::server(&["per_address = 32"]);
                let (server, stop) = (&server, &AtomicBool::new(false));
                let rows = thread::scope(|scope| {
                    for n in 0..networks * each {
                        let [high, low] = (n % networks).to_be_bytes();
                        let run = move || {
                            attack(server, [127, 10, high, low], stage, stop);
                            while again && !stop.load(Ordering::Relaxed) {
                                thread::sleep(Duration::from_millis(2));
                                attack(server, [127, 10, high, low], stage, stop);
                            }
                        };
                        thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, run).unwrap();
                    }
                    thread::sleep(Duration::from_secs(4));
                    let tries = |on: u8, together: bool, session: &(dyn Fn([u8; 4]) -> Option<Duration> + Sync)| {
                        let mut times: Vec<Duration> = if together {
                            thread::scope(|scope| {
                                let session = |n: u8| {
                                    thread::sleep(Duration::from_millis(40) * n.into());
                                    session([127, on, 0, n])
                                };
                                let threads: Vec<_> = (0..25u8).map(|n| scope.spawn(move || session(n))).collect();
                                threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
                            })
                        } else {
                            (0..25u8).filter_map(|n| session([127, on, 0, n])).collect()
                        };
                        times.sort_unstable();
                        let (p50, most) = (percentile(&times, 50), times.last().copied().unwrap_or_default());
                        format!("{} of 25, {p50:.1?}, {most:.1?}", times.len())
                    };
                    let rows = [
                        tries(20, false, &|source| good_on("submissions", server, source, true)),
                        tries(22, false, &|source| good_on("submission", server, source, true)),
                        tries(21, true, &|source| good_on_25(server, source)),
                    ];
                    stop.store(true, Ordering::Relaxed);
                    rows
                });
                let kind = if again { "opened again" } else { "held" };
                println!("| {stage:?} | {networks} | {kind} | {} |", rows.join(" | "));
            }
        }
    }
}

/// 256 workers; 2,000 stalled connections from 100 addresses, each opened again as soon as it is closed; a good client
/// that logs in and sends a message every second.
pub fn stalled() {
    const ROUNDS: usize = 40;
    let server = crate::server(&["per_address = 32"]);
    let stop = AtomicBool::new(false);
    let (opened, attack) = (AtomicU64::new(0), server.address("smtp"));
    let mut times = Vec::new();
    let mut refused = 0;
    thread::scope(|scope| {
        for n in 0..100u8 {
            let (stop, opened, server) = (&stop, &opened, &server);
            scope.spawn(move || {
                let mut held: Vec<TcpStream> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    while held.len() < 20 {
                        let stages: [(SocketAddr, &[u8]); 4] = [
                            (attack, b""),
                            (attack, b"EHLO stal"),
                            (server.address("submission"), b"EHLO stall.example\r\n"),
                            (server.address("submissions"), b"\x16\x03\x01\x02\x00\x01"),
                        ];
                        let (to, first) = stages[held.len() % 4];
                        let Ok(mut tcp) = from([127, 1, 0, n], to) else { break };
                        let _ = tcp.write_all(first);
                        let _ = tcp.set_nonblocking(true);
                        opened.fetch_add(1, Ordering::Relaxed);
                        held.push(tcp);
                    }
                    thread::sleep(Duration::from_millis(50));
                    held.retain(|tcp| {
                        let mut octets = [0; 256];
                        loop {
                            match std::io::Read::read(&mut &*tcp, &mut octets) {
                                Ok(0) => return false,
                                Ok(_) => {}
                                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
                            }
                        }
                    });
                }
            });
        }
        thread::sleep(Duration::from_secs(3));
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            match good(&server, [127, 2, 0, 1], true) {
                Some(took) => times.push(took),
                None => refused += 1,
            }
            thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    times.sort_unstable();
    println!(
        "stalled: {} connections opened against 256 workers; good client: {} of {ROUNDS} messages accepted, {refused} refused, p50 {:?}, p99 {:?}, PSS {} KiB",
        opened.into_inner(),
        times.len(),
        percentile(&times, 50),
        percentile(&times, 99),
        memory(&server, "Pss:"),
    );
}

/// 200 connections that guess without a pause, from 200 addresses; a good client logs in meanwhile.
pub fn guessing() {
    // The brake on guessing is taken off: what is shown is the budget.
    let server = crate::server(&["auth_failures = 1000", "errors = 1000"]);
    let (stop, guesses) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut times, mut refused, mut peak) = (Vec::new(), 0, 0);
    thread::scope(|scope| {
        for n in 0..200u8 {
            let (stop, guesses, server) = (&stop, &guesses, &server);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(tcp) = from([127, 3, 0, n], server.address("submissions")) else { return };
                    let mut client = Client::over(tcp, &server.dir.path().join("cert.pem"));
                    if client.tls().is_err() || client.reply().is_none() {
                        continue;
                    }
                    let _ = client.send(b"EHLO guess.example\r\n");
                    let _ = client.reply();
                    while !stop.load(Ordering::Relaxed) {
                        let guess = guesses.fetch_add(1, Ordering::Relaxed);
                        if client.send(auth("alice@example.org", &format!("guess{guess}")).as_bytes()).is_err()
                            || client.reply().is_none()
                        {
                            break;
                        }
                        client.transcript.clear();
                    }
                }
            });
        }
        thread::sleep(Duration::from_secs(1));
        for n in 0..20u8 {
            // Each from an address of its own, so that no password is known again by its session; the digest is
            // forgotten by writing the users file anew.
            let users = server.dir.path().join("users");
            let text = std::fs::read_to_string(&users).unwrap();
            std::fs::write(&users, text + "# touched\n").unwrap();
            thread::sleep(Duration::from_millis(2200));
            match good(&server, [127, 4, 0, n], false) {
                Some(took) => times.push(took),
                None => refused += 1,
            }
            peak = peak.max(memory(&server, "Rss:"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    times.sort_unstable();
    println!(
        "guessing: {} guesses; good client: {} logins, {refused} refused, p50 {:?}, max {:?}; RSS {} MiB at most",
        guesses.into_inner(),
        times.len(),
        percentile(&times, 50),
        times.last().copied().unwrap_or_default(),
        peak / 1024
    );
}

/// The time that an unknown login takes against that of a wrong password, interleaved; Welch's t of the two.
pub fn timing() {
    const RUNS: usize = 300;
    let server = crate::server(&["auth_failures = 1000", "errors = 1000"]);
    let mut client = server.connect("submissions");
    client.tls().unwrap();
    client.expect("220");
    client.say("EHLO timing.example", "250");
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..2 * RUNS {
        let login = ["alice@example.org", "nobody@example.org"][n % 2];
        let begun = Instant::now();
        client.send(auth(login, &format!("guess{n}")).as_bytes()).unwrap();
        client.expect("535");
        times[n % 2].push(begun.elapsed().as_secs_f64() * 1000.0);
        client.transcript.clear();
    }
    let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
    let variance = |times: &[f64]| times.iter().map(|time| (time - mean(times)).powi(2)).sum::<f64>() / (times.len() - 1) as f64;
    let [wrong, unknown] = &times;
    let t = (mean(wrong) - mean(unknown)) / ((variance(wrong) + variance(unknown)) / RUNS as f64).sqrt();
    println!(
        "timing: {RUNS} each: wrong password {:.2} ms (deviation {:.2}), unknown login {:.2} ms (deviation {:.2}); t = {t:.2}: {}",
        mean(wrong),
        variance(wrong).sqrt(),
        mean(unknown),
        variance(unknown).sqrt(),
        if t.abs() < 3.3 { "not told apart (p > 0.001)" } else { "TOLD APART" }
    );
}

/// 2,000 sessions that have logged in and are held; what each takes, and how soon a new client is served.
pub fn held() {
    const HELD: usize = 2000;
    let server = crate::server(&["workers = 2800", "idle = \"10m\""]);
    let at_rest = memory(&server, "Pss:");
    let _clients = hold(&server, HELD);
    // The memory of the one hash is given back by now.
    thread::sleep(Duration::from_secs(4));
    let held = memory(&server, "Pss:");
    let mut times: Vec<Duration> = (0..50).filter_map(|_| good(&server, [127, 6, 0, 1], true)).collect();
    times.sort_unstable();
    println!(
        "held: {} KiB at rest, {} KiB with {HELD} sessions: {:.1} KiB each; a new client with a message: p50 {:?}, p99 {:?}",
        at_rest,
        held,
        (held - at_rest) as f64 / HELD as f64,
        percentile(&times, 50),
        percentile(&times, 99)
    );
    let small = crate::server(&[]);
    thread::sleep(Duration::from_millis(300));
    println!("at rest with 256 workers: PSS {} KiB, RSS {} KiB", memory(&small, "Pss:"), memory(&small, "Rss:"));
}

/// So many sessions that have logged in.
fn hold(server: &Server, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for n in 0..count {
        let tcp = from([127, 5, (n / 200) as u8, (n % 200) as u8], server.address("submissions")).unwrap();
        let mut client = Client::over(tcp, &server.dir.path().join("cert.pem"));
        client.tls().unwrap();
        client.expect("220");
        client.say("EHLO held.example", "250");
        client.send(auth("alice@example.org", "secret").as_bytes()).unwrap();
        client.expect("235");
        clients.push(client);
    }
    clients
}

/// What stays after 2,000 such sessions have ended.
pub fn after() {
    let server = crate::server(&["workers = 2800", "idle = \"10m\""]);
    let at_rest = memory(&server, "Pss:");
    let clients = hold(&server, 2000);
    thread::sleep(Duration::from_secs(4));
    let held = memory(&server, "Pss:");
    drop(clients);
    for seconds in [5, 55, 15] {
        thread::sleep(Duration::from_secs(seconds));
        let (pss, rss) = (memory(&server, "Pss:"), memory(&server, "Rss:"));
        println!("after: PSS {at_rest} KiB at rest, {held} KiB held; {seconds} s later {pss} KiB, RSS {rss} KiB");
    }
}
