use std::sync::Arc;

use super::*;
use crate::queue::listing::MessageRow;
use crate::queue::schedule::{HeldWhy, Reason, WaitsFor};
use crate::queue::spool::tests::{envelope, spool};
use crate::queue::spool::{self, Happened, Record, Told, Verdict};
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::remote::Stage;

mod desk;

use desk::Running;

fn put(spool: &Arc<Spool>, from: &str, to: &[&str]) -> QueueId {
    let reverse_path = if from.is_empty() { ReversePath::Null } else { ReversePath::Mailbox(Address::parse(from).unwrap()) };
    let envelope = Envelope { reverse_path, login: from.into(), body: None, ret: None, envid: None, ..envelope(to) };
    spool::tests::put(spool, &envelope, "Subject: x\n\nbody\n").unwrap()
}

fn log(spool: &Spool, id: QueueId, what: Happened) {
    spool.append(id, &Record { time: 1_700_000_123, what }).unwrap();
}

fn begin(recipients: &[u16]) -> Happened {
    Happened::Begin { recipients: recipients.to_vec(), host: "mx.example[192.0.2.9]".into(), tls: Some("1.3".into()) }
}

fn result(recipients: &[u16], verdict: Verdict, stage: Stage, code: Option<u16>, text: &str) -> Happened {
    let told = Told { stage, code, status: code.map(|code| ((code / 100) as u8, 7, 1)), text: text.into() };
    Happened::Result { recipients: recipients.to_vec(), verdict, told }
}

/// The lines of text, the messages, and the end.
fn ask(desk: &dyn Desk, request: Request) -> (Vec<String>, Vec<MessageRow>, End) {
    let (mut lines, mut rows, mut end) = (Vec::new(), Vec::new(), None);
    serve(desk, request, &mut |answer| {
        assert!(end.is_none(), "{answer:?} after the end");
        match answer {
            Answer::Text(line) => lines.push(line),
            Answer::Message(row) => rows.push(*row),
            Answer::Route(row) => lines.push(format!("{row:?}")),
            Answer::End(exit, text) => end = Some((exit, text)),
        }
        Ok(())
    });
    (lines, rows, end.unwrap())
}

fn all() -> Selectors {
    Selectors { all: true, ..Selectors::default() }
}

fn ids(ids: &[&str]) -> Selectors {
    Selectors { ids: ids.iter().map(|id| (*id).to_owned()).collect(), ..Selectors::default() }
}

const MEANWHILE: &str = "a message was sent or returned meanwhile, or the server is still reading it; try again";

#[test]
fn a_verb_is_said_by_its_answer() {
    use schedule::Answer::{Done, Later, Nothing, Unknown};
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, "alice@example.org", &["bob@b.example"]);
    let rows = [
        (Verb::Drop, Done, "dropped", 0, ""),
        (Verb::Return, Done, "returned to the sender", 0, ""),
        (Verb::Hold, Later, "hold: applied when the attempt that is under way is finished", 0, ""),
        (Verb::Drop, Later, "drop: applied when the attempt that is under way is finished", 0, ""),
        (Verb::Hold, Nothing, "is held", 0, ""),
        (Verb::Release, Nothing, "is not held", 0, ""),
        (Verb::Try, Nothing, "is held", 66, "nothing was tried; `pillarbox queue release` lets held messages go"),
        (Verb::Try, Unknown, "is not in the queue at this moment", 66, MEANWHILE),
    ];
    for (verb, answer, want, exit, end) in rows {
        let desk = Running { answers: vec![answer], ..Running::over(&spool, &[id]) };
        let said = ask(&desk, Request::Apply(verb, ids(&[&id.to_string().to_uppercase()])));
        assert_eq!(said, (vec![format!("{id}: {want}")], vec![], (exit, end.to_owned())), "{verb:?} {answer:?}");
        assert_eq!(desk.asked.take(), [(verb, vec![id])]);
    }
}

#[test]
fn of_many_messages_their_number_is_said() {
    use schedule::Answer::{Done, Later, Nothing};
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let many: Vec<QueueId> = (0..NAMED_MAX + 1).map(|_| put(&spool, "alice@example.org", &["bob@b.example"])).collect();
    let desk = Running { answers: vec![Done, Done, Later, Nothing], ..Running::over(&spool, &many) };
    let (lines, _, end) = ask(&desk, Request::Apply(Verb::Try, all()));
    let want = [
        "9 messages: tried now",
        "1 message: try: applied when the attempt that is under way is finished",
        "1 message: held, so nothing was done",
    ];
    assert_eq!((lines.as_slice(), end), (&want.map(str::to_owned)[..], (0, String::new())));
    let (lines, ..) = ask(&Running::over(&spool, &many[1..]), Request::Apply(Verb::Try, all()));
    assert_eq!(lines.len(), NAMED_MAX);
}

/// What is wrong with one id keeps the others from nothing.
#[test]
fn ids_and_selectors() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let first = put(&spool, "alice@example.org", &["bob@b.example", "x@sub.refused.example"]);
    let second = put(&spool, "", &["carol@c.example"]);
    let chosen = |selectors: Selectors| {
        let desk = Running::over(&spool, &[first, second]);
        let (_, _, (exit, text)) = ask(&desk, Request::Apply(Verb::Hold, selectors.clone()));
        let listed: Vec<String> = ask(&desk, Request::List(selectors)).1.into_iter().map(|row| row.id).collect();
        let asked = desk.asked.take().remove(0).1;
        assert_eq!(listed, asked.iter().map(QueueId::to_string).collect::<Vec<_>>(), "a listing and a verb mean the same");
        (asked, exit, text)
    };
    let with = |set: fn(&mut Selectors)| {
        let mut selectors = Selectors::default();
        set(&mut selectors);
        selectors
    };
    let none = QueueId::from_bits(7).to_string();
    let rows = [
        (ids(&[&second.to_string(), &first.to_string(), &second.to_string()]), vec![second, first], 0, ""),
        (ids(&[&none, &first.to_string()]), vec![first], 66, "no message 0000000000007 in the queue"),
        (ids(&["../etc/passwd"]), vec![], 66, "`../etc/passwd` is no queue id"),
        (all(), vec![first, second], 0, ""),
        (with(|s| s.login = Some("alice@example.org".into())), vec![first], 0, ""),
        (with(|s| s.from = Some("<>".into())), vec![second], 0, ""),
        (with(|s| s.to = Some("Carol@c.example".into())), vec![second], 0, ""),
        (with(|s| s.to_domain = Some("b.example".into())), vec![first], 0, ""),
        (with(|s| s.route = Some("next".into())), vec![first, second], 0, ""),
        (with(|s| s.route = Some("refuse".into())), vec![first], 0, ""),
        (with(|s| s.route = Some("nowhere".into())), vec![], 66, "no message in the queue matches"),
        (
            Selectors { ids: vec![second.to_string()], ..with(|s| s.login = Some("alice@example.org".into())) },
            vec![],
            66,
            "matches",
        ),
    ];
    for (selectors, want, exit, text) in rows {
        let got = chosen(selectors.clone());
        assert_eq!((&got.0, got.1), (&want, exit), "{selectors:?}: {got:?}");
        assert!(got.2.contains(text) && (exit == 0) == got.2.is_empty(), "{selectors:?}: {got:?}");
    }
    let empty = Running::over(&spool, &[]);
    assert_eq!(ask(&empty, Request::List(Selectors::default())).2, (0, String::new()));
    assert_eq!(ask(&empty, Request::Apply(Verb::Drop, all())).2, (66, "the queue is empty".to_owned()));
}

#[test]
fn rows() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, "alice@example.org", &["bob@b.example", "carol@c.example"]);
    log(&spool, id, begin(&[0, 1]));
    log(&spool, id, result(&[0], Verdict::Wait, Stage::Recipient, Some(451), "greylisted"));
    log(&spool, id, result(&[1], Verdict::Sent, Stage::Dot, Some(250), "ok"));
    let row = |waits, held| {
        let desk = Running { waits, held, ..Running::over(&spool, &[id]) };
        let mut rows = ask(&desk, Request::List(Selectors::default())).1;
        assert_eq!(rows.len(), 1);
        rows.remove(0)
    };
    let future = rows::rfc3339(4_000_000_000);
    let plain = row(Some(WaitsFor::Time(4_000_000_000)), None);
    assert_eq!((plain.v, plain.size, plain.login.as_str()), (1, 17, "alice@example.org"));
    assert_eq!((plain.from.as_deref(), &plain.next, plain.maybe_twice), (Some("alice@example.org"), &future, false));
    let [bob, carol] = plain.to.as_slice() else { panic!("{plain:?}") };
    assert_eq!(
        (bob.address.as_str(), bob.route.as_str(), bob.state.as_str(), bob.attempts),
        ("bob@b.example", "next", "waits", 1)
    );
    assert_eq!((bob.code, bob.status.as_deref(), bob.text.as_deref()), (Some(451), Some("4.7.1"), Some("greylisted")));
    assert_eq!(bob.last.as_deref(), Some("2023-11-14T22:15:23Z"));
    assert_eq!((carol.state.as_str(), carol.code), ("sent", Some(250)));
    let resting =
        row(Some(WaitsFor::Route { reason: Reason::Dns, next: 4_000_000_000, since: 1_700_000_000, failures: 1 }), None);
    assert_eq!((resting.to[0].text.as_deref(), resting.to[0].code, &resting.next), (Some("route rests: dns"), None, &future));
    let held = row(Some(WaitsFor::Person), Some(HeldWhy::NoResult));
    assert_eq!((held.held.as_deref(), held.next.as_str()), (Some("no-result"), ""));
    let sending = row(Some(WaitsFor::Result), None);
    assert_eq!(sending.to[0].text.as_deref(), Some("is being sent"));
    assert_eq!(row(Some(WaitsFor::Decision), None).next, "");
}

/// A message may have arrived once an attempt has ended after its dot; not while its reply may still come.
#[test]
fn may_have_arrived() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, "alice@example.org", &["bob@b.example", "carol@c.example"]);
    let twice = |waits| {
        let desk = Running { waits: Some(waits), ..Running::over(&spool, &[id]) };
        ask(&desk, Request::List(Selectors::default())).1[0].maybe_twice
    };
    log(&spool, id, begin(&[0, 1]));
    assert!(!twice(WaitsFor::ItsTurn));
    log(&spool, id, Happened::Dot { recipients: Vec::new() });
    assert!(!twice(WaitsFor::Result) && twice(WaitsFor::ItsTurn));
    log(&spool, id, begin(&[0]));
    assert!(twice(WaitsFor::Result), "sent again");
    log(&spool, id, result(&[0], Verdict::Sent, Stage::Dot, Some(250), "ok"));
    assert!(twice(WaitsFor::ItsTurn));
    // What ended without a reply has a result, which is none of the next hop's; a refusal is one.
    let rows = [
        (Verdict::Wait, Some(451), "greylisted", false),
        (Verdict::Failed, Some(550), "no", false),
        (Verdict::Wait, Some(354), "what", true),
        (Verdict::Wait, None, "no reply after the final dot: the server closed the connection", true),
        (Verdict::Failed, None, "no reply after the final dot", true),
    ];
    for (verdict, code, text, want) in rows {
        let id = put(&spool, "alice@example.org", &["bob@b.example"]);
        let twice = || {
            let desk = Running { waits: Some(WaitsFor::ItsTurn), ..Running::over(&spool, &[id]) };
            ask(&desk, Request::List(Selectors::default())).1[0].maybe_twice
        };
        for what in [begin(&[0]), Happened::Dot { recipients: vec![0] }, result(&[0], verdict, Stage::Dot, code, text)] {
            log(&spool, id, what);
        }
        assert_eq!(twice(), want, "{verdict:?} {code:?} {text}");
        // A later attempt does not take it back.
        log(&spool, id, begin(&[0]));
        log(&spool, id, result(&[0], Verdict::Wait, Stage::Recipient, Some(451), "later"));
        assert_eq!(twice(), want, "{verdict:?} {code:?} {text}");
    }
}

#[test]
fn explained_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, "alice@example.org", &["bob@b.example", "carol@c.example"]);
    let explains = |waits, held, parts: &[&str]| {
        let desk = Running { waits: Some(waits), held, ..Running::over(&spool, &[id]) };
        let text = desk.explains(id);
        for part in parts {
            assert!(text.contains(part), "{waits:?}: no `{part}` in\n{text}");
        }
    };
    let time = 4_000_000_000;
    let is_first =
        "It has not been tried yet. It is sent as soon as it is its turn. If it cannot be sent by 2023-11-19T22:13:20Z";
    let both = "To <bob@b.example>, <carol@c.example>, by the route next:";
    explains(WaitsFor::ItsTurn, None, &["from <alice@example.org>, login alice@example.org, accepted 0s ago.", both, is_first]);
    let reason = Reason::Certificate;
    let rests = ["certificate", "The cause is on the way", "no fault of the message; it keeps its place", "2096-10-02T07:06:40Z"];
    let route = |failures| WaitsFor::Route { reason, next: time, since: 1_700_000_000, failures };
    explains(route(1), None, &rests);
    // What is a look at the route is no attempt of the message; both are told.
    let once = ["The way to the server was tried once, and failed.", "It has not been handed to a server yet. The route rests"];
    explains(route(1), None, &once);
    let often = "Since 2023-11-14T22:13:20Z the way to the server was tried 3 times, and failed each time.";
    explains(route(3), None, &[often, once[1]]);
    let desk = Running { waits: Some(route(3)), failed: Some(Attempt::unreached(now() - 60)), ..Running::over(&spool, &[id]) };
    let (text, want) = (
        desk.explains(id),
        "tried 3 times, the last time 1m ago at mx.example[192.0.2.9], and failed each time: \
        \"connection lost: no route to host\" (at connect)",
    );
    assert!(text.contains(want), "{text}");
    // Servers that are found by MX have no `url`.
    let rests = WaitsFor::Route { reason: Reason::Tls, next: time, since: 1_700_000_000, failures: 1 };
    for (to, want) in [("a@b.example", "Look at the route's `url`"), ("a@b.direct.example", "do: Ask the server's operator.")] {
        let id = put(&spool, "alice@example.org", &[to]);
        let text = Running { waits: Some(rests), ..Running::over(&spool, &[id]) }.explains(id);
        assert!(text.contains(want), "{text}");
    }
    let release = format!("`pillarbox queue release {id}`");
    explains(WaitsFor::Person, Some(HeldWhy::Operator), &["holds the message back", &release, "It stays until you release it"]);
    explains(WaitsFor::Person, Some(HeldWhy::MayHaveArrived), &["may have arrived", &format!("`pillarbox queue drop {id}`")]);
    explains(WaitsFor::Result, None, &["It is being sent at this moment."]);
    explains(WaitsFor::Decision, None, &["only then is it known"]);
    log(&spool, id, begin(&[0, 1]));
    log(&spool, id, result(&[0], Verdict::Wait, Stage::Recipient, Some(451), "wait \u{9b}2J"));
    log(&spool, id, result(&[1], Verdict::Sent, Stage::Dot, Some(250), "ok"));
    let waits = [
        "To <bob@b.example>, by the route next: The server",
        "The cause is on the recipient's side.",
        "The server said: \"451 4.7.1 wait 2J\" (at rcpt)",
        "It was tried once. It is tried again at 2096-10-02T07:06:40Z (in ",
        "To <carol@c.example>, by the route next:",
        "The next server has it; nothing is left to do here.",
    ];
    explains(WaitsFor::Time(time), None, &waits);
    log(&spool, id, begin(&[0]));
    log(&spool, id, result(&[0], Verdict::Wait, Stage::Connect, None, "connection lost: no route to host"));
    let lost = [
        "No connection to the server could be made",
        "The last attempt: \"connection lost: no route to host\" (at connect)",
        "It was tried 2 times.",
    ];
    explains(WaitsFor::Time(time), None, &lost);
}

#[test]
fn what_went_wrong_with_the_sender_is_the_sender_s() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, "alice@example.org", &["bob@b.example", "x@a.refused.example"]);
    log(&spool, id, begin(&[0]));
    log(&spool, id, result(&[0], Verdict::Failed, Stage::Mail, Some(550), "not you"));
    let desk = Running { waits: Some(WaitsFor::ItsTurn), ..Running::over(&spool, &[id]) };
    let text = desk.explains(id);
    assert!(text.contains("The cause is on the sender's side"), "{text}");
    assert!(text.contains("It is not tried again; its sender is told next."), "{text}");
    assert!(
        text.contains("by the route refuse: This server is configured not to send this mail. The cause is this mail server."),
        "{text}"
    );
    log(&spool, id, Happened::Reported { recipients: vec![0], action: "failed".into() });
    assert!(desk.explains(id).contains("It is not tried again, and its sender was told."));
}

#[test]
fn shown_with_every_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = put(&spool, "alice@example.org", &["bob@b.example", "carol@c.example"]);
    log(&spool, id, begin(&[0, 1]));
    log(&spool, id, Happened::Dot { recipients: Vec::new() });
    log(&spool, id, result(&[0], Verdict::Wait, Stage::Recipient, Some(451), "greylisted"));
    log(&spool, id, Happened::Hold("operator".into()));
    log(&spool, id, Happened::Release);
    let desk = Running { waits: Some(WaitsFor::Time(4_000_000_000)), ..Running::over(&spool, &[id]) };
    let (lines, _, end) = ask(&desk, Request::Show(id.to_string()));
    assert_eq!(end, (0, String::new()));
    let want = [
        "from      <alice@example.org>",
        "login     alice@example.org",
        "session   k3f9",
        "size      17 octets",
        "note      may have arrived: an attempt ended after the final dot without a reply",
        "to 1      <bob@b.example> route next: waits, 1 attempt, next 2096-10-02T07:06:40Z",
        "to 2      <carol@c.example> route next: waits, 1 attempt, next 2096-10-02T07:06:40Z",
        "2023-11-14T22:15:23Z  all: sent to mx.example[192.0.2.9], TLS 1.3",
        "2023-11-14T22:15:23Z  final dot",
        "2023-11-14T22:15:23Z  1: wait at rcpt: 451 4.7.1 greylisted",
        "2023-11-14T22:15:23Z  held: operator",
        "2023-11-14T22:15:23Z  released",
    ];
    assert_eq!(lines[0], format!("id        {id}"));
    assert!(lines[1].starts_with("arrived   2") && lines[1].ends_with("s ago)"), "{}", lines[1]);
    assert_eq!(lines[2..], want);
    let missing = ask(&desk, Request::Show("06qz8x1c2v3b4".into()));
    assert_eq!((missing.0.len(), missing.2.0), (0, 66));
}

/// A damaged file is in no schedule; it is listed all the same, and can be dropped.
#[test]
fn damaged_files() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let id = QueueId::from_bits(9);
    let path = dir.path().join("held").join(id.to_string());
    std::fs::write(&path, "no message\n").unwrap();
    let desk = Running { answers: vec![schedule::Answer::Unknown], ..Running::over(&spool, &[]) };
    let row = ask(&desk, Request::List(Selectors::default())).1.remove(0);
    assert_eq!((row.id.as_str(), row.held.as_deref(), row.next.as_str()), ("0000000000009", Some("damaged"), ""));
    let shown = ask(&desk, Request::Show(id.to_string())).0.join("\n");
    assert!(shown.contains("damaged: 11 octets") && shown.contains(&path.display().to_string()), "{shown}");
    let explained = desk.explains(id);
    assert!(explained.contains("its file is damaged") && explained.contains("queue drop 0000000000009"), "{explained}");
    let (_, _, (exit, text)) = ask(&desk, Request::Apply(Verb::Release, ids(&["0000000000009"])));
    assert!(exit == 71 && text.contains("damaged"), "{text}");
    assert!(path.exists());
    let dropped = ask(&desk, Request::Apply(Verb::Drop, ids(&["0000000000009"])));
    assert_eq!((dropped.0, dropped.2.0), (vec![format!("{id}: dropped")], 0));
    assert!(!path.exists());
}

#[test]
fn routes_and_their_probe() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path());
    let desk = Running::over(&spool, &[]);
    let lines = ask(&desk, Request::Routes).0;
    assert!(lines[0].contains("\"resting\", why: Some(\"certificate\"), since: Some(\"2023-11-14T22:13:20Z\")"), "{lines:?}");
    assert!(lines[0].contains("next: Some(\"2023-11-14T22:23:20Z\"), waiting: 3"), "{lines:?}");
    assert!(lines[1].contains("name: \"other\", state: \"well\", why: None"), "{lines:?}");
    assert_eq!(ask(&desk, Request::TryRoute("next".into())).2, (0, "next: is tried now".into()));
    assert_eq!(ask(&desk, Request::TryRoute("mx".into())).2, (0, "mx: does not rest, so there is nothing to try".into()));
    let wrong = "no route `othr`, the nearest known is `other`; see `pillarbox routes`";
    assert_eq!(ask(&desk, Request::TryRoute("othr".into())).2, (66, wrong.into()));
}
