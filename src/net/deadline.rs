//! Every wait of a session, in one place.
//!
//! A slow client holds a worker, so no wait is without an end, and no end can be pushed away by sending single octets:
//! a deadline counts from when the server began to wait for the whole thing (a line, a handshake, a flush). Content
//! has a minimum rate instead.

use std::time::{Duration, Instant};

/// What a session waits for; the log's `where=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A response in an AUTH exchange.
    Auth,
    /// The octets of a chunk.
    Chunk,
    /// A command line.
    Command,
    /// Content after DATA.
    Data,
    /// A last reply to a client that is told to leave.
    Farewell,
    /// The TLS handshake.
    Handshake,
    /// Capacity to write replies: the client reads nothing.
    Reply,
}

/// The limits that deadlines are made of.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLimits {
    /// Between commands.
    pub idle: Duration,
    /// From when a worker takes the connection up to login, or to MAIL where there is no login.
    pub login: Duration,
    /// From when a worker takes the connection up to the end.
    pub session: Duration,
    /// Octets a second of content, averaged.
    pub data_rate: u64,
}

/// Knows until when a session may wait.
#[derive(Clone, Debug)]
pub struct Clock {
    limits: DeadlineLimits,
    opened: Instant,
    wait: Wait,
    since: Instant,
    moved: Instant,
    octets: u64,
    trusted: bool,
}

/// The idle limit while most workers are busy and connections have to wait.
const IDLE_UNDER_PRESSURE: Duration = Duration::from_secs(10);
/// How long a client may be slower than the data rate at the start of a message.
const DATA_GRACE: Duration = Duration::from_secs(30);
/// How long a client may take to read replies.
const REPLY_MAX: Duration = Duration::from_secs(60);
/// How long the last reply may take.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

impl Wait {
    /// The word for the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Chunk => "chunk",
            Self::Command => "command",
            Self::Data => "data",
            Self::Farewell => "farewell",
            Self::Handshake => "handshake",
            Self::Reply => "reply",
        }
    }
}

impl Clock {
    /// A clock for a session that began at `opened`, which is when a worker took the connection up.
    pub fn new(limits: DeadlineLimits, opened: Instant) -> Self {
        Self { limits, opened, wait: Wait::Command, since: opened, moved: opened, octets: 0, trusted: false }
    }

    /// Begins a wait at `now`.
    pub fn begin(&mut self, wait: Wait, now: Instant) {
        self.wait = wait;
        self.since = now;
        self.moved = now;
        self.octets = 0;
    }

    /// True while the content of a message is waited for.
    pub fn is_in_content(&self) -> bool {
        matches!(self.wait, Wait::Chunk | Wait::Data)
    }

    /// Octets a second that content should come with.
    pub fn data_rate(&self) -> u64 {
        self.limits.data_rate
    }

    /// What is waited for.
    pub fn wait(&self) -> Wait {
        self.wait
    }

    /// So many octets of content came at `now`.
    pub fn moved(&mut self, octets: usize, now: Instant) {
        self.octets = self.octets.saturating_add(octets as u64);
        self.moved = now;
    }

    /// The client has logged in, or begun a transaction where there is no login: the short total limit is over.
    pub fn trust(&mut self) {
        self.trusted = true;
    }

    /// Until when the session may last, whatever comes.
    pub fn end(&self) -> Instant {
        let total = self.opened + self.limits.session;
        if self.trusted { total } else { total.min(self.opened + self.limits.login) }
    }

    /// Until when the present wait may last; `pressure` if most workers are busy and connections have to wait.
    pub fn deadline(&self, pressure: bool) -> Instant {
        let idle = if pressure { self.limits.idle.min(IDLE_UNDER_PRESSURE) } else { self.limits.idle };
        let total = self.end();
        match self.wait {
            Wait::Auth | Wait::Command | Wait::Handshake => total.min(self.since + idle),
            Wait::Chunk | Wait::Data => {
                let earned = Duration::from_secs(self.octets / self.limits.data_rate.max(1));
                total.min(self.moved + idle).min(self.since + DATA_GRACE.min(idle) + earned)
            }
            Wait::Farewell => self.since + FAREWELL_MAX,
            Wait::Reply => total.max(self.since + FAREWELL_MAX).min(self.since + idle.min(REPLY_MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn clock(opened: Instant) -> Clock {
        let limits = DeadlineLimits { idle: 300 * SECOND, login: 60 * SECOND, session: 3600 * SECOND, data_rate: 500 };
        Clock::new(limits, opened)
    }

    /// Rows: what is waited for, since when, trusted, pressure; until when.
    #[test]
    fn deadlines() {
        let rows = [
            (Wait::Handshake, 0, false, false, 60),
            (Wait::Command, 0, false, false, 60),
            (Wait::Command, 50, false, false, 60),
            (Wait::Auth, 59, false, false, 60),
            (Wait::Command, 0, false, true, 10),
            (Wait::Command, 100, true, false, 400),
            (Wait::Command, 100, true, true, 110),
            (Wait::Command, 3500, true, false, 3600),
            (Wait::Data, 100, true, false, 130),
            (Wait::Data, 100, true, true, 110),
            (Wait::Data, 3590, true, false, 3600),
            (Wait::Reply, 100, true, false, 160),
            (Wait::Reply, 100, true, true, 110),
            (Wait::Farewell, 3600, true, true, 3602),
        ];
        let opened = Instant::now();
        for (wait, since, trusted, pressure, until) in rows {
            let mut clock = clock(opened);
            if trusted {
                clock.trust();
            }
            clock.begin(wait, opened + since * SECOND);
            assert_eq!(clock.deadline(pressure) - opened, until * SECOND, "{wait:?} since {since}, {trusted}, {pressure}");
        }
    }

    #[test]
    fn content_earns_time_by_its_rate() {
        let opened = Instant::now();
        let mut clock = clock(opened);
        clock.trust();
        clock.begin(Wait::Data, opened);
        clock.moved(50_000, opened + SECOND);
        assert_eq!(clock.deadline(false) - opened, 130 * SECOND);
        // One octet a second does not get it further.
        for second in 2..130 {
            clock.moved(1, opened + second * SECOND);
        }
        assert_eq!(clock.deadline(false) - opened, 130 * SECOND);
        // Nor does a large credit allow long silence.
        clock.moved(50_000_000, opened + 130 * SECOND);
        assert_eq!(clock.deadline(false) - opened, 430 * SECOND);
    }
}
