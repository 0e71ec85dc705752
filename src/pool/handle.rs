use super::{
    builder::{PoolBuilder, Settings},
    state::PoolState,
    stats::PoolStats,
};
use crate::{arena::Arena, sync::Arc};

/// A pool of [`Arena`]s.
///
/// Cloning makes another handle to the same pool. Renting never fails: if no arena waits, a new one
/// is made. An arena comes back when its last handle is dropped, on whatever thread that happens;
/// nothing is allocated for that, and no thread waits for another. When the last handle of the pool is
/// gone, the waiting arenas are freed, and those still out when they come back.
///
/// Each thread keeps a few arenas for itself; the others wait on a shelf that all share. An arena that
/// nobody needed for a while is freed: see [`PoolBuilder::trim_interval`]. One of at most 64 KiB stays
/// at hand for each thread that returned one, until the thread rents it or ends.
///
/// # Examples
///
/// ```
/// use tower_memory::ArenaPool;
///
/// let pool = ArenaPool::new();
/// let arena = pool.rent();
/// arena.alloc_str("used once");
/// assert_eq!(pool.stats().rented, 1);
/// drop(arena);
/// assert_eq!((pool.stats().rented, pool.stats().pooled), (0, 1));
///
/// let again = pool.rent();
/// assert_eq!(pool.stats().hits, 1);
/// assert_eq!(again.allocated_bytes(), 0);
/// ```
#[derive(Debug, Clone)]
pub struct ArenaPool {
    handle: Arc<Handle>,
}

/// Closes the pool when it is dropped.
#[derive(Debug)]
struct Handle {
    shared: Arc<PoolState>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl ArenaPool {
    /// A pool with the default limits (see [`PoolBuilder`]).
    #[must_use]
    pub fn new() -> Self {
        Self::with_settings(Settings::DEFAULT)
    }

    /// Settings for a pool.
    pub const fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    pub(super) fn with_settings(settings: Settings) -> Self {
        Self {
            handle: Arc::new(Handle {
                shared: Arc::new(PoolState::new(settings)),
            }),
        }
    }

    /// An arena: one that was used before, or a new one of the pool's initial size.
    #[must_use]
    #[inline]
    pub fn rent(&self) -> Arena {
        let shared = &self.handle.shared;
        Arena::from_raw(shared.rent(shared.classes.any()).activate())
    }

    /// An arena with room for `bytes` bytes, as far as the pool keeps arenas of that size: such a one
    /// that was used before, or a new one, which takes its memory at once with its first allocation.
    ///
    /// Sizes are told apart in steps of two; one up to four times larger than needed will do, or one of
    /// the initial size.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = tower_memory::ArenaPool::new();
    /// let arena = pool.rent_with_capacity(100_000);
    /// arena.alloc_str("first");
    /// assert!(arena.capacity() >= 100_000);
    /// drop(arena);
    /// // Who needs little does not take it away.
    /// assert_eq!(pool.rent_with_capacity(1000).capacity(), 0);
    /// assert!(pool.rent_with_capacity(100_000).capacity() >= 100_000);
    /// ```
    #[must_use]
    pub fn rent_with_capacity(&self, bytes: usize) -> Arena {
        let shared = &self.handle.shared;
        Arena::from_raw(shared.rent(shared.classes.holding(bytes)).activate())
    }

    /// What is in use, what waits, and what was given back so far.
    ///
    /// Counters are kept by each thread and added up here. While others rent and return, each is true
    /// at some moment of the call, and they need not fit each other.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.handle.shared.stats()
    }

    /// Frees all waiting arenas now, those of other threads included, and returns how many bytes
    /// that were.
    ///
    /// Arenas in use are not touched, nor the one small arena (at most 64 KiB) that each other thread
    /// keeps at hand, where nobody else can reach it.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn trim(&self) -> usize {
        self.handle.shared.trim()
    }
}

impl Default for ArenaPool {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::thread;

    use super::*;
    use crate::sync::LOCKED;

    fn used(pool: &ArenaPool) -> Arena {
        let arena = pool.rent();
        arena.alloc_str("something");
        arena
    }

    /// How many locks the calling thread takes to drop these.
    fn locks<T>(values: T) -> usize {
        let before = LOCKED.get();
        drop(values);
        LOCKED.get() - before
    }

    #[test]
    fn an_arena_comes_back_without_a_lock() {
        let pool = ArenaPool::new();
        let before = LOCKED.get();
        let arenas: Vec<Arena> = (0..1100).map(|_| used(&pool)).collect();
        assert_eq!(
            LOCKED.get() - before,
            1100,
            "one for each chunk that is made"
        );
        let [first, second] = [used(&pool), used(&pool)];
        let large = used(&pool);
        large.alloc_slice_fill_with(2 << 20, |_| 1_u8);
        // Into this thread's slots, from there to the shelf, and beyond what the shelf holds.
        assert_eq!(locks(arenas), 0);
        assert_eq!(locks(large), 0, "chunks that are not kept");
        // The first return on a thread, and its end.
        let other = thread::spawn(move || locks(first));
        assert_eq!(other.join().unwrap(), 0);
        drop(pool);
        assert_eq!(locks(second), 0, "to a pool that is closed");
    }

    #[test]
    fn a_closed_pool_is_not_kept_by_a_thread_that_returns_to_it() {
        // Rented by a thread that is gone, so that no other one keeps the pool.
        let renter = thread::spawn(|| {
            let pool = ArenaPool::new();
            let arena = used(&pool);
            (Arc::downgrade(&pool.handle.shared), pool, arena)
        });
        let (shared, pool, arena) = renter.join().unwrap();
        drop(pool);
        assert!(shared.upgrade().is_some(), "by the arena that is out");
        drop(arena);
        assert!(shared.upgrade().is_none());
    }
}
