//! The calling thread's part of each pool it uses.

use std::cell::{Cell, RefCell};

use super::{
    kind::Kind,
    state::PoolState,
    thread_cache::{Hot, ThreadCache},
};
use crate::sync::Arc;

/// Pools that a thread has caches of. One more, and it leaves the oldest.
const POOLS: usize = 5;

thread_local! {
    static LOCALS: Locals = const {
        Locals {
            parts: [const { Part::new() }; POOLS],
            next: Cell::new(0),
        }
    };
}

struct Locals {
    /// Found by the same few comparisons, so it does not matter which pool the thread used first.
    parts: [Part; POOLS],
    /// Counts the parts that were filled, so that the oldest is left first.
    next: Cell<usize>,
}

struct Part {
    /// Where the pool lies; zero if there is none.
    pool: Cell<usize>,
    /// Borrowed while it is used.
    local: RefCell<Option<Local>>,
}

impl Part {
    const fn new() -> Self {
        Self {
            pool: Cell::new(0),
            local: RefCell::new(None),
        }
    }

    /// Exchanges what is not in use. The former one must be dropped outside of all borrows, since that may
    /// free a pool.
    fn replace(&self, local: &mut Option<Local>) {
        if let Ok(mut here) = self.local.try_borrow_mut() {
            let pool = local.as_ref().map_or(0, Local::address);
            std::mem::swap(&mut *here, local);
            self.pool.set(pool);
        }
    }
}

/// The calling thread's part of one pool, returned when the thread ends.
pub(super) struct Local {
    pub(super) pool: Arc<PoolState>,
    pub(super) cache: Arc<ThreadCache>,
    pub(super) hot: Hot,
}

impl Local {
    fn new(pool: &Arc<PoolState>) -> Option<Self> {
        // A closed pool keeps no arenas, so the thread must not keep the pool.
        if pool.seems_closed() {
            return None;
        }
        let cache = pool.thread_caches.iter().find(|cache| cache.try_own())?;
        Some(Self {
            pool: Arc::clone(pool),
            cache: Arc::clone(cache),
            hot: Hot::default(),
        })
    }

    fn has_closed(&self) -> bool {
        self.pool.seems_closed()
    }

    fn address(&self) -> usize {
        Arc::as_ptr(&self.pool).addr()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        park_all(&self.pool, &self.cache, self.hot.arena.take());
        park_all(&self.pool, &self.cache, self.hot.block.take());
        leave(&self.pool, &self.cache);
    }
}

/// Moves a thread's items of one kind to the shared cache.
pub(super) fn park_all<T: Kind>(pool: &PoolState, cache: &ThreadCache, hot: Option<T>) {
    if let Some(hot) = hot {
        let tag = pool.tag(hot.hint().class.into());
        pool.put_shared(Some(cache), hot, tag);
    }
    while let Some((item, tag)) = T::share(cache).take_with_tag() {
        pool.put_shared(Some(cache), item, tag);
    }
}

/// Ends a thread's use of a pool, after [`park_all`]: its credit is released.
pub(super) fn leave(pool: &PoolState, cache: &ThreadCache) {
    pool.budget.release_credit(cache);
    cache.disown();
    if pool.has_closed() {
        pool.sweep(|_| true);
    }
}

/// Calls `f` with the calling thread's part of the pool at this address, if it has one.
///
/// The thread keeps the pool alive, so no other pool can have its address.
#[inline]
pub(super) fn with<R>(pool: usize, f: impl FnOnce(&Local) -> R) -> Option<R> {
    LOCALS
        .try_with(|locals| {
            let part = locals.parts.iter().find(|part| part.pool.get() == pool)?;
            let local = part.local.try_borrow().ok()?;
            local.as_ref().map(f)
        })
        .ok()
        .flatten()
}

/// As [`with`]. The thread gets a part of the pool if it has none.
///
/// `None` if all caches are owned, or if the thread's locals are already destroyed.
pub(super) fn with_any<R>(pool: &Arc<PoolState>, f: impl FnOnce(&Local) -> R) -> Option<R> {
    let at = Arc::as_ptr(pool).addr();
    let mut f = Some(f);
    let mut call = |local: &Local| f.take().map(|f| f(local));
    if let Some(done) = with(at, &mut call) {
        return done;
    }
    leave_closed();
    enter(pool);
    with(at, call).flatten()
}

/// Gives the calling thread a part of `pool`.
#[cold]
#[inline(never)]
fn enter(pool: &Arc<PoolState>) {
    let mut new = Local::new(pool);
    if new.is_none() {
        return;
    }
    let _ = LOCALS.try_with(|locals| {
        let empty = locals.parts.iter().find(|part| part.pool.get() == 0);
        let next = locals.next.get();
        locals.next.set((next + 1) % POOLS);
        if let Some(part) = empty.or_else(|| locals.parts.get(next)) {
            part.replace(&mut new);
        }
    });
}

/// Makes the calling thread leave pools that have closed, except for one that it uses.
#[cold]
#[inline(never)]
pub(super) fn leave_closed() {
    let _ = LOCALS.try_with(|locals| {
        for part in &locals.parts {
            let closed = match part.local.try_borrow() {
                Ok(local) => local.as_ref().is_some_and(Local::has_closed),
                Err(_) => false,
            };
            let mut left = None;
            if closed {
                part.replace(&mut left);
            }
        }
    });
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use crate::ArenaPool;

    use super::*;

    fn parts() -> Vec<usize> {
        LOCALS.with(|locals| {
            let pools = locals.parts.iter().map(|part| part.pool.get());
            pools.filter(|pool| *pool != 0).collect()
        })
    }

    fn address(pool: &ArenaPool) -> usize {
        Arc::as_ptr(pool.state()).addr()
    }

    #[test]
    fn a_thread_leaves_its_oldest_pool_for_a_sixth_one() {
        let pools: [ArenaPool; POOLS + 2] = std::array::from_fn(|_| ArenaPool::new());
        for (used, pool) in pools.iter().enumerate() {
            drop(pool.rent());
            drop(pool.rent());
            let newest = &pools[(used + 1).saturating_sub(POOLS)..=used];
            let (mut parts, mut expected) =
                (parts(), newest.iter().map(address).collect::<Vec<_>>());
            parts.sort_unstable();
            expected.sort_unstable();
            assert_eq!(parts, expected);
        }
    }

    #[test]
    fn a_thread_leaves_pools_that_have_closed_even_its_first() {
        let (first, second) = (ArenaPool::new(), ArenaPool::new());
        drop((first.rent(), second.rent()));
        assert_eq!(parts(), [address(&first), address(&second)]);
        let waiting = Arc::downgrade(first.state());
        drop(first);
        let third = ArenaPool::new();
        drop(third.rent());
        assert_eq!(parts(), [address(&third), address(&second)]);
        assert!(waiting.upgrade().is_none(), "nothing keeps the pool");
    }

    #[test]
    fn a_thread_that_uses_one_pool_only_leaves_others_that_have_closed_in_time() {
        let (closed, pool) = (ArenaPool::new(), ArenaPool::new());
        drop((closed.rent(), pool.rent()));
        drop(closed);
        for _ in 0..257 {
            drop(pool.rent());
        }
        assert_eq!(parts(), [address(&pool)]);
    }
}
