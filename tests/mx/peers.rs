//! Debian's Exim, Postfix and OpenSMTPD as the servers of domains, on port 25 of another machine: with TLS, without, with one
//! that is too old, by IPv4 and IPv6; what they make wait, and every octet of what they have taken.
//!
//! `tests/interop/mx` makes the roots and runs this.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::network::{HERE, Network};
use crate::common::{Logged, Server};
use crate::direct::{ALICE, hosts, mx, reports, run, send_as, setup, wait, waiting};
use crate::names::{Behaviour, NameServer, Record};
use pillarbox::mail::dkim::{Algorithm, SigningKey};

/// A server: the root that it runs in, its configuration, and how it is started there.
type Peer = (&'static str, fn(&Site) -> String, &'static str);

const PEERS: [Peer; 3] = [("exim", exim, EXIM), ("postfix", |_| String::new(), POSTFIX), ("opensmtpd", opensmtpd, OPENSMTPD)];

/// STARTTLS at the addresses of each: works, is not offered, and knows nothing newer than TLS 1.1, which we refuse.
const MODES: [&str; 3] = ["tls", "clear", "old"];

/// This machine's address for IPv6.
const HERE_6: &str = "2001:67c::1";

/// The addresses of a server by the order of [`MODES`], and the domains that lead to them.
struct Site {
    name: &'static str,
    ipv4: [String; 3],
    ipv6: [String; 3],
}

impl Site {
    fn new(name: &'static str, number: usize) -> Self {
        let last = |mode: usize| 31 + 10 * number + mode;
        Self {
            name,
            ipv4: [0, 1, 2].map(|mode| format!("203.0.113.{}", last(mode))),
            ipv6: [0, 1, 2].map(|mode| format!("2001:67c::{}", last(mode))),
        }
    }

    fn domain(&self, what: &str) -> String {
        format!("{what}.{}.example", self.name)
    }

    /// Each domain with whether its mail comes with TLS, and by IPv6; `both` has an address of either family, `turn` an IPv4
    /// address at which nothing listens and an IPv6 one.
    fn domains(&self) -> Vec<(String, bool, bool)> {
        let of = |mode: &str, family, v6| (self.domain(&format!("{mode}{family}")), mode == "tls", v6);
        let mut all: Vec<_> = MODES.iter().flat_map(|mode| [of(mode, 4, false), of(mode, 6, true)]).collect();
        all.extend([(self.domain("both"), true, false), (self.domain("turn"), true, true)]);
        all
    }

    /// What DNS says of the domains.
    fn zone(&self) -> Vec<(String, Vec<Record>)> {
        let a = |address: &str| Record::A(address.parse().unwrap());
        let aaaa = |address: &str| Record::Aaaa(address.parse().unwrap());
        let mut all = Vec::new();
        for (mode, (v4, v6)) in MODES.iter().zip(self.ipv4.iter().zip(&self.ipv6)) {
            all.extend([(format!("{mode}4"), vec![a(v4)]), (format!("{mode}6"), vec![aaaa(v6)])]);
        }
        all.push(("both".into(), vec![a(&self.ipv4[0]), aaaa(&self.ipv6[0])]));
        all.push(("turn".into(), vec![a("203.0.113.99"), aaaa(&self.ipv6[0])]));
        all.into_iter().map(|(what, records)| (self.domain(&what), records)).collect()
    }
}

/// What is sent: parameters of MAIL, and content.
fn contents() -> Vec<(&'static str, Vec<u8>)> {
    let head = |n: usize, subject: &str| {
        format!(
            "From: Alice <alice@example.org>\r\nTo: all@elsewhere.example\r\nSubject: {subject}\r\n\
             Date: Tue, 24 Nov 2026 10:00:0{n} +0000\r\nMessage-ID: <{n}@example.org>\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        )
    };
    let octets: Vec<u8> = (1..=255_u8).filter(|octet| !b"\r\n".contains(octet)).collect();
    let large = "\u{e4} line of the large one, \u{4f60}\u{597d}, with a blank at its end \r\n".repeat(4000);
    let of = |n, subject: &str, body: &[u8]| [head(n, subject).as_bytes(), body].concat();
    vec![
        ("", of(0, "plain", b"Hello\r\n")),
        ("", of(1, "no body", b"")),
        ("", of(2, "lines", b".\r\n..\r\n.x\r\n \t \r\nFrom here\r\n--\r\nlast  \r\n\r\n\r\n")),
        ("", of(3, "a line of 998", &[&[b'x'; 998][..], b"\r\n"].concat())),
        (" BODY=8BITMIME", of(4, "every octet", &[&octets[..], b"\r\n"].concat())),
        (" BODY=8BITMIME", of(5, "a large one", large.as_bytes())),
        (" BODY=8BITMIME SMTPUTF8", of(6, "\u{4f60}\u{597d}, Al\u{ef}ce", "\u{e4} \t \u{f6}  \r\n".as_bytes())),
    ]
}

#[test]
fn real_servers_take_it() {
    let Some(roots) = std::env::var_os("PILLARBOX_ROOTS").map(PathBuf::from) else {
        return eprintln!("real servers: run by tests/interop/mx");
    };
    Network::run(move |network| {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let sites: Vec<Site> = PEERS.iter().enumerate().map(|(number, (name, ..))| Site::new(name, number)).collect();
        let keys = Keys::new();
        let records = [("rsa._domainkey.example.org", keys.record(0)), ("ed._domainkey.example.org", keys.record(1))];
        // The name server of the machine on which they verify signatures.
        let _theirs = network.there(move || NameServer::start_at(53, records.into()));
        let _peers: Vec<Logged> =
            PEERS.iter().zip(&sites).map(|(peer, site)| start(network, &roots, dir.path(), *peer, site)).collect();
        let zone = sites.iter().flat_map(Site::zone).flat_map(|(domain, records)| {
            let host: &'static str = format!("mx.{domain}").leak();
            [(&*domain.leak(), mx(&[(10, host)])), (host, hosts(records))]
        });
        let names = NameServer::start(zone.collect());
        for address in sites.iter().flat_map(|site| site.ipv4.iter().chain(&site.ipv6)) {
            let connects = || TcpStream::connect((address.as_str(), 25)).is_ok();
            wait(connects, || format!("nothing listens at {address}:\n{}", errors(dir.path())));
        }
        let more = format!("[outgoing.routes.mx]\nsource = [\"{HERE}\", \"{HERE_6}\"]\n{}", keys.section());
        let server = setup(&names, &more).start_with(tempfile::tempdir().unwrap(), |place| keys.write(place));
        everything_arrives_once(&server, &sites, dir.path());
        what_is_made_to_wait_arrives_once(&server, &sites, dir.path());
        without_a_source_of_ipv6(&names, &sites, dir.path());
    });
}

/// Every content to every domain: all of it is in the box once, octet by octet, with TLS or without as the server has it.
fn everything_arrives_once(server: &Server, sites: &[Site], dir: &Path) {
    let contents = contents();
    let mut tails: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    for (parameters, content) in &contents {
        let to: Vec<String> = sites.iter().flat_map(Site::domains).map(|(domain, ..)| format!("x@{domain}")).collect();
        send_as(server, parameters, &to.iter().map(String::as_str).collect::<Vec<_>>(), content);
    }
    wait(|| waiting(server) == 0, || format!("{}\n{}", run(server, &["queue"]), server.log_text()));
    for site in sites {
        // OpenSMTPD has no SMTPUTF8: what needs it fails there.
        let utf8 = site.name != "opensmtpd";
        let fit: Vec<(usize, &Vec<u8>)> = contents
            .iter()
            .enumerate()
            .filter(|(_, (parameters, _))| utf8 || !parameters.contains("UTF8"))
            .map(|(n, (_, content))| (n, content))
            .collect();
        let taken = in_box(dir, site, fit.len() * site.domains().len());
        for (domain, secured, v6) in site.domains() {
            for (number, content) in &fit {
                let what = format!("{domain}, content {number}");
                let lf = content.split(|octet| *octet == b'\r').collect::<Vec<_>>().concat();
                let of: Vec<(Vec<String>, &[u8])> = taken
                    .iter()
                    .filter_map(|text| Some((fields(text.strip_suffix(&lf[..])?), &text[..])))
                    .filter(|(fields, _)| fields.iter().any(|field| is_for(field, &format!("x@{domain}"))))
                    .collect();
                assert_eq!(of.len(), 1, "{what}: so many in the box\n{}", server.log_text());
                let (fields, text) = &of[0];
                // Before it stands what they have added, then what we have: signatures and where it came from.
                let ours = fields.iter().position(|field| field.starts_with("DKIM-Signature:")).unwrap();
                let (theirs, ours) = fields.split_at(ours);
                let names: Vec<&str> = ours.iter().map(|field| field.split(':').next().unwrap()).collect();
                assert_eq!(names, ["DKIM-Signature", "DKIM-Signature", "Received"], "{what}");
                let added = ["Return-path", "Envelope-to", "X-Original-To", "Delivered-To", "Received"];
                let known = |field: &String| added.iter().any(|name| field.split(':').next().unwrap().eq_ignore_ascii_case(name));
                assert!(theirs.iter().all(known), "{what}: {theirs:?}");
                let received: Vec<&String> = theirs.iter().filter(|field| field.starts_with("Received:")).collect();
                let from = if v6 { format!("{HERE_6}]") } else { format!("{HERE}]") };
                assert_eq!(received.len(), 1, "{what}: {theirs:?}");
                assert!(received[0].contains(&from) && received[0].contains("TLS") == secured, "{what}: {}", received[0]);
                // What we have sent is the same everywhere.
                let tail = text[text.windows(16).position(|window| window == b"\nDKIM-Signature:").unwrap()..].to_vec();
                assert!(tails.entry(*number).or_insert_with(|| tail.clone()) == &tail, "{what}");
            }
        }
        for address in [&site.ipv4[2], &site.ipv6[2]] {
            server.wait_for_log(&[
                "notice",
                "about=tls",
                &format!("[{address}]: no TLS, though it is offered"),
                "once more in the clear",
            ]);
        }
    }
    let notices = server.log_text().lines().filter(|line| line.contains("once more in the clear")).count();
    assert!(notices <= 2 * sites.len() * contents.len(), "{notices} notices");
    let clear = |line: &str| MODES[..2].iter().any(|mode| line.contains(&format!("mx.{mode}")));
    assert!(!server.log_text().lines().any(|line| line.contains("once more in the clear") && clear(line)));
    let report = reports(server, 1).remove(0);
    assert_eq!(report.matches("Status: 5.6.7\n").count(), sites[2].domains().len(), "{report}");
    assert_eq!(server.new_mail(ALICE).len(), 1);
    // Exim verifies both signatures of each.
    let log = fs::read_to_string(dir.join("exim/mainlog")).unwrap();
    for algorithm in ["rsa-sha256", "ed25519-sha256"] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&format!("a={algorithm}"))).collect();
        assert_eq!(lines.len(), contents.len() * sites[0].domains().len(), "{algorithm}\n{log}");
        assert!(lines.iter().all(|line| line.contains("[verification succeeded]")), "{log}");
    }
}

/// Greylisting: the message waits, on the recipient's side, and the next attempt brings it, once.
fn what_is_made_to_wait_arrives_once(server: &Server, sites: &[Site], dir: &Path) {
    let before: Vec<usize> = sites.iter().map(|site| in_box(dir, site, 0).len()).collect();
    let content = &contents()[4].1;
    let ids: Vec<String> = sites
        .iter()
        .map(|site| send_as(server, " BODY=8BITMIME", &[&format!("grey@{}", site.domain("tls4"))], content))
        .collect();
    for (id, site) in ids.iter().zip(sites) {
        let line = server.wait_for_log(&["deferred", id]);
        assert!(line.contains("code=45"), "{line}");
        let text = run(server, &["queue", "explain", id]);
        assert!(text.contains("The cause is on the recipient's side") && text.contains("reylisted"), "{}: {text}", site.name);
    }
    assert_eq!(waiting(server), ids.len());
    for (site, before) in sites.iter().zip(&before) {
        assert_eq!(in_box(dir, site, 0).len(), *before, "{}", site.name);
    }
    ids.iter().for_each(|id| drop(run(server, &["queue", "try", id])));
    wait(|| waiting(server) == 0, || format!("{}\n{}", run(server, &["queue"]), server.log_text()));
    for (site, before) in sites.iter().zip(&before) {
        let taken = in_box(dir, site, before + 1);
        let grey = format!("grey@{}", site.domain("tls4"));
        let lf = content.split(|octet| *octet == b'\r').collect::<Vec<_>>().concat();
        let of = taken.iter().filter_map(|text| text.strip_suffix(&lf[..]));
        assert_eq!(of.filter(|head| fields(head).iter().any(|field| is_for(field, &grey))).count(), 1, "{}", site.name);
    }
    assert_eq!(server.new_mail(ALICE).len(), 1, "no report");
}

/// Another server, without `source`: IPv4 alone.
fn without_a_source_of_ipv6(names: &NameServer, sites: &[Site], dir: &Path) {
    let server = setup(names, "").start();
    for site in sites {
        let before = in_box(dir, site, 0).len();
        let (both, six) = (format!("four@{}", site.domain("both")), format!("four@{}", site.domain("tls6")));
        send_as(&server, "", &[&both, &six], &contents()[0].1);
        let taken = in_box(dir, site, before + 1);
        let of: Vec<Vec<String>> =
            taken.iter().map(|text| fields(text)).filter(|fields| fields.iter().any(|field| is_for(field, &both))).collect();
        let by_ipv4 =
            |fields: &[String]| fields.iter().any(|field| field.starts_with("Received:") && field.contains(&format!("{HERE}]")));
        assert!(of.len() == 1 && by_ipv4(&of[0]), "{of:?}");
    }
    let reports = reports(&server, sites.len());
    assert!(reports.iter().all(|report| report.contains("Status: 5.4.4\n")), "{reports:?}");
    wait(|| waiting(&server) == 0, || run(&server, &["queue"]));
}

/// The messages in the box of a server, when there are so many; never more.
fn in_box(dir: &Path, site: &Site, count: usize) -> Vec<Vec<u8>> {
    let files = || -> Vec<PathBuf> {
        let new = fs::read_dir(dir.join(site.name).join("box/new"));
        new.map(|new| new.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
    };
    wait(|| files().len() >= count, || format!("{} has {} of {count}:\n{}", site.name, files().len(), errors(dir)));
    let taken: Vec<Vec<u8>> = files().iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(count == 0 || taken.len() == count, "{} has {}, not {count}", site.name, taken.len());
    taken
}

/// The fields of a header, unfolded.
fn fields(head: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(head);
    let head = text.split("\n\n").next().unwrap().trim_end();
    head.replace("\n\t", " ").replace("\n ", " ").lines().map(str::to_owned).collect()
}

fn is_for(field: &str, to: &str) -> bool {
    field.split_once(": ").is_some_and(|(name, value)| value.trim() == to && ["Delivered-To", "Envelope-to"].contains(&name))
}

/// The keys of example.org: RSA, and Ed25519 beside it.
struct Keys([(SigningKey, String); 2]);

impl Keys {
    const NAMES: [&str; 2] = ["rsa", "ed"];

    fn new() -> Self {
        let key = |number: usize, algorithm| {
            let (key, text) = SigningKey::generate("example.org", Self::NAMES[number], algorithm).unwrap();
            (key, text.to_string())
        };
        Self([key(0, Algorithm::Rsa), key(1, Algorithm::Ed25519)])
    }

    fn record(&self, number: usize) -> Behaviour {
        hosts(vec![Record::Txt(self.0[number].0.record())])
    }

    fn section(&self) -> String {
        let of = |name: &str| format!("{{ selector = \"{name}\", key = \"{{place}}/{name}\" }}");
        format!("[dkim]\n\"example.org\" = [{}, {}]\n", of("rsa"), of("ed"))
    }

    fn write(&self, place: &Path) {
        for (name, (_, text)) in Self::NAMES.iter().zip(&self.0) {
            fs::write(place.join(name), text).unwrap();
            fs::set_permissions(place.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

/// What the servers say of themselves.
fn errors(dir: &Path) -> String {
    let of = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    ["exim/errors", "exim/mainlog", "exim/paniclog", "postfix/errors", "postfix/maillog", "opensmtpd/errors"]
        .map(of)
        .join("\n--\n")
}

/// A server in a root, with a directory of its own at /mnt and the name server of this machine; it ends with the guard.
fn start(network: &Network, roots: &Path, dir: &Path, (name, configuration, script): Peer, site: &Site) -> Logged {
    site.ipv4.iter().chain(&site.ipv6).for_each(|address| network.add(address));
    let (root, own) = (roots.join(name), dir.join(name));
    for (part, mode, owner) in [("", 0o777, None), ("box", 0o755, Some(5000))] {
        let part = own.join(part);
        fs::create_dir(&part).unwrap();
        fs::set_permissions(&part, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&part, owner, owner).unwrap();
    }
    fs::write(own.join("conf"), configuration(site)).unwrap();
    fs::write(own.join("grey"), if name == "postfix" { POLICY } else { FILTER }).unwrap();
    fs::write(own.join("domains"), site.domains().into_iter().map(|(domain, ..)| domain + "\n").collect::<String>()).unwrap();
    fs::write(own.join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(own.join("cert.pem"), pair.cert.pem()).unwrap();
    fs::write(own.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    let addresses: Vec<String> =
        site.ipv4.iter().cloned().chain(site.ipv6.iter().map(|address| format!("[{address}]"))).collect();
    let (root, own) = (root.display().to_string(), own.display().to_string());
    let script = format!(
        "mount --bind {own} {root}/mnt && mount --bind {own}/resolv.conf {root}/etc/resolv.conf && mount -t proc proc {root}/proc && \
         mount --bind /dev {root}/dev && chroot {root} sh -c 'exec 2>/mnt/errors; set -e; {script}' sh {} && exit",
        addresses.join(" ")
    );
    // The namespace of processes ends with its first one, and whatever the server has started with it. The first is the shell:
    // what becomes another user is not told of the death of its parent.
    network.there(move || {
        Logged::spawn(Command::new("unshare").args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", &script]))
    })
}

fn exim(site: &Site) -> String {
    let addresses: Vec<&str> = site.ipv4.iter().chain(&site.ipv6).map(String::as_str).collect();
    format!(
        "primary_hostname = mx.exim.example
log_file_path = /mnt/%slog
pid_file_path = /mnt/pid
spool_directory = /mnt/spool
local_interfaces = <; {}
daemon_smtp_ports = 25
tls_advertise_hosts = ${{if match{{$received_ip_address}}{{2\\$}}{{}}{{*}}}}
tls_require_ciphers = ${{if match{{$received_ip_address}}{{3\\$}}{{NORMAL:-VERS-ALL:+VERS-TLS1.1}}{{NORMAL}}}}
tls_certificate = /mnt/cert.pem
tls_privatekey = /mnt/key.pem
smtputf8_advertise_hosts = *
host_lookup =
log_selector = +dkim_verbose
message_size_limit = 64M
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = rcpt
acl_smtp_dkim = accept
begin acl
rcpt:
  defer
    local_parts = grey
    condition = ${{if !exists{{/mnt/seen}}}}
    set acl_m_seen = ${{run{{/usr/bin/touch /mnt/seen}}}}
    message = greylisted, try again later
  accept
begin routers
box:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  maildir_format
  directory = /mnt/box
  envelope_to_add
  user = vmail
  group = vmail
",
        addresses.join(" ; ")
    )
}

fn opensmtpd(site: &Site) -> String {
    let options = ["tls pki own", "", "tls pki own protocols \"tlsv1.1\""];
    let listen = site.ipv4.iter().zip(options).chain(site.ipv6.iter().zip(options));
    let listen: String =
        listen.map(|(address, options)| format!("listen on {address} port 25 filter \"grey\" {options}\n")).collect();
    format!(
        "pki own cert \"/mnt/cert.pem\"
pki own key \"/mnt/key.pem\"
table domains file:/mnt/domains
table boxes {{ \"@\" = vmail }}
smtp max-message-size 64M
filter \"grey\" proc-exec \"/usr/bin/perl /mnt/grey\"
{listen}action \"box\" maildir \"/mnt/box\" virtual <boxes>
match from any for domain <domains> action \"box\"
"
    )
}

/// OpenSMTPD wants the key to itself, and a queue that nothing else has filled.
const OPENSMTPD: &str = "chmod 600 /mnt/key.pem; mount -t tmpfs -o mode=711 none /var/spool/smtpd; exec smtpd -d -f /mnt/conf";

/// Exim reads its own file as root alone.
const EXIM: &str = "mount --bind /mnt/conf /etc/exim4/exim4.conf; exec exim4 -bdf -q2s";

/// The addresses come as arguments.
const POSTFIX: &str = "cp -r /etc/postfix /mnt/etc; cd /mnt/etc; mkdir /mnt/q /mnt/d; chown postfix /mnt/d; \
    sed -i \"/[[:space:]]inet[[:space:]]/d\" master.cf; \
    for at in $1 $4; do echo \"$at:25 inet n - n - - smtpd\"; done >>master.cf; \
    for at in $2 $5; do echo \"$at:25 inet n - n - - smtpd -o smtpd_tls_security_level=none\"; done >>master.cf; \
    for at in $3 $6; do echo \"$at:25 inet n - n - - smtpd -o smtpd_tls_protocols=TLSv1.1\"; done >>master.cf; \
    echo \"policy unix - n n - 0 spawn user=nobody argv=/usr/bin/perl /mnt/grey\" >>master.cf; \
    postconf -c /mnt/etc -e queue_directory=/mnt/q data_directory=/mnt/d maillog_file=/mnt/maillog maillog_file_prefixes=/mnt \
    inet_interfaces=all inet_protocols=all mydestination= relayhost= myhostname=mx.postfix.example \
    virtual_mailbox_domains=/mnt/domains virtual_mailbox_base=/mnt virtual_mailbox_maps=static:box/ \
    virtual_uid_maps=static:5000 virtual_gid_maps=static:5000 smtpd_tls_cert_file=/mnt/cert.pem smtpd_tls_key_file=/mnt/key.pem \
    smtpd_tls_security_level=may smtpd_tls_received_header=yes smtpd_sasl_auth_enable=no message_size_limit=64000000 \
    smtpd_client_connection_rate_limit=0 smtpd_relay_restrictions=reject_unauth_destination \
    \"smtpd_recipient_restrictions=reject_unauth_destination, check_policy_service unix:private/policy\"; \
    postconf -c /mnt/etc -F \"*/*/chroot=n\"; exec postfix -c /mnt/etc start-fg";

/// Postfix's policy protocol: attributes up to an empty line, and an action.
const POLICY: &str = r#"$| = 1;
while (<STDIN>) {
    chomp;
    if (/^(\w+)=(.*)/) { $has{$1} = $2; next; }
    my $action = "dunno";
    if ($has{recipient} =~ /^grey@/ && !-e "/mnt/seen") {
        open(my $seen, ">", "/mnt/seen");
        $action = "defer_if_permit Greylisted, try again later";
    }
    print "action=$action\n\n";
    %has = ();
}
"#;

/// OpenSMTPD's filter protocol, smtpd-filters(7).
const FILTER: &str = r#"$| = 1;
while (<STDIN>) {
    chomp;
    if ($_ eq "config|ready") { print "register|filter|smtp-in|rcpt-to\nregister|ready\n"; next; }
    my ($kind, undef, undef, undef, undef, $session, $token, $to) = split /\|/;
    next unless $kind eq "filter";
    my $result = "proceed";
    if ($to =~ /^<?grey@/ && !-e "/mnt/seen") {
        open(my $seen, ">", "/mnt/seen");
        $result = "reject|451 4.7.1 Greylisted, try again later";
    }
    print "filter-result|$session|$token|$result\n";
}
"#;
