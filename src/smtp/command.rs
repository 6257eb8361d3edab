//! Reads one command line into one [`Command`] (RFC 5321 section 4.1.1).
//!
//! Verbs are case-blind. What real programs write is read wherever it can mean one thing only: a space after `FROM:`,
//! several after a verb, an EHLO name with an underscore or a final dot. What is not understood is an error that says
//! what would have been right; nothing is guessed. [`Grammar`] is what differs between servers and mail programs.

mod path;

use path::split_path;

use super::address::{self, AddressError, ForwardPath, ReversePath};
use super::dsn::{self, Notify, Orcpt, Ret};
use super::reply::{Refusal, Refused};

/// Octets in a command line without its CRLF, AUTH excepted. RFC 5321 section 4.5.3.1.4 wants 512 and what each
/// extension adds; the longest legal MAIL line here, with SIZE, BODY, SMTPUTF8, AUTH (500), RET and ENVID (100), is below
/// 1,400, the longest RCPT line, with NOTIFY and ORCPT (500), below 1,000.
pub const COMMAND_MAX: usize = 2048;

/// A command, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// AUTH: a mechanism, and an initial response if there was one (RFC 4954 section 4).
    Auth {
        /// The mechanism's name as it was written.
        mechanism: &'a str,
        /// The initial response in base64; `=` stands for an empty one.
        initial: Option<&'a str>,
    },
    /// BDAT: so many octets follow (RFC 3030 section 2).
    Bdat {
        /// The octets that follow the command line.
        size: u64,
        /// True if the message ends with this chunk.
        last: bool,
    },
    /// DATA.
    Data,
    /// EHLO with the client's name.
    Ehlo(&'a str),
    /// HELO with the client's name.
    Helo(&'a str),
    /// HELP.
    Help,
    /// MAIL FROM.
    Mail(Mail),
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// RCPT TO.
    Rcpt {
        /// What it said.
        recipient: Recipient,
        /// True if the path or ORCPT is written with UTF-8, which only SMTPUTF8 allows.
        utf8: bool,
    },
    /// RSET.
    Rset,
    /// STARTTLS.
    StartTls,
    /// EXPN, ETRN, TURN: known, and not offered.
    Unoffered,
    /// VRFY.
    Vrfy,
}

/// What MAIL said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The sender.
    pub reverse_path: ReversePath,
    /// SIZE=, in octets (RFC 1870).
    pub size: Option<u64>,
    /// BODY= (RFC 6152).
    pub body: Option<Body>,
    /// SMTPUTF8 (RFC 6531).
    pub utf8: bool,
    /// RET= (RFC 3461 section 4.3).
    pub ret: Option<Ret>,
    /// ENVID=, decoded: printable ASCII (RFC 3461 section 4.4).
    pub envid: Option<String>,
}

/// BODY: what octets the content has (RFC 6152 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// 8BITMIME.
    EightBitMime,
    /// 7BIT.
    SevenBit,
}

/// What RCPT said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The recipient.
    pub path: ForwardPath,
    /// NOTIFY= (RFC 3461 section 4.1).
    pub notify: Option<Notify>,
    /// ORCPT= (RFC 3461 section 4.2).
    pub orcpt: Option<Orcpt>,
}

/// What a port understands of a command's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// What is read beyond RFC 5321.
    pub grammar: Grammar,
    /// True where DSN is offered: RET, ENVID, NOTIFY and ORCPT are parameters (RFC 3461 section 4).
    pub dsn: bool,
}

/// The verbs that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// AUTH, RFC 4954.
    Auth,
    /// BDAT, RFC 3030.
    Bdat,
    /// DATA.
    Data,
    /// EHLO.
    Ehlo,
    /// ETRN, RFC 1985.
    Etrn,
    /// EXPN.
    Expn,
    /// HELO.
    Helo,
    /// HELP.
    Help,
    /// MAIL.
    Mail,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// RCPT.
    Rcpt,
    /// RSET.
    Rset,
    /// STARTTLS, RFC 3207.
    StartTls,
    /// TURN, RFC 821.
    Turn,
    /// VRFY.
    Vrfy,
}

/// What is read beyond RFC 5321. Each side is spared what its own clients write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// From mail programs: AUTH= of MAIL. An EHLO name is one printable word.
    Submission,
    /// From other servers, where a refusal loses mail: paths without brackets (RFC 821 demands them as well) or with spaces inside
    /// them, a sender with dots where none belong, and an EHLO name of several words. No AUTH=, since AUTH is not offered.
    Transfer,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// A parameter's value is wrong, or the parameter is there twice; its name.
    BadValue(String),
    /// The EHLO or HELO name is missing or no name.
    Hello,
    /// The recipient's address.
    Recipient(AddressError),
    /// The sender's address.
    Sender(AddressError),
    /// The arguments; how they should have looked.
    Syntax(&'static str),
    /// A parameter that is not known or not offered; its name.
    UnknownParameter(String),
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 16] = [
        Self::Auth,
        Self::Bdat,
        Self::Data,
        Self::Ehlo,
        Self::Etrn,
        Self::Expn,
        Self::Helo,
        Self::Help,
        Self::Mail,
        Self::Noop,
        Self::Quit,
        Self::Rcpt,
        Self::Rset,
        Self::StartTls,
        Self::Turn,
        Self::Vrfy,
    ];

    /// The verb as it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "AUTH",
            Self::Bdat => "BDAT",
            Self::Data => "DATA",
            Self::Ehlo => "EHLO",
            Self::Etrn => "ETRN",
            Self::Expn => "EXPN",
            Self::Helo => "HELO",
            Self::Help => "HELP",
            Self::Mail => "MAIL",
            Self::Noop => "NOOP",
            Self::Quit => "QUIT",
            Self::Rcpt => "RCPT",
            Self::Rset => "RSET",
            Self::StartTls => "STARTTLS",
            Self::Turn => "TURN",
            Self::Vrfy => "VRFY",
        }
    }

    /// The verb that a line begins with.
    pub fn of(line: &[u8]) -> Option<Self> {
        let end = line.iter().position(|b| *b == b' ').unwrap_or(line.len());
        Self::ALL.into_iter().find(|verb| verb.name().as_bytes().eq_ignore_ascii_case(&line[..end]))
    }

    /// True if nothing may be sent after this command before its reply has come: the reply changes what the following
    /// octets mean (RFC 2920 section 3.1, RFC 3207 section 4.2, RFC 4954 section 4).
    pub fn ends_a_batch(self) -> bool {
        matches!(self, Self::Auth | Self::Data | Self::Ehlo | Self::Helo | Self::StartTls)
    }
}

impl Body {
    /// Reads `7BIT` or `8BITMIME`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            _ if text.eq_ignore_ascii_case("7BIT") => Some(Self::SevenBit),
            _ if text.eq_ignore_ascii_case("8BITMIME") => Some(Self::EightBitMime),
            _ => None,
        }
    }
}

impl core::fmt::Display for Body {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::EightBitMime => "8BITMIME",
            Self::SevenBit => "7BIT",
        })
    }
}

impl Recipient {
    /// A recipient without parameters.
    pub fn plain(path: ForwardPath) -> Self {
        Self { path, notify: None, orcpt: None }
    }
}

impl From<CommandError> for Refused {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::BadValue(name) => Self::about(Refusal::BadValue, name),
            CommandError::Hello => Refusal::Hello.into(),
            CommandError::Recipient(AddressError::Syntax) => Refusal::BadRecipient.into(),
            CommandError::Sender(AddressError::Syntax) => Refusal::BadSender.into(),
            CommandError::Recipient(AddressError::Utf8) | CommandError::Sender(AddressError::Utf8) => Refusal::Utf8.into(),
            CommandError::Syntax(usage) => Self::about(Refusal::Syntax, usage),
            CommandError::UnknownParameter(name) => Self::about(Refusal::UnknownParameter, name),
        }
    }
}

/// Reads the arguments of `verb` from a line that begins with it; no CRLF in it.
pub fn parse(verb: Verb, line: &str, dialect: Dialect) -> Result<Command<'_>, CommandError> {
    let grammar = dialect.grammar;
    // RFC 5321 section 4.1.1: trailing white space is tolerated.
    let line = line.trim_end_matches([' ', '\t']);
    let rest = line.get(verb.name().len()..).unwrap_or("");
    let args = rest.trim_start_matches(' ');
    match verb {
        Verb::Auth => parse_auth(args),
        Verb::Bdat => parse_bdat(args),
        Verb::Data => alone(args, Command::Data, "DATA"),
        Verb::Ehlo => hello(args, grammar).map(Command::Ehlo),
        Verb::Helo => hello(args, grammar).map(Command::Helo),
        Verb::Help => Ok(Command::Help),
        Verb::Mail => parse_mail(args, dialect),
        Verb::Noop => Ok(Command::Noop),
        Verb::Quit => alone(args, Command::Quit, "QUIT"),
        Verb::Rcpt => parse_rcpt(args, dialect),
        Verb::Rset => alone(args, Command::Rset, "RSET"),
        Verb::StartTls => alone(args, Command::StartTls, "STARTTLS"),
        Verb::Etrn | Verb::Expn | Verb::Turn => Ok(Command::Unoffered),
        Verb::Vrfy if args.is_empty() => Err(CommandError::Syntax("VRFY string")),
        Verb::Vrfy => Ok(Command::Vrfy),
    }
}

fn alone<'a>(args: &str, command: Command<'a>, usage: &'static str) -> Result<Command<'a>, CommandError> {
    if args.is_empty() { Ok(command) } else { Err(CommandError::Syntax(usage)) }
}

fn hello(args: &str, grammar: Grammar) -> Result<&str, CommandError> {
    let printable = |b: u8| b.is_ascii_graphic() || (b == b' ' && grammar == Grammar::Transfer);
    let fits = !args.is_empty() && args.len() <= address::DOMAIN_MAX && args.bytes().all(printable);
    if fits { Ok(args) } else { Err(CommandError::Hello) }
}

fn parse_auth(args: &str) -> Result<Command<'_>, CommandError> {
    const USAGE: &str = "AUTH mechanism [initial-response]";
    let (mechanism, initial) = match args.split_once(' ') {
        Some((mechanism, rest)) => (mechanism, Some(rest.trim_start_matches(' '))),
        None => (args, None),
    };
    // A mechanism's name: RFC 4422 section 3.1.
    let named =
        (1..=20).contains(&mechanism.len()) && mechanism.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !named || initial.is_some_and(|text| text.contains(' ')) {
        return Err(CommandError::Syntax(USAGE));
    }
    Ok(Command::Auth { mechanism, initial })
}

fn parse_bdat(args: &str) -> Result<Command<'_>, CommandError> {
    const USAGE: &str = "BDAT size [LAST]";
    let (size, last) = match args.split_once(' ') {
        Some((size, word)) if word.trim_start_matches(' ').eq_ignore_ascii_case("LAST") => (size, true),
        Some(_) => return Err(CommandError::Syntax(USAGE)),
        None => (args, false),
    };
    let size = decimal(size).ok_or(CommandError::Syntax(USAGE))?;
    Ok(Command::Bdat { size, last })
}

fn parse_mail(args: &str, dialect: Dialect) -> Result<Command<'_>, CommandError> {
    let Dialect { grammar, dsn } = dialect;
    let (path, parameters) =
        split_path(args, "FROM:", grammar).ok_or(CommandError::Syntax("MAIL FROM:<address> [parameters]"))?;
    let mut mail = Mail { reverse_path: ReversePath::Null, size: None, body: None, utf8: false, ret: None, envid: None };
    let mut seen: Vec<String> = Vec::new();
    for (name, value) in parameters {
        let upper = name.to_ascii_uppercase();
        let bad = || CommandError::BadValue(upper.clone());
        if seen.contains(&upper) {
            return Err(bad());
        }
        match (upper.as_str(), value) {
            ("SIZE", Some(value)) => mail.size = Some(decimal(value).ok_or_else(bad)?),
            ("BODY", Some(value)) => mail.body = Some(Body::parse(value).ok_or_else(bad)?),
            ("SMTPUTF8", None) => mail.utf8 = true,
            // RFC 4954 section 5: understood where AUTH is offered, and ignored, as no client is trusted to name another.
            ("AUTH", Some(value)) if grammar == Grammar::Submission => check_xtext(value).ok_or_else(bad)?,
            ("SIZE" | "BODY" | "SMTPUTF8", _) => return Err(bad()),
            ("AUTH", None) if grammar == Grammar::Submission => return Err(bad()),
            ("RET", Some(value)) if dsn => mail.ret = Some(Ret::parse(value).ok_or_else(bad)?),
            ("ENVID", Some(value)) if dsn => mail.envid = Some(dsn::parse_envid(value).ok_or_else(bad)?),
            ("RET" | "ENVID", None) if dsn => return Err(bad()),
            _ => return Err(CommandError::UnknownParameter(printable(name))),
        }
        seen.push(upper);
    }
    let path = match grammar {
        Grammar::Submission => ReversePath::parse(&path, mail.utf8),
        Grammar::Transfer => ReversePath::parse_with_any_dots(&path, mail.utf8),
    };
    mail.reverse_path = path.map_err(CommandError::Sender)?;
    Ok(Command::Mail(mail))
}

fn parse_rcpt(args: &str, dialect: Dialect) -> Result<Command<'_>, CommandError> {
    let (path, parameters) = split_path(args, "TO:", dialect.grammar).ok_or(CommandError::Syntax("RCPT TO:<address>"))?;
    let (mut notify, mut orcpt, mut utf8) = (None, None, false);
    for (name, value) in parameters {
        let upper = name.to_ascii_uppercase();
        let bad = || CommandError::BadValue(upper.clone());
        match upper.as_str() {
            "NOTIFY" if dialect.dsn && notify.is_none() => notify = Some(value.and_then(Notify::parse).ok_or_else(bad)?),
            "ORCPT" if dialect.dsn && orcpt.is_none() => {
                orcpt = Some(value.and_then(Orcpt::parse).ok_or_else(bad)?);
                utf8 |= value.is_some_and(|text| !text.is_ascii());
            }
            "NOTIFY" | "ORCPT" if dialect.dsn => return Err(bad()),
            _ => return Err(CommandError::UnknownParameter(printable(name))),
        }
    }
    // Whether UTF-8 is welcome only the transaction knows; the session asks again with its answer.
    let path = ForwardPath::parse(&path, true).map_err(CommandError::Recipient)?;
    utf8 |= !path.to_string().is_ascii();
    Ok(Command::Rcpt { recipient: Recipient { path, notify, orcpt }, utf8 })
}

/// At most 20 digits (RFC 1870 section 6.1.2; RFC 3030 has no limit, and no message is that large).
fn decimal(text: &str) -> Option<u64> {
    let digits = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if digits { Some(text.parse().unwrap_or(u64::MAX)) } else { None }
}

/// xtext of RFC 3461 section 4; `<>` stands for no address (RFC 4954 section 5).
fn check_xtext(value: &str) -> Option<()> {
    if value == "<>" {
        return Some(());
    }
    let mut bytes = value.bytes();
    while let Some(b) = bytes.next() {
        let fits = match b {
            b'+' => (0..2).all(|_| matches!(bytes.next(), Some(b'0'..=b'9' | b'A'..=b'F'))),
            b'=' => false,
            b => b.is_ascii_graphic(),
        };
        if !fits {
            return None;
        }
    }
    (!value.is_empty()).then_some(())
}

/// A parameter's name as a reply may repeat it.
fn printable(name: &str) -> String {
    name.chars().take(32).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, grammar: Grammar) -> Result<Command<'_>, CommandError> {
        parse(Verb::of(line.as_bytes()).expect("a known verb"), line, Dialect { grammar, dsn: false })
    }

    fn rcpt(path: &str) -> Command<'static> {
        let recipient = Recipient::plain(ForwardPath::parse(path, true).unwrap());
        Command::Rcpt { recipient, utf8: !path.is_ascii() }
    }

    fn mail(path: &str, size: Option<u64>, utf8: bool) -> Command<'static> {
        let reverse_path = ReversePath::parse(path, utf8).unwrap();
        Command::Mail(Mail { reverse_path, size, body: None, utf8, ret: None, envid: None })
    }

    #[test]
    fn verbs_are_case_blind_and_whole_words() {
        assert_eq!(Verb::of(b"ehlo x"), Some(Verb::Ehlo));
        assert_eq!(Verb::of(b"QuIt"), Some(Verb::Quit));
        for line in ["", " ", "EHLOX", "EHL", "MAIL\tFROM:<>", "QUIT\0", "\u{e9}HLO"] {
            assert_eq!(Verb::of(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn lines_that_both_grammars_read() {
        let rows = [
            ("EHLO client.example", Command::Ehlo("client.example")),
            ("EHLO [127.0.0.1]", Command::Ehlo("[127.0.0.1]")),
            ("EHLO my_pc", Command::Ehlo("my_pc")),
            ("HELO _", Command::Helo("_")),
            ("EHLO 192.0.2.1", Command::Ehlo("192.0.2.1")),
            ("EHLO 2001:db8::1", Command::Ehlo("2001:db8::1")),
            ("EHLO [x:(]", Command::Ehlo("[x:(]")),
            ("EHLO a;b", Command::Ehlo("a;b")),
            ("EHLO msg.eml:1", Command::Ehlo("msg.eml:1")),
            ("EHLO  mail.b.example.", Command::Ehlo("mail.b.example.")),
            ("MAIL FROM: <a@b.example>", mail("<a@b.example>", None, false)),
            ("MAIL  FROM:<a@b.example>", mail("<a@b.example>", None, false)),
            ("RCPT TO:  <a@b.example>", rcpt("<a@b.example>")),
            ("HELO localhost  ", Command::Helo("localhost")),
            ("MAIL FROM:<a@b.example>", mail("<a@b.example>", None, false)),
            ("mail from:<a@b.example> size=12", mail("<a@b.example>", Some(12), false)),
            ("MAIL FROM:<> SIZE=99999999999999999999", mail("<>", Some(u64::MAX), false)),
            ("MAIL FROM:<ö@b.example> SMTPUTF8", mail("<ö@b.example>", None, true)),
            ("MAIL FROM:<\"a> SIZE=1\"@b.example>", mail("<\"a> SIZE=1\"@b.example>", None, false)),
            ("RCPT TO:<a@b.example>", rcpt("<a@b.example>")),
            ("RCPT TO:<Postmaster>", rcpt("<Postmaster>")),
            ("BDAT 0 LAST", Command::Bdat { size: 0, last: true }),
            ("bdat 86 last", Command::Bdat { size: 86, last: true }),
            ("BDAT 10", Command::Bdat { size: 10, last: false }),
            ("AUTH PLAIN", Command::Auth { mechanism: "PLAIN", initial: None }),
            ("AUTH LOGIN =", Command::Auth { mechanism: "LOGIN", initial: Some("=") }),
            ("AUTH PLAIN  AGEAYg==", Command::Auth { mechanism: "PLAIN", initial: Some("AGEAYg==") }),
            ("NOOP anything at all", Command::Noop),
            ("HELP MAIL", Command::Help),
            ("VRFY someone", Command::Vrfy),
            ("EXPN list", Command::Unoffered),
            ("TURN", Command::Unoffered),
            ("DATA ", Command::Data),
        ];
        for (line, want) in rows {
            for grammar in [Grammar::Transfer, Grammar::Submission] {
                assert_eq!(read(line, grammar).as_ref(), Ok(&want), "{line} {grammar:?}");
            }
        }
    }

    #[test]
    fn what_is_read_from_mail_programs_alone() {
        let rows = [
            ("MAIL FROM:<a@b.example> AUTH=<>", mail("<a@b.example>", None, false)),
            ("MAIL FROM:<a@b.example> AUTH=e+3Dmc2@b.example", mail("<a@b.example>", None, false)),
        ];
        for (line, want) in rows {
            assert_eq!(read(line, Grammar::Submission).as_ref(), Ok(&want), "{line}");
            assert!(read(line, Grammar::Transfer).is_err(), "{line}");
        }
    }

    /// What Postfix reads by default; a refusal would lose mail.
    #[test]
    fn what_is_read_from_other_servers_alone() {
        let rows = [
            ("EHLO two words", Command::Ehlo("two words")),
            ("HELO  two  words ", Command::Helo("two  words")),
            ("MAIL FROM:a@b.example", mail("<a@b.example>", None, false)),
            ("mail from: a@b.example  size=12", mail("<a@b.example>", Some(12), false)),
            ("MAIL FROM:a@[192.0.2.1]", mail("<a@[192.0.2.1]>", None, false)),
            ("MAIL FROM:a@b.example.", mail("<a@b.example>", None, false)),
            ("MAIL FROM:@x.example,@y.example:a@b.example", mail("<a@b.example>", None, false)),
            ("MAIL FROM:ö@b.example SMTPUTF8", mail("<ö@b.example>", None, true)),
            // A parameter's name is the local part of an address like any other word.
            ("MAIL FROM:SIZE=1@b.example SIZE=12", mail("<SIZE=1@b.example>", Some(12), false)),
            ("MAIL FROM:\"a SIZE=1\"@b.example SIZE=12", mail("<\"a SIZE=1\"@b.example>", Some(12), false)),
            ("MAIL FROM:\"a\\\" b\"@b.example", mail("<\"a\\\" b\"@b.example>", None, false)),
            ("MAIL FROM:< a@b.example >", mail("<a@b.example>", None, false)),
            ("MAIL FROM: <a@b.example > SIZE=12", mail("<a@b.example>", Some(12), false)),
            ("MAIL FROM:< >", mail("<>", None, false)),
            ("MAIL FROM:<a..b@c.example>", mail("<\"a..b\"@c.example>", None, false)),
            ("MAIL FROM:.a.@c.example", mail("<\".a.\"@c.example>", None, false)),
            ("RCPT TO:a@b.example", rcpt("<a@b.example>")),
            ("RCPT TO: < a@b.example>", rcpt("<a@b.example>")),
            ("RCPT TO:postmaster", rcpt("<Postmaster>")),
        ];
        for (line, want) in rows {
            assert_eq!(read(line, Grammar::Transfer).as_ref(), Ok(&want), "{line}");
            assert!(read(line, Grammar::Submission).is_err(), "{line}");
        }
    }

    /// Nothing is guessed: these are no addresses, though some servers find one in them.
    #[test]
    fn what_other_servers_may_not_write_either() {
        let sender = [
            "a@b.example>",
            "<a@b.example",
            "<<a@b.example>>",
            "<>a@b.example",
            "a@b.example<>",
            "Name<a@b.example>",
            "<a @b.example>",
            "<a@b. example>",
            "<a@b@c.example>",
            "a@b.example,c@d.example",
            "a@b.example;c@d.example",
            "\"a b@c.example",
            "\"a\"b@c.example",
            "\ta@b.example",
            "root",
            "SIZE=12",
            "<.@>",
            "<@b.example>",
            "mailto:a@b.example",
        ];
        for path in sender {
            let line = format!("MAIL FROM:{path}");
            assert_eq!(read(&line, Grammar::Transfer), Err(CommandError::Sender(AddressError::Syntax)), "{path}");
        }
        let after = |word: &str| Err(CommandError::UnknownParameter(word.into()));
        assert_eq!(read("MAIL FROM:a@b.example <c@d.example>", Grammar::Transfer), after("<c@d.example>"));
        assert_eq!(read("MAIL FROM:\"a\" <a@b.example>", Grammar::Transfer), after("<a@b.example>"));
        assert_eq!(read("MAIL FROM:a b@c.example", Grammar::Transfer), after("b@c.example"));
        assert_eq!(read("RCPT TO:a@b.example c@d.example", Grammar::Transfer), after("c@d.example"));
        for path in ["", "<>", "< >", "alice", "a..b@c.example", "<a..b@c.example>", "a@b.example,c@d.example"] {
            let line = format!("RCPT TO:{path}");
            let recipient = Err(CommandError::Recipient(AddressError::Syntax));
            assert_eq!(read(&line, Grammar::Transfer), recipient, "{path}");
        }
    }

    #[test]
    fn what_neither_reads() {
        use CommandError::*;
        let rows = [
            ("EHLO", Hello),
            ("HELO \u{e9}", Hello),
            ("HELO a\tb", Hello),
            ("MAIL", Syntax("MAIL FROM:<address> [parameters]")),
            ("MAIL TO:<a@b.example>", Syntax("MAIL FROM:<address> [parameters]")),
            ("MAIL FROM", Syntax("MAIL FROM:<address> [parameters]")),
            ("MAIL FROM:", Sender(AddressError::Syntax)),
            ("MAIL FROM: ", Sender(AddressError::Syntax)),
            ("MAIL FROM :<a@b.example>", Syntax("MAIL FROM:<address> [parameters]")),
            ("MAIL a@b.example", Syntax("MAIL FROM:<address> [parameters]")),
            ("MAIL FROM:<a@b.example>SIZE=1", Sender(AddressError::Syntax)),
            ("MAIL FROM:<ö@b.example>", Sender(AddressError::Utf8)),
            ("MAIL FROM:<a@b.example> SIZE=", BadValue("SIZE".into())),
            ("MAIL FROM:<a@b.example> SIZE=-1", BadValue("SIZE".into())),
            ("MAIL FROM:<a@b.example> SIZE", BadValue("SIZE".into())),
            ("MAIL FROM:<a@b.example> SIZE=1 SIZE=2", BadValue("SIZE".into())),
            ("MAIL FROM:<a@b.example> SIZE=111111111111111111111", BadValue("SIZE".into())),
            ("MAIL FROM:<a@b.example> BODY=BINARYMIME", BadValue("BODY".into())),
            ("MAIL FROM:<a@b.example> SMTPUTF8=1", BadValue("SMTPUTF8".into())),
            ("MAIL FROM:<a@b.example> RET=FULL", UnknownParameter("RET".into())),
            ("MAIL FROM:<a@b.example> x", UnknownParameter("x".into())),
            ("RCPT TO:<>", Recipient(AddressError::Syntax)),
            ("RCPT TO:<a@b.example> NOTIFY=NEVER", UnknownParameter("NOTIFY".into())),
            ("BDAT", Syntax("BDAT size [LAST]")),
            ("BDAT -1", Syntax("BDAT size [LAST]")),
            ("BDAT 1 FIRST", Syntax("BDAT size [LAST]")),
            ("AUTH", Syntax("AUTH mechanism [initial-response]")),
            ("AUTH PLAIN a b", Syntax("AUTH mechanism [initial-response]")),
            ("DATA now", Syntax("DATA")),
            ("STARTTLS now", Syntax("STARTTLS")),
            ("VRFY", Syntax("VRFY string")),
        ];
        for (line, want) in rows {
            for grammar in [Grammar::Transfer, Grammar::Submission] {
                assert_eq!(read(line, grammar), Err(want.clone()), "{line} {grammar:?}");
            }
        }
        assert_eq!(read("MAIL FROM:<a@b.example> AUTH=a+3", Grammar::Submission), Err(BadValue("AUTH".into())));
        assert_eq!(read("MAIL FROM:<a@b.example> AUTH=<>", Grammar::Transfer), Err(UnknownParameter("AUTH".into())));
    }

    #[test]
    fn body_is_kept() {
        for (text, want) in [("BODY=7BIT", Body::SevenBit), ("body=8bitmime", Body::EightBitMime)] {
            let line = format!("MAIL FROM:<> {text}");
            let Ok(Command::Mail(mail)) = read(&line, Grammar::Transfer) else { panic!("{line}") };
            assert_eq!(mail.body, Some(want));
            assert_eq!(Body::parse(&want.to_string()), Some(want));
        }
    }

    /// RFC 3461 section 4: where DSN is offered, for both grammars.
    #[test]
    fn notifications_where_they_are_offered() {
        let both = [Grammar::Transfer, Grammar::Submission].map(|grammar| Dialect { grammar, dsn: true });
        let of = |line: &'static str, dialect| parse(Verb::of(line.as_bytes()).unwrap(), line, dialect);
        for dialect in both {
            let line = "MAIL FROM:<a@b.example> RET=hdrs ENVID=QQ+2B314159 SIZE=1";
            let Ok(Command::Mail(mail)) = of(line, dialect) else { panic!("{line}") };
            assert_eq!((mail.ret, mail.envid.as_deref()), (Some(Ret::Headers), Some("QQ+314159")));
            let line = "RCPT TO:<c@d.example> orcpt=rfc822;C+2Bx@d.example notify=delay,FAILURE";
            let Ok(Command::Rcpt { recipient, utf8: false }) = of(line, dialect) else { panic!("{line}") };
            assert_eq!(recipient.notify.unwrap().to_string(), "FAILURE,DELAY");
            assert_eq!(recipient.orcpt.unwrap().address, "C+x@d.example");
            for (line, utf8) in [
                ("RCPT TO:<c@d.example> ORCPT=utf-8;j\\x{F6}rg@d.example", false),
                ("RCPT TO:<c@d.example> ORCPT=utf-8;jörg@d.example", true),
            ] {
                let Ok(Command::Rcpt { recipient, utf8: got }) = of(line, dialect) else { panic!("{line}") };
                assert_eq!((recipient.orcpt.unwrap().address.as_str(), got), ("jörg@d.example", utf8), "{line}");
            }
            for (line, name) in [
                ("MAIL FROM:<> RET", "RET"),
                ("MAIL FROM:<> RET=", "RET"),
                ("MAIL FROM:<> RET=ALL", "RET"),
                ("MAIL FROM:<> RET=FULL RET=FULL", "RET"),
                ("MAIL FROM:<> ENVID", "ENVID"),
                ("MAIL FROM:<> ENVID=", "ENVID"),
                ("MAIL FROM:<> ENVID=a+0Ab", "ENVID"),
                ("MAIL FROM:<> ENVID=a=b", "ENVID"),
                ("MAIL FROM:<> ENVID=a ENVID=b", "ENVID"),
                ("RCPT TO:<a@b.example> NOTIFY", "NOTIFY"),
                ("RCPT TO:<a@b.example> NOTIFY=NEVER,DELAY", "NOTIFY"),
                ("RCPT TO:<a@b.example> NOTIFY=NEVER NOTIFY=NEVER", "NOTIFY"),
                ("RCPT TO:<a@b.example> ORCPT", "ORCPT"),
                ("RCPT TO:<a@b.example> ORCPT=a@b.example", "ORCPT"),
                ("RCPT TO:<a@b.example> ORCPT=rfc822;a@b.example ORCPT=rfc822;a@b.example", "ORCPT"),
                ("RCPT TO:<a@b.example> ORCPT=rfc822;jörg@b.example", "ORCPT"),
            ] {
                assert_eq!(of(line, dialect), Err(CommandError::BadValue(name.into())), "{line}");
            }
        }
    }
}
