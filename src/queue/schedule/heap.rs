//! A binary heap of numbers whose order is kept elsewhere.
//!
//! Four octets an item. Every item knows its place, so that one is taken out of the middle in O(log n).

/// Where the order of the items is kept, and their places.
pub(super) trait Order {
    /// True if `a` is to come before `b`.
    fn before(&self, a: u32, b: u32) -> bool;
    /// The item's place in the heap.
    fn place(&self, item: u32) -> u32;
    /// The item is now at this place.
    fn moved(&mut self, item: u32, place: u32);
}

/// The heap; the first item is that which comes before all others.
#[derive(Default)]
pub(super) struct Heap(Vec<u32>);

impl Heap {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Octets of memory.
    pub(super) fn octets(&self) -> usize {
        self.0.capacity() * size_of::<u32>()
    }

    pub(super) fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    pub(super) fn items(&self) -> &[u32] {
        &self.0
    }

    pub(super) fn push(&mut self, item: u32, order: &mut impl Order) {
        super::table::grow(&mut self.0);
        self.0.push(item);
        let place = self.0.len() - 1;
        order.moved(item, place as u32);
        self.rise(place, order);
    }

    pub(super) fn pop(&mut self, order: &mut impl Order) -> Option<u32> {
        let first = self.first()?;
        self.remove(first, order);
        Some(first)
    }

    /// Takes out an item that is in this heap.
    pub(super) fn remove(&mut self, item: u32, order: &mut impl Order) {
        let place = order.place(item) as usize;
        debug_assert_eq!(self.0.get(place), Some(&item));
        self.0.swap_remove(place);
        if let Some(moved) = self.0.get(place).copied() {
            order.moved(moved, place as u32);
            self.sink(place, order);
            self.rise(order.place(moved) as usize, order);
        }
        if self.0.is_empty() && self.0.capacity() > 64 {
            self.0 = Vec::new();
        }
    }

    /// Puts all items in order again after their keys have changed.
    pub(super) fn rebuild(&mut self, order: &mut impl Order) {
        for place in (0..self.0.len() / 2).rev() {
            self.sink(place, order);
        }
    }

    fn rise(&mut self, mut place: usize, order: &mut impl Order) {
        while place > 0 && order.before(self.0[place], self.0[(place - 1) / 2]) {
            self.swap(place, (place - 1) / 2, order);
            place = (place - 1) / 2;
        }
    }

    fn sink(&mut self, mut place: usize, order: &mut impl Order) {
        loop {
            let mut least = place;
            for child in [2 * place + 1, 2 * place + 2] {
                if child < self.0.len() && order.before(self.0[child], self.0[least]) {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.swap(place, least, order);
            place = least;
        }
    }

    fn swap(&mut self, a: usize, b: usize, order: &mut impl Order) {
        self.0.swap(a, b);
        order.moved(self.0[a], a as u32);
        order.moved(self.0[b], b as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Keys(Vec<(u32, u32)>);

    impl Order for Keys {
        fn before(&self, a: u32, b: u32) -> bool {
            self.0[a as usize].0 < self.0[b as usize].0
        }
        fn place(&self, item: u32) -> u32 {
            self.0[item as usize].1
        }
        fn moved(&mut self, item: u32, place: u32) {
            self.0[item as usize].1 = place;
        }
    }

    #[test]
    fn items_come_out_in_order_after_any_removals() {
        let mut state = 1_u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        for _ in 0..50 {
            let mut keys = Keys((0..200).map(|_| (random() % 100, 0)).collect());
            let mut heap = Heap::default();
            (0..200).for_each(|item| heap.push(item, &mut keys));
            for _ in 0..80 {
                let item = heap.items()[random() as usize % heap.len()];
                heap.remove(item, &mut keys);
            }
            heap.items().to_vec().iter().for_each(|item| keys.0[*item as usize].0 = random() % 100);
            heap.rebuild(&mut keys);
            let drained: Vec<u32> = std::iter::from_fn(|| heap.pop(&mut keys).map(|item| keys.0[item as usize].0)).collect();
            assert_eq!(drained.len(), 120);
            assert!(drained.is_sorted(), "{drained:?}");
        }
    }
}
