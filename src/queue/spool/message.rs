//! A queued message as its file tells it: envelope, what happened, and what state each recipient is in by that.

use std::fmt;

use super::envelope::Envelope;
use super::record::{Happened, Record, Told, Verdict};
use crate::mail::dkim::Fields;

/// A queued message without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedMessage {
    /// The envelope.
    pub envelope: Envelope,
    /// Where the text is in the file, and how long it is.
    pub text: TextPlace,
    /// Header fields of signatures, of which a route sends one set before the text.
    pub signatures: Vec<Signature>,
    /// What happened, in its order.
    pub log: Vec<Record>,
}

/// A signature of a message. Where a message goes is not settled when it is signed, so there may be one of each set of
/// fields that a route wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The fields that it covers.
    pub fields: Fields,
    /// The header field, folded, without a line end after its last line.
    pub text: String,
}

/// The first line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPlace {
    /// Octets before the text, the first line included.
    pub envelope: u64,
    /// Octets of the text, which has LF line ends.
    pub octets: u64,
    /// Its LFs: as many octets more it takes with CRLF (RFC 1870 section 3).
    pub lines: u64,
}

/// The state of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not tried again, and whether the sender was told.
    Failed {
        /// What was said.
        told: Told,
        /// The sender was told.
        reported: bool,
    },
    /// An attempt got to the final dot, and its result is not known.
    MayHaveArrived {
        /// Waits of its own before that.
        waits: u8,
    },
    /// The next hop has it, and whether the sender was told.
    Sent {
        /// What was said.
        told: Told,
        /// The sender was told.
        reported: bool,
    },
    /// To be tried, again or for the first time.
    Waits {
        /// Waits of its own since the arrival or the last release.
        waits: u8,
        /// What was said last.
        told: Option<Told>,
    },
}

/// A file that is no queued message; the text says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged(pub String);

/// Octets of the first line.
pub(super) const FIRST_LINE: usize = "Pillarbox-Queue: 1 envelope=0000000000 message=0000000000 lines=00000000\n".len();
/// Octets of an envelope, at most: far more than 65,535 recipients take.
const ENVELOPE_MAX: u64 = 256 * 1024 * 1024;
/// Attempts that begin, one after the other, without any result, before a message is held.
const BEGINS_MAX: usize = 3;

impl TextPlace {
    /// The first line; `None` if a number has more digits than there is room for.
    pub(super) fn render(&self) -> Option<String> {
        let Self { envelope, octets, lines } = self;
        let line = format!("Pillarbox-Queue: 1 envelope={envelope:010} message={octets:010} lines={lines:08}\n");
        (line.len() == FIRST_LINE).then_some(line)
    }

    /// Reads what [`Self::render`] writes, in a file of `size` octets.
    pub(super) fn parse(line: &[u8], size: u64) -> Result<Self, Damaged> {
        let line = str::from_utf8(line).map_err(|_| Damaged("the first line is not ASCII".into()))?;
        let number = |name: &str, width: usize| {
            let at = line.find(name)? + name.len();
            let digits = line.get(at..at + width).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse().ok()
        };
        let place = (|| {
            Some(Self { envelope: number(" envelope=", 10)?, octets: number(" message=", 10)?, lines: number(" lines=", 8)? })
        })();
        let place = place.filter(|place| place.render().as_deref() == Some(line));
        let place = place.ok_or_else(|| Damaged("the first line is not that of a queued message".into()))?;
        let envelope_fits = (FIRST_LINE as u64 + 1..=ENVELOPE_MAX).contains(&place.envelope);
        if !envelope_fits || place.envelope + place.octets > size || place.lines > place.octets {
            return Err(Damaged(format!("the first line does not fit {size} octets")));
        }
        Ok(place)
    }
}

impl QueuedMessage {
    /// From the parts of a file before and after the text.
    pub(super) fn parse(text: TextPlace, before: &[u8], after: &[u8]) -> Result<Self, Damaged> {
        let envelope = str::from_utf8(&before[FIRST_LINE..]).map_err(|_| Damaged("the envelope is not ASCII".into()))?;
        let envelope = Envelope::parse(envelope).map_err(Damaged)?;
        let after = String::from_utf8_lossy(after);
        let (mut signatures, mut log) = (Vec::<Signature>::new(), Vec::new());
        let mut is_signature = false;
        for line in after.split('\n') {
            match (Signature::parse(line), signatures.last_mut()) {
                (Some(signature), _) => signatures.push(signature),
                (None, Some(last)) if is_signature && line.starts_with(['\t', ' ']) => last.text += &format!("\n{line}"),
                _ => {
                    is_signature = false;
                    log.extend(Record::parse(line));
                    continue;
                }
            }
            is_signature = true;
        }
        Ok(Self { envelope, text, signatures, log })
    }

    /// The state of each recipient: what its last record says.
    pub fn states(&self) -> Vec<State> {
        let mut states = vec![State::Waits { waits: 0, told: None }; self.envelope.recipients.len()];
        let mut begun: Vec<u16> = Vec::new();
        for record in &self.log {
            match &record.what {
                Happened::Begin { recipients, .. } => {
                    // Another attempt: what may have arrived is being sent again.
                    each(&mut states, recipients, |state| {
                        if let State::MayHaveArrived { waits } = *state {
                            *state = State::Waits { waits, told: None };
                        }
                    });
                    begun.clone_from(recipients);
                }
                Happened::Dot { recipients } => {
                    each(&mut states, if recipients.is_empty() { &begun } else { recipients }, |state| {
                        if let State::Waits { waits, .. } = *state {
                            *state = State::MayHaveArrived { waits };
                        }
                    })
                }
                Happened::End { recipients } => each(&mut states, recipients, |state| {
                    if let State::MayHaveArrived { waits } = *state {
                        *state = State::Waits { waits, told: None };
                    }
                }),
                Happened::Hold(_) | Happened::Return => {}
                Happened::Release => states.iter_mut().for_each(State::release),
                Happened::Reported { recipients, .. } => each(&mut states, recipients, State::report),
                Happened::Result { recipients, verdict, told } => {
                    each(&mut states, recipients, |state| state.result(*verdict, told));
                    begun.retain(|number| !recipients.contains(number));
                }
            }
        }
        states
    }

    /// True if nothing is left to be done for any recipient but reports.
    pub fn is_settled(&self) -> bool {
        self.states().iter().all(|state| matches!(state, State::Failed { .. } | State::Sent { .. }))
    }

    /// True if the last attempts for a recipient all began and none of them came to an end: the message may be what ends the
    /// process.
    pub fn ends_the_process(&self) -> bool {
        let mut begins = vec![0_usize; self.envelope.recipients.len()];
        for record in &self.log {
            match &record.what {
                Happened::Begin { recipients, .. } => each(&mut begins, recipients, |begins| *begins += 1),
                Happened::End { recipients } | Happened::Result { recipients, .. } => {
                    each(&mut begins, recipients, |begins| *begins = 0)
                }
                Happened::Release => begins.fill(0),
                Happened::Dot { .. } | Happened::Hold(_) | Happened::Reported { .. } | Happened::Return => {}
            }
        }
        begins.iter().any(|begins| *begins >= BEGINS_MAX)
    }

    /// Seconds since 1970 of the last release, if there was one: the age counts from there.
    pub fn released(&self) -> Option<u64> {
        self.log.iter().rev().find(|record| record.what == Happened::Release).map(|record| record.time)
    }

    /// The word for why it is held, by its last record of that.
    pub fn held(&self) -> Option<&str> {
        self.log.iter().rev().find_map(|record| match &record.what {
            Happened::Hold(why) => Some(Some(why.as_str())),
            Happened::Release => Some(None),
            _ => None,
        })?
    }

    /// The word for why it is held, with its place. Records are the truth; a file that is in `held/` without one was put
    /// there by a person. What goes back to its sender is held no more.
    pub fn held_at(&self, in_held: bool) -> Option<&str> {
        let moved = || (in_held && self.released().is_none()).then_some("operator");
        self.held().or_else(moved).filter(|_| !self.is_to_be_returned())
    }

    /// True if the operator has sent it back to its sender while no server ran, and that is not done yet. It holds for a
    /// message in `held/` too; a later hold or release takes it back.
    pub fn is_to_be_returned(&self) -> bool {
        let said = |record: &&Record| matches!(record.what, Happened::Hold(_) | Happened::Release | Happened::Return);
        self.log.iter().rev().find(said).is_some_and(|record| record.what == Happened::Return)
    }

    /// The recipients, ascending, for which an attempt got to the final dot and had no reply that says what became of it;
    /// with `being_sent` without the last attempt, whose reply may still come.
    pub fn doubts(&self, being_sent: bool) -> Vec<u16> {
        let (mut doubts, mut begun, mut dotted) = (Vec::new(), Vec::new(), Vec::new());
        for record in &self.log {
            match &record.what {
                Happened::Begin { recipients, .. } => {
                    doubts.extend(dotted.extract_if(.., |number| recipients.contains(number)));
                    begun.clone_from(recipients);
                }
                Happened::Dot { recipients } if recipients.is_empty() => dotted.extend(&begun),
                Happened::Dot { recipients } => dotted.extend(recipients),
                Happened::End { recipients } => {
                    begun.retain(|number| !recipients.contains(number));
                    dotted.retain(|number| !recipients.contains(number));
                }
                Happened::Result { recipients, verdict, told } => {
                    begun.retain(|number| !recipients.contains(number));
                    let ended = dotted.extract_if(.., |number| recipients.contains(number));
                    // A line that was cut after the dot has a result, which says nothing of the message.
                    if *verdict == Verdict::Sent || told.is_refusal() {
                        ended.for_each(drop);
                    } else {
                        doubts.extend(ended);
                    }
                }
                Happened::Hold(_) | Happened::Release | Happened::Reported { .. } | Happened::Return => {}
            }
        }
        if !being_sent {
            doubts.append(&mut dotted);
        }
        doubts.sort_unstable();
        doubts.dedup();
        doubts
    }

    /// True if the sender was told that it is late.
    pub fn warned(&self) -> bool {
        self.log.iter().any(|record| matches!(&record.what, Happened::Reported { action, .. } if action == "delayed"))
    }
}

impl State {
    fn result(&mut self, verdict: Verdict, told: &Told) {
        let told = told.clone();
        *self = match (verdict, &*self) {
            (Verdict::Failed, _) => Self::Failed { told, reported: false },
            (Verdict::Sent, _) => Self::Sent { told, reported: false },
            (Verdict::Wait, Self::Waits { waits, .. } | Self::MayHaveArrived { waits }) => {
                Self::Waits { waits: waits.saturating_add(1), told: Some(told) }
            }
            (Verdict::Wait, _) => Self::Waits { waits: 1, told: Some(told) },
        };
    }

    fn report(&mut self) {
        if let Self::Failed { reported, .. } | Self::Sent { reported, .. } = self {
            *reported = true;
        }
    }

    /// As if it had arrived now.
    fn release(&mut self) {
        if matches!(self, Self::MayHaveArrived { .. } | Self::Waits { .. }) {
            *self = Self::Waits { waits: 0, told: None };
        }
    }
}

fn each<T>(states: &mut [T], recipients: &[u16], mut change: impl FnMut(&mut T)) {
    for number in recipients {
        if let Some(state) = states.get_mut(usize::from(*number)) {
            change(state);
        }
    }
}

/// What a signature's line begins with.
const SIGNATURES: [(Fields, &str); 2] = [(Fields::All, "Pillarbox-Sign: "), (Fields::WithoutId, "Pillarbox-Sign-Without-Id: ")];

impl Signature {
    /// As it stands in a file.
    pub(super) fn render(&self) -> String {
        let prefix = SIGNATURES.iter().find(|(fields, _)| *fields == self.fields).map_or("", |(_, prefix)| *prefix);
        format!("{prefix}{}", self.text)
    }

    /// The first line of what [`Self::render`] writes.
    fn parse(line: &str) -> Option<Self> {
        let known = |(fields, prefix): &(Fields, &str)| {
            line.strip_prefix(prefix).map(|text| Self { fields: *fields, text: text.to_owned() })
        };
        SIGNATURES.iter().find_map(known)
    }
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, begin, envelope, put, result, spool, told};
    use super::super::{Found, SpoolError};
    use super::*;
    use crate::queue::QueueId;

    #[test]
    fn the_state_is_the_last_record() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path());
        let id = put(&spool, &envelope(&["a@a.example", "b@b.example", "c@c.example"]), "x\n").unwrap();
        let waits = |waits| State::Waits { waits, told: Some(told("ok")) };
        let unknown = State::MayHaveArrived { waits: 1 };
        let failed = |reported| State::Failed { told: told("ok"), reported };
        let fresh = State::Waits { waits: 0, told: None };
        let rows: [(Record, [State; 3]); 10] = [
            (begin(&[0, 1, 2]), [fresh.clone(), fresh.clone(), fresh.clone()]),
            (result(&[0, 1], Verdict::Wait), [waits(1), waits(1), fresh.clone()]),
            (result(&[2], Verdict::Failed), [waits(1), waits(1), failed(false)]),
            (begin(&[0]), [waits(1), waits(1), failed(false)]),
            (at(Happened::Dot { recipients: Vec::new() }), [unknown.clone(), waits(1), failed(false)]),
            (at(Happened::Reported { recipients: vec![2], action: "failed".into() }), [unknown, waits(1), failed(true)]),
            (begin(&[0]), [State::Waits { waits: 1, told: None }, waits(1), failed(true)]),
            (at(Happened::Dot { recipients: Vec::new() }), [State::MayHaveArrived { waits: 1 }, waits(1), failed(true)]),
            (result(&[0], Verdict::Wait), [waits(2), waits(1), failed(true)]),
            (at(Happened::Release), [fresh.clone(), fresh.clone(), failed(true)]),
        ];
        for (record, want) in rows {
            spool.append(id, &record).unwrap();
            let message = spool.read(id).unwrap();
            assert_eq!(message.states(), want, "{record:?}");
            assert!(!message.is_settled());
        }
        assert_eq!(spool.read(id).unwrap().released(), Some(1));
        spool.append(id, &result(&[0, 1], Verdict::Sent)).unwrap();
        assert!(spool.read(id).unwrap().is_settled());
    }

    /// The place counts where there is no record; a return is taken back by what comes later.
    #[test]
    fn held_and_returned_by_records_and_place() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path());
        let id = put(&spool, &envelope(&["a@a.example"]), "x\n").unwrap();
        let held = |in_held| spool.read(id).unwrap().held_at(in_held).map(str::to_owned);
        let operator = Some("operator".to_owned());
        assert_eq!((held(false), held(true)), (None, operator.clone()), "a person has moved it");
        let hold = || Happened::Hold("no-result".into());
        let rows = [
            (hold(), Some("no-result".to_owned()), false),
            (Happened::Return, None, true),
            (begin(&[0]).what, None, true),
            (hold(), Some("no-result".to_owned()), false),
            (Happened::Return, None, true),
            (Happened::Release, None, false),
        ];
        for (what, want, returned) in rows {
            spool.append(id, &at(what.clone())).unwrap();
            assert_eq!((held(false), held(true)), (want.clone(), want), "{what:?}");
            assert_eq!(spool.read(id).unwrap().is_to_be_returned(), returned, "{what:?}");
        }
        let found = spool.find(id).unwrap();
        spool.set_due(id, 2_000_000_000).unwrap();
        assert_eq!(spool.find(id).unwrap(), Found { due: 2_000_000_000, ..found });
        assert!(!found.held && spool.held().unwrap().is_empty());
        spool.hold(id, None).unwrap();
        assert!(spool.find(id).unwrap().held && spool.held().unwrap() == [id]);
        assert!(matches!(spool.find(QueueId::from_bits(1)), Err(SpoolError::Missing(_))));
    }

    #[test]
    fn a_message_that_ends_the_process_is_known_at_its_third_attempt() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path());
        let id = put(&spool, &envelope(&["a@a.example"]), "x\n").unwrap();
        let rows = [
            (begin(&[0]), false),
            (begin(&[0]), false),
            (result(&[0], Verdict::Wait), false),
            (begin(&[0]), false),
            (at(Happened::Dot { recipients: Vec::new() }), false),
            (begin(&[0]), false),
            (begin(&[0]), true),
            (at(Happened::Release), false),
        ];
        for (record, want) in rows {
            spool.append(id, &record).unwrap();
            assert_eq!(spool.read(id).unwrap().ends_the_process(), want, "{record:?}");
        }
    }

    /// Two couriers have parts of one message: what one of them does says nothing about the other's recipients.
    #[test]
    fn attempts_at_the_same_time_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir.path().join("spool"));
        let id = put(&spool, &envelope(&["a@one.example", "b@two.example"]), "x\n").unwrap();
        for record in [begin(&[0]), begin(&[1]), at(Happened::Dot { recipients: vec![0] })] {
            spool.append(id, &record).unwrap();
        }
        let message = spool.read(id).unwrap();
        assert!(matches!(message.states()[..2], [State::MayHaveArrived { .. }, State::Waits { .. }]), "{:?}", message.states());
        assert_eq!(message.doubts(false), [0]);
        spool.append(id, &Record { time: 2, what: Happened::End { recipients: vec![0] } }).unwrap();
        let message = spool.read(id).unwrap();
        assert!(message.states().iter().all(|state| matches!(state, State::Waits { .. })) && message.doubts(false).is_empty());
        for _ in 0..2 {
            spool.append(id, &begin(&[1])).unwrap();
        }
        assert!(spool.read(id).unwrap().ends_the_process(), "three attempts for one recipient");
        spool.append(id, &Record { time: 4, what: Happened::End { recipients: vec![1] } }).unwrap();
        assert!(!spool.read(id).unwrap().ends_the_process());
    }
}
