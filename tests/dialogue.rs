//! Every transcript in tests/dialogue/, three times: in memory, in memory one octet at a time, and against the binary.

mod common;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use common::{Setup, base64};
use pillarbox::conn::caller::Caller;
use pillarbox::conn::context::Context;
use pillarbox::conn::outbox::Outbox;
use pillarbox::conn::{self, Connection};
use pillarbox::mail::durable::{DeliveryStep, Faults};
use pillarbox::net::deadline::Clock;
use pillarbox::net::network::address_of_uid;
use pillarbox::net::stream::{Link, ReadMode};
use pillarbox::net::tls::{TlsInfo, TlsServer};
use pillarbox::queue::QueueId;
use pillarbox::queue::spool::Spool;
use pillarbox::server::load;
use pillarbox::smtp::command::Verb;
use pillarbox::smtp::reply::Refusal;
use pillarbox::smtp::session::Service;

#[test]
fn in_memory() {
    each_case(|case| in_memory_by(case, usize::MAX));
}

#[test]
fn in_memory_one_octet_at_a_time() {
    each_case(|case| in_memory_by(case, 1));
}

#[test]
fn against_the_binary() {
    each_case(|case| if case.fault.is_some() || case.outbox.is_some() || case.caller.is_some() { Ok(()) } else { live(case) });
}

/// What no transcript can bring about is shown by a test of the binary that names it.
#[test]
fn every_verb_and_every_refusal_is_in_a_transcript() {
    let all: Vec<Item> = cases().into_iter().flat_map(|case| case.items).collect();
    for verb in Verb::ALL {
        let said = all.iter().any(|item| matches!(item, Item::Client(bytes) if bytes.to_ascii_uppercase().windows(verb.name().len()).any(|w| w == verb.name().as_bytes())));
        assert!(said, "{} is in no transcript", verb.name());
    }
    let live: String = ["tests/pressure.rs", "tests/binary/passwords.rs", "tests/binary/change.rs"]
        .iter()
        .map(|file| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default())
        .collect();
    let missing: Vec<String> = Refusal::ALL
        .into_iter()
        .filter(|why| {
            let parts = why.parts();
            let (a, b, c) = parts.status;
            let begin = format!("{} {a}.{b}.{c} {}", parts.code, parts.text.split('{').next().unwrap());
            let said = all.iter().any(|item| matches!(item, Item::Server(line) if line.starts_with(begin.trim_end())));
            // A defect alone brings this about: no event fits the state that the session is in.
            let defect = *why == Refusal::Internal;
            !said && !defect && !live.contains(&format!("Refusal::{why:?}"))
        })
        .map(|why| format!("{why:?}"))
        .collect();
    assert!(missing.is_empty(), "in no transcript: {missing:?}");
}

/// A case of a file.
struct Case {
    file: String,
    title: String,
    setup: Setup,
    service: Service,
    fault: Option<Fault>,
    /// Mail for other domains goes into a spool of the test's own, in memory alone.
    outbox: Option<Outgoing>,
    /// The caller on a local socket, by uid, name and the socket's login; in memory alone.
    caller: Option<(u32, Option<String>, Option<String>)>,
    folders: Vec<String>,
    items: Vec<Item>,
}

type Fault = (DeliveryStep, nix::errno::Errno);

#[derive(Clone, Copy, Debug, Default)]
struct Outgoing {
    /// As much mail waits as may wait.
    full: bool,
    fault: Option<Fault>,
}

#[derive(Clone, Debug)]
enum Item {
    /// Octets in one write.
    Client(Vec<u8>),
    Close,
    Hangup,
    Log(String),
    /// A mailbox and the one message in it, or none.
    Mail(String, Option<Vec<String>>),
    Server(String),
    Timeout,
    Tls,
}

type Outcome = Result<(), String>;

fn each_case(run: impl Fn(&Case) -> Outcome + Sync) {
    let cases = cases();
    assert!(cases.len() > 20, "only {} cases were found", cases.len());
    let failures: Vec<String> = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = cases
            .chunks(cases.len().div_ceil(4))
            .map(|part| {
                scope.spawn(move || {
                    let failed = |case: &Case| run(case).err().map(|why| format!("{}: {}\n{why}", case.file, case.title));
                    part.iter().filter_map(failed).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{} of {} cases fail\n\n{}", failures.len(), cases.len(), failures.join("\n\n"));
}

fn cases() -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogue");
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.is_file());
    files.sort();
    files.iter().flat_map(|file| parse(file)).collect()
}

fn parse(path: &Path) -> Vec<Case> {
    let file = path.file_name().unwrap().to_string_lossy().into_owned();
    let text = fs::read_to_string(path).unwrap();
    let fresh = || Setup { users: Vec::new(), aliases: Vec::new(), ..Setup::default() };
    let mut base = Case {
        file: file.clone(),
        title: String::new(),
        setup: fresh(),
        service: Service::Smtp,
        fault: None,
        outbox: None,
        caller: None,
        folders: Vec::new(),
        items: Vec::new(),
    };
    let mut cases: Vec<Case> = Vec::new();
    let mut joins = false;
    for (number, line) in (1..).zip(text.lines()) {
        let fail = |why: &str| -> ! { panic!("{file}:{number}: {why}: {line}") };
        let was_client = std::mem::take(&mut joins);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            let Case { setup, service, folders, outbox, caller, .. } = &base;
            cases.push(Case {
                file: file.clone(),
                title: title.into(),
                setup: setup.clone(),
                service: *service,
                fault: None,
                outbox: *outbox,
                caller: caller.clone(),
                folders: folders.clone(),
                items: Vec::new(),
            });
            continue;
        }
        let case = cases.last_mut().unwrap_or(&mut base);
        let rest = line.get(2..).unwrap_or("").strip_prefix(' ').unwrap_or(line.get(2..).unwrap_or(""));
        match line.get(..2) {
            Some("@ ") => set_up(case, rest.trim(), &format!("{file}:{number}")),
            Some("C:") => {
                let bytes = format!("{}\r\n", expand(rest)).into_bytes();
                match case.items.last_mut() {
                    Some(Item::Client(before)) if was_client => before.extend(bytes),
                    _ => case.items.push(Item::Client(bytes)),
                }
                joins = true;
            }
            Some("C>") => {
                let bytes = unescape(&expand(rest));
                match case.items.last_mut() {
                    Some(Item::Client(before)) if was_client => before.extend(bytes),
                    _ => case.items.push(Item::Client(bytes)),
                }
                joins = true;
            }
            Some("S:") => case.items.push(Item::Server(expand(rest))),
            Some("S~") => case.items.push(Item::Close),
            Some("~ ") => case.items.push(match line[2..].trim() {
                "tls" => Item::Tls,
                "timeout" => Item::Timeout,
                "hangup" => Item::Hangup,
                _ => fail("no such thing"),
            }),
            Some("M:") => {
                let (mailbox, none) = rest.split_once(' ').map_or((rest, false), |(mailbox, _)| (mailbox, true));
                case.items.push(Item::Mail(mailbox.to_owned(), (!none).then(Vec::new)));
            }
            Some("M|") => match case.items.last_mut() {
                Some(Item::Mail(_, Some(lines))) => lines.push(rest.to_owned()),
                _ => fail("no M: before it"),
            },
            Some("L:") => case.items.push(Item::Log(rest.to_owned())),
            _ => fail("not understood"),
        }
    }
    cases
}

fn set_up(case: &mut Case, rest: &str, place: &str) {
    let fail = |why: &str| -> ! { panic!("{place}: {why}") };
    let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    match word {
        "listen" => case.service = Service::from_name(rest).unwrap_or_else(|| fail("no such service")),
        "user" => {
            let (login, password) = rest.split_once(' ').unwrap_or_else(|| fail("no password"));
            case.setup.users.push((login.into(), password.into()));
        }
        "alias" => case.setup.aliases.push(rest.into()),
        "domains" => case.setup.domains = rest.split(' ').map(str::to_owned).collect(),
        "sender" => case.setup.senders.push(rest.into()),
        "caller" => {
            let mut words = rest.split(' ').map(|word| Some(word.to_owned()).filter(|word| word != "-"));
            let uid = words.next().flatten().and_then(|uid| uid.parse().ok()).unwrap_or_else(|| fail("no uid"));
            case.caller = Some((uid, words.next().flatten(), words.next().flatten()));
        }
        "unix-user" => case.setup.unix_users.push(rest.into()),
        "sending" => case.setup.sending_limits.push(rest.into()),
        "outgoing" => case.setup = std::mem::take(&mut case.setup).outgoing(),
        "outbox" => {
            case.setup = std::mem::take(&mut case.setup).outgoing();
            let fault = rest.strip_prefix("fail ").map(|fault| fault_of(fault, place));
            case.outbox = Some(Outgoing { full: rest == "full", fault });
        }
        "limit" => case.setup.limits.push(rest.into()),
        "folder" => case.folders.push(rest.into()),
        "fail" => case.fault = Some(fault_of(rest, place)),
        _ => fail("no such setting"),
    }
}

fn fault_of(text: &str, place: &str) -> Fault {
    let fail = |why: &str| -> ! { panic!("{place}: {why}") };
    let (step, errno) = text.split_once(' ').unwrap_or((text, "EIO"));
    let step = match step {
        "space" => DeliveryStep::Space,
        "open" => DeliveryStep::Directory,
        "create" => DeliveryStep::Create,
        "write" => DeliveryStep::Write,
        "fsync" => DeliveryStep::SyncFile,
        "link" => DeliveryStep::Link,
        "fsync-directory" => DeliveryStep::SyncDirectory,
        _ => fail("no such step"),
    };
    let errno = match errno {
        "EIO" => nix::errno::Errno::EIO,
        "ENOSPC" => nix::errno::Errno::ENOSPC,
        "EDQUOT" => nix::errno::Errno::EDQUOT,
        _ => fail("no such error"),
    };
    (step, errno)
}

/// Puts in `${plain login password}`, `${base64 text}`, `${repeat n text}`; leaves `${id}` and `${date}` alone.
fn expand(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        out.push_str(&rest[..at]);
        let end = rest[at..].find('}').map(|end| at + end).expect("a closing brace");
        let words: Vec<&str> = rest[at + 2..end].splitn(3, ' ').collect();
        match words[..] {
            ["plain", login, password] => out.push_str(&base64(format!("\0{login}\0{password}").as_bytes())),
            ["base64", text] => out.push_str(&base64(&unescape(text))),
            ["base64", a, b] => out.push_str(&base64(&unescape(&format!("{a} {b}")))),
            ["repeat", count, text] => out.push_str(&text.repeat(count.parse().unwrap())),
            _ => out.push_str(&rest[at..=end]),
        }
        rest = &rest[end + 1..];
    }
    out + rest
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(b) = bytes.next() {
        match (b, bytes.clone().next()) {
            (b'\\', Some(b'r')) => out.push(b'\r'),
            (b'\\', Some(b'n')) => out.push(b'\n'),
            (b'\\', Some(b'\\')) => out.push(b'\\'),
            (b'\\', Some(b'x')) => {
                bytes.next();
                let hex: String = bytes.by_ref().take(2).map(char::from).collect();
                out.push(u8::from_str_radix(&hex, 16).expect("two hexadecimal digits"));
                continue;
            }
            _ => {
                out.push(b);
                continue;
            }
        }
        bytes.next();
    }
    out
}

/// Compares with `${id}` and `${date}` standing for what differs from run to run. The id that ends a refusal is
/// demanded, and left out of the transcripts.
fn same(want: &str, got: &str, is_reply: bool) -> bool {
    let got = if is_reply && got.starts_with(['4', '5']) {
        match got.rsplit_once(" (") {
            Some((text, id)) if id.strip_suffix(')').is_some_and(is_id) => text,
            _ => return false,
        }
    } else {
        got
    };
    let Some((before, rest)) = want.split_once("${") else { return want == got };
    let Some((name, after)) = rest.split_once('}') else { return want == got };
    let Some(tail) = got.strip_prefix(before) else { return false };
    (1..=tail.len()).filter(|end| tail.is_char_boundary(*end)).any(|end| {
        let (value, tail) = tail.split_at(end);
        let fits = match name {
            "id" => is_id(value),
            "octets" => value.bytes().all(|b| b.is_ascii_digit()),
            "queue-id" => value.parse::<QueueId>().is_ok(),
            "time" => value.parse::<jiff::Zoned>().is_ok() || jiff::Zoned::strptime("%Y-%m-%d %H:%M:%S %z", value).is_ok(),
            "date" => jiff::fmt::rfc2822::parse(value).is_ok(),
            "file" => value.contains(",S="),
            "seconds" => value.parse::<f64>().is_ok(),
            other => panic!("${{{other}}}"),
        };
        fits && same(after, tail, false)
    })
}

fn is_id(text: &str) -> bool {
    let (session, number) = text.split_once('.').unwrap_or((text, "1"));
    session.len() == 12 && session.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) && number.parse::<u32>().is_ok()
}

// In memory.

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps the log lines of each thread apart.
struct ThreadLog;

impl log::Log for ThreadLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("pillarbox") {
            LOG.with(|log| log.borrow_mut().extend(record.args().to_string().lines().map(str::to_owned)));
        }
    }

    fn flush(&self) {}
}

fn in_memory_by(case: &Case, step: usize) -> Outcome {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&ThreadLog).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
    LOG.with(|log| log.borrow_mut().clear());
    let dir = tempfile::tempdir().unwrap();
    let config = load::config(&case.setup.write(dir.path())).map_err(|problems| format!("{problems:?}"))?;
    let faults = |fault: Option<Fault>| match fault {
        Some((at, errno)) => Faults::new(move |step| if step == at { Err(errno.into()) } else { Ok(()) }),
        None => Faults::default(),
    };
    make_folders(case, &dir.path().join("mail"));
    let snapshot = load::snapshot(config, &Default::default()).map_err(|problems| format!("{problems:?}"))?;
    let mut context = Context::new(snapshot, faults(case.fault));
    let handed = Arc::new(Mutex::new(Vec::new()));
    let queue = case.outbox.or_else(|| (!case.setup.outgoing.is_empty()).then(Outgoing::default));
    if let Some(Outgoing { full, fault }) = queue {
        // The fault is one of accepting, not of opening the spool.
        drop(Spool::open(&dir.path().join("spool"), Faults::default()).map_err(|error| error.to_string())?);
        let armed = Arc::new(AtomicBool::new(false));
        let is_armed = Arc::clone(&armed);
        let faults = Faults::new(move |step| match fault {
            Some((at, errno)) if step == at && is_armed.load(Ordering::SeqCst) => Err(errno.into()),
            _ => Ok(()),
        });
        let (spool, ..) = Spool::open(&dir.path().join("spool"), faults).map_err(|error| error.to_string())?;
        armed.store(true, Ordering::SeqCst);
        let accepted = Arc::clone(&handed);
        context = context.with_outbox(Outbox::new(
            Arc::new(spool),
            move |_, _| !full,
            move |one| accepted.lock().unwrap().push(one.id.to_string()),
        ));
    }
    let snapshot = context.snapshot();
    let opened = Instant::now();
    let caller = case.caller.as_ref().map(|(uid, name, login)| Caller::new(*uid, name.clone(), login.as_deref(), &snapshot));
    let peer = match &case.caller {
        Some((uid, ..)) => address_of_uid(*uid),
        None => SocketAddr::from(([127, 0, 0, 1], 4321)),
    };
    let connection = Connection { service: case.service, peer, opened, caller, slot: None };
    let script = case.items.iter().filter(|item| !matches!(item, Item::Log(_) | Item::Mail(..))).cloned().collect();
    let mut link = Script {
        items: script,
        step,
        clock: conn::clock(&snapshot, case.service, opened),
        pending: VecDeque::new(),
        said: Vec::new(),
        begun: false,
        secured: false,
        transcript: String::new(),
        wrong: None,
    };
    conn::serve(&mut link, &connection, &context, snapshot);
    link.finish();
    let log = LOG.with(|log| log.borrow().clone());
    let queued: Vec<String> = fs::read_dir(dir.path().join("spool/queue"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| file.file_name().into_string().unwrap())
        .collect();
    if *handed.lock().unwrap() != queued {
        return Err(format!("{queued:?} are in the spool, {handed:?} were handed over"));
    }
    if let Some(wrong) = link.wrong {
        return Err(format!("{wrong}\n{}\n{}", link.transcript, log.join("\n")));
    }
    check_aftermath(case, &dir.path().join("mail"), &log).map_err(|why| format!("{why}\n{}\n{}", link.transcript, log.join("\n")))
}

/// A client that reads its lines from a transcript: it runs on whenever the server waits for it.
struct Script {
    items: VecDeque<Item>,
    step: usize,
    clock: Clock,
    pending: VecDeque<u8>,
    said: Vec<u8>,
    begun: bool,
    secured: bool,
    transcript: String,
    wrong: Option<String>,
}

impl Script {
    fn fail(&mut self, why: String) {
        self.wrong.get_or_insert(why);
        self.items.clear();
    }

    /// Compares what the server has said so far with the lines that are due.
    fn hear(&mut self) {
        while let Some(Item::Server(want)) = self.items.front().cloned() {
            let Some(end) = self.said.windows(2).position(|two| two == b"\r\n") else {
                return self.fail(format!("the server waits instead of saying: {want}"));
            };
            let got = String::from_utf8_lossy(&self.said[..end]).into_owned();
            self.said.drain(..end + 2);
            let _ = writeln!(self.transcript, "S: {got}");
            if !same(&want, &got, true) {
                return self.fail(format!("want: {want}\n got: {got}"));
            }
            self.items.pop_front();
        }
        if !self.said.is_empty() && self.wrong.is_none() {
            let said = String::from_utf8_lossy(&self.said).into_owned();
            self.fail(format!("the server says more than the transcript: {said}"));
        }
    }

    fn hand_out(&mut self, buffer: &mut [u8]) -> usize {
        let octets = buffer.len().min(self.step).min(self.pending.len());
        self.pending.drain(..octets).zip(buffer).for_each(|(b, place)| *place = b);
        octets
    }

    fn load(&mut self, bytes: &[u8]) {
        let _ = writeln!(self.transcript, "C: {}", String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).escape_debug());
        self.pending.extend(bytes);
    }

    fn finish(&mut self) {
        if self.wrong.is_some() {
            return;
        }
        self.hear();
        match self.items.pop_front() {
            None | Some(Item::Close | Item::Hangup) => {}
            Some(other) => self.fail(format!("the server closes instead of: {other:?}")),
        }
        if self.wrong.is_none() && !self.items.is_empty() {
            self.fail(format!("closed before: {:?}", self.items));
        }
    }
}

impl Read for &mut Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.pending.is_empty() {
            self.hear();
            match self.items.pop_front() {
                Some(Item::Client(bytes)) => self.load(&bytes),
                Some(Item::Timeout) => return Err(ErrorKind::TimedOut.into()),
                None | Some(Item::Hangup) => return Ok(0),
                Some(other) => {
                    self.fail(format!("the server waits instead of: {other:?}"));
                    return Ok(0);
                }
            }
        }
        Ok(self.hand_out(buffer))
    }
}

impl Write for &mut Script {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.said.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Link for &mut Script {
    fn clock(&mut self) -> &mut Clock {
        &mut self.clock
    }

    fn read_within(&mut self, mode: ReadMode, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if mode == ReadMode::UntilDeadline {
            return self.read(buffer).map(Some);
        }
        // Nothing comes by itself: a client is always silent for longer than a slice.
        if mode == ReadMode::OneSlice {
            return if self.pending.is_empty() { Ok(None) } else { Ok(Some(self.hand_out(buffer))) };
        }
        // Before the greeting, a client may have spoken already.
        if !std::mem::replace(&mut self.begun, true)
            && self.pending.is_empty()
            && let Some(Item::Client(bytes)) = self.items.front().cloned()
        {
            self.items.pop_front();
            self.load(&bytes);
        }
        if self.pending.is_empty() { Ok(None) } else { Ok(Some(self.hand_out(buffer))) }
    }

    fn expect_much(&mut self) {}

    fn release_buffers(&mut self) {}

    fn start_tls(&mut self, _: &TlsServer) -> io::Result<TlsInfo> {
        self.hear();
        match self.items.pop_front() {
            Some(Item::Tls) => {
                self.secured = true;
                Ok(TlsInfo { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384", resumed: false })
            }
            Some(Item::Timeout) => Err(ErrorKind::TimedOut.into()),
            Some(Item::Hangup) => Err(ErrorKind::UnexpectedEof.into()),
            other => {
                self.fail(format!("a handshake instead of: {other:?}"));
                Err(ErrorKind::InvalidData.into())
            }
        }
    }

    fn tls(&self) -> Option<TlsInfo> {
        self.secured.then_some(TlsInfo { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384", resumed: false })
    }

    fn close(&mut self) {}
}

fn make_folders(case: &Case, mail: &Path) {
    for folder in &case.folders {
        let (mailbox, name) = folder.split_once(' ').expect("mailbox and folder");
        let (user, domain) = mailbox.split_once('@').unwrap();
        for part in ["cur", "new", "tmp"] {
            fs::create_dir_all(mail.join(domain).join(user).join(name).join(part)).unwrap();
            fs::create_dir_all(mail.join(domain).join(user).join(part)).unwrap();
        }
    }
}

fn check_aftermath(case: &Case, mail: &Path, log: &[String]) -> Outcome {
    for item in &case.items {
        match item {
            Item::Mail(mailbox, want) => check_mail(mail, mailbox, want.as_deref())?,
            Item::Log(want) => {
                let strip = |line: &String| {
                    let (event, rest) = line.split_once(" session=").unwrap_or((line, ""));
                    let rest = rest.splitn(3, ' ').nth(2).unwrap_or("");
                    if rest.is_empty() { event.to_owned() } else { format!("{event} {rest}") }
                };
                if !log.iter().map(strip).any(|line| same(want, &line, false)) {
                    return Err(format!("not in the log: {want}"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_mail(mail: &Path, mailbox: &str, want: Option<&[String]>) -> Outcome {
    let (mailbox, folder) = mailbox.split_once('/').unwrap_or((mailbox, ""));
    let directory = match mailbox.split_once('@') {
        Some((user, domain)) => mail.join(domain).join(user).join(folder).join("new"),
        None if mailbox == "spool" => mail.with_file_name("spool").join("queue"),
        None => return Err("a mailbox has an @".into()),
    };
    let files: Vec<PathBuf> =
        fs::read_dir(directory).map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    match (want, &files[..]) {
        (None, []) => Ok(()),
        (Some(want), [file]) => {
            let text = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
            let mut got = text.split('\n').collect::<Vec<_>>();
            if got.last() == Some(&"") {
                got.pop();
            }
            let fits = got.len() == want.len() && want.iter().zip(&got).all(|(want, got)| same(want, got, false));
            if fits { Ok(()) } else { Err(format!("in {mailbox} is:\n{text}")) }
        }
        (want, files) => Err(format!("{} messages in {mailbox} instead of {}", files.len(), usize::from(want.is_some()))),
    }
}

// Against the binary.

fn live(case: &Case) -> Outcome {
    let server = case.setup.clone().start();
    make_folders(case, &server.dir.path().join("mail"));
    if !case.folders.is_empty() {
        let _ = std::process::Command::new("chown").args(["-R", "nobody"]).arg(server.dir.path()).status();
    }
    // Where the client begins, its octets are there before the server can greet it.
    let speaks_first = matches!(case.items.first(), Some(Item::Client(_)));
    if speaks_first {
        server.stop_all_threads();
    }
    let mut client = server.connect(case.service.name());
    let begins = usize::from(speaks_first);
    let outcome = play(&case.items[..begins], &mut client);
    if speaks_first {
        server.signal(nix::sys::signal::Signal::SIGCONT);
    }
    let outcome = outcome.and_then(|()| play(&case.items[begins..], &mut client));
    drop(client.tcp().shutdown(std::net::Shutdown::Both));
    let begun = Instant::now();
    // The disconnect line is the last of a session.
    while outcome.is_ok() && !server.log_text().contains(" disconnect ") && begun.elapsed() < common::PATIENCE {
        std::thread::sleep(Duration::from_millis(2));
    }
    let log: Vec<String> = server
        .log
        .lock()
        .unwrap()
        .iter()
        .filter_map(|line| line.splitn(3, ' ').nth(2))
        .map(|line| line.trim_start().to_owned())
        .collect();
    let mail = server.dir.path().join("mail");
    outcome
        .and_then(|()| check_aftermath(case, &mail, &log))
        .map_err(|why| format!("{why}\n{}\n{}", client.transcript, server.log_text()))
}

fn play(items: &[Item], client: &mut common::Client) -> Outcome {
    for item in items {
        match item {
            Item::Client(bytes) => client.send(bytes).map_err(|error| format!("{error} at {item:?}"))?,
            Item::Server(want) => match client.line() {
                Some(got) if same(want, &got, true) => {}
                got => return Err(format!("want: {want}\n got: {got:?}")),
            },
            Item::Close => {
                if let Some(line) = client.line() {
                    return Err(format!("not closed: {line}"));
                }
            }
            Item::Tls => client.tls().map_err(|error| format!("handshake: {error}"))?,
            Item::Hangup => drop(client.tcp().shutdown(std::net::Shutdown::Both)),
            Item::Timeout | Item::Log(_) | Item::Mail(..) => {}
        }
    }
    Ok(())
}
