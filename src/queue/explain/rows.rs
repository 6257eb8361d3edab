//! The rows: what happened; what the sender can do; what the operator can do.
//!
//! Written for a person who has not asked for a lesson: short sentences, no codes, nobody blamed.

use super::{Explanation, Side};

const fn row(side: Side, what: &'static str, sender: &'static str, operator: &'static str) -> Explanation {
    Explanation { side, what, sender, operator }
}

/// For what the operator may have to put right. Who is told of it, and when, is not the same for every route.
pub const WAIT: &str = "You need not do anything while it is tried again. If that lasts, ask the postmaster of this server.";
/// For what settles by itself while a message waits.
pub const PATIENCE: &str = "You need not do anything as long as the message is tried again.";
/// Instead of the two above, once a message waits no more.
pub const AGAIN: &str = "Send the message again later. If that fails too, ask the postmaster of this server.";
const NOTHING: &str = "Nothing can be done on this server; the sender has to act.";

pub const NO_MAILBOX: Explanation = row(
    Side::Recipient,
    "The server says that there is no such mailbox.",
    "Look for a mistyped letter in the address. If it is right, ask the recipient another way.",
    NOTHING,
);
pub const BAD_ADDRESS: Explanation = row(
    Side::Recipient,
    "The server says that the address or its domain cannot be right.",
    "Look for a mistyped letter in the address, after the @ too.",
    NOTHING,
);
pub const MOVED: Explanation = row(
    Side::Recipient,
    "The server says that the recipient has moved to another address.",
    "Ask the recipient for the new address.",
    NOTHING,
);
pub const MAILBOX_FULL: Explanation = row(
    Side::Recipient,
    "The recipient's mailbox is full.",
    "Tell the recipient another way, or send the message again later.",
    NOTHING,
);
pub const MAILBOX_CLOSED: Explanation = row(
    Side::Recipient,
    "The recipient's mailbox takes no mail at present.",
    "Ask the recipient another way, or send the message again later.",
    NOTHING,
);
pub const NOT_ALLOWED: Explanation = row(
    Side::Recipient,
    "The server does not let this message in to this recipient.",
    "Ask the recipient another way to let your mail in; the postmaster there can say why it was refused.",
    "Read the server's words. If they name a block list, look this host's address up there; if they name your domain, look at its SPF and DKIM records.",
);
pub const LISTED: Explanation = row(
    Side::Us,
    "The server takes no mail from this host or from the sender's domain: it is on a block list, or has a bad reputation.",
    "Ask the postmaster of this server; the message itself need not be changed.",
    "Ask the server's operator, with the server's words: one that knows our login need not look up where it comes from. If they name the sender's domain, most lists have a page that says why it is listed and how it comes off.",
);
pub const NULL_MX: Explanation = row(
    Side::Recipient,
    "The domain of the address says that it takes no mail at all.",
    "Look for a mistyped letter in the address, after the @ too.",
    NOTHING,
);
pub const NO_UTF8: Explanation = row(
    Side::Recipient,
    "The server takes only addresses in plain English letters.",
    "Ask the recipient for an address in plain letters, and send from one.",
    NOTHING,
);
pub const NO_SUCH_HOST: Explanation = row(
    Side::Recipient,
    "The name of the server that the mail should go to does not exist.",
    "Look for a mistyped letter in the address, after the @.",
    "If it is the name of a route, correct its `url`; otherwise the sender has to act.",
);
pub const LOOP: Explanation = row(
    Side::Us,
    "The domain names this server for its mail, and this server does not take it.",
    "Look for a mistyped letter in the address, after the @; if it is right, ask the postmaster of this server.",
    "If its mail belongs here, add the domain to `domains`; if not, its MX record is wrong.",
);
pub const NO_USABLE_ADDRESS: Explanation = row(
    Side::Recipient,
    "No mail server of the domain has an address that mail can be sent to: there is none, or it is a private one or this server's own.",
    "Tell the recipient another way that mail for this domain cannot arrive.",
    "If it is this server, add the domain to `domains`. If it is another of yours, name it in a route. If it has IPv6 alone, list an address of that family as `source` in [outgoing.routes.mx].",
);
pub const SENDER_UNKNOWN: Explanation = row(
    Side::Sender,
    "The server does not accept the sender's address.",
    "Send from an address that exists and gets mail, or ask the postmaster of this server.",
    "Look whether the sender's domain takes mail, and whether the provider knows this address as yours.",
);
pub const SENDER_REFUSED: Explanation = row(
    Side::Sender,
    "The server takes no mail from this sender.",
    "Ask the postmaster of this server: your address or this server may be on a list.",
    "Read the server's words. Look whether the route may send for this domain, and whether this host's address or the domain is on a block list.",
);
pub const TOO_LARGE: Explanation = row(
    Side::Sender,
    "The message is larger than the server takes.",
    "Send it in smaller parts, or put large files elsewhere and send a link.",
    NOTHING,
);
pub const TOO_MANY: Explanation = row(
    Side::Route,
    "The server takes no more recipients at once.",
    WAIT,
    "It goes on with fewer at a time. If it does not, ask the provider for its limit.",
);
pub const CONTENT: Explanation = row(
    Side::Sender,
    "The server refuses the message for what is in it, or for what it takes it for.",
    "Leave out attachments and links that look dangerous, and send it again. If it is refused again, ask the recipient another way.",
    "Read the server's words. A mail of one sentence shows whether it is the content or the sender.",
);
pub const UNPROVED: Explanation = row(
    Side::Us,
    "The server cannot verify that this host may send mail for the sender's domain.",
    "Ask the postmaster of this server; the message itself need not be changed.",
    "Look at the SPF and DKIM records of the sender's domain, and at the name that this host's address has in the DNS.",
);
/// RFC 5321 section 4.2.3 and 4.5.3.1.10: the code has both meanings.
pub const NO_ROOM: Explanation = row(
    Side::Recipient,
    "The server has no room for the message at present, or takes no more recipients at once.",
    PATIENCE,
    "It is tried again by itself, with the recipients that are left.",
);
pub const LATER: Explanation = row(
    Side::Recipient,
    "The server asks to try again later; many do so with senders that they do not know yet.",
    PATIENCE,
    "Nothing: it is tried again by itself.",
);
pub const BUSY: Explanation = row(
    Side::Recipient,
    "The server has no room or no time for the message at present.",
    PATIENCE,
    "Nothing: it is tried again by itself.",
);
pub const LIMIT: Explanation = row(
    Side::Us,
    "The server says that too much mail came from here in a short time.",
    WAIT,
    "Look which login sends so much. Give the route a `rate` that its provider allows.",
);
pub const NOT_PASSED_ON: Explanation = row(
    Side::Recipient,
    "The server could not pass the message on.",
    "Ask the recipient another way; the postmaster there may know more.",
    "Nothing can be done on this server while the route works for others.",
);
pub const NO_REASON: Explanation = row(
    Side::Recipient,
    "The server refuses the message and gives no reason that a program can read.",
    "Read the server's words. If they do not help, ask the recipient another way.",
    "Read the server's words.",
);
pub const TURNED_AWAY: Explanation = row(
    Side::Route,
    "The server takes no mail from this host at present.",
    WAIT,
    "Read the server's words. If they name a block list, look this host's address up there; if it is a provider's, look at your account.",
);
pub const AUTH_REFUSED: Explanation = row(
    Side::Route,
    "The server that takes our mail refuses our login.",
    WAIT,
    "Correct `login` or the password file of the route, then `pillarbox routes try NAME`; or look at your account at the provider.",
);
pub const AUTH_MISSING: Explanation = row(
    Side::Route,
    "The server that takes our mail wants a login, or another way to log in.",
    WAIT,
    "Give the route a `login`. It is sent with PLAIN or LOGIN; if the server offers neither, look at the port in `url`.",
);
pub const CERTIFICATE: Explanation = row(
    Side::Route,
    "The server's certificate is not valid: it has expired, is for another name, or comes from an authority that is not trusted.",
    WAIT,
    "Look at the route's `url`, and at this host's clock. If the server has an authority of its own, give its certificate as `ca`.",
);
pub const NO_TLS: Explanation = row(
    Side::Route,
    "No encrypted connection to the server could be made.",
    WAIT,
    "Look at the route's `url`: smtps is for port 465, submission for 587; and at its `tls_min`.",
);
pub const CLOSED: Explanation = row(
    Side::Route,
    "The server closed the connection, or did not answer in time.",
    WAIT,
    "It is tried again by itself. If it lasts, ask the server's operator.",
);
pub const IN_DOUBT: Explanation = row(
    Side::Route,
    "The connection ended after the message had been sent and before the server answered: the message may have arrived.",
    "Ask the recipient whether the message has arrived before you send it again.",
    "Look for the message in the server's log, if you can; `after_crash` says what becomes of such messages.",
);
pub const UNREACHABLE: Explanation = row(
    Side::Route,
    "No connection to the server could be made.",
    WAIT,
    "Run `pillarbox check`: it tries the routes. Look whether `url` names the right server and port, and whether a firewall lets this host through to it.",
);
pub const RESOLVER_SILENT: Explanation = row(
    Side::Route,
    "The name servers (DNS) do not give the address of the server: no answer, or one that says nothing of it.",
    WAIT,
    "See whether the name servers answer: `resolver` in `[outgoing]`, or those in /etc/resolv.conf. If the route has a `url`, look for a mistyped letter in it.",
);
pub const SENSELESS: Explanation = row(
    Side::Route,
    "What the server said is not SMTP.",
    WAIT,
    "Look at the route's `url`: another service may listen there, or the port wants TLS from the first octet.",
);
pub const PASSWORD_FILE: Explanation = row(
    Side::Us,
    "The password for the server that takes our mail cannot be read.",
    WAIT,
    "Look at the route's `password_file`: one line, readable by the user that the server runs as, mode 0640 or less.",
);
pub const HELD_AFTER_CRASHES: Explanation = row(
    Side::Us,
    "Three attempts in a row to send the message ended with the server's process.",
    "Tell the postmaster of this server.",
    "Please report the defect, with the log. `pillarbox queue release ID` tries once more.",
);
pub const HELD_BY_OPERATOR: Explanation = row(
    Side::Us,
    "The operator of this server holds the message back.",
    "Ask the postmaster of this server.",
    "`pillarbox queue release ID` lets it go.",
);
pub const HELD_IN_DOUBT: Explanation = row(
    Side::Us,
    "The message may have arrived, and waits until the operator has looked.",
    "Ask the recipient whether the message has arrived.",
    "If it has not, `pillarbox queue release ID`; if it has, `pillarbox queue drop ID`.",
);
pub const REFUSED_HERE: Explanation = row(
    Side::Us,
    "This server is configured not to send this mail.",
    "Ask the postmaster of this server.",
    "[outgoing.from] or [outgoing.to] says `refuse`; change it there if that is wrong.",
);
pub const RETURNED: Explanation = row(
    Side::Us,
    "The operator of this server sent the message back without another attempt.",
    "Ask the postmaster of this server.",
    "Nothing is left to do.",
);
pub const INTERNAL: Explanation = row(
    Side::Us,
    "An attempt to send the message ended by a defect of this server.",
    WAIT,
    "Please report the defect, with the log.",
);
pub const SERVER_FULL: Explanation = row(
    Side::Limit,
    "As many connections to the domain's server are open as this server opens there at once; it may serve many domains.",
    "You need not do anything; the message is sent as soon as a connection is free.",
    "Nothing has to be done: it goes out as messages to that server are finished. If it lasts, much mail goes there, or the server is slow; `pillarbox queue` shows which.",
);
pub const SOURCE: Explanation = row(
    Side::Us,
    "This server is to connect from an address that this host does not have.",
    WAIT,
    "Correct `source` of the route, or give this host the address; `ip address` shows which it has.",
);
pub const STOPPED: Explanation = row(
    Side::Us,
    "This server was being stopped when it would have sent the message.",
    PATIENCE,
    "It is sent once the server runs again.",
);
pub const REFUSES_EVERYTHING: Explanation = row(
    Side::Route,
    "The server refuses message after message, so that the fault cannot be in the messages.",
    WAIT,
    "Read the server's words in the log, and look at your account at the provider: it may be blocked, unpaid or over its quota.",
);
pub const UNFIT: Explanation = row(
    Side::Sender,
    "The server does not take messages of this kind or size.",
    "Send it in smaller parts, or to and from addresses in plain English letters.",
    NOTHING,
);

/// What the operator can do where the server was found by MX, for the rows of a route's own server: [outgoing.routes.mx] has
/// fewer keys, and nothing was agreed with that server's operator.
pub const BY_MX: [(Explanation, &str); 10] = [
    (AUTH_MISSING, NO_LOGIN),
    (AUTH_REFUSED, NO_LOGIN),
    (CERTIFICATE, "Look at this host's clock; if it is right, ask the server's operator."),
    (LIMIT, "Look which login sends so much, and lower `connections` in [outgoing.routes.mx]."),
    (
        LISTED,
        "Read the server's words: most lists have a page that says why this host's address is listed and how it comes off. Until then, send by a smarthost.",
    ),
    (NO_SUCH_HOST, NOTHING),
    (NO_TLS, "Ask the server's operator."),
    (RESOLVER_SILENT, "See whether the name servers answer: `resolver` in `[outgoing]`, or those in /etc/resolv.conf."),
    (
        SENSELESS,
        "Ask the server's operator. If it is so with every domain, another program answers on the way: ask your hosting provider.",
    ),
    (
        UNREACHABLE,
        "Run `pillarbox check`: it tries the routes, and port 25. Many hosting providers block outgoing connections to port 25: ask yours to open it, or send by a smarthost.",
    ),
];
const NO_LOGIN: &str = "A server takes mail for its own domains without a login: ask its operator, or send by a smarthost.";
