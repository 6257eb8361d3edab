//! Finds out that files have changed, without being told.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A set of files that belong together.
#[derive(Debug)]
pub struct Watched {
    files: Vec<PathBuf>,
    taken: Vec<Stamp>,
    seen: Vec<Stamp>,
}

/// What of a file changes when it is written or replaced; links are followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Stamp(u64, u64, u64, i64, i64);

impl Watched {
    /// Watches these files, as they are now.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let taken = stamps(&files);
        Self { files, seen: taken.clone(), taken }
    }

    /// True once after every change, when the files have not changed any more since the last call: whoever writes in
    /// place is given time to finish.
    pub fn has_changed(&mut self) -> bool {
        let now = stamps(&self.files);
        let settled = now == self.seen;
        self.seen = now;
        if settled && self.seen != self.taken {
            self.taken = self.seen.clone();
            return true;
        }
        false
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    files.iter().map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> Stamp {
    fs::metadata(file)
        .map_or_else(|_| Stamp::default(), |data| Stamp(data.dev(), data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let mut watched = Watched::new(vec![file.clone()]);
        assert!(!watched.has_changed());
        fs::write(&file, "a").unwrap();
        assert!(!watched.has_changed(), "may still be written");
        fs::write(&file, "ab").unwrap();
        assert!(!watched.has_changed(), "was written again");
        assert!(watched.has_changed());
        assert!(!watched.has_changed());
    }
}
