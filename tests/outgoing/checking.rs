//! What an operator finds out before mail waits: `check` tries the routes, `explain` says which one is taken.

use std::net::TcpListener;
use std::process::Output;

use super::*;
use common::hop::Said;
use common::leaf::Leaf;
use common::{finish, give_to_nobody, said};

fn pillarbox(config: &Path, args: &[&str]) -> Output {
    finish(Command::new(env!("CARGO_BIN_EXE_pillarbox")).arg("-c").arg(config).args(args))
}

/// The rows of `check` about the routes, and the rest of what it said.
fn check(setup: &Setup, args: &[&str]) -> (Vec<String>, String) {
    let dir = tempfile::tempdir().unwrap();
    let config = setup.write(dir.path());
    give_to_nobody(dir.path());
    let output = pillarbox(&config, &[&["check"], args].concat());
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "a route that fails is a warning:\n{text}");
    let rows = text.lines().filter_map(|line| line.strip_prefix("routes")).map(|row| row.trim().to_owned());
    (rows.collect(), text)
}

#[test]
fn a_route_that_works_has_a_row_for_each_step() {
    let hop = Hop::new();
    let mut setup = setup(&hop, "");
    setup.domains = vec!["example.org".into(), "shop.example".into()];
    let (rows, text) = check(&setup, &[]);
    let begins = [
        "ok       next: DNS: localhost is at 127.0.0.1".to_owned(),
        format!("ok       next: connect: {}, TLSv1.3", hop.address),
        "ok       next: certificate: is for localhost, ".to_owned(),
        "ok       next: EHLO: PIPELINING, 8BITMIME, SMTPUTF8, SIZE 50000000".to_owned(),
        "ok       next: AUTH: logged in as relay@next.example".to_owned(),
        "ok       next: MAIL from postmaster@example.org: taken".to_owned(),
        "ok       next: MAIL from postmaster@shop.example: taken".to_owned(),
        "ok       next: RSET, QUIT: done".to_owned(),
    ];
    assert_eq!(rows.len(), begins.len(), "{text}");
    for (row, begin) in rows.iter().zip(begins) {
        assert!(row.starts_with(&begin), "{row}, not {begin}");
    }
    hop.wait_for_count("QUIT", 1);
    let heard = hop.heard();
    assert_eq!(heard.iter().filter(|line| *line == "RSET").count(), 2, "{heard:?}");
    assert_eq!(hop.taken_count(), 0);
    // Nothing is asked of others.
    let (rows, text) = check(&setup, &["--offline"]);
    assert!(rows.is_empty() && text.contains("outgoing       ok       via next; 1 route"), "{text}");
    assert_eq!(hop.count("connect"), 1);
}

#[test]
fn a_route_that_fails_is_named_with_its_cure() {
    type Break = fn(&Hop, String) -> String;
    let rows: [(Break, &str, &str); 11] = [
        (|_, toml| toml.replace("//localhost", "//nosuch.invalid"), "DNS: nosuch.invalid: ", "correct the host in `url`"),
        (|hop, toml| toml.replace(&port(hop), ":1\""), "connect at 127.0.0.1:1: ", "correct the port in `url`"),
        (|_, toml| toml.replace("smtps://", "submission://"), "greeting at ", "if the port has TLS at once, write smtps://"),
        (
            |hop, toml| {
                hop.certificate(Leaf::Expired);
                toml
            },
            "certificate at ",
            "it has expired",
        ),
        (
            |hop, toml| {
                hop.certificate(Leaf::NotYet);
                toml
            },
            "certificate at ",
            "it is not valid yet; correct this host's clock",
        ),
        (
            |hop, toml| {
                hop.certificate(Leaf::ForAnotherName);
                toml
            },
            "certificate at ",
            "it is not for localhost, but for other.example; name in `url` the host that the certificate is for",
        ),
        (
            |hop, toml| {
                hop.certificate(Leaf::OfAnotherAuthority);
                toml
            },
            "certificate at ",
            "no authority that is trusted has issued it; give the certificate of its authority as `ca`",
        ),
        (|_, toml| toml.replace("/ca.pem", "/none.pem"), "authorities: ", "check the path"),
        (
            |hop, toml| {
                hop.want_password("another");
                toml
            },
            "AUTH at ",
            "correct `login`, and the password",
        ),
        (
            |hop, toml| {
                hop.offer(&["PIPELINING"]);
                toml
            },
            "AUTH at ",
            "a login by PLAIN or LOGIN",
        ),
        (
            |hop, toml| {
                hop.rule(|asked| if asked.stage == "MAIL" { Said::Reply("550 5.7.1 not \x1b[31myours") } else { Said::Usual });
                toml
            },
            "MAIL from postmaster@example.org: 550 5.7.1 not ",
            "let this login send for the domain",
        ),
    ];
    for (number, (change, step, cure)) in rows.into_iter().enumerate() {
        let hop = Hop::new();
        let mut setup = setup(&hop, "");
        setup.outgoing = change(&hop, setup.outgoing);
        let (rows, text) = check(&setup, &[]);
        let wrong: Vec<&String> = rows.iter().filter(|row| row.starts_with("warning")).collect();
        assert_eq!(wrong.len(), 1, "row {number}: {text}");
        assert!(wrong[0].starts_with(&format!("warning  next: {step}")), "row {number}: {text}");
        assert!(wrong[0].contains(cure) && !text.contains('\x1b'), "row {number}: {text}");
    }
}

fn port(hop: &Hop) -> String {
    format!(":{}\"", hop.address.port())
}

/// Two servers that say nothing and one that works: all are tried at once, and it ends.
#[test]
fn silent_routes_do_not_hold_up_the_others() {
    let hop = Hop::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut setup = setup(&hop, "");
    for name in ["one", "two"] {
        let url = format!("submission://{}", silent.local_addr().unwrap());
        setup.outgoing.push_str(&format!("[outgoing.routes.{name}]\nurl = \"{url}\"\n"));
    }
    let (rows, text) = check(&setup, &[]);
    assert!(rows.iter().any(|row| row.starts_with("ok       next: RSET, QUIT: done")), "{text}");
    for name in ["one", "two"] {
        let want = format!("warning  {name}: greeting at {}: no answer", silent.local_addr().unwrap());
        assert!(rows.iter().any(|row| row.starts_with(&want)), "{text}");
    }
}

/// A domain is tried on the routes that its mail may take.
#[test]
fn domains_are_tried_where_their_mail_goes() {
    let hop = Hop::new();
    let mut setup = setup(&hop, "");
    setup.domains = vec!["example.org".into(), "shop.example".into()];
    setup.outgoing.push_str(&hop.route("shop"));
    setup.outgoing.push_str(&hop.route("spare"));
    setup.outgoing.push_str("[outgoing.from]\n\"shop.example\" = \"shop\"\n");
    let (rows, text) = check(&setup, &[]);
    let of = |name: &str| -> Vec<&str> { rows.iter().filter_map(|row| row.split(&format!(" {name}: MAIL")).nth(1)).collect() };
    assert_eq!(of("next"), [" from postmaster@example.org: taken"], "{text}");
    assert_eq!(of("shop"), [" from postmaster@shop.example: taken"], "{text}");
    assert_eq!(of("spare"), [": not tried, no mail of a local domain takes this route"], "{text}");
}

#[test]
fn explain_goes_on_to_the_route() {
    let hop = Hop::new();
    let mut setup = setup(&hop, "");
    setup.outgoing.push_str(&hop.route("other").replace("[outgoing.routes.other]", "then = \"other\"\n[outgoing.routes.other]"));
    setup.outgoing.push_str(
        "[outgoing.to]\n\"partner.example\" = \"other\"\n\"*.closed.example\" = \"refuse\"\n[outgoing.from]\n\"bob@example.org\" = \
         \"other\"\n",
    );
    let explain = |config: &Path, from: &str, to: &str, service: &str| {
        let output = pillarbox(config, &["explain", "--login", from, "--from", from, "--to", to, "-s", service]);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let dir = tempfile::tempdir().unwrap();
    let config = setup.write(dir.path());
    let rows = [
        (ALICE, "x@far.example", 0, "recipient x@far.example: elsewhere; [outgoing] via says: next\n"),
        (ALICE, "x@partner.example", 0, "[outgoing.to] \"partner.example\" says: other\n"),
        ("bob@example.org", "x@far.example", 0, "[outgoing.from] \"bob@example.org\" says: other\n"),
        (ALICE, "x@a.closed.example", 1, "[outgoing.to] \"*.closed.example\" says: refuse\nrefused at RCPT: 550 5.7.1 "),
        (ALICE, "x@[192.0.2.1]", 1, "refused at RCPT: 550 5.7.1 "),
        (ALICE, "x@nodots", 1, "refused at RCPT: 554 5.1.2 "),
    ];
    for (from, to, exit, want) in rows {
        let (code, text) = explain(&config, from, to, "submission");
        assert!(code == exit && text.contains(want), "{to}: {code}\n{text}");
        assert_eq!(text.ends_with("accepted\n"), exit == 0, "{text}");
    }
    let (_, text) = explain(&config, ALICE, "x@far.example", "submission");
    let route = format!("route next: smtps://localhost:{}, login relay@next.example\n", hop.address.port());
    assert!(text.contains(&route) && text.contains("route next now: not known, no server runs\n"), "{text}");
    assert!(text.contains("while it rests: other\nroute other: smtps://localhost:"), "{text}");
    // The address alone, from any login.
    for (to, code, want) in [
        ("x@far.example", 0, "it is taken from logins, and refused from other servers\n"),
        ("x@far.example", 0, "\n[outgoing.from] may say otherwise for a sender; "),
        ("x@far.example", 0, "[outgoing] via says: next\nroute next: smtps://localhost:"),
        ("x@a.closed.example", 1, "says: refuse\nrefused at RCPT: 550 5.7.1 "),
        ("x@[192.0.2.1]", 1, "refused at RCPT: 550 5.7.1 "),
    ] {
        let output = pillarbox(&config, &["explain", to]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(code) && text.contains(want), "{to}: {text}");
    }
    // As the running server has it.
    hop.want_password("another");
    let server = setup.start();
    mail_to(&server, &["x@far.example"], "one");
    server.wait_for_log(&["route ", "route=next", "state=resting"]);
    let (code, text) = explain(&server.config, ALICE, "x@far.example", "submission");
    assert!(code == 0 && text.contains("route next now: resting, "), "{text}");
}
