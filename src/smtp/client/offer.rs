//! What a next hop offers: the lines of its reply to EHLO (RFC 5321 section 4.1.1.1).

/// The extensions that matter to a client. A keyword that is not understood is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// AUTH PLAIN (RFC 4954, RFC 4616).
    pub auth_plain: bool,
    /// AUTH LOGIN.
    pub auth_login: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// LIMITS MAILMAX: transactions of a connection, at most (RFC 9422).
    pub mail_max: Option<usize>,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// LIMITS RCPTDOMAINMAX: domains among the recipients of a transaction, at most.
    pub rcpt_domain_max: Option<usize>,
    /// LIMITS RCPTMAX: recipients of a transaction, at most.
    pub rcpt_max: Option<usize>,
    /// SIZE is offered (RFC 1870).
    pub size: bool,
    /// Octets of a message, at most, if SIZE names a limit.
    pub size_max: Option<u64>,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// SMTPUTF8 (RFC 6531).
    pub utf8: bool,
}

impl Offer {
    /// Reads the lines of a reply to EHLO, without reply codes; the first is the server's name.
    pub fn parse(lines: &[String]) -> Self {
        let mut offer = Self::default();
        for line in lines.iter().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            match keyword.as_str() {
                "8BITMIME" => offer.eight_bit = true,
                "AUTH" => words.for_each(|name| offer.mechanism(name)),
                "DSN" => offer.dsn = true,
                "LIMITS" => words.for_each(|limit| offer.limit(limit)),
                "PIPELINING" => offer.pipelining = true,
                "SIZE" => {
                    offer.size = true;
                    // Zero is no limit (RFC 1870 section 4).
                    offer.size_max = words.next().and_then(|size| size.parse().ok()).filter(|size| *size > 0);
                }
                "STARTTLS" => offer.starttls = true,
                "SMTPUTF8" => offer.utf8 = true,
                // As servers wrote it before RFC 2554.
                _ if keyword.starts_with("AUTH=") => {
                    offer.mechanism(&keyword["AUTH=".len()..]);
                    words.for_each(|name| offer.mechanism(name));
                }
                _ => {}
            }
        }
        offer
    }

    /// True if AUTH is offered with a mechanism that is known here.
    pub fn auth(&self) -> bool {
        self.auth_plain || self.auth_login
    }

    fn mechanism(&mut self, name: &str) {
        self.auth_plain |= name.eq_ignore_ascii_case("PLAIN");
        self.auth_login |= name.eq_ignore_ascii_case("LOGIN");
    }

    /// A limit of zero would forbid all mail; it is ignored, as RFC 9422 section 4 lets no limit be zero.
    fn limit(&mut self, word: &str) {
        let Some((name, value)) = word.split_once('=') else { return };
        let value = value.parse().ok().filter(|value| *value > 0);
        match name.to_ascii_uppercase().as_str() {
            "MAILMAX" => self.mail_max = value,
            "RCPTDOMAINMAX" => self.rcpt_domain_max = value,
            "RCPTMAX" => self.rcpt_max = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords() {
        let none = Offer::default;
        let rows = [
            ("PIPELINING", Offer { pipelining: true, ..none() }),
            ("pipelining", Offer { pipelining: true, ..none() }),
            ("PIPELININGX", none()),
            ("8BITMIME", Offer { eight_bit: true, ..none() }),
            ("SMTPUTF8", Offer { utf8: true, ..none() }),
            ("DSN", Offer { dsn: true, ..none() }),
            ("STARTTLS", Offer { starttls: true, ..none() }),
            ("SIZE", Offer { size: true, ..none() }),
            ("SIZE 0", Offer { size: true, ..none() }),
            ("SIZE 1000", Offer { size: true, size_max: Some(1000), ..none() }),
            ("SIZE many", Offer { size: true, ..none() }),
            ("AUTH PLAIN LOGIN", Offer { auth_plain: true, auth_login: true, ..none() }),
            ("AUTH CRAM-MD5 login", Offer { auth_login: true, ..none() }),
            ("AUTH=LOGIN PLAIN", Offer { auth_plain: true, auth_login: true, ..none() }),
            ("AUTH XOAUTH2", none()),
            (
                "LIMITS RCPTMAX=5 MAILMAX=2 RCPTDOMAINMAX=1 X=3",
                Offer { rcpt_max: Some(5), mail_max: Some(2), rcpt_domain_max: Some(1), ..none() },
            ),
            ("LIMITS RCPTMAX=0 MAILMAX=x RCPTMAX", none()),
            ("", none()),
        ];
        for (line, want) in rows {
            assert_eq!(Offer::parse(&["PIPELINING".into(), line.into()]), want, "{line}");
        }
        assert_eq!(Offer::parse(&[]), none());
    }
}
