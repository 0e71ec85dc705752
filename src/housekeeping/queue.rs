use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

use slab::Slab;

use crate::{account::aside, slab::insert_shared};

/// The initial capacity of a queue. An emptied queue shrinks to it.
const CAPACITY: usize = 64;

/// Values that are due at a moment each.
///
/// Inserting and removing take no time that grows with the number of values, unless the values come
/// in an order other than that of their moments.
#[derive(Debug)]
pub(super) struct DueQueue<T> {
    entries: Slab<Entry<T>>,
    /// Sorted by moment. May hold more than `entries` does: removed values are left out later.
    order: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    /// Number of the next entry.
    number: u64,
}

#[derive(Debug)]
struct Entry<T> {
    number: u64,
    at: Instant,
    value: T,
}

/// A value's place in a queue. No other value ever has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    index: usize,
    number: u64,
}

impl<T> DueQueue<T> {
    /// An empty queue whose values are numbered from `first`.
    pub(super) fn new(first: u64) -> Self {
        Self {
            entries: Slab::with_capacity(CAPACITY),
            order: BinaryHeap::with_capacity(CAPACITY),
            number: first,
        }
    }

    pub(super) fn insert(&mut self, at: Instant, value: T) -> Place {
        let number = self.number;
        self.number += 1;
        let index = insert_shared(&mut self.entries, Entry { number, at, value });
        if self.order.len() == self.order.capacity() {
            aside(|| self.order.reserve(1));
        }
        self.order.push(Reverse((at, number, index)));
        Place { index, number }
    }

    /// Returns a value that is in the queue, and when it is due.
    pub(super) fn get_mut(&mut self, place: Place) -> Option<(Instant, &mut T)> {
        let entry = self.entries.get_mut(place.index)?;
        (entry.number == place.number).then_some((entry.at, &mut entry.value))
    }

    /// Removes a value, if it is there.
    pub(super) fn remove(&mut self, place: Place) -> Option<T> {
        self.get_mut(place)?;
        let value = self.entries.remove(place.index).value;
        if self.order.len() > 2 * self.entries.len() + CAPACITY {
            let entries = &self.entries;
            self.order
                .retain(|Reverse((_, number, index))| is_in(entries, *number, *index));
        }
        self.shrink();
        Some(value)
    }

    /// When the first value is due.
    pub(super) fn next(&mut self) -> Option<Instant> {
        while let Some(&Reverse((at, number, index))) = self.order.peek() {
            if is_in(&self.entries, number, index) {
                return Some(at);
            }
            self.order.pop();
        }
        None
    }

    /// Takes the first value, if it is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, _, index)) = self.order.pop()?;
        let value = self.entries.remove(index).value;
        self.shrink();
        Some(value)
    }

    fn shrink(&mut self) {
        if self.entries.is_empty() {
            self.order.clear();
            if self.entries.capacity() > CAPACITY {
                aside(|| self.entries = Slab::with_capacity(CAPACITY));
            }
            if self.order.capacity() > 4 * CAPACITY {
                aside(|| self.order = BinaryHeap::with_capacity(CAPACITY));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn is_in<T>(entries: &Slab<Entry<T>>, number: u64, index: usize) -> bool {
    entries
        .get(index)
        .is_some_and(|entry| entry.number == number)
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8),
        Remove(usize),
        Pop(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => any::<u8>().prop_map(Step::Insert),
            3 => any::<usize>().prop_map(Step::Remove),
            1 => any::<u8>().prop_map(Step::Pop),
        ];
        prop::collection::vec(step, 1..600)
    }

    proptest! {
        #[test]
        fn a_queue_does_what_a_sorted_map_does(steps in steps()) {
            let start = Instant::now();
            let at = |n: u8| start + Duration::from_millis(n.into());
            let mut queue = DueQueue::new(7);
            let mut model = BTreeMap::new();
            let mut places = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(due) => {
                        let place = queue.insert(at(due), n);
                        prop_assert_eq!(queue.get_mut(place).map(|(at, n)| (at, *n)), Some((at(due), n)));
                        model.insert((at(due), n), n);
                        places.push((place, due, n));
                    }
                    // Also of values that have gone, whose slots others may have.
                    Step::Remove(index) if !places.is_empty() => {
                        let (place, due, n) = places[index % places.len()];
                        prop_assert_eq!(queue.remove(place), model.remove(&(at(due), n)));
                    }
                    Step::Remove(_) => {}
                    Step::Pop(due) => {
                        while let Some(value) = queue.pop_due(at(due)) {
                            let (&key, _) = model.first_key_value().unwrap();
                            prop_assert!(key.0 <= at(due));
                            prop_assert_eq!(model.remove(&key), Some(value));
                        }
                    }
                }
                prop_assert_eq!(queue.next(), model.keys().next().map(|key| key.0));
                prop_assert_eq!(queue.len(), model.len());
                prop_assert!(queue.order.len() <= 2 * queue.len() + CAPACITY + 1);
            }
        }
    }

    #[test]
    fn an_emptied_queue_gives_back_what_a_burst_took() {
        let start = Instant::now();
        let mut queue = DueQueue::new(0);
        let places: Vec<_> = (0..100 * CAPACITY)
            .map(|n| queue.insert(start, n))
            .collect();
        for place in places {
            queue.remove(place);
        }
        assert!(queue.entries.capacity() <= CAPACITY);
        assert!(queue.order.capacity() <= 4 * CAPACITY);
    }
}
