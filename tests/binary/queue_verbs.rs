//! What an operator does with the outgoing queue while no server runs: the binary's verbs on files of a spool.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crate::common::{Setup, give_to_nobody, require_root};
use pillarbox::mail::durable::Faults;
use pillarbox::queue::QueueId;
use pillarbox::queue::listing::MessageRow;
use pillarbox::queue::spool::{Envelope, Happened, QueuedRecipient, Record, Spool, Told, Verdict};
use pillarbox::smtp::address::{Address, ReversePath};
use pillarbox::smtp::remote::Stage;
use tempfile::TempDir;

/// A configuration and a spool with three messages.
struct Place {
    dir: TempDir,
    config: PathBuf,
    alice: String,
    report: String,
    bob: String,
}

const NOW: u64 = 1_700_000_123;

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Setup::default().outgoing().write(dir.path());
        let text = fs::read_to_string(&config).unwrap() + "[outgoing.to]\n\"*.refused.example\" = \"refuse\"\n";
        fs::write(&config, text).unwrap();
        let spool = Arc::new(Spool::open(&dir.path().join("spool"), Faults::default()).unwrap().0);
        let alice = put(&spool, "alice@example.org", &["carol@c.example", "dan@d.example"]);
        let report = put(&spool, "", &["eve@e.example"]);
        let bob = put(&spool, "bob@example.org", &["x@sub.refused.example"]);
        let begin = Happened::Begin { recipients: vec![0, 1], host: "relay.example[192.0.2.9]".into(), tls: None };
        let told =
            Told { stage: Stage::Recipient, code: Some(451), status: Some((4, 7, 1)), text: "come \u{9b}31m again".into() };
        let result = Happened::Result { recipients: vec![0], verdict: Verdict::Wait, told };
        for what in [begin, Happened::Dot { recipients: Vec::new() }, result] {
            spool.append(alice, &Record { time: NOW, what }).unwrap();
        }
        spool.set_due(alice, 4_000_000_000).unwrap();
        drop(spool);
        give_to_nobody(dir.path());
        Self { config, alice: alice.to_string(), report: report.to_string(), bob: bob.to_string(), dir }
    }

    fn run(&self, words: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(words).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let Output { status, stdout, stderr } = output;
        let (stdout, stderr) = (text(stdout), text(stderr));
        for line in stdout.lines().chain(stderr.lines()) {
            assert!(!line.chars().any(char::is_control), "{words:?}: {line:?}");
        }
        (status.code(), stdout, stderr)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pillarbox"));
        command.arg("-c").arg(&self.config).args(words).stdin(Stdio::null());
        command
    }

    fn list(&self, selectors: &[&str]) -> Vec<MessageRow> {
        let (code, stdout, stderr) = self.run(&[&["queue", "--json"], selectors].concat());
        assert_eq!(code, Some(0), "{stderr}");
        stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    fn row(&self, id: &str) -> Option<MessageRow> {
        self.list(&[]).into_iter().find(|row| row.id == id)
    }

    fn file(&self, part: &str, id: &str) -> PathBuf {
        self.dir.path().join("spool").join(part).join(id)
    }

    fn read(&self, id: &str) -> pillarbox::queue::spool::QueuedMessage {
        Spool::open(&self.dir.path().join("spool"), Faults::default()).unwrap().0.read(id.parse().unwrap()).unwrap()
    }
}

fn put(spool: &Arc<Spool>, from: &str, to: &[&str]) -> QueueId {
    let recipient = |to: &&str| QueuedRecipient { address: Address::parse(to).unwrap(), notify: None, orcpt: None };
    let envelope = Envelope {
        reverse_path: if from.is_empty() { ReversePath::Null } else { ReversePath::Mailbox(Address::parse(from).unwrap()) },
        login: from.into(),
        session: "k3f9".into(),
        body: None,
        utf8: false,
        ret: None,
        envid: None,
        recipients: to.iter().map(recipient).collect(),
    };
    let mut draft = spool.begin(&envelope).unwrap();
    draft.write_all(b"Subject: x\n\nbody\n").unwrap();
    draft.commit().unwrap().keep()
}

#[test]
fn a_line_a_message_and_an_object_a_message() {
    let place = Place::new();
    let (code, stdout, stderr) = place.run(&["queue"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = stdout.lines().collect();
    let [alice, report, bob] = lines.as_slice() else { panic!("{stdout}") };
    let why = "may have arrived; 451 4.7.1 come  31m again";
    assert!(alice.starts_with(&place.alice) && alice.contains("  alice@example.org  carol@c.example (+1) "), "{alice}");
    assert!(alice.contains(" in ") && alice.ends_with(why), "{alice}");
    assert!(
        report.contains("  <>                 eve@e.example ")
            && report.contains("  now ")
            && report.ends_with("  not tried yet"),
        "{report}"
    );
    assert!(bob.contains("x@sub.refused.example"), "{bob}");
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{stdout}");
    let rows = place.list(&[]);
    assert_eq!(rows.iter().map(|row| &row.id).collect::<Vec<_>>(), [&place.alice, &place.report, &place.bob]);
    let row = &rows[0];
    assert_eq!((row.next.as_str(), row.maybe_twice, row.held.as_ref()), ("2096-10-02T07:06:40Z", true, None));
    assert_eq!((row.to[0].route.as_str(), row.to[0].code, row.to[0].attempts), ("next", Some(451), 1));
    assert_eq!(row.to[0].last.as_deref(), Some("2023-11-14T22:15:23Z"));
    assert_eq!(row.to[1].text.as_deref(), Some("no reply after the final dot"));
    assert_eq!((rows[1].from.as_ref(), rows[2].to[0].route.as_str()), (None, "refuse"));
}

/// The objects are what a script takes them for.
#[test]
fn json_is_json_elsewhere_too() {
    let place = Place::new();
    let script =
        "import json,sys\nfor l in sys.stdin: r=json.loads(l); print(r['v'], r['from'], [t['address'] for t in r['to']])";
    let mut python = Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = place.run(&["queue", "--json"]).1;
    python.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let said = String::from_utf8(python.wait_with_output().unwrap().stdout).unwrap();
    let want = "1 alice@example.org ['carol@c.example', 'dan@d.example']\n1 None ['eve@e.example']\n\
                1 bob@example.org ['x@sub.refused.example']\n";
    assert_eq!(said, want);
}

#[test]
fn selectors() {
    let place = Place::new();
    let rows: [(&[&str], &[&String]); 7] = [
        (&["--login", "alice@example.org"], &[&place.alice]),
        (&["--from", "<>"], &[&place.report]),
        (&["--to", "dan@D.example"], &[&place.alice]),
        (&["--to-domain", "e.example"], &[&place.report]),
        (&["--route", "next"], &[&place.alice, &place.report]),
        (&["--route", "refuse", "--login", "bob@example.org"], &[&place.bob]),
        (&["--all"], &[&place.alice, &place.report, &place.bob]),
    ];
    for (selectors, want) in rows {
        let ids: Vec<String> = place.list(selectors).into_iter().map(|row| row.id).collect();
        assert_eq!(ids.iter().collect::<Vec<_>>(), want, "{selectors:?}");
    }
    let (code, stdout, stderr) = place.run(&["queue", "--login", "carol@example.org", "--json"]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(66), "", "pillarbox: no message in the queue matches\n"));
    let (code, _, stderr) = place.run(&["queue", "hold", "--login", "bob@example.org"]);
    assert_eq!((code, stderr), (Some(0), format!("pillarbox: {}: held\n", place.bob)));
}

#[test]
fn shown_and_explained() {
    let place = Place::new();
    let (code, stdout, _) = place.run(&["queue", "show", &place.alice]);
    assert_eq!(code, Some(0));
    for line in [
        "from      <alice@example.org>",
        "to 1      <carol@c.example> route next: waits, 1 attempt, next 2096-10-02T07:06:40Z",
        "2023-11-14T22:15:23Z  all: sent to relay.example[192.0.2.9], without TLS",
        "2023-11-14T22:15:23Z  final dot",
        "2023-11-14T22:15:23Z  1: wait at rcpt: 451 4.7.1 come  31m again",
    ] {
        let found = stdout.lines().any(|one| one == line);
        assert!(found, "no `{line}` in\n{stdout}");
    }
    let (code, stdout, _) = place.run(&["queue", "show", &place.alice, "--json"]);
    assert_eq!((code, serde_json::from_str::<MessageRow>(&stdout).unwrap().id), (Some(0), place.alice.clone()));
    let (code, stdout, _) = place.run(&["queue", "explain", &place.alice.to_uppercase()]);
    let words: Vec<&str> = stdout.split_whitespace().collect();
    let words = words.join(" ");
    for part in [
        "To <carol@c.example>, by the route next:",
        "The cause is on the recipient's side.",
        "No server runs at present; once one does, it is tried at 2096-10-02T07:06:40Z",
        "it goes back to its sender with a report",
        "It may have arrived",
    ] {
        assert!(code == Some(0) && words.contains(part), "no `{part}` in\n{stdout}");
    }
    let (_, stdout, _) = place.run(&["queue", "explain", &place.bob]);
    assert!(stdout.contains("[outgoing.to]"), "{stdout}");
}

#[test]
fn hold_and_release() {
    let place = Place::new();
    let id = place.alice.as_str();
    let say = |words: &[&str]| {
        let (code, stdout, stderr) = place.run(words);
        assert_eq!(stdout, "");
        (code, stderr.trim_end().strip_prefix("pillarbox: ").unwrap_or(&stderr).to_owned())
    };
    assert_eq!(say(&["queue", "hold", id]), (Some(0), format!("{id}: held")));
    assert!(place.file("held", id).exists() && !place.file("queue", id).exists());
    assert!(place.run(&["queue"]).1.lines().next().unwrap().contains("  held  "));
    let row = place.row(id).unwrap();
    assert_eq!((row.held.as_deref(), row.next.as_str()), (Some("operator"), ""));
    assert_eq!(say(&["queue", "hold", id]), (Some(0), format!("{id}: is held")));
    let (code, text) = say(&["queue", "try", id]);
    assert!(code == Some(66) && text.contains("release"), "{text}");
    assert_eq!(say(&["queue", "release", id]), (Some(0), format!("{id}: released")));
    assert!(place.file("queue", id).exists() && !place.file("held", id).exists());
    assert_eq!(place.row(id).unwrap().held, None);
    assert_eq!(say(&["queue", "release", id]), (Some(0), format!("{id}: is not held")));
    assert!(place.read(id).released().is_some());
    let due = fs::metadata(place.file("queue", id)).unwrap().mtime();
    assert!(due < 4_000_000_000, "its next attempt is now");
}

#[test]
fn try_return_and_drop() {
    let place = Place::new();
    let id = place.alice.as_str();
    let (code, _, stderr) = place.run(&["queue", "try", id]);
    assert_eq!((code, stderr), (Some(0), format!("pillarbox: {id}: tried when the server starts\n")));
    assert!(fs::metadata(place.file("queue", id)).unwrap().mtime() < 4_000_000_000);
    assert!(!place.read(id).is_to_be_returned());
    for _ in 0..2 {
        let (code, _, stderr) = place.run(&["queue", "return", id]);
        assert_eq!((code, stderr), (Some(0), format!("pillarbox: {id}: returned to the sender when the server starts\n")));
    }
    assert!(place.read(id).is_to_be_returned());
    let records = place.read(id).log.iter().filter(|record| record.what == Happened::Return).count();
    assert_eq!(records, 1, "the second adds nothing");
    let row = place.row(id).unwrap();
    assert_eq!((row.to[1].state.as_str(), row.to[1].text.as_deref()), ("returned", Some("returned when the server starts")));
    assert!(place.run(&["queue", "explain", id]).1.contains("goes back to its sender"));
    // A later hold takes it back.
    place.run(&["queue", "hold", id]);
    assert!(!place.read(id).is_to_be_returned() && place.row(id).unwrap().to[1].state == "waits");
    place.run(&["queue", "return", id]);
    assert!(place.read(id).is_to_be_returned() && place.row(id).unwrap().held.is_none());
    let (code, _, stderr) = place.run(&["queue", "drop", id, &place.bob]);
    assert_eq!((code, stderr), (Some(0), format!("pillarbox: {id}: dropped\npillarbox: {}: dropped\n", place.bob)));
    assert_eq!(place.list(&[]).len(), 1);
    assert!(!place.file("held", id).exists() && !place.file("queue", id).exists());
}

#[test]
fn wrong_ids_are_named_and_the_others_done() {
    let place = Place::new();
    let none = "0000000000007";
    let (code, _, stderr) = place.run(&["queue", "drop", none, &place.bob, "../users"]);
    assert_eq!(code, Some(66));
    for part in [&format!("{}: dropped", place.bob), "no message 0000000000007 in the queue", "`../users` is no queue id"] {
        assert!(stderr.contains(part), "no `{part}` in {stderr}");
    }
    for words in [&["queue", "show", none][..], &["queue", "explain", "x"], &["queue", "hold", "--to", "x@y"]] {
        let (code, stdout, stderr) = place.run(words);
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(66), "", 1), "{words:?}: {stderr}");
    }
}

#[test]
fn all_is_asked_for_twice() {
    let place = Place::new();
    let (code, _, stderr) = place.run(&["queue", "drop", "--all"]);
    assert!(code == Some(64) && stderr.contains("--yes"), "{stderr}");
    assert_eq!(place.list(&[]).len(), 3);
    let (code, _, stderr) = place.run(&["queue", "drop", "--all", "--yes"]);
    assert_eq!((code, stderr.lines().count()), (Some(0), 3), "{stderr}");
    assert_eq!(place.run(&["queue"]), (Some(0), "the queue is empty\n".into(), String::new()));
    assert_eq!(place.run(&["queue", "--json"]), (Some(0), String::new(), String::new()));
    let (code, _, stderr) = place.run(&["queue", "drop", "--all", "--yes"]);
    assert_eq!((code, stderr.as_str()), (Some(66), "pillarbox: the queue is empty\n"));
}

#[test]
fn many_are_counted() {
    let place = Place::new();
    let spool = Arc::new(Spool::open(&place.dir.path().join("spool"), Faults::default()).unwrap().0);
    for _ in 0..20 {
        put(&spool, "alice@example.org", &["carol@c.example"]);
    }
    drop(spool);
    give_to_nobody(place.dir.path());
    let (code, _, stderr) = place.run(&["queue", "hold", "--all", "--yes"]);
    assert_eq!((code, stderr.as_str()), (Some(0), "pillarbox: 23 messages: held\n"));
    let (_, _, stderr) = place.run(&["queue", "release", "--login", "alice@example.org"]);
    assert_eq!(stderr, "pillarbox: 21 messages: released\n");
}

#[test]
fn wrong_words() {
    let place = Place::new();
    let rows: [(&[&str], &str); 12] = [
        (&["queue", "dorp", "x"], "unknown action `queue dorp`, the nearest known is `queue drop`"),
        (&["queue", "relase"], "the nearest known is `queue release`"),
        (&["queue", "0000000000007"], "`pillarbox queue show 0000000000007`"),
        (&["queue", "hold"], "`queue hold` needs an ID, a selector"),
        (&["queue", "show"], "`queue show` takes one ID"),
        (&["queue", "explain", "a", "b"], "`queue explain` takes one ID"),
        (&["queue", "show", "a", "--login", "b"], "`queue show` takes one ID"),
        (&["queue", "hold", "a", "--all", "--yes"], "--all is every message"),
        (&["queue", "hold", "a", "--yes"], "--yes belongs to --all"),
        (&["queue", "hold", "a", "--json"], "--json belongs to `queue` and `queue show`"),
        (&["queue", "--label", "x"], "--label is an option of `user`, not of `queue`"),
        (&["routes", "--all"], "--all is an option of `queue`, not of `routes`"),
    ];
    for (words, want) in rows {
        let (code, stdout, stderr) = place.run(words);
        assert!(code == Some(64) && stdout.is_empty() && stderr.contains(want), "{words:?}: {code:?} {stderr}");
    }
    for words in
        [&["routes", "tyr", "next"][..], &["routes", "try"], &["routes", "try", "a", "b"], &["routes", "try", "a", "--json"]]
    {
        assert_eq!(place.run(words).0, Some(64), "{words:?}");
    }
}

#[test]
fn without_a_server_routes_are_not_known() {
    let place = Place::new();
    for words in [&["routes"][..], &["routes", "--json"], &["routes", "try", "next"]] {
        let (code, stdout, stderr) = place.run(words);
        assert!(code == Some(66) && stdout.is_empty() && stderr.contains("no server runs on this spool"), "{words:?}: {stderr}");
    }
}

#[test]
fn without_outgoing_nothing_is_queued() {
    let place = Place::new();
    Setup::default().write(place.dir.path());
    give_to_nobody(place.dir.path());
    for words in [&["queue"][..], &["queue", "drop", "--all", "--yes"], &["routes"]] {
        let (code, stdout, stderr) = place.run(words);
        let want = format!("pillarbox: no [outgoing] in {}: nothing is queued\n", place.config.display());
        assert_eq!((code, stdout.as_str(), stderr), (Some(66), "", want), "{words:?}");
    }
}

/// A spool that no server has made yet is not made by a listing.
#[test]
fn before_the_first_start() {
    let place = Place::new();
    let spool = place.dir.path().join("spool");
    fs::remove_dir_all(&spool).unwrap();
    assert_eq!(place.run(&["queue"]), (Some(0), "the queue is empty\n".into(), String::new()));
    let (code, _, stderr) = place.run(&["queue", "show", &place.alice]);
    assert!(code == Some(66) && stderr.contains("made when the server starts"), "{stderr}");
    assert!(!spool.exists());
}

/// A process that has the spool and answers nothing: the cure is said.
#[test]
fn locked_without_an_answer() {
    let place = Place::new();
    let spool = Spool::open(&place.dir.path().join("spool"), Faults::default()).unwrap();
    let (code, stdout, stderr) = place.run(&["queue"]);
    assert_eq!((code, stdout.as_str()), (Some(71), ""));
    assert!(stderr.contains("another process has it") && stderr.contains("fuser -v"), "{stderr}");
    drop(spool);
    assert_eq!(place.run(&["queue"]).0, Some(0));
}

/// What root does is done as the server's user; another user is told who may.
#[test]
fn root_becomes_the_user_first() {
    if !require_root() {
        return;
    }
    let place = Place::new();
    place.run(&["queue", "hold", &place.alice]);
    place.run(&["queue", "try", &place.report]);
    place.run(&["queue", "return", &place.bob]);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    let lock = place.dir.path().join("spool/lock");
    for path in [place.file("held", &place.alice), place.file("queue", &place.report), place.file("queue", &place.bob), lock] {
        assert_eq!(fs::metadata(&path).unwrap().uid(), nobody, "{}", path.display());
    }
    // A spool of root's own is not the server's.
    let spool = place.dir.path().join("spool");
    for part in ["queue", "held", "tmp", "."] {
        nix::unistd::chown(&spool.join(part), Some(nix::unistd::Uid::from_raw(0)), None).unwrap();
    }
    let (code, _, stderr) = place.run(&["queue"]);
    assert!(code == Some(77) && stderr.contains("only root and the user `nobody` may do that"), "{stderr}");
}
