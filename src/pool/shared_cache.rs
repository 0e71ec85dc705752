//! Waiting arenas, or blocks, that belong to no thread.

use super::{
    class::{CLASSES, Wanted},
    tag::Tag,
};
use crate::{
    arena::{Bank, IdleArena, IdleBlock, Pooled},
    sync::{AtomicUsize, Ordering},
};

/// The empty slots, a set of the [`Bank`].
const FREE: usize = 0;

/// The slots with items of `class`.
const fn full(class: usize) -> usize {
    1 + class
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
    slots: Bank<T>,
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
        // `PoolBuilder::max_total_bytes` says so.
        const { assert!(Bank::<IdleArena>::SLOTS == 1024 || cfg!(tower_memory_loom)) };
        Self {
            slots: Bank::new(full(CLASSES)),
            known: AtomicUsize::new(0),
        }
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
            let Some(mut claim) = self.slots.claim(FREE, count) else {
                return;
            };
            // Slots of one class are passed on in one step; most batches have one class.
            let (mut class, mut filled) = (0, 0);
            for (item, slot) in batch
                .iter_mut()
                .filter(|item| item.is_some())
                .zip(claim.slots())
            {
                let Some((given, tag)) = item.take() else {
                    continue;
                };
                if tag.class() != class && filled != 0 {
                    claim.pass_to(full(class), filled);
                    self.knows(class);
                    filled = 0;
                }
                class = tag.class();
                *item = claim
                    .put(slot, given, tag.bits())
                    .map(|refused| (refused, tag));
                filled |= slot;
            }
            claim.pass_all_to(full(class));
            self.knows(class);
        }
    }

    /// Items of `class` wait.
    fn knows(&self, class: usize) {
        // Relaxed: a hint. After the first time, the load avoids the locked instruction.
        if self.known.load(Ordering::Relaxed) & (1 << class) == 0 {
            self.known.fetch_or(1 << class, Ordering::Relaxed);
        }
    }

    /// Takes up to `most` items of one wanted class, and at most [`BATCH`].
    pub(super) fn take(&self, wanted: Wanted, most: u32) -> Batch<T> {
        let mut batch = [const { None }; BATCH];
        let most = most.min(BATCH as u32);
        let known = self.known.load(Ordering::Relaxed);
        let claimed = (wanted.class..=wanted.last.min(CLASSES - 1))
            .filter(|class| known & (1 << class) != 0)
            .find_map(|class| self.slots.claim(full(class), most));
        let Some(mut claim) = claimed else {
            return batch;
        };
        for (taken, slot) in batch.iter_mut().zip(claim.slots()) {
            let item = claim.take(slot);
            *taken = item.map(|(item, tag)| (item, Tag::from_bits(tag)));
        }
        claim.pass_all_to(FREE);
        batch
    }

    /// Takes all items with a stale tag, one by one.
    pub(super) fn sweep(&self, stale: impl Fn(Tag) -> bool, mut taken: impl FnMut(T)) {
        for class in 0..CLASSES {
            let seems_stale = |tag| stale(Tag::from_bits(tag));
            for mut claim in self.slots.claim_each(full(class), seems_stale) {
                let Some(slot) = claim.slots().next() else {
                    continue;
                };
                // The slot may hold another item by now.
                if claim.tag(slot).map(Tag::from_bits).is_some_and(&stale) {
                    let item = claim.take(slot);
                    claim.pass_all_to(FREE);
                    if let Some((item, _)) = item {
                        taken(item);
                    }
                } else {
                    claim.pass_all_to(full(class));
                }
            }
        }
    }

    /// The number of waiting items.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        (0..CLASSES)
            .map(|class| self.slots.count(full(class)))
            .sum()
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    const SLOTS: usize = Bank::<IdleArena>::SLOTS;

    #[test]
    fn a_full_cache_refuses_and_an_emptied_one_does_not() {
        let shared_cache = SharedCache::new();
        for _ in 0..SLOTS {
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
        assert_eq!(shared_cache.waiting(), SLOTS);
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
        assert_eq!((taken, shared_cache.waiting()), (4, SLOTS - 4));
        assert!(
            shared_cache
                .put(IdleArena::new(0), Tag::new(31, 1))
                .is_none()
        );
        shared_cache.sweep(|tag| tag.class() == 3, |_| taken += 1);
        assert_eq!((taken, shared_cache.waiting()), (SLOTS, 1));
    }
}
