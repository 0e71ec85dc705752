//! The samples that are live, by the address of their block.
//!
//! # Invariants
//!
//! 1. An address is in the table only between the block's allocation and its release, so the entries of
//!    an address are used by one thread at a time: the one that may resize or free the block. It sees what
//!    the thread that allocated the block wrote, since the block was handed to it.
//! 2. A key goes from [`FREE`] to [`WRITING`] by compare-and-swap, and then belongs to that thread until it
//!    stores an address. It goes back to [`FREE`] by a store of the thread of invariant 1.
//! 3. A counter of the filter is raised before an address is stored and lowered after it is removed, and one
//!    that has reached its highest value stays there. So it is above zero while one of its addresses is in
//!    the table.

use crate::sync::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use super::draw::Weight;

const FREE: usize = 0;
/// No block is here.
const WRITING: usize = 1;

/// Places of a bucket. Their keys are two cache lines.
pub(super) const WAYS: usize = if cfg!(tower_memory_loom) { 2 } else { 16 };

/// A sample: the number of its stack, and what it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) stack: u32,
    pub(super) weight: Weight,
}

struct Value {
    stack: AtomicU32,
    objects: AtomicU64,
    bytes: AtomicU64,
}

/// A table of up to `BUCKETS * WAYS` samples, with a filter of `FILTER` counters.
pub(super) struct Live<const FILTER: usize, const BUCKETS: usize> {
    filter: [AtomicU8; FILTER],
    keys: [[AtomicUsize; WAYS]; BUCKETS],
    values: [[Value; WAYS]; BUCKETS],
}

impl<const FILTER: usize, const BUCKETS: usize> Live<FILTER, BUCKETS> {
    #[cfg(not(tower_memory_loom))]
    pub(super) const fn new() -> Self {
        Self {
            filter: [const { AtomicU8::new(0) }; FILTER],
            keys: [const { [const { AtomicUsize::new(FREE) }; WAYS] }; BUCKETS],
            values: [const {
                [const {
                    Value {
                        stack: AtomicU32::new(0),
                        objects: AtomicU64::new(0),
                        bytes: AtomicU64::new(0),
                    }
                }; WAYS]
            }; BUCKETS],
        }
    }

    #[cfg(tower_memory_loom)]
    pub(super) fn new() -> Self {
        use std::array::from_fn;
        let value = || Value {
            stack: AtomicU32::new(0),
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        Self {
            filter: from_fn(|_| AtomicU8::new(0)),
            keys: from_fn(|_| from_fn(|_| AtomicUsize::new(FREE))),
            values: from_fn(|_| from_fn(|_| value())),
        }
    }

    /// Whether there may be samples of the block. One load, for the thread of invariant 1.
    #[inline]
    pub(super) fn may_have(&self, address: usize) -> bool {
        // Relaxed: invariant 3, and the count that this address raised happened before (invariant 1).
        match self.filter.get(counter(address) % FILTER) {
            Some(count) => count.load(Relaxed) != 0,
            None => false,
        }
    }

    /// Adds a sample of a block. Returns `false` if there is no room.
    pub(super) fn insert(&self, address: usize, sample: Sample) -> bool {
        let Some((keys, values)) = self.bucket(address) else {
            return false;
        };
        // Another sample of this block with the same stack becomes one with it.
        for (key, value) in keys.iter().zip(values) {
            // Relaxed: invariant 1.
            if key.load(Relaxed) == address && value.stack.load(Relaxed) == sample.stack {
                let weight = value.weight();
                value.set(&Sample {
                    stack: sample.stack,
                    weight: Weight {
                        objects: weight.objects.saturating_add(sample.weight.objects),
                        bytes: weight.bytes.saturating_add(sample.weight.bytes),
                    },
                });
                return true;
            }
        }
        for (key, value) in keys.iter().zip(values) {
            // The load avoids writes to entries in use.
            // Acquire: the former sample was read before (invariant 2).
            if key.load(Relaxed) == FREE
                && key
                    .compare_exchange(FREE, WRITING, Acquire, Relaxed)
                    .is_ok()
            {
                value.set(&sample);
                self.raise(address);
                // Relaxed would do (invariant 1); a reader of the whole table sees the value.
                key.store(address, Release);
                return true;
            }
        }
        false
    }

    /// Removes the samples of a block, and passes each to `f`.
    pub(super) fn take(&self, address: usize, mut f: impl FnMut(Sample)) {
        let Some((keys, values)) = self.bucket(address) else {
            return;
        };
        for (key, value) in keys.iter().zip(values) {
            // Relaxed: invariant 1.
            if key.load(Relaxed) == address {
                let sample = Sample {
                    stack: value.stack.load(Relaxed),
                    weight: value.weight(),
                };
                // Release: the value was read before the next one is written (invariant 2).
                key.store(FREE, Release);
                self.lower(address);
                f(sample);
            }
        }
    }

    fn bucket(&self, address: usize) -> Option<(&[AtomicUsize; WAYS], &[Value; WAYS])> {
        let at = bucket(address) % BUCKETS;
        Some((self.keys.get(at)?, self.values.get(at)?))
    }

    fn raise(&self, address: usize) {
        if let Some(count) = self.filter.get(counter(address) % FILTER) {
            let _ = count.fetch_update(Relaxed, Relaxed, |count| count.checked_add(1));
        }
    }

    fn lower(&self, address: usize) {
        if let Some(count) = self.filter.get(counter(address) % FILTER) {
            // The highest value stays: it may stand for more.
            let _ = count.fetch_update(Relaxed, Relaxed, |count| {
                (count != u8::MAX).then(|| count.saturating_sub(1))
            });
        }
    }
}

/// The counter of an address. This is on the way of every free, so it is no better than it must be: large
/// blocks may share a few counters, and their frees are dear anyway.
#[inline]
const fn counter(address: usize) -> usize {
    address >> 4
}

const fn bucket(address: usize) -> usize {
    ((address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

impl Value {
    fn set(&self, sample: &Sample) {
        self.stack.store(sample.stack, Relaxed);
        self.objects.store(sample.weight.objects, Relaxed);
        self.bytes.store(sample.weight.bytes, Relaxed);
    }

    fn weight(&self) -> Weight {
        Weight {
            objects: self.objects.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn sample(stack: u32, bytes: u64) -> Sample {
        Sample {
            stack,
            weight: Weight {
                objects: 256,
                bytes,
            },
        }
    }

    fn taken<const F: usize, const B: usize>(live: &Live<F, B>, address: usize) -> Vec<Sample> {
        let mut samples = Vec::new();
        live.take(address, |sample| samples.push(sample));
        samples.sort_by_key(|sample| sample.stack);
        samples
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

        /// Beside a map of maps. Few buckets, so that they are full now and then; and few counters, so
        /// that one stands for many addresses.
        #[test]
        fn a_table_is_a_map_from_addresses_to_samples(
            steps in prop::collection::vec((0..3_usize, 1..100_usize, 0..4_u32, 1..1000_u64), 1..500),
        ) {
            let live = Live::<8, 2>::new();
            let mut model: BTreeMap<usize, BTreeMap<u32, (u64, u64)>> = BTreeMap::new();
            let mut places = 0;
            for (what, block, stack, bytes) in steps {
                let address = block << 12;
                if what == 0 {
                    let expected = model.remove(&address).unwrap_or_default();
                    places -= expected.len();
                    let found: BTreeMap<_, _> = taken(&live, address)
                        .iter()
                        .map(|sample| (sample.stack, (sample.weight.objects, sample.weight.bytes)))
                        .collect();
                    prop_assert_eq!(found, expected);
                } else if live.insert(address, sample(stack, bytes)) {
                    let of_block = model.entry(address).or_default();
                    if let Some((objects, sum)) = of_block.get_mut(&stack) {
                        *objects += 256;
                        *sum += bytes;
                    } else {
                        of_block.insert(stack, (256, bytes));
                        places += 1;
                    }
                } else {
                    // Only a full bucket refuses.
                    prop_assert!(places >= WAYS, "refused with {} places taken", places);
                }
                for address in model.keys() {
                    prop_assert!(live.may_have(*address));
                }
            }
            for (address, expected) in model {
                prop_assert_eq!(taken(&live, address).len(), expected.len());
            }
            prop_assert!((0..100_usize).all(|block| !live.may_have(block << 12)));
        }
    }

    #[test]
    fn a_counter_that_was_full_is_never_trusted_again() {
        let live = Live::<1, 64>::new();
        let addresses: Vec<usize> = (1..=300).map(|n| n << 6).collect();
        let inserted = addresses
            .iter()
            .filter(|address| live.insert(**address, sample(1, 1)));
        assert!(inserted.count() > 255);
        for address in &addresses {
            taken(&live, *address);
        }
        assert!(live.may_have(0x1000));
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;

    type Small = Live<1, 1>;

    fn sample(stack: u32) -> Sample {
        Sample {
            stack,
            weight: Weight {
                objects: u64::from(stack),
                bytes: u64::from(stack),
            },
        }
    }

    fn take(live: &Small, address: usize) -> Vec<Sample> {
        let mut samples = Vec::new();
        live.take(address, |sample| samples.push(sample));
        samples
    }

    /// Two threads with a block each, and one free place in the bucket that they share, with one counter.
    #[test]
    fn a_block_is_found_with_the_sample_that_was_inserted() {
        loom::model(|| {
            let live = Arc::new(Small::new());
            assert!(live.insert(0x3000, sample(3)));
            let run = |live: &Small, address: usize| {
                let stack = address as u32;
                if live.insert(address, sample(stack)) {
                    assert!(live.may_have(address));
                    assert_eq!(take(live, address), [sample(stack)]);
                }
            };
            let other = thread::spawn({
                let live = Arc::clone(&live);
                move || run(&live, 0x2000)
            });
            run(&live, 0x1000);
            other.join().expect("no panic");
            assert_eq!(take(&live, 0x3000), [sample(3)]);
            assert!(!live.may_have(0x1000));
            assert!(live.insert(0x1000, sample(1)) && live.insert(0x2000, sample(2)));
        });
    }

    /// A third block comes and goes meanwhile, so places and the counter are contended.
    #[test]
    fn a_block_that_another_thread_frees_is_found() {
        loom::model(|| {
            let live = Arc::new(Small::new());
            assert!(live.insert(0x1000, sample(1)));
            let freeing = thread::spawn({
                let live = Arc::clone(&live);
                move || {
                    assert!(live.may_have(0x1000));
                    assert_eq!(take(&live, 0x1000), [sample(1)]);
                    // The inner allocator may hand the address out again from here on.
                    if live.insert(0x1000, sample(3)) {
                        assert!(live.may_have(0x1000));
                        assert_eq!(take(&live, 0x1000), [sample(3)]);
                    }
                }
            });
            if live.insert(0x2000, sample(2)) {
                assert!(live.may_have(0x2000));
                assert_eq!(take(&live, 0x2000), [sample(2)]);
            }
            freeing.join().expect("no panic");
            assert!(!live.may_have(0x2000));
        });
    }
}
