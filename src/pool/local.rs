//! The calling thread's part of each pool it uses.

use std::cell::{OnceCell, RefCell};

use super::{
    kind::Kind,
    state::PoolState,
    thread_cache::{Hot, ThreadCache},
};
use crate::sync::Arc;

/// Pools that a thread has caches of beside its first. One more, and it leaves the oldest.
const POOLS: usize = 4;

thread_local! {
    static LOCALS: Locals = const {
        Locals {
            first: OnceCell::new(),
            others: RefCell::new([const { None }; POOLS]),
        }
    };
}

struct Locals {
    /// The first pool the thread used. It never changes, so looking it up is cheap. Most programs
    /// have one pool.
    first: OnceCell<Local>,
    /// Newest first.
    others: RefCell<[Option<Local>; POOLS]>,
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

    #[inline]
    fn is_of(&self, pool: usize) -> bool {
        Arc::as_ptr(&self.pool).addr() == pool
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

/// Calls `f` with the calling thread's part of the pool at this address, if that is the first pool
/// the thread used.
///
/// The thread keeps the pool alive, so no other pool can have its address.
#[inline]
pub(super) fn with_first<R>(pool: usize, f: impl FnOnce(&Local) -> Option<R>) -> Option<R> {
    LOCALS
        .try_with(|locals| match locals.first.get() {
            Some(first) if first.is_of(pool) => f(first),
            _ => None,
        })
        .ok()
        .flatten()
}

/// As [`with_first`], for any pool. The thread gets a cache of it if it has none.
///
/// `None` if all caches are owned, or if the thread's locals are already destroyed.
pub(super) fn with_any<R>(pool: &Arc<PoolState>, f: impl FnOnce(&Local) -> R) -> Option<R> {
    let at = Arc::as_ptr(pool).addr();
    leave_closed();
    let mut f = Some(f);
    let mut call = |local: &Local| f.take().map(|f| f(local));
    if let Some(done) = with(at, &mut call) {
        return done;
    }
    enter(pool);
    with(at, call).flatten()
}

/// As [`with_first`], for any pool that the thread has a cache of.
pub(super) fn with<R>(pool: usize, f: impl FnOnce(&Local) -> R) -> Option<R> {
    LOCALS
        .try_with(|locals| {
            match locals.first.get() {
                Some(first) if first.is_of(pool) => return Some(f(first)),
                _ => {}
            }
            let others = locals.others.try_borrow().ok()?;
            let mut others = others.iter().flatten();
            others.find(|local| local.is_of(pool)).map(f)
        })
        .ok()
        .flatten()
}

/// Gives the calling thread a cache of `pool`.
#[cold]
#[inline(never)]
fn enter(pool: &Arc<PoolState>) {
    // Dropped at the end, outside of the borrow: that may free a pool.
    let mut left = None;
    let _ = LOCALS.try_with(|locals| {
        if locals.first.get().is_none() {
            return locals.first.set(Local::new(pool)?).ok();
        }
        let others = &mut *locals.others.try_borrow_mut().ok()?;
        let new = Local::new(pool)?;
        let empty = others.iter().position(Option::is_none);
        let index = empty.unwrap_or(POOLS - 1);
        left = others[index].replace(new);
        others[..=index].rotate_right(1);
        Some(())
    });
}

/// Makes the calling thread leave pools that have closed. It stays in its first pool, and frees the
/// hot arena and block of that.
pub(super) fn leave_closed() {
    // Dropped at the end, outside of the borrow: that may free a pool.
    let mut left: [Option<Local>; POOLS] = [const { None }; POOLS];
    let _ = LOCALS.try_with(|locals| {
        if let Some(first) = locals.first.get().filter(|local| local.has_closed()) {
            let (arena, block) = (first.hot.arena.take(), first.hot.block.take());
            drop(arena.map(|arena| first.pool.evict(None, arena)));
            drop(block.map(|block| first.pool.evict(None, block)));
        }
        let others = &mut *locals.others.try_borrow_mut().ok()?;
        for (other, left) in others.iter_mut().zip(&mut left) {
            if other.as_ref().is_some_and(Local::has_closed) {
                *left = other.take();
            }
        }
        Some(())
    });
}
