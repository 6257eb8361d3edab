//! Checks credentials, for the driver of a connection: the throttle is asked before the hash.

use std::time::Instant;

use super::Driver;
use crate::auth::verify::{Priority, Verdict};
use crate::net::admission::Network;
use crate::net::stream::Link;
use crate::smtp::reply::{Refusal, Refused};
use crate::smtp::sasl::Credentials;

impl<L: Link> Driver<'_, L> {
    #[inline(never)]
    pub(super) fn verify(&mut self, mechanism: &'static str, credentials: &Credentials) -> Result<String, Refused> {
        let limits = &self.snapshot.config.limits;
        let network = Network::of(self.connection.peer.ip());
        let (context, login, now) = (self.context, &credentials.login, Instant::now());
        let failed = |why: Refusal, reason: &str| {
            self.log.login_failed(mechanism, login, reason);
            Err(why.into())
        };
        if context.throttle.blocks(network, login, now) {
            return failed(Refusal::AuthThrottled, Refusal::AuthThrottled.parts().reason);
        }
        let priority = if context.throttle.has_failed(network, now) { Priority::Failed } else { Priority::Clean };
        match context.verifier.verify(&self.snapshot.users, credentials, priority) {
            Verdict::Busy => failed(Refusal::AuthBusy, Refusal::AuthBusy.parts().reason),
            Verdict::Wrong => {
                if context.throttle.failed(network, login, limits.auth_failures, Instant::now()) {
                    self.log.throttled(login);
                }
                // For the operator alone: the client is told the same in the same time, whichever it was.
                let known = !self.snapshot.users.passwords(login).is_empty();
                failed(Refusal::BadCredentials, if known { "wrong-password" } else { "unknown-login" })
            }
            Verdict::Right { login, label } => {
                context.throttle.succeeded(network, &login);
                self.log.login(mechanism, &login, &label);
                self.wire.link().clock().trust();
                if let Some(slot) = self.connection.slot {
                    slot.log_in();
                }
                Ok(login)
            }
        }
    }
}
