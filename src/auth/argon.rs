//! Argon2 hashes: read from a users file, made for one, computed to check a password.
//!
//! What a hash costs is known before it is computed, so that [`super::verify`] can hold it to a budget. The memory a hash was
//! computed in is wiped. Only this file names argon2.

use std::fmt;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Block, Params, Version};

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

/// The cost of hashes that this program makes: OWASP's first choice of 2023 (19 MiB, 2 passes, 1 lane).
pub const COST: Cost = Cost { memory: 19 * 1024, passes: 2, lanes: 1, hybrid: true };
impl Hash {
    /// Reads `{ARGON2ID}$argon2id$…`.
    pub fn parse(text: &str) -> Result<Self, String> {
        const CURE: &str = "make one with `pillarbox user passwd LOGIN`";
        let Some((scheme, phc)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return Err(format!("the password field has no {{ARGON2ID}} before its hash; {CURE}"));
        };
        if !["ARGON2ID", "ARGON2I"].iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            return Err(format!("password scheme {{{}}} is not {{ARGON2ID}}; {CURE}", crate::problem::printable(scheme)));
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

/// Computes and discards a hash, so that an unknown login takes as long as a known one.
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

pub(super) fn compute(cost: Cost, password: &[u8], salt: &[u8], output: &mut [u8], scratch: &mut Scratch) -> bool {
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
