use super::{budget::ByteBudget, thread_cache::ThreadCache};
use crate::sync::Ordering;

/// Counters of an [`ArenaPool`](super::ArenaPool), in the words of Kestrel's memory pool.
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
/// assert_eq!(stats.allocated_bytes(), stats.pooled_bytes);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Arenas that wait to be used again.
    pub pooled: usize,
    /// Bytes they keep.
    pub pooled_bytes: usize,
    /// Arenas in use.
    pub rented: usize,
    /// Bytes those have taken from the system.
    pub rented_bytes: usize,
    /// Bytes given back to the system so far: above what may be kept, or not used for a while.
    pub evicted_bytes: u64,
    /// How often an arena was taken from those waiting.
    pub hits: u64,
    /// How often none of a suitable size was waiting and a new one was made.
    pub misses: u64,
}

impl PoolStats {
    /// Adds up what the threads have counted.
    pub(super) fn sum<'s, I: Iterator<Item = &'s ThreadCache>>(
        all: impl Fn() -> I,
        budget: &ByteBudget,
    ) -> Self {
        let sum = |figure: fn(&ThreadCache) -> u64| {
            // Relaxed: each part is true at some moment.
            all().fold(0_u64, |sum, cache| sum.wrapping_add(figure(cache)))
        };
        // Returns before rents, so that an arena never comes back before it went out. Acquire: pairs with
        // the release in `Counters::count_return`. What is not ordered makes differences stop at zero.
        let returned = sum(|cache| cache.counters.returned.load(Ordering::Acquire));
        let evicted_bytes = sum(|cache| cache.counters.evicted_bytes.load(Ordering::Relaxed));
        let grown_bytes = sum(|cache| cache.counters.grown_bytes.load(Ordering::Relaxed));
        let hits = sum(|cache| cache.counters.hits.load(Ordering::Relaxed));
        let misses = sum(|cache| cache.counters.misses.load(Ordering::Relaxed));
        let credit = sum(|cache| cache.credit.load(Ordering::Relaxed) as u64);
        let freed = sum(|cache| cache.counters.freed.load(Ordering::Relaxed));
        let pooled_bytes = budget.reserved().saturating_sub(credit as usize);
        // Arenas hold what they took from the system and did not give back.
        let allocated_bytes = grown_bytes.saturating_sub(evicted_bytes) as usize;
        Self {
            // What came back and was neither freed nor taken since.
            pooled: returned.saturating_sub(freed + hits) as usize,
            pooled_bytes,
            rented: (hits + misses).saturating_sub(returned) as usize,
            rented_bytes: allocated_bytes.saturating_sub(pooled_bytes),
            evicted_bytes,
            hits,
            misses,
        }
    }

    /// Bytes taken from the system, in use or waiting.
    #[must_use]
    pub const fn allocated_bytes(&self) -> usize {
        self.pooled_bytes.saturating_add(self.rented_bytes)
    }
}
