//! Whether mail by MX works at all: domains rest one by one, and what keeps all of them from being reached is this side's.
//!
//! A provider that lets nothing out to port 25, name servers that do not answer, a `source` that is no address of this
//! machine: each shows as domain after domain that is not reached while none is. Postmaster is told once, and once more when
//! one works. What is kept of it is a few names.

use std::sync::Arc;

use super::hop::Hop;
use super::table::Time;
use super::{Action, Reason, Schedule};

/// What was learnt of domains lately.
#[derive(Default)]
pub(super) struct Direct {
    /// The last domains that were not reached, [`DOMAINS`] at most: each with when and why.
    failed: Vec<(Arc<str>, Time, Reason)>,
    /// When the first of these was not.
    since: Time,
    /// When one worked last.
    worked: Option<Time>,
    /// Postmaster knows, and since when it does not work.
    told: Option<Time>,
}

impl Direct {
    /// A domain was not reached. Gives why, if postmaster is to be told of it now.
    fn failed(&mut self, domain: &Arc<str>, reason: Reason, now: Time) -> Option<Reason> {
        self.failed.retain(|(_, at, _)| *at + WINDOW > now);
        if self.failed.is_empty() {
            self.since = now;
        }
        self.failed.retain(|(name, ..)| name != domain);
        if self.failed.len() == DOMAINS {
            self.failed.remove(0);
        }
        self.failed.push((Arc::clone(domain), now, reason));
        let lasts = self.since + TELL_AFTER <= now && self.worked.is_none_or(|worked| worked + HOUR <= now);
        // A server that has only just been set up may send to one domain for days.
        let never = self.worked.is_none() && self.since + NEVER_AFTER <= now;
        // What is wrong with `source` is wrong with it for every domain.
        let certain = reason == Reason::Source || (lasts && self.failed.len() == DOMAINS) || never;
        if !certain || self.told.is_some() {
            return None;
        }
        self.told = Some(self.since);
        let of = |wanted| self.failed.iter().any(|(_, _, reason)| *reason == wanted);
        [Reason::Source, Reason::Connect].into_iter().find(|reason| of(*reason)).or(Some(Reason::Dns))
    }

    /// Something answered: name servers, or with `connected` a mail server too. What failed before that is not all there is.
    fn answered(&mut self, connected: bool) {
        self.failed.retain(|(_, _, reason)| !connected && *reason != Reason::Dns);
    }

    /// Postmaster knows that no domain is reached.
    pub(super) fn is_told(&self) -> bool {
        self.told.is_some()
    }

    /// A domain works. Gives since when none did, if postmaster was told of that.
    fn worked(&mut self, now: Time) -> Option<Time> {
        self.failed.clear();
        self.worked = Some(now);
        self.told.take()
    }
}

impl Schedule {
    /// A domain rests from now on, or goes on resting. `next` is the time of its next probe.
    pub(super) fn direct_failed(&mut self, number: u32, reason: Reason, next: Time) {
        let now = self.clock.now;
        if !matches!(reason, Reason::Connect | Reason::Dns | Reason::Source) {
            self.direct.answered(true);
            return;
        }
        let Some(reason) = self.direct.failed(&self.hops[number].destination.name, reason, now) else { return };
        let next = self.direct_hops().filter_map(|(_, hop)| hop.rest.as_ref()).map(|rest| rest.next).fold(next, Time::min);
        self.actions.push_back(Action::TellDirect {
            reason: Some(reason),
            since: self.clock.unix_of(self.direct.since),
            waiting: self.direct_waiting(),
            domains: self.direct.failed.iter().map(|(name, ..)| Arc::clone(name)).collect(),
            next: self.clock.unix_of(next),
        });
    }

    /// A domain's own records say for good that it gets no mail: name servers answer.
    pub(super) fn direct_answered(&mut self) {
        self.direct.answered(false);
    }

    /// A domain works.
    pub(super) fn direct_works(&mut self) {
        let Some(since) = self.direct.worked(self.clock.now) else { return };
        let (since, waiting) = (self.clock.unix_of(since), self.direct_waiting());
        self.actions.push_back(Action::TellDirect { reason: None, since, waiting, domains: Vec::new(), next: 0 });
    }

    /// Every domain.
    pub(super) fn direct_hops(&self) -> impl Iterator<Item = (u32, &Hop)> {
        self.hops.iter().filter(|(_, hop)| !hop.is_smarthost())
    }

    fn direct_waiting(&self) -> u32 {
        self.direct_hops().filter(|(_, hop)| hop.rest.is_some()).map(|(number, _)| self.waiting(number)).sum()
    }
}

/// Domains that show that it is none of them.
const DOMAINS: usize = 5;

/// Seconds that one of these counts for: an hour between probes, and what a probe takes.
const WINDOW: Time = HOUR + 15 * 60;
/// Seconds since the first of them after which postmaster is told.
const TELL_AFTER: Time = 15 * 60;
/// The same where none was reached since the start, however few they are.
const NEVER_AFTER: Time = 4 * HOUR;
const HOUR: Time = 3600;

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens at a minute.
    enum Event {
        Failed(&'static str, Reason),
        NoSuchDomain,
        Refused,
        Works,
    }
    use Event::{Failed, NoSuchDomain, Refused, Works};
    use Reason::{Connect, Dns, Source};

    #[derive(Debug, PartialEq)]
    enum Told {
        Fails(Reason),
        Works,
    }

    /// What is told, each with its minute.
    fn told(events: Vec<(Time, Event)>) -> Vec<(Time, Told)> {
        let mut direct = Direct::default();
        let mut told = Vec::new();
        for (minute, event) in events {
            let now = 1_000_000 + 60 * minute;
            match event {
                Failed(domain, reason) => {
                    told.extend(direct.failed(&domain.into(), reason, now).map(|reason| (minute, Told::Fails(reason))));
                }
                NoSuchDomain => direct.answered(false),
                Refused => direct.answered(true),
                Works => told.extend(direct.worked(now).map(|_| (minute, Told::Works))),
            }
            assert!(direct.failed.len() <= DOMAINS);
        }
        told
    }

    fn each(minute: Time, reason: Reason) -> Vec<(Time, Event)> {
        ["a", "b", "c", "d", "e"].into_iter().map(|domain| (minute, Failed(domain, reason))).collect()
    }

    fn all(parts: impl IntoIterator<Item = Vec<(Time, Event)>>) -> Vec<(Time, Event)> {
        parts.into_iter().flatten().collect()
    }

    #[test]
    fn what_is_told_and_when() {
        let one = |minute, event| vec![(minute, event)];
        let often = |minutes: std::ops::Range<Time>| minutes.map(|at| (at, Failed("a", Connect))).collect::<Vec<_>>();
        let rows = [
            ("at once it may be chance", each(0, Connect), vec![]),
            ("a quarter of an hour", all([each(0, Connect), each(15, Connect)]), vec![(15, Told::Fails(Connect))]),
            ("not before", all([each(0, Connect), each(14, Connect)]), vec![]),
            ("one domain, however often", often(0..240), vec![]),
            ("for hours, and none worked ever", often(0..241), vec![(240, Told::Fails(Connect))]),
            ("but one did", all([one(0, Works), often(1..500)]), vec![]),
            ("with a long pause", all([often(0..60), often(180..400)]), vec![]),
            ("four domains", all((0..9).map(|at| each(10 * at, Connect).into_iter().skip(1).collect())), vec![]),
            ("names", all([each(0, Dns), each(20, Dns)]), vec![(20, Told::Fails(Dns))]),
            ("names answer", all([each(0, Dns), one(19, NoSuchDomain), each(20, Dns).split_off(1)]), vec![]),
            (
                "names say nothing of connections",
                all([each(0, Connect), one(19, NoSuchDomain), each(20, Connect)]),
                vec![(20, Told::Fails(Connect))],
            ),
            ("both", all([each(0, Dns), one(20, Failed("f", Connect))]), vec![(20, Told::Fails(Connect))]),
            ("a source is certain", one(0, Failed("a", Source)), vec![(0, Told::Fails(Source))]),
            ("a server that refuses was reached", all([each(0, Connect), one(19, Refused), each(20, Connect)]), vec![]),
            ("one has worked", all([one(0, Works), each(1, Connect), each(59, Connect)]), vec![]),
            ("an hour ago", all([one(0, Works), each(1, Connect), each(60, Connect)]), vec![(60, Told::Fails(Connect))]),
            ("long ago", all([each(0, Connect), each(75, Connect).split_off(1)]), vec![]),
            (
                "once, and once more",
                all([each(0, Connect), each(20, Connect), each(90, Dns), one(100, Works), one(101, Works)]),
                vec![(20, Told::Fails(Connect)), (100, Told::Works)],
            ),
            (
                "and again",
                all([each(0, Connect), each(20, Connect), one(30, Works), each(90, Connect), each(105, Connect)]),
                vec![(20, Told::Fails(Connect)), (30, Told::Works), (105, Told::Fails(Connect))],
            ),
        ];
        for (what, events, want) in rows {
            assert_eq!(told(events), want, "{what}");
        }
    }
}
