//! What a next hop answers, and what comes of it for each recipient; what arrives, compared octet by octet.

use super::*;
use common::hop::{OFFER, Said};

/// What stands in the message that the next hop has, without the trace and what submission adds.
fn body_of(content: &[u8]) -> &[u8] {
    let at = content.windows(4).position(|four| four == b"\r\n\r\n").expect("an empty line");
    &content[at + 4..]
}

#[test]
fn one_bad_recipient_of_three() {
    let hop = Hop::new();
    hop.rule(|asked| match asked.stage {
        "RCPT" if asked.line.contains("bad@") => Said::Reply("550 5.1.1 no such user here"),
        _ => Said::Usual,
    });
    let server = setup(&hop, "").start();
    let id = mail_to(&server, &["a@there.example", "bad@there.example", "c@there.example"], "three");
    let taken = hop.wait_for_messages(1);
    assert_eq!(taken[0].rcpt, ["RCPT TO:<a@there.example>", "RCPT TO:<c@there.example>"]);
    let report = &wait_for_letters(&server, ALICE, 1)[0];
    assert!(report.contains("Final-Recipient: rfc822; bad@there.example"), "{report}");
    assert!(!report.contains("Final-Recipient: rfc822; a@") && !report.contains("Final-Recipient: rfc822; c@"), "{report}");
    assert!(unfolded(report).contains("no such user here"), "{report}");
    server.wait_for_log(&["sent ", &id, "a@there.example,c@there.example", "code=250"]);
    server.wait_for_log(&["failed ", &id, "bad@there.example", "code=550"]);
    wait_until_sent(&server);
    assert_eq!(hop.taken_count(), 1);
}

/// Too many recipients for one transaction: the rest goes in the next one, at once.
#[test]
fn four_five_two_after_two() {
    let hop = Hop::new();
    hop.rule(|asked| match (asked.stage, asked.nth) {
        ("RCPT", 2..5) => Said::Reply("452 4.5.3 too many recipients"),
        _ => Said::Usual,
    });
    let server = setup(&hop, "").start();
    let to: Vec<String> = (0..5).map(|n| format!("r{n}@there.example")).collect();
    mail_to(&server, &to.iter().map(String::as_str).collect::<Vec<_>>(), "five");
    let taken = hop.wait_for_messages(2);
    let all: Vec<&str> = taken.iter().flat_map(|taken| &taken.rcpt).map(String::as_str).collect();
    let want: Vec<String> = to.iter().map(|to| format!("RCPT TO:<{to}>")).collect();
    assert_eq!(all, want);
    assert_eq!((taken[0].rcpt.len(), taken[0].content == taken[1].content), (2, true));
    wait_until_sent(&server);
    assert!(lines(&server, "deferred ").is_empty(), "{}", server.log_text());
}

/// 4xx to each command: all wait; nothing is returned, and at the next try it goes.
#[test]
fn refused_for_now_at_each_command() {
    thread::scope(|scope| {
        for (stage, reply, word) in [
            ("MAIL", "451 4.3.0 later", "at=mail 451 4.3.0 later"),
            ("RCPT", "450 4.2.0 later", "at=rcpt 450 4.2.0 later"),
            ("DATA", "451 4.3.0 later", "at=data 451 4.3.0 later"),
            (".", "452 4.3.1 later", "wait 452 4.3.1 later"),
        ] {
            scope.spawn(move || {
                let hop = Hop::new();
                hop.rule(move |asked| if asked.stage == stage { Said::Reply(reply) } else { Said::Usual });
                let server = setup(&hop, "").start();
                let id = mail_to(&server, &["a@there.example", "b@there.example"], stage);
                let line = server.wait_for_log(&["deferred ", &id, "a@there.example,b@there.example", "next="]);
                assert!(line.contains(&format!("code={}", &reply[..3])), "{line}");
                wait_until("the record", &server, || spool_file(&server, &id).contains(word));
                assert!(letters(&server, ALICE).is_empty());
                // 4xx to a command before MAIL would be the route's; this is not.
                assert!(lines(&server, "state=resting").is_empty(), "{}", server.log_text());
            });
        }
    });
}

/// 5xx to each command: the sender is told once, of both.
#[test]
fn refused_at_each_command() {
    thread::scope(|scope| {
        for stage in ["MAIL", "RCPT", "DATA", "."] {
            scope.spawn(move || {
                let hop = Hop::new();
                hop.rule(move |asked| match asked.nth < 2 && asked.stage == stage && (stage == "RCPT" || asked.nth == 0) {
                    true => Said::Reply("554 5.7.1 spam"),
                    false => Said::Usual,
                });
                let server = setup(&hop, "").start();
                let id = mail_to(&server, &["a@there.example", "b@other.example"], stage);
                // Whether it is the message or everything that is refused shows with the next one.
                mail_to(&server, &["c@there.example"], "another");
                server.wait_for_log(&["failed ", &id, "a@there.example", "code=554"]);
                let report = &wait_for_letters(&server, ALICE, 1)[0];
                for to in ["a@there.example", "b@other.example"] {
                    assert!(report.contains(&format!("Final-Recipient: rfc822; {to}")), "{stage}: {report}");
                }
                wait_until_sent(&server);
                assert_eq!(letters(&server, ALICE).len(), 1, "{stage}");
            });
        }
    });
}

/// 421 or a cut line: the address rests for this login, an empty probe shows that the route is well, and nothing is lost or
/// told to the sender.
#[test]
fn four_two_one_and_cut_lines() {
    thread::scope(|scope| {
        for stage in ["MAIL", "DATA", "."] {
            for cut in [false, true] {
                if stage == "." && cut {
                    continue;
                }
                scope.spawn(move || {
                    let hop = Hop::new();
                    hop.rule(move |asked| match (asked.stage == stage, cut) {
                        (true, false) => Said::Reply("421 4.3.2 closing"),
                        (true, true) => Said::Cut,
                        (false, _) => Said::Usual,
                    });
                    let server = setup(&hop, "").start();
                    let id = mail_to(&server, &["a@there.example"], stage);
                    // The transaction, then the probe, which finds nothing wrong.
                    hop.wait_for_count("EHLO", 2);
                    server.wait_for_log(&["deferred ", &id, "next="]);
                    assert_eq!(hop.taken_count(), 0);
                    assert!(lines(&server, "maybe-twice").is_empty(), "{stage} {cut}: {}", server.log_text());
                    assert!(letters(&server, ALICE).is_empty() && queued(&server) == [id], "{stage} {cut}");
                });
            }
        }
    });
}

/// The line is cut after the dot: it may have arrived, which is logged, and written down for the report.
#[test]
fn cut_after_the_dot() {
    for (mode, is_held) in [("resend", false), ("hold", true)] {
        let hop = Hop::new();
        hop.rule(|asked| if asked.stage == "." { Said::Cut } else { Said::Usual });
        let server = setup(&hop, &format!("after_crash = \"{mode}\"")).start();
        let id = mail_to(&server, &["a@there.example"], mode);
        let line = server.wait_for_log(&["maybe-twice", &id, "a@there.example"]);
        assert!(line.contains("host=localhost[127.0.0.1]"), "{line}");
        if is_held {
            server.wait_for_log(&["held ", &id, "reason=may-have-arrived"]);
            wait_until("it is held", &server, || held(&server) == [id.clone()] && queued(&server).is_empty());
            assert!(spool_file(&server, &id).contains(" dot 1;"), "{}", spool_file(&server, &id));
        } else {
            server.wait_for_log(&["deferred ", &id]);
            assert_eq!(queued(&server), [id.as_str()]);
        }
        assert_eq!(lines(&server, "maybe-twice").len(), 1, "{}", server.log_text());
        assert!(letters(&server, ALICE).is_empty());
        let text = super::routes::said(&server, &["queue"]);
        assert!(text.contains("may have arrived"), "{mode}: {text}");
        let text = super::routes::said(&server, &["queue", "--json"]);
        assert!(text.contains("\"maybe_twice\":true"), "{mode}: {text}");
        let text = super::routes::said(&server, &["queue", "explain", &id]);
        assert!(text.contains("It may have arrived: an attempt ended after the final dot"), "{mode}: {text}");
    }
}

/// Each recipient has its own result, in the log, in the spool and in the report.
#[test]
fn a_result_for_each_recipient() {
    let hop = Hop::new();
    hop.rule(|asked| match asked.stage {
        "RCPT" if asked.line.contains("gone@") => Said::Reply("550 5.1.1 gone"),
        "RCPT" if asked.line.contains("full@") => Said::Reply("452 4.2.2 full"),
        "RCPT" if asked.line.contains("moved@") => Said::Reply("551 5.1.6 moved"),
        _ => Said::Usual,
    });
    let server = setup(&hop, "").start();
    let id = mail_to(&server, &["full@there.example", "ok@there.example", "gone@there.example", "moved@there.example"], "four");
    server.wait_for_log(&["sent ", &id, "to=ok@there.example "]);
    server.wait_for_log(&["deferred ", &id, "to=full@there.example ", "code=452"]);
    let report = &wait_for_letters(&server, ALICE, 1)[0];
    let statuses: Vec<&str> = report.lines().filter(|line| line.starts_with("Status: ")).collect();
    assert_eq!(statuses, ["Status: 5.1.1", "Status: 5.1.6"], "{report}");
    wait_until("the record of the report", &server, || spool_file(&server, &id).contains("reported"));
    let file = spool_file(&server, &id);
    for record in [
        " 1 wait at=rcpt 452 4.2.2 full;",
        " 2 sent 250 2.0.0 taken;",
        " 3 failed at=rcpt 550 5.1.1 gone;",
        " 4 failed at=rcpt 551 5.1.6 moved;",
        " 3-4 reported failed;",
    ] {
        assert!(file.contains(record), "{record} in {file}");
    }
}

/// What is handed in is what arrives, but for the trace on top.
#[test]
fn messages_octet_by_octet() {
    let hop = Hop::new();
    let server = setup(&hop, "").start();
    let mut client = server.login(ALICE);
    let head = "From: alice@example.org\r\nDate: Wed, 25 Nov 2026 02:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n";
    let long = "x".repeat(998) + "\r\n";
    let rows: [(&str, &str, Vec<u8>); 6] = [
        ("eight bit", "<alice@example.org> BODY=8BITMIME", [head.as_bytes(), b"\r\n\xff\xfe caf\xc3\xa9 \x01\x7f\r\n"].concat()),
        (
            "dots",
            "<alice@example.org>",
            [head, "\r\n", &".\r\n..\r\n...\r\n. \r\n.a\r\n".repeat(300), "\r\n"].concat().into_bytes(),
        ),
        ("998 octets", "<alice@example.org>", [head, "\r\n", &long.repeat(20)].concat().into_bytes()),
        ("dots of 998", "<alice@example.org>", [head, "\r\n", &(".".repeat(998) + "\r\n").repeat(200)].concat().into_bytes()),
        ("no body", "<alice@example.org>", [head, "\r\n"].concat().into_bytes()),
        ("20 MB", "<alice@example.org> SIZE=20000000", {
            let mut text = [head, "\r\n"].concat().into_bytes();
            let mut n: u32 = 1;
            while text.len() < 20_000_000 {
                n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.extend_from_slice(
                    format!("{}{:0width$x}\r\n", if n.is_multiple_of(5) { "." } else { "" }, n, width = (n >> 8) as usize % 900)
                        .as_bytes(),
                );
            }
            text
        }),
    ];
    for (n, (name, mail, content)) in rows.into_iter().enumerate() {
        submit(&mut client, mail, &["<a@there.example>"], &content);
        let taken = hop.wait_for_messages(n + 1).pop().unwrap();
        let at = taken.content.windows(20).position(|part| part == b"From: alice@example.");
        let at = at.unwrap_or_else(|| panic!("{name}: {}", String::from_utf8_lossy(&taken.content[..500])));
        assert!(taken.content[at..] == content[..], "{name}: {} octets for {}", taken.content.len() - at, content.len());
        assert!(taken.content.starts_with(b"Received: "), "{name}");
        let said: usize = taken.mail.split("SIZE=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert_eq!(said, taken.content.len(), "{name}: {}", taken.mail);
        assert_eq!(taken.mail.contains("BODY=8BITMIME"), name == "eight bit", "{}", taken.mail);
    }
    // Without a header: the body is the same, and stays one.
    let content = b"\r\nno header at all\r\n.\r\n";
    submit(&mut client, "<alice@example.org>", &["<a@there.example>"], content);
    let taken = hop.wait_for_messages(7).pop().unwrap();
    assert_eq!(body_of(&taken.content), &content[2..]);
    let text = b"only: text\r\n";
    submit(&mut client, "<alice@example.org>", &["<a@there.example>"], text);
    let taken = hop.wait_for_messages(8).pop().unwrap();
    assert!(taken.content.windows(text.len()).any(|part| part == text));
}

/// UTF-8 addresses go where SMTPUTF8 is offered, as they are; where it is not, the sender is told why.
#[test]
fn utf8_addresses() {
    let hop = Hop::new();
    let server = setup(&hop, "").start();
    let content = "From: alice@example.org\r\nSubject: grüß\r\n\r\nbärig\r\n";
    let mut client = server.login(ALICE);
    submit(&mut client, "<alice@example.org> SMTPUTF8 BODY=8BITMIME", &["<jürgen@bücher.example>"], content.as_bytes());
    let taken = hop.wait_for_messages(1).remove(0);
    assert_eq!(taken.rcpt, ["RCPT TO:<jürgen@bücher.example>"]);
    assert!(taken.mail.contains(" SMTPUTF8") && taken.content.ends_with("bärig\r\n".as_bytes()), "{}", taken.mail);
    wait_until_sent(&server);

    let less: Vec<&str> = OFFER.into_iter().filter(|word| *word != "SMTPUTF8").collect();
    let hop = Hop::new();
    hop.offer(&less);
    let server = setup(&hop, "").start();
    let mut client = server.login(ALICE);
    submit(&mut client, "<alice@example.org> SMTPUTF8 BODY=8BITMIME", &["<jürgen@bücher.example>"], content.as_bytes());
    // Whether everything is refused is known from the next message.
    submit(&mut client, "<alice@example.org>", &["<a@there.example>"], plain("ascii").as_bytes());
    let report = &wait_for_letters(&server, ALICE, 1)[0];
    assert!(report.contains("Status: 5.6.7") && report.contains("Final-Recipient: utf-8; jürgen@bücher.example"), "{report}");
    wait_until_sent(&server);
    assert!(hop.taken_count() == 1 && !hop.heard().join("\n").contains("jürgen"));
    // A client may declare it for every message.
    submit(&mut client, "<alice@example.org> SMTPUTF8", &["<b@there.example>"], plain("declared").as_bytes());
    assert!(!hop.wait_for_messages(2).remove(1).mail.contains("SMTPUTF8"));
}

/// RET, ENVID, NOTIFY and ORCPT are handed on to a next hop that knows them, and only to it.
#[test]
fn dsn_is_handed_on() {
    for knows in [true, false] {
        let hop = Hop::new();
        let mut offer = OFFER.to_vec();
        offer.extend(knows.then_some("DSN"));
        hop.offer(&offer);
        let server = setup(&hop, "").start();
        let rcpt = "<a@there.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;b+2Bc@there.example";
        submit(&mut server.login(ALICE), "<alice@example.org> RET=HDRS ENVID=QQ+2B1", &[rcpt], plain("dsn").as_bytes());
        let taken = hop.wait_for_messages(1).remove(0);
        assert_eq!(taken.mail.contains("RET=HDRS") && taken.mail.contains("ENVID=QQ+2B1"), knows, "{}", taken.mail);
        let has = taken.rcpt[0].contains("NOTIFY=FAILURE,DELAY") && taken.rcpt[0].contains("ORCPT=rfc822;b+2Bc@there.example");
        assert_eq!(has, knows, "{:?}", taken.rcpt);
    }
}

/// One connection serves many messages; pipelined, so that a message is few round trips.
#[test]
fn connections_are_used_again() {
    let hop = Hop::new();
    let server = setup(&hop, "connections = 1").start();
    let mut client = server.login(ALICE);
    for n in 0..20 {
        submit(&mut client, "<alice@example.org>", &["<a@there.example>"], plain(&n.to_string()).as_bytes());
    }
    assert_eq!(hop.wait_for_messages(20).len(), 20);
    assert_eq!((hop.count("connect"), hop.count("AUTH")), (1, 1));
}
