//! The users file: a Dovecot passwd-file, so that IMAP and SMTP share it.
//!
//! `login:{ARGON2ID}$argon2id$…:uid:gid:label:home:shell:extra`, everything behind the hash optional. A login may stand
//! on several lines, each one more password; the label says which. Anything that is not understood makes the whole file
//! refused, with every line named: half a users file would lock people out without a word.

use std::collections::HashMap;
use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Block, Params, Version};

use crate::smtp::address::Address;

/// Everybody who may log in.
#[derive(Clone, Debug, Default)]
pub struct Users {
    by_login: HashMap<String, Vec<Password>>,
    /// How many hashes of each cost a failed login takes, whoever it is for.
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

/// An argon2 hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    cost: Cost,
    salt: Vec<u8>,
    output: Vec<u8>,
}

/// What an argon2 hash takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cost {
    /// Memory in KiB.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// True for argon2id, false for argon2i.
    pub hybrid: bool,
}

/// The memory that a hash is computed in; kept from one to the next, and wiped in between.
#[derive(Default)]
pub struct Scratch(Vec<Block>);

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, and the cure.
    pub text: String,
}

/// The cost of hashes that this program makes: OWASP's first choice of 2023 (19 MiB, 2 passes, 1 lane).
pub const COST: Cost = Cost { memory: 19 * 1024, passes: 2, lanes: 1, hybrid: true };
/// Octets in a login, at most.
pub const LOGIN_MAX: usize = 255;

impl Users {
    /// Reads a whole file, or names everything that is wrong with it. No hash may take more than `memory_max` octets.
    pub fn parse(text: &str, memory_max: u64) -> Result<Self, Vec<UsersError>> {
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
                Err(text) => errors.push(UsersError { line: number, text }),
            }
        }
        users.profile = users.cost_of_failure();
        if errors.is_empty() { Ok(users) } else { Err(errors) }
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
            let has = own.iter().filter(|password| password.hash.cost == *cost).count();
            std::iter::repeat_n(*cost, count.saturating_sub(has))
        };
        self.profile.iter().flat_map(missing).collect()
    }

    fn cost_of_failure(&self) -> Vec<(Cost, usize)> {
        let mut most: HashMap<Cost, usize> = HashMap::new();
        for passwords in self.by_login.values() {
            let mut counts: HashMap<Cost, usize> = HashMap::new();
            for password in passwords {
                *counts.entry(password.hash.cost).or_default() += 1;
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

impl Hash {
    /// Reads `{ARGON2ID}$argon2id$…`.
    pub fn parse(text: &str) -> Result<Self, String> {
        const CURE: &str = "make one with `pillarbox user passwd LOGIN`";
        let Some((scheme, phc)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return Err(format!("the password field has no {{ARGON2ID}} before its hash; {CURE}"));
        };
        if !["ARGON2ID", "ARGON2I"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            return Err(format!("password scheme {{{}}} is not {{ARGON2ID}}; {CURE}", printable(scheme)));
        }
        let malformed = || format!("the argon2 hash is malformed; {CURE}");
        let phc = PasswordHash::new(phc).map_err(|_| malformed())?;
        let hybrid = match Algorithm::try_from(phc.algorithm.as_str()) {
            Ok(Algorithm::Argon2id) => true,
            Ok(Algorithm::Argon2i) => false,
            _ => return Err(format!("the hash is neither argon2id nor argon2i; {CURE}")),
        };
        if phc.version.is_some_and(|version| version != u32::from(Version::V0x13)) {
            return Err(format!("the hash is of an old argon2 version; {CURE}"));
        }
        let params = Params::try_from(&phc).map_err(|_| malformed())?;
        let (Some(salt), Some(output)) = (phc.salt, phc.hash) else { return Err(malformed()) };
        let cost = Cost { memory: params.m_cost(), passes: params.t_cost(), lanes: params.p_cost(), hybrid };
        Ok(Self { cost, salt: salt.as_ref().to_vec(), output: output.as_bytes().to_vec() })
    }

    /// What it takes to check it.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// True if `password` is the one. Takes as long and as much memory as [`Self::cost`] says.
    pub fn matches(&self, password: &[u8], scratch: &mut Scratch) -> bool {
        let mut output = zeroize::Zeroizing::new(vec![0; self.output.len()]);
        compute(self.cost, password, &self.salt, &mut output, scratch)
            && aws_lc_rs::constant_time::verify_slices_are_equal(&output, &self.output).is_ok()
    }
}

/// Computes a hash of this cost for nothing.
pub fn dummy_hash(cost: Cost, password: &[u8], scratch: &mut Scratch) {
    let mut output = [0; 32];
    compute(cost, password, b"no such login at all", &mut output, scratch);
}

/// Hashes a password with a fresh salt; gives what stands in a users file.
pub fn hash(password: &[u8]) -> Result<String, aws_lc_rs::error::Unspecified> {
    use argon2::password_hash::phc::{Output, ParamsString, Salt};
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt)?;
    let mut output = [0; 32];
    if !compute(COST, password, &salt, &mut output, &mut Scratch::default()) {
        return Err(aws_lc_rs::error::Unspecified);
    }
    let broken = |_| aws_lc_rs::error::Unspecified;
    let params = Params::new(COST.memory, COST.passes, COST.lanes, None).map_err(|_| aws_lc_rs::error::Unspecified)?;
    let phc = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|_| aws_lc_rs::error::Unspecified)?,
        salt: Some(Salt::new(&salt).map_err(broken)?),
        hash: Some(Output::new(&output).map_err(broken)?),
    };
    Ok(format!("{{ARGON2ID}}{phc}"))
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
    if login.len() > LOGIN_MAX || login.contains([':', '/', '"', ' ']) || login.chars().any(char::is_control) {
        return Err("a login has none of : / \" and no spaces");
    }
    if local.starts_with('.') || local.contains('+') {
        return Err("a login begins with no dot and has no + before the @: that begins a tag");
    }
    Ok(())
}

fn compute(cost: Cost, password: &[u8], salt: &[u8], output: &mut [u8], scratch: &mut Scratch) -> bool {
    let algorithm = if cost.hybrid { Algorithm::Argon2id } else { Algorithm::Argon2i };
    let Ok(params) = Params::new(cost.memory, cost.passes, cost.lanes, Some(output.len())) else { return false };
    let blocks = params.block_count();
    if scratch.0.capacity() < blocks {
        scratch.0 = Vec::with_capacity(blocks.max(Scratch::BLOCKS_MIN));
    }
    if scratch.0.len() < blocks {
        scratch.0.resize(blocks, Block::default());
    }
    let memory = &mut scratch.0[..blocks];
    let done =
        Argon2::new(algorithm, Version::V0x13, params).hash_password_into_with_memory(password, salt, output, &mut *memory);
    memory.fill(Block::default());
    done.is_ok()
}

impl Scratch {
    /// glibc maps what is larger than 32 MiB apart and gives it back to the system as soon as it is freed; anything
    /// smaller it may keep. Address space that is not touched costs nothing.
    const BLOCKS_MIN: usize = 33 * 1024;

    /// Octets of memory that were touched.
    pub fn octets(&self) -> u64 {
        (self.0.len() * size_of::<Block>()) as u64
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scratch({} octets)", self.octets())
    }
}

fn parse_line(line: &str, memory_max: u64) -> Result<(String, String, Hash), String> {
    let mut fields = line.split(':');
    let login = fields.next().unwrap_or_default();
    check_login(login).map_err(|why| format!("login `{}`: {why}", printable(login)))?;
    let field = fields.next().ok_or("no password field behind the login; a line is LOGIN:{ARGON2ID}HASH")?;
    let hash = Hash::parse(field)?;
    if hash.cost.octets() > memory_max {
        return Err(format!(
            "the hash takes {} MiB, more than `hash_memory` allows; raise that in pillarbox.toml or set the password anew",
            hash.cost.octets() >> 20
        ));
    }
    let label = fields.nth(2).unwrap_or_default();
    Ok((canonical(login), label.to_owned(), hash))
}

fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl Cost {
    /// Octets of memory.
    pub fn octets(self) -> u64 {
        u64::from(self.memory) * 1024
    }

    /// True if it is below OWASP's minimum (of its equivalent choices, the smallest memory is 7 MiB with 5 passes).
    pub fn is_weak(self) -> bool {
        const ENOUGH: [(u32, u32); 5] = [(46, 1), (19, 2), (12, 3), (9, 4), (7, 5)];
        !self.hybrid || !ENOUGH.iter().any(|(mebibytes, passes)| self.memory >= mebibytes * 1024 && self.passes >= *passes)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash").field("cost", &self.cost).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
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
            "erin:{ARGON2ID}$argon2d$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHQ",
        ]
        .join("\n");
        let errors = Users::parse(&text, 1 << 30).unwrap_err();
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12], "{errors:?}");
        assert!(errors.iter().all(|error| !error.text.contains("secret")), "{errors:?}");
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
            costs.extend(users.passwords(login).iter().map(|password| password.hash.cost));
            costs.sort_unstable();
            costs.iter().map(|cost| cost.memory).collect::<Vec<_>>()
        };
        for login in ["a", "b", "c", "unknown"] {
            assert_eq!(work(login), [8, 8, 16], "{login}");
        }
        assert_eq!(Users::parse("", 0).unwrap().padding("x"), [COST], "an empty file gives nothing away either");
    }

    #[test]
    fn a_fresh_hash_is_read_back() {
        let text = hash(b"pass word").unwrap();
        let read = Hash::parse(&text).unwrap();
        assert_eq!(read.cost(), COST);
        assert!(read.matches(b"pass word", &mut Scratch::default()) && !read.matches(b"password", &mut Scratch::default()));
        assert!(!COST.is_weak());
        assert!(Cost { passes: 1, ..COST }.is_weak());
    }
}
