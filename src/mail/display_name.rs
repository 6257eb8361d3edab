//! What readers may show of a display name: the addresses that it consists of.
//!
//! A name may hold anything but what makes it pass for another sender: `<` or `>`, or nothing but addresses. Encoded
//! words (RFC 2047) are decoded first, in every way that readers do: joined and apart. A charset that is not decoded
//! here could hide an `@`, so it is refused; so is an encoded word that is not well formed.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use encoding_rs::Encoding;

/// Why a name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadName {
    /// It holds an angle bracket.
    Angle,
    /// An encoded word is in a charset that is not decoded here.
    Charset,
    /// An encoded word holds a control character or another encoded word.
    Control,
    /// An encoded word is not well formed.
    Encoded,
}

/// A piece of a name.
#[derive(Debug)]
enum Piece<'a> {
    Encoded(&'static Encoding, Vec<u8>),
    Plain(&'a [u8]),
}

impl BadName {
    /// What to do about it.
    pub fn cure(self) -> &'static str {
        match self {
            Self::Angle => "leave < and > out of the name",
            Self::Charset => "encode the name in UTF-8",
            Self::Control => "leave control characters out of the name",
            Self::Encoded => "encode the name as RFC 2047 has it",
        }
    }
}

/// The addresses that a name consists of, if it consists of nothing else; `name` is without quotes, not decoded.
pub fn addresses(name: &[u8]) -> Result<Vec<String>, BadName> {
    let mut found = Vec::new();
    for reading in readings(name)? {
        if reading.contains(['<', '>']) {
            return Err(BadName::Angle);
        }
        found.extend(only_addresses(&reading));
    }
    Ok(found)
}

/// Every text that readers make of a name: not decoded, decoded word by word, and with adjacent words joined before.
pub fn readings(name: &[u8]) -> Result<Vec<String>, BadName> {
    let pieces = pieces(name)?;
    let mut all = vec![String::from_utf8_lossy(name).into_owned()];
    if pieces.iter().any(|piece| matches!(piece, Piece::Encoded(..))) {
        for joined in [false, true] {
            let text = decode(&pieces, joined);
            if text.chars().any(|c| c.is_control() && c != '\t') || text.contains("=?") {
                return Err(BadName::Control);
            }
            all.push(text);
        }
    }
    Ok(all)
}

/// Takes a name apart. White space between two encoded words is not shown (RFC 2047 section 6.2).
fn pieces(name: &[u8]) -> Result<Vec<Piece<'_>>, BadName> {
    let mut pieces = Vec::new();
    let mut rest = name;
    while let Some(start) = memchr::memmem::find(rest, b"=?") {
        let (before, word) = rest.split_at(start);
        let blank = before.trim_ascii().is_empty() && !pieces.is_empty();
        if !before.is_empty() && !blank {
            pieces.push(Piece::Plain(before));
        }
        let (piece, len) = encoded_word(word)?;
        pieces.push(piece);
        rest = &word[len..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Plain(rest));
    }
    Ok(pieces)
}

/// Reads the encoded word that `word` begins with; gives its octets too.
fn encoded_word(word: &[u8]) -> Result<(Piece<'static>, usize), BadName> {
    let mut parts = word[2..].splitn(4, |b| *b == b'?');
    let (Some(charset), Some(encoding), Some(text), Some([b'=', ..])) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BadName::Encoded);
    };
    if !text.iter().all(u8::is_ascii_graphic) {
        return Err(BadName::Encoded);
    }
    let octets = match encoding {
        b"q" | b"Q" => quoted_printable(text),
        b"b" | b"B" => BASE64.decode(text).ok(),
        _ => None,
    };
    let len = 2 + charset.len() + 1 + encoding.len() + 1 + text.len() + 2;
    Ok((Piece::Encoded(charset_of(charset)?, octets.ok_or(BadName::Encoded)?), len))
}

/// Those that readers agree on; a language may follow (RFC 2231 section 5).
fn charset_of(name: &[u8]) -> Result<&'static Encoding, BadName> {
    let name = name.split(|b| *b == b'*').next().unwrap_or(name);
    let encoding = Encoding::for_label_no_replacement(name).ok_or(BadName::Charset)?;
    let known = encoding.name().to_ascii_lowercase();
    let begins = ["utf-8", "iso-8859-", "windows-125", "koi8-", "gb", "big5", "euc-", "shift_jis", "iso-2022-jp", "windows-874"];
    if begins.iter().any(|begin| known.starts_with(begin)) { Ok(encoding) } else { Err(BadName::Charset) }
}

/// The Q encoding (RFC 2047 section 4.2).
fn quoted_printable(text: &[u8]) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        octets.push(match first {
            b'_' => b' ',
            b'=' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok().filter(|text| !text.starts_with('+'))?;
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).ok()?
            }
            other => *other,
        });
    }
    Some(octets)
}

/// Decodes; with `joined`, the octets of adjacent words of one charset as one text.
fn decode(pieces: &[Piece<'_>], joined: bool) -> String {
    let mut text = String::new();
    let mut pieces = pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Plain(octets) => text.push_str(&String::from_utf8_lossy(octets)),
            Piece::Encoded(charset, octets) => {
                let mut octets = octets.clone();
                while let (true, Some(Piece::Encoded(other, more))) = (joined, pieces.peek()) {
                    if other != charset {
                        break;
                    }
                    octets.extend_from_slice(more);
                    pieces.next();
                }
                text.push_str(&charset.decode_without_bom_handling(&octets).0);
            }
        }
    }
    text
}

/// The words of a text if each is an address, whatever is around and between them.
fn only_addresses(text: &str) -> Vec<String> {
    let text = spaced_at(&text.chars().filter(|c| !is_invisible(*c)).map(plain_form).collect::<String>());
    let is_edge = |c: char| !c.is_alphanumeric();
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';')).map(|word| word.trim_matches(is_edge));
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).map(without_scheme).collect();
    if words.iter().all(|word| word.contains('@')) { words.into_iter().map(str::to_owned).collect() } else { Vec::new() }
}

/// `ceo @ bank.com` is an address with blanks in it; `Support @ Shop` is none.
fn spaced_at(text: &str) -> String {
    let mut parts = text.split('@');
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let host = part.trim_start().split(char::is_whitespace).next().unwrap_or("");
        let is_host = host.trim_matches(|c: char| !c.is_alphanumeric()).contains('.');
        if is_host {
            out.truncate(out.trim_end().len());
        }
        out.push('@');
        out.push_str(if is_host { part.trim_start() } else { part });
    }
    out
}

fn without_scheme(word: &str) -> &str {
    match word.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("mailto:") => rest,
        _ => word,
    }
}

/// Full-width and small forms of ASCII, as ASCII; the other full stops too.
fn plain_form(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        '\u{fe6b}' => '@',
        '\u{fe52}' | '\u{3002}' | '\u{ff61}' | '\u{2024}' => '.',
        c => c,
    }
}

/// Characters that take no place on a screen, or hardly any.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{85}' | '\u{2009}' | '\u{200a}' | '\u{2028}' | '\u{2029}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}')
}

/// Padding may be missing, as readers take it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
