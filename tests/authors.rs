//! The sender fields of a submitted message: what ordinary programs write is taken, and what is taken shows no other
//! sender than the login under any reader that is at hand.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::{Command, Stdio};

use common::{finish, require, said};
use mail_parser::MessageParser;
use pillarbox::conn::authors::{self, Identity};
use pillarbox::mail::from::{self, Author};
use pillarbox::mail::message::{Header, HeaderReader};
use pillarbox::mail::trace::Trace;
use pillarbox::policy::Policy;
use pillarbox::policy::aliases::Aliases;
use pillarbox::smtp::reply::Refusal;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

const OWN: [&str; 5] =
    ["alice@example.org", "alice+phone@example.org", "shop@example.org", "alice.b@example.org", "jörg@example.org"];

fn policy() -> Policy {
    let aliases = Aliases::parse("shop: alice\nalice.b: alice\njörg: alice\n").unwrap();
    let quoted = pillarbox::policy::Grant::parse("\"john doe\"@example.org").unwrap();
    let senders = BTreeMap::from([
        ("alice@example.org".to_owned(), vec![quoted]),
        ("scanner".to_owned(), vec![pillarbox::policy::Grant::parse("scans@example.org").unwrap()]),
        ("nobody".to_owned(), Vec::new()),
    ]);
    let logins = ["alice@example.org", "bob@example.org", "scanner"];
    Policy::new(&["example.org".to_owned()], logins.into_iter(), aliases, &senders)
}

fn header(text: &[u8]) -> Header {
    let text = [text, b"\n\n"].concat();
    HeaderReader::default().push(&text).unwrap().unwrap().0
}

fn of(login: &str) -> Identity<'_> {
    Identity { login, caller: None }
}

/// The refusal, if these fields are refused to this login.
fn refusal(login: &str, fields: &[u8]) -> Option<(Refusal, String)> {
    let refused = authors::check(&mut header(fields), of(login), &policy()).err()?;
    Some((refused.why, refused.text().into_owned()))
}

/// The header of a message of alice's as it is stored, without the trace.
fn stored(login: &str, fields: &str) -> String {
    let mut header = header(fields.as_bytes());
    authors::check(&mut header, of(login), &policy()).unwrap();
    let (time, mut out) = (jiff::Zoned::default(), Vec::new());
    let trace = Trace {
        final_delivery: true,
        reverse_path: &"",
        recipient: None,
        client: None,
        hostname: "mx.example.org",
        extended: true,
        utf8: false,
        authenticated: true,
        tls: None,
        id: "id",
        time: &time,
    };
    header.write(&trace, false, &mut out);
    let text = String::from_utf8(out).unwrap();
    // The date is the last line of the trace (RFC 5321 section 4.4).
    text.split_once(";\n\t").unwrap().1.split_once('\n').unwrap().1.to_owned()
}

/// Fields that a reader shows as another sender's, or that readers do not agree on.
const FORGED: &[&str] = &[
    // A group, in all forms: its name is shown as the sender by some.
    "From: Boss <ceo@bank.com>:alice@example.org",
    "From: <bob@example.org>:alice@example.org",
    "From: Boss <ceo@bank.com>: <alice@example.org>;",
    "From: Boss <ceo@bank.com>:\n <alice@example.org>;",
    "From: ceo@bank.com:alice@example.org;",
    "From: team: alice@example.org;",
    "From: undisclosed senders:;",
    // A member of the list without an address of its own.
    "From: \"ceo@bank.com\", alice@example.org",
    "From: \"ceo@bank.com\"; alice@example.org",
    "From: \"b@evil.example\", alice@example.org",
    "From: b@evil.example:;, alice@example.org",
    "From: alice@example.org, =?utf-8?q?b=40evil.example?=",
    "From: <alice@example.org(>, <b@evil.example>",
    "From: alice@example.org,",
    "From: , alice@example.org",
    "From: alice@example.org,, shop@example.org",
    // An address in pieces.
    "From: alice@example.org(x).bank.com",
    "From: alice@example.org\n .bank.com",
    "From: ceo.bank.com(x)alice@example.org",
    "From: alice(x)@example.org",
    "From: alice@(x)example.org",
    "From: <alice@example.org(x)>",
    "From: <alice@example.org\n >",
    "From: alice @example.org",
    "From: alice@ example.org",
    // What is left over.
    "From: <alice@example.org> ceo@bank.com",
    "From: <alice@example.org> <ceo@bank.com>",
    "From: <alice@example.org>>",
    "From: <<alice@example.org>",
    "From: alice@example.org <ceo@bank.com>",
    "From: ceo@bank.com <alice@example.org>",
    "From: kunde@gmail.com via Shop <alice@example.org>",
    "From: Boss; alice@example.org",
    "From: \"alice@example.org\\\" <b@evil.example>",
    "From: \"Boss <alice@example.org>",
    "From: Boss) <alice@example.org>",
    "From: (Boss <alice@example.org>",
    "From: Bo\\ss <alice@example.org>",
    "From: <@bank.com:alice@example.org>",
    "From: <@bank.com,@b.example:alice@example.org>",
    // No address at all.
    "From: Boss <ceo\u{ff20}bank.com>",
    "From: Boss <ceo\u{fe6b}bank.com>",
    "From: Bob <bob>",
    "From: <bob>",
    "From: ceo%bank.com",
    "From: bank.com!ceo",
    "From: =?utf-8?q?ceo=40bank=2Ecom?= <root>",
    "From: =?utf-8?q?<b=40evil.example>?=",
    "From: =?utf-8?q?alice=40example.org?=",
    "From: Cron Daemon",
    "From: \"root\"",
    "From: r\u{f6}\u{f6}t",
    "From:",
    "From: (root)",
    "From: <>",
    "From: b@evil.example:;",
    // Somebody else's.
    "From: bob@example.org",
    "From: alice@example.org, bob@example.org",
    "From: alice@example.org\nFrom: ceo@bank.com",
    "From: ceo@bank.com\nFrom: alice@example.org",
    "From : ceo@bank.com",
    "From: root\nFrom: alice@example.org",
    "From: alice@example.org\nFrom: alice@example.org",
    "From: alice@example.org\nSubject: x\nFROM : shop@example.org",
    "Sender: ceo@bank.com",
    "From: alice@example.org\nSender: ceo@bank.com",
    "From: alice@example.org\nSENDER: bob@example.org",
    "From: alice@example.org\nSender: bob",
    "From: alice@example.org\nResent-From: ceo@bank.com",
    "From: ceo@bank.com\nResent-From: alice@example.org",
    "From: alice@example.org\nResent-From: alice@example.org\nResent-Sender: ceo@bank.com",
    // A name that is nothing but an address, or that holds one in brackets.
    "From: \"ceo@bank.com\" <alice@example.org>",
    "From: \"<ceo@bank.com>\" <alice@example.org>",
    "From: \"Boss <ceo@bank.com>\" <alice@example.org>",
    "From: \"'ceo@bank.com'\" <alice@example.org>",
    "From: \"(ceo@bank.com)\" <alice@example.org>",
    "From: \"mailto:ceo@bank.com\" <alice@example.org>",
    "From: \"ceo @ bank.com\" <alice@example.org>",
    "From: \"ceo\" =?utf-8?q?=40bank.com?= <alice@example.org>",
    "From: \"ceo\u{ff20}bank.com\" <alice@example.org>",
    "From: ceo\u{ff20}bank.com <alice@example.org>",
    "From: \"ceo@bank.com\u{200b}\" <alice@example.org>",
    "From: \"c\u{200b}eo@bank.com\" <alice@example.org>",
    "From: \"ceo@ba\u{2028}nk.com\" <alice@example.org>",
    "From: \"ceo@bank\u{200a}.com\" <alice@example.org>",
    // Words of a name, the space between which some readers leave out (mail-parser).
    "From: c \"eo@bank.com\" <alice@example.org>",
    "From: \"ceo@bank\" \".com\" <alice@example.org>",
    "From: =?utf-8?q?ceo=40?=\n \"bank.com\" <alice@example.org>",
    "From: =?utf-8?q?ceo=40?=\n bank.com <alice@example.org>",
    "From: \"ceo@bank\"\n =?utf-8?q?=2Ecom?= <alice@example.org>",
    "From: \"ceo@bank.com, boss@bank.com\" <alice@example.org>",
    "From: alice@example.org (ceo@bank.com)",
    "From: alice@example.org (Boss <ceo@bank.com>)",
    "From: root (Boss <ceo@bank.com>)",
    "From: =?utf-8?q?ceo=40bank=2Ecom?= <alice@example.org>",
    "From: \"=?utf-8?q?ceo=40bank=2Ecom?=\" <alice@example.org>",
    "From: =?utf-8?q?Boss_=3Cceo=40bank.com=3E?= <alice@example.org>",
    "From: =?utf-8?q?ceo=40?= =?utf-8?q?bank.com?= <alice@example.org>",
    "From: =?utf-8?q?ceo?=\n =?iso-8859-1?q?=40bank.com?= <alice@example.org>",
    // U+FF20 in two words, whole only once they are joined.
    "From: =?utf-8?q?ceo=EF=BC?= =?utf-8?q?=A0bank.com?= <alice@example.org>",
    "From: =?utf-8?b?Y2VvQGJhbmsuY29t?= <alice@example.org>",
    "From: =?utf-8?b?Y2VvQGJhbmsuY29tICA=?= <alice@example.org>",
    "From: =?utf-8*en?q?ceo=40bank.com?= <alice@example.org>",
    "From: =?iso-2022-jp?b?Y2VvQGJhbmsuY29t?= <alice@example.org>",
    "From: =?iso-2022-jp?b?Y2VvGyRCIXcbKEJiYW5rLmNvbQ==?= <alice@example.org>",
    // Encoded words that cannot be read here.
    "From: =?utf-7?q?ceo+AEA-bank.com?= <alice@example.org>",
    "From: =?cp037?q?=83=85=96=7C=82=81=95=92=4B=83=96=94?= <alice@example.org>",
    "From: =?utf-16?b?YwBlAG8AQABiAGEAbgBrAC4AYwBvAG0A?= <alice@example.org>",
    "From: =?hz-gb-2312?q?x?= <alice@example.org>",
    "From: =?x-unknown?q?x?= <alice@example.org>",
    "From: =?utf-8?x?ceo?= <alice@example.org>",
    "From: =?utf-8?q?ceo <alice@example.org>",
    "From: =?utf-8?q?=4?= <alice@example.org>",
    "From: =?utf-8?b?!!!!?= <alice@example.org>",
    "From: =?utf-8?q?x(=3Cceo=40bank.com=3E)?= <alice@example.org>",
    "From: =?utf-8?q?Alice=0D=0AFrom=3A_x?= <alice@example.org>",
    "From: =?utf-8?q?=3D=3Futf-8=3Fq=3Fceo=3D40bank.com=3F=3D?= <alice@example.org>",
    // Control characters, and a folded line that some take for the end of the header.
    "From: Al\u{b}ice <alice@example.org>",
    "From: Al\u{1b}ice <alice@example.org>",
    "From: Alice\n \n <alice@example.org>",
    "From: \"ceo@bank.com\"@example.org",
    // Python takes what comes before a square bracket for the address.
    "From: =?utf-8?q?ceo=40bank.com_x?= [y] <alice@example.org>",
    "From: \"ceo@bank.com x\" [y] <alice@example.org>",
    "From: alice@example.org.",
    // mutt shows no address here, and leaves the blank out there.
    "From: [x <alice@example.org>",
    "From: \"john doe\"@example.org",
];

/// What programs write that mean no harm, the program named where it is known for it.
const HONEST: &[&str] = &[
    "From: alice@example.org",
    "From: <alice@example.org>",
    "from: Alice <alice@example.org>",
    "From : Alice <alice@example.org>",
    "From: Alice Example <Alice@Example.ORG>",
    // Thunderbird
    "From: Alice Example <alice@example.org>\nSender: alice@example.org",
    "From: =?UTF-8?B?SsO2cmcgTcO8bGxlcg==?= <alice@example.org>",
    "From: =?UTF-8?Q?J=C3=B6rg_M=C3=BCller?= <alice@example.org>",
    // Outlook
    "From: \"Example, Alice\" <alice@example.org>",
    "From: \"alice@example.org\" <alice@example.org>",
    "From: \"'alice@example.org'\" <alice@example.org>",
    "From: =?iso-8859-1?Q?M=FCller=2C_J=F6rg?= <alice@example.org>",
    "From: =?Windows-1252?Q?Caf=E9_=96_Bar?= <alice@example.org>",
    "From: =?us-ascii?Q?Alice_Example?= <alice@example.org>",
    // Apple Mail
    "From: Alice Example <alice@example.org>\nResent-From: Alice Example <alice@example.org>",
    "From: =?utf-8?Q?Andr=C3=A9?= Example <alice@example.org>",
    // Gmail, sending through the server
    "From: \"Alice (Example Ltd.)\" <alice@example.org>",
    "From: Alice Example <alice.b@example.org>",
    // K-9, FairEmail
    "From: =?UTF-8?Q?Alice_=F0=9F=98=80?= <alice@example.org>",
    "From: Alice <alice+phone@example.org>",
    // mutt, Pine, mailx
    "From: \"Alice Q. Example\" <alice@example.org>",
    "From: alice@example.org (Alice Example)",
    "From: alice@example.org (Alice (at home))",
    "From: (Alice) alice@example.org",
    // WordPress, WooCommerce, PHPMailer
    "From: WordPress <shop@example.org>",
    "From: Shop <shop@example.org>",
    "From: \"kunde@gmail.com via Shop\" <shop@example.org>",
    "From: =?utf-8?q?kunde=40gmail=2Ecom_via_Shop?= <shop@example.org>",
    "From: \"Kunde (kunde@gmail.com)\" <shop@example.org>",
    "From: \"Tom & Jerry's Shop\" <shop@example.org>",
    "From: Tom & Jerry's Shop! <shop@example.org>",
    "From: \"The \\\"Best\\\" Shop\" <shop@example.org>",
    "From: \"AC\\\\DC\" <shop@example.org>",
    "From: Shop<shop@example.org>",
    "From: \"Shop\"<shop@example.org>",
    "From: Shop  <shop@example.org> ",
    "From: Shop < shop@example.org >",
    // Nextcloud, GitLab, Jira, Redmine, Discourse
    "From: Nextcloud <shop@example.org>",
    "From: \"Alice Example (@alice)\" <shop@example.org>",
    "From: \"@alice\" <shop@example.org>",
    "From: \"Alice Example (JIRA)\" <shop@example.org>",
    "From: [Redmine] Tracker #12 <shop@example.org>",
    "From: \"[project/repo] Alice\" <shop@example.org>",
    // Mailman and others that rewrite
    "From: \"Bob Example via List\" <shop@example.org>",
    "From: Bob Example via List <shop@example.org>\nReply-To: Bob <bob@elsewhere.example>",
    "From: \"bob--- via List\" <shop@example.org>",
    // logwatch, smartd, mdadm, fail2ban, unattended-upgrades
    "From: Logwatch <alice@example.org>",
    "From: \"smartd daemon\" <alice@example.org>",
    "From: mdadm monitoring <alice@example.org>",
    "From: \"Cron Daemon (root@web01)\" <alice@example.org>",
    // cron through msmtp and nullmailer
    "From: root",
    "From: root (Cron Daemon)",
    "From: www-data",
    // Printers, scanners, cameras
    "From: KM_C258 <alice@example.org>",
    "From: \"HP LaserJet 4.0\" <alice@example.org>",
    "From: Brother MFC-L2750DW series <alice@example.org>",
    // Django, Rails, nodemailer, Drupal
    "From: =?utf-8?q?B=C3=BCro?= <shop@example.org>",
    "From: \"=?UTF-8?Q?B=C3=BCro?=\" <shop@example.org>",
    "From: Alice =?UTF-8?B?TcO8bGxlcg==?= <shop@example.org>",
    "From: =?UTF-8?Q?A_very_long_name_of_an_application_that_does_?=\n =?UTF-8?Q?not_fit_into_one_line_at_all?= <shop@example.org>",
    // A character in two words, as some encoders cut it.
    "From: =?UTF-8?B?TcO=?= =?UTF-8?B?vGxsZXI=?= <shop@example.org>",
    // Names of the world
    "From: =?ISO-2022-JP?B?GyRCOzNFREJATzobKEI=?= <alice@example.org>",
    "From: =?UTF-8?B?5bGx55Sw5aSq6YOO?= <alice@example.org>",
    "From: =?Shift_JIS?B?jlKTY5G+mFk=?= <alice@example.org>",
    "From: =?EUC-JP?B?u7PFxMLAz7o=?= <alice@example.org>",
    "From: =?GB2312?B?1cXI/Q==?= <alice@example.org>",
    "From: =?gb18030?B?1cXI/Q==?= <alice@example.org>",
    "From: =?Big5?B?sWmkVA==?= <alice@example.org>",
    "From: =?euc-kr?B?sei9yLjw?= <alice@example.org>",
    "From: =?ks_c_5601-1987?B?sei9yLjw?= <alice@example.org>",
    "From: =?koi8-r?B?6dfBzg==?= <alice@example.org>",
    "From: =?windows-1251?B?yOLg7Q==?= <alice@example.org>",
    "From: =?iso-8859-7?B?w+n58ePv8g==?= <alice@example.org>",
    "From: =?ISO-8859-15?Q?Ren=E9e?= <alice@example.org>",
    // Not encoded at all (SMTPUTF8)
    "From: Jörg Müller <jörg@example.org>",
    "From: \"山田太郎\" <alice@example.org>",
    "From: Алиса <alice@example.org>",
    // RFC 5322's obsolete forms that are still written
    "From: John Q. Public <alice@example.org>",
    "From: Dr. A. Example <alice@example.org>",
    "From: Alice (work) Example <alice@example.org>",
    "From:\n Alice Example\n <alice@example.org>",
    "From: Alice\tExample <alice@example.org>",
    "From: Alice <alice@example.org> (at work)",
    "From: Alice <alice@example.org>, Shop <shop@example.org>\nSender: alice@example.org",
    "From: \"alice\"@example.org",
    "From: \"John Doe\" <\"john doe\"@example.org>",
    // What is not looked at
    "From: alice@example.org\nReply-To: ceo@bank.com",
    "Subject: no sender at all",
];

#[test]
fn what_shows_another_sender_is_refused() {
    for fields in FORGED {
        let refused = refusal("alice@example.org", fields.as_bytes());
        assert!(refused.is_some(), "accepted: {fields}");
        let (why, text) = refused.unwrap();
        assert!(matches!(why, Refusal::HeaderFrom | Refusal::HeaderFromUnreadable), "{fields}: {text}");
        let named = [
            "Header From: ",
            "Header Sender: ",
            "Header Resent-",
            "Header cannot be read: From ",
            "Header cannot be read: Sender ",
        ];
        assert!(named.iter().any(|begin| text.starts_with(begin)), "{fields}: {text}");
    }
}

#[test]
fn what_honest_programs_write_is_taken() {
    assert!(HONEST.len() >= 60);
    for fields in HONEST {
        assert_eq!(refusal("alice@example.org", fields.as_bytes()), None, "{fields}");
    }
    // Not UTF-8 either: what a program of another century writes.
    assert_eq!(refusal("alice@example.org", b"From: J\xf6rg <alice@example.org>"), None);
    assert_eq!(refusal("alice@example.org", b"From: \"\x8eR\x93c\" <alice@example.org>"), None);
}

#[test]
fn the_refusal_says_what_and_how_to_cure_it() {
    let rows = [
        ("From: bob@example.org", "Header From: <bob@example.org> is not an address of your login"),
        ("From: \"ceo@bank.com\" <alice@example.org>", "Header From: the name ceo@bank.com is not an address of your login"),
        ("Sender: a@b.example", "Header Sender: <a@b.example> is not an address of your login"),
        ("From: A: B <alice@example.org>", "Header cannot be read: From at `: B <alice@example.org>`; put the name in quotes"),
        ("From: a@b.example <alice@example.org>", "Header cannot be read: From at `<alice@example.org>`; put the name in quotes"),
        ("From: Bob <bob>", "Header cannot be read: From at `bob>`; give one address in angle brackets after each name"),
        ("From: alice@example.org\nFrom: alice@example.org", "Header cannot be read: From is there more than once; leave one"),
        (
            "From: =?utf-7?q?x?= <alice@example.org>",
            "Header cannot be read: From at `=?utf-7?q?x?= <alice@example.org>`; encode the name in UTF-8",
        ),
    ];
    for (fields, want) in rows {
        assert_eq!(refusal("alice@example.org", fields.as_bytes()).unwrap().1, want);
    }
}

#[test]
fn a_missing_sender_is_filled_in() {
    let rows = [
        ("alice@example.org", "From: root", "From: root <alice@example.org>\n\n"),
        ("alice@example.org", "A: b\nFrom: root (Cron Daemon)\nC: d", "A: b\nFrom: root <alice@example.org>\nC: d\n\n"),
        ("alice@example.org", "From: backup.daily", "From: \"backup.daily\" <alice@example.org>\n\n"),
        ("alice@example.org", "Subject: x", "From: alice@example.org\nSubject: x\n\n"),
        ("scanner", "Subject: x", "From: scans@example.org\nSubject: x\n\n"),
        ("scanner", "From: scanner", "From: scanner <scans@example.org>\n\n"),
        // No address stands for this login: nothing is added.
        ("nobody", "Subject: x", "Subject: x\n\n"),
    ];
    for (login, fields, want) in rows {
        assert_eq!(stored(login, fields), want, "{login} {fields}");
    }
    assert!(refusal("nobody", b"From: root").is_some());
}

/// A mix of tokens, mostly around an address of one's own.
fn mix() -> impl Strategy<Value = Vec<u8>> {
    let bits: Vec<&[u8]> = vec![
        b"alice@example.org",
        b"<alice@example.org>",
        b"<shop@example.org>",
        b"ceo@bank.com",
        b"<ceo@bank.com>",
        b"ceo",
        b"bank.com",
        b"\"ceo@bank.com\"",
        b"\"Boss, ceo@bank.com x\"",
        b"(ceo@bank.com)",
        b"(ceo@bank.com x)",
        b"=?utf-8?q?ceo=40bank=2Ecom?=",
        b"=?utf-8?q?ceo=40bank.com_via_Shop?=",
        b"=?utf-8?b?Y2VvQGJhbmsuY29t?=",
        b"=?utf-8?q?a=22=2C_b?=",
        b"=?utf-8?q?=5C?=",
        b"=?iso-2022-jp?b?GyRCOzNFREJATzobKEI=?=",
        b"\"",
        b"\\",
        b"\\\"",
        b"(",
        b")",
        b",",
        b";",
        b":",
        b"<",
        b">",
        b"@",
        b".",
        b"[",
        b"]",
        b"'",
        b"`",
        b"%",
        b"!",
        b"=",
        b"?",
        b"=?",
        b"?=",
        b" ",
        b" ",
        b" ",
        b"\t",
        b"\n ",
        b"Boss",
        b"John Q. Public",
        b"via Shop",
        "\u{dc}".as_bytes(),
        "\u{ff20}".as_bytes(),
        b"\xff",
        b"\xa0",
        b"()",
        b"\"\"",
        b"(a (b) c)",
        b"\"a\\\"b\"",
        b"(a\\)b)",
        b"\"a\n b\"",
        b"(a\n b)",
        b"\"john doe\"@example.org",
        b"root",
        b"alice",
        b"example.org",
        b"team:",
        b"<@bank.com:alice@example.org>",
    ];
    let bit = prop::sample::select(bits.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
    let some = |most| prop::collection::vec(bit.clone(), 0..most).prop_map(|bits| bits.concat());
    let own = prop::sample::select(vec![
        &b"<alice@example.org>"[..],
        b"alice@example.org",
        b" <alice@example.org>",
        b"<shop@example.org>, ",
    ]);
    prop_oneof![
        3 => (some(6), own.clone(), some(4)).prop_map(|(before, own, after)| [&before[..], own, &after[..]].concat()),
        1 => (some(4), own.clone(), some(4), own, some(3)).prop_map(|(a, b, c, d, e)| [&a[..], b, &c[..], d, &e[..]].concat()),
        1 => some(9),
    ]
}

/// Accepted From fields of a random search, each once, beside those that ordinary programs write.
fn accepted(tries: usize) -> Vec<Vec<u8>> {
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    let strategy = mix();
    let mut found: Vec<Vec<u8>> = HONEST
        .iter()
        .filter_map(|fields| fields.split('\n').next()?.strip_prefix("From: "))
        .map(|body| body.as_bytes().to_vec())
        .collect();
    // One bare word is stored as another field than the one that came.
    found.retain(|body| matches!(from::parse(body), Ok(Author::Mailboxes(_))));
    for _ in 0..tries {
        let body = strategy.new_tree(&mut runner).unwrap().current();
        // A line that begins with a word would be another field.
        if matches!(from::parse(&body), Ok(Author::Mailboxes(_))) && refusal("alice@example.org", &field(&body)).is_none() {
            found.push(body);
        }
    }
    found.sort();
    found.dedup();
    found
}

fn field(body: &[u8]) -> Vec<u8> {
    [b"From: ", body].concat()
}

/// Octets as a test shows them.
fn shown(body: &[u8]) -> String {
    body.escape_ascii().to_string()
}

#[test]
fn what_is_taken_shows_no_other_address_in_mail_parser() {
    let all = accepted(150_000);
    assert!(all.len() > 1000, "the search finds too little: {}", all.len());
    for body in all {
        let text = [&field(&body)[..], b"\n\n"].concat();
        let parsed = MessageParser::new().parse(&text).unwrap();
        let list = parsed.from().unwrap_or_else(|| panic!("{}", shown(&body)));
        for one in list.iter() {
            let address = one.address().unwrap_or_default();
            assert!(OWN.contains(&address.to_lowercase().as_str()) || is_quoted_own(address), "{address:?} in {}", shown(&body));
            let name = one.name().unwrap_or_default();
            assert!(!is_foreign(name), "the name {name:?} in {}", shown(&body));
        }
    }
}

/// True for a name that is the address which the search would forge.
fn is_foreign(name: &str) -> bool {
    name.trim_matches(|c: char| !c.is_alphanumeric()).eq_ignore_ascii_case("ceo@bank.com")
}

/// A quoted local part, which mail-parser shows without its quotes in brackets, and not at all without brackets.
fn is_quoted_own(address: &str) -> bool {
    ["\"john doe\"@example.org", "john doe@example.org", "\"alice\"@example.org", "@example.org"].contains(&address)
}

#[test]
fn what_is_taken_shows_no_other_address_in_python() {
    if !require(&["python3"]) {
        return;
    }
    let all = accepted(150_000);
    let dir = tempfile::tempdir().unwrap();
    let lines: String = all.iter().fold(String::new(), |mut text, body| {
        let _ = writeln!(text, "{}", body.iter().map(|b| format!("{b:02x}")).collect::<String>());
        text
    });
    let file = dir.path().join("accepted");
    fs::write(&file, lines).unwrap();
    let output = finish(Command::new("python3").args(["-c", PYTHON]).arg(&file).stdin(Stdio::null()));
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("{} read", all.len()), "{}", said(&output));
}

/// Both policies, and both ways of the older interface; an address is whatever they would answer to.
const PYTHON: &str = r#"
import email, email.policy, email.utils, inspect, sys
own = {'j\ufffd\ufffdrg@example.org', 'alice@example.org', 'alice+phone@example.org', 'shop@example.org', 'alice.b@example.org', 'j\u00f6rg@example.org', '"john doe"@example.org', '"alice"@example.org'}
strict = 'strict' in inspect.signature(email.utils.getaddresses).parameters
count = 0
for line in open(sys.argv[1]):
    body = bytes.fromhex(line.strip())
    raw = b'From: ' + body + b'\n\n'
    count += 1
    got = []
    old = str(email.message_from_bytes(raw, policy=email.policy.compat32)['From'])
    got += email.utils.getaddresses([old])
    if strict:
        got += email.utils.getaddresses([old], strict=False)
    got.append(email.utils.parseaddr(old))
    shown = [address for _, address in got]
    for policy in (email.policy.default, email.policy.SMTPUTF8):
        try:
            field = email.message_from_bytes(raw, policy=policy)['From']
        except (AttributeError, IndexError, TypeError):
            continue  # A defect of its own, with a lone dot: it shows nothing.
        shown += [one.addr_spec for group in field.groups for one in group.addresses]
        shown += [group.display_name for group in field.groups if group.display_name]
    # What has no @ is no address: before a square bracket, words of the name are taken for one.
    shown = [one for one in shown if '@' in one or '\uff20' in one]
    shown = [one for one in shown if one.encode('utf-8', 'surrogateescape').decode('utf-8', 'replace').lower() not in own]
    if shown:
        print(repr(body), shown)
print(count, 'read')
"#;

/// mutt's index shows the address that it would answer to.
#[test]
fn what_is_taken_shows_no_other_address_in_mutt() {
    if !require(&["mutt", "script"]) {
        return;
    }
    let all = accepted(20_000);
    let all: Vec<_> = all.iter().step_by(all.len() / MUTT_ROWS + 1).collect();
    let dir = tempfile::tempdir().unwrap();
    let maildir = dir.path().join("box");
    for part in ["new", "cur", "tmp"] {
        fs::create_dir_all(maildir.join(part)).unwrap();
    }
    for (number, body) in all.iter().enumerate() {
        let text = [&field(body)[..], format!("\nSubject: number {number}.\n\n\n").as_bytes()].concat();
        fs::write(maildir.join(format!("new/{number:04}.x")), text).unwrap();
    }
    let rc = dir.path().join("muttrc");
    let settings = "set mbox_type=Maildir\nset quit=yes\nset index_format='%a %s'\nset charset=utf-8\nset sort=mailbox-order\n";
    fs::write(&rc, format!("set folder={}\n{settings}", dir.path().display())).unwrap();
    // The terminal has a row for each message. exec: see tests/interop.rs.
    let command = format!(
        "stty rows {} cols 200 && exec mutt -n -F {} -R -f {} -e 'push <quit>'",
        MUTT_ROWS + 10,
        rc.display(),
        maildir.display()
    );
    let mut script = Command::new("script");
    let output = finish(script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null()));
    let screen = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut own = OWN.map(str::to_owned).to_vec();
    own.push("john doe@example.org".into());
    let mut foreign = String::new();
    for (number, body) in all.iter().enumerate() {
        let sound = own.iter().any(|address| screen.to_lowercase().contains(&format!("{address} number {number}.")));
        if !sound {
            let end = screen.find(&format!(" number {number}.")).unwrap_or(0);
            let row = screen[..end].rsplit(['\n', '\r', '\u{1b}']).next().unwrap_or("");
            let _ = writeln!(foreign, "{}: {row}", shown(body));
        }
    }
    assert!(foreign.is_empty(), "{foreign}");
}

/// Messages that mutt is shown at once.
const MUTT_ROWS: usize = 400;
