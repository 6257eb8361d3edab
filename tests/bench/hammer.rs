//! The load generator: blocking threads and rustls, against a server of its own making or any other by address.
//!
//! `cargo bench --bench hammer -- SCENARIO`; `help` lists them. Figures are printed as they are: compare only what one
//! run on one machine has shown.

mod attack;
mod bare;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/direct.rs"]
mod direct;
mod domains;
mod load;
mod nagle;
#[path = "../common/names.rs"]
mod names;
mod through;

use std::time::Duration;

use common::{Server, Setup};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["disk"] => load::disk_table(),
        ["load"] => load::table(),
        ["disk", directory, writers, size, seconds] => {
            let (writers, size) = (writers.parse().expect("writers"), size.parse().expect("octets"));
            println!("{}", load::disk(directory.as_ref(), writers, size, duration(seconds)).figures());
        }
        ["load", address, login, password, connections, size, seconds, ref each @ ..] => {
            let plan = load::Plan {
                connections: connections.parse().expect("connections"),
                size: size.parse().expect("octets"),
                login: login.into(),
                password: password.into(),
                each: each == ["each"],
                time: duration(seconds),
                ..load::Plan::default()
            };
            println!("{}", load::run(address.parse().expect("address:port"), &plan).figures());
        }
        ["hold", address, login, password, count] => {
            let plan = load::Plan { login: login.into(), password: password.into(), ..load::Plan::default() };
            load::hold(address.parse().expect("address:port"), &plan, count.parse().expect("count"));
        }
        ["bare", address, certificate, key, maildir] => {
            bare::serve(address, certificate.as_ref(), key.as_ref(), maildir.as_ref());
        }
        ["through"] => through::table(),
        ["through", address, login, password, connections, size, seconds, sink, certificate, key] => {
            let plan = through::elsewhere(load::Plan {
                connections: connections.parse().expect("connections"),
                size: size.parse().expect("octets"),
                login: login.into(),
                password: password.into(),
                time: duration(seconds),
                ..load::Plan::default()
            });
            let listener = std::net::TcpListener::bind(sink).expect("address:port");
            let sink = through::Sink::serve(listener, certificate.as_ref(), key.as_ref());
            println!("{}", through::run(address.parse().expect("address:port"), &plan, &sink).figures());
        }
        ["queue"] => through::usual_queue(),
        ["queue", count] => through::queue(count.parse().expect("messages")),
        ["fill", address, login, password, connections, size, count, seconds] => {
            let plan = through::elsewhere(load::Plan {
                connections: connections.parse().expect("connections"),
                size: size.parse().expect("octets"),
                login: login.into(),
                password: password.into(),
                count: count.parse().expect("messages"),
                time: duration(seconds),
                ..load::Plan::default()
            });
            println!("{}", load::run(address.parse().expect("address:port"), &plan).figures());
        }
        ["sink", address, certificate, key] => through::sink(address, certificate.as_ref(), key.as_ref()),
        ["domains", root, rounds] => domains::table(root, rounds.parse().expect("rounds")),
        ["nagle"] => nagle::table(),
        ["nagle", address, certificate, password, seconds] => {
            let address = address.parse().expect("address:port");
            println!("{}", nagle::run(address, certificate.as_ref(), Some(password), false, duration(seconds)));
        }
        ["stages"] => attack::stages(None),
        ["stages", stage] => attack::stages(Some(stage)),
        ["stalled"] => attack::stalled(),
        ["guessing"] => attack::guessing(),
        ["timing"] => attack::timing(),
        ["held"] => attack::held(),
        ["after"] => attack::after(),
        _ => eprintln!(
            "scenarios: load | disk | through | queue [COUNT] | nagle | stages [STAGE] | stalled | guessing | timing | held | after\n\
             nagle ADDRESS CERTIFICATE PASSWORD SECONDS: another server, TLS from the first octet, as alice@example.org, in small writes\n\
             load ADDRESS LOGIN PASSWORD CONNECTIONS SIZE SECONDS [each]: another server, TLS from the first octet\n\
             through ADDRESS LOGIN PASSWORD CONNECTIONS SIZE SECONDS SINK CERTIFICATE KEY: another server, which hands on to address SINK\n\
             fill ADDRESS LOGIN PASSWORD CONNECTIONS SIZE COUNT SECONDS: the same load to another domain, so many messages at most\n\
             domains ROOT ROUNDS: a message to each of 200 domains by MX, beside the Postfix of that root; see tests/bench/domains\n\
             sink ADDRESS CERTIFICATE KEY: a next hop that keeps nothing, until standard input ends\n\
             disk DIRECTORY WRITERS SIZE SECONDS: the same files without a network\n\
             bare ADDRESS CERTIFICATE KEY MAILDIR: a server that does nothing but TLS and the same files\n\
             hold ADDRESS LOGIN PASSWORD COUNT: sessions that are logged in until standard input ends\n\
             `load ADDRESS`, `fill` and `disk DIRECTORY` print messages, seconds, octets, and the CPU milliseconds of this process;\n\
             `through ADDRESS` accepted, seconds, arrived, seconds."
        ),
    }
}

/// A server as an operator would run it: the release binary, hashes of full cost.
fn server(limits: &[&str]) -> Server {
    let mut setup = Setup { hash_memory: 19 * 1024, ..Setup::default() };
    setup.limits = limits.iter().map(|line| (*line).to_owned()).collect();
    if !limits.iter().any(|line| line.starts_with("per_address")) {
        setup.limits.push("per_address = 100000".into());
    }
    setup.start()
}

fn duration(seconds: &str) -> Duration {
    Duration::from_secs_f64(seconds.parse().expect("seconds"))
}

/// A value of /proc/PID/smaps_rollup, in KiB.
fn memory(server: &Server, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// CPU time of the server so far.
fn cpu(server: &Server) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// The value below which so many of a hundred lie.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
