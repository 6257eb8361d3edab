//! Which verb is legal when: one table, one row a verb.

use super::command::{Grammar, Verb};
use super::reply::Refusal;

/// What a port is for (IANA service names), or a socket of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// A socket of this machine: its users hand in mail, and the kernel says who they are.
    Local,
    /// Port 25: other servers bring mail for local addresses.
    Smtp,
    /// Ports 587 and 2525: users hand in mail, STARTTLS before everything else (RFC 6409).
    Submission,
    /// Port 465: the same, TLS from the first octet (RFC 8314).
    Submissions,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// What the port is for.
    pub service: Service,
    /// TLS is active.
    pub secured: bool,
    /// EHLO or HELO was said since the last handshake.
    pub greeted: bool,
    /// There is a login.
    pub logged_in: bool,
    /// How far the transaction is.
    pub transaction: Transaction,
}

/// How far a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// BDAT has begun.
    Chunks,
    /// There is none.
    None,
    /// MAIL was accepted.
    Open,
}

impl Service {
    /// All services.
    pub const ALL: [Self; 4] = [Self::Local, Self::Smtp, Self::Submission, Self::Submissions];

    /// The IANA service name, or `local`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Smtp => "smtp",
            Self::Submission => "submission",
            Self::Submissions => "submissions",
        }
    }

    /// The service of this IANA name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == name)
    }

    /// True if there must be a login before MAIL.
    pub fn needs_login(self) -> bool {
        self != Self::Smtp
    }

    /// True if a client must prove a login by AUTH, inside TLS.
    pub fn needs_auth(self) -> bool {
        matches!(self, Self::Submission | Self::Submissions)
    }

    /// What commands may look like beyond RFC 5321.
    pub fn grammar(self) -> Grammar {
        if self.needs_login() { Grammar::Submission } else { Grammar::Transfer }
    }
}

/// Looks a verb up in the table. The order of the checks is what a client sees: TLS, greeting, login, transaction.
pub fn check(verb: Verb, now: &Situation) -> Result<(), Refusal> {
    let Some(rule) = RULES.iter().find(|rule| rule.verb == verb) else {
        return Err(Refusal::UnknownCommand);
    };
    let wants_login = now.service.needs_login();
    let wants_tls = now.service.needs_auth();
    if verb == Verb::Auth && !now.service.needs_auth() {
        return Err(Refusal::AuthNotOffered);
    }
    if wants_tls && !now.secured && !rule.allowed_without_tls {
        return Err(Refusal::TlsFirst);
    }
    if rule.needs_greeting && !now.greeted {
        return Err(Refusal::HelloFirst);
    }
    if rule.needs_login && wants_login && !now.logged_in {
        return Err(Refusal::LoginNeeded);
    }
    match (rule.transaction, now.transaction) {
        (Needs::Any, _) | (Needs::None, Transaction::None) => Ok(()),
        (Needs::None, _) => Err(Refusal::TransactionOpen),
        (_, Transaction::None) => Err(Refusal::NoTransaction),
        (Needs::OpenWithoutBdat, Transaction::Chunks) => Err(Refusal::ChunksBegun),
        (Needs::OpenWithoutBdat | Needs::Open, _) => Ok(()),
    }
}

/// One row of the legality table.
struct Rule {
    verb: Verb,
    /// Legal in the clear where TLS is required (RFC 3207 section 4).
    allowed_without_tls: bool,
    /// Needs EHLO or HELO before it.
    needs_greeting: bool,
    /// Needs a login where the port wants one (RFC 6409 section 4.3).
    needs_login: bool,
    transaction: Needs,
}

/// What a verb wants of the transaction.
#[derive(Clone, Copy)]
enum Needs {
    /// Nothing.
    Any,
    /// One must be open, and no BDAT begun.
    OpenWithoutBdat,
    /// None may be open.
    None,
    /// One must be open.
    Open,
}

/// Which verb is legal when.
const RULES: [Rule; 16] = {
    const fn rule(verb: Verb, allowed_without_tls: bool, needs_greeting: bool, needs_login: bool, transaction: Needs) -> Rule {
        Rule { verb, allowed_without_tls, needs_greeting, needs_login, transaction }
    }
    use Needs::{Any, None, Open, OpenWithoutBdat};
    //         verb          clear  hello  login  transaction
    [
        rule(Verb::Auth, false, true, false, None),
        rule(Verb::Bdat, false, true, true, Open),
        rule(Verb::Data, false, true, true, OpenWithoutBdat),
        rule(Verb::Ehlo, true, false, false, Any),
        rule(Verb::Etrn, false, false, false, Any),
        rule(Verb::Expn, false, false, false, Any),
        rule(Verb::Helo, true, false, false, Any),
        rule(Verb::Help, false, false, false, Any),
        rule(Verb::Mail, false, true, true, None),
        rule(Verb::Noop, true, false, false, Any),
        rule(Verb::Quit, true, false, false, Any),
        rule(Verb::Rcpt, false, true, true, OpenWithoutBdat),
        rule(Verb::Rset, true, false, false, Any),
        rule(Verb::StartTls, true, false, false, Any),
        rule(Verb::Turn, false, false, false, Any),
        rule(Verb::Vrfy, false, false, false, Any),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_verb_once() {
        for (rule, verb) in RULES.iter().zip(Verb::ALL) {
            assert_eq!(rule.verb, verb);
        }
    }

    /// RFC 3207 section 4 and the port table: what may be said in the clear where TLS is required.
    #[test]
    fn in_the_clear() {
        let now = Situation {
            service: Service::Submission,
            secured: false,
            greeted: true,
            logged_in: false,
            transaction: Transaction::None,
        };
        let legal: Vec<_> = Verb::ALL.into_iter().filter(|verb| check(*verb, &now).is_ok()).collect();
        assert_eq!(legal, [Verb::Ehlo, Verb::Helo, Verb::Noop, Verb::Quit, Verb::Rset, Verb::StartTls]);
    }
}
