//! The name of a queued message: 13 letters and digits, in order of time.
//!
//! The name is that of the file, and it is in the reply, the log and reports. Names compare as the numbers do that they
//! stand for, so a sorted listing is a listing by age.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;

/// The id of a queued message: 64 bits, written in 13 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(u64);

impl QueueId {
    /// The id that these bits stand for.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits of the id.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LENGTH];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

impl Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl FromStr for QueueId {
    type Err = ();

    /// Reads what [`Display`] writes and nothing else: one text an id.
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != LENGTH {
            return Err(());
        }
        let mut bits = 0_u64;
        for octet in text.bytes() {
            let digit = ALPHABET.iter().position(|letter| *letter == octet).ok_or(())?;
            bits = bits.checked_mul(32).ok_or(())? | digit as u64;
        }
        Ok(Self(bits))
    }
}

/// Characters of an id.
const LENGTH: usize = 13;

/// Five bits a character; neither i, l, o nor u, which are misread.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bits_are_one_to_one_and_keep_their_order() {
        let ids = [0, 1, 31, 32, 1_700_000_000_000_000 << 12, u64::MAX - 1, u64::MAX];
        let texts: Vec<String> = ids.iter().map(|bits| QueueId::from_bits(*bits).to_string()).collect();
        assert!(texts.is_sorted(), "{texts:?}");
        for (text, bits) in texts.iter().zip(ids) {
            assert_eq!(text.len(), 13);
            assert_eq!(text.parse::<QueueId>().map(QueueId::bits), Ok(bits));
        }
        // One more than 64 bits hold, a letter that is not used, upper case, another length.
        for wrong in ["g000000000000", "000000000000i", "000000000000A", "00000000000", "00000000000000", ""] {
            assert_eq!(wrong.parse::<QueueId>(), Err(()), "{wrong}");
        }
    }
}
