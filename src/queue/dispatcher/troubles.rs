//! What failed last with each destination that rests: for notices, and for an operator's question. Of one that does not rest
//! nothing is kept, so that there are no more than the schedule has.

use std::collections::HashMap;

use crate::queue::schedule::{Destination, Schedule};
use crate::queue::work::Attempt;

/// See the module's description.
#[derive(Default)]
pub(super) struct Troubles {
    last: HashMap<Destination, Attempt>,
    /// So many were left when those were let go that rest no more.
    left: usize,
}

/// Fewer are not looked through.
const FEW: usize = 64;

impl Troubles {
    /// Keeps what has failed, if its destination rests by now.
    pub(super) fn keep(&mut self, destination: Destination, attempt: Attempt, schedule: &Schedule) {
        if !schedule.rests(&destination) {
            self.last.remove(&destination);
            return;
        }
        // A destination may be let go while it rests, with its last message.
        if self.last.len() >= (2 * self.left).max(FEW) {
            self.last.retain(|known, _| schedule.rests(known));
            self.left = self.last.len();
        }
        self.last.insert(destination, attempt);
    }

    pub(super) fn forget(&mut self, destination: &Destination) {
        self.last.remove(destination);
    }

    pub(super) fn of(&self, destination: &Destination) -> Option<&Attempt> {
        self.last.get(destination)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::QueueId;
    use crate::queue::schedule::{Action, Finished, Now, Part, Queued, Settings, Trouble, Verb};
    use crate::smtp::remote::Stage;

    const NOW: Now = Now { unix: 1_700_000_000, boot: 1000 };

    /// One message to a domain of its own, which fails so.
    fn fail(schedule: &mut Schedule, number: u64, trouble: Trouble) -> (Destination, QueueId) {
        let (destination, id) = (Destination::mx(&format!("{number}.example")), QueueId::from_bits(number + 1));
        let part = Part { destination: destination.clone(), recipients: vec![0], waits: 0, due: 0 };
        let (login, parts) = ("alice".into(), vec![part]);
        let (since, scanned, asks_delay, warned, held) = (NOW.unix, false, false, false, None);
        assert!(schedule.accepted(&Queued { id, login, since, scanned, asks_delay, warned, held, parts }, NOW));
        let job = std::iter::from_fn(|| schedule.action()).find_map(|action| match action {
            Action::Send(job) => Some(job),
            _ => None,
        });
        let (courier, others) = (job.unwrap().courier, Some((Stage::Connect, trouble)));
        let done = Finished { courier, results: Vec::new(), others, parameters: false, accepted: false, open: false };
        schedule.finished(&done, NOW);
        (destination, id)
    }

    #[test]
    fn no_more_are_kept_than_rest() {
        let mut schedule = Schedule::new(Settings::default(), 4, NOW);
        let mut troubles = Troubles::default();
        let (gone, _) = fail(&mut schedule, 0, Trouble::NameUnknown);
        troubles.keep(gone.clone(), Attempt::unreached(NOW.unix), &schedule);
        assert!(troubles.of(&gone).is_none(), "it does not rest");
        let (rests, _) = fail(&mut schedule, 1, Trouble::Dropped);
        troubles.keep(rests.clone(), Attempt::unreached(NOW.unix), &schedule);
        assert_eq!(troubles.of(&rests), Some(&Attempt::unreached(NOW.unix)));
        // A destination that goes with its message says nothing, and is let go all the same.
        for number in 2..1000 {
            let (destination, id) = fail(&mut schedule, number, Trouble::Dropped);
            troubles.keep(destination, Attempt::unreached(NOW.unix), &schedule);
            schedule.operator(Verb::Drop, &[id], NOW);
        }
        assert!(troubles.last.len() <= FEW, "{}", troubles.last.len());
        assert_eq!(troubles.of(&rests), Some(&Attempt::unreached(NOW.unix)));
        troubles.forget(&rests);
        assert!(troubles.of(&rests).is_none());
    }
}
