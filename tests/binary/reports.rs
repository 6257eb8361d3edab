//! Reports as the programs read them that people have: Python's email package, flufl.bounce (what Mailman finds bounces
//! with), mutt. A tool that is not installed is skipped, and the test says so; with PILLARBOX_REQUIRE_TOOLS=1 it fails.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{finish, python, require, said, skipped};
use jiff::Zoned;
use pillarbox::queue::explain::Cause;
use pillarbox::queue::letter::{Letter, Letterhead};
use pillarbox::queue::notice::{self, Resting};
use pillarbox::queue::report::{self, Kind, Original, Outcome};
use pillarbox::queue::schedule::{Reason, Trouble};
use pillarbox::smtp::address::Address;
use pillarbox::smtp::dsn::{Orcpt, Ret};
use pillarbox::smtp::remote::{RemoteReply, Stage};
use tempfile::TempDir;

const MESSAGE: &str = "Received: by mx.example.org with ESMTPSA id x;\n\tTue, 24 Nov 2026 12:00:00 +0000\nFrom: alice@example.org\n\
                       To: bob@elsewhere.example\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?= to all\nMessage-ID: <m@example.org>\n\nbody\n";

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn time(text: &str) -> Zoned {
    text.parse().unwrap()
}

/// One report of each kind, by name.
fn reports() -> Vec<(&'static str, Letter)> {
    let (from, alice, joerg) = (address("postmaster@example.org"), address("alice@example.org"), address("jörg@bücher.example"));
    let [bob, carol, dave] = ["bob@elsewhere.example", "\"c d\"@elsewhere.example", "dave@other.example"].map(address);
    let (now, arrived) = (time("2026-11-24T12:05:00+01:00[+01:00]"), time("2026-11-24T12:00:00+01:00[+01:00]"));
    let until = time("2026-11-29T12:00:00+01:00[+01:00]");
    let reply = |code, status, text: &str| RemoteReply { code, status, text: text.into() };
    let unknown = reply(550, Some((5, 1, 1)), &"The email account that you tried to reach does not exist. ".repeat(5));
    let greylisted = reply(451, Some((4, 7, 1)), "greylisted, come back later");
    let evil = reply(554, None, "no\r\n\r\n--report-evil--\r\nAction: delivered");
    let strange = reply(553, Some((5, 6, 7)), "keine Ünicode-Adressen");
    let fine = reply(250, Some((2, 0, 0)), "queued as ABC");
    let orcpt = Orcpt::parse("rfc822;Bob+2Bx@elsewhere.example").unwrap();
    let outcome = |to| Outcome {
        address: to,
        orcpt: None,
        cause: None,
        reply: None,
        host: Some("mx.elsewhere.example"),
        attempted: Some(&now),
        expired: false,
        maybe_twice: false,
    };
    let refused = |to, reply| Outcome { cause: Some(Cause::reply(Stage::Recipient, reply)), reply: Some(reply), ..outcome(to) };
    let build = |name: &'static str, kind, ret, message: &str, outcomes: &[Outcome<'_>]| {
        let head = Letterhead { hostname: "mx.example.org", from: &from, now: &now, id: name };
        let text = message.as_bytes();
        let original = Original { id: "q1", sender: &alice, arrived: &arrived, ret, envid: Some("QQ 1"), text, whole: true };
        (name, report::build(kind, head, original, outcomes))
    };
    let lost = Outcome {
        cause: Some(Cause::Trouble(Stage::Dot, Trouble::Unanswered)),
        maybe_twice: true,
        expired: true,
        reply: None,
        ..outcome(&dave)
    };
    let back = Outcome { cause: Some(Cause::Returned), host: None, attempted: None, ..outcome(&dave) };
    let with_orcpt = Outcome { orcpt: Some(&orcpt), ..refused(&bob, &unknown) };
    let eight_bit = "From: alice@example.org\nSubject: x\n\nGrüße\n--report-eightbit--\n";
    let utf8 = "From: jörg@bücher.example\nSubject: Grüße\n\nbody\n";
    vec![
        build("failure", Kind::Failure, Some(Ret::Headers), MESSAGE, &[refused(&bob, &unknown)]),
        build("several", Kind::Failure, Some(Ret::Full), MESSAGE, &[with_orcpt, refused(&carol, &evil), lost]),
        build("eightbit", Kind::Failure, Some(Ret::Full), eight_bit, &[refused(&bob, &evil)]),
        build("returned", Kind::Failure, None, MESSAGE, &[back]),
        build("delay", Kind::Delay(&until), None, MESSAGE, &[refused(&bob, &greylisted), refused(&dave, &greylisted)]),
        build("delivered", Kind::Delivered, None, MESSAGE, &[Outcome { host: None, attempted: None, ..outcome(&bob) }]),
        build("relayed", Kind::Relayed, Some(Ret::Full), MESSAGE, &[Outcome { reply: Some(&fine), ..outcome(&bob) }]),
        build("international", Kind::Failure, None, utf8, &[refused(&joerg, &strange)]),
    ]
}

fn notices() -> Vec<(&'static str, Letter)> {
    let (from, to) = (address("postmaster@example.org"), address("me@elsewhere.example"));
    let now = time("2026-11-24T12:05:00+00:00[UTC]");
    let resting = Resting {
        route: "provider",
        host: Some("smtp.relay.example"),
        since: &now,
        cause: Cause::Rests(Reason::Certificate),
        reply: None,
        next: Some(&now),
        tried: &[],
    };
    let head = |id| Letterhead { hostname: "mx.example.org", from: &from, now: &now, id };
    vec![
        ("rests", notice::rests(head("rests"), &to, resting, 2)),
        ("well", notice::well(head("well"), &to, "provider", &now, 2)),
        (
            "late",
            notice::late(
                head("late"),
                &to,
                notice::Late { messages: 2, oldest: &now, until: &now, postmaster_knows: true },
                resting,
            ),
        ),
    ]
}

/// A Maildir with all of them.
fn maildir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for part in ["cur", "new", "tmp"] {
        fs::create_dir(dir.path().join(part)).unwrap();
    }
    for (at, (name, letter)) in reports().into_iter().chain(notices()).enumerate() {
        assert_eq!(letter.eight_bit, !letter.text.is_ascii(), "{name}");
        fs::write(dir.path().join(format!("new/{at:02}.{name}")), letter.text).unwrap();
    }
    dir
}

fn run_python(python: &str, code: &str, dir: &Path) -> String {
    let output = finish(Command::new(python).args(["-c", code]).arg(dir.join("new")).stdin(Stdio::null()));
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The structure, without defects, for the old and the new parser alike; and that sentences are short lines.
#[test]
fn python_email_reads_them() {
    if !require(&["python3"]) {
        return;
    }
    let code = r#"
import email, email.policy, os, sys
for name in sorted(os.listdir(sys.argv[1])):
    seen = set()
    for policy in email.policy.default, email.policy.compat32:
        m = email.message_from_bytes(open(os.path.join(sys.argv[1], name), 'rb').read(), policy=policy)
        parts = list(m.walk())
        assert not any(p.defects for p in parts), (name, [(p.get_content_type(), p.defects) for p in parts])
        text = next(p for p in parts if p.get_content_type() == 'text/plain')
        text = text.get_payload(decode=True).decode(text.get_content_charset())
        assert all(len(line) <= 78 for line in text.splitlines()), (name, text)
        assert 'postmaster@example.org' in m['From'] and m['Auto-Submitted'].startswith('auto-'), name
        if m.get_content_type() != 'multipart/report':
            seen.add('notice')
            continue
        assert len(m.get_payload()) == 3, name
        status = m.get_payload()[1]
        assert m.get_param('report-type') == status.get_content_subtype(), name
        if status.get_content_subtype() == 'delivery-status':
            blocks = status.get_payload()
        else:
            # Its fields are UTF-8, which the package leaves as octets.
            raw = open(os.path.join(sys.argv[1], name), encoding='utf-8').read().split('global-delivery-status\n')[1]
            blocks = [email.message_from_string(block, policy=policy) for block in raw.split('\n\n')[1:3]]
        assert blocks[0]['Reporting-MTA'] == 'dns; mx.example.org' and blocks[0]['Original-Envelope-Id'] == 'QQ 1', name
        rows = [' '.join((b['Final-Recipient'], b['Action'], b['Status'])) for b in blocks[1:] if b['Action']]
        seen.add(m.get_payload()[2].get_content_type() + ' | ' + ' | '.join(rows))
    assert len(seen) == 1, (name, seen)
    print(name.split('.')[1], *seen)
"#;
    let want = [
        "failure text/rfc822-headers | rfc822; bob@elsewhere.example failed 5.1.1",
        "several message/rfc822 | rfc822; bob@elsewhere.example failed 5.1.1 | rfc822; \"c d\"@elsewhere.example failed 5.0.0 | \
         rfc822; dave@other.example failed 5.4.2",
        "eightbit message/rfc822 | rfc822; bob@elsewhere.example failed 5.0.0",
        "returned text/rfc822-headers | rfc822; dave@other.example failed 5.3.0",
        "delay text/rfc822-headers | rfc822; bob@elsewhere.example delayed 4.7.1 | rfc822; dave@other.example delayed 4.7.1",
        "delivered text/rfc822-headers | rfc822; bob@elsewhere.example delivered 2.0.0",
        "relayed text/rfc822-headers | rfc822; bob@elsewhere.example relayed 2.0.0",
        "international message/global-headers | utf-8; jörg@bücher.example failed 5.6.7",
        "rests notice",
        "well notice",
        "late notice",
    ];
    let dir = maildir();
    let got = run_python("python3", code, dir.path());
    assert_eq!(got.lines().collect::<Vec<_>>(), want);
}

/// Mailing list managers find the addresses that failed, all of them and no other, and none in anything else.
#[test]
fn flufl_bounce_finds_the_failed_and_no_other() {
    let python = python();
    let has = Command::new(&python).args(["-c", "import flufl.bounce"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        assert!(env::var_os("PILLARBOX_REQUIRE_TOOLS").is_none(), "flufl.bounce is not installed");
        skipped("flufl.bounce not installed");
        return;
    }
    let code = r#"
import email, os, sys
from flufl.bounce import all_failures, scan_message
for name in sorted(os.listdir(sys.argv[1])):
    m = email.message_from_bytes(open(os.path.join(sys.argv[1], name), 'rb').read())
    late, failed = all_failures(m)
    assert scan_message(m) == failed, name
    print(name.split('.')[1], *sorted(a.decode() for a in failed), '/', *sorted(a.decode() for a in late))
"#;
    let dir = maildir();
    let got = run_python(&python, code, dir.path());
    let want = [
        "failure bob@elsewhere.example /",
        "several \"c d\"@elsewhere.example Bob+x@elsewhere.example dave@other.example /",
        "eightbit bob@elsewhere.example /",
        "returned dave@other.example /",
        "delay / bob@elsewhere.example dave@other.example",
        "delivered /",
        "relayed /",
        // It knows no addresses but ASCII.
        "international /",
        "rests /",
        "well /",
        "late /",
    ];
    assert_eq!(got.lines().map(str::trim_end).collect::<Vec<_>>(), want);
}

#[test]
fn mutt_lists_them() {
    if !require(&["mutt", "script"]) {
        return;
    }
    let dir = maildir();
    let rc = dir.path().join("muttrc");
    fs::write(&rc, format!("set folder={0}\nset mbox_type=Maildir\nset quit=yes\n", dir.path().display())).unwrap();
    // exec: under a shell that waits for it, mutt would be in the background of its terminal, and stopped for ever.
    let command = format!("exec mutt -n -F {} -R -f {} -e 'push <quit>'", rc.display(), dir.path().display());
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").env("COLUMNS", "120").stdin(Stdio::null());
    let output = finish(&mut script);
    let shown = String::from_utf8_lossy(&output.stdout);
    for subject in ["Not delivered: your message to", "Late: your message to", "Passed on: your", "Route provider works again"] {
        let beginning: String = subject.chars().take(20).collect();
        assert!(shown.contains(&beginning), "{subject}: {}", said(&output));
    }
}
