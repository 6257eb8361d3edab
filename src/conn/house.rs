//! What a session may ask: the settings of the moment, and what all sessions share.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::auth::throttle::Throttle;
use crate::auth::users::Users;
use crate::auth::verify::Verifier;
use crate::config::Config;
use crate::mail::maildir::{Faults, Store};
use crate::net::admission::Network;
use crate::net::tls::Acceptor;
use crate::policy::Policy;
use crate::policy::aliases::Aliases;

/// Everything that a reload replaces. A session keeps what it started with.
#[derive(Debug)]
pub struct Settings {
    /// The configuration.
    pub config: Config,
    /// The users file.
    pub users: Arc<Users>,
    /// The aliases file.
    pub aliases: Aliases,
    /// What follows from the configuration, the users and the aliases.
    pub policy: Policy,
    /// Certificate and key, if there are any.
    pub tls: Option<Acceptor>,
}

/// What all sessions share.
pub struct House {
    settings: RwLock<Arc<Settings>>,
    /// Failed logins.
    pub throttle: Throttle<Network>,
    /// The check of passwords.
    pub verifier: Verifier,
    /// Where mail goes.
    pub store: Store,
    zone: TimeZone,
    messages: AtomicU64,
    /// Told of every file in which a message was stored.
    stored: Option<Box<Told>>,
}

type Told = dyn Fn(&Path) + Send + Sync;

impl House {
    /// A house with these settings.
    pub fn new(settings: Settings, faults: Faults) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            throttle: Throttle::new(),
            verifier: Verifier::new(cores, settings.config.limits.hash_memory),
            store: Store::new(&settings.config.hostname, faults),
            settings: RwLock::new(Arc::new(settings)),
            zone: TimeZone::system(),
            messages: AtomicU64::new(0),
            stored: None,
        }
    }

    /// The same house, with somebody who is told of every stored file.
    pub fn tell_stored(mut self, stored: impl Fn(&Path) + Send + Sync + 'static) -> Self {
        self.stored = Some(Box::new(stored));
        self
    }

    /// The settings of the moment.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the settings for sessions to come.
    pub fn replace(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
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

    /// The time of day where the server stands.
    pub fn now(&self) -> Zoned {
        Timestamp::now().to_zoned(self.zone.clone())
    }
}

impl std::fmt::Debug for House {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("House").finish_non_exhaustive()
    }
}
