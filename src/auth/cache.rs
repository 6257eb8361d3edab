//! Passwords that were right lately, known again by a keyed digest.
//!
//! The key is fresh at each start and in memory alone. A digest is forgotten when the users change, or after ten minutes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use super::users::Users;

pub(super) type Digest = [u8; 32];

/// Passwords that were right lately.
#[derive(Debug)]
pub(super) struct Cache {
    key: hmac::Key,
    known: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Whose passwords these are; a file that was read anew is another.
    users: Option<Arc<Users>>,
    entries: HashMap<Digest, Known>,
}

#[derive(Debug)]
struct Known {
    label: String,
    since: Instant,
}

impl Cache {
    pub(super) fn new() -> Self {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        // Without randomness nothing is remembered under a key that could be guessed: the process must not go on.
        aws_lc_rs::rand::fill(&mut *key).expect("the system gives random octets");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &*key), known: Mutex::default() }
    }

    pub(super) fn digest(&self, login: &str, password: &[u8]) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(login.len() as u64).to_le_bytes());
        context.update(login.as_bytes());
        context.update(password);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }

    /// Forgets the passwords of all other users, at once; none of theirs is remembered afterwards, should a check end late.
    pub(super) fn use_users(&self, users: &Arc<Users>) {
        let mut known = self.lock();
        if !known.users.as_ref().is_some_and(|old| Arc::ptr_eq(old, users)) {
            *known = Table { users: Some(Arc::clone(users)), entries: HashMap::new() };
        }
    }

    /// Drops what is too old.
    pub(super) fn sweep(&self) {
        self.lock().entries.retain(|_, entry| entry.since.elapsed() < REMEMBERED);
    }

    pub(super) fn get(&self, users: &Arc<Users>, digest: &Digest) -> Option<String> {
        let known = self.lock();
        let entry = known.entries.get(digest)?;
        let good = known.is_of(users) && entry.since.elapsed() < REMEMBERED;
        good.then(|| entry.label.clone())
    }

    pub(super) fn insert(&self, users: &Arc<Users>, digest: Digest, label: &str) {
        let mut known = self.lock();
        if !known.is_of(users) {
            return;
        }
        if known.entries.len() >= REMEMBERED_MAX {
            known.entries.retain(|_, entry| entry.since.elapsed() < REMEMBERED);
            if known.entries.len() >= REMEMBERED_MAX {
                known.entries.clear();
            }
        }
        known.entries.insert(digest, Known { label: label.to_owned(), since: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn is_of(&self, users: &Arc<Users>) -> bool {
        self.users.as_ref().is_some_and(|own| Arc::ptr_eq(own, users))
    }
}

/// How long a password is known again without a hash.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Passwords known again, at most.
const REMEMBERED_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_other_users_or_too_old_goes_at_once() {
        let (old, new) = (Arc::new(Users::default()), Arc::new(Users::default()));
        let cache = Cache::new();
        let digest = cache.digest("a", b"right");
        assert_ne!(digest, cache.digest("ar", b"ight"), "login and password are told apart");
        cache.use_users(&old);
        cache.insert(&old, digest, "phone");
        assert_eq!(cache.get(&old, &digest).as_deref(), Some("phone"));
        cache.use_users(&old);
        assert!(cache.get(&old, &digest).is_some(), "the same users");
        cache.use_users(&new);
        assert!(cache.lock().entries.is_empty());
        assert_eq!(Arc::strong_count(&old), 1, "nothing keeps the old users");
        cache.insert(&old, digest, "late");
        assert!(cache.lock().entries.is_empty(), "a check that ends late");
        cache.insert(&new, digest, "");
        let long_ago = Instant::now().checked_sub(REMEMBERED).unwrap();
        cache.lock().entries.get_mut(&digest).unwrap().since = long_ago;
        assert_eq!(cache.get(&new, &digest), None);
        cache.sweep();
        assert!(cache.lock().entries.is_empty());
    }
}
