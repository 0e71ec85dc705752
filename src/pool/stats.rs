use super::{budget::ByteBudget, thread_cache::ThreadCache};
use crate::sync::Ordering;

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
    /// Bytes of the waiting arenas.
    pub pooled_bytes: usize,
    /// Arenas in use.
    pub rented: usize,
    /// Bytes that arenas in use have taken from the system.
    pub rented_bytes: usize,
    /// Bytes freed so far, because of a limit or because they were not used for a while.
    pub evicted_bytes: u64,
    /// How often a waiting arena was rented.
    pub hits: u64,
    /// How often no arena of a suitable size waited, so that a new one was made.
    pub misses: u64,
}

impl PoolStats {
    /// Adds up the counters of all threads.
    pub(super) fn sum<'a>(
        caches: &(impl Iterator<Item = &'a ThreadCache> + Clone),
        budget: &ByteBudget,
    ) -> Self {
        let sum = |count: fn(&ThreadCache) -> u64| {
            // Relaxed: each number was correct at some moment.
            caches
                .clone()
                .fold(0_u64, |sum, cache| sum.wrapping_add(count(cache)))
        };
        // Returns are read before rents, so no arena seems returned before it was rented. Acquire:
        // pairs with the release in `Counters::count_return`. The other reads are not ordered, so
        // differences saturate at zero.
        let returned = sum(|cache| cache.counters.returned.load(Ordering::Acquire));
        let evicted_bytes = sum(|cache| cache.counters.evicted_bytes.load(Ordering::Relaxed));
        let grown_bytes = sum(|cache| cache.counters.grown_bytes.load(Ordering::Relaxed));
        let hits = sum(|cache| cache.counters.hits.load(Ordering::Relaxed));
        let misses = sum(|cache| cache.counters.misses.load(Ordering::Relaxed));
        let credit = sum(|cache| cache.credit.load(Ordering::Relaxed) as u64);
        let freed = sum(|cache| cache.counters.freed.load(Ordering::Relaxed));
        let pooled_bytes = budget.reserved().saturating_sub(credit as usize);
        // Taken from the system and not freed.
        let allocated_bytes = grown_bytes.saturating_sub(evicted_bytes) as usize;
        Self {
            // Returned, and neither freed nor rented since.
            pooled: returned.saturating_sub(freed + hits) as usize,
            pooled_bytes,
            rented: (hits + misses).saturating_sub(returned) as usize,
            rented_bytes: allocated_bytes.saturating_sub(pooled_bytes),
            evicted_bytes,
            hits,
            misses,
        }
    }
}
