//! Waiting arenas, or blocks, that belong to no thread.
//!
//! # Invariants
//!
//! 1. Each slot is free, full, or claimed by one thread. A thread claims a slot by clearing its
//!    bit, in `free` or in the `full` of one class. It sets a bit again when it is done.
//! 2. A bit is set with release and cleared with acquire. So a claim sees the slot as the thread
//!    before left it: empty if the bit was in `free`, with an item if it was in `full`.
//!
//! No thread waits for another: a thread that stops in the middle of a claim blocks its claimed
//! slots only.

use super::{
    class::{CLASSES, Wanted},
    tag::Tag,
};
use crate::{
    arena::{IdleArena, IdleBlock, Pooled, Slot},
    sync::{AtomicU64, AtomicUsize, Ordering},
};

const WORDS: usize = if cfg!(tower_memory_loom) { 1 } else { 16 };
const BITS: usize = if cfg!(tower_memory_loom) { 2 } else { 64 };

// `PoolBuilder::max_total_bytes` says so.
const _: () = assert!(WORDS * BITS == 1024 || cfg!(tower_memory_loom));

/// A bit for each slot.
///
/// Aligned to a pair of cache lines: a thread that clears bits of one set and a thread that sets
/// bits of another do not share one.
#[derive(Debug)]
#[repr(align(128))]
struct Bits {
    words: [AtomicU64; WORDS],
}

impl Bits {
    fn new(word: u64) -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(word)),
        }
    }

    /// Clears up to `most` bits of one word. Returns the word's index and the bits.
    fn claim(&self, most: u32) -> Option<(usize, u64)> {
        self.words.iter().enumerate().find_map(|(index, word)| {
            // Relaxed: the compare-and-swap checks it.
            let mut now = word.load(Ordering::Relaxed);
            loop {
                let bits = lowest(now, most);
                if bits == 0 {
                    return None;
                }
                // Acquire: see invariant 2.
                match word.compare_exchange_weak(
                    now,
                    now & !bits,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return Some((index, bits)),
                    Err(changed) => now = changed,
                }
            }
        })
    }

    /// Clears one bit. Returns whether it was set.
    fn claim_one(&self, index: usize, bit: u64) -> bool {
        // Acquire: see invariant 2.
        self.words[index].fetch_and(!bit, Ordering::Acquire) & bit != 0
    }

    fn set(&self, index: usize, bits: u64) {
        // Release: see invariant 2.
        self.words[index].fetch_or(bits, Ordering::Release);
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        let ones = |word: &AtomicU64| word.load(Ordering::Relaxed).count_ones() as usize;
        self.words.iter().map(ones).sum()
    }
}

/// The lowest `most` set bits of `word`.
const fn lowest(word: u64, most: u32) -> u64 {
    if word.count_ones() <= most {
        return word;
    }
    let (mut rest, mut left) = (word, most);
    while left > 0 {
        rest &= rest - 1;
        left -= 1;
    }
    word & !rest
}

/// The set bits of `word`, one by one.
fn each(mut word: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let bit = word & word.wrapping_neg();
        word &= !bit;
        (bit != 0).then_some(bit)
    })
}

/// The waiting items of a pool that belong to no thread.
#[derive(Debug)]
pub(super) struct SharedCaches {
    pub(super) arenas: SharedCache<IdleArena>,
    pub(super) blocks: SharedCache<IdleBlock>,
}

impl SharedCaches {
    pub(super) fn new() -> Self {
        Self {
            arenas: SharedCache::new(),
            blocks: SharedCache::new(),
        }
    }
}

#[derive(Debug)]
pub(super) struct SharedCache<T: Pooled> {
    slots: Box<[Slot<T>]>,
    free: Bits,
    full: Box<[Bits]>,
    /// A bit for each class that ever had an item here. Most pools use few, and a search through
    /// all of them costs more than a new item. A hint only: a sweep searches all classes.
    known: AtomicUsize,
}

/// Items that move together: their slots are claimed in one step.
pub(super) type Batch<T> = [Option<(T, Tag)>; BATCH];

/// Items that move between a thread cache and the shared cache at once. So a thread that only
/// rents and a thread that only returns meet once in as many requests.
pub(super) const BATCH: usize = 8;

impl<T: Pooled> SharedCache<T> {
    pub(super) fn new() -> Self {
        let all = if BITS == 64 {
            u64::MAX
        } else {
            (1 << BITS) - 1
        };
        Self {
            slots: std::iter::repeat_with(Slot::new)
                .take(WORDS * BITS)
                .collect(),
            free: Bits::new(all),
            full: std::iter::repeat_with(|| Bits::new(0))
                .take(CLASSES)
                .collect(),
            known: AtomicUsize::new(0),
        }
    }

    fn slot(&self, index: usize, bit: u64) -> &Slot<T> {
        &self.slots[index * BITS + bit.trailing_zeros() as usize]
    }

    /// Keeps `item`, or returns it if the cache is full.
    pub(super) fn put(&self, item: T, tag: Tag) -> Option<T> {
        let mut batch = [const { None }; BATCH];
        batch[0] = Some((item, tag));
        self.put_all(&mut batch);
        batch.into_iter().flatten().next().map(|(item, _)| item)
    }

    /// Takes the items out of `batch`, except those without room.
    pub(super) fn put_all(&self, batch: &mut Batch<T>) {
        while let Ok(count @ 1..) = u32::try_from(batch.iter().flatten().count()) {
            let Some((index, bits)) = self.free.claim(count) else {
                return;
            };
            // Bits of one class are set in one step; most batches have one class.
            let (mut class, mut filled) = (0, 0);
            for (item, bit) in batch
                .iter_mut()
                .filter(|item| item.is_some())
                .zip(each(bits))
            {
                let Some((given, tag)) = item.take() else {
                    continue;
                };
                if tag.class() != class && filled != 0 {
                    self.publish(class, index, filled);
                    filled = 0;
                }
                class = tag.class();
                *item = self
                    .slot(index, bit)
                    .put(given, tag.bits())
                    .map(|refused| (refused, tag));
                filled |= bit;
            }
            self.publish(class, index, filled);
        }
    }

    /// Publishes full slots.
    fn publish(&self, class: usize, index: usize, bits: u64) {
        self.full[class].set(index, bits);
        // Relaxed: a hint. After the first time, the load avoids the locked instruction.
        if self.known.load(Ordering::Relaxed) & (1 << class) == 0 {
            self.known.fetch_or(1 << class, Ordering::Relaxed);
        }
    }

    /// Takes up to `most` items of one wanted class, and at most [`BATCH`].
    pub(super) fn take(&self, wanted: Wanted, most: u32) -> Batch<T> {
        let mut batch = [const { None }; BATCH];
        let known = self.known.load(Ordering::Relaxed);
        let Some(((index, bits), class)) = self
            .full
            .iter()
            .enumerate()
            .take(wanted.last + 1)
            .skip(wanted.class)
            .filter(|(class, _)| known & (1 << class) != 0)
            .find_map(|(class, full)| Some((full.claim(most.min(BATCH as u32))?, class)))
        else {
            return batch;
        };
        for (taken, bit) in batch.iter_mut().zip(each(bits)) {
            let slot = self.slot(index, bit);
            let tag = slot.tag().map_or(Tag::new(class, 0), Tag::from_bits);
            *taken = slot.take().map(|item| (item, tag));
        }
        self.free.set(index, bits);
        batch
    }

    /// Takes all items with a stale tag, one by one.
    pub(super) fn sweep(&self, stale: impl Fn(Tag) -> bool, mut taken: impl FnMut(T)) {
        for full in &self.full {
            for (index, word) in full.words.iter().enumerate() {
                for bit in each(word.load(Ordering::Relaxed)) {
                    let slot = self.slot(index, bit);
                    // A guess: without it, each slot would be claimed.
                    if !slot.tag().is_some_and(|tag| stale(Tag::from_bits(tag)))
                        || !full.claim_one(index, bit)
                    {
                        continue;
                    }
                    // Claimed. The slot may hold another item by now.
                    let tag = slot.tag().map(Tag::from_bits);
                    if tag.is_some_and(&stale) {
                        let item = slot.take();
                        self.free.set(index, bit);
                        if let Some(item) = item {
                            taken(item);
                        }
                    } else {
                        full.set(index, bit);
                    }
                }
            }
        }
    }

    /// The number of waiting items.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.full.iter().map(Bits::count).sum()
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_bits_are_taken_first() {
        assert_eq!(lowest(0b1011_0100, 0), 0);
        assert_eq!(lowest(0b1011_0100, 2), 0b0001_0100);
        assert_eq!(lowest(0b1011_0100, 9), 0b1011_0100);
        assert_eq!(lowest(u64::MAX, 64), u64::MAX);
        assert_eq!(each(0b1010).collect::<Vec<_>>(), [0b10, 0b1000]);
    }

    #[test]
    fn a_full_cache_refuses_and_an_emptied_one_does_not() {
        let shared_cache = SharedCache::new();
        for _ in 0..WORDS * BITS {
            assert!(
                shared_cache
                    .put(IdleArena::new(0), Tag::new(3, 0))
                    .is_none()
            );
        }
        assert!(
            shared_cache
                .put(IdleArena::new(0), Tag::new(3, 0))
                .is_some()
        );
        assert_eq!(shared_cache.waiting(), WORDS * BITS);
        let mut taken = 0;
        let none = shared_cache.take(Wanted { class: 1, last: 2 }, 4);
        assert!(none.iter().all(Option::is_none), "of another class");
        for (_, tag) in shared_cache
            .take(Wanted { class: 2, last: 4 }, 4)
            .into_iter()
            .flatten()
        {
            assert_eq!(tag.class(), 3);
            taken += 1;
        }
        assert_eq!((taken, shared_cache.waiting()), (4, WORDS * BITS - 4));
        assert!(
            shared_cache
                .put(IdleArena::new(0), Tag::new(31, 1))
                .is_none()
        );
        shared_cache.sweep(|tag| tag.class() == 3, |_| taken += 1);
        assert_eq!((taken, shared_cache.waiting()), (WORDS * BITS, 1));
    }
}
