//! Finds the numbers of labels without a lock.
//!
//! # Invariants
//!
//! 1. A place of the table goes from empty to a number once, and never changes again. A place that is
//!    passed by a search was not empty, so a search that ends at an empty place has passed all places where
//!    the label can be.
//! 2. Places are filled under a lock of the caller, after a search under that lock has found nothing. So a
//!    label has one place.
//! 3. At most half of the places are filled, so a search ends.

use std::hash::BuildHasher;

use crate::sync::{AtomicU32, Ordering};

/// Pairs of the cache for each label, at least. So few labels share one.
const PAIRS_PER_LABEL: usize = 3;

const EMPTY: u32 = 0;

/// Keyed, so that texts cannot be chosen to collide. A model has to do the same each time.
#[cfg(not(tower_memory_loom))]
type Hasher = std::hash::RandomState;
#[cfg(tower_memory_loom)]
type Hasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// Numbers of labels by their text, and a cache by the address of the text.
///
/// The texts are the caller's: a number is only a guess until its label is compared.
pub(crate) struct LabelTable {
    /// Numbers plus one, by the hash of the text, with linear probing. As many as a power of two.
    places: Box<[AtomicU32]>,
    /// Numbers plus one, by the address of the text, in pairs, as many as a power of two. A router keeps the text of a route in one
    /// place, so this finds the number of nearly every request with one comparison.
    recent: Box<[[AtomicU32; 2]]>,
    hasher: Hasher,
}

impl LabelTable {
    /// A table for up to `labels` labels.
    pub(crate) fn new(labels: usize) -> Self {
        let zeros = |_| AtomicU32::new(EMPTY);
        let places = (2 * labels).next_power_of_two();
        let pairs = if cfg!(tower_memory_loom) {
            1
        } else {
            (labels * PAIRS_PER_LABEL).next_power_of_two()
        };
        Self {
            places: (0..places).map(zeros).collect(),
            recent: (0..pairs).map(|_| [0, 1].map(zeros)).collect(),
            hasher: Hasher::default(),
        }
    }

    /// The number of `label`, if it was [inserted](Self::insert) and `is` says that a number is the label's.
    #[inline]
    pub(crate) fn get(&self, label: &str, is: impl Fn(usize) -> bool) -> Option<usize> {
        let pair = self.pair(label);
        for place in pair {
            // Relaxed: the label of the number is compared.
            if let Some(number) = number(place.load(Ordering::Relaxed)) {
                if is(number) {
                    return Some(number);
                }
            }
        }
        let found = self.search(label, is)?;
        // The older of the two goes. Relaxed: as above, and two threads at once lose an entry at most.
        let [first, second] = pair;
        second.store(first.load(Ordering::Relaxed), Ordering::Relaxed);
        first.store(packed(found), Ordering::Relaxed);
        Some(found)
    }

    /// As [`get`](Self::get), by the text alone.
    #[inline(never)]
    fn search(&self, label: &str, is: impl Fn(usize) -> bool) -> Option<usize> {
        for place in self.probe(label) {
            // Relaxed: a thread that does not find the label of the number searches under the lock.
            let number = number(place.load(Ordering::Relaxed))?;
            if is(number) {
                return Some(number);
            }
        }
        None
    }

    /// Inserts a label that [`get`](Self::get) has not found under the caller's lock.
    pub(crate) fn insert(&self, label: &str, number: usize) {
        let is_empty = |place: &&AtomicU32| place.load(Ordering::Relaxed) == EMPTY;
        if let Some(place) = self.probe(label).find(is_empty) {
            // Relaxed: see `search`.
            place.store(packed(number), Ordering::Relaxed);
        }
    }

    /// The places where a label can be, in the order of a search.
    fn probe(&self, label: &str) -> impl Iterator<Item = &AtomicU32> {
        let from = self.hasher.hash_one(label) as usize & (self.places.len() - 1);
        let (before, after) = self.places.split_at(from);
        after.iter().chain(before)
    }

    #[inline]
    fn pair(&self, label: &str) -> &[AtomicU32; 2] {
        let address = label.as_ptr().addr() ^ label.len();
        // The upper bits of a product depend on all bits of the address.
        let spread = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.recent[spread as usize & (self.recent.len() - 1)]
    }
}

#[inline]
fn number(packed: u32) -> Option<usize> {
    packed.checked_sub(1).map(|number| number as usize)
}

fn packed(number: usize) -> u32 {
    // Fewer labels than this: each has a route in memory.
    u32::try_from(number).map_or(EMPTY, |number| number.wrapping_add(1))
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Beside a map. The texts come from two places each, as labels that code sets do.
        #[test]
        fn a_table_finds_what_a_map_does(steps in prop::collection::vec((0..40_usize, any::<bool>()), 1..200)) {
            const LABELS: usize = 20;
            let names: [Vec<String>; 2] = [0, 1].map(|_| (0..40).map(|n| format!("/{n}")).collect());
            let table = LabelTable::new(LABELS);
            let (mut labels, mut map) = (Vec::new(), HashMap::new());
            for (name, copy) in steps {
                let label = names[usize::from(copy)][name].as_str();
                let is = |number: usize| labels.get(number) == Some(&label);
                let found = table.get(label, is);
                prop_assert_eq!(found, map.get(label).copied());
                if found.is_none() && labels.len() < LABELS {
                    table.insert(label, labels.len());
                    map.insert(label, labels.len());
                    labels.push(label);
                }
            }
        }
    }
}
