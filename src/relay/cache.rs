//! Answers of name servers, kept as long as they hold.
//!
//! Bounded by entries and by octets. Where there is no room, what no longer holds goes first, then all of it: that costs
//! questions, and never an answer.

use std::collections::HashMap;
use std::mem::size_of;
use std::time::Instant;

use super::dns::{Answer, Data, Kind};

/// The answers to questions for a name and a kind; the names are in lower case.
#[derive(Debug, Default)]
pub struct Cache {
    answers: HashMap<Key, Kept>,
    octets: usize,
}

/// A name and what is asked for.
pub type Key = (String, Kind);

#[derive(Debug)]
struct Kept {
    answer: Answer,
    until: Instant,
    octets: usize,
}

/// Answers, at most.
pub const ANSWERS_MAX: usize = 10_000;
/// Octets of all answers together, at most; what the table itself needs comes to as much again at the worst.
pub const OCTETS_MAX: usize = 8 << 20;
/// Records of an answer that is kept, at most: one of thousands would put the others out.
pub const RECORDS_MAX: usize = 100;

impl Cache {
    /// The answer that still holds.
    pub fn find(&self, key: &Key, now: Instant) -> Option<Answer> {
        self.answers.get(key).filter(|kept| kept.until > now).map(|kept| kept.answer.clone())
    }

    /// Keeps an answer for its time to live, unless it is very long.
    pub fn keep(&mut self, key: Key, answer: &Answer, now: Instant) {
        let octets = size_of::<(Key, Kept)>() + key.0.len() + answer.records.iter().map(Data::octets).sum::<usize>();
        if answer.ttl.is_zero() || answer.records.len() > RECORDS_MAX || octets > OCTETS_MAX {
            return;
        }
        self.remove(&key);
        if self.is_full(octets) {
            self.answers.retain(|_, kept| kept.until > now);
            self.octets = self.answers.values().map(|kept| kept.octets).sum();
            if self.is_full(octets) {
                *self = Self::default();
            }
        }
        self.octets += octets;
        self.answers.insert(key, Kept { answer: answer.clone(), until: now + answer.ttl, octets });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.answers.remove(key) {
            self.octets -= kept.octets;
        }
    }

    fn is_full(&self, more: usize) -> bool {
        self.answers.len() >= ANSWERS_MAX || self.octets + more > OCTETS_MAX
    }
}

impl Data {
    /// What it takes in memory.
    fn octets(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Address(_) => 0,
                Self::Exchange(_, text) | Self::Name(text) => text.len(),
                Self::Text(text) => text.len(),
            }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn answer(records: Vec<Data>, ttl: Duration) -> Answer {
        Answer { records, exists: true, authenticated: false, ttl }
    }

    fn key(number: usize) -> Key {
        (format!("n{number}.example"), Kind::Mx)
    }

    fn recounted(cache: &Cache) -> usize {
        cache.answers.values().map(|kept| kept.octets).sum()
    }

    #[test]
    fn an_answer_is_kept_for_its_time_to_live() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (some, other) = (answer(vec![Data::Name("a.x".into())], MINUTE), answer(Vec::new(), 2 * MINUTE));
        cache.keep(key(1), &some, now);
        assert_eq!(cache.find(&key(1), now + MINUTE - Duration::from_millis(1)), Some(some));
        assert_eq!(cache.find(&key(1), now + MINUTE), None);
        assert_eq!(cache.find(&("n1.example".to_owned(), Kind::A), now), None, "another kind");
        // A new answer in place of the old one counts once.
        cache.keep(key(1), &other, now);
        assert_eq!((cache.find(&key(1), now + MINUTE), cache.answers.len()), (Some(other), 1));
        assert_eq!(cache.octets, recounted(&cache));
        cache.keep(key(2), &answer(Vec::new(), Duration::ZERO), now);
        assert_eq!(cache.answers.len(), 1, "what holds for no time");
    }

    #[test]
    fn so_many_answers() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..3 * ANSWERS_MAX {
            cache.keep(key(number), &answer(Vec::new(), MINUTE), now);
            assert!(cache.answers.len() <= ANSWERS_MAX && cache.find(&key(number), now).is_some(), "{number}");
        }
        assert_eq!(cache.octets, recounted(&cache));
    }

    #[test]
    fn so_many_octets() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let long = || answer((0..RECORDS_MAX).map(|_| Data::Exchange(1, "x".repeat(254))).collect(), MINUTE);
        for number in 0..1000 {
            cache.keep(key(number), &long(), now);
            assert!(cache.octets <= OCTETS_MAX && cache.find(&key(number), now).is_some(), "{number}: {}", cache.octets);
        }
        assert!(cache.octets == recounted(&cache) && cache.answers.len() > 100);
        let mut many = long();
        many.records.push(Data::Exchange(1, String::new()));
        cache.keep(key(1000), &many, now);
        assert_eq!(cache.find(&key(1000), now), None, "one record too many");
    }

    #[test]
    fn what_no_longer_holds_goes_first() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..ANSWERS_MAX {
            cache.keep(key(number), &answer(Vec::new(), if number < 10 { 2 * MINUTE } else { MINUTE }), now);
        }
        cache.keep(key(ANSWERS_MAX), &answer(Vec::new(), MINUTE), now + MINUTE);
        assert_eq!(cache.answers.len(), 11);
        assert!((0..10).all(|number| cache.find(&key(number), now + MINUTE).is_some()));
        assert_eq!(cache.octets, recounted(&cache));
    }
}
