//! What of a pool belongs to the calling thread.

use std::cell::{Cell, OnceCell, RefCell};

use super::{state::PoolState, thread_cache::ThreadCache};
use crate::{
    arena::IdleArena,
    sync::{Arc, Ordering},
};

/// Pools a thread has slots of at once, beside its first. With more of them, the oldest gives way.
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
    /// The first pool that the thread used. Most programs have one, so it has a way of its own that
    /// is never changed.
    first: OnceCell<Local>,
    /// The one entered last is the first.
    others: RefCell<[Option<Local>; POOLS]>,
}

/// The calling thread's part of one pool; given back when it ends.
pub(super) struct Local {
    pub(super) pool: Arc<PoolState>,
    pub(super) cache: Arc<ThreadCache>,
    /// The arena that came back last, if it is small. Nobody else can reach it, so it changes hands
    /// without atomic operations.
    pub(super) hot: Cell<Option<IdleArena>>,
}

impl Local {
    fn new(pool: &Arc<PoolState>) -> Option<Self> {
        // A pool that has closed keeps nothing any more, so the thread need not keep it.
        if pool.closed.load(Ordering::Relaxed) {
            return None;
        }
        let cache = pool.thread_caches.iter().find(|cache| cache.try_own())?;
        Some(Self {
            pool: Arc::clone(pool),
            cache: Arc::clone(cache),
            hot: Cell::new(None),
        })
    }

    #[inline]
    fn is_of(&self, pool: usize) -> bool {
        Arc::as_ptr(&self.pool).addr() == pool
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.pool.leave(&self.cache, self.hot.take());
    }
}

/// Calls `f` with the calling thread's part of the pool at this address, if that is the first pool
/// the thread used.
///
/// The thread keeps the pool alive, so no other pool can have its address.
#[inline]
pub(super) fn with_first<R>(pool: usize, f: impl FnOnce(&Local) -> Option<R>) -> Option<R> {
    LOCALS
        .try_with(|local| match local.first.get() {
            Some(first) if first.is_of(pool) => f(first),
            _ => None,
        })
        .ok()
        .flatten()
}

/// As [`with_first`], for any pool: the thread gets slots of it if it has none.
///
/// In vain if all are taken, or the thread is at its very end.
pub(super) fn with_any<R>(pool: &Arc<PoolState>, f: impl FnOnce(&Local) -> R) -> Option<R> {
    let at = Arc::as_ptr(pool).addr();
    let mut f = Some(f);
    let mut call = |local: &Local| f.take().map(|f| f(local));
    if let Some(done) = with(at, &mut call) {
        return done;
    }
    enter(pool);
    with(at, call).flatten()
}

/// As [`with_first`], for any pool of which the thread has slots.
pub(super) fn with<R>(pool: usize, f: impl FnOnce(&Local) -> R) -> Option<R> {
    LOCALS
        .try_with(|local| {
            match local.first.get() {
                Some(first) if first.is_of(pool) => return Some(f(first)),
                _ => {}
            }
            let others = local.others.try_borrow().ok()?;
            others
                .iter()
                .flatten()
                .find(|local| local.is_of(pool))
                .map(f)
        })
        .ok()
        .flatten()
}

/// Gives the calling thread slots of `pool`, and takes from it those of pools that have closed.
#[cold]
#[inline(never)]
fn enter(pool: &Arc<PoolState>) {
    // Dropped at the end, outside of the borrow: that may free a pool.
    let mut left: [Option<Local>; POOLS + 1] = [const { None }; POOLS + 1];
    let _ = LOCALS.try_with(|local| {
        if local.first.get().is_none() {
            return local.first.set(Local::new(pool)?).ok();
        }
        let others = &mut *local.others.try_borrow_mut().ok()?;
        for (other, left) in others.iter_mut().zip(&mut left) {
            // Relaxed: one that closes this moment is left the next time.
            let closed = |local: &Local| local.pool.closed.load(Ordering::Relaxed);
            if other.as_ref().is_some_and(closed) {
                *left = other.take();
            }
        }
        let new = Local::new(pool)?;
        let empty = others.iter().position(Option::is_none);
        // With too many of them, the one entered first gives way.
        let place = empty.unwrap_or(POOLS - 1);
        let former = others.get_mut(place)?.replace(new);
        if let Some(left) = left.last_mut() {
            *left = former;
        }
        others.get_mut(..=place)?.rotate_right(1);
        Some(())
    });
}
