//! Fresh queue ids: the time in microseconds and twelve random bits, never less than one given before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::queue::QueueId;

/// Gives ids that are unique in this process, and greater than those that it was told of.
#[derive(Debug, Default)]
pub(super) struct Ids(AtomicU64);

/// Bits that are random, so that two processes at one time do not give the same.
const RANDOM_BITS: u32 = 12;

impl Ids {
    /// An id that is in use already.
    pub(super) fn seen(&self, id: QueueId) {
        self.0.fetch_max(id.bits(), Ordering::Relaxed);
    }

    pub(super) fn fresh(&self) -> QueueId {
        let mut random = [0; 2];
        // Without randomness an id is unique in this process yet, and a file is never written over.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        self.after(micros << RANDOM_BITS | u64::from(u16::from_ne_bytes(random) >> (16 - RANDOM_BITS)))
    }

    fn after(&self, wanted: u64) -> QueueId {
        let next = |last: u64| wanted.max(last.saturating_add(1));
        let last = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        QueueId::from_bits(next(last.unwrap_or_else(|last| last)))
    }
}

/// Seconds since 1970 at which an id was given: the arrival of the message.
pub fn arrived(id: QueueId) -> u64 {
    (id.bits() >> RANDOM_BITS) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_ascend_though_the_clock_stands_or_goes_back() {
        let ids = Ids::default();
        let wanted = [500, 500, 499, 3, 501, 502, 900, 0];
        let given: Vec<u64> = wanted.iter().map(|wanted| ids.after(*wanted).bits()).collect();
        assert_eq!(given, [500, 501, 502, 503, 504, 505, 900, 901]);
        ids.seen(QueueId::from_bits(2000));
        ids.seen(QueueId::from_bits(10));
        assert_eq!(ids.after(1000).bits(), 2001);
    }

    #[test]
    fn an_id_tells_the_time() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let ids = Ids::default();
        let (first, second) = (ids.fresh(), ids.fresh());
        assert!(first < second && first.to_string() < second.to_string());
        assert!((now..=now + 5).contains(&arrived(first)));
    }
}
