//! Which refusals of a transaction are written: the first of each kind at once, the repeats as a count at its end.

use crate::smtp::reply::{Refusal, Refused};

/// The refusals since the last transaction ended.
#[derive(Debug, Default)]
pub struct Refusals {
    seen: Vec<(Repeat, Refused)>,
}

/// A refusal that was repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// The command that was refused.
    pub command: &'static str,
    /// Why.
    pub why: Refusal,
    /// How many times more than once.
    pub count: u64,
}

/// Refusals that are told apart by what they are about; beyond them, by their reason alone.
const TOLD_APART: usize = 32;

impl Refusals {
    /// Counts a refusal; true if it is to be written now.
    pub fn is_new(&mut self, command: &'static str, refused: &Refused) -> bool {
        let many = self.seen.len() >= TOLD_APART;
        let same = |(repeat, other): &&mut (Repeat, Refused)| {
            repeat.command == command && repeat.why == refused.why && (many || other == refused)
        };
        if let Some((repeat, _)) = self.seen.iter_mut().find(same) {
            repeat.count += 1;
            return false;
        }
        self.seen.push((Repeat { command, why: refused.why, count: 0 }, refused.clone()));
        true
    }

    /// The repeats, at the end of a transaction or of the session.
    pub fn take(&mut self) -> impl Iterator<Item = Repeat> + use<> {
        std::mem::take(&mut self.seen).into_iter().map(|(repeat, _)| repeat).filter(|repeat| repeat.count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_written_and_the_others_are_counted() {
        let mut refusals = Refusals::default();
        let full = Refused::from(Refusal::TooManyRecipients);
        let unknown = |name: &str| Refused::about(Refusal::UnknownMailbox, name);
        assert!(refusals.is_new("RCPT", &full) && !refusals.is_new("RCPT", &full));
        assert!(refusals.is_new("RCPT", &unknown("a")) && refusals.is_new("RCPT", &unknown("b")));
        assert!(!refusals.is_new("RCPT", &unknown("a")) && !refusals.is_new("RCPT", &full));
        let repeats: Vec<_> = refusals.take().map(|repeat| (repeat.why, repeat.count)).collect();
        assert_eq!(repeats, [(Refusal::TooManyRecipients, 2), (Refusal::UnknownMailbox, 1)]);
        assert_eq!(refusals.take().count(), 0);
        assert!(refusals.is_new("RCPT", &full), "the next transaction");
    }

    #[test]
    fn memory_is_bounded() {
        let mut refusals = Refusals::default();
        let written = (0..1000).filter(|n| refusals.is_new("RCPT", &Refused::about(Refusal::UnknownMailbox, n))).count();
        assert_eq!((written, refusals.seen.len()), (TOLD_APART, TOLD_APART));
        assert!(refusals.is_new("RCPT", &Refusal::TooManyRecipients.into()), "another reason is still told");
    }
}
