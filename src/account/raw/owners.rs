//! The owners of large blocks, by the block's address.
//!
//! The table is open and has buckets of a fixed size. A full bucket sends its blocks to the next level,
//! which is eight times as large. So looking up a block that has no owner, as most have none, reads
//! one bucket of each level.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
};

use super::{record::Record, reference::RecordRef};
use crate::sync::{AtomicPtr, AtomicUsize, Ordering};

/// Sizes of the table. A model has two levels of one and two buckets with two entries each.
const ENTRIES: usize = if cfg!(tower_memory_loom) { 2 } else { 8 };
const LEVELS: usize = if cfg!(tower_memory_loom) { 2 } else { 6 };
const FIRST_BITS: u32 = if cfg!(tower_memory_loom) { 0 } else { 6 };
const BITS_PER_LEVEL: u32 = if cfg!(tower_memory_loom) { 1 } else { 3 };

/// One owner of one block. The address is zero while the entry is free.
struct Entry {
    address: AtomicUsize,
    record: AtomicPtr<Record>,
}

/// Two cache lines.
#[repr(align(128))]
struct Bucket([Entry; ENTRIES]);

struct Owners {
    levels: [AtomicPtr<Bucket>; LEVELS],
}

#[cfg(not(tower_memory_loom))]
static OWNERS: Owners = Owners {
    levels: [const { AtomicPtr::new(ptr::null_mut()) }; LEVELS],
};

#[cfg(tower_memory_loom)]
loom::lazy_static! {
    static ref OWNERS: Owners = Owners::new();
}

/// Makes `record` an owner of the block at `address`. A block may have several, and each is asked for
/// once.
///
/// Returns `false` if there is no memory for the table.
pub(in crate::account) fn add_owner(address: usize, record: RecordRef) -> bool {
    OWNERS.insert(address, record)
}

/// Removes the owners of the block at `address`, which is about to be freed, and passes each to `f`.
pub(in crate::account) fn take_owners(address: usize, f: impl FnMut(RecordRef)) {
    OWNERS.take(address, f);
}

impl Bucket {
    fn new() -> Self {
        Self(std::array::from_fn(|_| Entry {
            address: AtomicUsize::new(0),
            record: AtomicPtr::new(ptr::null_mut()),
        }))
    }
}

/// The number of buckets at a level, as a power of two.
const fn bits(level: usize) -> u32 {
    FIRST_BITS + BITS_PER_LEVEL * level as u32
}

/// The bucket of `address` at a level.
const fn index(address: usize, level: usize) -> usize {
    // Large blocks have addresses a page apart, or a few bytes after a page.
    let hash = (address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The highest bits are the best ones. Twice, since a shift by all 64 bits is none.
    (hash >> 1 >> (63 - bits(level))) as usize
}

impl Owners {
    #[cfg(any(test, tower_memory_loom))]
    fn new() -> Self {
        Self {
            levels: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
        }
    }

    fn insert(&self, address: usize, record: RecordRef) -> bool {
        for level in 0..LEVELS {
            let Some(bucket) = self.bucket(address, level).or_else(|| {
                self.add(level)?;
                self.bucket(address, level)
            }) else {
                return false;
            };
            for entry in &bucket.0 {
                // The load avoids writes to entries in use.
                // Acquire: the record of the former block was taken before (invariant 4).
                if entry.address.load(Ordering::Relaxed) == 0
                    && entry
                        .address
                        .compare_exchange(0, address, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok()
                {
                    // Relaxed: read by a thread that the block was handed to (invariant 4).
                    entry.record.store(record.into_raw(), Ordering::Relaxed);
                    return true;
                }
            }
        }
        false
    }

    fn take(&self, address: usize, mut f: impl FnMut(RecordRef)) {
        for bucket in (0..LEVELS).map_while(|level| self.bucket(address, level)) {
            for entry in &bucket.0 {
                // Relaxed: this thread may free the block, so its entries were set before (invariant 4).
                if entry.address.load(Ordering::Relaxed) != address {
                    continue;
                }
                let raw = entry.record.load(Ordering::Relaxed);
                // Release: the record was read before the next block's is stored (invariant 4).
                entry.address.store(0, Ordering::Release);
                // SAFETY: `insert` stored it, and the entry was this block's (invariant 4).
                if let Some(record) = unsafe { RecordRef::from_raw(raw) } {
                    f(record);
                }
            }
        }
    }

    fn bucket(&self, address: usize, level: usize) -> Option<&Bucket> {
        // Acquire: pairs with the release in `add`.
        let buckets = self.levels.get(level)?.load(Ordering::Acquire);
        if buckets.is_null() {
            return None;
        }
        // SAFETY: a level has this many buckets, and is never freed (invariant 3).
        Some(unsafe { &*buckets.add(index(address, level)) })
    }

    /// Makes a level, unless another thread did. Returns `None` if there is no memory for it.
    #[cold]
    fn add(&self, level: usize) -> Option<()> {
        let count = 1_usize << bits(level);
        let layout = Layout::array::<Bucket>(count).ok()?;
        // SAFETY: a bucket is not zero-sized. `System` is called directly, since this is a part of the
        // global allocator.
        let buckets = unsafe { System.alloc(layout) }.cast::<Bucket>();
        if buckets.is_null() {
            return None;
        }
        for at in 0..count {
            // SAFETY: within the memory of this layout, which is not shared yet (invariant 3).
            unsafe { buckets.add(at).write(Bucket::new()) };
        }
        // Release: publishes the buckets (invariant 3).
        let published = self.levels.get(level)?.compare_exchange(
            ptr::null_mut(),
            buckets,
            Ordering::Release,
            Ordering::Relaxed,
        );
        if published.is_err() {
            for at in 0..count {
                // SAFETY: written above, and not published (invariant 3).
                unsafe { buckets.add(at).drop_in_place() };
            }
            // SAFETY: allocated above with this layout, and not published (invariant 3).
            unsafe { System.dealloc(buckets.cast(), layout) };
        }
        Some(())
    }
}

#[cfg(test)]
impl Drop for Owners {
    fn drop(&mut self) {
        for (level, buckets) in self.levels.iter().enumerate() {
            let (buckets, count) = (buckets.load(Ordering::Relaxed), 1_usize << bits(level));
            if let (false, Ok(layout)) = (buckets.is_null(), Layout::array::<Bucket>(count)) {
                for at in 0..count {
                    // SAFETY: a level has this many buckets, and a table of a test ends (invariant 3).
                    unsafe { buckets.add(at).drop_in_place() };
                }
                // SAFETY: allocated with this layout; as above (invariant 3).
                unsafe { System.dealloc(buckets.cast(), layout) };
            }
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// The addresses of the `record`s that a take returns, in order.
    fn taken(owners: &Owners, address: usize) -> Vec<usize> {
        let mut records = Vec::new();
        owners.take(address, |record| records.push(record.into_raw()));
        let mut addresses: Vec<_> = records.iter().map(|raw| raw.addr()).collect();
        addresses.sort_unstable();
        for raw in records {
            // SAFETY: made by `into_raw` just now (invariant 1).
            drop(unsafe { RecordRef::from_raw(raw) });
        }
        addresses
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Beside a map. Few addresses, so that blocks have several owners and addresses come again;
        /// and many, so that buckets and levels are full.
        #[test]
        fn a_table_is_a_map_from_addresses_to_owners(
            steps in prop::collection::vec((0_usize..3, 1_usize..2000, 0_usize..4), 1..4000),
            few in any::<bool>(),
        ) {
            let owners = Owners::new();
            let records = [(); 4].map(|()| RecordRef::new());
            let mut model: HashMap<usize, Vec<usize>> = HashMap::new();
            for (what, block, record) in steps {
                let address = (if few { block % 7 + 1 } else { block }) << 16;
                if what == 0 {
                    let mut expected = model.remove(&address).unwrap_or_default();
                    expected.sort_unstable();
                    prop_assert_eq!(taken(&owners, address), expected);
                    continue;
                }
                let record = &records[record];
                prop_assert!(owners.insert(address, record.clone()));
                let raw = record.clone().into_raw();
                model.entry(address).or_default().push(raw.addr());
                // SAFETY: made by `into_raw` just now (invariant 1).
                drop(unsafe { RecordRef::from_raw(raw) });
            }
            for (address, mut expected) in model {
                expected.sort_unstable();
                prop_assert_eq!(taken(&owners, address), expected);
            }
        }
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;

    /// Owns and disowns two blocks, one after the other. Each owner returned is the block's.
    fn own_and_disown(owners: &Owners, address: usize, record: &RecordRef, others: usize) {
        for round in 0..2 {
            record.owns(10);
            assert!(owners.insert(address + round * 32, record.clone()));
            let mut count = 0;
            owners.take(address + round * 32, |record| {
                record.lost(10);
                count += 1;
            });
            assert_eq!(count, 1);
            assert_eq!(record.held(), Some(others as u64));
        }
    }

    #[test]
    fn a_block_has_the_owner_that_was_given() {
        loom::model(|| {
            let owners = Arc::new(Owners::new());
            // One of the two entries of the first bucket, so that the threads meet in the other one.
            let first = RecordRef::new();
            assert!(owners.insert(16, first));
            let other = thread::spawn({
                let owners = Arc::clone(&owners);
                move || own_and_disown(&owners, 1 << 20, &RecordRef::new(), 0)
            });
            own_and_disown(&owners, 2 << 20, &RecordRef::new(), 0);
            other.join().expect("no panic");
            let mut count = 0;
            owners.take(16, |_| count += 1);
            assert_eq!(count, 1);
        });
    }

    #[test]
    fn two_threads_that_add_the_first_level_share_it() {
        loom::model(|| {
            let owners = Arc::new(Owners::new());
            let other = thread::spawn({
                let owners = Arc::clone(&owners);
                move || assert!(owners.insert(1 << 20, RecordRef::new()))
            });
            assert!(owners.insert(2 << 20, RecordRef::new()));
            other.join().expect("no panic");
            let mut count = 0;
            owners.take(1 << 20, |_| count += 1);
            owners.take(2 << 20, |_| count += 1);
            assert_eq!(count, 2);
        });
    }

    #[test]
    fn a_block_of_an_earlier_request_is_not_credited_to_the_next_one() {
        loom::model(|| {
            let owners = Arc::new(Owners::new());
            let mut record = RecordRef::new();
            record.owns(10);
            assert!(owners.insert(1 << 20, record.clone()));
            let freeing = thread::spawn({
                let owners = Arc::clone(&owners);
                move || owners.take(1 << 20, |record| record.lost(10))
            });
            record.reset();
            record.owns(5);
            freeing.join().expect("no panic");
            assert_eq!(record.held(), Some(5));
        });
    }
}
