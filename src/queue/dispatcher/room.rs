//! How much the queue may hold, and places in it that are taken before a message is accepted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Queue, lock};

/// Pairs that were accepted, or are about to be, and that the schedule does not have yet.
#[derive(Debug, Default)]
pub(super) struct Coming {
    all: u64,
    by_login: HashMap<String, u64>,
}

/// Places in the queue; free when it is dropped.
pub struct Room {
    queue: Arc<Queue>,
    login: String,
    pairs: usize,
}

/// There are no places left for this login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl Coming {
    fn add(&mut self, login: &str, pairs: usize) {
        self.all += pairs as u64;
        *self.by_login.entry(login.to_owned()).or_default() += pairs as u64;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut coming = lock(&self.queue.coming);
        coming.all = coming.all.saturating_sub(self.pairs as u64);
        if let Some(own) = coming.by_login.get_mut(&self.login) {
            *own = own.saturating_sub(self.pairs as u64);
            if *own == 0 {
                coming.by_login.remove(&self.login);
            }
        }
    }
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Room").field("pairs", &self.pairs).finish_non_exhaustive()
    }
}

impl Queue {
    /// Whether a login may put so many pairs more into the queue: all together have `queue_max`, and beyond half of it a
    /// login has at most half of what the others leave.
    pub fn has_room(&self, login: &str, pairs: usize) -> bool {
        self.fits(login, pairs, &lock(&self.coming))
    }

    /// Takes so many places, until the message is accepted or given up.
    pub fn take_room(self: &Arc<Self>, login: &str, pairs: usize) -> Result<Room, QueueFull> {
        let mut coming = lock(&self.coming);
        if !self.fits(login, pairs, &coming) {
            return Err(QueueFull);
        }
        coming.add(login, pairs);
        Ok(Room { queue: Arc::clone(self), login: login.to_owned(), pairs })
    }

    fn fits(&self, login: &str, pairs: usize, coming: &Coming) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let waiting = u64::from(self.pairs.load(Ordering::Relaxed)) + coming.all;
        let all = waiting + pairs as u64;
        if all * 2 <= most || all > most {
            return all <= most;
        }
        let own = u64::from(self.schedule().pairs_of(login)) + coming.by_login.get(login).copied().unwrap_or(0);
        own + pairs as u64 <= most.saturating_sub(waiting.saturating_sub(own)) / 2
    }
}
