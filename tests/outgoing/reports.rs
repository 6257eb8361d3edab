//! Who is told what, and where it goes.

use super::*;
use common::hop::{OFFER, Said};

fn reports(server: &Server, mailbox: &str) -> Vec<String> {
    letters(server, mailbox).into_iter().filter(|letter| letter.contains("multipart/report")).collect()
}

/// A next hop that refuses every recipient called `bad`.
fn choosy() -> Hop {
    let hop = Hop::new();
    hop.rule(|asked| if asked.line.contains("bad@") { Said::Reply("550 5.1.1 no such user") } else { Said::Usual });
    hop
}

const BOTH: [&str; 2] = ["<ok@there.example>", "<bad@there.example>"];

/// A sender that is not local: queued from the null sender to its own address.
#[test]
fn a_sender_elsewhere() {
    let hop = choosy();
    let mut setup = setup(&hop, "");
    setup.senders = vec!["\"alice@example.org\" = [\"app@shop.example\"]".into()];
    let server = setup.start();
    let content = b"From: app@shop.example\r\nSubject: order\r\n\r\nx\r\n";
    let id = submit(&mut server.login(ALICE), "<app@shop.example>", &BOTH, content);
    let report = hop.wait_for_messages(2).remove(1);
    assert!(report.mail.starts_with("MAIL FROM:<> ") && report.rcpt == ["RCPT TO:<app@shop.example>"], "{report:?}");
    let text = String::from_utf8(report.content).unwrap();
    for part in ["Auto-Submitted: auto-replied", "Final-Recipient: rfc822; bad@there.example", "Subject: order"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let line = server.wait_for_log(&["reported ", &id, "action=failed"]);
    assert!(line.contains("mailbox=queue:"), "{line}");
    wait_until_sent(&server);
    assert!(letters(&server, ALICE).is_empty() && letters(&server, "bob@example.org").is_empty());
}

/// NOTIFY=NEVER and the null sender: only the log knows.
#[test]
fn none_is_wanted() {
    let hop = choosy();
    let server = setup(&hop, "").start();
    let mut client = server.login(ALICE);
    let never = ["<ok@there.example>", "<bad@there.example> NOTIFY=NEVER", "<bad@other.example> NOTIFY=SUCCESS,DELAY"];
    let first = submit(&mut client, "<alice@example.org>", &never, plain("never").as_bytes());
    let second = submit(&mut client, "<>", &BOTH, plain("null").as_bytes());
    for id in [&first, &second] {
        server.wait_for_log(&["failed ", id, "to=bad@there.example"]);
    }
    wait_until_sent(&server);
    assert!(letters(&server, ALICE).is_empty() && letters(&server, "bob@example.org").is_empty(), "{}", server.log_text());
}

/// NOTIFY=SUCCESS: a relayed report where the next hop knows no DSN; where it does, that is its task.
#[test]
fn success_is_relayed_or_handed_on() {
    for knows in [false, true] {
        let hop = Hop::new();
        let mut offer = OFFER.to_vec();
        offer.extend(knows.then_some("DSN"));
        hop.offer(&offer);
        let server = setup(&hop, "").start();
        let to = ["<a@there.example> NOTIFY=SUCCESS ORCPT=rfc822;z@there.example", "<b@there.example>"];
        let id = submit(&mut server.login(ALICE), "<alice@example.org> ENVID=e1", &to, plain("success").as_bytes());
        let taken = hop.wait_for_messages(1).remove(0);
        wait_until_sent(&server);
        assert_eq!(taken.rcpt[0].contains("NOTIFY=SUCCESS"), knows, "{:?}", taken.rcpt);
        let found = reports(&server, ALICE);
        assert_eq!(found.len(), usize::from(!knows), "{id}: {}", server.log_text());
        for report in found {
            for part in ["Action: relayed", "a@there.example", "Original-Recipient: rfc822;", "Original-Envelope-Id: e1"] {
                assert!(report.contains(part), "{part} in {report}");
            }
            assert!(!report.contains("Final-Recipient: rfc822; b@"), "{report}");
        }
    }
}

/// The same for mailboxes here: delivered.
#[test]
fn success_in_a_mailbox_here() {
    let hop = Hop::new();
    let server = setup(&hop, "").start();
    let mut client = server.login(ALICE);
    let to = ["<bob@example.org> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;r@example.org", "<alice@example.org>", "<x@there.example>"];
    let id = submit(&mut client, "<alice@example.org> RET=HDRS ENVID=e2", &to, plain("here").as_bytes());
    // It is there when the 250 is said.
    let [report] = &reports(&server, ALICE)[..] else { panic!("{}", server.log_text()) };
    for part in [
        "Action: delivered",
        "Final-Recipient: rfc822; bob@example.org",
        "Status: 2.",
        "Original-Envelope-Id: e2",
        "Subject: here",
    ] {
        assert!(report.contains(part), "{part} in {report}");
    }
    assert!(report.contains("r@example.org") && !report.contains("Hello."), "{report}");
    assert_eq!(report.matches("Final-Recipient").count(), 1, "{report}");
    server.wait_for_log(&["reported ", &id, "action=delivered"]);
    // Without NOTIFY nothing is reported.
    submit(&mut client, "<alice@example.org>", &["<bob@example.org>"], plain("none").as_bytes());
    submit(&mut client, "<alice@example.org>", &["<bob@example.org> NOTIFY=FAILURE"], plain("none").as_bytes());
    submit(&mut client, "<>", &["<bob@example.org> NOTIFY=SUCCESS"], plain("null").as_bytes());
    assert_eq!(reports(&server, ALICE).len(), 1);
}

/// A report that was sent on and refused goes to the postmaster, and there is no report of it.
#[test]
fn no_report_of_a_report() {
    let hop = Hop::new();
    hop.rule(|asked| match asked.line.contains("bad@") || asked.line.contains("app@") {
        true => Said::Reply("550 5.1.1 no such user"),
        false => Said::Usual,
    });
    let mut setup = setup(&hop, "");
    setup.senders = vec!["\"alice@example.org\" = [\"app@shop.example\"]".into()];
    let server = setup.start();
    let mut client = server.login(ALICE);
    submit(&mut client, "<app@shop.example>", &BOTH, b"From: app@shop.example\r\nSubject: lost\r\n\r\nx\r\n");
    wait_until("the report is refused", &server, || hop.heard().iter().any(|line| line.contains("RCPT TO:<app@")));
    // One that is accepted decides about the one that was refused.
    submit(&mut client, "<alice@example.org>", &["<ok@there.example>"], plain("ok").as_bytes());
    let letter = &wait_for_letters(&server, "bob@example.org", 1)[0];
    assert!(letter.contains("Final-Recipient: rfc822; bad@there.example"), "{letter}");
    wait_until_sent(&server);
    assert_eq!((letters(&server, "bob@example.org").len(), letters(&server, ALICE).len()), (1, 0));
    assert_eq!(hop.heard().iter().filter(|line| line.contains("RCPT TO:<app@")).count(), 1);
}

/// A report that can be put nowhere: to the postmaster; if that fails, the message is held and stays.
#[test]
fn a_report_that_cannot_be_delivered() {
    if !nix::unistd::geteuid().is_root() {
        skipped("needs root, so that the server is another user");
        return;
    }
    for both in [false, true] {
        let hop = choosy();
        let mut server = setup(&hop, "").start();
        mail_to(&server, &[ALICE, "bob@example.org"], "the Maildirs");
        let close = |mailbox: &str, uid: u32| {
            for part in ["new", "tmp"] {
                nix::unistd::chown(&server.maildir(mailbox).join(part), Some(uid.into()), None).unwrap();
            }
        };
        close(ALICE, 0);
        if both {
            close("bob@example.org", 0);
        }
        let id = submit(&mut server.login(ALICE), "<alice@example.org>", &BOTH, plain("report").as_bytes());
        if !both {
            wait_until("postmaster has it", &server, || reports(&server, "bob@example.org").len() == 1);
            wait_until_sent(&server);
            continue;
        }
        server.wait_for_log(&["held ", &id, "reason=no-report"]);
        wait_until("it is held", &server, || held(&server) == [id.clone()] && queued(&server).is_empty());
        // The operator sees it, and whose fault it is.
        let said = super::routes::said(&server, &["queue"]);
        assert!(said.contains(&id) && said.contains("held"), "{said}");
        // Settled altogether, it stays; and its report comes when there is a place for it.
        thread::sleep(Duration::from_millis(300));
        assert_eq!(held(&server), [id.as_str()]);
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
        close(ALICE, nobody);
        kill(&mut server);
        server.restart();
        wait_until("the report", &server, || reports(&server, ALICE).len() == 1);
        wait_until("it is gone", &server, || held(&server).is_empty());
        assert_eq!(hop.taken_count(), 1);
    }
}

/// A report says of a recipient that it may have arrived, where a line was cut after the dot before.
#[test]
fn it_may_have_arrived() {
    let hop = Hop::new();
    hop.rule(|asked| if asked.stage == "." { Said::Cut } else { Said::Usual });
    let mut server = setup(&hop, "").start();
    let id = mail_to(&server, &["bad@there.example", "bad@other.example"], "doubt");
    server.wait_for_log(&["deferred ", &id]);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.wait(PATIENCE);
    due_now(&server, &id);
    hop.rule(|asked| if asked.line.contains("bad@") { Said::Reply("550 5.1.1 no such user") } else { Said::Usual });
    server.restart();
    hop.wait_for_count("RCPT", 4);
    mail_to(&server, &["ok@there.example"], "another");
    let report = unfolded(&wait_for_letters(&server, ALICE, 1)[0]);
    assert!(report.contains("may have") || report.contains("may nevertheless"), "{report}");
}

/// The next hop's words reach log, spool and report without control characters.
#[test]
fn replies_are_not_trusted() {
    let hop = Hop::new();
    hop.rule(|asked| match asked.line.contains("bad@") {
        true => Said::Reply("550 5.1.1 no\x1b[31m such\x07 user; Pillarbox-Log: 1 1 sent;\tid=\"forged\""),
        false => Said::Usual,
    });
    let server = setup(&hop, "").start();
    let id = mail_to(&server, &["ok@there.example", "bad@there.example"], "words");
    let report = &wait_for_letters(&server, ALICE, 1)[0];
    assert!(report.contains("such") && !report.contains('\x1b') && !report.contains('\x07'), "{report:?}");
    let line = server.wait_for_log(&["failed ", &id]);
    assert!(!line.contains('\x1b') && !line.contains(" id=\"forged\""), "{line}");
}

/// A message that is held since its report could not be delivered: each verb does something sensible.
#[test]
fn verbs_on_a_message_without_a_report() {
    if !common::require_root() {
        return;
    }
    let hop = choosy();
    let server = setup(&hop, "").start();
    mail_to(&server, &[ALICE, "bob@example.org"], "the Maildirs");
    for mailbox in [ALICE, "bob@example.org"] {
        for part in ["new", "tmp"] {
            nix::unistd::chown(&server.maildir(mailbox).join(part), Some(0.into()), None).unwrap();
        }
    }
    let id = submit(&mut server.login(ALICE), "<alice@example.org>", &BOTH, plain("report").as_bytes());
    server.wait_for_log(&["held ", &id, "reason=no-report"]);
    wait_until("it is held", &server, || held(&server) == [id.clone()]);
    for verb in ["try", "release", "return"] {
        let said = super::routes::said(&server, &["queue", verb, &id]);
        assert!(said.contains("exit status: 71") && said.contains("drop it"), "{said}");
        assert_eq!(held(&server), [id.as_str()], "{verb}");
    }
    let said = super::routes::said(&server, &["queue", "drop", &id]);
    assert!(said.contains("dropped") && held(&server).is_empty(), "{said}");
    server.wait_for_log(&["dropped ", &id]);
}

/// A login that may use every sender: what it sends in another's name is reported to the login, never to the other.
#[test]
fn no_backscatter() {
    let hop = choosy();
    let mut setup = setup(&hop, "");
    setup.senders = vec!["\"alice@example.org\" = [\"*\"]".into()];
    let server = setup.start();
    let content = b"From: victim@elsewhere.example\r\nSubject: x\r\n\r\nx\r\n";
    submit(&mut server.login(ALICE), "<victim@elsewhere.example> RET=FULL", &BOTH, content);
    let letter = &wait_for_letters(&server, ALICE, 1)[0];
    assert!(letter.contains("Final-Recipient: rfc822; bad@there.example"), "{letter}");
    wait_until_sent(&server);
    assert_eq!(hop.taken_count(), 1, "nothing went to the victim: {:?}", hop.heard());
}

/// A next hop that takes one recipient a transaction: one report for all that it refused.
#[test]
fn one_report_a_pass() {
    let hop = choosy();
    hop.offer(&[&OFFER[..], &["LIMITS RCPTMAX=1"]].concat());
    let server = setup(&hop, "").start();
    let to = ["<ok@there.example>", "<bad@there.example>", "<bad@two.example>", "<bad@three.example>"];
    submit(&mut server.login(ALICE), "<alice@example.org>", &to, plain("one").as_bytes());
    let letter = &wait_for_letters(&server, ALICE, 1)[0];
    assert_eq!(letter.matches("Final-Recipient:").count(), 3, "{letter}");
    wait_until_sent(&server);
    assert_eq!(letters(&server, ALICE).len(), 1, "{}", server.log_text());
}
