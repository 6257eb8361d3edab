//! Power cuts: the system calls of the server are recorded while it takes messages, and a cut is played at each of them.
//!
//! Whatever the disk has made of what was not synced: every message that got 250 before the cut is whole in the Maildir of
//! each of its recipients, and nothing under `new/` is less than a message.

mod common;
#[path = "powercut/replay.rs"]
mod replay;
#[path = "powercut/spool.rs"]
mod spool;

use std::collections::HashMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Client, PATIENCE, Server, Setup, skipped};
use replay::{AfterCut, Call, each_cut, parse, path_of, string};

/// What is recorded: all that changes files, what makes it durable, and what is said.
const CALLS: &str = "trace=openat,mkdir,mkdirat,write,pwrite64,sendto,fsync,fdatasync,link,linkat,rename,renameat,renameat2,\
    unlink,unlinkat,ftruncate,copy_file_range,sendfile,sync_file_range";

/// A message that was handed in: content with LF, recipients.
struct Message {
    content: String,
    to: Vec<&'static str>,
}

/// A directory of its own for the Maildirs, and a server that is recorded.
struct Recorded {
    dir: Arc<tempfile::TempDir>,
    server: Server,
    log: PathBuf,
}

impl Recorded {
    /// In a directory of its own; `None` where there is no strace.
    fn start(inject: &[String]) -> Option<Self> {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), inject)
    }

    fn start_in(dir: Arc<tempfile::TempDir>, inject: &[String]) -> Option<Self> {
        let works = Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
        if !works {
            skipped("strace does not work");
            return None;
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let log = tempfile::Builder::new().prefix("powercut").tempfile().unwrap().into_temp_path().keep().unwrap();
        let mut wrapper: Vec<String> =
            ["strace", "-f", "-y", "-xx", "-s", "300000", "-e", CALLS, "-o"].map(str::to_owned).to_vec();
        wrapper.push(log.display().to_string());
        wrapper.extend(inject.iter().flat_map(|one| ["-e".to_owned(), one.clone()]));
        let users = ["alice", "bob", "carol"].map(|name| (format!("{name}@example.org"), "secret".to_owned())).to_vec();
        let mail = Some(dir.path().join("mail"));
        let setup = Setup { wrapper, services: vec!["smtp"], users, mail, ..Setup::default() };
        Some(Self { server: setup.limit("workers = 12").start(), dir, log })
    }

    fn client(&self) -> Client {
        let mut client = self.server.connect("smtp");
        client.expect("220");
        client.say("EHLO x.example", "250");
        client
    }

    /// Every cut from the call of that number on.
    fn each_cut(&self, calls: &[Call], from: usize, messages: &HashMap<String, Message>) -> Result<usize, String> {
        each_cut(calls, from, self.dir.path(), |cut| check(cut, messages))
    }

    /// The calls so far, once those that answered the last client are written down.
    fn calls(&self) -> Vec<Call> {
        self.server.wait_for_log(&["disconnect"]);
        thread::sleep(Duration::from_millis(200));
        Self::parse(&self.text())
    }

    /// The log up to its last whole line.
    fn text(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap();
        text[..text.rfind('\n').map_or(0, |at| at + 1)].to_owned()
    }

    fn parse(text: &str) -> Vec<Call> {
        let calls = parse(text);
        for call in &calls {
            let unknown = ["mkdirat", "link", "ftruncate", "copy_file_range", "sendfile", "sync_file_range"];
            assert!(!unknown.contains(&call.name.as_str()), "the replay does not know {call:?}");
        }
        calls
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.log);
    }
}

/// Hands a message in; gives the id that it was stored under.
fn deliver(client: &mut Client, message: &Message) -> String {
    client.say("MAIL FROM:<>", "250");
    for to in &message.to {
        client.say(&format!("RCPT TO:<{to}@example.org>"), "250");
    }
    client.say("DATA", "354");
    client.send(format!("{}.\r\n", message.content.replace('\n', "\r\n")).as_bytes()).unwrap();
    let reply = client.expect("250 2.0.0 Ok: stored as ");
    reply.rsplit(' ').next().unwrap().to_owned()
}

fn message(name: &str, lines: usize, to: &[&'static str]) -> Message {
    Message { content: format!("Subject: {name}\n\n{}", format!("{name} 0123456789\n").repeat(lines)), to: to.to_vec() }
}

/// What must be true after a cut.
fn check(cut: &AfterCut<'_>, messages: &HashMap<String, Message>) -> Result<(), String> {
    let mut found: HashMap<(&str, String), usize> = HashMap::new();
    for (path, content) in &cut.files {
        let Some(new) = path.parent().filter(|parent| parent.ends_with("new")) else { continue };
        let text = String::from_utf8_lossy(content);
        let whole = |(id, message): &(&String, &Message)| {
            text.starts_with("Return-Path: <>\n") && text.contains(&format!(" id {id}")) && text.ends_with(&message.content)
        };
        let Some((id, _)) = messages.iter().find(whole) else {
            return Err(format!("{} is torn: {} octets", path.display(), content.len()));
        };
        let user = new.parent().and_then(Path::file_name).unwrap().to_str().unwrap().to_owned();
        *found.entry((id, user)).or_default() += 1;
    }
    for id in cut.said.iter().filter_map(|said| said.strip_prefix("250 2.0.0 Ok: stored as ")) {
        let id = id.trim_end();
        for to in &messages[id].to {
            match found.get(&(id, (*to).to_owned())) {
                Some(1) => {}
                other => return Err(format!("{id} got 250 and is {other:?} times in the Maildir of {to}")),
            }
        }
    }
    Ok(())
}

/// So many messages for bob by one client, each after the other.
fn one_by_one(recorded: &Recorded, count: usize) -> HashMap<String, Message> {
    let mut client = recorded.client();
    let messages = (0..count).map(|n| message(&format!("one-{n}"), 3, &["bob"]));
    let messages = messages.map(|message| (deliver(&mut client, &message), message)).collect();
    client.say("QUIT", "221");
    messages
}

#[test]
fn at_any_moment_under_load() {
    let Some(recorded) = Recorded::start(&[]) else { return };
    let messages: Mutex<HashMap<String, Message>> = Mutex::default();
    thread::scope(|scope| {
        for n in 0..4usize {
            let (recorded, messages) = (&recorded, &messages);
            scope.spawn(move || {
                let mut client = recorded.client();
                for round in 0..5usize {
                    // The first messages find no Maildir, all at once; one is larger than what is written at a time.
                    let to: &[&str] = [&["bob"][..], &["alice", "bob"], &["carol", "bob", "alice"]][(n + round) % 3];
                    let lines = if n == 0 && round == 3 { 5000 } else { 1 + round };
                    let message = message(&format!("{n}-{round}"), lines, to);
                    let id = deliver(&mut client, &message);
                    messages.lock().unwrap().insert(id, message);
                }
                client.say("QUIT", "221");
            });
        }
    });
    let (calls, messages) = (recorded.calls(), messages.into_inner().unwrap());
    let states = recorded.each_cut(&calls, 0, &messages).unwrap();
    let said = calls.iter().filter(|call| call.name == "sendto").map(|call| string(&call.arguments[1]));
    assert_eq!(said.filter(|said| said.starts_with(b"250 2.0.0 Ok: stored")).count(), 20);
    assert!(states > 1000, "{states}");
}

/// The classical way by `tmp/`, where a file system knows no unnamed files.
#[test]
fn at_any_moment_without_unnamed_files() {
    let Some(probe) = Recorded::start(&[]) else { return };
    one_by_one(&probe, 100);
    let calls = probe.calls();
    let opened: Vec<&Call> = calls.iter().filter(|call| call.name == "openat").collect();
    let worker = opened.iter().find(|call| call.arguments[2].contains("O_TMPFILE")).expect("O_TMPFILE").thread;
    // strace counts each thread by itself. The others must have opened all that they do before the first is refused.
    let most = opened.iter().filter(|call| call.thread != worker).map(|call| call.thread);
    let most = most.fold(HashMap::<u32, usize>::new(), |mut counts, thread| {
        *counts.entry(thread).or_default() += 1;
        counts
    });
    let most = most.into_values().max().unwrap_or(0) + 5;
    let by_worker = (1..).zip(opened.iter().filter(|call| call.thread == worker));
    let mut unnamed = by_worker.filter(|(_, call)| call.arguments[2].contains("O_TMPFILE")).map(|(nth, _)| nth);
    let before = unnamed.clone().take_while(|nth| *nth <= most).count();
    let nth = unnamed.nth(before).unwrap_or_else(|| panic!("others open {most} files"));
    // From there on a message takes four: unnamed file, tmp/, the file in it, and new/ of the next message.
    let Some(recorded) = Recorded::start(&[format!("inject=openat:error=EOPNOTSUPP:when={nth}+4")]) else { return };
    let messages = one_by_one(&recorded, before + 3);
    let calls = recorded.calls();
    let refused = calls.iter().filter(|call| call.injected && call.arguments[2].contains("O_TMPFILE")).count();
    let named = calls.iter().filter(|call| call.name == "openat" && call.arguments[2].contains("O_EXCL")).count();
    assert!(refused >= 2 && refused == named, "{refused} {named}");
    let first = calls.iter().position(|call| call.injected).unwrap();
    recorded.each_cut(&calls, first, &messages).unwrap();
}

/// A server is killed after it has made a Maildir and before that is durable; the next one finds it there.
#[test]
fn directories_of_a_server_that_was_killed() {
    let inject = ["inject=fsync:retval=0", "inject=linkat:signal=KILL"].map(str::to_owned);
    let Some(mut killed) = Recorded::start(&inject) else { return };
    let mut client = killed.client();
    client.send(b"MAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n").unwrap();
    ["250", "250", "354"].iter().for_each(|want| drop(client.expect(want)));
    client.send(b"Subject: x\r\n.\r\n").unwrap();
    assert_eq!(client.reply(), None, "killed");
    killed.server.wait(PATIENCE);
    assert!(killed.dir.path().join("mail/example.org/bob/new").is_dir(), "the Maildir is made");
    let Some(next) = Recorded::start_in(Arc::clone(&killed.dir), &[]) else { return };
    let messages = one_by_one(&next, 1);
    next.calls();
    let calls = Recorded::parse(&(killed.text() + &next.text()));
    next.each_cut(&calls, 0, &messages).unwrap();
}

/// The spool is used by this test itself, started again under strace; then again with some fsyncs lost.
#[test]
fn the_spool_at_any_moment() {
    const ROOT: &str = "PILLARBOX_POWERCUT_ROOT";
    if let Some(root) = env::var_os(ROOT) {
        return spool::record(Path::new(&root));
    }
    for inject in ["", "inject=fsync:retval=0:when=2+2", "inject=fsync:retval=0:when=3+3", "inject=fdatasync:retval=0"] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().with_extension("strace");
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-xx", "-s", "300000", "-e", CALLS, "-o"]).arg(&log);
        if !inject.is_empty() {
            command.args(["-e", inject]);
        }
        command.arg(env::current_exe().unwrap()).args(["--exact", "the_spool_at_any_moment"]).env(ROOT, dir.path());
        let Ok(output) = command.output() else { return skipped("strace does not work") };
        assert!(output.status.success(), "{inject}: {}", String::from_utf8_lossy(&output.stdout));
        let text = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        let calls = Recorded::parse(&text);
        let outcome = each_cut(&calls, 0, dir.path(), |cut| spool::check(cut, dir.path()));
        match (inject, outcome) {
            ("", outcome) => assert!(outcome.unwrap() > 500),
            (lost, Ok(_)) => panic!("{lost}: nothing is wrong"),
            (lost, Err(why)) => eprintln!("{lost}: {}", why.rsplit("}), ").next().unwrap_or_default()),
        }
    }
}

/// Each fsync of a first delivery is needed, and a disk that does not do it is found out.
#[test]
fn every_fsync_is_needed() {
    let Some(whole) = Recorded::start(&[]) else { return };
    let messages = one_by_one(&whole, 1);
    let calls = whole.calls();
    whole.each_cut(&calls, 0, &messages).unwrap();
    let below = |recorded: &Recorded, call: &Call| {
        call.name == "fsync" && path_of(call.arguments[0].split_once('<').unwrap().1).starts_with(recorded.dir.path())
    };
    // Of what is above, the server has made nothing. strace counts each thread by itself, and one of them does all of these.
    let total = calls.iter().filter(|call| below(&whole, call)).count();
    assert_eq!(total, 6, "bob, example.org, mail, what mail is in, the file, new");
    for nth in 1..=total {
        let Some(recorded) = Recorded::start(&[format!("inject=fsync:retval=0:when={nth}")]) else { return };
        let messages = one_by_one(&recorded, 1);
        let calls = recorded.calls();
        let lost: Vec<&Call> = calls.iter().filter(|call| call.injected && below(&recorded, call)).collect();
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert!(recorded.each_cut(&calls, 0, &messages).is_err(), "{lost:?} is lost, and nothing is wrong");
    }
}
