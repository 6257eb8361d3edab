//! Checks credentials, for the driver of a connection: the throttle counts the attempt before the hash.

use std::sync::Arc;
use std::time::Instant;

use super::Driver;
use super::caller::Caller;
use crate::auth::argon::Hash;
use crate::auth::throttle::Denied;
use crate::auth::users::Users;
use crate::auth::verify::{Priority, Verdict, WAIT_MAX};
use crate::net::stream::Link;
use crate::smtp::address::ReversePath;
use crate::smtp::reply::{Refusal, Refused};
use crate::smtp::sasl::Credentials;

/// The password that a session has logged in with.
#[derive(Debug)]
pub(super) struct Proved {
    login: String,
    label: String,
    /// Of the passwords with this label.
    hashes: Vec<Hash>,
    /// The users among which it was found last.
    users: Arc<Users>,
}

impl Proved {
    fn new(users: &Arc<Users>, login: &str, label: &str) -> Self {
        let of_label = users.passwords(login).iter().filter(|password| password.label == label);
        let hashes = of_label.map(|password| password.hash.clone()).collect();
        Self { login: login.to_owned(), label: label.to_owned(), hashes, users: Arc::clone(users) }
    }

    /// The label; empty without one.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// False once the password was changed or removed.
    fn holds(&mut self, users: &Arc<Users>) -> bool {
        if Arc::ptr_eq(users, &self.users) {
            return true;
        }
        self.users = Arc::clone(users);
        users.passwords(&self.login).iter().any(|password| self.hashes.contains(&password.hash))
    }
}

impl<L: Link> Driver<'_, L> {
    #[inline(never)]
    pub(super) fn verify(&mut self, mechanism: &'static str, credentials: &Credentials) -> Result<String, Refused> {
        let limits = &self.snapshot.config.limits;
        let address = self.connection.peer.ip();
        let (context, login) = (self.context, &credentials.login);
        let failed = |why: Refusal, reason: &str| {
            self.log.login_failed(mechanism, login, reason);
            Err(why.into())
        };
        let refused = |why: Refusal| failed(why, why.parts().reason);
        let attempt = match context.throttle.attempt(address, login, limits.auth_failures, WAIT_MAX) {
            Ok(attempt) => attempt,
            Err(Denied::Blocked) => return refused(Refusal::AuthThrottled),
            Err(Denied::Busy) => return refused(Refusal::AuthBusy),
        };
        let has_failed = context.throttle.has_failed(address, Instant::now());
        let priority = if has_failed { Priority::Failed } else { Priority::Clean };
        // The users of now, not of this session's snapshot: a password that was removed meanwhile is of no use.
        let users = Arc::clone(&context.snapshot().users);
        match context.verifier.verify(&users, credentials, priority) {
            Verdict::Busy => refused(Refusal::AuthBusy),
            Verdict::Wrong => {
                if attempt.failed(Instant::now()) {
                    self.log.throttled(login);
                }
                // For the operator alone: the client is told the same in the same time, whichever it was.
                let reason = match users.passwords(login).is_empty() {
                    true => "unknown-login",
                    // Whatever the password was.
                    false if credentials.foreign => "other-identity",
                    false => "wrong-password",
                };
                failed(Refusal::BadCredentials, reason)
            }
            Verdict::Right { login, label } => {
                attempt.succeeded();
                self.log.login(mechanism, &login, &label);
                self.credentials = Some(Proved::new(&users, &login, &label));
                self.wire.link().clock().trust();
                if let Some(slot) = self.connection.slot {
                    slot.log_in(&login);
                }
                Ok(login)
            }
        }
    }

    /// On a local socket the login is there from the start; gives why the caller is not served, if it is not.
    pub(super) fn greet_caller(&mut self) -> Option<Refusal> {
        match self.connection.caller.as_ref()? {
            Err(refusal) => Some(*refusal),
            Ok(caller) => {
                self.log.caller(caller.uid, &caller.user, &caller.login);
                self.wire.link().clock().trust();
                if let Some(slot) = self.connection.slot {
                    slot.log_in(&caller.login);
                }
                None
            }
        }
    }

    /// The caller on a local socket.
    pub(super) fn caller(&self) -> Option<&Caller> {
        self.connection.caller.as_ref()?.as_ref().ok()
    }

    /// Whether the client may use this sender.
    pub(super) fn check_sender(&self, path: &ReversePath) -> Result<(), Refused> {
        let policy = &self.snapshot.policy;
        match self.caller() {
            Some(caller) => caller.check_sender(path, policy),
            None => policy.sender(self.session.login(), path),
        }
    }

    /// True if the password of this session was changed or removed meanwhile: what a thief holds open ends with its next
    /// command.
    pub(super) fn is_password_gone(&mut self) -> bool {
        let Some(proved) = &mut self.credentials else { return false };
        !proved.holds(&self.context.snapshot().users)
    }
}
