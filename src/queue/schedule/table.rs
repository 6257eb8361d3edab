//! Messages and their parts, in few octets.
//!
//! A part is the recipients of one message that have one destination and one state. Everything is named by its number;
//! texts are kept once, addresses not at all. Vectors grow by an eighth, so that little of them is empty.

use std::collections::HashMap;

use super::HeldWhy;
use super::heap::Order;
use crate::queue::QueueId;

/// Seconds of the clock that never jumps, counted from long before the machine was started.
pub(super) type Time = u32;

/// No number.
pub(super) const NONE: u32 = u32::MAX;

/// What is known of a message.
pub(super) struct Message {
    pub(super) id: QueueId,
    /// Seconds since 1970 of arrival or the last release.
    pub(super) since: u32,
    /// The same on the clock that never jumps: the age counts from here.
    pub(super) base: Time,
    pub(super) login: u32,
    /// Its first part; the others follow by [`Part::sibling`].
    pub(super) first: u32,
    /// Its place among those that are not late yet, or NONE.
    pub(super) place: u32,
    pub(super) flags: u8,
    pub(super) held: Option<HeldWhy>,
}

/// NOTIFY=DELAY is asked for.
pub(super) const ASKS_DELAY: u8 = 1;
/// It is late, and that is known.
pub(super) const WARNED: u8 = 2;
/// `since` is from another clock than the present one.
pub(super) const SCANNED: u8 = 4;
/// It became late while it was being sent.
pub(super) const LATE_WHEN_FINISHED: u8 = 8;

/// Recipients of one message, destination and state.
pub(super) struct Part {
    pub(super) message: u32,
    pub(super) sibling: u32,
    /// The flow that it is in: login and destination.
    pub(super) flow: u32,
    /// The next attempt, while it waits.
    pub(super) due: Time,
    /// Its place in the heap that its state names.
    pub(super) place: u32,
    first: u16,
    count: u16,
    pub(super) waits: u8,
    pub(super) plain: bool,
    pub(super) state: State,
}

/// Where a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// With its message, for a person.
    Held,
    /// Until an empty probe shows whose fault a cut line was.
    Parked,
    /// In its flow's heap of those that are due.
    Ready,
    /// Until it is clear whether a smarthost refuses everything.
    Refused,
    /// With a courier.
    Sending,
    /// In its flow's heap of those that wait.
    Waiting,
}

/// The numbered things of one kind; numbers are used again.
pub(super) struct Slab<T> {
    items: Vec<Option<T>>,
    free: Vec<u32>,
}

/// Messages and parts.
#[derive(Default)]
pub(super) struct Table {
    pub(super) messages: Slab<Message>,
    pub(super) parts: Slab<Part>,
    /// Recipients of parts whose numbers are not a run.
    scattered: HashMap<u32, Box<[u16]>>,
    /// The smarthosts of parts that are sent by their domains' servers meanwhile: part to hop.
    pub(super) homes: HashMap<u32, u32>,
    index: Index,
}

/// Ids to numbers of messages: open addressing, four octets a place.
#[derive(Default)]
struct Index {
    places: Vec<u32>,
    used: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { items: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn add(&mut self, item: T) -> u32 {
        if let Some(number) = self.free.pop() {
            self.items[number as usize] = Some(item);
            return number;
        }
        grow(&mut self.items);
        self.items.push(Some(item));
        (self.items.len() - 1) as u32
    }

    pub(super) fn remove(&mut self, number: u32) -> T {
        grow(&mut self.free);
        self.free.push(number);
        self.items[number as usize].take().expect("a number in use")
    }

    /// The numbers in use.
    pub(super) fn numbers(&self) -> Vec<u32> {
        self.iter().map(|(number, _)| number).collect()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.items.get_mut(number as usize)?.as_mut()
    }

    /// The item, if the number is in use.
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.items.get(number as usize)?.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.items.iter().enumerate().filter_map(|(number, item)| Some((number as u32, item.as_ref()?)))
    }

    /// Octets of memory.
    pub(super) fn octets(&self) -> usize {
        self.items.capacity() * size_of::<Option<T>>() + self.free.capacity() * size_of::<u32>()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        self.items[number as usize].as_ref().expect("a number in use")
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        self.items[number as usize].as_mut().expect("a number in use")
    }
}

impl Table {
    pub(super) fn add_message(&mut self, message: Message) -> u32 {
        let id = message.id;
        let number = self.messages.add(message);
        self.index.insert(id, number, &self.messages);
        number
    }

    pub(super) fn find(&self, id: QueueId) -> Option<u32> {
        self.index.find(id, &self.messages).map(|place| self.index.places[place])
    }

    pub(super) fn remove_message(&mut self, number: u32) -> Message {
        self.index.remove(self.messages[number].id, &self.messages);
        self.messages.remove(number)
    }

    /// A part of a message; `recipients` ascend.
    pub(super) fn add_part(&mut self, message: u32, flow: u32, waits: u8, recipients: &[u16]) -> u32 {
        let sibling = self.messages[message].first;
        let part =
            Part { message, sibling, flow, due: 0, place: NONE, first: 0, count: 0, waits, plain: false, state: State::Held };
        let number = self.parts.add(part);
        self.messages[message].first = number;
        self.set_recipients(number, recipients);
        number
    }

    pub(super) fn remove_part(&mut self, number: u32) {
        let part = self.parts.remove(number);
        self.scattered.remove(&number);
        self.homes.remove(&number);
        let message = &mut self.messages[part.message];
        if message.first == number {
            message.first = part.sibling;
            return;
        }
        let mut before = message.first;
        while self.parts[before].sibling != number {
            before = self.parts[before].sibling;
        }
        self.parts[before].sibling = part.sibling;
    }

    /// The parts of a message.
    pub(super) fn parts_of(&self, message: u32) -> Vec<u32> {
        let mut found = Vec::new();
        let mut next = self.messages[message].first;
        while next != NONE {
            found.push(next);
            next = self.parts[next].sibling;
        }
        found
    }

    pub(super) fn recipients(&self, part: u32) -> Vec<u16> {
        if let Some(scattered) = self.scattered.get(&part) {
            return scattered.to_vec();
        }
        let part = &self.parts[part];
        (0..part.count).map(|n| part.first + n).collect()
    }

    pub(super) fn set_recipients(&mut self, part: u32, recipients: &[u16]) {
        let first = recipients.first().copied().unwrap_or(0);
        let run = recipients.iter().enumerate().all(|(n, number)| usize::from(*number) == usize::from(first) + n);
        if run {
            self.scattered.remove(&part);
        } else {
            self.scattered.insert(part, recipients.into());
        }
        self.parts[part].first = first;
        self.parts[part].count = recipients.len() as u16;
    }

    /// Octets of memory.
    pub(super) fn octets(&self) -> usize {
        let scattered: usize = self.scattered.values().map(|numbers| 24 + 2 * numbers.len()).sum();
        self.messages.octets() + self.parts.octets() + self.index.places.capacity() * size_of::<u32>() + scattered
    }
}

impl Index {
    fn start(&self, id: QueueId) -> usize {
        // Ids are numbers in order of time; the high bits of this product are spread evenly over them.
        (id.bits().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % self.places.len().max(1)
    }

    fn find(&self, id: QueueId, messages: &Slab<Message>) -> Option<usize> {
        let mut place = self.start(id);
        while let Some(number) = self.places.get(place).copied().filter(|number| *number != NONE) {
            if messages[number].id == id {
                return Some(place);
            }
            place = (place + 1) % self.places.len();
        }
        None
    }

    fn insert(&mut self, id: QueueId, number: u32, messages: &Slab<Message>) {
        if (self.used + 1) * 8 > self.places.len() * 7 {
            let old = std::mem::take(&mut self.places);
            self.places = vec![NONE; (old.len() * 3 / 2).max(16)];
            old.into_iter().filter(|number| *number != NONE).for_each(|number| self.put(messages[number].id, number));
        }
        self.put(id, number);
        self.used += 1;
    }

    fn put(&mut self, id: QueueId, number: u32) {
        let mut place = self.start(id);
        while self.places[place] != NONE {
            place = (place + 1) % self.places.len();
        }
        self.places[place] = number;
    }

    /// Takes an id out and closes the gap: those after it that would have stood there move up.
    fn remove(&mut self, id: QueueId, messages: &Slab<Message>) {
        let Some(mut gap) = self.find(id, messages) else { return };
        let size = self.places.len();
        let mut place = gap;
        loop {
            place = (place + 1) % size;
            let number = self.places[place];
            if number == NONE {
                break;
            }
            let start = self.start(messages[number].id);
            if (place + size - start) % size >= (place + size - gap) % size {
                self.places[gap] = number;
                gap = place;
            }
        }
        self.places[gap] = NONE;
        self.used -= 1;
    }
}

/// The oldest message first.
pub(super) struct Oldest<'a>(pub(super) &'a mut Table);

impl Order for Oldest<'_> {
    fn before(&self, a: u32, b: u32) -> bool {
        let key = |part: u32| {
            let message = &self.0.messages[self.0.parts[part].message];
            (message.base, message.id)
        };
        key(a) < key(b)
    }
    fn place(&self, item: u32) -> u32 {
        self.0.parts[item].place
    }
    fn moved(&mut self, item: u32, place: u32) {
        self.0.parts[item].place = place;
    }
}

/// The part first that is due first.
pub(super) struct Due<'a>(pub(super) &'a mut Table);

impl Order for Due<'_> {
    fn before(&self, a: u32, b: u32) -> bool {
        self.0.parts[a].due < self.0.parts[b].due
    }
    fn place(&self, item: u32) -> u32 {
        self.0.parts[item].place
    }
    fn moved(&mut self, item: u32, place: u32) {
        self.0.parts[item].place = place;
    }
}

/// The message first that is late first.
pub(super) struct Late<'a>(pub(super) &'a mut Table);

impl Order for Late<'_> {
    fn before(&self, a: u32, b: u32) -> bool {
        self.0.messages[a].base < self.0.messages[b].base
    }
    fn place(&self, item: u32) -> u32 {
        self.0.messages[item].place
    }
    fn moved(&mut self, item: u32, place: u32) {
        self.0.messages[item].place = place;
    }
}

/// Makes room for one more: an eighth at a time rather than as much again.
pub(super) fn grow<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        items.reserve_exact(items.len() / 8 + 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u64) -> Message {
        let id = QueueId::from_bits(id);
        Message { id, since: 0, base: 0, login: 0, first: NONE, place: NONE, flags: 0, held: None }
    }

    #[test]
    fn ids_are_found_after_any_removals() {
        let mut table = Table::default();
        let mut state = 7_u64;
        let mut known = HashMap::new();
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let id = (state >> 33) % 997;
            match known.remove(&id) {
                Some(number) => assert_eq!(table.remove_message(number).id.bits(), id),
                None => drop(known.insert(id, table.add_message(message(id)))),
            }
            let probe = (state >> 20) % 997;
            assert_eq!(table.find(QueueId::from_bits(probe)), known.get(&probe).copied(), "{probe}");
        }
        assert_eq!(table.messages.len(), known.len());
    }

    #[test]
    fn parts_keep_their_recipients_and_their_order() {
        let mut table = Table::default();
        let number = table.add_message(message(1));
        let sets: [&[u16]; 4] = [&[0], &[1, 2, 3], &[4, 6, 9], &[65_533, 65_534]];
        let parts: Vec<u32> = sets.iter().map(|set| table.add_part(number, 0, 0, set)).collect();
        for (part, set) in parts.iter().zip(sets) {
            assert_eq!(table.recipients(*part), set);
        }
        assert_eq!(table.parts_of(number).len(), 4);
        table.remove_part(parts[1]);
        assert_eq!(table.parts_of(number), [parts[3], parts[2], parts[0]]);
        table.set_recipients(parts[2], &[6]);
        assert_eq!(table.recipients(parts[2]), [6]);
        assert!(table.scattered.is_empty());
        table.remove_part(parts[3]);
        table.remove_part(parts[0]);
        assert_eq!(table.parts_of(number), [parts[2]]);
    }

    /// Smaller than they look: an `Option` around them costs nothing.
    #[test]
    fn a_message_and_a_part_are_small() {
        assert!(size_of::<Option<Message>>() <= 32, "{}", size_of::<Option<Message>>());
        assert!(size_of::<Option<Part>>() <= 28, "{}", size_of::<Option<Part>>());
    }
}
