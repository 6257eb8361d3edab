//! Which domains had TLS, so that a connection without it is noticed. Pure.
//!
//! Bounded: where there are too many, the tenth that had it longest ago makes room. A domain is remembered for [`MEMORY`]
//! after its last connection with TLS. There is a text form that can be kept over a restart: one line a domain, its name and
//! seconds since 1970. A line that cannot be read is left out and counted; the worst that damage does is that a domain is not
//! remembered. A clock that was set back makes none forgotten.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::smtp::address;

/// Remembers domains.
#[derive(Debug, Default)]
pub struct Secured {
    /// Each with seconds since 1970 of its last connection with TLS.
    domains: HashMap<String, u64>,
    /// Something is not in the text that was given out last.
    changed: bool,
}

/// Seconds for which a domain is remembered.
pub const MEMORY: u64 = 90 * DAY;
/// Domains that are remembered, at most.
pub const DOMAINS_MAX: usize = 10_000;
/// A text holds times that are as exact as this, so that a domain with much mail is no reason to write one.
const DAY: u64 = 86_400;

impl Secured {
    /// A domain has a connection with TLS at this time, in seconds since 1970.
    pub fn note(&mut self, domain: &str, now: u64) {
        let before = self.insert(domain, now);
        self.changed |= before.is_none_or(|before| before / DAY != now / DAY);
    }

    /// True if a domain had TLS within [`MEMORY`]. A clock that was set back makes none forgotten.
    pub fn had_tls(&self, domain: &str, now: u64) -> bool {
        self.domains.get(domain).is_some_and(|noted| now.saturating_sub(*noted) < MEMORY)
    }

    /// Domains that are remembered.
    pub fn len(&self) -> usize {
        self.domains.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// All of them as text, if that has changed since it was asked for last.
    pub fn to_text(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut text = String::new();
        for (domain, noted) in &self.domains {
            let _ = writeln!(text, "{domain} {noted}");
        }
        Some(text)
    }

    /// Takes up what [`Self::to_text`] gave. What is in the future counts as now. What is old is left out, and so is what cannot
    /// be read; of this it gives the number.
    pub fn read_text(&mut self, text: &str, now: u64) -> usize {
        let mut bad = 0;
        for line in text.lines() {
            let Some((domain, noted)) = read_line(line) else {
                bad += 1;
                continue;
            };
            let noted = noted.min(now);
            if now - noted < MEMORY {
                self.insert(domain, noted);
            }
        }
        bad
    }

    fn insert(&mut self, domain: &str, noted: u64) -> Option<u64> {
        if self.domains.len() >= DOMAINS_MAX && !self.domains.contains_key(domain) {
            let mut times: Vec<u64> = self.domains.values().copied().collect();
            let (_, limit, _) = times.select_nth_unstable(DOMAINS_MAX / 10);
            let limit = *limit;
            // Those of the last second among them are as good as others: so many leave, and no more.
            let mut most = DOMAINS_MAX / 10;
            self.domains.retain(|_, noted| {
                let leaves = *noted <= limit && most > 0;
                most -= usize::from(leaves);
                !leaves
            });
        }
        self.domains.insert(domain.to_owned(), noted)
    }
}

fn read_line(line: &str) -> Option<(&str, u64)> {
    let (domain, noted) = line.split_once(' ')?;
    address::is_mail_domain(domain).then_some(())?;
    Some((domain, noted.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    #[test]
    fn a_domain_is_remembered_for_a_while() {
        let mut secured = Secured::default();
        assert!(!secured.had_tls("a.example", NOW) && secured.is_empty());
        secured.note("a.example", NOW);
        let rows = [(NOW, true), (NOW - 1, true), (NOW + MEMORY - 1, true), (NOW + MEMORY, false)];
        for (now, had) in rows {
            assert_eq!(secured.had_tls("a.example", now), had, "{now}");
        }
        assert!(!secured.had_tls("b.example", NOW));
    }

    /// A text is given where there is something new in it: once a domain and a day.
    #[test]
    fn a_text_is_given_seldom() {
        let mut secured = Secured::default();
        assert_eq!(secured.to_text(), None);
        let day = NOW - NOW % DAY;
        for (at, changed) in [(0, true), (1, false), (DAY - 1, false), (DAY, true), (DAY + 1, false)] {
            secured.note("a.example", day + at);
            assert_eq!(secured.to_text().is_some(), changed, "{at}");
        }
        secured.note("b.example", day + DAY + 1);
        assert!(secured.to_text().is_some());
    }

    #[test]
    fn the_text_is_read_whatever_else_it_holds() {
        let mut secured = Secured::default();
        // The third has marks, which are no letters and in domains all the same.
        let names = ["a.example", "b\u{fc}cher.example", "\u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}.example", "_x.example"];
        for (age, name) in [0, MEMORY - 1, 2, 3].into_iter().zip(names) {
            secured.note(name, NOW - age);
        }
        let text = secured.to_text().unwrap();
        let (old, long) = (NOW - MEMORY, format!("{}.example", "x".repeat(64)));
        let damage =
            format!("\n \nc.example\nc.example x\nc.example -1\n{long} {NOW}\na b {NOW}\nc d.example\nc/d.example {NOW}\n");
        let mut later = Secured::default();
        assert_eq!(later.read_text(&format!("{damage}d.example {old}\n\u{fffd} {NOW}\n{text}e.examp"), NOW), 11);
        for (domain, had) in names.map(|name| (name, true)).into_iter().chain([("c.example", false), ("d.example", false)]) {
            assert_eq!(later.had_tls(domain, NOW), had, "{domain}");
        }
        assert_eq!((later.len(), later.to_text()), (4, None), "what was read need not be written");
    }

    /// As a machine has it that begins without the time. What is far in the future is not remembered for longer than the rest.
    #[test]
    fn a_clock_that_was_set_back_makes_none_forgotten() {
        let mut secured = Secured::default();
        let text = format!("a.example {}\nb.example {}\n", NOW + 60, u64::MAX);
        assert_eq!(secured.read_text(&text, NOW), 0);
        for domain in ["a.example", "b.example"] {
            assert!(secured.had_tls(domain, NOW) && secured.had_tls(domain, NOW + MEMORY - 1), "{domain}");
            assert!(!secured.had_tls(domain, NOW + MEMORY), "{domain}");
        }
    }

    /// The ones that had TLS longest ago make room; of many at one second no more than others.
    #[test]
    fn there_are_no_more_than_so_many() {
        let mut secured = Secured::default();
        for number in 0..2 * DOMAINS_MAX as u64 {
            secured.note(&number.to_string(), NOW + number);
            assert!(secured.len() <= DOMAINS_MAX);
        }
        assert!(secured.len() >= DOMAINS_MAX * 9 / 10);
        assert!(secured.had_tls(&(2 * DOMAINS_MAX - 1).to_string(), NOW) && secured.had_tls("12000", NOW));
        assert!(!secured.had_tls("0", NOW));
        for number in 0..2 * DOMAINS_MAX {
            secured.note(&format!("x{number}"), NOW + 30_000);
            assert!(secured.len() >= DOMAINS_MAX * 9 / 10 && secured.len() <= DOMAINS_MAX);
        }
        let mut read = Secured::default();
        let text: String = (0..3 * DOMAINS_MAX).map(|number| format!("{number}.example {NOW}\n")).collect();
        assert_eq!(read.read_text(&text, NOW), 0);
        assert!(read.len() <= DOMAINS_MAX);
    }
}
