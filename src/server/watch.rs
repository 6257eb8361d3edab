//! Finds out that files have changed, without being told; and when a file that could not be read is due again.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// A set of files that belong together.
#[derive(Debug, Default)]
pub(super) struct Watched {
    taken: Vec<Stamp>,
    seen: Vec<Stamp>,
    retry: Option<Retry>,
}

/// A read that failed for a reason that may pass.
#[derive(Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
    /// What was logged, so that it is logged once.
    said: String,
}

/// Between two tries of a read that failed: twice as long each time, from one to the other.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What of a file changes when it is written or replaced, or gets another mode; links are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp([u64; Stamp::NUMBERS]);

impl Watched {
    /// Watches files whose stamps were these before they were read.
    pub(super) fn new(stamps: Vec<Stamp>) -> Self {
        Self { seen: stamps.clone(), taken: stamps, retry: None }
    }

    /// True if the files are to be read: once after every change, when the stamps have not changed any more since the last
    /// call, so that a program which writes in place can finish; and again after a read that failed.
    pub(super) fn is_due(&mut self, stamps: Vec<Stamp>, now: Instant) -> bool {
        let settled = stamps == self.seen;
        if !settled {
            // Not what is equal: it would be allocated anew at every call, among what sessions hold ([`crate::net::memory`]).
            self.seen = stamps;
        }
        if settled && self.seen != self.taken {
            self.taken.clone_from(&self.seen);
            self.retry = None;
            return true;
        }
        self.retry.as_ref().is_some_and(|retry| now >= retry.at)
    }

    /// The files were taken up, or their content is bad, which reading again does not change.
    pub(super) fn done(&mut self) {
        self.retry = None;
    }

    /// The files could not be read: they are due again after a pause. True if `text` was not the reason last time as well.
    pub(super) fn failed(&mut self, text: String, now: Instant) -> bool {
        let (pause, known) = match &self.retry {
            Some(last) => ((last.pause * 2).min(PAUSE_MAX), last.said == text),
            None => (PAUSE_MIN, false),
        };
        self.retry = Some(Retry { at: now + pause, pause, said: text });
        !known
    }
}

impl Stamp {
    const NUMBERS: usize = 6;
    /// Octets of a stamp between processes.
    pub(super) const LEN: usize = 8 * Self::NUMBERS;

    /// For another process.
    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes.chunks_exact_mut(8).zip(self.0).for_each(|(place, number)| place.copy_from_slice(&number.to_le_bytes()));
        bytes
    }

    /// From another process.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut numbers = [0; Self::NUMBERS];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        Self(numbers)
    }
}

/// The stamp of a file; all zero if there is none.
pub(super) fn stamp(file: &Path) -> Stamp {
    let of = |data: fs::Metadata| {
        let written = [data.mtime() as u64, data.mtime_nsec() as u64];
        // A key that others may read is refused, so the mode counts. The time of change would tell more than that: links to the
        // file, and backups that set its time of access back.
        Stamp([data.dev(), data.ino(), data.len(), written[0], written[1], data.mode().into()])
    };
    fs::metadata(file).map_or_else(|_| Stamp::default(), of)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_change_is_due_once_and_when_it_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let mut watched = Watched::new(vec![stamp(&file)]);
        let mut look = || watched.is_due(vec![stamp(&file)], Instant::now());
        assert!(!look());
        fs::write(&file, "a").unwrap();
        assert!(!look(), "may still be written");
        fs::write(&file, "ab").unwrap();
        assert!(!look(), "was written again");
        assert!(look());
        assert!(!look());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(!look() && look() && !look(), "another mode");
    }

    #[test]
    fn what_has_not_changed_stays_where_it_is() {
        let mut watched = Watched::new(vec![Stamp::default()]);
        let place = watched.seen.as_ptr();
        assert!(!watched.is_due(vec![Stamp::default()], Instant::now()));
        assert_eq!(watched.seen.as_ptr(), place);
    }

    #[test]
    fn a_failed_read_is_due_again_after_a_pause_that_grows() {
        let (mut watched, begun) = (Watched::new(Vec::new()), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert!(!watched.is_due(Vec::new(), begun));
        assert!(watched.failed("EMFILE".into(), begun), "said");
        assert!(!watched.is_due(Vec::new(), begun) && watched.is_due(Vec::new(), at(1)));
        assert!(!watched.failed("EMFILE".into(), at(1)), "said already");
        assert!(!watched.is_due(Vec::new(), at(2)) && watched.is_due(Vec::new(), at(3)));
        assert!(watched.failed("EIO".into(), at(3)), "another reason");
        for _ in 0..10 {
            watched.failed("EIO".into(), at(3));
        }
        assert!(!watched.is_due(Vec::new(), at(62)) && watched.is_due(Vec::new(), at(63)), "a minute at most");
        watched.done();
        assert!(!watched.is_due(Vec::new(), at(1000)));
        watched.failed("EIO".into(), at(1000));
        let changed = vec![Stamp([1; 6])];
        assert!(!watched.is_due(changed.clone(), at(1000)));
        assert!(watched.is_due(changed.clone(), at(1000)), "a change is due before the pause is over");
        assert!(!watched.is_due(changed, at(2000)), "and begins anew");
    }

    #[test]
    fn stamps_cross_to_another_process() {
        let stamp = Stamp([1, 2, u64::MAX, 4, 5, 6]);
        assert_eq!(Stamp::from_bytes(&stamp.to_bytes()), stamp);
    }
}
