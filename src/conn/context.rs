//! State shared by all sessions, and the current settings.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::outbox::Outbox;
use super::sending::Sending;
use crate::auth::throttle::Throttle;
use crate::auth::users::Users;
use crate::auth::verify::Verifier;
use crate::config::Config;
use crate::journal::budget::LogBudget;
use crate::mail::durable::Faults;
use crate::mail::maildir::Store;
use crate::mail::signing::Keyring;
use crate::net::tls::TlsServer;
use crate::policy::Policy;
use crate::policy::aliases::Aliases;

/// The settings of one reload: all that a reload replaces. A session keeps the snapshot it started with.
#[derive(Debug)]
pub struct Snapshot {
    /// The configuration.
    pub config: Config,
    /// The users file.
    pub users: Arc<Users>,
    /// The aliases file.
    pub aliases: Aliases,
    /// What follows from the configuration, the users and the aliases.
    pub policy: Policy,
    /// Certificate and key, if there are any.
    pub tls: Option<TlsServer>,
    /// The keys that sign what is sent on.
    pub keyring: Arc<Keyring>,
}

/// What all sessions share.
pub struct Context {
    snapshot: RwLock<Arc<Snapshot>>,
    /// Failed logins.
    pub throttle: Throttle,
    /// The check of passwords.
    pub verifier: Verifier,
    /// Where mail for mailboxes goes.
    pub store: Store,
    /// What each network may make the log say.
    pub log_budget: Arc<LogBudget>,
    /// Where mail for other domains goes; without it, none is taken.
    pub outbox: Option<Outbox>,
    /// What logins have sent, against their limits.
    pub sending: Arc<Sending>,
    zone: TimeZone,
    messages: AtomicU64,
    /// Called with every file in which a message was stored.
    stored: Option<Box<StoredCallback>>,
}

type StoredCallback = dyn Fn(&Path) + Send + Sync;

impl Context {
    /// A context with these settings.
    pub fn new(snapshot: Snapshot, faults: Faults) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let verifier = Verifier::new(cores, snapshot.config.limits.hash_memory);
        verifier.use_users(&snapshot.users);
        Self {
            throttle: Throttle::new(),
            verifier,
            store: Store::new(&snapshot.config.hostname, faults),
            snapshot: RwLock::new(Arc::new(snapshot)),
            log_budget: Arc::default(),
            zone: TimeZone::system(),
            messages: AtomicU64::new(0),
            stored: None,
            outbox: None,
            sending: Arc::default(),
        }
    }

    /// Takes mail for other domains, where the policy does.
    pub fn with_outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = Some(outbox);
        self
    }

    /// Allows so many failed logins, whatever the login, for a process that serves one connection alone.
    pub fn limit_failed_logins(mut self, limit: u32) -> Self {
        self.throttle = Throttle::with_network_limit(limit);
        self
    }

    /// Registers a callback for every stored file.
    pub fn tell_stored(mut self, stored: impl Fn(&Path) + Send + Sync + 'static) -> Self {
        self.stored = Some(Box::new(stored));
        self
    }

    /// The current settings.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the settings for sessions to come. Passwords that were known again without a hash are forgotten if the users
    /// are others.
    pub fn replace(&self, snapshot: Snapshot) {
        self.verifier.use_users(&snapshot.users);
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }

    /// Messages accepted since the start.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Counts a message and tells of its files.
    pub fn count_message<'a>(&self, files: impl Iterator<Item = &'a Path>) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        if let Some(stored) = &self.stored {
            files.for_each(stored);
        }
    }

    /// A time in seconds of Unix time, as local time.
    pub fn time_at(&self, seconds: u64) -> Zoned {
        let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        time.unwrap_or(Timestamp::MAX).to_zoned(self.zone.clone())
    }

    /// The current local time.
    pub fn now(&self) -> Zoned {
        Timestamp::now().to_zoned(self.zone.clone())
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}
