//! How arenas come back to their pool. The first of these that may keep the arena, and has room:
//!
//! 1. the calling thread's hot arena, which it replaces,
//! 2. its thread cache, from where up to [`BATCH`](super::shared_cache::BATCH) arenas move to the
//!    shared cache if it is full,
//! 3. the shared cache.
//!
//! Above the pool's limits an arena is freed.

use super::{
    local::{self, Local},
    shared_cache::Batch,
    state::PoolState,
    tag::Tag,
    thread_cache::ThreadCache,
};
use crate::{
    arena::{IdleArena, PoolHint, Recycler, Retain},
    sync::{Arc, Ordering},
};

/// Returns before a thread keeps an arena hot: under light load, one arena serves all threads.
const HOT_AFTER: u64 = 64;

/// Larger arenas wait where other threads can take and trim them.
const MAX_HOT: usize = 64 * 1024;

// `ArenaPool`, its `trim` and `PoolBuilder::trim_interval` say so.
const _: () = assert!(MAX_HOT == 64 << 10);

impl Recycler for PoolState {
    fn recycle(arena: IdleArena, pool: usize) {
        let mut arena = Some(arena);
        let kept = local::with_first(pool, |local| local.pool.keep_hot(local, &mut arena));
        if kept.is_none() {
            recycle_cold(arena, pool);
        }
    }

    fn recycle_owned(self: Arc<Self>, arena: IdleArena) {
        let mut arena = Some(arena);
        let refused = local::with_any(&self, |local| {
            if self.keep_hot(local, &mut arena).is_some() {
                return None;
            }
            self.return_cached(arena.take()?, Some(&local.cache))
        });
        drop(refused.flatten());
        drop(arena.and_then(|arena| self.return_cached(arena, None)));
    }

    fn grew(&self, bytes: usize) {
        let counters = self.counters(None);
        counters.add(&counters.grown_bytes, bytes as u64);
    }
}

/// Returns an arena that cannot be kept hot.
#[cold]
#[inline(never)]
fn recycle_cold(mut arena: Option<IdleArena>, pool: usize) {
    let refused = local::with_first(pool, |local| {
        let arena = arena.take()?;
        Some(local.pool.return_cached(arena, Some(&local.cache)))
    });
    // Freed outside of the pool's own code: with the arena, the pool may go.
    drop(refused.flatten());
    if let Some(arena) = arena {
        arena.recycle_owned();
    }
}

impl PoolState {
    /// Keeps an arena hot if it has not changed since it was rented. `arena` is then `None`.
    #[inline]
    fn keep_hot(&self, local: &Local, arena: &mut Option<IdleArena>) -> Option<()> {
        let returned = arena.as_mut()?;
        let hint = returned.hint();
        let ThreadCache {
            counters, credit, ..
        } = &*local.cache;
        // Relaxed: one writer.
        let left = credit.load(Ordering::Relaxed);
        let returns = counters.returned.load(Ordering::Relaxed);
        // At the same capacity it has the same single chunk, and the hint is still valid.
        if !hint.hot
            || hint.capacity != returned.capacity()
            || hint.capacity > left
            || returns < HOT_AFTER
            || self.seems_closed()
        {
            return None;
        }
        returned.retain_unchanged();
        credit.store(left - hint.capacity, Ordering::Relaxed);
        counters.count_return(returns);
        if let Some(former) = local.hot.replace(arena.take()) {
            self.cool_down(&local.cache, former);
        }
        Some(())
    }

    /// Moves a hot arena to where other threads can take it.
    #[cold]
    #[inline(never)]
    fn cool_down(&self, cache: &ThreadCache, arena: IdleArena) {
        let tag = self.tag(arena.hint().class.into());
        drop(self.park(Some(cache), arena, tag));
    }

    /// Returns an arena to the caches. The result, if any, is to be freed.
    pub(super) fn return_cached(
        &self,
        mut arena: IdleArena,
        cache: Option<&ThreadCache>,
    ) -> Option<IdleArena> {
        let counters = self.counters(cache);
        let before = arena.capacity();
        let hint = arena.hint();
        // It has the one chunk with which it was kept before.
        let unchanged = before > 0 && hint.capacity == before && !self.settings.wipe;
        if unchanged {
            arena.retain_unchanged();
        } else {
            arena.retain(Retain {
                most: self.settings.max_arena_bytes,
                wipe: self.settings.wipe,
            });
        }
        let kept = arena.capacity();
        counters.add_return();
        // An arena without memory is not worth a slot.
        let keeps = kept > 0
            && self.settings.enabled
            && !self.seems_closed()
            && self.budget.reserve(cache, kept);
        if !keeps {
            counters.add(&counters.evicted_bytes, before as u64);
            counters.add(&counters.freed, 1);
            return Some(arena);
        }
        let class = if unchanged {
            hint.class.into()
        } else {
            counters.add(&counters.evicted_bytes, (before - kept) as u64);
            self.set_hint(&mut arena)
        };
        self.park(cache, arena, self.tag(class))
    }

    /// Updates the hint of an arena, and returns its class.
    #[cold]
    fn set_hint(&self, arena: &mut IdleArena) -> usize {
        let capacity = arena.capacity();
        let class = self.classes.of(capacity);
        arena.set_hint(PoolHint {
            capacity,
            class: class as u8,
            hot: capacity <= MAX_HOT && !self.settings.wipe,
        });
        class
    }

    /// Puts an arena whose bytes are reserved where other threads can take it. The result, if any,
    /// is to be freed.
    fn park(&self, cache: Option<&ThreadCache>, arena: IdleArena, tag: Tag) -> Option<IdleArena> {
        let refused = match cache {
            Some(cache) => cache.put(arena, tag).and_then(|arena| {
                self.spill(cache);
                cache.put(arena, tag)
            }),
            None => Some(arena),
        };
        let refused = refused.and_then(|arena| self.shared_cache.put(arena, tag));
        // The pool may have closed meanwhile, and its sweep may have passed this cache. A thread
        // with a cache may miss that here: it sweeps when it ends or leaves the pool. A thread
        // without one has only this occasion.
        if self.seems_closed() || (cache.is_none() && self.has_closed()) {
            self.trim();
        }
        refused.map(|arena| self.evict(cache, arena))
    }

    /// Moves some arenas of a thread cache to the shared cache.
    #[cold]
    #[inline(never)]
    fn spill(&self, cache: &ThreadCache) {
        let mut batch: Batch = std::array::from_fn(|_| cache.take_with_tag());
        self.shared_cache.put_all(&mut batch);
        for (refused, _) in batch.into_iter().flatten() {
            drop(self.evict(Some(cache), refused));
        }
    }
}
