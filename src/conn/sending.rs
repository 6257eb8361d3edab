//! Limits of sending: reserves for a login what a transaction is about to send, and keeps what its owner and the postmaster
//! are told.
//!
//! What is reserved is given back when its [`Reservation`] is dropped, however the transaction ends, unless the message was
//! accepted. Memory is bounded: of each login that has sent within a day the counts, some labels, addresses and subjects.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::policy::sending::{Counters, Exceeded, Level, Limit, Reached, Reserved};

/// What all logins have sent lately; safe to share.
#[derive(Debug, Default)]
pub struct Sending {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    counters: Counters,
    sources: HashMap<String, Sources>,
    reached: Vec<LimitReached>,
    changed: bool,
}

/// Where the messages of a login came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The labels of the passwords that were used.
    pub labels: Places,
    /// The addresses of the clients.
    pub addresses: Places,
    /// Digests of subjects.
    subjects: HashSet<u64>,
    messages: u64,
}

/// Names, each with when it was last seen; the oldest go where there are too many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(Vec<(String, u64)>);

/// A limit that a login has reached, or nearly so.
#[derive(Clone, Debug)]
pub struct LimitReached {
    /// The login.
    pub login: String,
    /// Which limit, and how full its window is.
    pub reached: Reached,
    /// How much of it is used.
    pub used: u32,
    /// Where its messages came from.
    pub sources: Sources,
}

/// Who sends: the login and where it is used.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The login.
    pub login: &'a str,
    /// The label of its password; may be empty.
    pub label: &'a str,
    /// The client's address.
    pub address: &'a str,
}

/// What a transaction has reserved; given back when it is dropped.
#[derive(Debug)]
pub struct Reservation<'a> {
    sending: &'a Sending,
    login: String,
    /// With the time of each, in seconds.
    parts: Vec<(Reserved, u64)>,
}

/// Names that are kept of a kind.
const PLACES_MAX: usize = 16;
/// Octets of an IPv6 address in words, at most.
const ADDRESS_SIZE: usize = 45;
/// Subjects that are told apart.
const SUBJECTS_MAX: usize = 200;
/// A name that was not seen for so long is forgotten.
const DAY: u64 = 86_400;

impl Sending {
    /// Nothing reserved yet.
    pub fn reservation(&self, login: &str) -> Reservation<'_> {
        Reservation { sending: self, login: login.to_owned(), parts: Vec::new() }
    }

    /// A message was accepted, with this subject.
    pub fn accepted(&self, login: &str, subject: &[u8]) {
        let mut hasher = DefaultHasher::new();
        subject.trim_ascii().hash(&mut hasher);
        let mut inner = self.lock();
        let sources = inner.sources.entry(login.to_owned()).or_default();
        sources.messages += 1;
        if sources.subjects.len() < SUBJECTS_MAX {
            sources.subjects.insert(hasher.finish());
        }
    }

    /// The limits that were reached since the last call, each once a window.
    pub fn take_reached(&self) -> Vec<LimitReached> {
        mem::take(&mut self.lock().reached)
    }

    /// Each of these limits of a login with how much of it is used.
    pub fn used(&self, login: &str, limits: &[Limit], now: u64) -> Vec<(Limit, u32)> {
        self.lock().counters.used(login, limits, now)
    }

    /// Goes on with what [`Self::to_text`] gave.
    pub fn read_text(&self, text: &str) {
        self.lock().counters = Counters::parse(text);
    }

    /// What is to be kept over a restart, if it has changed since the last call. Forgets what is too old.
    pub fn to_text(&self, now: u64) -> Option<String> {
        let mut inner = self.lock();
        if !mem::take(&mut inner.changed) {
            return None;
        }
        inner.counters.sweep(now);
        let Inner { counters, sources, .. } = &mut *inner;
        let known: HashSet<&str> = counters.logins().collect();
        sources.retain(|login, _| known.contains(login.as_str()));
        sources.values_mut().for_each(|sources| sources.sweep(now));
        Some(counters.to_string())
    }

    fn reserve(&self, sender: Sender<'_>, limits: &[Limit], wanted: Reserved, now: u64) -> Result<(), Exceeded> {
        let login = sender.login;
        let mut inner = self.lock();
        inner.changed = true;
        let sources = inner.sources.entry(login.to_owned()).or_default();
        sources.labels.see(sender.label, now);
        sources.addresses.see(sender.address, now);
        let (reached, exceeded) = match inner.counters.reserve(login, limits, wanted, now) {
            Ok(reached) => (reached, None),
            Err(exceeded) => (inner.counters.stopped(login, exceeded.limit, now).into_iter().collect::<Vec<_>>(), Some(exceeded)),
        };
        for reached in reached {
            let used = inner.counters.used(login, limits, now);
            let used = used.iter().find(|(limit, _)| *limit == reached.limit).map_or(0, |(_, used)| *used);
            let sources = inner.sources.get(login).cloned().unwrap_or_default();
            inner.reached.push(LimitReached { login: login.to_owned(), reached, used, sources });
        }
        exceeded.map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// True before anything was reserved.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Reserves more, or says which limit lets no more through.
    pub fn add(&mut self, sender: Sender<'_>, limits: &[Limit], wanted: Reserved, now: u64) -> Result<(), Exceeded> {
        self.sending.reserve(sender, limits, wanted, now)?;
        match self.parts.last_mut() {
            Some((sum, at)) if *at == now => {
                sum.messages += wanted.messages;
                sum.recipients += wanted.recipients;
            }
            _ => self.parts.push((wanted, now)),
        }
        Ok(())
    }

    /// The message was accepted.
    pub fn keep(mut self) {
        self.parts.clear();
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.parts.is_empty() {
            return;
        }
        let mut inner = self.sending.lock();
        for (reserved, since) in self.parts.drain(..) {
            inner.counters.give_back(&self.login, reserved, since);
        }
    }
}

impl LimitReached {
    /// True if the login is stopped, false if it nears the limit.
    pub fn is_stop(&self) -> bool {
        self.reached.level == Level::Full
    }
}

impl Sources {
    /// How many messages were accepted since the start or within a day, and how many subjects they had; the last is true if there were
    /// too many to count.
    pub fn subjects(&self) -> (u64, usize, bool) {
        (self.messages, self.subjects.len(), self.subjects.len() >= SUBJECTS_MAX)
    }

    fn sweep(&mut self, now: u64) {
        for places in [&mut self.labels, &mut self.addresses] {
            places.0.retain(|(_, seen)| *seen + DAY > now);
        }
        if self.addresses.0.is_empty() {
            *self = Self::default();
        }
    }
}

impl Places {
    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    fn see(&mut self, name: &str, now: u64) {
        if name.is_empty() {
            return;
        }
        if let Some((_, seen)) = self.0.iter_mut().find(|(known, _)| known == name) {
            *seen = now;
        } else if self.0.len() < PLACES_MAX {
            let mut place = String::with_capacity(ADDRESS_SIZE.max(name.len()));
            place.push_str(name);
            self.0.push((place, now));
        } else if let Some((oldest, seen)) = self.0.iter_mut().min_by_key(|(_, seen)| *seen) {
            // In the same memory: a new piece would lie among what sessions hold, and keep that from being given back.
            name.clone_into(oldest);
            *seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::sending::Unit;

    const SENDER: Sender<'_> = Sender { login: "a@x.example", label: "phone", address: "192.0.2.7" };
    const ONE: Reserved = Reserved { messages: 1, recipients: 0 };

    #[test]
    fn what_is_not_accepted_is_given_back() {
        let sending = Sending::default();
        let limits = [Limit::parse(Unit::Messages, "2/h").unwrap()];
        let used = || sending.used(SENDER.login, &limits, 5000)[0].1;
        let mut dropped = sending.reservation(SENDER.login);
        dropped.add(SENDER, &limits, ONE, 5000).unwrap();
        assert_eq!(used(), 1);
        drop(dropped);
        assert_eq!(used(), 0);
        for _ in 0..2 {
            let mut kept = sending.reservation(SENDER.login);
            kept.add(SENDER, &limits, ONE, 5000).unwrap();
            kept.keep();
        }
        assert_eq!(used(), 2);
        let mut refused = sending.reservation(SENDER.login);
        assert!(refused.add(SENDER, &limits, ONE, 5000).is_err() && refused.is_empty());
        drop(refused);
        assert_eq!(used(), 2, "what was refused was never counted");
        let stops: Vec<bool> = sending.take_reached().iter().map(LimitReached::is_stop).collect();
        assert_eq!(stops, [false, true]);
        assert!(sending.take_reached().is_empty());
    }

    #[test]
    fn what_is_told_of_a_login_is_bounded_and_forgotten() {
        let sending = Sending::default();
        let limits = [Limit::parse(Unit::Messages, "1000/h").unwrap()];
        for n in 0..900 {
            let address = format!("192.0.2.{n}");
            let mut kept = sending.reservation(SENDER.login);
            kept.add(Sender { address: &address, ..SENDER }, &limits, ONE, 5000 + n).unwrap();
            kept.keep();
            sending.accepted(SENDER.login, format!(" subject {n}\n").as_bytes());
        }
        let reached = sending.take_reached().pop().unwrap();
        assert_eq!(reached.sources.addresses.names().count(), PLACES_MAX);
        assert_eq!(reached.sources.labels.names().collect::<Vec<_>>(), ["phone"]);
        assert_eq!(reached.sources.subjects(), (799, SUBJECTS_MAX, true));
        let text = sending.to_text(6000).unwrap();
        assert_eq!(sending.to_text(6000), None, "nothing has changed since");
        let again = Sending::default();
        again.read_text(&text);
        assert_eq!(again.used(SENDER.login, &limits, 6000), [(limits[0], 900)]);
        sending.lock().changed = true;
        assert_eq!(sending.to_text(6000 + 2 * DAY).as_deref(), Some(""));
        assert!(sending.lock().sources.is_empty());
    }
}
