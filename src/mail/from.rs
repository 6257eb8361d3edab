//! Reads the fields that name the sender of a message: From, Sender, Resent-From and Resent-Sender, on submission.
//!
//! Guarantees that a field which is accepted has one reading: a list of mailboxes, understood to the last octet, in a
//! grammar narrower than RFC 5322's. Comments and folds stand between tokens only, an address is written in one piece,
//! there are no groups and no source routes, and what would end or begin an address is quoted where it is part of a
//! name. Names are otherwise free. Whether an address may stand there is the policy's matter; this module gives the
//! addresses, those that a name consists of included. Anything else is [`Unreadable`].

use std::fmt;

use crate::mail::display_name;
use crate::smtp::address::Address;

/// Who a field names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Author {
    /// These mailboxes; one at least.
    Mailboxes(Vec<Mailbox>),
    /// One bare ASCII word that is no address, as cron writes it (`root (Cron Daemon)`); comments are left out.
    Word(String),
}

/// One member of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// The address.
    pub address: Address,
    /// Addresses that its name, or a comment beside it, consists of: readers may show these in place of the address.
    pub shown: Vec<String>,
}

/// Why a field was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The first octets that do not fit.
    near: String,
    /// What to do about it.
    cure: &'static str,
}

/// What a member of the list has told so far.
#[derive(Debug, Default)]
struct Member {
    /// The words of the name, unquoted, with a space between them.
    phrase: Vec<u8>,
    /// The same without the space before a quoted word or where the line is folded, which some readers leave out.
    glued: Vec<u8>,
    words: usize,
    /// True if a word was quoted.
    quoted: bool,
    /// The square brackets in words that were not quoted.
    brackets: Vec<u8>,
    comments: Vec<Vec<u8>>,
    address: Option<Address>,
}

#[derive(Debug)]
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

/// Reads what stands after the colon, folds included.
pub fn parse(body: &[u8]) -> Result<Author, Unreadable> {
    let text = body.strip_suffix(b"\n").unwrap_or(body);
    check_lines(text)?;
    let mut reader = Reader { text, at: 0 };
    let mut members = vec![reader.member()?];
    while reader.next_is(b',') {
        reader.at += 1;
        members.push(reader.member()?);
    }
    if let ([only], true) = (&members[..], members.iter().all(|member| member.address.is_none())) {
        return only.word().map(Author::Word).ok_or_else(|| unreadable(text, ADDRESS));
    }
    members.into_iter().map(|member| member.finish(text)).collect::<Result<_, _>>().map(Author::Mailboxes)
}

/// `address` with a name that is one word, as a field's value.
pub fn named(word: &str, address: &str) -> String {
    if word.contains('.') { format!("\"{word}\" <{address}>") } else { format!("{word} <{address}>") }
}

/// No control characters, and no folded line without anything on it: some readers end the header there.
fn check_lines(text: &[u8]) -> Result<(), Unreadable> {
    for (number, line) in text.split(|b| *b == b'\n').enumerate() {
        let folded = matches!(line.first(), Some(b' ' | b'\t')) && !line.trim_ascii().is_empty();
        if line.iter().any(|b| b.is_ascii_control() && *b != b'\t') || (number > 0 && !folded) {
            return Err(unreadable(line, CONTROL));
        }
    }
    Ok(())
}

impl Reader<'_> {
    /// Reads one member up to the comma after it, or to the end.
    fn member(&mut self) -> Result<Member, Unreadable> {
        let mut member = Member::default();
        loop {
            let (before, spaced) = (self.at, self.skip_space());
            let folded = self.text[before..self.at].contains(&b'\n');
            let rest = &self.text[self.at..];
            match rest.first() {
                None | Some(b',') => return Ok(member),
                Some(b'(') => {
                    let comment = self.comment()?;
                    member.comments.push(comment);
                }
                // After the address come comments only.
                Some(_) if member.address.is_some() => return Err(unreadable(rest, QUOTE)),
                Some(b'<') => member.address = Some(self.angle()?),
                Some(b'"') => {
                    let (content, len) = quoted(rest)?;
                    if rest.get(len) == Some(&b'@') {
                        member.take_address(self.addr_spec(len)?, rest)?;
                    } else {
                        self.at += len;
                        member.push(&content, spaced, true);
                        member.quoted = true;
                    }
                }
                Some(_) => {
                    let len = atom(rest);
                    if len == 0 {
                        return Err(unreadable(rest, QUOTE));
                    }
                    if rest.get(len) == Some(&b'@') {
                        member.take_address(self.addr_spec(len)?, rest)?;
                    } else {
                        // An encoded word that a special breaks up is decoded by some readers, and not by others.
                        display_name::readings(&rest[..len]).map_err(|why| unreadable(rest, why.cure()))?;
                        self.at += len;
                        member.push(&rest[..len], spaced, folded);
                        member.brackets.extend(rest[..len].iter().filter(|b| matches!(b, b'[' | b']')));
                    }
                }
            }
        }
    }

    /// Reads `<local@domain>`; blanks may stand inside of the brackets.
    fn angle(&mut self) -> Result<Address, Unreadable> {
        self.at += 1;
        self.skip_blanks();
        let rest = &self.text[self.at..];
        let local = if rest.first() == Some(&b'"') { quoted(rest)?.1 } else { atom(rest) };
        if rest.get(local) != Some(&b'@') {
            return Err(unreadable(rest, ADDRESS));
        }
        let address = self.addr_spec(local)?;
        self.skip_blanks();
        if !self.next_is(b'>') {
            return Err(unreadable(&self.text[self.at..], ADDRESS));
        }
        self.at += 1;
        Ok(address)
    }

    /// Reads an address whose local part has so many octets.
    fn addr_spec(&mut self, local: usize) -> Result<Address, Unreadable> {
        let rest = &self.text[self.at..];
        let len = local + 1 + atom(&rest[local + 1..]);
        let address = std::str::from_utf8(&rest[..len]).ok().and_then(|text| Address::parse(text).ok());
        // The final dot that SMTP's commands forgive is shown by readers.
        let address = address.filter(|address| address.local().chars().all(is_plain) && rest[len - 1] != b'.');
        self.at += len;
        address.ok_or_else(|| unreadable(rest, QUOTE))
    }

    /// Reads a comment with those inside of it; gives its text without the outer brackets.
    fn comment(&mut self) -> Result<Vec<u8>, Unreadable> {
        let rest = &self.text[self.at..];
        let (mut depth, mut escaped, mut content) = (0, false, Vec::new());
        for (at, b) in rest.iter().enumerate() {
            match b {
                _ if escaped => escaped = false,
                b'\\' => {
                    escaped = true;
                    continue;
                }
                b'(' => depth += 1,
                b')' if depth == 1 => {
                    self.at += at + 1;
                    content.remove(0);
                    return Ok(content);
                }
                b')' => depth -= 1,
                _ => {}
            }
            content.push(*b);
        }
        Err(unreadable(rest, COMMENT))
    }

    fn next_is(&self, octet: u8) -> bool {
        self.text.get(self.at) == Some(&octet)
    }

    /// Skips blanks and folds; true if there were any.
    fn skip_space(&mut self) -> bool {
        let before = self.at;
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n')) {
            self.at += 1;
        }
        self.at > before
    }

    fn skip_blanks(&mut self) {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }
}

impl Member {
    fn push(&mut self, word: &[u8], spaced: bool, glued: bool) {
        if spaced && self.words > 0 {
            self.phrase.push(b' ');
            self.glued.extend((!glued).then_some(b' '));
        }
        self.phrase.extend_from_slice(word);
        self.glued.extend_from_slice(word);
        self.words += 1;
    }

    /// An address without angle brackets; a name has no place beside it.
    fn take_address(&mut self, address: Address, rest: &[u8]) -> Result<(), Unreadable> {
        if self.words > 0 {
            return Err(unreadable(rest, QUOTE));
        }
        // Some readers leave the blank out, and show another address.
        if address.local().contains(' ') {
            return Err(unreadable(rest, ADDRESS));
        }
        self.address = Some(address);
        Ok(())
    }

    /// The one bare word that this is, if it is one.
    fn word(&self) -> Option<String> {
        let fits = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let is_word = self.words == 1 && !self.quoted && self.phrase.iter().all(fits);
        let word = std::str::from_utf8(&self.phrase).ok().filter(|_| is_word)?;
        // The comments are not stored, but must not be anything that the grammar refuses either.
        let sound = self.comments.iter().all(|comment| display_name::addresses(comment).is_ok());
        sound.then(|| word.to_owned())
    }

    fn finish(self, text: &[u8]) -> Result<Mailbox, Unreadable> {
        let address = self.address.ok_or_else(|| unreadable(text, ADDRESS))?;
        // Some readers end the name at a square bracket, and take what comes before it for the address; others show
        // nothing where it has no partner.
        let misleads = |name: &[u8]| {
            display_name::readings(name).is_ok_and(|all| all.iter().any(|one| one.contains(['@', '"', '\u{ff20}', '\u{fe6b}'])))
        };
        let paired = self.brackets.chunks(2).all(|pair| pair == b"[]");
        if !paired || (!self.brackets.is_empty() && misleads(&self.phrase)) {
            return Err(unreadable(&self.phrase, QUOTE));
        }
        let mut shown = Vec::new();
        for name in self.comments.iter().chain([&self.phrase, &self.glued, &self.comments.join(&b' ')]) {
            shown.extend(display_name::addresses(name).map_err(|why| unreadable(name, why.cure()))?);
        }
        Ok(Mailbox { address, shown })
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at `{}`; {}", self.near, self.cure)
    }
}

/// What a quoted string that `rest` begins with holds, and its octets with the quotes.
fn quoted(rest: &[u8]) -> Result<(Vec<u8>, usize), Unreadable> {
    let (mut escaped, mut content) = (false, Vec::new());
    for (at, b) in rest.iter().enumerate().skip(1) {
        match b {
            _ if escaped => escaped = false,
            b'\\' => {
                escaped = true;
                continue;
            }
            b'"' => return Ok((content, at + 1)),
            _ => {}
        }
        content.push(*b);
    }
    Err(unreadable(rest, UNCLOSED))
}

/// Octets up to white space or a special. Dots and square brackets are specials too, but name no address in a name.
fn atom(rest: &[u8]) -> usize {
    let special =
        |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'(' | b')' | b'<' | b'>' | b'@' | b',' | b';' | b':' | b'\\' | b'"');
    rest.iter().position(special).unwrap_or(rest.len())
}

/// True for what may stand in a quoted local part: all that no reader takes for the end of an address.
fn is_plain(c: char) -> bool {
    !c.is_control() && !matches!(c, '(' | ')' | '<' | '>' | '[' | ']' | '@' | ',' | ';' | ':' | '\\' | '"')
}

fn unreadable(rest: &[u8], cure: &'static str) -> Unreadable {
    let text = String::from_utf8_lossy(rest.trim_ascii());
    Unreadable { near: text.chars().take(NEAR_MAX).collect(), cure }
}

/// Characters that are shown of what does not fit, at most.
const NEAR_MAX: usize = 40;

const ADDRESS: &str = "give one address in angle brackets after each name";
const COMMENT: &str = "close the comment";
const CONTROL: &str = "leave out control characters and empty lines";
const QUOTE: &str = "put the name in quotes";
const UNCLOSED: &str = "close the quotes";
