//! How much a login may send: so many messages, so many recipients elsewhere, within a minute, an hour or a day.
//!
//! A stolen password stops after some hundred mails. What is about to be sent is reserved when its recipient is named, and
//! given back where no 250 follows. Every limit is a sliding window of [`SLICES`] slices: an old slice counts in full until
//! all of it is out of the window, so never more than the limit passes within any window, and at most one slice less.
//! Time comes in from outside. Memory is bounded by the logins there are; what is in memory prints as text, to be kept over a
//! restart.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// Messages with any recipient.
    Messages,
    /// Recipients that are not local.
    Recipients,
}

impl Unit {
    /// All units.
    pub const ALL: [Self; 2] = [Self::Messages, Self::Recipients];
}

/// So many within so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Limit {
    /// What is counted.
    pub unit: Unit,
    /// How many, at most; 1 at least.
    pub count: u32,
    /// Within how many seconds.
    pub seconds: u32,
}

/// The limits of each login, in lower case; `*` is for all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendingLimits(pub BTreeMap<String, Vec<Limit>>);

/// What the logins have sent lately.
#[derive(Debug, Default)]
pub struct Counters {
    logins: HashMap<String, Vec<Window>>,
}

/// One limit's window of one login.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    limit: Limit,
    /// The number of the newest slice: the time divided by the length of a slice.
    newest: u64,
    /// Counts by slice number modulo [`SLICES`].
    slices: [u32; SLICES],
    /// The number of the slice in which something was last said of this window, and how much.
    told: Option<(u64, Level)>,
}

/// How full a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Four fifths are used.
    Near,
    /// No more is let through.
    Full,
}

/// A limit has been reached for the first time within its window, or is near.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Which limit.
    pub limit: Limit,
    /// How full.
    pub level: Level,
}

/// What was reserved; to be given back where no 250 follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Messages.
    pub messages: u32,
    /// Recipients.
    pub recipients: u32,
}

/// A limit that lets no more through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Which limit.
    pub limit: Limit,
    /// When it goes on, in seconds of Unix time.
    pub until: u64,
}

/// What is counted of every login, though it stops nothing: messages and recipients of a day.
pub const TALLIES: [Limit; 2] = [
    Limit { unit: Unit::Messages, count: u32::MAX, seconds: 86_400 },
    Limit { unit: Unit::Recipients, count: u32::MAX, seconds: 86_400 },
];

/// Slices of a window.
pub const SLICES: usize = 60;

impl Limit {
    /// Reads `20/m`, `200/h` or `1000/d`.
    pub fn parse(unit: Unit, text: &str) -> Option<Self> {
        let (count, period) = text.split_once('/')?;
        let seconds = match period.trim() {
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let count = count.trim().parse().ok().filter(|count| *count > 0)?;
        Some(Self { unit, count, seconds })
    }

    /// The time it is for: `minute`, `hour` or `day`.
    pub fn period(&self) -> &'static str {
        match self.seconds {
            60 => "minute",
            3600 => "hour",
            _ => "day",
        }
    }

    fn slice(&self, now: u64) -> u64 {
        now / self.slice_seconds()
    }

    fn slice_seconds(&self) -> u64 {
        u64::from(self.seconds).div_ceil(SLICES as u64)
    }
}

impl SendingLimits {
    /// The limits of a login, followed by the [`TALLIES`].
    pub fn and_tallies(&self, login: &str) -> Vec<Limit> {
        self.of(login).iter().copied().chain(TALLIES).collect()
    }

    /// The limits of a login.
    pub fn of(&self, login: &str) -> &[Limit] {
        self.0.get(login).or_else(|| self.0.get("*")).map_or(&[], Vec::as_slice)
    }
}

impl Counters {
    /// Reserves what a recipient adds, all or nothing; gives what has been reached by it for the first time in its window.
    pub fn reserve(&mut self, login: &str, limits: &[Limit], wanted: Reserved, now: u64) -> Result<Vec<Reached>, Exceeded> {
        if limits.is_empty() {
            return Ok(Vec::new());
        }
        let windows = self.windows(login, limits, now);
        let exceeded =
            windows.iter().filter(|window| window.used().saturating_add(wanted.of(window.limit.unit)) > window.limit.count);
        // The one that lasts longest says when it goes on.
        let exceeded = exceeded.map(|window| Exceeded { limit: window.limit, until: window.free_at(wanted) });
        if let Some(exceeded) = exceeded.max_by_key(|exceeded| exceeded.until) {
            return Err(exceeded);
        }
        let mut reached = Vec::new();
        for window in windows {
            window.add(wanted.of(window.limit.unit));
            reached.extend(window.tell(Level::Near));
        }
        Ok(reached)
    }

    /// Says that a limit stopped something; gives it if it is the first time within its window.
    pub fn stopped(&mut self, login: &str, limit: Limit, now: u64) -> Option<Reached> {
        let window = self.logins.get_mut(login)?.iter_mut().find(|window| window.limit == limit)?;
        window.advance(now);
        window.tell(Level::Full)
    }

    /// Gives back what was reserved at `since`.
    pub fn give_back(&mut self, login: &str, reserved: Reserved, since: u64) {
        for window in self.logins.get_mut(login).into_iter().flatten() {
            window.take_back(reserved.of(window.limit.unit), since);
        }
    }

    /// Each limit of a login with how much of it is used.
    pub fn used(&mut self, login: &str, limits: &[Limit], now: u64) -> Vec<(Limit, u32)> {
        self.windows(login, limits, now).iter().map(|window| (window.limit, window.used())).collect()
    }

    /// The windows of these limits, brought up to now. One whose count was changed keeps what was counted, one that is new
    /// begins empty, one that is configured no more goes.
    fn windows(&mut self, login: &str, limits: &[Limit], now: u64) -> &mut [Window] {
        let windows = self.logins.entry(login.to_owned()).or_default();
        if !windows.iter().map(|window| &window.limit).eq(limits) {
            let old = std::mem::take(windows);
            windows.extend(limits.iter().map(|limit| Window::following(&old, *limit, now)));
        }
        windows.iter_mut().for_each(|window| window.advance(now));
        windows
    }

    /// The logins that something is known of.
    pub fn logins(&self) -> impl Iterator<Item = &str> {
        self.logins.keys().map(String::as_str)
    }

    /// Forgets logins that have sent nothing within all of their windows.
    pub fn sweep(&mut self, now: u64) {
        self.logins.retain(|_, windows| {
            windows.iter_mut().for_each(|window| window.advance(now));
            windows.iter().any(|window| window.used() > 0)
        });
    }

    /// Reads what [`Display`](fmt::Display) wrote. What cannot be read is left out: it is better to forget a count than to
    /// stop all mail.
    pub fn parse(text: &str) -> Self {
        let mut counters = Self::default();
        for line in text.lines() {
            if let Some((login, window)) = Window::parse(line) {
                counters.logins.entry(login).or_default().push(window);
            }
        }
        counters
    }
}

impl Window {
    fn following(old: &[Self], limit: Limit, now: u64) -> Self {
        let same = |known: &&Self| known.limit.unit == limit.unit && known.limit.seconds == limit.seconds;
        match old.iter().find(|known| known.limit == limit).or_else(|| old.iter().find(same)) {
            Some(known) if known.limit == limit => known.clone(),
            Some(known) => Self { limit, told: None, ..known.clone() },
            None => Self::new(limit, now),
        }
    }

    fn new(limit: Limit, now: u64) -> Self {
        Self { limit, newest: limit.slice(now), slices: [0; SLICES], told: None }
    }

    /// Empties the slices that have left the window. A clock that goes back moves nothing.
    fn advance(&mut self, now: u64) {
        let slice = self.limit.slice(now);
        let passed = slice.saturating_sub(self.newest);
        for number in 1..=passed.min(SLICES as u64) {
            self.slices[index(self.newest + number)] = 0;
        }
        self.newest = self.newest.max(slice);
        if self.told.is_some_and(|(at, _)| self.newest - at >= SLICES as u64) {
            self.told = None;
        }
    }

    fn used(&self) -> u32 {
        self.slices.iter().fold(0, |sum, slice| sum.saturating_add(*slice))
    }

    fn add(&mut self, count: u32) {
        let slice = &mut self.slices[index(self.newest)];
        *slice = slice.saturating_add(count);
    }

    /// Takes back what was added at `since`, as long as that is within the window.
    fn take_back(&mut self, count: u32, since: u64) {
        let slice = self.limit.slice(since).min(self.newest);
        if self.newest - slice < SLICES as u64 {
            let slice = &mut self.slices[index(slice)];
            *slice = slice.saturating_sub(count);
        }
    }

    /// When so much has left the window that `wanted` fits.
    fn free_at(&self, wanted: Reserved) -> u64 {
        let mut over = self.used().saturating_add(wanted.of(self.limit.unit)).saturating_sub(self.limit.count);
        let oldest = (self.newest + 1).saturating_sub(SLICES as u64);
        for slice in oldest..=self.newest {
            over = over.saturating_sub(self.slices[index(slice)]);
            if over == 0 {
                return (slice + SLICES as u64) * self.limit.slice_seconds();
            }
        }
        (self.newest + SLICES as u64) * self.limit.slice_seconds()
    }

    /// The level, if it is reached and nothing was said of it within the window.
    fn tell(&mut self, level: Level) -> Option<Reached> {
        let near = u64::from(self.used()) * 5 >= u64::from(self.limit.count) * 4;
        let told = self.told.is_some_and(|(_, known)| known >= level);
        if told || (level == Level::Near && !near) {
            return None;
        }
        self.told = Some((self.newest, level));
        Some(Reached { limit: self.limit, level })
    }

    fn parse(line: &str) -> Option<(String, Self)> {
        let mut words = line.split(' ');
        let login = words.next()?.to_owned();
        let unit = match words.next()? {
            "messages" => Unit::Messages,
            "recipients" => Unit::Recipients,
            _ => return None,
        };
        let limit = Limit::parse(unit, words.next()?)?;
        let newest = words.next()?.parse().ok()?;
        let told = match words.next()?.split_once('@') {
            Some(("near", at)) => Some((at.parse().ok()?, Level::Near)),
            Some(("full", at)) => Some((at.parse().ok()?, Level::Full)),
            _ => None,
        };
        let mut window = Self { limit, newest, slices: [0; SLICES], told: told.filter(|(at, _)| *at <= newest) };
        for (place, count) in window.slices.iter_mut().zip(words.next()?.split(',')) {
            *place = count.parse().ok()?;
        }
        (!login.is_empty()).then_some((login, window))
    }
}

fn index(slice: u64) -> usize {
    usize::try_from(slice % SLICES as u64).unwrap_or(0)
}

impl Reserved {
    fn of(self, unit: Unit) -> u32 {
        match unit {
            Unit::Messages => self.messages,
            Unit::Recipients => self.recipients,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Messages => "messages",
            Self::Recipients => "recipients",
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = match self.seconds {
            60 => 'm',
            3600 => 'h',
            _ => 'd',
        };
        write!(f, "{}/{period}", self.count)
    }
}

/// A line a window: login, unit, limit, newest slice, what was said, counts.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut logins: Vec<_> = self.logins.iter().collect();
        logins.sort_unstable_by_key(|(login, _)| login.as_str());
        for (login, windows) in logins {
            for window in windows {
                let told = match window.told {
                    None => "-".to_owned(),
                    Some((at, Level::Near)) => format!("near@{at}"),
                    Some((at, Level::Full)) => format!("full@{at}"),
                };
                let mut counts = String::new();
                for (number, count) in window.slices.iter().enumerate() {
                    let _ = write!(counts, "{}{count}", if number > 0 { "," } else { "" });
                }
                let Limit { unit, .. } = window.limit;
                writeln!(f, "{login} {unit} {} {} {told} {counts}", window.limit, window.newest)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Reserved = Reserved { messages: 1, recipients: 1 };

    fn limits(messages: &[&str], recipients: &[&str]) -> Vec<Limit> {
        let read = |unit: Unit, list: &[&str]| list.iter().map(|text| Limit::parse(unit, text).unwrap()).collect::<Vec<_>>();
        [read(Unit::Messages, messages), read(Unit::Recipients, recipients)].concat()
    }

    #[test]
    fn limits_as_they_are_written() {
        for (text, want) in [("20/m", Some((20, 60))), ("200/h", Some((200, 3600))), ("1/d", Some((1, 86_400)))] {
            let limit = Limit::parse(Unit::Messages, text);
            assert_eq!(limit.map(|limit| (limit.count, limit.seconds)), want);
            assert_eq!(limit.unwrap().to_string(), text);
        }
        for text in ["0/m", "5", "5/w", "-1/m", "/m", "5/", "many/h", "99999999999/m"] {
            assert_eq!(Limit::parse(Unit::Messages, text), None, "{text}");
        }
    }

    /// Never more than the limit within any window, and the time that is named is right.
    #[test]
    fn no_window_holds_more() {
        let limits = limits(&["20/m"], &[]);
        let mut counters = Counters::default();
        let mut passed = Vec::new();
        for now in 1000..1400 {
            match counters.reserve("a", &limits, ONE, now) {
                Ok(_) => passed.push(now),
                Err(exceeded) => {
                    assert!(exceeded.until > now && exceeded.until <= now + 60, "{now}: {exceeded:?}");
                    let mut later = Counters::parse(&counters.to_string());
                    assert!(later.reserve("a", &limits, ONE, exceeded.until - 1).is_err(), "{now}: {exceeded:?}");
                    assert!(later.reserve("a", &limits, ONE, exceeded.until).is_ok(), "{now}: {exceeded:?}");
                }
            }
        }
        for start in 1000..1400 {
            let within = passed.iter().filter(|at| (start..start + 60).contains(*at)).count();
            assert!(within <= 20, "{within} from {start}");
        }
        assert!(passed.len() >= 20 * 6, "{}", passed.len());
    }

    #[test]
    fn all_or_nothing_and_given_back() {
        let limits = limits(&["10/h"], &["3/h"]);
        let mut counters = Counters::default();
        for _ in 0..3 {
            counters.reserve("a", &limits, ONE, 5000).unwrap();
        }
        let exceeded = counters.reserve("a", &limits, ONE, 5000).unwrap_err();
        assert_eq!(exceeded.limit.unit, Unit::Recipients);
        assert_eq!(
            counters.used("a", &limits, 5000).iter().map(|(_, used)| *used).collect::<Vec<_>>(),
            [3, 3],
            "nothing was added"
        );
        counters.reserve("a", &limits, Reserved { messages: 1, recipients: 0 }, 5000).unwrap();
        counters.give_back("a", ONE, 5000);
        assert!(counters.reserve("a", &limits, ONE, 5000).is_ok());
        assert!(counters.reserve("b", &limits, ONE, 5000).is_ok(), "another login");
        counters.give_back("a", ONE, 5000 - 3700);
        assert!(counters.reserve("a", &limits, ONE, 5000).is_err(), "what has left the window is not given back twice");
    }

    #[test]
    fn each_level_is_told_once_a_window() {
        let limits = limits(&["10/m"], &[]);
        let mut counters = Counters::default();
        let mut told = Vec::new();
        for now in 6000..6010 {
            told.extend(counters.reserve("a", &limits, ONE, now).unwrap());
        }
        assert_eq!(told, [Reached { limit: limits[0], level: Level::Near }]);
        let exceeded = counters.reserve("a", &limits, ONE, 6011).unwrap_err();
        assert_eq!(counters.stopped("a", exceeded.limit, 6011).map(|reached| reached.level), Some(Level::Full));
        assert_eq!(counters.stopped("a", exceeded.limit, 6012), None);
        let mut again = Counters::parse(&counters.to_string());
        assert_eq!(again.stopped("a", exceeded.limit, 6012), None, "over a restart too");
        let much: Vec<_> = (0..10).flat_map(|_| counters.reserve("a", &limits, ONE, 6100).unwrap()).collect();
        assert_eq!(much.len(), 1, "another window");
    }

    #[test]
    fn kept_over_a_restart_and_forgotten_when_idle() {
        let limits = limits(&["20/m", "200/h"], &["1000/d"]);
        let mut counters = Counters::default();
        for now in 0..15 {
            counters.reserve("alice@example.org", &limits, ONE, 90_000 + now).unwrap();
        }
        let mut again = Counters::parse(&counters.to_string());
        assert_eq!(again.used("alice@example.org", &limits, 90_020), counters.used("alice@example.org", &limits, 90_020));
        for damaged in [
            "",
            "x",
            "a messages 20/m",
            "a messages 20/m 1 - x",
            "a weights 20/m 1 - 1",
            " messages 20/m 1 - 1",
            "a messages 20/m 1 near@9 1",
        ] {
            let _ = Counters::parse(damaged).used("a", &limits, 90_000);
        }
        again.sweep(90_000 + 2 * 86_400);
        assert!(again.logins.is_empty());
        // The clock goes back: nothing is let through twice.
        let mut back = Counters::default();
        for _ in 0..20 {
            back.reserve("a", &limits, ONE, 90_000).unwrap();
        }
        assert!(back.reserve("a", &limits, ONE, 80_000).is_err());
    }

    #[test]
    fn a_limit_that_was_changed_keeps_what_was_counted() {
        let mut counters = Counters::default();
        for _ in 0..10 {
            counters.reserve("a", &limits(&["10/h"], &[]), ONE, 5000).unwrap();
        }
        let raised = limits(&["5/m", "12/h"], &[]);
        assert_eq!(counters.used("a", &raised, 5000), [(raised[0], 0), (raised[1], 10)]);
        assert!(counters.reserve("a", &limits(&["8/h"], &[]), ONE, 5000).is_err());
    }

    #[test]
    fn limits_of_a_login() {
        let mine = limits(&["1/m"], &[]);
        let all = limits(&["20/m"], &[]);
        let table = SendingLimits(BTreeMap::from([("*".to_owned(), all.clone()), ("a".to_owned(), mine.clone())]));
        assert_eq!((table.of("a"), table.of("b")), (&mine[..], &all[..]));
        assert!(SendingLimits::default().of("a").is_empty());
    }
}
