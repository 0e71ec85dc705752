use std::cell::Cell;

use super::{
    counters::Counters,
    shared_cache::{SharedCache, SharedCaches},
    thread_cache::{Hot, Share, ThreadCache},
};
use crate::arena::{IdleArena, IdleBlock, PoolHint, Pooled};

/// What a pool keeps: arenas, and the blocks of buffers. Both wait in the same ways, each in places of
/// its own, and share the byte budget.
pub(super) trait Kind: Pooled {
    fn capacity(&self) -> usize;

    fn hint(&self) -> PoolHint;

    /// Marks the item as taken from the pool.
    fn mark_reused(&mut self);

    /// Prepares the item, which is as large as when it was taken, for waiting.
    fn keep_unchanged(&mut self);

    /// Counts bytes that came back, for kinds that count them.
    fn count_returned_bytes(counters: &Counters, bytes: usize);

    /// A thread's items of this kind.
    fn share(cache: &ThreadCache) -> &Share<Self>;

    /// The item returned to the thread last.
    fn hot(hot: &Hot) -> &Cell<Option<Self>>;

    /// The waiting items that belong to no thread.
    fn shared(caches: &SharedCaches) -> &SharedCache<Self>;
}

impl Kind for IdleArena {
    #[inline]
    fn capacity(&self) -> usize {
        self.capacity()
    }

    #[inline]
    fn hint(&self) -> PoolHint {
        self.hint()
    }

    #[inline]
    fn mark_reused(&mut self) {
        self.mark_reused();
    }

    #[inline]
    fn keep_unchanged(&mut self) {
        self.retain_unchanged();
    }

    #[inline]
    fn count_returned_bytes(_: &Counters, _: usize) {}

    #[inline]
    fn share(cache: &ThreadCache) -> &Share<Self> {
        &cache.arenas
    }

    #[inline]
    fn hot(hot: &Hot) -> &Cell<Option<Self>> {
        &hot.arena
    }

    fn shared(caches: &SharedCaches) -> &SharedCache<Self> {
        &caches.arenas
    }
}

impl Kind for IdleBlock {
    #[inline]
    fn capacity(&self) -> usize {
        self.capacity()
    }

    #[inline]
    fn hint(&self) -> PoolHint {
        self.hint()
    }

    #[inline]
    fn mark_reused(&mut self) {
        self.mark_reused();
    }

    #[inline]
    fn keep_unchanged(&mut self) {
        self.cover(false);
    }

    #[inline]
    fn count_returned_bytes(counters: &Counters, bytes: usize) {
        counters.add(&counters.out_bytes, (bytes as u64).wrapping_neg());
    }

    #[inline]
    fn share(cache: &ThreadCache) -> &Share<Self> {
        &cache.blocks
    }

    #[inline]
    fn hot(hot: &Hot) -> &Cell<Option<Self>> {
        &hot.block
    }

    fn shared(caches: &SharedCaches) -> &SharedCache<Self> {
        &caches.blocks
    }
}
