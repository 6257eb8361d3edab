//! What a file system can still take.
//!
//! Looked at when MAIL is said, so that a message is not transferred in vain, and so that mail from strangers leaves the
//! last part of a disk to those that log in. It promises nothing: a write can fail yet.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

/// The size of a file system, and what of it is free to a process without privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Octets that are free.
    pub free: u64,
    /// Octets altogether.
    pub total: u64,
    /// Inodes that are free; none where the file system does not count them.
    pub inodes: Option<u64>,
}

/// Remembers for a second what was found.
#[derive(Debug, Default)]
pub struct SpaceCache(Mutex<HashMap<PathBuf, (Instant, Space)>>);

/// Octets that are kept free of mail from strangers, at most.
pub const FLOOR_MAX: u64 = 100 * 1024 * 1024;
/// How long an answer is used again.
const FRESH: Duration = Duration::from_secs(1);

/// The space of the file system that `path` is on, or will be on once it is made.
pub fn free_space(path: &Path) -> io::Result<Space> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let data = statvfs(there)?;
    let octets = |blocks: u64| blocks.saturating_mul(data.fragment_size());
    Ok(Space {
        free: octets(data.blocks_available()),
        total: octets(data.blocks()),
        // Some file systems count no inodes and say zero of zero.
        inodes: (data.files() > 0).then(|| data.files_available()),
    })
}

impl Space {
    /// Octets that are kept free of mail from strangers: a hundredth of the file system, 100 MiB at most.
    pub fn floor(&self) -> u64 {
        (self.total / 100).min(FLOOR_MAX)
    }

    /// True if a file of so many octets leaves `kept` octets free.
    pub fn has_room(&self, octets: u64, kept: u64) -> bool {
        self.free >= octets.saturating_add(kept) && self.inodes != Some(0)
    }
}

impl SpaceCache {
    /// As [`free_space`], a second old at most; but no refusal is founded on what is old.
    pub fn has_room(&self, path: &Path, octets: u64, floor: bool) -> io::Result<bool> {
        let fits = |space: &Space| space.has_room(octets, if floor { space.floor() } else { 0 });
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.get(path).is_some_and(|(when, space)| when.elapsed() < FRESH && fits(space)) {
            return Ok(true);
        }
        let space = free_space(path)?;
        cache.insert(path.to_owned(), (Instant::now(), space));
        Ok(fits(&space))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_and_floor() {
        let space = |free, total, inodes| Space { free, total, inodes };
        assert_eq!(space(0, 1 << 50, None).floor(), FLOOR_MAX);
        assert_eq!(space(0, 6400, None).floor(), 64);
        let rows = [
            (space(1000, 0, None), 900, 100, true),
            (space(1000, 0, None), 901, 100, false),
            (space(1000, 0, Some(1)), 0, 0, true),
            (space(1000, 0, Some(0)), 0, 0, false),
            (space(u64::MAX, 0, None), u64::MAX, 1, true),
            (space(1000, 0, None), u64::MAX, u64::MAX, false),
        ];
        for (space, octets, kept, want) in rows {
            assert_eq!(space.has_room(octets, kept), want, "{space:?} {octets} {kept}");
        }
    }

    #[test]
    fn a_directory_that_is_not_made_yet_and_a_second_look() {
        let dir = tempfile::tempdir().unwrap();
        let space = free_space(&dir.path().join("not/yet")).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        let cache = SpaceCache::default();
        let room = |octets| cache.has_room(dir.path(), octets, false).unwrap();
        assert!(room(1) && !room(u64::MAX));
        let put = |when, free| cache.0.lock().unwrap().insert(dir.path().to_owned(), (when, Space { free, ..space }));
        put(Instant::now(), u64::MAX);
        assert!(room(u64::MAX), "not looked at again");
        put(Instant::now().checked_sub(FRESH).unwrap(), u64::MAX);
        assert!(!room(u64::MAX), "too old");
        put(Instant::now(), 0);
        assert!(room(1), "a refusal is of now");
    }
}
