//! The trace fields that stand on top of a stored message (RFC 5321 section 4.4).
//!
//! Nothing in them comes from the message itself. The client's own name is what it said in EHLO, printable ASCII, with a `?`
//! for what would have a meaning in the field.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use jiff::Zoned;

/// What goes into the trace fields.
pub struct Trace<'a> {
    /// This is final delivery: Return-Path and Delivered-To are written too (RFC 5321 section 4.4).
    pub final_delivery: bool,
    /// The reverse path without brackets; empty for the null sender.
    pub reverse_path: &'a dyn Display,
    /// The recipient, if there is but one.
    pub recipient: Option<&'a dyn Display>,
    /// The client's name and address, where they are to be shown.
    pub client: Option<(&'a str, IpAddr)>,
    /// This host.
    pub hostname: &'a str,
    /// EHLO rather than HELO.
    pub extended: bool,
    /// The transaction said SMTPUTF8.
    pub utf8: bool,
    /// The client has logged in.
    pub authenticated: bool,
    /// TLS version and cipher suite.
    pub tls: Option<(&'a str, &'a str)>,
    /// The message's id.
    pub id: &'a str,
    /// When it came.
    pub time: &'a Zoned,
}

/// Octets that trace fields usually take.
const TRACE_SIZE: usize = 512;

/// The `from` clause that RFC 5321 section 4.4 demands, where the client is not to be shown: a name that no host can
/// have (RFC 6761 section 6.4), so it says nothing that might be untrue.
const HIDDEN: &str = "client.invalid";

impl Trace<'_> {
    /// Return-Path, Delivered-To and Received (RFC 5321 section 4.4; the protocol words are of RFC 3848 and RFC 6531
    /// section 4.3, the tls clause is RFC 8314's, section 4.3).
    pub(super) fn render(&self) -> String {
        let mut text = String::with_capacity(TRACE_SIZE);
        if self.final_delivery {
            let _ = writeln!(text, "Return-Path: <{}>", self.reverse_path);
            if let Some(recipient) = self.recipient {
                let _ = writeln!(text, "Delivered-To: {recipient}");
            }
        }
        let _ = match self.client {
            Some((name, address)) => {
                let literal = match address.to_canonical() {
                    IpAddr::V4(v4) => format!("[{v4}]"),
                    IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
                };
                write!(text, "Received: from {} ({literal})\n\t", as_one_word(name))
            }
            None => write!(text, "Received: from {HIDDEN}\n\t"),
        };
        let [protocol, letters] = self.protocol();
        let _ = write!(text, "by {} with {protocol}{letters} id {}", self.hostname, self.id);
        if let Some(recipient) = self.recipient {
            let _ = write!(text, "\n\tfor <{recipient}>");
        }
        if let Some((version, cipher)) = self.tls {
            let _ = write!(text, "\n\ttls {cipher} ({version})");
        }
        let _ = writeln!(text, ";\n\t{}", rfc5322_date(self.time));
        text
    }

    fn protocol(&self) -> [&'static str; 2] {
        let letters = self.letters();
        let base = match (self.utf8, self.extended) {
            (true, _) => "UTF8SMTP",
            // There is no SMTPS: RFC 3848 knows the letters after ESMTP alone.
            (false, extended) if extended || !letters.is_empty() => "ESMTP",
            (false, _) => "SMTP",
        };
        [base, letters]
    }

    fn letters(&self) -> &'static str {
        match (self.tls.is_some(), self.authenticated) {
            (true, true) => "SA",
            (true, false) => "S",
            (false, true) => "A",
            (false, false) => "",
        }
    }
}

/// A name as one word of a Received field: what begins or ends a comment, a quoted string, a route, the date or the word itself
/// is not let through.
fn as_one_word(name: &str) -> String {
    name.replace([' ', '(', ')', '<', '>', ';', '"', '\\', ','], "?")
}

/// `Mon, 23 Nov 2026 17:43:50 +0000` (RFC 5322 section 3.3).
pub(super) fn rfc5322_date(time: &Zoned) -> String {
    jiff::fmt::rfc2822::to_string(time).unwrap_or_else(|_| "Thu, 01 Jan 1970 00:00:00 +0000".into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn time() -> Zoned {
        jiff::Timestamp::from_second(1_795_455_830).unwrap().to_zoned(jiff::tz::TimeZone::UTC)
    }

    pub(in super::super) fn trace(time: &Zoned) -> Trace<'_> {
        Trace {
            final_delivery: true,
            reverse_path: &"a@example.org",
            recipient: Some(&"b@example.org"),
            client: None,
            hostname: "mx.example.org",
            extended: true,
            utf8: false,
            authenticated: true,
            tls: Some(("TLSv1.3", "TLS_AES_256_GCM_SHA384")),
            id: "id1",
            time,
        }
    }

    #[test]
    fn the_received_line() {
        let time = time();
        let client = Some(("mta.example", IpAddr::from([192, 0, 2, 1])));
        let text = Trace { client, authenticated: false, ..trace(&time) }.render();
        let want = "Return-Path: <a@example.org>\nDelivered-To: b@example.org\nReceived: from mta.example ([192.0.2.1])\n\t\
            by mx.example.org with ESMTPS id id1\n\tfor <b@example.org>\n\ttls TLS_AES_256_GCM_SHA384 (TLSv1.3);\n\t\
            Mon, 23 Nov 2026 17:43:50 +0000\n";
        assert_eq!(text, want);
        let odd = Some(("a (b) <c>;\"d\\,_.", IpAddr::from([192, 0, 2, 1])));
        let text = Trace { client: odd, authenticated: false, ..trace(&time) }.render();
        assert!(text.contains("Received: from a??b???c???d??_. ([192.0.2.1])\n"), "{text}");
        let passed_on = Trace { final_delivery: false, client, authenticated: false, ..trace(&time) }.render();
        assert_eq!(passed_on, want[want.find("Received:").unwrap()..]);
        assert!(trace(&time).render().contains("\nReceived: from client.invalid\n\tby mx.example.org with ESMTPSA id id1\n"));
        let protocols = [
            (true, false, true, true, "ESMTPSA"),
            (true, false, false, false, "ESMTP"),
            (false, false, false, false, "SMTP"),
            (false, false, true, false, "ESMTPS"),
            (true, true, true, true, "UTF8SMTPSA"),
            (true, true, false, false, "UTF8SMTP"),
        ];
        for (extended, utf8, tls, authenticated, want) in protocols {
            let tls = tls.then_some(("TLSv1.3", "X"));
            assert_eq!(Trace { extended, utf8, tls, authenticated, ..trace(&time) }.protocol().concat(), want);
        }
    }
}
