//! Whatever message is signed, in whatever pieces it comes, a verifier written here from RFC 6376 alone, which has the whole
//! message before it, agrees with the signature, and finds signed what is to be signed.
#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, Zoned, tz::TimeZone};
use libfuzzer_sys::fuzz_target;
use pillarbox::mail::dkim::{Algorithm, Fields, SigningKey};
use pillarbox::mail::message::HeaderReader;
use pillarbox::mail::signing::{Keyring, Signer};
use pillarbox::mail::trace::Trace;

static KEYRING: LazyLock<Arc<Keyring>> = LazyLock::new(|| {
    let (key, _) = SigningKey::generate("example.org", "pb1", Algorithm::Ed25519).expect("a key");
    Arc::new(Keyring::new([key]))
});
static ARRIVAL: LazyLock<Zoned> = LazyLock::new(|| Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC));

/// What is signed if it is present, beside what begins with `content-` or `list-`.
const SIGNED: [&str; 12] = [
    "from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references", "mime-version",
    "auto-submitted",
];
const OVERSIGNED: [&str; 6] = ["from", "subject", "date", "to", "cc", "reply-to"];
/// Octets of a name that has room in a line of its own.
const NAME_MAX: usize = 995;

fuzz_target!(|input: (u8, [u8; 3], &[u8])| {
    let (flags, steps, text) = input;
    // Neither is in any message that is accepted.
    let text: Vec<u8> = text.iter().copied().filter(|octet| !matches!(octet, b'\r' | b'\0')).collect();
    let fields = if flags & 1 == 0 { Fields::All } else { Fields::WithoutId };
    let Some((top, body)) = stored(&text, flags & 2 != 0, flags & 4 != 0) else { return };
    let message = [&top[..], body].concat();
    let Some(mut signer) = Signer::begin(&KEYRING, &top) else { return };
    let mut whole = signer.clone();
    whole.update(&message);
    let (mut rest, mut at) = (&message[..], 0);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(usize::from(steps[at % steps.len()]) + 1));
        signer.update(piece);
        (rest, at) = (after, at + 1);
    }
    let signed = signer.sign(7, fields).expect("a signature");
    assert_eq!(whole.sign(7, fields).as_ref(), Some(&signed));
    assert_eq!(signed.len(), 1);
    verify(&message, &signed[0], fields);
});

/// The message as it is stored: up to the body at least, and the rest.
fn stored(text: &[u8], with_author: bool, as_it_came: bool) -> Option<(Vec<u8>, &[u8])> {
    let mut reader = HeaderReader::default();
    let (mut header, used) = match reader.push(text).ok()? {
        Some(whole) => whole,
        None => (reader.end(), text.len()),
    };
    if with_author {
        header.set_author("Alice <alice@example.org>".into());
    }
    let trace = Trace {
        final_delivery: false,
        reverse_path: "alice@example.org",
        recipient: None,
        client: None,
        hostname: "mx.example.org",
        extended: true,
        utf8: false,
        authenticated: true,
        tls: None,
        id: "k3f9.1",
        time: &ARRIVAL,
    };
    let mut top = Vec::new();
    header.write(&trace, !as_it_came, &mut top);
    Some((top, &text[used..]))
}

fn verify(message: &[u8], signature: &str, wanted: Fields) {
    assert!(signature.split('\n').all(|line| (1..=998).contains(&line.len())), "{signature}");
    assert!(signature.split('\n').skip(1).all(|line| line.starts_with('\t') && !line.trim().is_empty()), "{signature}");
    let (header, body) = parted(message);
    let present = fields(header);
    assert!(signature.len() <= 2 * header.len() + 1024);

    let value = signature.strip_prefix("DKIM-Signature:").expect("the field's name");
    let mut tags = BTreeMap::new();
    for tag in value.split(';') {
        let (name, value) = tag.split_once('=').expect("a tag");
        let value: String = value.chars().filter(|c| !matches!(c, ' ' | '\t' | '\n')).collect();
        assert!(tags.insert(name.trim(), value).is_none(), "{name} twice");
    }
    assert_eq!(tags.keys().copied().collect::<Vec<_>>(), ["a", "b", "bh", "c", "d", "h", "s", "t", "v"]);
    let said = |name: &str| tags[name].as_str();
    assert_eq!((said("v"), said("a"), said("c")), ("1", "ed25519-sha256", "relaxed/relaxed"));
    assert_eq!((said("d"), said("s"), said("t")), ("example.org", "pb1", "7"));
    assert_eq!(said("bh"), STANDARD.encode(digest(&SHA256, &relaxed_body(body))));

    let names: Vec<&str> = said("h").split(':').collect();
    check_names(&names, &present, wanted);
    let mut input = Vec::new();
    for (at, name) in names.iter().enumerate() {
        // Of several the last first; one more than there are is none.
        let before = names[..at].iter().filter(|other| *other == name).count();
        if let Some(field) = present.iter().rev().filter(|field| name_of(field) == name.as_bytes()).nth(before) {
            input.extend(relaxed_field(field));
            input.extend(b"\r\n");
        }
    }
    let empty = signature.rfind(';').and_then(|last| Some(last + signature[last..].find('=')? + 1)).expect("b=");
    input.extend(relaxed_field(&signature.as_bytes()[..empty]));
    let key = &KEYRING.of("example.org")[0];
    let public = STANDARD.decode(key.record().rsplit_once("p=").expect("p=").1).expect("base64");
    let octets = STANDARD.decode(said("b")).expect("base64");
    let verified = UnparsedPublicKey::new(&ED25519, public).verify(digest(&SHA256, &input).as_ref(), &octets);
    assert!(verified.is_ok(), "{signature}\n{}", String::from_utf8_lossy(message));
}

/// Every field that is to be signed is, as often as it is there, and nothing else; some once more.
fn check_names(names: &[&str], present: &[&[u8]], wanted: Fields) {
    let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for field in present {
        let name = name_of(field);
        let is_known = str::from_utf8(&name).is_ok_and(|name| SIGNED.contains(&name) || name.starts_with("resent-"));
        let further = (name.starts_with(b"content-") || name.starts_with(b"list-")) && !name.contains(&b';') && name.len() <= NAME_MAX;
        if is_known || further {
            *counts.entry(name).or_default() += 1;
        }
    }
    OVERSIGNED.iter().for_each(|name| *counts.entry(name.as_bytes().to_vec()).or_default() += 1);
    if wanted == Fields::WithoutId {
        counts.remove(&b"date"[..]);
        counts.remove(&b"message-id"[..]);
    }
    for name in names {
        let count = counts.get_mut(name.as_bytes()).filter(|count| **count > 0);
        *count.unwrap_or_else(|| panic!("{name} is not to be signed")) -= 1;
    }
    // Of the fields of a message that was sent again any may be signed, none has to be.
    let left = counts.iter().find(|(name, count)| **count > 0 && !name.starts_with(b"resent-"));
    assert!(left.is_none(), "{left:?} is not signed");
}

/// The header section without the empty line, and the body.
fn parted(message: &[u8]) -> (&[u8], &[u8]) {
    match message.windows(2).position(|pair| pair == b"\n\n") {
        Some(end) => (&message[..=end], &message[end + 2..]),
        None => (message, b""),
    }
}

fn fields(header: &[u8]) -> Vec<&[u8]> {
    let mut starts = vec![0];
    starts.extend((1..header.len()).filter(|at| header[at - 1] == b'\n' && !matches!(header[*at], b' ' | b'\t')));
    let ends = starts.iter().skip(1).copied().chain([header.len()]);
    starts.iter().zip(ends).map(|(start, end)| &header[*start..end]).collect()
}

fn name_of(field: &[u8]) -> Vec<u8> {
    let colon = field.iter().position(|octet| *octet == b':').expect("a field");
    let mut name = field[..colon].to_ascii_lowercase();
    while matches!(name.last(), Some(b' ' | b'\t')) {
        name.pop();
    }
    name
}

/// RFC 6376 section 3.4.2, one step after another.
fn relaxed_field(field: &[u8]) -> Vec<u8> {
    let name = name_of(field);
    let value = field.iter().copied().skip_while(|octet| *octet != b':').skip(1);
    let unfolded: Vec<u8> = value.filter(|octet| *octet != b'\n').collect();
    let mut value = reduced(&unfolded);
    if value.first() == Some(&b' ') {
        value.remove(0);
    }
    [&name[..], b":", &value].concat()
}

/// RFC 6376 section 3.4.4, one step after another.
fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = body.split(|octet| *octet == b'\n').map(reduced).collect();
    while lines.last().is_some_and(Vec::is_empty) {
        lines.pop();
    }
    lines.into_iter().flat_map(|line| [line, b"\r\n".to_vec()].concat()).collect()
}

/// White space within a line is one space, at its end nothing.
fn reduced(line: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = line.iter().map(|octet| if *octet == b'\t' { b' ' } else { *octet }).collect();
    out.dedup_by(|a, b| *a == b' ' && *b == b' ');
    if out.last() == Some(&b' ') {
        out.pop();
    }
    out
}
