//! Checks passwords within a budget.
//!
//! A hash that must wait longer than [`WAIT_MAX`] for its turn is not computed: the answer is then [`Verdict::Busy`]. A failure
//! takes the same work whether the login exists or not. A password that was right lately is known again without a hash.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::argon;
use super::budget::Budget;
pub use super::budget::Priority;
use super::cache::Cache;
use super::users::{self, Users};
use crate::smtp::sasl::Credentials;

/// Checks passwords; safe to share.
#[derive(Debug)]
pub struct Verifier {
    budget: Budget,
    cache: Cache,
    wait_max: Duration,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No time for it: try later.
    Busy,
    /// Login and label.
    Right {
        /// The login in its canonical form.
        login: String,
        /// The label of the password that fitted; may be empty.
        label: String,
    },
    /// Unknown login or wrong password; the client is not told which.
    Wrong,
}

/// How long a hash may wait for its turn.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

impl Verifier {
    /// A verifier that computes `cores` hashes at once, in `memory` octets together.
    pub fn new(cores: usize, memory: u64) -> Self {
        Self { budget: Budget::new(cores, memory), cache: Cache::new(), wait_max: WAIT_MAX }
    }

    /// The same, with another wait_max than [`WAIT_MAX`].
    pub fn with_wait_max(mut self, wait_max: Duration) -> Self {
        self.wait_max = wait_max;
        self
    }

    /// Frees the memory of hashes after a while without any, and forgets passwords that were right long ago; called once a second.
    pub fn release_idle_memory(&self) {
        self.budget.release_idle_memory();
        self.cache.sweep();
    }

    /// From now on passwords of these users are known again without a hash, and those of others are forgotten.
    pub fn use_users(&self, users: &Arc<Users>) {
        self.cache.use_users(users);
    }

    /// Checks credentials against `users`, which are a new generation whenever the file was read anew.
    pub fn verify(&self, users: &Arc<Users>, credentials: &Credentials, priority: Priority) -> Verdict {
        let login = users::canonical(&credentials.login);
        let digest = self.cache.digest(&login, &credentials.password);
        if !credentials.foreign
            && let Some(label) = self.cache.get(users, &digest)
        {
            return Verdict::Right { login, label };
        }
        let deadline = Instant::now() + self.wait_max;
        for password in users.passwords(&login) {
            match self
                .budget
                .run(password.hash.cost(), priority, deadline, |scratch| password.hash.matches(&credentials.password, scratch))
            {
                None => return Verdict::Busy,
                Some(true) if !credentials.foreign => {
                    self.cache.insert(users, digest, &password.label);
                    return Verdict::Right { login, label: password.label.clone() };
                }
                Some(_) => {}
            }
        }
        for cost in users.padding(&login) {
            if self
                .budget
                .run(cost, priority, deadline, |scratch| argon::dummy_hash(cost, &credentials.password, scratch))
                .is_none()
            {
                return Verdict::Busy;
            }
        }
        Verdict::Wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_again_only_while_the_users_are_the_same() {
        let line = format!("a:{}", argon::hash(b"right").unwrap());
        let (one, two) = (Arc::new(Users::parse(&line, 1 << 30).unwrap()), Arc::new(Users::parse("", 1 << 30).unwrap()));
        let verifier = Verifier::new(1, 1 << 30);
        verifier.use_users(&one);
        let credentials = |password: &[u8]| Credentials { login: "A".into(), password: password.to_vec().into(), foreign: false };
        let right = Verdict::Right { login: "a".into(), label: String::new() };
        assert_eq!(verifier.verify(&one, &credentials(b"right"), Priority::Clean), right);
        let digest = verifier.cache.digest("a", b"right");
        assert!(verifier.cache.get(&one, &digest).is_some());
        assert_eq!(verifier.verify(&one, &credentials(b"right"), Priority::Clean), right);
        assert_eq!(verifier.verify(&one, &credentials(b"wrong"), Priority::Clean), Verdict::Wrong);
        assert_eq!(verifier.verify(&two, &credentials(b"right"), Priority::Clean), Verdict::Wrong);
    }

    #[test]
    fn a_foreign_identity_is_wrong_whatever_the_password() {
        let users = Arc::new(Users::parse(&format!("a:{}", argon::hash(b"right").unwrap()), 1 << 30).unwrap());
        let verifier = Verifier::new(1, 1 << 30);
        verifier.use_users(&users);
        let credentials = |foreign| Credentials { login: "a".into(), password: b"right".to_vec().into(), foreign };
        let verdict = |foreign| verifier.verify(&users, &credentials(foreign), Priority::Clean);
        assert_eq!(verdict(true), Verdict::Wrong);
        assert_ne!(verdict(false), Verdict::Wrong);
        assert_eq!(verdict(true), Verdict::Wrong, "nor if it is known again");
    }
}
