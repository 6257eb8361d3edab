//! Finds out that files have changed, without being told.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A set of files that belong together.
#[derive(Debug, Default)]
pub struct Watched {
    taken: Vec<Stamp>,
    seen: Vec<Stamp>,
}

/// What of a file changes when it is written or replaced; links are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp([u64; 5]);

impl Watched {
    /// Watches files whose stamps are these now.
    pub fn new(stamps: Vec<Stamp>) -> Self {
        Self { seen: stamps.clone(), taken: stamps }
    }

    /// True once after every change, when the stamps have not changed any more since the last call: whoever writes in
    /// place is given time to finish.
    pub fn has_changed(&mut self, now: Vec<Stamp>) -> bool {
        let settled = now == self.seen;
        self.seen = now;
        if settled && self.seen != self.taken {
            self.taken.clone_from(&self.seen);
            return true;
        }
        false
    }
}

impl Stamp {
    /// Octets of a stamp between processes.
    pub const LEN: usize = 40;

    /// For another process.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes.chunks_exact_mut(8).zip(self.0).for_each(|(place, number)| place.copy_from_slice(&number.to_le_bytes()));
        bytes
    }

    /// From another process.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut numbers = [0; 5];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        Self(numbers)
    }
}

/// The stamp of a file; all zero if there is none.
pub fn stamp(file: &Path) -> Stamp {
    let of = |data: fs::Metadata| Stamp([data.dev(), data.ino(), data.len(), data.mtime() as u64, data.mtime_nsec() as u64]);
    fs::metadata(file).map_or_else(|_| Stamp::default(), of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let mut watched = Watched::new(vec![stamp(&file)]);
        let mut look = || watched.has_changed(vec![stamp(&file)]);
        assert!(!look());
        fs::write(&file, "a").unwrap();
        assert!(!look(), "may still be written");
        fs::write(&file, "ab").unwrap();
        assert!(!look(), "was written again");
        assert!(look());
        assert!(!look());
    }

    #[test]
    fn stamps_cross_to_another_process() {
        let stamp = Stamp([1, 2, u64::MAX, 4, 5]);
        assert_eq!(Stamp::from_bytes(&stamp.to_bytes()), stamp);
    }
}
