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
    known: Mutex<HashMap<Digest, Known>>,
}

#[derive(Debug)]
struct Known {
    users: Arc<Users>,
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

    pub(super) fn get(&self, users: &Arc<Users>, digest: &Digest) -> Option<String> {
        let mut known = self.lock();
        let entry = known.get(digest)?;
        if entry.since.elapsed() >= REMEMBERED || !Arc::ptr_eq(&entry.users, users) {
            known.remove(digest);
            return None;
        }
        Some(entry.label.clone())
    }

    pub(super) fn insert(&self, users: &Arc<Users>, digest: Digest, label: &str) {
        let mut known = self.lock();
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, entry| entry.since.elapsed() < REMEMBERED && Arc::ptr_eq(&entry.users, users));
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
        }
        known.insert(digest, Known { users: Arc::clone(users), label: label.to_owned(), since: Instant::now() });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a password is known again without a hash.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Passwords known again, at most.
const REMEMBERED_MAX: usize = 4096;
