//! The users file: a Dovecot passwd-file, so that IMAP and SMTP share it.
//!
//! `login:{ARGON2ID}$argon2id$…:uid:gid:label:home:shell:extra`, everything after the hash optional. A login may stand
//! on several lines, each one more password; the label says which. Anything that is not understood makes the whole file
//! refused, with every line named: half a users file would lock people out without a word.

use std::collections::HashMap;

use super::argon::{COST, Cost, Hash};
use crate::problem::{Problem, printable};
use crate::smtp::address::Address;

/// All logins with their passwords.
#[derive(Clone, Debug, Default)]
pub struct Users {
    by_login: HashMap<String, Vec<Password>>,
    /// How many hashes of each cost a failed login takes, known or unknown.
    profile: Vec<(Cost, usize)>,
}

/// One password of a login.
#[derive(Clone, Debug)]
pub struct Password {
    /// The line of the file, from 1.
    pub line: usize,
    /// What the owner calls it; empty if there is no label.
    pub label: String,
    /// The hash.
    pub hash: Hash,
}

/// Octets in a login, at most.
pub const LOGIN_MAX: usize = 255;

impl Users {
    /// Reads a whole file, or names everything that is wrong with it. No hash may take more than `memory_max` octets.
    pub fn parse(text: &str, memory_max: u64) -> Result<Self, Vec<Problem>> {
        let mut users = Self::default();
        let mut errors = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line, memory_max) {
                Ok((login, label, hash)) => {
                    users.by_login.entry(login).or_default().push(Password { line: number, label, hash });
                }
                Err(text) => errors.push(Problem::at(number, text)),
            }
        }
        users.profile = users.cost_of_failure();
        if errors.is_empty() { Ok(users) } else { Err(errors) }
    }

    /// True if there is no login.
    pub fn is_empty(&self) -> bool {
        self.by_login.is_empty()
    }

    /// The passwords of a login; logins are compared case-blind.
    pub fn passwords(&self, login: &str) -> &[Password] {
        self.by_login.get(&canonical(login)).map_or(&[], Vec::as_slice)
    }

    /// All logins in lower case, in no order.
    pub fn logins(&self) -> impl Iterator<Item = &str> {
        self.by_login.keys().map(String::as_str)
    }

    /// All passwords with their logins.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Password)> {
        self.by_login.iter().flat_map(|(login, passwords)| passwords.iter().map(move |password| (login.as_str(), password)))
    }

    /// The hashes that must be computed for a login that fails, beside those of its own passwords, so that every
    /// failure takes the same work whether the login exists or not.
    pub fn padding(&self, login: &str) -> Vec<Cost> {
        let own = self.passwords(login);
        let missing = |(cost, count): &(Cost, usize)| {
            let has = own.iter().filter(|password| password.hash.cost() == *cost).count();
            std::iter::repeat_n(*cost, count.saturating_sub(has))
        };
        self.profile.iter().flat_map(missing).collect()
    }

    fn cost_of_failure(&self) -> Vec<(Cost, usize)> {
        let mut most: HashMap<Cost, usize> = HashMap::new();
        for passwords in self.by_login.values() {
            let mut counts: HashMap<Cost, usize> = HashMap::new();
            for password in passwords {
                *counts.entry(password.hash.cost()).or_default() += 1;
            }
            for (cost, count) in counts {
                let entry = most.entry(cost).or_default();
                *entry = count.max(*entry);
            }
        }
        if most.is_empty() {
            most.insert(COST, 1);
        }
        let mut profile: Vec<_> = most.into_iter().collect();
        profile.sort_unstable();
        profile
    }
}

/// The form in which logins are compared.
pub fn canonical(login: &str) -> String {
    login.to_lowercase()
}

/// Checks a login: an address, or one word without a domain. It becomes part of a path, so it is held to what is
/// harmless in one.
pub fn check_login(login: &str) -> Result<(), &'static str> {
    let word = match login.contains('@') {
        true => login.to_owned(),
        false => format!("{login}@localhost"),
    };
    let address = Address::parse(&word).map_err(|_| "a login is an address or a single word, at most 64 octets before the @")?;
    let local = address.local();
    if login.len() > LOGIN_MAX {
        return Err("a login has at most 255 octets");
    }
    if login.contains([':', '/', '"', ' ']) || login.chars().any(char::is_control) {
        return Err("a login has none of : / \" and no spaces");
    }
    if login.chars().any(is_invisible) {
        return Err("a login has no invisible characters; write the line anew, without a byte order mark before it");
    }
    if local.starts_with('.') || login.ends_with('.') || local.contains('+') {
        return Err("a login begins and ends with no dot and has no + before the @: that begins a tag");
    }
    Ok(())
}

/// Characters that cannot be seen, or that change the order in which others are: zero-width ones, separators, marks of
/// direction, the byte order mark that some editors put before the first line.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn parse_line(line: &str, memory_max: u64) -> Result<(String, String, Hash), String> {
    let mut fields = line.split(':');
    let login = fields.next().unwrap_or_default();
    check_login(login).map_err(|why| format!("login `{}`: {why}", printable(login)))?;
    let field = fields.next().ok_or("no password field after the login; a line is LOGIN:{ARGON2ID}HASH")?;
    let hash = Hash::parse(field)?;
    if hash.cost().octets() > memory_max {
        return Err(format!(
            "the hash takes {} MiB, more than `hash_memory` allows; raise that in pillarbox.toml or set the password anew",
            hash.cost().octets() >> 20
        ));
    }
    let label = fields.nth(2).unwrap_or_default();
    Ok((canonical(login), label.to_owned(), hash))
}

#[cfg(test)]
mod tests {
    use super::super::argon::{Scratch, compute};
    use super::*;

    /// Password `secret`, 8 KiB, made by the reference implementation's parameters.
    fn quick(password: &[u8]) -> String {
        quick_of(password, 8)
    }

    fn quick_of(password: &[u8], memory: u32) -> String {
        use base64::Engine as _;
        let mut output = [0; 32];
        assert!(compute(
            Cost { memory, passes: 1, lanes: 1, hybrid: true },
            password,
            b"saltsaltsalt",
            &mut output,
            &mut Scratch::default()
        ));
        let encode = |data: &[u8]| base64::engine::general_purpose::STANDARD_NO_PAD.encode(data);
        format!("{{ARGON2ID}}$argon2id$v=19$m={memory},t=1,p=1${}${}", encode(b"saltsaltsalt"), encode(&output))
    }

    #[test]
    fn a_file_with_everything() {
        let text = format!(
            "# people\n\nalice@example.org:{0}\nAlice@Example.org:{0}:1000:1000:phone:/home/a:/bin/sh:x=y\nscanner:{0}:::\n",
            quick(b"secret")
        );
        let users = Users::parse(&text, 1 << 30).unwrap();
        let labels: Vec<_> = users.passwords("ALICE@example.org").iter().map(|p| (p.line, p.label.as_str())).collect();
        assert_eq!(labels, [(3, ""), (4, "phone")]);
        assert!(users.passwords("scanner")[0].hash.matches(b"secret", &mut Scratch::default()));
        assert!(!users.passwords("scanner")[0].hash.matches(b"Secret", &mut Scratch::default()));
        assert!(users.passwords("nobody").is_empty());
    }

    #[test]
    fn every_bad_line_is_named() {
        let good = quick(b"x");
        let text = [
            &format!("a/b:{good}"),
            "alice",
            "bob:{PLAIN}secret",
            "carol:secret",
            "dave:{ARGON2ID}$argon2id$v=19$m=8",
            &format!(":{good}"),
            &format!("..:{good}"),
            &format!("a b:{good}"),
            &format!("a@b@c:{good}"),
            &format!("a+b@c.example:{good}"),
            &format!("ok:{good}"),
            &format!("\u{feff}bom:{good}"),
            &format!("evil\u{202e}@c.example:{good}"),
            "erin:{ARGON2ID}$argon2d$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHQ",
            &format!("\u{feff}frank@example.org:{good}"),
            &format!("gina@exam\u{202e}ple.org:{good}"),
            &format!("hugo@example.org.:{good}"),
        ]
        .join("\n");
        let errors = Users::parse(&text, 1 << 30).unwrap_err();
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17], "{errors:?}");
        assert!(errors.iter().all(|error| !error.text.contains("secret")), "{errors:?}");
    }

    #[test]
    fn a_login_is_told_what_is_wrong_with_it() {
        let long = format!("{0}@{1}.{1}.{1}.{2}", "l".repeat(64), "d".repeat(60), "e".repeat(8));
        assert!(long.len() == LOGIN_MAX + 1 && check_login(&long[1..]).is_ok());
        assert_eq!(check_login(&long), Err("a login has at most 255 octets"));
        assert_eq!(check_login("a/b"), Err("a login has none of : / \" and no spaces"));
    }

    #[test]
    fn a_hash_larger_than_the_budget_is_refused() {
        let errors = Users::parse(&format!("a:{}", quick_of(b"x", 64)), 63 * 1024).unwrap_err();
        assert!(errors[0].text.contains("hash_memory"), "{errors:?}");
    }

    #[test]
    fn every_failure_takes_the_same_work() {
        let (small, large) = (quick_of(b"x", 8), quick_of(b"x", 16));
        let users = Users::parse(&format!("a:{small}\na:{small}\nb:{large}\nc:{small}\n"), 1 << 30).unwrap();
        let work = |login: &str| {
            let mut costs = users.padding(login);
            costs.extend(users.passwords(login).iter().map(|password| password.hash.cost()));
            costs.sort_unstable();
            costs.iter().map(|cost| cost.memory).collect::<Vec<_>>()
        };
        for login in ["a", "b", "c", "unknown"] {
            assert_eq!(work(login), [8, 8, 16], "{login}");
        }
        assert_eq!(Users::parse("", 0).unwrap().padding("x"), [COST], "an empty file gives nothing away either");
    }
}
