//! A message to each of 200 domains at servers that are slow, by MX: Pillarbox beside Postfix, with 20 connections each.
//!
//! The same machine of servers, the same DNS, the same client; from the first 250 to the last message delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::mx::{MailServer, StartTls};
use crate::common::network::Network;
use crate::common::{Client, Logged, Server};
use crate::direct::{hosts, mx, setup};
use crate::names::{NameServer, Record};

const DOMAINS: usize = 200;
/// Connections at once.
const CONNECTIONS: usize = 20;
/// Logins that send in turns: one alone never has more than half of the connections, so that others need not wait for it.
const LOGINS: usize = 20;
/// How late each reply of the servers is.
const DELAY: Duration = Duration::from_millis(50);
/// How long connections may be kept after the last message, by either.
const IDLE: Duration = Duration::from_secs(7);
const LIMIT: Duration = Duration::from_secs(120);
/// Where Postfix takes mail.
const POSTFIX: &str = "127.0.0.1:2525";

/// What came of a run.
struct Run {
    seconds: f64,
    /// Messages, and those among them that are the second to a recipient.
    arrived: usize,
    twice: usize,
    /// Messages under way at once, at most.
    most: usize,
}

/// In turns, so many times: a line of figures each.
pub fn table(root: &str, rounds: usize) {
    let root = root.to_owned();
    Network::run(move |network| {
        (0..DOMAINS).for_each(|number| network.add(&address(number)));
        let names = NameServer::start_at(53, zone());
        let _postfix = postfix(root.as_ref());
        let mut own = setup(&names, &format!("connections = {CONNECTIONS}\n"));
        own.users = (0..LOGINS).map(|number| (login(number), "secret".to_owned())).collect();
        own.users.push(("bob@example.org".to_owned(), "secret".to_owned()));
        let server = own.start();
        let begun = Instant::now();
        while std::net::TcpStream::connect(POSTFIX).is_err() {
            assert!(begun.elapsed() < LIMIT, "no Postfix");
            thread::sleep(Duration::from_millis(50));
        }
        let sink = MailServer::on(network.listen("0.0.0.0", 25), StartTls::None);
        sink.rule(|_, _| {
            thread::sleep(DELAY);
            None
        });
        println!(
            "| round | domains at | server | seconds | arrived | twice | under way at once |\n|---|---|---|---|---|---|---|"
        );
        let mut all: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
        for round in 1..=rounds {
            for (what, letter) in [("200 servers", 'd'), ("one server", 's')] {
                for (name, logins) in [("Pillarbox, one login", 1), ("Pillarbox, 20 logins", LOGINS), ("Postfix", 0)] {
                    let Run { seconds, arrived, twice, most } = run(&sink, &mut clients(logins, &server), letter);
                    println!("| {round} | {what} | {name} | {seconds:.2} | {arrived} of {DOMAINS} | {twice} | {most} |");
                    all.entry((what, name)).or_default().push(seconds);
                }
            }
        }
        println!("\n| domains at | server | seconds, median | of Postfix's |\n|---|---|---|---|");
        all.values_mut().for_each(|seconds| seconds.sort_by(f64::total_cmp));
        for ((what, name), seconds) in &all {
            let of = |seconds: &Vec<f64>| seconds[seconds.len() / 2];
            println!("| {what} | {name} | {:.2} | {:.2} |", of(seconds), of(seconds) / of(&all[&(*what, "Postfix")]));
        }
    });
}

/// The address of the server of a domain.
fn address(number: usize) -> String {
    format!("203.0.113.{}", 30 + number)
}

/// Domains `d0.example` and so on with a server each, and `s0.example` and so on with one server.
fn zone() -> Vec<(&'static str, crate::names::Behaviour)> {
    let a = |number: usize| hosts(vec![Record::A(address(number).parse().expect("address"))]);
    let name = |text: String| -> &'static str { text.leak() };
    (0..DOMAINS)
        .flat_map(|number| {
            let host = name(format!("mx{number}.example"));
            [
                (name(format!("d{number}.example")), mx(&[(10, host)])),
                (name(format!("s{number}.example")), mx(&[(10, "mx0.example")])),
                (host, a(number)),
            ]
        })
        .collect()
}

fn login(number: usize) -> String {
    format!("user{number}@example.org")
}

/// Clients that may send to other domains, with their addresses: of so many logins, or one of Postfix.
fn clients(logins: usize, server: &Server) -> Vec<(String, Client)> {
    if logins > 0 {
        return (0..logins).map(|number| (login(number), server.login(&login(number)))).collect();
    }
    let mut client = Client::connect(POSTFIX.parse().expect("address"), Path::new("/dev/null"));
    client.expect("220");
    client.say("EHLO bench.example", "250");
    vec![(login(0), client)]
}

fn run(sink: &MailServer, clients: &mut [(String, Client)], letter: char) -> Run {
    sink.forget();
    let content = [b"Subject: x\r\n\r\n", "Hello again\r\n".repeat(80).as_bytes()].concat();
    let mut first = None;
    let count = clients.len();
    for number in 0..DOMAINS {
        let (from, client) = &mut clients[number % count];
        let content = [format!("From: {from}\r\n").as_bytes(), &content].concat();
        let reply = client.deliver(from, &format!("x@{letter}{number}.example"), &content);
        assert!(reply.as_ref().is_some_and(|reply| reply.starts_with("250")), "{reply:?}");
        first.get_or_insert_with(Instant::now);
    }
    let first = first.expect("messages");
    while sink.taken().len() < DOMAINS && first.elapsed() < LIMIT {
        thread::sleep(Duration::from_millis(5));
    }
    let seconds = first.elapsed().as_secs_f64();
    clients.iter_mut().for_each(|(_, client)| drop(client.say("QUIT", "221")));
    // What comes twice comes later.
    thread::sleep(IDLE);
    let taken = sink.taken();
    let to: BTreeSet<String> = taken.iter().flat_map(|taken| taken.rcpt.clone()).collect();
    Run { seconds, arrived: to.len(), twice: taken.len() - to.len(), most: sink.most() }
}

/// Postfix in its root, with a directory of its own at /mnt and the name server of this machine; as many processes as the
/// other has connections, and otherwise as it comes.
fn postfix(root: &Path) -> (Logged, TempDir) {
    let queue = tempfile::tempdir().expect("a directory");
    let (root, place) = (root.display(), queue.path().display());
    let script = format!(
        "mount -t tmpfs none {root}/mnt && mount -t proc proc {root}/proc && mount --bind /dev {root}/dev && \
         echo nameserver 127.0.0.1 >{root}/mnt/resolv.conf && mount --bind {root}/mnt/resolv.conf {root}/etc/resolv.conf && \
         mkdir {root}/mnt/q && mount --bind {place} {root}/mnt/q && chmod 755 {root}/mnt/q && chroot {root} sh -ec '{START}' && exit"
    );
    let mut command = Command::new("unshare");
    (Logged::spawn(command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", &script])), queue)
}

/// The queue is on the disk.
const START: &str = "cp -r /etc/postfix /mnt/etc; cd /mnt/etc; mkdir /mnt/d; chown postfix /mnt/d; \
    sed -i \"/[[:space:]]inet[[:space:]]/d\" master.cf; echo \"127.0.0.1:2525 inet n - n - - smtpd\" >>master.cf; \
    postconf -c /mnt/etc -e queue_directory=/mnt/q data_directory=/mnt/d maillog_file=/mnt/maillog maillog_file_prefixes=/mnt \
    inet_interfaces=127.0.0.1,203.0.113.1 inet_protocols=ipv4 mydestination= relayhost= myhostname=mx.example.org \
    mynetworks=127.0.0.0/8 smtpd_relay_restrictions=permit_mynetworks,reject smtpd_recipient_restrictions= \
    smtpd_tls_security_level=none smtpd_tls_wrappermode=no smtpd_sasl_auth_enable=no smtp_tls_security_level=none \
    smtp_tls_wrappermode=no smtp_connection_cache_destinations= smtp_host_lookup=dns virtual_mailbox_domains= \
    default_process_limit=20; postconf -c /mnt/etc -F \"*/*/chroot=n\"; postconf -c /mnt/etc -F smtp/unix/process_limit=20; \
    exec postfix -c /mnt/etc start-fg";
