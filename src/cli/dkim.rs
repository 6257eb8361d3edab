//! `pillarbox dkim`: makes keys that sign, and shows those that are configured beside what DNS has.
//!
//! `add` writes a key file that only its owner can read, next to the configuration, and never over one that is there. It
//! changes no other file: what is to be published and what is to be written into pillarbox.toml is printed. `list` changes
//! nothing, and prints once more what is still to be published.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Arguments, Exit, Failure, Outcome, say, tell};
use crate::config::{Config, DkimKey};
use crate::mail::dkim::{Algorithm, SigningKey, ascii_domain};
use crate::relay::dns::{Data, Kind};
use crate::relay::resolve::{DnsError, Resolver};
use crate::server::keys::KeySource;
use crate::server::load;
use crate::smtp::address;

/// How long name servers are asked, for all keys together.
const DNS_MAX: Duration = Duration::from_secs(10);
/// Octets of one string of a TXT record (RFC 1035 section 3.3).
const STRING_MAX: usize = 255;

/// Runs the action that the first word names.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    let words: Vec<&str> = arguments.words().iter().map(String::as_str).collect();
    match words[..] {
        ["add", domain] => add(arguments, domain),
        ["list"] => list(arguments),
        ["add", ..] => Err(Failure::usage("`dkim add` needs one DOMAIN")),
        ["list", more, ..] => Err(Failure::usage(&format!("`dkim list` takes no `{more}`"))),
        [] => Err(Failure::usage("`dkim` is followed by add or list")),
        [unknown, ..] => {
            let meant = super::nearest(unknown, ["add", "list"].into_iter());
            Err(Failure::usage(&format!("unknown action `dkim {unknown}`, the nearest known is `dkim {meant}`")))
        }
    }
}

/// An RSA key; with `--ed25519` a key of that kind, beside an RSA key that is there or is made with it.
fn add(arguments: &Arguments, domain: &str) -> Outcome {
    if !address::is_domain(domain, true) {
        return Err(Failure::usage(&format!("`{domain}` is no domain name; write that of From, without @")));
    }
    let config = arguments.load()?;
    // As the configuration spells it, if it does.
    let domain = rows(&config, domain).next().map_or_else(|| domain.to_lowercase(), |(known, _)| known.clone());
    let mut keys: Vec<DkimKey> = rows(&config, &domain).flat_map(|(_, keys)| keys.clone()).collect();
    let directory = arguments.config.parent().unwrap_or(Path::new("/")).join("dkim");
    let directory = std::path::absolute(&directory).map_err(|error| Failure::file(Exit::OsError, &directory, error))?;
    let wanted = arguments.matches.opt_str("selector");
    if let Some(selector) = wanted.as_deref().filter(|selector| !address::is_domain(selector, false)) {
        return Err(Failure::usage(&format!("--selector {selector}: write letters, digits and hyphens")));
    }
    let algorithms: &[Algorithm] = match (arguments.matches.opt_present("ed25519"), keys.is_empty()) {
        (false, _) => &[Algorithm::Rsa],
        (true, true) => &[Algorithm::Rsa, Algorithm::Ed25519],
        (true, false) => &[Algorithm::Ed25519],
    };
    let mut made = Vec::new();
    for (number, algorithm) in algorithms.iter().enumerate() {
        let file = |selector: &str| directory.join(format!("{domain}.{selector}.pem"));
        let is_free = |selector: &String| keys.iter().all(|key| key.selector != *selector) && !file(selector).exists();
        let selector = match (&wanted, number) {
            (Some(selector), 0) => Some(selector.to_ascii_lowercase()).filter(is_free),
            (Some(selector), _) => Some(format!("{}-ed25519", selector.to_ascii_lowercase())).filter(is_free),
            (None, _) => (1..1000).map(|number| format!("pb{number}")).find(is_free),
        };
        let selector = selector.ok_or_else(|| {
            Failure::new(Exit::CantCreate, format!("{domain} has a key of that selector already; give another --selector"))
        })?;
        let path = file(&selector);
        let (key, text) = SigningKey::generate(&domain, &selector, *algorithm)
            .ok_or_else(|| Failure::new(Exit::OsError, "no key can be made: the system gives no random octets"))?;
        write_key(&path, text.as_bytes()).map_err(|error| Failure::file(Exit::CantCreate, &path, error))?;
        tell(format_args!("{}: made, readable by its owner alone", path.display()));
        keys.push(DkimKey { selector, key: path });
        made.push(key);
    }
    if !config.domains.contains(&domain) {
        tell(format_args!("{domain} is not in `domains`: only logins that may send as others have mail from there"));
    }
    publish(&made);
    if config.dkim.is_empty() {
        say("\n# then put into pillarbox.toml, and restart the server:\n[dkim]");
    } else {
        say(format_args!(
            "\n# then put below [dkim] in pillarbox.toml, in place of the line of {domain} if there is one, and restart the server:"
        ));
    }
    say(line(&domain, &keys));
    Ok(Exit::Ok)
}

/// The line below `[dkim]` that names these keys.
fn line(domain: &str, keys: &[DkimKey]) -> String {
    let tables: Vec<String> =
        keys.iter().map(|key| format!("{{ selector = {:?}, key = \"{}\" }}", key.selector, key.key.display())).collect();
    format!("{domain:?} = [{}]", tables.join(", "))
}

/// What to do with a key that `add` has made for a domain and that the configuration does not name; none if there is none.
pub(super) fn unnamed(config: &Path, domain: &str) -> Option<String> {
    let directory = std::path::absolute(config.parent()?.join("dkim")).ok()?;
    let names = fs::read_dir(&directory).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let selector = |name: String| Some(name.strip_prefix(domain)?.strip_prefix('.')?.strip_suffix(".pem")?.to_owned());
    // One with a dot may be the end of another domain.
    let selector = names.filter_map(selector).filter(|selector| !selector.contains('.')).min()?;
    let key = DkimKey { key: directory.join(format!("{domain}.{selector}.pem")), selector };
    Some(format!("there is a key: write `{}` below [dkim] in {}, and restart the server", line(domain, &[key]), config.display()))
}

/// Prints the records as a zone file has them, and for forms on the web, which want them in one piece.
fn publish(keys: &[SigningKey]) {
    say("; publish in DNS:");
    keys.iter().for_each(|key| say(record(key)));
    say("; in a form on the web: type TXT, the name (many forms add the domain by themselves), and the value in one line:");
    for key in keys {
        say(format_args!("; name   {}\n; value  {}", key.record_name(), key.record()));
    }
}

/// The record as a zone file has it, in strings of 255 octets.
fn record(key: &SigningKey) -> String {
    let text = key.record();
    let pieces = text.as_bytes().chunks(STRING_MAX).map(|piece| format!("\"{}\"", String::from_utf8_lossy(piece)));
    format!("{}. IN TXT ( {} )", key.record_name(), pieces.collect::<Vec<_>>().join("\n    "))
}

/// Makes the file durable; an error if there is one of this name.
fn write_key(path: &Path, text: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        directory.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text).and_then(|()| file.sync_all()).and_then(|()| File::open(directory)?.sync_all());
    written.inspect_err(|_| drop(fs::remove_file(path)))
}

/// A line for each key: domain, selector, kind, what DNS has, file; then the records that DNS has not. Exit 78 if a key
/// cannot be used.
fn list(arguments: &Arguments) -> Outcome {
    let config = arguments.load()?;
    let (resolver, deadline) = (Resolver::configured(&config), Instant::now() + DNS_MAX);
    let (mut exit, mut unpublished) = (Exit::Ok, Vec::new());
    for (domain, key) in config.dkim.iter().flat_map(|(domain, keys)| keys.iter().map(move |key| (domain, key))) {
        match read_one(&config, domain, key) {
            Ok(read) => {
                let kind = match read.algorithm() {
                    Algorithm::Ed25519 => "ed25519",
                    Algorithm::Rsa => "rsa",
                };
                let state = Published::of(&read, &resolver, deadline);
                let shown = state.to_string();
                say(format_args!("{domain:<24} {:<12} {kind:<8} {shown:<40} {}", key.selector, key.key.display()));
                if matches!(state, Published::Missing | Published::Other | Published::Several(_)) {
                    unpublished.push(read);
                }
            }
            Err(why) => {
                exit = Exit::Config;
                say(format_args!("{domain:<24} {:<12} {:<8} {why}", key.selector, "unusable"));
            }
        }
    }
    if !unpublished.is_empty() {
        say("");
        publish(&unpublished);
    }
    if config.dkim.values().all(Vec::is_empty) {
        let made = config.domains.iter().find_map(|domain| unnamed(&arguments.config, domain));
        let cure = made.unwrap_or_else(|| "make one with `pillarbox dkim add DOMAIN`".to_owned());
        tell(format_args!("no key is configured: mail is sent unsigned; {cure}"));
    }
    Ok(exit)
}

/// The rows of `[dkim]` for a domain. One with international labels has two spellings, and both sign (RFC 8616).
pub(super) fn rows<'a>(config: &'a Config, domain: &str) -> impl Iterator<Item = (&'a String, &'a Vec<DkimKey>)> {
    let domain = ascii_domain(domain);
    config.dkim.iter().filter(move |(known, _)| ascii_domain(known) == domain)
}

/// One key of the configuration.
pub(super) fn read_one(config: &Config, domain: &str, key: &DkimKey) -> Result<SigningKey, String> {
    let one = Config { dkim: [(domain.to_owned(), vec![key.clone()])].into(), ..config.clone() };
    let keyring = load::keyring(&one, &KeySource::default())
        .map_err(|refused| refused.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    keyring.into_keys().next().ok_or_else(|| "cannot be read".to_owned())
}

/// What DNS has under the name of a key's record.
#[derive(Debug)]
pub(super) enum Published {
    /// The key.
    Here,
    /// No text.
    Missing,
    /// Text without the key, or with it as one of another kind.
    Other,
    /// So many records, of which a verifier takes any (RFC 6376 section 3.6.2.2).
    Several(usize),
    /// It cannot be said.
    Unknown(DnsError),
}

impl Published {
    /// Asks by `deadline`.
    pub(super) fn of(key: &SigningKey, resolver: &Resolver, deadline: Instant) -> Self {
        let answer = match resolver.look_up(&key.record_name(), Kind::Txt, deadline) {
            Err(error) => return Self::Unknown(error),
            Ok(answer) => answer,
        };
        let tag = |text: &[u8], wanted: &str| {
            let text = String::from_utf8_lossy(text).replace(char::is_whitespace, "");
            text.split(';').find_map(|tag| tag.strip_prefix(wanted).map(str::to_owned))
        };
        // RFC 6376 section 3.6.1: without `k=` it is a key of RSA.
        let read = |text: &[u8]| (tag(text, "k=").unwrap_or_else(|| "rsa".to_owned()), tag(text, "p="));
        let texts =
            answer.records.iter().filter_map(|record| if let Data::Text(text) = record { Some(read(text)) } else { None });
        let found: Vec<(String, Option<String>)> = texts.collect();
        match &found[..] {
            [] => Self::Missing,
            [one] if *one == read(key.record().as_bytes()) => Self::Here,
            [_] => Self::Other,
            several => Self::Several(several.len()),
        }
    }
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("is in DNS"),
            Self::Missing => f.write_str("is not in DNS"),
            Self::Other => f.write_str("DNS has another key"),
            Self::Several(count) => write!(f, "DNS has {count} records; leave one"),
            Self::Unknown(error) => write!(f, "DNS not known ({error})"),
        }
    }
}
