//! Delivery status notifications (RFC 3461 section 6, RFC 3464, RFC 6522, RFC 6533): what became of a message, told to its
//! sender. Pure: what happened comes in, a message comes out.
//!
//! The first part is for people: what happened, to which recipient, on whose side the cause is, what can be done, from the
//! table of [`super::explain`]. The second is for programs, the third is the header section, or the message where that was
//! asked for. A report goes out with the null reverse path and is marked as automatic (RFC 3834), so that nothing answers
//! it; whether one is due at all says [`is_due`].

use std::fmt::Write as _;

use jiff::Zoned;

use super::explain::Cause;
use super::letter::{Letter, Letterhead, clean, date, field, text_part, wrap};
use crate::mail::display_name;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::dsn::{Notify, Orcpt, Ret};
use crate::smtp::remote::{RemoteReply, RemoteStatus};

/// What a report tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// It is late, and tried again until then.
    Delay(&'a Zoned),
    /// It lies in the recipient's mailbox.
    Delivered,
    /// It will not be delivered.
    Failure,
    /// It was passed on to a server that sends no reports.
    Relayed,
}

/// The message that a report is about.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// Its queue id.
    pub id: &'a str,
    /// Its sender, whom the report is for.
    pub sender: &'a Address,
    /// When it was accepted.
    pub arrived: &'a Zoned,
    /// RET of its envelope.
    pub ret: Option<Ret>,
    /// ENVID of its envelope, decoded.
    pub envid: Option<&'a str>,
    /// Its first [`RETURNED_MAX`] octets, or the whole if that is shorter; lines with LF.
    pub text: &'a [u8],
    /// True if `text` is the whole.
    pub whole: bool,
}

/// What became of one recipient.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    /// The recipient.
    pub address: &'a Address,
    /// ORCPT of its envelope.
    pub orcpt: Option<&'a Orcpt>,
    /// Why not, for failures and delays.
    pub cause: Option<Cause>,
    /// What the next hop said last, if it said anything.
    pub reply: Option<&'a RemoteReply>,
    /// The name of the next hop.
    pub host: Option<&'a str>,
    /// When it was tried last.
    pub attempted: Option<&'a Zoned>,
    /// True if the message was too old for another attempt, rather than refused for good.
    pub expired: bool,
    /// True if an attempt ended between the final dot and its reply.
    pub maybe_twice: bool,
}

/// Octets of a message that a report carries, at most.
pub const RETURNED_MAX: usize = 1 << 20;

impl Kind<'_> {
    /// The value of Action (RFC 3464 section 2.3.3).
    pub fn action(self) -> &'static str {
        match self {
            Self::Delay(_) => "delayed",
            Self::Delivered => "delivered",
            Self::Failure => "failed",
            Self::Relayed => "relayed",
        }
    }
}

/// Whether a sender is to be told. Mail from the null reverse path gets no report of any kind. Of failures a sender is told
/// unless NOTIFY forbids it, of success where NOTIFY asks (RFC 3461 section 4.1), and that mail is late unless NOTIFY
/// forbids it or the message is one that no person waits for ([`is_automatic`]). `header` may be more than the header section.
pub fn is_due(kind: Kind<'_>, sender: &ReversePath, notify: Option<Notify>, header: &[u8]) -> bool {
    match (kind, sender) {
        (_, ReversePath::Null) => false,
        (Kind::Failure, _) => notify.is_none_or(|notify| notify.failure),
        (Kind::Delay(_), _) => notify.is_none_or(|notify| notify.delay) && !is_automatic(header),
        (Kind::Delivered | Kind::Relayed, _) => notify.is_some_and(|notify| notify.success),
    }
}

/// True for mail of lists and programs: a List- field (RFC 2369, RFC 2919), Precedence bulk, list or junk, Auto-Submitted
/// other than no (RFC 3834 section 5).
pub fn is_automatic(header: &[u8]) -> bool {
    fields(header_section(header)).iter().any(|(name, value)| {
        let value = value.to_ascii_lowercase();
        let first = value.split([';', ' ', '(']).next().unwrap_or("");
        match name.as_str() {
            "list-id" | "list-post" | "list-help" | "list-unsubscribe" | "mailing-list" => true,
            "precedence" => ["bulk", "list", "junk"].contains(&first),
            "auto-submitted" => first != "no",
            _ => false,
        }
    })
}

/// Builds the report of one kind about these recipients, of which there must be one at least.
pub fn build(kind: Kind<'_>, head: Letterhead<'_>, original: Original<'_>, outcomes: &[Outcome<'_>]) -> Letter {
    let international = outcomes.iter().any(|outcome| !outcome.is_ascii());
    let (status_type, report_type) = match international {
        true => ("message/global-delivery-status", "global-delivery-status"),
        false => ("message/delivery-status", "delivery-status"),
    };
    let status = status_part(kind, head, original, outcomes, international);
    let text = words(kind, head, original, outcomes);
    let (returned_fields, returned) = returned_part(kind, original);
    let boundary = boundary(head.id, &[text.as_bytes(), status.as_bytes(), returned]);
    let is_ascii = status.is_ascii() && returned.is_ascii();

    let mut top = head.head(original.sender, &subject(kind, outcomes), "auto-replied");
    if let Some(id) = message_id(original.text) {
        let _ = write!(top, "In-Reply-To: {id}\nReferences: {id}\n");
    }
    let utf8 = !top.is_ascii();
    let _ = write!(
        top,
        "Content-Type: multipart/report; report-type={report_type};\n boundary=\"{boundary}\"\n\
         Content-Transfer-Encoding: {}\n\nThis is a report in MIME format.\n\n--{boundary}\n{}\n--{boundary}\n",
        if is_ascii { "7bit" } else { "8bit" },
        text_part(&text),
    );
    let _ = write!(
        top,
        "Content-Type: {status_type}\nContent-Description: Delivery report\nContent-Transfer-Encoding: {}\n\n{status}\n\
         --{boundary}\n{returned_fields}\n",
        if status.is_ascii() { "7bit" } else { "8bit" },
    );
    let mut letter = top.into_bytes();
    letter.extend_from_slice(returned);
    if !returned.ends_with(b"\n") {
        letter.push(b'\n');
    }
    letter.extend_from_slice(format!("\n--{boundary}--\n").as_bytes());
    Letter { eight_bit: !letter.is_ascii(), utf8, text: letter }
}

impl Outcome<'_> {
    fn is_ascii(&self) -> bool {
        self.address.to_string().is_ascii() && self.orcpt.is_none_or(|orcpt| orcpt.address.is_ascii())
    }

    fn status(&self, kind: Kind<'_>) -> RemoteStatus {
        match (kind, self.cause) {
            (Kind::Delivered | Kind::Relayed, _) => {
                self.reply.and_then(|reply| reply.status).filter(|status| status.0 == 2).unwrap_or((2, 0, 0))
            }
            (Kind::Failure, Some(cause)) => cause.status(true),
            (Kind::Delay(_), Some(cause)) => cause.status(false),
            (Kind::Failure, None) if self.expired => (5, 4, 7),
            (Kind::Failure, None) => (5, 0, 0),
            (Kind::Delay(_), None) => (4, 4, 7),
        }
    }
}

/// ASCII, so that the field needs no encoding; addresses that are not are counted.
fn subject(kind: Kind<'_>, outcomes: &[Outcome<'_>]) -> String {
    let to = match outcomes {
        [one] if one.is_ascii() => one.address.to_string(),
        [_] => "one recipient".to_owned(),
        many => format!("{} recipients", many.len()),
    };
    match kind {
        Kind::Delay(_) => format!("Late: your message to {to}"),
        Kind::Delivered => format!("Delivered: your message to {to}"),
        Kind::Failure => format!("Not delivered: your message to {to}"),
        Kind::Relayed => format!("Passed on: your message to {to}"),
    }
}

/// The part for people.
fn words(kind: Kind<'_>, head: Letterhead<'_>, original: Original<'_>, outcomes: &[Outcome<'_>]) -> String {
    let mut text = String::new();
    let one = outcomes.len() == 1;
    let who = if one { "this recipient" } else { "these recipients" };
    let what = match kind {
        Kind::Delay(_) => format!("Your message has not been delivered to {who} yet. It is tried again by itself."),
        Kind::Delivered => format!("Your message has been delivered to {who}."),
        Kind::Failure => format!("Your message could not be delivered to {who}. It is not tried again."),
        Kind::Relayed => format!(
            "Your message has been passed on for {who}, to a server that sends no such reports. There will be no further report \
             of success; one would come if that server could not deliver it."
        ),
    };
    wrap(&mut text, 0, &what);
    text.push('\n');
    wrap(&mut text, 2, &format!("Handed in: {}", date(original.arrived)));
    if let Some(subject) = original_subject(original.text) {
        wrap(&mut text, 2, &format!("Subject: {subject}"));
    }
    for outcome in outcomes {
        let _ = write!(text, "\n{}\n", outcome.address);
        about(&mut text, kind, outcome);
    }
    text.push('\n');
    match kind {
        Kind::Delay(until) => wrap(
            &mut text,
            0,
            &format!(
                "You need not do anything. If the message has not been delivered by {}, it comes back to you. Don't send it again \
                 before, or it may arrive twice.",
                date(until)
            ),
        ),
        Kind::Failure => wrap(
            &mut text,
            0,
            &format!(
                "What follows is for programs and for the postmaster, <{}>, who can help if you send this whole report along.",
                head.from
            ),
        ),
        Kind::Delivered | Kind::Relayed => wrap(&mut text, 0, "You asked for this report. You need not do anything."),
    }
    let _ = write!(text, "\n-- \nThe mail server {}, about message {}\n", head.hostname, original.id);
    text
}

/// The sentences about one recipient.
fn about(text: &mut String, kind: Kind<'_>, outcome: &Outcome<'_>) {
    const INDENT: usize = 4;
    let is_failure = kind == Kind::Failure;
    if outcome.expired && is_failure {
        wrap(text, INDENT, "It was tried again and again until the message was too old. This is what happened last:");
    }
    if let Some(cause) = outcome.cause {
        let explanation = cause.explain();
        wrap(text, INDENT, explanation.what);
        wrap(text, INDENT, explanation.side.sentence());
        if is_failure {
            wrap(text, INDENT, &format!("What you can do: {}", explanation.sender_when_over()));
        }
    }
    if outcome.maybe_twice {
        let cure = if is_failure { " Ask the recipient before you send it again." } else { "" };
        let once = "The message may have arrived all the same: an attempt ended after the message had been sent and before the \
                    server answered.";
        wrap(text, INDENT, &format!("{once}{cure}"));
    }
    match (outcome.host, outcome.reply) {
        (Some(host), Some(reply)) => wrap(text, INDENT, &clean(&format!("{host} said: {reply}"))),
        (None, Some(reply)) => wrap(text, INDENT, &clean(&format!("The server said: {reply}"))),
        (Some(host), None) => wrap(text, INDENT, &clean(&format!("The server is {host}."))),
        (None, None) => {}
    }
}

/// The part for programs (RFC 3464 section 2). Without `international` it is ASCII.
fn status_part(
    kind: Kind<'_>,
    head: Letterhead<'_>,
    original: Original<'_>,
    outcomes: &[Outcome<'_>],
    international: bool,
) -> String {
    let mut out = String::new();
    if let Some(envid) = original.envid {
        field(&mut out, "Original-Envelope-Id", envid);
    }
    field(&mut out, "Reporting-MTA", &format!("dns; {}", head.hostname));
    field(&mut out, "Arrival-Date", &date(original.arrived));
    for outcome in outcomes {
        out.push('\n');
        if let Some(orcpt) = outcome.orcpt {
            field(&mut out, "Original-Recipient", &format!("{}; {}", orcpt.kind, orcpt.address));
        }
        let address = outcome.address.to_string();
        let kind_of_address = if address.is_ascii() { "rfc822" } else { crate::smtp::dsn::UTF8 };
        field(&mut out, "Final-Recipient", &format!("{kind_of_address}; {address}"));
        field(&mut out, "Action", kind.action());
        let (class, subject, detail) = outcome.status(kind);
        field(&mut out, "Status", &format!("{class}.{subject}.{detail}"));
        if let Some(host) = outcome.host {
            field(&mut out, "Remote-MTA", &format!("dns; {host}"));
        }
        match (outcome.reply, outcome.cause) {
            (Some(reply), _) => field(&mut out, "Diagnostic-Code", &format!("smtp; {reply}")),
            (None, Some(cause)) => field(&mut out, "Diagnostic-Code", &format!("x-pillarbox; {}", cause.explain().what)),
            (None, None) => {}
        }
        if let Some(attempted) = outcome.attempted {
            field(&mut out, "Last-Attempt-Date", &date(attempted));
        }
        field(&mut out, "Final-Log-Id", original.id);
        if let Kind::Delay(until) = kind {
            field(&mut out, "Will-Retry-Until", &date(until));
        }
    }
    if international { out } else { out.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect() }
}

/// The message or its header section, with the fields of the part. The whole goes back with failures alone (RFC 3461
/// section 4.3), where it was asked for and is no larger than [`RETURNED_MAX`].
fn returned_part<'a>(kind: Kind<'_>, original: Original<'a>) -> (String, &'a [u8]) {
    let header = header_section(original.text);
    // What was cut in the middle of a line loses that line.
    let end = if original.whole { header.len() } else { memchr::memrchr(b'\n', header).map_or(0, |end| end + 1) };
    let header = &header[..end];
    let is_whole = kind == Kind::Failure && original.ret == Some(Ret::Full) && original.whole;
    let is_whole = is_whole && original.text.len() <= RETURNED_MAX;
    let utf8_header = !header.is_ascii() && std::str::from_utf8(header).is_ok();
    let (media, description, content) = match (is_whole, utf8_header) {
        (true, false) => ("message/rfc822", "The message", original.text),
        (true, true) => ("message/global", "The message", original.text),
        (false, false) => ("text/rfc822-headers", "The message's header section", header),
        (false, true) => ("message/global-headers", "The message's header section", header),
    };
    let encoding = if content.is_ascii() { "7bit" } else { "8bit" };
    let fields = format!("Content-Type: {media}\nContent-Description: {description}\nContent-Transfer-Encoding: {encoding}\n");
    (fields, content)
}

/// A line that is in none of the parts.
fn boundary(id: &str, parts: &[&[u8]]) -> String {
    let mut boundary = format!("report-{id}");
    while parts.iter().any(|part| memchr::memmem::find(part, boundary.as_bytes()).is_some()) {
        boundary.push('x');
    }
    boundary
}

/// Up to the empty line that ends it, without that; all of it where there is none.
fn header_section(text: &[u8]) -> &[u8] {
    if text.starts_with(b"\n") {
        return b"";
    }
    memchr::memmem::find(text, b"\n\n").map_or(text, |end| &text[..=end])
}

/// Names in lower case, and values on one line.
fn fields(section: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(section).replace("\n ", " ").replace("\n\t", " ");
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.trim_end().to_ascii_lowercase(), value.trim().to_owned())).collect()
}

fn value_of(text: &[u8], field: &str) -> Option<String> {
    fields(header_section(text)).into_iter().find(|(name, _)| name == field).map(|(_, value)| value)
}

/// As a person reads it, if its encoded words can be read.
fn original_subject(text: &[u8]) -> Option<String> {
    let shown = display_name::readings(value_of(text, "subject")?.as_bytes()).ok()?.pop()?;
    let subject: String = clean(&shown).chars().take(200).collect();
    (!subject.trim().is_empty()).then_some(subject)
}

/// The Message-ID with its brackets, if it is one that can be repeated.
fn message_id(text: &[u8]) -> Option<String> {
    let id = value_of(text, "message-id")?;
    let inner = id.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'))?;
    let fits = !inner.is_empty() && id.len() <= 250 && inner.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>'));
    fits.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::schedule::Trouble;
    use crate::smtp::remote::Stage;

    const MESSAGE: &[u8] = b"Received: by mx.example.org\nFrom: alice@example.org\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\n\
                             Message-ID: <m@example.org>\n\nbody\n";

    fn time(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn reply(code: u16, status: RemoteStatus, text: &str) -> RemoteReply {
        RemoteReply { code, status: Some(status), text: text.into() }
    }

    /// What was built, as text.
    fn report(kind: Kind<'_>, message: &[u8], ret: Option<Ret>, outcomes: &[Outcome<'_>]) -> String {
        let (from, sender) = (address("postmaster@example.org"), address("alice@example.org"));
        let (now, arrived) = (time("2026-11-24T12:05:00+00:00[UTC]"), time("2026-11-24T12:00:00+00:00[UTC]"));
        let head = Letterhead { hostname: "mx.example.org", from: &from, now: &now, id: "r1" };
        let original =
            Original { id: "q1", sender: &sender, arrived: &arrived, ret, envid: Some("QQ314159"), text: message, whole: true };
        String::from_utf8(build(kind, head, original, outcomes).text).unwrap()
    }

    fn refused<'a>(to: &'a Address, reply: &'a RemoteReply) -> Outcome<'a> {
        Outcome {
            address: to,
            orcpt: None,
            cause: Some(Cause::reply(Stage::Recipient, reply)),
            reply: Some(reply),
            host: Some("mx.elsewhere.example"),
            attempted: None,
            expired: false,
            maybe_twice: false,
        }
    }

    /// The whole of one, as a person and a program read it.
    #[test]
    fn a_failure() {
        let (to, no) = (address("bob@elsewhere.example"), reply(550, (5, 1, 1), "No such user here"));
        let orcpt = Orcpt::parse("rfc822;Bob+2Bx@old.example").unwrap();
        let tried = time("2026-11-24T12:04:00+00:00[UTC]");
        let outcome = Outcome { orcpt: Some(&orcpt), attempted: Some(&tried), ..refused(&to, &no) };
        let want = "From: Mail Delivery System <postmaster@example.org>
To: <alice@example.org>
Subject: Not delivered: your message to bob@elsewhere.example
Date: Tue, 24 Nov 2026 12:05:00 +0000
Message-ID: <r1@mx.example.org>
Auto-Submitted: auto-replied
MIME-Version: 1.0
In-Reply-To: <m@example.org>
References: <m@example.org>
Content-Type: multipart/report; report-type=delivery-status;
 boundary=\"report-r1\"
Content-Transfer-Encoding: 7bit

This is a report in MIME format.

--report-r1
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Your message could not be delivered to this recipient. It is not tried agai=
n.

  Handed in: Tue, 24 Nov 2026 12:00:00 +0000
  Subject: Gr=C3=BC=C3=9Fe

bob@elsewhere.example
    The server says that there is no such mailbox.
    The cause is on the recipient's side.
    What you can do: Look for a mistyped letter in the address. If it is
    right, ask the recipient another way.
    mx.elsewhere.example said: 550 5.1.1 No such user here

What follows is for programs and for the postmaster, <postmaster@example.or=
g>,
who can help if you send this whole report along.

--=20
The mail server mx.example.org, about message q1

--report-r1
Content-Type: message/delivery-status
Content-Description: Delivery report
Content-Transfer-Encoding: 7bit

Original-Envelope-Id: QQ314159
Reporting-MTA: dns; mx.example.org
Arrival-Date: Tue, 24 Nov 2026 12:00:00 +0000

Original-Recipient: rfc822; Bob+x@old.example
Final-Recipient: rfc822; bob@elsewhere.example
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.elsewhere.example
Diagnostic-Code: smtp; 550 5.1.1 No such user here
Last-Attempt-Date: Tue, 24 Nov 2026 12:04:00 +0000
Final-Log-Id: q1

--report-r1
Content-Type: text/rfc822-headers
Content-Description: The message's header section
Content-Transfer-Encoding: 7bit

Received: by mx.example.org
From: alice@example.org
Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=
Message-ID: <m@example.org>

--report-r1--
";
        assert_eq!(report(Kind::Failure, MESSAGE, None, &[outcome]), want);
    }

    #[test]
    fn kinds_and_statuses() {
        let to = address("bob@elsewhere.example");
        let (wait, done) = (reply(451, (4, 7, 1), "greylisted"), reply(250, (2, 6, 0), "queued"));
        let until = time("2026-11-29T12:00:00+00:00[UTC]");
        let late = refused(&to, &wait);
        let expired = Outcome { expired: true, ..late };
        let nothing = Outcome { cause: None, reply: None, ..late };
        let fault = Outcome { cause: Some(Cause::Trouble(Stage::Connect, Trouble::Dropped)), reply: None, ..late };
        let doubt =
            Outcome { cause: Some(Cause::Trouble(Stage::Dot, Trouble::Unanswered)), reply: None, maybe_twice: true, ..late };
        let back = Outcome { cause: Some(Cause::Returned), reply: None, host: None, ..late };
        let sent = Outcome { cause: None, reply: Some(&done), ..late };
        let rows: [(Kind<'_>, Outcome<'_>, &[&str]); 9] = [
            (
                Kind::Delay(&until),
                late,
                &["Action: delayed\nStatus: 4.7.1", "Will-Retry-Until: Sun, 29 Nov", "Late: your", "Don't send it again"],
            ),
            (
                Kind::Failure,
                expired,
                &["Action: failed\nStatus: 5.4.7", "tried again and again", "What you can do: Send the message again"],
            ),
            (Kind::Failure, Outcome { expired: true, ..nothing }, &["Status: 5.4.7"]),
            (
                Kind::Failure,
                fault,
                &["Status: 5.4.1", "x-pillarbox; No connection to the server could be made.", "The cause is on the way"],
            ),
            (
                Kind::Failure,
                doubt,
                &["Status: 5.4.2", "may have arrived all the same", "Ask the recipient before you send it again."],
            ),
            (Kind::Failure, back, &["Status: 5.3.0", "sent the message back"]),
            (Kind::Delivered, nothing, &["Action: delivered\nStatus: 2.0.0", "has been delivered", "You asked for this report"]),
            (Kind::Relayed, sent, &["Action: relayed\nStatus: 2.6.0", "passed on", "Diagnostic-Code: smtp; 250 2.6.0 queued"]),
            (Kind::Relayed, nothing, &["Action: relayed\nStatus: 2.0.0"]),
        ];
        for (kind, outcome, want) in rows {
            let text = report(kind, MESSAGE, None, &[outcome]).replace("=\n", "").replace("\n    ", " ");
            for part in want {
                assert!(text.contains(part), "{part} is not in\n{text}");
            }
            assert_eq!(text.contains("Will-Retry-Until"), matches!(kind, Kind::Delay(_)));
        }
    }

    #[test]
    fn what_goes_back() {
        let (to, no) = (address("bob@elsewhere.example"), reply(550, (5, 1, 1), "no"));
        let outcome = refused(&to, &no);
        let of = |kind, message: &[u8], ret| report(kind, message, ret, &[outcome]);
        let full = of(Kind::Failure, MESSAGE, Some(Ret::Full));
        assert!(full.contains("Content-Type: message/rfc822\n") && full.contains("\n\nbody\n\n--report-r1--\n"));
        for (kind, ret) in [(Kind::Failure, Some(Ret::Headers)), (Kind::Failure, None), (Kind::Delivered, Some(Ret::Full))] {
            assert!(!of(kind, MESSAGE, ret).contains("body"), "{kind:?} {ret:?}");
        }
        let large = [MESSAGE, "x\n".repeat(RETURNED_MAX / 2).as_bytes()].concat();
        assert!(of(Kind::Failure, &large, Some(Ret::Full)).len() < 5000, "too large to go back");
        let eight = "From: a@b.example\n\nbücher\n".as_bytes();
        assert!(
            of(Kind::Failure, eight, Some(Ret::Full))
                .contains("message/rfc822\nContent-Description: The message\nContent-Transfer-Encoding: 8bit")
        );
        let utf8 = "From: jörg@b.example\n\nbody\n".as_bytes();
        assert!(of(Kind::Failure, utf8, None).contains("Content-Type: message/global-headers\n"));
        assert!(of(Kind::Failure, utf8, Some(Ret::Full)).contains("Content-Type: message/global\n"));
        assert!(of(Kind::Failure, b"\nno header\n", None).ends_with("7bit\n\n\n\n--report-r1--\n"));
        // A message that holds the line that separates the parts.
        let text = of(Kind::Failure, b"Subject: x\n\n--report-r1\n--report-r1x--\n", Some(Ret::Full));
        assert!(text.contains("boundary=\"report-r1xx\"") && text.ends_with("--report-r1xx--\n"));
    }

    #[test]
    fn addresses_that_are_not_ascii() {
        let (to, no) = (address("jörg@bücher.example"), reply(553, (5, 6, 7), "Ünicode?"));
        let text = report(Kind::Failure, MESSAGE, None, &[refused(&to, &no)]);
        for part in [
            "report-type=global-delivery-status;",
            "Content-Type: message/global-delivery-status\n",
            "Final-Recipient: utf-8; jörg@bücher.example\n",
            "Diagnostic-Code: smtp; 553 5.6.7 Ünicode?\n",
            "Subject: Not delivered: your message to one recipient\n",
            "\nContent-Transfer-Encoding: 8bit\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        // Another server's letters alone are no reason for the other form.
        let bob = address("bob@elsewhere.example");
        let text = report(Kind::Failure, MESSAGE, None, &[refused(&bob, &no)]);
        assert!(text.is_ascii() && text.contains("Diagnostic-Code: smtp; 553 5.6.7 ?nicode?\n"), "{text}");
    }

    /// Another server's words make no field, no part and no line of their own, and lines of text are short.
    #[test]
    fn nothing_breaks_out() {
        let to = address("bob@elsewhere.example");
        let evil = "x\r\nAction: delivered\n\n--report-r1--\nBcc: y@z.example ".repeat(5);
        let no = RemoteReply { code: 550, status: None, text: evil };
        let outcome = Outcome { host: Some("h\nStatus: 2.0.0"), ..refused(&to, &no) };
        let text = report(Kind::Failure, MESSAGE, None, &[outcome]);
        for line in ["Action: delivered", "Bcc: ", "Status: 2", "--report-r1--"] {
            assert!(!text.lines().any(|one| one.starts_with(line) && !text.ends_with(&format!("{one}\n"))), "{line} in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 78), "{text}");
    }

    #[test]
    fn when_a_report_is_due() {
        let (alice, null) = (ReversePath::Mailbox(address("alice@example.org")), ReversePath::Null);
        let until = time("2026-11-29T12:00:00+00:00[UTC]");
        let notify = |text| Notify::parse(text);
        let rows = [
            (Kind::Failure, None, true),
            (Kind::Failure, notify("FAILURE"), true),
            (Kind::Failure, notify("SUCCESS,DELAY"), false),
            (Kind::Failure, notify("NEVER"), false),
            (Kind::Delay(&until), None, true),
            (Kind::Delay(&until), notify("DELAY"), true),
            (Kind::Delay(&until), notify("FAILURE"), false),
            (Kind::Delay(&until), notify("NEVER"), false),
            (Kind::Delivered, None, false),
            (Kind::Delivered, notify("SUCCESS"), true),
            (Kind::Relayed, notify("FAILURE"), false),
            (Kind::Relayed, notify("SUCCESS"), true),
        ];
        for (kind, notify, want) in rows {
            assert_eq!(is_due(kind, &alice, notify, MESSAGE), want, "{kind:?} {notify:?}");
            assert!(!is_due(kind, &null, notify, MESSAGE), "{kind:?} {notify:?}");
        }
        let rows = [
            ("Subject: x", false),
            ("Precedence: bulk", true),
            ("PRECEDENCE:\n list", true),
            ("Precedence: junk (x)", true),
            ("Precedence: first-class", false),
            ("List-Id: <l.example.org>", true),
            ("List-Unsubscribe: <https://example.org/u>", true),
            ("Auto-Submitted: auto-generated", true),
            ("Auto-Submitted: auto-replied; x=y", true),
            ("Auto-Submitted: no", false),
            ("Auto-Submitted: No (never)", false),
            ("X-List-Id: l", false),
            ("Subject: x\n\nPrecedence: bulk", false),
        ];
        for (header, automatic) in rows {
            let message = format!("From: a@b.example\n{header}\n\nbody\n");
            assert_eq!(is_automatic(message.as_bytes()), automatic, "{header}");
            assert_eq!(is_due(Kind::Delay(&until), &alice, None, message.as_bytes()), !automatic, "{header}");
            assert!(is_due(Kind::Failure, &alice, None, message.as_bytes()));
        }
    }
}
