//! A name server of the tests' own: it answers from a table, and behaves as badly as it is told.

#![allow(dead_code, reason = "each test uses its part")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype, StaticCompressor, Ttl};
use domain::rdata::{A, Aaaa, Cname, Mx, Ptr, Txt};

/// One record of the table.
#[derive(Clone, Debug)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(&'static str),
    Mx(u16, &'static str),
    Ptr(&'static str),
    Txt(String),
}

/// What is done with a question about a name.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// The records of the kind that was asked for.
    Records(Vec<Record>),
    /// An alias of the first of these, that of the next, and no word of the last.
    Aliases(&'static [&'static str]),
    /// This response code.
    Code(Rcode),
    /// Nothing.
    Silence,
    /// Nothing over UDP, in the first so many questions.
    SilenceAtFirst(usize),
    /// The truncated flag over UDP, these over TCP.
    Truncated(Vec<Record>),
    /// What is no answer to this question, then the records.
    Forged(Lie, Vec<Record>),
    /// Octets that are no message.
    Garbage,
    /// Nothing, until the question is asked again: then the late answer, which is wrong, then the records.
    Late(Vec<Record>),
    /// This response code where there is EDNS, with the question or the header alone; else the records.
    WithoutEdns(Rcode, Answered, Vec<Record>),
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lie {
    Class,
    Echo,
    Id,
    Kind,
    Name,
    Port,
    TwoQuestions,
}

/// How an error is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answered {
    WithTheQuestion,
    WithTheHeader,
}

/// A question that came.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub name: String,
    pub id: u16,
    pub port: u16,
    /// Octets that are taken over UDP, of EDNS.
    pub edns: Option<u16>,
    pub tcp: bool,
}

type Table = Arc<Mutex<Vec<(&'static str, Behaviour)>>>;

/// What is sent: from another port, or the one that was asked.
struct Reply {
    octets: Vec<u8>,
    elsewhere: bool,
}

/// Answers on one port, UDP and TCP, until it is dropped. Names that are not in the table do not exist.
pub struct NameServer {
    pub address: SocketAddr,
    pub asked: Arc<AtomicUsize>,
    questions: Arc<Mutex<Vec<Asked>>>,
    table: Table,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl NameServer {
    pub fn start(rows: Vec<(&'static str, Behaviour)>) -> Self {
        Self::start_at(0, rows)
    }

    /// The same on this port.
    pub fn start_at(port: u16, rows: Vec<(&'static str, Behaviour)>) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        Self::on(udp, tcp, rows)
    }

    /// The same on a port that is bound already.
    pub fn on(udp: UdpSocket, tcp: TcpListener, rows: Vec<(&'static str, Behaviour)>) -> Self {
        let address = udp.local_addr().unwrap();
        let (table, stop, asked) = (Arc::new(Mutex::new(rows)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let questions: Arc<Mutex<Vec<Asked>>> = Arc::default();
        udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let serve_udp = {
            let (table, stop, asked) = (Arc::clone(&table), Arc::clone(&stop), Arc::clone(&asked));
            let questions = Arc::clone(&questions);
            move || {
                let elsewhere = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((octets, from)) = udp.recv_from(&mut buffer) else { continue };
                    asked.fetch_add(1, Ordering::Relaxed);
                    let before = questions.lock().unwrap().clone();
                    questions.lock().unwrap().push(Asked::of(&buffer[..octets], from.port(), false));
                    for reply in answers(&buffer[..octets], &table, false, &before) {
                        let socket = if reply.elsewhere { &elsewhere } else { &udp };
                        // One that asks no more has closed its port, which is told here.
                        let _ = socket.send_to(&reply.octets, from);
                    }
                }
            }
        };
        let serve_tcp = {
            let (table, stop, asked) = (Arc::clone(&table), Arc::clone(&stop), Arc::clone(&asked));
            let questions = Arc::clone(&questions);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok((mut stream, from)) = tcp.accept() else {
                        thread::sleep(Duration::from_millis(5));
                        continue;
                    };
                    stream.set_nonblocking(false).unwrap();
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).unwrap();
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query).unwrap();
                    asked.fetch_add(1, Ordering::Relaxed);
                    let before = questions.lock().unwrap().clone();
                    questions.lock().unwrap().push(Asked::of(&query, from.port(), true));
                    for Reply { octets, .. } in answers(&query, &table, true, &before) {
                        let length = u16::try_from(octets.len()).expect("a message that TCP can carry");
                        let _ = stream.write_all(&length.to_be_bytes());
                        let _ = stream.write_all(&octets);
                    }
                }
            }
        };
        let threads = vec![thread::spawn(serve_udp), thread::spawn(serve_tcp)];
        Self { address, asked, questions, table, stop, threads }
    }

    /// The questions so far.
    pub fn questions(&self) -> Vec<Asked> {
        self.questions.lock().unwrap().clone()
    }

    pub fn set(&self, name: &'static str, behaviour: Behaviour) {
        let mut table = self.table.lock().unwrap();
        table.retain(|(known, _)| *known != name);
        table.push((name, behaviour));
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Asked {
    fn of(query: &[u8], port: u16, tcp: bool) -> Self {
        let message = Message::from_octets(query).unwrap();
        let name = message.sole_question().unwrap().qname().to_string();
        Self { name, id: message.header().id(), port, edns: message.opt().map(|opt| opt.udp_payload_size()), tcp }
    }
}

fn answers(query: &[u8], table: &Table, tcp: bool, before: &[Asked]) -> Vec<Reply> {
    let message = Message::from_octets(query).unwrap();
    let question = message.sole_question().unwrap();
    let name = question.qname().to_string().trim_end_matches('.').to_ascii_lowercase();
    let id = message.header().id();
    let asked: Name<Vec<u8>> = name.parse().unwrap();
    let build = |id: u16, asked: &Name<Vec<u8>>, code: Rcode, truncated: bool, records: &[Record]| {
        let mut answer = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).unwrap();
        answer.header_mut().set_id(id);
        answer.header_mut().set_qr(true);
        answer.header_mut().set_ad(true);
        answer.header_mut().set_ra(true);
        answer.header_mut().set_tc(truncated);
        answer.header_mut().set_rcode(code);
        let mut answer = answer.question();
        answer.push((asked, question.qtype())).unwrap();
        let mut answer = answer.answer();
        for record in records {
            let ttl = Ttl::from_secs(60);
            match (record, question.qtype()) {
                (Record::A(address), Rtype::A) => answer.push((asked, ttl, A::new(*address))).unwrap(),
                (Record::Aaaa(address), Rtype::AAAA) => answer.push((asked, ttl, Aaaa::new(*address))).unwrap(),
                (Record::Txt(text), Rtype::TXT) => {
                    answer.push((asked, ttl, Txt::<Vec<u8>>::build_from_slice(text.as_bytes()).unwrap())).unwrap();
                }
                (Record::Ptr(host), Rtype::PTR) => {
                    answer.push((asked, ttl, Ptr::new(host.parse::<Name<Vec<u8>>>().unwrap()))).unwrap();
                }
                (Record::Cname(target), _) => {
                    answer.push((asked, ttl, Cname::new(target.parse::<Name<Vec<u8>>>().unwrap()))).unwrap();
                }
                (Record::Mx(preference, host), Rtype::MX) => {
                    answer.push((asked, ttl, Mx::new(*preference, host.parse::<Name<Vec<u8>>>().unwrap()))).unwrap();
                }
                _ => {}
            }
        }
        Reply { octets: answer.finish().into_target(), elsewhere: false }
    };
    let evil = [Record::A(Ipv4Addr::new(192, 0, 2, 66)), Record::Mx(0, "evil.example")];
    let behaviour = table.lock().unwrap().iter().find(|(known, _)| *known == name).map(|(_, behaviour)| behaviour.clone());
    match behaviour {
        None => vec![build(id, &asked, Rcode::NXDOMAIN, false, &[])],
        Some(Behaviour::Records(records)) => vec![build(id, &asked, Rcode::NOERROR, false, &records)],
        Some(Behaviour::Aliases(targets)) => {
            let mut answer = MessageBuilder::new_vec().start_answer(&message, Rcode::NOERROR).unwrap();
            answer.header_mut().set_ra(true);
            let mut owner = asked;
            for target in targets {
                let target: Name<Vec<u8>> = target.parse().unwrap();
                answer.push((&owner, Ttl::from_secs(60), Cname::new(&target))).unwrap();
                owner = target;
            }
            vec![Reply { octets: answer.finish(), elsewhere: false }]
        }
        Some(Behaviour::Code(code)) => vec![build(id, &asked, code, false, &[])],
        Some(Behaviour::Silence) => Vec::new(),
        Some(Behaviour::SilenceAtFirst(questions)) if before.len() < questions => Vec::new(),
        Some(Behaviour::SilenceAtFirst(_)) => {
            vec![build(id, &asked, Rcode::NOERROR, false, &[Record::A(Ipv4Addr::new(192, 0, 2, 1))])]
        }
        Some(Behaviour::Truncated(records)) if tcp => vec![build(id, &asked, Rcode::NOERROR, false, &records)],
        Some(Behaviour::Truncated(_)) => vec![build(id, &asked, Rcode::NOERROR, true, &[])],
        Some(Behaviour::Forged(lie, records)) => {
            let mut forged = build(id, &asked, Rcode::NOERROR, false, &evil);
            // The question ends with its kind and its class.
            let end = 12 + asked.as_slice().len() + 4;
            match lie {
                Lie::Class => forged.octets[end - 1] = 3,
                Lie::Echo => forged.octets[2] &= 0x7f,
                Lie::Id => forged.octets[0] ^= 1,
                Lie::Kind => forged.octets[end - 3] ^= 16,
                Lie::Name => forged.octets[13] ^= 1,
                Lie::Port => forged.elsewhere = true,
                Lie::TwoQuestions => {
                    let question = forged.octets[12..end].to_vec();
                    forged.octets.splice(end..end, question);
                    forged.octets[5] = 2;
                }
            }
            vec![forged, build(id, &asked, Rcode::NOERROR, false, &records)]
        }
        Some(Behaviour::Late(_)) if before.is_empty() => Vec::new(),
        Some(Behaviour::Late(records)) => {
            let late = build(before[0].id, &asked, Rcode::NOERROR, false, &evil);
            vec![late, build(id, &asked, Rcode::NOERROR, false, &records)]
        }
        Some(Behaviour::WithoutEdns(code, answered, _)) if message.opt().is_some() => {
            let mut answer = build(id, &asked, code, false, &[]);
            if answered == Answered::WithTheHeader {
                answer.octets.truncate(12);
                answer.octets[4..12].fill(0);
            }
            vec![answer]
        }
        Some(Behaviour::WithoutEdns(_, _, records)) => vec![build(id, &asked, Rcode::NOERROR, false, &records)],
        Some(Behaviour::Garbage) => vec![Reply { octets: vec![0xff; 40], elsewhere: false }],
    }
}
