//! Real clients and readers. A tool that is not installed is skipped, and the test says so; with
//! PILLARBOX_REQUIRE_TOOLS=1, as in .ci/run, it fails instead.

mod common;

use std::env;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::messages::messages;
use common::{PATIENCE, Server, Setup, finish, free_port, python_with, require, require_root, said};

fn run(command: &mut Command) -> Output {
    let output = finish(command.stdin(Stdio::null()));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
    output
}

fn crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 20);
    for line in text.split_inclusive(|b| *b == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(line) => {
                out.extend_from_slice(line);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

/// The one new message in a mailbox must be the trace and then `want`, octet by octet; it is removed.
fn take_one(server: &Server, mailbox: &str, want: &[u8], what: &str) -> Vec<u8> {
    let begun = Instant::now();
    let files = loop {
        let files = server.new_mail(mailbox);
        if !files.is_empty() || begun.elapsed() > PATIENCE {
            break files;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(files.len(), 1, "{what}: {files:?}\n{}", server.log_text());
    let got = fs::read(&files[0]).unwrap();
    let size: usize = files[0].to_str().unwrap().rsplit_once(",S=").unwrap().1.parse().unwrap();
    assert_eq!(size, got.len(), "{what}: S= is the size");
    assert!(got.ends_with(want), "{what}: changed on the way:\n{}", String::from_utf8_lossy(&got[..got.len().min(3000)]));
    let top = String::from_utf8(got[..got.len() - want.len()].to_vec()).unwrap();
    let known = ["Return-Path: ", "Delivered-To: ", "Received: ", "\t", "Date: ", "Message-ID: ", "From: "];
    for line in top.lines() {
        assert!(line.is_empty() || known.iter().any(|known| line.starts_with(known)), "{what}: added: {line}");
    }
    fs::remove_file(&files[0]).unwrap();
    got
}

fn write_message(server: &Server, name: &str, content: &[u8]) -> PathBuf {
    let path = server.dir.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn curl() {
    if !require(&["curl"]) {
        return;
    }
    let server = Setup::default().start();
    let certificate = server.dir.path().join("cert.pem");
    let mut all = messages();
    all.push(("no header at all", b"just a line\n".to_vec()));
    let attachment: Vec<u8> = (0..20u32 << 20).map(|n| if n % 77 == 76 { b'\n' } else { b'A' + (n % 26) as u8 }).collect();
    all.push(("20 MB", [&b"Subject: large\nFrom: alice@example.org\n\n"[..], &attachment, b"\n"].concat()));
    for (what, message) in all {
        let file = write_message(&server, "msg.eml", &crlf(&message));
        for (scheme, service) in [("smtp", "submission"), ("smtps", "submissions")] {
            let url = format!("{scheme}://localhost:{}/client.example", server.address(service).port());
            let pin = format!("localhost:{}:{}", server.address(service).port(), server.address(service).ip());
            let mut command = Command::new("curl");
            command.args(["-sS", "--url", &url, "--resolve", &pin, "--ssl-reqd", "--cacert"]).arg(&certificate);
            command.args(["-u", "alice@example.org:secret", "--login-options", "AUTH=PLAIN"]);
            command.args(["--mail-from", "alice@example.org", "--mail-rcpt", "bob@example.org", "-T"]).arg(&file);
            command.env_remove("CURL_CA_BUNDLE").env_remove("SSL_CERT_FILE");
            run(&mut command);
            let want = if what == "no header at all" { [b"\n", &message[..]].concat() } else { message.clone() };
            take_one(&server, "bob@example.org", &want, &format!("curl {scheme} {what}"));
        }
    }
    let port = server.address("submissions").port();
    let pin = format!("localhost:{port}:{}", server.address("submissions").ip());
    let mut refused = Command::new("curl");
    refused
        .args([
            "-sS",
            "--url",
            &format!("smtps://localhost:{port}"),
            "--resolve",
            &pin,
            "-u",
            "alice@example.org:wrong",
            "--cacert",
        ])
        .arg(&certificate)
        .args(["--mail-from", "alice@example.org", "--mail-rcpt", "bob@example.org", "-T"])
        .arg(server.dir.path().join("msg.eml"));
    assert_eq!(finish(&mut refused).status.code(), Some(67), "a refused login");
}

#[test]
fn swaks() {
    if !require(&["swaks"]) {
        return;
    }
    let server = Setup::default().start();
    for (what, message) in messages() {
        let file = write_message(&server, "msg.eml", &message);
        for (service, tls, auth) in
            [("submission", "--tls", "PLAIN"), ("submission", "--tls", "LOGIN"), ("submissions", "--tls-on-connect", "LOGIN")]
        {
            let mut command = Command::new("swaks");
            command.args([
                "--server",
                &server.address(service).to_string(),
                tls,
                "--auth",
                auth,
                "-au",
                "alice@example.org",
                "-ap",
                "secret",
            ]);
            command
                .args(["-f", "alice@example.org", "-t", "bob@example.org", "--pipeline", "--data"])
                .arg(format!("@{}", file.display()));
            run(&mut command);
            // swaks ends a message with a line end of its own.
            take_one(&server, "bob@example.org", &[&message[..], b"\n"].concat(), &format!("swaks {service} {auth} {what}"));
        }
    }
    let smtp = server.address("smtp").to_string();
    run(Command::new("swaks").args(["--server", &smtp, "--tls", "-f", "<>", "-t", "bob@example.org", "--body", "bounce"]));
    assert!(fs::read_to_string(&server.new_mail("bob@example.org")[0]).unwrap().starts_with("Return-Path: <>\n"));
    let mut wrong = Command::new("swaks");
    wrong
        .args([
            "--server",
            &server.address("submission").to_string(),
            "--tls",
            "--auth",
            "PLAIN",
            "-au",
            "alice@example.org",
            "-ap",
            "wrong",
        ])
        .args(["-t", "bob@example.org"]);
    assert_eq!(finish(&mut wrong).status.code(), Some(28), "a refused login");
}

#[test]
fn msmtp() {
    if !require(&["msmtp"]) {
        return;
    }
    let server = Setup::default().start();
    let certificate = server.dir.path().join("cert.pem");
    for (service, starttls) in [("submission", "on"), ("submissions", "off")] {
        let address = server.address(service);
        let rc = format!(
            "account default\nhost {}\nport {}\ntls on\ntls_starttls {starttls}\ntls_trust_file {}\nauth on\nuser alice@example.org\n\
             passwordeval \"echo secret\"\nfrom alice@example.org\ntls_host_override localhost\n",
            address.ip(),
            address.port(),
            certificate.display()
        );
        let rc = write_message(&server, "msmtprc", rc.as_bytes());
        fs::set_permissions(&rc, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        for (what, message) in messages() {
            let file = write_message(&server, "msg.eml", &message);
            let input = fs::File::open(&file).unwrap();
            let output = finish(Command::new("msmtp").arg("-C").arg(&rc).arg("bob@example.org").stdin(input));
            assert!(output.status.success(), "msmtp {what}: {}", said(&output));
            take_one(&server, "bob@example.org", &message, &format!("msmtp {service} {what}"));
        }
    }
}

#[test]
fn python_smtplib() {
    if !require(&["python3"]) {
        return;
    }
    let server = Setup {
        users: vec![("jörg@example.org".into(), "geheim".into()), ("bob@example.org".into(), "secret".into())],
        ..Setup::default()
    }
    .start();
    let script = r#"
import base64, smtplib, ssl, sys
host, submission, host2, submissions, ca, path = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
data = open(path, 'rb').read()
for tls in (True, False):
    if tls:
        s = smtplib.SMTP(host, int(submission), local_hostname='localhost'); s.starttls(context=context)
    else:
        s = smtplib.SMTP_SSL(host2, int(submissions), context=context, local_hostname='[127.0.0.1]')
    s.ehlo()
    s.command_encoding = 'utf-8'
    code, text = s.docmd('AUTH', 'PLAIN ' + base64.b64encode('\0jörg@example.org\0geheim'.encode()).decode())
    assert code == 235, (code, text)
    s.sendmail('jörg@example.org', ['bob@example.org', 'jörg@example.org'], data, mail_options=['smtputf8', 'body=8bitmime'])
    s.quit()
"#;
    let message = "From: jörg@example.org\nTo: bob@example.org\nSubject: grüße\n\nhällo\n.\nend\n".as_bytes();
    let file = write_message(&server, "msg.eml", &crlf(message));
    let script = write_message(&server, "client.py", script.as_bytes());
    let (a, b) = (server.address("submission"), server.address("submissions"));
    let mut command = Command::new("python3");
    command.arg(script).args([&a.ip().to_string(), &a.port().to_string(), &b.ip().to_string(), &b.port().to_string()]);
    command.arg(server.dir.path().join("cert.pem")).arg(&file);
    run(&mut command);
    for mailbox in ["bob@example.org", "jörg@example.org"] {
        let files = server.new_mail(mailbox);
        assert_eq!(files.len(), 2, "{mailbox}");
        for file in files {
            assert!(fs::read(file).unwrap().ends_with(message), "{mailbox}");
        }
    }
}

#[test]
fn lettre() {
    use lettre::address::Envelope;
    use lettre::transport::smtp::authentication::Credentials;
    use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
    use lettre::{SmtpTransport, Transport as _};
    let server = Setup::default().start();
    let certificate = Certificate::from_pem(&fs::read(server.dir.path().join("cert.pem")).unwrap()).unwrap();
    let parameters = TlsParameters::builder("localhost".into()).add_root_certificate(certificate).build().unwrap();
    for (service, tls) in [("submission", Tls::Required(parameters.clone())), ("submissions", Tls::Wrapper(parameters))] {
        let address = server.address(service);
        let mailer = SmtpTransport::builder_dangerous(address.ip().to_string())
            .port(address.port())
            .tls(tls)
            .credentials(Credentials::new("alice@example.org".into(), "secret".into()))
            .build();
        let envelope =
            Envelope::new(Some("alice@example.org".parse().unwrap()), vec!["bob@example.org".parse().unwrap()]).unwrap();
        for (what, message) in messages() {
            // lettre ends the last line by itself.
            let content = crlf(&message);
            mailer
                .send_raw(&envelope, &content[..content.len() - 2])
                .unwrap_or_else(|error| panic!("{what}: {error}\n{}", server.log_text()));
            take_one(&server, "bob@example.org", &message, &format!("lettre {service} {what}"));
        }
    }
}

/// Debian's Postfix hands everything to Pillarbox: as its relayhost with SASL, and as the MX on the smtp port.
#[test]
fn postfix() {
    if !require(&["postfix", "postconf", "smtp-source"]) || !require_root() {
        return;
    }
    let server = Setup::default().start();
    let dir = tempfile::tempdir().unwrap();
    let (submission, smtp) = (server.address("submission"), server.address("smtp"));
    let etc = dir.path().join("etc");
    let (queue, data) = (dir.path().join("queue"), dir.path().join("data"));
    for path in [&etc, &queue, &data] {
        fs::create_dir(path).unwrap();
    }
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let port = free_port();
    let sasl = etc.join("sasl");
    fs::write(
        &sasl,
        format!("[localhost]:{} alice@example.org:secret\n[127.0.0.2]:{0} alice@example.org:secret\n", submission.port()),
    )
    .unwrap();
    fs::write(
        etc.join("transport"),
        format!(
            "example.org smtp:[{}]:{}\nother.example smtp:[{}]:{}\n",
            submission.ip(),
            submission.port(),
            smtp.ip(),
            smtp.port()
        ),
    )
    .unwrap();
    fs::write(etc.join("map"), "@other.example @example.org\n").unwrap();
    let certificate = dir.path().join("cert.pem");
    fs::copy(server.dir.path().join("cert.pem"), &certificate).unwrap();
    let main = format!(
        "compatibility_level = 3.6\nqueue_directory = {q}\ndata_directory = {d}\nmyhostname = client.example\nmydestination =\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\nmaillog_file = {l}\nmaillog_file_prefixes = {p}\n\
         smtpd_recipient_restrictions = permit_mynetworks, reject\nsmtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = texthash:{e}/sasl\n\
         smtp_sasl_security_options = noanonymous\nsmtp_tls_security_level = encrypt\nsmtp_tls_CAfile = {c}\n\
         transport_maps = texthash:{e}/transport\nsmtp_generic_maps =\nalias_maps =\nsmtputf8_enable = no\n\
         smtpd_forbid_bare_newline = no\nlocal_recipient_maps =\n",
        q = queue.display(),
        d = data.display(),
        l = dir.path().join("log").display(),
        p = dir.path().display(),
        e = etc.display(),
        c = certificate.display()
    );
    fs::write(etc.join("main.cf"), main).unwrap();
    let master = fs::read_to_string("/usr/share/postfix/master.cf.dist")
        .or_else(|_| fs::read_to_string("/etc/postfix/master.cf"))
        .unwrap();
    let unchrooted: String = master
        .lines()
        .filter(|line| {
            !line.starts_with(' ') && !line.starts_with('#') && !line.starts_with("smtp      inet") && !line.starts_with("pickup")
        })
        .map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            if words.len() > 7 {
                words[4] = "n";
            }
            words.join(" ") + "\n"
        })
        .collect();
    fs::write(
        etc.join("master.cf"),
        format!("127.0.0.1:{port} inet n - n - - smtpd\npickup unix n - n 60 1 pickup\n{unchrooted}"),
    )
    .unwrap();
    let postfix = |verb: &str| finish(Command::new("postfix").arg("-c").arg(&etc).arg(verb).stdin(Stdio::null()));
    run(Command::new("chown").args(["postfix"]).arg(&data));
    let started = postfix("start");
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let log = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut sent = 0;
        for (what, message) in messages() {
            let mut client = None;
            for _ in 0..100 {
                client = std::net::TcpStream::connect(("127.0.0.1", port)).ok();
                if client.is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let mut client = common::Client::over(client.expect("postfix listens"), &certificate);
            client.expect("220");
            client.say("EHLO test.example", "250");
            let stuffed: Vec<u8> = message
                .split_inclusive(|b| *b == b'\n')
                .flat_map(|line| if line.starts_with(b".") { [b".", line].concat() } else { line.to_vec() })
                .collect();
            let content = crlf(&stuffed);
            let reply = client.deliver("alice@example.org", "bob@example.org", &content[..content.len() - 2]);
            assert!(reply.as_deref().is_some_and(|reply| reply.starts_with("250")), "{what}: {reply:?}");
            let got = take_with_received(&server, "bob@example.org", &message, &format!("postfix {what}: {}", log()));
            assert!(got.contains("with ESMTPSA"), "{got}");
            sent += 1;
        }
        // The message is in the mailbox before Postfix writes that it was sent.
        let begun = Instant::now();
        while log().matches("status=sent").count() < sent && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(log().matches("status=sent").count(), sent, "{}", log());
        // The same for port 25, a stream of messages from Postfix's own load generator.
        fs::write(etc.join("transport"), format!("example.org smtp:[{}]:{}\n", smtp.ip(), smtp.port())).unwrap();
        run(Command::new("postfix").arg("-c").arg(&etc).arg("reload"));
        let begun = Instant::now();
        while !log().contains("reload -- version") {
            assert!(begun.elapsed() < PATIENCE, "not reloaded: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
        run(Command::new("smtp-source")
            .args(["-m", "20", "-s", "4", "-l", "10000", "-f", "x@elsewhere.example", "-t", "bob@example.org"])
            .arg(format!("127.0.0.1:{port}")));
        let begun = Instant::now();
        while server.new_mail("bob@example.org").len() < 20 && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(server.new_mail("bob@example.org").len(), 20, "{}", log());
        let one = fs::read_to_string(&server.new_mail("bob@example.org")[0]).unwrap();
        assert!(one.contains("from client.example ([127.0.0.1])") && one.contains("with ESMTPS id"), "{one}");
    }));
    postfix("stop");
    if let Err(panic) = outcome {
        eprintln!("{}", log());
        std::panic::resume_unwind(panic);
    }
}

/// Like [`take_one`], with Received lines of the relay in between.
fn take_with_received(server: &Server, mailbox: &str, want: &[u8], what: &str) -> String {
    String::from_utf8_lossy(&take_one(server, mailbox, want, what)).into_owned()
}

/// Dovecot reads the same Maildir with the same users file.
#[test]
fn dovecot() {
    if !require(&["dovecot", "curl"]) || !require_root() {
        return;
    }
    let server = Setup { hash_memory: 1024, ..Setup::default() }.start();
    let mut client = server.login("alice@example.org");
    let message = b"Subject: for imap\r\nFrom: alice@example.org\r\n\r\nread me\r\n";
    client.deliver("alice@example.org", "bob@example.org", &message[..message.len() - 2]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(server.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let port = free_port();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let (place, base) = (server.dir.path().display(), dir.path().display());
    // The lines that matter are those of etc/dovecot/pillarbox.conf.
    let fragment = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/dovecot/pillarbox.conf")).unwrap();
    let fragment = fragment
        .replace("/etc/pillarbox/users", &format!("{place}/users"))
        .replace("/var/mail/pillarbox", &format!("{place}/mail"))
        .replace("extra_groups = pillarbox", "extra_groups = nogroup")
        .replace("uid=pillarbox gid=pillarbox", &format!("uid={} gid={}", nobody.uid, nobody.gid));
    let conf = format!(
        "protocols = imap\nbase_dir = {base}/run\nstate_dir = {base}/state\nlog_path = {base}/log\nssl = required\n\
         ssl_cert = <{place}/cert.pem\nssl_key = <{place}/key.pem\nfirst_valid_uid = 1\nfirst_valid_gid = 1\ndefault_internal_user = dovecot\n\
         default_login_user = dovenull\nlisten = 127.0.0.1\nservice imap-login {{\n  chroot =\n  inet_listener imap {{\n    port = 0\n  }}\n  inet_listener imaps {{\n    port = {port}\n    ssl = yes\n  }}\n}}\n\
         service anvil {{\n  chroot =\n}}\n{fragment}"
    );
    fs::write(dir.path().join("dovecot.conf"), conf).unwrap();
    let mut dovecot =
        Command::new("dovecot").arg("-F").arg("-c").arg(dir.path().join("dovecot.conf")).stdin(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let mut output;
    loop {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--url",
            &format!("imaps://127.0.0.1:{port}/INBOX;MAILINDEX=1"),
            "-u",
            "bob@example.org:secret",
            "--cacert",
        ])
        .arg(server.dir.path().join("cert.pem"));
        output = finish(&mut curl);
        if output.status.success() || begun.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(dovecot.id() as i32), nix::sys::signal::Signal::SIGTERM);
    let _ = dovecot.wait();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{log}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Subject: for imap\r\n") && text.contains("read me\r\n") && text.contains("with ESMTPSA"), "{text}");
}

#[test]
fn mutt_and_python_read_the_maildir() {
    if !require(&["mutt", "script", "python3"]) {
        return;
    }
    let server = Setup::default().start();
    let mut client = server.login("alice@example.org");
    client
        .deliver("alice@example.org", "bob@example.org", b"Subject: for mutt\r\nFrom: alice@example.org\r\n\r\nread me")
        .unwrap();
    let maildir = server.maildir("bob@example.org");
    let code = "import mailbox,sys; print([m['Subject'] for m in mailbox.Maildir(sys.argv[1])])";
    let output = run(Command::new("python3").args(["-c", code]).arg(&maildir));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "['for mutt']");
    let rc = write_message(
        &server,
        "muttrc",
        format!("set folder={0}\nset mbox_type=Maildir\nset quit=yes\n", maildir.display()).as_bytes(),
    );
    // exec: under a shell that waits for it, mutt would be in the background of its terminal, and stopped for ever.
    let command = format!("exec mutt -n -F {} -R -f {} -e 'push <quit>'", rc.display(), maildir.display());
    let mut script = Command::new("script");
    let output = finish(script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::null()));
    assert!(String::from_utf8_lossy(&output.stdout).contains("for mutt"), "{}", said(&output));
}

/// What a client has signed still verifies where it is stored.
#[test]
fn dkim() {
    let Some(python) = python_with("dkim") else { return };
    let server = Setup::default().start();
    let key = server.dir.path().join("dkim.key");
    run(Command::new("openssl").args(["genrsa", "-traditional", "-out"]).arg(&key).arg("2048"));
    let public = run(Command::new("openssl").args(["rsa", "-pubout", "-outform", "DER", "-in"]).arg(&key)).stdout;
    let sign = r#"
import dkim, sys
m = b'From: alice@example.org\r\nTo: bob@example.org\r\nBcc: x@example.org\r\nSubject: signed\r\n\r\n..dots\r\n  spaces  \r\n\r\n\r\n'
h = [b'from', b'to', b'subject']
sys.stdout.buffer.write(dkim.sign(m, b's', b'example.org', open(sys.argv[1], 'rb').read(), include_headers=h, canonicalize=(b'simple', b'simple')) + m)
"#;
    let signed = run(Command::new(&python).args(["-c", sign]).arg(&key)).stdout;
    let mut client = server.login("alice@example.org");
    let stuffed: Vec<u8> = signed
        .split_inclusive(|b| *b == b'\n')
        .flat_map(|line| if line.starts_with(b".") { [b".", line].concat() } else { line.to_vec() })
        .collect();
    let reply = client.deliver("alice@example.org", "bob@example.org", &stuffed[..stuffed.len() - 2]);
    assert!(reply.unwrap().starts_with("250"));
    let verify = r#"
import dkim, sys
p = sys.argv[2].encode()
m = open(sys.argv[1], 'rb').read().replace(b'\n', b'\r\n')
assert b'Bcc' not in m
sys.exit(0 if dkim.verify(m, dnsfunc=lambda name, timeout=5: b'v=DKIM1; k=rsa; p=' + p) else 1)
"#;
    run(Command::new(&python).args(["-c", verify]).arg(&server.new_mail("bob@example.org")[0]).arg(common::base64(&public)));
}

#[test]
fn openssl_s_client_resumes_and_speaks_no_old_tls() {
    if !require(&["openssl"]) {
        return;
    }
    let server = Setup::default().start();
    let address = server.address("submissions").to_string();
    let certificate = server.dir.path().join("cert.pem");
    let session = server.dir.path().join("session");
    let client = |args: &[&str]| {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-CAfile"])
            .arg(&certificate)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The ticket of TLS 1.3 comes after the handshake, before the greeting; without a handshake the output ends.
        let (mut stdout, mut said, mut piece) = (child.stdout.take().unwrap(), Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&said).contains("220 mx.example.org") {
            match stdout.read(&mut piece).unwrap() {
                0 => break,
                octets => said.extend_from_slice(&piece[..octets]),
            }
        }
        let _ = child.stdin.take().unwrap().write_all(b"QUIT\r\n");
        stdout.read_to_end(&mut said).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&[said, output.stderr].concat()).into_owned()
    };
    for version in ["-tls1_3", "-tls1_2"] {
        let first = client(&[version, "-sess_out", session.to_str().unwrap()]);
        assert!(first.contains("Verify return code: 0") && first.contains("New, TLSv1"), "{first}");
        let second = client(&[version, "-sess_in", session.to_str().unwrap()]);
        assert!(second.contains("Reused, TLSv1"), "{version}: {second}");
        server.wait_for_log(&["resumed=yes"]);
    }
    for version in ["-tls1_1", "-tls1"] {
        let text = client(&[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(text.contains("alert") || text.contains("no protocols available"), "{version}: {text}");
        assert!(!text.contains("220 mx.example.org"), "{version}: {text}");
    }
}

/// ECDSA, RSA and Ed25519; PKCS#8, SEC1 and PKCS#1.
#[test]
fn every_kind_of_key() {
    if !require(&["openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (key, certificate) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    let rows: [(&str, &[&str]); 5] = [
        ("SEC1", &["ecparam", "-genkey", "-noout", "-name", "prime256v1"]),
        ("PKCS#1", &["genrsa", "-traditional"]),
        ("PKCS#8 RSA", &["genpkey", "-algorithm", "RSA"]),
        ("PKCS#8 ECDSA", &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        ("PKCS#8 Ed25519", &["genpkey", "-algorithm", "ED25519"]),
    ];
    let mut last: Option<PathBuf> = None;
    for (what, args) in rows {
        let mut generate = Command::new("openssl");
        generate.args(args);
        if args[0] == "genrsa" {
            generate.args(["-out"]).arg(&key).arg("2048");
        } else {
            generate.arg("-out").arg(&key);
        }
        run(&mut generate);
        let mut issue = Command::new("openssl");
        issue.args([
            "req",
            "-x509",
            "-new",
            "-subj",
            "/CN=mx.example.org",
            "-days",
            "30",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
        run(issue.args(["-addext", "subjectAltName=DNS:mx.example.org", "-key"]).arg(&key).arg("-out").arg(&certificate));
        let acceptor = pillarbox::net::tls::TlsServer::load(&certificate, &key).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(acceptor.is_for("mx.example.org") && !acceptor.is_for("example.org"), "{what}");
        assert!(acceptor.not_after().is_some(), "{what}");
        if let Some(other) = last {
            let error = pillarbox::net::tls::TlsServer::load(&certificate, &other).unwrap_err().to_string();
            assert!(error.contains("cert.pem") && error.contains("other.pem"), "{error}");
        }
        last = Some(dir.path().join("other.pem"));
        fs::copy(&key, last.as_ref().unwrap()).unwrap();
    }
}
