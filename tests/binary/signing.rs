//! DKIM on the built server: what leaves is signed, and other implementations verify it as it came over the wire.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::hop::{Hop, Taken};
use crate::common::messages::messages;
use crate::common::{self, PATIENCE, Server, Setup, finish, python_with, require, said, skipped};
use crate::names::{Behaviour, NameServer, Record};
use nix::sys::signal::Signal;

const BINARY: &str = env!("CARGO_BIN_EXE_pillarbox");

/// Contents as a client hands them in; `From` is alice's in all of them.
const CONTENTS: [&[u8]; 15] = [
    b"From: alice@example.org\r\nTo: bob@elsewhere.example\r\nSubject: plain\r\nDate: Wed, 25 Nov 2026 10:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\nHello\r\n",
    b"From: alice@example.org\r\nSubject: no date, no id, no body\r\n\r\n",
    b"From: alice@example.org\r\nSubject: dots and blanks\r\n\r\n.\r\n..\r\n  a \t b  \r\n\r\n\r\n",
    "From: Al\u{ef}ce <alice@example.org>\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\u{e4}\u{f6}\u{fc} \u{4f60}\u{597d}\r\n".as_bytes(),
    b"From: alice@example.org\r\nSubject: latin\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\ncaf\xe9 \xff\r\n",
    b"Received: by x\r\nFrom:  Alice\r\n  <alice@example.org> \r\nTo: a@b.example,\r\n\tc@d.example\r\nCc: e@f.example\r\nBcc: hidden@g.example\r\nList-Id: <l.example>\r\nList-Unsubscribe: <https://l.example/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nSubject: folded\r\n\r\nx\r\n",
    b"From: alice@example.org\r\nSubject: no line end at the end of a header\r\nX-Last: y\r\n",
    b"From:\r\n alice@example.org\r\nSubject: folds\r\n \r\n\t\r\n  of white space \r\n \r\nTo:\r\n\t \r\n bob@elsewhere.example\r\n\r\nx\r\n",
    b"From: alice@example.org\r\nSubject: one\r\nTo: a@b.example\r\nSubject: two\r\nTo: c@d.example\r\nCc: e@f.example\r\nDate: Wed, 25 Nov 2026 10:00:00 +0000\r\nCc: g@h.example\r\nReply-To: i@j.example\r\nReply-To: k@l.example\r\n\r\nx\r\n",
    b"From: alice@example.org\r\nTo: undisclosed-recipients:;\r\nCc: some: a@b.example, c@d.example;\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\nx\r\n",
    b"From: alice@example.org\r\nSubject: only empty lines\r\n\r\n\r\n\r\n\r\n",
    b"From: alice@example.org\r\nSubject: only white space\r\n\r\n \r\n\t\r\n \t \r\n",
    b"Subject: no From\r\n\r\nx\r\n",
    b"From: alice@example.org\r\nDKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=none; h=from; bh=; b=\r\nSubject: a: b; b=c\r\n\r\nx\r\n",
    b"nothing but words, with a colon: here\r\nFrom: mallory@example.org\r\n",
];

/// Those, and the messages that real clients hand in.
fn contents() -> Vec<Vec<u8>> {
    let crlf = |text: Vec<u8>| {
        text.split_inclusive(|b| *b == b'\n').flat_map(|line| [&line[..line.len() - 1], b"\r\n"].concat()).collect()
    };
    CONTENTS.iter().map(|content| content.to_vec()).chain(messages().into_iter().map(|(_, text)| crlf(text))).collect()
}

struct Signing {
    server: Server,
    hop: Hop,
}

impl Signing {
    /// A server that sends on, with keys for example.org and the lines of `route` in the route's section.
    fn start(keys: &[&str], route: &str) -> Self {
        Self::start_with(keys, |hop| hop.route("next") + route)
    }

    /// The same with these sections of routes, and more.
    fn start_with(keys: &[&str], routes: impl FnOnce(&Hop) -> String) -> Self {
        let hop = Hop::new();
        let list: Vec<String> =
            keys.iter().map(|key| format!("{{ selector = \"{key}\", key = \"{{place}}/{key}.pem\" }}")).collect();
        let outgoing = format!(
            "[outgoing]\nvia = \"next\"\nspool = \"{{place}}/spool\"\npostmaster = \"me@elsewhere.example\"\n\
             {}\n[dkim]\n\"example.org\" = [{}]\n",
            routes(&hop),
            list.join(", ")
        );
        let dir = tempfile::tempdir().unwrap();
        let senders = vec!["\"alice@example.org\" = [\"*@shop.example\"]".to_owned()];
        let setup = Setup { outgoing, senders, ..Setup::default() };
        let server = setup.start_with(dir, |dir| {
            for key in keys {
                make_key(&dir.join(format!("{key}.pem")), key.starts_with("ed"));
            }
        });
        Self { server, hop }
    }

    fn hand_in(&self, contents: &[impl AsRef<[u8]>]) -> Vec<Taken> {
        let before = self.hop.taken_count();
        let mut client = self.server.login("alice@example.org");
        for content in contents {
            client.say("MAIL FROM:<alice@example.org> BODY=8BITMIME SMTPUTF8", "250");
            client.say("RCPT TO:<bob@elsewhere.example>", "250");
            client.say("DATA", "354");
            client.send(&stuffed(content.as_ref())).unwrap();
            client.expect("250");
        }
        self.hop.wait_for_messages(before + contents.len()).split_off(before)
    }

    /// The record that publishes a key.
    fn record(&self, key: &str) -> String {
        let text = fs::read(self.server.dir.path().join(format!("{key}.pem"))).unwrap();
        pillarbox::mail::dkim::SigningKey::from_pem("example.org", key, &text).unwrap().record()
    }
}

fn make_key(path: &Path, ed25519: bool) {
    use pillarbox::mail::dkim::{Algorithm, SigningKey};
    let algorithm = if ed25519 { Algorithm::Ed25519 } else { Algorithm::Rsa };
    let (_, text) = SigningKey::generate("example.org", "x", algorithm).unwrap();
    fs::write(path, text.as_bytes()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn stuffed(content: &[u8]) -> Vec<u8> {
    let lines = content.split_inclusive(|b| *b == b'\n');
    let mut out: Vec<u8> =
        lines.flat_map(|line| if line.starts_with(b".") { [b".", line].concat() } else { line.to_vec() }).collect();
    out.extend_from_slice(b".\r\n");
    out
}

fn signatures(message: &Taken) -> usize {
    String::from_utf8_lossy(&message.content).matches("DKIM-Signature: v=1;").count()
}

/// Every signature in the file's message verifies, there are so many, and none does with one octet of the body changed or a
/// Subject added.
const VERIFY: &str = r#"
import dkim, sys
path, count, records = sys.argv[1], int(sys.argv[2]), dict(a.split('=', 1) for a in sys.argv[3:])
m = open(path, 'rb').read()
dns = lambda name, timeout=5: records.get(name.decode().split('.')[0], '').encode() or None
def results(m):
    d = dkim.DKIM(m, minkey=1024)
    def one(i):
        try: return d.verify(idx=i, dnsfunc=dns)
        except dkim.DKIMException as e: return False
    return [one(i) for i in range(count)]
found = sum(1 for name, value in dkim.DKIM(m).headers if name.lower() == b'dkim-signature' and b's=none' not in value)
good = results(m)
forged = results(b'Subject: added\r\n' + m) + results(m + b'x\r\n')
print(found, good, forged)
sys.exit(0 if found == count and all(good) and not any(forged) else 1)
"#;

#[test]
fn dkimpy_verifies_what_leaves() {
    let Some(python) = python_with("dkim") else { return };
    let signing = Signing::start(&["rsa", "ed"], "");
    let dir = tempfile::tempdir().unwrap();
    let records: Vec<String> = ["rsa", "ed"].iter().map(|key| format!("{key}={}", signing.record(key))).collect();
    for (number, message) in signing.hand_in(&contents()).iter().enumerate() {
        let file = dir.path().join(number.to_string());
        // A header section that nothing follows has no empty line, which dkimpy wants.
        let mut content = message.content.clone();
        if !content.windows(4).any(|octets| octets == b"\r\n\r\n") {
            content.extend_from_slice(b"\r\n");
        }
        fs::write(&file, &content).unwrap();
        let output = finish(Command::new(&python).args(["-c", VERIFY]).arg(&file).arg("2").args(&records));
        assert!(output.status.success(), "{}\n{}", said(&output), String::from_utf8_lossy(&content));
    }
}

/// OpenDKIM takes its DNS from a file; it knows RSA alone.
#[test]
fn opendkim_verifies_what_leaves() {
    if !require(&["opendkim"]) {
        return;
    }
    let signing = Signing::start(&["rsa"], "");
    let dir = tempfile::tempdir().unwrap();
    let zone = dir.path().join("zone");
    fs::write(&zone, format!("rsa._domainkey.example.org {}\n", signing.record("rsa"))).unwrap();
    let config = dir.path().join("opendkim.conf");
    fs::write(&config, format!("Mode v\nSyslog no\nTestDNSData file:{}\n", zone.display())).unwrap();
    for (number, message) in signing.hand_in(&contents()).iter().enumerate() {
        let file = dir.path().join(number.to_string());
        fs::write(&file, &message.content).unwrap();
        let output = finish(Command::new("/usr/sbin/opendkim").arg("-x").arg(&config).arg("-t").arg(&file).arg("-v"));
        assert!(said(&output).contains("verification (s=rsa, d=example.org, 2048-bit key) succeeded"), "{}", said(&output));
    }
}

/// All, without Date and Message-ID, none; nothing for a domain that has no key.
#[test]
fn a_route_says_what_is_signed() {
    let content: &[&[u8]] = &[CONTENTS[0]];
    let signed = |route: &str| {
        let signing = Signing::start(&["rsa"], route);
        String::from_utf8(signing.hand_in(content)[0].content.clone())
            .unwrap()
            .split("Received:")
            .next()
            .unwrap()
            .replace("\r\n\t ", "")
    };
    let all = signed("dkim = \"all\"");
    assert!(all.starts_with("DKIM-Signature: v=1; a=rsa-sha256;") && all.contains(":date:date:message-id;"), "{all}");
    let without = signed("dkim = \"without-id\"");
    assert!(without.starts_with("DKIM-Signature: v=1; a=rsa-sha256;"), "{without}");
    assert!(!without.contains("date") && !without.contains("message-id"), "{without}");
    assert_eq!(signed("dkim = \"off\""), "");
    let signing = Signing::start(&[], "");
    assert_eq!(signatures(&signing.hand_in(content)[0]), 0);
    // What `check` says, and not where it would be wrong.
    let told = |signing: &Signing| {
        let checked = finish(Command::new(BINARY).arg("-c").arg(&signing.server.config).args(["check", "--offline"]));
        [signing.server.log_text(), said(&checked)].map(|text| text.matches("mail from example.org is sent unsigned").count())
    };
    assert_eq!(told(&signing), [1, 1], "{}", signing.server.log_text());
    assert_eq!(told(&Signing::start(&[], "dkim = \"off\"")), [0, 0]);
    assert_eq!(told(&Signing::start(&["rsa"], "")), [0, 0]);
}

/// One message by routes that want other signatures: each sends its own.
#[test]
fn each_route_sends_the_signatures_that_it_wants() {
    let signing = Signing::start_with(&["rsa", "ed"], |hop| {
        let routes = [("next", "all"), ("less", "without-id"), ("bare", "off")];
        let routes = routes.map(|(name, mode)| format!("{}dkim = {mode:?}\n", hop.route(name)));
        routes.concat() + "[outgoing.to]\n\"less.example\" = \"less\"\n\"bare.example\" = \"bare\"\n"
    });
    let mut client = signing.server.login("alice@example.org");
    client.say("MAIL FROM:<alice@example.org>", "250");
    for domain in ["elsewhere", "less", "bare"] {
        client.say(&format!("RCPT TO:<bob@{domain}.example>"), "250");
    }
    client.say("DATA", "354");
    client.send(&stuffed(CONTENTS[0])).unwrap();
    client.expect("250");
    let taken = signing.hop.wait_for_messages(3);
    for (domain, want) in [("elsewhere", [2, 2]), ("less", [2, 0]), ("bare", [0, 0])] {
        let message = taken.iter().find(|message| message.rcpt == [format!("RCPT TO:<bob@{domain}.example>")]).unwrap();
        let text = String::from_utf8_lossy(&message.content).replace("\r\n\t ", "");
        assert_eq!([signatures(message), text.matches(":date:date:message-id").count()], want, "{domain}: {text}");
    }
}

/// Mail that is both for here and for elsewhere: signed where it leaves, and nothing is added here.
#[test]
fn a_copy_for_a_mailbox_is_not_signed() {
    let Some(python) = python_with("dkim") else { return };
    let signing = Signing::start(&["rsa"], "");
    let mut client = signing.server.login("alice@example.org");
    client.say("MAIL FROM:<alice@example.org>", "250");
    client.say("RCPT TO:<bob@elsewhere.example>", "250");
    client.say("RCPT TO:<bob@example.org>", "250");
    client.say("DATA", "354");
    client.send(&stuffed(CONTENTS[0])).unwrap();
    client.expect("250");
    let message = signing.hop.wait_for_messages(1).remove(0);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("message");
    fs::write(&file, &message.content).unwrap();
    let record = format!("rsa={}", signing.record("rsa"));
    let output = finish(Command::new(&python).args(["-c", VERIFY]).arg(&file).arg("1").arg(record));
    assert!(output.status.success(), "{}", said(&output));
    let here = fs::read_to_string(&signing.server.new_mail("bob@example.org")[0]).unwrap();
    assert!(!here.contains("DKIM-Signature") && here.contains("Subject: plain"), "{here}");
}

/// A report of this server's that is sent on is signed by the domain of its From.
#[test]
fn a_report_is_signed() {
    let Some(python) = python_with("dkim") else { return };
    let signing = Signing::start(&["rsa"], "");
    let mut client = signing.server.login("alice@example.org");
    client.say("MAIL FROM:<alice@shop.example>", "250");
    client.say("RCPT TO:<bob@elsewhere.example> NOTIFY=SUCCESS", "250");
    client.say("DATA", "354");
    client.send(b"From: alice@shop.example\r\nSubject: x\r\n\r\nx\r\n.\r\n").unwrap();
    client.expect("250");
    let taken = signing.hop.wait_for_messages(2);
    assert_eq!(signatures(&taken[0]), 0, "shop.example has no key");
    assert_eq!(taken[1].rcpt, ["RCPT TO:<alice@shop.example>"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("message");
    fs::write(&file, &taken[1].content).unwrap();
    let record = format!("rsa={}", signing.record("rsa"));
    let output = finish(Command::new(&python).args(["-c", VERIFY]).arg(&file).arg("1").arg(record));
    assert!(output.status.success(), "{}\n{}", said(&output), String::from_utf8_lossy(&taken[1].content));
}

/// A key that others may read, that is missing, or is none: the server does not start, and says which.
#[test]
fn keys_that_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { services: vec!["submissions"], ..Setup::default() };
    let config = setup.write(dir.path());
    let key = dir.path().join("k.pem");
    let line = format!("[dkim]\n\"example.org\" = {{ selector = \"a\", key = \"{}\" }}\n", key.display());
    fs::write(&config, fs::read_to_string(&config).unwrap() + &line).unwrap();
    common::give_to_nobody(dir.path());
    let start = || {
        let output = finish(Command::new(BINARY).arg("-c").arg(&config).arg("serve").stdin(Stdio::null()));
        assert_eq!(output.status.code(), Some(78), "{}", said(&output));
        let checked = finish(Command::new(BINARY).arg("-c").arg(&config).arg("check"));
        assert_eq!(checked.status.code(), Some(78), "{}", said(&checked));
        (said(&output), said(&checked))
    };
    let named = |want: &str| {
        let (served, checked) = start();
        for said in [served, checked] {
            assert!(said.contains(&format!("k.pem: dkim.\"example.org\": {want}")), "{said}");
        }
    };
    named("no such file; make a key with `pillarbox dkim add example.org`");
    fs::write(&key, "x").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    named("holds no PEM private key");
    make_key(&key, false);
    for mode in [0o644, 0o660, 0o604] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        named(&format!("its mode {mode:04o} is wider than 0640"));
    }
}

/// A key that stays root's is read by the helper, and taken up when it changes; a bad one is refused and the old one kept.
#[test]
fn a_key_that_changes_is_taken_up() {
    let signing = Signing::start(&["rsa"], "");
    let record = || signing.record("rsa");
    let verifies = |record: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("message");
        fs::write(&file, &signing.hand_in(&[CONTENTS[0]])[0].content).unwrap();
        let Some(python) = python_with("dkim") else { return true };
        finish(Command::new(&python).args(["-c", VERIFY]).arg(&file).arg("1").arg(format!("rsa={record}"))).status.success()
    };
    let old = record();
    assert!(verifies(&old));
    let path = signing.server.dir.path().join("rsa.pem");
    let next = signing.server.dir.path().join("next");
    fs::write(&next, "no key\n").unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&next, &path).unwrap();
    signing.server.wait_for_log(&["reloaded", "what=dkim", "result=refused", "holds no PEM private key"]);
    assert!(verifies(&old));
    make_key(&next, false);
    fs::rename(&next, &path).unwrap();
    signing.server.wait_for_log(&["reloaded", "what=dkim", "result=ok"]);
    assert!(verifies(&record()) && record() != old);
    // Another mode and nothing else.
    let reloads = || signing.server.log_text().matches("what=dkim result=ok").count();
    let before = reloads();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    signing.server.wait_for_log(&["reloaded", "what=dkim", "result=refused", "its mode 0644 is wider than 0640"]);
    assert!(verifies(&record()), "the key that was read before signs on");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let begun = Instant::now();
    while reloads() == before {
        assert!(begun.elapsed() < PATIENCE, "{}", signing.server.log_text());
        thread::sleep(Duration::from_millis(50));
    }
}

/// While a helper reads the keys, files that it was not started with need a restart; another domain for one that it knows does
/// not.
#[test]
fn new_key_files_need_a_restart() {
    let signing = Signing::start(&["rsa"], "");
    let place = signing.server.dir.path();
    let toml = fs::read_to_string(&signing.server.config).unwrap();
    let reload = |line: &str| {
        fs::write(&signing.server.config, format!("{toml}{line}\n")).unwrap();
        signing.server.signal(Signal::SIGHUP);
    };
    reload(&format!("\"shop.example\" = {{ selector = \"rsa\", key = \"{}\" }}", place.join("rsa.pem").display()));
    signing.server.wait_for_log(&["reloaded", "what=configuration", "result=ok"]);
    let shop = String::from_utf8(CONTENTS[0].to_vec()).unwrap().replace("alice@example.org", "alice@shop.example");
    assert_eq!(signatures(&signing.hand_in(&[shop.as_bytes()])[0]), 1);
    if !nix::unistd::geteuid().is_root() {
        return skipped("not started as root: there is no helper");
    }
    make_key(&place.join("new.pem"), true);
    reload(&format!("\"shop.example\" = {{ selector = \"new\", key = \"{}\" }}", place.join("new.pem").display()));
    signing.server.wait_for_log(&["reloaded", "what=configuration", "result=refused", "dkim: the key helper", "restart"]);
    let message = String::from_utf8_lossy(&signing.hand_in(&[shop.as_bytes()])[0].content).into_owned();
    assert!(message.contains("\ts=rsa;"), "the old configuration stays: {message}");
}

/// A file may be named more than once; a helper that reads it as root answers for each.
#[test]
fn one_key_signs_for_two_domains() {
    let second = "\n[[dkim.\"shop.example\"]]\nselector = \"rsa\"\nkey = \"{place}/rsa.pem\"";
    let signing = Signing::start(&["rsa"], second);
    let shop = CONTENTS[0].to_vec();
    let shop = String::from_utf8(shop).unwrap().replace("From: alice@example.org", "From: alice@shop.example");
    for (message, domain) in signing.hand_in(&[CONTENTS[0], shop.as_bytes()]).iter().zip(["example.org", "shop.example"]) {
        let text = String::from_utf8_lossy(&message.content).into_owned();
        assert!(text.contains(&format!("d={domain};")), "{text}");
    }
}

/// The verb makes keys that the server signs with, and says what DNS has.
#[test]
fn keys_are_made_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup { services: vec!["submissions"], ..Setup::default() };
    let config = setup.write(dir.path());
    let run = |words: &[&str]| finish(Command::new(BINARY).arg("-c").arg(&config).arg("dkim").args(words));
    let output = run(&["list"]);
    assert!(output.status.success() && output.stdout.is_empty(), "{}", said(&output));
    let output = run(&["add", "Example.org", "--ed25519"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let key = dir.path().join("dkim/example.org.pb1.pem");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(text.contains("pb1._domainkey.example.org. IN TXT ( \"v=DKIM1; k=rsa; p="), "{text}");
    assert!(text.contains("pb2._domainkey.example.org. IN TXT ( \"v=DKIM1; k=ed25519; p="), "{text}");
    let strings = text.lines().filter_map(|line| line.split('"').nth(1)).filter(|string| string.len() > 200);
    assert!(strings.clone().count() > 0 && strings.clone().all(|string| string.len() <= 255), "{text}");
    // For a form, whole and without quotes.
    for selector in ["pb1", "pb2"] {
        let key = fs::read(dir.path().join(format!("dkim/example.org.{selector}.pem"))).unwrap();
        let record = pillarbox::mail::dkim::SigningKey::from_pem("example.org", selector, &key).unwrap().record();
        let form = format!("; name   {selector}._domainkey.example.org\n; value  {record}\n");
        assert!(text.contains(&form), "{form}{text}");
    }
    // A key that is there and that nothing names is not made once more.
    let line = format!("write `\"example.org\" = [{{ selector = \"pb1\", key = \"{}\" }}]` below [dkim]", key.display());
    let forgotten = said(&run(&["list"]));
    assert!(forgotten.contains(&line) && !forgotten.contains("dkim add"), "{forgotten}");
    // The printed lines are a configuration; the name server that it names has one of the keys.
    let lines = &text[text.find("[dkim]").unwrap()..];
    assert!(lines.contains("\"example.org\" = [{ selector = \"pb1\"") && lines.contains("{ selector = \"pb2\""), "{lines}");
    let whole = fs::read_to_string(&config).unwrap() + lines;
    fs::write(&config, &whole).unwrap();
    let output = run(&["add", "example.org", "--selector", "pb1"]);
    assert_eq!(output.status.code(), Some(73), "{}", said(&output));
    let output = run(&["add", "example.org", "--selector", "s2"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("pb2\", key"), "{}", said(&output));
    let server = common::free_port();
    fs::write(&config, format!("{whole}[outgoing]\nvia = \"a\"\nresolver = \"127.0.0.1:{server}\"\n[outgoing.routes.a]\nurl = \"smtps://a.example\"\n")).unwrap();
    let output = run(&["list"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.lines().count() == 2, "{}", said(&output));
    assert!(text.lines().all(|line| line.contains("DNS not known") && line.contains("/dkim/example.org.pb")), "{text}");
    let record = pillarbox::mail::dkim::SigningKey::from_pem("example.org", "pb1", &fs::read(&key).unwrap()).unwrap().record();
    let names = NameServer::start(vec![
        ("pb1._domainkey.example.org", Behaviour::Records(vec![Record::Txt(record)])),
        ("pb2._domainkey.example.org", Behaviour::Records(vec![Record::Txt("v=DKIM1; k=ed25519; p=AAAA".to_owned())])),
    ]);
    let text = fs::read_to_string(&config).unwrap().replace(&format!("127.0.0.1:{server}"), &names.address.to_string());
    fs::write(&config, text).unwrap();
    let listed = |selector: &str| {
        let text = String::from_utf8(run(&["list"]).stdout).unwrap();
        text.lines().find(|line| line.contains(&format!(" {selector} "))).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert!(listed("pb1").contains(" is in DNS ") && listed("pb2").contains(" DNS has another key "), "{}", listed("pb2"));
    // What is still to be published is printed once more; what is in DNS is not.
    let text = String::from_utf8(run(&["list"]).stdout).unwrap();
    assert!(text.contains("\n\n; publish in DNS:\npb2._domainkey.example.org. IN TXT ( \"v=DKIM1; k=ed25519; p="), "{text}");
    assert!(!text.contains("pb1._domainkey"), "{text}");
    names.set("pb1._domainkey.example.org", Behaviour::Records(Vec::new()));
    assert!(listed("pb1").contains(" is not in DNS "), "{}", listed("pb1"));
    // Without `k=` a record is of RSA, and of two a receiver takes any.
    let published = |selector: &str| {
        let text = fs::read(dir.path().join(format!("dkim/example.org.{selector}.pem"))).unwrap();
        pillarbox::mail::dkim::SigningKey::from_pem("example.org", selector, &text).unwrap().record()
    };
    let set = |selector: &'static str, records: Vec<String>| {
        let name = if selector == "pb1" { "pb1._domainkey.example.org" } else { "pb2._domainkey.example.org" };
        names.set(name, Behaviour::Records(records.into_iter().map(Record::Txt).collect()));
        listed(selector)
    };
    for (kind, spaced) in [(" k=rsa;", ""), ("; ", " ;\t")] {
        let line = set("pb1", vec![published("pb1").replace(kind, spaced)]);
        assert!(line.contains(" is in DNS "), "{line}");
    }
    let line = set("pb2", vec![published("pb2")]);
    assert!(line.contains(" is in DNS "), "{line}");
    let line = set("pb2", vec![published("pb2").replace(" k=ed25519;", "")]);
    assert!(line.contains(" DNS has another key "), "{line}");
    let line = set("pb2", vec![published("pb2"), "v=DKIM1; k=rsa; p=AAAA".to_owned()]);
    assert!(line.contains(" DNS has 2 records; leave one "), "{line}");
    let checked = said(&finish(Command::new(BINARY).arg("-c").arg(&config).arg("check")));
    assert!(checked.contains("pb2._domainkey.example.org: DNS has 2 records, of which receivers take any"), "{checked}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = run(&["list"]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
}

/// A key that is there is not made again, whether the configuration names it or a file stands where it would be.
#[test]
fn a_new_key_takes_a_free_selector() {
    let dir = tempfile::tempdir().unwrap();
    let config = Setup { services: vec!["submissions"], ..Setup::default() }.write(dir.path());
    let add = || {
        let output = finish(Command::new(BINARY).arg("-c").arg(&config).args(["dkim", "add", "example.org"]));
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_once("._domainkey.example.org.").unwrap().0.rsplit('\n').next().unwrap().to_owned()
    };
    assert_eq!(add(), "pb1");
    let first = fs::read(dir.path().join("dkim/example.org.pb1.pem")).unwrap();
    assert_eq!(add(), "pb2", "the configuration names none yet");
    assert_eq!(fs::read(dir.path().join("dkim/example.org.pb1.pem")).unwrap(), first);
    let place = dir.path().display();
    let line = format!("[dkim]\n\"example.org\" = {{ selector = \"pb3\", key = \"{place}/elsewhere.pem\" }}\n");
    fs::write(&config, fs::read_to_string(&config).unwrap() + &line).unwrap();
    assert_eq!(add(), "pb4", "one of the configuration has its file elsewhere");
}

/// An international domain has two spellings: a key for one signs mail from the other, and the verbs know it.
#[test]
fn a_key_for_either_spelling_of_a_domain() {
    for (configured, asked) in
        [("xn--bcher-kva.example", "b\u{fc}cher.example"), ("b\u{fc}cher.example", "xn--bcher-kva.example")]
    {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_owned();
        let key = place.join("pb1.pem");
        make_key(&key, true);
        let setup = Setup {
            domains: vec!["example.org".into(), asked.into()],
            senders: vec!["\"alice@example.org\" = [\"*\"]".into()],
            services: vec!["submissions"],
            ..Setup::default()
        };
        let mut setup = setup.outgoing();
        setup.outgoing.push_str(&format!("[dkim]\n\"{configured}\" = {{ selector = \"pb1\", key = \"{}\" }}\n", key.display()));
        let config = setup.write(&place);
        let run = |words: &[&str]| said(&finish(Command::new(BINARY).arg("-c").arg(&config).args(words)));
        let from = format!("a@{asked}");
        let text = run(&["explain", "--login", "alice@example.org", "--from", &from, "--to", "x@elsewhere.example"]);
        assert!(text.contains(&format!("signed for {asked}, selector pb1")) && !text.contains("not signed"), "{text}");
        let text = run(&["check", "--offline"]);
        assert!(
            text.contains("mail from example.org is sent unsigned") && !text.contains(&format!("mail from {asked}")),
            "{text}"
        );
        // Both are one name in DNS: the next key has another selector, and its line is in the row that is there.
        let text = run(&["dkim", "add", asked]);
        assert!(text.contains("pb2._domainkey.xn--bcher-kva.example. IN TXT"), "{text}");
        assert!(
            text.contains(&format!("\n{configured:?} = [{{ selector = \"pb1\"")) && text.contains("selector = \"pb2\""),
            "{text}"
        );
    }
}

/// As many fields as a header section may have: the work grows with them, not with their square, and the signatures that name
/// each of them get through the spool.
#[test]
fn a_header_of_very_many_fields() {
    let signing = Signing::start(&["rsa", "ed"], "");
    let content = ["From: alice@example.org\r\n", &"To:\r\nCc:\r\n".repeat(32_000), "\r\nx\r\n"].concat();
    let message = signing.hand_in(&[content.as_bytes()]).remove(0);
    assert_eq!(signatures(&message), 2);
    let text = String::from_utf8_lossy(&message.content).replace("\r\n\t ", "");
    let named = text.split_once(" h=").or(text.split_once("\th=")).and_then(|(_, rest)| rest.split_once(';')).unwrap().0;
    assert_eq!(named.split(':').filter(|name| *name == "to").count(), 32_001, "and one more");
}
