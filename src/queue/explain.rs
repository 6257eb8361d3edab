//! Why a message was not sent, in plain sentences: the one table that reports and `pillarbox queue explain` read. Pure.
//!
//! From the stage of the dialogue and what was answered, or from what went wrong without an answer, follow: what
//! happened, on whose side the fault is, what the sender can do and what the operator can do. Nothing of a server's own
//! text comes through here; where it is shown, it is a quotation. It is looked at for one thing: whether it names a block
//! list, as servers have no code for that but 5.7.1, which they use for much else. Where nothing is known a sentence says
//! that, and nothing is guessed.

mod rows;

use super::schedule::{HeldWhy, Reason, Trouble};
use super::spool::Told;
use crate::smtp::client::Unfit;
use crate::smtp::remote::{RemoteReply, RemoteStatus, Stage};
use rows::*;

/// Why a message was not sent, or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It waits for a person.
    Held(HeldWhy),
    /// A reply to MAIL or RCPT, whose text says that this host or the sender's domain is on a block list.
    Listed(Stage, Trouble),
    /// `refuse` in `[outgoing.to]` or `[outgoing.from]`.
    Refused,
    /// Its route rests.
    Rests(Reason),
    /// The operator sent it back.
    Returned,
    /// An attempt failed there, and so.
    Trouble(Stage, Trouble),
    /// The next hop does not offer what the message needs.
    Unfit(Unfit),
}

/// On whose side the fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// None: a limit of this server that keeps it from opening too many connections.
    Limit,
    /// The recipient's.
    Recipient,
    /// The route's: the next server and the way to it.
    Route,
    /// The sender's: the address, the message or its content.
    Sender,
    /// This server's.
    Us,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Explanation {
    /// On whose side the fault is.
    pub side: Side,
    /// What happened; a sentence.
    pub what: &'static str,
    /// What the sender can do; a sentence or two.
    pub sender: &'static str,
    /// What the operator can do; a sentence or two.
    pub operator: &'static str,
}

impl Cause {
    /// The cause that a reply is.
    pub fn reply(stage: Stage, reply: &RemoteReply) -> Self {
        Self::answered(stage, Trouble::from(reply), &reply.text)
    }

    fn answered(stage: Stage, trouble: Trouble, text: &str) -> Self {
        // RFC 3463 section 3.2 and 3.3: what is said of an address, or of a full mailbox, says nothing of a list.
        let is_of_mailbox = matches!(trouble, Trouble::Reply { status: Some((_, 1, _) | (_, 2, 2)), .. });
        match stage {
            Stage::Mail | Stage::Recipient if !is_of_mailbox && names_block_list(text) => Self::Listed(stage, trouble),
            _ => Self::Trouble(stage, trouble),
        }
    }

    /// The cause that a record tells; none where its words are not known.
    pub fn told(told: &Told) -> Option<Self> {
        let Told { stage, code, status, text } = told;
        if let Some(code) = *code {
            return Some(Self::answered(*stage, Trouble::Reply { code, status: *status }, text));
        }
        let said = |words: &str| text.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with(": "));
        let trouble = Trouble::WITHOUT_REPLY.into_iter().find(|trouble| said(trouble.words()));
        trouble.map(|trouble| Self::Trouble(*stage, trouble))
    }

    /// The status for a report (RFC 3463): the reply's own or what its code means, of class 5 where `permanent`, else 4.
    pub fn status(&self, permanent: bool) -> RemoteStatus {
        let class = if permanent { 5 } else { 4 };
        let (subject, detail) = match *self {
            Self::Listed(stage, trouble) => return Self::Trouble(stage, trouble).status(permanent),
            Self::Trouble(_, Trouble::Reply { status: Some((own, subject, detail)), .. }) if own == class => (subject, detail),
            // What was a matter of time has run out of it.
            Self::Trouble(_, Trouble::Reply { code, .. }) if permanent && code / 100 == 4 => (4, 7),
            Self::Trouble(stage, trouble) => of_trouble(stage, trouble),
            Self::Unfit(unfit) => (unfit.status().1, unfit.status().2),
            Self::Rests(reason) => of_reason(reason),
            Self::Refused => (7, 1),
            Self::Held(_) | Self::Returned => (3, 0),
        };
        (class, subject, detail)
    }

    /// What happened, on whose side, and what can be done.
    pub fn explain(&self) -> Explanation {
        match *self {
            Self::Held(HeldWhy::MayHaveArrived) => HELD_IN_DOUBT,
            Self::Held(HeldWhy::NoResult) => HELD_AFTER_CRASHES,
            Self::Held(HeldWhy::Operator) => HELD_BY_OPERATOR,
            Self::Listed(..) => LISTED,
            Self::Refused => REFUSED_HERE,
            Self::Rests(reason) => by_reason(reason),
            Self::Returned => RETURNED,
            Self::Trouble(stage, trouble) => by_trouble(stage, trouble),
            Self::Unfit(Unfit::TooLarge(_)) => TOO_LARGE,
            Self::Unfit(Unfit::Utf8) => NO_UTF8,
        }
    }
}

impl Explanation {
    /// What the operator can do where the message goes by this route. Servers that are found by MX have no address, login
    /// or authority to be configured.
    pub fn operator_of(&self, route: &str) -> &'static str {
        let by_mx = BY_MX.iter().find(|(row, _)| route == "mx" && row == self);
        by_mx.map_or(self.operator, |(_, operator)| operator)
    }

    /// What the sender can do once the message is tried no more.
    pub fn sender_when_over(&self) -> &'static str {
        if [WAIT, PATIENCE].contains(&self.sender) { AGAIN } else { self.sender }
    }
}

impl Side {
    /// The sentence that names it.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Limit => "The cause is a limit of this mail server; nobody is at fault, and it counts as no attempt.",
            Self::Recipient => "The cause is on the recipient's side.",
            Self::Route => "The cause is on the way: the server that takes our mail, or the connection to it.",
            Self::Sender => "The cause is on the sender's side: the sender's address or the message itself.",
            Self::Us => "The cause is this mail server.",
        }
    }

    /// The word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Recipient => "recipient",
            Self::Route => "route",
            Self::Sender => "sender",
            Self::Us => "us",
        }
    }
}

/// True if the text of a refusal says that the host or the domain is on a list, or has a bad reputation. Addresses in it are
/// passed over: many servers repeat that of the recipient.
fn names_block_list(text: &str) -> bool {
    const PHRASES: [&str; 8] =
        ["blocked using", "block list", "blocklist", "blacklist", "dnsbl", "spamhaus", "spamcop", "reputation"];
    let words: Vec<&str> = text.split_ascii_whitespace().filter(|word| !word.contains('@')).collect();
    let text = words.join(" ").to_ascii_lowercase();
    PHRASES.iter().any(|phrase| text.contains(phrase)) || text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "rbl")
}

/// Subject and detail for a report (RFC 3463).
fn of_trouble(stage: Stage, trouble: Trouble) -> (u16, u16) {
    match trouble {
        Trouble::Certificate | Trouble::Handshake | Trouble::NotOffered => (7, 5),
        Trouble::Dropped if stage == Stage::Connect => (4, 1),
        Trouble::Source => (4, 1),
        Trouble::Dropped | Trouble::Unanswered => (4, 2),
        Trouble::Internal | Trouble::Stopped => (3, 0),
        Trouble::Loop => (4, 6),
        Trouble::NameUnknown => (1, 2),
        Trouble::NameUnresolved => (4, 3),
        Trouble::NoMail => (1, 10),
        Trouble::NotRoutable => (4, 4),
        Trouble::PasswordFile => (3, 5),
        Trouble::Reply { code, status } => known(status).unwrap_or_else(|| of_code(stage, code)),
        Trouble::ServerFull => (4, 5),
        Trouble::Unfit => (6, 3),
    }
}

fn of_reason(reason: Reason) -> (u16, u16) {
    match reason {
        Reason::Auth | Reason::AuthRefused | Reason::AuthRequired => (7, 8),
        Reason::Certificate | Reason::Tls => (7, 5),
        Reason::Connect | Reason::Source => (4, 1),
        Reason::Dns => (4, 3),
        Reason::PasswordFile => (3, 5),
        Reason::Greeting | Reason::Hello | Reason::RefusesEverything | Reason::Temporary => (3, 2),
        Reason::Protocol => (5, 0),
        Reason::Quota => (4, 5),
    }
}

/// Subject and detail of a status that says more than the code does: X.0.0 and X.5.0 don't.
fn known(status: Option<RemoteStatus>) -> Option<(u16, u16)> {
    status.map(|(_, subject, detail)| (subject, detail)).filter(|status| ![(0, 0), (5, 0)].contains(status))
}

/// Subject and detail that a code without an enhanced status means at a stage (RFC 5321 section 4.2.2 and 4.2.3).
fn of_code(stage: Stage, code: u16) -> (u16, u16) {
    match (stage, code) {
        (Stage::Recipient, 550) => (1, 1),
        (Stage::Recipient, 551) => (1, 6),
        (Stage::Recipient, 553) => (1, 3),
        (Stage::Recipient, 450) => (2, 0),
        (Stage::Mail, 550 | 553) => (7, 1),
        (Stage::Data | Stage::Dot, 550 | 554) => (6, 0),
        (Stage::Recipient, 552) => (2, 2),
        (_, 552) => (3, 4),
        (_, 452) => (3, 1),
        (_, 451) => (3, 0),
        _ => (0, 0),
    }
}

fn by_trouble(stage: Stage, trouble: Trouble) -> Explanation {
    match trouble {
        Trouble::Certificate => CERTIFICATE,
        Trouble::Dropped if stage == Stage::Connect => UNREACHABLE,
        Trouble::Dropped => CLOSED,
        Trouble::Handshake => NO_TLS,
        Trouble::Internal => INTERNAL,
        Trouble::Loop => LOOP,
        Trouble::NameUnknown => NO_SUCH_HOST,
        Trouble::NameUnresolved => RESOLVER_SILENT,
        Trouble::NoMail => NULL_MX,
        Trouble::NotOffered if stage == Stage::Auth => AUTH_MISSING,
        Trouble::NotOffered => NO_TLS,
        Trouble::NotRoutable => NO_USABLE_ADDRESS,
        Trouble::PasswordFile => PASSWORD_FILE,
        Trouble::Reply { code: 530 | 538, .. } => AUTH_MISSING,
        Trouble::Reply { code: 534 | 535, .. } => AUTH_REFUSED,
        Trouble::Reply { .. } if stage == Stage::Auth => AUTH_REFUSED,
        Trouble::Reply { .. } if stage < Stage::Mail => TURNED_AWAY,
        Trouble::Reply { code: 421, .. } => BUSY,
        Trouble::Reply { code, .. } if !matches!(code / 100, 4 | 5) => SENSELESS,
        Trouble::Reply { code: 452, status } if stage == Stage::Recipient && known(status).is_none() => NO_ROOM,
        Trouble::Reply { code, status } => {
            by_status(stage, code / 100 == 4, known(status).unwrap_or_else(|| of_code(stage, code)))
        }
        Trouble::ServerFull => SERVER_FULL,
        Trouble::Source => SOURCE,
        Trouble::Stopped => STOPPED,
        Trouble::Unanswered => IN_DOUBT,
        Trouble::Unfit => UNFIT,
    }
}

fn by_reason(reason: Reason) -> Explanation {
    match reason {
        Reason::AuthRefused => AUTH_REFUSED,
        Reason::AuthRequired => AUTH_MISSING,
        Reason::Certificate => CERTIFICATE,
        Reason::Connect => UNREACHABLE,
        Reason::Dns => RESOLVER_SILENT,
        Reason::Auth | Reason::Greeting | Reason::Hello | Reason::Temporary => TURNED_AWAY,
        Reason::PasswordFile => PASSWORD_FILE,
        Reason::Protocol => SENSELESS,
        Reason::Quota => LIMIT,
        Reason::RefusesEverything => REFUSES_EVERYTHING,
        Reason::Source => SOURCE,
        Reason::Tls => NO_TLS,
    }
}

/// The rows for replies after the login, by subject and detail (RFC 3463, RFC 5248 and its registry).
fn by_status(stage: Stage, transient: bool, status: (u16, u16)) -> Explanation {
    match status {
        (1, 0 | 1 | 4 | 6) if transient => LATER,
        (1, 0 | 1 | 4) => NO_MAILBOX,
        (1, 2 | 3) => BAD_ADDRESS,
        (1, 6) => MOVED,
        (1, 7 | 8) => SENDER_UNKNOWN,
        (1, 10) => NULL_MX,
        (2, 2) => MAILBOX_FULL,
        (2, 3) | (3, 4) => TOO_LARGE,
        (2, _) => MAILBOX_CLOSED,
        (3, 1 | 2 | 5) => BUSY,
        (4, 5) => LIMIT,
        (4, _) => NOT_PASSED_ON,
        (5, 3) => TOO_MANY,
        (6, 7 | 9 | 10) => NO_UTF8,
        (6, _) => CONTENT,
        (7, 20..=27 | 29) => UNPROVED,
        (7, 28) => LIMIT,
        (7, _) if transient => LATER,
        (7, _) if stage == Stage::Recipient => NOT_ALLOWED,
        (7, _) if stage == Stage::Mail => SENDER_REFUSED,
        (7, _) => CONTENT,
        _ if transient => LATER,
        _ => NO_REASON,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies() {
        let rows = [
            (Stage::Recipient, 550, Some((5, 1, 1)), NO_MAILBOX, (5, 1, 1)),
            (Stage::Recipient, 550, None, NO_MAILBOX, (5, 1, 1)),
            (Stage::Recipient, 550, Some((5, 7, 1)), NOT_ALLOWED, (5, 7, 1)),
            (Stage::Recipient, 550, Some((5, 0, 0)), NO_MAILBOX, (5, 0, 0)),
            (Stage::Recipient, 550, Some((5, 1, 10)), NULL_MX, (5, 1, 10)),
            (Stage::Recipient, 552, Some((5, 2, 2)), MAILBOX_FULL, (5, 2, 2)),
            (Stage::Recipient, 552, None, MAILBOX_FULL, (5, 2, 2)),
            (Stage::Recipient, 554, Some((5, 7, 1)), NOT_ALLOWED, (5, 7, 1)),
            (Stage::Recipient, 554, None, NO_REASON, (5, 0, 0)),
            // What was asked to wait has waited too long.
            (Stage::Recipient, 451, Some((4, 7, 1)), LATER, (5, 4, 7)),
            (Stage::Recipient, 450, None, MAILBOX_CLOSED, (5, 4, 7)),
            (Stage::Recipient, 452, Some((4, 2, 2)), MAILBOX_FULL, (5, 4, 7)),
            // A code alone, by RFC 5321 section 4.2.3; 452 also by section 4.5.3.1.10.
            (Stage::Recipient, 421, None, BUSY, (5, 4, 7)),
            (Stage::Recipient, 451, None, LATER, (5, 4, 7)),
            (Stage::Recipient, 452, None, NO_ROOM, (5, 4, 7)),
            (Stage::Recipient, 452, Some((4, 0, 0)), NO_ROOM, (5, 4, 7)),
            (Stage::Recipient, 452, Some((4, 5, 3)), TOO_MANY, (5, 4, 7)),
            (Stage::Recipient, 452, Some((4, 3, 1)), BUSY, (5, 4, 7)),
            (Stage::Recipient, 455, None, LATER, (5, 4, 7)),
            (Stage::Recipient, 499, None, LATER, (5, 4, 7)),
            (Stage::Recipient, 500, None, NO_REASON, (5, 0, 0)),
            (Stage::Recipient, 551, None, MOVED, (5, 1, 6)),
            (Stage::Recipient, 553, None, BAD_ADDRESS, (5, 1, 3)),
            (Stage::Recipient, 599, None, NO_REASON, (5, 0, 0)),
            (Stage::Mail, 452, None, BUSY, (5, 4, 7)),
            (Stage::Mail, 550, Some((5, 7, 1)), SENDER_REFUSED, (5, 7, 1)),
            (Stage::Mail, 553, Some((5, 1, 8)), SENDER_UNKNOWN, (5, 1, 8)),
            (Stage::Mail, 552, None, TOO_LARGE, (5, 3, 4)),
            (Stage::Mail, 550, Some((5, 4, 5)), LIMIT, (5, 4, 5)),
            (Stage::Mail, 530, Some((5, 7, 0)), AUTH_MISSING, (5, 7, 0)),
            (Stage::Dot, 554, Some((5, 7, 1)), CONTENT, (5, 7, 1)),
            (Stage::Dot, 554, None, CONTENT, (5, 6, 0)),
            (Stage::Dot, 550, Some((5, 7, 26)), UNPROVED, (5, 7, 26)),
            (Stage::Dot, 421, Some((4, 7, 28)), BUSY, (5, 4, 7)),
            (Stage::Dot, 550, Some((5, 7, 28)), LIMIT, (5, 7, 28)),
            (Stage::Auth, 535, Some((5, 7, 8)), AUTH_REFUSED, (5, 7, 8)),
            (Stage::Greeting, 554, None, TURNED_AWAY, (5, 0, 0)),
        ];
        for (stage, code, status, want, permanent) in rows {
            let cause = Cause::Trouble(stage, Trouble::Reply { code, status });
            assert_eq!(cause.explain(), want, "{cause:?}");
            assert_eq!(cause.status(true), permanent, "{cause:?}");
        }
        let wait = Cause::Trouble(Stage::Recipient, Trouble::Reply { code: 451, status: Some((4, 7, 1)) });
        assert_eq!(wait.status(false), (4, 7, 1));
        let no_room = Cause::Trouble(Stage::Recipient, Trouble::Reply { code: 452, status: None });
        assert_eq!((no_room.status(false), no_room.explain().side), ((4, 3, 1), Side::Recipient));
    }

    /// What a server says of a recipient, by its code alone, is never put down to the way to it: but for 530, 534, 535 and 538,
    /// which are about the login.
    #[test]
    fn a_code_at_rcpt_blames_no_way() {
        for code in (400..600).filter(|code| ![530, 534, 535, 538].contains(code)) {
            let cause = Cause::Trouble(Stage::Recipient, Trouble::Reply { code, status: None });
            assert!(matches!(cause.explain().side, Side::Recipient | Side::Sender), "{code}: {:?}", cause.explain());
        }
    }

    /// The texts are those of Postfix, Outlook, AT&T and Cloudmark; then such as speak of something else.
    #[test]
    fn block_lists() {
        let listed = [
            "Service unavailable; Client host [192.0.2.10] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/192.0.2.10",
            "Unfortunately, messages from [192.0.2.10] weren't sent. Part of their network is on our block list (S3140).",
            "Blocked by RBL. Visit https://example.net/unblock",
            "192.0.2.10 has a poor reputation",
        ];
        let others = [
            "Relay access denied",
            "You are not allowed to post to this list",
            "Herbl garden closed",
            "<bob@spamhaus.org>: Recipient address rejected: Access denied",
            "",
        ];
        for stage in [Stage::Mail, Stage::Recipient, Stage::Dot] {
            for (text, named) in listed.map(|text| (text, true)).into_iter().chain(others.map(|text| (text, false))) {
                let status = Some((5, 7, 1));
                let cause = Cause::reply(stage, &RemoteReply { code: 554, status, text: text.into() });
                let told = Told { stage, code: Some(554), status, text: text.into() };
                assert_eq!(Cause::told(&told), Some(cause));
                assert_eq!(cause.explain() == LISTED, named && stage != Stage::Dot, "{stage:?} {text}");
                assert_eq!(cause.status(true), (5, 7, 1));
            }
        }
        assert!(LISTED.operator_of("mx").contains("smarthost") && !LISTED.operator_of("provider").contains("smarthost"));
        // What it says of an address or a mailbox stands first; the rest may be the name of a host.
        let text = "No such user here; see https://help.reputation.example/blocklist".to_owned();
        for (status, want) in [((5, 1, 1), NO_MAILBOX), ((4, 2, 2), MAILBOX_FULL), ((5, 2, 1), LISTED)] {
            let code = u16::from(status.0) * 100 + 50;
            let reply = RemoteReply { code, status: Some(status), text: text.clone() };
            assert_eq!(Cause::reply(Stage::Recipient, &reply).explain(), want, "{status:?}");
        }
    }

    #[test]
    fn what_a_record_tells() {
        let told = |code, text: &str| Cause::told(&Told { stage: Stage::Data, code, status: None, text: text.into() });
        let reply = Cause::Trouble(Stage::Data, Trouble::Reply { code: 451, status: None });
        assert_eq!(told(Some(451), "connection lost"), Some(reply));
        for trouble in Trouble::WITHOUT_REPLY {
            assert_eq!(told(None, trouble.words()), Some(Cause::Trouble(Stage::Data, trouble)));
            assert_eq!(told(None, &format!("{}: more", trouble.words())), Some(Cause::Trouble(Stage::Data, trouble)));
            assert_eq!(told(None, &format!("{} more", trouble.words())), None);
        }
        assert_eq!(told(None, ""), None);
    }

    #[test]
    fn troubles_without_a_reply_and_routes_that_rest() {
        let rows = [
            (Cause::Trouble(Stage::Connect, Trouble::Dropped), UNREACHABLE, (4, 4, 1)),
            (Cause::Trouble(Stage::Data, Trouble::Dropped), CLOSED, (4, 4, 2)),
            (Cause::Trouble(Stage::Dot, Trouble::Unanswered), IN_DOUBT, (4, 4, 2)),
            (Cause::Trouble(Stage::Auth, Trouble::NotOffered), AUTH_MISSING, (4, 7, 5)),
            (Cause::Trouble(Stage::StartTls, Trouble::NotOffered), NO_TLS, (4, 7, 5)),
            (Cause::Trouble(Stage::Connect, Trouble::NameUnknown), NO_SUCH_HOST, (4, 1, 2)),
            (Cause::Trouble(Stage::Connect, Trouble::ServerFull), SERVER_FULL, (4, 4, 5)),
            (Cause::Unfit(Unfit::TooLarge(1)), TOO_LARGE, (4, 3, 4)),
            (Cause::Unfit(Unfit::Utf8), NO_UTF8, (4, 6, 7)),
            (Cause::Rests(Reason::AuthRefused), AUTH_REFUSED, (4, 7, 8)),
            (Cause::Rests(Reason::Quota), LIMIT, (4, 4, 5)),
            (Cause::Rests(Reason::Source), SOURCE, (4, 4, 1)),
            (Cause::Held(HeldWhy::MayHaveArrived), HELD_IN_DOUBT, (4, 3, 0)),
            (Cause::Returned, RETURNED, (4, 3, 0)),
        ];
        for (cause, want, status) in rows {
            assert_eq!((cause.explain(), cause.status(false)), (want, status), "{cause:?}");
        }
    }

    /// Every cause there is has sentences, and they are sentences.
    #[test]
    fn every_cause_is_explained_in_sentences() {
        const TROUBLES: [Trouble; 16] = [
            Trouble::Certificate,
            Trouble::Dropped,
            Trouble::Handshake,
            Trouble::Internal,
            Trouble::Loop,
            Trouble::NameUnknown,
            Trouble::NameUnresolved,
            Trouble::NoMail,
            Trouble::NotOffered,
            Trouble::NotRoutable,
            Trouble::PasswordFile,
            Trouble::ServerFull,
            Trouble::Source,
            Trouble::Stopped,
            Trouble::Unanswered,
            Trouble::Unfit,
        ];
        let held = [HeldWhy::MayHaveArrived, HeldWhy::Operator, HeldWhy::NoResult].map(Cause::Held);
        let mut causes: Vec<Cause> = Reason::ALL.into_iter().map(Cause::Rests).chain(held).collect();
        causes.extend([Cause::Refused, Cause::Returned, Cause::Unfit(Unfit::TooLarge(1)), Cause::Unfit(Unfit::Utf8)]);
        causes.push(Cause::Listed(Stage::Mail, Trouble::Reply { code: 554, status: None }));
        for stage in Stage::ALL {
            causes.extend(TROUBLES.map(|trouble| Cause::Trouble(stage, trouble)));
            for code in (400..600).filter(|code| code % 100 < 60) {
                causes.push(Cause::Trouble(stage, Trouble::Reply { code, status: None }));
                for (subject, detail) in (0..9).flat_map(|subject| (0..32).map(move |detail| (subject, detail))) {
                    let status = Some(((code / 100) as u8, subject, detail));
                    causes.push(Cause::Trouble(stage, Trouble::Reply { code, status }));
                }
            }
        }
        for cause in causes {
            let explanation = cause.explain();
            let Explanation { what, sender, operator, .. } = explanation;
            assert_eq!(explanation.operator_of("provider"), operator);
            let by_mx = explanation.operator_of("mx");
            for text in [sender, operator] {
                assert!(!text.contains("smarthost"), "{cause:?} by a smarthost: {text}");
            }
            // There is no login by MX, and so no password.
            if explanation != PASSWORD_FILE {
                for key in ["`url`", "`login`", "`ca`", "`tls_min`", "`rate`", "password"] {
                    assert!(!by_mx.contains(key), "{cause:?} by MX: {by_mx}");
                }
            }
            for text in [what, sender, operator, by_mx] {
                let begins = text.starts_with(|c: char| c.is_ascii_uppercase() || matches!(c, '`' | '['));
                assert!(text.is_ascii() && text.ends_with('.') && begins, "{cause:?}: {text}");
            }
            for permanent in [true, false] {
                assert_eq!(cause.status(permanent).0, if permanent { 5 } else { 4 }, "{cause:?}");
            }
        }
    }
}
