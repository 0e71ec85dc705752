use super::{budget::ByteBudget, counters::Counters, kind::Kind, thread_cache::ThreadCache};
use crate::{
    arena::{IdleArena, IdleBlock},
    sync::Ordering,
};

/// Statistics of an [`ArenaPool`](super::ArenaPool), in the terms of Kestrel's memory pool.
///
/// # Examples
///
/// ```
/// use tower_memory::ArenaPool;
///
/// let pool = ArenaPool::new();
/// pool.rent().alloc_str("takes one chunk");
/// let stats = pool.stats();
/// assert_eq!((stats.misses, stats.pooled), (1, 1));
/// assert!(stats.pooled_bytes > 0 && stats.rented_bytes == 0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Arenas that wait in the pool.
    pub pooled: usize,
    /// Blocks of buffers that wait in the pool.
    pub pooled_buffers: usize,
    /// Bytes of the waiting arenas and blocks.
    pub pooled_bytes: usize,
    /// Arenas in use.
    pub rented: usize,
    /// Bytes that arenas in use have taken from the system, without those of their buffers.
    pub rented_bytes: usize,
    /// Blocks of buffers in use: those that are written, and those that were frozen into
    /// [`Bytes`](bytes::Bytes) of which some are not dropped yet, because a server still has to send
    /// them, for example.
    pub buffers: usize,
    /// Bytes of these blocks, the unused ones included.
    pub buffer_bytes: usize,
    /// Bytes freed so far, because of a limit or because they were not used for a while.
    pub evicted_bytes: u64,
    /// How often a waiting arena was rented.
    pub hits: u64,
    /// How often no arena of a suitable size waited, so that a new one was made.
    pub misses: u64,
    /// How often a waiting block was taken.
    pub buffer_hits: u64,
    /// How often no block of a suitable size waited, so that a new one was made.
    pub buffer_misses: u64,
}

/// The counters of one kind of items, added up.
struct Totals {
    in_use: usize,
    pooled: usize,
    hits: u64,
    misses: u64,
    evicted_bytes: u64,
    grown_bytes: u64,
    /// Bytes of blocks that were taken and not returned; wraps.
    out_bytes: u64,
}

impl Totals {
    fn of<'a, T: Kind + 'a>(caches: &(impl Iterator<Item = &'a ThreadCache> + Clone)) -> Self {
        let sum = |count: fn(&Counters) -> u64| {
            // Relaxed: each number was correct at some moment.
            caches.clone().fold(0_u64, |sum, cache| {
                sum.wrapping_add(count(&T::share(cache).counters))
            })
        };
        // Returns are read before rents, so no item seems returned before it was rented. Acquire:
        // pairs with the release in `Counters::count_return`. The other reads are not ordered, so
        // differences saturate at zero.
        let returned = sum(|counters| counters.returned.load(Ordering::Acquire));
        let evicted_bytes = sum(|counters| counters.evicted_bytes.load(Ordering::Relaxed));
        let grown_bytes = sum(|counters| counters.grown_bytes.load(Ordering::Relaxed));
        let hits = sum(|counters| counters.hits.load(Ordering::Relaxed));
        let misses = sum(|counters| counters.misses.load(Ordering::Relaxed));
        let freed = sum(|counters| counters.freed.load(Ordering::Relaxed));
        let out_bytes = sum(|counters| counters.out_bytes.load(Ordering::Relaxed));
        Self {
            in_use: (hits + misses).saturating_sub(returned) as usize,
            // Returned, and neither freed nor rented since.
            pooled: returned.saturating_sub(freed + hits) as usize,
            hits,
            misses,
            evicted_bytes,
            grown_bytes,
            out_bytes,
        }
    }
}

impl PoolStats {
    /// What has happened since `earlier`, and what is there now.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let less = u64::saturating_sub;
        Self {
            evicted_bytes: less(self.evicted_bytes, earlier.evicted_bytes),
            hits: less(self.hits, earlier.hits),
            misses: less(self.misses, earlier.misses),
            buffer_hits: less(self.buffer_hits, earlier.buffer_hits),
            buffer_misses: less(self.buffer_misses, earlier.buffer_misses),
            ..*self
        }
    }

    /// Adds up the counters of all threads.
    pub(super) fn sum<'a>(
        caches: &(impl Iterator<Item = &'a ThreadCache> + Clone),
        budget: &ByteBudget,
    ) -> Self {
        let arenas = Totals::of::<IdleArena>(caches);
        let blocks = Totals::of::<IdleBlock>(caches);
        let credit = caches.clone().fold(0_usize, |sum, cache| {
            sum.wrapping_add(cache.credit.load(Ordering::Relaxed))
        });
        let pooled_bytes = budget.reserved().saturating_sub(credit);
        let evicted_bytes = arenas.evicted_bytes + blocks.evicted_bytes;
        let grown_bytes = arenas.grown_bytes + blocks.grown_bytes;
        // Negative for a moment if a return is read and its rent is not.
        let buffer_bytes = (blocks.out_bytes as i64).max(0) as usize;
        // Taken from the system and not freed.
        let allocated_bytes = grown_bytes.saturating_sub(evicted_bytes) as usize;
        Self {
            pooled: arenas.pooled,
            pooled_buffers: blocks.pooled,
            pooled_bytes,
            rented: arenas.in_use,
            rented_bytes: allocated_bytes.saturating_sub(pooled_bytes + buffer_bytes),
            buffers: blocks.in_use,
            buffer_bytes,
            evicted_bytes,
            hits: arenas.hits,
            misses: arenas.misses,
            buffer_hits: blocks.hits,
            buffer_misses: blocks.misses,
        }
    }
}
