use super::{
    retention::{PoolBuilder, Retention},
    shelf::{PoolStats, Shelf},
};
use crate::{
    arena::{Arena, Home},
    sync::Arc,
};

/// A pool of [`Arena`]s.
///
/// Cloning makes another handle to the same pool. Renting never fails: if no arena waits, a new one
/// is made. An arena comes back when its last handle is dropped, on whatever thread that happens,
/// and is rewound at once; the pool needs no runtime. When the last handle of the pool is gone, the
/// waiting arenas are freed, and those still out when they come back.
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
    shelf: Arc<Shelf>,
}

impl ArenaPool {
    /// A pool with the default limits (see [`PoolBuilder`]).
    #[must_use]
    pub fn new() -> Self {
        Self::with_retention(Retention::DEFAULT)
    }

    /// Settings for a pool.
    pub const fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    pub(super) fn with_retention(retention: Retention) -> Self {
        Self {
            shelf: Arc::new(Shelf::new(retention)),
        }
    }

    /// An arena: one that was used before, or a new one.
    #[must_use]
    pub fn rent(&self) -> Arena {
        let home: Arc<dyn Home> = Arc::<Shelf>::clone(&self.shelf);
        Arena::from_raw(self.shelf.take().wake(Some(home)))
    }

    /// What is in use, what waits, and what was given back so far.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.shelf.stats()
    }

    /// Frees all waiting arenas now and returns how many bytes that were.
    ///
    /// Arenas in use are not touched.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn trim(&self) -> usize {
        self.shelf.clear()
    }
}

impl Default for ArenaPool {
    fn default() -> Self {
        Self::new()
    }
}
